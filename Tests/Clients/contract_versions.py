"""`api.md` 5: memory versions."""

import hashlib

from wire import *

FIELDS = {
    "id", "type", "memory_id", "memory_store_id", "operation", "path", "content", "content_sha256", "content_size_bytes", "created_at",
    "created_by", "redacted_at", "redacted_by",
}
# Of remfs, `api.md` 13. `trust` comes with sessions.
ADDED = {"base_version_id", "stale", "writer"}


def sha(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def history(daemon):
    """A store in which one memory was made, written, moved and deleted; its path and the memory's ID."""
    store = daemon.store()
    memory = daemon.memory(store, "/a", "1")
    at = f"{store}/memories/{memory['id']}"
    daemon.made(at, {"content": "22"})
    daemon.made(at, {"path": "/b/c"})
    daemon.made(at, {"content": "333", "path": "/d"})
    daemon.delete(at)
    return store, memory["id"]


@case("5")
def a_version_has_these_fields(daemon):
    store, memory = history(daemon)
    versions = daemon.seen(f"{store}/memory_versions", view="full")["data"]
    wanted = [("deleted", "/d", None), ("modified", "/d", "333"), ("modified", "/b/c", "22"), ("modified", "/a", "22"), ("created", "/a", "1")]
    expect([(one["operation"], one["path"], one["content"]) for one in versions], wanted, "newest first")
    for one in versions:
        expect(FIELDS | ADDED <= set(one), True, f"fields {sorted(set(one) ^ (FIELDS | ADDED))}")
        expect((one["type"], one["memory_id"], one["memory_store_id"]), ("memory_version", memory, store.split("/")[-1]), "what it is of")
        content = one["content"]
        expect((one["content_sha256"], one["content_size_bytes"]), (sha(content), len(content)) if content is not None else (None, None), "hash")
        expect((one["redacted_at"], one["redacted_by"]), (None, None), "not redacted")
        expect(TIME.fullmatch(one["created_at"]) is not None, True, "created_at")
        actor = one["created_by"]
        expect((set(actor), actor["type"], actor["api_key_id"].startswith("apikey_")), ({"type", "api_key_id"}, "api_actor", True), "actor")
        if daemon.key is None:
            expect(actor["api_key_id"], "apikey_local", "without a key")
        else:
            expect(daemon.key[-8:] in actor["api_key_id"] or actor["api_key_id"][-8:] in daemon.key, False, "never a part of the key")
        at = f"{store}/memory_versions/{one['id']}"
        expect(daemon.seen(at), one, "in full by default")
        expect(daemon.seen(at, view="basic"), {**one, "content": None}, "basic")
    basic = daemon.seen(f"{store}/memory_versions")["data"]
    expect(basic, [{**one, "content": None} for one in versions], "a list is basic by default")
    times = [one["created_at"] for one in versions]
    expect(times, sorted(set(times), reverse=True), "times that differ, newest first")


@case("5.1")
def filters_combine(daemon):
    store, memory = history(daemon)
    other = daemon.memory(store, "/other", "x")
    at = f"{store}/memory_versions"
    whole = daemon.seen(at)["data"]
    key = whole[0]["created_by"]["api_key_id"]
    expect([len(daemon.seen(at, **query)["data"]) for query in [
        {}, {"memory_id": memory}, {"memory_id": other["id"]}, {"operation": "created"}, {"operation": "modified"}, {"operation": "deleted"},
        {"memory_id": memory, "operation": "created"}, {"memory_id": other["id"], "operation": "deleted"}, {"api_key_id": key},
        {"api_key_id": key, "memory_id": memory, "operation": "modified"},
    ]], [6, 5, 1, 2, 3, 1, 1, 0, 6, 3], "how many")
    for query in [{"memory_id": "mem_01" + "1" * 22}, {"memory_id": "nonsense"}, {"session_id": "sesn_01" + "1" * 22}, {"session_id": "x"},
                  {"api_key_id": "apikey_other"}, {"api_key_id": "x"}, {"service_account_id": "svac_01x"}, {"service_account_id": "x"},
                  {"session_id": "sesn_01" + "1" * 22, "api_key_id": key}, {"api_key_id": key, "service_account_id": "svac_1"}]:
        expect(daemon.seen(at, **query), {"data": [], "next_page": None}, f"{query} matches nothing")
    for operation in ["exploded", "", "Created", "redacted", "created,deleted", "null"]:
        refused(daemon.get(at, operation=operation), 400, f"operation={operation!r}", "invalid_request_error")
    for view in ["half", "", "Full"]:
        refused(daemon.get(at, view=view), 400, f"view={view!r}", "invalid_request_error")
        refused(daemon.get(f"{at}/{whole[0]['id']}", view=view), 400, f"retrieve with view={view!r}", "invalid_request_error")


@case("5.1")
def times_bound_inclusively(daemon):
    store, memory = history(daemon)
    at = f"{store}/memory_versions"
    times = [one["created_at"] for one in daemon.seen(at)["data"]]
    for place, time in enumerate(times):
        for text in [time, time.replace("Z", "+00:00")]:
            expect([one["created_at"] for one in daemon.seen(at, created_at_gte=text)["data"]], times[:place + 1], f"from {text}")
            expect([one["created_at"] for one in daemon.seen(at, created_at_lte=text)["data"]], times[place:], f"to {text}")
            expect([one["created_at"] for one in daemon.seen(at, created_at_lte=text, created_at_gte=text)["data"]], [time], f"at {text}")
    expect(daemon.seen(at, created_at_gte=times[0], created_at_lte=times[-1])["data"], [], "an empty interval")
    found = daemon.pages(at, created_at_lte=times[1], created_at_gte=times[3], limit=1, memory_id=memory)
    expect(([one["created_at"] for one in found[0]], found[1]), (times[1:4], 3), "in pages")
    for text in ["", "now", "1"]:
        refused(daemon.get(at, created_at_gte=text), 400, f"created_at[gte]={text}", "invalid_request_error")
        refused(daemon.get(at, created_at_lte=text), 400, f"created_at[lte]={text}", "invalid_request_error")


@case("1.8")
def pages_of_versions_survive_what_comes(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "0")
    at = f"{store}/memories/{memory['id']}"
    for number in range(1, 9):
        daemon.made(at, {"content": f"{number}"})
    ids = [one["id"] for one in daemon.seen(f"{store}/memory_versions")["data"]]
    first = daemon.seen(f"{store}/memory_versions", limit=3)
    daemon.made(at, {"content": "later"})
    second = daemon.seen(f"{store}/memory_versions", limit=4, page=first["next_page"])
    daemon.delete(at)
    third = daemon.seen(f"{store}/memory_versions", limit=4, page=second["next_page"], view="full")
    expect([one["id"] for one in first["data"] + second["data"] + third["data"]], ids, "each once")
    expect(third["next_page"], None, "the end")


@case("5.2")
def a_version_of_another_store_is_404(daemon):
    store, memory = history(daemon)
    other = daemon.store()
    version = daemon.seen(f"{store}/memory_versions")["data"][0]["id"]
    refused(daemon.get(f"{other}/memory_versions/{version}"), 404, "another store", "not_found_error")
    refused(daemon.post(f"{other}/memory_versions/{version}/redact"), 404, "redact by another store", "not_found_error")
    expect(daemon.seen(f"{other}/memory_versions", memory_id=memory)["data"], [], "a memory of another store")


if __name__ == "__main__":
    run(sys.argv[1:])
