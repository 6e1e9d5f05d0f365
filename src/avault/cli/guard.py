"""avault guard, unguard: how a secret may be used."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING

from avault.cli.custody import Person, show, show_code
from avault.cli.key import name_all_uses, read_ask
from avault.cli.nostr_words import NOSTR_OPTIONS
from avault.cli.wallet_words import WALLET_OPTIONS
from avault.daily import is_number
from avault.errors import Denied, Usage, printable
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import confirm, put, put_table, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration, split_name
from avault.vault.rule_members import (
    HEADER,
    PLACES,
    RENEWAL,
    SIGNING,
    WAYS,
    describe_host,
)
from avault.vault.services import SERVICES, find_service

if TYPE_CHECKING:
    from typing import Any


@command(
    "guard",
    argument("group", required=False),
    option("--ask", is_flag=False, flag_value="each"),
    option("--only", multiple=True),
    option("--host", "hosts", multiple=True),
    option("--in", "places", multiple=True),
    option("--method", "methods", multiple=True),
    option("--path", "paths", multiple=True),
    option("--server", "servers", multiple=True),
    option("--user", "users", multiple=True),
    option("--namespace", "namespaces", multiple=True),
    *NOSTR_OPTIONS,
    *WALLET_OPTIONS,
    option("--preset"),
    option("--until"),
    option("--times"),
    option("--yes", is_flag=True),
)
def cmd_guard(
    terminal: Terminal, group: str | None, ask: str | None, yes: bool, **options: Any
) -> int:
    """usage: avault guard GROUP[/KEY] [--ask [D]] [--only run|proxy|ssh|sign|wallet]…
                          [--host HOST]… [--in header|path|query|body|websocket|sign|refresh]…
                          [--method METHOD]… [--path GLOB]…
                          [--preset SERVICE] [--server SERVER]… [--user USER]…
                          [--namespace NS]… [--kinds K,…] [--ciphers C,…]
                          [--peer NPUB|any]… [--wallet RULE]… [--until T] [--times N]
                          [--yes] [--json]
           avault guard [GROUP[/KEY]] [--json]
           avault guard --preset SERVICE

    Says how a secret may be used, or all of a group, also what comes later. It
    counts at once, on every machine, whatever becomes of the secret's value and
    name. What a guard does not let out is refused, with exit code 5. Setting one,
    or making it stricter, is free; for less, it asks you (--yes does not), and
    then the phone. Without options: which guards there are, in words.

    --ask has the phone asked for each use, or once in a time (--ask 15m) by each
    caller, and says who wants it. Until then it is in nobody's memory: what opens it
    is in an envelope that only the phone opens. Anybody may set it.
    --only run lets it out by avault run alone, not by get, export, inject, edit or
    OpenClaw's provider. That any program can say it is avault run, is so: it is
    against mistakes, and against tools that read secrets. proxy, ssh, sign and wallet
    are uses by avault itself, without giving it out: avault run with its proxy,
    avault ssh, avault bunker, avault wallet.
    --host, --method and --path (with * in it) are for the proxy: it alone may use
    the secret, for requests like that. --preset names a usual service's hosts.
    --in says where in a request it may be: in a header if nothing is said, else in
    these places and no other. In a query or a body, others may come to read it.
    sign is for a secret that signs requests (AWS), and goes into none; refresh for
    what renews a token: no command can send it anywhere.
    --server, --user, --namespace, --kinds, --ciphers, --peer and --wallet are for
    keys that sign: see avault key generate --help.
    --until is a duration, a date or a time (2030-01-31, 2030-01-31T12:00:00Z).
    --times counts in the vault, so locks, restarts and other machines do not
    begin anew. After either, only the operator has it used again.

      avault guard stripe/SECRET_KEY --ask
      avault guard openai/API_KEY --only run
      avault guard stripe --preset stripe --method GET
      avault guard telegram/TOKEN --host api.telegram.org --in path
      avault guard deploy/TOKEN --times 3 --until 8h
    """
    if ask is not None and group is None:  # as in: guard --ask GROUP/KEY
        ask, group = "each", ask
    rules = read_options(ask, **options)
    if group is None:
        if options["preset"] and set(rules) == {"hosts"}:
            return show_preset(terminal, options["preset"])
        if rules:
            raise Usage("which secret?", "avault guard GROUP/KEY --only run")
        return list_guards(terminal, None, None)
    name = group
    group, key = split_name(name, None)
    if not rules:
        return list_guards(terminal, group, key)
    answer = terminal.ask("guard", group=group, key=key, **rules)
    if answer["weakens"]:
        now = answer["guard"]["words"]
        if not yes and not confirm(f"avault: {name} is guarded: {now}. Ask for less?"):
            raise Denied(
                f"that is less than the guard on {name}: {now}; nothing was changed",
                "the operator has to agree, by phone; to ask: the same with --yes",
            )
        answer = {"guard": loosen_by_phone(terminal, group, key, rules), "there": True}
    guard = answer["guard"]
    if not answer["there"]:
        warn(f"there is no {name} in the vault yet", "the guard counts when there is")
    say(f"{name} is guarded: {guard['words']}")
    if ask is not None and answer["there"]:
        warn(
            "what was there before is in memory until the vault is locked, and in older copies",
            "avault lock; and have the service make a new key",
        )
    if warning := answer.get("warning"):
        warn(warning, "guard only those that matter most")
    if ask is not None:
        say("from now on an operator's phone alone opens it: with that key lost, it is lost too")
    return show(terminal, {"ok": True, "guard": guard})


@command(
    "unguard",
    argument("group"),
    option("--all", "is_all", is_flag=True),
    option("--yes", is_flag=True),
)
def cmd_unguard(terminal: Terminal, group: str, is_all: bool, yes: bool) -> int:
    """usage: avault unguard GROUP[/KEY] [--all] [--yes]

    Takes the guard off a secret, or off a group, and parts a name from those
    that the secret had. It asks first (--yes does not), then the phone has to
    agree; it says what becomes possible, and of which names. What changes while
    it asks is not agreed to: ask again. A guard that another machine has set
    stays, and so does one that counts by the group: that is named. A program, which
    has no terminal, pauses after it asked in vain. --all takes off what is on the
    group and on each key in it, by one question.

      avault unguard openai/API_KEY
    """
    name = group
    group, key = split_name(name, None)
    if is_all and key is not None:
        raise Usage("--all is for a group", f"avault unguard {group} --all")
    which = f"each guard in {name}" if is_all else f"the guard on {name}"
    if not yes and not confirm(f"avault: {which} is to go. Take it off?"):
        again = f"avault unguard {name}{' --all' if is_all else ''} --yes"
        raise Denied("not confirmed; nothing was changed", again)
    guard = loosen_by_phone(terminal, group, key, None, is_all)
    left = f"still guarded, as {' and '.join(guard['by'])} is: {guard['words']}"
    say(f"{name} is {left if guard['by'] else 'not guarded any more'}")
    return show(terminal, {"ok": True, "guard": guard if guard["by"] else None})


def loosen_by_phone(
    terminal: Terminal,
    group: str,
    key: str | None,
    rules: dict[str, Any] | None,
    is_all: bool = False,
) -> dict[str, Any]:
    """What is left of a guard once the operator has agreed that it is less."""
    say("asking the operator whether that is meant")
    fields: dict[str, Any] = {"group": group, "key": key, "rules": rules}
    if is_all:
        fields["all"] = True
    with Person() as person:
        return terminal.ask("unguard", progress=show_code, **person, **fields)


def read_options(
    ask: str | None,
    only: tuple[str, ...],
    hosts: tuple[str, ...],
    places: tuple[str, ...],
    methods: tuple[str, ...],
    paths: tuple[str, ...],
    preset: str | None,
    until: str | None,
    times: str | None,
    **uses: Any,
) -> dict[str, Any]:
    """The fields of a guard that the options name; raises Usage."""
    if wrong := next((each for each in only if each not in WAYS), None):
        raise Usage(f"no way to use a secret: {printable(wrong)}", f"one of: {', '.join(WAYS)}")
    if preset is not None:
        hosts = (*find_service(preset)[0], *hosts)
    rules: dict[str, Any] = {
        "only": list(only),
        "hosts": place_hosts([each.lower() for each in hosts], places),
        "methods": [each.upper() for each in methods],
        "paths": list(paths),
    }
    if ask is not None:
        rules["ask"] = read_ask(ask)
    if until is not None:
        rules["until"] = parse_time(until)
    if times is not None:
        if not is_number(times) or int(times) < 1:
            raise Usage("--times takes a number from 1")
        rules["times"] = int(times)
    return {name: value for name, value in rules.items() if value != []} | name_all_uses(**uses)


def place_hosts(hosts: list[str], places: tuple[str, ...]) -> list[str]:
    """Hosts with the places in requests to them, as a guard has them; raises Usage."""
    known = (HEADER, *PLACES, SIGNING, RENEWAL)
    if wrong := next((each for each in places if each not in known), None):
        raise Usage(f"no place in a request: {printable(wrong)}", f"one of: {', '.join(known)}")
    if places and not hosts:
        raise Usage("--in is about requests to a host", "name it, too: --host HOST")
    before = ["" if each == HEADER else f"{each}@" for each in places] or [""]
    return [
        host if "@" in host else place + host for host in hosts for place in dict.fromkeys(before)
    ]


def parse_time(text: str) -> int:
    """Unix seconds of a duration from now, a date or a time; raises Usage.

    Digits alone are neither: 20300131 is meant as a date, and would be a duration.
    """
    wrong = Usage("not a time", "as in 8h, 7d, 2030-01-31 or 2030-01-31T12:00:00Z")
    if text.isdigit():
        raise wrong
    try:
        return int(time.time() + (parse_duration(text) or 0))
    except Usage:
        pass
    try:
        found = datetime.datetime.fromisoformat(text)
        return int((found if found.tzinfo else found.astimezone()).timestamp())
    except (ValueError, OverflowError):
        raise wrong from None


def list_guards(terminal: Terminal, group: str | None, key: str | None) -> int:
    """Show the guards, all or those of a name."""
    guards = terminal.ask("guards", group=group, key=key)["guards"]
    if terminal.want_json:
        return show(terminal, {"guards": guards})
    rows = []
    for each in guards:
        others = [name for name in each["by"] if name != each["name"]]
        because = f" (as {' and '.join(others)} is)" if others else ""
        rows.append((each["name"], each["words"] + because))
    if rows:
        put_table(rows)
    else:
        name = group if key is None else f"{group}/{key}"
        say("nothing is guarded" if group is None else f"{name} is not guarded")
    return 0


def show_preset(terminal: Terminal, name: str) -> int:
    """Show what the table of services has of one."""
    hosts, header, form = find_service(name)
    if terminal.want_json:
        about = {"preset": name, "hosts": list(hosts), "header": header, "form": form or None}
        return show(terminal, about)
    put(f"hosts   {' '.join(map(describe_host, hosts))}\nheader  {header}\n")
    put(f"keys    {' '.join(form.split())}\n" if form else "")
    say(f"to have it: avault guard GROUP/KEY --preset {name}; all there are: {', '.join(SERVICES)}")
    return 0
