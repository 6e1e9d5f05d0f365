"""The custodian `quorum`: members that are real custodians, by their own helpers' code, and each way in which they fail."""

import dataclasses
import itertools
import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
import openbao_server
import peers
import pytest
from box import Box
from canary import Canary
from errands import BOUND, send_errand
from harness import Machine
from openbao_server import OpenBao
from peers import Relay
from person import Person

import avault

pytestmark = pytest.mark.usefixtures("forks")

pytest.importorskip("shamir_mnemonic", reason="shamir-mnemonic is not installed")
shares = avault.load_extra("shares", "shares")

PASSPHRASE = {"a new passphrase": "correct horse battery", "the same once more": "correct horse battery"}
ASKED = {"the vault's passphrase": "correct horse battery"}


@pytest.fixture
def secret(canary: Canary) -> str:
    """An unlock key, which is to be in no file."""
    return canary.watch(secrets.token_hex(32))


def told(answer: dict[str, Any]) -> tuple[str, Any]:
    """An answer's outcome, and its value or detail."""
    return answer["outcome"], answer["value" if answer["outcome"] == "ok" else "detail"]


@dataclasses.dataclass
class Quorum:
    """A quorum: its settings, and what it gave to be kept."""

    settings: dict[str, str]
    kept: str | None = None
    name: str = "here"

    def ask(self, action: str, secret: str = "", **fields: Any) -> tuple[str, Any]:
        """What the helper answers, without a process for it; `terminal` and `answers` as in send_errand."""
        prompt = avault.Prompt(fields.pop("terminal", None), fields.pop("answers", None))
        request = {
            "name": self.name, "settings": self.settings, "kept": self.kept, "bound": BOUND.replace("here", self.name),
            "account": f"avault1-AAAAAAAAAAAAAAAA:{self.name}", "label": "avault: unlock key of test (/vault)",
            "limit": 30, **fields,
        }  # fmt: skip
        try:
            return told(json.loads(avault.answer_errand(action, "quorum", avault.Errand(request, prompt), secret)))
        finally:
            prompt.close()

    def settle(self) -> "Quorum":
        outcome, said = self.ask("settle")
        assert outcome == "ok", said
        self.settings = said["settings"]
        return self

    def set(self, secret: str, **fields: Any) -> "Quorum":
        outcome, self.kept = self.ask("set", secret, **fields)
        assert outcome == "ok", self.kept
        return self

    def records(self) -> dict[str, Any]:
        return dict(json.loads(self.kept or "{}")["members"])

    def change(self, **changed: Any) -> None:
        """Have something else kept, as somebody would who writes to the disk and knows the form."""
        self.kept = only_form({**json.loads(self.kept or "{}"), **changed})


def only_form(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


@pytest.fixture
def boxes(place) -> dict[str, Box]:
    """Three custodians of ours, each with a place of its own."""
    found = {}
    for name in "abc":
        (place.top / name).mkdir(mode=0o700)
        found[name] = Box(place.top / name)
    return found


def of_boxes(boxes: dict[str, Box], *more: str, need: int = 2, name: str = "here", **settings: str) -> Quorum:
    of = ",".join([*(f"program:{each}" for each in boxes), *more])
    paths = {f"{each}.path": str(box.path) for each, box in boxes.items()}
    return Quorum({"need": str(need), "of": of, **paths, **settings}, name=name).settle()


# What it is told


def test_what_is_settled(boxes: dict[str, Box], place) -> None:
    """Each member's settings are settled by its own kind, and kept under its name."""
    asked = Quorum({"of": "program:a, passphrase", "a.path": "a/box/avault-custodian-box", "passphrase.log-n": "16"})
    outcome, said = asked.ask("settle", directory=str(place.top))
    wanted = {"need": "2", "of": "program:a,passphrase", "passphrase.log-n": "16", "passphrase.from": "terminal"}
    program = {"a.path": str(boxes["a"].path), "a.options": "", "a.person": "no"}
    assert (outcome, said) == ("ok", {"settings": {**wanted, **program}, "asks": True})
    asked.settings = said["settings"]
    assert asked.ask("settle") == (outcome, said)


@pytest.mark.parametrize(
    ("of", "person", "asks"),
    [
        ("program:a,program:b,passphrase", "no", False),
        ("program:a,program:b,passphrase", "yes", True),
        ("program:a,passphrase,passphrase:p", "no", True),
        ("passphrase,passphrase:p", "no", True),
    ],
)
def test_it_asks_a_person_where_too_few_members_ask_nobody(boxes: dict[str, Box], of: str, person: str, asks: bool) -> None:
    paths = {f"{name}.path": str(boxes[name].path) for name in "ab" if f":{name}" in of}
    persons = {"b.person": person} if ":b" in of else {}
    assert Quorum({"of": of, **paths, **persons}).ask("settle")[1]["asks"] is asks


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "which members has the quorum?"),
        ({"of": "passphrase"}, "2 of 1 is no set of shares"),
        ({"of": "passphrase,keychain", "need": "1"}, "a quorum needs two members, or more: one alone would be the key"),
        ({"of": "passphrase,keychain", "need": "two"}, "not a number of members: two"),
        ({"of": "passphrase,keychain", "need": "3"}, "3 of 2 is no set of shares"),
        ({"of": ",".join(f"passphrase:p{number}" for number in range(17))}, "2 of 17 is no set of shares"),
        ({"of": "passphrase,passphrase"}, "the member passphrase is named twice"),
        ({"of": "passphrase,passphrase:Two"}, "not a name: 'Two'"),
        ({"of": "passphrase,"}, "not a name: ''"),
        ({"of": "passphrase,phone"}, "that name is the phone's of this machine"),
        ({"of": "passphrase,phone:alice"}, "alice: whose phone is it?"),
        (
            {"of": "passphrase,paper:sheet"},
            "paper cannot be a member: its sheets are a quorum already, and say that they open the vault",
        ),
        ({"of": "passphrase,quorum"}, "a quorum cannot be a member of another: name its members here"),
        ({"of": "passphrase,nonsense:x"}, "x: there is no custodian of the kind nonsense"),
        ({"of": "passphrase,passphrase:p", "q.log-n": "16"}, "there is no member q"),
        ({"of": "passphrase,passphrase:p", "log-n": "16"}, "quorum has no setting log-n"),
        ({"of": "passphrase,passphrase:p", "p.log-n": "99"}, "p: log-n is 16, 17 or 18"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(settings: dict[str, str], said: str) -> None:
    assert Quorum(settings).ask("settle") == ("usage", said)


# Any that are enough


@pytest.mark.slow
def test_any_two_of_three_open_it_and_one_does_not(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes).set(secret)
    for gone in ((), *itertools.combinations("abc", 1)):
        for name, box in boxes.items():
            box.mode("unavailable" if name in gone else "ok")
        assert quorum.ask("get") == ("ok", secret), gone
    for gone in itertools.combinations("abc", 2):
        for name, box in boxes.items():
            box.mode("unavailable" if name in gone else "ok")
        outcome, said = quorum.ask("get")
        assert outcome == "unavailable" and secret not in said
        [there] = set("abc") - set(gone)
        assert said == (
            f"1 of 2 shares that are needed came: {there} ok, {gone[0]} unavailable, {gone[1]} unavailable;"
            f" {gone[0]}: the box says unavailable; {gone[1]}: the box says unavailable"
        )


def test_what_the_disk_has_and_what_a_member_has_open_nothing(boxes: dict[str, Box], secret: str) -> None:
    """Each member has a key of its own, the disk the shares, encrypted under these: by hand, as a thief would."""
    quorum = of_boxes(boxes).set(secret)
    found = []
    for name, record in quorum.records().items():
        keys = nostr_sdk.Keys.parse(boxes[name].kept(f"here.{name}"))
        text = nostr_sdk.nip44_decrypt(keys.secret_key(), keys.public_key(), record["share"])
        bound, _, share = text.partition("\n")
        assert bound == f"{BOUND}.{name}"
        assert not set(share.split()) & set((quorum.kept or "").split()), "no word of it lies on the disk"
        found.append(share)
    for few in ([], *([each] for each in found)):
        with pytest.raises(avault.Unavailable):
            shares.combine(few)
    assert len({boxes[name].kept(f"here.{name}") for name in "abc"}) == 3, "and none has another's"
    assert not {secret} & {boxes[name].kept(f"here.{name}") for name in "abc"}
    assert shares.combine(found[1:]) == secret


def test_the_helper_in_a_process_of_its_own(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes)
    kept = send_errand("set", "quorum", quorum.settings, secret=secret)["value"]
    assert only_form(json.loads(kept)) == kept, "in its only form"
    assert json.loads(kept).keys() == {"members", "need", "set"}
    boxes["b"].mode("dies")
    assert send_errand("get", "quorum", quorum.settings, kept=kept) == {"outcome": "ok", "value": secret}


def test_those_that_are_enough_are_all_that_are_asked(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes).set(secret)
    boxes["c"].mode("denied")
    with Person() as person:
        assert quorum.ask("get", terminal=person.path) == ("ok", secret)
    assert person.shown == "", "else what it says would be told"


# Who fails, and what that comes to


@pytest.mark.parametrize(
    ("mode", "code", "says"),
    [
        ("denied", "denied", "the box says denied"),
        ("not_found", "not_found", "the box says not_found"),
        ("unavailable", "unavailable", "the box says unavailable"),
        ("error", "error", "the box says error"),
        ("garbage", "error", "its helper ended without an answer"),
        ("dies", "error", "avault-custodian-box was killed by signal 9"),
        ("lies", "tampered", "what lies here is not the share that its key was made for"),
    ],
)
def test_each_outcome_gives_way_and_decides_where_too_few_are_left(
    boxes: dict[str, Box], secret: str, mode: str, code: str, says: str
) -> None:
    quorum = of_boxes(boxes).set(secret)
    boxes["a"].mode(mode)
    assert quorum.ask("get") == ("ok", secret)
    boxes["b"].mode(mode)
    told = f"1 of 2 shares that are needed came: c ok, a {code}, b {code}; a: {says}; b: {says}"
    assert quorum.ask("get") == (code, told)


@pytest.mark.parametrize(
    ("modes", "decides"),
    [
        (("lies", "denied"), "tampered"),
        (("not_found", "denied"), "denied"),
        (("unavailable", "not_found"), "not_found"),
        (("error", "unavailable"), "unavailable"),
    ],
)
def test_the_worst_decides(boxes: dict[str, Box], secret: str, modes: tuple[str, str], decides: str) -> None:
    quorum = of_boxes(boxes).set(secret)
    for name, mode in zip("ab", modes, strict=True):
        boxes[name].mode(mode)
    assert quorum.ask("get")[0] == decides


@pytest.mark.slow
def test_one_that_hangs_takes_only_its_part_of_the_time(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes).set(secret)
    boxes["a"].mode("hangs")
    began = time.monotonic()
    with Person() as person:
        assert quorum.ask("get", limit=20, terminal=person.path) == ("ok", secret)
    assert time.monotonic() - began < 19, "a third of it, and what the others took"
    assert "avault: the others were enough; a: avault-custodian-box did not end in " in person.shown


def test_a_member_whose_package_is_gone_gives_way(boxes: dict[str, Box], secret: str, place) -> None:
    """As one that is not there; and the others are asked all the same."""
    pytest.importorskip("boto3", reason="boto3 is not installed")
    quorum = of_boxes(boxes).set(secret)
    settings = {**quorum.settings, "of": "aws-kms:a,program:b,program:c"}
    (place.tmp / "boto3.py").write_text("raise ModuleNotFoundError('no', name='boto3')\n")
    (place.tmp / "botocore.py").write_text("raise ModuleNotFoundError('no', name='boto3')\n")
    env = {"PYTHONPATH": str(place.tmp)}
    assert told(send_errand("get", "quorum", settings, kept=quorum.kept, env=env)) == ("ok", secret)
    boxes["c"].mode("unavailable")
    outcome, said = told(send_errand("get", "quorum", settings, kept=quorum.kept, env=env))
    assert outcome == "unavailable" and "a: the package boto3 is not installed" in said


# What was swapped


def test_shares_swapped_between_members_open_nothing(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes).set(secret)
    records = quorum.records()
    for a, b in (("b", "a"), ("a", "a"), ("b", "b")):
        quorum.change(members={**records, "a": records[a], "b": records[b]})
        wrong = [name for name, got in zip("ab", (a, b), strict=True) if name != got]
        boxes["c"].mode("unavailable")
        outcome, said = quorum.ask("get")
        assert outcome == "tampered" and all(f"{name} tampered" in said for name in wrong)
    boxes["c"].mode("ok")
    assert quorum.ask("get") == ("ok", secret), "one is not in its place, and two are enough"
    # who has a member's key as well, and seals another's share for it
    keys = nostr_sdk.Keys.parse(boxes["a"].kept("here.a"))
    bound = nostr_sdk.nip44_encrypt(keys.secret_key(), keys.public_key(), f"{BOUND}.b\nx", nostr_sdk.Nip44Version.V2)
    quorum.change(members={**records, "a": {"kept": None, "share": bound}})
    boxes["c"].mode("unavailable")
    assert "a: what lies here is not the share that its key was made for" in quorum.ask("get")[1]


def test_shares_swapped_between_two_quorums_open_nothing(boxes: dict[str, Box], secret: str) -> None:
    """Of the same members; and of one set anew, where even the old key was put back."""
    one, other = of_boxes(boxes).set(secret), of_boxes(boxes, name="there").set(secrets.token_hex(32))
    boxes["c"].mode("unavailable")
    mine = one.records()
    one.change(members={**mine, "a": other.records()["a"]})
    assert one.ask("get")[0] == "tampered"
    one.change(members=mine)
    assert one.ask("get") == ("ok", secret)
    old = boxes["a"].kept("here.a")
    boxes["c"].mode("ok")
    anew = of_boxes(boxes).set(secrets.token_hex(32))
    boxes["c"].mode("unavailable")
    (boxes["a"].place / "here.a").write_text(old)
    anew.change(members={**anew.records(), "a": mine["a"]})
    outcome, said = anew.ask("get")
    assert outcome == "tampered"
    assert said.startswith(
        "1 of 2 shares that are needed came: b ok, a tampered, c unavailable; a: its share is of another set; "
    )


def test_what_is_kept_has_one_form_and_fits_the_settings(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes).set(secret)
    whole, records = json.loads(quorum.kept or ""), quorum.records()
    damaged = [
        "", "x", "[]", "{}", "null", "[" * 5000, json.dumps(whole), f"{quorum.kept} ",
        *(only_form(whole | changed) for changed in (
            {"need": 1}, {"need": 3}, {"need": "2"}, {"set": None}, {"members": None}, {"members": []}, {"more": 1},
            {"members": {name: records[name] for name in "ab"}}, {"members": {**records, "d": records["a"]}},
            {"members": {**records, "a": None}}, {"members": {**records, "a": {"kept": 1, "share": "x"}}},
            {"members": {**records, "a": {"kept": None}}}, {"members": {**records, "a": {"kept": None, "share": None}}},
        )),
    ]  # fmt: skip
    for kept in damaged[1:]:
        quorum.kept = kept
        assert quorum.ask("get") == ("tampered", "what is kept about its shares is damaged"), kept
    for kept in (None, ""):
        quorum.kept = kept
        for action in ("get", "probe"):
            assert quorum.ask(action) == ("not_found", "its members have no shares")
    quorum.kept = only_form(whole)
    quorum.settings["need"] = "3"
    assert quorum.ask("get")[0] == "tampered", "nor do the settings lower or raise it"


# Setting, and forgetting


def test_where_one_member_fails_the_others_forget(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes)
    boxes["c"].mode("denied")
    assert quorum.ask("set", secret) == ("denied", "c: the box says denied")
    assert [(boxes[name].place / f"here.{name}").exists() for name in "abc"] == [False] * 3


def test_a_member_that_gives_something_else_back_does_not_count(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes)
    boxes["b"].mode("lies")
    assert quorum.ask("set", secret) == ("error", "b: it did not keep what it was given")
    assert [(boxes[name].place / f"here.{name}").exists() for name in "ab"] == [False] * 2


def test_all_members_forget_and_who_does_not_is_named(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes).set(secret)
    boxes["b"].mode("unavailable")
    assert quorum.ask("delete") == ("unavailable", "not all members forgot their keys; b: the box says unavailable")
    assert [(boxes[name].place / f"here.{name}").exists() for name in "abc"] == [False, True, False]
    for name in "ac":
        boxes[name].mode("not_found")
    boxes["b"].mode("ok")
    quorum.kept = "damaged"
    assert quorum.ask("delete") == ("ok", None), "what is gone is forgotten, whatever the file says"
    assert not (boxes["b"].place / "here.b").exists()


def test_probe_counts_who_is_there(boxes: dict[str, Box], secret: str) -> None:
    quorum = of_boxes(boxes).set(secret)
    assert quorum.ask("probe") == ("ok", "3 of 3 members are there, and 2 are needed")
    boxes["a"].mode("denied")
    assert quorum.ask("probe") == ("ok", "2 of 3 members are there, and 2 are needed; a: the box says denied")
    boxes["b"].mode("unavailable")
    said = "1 of 3 members are there, and 2 are needed; a: the box says denied; b: the box says unavailable"
    assert quorum.ask("probe") == ("denied", said)


# People


@pytest.fixture
def mixed(boxes: dict[str, Box], secret: str) -> Quorum:
    """A passphrase, which was named first, and two boxes."""
    quorum = Quorum(
        {"of": "passphrase,program:a,program:b", "passphrase.log-n": "16", "need": "2"}
        | {f"{name}.path": str(boxes[name].path) for name in "ab"}
    ).settle()
    with Person(PASSPHRASE) as person:
        quorum.set(secret, terminal=person.path)
    assert "avault: the share of passphrase (passphrase)" in person.shown
    return quorum


def test_those_that_ask_nobody_come_first(mixed: Quorum, boxes: dict[str, Box], secret: str) -> None:
    with Person() as person:
        assert mixed.ask("get", terminal=person.path) == ("ok", secret)
    assert person.shown == ""
    boxes["a"].mode("unavailable")
    with Person(ASKED) as person:
        assert mixed.ask("get", terminal=person.path) == ("ok", secret)
    assert person.shown.replace("\r", "").splitlines()[-1] == ("avault: the others were enough; a: the box says unavailable")
    assert mixed.ask("probe")[1].startswith("2 of 3 members are there")


def test_a_persons_refusal_ends_it(mixed: Quorum, boxes: dict[str, Box]) -> None:
    boxes["a"].mode("unavailable")
    with Person({"the vault's passphrase": "wrong horse battery"}) as person:
        assert mixed.ask("get", terminal=person.path) == ("denied", "passphrase: the passphrase is wrong")
    assert person.typed == 1
    with Person({"the vault's passphrase": ""}) as person:
        assert mixed.ask("get", terminal=person.path) == ("denied", "passphrase: nothing was typed")


@pytest.mark.slow
def test_nobody_comes_after_a_refusal(secret: str) -> None:
    """Three passphrases, of which two open it: who refuses as the first is the last that is asked."""
    of = "passphrase:ann,passphrase:bob,passphrase:eve"
    quorum = Quorum({"of": of, **{f"{name}.log-n": "16" for name in ("ann", "bob", "eve")}}).settle()
    with Person(PASSPHRASE) as person:
        quorum.set(secret, terminal=person.path, limit=120)
    with Person({"the vault's passphrase": "wrong horse battery"}) as person:
        assert quorum.ask("get", terminal=person.path) == ("denied", "ann: the passphrase is wrong")
    assert "bob" not in person.shown and "eve" not in person.shown
    with Person(ASKED) as person:
        assert quorum.ask("get", terminal=person.path) == ("ok", secret)
    asked = [line for line in person.shown.replace("\r", "").splitlines() if "the share of" in line]
    assert asked == ["avault: the share of ann (passphrase)", "avault: the share of bob (passphrase)"]


def test_nobody_is_asked_in_vain(mixed: Quorum, boxes: dict[str, Box]) -> None:
    for name in "ab":
        boxes[name].mode("unavailable")
    with Person(ASKED) as person:
        outcome, said = mixed.ask("get", terminal=person.path)
    assert (outcome, person.shown) == ("unavailable", "")
    assert said.startswith("0 of 2 shares that are needed came: a unavailable, b unavailable, passphrase not asked; ")


def test_without_a_terminal_the_person_is_not_there(mixed: Quorum, boxes: dict[str, Box], secret: str) -> None:
    assert mixed.ask("get") == ("ok", secret)
    boxes["b"].mode("not_found")
    outcome, said = mixed.ask("get")
    assert outcome == "not_found"
    assert "passphrase: somebody has to answer, and there is no terminal" in said


def test_a_file_answers_for_scripts(mixed: Quorum, boxes: dict[str, Box], secret: str, place) -> None:
    boxes["a"].mode("unavailable")
    (place.tmp / "answers").write_text("correct horse battery\n")
    assert mixed.ask("get", answers=str(place.tmp / "answers")) == ("ok", secret)


# Real parts


@pytest.mark.skipif(not shutil.which("age-keygen"), reason="no age")
def test_two_keys_of_age(place, secret: str) -> None:
    """Of one kind, told apart by their names; each wraps its own key, for its own name."""
    settings = {"of": "command:one,command:two"}
    for name in ("one", "two"):
        identity = place.top / f"{name}.txt"
        subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
        public = subprocess.run(["age-keygen", "-y", identity], check=True, capture_output=True, text=True).stdout.strip()
        settings |= {f"{name}.recipe": "age", f"{name}.recipient": public, f"{name}.identity": str(identity)}
    quorum = Quorum(settings).settle().set(secret)
    assert quorum.ask("get") == ("ok", secret)
    assert quorum.ask("probe")[1] == "2 of 2 members are there, and 2 are needed"
    (place.top / "two.txt").unlink()
    outcome, said = quorum.ask("get")
    assert outcome == "error" and said.endswith("one ok, two error; two: age failed, with exit code 1")


@pytest.fixture
def bao(tmp_path: Path) -> Iterator[OpenBao]:
    with OpenBao(tmp_path) as bao:
        yield bao.set_up()


@pytest.mark.slow
@pytest.mark.skipif(bool(openbao_server.MISSING), reason=openbao_server.MISSING or "it is there")
def test_a_real_openbao_and_boxes(bao: OpenBao, boxes: dict[str, Box], secret: str, place) -> None:
    token = place.top / "token"
    token.write_text(bao.root + "\n")
    token.chmod(0o600)
    del boxes["c"]
    server = {"openbao.address": bao.url, "openbao.ca-file": str(bao.ca), "openbao.token-file": str(token)}
    quorum = of_boxes(boxes, "openbao", **server).set(secret)
    assert quorum.records()["openbao"]["kept"].startswith("vault:v1:")
    boxes["a"].mode("unavailable")
    assert quorum.ask("get") == ("ok", secret)
    bao.seal()
    outcome, said = quorum.ask("get")
    assert outcome == "unavailable" and "openbao: " in said and "sealed" in said
    boxes["a"].mode("ok")
    assert quorum.ask("get") == ("ok", secret)
    bao.unseal()
    boxes["a"].mode("denied")
    assert quorum.ask("get") == ("ok", secret)


# With a vault


@pytest.mark.slow
def test_a_vault_is_opened_by_two_of_three(machine: Machine, relay: Relay, boxes: dict[str, Box], canary: Canary) -> None:
    """And by the phone where only one is there: that is said, and by its name the quorum alone is asked."""
    operator = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=operator.secret_key().to_bech32()) as phone:
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)
        machine("set", "openai/API_KEY", input=canary.value)
        paths = [f"{name}.path={box.path}" for name, box in boxes.items()]
        words = ("custody", "add", "quorum", "need=2", "of=program:a,program:b,program:c", *paths, "--yes")
        assert "quorum opens this vault from now on, and asks nobody" in machine(*words).stderr
        asked = len(phone.requests("nip44_decrypt"))
        shown = machine("custody", "list", "--json").json["custodians"][0]
        assert (shown["kind"], shown["said"]) == ("quorum", "3 of 3 members are there, and 2 are needed")
        boxes["b"].mode("unavailable")
        machine("lock")
        machine("unlock")
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
        machine("custody", "test", "quorum")
        assert len(phone.requests("nip44_decrypt")) == asked
        boxes["c"].mode("denied")
        machine("lock")
        assert "c: the box says denied" in machine("unlock", "--with", "quorum", code=5).stderr
        machine("unlock")
        assert len(phone.requests("nip44_decrypt")) == asked + 1
        assert any("a ok, b unavailable, c denied" in text for text in machine.status()["warnings"])
        for box in boxes.values():
            box.mode("ok")
        machine("custody", "remove", "quorum", "--yes")
        assert not [each for name, box in boxes.items() for each in box.place.glob("quorum*")]


def test_a_member_takes_no_answer_to_an_earlier_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its envelope is not made anew, so that a relay could give an old answer again; a phone's of its own is."""
    taken: list[bool] = []
    keys, peer, opens = avault.make_keys(), avault.make_keys(), avault.make_keys()

    class Remote:
        is_old = is_resting = False

        def __init__(self, *given: object) -> None: ...
        async def open(self) -> None: ...
        async def close(self) -> None: ...
        async def request(self, *given: object, is_told_by_content: bool) -> str:
            taken.append(is_told_by_content)
            return "found"

    monkeypatch.setattr(avault, "RemoteSigner", Remote)
    kept = {"client_key": keys.secret_key().to_hex(), "signer": avault.public_hex(keys), "relays": "ws://127.0.0.1:9"}
    kept |= {"peer": avault.public_hex(peer), "envelope": "x", "opens": avault.public_hex(opens)}
    settings = {"operator": avault.to_npub(avault.public_hex(keys))}
    request = {"name": "alice", "settings": settings, "kept": json.dumps(kept), "bound": "b", "account": "a"}
    request |= {"label": "l", "limit": 9.0}
    whole = avault.Errand(request, avault.Prompt(None, None))
    part = avault.Errand(request, avault.Prompt(None, None), whole)
    for errand in (whole, part):
        assert avault.OperatorPhone(errand).get() == "found"
    assert taken == [True, False]
    whole.is_waited_for = False
    assert not part.is_wanted(), "nor is a member asked where nobody waits"
