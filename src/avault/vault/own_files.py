"""The vault's own files, beside its ciphertext: of which kinds they are, and what they may hold.

Each is JSON with a type, a version and a checksum. With them go the hints that `pair` reads, and
what git is told of the vault's files.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from avault.errors import Tampered, Usage, printable
from avault.keys.nostr import parse_npub, to_npub
from avault.places import sha256
from avault.vault.files import read_file, refuse_foreign
from avault.vault.names import DIGITS, LETTERS

if TYPE_CHECKING:
    from typing import Any


REPAIRS = {
    "unlock": "avault unlock, and the phone is asked for nsec.enc",
    "pairing": "avault pair",
    "pin": "git pull, avault unlock",
    "custodians": "avault custody list",
    "messages": "avault message on",
    "desk": "avault fleet enroll",
}
SEALED = {"vault": str, "name": str, "agent": str, "operator": str, "envelope": str, "sealed": str}
FIELDS: dict[str, dict[str, Any]] = {
    # of each kind of file, with their types
    "bunker": {"key": str, "secret": str, "clients": dict, "relays": list},
    "nsec": {**SEALED, "others": list, "rotated": list},
    "unlock": {**SEALED, "proven": (str, type(None)), "quick": int, "rotated": list},
    "pairing": {
        "client_key": str, "signer": str, "agent": str, "operator": str, "relays": list,
        "approves_by_itself": (bool, type(None)),
    },
    "hints": {"agent_npub": str, "signer_npub": str, "relay": str, "relays": list, "name": str},
    "pin": {
        "agent": str, "operator": str, "generation": dict, "hash": str,
        "since": int, "served": dict, "retired": list, "given": dict,
    },
    "forget": {"custodians": list},
    "custody": {
        "custodian": str, "kind": str, "account": str, "asks": bool, "settings": dict,
        "kept": (str, type(None)),
        "vault": str, "name": str, "agent": str, "operator": str, "sealed": str, "agreed": str,
        "signed": str,
    },
    "custodians": {"order": list, "opened": dict},
    "desk": {
        "client_key": str, "signer": str, "operator": str, "relays": list, "label": str,
        "groups": dict,
    },
    "machine": {"id": str, "host": str},
    "offered": {"count": int},
    "log": {"ledgers": dict, "mac": str},
    "recovery": {"hash": str},
    "locks": {"locks": dict},
    "messages": {"lock": bool, "notice": bool, "relays": list, "obeyed": int},
    "pauses": {"in_vain": int, "refused": bool, "last": int},
    "replica": {
        "machine": str, "author": str, "last": int, "epoch": int, "anew": bool, "roots": dict,
        "wants": list, "rollback": str, "holds": bool, "notes": list, "seen": list, "relays": dict,
        "latest": dict, "put": list, "judged": str, "late": list, "rotated": list,
    },
}  # fmt: skip

# what a file of a kind has only where there is some
OPTIONAL = {
    "nsec": {"others", "rotated"},
    "unlock": {"rotated"},
    "pin": {"agent", "operator", "since", "served", "retired", "given"},
    "custody": {"signed"},
    "replica": {"latest", "put", "judged", "late", "rotated"},
}


def encode_file(kind: str, content: dict[str, Any]) -> bytes:
    """A JSON file of ours: its type and version first, a SHA-256 over all of it last."""
    body = {"type": f"avault/{kind}", "version": 1, **content}
    return (
        json.dumps({**body, "checksum": sha256(json.dumps(body).encode()).hex()}, indent=2) + "\n"
    ).encode()


def is_of_type(value: object, wanted: type | tuple[type, ...]) -> bool:
    """Whether a value is of a type, or of one of them.

    To Python a bool is an int too, here it is not.
    """
    return type(value) in (wanted if isinstance(wanted, tuple) else (wanted,))


def decode_file(kind: str, data: bytes, path: str) -> dict[str, Any]:
    """The content of a file made by `encode_file`, each field of its type; raises Tampered."""
    fields = FIELDS[kind]
    try:
        content = json.loads(data)
        if content["type"] == f"avault/{kind}" and content["version"] == 1:
            del content["type"], content["version"], content["checksum"]
            missing = fields.keys() - content.keys()
            right = content.keys() <= fields.keys() and missing <= OPTIONAL.get(kind, set())
            right = right and all(is_of_type(content[name], fields[name]) for name in content)
            if right and encode_file(kind, content) == data:
                return dict(content)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    hint = (
        f"move it away, then: {REPAIRS[kind]}"
        if kind in REPAIRS
        else "take it from git history or from a backup"
    )
    raise Tampered(f"{path} is damaged", hint)


def encode_hints(agent: str, operator: str, relays: list[str], name: str) -> bytes:
    """nip46.json: public hints for `pair` and `recover`, never trusted."""
    content = {
        "agent_npub": to_npub(agent),
        "signer_npub": to_npub(operator),
        "relay": (relays or [""])[0],
        "relays": relays,
    }
    return encode_file("hints", {**content, "name": name})


def read_hints(path: str) -> dict[str, Any]:
    """The content of nip46.json; raises Tampered if it cannot be read as such."""
    data = read_file(path)
    hints = decode_file("hints", data, path)
    try:
        agent, operator = parse_npub(hints["agent_npub"]), parse_npub(hints["signer_npub"])
        if (
            encode_hints(
                agent,
                operator,
                [check_relay(url) for url in hints["relays"]],
                check_name(hints["name"]),
            )
            == data
        ):
            return hints
    except Usage:
        pass
    raise Tampered(f"{path} is damaged", "take it from git history")


def check_relay(url: object) -> str:
    """`url` if it can be a relay in a pairing URI; raises Usage.

    Amber decodes the whole query of a URI before it splits it: a relay URL
    with a query of its own would fall apart.
    """
    if (
        isinstance(url, str)
        and url.isascii()
        and url.isprintable()
        and len(url) <= 200
        and not set(url) & set(" &=?#,+%\"'<>")
    ):
        scheme, mark, host = url.partition("://")
        if scheme in ("wss", "ws") and mark and host.split("/")[0].strip(":"):
            return url.rstrip("/")
    raise Usage(
        f"not a relay URL: {printable(url)}", "wss://HOST or ws://HOST:PORT, without a query"
    )


def normalise_relay(url: object) -> str:
    """A relay's URL in one spelling: what is another's is another relay; raises Usage."""
    scheme, _, rest = check_relay(url).partition("://")
    host, slash, path = rest.partition("/")
    name, colon, port = host.lower().rpartition(":")
    if not colon or not port.isdecimal():
        name, port = host.lower(), ""
    usual = "443" if scheme == "wss" else "80"
    port = port.lstrip("0")
    shown = f":{port}" if port not in ("", usual) else ""
    return f"{scheme}://{name.rstrip('.')}{shown}{slash}{path}"


NAME_CHARACTERS = LETTERS | DIGITS | set(" ._@-")  # survive every signer's reading of a URI


def check_name(name: str) -> str:
    """`name` if a signer can show it as a connection's name; raises Usage."""
    if 0 < len(name) <= 64 and set(name) <= NAME_CHARACTERS and name == name.strip():
        return name
    raise Usage(
        f"not a name for a vault: {printable(name)!r}",
        "up to 64 letters, digits, spaces and . _ @ -, as in: --name clawd@db1",
    )


def others_of(content: dict[str, Any]) -> list[dict[str, str]]:
    """What nsec.enc's content has for the other operators; raises Tampered."""
    others: list[Any] = content.get("others", [])
    for other in others:
        is_whole = isinstance(other, dict) and other.keys() == {"operator", "envelope", "sealed"}
        if not is_whole or not all(isinstance(each, str) for each in other.values()):
            raise Tampered("nsec.enc is damaged", "take it from a backup or from git history")
    return others


def clean_directory(path: str) -> None:
    """Remove the temporary files that a killed write left behind.

    Only for the holder of the lock.
    """
    for name in os.listdir(path):
        if is_leftover(name) and not os.path.isdir(os.path.join(path, name)):
            os.unlink(os.path.join(path, name))


def is_leftover(name: str) -> bool:
    """Whether a name is that of a temporary file of ours."""
    stem, _, middle = name.removesuffix(".tmp").rpartition(".")
    is_ours = stem in {f".{each}" for each in OUR_FILES} or stem.startswith(".custody-")
    return is_ours and name.endswith(".tmp") and len(middle) == 16


OUR_FILES = (
    "avault.enc", "nsec.enc", "nip46.json", ".gitattributes",
    "unlock.json", "pairing.json", "pairing-unproven.json", "pin.json", "machine.json",
    "offered.json", "custodians.json", "recovery.json", "log.json", "pauses.json",
    "locks.json", "messages.json",
    "replica.json", "replica-outbox.json", "guards.enc",
    "socket", "python", "place", "unsaved.enc", "damaged.enc", "replaced.enc", "forget.json",
)  # fmt: skip

GITATTRIBUTES = b"""# avault: ciphertext is neither converted nor merged line by line
avault.enc -text -merge
nsec.enc -text -merge
nip46.json -text -merge
custody-*.json -text -merge
"""


def complete_attributes(path: str) -> bytes:
    """What is to be in the .gitattributes at `path`; raises AvaultError.

    That is what is there, then those of our lines that are not.
    """
    refuse_foreign(path)
    text = read_file(path) if os.path.lexists(path) else b""
    missing = [line for line in GITATTRIBUTES.splitlines() if line not in text.splitlines()]
    end = b"" if not text or text.endswith(b"\n") else b"\n"
    return text + end + b"".join(line + b"\n" for line in missing)
