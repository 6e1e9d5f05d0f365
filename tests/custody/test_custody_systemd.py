"""The custodian `systemd`: systemd-creds itself, and a credential that a unit loads."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from errands import BOUND, SECRET, send_errand

import avault

pytestmark = pytest.mark.usefixtures("forks")

HOST_KEY = Path("/var/lib/systemd/credential.secret")
OTHER_BOUND = BOUND.replace(":here", ":there")
HOST = {"key": "host", "credential": ""}
LOADED = {"key": "auto", "credential": "avault.unlock"}
CREDS = shutil.which("systemd-creds")


def failed(outcome: str, detail: str) -> dict[str, str]:
    return {"outcome": outcome, "detail": detail}


@contextlib.contextmanager
def keep_host_key() -> Iterator[None]:
    """systemd-creds makes the host's key where there is none: taken away again."""
    was_there = HOST_KEY.exists()
    try:
        yield
    finally:
        if not was_there and HOST_KEY.exists():
            subprocess.run(["chattr", "-i", str(HOST_KEY)], check=False, stderr=subprocess.DEVNULL)
            HOST_KEY.unlink()


@pytest.fixture
def host_key() -> Iterator[None]:
    if not CREDS:
        pytest.skip("no systemd-creds")
    with keep_host_key():
        yield


@pytest.fixture
def unit(place) -> dict[str, str]:
    """What systemd tells a unit with LoadCredentialEncrypted=avault.unlock:…: a directory with the file."""
    directory = place.top / "credentials"
    directory.mkdir(mode=0o700)
    (directory / "avault.unlock").write_text("a7" * 32 + "\n")
    return {"CREDENTIALS_DIRECTORY": str(directory)}


# systemd-creds


@pytest.mark.root
def test_the_host_seals_it(host_key) -> None:
    made = send_errand("set", "systemd", HOST, secret=SECRET)
    assert made["outcome"] == "ok", made
    assert SECRET not in made["value"] and "\n" not in made["value"]
    assert send_errand("get", "systemd", HOST, kept=made["value"]) == {"outcome": "ok", "value": SECRET}
    assert send_errand("probe", "systemd", HOST, kept=made["value"]) == {"outcome": "ok", "value": "systemd-creds is there"}
    assert send_errand("settle", "systemd", {"key": "host"}) == {"outcome": "ok", "value": HOST, "asks": False}


@pytest.mark.root
def test_it_is_bound_to_vault_agent_and_custodian(host_key) -> None:
    made = send_errand("set", "systemd", HOST, secret=SECRET)["value"]
    answer = send_errand("get", "systemd", HOST, kept=made, bound=OTHER_BOUND)
    assert answer == failed("error", "systemd-creds failed, with exit code 1")
    name = f"avault-{avault.sha256(BOUND.encode()).hex()[:32]}"
    by_hand = subprocess.run([CREDS, "decrypt", f"--name={name}", "-", "-"], input=made, capture_output=True, text=True)
    assert by_hand.stdout == SECRET, "what references/custody.md types"


@pytest.mark.root
def test_another_host_does_not_open_it(host_key) -> None:
    """Another host has another key: a copied state directory opens nothing there."""
    made = send_errand("set", "systemd", HOST, secret=SECRET)["value"]
    aside = HOST_KEY.with_suffix(".aside")
    HOST_KEY.rename(aside)
    try:
        assert send_errand("get", "systemd", HOST, kept=made) == failed("error", "systemd-creds failed, with exit code 1")
    finally:
        if HOST_KEY.exists():
            HOST_KEY.unlink()
        aside.rename(HOST_KEY)
    assert send_errand("get", "systemd", HOST, kept=made) == {"outcome": "ok", "value": SECRET}


@pytest.mark.root
def test_what_was_changed_is_not_opened(host_key) -> None:
    made = send_errand("set", "systemd", HOST, secret=SECRET)["value"]
    middle = len(made) // 2
    changed = made[:middle] + ("A" if made[middle] != "A" else "B") + made[middle + 1 :]
    assert send_errand("get", "systemd", HOST, kept=changed) == failed("error", "systemd-creds failed, with exit code 1")


@pytest.mark.root
def test_without_a_tpm_nothing_else_seals_it(host_key) -> None:
    if Path("/dev/tpmrm0").exists():
        pytest.skip("there is a TPM")
    answer = send_errand("set", "systemd", {**HOST, "key": "tpm2"}, secret=SECRET)
    assert answer == failed("error", "systemd-creds failed, with exit code 1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_without_root_it_says_what_is_missing() -> None:
    if not CREDS:
        pytest.skip("no systemd-creds")
    said = subprocess.run([CREDS, "--version"], capture_output=True, text=True).stdout.split()[1]
    if int(said) >= 256:
        pytest.skip("this systemd-creds has --user")
    answer = send_errand("settle", "systemd", HOST)
    assert answer["outcome"] == "unavailable"
    assert answer["detail"] == (f"systemd-creds works for root alone here: for others it needs systemd 256, and this is {said}")
    assert answer["hint"] == "load a credential in the service's unit, and add it: credential=NAME"


def stand_in(place, monkeypatch: pytest.MonkeyPatch, version: str) -> Path:
    """A program that says it is of this version, and notes what it is told."""
    directory = place.top / "bin"
    directory.mkdir(mode=0o755)
    program = directory / "systemd-creds"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {place.tmp}/told\n[ "$1" = --version ] && echo "systemd {version} (x)" || exec cat\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return Path(place.tmp / "told")


@pytest.mark.skipif(os.geteuid() == 0, reason="root needs no --user")
def test_a_newer_one_is_told_user(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words alone, by a stand-in: a systemd of 256 is not everywhere."""
    told = stand_in(place, monkeypatch, "256")
    name = f"--name=avault-{avault.sha256(BOUND.encode()).hex()[:32]}"
    assert send_errand("set", "systemd", HOST, secret=SECRET)["outcome"] == "ok"
    assert send_errand("get", "systemd", HOST, kept="x")["outcome"] == "ok"
    words = [line for line in told.read_text().splitlines() if line != "--version"]
    assert words == [f"encrypt --user --with-key=host {name} - -", f"decrypt --user {name} - -"]


def test_without_the_program_it_is_unavailable(place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place.tmp))
    assert send_errand("settle", "systemd", HOST) == failed("unavailable", "there is no program systemd-creds in PATH")


def test_settings_are_refused() -> None:
    assert send_errand("settle", "systemd", {"key": "null"}) == failed("usage", "key is one of: auto, host, tpm2, host+tpm2")
    for name in ("../x", "a/b", ".x", "a b"):
        answer = send_errand("settle", "systemd", {"credential": name})
        assert answer == failed("usage", f"not the name of a credential: {name}")


# A credential of the unit


def test_a_units_credential_opens_it(unit) -> None:
    made = send_errand("set", "systemd", LOADED, secret=SECRET, env=unit)
    assert made["outcome"] == "ok" and SECRET not in made["value"]
    assert send_errand("get", "systemd", LOADED, kept=made["value"], env=unit) == {"outcome": "ok", "value": SECRET}
    probed = send_errand("probe", "systemd", LOADED, kept=made["value"], env=unit)
    assert probed == {"outcome": "ok", "value": "the credential avault.unlock is there"}
    assert send_errand("settle", "systemd", {"credential": "avault.unlock"}) == {
        "outcome": "ok",
        "value": LOADED,
        "asks": False,
    }


def test_a_units_credential_is_bound_too(unit) -> None:
    made = send_errand("set", "systemd", LOADED, secret=SECRET, env=unit)["value"]
    answer = send_errand("get", "systemd", LOADED, kept=made, env=unit, bound=OTHER_BOUND)
    assert answer == failed("tampered", "what the credential opens is another custodian's, or another vault's")
    Path(unit["CREDENTIALS_DIRECTORY"], "avault.unlock").write_text("b8" * 32)
    answer = send_errand("get", "systemd", LOADED, kept=made, env=unit)
    assert answer == failed("tampered", "the credential avault.unlock is another than at first")


def test_a_units_credential_that_is_missing(unit) -> None:
    made = send_errand("set", "systemd", LOADED, secret=SECRET, env=unit)["value"]
    assert send_errand("get", "systemd", LOADED, kept=made) == failed(
        "unavailable", "no unit has given the daemon credentials (CREDENTIALS_DIRECTORY)"
    )
    path = Path(unit["CREDENTIALS_DIRECTORY"], "avault.unlock")
    for wrong in ("", "5f", "g7" * 32, "a7" * 33, "00" * 32):
        path.write_text(wrong)
        answer = send_errand("get", "systemd", LOADED, kept=made, env=unit)
        assert answer == failed("tampered", "the credential avault.unlock is not 64 hex digits"), wrong
    path.unlink()
    assert send_errand("get", "systemd", LOADED, kept=made, env=unit) == failed(
        "not_found", "the unit has no credential avault.unlock"
    )


def test_nothing_was_sealed(unit) -> None:
    for settings in (HOST, LOADED):
        assert send_errand("get", "systemd", settings, env=unit)["outcome"] == "not_found"
    assert send_errand("delete", "systemd", HOST, kept="x") == {"outcome": "ok", "value": None}
