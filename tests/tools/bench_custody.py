"""How long each custodian takes to keep an unlock key and to give it back: the table of references/custody.md.

    python tests/tools/bench_custody.py [--rounds N] [--write]

The class of each kind is called in this very process, against the real part that its tests have, on this machine. The last
column is the whole errand, as the daemon sends it: a process that starts, gets the key, and ends. What a person
types is there at once. A kind whose real part is not here is named below the table; systemd-creds wants root.
--write puts the table between the marks in references/custody.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), *(str(path) for path in (REPOSITORY / "tests").iterdir() if path.is_dir())]

import canary  # noqa: E402
import documents  # noqa: E402
import nostr_sdk  # noqa: E402
from bench import changed_environment  # noqa: E402
from errands import SECRET, make_request, send_errand  # noqa: E402
from person import Person  # noqa: E402

import avault  # noqa: E402

DOCUMENT = "references/custody.md"
LONGEST = 10.0  # seconds for the rounds of one row
FEWEST = 5
# milliseconds that Agentic Wallet publishes for its backends
THEIRS = {"memory": (0, 1), "encrypted file": (5, 10), "KMS": (10, 20), "HSM": (10, 30), "MPC": (15, 40)}


class Missing(Exception):
    """The real part is not on this machine."""


def need(*names: str) -> None:
    """Raise Missing where a program, or else a package, is not there."""
    for name in names:
        if not shutil.which(name) and not importlib.util.find_spec(name.replace("-", "_")):
            raise Missing(f"no {name}")


def do_nothing() -> None:
    pass


def answer_nothing() -> str:
    return ""


@dataclass
class Part:
    """The real part of a custodian, ready for use.

    `told` are the settings that a person gives; `typed` gives what that person answers, and is called before each errand;
    `clear` is called before each secret that is to be kept; `before` is for the helper (see `send_errand`). `core` is what of
    it others time: its name, and what keeps and gives back alone, where that is not the whole.
    """

    told: dict[str, str]
    typed: Callable[[], str] = answer_nothing
    clear: Callable[[], object] = do_nothing
    before: str = ""
    core: tuple[str, Callable[[], object], Callable[[], object]] | None = None


# The real parts, each in a directory of its own, which is also HOME


def private(path: Path, text: str) -> Path:
    """A file that we alone may read."""
    path.write_text(text)
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def keychain(top: Path) -> Iterator[Part]:
    need("dbus-run-session", "gnome-keyring-daemon", "secretstorage")
    from test_keychain import Desktop

    for name in ("home", "run"):
        (top / name).mkdir(mode=0o700)
    with Desktop(top) as desktop, changed_environment({"DBUS_SESSION_BUS_ADDRESS": desktop.address}):
        desktop.login()
        yield Part({})


@contextlib.contextmanager
def passphrase(top: Path) -> Iterator[Part]:
    yield Part({}, typed=lambda: "six words that were drawn by dice")


@contextlib.contextmanager
def desk(top: Path) -> Iterator[Part]:
    raise Missing("a person taps, and what is between is ssh")
    yield


@contextlib.contextmanager
def phone(top: Path) -> Iterator[Part]:
    raise Missing("a person taps, and what is between is a relay")
    yield


@contextlib.contextmanager
def systemd(top: Path) -> Iterator[Part]:
    need("systemd-creds")
    if os.geteuid():
        raise Missing("not root")
    from test_custody_systemd import keep_host_key

    with keep_host_key():
        yield Part({"key": "host"})


@contextlib.contextmanager
def credential(top: Path) -> Iterator[Part]:
    """The file that systemd makes for a unit with LoadCredentialEncrypted=avault.unlock:…"""
    private(top / "avault.unlock", "a7" * 32 + "\n")
    with changed_environment({"CREDENTIALS_DIRECTORY": str(top)}):
        yield Part({"credential": "avault.unlock"})


@contextlib.contextmanager
def age(top: Path) -> Iterator[Part]:
    need("age", "age-keygen")
    subprocess.run(["age-keygen", "-o", top / "key"], check=True, capture_output=True)
    shown = subprocess.run(["age-keygen", "-y", top / "key"], check=True, capture_output=True, text=True)
    yield Part({"recipe": "age", "recipient": shown.stdout.strip(), "identity": str(top / "key")})


@contextlib.contextmanager
def program(top: Path) -> Iterator[Part]:
    from test_custody_command import THIRD, script

    yield Part({"path": script(top / "avault-custodian-store", THIRD), "options": f"store={top}"})


@contextlib.contextmanager
def aws_kms(top: Path) -> Iterator[Part]:
    need("boto3", "moto", "flask")
    import boto3
    from test_custody_aws_kms import REGION, put_profile, serve_moto

    with serve_moto(top) as url, changed_environment({"AWS_EC2_METADATA_DISABLED": "true"}):
        put_profile()
        kms = boto3.client("kms", region_name=REGION, endpoint_url=url)
        key = kms.create_key()["KeyMetadata"]["Arn"]
        wrapped = kms.encrypt(KeyId=key, Plaintext=SECRET.encode())["CiphertextBlob"]
        core = (
            "one request of a client that is there",
            lambda: kms.encrypt(KeyId=key, Plaintext=SECRET.encode()),
            lambda: kms.decrypt(KeyId=key, CiphertextBlob=wrapped),
        )
        yield Part({"key": key, "region": REGION, "endpoint": url}, core=core)


@contextlib.contextmanager
def openbao(top: Path, **told: str) -> Iterator[Part]:
    import openbao_server

    if openbao_server.MISSING:
        raise Missing(openbao_server.MISSING)
    with openbao_server.OpenBao(top) as bao:
        bao.set_up()
        everything = 'path "*" { capabilities = ["create", "read", "update", "delete"] }'
        token = private(top / "token", bao.token(everything) + "\n")
        yield Part({"address": bao.url, "ca-file": str(bao.ca), "token-file": str(token), **told})


def openbao_kv(top: Path) -> contextlib.AbstractContextManager[Part]:
    return openbao(top, engine="kv")


@contextlib.contextmanager
def pkcs11(top: Path) -> Iterator[Part]:
    need("softhsm2-util", "pkcs11")
    from test_custody_pkcs11 import MODULES, PIN, Token

    if not MODULES:
        raise Missing("no softhsm2")
    token = Token(top)
    with changed_environment(token.env):
        yield Part(token.settings, typed=lambda: PIN)


@contextlib.contextmanager
def fido2(top: Path) -> Iterator[Part]:
    need("fido2")
    import soft_ctap

    key = soft_ctap.Key(top / "key.json", pin="a PIN of the key")
    soft_ctap.replace([str(key.path)])
    yield Part({}, typed=lambda: "a PIN of the key", before=key.plugged)


@contextlib.contextmanager
def paper(top: Path) -> Iterator[Part]:
    need("shamir-mnemonic")
    from test_custody_paper import Page

    sheets = top / "kit"

    def read() -> str:
        return "".join(" ".join(Page(path).words) + "\n" for path in sorted(sheets.glob("*"))[:2])

    shares = avault.load_extra("shares", "shares")
    made = shares.split(SECRET, 2, 3)
    core = ("the shares alone", lambda: shares.split(SECRET, 2, 3), lambda: shares.combine(made[:2]))
    yield Part({"sheets": str(sheets)}, read, lambda: shutil.rmtree(sheets, ignore_errors=True), core=core)


@contextlib.contextmanager
def quorum(top: Path) -> Iterator[Part]:
    """Of two credentials of a unit, which cost next to nothing: what is left is the quorum's own."""
    need("shamir-mnemonic")
    for name, byte in (("one", "a7"), ("two", "b8")):
        private(top / name, byte * 32 + "\n")
    told = {"of": "one:systemd,two:systemd", "one.credential": "one", "two.credential": "two"}
    with changed_environment({"CREDENTIALS_DIRECTORY": str(top)}):
        yield Part(told)


# kind; what it is measured with; which of the published times stands beside it; why it is slower; and the part
ROWS: tuple[tuple[str, str, str, str, Callable[[Path], contextlib.AbstractContextManager[Part]]], ...] = (
    ("keychain", "gnome-keyring", "", "", keychain),
    ("passphrase", "scrypt, `log-n=17`", "encrypted file", "on purpose, so that a guess is, too", passphrase),
    ("phone", "another operator's app", "", "", phone),
    ("desk", "of a fleet", "", "", desk),
    ("systemd", "the host's key", "encrypted file", "`systemd-creds` is started", systemd),
    ("systemd", "a unit's credential", "encrypted file", "", credential),
    ("command", "age", "encrypted file", "age is started", age),
    ("program", "a script in Python", "", "", program),
    ("aws-kms", "moto", "KMS", "boto3 makes a client for each errand", aws_kms),
    ("openbao", "OpenBao, `engine=transit`", "KMS", "a save is also opened, and tried for another vault", openbao),
    ("openbao", "OpenBao, `engine=kv`", "KMS", "a save looks first, and is read back", openbao_kv),
    ("pkcs11", "SoftHSM2", "HSM", "", pkcs11),
    ("fido2", "a security key of software", "", "", fido2),
    ("paper", "two of three sheets", "MPC", "a save draws the sheets", paper),
    ("quorum", "two units' credentials", "MPC", "", quorum),
)


# Measuring


class Measured:
    """A custodian of one kind, and how long its errands took, in seconds."""

    def __init__(self, kind: str, part: Part, top: Path, person: Person) -> None:
        self.kind, self.part, self.person = kind, part, person
        self.found = avault.find_kind(kind)
        self.answers = top / "answers"
        self.kept: str | None = None
        self.settings: dict[str, str] = part.told
        self.settings = self.custodian().settle()

    def fields(self) -> dict[str, Any]:
        """What else an errand is told: who answers."""
        typed = self.part.typed()
        told = {"terminal": self.person.path} if typed or self.part.clear is not do_nothing else {}
        return {**told, "answers": str(private(self.answers, typed))} if typed else told

    def custodian(self) -> Any:
        """The custodian, as the helper makes it for one errand."""
        told = self.fields()
        request = make_request(self.settings, kept=self.kept, **told)
        return self.found(avault.Errand(request, avault.Prompt(told.get("terminal"), told.get("answers"))))

    def do(self, action: str, *told: str) -> tuple[Any, float]:
        """What comes of an errand in this process, and the seconds that it took."""
        custodian = self.custodian()
        begun = time.perf_counter()
        value = getattr(custodian, action)(*told)
        took = time.perf_counter() - begun
        custodian.errand.prompt.close()
        return value, took

    def save(self) -> float:
        self.part.clear()
        self.kept, took = self.do("set", SECRET)
        return took

    def load(self) -> float:
        found, took = self.do("get")
        assert found == SECRET, "another secret came back"
        return took

    def send(self) -> float:
        """The load as the daemon has it done, by a process of its own."""
        told = self.fields()
        begun = time.perf_counter()
        answer = send_errand("get", self.kind, self.settings, kept=self.kept, before=self.part.before, **told)
        took = time.perf_counter() - begun
        assert answer == {"outcome": "ok", "value": SECRET}, answer["outcome"]
        return took


Times = list[float]  # seconds, of the rounds


def take_turns(rounds: int, *sides: Callable[[], float]) -> list[Times]:
    """What each side took, in turns; the first round is not counted, as it imports."""
    took: list[list[float]] = [[] for _ in sides]
    end = time.monotonic() + LONGEST
    while len(took[0]) <= rounds and (len(took[0]) <= FEWEST or time.monotonic() < end):
        for side, times in zip(sides, took, strict=True):
            times.append(side())
    return [times[1:] for times in took]


def timed(do: Callable[[], object]) -> Callable[[], float]:
    """What does it, and gives the seconds that it took."""

    def take() -> float:
        begun = time.perf_counter()
        do()
        return time.perf_counter() - begun

    return take


def load_given() -> Callable[[], object]:
    """NOSTR_NSEC: the agent's key out of memory, as a keyholder takes it."""
    keys, loop = nostr_sdk.Keys.generate(), asyncio.new_event_loop()
    nsec, content = keys.secret_key().to_bech32(), {"agent": avault.to_npub(avault.public_hex(keys))}
    return lambda: loop.run_until_complete(avault.GivenKey(nsec).get_key(content))


def shown(times: Times) -> str:
    """The median, and the fastest, which tells more on a machine that has other work."""
    if not times:
        return ""
    median, fastest = (f"{each * 1000:.{1 if each < 0.01 else 0}f}" for each in (statistics.median(times), min(times)))
    return f"{median} ms ({fastest})"


def published(theirs: str) -> str:
    if not theirs:
        return ""
    low, high = THEIRS[theirs]
    return f"{theirs}: {low} to {high} ms" if low else f"{theirs}: under {high} ms"


class Table:
    """The rows; those that are slower than what stands beside them, and why; the kinds that are not here, and why."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []
        self.slower: list[str] = []
        self.missing: list[str] = []

    def add(self, name: str, save: Times, load: Times, whole: Times, theirs: str, why: str = "") -> None:
        self.rows.append((name, *map(shown, (save, load, whole)), published(theirs)))
        if theirs and max(map(min, filter(None, (save, load)))) * 1000 > THEIRS[theirs][1]:
            self.slower.append(f"{name} ({why})" if why else name)

    def measure(self, top: Path, rounds: int) -> None:
        for number, (kind, how, theirs, why, part) in enumerate(ROWS):
            here = top / str(number)
            here.mkdir(mode=0o700)
            try:
                with contextlib.ExitStack() as stack:
                    stack.enter_context(changed_environment({"HOME": str(here)}))
                    person = stack.enter_context(Person())
                    real = stack.enter_context(part(here))
                    measured = Measured(kind, real, here, person)
                    save, load = take_turns(rounds, measured.save, measured.load)
                    [whole] = take_turns(FEWEST, measured.send)
                    self.add(f"`{kind}`, {how}", save, load, whole, theirs, why)
                    if real.core:
                        name, *both = real.core
                        save, load = take_turns(rounds, *map(timed, both))
                        self.add(f"`{kind}`, {name}", save, load, [], theirs)
            except (Missing, avault.Unavailable) as error:
                self.missing.append(f"`{kind}`, {how} ({error})")
        [given] = take_turns(rounds, timed(load_given()))
        self.add("`NOSTR_NSEC`, without a custodian", [], given, [], "memory")

    def render(self) -> str:
        machine = f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
        heads = ("custodian, and what it was measured with", "save", "load", "load, with its process", "Agentic Wallet")
        table = [heads, ("---",) * len(heads), *self.rows]
        lines = [f"{time.strftime('%-d %B %Y')}, {machine}", "", *(f"| {' | '.join(row)} |" for row in table)]
        for words, names in (
            ("Slower than what stands beside it, also the fastest", self.slower),
            ("Not measured", self.missing),
        ):
            lines += ["", f"{words}: {'; '.join(names)}."] if names else []
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=41, help="of each row, if they take no more than 10 s (41)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT}")
    options = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="avb", dir="/tmp"))
    try:
        canary.transcript = top / "transcript"
        table = Table()
        table.measure(top, options.rounds)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    print(table.render())
    if options.write:
        text = documents.read(DOCUMENT)
        (REPOSITORY / DOCUMENT).write_text(documents.refresh(text, custodians=table.render()), encoding="utf-8")


if __name__ == "__main__":
    main()
