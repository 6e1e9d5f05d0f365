"""The SSH agent's protocol: the real ssh-add and ssh-keygen as clients, and hostile ones by hand."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")

from signing_thread import signing_for
from ssh_data import Server, login, new_session, sshsig, string
from test_signing import EVIL, GITHUB, SESSION, Office

FAILURE, SUCCESS, EXTENSION_FAILURE = b"\x05", b"\x06", b"\x1c"
needs_openssh = pytest.mark.skipif(not shutil.which("ssh-add"), reason="no ssh-add here")


class Agency(Office):
    """A keyholder, and an agent at a socket that asks it."""

    async def listen(self, path: Path) -> None:
        self.path, self.is_locked = path, False
        self.server = avault.AgentDoor(self, avault.bind_front(str(path)))  # type: ignore[arg-type]
        self.clients = self.server.clients

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """As a VaultLink has it."""
        if self.is_locked:
            raise avault.Locked("the vault is locked")
        return await self.serve(op, **fields)

    async def run(self, *words: str | Path, input: bytes = b"") -> tuple[int, str]:
        """A command with this agent: its exit code and what it printed."""
        env = {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(self.path), "HOME": str(self.path.parent)}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *map(str, words), env=env, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT, cwd=self.path.parent
        )
        said, _ = await process.communicate(input)
        return process.returncode or 0, said.decode()


@pytest.fixture
async def agency(tmp_path: Path, place: Any) -> AsyncIterator[Agency]:
    agency = Agency(tmp_path)
    with signing_for(agency.keyholder):
        await agency.fill()
        await agency.listen(place.top / "agent.sock")  # whose path is short
        yield agency
        agency.server.close()
    agency.close()


class Client:
    """A client by hand."""

    def __init__(self, agency: Agency) -> None:
        self.agency = agency

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_unix_connection(self.agency.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, message: bytes) -> bytes:
        self.writer.write(string(message))
        return await self.hear()

    async def hear(self) -> bytes:
        return await self.reader.readexactly(struct.unpack(">I", await self.reader.readexactly(4))[0])

    async def bind(self, server: Server, session: bytes, forwarding: bool = False) -> bytes:
        return await self.ask(b"\x1b" + string(b"session-bind@openssh.com") + server.bind(session, forwarding))

    async def sign(self, payload: bytes, flags: int = 0) -> bytes:
        return await self.ask(b"\x0d" + string(self.agency.public) + string(payload) + struct.pack(">I", flags))

    async def list(self) -> int:
        return int(struct.unpack(">I", (await self.ask(b"\x0b"))[1:5])[0])


@needs_openssh
async def test_ssh_add_lists_what_the_vault_has(agency: Agency) -> None:
    code, said = await agency.run("ssh-add", "-L")
    assert code == 0 and said.split()[1] == base64.b64encode(agency.public).decode() and "ops/GITHUB" in said


@needs_openssh
@pytest.mark.parametrize(
    "words", [("-D",), ("-x",), ("-X",), ("-e", "/nowhere.so"), ("KEY",), ("-t", "60", "KEY"), ("-d", "KEY")]
)
async def test_ssh_add_changes_nothing(agency: Agency, tmp_path: Path, words: tuple[str, ...]) -> None:
    key = tmp_path / "KEY"
    await agency.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    code, _ = await agency.run("ssh-add", *(key if word == "KEY" else word for word in words), input=b"x\nx\n")
    assert code != 0
    assert "ops/GITHUB" in (await agency.run("ssh-add", "-L"))[1]


@needs_openssh
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256", "rsa"])
async def test_ssh_keygen_signs_and_verifies(agency: Agency, tmp_path: Path, kind: str) -> None:
    blob = await agency.generate("keys", "FILE", kind, namespaces=["file"])
    line = f"{avault.SshReader(blob).text()} {base64.b64encode(blob).decode()}"
    public, file, allowed = tmp_path / "id.pub", tmp_path / "file", tmp_path / "allowed"
    public.write_text(line + "\n")
    allowed.write_text(f"me@here {line}\n")
    file.write_text("what is signed")
    code, said = await agency.run("ssh-keygen", "-Y", "sign", "-U", "-n", "file", "-f", public, file)
    assert code == 0, said
    check = ("ssh-keygen", "-Y", "verify", "-n", "file", "-I", "me@here", "-f", allowed, "-s", f"{file}.sig")
    assert (await agency.run(*check, input=file.read_bytes()))[0] == 0
    assert (await agency.run(*check, input=b"something else"))[0] != 0
    Path(f"{file}.sig").unlink()
    code, said = await agency.run("ssh-keygen", "-Y", "sign", "-U", "-n", "git", "-f", public, file)
    assert code != 0 and "agent refused operation" in said


async def test_a_locked_vault_lists_nothing_and_signs_nothing(agency: Agency) -> None:
    async with Client(agency) as client:
        assert await client.list() == 1
        agency.is_locked = True
        assert await client.list() == 0 and await client.sign(sshsig()) == FAILURE
        agency.is_locked = False
        assert (await client.sign(sshsig()))[:1] == b"\x0e"


async def test_a_bound_connection_signs_in_to_that_server(agency: Agency) -> None:
    session = new_session()
    async with Client(agency) as client:
        assert await client.bind(GITHUB, session) == SUCCESS
        assert await client.list() == 1
        assert (await client.sign(login(session, agency.public)))[:1] == b"\x0e"
        assert await client.sign(login(new_session(), agency.public)) == FAILURE
    async with Client(agency) as client:
        assert await client.bind(EVIL, session) == SUCCESS
        assert await client.list() == 0
        assert await client.sign(login(session, agency.public)) == FAILURE
    async with Client(agency) as client:
        assert await client.sign(login(session, agency.public)) == FAILURE, "nothing is left of the connection before"


async def test_forwarding_is_off(agency: Agency) -> None:
    session = new_session()
    async with Client(agency) as client:
        assert await client.bind(EVIL, new_session(), forwarding=True) == SUCCESS
        assert await client.bind(GITHUB, session) == SUCCESS
        assert await client.list() == 0
        assert await client.sign(login(session, agency.public)) == FAILURE


@pytest.mark.parametrize("last", [[], [EVIL]])
async def test_through_a_forwarded_agent_no_file_is_signed(agency: Agency, last: list[Server]) -> None:
    """Whoever is root on the host that it is forwarded to can ask."""
    async with Client(agency) as client:
        assert await client.bind(EVIL, new_session(), forwarding=True) == SUCCESS
        for server in last:
            assert await client.bind(server, new_session()) == SUCCESS
        assert await client.list() == 0 and await client.sign(sshsig()) == FAILURE
    assert agency.lines("refused.log")[-1]["why"] == "ops/GITHUB may not sign through a forwarded agent"


LONG = string(EVIL.blob + bytes(20_000)) + string(SESSION) + string(b"x") + b"\1"
REFUSED_BINDS = {
    "too long": [LONG],
    "no bind": [b"x"],
    "nothing": [b""],
    "twice": [GITHUB.bind(SESSION), GITHUB.bind(SESSION)],
    "behind one that does not forward": [GITHUB.bind(SESSION), EVIL.bind(new_session())],
}


@pytest.mark.parametrize("binds", REFUSED_BINDS)
async def test_a_bind_that_is_refused_ends_what_the_connection_can(agency: Agency, binds: str) -> None:
    """It is not taken for one without a server, which can do more than one through another host."""
    async with Client(agency) as client:
        for bind in REFUSED_BINDS[binds]:
            answer = await client.ask(b"\x1b" + string(b"session-bind@openssh.com") + bind)
        assert answer == FAILURE
        for what in (sshsig(), login(SESSION, agency.public)):
            assert await client.sign(what) == FAILURE
        assert await client.ask(b"\x0b") == FAILURE
        assert await client.bind(GITHUB, new_session()) == FAILURE


async def test_beyond_what_there_is_room_for_the_quietest_goes(agency: Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "room", lambda: 3)
    async with Client(agency) as first, Client(agency) as second, Client(agency) as third:
        for client in (first, second, third, first):
            assert await client.list() == 1
        async with Client(agency) as fourth:
            assert await fourth.list() == 1 and await first.list() == 1
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await second.list()


async def test_half_a_message_ends(agency: Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault.Stall, "TIME", 0.05)
    async with Client(agency) as client:
        client.writer.write(b"\0\0\0\x09x")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(client.hear(), 10)


async def test_whatever_goes_wrong_is_a_failure(agency: Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise IndexError

    async with Client(agency) as client:
        with monkeypatch.context() as broken:
            broken.setattr(avault, "claim_of", fail)
            assert await client.sign(sshsig()) == FAILURE
        assert await client.list() == 1


async def test_more_keys_than_an_answer_has_room_for(agency: Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "LONGEST_MESSAGE", 200)
    for number in range(4):
        await agency.generate("ops", f"KEY{number}", namespaces=["file"])
    async with Client(agency) as client:
        assert 0 < await client.list() < 5


async def test_of_other_requests_none_is_taken(agency: Agency) -> None:
    async with Client(agency) as client:
        for kind in {*range(256)} - {11, 13, 27}:
            assert await client.ask(bytes([kind]) + b"\0" * 40) == FAILURE


async def test_extensions(agency: Agency) -> None:
    async with Client(agency) as client:
        assert await client.ask(b"\x1b" + string(b"query")) == SUCCESS + string(b"query") + string(b"session-bind@openssh.com")
        assert await client.ask(b"\x1b" + string(b"restrict@example")) == EXTENSION_FAILURE
        assert await client.ask(b"\x1b" + string(b"session-bind@openssh.com") + b"x") == FAILURE


@pytest.mark.parametrize("head", [0, (256 << 10) + 1, 0xFFFFFFFF])
async def test_a_length_that_can_be_none_ends_the_connection(agency: Agency, head: int) -> None:
    async with Client(agency) as client:
        client.writer.write(struct.pack(">I", head))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.hear()
    async with Client(agency) as client:
        assert await client.list() == 1


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=4), st.sampled_from([b"\x0b", b"\x0d", b"\x1b", b""]))
def test_no_message_stops_it(tmp_path_factory: pytest.TempPathFactory, messages: list[bytes], kind: bytes) -> None:
    """Answers are failures, whatever is sent; but for the list."""

    class Nobody:
        async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
            raise avault.Denied("no")

    async def work() -> None:
        client = avault.AgentClient(Nobody(), {})  # type: ignore[arg-type]
        for message in messages:
            try:
                answer = await client.answer(kind + message)
            except (ValueError, avault.AvaultError, AttributeError):
                continue
            assert answer in (FAILURE, EXTENSION_FAILURE) or answer[:1] in b"\x06\x0c"

    asyncio.run(work())


CALLER = "import socket, sys; sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1]); sock.recv(1)"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("argv0", ["ssh-keygen", "cat"])
@pytest.mark.parametrize(
    ("name", "content"), [("file", b"what is signed"), ("link", b""), ("pipe", b""), ("long", b""), ("none", b""), (".", b"")]
)
def test_what_ssh_keygen_signs_is_read(tmp_path: Path, place: Any, name: str, content: bytes, argv0: str) -> None:
    """A file as it is, and nothing that is another thing or keeps who reads it."""
    (tmp_path / "file").write_bytes(b"what is signed")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * (avault.LONGEST_CONTENT + 1))
    path_of_socket = str(place.top / "sock")
    home = {"PYTHONHOME": sys.base_prefix}  # else a Python looks for its library where its name is, as a program
    with socket.socket(socket.AF_UNIX) as listening:
        listening.settimeout(30)
        listening.bind(path_of_socket)
        listening.listen()
        for path in (name, str(tmp_path / name)):
            words = [argv0, "-c", CALLER, path_of_socket, path]
            with subprocess.Popen(words, executable=sys.executable, env=home, cwd=tmp_path, stdin=subprocess.DEVNULL):
                client, _ = listening.accept()
                with client:
                    assert avault.read_signed_file(client) == (content if argv0 == "ssh-keygen" else b"")


async def test_who_leaves_is_not_signed_for(agency: Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def decode(*_: Any) -> dict[str, Any]:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    monkeypatch.setattr(avault, "decode", decode)
    async with Client(agency) as client:
        client.writer.write(string(b"\x0d" + string(agency.public) + string(sshsig()) + bytes(4)))
        await asked.wait()
    await asyncio.wait_for(cancelled.wait(), 10)
    assert not [line for line in agency.lines("access.log") if line["op"] == "sign"]


async def test_one_that_waits_keeps_nobody_else(agency: Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    may, waiting = asyncio.Event(), asyncio.Event()

    decode = avault.decode

    async def slowly(*given: Any) -> dict[str, Any]:
        waiting.set()
        await may.wait()
        return await decode(*given)

    monkeypatch.setattr(avault, "decode", slowly)
    async with Client(agency) as first, Client(agency) as second:
        held = asyncio.ensure_future(first.sign(sshsig()))
        await waiting.wait()
        assert await second.list() == 1
        more = asyncio.ensure_future(second.sign(sshsig()))
        may.set()
        assert (await held)[:1] == (await more)[:1] == b"\x0e"


async def test_it_gives_up_before_a_server_does(agency: Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    async def decode(*_: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(avault, "decode", decode)
    assert avault.ANSWER_TIME < 120, "LoginGraceTime"
    monkeypatch.setattr(avault, "ANSWER_TIME", 0.05)
    async with Client(agency) as client:
        assert await client.sign(sshsig()) == FAILURE
