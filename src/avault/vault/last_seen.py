"""What the loaded vault knows of its file: what loading showed, and how it was seen last."""

from __future__ import annotations


class LoadRemarks:
    """What loading the vault showed, for a person to know; "" is nothing."""

    def __init__(self) -> None:
        self.rollback = ""  # what was accepted, although the pin speaks against it
        self.accepted = ""  # the hash of what was made of that, each time another
        self.succeeded = ""  # that the first operator is another than this machine has seen last
        self.lacks = ""  # what this machine knew under the key before, and is not in it


class LastSeen:
    """avault.enc, as this process saw and wrote it last."""

    def __init__(self) -> None:
        # what tells one state of the file from another; (): it is to be looked at, None: no file
        self.state: tuple[int, ...] | None = ()
        self.written = ""  # the hash of what this process last wrote, or meant to
        self.amid_git = False  # the last write was amid a rebase or the like: its end may undo it
