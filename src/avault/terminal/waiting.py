"""Waiting for the operator, and for a daemon."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from avault.client import Interrupted, ask_daemon
from avault.errors import TimedOut
from avault.signer.pairing import shorten_key
from avault.systemd import NoDaemon, explain_absence
from avault.terminal.talk import say
from avault.terminal.terminal import Terminal
from avault.vault.presence import need_vault

if TYPE_CHECKING:
    from typing import Any, Self


class Waiting:
    """What an unlock waits for.

    On a terminal a line that is redrawn in place, else a line for each thing that is new.
    """

    CONNECTING = 5.0  # seconds for which a relay that is not connected yet is no reason to say so

    def __init__(self) -> None:
        import threading

        self.said: set[str] = set()
        self.progress: dict[str, Any] = {}
        self.begun = time.monotonic()
        self.is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.ended = threading.Event()
        self.pen = threading.Lock()  # of who writes to the terminal
        self.drawing = threading.Thread(target=self.draw, daemon=True)

    def __enter__(self) -> Self:
        self.drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.drawing.join()

    def draw(self) -> None:
        """Keep the line on the terminal until it is ended.

        It is cut to the width: what is longer would go on to a new line.
        """
        while not self.ended.wait(0.25):
            with self.pen:
                state = self.describe()
                if state and self.is_terminal:
                    minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
                    clock = f", {minutes}:{seconds:02}"
                    sys.stderr.write(
                        f"\r\x1b[K{state[: max(terminal_width() - 1 - len(clock), 0)]}{clock}"
                    )
                    sys.stderr.flush()
                elif state and not self.is_connected():
                    self.say_once(state)
        if self.progress and self.is_terminal:
            sys.stderr.write("\r\x1b[K")

    def is_connected(self) -> bool:
        """Whether a relay is."""
        return any(relay["connected"] for relay in self.progress.get("relays") or [])

    def describe(self) -> str:
        """What is waited for at this moment; empty where nothing is known yet."""
        relays = self.progress.get("relays") or []
        if not relays:
            return ""
        if self.is_connected():
            taken = sum(relay["said"] == "accepted" for relay in relays)
            return f"asked {taken} of {len(relays)} relays, waiting for approval"
        if (
            not (self.progress["waiting"] or {}).get("requests")
            and time.monotonic() - self.begun < self.CONNECTING
        ):
            return f"connecting to {len(relays)} relay{'' if len(relays) == 1 else 's'}"
        return "no relay is connected; trying again"

    def __call__(self, progress: dict[str, Any]) -> None:
        with self.pen:
            self.progress = progress
            self.tell(progress, progress["waiting"] or {})

    def tell(self, progress: dict[str, Any], waiting: dict[str, Any]) -> None:
        """Say what is new in what the daemon has told."""
        if self.is_connected() and waiting:
            self.say_once(
                f"asking the phone, code {progress['code']}; "
                "open the signer app and approve there, or see: avault status"
            )
            self.say_once(f"the app may show who asks as {shorten_key(waiting['client_key'])}")
        if waiting.get("auth_url"):
            self.say_once(f"open this page to approve: {waiting['auth_url']}")
        if waiting.get("error"):
            self.say_once(f"the signer says: {waiting['error']}")
        if waiting.get("notice"):
            self.say_once(waiting["notice"])

    def say_once(self, line: str) -> None:
        """Say what is new."""
        if line not in self.said:
            self.said.add(line)
            sys.stderr.write("\r\x1b[K" if self.is_terminal else "")
            say(line)


def terminal_width() -> int:
    """The columns of the terminal that stderr is; 80 where that is not known."""
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def wait_open(terminal: Terminal, timeout: float | None) -> None:
    """Wait until the vault is open, and for a daemon if there is none; raises TimedOut."""
    end = None if timeout is None else time.monotonic() + timeout
    if not terminal.is_running():
        need_vault(terminal.places)
    if sys.stderr.isatty() and not terminal.is_running():
        say(
            f"waiting for a daemon to open {terminal.places.dir}; "
            f"{explain_absence(terminal.places).hint}"
        )
    while True:
        left = None if end is None else end - time.monotonic()
        try:
            ask_daemon(terminal.places, "wait", timeout=left)
            return
        except (NoDaemon, Interrupted):
            if left is not None and left <= 0:
                raise TimedOut(
                    "no daemon came up in time", explain_absence(terminal.places).hint
                ) from None
        time.sleep(0.2)
