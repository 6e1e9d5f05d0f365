"""avault rotate: what is to be made anew when a machine is trusted no more."""

from __future__ import annotations

from avault.cli.custody import show
from avault.terminal.commands import command
from avault.terminal.talk import put_table, say
from avault.terminal.terminal import Terminal


@command("rotate report")
def cmd_rotate_report(terminal: Terminal) -> int:
    """usage: avault rotate report [--json]

    The keys whose values may be known to who is not to know them any more: those
    that were there when a machine was removed. Each with its age, and why. Only a
    new value helps: make one where it comes from, end the old one there, and set
    it here; then it leaves the list. A value that was known before stays on it,
    under whatever name. Exit code 1 while any is left.
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
