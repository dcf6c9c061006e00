"""`api.md` 5.3: redaction of memory versions."""

from contract_versions import history
from wire import *

cases.clear()  # Those of the versions are run by their own program.


@case("5.3")
def redaction_blanks_what_was_said_and_keeps_who_said_it(daemon):
    store, memory = history(daemon)
    keeper = daemon.memory(store, "/same", "22")
    before = daemon.seen(f"{store}/memory_versions", view="full", memory_id=memory)["data"]
    for place in [3, 0, 1, 4]:
        at = f"{store}/memory_versions/{before[place]['id']}"
        answer = daemon.send("POST", f"{at}/redact")
        if not expect(answer.status, 200, f"redact a {before[place]['operation']} version ({answer.body[:200]!r})"):
            return
        redacted = answer.json
        expect({**redacted, "redacted_at": None, "redacted_by": None},
               {**before[place], "content": None, "path": None, "content_sha256": None, "content_size_bytes": None}, "what is left")
        expect(TIME.fullmatch(redacted["redacted_at"]) is not None and redacted["redacted_by"]["type"], "api_actor", "when and by whom")
        expect(daemon.seen(at), redacted, "read again")
        expect(daemon.made(f"{at}/redact"), redacted, "redacted twice")
        expect(daemon.post(f"{at}/redact", beta=True).status, 200, "with ?beta=true")
    after = daemon.seen(f"{store}/memory_versions", view="full", memory_id=memory)["data"]
    expect([one["id"] for one in after], [one["id"] for one in before], "no version more or less")
    expect(after[2], before[2], "another version with the same bytes keeps them")
    expect(daemon.seen(f"{store}/memories/{keeper['id']}")["content"], "22", "another memory with the same bytes keeps them")


@case("5.3")
def the_head_of_a_live_memory_is_not_redacted(daemon):
    store = daemon.store()
    memory = daemon.memory(store, "/a", "secret")
    first = f"{store}/memory_versions/{memory['memory_version_id']}"
    before = daemon.seen(first)
    refused(daemon.post(f"{first}/redact"), 400, "the head", "invalid_request_error")
    expect(daemon.seen(first), before, "unchanged")
    daemon.made(f"{store}/memories/{memory['id']}", {"content": "clean"})
    expect(daemon.post(f"{first}/redact").status, 200, "no longer the head")
    expect(daemon.seen(f"{store}/memories/{memory['id']}")["content"], "clean", "the memory")
    daemon.made(f"{store}/archive")
    daemon.delete(f"{store}/memories/{memory['id']}")
    for version in daemon.seen(f"{store}/memory_versions")["data"]:
        answer = daemon.post(f"{store}/memory_versions/{version['id']}/redact")
        expect((answer.status, answer.json.get("content_sha256", "")), (200, None), f"in an archived store, {version['operation']}")


if __name__ == "__main__":
    run(sys.argv[1:])
