"""avault doctor: the table of checks, and the command."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from avault.doctor.around import (
    check_custody,
    check_git,
    check_lingering,
    check_plaintext,
    check_replica,
    check_service,
    check_swap,
)
from avault.doctor.daemon import check_clock, check_daemon, check_python, check_socket
from avault.doctor.keys import (
    check_custodians,
    check_machines,
    check_operators,
    check_rotation,
)
from avault.doctor.patient import Finding, Patient, bad
from avault.doctor.phone import check_drill, check_pairing, check_proof, check_relays
from avault.doctor.state import check_leftovers, check_orphans, check_state
from avault.doctor.vault import check_vault_directory
from avault.errors import AvaultError, Usage, printable
from avault.hints import call
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal, refuse_elses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


CHECKS: dict[str, Callable[[Patient], Iterator[Finding]]] = {
    "vault": check_vault_directory,
    "state": check_state,
    "leftovers": check_leftovers,
    "orphans": check_orphans,
    "socket": check_socket,
    "daemon": check_daemon,
    "python": check_python,
    "clock": check_clock,
    "pairing": check_pairing,
    "drill": check_drill,
    "proven": check_proof,
    "relay": check_relays,
    "custody": check_custody,
    "custodians": check_custodians,
    "machines": check_machines,
    "operators": check_operators,
    "rotation": check_rotation,
    "git": check_git,
    "replica": check_replica,
    "service": check_service,
    "lingering": check_lingering,
    "plaintext": check_plaintext,
    "swap": check_swap,
}


def run_check(check: Callable[[Patient], Iterator[Finding]], patient: Patient) -> list[Finding]:
    """What a check finds: that all is well, or its troubles without that.

    A check that fails is a trouble.
    """
    found: list[Finding] = []
    try:
        found += check(patient)
    except AvaultError as error:
        found.append(bad(error))
    except Exception as error:
        found.append(Finding("bad", f"this could not be looked at: {type(error).__name__}"))
    return [each for each in found if each.state in ("bad", "warn") or each.more] or found


def render_finding(name: str, finding: Finding) -> str:
    """A finding for a person."""
    line = f"{finding.state:<4} {name}: {printable(finding.text, 1000)}\n"
    return line + (
        f"     hint: {printable(call.complete(finding.hint), 1000)}\n" if finding.hint else ""
    )


@command(
    "doctor",
    argument("check", nargs=-1),
    option("--fix", is_flag=True),
    option("--offline", is_flag=True),
)
def cmd_doctor(terminal: Terminal, check: tuple[str, ...], fix: bool, offline: bool) -> int:
    """usage: avault doctor [--fix] [--offline] [--json] [CHECK]…

    Looks at everything that has to be right: files and permissions, the daemon,
    the clock, pairing and drill, each relay (a message to ourselves, there and
    back), custody, machines, operators, what a rotation left, git, service,
    secrets left in clear, swap. A line for each:
    ok; warn, it works but should be known; bad, it does not work or will not;
    off, not there. With the command that mends it. CHECK chooses, by the names
    in front of the lines.

    The phone is not asked, and nothing is changed. --fix does what can do no
    harm: permissions, leftovers of killed writes and rotations, the state of a vault that was
    moved, nip46.json, .gitattributes and git's merge driver. --offline leaves the relays
    alone.
    Exit code 0: nothing is bad; 1: something is.

      avault doctor
      avault doctor --fix
      avault doctor relay git
    """
    if unknown := sorted(set(check) - set(CHECKS)):
        raise Usage(f"no check is called {printable(unknown[0])}", f"one of: {', '.join(CHECKS)}")
    refuse_elses(terminal.places)
    patient = Patient(terminal.places, offline)
    rows, fixed = [], []
    for name in [name for name in CHECKS if name in check or not check]:
        findings = run_check(CHECKS[name], patient)
        mended = [
            done for finding in findings if fix and finding.fix and (done := mend(finding.fix))
        ]
        if mended:
            for done in mended:
                say(f"fixed: {done}")
            findings = run_check(CHECKS[name], patient)
        fixed += mended
        for finding in findings:
            hint = call.complete(finding.hint) if finding.hint else None
            rows.append(
                {
                    "name": name,
                    "state": finding.state,
                    "text": finding.text,
                    "hint": hint,
                    **finding.more,
                }
            )
            if not terminal.want_json:
                put(render_finding(name, finding))
    count = sum(row["state"] == "bad" for row in rows)
    if terminal.want_json:
        put(
            json.dumps({"ok": True, "healthy": not count, "checks": rows, "fixed": fixed}, indent=2)
            + "\n"
        )
    elif count:
        say(f"{count} thing(s) to mend")
    sys.stdout.flush()
    # the library's callbacks can crash an interpreter that ends in the usual way
    os._exit(1 if count else 0)


def mend(fix: Callable[[], str]) -> str | None:
    """Do what a finding offers; what it did, or None and why not on stderr."""
    try:
        return fix()
    except (AvaultError, OSError) as error:
        say(
            "could not be fixed: "
            f"{error.message if isinstance(error, AvaultError) else error.strerror}"
        )
        return None
