#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["nostr-sdk==0.45.1", "click>=8.1,<9", "qrcode>=8,<9", "pillow>=10"]
# ///
# Generated from src/avault/ by scripts/amalgamate.py: edit the rooms there, not this file.
"""avault keeps an AI agent's secrets, and opens them with the operator's phone.

On the disk there is only ciphertext. The key to it comes from the operator's
signer app (Amber, nsec.app, Primal, any NIP-46 bunker), over a Nostr relay,
each time the machine boots. The secrets then live in the memory of one
process, the keyholder, and leave with it.

    avault CLI --unix socket--> supervisor --hands the connection--> keyholder
                                (no secret,                          (agent key, vault;
                                 survives lock)                       talks NIP-46; exits on lock)

What this defends against: a stolen disk, backup, snapshot or git repository;
other users of the machine; relays and everybody on them; a signer's history
(what the phone answered last time opens nothing that is on the disk today).
What it cannot: root or the same user while the vault is open, and whoever
changes this very file before an approval. references/security.md has the rest.

The rooms, in order; each calls only what stands above it:

    lazy               Modules that are imported when they are first used
    places             Where a vault is: its directory, state directory, socket and id
    fast               get, has, list, export, set and run over the socket, with built-in modules only
    errors             One base class for what went wrong; exit codes and hints
    protocol           The socket protocol: its requests, and its frames
    systemd            What systemd says of the service that avault installs
    client             A client's connection to the daemon
    late               What is made when it is first used: patterns, dataclasses, contexts, properties
    tasks              Work that runs beside other work, in an event loop
    vault/records      The vault as data: groups, keys and their names; merging two copies
    vault/files        Files as people and disks need them: atomic, durable, checked
    vault/formats      What the keyholder renders: shell, dotenv, systemd, JSON and others
    vault/seal         Everything that is encrypted: the vault's parts, the envelope, the sealed key
    vault/store        The loaded vault and its file: generations, pin, writing, noticing changes
    vault/recovery     The recovery copy, nsec.enc, beside an open vault: verified, and made anew
    signer/remote      The NIP-46 client ("Nostr Remote Signing"), over the library's relay client; pairing
    custody/custodian  The ways to get the agent's key
    daemon/process     How our processes start: a clean environment, hardened, the vault's lock
    daemon/asking      The question to the operator: who waits for it, and when it may be put again
    daemon/wire        The connections of the daemon: between its two processes, and of clients to the keyholder
    daemon/keeper      The keyholder as the supervisor sees it: a process, and a state
    daemon/log         The access log: who got what, and when
    daemon/keyholder   The process that holds the agent's key and the secrets
    daemon/requests    What a client may ask of an open vault
    daemon/supervisor  The process that owns the socket. It never holds a secret
    daemon/start       From a command to a daemon
    daemon/talks       The keyholder's talks with operator and signer: init, pair, recover, drill
    cli/terminal       What commands have in common, and the page of help
    cli/daemon         daemon start and stop, status, unlock, lock
    cli/secrets        set, get, has, list, mv, delete, export, wait
    cli/main           From a command line to a command, by way of click; and where the program starts
"""

from __future__ import annotations

import os
import sys

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own constant, without importing typing


# ------------------------------------------------------------------ lazy ----
# Modules that are imported when they are first used.


class Lazy:
    """A module, with the parts of it that are named, which is imported when one of its names is first used."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __getattr__(self, attribute: str) -> object:
        [module, *_] = map(__import__, self.names)
        globals()[module.__name__] = module
        if module.__name__ == "nostr_sdk":
            module.nostr_sdk._UniffiRustBufferBuilder.write = write_at_once
        return getattr(module, attribute)


def write_at_once(builder: Any, value: bytes) -> None:
    """Hand bytes to nostr-sdk in one piece: 0.45.1 does it byte by byte, in Python, 20 times slower."""
    import ctypes

    with builder._reserve(len(value)):
        ctypes.memmove(
            ctypes.addressof(builder.rbuf.data.contents) + builder.rbuf.len, value, len(value)
        )


if TYPE_CHECKING:
    import asyncio
    import click
    import contextlib
    import dataclasses
    import errno
    import hmac
    import json
    import nostr_sdk
    import re
    import secrets
    import socket
    import subprocess
    import time
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import Any, AnyStr, NoReturn, ParamSpec, Self, TypeVar, dataclass_transform

    Answer = dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]
    Limits = tuple[float | None, float | None]
    P = ParamSpec("P")
    Serve = Callable[["Keyholder", "Session", dict[str, Any]], Answer]
    T = TypeVar("T")
    Talk = Callable[
        ["Keyholder", "Session", dict[str, Any], dict[str, Any]], Awaitable[dict[str, Any]]
    ]
else:
    asyncio = Lazy("asyncio")
    click = Lazy("click")
    contextlib = Lazy("contextlib")
    dataclasses = Lazy("dataclasses")
    errno = Lazy("errno")
    hmac = Lazy("hmac")
    json = Lazy("json")
    nostr_sdk = Lazy("nostr_sdk")
    re = Lazy("re")
    secrets = Lazy("secrets")
    socket = Lazy("socket")
    subprocess = Lazy("subprocess")
    time = Lazy("time")


# ---------------------------------------------------------------- places ----
# Where a vault is: its directory, state directory, socket and id.
#
# Only modules that every interpreter has loaded or built in: the next room answers a `get` in the
# time that Python itself needs to start.


def sha256(data: bytes) -> bytes:
    """The SHA-256 digest of `data` (32 bytes), without loading OpenSSL."""
    if sys.version_info >= (3, 12):
        from _sha2 import sha256 as digest
    else:
        from _sha256 import sha256 as digest  # type: ignore[import-not-found,unused-ignore]
    return bytes(digest(data).digest())


def vault_id(directory: str) -> str:
    """The name of a vault directory in sockets, state and keychain entries.

    `avault1-` and the first 16 characters of base64url(sha256(realpath)).
    """
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    number = int.from_bytes(sha256(os.fsencode(os.path.realpath(directory)))[:12], "big")
    return "avault1-" + "".join(letters[number >> bits & 63] for bits in range(90, -1, -6))


class NoPlace(Exception):
    """There is nowhere to begin from: no home, or no current directory. It carries a message and a hint."""


def absolute(path: str) -> str:
    """An absolute path of one that a person typed, or that a variable has; raises NoPlace."""
    found = os.path.expanduser(path)
    if path[:1] == "~" and not os.path.isabs(found):
        home = os.environ.get("HOME")
        raise NoPlace(
            f"HOME is no absolute path: {home!a}" if home else "there is no HOME",
            "HOME=/home/NAME avault …",
        )
    try:
        return os.path.abspath(found)
    except FileNotFoundError:
        raise NoPlace(
            "the current directory is gone", "go to one that is there, as with: cd"
        ) from None


def usual_directory(creating: bool = False) -> str:
    """~/clawd/.avault or ~/.openclaw/workspace/.avault: the first that holds a vault; `creating`, whose parent exists."""
    usual = [absolute("~/clawd/.avault"), absolute("~/.openclaw/workspace/.avault")]
    for directory in usual:
        wanted = os.path.dirname(directory) if creating else os.path.join(directory, "avault.enc")
        if os.path.exists(wanted):
            return directory
    return usual[0]


def named_directory(given: str | None = None) -> str | None:
    """The vault directory that is named: by `given`, $AVAULT_DIR, or $WORKSPACE, whose .avault it is.

    The .avault in a directory is meant where that itself holds no vault.
    """
    named = given or os.environ.get("AVAULT_DIR")
    if not named and os.environ.get("WORKSPACE"):
        named = os.path.join(os.environ["WORKSPACE"], ".avault")
    if not named:
        return None
    directory = absolute(named)
    inner = os.path.join(directory, ".avault")
    is_outer = not os.path.lexists(f"{directory}/avault.enc") and os.path.lexists(
        f"{inner}/avault.enc"
    )
    return inner if is_outer else directory


def nearest_directory() -> str | None:
    """The .avault in the current directory, or above it, that this machine has opened before.

    No other: a repository that somebody cloned must not choose the vault, nor lead to another one by a link.
    """
    try:
        here = os.getcwd()
    except OSError:
        return None
    while True:
        directory = os.path.join(here, ".avault")
        if is_own_directory(directory) and os.path.lexists(
            os.path.join(state_home(), vault_id(directory), "unlock.json")
        ):
            return directory
        if here == (here := os.path.dirname(here)):
            return None


def vault_directory(given: str | None = None, creating: bool = False) -> str:
    """Where the vault is: one that is named, else one that is near, else in a usual place."""
    return named_directory(given) or nearest_directory() or usual_directory(creating)


def state_home() -> str:
    """$XDG_STATE_HOME/avault, or ~/.local/state/avault (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else absolute("~/.local/state"), "avault")


def unit_directory(system: bool) -> str:
    """Where the units of a manager of systemd's are kept: those of the system's, or of the user's own (systemd.unit(5))."""
    if system:
        return "/etc/systemd/system"
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return os.path.join(base if os.path.isabs(base) else absolute("~/.config"), "systemd/user")


def is_own_directory(path: str, closed_to: int = 0) -> bool:
    """Whether `path` is a directory of ours, and no symlink, that others have none of these permissions for."""
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return info.st_mode & (0o170000 | closed_to) == 0o040000 and info.st_uid == os.getuid()


def is_private_directory(path: str) -> bool:
    """Whether `path` is a directory of ours that nobody else can enter, and no symlink."""
    return is_own_directory(path, 0o077)


def own_name(given: str | None) -> str:
    """`avault`, with the --dir that it was given: how a command in a hint begins."""
    if not given:
        return "avault"
    from shlex import quote

    return f"avault --dir {quote(given)}"


def read_record(path: str) -> str:
    """A path that is recorded in the state directory; "" where there is none. What is no regular file does not hold us up."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.fsdecode(os.read(fd, 4096))
    except OSError:
        return ""
    finally:
        os.close(fd)


class Places:
    """The places of one vault: `dir`, `id`, `state`, `socket`, `pid_file`."""

    __slots__ = ("dir", "id", "pid_file", "socket", "state")

    def __init__(self, given: str | None = None, creating: bool = False) -> None:
        named = named_directory(given)
        self.dir = named or vault_directory(creating=creating)
        self.id = vault_id(self.dir)
        self.state = os.path.join(state_home(), self.id)
        is_usual = not named and self.dir == usual_directory(creating)
        name = "avault" if is_usual else "avault-" + self.id
        runtime = [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"]
        beside = next((path for path in runtime if path and is_private_directory(path)), self.state)
        self.socket = absolute(
            os.environ.get("AVAULT_SOCKET") or os.path.join(beside, name + ".sock")
        )
        self.pid_file = absolute(
            os.environ.get("AVAULT_PID") or self.socket.removesuffix(".sock") + ".pid"
        )

    def file(self, name: str) -> str:
        """The path of a file in the vault directory."""
        return os.path.join(self.dir, name)

    def own(self, name: str) -> str:
        """The path of a file in the state directory."""
        return os.path.join(self.state, name)

    def unit(self, system: bool) -> str:
        """The path of this vault's unit, if `avault service install` has written one."""
        return os.path.join(unit_directory(system), f"avault-{self.id}.service")

    def sockets(self) -> Iterator[str]:
        """Where the daemon may listen: the usual path, then the one that it recorded."""
        yield self.socket
        if recorded := read_record(self.own("socket")):
            yield recorded


# ------------------------------------------------------------------ fast ----
# get, has, list, export, set and run over the socket, with built-in modules only.
#
# Without click, json or socket: the keyholder renders the answer, and this copies bytes, or says
# what was refused: a request is made once. Whatever is unusual (an option that is not in the table,
# no daemon) is left to the commands of cli/.


FAST: dict[str, dict[str, Any]] = {  # command: {option: kind of value}
    "get": {"--key": str, "--json": bool},
    "has": {"--key": str},
    "list": {"--json": bool, "--names": bool},
    "status": {"--short": bool},
    "export": {
        "--shell": "sh",
        "--format": str,
        "--group": list,
        "--only": list,
        "--as": list,
        "--prefix": bool,
        "--allow": list,
    },
    "set": {"--key": str, "--note": str, "--generate": "32"},
    "run": {
        "--no-mask": bool,
        "--group": list,
        "--only": list,
        "--as": list,
        "--prefix": bool,
        "--allow": list,
    },
    "openclaw-provider": {"--wait": str, "--no-prompt": bool},
}
FORMS = ("dotenv", "json", "systemd", "docker", "github", "k8s")  # of `export --format`
EXIT_CODES = {
    "usage": 2,
    "locked": 3,
    "not_found": 4,
    "denied": 5,
    "unavailable": 6,
    "timed_out": 7,
    "tampered": 8,
}
# with the exit codes of `status`
STATES = {"unlocked": 0, "waiting": 3, "locked": 3, "unpaired": 3, "starting": 6, "stopped": 6}
PROJECT_FILE = "avault.env"  # which secrets `run` gives, where it lies in the current directory
MAX_FRAME = 4 << 20  # bytes of JSON in one frame
MAX_VALUE = 256 << 10  # bytes of UTF-8 in one secret
_stdin: bytes | None = None


def read_stdin() -> bytes:
    """Standard input, to its end or to more than can be kept; read once, and there for whoever asks next."""
    global _stdin
    if _stdin is None:
        read = bytearray()
        while len(read) <= MAX_FRAME and (piece := os.read(0, 1 << 16)):
            read += piece
        _stdin = bytes(read)
    return _stdin


def write_all(fd: int, data: bytes) -> None:
    """Write every byte of `data` to a blocking file descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def is_number(text: str) -> bool:
    """Whether `text` is decimal digits, as --generate takes them."""
    return text.isascii() and text.isdigit() and len(text) < 10


def parse_fast(argv: list[str]) -> dict[str, Any] | None:
    """The command and its options as a mapping; None for what is not plain enough."""
    found: dict[str, Any] = {}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if words == ["run"] and (word == "--" or word[:1] != "-"):
            found["command"] = rest if word == "--" else [word, *rest]
            break
        if word[:1] != "-":
            words.append(word)
            continue
        option, equals, value = word.partition("=")
        kind = str if option == "--dir" else FAST.get(words[0] if words else "", {}).get(option)
        if kind is None or (equals and not value):
            return None
        if kind is bool:
            if equals:
                return None
            found[option] = True
        elif kind is str or kind is list:
            if not equals:
                if not rest or rest[0][:1] == "-":
                    return None
                value = rest.pop(0)
            if kind is list:
                found.setdefault(option, []).append(value)
            elif option in found:
                return None
            else:
                found[option] = value
        else:  # an option whose value may be left out; then it is `kind`
            if not equals and rest and rest[0][:1] != "-":
                value = rest.pop(0)
            if value and not (value in ("sh", "fish") if option == "--shell" else is_number(value)):
                return None
            found[option] = value or kind
    if not words or words[0] not in FAST:
        return None
    op = found["op"] = words.pop(0)
    if op in ("get", "has", "set") and len(words) == 1:
        group, slash, key = words[0].partition("/")
        if slash and ("--key" in found or not key):
            return None
        found["group"], found["--key"] = group, key or found.get("--key")
    elif words or op in ("get", "has", "set"):
        return None
    return found


def fast_request(found: dict[str, Any]) -> dict[str, Any] | None:
    """The socket request for what `parse_fast` found; None where there is more to say."""
    op, key, want_json = found["op"], found.get("--key"), "json" if found.get("--json") else "text"
    if op in ("get", "has"):
        return {"op": op, "group": found["group"], "key": key, "format": want_json}
    if op == "list":
        return {"op": op, "format": "names" if "--names" in found else want_json}
    if op == "status":
        return {"op": op, "format": "short"} if "--short" in found else None
    if op == "openclaw-provider":
        return {"op": "provide"}
    if op in ("export", "run"):
        form, shell = found.get("--format"), found.get("--shell")
        if form not in (None, *FORMS) or shell not in (None, "sh", "fish") or (form and shell):
            return None
        if op == "run" and not ("--no-mask" in found and found.get("command")):
            return None
        if (
            op == "run"
            and not found.keys() & {"--group", "--only", "--as"}
            and os.path.lexists(PROJECT_FILE)
        ):
            return None
        return {
            "op": "export",
            "for": op if op == "run" else None,
            "format": "null" if op == "run" else shell or form or "dotenv",
            "groups": found.get("--group", []),
            "only": [name for names in found.get("--only", []) for name in names.split(",")],
            "as": found.get("--as", []),
            "prefix": "--prefix" in found,
            "allow": found.get("--allow", []),
        }
    if key is None or ("--generate" not in found and os.isatty(0)):
        return None
    size = found.get("--generate")
    return {
        "op": op,
        "group": found["group"],
        "key": key,
        "note": found.get("--note"),
        "generate": size and int(size),
    }


def to_json(value: object) -> str:
    """JSON for the few types that a fast request is made of."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{to_json(name)}: {to_json(item)}" for name, item in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    text = str(value)
    if isinstance(value, int) or (
        text.isascii() and text.isprintable() and not set(text) & {'"', "\\"}
    ):
        return text if isinstance(value, int) else f'"{text}"'
    from _json import encode_basestring_ascii

    return encode_basestring_ascii(text)


def from_json(text: str, start: int) -> tuple[str, str]:
    """The JSON string whose text begins at `start`, and what follows it; most are of one line, and need no parser."""
    plain = text[start:-4]
    if text.endswith('\\n"}') and "\\" not in plain:
        return plain + "\n", ""
    from _json import scanstring

    found, end = scanstring(text, start)
    return found, text[end:]


def parse_error(answer: str) -> tuple[str, str, str | None] | None:
    """Code, message and hint of an answer that refuses; None for any other."""
    from _json import scanstring

    found: list[str | None] = []
    end = 0
    for before in ('{"ok": false, "error": {"code": ', ', "message": ', ', "hint": '):
        start = end + len(before)
        if answer[end:start] != before:
            return None
        if answer[start : start + 1] == '"':
            text, end = scanstring(answer, start + 1)
            found.append(text)
        else:
            found.append(None)
            end = start + len("null")
    code, message, hint = found
    return (code, message, hint) if code and message and answer[end:] == "}}" else None


def say_error(code: str, message: str, hint: str | None, want_json: bool) -> int:
    """Tell a person of an error, and on stdout whoever reads JSON; its exit code."""
    hint = call.complete(hint) if hint else None
    if want_json:
        parts = ",\n".join(
            f'    "{name}": {to_json(text)}'
            for name, text in (("code", code), ("message", message), ("hint", hint))
        )
        try:
            write_all(1, f'{{\n  "ok": false,\n  "error": {{\n{parts}\n  }}\n}}\n'.encode())
        except OSError:
            pass  # the exit code and stderr say it too
    told = f"avault: error: {message}\n" + (f"avault: hint: {hint}\n" if hint else "")
    write_all(2, told.encode("utf-8", "backslashreplace"))
    return EXIT_CODES.get(code, 1)


VAULT_COMMANDS = frozenset(  # first words of the commands that are about a vault
    """
    audit daemon delete doctor drill edit export forget get git has history import init inject keychain list lock log mcp migrate
    mv openclaw openclaw-provider pair recover restore run scan service set status sync unlock wait
    """.split()
)


class Call:
    """How avault was called: what a hint repeats, so that its commands are for the same vault.

    `directory` is --dir as it was given, `name` the command, `options` those that have a value.
    """

    # secrets, and what a hint says itself
    UNSAID = frozenset(("--bunker", "--dir", "--key", "--value"))

    def __init__(self) -> None:
        self.directory: str | None = None
        self.farewell = "stopped"  # what is said at Ctrl-C; nothing where that is the usual end
        self.name = ""
        self.options: dict[str, str] = {}

    def complete(self, hint: str) -> str:
        """A hint whose commands get the --dir, and for the same command as now the options, that were given."""
        done, *rest = hint.split("avault ")
        for piece in rest:
            is_word = done[-1:].isalnum() or done[-1:] in ("_", "-", ".", "/")
            done += "avault " + piece if is_word else self.amend(piece, is_fed=done.endswith("| "))
        return done

    def amend(self, piece: str, is_fed: bool) -> str:
        """What follows `avault` in a hint, up to the next one, with what belongs there; one that a pipe feeds has its options."""
        length = next((place for place, letter in enumerate(piece) if letter in ",;)"), len(piece))
        clause, rest = piece[:length], piece[length:]
        first = clause.split(" ")[0]
        if first not in VAULT_COMMANDS:
            return "avault " + piece
        after = clause.removeprefix(self.name)
        if (
            self.name
            and not is_fed
            and after != clause
            and not (after[:1].isalnum() or after[:1] == "-")
        ):
            given = [
                f" {name} {value}"
                for name, value in self.options.items()
                if f" {name}" not in clause
            ]
            clause = self.name + "".join(given) + after
        return ("avault " if " --dir" in clause else own_name(self.directory) + " ") + clause + rest


call = Call()


def is_same_user(connection: Any) -> bool:
    """Whether the peer of a Unix socket runs under our uid (SO_PEERCRED, LOCAL_PEERCRED)."""
    if sys.platform == "linux":
        peer = connection.getsockopt(1, 17, 12)  # SOL_SOCKET, SO_PEERCRED: pid, uid, gid
    else:
        # SOL_LOCAL, LOCAL_PEERCRED: struct xucred: version, uid
        peer = connection.getsockopt(0, 1, 76)
    return int.from_bytes(peer[4:8], sys.byteorder) == os.getuid()


def may_be_socket(path: str) -> bool:
    """Whether there is a socket at a path that we may not use, or nobody lets us see; what else refuses us is no daemon."""
    import stat

    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):  # a damaged record may have a NUL in it
        return False


class FastConnection:
    """A connection to the daemon made of built-in modules; raises OSError, PermissionError for somebody else's."""

    def __init__(self, places: Places) -> None:
        import _socket

        error = OSError(places.socket)
        for path in places.sockets():
            self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                self.socket.connect(path)
                if is_same_user(self.socket):
                    return
                error = PermissionError(path)
            except PermissionError:
                if may_be_socket(path):
                    error = PermissionError(path)
            except OSError:
                pass
            self.socket.close()
        raise error

    def send(self, text: str) -> None:
        """Send one frame: four bytes of length, big-endian, then the JSON."""
        data = text.encode()
        self.socket.sendall(len(data).to_bytes(4, "big") + data)

    def receive(self) -> str:
        """Read one frame; '' when the daemon went away."""
        data = bytearray()
        wanted = 4
        while len(data) < wanted:
            piece = self.socket.recv(wanted - len(data))
            if not piece:
                return ""
            data += piece
            if wanted == 4 == len(data):
                wanted += int.from_bytes(data, "big")
        return data[4:].decode()


def fast_value() -> str | None:
    """The value of `set` from stdin, less one trailing newline; None for one that cannot be kept, or is to be warned of."""
    value = read_stdin().removesuffix(b"\n")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if not {"\0", "\r"} & set(text) and 0 < len(value) <= MAX_VALUE else None


def fast_exchange(places: Places, request: dict[str, Any], value: str | None) -> str | None:
    """The daemon's answer; None if nothing came of it, '' if it is unknown whether the value was written."""
    answer: str | None = None
    try:
        connection = FastConnection(places)
    except OSError:
        return None
    try:
        connection.send(to_json({"v": 1, "vault": places.id, **request}))
        answer = connection.receive() or None
        if answer == '{"ok": true, "ready": true}':
            answer = ""
            connection.send(to_json({"value": fast_value() if value is None else value}))
            answer = connection.receive()
    except OSError:
        pass
    finally:
        connection.socket.close()
    return answer


def tell_of_replaced(directory: str, group: str, key: str) -> None:
    """Say that a key had another value, and where such a one would be kept."""
    write_all(2, f"avault: replaced {group}/{key}\n".encode())
    while not os.path.lexists(os.path.join(directory, ".git")):
        if directory == (directory := os.path.dirname(directory)):
            write_all(
                2,
                b"avault: hint: nothing keeps the value before; in a git repository each change is committed\n",
            )
            return


def places_of(command: str, environment: Mapping[bytes, bytes]) -> list[bytes]:
    """The paths where execvp(3) looks for a command: in the PATH that it is given, unless it is a path itself."""
    word = os.fsencode(command)
    if b"/" in word or not word:
        return [word] if word else []
    usual = os.fsencode(os.confstr("CS_PATH") or os.defpath)
    return [os.path.join(place, word) for place in environment.get(b"PATH", usual).split(b":")]


def execute(command: list[str], environment: Mapping[bytes, bytes]) -> int:
    """Execute a command in our place, as execvp(3) does; the errno of why it cannot be.

    A place that is not there, or may not be entered, is passed over; a script whose first line names no program is sh's.
    """
    import errno

    missing = (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ESTALE,
        errno.ENODEV,
        errno.ETIMEDOUT,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    )
    found = errno.ENOENT
    for place in places_of(command[0], environment):
        try:
            os.execve(place, command, environment)  # noqa: S606
        except OSError as error:
            number = error.errno or errno.ENOENT
        if number == errno.ENOEXEC and is_text(place):
            try:
                os.execve("/bin/sh", ["sh", os.fsdecode(place), *command[1:]], environment)  # noqa: S606
            except OSError as error:
                number = error.errno or number
        if number == errno.EACCES and os.path.lexists(place):
            found = number
        elif number in missing and os.path.isfile(place):
            return errno.ENOEXEC  # it is there: what its first line names is not
        elif number not in (*missing, errno.EACCES):
            return number
    return found


def is_text(path: bytes) -> bool:
    """Whether a file may be a script: its first line has no NUL."""
    try:
        with open(path, "rb") as file:
            return b"\0" not in file.read(256).partition(b"\n")[0]
    except OSError:
        return False


def become(command: list[str], variables: list[str]) -> int:
    """Execute a command with these variables, NAME=value, over those that are there; 126 or 127 if it cannot be."""
    import _signal  # type: ignore[import-not-found]  # as `signal` imports half of Python

    for pair in variables:
        name, _, value = pair.encode().partition(b"=")
        os.environb[name] = value
    # by Python; and what is ignored is inherited
    for ignored in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(ignored, _signal.SIG_DFL)
    number = execute(command, os.environb)
    missing = number == 2  # ENOENT
    write_all(
        2,
        f"avault: error: cannot run {command[0]!a}: {'no such command' if missing else os.strerror(number)}\n".encode(),
    )
    return 127 if missing else 126


def fast_door(argv: list[str]) -> int | None:
    """Run a daily command over the socket: its exit code, or None if it needs the long way."""
    found = parse_fast(argv)
    request = fast_request(found) if found else None
    if not found or not request:
        return None
    call.directory, call.name = found.get("--dir"), found["op"]
    # a provider's request is read when it is wanted
    needs_value = request["op"] == "set" and request["generate"] is None
    value = fast_value() if needs_value else None
    if needs_value and value is None:
        return None
    try:
        places = Places(found.get("--dir"))
    except NoPlace:
        return None
    answer = fast_exchange(places, request, value)
    # then systemd is asked, below
    has_unit = os.path.exists(places.unit(False)) or os.path.exists(places.unit(True))
    if (
        answer is None
        and request["op"] == "status"
        and not has_unit
        and os.path.exists(places.file("avault.enc"))
    ):
        answer = '{"ok": true, "output": "stopped\\n"}'
    if answer is None or (not answer and request["op"] == "provide"):
        return None
    if not answer:
        write_all(
            2, b"avault: error: the daemon went away; unknown whether the secret was written\n"
        )
        write_all(
            2,
            f"avault: hint: look with: {own_name(call.directory)} list\n".encode(
                "utf-8", "backslashreplace"
            ),
        )
        return 1
    if answer == '{"ok": true}':
        return 0
    if answer == '{"ok": true, "replaced": true}':
        tell_of_replaced(places.dir, request["group"], request["key"])
        return 0
    if answer[:13] == '{"ok": true, ':
        if request["op"] == "has":
            return 0 if answer == '{"ok": true, "has": true}' else 4
        if answer[13:24] == '"output": "':
            output, rest = from_json(answer, 24)
            if "command" in found:
                return become(found["command"], output.split("\0")[:-1])
            try:
                write_all(1, output.encode())
            except BrokenPipeError:
                return 141  # what a shell reports for SIGPIPE
            except OSError as error:
                write_all(2, f"avault: error: cannot write the output: {error.strerror}\n".encode())
                return 1
            if rest[:14] == ', "warning": "':
                write_all(2, f"avault: warning: {from_json(rest, 14)[0]}\n".encode())
            return STATES[output.rstrip()] if request["op"] == "status" else 0
    refused = parse_error(answer)
    if refused and request["op"] != "provide":  # that has its own way to say it
        return say_error(*refused, want_json="--json" in found)
    return None


def enter() -> None:
    """Answer a daily command and end, or return for anything else."""
    if os.name == "nt":
        sys.exit("avault: error: avault needs Unix sockets\navault: hint: run it in WSL")
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        # closed by who started us; a file of ours must not take its number
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))
    try:
        code = fast_door(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # no traceback: its text may carry what it was about
        write_all(2, f"avault: error: avault failed: {type(error).__name__}\n".encode())
        code = 1
    if code is not None:
        # nothing is buffered, and the interpreter's own farewell takes longer than the answer
        os._exit(code)


if __name__ == "__main__" or hasattr(sys.modules["__main__"], "AVAULT_COMMAND"):
    enter()  # here, before the rest of this file is executed; not in a program that imports it


# ---------------------------------------------------------------- errors ----
# One base class for what went wrong; exit codes and hints.


class AvaultError(Exception):
    """What went wrong, for a person: a message, and a hint that says what to type next.

    `code` is its name in the socket protocol, `exit_code` that of the command.
    """

    code = "error"
    exit_code = 1

    def __init_subclass__(cls) -> None:
        cls.exit_code = EXIT_CODES.get(cls.code, 1)

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_dict(self) -> dict[str, Any]:
        """The error object of the socket protocol and of `--json`."""
        return {
            "ok": False,
            "error": {"code": self.code, "message": self.message, "hint": self.hint},
        }

    @staticmethod
    def from_dict(answer: dict[str, Any]) -> AvaultError:
        """The error that an answer with `ok: false` describes."""
        error = answer.get("error") or {}
        kind = next((each for each in ERRORS if each.code == error.get("code")), AvaultError)
        return kind(
            str(error.get("message", "the daemon refused without a reason")), error.get("hint")
        )


class Usage(AvaultError):
    """Bad arguments."""

    code = "usage"


class Locked(AvaultError):
    """The vault is locked, waiting for the phone, or not paired."""

    code = "locked"


class NotFound(AvaultError):
    """No such group or key."""

    code = "not_found"


class Denied(AvaultError):
    """The operator or a rule said no."""

    code = "denied"


class Unavailable(AvaultError):
    """No daemon, no relay, no keychain."""

    code = "unavailable"


class TimedOut(AvaultError):
    """Nobody answered in time."""

    code = "timed_out"


class Tampered(AvaultError):
    """Ciphertext damaged, rolled back, or not this agent's."""

    code = "tampered"


ERRORS = (Usage, Locked, NotFound, Denied, Unavailable, TimedOut, Tampered)


def is_somewhere() -> bool:
    """Whether the current directory is there."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def complain(error: Exception) -> AvaultError:
    """`error` itself if it is ours; else one that says its type, and nothing that it may carry."""
    if isinstance(error, AvaultError):
        return error
    if isinstance(error, RecursionError):
        return Usage("nested too deep")
    if isinstance(error, NoPlace):
        return AvaultError(*error.args)
    if isinstance(error, FileNotFoundError) and not is_somewhere():
        return AvaultError("the current directory is gone", "go to one that is there, as with: cd")
    return AvaultError(
        f"avault failed: {type(error).__name__}",
        "this should not happen; please report what you did",
    )


def printable(text: object, limit: int = 200) -> str:
    """`text` from elsewhere, cut and escaped, so that it cannot drive a terminal."""
    shown = str(text)
    shown = shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in shown
    )


# -------------------------------------------------------------- protocol ----
# The socket protocol: its requests, and its frames.
#
# Four bytes of length, big-endian, then JSON. references/protocol.md lists every field.


# answered by the supervisor
DOOR = {"status", "unlock", "lock", "limit", "wait", "stop", "keychain", "record"}
SESSIONS = {"init", "open", "pair", "drill", "recover"}  # answered by the keyholder, locked or not
VALUES = {  # answered by the keyholder while it is unlocked
    "get", "has", "list", "export", "reveal", "provide", "set", "delete", "move", "import",
    "inspect", "merge", "restore", "verify_log", "verify",
}  # fmt: skip
FIRST_FRAME = 1 << 16  # bytes; the first frame of a connection never carries a value
FIRST_FRAME_TIME = 10.0  # seconds that a client has for it


def encode_frame(message: dict[str, Any]) -> bytes:
    """One frame."""
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data


def decode_frame(data: bytes | bytearray) -> dict[str, Any]:
    """The message in a frame's JSON; raises Usage."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Usage("not a JSON object")
    return message


def read_limit(request: dict[str, Any], field: str = "timeout") -> float | None:
    """The `timeout` of a request, or another limit, in seconds; None for none."""
    limit = request.get(field)
    # NaN is not above 0
    return float(min(max(0.0, limit), 1e9)) if isinstance(limit, (int, float)) else None


class Frames:
    """Cuts a stream of bytes into frames; raises Usage for one that is too long."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.buffer = bytearray()
        self.limit = limit

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        self.buffer += data

    def next(self) -> bytes | None:
        """The JSON of the next whole frame; None until it is there."""
        if len(self.buffer) < 4:
            return None
        size = int.from_bytes(self.buffer[:4], "big")
        if size > self.limit:
            raise Usage(f"a frame of {size:,} bytes; the limit is {self.limit:,}")
        if len(self.buffer) < 4 + size:
            return None
        frame = bytes(self.buffer[4 : 4 + size])
        del self.buffer[: 4 + size]
        return frame


# --------------------------------------------------------------- systemd ----
# What systemd says of the service that avault installs.
#
# Asked where no daemon listens: whether systemd is about to start it, and how it is started.


OTHER_WAYS = "launchd, OpenRC, cron and the like: references/service.md"


class NoManager(Unavailable):
    """systemd, or the manager of this user, is not running."""


class NoDaemon(Unavailable):
    """Nobody listens.

    `command` is what helps, `reason` what systemd knows of it, and `state` that of the status: stopped, or starting by itself.
    """

    def __init__(
        self,
        places: Places,
        command: str = "avault daemon start -b",
        how: str = "start it with",
        reason: str = "",
    ) -> None:
        super().__init__(
            f"no daemon is running for {places.dir}" + (f": {reason}" if reason else ""),
            f"{how}: {command}",
        )
        self.command, self.reason, self.state = command, reason, "stopped"


class Unit:
    """A vault's unit of systemd: its `name` and `path`, in the user's manager or in the system's."""

    def __init__(self, places: Places, system: bool) -> None:
        self.system = system
        self.path = places.unit(system)
        self.directory, self.name = os.path.split(self.path)
        self.systemctl = "systemctl" if system else "systemctl --user"

    def command(self, verb: str) -> str:
        """What a person types to have systemd do this with the unit."""
        return f"{'sudo ' if self.system and os.getuid() != 0 else ''}{self.systemctl} {verb} {self.name}"

    def ask(self, *words: str) -> str:
        """What systemctl(1) prints; raises NoManager, and AvaultError with what it complains about."""
        environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
        if not self.system:
            environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        try:
            done = subprocess.run(
                [*self.systemctl.split(), "--no-ask-password", *words],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                timeout=120,
            )
        except OSError:
            raise NoManager("there is no systemd here", OTHER_WAYS) from None
        except subprocess.TimeoutExpired:
            raise AvaultError(
                f"systemd does not answer: {self.systemctl} {' '.join(words)}"
            ) from None
        if done.returncode and (
            "Failed to connect to" in done.stderr or "not been booted with systemd" in done.stderr
        ):
            hint = (
                OTHER_WAYS
                if self.system
                else "log in (ssh, not su), or: sudo loginctl enable-linger"
            )
            raise NoManager(
                "systemd does not answer" if self.system else "this user's systemd does not answer",
                hint,
            )
        if done.returncode:
            complaint = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            look = f"journalctl {'' if self.system else '--user '}-u {self.name}"
            raise AvaultError(
                f"systemctl {words[0]} failed: {printable(complaint[0])}", f"see why: {look}"
            )
        return done.stdout

    def show(self) -> dict[str, str]:
        """Its ActiveState, SubState, Result and MainPID; raises NoManager and AvaultError."""
        lines = self.ask(
            "show", "--property=ActiveState,SubState,Result,MainPID", self.name
        ).splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}


def is_booted() -> bool:
    """Whether systemd is this machine's init (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def find_unit(places: Places) -> tuple[Unit, dict[str, str]] | None:
    """The installed unit of a vault, and what its manager says of it; None where there is none, or nobody to say it."""
    unit = next(
        (unit for unit in (Unit(places, False), Unit(places, True)) if os.path.lexists(unit.path)),
        None,
    )
    if not unit or not is_booted():
        return None
    try:
        return unit, unit.show()
    except AvaultError:
        return None


def explain_absence(places: Places) -> NoDaemon:
    """Why no daemon listens, and what starts one: systemd where it has a service of this vault, so that two do not compete."""
    found = find_unit(places)
    if not found:
        return NoDaemon(places)
    unit, shown = found
    active, result = shown.get("ActiveState"), shown.get("Result")
    if active == "activating":
        is_pausing = shown.get("SubState", "").startswith("auto-restart")
        absence = (
            NoDaemon(
                places,
                unit.command("restart"),
                "at once with",
                f"it ended ({result}), and systemd starts it again after a pause",
            )
            if is_pausing
            else NoDaemon(places, "avault status", "look again", "systemd is just starting it")
        )
        absence.state = "starting"
        return absence
    if active == "failed":
        anew = f"{unit.command('reset-failed')} && {unit.command('start')}"
        return NoDaemon(places, anew, reason=f"its service has failed ({result})")
    if active == "active":
        return NoDaemon(
            places,
            unit.command("restart"),
            "start it anew with",
            "its service is active, and listens elsewhere",
        )
    return NoDaemon(places, unit.command("start"))


def hasten_service(places: Places) -> bool:
    """Have systemd start now what it would start again after a pause, and return when that listens; whether there is such.

    A daemon that we started ourselves meanwhile would have the vault's lock, but neither the service's settings nor anybody
    who starts it again. Raises NoDaemon where systemd does not start it for us.
    """
    found = find_unit(places)
    if not found or not found[1].get("SubState", "").startswith("auto-restart"):
        return False
    try:
        found[0].ask("restart", found[0].name)  # a `start` would wait for the end of the pause, too
    except AvaultError:
        raise explain_absence(places) from None
    return True


# ---------------------------------------------------------------- client ----
# A client's connection to the daemon.


class Connection:
    """A client's connection to the daemon.

    `Connection(places).request("get", group="openai", key="API_KEY")` gives the
    answer as a dict. Raises Unavailable where no daemon listens, and the
    AvaultError that the daemon answers with.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        try:
            self.fast = FastConnection(places)
        except PermissionError as error:
            raise Unavailable(
                f"the daemon at {error} is another user's, and answers nobody else",
                "as that user: avault status",
            ) from None
        except OSError:
            raise NoDaemon(places) from None

    def request(
        self,
        op: str,
        value: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Send a request and give its answer.

        `value` is what the second frame carries, after the daemon said that it
        is ready; or a function that is given each such word, for conversations
        with more of them. `progress` is called for what comes before the answer.
        """
        sent_value = False
        try:
            self.fast.send(json.dumps({"v": 1, "vault": self.places.id, "op": op, **fields}))
            while text := self.fast.receive():
                answer = decode_frame(text.encode())
                if answer.get("ready"):
                    sent_value = True
                    reply = value(answer) if callable(value) else value or {}
                    try:
                        self.fast.send(json.dumps(reply))
                    except OSError:
                        pass  # it has ended meanwhile; what it said before that can still be read
                elif "progress" in answer:
                    if progress:
                        progress(answer)
                elif answer.get("ok"):
                    if op == "stop":
                        self.fast.receive()  # '' when it has ended
                    return answer
                else:
                    raise AvaultError.from_dict(answer)
        except OSError:
            pass
        except KeyboardInterrupt:
            try:
                self.fast.send("{}")  # who gives up says so; who is killed cannot
            except OSError:
                pass
            raise
        if (sent_value and op not in SESSIONS) or op in ("delete", "move", "restore"):
            raise AvaultError(
                "the daemon went away; unknown whether it was written", "look with: avault list"
            )
        raise Interrupted("the daemon went away before it answered", "see: avault status")

    def close(self) -> None:
        """End the connection."""
        self.fast.socket.close()


class Interrupted(Unavailable):
    """The connection ended without an answer."""


def ask_daemon(places: Places, op: str, **fields: Any) -> dict[str, Any]:
    """One request on a connection of its own; tried once more if the daemon goes away before it answers."""
    for attempt in (1, 2):
        connection = Connection(places)
        try:
            return connection.request(op, **fields)
        except Interrupted:
            if attempt == 2 or op in SESSIONS - {"open"}:
                raise
        finally:
            connection.close()
    raise AssertionError("unreachable")


def get(group: str, key: str) -> str:
    """The value of a key of the usual vault, for programs: `avault.get("openai", "API_KEY")`.

    Raises NotFound, Locked, Unavailable, as everything here an AvaultError.
    """
    return str(ask_daemon(Places(), "get", group=group, key=key)["value"])


def env(group: str) -> dict[str, str]:
    """The keys of a group with their values: `subprocess.run(…, env=os.environ | avault.env("openai"))`."""
    return dict(ask_daemon(Places(), "get", group=group)["values"])


# ------------------------------------------------------------------ late ----
# What is made when it is first used: patterns, dataclasses, contexts, properties.
#
# What makes them (re, dataclasses, contextlib, functools) takes longer to import than a `get`
# takes, and so do a hundred patterns to compile.


class LatePattern:
    """A regular expression that is compiled when it is first used."""

    def __init__(self, text: str | bytes) -> None:
        self.text = text

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(self.text), name)
        setattr(self, name, found)
        return found


def regex(text: AnyStr) -> re.Pattern[AnyStr]:
    """What `re.compile(text)` gives, later; flags stand in the text, as (?s)."""
    return LatePattern(text)  # type: ignore[return-value]


def context(
    function: Callable[P, Iterator[T]],
) -> Callable[P, AbstractContextManager[T]]:
    """What `contextlib.contextmanager` makes of a function, later."""

    def enter(*words: P.args, **named: P.kwargs) -> AbstractContextManager[T]:
        return contextlib.contextmanager(function)(*words, **named)

    return enter


class OnceProperty:
    """A property that is worked out when it is first read."""

    def __init__(self, work: Callable[[Any], object]) -> None:
        self.work = work

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> object:
        found = vars(instance)[self.name] = self.work(instance)
        return found


def once(work: Callable[[Any], T]) -> T:
    """What `functools.cached_property` makes of a method."""
    return OnceProperty(work)  # type: ignore[return-value]


class LateField:
    """What is said of an attribute, for `dataclasses.field`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings


def field(**settings: Any) -> Any:
    """An attribute of a class of Fields, as `dataclasses.field` takes it."""
    return LateField(settings)


if not TYPE_CHECKING:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """As typing has it, without importing typing."""
        return lambda made: made


@dataclass_transform(field_specifiers=(field,))
class Fields:
    """A class that is made a dataclass when its first instance is made; with the same settings."""

    _settings: dict[str, bool]

    def __init_subclass__(cls, **settings: bool) -> None:
        cls._settings = settings

    def __init__(self, *values: Any, **named: Any) -> None:
        own = type(self)
        for name, value in list(vars(own).items()):
            if isinstance(value, LateField):
                setattr(own, name, dataclasses.field(**value.settings))
        dataclasses.dataclass(**own._settings)(own)
        own.__init__(self, *values, **named)


# ----------------------------------------------------------------- tasks ----
# Work that runs beside other work, in an event loop.


def spawn(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    """Run something beside; while it runs it is in `tasks`, as the event loop does not hold it."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


# --------------------------------------------------------- vault/records ----
# The vault as data: groups, keys and their names; merging two copies.


LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
DIGITS = frozenset("0123456789")
GROUP_CHARACTERS = LETTERS | DIGITS | set("._-")
KEY_CHARACTERS = LETTERS | DIGITS | {"_"}


def check_group(name: object) -> str:
    """`name` if it is a group name, [A-Za-z0-9][A-Za-z0-9._-]{0,63}; raises Usage."""
    if (
        isinstance(name, str)
        and 0 < len(name) <= 64
        and name[0] in LETTERS | DIGITS
        and set(name) <= GROUP_CHARACTERS
    ):
        return name
    hint = "a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -, as in: avault set openai --key API_KEY"
    raise Usage(f"not a group name: {printable(str(name).partition('=')[0])!r}", hint)


def check_key(name: object) -> str:
    """`name` if it is a key name, [A-Za-z_][A-Za-z0-9_]{0,127}; raises Usage."""
    if (
        isinstance(name, str)
        and 0 < len(name) <= 128
        and name[0] not in DIGITS
        and set(name) <= KEY_CHARACTERS
    ):
        return name
    hint = "a letter or _, then up to 127 of A-Z a-z 0-9 _, as in: avault set openai --key API_KEY"
    raise Usage(f"not a key name: {printable(str(name).partition('=')[0])!r}", hint)


def check_value(value: object) -> str:
    """`value` if it can be kept: UTF-8, not empty, no NUL, at most 256 KiB; raises Usage."""
    if not isinstance(value, str) or not value:
        raise Usage("the value is empty", "to take a key away: avault delete GROUP --key KEY")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        size = 0
    if not size or "\0" in value:
        raise Usage(
            "the value is binary", "keep it as text: base64 -w0 FILE | avault set GROUP --key KEY"
        )
    if size > MAX_VALUE:
        raise Usage(
            f"the value has {size:,} bytes; the limit is {MAX_VALUE:,}",
            "keep big files elsewhere, sealed with a key in it",
        )
    return value


def check_note(note: object) -> str | None:
    """`note` if it can be a group's note, or None for none; raises Usage."""
    if note is None or (isinstance(note, str) and len(note) <= 1000 and note.isprintable()):
        return note
    raise Usage("a note is one line of at most 1,000 printable characters")


class Secret:
    """One value of a key: the value, when it was made and changed (Unix seconds), and its dot.

    The dot is the machine that wrote it and the count of that machine's writes:
    with the vault's generation it tells, without clocks, whether another copy
    of the vault knew this value and changed it, or never saw it.
    """

    __slots__ = ("count", "created", "machine", "updated", "value")

    def __init__(self, value: str, created: int, updated: int, machine: str, count: int) -> None:
        self.value, self.created, self.updated, self.machine, self.count = (
            value,
            created,
            updated,
            machine,
            count,
        )

    def to_list(self) -> list[Any]:
        """The secret as it stands in the vault's JSON."""
        return [self.value, self.created, self.updated, self.machine, self.count]


class Group:
    """A group: its keys, each with the secret that is served first and those in conflict with it, and a note."""

    __slots__ = ("keys", "note")

    def __init__(
        self, keys: dict[str, list[Secret]], note: tuple[str, str, int] = ("", "", 0)
    ) -> None:
        self.keys = keys
        self.note = note  # text, machine, count


class Vault:
    """All secrets, and what binds them to one vault, one agent and one operator.

    `generation` maps a machine id to the number of its writes; `sources` are
    the SHA-256 hashes of the ciphertexts that this one was made from.
    """

    def __init__(self, identity: str, agent: str, operator: str, name: str) -> None:
        self.identity, self.agent, self.operator, self.name = identity, agent, operator, name
        self.generation: dict[str, int] = {}
        self.sources: list[str] = []
        self.groups: dict[str, Group] = {}

    def copy(self) -> Vault:
        """A copy that can be changed without changing this one."""
        twin = Vault(self.identity, self.agent, self.operator, self.name)
        twin.generation, twin.sources = dict(self.generation), list(self.sources)
        twin.groups = {
            name: Group(dict(group.keys), group.note) for name, group in self.groups.items()
        }
        return twin

    def count(self) -> int:
        """How many keys there are."""
        return sum(len(group.keys) for group in self.groups.values())

    def group(self, name: object) -> Group:
        """The group of that name; raises NotFound."""
        try:
            return self.groups[check_group(name)]
        except KeyError:
            raise NotFound(f"no group {name}", "see what there is: avault list") from None

    def secrets(self, group: object, key: object) -> list[Secret]:
        """The secret of a key, and those in conflict with it; raises NotFound."""
        try:
            return self.group(group).keys[check_key(key)]
        except KeyError:
            raise NotFound(
                f"no key {key} in group {group}", "see what there is: avault list"
            ) from None

    def put(self, group: str, key: str, value: str, now: int, machine: str) -> None:
        """Set a key; it belongs to the machine's write after this generation."""
        keys = self.groups.setdefault(check_group(group), Group({})).keys
        created = keys[key][0].created if check_key(key) in keys else now
        keys[key] = [
            Secret(check_value(value), created, now, machine, self.generation.get(machine, 0) + 1)
        ]

    def annotate(self, group: str, note: str, machine: str) -> None:
        """Set the note of a group that exists."""
        self.group(group).note = (note, machine, self.generation.get(machine, 0) + 1)

    def move(self, old: tuple[str, str], new: tuple[str, str], now: int, machine: str) -> None:
        """Give a key another name, in its group or in another one; raises NotFound, Denied."""
        found = self.secrets(*old)
        if len(found) > 1:
            raise Denied(
                f"{'/'.join(old)} was set by two machines",
                f"settle it first: avault set {'/'.join(old)}",
            )
        if new[0] in self.groups and new[1] in self.groups[new[0]].keys:
            raise Denied(
                f"there is a {'/'.join(new)} already",
                f"take it away first: avault delete {'/'.join(new)}",
            )
        self.put(*new, found[0].value, now, machine)
        self.groups[new[0]].keys[new[1]][0].created = found[0].created
        self.remove(*old)

    def remove(self, group: str, key: str | None) -> None:
        """Delete a key, or a whole group; a group without keys is gone."""
        if key is not None:
            self.secrets(group, key)
            del self.groups[group].keys[key]
        if key is None or not self.groups[group].keys:
            self.group(group)
            del self.groups[group]

    def is_after(self, other: dict[str, int]) -> bool:
        """Whether this generation has everything that another has: no machine's count is lower."""
        return all(self.generation.get(machine, 0) >= count for machine, count in other.items())

    def knows(self, machine: str, count: int) -> bool:
        """Whether a write was seen by this copy of the vault."""
        return self.generation.get(machine, 0) >= count

    def merge(self, other: Vault) -> Vault:
        """Both machines' work: by key, without clocks, with what collides kept side by side.

        A secret stays if both have it, or if one has it and the other never
        saw it. If the other saw it and has it no more, it was changed or deleted there.
        """
        merged = self.copy()
        merged.generation = maximum(self.generation, other.generation)
        merged.groups = {}
        for name in sorted({*self.groups, *other.groups}):
            ours, theirs = self.groups.get(name, Group({})), other.groups.get(name, Group({}))
            keys = {}
            for key in sorted({*ours.keys, *theirs.keys}):
                kept = merge_secrets(self, ours.keys.get(key, []), other, theirs.keys.get(key, []))
                if kept:
                    keys[key] = kept
            if keys:
                merged.groups[name] = Group(keys, merge_notes(self, ours.note, other, theirs.note))
        return merged

    def to_json(self) -> str:
        """The body of the vault's plaintext; ASCII, one encoding for one content."""
        groups = {
            name: {
                "note": list(group.note),
                "keys": {
                    key: [secret.to_list() for secret in group.keys[key]]
                    for key in sorted(group.keys)
                },
            }
            for name, group in sorted(self.groups.items())
        }
        body = {"agent": self.agent, "operator": self.operator, "name": self.name, "groups": groups}
        return json.dumps(body, separators=(",", ":"))

    def load_json(self, body: str) -> None:
        """Fill this vault from `to_json`'s text; raises ValueError, TypeError or KeyError for anything else."""
        content = json.loads(body)
        self.agent, self.operator, self.name = (
            content["agent"],
            content["operator"],
            content["name"],
        )
        for name, group in content["groups"].items():
            keys = {key: [Secret(*each) for each in found] for key, found in group["keys"].items()}
            text, machine, count = group["note"]
            self.groups[name] = Group(keys, (text, machine, count))


def maximum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """The higher count of each machine."""
    return {
        machine: max(one.get(machine, 0), other.get(machine, 0))
        for machine in sorted({*one, *other})
    }


def merge_notes(
    ours: Vault, one: tuple[str, str, int], theirs: Vault, other: tuple[str, str, int]
) -> tuple[str, str, int]:
    """The note of one group that is left of two copies of the vault: the later, or none where it was taken away."""
    kept = [note for note, copy in ((one, theirs), (other, ours)) if not copy.knows(*note[1:])]
    if not kept:
        return one if one == other else ("", "", 0)
    return max(kept, key=lambda note: note[1:])


def merge_secrets(
    ours: Vault, one: list[Secret], theirs: Vault, other: list[Secret]
) -> list[Secret]:
    """The secrets of one key that are left of two copies of the vault, the latest first."""
    dots = (
        {(secret.machine, secret.count) for secret in one},
        {(secret.machine, secret.count) for secret in other},
    )
    kept = {
        dot: secret
        for secret in one
        if (dot := (secret.machine, secret.count)) in dots[1] or not theirs.knows(*dot)
    }
    kept |= {
        dot: secret
        for secret in other
        if (dot := (secret.machine, secret.count)) in dots[0] or not ours.knows(*dot)
    }
    return sorted(kept.values(), key=lambda secret: (-secret.updated, secret.machine, secret.count))


# ----------------------------------------------------------- vault/files ----
# Files as people and disks need them: atomic, durable, checked.
#
# Written whole or not at all, of one valid encoding, refused when they are not. Nothing here opens
# anything.


def parse_npub(text: str) -> str:
    """The hex public key of an npub (NIP-19) or of hex; raises Usage."""
    try:
        return str(nostr_sdk.PublicKey.parse(text.strip()).to_hex())
    except nostr_sdk.NostrSdkError:
        hint = (
            "that is a secret key; it does not belong here"
            if text.strip().startswith("nsec1")
            else "an npub1…"
        )
        raise Usage("not a Nostr public key", hint) from None


def to_npub(public: str) -> str:
    """A hex public key as an npub (NIP-19)."""
    return str(nostr_sdk.PublicKey.parse(public).to_bech32())


VAULT_LIMIT = 64 << 20  # bytes of avault.enc that we are willing to read
REPAIRS = {
    "unlock": "avault unlock, and the phone is asked for nsec.enc", "pairing": "avault pair", "pin": "git pull, avault unlock",
}  # fmt: skip
SEALED = {"vault": str, "name": str, "agent": str, "operator": str, "envelope": str, "sealed": str}
FIELDS: dict[str, dict[str, Any]] = {  # of each kind of file, with their types
    "nsec": SEALED,
    "unlock": {**SEALED, "proven": (str, type(None)), "quick": int},
    "pairing": {
        "client_key": str, "signer": str, "agent": str, "operator": str, "relays": list,
        "approves_by_itself": (bool, type(None)),
    },
    "hints": {"agent_npub": str, "signer_npub": str, "relay": str, "relays": list, "name": str},
    "pin": {"generation": dict, "hash": str},
    "keychain": {"vault": str, "name": str, "agent": str, "operator": str, "sealed": str},
    "machine": {"id": str, "host": str},
    "offered": {"count": int},
    "log": {"ledgers": dict, "mac": str},
    "recovery": {"hash": str},
    "pauses": {"in_vain": int, "refused": bool, "last": int},
}  # fmt: skip


def encode_file(kind: str, content: dict[str, Any]) -> bytes:
    """A JSON file of ours: its type and version first, a SHA-256 over all of it last."""
    body = {"type": f"avault/{kind}", "version": 1, **content}
    return (
        json.dumps({**body, "checksum": sha256(json.dumps(body).encode()).hex()}, indent=2) + "\n"
    ).encode()


def is_of_type(value: object, wanted: type | tuple[type, ...]) -> bool:
    """Whether a value is of a type, or of one of them; to Python a bool is an int too, here it is not."""
    return type(value) in (wanted if isinstance(wanted, tuple) else (wanted,))


def decode_file(kind: str, data: bytes, path: str) -> dict[str, Any]:
    """The content of a file made by `encode_file`, each field of its type; raises Tampered."""
    fields = FIELDS[kind]
    try:
        content = json.loads(data)
        if content["type"] == f"avault/{kind}" and content["version"] == 1:
            del content["type"], content["version"], content["checksum"]
            right = content.keys() == fields.keys() and all(
                is_of_type(content[name], fields[name]) for name in fields
            )
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


def read_file(path: str, limit: int = 1 << 20, only_regular: bool = True) -> bytes:
    """The bytes of a file; raises NotFound, Tampered or AvaultError.

    One that is not regular is refused, unless a person named it: a FIFO in the
    vault's place would hold us for ever.
    """
    try:
        with open(
            path,
            "rb",
            opener=lambda name, flags: os.open(
                name, flags | (os.O_NONBLOCK if only_regular else 0)
            ),
        ) as file:
            if only_regular and os.fstat(file.fileno()).st_mode & 0o170000 != 0o100000:
                raise Tampered(f"{path} is not a regular file")
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except OSError as error:
        raise AvaultError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > limit:
        raise (Tampered if only_regular else Usage)(
            f"{path} is too large; the limit is {limit:,} bytes"
        )
    return data


def refuse_foreign(path: str) -> None:
    """Raise Tampered where a path names what is no regular file of ours: a link, a directory, a FIFO, somebody else's file.

    Who can push to the repository chooses what lies in the vault's directory, and where its links lead.
    """
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if info.st_mode & 0o170000 != 0o100000 or info.st_uid != os.getuid() != 0:
        raise Tampered(
            f"{path} is not a regular file of ours", "look at what it is, and move it away"
        )


class FileChanged(AvaultError):
    """A file is not the one that it was to replace."""


def exchange(one: str, other: str) -> bool:
    """Exchange two files in one step, where system and file system can: renameat2(2), renamex_np(2)."""
    import ctypes

    libc, names = ctypes.CDLL(None), [os.fsencode(one), os.fsencode(other)]
    if hasattr(libc, "renameat2"):
        return not libc.renameat2(-100, names[0], -100, names[1], 2)  # AT_FDCWD, RENAME_EXCHANGE
    return hasattr(libc, "renamex_np") and not libc.renamex_np(*names, 2)  # RENAME_SWAP


def take_place(new: str, path: str, over: str) -> None:
    """Rename a file over the one whose SHA-256 is `over`, "" for none; raises FileChanged where it is another, and OSError.

    Git takes no lock of ours, and may come at any moment: what is exchanged is looked at afterwards.
    """
    changed = FileChanged(f"{path} was changed by another process meanwhile", "try again")

    def is_at(place: str) -> bool:
        return (
            sha256(read_file(place, VAULT_LIMIT)).hex() if os.path.lexists(place) else ""
        ) == over

    if not (is_at(path) and exchange(new, path)):
        if not is_at(path):  # git removes a file and makes it anew
            raise changed
        os.rename(new, path)
        return
    try:
        # some file systems rename when they are asked to exchange
        if os.path.lexists(new) and not is_at(new):
            raise changed
    except BaseException:
        exchange(new, path)
        raise


def has_bytes(path: str, data: bytes) -> bool:
    """Whether a file is there, and holds exactly these bytes."""
    try:
        return read_file(path) == data
    except AvaultError:
        return False


def write_file(
    path: str, data: bytes, check: Callable[[bytes], None] | None = None, over: str | None = None
) -> None:
    """Replace a file by a whole, durable, checked new one, or leave it as it was.

    A temporary file beside it (0600) is written, synced, read back and given to
    `check`, then renamed; then the directory is synced. Where `over` is given,
    it replaces only what has that SHA-256 ("" for none), or raises FileChanged.
    Raises Tampered where there is no regular file of ours, AvaultError when the
    disk refuses, and whatever `check` raises.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        refuse_foreign(path)
        fd = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with open(fd, "r+b", buffering=0) as file:
            write_all(fd, data)
            os.fsync(fd)
            file.seek(0)
            written = file.read()
        if written != data:
            raise AvaultError(
                f"the disk did not keep what was written to {path}", "the file is as it was before"
            )
        if check:
            check(written)
        if over is None:
            os.rename(temporary, path)
        else:
            take_place(temporary, path, over)
    except OSError as error:
        raise AvaultError(
            f"cannot write {path}: {error.strerror}", "the file is as it was before"
        ) from None
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # renamed, or never made; what a dead disk keeps is cleaned at the next start
    try:
        sync_directory(directory)
    except OSError as error:
        raise AvaultError(
            f"{path} is written, but perhaps not for good: {error.strerror}", "look at the disk"
        ) from None


def sync_directory(path: str) -> None:
    """Make renames in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def owner_of(path: str) -> str:
    """The name of the user whose file it is, or the number; raises OSError."""
    import pwd

    uid = os.stat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def make_private_directory(path: str) -> None:
    """Make a directory and its parents, or make one private (0700) that is there; raises AvaultError."""
    mask = os.umask(0o077)  # for the parents too
    try:
        os.makedirs(path, exist_ok=True)
        if os.stat(path).st_uid != os.getuid():
            import shlex

            owner, other = owner_of(path), "or choose another place with --dir or XDG_STATE_HOME"
            made_under_sudo = f'was it made under sudo? Take it back: sudo chown -R "$USER" {shlex.quote(path)}; {other}'
            raise AvaultError(
                f"{path} belongs to {owner}",
                made_under_sudo if owner == "root" else f"do it as {owner}, {other}",
            )
        os.chmod(path, 0o700)
    except OSError as error:
        own = path == state_home() or path.startswith(state_home() + "/")
        hint = (
            "name a place that can be written: XDG_STATE_HOME=DIR"
            if own
            else "is it a directory, and ours?"
        )
        raise AvaultError(f"cannot make the directory {path}: {error.strerror}", hint) from None
    finally:
        os.umask(mask)


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


NAME_CHARACTERS = LETTERS | DIGITS | set(" ._@-")  # survive every signer's reading of a URI


def check_name(name: str) -> str:
    """`name` if a signer can show it as a connection's name; raises Usage."""
    if 0 < len(name) <= 64 and set(name) <= NAME_CHARACTERS and name == name.strip():
        return name
    raise Usage(
        f"not a name for a vault: {printable(name)!r}",
        "up to 64 letters, digits, spaces and . _ @ -, as in: --name clawd@db1",
    )


def clean_directory(path: str) -> None:
    """Remove the temporary files that a killed write left behind. Only for the holder of the lock."""
    for name in os.listdir(path):
        stem, _, middle = name.removesuffix(".tmp").rpartition(".")
        ours = (
            stem in {f".{each}" for each in OUR_FILES}
            and name.endswith(".tmp")
            and len(middle) == 16
        )
        if ours and not os.path.isdir(os.path.join(path, name)):
            os.unlink(os.path.join(path, name))


OUR_FILES = (
    "avault.enc", "nsec.enc", "nip46.json", ".gitattributes",
    "unlock.json", "pairing.json", "pairing-unproven.json", "pin.json", "machine.json", "offered.json", "keychain.json",
    "recovery.json", "log.json", "pauses.json",
    "socket", "python", "unsaved.enc", "damaged.enc",
)  # fmt: skip


GITATTRIBUTES = b"""# avault: ciphertext is neither converted nor merged line by line
avault.enc -text -merge
nsec.enc -text -merge
nip46.json -text -merge
"""


def complete_attributes(path: str) -> bytes:
    """What is to be in the .gitattributes at `path`: what is there, then those of our lines that are not; raises AvaultError."""
    refuse_foreign(path)
    text = read_file(path) if os.path.lexists(path) else b""
    missing = [line for line in GITATTRIBUTES.splitlines() if line not in text.splitlines()]
    end = b"" if not text or text.endswith(b"\n") else b"\n"
    return text + end + b"".join(line + b"\n" for line in missing)


# --------------------------------------------------------- vault/formats ----
# What the keyholder renders: shell, dotenv, systemd, JSON and others.
#
# Every form is exact: it gives the same bytes back when it is read by the program that it is meant
# for.


# mean themselves in every shell, quoted, split or globbed
PLAIN = LETTERS | DIGITS | set("_./:@%+=,-")
# stay what they are in single quotes that are split, globbed and read again
QUOTABLE = PLAIN | set(' $&;>"`{}!')
# Variables that change what a program runs, which code it loads, whom it trusts or where it connects: by name where
# one has no class, else by the class that its name shows. A credential is none, whatever stands before it.
DANGEROUS = frozenset(
    """
    PATH IFS ENV HOME SHELL SHELLOPTS BASHOPTS PS1 PS4 PROMPT PROMPT_COMMAND CDPATH GLOBIGNORE FPATH ZDOTDIR MODULE_PATH
    INPUTRC MAILPATH EDITOR VISUAL PAGER MANPAGER BROWSER VIMINIT EXINIT VIM VIMRUNTIME FCEDIT HISTFILE
    LESS LESSOPEN LESSCLOSE LESSKEY LESSKEYIN LESSKEY_SYSTEM LESSEDIT MORE MANOPT MANROFFOPT MANPATH EMACSLOADPATH EMACSDATA
    NODE_OPTIONS NODE_PATH NODE_EXTRA_CA_CERTS NODE_ICU_DATA NODE_V8_COVERAGE CLASSPATH PHPRC PHP_INI_SCAN_DIR RHOME
    OCAMLRUNPARAM TCLLIBPATH TCL_LIBRARY IPYTHONDIR MPLCONFIGDIR MPLBACKEND BUNDLE_GEMFILE BUNDLE_PATH BUNDLE_APP_CONFIG
    GO111MODULE GOARCH GOAUTH GOBIN GOCACHE GOCOVERDIR GODEBUG GOENV GOEXE GOEXPERIMENT GOINSECURE GOMODCACHE GONOPROXY
    GONOSUMCHECK GONOSUMDB GOOS GOPATH GOPRIVATE GOPROXY GOROOT GOSUMDB GOTMPDIR GOTOOLCHAIN GOTOOLDIR GOVCS GOWORK GCCGO
    CC CXX CPP FC AR AS LD NM M4 M4PATH MAKEFLAGS MFLAGS CFLAGS CPPFLAGS CXXFLAGS FFLAGS FCFLAGS ASFLAGS ARFLAGS LDFLAGS RUSTFLAGS
    GOFLAGS MAKEFILES COMPILER_PATH LIBRARY_PATH CPATH ACLOCAL_PATH CONFIG_SITE
    GI_TYPELIB_PATH GCONV_PATH LOCPATH NLSPATH TERMINFO TERMINFO_DIRS TERMCAP TZDIR HOSTALIASES RESOLV_HOST_CONF LOCALDOMAIN
    VK_ICD_FILENAMES VK_DRIVER_FILES VK_LAYER_PATH VK_ADD_LAYER_PATH VK_INSTANCE_LAYERS VDPAU_DRIVER_PATH LADSPA_PATH
    GDAL_DRIVER_PATH PROJ_LIB GS_LIB TEXINPUTS DISPLAY WAYLAND_DISPLAY XAUTHORITY ICEAUTHORITY
    SSLKEYLOGFILE SSL_CERT_FILE SSL_CERT_DIR HTTPLIB2_CA_CERTS VAULT_CACERT VAULT_CAPATH GRPC_DEFAULT_SSL_ROOTS_FILE_PATH
    WGETRC NETRC GNUPGHOME GPG_AGENT_INFO HGRCPATH HGEDITOR HGMERGE HGPLAIN CVSROOT SVN_SSH RSYNC_CONNECT_PROG GH_HOST GH_PATH
    PSQLRC PGSERVICEFILE PGSYSCONFDIR PGSSLROOTCERT PGPASSFILE TNS_ADMIN ODBCINI ODBCSYSINI FREETDSCONF
    DOCKER_HOST DOCKER_CONFIG DOCKER_CONTEXT DOCKER_CERT_PATH CONTAINER_HOST BUILDKIT_HOST KUBECONFIG RCLONE_CONFIG
    AWS_SHARED_CREDENTIALS_FILE TF_PLUGIN_CACHE_DIR TMPDIR TMP TEMP NOSTR_NSEC WORKSPACE NOTIFY_SOCKET LISTEN_FDS LISTEN_PID
    UID EUID PPID GID RANDOM SECONDS LINENO OPTIND OPTARG OPTERR PWD OLDPWD _
    status argv pipestatus version history path fpath cdpath module_path mailpath psvar options commands functions aliases
    ARGC BASHPID COLUMNS DIRSTACK EGID EPOCHREALTIME EPOCHSECONDS ERRNO FISH_VERSION
    FUNCNAME FUNCNEST GROUPS HISTCHARS HISTCMD HISTSIZE KEYBOARD_HACK KEYTIMEOUT LINES LISTMAX MAILCHECK PS0 PS2 PS3 SAVEHIST
    SHLVL SRANDOM TRY_BLOCK_ERROR TRY_BLOCK_INTERRUPT TTYIDLE USERNAME ZSH_EVAL_CONTEXT ZSH_SUBSHELL builtins dirstack
    dis_aliases dis_builtins dis_functions dis_functions_source dis_galiases dis_patchars dis_reswords dis_saliases fignore
    funcfiletrace funcsourcetrace funcstack functions_source functrace galiases
    histchars historywords hostname jobdirs jobstates jobtexts keymaps manpath modules nameddirs parameters patchars reswords
    saliases status_generation termcap terminfo umask userdirs usergroups watch WATCH signals widgets zsh_eval_context
    zsh_scheduled_events
    """.split()
)
# the loader and libc; shells; interpreters; build tools; desktops; git, ssh and what finds settings
DANGEROUS_STARTS = tuple(
    """
    LD_ DYLD_ MALLOC_ GLIBC_ KRB5 NSS_
    BASH_ FISH_ fish_ __fish
    PYTHON PERL RUBY GEM_ LUA_ R_LIBS R_PROFILE R_ENVIRON R_HOME JULIA_ ERL_ ELIXIR_ GUILE_ CAML_ NODE_TLS_ NODE_REPL_ DENO_ BUN_
    DOTNET_ COMPlus_ CORECLR_ COR_ NUGET_ MSBUILD JDK_ PYTEST_ JUPYTER_ ELECTRON_
    CARGO_ RUSTC RUSTDOC RUSTUP_ CGO_ GCC_ CMAKE_ PKG_CONFIG CCACHE_ SCCACHE_ DISTCC_ NIX_
    PIP_ UV_ CONDA_ NPM_CONFIG_ YARN_ PNPM_ COREPACK_ PYENV_ RBENV_ NVM_ ASDF_ MISE_ DIRENV_ VOLTA_ HOMEBREW_
    GTK GDK_ GIO_ GST_PLUGIN GST_REGISTRY QT_ QML LIBGL_ LIBVA_ ALSA_ MAGICK_ TEXMF GROFF_
    GIT_ SSH_ SUDO_ CURL_ OPENSSL_ GNUTLS_ DBUS_ XDG_ SYSTEMD_ AVAULT_ OPENCLAW_ PASSWORD_STORE_ ANSIBLE_ TF_CLI_ CLOUDSDK_
    AWS_ENDPOINT_URL
    """.split()
)
DANGEROUS_ENDS = tuple(
    """
    _PROXY _PAGER _EDITOR _BROWSER _ASKPASS _SHELL _RSH _COMMAND _WRAPPER _INTERPRETER _EXECUTABLE _EXECUTABLE_PATH _BIN _BINARY
    _BINARY_PATH SYMBOLIZER_PATH _PRELOAD _PLUGINS _PLUGIN_PATH _MODULES _MODULE_PATH _LIBRARY_PATH _INCLUDE_PATH _HOME
    _OPTS _ADDOPTS _OPTIONS _ARGS _CFLAGS _CXXFLAGS _LDFLAGS _RUSTFLAGS
    _CA_BUNDLE _SSL_CERT_FILE _CONFIG_FILE _CONFIG_PATH _CONFIG_DIR
    """.split()
)
CREDENTIAL_ENDS = tuple(
    """
    _TOKEN _TOKENS _PASSWORD _PASSPHRASE _SECRET _API_KEY _SECRET_KEY _ACCESS_KEY _PRIVATE_KEY _DEPLOY_KEY _SIGNING_KEY
    """.split()
)


def is_dangerous(name: str) -> bool:
    """Whether a variable of that name changes what programs run, which files they trust, or where they connect."""
    upper = name.upper()  # proxies and npm's settings are read in either case
    if name in DANGEROUS:
        return True
    is_of_a_class = (
        name.startswith(DANGEROUS_STARTS)
        or upper.startswith("NPM_CONFIG_")
        or upper.endswith(DANGEROUS_ENDS)
    )
    return is_of_a_class and not upper.endswith(CREDENTIAL_ENDS)


def quote_sh(name: str, value: str) -> str:
    """One line that sets and exports a variable in sh, dash, bash, zsh and busybox.

    It survives `eval "$(...)"` and the unquoted `eval $(...)`: no white space but
    single spaces between words, nothing that a shell would expand. What single
    quotes do not keep through that goes through printf in octal, with a period
    at its end because command substitution takes trailing newlines away.
    """
    if set(value) <= QUOTABLE and "  " not in value and value == value.strip(" "):
        return f"export {name}='{value}';\n"
    safe = {ord(c) for c in PLAIN - {"%"}}
    octal = "".join(chr(byte) if byte in safe else f"\\{byte:03o}" for byte in value.encode())
    octal = "\\055" + octal[1:] if octal[0] == "-" else octal
    return f'{name}="`printf \'{octal}.\'`"; export {name}="${{{name}%.}}";\n'


def quote_fish(name: str, value: str) -> str:
    """One line that sets and exports a variable in fish."""
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    for character, escape in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        quoted = quoted.replace(character, f"'{escape}'")
    return f"set -gx {name} '{quoted}';\n"


def quote_dotenv(name: str, value: str) -> str:
    """One dotenv assignment, which sh and systemd's EnvironmentFile= read in the same way."""
    if set(value) <= PLAIN - {"="}:  # zsh expands =ls
        return f"{name}={value}\n"
    # as python-dotenv and npm's dotenv read it too
    if "'" not in value and "\\\\" not in value and value[-1] != "\\":
        return f"{name}='{value}'\n"
    return name + '="' + "".join("\\" + c if c in '\\"$`' else c for c in value) + '"\n'


def quote_systemd(name: str, value: str) -> str:
    """One line of an EnvironmentFile= (systemd.exec(5)); raises AvaultError for control characters."""
    codes = [ord(c) for c in value]
    if any(
        (c < 32 and c not in (9, 10)) or c == 127 or c & 0xFFFE == 0xFFFE or 0xFDD0 <= c <= 0xFDEF
        for c in codes
    ):
        raise AvaultError(
            f"systemd takes no control characters in a variable: {name}",
            "leave it out with --only or --group",
        )
    return quote_dotenv(name, value)


def quote_docker(name: str, value: str) -> str:
    """One line of `docker run --env-file`, where all that follows the = is the value, quotes too; raises AvaultError.

    pkg/kvfile of docker/cli: lines of less than 64 KiB, whose last carriage return is lost.
    """
    line = f"{name}={value}\n"
    if set(value) & {"\n", "\r"} or len(line.encode()) >= 1 << 16:
        hint = f"let docker take it from its environment: avault run --only {name} -- docker run -e {name} IMAGE"
        raise AvaultError(
            f"docker reads a variable from one line of less than 64 KiB: {name}", hint
        )
    return line


def quote_github(name: str, value: str) -> str:
    """A variable for the file $GITHUB_ENV of GitHub Actions, between two lines that no value can guess."""
    end = "end_" + secrets.token_hex(16)
    return f"{name}<<{end}\n{value}\n{end}\n"


QUOTES: dict[str, Callable[[str, str], str]] = {
    "sh": quote_sh, "fish": quote_fish, "dotenv": quote_dotenv, "systemd": quote_systemd, "docker": quote_docker,
    "github": quote_github,
}  # fmt: skip


def as_name(group: str, key: str) -> str:
    """The variable of a key with its group before it: DATABASE_PASSWORD."""
    return "".join(c if c in LETTERS | DIGITS else "_" for c in f"{group}_{key}").upper()


def check_names(request: dict[str, Any], field: str) -> list[str]:
    """A request's list of names, which may be left out; raises Usage."""
    names = request.get(field) or []
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    raise Usage(f"{field} is a list of names")


def select(vault: Vault, groups: list[str], only: list[str]) -> list[tuple[str, str, list[Secret]]]:
    """Group, key and secrets of all that is there, or of some groups, or of some keys, KEY or GROUP/KEY; raises NotFound."""
    for name in groups:
        vault.group(name)
    wanted = set(only)
    rows = [
        (group, key, found)
        for group in sorted(set(groups) or vault.groups)
        for key, found in sorted(vault.groups[group].keys.items())
        if not wanted or key in wanted or f"{group}/{key}" in wanted
    ]
    if wanted and (
        missing := wanted
        - {key for _, key, _ in rows}
        - {f"{group}/{key}" for group, key, _ in rows}
    ):
        raise NotFound(
            f"no key {printable(', '.join(sorted(missing)))}", "see what there is: avault list"
        )
    return rows


def check_named(vault: Vault, named: list[str]) -> dict[str, tuple[str, str]]:
    """Group and key by the variable that NAME=GROUP/KEY gives them; raises Usage, NotFound."""
    chosen: dict[str, tuple[str, str]] = {}
    for each in named:
        name, _, place = each.partition("=")
        group, _, key = place.partition("/")
        if (
            not name
            or set(name) - LETTERS - DIGITS - {"_"}
            or name[0] in DIGITS
            or not group
            or not key
        ):
            raise Usage(
                f"not NAME=GROUP/KEY: {printable(each)}", "as in OPENAI_API_KEY=openai/API_KEY"
            )
        if name in chosen:
            raise Usage(f"{name} is named twice", "give each variable one secret")
        vault.secrets(group, key)
        chosen[name] = group, key
    return chosen


def choose(
    vault: Vault,
    groups: list[str],
    only: list[str],
    prefix: bool,
    allow: list[str],
    named: list[str],
) -> dict[str, tuple[str, str]]:
    """The variables to export, by name, with group and key of each: all, or those of some groups, keys and names.

    Raises NotFound for a name that is not there, Usage for two keys with one
    name, Denied for a dangerous name that `allow` does not have.
    """
    chosen = check_named(vault, named)
    for group, key, _ in select(vault, groups, only) if groups or only or not named else []:
        name = as_name(group, key) if prefix else key
        if name in chosen:
            tell_apart = "" if prefix else ", or tell them apart with --prefix"
            raise Usage(
                f"{'/'.join(chosen[name])} and {group}/{key} are both {name}",
                f"name them: --as {as_name(group, key)}={group}/{key}; or choose with --group {group}{tell_apart}",
            )
        if name[0] in DIGITS:
            raise Usage(
                f"{group}/{key} gives no variable name: {name}",
                "leave --prefix out, or rename the group",
            )
        chosen[name] = (group, key)
    if refused := sorted(name for name in chosen if is_dangerous(name) and name not in allow):
        hint = "if you mean it: " + " ".join(f"--allow {name}" for name in refused)
        raise Denied(f"{', '.join(refused)} would change what other programs do", hint)
    return chosen


def render_secret(variables: dict[str, str], group: str | None) -> str:
    """A manifest of a Kubernetes Secret, for `kubectl apply -f -`; it is called as the group, or avault."""
    import binascii

    name = (
        "".join(c if c in LETTERS | DIGITS else "-" for c in group or "avault").lower().strip("-")
    )
    lines = [
        "apiVersion: v1",
        "kind: Secret",
        "metadata:",
        f"  name: {json.dumps(name)}",
        "type: Opaque",
    ]
    lines += ["data:"] if variables else ["data: {}"]
    for key, value in variables.items():
        encoded = binascii.b2a_base64(value.encode(), newline=False).decode()
        lines.append(f"  {json.dumps(key)}: {encoded}")
    return "".join(line + "\n" for line in lines)


def find_misread(variables: dict[str, str]) -> str | None:
    """A sentence about the variables that, as `quote_dotenv` writes them, some readers of dotenv files read otherwise."""
    theirs: dict[str, list[str]] = {"python-dotenv": [], "npm's dotenv": []}
    for name, value in variables.items():
        line = quote_dotenv(name, value)[len(name) + 1 :]
        has_return, is_double = "\r" in value, line[0] == '"'
        if has_return or "${" in line or (is_double and set(value) & set("$`")):
            theirs["python-dotenv"].append(name)
        if has_return or (is_double and set(value) & set('\\"$`')):
            theirs["npm's dotenv"].append(name)
    said = [
        f"{reader} reads {', '.join(names[:10])} otherwise"
        for reader, names in theirs.items()
        if names
    ]
    return f"sh and systemd read this as it is meant; {', and '.join(said)}" if said else None


def warn_of_readers(form: str, variables: dict[str, str]) -> str | None:
    """What to say about those who will read an export, if anything."""
    if form == "github" and variables:
        return "GitHub does not mask in its logs what comes to a job in this way; avault run does"
    return find_misread(variables) if form == "dotenv" else None


def render_export(form: str, variables: dict[str, str], group: str | None = None) -> str:
    """The variables as text of a form; `group` is where all of them are from, if so. Raises Usage for another form."""
    if form == "k8s":
        return render_secret(variables, group)
    if form == "json":
        return json.dumps(variables, indent=2, ensure_ascii=False) + "\n"
    if form == "null":  # as env -0 prints them
        return "".join(f"{name}={value}\0" for name, value in variables.items())
    if form not in QUOTES:
        raise Usage(f"no format {printable(form)!r}", f"one of: sh, fish, null, {', '.join(FORMS)}")
    return "".join(QUOTES[form](name, value) for name, value in variables.items())


def render_duration(seconds: float) -> str:
    """A duration as people say it: 90 s, 5 min, 8 h, 7 d."""
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    unit = next((name for name, size in units.items() if seconds % size == 0), "s")
    return f"{seconds / units[unit]:g} {unit}"


def render_time(seconds: float) -> str:
    """A time as RFC 3339 UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def describe_vault(vault: Vault) -> list[dict[str, Any]]:
    """Groups with key names, notes and times; never values."""
    return [
        {
            "name": name,
            "note": group.note[0],
            "keys": [
                {
                    "name": key,
                    "created": render_time(found[0].created),
                    "updated": render_time(found[0].updated),
                    "conflict": len(found) > 1,
                }
                for key, found in sorted(group.keys.items())
            ],
        }
        for name, group in sorted(vault.groups.items())
    ]


def conflicts(vault: Vault) -> list[str]:
    """The keys that two machines set, as GROUP/KEY."""
    return [f"{group}/{key}" for group, key, found in select(vault, [], []) if len(found) > 1]


def render_list(groups: list[dict[str, Any]]) -> str:
    """A line for each key: its name and when it was changed; the note beside the group."""
    lines = []
    for group in groups:
        lines.append(group["name"] + (f"  # {printable(group['note'])}" if group["note"] else ""))
        width = max(len(key["name"]) for key in group["keys"])
        for key in group["keys"]:
            mark = "  conflict: two machines set it" if key["conflict"] else ""
            lines.append(f"  {key['name']:<{width}}  {key['updated']}{mark}")
    return "".join(line + "\n" for line in lines)


# ------------------------------------------------------------ vault/seal ----
# Everything that is encrypted: the vault's parts, the envelope, the sealed key.
#
# NIP-44, by nostr-sdk. What does not encode to itself is refused.


PART_LIMIT = 65_408  # bytes of plaintext that the library encrypts in one NIP-44 payload
# ephemeral and unused, so that no signer takes the envelope for something it knows
ENVELOPE_KIND = 26_046
CODE_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: none is taken for another


def encrypt(keys: nostr_sdk.Keys, peer: str, text: str) -> str:
    """`text` as a NIP-44 v2 payload from `keys` to a public key (hex)."""
    version = nostr_sdk.Nip44Version.V2
    return str(
        nostr_sdk.nip44_encrypt(keys.secret_key(), nostr_sdk.PublicKey.parse(peer), text, version)
    )


def decrypt(keys: nostr_sdk.Keys, peer: str, payload: str) -> str:
    """The text of a NIP-44 payload between `keys` and a public key (hex); raises ValueError.

    The payload's base64 must be the one encoding of its bytes: the MAC of
    NIP-44 does not cover the unused bits of the last character.
    """
    import binascii

    if binascii.b2a_base64(binascii.a2b_base64(payload), newline=False) != payload.encode():
        raise ValueError("not canonical base64")
    try:
        return str(
            nostr_sdk.nip44_decrypt(keys.secret_key(), nostr_sdk.PublicKey.parse(peer), payload)
        )
    except nostr_sdk.NostrSdkError:
        raise ValueError("not a payload between these keys") from None


def parse_keys(text: str) -> nostr_sdk.Keys:
    """The key pair of an nsec or hex secret key; raises Usage without repeating it."""
    try:
        return nostr_sdk.Keys.parse(text.strip())
    except nostr_sdk.NostrSdkError:
        raise Usage("not a Nostr secret key", "an nsec1… or 64 hex characters") from None


def public_hex(keys: nostr_sdk.Keys) -> str:
    """The public key of a key pair, in hex."""
    return str(keys.public_key().to_hex())


def split_vault(vault: Vault) -> list[str]:
    """The plaintexts of a vault's parts, each a line of JSON that places it, then a slice of the body."""

    def header(index: int, count: int) -> str:
        place = {
            "type": "avault/vault",
            "version": 1,
            "vault": vault.identity,
            "generation": vault.generation,
        }
        return (
            json.dumps({**place, "sources": vault.sources, "index": index, "count": count}) + "\n"
        )

    body = vault.to_json()
    room = PART_LIMIT - len(header(VAULT_LIMIT, VAULT_LIMIT))
    if room < PART_LIMIT // 2:
        raise AvaultError(
            "this vault was written by too many machines",
            "take them out with: avault export --format json, and begin anew",
        )
    slices = [body[start : start + room] for start in range(0, len(body), room)]
    return [header(index, len(slices)) + piece for index, piece in enumerate(slices)]


def seal_vault(vault: Vault, keys: nostr_sdk.Keys) -> bytes:
    """A vault as avault.enc: a line for each part, encrypted from the agent to itself."""
    lines = [encrypt(keys, public_hex(keys), part) for part in split_vault(vault)]
    data = "".join(line + "\n" for line in lines).encode()
    if len(data) > VAULT_LIMIT:
        raise AvaultError(
            f"the vault would have {len(data):,} bytes; the limit is {VAULT_LIMIT:,}",
            "delete what is not needed",
        )
    return data


def open_vault(data: bytes, keys: nostr_sdk.Keys) -> Vault:
    """The vault of avault.enc's bytes, every part in its place; raises Tampered."""
    agent = public_hex(keys)
    try:
        text = data.decode("ascii")
        parts = [decrypt(keys, agent, text.partition("\n")[0])]
        place = json.loads(parts[0].partition("\n")[0])
        # before anything is made of lines that may be millions
        if text.count("\n") != place["count"]:
            raise ValueError("not the parts of one vault")
        parts += [decrypt(keys, agent, line) for line in text.removesuffix("\n").split("\n")[1:]]
        vault = Vault(place["vault"], "", "", "")
        vault.generation, vault.sources = place["generation"], place["sources"]
        vault.load_json("".join(part.partition("\n")[2] for part in parts))
        whole = data.endswith(b"\n") and split_vault(vault) == parts and vault.agent == agent
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        whole = False
    if not whole:
        raise Tampered(
            "avault.enc is damaged, or not this agent's",
            "take it from git history or from a backup",
        )
    return vault


def make_envelope(keys: nostr_sdk.Keys, peer: str, alt: str, content: str, unlock_key: str) -> str:
    """What the phone decrypts: an event as signers show it, with the unlock key where none looks.

    Amber prints `content` and `alt` on the approval screen and hides keys that
    it does not know. NIP-44 between `keys` and `peer`: only they can have made it.
    """
    event = {
        "kind": ENVELOPE_KIND, "created_at": int(time.time()), "pubkey": public_hex(keys), "id": "", "sig": "",
        "tags": [["alt", alt]], "content": content, "avault": unlock_key,
    }  # fmt: skip
    return encrypt(keys, peer, json.dumps(event))


def seal_keys(
    keys: nostr_sdk.Keys, identity: str, operator: str, name: str
) -> tuple[str, dict[str, Any]]:
    """A fresh unlock key (hex), and what it opens: the nsec, sealed together with the names of vault and operator."""
    unlock = nostr_sdk.Keys.generate()
    nsec = {
        "type": "avault/nsec",
        "version": 1,
        "vault": identity,
        "name": name,
        "operator": to_npub(operator),
    }
    sealed = encrypt(
        unlock, public_hex(unlock), json.dumps({**nsec, "nsec": keys.secret_key().to_bech32()})
    )
    names = {
        "vault": identity,
        "name": name,
        "agent": to_npub(public_hex(keys)),
        "operator": to_npub(operator),
    }
    return unlock.secret_key().to_hex(), {**names, "sealed": sealed}


def request_code(sealed: str) -> str:
    """The short code of a request, from the sealed copy that it is about: four letters that phone and terminal both show.

    It tells the request that is waited for from a card that an earlier one left on
    the phone. It is no proof: whoever has the disk knows it too.
    """
    number = int.from_bytes(sha256(sealed.encode())[:4], "big")
    return "".join(CODE_LETTERS[number >> shift & 31] for shift in (15, 10, 5, 0))


def describe_request(name: str, host: str, sealed: str) -> str:
    """What the operator is asked for, as phone and terminal both say it."""
    return f"{name} on {host}, code {request_code(sealed)}"


def seal_nsec(
    keys: nostr_sdk.Keys, identity: str, operator: str, name: str, host: str
) -> dict[str, Any]:
    """The content of nsec.enc and unlock.json: a fresh unlock key in an envelope, and the nsec sealed with it.

    It is opened again before it is given out: nobody notices a bad one until it is too late.
    """
    unlock, sealed = seal_keys(keys, identity, operator, name)
    what = describe_request(name, host, sealed["sealed"])
    sentence = f"avault: unlock {what}. Approve only if you expect it."
    envelope = make_envelope(keys, operator, f"unlock the vault of {what}", sentence, unlock)
    last = {"envelope": envelope, "sealed": sealed.pop("sealed")}
    content = {**sealed, **last}
    open_nsec(content, decrypt(keys, operator, envelope))
    return content


def open_nsec(content: dict[str, Any], answer: str) -> nostr_sdk.Keys:
    """The agent's keys, from a sealed copy and the phone's answer to its envelope; raises Tampered.

    What is sealed names vault, name and operator: whoever writes to the disk
    cannot have the next copy sealed for somebody else, or with another sentence.
    """
    try:
        unlock = nostr_sdk.Keys.parse(json.loads(answer)["avault"])
        sealed = json.loads(decrypt(unlock, public_hex(unlock), content["sealed"]))
        keys = nostr_sdk.Keys.parse(sealed["nsec"])
        pinned = (sealed["vault"], sealed["name"], sealed["operator"], to_npub(public_hex(keys)))
        if pinned == (content["vault"], content["name"], content["operator"], content["agent"]):
            return keys
    except (ValueError, TypeError, KeyError, RecursionError, nostr_sdk.NostrSdkError):
        pass
    raise Tampered(
        "the answer does not open this vault", "is it the operator's own signer? See: avault status"
    )


# ----------------------------------------------------------- vault/store ----
# The loaded vault and its file: generations, pin, writing, noticing changes.


class Store:
    """The vault as it is loaded, and its file: one writer, and readers that notice a `git pull`.

    `vault` is served. `trouble` says why the file cannot be used although the
    loaded vault can: then reads go on and writes are refused, and what is served
    is kept, sealed, as unsaved.enc in the state directory. `warning` is what
    should be known about the pin.
    """

    def __init__(self, places: Places, keys: nostr_sdk.Keys, vault: Vault, digest: str) -> None:
        self.places, self.keys, self.vault, self.digest = places, keys, vault, digest
        self.machine = machine_id(places)
        self.seen: tuple[int, ...] | None = ()
        self.trouble: AvaultError | None = None
        self.kept = ""  # the hash of the avault.enc whose content is in unsaved.enc
        # `written`: the hash of what this process last wrote, or meant to
        self.warning = self.written = ""
        self.rollback = ""  # what was accepted, although the pin speaks against it
        # `counted`: the last count of a write of ours that anybody may have seen
        self.writing, self.counted = False, 0
        # whether the last write was made in the middle of a rebase or the like, whose end may undo
        # it
        self.amid_git = False
        # the highest count under which this machine has given a merge to git
        path = places.own("offered.json")
        self.offered: int = (
            decode_file("offered", read_file(path), path)["count"] if os.path.lexists(path) else 0
        )

    @staticmethod
    def create(places: Places, keys: nostr_sdk.Keys, vault: Vault) -> Store:
        """Write the first avault.enc of an empty vault; raises AvaultError."""
        store = Store(places, keys, vault, "")
        store.replace(vault.copy(), "")
        return store

    @staticmethod
    def read(places: Places, keys: nostr_sdk.Keys, content: dict[str, Any]) -> Store:
        """Open avault.enc; raises Tampered if it is not that of `content`, which is unlock.json's or nsec.enc's."""
        data = read_vault(places)
        vault = open_vault(data, keys)
        if (vault.identity, vault.name, to_npub(vault.operator)) != (
            content["vault"],
            content["name"],
            content["operator"],
        ):
            raise Tampered(
                "avault.enc belongs to another vault or another operator",
                "take it from git history or from a backup",
            )
        return Store(places, keys, vault, sha256(data).hex())

    @staticmethod
    def load(
        places: Places, keys: nostr_sdk.Keys, content: dict[str, Any], accept_rollback: bool = False
    ) -> Store:
        """Open avault.enc and hold it against the pin; raises Tampered.

        Where it cannot be used, unsaved.enc is served in its place, if there is one.
        """
        pin = read_pin(places)
        kept = Store.read_kept(places, keys, content, pin)
        try:
            store = Store.read(places, keys, content)
            refusal = store.compare(pin) if pin else None
            if kept and not refusal and not store.vault.is_after(kept.vault.generation):
                refusal = "avault.enc is older than what was served last"
            if refusal and not accept_rollback:
                raise Tampered(
                    refusal,
                    "get the latest (git pull), or take this one: avault unlock --accept-rollback",
                )
        except Tampered as error:
            if not kept:
                raise
            kept.seen, kept.trouble = kept.look(), error
            return kept
        store.forget_kept()
        vault = store.vault
        if refusal:
            # Under a new name: it claims to know no more than it does, so that what is missing comes back by a merge.
            os.unlink(places.own("machine.json"))
            store.machine = machine_id(places)
            draft = vault.copy()
            draft.sources = [store.digest]
            store.replace(draft, store.digest)
        elif not pin or pin["hash"] != store.digest:
            store.pin()
        store.rollback = refusal or ""
        if not pin:
            store.warning = (
                "no pin.json: whether this is an older copy of the vault could not be seen"
            )
        return store

    @staticmethod
    def read_kept(
        places: Places, keys: nostr_sdk.Keys, content: dict[str, Any], pin: dict[str, Any] | None
    ) -> Store | None:
        """The vault of unsaved.enc; None where there is none that is ours and as new as the pin."""
        path = places.own("unsaved.enc")
        if not os.path.lexists(path):
            return None
        try:
            vault = open_vault(read_file(path, VAULT_LIMIT), keys)
        except AvaultError:
            return None
        if (vault.identity, vault.name, to_npub(vault.operator)) != (
            content["vault"],
            content["name"],
            content["operator"],
        ):
            return None
        if len(vault.sources) != 1:  # an avault.enc that somebody has put here
            return None
        store = Store(places, keys, vault, vault.sources[0])
        store.kept = store.digest
        return None if pin and store.compare(pin) else store

    def keep(self) -> None:
        """Write what is served to unsaved.enc; raises AvaultError.

        Its one source is the avault.enc that the vault was loaded from or written to.
        """
        twin, digest = self.vault.copy(), self.digest
        twin.sources = [digest]

        def check(written: bytes) -> None:
            open_vault(written, self.keys)

        write_file(self.places.own("unsaved.enc"), seal_vault(twin, self.keys), check)
        self.kept = digest

    def forget_kept(self) -> None:
        """Remove unsaved.enc: avault.enc has all that is in it."""
        self.kept = ""
        if os.path.lexists(path := self.places.own("unsaved.enc")):
            os.unlink(path)

    def is_safe(self) -> bool:
        """Whether what is served is on the disk, in one file or the other."""
        return not self.trouble or self.kept == self.digest

    def put_back(self) -> bool:
        """Write what is served over an avault.enc that cannot be used, which stays as damaged.enc; whether it was needed.

        Raises AvaultError.
        """
        self.notice()
        if not self.trouble:
            return False
        path, over = self.places.file("avault.enc"), ""
        if os.path.lexists(path):
            found = read_file(path, VAULT_LIMIT)
            write_file(self.places.own("damaged.enc"), found)
            over = sha256(found).hex()
        draft = self.vault.copy()
        draft.sources = [self.digest]
        self.replace(draft, over)
        self.trouble = None
        self.forget_kept()
        return True

    def compare(self, pin: dict[str, Any]) -> str | None:
        """Why the vault on the disk cannot be what follows the pinned one; None if it can."""
        pinned, found, me = pin["generation"], self.vault.generation, self.machine
        if found == pinned:
            other = "avault.enc is not what this machine has seen, though of the same generation"
            return None if pin["hash"] == self.digest else other
        if not self.vault.is_after(pinned):
            if any(count > pinned.get(machine, 0) for machine, count in found.items()):
                return "avault.enc is another machine's, without the last writes of this one"
            return "avault.enc is older than what this machine has seen"
        if found.get(me, 0) > pinned.get(me, 0) and pin["hash"] not in self.vault.sources:
            return "another machine writes under this one's name: is one a clone of the other?"
        return None

    def look(self) -> tuple[int, ...] | None:
        """What tells one state of the file from another, without reading it."""
        return look_at(self.places.file("avault.enc"))

    def refresh(self) -> None:
        """Notice that another process changed the file: serve a later one, merge a concurrent one.

        Anything else sets `trouble` and is looked at again when the file changes.
        """
        if not self.writing:
            self.notice(is_reading=True)

    def notice(self, is_reading: bool = False) -> None:
        """`refresh`, for the one who is writing."""
        if (seen := self.look()) == self.seen:
            self.amid_git = self.amid_git and is_amid_git(self.places.dir)
            return
        self.seen = seen
        try:
            data = read_vault(self.places)
            self.trouble = None
            if sha256(data).hex() != self.digest:
                self.take(open_vault(data, self.keys), sha256(data).hex(), is_reading)
            if self.kept and self.seen:
                self.forget_kept()
        except AvaultError as error:
            self.trouble = error
            if not isinstance(error, Tampered):
                self.seen = ()  # a full disk, or the like: that ends without a change of the file

    def take(self, found: Vault, digest: str, is_reading: bool) -> None:
        """Go on from another state of the vault that was found on the disk; raises Tampered."""
        ours = self.vault
        if (found.identity, found.operator) != (ours.identity, ours.operator):
            raise Tampered(
                "avault.enc was replaced by that of another vault", "take it from git history"
            )
        if digest != self.written and found.generation.get(self.machine, 0) > ours.generation.get(
            self.machine, 0
        ):
            raise Tampered(
                "another machine writes under this one's name: is one a clone of the other?",
                "save what is served: avault export",
            )
        if found.generation == ours.generation or ours.is_after(found.generation):
            is_over = not is_amid_git(self.places.dir) and not is_git_at_work(self.places.dir)
            if self.amid_git and is_over:  # aborted: what was confirmed meanwhile is written again
                again = ours.copy()
                again.sources = sorted([self.digest, digest])
                self.replace(again, digest)
                return
            if self.amid_git:
                self.seen = ()  # it may end without another change of the file
            hint = "git pull, or avault restore --unsaved; to take the older one, lock, then: avault unlock --accept-rollback"
            raise Tampered("avault.enc was replaced by an older one", hint)
        if found.is_after(ours.generation):
            self.vault, self.digest = found, digest
            self.pin()
        elif is_reading and is_git_at_work(self.places.dir):
            # a rebase shows one side after the other, and stops at a file that changes meanwhile:
            # look again
            self.seen = ()
        else:
            merged = ours.merge(found)
            merged.sources = sorted([self.digest, digest])
            self.replace(merged, digest)

    def write(self, changes: list[Callable[[Vault], None]]) -> list[AvaultError | None]:
        """Apply changes and write them together: for each, None or why it was refused.

        Runs in a thread, while `writing` keeps readers from touching the file.
        """
        for _ in range(5):
            self.notice()
            if self.trouble:
                # git removes a file and then writes it anew: it may be whole in a moment
                time.sleep(0.1)
                continue
            draft = self.vault.copy()
            draft.generation[self.machine] = max(
                draft.generation.get(self.machine, 0), self.counted
            )
            draft.sources = [self.digest]
            results = [attempt_change(change, draft) for change in changes]
            if all(results):
                return results
            try:
                self.replace(draft, self.digest)
                self.notice()  # what came since is merged before anybody is told that it is written
                return results
            except (FileChanged, Tampered, NotFound):
                self.seen = ()  # a git pull came in between: apply the changes to what it brought
            except AvaultError as error:
                return [error] * len(changes)
        busy = self.trouble or AvaultError(
            "the vault's file keeps changing", "stop what else writes it, then try again"
        )
        return [busy] * len(changes)

    def replace(self, draft: Vault, over: str) -> None:
        """Write a vault as this machine's next generation over the file with that hash ("" for none).

        Raises FileChanged if another file is there, and AvaultError.
        """
        self.counted = max(draft.generation.get(self.machine, 0), self.counted) + 1
        draft.generation[self.machine] = self.counted
        draft.generation = dict(sorted(draft.generation.items()))
        data = seal_vault(draft, self.keys)
        self.written = sha256(data).hex()

        def check(written: bytes) -> None:
            if open_vault(written, self.keys).generation != draft.generation:
                raise AvaultError(
                    "the vault that was written does not open", "the file is as it was before"
                )

        write_file(self.places.file("avault.enc"), data, check, over)
        self.amid_git = is_amid_git(self.places.dir)
        # to be looked at: a pull may have come since
        self.vault, self.digest, self.seen = draft, self.written, ()
        self.pin()

    def open_copy(self, data: bytes) -> Vault:
        """Another copy of this vault, of any generation; raises Tampered."""
        vault = open_vault(data, self.keys)
        if (vault.identity, vault.operator) != (self.vault.identity, self.vault.operator):
            raise Tampered("that is a copy of another vault")
        return vault

    def offer(self, ours: bytes, theirs: bytes) -> tuple[bytes, Vault]:
        """Two copies merged, as the bytes of a new avault.enc for git to put in place; raises Tampered.

        A copy that has all of the other is the merge. Else the merge is counted under a name of its own, `<machine>-git`:
        git merges old commits too, as in a rebase, and what comes of them must not claim to know our later writes.
        """
        one, other = self.open_copy(ours), self.open_copy(theirs)
        if one.generation == other.generation and ours != theirs:
            raise Tampered(
                "two machines write under one name: is one a clone of the other?",
                "save what is served first",
            )
        if one.is_after(other.generation):
            return ours, one
        if other.is_after(one.generation):
            return theirs, other
        merged, name = one.merge(other), f"{self.machine}-git"
        merged.sources = sorted([sha256(ours).hex(), sha256(theirs).hex()])
        self.offered = max(merged.generation.get(name, 0), self.offered) + 1
        write_file(self.places.own("offered.json"), encode_file("offered", {"count": self.offered}))
        merged.generation = dict(sorted({**merged.generation, name: self.offered}.items()))
        return seal_vault(merged, self.keys), merged

    def absorb(self, draft: Vault, theirs: bytes) -> None:
        """Merge another copy into a draft of the next generation; raises Tampered."""
        other = self.open_copy(theirs)
        if other.generation.get(self.machine, 0) > draft.generation.get(self.machine, 0):
            raise Tampered(
                "that copy has writes of this machine that this one never made: is one a clone of the other?"
            )
        merged = draft.merge(other)
        draft.groups, draft.generation = merged.groups, merged.generation
        draft.sources = sorted({*draft.sources, sha256(theirs).hex()})

    def pin(self) -> None:
        """Remember the highest generation seen; nothing older is accepted again.

        What cannot be pinned is served all the same: the vault itself is written.
        """
        pin = {"generation": self.vault.generation, "hash": self.digest}
        try:
            write_file(self.places.own("pin.json"), encode_file("pin", pin))
            self.warning = ""
        except AvaultError as error:
            self.warning = f"an older copy of the vault would not be noticed: {error.message}"


def look_at(path: str) -> tuple[int, ...] | None:
    """What tells one state of a file from another, without reading it; None where there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_size, info.st_ino, info.st_ctime_ns)


def attempt_change(change: Callable[[Vault], None], draft: Vault) -> AvaultError | None:
    """Apply one change; the error that refused it."""
    try:
        change(draft)
    except AvaultError as error:
        return error
    return None


def refuse_to_overwrite(places: Places) -> None:
    """Raise AvaultError where a vault's files are, or what is left of one: `init` makes none over them.

    An `init` that was cut off leaves hints and an unlock.json, and no pin: it may begin anew.
    """
    for name in ("avault.enc", "nsec.enc"):
        if is_file_there(places.file(name)):
            raise AvaultError(
                f"there is a vault already: {places.file(name)}",
                "use it, or choose another place with --dir",
            )
    refuse_foreign(places.file(".gitattributes"))
    if os.path.lexists(hints := places.file("nip46.json")):
        refuse_foreign(hints)
        decode_file("hints", read_file(hints), hints)
    if os.path.lexists(unlock := places.own("unlock.json")) and os.path.lexists(
        places.own("pin.json")
    ):
        hint = "put that vault back, from git or a backup; or choose another place with --dir"
        raise AvaultError(f"a vault was here, and {unlock} may be the last copy of its key", hint)


def no_vault(places: Places) -> NotFound:
    """What is said where no vault is."""
    return NotFound(
        f"no vault in {places.dir}", "make one with: avault init, or name one with --dir"
    )


def has_vault(places: Places) -> bool:
    """Whether there is anything of a vault; raises AvaultError where we may not look."""
    return any(is_file_there(places.file(name)) for name in ("avault.enc", "nsec.enc"))


def is_file_there(path: str) -> bool:
    """Whether there is a file, or a link; raises AvaultError where we may not look: that is not the same as none."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        closed = os.path.dirname(path)
        raise AvaultError(
            f"cannot look into {closed}: {error.strerror}", f"whose is it? ls -ld {closed}"
        ) from None
    return True


def need_vault(places: Places) -> None:
    """Raise NotFound where there is nothing of a vault."""
    if not has_vault(places):
        raise no_vault(places)


def read_vault(places: Places) -> bytes:
    """The bytes of avault.enc; raises Tampered where it is gone."""
    try:
        return read_file(places.file("avault.enc"), VAULT_LIMIT)
    except NotFound:
        raise Tampered(
            f"{places.file('avault.enc')} is gone", "put it back, from git or from a backup"
        ) from None


def find_git(directory: str) -> str | None:
    """Git's own directory for the work tree that a directory is in; None where there is none (gitrepository-layout(5))."""
    while not os.path.lexists(found := os.path.join(directory, ".git")):
        if directory == (directory := os.path.dirname(directory)):
            return None
    if not os.path.isfile(found):
        return found
    return os.path.join(
        directory, os.fsdecode(read_file(found)).removeprefix("gitdir: ").rstrip("\n")
    )


def is_git_at_work(directory: str) -> bool:
    """Whether git is at work in the work tree that a directory is in, so that a file there may be another in a moment."""
    return has_git(directory, "index.lock", "rebase-merge", "rebase-apply")


def is_amid_git(directory: str) -> bool:
    """Whether git waits for a person to finish or abort something (gitrepository-layout(5))."""
    return has_git(
        directory, "rebase-merge", "rebase-apply", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"
    )


def has_git(directory: str, *names: str) -> bool:
    """Whether git's own directory has one of these files."""
    found = find_git(os.path.realpath(directory)) or directory
    return any(os.path.lexists(os.path.join(found, name)) for name in names)


def read_pin(places: Places) -> dict[str, Any] | None:
    """The highest generation that this machine has seen, and its hash; None at first. Raises Tampered."""
    path = places.own("pin.json")
    try:
        pin = decode_file("pin", read_file(path), path)
    except NotFound:  # and nothing else: a disk that fails is not a machine that has seen nothing
        return None
    if any(type(count) is not int for count in pin["generation"].values()):
        raise Tampered(f"{path} is damaged")
    return pin


def machine_id(places: Places) -> str:
    """This machine's random name in generations, made when it is first asked for.

    A machine made from the image of another gets a name of its own, if
    /etc/machine-id tells them apart (machine-id(5)).
    """
    path, host = places.own("machine.json"), ""
    if os.path.exists("/etc/machine-id"):
        host = sha256(read_file("/etc/machine-id")).hex()
    content = decode_file("machine", read_file(path), path) if os.path.lexists(path) else {}
    if content.get("host") != host:
        content = {"id": secrets.token_hex(8), "host": host}
        write_file(path, encode_file("machine", content))
    return str(content["id"])


def read_unlock(places: Places) -> tuple[dict[str, Any], bool]:
    """What the phone is to be asked for, and whether it is this machine's own.

    unlock.json, or nsec.enc where there is none. Raises NotFound, Tampered.
    """
    try:
        return read_sealed("unlock", places.own("unlock.json")), True
    except NotFound:
        pass
    if not is_file_there(places.file("nsec.enc")):
        raise no_vault(places)
    return read_sealed("nsec", places.file("nsec.enc")), False


def read_sealed(kind: str, path: str) -> dict[str, Any]:
    """The content of nsec.enc or unlock.json, which people are shown; raises Tampered."""
    content = decode_file(kind, read_file(path), path)
    npubs = [content["agent"], content["operator"]]
    if (
        all(npub.startswith("npub1") and npub.isalnum() and npub.isascii() for npub in npubs)
        and set(content["name"]) <= NAME_CHARACTERS
    ):
        return content
    raise Tampered(f"{path} names nobody", "take it from a backup or from git history")


# -------------------------------------------------------- vault/recovery ----
# The recovery copy, nsec.enc, beside an open vault: verified, and made anew.
#
# It is all that is left where a machine is lost, and nothing opens it in the meantime: a bad one
# would be noticed when it is too late.


def verify_recovery(data: bytes, keys: nostr_sdk.Keys, vault: Vault) -> None:
    """Raise Tampered unless these bytes of an nsec.enc lead the vault's operator to the agent's key.

    The agent's key opens the envelope as the operator's does (NIP-44 is between the two), so nobody is asked.
    """
    content = decode_file("nsec", data, "nsec.enc")
    names = (vault.identity, vault.name, to_npub(vault.operator), to_npub(vault.agent))
    if (content["vault"], content["name"], content["operator"], content["agent"]) != names:
        raise Tampered("nsec.enc is of another vault, agent or operator")
    try:
        open_nsec(content, decrypt(keys, vault.operator, content["envelope"]))
    except (Tampered, ValueError):
        raise Tampered("nsec.enc does not open") from None


class Recovery:
    """The recovery copy of an open vault, looked at whenever the file changes; one that does not open is made anew.

    `digest` is the hash of what was verified last, `warning` what should be known of it.
    """

    def __init__(self, places: Places, host: str) -> None:
        self.places, self.host = places, host
        self.seen: tuple[int, ...] | None = ()
        self.digest = self.warning = ""
        self.was_made = False  # anew, since the vault was opened

    def is_changed(self) -> bool:
        """Whether the file is another than the one that was verified."""
        return look_at(self.places.file("nsec.enc")) != self.seen

    def verify(self, keys: nostr_sdk.Keys, vault: Vault) -> bool:
        """Verify the file, and make it anew if it does not open: whether that was so.

        While git is at work, or the vault is gone from there too, the file may be on its way: it is looked at again.
        """
        path = self.places.file("nsec.enc")
        seen, problem, over = look_at(path), None, None
        try:
            if os.path.islink(path):
                raise Tampered("nsec.enc is a link")
            data = read_file(path)
            over = sha256(data).hex()
            verify_recovery(data, keys, vault)
        except AvaultError as error:
            problem, over = error, "" if isinstance(error, NotFound) else over
        if not problem:
            self.warning = self.warning if self.was_made else ""
            self.seen = seen
            self.note(data)
            return False
        if is_git_at_work(self.places.dir) or not os.path.lexists(self.places.file("avault.enc")):
            self.warning, self.was_made = f"{problem.message}; it is looked at again", False
            return False
        try:
            data = encode_file(
                "nsec", seal_nsec(keys, vault.identity, vault.operator, vault.name, self.host)
            )
            write_file(path, data, over=over)  # what a git pull brings meanwhile is looked at first
            self.seen = look_at(path)
            self.note(data)
            self.warning = (
                f"the recovery copy did not open the vault, and was made anew: {problem.message}"
            )
            self.was_made = True
            return True
        except FileChanged:
            return False
        except AvaultError as error:
            self.seen, self.digest = seen, ""
            self.warning = f"{problem.message}, so nothing but this machine opens the vault; nor can it be made anew: {error.message}"
            return False

    def note(self, data: bytes) -> None:
        """Remember what was verified, also for when the vault is locked; where that cannot be, `forget` will refuse."""
        self.digest = sha256(data).hex()
        path, content = (
            self.places.own("recovery.json"),
            encode_file("recovery", {"hash": self.digest}),
        )
        try:
            if not has_bytes(path, content):
                write_file(path, content)
        except AvaultError:
            pass


def read_verified(places: Places) -> str:
    """The SHA-256 of the nsec.enc that was last seen to open this vault; "" for none. Raises Tampered."""
    path = places.own("recovery.json")
    return (
        str(decode_file("recovery", read_file(path), path)["hash"]) if os.path.lexists(path) else ""
    )


def check_recovery(places: Places) -> None:
    """Raise AvaultError unless nsec.enc is what was last seen to open this vault: all that is known of it without the key."""
    path = places.file("nsec.enc")
    read_sealed("nsec", path)
    if sha256(read_file(path)).hex() != read_verified(places):
        raise Tampered(
            f"{path} has changed since it was last seen to open this vault",
            "avault unlock, which looks whether it opens, and mends it",
        )


# --------------------------------------------------------- signer/remote ----
# The NIP-46 client ("Nostr Remote Signing"), over the library's relay client; pairing.
#
# What comes from a relay is dropped unless it is the answer that we wait for.


RPC_KIND = 24_133
DEFAULT_RELAYS = ["wss://relay.primal.net", "wss://theforest.nostr1.com", "wss://nos.lol"]
# seconds into an asking; signers know an event id that they have seen
SAME_EVENT_AGAIN = (15.0, 30.0, 45.0)
# seconds; a new event with the same request id, as relays and signers drop old events
FRESH_EVENT_EVERY = 60.0
# seconds for which it is that often; a phone that wakes later is asked by whoever wakes it
FRESH_EVENT_AT_FIRST = 600.0
FRESH_EVENT_LATER = 300.0
JUST_ASKED = 1.0  # seconds; who asks so soon after another shares the event
STALE_EVENT = 10.0  # seconds; a relay that comes back after them gets a fresh event
OLD_ANSWER = 600.0  # seconds after which an answer to an earlier question counts for that one alone
NOBODY_ASKED = 2.5  # seconds; no person reads a sentence and taps faster
QUICK_IN_A_ROW = 3  # approvals within that time, after which the drill is advised
# seconds; none that gives up by itself is known to do so sooner (nsec.app: 60 s, Signet: 65 s)
SIGNER_WAITS = 55.0
# nobody was asked
NOT_A_REFUSAL = ("no permission", "not paired", "unknown client", "unsupported", "unrecognized")
NOT_PAIRED = (
    "no permission", "not paired", "invalid secret", "secret not in use", "no secret", "already connected", "unknown client",
)  # fmt: skip
# said of a refusal and of a stranger alike
UNCLEAR = ("not authorized", "unauthorized", "not authorised", "unauthorised")
# events of other keys that are looked at for one request: one of them may tell of a page to open
STRANGERS = 100
# of the signer's own time, not of a person
GAVE_UP = ("timeout", "timed out", "time out", "expired")
# 16 x 16 pixels, a padlock; its length is a multiple of three, so that no = stands in the pairing
# URI
PICTURE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAMElEQVR42kXIsQEAEAxFwffDHvbfgljDFgqpROnKU0I07aUTBgb0YqDhmtTrfxKDB2RODHZTp1uOAAAAAElFTkSuQmCC"
)


UNPROVEN = "pairing-unproven.json"  # in the state directory: what `avault pair` goes on with


class Pairing:
    """What a machine remembers of its signer: pairing.json in the state directory."""

    __slots__ = ("agent", "by_itself", "keys", "operator", "relays", "signer", "token")

    def __init__(
        self, keys: nostr_sdk.Keys, signer: str, agent: str, operator: str, relays: list[str]
    ) -> None:
        self.keys, self.signer, self.agent, self.operator, self.relays = (
            keys,
            signer,
            agent,
            operator,
            relays,
        )
        # whether the signer approves without asking a person; None: not known
        self.by_itself: bool | None = None
        # the secret of the code by which it was paired just now; not kept
        self.token: str | None = None

    @staticmethod
    def load(places: Places, name: str = "pairing.json") -> Pairing | None:
        """This machine's pairing, or None; raises Tampered."""
        path = places.own(name)
        if not os.path.lexists(path):
            return None
        content = decode_file("pairing", read_file(path), path)
        try:
            keys = nostr_sdk.Keys.parse(content["client_key"])
            signer, agent, operator = (
                parse_npub(content[name]) for name in ("signer", "agent", "operator")
            )
            pairing = Pairing(
                keys, signer, agent, operator, [check_relay(url) for url in content["relays"]]
            )
        except (Usage, nostr_sdk.NostrSdkError):
            raise Tampered(f"{path} is damaged", "pair anew with: avault pair --replace") from None
        pairing.by_itself = content["approves_by_itself"]
        return pairing

    @staticmethod
    def begun(places: Places, agent: str, operator: str, bunker: str | None) -> Pairing | None:
        """A pairing whose signer is connected, but has not opened an envelope of this vault yet; None if there is none.

        It is believed no more than a signer that connects just now: the envelope decides.
        With a `bunker` URI only if it is of that signer.
        """
        try:
            found = Pairing.load(places, UNPROVEN)
        except Tampered:
            return None
        if not found or (found.agent, found.operator) != (agent, operator):
            return None
        return found if not bunker or parse_bunker(bunker)[0] == found.signer else None

    def save(self, places: Places, name: str = "pairing.json") -> None:
        """Write pairing.json. Only for one by which the phone has opened an envelope of this vault: see `keep_pairing`."""
        content = {
            "client_key": self.keys.secret_key().to_hex(), "signer": self.signer, "agent": to_npub(self.agent),
            "operator": to_npub(self.operator), "relays": self.relays, "approves_by_itself": self.by_itself,
        }  # fmt: skip
        write_file(places.own(name), encode_file("pairing", content))

    def is_same(self, other: Pairing) -> bool:
        """Whether another pairing asks the same signer in the same way, for the same agent and operator."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("agent", "keys", "operator", "relays", "signer")
        )


def forget_begun(places: Places) -> None:
    """Remove what an interrupted pairing has left."""
    if os.path.lexists(path := places.own(UNPROVEN)):
        os.unlink(path)


def parse_bunker(uri: str) -> tuple[str, list[str], str]:
    """The signer's public key (hex), relays and secret of a bunker:// URI (NIP-46); raises Usage."""
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(uri.strip())
    if parts.scheme != "bunker":
        raise Usage(
            "not a bunker:// URI", "the signer shows it, as bunker://…?relay=wss://…&secret=…"
        )
    query = parse_qs(parts.query)
    relays = [check_relay(url) for url in query.get("relay", [])]
    if not relays:
        raise Usage("the bunker:// URI names no relay", "make a new one in the signer")
    return parse_npub(parts.netloc), relays, query.get("secret", [""])[0]


def introduce(name: str) -> dict[str, str]:
    """What a signer is told about us, to show it at each request: the client metadata of NIP-46.

    Some apps show no name, only the host of `url`: so that names the vault, in a
    domain that leads nowhere (RFC 6761).
    """
    import re

    host = re.sub("[^a-z0-9]+", ".", name.lower()).strip(".")[:63].strip(".")
    return {
        "name": name,
        "url": f"https://{host + '.' if host else ''}avault.invalid",
        "image": PICTURE,
    }


def nostrconnect_uri(client: str, relays: list[str], secret: str, name: str) -> str:
    """The URI that the signer scans (NIP-46, "Direct connection initiated by the client").

    Asks for no decrypt permission: asking for it makes several signers approve
    for ever. Percent-encoded throughout, with %20 for a space. The picture stands
    last, so that a QR code can do without it.
    """
    from urllib.parse import quote

    pairs = [("relay", url) for url in relays] + [("secret", secret), ("perms", "get_public_key")]
    pairs += introduce(name).items()
    return f"nostrconnect://{client}?" + "&".join(
        f"{key}={quote(value, safe='')}" for key, value in pairs
    )


def shorten_hex(public: str) -> str:
    """A public key (hex) by its ends."""
    return f"{public[:8]}…{public[-8:]}"


def shorten_key(public: str) -> str:
    """A public key (hex) as signer apps cut it: 8 and 8 hex digits (Amber), or the ends of its npub (nsec.app, Signet)."""
    npub = to_npub(public)
    return f"{shorten_hex(public)} or {npub[:16]}…{npub[-4:]}"


def plan_requests(patient: bool) -> Iterator[tuple[float, bool]]:
    """When a question goes out again, in seconds since it was first asked, and whether as a fresh event; without end."""
    for seconds in SAME_EVENT_AGAIN if patient else (3.0, 6.0, 10.0, *SAME_EVENT_AGAIN):
        yield seconds, False
    seconds = FRESH_EVENT_EVERY
    while True:
        yield seconds, True
        seconds += FRESH_EVENT_EVERY if seconds < FRESH_EVENT_AT_FIRST else FRESH_EVENT_LATER


def is_own_timeout(text: str, seconds: float) -> bool:
    """Whether a signer's refusal, so many seconds after the question, is its own giving up and nobody's decision."""
    text = text.lower()
    if any(words in text for words in GAVE_UP):
        return True
    return seconds >= SIGNER_WAITS and any(words in text for words in UNCLEAR)


def network() -> tuple[object, ...]:
    """What is another when the machine has moved to another network, or slept: its addresses towards the world."""
    addresses: list[object] = []
    # for documentation: RFC 5737, 3849
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))  # which sends nothing
                addresses.append(probe.getsockname()[0])
        except OSError:
            addresses.append(None)
    slept = (
        time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        if hasattr(time, "CLOCK_BOOTTIME")
        else 0.0
    )
    return *addresses, round(slept)


def accept_token(token: str) -> Callable[[str], None]:
    """What counts as the result of decrypting the drill."""

    def accept(result: str) -> None:
        if token not in result:
            raise Tampered("the signer answered with something else")

    return accept


class Request:
    """A request under way: its id, what to do with a result, and the future of its answer.

    A `patient` one waits for a person.
    """

    def __init__(
        self, method: str, params: list[str], accept: Callable[[str], Any], patient: bool
    ) -> None:
        self.method, self.params, self.accept, self.patient = method, params, accept, patient
        self.ids: set[str] = set()
        self.renew()
        self.begin_plan()
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.refusal: asyncio.TimerHandle | None = None
        self.is_told_by_content = False

    def renew(self) -> None:
        """Take another id, as a signer that has answered one ignores it from then on; what answers an old one still counts."""
        self.id = secrets.token_hex(16)
        self.ids.add(self.id)

    def body(self) -> str:
        """The request as it is sent."""
        return json.dumps({"id": self.id, "method": self.method, "params": self.params})

    def begin_plan(self) -> None:
        """Plan, from now on, when it is sent again."""
        self.begun, self.plan = time.monotonic(), plan_requests(self.patient)
        self.take_step()

    def take_step(self) -> None:
        """Go on in the plan."""
        after, self.is_fresh_next = next(self.plan)
        self.due = self.begun + after


class Sending:
    """An event on its way to the relays: whose request, when it was made, what each relay said, and whether it has left us."""

    def __init__(self, event: nostr_sdk.Event, request: str, made: float) -> None:
        self.event, self.request, self.made = event, request, made
        self.said: dict[str, str] = {}
        self.is_sent = False


class RemoteSigner:
    """A NIP-46 client: `await open()`, then `greet` or `request`, then `await close()`.

    `signer` is the remote signer's public key (hex); None until `greet` or a
    bunker URI has told it. `changed` is called when `describe()` would say
    something new.
    """

    def __init__(
        self,
        keys: nostr_sdk.Keys,
        relays: list[str],
        signer: str | None,
        changed: Callable[[], None],
    ) -> None:
        self.keys, self.signer, self.changed = keys, signer, changed
        self.me = public_hex(keys)
        self.relays: dict[str, dict[str, Any]] = {
            url: {"url": url, "connected": False, "said": None} for url in relays
        }
        self.pending: Request | None = None
        # the secret of our pairing code: the first who echoes it is the signer
        self.token: str | None = None
        self.greeted: asyncio.Future[str] | None = None  # by whom
        self.rival: AvaultError | None = None  # a second one has echoed it
        self.alarmed = asyncio.Event()
        self.ready = asyncio.Event()  # a relay has confirmed our subscription
        self.clients: list[nostr_sdk.Client] = []
        self.pool: dict[str, nostr_sdk.Relay] = {}
        self.since, self.requests = time.time(), 0
        self.is_urged = False
        # somebody waits at a terminal, who is to hear of a refusal that nobody can have given
        self.is_attended = True
        self.is_resting = False  # it listens for an answer, and sends nothing
        self.strangers = 0
        self.network = network()
        self.error: str | None = None
        self.notice: str | None = None  # what the operator should know of the signer's behaviour
        self.auth_url: str | None = None
        self.clock: str | None = None
        # the answer was given long ago, to an earlier question: who held it back chose the time
        self.is_old = False
        # seconds from the first relay's acceptance to the answer
        self.answered_in: float | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect and subscribe in the background; relays that are down are tried again every 5 s."""
        from datetime import timedelta

        options = (
            nostr_sdk.RelayOptions()
            .retry_interval(timedelta(seconds=5))
            .adjust_retry_interval(False)
        )
        # for NIP-42: relays that want to know who asks
        nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        # a client for each: the library drops what it cannot hand on, and one may flood us
        for url in self.relays:
            client = (
                nostr_sdk.ClientBuilder()
                .authenticator(nostr_sdk.SignerAuthenticator(self.keys))
                .build()
            )
            self.clients.append(client)
            await client.add_relay(address := nostr_sdk.RelayUrl.parse(url), opts=options)
            self.pool[url] = await client.relay(address)
            stream = client.notifications()  # before connecting, so that nothing is missed
            await client.connect()
            await self.subscribe(client)
            spawn(self.tasks, self.listen(client, stream))

    async def subscribe(self, client: nostr_sdk.Client, after: float = 0.0) -> None:
        """Ask a relay for our events: neither `since` nor `limit`, as a wrong clock or a gap must not hide an answer."""
        await asyncio.sleep(after)
        mine = nostr_sdk.Filter().kind(nostr_sdk.Kind(RPC_KIND)).pubkey(self.keys.public_key())
        await client.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="avault")

    async def close(self) -> None:
        """Disconnect."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*(client.shutdown() for client in self.clients))

    def describe(self) -> dict[str, Any]:
        """What is being waited for, as `status` shows it."""
        return {
            "since": render_time(self.since),
            "requests": self.requests,
            "next": self.next_time(),
            "client_key": self.me,
            "error": self.error,
            "notice": self.notice,
            "auth_url": self.auth_url,
        }

    def next_time(self) -> str | None:
        """When the question goes out again; None while no relay is there to take it."""
        if not self.pending or not any(relay["connected"] for relay in self.relays.values()):
            return None
        return render_time(time.time() + max(self.pending.due - time.monotonic(), 0.0))

    def ask_again(self) -> None:
        """Have the question go out at once, as somebody is there who waits for it."""
        self.is_urged = True

    async def listen(self, client: nostr_sdk.Client, stream: Any) -> None:
        """Take what a relay sends, for ever."""
        again = 0.0
        while notification := await stream.next():
            if notification.is_NEW_EVENT():
                try:
                    self.hear(notification.event)
                except (
                    ValueError,
                    TypeError,
                    KeyError,
                    AttributeError,
                    RecursionError,
                    nostr_sdk.NostrSdkError,
                ):
                    continue  # garbage is free to send; it must not end a wait
            elif (
                notification.is_MESSAGE()
                and notification.message.as_enum().is_END_OF_STORED_EVENTS()
            ):
                self.ready.set()
            elif (
                notification.is_MESSAGE()
                and notification.message.as_enum().is_CLOSED()
                and time.monotonic() >= again
            ):
                # once, though it be closed a thousand times meanwhile
                again = time.monotonic() + 5.0
                # the library does not, and would be deaf
                spawn(self.tasks, self.subscribe(client, after=5.0))
            elif notification.is_SHUTDOWN():
                return

    def hear(self, event: nostr_sdk.Event) -> None:
        """Handle one event: author, signature, p-tag and id must be right, else nothing happens."""
        author = event.author().to_hex()
        if event.kind().as_u16() != RPC_KIND:
            return
        if self.signer and author != self.signer and not self.token:
            self.strangers += 1
            if self.strangers > STRANGERS:
                return
        if not event.verify() or ["p", self.me] not in [tag.to_vec()[:2] for tag in event.tags()]:
            return
        is_old_form = "?iv=" in event.content()
        decrypt = nostr_sdk.nip04_decrypt if is_old_form else nostr_sdk.nip44_decrypt
        message = json.loads(decrypt(self.keys.secret_key(), event.author(), event.content()))
        result, error = message.get("result"), message.get("error")
        if (
            self.token
            and isinstance(result, str)
            and secrets.compare_digest(result.encode(), self.token.encode())
        ):
            self.note_echo(author, is_old_form)
            return
        request = self.pending
        if not request or request.answer.done():
            return
        made = event.created_at().as_secs()  # as the signer has signed it
        self.is_old = message.get("id") != request.id and made < time.time() - OLD_ANSWER
        if message.get("id") not in request.ids:
            if (
                request.is_told_by_content
                and author == self.signer
                and isinstance(result, str)
                and not error
                and not is_old_form
            ):
                try:
                    request.answer.set_result(request.accept(result))
                except AvaultError:
                    pass  # the answer to something else
            return
        if author != self.signer:  # whoever it is has our question's id from the signer
            if result == "auth_url":
                self.show(error, author)
            return
        if is_old_form:
            request.answer.set_exception(self.old_form())
            return
        self.check_clock(made)
        if result == "auth_url":
            self.show(error)
        elif error:
            self.refuse(
                request,
                error if isinstance(error, str) else json.dumps(error),
                message["id"] == request.id,
            )
        elif isinstance(result, str) and not error:
            try:
                request.answer.set_result(request.accept(result))
                self.note_time()
            except Denied as refused:  # an answer that can only be wrong
                request.answer.set_exception(refused)
            except (
                AvaultError
            ) as refused:  # not the answer to our question: say so, and wait for the right one
                self.error = refused.message
                self.changed()

    def note_echo(self, author: str, is_old_form: bool) -> None:
        """The secret of our pairing code came back: from the signer; or from a second one, which ends the pairing.

        Both have seen the code, and nobody can tell which of them is the operator's.
        """
        if self.greeted and not self.greeted.done():
            if is_old_form:
                self.greeted.set_exception(self.old_form())
            else:
                self.signer = author
                self.greeted.set_result(author)
        elif self.signer and author != self.signer and not self.rival:
            self.rival = Denied(
                "ALARM: two signers answered this pairing code, so somebody else has seen it; the pairing is ended",
                "delete the connection in the app, and pair with a new code that nobody else sees",
            )
            self.alarmed.set()
            if self.pending and not self.pending.answer.done():
                self.pending.answer.set_exception(self.rival)

    async def unless_alarmed(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` gives; raises Denied as soon as a second signer has answered the pairing code."""
        task, alarm = asyncio.ensure_future(work), asyncio.ensure_future(self.alarmed.wait())
        try:
            await asyncio.wait([task, alarm], return_when=asyncio.FIRST_COMPLETED)
            if self.rival:
                raise self.rival
            return task.result()
        finally:
            task.cancel()
            alarm.cancel()

    def note_time(self) -> None:
        """Note how long the answer took, from the first relay's acceptance, or from the first try."""
        self.answered_in = time.monotonic() - (self.accepted_at or self.asked_at)

    def old_form(self) -> AvaultError:
        """Why an answer of the signer cannot be read."""
        return AvaultError(
            "the signer answers in an old form (NIP-04), which avault does not read",
            "update the app, or pair with another: avault pair --replace",
        )

    def show(self, url: object, author: str | None = None) -> None:
        """Keep the page that the signer, or an `author` that it has told, wants the operator to open; we never open it."""
        if isinstance(url, str) and url.startswith(("https://", "http://")):
            page = printable(url, 500)
            if not author:
                self.auth_url = page
            elif not self.auth_url:
                self.notice = (
                    f"another key than the signer's, {shorten_key(author)}, wants a page opened: {page} "
                    "(Signet does so from its admin key; if yours is no Signet, do not open it)"
                )
            self.changed()

    def refuse(self, request: Request, text: str, is_current: bool) -> None:
        """End the request as refused, unless the signer only gave up; an authorization error leaves 5 s for another signer."""
        is_stranger = any(words in text.lower() for words in NOT_PAIRED)
        is_unclear = any(words in text.lower() for words in (*UNCLEAR, *GAVE_UP))
        if is_unclear and not is_current:
            return  # it gave up, and says so again
        self.error = printable(text)
        self.note_time()
        if request.patient and is_own_timeout(text, self.answered_in or 0.0):
            self.notice = f"the signer gave up by itself after {self.answered_in:.0f} s ({self.error}): nobody refused, it is asked anew"
            request.renew()
            self.changed()
            return
        if (
            request.patient
            and not self.is_attended
            and not is_stranger
            and (self.answered_in or 0.0) < NOBODY_ASKED
        ):
            self.notice = (
                f"the signer refused at once ({self.error}), which nobody can: it may remember a refusal, so delete that in the "
                "app's permissions for this connection; it is asked anew"
            )
            request.renew()
            self.changed()
            return
        if is_stranger or request.method == "connect":
            hint = "approve it there, or pair again with: avault pair --replace"
        else:
            hint = "ask again with: avault unlock"
        refused = Denied(f"the signer refused: {self.error}", hint)
        if not is_stranger and not is_unclear:
            request.answer.set_exception(refused)
        elif request.refusal is None:
            self.changed()
            end = lambda: None if request.answer.done() else request.answer.set_exception(refused)  # noqa: E731
            request.refusal = asyncio.get_running_loop().call_later(5.0, end)

    def check_clock(self, created_at: int) -> None:
        """Notice that the signer's clock and ours differ: relays and signers drop what is too old or too new."""
        skew = int(created_at - time.time())
        if abs(skew) > 60:
            self.clock = f"this machine's clock and the signer's differ by {abs(skew)} s"
            self.changed()

    async def wait_ready(self, timeout: float) -> None:
        """Wait until a relay has our subscription; raises Unavailable."""
        try:
            await asyncio.wait_for(self.ready.wait(), timeout)
        except TimeoutError:
            raise Unavailable(
                f"no relay answers: {', '.join(self.relays)}",
                "check the network, or choose others: --relay",
            ) from None
        self.look_at_relays()

    def look_at_relays(self) -> list[str]:
        """Bring `connected` up to date; the relays that are connected anew."""
        anew = []
        for url, relay in self.pool.items():
            connected = relay.status() == nostr_sdk.RelayStatus.CONNECTED
            if connected != self.relays[url]["connected"]:
                self.relays[url]["connected"] = connected
                anew += [url] if connected else []
                self.changed()
        return anew

    def look_at_network(self) -> None:
        """Connect anew where the machine is in another network, or has slept: a dead connection is noticed late."""
        if (here := network()) != self.network:
            self.network = here
            for relay in self.pool.values():
                relay.disconnect()
                relay.connect()
            self.ask_again()

    async def greet(self, secret: str) -> str:
        """Wait for the signer that scanned our URI: the author of the reply that echoes `secret`."""
        self.token, self.greeted = secret, asyncio.get_running_loop().create_future()
        while not self.greeted.done():
            self.look_at_relays()
            await asyncio.wait([self.greeted], timeout=1.0)
        return self.greeted.result()

    def rest(self) -> None:
        """Send nothing any more, and go on listening for the answer."""
        self.is_resting = True

    def wake(self, anew: bool, at_once: bool) -> None:
        """Go on asking: after a rest at once, `anew` under another id, as a signer may have done with the one before."""
        if self.is_resting and anew and self.pending:
            self.pending.renew()
        if self.is_resting or at_once:
            self.ask_again()
        self.is_resting = False

    async def request(
        self,
        method: str,
        params: list[str],
        accept: Callable[[str], Any],
        patient: bool = True,
        is_told_by_content: bool = False,
    ) -> Any:
        """Ask the signer, until it answers; what `accept` makes of the result.

        `accept` raises AvaultError for a result that is not the answer: the wait
        goes on. A refusal raises Denied. Silence never ends it; the caller may.
        The same event is sent again at first, then fresh ones with the same
        request id. For what no person is asked (not `patient`) it is sent more often.
        Where the answer `is_told_by_content`, one to a request of an earlier process
        is taken too: it is on nobody's phone twice, and opens nothing else.
        """
        if self.rival:
            raise self.rival
        request = self.pending = Request(method, params, accept, patient)
        request.is_told_by_content = is_told_by_content
        self.asked_at = time.monotonic()
        self.accepted_id = ""
        self.accepted_at: float | None = None  # when a relay first took the request of that id
        self.answered_in = self.error = self.notice = self.auth_url = None
        self.is_urged, self.strangers = False, 0
        sending = self.compose(request)
        busy: set[str] = set()  # relays that have not said yet what they think of an event
        try:
            while not request.answer.done():
                self.look_at_network()
                anew = self.look_at_relays()
                if not self.is_resting:
                    sending = self.attend(request, sending, anew)
                for url, relay in self.pool.items():
                    is_free = (
                        self.relays[url]["connected"]
                        and url not in sending.said
                        and url not in busy
                    )
                    if is_free and not self.is_resting:
                        busy.add(url)
                        spawn(self.tasks, self.publish(url, relay, sending, busy))
                quick = time.monotonic() - self.asked_at < 5 and not sending.said
                await asyncio.wait([request.answer], timeout=0.02 if quick else 1.0)
            return request.answer.result()
        finally:
            self.pending = None
            if request.refusal:
                request.refusal.cancel()

    def attend(self, request: Request, sending: Sending, anew: list[str]) -> Sending:
        """What is to be sent at this moment: the event of before, the same once more, or a fresh one."""
        now = time.monotonic()
        age = now - sending.made
        for url in anew:
            sending.said.pop(url, None)  # who listens there may have missed it
        if (self.is_urged and age > JUST_ASKED) or (anew and age > STALE_EVENT):
            self.is_urged = False
            request.begin_plan()
            return self.compose(request)
        self.is_urged = False
        if now < request.due:
            return sending
        is_fresh = sending.request != request.id
        while now >= request.due:
            is_fresh |= request.is_fresh_next
            request.take_step()
        return (
            self.compose(request)
            if is_fresh
            else Sending(sending.event, sending.request, sending.made)
        )

    def compose(self, request: Request) -> Sending:
        """A fresh event with the request, for the signer."""
        signer = nostr_sdk.PublicKey.parse(self.signer)
        content = nostr_sdk.nip44_encrypt(
            self.keys.secret_key(), signer, request.body(), nostr_sdk.Nip44Version.V2
        )
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), content)
        event = builder.tags([nostr_sdk.Tag.public_key(signer)]).finalize(self.keys)
        return Sending(event, request.id, time.monotonic())

    async def publish(self, url: str, relay: Any, sending: Sending, busy: set[str]) -> None:
        """Send an event to one relay and note what it says; silence or a lost connection is tried again."""
        from datetime import timedelta

        said = sending.said
        text = "accepted"
        try:
            await relay.send_event(sending.event, ok_timeout=timedelta(seconds=5))
        except nostr_sdk.NostrSdkError as error:
            text = printable(str(error).strip("'\""))
        finally:
            busy.discard(url)
        if text.startswith("duplicate:"):  # it has the event already (NIP-01)
            text = "accepted"
        if text not in ("timeout", "relay not connected"):
            said[url] = text
        if text == "accepted" and sending.request != self.accepted_id:
            self.accepted_id, self.accepted_at = sending.request, time.monotonic()
        if text != "relay not connected" and not sending.is_sent:
            sending.is_sent = True
            self.requests += 1
        self.relays[url]["said"] = said.get(url, "no answer")
        self.changed()


def is_clock_unsynchronised() -> bool:
    """Whether the kernel says that nothing keeps its clock right (adjtimex(2), TIME_ERROR); Linux only."""
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)) == 5)


# ----------------------------------------------------- custody/custodian ----
# The ways to get the agent's key.
#
# One is the phone; others are to come. Each is a class with `async def obtain(content)`, where
# `content` is what `read_unlock` gives, and with `proves`: whether it shows that the operator's
# phone opens this vault.


class GivenKey:
    """The agent's key from NOSTR_NSEC, for tests and for machines without a phone."""

    proves = False

    def __init__(self, nsec: str) -> None:
        self.keys = parse_keys(nsec)

    async def obtain(self, content: dict[str, Any]) -> nostr_sdk.Keys:
        """The key, if it is this vault's agent; raises Tampered."""
        if to_npub(public_hex(self.keys)) != content["agent"]:
            raise Tampered(
                "NOSTR_NSEC is not the key of this vault's agent",
                f"the agent is {content['agent']}",
            )
        return self.keys


class Phone:
    """The agent's key by the operator's approval, over NIP-46."""

    proves = True

    def __init__(self, pairing: Pairing, signer: RemoteSigner) -> None:
        self.pairing, self.signer = pairing, signer

    async def obtain(self, content: dict[str, Any]) -> nostr_sdk.Keys:
        """Ask for the envelope until it is opened; raises Denied, Tampered."""
        pairing = self.pairing
        if (to_npub(pairing.agent), to_npub(pairing.operator)) != (
            content["agent"],
            content["operator"],
        ):
            raise Tampered(
                "the vault's files are not those that this machine was paired for",
                "put the right directory back, or: avault pair --replace",
            )
        params = [pairing.agent, content["envelope"]]
        accept = lambda result: open_nsec(content, result)  # noqa: E731
        return await self.signer.request("nip44_decrypt", params, accept, is_told_by_content=True)


class Keychain:
    """The agent's key by an unlock key of its own, from the platform's keychain: nobody is asked."""

    proves = False

    def __init__(self, places: Places, answer: bytes) -> None:
        self.path, self.answer = places.own("keychain.json"), answer

    async def obtain(self, content: dict[str, Any]) -> nostr_sdk.Keys:
        """The key, if keychain.json is of this vault and the keychain had what opens it; raises Unavailable."""
        try:
            answer = decode_frame(self.answer or b"{}")
            sealed = decode_file("keychain", read_file(self.path), self.path)
            if answer.get("outcome") != "ok":
                raise Unavailable(
                    f"{answer.get('outcome')}: {printable(answer.get('detail') or 'it did not answer')}"
                )
            if any(
                sealed[name] != content[name] for name in ("vault", "name", "agent", "operator")
            ):
                raise Unavailable("keychain.json is of another vault")
            return open_nsec(sealed, json.dumps({"avault": answer["value"]}))
        except (AvaultError, ValueError) as error:
            raise Unavailable(
                error.message
                if isinstance(error, AvaultError)
                else "it answered with something else"
            ) from None


# -------------------------------------------------------- daemon/process ----
# How our processes start: a clean environment, hardened, the vault's lock.


KEPT_VARIABLES = {
    "HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SYSTEMROOT", "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "DBUS_SESSION_BUS_ADDRESS",
    # where git finds the user's settings and keys
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GNUPGHOME",
    "WORKSPACE", "AVAULT_DIR", "AVAULT_SOCKET", "AVAULT_PID",
}  # fmt: skip


def clean_environment() -> dict[str, str]:
    """The environment of the daemon: what it needs, and nothing that may be a secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_VARIABLES or name.startswith("LC_")
    }


def own_command(*arguments: str) -> list[str]:
    """The command line that runs this file with the same interpreter.

    Imported, not run as a script: that takes the compiled file, which is 40 ms
    and 10 MB less for each process.
    """
    place = os.path.dirname(os.path.realpath(__file__))
    program = "AVAULT_COMMAND = True; import sys; sys.path.insert(0, sys.argv.pop(1)); import avault; del sys.path[0]; avault.main()"
    return [sys.executable, "-P", "-c", program, place, *arguments]


def lock_directory(path: str) -> int:
    """Lock a vault directory for this process and its keyholders; raises Unavailable if it is locked.

    The lock is on the directory itself, beside no file that git would see, and
    on the open file: a keyholder inherits it, so that there is no second
    writer until both are gone.
    """
    import fcntl

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        hint = "stop it from where it was started: another AVAULT_SOCKET, HOME or XDG_STATE_HOME"
        raise Unavailable(f"another daemon holds the vault {path}", hint) from None
    return fd


def harden(title: str, die_with_parent: bool = False) -> None:
    """No core dumps, no ptrace by the same user, private files; before any secret arrives.

    `title` (15 bytes) is the process's name in `ps` and `top`.
    """
    import resource

    sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio does without it, and each process with 4 MB less

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # usual are 1,024, and a client's is one of them
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4_096), most))
    os.umask(0o077)
    if sys.platform == "linux":
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        if prctl(4, 0, 0, 0, 0):  # PR_SET_DUMPABLE
            raise AvaultError("the kernel refuses PR_SET_DUMPABLE")
        prctl(15, title.encode(), 0, 0, 0)  # PR_SET_NAME
        if die_with_parent:
            prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def is_hardened(pid: int) -> bool:
    """Whether a process of ours is closed to others of the same user, as the kernel says it, not the process.

    On Linux: it is not dumpable, so that root owns what is in its /proc (proc(5)), and nobody traces it. Where /proc hides
    it from us (hidepid), it is not dumpable either. Root may look into every process, and other systems do not tell.
    """
    if sys.platform != "linux" or os.getuid() == 0:
        return True
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            return (
                os.fstat(status.fileno()).st_uid != os.getuid()
                and b"\nTracerPid:\t0\n" in status.read()
            )
    except FileNotFoundError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    except OSError:
        return False


async def meet(door: socket.socket, pid: int, timeout: float = 10.0) -> socket.socket:
    """A socket to a helper process that nobody else can hold, once that says through `door` that it is hardened.

    What a process is started with, others of the same user may have taken before it was hardened: a pipe is opened through
    /proc/PID/fd, a socket by pidfd_getfd(2). So the helper makes a socket of its own afterwards, and sends that
    (see `introduce_helper`). That it is the helper who sends, and what it is, the kernel says. Raises Unavailable.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    loop.add_reader(door, lambda: None if told.done() else told.set_result(None))
    try:
        async with asyncio.timeout(timeout):
            await told
        space = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(12)
        _, ancillary, _, _ = door.recvmsg(64, space, socket.MSG_DONTWAIT)
    except OSError:  # also of the time
        ancillary = []
    finally:
        loop.remove_reader(door)
    found = {kind: data for _, kind, data in ancillary}
    if socket.SCM_RIGHTS in found:
        own = socket.socket(fileno=int.from_bytes(found[socket.SCM_RIGHTS][:4], sys.byteorder))
        # SCM_CREDENTIALS: pid, uid, gid
        sender = int.from_bytes(found.get(2, b"")[:4], sys.byteorder)
        if (sys.platform != "linux" or sender == pid) and is_hardened(pid):
            return own
        own.close()
    raise Unavailable(
        "the helper process did not show that it is closed to other programs, so it gets no key",
        "try again",
    )


def introduce_helper(door: int) -> socket.socket:
    """The helper's side of `meet`, for a process that is hardened: a socket of its own, whose other end it sends."""
    own, theirs = socket.socketpair()
    with theirs, socket.socket(fileno=os.dup(door)) as out:
        socket.send_fds(out, [b"hardened"], [theirs.fileno()])
    return own


def room() -> int:
    """How many clients a process keeps, with half of its descriptors; beyond, who was quiet the longest has to go."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def place_name() -> str:
    """Where this runs, as the operator knows it: USER@HOST, which tells two users' vaults of one name apart."""
    import pwd

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        user = str(os.getuid())
    return f"{printable(user, 32)}@{printable(socket.gethostname().split('.')[0], 64)}"


def uptime() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(
        time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC
    )


def report_quietly(loop: object, context: dict[str, Any]) -> None:
    """asyncio's word of an unhandled exception, without its text: that may hold what it was about."""
    error = context.get("exception")
    write_all(
        2, f"avault: error: {type(error).__name__ if error else 'an event loop error'}\n".encode()
    )


# --------------------------------------------------------- daemon/asking ----
# The question to the operator: who waits for it, and when it may be put again.
#
# As the supervisor sees it; the keyholder carries it out.


# seconds for which it is one question, whoever asks again, and for which a caller that died is
# remembered
TOGETHER = 600.0
# seconds for which callers that ask on their own leave the phone alone, after one question in vain,
# two, …
PAUSES = {
    "unanswered": (60, 300, 900, 3600),
    "refused": (900, 3600, 14400),
}


class Caller:
    """Somebody who wants the vault open, and waits for it.

    A `person` typed it; others ask on their own, and are restrained by pauses,
    except for a daemon that starts. With `stay` the daemon goes on
    asking for so many seconds after the question began, with or without the
    caller. `has_died` is true once its connection ended without a word.
    """

    def __init__(
        self,
        timeout: float | None,
        accept_rollback: bool = False,
        person: bool = False,
        stay: float | None = None,
        is_restrained: bool = True,
        is_attended: bool = True,
    ) -> None:
        self.timeout, self.accept_rollback, self.person, self.stay = (
            timeout,
            accept_rollback,
            person,
            stay,
        )
        self.is_restrained = is_restrained and not person
        # somebody is to hear of a refusal that nobody can have given
        self.is_attended = is_attended
        self.since, self.has_died = uptime(), False


class Pauses:
    """How long callers that ask on their own leave the phone alone: pauses.json, which the daemon alone writes.

    Each question in vain makes the next pause longer. A person who asks, and an
    unlock, end them.
    """

    def __init__(self, places: Places) -> None:
        self.path = places.own("pauses.json")

    def read(self) -> dict[str, Any]:
        """How many questions were in vain, whether the last was refused, and when; what cannot be read counts as none."""
        try:
            found = decode_file("pauses", read_file(self.path), self.path)
            if 0 <= found["last"] < 1 << 40:  # a time that others than us have written may be none
                return found
        except AvaultError:
            pass
        return {"in_vain": 0, "refused": False, "last": 0}

    def end(self) -> float | None:
        """When the pause ends, in Unix seconds; None where there is none. A clock that went back makes none longer."""
        found, now = self.read(), time.time()
        if found["in_vain"] < 1 or found["last"] > now:
            return None
        steps = PAUSES["refused" if found["refused"] else "unanswered"]
        end = float(found["last"] + steps[min(found["in_vain"], len(steps)) - 1])
        return end if end > now else None

    def check(self) -> None:
        """Raise Denied after a refusal, TimedOut where nobody answered, while the pause lasts."""
        if (end := self.end()) is None:
            return
        found = self.read()
        when = f"programs may ask again at {render_time(end)}; if the operator agreed, at once: avault unlock --again"
        if found["refused"]:
            raise Denied(
                f"the operator refused at {render_time(found['last'])}, and the phone is left alone",
                when,
            )
        raise TimedOut(
            f"nobody had answered by {render_time(found['last'])}, and the phone is left alone",
            when,
        )

    def note(self, refused: bool) -> None:
        """A question was in vain."""
        content = {
            "in_vain": self.read()["in_vain"] + 1,
            "refused": refused,
            "last": int(time.time()),
        }
        try:
            write_file(self.path, encode_file("pauses", content))
        except AvaultError:
            pass  # a disk that is full keeps nobody from asking

    def clear(self) -> None:
        """Forget what was in vain."""
        try:
            os.unlink(self.path)
        except OSError:
            pass


class Question:
    """The one question that the operator has at a time: all states of an unlock.

                  somebody asks                       the phone approves
        at rest ─────────────────────► asked ──────────────────────────────────► open
          ▲ ▲                          │   ▲                                       ▲
          │ └──── the phone refuses ───┤   │ somebody asks: within ten             │ the phone approves, and a
          │                            │   │ minutes the same question             │ caller that died had asked
          │    nobody waits any more   ▼   │                                       │ within ten minutes
          │                          listening ────────────────────────────────────┘
          │                            │
          └────────────────────────────┘
            the phone refuses; or it approves: then the ratchet turns, and nothing is opened

    While it is asked, the keyholder sends the request again and again; while it
    listens, it sends nothing (`rest`). What all callers share is one wish: one
    that accepts an older vault is not answered by a question without that.
    """

    def __init__(self, places: Places) -> None:
        self.pauses = Pauses(places)
        self.callers: set[Caller] = set()
        self.accepts_rollback = False
        self.begun: float | None = None  # uptime of the first asking
        self.wanted_until = 0.0  # uptime until which a late answer opens the vault

    def join(self, caller: Caller, asks_phone: bool) -> bool:
        """Take in a caller, and say whether that begins another question; raises Unavailable, and what a pause says."""
        if self.callers and caller.accept_rollback != self.accepts_rollback:
            asked = (
                "with --accept-rollback" if self.accepts_rollback else "without --accept-rollback"
            )
            raise Unavailable(
                f"the phone is being asked {asked}, and both cannot share the answer",
                "end that first: avault lock",
            )
        if caller.person:
            self.pauses.clear()
        elif asks_phone and caller.is_restrained and not self.callers:
            self.pauses.check()
        is_new = self.begun is None or (not self.callers and uptime() - self.begun >= TOGETHER)
        if is_new:
            self.begun, self.wanted_until = uptime(), 0.0
        self.callers.add(caller)
        self.accepts_rollback = caller.accept_rollback
        return is_new

    def patience(self, caller: Caller) -> float | None:
        """For how many seconds a caller may wait; None for ever."""
        if caller.stay is None:
            return caller.timeout
        left = max((self.begun or uptime()) + caller.stay - uptime(), 0.0)
        return left if caller.timeout is None else min(left, caller.timeout)

    def leave(self, caller: Caller) -> None:
        """A caller waits no more."""
        if caller in self.callers and caller.has_died and not caller.accept_rollback:
            self.wanted_until = max(self.wanted_until, caller.since + TOGETHER)
        self.callers.discard(caller)
        if not self.callers and self.begun is not None and uptime() - self.begun >= TOGETHER - 1:
            self.close(refused=False)

    def give_up(self) -> None:
        """Nobody waits any more, nor wants what comes late."""
        self.callers.clear()
        self.wanted_until = 0.0

    def close(self, refused: bool) -> None:
        """It was in vain: the next one is another."""
        if self.begun is not None:
            self.begun = None
            self.pauses.note(refused)

    def succeed(self) -> None:
        """The vault is open."""
        self.begun, self.wanted_until = None, 0.0
        self.pauses.clear()


# ----------------------------------------------------------- daemon/wire ----
# The connections of the daemon: between its two processes, and of clients to the keyholder.


class Control:
    """The stream between supervisor and keyholder: frames, some with a file descriptor.

    `receive(message, fd)` is called for each frame, `lost()` when the other end
    is gone. Sending never blocks.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[dict[str, Any], int | None], None],
        lost: Callable[[], None],
    ) -> None:
        self.sock, self.receive, self.lost = sock, receive, lost
        self.frames = Frames()
        self.fds: list[int] = []
        self.queue: list[tuple[bytes, int | None]] = []
        self.loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self.loop.add_reader(sock, self.readable)

    def send(self, message: dict[str, Any], fd: int | None = None) -> None:
        """Send a frame; `fd` is duplicated into the other process. Raises Locked if that is gone."""
        data = encode_frame({**message, "fd": True} if fd is not None else message)
        if self.sock.fileno() < 0:
            raise Locked("the vault was locked meanwhile", "ask the phone with: avault unlock")
        self.queue.append((data, None if fd is None else os.dup(fd)))
        self.flush()

    def flush(self) -> None:
        """Send what the stream takes; go on when it takes more."""
        while self.queue:
            data, fd = self.queue[0]
            try:
                sent = socket.send_fds(self.sock, [data], [] if fd is None else [fd])
            except BlockingIOError:
                self.loop.add_writer(self.sock, self.flush)
                return
            except OSError as error:
                # descriptors under way are counted too: some are taken soon
                if error.errno == errno.ETOOMANYREFS:
                    self.loop.call_later(0.02, self.flush)
                else:
                    self.close()
                return
            if fd is not None:
                os.close(fd)
            self.queue[0] = (data[sent:], None)
            if sent == len(data):
                self.queue.pop(0)
        self.loop.remove_writer(self.sock)

    def readable(self) -> None:
        """Take what has come."""
        try:
            data, fds, flags, _ = socket.recv_fds(self.sock, 1 << 16, 64)
        except BlockingIOError:
            return
        except OSError:
            data, fds, flags = b"", [], 0
        # The kernel gives one descriptor at a time. One that it could not give, as we have too many, keeps its place:
        # else the next connection would get the answer to this one's question.
        self.fds += [-1] if flags & socket.MSG_CTRUNC else fds
        if not data:
            self.close()
            return
        self.frames.feed(data)
        while (frame := self.frames.next()) is not None:
            message = decode_frame(frame)
            fd = self.fds.pop(0) if message.get("fd") else None
            if fd != -1:
                self.receive(message, fd)

    def close(self) -> None:
        """Close this end and every descriptor that was not handed over, and call `lost`, once."""
        if self.sock.fileno() < 0:
            return
        self.loop.remove_reader(self.sock)
        self.loop.remove_writer(self.sock)
        self.sock.close()
        for fd in self.fds + [fd for _, fd in self.queue if fd is not None]:
            if fd != -1:
                os.close(fd)
        self.fds, self.queue = [], []
        self.lost()


class Session:
    """A client's connection in the keyholder; an asyncio protocol.

    Requests are given to `answer` in order. One that takes time is a coroutine,
    which may ask for the next frame with `await session.frame()`; `settled` is
    called when it has ended. `sessions` are the open ones, by their last requests.
    """

    STALLED = 30.0  # seconds that half a frame may stay half

    def __init__(
        self,
        first: dict[str, Any],
        answer: Callable[
            [Session, dict[str, Any]], dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]
        ],
        settled: Callable[[], None],
        sessions: dict[Session, None],
    ) -> None:
        self.first, self.answer, self.settled, self.sessions = first, answer, settled, sessions
        self.caller: dict[str, Any] | None = None  # for the access log
        self.frames = Frames()
        self.task: asyncio.Task[None] | None = None
        self.awaited: asyncio.Future[dict[str, Any]] | None = None
        self.stalled: asyncio.TimerHandle | None = None
        self.is_conversation = self.is_paused = self.is_last = False

    def connection_made(self, transport: Any) -> None:
        """The connection was taken over; its first frame came with it."""
        self.transport = transport
        transport.set_write_buffer_limits(high=MAX_FRAME)
        self.handle(self.first)

    def data_received(self, data: bytes) -> None:
        """More bytes from the client."""
        self.frames.feed(data)
        if len(self.frames.buffer) > 2 * MAX_FRAME:
            self.transport.abort()
        self.advance()

    def advance(self) -> None:
        """Handle the frames that are there, until one takes time."""
        try:
            while not self.is_held() and (data := self.frames.next()) is not None:
                if self.awaited:
                    self.awaited.set_result(decode_frame(data))
                    self.awaited = None
                else:
                    self.handle(decode_frame(data))
        except Usage as error:
            self.send(error.to_dict())
            self.transport.close()
        if (
            self.is_last
            and not self.is_paused
            and (not self.task or self.awaited or self.is_conversation)
        ):
            self.transport.close()
        if self.stalled:
            self.stalled.cancel()
        waits = bool(self.frames.buffer) and bool(not self.task or self.awaited)
        self.stalled = (
            asyncio.get_running_loop().call_later(self.STALLED, self.transport.abort)
            if waits
            else None
        )

    def handle(self, request: dict[str, Any]) -> None:
        """Answer one request, now or by a task."""
        self.sessions.pop(self, None)
        self.sessions[self] = None
        try:
            self.is_conversation = str(request.get("op")) in SESSIONS
            answer = self.answer(self, request)
        except Exception as error:
            answer = complain(error).to_dict()
        if isinstance(answer, dict):
            self.send(answer)
        else:
            self.task = asyncio.get_running_loop().create_task(self.work(answer))

    async def work(self, answer: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """Run a request that takes time, then go on with the frames that came meanwhile."""
        try:
            self.send(await answer)
        except Exception as error:
            self.send(complain(error).to_dict())
        finally:
            self.task = None
            self.settled()
        self.advance()

    def is_held(self) -> bool:
        """Whether the next frame has to wait: for a request that takes time, or for a client that does not read."""
        return bool(self.task and not self.awaited) or self.is_paused or self.transport.is_closing()

    async def frame(self, **fields: Any) -> dict[str, Any]:
        """The next frame, after telling the client that it may send it, and with `fields` what it is about."""
        awaited: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.awaited = awaited
        try:
            self.send({"ok": True, "ready": True, **fields})
            self.advance()
            return await awaited
        finally:
            if self.awaited is awaited:  # given up: what comes yet is a request like any other
                self.awaited = None

    def send(self, message: dict[str, Any]) -> None:
        """Send a frame."""
        if not self.transport.is_closing():
            self.transport.write(encode_frame(message))

    def pause_writing(self) -> None:
        """The client does not read: take no more requests from it."""
        self.is_paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.is_paused = False
        self.transport.resume_reading()
        self.advance()

    def eof_received(self) -> bool:
        """The client will send no more; what it asked before is still answered."""
        self.is_last = True
        self.advance()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone; so is what it asked for, except a write that is under way."""
        self.sessions.pop(self, None)
        if self.stalled:
            self.stalled.cancel()
        if self.task:
            self.task.cancel()


# --------------------------------------------------------- daemon/keeper ----
# The keyholder as the supervisor sees it: a process, and a state.


def start_program(
    command: list[str], stdin: int | None = None, variables: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a clean environment, with these variables besides; what it prints is for `hear_program`.

    It outlives us, which asyncio's own subprocesses do not: git is not to be killed because the daemon stops.
    """
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command,
        stdin=quiet if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=quiet,
        cwd="/",
        env=clean_environment() | (variables or {}),
        start_new_session=True,
    )


async def run_program(
    command: list[str], variables: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a program: the JSON object that it prints."""
    return await hear_program(start_program(command, variables=variables))


async def hear_program(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The JSON object that a program prints, when it has ended."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    output = await reader.read()
    try:
        return decode_frame(output)
    except Usage:
        while process.poll() is None:  # it may have closed its stdout, and go on
            await asyncio.sleep(0.05)
        return {"state": "failed", "reason": f"it ended with exit code {process.returncode}"}


class Guard:
    """The keyholder's process, seen from the supervisor: its state, and the question that it may be asking.

    `state` is unlocked, waiting or locked; `report` is what the keyholder last
    said of itself. `say` is told what happens.
    """

    LOCK_TIME = 5.0  # seconds that a keyholder has to exit
    LOOK_TIME = 1.0  # seconds that it has to look at the disk

    def __init__(
        self,
        places: Places,
        lock_fd: int,
        say: Callable[[str], None],
        wrote: Callable[[], None],
        limits: Limits,
    ) -> None:
        self.places, self.lock_fd, self.say, self.wrote, self.limits = (
            places,
            lock_fd,
            say,
            wrote,
            limits,
        )
        self.process: asyncio.subprocess.Process | None = None
        self.control: Control | None = None
        self.state = "locked"
        self.report: dict[str, Any] = {}
        # why the vault is locked, if it was not for being asked to
        self.failure: AvaultError | None = None
        # what a keychain's unlock key opens, until the keychain has that
        self.sealed: dict[str, Any] | None = None
        self.changed = asyncio.Event()  # replaced at every change of state
        self.question = Question(places)
        self.staying: asyncio.Task[None] | None = None  # the daemon's own wait for the answer
        self.farewell: asyncio.Future[None] | None = None
        # who waits for the keyholder to have looked at the disk
        self.lookers: list[asyncio.Future[None]] = []

    def current_state(self) -> str:
        """unlocked, waiting, locked or unpaired."""
        if self.state == "locked" and not os.path.lexists(self.places.own("pairing.json")):
            return "unpaired"
        return self.state

    def locked(self) -> AvaultError:
        """Why there are no secrets now, and what to do."""
        state = self.current_state()
        if state == "waiting":
            return Locked("the vault waits for the operator's approval", self.waiting_hint())
        if state == "unpaired":
            return Locked(
                "the vault is locked, and this machine is not paired with a signer",
                self.pairing_hint(),
            )
        because = f" ({self.failure.message})" if self.failure else ""
        return Locked(f"the vault is locked{because}", "ask the phone with: avault unlock")

    def waiting_hint(self) -> str:
        """What the operator is to do while the phone is asked."""
        again = (self.report.get("waiting") or {}).get("next")
        when = f" (the question comes again at {again})" if again else ""
        return f"open the signer app and approve there{when}; see: avault status"

    def pairing_hint(self) -> str:
        """How this machine gets a signer."""
        if os.path.lexists(self.places.own("pairing.json")):
            return "prove it with: avault pair --replace"
        return "pair it with: " + (
            "avault pair" if os.path.lexists(self.places.own("unlock.json")) else "avault recover"
        )

    def turn(self, state: str) -> None:
        """Enter a state, and wake those who wait for a change."""
        if state != self.state:
            key = (self.report.get("waiting") or {}).get("client_key")
            shown = f", which may show who asks as {shorten_key(key)}" if key else ""
            self.say(
                {
                    "unlocked": "unlocked",
                    "waiting": f"waiting for the phone{shown}",
                    "locked": "locked",
                }[state]
            )
        self.state = state
        self.changed.set()
        self.changed = asyncio.Event()

    async def start(self) -> None:
        """Start a keyholder, if there is none."""
        if self.control:
            return
        if self.process:  # the one before is on its way out
            await self.process.wait()
        if self.control:
            return
        ours, theirs = socket.socketpair()
        self.report, self.failure = {}, None
        self.control = Control(ours, self.receive, self.say_farewell)
        with theirs:
            command = own_command(
                "keyholder", str(theirs.fileno()), self.places.dir, json.dumps(self.limits)
            )
            self.process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=(theirs.fileno(), self.lock_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=clean_environment(),
                # the terminal's Ctrl-C is for the supervisor, which may refuse it
                start_new_session=True,
            )

    def receive(self, message: dict[str, Any], fd: int | None) -> None:
        """A message from the keyholder."""
        if "report" in message:
            self.report = message["report"]
            if self.report["state"] == "unlocked" and self.state != "unlocked":
                self.wrote()  # what git could not merge while it was locked can be merged now
                self.question.succeed()
            is_waited_for = self.question.callers or self.report["talking"]
            self.turn(
                "locked"
                if self.report["state"] == "waiting" and not is_waited_for
                else self.report["state"]
            )
        elif "wrote" in message:
            self.wrote()
        elif "looked" in message and self.lookers:
            self.lookers.pop(0).cancel()
        elif "sealed" in message:
            self.sealed = message["sealed"]
        elif "failed" in message:
            self.failure = AvaultError.from_dict({"error": message["failed"]})

    def say_farewell(self) -> None:
        """The control stream ended."""
        self.control = None
        while self.lookers:
            self.lookers.pop().cancel()
        self.farewell = asyncio.ensure_future(self.lost())

    async def lost(self) -> None:
        """The keyholder is gone: locked, with the reason."""
        if self.process:
            code = await self.process.wait()
            if code and not self.failure:
                self.failure = AvaultError(
                    f"the keyholder ended by {'signal ' + str(-code) if code < 0 else 'exit code ' + str(code)}"
                )
        if self.failure:
            self.say(self.failure.message)
            if self.failure.code == Denied.code:
                self.question.close(refused=True)
        self.turn("locked")

    async def look(self) -> None:
        """Have the keyholder look at the disk, before its state is told or ended; a busy one is not waited for long."""
        if self.state == "unlocked" and self.control:
            looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.lookers.append(looked)
            self.control.send({"do": "look"})
            await asyncio.wait([looked], timeout=self.LOOK_TIME)

    async def end(self) -> None:
        """Lock: the keyholder finishes a write that is under way, and exits; one that does not is killed."""
        process = self.process
        if not process or process.returncode is not None:
            return
        if self.control:
            self.control.send({"do": "lock"})
        try:
            await asyncio.wait_for(asyncio.shield(process.wait()), self.LOCK_TIME)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self.farewell:
            await self.farewell

    async def ask(self, caller: Caller, nsec: int | None = None) -> None:
        """Ask for the key until the vault is open: one question, shared by all who wait. Raises TimedOut, and what ended it."""
        if self.state == "unlocked":
            return
        keychain = nsec is None and os.path.lexists(self.places.own("keychain.json"))
        if nsec is None and not keychain and not os.path.lexists(self.places.own("pairing.json")):
            raise self.locked()
        keychain = keychain and not self.question.callers  # who comes later shares the one question
        is_new = self.question.join(caller, asks_phone=nsec is None and not keychain)
        if len(self.question.callers) == 1:
            self.failure = None
        self.stay(caller)
        try:
            async with asyncio.timeout(self.question.patience(caller)):
                await self.start()
                if self.control and keychain:
                    nsec = self.open_keychain()
                if self.control:
                    # who goes on waiting, again and again, makes no more cards
                    at_once = caller.stay is None
                    wish: dict[str, Any] = {
                        "accept_rollback": caller.accept_rollback,
                        "keychain": keychain,
                    }
                    wish |= {
                        "anew": is_new,
                        "at_once": at_once,
                        "unattended": not caller.is_attended,
                    }
                    self.control.send({"do": "unlock", **wish}, nsec)
                    if keychain and nsec is not None:
                        os.close(nsec)
                while self.state != "unlocked":
                    if not self.control:
                        raise self.failure or Locked(
                            "the vault was locked meanwhile", "ask again with: avault unlock"
                        )
                    if caller not in self.question.callers:
                        raise Locked(
                            "the vault was locked meanwhile", "ask again with: avault unlock"
                        )
                    await self.changed.wait()
        except TimeoutError:
            raise TimedOut(
                "nobody approved in time", "is the signer app open? See: avault status"
            ) from None
        finally:
            self.question.leave(caller)
            self.turn(self.state)  # those who wait for a settled state look again
            if not self.question.callers:
                self.rest()

    def stay(self, caller: Caller) -> None:
        """Where a caller wants that, wait for the answer as long as it may come, also when the caller is gone."""
        if caller.stay is None or (self.staying and not self.staying.done()):
            return
        daemon = Caller(None, caller.accept_rollback, stay=caller.stay)

        async def wait() -> None:
            try:
                await self.ask(daemon)
            except AvaultError:
                pass  # those who asked are told

        self.staying = asyncio.get_running_loop().create_task(wait())

    def rest(self) -> None:
        """Nobody waits for the question: have the keyholder ask no more, and listen."""
        if self.state == "unlocked":
            return
        if self.control:
            self.control.send(
                {"do": "rest", "opens_for": max(self.question.wanted_until - uptime(), 0.0)}
            )
        if self.state == "waiting" and not self.report.get("talking"):
            self.turn("locked")

    async def lock(self) -> None:
        """Lock; where the phone has a question, only its keyholder stays, without any secret, and listens."""
        if self.state == "unlocked" or self.report.get("talking"):
            await self.end()
        else:
            self.question.give_up()
            self.rest()
            self.turn(self.state)

    def ask_again(self) -> None:
        """Have the phone's question go out at once, if there is one."""
        if self.state == "waiting" and self.control:
            self.control.send({"do": "ask"})

    def keychain_command(self, action: str) -> list[str]:
        """The process that asks the platform's keychain."""
        name = self.report.get("name") or os.path.basename(os.path.dirname(self.places.dir))
        label = f"avault: unlock key of {name} ({self.places.dir})"
        return own_command("keychain", action, f"{self.places.id}:unlock-key", label)

    def open_keychain(self) -> int:
        """Ask the keychain for the unlock key: the end of the socket that its answer comes through, for the keyholder.

        Not a pipe: its reading end could be had from outside, through /proc/PID/fd, before the process is hardened.
        """
        answer, end = socket.socketpair()
        quiet = subprocess.DEVNULL
        with end:
            words = self.keychain_command("get")
            subprocess.Popen(
                words,
                stdin=quiet,
                stdout=end.fileno(),
                stderr=quiet,
                cwd="/",
                env=clean_environment(),
            )
        return answer.detach()

    async def fill_keychain(self, caller: dict[str, Any]) -> dict[str, Any]:
        """Have the keyholder ask the phone and make an unlock key, and the keychain keep it; what that said."""
        if self.state != "unlocked" or not self.control:
            raise self.locked()
        if not self.report.get("proven"):
            raise Denied(
                "nobody has shown yet that the phone opens this vault", self.pairing_hint()
            )
        self.refuse_other_pairing()
        found = await run_program(self.keychain_command("look"))
        if found.get("outcome") == "unavailable":
            return found  # nobody is asked for what cannot be
        door, end = socket.socketpair()
        with door, end:
            if sys.platform == "linux":
                # the keyholder is to know who speaks
                door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            process = start_program(self.keychain_command("set"), stdin=end.fileno())
            self.failure = self.sealed = None
            self.control.send(
                {"do": "keychain", "caller": caller, "helper": process.pid}, door.fileno()
            )
        answer = await hear_program(process)
        if self.failure:
            raise self.failure
        if answer.get("outcome") == "ok" and self.sealed:
            write_file(self.places.own("keychain.json"), encode_file("keychain", self.sealed))
        return answer

    def refuse_other_pairing(self) -> None:
        """Raise Denied, Tampered where no pairing is for the open vault; the keyholder looks more closely before it asks."""
        path = self.places.own("pairing.json")
        if not os.path.lexists(path):
            raise Denied(
                "only a paired, open vault can be given to a keychain", "pair it with: avault pair"
            )
        found = decode_file("pairing", read_file(path), path)
        if (found["agent"], found["operator"]) != (
            self.report["agent_npub"],
            self.report["signer_npub"],
        ):
            hint = "avault status, which puts back the one that opened it; then try again"
            raise Tampered(
                "pairing.json is for another agent or operator than the open vault", hint
            )

    def refuse_to_lose(self, request: dict[str, Any]) -> None:
        """Refuse to end a keyholder that alone has a vault's key, or its content; raises Denied."""
        if self.state == "unlocked" and self.report.get("unsaved") and not request.get("force"):
            hint = "put the file back (git checkout), or write what is served: avault restore --unsaved; or insist with --force"
            raise Denied(
                "avault.enc on the disk is not what is served: to lock now may lose it", hint
            )
        if self.state == "unlocked" and not self.report.get("proven") and not request.get("force"):
            hint = f"{self.pairing_hint()}, or insist with --force"
            raise Denied(
                "nobody has shown yet that the phone opens this vault: to lock it now may lose it",
                hint,
            )

    def pid(self) -> int | None:
        """The keyholder's process id, while it lives."""
        return self.process.pid if self.process and self.process.returncode is None else None


# ------------------------------------------------------------ daemon/log ----
# The access log: who got what, and when.
#
# A line of JSON before each release, and one for what was refused, in a file of its own. A line's
# mac shows that the keyholder wrote it; `n` and `after`, the mac before, that none is missing.


def describe_caller(sock: socket.socket) -> dict[str, Any]:
    """The process at the other end of a connection: pid, uid, executable, name and parent, as far as the system tells."""
    if sys.platform == "linux":
        pid = int.from_bytes(sock.getsockopt(1, 17, 12)[:4], sys.byteorder)  # SO_PEERCRED
    else:
        pid = int.from_bytes(sock.getsockopt(0, 2, 4), sys.byteorder)  # LOCAL_PEERPID
    caller: dict[str, Any] = {
        "pid": pid,
        "uid": os.getuid(),
        "exe": read_executable(pid),
        "name": None,
        "parent": None,
    }
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            start, _, rest = file.read().rpartition(b")")  # proc_pid_stat(5)
        caller["name"] = printable(start.partition(b"(")[2].decode(errors="replace"), 40)
        parent = int(rest.split()[1])
        caller["parent"] = {"pid": parent, "exe": read_executable(parent)}
    except OSError:
        pass  # it has ended, or there is no /proc
    return caller


def read_executable(pid: int) -> str | None:
    """The path of a process's executable, where the system tells; of a long one its end, where the name is."""
    try:
        path = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    return path if len(path) <= 500 else "…" + path[-499:]


def summarize(request: dict[str, Any], most: int, width: int) -> dict[str, Any]:
    """What a line says of a request: at most so many names, none wider, and how many there were besides."""
    # each op with the fields that it looks at
    many = request["op"] in ("export", "reveal", "provide", "import", "move")
    groups, keys = (
        (request.get(field) for field in ("groups", "only"))
        if many
        else ([request.get("group")], [request.get("key")])
    )
    lists = (groups, keys, request.get("as") if many else [])
    groups, keys, named = (
        [each for each in names if each] if isinstance(names, list) else [] for names in lists
    )
    keys += named
    if {*map(type, groups + keys)} <= {str}:
        groups, keys = list(dict.fromkeys(groups)), list(dict.fromkeys(keys))
    return {
        "op": request["op"],
        "for": printable(request["for"], 64) if request.get("for") else None,
        "group": ",".join(printable(group, width) for group in groups[:most]) or None,
        "keys": [printable(key, width) for key in keys[:most]] or None,
        "more": len(groups[most:]) + len(keys[most:]),
    }


class Ledger:
    """A file of signed lines, and the older ones beside it, PATH.1 to PATH.<older>, each of some `limit` bytes.

    `starts` are the numbers of the first lines of its files, the oldest first; `number` and `mac` are of
    the last line; `size` is that of our lines in the newest file, whatever else others have put there;
    `lost` is the number of the first line after the bounds of the ledger were taken away, or 0.
    """

    LONGEST = 1 << 16  # bytes of a line

    def __init__(
        self, path: str, key: bytes, limit: int, older: int, bounds: dict[str, Any] | None
    ) -> None:
        self.path, self.key, self.limit, self.older = path, key, limit, older
        self.paths = [*(f"{path}.{age}" for age in range(older, 0, -1)), path]
        self.end = b""  # what the last line lacks
        self.number, self.mac = self.find_end()
        self.lost = self.size = 0
        if bounds is None:
            self.lost, self.starts = self.number + 1, [self.number + 1]
        else:
            self.starts, self.size, self.lost = (
                list(bounds["starts"]),
                bounds["size"],
                bounds["lost"],
            )
            # the last lines were taken away: those to come show it
            if bounds["number"] > self.number:
                self.number, self.mac = bounds["number"], bounds["mac"]
        self.file = self.open()

    def bounds(self) -> dict[str, Any]:
        """What is to be remembered of the ledger, so that a part of it cannot pass for the whole."""
        return {
            "starts": list(self.starts),
            "size": self.size,
            "number": self.number,
            "mac": self.mac,
            "lost": self.lost,
        }

    def open(self) -> int:
        """A descriptor to append with, kept open: a process that has no other left can still say what it releases."""
        flags = (
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
        try:
            fd = os.open(self.path, flags, 0o600)
            write_all(fd, self.end)
            self.end = b""
            return fd
        except OSError as error:
            raise self.refusal(error) from None

    def refusal(self, error: OSError) -> AvaultError:
        """Why nothing is released."""
        return AvaultError(
            f"the access log cannot be written: {error.strerror}",
            f"nothing is released without it; look at {self.path}",
        )

    def find_end(self) -> tuple[int, str]:
        """The number and mac of the last line that is whole, and ours."""
        for path in (self.path, f"{self.path}.1"):
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    file.seek(max(0, os.path.getsize(path) - 2 * self.LONGEST))
                    ends = file.read(2 * self.LONGEST).splitlines(keepends=True)
                if path == self.path and ends and not ends[-1].endswith(b"\n"):
                    self.end = b"\n"  # a power loss has cut it off: the next is to stand by itself
                for line in reversed(ends):
                    if entry := self.read_line(line):
                        return entry["n"], entry["mac"]
        return 0, ""

    def sign(self, entry: dict[str, Any]) -> tuple[str, bytes]:
        """The mac of an entry, and its line, where that stands last."""
        body = json.dumps(entry).encode()
        mac = hmac.digest(self.key, body, "sha256").hex()
        return mac, body[:-1] + f', "mac": "{mac}"}}\n'.encode()

    def read_line(self, line: bytes) -> dict[str, Any] | None:
        """The entry of a line that was written with our key; None for any other."""
        try:
            entry = json.loads(line)
            del entry["mac"]
            mac, signed = self.sign(entry)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return {**entry, "mac": mac} if hmac.compare_digest(line, signed) else None

    def append(self, entry: dict[str, Any]) -> None:
        """Write the next line; raises AvaultError, and then it is as if nothing had been written."""
        number = self.number + 1
        mac, line = self.sign({"n": number, **entry, "after": self.mac})
        try:
            if not os.path.exists(self.path) or not os.path.samestat(
                os.stat(self.path), os.fstat(self.file)
            ):
                fresh = self.open()  # somebody took the file away
                os.close(self.file)
                self.file = fresh
            size = os.fstat(self.file).st_size
            if os.write(self.file, line) != len(line):
                os.ftruncate(self.file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self.refusal(error) from None
        self.number, self.mac, self.size = number, mac, self.size + len(line)

    def is_full(self) -> bool:
        """Whether it is time for a new file: by our own lines, or who adds others would have ours go."""
        return self.size > self.limit

    def turn_page(self) -> None:
        """The next line begins a new file, and the oldest file is to go."""
        self.starts, self.size = [*self.starts, self.number + 1][-len(self.paths) :], 0

    def rename(self) -> None:
        """Move every file to the next older place; raises AvaultError."""
        try:
            for newer, older in zip(self.paths[1:-1], self.paths[:-2], strict=True):
                if os.path.lexists(newer):
                    os.rename(newer, older)
            os.rename(self.path, self.paths[-2])
        except OSError as error:
            raise self.refusal(error) from None

    def verify(self) -> tuple[int, int, str | None]:
        """The number of lines and of files, and what is wrong: a line that is not ours, or one that is missing."""
        count = files = last = 0
        after = ""
        for path in self.paths:
            if not os.path.lexists(path):
                continue
            files += 1
            for line in read_file(path, 4 * self.limit).splitlines(keepends=True):
                count += 1
                if not (entry := self.read_line(line)):
                    return (
                        count,
                        files,
                        f"line {count} was not written by the keyholder, or was changed",
                    )
                if count == 1 and entry["n"] > self.starts[0]:
                    return (
                        count,
                        files,
                        f"lines {self.starts[0]:,} to {entry['n'] - 1:,} are missing",
                    )
                if count > 1 and (entry["n"], entry["after"]) != (last + 1, after):
                    return (
                        count,
                        files,
                        f"lines are missing, or in another order, before line {count}",
                    )
                last, after = entry["n"], entry["mac"]
        if after != self.mac:
            return count, files, "the last lines are missing"
        if self.lost >= self.starts[0]:
            return (
                count,
                files,
                f"what was before line {self.lost:,} was taken away while the vault was locked",
            )
        return count, files, None


class AccessLog:
    """The two ledgers of a vault: access.log for what was released, refused.log for what was not.

    Who asks for nonsense all day fills only the second, and that slowly: beyond a burst one line a minute,
    which counts the others. log.json keeps the bounds of both, signed.
    """

    BURST = 30.0  # refusals that are written as they come, when there were none before
    FILES = (("access.log", 4 << 20, 4), ("refused.log", 1 << 20, 1))  # name, bytes, older ones

    def __init__(self, directory: str, keys: nostr_sdk.Keys, is_new: bool) -> None:
        secret = bytes.fromhex(keys.secret_key().to_hex())

        def key(use: bytes) -> bytes:
            return hmac.digest(secret, use, "sha256")

        self.path, self.key = os.path.join(directory, "log.json"), key(b"avault access log: bounds")
        kept = self.read_bounds(is_new)
        self.releases, self.refusals = (
            Ledger(
                os.path.join(directory, name),
                key(f"avault access log: {name}".encode()),
                limit,
                older,
                kept.get(name),
            )
            for name, limit, older in self.FILES
        )
        self.room, self.counted = self.BURST, uptime()
        # the last refusal, until it is written
        self.untold: tuple[dict[str, Any], dict[str, Any], str] | None = None
        self.skipped = 0  # how many are not written
        self.saved: dict[str, Any] = {}

    def read_bounds(self, is_new: bool) -> dict[str, Any]:
        """The bounds of both ledgers; none where log.json is gone or not ours, which only that of a new vault may be."""
        try:
            content = decode_file("log", read_file(self.path), self.path)
            if hmac.compare_digest(content.pop("mac"), self.sign_bounds(content)):
                return dict(content["ledgers"])
        except (AvaultError, TypeError):
            pass
        empty = {"starts": [1], "size": 0, "number": 0, "mac": "", "lost": 0}
        return {name: empty for name, _, _ in self.FILES} if is_new else {}

    def sign_bounds(self, content: dict[str, Any]) -> str:
        """The mac of log.json."""
        return hmac.digest(self.key, json.dumps(content).encode(), "sha256").hex()

    def bounds(self) -> dict[str, Any]:
        """The content of log.json, but for its mac."""
        return {
            "ledgers": {
                os.path.basename(each.path): each.bounds()
                for each in (self.releases, self.refusals)
            }
        }

    def is_saved(self) -> bool:
        """Whether log.json knows the last lines."""
        return self.saved == self.bounds()

    def save(self) -> None:
        """Write log.json; raises AvaultError."""
        content = self.bounds()
        write_file(self.path, encode_file("log", {**content, "mac": self.sign_bounds(content)}))
        self.saved = content

    def write(self, request: dict[str, Any], caller: dict[str, Any], outcome: str = "ok") -> None:
        """Note what is about to be released, or was refused; raises AvaultError, and then nothing may be released."""
        if outcome == "ok":
            self.append(self.releases, summarize(request, 100, 200), caller, outcome)
            return
        self.untold = request, caller, outcome
        self.skipped += 1
        self.settle()

    def settle(self, at_once: bool = False) -> None:
        """Write the last refusal, with how many before it were only counted, if there is room; raises AvaultError."""
        self.room, self.counted = (
            min(self.BURST, self.room + (uptime() - self.counted) / 60),
            uptime(),
        )
        if self.untold and (self.room >= 1 or at_once):
            request, caller, outcome = self.untold
            about = {
                **summarize(request, 3, 70),
                "follows": self.releases.number,
                "skipped": self.skipped - 1,
            }
            self.append(self.refusals, about, caller, outcome)
            self.room, self.untold, self.skipped = self.room - 1, None, 0

    def append(
        self, ledger: Ledger, about: dict[str, Any], caller: dict[str, Any], outcome: str
    ) -> None:
        """A line in one of the ledgers, and a new file if that one is full."""
        ledger.append({"time": render_time(time.time()), **about, **caller, "outcome": outcome})
        if ledger.is_full():
            before = ledger.starts, ledger.size
            ledger.turn_page()
            # before the oldest lines go: else their absence would look like somebody's work
            self.save()
            try:
                ledger.rename()
            except AvaultError:
                # nothing has gone, and what is missing later is missed
                ledger.starts, ledger.size = before
                raise

    def verify(self) -> dict[str, Any]:
        """Whether every line is as it was written, and none is missing from where each ledger begins."""
        lines, files, problem = self.releases.verify()
        refused, more, other = self.refusals.verify()
        problem = problem or (f"refused.log: {other}" if other else None)
        begins = self.releases.starts[0]
        found = {
            "lines": lines,
            "begins": begins,
            "refused": refused + self.skipped,
            "files": files + more,
        }
        return {**found, "intact": not problem, "problem": problem}


# ------------------------------------------------------ daemon/keyholder ----
# The process that holds the agent's key and the secrets.
#
# It starts no program, and locking is its exit: Python cannot wipe a string, the kernel can.


class Keyholder:
    """The keyholder process: obtains the key, serves the vault, exits to lock it."""

    def __init__(
        self,
        places: Places,
        control: socket.socket,
        talks: dict[str, Talk],
        requests: dict[str, Serve],
        limits: Limits,
    ) -> None:
        self.places, self.talks, self.requests = places, talks, requests
        self.lock_after, self.lock_idle = limits
        self.opened = self.used = self.reported = uptime()
        self.host = place_name()
        self.ended = asyncio.Event()
        self.control = Control(control, self.receive, self.ended.set)
        self.sessions: dict[Session, None] = {}
        self.store: Store | None = None
        self.recovery = Recovery(places, self.host)
        self.log: AccessLog | None = None
        self.pairing: Pairing | None = None
        # whose signer is connected, and has not opened an envelope yet
        self.begun: Pairing | None = None
        self.signer: RemoteSigner | None = None
        # what they said when the signer was last asked
        self.relays: list[dict[str, Any]] | None = None
        self.content: dict[str, Any] = {}  # of the open vault's unlock.json, as it was written
        # what the disk says of a vault that is locked: to be shown, and for nothing else
        self.asked: dict[str, Any] = {}
        self.proven: str | None = None
        self.since = time.time()
        self.warnings: dict[str, str] = {}
        self.quick = 0  # approvals in a row that came faster than a person reads
        self.unlocking: asyncio.Task[None] | None = None
        self.turning = asyncio.Lock()  # of the ratchet: unlock.json is written by one at a time
        self.is_attended = True  # somebody waits for the key, and not only `daemon start`
        # somebody waits for the key: ask for it; else listen for what comes late
        self.is_asked = False
        self.accept_rollback = False  # what they wish
        self.opens_until = 0.0  # uptime until which a late answer opens the vault
        self.is_out = False  # the phone may have the question
        self.talking = False  # with the operator, about a pairing
        self.resume = False  # obtaining the key, once the talk is over
        self.serving = asyncio.Lock()
        self.queue: list[tuple[Callable[[Vault], None], asyncio.Future[AvaultError | None]]] = []
        self.writer: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    # -- the supervisor's side

    async def run(self) -> None:
        """Serve until the supervisor says so, or is gone, or until it is time to lock and what is served is on the disk."""
        while not self.ended.is_set() and (
            (left := self.time_left()) > 0 or not await self.save(is_last=True)
        ):
            try:  # the loop's clock stands still while the machine sleeps: look every now and then
                async with asyncio.timeout(min(max(left, 0.1), 5.0)):
                    await self.ended.wait()
            except TimeoutError:
                if self.store and self.store.trouble:
                    await self.save()
                await self.verify_recovery()
                await self.keep_log()
        if not self.ended.is_set():
            self.control.send(
                {
                    "failed": Locked(
                        self.why_locked(), "ask the phone with: avault unlock"
                    ).to_dict()["error"]
                }
            )
        if self.writer:
            await self.writer
        await self.save(is_last=True)
        await self.keep_log(at_once=True)
        while self.control.queue:
            await asyncio.sleep(0.01)

    async def save(self, is_last: bool = False) -> bool:
        """See to it that what is served is on the disk: in avault.enc, or in unsaved.enc while that cannot be used."""
        store = self.store
        if not store or self.writer:
            return not store
        before = store.trouble, store.kept, self.warnings.get("unsaved")
        if is_last:
            store.notice()  # a file that covers what was written is merged while it can be
        else:
            store.refresh()
        try:
            if not store.is_safe():
                await asyncio.to_thread(store.keep)
            self.warnings.pop("unsaved", None)
        except AvaultError as error:
            self.warnings["unsaved"] = f"what is served is nowhere on the disk: {error.message}"
        if (store.trouble, store.kept, self.warnings.get("unsaved")) != before:
            self.report()
        return store.is_safe()

    async def save_beside(self) -> None:
        """`save`, beside the request that has noticed a change of the file."""
        await self.save()

    async def put_back(self) -> bool:
        """Write what is served over an avault.enc that cannot be used; whether it was needed. Raises AvaultError."""
        while self.writer:
            await self.writer
        store = self.open_store()
        store.writing = True
        try:
            return await asyncio.to_thread(store.put_back)
        finally:
            store.writing = False
            self.report()
            self.control.send({"wrote": True})

    async def keep_log(self, at_once: bool = False) -> None:
        """Write what the access log has only counted, and remember where it ends."""
        try:
            if self.log:
                self.log.settle(at_once)
                if not self.log.is_saved():
                    await asyncio.to_thread(self.log.save)
            self.warnings.pop("log", None)
        except AvaultError as error:
            self.warnings["log"] = error.message

    def time_left(self) -> float:
        """Seconds until the vault locks by itself; a vault that nobody has proven yet does not."""
        if not self.store or not self.proven or self.writer or not self.store.is_safe():
            return float("inf")
        ends = [self.opened + self.lock_after] if self.lock_after else []
        ends += [self.used + self.lock_idle] if self.lock_idle else []
        return min(ends) - uptime() if ends else float("inf")

    def why_locked(self) -> str:
        """Which limit it was, and how long."""
        if self.lock_after and self.opened + self.lock_after <= uptime():
            return f"it locked by itself after {render_duration(self.lock_after)}"
        return f"it locked by itself after {render_duration(self.lock_idle or 0)} without a use"

    def limit(self, message: dict[str, Any]) -> None:
        """Take other limits, of which one that is not named stays as it is; `for` counts from now."""
        if "for" in message:
            self.lock_after = round(uptime() - self.opened) + message["for"]
        self.lock_after = message.get("lock_after", self.lock_after)
        self.lock_idle = message.get("lock_idle", self.lock_idle)
        self.report()

    def receive(self, message: dict[str, Any], fd: int | None) -> None:
        """A message from the supervisor."""
        if message["do"] == "connection" and fd is not None:
            spawn(self.tasks, self.take_over(fd, message["frame"]))
        elif message["do"] == "unlock":
            self.ask(message, fd)
        elif message["do"] == "keychain" and fd is not None:
            spawn(self.tasks, self.fill_keychain(fd, message["helper"], message["caller"]))
        elif message["do"] == "ask" and self.signer:
            self.signer.ask_again()
        elif message["do"] == "look":
            spawn(self.tasks, self.look())
        elif message["do"] == "rest":
            self.rest(message["opens_for"])
        elif message["do"] == "limit":
            self.limit(message)
        elif message["do"] == "lock":
            self.ended.set()

    async def take_over(self, fd: int, frame: dict[str, Any]) -> None:
        """Serve a connection from now on."""
        sock = socket.socket(fileno=fd)
        if len(self.sessions) >= room():
            if not (
                idle := next(
                    (each for each in self.sessions if not each.task or each.awaited), None
                )
            ):
                sock.close()
                return
            del self.sessions[idle]
            idle.transport.abort()
        make: Any = lambda: Session(frame, self.answer, self.settle, self.sessions)  # noqa: E731  a protocol, though not derived from asyncio's
        await asyncio.get_running_loop().connect_accepted_socket(make, sock)

    def report(self) -> None:
        """Tell the supervisor what `status` shows; it holds no secret."""
        store, signer, left = self.store, self.signer, self.time_left()
        self.reported = uptime()
        warnings = dict(self.warnings)
        if store and store.trouble:
            now = "what was loaded before is served, nothing is written; to write it back: avault restore --unsaved"
            warnings["file"] = f"{store.trouble.message}; {now}"
        if store and store.warning:
            warnings["pin"] = store.warning
        if self.recovery.warning:
            warnings["nsec"] = self.recovery.warning
        if store or not signer:
            warnings.pop("ntp", None)  # of use only while an answer does not come
        if signer and signer.clock:
            warnings["clock"] = signer.clock
        if store and store.rollback:
            warnings["rollback"] = (
                f"ROLLED BACK, as --accept-rollback was given: {store.rollback}; what was written since is missing"
            )
        if self.pairing and self.pairing.by_itself:
            warnings["signer"] = (
                "the signer approves by itself, as the drill showed: change its setting, then: avault drill"
            )
        is_waiting = signer and (self.is_asked or self.talking or not self.unlocking)
        shown = self.content or self.asked
        report = {
            "state": "unlocked" if store else "waiting" if is_waiting else "locked",
            "listening": bool(signer and not store and not is_waiting),
            "since": render_time(self.since),
            "until": None if left == float("inf") else render_time(time.time() + max(left, 0)),
            "agent_npub": shown.get("agent"),
            "signer_npub": shown.get("operator"),
            "name": shown.get("name"),
            "code": request_code(shown["sealed"]) if shown and not store else None,
            "groups": len(store.vault.groups) if store else None,
            "secrets": store.vault.count() if store else None,
            "proven": bool(self.proven if store else shown.get("proven")),
            "signer_approves_by_itself": self.pairing.by_itself if self.pairing else None,
            "relays": list(signer.relays.values()) if signer else self.relays,
            "waiting": signer.describe() if signer and is_waiting else None,
            "warnings": list(warnings.values()),
            "talking": self.talking,
            "unsaved": "unsaved" in self.warnings,
            "verified": {"avault.enc": store.digest, "nsec.enc": self.recovery.digest}
            if store
            else {},
        }
        self.control.send({"report": report})

    async def look(self) -> None:
        """Hold the disk against what the open vault knows, and say so when it is done: for `status`, `lock` and `stop`."""
        try:
            if store := self.store:
                before = store.trouble, store.digest
                await self.save()
                if (store.trouble, store.digest) != before:
                    self.control.send({"wrote": True})
                await self.verify_recovery()
                await self.restore_own_files(store)
                self.report()
        finally:
            if not self.ended.is_set():
                self.control.send({"looked": True})

    async def restore_own_files(self, store: Store) -> None:
        """This machine's own files, as the open vault knows them: where the disk has others, it is said, and mended."""
        changed = "was changed while the vault was open, and was written anew"
        async with self.turning:
            is_turned = "ratchet" not in self.warnings
            if not is_turned or not has_bytes(
                self.places.own("unlock.json"), encode_file("unlock", self.content)
            ):
                await self.turn(store.keys, self.content, also_recovery=False)
                if is_turned:
                    self.warnings["unlock.json"] = f"unlock.json {changed}"
        if self.pairing:
            try:
                found = Pairing.load(self.places)
            except AvaultError:
                found = None
            if not found or not found.is_same(self.pairing):
                self.keep_pairing(self.pairing)
                self.warnings["pairing.json"] = f"pairing.json {changed}"
        pin = encode_file("pin", {"generation": store.vault.generation, "hash": store.digest})
        if (
            not store.trouble
            and not store.writing
            and not has_bytes(self.places.own("pin.json"), pin)
        ):
            if not store.warning:  # else it could not be written before
                self.warnings["pin.json"] = f"pin.json {changed}"
            store.pin()

    async def verify_recovery(self) -> None:
        """Look at nsec.enc if it has changed, and have git told if it was made anew."""
        store = self.store
        if store and self.recovery.is_changed():
            was_made = await asyncio.to_thread(self.recovery.verify, store.keys, store.vault)
            self.report()
            if was_made:
                self.control.send({"wrote": True})

    def settle(self) -> None:
        """A session's work is done: without a vault and without a task to get one, there is nothing to stay for."""
        converse = any(session.task and session.is_conversation for session in self.sessions)
        if not self.store and not self.unlocking and not self.talking and not converse:
            self.ended.set()

    # -- getting the key

    def ask(self, message: dict[str, Any], fd: int | None) -> None:
        """Obtain the key: begin with it, or go on with the question that the phone may have."""
        others = self.is_asked and self.is_attended
        self.is_asked, self.accept_rollback = True, bool(message.get("accept_rollback"))
        self.is_attended = others or not message.get("unattended")
        if not self.talking and not self.unlocking and not self.store:
            self.begin_unlock(fd, bool(message.get("keychain")))
            return
        self.resume = self.talking
        if self.signer and self.unlocking:
            self.signer.is_attended = self.is_attended
            self.signer.wake(bool(message.get("anew")), bool(message.get("at_once")))
            self.report()
        if fd is not None:
            os.close(fd)

    def rest(self, opens_for: float) -> None:
        """Nobody waits any more: ask no more, and listen for what the phone may yet say, if it can have the question.

        For so many seconds a late answer still opens the vault. Then, and always, it turns the ratchet.
        """
        self.is_asked, self.accept_rollback, self.opens_until = False, False, uptime() + opens_for
        self.note_question()
        if self.talking:
            self.resume = self.is_out
        elif self.is_out and self.signer and self.unlocking:
            self.signer.rest()
            self.report()
        elif not self.store:
            self.ended.set()

    def note_question(self) -> None:
        """Note whether the phone may have the question for the key."""
        self.is_out = self.is_out or bool(self.unlocking and self.signer and self.signer.requests)

    def begin_unlock(self, fd: int | None = None, by_keychain: bool = False) -> None:
        """Begin to obtain the key; or only to listen for it, where nobody waits."""
        self.unlocking = asyncio.get_running_loop().create_task(self.unlock(fd, by_keychain))

    async def fill_keychain(self, fd: int, pid: int, caller: dict[str, Any]) -> None:
        """If the phone agrees, seal the agent's key once more: what opens that goes to the keychain's process `pid` alone."""
        store, token = self.store, secrets.token_hex(32)
        helper = None
        with socket.socket(fileno=fd) as door:
            try:
                pairing = self.find_pairing()
                if not pairing or not store or not self.log:
                    raise Denied(
                        "only a paired, open vault can be given to a keychain",
                        "pair it with: avault pair",
                    )
                helper = await meet(door, pid)
                self.log.write({"op": "keychain", "for": "enable"}, caller, "ok")
                vault = store.vault
                sentence = f"avault: let a keychain open {vault.name} on {self.host} WITHOUT you, always. Approve only if you want that."
                envelope = make_envelope(
                    store.keys, vault.operator, f"a keychain for {vault.name}", sentence, token
                )
                async with asyncio.timeout(300), self.connected(pairing, pairing.signer) as signer:
                    await signer.request(
                        "nip44_decrypt", [vault.agent, envelope], accept_token(token)
                    )
                if not is_hardened(pid):
                    raise Unavailable(
                        "the keychain's process has ended, or is traced",
                        "try again: avault keychain enable",
                    )
                unlock, sealed = seal_keys(store.keys, vault.identity, vault.operator, vault.name)
                # for the disk, once the keychain has what opens it
                self.control.send({"sealed": sealed})
                helper.sendall(unlock.encode())
            except AvaultError as error:
                self.control.send({"failed": error.to_dict()["error"]})
            except TimeoutError:
                self.control.send(
                    {"failed": TimedOut("nobody approved in time").to_dict()["error"]}
                )
            except OSError:
                self.control.send(
                    {"failed": Unavailable("the keychain's process has ended").to_dict()["error"]}
                )
            finally:
                if helper:
                    helper.close()

    async def unlock(self, fd: int | None, by_keychain: bool) -> None:
        """Obtain the key through a pipe, from NOSTR_NSEC or the keychain, or by the phone; and open the vault."""
        try:
            self.asked, _ = read_unlock(self.places)
            if fd is not None:
                with open(fd, "rb") as pipe:
                    given = await asyncio.to_thread(pipe.read)
                if not by_keychain:
                    await self.open(GivenKey(given.decode(errors="replace")), self.accept_rollback)
                    return
                try:
                    self.warnings["keychain"] = (
                        "this machine's keychain opens the vault: nobody was asked"
                    )
                    await self.open(Keychain(self.places, given), self.accept_rollback)
                    return
                except Unavailable as error:
                    self.warnings["keychain"] = (
                        f"the keychain did not open the vault, so the phone is asked: {error.message}"
                    )
            pairing = self.pairing = Pairing.load(self.places)
            if not pairing:
                raise Locked(
                    "this machine is not paired with a signer", "pair it with: avault pair"
                )
            async with self.connected(pairing, pairing.signer) as signer:
                signer.is_attended = self.is_attended
                if is_clock_unsynchronised():
                    self.warnings["ntp"] = (
                        "nothing keeps this machine's clock right (NTP): if no request arrives, look there"
                    )
                signer.is_resting = not self.is_asked
                phone = Phone(pairing, signer)
                keys, content, own = await self.obtain(phone)
                while signer.is_old and self.is_asked and not self.store:
                    async with self.serving:
                        await self.use_up(keys, content, own)
                    keys, content, own = await self.obtain(phone)
                is_late = signer.is_old or (not self.is_asked and uptime() >= self.opens_until)
                await self.serve(phone, keys, content, own, self.accept_rollback, is_late)
        except Exception as error:
            if not self.store:
                self.control.send({"failed": complain(error).to_dict()["error"]})
                self.ended.set()
        finally:
            if self.unlocking is asyncio.current_task():
                self.unlocking = None

    def connected(
        self, pairing: Pairing, signer: str | None, session: Session | None = None
    ) -> Connected:
        """A connection to the signer, shown in `status` while it lasts; its pages are shown to the `session`."""

        def changed() -> None:
            self.report()
            if session and remote.auth_url:
                session.send({"progress": "page", "url": remote.auth_url})
            if session and remote.notice:
                session.send({"progress": "notice", "text": remote.notice})

        remote = RemoteSigner(pairing.keys, pairing.relays, signer, changed)
        remote.token = pairing.token
        return Connected(self, remote)

    async def open(
        self, custody: GivenKey | Keychain | Phone, accept_rollback: bool = False
    ) -> None:
        """Obtain the key and serve the vault."""
        await self.serve(custody, *await self.obtain(custody), accept_rollback)

    async def obtain(
        self, custody: GivenKey | Keychain | Phone
    ) -> tuple[nostr_sdk.Keys, dict[str, Any], bool]:
        """The agent's key, the content that it was obtained by, and whether that is this machine's own; raises AvaultError.

        What was read before the phone was asked counts to the end: meanwhile others may write to the disk, and ask too.
        """
        content, own = read_unlock(self.places)
        keys = await custody.obtain(content)
        # The envelope binds agent and operator: before anything is sealed for an operator, it must be the one.
        operator = parse_npub(content["operator"])
        try:
            bound = open_nsec(content, decrypt(keys, operator, content["envelope"]))
        except ValueError:
            bound = None
        if not bound or public_hex(bound) != public_hex(keys):
            raise Tampered(
                "the vault's files name another operator than they were made for",
                "take them from git history",
            )
        return keys, content, own

    async def serve(
        self,
        custody: GivenKey | Keychain | Phone,
        keys: nostr_sdk.Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
        is_late: bool = False,
    ) -> None:
        """Serve the vault with its key, if nobody does yet; one whose key `is_late` is not opened any more: raises Locked.

        Whatever the vault says, the answer must open nothing tomorrow.
        """
        async with self.serving:
            if self.store:
                await self.take_answer(self.store, custody, keys, content)
            elif is_late:
                await self.use_up(keys, content, own)
                raise Locked(
                    "the phone approved when nobody waited any more: nothing was opened",
                    "ask again with: avault unlock",
                )
            else:
                await self.load(custody, keys, content, own, accept_rollback)
        if self.unlocking and self.unlocking is not asyncio.current_task():
            self.unlocking.cancel()  # it waits for a key that is here

    async def use_up(self, keys: nostr_sdk.Keys, content: dict[str, Any], own: bool) -> None:
        """Turn the ratchet by an answer that opens nothing, unless somebody has opened the vault meanwhile."""
        if not self.store:
            self.proven = render_time(time.time())
            await self.turn_ratchet(keys, content, also_recovery=not own)

    async def take_answer(
        self,
        store: Store,
        custody: GivenKey | Keychain | Phone,
        keys: nostr_sdk.Keys,
        content: dict[str, Any],
    ) -> None:
        """Turn the ratchet of a vault that is open already, by an answer that is about it; raises Tampered for another."""
        if (public_hex(keys), parse_npub(content["operator"])) != (
            store.vault.agent,
            store.vault.operator,
        ):
            raise Tampered("the answer opens another vault than the one that is open")
        if custody.proves:
            self.proven = render_time(time.time())
        if isinstance(custody, Phone):
            self.note_quickness(custody.signer.answered_in, self.content)
        await self.turn_ratchet(store.keys, self.content, also_recovery=False)

    async def load(
        self,
        custody: GivenKey | Keychain | Phone,
        keys: nostr_sdk.Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
    ) -> None:
        """Load the vault, and turn the ratchet also if it cannot be."""
        self.proven = render_time(time.time()) if custody.proves else content.get("proven")
        if isinstance(custody, Phone):
            self.note_quickness(custody.signer.answered_in, content)
        loading = asyncio.to_thread(Store.load, self.places, keys, content, accept_rollback)
        try:
            store = await loading
            asked_as = (
                f", asked as {shorten_hex(custody.signer.me)}" if isinstance(custody, Phone) else ""
            )
            self.begin(store, content, type(custody).__name__ + asked_as, is_new=not own)
        finally:
            is_lost = not own or not os.path.lexists(self.places.file("nsec.enc"))
            await self.turn_ratchet(keys, content, also_recovery=is_lost)
            if isinstance(custody, Phone):
                self.keep_pairing(custody.pairing)
        if not own:
            self.warnings["recovery"] = (
                "the phone opened nsec.enc, which git keeps: who recorded its answer and gets this machine's pairing.json has the"
                " key; against that: avault pair --replace (from the next unlock on, this machine has its own envelope)"
            )
        await self.verify_recovery()
        self.note_hints()
        self.report()

    def note_quickness(self, seconds: float | None, content: dict[str, Any]) -> None:
        """Remark on an approval that came faster than a person reads; what the app does is known from the drill alone."""
        self.quick = (
            content.get("quick", 0) + 1 if seconds is not None and seconds < NOBODY_ASKED else 0
        )
        self.warnings.pop("quick", None)
        if self.quick >= QUICK_IN_A_ROW:
            self.warnings["quick"] = (
                f"{self.quick} approvals in a row came within {NOBODY_ASKED} s: see whether the app asks: avault drill"
            )
        elif self.quick:
            self.warnings["quick"] = (
                f"approved within {seconds:.1f} s; if that was not you, see whether the app asks: avault drill"
            )

    def begin(self, store: Store, content: dict[str, Any], custody: str, is_new: bool) -> None:
        """Serve a vault from now on, opened by this custody; raises AvaultError if the access log cannot be written.

        Only one that `is_new` on this machine may be without bounds of an earlier log.
        """
        log = AccessLog(self.places.state, store.keys, is_new)
        custody += ", rollback accepted" if store.rollback else ""
        log.write(
            {"op": "unlock", "for": custody},
            {"pid": os.getpid(), "uid": os.getuid(), "exe": None, "name": None, "parent": None},
        )
        log.save()
        self.store, self.content, self.log = store, content, log
        self.since, self.opened, self.used = time.time(), uptime(), uptime()
        self.report()

    async def turn_ratchet(
        self, keys: nostr_sdk.Keys, content: dict[str, Any], also_recovery: bool
    ) -> None:
        """Replace the envelope that was opened by a fresh one, with a fresh sealed copy, for whom `content` names.

        That is the open vault's, or what has just been opened: never what the disk says by now.
        """
        async with self.turning:
            await self.turn(keys, content, also_recovery)

    async def turn(
        self, keys: nostr_sdk.Keys, content: dict[str, Any], also_recovery: bool
    ) -> None:
        """`turn_ratchet`, for who holds `turning`."""
        identity, name, operator = (
            content["vault"],
            content["name"],
            parse_npub(content["operator"]),
        )

        def turn() -> dict[str, Any]:
            if also_recovery:
                recovery = seal_nsec(keys, identity, operator, name, self.host)
                write_file(self.places.file("nsec.enc"), encode_file("nsec", recovery))
            fresh = {
                **seal_nsec(keys, identity, operator, name, self.host),
                "proven": self.proven,
                "quick": self.quick,
            }
            write_file(self.places.own("unlock.json"), encode_file("unlock", fresh))
            return fresh

        try:
            self.content = await asyncio.to_thread(turn)
            if also_recovery:
                self.control.send({"wrote": True})
            self.warnings.pop("ratchet", None)
        except AvaultError as error:
            self.warnings["ratchet"] = (
                f"the phone's last answer still opens unlock.json, as no fresh one could be written: {error.message}"
            )

    def keep_pairing(self, pairing: Pairing) -> None:
        """Write a pairing by which the phone has just opened an envelope of this vault; until then the one before stays."""
        self.pairing = pairing
        try:
            pairing.save(self.places)
            forget_begun(self.places)
            self.warnings.pop("pairing", None)
        except AvaultError as error:
            self.warnings["pairing"] = (
                f"the pairing could not be written, and ends with this daemon: {error.message}"
            )

    def find_pairing(self) -> Pairing | None:
        """This machine's pairing, for the open vault; None where there is none.

        Raises Tampered where pairing.json is for another agent or operator, or is not the one by which the vault was opened.
        """
        found, store = Pairing.load(self.places), self.store
        if found and self.pairing and not found.is_same(self.pairing):
            hint = "avault status, which puts back the one that did; then try again"
            raise Tampered("pairing.json is not the pairing that opened this vault", hint)
        if (
            found
            and store
            and (found.agent, found.operator) != (store.vault.agent, store.vault.operator)
        ):
            raise Tampered(
                "pairing.json is for another agent or operator than the open vault",
                "avault pair --replace",
            )
        return self.pairing or found

    def note_hints(self) -> None:
        """Report where nip46.json differs from what the vault pins; it is never believed."""
        try:
            hints = read_hints(self.places.file("nip46.json"))
            mine = [self.content["agent"], self.content["operator"], self.content["name"]]
            if [hints["agent_npub"], hints["signer_npub"], hints["name"]] != mine:
                self.warnings["hints"] = (
                    "nip46.json names another agent, operator or name than the vault does; it is not believed"
                )
        except AvaultError as error:
            self.warnings["hints"] = error.message

    # -- requests

    def answer(
        self, session: Session, request: dict[str, Any]
    ) -> dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]:
        """The answer to a request, or the work that leads to it; raises AvaultError."""
        op = str(request.get("op"))
        if request.get("v") != 1 or request.get("vault") != self.places.id:
            raise Usage(
                "that is for another vault, or another version of avault", "see: avault status"
            )
        if op in SESSIONS:
            return self.converse(session, request)
        if op not in VALUES:
            raise Usage(f"not on this connection: {printable(op)}", "open another one for it")
        store = self.open_store()
        before = store.trouble, store.digest
        # those are about copies, and git is at work beside
        if op != "inspect" and not request.get("ours"):
            store.refresh()
        if (store.trouble, store.digest) != before:
            self.report()
            # perhaps by us: what a git pull has brought is merged
            self.control.send({"wrote": True})
            spawn(self.tasks, self.save_beside())
        return self.requests[op](self, session, request)

    def open_store(self) -> Store:
        """The store of an open vault; raises Locked, also when it is about to lock, or was to and `run` has slept through it."""
        if not self.store or self.ended.is_set() or self.time_left() <= 0:
            raise Locked("the vault is locked", "ask the phone with: avault unlock")
        return self.store

    def release(self, session: Session, request: dict[str, Any], outcome: str = "ok") -> None:
        """Note in the access log what is about to be released or changed; raises AvaultError if that cannot be."""
        session.caller = session.caller or describe_caller(
            session.transport.get_extra_info("socket")
        )
        if self.log:
            self.log.write(request, session.caller, outcome)
        self.used = uptime()
        if self.lock_idle and self.used - self.reported >= 1:
            self.report()

    async def change(self, function: Callable[[Vault], None]) -> dict[str, Any]:
        """Have a change written, together with those that wait meanwhile; raises what refused it."""
        self.open_store()  # it may have been locked while the value was awaited
        done: asyncio.Future[AvaultError | None] = asyncio.get_running_loop().create_future()
        self.queue.append((function, done))
        self.writer = self.writer or asyncio.get_running_loop().create_task(self.write_queue())
        if refused := await done:
            raise refused
        return {"ok": True}

    async def write_queue(self) -> None:
        """Write all changes that wait, until none does."""
        store = self.store
        while self.queue and store:
            batch, self.queue = self.queue, []
            results: list[AvaultError | None]
            store.writing = True
            try:
                results = await asyncio.to_thread(store.write, [function for function, _ in batch])
            except Exception as error:
                results = [complain(error)] * len(batch)
            finally:
                store.writing = False
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)
            self.report()
            if not all(results):
                self.control.send({"wrote": True})
        self.writer = None

    async def converse(self, session: Session, request: dict[str, Any]) -> dict[str, Any]:
        """A request that talks with the operator; one at a time, with an end."""
        if request["op"] == "open":  # it asks nobody: any number at once
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame()
            return await self.talks["open"](self, session, request, private)
        if self.talking:
            raise Usage(
                "another pairing is under way", "let it end first, or stop it with: avault lock"
            )
        self.talking = True
        self.report()
        try:
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame() if request.get("private") else {}
            async with asyncio.timeout(read_limit(request)):
                return await self.talks[request["op"]](self, session, request, private)
        except TimeoutError:
            # the signer is connected, and was to open the vault
            if os.path.lexists(self.places.own(UNPROVEN)):
                again = "recover" if request["op"] == "recover" else "pair"
            else:
                again = {"init": "init", "recover": "recover"}.get(request["op"], "pair --replace")
            hint = f"is the app open, and on the same relays? Try again with: avault {again}"
            raise TimedOut("the signer did not answer in time", hint) from None
        finally:
            self.talking = False
            self.report()
            if self.resume and not self.store and not self.unlocking:
                self.begin_unlock()
            self.resume = False

    def pause(self) -> None:
        """Stop asking for the key until the talk is over: the phone is asked one thing at a time."""
        self.note_question()
        if self.unlocking:
            self.unlocking.cancel()
            self.unlocking, self.resume = None, True


class Connected:
    """A signer's connection for the length of a `with`, shown by the keyholder's report."""

    def __init__(self, keyholder: Keyholder, signer: RemoteSigner) -> None:
        self.keyholder, self.signer = keyholder, signer

    async def __aenter__(self) -> RemoteSigner:
        await self.signer.open()
        self.keyholder.signer = self.signer
        self.keyholder.report()
        return self.signer

    async def __aexit__(self, *_: object) -> None:
        self.keyholder.signer = None
        if self.signer.clock:
            self.keyholder.warnings["clock"] = self.signer.clock
        self.keyholder.relays = [
            {**relay, "connected": None} for relay in self.signer.relays.values()
        ]
        await self.signer.close()
        self.keyholder.report()


# ------------------------------------------------------- daemon/requests ----
# What a client may ask of an open vault.
#
# What gives a value out, or changes one, stands in the access log before it happens.


def released(answer: Callable[[Vault, dict[str, Any]], dict[str, Any]]) -> Serve:
    """A request that gives values out: its answer is made, noted in the access log, and sent."""

    def serve(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
        try:
            found = answer(keyholder.open_store().vault, request)
        except AvaultError as error:
            keyholder.release(session, request, error.code)
            raise
        keyholder.release(session, request)
        return found

    return serve


def answer_get(vault: Vault, request: dict[str, Any]) -> dict[str, Any]:
    """One value, or those of a group."""
    name, key, form = request.get("group"), request.get("key"), request.get("format")
    if key is not None:
        found = vault.secrets(name, key)
        if form == "text":
            return {"ok": True, "output": found[0].value + "\n"}
        answer: dict[str, Any] = {"group": name, "key": key, "value": found[0].value}
        if len(found) > 1:
            answer["conflicts"] = [secret.value for secret in found[1:]]
    else:
        group = vault.group(name)
        values = {key: found[0].value for key, found in sorted(group.keys.items())}
        if form == "text":
            if broken := [key for key, value in values.items() if "\n" in value]:
                hint = f"avault get {name} --json, or avault get {name}/{broken[0]}"
                raise Usage(f"{name}/{broken[0]} has more than one line", hint)
            return {
                "ok": True,
                "output": "".join(f"{key}={value}\n" for key, value in values.items()),
            }
        answer = {"group": name, "note": group.note[0], "values": values}
    if form == "json":
        return {"ok": True, "output": json.dumps(answer, indent=2, ensure_ascii=False) + "\n"}
    return {"ok": True, **answer}


def answer_export(vault: Vault, request: dict[str, Any]) -> dict[str, Any]:
    """Variables, rendered or as they are."""
    groups, only, allow, named = (
        check_names(request, field) for field in ("groups", "only", "allow", "as")
    )
    chosen = choose(vault, groups, only, bool(request.get("prefix")), allow, named)
    variables = {
        name: vault.groups[group].keys[key][0].value for name, (group, key) in chosen.items()
    }
    if (form := request.get("format")) is not None:
        places = {group for group, _ in chosen.values()}
        answer: dict[str, Any] = {
            "ok": True,
            "output": render_export(
                str(form), variables, places.pop() if len(places) == 1 else None
            ),
        }
        warning = warn_of_readers(str(form), variables)
        return {**answer, "warning": warning} if warning else answer
    return {
        "ok": True,
        "variables": variables,
        "names": {name: "/".join(place) for name, place in chosen.items()},
    }


def answer_reveal(vault: Vault, request: dict[str, Any]) -> dict[str, Any]:
    """Secrets by their names, with what is in conflict with them."""
    groups, only = check_names(request, "groups"), check_names(request, "only")
    rows = [
        {
            "group": group,
            "key": key,
            "value": found[0].value,
            "conflicts": [secret.value for secret in found[1:]],
        }
        for group, key, found in select(vault, groups, only)
    ]
    return {"ok": True, "secrets": rows}


def serve_has(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
    """Whether a group or key is there."""
    groups = keyholder.open_store().vault.groups
    group, key = check_group(request.get("group")), request.get("key")
    return {
        "ok": True,
        "has": group in groups and (key is None or check_key(key) in groups[group].keys),
    }


def serve_list(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
    """What there is; names, never values."""
    vault, form, wanted = (
        keyholder.open_store().vault,
        request.get("format"),
        check_names(request, "groups"),
    )
    rows = select(vault, wanted, [])
    if form == "names":
        return {"ok": True, "output": "".join(f"{group}/{key}\n" for group, key, _ in rows)}
    groups = [group for group in describe_vault(vault) if not wanted or group["name"] in wanted]
    if form == "text":
        return {"ok": True, "output": render_list(groups)}
    if form == "json":
        return {
            "ok": True,
            "output": json.dumps({"groups": groups}, indent=2, ensure_ascii=False) + "\n",
        }
    return {"ok": True, "groups": groups}


def serve_verify_log(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
    """Whether the access log is what was written to it."""
    return {"ok": True, **(keyholder.log.verify() if keyholder.log else {})}


async def serve_verify(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """The hashes of the vault's files that this daemon vouches for; or whether a copy of nsec.enc opens."""
    store = keyholder.open_store()
    if (name := request.get("file")) is not None:
        verify_recovery(read_copy(keyholder, name), store.keys, store.vault)
        return {"ok": True}
    await keyholder.verify_recovery()
    return {
        "ok": True,
        "verified": {"avault.enc": store.digest, "nsec.enc": keyholder.recovery.digest},
    }


async def serve_set(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Set a key, to a value in the next frame or to a generated one."""
    group, key = check_group(request.get("group")), check_key(request.get("key"))
    note, size, machine = (
        check_note(request.get("note")),
        request.get("generate"),
        keyholder.open_store().machine,
    )
    if size is None:
        value = check_value((await session.frame()).get("value"))
    elif type(size) is int and 1 <= size <= 4096:
        value = "".join(secrets.choice(sorted(LETTERS | DIGITS)) for _ in range(size))
    else:
        raise Usage(
            "a generated value has 1 to 4,096 characters",
            f"avault set {group} --key {key} --generate 32",
        )
    is_replaced = False

    def change(vault: Vault) -> None:
        nonlocal is_replaced
        there = vault.groups[group].keys.get(key, []) if group in vault.groups else []
        is_replaced = any(secret.value != value for secret in there)
        vault.put(group, key, value, int(time.time()), machine)
        if note is not None:
            vault.annotate(group, note, machine)

    answer = await write(keyholder, session, request, change)
    return {**answer, "replaced": True} if is_replaced else answer


async def serve_delete(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Take a key away, or a group."""
    group, key = check_group(request.get("group")), request.get("key")
    return await write(
        keyholder,
        session,
        request,
        lambda vault: vault.remove(group, None if key is None else check_key(key)),
    )


async def serve_move(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Give a key, or a group, another name."""
    group, key = check_group(request.get("group")), request.get("key")
    to, to_key = check_group(request.get("to_group")), request.get("to_key")
    store, now = keyholder.open_store(), int(time.time())
    if (group, key) == (to, to_key) or (key is None and (to_key is not None or group == to)):
        raise Usage("that is no move", "avault mv GROUP/KEY GROUP/KEY, or avault mv GROUP GROUP")

    def moves(vault: Vault) -> list[tuple[str, str]]:
        names = [check_key(key)] if key is not None else sorted(vault.group(group).keys)
        return [(name, name if to_key is None else check_key(to_key)) for name in names]

    def change(vault: Vault) -> None:
        note = vault.group(group).note[0]
        for name, other in moves(vault):
            vault.move((group, name), (to, other), now, store.machine)
        if note and key is None and not vault.groups[to].note[0]:
            vault.annotate(to, note, store.machine)

    names = [name for old, new in moves(store.vault) for name in (f"{group}/{old}", f"{to}/{new}")]
    return await write(keyholder, session, {**request, "only": names}, change)


async def serve_import(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Set many keys at once; what is there with another value only if they may be replaced."""
    given = await session.frame()
    try:
        rows = [
            (check_group(group), check_key(key), check_value(value))
            for group, key, value in given["secrets"]
        ]
        notes = [
            (check_group(group), check_note(note) or "")
            for group, note in (given.get("notes") or {}).items()
        ]
    except (TypeError, ValueError, KeyError, AttributeError):
        raise Usage("secrets is a list of group, key and value") from None
    store, result = keyholder.open_store(), {}

    def change(vault: Vault) -> None:
        names: dict[str, list[str]] = {"new": [], "same": [], "replaced": []}
        for group, key, value in rows:
            there = vault.groups[group].keys.get(key) if group in vault.groups else None
            kind = (
                "new"
                if not there
                else "same"
                if [secret.value for secret in there] == [value]
                else "replaced"
            )
            names[kind].append(f"{group}/{key}")
            if kind != "same":
                vault.put(group, key, value, int(time.time()), store.machine)
        if names["replaced"] and not request.get("replace") and not request.get("dry_run"):
            listed = ", ".join(names["replaced"][:20])
            raise Denied(
                f"in the vault with another value: {listed}",
                "to replace them: --replace; to look: --dry-run",
            )
        for group, note in notes:
            vault.annotate(group, note, store.machine)
        result.update(names)

    noted = {**request, "only": [f"{group}/{key}" for group, key, _ in rows]}
    await write(keyholder, session, noted, change, only_try=True)  # a guess at a value is noted too
    if not request.get("dry_run") and (result["new"] or result["replaced"] or notes):
        await keyholder.change(change)
    return {"ok": True, **result}


async def serve_provide(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Values by GROUP/KEY, in the words of OpenClaw's exec secret provider, protocol version 1."""
    try:
        asked = json.loads((await session.frame())["value"])
        ids = asked["ids"]
        if (
            asked["protocolVersion"] != 1
            or not isinstance(ids, list)
            or len(ids) > 1000
            or {*map(type, ids)} - {str}
        ):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Usage(
            "not a request of OpenClaw's exec secret provider, version 1",
            "see references/openclaw.md",
        ) from None
    vault, values, errors = keyholder.open_store().vault, {}, {}
    for each in ids:
        group, _, key = each.partition("/")
        try:
            values[each] = vault.secrets(group, key)[0].value
        except (NotFound, Usage):
            errors[each] = {"code": "NOT_FOUND"}
    if errors:
        keyholder.release(session, {"op": "provide", "only": [*errors]}, NotFound.code)
    if values:
        keyholder.release(session, {"op": "provide", "only": [*values]})
    return {
        "ok": True,
        "output": json.dumps({"protocolVersion": 1, "values": values, "errors": errors}) + "\n",
    }


def read_copy(keyholder: Keyholder, name: object) -> bytes:
    """The bytes of a copy of avault.enc that a client has put into the state directory; raises Usage, NotFound."""
    stem = str(name).removesuffix(".enc")
    if (
        not isinstance(name, str)
        or stem == name
        or not stem
        or set(stem) - LETTERS - DIGITS - {"-"}
    ):
        raise Usage("a copy is named by letters, digits and -, and ends in .enc")
    return read_file(keyholder.places.own(name), VAULT_LIMIT)


def serve_inspect(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
    """What is in a copy of the vault, of any generation: names and times, never values."""
    vault = keyholder.open_store().open_copy(read_copy(keyholder, request.get("file")))
    groups = describe_vault(vault)
    for group in groups:
        for key in group["keys"]:
            found = vault.groups[group["name"]].keys[key["name"]]
            key["version"] = ",".join(f"{secret.machine}.{secret.count}" for secret in found)
    return {"ok": True, "groups": groups, "generation": vault.generation}


async def serve_merge(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Merge two copies of the vault, for git; or one into the vault that is served, which is a write."""
    store, theirs = keyholder.open_store(), read_copy(keyholder, request.get("theirs"))
    if request.get("ours") is None:
        if not store.vault.is_after(store.open_copy(theirs).generation):
            await write(keyholder, session, request, lambda vault: store.absorb(vault, theirs))
        return {"ok": True, "conflicts": conflicts(store.vault)}
    # not beside another: each takes a count
    data, merged = store.offer(read_copy(keyholder, request["ours"]), theirs)
    return {"ok": True, "merged": data.decode(), "conflicts": conflicts(merged)}


async def serve_restore(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Set a key, or those of a group, to what they were in a copy of the vault; or `unsaved`: write back what is served."""
    if request.get("unsaved"):
        keyholder.release(session, {"op": "restore", "for": "unsaved"})
        return {"ok": True, "needed": await keyholder.put_back()}
    store, key = keyholder.open_store(), request.get("key")
    old = store.open_copy(read_copy(keyholder, request.get("file")))
    group = check_group(request.get("group"))
    values = {
        check_key(name): old.secrets(group, name)[0].value
        for name in ([key] if key else sorted(old.group(group).keys))
    }

    def change(vault: Vault) -> None:
        for name, value in values.items():
            vault.put(group, name, value, int(time.time()), store.machine)

    await write(keyholder, session, request, change)
    return {"ok": True, "restored": [f"{group}/{name}" for name in values]}


async def write(
    keyholder: Keyholder,
    session: Session,
    request: dict[str, Any],
    change: Callable[[Vault], None],
    only_try: bool = False,
) -> dict[str, Any]:
    """Note a change in the access log and make it, or note why it is refused.

    One that fails when it is written, as on a full disk, is noted twice: first as what is to happen.
    """
    try:
        change(keyholder.open_store().vault.copy())
        keyholder.release(session, request)
        return {"ok": True} if only_try else await keyholder.change(change)
    except AvaultError as error:
        keyholder.release(session, request, error.code)
        raise


REQUESTS: dict[str, Serve] = {
    "get": released(answer_get), "export": released(answer_export), "reveal": released(answer_reveal),
    "has": serve_has, "list": serve_list, "provide": serve_provide, "verify_log": serve_verify_log, "inspect": serve_inspect,
    "verify": serve_verify,
    "set": serve_set, "delete": serve_delete, "move": serve_move, "import": serve_import, "merge": serve_merge,
    "restore": serve_restore,
}  # fmt: skip


# ----------------------------------------------------- daemon/supervisor ----
# The process that owns the socket. It never holds a secret.
#
# It reads the first frame of a connection, which carries none, and hands the connection on.


class Supervisor:
    """The daemon: socket, state, and a keyholder when somebody asks to unlock."""

    def __init__(self, places: Places, options: dict[str, Any], say: Callable[[str], None]) -> None:
        self.places, self.options, self.say = places, options, say
        limits = options["lock_after"], options["lock_idle"]
        self.guard = Guard(places, lock_directory(places.dir), say, self.tell_git, limits)
        self.git: dict[str, Any] | None = None  # what `avault git record` said last
        self.recording = self.unrecorded = False
        clean_directory(places.dir)
        clean_directory(places.state)
        self.stopping = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        # who has not been answered or handed on, the oldest first
        self.clients: list[socket.socket] = []
        self.bound: tuple[int, int] | None = None
        self.warned = False

    # -- the socket

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen until stopped; ask the phone at once if `ask` is set, or open with NOSTR_NSEC from the pipe `nsec`."""
        import signal

        options = self.options
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report_quietly)
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.stopping.set)
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        self.listen()
        write_file(self.places.own("python"), os.fsencode(sys.executable))
        write_file(self.places.pid_file, f"{os.getpid()}\n".encode())
        self.say(f"listening at {self.places.socket}")
        if options["ask"] or options["nsec"] is not None:
            limit = options["timeout"]
            first = Caller(
                limit,
                options["accept_rollback"],
                is_restrained=False,
                is_attended=limit is not None,
            )
            spawn(self.tasks, self.first_unlock(first, options["nsec"]))
        if options["notify"]:
            spawn(self.tasks, self.notify(options["notify"]))
        ready()
        spawn(self.tasks, self.stay_reachable())
        await self.stopping.wait()
        await self.guard.end()
        for path in (self.places.socket, self.places.pid_file, self.places.own("socket")):
            if os.path.lexists(path) and (path != self.places.socket or self.is_bound()):
                os.unlink(path)
        # who sees our connections end may start another daemon at once
        os.close(self.guard.lock_fd)
        self.say("stopped")

    def listen(self) -> None:
        """Bind the socket (0600) in a directory of ours; raises Unavailable, AvaultError."""
        path = self.places.socket
        directory = os.path.dirname(path)
        if directory == self.places.state:
            make_private_directory(directory)
        info = os.lstat(directory) if os.path.lexists(directory) else None
        if not info or info.st_mode & 0o170022 != 0o040000 or info.st_uid != os.getuid():
            raise AvaultError(
                f"{directory} is not a directory that only we can write to",
                "choose another place: AVAULT_SOCKET",
            )
        if len(os.fsencode(path)) > (107 if sys.platform == "linux" else 103):
            raise AvaultError(
                f"the socket's path is too long: {path}", "choose a shorter one with AVAULT_SOCKET"
            )
        if os.path.lexists(path):
            if os.lstat(path).st_mode & 0o170000 != 0o140000:
                raise AvaultError(
                    f"{path} is there, and is no socket", "choose another place: AVAULT_SOCKET"
                )
            try:
                FastConnection(self.places).socket.close()
            except OSError:
                os.unlink(path)
            else:
                raise Unavailable(
                    f"another daemon listens at {path}",
                    "stop it, or choose another place with AVAULT_SOCKET",
                )
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(path)  # 0700 by our umask
        self.socket.listen(1024)
        self.socket.setblocking(False)
        info = os.lstat(path)
        self.bound = (info.st_dev, info.st_ino)
        write_file(self.places.own("socket"), os.fsencode(path))
        self.accepting = asyncio.get_running_loop().create_task(self.accept(self.socket))

    def is_bound(self) -> bool:
        """Whether the socket's path still names our socket."""
        try:
            info = os.lstat(self.places.socket)
        except OSError:
            return False
        return (info.st_dev, info.st_ino) == self.bound

    async def stay_reachable(self) -> None:
        """Bind again when the path is gone, as when a logout removes /run/user; in the state directory if need be."""
        while True:
            await asyncio.sleep(2.0)
            if self.is_bound():
                continue
            self.accepting.cancel()  # before the descriptor's number is anybody else's
            await asyncio.gather(self.accepting, return_exceptions=True)
            self.socket.close()
            try:
                if not os.path.isdir(os.path.dirname(self.places.socket)):
                    self.places.socket = self.places.own(os.path.basename(self.places.socket))
                self.listen()
                self.say(f"listening at {self.places.socket}, as the path before was removed")
            except (AvaultError, OSError) as error:
                self.say(f"cannot listen at {self.places.socket}: {type(error).__name__}")

    async def accept(self, listener: socket.socket) -> None:
        """Take connections, for as long as the listener is open."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:  # out of descriptors
                await asyncio.sleep(0.1)
                continue
            spawn(self.tasks, self.serve(sock))
            await asyncio.sleep(0)  # one at a time, so that none is taken without room for it

    async def serve(self, sock: socket.socket) -> None:
        """Read the first frame of a connection, and answer it or hand it on."""
        request = None
        try:
            sock.setblocking(False)
            if not is_same_user(sock):
                return
            self.clients.append(sock)
            if len(self.clients) > room():
                self.clients.pop(0).shutdown(socket.SHUT_RDWR)  # as if it had left
            try:
                async with asyncio.timeout(FIRST_FRAME_TIME):
                    request = await self.first_frame(sock)
                answer = None if request is None else await self.handle(sock, request)
            except OSError:
                # too slow; or out of descriptors: what cannot be handed on is closed, and the
                # client tries again
                raise
            except Exception as error:
                answer = complain(error).to_dict()
            if answer is not None:
                async with asyncio.timeout(FIRST_FRAME_TIME):
                    await asyncio.get_running_loop().sock_sendall(sock, encode_frame(answer))
                if request and request.get("op") == "stop" and answer["ok"]:
                    self.stopping.set()
                    await asyncio.Event().wait()  # so that the connection ends when we do
        except (OSError, TimeoutError):
            return  # a client that went away, or that was too slow
        finally:
            if sock in self.clients:
                self.clients.remove(sock)
            sock.close()

    async def first_frame(self, sock: socket.socket) -> dict[str, Any] | None:
        """Exactly the first frame, and no byte of what follows; None for a client that left. Raises Usage."""
        loop = asyncio.get_running_loop()
        data, wanted = b"", 4
        while len(data) < wanted:
            piece = await loop.sock_recv(sock, wanted - len(data))
            if not piece:
                return None
            data += piece
            if wanted == 4 == len(data):
                wanted += int.from_bytes(data, "big")
                if wanted > FIRST_FRAME:
                    raise Usage("the first frame is too long")
        return decode_frame(data[4:])

    async def handle(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a first frame; None if the keyholder has the connection now. Raises AvaultError."""
        if request.get("v") != 1:
            hint = "avault daemon stop, then avault daemon start -b"
            raise Usage(
                "the running daemon speaks version 1 of the protocol, and this client another", hint
            )
        if request.get("vault") != self.places.id:
            raise Unavailable(
                f"the daemon here serves another vault, {self.places.dir}",
                "name yours with --dir, and unset AVAULT_SOCKET",
            )
        op = str(request.get("op"))
        if op in VALUES:
            if self.guard.state != "unlocked":
                raise self.guard.locked()
        elif op in SESSIONS:
            await self.guard.start()
        elif op in DOOR:
            if request.get("ask_again"):
                self.guard.ask_again()
            door = (
                self.status,
                self.unlock,
                self.lock,
                self.limit,
                self.wait,
                self.stop,
                self.keychain,
                self.record,
            )
            return await next(each for each in door if each.__name__ == op)(sock, request)
        else:
            raise Usage(f"no such request: {printable(op)}", "see references/protocol.md")
        if not self.guard.control:
            raise self.guard.locked()
        self.guard.control.send({"do": "connection", "frame": request}, sock.fileno())
        return None

    async def record(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Look at the repository again, as a command of git's has changed it."""
        self.tell_git()
        return {"ok": True}

    def tell_git(self) -> None:
        """Have git told of what was written; nobody waits for it."""
        self.unrecorded = True
        if not self.recording:
            self.recording = True
            spawn(self.tasks, self.run_git())

    async def run_git(self) -> None:
        """Run `avault git record`, once more if something was written meanwhile."""
        try:
            while self.unrecorded:
                self.unrecorded = False
                if find_git(os.path.realpath(self.places.dir)):
                    # hashes; git outlives us, and a lock
                    verified = json.dumps(self.guard.report.get("verified", {}))
                    self.git = await run_program(
                        own_command(
                            "git", "record", "--dir", self.places.dir, "--verified", verified
                        )
                    )
        finally:
            self.recording = False

    async def notify(self, command: str) -> None:
        """Run the operator's command whenever the state is another one."""
        told = ""
        while True:
            changed, state = self.guard.changed, self.guard.current_state()
            if state != told:
                told = state
                name = self.guard.report.get("name") or ""
                variables = {
                    "AVAULT_STATE": state,
                    "AVAULT_NAME": name,
                    "AVAULT_DIR": self.places.dir,
                }
                try:
                    async with asyncio.timeout(60):
                        await run_program(["/bin/sh", "-c", command], variables=variables)
                except TimeoutError:
                    self.say(
                        "the command of --notify takes longer than a minute; it is not waited for"
                    )
                continue
            await changed.wait()

    def interrupt(self) -> None:
        """Ctrl-C in the foreground: stop, but ask twice where that may lose a key."""
        try:
            self.guard.refuse_to_lose({"force": self.warned})
            self.stopping.set()
        except Denied as error:
            self.warned = True
            self.say(f"{error.message}; press Ctrl-C again to stop all the same")

    # -- door requests

    async def first_unlock(self, caller: Caller, nsec: int | None = None) -> None:
        """What `daemon start` asks for: with no `timeout`, for ever."""
        try:
            await self.guard.ask(caller, nsec)
        except AvaultError as error:
            if not isinstance(error, Locked):
                self.guard.failure = self.guard.failure or error
            self.say(error.message)

    async def while_connected(
        self, sock: socket.socket, work: Coroutine[Any, Any, None], caller: Caller | None = None
    ) -> None:
        """Do something for a client, for as long as it stays; a `caller` that leaves without a word has died."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        gone = loop.create_task(loop.sock_recv(sock, 1))
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if caller and gone.done() and (gone.exception() or not gone.result()):
                caller.has_died = True
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)
        await task

    async def unlock(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the phone, and answer when the vault is open; or, to `detach`, at once."""
        wish = bool(request.get("accept_rollback")), bool(request.get("person"))
        caller = Caller(read_limit(request), *wish, stay=read_limit(request, "stay"))
        if request.get("detach"):
            caller.is_attended = caller.timeout is not None
            spawn(self.tasks, self.first_unlock(caller))
            await asyncio.sleep(0)
            return await self.wait(sock, {"settled": True})
        telling = asyncio.get_running_loop().create_task(self.tell(sock))
        try:
            await self.while_connected(sock, self.guard.ask(caller), caller)
        finally:
            telling.cancel()
        if seconds := read_limit(request, "for"):
            await self.change_limits({"for": seconds})
        return await self.status(sock, request)

    async def tell(self, sock: socket.socket) -> None:
        """Send what is being waited for, whenever it changes."""
        while True:
            if self.guard.state == "waiting":
                progress = {"progress": "waiting"} | {
                    name: self.guard.report[name] for name in ("waiting", "relays", "code")
                }
                await asyncio.get_running_loop().sock_sendall(sock, encode_frame(progress))
            await self.guard.changed.wait()

    async def wait(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Answer when the vault is open, or when it is clear what is waited for (`settled`); asks nobody."""

        async def wait() -> None:
            while self.guard.state != "unlocked":
                if request.get("settled") and (
                    self.guard.state == "waiting" or not self.guard.question.callers
                ):
                    return
                await self.guard.changed.wait()

        try:
            if self.guard.state != "unlocked":  # else even `timeout` 0 is enough
                async with asyncio.timeout(read_limit(request)):
                    await self.while_connected(sock, wait())
        except TimeoutError:
            raise TimedOut("the vault did not open in time", "see: avault status") from None
        return await self.status(sock, request)

    async def lock(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Lock the vault."""
        await self.guard.look()
        self.guard.refuse_to_lose(request)
        self.guard.failure = None
        await self.guard.lock()
        return await self.status(sock, request)

    async def limit(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Change when the vault locks by itself, from now on; a limit of 0 is none."""
        given = {name: read_limit(request, name) for name in ("lock_after", "lock_idle")}
        changed = {name: seconds or None for name, seconds in given.items() if seconds is not None}
        self.options |= changed
        self.guard.limits = self.options["lock_after"], self.options["lock_idle"]
        if seconds := read_limit(request, "for"):
            changed["for"] = seconds
        await self.change_limits(changed)
        return await self.status(sock, request)

    async def change_limits(self, limits: dict[str, Any]) -> None:
        """Tell the keyholder of an open vault, and wait until it says what that means."""
        if self.guard.state == "unlocked" and self.guard.control:
            changed = self.guard.changed
            self.guard.control.send({"do": "limit", **limits})
            await changed.wait()

    async def stop(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """End the daemon, once it has answered."""
        await self.guard.look()
        self.guard.refuse_to_lose(request)
        await self.guard.end()
        return {"ok": True}

    async def keychain(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Keep an unlock key of its own in the platform's keychain, take it away, or look whether it is there."""
        action, path = request.get("action"), self.places.own("keychain.json")
        if action == "enable":
            answer = await self.guard.fill_keychain(describe_caller(sock))
        else:
            answer = await run_program(
                self.guard.keychain_command("delete" if action == "disable" else "look")
            )
        outcome = str(answer.get("outcome", "error"))
        if action == "disable" and os.path.lexists(path):
            os.unlink(path)
        return {
            "ok": True,
            "outcome": outcome,
            "detail": answer.get("detail"),
            "enabled": os.path.lexists(path),
        }

    def next_step(self, fields: dict[str, Any]) -> str | None:
        """What the operator might type next."""
        if self.guard.state != "unlocked":
            return self.guard.locked().hint
        return self.guard.pairing_hint() if fields["proven"] is False else None

    async def status(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Everything that is known, without a secret; or with the format `short` the state, as a line."""
        if request.get("format") == "short":
            return {"ok": True, "output": f"{self.guard.current_state()}\n"}
        await self.guard.look()
        public: dict[str, Any] = {}
        relays: list[Any] | None = None
        problem = ""
        try:
            public, own = read_unlock(self.places)
            path = self.places.own("pairing.json")
            pairing = decode_file("pairing", read_file(path), path) if os.path.lexists(path) else {}
            relays = (
                [{"url": url, "connected": None, "said": None} for url in pairing["relays"]]
                if pairing
                else None
            )
            if own and self.guard.state != "unlocked":  # an open vault knows more
                check_recovery(self.places)
        except AvaultError as error:
            pairing, problem = {}, error.message
        fields: dict[str, Any] = dict.fromkeys(
            ("groups", "secrets", "since", "until", "waiting", "listening")
        )
        fields |= {
            "agent_npub": public.get("agent"),
            "signer_npub": public.get("operator"),
            "name": public.get("name"),
        }
        fields["code"] = (
            request_code(public["sealed"]) if public and self.guard.state != "unlocked" else None
        )
        fields |= {
            "proven": bool(public.get("proven")) if public else None,
            "relays": relays,
            "warnings": [],
        }
        fields["signer_approves_by_itself"] = pairing.get("approves_by_itself")
        if self.guard.control:
            fields |= {
                name: value
                for name, value in self.guard.report.items()
                if value is not None and name in fields
            }
        if problem:
            fields["warnings"] = [*fields["warnings"], problem]
        if self.guard.state != "unlocked" and os.path.lexists(self.places.own("unsaved.enc")):
            kept = "avault.enc could not be used when the vault locked; what was served is kept: the next unlock serves it"
            fields["warnings"] = [*fields["warnings"], kept]
        pause = self.guard.question.pauses.end()
        return {
            "ok": True,
            **fields,
            "state": self.guard.current_state(),
            "asks_again": None if pause is None else render_time(pause),
            "hint": self.next_step(fields),
            "error": self.guard.failure.to_dict()["error"]
            if self.guard.failure and self.guard.state == "locked"
            else None,
            "dir": self.places.dir,
            "vault_id": self.places.id,
            "socket": self.places.socket,
            "pid": os.getpid(),
            "keyholder_pid": self.guard.pid(),
            "locks_after": self.options["lock_after"],
            "locks_idle": self.options["lock_idle"],
            "git": self.git,
            "keychain": os.path.lexists(self.places.own("keychain.json")),
            "version": __version__,
        }


# ---------------------------------------------------------- daemon/start ----
# From a command to a daemon.


def main_supervisor(argv: list[str]) -> NoReturn:
    """The supervisor process: `avault.py supervisor OPTIONS`, a JSON object of what `start_daemon` wants."""
    try:
        options = json.loads(argv[0])
        options["dir"], options["background"], options["ready"]
    except (IndexError, ValueError, TypeError, KeyError):
        sys.exit(
            "avault: error: the supervisor is not started by hand\navault: hint: avault daemon start"
        )

    service = os.environ.pop("NOTIFY_SOCKET", "")  # of systemd, sd_notify(3); not for our children

    def say(text: str) -> None:
        if not options["background"]:
            write_all(2, f"avault: {text}\n".encode())

    def ready(answer: dict[str, Any]) -> None:
        if options["ready"] is not None:
            write_all(options["ready"], encode_frame(answer))
            os.close(options["ready"])
        if service and answer["ok"]:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.connect(service.replace("@", "\0", 1) if service[0] == "@" else service)
                manager.send(b"READY=1")

    async def run() -> None:
        places = Places(options["dir"])
        places.socket, places.pid_file = options["socket"], options["pid_file"]
        await Supervisor(places, options, say).run(lambda: ready({"ok": True}))

    code = 0
    try:
        harden("avault")
        asyncio.run(run())
    except Exception as error:
        refused = complain(error)
        code = refused.exit_code
        if options["ready"] is not None:
            ready(refused.to_dict())
        else:
            write_all(2, f"avault: error: {refused.message}\n".encode())
            if refused.hint:
                write_all(2, f"avault: hint: {refused.hint}\n".encode())
    sys.exit(code)


def start_daemon(places: Places, background: bool, **wanted: Any) -> None:
    """Start the supervisor: in the background, and return when it listens; or become it.

    Either way it is a fresh process with a clean environment. NOSTR_NSEC goes
    into a socket that only a keyholder will read, and that /proc/PID/fd does not open. `wanted` is what is not as in
    `options` below. Raises what kept it from listening.
    """
    if not is_file_there(places.dir):
        raise no_vault(places)
    # a clone is not; and who can open a directory can hold its lock
    make_private_directory(places.dir)
    # after that: beside a vault of somebody else, root leaves nothing of its own
    make_private_directory(places.state)
    nsec = None
    if wanted.get("ask") and os.environ.get("NOSTR_NSEC"):
        mine, end = socket.socketpair()
        with end:
            end.sendall(os.environ["NOSTR_NSEC"].encode())
        nsec = mine.detach()
        os.set_inheritable(nsec, True)
    options = {
        "dir": places.dir, "socket": places.socket, "pid_file": places.pid_file, "background": background, "ask": False,
        "timeout": None, "accept_rollback": False, "lock_after": None, "lock_idle": None, "notify": None, "nsec": nsec,
        "ready": None, **wanted,
    }  # fmt: skip
    if not background:
        command = own_command("supervisor", json.dumps(options))
        manager = {name: os.environ[name] for name in ("NOTIFY_SOCKET",) if name in os.environ}
        os.execve(command[0], command, clean_environment() | manager)  # noqa: S606
    listening, told = os.pipe()
    options["ready"] = told
    daemon = subprocess.Popen(
        own_command("supervisor", json.dumps(options)),
        pass_fds=(told, *([] if nsec is None else [nsec])),
        env=clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    daemon.returncode = 0  # it outlives us, and nobody here waits for it
    os.close(told)
    if nsec is not None:
        os.close(nsec)
    with open(listening, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        raise Unavailable(
            "the daemon ended before it listened",
            "run it in the foreground to see why: avault daemon start",
        )
    result = decode_frame(answer[4:])
    if not result["ok"]:
        raise AvaultError.from_dict(result)


# ---------------------------------------------------------- daemon/talks ----
# The keyholder's talks with operator and signer: init, pair, recover, drill.


def accept_connect(secret: str) -> Callable[[str], None]:
    """What counts as a result of `connect` to a bunker: "ack", or its secret (NIP-46)."""

    def accept(result: str) -> None:
        if result != "ack" and not (
            secret and secrets.compare_digest(result.encode(), secret.encode())
        ):
            raise Denied("the signer answered `connect` with something else")

    return accept


async def talk_init(
    keyholder: Keyholder, session: Session, request: dict[str, Any], private: dict[str, Any]
) -> dict[str, Any]:
    """Make the agent's key and the vault's files; pair first unless the operator is given."""
    places = keyholder.places
    if keyholder.store:
        raise Denied(
            "a vault is open, whose key may be nowhere else", "avault lock, then: avault init"
        )
    refuse_to_overwrite(places)
    name, host = check_name(str(request.get("name"))), keyholder.host
    relays = [check_relay(url) for url in request.get("relays") or []] or DEFAULT_RELAYS
    keys = parse_keys(private["nsec"]) if private.get("nsec") else nostr_sdk.Keys.generate()
    agent, operator = (
        public_hex(keys),
        parse_npub(request["signer_npub"]) if request.get("signer_npub") else None,
    )
    if operator == agent:
        raise Usage(
            "that is the agent's own key", "--signer-npub is the operator's, the one in the phone"
        )
    identity, pairing = secrets.token_hex(16), None
    if not operator or private.get("bunker"):
        confirm = bool(request.get("confirm"))
        pairing = await shake_hands(
            keyholder, session, relays, name, private.get("bunker"), operator, agent, confirm
        )
        operator, relays = pairing.operator, pairing.relays
        if operator == agent:
            raise Usage(
                "the signer holds the agent's own key",
                "choose the operator's account in the signer",
            )
    vault = Vault(identity, agent, operator, name)
    content = {**seal_nsec(keys, identity, operator, name, host), "proven": None, "quick": 0}

    def write(path: str, data: bytes) -> None:
        write_file(path, data)
        session.send({"progress": "wrote", "path": path})

    write(places.file(".gitattributes"), complete_attributes(places.file(".gitattributes")))
    write(places.file("nip46.json"), encode_hints(agent, operator, relays, name))
    write(places.own("unlock.json"), encode_file("unlock", content))
    # cut off before, init begins anew; after, it opens
    store = await asyncio.to_thread(Store.create, places, keys, vault)
    session.send({"progress": "wrote", "path": places.file("avault.enc")})
    write(
        places.file("nsec.enc"),
        encode_file("nsec", seal_nsec(keys, identity, operator, name, host)),
    )
    keyholder.begin(store, content, "init", is_new=True)
    await keyholder.verify_recovery()
    keyholder.control.send({"wrote": True})
    if pairing:
        pairing.save(places, UNPROVEN)
        await prove(keyholder, session, pairing, content)
        session.send({"progress": "wrote", "path": places.own("pairing.json")})
    return {
        "ok": True,
        "agent_npub": to_npub(agent),
        "signer_npub": to_npub(operator),
        "paired": bool(pairing),
    }


async def talk_pair(
    keyholder: Keyholder, session: Session, request: dict[str, Any], private: dict[str, Any]
) -> dict[str, Any]:
    """Pair this machine and prove the vault; `recover` does it where the vault was never open.

    An open vault knows its names, and its machine's relays: what the disk says about them counts only for a closed one.
    """
    places = keyholder.places
    content, own = (keyholder.content, True) if keyholder.store else read_unlock(places)
    is_paired = bool(keyholder.pairing) or os.path.lexists(places.own("pairing.json"))
    if request["op"] == "recover":
        if (request.get("agent"), request.get("operator")) != (
            content["agent"],
            content["operator"],
        ):
            raise Denied(
                "nsec.enc is not of that agent and operator",
                "compare with what you wrote down: nothing was asked",
            )
    elif not own and not is_paired:
        raise Locked(
            "this machine has never opened this vault, and cannot tell it from another",
            "look at it once with: avault recover",
        )
    relays = [check_relay(url) for url in request.get("relays") or []]
    agent, operator = parse_npub(content["agent"]), parse_npub(content["operator"])
    is_anew = relays or request.get("replace")
    pairing = None if is_anew else Pairing.begun(places, agent, operator, private.get("bunker"))
    if (
        pairing
        and keyholder.store
        and keyholder.pairing
        and not (keyholder.begun and pairing.is_same(keyholder.begun))
    ):
        pairing = None  # what opened the vault is known, and what was begun since: this is neither
    if is_paired and not pairing and not request.get("replace"):
        raise Usage(
            "this machine is paired already",
            "ask the phone with: avault unlock, or pair anew: avault pair --replace",
        )
    if pairing:
        keyholder.pause()
        session.send(
            {
                "progress": "resumed",
                "client_key": public_hex(pairing.keys),
                "relays": pairing.relays,
            }
        )
    else:
        if not relays and not private.get("bunker"):
            relays = choose_relays(keyholder, session)
        pairing = await shake_hands(
            keyholder, session, relays, content["name"], private.get("bunker"), operator, agent
        )
        pairing.save(places, UNPROVEN)
    keyholder.begun = pairing
    await prove(keyholder, session, pairing, content, bool(request.get("accept_rollback")))
    hints = encode_hints(agent, operator, pairing.relays, content["name"])
    if not has_bytes(path := places.file("nip46.json"), hints):
        write_file(path, hints)
        keyholder.control.send({"wrote": True})
        keyholder.note_hints()
        keyholder.report()
    return {
        "ok": True,
        "agent_npub": content["agent"],
        "signer_npub": content["operator"],
        "relays": pairing.relays,
    }


def choose_relays(keyholder: Keyholder, session: Session) -> list[str]:
    """The relays of this machine's pairing, or for a first one those of nip46.json; where these differ, it is said."""
    try:
        known = keyholder.pairing or Pairing.load(keyholder.places)
    except Tampered:  # it is about to be replaced
        known = None
    try:
        hinted = [str(url) for url in read_hints(keyholder.places.file("nip46.json"))["relays"]]
    except AvaultError:
        if not known:
            raise
        hinted = []
    if known and hinted and known.relays != hinted:
        session.send({"progress": "relays", "relays": known.relays, "hinted": hinted})
    return known.relays if known else hinted


async def shake_hands(
    keyholder: Keyholder,
    session: Session,
    relays: list[str],
    name: str,
    bunker: str | None,
    operator: str | None,
    agent: str,
    confirm: bool = False,
) -> Pairing:
    """Connect with a signer, by a bunker URI or by one that it scans, and learn whose it is.

    An `operator` that is known must be the one; else, with `confirm`, a person says whether it is.
    """
    signer_key, secret = None, secrets.token_hex(16)
    if bunker:
        signer_key, relays, secret = parse_bunker(bunker)
    pairing = Pairing(nostr_sdk.Keys.generate(), signer_key or "", agent, "", relays)
    keyholder.pause()
    session.send({"progress": "connecting", "relays": len(relays)})
    async with keyholder.connected(pairing, signer_key, session) as signer:
        await signer.wait_ready(15.0)
        if signer_key:
            await signer.request(
                "connect",
                [signer_key, secret, "get_public_key", json.dumps(introduce(name))],
                accept_connect(secret),
                False,
            )
        else:
            session.send(
                {"progress": "uri", "uri": nostrconnect_uri(signer.me, relays, secret, name)}
            )
            pairing.signer = await signer.greet(secret)
            pairing.token = secret
        session.send({"progress": "connected", "client_key": signer.me})
        pairing.operator = await signer.request("get_public_key", [], parse_npub, False)
        # still listening: a second signer may answer while the person looks
        if confirm and not operator:
            said = await signer.unless_alarmed(session.frame(operator=to_npub(pairing.operator)))
            if said.get("confirmed") is not True:
                raise Denied(
                    "the operator was not confirmed, and nothing was made",
                    "pair again, with the right account: avault init",
                )
    if operator and pairing.operator != operator:
        other = f"the signer answers for {to_npub(pairing.operator)}, but the operator is {to_npub(operator)}"
        raise Denied(other, "choose the operator's account in the signer, and pair again")
    return pairing


async def prove(
    keyholder: Keyholder,
    session: Session,
    pairing: Pairing,
    content: dict[str, Any],
    accept_rollback: bool = False,
) -> None:
    """Have the phone open this machine's own envelope: now it is known that it can.

    A refusal leaves the pairing as it is, to be gone on with, unless the signer does not know it.
    """
    try:
        await ask_for_proof(keyholder, session, pairing, content, accept_rollback)
    except Denied as refused:
        if any(words in refused.message.lower() for words in NOT_PAIRED):
            forget_begun(keyholder.places)
        else:
            refused.hint = "the pairing is kept; ask again with: avault pair"
        raise


async def ask_for_proof(
    keyholder: Keyholder,
    session: Session,
    pairing: Pairing,
    content: dict[str, Any],
    accept_rollback: bool,
) -> None:
    """Ask the phone to open this machine's own envelope, and keep a pairing by which it has."""
    store = keyholder.store
    # an envelope for this once, which is on no disk: until the phone has opened it, all stays as it
    # was
    if store:
        content = seal_nsec(
            store.keys, store.vault.identity, store.vault.operator, store.vault.name, keyholder.host
        )
    sentence = f"unlock {content['name']}, code {request_code(content['sealed'])}"
    session.send({"progress": "approve", "sentence": sentence})
    async with keyholder.connected(pairing, pairing.signer, session) as signer:
        phone = Phone(pairing, signer)
        if not store:
            await keyholder.open(phone, accept_rollback)
        else:
            await phone.obtain(content)
            keyholder.note_quickness(signer.answered_in, keyholder.content)
            keyholder.proven = render_time(time.time())
            await keyholder.turn_ratchet(store.keys, keyholder.content, also_recovery=False)
            keyholder.keep_pairing(pairing)
    session.send({"progress": "proven", "seconds": signer.answered_in})
    keyholder.report()


async def talk_open(
    keyholder: Keyholder, session: Session, request: dict[str, Any], private: dict[str, Any]
) -> dict[str, Any]:
    """Open the vault with NOSTR_NSEC."""
    if not keyholder.store:
        await keyholder.open(
            GivenKey(str(private.get("nsec"))), bool(request.get("accept_rollback"))
        )
    return {"ok": True}


async def talk_drill(
    keyholder: Keyholder, session: Session, request: dict[str, Any], private: dict[str, Any]
) -> dict[str, Any]:
    """Ask for something that the operator is to reject: an app that approves by itself cannot."""
    pairing, store = keyholder.find_pairing(), keyholder.store
    if not pairing or not store:
        is_paired = os.path.lexists(keyholder.places.own("pairing.json"))
        raise Locked(
            "the drill needs a paired, open vault",
            "first: avault unlock" if is_paired else "pair it with: avault pair",
        )
    token, vault = secrets.token_hex(32), store.vault
    envelope = make_envelope(
        store.keys,
        vault.operator,
        "a drill: REJECT this one",
        "avault: this is a drill. REJECT this one.",
        token,
    )
    session.send({"progress": "reject"})
    async with keyholder.connected(pairing, pairing.signer, session) as signer:
        try:
            await signer.request("nip44_decrypt", [vault.agent, envelope], accept_token(token))
            refused = False
        except Denied as error:
            if any(words in error.message.lower() for words in NOT_A_REFUSAL):
                raise
            refused = True
    pairing.by_itself = not refused
    keyholder.keep_pairing(pairing)
    keyholder.quick = 0
    keyholder.warnings.pop("quick", None)
    await keyholder.turn_ratchet(store.keys, keyholder.content, also_recovery=False)
    keyholder.report()
    return {"ok": True, "refused": refused, "seconds": signer.answered_in}


TALKS: dict[str, Talk] = {
    "init": talk_init,
    "open": talk_open,
    "pair": talk_pair,
    "recover": talk_pair,
    "drill": talk_drill,
}


async def hold(places: Places, fd: int, limits: Limits) -> None:
    """The keyholder's life; its control stream is the file descriptor `fd`."""
    asyncio.get_running_loop().set_exception_handler(report_quietly)
    await Keyholder(places, socket.socket(fileno=fd), TALKS, REQUESTS, limits).run()


def main_keyholder(argv: list[str]) -> NoReturn:
    """The keyholder process: `avault.py keyholder FD DIR LIMITS`. Ends by _exit: what it knew goes with it."""
    code = 0
    try:
        harden("avault-keys", die_with_parent=True)
        asyncio.run(hold(Places(argv[1]), int(argv[0]), json.loads(argv[2])))
    except BaseException as error:
        code = 70  # EX_SOFTWARE; no traceback: its text may carry what it was about
        write_all(2, f"avault: error: the keyholder failed: {type(error).__name__}\n".encode())
    finally:
        os._exit(code)


# ---------------------------------------------------------- cli/terminal ----
# What commands have in common, and the page of help.
#
# Data goes to stdout; talk goes to stderr, as `avault: …`, lower case, without a full stop. Each
# command's docstring is its help, laid out by hand.


HELP = """\
avault keeps an agent's secrets, and opens them with the operator's phone.

usage: avault [--dir DIR] [--json] COMMAND …

begin
  init          make a vault and the agent's key, and pair with the phone
  pair          pair this machine with a signer, and try the drill
  recover       open a copy of a vault on a new machine
  demo          see all of it in a minute, with a phone in the terminal

every day
  set           keep a secret          avault set openai --key API_KEY
  get           print a secret         avault get openai/API_KEY
  has           ask by exit code       avault has openai/API_KEY
  list          names, notes, times    avault list
  edit          change one by hand     avault edit openai/API_KEY
  mv            give another name      avault mv openai/KEY openai/API_KEY
  delete        take a secret away     avault delete openai/API_KEY
  export        all as variables       vars=$(avault export --shell --wait) && eval "$vars"
  run           a command with them    avault run --only API_KEY -- my-agent
  inject        fill in a template     avault inject -i config.tmpl -o config.json
  wait          until the vault is open

the daemon
  daemon start  serve; asks the phone  avault daemon start -b
  daemon stop   end it
  status        what it does           (also: avault daemon status)
  unlock        ask the phone, and wait for the operator
  lock          forget the secrets

getting in, looking after
  migrate       take the secrets out of ~/.profile
  import        take them from .env, JSON, CSV, ~/.aws/credentials, ~/.netrc, …
  audit         what still stands in clear in shell files, .env and units
  scan          the vault's values in a working tree, or in what is staged
  drill         see whether the phone asks you before it opens
  log           who got what, and when
  history       what changed, by commit
  restore       a secret as it was in a commit
  sync          fetch, merge and push the vault's repository
  doctor        what is wrong, and the command that mends it

this machine
  service install|uninstall|status     a systemd unit that asks at boot
  keychain enable|disable|status       open without the phone, by the login keychain
  completion    for bash, zsh and fish
  help          what a command does    avault help set
  version
  forget        remove all of this vault from this machine but the vault
  signer        a phone in a terminal: a NIP-46 bunker

openclaw and other agents
  openclaw plan|install|uninstall|status|unlock|chats
  openclaw-provider                    secrets by reference
  mcp           an MCP server: tools that use secrets, and never show one

exit codes: 0 done, 1 error, 2 usage, 3 locked, 4 not found, 5 denied,
6 no daemon or relay, 7 nobody answered, 8 damaged or rolled back

avault COMMAND --help says more. --dir names the vault directory; else
$AVAULT_DIR, $WORKSPACE/.avault, ~/clawd/.avault, ~/.openclaw/workspace/.avault.
"""

COMMANDS: dict[str, tuple[Callable[..., int], tuple[Callable[[], click.Parameter], ...], bool]] = {}
ELSEWHERE = {  # the first word of a command that is not here: avault_NAME.py has it
    "init": "pair", "pair": "pair", "drill": "pair", "recover": "pair", "run": "run", "inject": "inject", "migrate": "import",
    "import": "import", "audit": "import", "scan": "scan", "log": "log", "git": "git", "sync": "git", "history": "git",
    "restore": "git", "keychain": "keychain", "forget": "keychain", "service": "service", "doctor": "doctor",
    "completion": "completion", "signer": "signer", "demo": "demo", "openclaw": "openclaw",
    "openclaw-provider": "openclaw", "mcp": "mcp", "edit": "edit",
}  # fmt: skip


def command(
    name: str, *parameters: Callable[[], click.Parameter], interspersed: bool = True
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a function as a command; click sees it when a command is run.

    One that is not `interspersed` takes no option after its first argument, as that is somebody else's command.
    """

    def register(function: Callable[..., int]) -> Callable[..., int]:
        COMMANDS[name] = function, parameters, interspersed
        return function

    return register


def load_commands(words: Iterable[str]) -> None:
    """Import what has the commands of these names, from beside this file or from scripts/ there; raises Unavailable."""
    from importlib import import_module

    # this very file, when it is run by its path
    sys.modules.setdefault("avault", sys.modules[__name__])
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path += [path for path in (here, os.path.join(here, "scripts")) if path not in sys.path]
    for name in dict.fromkeys(ELSEWHERE[word] for word in words if word in ELSEWHERE):
        try:
            import_module(f"avault_{name}")
        except ModuleNotFoundError as error:
            if error.name != f"avault_{name}":
                raise
            raise Unavailable(
                f"avault_{name}.py is not here", "keep scripts/ beside avault.py, or: pip install ."
            ) from None


def option(*names: str, **settings: Any) -> Callable[[], click.Parameter]:
    """An option, to be made when click is there."""
    return lambda: click.Option(names, **settings)


def argument(name: str, **settings: Any) -> Callable[[], click.Parameter]:
    """An argument, to be made when click is there."""
    return lambda: click.Argument([name], **settings)


def say(text: str) -> None:
    """Talk to the person, on stderr."""
    print(f"avault: {call.complete(text)}", file=sys.stderr, flush=True)


def warn(text: str, hint: str | None = None) -> None:
    """Say what should not be so, and what to do about it."""
    say(f"warning: {text}")
    if hint:
        say(f"hint: {hint}")


_has_put = False


def put(text: str) -> None:
    """Write data to stdout, at once; raises AvaultError."""
    global _has_put
    _has_put = True
    try:
        write_all(1, text.encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        sys.exit(141)  # what a shell reports for SIGPIPE
    except OSError as error:
        raise AvaultError(f"cannot write the output: {error.strerror}") from None


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
    """GROUP and KEY of `GROUP --key KEY`, `GROUP/KEY`, or of `GROUP KEY`, where `word` is that KEY; raises Usage."""
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


def confirm(question: str) -> bool:
    """Ask on a terminal; without one the answer is no."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def find_owner(directory: str) -> str | None:
    """The account that a directory belongs to, if that is not ours; under sudo, of one that is not there, who called it."""
    place = directory
    while True:
        try:
            is_ours = os.stat(place).st_uid == os.getuid()
            return (
                None
                if is_ours or (place != directory and owner_of(place) == "root")
                else owner_of(place)
            )
        except PermissionError:
            place = os.path.dirname(place)
        except FileNotFoundError:
            return os.environ.get("SUDO_USER") if os.getuid() == 0 else None
        except OSError:
            return None


def refuse_elses(places: Places) -> None:
    """Raise Denied where the vault is another account's, as under sudo: its daemon answers that one alone."""
    if owner := find_owner(places.dir):
        raise Denied(
            f"{places.dir} is {owner}'s, and its daemon answers nobody else",
            f"as {owner}: avault status",
        )


def is_person() -> bool:
    """Whether somebody types this at a terminal: a matter of manners, which secures nothing."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Terminal:
    """What every command is given: the places, and whether `--json` was asked for."""

    def __init__(self, directory: str | None, want_json: bool, creating: bool = False) -> None:
        self.places = Places(directory, creating)
        self.want_json = want_json

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """One request to the daemon; says so where there is no vault at all."""
        try:
            return ask_daemon(self.places, op, **fields)
        except NoDaemon:
            raise self.no_daemon() from None

    def no_daemon(self) -> AvaultError:
        """Why nobody listens: there is no vault, we may not look, or the daemon does not run."""
        try:
            if os.path.isdir(self.places.dir):
                refuse_elses(self.places)
            need_vault(self.places)
        except AvaultError as reason:
            return reason
        return explain_absence(self.places)

    def is_running(self) -> bool:
        """Whether a daemon listens."""
        try:
            FastConnection(self.places).socket.close()
        except OSError:
            return False
        return True

    def need_daemon(self) -> None:
        """Start a daemon that asks nobody, unless one runs, or systemd is about to start its own."""
        try:
            if not self.is_running() and not hasten_service(self.places):
                start_daemon(self.places, background=True)
        except Unavailable as error:
            self.wait_daemon(error)

    def wait_daemon(self, error: Unavailable) -> None:
        """Wait for a daemon that somebody else starts just now; raises the error of our own start if none comes."""
        end = time.monotonic() + 5
        while not self.is_running():
            if time.monotonic() > end:
                raise error
            time.sleep(0.05)


# ------------------------------------------------------------ cli/daemon ----
# daemon start and stop, status, unlock, lock.


@command(
    "daemon start", option("--background", "-b", is_flag=True), option("--timeout"), option("--accept-rollback", is_flag=True),
    option("--lock-after"), option("--lock-idle"), option("--notify"),
)  # fmt: skip
def cmd_daemon_start(
    terminal: Terminal,
    background: bool,
    notify: str | None,
    accept_rollback: bool,
    **limits: str | None,
) -> int:
    """usage: avault daemon start [-b] [--timeout D] [--lock-after D] [--lock-idle D]
                           [--notify CMD] [--accept-rollback]

    Asks the phone, and serves the secrets once the operator has approved.
    -b returns when the daemon listens, and says whether it waits or is open.
    --timeout ends the asking after D; the daemon stays, locked. By default it
    asks until somebody answers.

    --lock-after locks D after each unlock, --lock-idle when no secret was used
    for D; not before the phone has shown that it opens the vault. --notify runs
    a shell command at each change, with AVAULT_STATE (waiting, unlocked, locked,
    unpaired), AVAULT_NAME and AVAULT_DIR, so that the operator notices.

      avault daemon start -b --lock-after 8h
      avault daemon start --notify 'mail -s "avault: $AVAULT_STATE" me@example.com </dev/null'
    """
    limit, after, idle = (
        parse_duration(limits[name]) for name in ("timeout", "lock_after", "lock_idle")
    )
    if 0 in (after, idle):
        raise Usage("a limit of 0 would be none", "as in: --lock-after 8h --lock-idle 1h")
    is_hastened = not terminal.is_running() and hasten_service(terminal.places)
    try:
        status = ask_daemon(terminal.places, "status")
        there = status["locks_after"], status["locks_idle"]
        if notify:
            raise Usage(
                "a daemon is running, and a --notify cannot be changed",
                "avault daemon stop, then start it again",
            )
        if (after or there[0], idle or there[1]) != there:
            options = [
                f"--{name} {limits[f'lock_{name}']}"
                for name in ("after", "idle")
                if limits[f"lock_{name}"]
            ]
            raise Usage(
                "a daemon is running, with other limits",
                f"change them: avault lock {' '.join(options)}",
            )
        if status["state"] == "locked":
            fields = {"timeout": limit, "accept_rollback": accept_rollback, "person": is_person()}
            status = ask_daemon(terminal.places, "unlock", **fields, detach=True)
        pid, state = status["pid"], status["state"]
        say(
            f"systemd has started it (PID {pid}), {state}"
            if is_hastened
            else f"already running (PID {pid}), {state}"
        )
        if status["hint"]:
            say(f"hint: {status['hint']}")
        return 0
    except NoDaemon:
        pass
    need_vault(terminal.places)
    if os.environ.get("NOSTR_NSEC"):
        warn(
            "the key comes from NOSTR_NSEC: whoever reads this environment opens the vault without the phone"
        )
    try:
        wanted = {
            "timeout": limit,
            "accept_rollback": accept_rollback,
            "lock_after": after,
            "lock_idle": idle,
            "notify": notify,
        }
        start_daemon(terminal.places, background, ask=True, **wanted)
    except Unavailable as error:
        terminal.wait_daemon(error)  # another start at the same time was quicker
    status = ask_daemon(terminal.places, "wait", settled=True, timeout=60)
    if status["error"]:
        say(f"the daemon listens (PID {status['pid']})")
        raise AvaultError.from_dict(status)
    warn_of_logout(terminal.places)
    meaning = {
        "waiting": "it waits for the operator's approval on the phone",
        "unlocked": "the vault is open",
        "unpaired": "this machine is not paired with a signer",
    }
    say(
        f"the daemon listens (PID {status['pid']}); {meaning.get(status['state'], status['state'])}"
    )
    if status["state"] == "unpaired":
        say(f"hint: {status['hint']}")
    return 0


def warn_of_logout(places: Places) -> None:
    """Say so where the end of the session is the end of the daemon: systemd without lingering (loginctl(1))."""
    import getpass

    session = places.socket.startswith("/run/user/") and os.path.isdir("/run/systemd/system")
    if session and not os.path.exists(f"/var/lib/systemd/linger/{getpass.getuser()}"):
        warn("lingering is off: the daemon ends when you log out", "loginctl enable-linger")


@command("daemon stop", option("--force", is_flag=True))
def cmd_daemon_stop(terminal: Terminal, force: bool) -> int:
    """usage: avault daemon stop [--force]

    Ends the daemon; the secrets go with it. Where nobody has shown yet that the
    phone opens this vault, it asks first; --force does not.
    """
    return end("stop", terminal, force)


@command("lock", option("--after"), option("--idle"), option("--force", is_flag=True))
def cmd_lock(terminal: Terminal, after: str | None, idle: str | None, force: bool) -> int:
    """usage: avault lock [--force]
           avault lock [--after D] [--idle D]

    The process that holds the secrets exits; the daemon stays. Where nobody has
    shown yet that the phone opens this vault, it asks first; --force does not.

    --after and --idle lock nothing yet: they change when the running daemon
    locks by itself, until it ends; what it began with are --lock-after and
    --lock-idle of: avault daemon start. D is 90, 90s, 5m, 8h, 7d, or never.

      avault lock --after 8h --idle never
    """
    if after is None and idle is None:
        return end("lock", terminal, force)
    limits = {
        name: 0.0 if text == "never" else parse_limit(text)
        for name, text in (("after", after), ("idle", idle))
        if text
    }
    status = terminal.ask("limit", **{f"lock_{name}": seconds for name, seconds in limits.items()})
    if not terminal.want_json:
        say(describe_limits(status))
    return 0


def parse_limit(text: str) -> float:
    """A duration that is more than none; raises Usage."""
    seconds = parse_duration(text)
    if not seconds:
        raise Usage(
            "a limit of 0 would be none", "as in: avault lock --after 8h --idle 1h, or never"
        )
    return seconds


def describe_limits(status: dict[str, Any]) -> str:
    """When the vault locks by itself."""
    after, idle = status["locks_after"], status["locks_idle"]
    limits = [f"{render_duration(after)} after an unlock"] if after else []
    limits += [f"after {render_duration(idle)} without a use"] if idle else []
    rule = f"it locks {' and '.join(limits)}" if limits else "it does not lock by itself"
    return rule + (f"; this time at {status['until']}" if status["until"] else "")


def end(op: str, terminal: Terminal, force: bool) -> int:
    """`lock` or `stop`; nothing to do is done."""
    try:
        ask_daemon(terminal.places, op, force=force)
    except Denied as error:
        if not confirm(f"avault: {error.message}. {op} all the same?"):
            raise
        ask_daemon(terminal.places, op, force=True)
    except Interrupted:
        if op != "stop":
            raise
    except NoDaemon:
        need_vault(terminal.places)  # else it is another one that stays open
        if op == "stop" and cancel_restart(terminal.places):
            say("no daemon is running, and systemd does not start it again before the next boot")
        else:
            say("no daemon is running")
    return 0


def cancel_restart(places: Places) -> bool:
    """Keep systemd from starting a daemon again that has ended; whether it was about to. Raises Unavailable."""
    reason = explain_absence(places)
    found = find_unit(places)
    if reason.state != "starting" or not found:
        return False
    try:
        found[0].ask("stop", found[0].name)
    except AvaultError:
        raise Unavailable(reason.message, f"to stop it: {found[0].command('stop')}") from None
    return True


@command("version")
def cmd_version(terminal: Terminal) -> int:
    """usage: avault version

    Prints the version, as --version does.
    """
    put(f"avault {__version__}\n")
    return 0


@command("status", option("--watch", is_flag=True), option("--short", is_flag=True))
@command("daemon status", option("--watch", is_flag=True), option("--short", is_flag=True))
def cmd_status(terminal: Terminal, watch: bool, short: bool) -> int:
    """usage: avault status [--watch] [--short] [--json]

    What the daemon does and what it waits for. Exit code 0: unlocked; 3: locked,
    waiting or unpaired; 4: no vault; 6: no daemon.
    --watch shows it again whenever it changes, until Ctrl-C. --short is one word
    (unlocked, waiting, locked, unpaired, starting, stopped), and quick enough
    for a prompt.

      PS1='$(avault status --short) \\$ '
    """
    shown = ""
    while True:
        status = look(terminal.places, **({"ask_again": True} if watch and not shown else {}))
        if terminal.want_json:
            text = (
                json.dumps({"ok": True, **status}, indent=None if watch else 2, ensure_ascii=False)
                + "\n"
            )
        else:
            text = status["state"] + "\n" if short else render_status(status)
        if text != shown:
            redraw = watch and not short and not terminal.want_json and sys.stdout.isatty()
            put(("\x1b[H\x1b[2J" if redraw else "") + text)
        shown = text
        call.farewell = ""
        if not watch:
            return (
                STATES[status["state"]]
                if status["pid"] or has_vault(terminal.places)
                else NotFound.exit_code
            )
        time.sleep(0.5)


def look(places: Places, **fields: Any) -> dict[str, Any]:
    """The daemon's status, or what stands for it where none runs; the hint is for this very vault."""
    try:
        status = ask_daemon(places, "status", **fields)
    except NoDaemon:
        refuse_elses(places)
        status = describe_stopped(places)
    status["hint"] = call.complete(status["hint"]) if status["hint"] else None
    return status


def describe_stopped(places: Places) -> dict[str, Any]:
    """The status where no daemon runs, as far as the files tell; raises AvaultError where we may not look at them."""
    absence = explain_absence(places)
    status: dict[str, Any] = {
        "state": absence.state,
        "dir": places.dir,
        "vault_id": places.id,
        "socket": places.socket,
    }
    status |= dict.fromkeys(STATUS_FIELDS) | {"warnings": [], "version": __version__}
    if absence.reason:
        status["error"] = {"code": absence.code, "message": absence.reason, "hint": None}
    has_vault(places)
    try:
        content, own = read_unlock(places)
        status |= {
            "agent_npub": content["agent"],
            "signer_npub": content["operator"],
            "name": content["name"],
        }
        is_new = not own and not os.path.lexists(places.own("pairing.json"))
        status["hint"] = NEVER_OPENED if is_new else absence.hint
    except AvaultError as error:
        status["warnings"], status["hint"] = [error.message], error.hint
    return status


NEVER_OPENED = "this machine has never opened this vault; open it with: avault recover"


STATUS_FIELDS = (
    "pid", "keyholder_pid", "listening", "asks_again", "agent_npub", "signer_npub", "name", "code", "groups", "secrets",
    "proven", "since", "relays", "waiting", "signer_approves_by_itself", "hint", "error", "warnings", "version",
    "until", "locks_after", "locks_idle", "git", "keychain",
)  # fmt: skip


def render_status(status: dict[str, Any]) -> str:
    """Status for a person."""
    state = status["state"]
    lines = [f"Daemon: running (PID {status['pid']})" if status["pid"] else "Daemon: stopped"]
    if status["agent_npub"]:
        lines += [f"Agent: {status['agent_npub']}", f"Operator: {status['signer_npub']}"]
    if status["secrets"] is not None:
        lines.append(f"Vault: {status['secrets']} secret(s)")
    else:
        lines.append(
            "Vault: locked"
            if status["agent_npub"] or status["pid"]
            else "Vault: none that can be opened"
        )
    lines.append(f"Directory: {status['dir']}")
    words = {
        "waiting": "waiting for the operator's approval",
        "unpaired": "locked, and not paired with a signer",
        "starting": "systemd starts it by itself",
    }
    lines.append(
        f"State: {words.get(state, state)}"
        + (f" since {status['since']}" if status["since"] else "")
    )
    lines += [f"Locks: {status['until']}"] if status["until"] else []
    lines += ["Keychain: opens the vault without the phone"] if status["keychain"] else []
    if status["git"] and status["git"].get("hint"):
        lines.append(
            f"Git: {printable(status['git'].get('reason') or status['git'].get('push_reason'))}; "
            + call.complete(status["git"]["hint"])
        )
    lines += [f"Reason: {status['error']['message']}"] if status["error"] else []
    waiting = status["waiting"]
    if state == "waiting" and waiting:
        lines.append(f"Code: {status['code']}, in the sentence on the phone")
        taken = any(relay["said"] == "accepted" for relay in status["relays"] or [])
        connected = any(relay["connected"] for relay in status["relays"] or [])
        lines.append(
            f"Asked: {waiting['requests']} time(s) since {waiting['since']}"
            + (
                "; no relay is connected; trying again"
                if not connected
                else ""
                if taken
                else "; no relay has it yet"
            )
        )
        lines += (
            [f"Asked again: {waiting['next']}; to open the signer app is enough"]
            if waiting["next"]
            else []
        )
        lines.append(f"Asked as: {shorten_key(waiting['client_key'])}")
        lines += [f"Open this page: {waiting['auth_url']}"] if waiting["auth_url"] else []
        lines += [f"Signer said: {waiting['error']}"] if waiting["error"] else []
        lines += [f"Notice: {waiting['notice']}"] if waiting["notice"] else []
        for relay in status["relays"] or []:
            link = "connected" if relay["connected"] else "not connected"
            lines.append(f"Relay: {relay['url']}, {link}, {relay['said'] or 'nothing said'}")
    if status.get("listening"):
        lines.append("Listening: for an answer to an earlier request; nothing is asked")
    if status.get("asks_again"):
        lines.append(f"Pause: programs may ask the phone again at {status['asks_again']}")
    if status["proven"] is False:
        lines.append("Proven: no; nobody has shown yet that the phone opens this vault")
    lines += [
        f"Warning: {call.complete(printable(text, 300))}" for text in status["warnings"] or []
    ]
    if status["hint"]:
        lines.append(f"Next: {status['hint'].removesuffix('; see: avault status')}")
    return "".join(line + "\n" for line in lines)


@command(
    "unlock", option("--timeout"), option("--for", "how_long"), option("--again", is_flag=True),
    option("--accept-rollback", is_flag=True),
)  # fmt: skip
def cmd_unlock(
    terminal: Terminal,
    timeout: str | None,
    how_long: str | None,
    again: bool,
    accept_rollback: bool,
) -> int:
    """usage: avault unlock [--timeout D] [--for D] [--again] [--accept-rollback]

    Asks the phone, and waits until the operator has approved or refused. Starts
    the daemon if none runs. The phone shows the code that is printed here.
    --timeout gives up after D. --for locks it D from now on, this time, whatever
    the daemon's own limit is. After a refusal, programs have to wait before they
    may ask again: 15 minutes, then an hour, then four. Who types this in a
    terminal does not, nor does a program with --again, for when the operator has
    told it to ask again.

    --accept-rollback takes a vault that is older than what this machine has
    seen, and asks by itself, not together with others. With NOSTR_NSEC and no
    daemon, it only looks whether the vault opens.

      avault unlock --timeout 5m --for 1h
    """
    limit, nsec = parse_duration(timeout), os.environ.get("NOSTR_NSEC")
    lasting = {"for": parse_limit(how_long)} if how_long is not None else {}
    if nsec and not terminal.is_running():
        content, _ = read_unlock(terminal.places)
        make_private_directory(terminal.places.state)
        store = Store.read(terminal.places, asyncio.run(GivenKey(nsec).obtain(content)), content)
        refusal = store.compare(pin) if (pin := read_pin(terminal.places)) else None
        if refusal and not accept_rollback:
            raise Tampered(refusal, "get the latest (git pull), or insist with --accept-rollback")
        say(
            f"the vault opens with NOSTR_NSEC: {store.vault.count()} secret(s); no daemon runs, and none was started"
        )
        return 0
    need_vault(terminal.places)
    terminal.need_daemon()
    if nsec:
        warn(
            "the key comes from NOSTR_NSEC: whoever reads this environment opens the vault without the phone"
        )
        ask_daemon(
            terminal.places,
            "open",
            value={"nsec": nsec},
            private=True,
            accept_rollback=accept_rollback,
        )
        status = ask_daemon(terminal.places, "limit", **lasting)
    else:
        asked = {
            "timeout": limit,
            "accept_rollback": accept_rollback,
            "person": again or is_person(),
            **lasting,
        }
        call.farewell = "stopped; the phone is not asked any longer for this"
        with Waiting() as waiting:
            status = ask_daemon(terminal.places, "unlock", progress=waiting, **asked)
    for text in status["warnings"]:
        warn(text)
    if lasting and not status["until"]:
        warn(
            "it does not lock by itself: no phone has shown yet that it opens this vault",
            status["hint"],
        )
    say(
        f"unlocked: {status['secrets']} secret(s)"
        + (f", until {status['until']}" if status["until"] else "")
    )
    return 0


class Waiting:
    """What an unlock waits for: on a terminal a line that is redrawn in place, else a line for each thing that is new."""

    CONNECTING = 5.0  # seconds for which a relay that is not connected yet is no reason to say so

    def __init__(self) -> None:
        import threading

        self.said: set[str] = set()
        self.progress: dict[str, Any] = {}
        self.begun = time.monotonic()
        self.is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.ended = threading.Event()
        self.pen = threading.Lock()  # of who writes to the terminal
        self.drawing = threading.Thread(target=self.draw, daemon=True)

    def __enter__(self) -> Self:
        self.drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.drawing.join()

    def draw(self) -> None:
        """Keep the line on the terminal until it is ended, cut to the width: what is longer would go on to a new line."""
        while not self.ended.wait(0.25):
            with self.pen:
                state = self.describe()
                if state and self.is_terminal:
                    minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
                    clock = f", {minutes}:{seconds:02}"
                    sys.stderr.write(
                        f"\r\x1b[K{state[: max(terminal_width() - 1 - len(clock), 0)]}{clock}"
                    )
                    sys.stderr.flush()
                elif state and not self.is_connected():
                    self.say_once(state)
        if self.progress and self.is_terminal:
            sys.stderr.write("\r\x1b[K")

    def is_connected(self) -> bool:
        """Whether a relay is."""
        return any(relay["connected"] for relay in self.progress.get("relays") or [])

    def describe(self) -> str:
        """What is waited for at this moment; empty where nothing is known yet."""
        relays = self.progress.get("relays") or []
        if not relays:
            return ""
        if self.is_connected():
            taken = sum(relay["said"] == "accepted" for relay in relays)
            return f"asked {taken} of {len(relays)} relays, waiting for approval"
        if (
            not (self.progress["waiting"] or {}).get("requests")
            and time.monotonic() - self.begun < self.CONNECTING
        ):
            return f"connecting to {len(relays)} relay{'' if len(relays) == 1 else 's'}"
        return "no relay is connected; trying again"

    def __call__(self, progress: dict[str, Any]) -> None:
        with self.pen:
            self.progress = progress
            self.tell(progress, progress["waiting"] or {})

    def tell(self, progress: dict[str, Any], waiting: dict[str, Any]) -> None:
        """Say what is new in what the daemon has told."""
        if self.is_connected() and waiting:
            self.say_once(
                f"asking the phone, code {progress['code']}; open the signer app and approve there, or see: avault status"
            )
            self.say_once(f"the app may show who asks as {shorten_key(waiting['client_key'])}")
        if waiting.get("auth_url"):
            self.say_once(f"open this page to approve: {waiting['auth_url']}")
        if waiting.get("error"):
            self.say_once(f"the signer says: {waiting['error']}")
        if waiting.get("notice"):
            self.say_once(waiting["notice"])

    def say_once(self, line: str) -> None:
        """Say what is new."""
        if line not in self.said:
            self.said.add(line)
            sys.stderr.write("\r\x1b[K" if self.is_terminal else "")
            say(line)


def terminal_width() -> int:
    """The columns of the terminal that stderr is; 80 where that is not known."""
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


# ----------------------------------------------------------- cli/secrets ----
# set, get, has, list, mv, delete, export, wait.


@command(
    "set", argument("group"), option("--key"), option("--value"), option("--file"),
    option("--generate", is_flag=False, flag_value="32"), option("--note"),
)  # fmt: skip
def cmd_set(
    terminal: Terminal,
    group: str,
    key: str | None,
    value: str | None,
    file: str | None,
    generate: str | None,
    note: str | None,
) -> int:
    """usage: avault set GROUP --key KEY [--file F | --generate [N] | --value V] [--note TEXT]

    Keeps a secret. The value comes from stdin, or from a prompt without echo;
    one trailing newline is taken off. --file keeps its bytes as they are.
    --generate makes N (32) characters of A-Z a-z 0-9 and does not print them.
    Another value that is there is replaced, which is said; git keeps it.
    --value works, but stands in `ps` and in the shell's history.
    --note is about the group. GROUP/KEY is short for GROUP --key KEY.

      avault set openai --key API_KEY
      pass show openai | avault set openai/API_KEY
      avault set database/PASSWORD --generate 40 --note "production, read only"
    """
    if "=" in group + (key or ""):
        raise no_argument()
    group, key = split_name(group, key)
    if key is None:
        raise Usage("no key is named", f"avault set {group} --key API_KEY")
    if sum(given is not None for given in (value, file, generate)) > 1:
        raise Usage("--value, --file and --generate exclude each other")
    fields: dict[str, Any] = {"group": group, "key": key, "note": note}
    if generate is not None:
        if not is_number(generate):
            raise Usage(
                "--generate takes a number of characters", f"avault set {group}/{key} --generate 32"
            )
        answer = terminal.ask("set", **fields, generate=int(generate))
    else:
        if value is not None:
            warn(
                "the value stands in the process list and in the shell's history",
                f"leave --value out: avault set {group}/{key}",
            )
        if value is None and file is None and sys.stdin.isatty():
            # a locked vault says so before a person has typed
            terminal.ask("has", group=group, key=key)
        value = check_value(read_value(group, key, value, file))
        answer = terminal.ask("set", **fields, value={"value": value})
        if "\r" in value:
            warn(
                "a carriage return stays in the value, as in files from Windows",
                f"tr -d '\\r' < FILE | avault set {group}/{key}",
            )
    if answer.get("replaced"):
        tell_of_replaced(terminal.places.dir, group, key)
    elif sys.stderr.isatty():
        say(f"kept {group}/{key}")
    return 0


def no_argument() -> Usage:
    """The refusal of a value that stands among the words of a command line; it does not repeat it."""
    return Usage(
        "a value is not taken as an argument, where `ps` and the shell's history have it",
        'avault set GROUP/KEY asks for it, or takes it from a pipe: printf %s "$VALUE" | avault set GROUP/KEY',
    )


def read_value(group: str, key: str, value: str | None, file: str | None) -> str:
    """The value of `set`: given, from a file, from a pipe, or from a prompt."""
    if value is not None:
        return value
    if file is not None:
        data = read_file(os.path.expanduser(file), MAX_VALUE, only_regular=False)
    elif sys.stdin.isatty():
        from getpass import getpass

        return getpass(f"{group}/{key}: ")
    else:
        data = read_stdin().removesuffix(b"\n")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Usage(
            "the value is binary",
            f"keep it as text: base64 -w0 FILE | avault set {group} --key {key}",
        ) from None


@command("get", argument("group"), argument("word", required=False), option("--key"))
def cmd_get(terminal: Terminal, group: str, word: str | None, key: str | None) -> int:
    """usage: avault get GROUP [KEY | --key KEY] [--json]

    Prints a secret and a newline. Without a key: the group, as KEY=value lines.
    An agent had better use it without seeing it, from the environment.

      avault get openai --key API_KEY
      avault get openai/API_KEY
      avault get openai --json
    """
    group, key = split_name(group, key, word)
    put(
        terminal.ask("get", group=group, key=key, format="json" if terminal.want_json else "text")[
            "output"
        ]
    )
    return 0


@command("has", argument("group"), argument("word", required=False), option("--key"))
def cmd_has(terminal: Terminal, group: str, word: str | None, key: str | None) -> int:
    """usage: avault has GROUP [KEY | --key KEY]

    Prints nothing. Exit code 0: it is there; 4: it is not; 3: the vault is locked.

      avault has openai/API_KEY || echo "ask the operator for a key"
    """
    group, key = split_name(group, key, word)
    found = terminal.ask("has", group=group, key=key)["has"]
    if terminal.want_json:
        put(json.dumps({"has": found}) + "\n")
    return 0 if found else NotFound.exit_code


@command("list", argument("groups", nargs=-1), option("--names", is_flag=True))
def cmd_list(terminal: Terminal, groups: tuple[str, ...], names: bool) -> int:
    """usage: avault list [--names] [--json] [GROUP]…

    Groups with their keys, notes and times, or those that are named. Never
    values. --names prints GROUP/KEY, a line each.
    """
    form = "names" if names else "json" if terminal.want_json else "text"
    put(
        terminal.ask("list", format=form, groups=[check_group(group) for group in groups])["output"]
    )
    return 0


@command("mv", argument("old"), argument("new"))
def cmd_mv(terminal: Terminal, old: str, new: str) -> int:
    """usage: avault mv OLD NEW

    Gives a secret another name, or a group: OLD is GROUP/KEY or GROUP, and so
    is NEW; a GROUP alone, for a secret, keeps its key's name. Nothing that is
    there is replaced.

      avault mv openai/KEY openai/API_KEY
      avault mv openai/API_KEY old
      avault mv openai azure
    """
    (group, key), (to_group, to_key) = split_name(old, None), split_name(new, None)
    terminal.ask(
        "move", group=group, key=key, to_group=to_group, to_key=key if to_key is None else to_key
    )
    if sys.stderr.isatty():
        say(f"{old} is {new if key is None or to_key else f'{new}/{key}'} from now on")
    return 0


@command("delete", argument("group"), argument("word", required=False), option("--key"))
def cmd_delete(terminal: Terminal, group: str, word: str | None, key: str | None) -> int:
    """usage: avault delete GROUP [KEY | --key KEY]

    Takes a key out of the vault; without one, the whole group. What git
    already has stays in its history: revoke a leaked key where it was issued.

      avault delete openai/API_KEY
    """
    group, key = split_name(group, key, word)
    terminal.ask("delete", group=group, key=key)
    if sys.stderr.isatty():
        say(f"deleted {group}" + (f"/{key}" if key else ""))
    return 0


@command(
    "export", option("--shell", is_flag=False, flag_value="sh"), option("--format", "form"),
    option("--group", "groups", multiple=True), option("--only", multiple=True), option("--as", "named", multiple=True),
    option("--prefix", is_flag=True), option("--wait", is_flag=False, flag_value=""), option("--allow", multiple=True),
)  # fmt: skip
def cmd_export(
    terminal: Terminal,
    shell: str | None,
    form: str | None,
    only: list[str],
    named: list[str],
    wait: str | None,
    **given: Any,
) -> int:
    """usage: avault export [--shell [sh|fish] | --format dotenv|json|systemd|docker|github|k8s]
                     [--group G]… [--only KEY,…] [--as NAME=GROUP/KEY]…
                     [--prefix] [--wait [D]] [--allow NAME]…

    Prints secrets as variables: dotenv lines, or with --shell statements for
    eval, in sh, dash, bash, zsh, busybox or fish. What some readers of dotenv
    files would read otherwise is named; --format docker is what docker's own
    reads, which knows no quotes, github is for $GITHUB_ENV, k8s a Secret for
    kubectl. A value that a form cannot carry is refused.
    Two groups with the same key are an error; --group chooses, --as names one
    (OPENAI_API_KEY=openai/API_KEY), --prefix tells all apart (DATABASE_PASSWORD).
    PATH, LD_*, BASH_ENV and their like are refused without --allow NAME.
    --wait waits until the vault is open (at most D: 90, 90s, 5m, 8h); it asks nobody.
    Locked: nothing on stdout, exit code 3.

      vars=$(avault export --shell --wait) && eval "$vars"    fails closed
      eval "$(avault export --shell --only API_KEY)"
      avault export --shell fish | source
      (umask 077; avault export --format systemd > /run/agent.env)
      docker run --env-file <(avault export --format docker --group web) IMAGE
      avault export --format k8s --group web | kubectl apply -f -
    """
    if shell is not None and form is not None:
        raise Usage("--shell and --format exclude each other")
    if shell not in (None, "sh", "fish"):
        raise Usage(
            f"no shell {printable(shell)!r}",
            "--shell sh serves sh, dash, bash, zsh and busybox; --shell fish the other one",
        )
    if form not in (None, *FORMS):
        raise Usage(f"no format {printable(form)!r}", f"one of: {', '.join(FORMS)}")
    if wait is not None:
        wait_open(terminal, parse_duration(wait or None))
    chosen = "json" if terminal.want_json and not shell and not form else shell or form or "dotenv"
    names = [name for each in only for name in each.split(",")]
    answer = terminal.ask("export", format=chosen, only=names, **{"as": list(named)}, **given)
    put(answer["output"])
    if "warning" in answer:
        warn(answer["warning"])
    return 0


@command("wait", option("--timeout"))
def cmd_wait(terminal: Terminal, timeout: str | None) -> int:
    """usage: avault wait [--timeout D]

    Returns when the vault is open; waits for a daemon too, and asks nobody.

      avault wait --timeout 10m && exec my-agent
    """
    wait_open(terminal, parse_duration(timeout))
    return 0


def wait_open(terminal: Terminal, timeout: float | None) -> None:
    """Wait until the vault is open, and for a daemon if there is none; raises TimedOut."""
    end = None if timeout is None else time.monotonic() + timeout
    if not terminal.is_running():
        need_vault(terminal.places)
    if sys.stderr.isatty() and not terminal.is_running():
        say(
            f"waiting for a daemon to open {terminal.places.dir}; {explain_absence(terminal.places).hint}"
        )
    while True:
        left = None if end is None else end - time.monotonic()
        try:
            ask_daemon(terminal.places, "wait", timeout=left)
            return
        except (NoDaemon, Interrupted):
            if left is not None and left <= 0:
                raise TimedOut(
                    "no daemon came up in time", explain_absence(terminal.places).hint
                ) from None
        time.sleep(0.2)


# -------------------------------------------------------------- cli/main ----
# From a command line to a command, by way of click; and where the program starts.


MEANT = {  # what other tools call it: how it is called here
    "add": "set", "cat": "get", "close": "lock", "copy": "get", "create": "set", "del": "delete", "find": "list",
    "generate": "set", "grep": "scan", "info": "status", "insert": "set", "load": "export", "login": "unlock",
    "logout": "lock", "ls": "list", "move": "mv", "new": "set", "open": "unlock", "print": "get", "put": "set",
    "pull": "sync", "push": "sync", "read": "get", "remove": "delete", "rename": "mv",
    "reset": "daemon stop && avault daemon start -b", "restart": "daemon stop && avault daemon start -b", "rm": "delete",
    "rotate": "set", "search": "list", "seal": "lock", "setup": "init", "show": "get", "start": "daemon start -b",
    "state": "status", "stop": "daemon stop", "store": "set", "undo": "history", "unseal": "unlock", "update": "set",
    "write": "set",
}  # fmt: skip


def no_command(words: list[str], there: list[str], path: str) -> Usage:
    """What is said of a command that is none. Of what was typed only names are repeated, as the rest may be a secret."""
    import difflib

    word, *rest = words
    called = f": {word}" if word.isascii() and word.isalpha() and len(word) < 20 else ""
    if path != "avault":
        near = difflib.get_close_matches(word, there, 1, 0.6) or [
            f"{there[0]}, or one of: {', '.join(there)}"
        ]
        return Usage(f"no such command{called}", f"{path} {near[0]}")
    near = difflib.get_close_matches(word, [*there, *MEANT], 1, 0.7)
    meant = MEANT.get(word) or (MEANT.get(near[0], near[0]) if near else None)
    if not meant:
        return Usage(f"no such command{called}", "avault --help")
    names = [name for name in rest[: 2 if meant == "mv" else 1] if is_name(name, meant)]
    return Usage(f"no such command{called}", " ".join(["avault", meant, *names]))


def is_name(word: str, command: str) -> bool:
    """Whether a word is the name of a secret; where a command takes secrets too, only a GROUP/KEY is taken for one."""
    try:
        _, key = split_name(word, None)
    except Usage:
        return False
    return command in ("list", "get", "delete", "mv") or (command == "set" and key is not None)


def build_commands(words: Iterable[str]) -> click.Group:
    """click's commands: those above, and those elsewhere that `words` name."""
    load_commands(words)

    class HandWritten(click.Command):
        """A command whose help is its function's docstring, as it stands there.

        What it refuses of a command line it does not repeat: it may be a secret.
        """

        def make_parser(self, context: click.Context) -> Any:
            parser = super().make_parser(context)
            parse = parser.parse_args

            def parse_once(
                args: list[str],
            ) -> tuple[dict[str, Any], list[str], list[click.Parameter]]:
                found, rest, order = parse(args)
                for each in order:
                    if (
                        isinstance(each, click.Option)
                        and not (each.multiple or each.is_flag)
                        and order.count(each) > 1
                    ):
                        raise click.UsageError(f"{each.opts[0]} is given more than once", context)
                return found, rest, order

            parser.parse_args = parse_once  # type: ignore[method-assign]
            return parser

        def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
            context.allow_extra_args = True
            try:
                super().parse_args(context, args)
            except click.UsageError as error:
                error.ctx = error.ctx or context
                raise
            if context.args and self.name == "set":
                raise no_argument()
            if context.args:
                raise click.UsageError("unexpected extra argument", context)
            return context.args

        def get_help(self, context: click.Context) -> str:
            put(
                "\n".join(
                    line.removeprefix("    ") for line in (self.help or "").split("\n")
                ).rstrip()
                + "\n"
            )
            context.exit()

    class Group(click.Group):
        """A group whose help is the page HELP of cli/terminal."""

        def get_help(self, context: click.Context) -> str:
            put(HELP if context.parent is None else self.list_pages())
            context.exit()

        def list_pages(self) -> str:
            """How each command of a group is called, and what it does."""
            shown = ""
            for each in self.commands.values():
                usage, _, prose = (each.help or "").partition("\n\n")
                about = " ".join(prose.split()).split(". ")[0].rstrip(".")
                shown += f"{usage}\n    {about}\n"
            return shown

        def resolve_command(self, context: click.Context, words: list[str]) -> Any:
            """The command of that name; raises Usage, which leads to the one that may be meant."""
            if words[0] in self.commands:
                return super().resolve_command(context, words)
            call.directory = context.find_root().params["dir"]
            raise no_command(words, list(self.commands), context.command_path)

    def remember(context: click.Context, directory: str | None) -> None:
        """Note how this command was called, for its hints."""
        import shlex

        call.directory, call.name = directory, context.command_path.removeprefix("avault ")
        for parameter in context.command.params:
            value, name = context.params.get(parameter.name or ""), parameter.opts[0]
            is_plain = (
                isinstance(parameter, click.Option)
                and not parameter.is_flag
                and name not in call.UNSAID
            )
            if (
                is_plain
                and value
                and context.get_parameter_source(parameter.name)
                is click.core.ParameterSource.COMMANDLINE
            ):
                values = value if isinstance(value, tuple) else [str(value)]
                call.options[name] = f" {name} ".join(map(shlex.quote, values))

    def run(function: Callable[..., int]) -> Callable[..., int]:
        def run_it(**settings: Any) -> int:
            context = click.get_current_context()
            parent = context.find_root().params
            directory = settings.pop("dir") or parent["dir"]
            want_json = settings.pop("json") or parent["json"]
            remember(context, directory)
            code = function(
                Terminal(directory, want_json, creating=function.__name__ == "cmd_init"), **settings
            )
            if want_json and code == 0 and not _has_put:
                put('{"ok": true}\n')
            return code

        return run_it

    everywhere = (option("--dir"), option("--json", is_flag=True))
    root = Group(
        "avault",
        params=[make() for make in everywhere],
        callback=lambda **_: None if click.get_current_context().invoked_subcommand else put(HELP),
        context_settings={"help_option_names": ["-h", "--help"]},
        invoke_without_command=True,
    )
    click.version_option(__version__, prog_name="avault", message="%(prog)s %(version)s")(root)
    for name, (function, parameters, interspersed) in COMMANDS.items():
        first, _, second = name.partition(" ")
        group = root
        if second:
            group = root.commands.setdefault(first, Group(first))  # type: ignore[assignment]
        made = [make() for make in (*parameters, *everywhere)]
        settings = {"allow_interspersed_args": interspersed}
        group.add_command(
            HandWritten(second or first, settings, run(function), made, help=function.__doc__)
        )
    return root


@command("help", argument("words", nargs=-1))
def cmd_help(terminal: Terminal, words: tuple[str, ...]) -> int:
    """usage: avault help [CMD]…

    All commands, or what one of them does, as --help says it.

      avault help daemon start
    """
    build_commands(words).main([*words, "--help"], "avault", standalone_mode=False)
    return 0


def run_command(argv: list[str]) -> int:
    """Run a command through click; its exit code, errors said as they should be."""
    own = own_words(argv)
    use_right_interpreter(argv, own)
    want_json = "--json" in own
    try:
        try:
            return int(build_commands(own).main(argv, "avault", standalone_mode=False) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            put(error.format_message() + "\n")
            return Usage.exit_code
        except click.ClickException as error:
            text = error.format_message().rstrip(".")
            if isinstance(error, click.NoSuchOption) and not error.possibilities:
                # it is not like one that there is, and may be a secret that begins with a -
                text = "no such option"
            where = (
                error.ctx.command_path
                if isinstance(error, click.UsageError) and error.ctx
                else "avault"
            )
            raise Usage(text[:1].lower() + text[1:], f"{where} --help") from None
        except (KeyboardInterrupt, click.Abort):
            if call.farewell:
                say(call.farewell)
            return 130
        except Exception as error:
            raise complain(error) from None
    except AvaultError as error:
        want_json = want_json and not error.message.startswith("cannot write the output")
        say_error(error.code, error.message, error.hint, want_json)
        return error.exit_code  # of a command that cannot be run, a shell's


def own_words(argv: list[str]) -> list[str]:
    """The words of a command line that are avault's; after `run` they are another command's."""
    for index, word in enumerate(argv):
        if word[:1] != "-" and argv[index - 1 : index] != ["--dir"]:
            return (
                argv if word != "run" else argv[: argv.index("--") if "--" in argv else index + 1]
            )
    return argv


def use_right_interpreter(argv: list[str], own: list[str]) -> None:
    """Go on under the interpreter that `init` recorded, where this one lacks what avault needs."""
    from importlib.util import find_spec

    if all(find_spec(name) for name in ("click", "nostr_sdk")):
        return
    words = [word for argument in own for word in argument.split("=", 1)]
    given = next(
        (words[index + 1] for index, word in enumerate(words[:-1]) if word == "--dir"), None
    )
    try:
        python = read_record(Places(given).own("python"))
        if python and python != sys.executable:
            os.execv(python, [python, "-P", os.path.realpath(__file__), *argv])  # noqa: S606
    except (OSError, ValueError, NoPlace):  # what is recorded is no program, or no path
        pass
    lacks = b"avault: error: this Python has no click or no nostr-sdk\navault: hint: pip install . in its folder, or uv run\n"
    write_all(2, lacks)
    os._exit(AvaultError.exit_code)


def main() -> NoReturn:
    """What the fast door left: one of our own processes, or a command by way of click."""
    argv = sys.argv[1:]
    if argv[:1] == ["keychain"] and argv[1:2] in (["get"], ["look"], ["set"], ["delete"]):
        load_commands(["keychain"])
        sys.modules["avault_keychain"].main_keychain(argv[1:])
    if argv[:1] == ["keyholder"]:
        main_keyholder(argv[1:])
    if argv[:1] == ["supervisor"]:
        main_supervisor(argv[1:])
    sys.exit(run_command(argv))


if __name__ == "__main__":
    main()
