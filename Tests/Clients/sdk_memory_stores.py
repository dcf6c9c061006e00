"""Every method of `client.beta.memory_stores`, with `.memories` and `.memory_versions`, of the official SDK."""

import datetime
import hashlib

import anthropic

from sdk_driver import drive
from wire import expect

STORE = {"id", "type", "name", "description", "metadata", "created_at", "updated_at", "archived_at"}
ADDED = {"base_version_id", "pinned", "stale", "trust", "writer"}
UNKNOWN = "memstore_01" + "1" * 22


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def holds(text):
    return {"type": "content_sha256", "content_sha256": sha(text)}


def no_more(thing, added=frozenset()):
    """Checks that an object has no field that neither the SDK nor `api.md` 13 knows."""
    expect(sorted(set(thing.model_extra or {}) - added), [], f"fields of a {thing.type} that the SDK does not know")


def stores(sdk):
    made = sdk.call("memory_stores.create", name="Team handbook", description="House rules", metadata={"team": "docs"})
    no_more(made)
    expect((made.type, made.name, made.description, made.metadata, made.archived_at), ("memory_store", "Team handbook", "House rules", {"team": "docs"}, None), "made")
    expect((made.created_at, made.created_at.tzinfo, made.id.startswith("memstore_01")), (made.updated_at, datetime.timezone.utc, True), "made")
    expect(sdk.call("memory_stores.retrieve", made.id).to_dict(), made.to_dict(), "retrieved")
    changed = sdk.call("memory_stores.update", made.id, name="Handbook", description="", metadata={"team": None, "owner": "ana"})
    expect((changed.name, changed.description, changed.metadata), ("Handbook", "", {"owner": "ana"}), "updated")
    expect((changed.created_at, changed.updated_at > made.updated_at), (made.created_at, True), "times")
    expect(sdk.call("memory_stores.update", made.id, name=None, description=None, metadata=None).to_dict(), changed.to_dict(), "updated with null")
    expect(sdk.call("memory_stores.update", made.id).to_dict(), changed.to_dict(), "updated with nothing")
    for betas in [[], ["agent-memory-2026-07-22"], ["managed-agents-2026-04-01", "dreaming-2026-04-21"]]:
        expect(sdk.call("memory_stores.retrieve", made.id, betas=betas).id, made.id, f"betas {betas}")
    expect(sdk.call("memory_stores.retrieve", made.id, workspace_id="wrkspc_1", extra_query={"beta": "true"}).id, made.id, "extras")
    archived = sdk.call("memory_stores.archive", made.id)
    expect((archived.archived_at is not None, archived.updated_at >= changed.updated_at), (True, True), "archived")
    expect(sdk.call("memory_stores.archive", made.id).to_dict(), archived.to_dict(), "archived twice")
    expect(sdk.call("memory_stores.retrieve", made.id).to_dict(), archived.to_dict(), "retrieved when archived")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.update", made.id, name="x")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memories.create", made.id, path="/a", content="")
    gone = sdk.call("memory_stores.delete", made.id)
    expect((gone.id, gone.type), (made.id, "memory_store_deleted"), "deleted")
    for name in ["retrieve", "update", "archive", "delete", "memories.list", "memory_versions.list"]:
        sdk.refused(anthropic.NotFoundError, "not_found_error", f"memory_stores.{name}", made.id)
    sdk.refused(anthropic.NotFoundError, "not_found_error", "memory_stores.retrieve", UNKNOWN)
    for options in [{"name": ""}, {"name": "x" * 256}, {"name": "x", "description": "x" * 1025}, {"name": "x", "metadata": {"k": "v" * 513}},
                    {"name": "x", "extra_body": {"colour": "red"}}]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.create", **options)
    sdk.refused(anthropic.ContentTooLargeError if hasattr(anthropic, "ContentTooLargeError") else anthropic.RequestTooLargeError,
                "request_too_large", "memory_stores.create", name="x" * (5 << 20))


def lists_of_stores(sdk):
    made = [sdk.call("memory_stores.create", name=f"listed {number}") for number in range(7)]
    ids = [store.id for store in made][::-1]
    sdk.call("memory_stores.archive", ids[3])
    since = {"created_at_gte": made[0].created_at}
    for limit in [1, 2, 3, 6, 100]:
        found = [store.id for store in sdk.all("memory_stores.list", limit=limit, **since)]
        expect(found, ids[:3] + ids[4:], f"all, {limit} a page")
        expect([store.id for store in sdk.all("memory_stores.list", limit=limit, include_archived=True, **since)], ids, "with archived ones")
    window = {"created_at_gte": made[2].created_at, "created_at_lte": made[4].created_at.isoformat(), "include_archived": True}
    expect([store.id for store in sdk.all("memory_stores.list", limit=2, **window)], ids[2:5], "between two times, inclusive")
    page = sdk.call("memory_stores.list", limit=4, **since)
    expect((len(page.data), page.next_page.startswith("page_"), page.has_next_page()), (4, True, True), "a page")
    after = sdk.call("memory_stores.list", limit=4, page=page.next_page, **since)
    expect((len(after.data), after.next_page, after.has_next_page()), (2, None, False), "the last page")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.list", page="page_nonsense")
    for limit in [0, 101]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.list", limit=limit)
    for store in ids:
        sdk.call("memory_stores.delete", store)


def memories(sdk):
    store = sdk.call("memory_stores.create", name="memories").id
    at = {"memory_store_id": store}
    text = "Zwölf Boxkämpfer \U0001f94a\r\n\x00 e\u0301"
    made = sdk.call("memory_stores.memories.create", store, path="/plans/q3.md", content=text, view="full")
    no_more(made)
    expect((made.type, made.path, made.content, made.memory_store_id), ("memory", "/plans/q3.md", text, store), "made")
    expect((made.content_sha256, made.content_size_bytes, made.created_at), (sha(text), len(text.encode()), made.updated_at), "made")
    expect(sdk.call("memory_stores.memories.retrieve", made.id, **at).to_dict(), made.to_dict(), "in full by default")
    expect(sdk.call("memory_stores.memories.retrieve", made.id, view="basic", **at).content, None, "basic")
    expect(sdk.call("memory_stores.memories.create", store, path="/empty", content="").content, None, "basic by default")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memories.create", store, path="/null", content=None)
    error = sdk.refused(anthropic.ConflictError, "memory_path_conflict_error", "memory_stores.memories.create", store, path="/plans", content="x")
    expect((error.get("conflicting_memory_id"), error.get("conflicting_path")), (made.id, "/plans/q3.md"), "by whom")
    changed = sdk.call("memory_stores.memories.update", made.id, content="2", precondition=holds(text), view="full", **at)
    expect((changed.id, changed.content, changed.updated_at > made.updated_at), (made.id, "2", True), "updated")
    expect(changed.memory_version_id != made.memory_version_id, True, "another head")
    sdk.refused(anthropic.ConflictError, "memory_precondition_failed_error", "memory_stores.memories.update", made.id, content="3", precondition=holds(text), **at)
    again = sdk.call("memory_stores.memories.update", made.id, content="2", precondition=holds(text), view="full", **at)
    expect(again.to_dict(), changed.to_dict(), "a retry of a write that landed")
    moved = sdk.call("memory_stores.memories.update", made.id, path="/plans/q4.md", content=None, **at)
    expect((moved.id, moved.path, moved.content_sha256), (made.id, "/plans/q4.md", sha("2")), "renamed")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memories.update", made.id, **at)
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memories.update", made.id, path="no/slash", **at)
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memories.update", made.id, content="x" * 102_401, **at)
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memories.retrieve", made.id, view="half", **at)
    sdk.refused(anthropic.ConflictError, "memory_precondition_failed_error", "memory_stores.memories.delete", made.id, expected_content_sha256=sha(text), **at)
    gone = sdk.call("memory_stores.memories.delete", made.id, expected_content_sha256=sha("2"), **at)
    expect((gone.id, gone.type), (made.id, "memory_deleted"), "deleted")
    for name in ["retrieve", "delete"]:
        sdk.refused(anthropic.NotFoundError, "not_found_error", f"memory_stores.memories.{name}", made.id, **at)
    sdk.refused(anthropic.NotFoundError, "not_found_error", "memory_stores.memories.update", made.id, content="x", **at)
    other = sdk.call("memory_stores.create", name="other").id
    mine = sdk.call("memory_stores.memories.create", store, path="/mine", content="x")
    sdk.refused(anthropic.NotFoundError, "not_found_error", "memory_stores.memories.retrieve", mine.id, memory_store_id=other)
    for one in [store, other]:
        sdk.call("memory_stores.delete", one)


def lists_of_memories(sdk):
    store = sdk.call("memory_stores.create", name="lists").id
    paths = ["/a", "/b/1", "/b/2/x", "/b-1", "/c/1", "/c/2", "/\u00e9"]
    for path in paths:
        sdk.call("memory_stores.memories.create", store, path=path, content=path)
    ordered = sorted(paths, key=str.encode)
    for limit in [1, 2, 5, 100]:
        expect([item.path for item in sdk.all("memory_stores.memories.list", store, limit=limit)], ordered, f"all, {limit} a page")
        found = [(item.path, item.type) for item in sdk.all("memory_stores.memories.list", store, depth=1, limit=limit)]
        expect(found, [("/a", "memory"), ("/b-1", "memory"), ("/b/", "memory_prefix"), ("/c/", "memory_prefix"), ("/\u00e9", "memory")], "depth 1")
    found = sdk.all("memory_stores.memories.list", store, path_prefix="/b/", view="full", depth=0, limit=1)
    expect([(item.path, item.content) for item in found], [("/b/1", "/b/1"), ("/b/2/x", "/b/2/x")], "below a prefix, in full")
    for item in found:
        no_more(item)
    expect(sdk.all("memory_stores.memories.list", store, path_prefix="/none/"), [], "nothing")
    for options in [{"path_prefix": "/b"}, {"depth": 2}, {"limit": 0}, {"limit": 101}, {"page": "page_x"}, {"view": "half"}]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memories.list", store, **options)
    sdk.call("memory_stores.delete", store)


def versions(sdk):
    store = sdk.call("memory_stores.create", name="versions").id
    at = {"memory_store_id": store}
    made = sdk.call("memory_stores.memories.create", store, path="/a", content="1")
    sdk.call("memory_stores.memories.update", made.id, content="2", **at)
    sdk.call("memory_stores.memories.update", made.id, path="/b", **at)
    sdk.call("memory_stores.memories.delete", made.id, **at)
    whole = sdk.all("memory_stores.memory_versions.list", store, limit=3, view="full")
    found = [(one.operation, one.path, one.content, one.content_sha256, one.content_size_bytes) for one in whole]
    expect(found, [("deleted", "/b", None, None, None), ("modified", "/b", "2", sha("2"), 1), ("modified", "/a", "2", sha("2"), 1),
                   ("created", "/a", "1", sha("1"), 1)], "newest first")
    for one in whole:
        no_more(one, ADDED)
        expect((one.memory_id, one.memory_store_id, one.created_by.type, one.redacted_at), (made.id, store, "api_actor", None), "a version")
        expect(sdk.call("memory_stores.memory_versions.retrieve", one.id, **at).to_dict(), one.to_dict(), "in full by default")
        expect(sdk.call("memory_stores.memory_versions.retrieve", one.id, view="basic", **at).content, None, "basic")
    count = lambda **options: len(sdk.all("memory_stores.memory_versions.list", store, limit=1, **options))
    expect((count(memory_id=made.id), count(operation="modified"), count(api_key_id=whole[0].created_by.api_key_id)), (4, 2, 4), "filters")
    expect((count(session_id="sesn_x"), count(service_account_id="svac_x"), count(api_key_id="apikey_x"), count(memory_id="mem_x")), (0, 0, 0, 0), "none")
    expect(count(created_at_gte=whole[2].created_at, created_at_lte=whole[1].created_at), 2, "between two times, inclusive")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memory_versions.list", store, operation="exploded")
    sdk.refused(anthropic.NotFoundError, "not_found_error", "memory_stores.memory_versions.retrieve", "memver_x", **at)
    sdk.call("memory_stores.delete", store)


def redaction(sdk):
    store = sdk.call("memory_stores.create", name="redaction").id
    at = {"memory_store_id": store}
    made = sdk.call("memory_stores.memories.create", store, path="/a", content="secret")
    first = made.memory_version_id
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "memory_stores.memory_versions.redact", first, **at)
    sdk.call("memory_stores.memories.update", made.id, content="clean", **at)
    redacted = sdk.call("memory_stores.memory_versions.redact", first, **at)
    expect((redacted.content, redacted.path, redacted.content_sha256, redacted.content_size_bytes), (None, None, None, None), "what is left")
    expect((redacted.redacted_at is not None, redacted.redacted_by.type, redacted.created_by.type), (True, "api_actor", "api_actor"), "who")
    expect(sdk.call("memory_stores.memory_versions.redact", first, **at).to_dict(), redacted.to_dict(), "twice")
    expect(sdk.call("memory_stores.memory_versions.retrieve", first, **at).to_dict(), redacted.to_dict(), "read again")
    sdk.refused(anthropic.NotFoundError, "not_found_error", "memory_stores.memory_versions.redact", "memver_x", **at)
    sdk.call("memory_stores.delete", store)


if __name__ == "__main__":
    drive("memory_stores", [stores, lists_of_stores, memories, lists_of_memories, versions, redaction])
