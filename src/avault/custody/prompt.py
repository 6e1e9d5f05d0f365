"""The person at a terminal, asked by a process that is not of that terminal."""

from __future__ import annotations

import os
import termios
from typing import TYPE_CHECKING

from avault.errors import Denied, Unavailable, printable
from avault.plain import write_all
from avault.vault.files import read_file

if TYPE_CHECKING:
    from typing import Any


def closed_terminal(path: str) -> Unavailable:
    """What is said where a terminal is another user's, as in a shell of su or sudo."""
    return Unavailable(
        f"the terminal {printable(path)} is not this user's, as in a shell of su or sudo",
        "log in as this user, or begin with: script -q /dev/null",
    )


class Prompt:
    """The person at the terminal `path`, as ttyname(3) gives it; or `answers`, a file for scripts.

    What a service is asked may also be among its credentials (CREDENTIALS_DIRECTORY,
    systemd.exec(5)). Before the first question stands the `purpose`; None once it was said. `close`
    puts the terminal's echo back, whoever ends us.
    """

    LONGEST = 4096  # bytes of an answer

    def __init__(
        self, path: str | None, answers: str | None = None, purpose: str | None = None
    ) -> None:
        self.path, self.answers, self.purpose = path, answers, purpose
        self.fd = -1
        self.modes: list[Any] = []

    def ask(self, question: str, credential: str = "") -> str:
        """One line that the person types, not echoed; raises Denied, Unavailable.

        `credential` names what may lie among a service's credentials instead.
        """
        purpose, self.purpose = self.purpose, None  # said once
        directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
        given = os.path.join(directory, credential) if directory and credential else ""
        if self.answers or os.path.isfile(given):
            data = read_file(self.answers or given, self.LONGEST)
            return self.check(data.decode(errors="replace").removesuffix("\n"))
        self.open()
        silent = [*self.modes[:3], self.modes[3] & ~termios.ECHO, *self.modes[4:]]
        termios.tcsetattr(self.fd, termios.TCSAFLUSH, silent)
        try:
            if purpose:
                self.tell(purpose)
            self.tell(f"{question}: ", "")  # now: what is typed at sight of it is not echoed
            typed = os.read(self.fd, self.LONGEST)
        finally:
            self.restore()
        write_all(self.fd, b"\n")
        return self.check(typed.decode(errors="replace").removesuffix("\n"))

    def check(self, answer: str) -> str:
        """An answer, if it is one; raises Denied."""
        if not answer:
            raise Denied("nothing was typed")
        return answer

    def tell(self, text: str, end: str = "\n") -> None:
        """Show the person a line; raises Unavailable where there is none."""
        self.open()
        write_all(self.fd, f"avault: {text}{end}".encode())

    def show(self, text: str) -> None:
        """Show the person a picture, as it is; raises Unavailable where there is nobody."""
        self.open()
        write_all(self.fd, text.encode())

    def open(self) -> None:
        """Open the terminal, if it is not yet; it does not become ours. Raises Unavailable."""
        if self.fd >= 0:
            return
        if not self.path:
            raise Unavailable("somebody has to answer, and there is no terminal")
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
            if not os.isatty(fd) or os.fstat(fd).st_uid not in (os.getuid(), 0):
                raise OSError("not a terminal of ours")
            self.modes = termios.tcgetattr(fd)
        except (OSError, termios.error):
            raise closed_terminal(self.path) from None
        self.fd = fd

    def restore(self) -> None:
        """Put the terminal's echo back."""
        if self.fd >= 0:
            termios.tcsetattr(self.fd, termios.TCSANOW, self.modes)

    def close(self) -> None:
        """Leave the terminal as it was."""
        try:
            self.restore()
        except termios.error:
            pass  # it is gone
