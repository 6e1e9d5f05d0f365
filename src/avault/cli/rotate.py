"""avault rotate: what is made anew when a key, a machine or a person is trusted no more."""

from __future__ import annotations

from avault.cli.ceremony import Ceremony, read_bunker
from avault.cli.custody import Person, manage, show, show_code
from avault.cli.pair import PAIRING
from avault.cli.replica import push_after_rotation, take_before_rotation
from avault.errors import AvaultError, Denied, Usage
from avault.hints import call
from avault.keys.nostr import parse_npub, to_npub
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, put_table, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration
from avault.vault.names import SUCCESSOR


@command("rotate agent", option("--yes", is_flag=True))
def cmd_rotate_agent(terminal: Terminal, yes: bool) -> int:
    """usage: avault rotate agent [--yes]

    Gives the vault a new agent's key: for when the old one may be known to who is
    not to have it. The phone is asked once, and opens an envelope of the new key
    before anything goes; then all is sealed anew, the custodians' keys too. One
    that asks a person asks at this terminal; one that could not be asked is named,
    and is to be added again. Cut off at any point, the old key opens the vault, or
    the new one.

    Other machines say what to do: one approval there. What they have written, and
    only relays have, is taken in first, as nothing comes from there under the old
    key after that; see before that they have sent it. The old key stays in the
    vault, for avault history and avault restore. What it has opened stays known:
    avault rotate report.
    """
    meaning = "the old key is to open this vault no more, on any machine"
    name_openers(terminal)
    if not yes and not confirm(f"avault: {meaning}. Make a new one?"):
        raise Denied("not confirmed; nothing was changed", "avault rotate agent --yes")
    take_before_rotation(terminal)
    say("asking the operator, who opens an envelope of the new key")
    with Person() as person:
        answer = terminal.ask("rotate", action="agent", progress=show_code, **person)
    say(f"the agent's key is new: {answer['agent']}")
    if answer["custodians"]:
        say(f"opened with it: {', '.join(answer['custodians'])}")
    for each in answer["left"]:
        warn(
            f"the custodian {each['name']} does not open this vault any more: {each['why']}",
            f"add it again: avault custody add KIND --name {each['name']} --replace",
        )
    push_after_rotation(terminal)
    say(f"the access log begins anew; the one before is in {answer['log']}, in the state directory")
    warn(
        "what the old key has opened stays known; only new values help",
        "which these are: avault rotate report",
    )
    return show(terminal, {"ok": True, **answer})


def name_openers(terminal: Terminal) -> None:
    """Say who opens the vault with the new key, before anybody agrees to it."""
    status = terminal.ask("status")
    if status["first_operator"]:
        named = [status["first_operator"]]
        named += [f"{npub} ({name})" for name, npub in status["operators"].items()]
        say(f"its operators: {', '.join(named)}")
        say(f"what opens it here: {', '.join(status['custodians'])}")


@command("rotate operator", option("--to"), option("--yes", is_flag=True), *PAIRING)
def cmd_rotate_operator(
    terminal: Terminal,
    to: str | None,
    yes: bool,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault rotate operator --to NPUB [--bunker URI|-] [--relay URL]…
                   [--qr FILE.png] [--timeout D] [--no-drill] [--yes]

    Puts another phone, or another person's, in your place. Yours approves that
    first; then it pairs with the other one, as avault pair does, and that one opens
    the vault. From then on it approves, and yours no more, on any machine. Cut off
    in between, both open the vault: type the same again, or take it back with
    avault operator remove successor.

    Each other machine says what to do: avault pair --replace. An old nsec.enc,
    from git, still opens for the key before; only avault rotate agent ends that.

      avault rotate operator --to npub1…
      avault rotate operator --to npub1… --bunker -
    """
    if not to:
        raise Usage("whose phone is it to be?", "avault rotate operator --to NPUB")
    npub = to_npub(parse_npub(to))
    status = terminal.ask("status")
    again = f"avault rotate operator --to {npub}"
    if (status.get("operators") or {}).get(SUCCESSOR) == npub:
        say("you have agreed to that already; the other phone is to open the vault")
    else:
        meaning = "your phone is to approve no more, on any machine"
        if not yes and not confirm(f"avault: {meaning}. Put {npub} in its place?"):
            raise Denied("not confirmed; nothing was changed", f"{again} --yes")
        manage(terminal, "admit", succeeds=True, npub=npub)
    call.farewell = f"stopped; both phones open the vault: {again}"
    talk = Ceremony(terminal, qr)
    fields = {"relays": list(relays), "replace": True, "timeout": parse_duration(timeout)}
    answer = talk.request("pair", {"bunker": read_bunker(bunker)}, operator=npub, **fields)
    if SUCCESSOR in terminal.ask("status")["operators"]:
        raise AvaultError("both phones open the vault, as it could not be written", again)
    say(f"{npub} approves for this vault from now on, and the phone before no more")
    warn(
        "what the phone before has opened stays known, and an old nsec.enc opens for it",
        "a new agent's key: avault rotate agent; and new values: avault rotate report",
    )
    code = 0 if no_drill else talk.drill()
    return code or show(terminal, answer)


@command("rotate report")
def cmd_rotate_report(terminal: Terminal) -> int:
    """usage: avault rotate report [--json]

    The keys whose values may be known to who is not to know them any more: those
    that were there when a machine or an operator was removed, or the agent's key
    was replaced. Each with its age, and why. Only a new value helps: make one
    where it comes from, end the old one there, and set it here; then it leaves
    the list. A value that was known before stays on it, under whatever name.
    Exit code 1 while any is left.
    """
    answer = terminal.ask("exposed")
    exposed, marks = answer["exposed"], answer["marks"]
    code = 1 if exposed else 0
    if terminal.want_json:
        show(terminal, {"ok": not exposed, "exposed": exposed, "marks": marks})
        return code
    if exposed:
        rows = [
            (f"{each['group']}/{each['key']}", f"{each['age'] // 86400} d", each["why"])
            for each in exposed
        ]
        put_table([("KEY", "AGE", "WHY"), *rows])
        say(f"{len(exposed)} to be made anew where they come from, then: avault set GROUP/KEY")
    elif marks:
        say("nothing is left to be set anew: no value of before is in the vault")
    else:
        say("nothing was removed or rotated in this vault")
    return code
