"""A key that signs, and whose guard asks: from the request to the signature, with a phone that says what the test wants.

Each process runs here as its own code in one process; test_asked_key_processes.py has those that there are.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from signing_thread import signing_for
from test_asked import House

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")

from ssh_data import Server, login, new_session, sshsig, twin_of

made = avault.load_extra("signing", "sign")
GITHUB, GITLAB = Server(), Server()
PLACE = {"group": "ops", "key": "GITHUB"}
SERVERS = [f"github.com={avault.fingerprint_of(GITHUB.blob)}", f"gitlab.com={avault.fingerprint_of(GITLAB.blob)}"]
USES = {"servers": SERVERS, "users": ["git"], "namespaces": ["git", "file"]}


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Works(House):
    """A vault with a key of which the phone is asked; `public` is its public half."""

    public: bytes

    async def make(self, ask: int = 0, **fields: Any) -> None:
        found = await self.ask("key", action="generate", kind="ed25519", **{**PLACE, **USES, **fields}, ask=ask)
        assert found.get("ok"), found
        self.public = base64.b64decode(found["public"].split()[1])

    async def log_in(self, server: Server = GITHUB, user: bytes = b"git", **fields: Any) -> tuple[bytes, socket.socket]:
        """A client that wants to sign in somewhere, and what is to be signed."""
        session = new_session()
        payload = login(session, self.public, user=user, host_key=server.blob)
        said = {"as": "ssh", "public": encode(self.public), "payload": encode(payload), "binds": [encode(server.bind(session))]}
        return payload, await self.begin("sign", **{**said, **fields})

    async def sign_file(self, content: bytes = b"x", namespace: bytes = b"file", **fields: Any) -> tuple[bytes, socket.socket]:
        payload = sshsig(namespace, content)
        said = {"as": "sshsig", "public": encode(self.public), "payload": encode(payload)}
        return payload, await self.begin("sign", **{**said, **fields})

    async def approve_both(self, number: int) -> str:
        said = await self.man.approve(number)
        await self.man.approve(number + 1)
        return said

    async def expect(self, client: socket.socket, payload: bytes) -> None:
        answer = await self.end(client)
        assert answer.get("ok"), answer
        assert made.verify(self.public, base64.b64decode(answer["signature"]), payload)

    async def gone(self) -> None:
        """No process has a key any more."""
        async with asyncio.timeout(60):
            while not all(each.ended.is_set() for each in self.openers):
                await asyncio.sleep(0.01)

    def lines(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for name in ("access.log", "refused.log") if self.example.path(name).exists()
                 for line in self.own(name).splitlines()]  # fmt: skip
        return [each for each in found if each["op"] == "sign"]


@pytest.fixture
async def works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Works]:
    works = Works(tmp_path, monkeypatch)
    monkeypatch.setattr(avault, "ONCE_TIME", 20.0)
    await works.open()
    with signing_for(works.keyholder) as works.signer:
        yield works
        for client in works.clients:
            client.close()
        for opener in works.openers:
            opener.ended.set()
        for task in (*works.keyholder.tasks,):
            task.cancel()
        await asyncio.gather(*works.keyholder.tasks, return_exceptions=True)
    works.close()


async def test_a_login_is_signed_when_the_phone_has_agreed(works: Works) -> None:
    await works.make()
    store = works.holding.store
    assert store and avault.is_sealed(store.vault.secrets("ops", "GITHUB")[0].value)
    payload, client = await works.log_in()
    said = await works.man.approve(1)
    assert said.startswith("avault: sign in to github.com as git with ops/GITHUB; ")
    assert f"(pid {os.getpid()}) on {works.holding.host}; question 1 of 2, code " in said
    assert "open ops/GITHUB of test@machine on " in await works.man.approve(2)
    await works.expect(client, payload)
    await works.gone()
    [line] = works.lines()
    assert (line["outcome"], line["signed"]) == ("ok", "sign in to github.com as git with ops/GITHUB")
    assert not works.keyholder.signing.given and not works.signer.keys.loaded  # the process for all keys never has it


async def test_a_key_is_made_sealed_and_no_process_that_stays_has_it(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(avault.SigningLink, "use", lambda *_: pytest.fail("the process that signs was given a key"))
    monkeypatch.setattr(avault.Vault, "put", lambda vault, group, key, value, *rest, put=avault.Vault.put: (
        seen.append(value), put(vault, group, key, value, *rest))[1])  # fmt: skip
    await works.make()
    assert seen and all(map(avault.is_sealed, seen))
    [key] = next(each["keys"] for each in (await works.ask("list"))["groups"] if each["name"] == "ops")
    assert base64.b64decode(key["signs"]["public"].split()[1]) == works.public and key["signs"]["kind"] == "ed25519"
    assert not works.man.questions


async def test_a_key_in_clear_that_is_guarded_then_is_known_yet(works: Works) -> None:
    found = await works.ask("key", action="generate", kind="ed25519", **PLACE, **USES)
    works.public = base64.b64decode(found["public"].split()[1])
    payload, client = await works.sign_file()
    await works.expect(client, payload)
    assert works.signer.keys.loaded
    assert (await works.ask("guard", **PLACE, ask=0))["ok"]
    assert not works.keyholder.signing.given
    payload, client = await works.sign_file()
    await works.approve_both(1)
    await works.expect(client, payload)


@pytest.mark.parametrize("which", [1, 2])
async def test_what_is_refused_stays_refused(works: Works, which: int) -> None:
    await works.make()
    _, client = await works.log_in()
    if which == 2:
        await works.man.approve(1)
    await works.man.refuse(which)
    assert (await works.end(client))["error"]["code"] == "denied"
    _, client = await works.log_in()
    assert "is not asked again for" in (await works.end(client))["error"]["message"]
    assert len(works.man.questions) == which
    await works.gone()
    assert [line["outcome"] for line in works.lines()] == ["denied", "denied"]
    assert "refused" in works.lines()[0]["why"]


async def test_twenty_logins_at_once_share_one_question(works: Works) -> None:
    await works.make()
    asked = [await works.log_in() for _ in range(20)]
    other = await works.log_in(GITLAB)
    await works.approve_both(1)
    for payload, client in asked:
        await works.expect(client, payload)
    assert "sign in to gitlab.com as git" in await works.approve_both(3)
    await works.expect(other[1], other[0])
    assert len(works.man.questions) == 4
    await works.gone()


async def test_files_share_a_question_only_where_they_are_the_same(works: Works) -> None:
    await works.make()
    (one, first), (_, second), (two, third) = [await works.sign_file(each) for each in (b"a", b"a", b"b")]
    await works.approve_both(1)
    await works.expect(first, one)
    await works.expect(second, one)
    await works.approve_both(3)
    await works.expect(third, two)


async def test_an_approval_with_a_time_is_for_one_destination(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    await works.make(ask=300)
    payload, client = await works.log_in()
    said = await works.approve_both(1)
    assert said.startswith("avault: now and for 5 min: sign in to github.com as git with ops/GITHUB; ")
    await works.expect(client, payload)
    for _ in range(3):
        payload, client = await works.log_in()
        await works.expect(client, payload)
    assert len(works.man.questions) == 2
    payload, client = await works.log_in(GITLAB)
    await works.approve_both(3)
    await works.expect(client, payload)
    payload, client = await works.sign_file()
    assert ", any file for file: sign a file for file with ops/GITHUB; " in await works.approve_both(5)
    await works.expect(client, payload)
    payload, client = await works.sign_file(b"another")
    await works.expect(client, payload)
    now = avault.uptime()
    monkeypatch.setattr(avault, "uptime", lambda: now + 301)
    payload, client = await works.log_in()
    await works.approve_both(7)
    await works.expect(client, payload)


async def test_a_time_is_for_no_other_program(works: Works) -> None:
    await works.make(ask=300)
    payload, client = await works.log_in()
    await works.approve_both(1)
    await works.expect(client, payload)
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True) as other:
        claims = {"pid": other.pid, "since": avault.uptime() + 1}
        payload, client = await works.log_in(front=True, claims=claims)
        said = await works.approve_both(3)
        assert f"(pid {other.pid}) on " in said
        await works.expect(client, payload)
        payload, client = await works.log_in(front=True, claims=claims)
        await works.expect(client, payload)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True) as third:
        # what says so by itself, and is not the front end, is who it is: it has an approval, and the third one has none
        payload, client = await works.log_in(claims={"pid": third.pid, "since": avault.uptime() + 1})
        await works.expect(client, payload)
        assert len(works.man.questions) == 4


async def test_the_front_end_is_known_by_what_the_kernel_says(works: Works) -> None:
    """Whose pid it is, as long as it runs; a connection from before it was started is that of who had this pid then."""
    fronts, (ours, theirs) = avault.Fronts(works.places), socket.socketpair()
    with ours, theirs:
        assert not fronts.is_ssh(ours, 5.0)
        for pid, returncode, since, is_ssh in (
            (os.getpid(), None, 4.0, True),
            (os.getpid(), None, 6.0, False),
            (os.getpid(), 0, 4.0, False),
            (os.getppid(), None, 4.0, False),
        ):
            fronts.process, fronts.since = SimpleNamespace(pid=pid, returncode=returncode), since  # type: ignore[assignment]
            assert fronts.is_ssh(ours, 5.0) is is_ssh


@pytest.mark.parametrize(("first", "place"), [(SERVERS, {"group": "ops"}), (["any"], PLACE)])
async def test_who_narrows_a_guard_gives_no_server_a_name(works: Works, first: list[str], place: dict[str, str]) -> None:
    """To be stricter is free: so a rule that is added does not say of GitLab's key that it is a harmless one's."""
    await works.make(servers=first)
    known = avault.fingerprint_of(GITLAB.blob)
    assert (await works.ask("guard", **place, servers=[f"a-test-box={known}"]))["ok"] and not works.man.questions
    _, client = await works.log_in(GITLAB)
    said = await works.man.asked(1)
    assert said.startswith(f"avault: sign in to an UNKNOWN server (key {known}) as git with ops/GITHUB; ")
    client.close()


async def test_what_git_says_stands_behind_what_is_proven(works: Works) -> None:
    await works.make()
    claims = {"pid": os.getpid(), "since": avault.uptime() + 1, "program": "liar", "does": "git push acme/app.git"}
    payload, client = await works.log_in(front=True, claims=claims)
    said = await works.approve_both(1)
    assert "with ops/GITHUB; " in said and f" on {works.holding.host} says: git push acme/app.git; question 1" in said
    assert "liar" not in said
    await works.expect(client, payload)


async def test_a_user_cannot_be_taken_for_a_part_of_the_sentence(works: Works) -> None:
    await works.make(users=None)  # as any user
    _, client = await works.log_in(user=b"git;node(pid1)")
    said = await works.man.asked(1)
    assert said.startswith('avault: sign in to github.com as "git,node(pid1)" with ops/GITHUB; ')
    client.close()


async def test_a_vault_without_a_phone_makes_no_key_that_asks(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(works.holding.contact, "find", lambda store: None)
    for action in ("generate", "import"):
        found = await works.ask("key", action=action, kind="nostr", group="n", key="K", ask=0)
        assert "only a paired vault can ask" in found["error"]["message"]


async def test_an_unproven_server_has_each_login_asked_for(works: Works) -> None:
    await works.make(ask=300, servers=["unproven"])
    payloads = [login(new_session(), works.public) for _ in range(2)]
    said = {"as": "ssh", "public": encode(works.public)}
    clients = [await works.begin("sign", **said, payload=encode(each)) for each in payloads]
    assert "sign in to a server that is NOT PROVEN as git" in await works.approve_both(1)
    await works.expect(clients[0], payloads[0])
    await works.approve_both(3)
    await works.expect(clients[1], payloads[1])


async def test_a_caller_that_is_gone_gets_nothing_signed(works: Works) -> None:
    await works.make()
    _, client = await works.log_in()
    await works.man.approve(1)
    await works.man.asked(2)
    client.close()
    async with asyncio.timeout(60):
        while works.keyholder.askings.signing:
            await asyncio.sleep(0.01)
    await works.man.approve(2)
    await works.gone()
    [line] = works.lines()
    assert line["outcome"] == "timed_out" and line["why"] == "nobody has approved before the caller left"
    _, client = await works.log_in()
    assert "is not asked again" in (await works.end(client))["error"]["message"]


async def test_a_caller_that_is_gone_takes_its_question_along(works: Works) -> None:
    """Nothing is written to it meanwhile that would show that it has gone."""
    await works.make()
    _, client = await works.log_in()
    await works.man.approve(1)
    await works.man.asked(2)
    while not works.keyholder.askings.questions:
        await asyncio.sleep(0.01)
    client.close()
    async with asyncio.timeout(60):
        while works.keyholder.askings.signing:
            await asyncio.sleep(0.01)
    assert not works.keyholder.askings.questions
    await works.man.approve(2)
    await works.gone()


async def test_one_that_leaves_takes_nothing_from_those_who_wait_with_it(works: Works) -> None:
    await works.make()
    (_, first), (payload, second) = [await works.log_in() for _ in range(2)]
    await works.man.approve(1)
    first.close()
    await works.man.approve(2)
    await works.expect(second, payload)
    await works.gone()
    assert [line["outcome"] for line in works.lines()].count("ok") == 1


async def test_a_guard_that_changes_meanwhile_counts(works: Works) -> None:
    await works.make()
    _, client = await works.log_in()
    await works.man.approve(1)
    assert (await works.ask("guard", **PLACE, servers=[SERVERS[1]]))["ok"]
    await works.man.approve(2)
    assert "may not sign in to" in (await works.end(client))["error"]["message"]
    await works.gone()


async def test_uses_are_counted_one_by_one(works: Works) -> None:
    await works.make()
    assert (await works.ask("guard", **PLACE, times=3))["ok"]
    asked = [await works.log_in() for _ in range(8)]
    await works.approve_both(1)
    answers = [await works.end(client) for _, client in asked]
    assert [bool(each.get("ok")) for each in answers].count(True) == 3
    await works.gone()


async def test_nobody_answers(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "ASK_TIME", 2.0)
    await works.make()
    _, client = await works.log_in()
    assert (await works.end(client))["error"]["code"] == "timed_out"
    _, client = await works.log_in()  # and so a background fetch leaves the phone alone
    assert "is not asked again for" in (await works.end(client))["error"]["message"]
    assert len(works.man.questions) == 1


async def test_another_key_that_says_the_same_public_half_signs_nothing(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    await works.make()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 5)
    await works.ask("guard", group="a", only=["ssh"], ask=0, servers=SERVERS)
    client = await works.begin("set", group="a", key="TWIN")
    assert (await works.end(client))["ready"]
    client.sendall(avault.encode_frame({"value": twin_of(works.public)}))
    assert (await works.end(client))["ok"]
    payload, client = await works.log_in()
    assert "with ops/GITHUB; " in await works.approve_both(1)
    await works.expect(client, payload)
    _, client = await works.log_in(group="a", key="TWIN", public=None)
    await works.approve_both(3)
    assert not (await works.end(client)).get("ok")


async def test_what_asks_no_more_is_in_clear_after_its_next_use(works: Works) -> None:
    await works.make()
    store = works.holding.store
    assert store
    await works.holding.writer.change(store, lambda vault: avault.take_off(vault, "ops/GITHUB", 1, store.machine))
    assert (await works.ask("guard", **PLACE, only=["ssh"], **USES))["ok"]
    payload, client = await works.log_in()
    assert "(which is sealed no more then)" in await works.approve_both(1)
    await works.expect(client, payload)
    assert not avault.is_sealed(store.vault.secrets("ops", "GITHUB")[0].value)
    payload, client = await works.log_in()
    await works.expect(client, payload)


async def test_an_approval_to_sign_opens_nothing_else(works: Works) -> None:
    """What is open to be signed with for a time is given to nobody."""
    await works.make(ask=300)
    payload, client = await works.log_in()
    await works.approve_both(1)
    await works.expect(client, payload)
    assert works.keyholder.askings.staying
    for op in ("get", "export", "reveal"):
        fields = PLACE if op == "get" else {"only": ["ops/GITHUB"]}
        assert "only ssh may use it" in (await works.ask(op, **fields))["error"]["message"]
    assert len(works.man.questions) == 2


async def test_by_a_grant_for_signing(works: Works) -> None:
    await works.make()
    assert (await works.ask("grant", name="web", only=["ops/GITHUB"], can=["sign"]))["ok"]
    payload, client = await works.log_in(through="web")
    assert " by the grant web (pid " in await works.approve_both(1)
    await works.expect(client, payload)
    assert (await works.ask("grant", name="less", only=["free/KEY"], can=["sign"]))["ok"]
    _, client = await works.log_in(through="less")
    assert (await works.end(client))["error"]["code"] == "not_found"


async def test_events_of_nostr_are_asked_for_too(works: Works) -> None:
    found = await works.ask("key", action="generate", kind="nostr", group="nostr", key="CHILD", kinds=["1"], ask=0)
    assert found["ok"] and found["public"].startswith("npub1")
    event = json.dumps({"kind": 1, "content": "hello", "tags": [], "created_at": int(time.time())})
    said = {"as": "nostr-event", "group": "nostr", "key": "CHILD", "payload": encode(event.encode())}
    client = await works.begin("sign", **said)
    assert "sign a note (kind 1) with nostr/CHILD: " in await works.approve_both(1)
    answer = await works.end(client)
    assert json.loads(answer["signature"])["content"] == "hello"
    await works.gone()


def find_behind(words: list[str], **options: Any) -> tuple[int, int]:
    """The pid of a process that is started, and of the program behind it."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, **options) as child:
        assert child.stdout and child.stdout.readline()
        return child.pid, avault.find_program(child.pid, avault.look_at_process(child.pid)).pid


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells who runs")
async def test_a_shell_is_known_by_what_it_runs(tmp_path: Path) -> None:
    """Not by the name that a process gives itself, nor by a file that is called so."""
    script = ["-c", "echo; read x"]
    assert find_behind(["/bin/sh", *script])[1] == os.getpid()
    rename = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'sh'); print(flush=True); sys.stdin.read()"
    copied = tmp_path / "sh"
    shutil.copy(os.path.realpath("/bin/sh"), copied)
    for words in ([sys.executable, "-c", rename], [str(copied), *script]):
        pid, found = find_behind(words)
        assert found == pid


def test_a_session_of_outside_is_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose session leader is outside of it, the kernel calls that 0."""
    monkeypatch.setattr(os, "getsid", lambda pid: 0)
    found = [avault.ask_behind(os.getpid(), os.getuid(), time.monotonic() + 1e9, "") for _ in range(2)]
    assert found[0].which and found[0].which == found[1].which


def test_a_time_is_for_kinds_of_which_one_is_like_another() -> None:
    """Not for a permission to a file server, a wish to vanish, what moderates a group, nor what nobody has heard of."""
    asker: Any = SimpleNamespace(which=("known",))
    shared = set()
    for kind in range(1 << 16):
        wish = avault.Wish("nostr/CHILD", {}, {"as": "nostr-event", "kind": kind}, "", {}, asker, lambda _: pytest.fail("a use"))
        if wish.count_seconds(300):
            shared.add(kind)
    assert {1, 6, 7, 30_023} <= shared == avault.ALIKE
    one_by_one = {0, 3, 4, 5, 13, 62, 9_734, 10_002, 22_242, 24_133, 24_242, 27_235, *range(9_000, 9_021)}
    assert not shared & one_by_one
