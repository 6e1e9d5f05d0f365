"""What a machine remembers of its signer, and the URIs by which the two meet (NIP-46)."""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, Tampered, Usage
from avault.keys.nostr import parse_npub, read_keys, to_npub
from avault.places import Places
from avault.vault.files import read_file, write_file
from avault.vault.own_files import check_relay, decode_file, encode_file

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from avault.keys.nostr import Keys


DEFAULT_RELAYS = ["wss://relay.primal.net", "wss://theforest.nostr1.com", "wss://nos.lol"]
# 16 x 16 pixels, a padlock; its length is a multiple of three, so that no = stands in the pairing
# URI
PICTURE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAMElEQVR42kXIsQEAEAxFwffDHvbfgljDFgqp"
    "ROnKU0I07aUTBgb0YqDhmtTrfxKDB2RODHZTp1uOAAAAAElFTkSuQmCC"
)

UNPROVEN = "pairing-unproven.json"  # in the state directory: what `avault pair` goes on with


class Pairing:
    """What a machine remembers of its signer: pairing.json in the state directory."""

    __slots__ = ("agent", "by_itself", "keys", "operator", "relays", "signer", "token")

    def __init__(
        self, keys: Keys, signer: str, agent: str, operator: str, relays: list[str]
    ) -> None:
        self.keys, self.signer, self.agent, self.operator, self.relays = (
            keys,
            signer,
            agent,
            operator,
            relays,
        )
        # whether the signer approves without asking a person; None: not known
        self.by_itself: bool | None = None
        # the secret of the code by which it was paired just now; not kept
        self.token: str | None = None

    @staticmethod
    def load(places: Places, name: str = "pairing.json") -> Pairing | None:
        """This machine's pairing, or None; raises Tampered."""
        path = places.own(name)
        if not os.path.lexists(path):
            return None
        content = decode_file("pairing", read_file(path), path)
        try:
            keys = read_keys(content["client_key"])
            signer, agent, operator = (
                parse_npub(content[name]) for name in ("signer", "agent", "operator")
            )
            pairing = Pairing(
                keys, signer, agent, operator, [check_relay(url) for url in content["relays"]]
            )
        except (Usage, ValueError):
            raise Tampered(f"{path} is damaged", "pair anew with: avault pair --replace") from None
        pairing.by_itself = content["approves_by_itself"]
        return pairing

    @staticmethod
    def begun(places: Places, agent: str, operator: str, bunker: str | None) -> Pairing | None:
        """A pairing whose signer is connected, but has not opened an envelope of this vault yet.

        None if there is none.

        It is believed no more than a signer that connects just now: the envelope decides.
        With a `bunker` URI only if it is of that signer.
        """
        try:
            found = Pairing.load(places, UNPROVEN)
        except Tampered:
            return None
        if not found or (found.agent, found.operator) != (agent, operator):
            return None
        return found if not bunker or parse_bunker(bunker)[0] == found.signer else None

    def of_agent(self, agent: str) -> Pairing:
        """The same with the same signer, for another agent (hex)."""
        twin = Pairing(self.keys, self.signer, agent, self.operator, self.relays)
        twin.by_itself = self.by_itself
        return twin

    def save(self, places: Places, name: str = "pairing.json") -> None:
        """Write pairing.json.

        Only for one by which the phone has opened an envelope of this vault: see `Contact.keep`.
        """
        write_file(places.own(name), self.encode())

    def encode(self) -> bytes:
        """pairing.json."""
        content = {
            "client_key": self.keys.secret_key().to_hex(),
            "signer": self.signer,
            "agent": to_npub(self.agent),
            "operator": to_npub(self.operator),
            "relays": self.relays,
            "approves_by_itself": self.by_itself,
        }
        return encode_file("pairing", content)

    def is_same(self, other: Pairing) -> bool:
        """Whether another asks the same signer in the same way, for the same agent and operator."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("agent", "keys", "operator", "relays", "signer")
        )


def forget_begun(places: Places) -> None:
    """Remove what an interrupted pairing has left."""
    if os.path.lexists(path := places.own(UNPROVEN)):
        os.unlink(path)


def parse_bunker(uri: str) -> tuple[str, list[str], str]:
    """The signer's public key (hex), relays and secret of a bunker:// URI (NIP-46).

    Raises Usage.
    """
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(uri.strip())
    if parts.scheme != "bunker":
        raise Usage(
            "not a bunker:// URI", "the signer shows it, as bunker://…?relay=wss://…&secret=…"
        )
    query = parse_qs(parts.query)
    relays = [check_relay(url) for url in query.get("relay", [])]
    if not relays:
        raise Usage("the bunker:// URI names no relay", "make a new one in the signer")
    return parse_npub(parts.netloc), relays, query.get("secret", [""])[0]


def introduce(name: str) -> dict[str, str]:
    """What a signer is told about us, to show it at each request: the client metadata of NIP-46.

    Some apps show no name, only the host of `url`: so that names the vault, in a
    domain that leads nowhere (RFC 6761).
    """
    import re

    host = re.sub("[^a-z0-9]+", ".", name.lower()).strip(".")[:63].strip(".")
    return {
        "name": name,
        "url": f"https://{host + '.' if host else ''}avault.invalid",
        "image": PICTURE,
    }


def nostrconnect_uri(client: str, relays: list[str], secret: str, name: str) -> str:
    """The URI that the signer scans (NIP-46, "Direct connection initiated by the client").

    Asks for no decrypt permission: asking for it makes several signers approve
    for ever. Percent-encoded throughout, with %20 for a space. The picture stands
    last, so that a QR code can do without it.
    """
    from urllib.parse import quote

    pairs = [("relay", url) for url in relays] + [("secret", secret), ("perms", "get_public_key")]
    pairs += introduce(name).items()
    return f"nostrconnect://{client}?" + "&".join(
        f"{key}={quote(value, safe='')}" for key, value in pairs
    )


def shorten_hex(public: str) -> str:
    """A public key (hex) by its ends."""
    return f"{public[:8]}…{public[-8:]}"


def shorten_key(public: str) -> str:
    """A public key (hex) as signer apps cut it.

    8 and 8 hex digits (Amber), or the ends of its npub (nsec.app, Signet).
    """
    npub = to_npub(public)
    return f"{shorten_hex(public)} or {npub[:16]}…{npub[-4:]}"


class PairingCode:
    """Who answers our pairing code: the first who echoes its secret is the signer.

    A second one ends the pairing: both have seen the code, and nobody can tell which of them is
    the operator's. `pair_anew` is the command that hints name.
    """

    def __init__(self, pair_anew: str) -> None:
        self.pair_anew = pair_anew
        self.secret: str | None = None
        self.greeted: asyncio.Future[str] | None = None  # by whom
        self.rival: AvaultError | None = None  # a second one has echoed it
        self.alarmed = asyncio.Event()

    def is_echo(self, result: object) -> bool:
        """Whether a result is the secret of our code."""
        return (
            bool(self.secret)
            and isinstance(result, str)
            and secrets.compare_digest(result.encode(), str(self.secret).encode())
        )

    def take(self, author: str, signer: str | None, is_old_form: bool) -> str | None:
        """Take an echo of the secret: who the signer is, as far as it is known."""
        if self.greeted and not self.greeted.done():
            if is_old_form:
                self.greeted.set_exception(old_form(self.pair_anew))
                return signer
            self.greeted.set_result(author)
            return author
        if signer and author != signer and not self.rival:
            self.rival = Denied(
                "ALARM: two signers answered this pairing code, so somebody else has seen it; "
                "the pairing is ended",
                "delete the connection in the app, and pair with a new code that nobody else sees",
            )
            self.alarmed.set()
        return signer

    async def unless_alarmed(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` gives.

        Raises Denied as soon as a second signer has answered the pairing code.
        """
        task, alarm = asyncio.ensure_future(work), asyncio.ensure_future(self.alarmed.wait())
        try:
            await asyncio.wait([task, alarm], return_when=asyncio.FIRST_COMPLETED)
            if self.rival:
                raise self.rival
            return task.result()
        finally:
            task.cancel()
            alarm.cancel()


def old_form(pair_anew: str) -> AvaultError:
    """Why an answer of the signer cannot be read; the hint has the command that pairs anew."""
    return AvaultError(
        "the signer answers in an old form (NIP-04), which avault does not read",
        f"update the app, or pair with another: {pair_anew}",
    )
