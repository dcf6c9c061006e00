"""The SDK's local memory tool (`api.md` 10) with its directory on a mounted store, sync and async.

Beside REMFS_TEST_URL: REMFS_TEST_MOUNT is the mount's directory and REMFS_TEST_STORE the store's ID.
"""

import asyncio
import os

from anthropic.lib.tools import ToolError
from anthropic.lib.tools._beta_builtin_memory_tool import BetaAsyncLocalFilesystemMemoryTool, BetaLocalFilesystemMemoryTool

import wire
from wire import Daemon, expect

STORE = "/v1/memory_stores/" + os.environ["REMFS_TEST_STORE"]
MOUNT = os.environ["REMFS_TEST_MOUNT"]
EDITED = "The memory file has been edited. Here is the snippet showing the change (with line numbers):\n"


class Tool:
    """The tool on a directory of its own in the mount, and the API's view of what it did there."""

    def __init__(self, kind):
        self.root = f"/{kind.__name__}"
        self.tool = kind(base_path=MOUNT + self.root)
        self.daemon = Daemon()

    def __call__(self, command, **fields):
        result = self.tool.call({"command": command, **fields})
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    def does(self, wanted, command, **fields):
        expect(self(command, **fields), wanted, f"{command} {wire.short(fields)}")

    def fails(self, wanted, command, **fields):
        try:
            result = self(command, **fields)
        except ToolError as error:
            expect(str(error), wanted, f"{command} {wire.short(fields)}")
        else:
            expect(result, wanted, f"{command} {wire.short(fields)}: a ToolError")

    def memory(self, path):
        """What the API has at a path of the tool, with its content; None where there is nothing."""
        page = self.daemon.seen(f"{STORE}/memories", path=self.root + path, view="full")["data"]
        return page[0] if page else None

    def has(self, path, content):
        memory = self.memory(path)
        expect(memory and memory["content"], content, f"content of {path} by the API")
        return memory

    def deletion(self, memory):
        """The path of a memory's deletion, a version that the mount writes when nothing was born at its path within two seconds."""
        last = self.daemon.seen(f"{STORE}/memory_versions", memory_id=memory, limit=1)["data"][0]
        if last["operation"] != "deleted":
            last = self.daemon.seen(f"{STORE}/memory_versions", memory_id=memory, after=last["id"], wait=20)["data"][0]
        return last["operation"], last["path"][len(self.root):]

    def history(self, memory):
        """The versions of a memory, the oldest first: operation, path below the tool's directory, content."""
        items = self.daemon.pages(f"{STORE}/memory_versions", memory_id=memory, view="full")[0]
        return [(one["operation"], one["path"][len(self.root):], one["content"]) for one in reversed(items)]


def creates_and_views(tool):
    tool.does("File created successfully at: /memories/notes.md", "create", path="/memories/notes.md", file_text="one\ntwo\n")
    memory = tool.has("/memories/notes.md", "one\ntwo\n")
    expect(tool.history(memory["id"]), [("created", "/memories/notes.md", "one\ntwo\n")], "one version")
    tool.fails("File /memories/notes.md already exists", "create", path="/memories/notes.md", file_text="x")
    expect(tool.history(memory["id"]), [("created", "/memories/notes.md", "one\ntwo\n")], "nothing of what failed")
    tool.does("Here's the content of /memories/notes.md with line numbers:\n     1\tone\n     2\ttwo\n     3\t", "view", path="/memories/notes.md")
    head = "Here's the content of /memories/notes.md with line numbers:\n"
    tool.does(head + "     2\ttwo", "view", path="/memories/notes.md", view_range=[2, 2])
    tool.does(head + "     2\ttwo\n     3\t", "view", path="/memories/notes.md", view_range=[2, -1])
    tool.does("File created successfully at: /memories/deep/er/x.txt", "create", path="/memories/deep/er/x.txt", file_text="a" * 1536)
    tool.does("File created successfully at: /memories/.hidden", "create", path="/memories/.hidden", file_text="")
    tool.does("File created successfully at: /memories/empty", "create", path="/memories/empty", file_text="")
    tool.has("/memories/deep/er/x.txt", "a" * 1536)
    tool.has("/memories/empty", "")
    size = lambda path: str(os.stat(MOUNT + tool.root + path).st_size) + "B" if os.stat(MOUNT + tool.root + path).st_size < 1024 else "4K"
    lines = [(size("/memories"), "/memories"), (size("/memories/deep"), "/memories/deep/"), (size("/memories/deep/er"), "/memories/deep/er/"),
             ("0B", "/memories/empty"), ("8B", "/memories/notes.md")]
    listing = "Here're the files and directories up to 2 levels deep in /memories, excluding hidden items:\n"
    tool.does(listing + "\n".join(f"{bytes}\t{path}" for bytes, path in lines), "view", path="/memories")
    found = tool("view", path="/memories/deep")
    expect(found.split("\n")[-1], "1.5K\t/memories/deep/er/x.txt", "a size with a fraction")
    expect(os.stat(MOUNT + tool.root + "/memories/notes.md").st_mode & 0o777, 0o600, "mode of a file")
    expect(os.stat(MOUNT + tool.root + "/memories/deep").st_mode & 0o777, 0o700, "mode of a directory")


def edits_keep_id_and_history(tool):
    tool("create", path="/memories/log.md", file_text="one\ntwo\nthree\nfour\nfive\nsix\n")
    memory = tool.memory("/memories/log.md")
    tool.does(EDITED + "     2\ttwo\n     3\tthree\n     4\tFOUR\n     5\tfive\n     6\tsix", "str_replace",
              path="/memories/log.md", old_str="four", new_str="FOUR")
    tool.does("The file /memories/log.md has been edited.", "insert", path="/memories/log.md", insert_line=0, insert_text="zero\n")
    tool.does("The file /memories/log.md has been edited.", "insert", path="/memories/log.md", insert_line=7, insert_text="seven")
    tool.does(EDITED + "     1\tzero\n     2\t\n     3\ttwo\n     4\tthree", "str_replace", path="/memories/log.md", old_str="one", new_str="")
    texts = ["one\ntwo\nthree\nfour\nfive\nsix\n", "one\ntwo\nthree\nFOUR\nfive\nsix\n", "zero\none\ntwo\nthree\nFOUR\nfive\nsix\n",
             "zero\none\ntwo\nthree\nFOUR\nfive\nsix\nseven\n", "zero\n\ntwo\nthree\nFOUR\nfive\nsix\nseven\n"]
    now = tool.has("/memories/log.md", texts[-1])
    expect(now["id"], memory["id"], "the id through temp and rename")
    wanted = [("created" if place == 0 else "modified", "/memories/log.md", text) for place, text in enumerate(texts)]
    expect(tool.history(memory["id"]), wanted, "each edit is one version of it")
    tool.does("Successfully renamed /memories/log.md to /memories/old/log.md", "rename", old_path="/memories/log.md", new_path="/memories/old/log.md")
    moved = tool.has("/memories/old/log.md", texts[-1])
    expect((moved["id"], tool.memory("/memories/log.md")), (memory["id"], None), "the id through a rename")
    tool.does("Successfully renamed /memories/old to /memories/older", "rename", old_path="/memories/old", new_path="/memories/older")
    expect(tool.has("/memories/older/log.md", texts[-1])["id"], memory["id"], "the id through a rename of its directory")
    tool("str_replace", path="/memories/older/log.md", old_str="zero\n", new_str="")
    tool.does("Successfully deleted /memories/older/log.md", "delete", path="/memories/older/log.md")
    expect(tool.memory("/memories/older/log.md"), None, "deleted")
    expect(tool.deletion(memory["id"]), ("deleted", "/memories/older/log.md"), "the deletion")
    wanted += [("modified", "/memories/old/log.md", texts[-1]), ("modified", "/memories/older/log.md", texts[-1]),
               ("modified", "/memories/older/log.md", texts[-1][5:]), ("deleted", "/memories/older/log.md", None)]
    expect(tool.history(memory["id"]), wanted, "and to the end")
    strays = [one["path"] for one in tool.daemon.pages(f"{STORE}/memory_versions")[0] if "/.tmp-" in one["path"]]
    expect(strays, [], "versions of temporary files")


def deletes_directories(tool):
    for name in ["a", "b", "c/d"]:
        tool("create", path=f"/memories/tree/{name}", file_text=name)
    ids = [tool.memory(f"/memories/tree/{name}")["id"] for name in ["a", "b", "c/d"]]
    tool.does("Successfully deleted /memories/tree", "delete", path="/memories/tree")
    for one, name in zip(ids, ["a", "b", "c/d"]):
        expect(tool.memory(f"/memories/tree/{name}"), None, f"{name} by the API")
        expect(tool.deletion(one), ("deleted", f"/memories/tree/{name}"), f"the last version of {name}")
    tool.fails("The path /memories/tree does not exist. Please provide a valid path.", "view", path="/memories/tree")


def says_what_is_wrong(tool):
    tool("create", path="/memories/f", file_text="x y\nz\nx\n")
    tool("create", path="/memories/d/f", file_text="")
    before = tool.memory("/memories/f")
    missing = "The path /memories/none does not exist"
    tool.fails(missing + ". Please provide a valid path.", "view", path="/memories/none")
    tool.fails(missing + ". Please provide a valid path.", "str_replace", path="/memories/none", old_str="a", new_str="b")
    tool.fails(missing + ". Please provide a valid path.", "insert", path="/memories/none", insert_line=0, insert_text="a")
    tool.fails(missing, "delete", path="/memories/none")
    tool.fails(missing, "rename", old_path="/memories/none", new_path="/memories/other")
    tool.fails("The path /memories/d is not a file.", "str_replace", path="/memories/d", old_str="a", new_str="b")
    tool.fails("The path /memories/d is not a file.", "insert", path="/memories/d", insert_line=0, insert_text="a")
    tool.fails("File /memories/f already exists", "create", path="/memories/f", file_text="")
    tool.fails("No replacement was performed, old_str `nope` did not appear verbatim in /memories/f.", "str_replace",
               path="/memories/f", old_str="nope", new_str="b")
    tool.fails("No replacement was performed. Multiple occurrences of old_str `x` in lines: 1, 3. Please ensure it is unique", "str_replace",
               path="/memories/f", old_str="x", new_str="b")
    for line in [-1, 4, 99]:
        tool.fails(f"Invalid `insert_line` parameter: {line}. It should be within the range [0, 3].", "insert", path="/memories/f",
                   insert_line=line, insert_text="a")
    tool.fails("Cannot delete the /memories directory itself", "delete", path="/memories")
    tool.fails("Cannot rename the /memories directory itself", "rename", old_path="/memories", new_path="/memories/x")
    tool.fails("The destination /memories/f already exists", "rename", old_path="/memories/d/f", new_path="/memories/f")
    tool.fails("The destination /memories/d already exists", "rename", old_path="/memories/f", new_path="/memories/d")
    for command, fields in [("view", {}), ("create", {"file_text": ""}), ("delete", {})]:
        tool.fails("Path must start with /memories, got: /etc/passwd", command, path="/etc/passwd", **fields)
        tool.fails("Path /memories/../../x would escape /memories directory", command, path="/memories/../../x", **fields)
    os.mkfifo(MOUNT + tool.root + "/memories/fifo")
    tool.fails("Unsupported file type for /memories/fifo", "view", path="/memories/fifo")
    os.symlink("/etc", MOUNT + tool.root + "/memories/link")
    tool.fails("Path /memories/link/passwd would escape /memories directory", "view", path="/memories/link/passwd")
    expect("link" in tool("view", path="/memories"), False, "a link that leads out is not listed")
    tool("create", path="/memories/long", file_text="\n" * 999_998)
    expect(tool("view", path="/memories/long", view_range=[999_999, -1]).endswith("\n999999\t"), True, "999,999 lines")
    tool("create", path="/memories/longer", file_text="\n" * 999_999)
    tool.fails("File /memories/longer exceeds maximum line limit of 999,999 lines.", "view", path="/memories/longer")
    expect(tool.memory("/memories/f"), before, "unchanged by what failed")


def what_is_changed_elsewhere_is_seen(tool):
    tool("create", path="/memories/shared", file_text="by the tool\n")
    memory = tool.memory("/memories/shared")
    tool.daemon.made(f"{STORE}/memories/{memory['id']}", {"content": "by the API\n"})
    tool.does("Here's the content of /memories/shared with line numbers:\n     1\tby the API\n     2\t", "view", path="/memories/shared")
    tool("str_replace", path="/memories/shared", old_str="API", new_str="API and the tool")
    expect(tool.has("/memories/shared", "by the API and the tool\n")["id"], memory["id"], "one memory")
    made = tool.daemon.memory(STORE, tool.root + "/memories/api/new", "text")
    tool.does("Here's the content of /memories/api/new with line numbers:\n     1\ttext", "view", path="/memories/api/new")
    tool.daemon.delete(f"{STORE}/memories/{made['id']}")
    tool.fails("The path /memories/api/new does not exist. Please provide a valid path.", "view", path="/memories/api/new")


def clears(tool):
    tool("create", path="/memories/left", file_text="x")
    result = tool.tool.clear_all_memory()
    expect(asyncio.run(result) if asyncio.iscoroutine(result) else result, "All memory cleared", "clear")
    left = [item["path"] for item in tool.daemon.pages(f"{STORE}/memories", path_prefix=tool.root + "/")[0]]
    expect(left, [], "what the API has left")


if __name__ == "__main__":
    for kind in [BetaLocalFilesystemMemoryTool, BetaAsyncLocalFilesystemMemoryTool]:
        tool = Tool(kind)
        for scenario in [creates_and_views, edits_keep_id_and_history, deletes_directories, says_what_is_wrong, what_is_changed_elsewhere_is_seen,
                         clears]:
            wire.played(f"{kind.__name__} {scenario.__name__}", lambda: scenario(tool))
    wire.report("the local memory tool")
