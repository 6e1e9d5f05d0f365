"""A QR code: in a terminal that is large enough, and as a picture."""

from __future__ import annotations

import io
import os
import signal

from avault.plain import write_all
from avault.signer.qr import qr_lines
from avault.terminal.talk import say
from avault.vault.files import write_file


def show_qr(text: str) -> None:
    """Show a QR code, now or as soon as the terminal is large enough for it."""
    code = qr_lines(text)
    rows, columns = len(code) + 1, len(code[0])

    def fit(*_: object) -> None:
        size = os.get_terminal_size(2)
        # 0: nobody knows
        if not size.columns or (size.columns >= columns and size.lines >= rows):
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            # not by sys.stderr, in whose midst a signal may come
            write_all(2, "\n".join([*code, ""]).encode())

    signal.signal(signal.SIGWINCH, fit)
    fit()
    if signal.getsignal(signal.SIGWINCH) == fit:
        size = os.get_terminal_size(2)
        say(
            f"the QR code needs {columns} columns and {rows} lines, and here are "
            f"{size.columns} and {size.lines}"
        )
        say(
            "hint: make the window larger, or its letters smaller (Ctrl and -); or paste the "
            "line; or --qr FILE.png"
        )


def save_qr(text: str, path: str) -> None:
    """A QR code as a PNG file (0600); raises AvaultError."""
    import qrcode

    picture = io.BytesIO()
    qrcode.make(text).save(picture, "PNG")
    write_file(os.path.abspath(os.path.expanduser(path)), picture.getvalue())
