"""`api.md` 2 and 3: memory stores and the limits."""

from wire import *

FIELDS = {"id", "type", "name", "description", "metadata", "created_at", "updated_at", "archived_at"}
STORES = "/v1/memory_stores"
# A control character each: C0, DEL, C1.
CONTROLS = ["\x00", "\n", "\t", "\r", "\x1b", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]


@case("3")
def a_store_has_these_fields(daemon):
    store = daemon.made(STORES, {"name": "Team handbook"})
    expect(set(store), FIELDS, "fields")
    expect((store["type"], store["name"], store["description"], store["metadata"], store["archived_at"]),
           ("memory_store", "Team handbook", "", {}, None), "values")
    expect(store["created_at"], store["updated_at"], "times at birth")
    for name in ["created_at", "updated_at"]:
        expect(TIME.fullmatch(store[name]) is not None, True, f"{name} {store[name]}")
    whole = daemon.made(STORES, {"name": "Team handbook", "description": "House rules", "metadata": {"team": "docs"}})
    expect((whole["description"], whole["metadata"]), ("House rules", {"team": "docs"}), "what was given")
    expect(whole["id"] != store["id"], True, "names may repeat")
    for one in [store, whole]:
        expect(daemon.seen(f"{STORES}/{one['id']}"), one, "retrieved as it was made")


@case("3.1")
def null_is_not_given(daemon):
    store = daemon.made(STORES, {"name": "x", "description": None, "metadata": None})
    expect((store["description"], store["metadata"]), ("", {}), "created with null")
    for body in [{}, {"name": None}, {"description": "x"}, {"name": None, "description": "x"}]:
        refused(daemon.post(STORES, body), 400, f"a name is required: {body}", "invalid_request_error")
    kept = daemon.made(STORES, {"name": "x", "description": "d", "metadata": {"k": "v"}})
    same = daemon.made(f"{STORES}/{kept['id']}", {"name": None, "description": None, "metadata": None})
    expect((same["name"], same["description"], same["metadata"]), ("x", "d", {"k": "v"}), "updated with null")
    expect(daemon.made(f"{STORES}/{kept['id']}", {})["name"], "x", "updated with nothing")


@case("2")
def names_and_descriptions_are_counted_in_scalars(daemon):
    # One scalar of four bytes and two UTF-16 units; two scalars that look like one character.
    for text in ["x", "\U0001f600", "\u00e9", " ", "/", "\u200b", "e\u0301"]:
        size = len(text)
        for count, status in [(255 // size, 200), (255 // size + 1, 400)]:
            name = text * count
            answer = daemon.post(STORES, {"name": name})
            expect((answer.status, answer.json.get("name") if answer.status == 200 else name), (status, name), f"name of {len(name)} scalars")
        for count, status in [(1024 // size, 200), (1024 // size + 1, 400)]:
            answer = daemon.post(STORES, {"name": "x", "description": text * count})
            expect(answer.status, status, f"description of {count * size} scalars")
    refused(daemon.post(STORES, {"name": ""}), 400, "an empty name")
    expect(daemon.made(STORES, {"name": "x", "description": ""})["description"], "", "an empty description")
    for control in CONTROLS:
        for name in [control, "a" + control, control + "a", "a" + control + "b"]:
            refused(daemon.post(STORES, {"name": name}), 400, f"name {name!r}")
    store = daemon.made(STORES, {"name": "kept"})
    for body in [{"name": ""}, {"name": "x" * 256}, {"name": "a\nb"}, {"description": "x" * 1025}]:
        refused(daemon.post(f"{STORES}/{store['id']}", body), 400, f"update {short(body)}")
    expect(daemon.seen(f"{STORES}/{store['id']}"), store, "unchanged by what was refused")


@case("2")
def metadata_has_limits(daemon):
    store = daemon.store()
    emoji = "\U0001f600"
    good = [{}, {"k": ""}, {"k" * 64: "v" * 512}, {emoji * 64: emoji * 512}, {f"k{number}": "v" for number in range(16)}, {" ": " "},
            {"a b": "c\nd"}]
    bad = [{"": "v"}, {"k" * 65: "v"}, {"k": "v" * 513}, {emoji * 65: "v"}, {"k": emoji * 513}, {f"k{number}": "v" for number in range(17)}]
    wrong_values = [7, 1.5, True, [], {}, ["v"], {"a": "b"}]
    for metadata in good:
        made = daemon.made(STORES, {"name": "x", "metadata": metadata})
        expect(made["metadata"], metadata, "created")
        expect(daemon.made(f"{STORES}/{made['id']}", {"metadata": {}})["metadata"], metadata, "an empty patch")
    for metadata in bad + [{"k": value} for value in wrong_values] + [{"k": None}]:
        refused(daemon.post(STORES, {"name": "x", "metadata": metadata}), 400, f"create with {short(metadata)}")
    for metadata in bad + [{"k": value} for value in wrong_values]:
        refused(daemon.post(store, {"metadata": metadata}), 400, f"update with {short(metadata)}")
    for value in [7, "x", True, [], [["k", "v"]]]:
        refused(daemon.post(STORES, {"name": "x", "metadata": value}), 400, f"create with metadata {value!r}")
        refused(daemon.post(store, {"metadata": value}), 400, f"update with metadata {value!r}")
    expect(daemon.seen(store)["metadata"], {}, "unchanged by what was refused")


@case("3.1")
def wrong_types_are_400(daemon):
    store = daemon.store("kept")
    for value in [7, 1.5, True, False, [], ["x"], {}, {"a": "b"}, 0, 10**30]:
        for body in [{"name": value}, {"name": "x", "description": value}]:
            refused(daemon.post(STORES, body), 400, f"create {body!r}")
            refused(daemon.post(store, body), 400, f"update {body!r}")
    expect(daemon.seen(store)["name"], "kept", "unchanged")


@case("3.3")
def an_update_is_a_patch(daemon):
    made = daemon.made(STORES, {"name": "a", "description": "d", "metadata": {"k": "v", "l": "w"}})
    store = f"{STORES}/{made['id']}"
    for body, wanted in [
        ({"name": "b"}, ("b", "d", {"k": "v", "l": "w"})), ({"description": "e"}, ("b", "e", {"k": "v", "l": "w"})),
        ({"description": ""}, ("b", "", {"k": "v", "l": "w"})), ({"metadata": {"k": None}}, ("b", "", {"l": "w"})),
        ({"metadata": {"absent": None}}, ("b", "", {"l": "w"})), ({"metadata": {"m": "x", "l": None}}, ("b", "", {"m": "x"})),
        ({"metadata": {"m": "y"}, "name": "c", "description": "f"}, ("c", "f", {"m": "y"})), ({"metadata": {"m": ""}}, ("c", "f", {"m": ""})),
    ]:
        before = daemon.seen(store)
        after = daemon.made(store, body)
        expect((after["name"], after["description"], after["metadata"]), wanted, f"update with {body}")
        expect((after["id"], after["created_at"], after["archived_at"]), (made["id"], made["created_at"], None), "what stays")
        changed = any(before[name] != after[name] for name in ["name", "description", "metadata"])
        expect(after["updated_at"] > before["updated_at"], changed, f"updated_at moves with {body}")
        expect(daemon.seen(store), after, "kept")


@case("3.3")
def the_limit_of_pairs_is_checked_on_the_result(daemon):
    full = {f"k{number}": "v" for number in range(16)}
    store = f"{STORES}/{daemon.made(STORES, {'name': 'x', 'metadata': full})['id']}"
    refused(daemon.post(store, {"metadata": {"more": "v"}}), 400, "a seventeenth pair")
    changed = daemon.made(store, {"metadata": {"k0": None, "more": "v"}})["metadata"]
    expect((len(changed), "k0" in changed, changed["more"]), (16, False, "v"), "one away, one more")
    expect(len(daemon.made(store, {"metadata": {"k1": "other"}})["metadata"]), 16, "another value at the cap")
    refused(daemon.post(store, {"name": "renamed", "metadata": {"again": "v"}}), 400, "all or nothing")
    refused(daemon.post(store, {"name": "renamed", "description": "x" * 1025}), 400, "all or nothing")
    refused(daemon.post(store, {"description": "d", "metadata": {"k1": "w", "k2": 7}}), 400, "all or nothing")
    kept = daemon.seen(store)
    expect((kept["name"], kept["description"], kept["metadata"]["k1"]), ("x", "", "other"), "nothing of what was refused")


@case("3")
def updated_at_does_not_move_with_memories(daemon):
    store = daemon.store()
    before = daemon.seen(store)
    memory = daemon.memory(store, "/a", "x")
    daemon.made(f"{store}/memories/{memory['id']}", {"content": "y"})
    daemon.delete(f"{store}/memories/{memory['id']}")
    expect(daemon.seen(store), before, "after writes")
    archived = daemon.made(f"{store}/archive")
    expect((archived["updated_at"] > before["updated_at"], archived["archived_at"] is not None), (True, True), "after archiving")


@case("3.4")
def archived_stores_are_listed_on_demand(daemon):
    ids = [daemon.made(STORES, {"name": "listed"})["id"] for _ in range(3)]
    archived = daemon.made(f"{STORES}/{ids[1]}/archive")
    for query, wanted in [({}, [True, False, True]), ({"include_archived": False}, [True, False, True]), ({"include_archived": True}, [True] * 3)]:
        listed = {store["id"]: store for store in daemon.seen(STORES, limit=20, **query)["data"]}
        expect([one in listed for one in ids], wanted, f"list {query}")
        if ids[1] in listed:
            expect(listed[ids[1]], archived, "an item is the object")


@case("3.5")
def a_deleted_store_is_gone_with_all_below_it(daemon):
    for archive in [False, True]:
        store = daemon.store()
        memory = daemon.memory(store, "/a", "x")
        if archive:
            daemon.made(f"{store}/archive")
        answer = daemon.delete(store)
        expect((answer.status, answer.json), (200, {"id": store.split("/")[-1], "type": "memory_store_deleted"}), f"delete, archived {archive}")
        at, version = f"{store}/memories/{memory['id']}", f"{store}/memory_versions/{memory['memory_version_id']}"
        for method, target in [
            ("GET", store), ("POST", store), ("DELETE", store), ("POST", f"{store}/archive"), ("GET", f"{store}/memories"),
            ("POST", f"{store}/memories"), ("GET", at), ("POST", at), ("DELETE", at), ("GET", f"{store}/memory_versions"), ("GET", version),
            ("POST", f"{version}/redact"),
        ]:
            body = {"name": "x"} if method == "POST" else None
            refused(daemon.send(method, target, body), 404, f"{method} {target}", "not_found_error")
        listed = daemon.pages(STORES, limit=100, include_archived=True)[0]
        expect(store.split("/")[-1] in [one["id"] for one in listed], False, "in the list")


@case("3.6")
def an_archived_store_is_closed_to_writing(daemon):
    store = daemon.store("closed", metadata={"k": "v"})
    memory = daemon.memory(store, "/a", "x")
    changed = daemon.made(f"{store}/memories/{memory['id']}", {"content": "y"}, view="full")
    archived = daemon.made(f"{store}/archive")
    expect(set(archived), FIELDS, "fields")
    expect(TIME.fullmatch(archived["archived_at"]) is not None, True, "archived_at")
    expect(daemon.made(f"{store}/archive"), archived, "archived twice")
    for body in [{"name": "x"}, {"description": "x"}, {"metadata": {"k": None}}, {}]:
        refused(daemon.post(store, body), 400, f"update {body}", "invalid_request_error")
    at = f"{store}/memories/{memory['id']}"
    refused(daemon.post(f"{store}/memories", {"path": "/b", "content": ""}), 400, "create", "invalid_request_error")
    refused(daemon.post(f"{store}/memories", {"path": "/a", "content": ""}), 400, "create on what is there", "invalid_request_error")
    for body in [{"content": "z"}, {"path": "/z"}, {"content": "y"}, {"path": "/a"}]:
        refused(daemon.post(at, body), 400, f"update a memory {body}", "invalid_request_error")
    expect(daemon.seen(store), archived, "a read of the store")
    expect(daemon.seen(at), changed, "a read of the memory")
    expect(len(daemon.seen(f"{store}/memories")["data"]), 1, "a list")
    expect(len(daemon.seen(f"{store}/memory_versions")["data"]), 2, "versions")
    refused(daemon.delete(at, expected_content_sha256="0" * 64), 409, "delete with the wrong hash", "memory_precondition_failed_error")
    expect(daemon.delete(at, expected_content_sha256=changed["content_sha256"]).json, {"id": memory["id"], "type": "memory_deleted"}, "delete")
    expect(daemon.seen(f"{store}/memory_versions", limit=1)["data"][0]["operation"], "deleted", "the version of the deletion")


@case("2")
def the_number_of_memories_has_a_cap(daemon):
    store = daemon.store()
    expect(daemon.seen(f"{store}/policy")["max_memories"], 10_000, "the cap by default")
    daemon.made(f"{store}/policy", {"max_memories": 3})
    memories = [daemon.memory(store, f"/{number}", "x") for number in range(3)]
    refused(daemon.post(f"{store}/memories", {"path": "/more", "content": ""}), 400, "one over the cap", "invalid_request_error")
    at = f"{store}/memories/{memories[0]['id']}"
    expect(daemon.post(at, {"content": "y"}).status, 200, "an update at the cap")
    expect(daemon.post(at, {"path": "/renamed"}).status, 200, "a rename at the cap")
    expect(daemon.delete(at).status, 200, "a deletion")
    expect(daemon.post(f"{store}/memories", {"path": "/more", "content": ""}).status, 200, "room again")
    refused(daemon.post(f"{store}/memories", {"path": "/more2", "content": ""}), 400, "full again", "invalid_request_error")


if __name__ == "__main__":
    run(sys.argv[1:])
