"""A grant for somebody else: another user, and containers as Docker makes them, with nothing but Python and avault.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from canary import Canary
from harness import SOURCE, Machine

import avault

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
]
WEB, OTHER = 54321, 54322  # users of this machine
FIRST = 300_000  # of a container's own users, as the machine has them
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


@pytest.fixture
def vault(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """An open vault whose socket is where others may come by, and its file where they may read it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        top = Path(name)
        top.chmod(0o711)
        with Machine(top / "home") as machine:
            run = top / "run"
            run.mkdir(mode=0o711)
            machine.env["AVAULT_SOCKET"] = str(run / "avault.sock")
            monkeypatch.setattr(machine, "top", top)
            machine.init_unproven()
            machine("set", "openai/API_KEY", input=canary.value)
            (top / "avault.py").write_bytes(SOURCE.read_bytes())
            (top / "avault.py").chmod(0o444)
            yield machine


def run_as(uid: int, machine: Machine, path: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A client of another user, without packages, home or anything of ours in its environment."""
    command = [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        PYTHON,
        "-I",
        "-S",
        str(machine.top / "avault.py"),
    ]
    env = {"AVAULT_SOCKET": path, "PATH": "/usr/bin:/bin", "HOME": "/"}
    return subprocess.run([*command, *words], check=False, env=env, cwd="/", capture_output=True, text=True, timeout=60)


def test_another_user(vault: Machine, canary: Canary) -> None:
    made = vault("grant", "web", "--group", "openai", "--uid", str(WEB))
    path = made.stdout.rstrip("\n")
    assert "warning" not in made.stderr
    assert run_as(WEB, vault, path, "get", "openai/API_KEY").stdout == canary.value + "\n"
    assert run_as(WEB, vault, path, "run", "--no-mask", "--", "sh", "-c", 'echo "$API_KEY"').stdout == canary.value + "\n"
    assert run_as(WEB, vault, path, "list", "--names").stdout == "openai/API_KEY\n"
    refused = run_as(WEB, vault, path, "export", "--only", "db/PASSWORD")
    assert refused.returncode == 4 and not refused.stdout
    for stranger in (OTHER, 0):
        refused = run_as(stranger, vault, path, "get", "openai/API_KEY")
        assert refused.returncode == 6 and not refused.stdout and "is not for this user" in refused.stderr, stranger
    main = run_as(WEB, vault, vault.env["AVAULT_SOCKET"], "get", "openai/API_KEY")
    assert main.returncode != 0 and not main.stdout, "the vault's own socket stays closed"
    line = [json.loads(each) for each in (vault.own / "access.log").read_text().splitlines()][-1]
    assert (line["grant"], line["uid"]) == ("web", WEB) and line["pid"] and line["name"]
    listing = ["setpriv", f"--reuid={OTHER}", "--clear-groups", f"--regid={OTHER}", "ls", str(Path(path).parents[1])]
    assert subprocess.run(listing, check=False, capture_output=True).returncode, "which grants there are, others do not see"
    vault("revoke", "web")
    assert run_as(WEB, vault, path, "get", "openai/API_KEY").returncode == 6


def test_who_cannot_reach_it_is_said(vault: Machine) -> None:
    """As below /run/user/UID, which is closed to others."""
    Path(vault.env["AVAULT_SOCKET"]).parent.chmod(0o700)
    made = vault("grant", "web", "--group", "openai", "--uid", str(WEB))
    assert f"others cannot enter {vault.top}/run, so uid {WEB} cannot reach the socket" in made.stderr
    assert "mount " in made.stderr and "a directory that they may enter" in made.stderr


def test_a_connection_that_is_passed_on_is_of_who_made_it(vault: Machine, canary: Canary) -> None:
    """The kernel tells who connected. Who hands that on gives what it has: it could as well give the value."""
    path = vault("grant", "web", "--group", "openai", "--uid", str(WEB)).stdout.rstrip("\n")
    script = f"""if True:
        import os, socket, sys
        ours, theirs = socket.socketpair()
        uid = int(sys.argv[1])
        if os.fork() == 0:
            os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
            _, (fd,), _, _ = socket.recv_fds(theirs, 1, 1)
            vault = socket.socket(fileno=fd)
            frame = b'{{"v": 1, "vault": "", "op": "get", "group": "openai", "key": "API_KEY", "format": "text"}}'
            try:
                vault.sendall(len(frame).to_bytes(4, "big") + frame)
                print(vault.recv(65536)[4:], flush=True)
            except OSError:
                print("nothing", flush=True)
            os._exit(0)
        os.setresuid(uid, uid, uid)
        vault = socket.socket(socket.AF_UNIX)
        vault.connect({path!r})
        socket.send_fds(ours, [b"."], [vault.fileno()])
        os.wait()"""

    def pass_on(connects: int, asks: int) -> str:
        argv = [PYTHON, "-I", "-c", script, str(connects), str(asks)]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout

    assert canary.value in pass_on(WEB, OTHER)
    assert canary.value not in pass_on(OTHER, WEB), "it is not for who connected"


CONTAINER = """if True:
    import ctypes, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    socket, python, first, uid, script = sys.argv[1:6]
    def do(number):
        if number:
            raise OSError(ctypes.get_errno(), "failed")
    do(libc.unshare(0x00020000 | 0x20000000 | 0x40000000))  # mount, pid, net
    do(libc.mount(b"none", b"/", None, 16384 | 262144, None))  # private
    do(libc.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, None))
    os.mkdir("/mnt/run")
    do(libc.mount(socket.encode(), b"/mnt/run", None, 4096, None))  # bind
    do(libc.mount(b"none", b"/mnt/run", None, 4096 | 32 | 1, None))  # and read-only
    open("/mnt/avault.py", "wb").write(open(script, "rb").read())
    ready, go = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        if first != "0":
            do(libc.unshare(0x10000000))
        os.write(ready[1], b".")
        os.read(go[0], 1)
        number = int(uid)
        os.setgroups([]) if first == "0" else None
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
        os.execve(python, [python, "-I", "-S", "/mnt/avault.py", *sys.argv[6:]],
                  {"AVAULT_SOCKET": "/mnt/run/grant.sock", "PATH": "/usr/bin:/bin"})
    os.read(ready[0], 1)
    if first != "0":
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(f"0 {first} 65536\\n")
    os.write(go[1], b".")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"""


def run_in_container(machine: Machine, path: str, first: int, uid: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A client in namespaces of its own: of mounts, processes, network, and with `first` of users (its 0 is our `first`)."""
    probe = subprocess.run(["unshare", "-m", "-p", "-n", "-U", "--fork", "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("no namespaces here")
    given = [str(Path(path).parent), PYTHON, str(first), str(uid), str(machine.top / "avault.py")]
    argv = [PYTHON, "-I", "-c", CONTAINER, *given, *words]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("first", [0, FIRST], ids=["the machine's users", "users of its own"])
def test_a_container(vault: Machine, canary: Canary, first: int) -> None:
    """Also where the way to the socket is closed to it: its directory is mounted, read-only."""
    Path(vault.env["AVAULT_SOCKET"]).parent.chmod(0o700)
    path = vault("grant", "web", "--group", "openai", "--uid", str(first + 1000)).stdout.rstrip("\n")
    got = run_in_container(vault, path, first, 1000, "get", "openai/API_KEY")
    assert (got.stdout, got.stderr) == (canary.value + "\n", "")
    for stranger in (0, 1001):
        refused = run_in_container(vault, path, first, stranger, "get", "openai/API_KEY")
        assert refused.returncode == 6 and not refused.stdout, stranger
    refused = run_in_container(vault, path, first, 1000, "set", "openai/API_KEY", "--generate")
    assert refused.returncode == 5 and "through a grant that may not be asked" in refused.stderr
    assert vault("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    line = [json.loads(each) for each in (vault.own / "access.log").read_text().splitlines()][-2]
    assert (line["grant"], line["uid"]) == ("web", first + 1000)


def test_an_uid_that_is_everybodys_is_not_granted(vault: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a namespace of users, all whom it does not know appear as one."""
    assert avault.find_uid("65534") == 65534, "here it is one user's"
    monkeypatch.setattr(avault, "read_overflow_uid", lambda: 65534)
    with pytest.raises(avault.Usage, match="that of everybody"):
        avault.find_uid("65534")


def test_a_daemon_of_another_user_where_others_can_write(vault: Machine) -> None:
    """Who may put a socket at a grant's path could answer with values of its own: the client takes none."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o777)
        path = place / "grant.sock"
        script = f"""if True:
            import socket
            daemon = socket.socket(socket.AF_UNIX)
            daemon.bind({str(path)!r})
            daemon.listen()
            print("ready", flush=True)
            client = daemon.accept()[0]
            print(client.recv(100), flush=True)"""
        argv = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", PYTHON, "-I", "-c", script]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd="/") as listener:
            assert listener.stdout and listener.stdout.readline() == "ready\n"
            path.chmod(0o666)
            got = run_as(WEB, vault, str(path), "get", "openai/API_KEY")
            assert got.returncode == 6 and "others can write to where it is" in got.stderr
            assert listener.stdout.readline() == "b''\n", "it was sent nothing"
