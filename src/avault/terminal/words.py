"""What people type: durations, and names of secrets."""

from __future__ import annotations

from avault.errors import Usage, printable
from avault.hints import call
from avault.vault.names import DIGITS, KEY_CHARACTERS, check_group, check_key


def parse_duration(text: str | None) -> float | None:
    """Seconds of `90`, `90s`, `5m`, `8h` or `7d`; None for None. Raises Usage."""
    if text is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if (
        not number.isascii()
        or not number.isdigit()
        or len(number) > 9
        or int(number) * unit > 10**9
    ):
        raise Usage(f"not a duration: {printable(text)!r}", "as in 90, 90s, 5m, 8h, 7d")
    return float(int(number) * unit)


def split_name(group: str, key: str | None, word: str | None = None) -> tuple[str, str | None]:
    """GROUP and KEY of `GROUP --key KEY`, `GROUP/KEY`, or of `GROUP KEY`, where `word` is that KEY.

    Raises Usage.
    """
    name, slash, rest = group.partition("/")
    if sum(map(bool, (slash, key is not None, word is not None))) > 1:
        raise Usage(
            "the key is named twice",
            f"avault {call.name or 'get'} {printable(group)}, or with --key alone",
        )
    if word is not None and (word[0] in DIGITS or not set(word) <= KEY_CHARACTERS):
        raise Usage("the second word is no key's name", f"avault get {printable(name)}/KEY")
    key = rest if slash else key if word is None else word
    return check_group(name), None if key is None else check_key(key)
