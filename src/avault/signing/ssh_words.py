"""What is signed for SSH, in words: what is proven first, what the caller claims after "says"."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from avault.errors import printable
from avault.ssh_wire import decode_base64
from avault.vault.ssh_rules import server_name

if TYPE_CHECKING:
    from typing import Any


LONGEST_CONTENT = 16_384  # bytes of a commit that are looked at


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
        hops = f" through {use['hops'] - 1} forwarded agents" if use["hops"] > 1 else ""
        done = f"sign in to {where}{hops} as {printable(use['user'], 64)} with {name}"
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
    return describe_commit(data.decode(errors="replace"))


def describe_commit(text: str) -> str:
    """A commit or a tag of git (gitformat-pack's objects, as git signs them), in words."""
    head, _, message = text.partition("\n\n")
    fields = dict(line.partition(" ")[::2] for line in reversed(head.splitlines()))
    who = fields.get("author") or fields.get("tagger") or ""
    author = quote_words(who.rpartition(">")[0] + ">", 60) if ">" in who else "nobody"
    what = f"tag {quote_words(fields['tag'], 40)}" if "tag" in fields else "commit"
    return f'the {what} "{quote_words(message.partition(chr(10))[0], 60)}" by {author}'


def quote_words(text: str, most: int) -> str:
    """A text in quotes, so that it does not end them."""
    return printable(text.replace('"', "'").replace(";", ","), most)
