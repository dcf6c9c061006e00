"""HTTP to a daemon without a library, and the bookkeeping of a contract's checks.

The daemon is named by REMFS_TEST_URL: `unix:PATH` or `http://HOST:PORT`, with REMFS_TEST_KEY where one is needed.
A case is a function that got `@case(section)`; it takes a `Daemon` and calls `expect`, which notes a failure and goes on.
"""

import json
import os
import re
import socket
import sys
import traceback
import urllib.parse

TYPES = {
    400: {"invalid_request_error"},
    401: {"authentication_error"},
    403: {"permission_error"},
    404: {"not_found_error"},
    405: {"invalid_request_error"},
    409: {"memory_precondition_failed_error", "memory_path_conflict_error", "conflict_error"},
    413: {"request_too_large"},
}
ID = re.compile(r"01[1-9A-HJ-NP-Za-km-z]{20,24}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

cases = []
checks = 0
wrong = []
_case = ""
_requests = set()


def case(section):
    """Registers a case of one section of the contract."""

    def register(function):
        cases.append((section, function))
        return function

    return register


def expect(actual, wanted, what):
    """Notes whether what was found is what the contract says."""
    global checks
    checks += 1
    if actual != wanted:
        wrong.append(f"{_case}: {what}: found {short(actual)}, wanted {short(wanted)}")
    return actual == wanted


def short(value):
    text = repr(value)
    return text if len(text) <= 400 else text[:400] + "..."


class Unanswered(Exception):
    """The connection ended without an answer."""


class Answer:
    """A response. Of each the envelope and the `request-id` have been checked."""

    def __init__(self, status, headers, body, what):
        self.status, self.headers, self.body, self.what = status, headers, body, what
        self._json = None

    @property
    def json(self):
        if self._json is None:
            self._json = json.loads(self.body)
        return self._json

    @property
    def error(self):
        return self.json["error"]


class Daemon:
    """One keep-alive connection to the daemon under test."""

    def __init__(self, url=None, key=None):
        self.url = url or os.environ["REMFS_TEST_URL"]
        self.key = key if key is not None else os.environ.get("REMFS_TEST_KEY")
        self.host = "localhost" if self.url.startswith("unix:") else urllib.parse.urlsplit(self.url).netloc
        self.socket = None
        self.pending = b""

    def connect(self):
        if self.url.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(60)
            connection.connect(self.url[5:])
        else:
            at = urllib.parse.urlsplit(self.url)
            connection = socket.create_connection((at.hostname, at.port), timeout=60)
        return connection

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket, self.pending = None, b""

    def send(self, method, target, body=None, headers=(), *, chunked=False, length=True):
        """One request; a body is bytes, text, or a value that becomes JSON."""
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode("utf-8")
        names = {line.split(":")[0].lower() for line in headers}
        lines = [f"{method} {target} HTTP/1.1"]
        if "host" not in names:
            lines.append(f"Host: {self.host}")
        if self.key and not names & {"authorization", "x-api-key"}:
            lines.append(f"Authorization: Bearer {self.key}")
        lines += headers
        payload = body or b""
        if chunked:
            lines.append("Transfer-Encoding: chunked")
            pieces = [payload[at:at + 5000] for at in range(0, len(payload), 5000)]
            payload = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif body is not None and length:
            lines.append(f"Content-Length: {len(payload)}")
        message = "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + payload
        if self.socket is None:
            self.socket = self.connect()
        try:
            self.socket.sendall(message)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It has answered before it read all: the answer is there to be read.
        return self.receive(method, f"{method} {target[:200]}")

    def receive(self, method, what):
        while b"\r\n\r\n" not in self.pending:
            self.fill(what)
        head, self.pending = self.pending.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        headers = {}
        for line in lines[1:]:
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        if status == 100:
            return self.receive(method, what)
        body = b""
        if method != "HEAD":
            if headers.get("transfer-encoding") == "chunked":
                body = self.chunks(what)
            else:
                length = int(headers.get("content-length", 0))
                while len(self.pending) < length:
                    self.fill(what)
                body, self.pending = self.pending[:length], self.pending[length:]
        if headers.get("connection", "").lower() == "close":
            self.close()
        answer = Answer(status, headers, body, what)
        check_manners(answer, method)
        return answer

    def chunks(self, what):
        body = b""
        while True:
            while b"\r\n" not in self.pending:
                self.fill(what)
            line, self.pending = self.pending.split(b"\r\n", 1)
            size = int(line, 16)
            while len(self.pending) < size + 2:
                self.fill(what)
            body += self.pending[:size]
            self.pending = self.pending[size + 2:]
            if size == 0:
                return body

    def fill(self, what):
        try:
            more = self.socket.recv(1 << 20)
        except ConnectionResetError:
            more = b""
        if not more:
            self.close()
            raise Unanswered(what)
        self.pending += more

    # What cases say most.

    def get(self, path, /, **query):
        return self.send("GET", path + encoded(query))

    def post(self, path, /, body=None, **query):
        return self.send("POST", path + encoded(query), body)

    def delete(self, path, /, **query):
        return self.send("DELETE", path + encoded(query))

    def made(self, path, /, body=None, **query):
        """A POST that has to succeed."""
        answer = self.post(path, body, **query)
        if answer.status != 200:
            raise AssertionError(f"{answer.what}: {answer.status} {answer.body[:300]!r}")
        return answer.json

    def seen(self, path, /, **query):
        """A GET that has to succeed."""
        answer = self.get(path, **query)
        if answer.status != 200:
            raise AssertionError(f"{answer.what}: {answer.status} {answer.body[:300]!r}")
        return answer.json

    def store(self, name="store", **fields):
        """A new store; its path."""
        return "/v1/memory_stores/" + self.made("/v1/memory_stores", {"name": name, **fields})["id"]

    def memory(self, store, path, content=""):
        return self.made(f"{store}/memories", {"path": path, "content": content})

    def pages(self, path, /, **query):
        """The items of all pages, and how many pages there were."""
        items, count, page = [], 0, None
        while True:
            answer = self.seen(path, **query, **({"page": page} if page else {}))
            items += answer["data"]
            count += 1
            page = answer["next_page"]
            if not page:
                return items, count
            if count > 1000:
                raise AssertionError("pages without an end")


def encoded(query):
    """As the SDK encodes: brackets and `+` percent-encoded, booleans as words. `created_at_gte` is `created_at[gte]`."""
    pairs = []
    for name, value in query.items():
        name = re.sub(r"_(gte|lte|gt|lt)$", r"[\1]", name)
        for one in value if isinstance(value, list) else [value]:
            pairs.append((name + "[]" if isinstance(value, list) else name, str(one).lower() if isinstance(one, bool) else str(one)))
    return "?" + urllib.parse.urlencode(pairs) if pairs else ""


def check_manners(answer, method):
    """What 1.4 and 1.5 say of every response."""
    request = answer.headers.get("request-id", "")
    expect(request.startswith("req_") and request not in _requests, True, f"{answer.what}: request-id {request!r}")
    _requests.add(request)
    if method == "HEAD":
        return
    if answer.status < 300:
        return
    expect(answer.status in TYPES, True, f"{answer.what}: status {answer.status}")
    envelope = answer.json
    expect((envelope.get("type"), envelope.get("request_id")), ("error", request), f"{answer.what}: envelope")
    expect(set(envelope), {"type", "error", "request_id"}, f"{answer.what}: keys of the envelope")
    error = envelope["error"]
    expect(error["type"] in TYPES.get(answer.status, ()), True, f"{answer.what}: {answer.status} with {error['type']}")
    expect(isinstance(error["message"], str) and error["message"] != "", True, f"{answer.what}: message")
    expect(answer.headers.get("x-should-retry"), "false" if answer.status == 409 else None, f"{answer.what}: x-should-retry")


def refused(answer, status, what, type=None):
    """Checks that it was refused so. The reason is in the failure's text."""
    found = (answer.status, answer.error["type"] if answer.status >= 400 else answer.body[:200])
    expect(found, (status, type or found[1]), f"{what} ({answer.body[:200]!r})" if answer.status >= 400 else what)


def played(name, function):
    """Runs one function under a name, and notes what it threw."""
    global _case
    _case = name
    try:
        function()
    except Exception:
        wrong.append(f"{_case}: {traceback.format_exc()}")


def report(of):
    """Tells what was wrong, and exits with 1 if anything was."""
    for line in wrong:
        print(f"WRONG {line}")
    print(f"{checks} checks in {of}, {len(wrong)} wrong")
    sys.exit(1 if wrong or not checks else 0)


def run(names):
    """Runs the registered cases, or those whose names were given."""
    chosen = [(section, function) for section, function in cases if not names or function.__name__ in names]
    for section, function in chosen:
        daemon = Daemon()
        played(f"{section} {function.__name__}", lambda: function(daemon))
        daemon.close()
    report(f"{len(chosen)} cases")
