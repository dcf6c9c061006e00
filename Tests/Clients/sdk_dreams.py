"""Every method of `client.beta.dreams`, as far as a daemon without a model answers: it refuses to make one and names the models it knows."""

import anthropic

from sdk_driver import drive
from wire import expect


def dreams(sdk):
    store = sdk.call("memory_stores.create", name="dreamt of").id
    session = sdk.call("sessions.create", agent="a", environment_id="e").id
    inputs = [{"type": "memory_store", "memory_store_id": store}, {"type": "sessions", "session_ids": [session]}]
    for model in ["no-such-model", {"id": "no-such-model", "speed": "standard"}]:
        error = sdk.refused(anthropic.BadRequestError, "invalid_request_error", "dreams.create", inputs=inputs, model=model)
        expect("model" in error.get("message", ""), True, f"{error.get('message')} speaks of the model")
    for options in [
        {"inputs": []}, {"inputs": inputs[:1]}, {"inputs": inputs[1:]}, {"inputs": inputs + inputs[:1]}, {"inputs": inputs, "instructions": ""},
        {"inputs": inputs, "instructions": "x" * 4097}, {"inputs": [inputs[0], {"type": "sessions", "session_ids": []}]},
        {"inputs": [inputs[0], {"type": "sessions", "session_ids": [session, session]}]},
        {"inputs": inputs, "output_behavior": {"type": "update_existing", "memory_store_id": "memstore_01" + "1" * 22}},
    ]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "dreams.create", model="m", **options)
    expect(sdk.all("dreams.list"), [], "none")
    expect(sdk.all("dreams.list", statuses=["pending", "running"], include_archived=True, limit=1, created_at_gt="2026-01-01T00:00:00Z"), [], "none")
    for options in [{"limit": 0}, {"limit": 101}, {"page": "page_x"}, {"statuses": ["asleep"]}]:
        sdk.refused(anthropic.BadRequestError, "invalid_request_error", "dreams.list", **options)
    for name in ["retrieve", "cancel", "archive"]:
        sdk.refused(anthropic.NotFoundError, "not_found_error", f"dreams.{name}", "drm_01" + "1" * 22)


if __name__ == "__main__":
    drive("dreams", [dreams])
