"""`avault run --sandbox`: what a command cannot reach there, tried from inside; and that it runs as anywhere else."""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from canary import Canary
from harness import AVAULT, Machine, Screen, wait_until
from test_run import PYTHON, digest, prepare, refuse

import avault


def why_none() -> str:
    """What keeps this machine from having sandboxes."""
    if sys.platform != "linux" or not shutil.which("bwrap"):
        return "needs bubblewrap"
    words = [
        shutil.which("bwrap", path=avault.PROGRAMS) or "bwrap",
        "--unshare-all",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "true",
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return f"no sandboxes here: {done.stderr.strip()}" if done.returncode else ""


WHY_NONE = why_none()
pytestmark = [pytest.mark.usefixtures("forks"), pytest.mark.skipif(bool(WHY_NONE), reason=WHY_NONE)]


@pytest.fixture
def vault(lend: Callable[..., Machine], canary: Canary) -> Machine:
    """An open vault with two groups; commands run in a project's directory."""
    machine = lend(prepare, canary)
    machine.top = machine.top / "project"
    machine.top.mkdir()
    return machine


TRY = """
import json, os, socket, sys
def attempt(action):
    try:
        return str(action())
    except OSError as error:
        return type(error).__name__
found = {}
for kind, *words in json.loads(sys.argv[1]):
    if kind == "tcp":
        found[kind + words[0]] = attempt(lambda: socket.create_connection(tuple(words), 2).recv(9))
    elif kind == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            found[kind + words[0]] = attempt(lambda: sender.sendto(words[2].encode(), tuple(words[:2])))
    elif kind == "name":
        found[kind] = attempt(lambda: socket.getaddrinfo(words[0], 443))
    elif kind == "unix":
        with socket.socket(socket.AF_UNIX) as client:
            found[kind + words[0]] = attempt(lambda: client.connect(words[0]))
    elif kind == "list":
        found[words[0]] = attempt(lambda: sorted(os.listdir(words[0])))
    elif kind == "read":
        found[words[0]] = attempt(lambda: len(open(words[0], "rb").read()))
    elif kind == "kill":
        found[kind] = attempt(lambda: os.kill(words[0], 0))
print(json.dumps(found))
"""


def attempts(machine: Machine, wanted: list[list[Any]], *options: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a command gets of it outside, and in a sandbox."""
    words = ["--", *PYTHON, TRY, json.dumps(wanted)]
    return machine("run", *words).json, machine("run", "--sandbox", *options, *words).json


# What is out of reach


def test_no_network(vault: Machine) -> None:
    """Neither the host's loopback, nor another address, nor names, nor abstract sockets. `run` alone reaches them."""
    name = "\0avault-test-" + os.urandom(6).hex()
    with (
        socket.create_server(("0.0.0.0", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(5)
        abstract.bind(name)
        abstract.listen()
        threading.Thread(target=answer, args=(tcp,), daemon=True).start()
        port = udp.getsockname()[1]
        wanted = [["tcp", "127.0.0.1", tcp.getsockname()[1]], ["unix", name], ["udp", "127.0.0.1", port, "one"]]
        addresses = subprocess.run(["hostname", "-I"], check=False, capture_output=True, text=True).stdout.split()
        wanted += [["tcp", each, tcp.getsockname()[1]] for each in addresses if ":" not in each]
        outside, inside = attempts(vault, wanted)
        assert set(outside.values()) == {"b'hello'", "None", "3"}
        assert inside.pop("udp127.0.0.1") == "3", "nothing refuses it, and it goes nowhere"
        assert set(inside.values()) <= {"ConnectionRefusedError", "OSError"}, inside
        assert udp.recv(9) == b"one", "from outside"
        udp.setblocking(False)
        with pytest.raises(BlockingIOError):
            udp.recv(9)
    _, inside = attempts(vault, [["name", "example.com"], ["udp", "192.0.2.1", 53, "x"], ["tcp", "192.0.2.1", 443]])
    assert inside == {"name": "gaierror", "udp192.0.2.1": "OSError", "tcp192.0.2.1": "OSError"}


def answer(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            with listener.accept()[0] as client:
                client.sendall(b"hello")


def test_the_vault_is_out_of_sight(vault: Machine) -> None:
    """Directory, state, sockets and home, as such and by links; `avault` says why it has nothing to say."""
    (vault.top / "link").symlink_to(vault.vault)
    (vault.top / "up").symlink_to(vault.home)
    (vault.top / "own").write_text("mine")
    listener = next(iter(vault.runtime.glob("*.sock")))
    directories = [vault.vault, vault.own, vault.runtime, vault.home / "clawd", vault.top / "link", vault.top / "up" / "clawd"]
    wanted = [["list", str(each)] for each in directories]
    wanted += [["read", str(vault.vault / "avault.enc")], ["read", str(vault.top / "link" / "avault.enc")]]
    wanted += [["unix", str(listener)]]
    roots = [["list", f"/proc/{pid}/root{vault.vault}"] for pid in ("1", "self")]
    outside, inside = attempts(vault, [*wanted, *roots[1:], ["read", str(vault.top / "own")]])
    assert not [each for each in outside.values() if "Error" in each]
    assert inside.pop(str(vault.top / "own")) == "4"
    assert set(inside.values()) == {"FileNotFoundError"}, inside
    _, inside = attempts(vault, roots)
    assert set(inside.values()) == {"FileNotFoundError"}, inside
    for words in (["get", "openai/API_KEY"], ["list"], ["unlock"], ["run", "--", "true"]):
        done = vault("run", "--sandbox", "--", AVAULT, *words, code=4)
        assert "avault: error: this is a sandbox of avault's, and no vault is in its reach" in done.stderr
        assert "avault: hint: what was chosen for the command is in its environment" in done.stderr


def test_no_process_of_ours_is_there(vault: Machine) -> None:
    """What runs outside has no number in there: it cannot be looked at, traced, or sent a signal."""
    daemon, keyholder = vault.status()["pid"], vault.status()["keyholder_pid"]
    outside, inside = attempts(vault, [["kill", daemon], ["read", f"/proc/{keyholder}/stat"]])
    assert outside["kill"] == "None"
    assert inside == {"kill": "ProcessLookupError", f"/proc/{keyholder}/stat": "FileNotFoundError"}
    script = f"""
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
traced = [libc.ptrace(16, pid, 0, 0) for pid in ({os.getpid()}, {daemon})], ctypes.get_errno()
names = [open(f"/proc/{{pid}}/cmdline").read().split("\\0")[0] for pid in os.listdir("/proc") if pid.isdigit()]
print(json.dumps([traced, sorted(os.path.basename(name)[:6] for name in names)]))
"""
    [traced, errno], names = vault("run", "--sandbox", "--", *PYTHON, script).json
    assert (traced, errno) == ([-1, -1], 3)  # ESRCH
    assert names == ["bwrap", "python", "python"], "its process 1, its parent, itself"


def test_variables_that_lead_outside(vault: Machine, canary: Canary) -> None:
    """They are gone; the rest of the environment is there, and what was chosen."""
    given = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/x", "SSH_AUTH_SOCK": "/x", "NOSTR_NSEC": "", "OTHER": "kept", "TMUX": "/x"}
    script = "import os, json; print(json.dumps(dict(os.environ)))"
    socket_path = str(next(iter(vault.runtime.glob("*.sock"))))
    chosen = ["--only", "openai/API_KEY"]
    found = vault("run", "--sandbox", *chosen, "--", *PYTHON, script, AVAULT_SOCKET=socket_path, **given).json
    assert found["OTHER"] == "kept"
    assert found["API_KEY"] == "<avault:openai/API_KEY>"
    assert not [
        name for name in found if name.startswith(("AVAULT_", "DBUS_", "SSH_A", "NOSTR_", "XDG_RUNTIME", "TMUX", "TMPDIR"))
    ]
    script = (
        "cat /proc/*/cmdline | sha256sum; grep -ac HOME /proc/[12]/environ; grep -c API_KEY /proc/self/environ; pwd; echo $PWD"
    )
    shown = vault("run", "--sandbox", "--", "sh", "-c", script, PWD="/elsewhere").stdout
    own = ["/proc/1/environ:0", "/proc/2/environ:0"]
    assert shown.split()[2:] == [*own, "1", str(vault.top), str(vault.top)], "bubblewrap's own are none: it starts outside"
    assert canary.new("api_key") not in shown, "no value is an argument of bubblewrap's"


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_variables_of_the_loader_are_the_commands(vault: Machine) -> None:
    """A library that LD_PRELOAD names is loaded in there, and by nothing that starts outside."""
    (vault.top / "lib.c").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) void begin(void) {\n"
        f'FILE *file = fopen("{vault.top}/loaded", "a");'
        ' fprintf(file, "%d\\n", access("/run/avault-sandbox", F_OK)); fclose(file);\n'
        "}\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "lib.so", "lib.c"], check=True, cwd=vault.top)
    (vault.top / "env").write_text(f"LD_PRELOAD={vault.top}/lib.so\n")
    vault("run", "--sandbox", "--env-file", "env", "--allow", "LD_PRELOAD", "--", "true")
    assert (vault.top / "loaded").read_text() == "0\n", "in the sandbox, once"


def test_a_file_as_stdin_is_only_read(vault: Machine) -> None:
    """What is open only to read could be opened again, to write, by its name in /proc."""
    given = vault.home / "notes"
    given.write_text("one\n")
    script = "cat; (echo more >>/proc/self/fd/0) 2>/dev/null; cat /proc/$PROCESSES/fd/0; echo end"
    # outside, "all processes" are those of everybody, whose pipes never end
    for options, processes, expected in (([], "self", "one\nmore\n"), (["--sandbox"], "[0-9]*", "one\n")):
        given.write_text("one\n")
        with given.open() as file:
            shell = f"timeout 20 sh -c {shlex.quote(script.replace('$PROCESSES', processes))}"
            words = [AVAULT, "run", *options, "--", "sh", "-c", shell]
            done = subprocess.run(words, check=True, env=vault.env, cwd=vault.top, stdin=file, capture_output=True, text=True)
        assert done.stdout.startswith("one\n")
        assert given.read_text() == expected
    with (vault.top / "large").open("w+b") as file:
        file.write(data := os.urandom(1_000_000))
        file.seek(0)
        words = [AVAULT, "run", "--sandbox", "--", "sha256sum"]
        done = subprocess.run(words, check=True, env=vault.env, cwd=vault.top, stdin=file, capture_output=True, text=True)
        assert done.stdout.split()[0] == hashlib.sha256(data).hexdigest()
        file.seek(0)
        words = [AVAULT, "run", "--sandbox", "--", "head", "-c", "3"]
        subprocess.run(words, check=True, env=vault.env, cwd=vault.top, stdin=file, capture_output=True, timeout=30)


def test_inherited_descriptors_stay_outside(vault: Machine) -> None:
    """A directory that is open would lead to all of the machine's files."""
    fd = os.open(vault.home, os.O_RDONLY)
    try:
        words = ["--", "sh", "-c", "ls /proc/self/fd | wc -l"]
        for options, count in (([], 5), (["--sandbox"], 4)):
            done = subprocess.run(
                [AVAULT, "run", *options, *words], check=True, env=vault.env, cwd=vault.top, capture_output=True, pass_fds=[fd]
            )
            assert int(done.stdout) == count
        words = [AVAULT, "run", "--sandbox", "touch", "started"]
        for name in ("stdin", "stdout", "stderr"):  # Python itself refuses
            assert subprocess.run(words, check=False, env=vault.env, cwd=vault.top, **{name: fd}).returncode == 1
        assert not (vault.top / "started").exists()
    finally:
        os.close(fd)


# What is bound


@pytest.mark.parametrize("who", [[], ["unshare", "-Ur"]], ids=["a user", "root"])
def test_a_project_around_the_vault(vault: Machine, who: list[str]) -> None:
    """The vault is an empty directory there that cannot be written, moved or replaced; the project is as it is.

    For root in there too: it must not have the capabilities by which what stands in the vault's place was mounted.
    """
    vault.top = vault.home / "clawd"
    script = f"""
ls -A .avault | wc -l
touch .avault/x; mv .avault y; rmdir .avault; git init -q . ; mkdir -p .git/hooks
echo made >file; cat {vault.vault}/avault.enc; umount .avault
unshare -Urm sh -c 'umount .avault; ls -A .avault | wc -l; umount -l {vault.top}; ls -A {vault.vault} | wc -l'
ls -A .avault | wc -l
"""
    before = sorted(vault.vault.iterdir())
    words = [*who, AVAULT, "run", "--sandbox", "--", "sh", "-c", script]
    done = subprocess.run(words, check=False, env=vault.env, cwd=vault.top, capture_output=True, text=True)
    assert (done.returncode, set(done.stdout.split())) == (0, {"0"}), done.stderr
    assert (vault.top / "file").read_text() == "made\n"
    assert sorted(vault.vault.iterdir()) == before
    assert not (vault.top / ".git").exists()


@pytest.mark.slow
def test_git_around_the_vault_is_read_only(vault: Machine) -> None:
    """avault runs git there, by settings that the command must not write."""
    vault.top = vault.home / "clawd"
    subprocess.run(["git", "init", "-q", str(vault.top)], check=True, env=vault.env)
    script = "echo x >>.git/config; echo x >.git/commondir; touch .git/hooks/post-commit; mv .git g; git status --short | wc -l"
    done = vault("run", "--sandbox", "--", "sh", "-c", script)
    assert done.stderr.count("Read-only file system") == 3
    assert "Device or resource busy" in done.stderr
    assert done.stdout.strip().isdigit()
    assert not (vault.top / ".git" / "commondir").exists()


@pytest.mark.slow
def test_the_way_to_the_vault_stays(machine: Machine) -> None:
    """A directory between the project and the vault cannot be moved aside, for another one to take its place."""
    project = machine.home / "work"
    (project / "a" / "b").mkdir(parents=True)
    machine.env["AVAULT_DIR"] = str(project / "a" / "b" / ".avault")
    machine.vault = project / "a" / "b" / ".avault"
    machine.init_unproven()
    machine.top = project
    script = "mv a c; mv a/b a/c; ls -A a/b/.avault | wc -l; mkdir a/b/new && echo written"
    done = machine("run", "--all", "--sandbox", "--", "sh", "-c", script)
    assert done.stderr.count("busy") == 2
    assert done.stdout == "0\nwritten\n"


IN_SANDBOX = """
import avault, sys
writable, readable, *words = sys.argv[1:]
sandbox = avault.Sandbox(avault.Places(), writable.split(), readable.split())
BETWEEN
sys.exit(sandbox.job(words, sandbox.environment({}), avault.Patterns({})).run())
"""


def in_sandbox(
    machine: Machine, *words: str, before: str = "", between: str = "", rw: str = "", ro: str = "", **env: str
) -> "subprocess.CompletedProcess[str]":
    """A command in a sandbox, with no vault opened; `before` and `between` are what Python does in the process."""
    argv = [sys.executable, "-c", before + IN_SANDBOX.replace("BETWEEN", between), rw, ro, *words]
    env = machine.env | env
    return subprocess.run(argv, check=False, env=env, cwd=machine.top, capture_output=True, text=True, timeout=60)


def test_mounts_do_not_uncover_each_other(machine: Machine) -> None:
    """Two that are read-only and two that are hidden, in one directory, and one below another."""
    machine.top = project = machine.home / "work"
    inner = project / "a"
    for name in (".git", ".avault", "state/avault", "data/deep/own", "tool"):
        (inner / name).mkdir(parents=True)
        (inner / name / "file").write_text("outside\n")
    subprocess.run(["git", "init", "-q", str(inner)], check=True, env=machine.env)
    shutil.copy(avault.__file__, inner / "tool")
    script = """
for each in .git .avault state/avault data data/deep/own tool; do echo x 2>&- >a/$each/new && echo wrote $each; done
cat a/.avault/file a/state/avault/file; mv a b; mv a/state a/other; echo fine >a/new; cat a/new; cat a/data/deep/own/file
"""
    places = {"AVAULT_DIR": str(inner / ".avault"), "XDG_STATE_HOME": str(inner / "state"), "PYTHONPATH": str(inner / "tool")}
    done = in_sandbox(machine, "sh", "-c", script, ro=f"{inner}/data {inner}/data/deep/own", **places)
    assert done.stdout == "fine\noutside\n", done.stderr
    assert done.stderr.count("busy") == 2
    assert not list(inner.glob("*/new"))


@pytest.fixture
def project(machine: Machine) -> Path:
    """A directory where a sandbox may be, with a vault's in it and a git around that; nothing is running."""
    machine.top = machine.home / "work"
    (machine.top / "a" / ".avault").mkdir(parents=True)
    machine.env["AVAULT_DIR"] = str(machine.top / "a" / ".avault")
    return machine.top


@pytest.mark.parametrize("name", [".git", "a/.git", "avault.env", "over"])
def test_a_link_to_what_is_protected(machine: Machine, project: Path, name: str) -> None:
    """A link cannot be mounted over, and so be replaced: it is refused where that could be written."""
    other = machine.home / "other"
    other.mkdir()
    (project / name).symlink_to(other)
    if name == "over":
        (other / "vault").mkdir()
        machine.env["AVAULT_DIR"] = str(project / "over" / "vault")
    done = in_sandbox(machine, "touch", "started")
    assert f"{project / name} is a link, which a sandbox could replace" in done.stderr
    assert not (project / "started").exists()
    assert in_sandbox(machine, "true", ro=str(project)).returncode == 0, "where it cannot be written, it may be one"


@pytest.mark.parametrize("link", [False, True])
def test_what_is_replaced_between_look_and_bind(machine: Machine, project: Path, link: bool) -> None:
    """Another process may put something else in the place of what was looked at: then the command is not run."""
    for name in ("data", "else"):
        (project / name).mkdir()
    put = "os.symlink('else', 'data')" if link else "os.rename('else', 'data')"
    between = f"import os; os.rename('data', 'x'); {put}"
    done = in_sandbox(machine, "touch", "started", between=between, ro=str(project / "data"))
    assert "Stale file handle" in done.stderr
    assert not (project / "started").exists()


def test_the_vault_is_open_before_anything_is_looked_at(vault: Machine) -> None:
    """While `--wait` waits, a directory to bind may become another one."""
    vault("lock", "--force")
    done = vault("run", "--sandbox", "--bind-ro", "nothing", "--wait", "1", "--", "true", code=7)
    assert "the vault did not open in time" in done.stderr


def test_the_file_of_a_project_is_read_only(vault: Machine) -> None:
    """It chooses the secrets that the next run gives."""
    (vault.top / "avault.env").write_text("API_KEY=avault://openai/API_KEY\n")
    script = "echo PASSWORD=avault://db/PASSWORD >>avault.env; rm -f avault.env; echo x >y; mv y avault.env; printenv PASSWORD"
    done = vault("run", "--sandbox", "--", "sh", "-c", script, code=1)
    assert done.stdout == ""
    assert (vault.top / "avault.env").read_text() == "API_KEY=avault://openai/API_KEY\n"


def test_what_is_not_there_and_would_be_used_outside_cannot_be_made(machine: Machine, project: Path) -> None:
    """The file that chooses the next run's secrets, a git around the vault, a vault where one is looked for first."""
    (machine.home / "clawd").mkdir()
    machine.top = machine.home / "clawd"
    script = """
for each in avault.env .avault; do
    echo x 2>&- >$each && echo wrote $each
    mkdir -p $each/a 2>&- && echo made $each
    rm -rf $each 2>&-
done
mv avault.env other 2>&-; echo fine >new; cat new
"""
    done = in_sandbox(machine, "sh", "-c", script, ro="")
    assert done.stdout == "fine\n", done.stderr
    assert sorted(os.listdir(machine.top)) == ["new"], "the places are given back"
    (machine.top / "avault.env").mkdir()  # as another sandbox holds it
    assert in_sandbox(machine, "sh", "-c", "echo x >avault.env").returncode


def test_a_held_place_is_no_file_of_the_project(vault: Machine) -> None:
    (vault.top / "avault.env").mkdir()
    assert vault("run", "--", "printenv", "API_KEY", secret=True).stdout


def test_what_is_bound_besides(vault: Machine) -> None:
    for name in ("tool", "data", "hidden"):
        (vault.home / name).mkdir()
        (vault.home / name / "file").write_text(name)
    (vault.home / "link").symlink_to(vault.home / "data")
    script = "cat ~/tool/file ~/link/file; echo more >>~/tool/file; echo more >>~/link/file; cat ~/hidden/file"
    done = vault("run", "--sandbox", "--bind", "~/tool", "--bind-ro", str(vault.home / "link"), "--", "sh", "-c", script, code=1)
    assert done.stdout == "tooldata"
    assert "Read-only file system" in done.stderr
    assert (vault.home / "tool" / "file").read_text() == "toolmore\n"
    done = vault("run", "--sandbox", "--bind-ro", ".", "--", "sh", "-c", "touch x", code=1)
    assert "Read-only file system" in done.stderr
    wanted = [["list", str(vault.vault)], ["list", str(vault.home / "clawd")], ["read", str(vault.home / "hidden" / "file")]]
    _, inside = attempts(vault, wanted, "--bind-ro", "~")
    assert list(inside.values()) == ["[]", "['.avault']", "6"], "a home that can be read is one without the vault"


def test_what_cannot_be_bound(vault: Machine, tmp_path: Path) -> None:
    """What would show the vault, or lets a command change what runs outside, is refused with the reason."""
    (vault.top / "link").symlink_to(vault.vault)
    inner = vault.vault / "inner"
    inner.mkdir()
    for path in (vault.vault, vault.own, vault.runtime, vault.top / "link", inner):
        for option in ("--bind", "--bind-ro"):
            refuse(vault, "--sandbox", option, str(path), code=5, says="no sandbox shows it")
    inner.rmdir()
    for path in ("~", str(vault.home.parent), "/etc", "/usr"):
        refuse(vault, "--sandbox", "--bind", path, code=5, says="holds what starts by itself outside", hint="cd DIR")
    for path in ("/", "/proc", "/dev/shm"):
        refuse(vault, "--sandbox", "--bind-ro", path, code=5, says="is the kernel's")
    refuse(vault, "--sandbox", "--bind", "/var/tmp", code=5, says="others can write to /var/tmp")
    refuse(vault, "--sandbox", "--bind", sys.prefix, code=5, says="is of avault's program", hint="another directory")
    refuse(vault, "--sandbox", "--bind", "nothing", code=4, says="there is no nothing to bind")
    refuse(vault, "--bind", ".", code=2, says="--bind and --bind-ro are for a sandbox")
    for place, says in ((vault.home, "starts by itself"), (vault.vault, "no sandbox shows it")):
        done = subprocess.run([AVAULT, "run", "--sandbox", "true"], check=False, env=vault.env, cwd=place, capture_output=True)
        assert done.returncode == 5
        assert says in done.stderr.decode()
    done = vault("run", "--sandbox", "true", code=5, AVAULT_SOCKET=str(vault.top / "own.sock"))
    assert "the vault's socket is in" in done.stderr


@pytest.mark.slow
def test_the_program_cannot_be_changed(vault: Machine) -> None:
    """A copy of avault in the project is read-only there: it is run outside later. Nor can its directory be moved."""
    tools = vault.top / "skills" / "tools"
    tools.mkdir(parents=True)
    lone = tools / "avault.py"
    shutil.copy(avault.__file__, lone)
    script = "echo x >>skills/tools/avault.py; touch skills/tools/click.py; mv skills other; touch skills/new"
    done = subprocess.run(
        [sys.executable, str(lone), "run", "--sandbox", "--", "sh", "-c", script],
        check=True, env=vault.env, cwd=vault.top, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr.count("Read-only file system") >= 2
    assert "busy" in done.stderr
    assert lone.read_bytes() == Path(avault.__file__).read_bytes()
    assert sorted(os.listdir(vault.top / "skills")) == ["new", "tools"]
    done = subprocess.run(
        [sys.executable, str(lone), "run", "--sandbox", "true"],
        check=False,
        env=vault.env,
        cwd=tools,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 5
    assert "is of avault's program" in done.stderr
    assert [avault.is_imported(f"/x/{name}", "/x") for name in ("", "click/sub", "json", "project")] == [True, True, True, False]


MOUNTS = b"""
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:2 / /home rw - ext4 /dev/sda2 rw
24 22 8:2 /u/clawd /srv/a\\040b rw - ext4 /dev/sda2 rw
25 22 8:2 /other /mnt rw - ext4 /dev/sda2 rw
26 22 8:3 /u/clawd /opt rw - ext4 /dev/sda3 rw
"""


def test_the_same_directory_by_other_mounts() -> None:
    """Where a mount shows the vault at another path too, that one is masked as well (proc(5), mountinfo)."""
    mounts = [avault.Mount(line) for line in MOUNTS.splitlines() if line]
    assert avault.other_ways("/home/u/clawd/.avault", mounts) == {"/home/u/clawd/.avault", "/srv/a b/.avault"}
    assert avault.other_ways("/srv/a b/.avault", mounts) == {"/home/u/clawd/.avault", "/srv/a b/.avault"}
    assert avault.other_ways("/opt", mounts) == {"/opt"}
    assert avault.other_ways("/etc/x", mounts) == {"/etc/x"}


@pytest.mark.slow
def test_a_mount_of_the_vault_in_the_project(vault: Machine) -> None:
    """The same with a real one, as the user may make it in a namespace."""
    (vault.top / "alias").mkdir()
    subprocess.run(["git", "init", "-q", str(vault.home / "clawd")], check=True, env=vault.env)
    look = "sh -c 'ls -A alias/.avault alias; touch alias/.git/new'"
    words = f"mount --bind {vault.home}/clawd alias && ls -A alias/.avault && exec {AVAULT} run --sandbox -- {look}"
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", words], check=False, env=vault.env, cwd=vault.top, capture_output=True)
    if b"avault.enc" not in done.stdout:
        pytest.skip(f"no mounts here: {done.stderr.decode()}")
    assert done.returncode == 1, done.stderr
    assert b"Read-only file system" in done.stderr
    assert done.stdout.partition(b"alias:\n")[2].split() == [b".avault", b".git", b"alias/.avault:"]


def test_the_ways_to_start_avault(machine: Machine, project: Path) -> None:
    """What is run in its place, or by itself, is not writable: launchers, packages, units, settings of git."""
    for name in (".local/bin", ".config/tool", ".local/share/systemd/user", "cfg/git"):
        (machine.home / name).mkdir(parents=True)
    for path in ("~/.local", "~/.local/bin", "~/.config", "~/.local/share", "~/.local/share/systemd/user", "~/cfg", "~/cfg/git"):
        done = in_sandbox(machine, "touch", "started", rw=path, XDG_CONFIG_HOME=str(machine.home / "cfg"))
        assert "holds what starts by itself outside" in done.stderr
    (project / "bin").mkdir()
    (project / "bin" / "avault").write_text("#!/bin/sh\n")
    (project / "bin" / "avault").chmod(0o755)
    (project / "gitconfig").write_text("")
    (project / "units").mkdir()
    (machine.home / ".gitconfig").symlink_to(project / "gitconfig")
    (machine.home / ".config" / "systemd").mkdir()
    (machine.home / ".config" / "systemd" / "user").symlink_to(project / "units")
    script = (
        "for each in bin/avault gitconfig units/x; do echo x >>$each; rm -f $each; mv $each y; done; mv bin other; touch bin/new"
    )
    path = f"{project / 'bin'}:{machine.env['PATH']}"
    done = in_sandbox(machine, "sh", "-c", script, rw="~/.config/tool", PATH=path)
    assert done.stderr.count("Read-only file system") == 3, done.stderr
    assert (project / "bin" / "avault").read_text() == "#!/bin/sh\n"
    assert sorted(os.listdir(project / "bin")) == ["avault", "new"]
    (project / "avault").symlink_to(project / "bin" / "avault")
    (machine.home / ".local" / "bin" / "avault").symlink_to(project / "avault")
    assert f"{project / 'avault'} is a link" in in_sandbox(machine, "true").stderr


def test_a_place_that_cannot_be_held(machine: Machine, project: Path) -> None:
    (project / "a").chmod(0o555)
    done = in_sandbox(machine, "true")
    assert f"cannot hold the place of {project}/a/.git: Permission denied" in done.stderr
    assert "avault.Denied" in done.stderr, "and no bare error of the system's"


def test_a_bubblewrap_that_does_not_start(machine: Machine, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    sandbox = avault.Sandbox(avault.Places(machine.env["AVAULT_DIR"]))

    def wait_forever(*_: object, **more: Any) -> None:
        raise subprocess.TimeoutExpired("bwrap", more["timeout"])

    monkeypatch.setattr("subprocess.run", wait_forever)
    assert "bubblewrap does not start" in str(sandbox.explain())


def test_descriptors_above_a_lowered_limit(machine: Machine, project: Path) -> None:
    """What was open before `ulimit -n` was lowered is closed too."""
    before = (
        "import os, resource\nfd = os.open('/', os.O_RDONLY)\nos.dup2(fd, 900)\nos.set_inheritable(900, True)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
    )
    done = in_sandbox(machine, "sh", "-c", "ls /proc/self/fd | sort -n | tail -1", before=before)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10


# The terminal

INJECT = """
import fcntl, os, sys, termios, time
for fd in (0, 1, 2):
    for key in "touch injected\\n":
        try:
            fcntl.ioctl(fd, termios.TIOCSTI, key.encode())
        except OSError as error:
            pass
print("tried", flush=True)
"""


@pytest.fixture
def shell(vault: Machine) -> Iterator[Screen]:
    """bash, as somebody uses it."""
    with Screen(vault, "bash", "--norc", "-i") as screen:
        screen.expect("\\$ ")
        screen.type("unset HISTFILE; bind 'set enable-bracketed-paste off'\r")
        screen.expect("\\$ ")
        yield screen


@pytest.mark.parametrize("behind", ["", " | cat", " 2>/dev/null </dev/tty | cat"])
def test_nothing_is_typed_on_our_terminal(vault: Machine, shell: Screen, behind: str) -> None:
    """TIOCSTI puts keys into a terminal as if somebody had typed them: the shell outside would run them."""
    (vault.top / "inject.py").write_text(INJECT)
    shell.type(f"$AVAULT run --sandbox -- python3 -IS inject.py{behind}\r")
    shell.expect("tried.*\\$ ")
    shell.type("echo $((40 + 2))\r")
    shell.expect("\n42\r\n.*\\$ ")
    assert not (vault.top / "injected").exists()
    if behind and Path("/proc/sys/dev/tty/legacy_tiocsti").read_text() == "1\n":
        shell.type(f"$AVAULT run -- python3 -IS inject.py{behind}\r")
        wait_until((vault.top / "injected").exists, what="what it does without a sandbox")


COUNT = "trap 'echo interrupted; exit 1' INT; echo ready; while read line; do echo got $line; done; echo end"


def test_stop_and_go_on(shell: Screen) -> None:
    shell.type(f"$AVAULT run --sandbox -- bash -c {shlex.quote(COUNT)}\r")
    shell.expect("\nready")
    shell.type("one\r")
    shell.expect("got one")
    for word in ("two", "three"):
        shell.type("\x1a")
        shell.expect("Stopped.*\\$ ")
        assert termios.tcgetattr(shell.fd)[3] & termios.ISIG, "the terminal is the shell's"
        shell.type("fg\r")
        shell.expect("run")
        shell.type(f"{word}\r")
        shell.expect(f"got {word}")
    shell.type("\x03")
    shell.expect("interrupted.*\\$ ")
    shell.type("echo code $?, jobs:$(jobs)\r")
    shell.expect("\ncode 1, jobs:\r\n")


def test_stop_and_go_on_in_a_pipeline(shell: Screen) -> None:
    """Keys that are signals reach all of a command whose output goes on to another one."""
    script = "sh -c 'echo ready; n=0; while [ ! -e go ]; do sleep 0.05; done; echo went on; sleep 98'; echo never"
    shell.type(f"$AVAULT run --sandbox -- sh -c {shlex.quote(script)} | cat\r")
    shell.expect("\nready")
    shell.type("\x1a")
    shell.expect("Stopped.*\\$ ")
    shell.type("touch go; fg\r")
    shell.expect("went on")
    shell.type("\x03")
    shell.expect("\\$ ")
    shell.type('echo "${PIPESTATUS[@]}", jobs:$(jobs)\r')
    shell.expect("\n130.*, jobs:\r\n")


def test_an_interactive_shell_inside(shell: Screen) -> None:
    """Job control works in there too, on a terminal that has a name."""
    shell.type("$AVAULT run --sandbox -- bash --norc -i\r")
    shell.expect("\\$ ")
    shell.type("sh -c 'tty; exec sleep 97'\r")  # one job, so that it is in front when it says something
    shell.expect("/dev/\\w+\r\n")
    shell.type("\x1a")
    shell.expect("Stopped.*\\$ ")
    # not `wait`, which does not wait for what is stopped; and `exit` refuses while that is there
    shell.type("kill %1; fg; echo here $((40 + 2))\r")
    shell.expect("\nhere 42\r\n")
    shell.type("exit 4\r")
    shell.expect("exit\r\n.*\\$ ")
    shell.type("echo code $?\r")
    shell.expect("\ncode 4\r\n")


def test_the_size_of_a_terminal_changes(vault: Machine) -> None:
    script = "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"
    with Screen(vault, AVAULT, "run", "--sandbox", "--", "bash", "-c", script, lines=33, columns=111) as screen:
        screen.expect("33 111\r\nready")
        screen.resize(50, 132)
        screen.expect("50 132\r\n")
        screen.wait(5)


# Exit codes, signals, streams


def test_exit_codes(vault: Machine) -> None:
    (vault.top / "not-executable").write_text("")
    for code in (3, 255):
        vault("run", "--sandbox", "--", "sh", "-c", f"exit {code}", code=code)
    for name in ("KILL", "SEGV"):
        number = getattr(signal, f"SIG{name}")
        vault("run", "--sandbox", "--", *PYTHON, f"import os; os.kill(os.getpid(), {number:d})", code=128 + number)
    refuse(vault, "--sandbox", "--", "no-such-command", code=127, says="cannot run no-such-command", hint="--bind-ro DIR")
    refuse(vault, "--sandbox", "--", "./not-executable", code=126, says="Permission denied", hint="chmod +x")
    done = vault("run", "--sandbox", "--", *PYTHON, "import os; os.kill(os.getppid(), 9); import time; time.sleep(99)", code=1)
    assert "the process that keeps the command was killed" in done.stderr


@pytest.mark.parametrize(
    "name", ["TERM", "INT", "TSTP", *(pytest.param(each, marks=pytest.mark.slow) for each in ("HUP", "USR1", "CONT", "RTMIN"))]
)
def test_signals_go_to_the_command(vault: Machine, name: str) -> None:
    script = f"trap 'echo got it; exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    running = vault.start("run", "--sandbox", "--", "bash", "-c", script, input="")
    running.line("ready")
    running.process.send_signal(getattr(signal, f"SIG{name}"))
    done = running.wait()
    assert (done.returncode, done.stdout) == (7, "ready\ngot it")


def is_there(mark: str) -> bool:
    """Whether a process has that in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                return True
    return False


TAKEN_OVER = """
import os, socket, sys, time
if os.fork():
    own = socket.socket(fileno=int(sys.argv[1]))
    own.send(bytes((0, 0)))
    for kind, number in REPORTS:
        own.send(bytes((kind, number)))
time.sleep(99)
"""


def take_over(*reports: tuple[int, int]) -> str:
    """In the place of the command's parent, what reports these, and stays."""
    script = TAKEN_OVER.replace("REPORTS", str([(kind, int(number)) for kind, number in reports]))
    words = f"[sys.executable, '-c', {script!r}, str(orders), *command]"
    return f"import avault, sys\navault.inside_command = lambda orders, given, flags, command: {words}\n"


@pytest.mark.slow
def test_a_parent_that_is_taken_over(machine: Machine, project: Path) -> None:
    """The command runs as the same user as its parent in there: an end that it reports is none until all has ended."""
    mark = f"9{int.from_bytes(os.urandom(3), 'big')}"
    done = in_sandbox(machine, mark, before=take_over((3, 7)))
    assert done.returncode == 7, done.stderr
    assert not is_there(mark)
    assert not (project / "a" / ".git").exists(), "given back, as nobody is there any more"


@pytest.mark.slow
def test_what_a_parent_reports_is_a_stop_or_nothing(machine: Machine, project: Path) -> None:
    """It chooses no signal for avault itself: KILL, or one that there is not."""
    done = in_sandbox(machine, before=take_over((2, signal.SIGKILL), (2, 250), (2, signal.SIGTERM), (2, 0), (3, 7)))
    assert done.returncode == 7, done.stderr


def test_what_it_starts_ends_with_it(vault: Machine) -> None:
    """When avault has ended, nothing runs in there that could still change the project."""
    mark = f"9{int.from_bytes(os.urandom(3), 'big')}"
    done = vault("run", "--sandbox", "--", "bash", "-c", f"setsid sleep {mark} & (trap '' TERM HUP; sleep {mark}) & echo started")
    assert done.stdout == "started\n"
    assert not is_there(mark)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["avault", "bwrap"])
def test_a_killed_run_ends_the_command(vault: Machine, who: str) -> None:
    """With a word first where avault was killed; and also what does not listen."""
    mark = f"9{int.from_bytes(os.urandom(3), 'big')}"
    script = f"trap 'echo told >told' TERM; (trap '' TERM HUP; sleep {mark}) & echo ready; wait; wait"
    running = vault.start("run", "--sandbox", "--", "bash", "-c", script)
    running.line("ready")
    if who == "avault":
        running.process.kill()
        wait_until((vault.top / "told").exists)
    else:
        found = subprocess.run(["pgrep", "-f", f"bwrap.*{mark}"], check=True, capture_output=True, text=True).stdout.split()
        os.kill(int(found[0]), signal.SIGKILL)
        assert "was killed" in running.wait().stderr
    wait_until(lambda: not is_there(mark))


def test_streams_are_clean(vault: Machine) -> None:
    """Bytes as they are, and as soon as they come."""
    data = os.urandom(3_000_000)
    words = [AVAULT, "run", "--sandbox", "--"]
    done = subprocess.run([*words, "cat"], check=True, env=vault.env, cwd=vault.top, input=data, capture_output=True)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    with subprocess.Popen(
        [*words, "cat"], env=vault.env, cwd=vault.top, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word


def test_masks(vault: Machine, canary: Canary) -> None:
    script = "echo $API_KEY; echo $PASSWORD | base64 -w0 >&2"
    done = vault("run", "--sandbox", "--", "sh", "-c", script)
    assert done.stdout == "<avault:openai/API_KEY>\n"
    assert "<avault:db/PASSWORD>" in done.stderr
    script = "import hashlib, os; print(hashlib.sha256(os.environb[b'API_KEY']).hexdigest())"
    assert vault("run", "--sandbox", "--no-mask", "--", *PYTHON, script).stdout.strip() == digest(canary.new("api_key"))


def test_as_file(vault: Machine, canary: Canary) -> None:
    script = 'stat -c %a "$API_KEY_FILE"; sha256sum <"$API_KEY_FILE"; echo x >>"$API_KEY_FILE"; test -z "$API_KEY"'
    done = vault("run", "--sandbox", "--as-file", "openai/API_KEY", "--", "sh", "-c", script)
    mode, found = done.stdout.split()[:2]
    assert (mode, found) == ("400", digest(canary.new("api_key")))


# Where there is none


def test_without_bubblewrap(vault: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avault.PROGRAMS", str(vault.top))
    with pytest.raises(avault.Unavailable, match="needs bubblewrap") as caught:
        avault.Sandbox(avault.Places(str(vault.vault)))
    assert caught.value.hint == "apt install bubblewrap"


def test_without_namespaces(vault: Machine) -> None:
    """As where the kernel gives an unprivileged user none: the command is not run."""
    user = f"--map-user={os.getuid()} --map-group={os.getgid()}"
    words = f"echo 1 >/proc/sys/user/max_user_namespaces && exec unshare -U {user} {AVAULT} run --sandbox -- touch started"
    done = subprocess.run(["unshare", "-Ur", "sh", "-c", words], check=False, env=vault.env, cwd=vault.top, capture_output=True)
    assert (done.returncode, done.stdout) == (6, b"")
    assert b"avault: error: no sandbox here: " in done.stderr
    assert b"avault: hint: user namespaces are off: sysctl user.max_user_namespaces" in done.stderr
    assert not (vault.top / "started").exists()


# The way to a proxy


class Proxy:
    """A stand-in for the proxy of a session: any CONNECT leads to an echo."""

    def __init__(self, session: Path) -> None:
        self.path, self.threads = session / "proxy.sock", list[threading.Thread]()
        session.mkdir(mode=0o700, exist_ok=True)
        (session / "bundle.pem").write_text("a bundle")
        self.listener: socket.socket | None = None
        self.asked: list[bytes] = []
        self.uids: set[int] = set()

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(300)
        threading.Thread(target=self.serve, args=(self.listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.listener
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.echo, args=(listener.accept()[0],), daemon=True).start()

    def echo(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as file, contextlib.suppress(OSError):
            peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.uids.add(int.from_bytes(peer[4:8], sys.byteorder))
            self.asked.append(file.readline().strip())
            while file.readline().strip():
                pass
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while data := file.read1(65536):
                client.sendall(data)


IN_SESSION = """
import avault, sys
sandbox = avault.Sandbox(avault.Places(), session=sys.argv[1])
sys.exit(sandbox.job(sys.argv[2:], sandbox.environment({}), avault.Patterns({})).run())
"""

CALL = """
import concurrent.futures, os, socket, sys, urllib.parse
url = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
def call(size):
    with socket.create_connection((url.hostname, url.port), 20) as client, client.makefile("rb") as file:
        try:
            client.sendall(b"CONNECT api.example:443 HTTP/1.1\\r\\n\\r\\n")
            if not file.readline():
                return "sent away"
        except ConnectionError:
            return "sent away"
        file.readline()
        data = os.urandom(size)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            reading = pool.submit(file.read)
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return reading.result() == data
"""


def in_session(machine: Machine, session: Path, *words: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    """A command in a sandbox with a proxy, as `run --proxy` is to start it."""
    argv = [sys.executable, "-c", IN_SESSION, str(session), *words]
    return subprocess.run(argv, check=True, env=machine.env, cwd=machine.top, capture_output=True, text=True, timeout=60, **more)


@pytest.mark.slow
def test_the_way_to_the_proxy(vault: Machine) -> None:
    """Many connections at once, each whole in both directions; and the variables for it."""
    session = vault.runtime / "session"  # whose path is short
    script = CALL + (
        "with concurrent.futures.ThreadPoolExecutor(50) as pool:\n"
        "    print({*pool.map(call, [1 << 12] * 199 + [4_000_000])}, open(os.environ['SSL_CERT_FILE']).read())\n"
        "print(sorted(os.listdir(os.path.dirname(os.environ['SSL_CERT_FILE']))), 'NO_PROXY' in os.environ)\n"
    )
    with Proxy(session) as proxy:
        done = in_session(vault, session, *PYTHON, script)
        assert done.stdout == "{True} a bundle\n['bundle.pem', 'proxy.sock'] True\n"
        assert proxy.asked == [b"CONNECT api.example:443 HTTP/1.1"] * 200
        assert proxy.uids == {os.getuid()}
        if shutil.which("curl"):
            words = ["curl", "-ksS", "-m", "5", "https://api.example/"]
            assert "SSL" in in_session(vault, session, "sh", "-c", f"{shlex.join(words)} 2>&1; true").stdout


def test_a_proxy_that_comes_and_goes(vault: Machine) -> None:
    """Where nobody listens, a client is sent away, and the next one is served; exit codes are the command's."""
    session = vault.runtime / "session"  # whose path is short
    script = CALL + "print(call(9), flush=True); sys.stdin.readline(); print(call(9)); sys.exit(9)"
    proxy = Proxy(session)
    argv = [sys.executable, "-c", IN_SESSION, str(session), *PYTHON, script]
    with subprocess.Popen(
        argv, env=vault.env, cwd=vault.top, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "sent away\n"
        with proxy:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.read() == "True\n"
    assert process.returncode == 9
