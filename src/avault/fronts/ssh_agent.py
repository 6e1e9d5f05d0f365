"""An SSH agent's protocol (draft-ietf-sshm-ssh-agent): translated into the vault's, without a key.

Keys are listed and sign; they are neither added nor taken away here. A client is answered in order,
one request at a time. Of why something is not signed the protocol has no word: the log says it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Usage
from avault.fronts.ssh_claims import claim_of, read_signed_file
from avault.fronts.vault_link import VaultLink
from avault.plain import is_same_user
from avault.process import room, uptime
from avault.protocol import Frames
from avault.signing.ssh_uses import LONGEST_BIND, SSHSIG_MAGIC, Bind, check_next_bind
from avault.ssh_wire import SshReader, decode_base64, encode_base64, ssh_number, ssh_string
from avault.tasks import Stall

if TYPE_CHECKING:
    from typing import Any


LONGEST_MESSAGE = 256 << 10  # bytes, as OpenSSH's own agent has it
FAILURE, SUCCESS, EXTENSION_FAILURE = b"\x05", b"\x06", b"\x1c"
REQUEST_IDENTITIES, IDENTITIES_ANSWER = 11, b"\x0c"
SIGN_REQUEST, SIGN_RESPONSE = 13, b"\x0e"
EXTENSION = 27
SESSION_BIND = "session-bind@openssh.com"
ANSWER_TIME = 100.0  # seconds: a server ends a login after 120


class AgentClient:
    """One client: what its connection is bound to, and its requests; as asyncio's protocols are."""

    def __init__(self, vault: VaultLink, clients: dict[AgentClient, None]) -> None:
        self.vault, self.clients = vault, clients
        self.frames = Frames(LONGEST_MESSAGE)  # SSH's are as ours: a length, then so many bytes
        self.binds: list[Bind] = []
        self.told: list[str] = []  # the same, as the vault is told of them
        self.is_doubtful = False  # whether a bind was refused: nobody knows who is at the other end
        self.task: asyncio.Task[None] | None = None
        self.stall = Stall()

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        self.transport, self.since = transport, uptime()
        if not is_same_user(transport.get_extra_info("socket")):
            transport.abort()
            return
        if len(self.clients) >= room():
            idle = next((each for each in self.clients if not each.task), None)
            (idle or self).transport.abort()
            if idle:
                del self.clients[idle]
        self.clients[self] = None

    def data_received(self, data: bytes) -> None:
        """More bytes from it."""
        self.frames.feed(data)
        if self in self.clients:  # behind those that have been quiet longer
            del self.clients[self]
            self.clients[self] = None
        self.advance()

    def advance(self) -> None:
        """Begin the next request, if it is whole and none is under way."""
        try:
            message = None if self.task else self.frames.next()
        except Usage:
            message = b""
        if message == b"":
            self.transport.abort()
            return
        if message:
            self.task = asyncio.get_running_loop().create_task(self.work(message))
        if len(self.frames.buffer) > 2 * LONGEST_MESSAGE:
            self.transport.abort()
        self.stall.watch(bool(self.frames.buffer) and not self.task, self.transport.abort)

    async def work(self, message: bytes) -> None:
        """Answer a request, then go on."""
        late = asyncio.get_running_loop().call_later(ANSWER_TIME, self.give_up)
        try:
            answer = await self.answer(message)
        # whatever it is, also that it took too long: the protocol has one word for it
        except (Exception, asyncio.CancelledError):
            answer = FAILURE
        finally:
            late.cancel()
            self.task = None
        if self.transport.is_closing():  # for who has left nothing more is begun
            return
        self.transport.write(ssh_string(answer))
        self.advance()

    def give_up(self) -> None:
        """End what is under way."""
        if self.task:
            self.task.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone, and so is what it asked for."""
        self.clients.pop(self, None)
        self.stall.end()
        self.give_up()

    async def answer(self, message: bytes) -> bytes:
        """The answer to a request; raises AvaultError, ValueError for what is a failure."""
        if self.is_doubtful:
            return FAILURE
        reader = SshReader(message)
        kind = reader.byte()
        if kind == REQUEST_IDENTITIES:
            reader.end()
            return await self.list_keys()
        if kind == SIGN_REQUEST:
            key, data, flags = reader.string(), reader.string(), reader.number()
            reader.end()
            return await self.sign(key, data, flags)
        if kind == EXTENSION:
            name = reader.text()
            if name == "query":
                return SUCCESS + ssh_string(b"query") + ssh_string(SESSION_BIND.encode())
            return self.bind(reader) if name == SESSION_BIND else EXTENSION_FAILURE
        return FAILURE

    def bind(self, reader: SshReader) -> bytes:
        """Take what a server says of itself; who signs has it proven.

        Raises ValueError where that cannot be. A connection without a server may do what one that
        came through another host may not, so this one does nothing any more.
        """
        data, self.is_doubtful = reader.data[reader.at :], True
        if len(data) > LONGEST_BIND:
            raise ValueError("too long")
        bind = Bind(data)
        check_next_bind(self.binds, bind)
        self.is_doubtful = False
        self.binds.append(bind)
        self.told.append(encode_base64(data))
        return SUCCESS

    async def list_keys(self) -> bytes:
        """The keys that fit; none where the vault is locked, or not there."""
        try:
            found = (await self.vault.ask("keys", **{"as": "ssh", "binds": self.told}))["keys"]
        except AvaultError:
            found = []
        listed, count = b"", 0
        for each in found:
            blob = decode_base64(each["public"].partition(" ")[2], LONGEST_BIND)
            one = ssh_string(blob) + ssh_string(each["name"].encode())
            if len(listed) + len(one) > LONGEST_MESSAGE - 5:
                break
            listed, count = listed + one, count + 1
        return IDENTITIES_ANSWER + ssh_number(count) + listed

    async def sign(self, key: bytes, data: bytes, flags: int) -> bytes:
        """A signature, if the vault gives one."""
        client, is_file = self.transport.get_extra_info("socket"), data.startswith(SSHSIG_MAGIC)
        is_commit = is_file and data[len(SSHSIG_MAGIC) :].startswith(ssh_string(b"git"))
        answer = await self.vault.ask(
            "sign",
            **{
                "as": "sshsig" if is_file else "ssh",
                "public": encode_base64(key),
                "payload": encode_base64(data),
                "flags": flags,
                "binds": self.told,
                "claims": claim_of(client, self.since, is_file),
                "content": encode_base64(read_signed_file(client)) if is_commit else None,
            },
        )
        return SIGN_RESPONSE + ssh_string(decode_base64(answer["signature"], LONGEST_BIND))
