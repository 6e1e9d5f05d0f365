"""What can be kept in a vault: the names of groups and keys, values and notes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from avault.errors import Usage, printable
from avault.plain import MAX_VALUE

if TYPE_CHECKING:
    from typing import TypeGuard

SAID_MORE = (  # of a request, in the access log
    "signed", "why", "host", "method", "path", "place", "client",
)  # fmt: skip
LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
DIGITS = frozenset("0123456789")
LETTERS_AND_DIGITS = LETTERS | DIGITS
GROUP_CHARACTERS = LETTERS_AND_DIGITS | set("._-")
KEY_CHARACTERS = LETTERS_AND_DIGITS | {"_"}


def is_group(name: object) -> TypeGuard[str]:
    """Whether it is a group name: [A-Za-z0-9][A-Za-z0-9._-]{0,63}."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 64
        and name[0] in LETTERS_AND_DIGITS
        and set(name) <= GROUP_CHARACTERS
    )


def is_key(name: object) -> TypeGuard[str]:
    """Whether it is a key name: [A-Za-z_][A-Za-z0-9_]{0,127}."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 128
        and name[0] not in DIGITS
        and set(name) <= KEY_CHARACTERS
    )


def is_choice(text: object) -> bool:
    """Whether it can choose a secret: KEY, GROUP/KEY or NAME=GROUP/KEY."""
    name, equals, place = str(text).rpartition("=")
    group, slash, key = place.rpartition("/")
    return (
        isinstance(text, str)
        and is_key(key)
        and (is_group(group) if slash else not equals)
        and (is_key(name) if equals else True)
    )


def check_group(name: object) -> str:
    """`name` if it is a group name; raises Usage.

    What is none is not repeated: it may be a secret that was typed in the wrong place.
    """
    if is_group(name):
        return name
    hint = (
        "a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -, "
        "as in: avault set openai --key API_KEY"
    )
    raise Usage("not a group name", hint)


def check_key(name: object) -> str:
    """`name` if it is a key name; raises Usage, as check_group does."""
    if is_key(name):
        return name
    hint = "a letter or _, then up to 127 of A-Z a-z 0-9 _, as in: avault set openai --key API_KEY"
    raise Usage("not a key name", hint)


PHONE = "phone"  # what this machine's own phone is called among them
SUCCESSOR = "successor"  # the name of who becomes the first operator, once that phone has shown it


def is_operator(name: str) -> bool:
    """Whether an operator or a custodian can have that name: [a-z0-9][a-z0-9-]{0,31}."""
    return bool(re.fullmatch("[a-z0-9][a-z0-9-]{0,31}", name))


def check_operator(name: object) -> str:
    """`name` if an operator or a custodian can have it; raises Usage."""
    if isinstance(name, str) and is_operator(name):
        return name
    hint = "up to 32 lower case letters, digits and -, as in: --name office-hsm"
    raise Usage(f"not a name: {printable(str(name))!r}", hint)


def check_value(value: object) -> str:
    """`value` if it can be kept: UTF-8, not empty, no NUL, at most 256 KiB; raises Usage."""
    if not isinstance(value, str) or not value:
        raise Usage("the value is empty", "to take a key away: avault delete GROUP --key KEY")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        size = 0
    if not size or "\0" in value:
        raise Usage(
            "the value is binary", "keep it as text: base64 -w0 FILE | avault set GROUP --key KEY"
        )
    if size > MAX_VALUE:
        raise Usage(
            f"the value has {size:,} bytes; the limit is {MAX_VALUE:,}",
            "keep big files elsewhere, sealed with a key in it",
        )
    return value


def check_note(note: object) -> str | None:
    """`note` if it can be a group's note, or None for none; raises Usage."""
    if note is None or (isinstance(note, str) and len(note) <= 1000 and note.isprintable()):
        return note
    raise Usage("a note is one line of at most 1,000 printable characters")


FIELD = 2**256 - 2**32 - 977  # of secp256k1 (SEC 2, section 2.4.1)


def is_public_key(text: str) -> bool:
    """Whether it is a public key in hex: the x of a point of secp256k1 (BIP 340, lift_x)."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        return False
    x = int(text, 16)
    return x < FIELD and pow(x**3 + 7, (FIELD - 1) // 2, FIELD) == 1
