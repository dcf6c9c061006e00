"""The SDK's own sync worker (`api.md` 9.7): it keeps a copy of each store of a session on disk and reconciles it with the daemon.

Beside REMFS_CLIENT_URL: REMFS_CLIENT_SCRATCH is an empty directory. Nothing of the worker is replaced but its clock and the place of its
folders, which would be below `/mnt/memory`.
"""

import os
import pathlib

import anthropic.lib.tools._memories as worker

import wire
from sdk_driver import Async
from wire import Daemon, expect

SCRATCH = pathlib.Path(os.environ["REMFS_CLIENT_SCRATCH"])


class Copies:
    """A session with a writable store and one that is not, and the worker's copies of both."""

    def __init__(self):
        self.sdk = Async(os.environ["REMFS_CLIENT_URL"], os.environ.get("REMFS_CLIENT_KEY"))
        self.daemon = Daemon()
        self.now = 0.0
        worker.monotonic = lambda: self.now
        self.stores = [self.daemon.store(name) for name in ["Mine", "Reference"]]
        self.folders = [SCRATCH / "mine", SCRATCH / "reference"]

    def attach(self):
        resources = [{"type": "memory_store", "memory_store_id": store.split("/")[-1], "access": access}
                     for store, access in zip(self.stores, ["read_write", "read_only"])]
        session = self.sdk.call("sessions.create", agent="a", environment_id="e", resources=resources)
        for resource, folder in zip(session.resources, self.folders):
            resource.mount_path = str(folder)
        self.memories = worker.SessionMemoryStores(self.sdk.client, workdir=SCRATCH, sync_interval=60)
        self.sdk.run(self.memories.download(session))

    def sync(self):
        self.now += 61
        self.sdk.run(self.memories.sync_if_due())

    def remote(self, store=0):
        return {one["path"]: one["content"] for one in self.daemon.pages(f"{self.stores[store]}/memories", view="full")[0]}

    def local(self, store=0):
        root = self.folders[store]
        return {"/" + str(path.relative_to(root)): path.read_bytes().decode() for path in root.rglob("*")
                if path.is_file() and path.name != worker.MARKER_PATH}

    def agree(self, wanted, what):
        for place, found in [("in the store", self.remote()), ("on disk", self.local())]:
            wrong = {path: (found.get(path), wanted.get(path)) for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path)}
            expect(wrong, {}, f"{what}: {place}")

    def change(self, place, /, content=None, store=0, **fields):
        """Another client changes a memory."""
        memory = self.daemon.seen(f"{self.stores[store]}/memories", path=place)["data"][0]
        at = f"{self.stores[store]}/memories/{memory['id']}"
        if content is None and not fields:
            self.daemon.delete(at)
        else:
            self.daemon.made(at, {"content": content, **fields})
        return memory["id"]

    def versions(self, memory):
        return [one["operation"] for one in self.daemon.pages(f"{self.stores[0]}/memory_versions", memory_id=memory)[0]]


def downloads(copies):
    texts = {f"/notes/{number:03}.md": f"text {number}\n" * number for number in range(130)}
    texts |= {"/a b/%/#?.md": "odd \U0001f600\r\n\u2028", "/.hidden": "", "/deep/" + "/".join("abcdefgh"): "e\u0301", "/big": "x" * 102_400}
    for path, text in texts.items():
        copies.daemon.memory(copies.stores[0], path, text)
    copies.daemon.memory(copies.stores[1], "/rules.md", "read me")
    copies.attach()
    copies.agree(texts, "downloaded")
    expect(copies.local(1), {"/rules.md": "read me"}, "the other store")
    copies.sync()
    copies.agree(texts, "a sync of nothing")
    expect(len(copies.daemon.pages(f"{copies.stores[0]}/memory_versions", limit=100)[0]), len(texts), "no version of a sync of nothing")


def reconciles(copies):
    texts = copies.local()
    mine = copies.folders[0]
    # Here: one new, one changed, one deleted. There: the same.
    (mine / "made here.md").write_text("new")
    (mine / "notes/001.md").write_text("changed here")
    os.unlink(mine / "notes/002.md")
    there = copies.daemon.memory(copies.stores[0], "/made/there.md", "new")
    copies.change("/notes/003.md", "changed there")
    copies.change("/notes/004.md")
    moved = copies.change("/notes/005.md", path="/moved/005.md")
    # Both: the daemon's stands.
    both = copies.change("/notes/006.md", "changed there")
    (mine / "notes/006.md").write_text("changed here")
    # A file that another client changed before its deletion here is told: it comes back.
    os.unlink(mine / "notes/007.md")
    copies.sync()
    copies.change("/notes/007.md", "changed there")
    for _ in range(3):  # A deletion waits until it has been seen twice.
        copies.sync()
    texts |= {"/made here.md": "new", "/notes/001.md": "changed here", "/made/there.md": "new", "/notes/003.md": "changed there",
              "/moved/005.md": texts["/notes/005.md"], "/notes/006.md": "changed there", "/notes/007.md": "changed there"}
    for path in ["/notes/002.md", "/notes/004.md", "/notes/005.md"]:
        del texts[path]
    copies.agree(texts, "reconciled")
    expect((copies.versions(there["id"]), copies.versions(moved), copies.versions(both)), (["created"], ["modified", "created"], ["modified", "created"]),
           "versions")
    (mine / "notes/008.md").write_text("again here")
    copies.sync()
    texts["/notes/008.md"] = "again here"
    copies.agree(texts, "another turn")


def leaves_what_the_daemon_refuses(copies):
    texts = copies.local()
    mine = copies.folders[0]
    (mine / "too large").write_text("x" * 102_401)
    (mine / "notes/009.md").write_text("beside it")
    (copies.folders[1] / "rules.md").write_text("mine now")
    copies.sync()
    remote = copies.remote()
    expect(("/too large" in remote, remote["/notes/009.md"]), (False, "beside it"), "one is refused, the other goes")
    expect(copies.remote(1), {"/rules.md": "read me"}, "a read-only store is not written")
    (mine / "too large").write_text("smaller")
    copies.sync()
    copies.agree({**texts, "/notes/009.md": "beside it", "/too large": "smaller"}, "it goes when it fits")


def finishes(copies):
    texts = copies.local()
    (copies.folders[0] / "last.md").write_text("at the end")
    copies.sdk.run(copies.memories.finish())
    expect(copies.remote(), {**texts, "/last.md": "at the end"}, "the last sync")
    copies.sdk.run(copies.memories.dispose())
    expect([folder.exists() for folder in copies.folders], [False, False], "the copies are gone")
    expect(len(copies.remote()), len(texts) + 1, "the store stays")


if __name__ == "__main__":
    copies = Copies()
    for scenario in [downloads, reconciles, leaves_what_the_daemon_refuses, finishes]:
        wire.played(scenario.__name__, lambda: scenario(copies))
    copies.sdk.close()
    wire.report("the sync worker")
