"""Attacks that worked once, as a reviewer made them; each failed against the code before it was mended."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from box import Box
from canary import Canary
from harness import Machine, wait_until
from peers import Rogue, misdeeds

import avault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]


@pytest.fixture
def vault(machine: Machine, canary: Canary) -> Machine:
    machine.init_proven()
    machine("set", "bank/PASSWORD", input=canary.value)
    machine("set", "weather/CITY", input="Berlin")
    return machine


def places(machine: Machine) -> avault.Places:
    found = avault.Places(str(machine.vault))
    status = machine.status()
    found.socket, found.state = status["socket"], str(machine.own)
    return found


def entries(machine: Machine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (machine.own / "access.log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("request_", "group", "keys"),
    [
        (
            {"op": "get", "group": "bank", "key": "PASSWORD", "only": ["weather/CITY"], "groups": ["weather"]},
            "bank",
            ["PASSWORD"],
        ),
        ({"op": "export", "prefix": True, "group": "weather", "key": "CITY"}, None, None),
        ({"op": "reveal", "group": "weather", "key": "CITY"}, None, None),
    ],
    ids=["get", "export", "reveal"],
)
def test_the_log_names_what_was_released(
    vault: Machine, request_: dict[str, Any], group: str | None, keys: list[str] | None
) -> None:
    """Fields that a request does not look at say nothing in the log either."""
    avault.ask_daemon(places(vault), **request_)
    last = entries(vault)[-1]
    assert (last["op"], last["group"], last["keys"]) == (request_["op"], group, keys)


def test_a_guess_at_a_value_is_noted(vault: Machine) -> None:
    """`import` with dry_run says whether a value is right; thousands of guesses are to be seen."""
    before = len(entries(vault))
    for guess in ("Paris", "Berlin"):
        avault.ask_daemon(places(vault), "import", dry_run=True, value={"secrets": [["weather", "CITY", guess]]})
    with pytest.raises(avault.Denied):
        avault.ask_daemon(places(vault), "import", value={"secrets": [["weather", "CITY", "Rome"]]})
    found = entries(vault)[before:]
    assert [(entry["op"], entry["keys"], entry["outcome"]) for entry in found] == [("import", ["weather/CITY"], "ok")] * 2
    denied = json.loads((vault.own / "refused.log").read_text())
    assert (denied["op"], denied["keys"], denied["outcome"]) == ("import", ["weather/CITY"], "denied")


def test_one_request_cannot_fill_the_log(vault: Machine) -> None:
    ids = ["é" * 200] * 1_500
    request = json.dumps({"protocolVersion": 1, "provider": "avault", "ids": ids}, ensure_ascii=False)
    with pytest.raises(avault.Usage):
        avault.ask_daemon(places(vault), "provide", value={"value": request})
    avault.ask_daemon(
        places(vault), "import", value={"secrets": [["g", f"K{'x' * 120}{number}", "v"] for number in range(9_000)]}
    )
    assert (vault.own / "access.log").stat().st_size < 1 << 16
    assert vault("log", "--verify").returncode == 0


def test_an_old_log_that_is_too_long_keeps_no_vault_shut(vault: Machine) -> None:
    (vault.own / "access.log.1").write_bytes(b"x" * (9 << 20))
    before = entries(vault)[-1]["n"]
    vault("daemon", "stop", "--force")
    vault("daemon", "start", "-b", NOSTR_NSEC=vault.nsec)
    assert entries(vault)[-1]["n"] == before + 1


def test_a_talk_that_nobody_ends_keeps_no_vault_open(proven: Machine) -> None:
    proven("daemon", "start", "-b", "--lock-after", "1h")
    proven.wait_state("unlocked")
    found = places(proven)
    connection = avault.FastConnection(found)
    connection.send(json.dumps({"v": 1, "vault": found.id, "op": "drill", "private": True}))
    assert "ready" in connection.receive()
    proven("lock", "--after", "1s")
    proven.wait_state("locked")
    connection.socket.close()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def older(path: Path) -> None:
    path.write_bytes(path.with_name("older").read_bytes())


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "noticed"),
    [(cut, True), (cut, False), (older, True), (fifo, True), (Path.unlink, True)],
    ids=["cut", "cut unnoticed", "older", "fifo", "gone"],
)
def test_a_damaged_file_keeps_no_vault_open(proven: Machine, canary: Canary, damage: Any, noticed: bool) -> None:
    """What a push can do to the file does not turn --lock-idle off, and what was served is not lost."""
    proven("daemon", "start", "-b", "--lock-idle", "1h")
    proven.wait_state("unlocked")
    path, own = proven.vault / "avault.enc", proven.own
    shutil.copy(path, path.with_name("older"))
    proven("set", "bank/PASSWORD", input=canary.value)
    damage(path)
    if noticed:
        proven("list")
        assert any("what was loaded before is served" in warning for warning in proven.status()["warnings"])
    proven("lock", "--idle", "2s")
    proven.wait_state("locked")
    assert any("the next unlock serves it" in warning for warning in proven.status()["warnings"])
    proven("daemon", "stop")
    proven("unlock")
    assert proven("get", "bank/PASSWORD", secret=True).stdout == canary.value + "\n"
    proven("set", "bank/OTHER", input="x", code=8)
    left = path.read_bytes() if path.is_file() else None
    if damage is fifo:
        proven("restore", "--unsaved", code=8)
        path.unlink()
    proven("restore", "--unsaved")
    assert proven("get", "bank/PASSWORD", secret=True).stdout == canary.value + "\n"
    assert not (own / "unsaved.enc").exists()
    assert left is None or (own / "damaged.enc").read_bytes() == left
    proven("set", "bank/OTHER", input="x")
    assert "nothing to write back" in proven("restore", "--unsaved").stderr
    proven("lock")
    proven("unlock")
    assert proven("list", "--names").stdout == "bank/OTHER\nbank/PASSWORD\n"


def test_a_file_that_is_whole_again_is_taken(proven: Machine, canary: Canary) -> None:
    """A lock needs no --force while the file is damaged; and what was kept beside goes when it is needed no more."""
    proven("daemon", "start", "-b")
    proven.wait_state("unlocked")
    proven("set", "bank/PASSWORD", input=canary.value)
    path, own = proven.vault / "avault.enc", proven.own
    whole = path.read_bytes()
    for before in (lambda: proven("list"), lambda: None):
        cut(path)
        before()
        proven("lock")
        assert (own / "unsaved.enc").exists()
        path.write_bytes(whole)
        proven("unlock")
        assert not (own / "unsaved.enc").exists()
        assert not any("avault.enc" in warning for warning in proven.status()["warnings"])
    cut(path)
    proven("list")
    wait_until((own / "unsaved.enc").exists, what="what is served, beside")
    path.write_bytes(whole)
    proven("set", "bank/OTHER", input="x")
    assert not (own / "unsaved.enc").exists()


def test_what_is_kept_is_not_believed_either(proven: Machine, canary: Canary) -> None:
    """An older unsaved.enc, put back beside a damaged file, is a rollback like any other; one that does not open is nothing."""
    proven("daemon", "start", "-b")
    proven.wait_state("unlocked")
    proven("set", "bank/PASSWORD", input="first")
    path, kept = proven.vault / "avault.enc", proven.own / "unsaved.enc"
    whole = path.read_bytes()
    cut(path)
    proven("lock")
    first = kept.read_bytes()
    path.write_bytes(whole)
    proven("unlock")
    proven("set", "bank/PASSWORD", input=canary.value)
    whole = path.read_bytes()
    proven("lock")
    for planted in (first, first[:80], b"", whole[:-2] + b"\n"):
        cut(path)
        kept.write_bytes(planted)
        assert "avault.enc is damaged" in proven("unlock", code=8).stderr
    kept.unlink()
    path.write_bytes(whole)
    proven("unlock")
    assert proven("get", "bank/PASSWORD", secret=True).stdout == canary.value + "\n"


def test_what_can_be_kept_nowhere_stays_open(proven: Machine) -> None:
    proven("daemon", "start", "-b", "--lock-after", "1h")
    proven.wait_state("unlocked")
    (proven.own / "unsaved.enc").mkdir()
    cut(proven.vault / "avault.enc")
    proven("list")
    wait_until(lambda: any("nowhere on the disk" in text for text in proven.status()["warnings"]), what="a warning")
    proven("lock", "--after", "1s")
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 3, what="the time at which it would have locked")
    proven("list")
    assert "is not what is served" in proven("lock", code=5).stderr
    (proven.own / "unsaved.enc").rmdir()
    proven.wait_state("locked")


def test_no_limit_that_is_none(proven: Machine) -> None:
    for words in (["--lock-after", "0"], ["--lock-idle", "0s"]):
        assert "a limit of 0 would be none" in proven("daemon", "start", "-b", *words, code=2).stderr
    proven("daemon", "start", "-b", "--lock-after", "8h")
    proven.wait_state("unlocked")
    proven("daemon", "start", "-b", "--lock-after", "8h")
    for words in (["--lock-after", "1h"], ["--lock-idle", "1h"], ["--notify", "true"]):
        assert "a daemon is running, " in proven("daemon", "start", "-b", *words, code=2).stderr


def test_a_notify_that_closes_its_stdout_does_not_stop_the_daemon(proven: Machine) -> None:
    proven("daemon", "start", "-b", "--notify", "exec >/dev/null; exec sleep 100")
    proven.wait_state("unlocked")
    begun = time.monotonic()
    proven("lock", timeout=90)
    assert proven.status()["state"] == "locked"
    assert time.monotonic() - begun < 90


def test_nothing_leaves_its_place_for_an_unproven_vault(machine: Machine, canary: Canary) -> None:
    machine.init_unproven()
    profile = machine.home / ".profile"
    profile.write_text(f"export API_KEY={canary.value}\n")
    done = machine("migrate", "--remove", code=5)
    assert "nobody has shown yet that the phone opens this vault: nothing is taken out" in done.stderr
    assert canary.value in profile.read_text()
    profile.unlink()


def test_forget_looks_whose_recovery_copy_it_is(vault: Machine, place) -> None:
    with Machine(Path(place.top) / "other") as other:
        other.init_unproven()
        recovery = other.vault / "nsec.enc"
        vault("daemon", "stop", "--force")  # an open vault puts its own back
        shutil.copy(recovery, vault.vault / "nsec.enc")
    own = vault.own
    done = vault("forget", "--yes", code=5)
    assert "may be the only way into the vault" in done.stderr
    assert (own / "unlock.json").exists()


def test_a_custodian_needs_the_phone(vault: Machine) -> None:
    """A request over the socket alone does not give the agent's key away: a vault without a phone to ask cannot do it at all."""
    settings = {"path": str(Box(vault.top).path)}
    with pytest.raises(avault.Denied, match="nobody has shown yet"):
        avault.ask_daemon(places(vault), "custody", action="add", kind="program", name="box", settings=settings)
    assert not (vault.own / "custody-box.json").exists()


def lead_astray(machine: Machine, agent: str, thief: nostr_sdk.Keys, decoy: nostr_sdk.Keys) -> bytes:
    """Write an unlock.json for an agent and an operator of one's own, whose envelope is between the real agent and that operator.

    Whoever takes it for this vault's would seal the agent's key for the thief. What it was before.
    """
    path = machine.own / "unlock.json"
    before = path.read_bytes()
    content = json.loads(before)
    unlock, sealed = avault.seal_keys(decoy, content["vault"], avault.public_hex(thief), content["name"])
    envelope = avault.make_envelope(thief, avault.parse_npub(agent), "", "", unlock)
    rest = {"envelope": envelope, "proven": None, "quick": 0, "sealed": sealed.pop("sealed")}
    path.write_bytes(
        avault.encode_file("unlock", {**sealed, **{name: rest[name] for name in ("envelope", "sealed", "proven", "quick")}})
    )
    return before


def test_what_is_asked_for_is_what_is_opened(proven: Machine, rogue: Rogue) -> None:
    """While the phone is asked, another names another vault's files: the agent's key is sealed for nobody but the operator."""
    proven("daemon", "start", "-b")
    agent = proven.wait_state("unlocked")["agent_npub"]
    proven("lock")
    asked = len(rogue.requests("nip44_decrypt"))
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    unlock = proven.start("unlock")
    wait_until(lambda: len(rogue.requests("nip44_decrypt")) > asked)
    thief, decoy = nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate()
    before = lead_astray(proven, agent, thief, decoy)
    with pytest.raises(avault.Tampered):
        avault.Connection(places(proven)).request("open", value={"nsec": decoy.secret_key().to_bech32()})
    (proven.own / "unlock.json").write_bytes(before)
    rogue.go()
    assert unlock.wait().returncode == 0
    for path in (proven.own / "unlock.json", proven.vault / "nsec.enc"):
        content = json.loads(path.read_bytes())
        with pytest.raises(ValueError, match="not a payload"):
            avault.decrypt(thief, avault.parse_npub(content["agent"]), content["envelope"])
        assert content["operator"] == proven.status()["signer_npub"]


def test_an_approval_that_was_held_back_opens_nothing_later(proven: Machine, rogue: Rogue) -> None:
    """A relay that keeps the operator's answer, and a program that asks hours later, are not the operator."""
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True, "age": 3600}])
    asked = len(rogue.requests("nip44_decrypt"))
    first = proven.start("unlock")
    wait_until(lambda: len(rogue.requests("nip44_decrypt")) > asked)
    proven("daemon", "stop")
    first.wait()
    rogue.behave("nip44_decrypt", misdeeds.SILENCE)
    asked = len(rogue.requests("nip44_decrypt"))
    second = proven.start("unlock")
    wait_until(lambda: len(rogue.requests("nip44_decrypt")) > asked)
    before, asked = (proven.own / "unlock.json").read_bytes(), len(rogue.requests("nip44_decrypt"))
    rogue.go()
    wait_until(lambda: len(rogue.requests("nip44_decrypt")) > asked)
    assert proven.status()["state"] == "waiting"
    assert (proven.own / "unlock.json").read_bytes() != before, "what the phone has answered opens nothing on the disk"
    proven("lock")
    assert second.wait().returncode == 3
