"""The ways to get the agent's key.

One is the phone; others are to come. Each is a class with `async def obtain(content)`, where
`content` is what `read_unlock` gives, and with `proves`: whether it shows that the operator's
phone opens this vault.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Tampered, Unavailable, printable
from avault.nostr import parse_keys, public_hex, to_npub
from avault.places import Places
from avault.protocol import decode_frame
from avault.signer.pairing import Pairing
from avault.signer.remote import RemoteSigner
from avault.vault.files import read_file
from avault.vault.own_files import decode_file
from avault.vault.seal import open_nsec

if TYPE_CHECKING:
    from typing import Any

    from avault.nostr import Keys


class GivenKey:
    """The agent's key from NOSTR_NSEC, for tests and for machines without a phone."""

    proves = False

    def __init__(self, nsec: str) -> None:
        self.keys = parse_keys(nsec)

    async def obtain(self, content: dict[str, Any]) -> Keys:
        """The key, if it is this vault's agent; raises Tampered."""
        if to_npub(public_hex(self.keys)) != content["agent"]:
            raise Tampered(
                "NOSTR_NSEC is not the key of this vault's agent",
                f"the agent is {content['agent']}",
            )
        return self.keys


class Phone:
    """The agent's key by the operator's approval, over NIP-46."""

    proves = True

    def __init__(self, pairing: Pairing, signer: RemoteSigner) -> None:
        self.pairing, self.signer = pairing, signer

    async def obtain(self, content: dict[str, Any]) -> Keys:
        """Ask for the envelope until it is opened; raises Denied, Tampered."""
        pairing = self.pairing
        if (to_npub(pairing.agent), to_npub(pairing.operator)) != (
            content["agent"],
            content["operator"],
        ):
            raise Tampered(
                "the vault's files are not those that this machine was paired for",
                "put the right directory back, or: avault pair --replace",
            )
        params = [pairing.agent, content["envelope"]]
        accept = lambda result: open_nsec(content, result)  # noqa: E731
        return await self.signer.request("nip44_decrypt", params, accept, is_told_by_content=True)


class Keychain:
    """The agent's key by an unlock key of its own, from the platform's keychain: nobody is asked."""

    proves = False

    def __init__(self, places: Places, answer: bytes) -> None:
        self.path, self.answer = places.own("keychain.json"), answer

    async def obtain(self, content: dict[str, Any]) -> Keys:
        """The key, if keychain.json is of this vault and the keychain had what opens it; raises Unavailable."""
        try:
            answer = decode_frame(self.answer or b"{}")
            sealed = decode_file("keychain", read_file(self.path), self.path)
            if answer.get("outcome") != "ok":
                raise Unavailable(
                    f"{answer.get('outcome')}: {printable(answer.get('detail') or 'it did not answer')}"
                )
            if any(
                sealed[name] != content[name] for name in ("vault", "name", "agent", "operator")
            ):
                raise Unavailable("keychain.json is of another vault")
            return open_nsec(sealed, json.dumps({"avault": answer["value"]}))
        except (AvaultError, ValueError) as error:
            raise Unavailable(
                error.message
                if isinstance(error, AvaultError)
                else "it answered with something else"
            ) from None
