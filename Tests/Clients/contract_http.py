"""`api.md` 1: transport, headers, the envelope, JSON, queries, pages."""

import datetime
import json
import threading

from wire import *

UNKNOWN = "memstore_01" + "1" * 22
BAD_JSON = [
    b"", b" ", b"{", b"}", b"[]", b"null", b"7", b'"x"', b"true", b"{}{}", b'{"name": "x"', b'{"name": "x",}', b"{'name': 'x'}",
    b'{name: "x"}', b'{"name": "x"} x', b'{"name": NaN}', b'{"name": "x" /* c */}', b'\xef\xbb\xbf{"name": "x"}', b'{"name": "\xff"}',
    b'{"name": "\xc3"}', b'{"name": "\xed\xa0\x80"}', b'{"name": "\xc0\xaf"}', b'{"name": "a\nb"}', b'{"name": "\\ud800"}',
    b'{"name": "\\udc00\\ud800"}', b'{"name": "\\ud800x"}', b'{"name": "\\u12"}', b'{"name": "\\x41"}', b'{"name": "x", "name": "y"}',
    b'{"name": "x", "n\\u0061me": "y"}', b'{"name": "x", "metadata": {"k": "1", "k": "2"}}', b'{"name": 01}', b'{"name": 1e999}',
    b'{"name": ' + b"9" * 10_000 + b"}", b'{"name": ' + b"[" * 100_000 + b"}", b'{"name": ' + b'{"a":' * 100_000 + b"}",
    b"[" * 1_000_000, b'{"name": ' + b"[" * 60 + b"]" * 60 + b"}", b"\x00", b'{"name": "x"}\x00', b"name=x",
]
WRONG_TYPES = [7, 1.5, True, [], ["x"], {}, {"a": "b"}]


@case("1.1")
def a_connection_takes_one_request_after_the_other(daemon):
    for number in range(5):
        expect(daemon.get("/v1/memory_stores").status, 200, "request")
        expect(daemon.socket is not None, True, "the connection stays")
        refused(daemon.get(f"/v1/memory_stores/nope{number}"), 404, "an unknown store")
        expect(daemon.socket is not None, True, "the connection stays after a refusal")
        refused(daemon.post("/v1/memory_stores", b"{"), 400, "a malformed body")
        expect(daemon.socket is not None, True, "the connection stays after a malformed body")


@case("1.1")
def the_host_of_a_unix_socket_is_not_looked_at(daemon):
    if not daemon.url.startswith("unix:"):
        return
    for host in ["localhost", "api.example.com", "evil.example:99", "x", "127.0.0.1", "[::1]:80", ""]:
        expect(daemon.send("GET", "/v1/memory_stores", headers=[f"Host: {host}"]).status, 200, f"Host {host!r}")


@case("1.2")
def over_tcp_a_key_and_a_name_of_this_machine_are_needed(daemon):
    if daemon.url.startswith("unix:"):
        return
    bearer, port = f"Authorization: Bearer {daemon.key}", daemon.host.split(":")[-1]
    for host in ["localhost", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST"]:
        expect(daemon.send("GET", "/v1/memory_stores", headers=[bearer, f"Host: {host}"]).status, 200, f"Host {host!r}")
    before = len(daemon.pages("/v1/memory_stores", limit=100)[0])
    for host in ["evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "128.0.0.1", "evil@localhost"]:
        for method, body in [("GET", None), ("POST", {"name": "by a web page"})]:
            answer = daemon.send(method, "/v1/memory_stores", body, [bearer, f"Host: {host}"])
            expect(answer.status in (400, 403), True, f"Host {host!r}: {answer.status}")
    for line in ["Authorization: Bearer ", "Authorization: Bearer x", f"Authorization: Bearer {daemon.key[:-1]}", f"Authorization: Bearer {daemon.key}x",
                 f"Authorization: Basic {daemon.key}", "x-api-key: x", "x-api-key: ", "x-nothing: x"]:
        for method, target, body in [("GET", "/v1/memory_stores", None), ("POST", "/v1/memory_stores", {"name": "no"}), ("GET", "/v1/nowhere", None),
                                     ("GET", "/v1/memory_stores/x", None), ("POST", "/v1/memory_stores", b"{")]:
            key, daemon.key = daemon.key, None
            answer = daemon.send(method, target, body, [line])
            daemon.key = key
            refused(answer, 401, f"{method} {target} with {line[:20]!r}", "authentication_error")
    expect(len(daemon.pages("/v1/memory_stores", limit=100)[0]), before, "nothing was made")


@case("1.1")
def bodies_have_a_length_or_are_chunked(daemon):
    for chunked in [False, True]:
        body = {"name": "x" * 200, "description": "d" * 1000}
        answer = daemon.send("POST", "/v1/memory_stores", body, chunked=chunked)
        expect((answer.status, answer.json.get("name")), (200, "x" * 200), f"chunked {chunked}")
    store = daemon.store()
    content = "\x00" * 102_400
    answer = daemon.send("POST", f"{store}/memories", {"path": "/zero", "content": content}, chunked=True)
    expect((answer.status, answer.json.get("content_size_bytes")), (200, 102_400), "614 kB of escapes")
    got = daemon.seen(f"{store}/memories/{answer.json['id']}")
    expect(got["content"] == content, True, "content of zeros")


@case("1.1")
def answers_need_no_decompression_unless_they_say_so(daemon):
    answer = daemon.send("GET", "/v1/memory_stores", headers=["Accept-Encoding: gzip, deflate"])
    expect(answer.headers.get("content-encoding") in (None, "identity"), True, "content-encoding")
    expect(answer.headers["content-type"].split(";")[0], "application/json", "content-type")


@case("1.2")
def headers_of_sdks_are_accepted(daemon):
    unix = daemon.url.startswith("unix:")
    key = daemon.key or "sk-ant-anything"
    for line in [f"Authorization: Bearer {key}", f"x-api-key: {key}"]:
        expect(daemon.send("GET", "/v1/memory_stores", headers=[line]).status, 200, line.split(":")[0])
    if unix:
        for line in ["Authorization: Bearer ", "Authorization: Basic eDp5", "Authorization: nonsense", "x-api-key: "]:
            expect(daemon.send("GET", "/v1/memory_stores", headers=[line]).status, 200, f"an unknown key is ignored: {line!r}")
    for line in [
        "anthropic-version: 2026-10-21", "anthropic-version: 2023-06-01", "anthropic-version: 1999-01-01",
        "anthropic-beta: agent-memory-2026-07-22", "anthropic-beta: managed-agents-2026-04-01",
        "anthropic-beta: agent-memory-2026-07-22,managed-agents-2026-04-01", "anthropic-beta: nonsense-2020-01-01", "anthropic-beta: ",
        "anthropic-workspace-id: wrkspc_1", "x-stainless-lang: python", "User-Agent: Anthropic/Python 2.12.0",
        "Content-Type: text/plain", "Content-Type: application/json; charset=utf-8", "Content-Type: application/x-www-form-urlencoded",
    ]:
        answer = daemon.send("POST", "/v1/memory_stores", {"name": "x"}, headers=[line])
        expect(answer.status, 200, line)


@case("1.2")
def a_post_may_have_no_body_and_no_type(daemon):
    for lines in [[], ["Content-Length: 0"], ["Content-Length: 0", "Content-Type: application/json"]]:
        store = daemon.store()
        answer = daemon.send("POST", f"{store}/archive", headers=lines)
        expect((answer.status, answer.json.get("archived_at") is not None), (200, True), f"archive with {lines}")


@case("1.2")
def a_query_parameter_beta_is_ignored(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "x")
    for target in ["/v1/memory_stores", store, f"{store}/memories", f"{store}/memories/{memory['id']}", f"{store}/memory_versions"]:
        expect(daemon.get(target, beta=True).status, 200, f"{target}?beta=true")
        expect(daemon.get(target, beta="x", colour="red").status, 200, f"{target}?beta=x&colour=red")
    expect(daemon.post("/v1/memory_stores", {"name": "x"}, beta=True).status, 200, "create")
    expect(daemon.post(f"{store}/archive", beta=True).status, 200, "archive")


@case("1.5")
def unknown_things_are_404(daemon):
    store, other = daemon.store(), daemon.store()
    memory = daemon.memory(store, "/a", "x")
    version = memory["memory_version_id"]
    hash64 = "0" * 64
    for target in [
        "/", "/v1", "/v2/memory_stores", "/v1/memory_store", "/v1/messages", "/v1/memory_stores/x/y/z", f"{store}/nothing", "//", "/%00",
        f"/v1/memory_stores/{UNKNOWN}", "/v1/memory_stores/x", f"/v1/memory_stores/{memory['id']}", "/v1/memory_stores/memstore_",
        f"/v1/memory_stores/{'x' * 5000}", "/v1/memory_stores/%ff", "/v1/memory_stores/..", "/v1/memory_stores/%2e%2e", "/v1/memory_stores/%2F",
        "/v1/memory_stores/memstore_01%00", f"{store}x", f"/v1/memory_stores/{UNKNOWN}/memories", f"/v1/memory_stores/{UNKNOWN}/memory_versions",
        f"{store}/memories/{version}", f"{store}/memories/mem_x", f"{store}/memories/{memory['id']}x", f"{store}/memory_versions/x",
        f"{store}/memory_versions/{memory['id']}", f"{other}/memories/{memory['id']}", f"{other}/memory_versions/{version}",
    ]:
        refused(daemon.get(target), 404, f"GET {target[:80]}", "not_found_error")
    for target in [
        f"/v1/memory_stores/{UNKNOWN}", f"/v1/memory_stores/{UNKNOWN}/memories", f"/v1/memory_stores/{UNKNOWN}/archive",
        f"{store}/memories/mem_x", f"{other}/memories/{memory['id']}", f"{store}/memory_versions/x/redact",
        f"{other}/memory_versions/{version}/redact", f"/v1/memory_stores/{UNKNOWN}/memory_versions/{version}/redact",
    ]:
        for body in [None, b"{", {}, {"colour": 1}, {"name": "x", "content": "y", "path": "/z"}]:
            refused(daemon.send("POST", target, body), 404, f"POST {target} {body}", "not_found_error")
    for target in [f"/v1/memory_stores/{UNKNOWN}", f"{other}/memories/{memory['id']}", f"{store}/memories/x"]:
        refused(daemon.delete(target), 404, f"DELETE {target}", "not_found_error")
        refused(daemon.delete(target, expected_content_sha256=hash64), 404, f"DELETE {target}", "not_found_error")
    expect(daemon.seen(f"{store}/memories/{memory['id']}")["content"], "x", "nothing was changed")


@case("1.5")
def another_method_is_405(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "x")
    for method, target in [
        ("PUT", "/v1/memory_stores"), ("DELETE", "/v1/memory_stores"), ("PATCH", store), ("PUT", store), ("GET", f"{store}/archive"),
        ("DELETE", f"{store}/archive"), ("PUT", f"{store}/memories"), ("DELETE", f"{store}/memories"), ("PATCH", f"{store}/memories/{memory['id']}"),
        ("POST", f"{store}/memory_versions"), ("DELETE", f"{store}/memory_versions/{memory['memory_version_id']}"), ("OPTIONS", store),
        ("PROPFIND", store), ("TRACE", store),
    ]:
        answer = daemon.send(method, target, None)
        refused(answer, 405, f"{method} {target}", "invalid_request_error")
        expect("allow" in answer.headers, True, f"{method} {target}: Allow")
    expect(daemon.seen(f"{store}/memories/{memory['id']}")["content"], "x", "nothing was changed")


@case("1.5")
def head_is_get_without_the_body(daemon):
    store = daemon.store()
    for target, status in [("/v1/memory_stores", 200), (store, 200), (f"{store}/memories", 200), (f"/v1/memory_stores/{UNKNOWN}", 404)]:
        expect(daemon.send("HEAD", target).status, status, f"HEAD {target}")
        expect(daemon.get("/v1/memory_stores", limit=1).status, 200, "the connection is in step")


@case("1.5")
def a_body_over_the_cap_is_413(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "x")
    large = json.dumps({"path": "/large", "content": "x" * (5 << 20)})
    for target in ["/v1/memory_stores", store, f"{store}/memories", f"{store}/memories/{memory['id']}"]:
        for chunked in [False, True]:
            refused(daemon.send("POST", target, large, chunked=chunked), 413, f"5 MiB to {target}, chunked {chunked}", "request_too_large")
            daemon.close()
    cap = 4 << 20
    frame = len(json.dumps({"path": "/cap", "content": ""}))
    at_cap = json.dumps({"path": "/cap", "content": "x" * (cap - frame)})
    refused(daemon.send("POST", f"{store}/memories", at_cap), 400, "4 MiB are read, and are too much for a memory", "invalid_request_error")
    daemon.close()
    refused(daemon.send("POST", f"{store}/memories", at_cap + " "), 413, "4 MiB and a byte", "request_too_large")
    daemon.close()
    expect(len(daemon.seen(f"{store}/memories")["data"]), 1, "nothing was made")


@case("1.6")
def what_is_no_json_object_is_400_and_changes_nothing(daemon):
    store = daemon.store("kept")
    memory = daemon.memory(store, "/a", "x")
    before = daemon.seen(store), daemon.seen(f"{store}/memories/{memory['id']}")
    count = len(daemon.pages("/v1/memory_stores", limit=100)[0])
    for target in ["/v1/memory_stores", store, f"{store}/memories", f"{store}/memories/{memory['id']}"]:
        for text in BAD_JSON:
            refused(daemon.send("POST", target, text), 400, f"{target} {text[:60]!r}", "invalid_request_error")
        for text in [b'{"name": "x", "content": "x", "path": "/q", "colour": 1}', b'{"": 1}', b'{"Name": "x"}', b'{"name ": "x"}']:
            refused(daemon.send("POST", target, text), 400, f"{target}: an unknown key {text!r}", "invalid_request_error")
    expect((daemon.seen(store), daemon.seen(f"{store}/memories/{memory['id']}")), before, "nothing was changed")
    expect(len(daemon.pages("/v1/memory_stores", limit=100)[0]), count, "no store was made")
    expect(len(daemon.seen(f"{store}/memory_versions")["data"]), 1, "no version was made")


@case("1.6")
def json_that_is_right_is_read_right(daemon):
    for text, name in [
        (b'{"name": "\\u00e9\\ud83d\\ude00"}', "\u00e9\U0001f600"), ('{"name": "\u00e9\U0001f600"}'.encode(), "\u00e9\U0001f600"),
        (b' \t\r\n{ "name" : "x" } \n', "x"), (b'{"\\u006eame": "x"}', "x"), (b'{"name": "\\/\\\\\\""}', '/\\"'),
        (b'{"name": "x", "description": null, "metadata": null}', "x"), ('{"name": "e\u0301"}'.encode(), "e\u0301"),
    ]:
        answer = daemon.send("POST", "/v1/memory_stores", text)
        expect((answer.status, answer.json.get("name")), (200, name), repr(text))


@case("1.7")
def times_in_both_spellings_bound_a_list(daemon):
    name = "bounded"
    stores = [daemon.made("/v1/memory_stores", {"name": name}) for _ in range(3)]
    at = stores[1]["created_at"]
    plus = at.replace("Z", "+00:00")
    moment = datetime.datetime.fromisoformat(plus)
    away = moment.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30))).isoformat()
    west = moment.astimezone(datetime.timezone(-datetime.timedelta(hours=8))).isoformat()
    ids = [store["id"] for store in stores]
    for text in [at, plus, away, west, at.lower(), plus.replace("+00:00", "000+00:00")]:
        for encode in [True, False]:
            value = text.replace("+", "%2B").replace(":", "%3A") if encode else text.replace("+", "%2B")
            names = ("created_at%5Bgte%5D", "created_at%5Blte%5D") if encode else ("created_at[gte]", "created_at[lte]")
            after = [store["id"] for store in daemon.seen(f"/v1/memory_stores?limit=100&{names[0]}={value}")["data"]]
            before = [store["id"] for store in daemon.seen(f"/v1/memory_stores?limit=100&{names[1]}={value}")["data"]]
            expect([one in after for one in ids], [False, True, True], f"from {text} on, inclusive ({encode})")
            expect([one in before for one in ids[1:]], [True, False], f"up to {text}, inclusive ({encode})")
            both = daemon.seen(f"/v1/memory_stores?{names[0]}={value}&{names[1]}={value}")["data"]
            expect([store["id"] for store in both], [ids[1]], f"exactly {text} ({encode})")
    for text in ["", "yesterday", "2026", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-22T25:00:00Z", "1700000000", at + "x", at[:-1]]:
        for name in ["created_at[gte]", "created_at[lte]"]:
            answer = daemon.send("GET", "/v1/memory_stores?" + name + "=" + text)
            refused(answer, 400, f"{name}={text}", "invalid_request_error")


@case("1.7")
def booleans_are_words(daemon):
    for text, status in [("true", 200), ("false", 200), ("1", 400), ("yes", 400), ("True", 400), ("", 400)]:
        expect(daemon.get("/v1/memory_stores", include_archived=text).status, status, f"include_archived={text!r}")


@case("1.7")
def a_query_that_is_no_text_is_400(daemon):
    for text in ["page=%ff", "page=%", "page=%4", "page=%zz", "%ff=x", "limit=%00"]:
        refused(daemon.send("GET", f"/v1/memory_stores?{text}"), 400, text, "invalid_request_error")


@case("1.8")
def limits_of_lists(daemon):
    store = daemon.store()
    for target in ["/v1/memory_stores", f"{store}/memories", f"{store}/memory_versions"]:
        for limit in [1, 2, 20, 99, 100]:
            expect(daemon.get(target, limit=limit).status, 200, f"{target}?limit={limit}")
        for limit in [0, -1, 101, 1000, 2**63, -2**63, 10**40, "x", "1.0", "1e1", "", " 1", "0x10", "null"]:
            refused(daemon.get(target, limit=limit), 400, f"{target}?limit={limit}", "invalid_request_error")


@case("1.8")
def cursors_of_other_lists_and_nonsense_are_400(daemon):
    store = daemon.store()
    for number in range(3):
        daemon.memory(store, f"/{number}", "x")
        daemon.store()
    targets = ["/v1/memory_stores", f"{store}/memories", f"{store}/memory_versions"]
    cursors = {target: daemon.seen(target, limit=1)["next_page"] for target in targets}
    for target in targets:
        for other, cursor in cursors.items():
            expect(cursor.startswith("page_"), True, f"{cursor} begins with page_")
            answer = daemon.get(target, page=cursor)
            if other == target:
                expect(answer.status, 200, f"{target} with its own cursor")
            else:
                refused(answer, 400, f"{target} with a cursor of {other}", "invalid_request_error")
        whole = cursors[target]
        for bad in ["page", "page_", "nonsense", "page_nonsense", "page_!!", whole[:-1], whole + "A", whole[5:], "page_" + whole, whole.upper(),
                    "page_AAAA", "page_" + "A" * 5000, "0", "null", store, "page_\u00e9"]:
            answer = daemon.get(target, page=bad)
            # Some changes of a cursor's text leave another that could have been ours; those list something.
            if bad not in (whole[:-1], whole + "A", whole.upper()) or answer.status != 200:
                refused(answer, 400, f"{target}?page={bad[:40]}", "invalid_request_error")


@case("1.8")
def there_is_no_phantom_last_page(daemon):
    store = daemon.store()
    for number in range(6):
        daemon.memory(store, f"/{number}", "x")
    for target in [f"{store}/memories", f"{store}/memory_versions"]:
        for limit in [1, 2, 3, 4, 5, 6, 7]:
            items, pages = daemon.pages(target, limit=limit)
            expect((len(items), len({item["id"] for item in items}), pages), (6, 6, -(-6 // limit)), f"{target}?limit={limit}")
    empty = daemon.store()
    for target in [f"{empty}/memories", f"{empty}/memory_versions"]:
        expect(daemon.seen(target), {"data": [], "next_page": None}, f"{target} with nothing")


@case("1.8")
def pages_default_to_twenty_and_full_ones_are_capped_at_it(daemon):
    store = daemon.store()
    for number in range(25):
        daemon.memory(store, f"/{number:02}", f"text {number}")
    for target in [f"{store}/memories", f"{store}/memory_versions"]:
        for query, count in [({}, 20), ({"limit": 24}, 24), ({"limit": 100}, 25), ({"view": "full"}, 20), ({"view": "full", "limit": 100}, 20),
                             ({"view": "full", "limit": 7}, 7), ({"view": "basic", "limit": 100}, 25)]:
            page = daemon.seen(target, **query)
            expect((len(page["data"]), page["next_page"] is not None), (count, count < 25), f"{target} {query}")
        items, pages = daemon.pages(target, view="full", limit=100)
        expect((len(items), pages), (25, 2), f"{target}: all, in full")
        expect(all(item["content"] is not None for item in items), True, f"{target}: content in full")


@case("1.8")
def pages_of_stores_survive_what_comes_and_goes(daemon):
    """Newest first: what is made later is not on later pages; what goes is skipped, also where a page ended."""
    ids = [daemon.made("/v1/memory_stores", {"name": f"{number}"})["id"] for number in range(8)][::-1]
    first = daemon.seen("/v1/memory_stores", limit=3)
    expect([store["id"] for store in first["data"]], ids[:3], "newest first")
    daemon.made("/v1/memory_stores", {"name": "later"})
    daemon.delete(f"/v1/memory_stores/{ids[2]}")
    daemon.delete(f"/v1/memory_stores/{ids[4]}")
    second = daemon.seen("/v1/memory_stores", limit=2, page=first["next_page"])
    expect([store["id"] for store in second["data"]], [ids[3], ids[5]], "the second page")
    daemon.made(f"/v1/memory_stores/{ids[6]}/archive")
    third = daemon.seen("/v1/memory_stores", limit=1, page=second["next_page"])
    expect([store["id"] for store in third["data"]], [ids[7]], "an archived one is left out")
    third = daemon.seen("/v1/memory_stores", limit=2, page=second["next_page"], include_archived=True)
    expect([store["id"] for store in third["data"]], [ids[6], ids[7]], "filters and limit may change")


@case("1.8")
def what_was_made_in_one_tick_sorts_by_creation(daemon):
    ids, lock = [], threading.Lock()

    def make():
        mine = Daemon()
        for _ in range(10):
            made = mine.made("/v1/memory_stores", {"name": "tick"})
            with lock:
                ids.append(made["id"])
        mine.close()

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listed = [store for store in daemon.pages("/v1/memory_stores", limit=7)[0] if store["id"] in set(ids)]
    expect(sorted(store["id"] for store in listed), sorted(ids), "each once")
    times = [store["created_at"] for store in listed]
    expect(times, sorted(times, reverse=True), "newest first")
    names = [daemon.made("/v1/memory_stores", {"name": "order"})["id"] for _ in range(20)]
    expect([store["id"] for store in daemon.seen("/v1/memory_stores", limit=20)["data"]], names[::-1], "in the order of creation")


@case("1.9")
def ids_have_their_prefixes(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "x")
    for text, prefix in [(store.split("/")[-1], "memstore_"), (memory["id"], "mem_"), (memory["memory_version_id"], "memver_")]:
        expect(text.startswith(prefix) and ID.fullmatch(text[len(prefix):]) is not None, True, f"{text} is {prefix}01 and 22 or so characters")
    request = daemon.get(store).headers["request-id"]
    expect(ID.fullmatch(request[4:]) is not None, True, f"request id {request}")


if __name__ == "__main__":
    run(sys.argv[1:])
