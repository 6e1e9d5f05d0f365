"""Who wants something signed: as the phone is told, and as an approval is good for it again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.daemon.behind import find_program, look_at_process
from avault.daemon.callers import describe_process
from avault.daemon.restraint import name_process, name_program, which_asks, who_asks
from avault.daemon.wire import Session
from avault.keys.keyholder import Keyholder

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.restraint import Who
    from avault.vault.invitations import Invitation


class Asker:
    """Who asks: the process (`caller`, as `describe_caller` has it), and what it says that it does.

    `who` is known again after it has ended, for pauses; `which` is good for one approval, and None
    for who is not known again (see `which_asks`). `words` is how the phone names it.
    """

    def __init__(
        self, caller: dict[str, Any], who: Who, which: Who | None, words: str, does: str = ""
    ) -> None:
        self.caller, self.who, self.which, self.words, self.does = caller, who, which, words, does


def find_asker(keyholder: Keyholder, session: Session, claims: object) -> Asker:
    """Who is behind a request; of one that the SSH agent hands on, its client.

    What claims say of a client counts from that front end alone: others could name anybody.
    """
    caller = keyholder.identify(session)
    if session in keyholder.signing.fronts and isinstance(claims, dict):
        pid, since = claims.get("pid"), claims.get("since")
        if type(pid) is int and type(since) is float:
            return ask_behind(pid, caller["uid"], since, str(claims.get("does") or ""))
    words = name_program(caller)
    if session.grant:
        words += f" by the grant {session.grant.name}"
    words = f"{words} (pid {caller['pid']})"
    return Asker(caller, who_asks(caller), which_asks(caller, session.grant), words)


def ask_behind(pid: int, uid: int, since: float, does: str) -> Asker:
    """The program behind a client of the SSH agent.

    An approval is good for what that program starts, in the session of the kernel that the client
    is in: nobody else gets into one. One that was begun outside of this container is 0 in it.
    """
    client = describe_process(pid, uid, since)
    found = find_program(pid, look_at_process(pid))
    program = describe_process(found.pid, uid) if client["exe"] else client
    starter = describe_process(found.starter, uid)
    who = (uid, program["exe"], client["exe"], None)
    words = f"{name_program(program)} (pid {program['pid']})"
    try:
        leader = os.getsid(pid)
    except OSError:  # it has ended
        return Asker(program, who, None, words, does)
    if not (client["exe"] and program["exe"] and starter["exe"]):
        return Asker(program, who, None, words, does)
    named = (*name_process(found.starter), *name_process(leader))
    # two programs of one shell are two; of what one program starts, all is its own
    return Asker(program, who, (uid, program["exe"], *named, None), words, does)


def ask_invited(caller: dict[str, Any], invitation: Invitation) -> Asker:
    """Who is invited: its key is proven, whoever brings what it asks."""
    name = str(invitation.name)
    shown = {**caller, "exe": f"child-{name}", "name": name, "parent": None}
    who = (caller["uid"], shown["exe"], invitation.identity, None)
    return Asker(shown, who, (*who, invitation.client), f'child "{name}"')
