"""The custodian `passphrase`: NIP-49's own vectors, another implementation of it, and a person at a terminal."""

import json
import os
import re
import secrets
import subprocess
import termios
import threading
import tty
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from canary import Canary
from errands import SECRET, send_errand
from harness import wait_until
from peers import node, node_modules

import avault

pytestmark = pytest.mark.usefixtures("forks")

# NIP-49, "Test Data"
VECTOR = "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623nsl8xn9j4jdzz84zm3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p"  # noqa: E501
VECTOR_KEY = "3501454135014541350145413501453fefb02227e449e57cf4d3a3ce05378683"
# its example of Unicode: ANGSTROM SIGN, OHM SIGN, long s with two dots; and the same in NFKC
TYPED, NORMAL = "\u212b\u2126\u1e9b\u0323", "\u00c5\u03a9\u1e69"
CHEAP = {"log-n": "16"}


class Person:
    """Somebody at a terminal: types the answers, one after each question, and sees what is shown."""

    def __init__(self, *answers: str) -> None:
        self.fd, self.end = os.openpty()
        self.path = os.ttyname(self.end)
        self.answers, self.shown = list(answers), b""
        self.echoed: list[bool] = []  # whether what is typed would be shown, as each question comes up
        self.thread = threading.Thread(target=self.attend, daemon=True)
        self.thread.start()

    def attend(self) -> None:
        while True:
            try:
                self.shown += os.read(self.fd, 4096)
            except OSError:
                return
            if self.shown.endswith(b": ") and self.answers:
                self.echoed.append(self.echoes())
                os.write(self.fd, self.answers.pop(0).encode() + b"\n")

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.end)[tty.LFLAG] & termios.ECHO)

    def questions(self) -> list[str]:
        return re.findall(r"avault: ([^:\r\n]*): ", self.shown.decode())

    def leave(self) -> None:
        os.close(self.end)
        self.thread.join(60)
        os.close(self.fd)


@pytest.fixture
def people() -> Iterator[list[Person]]:
    met: list[Person] = []
    yield met
    for person in met:
        person.leave()


def ask(people: list[Person], action: str, *answers: str, **more: Any) -> dict[str, Any]:
    """The answer of an errand with a person at its terminal."""
    people.append(Person(*answers))
    return send_errand(action, "passphrase", more.pop("settings", CHEAP), terminal=people[-1].path, **more)


def nip49(**asked: object) -> str:
    """What nostr-tools answers."""
    script = node_modules().parent / "nip49.mjs"
    done = subprocess.run([*node(), script], input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# NIP-49


def test_the_vector_of_the_nip(people) -> None:
    assert ask(people, "get", "nostr", kept=VECTOR) == {"outcome": "ok", "value": VECTOR_KEY}


@pytest.mark.slow
def test_what_is_typed_is_normalized(people, place) -> None:
    """However a keyboard composes it: NFKC, as the NIP says, in both directions and for both implementations."""
    assert unicodedata.normalize("NFKC", TYPED) == NORMAL
    longer = "-and-more-of-it"
    made = ask(people, "set", TYPED + longer, NORMAL + longer, secret=SECRET)
    assert made["outcome"] == "ok", made
    assert nip49(ncryptsec=made["value"], passphrase=NORMAL + longer) == SECRET


@pytest.mark.slow
@pytest.mark.parametrize("log_n", ["16", "17", "18"])
def test_another_implementation_opens_it(people, log_n: str, canary: Canary) -> None:
    made = ask(people, "set", canary.value, canary.value, settings={"log-n": log_n}, secret=SECRET)["value"]
    assert made.startswith("ncryptsec1") and len(made) == 162
    assert nip49(ncryptsec=made, passphrase=canary.value) == SECRET


@pytest.mark.slow
def test_what_another_implementation_made(people, canary: Canary) -> None:
    made = nip49(secret=SECRET, passphrase=canary.value, log_n=16)
    assert ask(people, "get", canary.value, kept=made) == {"outcome": "ok", "value": SECRET}


# The person


@pytest.mark.slow
def test_set_asks_twice_and_get_once(people, canary: Canary) -> None:
    made = ask(people, "set", canary.value, canary.value, secret=SECRET)
    assert people[-1].questions() == ["a new passphrase for the vault", "the same once more"]
    assert ask(people, "get", canary.value, kept=made["value"]) == {"outcome": "ok", "value": SECRET}
    assert people[-1].questions() == ["the vault's passphrase"]
    assert not any(canary.value.encode() in each.shown for each in people), "it is not echoed"
    assert all(each.echoes() for each in people), "the terminal is as it was"


SLOW_TERMINAL = """
import termios, time
set_modes = termios.tcsetattr
termios.tcsetattr = lambda *modes: (time.sleep(0.5), set_modes(*modes))[1]
"""


@pytest.mark.slow
def test_whoever_types_at_once_is_neither_shown_nor_lost(people, canary: Canary) -> None:
    """The echo is off before the question is there: also where that takes the process a while."""
    made = ask(people, "set", canary.value, canary.value, secret=SECRET, before=SLOW_TERMINAL)
    assert made["outcome"] == "ok", made
    assert people[-1].echoed == [False, False]
    assert canary.value.encode() not in people[-1].shown


def test_a_wrong_one_is_denied_and_not_asked_for_again(people, canary: Canary) -> None:
    made = ask(people, "set", canary.value, canary.value, secret=SECRET)["value"]
    answer = ask(people, "get", canary.odd, canary.value, kept=made)
    assert answer == {"outcome": "denied", "detail": "the passphrase is wrong"}
    assert people[-1].questions() == ["the vault's passphrase"]


def test_two_that_differ_are_refused(people, canary: Canary) -> None:
    answer = ask(people, "set", canary.value, canary.odd, secret=SECRET)
    assert answer == {"outcome": "denied", "detail": "the two passphrases are not the same"}


@pytest.mark.parametrize("short", ["elevenchars", "\ufb03\ufb03\ufb03xx"])
def test_a_short_one_is_refused_with_advice(people, short: str) -> None:
    """Before it is asked for again; a ligature is three letters, and these are eleven."""
    answer = ask(people, "set", short, short, secret=SECRET)
    assert answer == {
        "outcome": "denied",
        "detail": "the passphrase has fewer than 12 characters",
        "hint": "six words drawn by dice are good, and can be remembered",
    }
    assert people[-1].questions() == ["a new passphrase for the vault"]


def test_nothing_typed_is_denied(people) -> None:
    assert ask(people, "get", "", kept=VECTOR) == {"outcome": "denied", "detail": "nothing was typed"}


@pytest.mark.slow
def test_nobody_answers(people) -> None:
    assert ask(people, "get", kept=VECTOR, limit=3.0) == {
        "outcome": "denied",
        "detail": "the passphrase did not answer in 3 s",
    }
    assert people[-1].echoes(), "the terminal is as it was"


def test_without_a_terminal_it_is_unavailable() -> None:
    answer = send_errand("get", "passphrase", CHEAP, kept=VECTOR)
    assert answer == {"outcome": "unavailable", "detail": "somebody has to answer, and there is no terminal"}


def test_a_services_credential_answers(place) -> None:
    (place.tmp / "avault-passphrase").write_text("nostr\n")
    there = {"CREDENTIALS_DIRECTORY": str(place.tmp)}
    of_service = {**CHEAP, "from": "credential"}
    answer = send_errand("get", "passphrase", of_service, kept=VECTOR, env=there)
    assert answer == {"outcome": "ok", "value": VECTOR_KEY}
    assert send_errand("settle", "passphrase", of_service)["asks"] is False
    answer = send_errand("get", "passphrase", CHEAP, kept=VECTOR, env=there)
    assert answer["outcome"] == "unavailable", "one that asks a person is not answered by a file that happens to be there"


def test_the_daemon_keeps_the_credentials_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/avault.service")
    assert avault.clean_environment()["CREDENTIALS_DIRECTORY"] == "/run/credentials/avault.service"


def test_a_file_for_scripts_answers(place) -> None:
    (place.tmp / "answers").write_text("nostr")
    answer = send_errand("get", "passphrase", CHEAP, kept=VECTOR, answers=str(place.tmp / "answers"))
    assert answer == {"outcome": "ok", "value": VECTOR_KEY}


@pytest.mark.starts
def test_it_is_on_no_command_line_and_in_no_environment(people, canary: Canary) -> None:
    """Looked at after it was typed, while the helper waits for it once more."""
    mine = canary.new(f"typed-{secrets.token_hex(8)}")  # the mark is the whole run's: other tests' processes have it too
    answered = threading.Thread(target=lambda: ask(people, "set", mine, secret=SECRET, limit=100.0))
    answered.start()
    wait_until(lambda: bool(people) and people[0].questions()[-1:] == ["the same once more"])
    seen = []
    for name in ("cmdline", "environ"):
        for path in Path("/proc").glob(f"[0-9]*/{name}"):
            try:
                data = path.read_bytes()
            except OSError:
                continue
            if b"custodian\0set\0passphrase" in data:
                seen.append(path.parent)
            assert mine.encode() not in data, path
    parents = [re.search(r"PPid:\t(\d+)", (each / "status").read_text()) for each in seen if each.exists()]
    os.write(people[0].fd, b"another one\n")
    answered.join()
    assert str(os.getpid()) in [found[1] for found in parents if found], "the helper was among them"


# Settings, and what is kept


def test_settings() -> None:
    assert send_errand("settle", "passphrase") == {"outcome": "ok", "value": {"log-n": "17", "from": "terminal"}, "asks": True}
    assert send_errand("settle", "passphrase", {"log-n": "18", "from": "terminal"})["value"]["log-n"] == "18"
    assert send_errand("settle", "passphrase", {"from": "nowhere"})["outcome"] == "usage"
    for wrong in ("15", "19", "x", "17 "):
        answer = send_errand("settle", "passphrase", {"log-n": wrong})
        assert answer == {"outcome": "usage", "detail": "log-n is 16, 17 or 18", "hint": "as in: log-n=18"}


def test_a_probe_asks_nobody() -> None:
    assert send_errand("probe", "passphrase", CHEAP, kept=VECTOR) == {"outcome": "ok", "value": "it asks for the passphrase"}
    assert send_errand("probe", "passphrase", CHEAP)["outcome"] == "not_found"


def test_what_is_damaged_is_not_called_a_wrong_passphrase(people) -> None:
    answer = ask(people, "get", "nostr", kept=VECTOR[:-1] + "q")
    assert answer == {"outcome": "error", "detail": "what the passphrase opens is damaged"}


def test_delete_has_nothing_to_do() -> None:
    assert send_errand("delete", "passphrase", CHEAP, kept=VECTOR) == {"outcome": "ok", "value": None}
