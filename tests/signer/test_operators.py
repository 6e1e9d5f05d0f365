"""Several operators: each may approve, on the machines that are paired with that phone; and who is removed may no more."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
import peers
import pytest
from box import Box
from canary import Canary
from harness import AVAULT, Done, Machine, Screen, wait_until
from peers import Relay, Rogue, misdeeds
from test_custody import init_with_passphrase, type_passphrase

import avault

pytestmark = pytest.mark.usefixtures("forks")
REFUSED = misdeeds.REFUSALS["amber, clave"]


class Office:
    """A machine whose own phone has opened its vault, and another person's phone, whose app shows a bunker URI."""

    def __init__(self, machine: Machine, relay: Relay, phone: Rogue, other: Rogue) -> None:
        self.machine, self.relay, self.phone, self.other = machine, relay, phone, other
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)
        self.npub = nostr_sdk.PublicKey.parse(other.user).to_bech32()

    def admit(self, name: str = "alice") -> None:
        self.machine("operator", "add", self.npub, "--name", name, "--yes")

    def pair(self, name: str = "alice", code: int | None = 0, machine: Machine | None = None, **env: str) -> str:
        """Pair the other phone; in the drill it refuses."""
        machine = machine or self.machine
        uri = machine.top / "uri"
        uri.write_text(self.other.uri)
        uri.chmod(0o600)
        words = ("phone", f"operator={self.npub}", "bunker=ask", "--name", name, "--passphrase-file", str(uri), "--yes")
        return machine("custody", "add", *words, code=code, **env).stderr

    def join(self) -> None:
        """Have the other person be an operator whose phone this machine asks too."""
        self.admit()
        self.other.behave("nip44_decrypt", REFUSED, requests=1)
        self.pair()

    def sentences(self, phone: Rogue, keys: nostr_sdk.Keys) -> list[str]:
        """What a phone was asked, in words."""
        asked = [request["params"] for request in phone.requests("nip44_decrypt")]
        texts = [nostr_sdk.nip44_decrypt(keys.secret_key(), nostr_sdk.PublicKey.parse(peer), text) for peer, text in asked]
        return [str(json.loads(text)["content"]) for text in texts]


@pytest.fixture
def keys() -> list[nostr_sdk.Keys]:
    """The keys of the operator, and of alice."""
    return [nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate()]


@pytest.fixture
def office(machine: Machine, relay: Relay, keys: list[nostr_sdk.Keys]) -> Iterator[Office]:
    own, others = (each.secret_key().to_bech32() for each in keys)
    with peers.rogue([relay.url], nsec=own) as phone, peers.rogue([relay.url], nsec=others) as other:
        yield Office(machine, relay, phone, other)


def own_file(machine: Machine) -> dict[str, Any]:
    return dict(avault.decode_file("custody", (machine.own / "custody-alice.json").read_bytes(), "alice"))


# Who there is


def test_an_operator_is_added_if_the_operator_agrees(office: Office, keys: list[nostr_sdk.Keys]) -> None:
    machine = office.machine
    office.phone.behave("nip44_decrypt", REFUSED, requests=1)
    machine("operator", "add", office.npub, "--name", "alice", "--yes", code=5)
    assert "alice" not in machine("operator", "list").stdout
    done = machine("operator", "add", office.npub, "--name", "alice", "--yes")
    assert f"avault custody add phone --name alice operator={office.npub}" in done.stderr
    sentence = office.sentences(office.phone, keys[0])[-1]
    assert f"let alice ({office.npub}) approve for test@machine as you do, on every machine" in sentence
    listed = machine("operator", "list", "--json").json["operators"]
    assert [(each["name"], each["asked_here"]) for each in listed] == [(None, True), ("alice", False)]
    assert machine.status()["operators"] == {"alice": office.npub}
    assert not office.other.requests("nip44_decrypt"), "alice was not asked"


def test_what_no_operator_can_be(office: Office) -> None:
    machine, status = office.machine, office.machine.status()
    office.admit()
    for npub, name in ((office.npub, "bob"), (status["agent_npub"], "bob"), (status["signer_npub"], "bob")):
        machine("operator", "add", npub, "--name", name, "--yes", code=2)
    other = nostr_sdk.Keys.generate().public_key().to_bech32()
    assert "there is an operator alice already" in machine("operator", "add", other, "--name", "alice", "--yes", code=2).stderr
    assert "not a Nostr public key" in machine("operator", "add", "npub1nobody", "--yes", code=2).stderr
    assert "not a name" in machine("operator", "add", other, "--name", "Alice!", "--yes", code=2).stderr
    machine("operator", "remove", "bob", "--yes", code=4)
    machine("lock")
    machine("operator", "add", other, "--name", "bob", "--yes", code=3)
    machine("operator", "list", code=3)


@pytest.mark.slow
def test_each_can_recover(office: Office, canary: Canary, keys: list[nostr_sdk.Keys]) -> None:
    """nsec.enc has an envelope for each; and a machine that one has recovered is that one's."""
    machine = office.machine
    machine("set", "openai/API_KEY", input=canary.value)
    office.admit()
    status = machine.status()
    for npub, phone in ((status["signer_npub"], office.phone), (office.npub, office.other)):
        with Machine(machine.top / phone.user[:8]) as place:
            place.vault.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(machine.vault, place.vault)
            names = ("--agent", status["agent_npub"], "--signer-npub", npub)
            place("recover", *names, "--no-drill", "--bunker", "-", input=phone.uri)
            assert place("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
            assert place.status()["signer_npub"] == npub
            place("lock")
            place("unlock")
            assert place("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"


def test_a_recovery_copy_for_others_than_the_vault_says_is_made_anew(office: Office) -> None:
    machine, path = office.machine, office.machine.vault / "nsec.enc"
    before = path.read_bytes()
    office.admit()
    assert len(avault.decode_file("nsec", path.read_bytes(), "")["others"]) == 1
    path.write_bytes(before)
    assert any("not for the operators that the vault has" in each for each in machine.status()["warnings"])
    assert len(avault.decode_file("nsec", path.read_bytes(), "")["others"]) == 1


def test_who_is_removed_approves_no_more(office: Office) -> None:
    """Here at once; on a machine that was not told, at its next unlock."""
    machine = office.machine
    office.join()
    file = (machine.own / "custody-alice.json").read_bytes()
    machine("operator", "remove", "alice", "--yes")
    assert "alice" not in machine.status()["custodians"] and machine.status()["operators"] == {}
    assert "others" not in avault.decode_file("nsec", (machine.vault / "nsec.enc").read_bytes(), "")
    (machine.own / "custody-alice.json").write_bytes(file)
    register = machine.own / "custodians.json"
    content = avault.decode_file("custodians", register.read_bytes(), "")
    register.write_bytes(avault.encode_file("custodians", {**content, "order": ["alice", "phone"]}))
    machine("lock")
    office.phone.behave("nip44_decrypt", misdeeds.SILENCE)
    done = machine("unlock", "--with", "alice", code=5)
    assert "alice is no operator of this vault" in done.stderr and machine.status()["state"] == "locked"


# Whose phone


def test_the_phone_of_a_stranger_is_not_paired(office: Office) -> None:
    assert "avault operator add" in office.pair(code=5)
    office.admit()
    assert "avault operator add" in office.pair("bob", code=5)


def test_the_phone_is_that_operators(office: Office, relay: Relay) -> None:
    office.admit()
    with peers.rogue([relay.url]) as wrong:
        office.other = wrong
        assert "and not npub1" in office.pair(code=5)
    assert "alice" not in office.machine.status()["custodians"]


def test_an_app_that_approves_by_itself_is_not_taken(office: Office) -> None:
    office.admit()
    assert "approves by itself protects nothing" in office.pair(code=5)
    assert "alice" not in office.machine.status()["custodians"]


def test_a_phone_that_scans_a_code(office: Office) -> None:
    """At a terminal: the code is shown there, and the phone of this machine's operator agrees first."""
    machine = office.machine
    office.admit()
    office.other.behave("nip44_decrypt", REFUSED, requests=1)
    words = ("custody", "add", "phone", f"operator={office.npub}", f"relays={office.relay.url}", "--name", "alice", "--yes")
    with Screen(machine, AVAULT, *words, lines=90, columns=200) as screen:
        uri = screen.expect(r"(nostrconnect://[^\s]+)")[1].decode()
        office.other.nostrconnect(uri)
        screen.expect("a drill: REJECT the next request on the phone of alice")
        screen.expect("the phone of alice is asked, code [0-9A-Z]{4}")
        screen.expect("alice opens this vault from now on")
        screen.wait()
    machine("custody", "test", "alice")


# Unlocking


def test_both_are_asked_and_the_first_approval_opens(office: Office, keys: list[nostr_sdk.Keys]) -> None:
    machine = office.machine
    office.join()
    for silent, approving in ((office.phone, office.other), (office.other, office.phone)):
        machine("lock")
        silent.behave("nip44_decrypt", misdeeds.SILENCE)
        approving.behave("nip44_decrypt", [{"wait": True, "honest": True}])
        asked = len(silent.requests("nip44_decrypt"))
        running = machine.start("unlock")
        wait_until(lambda silent=silent, asked=asked: len(silent.requests("nip44_decrypt")) > asked, what="both are asked")
        approving.go()
        running.wait()
        assert machine.status()["state"] == "unlocked"
        approving.behave("nip44_decrypt", misdeeds.HONEST)
        silent.behave("nip44_decrypt", misdeeds.HONEST)
    assert "unlock test@machine on " in office.sentences(office.other, keys[1])[-1]


def test_one_refusal_ends_nobody_elses_question(office: Office) -> None:
    machine = office.machine
    office.join()
    for refusing, waiting in ((office.phone, office.other), (office.other, office.phone)):
        machine("lock")
        refusing.behave("nip44_decrypt", REFUSED)
        waiting.behave("nip44_decrypt", [{"wait": True, "honest": True}])
        running = machine.start("unlock")
        wait_until(lambda: any("did not open the vault" in each for each in machine.status()["warnings"]), what="the refusal")
        assert machine.status()["state"] == "waiting"
        waiting.go()
        running.wait()
        assert machine.status()["state"] == "unlocked"
        for phone in (refusing, waiting):
            phone.behave("nip44_decrypt", misdeeds.HONEST)


def test_all_refusals_end_it(office: Office) -> None:
    machine = office.machine
    office.join()
    machine("lock")
    for phone in (office.phone, office.other):
        phone.behave("nip44_decrypt", REFUSED)
    assert "refused" in machine("unlock", code=5).stderr
    assert machine.status()["state"] == "locked"
    asked = len(office.other.requests("nip44_decrypt"))
    machine.as_program("unlock", code=5)
    assert len(office.other.requests("nip44_decrypt")) == asked, "a program leaves both alone after that"


def test_without_this_machines_own_phone(office: Office) -> None:
    """It is taken out of the order: then alice alone is asked, and her refusal is one."""
    machine = office.machine
    office.join()
    machine("custody", "remove", "phone", "--yes")
    asked = len(office.phone.requests("nip44_decrypt"))
    machine("lock")
    office.other.behave("nip44_decrypt", REFUSED, requests=1)
    assert "refused" in machine("unlock", code=5).stderr
    assert machine.status()["state"] == "locked"
    machine("unlock")
    assert len(office.phone.requests("nip44_decrypt")) == asked


def test_who_is_asked_is_shown_with_the_code(office: Office, keys: list[nostr_sdk.Keys]) -> None:
    machine = office.machine
    office.join()
    machine("lock")
    for phone in (office.phone, office.other):
        phone.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    running = machine.start("unlock")
    wait_until(lambda: machine.status()["asked"], what="alice is asked")
    [shown] = machine.status()["asked"]
    wait_until(lambda: f"code {shown['code']}" in office.sentences(office.other, keys[1])[-1], what="the same code")
    assert shown["name"] == "alice"
    office.other.go()
    running.wait()


def test_what_was_approved_opens_nothing_afterwards(office: Office, keys: list[nostr_sdk.Keys]) -> None:
    """The ratchet of the other phones: after any unlock there is another envelope, and another sealed copy."""
    machine = office.machine
    office.join()
    seen = []
    for _ in range(2):
        before = own_file(machine)
        kept = json.loads(before["kept"])
        peer = nostr_sdk.PublicKey.parse(kept["peer"])
        answer = nostr_sdk.nip44_decrypt(keys[1].secret_key(), peer, kept["envelope"])
        assert avault.open_nsec(before, answer, "alice"), "it opened what lay there"
        machine("lock")
        machine("unlock")
        wait_until(lambda before=before: own_file(machine) != before, what="another envelope")
        with pytest.raises(avault.Tampered):
            avault.open_nsec(own_file(machine), answer, "alice")
        seen.append(kept)
    assert len({each["envelope"] for each in seen}) == 2 and len({each["client_key"] for each in seen}) == 1


@pytest.mark.slow
def test_a_late_approval_opens_nothing_and_turns_the_ratchet(office: Office) -> None:
    machine = office.machine
    office.join()
    machine("lock")
    before = own_file(machine)
    ask_and_leave(office)
    machine.wait_state("locked")
    office.other.go()
    wait_until(lambda: own_file(machine) != before, what="another envelope")
    assert machine.status()["state"] == "locked"


def test_the_disk_does_not_say_for_whom_it_is_made_anew(office: Office) -> None:
    """A program of the same user names another operator in the file: it is taken away."""
    machine, thief = office.machine, nostr_sdk.Keys.generate()
    office.join()
    content = own_file(machine)
    settings = {**content["settings"], "operator": thief.public_key().to_bech32()}
    (machine.own / "custody-alice.json").write_bytes(avault.encode_file("custody", {**content, "settings": settings}))
    machine("lock")
    office.phone.behave("nip44_decrypt", misdeeds.HONEST)
    machine("unlock", "--with", "phone")
    assert not (machine.own / "custody-alice.json").exists(), "it is of nobody whom the vault knows"


@pytest.mark.slow
def test_a_machine_is_paired_with_another_operator(office: Office, allow: Callable[[Path], Path]) -> None:
    machine = office.machine
    office.admit()
    other = ("pair", "--replace", "--no-drill", "--operator", office.npub, "--bunker", "-")
    machine(*other, input=office.other.uri)
    asked = len(office.phone.requests("nip44_decrypt"))
    machine("lock")
    machine("unlock")
    assert len(office.phone.requests("nip44_decrypt")) == asked
    assert machine.status()["signer_npub"] == office.npub
    stranger = nostr_sdk.Keys.generate().public_key().to_bech32()
    words = ("pair", "--replace", "--no-drill", "--operator", stranger, "--bunker", "-")
    machine(*words, input=office.other.uri, code=5)


# Two-person rules


@pytest.mark.slow
def test_a_quorum_of_phones(office: Office, relay: Relay) -> None:
    """Two of three, each a phone or a program: any two open it, and a refusal ends it."""
    pytest.importorskip("shamir_mnemonic")
    machine, box = office.machine, Box(office.machine.top)
    with peers.rogue([relay.url]) as bob:
        phones = {"alice": office.other, "bob": bob}
        npubs = {name: nostr_sdk.PublicKey.parse(phone.user).to_bech32() for name, phone in phones.items()}
        settings = [f"{name}.operator={npub}" for name, npub in npubs.items()]
        settings += [f"{name}.relays={relay.url}" for name in phones] + [f"box.path={box.path}"]
        words = ("custody", "add", "quorum", "--need", "2", "--of", "phone:alice,phone:bob,program:box", *settings, "--yes")
        with Screen(machine, AVAULT, *words, lines=150, columns=200) as screen:
            for name, phone in phones.items():
                phone.behave("nip44_decrypt", REFUSED, requests=1)
                uri = screen.expect(rf"with the phone of quorum.{name}.*?(nostrconnect://[^\s]+)")[1].decode()
                phone.nostrconnect(uri)
                screen.expect("a drill: REJECT")
            screen.expect("quorum opens this vault from now on")
            screen.wait()
        machine("lock")
        asked = {name: len(phone.requests("nip44_decrypt")) for name, phone in phones.items()}
        machine("unlock", "--with", "quorum")
        assert {name: len(phone.requests("nip44_decrypt")) - asked[name] for name, phone in phones.items()} == {
            "alice": 1,
            "bob": 0,
        }
        machine("lock")
        office.other.behave("nip44_decrypt", REFUSED)
        machine("unlock", "--with", "quorum", code=5)
        assert len(bob.requests("nip44_decrypt")) == asked["bob"], "nobody is asked after a refusal"
        box.mode("not_found")
        office.other.behave("nip44_decrypt", misdeeds.HONEST)
        machine("unlock", "--with", "quorum")
        assert len(bob.requests("nip44_decrypt")) == asked["bob"] + 1


@pytest.mark.slow
def test_a_new_agents_key_is_for_all_of_them(office: Office, canary: Canary) -> None:
    """One approves the rotation; the other's phone opens the vault with the new key, here and on a new machine."""
    machine = office.machine
    office.join()
    machine("set", "openai/API_KEY", input=canary.value)
    old, asked = machine.status()["agent_npub"], len(office.other.requests("nip44_decrypt"))
    done = machine("rotate", "agent", "--yes", "--json")
    assert done.json["left"] == [] and machine.status()["agent_npub"] == done.json["agent"] != old
    assert len(office.other.requests("nip44_decrypt")) == asked, "alice was not asked"
    assert json.loads((machine.vault / "nsec.enc").read_text())["others"][0]["operator"] == office.npub
    machine("lock")
    office.phone.behave("nip44_decrypt", [])
    machine("unlock")
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert len(office.other.requests("nip44_decrypt")) == asked + 1


# Another phone in place of the first


def succeed(office: Office, code: int | None = 0) -> Done:
    """The other phone takes the place of the first, which has to agree."""
    words = ("rotate", "operator", "--to", office.npub, "--bunker", "-", "--no-drill", "--yes")
    return office.machine(*words, input=office.other.uri, code=code)


@pytest.mark.slow
def test_the_old_phone_agrees_and_the_new_one_proves(office: Office, canary: Canary, keys: list[nostr_sdk.Keys]) -> None:
    machine = office.machine
    machine("set", "openai/API_KEY", input=canary.value)
    before, copy = machine.status(), (machine.vault / "nsec.enc").read_bytes()
    office.phone.behave("nip44_decrypt", REFUSED, requests=1)
    succeed(office, code=5)
    assert machine.status()["operators"] == {} and not office.other.requests("nip44_decrypt")
    succeed(office)
    sentence = office.sentences(office.phone, keys[0])[-1]
    assert f"{office.npub} approves for test@machine in your place" in sentence and "yours approves NO MORE" in sentence
    assert machine.status()["signer_npub"] == office.npub and machine.status()["operators"] == {}
    found = avault.decode_file("nsec", (machine.vault / "nsec.enc").read_bytes(), "")
    assert found["operator"] == office.npub and "others" not in found
    assert avault.read_hints(str(machine.vault / "nip46.json"))["signer_npub"] == office.npub
    machine("lock")
    asked_before = asked(office.phone)
    machine("unlock")
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert asked(office.phone) == asked_before
    assert not [each for each in machine.status()["warnings"] if "approv" not in each]
    report = machine("rotate", "report", "--json", code=1).json
    assert [each["key"] for each in report["exposed"]] == ["API_KEY"]
    assert before["signer_npub"][:16] in report["marks"][0]
    machine("operator", "add", before["signer_npub"], "--name", "bob", "--yes")  # may come back, if the new one agrees
    machine("operator", "remove", "bob", "--yes")
    (machine.vault / "nsec.enc").write_bytes(copy)
    wait_until(lambda: any("nsec.enc is of another" in each for each in machine.status()["warnings"]))


@pytest.mark.slow
def test_another_machine_is_told_whose_phone_it_is_to_pair(office: Office, canary: Canary) -> None:
    machine = office.machine
    status = machine.status()
    with Machine(machine.top / "other", vault=machine.vault) as place:
        names = ("--agent", status["agent_npub"], "--signer-npub", status["signer_npub"])
        machine("daemon", "stop")
        place("recover", *names, "--no-drill", "--bunker", "-", input=office.phone.uri)
        place("set", "openai/API_KEY", input=canary.value)
        place("daemon", "stop")
        machine("unlock")
        succeed(office)
        machine("daemon", "stop")
        refused = place("unlock", code=5).stderr
        assert f"{status['signer_npub']} approves for this vault no more" in refused
        assert f"avault pair --replace --operator {office.npub}" in refused
        place("pair", "--replace", "--operator", office.npub, "--no-drill", "--bunker", "-", input=office.other.uri)
        assert place("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"


@pytest.mark.slow
def test_custodians_of_other_machines_open_it_as_before(office: Office, canary: Canary) -> None:
    """They are of nobody's phone; who agrees there is who is in the operator's place now."""
    machine, box = office.machine, Box(office.machine.top)
    status = machine.status()
    with Machine(machine.top / "other", vault=machine.vault) as place:
        machine("daemon", "stop")
        names = ("--agent", status["agent_npub"], "--signer-npub", status["signer_npub"])
        place("recover", *names, "--no-drill", "--bunker", "-", input=office.phone.uri)
        place("custody", "add", "program", f"path={box.path}", "--name", "box", "--yes")
        place("set", "openai/API_KEY", input=canary.value)
        canary.watch(box.kept())
        place("daemon", "stop")
        machine("unlock")
        succeed(office)
        machine("daemon", "stop")
        place("custody", "test", "box")
        place("unlock", "--with", "box")
        assert place("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
        warnings = " ".join(place.status()["warnings"])
        assert f"the first operator is {office.npub} now, and was {status['signer_npub']}" in warnings
        assert place.status()["signer_npub"] == office.npub
        assert "nobody has shown yet that the phone opens" in place("custody", "remove", "phone", "--yes", code=5).stderr
        place("lock")
        place("unlock", "--with", "box")
        assert "the first operator is" in " ".join(place.status()["warnings"]), "until a phone has opened it"
        place("pair", "--replace", "--operator", office.npub, "--no-drill", "--bunker", "-", input=office.other.uri)
        place("lock")
        place("unlock", "--with", "phone")
        assert "the first operator is" not in " ".join(place.status()["warnings"])
        place("custody", "remove", "box", "--yes")


def test_only_the_first_operators_phone_gives_the_place_away(office: Office, keys: list[nostr_sdk.Keys]) -> None:
    machine = office.machine
    office.admit()
    machine("pair", "--replace", "--no-drill", "--operator", office.npub, "--bunker", "-", input=office.other.uri)
    before, third = asked(office.other), nostr_sdk.Keys.generate().public_key().to_bech32()
    words = ("rotate", "operator", "--to", third, "--bunker", "-", "--no-drill", "--yes")
    done = machine(*words, input=office.phone.uri, code=5)
    assert "not the first operator's" in done.stderr and asked(office.other) == before
    first = machine.status()["first_operator"]
    listed = machine("operator", "list").stdout
    assert listed == f"(first)  {first}  not asked here\nalice  {office.npub}  asked here\n"
    machine("rotate", "agent", "--yes")
    assert f"Besides you it is opened by: first operator ({first[:19]}…)." in office.sentences(office.other, keys[1])[-1]


def test_between_the_two_both_open_and_it_is_gone_on_with_or_taken_back(office: Office) -> None:
    machine = office.machine
    office.other.behave("nip44_decrypt", REFUSED)
    succeed(office, code=5)
    before = asked(office.phone)
    assert "agreed to that already" in succeed(office, code=5).stderr and asked(office.phone) == before
    machine("lock")
    machine("unlock")
    machine("operator", "remove", "successor", "--yes")
    assert machine.status()["operators"] == {} and asked(office.phone) == before + 2
    office.other.behave("nip44_decrypt", misdeeds.HONEST)
    succeed(office)
    assert asked(office.phone) == before + 3 and machine.status()["signer_npub"] == office.npub


def test_what_cannot_be_written_is_written_at_the_next_unlock(office: Office) -> None:
    machine = office.machine
    office.other.behave("nip44_decrypt", REFUSED)
    succeed(office, code=5)
    office.other.behave("nip44_decrypt", misdeeds.HONEST)
    machine.vault.chmod(0o500)
    try:
        succeed(office, code=1)
    finally:
        machine.vault.chmod(0o700)
    assert "successor" in machine.status()["operators"]
    machine("lock")
    machine("unlock")
    wait_until(lambda: machine.status()["operators"] == {}, what="the successor's place in the vault")
    assert machine.status()["signer_npub"] == office.npub


def test_who_can_take_the_place(office: Office) -> None:
    machine, status = office.machine, office.machine.status()
    for npub in (status["signer_npub"], status["agent_npub"]):
        machine("rotate", "operator", "--to", npub, "--yes", code=2)
    machine("rotate", "operator", "--yes", code=2)
    assert "rotate operator" in machine("operator", "add", office.npub, "--name", "successor", "--yes", code=2).stderr
    office.admit()  # who is an operator already
    succeed(office)
    assert machine.status()["operators"] == {} and machine.status()["signer_npub"] == office.npub


@pytest.mark.slow
def test_who_was_removed_is_in_the_report(office: Office, canary: Canary) -> None:
    office.machine("set", "openai/API_KEY", input=canary.value)
    office.admit()
    office.machine("operator", "remove", "alice", "--yes")
    report = office.machine("rotate", "report", "--json", code=1).json
    assert "operator alice removed" in report["exposed"][0]["why"]


# Found by an attacker

WAITS = [{"wait": True, "honest": True}]


def asked(phone: Rogue) -> int:
    return len(phone.requests("nip44_decrypt"))


def ask_and_leave(office: Office, *words: str) -> None:
    """Both phones are asked, and whoever asked gives up."""
    phones = [office.phone, office.other]
    for phone in phones:
        phone.behave("nip44_decrypt", WAITS)
    before = [*map(asked, phones)]
    running = office.machine.start("unlock", *words)
    wait_until(lambda: all(asked(phone) > count for phone, count in zip(phones, before, strict=True)), what="both are asked")
    running.process.send_signal(signal.SIGINT)
    assert running.wait().returncode == 130


@pytest.mark.slow
def test_her_approval_counts_after_another_came_too_late(office: Office) -> None:
    """What lay there when she was asked is what her answer opens."""
    machine = office.machine
    office.join()
    machine("lock")
    ask_and_leave(office)
    before = own_file(machine)
    office.phone.go()
    wait_until(lambda: own_file(machine) != before, what="another envelope")
    office.phone.behave("nip44_decrypt", misdeeds.SILENCE)
    running = machine.start("unlock", "--timeout", "60s")
    wait_until(lambda: machine.status()["state"] == "waiting", what="it is asked")
    office.other.go()
    running.wait()
    assert machine.status()["state"] == "unlocked"


@pytest.mark.slow
def test_who_approved_too_late_is_asked_again(office: Office) -> None:
    """That was no refusal: the next who asks, though it is a program, has that phone asked anew."""
    machine = office.machine
    office.join()
    machine("lock")
    ask_and_leave(office)
    office.other.go()
    wait_until(lambda: not machine.status()["asked"], what="her helper ends")
    before = asked(office.other)
    running = machine.start("unlock", "--timeout", "60s")
    wait_until(lambda: asked(office.other) > before, what="she is asked anew")
    office.other.go()
    running.wait()
    assert machine.status()["state"] == "unlocked"


def test_an_answer_to_an_old_card_ends_nothing(office: Office) -> None:
    machine = office.machine
    office.join()
    machine("lock")
    for phone in (office.phone, office.other):
        phone.behave("nip44_decrypt", WAITS)
    before = asked(office.other)
    running = machine.start("unlock")
    wait_until(lambda: asked(office.other) > before, what="both are asked")
    office.phone.go()
    running.wait()
    machine("lock")
    office.phone.behave("nip44_decrypt", misdeeds.SILENCE)
    before = asked(office.other)
    running = machine.start("unlock", "--timeout", "60s")
    wait_until(lambda: asked(office.other) > before, what="she is asked anew")
    office.other.go()  # to the card that she still has, and then to the new one
    running.wait()
    assert machine.status()["state"] == "unlocked"


@pytest.mark.slow
@pytest.mark.long
def test_programs_leave_who_has_refused_alone(office: Office) -> None:
    machine = office.machine
    office.join()
    for refusing, silent in ((office.other, office.phone), (office.phone, office.other)):
        machine("lock")
        silent.behave("nip44_decrypt", misdeeds.SILENCE)
        refusing.behave("nip44_decrypt", REFUSED)
        before = asked(refusing)
        for timeout in ("4s", "1s", "1s"):
            machine.as_program("unlock", "--timeout", timeout, code=None)
        assert asked(refusing) == before + 1
        for phone in (refusing, silent):
            phone.behave("nip44_decrypt", misdeeds.HONEST)
        machine("lock")  # else the silent one is asked again only when the question is repeated
        machine("unlock", "--again")
    machine("lock")
    office.other.behave("nip44_decrypt", REFUSED)
    before = asked(office.other)
    for _ in range(3):
        machine.as_program("unlock", "--with", "alice", code=5)
    assert asked(office.other) == before + 1


def test_a_vault_that_does_not_open_says_nothing_about_the_operators(office: Office) -> None:
    """nsec.enc stays for all of them, whoever recovers a copy that is damaged."""
    machine = office.machine
    office.admit()
    status = machine.status()
    with Machine(machine.top / "copy") as place:
        place.vault.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(machine.vault, place.vault)
        before = (place.vault / "nsec.enc").read_bytes()
        (place.vault / "avault.enc").write_bytes(b"garbage")
        names = ("--agent", status["agent_npub"], "--signer-npub", office.npub)
        place("recover", *names, "--no-drill", "--bunker", "-", input=office.other.uri, code=8)
        assert (place.vault / "nsec.enc").read_bytes() == before


def test_the_order_in_which_they_came_is_nothing(office: Office) -> None:
    machine = office.machine
    bob = nostr_sdk.Keys.generate().public_key().to_bech32()
    machine("operator", "add", bob, "--name", "bob", "--yes")
    office.admit()
    before = (machine.vault / "nsec.enc").read_bytes()
    machine("lock")
    machine("unlock")
    assert (machine.vault / "nsec.enc").read_bytes() == before


def test_a_damaged_pairing_keeps_nobody_else_out(office: Office) -> None:
    machine = office.machine
    office.join()
    machine("lock")
    (machine.own / "pairing.json").write_bytes(b"garbage")
    machine("unlock", "--timeout", "60s")
    assert machine.status()["state"] == "unlocked"


def test_two_who_ask_the_same_phone_are_told_apart(office: Office) -> None:
    machine = office.machine
    office.join()
    machine("custody", "remove", "phone", "--yes")
    machine("lock")
    office.other.behave("nip44_decrypt", [{"wait": True, **REFUSED[0]}])
    before = asked(office.other)
    one = machine.start("unlock")
    wait_until(lambda: asked(office.other) > before, what="she is asked")
    two = machine.start("unlock", "--with", "alice")
    wait_until(lambda: asked(office.other) > before + 1, what="she is asked for the second")
    office.other.go()
    for running in (one, two):
        running.process.wait(60)


@pytest.mark.slow
def test_nobody_is_asked_any_more_when_nobody_waits(office: Office) -> None:
    """Late, nothing is opened, and it is not asked anew; nor is the wish of who left kept."""
    machine = office.machine
    office.join()
    machine("lock")
    ask_and_leave(office, "--accept-rollback")
    machine("lock")
    before = own_file(machine)
    sent = asked(office.other)
    office.other.go()
    wait_until(lambda: own_file(machine) != before, what="another envelope")
    wait_until(lambda: not machine.status()["asked"], what="nobody is asked")
    assert machine.status()["state"] == "locked" and asked(office.other) == sent


@pytest.mark.slow
def test_who_was_removed_is_forgotten_on_a_machine_that_was_not_told(office: Office) -> None:
    machine = office.machine
    office.join()
    kept = {name: (machine.own / name).read_bytes() for name in ("custody-alice.json", "custodians.json")}
    machine("operator", "remove", "alice", "--yes")
    for name, data in kept.items():
        (machine.own / name).write_bytes(data)
    machine("lock")
    before = asked(office.other)
    office.other.behave("nip44_decrypt", misdeeds.SILENCE)
    machine("unlock")
    assert not (machine.own / "custody-alice.json").exists() and machine.status()["custodians"] == ["phone"]
    machine("lock")
    before = asked(office.other)
    machine("unlock")
    assert asked(office.other) == before


def test_when_she_last_opened_it_is_known(office: Office) -> None:
    machine = office.machine
    office.join()
    register = machine.own / "custodians.json"
    content = avault.decode_file("custodians", register.read_bytes(), "")
    register.write_bytes(avault.encode_file("custodians", {**content, "opened": {}}))
    machine("lock")
    office.phone.behave("nip44_decrypt", misdeeds.SILENCE)
    machine("unlock")
    wait_until(lambda: "alice" in avault.decode_file("custodians", register.read_bytes(), "")["opened"], what="it is noted")


def test_a_test_of_her_phone_needs_an_open_vault(office: Office) -> None:
    """What she answers in it is made worthless at once."""
    machine = office.machine
    office.join()
    before = own_file(machine)
    machine("custody", "test", "alice")
    wait_until(lambda: own_file(machine) != before, what="another envelope")
    machine("lock")
    machine("custody", "test", "alice", code=3)


def test_the_last_phone_stays(office: Office) -> None:
    machine = office.machine
    office.join()
    machine("custody", "remove", "phone", "--yes")
    done = machine("operator", "remove", "alice", "--yes", code=5)
    assert "the last that opens this vault here" in done.stderr


@pytest.mark.slow
def test_an_approval_of_an_unlock_agrees_to_nothing_else(machine: Machine, relay: Relay, canary: Canary) -> None:
    """In a vault without a phone: an operator's phone is shown the words for an unlock, and agrees to no change."""
    init_with_passphrase(machine, canary)
    with peers.rogue([relay.url]) as alice:
        npub = nostr_sdk.PublicKey.parse(alice.user).to_bech32()
        with Screen(machine, AVAULT, "operator", "add", npub, "--name", "alice", "--yes") as screen:
            type_passphrase(screen, 1)
            screen.wait()
        alice.behave("nip44_decrypt", REFUSED, requests=1)
        words = ("custody", "add", "phone", f"operator={npub}", f"relays={relay.url}", "--name", "alice", "--yes")
        with Screen(machine, AVAULT, *words, lines=90, columns=200) as screen:
            type_passphrase(screen, 1)
            alice.nostrconnect(screen.expect(r"(nostrconnect://[^\s]+)")[1].decode())
            screen.expect("alice opens this vault from now on")
            screen.wait()
        before = asked(alice)
        mallory = nostr_sdk.Keys.generate().public_key().to_bech32()
        machine("operator", "add", mallory, "--name", "mallory", "--yes", code=None)
        assert asked(alice) == before and machine.status()["operators"] == {"alice": npub}
