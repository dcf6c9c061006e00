"""Every method of `client.beta.sessions`, with `.events`, `.resources` and `.threads`, of the official SDK."""

import anthropic

from sdk_driver import drive
from wire import Daemon, expect

UNKNOWN = "sesn_01" + "1" * 22


def text(words):
    return [{"type": "text", "text": words}]


def message(words):
    return {"type": "user.message", "content": text(words)}


def made(sdk, **options):
    return sdk.call("sessions.create", agent="writer", environment_id="laptop", **options)


def attached(store, **options):
    return {"type": "memory_store", "memory_store_id": store, **options}


def sessions(sdk):
    store = sdk.call("memory_stores.create", name="Team handbook", description="House rules").id
    session = made(sdk, title="Order #1234", metadata={"k": "v"}, resources=[attached(store, access="read_only", instructions="Read first.")],
                   initial_events=[message("Where is my order?")], vault_ids=["vlt_1"])
    expect((session.type, session.status, session.title, session.metadata), ("session", "idle", "Order #1234", {"k": "v"}), "made")
    expect((session.environment_id, session.vault_ids, session.outcome_evaluations), ("laptop", ["vlt_1"], []), "echoed")
    expect((session.budget, session.deployment_id, session.archived_at), (None, None, None), "null")
    agent = session.agent
    expect((agent.id, agent.type, agent.version, agent.name, agent.tools, agent.skills, agent.mcp_servers), ("writer", "agent", 1, "writer", [], [], []), "agent")
    expect((agent.multiagent, agent.execution_identity.type, agent.model.speed), (None, "service_account", "standard"), "agent")
    expect((session.usage.input_tokens, session.usage.output_tokens, session.stats.active_seconds), (0, 0, 0), "usage")
    expect(len(session.resources), 1, "resources")
    resource = session.resources[0]
    expect((resource.type, resource.memory_store_id, resource.access, resource.instructions), ("memory_store", store, "read_only", "Read first."), "resource")
    expect((resource.name, resource.description, resource.mount_path), ("Team handbook", "House rules", "/mnt/memory/team-handbook"), "resource")
    expect(sorted(session.model_extra or {}) + sorted(resource.model_extra or {}), [], "fields that the SDK does not know")
    first = sdk.all("sessions.events.list", session.id)
    expect([(event.type, event.content[0].text) for event in first], [("user.message", "Where is my order?")], "the initial event")
    read = sdk.call("sessions.retrieve", session.id)
    expect((read.id, read.resources[0].to_dict(), read.agent.to_dict()), (session.id, resource.to_dict(), agent.to_dict()), "retrieved")
    changed = sdk.call("sessions.update", session.id, title="Other", metadata={"k": None, "l": "w"})
    expect((changed.title, changed.metadata, changed.updated_at > session.updated_at), ("Other", {"l": "w"}, True), "updated")
    same = sdk.call("sessions.update", session.id, title=None, metadata=None)
    expect((same.title, same.metadata), ("Other", {"l": "w"}), "updated with null")
    for options in [{"agent": {"type": "agent", "id": "x"}}, {"budget": {"type": "limit", "max_list_cost": {"amount": "1", "currency": "USD"}}},
                    {"vault_ids": ["vlt_2"]}]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.update", session.id, **options)
    for agent in [{"type": "agent", "id": "a1", "version": 3}, {"type": "agent", "id": "a1"}]:
        other = sdk.call("sessions.create", agent=agent, environment_id="laptop")
        expect((other.agent.id, other.agent.version, other.resources, other.title), ("a1", agent.get("version", 1), [], None), "by an object")
        sdk.call("sessions.delete", other.id)
    archived = sdk.call("sessions.archive", session.id)
    expect((archived.status, archived.archived_at is not None), ("terminated", True), "archived")
    expect(sdk.call("sessions.archive", session.id).archived_at, archived.archived_at, "archived twice")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.events.send", session.id, events=[message("late")])
    expect(len(sdk.all("sessions.events.list", session.id)) >= 1, True, "its history")
    gone = sdk.call("sessions.delete", session.id)
    expect((gone.id, gone.type), (session.id, "session_deleted"), "deleted")
    for name in ["retrieve", "update", "archive", "delete", "events.list", "resources.list", "threads.list", "events.stream"]:
        sdk.refused(anthropic.NotFoundError, "not_found_error", f"sessions.{name}", session.id)
    sdk.refused(anthropic.NotFoundError, "not_found_error", "sessions.events.send", session.id, events=[message("x")])
    expect(sdk.call("memory_stores.retrieve", store).id, store, "its store stays")
    budget = {"type": "limit", "max_list_cost": {"amount": "2500", "currency": "USD"}}
    for options in [{"budget": budget}, {"resources": [{"type": "file", "file_id": "file_1"}]}, {"resources": [attached(store)] * 2},
                    {"resources": [attached(store, access="none")]}, {"resources": [attached(store, instructions="x" * 4097)]},
                    {"initial_events": [message("x")] * 51}, {"metadata": {f"k{number}": "" for number in range(17)}}]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.create", agent="a", environment_id="e", **options)
    sdk.refused(anthropic.NotFoundError, "not_found_error", "sessions.create", agent="a", environment_id="e",
                resources=[attached("memstore_01" + "1" * 22)])
    sdk.call("memory_stores.archive", store)
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.create", agent="a", environment_id="e", resources=[attached(store)])


def lists_of_sessions(sdk):
    store = sdk.call("memory_stores.create", name="listed").id
    ids = [sdk.call("sessions.create", agent={"type": "agent", "id": f"agent {sdk.way}", "version": 1 + number % 2}, environment_id="e",
                    resources=[attached(store)] if number % 2 else []) for number in range(6)]
    times = [session.created_at for session in ids]
    ids = [session.id for session in ids]
    sdk.call("sessions.archive", ids[2])
    mine = {"agent_id": f"agent {sdk.way}"}
    newest = [ids[5], ids[4], ids[3], ids[1], ids[0]]
    found = lambda **options: [session.id for session in sdk.all("sessions.list", **{**mine, **options})]
    for limit in [1, 2, 5, 100]:
        expect(found(limit=limit), newest, f"newest first, {limit} a page")
        expect(found(limit=limit, order="asc"), newest[::-1], f"oldest first, {limit} a page")
        expect(found(limit=limit, include_archived=True), ids[::-1], f"archived ones too, {limit} a page")
    expect(found(agent_version=2), [ids[5], ids[3], ids[1]], "by version")
    expect(found(memory_store_id=store), [ids[5], ids[3], ids[1]], "by store")
    expect(found(deployment_id="dep_1"), [], "by deployment")
    expect(found(statuses=["idle"]), newest, "by status")
    expect(found(statuses=["running", "rescheduling"]), [], "by statuses that none has")
    expect(found(statuses=["terminated", "idle"], include_archived=True), ids[::-1], "by two")
    expect(found(created_at_gt=times[0], created_at_lt=times[5], include_archived=True), ids[1:5][::-1], "between, exclusive")
    expect(found(created_at_gte=times[0], created_at_lte=times[5], include_archived=True), ids[::-1], "between, inclusive")
    first = sdk.call("sessions.list", limit=2, **mine)
    second = sdk.call("sessions.list", limit=2, page=first.next_page, **mine)
    expect((first.prev_page, second.prev_page is not None), (None, True), "prev_page")
    back = sdk.call("sessions.list", limit=2, page=second.prev_page, **mine)
    expect([session.id for session in back.data], [session.id for session in first.data], "back")
    for options in [{"limit": 0}, {"limit": 101}, {"order": "up"}, {"page": "page_x"}, {"statuses": ["asleep"]}]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.list", **options)
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.list", page=first.next_page, order="asc")


def events(sdk):
    session = made(sdk).id
    sent = sdk.call("sessions.events.send", session, events=[
        message("one"), {"type": "user.interrupt"}, message("two"), {"type": "system.message", "content": text("be brief")},
    ])
    expect([event.type for event in sent.data], ["user.message", "user.interrupt", "user.message", "system.message"], "sent")
    expect(all(event.id.startswith("sevt_01") and event.processed_at is not None for event in sent.data), True, "ids and times")
    # A transcript's own events are not in the SDK's type of what sending answers, so its strict validation would refuse the answer.
    Daemon().made(f"/v1/sessions/{session}/events", {"events": [
        {"type": "agent.thinking"}, {"type": "agent.message", "content": text("hello")},
        {"type": "agent.tool_use", "id": "mine", "name": "bash", "input": {"command": "ls"}},
        {"type": "agent.tool_result", "tool_use_id": "mine", "content": text("a.md"), "is_error": False},
        {"type": "agent.custom_tool_use", "id": "own", "name": "ask", "input": {}},
        {"type": "user.custom_tool_result", "custom_tool_use_id": "own", "content": text("yes")},
        {"type": "agent.mcp_tool_use", "id": "far", "name": "get", "input": {}, "mcp_server_name": "web"},
        {"type": "agent.mcp_tool_result", "mcp_tool_use_id": "far", "content": text("<html>")},
    ]})
    imported = sdk.all("sessions.events.list", session)[4:]
    expect([event.type for event in imported][:3], ["agent.thinking", "agent.message", "agent.tool_use"], "a transcript")
    expect(imported[3].tool_use_id, imported[2].id, "a result names the use that the server has")
    expect(imported[5].custom_tool_use_id, imported[4].id, "a custom one too")
    expect(imported[7].mcp_tool_use_id, imported[6].id, "one of MCP too")
    big = sdk.call("sessions.events.send", session, events=[message("x" * 500_000)])
    ids = [event.id for event in sent.data + imported + big.data]
    found = lambda **options: [event.id for event in sdk.all("sessions.events.list", session, **options)]
    for limit in [1, 3, 100, 1000]:
        expect(found(limit=limit), ids, f"oldest first, {limit} a page")
        expect(found(limit=limit, order="desc"), ids[::-1], f"newest first, {limit} a page")
    expect(found(types=["user.message"]), [ids[0], ids[2], ids[12]], "by type")
    expect(found(types=["agent.tool_use", "agent.tool_result"], limit=1), ids[6:8], "by two types")
    at = sent.data[2].processed_at
    whole = sdk.all("sessions.events.list", session)
    for name, kept in [("gt", lambda time: time > at), ("gte", lambda time: time >= at), ("lt", lambda time: time < at), ("lte", lambda time: time <= at)]:
        expect(found(**{f"created_at_{name}": at}), [event.id for event in whole if kept(event.processed_at)], f"created_at[{name}]")
    for options in [{"limit": 0}, {"limit": 1001}, {"order": "up"}, {"page": "page_x"}]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.events.list", session, **options)
    for bad in [[], [{"type": "user.nonsense"}], [message("fine"), {"type": "user.message", "content": 7}], [{"type": "user.message"}],
                [{"type": "user.message", "content": [{"type": "redacted"}]}], [{"type": "session.status_idle"}],
                [{"type": "system.message", "content": text("a")}, message("b")], [message("c"), {"type": "user.define_outcome"}]]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.events.send", session, events=bad)
    expect(found(), ids, "nothing of what was refused is stored")


def streams(sdk):
    session = made(sdk, initial_events=[message("before")]).id
    thread = sdk.all("sessions.threads.list", session)[0].id
    with sdk.stream("sessions.events.stream", session, event_deltas=["agent.message"]) as following, \
            sdk.stream("sessions.threads.events.stream", thread, session_id=session) as threads:
        sent = sdk.call("sessions.events.send", session, events=[message("one\ntwo \u2028 \U0001f600"), {"type": "user.interrupt"}]).data
        sent += sdk.call("sessions.events.send", session, events=[message("three")]).data
        for stream in [following, threads]:
            seen = [stream() for _ in sent]
            expect([(event.type, event.id) for event in seen], [(event.type, event.id) for event in sent], "in order, none from before")
            expect(seen[0].content[0].text, "one\ntwo \u2028 \U0001f600", "content")
        sdk.call("sessions.delete", session)
        rest = []
        while (event := following()) is not None:
            rest.append(event.type)
        expect(rest[-1:], ["session.deleted"], "the last event, and then the end")
    sdk.refused(anthropic.NotFoundError, "not_found_error", "sessions.events.stream", UNKNOWN)
    other = made(sdk).id
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.events.stream", other, event_deltas=["agent.message"] * 101)
    sdk.refused(anthropic.NotFoundError, "not_found_error", "sessions.threads.events.stream", "sthr_x", session_id=other)


def resources(sdk):
    stores = [sdk.call("memory_stores.create", name=name) for name in ["Same name", "same NAME", "!!!"]]
    session = made(sdk, resources=[attached(store.id) for store in stores]).id
    found = sdk.all("sessions.resources.list", session)
    expect([resource.memory_store_id for resource in found], [store.id for store in stores], "in the order of the request")
    expect([resource.mount_path for resource in found], ["/mnt/memory/same-name", "/mnt/memory/same-name-2", f"/mnt/memory/{stores[2].id}"], "paths")
    for limit in [1, 2]:
        expect([one.to_dict() for one in sdk.all("sessions.resources.list", session, limit=limit)], [one.to_dict() for one in found], f"{limit} a page")
    one = sdk.call("sessions.resources.retrieve", stores[1].id, session_id=session)
    expect(one.to_dict(), found[1].to_dict(), "retrieved by the store's ID")
    sdk.call("memory_stores.update", stores[0].id, name="renamed")
    expect(sdk.call("sessions.resources.retrieve", stores[0].id, session_id=session).name, "Same name", "as of then")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.resources.add", session, type="file", file_id="file_1")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.resources.update", stores[0].id, session_id=session, authorization_token="x")
    sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.resources.delete", stores[0].id, session_id=session)
    for name in ["retrieve", "delete"]:
        sdk.refused(anthropic.NotFoundError, "not_found_error", f"sessions.resources.{name}", "sesrsc_01x", session_id=session)
    for limit in [0, 1001]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "sessions.resources.list", session, limit=limit)


def threads(sdk):
    session = made(sdk, initial_events=[message("x")])
    found = sdk.all("sessions.threads.list", session.id, limit=1)
    expect(len(found), 1, "the primary one")
    thread = found[0]
    expect((thread.type, thread.session_id, thread.parent_thread_id, thread.status, thread.workflow_run_id), ("session_thread", session.id, None, "idle", None), "fields")
    expect((thread.agent.id, thread.archived_at, thread.id.startswith("sthr_01")), ("writer", None, True), "fields")
    expect(sdk.call("sessions.threads.retrieve", thread.id, session_id=session.id).to_dict(), thread.to_dict(), "retrieved")
    expect(len(sdk.all("sessions.threads.list", session.id, statuses=["idle"])), 1, "by status")
    expect(sdk.all("sessions.threads.list", session.id, statuses=["running"]), [], "by another")
    listed = sdk.all("sessions.threads.events.list", thread.id, session_id=session.id, limit=1)
    expect([event.id for event in listed], [event.id for event in sdk.all("sessions.events.list", session.id)], "the session's events are its own")
    other = made(sdk).id
    sdk.refused(anthropic.NotFoundError, "not_found_error", "sessions.threads.retrieve", thread.id, session_id=other)
    sdk.refused(anthropic.NotFoundError, "not_found_error", "sessions.threads.archive", "sthr_x", session_id=other)
    archived = sdk.call("sessions.threads.archive", thread.id, session_id=session.id)
    expect((archived.id, archived.archived_at is not None), (thread.id, True), "archived")
    sdk.refused(anthropic.NotFoundError, "not_found_error", "sessions.threads.events.list", "sthr_x", session_id=other)


if __name__ == "__main__":
    drive("sessions", [sessions, lists_of_sessions, events, streams, resources, threads])
