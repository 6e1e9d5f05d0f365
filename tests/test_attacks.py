"""Attacks that worked once, as a reviewer made them; each failed against the code before it was mended."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from canary import Canary
from harness import Machine, wait_until
from peers import misdeeds

import avault


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
    assert [(entry["op"], entry["keys"]) for entry in found] == [("import", ["weather/CITY"])] * 4
    assert [entry["outcome"] for entry in found] == ["ok", "ok", "ok", "denied"]


def test_one_request_cannot_fill_the_log(vault: Machine) -> None:
    ids = ["é" * 200] * 1_500
    request = json.dumps({"protocolVersion": 1, "provider": "avault", "ids": ids}, ensure_ascii=False)
    with pytest.raises(avault.Usage):
        avault.ask_daemon(places(vault), "provide", value={"value": request})
    with pytest.raises(avault.Usage):
        avault.ask_daemon(
            places(vault), "import", value={"secrets": [["g", f"K{'x' * 120}{number}", "v"] for number in range(9_000)]}
        )
    assert (vault.own / "access.log").stat().st_size < 1 << 16
    assert vault("log", "--verify").returncode == 0


def test_an_old_log_that_is_too_long_keeps_no_vault_shut(vault: Machine) -> None:
    (vault.own / "access.log.1").write_bytes(b"x" * (9 << 20))
    log = avault.AccessLog(str(vault.own), avault.parse_keys("1" * 64))
    assert log.number == entries(vault)[-1]["n"]


def test_a_talk_that_nobody_ends_keeps_no_vault_open(proven: Machine) -> None:
    proven("daemon", "start", "-b", "--lock-after", "3s")
    proven.wait_state("unlocked")
    found = places(proven)
    connection = avault.FastConnection(found)
    connection.send(json.dumps({"v": 1, "vault": found.id, "op": "drill", "private": True}))
    assert "ready" in connection.receive()
    proven.wait_state("locked", timeout=20)
    connection.socket.close()


def test_a_file_that_was_half_written_keeps_no_vault_open(proven: Machine) -> None:
    proven("daemon", "start", "-b", "--lock-after", "4s")
    proven.wait_state("unlocked")
    path = proven.vault / "avault.enc"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    proven("list")
    assert any("what was loaded before is served" in warning for warning in proven.status()["warnings"])
    path.write_bytes(whole)
    proven.wait_state("locked", timeout=30)


def test_no_limit_that_is_none(proven: Machine) -> None:
    for words in (["--lock-after", "0"], ["--lock-idle", "0s"]):
        assert "a limit of 0 would be none" in proven("daemon", "start", "-b", *words, code=2).stderr
    proven("daemon", "start", "-b", "--lock-after", "8h")
    proven.wait_state("unlocked")
    proven("daemon", "start", "-b", "--lock-after", "8h")
    for words in (["--lock-after", "1h"], ["--lock-idle", "1h"], ["--notify", "true"]):
        assert "a daemon is running, with other limits" in proven("daemon", "start", "-b", *words, code=2).stderr


def test_a_notify_that_closes_its_stdout_does_not_stop_the_daemon(proven: Machine) -> None:
    proven("daemon", "start", "-b", "--notify", "exec >/dev/null; exec sleep 20")
    proven.wait_state("unlocked")
    begun = time.monotonic()
    proven("lock", timeout=15)
    assert proven.status()["state"] == "locked"
    assert time.monotonic() - begun < 15


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
        shutil.copy(recovery, vault.vault / "nsec.enc")
    own = vault.own
    done = vault("forget", "--yes", code=5)
    assert "may be the only way into the vault" in done.stderr
    assert (own / "unlock.json").exists()


def test_a_keychain_needs_the_phone(vault: Machine) -> None:
    """A request over the socket alone does not give the agent's key away: a vault without a phone to ask cannot do it at all."""
    with pytest.raises(avault.Denied):
        avault.ask_daemon(places(vault), "keychain", action="enable")
    assert not (vault.own / "keychain.json").exists()


def test_a_keychain_that_the_phone_refuses(proven: Machine, rogue) -> None:
    proven("daemon", "start", "-b")
    proven.wait_state("unlocked")
    before = len(entries(proven))
    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    try:
        proven("keychain", "enable", "--yes", code=5)
    finally:
        wait_until(lambda: len(entries(proven)) > before)
    assert entries(proven)[before]["op"] == "keychain"
    assert not (proven.own / "keychain.json").exists()
