"""Everything that is encrypted: the vault's parts, the envelope, the sealed key.

NIP-44. What does not encode to itself is refused.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Tampered
from avault.keys.nostr import decrypt, encrypt, make_keys, public_hex, read_keys, to_npub
from avault.places import sha256
from avault.vault.files import VAULT_LIMIT
from avault.vault.generations import check_generation
from avault.vault.guards import version_of
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys, KeyText


PART_LIMIT = 65_408  # bytes of plaintext that the library encrypts in one NIP-44 payload
# ephemeral and unused, so that no signer takes the envelope for something it knows
ENVELOPE_KIND = 26_046
CODE_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: none is taken for another


def split_vault(vault: Vault) -> list[str]:
    """A vault's parts in clear: a line of JSON that places it, then a slice of the body."""

    def header(index: int, count: int) -> str:
        place = {
            "type": "avault/vault",
            "version": version_of(vault.facts),
            "vault": vault.identity,
            "generation": vault.generation,
        }
        return (
            json.dumps({**place, "sources": vault.sources, "index": index, "count": count}) + "\n"
        )

    body = vault.to_json()
    room = PART_LIMIT - len(header(VAULT_LIMIT, VAULT_LIMIT))
    if room < PART_LIMIT // 2:
        raise AvaultError(
            "this vault was written by too many machines",
            "take them out with: avault export --format json, and begin anew",
        )
    slices = [body[start : start + room] for start in range(0, len(body), room)]
    return [header(index, len(slices)) + piece for index, piece in enumerate(slices)]


def seal_vault(vault: Vault, keys: Keys) -> bytes:
    """A vault as avault.enc: a line for each part, encrypted from the agent to itself."""
    lines = [encrypt(keys, public_hex(keys), part) for part in split_vault(vault)]
    data = "".join(line + "\n" for line in lines).encode()
    if len(data) > VAULT_LIMIT:
        raise AvaultError(
            f"the vault would have {len(data):,} bytes; the limit is {VAULT_LIMIT:,}",
            "delete what is not needed",
        )
    return data


def open_vault(data: bytes, keys: Keys) -> Vault:
    """The vault of avault.enc's bytes, every part in its place; raises Tampered."""
    agent = public_hex(keys)
    try:
        text = data.decode("ascii")
        parts = [decrypt(keys, agent, text.partition("\n")[0])]
        place = json.loads(parts[0].partition("\n")[0])
        # before anything is made of lines that may be millions
        if text.count("\n") != place["count"]:
            raise ValueError("not the parts of one vault")
        parts += [decrypt(keys, agent, line) for line in text.removesuffix("\n").split("\n")[1:]]
        vault = Vault(place["vault"], "", "", "")
        vault.generation, vault.sources = check_generation(place["generation"]), place["sources"]
        vault.load_json("".join(part.partition("\n")[2] for part in parts))
        whole = data.endswith(b"\n") and split_vault(vault) == parts and vault.agent == agent
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        whole = False
    if not whole:
        raise Tampered(
            "avault.enc is damaged, or not this agent's",
            "take it from git history or from a backup",
        )
    return vault


def make_envelope(keys: Keys, peer: str, alt: str, content: str, unlock_key: KeyText) -> str:
    """What the phone decrypts: an event as signers show it, with the unlock key where none looks.

    Amber prints `content` and `alt` on the approval screen and hides keys that
    it does not know. NIP-44 between `keys` and `peer`: only they can have made it.
    """
    event = {
        "kind": ENVELOPE_KIND, "created_at": int(time.time()), "pubkey": public_hex(keys),
        "id": "", "sig": "", "tags": [["alt", alt]], "content": content, "avault": unlock_key,
    }  # fmt: skip
    return encrypt(keys, peer, json.dumps(event))


def seal_keys(
    keys: Keys,
    identity: str,
    operator: str,
    name: str,
    custodian: str | None = None,
    phoneless: bool = False,
    known: dict[str, int] | None = None,
) -> tuple[KeyText, dict[str, Any]]:
    """A fresh unlock key (hex), and what it opens: nsec, names of vault, operator, `custodian`.

    For a custodian it also says whether the vault is `phoneless`; and the guards that are `known`.
    """
    unlock = make_keys()
    nsec = {
        "type": "avault/nsec",
        "version": 1,
        "vault": identity,
        "name": name,
        "operator": to_npub(operator),
        **({"custodian": custodian, "phoneless": phoneless} if custodian else {}),
        **({"guards": known} if known else {}),
    }
    sealed = encrypt(
        unlock, public_hex(unlock), json.dumps({**nsec, "nsec": keys.secret_key().to_bech32()})
    )
    names = {
        "vault": identity,
        "name": name,
        "agent": to_npub(public_hex(keys)),
        "operator": to_npub(operator),
    }
    return unlock.secret_key().to_hex(), {**names, "sealed": sealed}


def request_code(sealed: str) -> str:
    """The short code of a request, from the sealed copy: four letters that phone and terminal show.

    It tells the request that is waited for from a card that an earlier one left on
    the phone. It is no proof: whoever has the disk knows it too.
    """
    number = int.from_bytes(sha256(sealed.encode())[:4], "big")
    return "".join(CODE_LETTERS[number >> shift & 31] for shift in (15, 10, 5, 0))


def describe_request(name: str, host: str, sealed: str) -> str:
    """What the operator is asked for, as phone and terminal both say it."""
    return f"{name} on {host}, code {request_code(sealed)}"


def seal_nsec(
    keys: Keys,
    identity: str,
    operator: str,
    name: str,
    host: str,
    known: dict[str, int] | None = None,
) -> dict[str, Any]:
    """What is in nsec.enc and unlock.json: a fresh unlock key, sealing the nsec, in an envelope.

    It is opened again before it is given out: nobody notices a bad one until it is too late.
    """
    unlock, sealed = seal_keys(keys, identity, operator, name, known=known)
    what = describe_request(name, host, sealed["sealed"])
    sentence = f"avault: unlock {what}. Approve only if you expect it."
    envelope = make_envelope(keys, operator, f"unlock the vault of {what}", sentence, unlock)
    last = {"envelope": envelope, "sealed": sealed.pop("sealed")}
    content = {**sealed, **last}
    open_nsec(content, decrypt(keys, operator, envelope))
    return content


def open_nsec(content: dict[str, Any], answer: str, custodian: str | None = None) -> Keys:
    """The agent's keys, from a sealed copy and the phone's answer to its envelope; raises Tampered.

    What is sealed names vault, name and operator, and the `custodian` if it is for one: whoever
    writes to the disk cannot have the next copy sealed for somebody else, or with another sentence.
    """
    return unseal(content, answer, custodian)[0]


def unseal(
    content: dict[str, Any], answer: str, custodian: str | None = None
) -> tuple[Keys, dict[str, Any]]:
    """`open_nsec`, with all that is sealed beside the key."""
    try:
        unlock = read_keys(json.loads(answer)["avault"])
        sealed = json.loads(decrypt(unlock, public_hex(unlock), content["sealed"]))
        keys = read_keys(sealed["nsec"])
        pinned = (sealed["vault"], sealed["name"], sealed["operator"], to_npub(public_hex(keys)))
        named = (content["vault"], content["name"], content["operator"], content["agent"])
        if pinned == named and sealed.get("custodian") == custodian:
            return keys, sealed
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise Tampered(
        "the answer does not open this vault", "is it the operator's own signer? See: avault status"
    )


def old_keys(vault: Vault) -> list[Keys]:
    """The keys that the agent had before, which a vault keeps."""
    found = []
    for text in vault.facts_of("agent").values():
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            found.append(read_keys(json.loads(text)["nsec"]))
    return found
