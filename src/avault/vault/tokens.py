"""Access tokens that expire, and what renews them: keys of one group (RFC 6749, 6)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound
from avault.places import sha256
from avault.vault.secret import is_sealed

if TYPE_CHECKING:
    from avault.vault.records import Vault


ACCESS_TOKEN, REFRESH_TOKEN = "OAUTH_ACCESS_TOKEN", "OAUTH_REFRESH_TOKEN"
EXPIRES_AT = "OAUTH_EXPIRES"  # Unix seconds; without it, a token is renewed when it is refused
TOKEN_URL, CLIENT_ID, CLIENT_SECRET = "OAUTH_TOKEN_URL", "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET"
TOKEN_ENCODING = "OAUTH_ENCODING"  # noqa: S105 (`json` for servers that take no form)
RENEWED_EARLY = 120  # seconds before it expires, in which a token is renewed already
LONGEST_TIME = 15  # digits of when it expires


def is_renewable(vault: Vault, name: str) -> bool:
    """Whether GROUP/KEY is an access token with what renews it."""
    group, _, key = name.partition("/")
    keys = vault.groups[group].keys if group in vault.groups else {}
    return key == ACCESS_TOKEN and {REFRESH_TOKEN, TOKEN_URL} <= {*keys}


def read_own_key(vault: Vault, group: str, key: str) -> str:
    """The value of a key, "" where there is none; raises Denied for two, or one that is sealed."""
    try:
        found = vault.secrets(group, key)
    except NotFound:
        return ""
    name = f"{group}/{key}"
    if len(found) > 1:
        raise Denied(f"two machines have set {name}", f"set one: avault set {name}")
    if is_sealed(found[0].value):
        raise Denied(f"{name} is guarded: the phone is asked for each use, so it renews nothing")
    return found[0].value


def print_token(token: str) -> str:
    """By what a server's answer says for which token it is, in hex: nobody reads that from it."""
    return sha256(f"used up: {token}".encode()).hex()


class Tokens:
    """What a group says of a token; raises Denied where it says two things, or is sealed."""

    def __init__(self, vault: Vault, group: str) -> None:
        self.group = group
        self.access = read_own_key(vault, group, ACCESS_TOKEN)
        self.refresh = read_own_key(vault, group, REFRESH_TOKEN)
        self.url = read_own_key(vault, group, TOKEN_URL)
        self.client = read_own_key(vault, group, CLIENT_ID)
        self.secret = read_own_key(vault, group, CLIENT_SECRET)
        self.is_json = read_own_key(vault, group, TOKEN_ENCODING) == "json"
        expires = read_own_key(vault, group, EXPIRES_AT)
        is_time = expires.isascii() and expires.isdigit() and len(expires) <= LONGEST_TIME
        self.expires = int(expires) if is_time else None

    def where(self) -> tuple[str, int, str]:
        """Host, port and path of the server that renews it; raises Denied."""
        from urllib.parse import urlsplit

        is_plain = re.fullmatch("[!-~]+", self.url)
        try:
            url = urlsplit(self.url)
            host, port = url.hostname or "", url.port or 443
        except ValueError:
            host, port = "", 0
        if not host or url.scheme != "https" or url.username or url.query or not is_plain:
            where = f"{self.group}/{TOKEN_URL}"
            raise Denied(f"{where} is no https:// address", f"set it anew: avault set {where}")
        return host.lower(), port, url.path or "/"

    def is_due(self, now: float) -> bool:
        """Whether it is to be renewed: it expires soon."""
        return self.expires is not None and now >= self.expires - RENEWED_EARLY

    def is_over(self, now: float) -> bool:
        """Whether it is no good any more, as far as it says."""
        return self.expires is not None and now >= self.expires

    def fields(self) -> dict[str, str]:
        """What the server is told."""
        told = {"grant_type": "refresh_token", "refresh_token": self.refresh}
        more = {"client_id": self.client, "client_secret": self.secret}
        return told | {name: value for name, value in more.items() if value}
