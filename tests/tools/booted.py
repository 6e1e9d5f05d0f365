"""systemd for root's tests, real ones in namespaces of their own: a whole machine's, and a user's manager alone.

    with Booted(top) as system, system.machine("alice") as alice:         # PID 1, logind, user@4242.service
        alice("service", "install", "--system")
    with UserManager(top) as system, system.machine("alice") as alice:    # `systemd --user`, as a container can have it
        alice("service", "install")
        system.reboot()

Nothing of this machine's own is changed: what they write outside of `top` is on file systems of theirs, and ends with them.
Where a machine does not let us have one, the test is skipped, with what it said.
"""

import contextlib
import importlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest
from harness import AVAULT, Done, Machine, wait_until

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.access(path, os.X_OK)), None)
ALICE = 4242  # an account that there is only in there

PREPARE = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
for directory in /run /etc/systemd/system /var/lib/systemd; do mount -t tmpfs -o mode=755 tmpfs $directory; done
for name in passwd group; do
    { cat /etc/$name; cat "$TOP/$name"; } >/run/$name
    mount --bind /run/$name /etc/$name
done
if [ -n "$CLOSED" ]; then  # a Python below a directory that only root may enter
    mkdir /run/python
    mount --bind "$PREFIX" /run/python
    mount -t tmpfs -o mode=755 tmpfs "$CLOSED"
    mkdir -p "$PREFIX"
    mount --bind /run/python "$PREFIX"
fi
mkdir -p /run/lock /run/units /run/systemd/system
"""

BOOT = """
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
touch $TOP/console; mount --bind $TOP/console /dev/console
for name in sysinit basic multi-user shutdown default; do printf '[Unit]\\nDescription=%s\\n' $name >/run/units/$name.target; done
cd "$VENDOR"
for name in user.slice sockets.target user@.service user-runtime-dir@.service dbus.socket dbus.service systemd-logind.service \\
    polkit.service; do
    if [ -e $name ]; then cp $name /run/units; fi
done
container=test SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units exec "$SYSTEMD" --system --unit=multi-user.target \\
    --log-target=console --show-status=no
"""

# Somebody has to take the exit statuses of orphans. Lingering is on, as after `loginctl enable-linger`: no logind is there.
REAP = """
mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/alice /run/prepared
while :; do sleep 1000 & wait; done
"""

# What is in the runtime directory is lost at a reboot. The manager may write to the cgroups that it is in.
START_MANAGER = """
set -e
rm -rf /run/user/$ID; install -d -m 700 -o $ID -g $ID /run/user/$ID
for cgroup in $CGROUPS; do echo $$ >$cgroup/cgroup.procs; done
exec setpriv --reuid=$ID --regid=$ID --clear-groups env -i HOME="$HOME" USER=alice LOGNAME=alice SHELL=/bin/sh \\
    PATH=/usr/local/bin:/usr/bin:/bin XDG_RUNTIME_DIR=/run/user/$ID "$SYSTEMD" --user --log-target=null
"""


class Inside:
    """Namespaces of their own, in cgroups of their own, with an account `alice`; `pid` is the first process there."""

    def __init__(self, top: Path, script: str, cgroups: list[Path], unshare: str) -> None:
        if not SYSTEMD:
            pytest.skip("no systemd")
        self.top, self.cgroups = top, cgroups
        tried = subprocess.run(["unshare", *unshare.split(), "mount", "--make-rprivate", "/"], capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"no namespaces here: {tried.stderr.strip()}")
        top.chmod(0o711)  # alice is not us
        (top / "passwd").write_text(f"alice:*:{ALICE}:{ALICE}::{top}/alice/home:/bin/sh\n")
        (top / "group").write_text(f"alice:*:{ALICE}:\n")
        prefix = Path(sys.base_prefix).resolve()
        closed = [each for each in reversed(prefix.parents) if not each.stat().st_mode & 1]
        environment = {
            "BOOT": PREPARE + script,
            "CLOSED": str(closed[0]) if closed else "",
            "PATH": os.environ["PATH"],
            "PREFIX": str(prefix),
            "SYSTEMD": SYSTEMD,
            "TOP": str(top),
            "VENDOR": str(Path(SYSTEMD).parent / "system"),
        }
        self.avault = str(install_for_root(top))
        for cgroup in cgroups:
            cgroup.mkdir()
        enter = "".join(f"echo $$ >{shlex.quote(str(cgroup))}/cgroup.procs; " for cgroup in cgroups)
        line = f'{enter}exec unshare {unshare} sh -c "$BOOT"'
        self.process = subprocess.Popen(["sh", "-c", line], env=environment, stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.pid = int(wait_until(lambda: children.read_text().strip(), what="PID 1"))

    def run(self, *words: str, check: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run something there, as root."""
        return subprocess.run(["nsenter", "-t", str(self.pid), "-a", *words], check=check, capture_output=True, text=True)

    def machine(self, user: str) -> Machine:
        """avault as an account of that machine runs it."""
        top = self.top / user
        identity = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups"] if user == "alice" else []
        machine = Machine(top, command=["nsenter", "-t", str(self.pid), "-a", *identity, self.avault])
        machine.env |= {"XDG_RUNTIME_DIR": f"/run/user/{ALICE}" if identity else "/run/user/0", "USER": user}
        del machine.env["XDG_STATE_HOME"]
        machine.state = machine.home / ".local/state"
        if identity:
            for directory in (top, *top.rglob("*")):
                os.chown(directory, ALICE, ALICE)
        return machine

    def as_root(self, machine: Machine, *words: str, code: int = 0) -> Done:
        """Run avault as sudo does for that machine's account: as root, with an environment of its own."""
        if machine.env["USER"] == "root":
            return machine(*words, code=code)
        root = Machine(self.top / "sudo", command=["nsenter", "-t", str(self.pid), "-a", self.avault])
        del root.env["XDG_STATE_HOME"]
        return root(*words, code=code, SUDO_USER=machine.env["USER"])

    def show(self, name: str, *properties: str, user: Machine | None = None) -> dict[str, str]:
        """Properties of a unit."""
        words = ["systemctl", "show", "--property=" + ",".join(properties), name]
        if user:
            argv, env = [*user.command[:-1], *words[:1], "--user", *words[1:]], user.env
            said = subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout
        else:
            said = self.run(*words, check=True).stdout
        return dict(line.partition("=")[::2] for line in said.splitlines())

    def read(self, path: str) -> str:
        return self.run("cat", path, check=True).stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # and with it, all that is in there
        self.process.wait()
        for cgroup in self.cgroups:
            inner = sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True)
            for directory in (*inner, cgroup):
                wait_until(lambda directory=directory: remove(directory), what="the end of its processes")


class Booted(Inside):
    """A machine's systemd: PID 1 of new namespaces, with logind."""

    def __init__(self, top: Path) -> None:
        place = next(iter(mounted("cgroup2")), None)
        if not place:
            pytest.skip("no cgroup2 is mounted")
        super().__init__(top, BOOT, [name_cgroup(place)], "--mount --pid --fork --cgroup --uts --ipc --kill-child")
        wait_until(lambda: self.run("systemctl", "is-system-running").stdout == "running\n", what="systemd")
        self.run("systemctl", "start", "systemd-logind", check=True)


class UserManager(Inside):
    """alice's `systemd --user`, on a machine that was not booted with systemd: a container.

    It wants /run/systemd/system to be there (sd_booted(3)), a runtime directory, and cgroups that it may write to. `reboot`
    ends it, and starts it anew.
    """

    def __init__(self, top: Path) -> None:
        cgroups = [name_cgroup(place) for place in (*mounted("cgroup2"), *mounted("cgroup", "name=systemd"))]
        if not cgroups:
            pytest.skip("no cgroup that systemd could use is mounted")
        super().__init__(top, REAP, cgroups, "--mount --pid --fork --ipc --kill-child")
        wait_until(lambda: not self.run("test", "-e", "/run/prepared").returncode, what="its file systems")
        for cgroup in cgroups:
            for path in (cgroup, *cgroup.iterdir()):
                os.chown(path, ALICE, ALICE)
        self.start()

    def start(self) -> None:
        """Start the manager, as at a boot or at the first login."""
        variables = {
            "CGROUPS": " ".join(map(str, self.cgroups)),
            "HOME": str(self.top / "alice/home"),
            "ID": str(ALICE),
            "PATH": os.environ["PATH"],
            "SYSTEMD": str(SYSTEMD),
        }
        self.machine("alice")  # its home
        self.manager = subprocess.Popen(
            ["nsenter", "-t", str(self.pid), "-a", "sh", "-c", START_MANAGER], env=variables, stdin=subprocess.DEVNULL
        )
        wait_until(lambda: self.systemctl("is-system-running").stdout.strip() in ("running", "degraded"), what="the manager")

    def systemctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`systemctl --user`, as alice."""
        alice = self.machine("alice")
        return subprocess.run([*alice.command[:-1], "systemctl", "--user", *words], env=alice.env, capture_output=True, text=True)

    def reboot(self) -> None:
        """The manager stops its services, and ends; it is started anew, and nothing is left in the runtime directory."""
        self.systemctl("exit")
        self.manager.wait(60)
        self.start()

    def cut_power(self) -> None:
        """All processes are gone from one moment to the next; the manager is started anew."""
        self.run("sh", "-c", "kill -KILL -1")
        self.manager.wait(60)
        self.start()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.manager.wait(60)


def mounted(kind: str, option: str = "rw") -> list[Path]:
    """Where file systems of that kind are mounted, with that option and to be written to."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(place) for _, place, each, options, *_ in mounts if each == kind and {"rw", option} <= set(options.split(","))]


def name_cgroup(place: Path) -> Path:
    """A cgroup for this run of the tests."""
    return place / f"avault-test-{os.getpid()}"


def install_for_root(top: Path) -> Path:
    """This avault and its packages in a place where nobody but root can change them, as root's own; the command.

    Compiled, as pip leaves it: who may not write there would compile all of it at each start of a process.
    """
    subprocess.run([f"{sys.base_prefix}/bin/python3", "-m", "venv", "--without-pip", top / "venv"], check=True)
    (site,) = (top / "venv").glob("lib/python3*/site-packages")
    shutil.copy(ROOT / "avault.py", site)
    subprocess.run([top / "venv/bin/python3", "-m", "compileall", "-q", site], check=True)
    for package in ("click", "nostr_sdk", "qrcode", "PIL"):
        here = Path(importlib.import_module(package).__file__ or "").parent
        for path in (here, *here.parent.glob("pillow.libs")):
            shutil.copytree(path, site / path.name, dirs_exist_ok=True)
    command = top / "venv/bin/avault"
    command.write_text(f"#!{top}/venv/bin/python3\n" + Path(AVAULT).read_text().partition("\n")[2])
    command.chmod(0o755)
    return command


def remove(cgroup: Path) -> bool:
    with contextlib.suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()
