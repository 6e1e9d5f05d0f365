"""avault_service: the daemon as a service of systemd, the user's manager or the system's; started at boot, asking the phone.

A unit of avault's own for each vault, written, enabled and started by `install`. What confines it, and what is left
out because it would break something, is said where it stands below; references/service.md says it to the operator.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from avault_run_git import run_git

import avault
from avault import (
    OTHER_WAYS,
    AvaultError,
    Denied,
    NoManager,
    NotFound,
    Places,
    Terminal,
    Unavailable,
    Unit,
    Usage,
    command,
    is_booted,
    need_vault,
    option,
    own_command,
    parse_duration,
    printable,
    put,
    read_file,
    read_unlock,
    say,
    warn,
    write_file,
)

# The unit. Directives: systemd.exec(5), systemd.service(5), systemd.resource-control(5).

# What a user's manager can do, too: nothing that needs a namespace or a capability. Without privileges systemd makes
# namespaces in a user namespace of the service's own, or fails with 218/CAPABILITIES (ProtectClock=, ProtectKernelModules=,
# PrivateDevices=, …). In such a namespace root's files are nobody's, so that ssh refuses its own configuration and git
# cannot push; and the kernel no longer tells who the callers are, so that the access log cannot.
# Not here either: RestrictSUIDSGID=, as git cannot write to a shared repository under it.
EVERYWHERE = """\
NoNewPrivileges=yes
LimitCORE=0
MemorySwapMax=0
UMask=0077
KeyringMode=private
LockPersonality=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
# the two more: the daemon asks the kernel whether the clock is right
SystemCallFilter=@system-service adjtimex clock_adjtime
SystemCallErrorNumber=EPERM
"""

# What the system's manager can do as well. Not here: PrivateUsers=, see above; ProtectClock=, which hides whether the
# clock is right; ProtectHome=, as the vault is in a home.
SYSTEM_ONLY = """\
ProtectSystem=strict
ProtectProc=invisible
ProcSubset=pid
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
PrivateDevices=yes
PrivateIPC=yes
RemoveIPC=yes
"""

# 0: another daemon serves the vault; 2, 4, 5, 8: usage, no vault, denied, tampered. A second try changes none of these.
HOPELESS = "0 2 4 5 8"

UNIT = """\
# Written by `avault service install`, which writes it again; put changes of your own beside it: {edit}
[Unit]
Description=avault, the secrets in {description}
{unit}# a daemon that keeps dying must not keep asking the phone
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={exec}
{service}# whatever the manager's environment holds: this service asks the phone
UnsetEnvironment=NOSTR_NSEC
Restart=on-failure
RestartSec=10
RestartPreventExitStatus={hopeless}
# a commit that is under way is left to end; the process with the secrets ends with this one
KillMode=process
TimeoutStartSec=60
TimeoutStopSec=20

{sandbox}
[Install]
WantedBy={target}

[X-Avault]
Vault={id}
Options={options}
"""

PLAIN = avault.LETTERS | avault.DIGITS | set("_./:@+=,-")


def quote(word: str) -> str:
    """A word of a unit file that systemd reads back as it is (systemd.syntax(7), "Quoting"; systemd.unit(5), "Specifiers").

    Raises AvaultError for what no unit file can hold everywhere: control characters, and bytes that are no UTF-8.
    """
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in word):
        raise AvaultError(f"systemd takes no control characters: {printable(word)!r}", "choose another path with --dir")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if word and set(word) <= PLAIN else f'"{escaped}"'


def quote_command(words: list[str]) -> str:
    """A command line for ExecStart= (systemd.service(5), "Command lines"); raises AvaultError.

    systemd replaces variables in all words, but looks for the program under the first one as it stands.
    """
    if set(words[0]) & set("\"'\\$"):
        raise AvaultError(f"systemd starts no program with such a path: {printable(words[0])}", "install avault elsewhere")
    return " ".join(quote(word.replace("$", "$$")) for word in words)


class Service(Unit):
    """The service of one vault: its unit's text, written and removed. `user` is the account that it runs as."""

    def __init__(self, places: Places, system: bool, user: str) -> None:
        super().__init__(places, system)
        self.places, self.user = places, user
        self.target = "multi-user.target" if system else "default.target"

    def text(self, options: list[str]) -> str:
        """The unit, for a daemon with these options of `daemon start`; raises AvaultError."""
        # for a person to read: the interpreter that has the packages, and this file; -P: what lies beside it is not imported
        file = os.path.realpath(avault.__file__)
        start = [sys.executable, "-P", file, "daemon", "start", "--dir", self.places.dir, *options]
        return UNIT.format(
            edit=f"{self.systemctl} edit {self.name}",
            description=printable(self.places.dir, 4096).replace("%", "%%").replace("\\", "\\\\"),
            unit=self.mounts(),
            exec=quote_command(start),
            service=self.account() + self.environment(),
            hopeless=HOPELESS,
            sandbox=self.sandbox("--notify" in options),
            target=self.target,
            id=self.places.id,
            options=json.dumps(options),
        )

    def mounts(self) -> str:
        """What has to be mounted before the system's manager starts the service; a user's starts after the login."""
        if not self.system:
            return ""
        return f"RequiresMountsFor={quote(self.places.dir)} {quote(self.places.state)}\n"

    def account(self) -> str:
        """Whom the system's manager runs it as, and where it listens: nobody may be logged in, and /run/user not there."""
        if not self.system:
            return ""
        return f"User={self.user}\nRuntimeDirectory=avault/{self.places.id}\nRuntimeDirectoryMode=0700\n"

    def environment(self) -> str:
        """The variables that decide where state and socket are: as here and now, whatever the manager's own."""
        names = [] if self.system else ["AVAULT_SOCKET", "AVAULT_PID"]
        variables = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
        if self.system:
            variables.append(f"AVAULT_SOCKET=/run/avault/{self.places.id}/avault.sock")
        if os.path.dirname(avault.state_home()) != os.path.join(home_of(self.user), ".local/state"):
            variables.append(f"XDG_STATE_HOME={os.path.dirname(avault.state_home())}")
        return "".join(f"Environment={quote(each)}\n" for each in variables)

    def sandbox(self, notifies: bool) -> str:
        """What the service may not do."""
        lines = EVERYWHERE
        if not notifies:  # the operator's command may be JavaScript, which is compiled while it runs
            lines += "MemoryDenyWriteExecute=yes\n"
        if not self.system:
            return lines
        lines += SYSTEM_ONLY
        # root needs this one to see who its callers are
        lines += "CapabilityBoundingSet=" + ("CAP_SYS_PTRACE" if self.user == "root" else "") + "\n"
        writable = [self.places.dir, self.places.state, *find_repository(self.places.dir, self.user)]
        needed = [*writable, sys.prefix, sys.base_prefix, os.path.realpath(avault.__file__)]
        if any(path.startswith(("/tmp/", "/var/tmp/")) for path in needed):  # noqa: S108  one of its own would hide them
            writable.append("/tmp")  # noqa: S108  for git
        else:
            lines += "PrivateTmp=yes\n"
        return lines + f"ReadWritePaths={' '.join(quote(path) for path in writable)}\n"

    def installed_options(self) -> list[str] | None:
        """The options that the installed unit was written with; None if there is none of ours. Raises AvaultError."""
        try:
            lines = read_file(self.path).decode(errors="replace").splitlines()
        except NotFound:
            return None
        if f"Vault={self.places.id}" not in lines:
            raise AvaultError(f"{self.path} is not avault's", "move it away")
        try:
            found = json.loads(next(line for line in lines if line.startswith("Options=")).removeprefix("Options="))
        except (StopIteration, ValueError):
            return []
        return [str(word) for word in found] if isinstance(found, list) else []

    def is_current(self) -> bool:
        """Whether the installed unit is what `install` would write now with the same options; raises AvaultError."""
        options = self.installed_options()
        return options is not None and read_file(self.path) == self.text(options).encode()

    def is_enabled(self) -> bool:
        """Whether it is started at boot, or at login: what `systemctl enable` does, seen without asking it."""
        return os.path.lexists(os.path.join(self.directory, self.target + ".wants", self.name))

    def write(self, text: str) -> bool:
        """Write the unit; whether that changed anything. Raises AvaultError."""
        self.installed_options()
        if os.path.lexists(self.path) and read_file(self.path) == text.encode():
            return False
        try:
            os.makedirs(self.directory, exist_ok=True)
            write_file(self.path, text.encode())
            os.chmod(self.path, 0o644)  # systemd shows it to everybody anyway, and warns of a unit that looks secret
        except OSError as error:
            raise AvaultError(f"cannot write {self.path}: {error.strerror}") from None
        return True

    def remove(self) -> None:
        """Remove the unit and what enables it; raises AvaultError."""
        for path in (os.path.join(self.directory, self.target + ".wants", self.name), self.path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise AvaultError(f"cannot remove {path}: {error.strerror}") from None


def find_repository(directory: str, user: str) -> list[str]:
    """The directories in which git keeps the repository around a directory, if there is one: a commit writes there."""
    words = ("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir")
    try:
        answer = run_git(directory, *words, **as_account(user))
    except (AvaultError, OSError):
        return []
    if answer.returncode:
        return []
    found = dict.fromkeys(os.fsdecode(answer.stdout).splitlines())
    return [path for path in found if os.path.commonpath([path, directory]) != directory]


def as_account(user: str) -> dict[str, Any]:
    """What makes `subprocess` run something as an account: nothing if that is us. Root runs no user's git."""
    if user == own_name():
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def home_of(user: str) -> str:
    """The home of an account, as systemd sets it."""
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return os.path.expanduser("~")


def own_name() -> str:
    """The name of the account that we run as, whatever the environment says; its number where it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# systemd


def look_at(service: Service) -> dict[str, Any]:
    """What there is of a service: what can be seen on the disk, and what systemd says, None where it does not run."""
    installed = service.installed_options() is not None
    found: dict[str, Any] = {
        "scope": "system" if service.system else "user",
        "name": service.name,
        "path": service.path,
        "installed": installed,
        "current": installed and service.is_current(),
        "enabled": service.is_enabled(),
        "systemd": is_booted(),
        "active": None,
        "pid": None,
        "lingering": None if service.system else is_lingering(service.user),
    }
    if not found["systemd"]:
        return found
    try:
        shown = service.show()
    except NoManager:
        return {**found, "systemd": False}
    return {**found, "active": shown.get("ActiveState"), "pid": int(shown.get("MainPID") or 0) or None}


def is_lingering(user: str) -> bool:
    """Whether the user's manager runs without a login (loginctl(1), enable-linger)."""
    return os.path.exists(f"/var/lib/systemd/linger/{user}")


def linger(user: str) -> bool:
    """Have the user's manager run from boot on, whoever is logged in, and start it; whether it does now."""
    if not is_lingering(user):
        enable = ["loginctl", "--no-ask-password", "enable-linger", user]
        try:
            subprocess.run(enable, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return is_lingering(user)


def reach_manager(service: Service) -> None:
    """Return when the manager answers; start a user's that does not run, as after `su`. Raises NoManager."""
    end = time.monotonic() + 10
    while True:
        try:
            service.ask("show-environment")
            return
        except NoManager:
            if service.system or not linger(service.user) or time.monotonic() > end:
                raise
        time.sleep(0.1)


def is_listening(paths: Iterable[str]) -> bool:
    """Whether a daemon listens at one of these places, be it another user's: root may ask for one that it cannot talk to."""
    import socket

    for path in paths:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(path)
            except OSError:
                continue
            return True
    return False


# The commands

SCOPE = (option("--system", is_flag=True), option("--user"))


def choose_service(terminal: Terminal, system: bool, user: str | None) -> Service:
    """The service that the options mean; raises Usage.

    The system's manager can run it as another account: then its home says where everything is.
    """
    me = own_name()
    if not system:
        if user is not None and user != me:
            raise Usage(
                "--user is for the system's manager", f"as {printable(user)}: avault service install, or: --system --user"
            )
        return Service(terminal.places, False, me)
    account = user or (os.environ.get("SUDO_USER") if os.getuid() == 0 else None) or me
    if account == me:
        return Service(terminal.places, True, account)
    try:
        pwd.getpwnam(account)
    except KeyError:
        raise Usage(f"no such user: {printable(account)}") from None
    is_usual = terminal.places.dir == avault.usual_directory()
    os.environ["HOME"] = home_of(account)  # from here on, we look for things where that account has them
    return Service(Places(None if is_usual else terminal.places.dir), True, account)


def need_root(service: Service, verb: str, options: list[str]) -> None:
    """Raise Denied for a change of the system's units without root, or by files that others than root can write.

    The hint does it with root's own programs: root is never to run what the agent can change.
    """
    if not service.system:
        return
    me = os.path.abspath(sys.argv[0])
    unit = [me, "service", "install", "--system", "--user", service.user, "--dir", service.places.dir, *options, "--print"]
    path, name = shlex.quote(service.path), shlex.quote(service.name)
    hint = {
        "install": f"{shlex.join(unit)} | sudo tee {path} >/dev/null && sudo systemctl enable --now {name}",
        "uninstall": f"sudo systemctl disable --now {name}; sudo rm -f {path}; sudo systemctl daemon-reload",
    }[verb]
    if os.getuid() != 0:
        raise Denied("the system's units belong to root", hint)
    if theirs := find_writable(own_files()):
        raise Denied(f"root does not run what others can change: {theirs}", f"as {service.user}: {hint}")


def find_writable(paths: Iterable[str]) -> str | None:
    """The first of these files and directories, or of those that they are in, that others than root can change."""
    good: set[str] = set()
    for path in paths:
        for named in (os.path.abspath(path), os.path.realpath(path)):
            place = named
            while place not in good:
                if not is_roots_alone(place):
                    return place
                good.add(place)
                place = os.path.dirname(place)
    return None


def own_files() -> Iterator[str]:
    """What runs where avault runs: its files, its Python, its packages, and the places where those are looked for."""
    yield from (os.path.abspath(sys.argv[0]), sys.executable, sys.prefix, *sys.path)
    here = os.path.dirname(avault.__file__)
    yield from (os.path.join(here, name) for name in os.listdir(here) if name.startswith("avault"))
    for package in ("nostr_sdk", "click", "qrcode", "PIL"):
        spec = find_spec(package)
        for top, _, files in os.walk(os.path.dirname(spec.origin)) if spec and spec.origin else ():
            yield from (top, *(os.path.join(top, name) for name in files))


def is_roots_alone(path: str) -> bool:
    """Whether only root can change a file, or what a directory's names stand for; of what is not there, its directory decides."""
    try:
        info = os.lstat(path)
    except OSError:
        return True
    is_shared = info.st_mode & 0o022 and not stat.S_ISLNK(info.st_mode) and not info.st_mode & stat.S_ISVTX
    return info.st_uid == 0 and not is_shared


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
    check_vault(service)
    text = service.text(options)
    if show:
        put(json.dumps({"ok": True, "path": service.path, "unit": text}, indent=2) + "\n" if terminal.want_json else text)
        return 0
    if not is_booted():
        raise NoManager("systemd does not run this machine", OTHER_WAYS)
    need_root(service, "install", options)
    if os.environ.get("NOSTR_NSEC"):
        warn("the service does not take the key from NOSTR_NSEC: it asks the phone", "see: references/service.md")
    changed = install(service, text)
    if terminal.want_json:
        put(json.dumps({"ok": True, "changed": changed, **look_at(service)}, indent=2) + "\n")
    return 0


def check_vault(service: Service) -> None:
    """Raise what would keep the daemon from ever starting there: NotFound, Usage, Locked."""
    places = service.places
    need_vault(places)
    if os.stat(places.dir).st_uid != as_account(service.user).get("user", os.getuid()):
        raise Usage(f"{places.dir} does not belong to {service.user}", "name its owner with: --system --user NAME")
    if service.system and not os.path.isdir(places.state):
        raise avault.Locked(f"{service.user} has never opened this vault here: there is no {places.state}", "avault recover")
    probe = subprocess.run(own_command("--version"), check=False, capture_output=True, cwd="/", **as_account(service.user))
    if probe.returncode:
        raise Usage(f"{service.user} cannot run {sys.executable} with avault", "install avault where everybody can read it")


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
            "lingering is off: the service starts at your login, and ends with it", f"sudo loginctl enable-linger {service.user}"
        )
    active = look_at(service)["active"]
    if active in ("active", "activating"):
        if changed:
            say("the daemon that runs has the old settings; new ones, and the phone is asked again:")
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
        put(json.dumps({"ok": True, "removed": removed, **look_at(service)}, indent=2) + "\n")
    return 0


def uninstall(service: Service, force: bool) -> None:
    """Stop and remove a service; raises Denied where that may lose the vault's key."""
    running = look_at(service)["active"] in ("active", "activating")
    if running and not force and not is_proven(service.places):
        raise Denied(
            "nobody has shown yet that the phone opens this vault: if its daemon ends, the key is lost",
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
    found = look_at(service)
    put(json.dumps({"ok": True, **found}, indent=2) + "\n" if terminal.want_json else render(found, service))
    if not found["installed"]:
        return NotFound.exit_code
    return 0 if found["active"] == "active" else Unavailable.exit_code


def render(found: dict[str, Any], service: Service) -> str:
    """A service's state for a person."""
    lines = [f"Service: {found['name']}, {'of the system, as' if service.system else 'of'} {service.user}"]
    if not found["installed"]:
        return f"{lines[0]}\nInstalled: no\nNext: avault service install\n"
    lines.append(f"Installed: {found['path']}")
    if not found["current"]:
        lines.append("Outdated: avault would write it differently now; again: avault service install")
    at = "at boot" if service.system or found["lingering"] else "at login, as lingering is off"
    lines.append(f"Enabled: {at if found['enabled'] else 'no'}")
    if found["systemd"]:
        lines.append(f"Active: {found['active']}" + (f" (PID {found['pid']})" if found["pid"] else ""))
    else:
        lines.append("Active: unknown, as systemd does not run here, or not for this user")
    return "".join(line + "\n" for line in lines)
