"""An API write and a mount's write go one way: what each says is true for the other at once, and none loses the other's.

Beside REMFS_TEST_URL: REMFS_TEST_MOUNTS names the directories where one store is mounted, REMFS_TEST_STORE is its ID. REMFS_TEST_ROUNDS: how
often (20).
"""

import hashlib
import os
import random
import threading

import wire
from wire import Daemon, case, expect, refused

STORE = "/v1/memory_stores/" + os.environ["REMFS_TEST_STORE"]
MOUNTS = os.environ["REMFS_TEST_MOUNTS"].split(":")
ROUNDS = int(os.environ.get("REMFS_TEST_ROUNDS", "20"))


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def at(memory):
    return f"{STORE}/memories/{memory['id']}"


def found(daemon, path):
    """The memory at a path, with its content; None where there is none."""
    page = daemon.seen(f"{STORE}/memories", view="full", path=path)["data"]
    return page[0] if page else None


def read(mount, path):
    try:
        with open(mount + path, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


def together(functions):
    """Runs functions in threads that begin at the same time; what they threw is thrown."""
    gate, failures = threading.Barrier(len(functions)), []

    def run(function):
        gate.wait()
        try:
            function()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@case("issue 4.2")
def what_the_api_did_is_in_every_mount(daemon):
    for turn in range(ROUNDS):
        path, other = f"/api/{turn % 3}/{turn}.md", f"/moved/{turn}/x.md"
        for mount in MOUNTS:  # The kernel knows now that it is not there.
            expect(read(mount, path), None, "before")
        memory = daemon.memory(STORE, path, f"made {turn}")
        for mount in MOUNTS:
            expect(read(mount, path), f"made {turn}", f"created, in {mount}")
            expect(os.path.basename(path) in os.listdir(os.path.dirname(mount + path)), True, "listed")
        for text in ["longer than it was before " * 300, "short", ""]:
            daemon.made(at(memory), {"content": text})
            for mount in MOUNTS:
                expect((read(mount, path), os.stat(mount + path).st_size), (text, len(text)), f"written, in {mount}")
        daemon.made(at(memory), {"path": other, "content": "moved"})
        for mount in MOUNTS:
            expect((read(mount, path), read(mount, other)), (None, "moved"), f"moved, in {mount}")
        daemon.delete(at(memory))
        for mount in MOUNTS:
            expect((read(mount, other), os.path.exists(os.path.dirname(mount + other))), (None, False), f"deleted, in {mount}")


@case("issue 4.2")
def what_a_mount_closed_is_a_version_for_the_next_call(daemon):
    for turn in range(ROUNDS):
        mount, path = MOUNTS[turn % len(MOUNTS)], f"/mount-{turn}.md"
        count = 0
        identity = None
        for how in ["create", "append", "truncate", "replace", "rename", "nothing"]:
            before = read(mount, path) or ""
            text = {"append": before + f"{turn} more\n", "rename": before, "nothing": before}.get(how, f"{how} {turn}\n")
            if how in ("create", "truncate"):
                with open(mount + path, "w") as file:
                    file.write(text)
            elif how == "append":
                with open(mount + path, "a") as file:
                    file.write(f"{turn} more\n")
            elif how == "replace":
                with open(mount + path + ".new", "w") as file:
                    file.write(text)
                os.replace(mount + path + ".new", mount + path)
            elif how == "rename":
                os.rename(mount + path, mount + path + ".moved")
                path += ".moved"
            else:
                with open(mount + path, "r+") as file:
                    file.write(text)
            count += how != "nothing"
            memory = found(daemon, path)
            if not expect(memory is not None, True, f"{how} {path}: a memory"):
                return
            identity = identity or memory["id"]
            expect((memory["id"], memory["content"], memory["content_sha256"]), (identity, text, sha(text)), f"{how} {path}")
            versions = daemon.pages(f"{STORE}/memory_versions", memory_id=identity)[0]
            expect((len(versions), versions[0]["id"]), (count, memory["memory_version_id"]), f"{how} {path}: versions, and the head")
            expect((versions[0]["path"], versions[0]["content_sha256"]), (path, sha(text)), f"{how} {path}: the head's words")
            # The hash that the API gave is one that a precondition may name.
            answer = daemon.post(at(memory), {"content": text + "!", "precondition": {"type": "content_sha256", "content_sha256": sha(text)}})
            expect(answer.status, 200, f"{how} {path}: an update with this hash")
            refused(daemon.post(at(memory), {"content": "?", "precondition": {"type": "content_sha256", "content_sha256": sha(text)}}), 409,
                    f"{how} {path}: a second one", "memory_precondition_failed_error")
            count += 1
        os.unlink(mount + path)
        refused(daemon.get(at(memory)), 404, f"{path} after unlink", "not_found_error")
        expect(found(daemon, path), None, f"{path} after unlink")


@case("issue 4.2")
def of_many_updates_with_one_precondition_one_wins_while_mounts_write(daemon):
    """Every content is written once, so a hash stands for one version: who wins follows the very version that its precondition names."""
    memory = daemon.memory(STORE, "/contended", "start")
    won, lost = [], []

    def updates(number):
        mine = Daemon()
        for turn in range(ROUNDS):
            head = mine.seen(at(memory))
            text = f"api {number} {turn} {random.random()}"
            answer = mine.post(at(memory), {"content": text, "precondition": {"type": "content_sha256", "content_sha256": head["content_sha256"]}})
            if answer.status == 200:
                won.append((head["content_sha256"], answer.json["memory_version_id"], sha(text)))
            else:
                refused(answer, 409, "a loser", "memory_precondition_failed_error")
                lost.append(sha(text))
        mine.close()

    def saves(number):
        mount = MOUNTS[number % len(MOUNTS)]
        for turn in range(ROUNDS):
            name = f"{mount}/contended.{number}.new"
            with open(name, "w") as file:
                file.write(f"mount {number} {turn} {random.random()}")
            os.replace(name, f"{mount}/contended")

    together([lambda number=number: updates(number) for number in range(6)] + [lambda number=number: saves(number) for number in range(3)])
    versions = daemon.pages(f"{STORE}/memory_versions", memory_id=memory["id"], limit=100)[0][::-1]
    hashes = [one["content_sha256"] for one in versions]
    expect(len(set(hashes)), len(hashes), "each content once")
    place = {one["id"]: number for number, one in enumerate(versions)}
    preconditions = [precondition for precondition, _, _ in won]
    expect(len(set(preconditions)), len(preconditions), "winners of one precondition")
    for precondition, version, content in won:
        expect((hashes[place[version]], hashes[place[version] - 1]), (content, precondition), "a winner follows what it had seen")
    expect([content for content in lost if content in hashes], [], "what lost was not written")
    by_mount = [one for one in versions if one["created_by"]["type"] == "user_actor"]
    expect(len(by_mount) > 0 and len(won) > 0 and len(lost) > 0, True, f"{len(by_mount)} saves, {len(won)} won, {len(lost)} lost: all took part")
    expect(len(by_mount) + len(won) + 1, len(versions), "each version has its writer")


@case("issue 4.2")
def no_line_is_lost_between_api_and_mounts(daemon):
    """API clients read, add a line and write with a precondition until they win; mounts append. All lines are there in the end."""
    memory = daemon.memory(STORE, "/log", "")
    texts = []

    def adds(number):
        mine = Daemon()
        for turn in range(ROUNDS):
            line = f"api {number} {turn}\n"
            for attempt in range(1000):
                head = mine.seen(at(memory))
                answer = mine.post(at(memory), {"content": head["content"] + line,
                                                "precondition": {"type": "content_sha256", "content_sha256": head["content_sha256"]}})
                if answer.status == 200:
                    break
                refused(answer, 409, "lost the race", "memory_precondition_failed_error")
            else:
                raise AssertionError("never won")
            texts.append(line)
        mine.close()

    def appends(number):
        for turn in range(ROUNDS):
            line = f"mount {number} {turn}\n"
            descriptor = os.open(MOUNTS[number % len(MOUNTS)] + "/log", os.O_WRONLY | os.O_APPEND)
            os.write(descriptor, line.encode())
            os.close(descriptor)
            texts.append(line)

    together([lambda number=number: adds(number) for number in range(3)] + [lambda number=number: appends(number) for number in range(2)])
    content = daemon.seen(at(memory))["content"]
    expect(sorted(content.splitlines(True)), sorted(texts), "lines")
    for mount in MOUNTS:
        expect(read(mount, "/log"), content, f"in {mount}")


if __name__ == "__main__":
    wire.run(os.sys.argv[1:])
