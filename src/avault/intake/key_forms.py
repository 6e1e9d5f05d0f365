"""Private keys that sign, where they lie in files and variables: known by form, not by a name.

What peers call them says little: EVM_PRIVATE_KEY, SOLANA_PRIVATE_KEY, PRIVATE_KEY, MNEMONIC, KEY.
"""

from __future__ import annotations

from avault.late import regex
from avault.vault.solana_text import BASE58

KEY_FORMS = {  # by kind; the whole value has this form
    "ssh": regex(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?s:.*)"),
    "nostr": regex(r"nsec1[02-9ac-hj-np-z]{58}|ncryptsec1[02-9ac-hj-np-z]{50,}"),
    "evm": regex(r"0x[0-9a-fA-F]{64}"),
    # 64 bytes, as solana-keygen writes them, and as wallets do
    "solana": regex(rf"\[\s*(?:\d{{1,3}}\s*,\s*){{63}}\d{{1,3}}\s*\]|[{BASE58}]{{86,88}}"),
    # RFC 7517, of a private key, of the kinds that are imported
    "jwk": regex(
        r"\{(?=[^{}]*\"kty\"\s*:)(?=[^{}]*\"d\"\s*:)"
        r"(?=[^{}]*\"crv\"\s*:\s*\"(?:Ed25519|P-256)\")[^{}]*\}"
    ),
    # BIP-39: words of 3 to 8 letters
    "mnemonic": regex(r"(?:[a-z]{3,8} ){11}(?:(?:[a-z]{3,8} ){3}){0,4}[a-z]{3,8}"),
}


SAYS_ITSELF = ("ssh", "nostr", "jwk")  # what it is; the others may be something else
WORDS_OF_KINDS = {  # of `key import`, for those that do not say what they are for
    "nostr": " --kind nostr",
    "evm": " --kind evm",
    "solana": " --kind solana",
    "mnemonic": " --kind KIND",
}


def find_key_kind(value: str) -> str | None:
    """Which kind of private key a value seems to be, by its form; None for all else."""
    text = value.strip()
    return next((kind for kind, form in KEY_FORMS.items() if form.fullmatch(text)), None)
