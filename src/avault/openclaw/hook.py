"""avault openclaw install, uninstall and status."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

from avault.daemon.asking import Pauses
from avault.errors import AvaultError
from avault.openclaw.command import (
    LAUNCHER,
    describe_provider,
    find_command,
    fixed_environment,
    launcher_path,
    name_vault,
    refusal,
)
from avault.openclaw.hook_files import HOOK_FILES
from avault.openclaw.plan import PROVIDER
from avault.openclaw.program import OpenClaw, reach
from avault.places import Places
from avault.terminal.commands import command
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal
from avault.vault.files import read_file, write_file
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any


HOOK = "avault-unlock"
ENTRY = ("hooks", "internal", "entries", HOOK)


class Hook:
    """The hook in OpenClaw's own directory of hooks, which takes no symlinks."""

    def __init__(self, openclaw: OpenClaw) -> None:
        self.openclaw = openclaw
        self.directory = os.path.join(str(openclaw.ask("hooks", "list")["managedHooksDir"]), HOOK)

    def wanted(self, places: Places, program: str) -> dict[str, bytes]:
        """The files of the hook and what is in them. avault.json says which command avault is."""
        files = {name: text.encode() for name, text in HOOK_FILES.items()}
        words = {
            "command": [program, *name_vault(places)],
            "env": fixed_environment(),
            "config": self.openclaw.config_path,
        }
        return files | {
            "avault.json": json.dumps({**words, "first": self.first()}).encode() + b"\n"
        }

    def first(self) -> list[str]:
        """The topmost setting that enabling the hook creates, and disabling takes away again."""
        try:
            return list(json.loads(read_file(os.path.join(self.directory, "avault.json")))["first"])
        except (AvaultError, ValueError, TypeError, KeyError):
            missing = (
                length
                for length in range(1, len(ENTRY))
                if self.openclaw.value(*ENTRY[:length]) is None
            )
            return list(ENTRY[: next(missing, len(ENTRY))])

    def is_there(self, wanted: dict[str, bytes]) -> bool:
        """Whether all the files are there as they should be."""
        try:
            return not os.path.islink(self.directory) and all(
                read_file(os.path.join(self.directory, name)) == data
                for name, data in wanted.items()
            )
        except AvaultError:
            return False

    def is_enabled(self) -> bool:
        """Whether openclaw.json names it."""
        entry = self.openclaw.value(*ENTRY)
        return isinstance(entry, dict) and entry.get("enabled", True) is True

    def write(self, wanted: dict[str, bytes]) -> None:
        """Put the files into place."""
        if os.path.islink(self.directory):
            os.unlink(self.directory)
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        for name, data in wanted.items():
            write_file(os.path.join(self.directory, name), data)

    def enable(self) -> None:
        """Have OpenClaw load it."""
        internal = self.openclaw.value("hooks", "internal")
        if isinstance(internal, dict) and internal.get("enabled") and not internal.get("entries"):
            warn(
                "until now OpenClaw loaded every hook that it found; "
                "from now on those under hooks.internal.entries",
                "openclaw hooks list, and openclaw hooks enable for each that you want",
            )
        self.openclaw.run("hooks", "enable", HOOK)
        self.openclaw.forget()

    def disable(self) -> None:
        """Take the settings away that enabling has made; others stay."""
        first = self.first()
        self.openclaw.run("config", "unset", ".".join(ENTRY))
        self.openclaw.forget()
        left = self.openclaw.value(*first)
        if len(first) < len(ENTRY) and left in (
            {},
            {"enabled": True, "entries": {}},
            {"internal": {"enabled": True, "entries": {}}},
        ):
            self.openclaw.run("config", "unset", ".".join(first))
            self.openclaw.forget()


@command("openclaw install")
def cmd_install(terminal: Terminal) -> int:
    """usage: avault openclaw install

    Copies the hook avault-unlock into OpenClaw's directory of hooks and enables
    it: when the gateway starts with a locked vault, the hook asks the phone and
    then reloads the secrets. Checks that OpenClaw will execute avault, and writes
    a launcher of your own where it would not. Twice changes nothing.

    Then: avault openclaw plan --apply, and avault service install, as a daemon
    that the gateway starts ends with it.
    """
    openclaw = OpenClaw()
    hook = Hook(openclaw)
    program = find_command(writing=True)
    wanted = hook.wanted(terminal.places, program)
    changed = []
    if not hook.is_there(wanted):
        hook.write(wanted)
        changed.append(f"wrote {hook.directory}")
    if not hook.is_enabled():
        hook.enable()
        changed.append(
            f"enabled the hook {HOOK}; restart the gateway to load it: openclaw gateway restart"
        )
    if terminal.want_json:
        put(
            json.dumps(
                {"ok": True, "changed": bool(changed), "hook": hook.directory, "command": program},
                indent=2,
            )
            + "\n"
        )
    for line in changed or ["the hook is installed and enabled; nothing to do"]:
        say(line)
    return 0


@command("openclaw uninstall")
def cmd_uninstall(terminal: Terminal) -> int:
    """usage: avault openclaw uninstall

    Removes what avault openclaw install has made: the hook, its settings, and the
    launcher unless openclaw.json still names it as a secret provider. References
    to secrets stay as they are.
    """
    openclaw = OpenClaw()
    hook = Hook(openclaw)
    changed = []
    if openclaw.value(*ENTRY) is not None:
        hook.disable()
        changed.append(f"disabled the hook {HOOK}")
    if os.path.lexists(hook.directory):
        if os.path.islink(hook.directory):
            os.unlink(hook.directory)
        else:
            shutil.rmtree(hook.directory)
        changed.append(f"removed {hook.directory}")
    launcher = os.path.realpath(launcher_path())
    if os.path.lexists(launcher) and LAUNCHER.splitlines()[1].encode() in read_file(launcher):
        if launcher in provider_commands(openclaw):
            say(
                f"kept {launcher}: openclaw.json names it as a secret provider, "
                "and the gateway would not start without it"
            )
        else:
            os.unlink(launcher)
            changed.append(f"removed {launcher}")
    if terminal.want_json:
        put(json.dumps({"ok": True, "changed": bool(changed)}, indent=2) + "\n")
    for line in changed or ["nothing is installed; nothing to do"]:
        say(line)
    return 0


def provider_commands(openclaw: OpenClaw) -> set[str]:
    """The commands of the secret providers in openclaw.json."""
    providers = openclaw.value("secrets", "providers")
    return {
        str(reach(each, ["command"]))
        for each in (providers.values() if isinstance(providers, dict) else ())
    }


@command("openclaw status")
def cmd_openclaw_status(terminal: Terminal) -> int:
    """usage: avault openclaw status [--json]

    Whether the hook is installed and enabled, whether OpenClaw may execute avault,
    whether openclaw.json has the provider, and how often the phone was asked in
    vain. Exit code 0: all is as it should be; 1: something is not.
    """
    openclaw = OpenClaw()
    hook = Hook(openclaw)
    program = find_command(writing=False)
    entry = openclaw.value("secrets", "providers", PROVIDER)
    named = str(reach(entry, ["command"]) or program)
    vain = Pauses(terminal.places).read()
    there = hook.is_there(hook.wanted(terminal.places, program))
    found = {
        "config": openclaw.config_path,
        "hook": "installed"
        if there
        else "differs"
        if os.path.lexists(hook.directory)
        else "absent",
        "enabled": hook.is_enabled(),
        "command": named,
        "problem": refusal(named),
        "provider": "absent"
        if entry is None
        else "current"
        if entry == describe_provider(terminal.places, program)
        else "differs",
        "attempts": vain["in_vain"],
        "asked": render_time(vain["last"]) if vain["in_vain"] else None,
    }
    right = there and found["enabled"] and not found["problem"] and found["provider"] == "current"
    if terminal.want_json:
        put(json.dumps({"ok": True, **found}, indent=2) + "\n")
    else:
        put(render_openclaw_status(found))
    if not right:
        say("hint: avault openclaw install, then avault openclaw plan --apply")
    return 0 if right else 1


def render_openclaw_status(found: dict[str, Any]) -> str:
    """Status for a person."""
    lines = [
        f"Configuration: {found['config']}",
        f"Hook: {found['hook']}, {'enabled' if found['enabled'] else 'not enabled'}",
        f"Provider: {found['provider']}",
        f"Command: {found['command']}"
        + (f": OpenClaw refuses it: {found['problem']}" if found["problem"] else ""),
    ]
    if found["attempts"]:
        lines.append(f"Asked in vain: {found['attempts']} time(s), last {found['asked']}")
    return "".join(line + "\n" for line in lines)
