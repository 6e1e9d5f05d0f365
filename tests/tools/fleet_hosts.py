"""A fleet on one machine: a real sshd on loopback that stands for many hosts, each with a login of its own.

    doors = Doors(place.top / "ssh")
    doors.add("web1", machine)                 # ssh web1 is this machine
    doors.add("odd", machine, "echo Welcome")  # the same, with lines of shell before each command

ssh sends a variable that names the host, and sshd's ForceCommand runs what that host would. All of it is OpenSSH's own;
only the name of the client's configuration (-F) comes from a wrapper, as ssh does not look at $HOME.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

from harness import Machine, wait_until
from ports import free_port

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

LOGIN = """\
#!/bin/sh
# one login of a host: its variables, what its shell prints, then the command
. "{top}/hosts/$FLEET_HOST"
"""


class Doors:
    """An sshd, the keys on both sides, and the client's configuration."""

    def __init__(self, top: Path, **settings: str) -> None:
        top.mkdir(parents=True)
        self.top, self.aliases = top, dict[str, str]()
        for name in ("host_key", "other_key", "id", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", top / name], check=True)
        (top / "allowed").write_text((top / "id.pub").read_text())
        (top / "hosts").mkdir()
        (top / "login").write_text(LOGIN.format(top=top))
        (top / "login").chmod(0o755)
        self.bin = top / "bin"
        self.bin.mkdir()
        wrapper = self.bin / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(top / "config"))} "$@"\n')
        wrapper.chmod(0o755)
        self.port = free_port()
        said = {
            "ListenAddress": "127.0.0.1",
            "Port": str(self.port),
            "HostKey": str(top / "host_key"),
            "AuthorizedKeysFile": str(top / "allowed"),
            "StrictModes": "no",
            "KexAlgorithms": "curve25519-sha256",  # OpenSSH's own choice, with a second exchange, costs six times as much
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PidFile": "none",
            "AcceptEnv": "FLEET_HOST",
            "ForceCommand": str(top / "login"),
            "MaxStartups": "64",
            **settings,
        }
        (top / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in said.items()))
        assert SSHD
        self.log = (top / "log").open("wb")
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", top / "sshd_config"], stderr=self.log)
        wait_until(self.answers, what="sshd listens")
        self.known("host_key")

    def answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def known(self, key: str, alias: str = "fleet", file: str = "known") -> None:
        """The host key that ssh is to find under that alias."""
        kind, blob = (self.top / f"{key}.pub").read_text().split()[:2]
        (self.top / file).write_text(f"{alias} {kind} {blob}\n")

    def add(self, name: str, machine: Machine | None = None, *login: str, **settings: str) -> str:
        """A host: what ssh is told of it, the machine it is, and lines of shell that its login begins with."""
        said = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "HostKeyAlias": "fleet",
            "UserKnownHostsFile": str(self.top / "known"),
            "GlobalKnownHostsFile": "/dev/null",
            "IdentityFile": str(self.top / "id"),
            "IdentitiesOnly": "yes",
            "SetEnv": f"FLEET_HOST={name}",
            **settings,
        }
        self.aliases[name] = f"Host {name}\n" + "".join(f"    {key} {value}\n" for key, value in said.items())
        (self.top / "config").write_text("".join(self.aliases.values()))
        lines = list(login)
        if machine:
            kept = ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "PATH", "AVAULT_DIR", "TMPDIR")
            variables = {key: value for key, value in machine.env.items() if key in kept}
            exports = [f"export {key}={shlex.quote(value)}" for key, value in variables.items()]
            lines = [*exports, f"cd {shlex.quote(str(machine.home))}", *login]
        lines.append('eval "$SSH_ORIGINAL_COMMAND"')
        (self.top / "hosts" / name).write_text("".join(line + "\n" for line in lines))
        return name

    def program(self, name: str, *lines: str) -> str:
        """A directory with a program of that name: a line for a login that puts it first on the PATH."""
        place = self.top / "programs" / name.replace("/", "-") / str(len(list(self.top.rglob("avault"))))
        place.mkdir(parents=True)
        (place / "avault").write_text("#!/bin/sh\n" + "".join(line + "\n" for line in lines))
        (place / "avault").chmod(0o755)
        return f"PATH={shlex.quote(str(place))}:$PATH"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


class Silent:
    """A server that takes connections and never says a word."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)
        self.port = self.socket.getsockname()[1]

    def close(self) -> None:
        self.socket.close()
