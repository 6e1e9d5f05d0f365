"""What a command writes: read where it comes out, masked, and written to where it belongs."""

from __future__ import annotations

import errno
import os
import select
import stat
import time

from avault.running.masks import SILENCE, Mask, Patterns
from avault.terminal.talk import say

PIPE_SIZE = 1 << 20  # bytes; Linux gives so much to anybody, and each read then brings more


class Output:
    """What the command writes: read from `source`, masked, written to `sink`."""

    def __init__(self, source: int, sink: int, patterns: Patterns) -> None:
        self.source: int | None = source
        os.set_blocking(source, False)
        self.sink = sink
        self.mask = Mask(patterns)
        self.pending = memoryview(b"")  # masked, not yet written
        self.quiet: float | None = SILENCE  # None: nobody waits for a prompt
        self.due: float | None = None  # when the silence has been long enough
        self.count = 0  # bytes read
        # \r\n becomes \n: the terminal behind will make the same of it again
        self.undoes_crlf = False
        kind = os.fstat(sink).st_mode
        # A write that a full pipe would block is not begun: the other output, and the keys,
        # would wait too.
        self.piece = select.PIPE_BUF if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else PIPE_SIZE

    def read(self) -> None:
        """Take what has come, a pipe's content at most. The end of the stream closes the source."""
        data, piece = bytearray(), b"?"
        try:
            while piece and self.source is not None and len(data) < PIPE_SIZE:
                data += (piece := os.read(self.source, 1 << 16))  # of a terminal, 4 KiB at most
        except BlockingIOError:  # that is all
            pass
        except OSError:  # EIO: the last holder of a terminal has closed it
            piece = b""
        self.count += len(data)
        shown = self.mask.feed(bytes(data))
        if not piece:
            shown += self.mask.end()
            self.close()
        self.pending = memoryview(shown.replace(b"\r\n", b"\n") if self.undoes_crlf else shown)
        self.due = time.monotonic() + self.quiet if self.mask.held and self.quiet else None

    def pause(self) -> None:
        """Let out what is held and short."""
        self.pending, self.due = memoryview(self.mask.pause()), None

    def write(self) -> None:
        """Write some of what is pending.

        Where nobody reads any more, we read no more: the command finds that out in its turn.
        """
        try:
            self.pending = self.pending[os.write(self.sink, self.pending[: self.piece]) :]
        except BlockingIOError:  # somebody has made it so, and has filled it
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                say(f"cannot write the output: {error.strerror}")
            self.pending = memoryview(b"")
            self.close()

    def close(self) -> None:
        """Read no more."""
        if self.source is not None:
            os.close(self.source)
        self.source, self.due = None, None
