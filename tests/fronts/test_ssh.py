"""`avault key` and `avault ssh`, with the real OpenSSH and git as clients, and a real server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nostr_sdk
import peers
import pytest
from harness import Machine, daemon_processes, name_children, wait_until
from ports import free_port
from test_processes import Memory, linux

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
pytestmark = [
    pytest.mark.usefixtures("forks"),
    pytest.mark.skipif(not shutil.which("ssh-add"), reason="no OpenSSH here"),
]


def prepare(machine: Machine) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC)


@pytest.fixture
def vault(lend: Callable[..., Machine]) -> Machine:
    """An open vault."""
    return lend(prepare)


def make(vault: Machine, name: str, *words: str, kind: str = "ed25519") -> str:
    """Have a key made; its public half."""
    return " ".join(vault("key", "generate", kind, name, *words).stdout.split()[:2])


def with_agent(vault: Machine, *words: str, code: int | None = 0, input: str = "", **variables: str) -> str:
    """What a command prints that has the agent, as one that `avault ssh` runs has it."""
    path = vault("ssh", "--print-env").stdout.split("'")[1]
    env = {**vault.env, "SSH_AUTH_SOCK": path, **variables}
    done = subprocess.run(words, env=env, cwd=vault.top, input=input, capture_output=True, text=True, timeout=60)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


class Host:
    """A real server on loopback, for the user that runs the tests."""

    def __init__(self, top: Path) -> None:
        top.mkdir()
        self.top, self.key, self.allowed = top, top / "host_key", top / "authorized_keys"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.allowed.touch()
        self.port = free_port()
        settings = {
            "ListenAddress": "127.0.0.1",
            "Port": self.port,
            "HostKey": self.key,
            "AuthorizedKeysFile": self.allowed,
            "StrictModes": "no",
            "UsePAM": "no",
            "MaxStartups": "100",
            "LogLevel": "VERBOSE",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PidFile": "none",
            "Subsystem": "sftp internal-sftp",
        }
        config = top / "config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        assert SSHD
        self.log = (top / "log").open("wb")
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=self.log)
        wait_until(self.answers, what="sshd listens")

    def answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def server(self) -> str:
        """As `--server` takes it."""
        said = subprocess.check_output(["ssh-keygen", "-l", "-f", f"{self.key}.pub"], text=True)
        return f"host.example={said.split()[1]}"

    def ssh(self) -> list[str]:
        options = ("UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "BatchMode=yes", "LogLevel=ERROR")
        return ["ssh", "-F", "none", "-p", str(self.port), *(word for each in options for word in ("-o", each))]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if not SSHD:
        pytest.skip("no sshd here")
    host = Host(tmp_path / "host")
    yield host
    host.close()


def test_a_key_that_is_made_is_listed_and_leaves_in_no_way(vault: Machine) -> None:
    done = vault("key", "generate", "ed25519", "ops/GITHUB", "--namespace", "git")
    assert done.stdout.startswith("ssh-ed25519 ") and done.stdout.endswith(" ops/GITHUB\n")
    assert "guarded: only ssh, to no server, signing for git" in done.stderr
    assert "ed25519 SHA256:" in vault("list").stdout
    for words in (("get", "ops/GITHUB"), ("export", "--group", "ops", "--shell"), ("export", "--as", "X=ops/GITHUB")):
        refused = vault(*words, code=5)
        assert not refused.stdout and "only ssh may use it" in refused.stderr and "avault ssh -- CMD" in refused.stderr
    assert "PRIVATE KEY" not in vault("export", "--format", "json", secret=True).stdout
    assert "there is a ops/GITHUB already" in vault("key", "generate", "rsa", "ops/GITHUB", code=5).stderr


def test_one_for_which_nothing_is_named_says_so(vault: Machine) -> None:
    done = vault("key", "generate", "ecdsa-p256", "ops/NEW")
    assert "it signs nothing yet" in done.stderr and "avault guard ops/NEW --server" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("generate", "dsa", "a/B"), "no such kind of key: dsa"),
        (("generate", "ed25519", "a"), "a key needs a name of its own"),
        (("generate", "ed25519", "a/B", "--server", "x=SHA256:short"), "not a server"),
        (("generate", "ed25519", "a/B", "--server", "nowhere.invalid"), "no key of nowhere.invalid in known_hosts"),
        (("generate", "ed25519", "a/B", "--server", "-oProxyCommand"), "no key of"),
        (("generate", "ed25519", "a/B", "--user", "with space"), "not one of users"),
        (("import", "/dev/null", "a/B"), "no private key"),
    ],
)
def test_what_is_no_key(vault: Machine, words: tuple[str, ...], says: str) -> None:
    assert says in vault("key", *words, code=2).stderr
    assert "a/B" not in vault("list").stdout


def test_a_key_is_taken_from_a_file(vault: Machine) -> None:
    file = vault.top / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)
    done = vault("key", "import", str(file), "ops/OLD", "--namespace", "file")
    assert done.stdout.split()[1] == Path(f"{file}.pub").read_text().split()[1]
    assert "has the key still" in done.stderr
    locked = vault.top / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "open, sesame", "-f", locked], check=True)
    refused = vault("key", "import", str(locked), "ops/LOCKED", code=2)
    assert "may have a passphrase, and there is no terminal" in refused.stderr


def test_a_key_with_a_passphrase_in_opensshs_form_is_opened_by_openssh(vault: Machine) -> None:
    """In memory: there is no file of it without that, and no argument or variable has it."""
    file, ask = vault.top / "sealed", vault.top / "ask"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "open, sesame", "-f", file], check=True)
    before = file.read_bytes()
    words = ("key", "import", str(file), "ops/SEALED", "--namespace", "file")
    assert "there is no terminal to ask for it" in vault(*words, code=2).stderr
    asked = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
    for passphrase in ("open, barley", "open, sesame"):
        lines = (f'echo "$1" >> {vault.top}/asked', f"cat /proc/$PPID/cmdline >> {vault.top}/argv", f'echo "{passphrase}"')
        ask.write_text("\n".join(("#!/bin/sh", *lines, "")))
        ask.chmod(0o700)
        done = vault(*words, code=5 if "barley" in passphrase else 0, **asked)
    assert done.stdout.split()[1] == Path(f"{file}.pub").read_text().split()[1] and file.read_bytes() == before
    assert (vault.top / "asked").read_text().count("passphrase") == 2, "once each time"
    assert "sesame" not in (vault.top / "argv").read_text()
    public = vault.top / "sealed.pub"
    with_agent(vault, "ssh-keygen", "-q", "-Y", "sign", "-U", "-n", "file", "-f", str(public), str(vault.top / "asked"))
    assert (vault.top / "asked.sig").read_text().startswith("-----BEGIN SSH SIGNATURE")


def test_git_signs_commits(vault: Machine) -> None:
    public = make(vault, "ops/GIT", "--namespace", "git")
    (vault.top / "allowed").write_text(f"a@b {public}\n")
    settings = {
        "user.name": "n", "user.email": "a@b", "gpg.format": "ssh", "user.signingkey": f"key::{public}",
        "gpg.ssh.allowedSignersFile": str(vault.top / "allowed"), "commit.gpgsign": "true",
    }  # fmt: skip
    git = ["git", "-C", "work", *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))]
    with_agent(vault, "git", "init", "-q", "work")
    with_agent(vault, *git, "commit", "-q", "--allow-empty", "-m", "fix the door")
    assert 'Good "git" signature for a@b' in with_agent(vault, *git, "log", "--show-signature")
    assert 'sign the commit "fix the door" that says it is by "n <a@b>" with ops/GIT; ' in vault("log").stdout
    vault("lock", "--force")
    said = with_agent(vault, *git, "commit", "-q", "--allow-empty", "-m", "again", code=128)
    assert "No private key found" in said or "agent" in said


def test_ssh_signs_in_to_the_server_that_is_named_and_to_no_other(vault: Machine, host: Host) -> None:
    host.allowed.write_text(make(vault, "ops/HERE", "--server", host.server()) + "\n")
    other = make(vault, "ops/ELSEWHERE", "--server", f"elsewhere=SHA256:{'A' * 43}")
    assert with_agent(vault, *host.ssh(), "127.0.0.1", "echo", "in") == "in\n"
    user = Path(host.top).owner()
    assert f"sign in to host.example as {user} with ops/HERE" in vault("log").stdout
    host.allowed.write_text(other + "\n")
    assert "Permission denied" in with_agent(vault, *host.ssh(), "127.0.0.1", "true", code=255)


def test_a_server_is_kept_by_the_key_that_known_hosts_had(vault: Machine, host: Host) -> None:
    """What is changed there later counts for nothing."""
    known, programs = vault.top / "known", vault.top / "bin"
    programs.mkdir()
    fake = programs / "ssh-keygen"  # the real one looks in the home of the user's entry, whatever $HOME is
    fake.write_text(f'#!/bin/sh\nexec {shutil.which("ssh-keygen")} "$@" -f "{known}"\n')
    fake.chmod(0o755)
    known.write_text(f"host.example {Path(f'{host.key}.pub').read_text()}@revoked * ssh-ed25519 AAAA\n")
    path = f"{programs}:{vault.env['PATH']}"
    done = vault("key", "generate", "ed25519", "ops/HOST", "--server", "host.example", PATH=path)
    assert f"host.example has the key {host.server().partition('=')[2]} (ssh-ed25519) in known_hosts" in done.stderr
    host.allowed.write_text(done.stdout)
    revoked = Path(f"{host.key}.pub").read_text()
    known.write_text(f"host.example {revoked}@revoked * {revoked}")
    refused = vault("key", "generate", "ed25519", "ops/OTHER", "--server", "host.example", PATH=path, code=2)
    assert "no key of host.example in known_hosts" in refused.stderr
    known.write_text("host.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ+V1k0bxqUjHqUsVdVd3sDSbgrG7n5jYF3Xp6Zt8qYh\n")
    assert "it is in" in with_agent(vault, *host.ssh(), "127.0.0.1", "echo it is in")


def test_of_nine_keys_the_one_that_fits_is_offered(vault: Machine, host: Host) -> None:
    """A server ends the connection after six."""
    for number in range(8):
        make(vault, f"ops/KEY{number}", "--server", f"elsewhere=SHA256:{'A' * 42}{number}")
    host.allowed.write_text(make(vault, "ops/LAST", "--server", host.server()) + "\n")
    assert with_agent(vault, *host.ssh(), "127.0.0.1", "echo", "in") == "in\n"


def test_git_pushes_and_fetches(vault: Machine, host: Host) -> None:
    host.allowed.write_text(make(vault, "ops/HERE", "--server", host.server(), kind="rsa") + "\n")
    url = f"ssh://127.0.0.1:{host.port}{vault.top}/remote.git"
    command = " ".join(host.ssh())
    with_agent(vault, "git", "init", "-q", "--bare", "remote.git")
    with_agent(vault, "git", "init", "-q", "work")
    git = ["git", "-C", "work", "-c", "user.name=n", "-c", "user.email=a@b"]
    with_agent(vault, *git, "commit", "-q", "--allow-empty", "-m", "x")
    with_agent(vault, *git, "push", "-q", url, "HEAD:main", GIT_SSH_COMMAND=command)
    with_agent(vault, "git", "clone", "-q", "-b", "main", url, "copy", GIT_SSH_COMMAND=command)
    lines = vault("log").stdout
    assert "says: git push" in lines and "says: git fetch" in lines


@pytest.mark.parametrize("program", ["scp", "sftp", "rsync"])
def test_files_are_copied(vault: Machine, host: Host, program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"no {program} here")
    host.allowed.write_text(make(vault, "ops/HOST", "--server", host.server()) + "\n")
    (vault.top / "file").write_text("what is copied")
    options, there = [*host.ssh()[1:3], *host.ssh()[5:]], vault.top / "copy"
    words = {
        "scp": ["scp", *options, "-P", str(host.port), "file", f"127.0.0.1:{there}"],
        "sftp": ["sftp", *options, "-P", str(host.port), "-b", "-", "127.0.0.1"],
        "rsync": ["rsync", "-e", " ".join(host.ssh()), "file", f"127.0.0.1:{there}"],
    }
    with_agent(vault, *words[program], input=f"put file {there}\n")
    assert there.read_text() == "what is copied"


PARAMIKO = """
import os, paramiko, sys
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", int(sys.argv[1]), look_for_keys=False, timeout=30)
print(client.exec_command("echo it is in")[1].read().decode())
client.close()
"""
ASYNCSSH = """
import asyncio, asyncssh, sys
async def main():
    async with asyncssh.connect("127.0.0.1", int(sys.argv[1]), known_hosts=None, config=None) as there:
        print((await there.run("echo it is in")).stdout)
asyncio.run(main())
"""


@pytest.mark.parametrize(("package", "program"), [("paramiko", PARAMIKO), ("asyncssh", ASYNCSSH)])
def test_clients_that_have_no_server_prove_itself(vault: Machine, host: Host, package: str, program: str) -> None:
    """Only a key that may sign in unproven signs for them."""
    pytest.importorskip(package)
    public = make(vault, "ops/PROVEN", "--server", host.server())
    host.allowed.write_text(public + "\n")
    client = [sys.executable, "-c", program, str(host.port)]
    assert "it is in" not in with_agent(vault, *client, code=1)
    host.allowed.write_text(make(vault, "ops/OLD", "--server", "unproven") + "\n")
    assert "it is in" in with_agent(vault, *client)
    assert "sign in to a server that is NOT PROVEN as" in vault("log").stdout


@pytest.mark.slow
def test_npms_ssh2_has_no_server_prove_itself(vault: Machine, host: Host) -> None:
    """As paramiko and asyncssh: only a key that may sign in unproven signs for it."""
    script = peers.node_modules("ssh").parent / "login.mjs"
    client = [*map(str, peers.node()), str(script), str(host.port), host.top.owner()]
    host.allowed.write_text(make(vault, "ops/PROVEN", "--server", host.server()) + "\n")
    assert "refused: " in with_agent(vault, *client, code=1)
    host.allowed.write_text(make(vault, "ops/OLD", "--server", "unproven") + "\n")
    assert with_agent(vault, *client) == "it is in\n"


@pytest.mark.slow
def test_through_another_host(vault: Machine, host: Host) -> None:
    """By ProxyCommand the second server is proven as the first is; by a forwarded agent it signs only where the guard says so."""
    inner = Host(host.top / "inner")
    try:
        where = " ".join(inner.ssh())
        hop = [*host.ssh(), "-o", f"ProxyCommand={where} -W 127.0.0.1:{host.port} 127.0.0.1", "127.0.0.1", "echo it is in"]
        key = make(vault, "ops/ONE", "--server", host.server(), "--server", inner.server().replace("host.", "inner."))
        for each in (host, inner):
            each.allowed.write_text(key + "\n")
        assert with_agent(vault, *hop) == "it is in\n"
        log = vault("log").stdout
        assert "sign in to host.example as" in log and "sign in to inner.example as" in log
        onward = f"SSH_ASKPASS=false {where} 127.0.0.1 echo it is in"
        forwarded = [*host.ssh(), "-A", "127.0.0.1", onward]
        assert "it is in" not in with_agent(vault, *forwarded, code=255)
        assert "no identities" in with_agent(vault, *host.ssh(), "-A", "127.0.0.1", "ssh-add -L", code=1), "it lists none there"
        key = make(vault, "ops/TWO", "--server", host.server(), "--server", inner.server(), "--server", "forwarded")
        for each in (host, inner):
            each.allowed.write_text(key + "\n")
        assert with_agent(vault, *forwarded) == "it is in\n"
    finally:
        inner.close()


@linux
@pytest.mark.root
@pytest.mark.slow
def test_memory_of_what_signs(vault: Machine) -> None:
    """Supervisor and front end never have a key that signs; the two processes that do are the control."""
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key, memory = ed25519.Ed25519PrivateKey.generate(), Memory()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    memory.want("key (bytes)", key.private_bytes_raw())
    memory.want("key (text)", text.splitlines()[3])
    file = vault.top / "id"
    file.write_text(text)
    vault("key", "import", str(file), "ops/KNOWN", "--namespace", "file")
    path = vault("ssh", "--print-env").stdout.split("'")[1]
    public = vault.top / "id.pub"
    public.write_text(vault("list", "--json").json["groups"][0]["keys"][0]["signs"]["public"])
    words = ("ssh-keygen", "-q", "-Y", "sign", "-U", "-n", "file", "-f", str(public), str(file))
    subprocess.run(words, env={**vault.env, "SSH_AUTH_SOCK": path}, check=True, capture_output=True, timeout=60)

    status = vault.status()
    names = name_children(status["pid"])
    assert memory.found(status["pid"]) == set()
    assert memory.found(names["avault-ssh"]) == set()
    assert "key (text)" in memory.found(status["keyholder_pid"])
    assert "key (bytes)" in memory.found(names["avault-signing"])
    vault("lock", "--force")
    wait_until(lambda: not Path(f"/proc/{names['avault-signing']}").exists(), what="what signs has ended with the lock")
    assert memory.found(names["avault-ssh"]) == memory.found(status["pid"]) == set()


def test_it_outlives_the_lock_and_ends_with_the_daemon(vault: Machine) -> None:
    make(vault, "ops/KEY", "--namespace", "file")
    path = Path(vault("ssh", "--print-env").stdout.split("'")[1])
    assert "ops/KEY" in with_agent(vault, "ssh-add", "-L")
    vault("lock", "--force")
    assert "no identities" in with_agent(vault, "ssh-add", "-L", code=1)
    vault("daemon", "start", "-b", NOSTR_NSEC=NSEC)
    vault("unlock", NOSTR_NSEC=NSEC, code=None)
    vault("daemon", "stop", "--force")
    wait_until(lambda: not path.exists(), what="the agent's socket is gone")


@linux
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGCONT])
def test_what_signs_is_gone_when_it_is_locked(vault: Machine, how: int) -> None:
    """Also one that is stopped, and reads no end of anything."""
    make(vault, "ops/KEY", "--namespace", "file")
    names = name_children(vault.status()["pid"])
    os.kill(names["avault-signing"], how)
    vault("lock", "--force")
    assert not Path(f"/proc/{names['avault-signing']}").exists()


def test_where_others_could_put_a_socket_there_is_no_agent(vault: Machine) -> None:
    place = Path(vault("ssh", "--print-env").stdout.split("'")[1]).parent
    place.chmod(0o777)
    try:
        assert "others can write to" in vault("ssh", "--print-env", code=5).stderr
    finally:
        place.chmod(0o700)


def test_a_command_gets_the_agent_and_its_exit_code_counts(vault: Machine) -> None:
    make(vault, "ops/KEY", "--namespace", "file")
    done = vault("ssh", "--", "sh", "-c", "ssh-add -L; exit 7", code=7)
    assert "ops/KEY" in done.stdout
    assert vault("ssh", "--", "/nowhere", code=127).stderr
    assert "no command is named" in vault("ssh", code=2).stderr


def test_another_in_the_sockets_place_is_noticed(vault: Machine) -> None:
    """Who kills the front end, or takes its socket away, has it started anew by the next who asks."""
    make(vault, "ops/KEY", "--namespace", "file")
    path = Path(vault("ssh", "--print-env").stdout.split("'")[1])
    path.unlink()
    assert "ops/KEY" in with_agent(vault, "ssh-add", "-L")


def test_hardened(vault: Machine) -> None:
    """The process that has keys is closed to others of the same user, and has no more than it needs."""
    make(vault, "ops/KEY", "--namespace", "file")
    mine = daemon_processes(vault, "avault-signing")
    assert mine and (os.getuid() == 0 or all(map(avault.is_hardened, mine)))
