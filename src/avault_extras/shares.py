"""A secret in shares, by SLIP-39: some of them give it back, fewer tell nothing of it.

A share is a line of words, 33 for an unlock key. The arithmetic is Trezor's (shamir-mnemonic), and
so is the list of words. What is said of a share that is wrong names no word of it: its number, and
the word's place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shamir_mnemonic import MnemonicError, Share, generate_mnemonics, recover_ems
from shamir_mnemonic.shamir import ShareGroup
from shamir_mnemonic.wordlist import WORDLIST

from avault import Tampered, Unavailable, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 16  # shares of a set (SLIP-39)
LENGTH = 33  # words of a share of 256 bits
ENOUGH = 4  # letters: no two words of the list begin with the same
KNOWN = {word[:size]: word for word in WORDLIST for size in range(ENOUGH, len(word) + 1)}


def check_counts(need: int, count: int) -> None:
    """Raise Usage where a set cannot have `count` shares of which `need` are enough."""
    if not 1 <= need <= count <= MOST:
        raise Usage(f"{need} of {count} is no set of shares", f"1 of 1, or up to {MOST} of {MOST}")
    if need == 1 < count:
        raise Usage(
            "one of several shares cannot be enough: each would be the secret",
            "2 of them, or 1 of 1",
        )


def split(secret: str, need: int, count: int) -> list[str]:
    """The shares of a secret (hex), of which any `need` give it back; raises Usage."""
    check_counts(need, count)
    groups: list[list[str]] = generate_mnemonics(1, [(need, count)], bytes.fromhex(secret))
    return groups[0]


def complete_words(text: str, before: int = 0) -> list[str]:
    """The words that somebody typed, each by its first four letters or more.

    Numbers and punctuation are passed over. `before` words came before these: raises Usage, which
    names the place of a word that is not in the list.
    """
    typed = re.findall(r"[^\W\d_]+", text.lower())
    for place, word in enumerate(typed, before + 1):
        if word not in KNOWN:
            raise Usage(f"word {place} is not in the list")
    return [KNOWN[word] for word in typed]


def read_share(text: str) -> Share:
    """A share, from its words; raises Usage, without what was typed."""
    words = complete_words(text)
    try:
        return Share.from_mnemonic(" ".join(words))
    except MnemonicError:  # its text has words
        pass
    raise Usage(
        "a word is wrong, is missing, or stands in another place: the checksum does not fit"
        if len(words) == LENGTH
        else f"it has {len(words)} words, and an unlock key's has {LENGTH}"
    )


def combine(mnemonics: Iterable[str]) -> str:
    """The secret (hex) of shares that are enough; those that are more than enough are not used.

    Raises Usage for a share that cannot be read, or is there twice, Unavailable where they are too
    few, Tampered where they are not of one set.
    """
    return recover(mnemonics).hex()


def recover(mnemonics: Iterable[str], passphrase: bytes = b"") -> bytes:
    """As `combine`, for sets of other tools: in several groups, or with a passphrase."""
    found: list[Share] = []
    for number, text in enumerate(mnemonics, 1):
        try:
            share = read_share(text)
        except Usage as error:
            raise Usage(f"share {number}: {error.message}", error.hint) from None
        check_fit(found, share, number)
        found.append(share)
    if not found:
        raise Unavailable("there is no share")
    groups: dict[int, ShareGroup] = {}
    for share in found:
        group = groups.setdefault(share.group_index, ShareGroup())
        if not group.is_complete():
            group.add(share)
    complete = {index: group for index, group in groups.items() if group.is_complete()}
    wanted = found[0].group_threshold
    if len(complete) < wanted:
        needed = "more" if wanted > 1 else str(found[0].member_threshold)
        raise Unavailable(f"there are too few shares: {needed} are needed, and {len(found)} came")
    try:
        enough = dict(list(complete.items())[:wanted])
        secret: bytes = recover_ems(enough).decrypt(passphrase)
    except MnemonicError:
        raise Tampered("the shares do not belong together") from None
    return secret


def check_fit(others: list[Share], share: Share, number: int) -> None:
    """Raise Usage where one of the `others` is this share, Tampered where one is of another set."""
    for place, other in enumerate(others, 1):
        if other == share:
            raise Usage(f"share {number} is the same as share {place}")
        same_group = other.group_index == share.group_index
        if other.common_parameters() != share.common_parameters() or (
            same_group and other.group_parameters() != share.group_parameters()
        ):
            raise Tampered(f"share {number} is of another set than share {place}")
        if same_group and other.index == share.index:
            raise Tampered(f"share {number} does not belong together with share {place}")
