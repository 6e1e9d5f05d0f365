"""Pairing, drill, unlock and refusal: with the signers of others, and with one that misbehaves.

`ndk` and `applesauce` run whole stories over both relays. The shapes of answers, silence and timing are played by
`rogue`, which reports every request that arrives, also the same event again.
"""

import asyncio
import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nostr_sdk
import peers
import pytest
from canary import Canary
from harness import AVAULT, Machine, Screen, wait_until
from peers import Phone, Relay, Rogue, misdeeds
from test_commands import in_terminal

import avault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

FAST_REFUSALS = {
    name: steps for name, steps in misdeeds.REFUSALS.items() if name not in ("nsec.app, ndk", "aegis, nak")
}  # the others are authorization errors: avault listens 5 s more


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with peers.local_relay(rate_limit={"max_reqs": 1000, "notes_per_minute": 10_000}) as relay:
        yield relay


@pytest.fixture(scope="module")
def storing_relay() -> Iterator[Relay]:
    with peers.nostr_relay() as relay:
        yield relay


@pytest.fixture
def paired(machine: Machine, rogue: Rogue) -> Machine:
    """A machine that is paired with the rogue, and locked."""
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=rogue.uri)
    machine("lock")
    return machine


def approve(phone: Phone, yes: bool = True) -> None:
    phone.answer(phone.wait_for("ask")["id"], yes)


def decrypts(rogue: Rogue) -> list[str]:
    """The ids of the requests to decrypt that the signer has seen, each once, in order."""
    return list(dict.fromkeys(str(request["id"]) for request in rogue.requests("nip44_decrypt")))


def machine_is_empty(machine: Machine) -> bool:
    """Whether no process of its holds secrets, or may come to hold them."""
    return machine.status()["keyholder_pid"] is None


def parse_as_amber(uri: str) -> tuple[str, dict[str, list[str]]]:
    """Client and query of a nostrconnect:// URI: Amber decodes the whole query first, then takes it apart."""
    scheme, _, rest = uri.partition("://")
    client, _, query = rest.partition("?")
    assert scheme == "nostrconnect"
    found: dict[str, list[str]] = {}
    for pair in unquote(query.replace("+", "%2b")).split("&"):
        name, value = pair.split("=")
        found.setdefault(name, []).append(value)
    return client, found


# The signers of others

STORIES = [
    pytest.param(start, flow, kind, marks=[] if usual else [pytest.mark.slow], id=f"{start.__name__}-{flow}-{kind}")
    for start, flow, kind, usual in (
        (peers.ndk, "nostrconnect", "relay", True),
        (peers.ndk, "bunker", "storing_relay", True),
        (peers.applesauce, "bunker", "relay", True),
        (peers.applesauce, "nostrconnect", "storing_relay", True),
        (peers.ndk, "bunker", "relay", False),
        (peers.ndk, "nostrconnect", "storing_relay", False),
        (peers.applesauce, "nostrconnect", "relay", False),
        (peers.applesauce, "bunker", "storing_relay", False),
    )
]


@pytest.mark.parametrize(("start", "flow", "kind"), STORIES)
def test_story(
    start: Callable[..., Phone], flow: str, kind: str, machine: Machine, canary: Canary, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(kind).url
    with start([url]) as phone:
        if flow == "nostrconnect":
            done = machine.init(url, phone=phone)
        else:
            init = machine.start("init", "--name", "test@machine", "--bunker", "-", input=phone.uri)
            done = machine.operate(init, phone, scan=False)
        assert "the drill passed" in done.stderr
        assert "in the process list" not in done.stderr
        assert phone.seen("connected")[0]["perms"] == "get_public_key"
        status = machine.status()
        assert (status["state"], status["proven"], status["signer_approves_by_itself"]) == ("unlocked", True, False)
        assert status["signer_npub"] == nostr_sdk.PublicKey.parse(phone.user).to_bech32()
        machine("set", "openai/API_KEY", input=canary.value)
        machine("lock")

        unlock = machine.start("unlock")
        approve(phone)
        assert unlock.wait().returncode == 0
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"

        machine("lock")
        unlock = machine.start("unlock")
        approve(phone, False)
        assert unlock.wait().returncode == 5
        assert machine.status()["error"]["code"] == "denied"
        assert machine("get", "openai/API_KEY", code=3).stdout == ""

        machine("daemon", "stop")
        machine("daemon", "start", "-b")
        assert machine.status()["state"] == "waiting"
        approve(phone)
        machine.wait_state("unlocked")
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"

        asked = [json.loads(ask["plaintext"])["content"] for ask in phone.seen("ask")]
        assert ["REJECT" in sentence for sentence in asked] == [False, True, False, False, False], "one prompt for each"
        connects = {event["event_id"] for event in phone.requests("connect")}
        assert len(connects) == (flow == "bunker"), "never sent again after pairing"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (peers.applesauce, "relay"),  # the same event again, at 15 s
        (peers.applesauce, "storing_relay"),  # the relay has it
        pytest.param(peers.ndk, "storing_relay", marks=pytest.mark.slow),  # hears from now on: a fresh event, at 60 s
    ],
)
def test_a_signer_that_comes_up_after_the_request_gets_it(
    start: Callable[..., Phone], kind: str, machine: Machine, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(kind).url
    with start([url]) as phone:
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)
        machine("lock")
        phone.policy("ask")
        phone.stop()
        old = {request["id"] for request in phone.requests("nip44_decrypt")}  # applesauce takes these from the store again
        unlock = machine.start("unlock")
        wait_until(lambda: (machine.status()["relays"] or [{}])[0].get("said") == "accepted", what="the relay took it")
        phone.start()

        def asked() -> list[str]:
            return [ask["id"] for ask in phone.seen("ask") if ask["id"] not in old]

        phone.answer(wait_until(asked, 70)[0], True)
        assert unlock.wait().returncode == 0
        assert len(asked()) == 1


# Pairing


def test_pairing_uri(machine: Machine, relay: Relay) -> None:
    second = peers.closed()
    init = machine.start("init", "--yes", "--name", "my agent.7@db 1", "--relay", relay.url, "--relay", second)
    uri = init.line("nostrconnect://")
    assert uri in init.stdout, "a line of its own, on stdout"
    assert "+" not in uri
    client, query = parse_as_amber(uri)
    assert nostr_sdk.PublicKey.parse(client).to_hex() == client
    secret = query.pop("secret")[0]
    assert len(bytes.fromhex(secret)) >= 16
    told = {name: [value] for name, value in avault.introduce("my agent.7@db 1").items()}
    assert query == {"relay": [relay.url, second], "perms": ["get_public_key"], **told}


def test_a_script_says_who_the_operator_is(machine: Machine, relay: Relay) -> None:
    """Whoever sees the code first could answer it: without a person to look at the npub, nothing is taken from there."""
    done = machine("init", "--relay", relay.url, code=2)
    assert "nobody is here to say whether the operator is the right one" in done.stderr
    assert "--signer-npub NPUB" in done.stderr
    assert not machine.vault.exists()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_the_operator_says_whether_it_is_them(machine: Machine, rogue: Rogue, relay: Relay, answer: str) -> None:
    def scan(shown: str) -> None:
        rogue.nostrconnect(re.findall(r"^nostrconnect://\S+", shown, re.MULTILINE)[0].strip())

    words = ["init", "--no-drill", "--relay", relay.url]
    shown, code = in_terminal(machine, words, [("&image=", scan), ("is that you, the operator? [y/N] ", answer + "\n")])
    npub = nostr_sdk.PublicKey.parse(rogue.user).to_bech32()
    assert f"the signer answers for {npub}" in shown
    assert code == (0 if answer == "y" else 5), shown
    assert (machine.vault / "avault.enc").exists() == (answer == "y")
    if answer == "n":
        assert "nothing was made" in shown
        assert not machine.vault.exists()


def test_a_second_signer_that_knows_the_code(machine: Machine, rogue: Rogue, relay: Relay) -> None:
    """Both have seen it, and nobody can tell which is the operator's."""
    uris: list[str] = []
    with peers.rogue([relay.url]) as thief:

        def be_scanned_by_the_thief(shown: str) -> None:
            uris.extend(re.findall(r"^nostrconnect://\S+", shown, re.MULTILINE))
            thief.nostrconnect(uris[0])

        def be_scanned_by_the_operator(shown: str) -> None:
            rogue.nostrconnect(uris[0])
            wait_until(lambda: machine_is_empty(machine), what="the end of the pairing")

        words = ["init", "--no-drill", "--relay", relay.url]
        dialogue = [("&image=", be_scanned_by_the_thief), ("[y/N] ", be_scanned_by_the_operator), ("[y/N] ", "y\n")]
        shown, code = in_terminal(machine, words, dialogue)
        assert "ALARM: two signers answered this pairing code" in shown
        assert code == 5 and not machine.vault.exists()


def test_a_second_signer_while_the_phone_is_asked(machine: Machine, rogue: Rogue, relay: Relay) -> None:
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    init = machine.start("init", "--yes", "--relay", relay.url)
    uri = init.line("nostrconnect://")
    rogue.nostrconnect(uri)
    rogue.wait_for("request", method="nip44_decrypt")
    with peers.rogue([relay.url]) as thief:
        thief.nostrconnect(uri)
        done = init.wait()
    assert done.returncode == 5 and "ALARM" in done.stderr
    assert f"operator: {nostr_sdk.PublicKey.parse(rogue.user).to_bech32()}" in done.stderr
    assert machine.status()["proven"] is False


def test_bunker_on_the_command_line_is_warned_of(machine: Machine, rogue: Rogue) -> None:
    done = machine("init", "--no-drill", "--bunker", rogue.uri)
    assert "stands in the process list" in done.stderr
    assert "--bunker -" in done.stderr


def test_a_bunker_uri_is_one_line(machine: Machine, rogue: Rogue) -> None:
    """Pasted on a terminal, it ends with Enter: nobody has to know of Ctrl-D."""
    command = [*machine.command, "init", "--yes", "--no-drill", "--bunker", "-"]
    with subprocess.Popen(command, env=machine.env, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as init:
        assert init.stdin
        init.stdin.write(f"{rogue.uri}\n".encode())
        init.stdin.flush()
        assert init.wait(60) == 0


def test_wrong_account_is_refused(machine: Machine, rogue: Rogue) -> None:
    words = ("--no-drill", "--bunker", "-")
    done = machine("init", "--signer-npub", machine.npub(), *words, input=rogue.uri, code=5)
    assert machine.npub() in done.stderr
    assert not machine.vault.exists()
    machine.init_unproven()
    machine("pair", *words, input=rogue.uri, code=5)
    assert machine.status()["proven"] is False
    assert not list(machine.state.rglob("pairing.json"))
    assert not rogue.requests("nip44_decrypt")


@pytest.mark.parametrize("shape", sorted(set(misdeeds.CONNECT_REFUSALS) - {"empty"}))
def test_refused_connect(machine: Machine, rogue: Rogue, shape: str) -> None:
    rogue.behave("connect", misdeeds.CONNECT_REFUSALS[shape])
    done = machine("init", "--no-drill", "--bunker", "-", input=rogue.uri, code=5)
    assert misdeeds.CONNECT_REFUSALS[shape][0]["say"]["error"] in done.stderr
    assert not machine.vault.exists()


def test_drill_that_is_approved(machine: Machine, rogue: Rogue) -> None:
    done = machine("init", "--bunker", "-", input=rogue.uri)
    assert "avault: warning: the request to reject was approved" in done.stderr
    assert "try it again with: avault drill" in done.stderr
    for app in ("Amber", "nsec.app", "Primal", "Clave"):
        assert app in done.stderr
    assert machine.status()["signer_approves_by_itself"] is True
    assert len(decrypts(rogue)) == 2


def test_an_answer_too_quick_for_a_person(machine: Machine, rogue: Rogue) -> None:
    """A remark about that answer, as the operator may just be quick; what the app does is known from the drill alone."""
    refusal = misdeeds.REFUSALS["amber, clave"]
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}], requests=1)
    init = machine.start("init", "--bunker", "-", input=rogue.uri)
    rogue.wait_for("request", method="nip44_decrypt")
    rogue.behave("nip44_decrypt", refusal, requests=1)
    rogue.go()
    assert init.wait().returncode == 0
    assert machine.status()["signer_approves_by_itself"] is False

    def unlock() -> str:
        machine("lock")
        said = machine("unlock").stderr
        assert machine.status()["signer_approves_by_itself"] is False
        return said

    def warned() -> str:
        """What is said once an answer has come as quickly as it was given, which it need not on a busy machine."""
        return str(wait_until(lambda: "avault: warning: approved within" in (said := unlock()) and said))

    assert "if that was not you" in (said := warned()) and "avault drill" in said
    rogue.behave("nip44_decrypt", [{"after_ms": 3000, "honest": True}], requests=1)
    said = unlock()
    assert "approved within" not in said and "in a row" not in said

    def in_a_row() -> bool:
        for _ in range(2):
            warned()
        machine("daemon", "stop")
        machine("daemon", "start", "-b")
        machine.wait_state("unlocked")
        return bool(re.search(r"avault: warning: \d+ approvals in a row came within 2\.5 s", machine("unlock").stderr))

    wait_until(in_a_row)
    rogue.behave("nip44_decrypt", refusal, requests=1)
    machine("drill")
    assert "in a row" not in machine("unlock").stderr
    warned()


def test_the_drill_alone(paired: Machine, rogue: Rogue) -> None:
    assert "the drill needs a paired, open vault" in paired("drill", code=3).stderr
    paired("unlock")
    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    done = paired("drill")
    assert "avault: a drill: REJECT the next request" in done.stderr and "the drill passed" in done.stderr
    assert paired.status()["signer_approves_by_itself"] is False
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    done = paired("drill", code=1)
    assert "the drill did not pass" in done.stderr and "Amber" in done.stderr
    status = paired.status()
    assert status["signer_approves_by_itself"] is True
    assert any("as the drill showed" in warning for warning in status["warnings"])


def test_pair_again(machine: Machine, relay: Relay, rogue: Rogue) -> None:
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=rogue.uri)
    assert "avault pair --replace" in machine("pair", code=2).stderr
    machine("lock")
    assert "avault pair --replace" in machine("pair", code=2).stderr
    old = rogue.requests("connect")[0]["client"]
    with peers.rogue([relay.url], nsec=rogue.config["nsec"]) as phone:  # a new phone, with the same account
        machine("pair", "--replace", "--no-drill", "--bunker", "-", input=phone.uri)
        status = machine.status()
        assert (status["state"], status["proven"]) == ("unlocked", True)
        assert len(decrypts(phone)) == 1
        machine("lock")
        machine("unlock")
        assert len(decrypts(phone)) == 2
        assert old not in {request["client"] for request in phone.seen("request")}
    assert len(decrypts(rogue)) == 1


@pytest.mark.parametrize("state", ["open", "locked"])
@pytest.mark.parametrize("end", ["refused", "silent", "locked meanwhile"])
def test_a_pairing_that_fails_leaves_all_as_it_was(state: str, end: str, paired: Machine, relay: Relay, rogue: Rogue) -> None:
    """The phone that worked goes on to work; nothing is written before the new one has opened something."""
    if state == "open":
        paired("unlock")
    before = {name: (paired.own / name).read_bytes() for name in ("pairing.json", "unlock.json")}
    hints = (paired.vault / "nip46.json").read_bytes()
    with peers.rogue([relay.url], nsec=rogue.config["nsec"]) as second:
        second.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"] if end == "refused" else misdeeds.SILENCE)
        words = ["--timeout", "2s"] if end == "silent" else []
        pair = paired.start("pair", "--replace", "--no-drill", "--bunker", "-", *words, input=second.uri)
        if end == "locked meanwhile":
            second.wait_for("request", method="nip44_decrypt")
            paired("lock")
        assert pair.wait().returncode == {"refused": 5, "silent": 7, "locked meanwhile": 6}[end]
    assert {name: (paired.own / name).read_bytes() for name in before} == before
    assert (paired.vault / "nip46.json").read_bytes() == hints
    paired("lock")
    paired("unlock")
    assert rogue.requests("connect")[0]["client"] == rogue.requests("nip44_decrypt")[-1]["client"]


def test_a_rejected_first_proof_leaves_no_pairing(machine: Machine, rogue: Rogue) -> None:
    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    machine("init", "--name", "test@machine", "--bunker", "-", input=rogue.uri, code=5)
    assert not list(machine.state.rglob("pairing.json"))
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    machine("pair", "--no-drill", "--bunker", "-", input=rogue.uri)
    assert machine.status()["proven"] is True
    assert list(machine.state.rglob("pairing.json"))


@pytest.mark.parametrize("state", ["open", "locked"])
def test_a_paired_machine_keeps_its_relays(state: str, paired: Machine, relay: Relay) -> None:
    """nip46.json is a hint, which anybody with push access writes: where it differs, that is said, and it is not followed."""
    if state == "open":
        paired("unlock")
    path = paired.vault / "nip46.json"
    hints = avault.decode_file("hints", path.read_bytes(), str(path))
    evil = "wss://evil.example"
    path.write_bytes(avault.encode_file("hints", {**hints, "relay": evil, "relays": [evil]}))
    pair = paired.start("pair", "--replace", "--no-drill")
    assert parse_as_amber(pair.line("nostrconnect://"))[1]["relay"] == [relay.url]
    assert evil in pair.line("avault: warning: nip46.json names others")
    pair.kill()
    pair = paired.start("pair", "--replace", "--no-drill", "--relay", relay.url, "--relay", evil)
    assert parse_as_amber(pair.line("nostrconnect://"))[1]["relay"] == [relay.url, evil], "the operator's word"


def test_init_for_an_npub_and_pair_later(machine: Machine, rogue: Rogue, relay: Relay) -> None:
    operator = nostr_sdk.PublicKey.parse(rogue.user).to_bech32()
    done = machine("init", "--signer-npub", operator, "--relay", relay.url)
    assert "avault pair" in done.stderr
    assert (machine.vault / "nip46.json").exists()
    status = machine.status()
    assert (status["state"], status["proven"], status["signer_npub"]) == ("unlocked", False, operator)
    machine("lock", code=5)
    pair = machine.start("pair", "--no-drill")
    uri = pair.line("nostrconnect://")
    assert parse_as_amber(uri)[1]["relay"] == [relay.url], "from nip46.json"
    rogue.nostrconnect(uri)
    assert pair.wait().returncode == 0
    assert machine.status()["proven"] is True
    machine("lock")
    machine("unlock")
    assert not rogue.requests("connect")


def test_qr_as_a_picture(machine: Machine, rogue: Rogue, relay: Relay) -> None:
    picture = machine.top / "pair.png"
    init = machine.start("init", "--yes", "--no-drill", "--relay", relay.url, "--qr", str(picture))
    rogue.nostrconnect(init.line("nostrconnect://"))
    assert init.wait().returncode == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert stat.S_IMODE(picture.stat().st_mode) == 0o600


def test_a_refused_proof_can_be_made_up_for(machine: Machine, rogue: Rogue) -> None:
    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    machine("init", "--name", "test@machine", "--bunker", "-", input=rogue.uri, code=5)
    assert machine.status()["proven"] is False
    hint = machine("lock", code=5).stderr.rpartition("hint: ")[2]
    words = hint.partition("avault ")[2].partition(",")[0].split()
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    machine(*words, "--no-drill", "--bunker", "-", input=rogue.uri)
    assert machine.status()["proven"] is True


def test_pair_goes_on_where_the_phone_did_not_open_the_vault(machine: Machine, rogue: Rogue, relay: Relay) -> None:
    """A first request that is rejected, or missed, is asked again; nobody has to scan another code."""
    rogue.behave("nip44_decrypt", misdeeds.say(result="error", error="Not authorized"))
    init = machine.start("init", "--yes", "--name", "test@machine", "--no-drill", "--relay", relay.url)
    rogue.nostrconnect(init.line("nostrconnect://"))
    done = init.wait()
    assert done.returncode == 5
    assert done.stderr.rstrip().endswith("before the daemon ends: avault pair")
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    assert machine("pair", "--no-drill", "--timeout", "1s", code=7).stderr.rstrip().endswith("avault pair --timeout 1s")
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    done = machine("pair", "--no-drill")
    assert "going on from there" in done.stderr
    assert "nostrconnect://" not in done.stdout
    assert machine.status()["proven"] is True
    assert len({request["client"] for request in rogue.seen("request")}) == 1
    machine("lock")
    machine("unlock")
    assert "paired already" in machine("pair", code=2).stderr

    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    done = machine("pair", "--replace", "--no-drill", "--bunker", "-", input=rogue.uri, code=5)
    assert done.stderr.rstrip().endswith("ask again with: avault pair")
    rogue.behave("nip44_decrypt", misdeeds.NOT_PAIRED["amber"])
    assert "avault pair --replace" in machine("pair", "--no-drill", code=5).stderr
    assert "paired already" in machine("pair", code=2).stderr, "the signer does not know it any longer: begin anew"


# Waiting


def test_auth_url_is_shown_and_waited_for(paired: Machine, rogue: Rogue) -> None:
    url = "https://signer.example/approve/1"
    rogue.behave("nip44_decrypt", misdeeds.AUTH_URL)
    unlock = paired.start("unlock")
    assert unlock.line("avault: open this page").endswith(url)
    status = paired.status()
    assert (status["state"], status["waiting"]["auth_url"]) == ("waiting", url)
    assert url in paired("status", code=3).stdout
    rogue.go()
    assert unlock.wait().returncode == 0
    assert paired.status()["waiting"] is None


def test_auth_url_is_shown_while_pairing(machine: Machine, rogue: Rogue) -> None:
    rogue.behave("nip44_decrypt", misdeeds.AUTH_URL)
    init = machine.start("init", "--no-drill", "--bunker", "-", input=rogue.uri)
    rogue.wait_for("request", method="nip44_decrypt")
    wait_until(lambda: any("https://signer.example/approve/1" in line for line in init.stderr), what="the page")
    rogue.go()
    assert init.wait().returncode == 0


def refuse(machine: Machine, rogue: Rogue, steps: misdeeds.Steps) -> None:
    rogue.behave("nip44_decrypt", steps)
    done = machine("unlock", code=5)
    assert "the signer refused" in done.stderr
    assert machine.status()["state"] == "locked"


def test_refusals(paired: Machine, rogue: Rogue) -> None:
    for number, steps in enumerate(FAST_REFUSALS.values(), 2):
        refuse(paired, rogue, steps)
        assert len(decrypts(rogue)) == number, "a refusal ends the wait; nothing is asked again"
    wait_until(lambda: machine_is_empty(paired), what="no keyholder")


@pytest.mark.parametrize("shape", misdeeds.NOT_PAIRED)
def test_not_paired(paired: Machine, rogue: Rogue, shape: str) -> None:
    begun = time.monotonic()
    refuse(paired, rogue, misdeeds.NOT_PAIRED[shape])
    assert time.monotonic() - begun > 5, "another signer may yet say yes"
    is_stranger = shape in ("amber", "clave")  # the others say of a person's refusal what they say of a stranger
    assert ("avault pair --replace" if is_stranger else "avault unlock") in paired.status()["error"]["hint"]
    assert len({request["event_id"] for request in rogue.requests("connect")}) == 1, "at the pairing"


def test_successes(paired: Machine, rogue: Rogue) -> None:
    for name, steps in misdeeds.SUCCESSES.items():
        rogue.behave("nip44_decrypt", steps)
        done = paired("unlock")
        assert ("clock" in name) == ("differ by" in done.stderr), name
        paired("lock")


def test_the_same_event_at_first(paired: Machine, rogue: Rogue) -> None:
    """Some signers prompt for each event: so the same one is sent again, and a deaf minute costs nothing."""
    seen = sent_again(paired, rogue, 1)
    assert len({request["event_id"] for request in seen}) == 1


@pytest.mark.long
@pytest.mark.slow
def test_a_fresh_event_after_a_minute(paired: Machine, rogue: Rogue) -> None:
    seen = sent_again(paired, rogue, 4)
    assert len({request["event_id"] for request in seen[:4]}) == 1
    assert seen[4]["event_id"] != seen[0]["event_id"]
    assert seen[4]["created_at"] > seen[0]["created_at"] + 50
    assert {request["id"] for request in seen} == {seen[0]["id"]}


def sent_again(machine: Machine, rogue: Rogue, times: int) -> list[peers.Event]:
    """Be silent until a request was sent again so often, 15 s apart, then answer; all its arrivals."""
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    before = len(rogue.arrivals("nip44_decrypt"))
    unlock = machine.start("unlock")

    def arrivals() -> list[peers.Event]:
        return rogue.arrivals("nip44_decrypt")[before:]

    for number in range(1, times + 1):
        wait_until(lambda number=number: len(arrivals()) >= number)
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    assert unlock.wait().returncode == 0
    seen = arrivals()
    assert [round((request["at"] - seen[0]["at"]) / 15) for request in seen] == list(range(times + 1))
    assert abs(seen[-1]["at"] - seen[0]["at"] - 15 * times) < 5, "and not later each time"
    return seen


def test_silence(paired: Machine, rogue: Rogue) -> None:
    """Who gives up gets an answer; the vault stays locked, and the question on the phone is listened for without a secret."""
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    begun = time.monotonic()
    paired("unlock", "--timeout", "8s", code=7)  # long enough for the phone to have the question
    assert 8 <= time.monotonic() - begun < 60
    status = wait_until(lambda: (now := paired.status())["listening"] and now, what="that it rests")
    assert (status["state"], status["waiting"]) == ("locked", None)
    paired("daemon", "stop")
    paired("daemon", "start", "-b", "--timeout", "6s")  # long enough to be seen, on a busy machine
    assert paired.status()["state"] == "waiting"
    status = paired.wait_state("locked")
    assert status["pid"]
    assert status["error"]["code"] == "timed_out"
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    paired("unlock")
    assert not paired.status()["listening"]


def test_a_question_that_reached_nobody_is_not_listened_for(paired: Machine, rogue: Rogue, relay: Relay) -> None:
    paired("daemon", "stop")
    path = paired.own / "pairing.json"
    content = avault.decode_file("pairing", path.read_bytes(), "")
    path.write_bytes(avault.encode_file("pairing", {**content, "relays": [peers.closed()]}))
    paired("unlock", "--timeout", "1s", code=7)
    wait_until(lambda: machine_is_empty(paired), what="no keyholder")


def test_two_who_wait_share_one_asking(paired: Machine, rogue: Rogue) -> None:
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    first = paired.start("unlock", "--timeout", "8s")  # the second one has come by then
    rogue.wait_for("request", method="nip44_decrypt")  # of the pairing
    rogue.wait_for("request", method="nip44_decrypt")
    second = paired.start("unlock")
    assert first.wait().returncode == 7
    assert paired.status()["state"] == "waiting"
    rogue.go()
    assert second.wait().returncode == 0
    assert len(decrypts(rogue)) == 2


def test_a_new_unlock_asks_at_once(paired: Machine, rogue: Rogue) -> None:
    """A phone that was asleep need not wait for the next minute; nor one whose operator looks at `status`."""
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    old = {request["event_id"] for request in rogue.requests("nip44_decrypt")}

    def events() -> list[tuple[str, str]]:
        found = [(request["id"], request["event_id"]) for request in rogue.requests("nip44_decrypt")]
        return list(dict.fromkeys(each for each in found if each[1] not in old))

    first = paired.start("unlock")
    wait_until(events)
    time.sleep(avault.JUST_ASKED)
    second = paired.start("unlock")
    wait_until(lambda: len(events()) == 2, what="asked again")
    time.sleep(avault.JUST_ASKED)
    avault.ask_daemon(avault.Places(), "status", ask_again=True)
    wait_until(lambda: len(events()) == 3, what="and again")
    assert len({request for request, _ in events()}) == 1, "one card, where the signer knows the id"
    wait_until(lambda: paired.status()["waiting"]["requests"] == 3)
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    third = paired.start("unlock")
    assert [each.wait().returncode for each in (first, second, third)] == [0, 0, 0]


def test_a_signer_that_gives_up_by_itself_is_asked_anew(paired: Machine, rogue: Rogue) -> None:
    rogue.behave("nip44_decrypt", misdeeds.say(result="error", error="Request expired"))
    seen = len(decrypts(rogue))
    paired("daemon", "start", "-b")
    notice = wait_until(lambda: (paired.status()["waiting"] or {}).get("notice"))
    assert "nobody refused" in notice
    assert notice in paired("status", code=3).stdout
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    assert notice in paired("unlock").stderr
    assert len(decrypts(rogue)) == seen + 2, "under another id, as it ignores one that it has answered"


def test_a_remembered_refusal_does_not_end_what_asks_for_ever(paired: Machine, rogue: Rogue) -> None:
    """Nobody can refuse at once: `daemon start` asks until somebody answers."""
    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    paired("daemon", "stop")
    paired("daemon", "start", "-b")
    notice = wait_until(lambda: (paired.status()["waiting"] or {}).get("notice"))
    assert "refused at once (user rejected)" in notice
    assert "the signer refused: user rejected" in paired("unlock", code=5).stderr, "who waits is told"
    paired("daemon", "stop")
    paired("daemon", "start", "-b")
    wait_until(lambda: (paired.status()["waiting"] or {}).get("notice"))
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    avault.ask_daemon(avault.Places(), "status", ask_again=True)
    paired.wait_state("unlocked")


def test_who_asks_is_shown(paired: Machine, rogue: Rogue) -> None:
    """Some apps show no name and no sentence, but the client's key."""
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    unlock = paired.start("unlock")
    wait_until(lambda: "the app may show who asks as" in "\n".join(unlock.stderr))
    shown = avault.shorten_key(rogue.requests("connect")[0]["client"])
    said = paired("status", code=3).stdout
    assert f"Asked as: {shown}" in said
    assert "to open the signer app is enough" in said
    assert shown in "\n".join(unlock.stderr)
    assert json.loads(rogue.requests("connect")[0]["params"][3]) == avault.introduce("test@machine")
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    paired("unlock")
    assert f"Phone, asked as {shown.partition(' or ')[0]}" in paired("log").stdout
    assert unlock.wait().returncode == 0


def test_the_last_who_waits_is_killed(paired: Machine, rogue: Rogue) -> None:
    """The phone is asked no more; what it says within ten minutes opens the vault, as nobody took the wish back."""
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    callers = [paired.start("unlock") for _ in range(2)]
    paired.wait_state("waiting")
    wait_until(lambda: all("avault: asking the phone" in " ".join(caller.stderr) for caller in callers))
    wait_until(lambda: len(decrypts(rogue)) == 2, what="the question on the phone")
    callers[0].kill()
    time.sleep(0.5)
    assert paired.status()["state"] == "waiting"
    callers[1].kill()
    wait_until(lambda: paired.wait_state("locked")["listening"], what="that it rests")
    rogue.go()
    paired.wait_state("unlocked")


def ask_and_give_up(machine: Machine, rogue: Rogue) -> None:
    """Ctrl-C, once the phone has the question: nobody wants the answer any more."""
    before = len(decrypts(rogue))
    caller = machine.start("unlock")
    wait_until(lambda: len(decrypts(rogue)) > before, what="the question on the phone")
    caller.process.send_signal(signal.SIGINT)
    caller.wait()
    wait_until(lambda: machine.wait_state("locked")["listening"], what="that it rests")


def test_a_late_approval_turns_the_ratchet(paired: Machine, rogue: Rogue) -> None:
    """Who asked had given up: nothing is opened. But what the phone said opens nothing on the disk either."""
    before = (paired.own / "unlock.json").read_bytes()
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    ask_and_give_up(paired, rogue)
    rogue.go()
    wait_until(lambda: (paired.own / "unlock.json").read_bytes() != before, what="another envelope")
    wait_until(lambda: machine_is_empty(paired), what="no keyholder")
    status = paired.status()
    assert status["state"] == "locked"
    assert "approved when nobody waited any more" in status["error"]["message"]
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    paired("unlock")


def test_a_lock_while_the_phone_is_asked(paired: Machine, rogue: Rogue) -> None:
    before = (paired.own / "unlock.json").read_bytes()
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    caller = paired.start("unlock")
    wait_until(lambda: len(decrypts(rogue)) == 2, what="the question on the phone")
    paired("lock")
    assert "locked meanwhile" in caller.wait().stderr
    assert paired.status()["state"] == "locked"
    rogue.go()
    wait_until(lambda: (paired.own / "unlock.json").read_bytes() != before, what="another envelope")
    assert paired.status()["state"] == "locked"


def test_who_asks_again_goes_on_with_the_question(paired: Machine, rogue: Rogue) -> None:
    """One id, and one code: the phone has one card, if its app knows the id; and an answer to the first event counts."""
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    ask_and_give_up(paired, rogue)
    code = paired.status()["code"]
    unlock = paired.start("unlock")
    assert f"code {code};" in unlock.line("avault: asking the phone")
    status = paired.wait_state("waiting")
    assert status["code"] == code
    assert f"Code: {code}" in paired("status", code=3).stdout
    rogue.go()
    assert unlock.wait().returncode == 0
    assert len(decrypts(rogue)) == 2, "with the pairing's"
    paired("lock")
    assert paired.status()["code"] != code


def test_an_answer_to_an_earlier_daemon_counts(paired: Machine, rogue: Rogue) -> None:
    """As after a reboot: the card that the phone has shows the same sentence, and opens the same envelope."""
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}], requests=1)
    unlock = paired.start("unlock")
    wait_until(lambda: len(decrypts(rogue)) == 2, what="the question on the phone")
    paired("daemon", "stop")
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    unlock = paired.start("unlock")
    unlock.line("avault: asking the phone")
    wait_until(lambda: len(decrypts(rogue)) == 3)
    rogue.go()
    assert unlock.wait().returncode == 0


def test_different_wishes_are_not_shared(paired: Machine, rogue: Rogue) -> None:
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    plain = paired.start("unlock")
    plain.line("avault: asking the phone")
    done = paired("unlock", "--accept-rollback", code=6)
    assert "without --accept-rollback, and both cannot share the answer" in done.stderr
    paired("lock")
    other = paired.start("unlock", "--accept-rollback")
    other.line("avault: asking the phone")
    assert "asked with --accept-rollback" in paired("unlock", code=6).stderr
    rogue.behave("nip44_decrypt", misdeeds.HONEST)


def test_an_accepted_rollback_is_loud(paired: Machine, rogue: Rogue, canary: Canary) -> None:
    paired("unlock")
    paired("set", "a/B", input=canary.value)
    old = (paired.vault / "avault.enc").read_bytes()
    paired("set", "a/C", input=canary.value)
    paired("lock")
    (paired.vault / "avault.enc").write_bytes(old)
    paired("unlock", code=8)
    done = paired("unlock", "--accept-rollback")
    assert "avault: warning: ROLLED BACK, as --accept-rollback was given" in done.stderr
    assert "ROLLED BACK" in paired("status").stdout
    assert "rollback accepted" in paired("log", "--json").stdout
    assert "ROLLED BACK" in paired("unlock").stderr, "who comes later is told too"


def test_programs_pause_after_a_refusal(paired: Machine, rogue: Rogue) -> None:
    """Until a person asks, at a terminal; and the pauses grow."""
    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    paired("unlock", code=5)
    asked = len(decrypts(rogue))
    for _ in range(2):
        done = paired.as_program("unlock", code=5)
        assert "the operator refused at" in done.stderr and "programs may ask again at" in done.stderr
    paired.as_program("daemon", "start", "-b", code=None)
    assert len(decrypts(rogue)) == asked
    status = paired.status()
    assert (
        status["asks_again"]
        and f"Pause: programs may ask the phone again at {status['asks_again']}" in paired("status", code=3).stdout
    )
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    shown, code = in_terminal(paired, ["unlock"], [])
    assert code == 0, shown
    assert paired.status()["asks_again"] is None

    # or as the operator has told it to
    paired("lock")
    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    paired("unlock", code=5)
    paired.as_program("unlock", code=5)
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    paired.as_program("unlock", "--again")
    assert paired.status()["state"] == "unlocked"


def test_how_long_the_pauses_are(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    places = avault.Places(str(place.home / "vault"))
    avault.make_private_directory(places.state)
    pauses, now = avault.Pauses(places), 1_800_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    assert pauses.end() is None
    pauses.check()
    for minutes in (1, 5, 15, 60, 60):
        pauses.note(refused=False)
        assert pauses.end() == now + 60 * minutes
        with pytest.raises(avault.TimedOut, match="nobody had answered by"):
            pauses.check()
    pauses.clear()
    for minutes in (15, 60, 240, 240):
        pauses.note(refused=True)
        assert pauses.end() == now + 60 * minutes
        with pytest.raises(avault.Denied, match="the operator refused at"):
            pauses.check()
    now += 240 * 60
    assert pauses.end() is None
    now -= 10**6
    assert pauses.end() is None, "a clock that went back makes no pause longer"
    path = place.state / "avault" / places.id / "pauses.json"
    for written in (
        b"{}",
        *(avault.encode_file("pauses", {**pauses.read(), "in_vain": 1, "last": t}) for t in (10**400, -(10**400))),
    ):
        path.write_bytes(written)
        assert pauses.end() is None


def test_a_question_of_ten_minutes(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever renews it: then it was in vain, and the next one is another."""
    places = avault.Places(str(place.home / "vault"))
    avault.make_private_directory(places.state)
    question, now = avault.Question(places), 1000.0
    monkeypatch.setattr(avault, "uptime", lambda: now)
    for _ in range(3):  # an agent that renews its wait every three minutes
        caller = avault.Caller(50.0, stay=600.0)
        assert question.join(caller, asks_phone=True) is (now == 1000.0)
        assert question.patience(caller) == min(50.0, 1600.0 - now)
        question.leave(caller)
        now += 180
    now = 1590.0
    question.join(caller := avault.Caller(50.0, stay=600.0), asks_phone=True)
    assert question.patience(caller) == 10.0
    now = 1600.0
    question.leave(caller)
    with pytest.raises(avault.TimedOut, match="nobody had answered"):
        question.join(avault.Caller(50.0, stay=600.0), asks_phone=True)
    assert question.join(avault.Caller(None, person=True), asks_phone=True), "a person, and another question"
    assert question.pauses.end() is None


def test_a_refused_pair_does_not_disturb_an_asking(paired: Machine, rogue: Rogue) -> None:
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    unlock = paired.start("unlock")
    wait_until(lambda: len(decrypts(rogue)) == 2)
    for _ in range(2):
        paired("pair", code=2)
        time.sleep(0.3)
    assert paired.status()["state"] == "waiting"
    rogue.go()
    assert unlock.wait().returncode == 0
    assert len(decrypts(rogue)) == 2, "one prompt"


def test_a_timeout_beside_does_not_end_a_pairing(paired: Machine, rogue: Rogue, relay: Relay) -> None:
    rogue.behave("nip44_decrypt", misdeeds.SILENCE, requests=1)
    pair = paired.start("pair", "--replace", "--no-drill", "--relay", relay.url)
    uri = pair.line("nostrconnect://")
    paired("unlock", "--timeout", "1s", code=None)
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    rogue.nostrconnect(uri)
    assert pair.wait().returncode == 0


def test_a_pairing_that_nobody_answers(machine: Machine, relay: Relay) -> None:
    machine.init_unproven()
    machine("pair", "--relay", relay.url, "--timeout", "1s", code=7)
    pair = machine.start("pair", "--relay", relay.url)
    pair.line("nostrconnect://")
    machine("pair", "--relay", relay.url, code=2)
    pair.kill()
    wait_until(lambda: machine("pair", "--relay", relay.url, "--timeout", "0s", code=None).returncode == 7, what="a new pairing")
    status = machine.status()
    assert (status["state"], status["proven"]) == ("unlocked", False)
    assert not list(machine.state.rglob("pairing.json"))


def test_a_result_of_connect_that_is_none(machine: Machine, rogue: Rogue) -> None:
    """Amber's screen for several requests answers so: the secret was not accepted, and silence would follow."""
    rogue.behave("connect", misdeeds.CONNECT_REFUSALS["empty"])
    machine("init", "--no-drill", "--timeout", "100s", "--bunker", "-", input=rogue.uri, code=5)


# NOSTR_NSEC


def test_nostr_nsec(machine: Machine, canary: Canary) -> None:
    agent = nostr_sdk.Keys.generate()
    nsec = canary.watch(agent.secret_key().to_bech32())
    wrong = nostr_sdk.Keys.generate().secret_key().to_bech32()
    machine.init_unproven(NOSTR_NSEC=nsec)
    assert machine.status()["agent_npub"] == agent.public_key().to_bech32()
    machine("set", "a/B", input=canary.value)
    machine("daemon", "stop", "--force")

    done = machine("unlock", NOSTR_NSEC=nsec)
    assert "1 secret(s)" in done.stderr
    machine("status", code=6)
    machine("unlock", NOSTR_NSEC=wrong, code=8)
    machine("unlock", NOSTR_NSEC="nsec1nonsense", code=2)
    machine("status", code=6)

    machine("daemon", "start", "-b", NOSTR_NSEC=wrong, code=8)
    assert machine.status()["state"] == "unpaired"
    machine("unlock", NOSTR_NSEC=wrong, code=8)
    assert "NOSTR_NSEC" in machine("unlock", NOSTR_NSEC=nsec).stderr
    assert machine("get", "a/B", secret=True).stdout == canary.value + "\n"
    machine("daemon", "stop", "--force")
    assert "avault: warning: the key comes from NOSTR_NSEC" in machine("daemon", "start", "-b", NOSTR_NSEC=nsec).stderr
    assert machine("get", "a/B", secret=True).stdout == canary.value + "\n"
    assert machine.status()["proven"] is False


# Recovery


def test_recover_on_another_machine(paired: Machine, rogue: Rogue, relay: Relay, canary: Canary) -> None:
    paired("unlock")
    paired("set", "a/B", input=canary.value)
    paired("lock")
    status = paired.status()
    agent, operator = status["agent_npub"], status["signer_npub"]
    with Machine(paired.top / "other") as other:
        shutil.copytree(paired.vault, other.vault)
        assert agent in other("recover", code=5).stderr, "not confirmed, as there is no terminal"
        other("recover", "--agent", agent, "--signer-npub", other.npub(), code=5)
        other("recover", "--agent", other.npub(), "--signer-npub", operator, code=5)
        other("recover", "--agent", agent, code=2)
        asked = len(decrypts(rogue))
        words = ("recover", "--agent", agent, "--signer-npub", operator, "--no-drill")
        with peers.rogue([relay.url]) as stranger:
            other(*words, "--bunker", "-", input=stranger.uri, code=5)
            assert not stranger.requests("nip44_decrypt")
        assert len(decrypts(rogue)) == asked

        recover = other.start(*words, "--relay", relay.url)
        rogue.nostrconnect(recover.line("nostrconnect://"))
        done = recover.wait()
        assert done.returncode == 0, done.stderr
        assert agent in done.stderr and operator in done.stderr and "no pin" in done.stderr
        for machine in (other, paired):
            machine("lock")
            machine("unlock")
            assert machine("get", "a/B", secret=True).stdout == canary.value + "\n"
        other("recover", code=1)


# The signer in a terminal


@pytest.fixture
def operator_file(place, allow: Callable[[Path], Path]) -> tuple[nostr_sdk.Keys, Path]:
    """The operator's key, and a file that holds it as an nsec."""
    operator, path = nostr_sdk.Keys.generate(), allow(place.top / "operator.nsec")
    path.write_text(operator.secret_key().to_bech32() + "\n")
    return operator, path


def test_signer_in_a_terminal(machine: Machine, relay: Relay, operator_file: tuple[nostr_sdk.Keys, Path], canary: Canary) -> None:
    operator, path = operator_file
    words = ("signer", "--nsec-file", str(path), "--state", str(machine.top / "phone"), "--relay", relay.url)
    phone = machine.start(*words, input="y\nn\ny\nn\n")
    uri = phone.line("bunker://")
    done = machine("init", "--name", "test@machine", "--bunker", "-", input=uri)
    assert "the drill passed" in done.stderr
    assert machine.status()["signer_npub"] == operator.public_key().to_bech32()

    def sentences() -> int:
        return sum("test@machine asks: avault: unlock test@machine on " in line for line in phone.stdout)

    for number, code in ((2, 0), (3, 5)):
        machine("lock")
        key = unlock_key(machine, operator)
        machine("unlock", code=code)
        assert key not in "\n".join(phone.stdout + phone.stderr)
        assert sentences() == number
    phone.kill()

    phone = machine.start(*words, "--yes")
    assert phone.line("bunker://") != uri, "its secret was used"
    machine("unlock")
    machine("pair", "--replace", "--no-drill", "--bunker", "-", input=uri, code=5)


def test_a_signer_keeps_to_the_relays_that_it_was_paired_over(
    machine: Machine, relay: Relay, operator_file: tuple[nostr_sdk.Keys, Path]
) -> None:
    """Begun again without a word of relays, it goes to those of its pairing, and to no public ones."""
    words = ("signer", "--nsec-file", str(operator_file[1]))
    init = machine.start("init", "--yes", "--no-drill", "--name", "test@machine", "--relay", relay.url)
    phone = machine.start(*words, init.line("nostrconnect://"), "--yes")
    assert init.wait().returncode == 0
    phone.kill()
    assert machine.start(*words).line("bunker://").count("relay=") == 1


def test_init_that_is_stopped_before_the_phone_has_opened_the_vault(machine: Machine, rogue: Rogue, relay: Relay) -> None:
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    with Screen(machine, AVAULT, "init", "--yes", "--name", "test@machine", "--relay", relay.url, columns=2000) as screen:
        rogue.nostrconnect(screen.expect(r"nostrconnect://\S+").group().decode())
        screen.expect("1. APPROVE")
        screen.type("\x03")
        assert b"has shown yet that the phone opens it: avault pair\r\n" in screen.wait(130)


def unlock_key(machine: Machine, operator: nostr_sdk.Keys) -> str:
    """What the phone's next answer will carry."""
    content = json.loads((machine.own / "unlock.json").read_text())
    agent = nostr_sdk.PublicKey.parse(content["agent"])
    return str(json.loads(nostr_sdk.nip44_decrypt(operator.secret_key(), agent, content["envelope"]))["avault"])


def test_signer_scans_a_uri(machine: Machine, relay: Relay, operator_file: tuple[nostr_sdk.Keys, Path]) -> None:
    init = machine.start("init", "--yes", "--name", "test@machine", "--relay", relay.url)
    uri = init.line("nostrconnect://")
    phone = machine.start("signer", "--nsec-file", str(operator_file[1]), uri, input="y\nn\n")
    done = init.wait()
    assert (done.returncode, "the drill passed" in done.stderr) == (0, True)
    assert "connected to test@machine" in phone.stdout


def test_signer_with_an_ncryptsec(
    machine: Machine, relay: Relay, operator_file: tuple[nostr_sdk.Keys, Path], allow: Callable[[Path], Path]
) -> None:
    operator, path = operator_file
    passphrase = allow(machine.top / "passphrase")
    passphrase.write_text("correct horse\n")
    sealed = nostr_sdk.EncryptedSecretKey(operator.secret_key(), "correct horse", 4, nostr_sdk.KeySecurity.UNKNOWN)
    path.write_text(sealed.to_bech32() + "\n")
    words = ("signer", "--nsec-file", str(path), "--relay", relay.url, "--passphrase-file", str(passphrase))
    phone = machine.start(*words, "--yes")
    machine("init", "--yes", "--no-drill", "--bunker", "-", input=phone.line("bunker://"))
    assert machine.status()["signer_npub"] == operator.public_key().to_bech32()
    passphrase.write_text("wrong\n")
    assert "passphrase" in machine(*words, code=2).stderr


def test_signer_makes_a_key(machine: Machine, relay: Relay, allow: Callable[[Path], Path]) -> None:
    path = allow(machine.top / "operator.nsec")
    done = machine("signer", "--new", "--nsec-file", str(path))
    assert done.stdout == ""
    operator = nostr_sdk.Keys.parse(path.read_text().strip())
    assert f"avault: operator: {operator.public_key().to_bech32()}" in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    machine("signer", "--new", "--nsec-file", str(path), code=2)
    assert nostr_sdk.Keys.parse(path.read_text().strip()).public_key() == operator.public_key()
    hint = machine("signer", code=2).stderr
    assert "avault signer --new" in hint

    done = machine("signer", "--new", secret=True)
    operator = nostr_sdk.Keys.parse(done.stdout.strip())
    assert operator.public_key().to_bech32() in done.stderr

    passphrase = allow(machine.top / "passphrase")
    passphrase.write_text("correct horse\n")
    done = machine("signer", "--new", "--passphrase-file", str(passphrase), secret=True)
    opened = nostr_sdk.EncryptedSecretKey.from_bech32(done.stdout.strip()).decrypt("correct horse")
    assert nostr_sdk.Keys.parse(opened.to_hex()).public_key().to_bech32() in done.stderr


def test_signer_on_a_relay_that_wants_a_login(machine: Machine, operator_file: tuple[nostr_sdk.Keys, Path]) -> None:
    with peers.local_relay(nip42="both") as relay:
        phone = machine.start("signer", "--nsec-file", str(operator_file[1]), "--relay", relay.url, "--yes")
        machine("init", "--yes", "--no-drill", "--bunker", "-", input=phone.line("bunker://"))
        assert machine.status()["proven"] is True
        assert "does not let us listen" not in "\n".join(phone.stdout)


def test_signer_says_that_a_relay_refuses(machine: Machine, operator_file: tuple[nostr_sdk.Keys, Path]) -> None:
    with peers.local_relay(refuse="pay first") as relay:
        init = machine.start("init", "--yes", "--no-drill", "--relay", relay.url)
        uri = init.line("nostrconnect://")
        phone = machine.start("signer", "--nsec-file", str(operator_file[1]), uri)
        said = wait_until(lambda: [line for line in phone.stdout if "refuses the answer" in line])
        assert said[0].startswith(f"{relay.url} refuses the answer: ")
        assert "pay first" in said[0]
        init.kill()
        phone.kill()


# Beneath all this


async def test_a_lost_keyholder_is_noticed_by_writing_to_it() -> None:
    """As when a pairing is refused, and `stop` comes while the keyholder exits: nobody may wait for it for ever."""
    ours, theirs = socket.socketpair()
    lost: list[bool] = []
    control = avault.Control(ours, lambda message, fd: None, lambda: lost.append(True))
    theirs.close()
    for _ in range(2):
        control.send({"do": "lock"})
    async with asyncio.timeout(60):
        while not lost:
            await asyncio.sleep(0)
    with pytest.raises(avault.Locked):
        control.send({"do": "lock"})
    assert lost == [True]
