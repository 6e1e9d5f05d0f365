"""A pairing code as a picture made of letters."""

from __future__ import annotations

import io


def qr_lines(text: str) -> list[str]:
    """The lines of a QR code, light on dark, in half blocks.

    A pairing URI goes without its picture, which would make the code too big.
    """
    import qrcode

    code = qrcode.QRCode(border=2, error_correction=qrcode.constants.ERROR_CORRECT_L)
    code.add_data(text.partition("&image=")[0])
    shown = io.StringIO()
    code.print_ascii(out=shown, invert=True)
    return shown.getvalue().rstrip("\n").split("\n")
