"""What looks like a secret.

A variable with one of these words in its name, a token that shows by its beginning what it is, and
what seems to come from a random number generator.
"""

from __future__ import annotations

import collections
import math
import os
import re

from avault.intake.dotenv import foreign
from avault.intake.key_forms import find_key_kind
from avault.late import regex
from avault.vault.services import SERVICES

SECRET_WORDS = frozenset(
    """
    KEY KEYS APIKEY TOKEN TOKENS SECRET SECRETS PASSWORD PASSWD PASS PASSPHRASE PWD PW PASSCODE
    PIN CREDENTIAL CREDENTIALS AUTH PRIVATE PRIVKEY NSEC MNEMONIC SEED PAT DSN COOKIE BEARER JWT
    WEBHOOK SIGNATURE SALT
    """.split()
)
OPEN_WORDS = frozenset(
    "PUBKEY FILE PATH DIR SOCK SOCKET NAME HOST PORT ID TTL LENGTH SIZE TYPE MODE".split()
)
# besides the keys of SERVICES
OTHER_FORMS = (
    r"whsec_[A-Za-z0-9]{24,} | (?:AKIA|ASIA)[A-Z0-9]{16} | ya29\.[A-Za-z0-9_-]{20,}",
    r"nsec1[02-9ac-hj-np-z]{58} | ncryptsec1[02-9ac-hj-np-z]{50,} | AGE-SECRET-KEY-1[A-Z0-9]{50,}",
    # a header longer than that has a certificate in it; with no bound it would be quadratic
    r"eyJ[A-Za-z0-9_-]{8,2000}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}",
    r"-----BEGIN\ (?:[A-Z]+\ )*PRIVATE\ KEY-----",
    r"\{(?=[^{}]*\"kty\"\s*:)[^{}]*\"[dk]\"\s*:",  # RFC 7517, of a private or symmetric key
    r"[a-z][a-z0-9+.-]{0,40}+://[^\s/:@\"'$]*+:[^\s/@\"'$]++@",
)
TOKEN_FORMS = regex(
    "(?x)(?<![A-Za-z0-9])(?:"
    + " | ".join([form for _, _, form in SERVICES.values() if form] + [*OTHER_FORMS])
    + ")"
)


def is_random(text: str) -> bool:
    """Whether a text looks random: one long word of letters and digits, mixed and evenly used."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9+/_-]{23,}={0,2}", text):
        return False
    if re.fullmatch(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", text):
        return False  # a UUID names something
    bits = -sum(
        count / len(text) * math.log2(count / len(text))
        for count in collections.Counter(text).values()
    )
    if re.fullmatch("[0-9a-fA-F]{32,}", text):
        return bits > 3.0
    upper, lower, digits = (
        sum(map(kind, text)) for kind in (str.isupper, str.islower, str.isdigit)
    )
    return bits > 3.7 and ((upper > 1 and lower > 1 and digits > 1) or digits * 6 >= len(text))


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks like a secret, by its name or by its value."""
    if not value or foreign(value):
        return False
    if TOKEN_FORMS.search(value) or is_random(value) or find_key_kind(value):
        return True
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper().split("_")
    if (
        not SECRET_WORDS.intersection(words)
        or words[-1] in OPEN_WORDS
        or "PUBLIC" in words
        or name in ("PWD", "OLDPWD")
    ):
        return False
    is_setting = value.lower() in (
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "none",
        "null",
        "0",
        "1",
    )
    return not is_setting and not os.path.isabs(os.path.expanduser(value))
