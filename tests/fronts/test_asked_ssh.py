"""A key whose guard asks, with the real OpenSSH, a real server and a phone that is a signer of its own; and by a grant."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nostr_sdk
import peers
import pytest
from harness import AVAULT, Machine, children_of, wait_until
from peers import Relay, misdeeds
from test_asked_processes import HONEST_WAIT, openers
from test_guard_commands import Office
from test_processes import Memory, linux
from test_ssh import SSHD, Host

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")

HONEST = [{"honest": True}]
REFUSED = misdeeds.REFUSALS["amber, clave"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("ssh-add"), reason="no OpenSSH here"),
]


class Bureau(Office):
    """An open vault with a key of which the phone is asked, and a server that lets it in."""

    def __init__(self, machine: Machine, phone: peers.Rogue, keys: nostr_sdk.Keys, host: Host) -> None:
        super().__init__(machine, phone, keys)
        self.host = host

    def make(self, *words: str) -> str:
        named = ("--server", self.host.server(), "--namespace", "file")
        done = self.machine("key", "generate", "ed25519", "ops/KEY", *named, *(words or ("--ask",)))
        public = " ".join(done.stdout.split()[:2])
        self.host.allowed.write_text(f"{public}\n")
        return public

    def env(self, **variables: str) -> dict[str, str]:
        path = self.machine("ssh", "--print-env").stdout.split("'")[1]
        return {**self.machine.env, "SSH_AUTH_SOCK": path, **variables}

    def log_in(self, env: dict[str, str]) -> subprocess.Popen[str]:
        words = [*self.host.ssh(), "127.0.0.1", "echo in"]
        return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def bureau(machine: Machine, relay: Relay, tmp_path: Path) -> Iterator[Bureau]:
    if not SSHD:
        pytest.skip("no sshd here")
    keys, host = nostr_sdk.Keys.generate(), Host(tmp_path / "host")
    try:
        with peers.rogue([relay.url], nsec=keys.secret_key().to_bech32()) as phone:
            yield Bureau(machine, phone, keys, host)
    finally:
        host.close()


def test_logins_with_the_phone(bureau: Bureau) -> None:
    machine, phone = bureau.machine, bureau.phone
    bureau.make()
    env = bureau.env()
    assert "ops/KEY" in subprocess.check_output(["ssh-add", "-L"], env=env, text=True), "what is sealed is listed"
    asked = len(bureau.sentences())
    phone.behave("nip44_decrypt", HONEST_WAIT)
    running = [bureau.log_in(env) for _ in range(20)]
    log = bureau.host.top / "log"
    wait_until(lambda: len(bureau.sentences()) == asked + 1)
    wait_until(lambda: len(machine.status()["questions"]) == 1)
    [question] = machine.status()["questions"]
    assert question["names"] == ["ops/KEY"]
    wait_until(lambda: log.read_text().count("Postponed publickey") == 20, 60)
    phone.behave("nip44_decrypt", HONEST)
    phone.go()
    assert [each.communicate(timeout=60) for each in running] == [("in\n", "")] * 20
    count = (len(bureau.sentences()) - asked) // 2
    assert count <= 2, "who came while the phone had the question shares its answer"
    said = bureau.sentences()[asked]
    assert (
        said.startswith("avault: sign in to host.example as ") and " with ops/KEY; python" in said and "question 1 of 2" in said
    )
    assert machine("log").stdout.count("sign in to host.example as ") == 20
    wait_until(lambda: not openers(machine), what="with its uses it is gone")

    phone.behave("nip44_decrypt", REFUSED, requests=1)
    asked = len(bureau.sentences())
    assert bureau.log_in(env).communicate(timeout=60)[0] == ""
    assert "refused" in machine("ssh", "--why").stdout
    assert bureau.log_in(env).communicate(timeout=60)[0] == "" and len(bureau.sentences()) == asked + 1
    assert "is not asked again for" in machine("ssh", "--why").stdout.splitlines()[-1]


def test_a_time_is_for_this_server_and_ends_with_the_lock(bureau: Bureau) -> None:
    bureau.make("--ask", "5m")
    env, asked = bureau.env(), len(bureau.sentences())
    for _ in range(3):
        assert bureau.log_in(env).communicate(timeout=60) == ("in\n", "")
    assert len(bureau.sentences()) == asked + 2 and bureau.sentences()[asked].startswith("avault: now and for 5 min: sign in to ")
    signed = bureau.machine("sign", "ops/KEY", "--as", "ssh-sig", "--namespace", "file", input="a file")
    assert signed.stdout.startswith("-----BEGIN SSH SIGNATURE-----") and "asking the phone, code " in signed.stderr
    assert len(openers(bureau.machine)) == 2
    bureau.machine("lock")
    wait_until(lambda: not openers(bureau.machine), what="the lock ends them")


def test_by_a_grant_for_signing(bureau: Bureau) -> None:
    machine = bureau.machine
    public = bureau.make()
    other = machine("key", "generate", "ed25519", "ops/OTHER", "--namespace", "git").stdout.split()[1]
    machine("set", "free/KEY", input="what the grant has not")
    path = machine("grant", "web", "--only", "ops/KEY", "--can", "sign").stdout.strip()
    web = {"AVAULT_SOCKET": path}
    listed = machine("ssh", "--", "ssh-add", "-L", **web).stdout
    assert public in listed and other not in listed
    told = machine("ssh", "--", "sh", "-c", 'echo "$SSH_AUTH_SOCK"', **web).stdout.strip()
    wait_until(lambda: not Path(told).parent.exists(), what="the agent ends with its command")
    done = machine("ssh", "--", *bureau.host.ssh(), "127.0.0.1", "echo in", **web)
    assert done.stdout == "in\n"
    assert " by the grant web (pid " in bureau.sentences()[-2]
    assert "avault ssh -- CMD" in machine("ssh", "--print-env", code=2, **web).stderr
    assert "of who made the grant" in machine("ssh", "--why", code=2, **web).stderr
    assert machine("get", "ops/KEY", code=5, **web).stderr and machine("get", "free/KEY", code=None, **web).returncode != 0
    machine("revoke", "web")
    assert machine("ssh", "--", "ssh-add", "-L", code=None, **web).returncode != 0


def test_a_grant_that_asks_with_a_real_signer(bureau: Bureau) -> None:
    machine, phone = bureau.machine, bureau.phone
    machine("set", "free/KEY", input="for whom it is granted")
    path = machine("grant", "web", "--only", "free/KEY", "--ask").stdout.strip()
    asked = len(bureau.sentences())
    phone.behave("nip44_decrypt", REFUSED, requests=1)
    assert machine("get", "free/KEY", code=5, AVAULT_SOCKET=path).stdout == ""
    assert "wants to begin using the grant web of test@machine, for free/KEY" in bureau.sentences()[asked]
    assert machine("get", "free/KEY", code=None, AVAULT_SOCKET=path).returncode != 0, "what is refused has ended"
    assert len(bureau.sentences()) == asked + 1
    assert "no grants" in machine("grants").stderr + machine("grants").stdout


def test_a_grant_that_asks_and_is_agreed_to(bureau: Bureau) -> None:
    machine = bureau.machine
    machine("set", "free/KEY", input="for whom it is granted")
    path = machine("grant", "web", "--only", "free/KEY", "--ask").stdout.strip()
    asked = len(bureau.sentences())
    for _ in range(3):
        assert machine("get", "free/KEY", AVAULT_SOCKET=path).stdout == "for whom it is granted\n"
    assert len(bureau.sentences()) == asked + 1, "once, before the first use"


@linux
@pytest.mark.root
def test_memory_of_a_key_that_asks(machine: Machine, relay: Relay) -> None:
    """Until the phone has agreed it is in no process; then in the one that signs, until that ends."""
    operator, memory = nostr_sdk.Keys.generate(), Memory()
    with peers.rogue([relay.url], nsec=operator.secret_key().to_bech32()) as phone:
        look_into_memory(Office(machine, phone, operator), memory)


def look_into_memory(office: Office, memory: Memory) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    machine, phone = office.machine, office.phone
    key = ed25519.Ed25519PrivateKey.generate()
    raw = serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    form = serialization.PrivateFormat.OpenSSH
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    memory.want("raw", key.private_bytes(*raw))
    memory.want("line", text.splitlines()[3])
    machine("key", "import", "-", "ops/KEY", "--namespace", "file", "--ask", "15m", input=text)
    machine("lock")  # the keyholder has had it, as it was imported
    machine("unlock")
    machine("ssh", "--print-env")  # so that the front end is there

    def held() -> dict[str, set[str]]:
        status = machine.wait_state("unlocked")
        pids = {"supervisor": status["pid"], "keyholder": status["keyholder_pid"]}
        for pid in children_of(status["pid"]):
            with contextlib.suppress(OSError):  # it has ended
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                pids |= {f"{name} {pid}": pid} if name.startswith("avault-") else {}
        return {name.split()[0]: memory.found(pid) for name, pid in pids.items()}

    assert not any(held().values()) and {"avault-ssh", "keyholder"} <= {*held()}
    phone.behave("nip44_decrypt", HONEST_WAIT)
    asked = len({*office.sentences()})
    words = [AVAULT, "sign", "ops/KEY", "--as", "ssh-sig", "--namespace", "file"]
    pipe = subprocess.PIPE
    running = subprocess.Popen(words, env=machine.env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    assert running.stdin
    running.stdin.write(b"a file")
    running.stdin.close()
    wait_until(lambda: len({*office.sentences()}) == asked + 1)
    assert "avault-opener" in held() and not any(held().values()), "the first question is out"
    phone.go()
    phone.behave("nip44_decrypt", HONEST_WAIT)  # for the second, however long it takes to look through all
    wait_until(lambda: len({*office.sentences()}) == asked + 2)
    assert "avault-opener" in held() and not any(held().values()), "the second question is out"
    phone.go()
    assert running.stdout and running.stdout.read().startswith(b"-----BEGIN SSH SIGNATURE")
    running.wait(60)
    there = held()
    assert there.pop("avault-opener") and not any(there.values()), "the process that signs has it, as a control"
    for pid in openers(machine):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not openers(machine))
    assert not any(held().values()), "with that process it is gone"
