"""The token accounts of an owner: who is paid in tokens is not named, only such an account of it.

It is an address that no key has, made of owner, token program and mint; so an owner that a rule
names is found again by making it (Program Derived Addresses, Associated Token Account program).
"""

from __future__ import annotations

import hashlib

from avault.vault.solana_text import decode_base58, encode_base58

SYSTEM_PROGRAM = "11111111111111111111111111111111"
COMPUTE_BUDGET = "ComputeBudget111111111111111111111111111111"
SPL = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
SPL_EXTENDED = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"
ASSOCIATED = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
MEMO = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
MEMO_OLD = "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"
SPL_PROGRAMS = (SPL, SPL_EXTENDED)
ED25519_FIELD = (1 << 255) - 19  # of Curve25519, RFC 8032
ED25519_D = 0x52036CEE_2B6FFE73_8CC74079_7779E898_00700A4D_4141D8AB_75EB4DCA_135978A3  # its d


def is_on_curve(address: bytes) -> bool:
    """Whether an address is a point of Ed25519, as some key may have it (RFC 8032, 5.1.3)."""
    y = int.from_bytes(address, "little") & ((1 << 255) - 1)
    square = y * y % ED25519_FIELD
    above, below = (square - 1) % ED25519_FIELD, (ED25519_D * square + 1) % ED25519_FIELD
    number = above * pow(below, ED25519_FIELD - 2, ED25519_FIELD) % ED25519_FIELD
    return number == 0 or pow(number, (ED25519_FIELD - 1) // 2, ED25519_FIELD) == 1


def find_program_address(seeds: list[bytes], program: bytes) -> bytes:
    """The address that a program has for these seeds: the first one that is no key's."""
    for bump in range(255, -1, -1):
        parts = [*seeds, bytes([bump]), program, b"ProgramDerivedAddress"]
        found = hashlib.sha256(b"".join(parts)).digest()
        if not is_on_curve(found):
            return found
    raise ValueError("no such address")


def find_token_account(owner: str, mint: str, program: str) -> str:
    """The associated account of an owner for a mint, of one of the two token programs.

    All are addresses in base58; raises ValueError.
    """
    seeds = [decode_base58(each, 32) for each in (owner, program, mint)]
    return encode_base58(find_program_address(seeds, decode_base58(ASSOCIATED, 32)))
