"""`api.md` 7: sessions, their events, resources and threads; and the limits of section 2 that are theirs."""

import json

from contract_http import BAD_JSON
from wire import *

cases.clear()  # Those of `contract_http` are run by their own program.

SESSIONS = "/v1/sessions"
FIELDS = {
    "id", "type", "status", "title", "metadata", "environment_id", "vault_ids", "agent", "resources", "outcome_evaluations", "budget",
    "deployment_id", "stats", "usage", "created_at", "updated_at", "archived_at",
}
AGENT = {
    "id", "type", "version", "name", "description", "system", "model", "tools", "skills", "mcp_servers", "multiagent", "execution_identity",
}
RESOURCE = {"type", "memory_store_id", "access", "instructions", "name", "description", "mount_path"}
THREAD = {
    "id", "type", "session_id", "parent_thread_id", "agent", "status", "stats", "usage", "workflow_run_id", "created_at", "updated_at", "archived_at",
}
WRONG = [7, 1.5, True, [], ["x"], {}, {"a": "b"}]
UNKNOWN = "memstore_01" + "1" * 22


def session(daemon, **fields):
    """A new session; its path."""
    return f"{SESSIONS}/" + daemon.made(SESSIONS, {"agent": "a", "environment_id": "e", **fields})["id"]


def message(words, **fields):
    return {"type": "user.message", "content": [{"type": "text", "text": words}], **fields}


def attached(store, **fields):
    return {"type": "memory_store", "memory_store_id": store.split("/")[-1], **fields}


@case("7")
def a_session_has_these_fields(daemon):
    for body, version, name in [("agent_1", 1, "agent_1"), ({"type": "agent", "id": "agent_1"}, 1, "agent_1"),
                                ({"type": "agent", "id": "agent_1", "version": 7}, 7, "agent_1"), ({"type": "agent", "id": "x", "version": None}, 1, "x")]:
        made = daemon.made(SESSIONS, {"agent": body, "environment_id": "env_1"})
        expect(set(made), FIELDS, "fields")
        expect(set(made["agent"]), AGENT, "fields of the agent")
        agent = made["agent"]
        expect((agent["type"], agent["id"], agent["version"], agent["name"]), ("agent", name, version, name), f"agent {body}")
        expect((agent["tools"], agent["skills"], agent["mcp_servers"], agent["multiagent"]), ([], [], [], None), "agent")
        expect((agent["execution_identity"], set(agent["model"])), ({"type": "service_account"}, {"id", "speed"}), "agent")
        expect((made["type"], made["status"], made["title"], made["metadata"], made["vault_ids"]), ("session", "idle", None, {}, []), "values")
        expect((made["resources"], made["outcome_evaluations"], made["budget"], made["deployment_id"]), ([], [], None, None), "values")
        expect((made["created_at"], made["archived_at"], made["environment_id"]), (made["updated_at"], None, "env_1"), "values")
        expect(made["id"].startswith("sesn_") and ID.fullmatch(made["id"][5:]) is not None, True, f"id {made['id']}")
        expect(TIME.fullmatch(made["created_at"]) is not None, True, "created_at")
        expect(all(isinstance(made["stats"][one], (int, float)) for one in ["active_seconds", "duration_seconds"]), True, "stats")
        expect((made["usage"]["input_tokens"], made["usage"]["output_tokens"]), (0, 0), "usage")
        read = daemon.seen(f"{SESSIONS}/{made['id']}")
        expect({**read, "stats": None}, {**made, "stats": None}, "retrieved")


@case("7.1")
def unknown_keys_are_tolerated_and_wrong_ones_refused(daemon):
    base = {"agent": "a", "environment_id": "e"}
    expect(daemon.post(SESSIONS, {**base, "colour": "red", "deployment": {"x": [1]}}).status, 200, "unknown keys")
    expect(daemon.post(SESSIONS, {**base, "title": None, "metadata": None, "resources": None, "initial_events": None, "vault_ids": None,
                                  "budget": None}).status, 200, "null")
    before = len(daemon.pages(SESSIONS, limit=100, include_archived=True)[0])
    for text in BAD_JSON:
        if text != b'{"name": "x", "metadata": {"k": "1", "k": "2"}}':
            refused(daemon.send("POST", SESSIONS, text), 400, f"{text[:60]!r}", "invalid_request_error")
    for body in [
        {}, {"agent": "a"}, {"environment_id": "e"}, {**base, "agent": None}, {**base, "environment_id": None}, {**base, "agent": ""},
        {**base, "environment_id": ""}, *({**base, "environment_id": value} for value in WRONG), *({**base, "agent": value} for value in WRONG),
        {**base, "agent": {"type": "agent"}}, {**base, "agent": {"type": "agent", "id": ""}}, {**base, "agent": {"type": "robot", "id": "x"}},
        {**base, "agent": {"type": "agent", "id": "x", "version": "1"}}, *({**base, "title": value} for value in WRONG),
        *({**base, "resources": value} for value in [7, "x", {}, ["x"], [7], [None], [[]]]), {**base, "vault_ids": "x"}, {**base, "vault_ids": [7]},
        {**base, "budget": {"type": "limit"}}, *({**base, "metadata": value} for value in [7, "x", [], {"k": 7}, {"k": None}, {"": "v"}]),
        {**base, "metadata": {"k" * 65: "v"}}, {**base, "metadata": {"k": "v" * 513}}, {**base, "metadata": {f"k{one}": "v" for one in range(17)}},
    ]:
        refused(daemon.post(SESSIONS, body), 400, short(body), "invalid_request_error")
    expect(daemon.made(SESSIONS, {**base, "metadata": {f"k{one}": "v" * 512 for one in range(16)}})["metadata"]["k0"], "v" * 512, "16 pairs")
    expect(len(daemon.pages(SESSIONS, limit=100, include_archived=True)[0]), before + 1, "nothing was made of what was refused")


@case("7.1")
def stores_are_attached_at_creation(daemon):
    stores = [daemon.store(f"store {number}") for number in range(9)]
    archived = daemon.store()
    daemon.made(f"{archived}/archive")
    base = {"agent": "a", "environment_id": "e"}
    eight = daemon.made(SESSIONS, {**base, "resources": [attached(store) for store in stores[:8]]})
    expect([one["memory_store_id"] for one in eight["resources"]], [store.split("/")[-1] for store in stores[:8]], "eight, in order")
    for one in eight["resources"]:
        expect(set(one), RESOURCE, "fields of a resource")
        expect((one["type"], one["access"], one["instructions"], one["description"]), ("memory_store", "read_write", None, ""), "by default")
    for resources in [
        [attached(store) for store in stores], [attached(stores[0]), attached(stores[1]), attached(stores[0])], [attached(archived)],
        [attached(stores[0], access="write")], [attached(stores[0], access="")], [attached(stores[0], access=7)],
        [attached(stores[0], instructions="x" * 4097)], [attached(stores[0], instructions="\U0001f600" * 4097)], [attached(stores[0], instructions=7)],
        [{"type": "memory_store"}], [{"memory_store_id": stores[0].split("/")[-1]}], [{"type": "memory_store", "memory_store_id": None}],
        [{"type": "memory_store", "memory_store_id": 7}], [{"type": "file", "file_id": "file_1"}], [{"type": "github_repository", "url": "https://x"}],
        [{"type": "nonsense"}], [attached(stores[0]), {"type": "file", "file_id": "f"}],
    ]:
        refused(daemon.post(SESSIONS, {**base, "resources": resources}), 400, short(resources), "invalid_request_error")
    for store in [UNKNOWN, "nonsense", ""]:
        answer = daemon.post(SESSIONS, {**base, "resources": [{"type": "memory_store", "memory_store_id": store}]})
        expect(answer.status, 404 if store else answer.status, f"a store that is not there: {store!r} {answer.body[:100]!r}")
        expect(answer.status in (400, 404), True, f"{store!r}")
    given = daemon.made(SESSIONS, {**base, "resources": [attached(stores[0], access=None, instructions=None), attached(stores[1], access="read_only",
                        instructions="\U0001f600" * 4096)]})["resources"]
    expect([(one["access"], one["instructions"]) for one in given], [("read_write", None), ("read_only", "\U0001f600" * 4096)], "what was given")
    expect(daemon.seen(SESSIONS, memory_store_id=stores[8].split("/")[-1])["data"], [], "nothing of what was refused")


@case("7.1")
def mount_paths_are_made_of_names(daemon):
    names = ["Team handbook", "team  HANDBOOK", "--x--", "\u00c4pfel & Birnen", "\u4e2d\u6587", "a.b_c/d", "9 Lives", "  "]
    slugs = ["team-handbook", "team-handbook-2", "x", "pfel-birnen", None, "a-b-c-d", "9-lives", None]
    stores = [daemon.store(name) for name in names]
    made = daemon.made(SESSIONS, {"agent": "a", "environment_id": "e", "resources": [attached(store) for store in stores]})
    wanted = [f"/mnt/memory/{slug or store.split('/')[-1]}" for slug, store in zip(slugs, stores)]
    expect([one["mount_path"] for one in made["resources"]], wanted, "paths")
    daemon.made(stores[0], {"name": "Renamed", "description": "later"})
    daemon.delete(stores[1])
    read = daemon.seen(f"{SESSIONS}/{made['id']}")
    expect(read["resources"], made["resources"], "snapshots, through a rename and a deletion")


@case("7.1")
def initial_events_are_all_or_nothing(daemon):
    base = {"agent": "a", "environment_id": "e"}
    before = len(daemon.pages(SESSIONS, limit=100)[0])
    for events in [[message("x")] * 51, [message("x"), {"type": "user.interrupt"}], [message("x"), {"type": "agent.message", "content": []}], [{}],
                   [message("x"), {"type": "user.message"}], [7], "x", {}]:
        refused(daemon.post(SESSIONS, {**base, "initial_events": events}), 400, short(events), "invalid_request_error")
    expect(len(daemon.pages(SESSIONS, limit=100)[0]), before, "no session was made")
    made = session(daemon, initial_events=[message(f"{number}") for number in range(50)])
    found = [event["content"][0]["text"] for event in daemon.pages(f"{made}/events")[0]]
    expect(found, [f"{number}" for number in range(50)], "fifty, in order")
    expect(daemon.pages(f"{session(daemon, initial_events=[])}/events")[0], [], "none")


@case("7.2")
def an_update_is_a_patch(daemon):
    at = session(daemon, title="t", metadata={"k": "v"})
    for body, wanted in [({"title": "u"}, ("u", {"k": "v"})), ({"metadata": {"k": None, "l": "w"}}, ("u", {"l": "w"})), ({}, ("u", {"l": "w"})),
                         ({"title": None, "metadata": None, "vault_ids": [], "agent": None, "budget": None}, ("u", {"l": "w"}))]:
        after = daemon.made(at, body)
        expect((after["title"], after["metadata"]), wanted, f"{body}")
    for body in [{"agent": "b"}, {"agent": {"type": "agent", "id": "b"}}, {"budget": {"type": "limit"}}, {"vault_ids": ["v"]}, {"title": 7},
                 {"metadata": {"k": 7}}, {"metadata": {f"k{one}": "" for one in range(17)}}, {"title": "z", "metadata": {"": "v"}}]:
        refused(daemon.post(at, body), 400, f"{body}", "invalid_request_error")
    expect((daemon.seen(at)["title"], daemon.seen(at)["metadata"]), ("u", {"l": "w"}), "unchanged by what was refused")


@case("7.4")
def archived_and_deleted_sessions(daemon):
    store = daemon.store()
    at = session(daemon, resources=[attached(store)], initial_events=[message("x")])
    archived = daemon.send("POST", f"{at}/archive").json
    expect((archived["status"], TIME.fullmatch(archived["archived_at"]) is not None), ("terminated", True), "archived")
    expect(daemon.send("POST", f"{at}/archive").json["archived_at"], archived["archived_at"], "archived twice")
    refused(daemon.post(f"{at}/events", {"events": [message("late")]}), 400, "events of an archived one", "invalid_request_error")
    kept = [event["type"] for event in daemon.seen(f"{at}/events")["data"]]
    expect(kept[:1], ["user.message"], "its history")
    listed = [one["id"] for one in daemon.pages(SESSIONS, limit=100)[0]]
    expect(at.split("/")[-1] in listed, False, "not in the list")
    answer = daemon.delete(at)
    expect((answer.status, answer.json), (200, {"id": at.split("/")[-1], "type": "session_deleted"}), "deleted")
    for method, target in [("GET", ""), ("POST", ""), ("DELETE", ""), ("POST", "/archive"), ("GET", "/events"), ("POST", "/events"),
                           ("GET", "/events/stream"), ("GET", "/resources"), ("GET", "/threads"), ("GET", "/threads/sthr_x")]:
        refused(daemon.send(method, at + target, {} if method == "POST" else None), 404, f"{method} {target} afterwards", "not_found_error")
    expect(daemon.get(store).status, 200, "its store stays")
    other = session(daemon, resources=[attached(store)])
    daemon.delete(store)
    expect((daemon.get(other).status, len(daemon.seen(other)["resources"])), (200, 1), "a session outlives its store")


@case("7.3")
def lists_page_both_ways(daemon):
    ids = [session(daemon, agent={"type": "agent", "id": "paged"}).split("/")[-1] for _ in range(7)]
    for order in ["desc", "asc"]:
        wanted = ids[::-1] if order == "desc" else ids
        for limit in [1, 2, 3, 7]:
            page, seen, backs = None, [], []
            while True:
                answer = daemon.seen(SESSIONS, agent_id="paged", limit=limit, order=order, **({"page": page} if page else {}))
                seen.append([one["id"] for one in answer["data"]])
                expect("prev_page" in answer, True, "prev_page is there")
                expect(answer["prev_page"] is None, len(seen) == 1, f"prev_page of page {len(seen)}")
                if answer["prev_page"]:
                    back = daemon.seen(SESSIONS, agent_id="paged", limit=limit, order=order, page=answer["prev_page"])
                    expect([one["id"] for one in back["data"]], seen[-2], "the page before")
                page = answer["next_page"]
                if not page:
                    break
            expect([one for some in seen for one in some], wanted, f"{order}, {limit} a page")
            expect(len(seen), -(-7 // limit), "pages")
    first = daemon.seen(SESSIONS, agent_id="paged", limit=3)
    refused(daemon.get(SESSIONS, page=first["next_page"], order="asc"), 400, "a cursor of the other order", "invalid_request_error")
    daemon.delete(f"{SESSIONS}/{ids[4]}")
    daemon.delete(f"{SESSIONS}/{ids[3]}")
    second = daemon.seen(SESSIONS, agent_id="paged", limit=3, page=first["next_page"])
    expect([one["id"] for one in second["data"]], [ids[2], ids[1], ids[0]], "though the boundary has gone")
    for query in ["statuses=idle&statuses=terminated", "statuses[]=idle&statuses[]=terminated", "statuses%5B%5D=idle&statuses%5B%5D=terminated"]:
        answer = daemon.send("GET", f"{SESSIONS}?agent_id=paged&{query}")
        expect((answer.status, len(answer.json.get("data", []))), (200, 5), query)
    for query in ["statuses=x", "statuses[]=idle&statuses[]=x", "statuses[]=", "order=up", "order=", "limit=0", "limit=101", "page=page_x",
                  "created_at[gt]=x", "include_archived=x", "agent_version=x"]:
        refused(daemon.send("GET", f"{SESSIONS}?{query}"), 400, query, "invalid_request_error")
    for query in ["memory_store_id=x", f"memory_store_id={UNKNOWN}", "agent_id=none", "deployment_id=x", "agent_id=paged&agent_version=2"]:
        expect(daemon.send("GET", f"{SESSIONS}?{query}").json.get("data"), [], query)


@case("7.6")
def events_are_stored_in_order_or_not_at_all(daemon):
    at = session(daemon)
    sent = daemon.made(f"{at}/events", {"events": [message("a"), {"type": "user.interrupt"}, message("b", id="mine", processed_at="2020-01-01T00:00:00Z")]})
    expect(set(sent), {"data"}, "what sending answers")
    for event in sent["data"]:
        expect(event["id"].startswith("sevt_") and ID.fullmatch(event["id"][5:]) is not None, True, f"id {event['id']}")
        expect(TIME.fullmatch(event["processed_at"]) is not None and event["processed_at"] > "2021", True, "processed_at")
    expect(daemon.seen(f"{at}/events")["data"], sent["data"], "as they were answered")
    blocks = [
        [], "text", None, 7, [7], ["x"], [{}], [{"type": "text"}], [{"type": "text", "text": 7}], [{"type": "text", "text": None}], [{"type": "nonsense"}],
        [{"type": "redacted"}], [{"type": "redacted", "text": "x"}], [{"type": "image"}], [{"type": "image", "source": {"type": "nonsense"}}],
        [{"type": "document"}], [{"type": "text", "text": "fine"}, {"type": "redacted"}],
    ]
    bad = [{"type": "user.message", "content": one} for one in blocks if one != []] + [
        {}, {"type": None}, {"type": 7}, {"type": "x"}, {"type": "user.message"}, {"content": []}, {"type": "session.deleted"}, {"type": "session.status_idle"},
        {"type": "span.model_request_start"}, {"type": "agent.thread_message_sent"}, {"type": "user.define_outcome", "description": "x"},
        {"type": "user.tool_result"}, {"type": "user.custom_tool_result"}, {"type": "user.tool_confirmation"},
        {"type": "user.tool_confirmation", "tool_use_id": "x", "result": "maybe"}, {"type": "user.interrupt", "session_thread_id": 7},
        {"type": "system.message"}, {"type": "system.message", "content": [{"type": "image"}]}, {"type": "agent.message"}, {"type": "agent.tool_use"},
        {"type": "agent.tool_use", "name": "x", "input": []}, {"type": "agent.tool_use", "name": 7, "input": {}}, {"type": "agent.tool_result"},
        7, "x", None, [],
    ]
    for event in bad:
        refused(daemon.post(f"{at}/events", {"events": [message("fine"), event]}), 400, f"{short(event)}", "invalid_request_error")
    for events in [[], None, {}, "x", 7, [None]]:
        refused(daemon.post(f"{at}/events", {"events": events}), 400, f"events {events!r}", "invalid_request_error")
    system = {"type": "system.message", "content": [{"type": "text", "text": "s"}]}
    for events in [[system, message("x")], [message("x"), system, system], [message("x"), system, message("y")]]:
        refused(daemon.post(f"{at}/events", {"events": events}), 400, f"{short(events)}", "invalid_request_error")
    for body in [{}, {"events": [message("x")], "colour": "red"}, {"event": message("x")}]:
        refused(daemon.post(f"{at}/events", body), 400, f"{short(body)}", "invalid_request_error")
    for text in BAD_JSON:
        refused(daemon.send("POST", f"{at}/events", text), 400, f"{text[:60]!r}", "invalid_request_error")
    expect(daemon.seen(f"{at}/events")["data"], sent["data"], "nothing of what was refused is stored")


@case("7.6")
def contents_come_back_as_they_were(daemon):
    at = session(daemon)
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    contents = [
        [{"type": "text", "text": "\u0000\u2028\U0001f600 e\u0301 \r\n\t\"\\/"}], [{"type": "text", "text": ""}],
        [{"type": "image", "source": source}], [{"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}],
        [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}, "title": "t"}],
        [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "file", "file_id": "file_1"}}, {"type": "text", "text": "b"}],
        [{"type": "text", "text": "x" * 900_000}],
    ]
    for content in contents:
        answer = daemon.post(f"{at}/events", {"events": [{"type": "user.message", "content": content}]})
        expect((answer.status, answer.json.get("data", [{}])[0].get("content")), (200, content), f"{short(content)}")
    found = [event["content"] for event in daemon.pages(f"{at}/events", limit=2)[0]]
    expect(found, contents, "as listed")
    number = {"type": "agent.tool_use", "name": "n", "input": {"i": 2**53 + 1, "f": 1.5, "deep": [[{"": None}]], "t": True, "e": {}}}
    made = daemon.made(f"{at}/events", {"events": [number]})["data"][0]
    expect(made["input"], number["input"], "an input")
    expect(daemon.pages(f"{at}/events", types=["agent.tool_use"])[0][0]["input"], number["input"], "an input as listed")


@case("7.6")
def results_name_uses(daemon):
    at = session(daemon)
    use = lambda **fields: {"type": "agent.tool_use", "name": "bash", "input": {}, **fields}
    result = lambda of: {"type": "agent.tool_result", "tool_use_id": of, "content": [{"type": "text", "text": "done"}]}
    both = daemon.made(f"{at}/events", {"events": [use(id="a"), use(id="b"), result("b"), result("a")]})["data"]
    expect([both[2]["tool_use_id"], both[3]["tool_use_id"]], [both[1]["id"], both[0]["id"]], "rewritten within a request")
    later = daemon.made(f"{at}/events", {"events": [result(both[0]["id"])]})["data"][0]
    expect(later["tool_use_id"], both[0]["id"], "by the server's id, later")
    count = len(daemon.pages(f"{at}/events")[0])
    for events in [[result("a")], [result("nothing")], [result("later"), use(id="later")], [message("x"), result("sevt_01" + "1" * 22)]]:
        answer = daemon.post(f"{at}/events", {"events": events})
        expect(answer.status in (400, 404), True, f"a result of nothing: {answer.status} {short(events)}")
    other = session(daemon)
    expect(daemon.post(f"{other}/events", {"events": [result(both[0]["id"])]}).status in (400, 404), True, "a use of another session")
    expect(len(daemon.pages(f"{at}/events")[0]), count, "nothing of what was refused is stored")


@case("7.6")
def lists_of_events_filter_and_page(daemon):
    at = session(daemon)
    for number in range(12):
        daemon.made(f"{at}/events", {"events": [message(f"{number}"), {"type": "user.interrupt"}][: 1 + number % 2]})
    whole = daemon.seen(f"{at}/events")["data"]
    ids = [event["id"] for event in whole]
    expect((len(ids), len(set(ids))), (18, 18), "each once")
    for order, wanted in [("asc", ids), ("desc", ids[::-1])]:
        for limit in [1, 4, 18, 1000]:
            items, pages = daemon.pages(f"{at}/events", order=order, limit=limit)
            expect(([event["id"] for event in items], pages), (wanted, -(-18 // limit)), f"{order}, {limit} a page")
    for query in ["types=user.message&types=user.interrupt", "types[]=user.message&types[]=user.interrupt", "types%5B%5D=user.message"]:
        answer = daemon.send("GET", f"{at}/events?{query}")
        expect((answer.status, len(answer.json.get("data", []))), (200, 18 if "interrupt" in query else 12), query)
    first = daemon.seen(f"{at}/events", limit=5)
    refused(daemon.get(f"{at}/events", page=first["next_page"], order="desc"), 400, "a cursor of the other order", "invalid_request_error")
    refused(daemon.get(SESSIONS, page=first["next_page"]), 400, "a cursor of events for sessions", "invalid_request_error")
    daemon.made(f"{at}/events", {"events": [message("later")]})
    rest = daemon.seen(f"{at}/events", limit=100, page=first["next_page"])
    expect([event["id"] for event in first["data"] + rest["data"]][:18], ids, "later ones come after")
    time = whole[7]["processed_at"]
    for name, kept in [("gt", lambda one: one > time), ("gte", lambda one: one >= time), ("lt", lambda one: one < time), ("lte", lambda one: one <= time)]:
        found = daemon.seen(f"{at}/events", limit=18, types=["user.message", "user.interrupt"], **{f"created_at_{name}": time})["data"]
        expect([event["id"] for event in found if event["id"] in ids], [event["id"] for event in whole if kept(event["processed_at"])], f"created_at[{name}]")
    for query in ["limit=0", "limit=1001", "order=up", "page=page_x", "created_at[gt]=x"]:
        refused(daemon.send("GET", f"{at}/events?{query}"), 400, query, "invalid_request_error")


@case("7.6")
def a_stream_is_open_before_anything_happens(daemon):
    at = session(daemon, initial_events=[message("before")])
    stream = Daemon()
    stream.socket = stream.connect()
    key = f"Authorization: Bearer {daemon.key}\r\n" if daemon.key else ""
    stream.socket.sendall(f"GET {at}/events/stream HTTP/1.1\r\nHost: {daemon.host}\r\n{key}\r\n".encode())
    while b"\r\n\r\n" not in stream.pending:
        stream.fill("stream")
    head, stream.pending = stream.pending.split(b"\r\n\r\n", 1)
    expect((head.split(b"\r\n")[0], b"content-type: text/event-stream" in head.lower()), (b"HTTP/1.1 200 OK", True), "at once, without any event")
    expect(b"request-id: req_" in head.lower(), True, "request-id")
    sent = daemon.made(f"{at}/events", {"events": [message("one\r\ntwo\u2028"), {"type": "user.interrupt"}]})["data"]
    text = b""
    while text.count(b"\n\n") < 2:
        while b"\r\n" not in stream.pending:
            stream.fill("stream")
        size, stream.pending = stream.pending.split(b"\r\n", 1)
        while len(stream.pending) < int(size, 16) + 2:
            stream.fill("stream")
        text += stream.pending[:int(size, 16)]
        stream.pending = stream.pending[int(size, 16) + 2:]
    frames = [frame.split(b"\n") for frame in text.split(b"\n\n")[:-1] if not frame.startswith(b"event: ping")]
    expect([(frame[0], len(frame)) for frame in frames], [(b"event: user.message", 2), (b"event: user.interrupt", 2)], "frames of two lines")
    expect([json.loads(frame[1][6:]) for frame in frames], sent, "the events as they were answered")
    stream.close()
    for target in [f"{SESSIONS}/sesn_01{'1' * 22}/events/stream", f"{at}/threads/sthr_x/stream"]:
        answer = daemon.get(target)
        refused(answer, 404, target, "not_found_error")
        expect(answer.headers["content-type"].split(";")[0], "application/json", "no stream")
    for query in ["event_deltas[]=nonsense", "&".join(["event_deltas[]=agent.message"] * 101)]:
        refused(daemon.send("GET", f"{at}/events/stream?{query}"), 400, query[:60], "invalid_request_error")


@case("7.7")
def resources_of_a_session(daemon):
    stores = [daemon.store(f"r{number}") for number in range(3)]
    at = session(daemon, resources=[attached(store) for store in stores])
    whole = daemon.seen(at)["resources"]
    expect(daemon.seen(f"{at}/resources"), {"data": whole, "next_page": None}, "all, in order")
    for limit in [1, 2, 3, 1000]:
        items, pages = daemon.pages(f"{at}/resources", limit=limit)
        expect((items, pages), (whole, -(-3 // limit)), f"{limit} a page")
    for query in ["limit=0", "limit=1001", "page=page_x"]:
        refused(daemon.send("GET", f"{at}/resources?{query}"), 400, query, "invalid_request_error")
    other = daemon.store()
    for store, one in zip(stores, whole):
        name = store.split("/")[-1]
        expect(daemon.seen(f"{at}/resources/{name}"), one, "by the store's id")
        refused(daemon.delete(f"{at}/resources/{name}"), 400, "taken away", "invalid_request_error")
        refused(daemon.post(f"{at}/resources/{name}", {"authorization_token": "x"}), 400, "a token", "invalid_request_error")
    for name in [other.split("/")[-1], "sesrsc_01x", "nonsense"]:
        for method, body in [("GET", None), ("DELETE", None)]:
            refused(daemon.send(method, f"{at}/resources/{name}", body), 404, f"{method} {name}", "not_found_error")
    for body in [{"type": "file", "file_id": "f"}, {"type": "memory_store", "memory_store_id": other.split("/")[-1]}, {"type": "x"}, {}]:
        refused(daemon.post(f"{at}/resources", body), 400, f"add {body}", "invalid_request_error")


@case("7.8")
def threads_of_a_session(daemon):
    at = session(daemon, initial_events=[message("x")])
    listed = daemon.seen(f"{at}/threads")
    expect((len(listed["data"]), listed["next_page"]), (1, None), "the primary one, from the start")
    thread = listed["data"][0]
    expect(set(thread), THREAD, "fields")
    expect((thread["type"], thread["session_id"], thread["parent_thread_id"], thread["status"]), ("session_thread", at.split("/")[-1], None, "idle"), "values")
    expect(set(thread["agent"]), AGENT - {"multiagent"}, "its agent")
    expect(thread["id"].startswith("sthr_") and ID.fullmatch(thread["id"][5:]) is not None, True, f"id {thread['id']}")
    expect(daemon.seen(f"{at}/threads/{thread['id']}"), thread, "retrieved")
    expect(daemon.seen(f"{at}/threads/{thread['id']}/events"), daemon.seen(f"{at}/events"), "its events are the session's")
    for query, count in [("statuses[]=idle", 1), ("statuses=idle", 1), ("statuses[]=running", 0), ("statuses[]=running&statuses[]=idle", 1), ("limit=1000", 1)]:
        expect(len(daemon.send("GET", f"{at}/threads?{query}").json["data"]), count, query)
    for query in ["statuses[]=x", "limit=0", "limit=1001", "page=page_x"]:
        refused(daemon.send("GET", f"{at}/threads?{query}"), 400, query, "invalid_request_error")
    other = session(daemon)
    for target in [f"{other}/threads/{thread['id']}", f"{other}/threads/{thread['id']}/events", f"{at}/threads/x", f"{at}/threads/x/events"]:
        refused(daemon.get(target), 404, target, "not_found_error")
    refused(daemon.post(f"{other}/threads/{thread['id']}/archive"), 404, "another session's", "not_found_error")


@case("7.6")
def bodies_of_sessions_may_be_large(daemon):
    at = session(daemon)
    large = {"events": [message("x" * (1 << 20)) for _ in range(6)]}
    expect(daemon.post(f"{at}/events", large).status, 200, "6 MiB of events")
    daemon.close()
    answer = daemon.post(f"{at}/events", {"events": [message("x" * (33 << 20))]})
    refused(answer, 413, "33 MiB", "request_too_large")
    daemon.close()
    expect(len(daemon.pages(f"{at}/events", limit=2)[0]), 6, "events")


if __name__ == "__main__":
    run(sys.argv[1:])
