"""avault grant, grants, revoke: a socket of its own for one caller, with what it may get."""

from __future__ import annotations

import os
import pwd
import sys
from typing import TYPE_CHECKING

import click

from avault.cli.custody import show
from avault.client import Connection
from avault.daemon.grant import GRANT_USES
from avault.daily import is_number
from avault.errors import Usage, printable
from avault.running.child import run_child
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, put_table, say, warn
from avault.terminal.terminal import Terminal, tell_of_asking
from avault.terminal.words import parse_duration

if TYPE_CHECKING:
    from typing import Any


@command(
    "grant",
    argument("name"),
    option("--group", "groups", multiple=True),
    option("--only", multiple=True),
    option("--can", multiple=True),
    option("--for", "lasts"),
    option("--times"),
    option("--uid", "users", multiple=True),
    option("--ask", is_flag=True),
    lambda: click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
)
def cmd_grant(terminal: Terminal, name: str, words: tuple[str, ...], **options: Any) -> int:
    """usage: avault grant NAME [--group G]… [--only GROUP/KEY]… [--can get|run|proxy|sign]…
                    [--for D] [--times N] [--uid USER]… [--ask] [--json] [-- CMD…]

    Makes a socket of its own for one caller, and prints its path. Who connects there
    gets what the grant names and no more, and is named so in the access log. With
    AVAULT_SOCKET set to it, `avault get` needs nothing but Python and avault.py.
    It is in the daemon's memory alone, and ends with the lock. Nothing is changed
    through it, and no other grant made.

    --group is all of a group, also what comes later; --only names secrets. Those,
    and what --can names, may have commas between them.
    --can says for what: get is the value; run only for `avault run`, which any
    program can say that it is; sign is to sign with keys, without the value; proxy
    is to use keys by avault's proxy, to their hosts, without having them.
    Without --can: get and run.
    --for D ends it after that time (90, 90s, 5m, 8h, 7d), --times N after so many
    uses. --uid names who may connect, where that is not you: a user, or a number,
    as of a container, which gets the socket's directory mounted. --ask has the
    phone asked before the first use.
    -- CMD runs a command that has it, and ends it with the command.

      avault grant web --group stripe --only openai/API_KEY --for 8h --uid www-data
      avault grant child --only openai/API_KEY --times 3 -- python3 agent.py
    """
    fields = {"name": name, **read_grant_options(**options)}
    if words and "--" not in sys.argv:  # a word too many must not be run
        raise Usage("unexpected extra argument", "a command comes after --")
    if words:
        return run_granted(terminal, fields, list(words))
    answer = terminal.ask("grant", **fields)
    tell_of_grant(answer)
    if terminal.want_json:
        return show(terminal, {"ok": True, "grant": answer["grant"], "missing": answer["missing"]})
    put(f"{answer['grant']['path']}\n")
    return 0


@command("grants", option("--names", is_flag=True))
def cmd_grants(terminal: Terminal, names: bool) -> int:
    """usage: avault grants [--names] [--json]

    Which grants there are: what for, until when, how often yet, for whom, when each
    was last used, and where its socket is. --names is their names alone.

      avault grants
    """
    if names and not terminal.want_json:
        put(terminal.ask("grants", format="names")["output"])
        return 0
    grants = terminal.ask("grants")["grants"]
    if terminal.want_json:
        return show(terminal, {"grants": grants})
    if grants:
        put_table([(each["name"], describe_shown(each), each["path"]) for each in grants])
    else:
        say("there are no grants")
    return 0


@command("revoke", argument("grant", required=False), option("--all", "everything", is_flag=True))
def cmd_revoke(terminal: Terminal, grant: str | None, everything: bool) -> int:
    """usage: avault revoke GRANT
           avault revoke --all

    Ends a grant, or all, at once: also connections that are under way. When it
    returns, nothing more is answered on them, and the socket is gone.

      avault revoke web
    """
    if bool(grant) == everything:
        raise Usage("which grant?", "avault revoke NAME, or --all; see: avault grants")
    ended = terminal.ask("revoke", name=grant)["revoked"]
    say(f"ended: {', '.join(ended)}" if ended else "there are no grants")
    return show(terminal, {"ok": True, "revoked": ended}) if terminal.want_json else 0


def read_grant_options(
    groups: tuple[str, ...],
    only: tuple[str, ...],
    can: tuple[str, ...],
    lasts: str | None,
    times: str | None,
    users: tuple[str, ...],
    ask: bool,
) -> dict[str, Any]:
    """The fields of a grant that the options name; raises Usage."""
    uses = [each for word in can for each in word.split(",")]
    if wrong := next((each for each in uses if each not in GRANT_USES), None):
        raise Usage(f"nothing that a grant can: {printable(wrong)}", f"of: {', '.join(GRANT_USES)}")
    if times is not None and (not is_number(times) or int(times) < 1):
        raise Usage("--times takes a number from 1")
    return {
        "groups": list(groups),
        "only": [each for word in only for each in word.split(",")],
        "can": uses,
        "lasts": parse_duration(lasts),
        "times": None if times is None else int(times),
        "uids": [find_uid(each) for each in users],
        "ask": ask,
    }


def find_uid(user: str) -> int:
    """The uid of a user, or of a number; raises Usage.

    Who runs in a namespace of users that ours does not know appears as one uid, whoever it is: that
    is none to give anything to.
    """
    try:
        is_uid = user.isascii() and user.isdigit() and len(user) <= 10
        uid = int(user) if is_uid else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise Usage(f"no user {printable(user)}", "--uid USER, or a number") from None
    if uid == read_overflow_uid():
        raise Usage(
            f"uid {uid} is that of everybody whom this machine's users do not have",
            "give the container's user a uid of its own",
        )
    return uid


def read_overflow_uid() -> int | None:
    """The uid by which all appear whom our namespace does not know (user_namespaces(7)).

    None where it knows all there are.
    """
    try:
        with open("/proc/self/uid_map", "rb") as file:
            if file.read().split() == [b"0", b"0", b"4294967295"]:
                return None
        with open("/proc/sys/kernel/overflowuid", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def describe_shown(grant: dict[str, Any]) -> str:
    """A grant in words."""
    names = [f"all of {each}" for each in grant["groups"]] + grant["only"]
    parts = [f"{', '.join(grant['can'])}: {', '.join(names)}"]
    if grant["until"]:
        parts.append(f"until {grant['until']}")
    if grant["times"] is not None:
        parts.append(f"{grant['times']} use(s) left")
    if grant["uids"] != [os.getuid()]:
        parts.append(f"for uid {', '.join(map(str, grant['uids']))}")
    if grant["ask"]:
        parts.append("the phone is asked first")
    parts.append(f"last used {grant['used']}" if grant["used"] else "not used yet")
    return "; ".join(parts)


def tell_of_grant(answer: dict[str, Any]) -> None:
    """Say of a new grant what may not be meant."""
    grant = answer["grant"]
    if missing := answer["missing"]:
        warn(f"not in the vault yet: {', '.join(missing)}", "the grant has it when it is there")
    if closed := find_barrier(grant):
        warn(
            f"others cannot enter {closed}, so uid {', '.join(map(str, grant['uids']))} cannot"
            " reach the socket",
            f"mount {os.path.dirname(grant['path'])} where they are, or have the daemon's"
            " AVAULT_SOCKET in a directory that they may enter",
        )


def find_barrier(grant: dict[str, Any]) -> str | None:
    """The first directory on the way to a grant's socket that others may not enter.

    None where all can be entered, or nobody else is to.
    """
    if set(grant["uids"]) <= {os.getuid(), 0}:
        return None
    found, place = None, grant["path"]
    while place != (place := os.path.dirname(place)):
        if not os.stat(place).st_mode & 0o001:
            found = place
    return found


def run_granted(terminal: Terminal, fields: dict[str, Any], words: list[str]) -> int:
    """Run a command that has a grant, which ends with it; its exit code.

    The connection on which the grant was made ends it, so it is kept from the command.
    """
    terminal.need_daemon()
    connection = Connection(terminal.places)
    try:
        answer = connection.request("grant", progress=tell_of_asking, stay=True, **fields)
        tell_of_grant(answer)
        path = os.fsencode(answer["grant"]["path"])
        return run_child(words, {**os.environb, b"AVAULT_SOCKET": path})
    finally:
        connection.close()
