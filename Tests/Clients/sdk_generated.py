"""The tests that come with the SDK's source, generated for a mock server, run unchanged against the daemon.

Beside REMFS_CLIENT_URL: REMFS_CLIENT_SDK is the unpacked source. The tests name things that do not exist (`memory_store_id`) and send what the
contract refuses (an update of nothing, a limit of 0), since their mock server takes everything. So a stand-in for it is between them and
the daemon: for each request it makes the things that are named, and puts what the contract takes in the place of what it refuses. What comes
back is the daemon's answer as it is, which the tests hold against the SDK's types, loosely and strictly, with three HTTP clients.
"""

import hashlib
import http.client
import http.server
import json
import os
import sys
import threading
import urllib.parse

import anthropic
import pytest

import wire
from wire import Daemon, expect

DIRECTORY = "tests/api_resources/beta"
FILES = ["test_memory_stores.py", "memory_stores", "test_sessions.py", "sessions", "test_dreams.py"]
# What the contract refuses altogether (7.7, and no model to dream with), and how: the answer has to be this refusal.
REFUSED = {
    **{("TestResources", method): anthropic.BadRequestError for method in ["add", "update", "delete"]},
    ("TestDreams", "create"): anthropic.BadRequestError,
    **{("TestDreams", method): anthropic.NotFoundError for method in ["retrieve", "cancel", "archive"]},
}
HASH = hashlib.sha256(b"made").hexdigest()


def fitted(daemon, method, path, query, body):
    """The request as the daemon takes it, on things that have been made for it."""
    parts = path.split("/")[1:]
    query = [(name, value) for name, value in query if (name, value) not in [("limit", "0"), ("page", "page")]]
    query = [(name, {"path_prefix": "/", "expected_content_sha256": HASH}.get(name, value)) for name, value in query]
    below = parts[3:4]
    if parts[1] == "memory_stores" and len(parts) > 2:
        store = daemon.store("generated")
        parts[2] = store.split("/")[-1]
        if len(parts) > 4:
            memory = daemon.memory(store, "/made", "made")
            parts[4] = memory["id"] if below == ["memories"] else memory["memory_version_id"]
        if below == ["memory_versions"] and len(parts) > 4:
            daemon.made(f"{store}/memories/{memory['id']}", {"content": "later"})
        if below == ["memories"] and method == "POST":
            body = body or {"content": "an update of nothing is refused"}
            if "path" in body:
                body["path"] = "/" + body["path"].strip("/")
            if "precondition" in body:
                body["precondition"]["content_sha256"] = HASH
    elif parts[1] == "sessions":
        store = daemon.store("generated").split("/")[-1]
        if len(parts) > 2:
            resources = [{"type": "memory_store", "memory_store_id": store}]
            session = daemon.made("/v1/sessions", {"agent": "a", "environment_id": "e", "resources": resources})["id"]
            parts[2] = session
        if len(parts) > 4 and below in (["resources"], ["threads"]):
            parts[4] = store if below == ["resources"] else daemon.seen(f"/v1/sessions/{session}/threads")["data"][0]["id"]
        if method == "POST" and len(parts) <= 3 and body:
            body = {name: value for name, value in body.items() if name != "budget" and (name not in ("agent", "vault_ids") or len(parts) == 2)}
            if "resources" in body:
                body["resources"] = [{"type": "memory_store", "memory_store_id": store}]
    elif parts[1] == "dreams" and len(parts) > 2:
        parts[2] = "drm_01" + "1" * 22
    return "/" + "/".join(parts) + ("?" + urllib.parse.urlencode(query) if query else ""), body


class StandIn(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answered = []

    def log_message(self, *_):
        pass

    def answer(self):
        at = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        daemon = Daemon()
        query = urllib.parse.parse_qsl(at.query, keep_blank_values=True)
        target, fitting = fitted(daemon, self.command, at.path, query, json.loads(body) if body else None)
        lines = [f"{name}: {value}" for name, value in self.headers.items()
                 if name.lower() not in ("host", "content-length", "connection", "accept-encoding", "authorization", "x-api-key")]
        if target.split("?")[0].endswith("/stream"):
            return self.stream(daemon, target, lines)
        answer = daemon.send(self.command, target, fitting, lines)
        daemon.close()
        self.answered.append(answer.status)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def stream(self, daemon, target, lines):
        """The head of a stream, and its end: what it would bring is another test's matter."""
        connection = daemon.connect()
        key = [f"Authorization: Bearer {daemon.key}"] if daemon.key else []
        connection.sendall("\r\n".join([f"GET {target} HTTP/1.1", f"Host: {daemon.host}", *key, *lines, "", ""]).encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        self.answered.append(response.status)
        self.send_response(response.status)
        for name in ["content-type", "request-id"]:
            self.send_header(name, response.getheader(name))
        self.send_header("connection", "close")
        self.end_headers()
        connection.close()
        self.close_connection = True

    do_GET = do_POST = do_DELETE = answer


class Plugin:
    """What the tests' own `conftest.py` gives them, and the count of how they ended."""

    def __init__(self, url):
        self.url = url
        self.ended = {}

    def pytest_collection_modifyitems(self, items):
        from pytest_asyncio import is_async_test

        for item in items:
            # Skipped for the sake of the mock server.
            item.own_markers = [mark for mark in item.own_markers if mark.name != "skip"]
            if is_async_test(item):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)

    @pytest.fixture(scope="session")
    def client(self, request):
        with anthropic.Anthropic(base_url=self.url, api_key="x", _strict_response_validation=request.param) as client:
            yield client

    @pytest.fixture(scope="session")
    async def async_client(self, request):
        settings = {"_strict_response_validation": request.param} if isinstance(request.param, bool) else {
            "_strict_response_validation": True, "http_client": anthropic.DefaultAioHttpClient()}
        async with anthropic.AsyncAnthropic(base_url=self.url, api_key="x", **settings) as client:
            yield client

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if call.when == "call" or report.outcome != "passed":
            kind = item.cls.__name__.replace("Async", "")
            method = item.name.split("[")[0].removesuffix("_with_all_params").removesuffix("_overload_1").split("_", 3)[-1]
            refusal = REFUSED.get((kind, method)) if "path_params" not in item.name else None
            how = call.excinfo.type if call.excinfo else None
            what = f"{item.nodeid.split('::', 1)[1]}: {call.excinfo.exconly()[:300] if call.excinfo else 'passed'}"
            expect((report.outcome if not refusal else None, how), (None if refusal else "passed", refusal), what)
            self.ended[item.nodeid] = report.outcome
        return report


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.chdir(os.environ["REMFS_CLIENT_SDK"])
    sys.path.insert(0, os.getcwd())
    pytest.register_assert_rewrite("tests.utils")
    plugin = Plugin(f"http://127.0.0.1:{server.server_port}")
    os.environ["TEST_API_BASE_URL"] = plugin.url
    arguments = ["-q", "--tb=no", "--no-header", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "asyncio_mode=auto",
                 "-o", "asyncio_default_fixture_loop_scope=session", "-o", "filterwarnings="]
    pytest.main(arguments + [f"{DIRECTORY}/{name}" for name in FILES], plugins=[plugin])
    expect(len(plugin.ended) >= 900, True, f"{len(plugin.ended)} tests ran")
    expect(set(StandIn.answered) <= {200, 400, 404}, True, f"answers {set(StandIn.answered)}")
    wire.report(f"{len(plugin.ended)} of the SDK's generated tests")


if __name__ == "__main__":
    main()
