"""What is signed for SSH, in words: what is proven first, what the caller claims after "says"."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from avault.errors import printable
from avault.late import regex
from avault.ssh_wire import decode_base64
from avault.vault.names import GROUP_CHARACTERS
from avault.vault.ssh_rules import server_name

if TYPE_CHECKING:
    from typing import Any


LONGEST_CONTENT = 16_384  # bytes of a commit that are looked at
# how git writes what it signs, with the lines in this order: parse_commit_buffer, parse_tag_buffer
# and generate_push_cert in its source
GIT_COMMIT = regex(
    rb"tree (?:[0-9a-f]{40}|[0-9a-f]{64})\n(?:parent (?:[0-9a-f]{40}|[0-9a-f]{64})\n)*"
    rb"author ([^\n\0]*)\ncommitter [^\n\0]*\n"
)
GIT_TAG = regex(
    rb"object (?:[0-9a-f]{40}|[0-9a-f]{64})\ntype ([a-z]{1,10})\n"
    rb"tag ([^\n\0]*)\ntagger ([^\n\0]*)\n"
)
GIT_PUSH = regex(rb"certificate version 0\.1\npusher [^\n\0]*\n(?:pushee ([^\n\0]*)\n)?[^\0]*?\n\n")


def describe_use(
    use: dict[str, Any], name: str, servers: list[frozenset[str]], said: dict[str, Any]
) -> str:
    """A use of a key, in words. `said` has what the caller claims, and the `content` of a file.

    That is proven where it is what the signature is about, and else it is not spoken of.
    """
    if use["as"] == "sshsig":
        done = f"sign {describe_content(use, said.get('content'))} with {name}"
    else:
        where = server_name(use, servers)
        if use["server"] is None:
            where = "a server that is NOT PROVEN"
        elif where is None:
            where = f"an UNKNOWN server (key {use['server']})"
        user = str(use["user"])
        if not set(user) <= GROUP_CHARACTERS:  # it cannot be taken for a part of the sentence
            user = quote_words(user.encode(), 64)
        done = f"sign in to {printable(where, 80)} as {user} with {name}"
    if through := use["through"]:
        many = "a forwarded agent" if len(through) == 1 else f"{len(through)} forwarded agents"
        done += f", through {many} (the last on the host with the key {through[-1][:23]}…)"
    claims = said.get("claims")
    claimed = claims if isinstance(claims, dict) else {}
    program, does = (printable(str(claimed.get(each) or ""), 60) for each in ("program", "does"))
    if does:
        return f"{done}; {program or 'a program'} says: {does}"
    return f"{done}; {program}" if program else done


def describe_content(use: dict[str, Any], content: object) -> str:
    """What is signed of a file, or of git: with its words, where the content is proven."""
    if use["namespace"] != "git":
        return f"a file for {use['namespace']}"
    try:
        data = decode_base64(content, LONGEST_CONTENT)
    except ValueError:
        data = b""
    if hashlib.new(use["hash"], data).hexdigest() != use["digest"]:
        return "a commit that cannot be shown"
    return describe_git(data)


def describe_git(data: bytes) -> str:
    """What git signs, by how it begins: the order in which git writes it, and reads it again."""
    _, _, message = data.partition(b"\n\n")
    subject = quote_words(message.lstrip(b"\n").partition(b"\n")[0], 60)
    if found := GIT_COMMIT.match(data):
        return f"the commit {subject} that says it is by {quote_words(strip_time(found[1]), 60)}"
    if found := GIT_TAG.match(data):
        what = f"the tag {quote_words(found[2], 40)} of a {found[1].decode()}"
        return f"{what}, {subject}, that says it is by {quote_words(strip_time(found[3]), 60)}"
    if found := GIT_PUSH.match(data):
        refs = [line.rpartition(b" ")[2] for line in message.strip().split(b"\n")]
        more = f" and {len(refs) - 1} more" if len(refs) > 1 else ""
        where = f" to {quote_words(found[1], 60)}" if found[1] else ""
        return f"a push of {quote_words(refs[0], 60)}{more}{where}"
    return "content for git that is no commit, tag or push"


def strip_time(line: bytes) -> bytes:
    """Who somebody is, without the time: NAME <ADDRESS>."""
    return line.rpartition(b">")[0] + b">" if b">" in line else line


def quote_words(text: bytes, most: int) -> str:
    """What others wrote, in quotes that it cannot end."""
    shown = text.decode(errors="replace").replace('"', "'").replace(";", ",")
    return f'"{printable(shown, most)}"'
