"""What the operator should know of the signer while it is asked."""

from __future__ import annotations

import sys
import time

from avault.errors import printable
from avault.signer.pairing import shorten_key


class Remarks:
    """What `status` shows of the signer: what it said last, and what is odd about it.

    `error` is what it refused with, `notice` what it did, `auth_url` a page that it wants to be
    opened, `clock` how far its clock is from ours.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self.notice: str | None = None
        self.auth_url: str | None = None
        self.clock: str | None = None

    def clear(self) -> None:
        """Forget what was about an earlier question; the clocks differ as before."""
        self.error = self.notice = self.auth_url = None

    def note_page(self, url: object, author: str | None) -> bool:
        """Keep a page that is to be opened: whether it is one. We never open it.

        The signer wants it, or another key, the `author`, that the signer has told.
        """
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            return False
        page = printable(url, 500)
        if not author:
            self.auth_url = page
        elif not self.auth_url:
            self.notice = (
                f"another key than the signer's, {shorten_key(author)}, wants a page opened: "
                f"{page} (Signet does so from its admin key; if yours is no Signet, do not open it)"
            )
        return True

    def check_clock(self, created_at: int) -> bool:
        """Notice that the signer's clock and ours differ: whether it is so.

        Relays and signers drop what is too old or too new.
        """
        skew = int(created_at - time.time())
        if abs(skew) > 60:
            self.clock = f"this machine's clock and the signer's differ by {abs(skew)} s"
        return abs(skew) > 60


def is_clock_unsynchronised() -> bool:
    """Whether the kernel says that nothing keeps its clock right (adjtimex(2), TIME_ERROR).

    Linux only.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)) == 5)
