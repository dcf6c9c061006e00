"""The official SDK, unchanged but for its transport, called in each of the ways it offers.

A scenario names a method by its place below `client.beta` (`memory_stores.memories.create`) and gets what the SDK parsed, whichever the way:
plain, raw responses, streamed responses, and the asynchronous client. Responses are validated strictly. What was called is kept, so that a
method that no scenario drives can be told.
"""

import asyncio
import contextlib
import inspect
import os
import threading

import anthropic
import httpx2

import wire
from wire import expect

RESOURCES = ["memory_stores", "sessions", "dreams"]


def methods(root):
    """The methods of a resource and of all below it, found in the SDK itself."""
    found = set()
    client = anthropic.Anthropic(api_key="none", base_url="http://localhost")

    def walk(resource, name):
        for key in dir(type(resource)):
            if key.startswith("_") or key.startswith("with_"):
                continue
            value = inspect.getattr_static(type(resource), key)
            if callable(value):
                found.add(f"{name}.{key}")
            elif not isinstance(value, (str, int)):
                walk(getattr(resource, key), f"{name}.{key}")

    walk(getattr(client.beta, root), root)
    client.close()
    return found


class Driver:
    """One way of calling."""

    def __init__(self, url, key):
        self.url, self.key = url, key
        self.called = set()
        self.responses = []

    def settings(self, transport, client, hooks):
        uds = self.url[5:] if self.url.startswith("unix:") else None
        return {
            "base_url": "http://localhost" if uds else self.url,
            "api_key": self.key or "none",
            "http_client": client(transport=transport(uds=uds), event_hooks=hooks),
            "_strict_response_validation": True,
            "timeout": 60,
        }

    def find(self, name, way=None):
        self.called.add(name)
        *path, last = name.split(".")
        resource = self.client.beta
        for part in path:
            resource = getattr(resource, part)
        return getattr(getattr(resource, way) if way else resource, last)

    def check(self, result, name):
        """What every success carries."""
        response = self.responses[-1]
        expect(response.status_code, 200, f"{self.way} {name}: status")
        request = response.headers["request-id"]
        expect(request.startswith("req_01"), True, f"{self.way} {name}: request-id")
        if hasattr(result, "_request_id"):
            expect(result._request_id, request, f"{self.way} {name}: _request_id")
        return result

    def refused(self, kind, type, name, /, *arguments, **options):
        """A call that has to fail with this class of the SDK, without a retry; the error."""
        before = len(self.responses)
        try:
            result = self.call(name, *arguments, **options)
        except anthropic.APIStatusError as error:
            what = f"{self.way} {name}({wire.short(options)}): {error}"
            expect(error.__class__, kind, what)
            envelope = error.body if isinstance(error.body, dict) else {}
            expect((envelope.get("type"), envelope.get("error", {}).get("type")), ("error", type), what)
            expect(error.request_id, self.responses[-1].headers["request-id"], f"{what}: request_id")
            expect(envelope.get("request_id"), error.request_id, f"{what}: request_id of the envelope")
            expect(len(self.responses) - before, 1, f"{what}: requests")
            return envelope.get("error", {})
        expect(wire.short(result), kind, f"{self.way} {name}({wire.short(options)}): a refusal")
        return {}

    def close(self):
        self.client.close()


class Plain(Driver):
    way = "plain"

    def __init__(self, url, key):
        super().__init__(url, key)
        hooks = {"response": [self.responses.append]}
        self.client = anthropic.Anthropic(**self.settings(httpx2.HTTPTransport, anthropic.DefaultHttpxClient, hooks))

    def call(self, name, /, *arguments, **options):
        return self.check(self.find(name)(*arguments, **options), name)

    def all(self, name, /, *arguments, **options):
        """The items of all pages, by the SDK's own auto-pagination."""
        return list(self.call(name, *arguments, **options))

    @contextlib.contextmanager
    def stream(self, name, /, *arguments, **options):
        """A function that gives the next event, or None at the end."""
        with self.opened(name, *arguments, **options) as stream:
            events = iter(stream)
            yield lambda: next(events, None)

    @contextlib.contextmanager
    def opened(self, name, /, *arguments, **options):
        with self.find(name)(*arguments, **options) as stream:
            yield stream


class Raw(Plain):
    way = "with_raw_response"

    def call(self, name, /, *arguments, **options):
        response = self.find(name, self.way)(*arguments, **options)
        expect(response.headers["request-id"], self.responses[-1].headers["request-id"], f"{self.way} {name}: headers")
        expect(response.http_response.status_code, 200, f"{self.way} {name}: status")
        return self.check(response.parse(), name)

    @contextlib.contextmanager
    def opened(self, name, /, *arguments, **options):
        with self.find(name, self.way)(*arguments, **options).parse() as stream:
            yield stream


class Streamed(Plain):
    way = "with_streaming_response"

    def call(self, name, /, *arguments, **options):
        with self.find(name, self.way)(*arguments, **options) as response:
            return self.check(response.parse(), name)

    @contextlib.contextmanager
    def opened(self, name, /, *arguments, **options):
        with self.find(name, self.way)(*arguments, **options) as response:
            yield response.parse()


class Async(Driver):
    way = "async"

    def __init__(self, url, key):
        super().__init__(url, key)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

        async def keep(response):
            self.responses.append(response)

        settings = self.settings(httpx2.AsyncHTTPTransport, anthropic.DefaultAsyncHttpxClient, {"response": [keep]})
        self.client = anthropic.AsyncAnthropic(**settings)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(120)

    def call(self, name, /, *arguments, **options):
        async def call():
            return await self.find(name)(*arguments, **options)

        return self.check(self.run(call()), name)

    def all(self, name, /, *arguments, **options):
        async def collect():
            return [item async for item in self.find(name)(*arguments, **options)]

        return self.run(collect())

    @contextlib.contextmanager
    def stream(self, name, /, *arguments, **options):
        async def open():
            return await self.find(name)(*arguments, **options)

        stream = self.run(open())
        events = aiter(stream)

        async def following():
            return await anext(events, None)

        try:
            yield lambda: self.run(following())
        finally:
            self.run(stream.close())

    def close(self):
        self.run(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)


def drive(root, scenarios):
    """Plays the scenarios in each way, and demands that they called every method below `root`."""
    url, key = os.environ["REMFS_TEST_URL"], os.environ.get("REMFS_TEST_KEY")
    for way in [Plain, Raw, Streamed, Async]:
        driver = way(url, key)
        for scenario in scenarios:
            wire.played(f"{driver.way} {scenario.__name__}", lambda: scenario(driver))
        expect(sorted(methods(root) - driver.called), [], f"{driver.way}: methods of {root} that nothing drives")
        driver.close()
    wire.report(f"{len(methods(root))} methods of {root}")
