"""The ways to get the agent's key, as the keyholder has them.

Each is a class with `async def get_key(content)`, where `content` is what `read_unlock` gives, and
with `proves`: whether it shows that the operator's phone opens this vault. `operator` is whose
envelope it opens, an npub; None where it opens none.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING

from avault.custody.desk import DESK, check_desk
from avault.custody.shared import (
    is_shared,
    list_given,
    list_retired,
    refuse_removed,
    refuse_retired,
)
from avault.errors import Denied, Tampered
from avault.keys.custodian import raise_outcome, read_answer
from avault.keys.nostr import decrypt, parse_keys, parse_npub, public_hex, to_npub
from avault.keys.seal import open_nsec, unseal
from avault.signer.pairing import Pairing
from avault.signer.remote import RemoteSigner
from avault.vault.names import PHONE
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys, KeyText


class GivenKey:
    """The agent's key from NOSTR_NSEC, for tests and for machines without a phone."""

    proves = False
    operator: str | None = None

    def __init__(self, nsec: KeyText) -> None:
        self.keys = parse_keys(nsec)

    async def get_key(self, content: dict[str, Any]) -> Keys:
        """The key, if it is this vault's agent; raises Tampered."""
        if to_npub(public_hex(self.keys)) != content["agent"]:
            raise Tampered(
                "NOSTR_NSEC is not the key of this vault's agent",
                f"the agent is {content['agent']}",
            )
        return self.keys


class OperatorKey:
    """The agent's key by the operator's own, from the recovery kit of a vault without a phone."""

    proves = True

    def __init__(self, nsec: KeyText) -> None:
        self.keys = parse_keys(nsec)
        self.operator = to_npub(public_hex(self.keys))

    async def get_key(self, content: dict[str, Any]) -> Keys:
        """The key, out of the envelope that is for this operator; raises Tampered."""
        try:
            answer = decrypt(self.keys, parse_npub(content["agent"]), content["envelope"])
        except ValueError:
            raise Tampered(
                "that is not the key of this vault's operator",
                f"the operator is {content['operator']}",
            ) from None
        return open_nsec(content, answer)


class Phone:
    """The agent's key by the operator's approval, over NIP-46."""

    proves = True

    def __init__(self, pairing: Pairing, signer: RemoteSigner) -> None:
        self.pairing, self.signer = pairing, signer
        self.operator = to_npub(pairing.operator)

    async def get_key(self, content: dict[str, Any]) -> Keys:
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


AGREED = ("custodian", "kind", "asks", "settings", "shared")


def mark_agreed(keys: Keys, message: dict[str, Any]) -> str:
    """That the operator has agreed to a custodian as it is: its settings can be no others then."""
    agreed = [each for each in AGREED if each != "shared" or message["shared"]]
    what = json.dumps([message[each] for each in agreed], sort_keys=True)
    secret = bytes.fromhex(keys.secret_key().to_hex())
    return hmac.digest(secret, f"avault/custodian {what}".encode(), "sha256").hex()


def check_agreed(content: dict[str, Any], keys: Keys) -> None:
    """Raise Tampered for a custodian that is not as it was agreed to, by the agent's `keys`.

    What the agent has signed for all machines is. Without that signature the same file is nobody's.
    """
    is_signed = is_shared(content) and content["agent"] == to_npub(public_hex(keys))
    if not is_signed and content["agreed"] != mark_agreed(keys, {**content, "shared": False}):
        kind, name = content["kind"], content["custodian"]
        again = f"add it again: avault custody add {kind} --name {name} --replace"
        hint = "at the desk: avault fleet enroll --only HOST" if kind == DESK else again
        raise Tampered(f"the custodian {name} is not as it was agreed to", hint)


class KeptKey:
    """The agent's key by an unlock key that a helper answered; `offered` is not taken in yet."""

    proves = False
    operator: str | None = None

    def __init__(self, custodian: str, kept: dict[str, Any], answer: bytes, offered: bool) -> None:
        self.custodian, self.kept, self.answer, self.offered = custodian, kept, answer, offered
        self.phoneless = False  # whether it was entrusted in a vault that has no phone

    def check(self, vault: Vault, keys: Keys) -> None:
        """Raise Denied for a phone or desk of no operator of now.

        Tampered for what is retired, or not as it was agreed to. A phone is what the vault says of
        its operator, and nothing else: what it opens is made anew without asking anybody.
        """
        if self.offered:
            refuse_retired(self.kept, list_retired(vault), list_given(vault))
        refuse_removed(self.kept, vault)
        if self.kept["kind"] != PHONE:
            check_agreed(self.kept, keys)
        if self.kept["kind"] == DESK:
            check_desk(self.kept, vault)
        known = vault.other_operators().get(self.custodian)
        whose = str(self.kept["settings"].get("operator"))
        if self.kept["kind"] == PHONE and (not known or to_npub(known) != whose):
            raise Denied(
                f"{self.custodian} is no operator of this vault",
                f"avault custody remove {self.custodian}",
            )

    async def get_key(self, content: dict[str, Any]) -> Keys:
        """The key, if the custodian is this vault's and had what opens it.

        Raises what its outcome means (see `raise_outcome`), and Tampered.
        """
        kept = self.kept
        if kept["vault"] == content["vault"] and kept["agent"] != content["agent"]:
            raise Tampered(
                f"the custodian {self.custodian} opens the agent's key before the rotation",
                f"add it again: avault custody add KIND --name {self.custodian} --replace",
            )
        if not all(kept[name] == content[name] for name in ("vault", "name", "agent")):
            raise Tampered(
                f"the custodian {self.custodian} is of another vault",
                f"avault custody remove {self.custodian}",
            )
        unlock = raise_outcome(read_answer(self.answer))
        keys, sealed = unseal(kept, json.dumps({"avault": unlock}), self.custodian)
        self.phoneless = sealed.get("phoneless") is True
        return keys
