"""A PKCS#11 token as a custodian: a real SoftHSM2, and its PIN typed at a real terminal."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from canary import Canary, record
from errands import BOUND, SECRET, send_errand
from harness import AVAULT, Machine, Screen
from person import Person

pkcs11 = pytest.importorskip("pkcs11", reason="the package python-pkcs11 is not installed")
MODULES = [*Path("/usr/lib").glob("**/softhsm/libsofthsm2.so")]
pytestmark = [
    pytest.mark.skipif(not MODULES or not shutil.which("softhsm2-util"), reason="no softhsm2"),
    pytest.mark.usefixtures("forks"),
]

PIN, ADMIN_PIN = "4321-of-the-token", "12345678"
WITHOUT_GCM = "CKM_AES_KEY_GEN,CKM_AES_KEY_WRAP"
QUESTION = "PIN of the token avault-test: "
WRONG_PIN = "the PIN is wrong; it is not tried again"
LOW = "the last PIN that was given was wrong"
FINAL = "one try is left: a wrong PIN locks the token"
LOCKED = "the token's PIN is locked"
NOT_OURS = "others than you can change {}, so it is not run"
LOOSE = "the key avault can be taken out of the token"
UNANSWERED = "the pkcs11 did not answer in {} s"
NO_TOKEN = "there is no token {}"
NO_KEY = "the token has no AES key avault"
NOBODY = "somebody has to answer, and there is no terminal"
NOT_GIVEN = f"{LOW}; no PIN is given where nobody can read that"
TAKEN_OUT = "the token was taken out"
NO_PIN = "the token has no PIN yet"
NOT_LOADED = "the library {} cannot be loaded, or does not start"
NO_WAY = "the token has neither AES-GCM nor AES key wrap"
TWO_TOKENS = "there is more than one token {}"
OPENS_NOTHING = "the key avault does not open it: another key's, another vault's, or damaged"


class Token:
    """A SoftHSM2 of the test's own, with one token, that can do `mechanisms`."""

    def __init__(self, top: Path, mechanisms: str = "ALL", label: str = "avault-test") -> None:
        self.top, self.tokens = top, top / "tokens"
        self.tokens.mkdir()
        self.config = top / "softhsm2.conf"
        self.allow(mechanisms)
        self.env = {"SOFTHSM2_CONF": str(self.config)}
        self.settings = {"module": str(MODULES[0]), "token": label, "key": "avault", "pin": "terminal"}
        self.init(label)

    def allow(self, mechanisms: str) -> None:
        """Which mechanisms it has: ALL, or their names."""
        lines = [f"directories.tokendir = {self.tokens}", "objectstore.backend = file", f"slots.mechanisms = {mechanisms}"]
        self.config.write_text("\n".join(lines) + "\n")

    def init(self, label: str) -> None:
        self.util("--init-token", "--free", "--label", label, "--so-pin", ADMIN_PIN, "--pin", PIN)

    def util(self, *words: str) -> None:
        done = subprocess.run(["softhsm2-util", *words], env={**os.environ, **self.env}, capture_output=True, text=True)
        assert not done.returncode, done.stderr

    def remove(self, label: str = "avault-test") -> None:
        self.util("--delete-token", "--token", label)

    def send(self, action: str, person: Person | None = None, **fields: Any) -> dict[str, Any]:
        given = {"settings": self.settings, "env": self.env, "terminal": person.path if person else None}
        answer = send_errand(action, "pkcs11", **{**given, **fields})
        if action != "get":
            record(f"pkcs11 {action}", json.dumps(answer))
        return answer

    def keep(self, secret: str = SECRET, **fields: Any) -> str:
        """What `set` gives for the vault's own file."""
        with Person({QUESTION: PIN}) as person:
            answer = self.send("set", person, secret=secret, **fields)
        assert answer["outcome"] == "ok", answer
        return str(answer["value"])

    def get(self, kept: str | None, pin: str = PIN, **fields: Any) -> dict[str, Any]:
        with Person({QUESTION: pin}) as person:
            return self.send("get", person, kept=kept, **fields)

    def keys(self) -> list[dict[str, Any]]:
        """What is in the token, as its library says."""
        wanted = ("LABEL", "SENSITIVE", "EXTRACTABLE", "NEVER_EXTRACTABLE", "ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "VALUE_LEN")
        source = f"""if True:
            import json, pkcs11
            token = pkcs11.lib({self.settings["module"]!r}).get_token(token_label={self.settings["token"]!r})
            with token.open(user_pin={PIN!r}) as session:
                found = [{{name: key[pkcs11.Attribute[name]] for name in {wanted!r}}} for key in session.get_objects()]
            print(json.dumps(found))
        """
        return list(json.loads(self.python(source)))

    def make_key(self, **template: bool) -> None:
        """Another program makes a key with our label."""
        made = "".join(f"pkcs11.Attribute.{name}: {value}, " for name, value in template.items())
        self.python(f"""if True:
            import pkcs11
            token = pkcs11.lib({self.settings["module"]!r}).get_token(token_label={self.settings["token"]!r})
            with token.open(rw=True, user_pin={PIN!r}) as session:
                session.generate_key(pkcs11.KeyType.AES, 256, label="avault", store=True, template={{{made}}})
        """)

    def python(self, source: str) -> str:
        """In a process of its own: SoftHSM2 reads its configuration once."""
        done = subprocess.run([sys.executable, "-c", source], env={**os.environ, **self.env}, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return done.stdout

    def flag(self, flags: int) -> None:
        """Set flags of the token where SoftHSM2 keeps them: CKA_OS_TOKENFLAGS, in the token's own object file."""
        [path] = self.tokens.glob("*/token.object")
        data = path.read_bytes()
        kind = (0x8000534B).to_bytes(8, "big") + (2).to_bytes(8, "big")  # CKA_OS_TOKENFLAGS, of the type unsigned long
        start = data.index(kind) + len(kind)
        number = int.from_bytes(data[start : start + 8], "big")
        number |= flags
        path.write_bytes(data[:start] + number.to_bytes(8, "big") + data[start + 8 :])


@pytest.fixture
def token(place) -> Token:
    return Token(place.top)


def refusal(outcome: str, detail: str) -> dict[str, Any]:
    return {"outcome": outcome, "detail": detail}


# What it does


def test_a_secret_is_kept_and_comes_back(token: Token, canary: Canary) -> None:
    canary.watch(PIN)
    kept = token.keep(canary.value)
    assert re.fullmatch(r"gcm:[A-Za-z0-9+/]+=*", kept)
    assert token.get(kept) == {"outcome": "ok", "value": canary.value}
    assert token.keys() == [
        {
            "LABEL": "avault", "SENSITIVE": True, "EXTRACTABLE": False, "NEVER_EXTRACTABLE": True,
            "ENCRYPT": True, "DECRYPT": True, "WRAP": False, "UNWRAP": False, "VALUE_LEN": 32,
        }
    ]  # fmt: skip


def test_the_pin_is_not_shown(token: Token) -> None:
    kept = token.keep()
    with Person({QUESTION: PIN}) as person:
        assert token.send("get", person, kept=kept)["outcome"] == "ok"
    assert (person.shown, person.typed) == (f"avault: {QUESTION}\r\n", 1)


@pytest.mark.parametrize("way", ["gcm", "wrap"])
def test_long_texts_of_any_length(place, way: str) -> None:
    token = Token(place.top, "ALL" if way == "gcm" else WITHOUT_GCM)
    for secret in ("é" * 2000, "x" * 1999, "y"):
        kept = token.keep(secret)
        assert kept.startswith(f"{way}:")
        assert token.get(kept) == {"outcome": "ok", "value": secret}


def test_a_token_without_gcm_wraps(place, canary: Canary) -> None:
    """By AES key wrap, with a key that can do nothing else."""
    token = Token(place.top, WITHOUT_GCM)
    kept = token.keep(canary.value)
    assert kept.startswith("wrap:")
    assert token.get(kept) == {"outcome": "ok", "value": canary.value}
    [key] = token.keys()
    assert (key["ENCRYPT"], key["WRAP"], key["EXTRACTABLE"]) == (False, True, False), "and what was wrapped is not left there"


def test_one_key_serves_several(token: Token) -> None:
    first, second = token.keep("one"), token.keep("two", bound=BOUND + "2")
    assert len(token.keys()) == 1
    assert token.get(first)["value"] == "one"
    assert token.get(second, bound=BOUND + "2")["value"] == "two"


def test_settings_are_completed(token: Token) -> None:
    module = os.path.relpath(token.settings["module"], token.top)
    told = {"module": module, "token": "avault-test"}
    assert token.send("settle", settings=told, directory=str(token.top)) == {
        "outcome": "ok", "value": token.settings, "asks": True,
    }  # fmt: skip
    of_service = {**token.settings, "pin": "credential"}
    assert token.send("settle", settings=of_service)["asks"] is False
    assert token.send("settle", settings={**told, "pin": "4321"}) == refusal("usage", "pin is terminal or credential")


@pytest.mark.parametrize("missing", ["module", "token"])
def test_what_has_to_be_told(token: Token, missing: str) -> None:
    answer = token.send("settle", settings={**token.settings, missing: ""})
    assert answer["detail"].startswith(f"{missing} is missing: ")


def test_a_look_asks_nobody(token: Token) -> None:
    assert token.send("probe") == {"outcome": "ok", "value": "the token is there"}


def test_nothing_is_deleted_from_the_token(token: Token) -> None:
    kept = token.keep()
    assert token.send("delete") == {"outcome": "ok", "value": None}
    assert token.get(kept) == {"outcome": "ok", "value": SECRET}


def test_the_document_says_what_is_said() -> None:
    """Each message of this file, in the row of its outcome."""
    text = (Path(__file__).parents[2] / "references" / "custody.md").read_text(encoding="utf-8")
    section = text.split("\n## pkcs11\n")[1].split("\n## ")[0]
    said = {
        "denied": [WRONG_PIN, LOCKED, NOT_OURS.format("/opt/hsm/lib.so"), LOOSE, UNANSWERED.format(120)],
        "not_found": [NO_TOKEN.format("office"), NO_KEY],
        "unavailable": [NOBODY, NOT_GIVEN, TAKEN_OUT, NO_PIN, NOT_LOADED.format("/opt/hsm/lib.so"), NO_WAY],
        "tampered": [OPENS_NOTHING],
        "error": [TWO_TOKENS.format("office")],
    }
    rows = re.findall(r'^\| `(\w+)` \|[^|]+\| "(.*)" \|$', section, re.MULTILINE)
    assert sorted(rows) == sorted((outcome, each) for outcome, texts in said.items() for each in texts)


@pytest.mark.slow
def test_a_vault_that_a_token_opens(machine: Machine, token: Token, canary: Canary) -> None:
    """By the installed command; the daemon's environment has no SOFTHSM2_CONF, so that its file is found at home."""
    config = machine.home / ".config" / "softhsm2" / "softhsm2.conf"
    config.parent.mkdir(parents=True)
    config.symlink_to(token.config)
    settings = [f"--setting={name}={token.settings[name]}" for name in ("module", "token")]
    with Screen(machine, AVAULT, "init", "--with", "pkcs11", *settings, lines=90, columns=120) as screen:
        screen.expect(r"is it written down\? \[y/N\] ")
        screen.type("y\n")
        for _ in range(2):  # once to keep, once to try
            screen.expect(QUESTION)
            screen.type(PIN + "\n")
        screen.expect("pkcs11 opens this vault from now on")
        screen.wait()
    machine("set", "openai/API_KEY", input=canary.value)
    machine("lock")
    with Screen(machine, AVAULT, "unlock") as screen:
        screen.expect(QUESTION)
        screen.type("0000\n")
        assert WRONG_PIN.encode() in screen.wait(5)
    with Screen(machine, AVAULT, "unlock") as screen:
        screen.expect(LOW)
        screen.expect(QUESTION)
        screen.type(PIN + "\n")
        screen.wait()
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"


# Each thing that may go wrong


def test_a_wrong_pin_is_given_once(token: Token) -> None:
    kept = token.keep()
    with Person({QUESTION: "0000"}) as person:
        assert token.send("get", person, kept=kept) == refusal("denied", WRONG_PIN)
    assert person.typed == 1
    with Person({QUESTION: PIN}) as person:
        assert token.send("get", person, kept=kept)["outcome"] == "ok"
    assert person.shown.startswith(f"avault: {LOW}\r\navault: {QUESTION}"), "said before it is asked"
    with Person({QUESTION: PIN}) as person:
        assert token.send("get", person, kept=kept)["outcome"] == "ok"
    assert LOW not in person.shown, "the right one ends that"


def test_the_last_try_is_said(token: Token) -> None:
    kept = token.keep()
    token.flag(pkcs11.TokenFlag.USER_PIN_COUNT_LOW | pkcs11.TokenFlag.USER_PIN_FINAL_TRY)
    with Person({QUESTION: PIN}) as person:
        assert token.send("get", person, kept=kept)["outcome"] == "ok"
    assert person.shown.startswith(f"avault: {FINAL}\r\navault: {QUESTION}")


def test_a_locked_token_asks_for_no_pin(token: Token) -> None:
    kept = token.keep()
    token.flag(pkcs11.TokenFlag.USER_PIN_LOCKED)
    with Person({QUESTION: PIN}) as person:
        assert token.send("get", person, kept=kept) == refusal("denied", LOCKED)
        assert token.send("set", person, secret=SECRET) == refusal("denied", LOCKED)
    assert person.shown == ""
    assert token.send("probe") == refusal("denied", LOCKED)


def test_nobody_is_there(token: Token) -> None:
    kept = token.keep()
    assert token.send("get", kept=kept) == refusal("unavailable", NOBODY)


def test_nobody_answers(token: Token) -> None:
    kept = token.keep()
    with Person() as person:
        answer = token.send("get", person, kept=kept, limit=3.0)
    assert answer == refusal("denied", UNANSWERED.format(3))
    assert person.shown == f"avault: {QUESTION}"


def test_nothing_is_typed(token: Token) -> None:
    assert token.get(token.keep(), "") == refusal("denied", "nothing was typed")


def test_a_service_gives_its_pin(token: Token) -> None:
    """It lies among its credentials. After a wrong one no further is given: a service that restarts would lock the token."""
    kept = token.keep()
    of_service = {**token.settings, "pin": "credential"}
    env = {**token.env, "CREDENTIALS_DIRECTORY": str(token.top)}
    (token.top / "avault-pin").write_text(PIN + "\n")
    assert token.send("get", settings=of_service, kept=kept, env=env) == {"outcome": "ok", "value": SECRET}
    (token.top / "avault-pin").write_text("0000\n")
    assert token.send("get", settings=of_service, kept=kept, env=env) == refusal("denied", WRONG_PIN)
    again = token.send("get", settings=of_service, kept=kept, env=env)
    assert again == refusal("unavailable", NOT_GIVEN)


def test_a_token_that_was_taken_out(token: Token) -> None:
    kept = token.keep()
    token.remove()
    gone = refusal("not_found", NO_TOKEN.format("avault-test"))
    assert token.get(kept) == token.send("probe") == gone


def test_a_token_that_is_taken_out_meanwhile(token: Token) -> None:
    """While its PIN is asked."""
    kept = token.keep()

    def take_out() -> str:
        token.remove()
        return PIN

    with Person({QUESTION: take_out}) as person:
        assert token.send("get", person, kept=kept) == refusal("unavailable", TAKEN_OUT)


def test_another_token_in_its_place(token: Token) -> None:
    """With the same label and PIN, and no key, or a key of its own."""
    kept = token.keep()
    token.remove()
    token.init("avault-test")
    assert token.get(kept) == refusal("not_found", NO_KEY)
    token.keep("another")
    assert token.get(kept) == refusal("tampered", OPENS_NOTHING)


def test_two_tokens_of_one_name(token: Token) -> None:
    kept = token.keep()
    token.init("avault-test")
    assert token.get(kept) == refusal("error", TWO_TOKENS.format("avault-test"))


def test_two_keys_of_one_name(token: Token) -> None:
    kept = token.keep()
    token.make_key(SENSITIVE=True, EXTRACTABLE=False)
    assert token.get(kept) == refusal("error", "the token has more than one AES key avault")


def test_a_key_that_can_be_taken_out_is_refused(token: Token) -> None:
    token.make_key(SENSITIVE=False, EXTRACTABLE=True)
    with Person({QUESTION: PIN}) as person:
        answer = token.send("set", person, secret=SECRET)
    assert answer == refusal("denied", LOOSE)


@pytest.mark.parametrize("way", ["gcm", "wrap"])
def test_it_opens_for_nobody_else(place, way: str) -> None:
    """Another vault, another custodian's name, a flipped bit, something cut off."""
    token = Token(place.top, "ALL" if way == "gcm" else WITHOUT_GCM)
    kept = token.keep()
    assert token.get(kept, bound=BOUND + "2") == refusal("tampered", OPENS_NOTHING)
    data = bytearray(base64.b64decode(kept.partition(":")[2]))
    data[-1] ^= 1
    assert token.get(f"{way}:{base64.b64encode(data).decode()}") == refusal("tampered", OPENS_NOTHING)
    assert token.get(f"{way}:{base64.b64encode(data[:8]).decode()}") == refusal("tampered", OPENS_NOTHING)


@pytest.mark.parametrize("kept", [None, "", "gcm", "gcm:?", "cbc:AAAA"])
def test_what_is_damaged_asks_for_no_pin(token: Token, kept: str | None) -> None:
    with Person({QUESTION: PIN}) as person:
        assert token.send("get", person, kept=kept) == refusal("tampered", "what the token wrapped is damaged")
    assert person.shown == ""


def test_a_token_that_cannot_wrap(token: Token) -> None:
    token.allow("CKM_SHA256,CKM_AES_KEY_GEN")
    wanted = refusal("unavailable", NO_WAY)
    assert token.send("settle") == wanted


def test_a_token_without_a_pin(token: Token) -> None:
    """As a new one is before its officer gives it one (C_InitToken alone)."""
    label = "bare".ljust(32)
    token.python(f"""if True:
        import ctypes
        library, slots, count = ctypes.CDLL({token.settings["module"]!r}), (ctypes.c_ulong * 9)(), ctypes.c_ulong(9)
        assert not library.C_Initialize(None)
        assert not library.C_GetSlotList(0, slots, ctypes.byref(count))
        free = ctypes.c_ulong(slots[count.value - 1])
        assert not library.C_InitToken(free, {ADMIN_PIN.encode()!r}, ctypes.c_ulong({len(ADMIN_PIN)}), {label.encode()!r})
    """)
    bare = {**token.settings, "token": "bare"}
    assert token.send("probe", settings=bare) == refusal("unavailable", NO_PIN)


# Its library runs in our process


def test_a_library_that_others_can_change_is_not_run(token: Token) -> None:
    kept = token.keep()
    folder = token.top / "lib"
    folder.mkdir(mode=0o755)
    module = folder / "module.so"
    module.write_bytes(MODULES[0].read_bytes())
    settings = {**token.settings, "module": str(module)}
    for path, mode in ((module, 0o664), (module, 0o646), (folder, 0o775)):
        before = path.stat().st_mode
        path.chmod(mode)
        assert token.get(kept, settings=settings) == refusal("denied", NOT_OURS.format(path))
        path.chmod(before)
    assert token.get(kept, settings=settings)["outcome"] == "ok"
    link = token.top / "link.so"
    link.symlink_to(module)
    by_link = {**settings, "module": str(link)}
    module.chmod(0o666)
    assert token.get(kept, settings=by_link) == refusal("denied", NOT_OURS.format(module)), "where the link leads"
    module.chmod(0o644)
    token.top.chmod(0o770)
    assert token.get(kept, settings=by_link) == refusal("denied", NOT_OURS.format(token.top)), "where the link lies"
    token.top.chmod(0o700)


def test_what_is_no_library(token: Token) -> None:
    for path, said in (
        (token.top / "none.so", "cannot use {}: No such file or directory"),
        (token.top, "{} is no library"),
        (token.config, NOT_LOADED),
    ):
        answer = token.send("probe", settings={**token.settings, "module": str(path)})
        assert answer == refusal("unavailable", said.format(path))


def test_a_library_that_does_not_start(token: Token) -> None:
    """SoftHSM2 without its directory of tokens."""
    shutil.rmtree(token.tokens)
    said = NOT_LOADED.format(MODULES[0])
    assert token.send("probe") == refusal("unavailable", said)


def test_the_package_is_missing(token: Token) -> None:
    hidden = token.top / "hidden"
    hidden.mkdir()
    (hidden / "pkcs11.py").write_text("raise ModuleNotFoundError('hidden', name='pkcs11')\n")
    answer = token.send("probe", env={**token.env, "PYTHONPATH": str(hidden)})
    hint = "in avault's folder: pip install '.[pkcs11]'"
    assert answer == {**refusal("unavailable", "the package pkcs11 is not installed"), "hint": hint}
