"""The unit of avault's service, for the user's manager of systemd or the system's: text and file.

A unit of avault's own for each vault. What confines it, and what is left out because it would break
something, is said where it stands below; references/service.md says it to the operator.
Directives: systemd.exec(5), systemd.service(5), systemd.resource-control(5).
"""

from __future__ import annotations

import json
import os
import sys

from avault.errors import AvaultError, NotFound, printable
from avault.git.run import run_git
from avault.own_python import python_flags
from avault.places import Places, state_home
from avault.service.accounts import as_account, home_of
from avault.systemd import Unit
from avault.vault.files import read_file, write_file
from avault.vault.names import DIGITS, LETTERS

# What a user's manager can do, too: nothing that needs a namespace or a capability. Without
# privileges systemd makes namespaces in a user namespace of the service's own, or fails with
# 218/CAPABILITIES (ProtectClock=, ProtectKernelModules=, PrivateDevices=, …). In such a namespace
# root's files are nobody's, so that ssh refuses its own configuration and git cannot push; and the
# kernel no longer tells who the callers are, so that the access log cannot.
# Not here either: RestrictSUIDSGID=, as git cannot write to a shared repository under it.
HARDENING = """\
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

# What the system's manager can do as well. Not here: PrivateUsers=, see above; ProtectClock=, which
# hides whether the clock is right; ProtectHome=, as the vault is in a home.
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

# 0: another daemon serves the vault; 2, 4, 5, 8: usage, no vault, denied, tampered. A second try
# changes none of these.
HOPELESS = "0 2 4 5 8"

UNIT = """\
# Written by `avault service install`, which writes it again; put changes of your own beside it: \
{edit}
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

UNIT_PLAIN = LETTERS | DIGITS | set("_./:@+=,-")


def quote(word: str) -> str:
    """A word of a unit file that systemd reads back as it is.

    See "Quoting" in systemd.syntax(7), and "Specifiers" in systemd.unit(5). Raises AvaultError for
    what no unit file can hold everywhere: control characters, and bytes that are no UTF-8.
    """
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in word):
        raise AvaultError(
            f"systemd takes no control characters: {printable(word)!r}",
            "choose another path with --dir",
        )
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if word and set(word) <= UNIT_PLAIN else f'"{escaped}"'


def quote_command(words: list[str]) -> str:
    """A command line for ExecStart= (systemd.service(5), "Command lines"); raises AvaultError.

    systemd replaces variables in all words, but looks for the program under the first one as it
    stands.
    """
    if set(words[0]) & set("\"'\\$"):
        raise AvaultError(
            f"systemd starts no program with such a path: {printable(words[0])}",
            "install avault elsewhere",
        )
    return " ".join(quote(word.replace("$", "$$")) for word in words)


class Service(Unit):
    """The service of one vault: its unit's text, written and removed.

    `user` is the account that it runs as.
    """

    def __init__(self, places: Places, system: bool, user: str) -> None:
        super().__init__(places, system)
        self.places, self.user = places, user
        self.target = "multi-user.target" if system else "default.target"

    def text(self, options: list[str]) -> str:
        """The unit, for a daemon with these options of `daemon start`; raises AvaultError."""
        # for a person to read: the interpreter that has the packages, and this file
        # -P: what lies beside it is not imported; -s: nor what its user has put into Python
        start = [sys.executable, *python_flags(home_of(self.user)), os.path.realpath(__file__)]
        start += ["daemon", "start", "--dir", self.places.dir, *options]
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
        """What has to be mounted before the system's manager starts the service.

        The user's manager starts it after the login.
        """
        if not self.system:
            return ""
        return f"RequiresMountsFor={quote(self.places.dir)} {quote(self.places.state)}\n"

    def account(self) -> str:
        """Whom the system's manager runs it as, and where it listens.

        Not in /run/user, which is not there while nobody is logged in.
        """
        if not self.system:
            return ""
        directory = f"RuntimeDirectory=avault/{self.places.id}\nRuntimeDirectoryMode=0700\n"
        return f"User={self.user}\n{directory}"

    def environment(self) -> str:
        """The variables that decide where state and socket are: as here, not as the manager's."""
        names = [] if self.system else ["AVAULT_SOCKET", "AVAULT_PID"]
        variables = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
        if self.system:
            variables.append(f"AVAULT_SOCKET=/run/avault/{self.places.id}/avault.sock")
        if os.path.dirname(state_home()) != os.path.join(home_of(self.user), ".local/state"):
            variables.append(f"XDG_STATE_HOME={os.path.dirname(state_home())}")
        return "".join(f"Environment={quote(each)}\n" for each in variables)

    def sandbox(self, notifies: bool) -> str:
        """What the service may not do."""
        lines = HARDENING
        # the operator's command may be JavaScript, which is compiled while it runs
        if not notifies:
            lines += "MemoryDenyWriteExecute=yes\n"
        if not self.system:
            return lines
        lines += SYSTEM_ONLY
        # root needs this one to see who its callers are
        lines += "CapabilityBoundingSet=" + ("CAP_SYS_PTRACE" if self.user == "root" else "") + "\n"
        writable = [
            self.places.dir,
            self.places.state,
            *find_repository(self.places.dir, self.user),
        ]
        needed = [*writable, sys.prefix, sys.base_prefix, os.path.realpath(__file__)]
        # a /tmp of its own would hide them
        if any(path.startswith(("/tmp/", "/var/tmp/")) for path in needed):  # noqa: S108
            writable.append("/tmp")  # noqa: S108  for git
        else:
            lines += "PrivateTmp=yes\n"
        return lines + f"ReadWritePaths={' '.join(quote(path) for path in writable)}\n"

    def installed_options(self) -> list[str] | None:
        """The options that the installed unit was written with; None if there is none of ours.

        Raises AvaultError.
        """
        try:
            lines = read_file(self.path).decode(errors="replace").splitlines()
        except NotFound:
            return None
        if f"Vault={self.places.id}" not in lines:
            raise AvaultError(f"{self.path} is not avault's", "move it away")
        try:
            found = json.loads(
                next(line for line in lines if line.startswith("Options=")).removeprefix("Options=")
            )
        except (StopIteration, ValueError):
            return []
        return [str(word) for word in found] if isinstance(found, list) else []

    def is_current(self) -> bool:
        """Whether the installed unit is what `install` would write now with the same options.

        Raises AvaultError.
        """
        options = self.installed_options()
        return options is not None and read_file(self.path) == self.text(options).encode()

    def is_enabled(self) -> bool:
        """Whether it is started at boot, or at login: seen in the files that systemctl makes."""
        return os.path.lexists(os.path.join(self.directory, self.target + ".wants", self.name))

    def write(self, text: str) -> bool:
        """Write the unit; whether that changed anything. Raises AvaultError."""
        self.installed_options()
        if os.path.lexists(self.path) and read_file(self.path) == text.encode():
            return False
        try:
            os.makedirs(self.directory, exist_ok=True)
            write_file(self.path, text.encode())
            # systemd shows it to everybody anyway, and warns of a unit that looks secret
            os.chmod(self.path, 0o644)
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
    """The directories that a commit writes to: those of the repository that one is in."""
    words = ("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir")
    try:
        answer = run_git(directory, *words, **as_account(user))
    except (AvaultError, OSError):
        return []
    if answer.returncode:
        return []
    found = dict.fromkeys(os.fsdecode(answer.stdout).splitlines())
    return [path for path in found if os.path.commonpath([path, directory]) != directory]
