"""avault service install, uninstall, status."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, Locked, NotFound, Unavailable, Usage, printable
from avault.hints import call
from avault.places import Places, usual_directory
from avault.process import own_command
from avault.service.accounts import account_name, as_account, home_of, linger
from avault.service.root import need_root
from avault.service.state import is_listening, look_at_service, reach_manager
from avault.service.unit import Service
from avault.systemd import OTHER_WAYS, NoManager, is_booted
from avault.terminal.commands import command, option
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration
from avault.vault.presence import need_vault, read_unlock

if TYPE_CHECKING:
    from typing import Any


SCOPE = (option("--system", is_flag=True), option("--user"))


def choose_service(terminal: Terminal, system: bool, user: str | None) -> Service:
    """The service that the options mean; raises Usage.

    The system's manager can run it as another account: then its home says where everything is.
    """
    me = account_name()
    if not system:
        if user is not None and user != me:
            raise Usage(
                "--user is for the system's manager",
                f"as {printable(user)}: avault service install, or: --system --user",
            )
        return Service(terminal.places, False, me)
    account = user or (os.environ.get("SUDO_USER") if os.getuid() == 0 else None) or me
    if account == me:
        return Service(terminal.places, True, account)
    try:
        pwd.getpwnam(account)
    except KeyError:
        raise Usage(f"no such user: {printable(account)}") from None
    is_usual = terminal.places.dir == usual_directory()
    # from here on, we look for things where that account has them
    os.environ["HOME"] = home_of(account)
    return Service(Places(None if is_usual else terminal.places.dir), True, account)


@command(
    "service install",
    *SCOPE,
    option("--lock-after"),
    option("--lock-idle"),
    option("--notify"),
    option("--print", "--dry-run", "show", is_flag=True),
)
def cmd_service_install(
    terminal: Terminal,
    system: bool,
    user: str | None,
    lock_after: str | None,
    lock_idle: str | None,
    notify: str | None,
    show: bool,
) -> int:
    """usage: avault service install [--system [--user NAME]] [--lock-after D] [--lock-idle D]
                              [--notify CMD] [--print]

    Writes a systemd unit for this vault, enables it and starts it: from now on
    the daemon runs from boot, confined, and asks the phone. A unit of the user's
    own manager, for which lingering is turned on if that is allowed; with
    --system one of the system's, which runs as NAME (default: you, or who called
    sudo). That one is root's: the hint has the command. Root itself installs it
    only where nobody else can change avault, its Python or its packages.
    --lock-after, --lock-idle and --notify are those of `daemon start`. --print
    (or --dry-run) only prints the unit.

    A second time it changes what has changed, and nothing else. A daemon that
    runs is never stopped for it: what it holds would be gone.

      avault service install --lock-idle 8h
      avault service install --system
    """
    for duration in (lock_after, lock_idle):
        parse_duration(duration)
    given = (("--lock-after", lock_after), ("--lock-idle", lock_idle), ("--notify", notify))
    options = [word for name, value in given if value is not None for word in (name, value)]
    service = choose_service(terminal, system, user)
    check_servable(service)
    text = service.text(options)
    if show:
        put(
            json.dumps({"ok": True, "path": service.path, "unit": text}, indent=2) + "\n"
            if terminal.want_json
            else text
        )
        return 0
    if not is_booted():
        raise NoManager("systemd does not run this machine", OTHER_WAYS)
    need_root(service, "install", options)
    if os.environ.get("NOSTR_NSEC"):
        warn(
            "the service does not take the key from NOSTR_NSEC: it asks the phone",
            "see: references/service.md",
        )
    changed = install(service, text)
    if terminal.want_json:
        put(
            json.dumps({"ok": True, "changed": changed, **look_at_service(service)}, indent=2)
            + "\n"
        )
    return 0


def check_servable(service: Service) -> None:
    """Raise what would keep the daemon from ever starting there: NotFound, Usage, Locked."""
    places = service.places
    need_vault(places)
    if os.stat(places.dir).st_uid != as_account(service.user).get("user", os.getuid()):
        raise Usage(
            f"{places.dir} does not belong to {service.user}",
            "name its owner with: --system --user NAME",
        )
    if service.system and not os.path.isdir(places.state):
        raise Locked(
            f"{service.user} has never opened this vault here: there is no {places.state}",
            "avault recover",
        )
    probe = subprocess.run(
        own_command("--version"),
        check=False,
        capture_output=True,
        cwd="/",
        **as_account(service.user),
    )
    if probe.returncode:
        raise Usage(
            f"{service.user} cannot run {sys.executable} with avault",
            "install avault where everybody can read it",
        )


def install(service: Service, text: str) -> bool:
    """Write, enable and start a service; whether its unit has changed."""
    reach_manager(service)  # before anything is written
    changed = service.write(text)
    if changed:
        service.ask("daemon-reload")
    if not service.is_enabled():
        service.ask("enable", service.name)
    say(f"wrote {service.path}" if changed else f"{service.path} is as it should be")
    if not service.system and not linger(service.user):
        warn(
            "lingering is off: the service starts at your login, and ends with it",
            f"sudo loginctl enable-linger {service.user}",
        )
    active = look_at_service(service)["active"]
    if active in ("active", "activating"):
        if changed:
            say(
                "the daemon that runs has the old settings; new ones, and the phone is asked again:"
            )
            say(f"hint: {service.systemctl} restart {service.name}")
    elif is_listening(service.places.sockets()):
        say("a daemon runs already, and goes on; the service takes over at the next boot, or with:")
        say(f"hint: avault daemon stop && {service.systemctl} start {service.name}")
    else:
        if active == "failed":
            service.ask("reset-failed", service.name)
        service.ask("start", service.name)
        say("the service runs, and asks the phone; see: avault status")
    return changed


@command("service uninstall", *SCOPE, option("--force", is_flag=True))
def cmd_service_uninstall(terminal: Terminal, system: bool, user: str | None, force: bool) -> int:
    """usage: avault service uninstall [--system [--user NAME]] [--force]

    Stops the service, and removes its unit. The secrets leave memory with it;
    the vault stays as it is. Where nobody has shown yet that the phone opens
    this vault, it refuses without --force. Lingering is left as it is.
    """
    service = choose_service(terminal, system, user)
    need_root(service, "uninstall", ["--force"] if force else [])
    removed = service.installed_options() is not None
    if removed:
        uninstall(service, force)
        say(f"removed {service.path}")
    else:
        say("no service is installed")
    if terminal.want_json:
        put(
            json.dumps({"ok": True, "removed": removed, **look_at_service(service)}, indent=2)
            + "\n"
        )
    return 0


def uninstall(service: Service, force: bool) -> None:
    """Stop and remove a service; raises Denied where that may lose the vault's key."""
    running = look_at_service(service)["active"] in ("active", "activating")
    if running and not force and not is_proven(service.places):
        raise Denied(
            "nobody has shown yet that the phone opens this vault: if its daemon ends, the key "
            "is lost",
            "avault pair, or if you mean it: --force",
        )
    if running:
        service.ask("stop", service.name)
    service.remove()
    try:
        service.ask("daemon-reload")
    except NoManager:
        return  # it will not have heard of it


def is_proven(places: Places) -> bool:
    """Whether the phone has opened this vault here; a damaged unlock.json says no."""
    try:
        return bool(read_unlock(places)[0].get("proven"))
    except AvaultError:
        return False


@command("service status", *SCOPE)
def cmd_service_status(terminal: Terminal, system: bool, user: str | None) -> int:
    """usage: avault service status [--system [--user NAME]] [--json]

    Whether a service is installed, enabled and active; without --system: the
    user's, else the system's. Exit code 0: active; 4: not installed; 6:
    installed, but not active, or systemd does not run here and cannot say.
    """
    service = choose_service(terminal, system, user)
    if not system and service.installed_options() is None:
        other = Service(service.places, True, service.user)
        service = other if os.path.lexists(other.path) else service
    found = look_at_service(service)
    put(
        json.dumps({"ok": True, **found}, indent=2) + "\n"
        if terminal.want_json
        else render_service(found, service)
    )
    if not found["installed"]:
        return NotFound.exit_code
    return 0 if found["active"] == "active" else Unavailable.exit_code


def render_service(found: dict[str, Any], service: Service) -> str:
    """A service's state for a person."""
    whose = "of the system, as" if service.system else "of"
    lines = [f"Service: {found['name']}, {whose} {service.user}"]
    install = call.complete("avault service install")
    if not found["installed"]:
        return f"{lines[0]}\nInstalled: no\nNext: {install}\n"
    lines.append(f"Installed: {found['path']}")
    if not found["current"]:
        lines.append(f"Outdated: avault would write it differently now; again: {install}")
    at = "at boot" if service.system or found["lingering"] else "at login, as lingering is off"
    lines.append(f"Enabled: {at if found['enabled'] else 'no'}")
    if found["systemd"]:
        lines.append(
            f"Active: {found['active']}" + (f" (PID {found['pid']})" if found["pid"] else "")
        )
    else:
        lines.append("Active: unknown, as systemd does not run here, or not for this user")
    return "".join(line + "\n" for line in lines)
