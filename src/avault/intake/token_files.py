"""What Claude Code and codex keep when a person has logged in: tokens, and what renews them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.intake.json_files import load_json
from avault.intake.logins import FileSecrets
from avault.vault.tokens import (
    ACCESS_TOKEN,
    CLIENT_ID,
    EXPIRES_AT,
    REFRESH_TOKEN,
    TOKEN_ENCODING,
    TOKEN_URL,
)

if TYPE_CHECKING:
    from typing import Any


# where each renews them, and as whom: both say it in what they send, and no document of theirs does
CLAUDE = {
    TOKEN_URL: "https://console.anthropic.com/v1/oauth/token",
    CLIENT_ID: "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
    TOKEN_ENCODING: "json",
}
OTHER_LOGIN = "it is another login, and stays in the file only"
CODEX = {
    TOKEN_URL: "https://auth.openai.com/oauth/token",
    CLIENT_ID: "app_EMoamEEZ73f0CkXaXp7hrann",
    TOKEN_ENCODING: "json",
}


def find_token_form(content: Any) -> str | None:
    """Whose tokens an object of JSON has: `claude`, `codex`, or None for nobody's."""
    if not isinstance(content, dict):
        return None
    claude, codex = content.get("claudeAiOauth"), content.get("tokens")
    if isinstance(claude, dict) and "accessToken" in claude:
        return "claude"
    is_codex = isinstance(codex, dict) and {"access_token", "refresh_token"} <= codex.keys()
    return "codex" if is_codex else None


def read_claude(text: str) -> FileSecrets:
    """~/.claude/.credentials.json; raises Usage. It has milliseconds, the vault seconds."""
    content, found = load_json(text), FileSecrets()
    tokens = content.get("claudeAiOauth")
    if not isinstance(tokens, dict):
        raise Usage("this is no file of Claude Code's", "as in ~/.claude/.credentials.json")
    expires = text_of(tokens, "expiresAt")
    values = {
        ACCESS_TOKEN: text_of(tokens, "accessToken"),
        REFRESH_TOKEN: text_of(tokens, "refreshToken"),
        EXPIRES_AT: str(int(expires) // 1000) if expires.isdigit() else "",
    }
    found.add("claude", complete(values, CLAUDE))
    for each, more in content.items():  # as `mcpOAuth`, with the tokens of other servers
        if isinstance(more, dict) and each != "claudeAiOauth":
            for server in more:
                found.leave(0, f"{each}/{server}", OTHER_LOGIN)
    return found


def read_codex(text: str) -> FileSecrets:
    """~/.codex/auth.json; raises Usage. Its access token says itself when it expires."""
    content, found = load_json(text), FileSecrets()
    tokens = content.get("tokens")
    if not isinstance(tokens, dict):
        raise Usage("this is no file of codex's", "as in ~/.codex/auth.json")
    access = text_of(tokens, "access_token")
    values = {
        ACCESS_TOKEN: access,
        REFRESH_TOKEN: text_of(tokens, "refresh_token"),
        EXPIRES_AT: read_expiry(access),
        "OAUTH_ID_TOKEN": text_of(tokens, "id_token"),
        "OAUTH_ACCOUNT_ID": text_of(tokens, "account_id"),
    }
    found.add("codex", complete(values, CODEX))
    if key := text_of(content, "OPENAI_API_KEY"):
        found.add("openai", {"OPENAI_API_KEY": key})
    return found


def text_of(content: dict[str, Any], name: str) -> str:
    """A text in an object, "" where there is none."""
    found = content.get(name)
    return found if isinstance(found, str) else ""


def complete(values: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Tokens with how they are renewed, where there is something to renew them with."""
    return values | (more if values[REFRESH_TOKEN] else {})


def read_expiry(token: str) -> str:
    """When a JSON Web Token expires, in Unix seconds (RFC 7519, 4.1.4); "" if it says nothing."""
    part = token.partition(".")[2].partition(".")[0]
    try:
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return str(int(claims["exp"]))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return ""
