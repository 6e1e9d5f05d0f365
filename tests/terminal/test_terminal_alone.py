"""What commands have in common, without a daemon: what is shown, and what is said where something is missing."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

import avault


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> avault.Terminal:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return avault.Terminal(str(tmp_path / "vault"), want_json=False)


def test_an_extra_that_is_not_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "__file__", str(tmp_path / "avault.py"))
    with pytest.raises(avault.Unavailable, match=r"avault_extras/odd\.py is not beside"):
        avault.load_extra("odd")
    extras = tmp_path / "src" / "avault_extras"
    extras.mkdir(parents=True)
    (extras / "odd.py").write_text("import avault\nhere = avault.__file__\n")
    assert avault.load_extra("odd").here == str(tmp_path / "avault.py")


def test_a_daemon_that_ends_before_it_listens(terminal: avault.Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(avault.NotFound, match="no vault in"):
        avault.start_daemon(terminal.places, background=True)
    Path(terminal.places.dir).mkdir()
    monkeypatch.setattr(avault, "own_command", lambda *_: [sys.executable, "-c", ""])
    with pytest.raises(avault.Unavailable, match="ended before it listened"):
        avault.start_daemon(terminal.places, background=True)


def test_a_daemon_that_leaves_while_it_ends(terminal: avault.Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """To stop, that is an answer; to lock, it is none."""

    def leave(*_: Any, **__: Any) -> None:
        raise avault.Interrupted("the daemon went away before it answered")

    monkeypatch.setattr(avault, "ask_daemon", leave)
    assert avault.end("stop", terminal, force=False) == 0
    with pytest.raises(avault.Interrupted):
        avault.end("lock", terminal, force=False)


def test_directories_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    monkeypatch.setattr(avault, "owner_of", lambda path: "alice")
    with pytest.raises(avault.AvaultError, match="belongs to alice") as refused:
        avault.make_private_directory(str(tmp_path))
    assert refused.value.hint and refused.value.hint.startswith("do it as alice, or")
    monkeypatch.setattr(avault, "owner_of", lambda path: "root")
    with pytest.raises(avault.AvaultError, match="belongs to root") as refused:
        avault.make_private_directory(str(tmp_path))
    assert refused.value.hint and f'sudo chown -R "$USER" {tmp_path};' in refused.value.hint


def test_beside_a_vault_of_somebody_else_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when root begins a daemon in a user's home: the user's own daemon would find root's state there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    vault = tmp_path / "vault"
    vault.mkdir()
    monkeypatch.setattr(avault.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(avault.AvaultError, match="belongs to"):
        avault.start_daemon(avault.Places(str(vault)), background=True)
    assert not (tmp_path / "state").exists()


def status(**fields: Any) -> dict[str, Any]:
    return {**dict.fromkeys(avault.STATUS_FIELDS), "state": "unlocked", "dir": "/v", "warnings": [], **fields}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"until": "2026-01-01T00:00:00Z"}, "Locks: 2026-01-01T00:00:00Z"),
        ({"custodians": ["box", "phone"]}, "Opened by: box, phone; see: avault custody list"),
        ({"git": {"reason": "in\x1b conflict", "hint": "git status"}}, "Git: in\\x1b conflict; git status"),
        ({"git": {"reason": None, "push_reason": "no network", "hint": "avault sync"}}, "Git: no network; avault sync"),
        ({"error": {"message": "it said so"}}, "Reason: it said so"),
        ({"proven": False}, "Proven: no; nobody has shown yet that the phone opens this vault"),
        ({"warnings": ["w\x07"]}, "Warning: w\\x07"),
        ({"hint": "open the app; see: avault status"}, "Next: open the app"),
    ],
)
def test_status_for_a_person(fields: dict[str, Any], line: str) -> None:
    plain = avault.render_status(status()).splitlines()
    assert [each for each in avault.render_status(status(**fields)).splitlines() if each not in plain] == [line]


@pytest.mark.parametrize("lingers", [True, False])
def test_where_a_logout_ends_the_daemon(
    terminal: avault.Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lingers: bool
) -> None:
    terminal.places.socket = "/run/user/1/avault.sock"
    monkeypatch.setattr(avault.os.path, "isdir", lambda path: path == "/run/systemd/system")
    monkeypatch.setattr(avault.os.path, "exists", lambda path: lingers and path.startswith("/var/lib/systemd/linger/"))
    avault.warn_of_logout(terminal.places)
    assert ("lingering is off" in capsys.readouterr().err) is not lingers


class Ticks:
    """An event that is set after so many looks."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def wait(self, _: float) -> bool:
        self.left -= 1
        return self.left < 0


def progress(connected: bool, requests: int = 1, said: str | None = "accepted", **waiting: Any) -> dict[str, Any]:
    """What the daemon tells who waits."""
    told = {"since": "", "next": None, "client_key": "ab" * 32, "error": None, "notice": None, "auth_url": None}
    relay = {"url": "wss://one.example", "connected": connected, "said": said}
    return {"waiting": {**told, "requests": requests, **waiting}, "relays": [relay], "code": "7K3F"}


@pytest.mark.parametrize(
    ("told", "columns", "line"),
    [
        (None, 80, None),
        (progress(True), 80, "asked 1 of 1 relays, waiting for approval, 0:00"),
        (progress(True), 30, "asked 1 of 1 relays, wai, 0:00"),
        (progress(False, requests=0, said=None), 80, "connecting to 1 relay, 0:00"),
        (progress(False), 80, "no relay is connected; trying again, 0:00"),
    ],
)
def test_the_line_that_is_redrawn(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any] | None, columns: int, line: str | None
) -> None:
    waiting = avault.Waiting()
    waiting.ended, waiting.is_terminal, waiting.progress = Ticks(2), True, told or {}
    monkeypatch.setattr(avault, "terminal_width", lambda: columns + 1)
    monkeypatch.setattr(sys, "stderr", out := io.StringIO())
    waiting.draw()
    assert out.getvalue() == (f"\r\x1b[K{line}" * 2 + "\r\x1b[K" if line else "")
    assert line is None or len(line) <= columns


def test_relays_that_do_not_come(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: each thing once, also when nothing is told meanwhile."""
    waiting = avault.Waiting()
    waiting.ended, waiting.is_terminal = Ticks(3), False
    waiting(progress(False, requests=0))
    waiting.draw()
    assert capsys.readouterr().err == "avault: connecting to 1 relay\n"
    waiting.begun -= avault.Waiting.CONNECTING
    waiting.ended = Ticks(3)
    waiting.draw()
    assert capsys.readouterr().err == "avault: no relay is connected; trying again\n"
    waiting(progress(True, notice="it gave up"))
    said = capsys.readouterr().err
    assert said.startswith("avault: asking the phone, code 7K3F; open the signer app")
    assert said.endswith("avault: it gave up\n")


def test_the_width_of_no_terminal() -> None:
    assert avault.terminal_width() == 80 or sys.stderr.isatty()
