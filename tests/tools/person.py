"""A person at a terminal, as a custodian's helper asks one: a pty, what it shows, and what is typed at which question."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import Self

from canary import record


class Person:
    """Types `answers[question]` each time the terminal shows that question, or what a function there gives.

    A question without an answer is left unanswered.
    `acts[text]` is called with each line that has the text in it.
    """

    def __init__(
        self,
        answers: dict[str, str | Callable[[], str]] | None = None,
        acts: dict[str, Callable[[str], object]] | None = None,
    ) -> None:
        self.answers, self.acts = answers or {}, acts or {}
        self.shown, self.typed = "", 0
        self.fd, self.end = os.openpty()
        self.path = os.ttyname(self.end)
        self.is_gone = False
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_gone = True
        self.thread.join()
        for fd in (self.fd, self.end):
            with contextlib.suppress(OSError):
                os.close(fd)
        record("a custodian's terminal", self.shown)

    def watch(self) -> None:
        seen = 0
        with contextlib.suppress(OSError):  # the terminal is gone
            while not self.is_gone:
                if not select.select([self.fd], [], [], 0.02)[0]:
                    continue
                self.shown += os.read(self.fd, 1 << 16).decode(errors="replace")
                for question, answer in self.answers.items():
                    if question in self.shown[seen:]:
                        seen, self.typed = len(self.shown), self.typed + 1
                        os.write(self.fd, (answer if isinstance(answer, str) else answer()).encode() + b"\n")
                while "\n" in self.shown[seen:]:
                    line, _, _ = self.shown[seen:].partition("\n")
                    seen += len(line) + 1
                    for text, act in self.acts.items():
                        if text in line:
                            act(line.strip())
