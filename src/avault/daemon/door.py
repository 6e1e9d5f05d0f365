"""What the supervisor itself answers, locked or not: status, unlock, lock and the like."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from avault.daemon.admitting import ADMIT
from avault.daemon.asking import Caller
from avault.daemon.callers import describe_caller
from avault.daemon.desk_changes import DESKS, turn_desk
from avault.daemon.errands import Reach
from avault.daemon.listing import LIST
from avault.daemon.loosening import LOOSEN
from avault.daemon.managing import MANAGE
from avault.daemon.removing import REMOVE
from avault.daemon.rotation import ROTATE
from avault.daemon.status import describe_status
from avault.daemon.supervisor import Supervisor
from avault.daemon.taking import SHARE, keep
from avault.errors import TimedOut, Usage
from avault.protocol import encode_frame, read_limit
from avault.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from avault.daemon.supervisor import Respond
    from avault.protocol import Message


RESTRAINED = {  # what makes programs pause, and what is said then
    "unguard": "in a terminal, at once: avault unguard",
    "desk": "then, at the desk: avault fleet enroll",
}


async def while_connected(
    sock: socket.socket, work: Coroutine[Any, Any, None], caller: Caller | None = None
) -> None:
    """Do something for a client, for as long as it stays.

    A `caller` that leaves without a word has died.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    gone = loop.create_task(loop.sock_recv(sock, 1))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if caller and gone.done() and (gone.exception() or not gone.result()):
            caller.has_died = True
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
    await task


async def answer_unlock(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Ask the phone, and answer when the vault is open; or, to `detach`, at once."""
    wish = bool(request.get("accept_rollback")), bool(request.get("person"))
    named = str(request["with"]) if request.get("with") else None
    caller = Caller(read_limit(request), *wish, stay=read_limit(request, "stay"))
    caller.reach, caller.custodian = Reach(request), named
    caller.agent = str(request["agent"]) if named and request.get("agent") else None
    if request.get("detach"):
        caller.is_attended = caller.timeout is not None
        spawn(supervisor.tasks, supervisor.first_unlock(caller))
        await asyncio.sleep(0)
        return await answer_wait(supervisor, sock, {"settled": True})
    telling = asyncio.get_running_loop().create_task(tell(supervisor, sock))
    try:
        await while_connected(sock, supervisor.warden.ask(caller), caller)
    finally:
        telling.cancel()
    if named and caller.agent and supervisor.warden.condition.report.get("custodian") == named:
        keep(supervisor.warden, supervisor.warden.custody.find(named, caller.agent))
    if seconds := read_limit(request, "for"):
        await change_limits(supervisor, {"for": seconds})
    return await answer_status(supervisor, sock, request)


async def tell(supervisor: Supervisor, sock: socket.socket) -> None:
    """Send what is being waited for, whenever it changes."""
    while True:
        if supervisor.warden.condition.state == "waiting":
            progress = {"progress": "waiting"} | {
                name: supervisor.warden.condition.report[name]
                for name in ("waiting", "relays", "code")
            }
            await asyncio.get_running_loop().sock_sendall(sock, encode_frame(progress))
        await supervisor.warden.condition.changed.wait()


async def answer_wait(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Answer when the vault is open, or when it is clear what is waited for (`settled`).

    Asks nobody.
    """

    async def wait() -> None:
        while supervisor.warden.condition.state != "unlocked":
            if request.get("settled") and (
                supervisor.warden.condition.state == "waiting"
                or not supervisor.warden.question.callers
            ):
                return
            await supervisor.warden.condition.changed.wait()

    try:
        if supervisor.warden.condition.state != "unlocked":  # else even `timeout` 0 is enough
            async with asyncio.timeout(read_limit(request)):
                await while_connected(sock, wait())
    except TimeoutError:
        raise TimedOut("the vault did not open in time", "see: avault status") from None
    return await answer_status(supervisor, sock, request)


async def answer_lock(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Lock the vault."""
    await supervisor.warden.look()
    supervisor.warden.condition.refuse_to_lose(request)
    supervisor.warden.condition.failure = None
    await supervisor.companions.replicator.settle()
    await supervisor.warden.lock()
    return await answer_status(supervisor, sock, request)


async def answer_limit(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Change when the vault locks by itself, from now on; a limit of 0 is none."""
    given = {name: read_limit(request, name) for name in ("lock_after", "lock_idle")}
    changed = {name: seconds or None for name, seconds in given.items() if seconds is not None}
    supervisor.options |= changed
    supervisor.warden.child.limits = (
        supervisor.options["lock_after"],
        supervisor.options["lock_idle"],
    )
    if seconds := read_limit(request, "for"):
        changed["for"] = seconds
    await change_limits(supervisor, changed)
    return await answer_status(supervisor, sock, request)


async def change_limits(supervisor: Supervisor, limits: dict[str, Any]) -> None:
    """Tell the keyholder of an open vault, and wait until it says what that means."""
    if supervisor.warden.condition.state == "unlocked" and supervisor.warden.child.control:
        changed = supervisor.warden.condition.changed
        supervisor.warden.child.control.send({"do": "limit", **limits})
        await changed.wait()


async def answer_stop(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """End the daemon, once it has answered."""
    await supervisor.warden.look()
    supervisor.warden.condition.refuse_to_lose(request)
    await supervisor.companions.replicator.settle()
    await supervisor.warden.child.end()
    return {"ok": True}


async def answer_record(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Look at the repository again, as a command of git's has changed it."""
    supervisor.companions.recorder.record()
    return {"ok": True}


async def answer_custody(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """What is to be known or changed of custodians, machines, keys, guards; one at a time."""
    tables = {
        "custody": {**MANAGE, **REMOVE, **LIST, **SHARE, **ADMIT},
        "rotate": ROTATE,
        "unguard": LOOSEN,
        "desk": DESKS,
    }
    manage = tables[request["op"]].get(str(request.get("action", request["op"])))
    if not manage:
        raise Usage("no such action", "see references/protocol.md")
    answer: Message = {}

    def tell(code: str) -> None:
        supervisor.precedence.is_asked = True
        frame = encode_frame({"progress": "asking", "code": code})
        spawn(supervisor.tasks, asyncio.get_running_loop().sock_sendall(sock, frame))

    async def work() -> Message:
        supervisor.warden.custody.tell = tell
        return await manage(supervisor.warden, request, describe_caller(sock))

    async def take_turn() -> None:
        turns, person = supervisor.precedence, Reach(request).is_there()
        if hint := RESTRAINED.get(request["op"]):
            answer.update(await turns.loosen(work, person, hint))
        else:
            answer.update(await turns.take(work))

    await while_connected(sock, take_turn())
    return {"ok": True, **answer}


async def answer_desk(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Let a desk in, as a change; or turn its key, for which nobody is asked, nor waited for."""
    if request.get("action") != "turn":
        return await answer_custody(supervisor, sock, request)
    return {"ok": True, **await turn_desk(supervisor.warden, request, describe_caller(sock))}


async def answer_status(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """What is known, without a secret; or with the format `short` the state, as a line."""
    if request.get("format") == "short":
        return {"ok": True, "output": f"{supervisor.warden.condition.current_state()}\n"}
    await supervisor.warden.look()
    shown = describe_status(supervisor.places, supervisor.warden)
    return shown | supervisor.companions.describe()


async def answer_ssh(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """The path of the SSH agent's socket, which listens from then on; and the vault's `state`."""
    path = await supervisor.companions.fronts.ssh()
    return {"ok": True, "path": path, "state": supervisor.warden.condition.current_state()}


async def answer_message(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Look at which messages are on again; what `status` shows of them."""
    supervisor.companions.messenger.look()
    return {"ok": True, "messages": supervisor.companions.messenger.describe()}


async def answer_nostr(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """How the relays are for those who are invited, who are looked for now; and the `state`."""
    found = await supervisor.companions.fronts.nostr()
    return {**found, "state": supervisor.warden.condition.current_state()}


ANSWERS: dict[str, Respond] = {
    "status": answer_status,
    "unlock": answer_unlock,
    "lock": answer_lock,
    "limit": answer_limit,
    "wait": answer_wait,
    "stop": answer_stop,
    "custody": answer_custody,
    "desk": answer_desk,
    "rotate": answer_custody,
    "unguard": answer_custody,
    "record": answer_record,
    "ssh": answer_ssh,
    "message": answer_message,
    "nostr": answer_nostr,
}
