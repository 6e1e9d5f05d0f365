"""What somebody wants signed by a key of which the phone is asked: what one approval covers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from avault.daemon.askers import Asker
from avault.errors import printable
from avault.vault.times import render_duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.daemon.gate import Passage
    from avault.protocol import Message

    # what may be used at the moment; given what is reserved of it, also when no use is left
    AdmitUse = Callable[["Passage | None"], "Passage"]


# kinds of which one event is like another, to be read by people: notes and what answers them,
# messages in a room, reposts, reactions, pictures and films, highlights, articles and their drafts
ALIKE = frozenset({1, 6, 7, 9, 11, 16, 20, 21, 22, 42, 1_111, 1_311, 9_802, 30_023, 30_024})


class Wish:
    """A use of the key of a `name`: what is `said` to who signs, and in `words`, what is proven.

    `use` is as it was decoded, `noted` its line in the access log.
    """

    def __init__(
        self,
        name: str,
        said: Message,
        use: dict[str, Any],
        words: str,
        noted: Message,
        asker: Asker,
        admit: AdmitUse,
    ) -> None:
        self.name, self.said, self.use, self.words = name, said, use, words
        self.noted, self.asker, self.admit = noted, asker, admit

    def errand(self) -> tuple[object, ...] | None:
        """What an approval with a time is good for: one destination; None for what has none.

        A server that is not proven is none: nobody knows where the next one is. Nor has anything
        one that is not named here: each is asked for.
        """
        use, what = self.use, str(self.use["as"])
        if what == "ssh":
            where = use["server"], *use["through"], use["user"]
            return ("ssh", *where) if use["server"] else None
        if what == "sshsig":
            return ("sshsig", use["namespace"], *use["through"])
        if what == "nostr-event":
            return (what, use["kind"]) if use["kind"] in ALIKE else None
        return (what, use["peer"]) if "peer" in use else None

    def exact(self) -> tuple[object, ...] | None:
        """What an approval of one use is good for, where several wait: what the phone shows.

        Of a login that is the server and the user; of all else, the very same.
        """
        if self.use["as"] == "ssh":
            return self.errand()
        payload = hashlib.sha256(str(self.said["payload"]).encode()).hexdigest()
        errand = self.errand()
        return errand and (*errand, payload)

    def count_seconds(self, ask: int) -> int:
        """For how many seconds an approval is good, where a guard says `ask`: 0 for this use."""
        return ask if self.asker.which and self.errand() else 0

    def describe(self, host: str, seconds: int, is_thawed: bool) -> str:
        """The words of the phone: what is proven first, and what a program claims after "says"."""
        again = ""
        if seconds:  # this stands where no phone cuts
            use = self.use
            more = {
                "ssh": "",
                "sshsig": f", any file for {printable(str(use.get('namespace')), 40)}",
                "nostr-event": f", any event of kind {use.get('kind')}",
            }.get(str(use["as"]), ", any text with that peer")
            again = f"now and for {render_duration(seconds)}{more}: "
        thawed = " (which is sealed no more then)" if is_thawed else ""
        says = f" says: {printable(self.asker.does, 60)}" if self.asker.does else ""
        return f"{again}{self.words}{thawed}; {self.asker.words} on {host}{says}"
