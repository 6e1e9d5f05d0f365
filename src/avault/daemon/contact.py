"""The operator's signer, as the keyholder reaches it: the pairing, and a connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.daemon.reporter import Reporter
from avault.daemon.wire import Session
from avault.errors import AvaultError, Tampered
from avault.keys.nostr import to_npub
from avault.places import Places
from avault.signer.pairing import Pairing, forget_begun
from avault.signer.remote import RemoteSigner
from avault.vault.store import Store

if TYPE_CHECKING:
    from typing import Any


class Contact:
    """This machine's pairing, and the connection to its signer while there is one.

    `pairing` is the one by which the vault is being opened, or was; `begun` is one whose signer is
    connected, and has not opened an envelope yet; `seen` lay on the disk when another way opened
    the vault: by it the operator is asked, and it is never written; `relays` is what they said when
    the signer was last asked.
    """

    def __init__(self, places: Places, reporter: Reporter) -> None:
        self.places, self.reporter = places, reporter
        self.pairing: Pairing | None = None
        self.begun: Pairing | None = None
        self.seen: Pairing | None = None
        self.signer: RemoteSigner | None = None
        self.relays: list[dict[str, Any]] | None = None

    def connect(
        self, pairing: Pairing, signer: str | None, session: Session | None = None
    ) -> Connected:
        """A connection to the signer, shown in `status` while it lasts.

        Its pages are shown to the `session`.
        """

        def changed() -> None:
            self.reporter.report()
            if session and remote.remarks.auth_url:
                session.send({"progress": "page", "url": remote.remarks.auth_url})
            if session and remote.remarks.notice:
                session.send({"progress": "notice", "text": remote.remarks.notice})

        remote = RemoteSigner(pairing.keys, pairing.relays, signer, changed)
        remote.code.secret = pairing.token
        return Connected(self, remote)

    def keep(self, pairing: Pairing) -> None:
        """Write a pairing by which the phone has just opened an envelope of this vault.

        Until then the one before stays.
        """
        self.pairing = pairing
        try:
            pairing.save(self.places)
            forget_begun(self.places)
            self.reporter.warnings.pop("pairing", None)
        except AvaultError as error:
            self.reporter.warnings["pairing"] = (
                f"the pairing could not be written, and ends with this daemon: {error.message}"
            )

    def restore(self) -> None:
        """Write pairing.json anew where it is not the pairing that opened the vault; and say so."""
        if not self.pairing:
            return
        try:
            found = Pairing.load(self.places)
        except AvaultError:
            found = None
        if not found or not found.is_same(self.pairing):
            self.keep(self.pairing)
            self.reporter.warn_of_a_change("pairing.json")

    def find(self, store: Store | None) -> Pairing | None:
        """This machine's pairing, for the open vault; None where there is none.

        Raises Tampered where it is for another agent, or for who is no operator any more, or where
        pairing.json is not the one by which the vault was opened.
        """
        found = Pairing.load(self.places)
        if found and self.pairing and not found.is_same(self.pairing):
            hint = "avault status, which puts back the one that did; then try again"
            raise Tampered("pairing.json is not the pairing that opened this vault", hint)
        pairing = self.pairing or self.seen or found
        if pairing and store:
            is_operator = pairing.operator in store.vault.operators()
            if pairing.agent != store.vault.agent or not is_operator:
                raise Tampered(
                    "this machine's pairing is for another agent or operator than the open vault",
                    f"avault pair --replace --operator {to_npub(store.vault.operator)}",
                )
        return pairing

    def note_seen(self, store: Store | None) -> None:
        """Remember the pairing that lies there now; one that is not for this vault is said.

        Either way the operator is who agrees to changes, whatever becomes of the file.
        """
        if self.pairing:
            return
        try:
            self.seen = self.find(store)
        except AvaultError as error:
            self.reporter.warnings["pairing"] = error.message

    def is_paired(self) -> bool:
        """Whether this machine has a pairing, or something in its place."""
        path = self.places.own("pairing.json")
        return bool(self.pairing or self.seen) or os.path.lexists(path)


class Connected:
    """A signer's connection for the length of a `with`."""

    def __init__(self, contact: Contact, signer: RemoteSigner) -> None:
        self.contact, self.signer = contact, signer

    async def __aenter__(self) -> RemoteSigner:
        await self.signer.open()
        self.contact.signer = self.signer
        self.contact.reporter.report()
        return self.signer

    async def __aexit__(self, *_: object) -> None:
        contact = self.contact
        contact.signer = None if contact.signer is self.signer else contact.signer
        if self.signer.remarks.clock:
            contact.reporter.warnings["clock"] = self.signer.remarks.clock
        contact.relays = [
            {**relay, "connected": None} for relay in self.signer.relays.shown.values()
        ]
        await self.signer.close()
        contact.reporter.report()
