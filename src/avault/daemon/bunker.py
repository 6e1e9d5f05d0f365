"""What clients ask by their invitations (NIP-46): who asks, when, how often, and what for.

An event comes as it was on a relay. Whose it is and what it says is proven by its signature, which
the process that signs verifies; so who brings it here need not be believed.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from avault.daemon.guests import OLDEST, Guest
from avault.daemon.nostr_signing import sign_noted
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, NotFound, Usage, complain
from avault.keys.keyholder import Keyholder
from avault.keys.nostr import to_npub
from avault.signing.nostr_keys import LONGEST_FROM_CLIENT
from avault.ssh_wire import encode_base64
from avault.vault.invitations import CAME, SIGN_EVENT, Invitation, admit_client
from avault.vault.nostr_rules import CIPHERS
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Message


LONGEST_ID = 128  # characters of a request's id


async def answer_event(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The event that answers one of a client's; None where nothing is said to it.

    Raises NotFound, Denied, Usage for what is not answered at all.
    """
    guests, text = keyholder.guests, request.get("event")
    invitation = find_addressed(keyholder, text)
    opened = await keyholder.signing.use("open", invitation.transport, event=text)
    await asyncio.sleep(guests.count_until(opened["created_at"]))
    invitation = find_addressed(keyholder, text)  # which may have been taken back meanwhile
    guest, client = guests.find(invitation), str(opened["author"])
    guests.count_until(opened["created_at"])
    guest.refuse_seen(opened["event"])  # before it counts: anybody can send it again
    is_own = client == invitation.client
    is_within = (guest.own if is_own else guest.strangers).take()
    # what is refused for the rate is not answered otherwise when it comes again
    if is_own or is_within:
        guest.note(opened["event"], opened["created_at"], guests.now() - OLDEST)
    if not is_within:
        if not is_own:
            raise Denied("too many requests of who is not invited")
        number = read_number(opened["said"])
        answer = compose_refusal(number, f"more than {invitation.terms.rate} requests a minute")
        return await seal_answer(keyholder, invitation, client, text, answer)
    asking = Asking(keyholder, session, invitation, client, opened["said"])
    return await seal_answer(keyholder, invitation, client, text, await asking.answer(guest))


def find_addressed(keyholder: Keyholder, text: object) -> Invitation:
    """The invitation under whose key an event is asked; raises NotFound, Usage."""
    store = keyholder.open_store()
    try:
        if not isinstance(text, str) or len(text) > LONGEST_FROM_CLIENT:
            raise ValueError
        to = {tag[1] for tag in json.loads(text)["tags"] if tag[0] == "p"}
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise Usage("not an event of a client's") from None
    for each in keyholder.signing.invited.look(store.vault):
        if each.address in to and each.machine == store.machine:
            return each
    raise NotFound("nobody is invited under this key", "see who is: avault bunker list")


async def seal_answer(
    keyholder: Keyholder, invitation: Invitation, client: str, asked: object, answer: str
) -> Message:
    """An answer as an event for a client, who asked by one; raises NotFound.

    It is not given out where the invitation was taken back meanwhile, also while it was sealed.
    """
    refuse_revoked(keyholder, asked, invitation)
    sealed = await keyholder.signing.use("seal", invitation.transport, peer=client, text=answer)
    refuse_revoked(keyholder, asked, invitation)
    return {"ok": True, "event": sealed["event"]}


def refuse_revoked(keyholder: Keyholder, asked: object, invitation: Invitation) -> None:
    """Raise NotFound where an event is under the key of an invitation no more."""
    if find_addressed(keyholder, asked).identity != invitation.identity:
        raise NotFound("nobody is invited under this key", "see who is: avault bunker list")


def read_number(said: dict[str, Any] | None) -> str:
    """The id of a request; raises Usage for what is none, which is not answered."""
    if not said or not 0 < len(said["id"]) <= LONGEST_ID:
        raise Usage("not a request of NIP-46")
    return str(said["id"])


def compose_refusal(number: str, why: str) -> str:
    """A refusal that all clients understand: one with an empty result would be parsed by some."""
    return json.dumps({"id": number, "result": "error", "error": why})


class Asking:
    """One request of a client's, whose key is proven."""

    def __init__(
        self,
        keyholder: Keyholder,
        session: Session,
        invitation: Invitation,
        client: str,
        said: dict[str, Any] | None,
    ) -> None:
        self.keyholder, self.session = keyholder, session
        self.invitation, self.client = invitation, client
        self.number = read_number(said)
        found = said or {}  # see `read_said`
        self.method, self.params = str(found["method"]), [*map(str, found["params"])]

    async def answer(self, guest: Guest) -> str:
        """The answer, as it was made before where this is asked again."""
        asked = json.dumps([self.method, self.params])
        is_kept = self.client == self.invitation.client and self.method == SIGN_EVENT
        try:
            if is_kept:
                return await guest.answer_once(self.number, asked, self.compose)
            return await self.compose()
        except AvaultError as error:
            return compose_refusal(self.number, error.message)
        except Exception as error:
            return compose_refusal(self.number, complain(error).message)

    async def compose(self) -> str:
        """The answer, made anew; raises what `find_result` does."""
        return json.dumps({"id": self.number, "result": await self.find_result()})

    async def find_result(self) -> str:
        """What a request comes to; raises AvaultError, which is logged where it is of use."""
        if self.method == "connect":
            return await self.connect()
        if self.client != self.invitation.client:
            raise Denied("not connected: an invitation's secret is for one client")
        if self.keyholder.guests.now() >= self.invitation.terms.until:
            raise Denied(f"the invitation of {self.invitation.name} is over")
        if self.method == "ping":
            return "pong"
        if self.method == "switch_relays":
            return "null"  # to no others; some clients ask at once, and take no for an error
        if self.method == "get_public_key":
            return str(self.invitation.public)
        if self.method == SIGN_EVENT and len(self.params) == 1:
            return await self.sign("nostr-event", self.params[0])
        if self.method in CIPHERS and len(self.params) == 2:
            peer, text = self.params
            return await self.sign(str(self.method).replace("_", "-"), text, peer=peer)
        raise Usage("no such method, or not its parameters")

    async def connect(self) -> str:
        """Have a client be the one of an invitation, by its secret, which is used up with that."""
        invitation, secret = self.invitation, self.params[1] if len(self.params) > 1 else ""
        noted: Message = {"op": "bunker", "for": f"connect {invitation.name}"}
        noted["client"] = to_npub(self.client)
        try:
            known = ("", invitation.address, invitation.public)  # NDK names none, or the user's
            if not self.params or self.params[0].lower() not in known:
                raise Denied("that is for another key than this one")
            async with self.keyholder.guests.find(invitation).joining:
                store = self.keyholder.open_store()
                came = store.vault.fact(f"{CAME}/{invitation.identity}")
                if came == self.client:
                    return "ack"
                if came or not self.is_invited(store.vault) or not invitation.fits(secret):
                    raise Denied("invalid secret")
                if self.keyholder.guests.now() >= invitation.terms.until:
                    raise Denied(f"the invitation of {invitation.name} is over")
                machine, now = store.machine, int(time.time())
                self.keyholder.release(self.session, noted)
                await self.keyholder.change(
                    lambda vault: admit_client(
                        vault, invitation.identity, self.client, now, machine
                    )
                )
        except AvaultError as error:
            self.note_refusal(noted, error)
            raise
        self.keyholder.reporter.report()
        return "ack"

    def note_refusal(self, noted: Message, error: AvaultError) -> None:
        """Have a refusal in the log; of strangers, a line every few minutes with their number."""
        why = error.message
        if self.client != self.invitation.client:
            count = self.keyholder.guests.count_stranger()
            if not count:
                return
            why += f" ({count} refusals since the last line)" if count > 1 else ""
        self.keyholder.release(self.session, {**noted, "why": why}, error.code)

    def is_invited(self, vault: Vault) -> bool:
        """Whether a vault has the invitation."""
        found = self.keyholder.signing.invited.look(vault)
        return any(each.identity == self.invitation.identity for each in found)

    async def sign(self, what: str, text: str, **fields: str) -> str:
        """What comes of a use of the key, by the rules of the invitation and of the key's guard."""
        invitation = self.invitation
        group, _, key = str(invitation.key).partition("/")
        try:
            payload = encode_base64(text.encode())
        except ValueError:
            raise Usage("not understood, so not signed") from None
        request: Message = {"as": what, "payload": payload, **fields, "group": group, "key": key}
        noted = {"op": "sign", "for": f"bunker {invitation.name}", "child": invitation.name}
        made = await sign_noted(self.keyholder, self.session, request, noted, self.narrow)
        return str(made["signature"])

    def narrow(self, use: dict[str, Any]) -> None:
        """Raise Denied for what the invitation, as it is at this moment, does not let through."""
        store, invitation = self.keyholder.open_store(), self.invitation
        vault = store.vault
        came = vault.fact(f"{CAME}/{invitation.identity}")
        if came != self.client or not self.is_invited(vault):
            raise Denied(f"the invitation of {invitation.name} was taken back")
        if self.keyholder.guests.now() >= invitation.terms.until:
            raise Denied(f"the invitation of {invitation.name} is over")
        known = self.keyholder.signing.keys.look(vault).get(invitation.key)
        if not known or known.kind != "nostr" or known.blob.hex() != invitation.public:
            raise Denied(f"{invitation.key} is another key than the one of the invitation")
        invitation.refuse(use)
