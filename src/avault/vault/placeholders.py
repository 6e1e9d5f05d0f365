"""What a command is given in place of a secret: of the same form, and worth nothing."""

from __future__ import annotations

import re
import secrets

from avault.late import regex

# how keys of the usual services begin; the longest of them that fits stays
MARKS = regex(
    r"sk-ant-[a-z]{2,6}[0-9]{2}-|sk-(?:ant|or-v1|or|proj|svcacct|admin)-|sk-|gsk_|xai-|pplx-|AIza|"
    r"hf_|r8_|tvly-|gh[pousr]_|github_pat_|glpat-|npm_|pypi-|[srp]k_(?:live|test)_|SG\.|"
    r"shp(?:at|ss|ca|pa)_|dop_v1_|xox[abeoprs]-|xapp-|ntn_|lin_api_"
)
LOWER, UPPER, FIGURES = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
LEAST = 24  # characters of one whose form is no service's; of 62, 22 are 128 bits
LONGEST_PLACEHOLDER = 4096


def make_placeholder(value: str) -> str:
    """A random text of a key's form: how it begins, how long it is, which characters are in it.

    Of a value that is not of a usual service nothing is told but that: its length, unless that is
    short, and whether it is of hexadecimal digits. A bot's number before a colon is one, too.
    """
    mark = MARKS.match(value)
    kept = mark[0] if mark else ""
    rest = value[len(kept) :]
    if re.fullmatch(r"[0-9]{8,10}:[A-Za-z0-9_-]{35}", value):
        first = value.partition(":")[0]
        return f"{pick('123456789', 1)}{pick(FIGURES, len(first) - 1)}:{pick_any(35)}"
    if re.fullmatch(r"A[KS]IA[A-Z0-9]{16}", value):  # the id of a key of AWS: base32 after its kind
        return value[:4] + pick(UPPER + FIGURES[2:8], 16)
    length = min(len(rest), LONGEST_PLACEHOLDER)
    if not kept:
        length = max(length, LEAST)
    if len(rest) >= 32 and re.fullmatch(r"[0-9a-f]+", rest):
        return kept + pick(FIGURES + "abcdef", length)
    text = pick_any(length)
    if kept == "SG." and "." in rest:
        at = rest.index(".")
        text = f"{text[:at]}.{text[at + 1 :]}"
    return kept + text


def pick(alphabet: str, count: int) -> str:
    """So many random characters."""
    return "".join(secrets.choice(alphabet) for _ in range(count))


def pick_any(count: int) -> str:
    """So many random letters and digits, with a digit among them: checks of forms look for one."""
    text = pick(LOWER + UPPER + FIGURES, count)
    at = secrets.randbelow(count) if count else 0
    return text[:at] + pick(FIGURES, 1) + text[at + 1 :] if count else ""
