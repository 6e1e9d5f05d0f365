"""avault openclaw plan."""

from __future__ import annotations

import json
import shlex

from avault.errors import Denied, Usage, printable
from avault.openclaw.command import describe_provider, find_command
from avault.openclaw.findings import Target, Variable, look_at_openclaw
from avault.openclaw.plan import (
    PROVIDER,
    apply_plan,
    import_targets,
    make_plan,
    old_copies,
    settle_names,
    verify,
)
from avault.openclaw.program import OpenClaw
from avault.openclaw.remains import clean_stores, tidy_profiles
from avault.openclaw.undo import undo_plan
from avault.openclaw.variables import move_variables, tell_moved
from avault.terminal.commands import command, option
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal


def refuse_unproven(terminal: Terminal, dry_run: bool) -> None:
    """Raise Denied where nobody has shown that the phone opens the vault.

    What is in clear may be the only copy then.
    """
    if terminal.ask("status")["proven"]:
        return
    refusal, hint = (
        "nobody has shown yet that the phone opens this vault: nothing is replaced",
        "avault pair, then once more",
    )
    if not dry_run:
        raise Denied(refusal, hint)
    warn(refusal, hint)


def finish(openclaw: OpenClaw, values: list[str]) -> None:
    """What still stands in clear elsewhere after a plan, and what OpenClaw itself says then."""
    if copies := old_copies(openclaw.config_path, values):
        warn(
            "OpenClaw's old copies of openclaw.json hold the values in clear",
            f"rm {shlex.join(copies)}",
        )
    report = openclaw.ask("secrets", "audit", "--check", "--allow-exec", codes=(0, 1, 2))
    if report["status"] == "clean":
        say("openclaw secrets audit: clean")
        return
    for each in report["findings"]:
        warn(
            f"openclaw secrets audit: {each['code']} {printable(each['jsonPath'])} "
            f"in {printable(each['file'])}"
        )


@command(
    "openclaw plan",
    option("--apply", is_flag=True),
    option("--undo", is_flag=True),
    option("--dry-run", is_flag=True),
    option("--variables", is_flag=True),
    option("--yes", is_flag=True),
)
def cmd_plan(
    terminal: Terminal, apply: bool, undo: bool, dry_run: bool, variables: bool, yes: bool
) -> int:
    """usage: avault openclaw plan [--apply | --dry-run] [--variables] [--json]
       or: avault openclaw plan --undo [--yes | --dry-run] [--json]

    Moves what stands in clear in OpenClaw's openclaw.json and auth profiles into
    the vault. It asks OpenClaw what it finds (openclaw secrets audit), puts the
    values into the vault, reads them back, and prints a plan, names only, for

      openclaw secrets apply --from plan.json --allow-exec

    --apply runs that, and OpenClaw's audit afterwards. --dry-run says what would
    be moved where, and changes nothing. What is in the vault is never replaced.
    The gateway's own token is left where it is: with a locked vault the gateway
    would not start.

    --variables, with --apply, moves what stands in clear in env and in the env of
    MCP servers too, where OpenClaw takes no references: such a server then runs
    under avault run; what else needs a variable, you run so.

    --undo is the way back: in openclaw.json and the auth profiles each reference
    into the vault becomes the value again, IN CLEAR ON THE DISK, and the provider
    goes. It asks first; --yes does not. The secrets stay in the vault.

      avault openclaw plan --dry-run
      avault openclaw plan --apply
      avault openclaw plan --undo
    """
    if undo and not apply:
        return undo_plan(terminal, dry_run, yes)
    if apply and undo:
        raise Usage(
            "--apply and --undo exclude each other", "avault openclaw plan --undo --dry-run"
        )
    if apply and dry_run:
        raise Usage("--apply and --dry-run exclude each other", "avault openclaw plan --dry-run")
    if variables and not apply and not dry_run:
        raise Usage(
            "--variables changes openclaw.json itself, which a plan cannot",
            "avault openclaw plan --apply --variables",
        )
    terminal.ask("list")  # a locked vault says so now, and not after OpenClaw has taken its time
    refuse_unproven(terminal, dry_run)
    openclaw = OpenClaw()
    found = look_at_openclaw(openclaw)
    moving = found.variables if variables else []
    taken: list[Target | Variable] = [*found.targets, *moving]
    answer = settle_names(terminal, taken)
    found.left |= {} if variables else {each.path: each.reason for each in found.variables}
    program = find_command(writing=not dry_run)
    provider = describe_provider(terminal.places, program)
    plan = make_plan(found, provider)
    values = [each.value for each in taken]
    idle = not found.targets and openclaw.value("secrets", "providers", PROVIDER) == provider
    result = {
        "ok": True,
        "targets": [{"path": each.path, "id": "/".join(each.name)} for each in taken],
        "left": [{"path": path, "reason": reason} for path, reason in found.left.items()],
        "new": answer["new"],
        "same": answer["same"],
        "applied": False,
        "plan": plan,
    }
    lines = [f"{each.path} -> {'/'.join(each.name)}" for each in taken]
    if not dry_run and taken:
        import_targets(terminal, taken, dry_run=False)
        verify(terminal, taken)
    if apply and not idle:
        apply_plan(openclaw, terminal.places, plan, values)
        tidy_profiles(openclaw, terminal.places, found)
    if apply and moving:
        move_variables(openclaw, terminal.places, program, moving)
    result["applied"] = apply and (not idle or bool(moving))
    if terminal.want_json:
        put(json.dumps(result, indent=2) + "\n")
    elif dry_run:
        put("".join(f"{line}\n" for line in lines))
    elif not apply:
        put(json.dumps(plan, indent=2) + "\n")
    tell_moved(
        lines if apply else [],
        found.left,
        "nothing to do" if apply and not result["applied"] else "",
    )
    if result["applied"]:
        clean_stores(found.stores, values)
        finish(openclaw, values)
    return 0
