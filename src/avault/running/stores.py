"""Files with placeholders, for clients that look for their key in a store of their own.

They are in a directory that is there for one session. The client's real store is not read, and not
changed; a variable leads the client past it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound, Usage
from avault.plain import write_all
from avault.vault.tokens import ACCESS_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    Instead = dict[str, str]  # placeholders, by key


NOT_SOON = 4_102_444_800_000  # milliseconds, in 2100: the proxy renews it, the client does not


def write_claude(given: Instead) -> str:
    """Claude Code's .credentials.json: a login with nothing that renews it."""
    login = {
        "accessToken": given[ACCESS_TOKEN],
        "refreshToken": "",
        "expiresAt": NOT_SOON,
        "scopes": ["user:inference", "user:profile"],
    }
    return json.dumps({"claudeAiOauth": login}) + "\n"


def write_codex(given: Instead) -> str:
    """The auth.json of codex, with a key of OpenAI's API."""
    return json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": next(iter(given.values()))}) + "\n"


def write_gh(given: Instead) -> str:
    """The hosts.yml of gh, for github.com; the token is quoted as JSON, which YAML reads."""
    token = json.dumps(next(iter(given.values())))
    return (
        f"github.com:\n    git_protocol: https\n    user: avault\n    oauth_token: {token}\n"
        f"    users:\n        avault:\n            oauth_token: {token}\n"
    )


def write_aws(given: Instead) -> str:
    """The file of AWS's credentials, for the profile that is in use."""
    lines = [f"{key.lower()} = {value}" for key, value in sorted(given.items())]
    return "\n".join([f"[{os.environ.get('AWS_PROFILE') or 'default'}]", *lines, ""])


class StoredClient:
    """A client's store: which `variable` leads to it, where it is else (`home`), and its `name`.

    Without a home the variable names the file itself. Of each of `keys` it needs one, by one of
    these names; of `more` it takes what there is. It looks into `instead` before it looks there.
    """

    def __init__(
        self,
        variable: str,
        home: str,
        name: str,
        keys: tuple[tuple[str, ...], ...],
        write: Callable[[Instead], str],
        instead: tuple[str, ...],
        more: tuple[str, ...] = (),
    ) -> None:
        self.variable, self.home, self.name = variable, home, name
        self.keys, self.write, self.instead, self.more = keys, write, instead, more


STORED_CLIENTS = {
    "claude": StoredClient(
        "CLAUDE_CONFIG_DIR",
        "~/.claude",
        ".credentials.json",
        ((ACCESS_TOKEN,),),
        write_claude,
        ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
    ),
    "codex": StoredClient(
        "CODEX_HOME",
        "~/.codex",
        "auth.json",
        (("OPENAI_API_KEY", "CODEX_API_KEY", "API_KEY"),),
        write_codex,
        ("CODEX_API_KEY", "OPENAI_API_KEY"),
    ),
    "gh": StoredClient(
        "GH_CONFIG_DIR",
        "~/.config/gh",
        "hosts.yml",
        (("GH_TOKEN", "GITHUB_TOKEN", "TOKEN"),),
        write_gh,
        ("GH_TOKEN", "GITHUB_TOKEN"),
    ),
    "aws": StoredClient(
        "AWS_SHARED_CREDENTIALS_FILE",
        "",
        "credentials",
        (("AWS_ACCESS_KEY_ID",), ("AWS_SECRET_ACCESS_KEY",)),
        write_aws,
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        ("AWS_SESSION_TOKEN",),
    ),
}


class Stores:
    """The stores of one session, each as CLIENT, CLIENT=GROUP, or CLIENT=GROUP/KEY.

    Raises Usage. The directory is made at once, and what is in it with `fill`.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self.wanted: dict[str, tuple[str, str]] = {}  # by client, a group and a key, "" for any
        for word in words:
            client, _, place = word.partition("=")
            if client not in STORED_CLIENTS:
                raise Usage(
                    f"no store of {client} is known", f"one of: {', '.join(STORED_CLIENTS)}"
                )
            group, _, key = (place or client).partition("/")
            self.wanted[client] = group, key
        self.directory = tempfile.mkdtemp(prefix="avault-") if self.wanted else ""
        self.found: dict[str, dict[str, str]] = {}  # by client, keys as it calls them: GROUP/KEY

    def choose(self, there: set[str]) -> list[str]:
        """The secrets that they are to have, of those that are `there`, as GROUP/KEY.

        Raises NotFound, and Usage for a key of which a store has several.
        """
        for client, (group, key) in self.wanted.items():
            kind = STORED_CLIENTS[client]
            keys = {place.partition("/")[2] for place in there if place.startswith(f"{group}/")}
            if key and len(kind.keys) > 1:
                raise Usage(f"{client} has more than one key", f"name the group: {client}={group}")
            if key:
                self.found[client] = {kind.keys[0][0]: f"{group}/{key}"}
                continue
            found: dict[str, str] = {}
            for names in kind.keys:
                name = next((each for each in names if each in keys), None)
                if not name:
                    said = f"{group} has no {' or '.join(names)}, which {client} has in its store"
                    raise NotFound(said, f"name another: --store {client}=GROUP")
                found[names[0]] = f"{group}/{name}"
            found |= {each: f"{group}/{each}" for each in kind.more if each in keys}
            self.found[client] = found
        return [place for found in self.found.values() for place in found.values()]

    def fill(self, placeholders: dict[str, str], is_alone: bool) -> dict[str, str]:
        """Write them: the variables that lead there. Raises Denied for what goes to no host.

        Beside it, what else the client has in its directory is linked, unless that is to be seen
        by nobody (`is_alone`).
        """
        variables = {}
        for client, found in self.found.items():
            kind = STORED_CLIENTS[client]
            for place in found.values():
                if place not in placeholders:
                    said = f"no host is named for {place}, so {client} has no placeholder of it"
                    raise Denied(said, f"avault guard {place} --host HOST")
            directory = os.path.join(self.directory, client)
            os.mkdir(directory, 0o700)
            path = os.path.join(directory, kind.name)
            text = kind.write({key: placeholders[place] for key, place in found.items()})
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                write_all(fd, text.encode())
            finally:
                os.close(fd)
            if kind.home and not is_alone:
                link_others(kind, directory)
            variables[kind.variable] = directory if kind.home else path
        return variables

    def others(self) -> set[str]:
        """The variables in which these clients would find another key before they look there."""
        return {each for client in self.found for each in STORED_CLIENTS[client].instead}

    def end(self) -> None:
        """Take them away: what the clients have written there goes, too."""
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)


def link_others(kind: StoredClient, directory: str) -> None:
    """Link what a client has beside its store: its settings, its history."""
    home = os.environ.get(kind.variable) or os.path.expanduser(kind.home)
    ways = {name: os.path.join(home, name) for name in list_names(home)}
    if kind.variable == "CLAUDE_CONFIG_DIR" and not os.environ.get(kind.variable):
        ways[".claude.json"] = os.path.expanduser("~/.claude.json")  # else it is in there
    for name, way in ways.items():
        if name != kind.name and os.path.exists(way):
            os.symlink(os.path.realpath(way), os.path.join(directory, name))


def list_names(directory: str) -> list[str]:
    """What is in a directory; nothing where there is none."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
