"""The keychain, against a real gnome-keyring on a bus of its own; what is built on it; and what `forget` leaves.

The prompts of these sessions have no screen, so gnome-keyring dismisses them at once. One that a person leaves
unanswered is made by taking the prompter's name on the bus, and saying nothing.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import jeepney
import nostr_sdk
import peers
import pytest
import secretstorage
from canary import Canary, record
from errands import send_errand
from harness import SOURCE, Machine, files_with, wait_until
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from peers import Relay, Rogue, misdeeds

import avault

KEYCHAIN_TIME = avault.Helper.TIME

MISSING = [name for name in ("dbus-run-session", "gnome-keyring-daemon") if not shutil.which(name)]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="gnome-keyring is Linux's"),
    pytest.mark.skipif(bool(MISSING), reason=f"no {' and no '.join(MISSING)}"),
]

ACCOUNT = "avault1-AAAAAAAAAAAAAAAA:keychain"
LABEL = "avault: unlock key of test@machine (/home/test/clawd/.avault)"
ATTRIBUTES = {"service": "avault", "username": ACCOUNT}
PASSWORD = "of the login"
LOCKED = "the keychain is locked, and its prompt was dismissed or has no screen"
UNANSWERED = "the keychain did not answer in {} s"
NOT_INSTALLED = "the package keyring is not installed; {} -m pip install 'keyring>=25,<26'"
FAILED = "the keychain failed: org.freedesktop.DBus.Error.Failed"
NO_BUS = "no session bus answers (DBUS_SESSION_BUS_ADDRESS)"
NO_SERVICE = "nothing on the session bus keeps secrets: no gnome-keyring, KWallet or KeePassXC"
BUS_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:dir={directory}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{directory}</servicedir>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Desktop:
    """A login session of `place`: a session bus, and in it a gnome-keyring, opened by a password or not.

    Ended and begun again, it is the same home after a reboot. With `services`, a directory, the bus knows the services
    that are described there, and no others.
    """

    def __init__(self, top: Path, services: Path | None = None) -> None:
        self.env = {**os.environ, "HOME": str(top / "home"), "XDG_RUNTIME_DIR": str(top / "run")}
        self.keyrings = top / "home" / ".local" / "share" / "keyrings"
        self.config: list[str] = []
        if services:
            (services / "bus.conf").write_text(BUS_CONFIG.format(directory=services))
            self.config = ["--config-file", str(services / "bus.conf")]

    def __enter__(self) -> Self:
        words = ["dbus-run-session", *self.config, "--", "sh", "-c", 'echo "$DBUS_SESSION_BUS_ADDRESS"; exec cat']
        self.session = subprocess.Popen(
            words, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.session.stdin and self.session.stdout
        self.address = self.session.stdout.readline().strip()
        self.env["DBUS_SESSION_BUS_ADDRESS"] = self.address
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, jeepney.DBusErrorResponse):
            os.kill(self.keyring(), signal.SIGCONT)
        self.session.communicate()

    def login(self, password: str = PASSWORD) -> None:
        """A login with a password: gnome-keyring starts, and opens the login collection or makes it."""
        words = ["gnome-keyring-daemon", "--unlock", "--components=secrets"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(words, check=True, env=self.env, input=password.encode(), timeout=60, **quiet)
        with self.bus() as bus:
            wait_until(lambda: call(bus, message_bus.NameHasOwner("org.freedesktop.secrets")) == 1)

    def login_later(self) -> None:
        """The same where gnome-keyring runs already: what pam_gnome_keyring then says to it (gkd-control-server.c)."""
        password = PASSWORD.encode()
        unlock = 1  # GKD_CONTROL_OP_UNLOCK
        words = b"".join(number.to_bytes(4, "big") for number in (12 + len(password), unlock, len(password)))
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(self.env["XDG_RUNTIME_DIR"] + "/keyring/control")
            control.sendall(b"\0" + words + password)
            assert control.recv(8) == bytes([0, 0, 0, 8, 0, 0, 0, 0]), "GKD_CONTROL_RESULT_OK"

    def bus(self) -> DBusConnection:
        return open_dbus_connection(self.address)

    def keyring(self) -> int:
        """gnome-keyring's process."""
        with self.bus() as bus:
            return int(call(bus, message_bus.GetConnectionUnixProcessID("org.freedesktop.secrets")))

    def lock(self) -> None:
        with self.bus() as bus:
            secretstorage.Collection(bus).lock()

    def entries(self) -> list[tuple[str, dict[str, str], str]]:
        """Label, attributes and secret of all that the session's open collections keep."""
        with self.bus() as bus:
            items = [item for each in secretstorage.get_all_collections(bus) for item in each.get_all_items()]
            return [(item.get_label(), ours(item.get_attributes()), item.get_secret().decode()) for item in items]

    def ask(self, action: str, secret: str = "", limit: float = 30.0) -> dict[str, Any]:
        return ask(action, secret, limit, DBUS_SESSION_BUS_ADDRESS=self.address)


def ours(attributes: dict[str, str]) -> dict[str, str]:
    """Without the one that gnome-keyring adds, sooner or later."""
    return {name: value for name, value in attributes.items() if name != "xdg:schema"}


def call(bus: DBusConnection, message: jeepney.Message) -> Any:
    return jeepney.wrappers.unwrap_msg(bus.send_and_get_reply(message))[0]


def ask(action: str, secret: str = "", limit: float = 30.0, before: str = "", **env: str) -> dict[str, Any]:
    """What the helper answers, as the supervisor starts it; `before` is run in it first."""
    answer = send_errand(
        action, "keychain", secret=secret, limit=limit, before=before, env=env, account=ACCOUNT, label=LABEL, name="keychain"
    )
    assert answer.keys() == {"outcome", "value" if answer["outcome"] == "ok" else "detail"}
    if action != "get":
        record(f"keychain {action}", json.dumps(answer))
    return answer


def refusal(outcome: str, detail: str) -> dict[str, Any]:
    return {"outcome": outcome, "detail": detail}


OK = {"outcome": "ok", "value": None}
NOT_FOUND = refusal("not_found", "the keychain has no entry for this vault")


@pytest.fixture
def desktop(place) -> Iterator[Desktop]:
    """A session whose keychain is open."""
    with Desktop(place.top) as desktop:
        desktop.login()
        yield desktop


# What references/keychain.md says


def test_the_document_says_what_the_keychain_says() -> None:
    """Each message, in the row of its outcome."""
    text = (SOURCE.parent / "references" / "keychain.md").read_text()
    for outcome, said in (
        ("not_found", NOT_FOUND["detail"]),
        ("denied", LOCKED),
        ("denied", UNANSWERED.format(f"{KEYCHAIN_TIME:g}")),
        ("unavailable", NO_BUS),
        ("unavailable", NO_SERVICE),
        ("unavailable", NOT_INSTALLED.format("python3")),
        ("error", FAILED),
    ):
        assert re.search(rf'^\| `{outcome}` \|[^|]+\| "{re.escape(said)}" \|$', text, re.MULTILINE), said


# The entry


def test_a_look_shows_neither_the_value_nor_a_prompt(desktop: Desktop, canary: Canary) -> None:
    assert desktop.ask("probe") == NOT_FOUND
    assert desktop.ask("set", canary.value) == OK
    assert desktop.ask("probe") == {"outcome": "ok", "value": "it is there"}
    desktop.lock()
    with desktop.bus() as person:
        assert call(person, message_bus.RequestName("org.gnome.keyring.SystemPrompter")) == 1
        assert desktop.ask("probe") == refusal("denied", LOCKED), "at once: the prompt would stay unanswered"


def test_an_entry_is_kept_found_replaced_and_deleted(desktop: Desktop, canary: Canary) -> None:
    assert desktop.ask("set", canary.value) == OK
    assert desktop.ask("get") == {"outcome": "ok", "value": canary.value}
    assert desktop.ask("set", canary.odd) == OK
    assert desktop.entries() == [(LABEL, ATTRIBUTES, canary.odd)], "replaced, with a label for people"
    assert desktop.ask("get") == {"outcome": "ok", "value": canary.odd}
    assert desktop.ask("delete") == OK
    assert desktop.entries() == []


def test_other_programs_find_it(desktop: Desktop, canary: Canary) -> None:
    """The commands of references/keychain.md; and the entry is deleted as that says."""
    assert desktop.ask("set", canary.value) == OK
    for words in (
        ["secret-tool", "lookup", "service", "avault", "username", ACCOUNT],
        [sys.executable, "-m", "keyring", "get", "avault", ACCOUNT],
    ):
        done = subprocess.run(words, env=desktop.env, capture_output=True, text=True)
        assert done.stdout.removesuffix("\n") == canary.value, done.stderr
    shown = subprocess.run(
        ["secret-tool", "search", "--all", "service", "avault"], env=desktop.env, capture_output=True, text=True
    )
    assert f"label = {LABEL}\n" in shown.stdout
    subprocess.run(["secret-tool", "clear", "service", "avault", "username", ACCOUNT], env=desktop.env, check=True)
    assert desktop.ask("get") == NOT_FOUND


def test_it_survives_a_reboot(place, canary: Canary) -> None:
    with Desktop(place.top) as desktop:
        desktop.login()
        assert desktop.ask("set", canary.value) == OK
    with Desktop(place.top) as desktop:
        desktop.login()
        assert desktop.ask("get") == {"outcome": "ok", "value": canary.value}


def test_in_a_keyring_without_a_password_it_lies_in_clear(place, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """What references/keychain.md warns of; such a keyring is made by leaving the password empty, as for an automatic login."""
    with Desktop(place.top) as desktop:
        desktop.keyrings.mkdir(parents=True)
        file = allow(desktop.keyrings / "Default.keyring")
        file.write_text("[keyring]\ndisplay-name=Default\nlock-on-idle=false\nlock-after=false\n")
        (desktop.keyrings / "default").write_text("Default")
        assert desktop.ask("set", canary.value) == OK
        assert f"secret={canary.value}\n" in file.read_text()


# not_found


def test_not_found(desktop: Desktop) -> None:
    assert desktop.ask("get") == NOT_FOUND
    assert desktop.ask("delete") == NOT_FOUND


def test_not_found_is_not_somebody_elses(desktop: Desktop) -> None:
    with desktop.bus() as bus:
        collection = secretstorage.Collection(bus)
        collection.create_item("of another vault", {**ATTRIBUTES, "username": "avault1-BBBBBBBBBBBBBBBB:keychain"}, b"theirs")
        collection.create_item("of another program", {**ATTRIBUTES, "service": "not-avault"}, b"theirs")
    assert desktop.ask("get") == NOT_FOUND
    assert desktop.ask("delete") == NOT_FOUND
    assert len(desktop.entries()) == 2


def test_no_collection_is_made_for_looking(place, canary: Canary) -> None:
    """A session whose gnome-keyring was never opened, as after a login without a password: over SSH, by a key."""
    with Desktop(place.top) as desktop:
        assert desktop.ask("get") == NOT_FOUND
        assert desktop.ask("delete") == NOT_FOUND
        assert desktop.ask("set", canary.value) == refusal("denied", LOCKED), "making one needs a password"


def test_asked_before_the_login_it_opens_with_it(place, canary: Canary) -> None:
    """A service that lingers asks at boot, which makes the bus start a gnome-keyring; the login then opens that one."""
    with Desktop(place.top) as desktop:
        desktop.login()
        assert desktop.ask("set", canary.value) == OK
    with Desktop(place.top) as desktop:
        assert desktop.ask("get") == refusal("denied", LOCKED)
        desktop.login_later()
        assert desktop.ask("get") == {"outcome": "ok", "value": canary.value}


# denied


def test_denied_when_locked(place, canary: Canary) -> None:
    with Desktop(place.top) as desktop:
        desktop.login()
        assert desktop.ask("set", canary.value) == OK
        desktop.lock()
        assert desktop.ask("get") == refusal("denied", LOCKED)
        assert desktop.ask("set", canary.new("second")) == refusal("denied", LOCKED)
        assert desktop.ask("delete") == refusal("denied", LOCKED)
    with Desktop(place.top) as desktop:
        desktop.login("not that of the login")
        assert desktop.ask("get") == refusal("denied", LOCKED)
    with Desktop(place.top) as desktop:
        desktop.login()
        assert desktop.ask("get") == {"outcome": "ok", "value": canary.value}, "as it was"


def test_denied_when_locked_also_for_what_is_not_there(desktop: Desktop) -> None:
    """Not every keychain tells what a locked collection holds, so nothing is concluded from one."""
    desktop.lock()
    assert desktop.ask("get") == refusal("denied", LOCKED)


def test_denied_when_the_prompt_is_not_answered(desktop: Desktop, canary: Canary) -> None:
    assert desktop.ask("set", canary.value) == OK
    desktop.lock()
    with desktop.bus() as person:
        assert call(person, message_bus.RequestName("org.gnome.keyring.SystemPrompter")) == 1
        assert desktop.ask("get", limit=10) == refusal("denied", UNANSWERED.format(10))  # long enough to be asked
        asked = person.receive(timeout=60)
        while asked.header.fields.get(jeepney.HeaderFields.member) != "BeginPrompting":
            asked = person.receive(timeout=60)


def test_denied_when_the_keychain_hangs(desktop: Desktop) -> None:
    os.kill(desktop.keyring(), signal.SIGSTOP)
    assert desktop.ask("get", limit=0.5) == refusal("denied", UNANSWERED.format(0.5))


# unavailable


@pytest.mark.parametrize(
    "address",
    [
        *("", "garbage", "unix:", "autolaunch:", "unixexec:path=touch,argv1={top}/started", "tcp:host=localhost,port=1"),
        *("unix:path={top}/nothing", "unix:path={top}/closed", "unix:path={top}/deaf"),
    ],
)
def test_unavailable_without_a_bus(address: str, place) -> None:
    """And none is started, which libdbus would do for some of these."""
    with socket.socket(socket.AF_UNIX) as closed, socket.socket(socket.AF_UNIX) as deaf:
        closed.bind(str(place.top / "closed"))
        deaf.bind(str(place.top / "deaf"))
        deaf.listen()
        assert ask("get", DBUS_SESSION_BUS_ADDRESS=address.format(top=place.top)) == refusal("unavailable", NO_BUS)
    assert not (place.top / "started").exists()
    assert not list(place.home.iterdir()), "libdbus notes in ~/.dbus what it has launched"


def test_unavailable_without_the_variable() -> None:
    assert "DBUS_SESSION_BUS_ADDRESS" not in os.environ
    for action, secret in (("get", ""), ("set", "not kept"), ("delete", "")):
        assert ask(action, secret) == refusal("unavailable", NO_BUS)


def test_unavailable_without_the_service(place) -> None:
    with Desktop(place.top, services=place.tmp) as desktop:
        for action, secret in (("get", ""), ("set", "not kept"), ("delete", "")):
            assert desktop.ask(action, secret) == refusal("unavailable", NO_SERVICE)


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent"])
def test_unavailable_when_the_service_cannot_be_started(program: str, place) -> None:
    service = f"[D-BUS Service]\nName=org.freedesktop.secrets\nExec={program}\n"
    (place.tmp / "org.freedesktop.secrets.service").write_text(service)
    with Desktop(place.top, services=place.tmp) as desktop:
        assert desktop.ask("get") == refusal("unavailable", "the keychain of this session does not run")


def test_unavailable_where_it_is_not_installed(desktop: Desktop) -> None:
    answer = ask("get", before="import sys; sys.modules['secretstorage'] = None; ", DBUS_SESSION_BUS_ADDRESS=desktop.address)
    assert answer == refusal("unavailable", NOT_INSTALLED.format(sys.executable))


# error


def test_error(desktop: Desktop, canary: Canary) -> None:
    """gnome-keyring cannot write its file. It looks for others when the directory has another time, in seconds."""
    assert desktop.ask("get") == NOT_FOUND
    seen = desktop.keyrings.stat().st_mtime_ns
    shutil.rmtree(desktop.keyrings)
    desktop.keyrings.touch()
    os.utime(desktop.keyrings, ns=(seen, seen))
    answer = desktop.ask("set", canary.value)
    assert answer == refusal("error", FAILED)


@pytest.mark.parametrize("words", [["get"], ["get", "keychain", "more"], ["burn", "keychain"], ["get", "nothing"]])
def test_error_for_what_makes_no_sense(words: list[str], desktop: Desktop, canary: Canary) -> None:
    """Too little, too much, what is not known: an answer all the same, and nothing done."""
    assert desktop.ask("set", canary.value) == OK
    request = {"name": "keychain", "settings": {}, "bound": "", "account": ACCOUNT, "label": LABEL, "limit": 9}
    data = json.dumps(request).encode()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(len(data).to_bytes(4, "big") + data)
        done = subprocess.run(
            avault.own_command("custodian", *words), env=desktop.env, stdin=theirs, capture_output=True, timeout=60
        )
    assert (json.loads(done.stdout)["outcome"], done.stderr) in (("error", b""), ("usage", b""))
    assert [value for _, _, value in desktop.entries()] == [canary.value]


def test_error_where_nothing_comes_to_be_kept(desktop: Desktop, canary: Canary) -> None:
    assert desktop.ask("set", canary.value) == OK
    assert desktop.ask("set", "")["outcome"] == "error"
    assert [value for _, _, value in desktop.entries()] == [canary.value]


# No other backend


TRAPS = {
    "variable": {"PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring"},
    "null": {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"},
    "configuration": {},
}


def set_trap(name: str, place) -> tuple[dict[str, str], Path]:
    """Configure the package keyring to keep secrets in a file, or nowhere; the file."""
    data = place.home / "data"
    env = {"XDG_CONFIG_HOME": str(place.home / "config"), "XDG_DATA_HOME": str(data), **TRAPS[name]}
    if name == "configuration":
        config = place.home / "config" / "python_keyring"
        config.mkdir(parents=True)
        (config / "keyringrc.cfg").write_text("[backend]\ndefault-keyring=keyrings.alt.file.PlaintextKeyring\n")
    return env, data / "python_keyring" / "keyring_pass.cfg"


@pytest.mark.parametrize("name", TRAPS)
def test_the_trap_works(name: str, place) -> None:
    """The control: with that configuration the package itself keeps a password in the file, or nowhere."""
    env, file = set_trap(name, place)
    program = "import keyring; keyring.set_password('avault', 'x', 'y'); print(keyring.get_password('avault', 'x'))"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **env}, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), file.exists()) == (("None", False) if name == "null" else ("y", True))


@pytest.mark.parametrize("name", TRAPS)
def test_no_other_backend(name: str, place, canary: Canary) -> None:
    env, file = set_trap(name, place)
    assert ask("set", canary.value, **env) == refusal("unavailable", NO_BUS), "and there is no file to fall back to"
    with Desktop(place.top) as desktop:
        desktop.login()
        env["DBUS_SESSION_BUS_ADDRESS"] = desktop.address
        assert ask("set", canary.value, **env) == OK
        assert ask("get", **env) == {"outcome": "ok", "value": canary.value}
        assert [value for _, _, value in desktop.entries()] == [canary.value]
    assert not file.exists()


# A vault that opens without the phone


class Owner:
    """A machine in a session, with a vault that the phone has opened; `asked()` is how often that was asked."""

    def __init__(self, machine: Machine, desktop: Desktop, phone: Rogue) -> None:
        self.machine, self.desktop, self.phone = machine, desktop, phone
        machine.env["DBUS_SESSION_BUS_ADDRESS"] = desktop.address
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)
        self.own = machine.own

    def asked(self) -> int:
        return len(self.phone.requests("nip44_decrypt"))

    def sealed(self) -> Path:
        return self.own / "custody-keychain.json"


@pytest.fixture
def phone(relay: Relay) -> Iterator[Rogue]:
    with peers.rogue([relay.url]) as phone:
        yield phone


@pytest.fixture
def owner(machine: Machine, desktop: Desktop, phone: Rogue) -> Owner:
    return Owner(machine, desktop, phone)


def test_a_pairing_that_somebody_else_has_written_enables_nothing(owner: Owner) -> None:
    places = avault.Places(str(owner.machine.vault))
    places.socket, places.state = owner.machine.status()["socket"], str(owner.own)  # and no status after that, which mends
    path, asked = owner.own / "pairing.json", owner.asked()
    kept = path.read_bytes()
    content = avault.decode_file("pairing", kept, str(path))
    evil = nostr_sdk.Keys.generate().public_key()
    for changes in ({"signer": evil.to_hex()}, {"operator": evil.to_bech32()}, {"relays": ["wss://evil.example"]}):
        path.write_bytes(avault.encode_file("pairing", {**content, **changes}))
        with pytest.raises(avault.Tampered, match=r"pairing\.json"):
            avault.ask_daemon(places, "custody", action="add", kind="keychain", name="keychain")
        assert owner.asked() == asked and not owner.desktop.entries() and not owner.sealed().exists()
        path.write_bytes(kept)


def test_what_the_phone_refuses_is_not_enabled(owner: Owner) -> None:
    """That it was asked for stands in the log."""
    owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    owner.machine("keychain", "enable", "--yes", code=5)
    assert not owner.sealed().exists() and not owner.desktop.entries()
    lines = [json.loads(line) for line in owner.machine("log", "--json").stdout.splitlines()]
    assert "custody" in [line["op"] for line in lines]


def test_enabled_a_reboot_needs_no_phone(owner: Owner, canary: Canary) -> None:
    machine = owner.machine
    machine("set", "openai/API_KEY", input=canary.value)
    done = machine("keychain", "enable", "--yes")
    assert "avault: enabled: the keychain opens this vault from now on" in done.stderr
    identity = machine.status()["vault_id"]
    [(label, attributes, secret)] = owner.desktop.entries()
    canary.watch(secret)
    assert label == f"avault: unlock key of test@machine ({machine.vault})"
    assert attributes == {"service": "avault", "username": f"{identity}:keychain"}
    assert machine("keychain", "status").stdout.splitlines() == [
        "Keychain: opens this vault without the phone",
        f"Entry: service avault, account {identity}:keychain; it is there",
    ]
    asked = owner.asked()
    for _ in range(2):
        machine("daemon", "stop")
        machine("daemon", "start", "-b")
        status = machine.wait_state("unlocked")
        assert status["custodians"] == ["keychain", "phone"]
        assert any("keychain" in text for text in status["warnings"]), "said at every unlock"
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert owner.asked() == asked, "nobody took the phone"
    machine("keychain", "disable")
    assert owner.desktop.entries() == []
    assert not owner.sealed().exists()
    assert machine.status()["custodians"] == ["phone"]
    machine("lock")
    machine("unlock")
    assert owner.asked() == asked + 1


def test_what_the_disk_has_opens_nothing_without_the_entry(owner: Owner, canary: Canary) -> None:
    """The sealed copy is for a key that only the keychain has; and it is not the phone's."""
    owner.machine("keychain", "enable", "--yes")
    [(_, _, secret)] = owner.desktop.entries()
    canary.watch(secret)
    assert not files_with(secret, owner.own, owner.machine.vault)
    assert owner.sealed().stat().st_mode & 0o777 == 0o600


def test_enable_says_what_it_means_and_asks(owner: Owner) -> None:
    done = owner.machine("keychain", "enable", code=5)
    assert "not confirmed" in done.stderr
    assert not owner.sealed().exists()
    assert owner.desktop.entries() == []


def test_enable_needs_an_open_vault(owner: Owner) -> None:
    owner.machine("lock")
    owner.machine("keychain", "enable", "--yes", code=3)
    owner.machine("daemon", "stop")
    owner.machine("keychain", "enable", "--yes", code=6)
    assert not owner.sealed().exists()
    assert owner.desktop.entries() == []


def test_enable_needs_a_proven_vault(machine: Machine, desktop: Desktop) -> None:
    machine.env["DBUS_SESSION_BUS_ADDRESS"] = desktop.address
    machine.init_unproven()
    done = machine("keychain", "enable", "--yes", code=5)
    assert "nobody has shown yet that the phone opens this vault" in done.stderr
    assert desktop.entries() == []


def test_enable_that_fails_changes_nothing(owner: Owner) -> None:
    owner.desktop.lock()
    done = owner.machine("keychain", "enable", "--yes", code=5)
    assert LOCKED in done.stderr
    assert not owner.sealed().exists()


def test_enable_that_fails_leaves_what_worked(owner: Owner) -> None:
    """Enabled once more, and the keychain takes nothing: the key before opens the vault as it did."""
    machine = owner.machine
    machine("keychain", "enable", "--yes")
    before = owner.sealed().read_bytes()
    owner.desktop.lock()
    assert LOCKED in machine("keychain", "enable", "--yes", code=5).stderr
    assert owner.sealed().read_bytes() == before
    owner.desktop.login_later()
    asked = owner.asked()
    machine("lock")
    machine("unlock")
    assert owner.asked() == asked


def test_status_says_what_the_keychain_says(owner: Owner) -> None:
    def status() -> tuple[bool, str, str | None]:
        fields = owner.machine("keychain", "status", "--json").json
        return fields["enabled"], fields["outcome"], fields["detail"]

    assert status() == (False, None, None)
    owner.machine("keychain", "enable", "--yes")
    assert status() == (True, "ok", None)
    owner.machine("lock")
    assert status() == (True, "ok", None)
    owner.desktop.lock()
    assert status() == (True, "denied", LOCKED)


def test_enable_where_there_is_no_keychain(machine: Machine, phone: Rogue) -> None:
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)
    done = machine("keychain", "enable", "--yes", code=6)
    assert NO_BUS in done.stderr
    assert len(phone.requests("nip44_decrypt")) == 1, "the phone was not asked for what cannot be"
    assert not (machine.own / "custody-keychain.json").exists()


def test_where_the_keychain_fails_the_phone_is_asked(owner: Owner) -> None:
    machine = owner.machine
    machine("keychain", "enable", "--yes")
    asked = owner.asked()
    owner.desktop.lock()
    machine("lock")
    machine("unlock")
    assert owner.asked() == asked + 1
    assert any(LOCKED in text for text in machine.status()["warnings"])
    assert owner.sealed().exists(), "next time perhaps"


def test_an_entry_that_opens_nothing(owner: Owner) -> None:
    """Somebody has put another key there: the phone is asked, and the reason is said."""
    machine = owner.machine
    machine("keychain", "enable", "--yes")
    asked = owner.asked()
    with owner.desktop.bus() as bus:
        [item] = secretstorage.Collection(bus).get_all_items()
        item.set_secret(b"00" * 31 + b"01")
    machine("lock")
    machine("unlock")
    assert owner.asked() == asked + 1
    assert any("keychain" in text for text in machine.status()["warnings"])


def test_disable_while_locked_and_without_a_daemon(owner: Owner) -> None:
    for words in (["lock"], ["daemon", "stop"]):
        owner.machine("unlock")
        owner.machine("keychain", "enable", "--yes")
        owner.machine(*words)
        owner.machine("keychain", "disable")
        assert not owner.sealed().exists()
        assert owner.desktop.entries() == []


def test_disable_when_the_keychain_is_locked(owner: Owner) -> None:
    """What it keeps opens nothing any more, and that it is still there is said."""
    owner.machine("keychain", "enable", "--yes")
    owner.desktop.lock()
    done = owner.machine("keychain", "disable", code=5)
    assert "the phone is asked from now on, but the keychain still has its entry" in done.stderr
    assert f"secret-tool clear service avault username {owner.own.name}:keychain" in done.stderr
    assert not owner.sealed().exists()


def test_status_without_a_daemon(owner: Owner) -> None:
    machine = owner.machine
    machine("daemon", "stop")
    account = f"{owner.own.name}:keychain"
    expected = {"ok": True, "enabled": False, "service": "avault", "account": account, "outcome": None, "detail": None}
    assert machine("keychain", "status", "--json").json == expected
    assert machine("keychain", "status").stdout.splitlines() == [
        "Keychain: off; the phone opens this vault",
        f"Entry: service avault, account {account}",
    ]


# The way of the unlock key

HELPERS = {  # what a helper may do with the socket that it is started with
    "hardened": "avault.harden('helper'); print(avault.introduce_helper(0).recv(99).decode())",
    "not hardened": "print(avault.introduce_helper(0).recv(99).decode())",
    "sent by another": "import os; pid = os.fork(); pid or avault.harden('other'); "
    "pid and os.wait() or not pid and print(avault.introduce_helper(0).recv(99).decode(), flush=True)",
    "a word only": "import os; avault.harden('helper'); os.write(0, b'hardened'); print(os.read(0, 99).decode())",
    "gone": "pass",
}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every process")
@pytest.mark.parametrize("name", HELPERS)
def test_a_key_is_given_to_a_hardened_helper_alone(name: str, canary: Canary) -> None:
    """By a socket that it made afterwards; and it is the kernel that says what it is, and who sends."""
    door, end = socket.socketpair()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with door, end:
        words = [sys.executable, "-c", f"import avault; {HELPERS[name]}"]
        helper = subprocess.Popen(words, stdin=end, stdout=subprocess.PIPE, text=True)
        end.close()

        async def give() -> None:
            with await avault.meet(door, helper.pid) as own:
                own.sendall(canary.value.encode())

        try:
            asyncio.run(give())
        except avault.Unavailable:
            assert name != "hardened"
        door.close()
        out = helper.communicate(timeout=60)[0]
    assert out.strip() == (canary.value if name == "hardened" else "")


# forget


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_forget_leaves_the_vault_and_nothing_else(owner: Owner, canary: Canary) -> None:
    machine = owner.machine
    machine("set", "openai/API_KEY", input=canary.value)
    machine("keychain", "enable", "--yes")
    agent, operator = (machine.status()[name] for name in ("agent_npub", "signer_npub"))
    entry = f"the keychain's entry avault, {owner.own.name}:keychain"
    vault = snapshot(machine.vault)
    done = machine("forget", "--yes")
    assert done.stdout.splitlines() == [f"removed: {entry}", f"removed: {owner.own}"]
    assert snapshot(machine.vault) == vault
    assert owner.desktop.entries() == []
    assert not list(machine.runtime.glob("avault*"))
    assert not list((machine.state / "avault").iterdir())
    assert machine.status()["state"] == "stopped"
    words = ("--agent", agent, "--signer-npub", operator, "--no-drill")
    machine("recover", *words, "--bunker", "-", input=owner.phone.uri)
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"


def test_forget_asks(machine: Machine) -> None:
    machine.init_unproven()
    own = machine.own
    machine("daemon", "stop", "--force")
    before = snapshot(own)
    assert "not confirmed" in machine("forget", code=5).stderr
    assert snapshot(own) == before


def test_forget_does_not_lose_a_key(machine: Machine) -> None:
    """An unproven vault's key is in its daemon alone."""
    machine.init_unproven()
    own = machine.own
    assert "nobody has shown yet" in machine("forget", "--yes", code=5).stderr
    assert machine.status()["state"] == "unlocked"
    assert own.is_dir()
    assert machine("forget", "--yes", "--force", "--json").json == {"ok": True, "removed": [str(own)], "left": []}
    assert not own.exists()


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_forget_keeps_the_only_way_in(damage: str, machine: Machine) -> None:
    machine.init_unproven()
    own = machine.own
    machine("daemon", "stop", "--force")
    if damage == "gone":
        (machine.vault / "nsec.enc").unlink()
    else:
        (machine.vault / "nsec.enc").write_bytes(b"{}")
    assert "may be the only way into the vault" in machine("forget", "--yes", code=5).stderr
    assert own.is_dir()
    machine("forget", "--yes", "--force")
    assert not own.exists()


def test_forget_twice(machine: Machine) -> None:
    machine.init_unproven()
    machine("forget", "--yes", "--force")
    assert "nothing of this vault was here" in machine("forget", "--yes").stderr
    assert machine("forget", "--yes", "--json").json == {"ok": True, "removed": [], "left": []}


def test_forget_clears_up_after_a_killed_daemon(machine: Machine) -> None:
    machine.init_unproven()
    own, status = machine.own, machine.status()
    os.kill(status["pid"], signal.SIGKILL)
    wait_until(lambda: machine.status()["state"] == "stopped")
    left = sorted(str(path) for path in machine.runtime.glob("avault*"))
    assert left == [str(machine.runtime / name) for name in ("avault.pid", "avault.sock")]
    done = machine("forget", "--yes", "--json").json
    assert sorted(done["removed"]) == sorted([*left, str(own)])
    assert not list(machine.runtime.glob("avault*"))


def test_forget_a_vault_that_is_gone(machine: Machine) -> None:
    machine.init_unproven()
    own = machine.own
    machine("daemon", "stop", "--force")
    shutil.rmtree(machine.vault)
    assert machine("forget", "--yes").stdout == f"removed: {own}\n"


def test_forget_leaves_other_vaults_alone(machine: Machine) -> None:
    """Also one that listens at the socket that this one would use."""
    machine.init_unproven()
    own = machine.own
    machine("daemon", "stop", "--force")
    with Machine(machine.top, vault=machine.top / "other") as other:
        usual = str(machine.runtime / "avault.sock")
        other.env["AVAULT_SOCKET"] = usual
        other.init_unproven()
        theirs, pid_file = other.own, other.runtime / "avault.pid"
        assert pid_file.exists()
        assert machine("forget", "--yes", "--json").json["removed"] == [str(own)]
        assert theirs.is_dir()
        assert pid_file.exists()
        assert other.status()["state"] == "unlocked"


def test_forget_a_daemon_that_is_elsewhere(machine: Machine) -> None:
    """One with another socket is not reached, but it holds the vault."""
    machine.init_unproven(AVAULT_SOCKET=str(machine.top / "other.sock"))
    own = next((machine.state / "avault").iterdir())
    (own / "socket").unlink()
    assert "another daemon holds the vault" in machine("forget", "--yes", code=6).stderr
    assert own.is_dir()
    machine("daemon", "stop", "--force", AVAULT_SOCKET=str(machine.top / "other.sock"))


def test_forget_says_what_it_leaves(machine: Machine) -> None:
    machine.init_unproven()
    git = ["git", "-C", str(machine.vault)]
    subprocess.run([*git, "init", "-q"], check=True, env=machine.env)
    subprocess.run([*git, "config", "merge.avault.driver", "avault git merge %A %O %B %P"], check=True, env=machine.env)
    unit = machine.home / ".config" / "systemd" / "user" / f"avault-{machine.own.name}.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    attributes = machine.vault / ".git" / "info" / "attributes"
    rest = f"then: git -C {machine.vault} config --remove-section merge.avault"
    assert machine("forget", "--yes", "--force", "--json").json["left"] == [
        {
            "what": f"git's merge driver, in the repository of {machine.vault}",
            "remove": f"take the lines with merge=avault out of {attributes}, {rest}",
        },
        {"what": f"the service {unit}", "remove": "avault service uninstall"},
    ]
