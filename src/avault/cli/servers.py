"""What a key may sign for SSH, as a command line names it: servers by name, kept by their keys."""

from __future__ import annotations

import binascii
import subprocess
from typing import TYPE_CHECKING

from avault.errors import Usage, printable
from avault.ssh_wire import fingerprint_of
from avault.terminal.talk import say
from avault.vault.ssh_rules import WORDS_FOR_SERVERS, is_server

if TYPE_CHECKING:
    from typing import Any


def name_uses_of(
    servers: tuple[str, ...], users: tuple[str, ...], namespaces: tuple[str, ...]
) -> dict[str, Any]:
    """The fields of a request that say what a key may sign; raises Usage."""
    found = {"servers": name_servers(servers), "users": [*users], "namespaces": [*namespaces]}
    return {name: value for name, value in found.items() if value}


def name_servers(given: tuple[str, ...]) -> list[str]:
    """What a guard keeps of servers; of one that is named alone, its keys in known_hosts.

    Raises Usage. The keys are shown: who can write known_hosts could have put others there.
    """
    found: list[str] = []
    for each in given:
        if is_server(each):
            found.append(each)
        elif "=" in each:
            raise Usage("not a server", "as in: --server github.com=SHA256:…")
        else:
            found += find_known(each)
    return found


def find_known(name: str) -> list[str]:
    """A server's keys in known_hosts, as a guard keeps them; raises Usage where there are none."""
    lines = []
    if name[:1] != "-":
        try:
            asked = subprocess.run(
                ["ssh-keygen", "-F", name],
                check=False,
                capture_output=True,
                text=True,
                timeout=10,
            )
            lines = [line.split() for line in asked.stdout.splitlines() if line[:1] != "#"]
        except (OSError, subprocess.TimeoutExpired):
            pass
    members = []
    revoked = {words[3] for words in lines if words[0] == "@revoked" and len(words) > 3}
    for words in lines:
        try:
            fingerprint = fingerprint_of(binascii.a2b_base64(words[2]))
        except (IndexError, ValueError):
            continue
        if words[0][:1] == "@" or words[2] in revoked:
            continue
        members.append(f"{name}={fingerprint}")
        say(f"{name} has the key {fingerprint} ({printable(words[1], 40)}) in known_hosts")
    if not members or not all(map(is_server, members)):
        words_for = ", ".join(WORDS_FOR_SERVERS)
        raise Usage(
            f"no key of {printable(name, 80)} in known_hosts",
            f"name it: --server NAME=SHA256:…; or one of: {words_for}",
        )
    return members
