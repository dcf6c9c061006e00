"""`api.md` 4: memories, their paths, preconditions and lists."""

import hashlib
import threading
import unicodedata

from wire import *

FIELDS = {"id", "type", "memory_store_id", "memory_version_id", "path", "content", "content_sha256", "content_size_bytes", "created_at", "updated_at"}
HASH0 = "0" * 64


def sha(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def holds(value):
    return {"precondition": {"type": "content_sha256", "content_sha256": value}}


@case("4")
def a_memory_has_these_fields(daemon):
    store = daemon.store()
    for path, content in [("/a", "one"), ("/b", ""), ("/c", "e\u0301 \u00e9 \r\n\x00\U0001f600"), ("/d", "\ufeffbom"), ("/e", "\u2028\ufffe")]:
        made = daemon.made(f"{store}/memories", {"path": path, "content": content}, view="full")
        expect(set(made), FIELDS, "fields")
        expect((made["type"], made["path"], made["memory_store_id"]), ("memory", path, store.split("/")[-1]), "values")
        expect((made["content"], made["content_sha256"], made["content_size_bytes"]), (content, sha(content), len(content.encode())), "content")
        expect(made["created_at"], made["updated_at"], "times at birth")
        expect(TIME.fullmatch(made["created_at"]) is not None, True, "created_at")
        at = f"{store}/memories/{made['id']}"
        expect(daemon.seen(at), made, "in full by default")
        expect(daemon.seen(at, view="basic"), {**made, "content": None}, "basic")
        version = daemon.seen(f"{store}/memory_versions/{made['memory_version_id']}")
        expect((version["operation"], version["path"], version["content"]), ("created", path, content), "the head")


@case("4")
def views_have_these_defaults(daemon):
    store = daemon.store()
    made = daemon.memory(store, "/a", "x")
    at = f"{store}/memories/{made['id']}"
    expect(made["content"], None, "create")
    expect(daemon.made(at, {"content": "y"})["content"], None, "update")
    expect(daemon.made(at, {"content": "y"})["content"], None, "update that changes nothing")
    expect(daemon.made(at, {"content": "z"}, view="full")["content"], "z", "update in full")
    expect(daemon.made(at, {"content": "z"}, view="full")["content"], "z", "update in full that changes nothing")
    expect(daemon.made(at, {"path": "/b"}, view="full")["content"], "z", "rename in full")
    expect(daemon.seen(f"{store}/memories")["data"][0]["content"], None, "list")
    expect(daemon.seen(f"{store}/memories", view="full")["data"][0]["content"], "z", "list in full")
    for view in ["half", "", "FULL", "Basic", "true", "null"]:
        refused(daemon.get(at, view=view), 400, f"retrieve with view={view!r}", "invalid_request_error")
        refused(daemon.get(f"{store}/memories", view=view), 400, f"list with view={view!r}", "invalid_request_error")
        refused(daemon.post(f"{store}/memories", {"path": "/new", "content": ""}, view=view), 400, f"create with view={view!r}")
        refused(daemon.post(at, {"content": "new"}, view=view), 400, f"update with view={view!r}")
    expect(daemon.seen(at)["content"], "z", "unchanged")
    expect(len(daemon.seen(f"{store}/memories")["data"]), 1, "nothing was made")


GOOD_PATHS = [
    "/a", "/a/b", "/.hidden", "/.hidden/x", "/a b", "/ ", "/%", "/100%25", "/_", "/#", "/?", "/a?b=c#d", "/'", '/"', "/\\", "/a\\b", "/x.md",
    "/no-extension", "/\u00e9", "/\u4e2d\u6587/\u540d", "/\U0001f600", "/~", "/a~", "/*", "/a:b", "/a|b", "/<>", "/;rm -rf", "/$HOME", "/-", "/--x",
    "/...", "/a/...", "/..a", "/a..", "/A", "/CON", "/nul.txt", "/.remfsx", "/a/.remfs", "/a/.remfs/b", "/.REMFS", "/a/.anthropic-memory-store",
    "/.anthropic-memory-store2", "/" + "s" * 1_023, "/" + "\u00e9" * 511, "/" + "/".join(["s"] * 20), "/" + "x" * 300 + "/" + "y" * 300,
    "/\ufb01", "/\u0301x", "/\u2024", "/\u00a0", "/\u3000", "/4913", "/a.swp", "/.git/config", "/x~",
]
BAD_PATHS = [
    "", "a", "a/b", "/", "//", "//a", "/a/", "/a//b", "/a/b/", "/.", "/..", "/a/.", "/a/..", "/./a", "/../a", "/a/./b", "/a/../b", "\\a", " /a",
    "/a\x00", "/\x01", "/a\nb", "/a\t", "/\x1b[0m", "/a\x7f", "/a\x80", "/a\x85", "/\x9f", "/a\u00ad", "/\u200b", "/a\u200cb", "/a\u200d", "/\u200e",
    "/a\u202eb", "/\u2066a", "/\ufeff", "/a\ufeff", "/a\u2060", "/\u061c", "/\u180e", "/\U000e0001", "/\U000e0041", "/\u0600", "/\U000110bd",
    "/a\u2028b", "/a\u2029b", "/e\u0301", "/a/A\u030a", "/\u212b", "/\u2126", "/\u1112\u1161\u11ab", "/\u0344", "/\u0958", "/" + "s" * 1_024,
    "/" + "\u00e9" * 512, "/" + "/".join(["s"] * 21), "/.remfs", "/.remfs/", "/.remfs/x", "/.remfs/at/x", "/.anthropic-memory-store",
]


@case("4.1")
def good_paths_are_kept_as_they_were_sent(daemon):
    store = daemon.store()
    for path in GOOD_PATHS:
        expect(path, unicodedata.normalize("NFC", path), "the case itself")
        answer = daemon.post(f"{store}/memories", {"path": path, "content": "x"})
        if expect(answer.status, 200, f"create {path[:60]!r} ({answer.body[:200]!r})"):
            expect(answer.json["path"], path, "as sent")
            at = f"{store}/memories/{answer.json['id']}"
            expect(daemon.seen(at)["path"], path, "as read")
            expect([one["path"] for one in daemon.pages(f"{store}/memories", limit=100)[0]], [path], "as listed")
            expect(daemon.seen(f"{store}/memory_versions", limit=1)["data"][0]["path"], path, "in its version")
            expect(daemon.delete(at).status, 200, "deleted")
    memory = daemon.memory(store, "/start", "x")
    for path in GOOD_PATHS:
        answer = daemon.post(f"{store}/memories/{memory['id']}", {"path": path})
        expect((answer.status, answer.json.get("path")), (200, path), f"rename to {path[:60]!r} ({answer.body[:200]!r})")


@case("4.1")
def bad_paths_are_400(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/kept", "x")
    for path in BAD_PATHS:
        refused(daemon.post(f"{store}/memories", {"path": path, "content": "x"}), 400, f"create {path[:60]!r}", "invalid_request_error")
        refused(daemon.post(f"{store}/memories/{memory['id']}", {"path": path}), 400, f"rename to {path[:60]!r}", "invalid_request_error")
        refused(daemon.post(f"{store}/memories/{memory['id']}", {"path": path, "content": "y"}), 400, f"both, {path[:60]!r}")
    for value in [7, True, [], {}, ["/a"], 1.5]:
        refused(daemon.post(f"{store}/memories", {"path": value, "content": "x"}), 400, f"create {value!r}")
        refused(daemon.post(f"{store}/memories/{memory['id']}", {"path": value}), 400, f"rename to {value!r}")
        refused(daemon.post(f"{store}/memories", {"path": "/x", "content": value}), 400, f"content {value!r}")
        refused(daemon.post(f"{store}/memories/{memory['id']}", {"content": value}), 400, f"update with content {value!r}")
    for body in [{}, {"path": "/x"}, {"content": "x"}, {"path": None, "content": "x"}, {"path": "/x", "content": None}, {"path": "/x", "text": "y"}]:
        refused(daemon.post(f"{store}/memories", body), 400, f"create {body}", "invalid_request_error")
    expect(daemon.seen(f"{store}/memories/{memory['id']}")["memory_version_id"], memory["memory_version_id"], "nothing was changed")
    expect(len(daemon.seen(f"{store}/memories")["data"]), 1, "nothing was made")


@case("4.2")
def an_occupied_path_conflicts(daemon):
    store = daemon.store()
    held = {path: daemon.memory(store, path, "x")["id"] for path in ["/a", "/d/e", "/p_q", "/r%/s", "/x", "/deep/1/2/3"]}
    mover = daemon.memory(store, "/mover", "m")
    for path, by in [
        ("/a", "/a"), ("/a/b", "/a"), ("/a/b/c", "/a"), ("/d", "/d/e"), ("/d/e", "/d/e"), ("/d/e/f", "/d/e"), ("/p_q", "/p_q"), ("/r%", "/r%/s"),
        ("/deep", "/deep/1/2/3"), ("/deep/1", "/deep/1/2/3"), ("/deep/1/2", "/deep/1/2/3"), ("/deep/1/2/3/4/5", "/deep/1/2/3"),
    ]:
        for what, answer in [
            ("create", daemon.post(f"{store}/memories", {"path": path, "content": "x"})),
            ("rename", daemon.post(f"{store}/memories/{mover['id']}", {"path": path})),
            ("rename and write", daemon.post(f"{store}/memories/{mover['id']}", {"path": path, "content": "n"})),
        ]:
            refused(answer, 409, f"{what} {path}", "memory_path_conflict_error")
            expect((answer.error.get("conflicting_memory_id"), answer.error.get("conflicting_path")), (held[by], by), f"{what} {path}: by whom")
            expect(set(answer.error), {"type", "message", "conflicting_memory_id", "conflicting_path"}, f"{what} {path}: fields")
    expect(daemon.seen(f"{store}/memories/{mover['id']}"), {**mover, "content": "m"}, "the mover stayed")
    for path in ["/ab", "/A", "/d/ee", "/d/f", "/pxq", "/pxq2", "/p", "/r", "/rx", "/deep/2", "/deep/1/2/33", "/d2", "/a.b"]:
        made = daemon.post(f"{store}/memories", {"path": path, "content": "x"})
        expect(made.status, 200, f"create {path} ({made.body[:200]!r})")


@case("4.2")
def a_memory_does_not_stand_in_its_own_way(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/x", "1")
    at = f"{store}/memories/{memory['id']}"
    for path in ["/x/y", "/x/y/z", "/x", "/x/y/z/w", "/x/y", "/X", "/x"]:
        moved = daemon.post(at, {"path": path})
        expect((moved.status, moved.json.get("path"), moved.json.get("id")), (200, path, memory["id"]), f"to {path} ({moved.body[:200]!r})")
    other = daemon.memory(store, "/z/1", "1")
    daemon.made(f"{store}/memories/{other['id']}", {"path": "/z"})
    expect([one["path"] for one in daemon.seen(f"{store}/memories")["data"]], ["/x", "/z"], "where they are")
    daemon.delete(at)
    expect(daemon.post(f"{store}/memories", {"path": "/x/below", "content": ""}).status, 200, "a deleted memory occupies nothing")
    expect(daemon.post(f"{store}/memories/{other['id']}", {"path": "/w"}).status, 200, "moved away")
    expect(daemon.post(f"{store}/memories", {"path": "/z/below", "content": ""}).status, 200, "a path that was moved from is free")


@case("4.3")
def create_never_overwrites(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "x")
    for content in ["x", "y", ""]:
        answer = daemon.post(f"{store}/memories", {"path": "/a", "content": content})
        refused(answer, 409, f"create again with {content!r}", "memory_path_conflict_error")
    expect(daemon.seen(f"{store}/memories/{memory['id']}"), {**memory, "content": "x"}, "unchanged")
    expect(len(daemon.seen(f"{store}/memory_versions")["data"]), 1, "one version")


@case("2")
def content_is_limited_in_bytes(daemon):
    store = daemon.store()
    for number, (text, size) in enumerate([("x", 1), ("\u00e9", 2), ("\u4e2d", 3), ("\U0001f600", 4), ("\x00", 1), ('"', 1), ("\n", 1)]):
        at_cap = text * (102_400 // size) + "y" * (102_400 % size)
        made = daemon.made(f"{store}/memories", {"path": f"/{number}", "content": at_cap}, view="full")
        expect((made["content"] == at_cap, made["content_size_bytes"], made["content_sha256"]), (True, 102_400, sha(at_cap)), f"at the cap, {text!r}")
        refused(daemon.post(f"{store}/memories", {"path": "/over", "content": at_cap + "y"}), 400, f"over the cap, {text!r}", "invalid_request_error")
        refused(daemon.post(f"{store}/memories/{made['id']}", {"content": at_cap + text}), 400, f"update over the cap, {text!r}")
        expect(daemon.post(f"{store}/memories/{made['id']}", {"content": at_cap[::-1]}).status, 200, "update at the cap")


@case("4.5")
def an_update_writes_one_version(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "1")
    at = f"{store}/memories/{memory['id']}"
    before = memory
    for body, path, content in [
        ({"content": "2"}, "/a", "2"), ({"path": "/b"}, "/b", "2"), ({"content": "3", "path": "/c"}, "/c", "3"), ({"content": ""}, "/c", ""),
        ({"content": "4", "path": None}, "/c", "4"), ({"content": None, "path": "/d"}, "/d", "4"), ({"content": "4", "path": "/e"}, "/e", "4"),
        ({"content": "5", "path": "/e"}, "/e", "5"), ({"content": "5", "precondition": None, "path": "/f"}, "/f", "5"),
    ]:
        after = daemon.made(at, body, view="full")
        expect((after["id"], after["path"], after["content"], after["content_sha256"]), (memory["id"], path, content, sha(content)), f"{body}")
        expect(after["created_at"], memory["created_at"], "created_at stays")
        expect(after["updated_at"] > before["updated_at"], True, "updated_at moves")
        expect(after["memory_version_id"] != before["memory_version_id"], True, "another head")
        versions = daemon.seen(f"{store}/memory_versions", memory_id=memory["id"], view="full")["data"]
        expect((versions[0]["id"], versions[0]["operation"], versions[0]["path"], versions[0]["content"]),
               (after["memory_version_id"], "modified", path, content), "its version")
        before = after
    expect(len(versions), 10, "one version each")
    for body in [{}, {"content": None}, {"path": None}, {"content": None, "path": None}, holds(sha("5")), {"precondition": None}]:
        refused(daemon.post(at, body), 400, f"an update of nothing {body}", "invalid_request_error")


@case("4.5")
def an_update_that_changes_nothing_writes_nothing(daemon):
    store = daemon.store()
    memory = daemon.made(f"{store}/memories", {"path": "/a", "content": "x"}, view="full")
    at = f"{store}/memories/{memory['id']}"
    for body in [{"content": "x"}, {"path": "/a"}, {"content": "x", "path": "/a"}, {"content": "x", "path": None}]:
        for more in [{}, holds(sha("x")), holds(HASH0), holds(sha("y"))]:
            answer = daemon.post(at, {**body, **more}, view="full")
            expect((answer.status, answer.json), (200, memory), f"{body} with {more}")
    expect(len(daemon.seen(f"{store}/memory_versions")["data"]), 1, "versions")


@case("4.5")
def a_precondition_speaks_of_the_memory_as_it_is(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "x")
    daemon.memory(store, "/taken", "t")
    at = f"{store}/memories/{memory['id']}"
    for body in [{"content": "y"}, {"path": "/b"}, {"content": "y", "path": "/b"}, {"content": "x", "path": "/b"}, {"content": "y", "path": "/a"}]:
        for value in [HASH0, sha("y"), sha("t")]:
            refused(daemon.post(at, {**body, **holds(value)}), 409, f"{body} if {value[:6]}", "memory_precondition_failed_error")
    expect(daemon.seen(at), {**memory, "content": "x"}, "nothing was changed")
    refused(daemon.post(at, {"path": "/taken", **holds(HASH0)}), 409, "the precondition before the conflict", "memory_precondition_failed_error")
    refused(daemon.post(at, {"path": "/taken", **holds(sha("x"))}), 409, "then the conflict", "memory_path_conflict_error")
    refused(daemon.post(at, {"path": "bad", **holds(HASH0)}), 400, "the fields before the precondition", "invalid_request_error")
    refused(daemon.post(at, {"content": "x" * 102_401, **holds(HASH0)}), 400, "the limit before the precondition", "invalid_request_error")
    expect(daemon.made(at, {"path": "/b", **holds(sha("x"))})["path"], "/b", "a rename whose precondition holds")
    expect(daemon.made(at, {"content": "y", **holds(sha("x"))}, view="full")["content"], "y", "a write whose precondition holds")
    refused(daemon.post(at, {"content": "z", **holds(sha("x"))}), 409, "a second one", "memory_precondition_failed_error")
    version = daemon.seen(f"{store}/memory_versions")["data"]
    expect(len(version), 4, "versions")


@case("4.5")
def a_malformed_precondition_is_400(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "x")
    at = f"{store}/memories/{memory['id']}"
    for value in [
        {}, {"type": "content_sha256"}, {"content_sha256": sha("x")}, {"type": "etag", "content_sha256": sha("x")}, {"type": None, "content_sha256": sha("x")},
        {"type": "content_sha256", "content_sha256": None}, {"type": "content_sha256", "content_sha256": ""},
        {"type": "content_sha256", "content_sha256": sha("x")[:-1]}, {"type": "content_sha256", "content_sha256": sha("x") + "0"},
        {"type": "content_sha256", "content_sha256": "g" * 64}, {"type": "content_sha256", "content_sha256": "\u0660" * 64},
        {"type": "content_sha256", "content_sha256": " " + sha("x")[1:]}, {"type": "content_sha256", "content_sha256": 7},
        {"type": "content_sha256", "content_sha256": sha("x"), "more": 1}, "content_sha256", sha("x"), 7, True, [], [sha("x")],
    ]:
        for body in [{"content": "y"}, {"content": "x"}]:
            refused(daemon.post(at, {**body, "precondition": value}), 400, f"{body} with {value!r}", "invalid_request_error")
    for value in ["", "x", sha("x")[:-1], "g" * 64]:
        refused(daemon.delete(at, expected_content_sha256=value), 400, f"delete expecting {value!r}", "invalid_request_error")
    expect(daemon.seen(at), {**memory, "content": "x"}, "nothing was changed")


@case("4.5")
def one_of_many_updates_with_one_precondition_wins(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "0")
    at = f"{store}/memories/{memory['id']}"
    for turn in range(10):
        results, gate = [], threading.Barrier(8)

        def attempt(number):
            mine = Daemon()
            gate.wait()
            results.append((mine.post(at, {"content": f"{turn}.{number}", **holds(sha("0") if turn == 0 else current["content_sha256"])}), number))
            mine.close()

        current = daemon.seen(at)
        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [number for answer, number in results if answer.status == 200]
        expect((len(results), len(winners)), (8, 1), "winners")
        for answer, _ in results:
            if answer.status != 200:
                refused(answer, 409, "a loser", "memory_precondition_failed_error")
        expect(daemon.seen(at)["content"], f"{turn}.{winners[0]}", "the winner's content")
    expect(len(daemon.pages(f"{store}/memory_versions")[0]), 11, "one version a turn")


@case("4.6")
def a_deletion_is_a_version_and_frees_the_path(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "x")
    at = f"{store}/memories/{memory['id']}"
    refused(daemon.delete(at, expected_content_sha256=HASH0), 409, "with another hash", "memory_precondition_failed_error")
    expect(daemon.seen(at), {**memory, "content": "x"}, "nothing was deleted")
    answer = daemon.delete(at, expected_content_sha256=sha("x"))
    expect((answer.status, answer.json), (200, {"id": memory["id"], "type": "memory_deleted"}), "deleted")
    for method, body in [("GET", None), ("POST", {"content": "y"}), ("DELETE", None)]:
        refused(daemon.send(method, at, body), 404, f"{method} afterwards", "not_found_error")
    version = daemon.seen(f"{store}/memory_versions", memory_id=memory["id"], limit=1)["data"][0]
    expect((version["operation"], version["path"], version["content"], version["content_sha256"], version["content_size_bytes"]),
           ("deleted", "/a", None, None, None), "its version")
    again = daemon.memory(store, "/a", "x")
    expect(again["id"] != memory["id"], True, "a new memory at the path")
    expect(len(daemon.seen(f"{store}/memory_versions", memory_id=memory["id"])["data"]), 2, "the old one's versions")
    expect(len(daemon.seen(f"{store}/memory_versions", memory_id=again["id"])["data"]), 1, "the new one's versions")
    expect(daemon.delete(f"{store}/memories/{again['id']}").status, 200, "without a hash")


TREE = ["/a", "/b/1", "/b/2/x", "/b/2/y", "/b-archive/1", "/b.md", "/notes-archive/x", "/notes/deep/1", "/notes/deep/2", "/notes/top", "/z_/1", "/zx/1",
        "/\u00e9", "/\U0001f600/1", "/\ufb01", "/%/1", "/Z"]


@case("4.7")
def a_list_is_in_the_order_of_bytes(daemon):
    store = daemon.store()
    for path in reversed(TREE):
        daemon.memory(store, path, path)
    wanted = sorted(TREE, key=str.encode)
    for limit in [1, 2, 3, 5, 100]:
        items = daemon.pages(f"{store}/memories", limit=limit)[0]
        expect([item["path"] for item in items], wanted, f"limit {limit}")
        expect(all(set(item) == FIELDS and item["content"] is None for item in items), True, "items are memories")
    for query in [{"depth": 0}, {"path_prefix": "/"}, {"depth": 0, "path_prefix": "/"}, {"order": "desc"}, {"order_by": "updated_at"}]:
        expect([item["path"] for item in daemon.pages(f"{store}/memories", limit=4, **query)[0]], wanted, f"{query}")


def shallow(paths, prefix):
    """What `depth=1` shows of paths, by the rule."""
    found = {}
    for path in paths:
        if path.startswith(prefix):
            rest = path[len(prefix):]
            shown = prefix + rest.split("/")[0] + ("/" if "/" in rest else "")
            found[shown] = "memory_prefix" if "/" in rest else "memory"
    return sorted(found.items(), key=lambda item: item[0].encode())


@case("4.7")
def depth_one_shows_prefixes(daemon):
    store = daemon.store()
    for path in TREE:
        daemon.memory(store, path, path)
    for prefix in ["/", "/b/", "/b/2/", "/notes/", "/notes/deep/", "/nothing/", "/b/1/", "/a/", "/z_/", "/%/", "/\U0001f600/", "/B/", "/note/", "/notes/de/"]:
        wanted = shallow(TREE, prefix)
        for limit in [1, 2, 3, 100]:
            items, pages = daemon.pages(f"{store}/memories", depth=1, path_prefix=prefix, limit=limit)
            expect([(item["path"], item["type"]) for item in items], wanted, f"depth 1 of {prefix}, limit {limit}")
            expect(pages, max(1, -(-len(wanted) // limit)), f"pages of {prefix}, limit {limit}")
            for item in items:
                expect(set(item), {"type", "path"} if item["type"] == "memory_prefix" else FIELDS, f"fields of {item['path']}")
        deep = sorted((path for path in TREE if path.startswith(prefix)), key=str.encode)
        for limit in [1, 3, 100]:
            items = daemon.pages(f"{store}/memories", path_prefix=prefix, limit=limit)[0]
            expect([item["path"] for item in items], deep, f"all of {prefix}, limit {limit}")
    full = daemon.seen(f"{store}/memories", depth=1, view="full", limit=100)["data"]
    expect(all(item.get("content") == item["path"] for item in full if item["type"] == "memory"), True, "content in full")


@case("4.7")
def a_bad_prefix_or_depth_is_400(daemon):
    store = daemon.store()
    for prefix in ["", "a", "a/", "/a", "notes/", "/notes", "./", "\\"]:
        refused(daemon.get(f"{store}/memories", path_prefix=prefix), 400, f"path_prefix={prefix!r}", "invalid_request_error")
    for depth in [2, -1, 20, "x", "", "1.0", "true", "null", 10**30]:
        refused(daemon.get(f"{store}/memories", depth=depth), 400, f"depth={depth!r}", "invalid_request_error")
    expect(daemon.seen(f"{store}/memories", path_prefix="/nothing/"), {"data": [], "next_page": None}, "nothing matches")


@case("1.8")
def pages_of_memories_survive_what_comes_and_goes(daemon):
    store = daemon.store()
    ids = {path: daemon.memory(store, path, "x")["id"] for path in ["/a", "/b/1", "/b/2", "/c", "/d/1", "/e", "/f"]}
    first = daemon.seen(f"{store}/memories", limit=2, depth=1)
    expect([item["path"] for item in first["data"]], ["/a", "/b/"], "the first page ends with a prefix")
    for path in ["/b/3", "/b/0", "/aa", "/ba", "/dd"]:
        ids[path] = daemon.memory(store, path, "x")["id"]
    for path in ["/b/1", "/b/2", "/c"]:
        daemon.delete(f"{store}/memories/{ids[path]}")
    second = daemon.seen(f"{store}/memories", limit=2, depth=1, page=first["next_page"])
    expect([item["path"] for item in second["data"]], ["/ba", "/d/"], "not the prefix again")
    for path in ["/b/0", "/b/3", "/d/1", "/ba"]:
        daemon.delete(f"{store}/memories/{ids[path]}")
    third = daemon.seen(f"{store}/memories", limit=10, depth=1, page=second["next_page"])
    expect([item["path"] for item in third["data"]], ["/dd", "/e", "/f"], "though what the page ended with has gone")
    first = daemon.seen(f"{store}/memories", limit=2)
    daemon.made(f"{store}/memories/{first['data'][1]['id']}", {"path": "/zz"})
    rest = daemon.seen(f"{store}/memories", limit=10, page=first["next_page"])
    expect([item["path"] for item in rest["data"]], ["/dd", "/e", "/f", "/zz"], "though what the page ended with has moved")


if __name__ == "__main__":
    run(sys.argv[1:])
