#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["nostr-sdk==0.45.1", "click>=8.1,<9", "qrcode>=8,<9", "pillow>=10", "keyring>=25,<26"]
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

    lazy                      Modules that are imported when they are first used
    places                    Where a vault is: its directory, state directory, socket and id
    daily                     The daily commands: their options, and what the daemon is asked for each
    plain                     What io, json and socket do, for a few plain uses: importing them takes longer than a `get`
    execute                   A command in our place, as execvp(3) has it
    hints                     How an error is told: what went wrong, a hint that is for the same vault, and an exit code
    fast                      get, has, list, export, set and run over the socket, with built-in modules only
    errors                    One base class for what went wrong; exit codes and hints
    protocol                  The socket protocol: its requests, and its frames
    systemd                   What systemd says of the service that avault installs
    client                    A client's connection to the daemon
    extras                    What needs packages that avault does without: src/avault_extras/, installed as avault_extras
    late                      What is made when it is first used: patterns, dataclasses, contexts, properties
    nostr                     What avault takes of nostr-sdk that is not about relays: keys, and NIP-44
    process                   How our processes start: a clean environment, hardened, the vault's lock
    tasks                     Work that runs beside other work, in an event loop
    vault/dangerous           Names of variables that change what other programs do
    vault/records             The vault as data: groups, keys and their names; merging two copies
    vault/choosing            Which secrets are meant, and as which variables: by group, by key and by name
    vault/files               Files as people and disks need them: atomic, durable, checked
    vault/formats             What the keyholder renders: shell, dotenv, systemd, JSON and others
    vault/own_files           The vault's own files, beside its ciphertext: of which kinds they are, and what they may hold
    vault/machine             This machine in the vault's generations: its name, its counts, and the highest it has seen
    vault/presence            Which of a vault's files are there, and what they are for whom has not opened it
    vault/seal                Everything that is encrypted: the vault's parts, the envelope, the sealed key
    vault/work_tree           Whether git is at work around the vault: it takes no lock of ours (gitrepository-layout(5))
    vault/recovery            The recovery copy, nsec.enc, beside an open vault: verified, and made anew
    vault/unsaved             What is served and avault.enc has not: unsaved.enc, in the state directory
    vault/store               The loaded vault and its file: generations, pin, writing, noticing changes
    signer/pairing            What a machine remembers of its signer, and the URIs by which the two meet (NIP-46)
    signer/relays             The relay client: connections to relays, what they are sent, and what they send to us
    signer/bunker             A NIP-46 remote signer ("bunker"), and the operator's key that it works with
    signer/question           A question to the signer: when it goes out again, and what an answer that refuses it means
    signer/remarks            What the operator should know of the signer while it is asked
    signer/remote             The NIP-46 client ("Nostr Remote Signing"): asks the signer, and reads what it answers
    custody/prompt            The person at a terminal, asked by a process that is not of that terminal
    custody/custodian         The seam of custody: what a custodian is, what its helper is told, and what may come of it
    custody/keychain          The keychain as a custodian: the platform's own, or none
    custody/kinds             The kinds of custodians: those of the tool itself, and those that need another package
    custody/helper            The process that does a custodian's errand: `avault.py custodian ACTION KIND`
    custody/obtaining         The ways to get the agent's key, as the keyholder has them
    daemon/asking             The question to the operator: who waits for it, and when it may be put again
    daemon/autolock           When an open vault locks by itself
    daemon/callers            Who is at the other end of a connection
    daemon/wire               The connections of the daemon: between its two processes, and of clients to the keyholder
    daemon/reporter           What the keyholder tells the supervisor: no secret, ever
    daemon/contact            The operator's signer, as the keyholder reaches it: the pairing, and a connection
    daemon/ledger             A file of signed lines, of which none can be changed or taken away unnoticed
    daemon/log                The access log: who got what, and when
    daemon/ratchet            The ratchet: after each unlock this machine's envelope is another one
    daemon/writing            How an open vault is written: one batch at a time, and so that what is served is on the disk
    daemon/holding            What the keyholder holds: an open vault, and this machine's own files of it
    daemon/keychain           Giving a keychain an unlock key of its own, if the operator agrees
    daemon/unlocking          How the keyholder comes by the key: at once, by asking the phone, or by listening to it
    daemon/keyholder          The process that holds the agent's key and the secrets
    daemon/changes            What changes an open vault. It stands in the access log before it happens
    daemon/child              The keyholder's process, as its parent has it: started, spoken to, ended
    daemon/programs           The programs that the supervisor runs: each prints a JSON object
    daemon/helper             What comes before a keychain is asked: its process, and whose vault it is about
    daemon/keeper             The vault's state as the supervisor sees it, and the question to the operator
    daemon/status             What `status` says
    daemon/listener           The daemon's socket, and its path in the file system
    daemon/recorder           Having git told of what was written
    daemon/supervisor         The process that owns the socket. It never holds a secret
    daemon/door               What the supervisor itself answers, locked or not: status, unlock, lock and the like
    daemon/pairing            Pairing with a signer, and the proof that the phone behind it opens this vault
    daemon/requests           What a client may ask of an open vault
    daemon/talks              The keyholder's talks with operator and signer: init, pair, recover, drill
    daemon/start              From a command to a daemon, and the beginning and end of its two processes
    terminal/commands         The table of commands, from which click is told when one is run
    terminal/help             The page of help
    terminal/talk             What is said to a person, on stderr, and what is given out, on stdout
    terminal/qr               A QR code: in a terminal that is large enough, and as a picture
    terminal/terminal         What every command is given: the vault's places, and the way to its daemon
    terminal/waiting          Waiting for the operator, and for a daemon
    terminal/words            What people type: durations, and names of secrets
    git/committed             What of the vault may be committed
    git/run                   How avault runs git: every git that it starts is started here
    git/repository            The vault's git repository: what git knows of our files, and which state it is in
    git/committing            How a commit of the vault is made
    git/copies                Asking the keyholder about copies of the vault
    git/driver                git's merge driver and diff filter, which avault is: what git is told, and whether it was
    git/history               avault history, restore: looking back
    git/settling              Both sides of a conflict, merged
    git/merge                 avault git merge, git diff: two machines' work on the vault, by key
    git/publishing            Where the vault's branch is published, and the push of what is ours
    git/record                avault git record: what happens by itself after every write
    git/sync                  avault sync: fetch, merge and push
    intake/dotenv             The one reader of .env files: `import`, `audit` and `run --env-file` read a file alike
    intake/shell_words        The words of a shell's command, and what each becomes: quotes, escapes, expansions
    intake/lines              fish, systemd's units, pam_env: files of which a line sets a variable
    intake/looks              What looks like a secret
    intake/shell_assignments  What a shell's command sets and exports, where it does nothing else
    intake/shell              ~/.profile and its like, for sh, bash and zsh: read, never run
    intake/audit              avault audit: what still stands in clear
    intake/logins             What other programs and password managers keep, as secrets: a login becomes a group
    intake/files              AWS credentials, netrc, pgpass, npmrc
    intake/kubernetes         A Kubernetes Secret, as kubectl prints it
    intake/managers           The CSV of 1Password, Bitwarden, KeePass and browsers; Bitwarden's JSON; what is encrypted
    intake/importers          Which of the forms that avault reads a file is
    intake/json_files         What `avault export`, `avault get` and other tools print as JSON
    intake/keeping            Asking the daemon to keep many secrets
    intake/importing          avault import
    intake/migrate            avault migrate: takes the secrets out of ~/.profile
    running/forms             All forms of a value that avault knows: what `run` and `mcp` mask is what `scan` finds
    running/strings           The search for many strings at once
    running/views             A text less its noise, and where in the text each byte of it stands
    running/looking           All forms of all values, in all views of a text
    running/secrets           Which secrets a command gets, and under which names: the vault's choice, dotenv files, references
    running/templates         What a template is written in, and where in it a reference stands
    running/writing           A value, as it must stand in a place of a template
    running/inject            avault inject: values into a template, written as the form around them wants it
    running/process           What a command's process starts with: signals, core files, and its place
    running/keeper            The command's parent, so that somebody is there when we are killed (SIGKILL)
    running/masks             Masks for the values in a stream, also where a read ends in the middle of one
    running/output            What a command writes: read where it comes out, masked, and written to where it belongs
    running/terminals         Terminals: the one that a command gets, and the one that we are in
    running/job               A command on pipes: its output, its signals, its end
    running/terminal_job      A command on a terminal of its own: keys, size, job control
    running/run               avault run: secrets for one command, without holding them
    running/runner            A command whose secrets the process that wants its output never has: for `avault mcp`
    running/search            Looking for the vault's own values in files
    running/scan              avault scan: the vault's own values where they should not be
    service/accounts          The accounts that a service may run as, and whether theirs runs without a login
    service/unit              The unit of avault's service, for the user's manager of systemd or the system's: text and file
    service/root              What root may run to change the system's units: nothing that others than root can write
    service/state             What there is of a service: on the disk, at the manager, at its socket
    service/commands          avault service install, uninstall, status
    openclaw/program          OpenClaw's command line, which is asked for what it knows best: paths, findings, hooks
    openclaw/stores           OpenClaw's SQLite stores, in which auth profiles are kept
    openclaw/findings         What OpenClaw's audit finds in clear, sorted: what can become a reference, and what cannot
    openclaw/plan             From credentials in clear to references
    openclaw/command          The file that OpenClaw may execute as a provider
    openclaw/variables        From variables in clear to what runs under `avault run`
    openclaw/undo             From references back to credentials in clear
    openclaw/chats            avault openclaw chats, which finds where the operator can be told that the phone waits
    openclaw/hook_files       The files of OpenClaw's hook: what lies in hooks/avault-unlock/, which the generator puts here
    openclaw/hook             avault openclaw install, uninstall and status
    openclaw/remains          What a plan leaves behind: in SQLite's free pages, and in settings that nothing uses any more
    openclaw/planning         avault openclaw plan
    openclaw/provider         avault openclaw-provider where the fast part had no answer: asks the phone, with restraint
    doctor/patient            avault doctor: what a check is given, and what it finds
    doctor/around             Checks of what is around the vault: git, files with secrets in clear
    doctor/daemon             Checks of the daemon: its version, its service, the keychain
    doctor/phone              Checks of the way to the phone: relays, pairing, clocks
    doctor/directories        Whose a directory is, who may enter it, and what file system it is on
    doctor/state              Checks of the state directory: this machine's own part, and what other copies left of theirs
    doctor/vault              Checks of the vault directory: private, and its files whole and of one vault
    doctor/command            avault doctor: the table of checks, and the command
    completion/words          Commands as they are typed, for whatever shell: their options, arguments, and what follows those
    completion/bash           The completion script for bash, 3.2 (macOS) or later
    completion/fish           The completion script for fish, 3.0 or later
    completion/zsh            The completion script for zsh
    cli/ceremony              The talk with the operator while a signer is paired: what is said, shown and asked
    cli/completion            avault completion: what a shell needs to complete avault's commands, options and names
    cli/daemon                avault daemon start, daemon stop, unlock, lock, version
    cli/demo                  avault demo: the whole story in a minute, in a temporary directory, with a phone in the terminal
    cli/edit                  avault edit: a secret in the operator's editor, by way of a file that is only in memory
    cli/keychain              avault keychain: opening the vault without the phone
    cli/forget                avault forget: leaving nothing of a vault on a machine but the vault
    cli/log                   avault log: who got what, and when; and what was refused
    cli/mcp                   avault mcp: the command of avault_extras/mcp.py, a Model Context Protocol server
    cli/pair                  avault init, pair, drill, recover: by which a vault, a machine and the operator's phone meet
    cli/secrets               set, get, has, list, mv, delete, export, wait
    cli/signer                avault signer: the other side of NIP-46, a phone in a terminal
    cli/status                avault status: what the daemon does, and what it waits for
    cli/main                  From a command line to a command, by way of click; and where the program starts
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
    import base64
    import binascii
    import bisect
    import click
    import collections
    import contextlib
    import csv
    import ctypes
    import dataclasses
    import datetime
    import errno
    import fcntl
    import functools
    import glob
    import hmac
    import html
    import importlib.metadata
    import importlib.util
    import io
    import itertools
    import json
    import math
    import nostr_sdk
    import pwd
    import re
    import resource
    import secrets
    import select
    import shlex
    import shutil
    import signal
    import socket
    import sqlite3
    import stat
    import subprocess
    import tempfile
    import termios
    import threading
    import time
    import tty
    import typing
    import urllib.parse
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any, AnyStr, ClassVar, IO, Literal, NoReturn, ParamSpec, Protocol, Self, TypeAlias, TypeVar, dataclass_transform

    Answer = dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]
    Custodian: TypeAlias = "GivenKey | KeptKey | Phone"
    Event: TypeAlias = nostr_sdk.Event
    Keys: TypeAlias = nostr_sdk.Keys
    Limits = tuple[float | None, float | None]
    Message = dict[str, Any]
    P = ParamSpec("P")
    Respond = Callable[["Supervisor", socket.socket, Message], Awaitable[Message]]
    Serve = Callable[["Keyholder", "Session", Message], Answer]
    T = TypeVar("T")
    Talk = Callable[["Keyholder", "Session", Message, Message], Awaitable[Message]]
    class Custodian(Protocol):
        """One kind of custodian. Each method raises NotFound, Denied, Unavailable or AvaultError.

        No text that it raises holds a secret. A refusal by a person, a wrong PIN or passphrase, and
        a policy's no are Denied, and never tried again.
        """

        # whether somebody has to be there when it opens the vault
        needs_person: ClassVar[bool]
        # what `custody add` may be told: what it is, and its default; None where it has to be told
        SETTINGS: ClassVar[dict[str, tuple[str, str | None]]]

        def __init__(self, errand: Errand) -> None: ...

        def settle(self) -> dict[str, str]:
            """The settings as they are to be kept: complete, paths absolute; raises Usage."""

        def probe(self) -> str:
            """Whether it could open the vault now, in a few words; asks nobody."""

        def set(self, secret: str) -> str | None:
            """Keep the secret; give what is to lie in the vault's own file, if anything is."""

        def get(self) -> str:
            """The secret."""

        def delete(self) -> None:
            """Forget the secret, where the custodian keeps it itself."""
else:
    asyncio = Lazy("asyncio")
    base64 = Lazy("base64")
    binascii = Lazy("binascii")
    bisect = Lazy("bisect")
    click = Lazy("click")
    collections = Lazy("collections")
    contextlib = Lazy("contextlib")
    csv = Lazy("csv")
    ctypes = Lazy("ctypes")
    dataclasses = Lazy("dataclasses")
    datetime = Lazy("datetime")
    errno = Lazy("errno")
    fcntl = Lazy("fcntl")
    functools = Lazy("functools")
    glob = Lazy("glob")
    hmac = Lazy("hmac")
    html = Lazy("html")
    importlib = Lazy("importlib.metadata", "importlib.util")
    io = Lazy("io")
    itertools = Lazy("itertools")
    json = Lazy("json")
    math = Lazy("math")
    nostr_sdk = Lazy("nostr_sdk")
    pwd = Lazy("pwd")
    re = Lazy("re")
    resource = Lazy("resource")
    secrets = Lazy("secrets")
    select = Lazy("select")
    shlex = Lazy("shlex")
    shutil = Lazy("shutil")
    signal = Lazy("signal")
    socket = Lazy("socket")
    sqlite3 = Lazy("sqlite3")
    stat = Lazy("stat")
    subprocess = Lazy("subprocess")
    tempfile = Lazy("tempfile")
    termios = Lazy("termios")
    threading = Lazy("threading")
    time = Lazy("time")
    tty = Lazy("tty")
    typing = Lazy("typing")
    urllib = Lazy("urllib.parse")


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


# ----------------------------------------------------------------- daily ----
# The daily commands: their options, and what the daemon is asked for each.


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
PROJECT_FILE = "avault.env"  # which secrets `run` gives, where it lies in the current directory


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


# ----------------------------------------------------------------- plain ----
# What io, json and socket do, for a few plain uses: importing them takes longer than a `get`.


MAX_FRAME = 4 << 20  # bytes of JSON in one frame
MAX_VALUE = 256 << 10  # bytes of UTF-8 in one secret
_stdin: bytes | None = None


def read_stdin() -> bytes:
    """Standard input, to its end or to more than can be kept.

    Read once, and there for whoever asks next.
    """
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
    """The JSON string whose text begins at `start`, and what follows it.

    Most are of one line, and need no parser.
    """
    plain = text[start:-4]
    if text.endswith('\\n"}') and "\\" not in plain:
        return plain + "\n", ""
    from _json import scanstring

    found, end = scanstring(text, start)
    return found, text[end:]


def is_same_user(connection: Any) -> bool:
    """Whether the peer of a Unix socket runs under our uid (SO_PEERCRED, LOCAL_PEERCRED)."""
    if sys.platform == "linux":
        peer = connection.getsockopt(1, 17, 12)  # SOL_SOCKET, SO_PEERCRED: pid, uid, gid
    else:
        # SOL_LOCAL, LOCAL_PEERCRED: struct xucred: version, uid
        peer = connection.getsockopt(0, 1, 76)
    return int.from_bytes(peer[4:8], sys.byteorder) == os.getuid()


def may_be_socket(path: str) -> bool:
    """Whether there is a socket at a path that we may not use, or nobody lets us see.

    What else refuses us is no daemon.
    """
    import stat

    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):  # a damaged record may have a NUL in it
        return False


class FastConnection:
    """A connection to the daemon made of built-in modules.

    Raises OSError, PermissionError for somebody else's.
    """

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


# --------------------------------------------------------------- execute ----
# A command in our place, as execvp(3) has it.


def places_of(command: str, environment: Mapping[bytes, bytes]) -> list[bytes]:
    """The paths where execvp(3) looks for a command.

    That is in the PATH that it is given, unless it is a path itself.
    """
    word = os.fsencode(command)
    if b"/" in word or not word:
        return [word] if word else []
    usual = os.fsencode(os.confstr("CS_PATH") or os.defpath)
    return [os.path.join(place, word) for place in environment.get(b"PATH", usual).split(b":")]


def execute(command: list[str], environment: Mapping[bytes, bytes]) -> int:
    """Execute a command in our place, as execvp(3) does; the errno of why it cannot be.

    A place that is not there, or may not be entered, is passed over; a script whose first line
    names no program is sh's.
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
                words = ["sh", os.fsdecode(place), *command[1:]]
                os.execve("/bin/sh", words, environment)  # noqa: S606
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
    """Execute a command with these variables, NAME=value, over those that are there.

    126 or 127 if it cannot be.
    """
    import _signal  # type: ignore[import-not-found]  # as `signal` imports half of Python

    for pair in variables:
        name, _, value = pair.encode().partition(b"=")
        os.environb[name] = value
    # by Python; and what is ignored is inherited
    for ignored in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(ignored, _signal.SIG_DFL)
    number = execute(command, os.environb)
    missing = number == 2  # ENOENT
    why = "no such command" if missing else os.strerror(number)
    write_all(2, f"avault: error: cannot run {command[0]!a}: {why}\n".encode())
    return 127 if missing else 126


# ----------------------------------------------------------------- hints ----
# How an error is told: what went wrong, a hint that is for the same vault, and an exit code.


EXIT_CODES = {
    "usage": 2,
    "locked": 3,
    "not_found": 4,
    "denied": 5,
    "unavailable": 6,
    "timed_out": 7,
    "tampered": 8,
}


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
    audit daemon delete doctor drill edit export forget get git has history import init inject
    keychain list lock log mcp migrate mv openclaw openclaw-provider pair recover restore run scan
    service set status sync unlock wait
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
        """A hint whose commands get the --dir that was given, and the same command its options."""
        done, *rest = hint.split("avault ")
        for piece in rest:
            is_word = done[-1:].isalnum() or done[-1:] in ("_", "-", ".", "/")
            done += "avault " + piece if is_word else self.amend(piece, is_fed=done.endswith("| "))
        return done

    def amend(self, piece: str, is_fed: bool) -> str:
        """What follows `avault` in a hint, up to the next one, with what belongs there.

        One that a pipe feeds has its options.
        """
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


# ------------------------------------------------------------------ fast ----
# get, has, list, export, set and run over the socket, with built-in modules only.
#
# Without click, json or socket: the keyholder renders the answer, and this copies bytes, or says
# what was refused: a request is made once. Whatever is unusual (an option that is not in the table,
# no daemon) is left to the commands of cli/.


# with the exit codes of `status`
STATES = {"unlocked": 0, "waiting": 3, "locked": 3, "unpaired": 3, "starting": 6, "stopped": 6}


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


def fast_value() -> str | None:
    """The value of `set` from stdin, less one trailing newline.

    None for one that cannot be kept, or is to be warned of.
    """
    value = read_stdin().removesuffix(b"\n")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if not {"\0", "\r"} & set(text) and 0 < len(value) <= MAX_VALUE else None


def fast_exchange(places: Places, request: dict[str, Any], value: str | None) -> str | None:
    """The daemon's answer.

    None if nothing came of it, '' if it is unknown whether the value was written.
    """
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
            hint = b"nothing keeps the value before; in a git repository each change is committed"
            write_all(2, b"avault: hint: " + hint + b"\n")
            return


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


# ---------------------------------------------------------------- extras ----
# What needs packages that avault does without: src/avault_extras/, installed as avault_extras.
#
# Such a file is taken from beside this very one, or from the checkout that this one is of: no other
# version's is.


def load_extra(name: str, extra: str = "") -> Any:
    """A module of avault_extras; raises Unavailable where it, or a package of its `extra`, is not."""
    hint = f"in avault's folder: pip install '.[{extra or name}]'"
    here = os.path.dirname(os.path.realpath(__file__))
    paths = [
        os.path.join(here, *place, f"{name}.py")
        for place in (["avault_extras"], ["src", "avault_extras"])
    ]
    path = next(filter(os.path.isfile, paths), None)
    if not path:
        raise Unavailable(
            f"avault_extras/{name}.py is not beside {os.path.join(here, 'avault.py')}", hint
        )
    sys.modules.setdefault(
        "avault", sys.modules[__name__]
    )  # this very file, when it is run by its path
    spec = importlib.util.spec_from_file_location(f"avault_extras.{name}", path)
    if not spec or not spec.loader:
        raise AssertionError("unreachable")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if not extra:
            raise
        raise Unavailable(f"the package {error.name} is not installed", hint) from None
    return module


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
    """A class that is made a dataclass when its first instance is made; with the same settings.

    No lock guards that: threads that may make a first instance at once are not to be had.
    """

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


# ----------------------------------------------------------------- nostr ----
# What avault takes of nostr-sdk that is not about relays: keys, and NIP-44.
#
# Every release of nostr-sdk breaks calls, so few rooms know it.


def make_keys() -> Keys:
    """A new key pair."""
    return nostr_sdk.Keys.generate()


def read_keys(text: str) -> Keys:
    """The key pair of an nsec or hex secret key that we have written; raises ValueError."""
    try:
        return nostr_sdk.Keys.parse(text)
    except nostr_sdk.NostrSdkError:
        raise ValueError("not a Nostr secret key") from None


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


def encrypt(keys: Keys, peer: str, text: str) -> str:
    """`text` as a NIP-44 v2 payload from `keys` to a public key (hex)."""
    secret, public = keys.secret_key(), nostr_sdk.PublicKey.parse(peer)
    return str(nostr_sdk.nip44_encrypt(secret, public, text, nostr_sdk.Nip44Version.V2))


def decrypt(keys: Keys, peer: str, payload: str) -> str:
    """The text of a NIP-44 payload between `keys` and a public key (hex); raises ValueError.

    The payload's base64 must be the one encoding of its bytes: the MAC of
    NIP-44 does not cover the unused bits of the last character.
    """
    import binascii

    if binascii.b2a_base64(binascii.a2b_base64(payload), newline=False) != payload.encode():
        raise ValueError("not canonical base64")
    try:
        public = nostr_sdk.PublicKey.parse(peer)
        return str(nostr_sdk.nip44_decrypt(keys.secret_key(), public, payload))
    except nostr_sdk.NostrSdkError:
        raise ValueError("not a payload between these keys") from None


def parse_keys(text: str) -> Keys:
    """The key pair of an nsec or hex secret key; raises Usage without repeating it."""
    try:
        return read_keys(text.strip())
    except ValueError:
        raise Usage("not a Nostr secret key", "an nsec1… or 64 hex characters") from None


def public_hex(keys: Keys) -> str:
    """The public key of a key pair, in hex."""
    return str(keys.public_key().to_hex())


# --------------------------------------------------------------- process ----
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


# ----------------------------------------------------------------- tasks ----
# Work that runs beside other work, in an event loop.


def spawn(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    """Run something beside; while it runs it is in `tasks`, as the event loop does not hold it."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


# ------------------------------------------------------- vault/dangerous ----
# Names of variables that change what other programs do.
#
# What runs, which code it loads, whom it trusts, and where it connects.


# By name where one has no class, else by the class that its name shows. A credential is none,
# whatever stands before it.
DANGEROUS = frozenset(
    """
    PATH IFS ENV HOME SHELL SHELLOPTS BASHOPTS PS1 PS4 PROMPT PROMPT_COMMAND CDPATH GLOBIGNORE
    FPATH ZDOTDIR MODULE_PATH INPUTRC MAILPATH EDITOR VISUAL PAGER MANPAGER BROWSER VIMINIT
    EXINIT VIM VIMRUNTIME FCEDIT HISTFILE LESS LESSOPEN LESSCLOSE LESSKEY LESSKEYIN
    LESSKEY_SYSTEM LESSEDIT MORE MANOPT MANROFFOPT MANPATH EMACSLOADPATH EMACSDATA NODE_OPTIONS
    NODE_PATH NODE_EXTRA_CA_CERTS NODE_ICU_DATA NODE_V8_COVERAGE CLASSPATH PHPRC
    PHP_INI_SCAN_DIR RHOME OCAMLRUNPARAM TCLLIBPATH TCL_LIBRARY IPYTHONDIR MPLCONFIGDIR
    MPLBACKEND BUNDLE_GEMFILE BUNDLE_PATH BUNDLE_APP_CONFIG GO111MODULE GOARCH GOAUTH GOBIN
    GOCACHE GOCOVERDIR GODEBUG GOENV GOEXE GOEXPERIMENT GOINSECURE GOMODCACHE GONOPROXY
    GONOSUMCHECK GONOSUMDB GOOS GOPATH GOPRIVATE GOPROXY GOROOT GOSUMDB GOTMPDIR GOTOOLCHAIN
    GOTOOLDIR GOVCS GOWORK GCCGO CC CXX CPP FC AR AS LD NM M4 M4PATH MAKEFLAGS MFLAGS CFLAGS
    CPPFLAGS CXXFLAGS FFLAGS FCFLAGS ASFLAGS ARFLAGS LDFLAGS RUSTFLAGS GOFLAGS MAKEFILES
    COMPILER_PATH LIBRARY_PATH CPATH ACLOCAL_PATH CONFIG_SITE GI_TYPELIB_PATH GCONV_PATH LOCPATH
    NLSPATH TERMINFO TERMINFO_DIRS TERMCAP TZDIR HOSTALIASES RESOLV_HOST_CONF LOCALDOMAIN
    VK_ICD_FILENAMES VK_DRIVER_FILES VK_LAYER_PATH VK_ADD_LAYER_PATH VK_INSTANCE_LAYERS
    VDPAU_DRIVER_PATH LADSPA_PATH GDAL_DRIVER_PATH PROJ_LIB GS_LIB TEXINPUTS DISPLAY
    WAYLAND_DISPLAY XAUTHORITY ICEAUTHORITY SSLKEYLOGFILE SSL_CERT_FILE SSL_CERT_DIR
    HTTPLIB2_CA_CERTS VAULT_CACERT VAULT_CAPATH GRPC_DEFAULT_SSL_ROOTS_FILE_PATH WGETRC NETRC
    GNUPGHOME GPG_AGENT_INFO HGRCPATH HGEDITOR HGMERGE HGPLAIN CVSROOT SVN_SSH
    RSYNC_CONNECT_PROG GH_HOST GH_PATH PSQLRC PGSERVICEFILE PGSYSCONFDIR PGSSLROOTCERT
    PGPASSFILE TNS_ADMIN ODBCINI ODBCSYSINI FREETDSCONF DOCKER_HOST DOCKER_CONFIG DOCKER_CONTEXT
    DOCKER_CERT_PATH CONTAINER_HOST BUILDKIT_HOST KUBECONFIG RCLONE_CONFIG
    AWS_SHARED_CREDENTIALS_FILE TF_PLUGIN_CACHE_DIR TMPDIR TMP TEMP NOSTR_NSEC WORKSPACE
    NOTIFY_SOCKET LISTEN_FDS LISTEN_PID UID EUID PPID GID RANDOM SECONDS LINENO OPTIND OPTARG
    OPTERR PWD OLDPWD _ status argv pipestatus version history path fpath cdpath module_path
    mailpath psvar options commands functions aliases ARGC BASHPID COLUMNS DIRSTACK EGID
    EPOCHREALTIME EPOCHSECONDS ERRNO FISH_VERSION FUNCNAME FUNCNEST GROUPS HISTCHARS HISTCMD
    HISTSIZE KEYBOARD_HACK KEYTIMEOUT LINES LISTMAX MAILCHECK PS0 PS2 PS3 SAVEHIST SHLVL SRANDOM
    TRY_BLOCK_ERROR TRY_BLOCK_INTERRUPT TTYIDLE USERNAME ZSH_EVAL_CONTEXT ZSH_SUBSHELL builtins
    dirstack dis_aliases dis_builtins dis_functions dis_functions_source dis_galiases
    dis_patchars dis_reswords dis_saliases fignore funcfiletrace funcsourcetrace funcstack
    functions_source functrace galiases histchars historywords hostname jobdirs jobstates
    jobtexts keymaps manpath modules nameddirs parameters patchars reswords saliases
    status_generation termcap terminfo umask userdirs usergroups watch WATCH signals widgets
    zsh_eval_context zsh_scheduled_events
    """.split()
)
# the loader and libc; shells; interpreters; build tools; desktops; git, ssh and what finds settings
DANGEROUS_STARTS = tuple(
    """
    LD_ DYLD_ MALLOC_ GLIBC_ KRB5 NSS_
    BASH_ FISH_ fish_ __fish
    PYTHON PERL RUBY GEM_ LUA_ R_LIBS R_PROFILE R_ENVIRON R_HOME JULIA_ ERL_ ELIXIR_ GUILE_
    CAML_ NODE_TLS_ NODE_REPL_ DENO_ BUN_
    DOTNET_ COMPlus_ CORECLR_ COR_ NUGET_ MSBUILD JDK_ PYTEST_ JUPYTER_ ELECTRON_
    CARGO_ RUSTC RUSTDOC RUSTUP_ CGO_ GCC_ CMAKE_ PKG_CONFIG CCACHE_ SCCACHE_ DISTCC_ NIX_
    PIP_ UV_ CONDA_ NPM_CONFIG_ YARN_ PNPM_ COREPACK_ PYENV_ RBENV_ NVM_ ASDF_ MISE_ DIRENV_
    VOLTA_ HOMEBREW_
    GTK GDK_ GIO_ GST_PLUGIN GST_REGISTRY QT_ QML LIBGL_ LIBVA_ ALSA_ MAGICK_ TEXMF GROFF_
    GIT_ SSH_ SUDO_ CURL_ OPENSSL_ GNUTLS_ DBUS_ XDG_ SYSTEMD_ AVAULT_ OPENCLAW_ PASSWORD_STORE_
    ANSIBLE_ TF_CLI_ CLOUDSDK_
    AWS_ENDPOINT_URL
    """.split()
)
DANGEROUS_ENDS = tuple(
    """
    _PROXY _PAGER _EDITOR _BROWSER _ASKPASS _SHELL _RSH _COMMAND _WRAPPER _INTERPRETER
    _EXECUTABLE _EXECUTABLE_PATH _BIN _BINARY
    _BINARY_PATH SYMBOLIZER_PATH _PRELOAD _PLUGINS _PLUGIN_PATH _MODULES _MODULE_PATH
    _LIBRARY_PATH _INCLUDE_PATH _HOME
    _OPTS _ADDOPTS _OPTIONS _ARGS _CFLAGS _CXXFLAGS _LDFLAGS _RUSTFLAGS
    _CA_BUNDLE _SSL_CERT_FILE _CONFIG_FILE _CONFIG_PATH _CONFIG_DIR
    """.split()
)
CREDENTIAL_ENDS = tuple(
    """
    _TOKEN _TOKENS _PASSWORD _PASSPHRASE _SECRET _API_KEY _SECRET_KEY _ACCESS_KEY _PRIVATE_KEY
    _DEPLOY_KEY _SIGNING_KEY
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


# -------------------------------------------------------- vault/choosing ----
# Which secrets are meant, and as which variables: by group, by key and by name.


def as_name(group: str, key: str) -> str:
    """The variable of a key with its group before it: DATABASE_PASSWORD."""
    return "".join(c if c in LETTERS | DIGITS else "_" for c in f"{group}_{key}").upper()


def check_names(request: dict[str, Any], field: str) -> list[str]:
    """A request's list of names, which may be left out; raises Usage."""
    names = request.get(field) or []
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    raise Usage(f"{field} is a list of names")


def choose_keys(
    vault: Vault, groups: list[str], only: list[str]
) -> list[tuple[str, str, list[Secret]]]:
    """Group, key and secrets of all that is there, or of some groups, or of some keys.

    A key is named KEY or GROUP/KEY. Raises NotFound.
    """
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
    """The variables to export, by name, with group and key of each.

    They are all, or those of some groups, keys and names.
    Raises NotFound for a name that is not there, Usage for two keys with one
    name, Denied for a dangerous name that `allow` does not have.
    """
    chosen = check_named(vault, named)
    for group, key, _ in choose_keys(vault, groups, only) if groups or only or not named else []:
        name = as_name(group, key) if prefix else key
        if name in chosen:
            tell_apart = "" if prefix else ", or tell them apart with --prefix"
            raise Usage(
                f"{'/'.join(chosen[name])} and {group}/{key} are both {name}",
                f"name them: --as {as_name(group, key)}={group}/{key}; "
                f"or choose with --group {group}{tell_apart}",
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


# ----------------------------------------------------------- vault/files ----
# Files as people and disks need them: atomic, durable, checked.
#
# Written whole or not at all, of one valid encoding, refused when they are not. Nothing here opens
# anything.


VAULT_LIMIT = 64 << 20  # bytes of avault.enc that we are willing to read


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
    """Raise Tampered where a path names what is no regular file of ours.

    That is a link, a directory, a FIFO, somebody else's file. Who can push to the repository
    chooses what lies in the vault's directory, and where its links lead.
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
    """Exchange two files in one step, where system and file system can.

    See renameat2(2), and renamex_np(2) on macOS.
    """
    import ctypes

    libc, names = ctypes.CDLL(None), [os.fsencode(one), os.fsencode(other)]
    if hasattr(libc, "renameat2"):
        return not libc.renameat2(-100, names[0], -100, names[1], 2)  # AT_FDCWD, RENAME_EXCHANGE
    return hasattr(libc, "renamex_np") and not libc.renamex_np(*names, 2)  # RENAME_SWAP


def take_place(new: str, path: str, over: str) -> None:
    """Rename a file over the one whose SHA-256 is `over`, "" for none.

    Raises FileChanged where it is another, and OSError.

    Git takes no lock of ours, and may come at any moment: what is exchanged is looked at
    afterwards.
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
    """Make a directory and its parents, or make one private (0700) that is there.

    Raises AvaultError.
    """
    mask = os.umask(0o077)  # for the parents too
    try:
        os.makedirs(path, exist_ok=True)
        if os.stat(path).st_uid != os.getuid():
            import shlex

            owner, other = owner_of(path), "or choose another place with --dir or XDG_STATE_HOME"
            take_back = f'sudo chown -R "$USER" {shlex.quote(path)}'
            made_under_sudo = f"was it made under sudo? Take it back: {take_back}; {other}"
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


def look_at(path: str) -> tuple[int, ...] | None:
    """What tells one state of a file from another, without reading it; None where there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_size, info.st_ino, info.st_ctime_ns)


# --------------------------------------------------------- vault/formats ----
# What the keyholder renders: shell, dotenv, systemd, JSON and others.
#
# Every form is exact: it gives the same bytes back when it is read by the program that it is meant
# for.


# mean themselves in every shell, quoted, split or globbed
PLAIN = LETTERS | DIGITS | set("_./:@%+=,-")
# stay what they are in single quotes that are split, globbed and read again
QUOTABLE = PLAIN | set(' $&;>"`{}!')


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
    """One line of an EnvironmentFile= (systemd.exec(5)).

    Raises AvaultError for control characters.
    """
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
    """One line of `docker run --env-file`, where all that follows the = is the value, quotes too.

    Raises AvaultError.

    pkg/kvfile of docker/cli: lines of less than 64 KiB, whose last carriage return is lost.
    """
    line = f"{name}={value}\n"
    if set(value) & {"\n", "\r"} or len(line.encode()) >= 1 << 16:
        instead = f"avault run --only {name} -- docker run -e {name} IMAGE"
        hint = f"let docker take it from its environment: {instead}"
        raise AvaultError(
            f"docker reads a variable from one line of less than 64 KiB: {name}", hint
        )
    return line


def quote_github(name: str, value: str) -> str:
    """A variable for the file $GITHUB_ENV of GitHub Actions.

    It stands between two lines that no value can guess.
    """
    end = "end_" + secrets.token_hex(16)
    return f"{name}<<{end}\n{value}\n{end}\n"


QUOTES: dict[str, Callable[[str, str], str]] = {
    "sh": quote_sh,
    "fish": quote_fish,
    "dotenv": quote_dotenv,
    "systemd": quote_systemd,
    "docker": quote_docker,
    "github": quote_github,
}


def render_secret(variables: dict[str, str], group: str | None) -> str:
    """A manifest of a Kubernetes Secret, for `kubectl apply -f -`.

    It is called as the group, or avault.
    """
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
    """A sentence about the variables that some readers of dotenv files read otherwise.

    They are as `quote_dotenv` writes them.
    """
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
    """The variables as text of a form.

    `group` is where all of them are from, if so. Raises Usage for another form.
    """
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
    return [f"{group}/{key}" for group, key, found in choose_keys(vault, [], []) if len(found) > 1]


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


# ------------------------------------------------------- vault/own_files ----
# The vault's own files, beside its ciphertext: of which kinds they are, and what they may hold.
#
# Each is JSON with a type, a version and a checksum. With them go the hints that `pair` reads, and
# what git is told of the vault's files.


REPAIRS = {
    "unlock": "avault unlock, and the phone is asked for nsec.enc",
    "pairing": "avault pair",
    "pin": "git pull, avault unlock",
}
SEALED = {"vault": str, "name": str, "agent": str, "operator": str, "envelope": str, "sealed": str}
FIELDS: dict[str, dict[str, Any]] = {
    # of each kind of file, with their types
    "bunker": {"key": str, "secret": str, "clients": dict, "relays": list},
    "nsec": SEALED,
    "unlock": {**SEALED, "proven": (str, type(None)), "quick": int},
    "pairing": {
        "client_key": str, "signer": str, "agent": str, "operator": str, "relays": list,
        "approves_by_itself": (bool, type(None)),
    },
    "hints": {"agent_npub": str, "signer_npub": str, "relay": str, "relays": list, "name": str},
    "pin": {"generation": dict, "hash": str},
    "custody": {
        "custodian": str, "kind": str, "settings": dict, "kept": (str, type(None)),
        "vault": str, "name": str, "agent": str, "operator": str, "sealed": str,
    },
    "custodians": {"order": list, "opened": dict},
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
    """Remove the temporary files that a killed write left behind.

    Only for the holder of the lock.
    """
    for name in os.listdir(path):
        stem, _, middle = name.removesuffix(".tmp").rpartition(".")
        ours = (
            (stem in {f".{each}" for each in OUR_FILES} or stem.startswith(".custody-"))
            and name.endswith(".tmp")
            and len(middle) == 16
        )
        if ours and not os.path.isdir(os.path.join(path, name)):
            os.unlink(os.path.join(path, name))


OUR_FILES = (
    "avault.enc", "nsec.enc", "nip46.json", ".gitattributes",
    "unlock.json", "pairing.json", "pairing-unproven.json", "pin.json", "machine.json",
    "offered.json", "custodians.json", "recovery.json", "log.json", "pauses.json",
    "socket", "python", "unsaved.enc", "damaged.enc",
)  # fmt: skip

GITATTRIBUTES = b"""# avault: ciphertext is neither converted nor merged line by line
avault.enc -text -merge
nsec.enc -text -merge
nip46.json -text -merge
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


# --------------------------------------------------------- vault/machine ----
# This machine in the vault's generations: its name, its counts, and the highest it has seen.


class Machine:
    """One machine among those that write to a vault; raises Tampered.

    `name` is what it counts its writes under, `warning` what should be known about the pin.
    """

    def __init__(self, places: Places) -> None:
        self.places, self.name, self.warning = places, machine_id(places), ""
        self.counted = 0  # the last count of a write of ours that anybody may have seen
        # the highest count under which this machine has given a merge to git
        path = places.own("offered.json")
        self.offered: int = (
            decode_file("offered", read_file(path), path)["count"] if os.path.lexists(path) else 0
        )

    def rename(self) -> None:
        """Take another name: it claims to know no more than it does."""
        os.unlink(self.places.own("machine.json"))
        self.name = machine_id(self.places)

    def keep_up(self, draft: Vault) -> None:
        """Let a draft's count be no lower than one that anybody may have seen."""
        draft.generation[self.name] = max(draft.generation.get(self.name, 0), self.counted)

    def count(self, draft: Vault) -> None:
        """Make a draft this machine's next generation."""
        self.counted = max(draft.generation.get(self.name, 0), self.counted) + 1
        draft.generation[self.name] = self.counted
        draft.generation = dict(sorted(draft.generation.items()))

    def count_offer(self, merged: Vault) -> None:
        """Count a merge that git is to put in place, under a name of its own, `<machine>-git`.

        Git merges old commits too, as in a rebase, and what comes of them must not claim to know
        our later writes.
        """
        name = f"{self.name}-git"
        self.offered = max(merged.generation.get(name, 0), self.offered) + 1
        path = self.places.own("offered.json")
        write_file(path, encode_file("offered", {"count": self.offered}))
        merged.generation = dict(sorted({**merged.generation, name: self.offered}.items()))

    def pin(self, vault: Vault, digest: str) -> None:
        """Remember the highest generation seen; nothing older is accepted again.

        What cannot be pinned is served all the same: the vault itself is written.
        """
        pin = {"generation": vault.generation, "hash": digest}
        try:
            write_file(self.places.own("pin.json"), encode_file("pin", pin))
            self.warning = ""
        except AvaultError as error:
            self.warning = f"an older copy of the vault would not be noticed: {error.message}"


def read_pin(places: Places) -> dict[str, Any] | None:
    """The highest generation that this machine has seen, and its hash; None at first.

    Raises Tampered.
    """
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


# -------------------------------------------------------- vault/presence ----
# Which of a vault's files are there, and what they are for whom has not opened it.


def refuse_to_overwrite(places: Places) -> None:
    """Raise AvaultError where a vault's files are, or what is left of one.

    `init` makes none over them.

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
    """Whether there is a file, or a link.

    Raises AvaultError where we may not look: that is not the same as none.
    """
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


def is_of(vault: Vault, content: dict[str, Any]) -> bool:
    """Whether a vault is that of `content`, which is unlock.json's or nsec.enc's."""
    named = (content["vault"], content["name"], content["operator"])
    return (vault.identity, vault.name, to_npub(vault.operator)) == named


# ------------------------------------------------------------ vault/seal ----
# Everything that is encrypted: the vault's parts, the envelope, the sealed key.
#
# NIP-44. What does not encode to itself is refused.


PART_LIMIT = 65_408  # bytes of plaintext that the library encrypts in one NIP-44 payload
# ephemeral and unused, so that no signer takes the envelope for something it knows
ENVELOPE_KIND = 26_046
CODE_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: none is taken for another


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


def seal_vault(vault: Vault, keys: Keys) -> bytes:
    """A vault as avault.enc: a line for each part, encrypted from the agent to itself."""
    lines = [encrypt(keys, public_hex(keys), part) for part in split_vault(vault)]
    data = "".join(line + "\n" for line in lines).encode()
    if len(data) > VAULT_LIMIT:
        raise AvaultError(
            f"the vault would have {len(data):,} bytes; the limit is {VAULT_LIMIT:,}",
            "delete what is not needed",
        )
    return data


def open_vault(data: bytes, keys: Keys) -> Vault:
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


def make_envelope(keys: Keys, peer: str, alt: str, content: str, unlock_key: str) -> str:
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
    keys: Keys, identity: str, operator: str, name: str, custodian: str | None = None
) -> tuple[str, dict[str, Any]]:
    """A fresh unlock key (hex), and what it opens: the nsec, sealed together with the names of vault and operator.

    One for a `custodian` names that as well.
    """
    unlock = make_keys()
    nsec = {
        "type": "avault/nsec",
        "version": 1,
        "vault": identity,
        "name": name,
        "operator": to_npub(operator),
        **({"custodian": custodian} if custodian else {}),
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


def seal_nsec(keys: Keys, identity: str, operator: str, name: str, host: str) -> dict[str, Any]:
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


def open_nsec(content: dict[str, Any], answer: str, custodian: str | None = None) -> Keys:
    """The agent's keys, from a sealed copy and the phone's answer to its envelope; raises Tampered.

    What is sealed names vault, name and operator, and the `custodian` if it is for one: whoever
    writes to the disk cannot have the next copy sealed for somebody else, or with another sentence.
    """
    try:
        unlock = read_keys(json.loads(answer)["avault"])
        sealed = json.loads(decrypt(unlock, public_hex(unlock), content["sealed"]))
        keys = read_keys(sealed["nsec"])
        pinned = (sealed["vault"], sealed["name"], sealed["operator"], to_npub(public_hex(keys)))
        named = (content["vault"], content["name"], content["operator"], content["agent"])
        if pinned == named and sealed.get("custodian") == custodian:
            return keys
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise Tampered(
        "the answer does not open this vault", "is it the operator's own signer? See: avault status"
    )


# ------------------------------------------------------- vault/work_tree ----
# Whether git is at work around the vault: it takes no lock of ours (gitrepository-layout(5)).


def find_git(directory: str) -> str | None:
    """Git's own directory for the work tree that a directory is in.

    None where there is none (gitrepository-layout(5)).
    """
    while not os.path.lexists(found := os.path.join(directory, ".git")):
        if directory == (directory := os.path.dirname(directory)):
            return None
    if not os.path.isfile(found):
        return found
    return os.path.join(
        directory, os.fsdecode(read_file(found)).removeprefix("gitdir: ").rstrip("\n")
    )


def is_git_at_work(directory: str) -> bool:
    """Whether git is at work in the work tree that a directory is in.

    A file there may be another in a moment.
    """
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


# -------------------------------------------------------- vault/recovery ----
# The recovery copy, nsec.enc, beside an open vault: verified, and made anew.
#
# It is all that is left where a machine is lost, and nothing opens it in the meantime: a bad one
# would be noticed when it is too late.


def verify_recovery(data: bytes, keys: Keys, vault: Vault) -> None:
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

    def verify(self, keys: Keys, vault: Vault) -> bool:
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


# --------------------------------------------------------- vault/unsaved ----
# What is served and avault.enc has not: unsaved.enc, in the state directory.


class Unsaved:
    """A sealed copy of the vault, whose one source is the avault.enc that it goes on from.

    `digest` is the hash of that avault.enc, once the copy is kept; "" where there is none.
    """

    def __init__(self, places: Places, keys: Keys) -> None:
        self.places, self.keys, self.digest = places, keys, ""
        self.path = places.own("unsaved.enc")

    def read(self, content: dict[str, Any]) -> Vault | None:
        """The vault in it; None where there is none that is ours."""
        if not os.path.lexists(self.path):
            return None
        try:
            vault = open_vault(read_file(self.path, VAULT_LIMIT), self.keys)
        except AvaultError:
            return None
        # with other sources it is an avault.enc that somebody has put here
        return vault if is_of(vault, content) and len(vault.sources) == 1 else None

    def keep(self, vault: Vault, digest: str) -> None:
        """Write what is served, and goes on from the avault.enc of that hash.

        Raises AvaultError.
        """
        twin = vault.copy()
        twin.sources = [digest]

        def check(written: bytes) -> None:
            open_vault(written, self.keys)

        write_file(self.path, seal_vault(twin, self.keys), check)
        self.digest = digest

    def forget(self) -> None:
        """Remove it: avault.enc has all that is in it."""
        self.digest = ""
        if os.path.lexists(self.path):
            os.unlink(self.path)


# ----------------------------------------------------------- vault/store ----
# The loaded vault and its file: generations, pin, writing, noticing changes.


class Store:
    """The vault as it is loaded, and its file: one writer, and readers that notice a `git pull`.

    `vault` is served. `trouble` says why the file cannot be used although the
    loaded vault can: then reads go on and writes are refused, and what is served
    is kept, sealed, as unsaved.enc in the state directory. `warning` is what
    should be known about the pin.
    """

    def __init__(self, places: Places, keys: Keys, vault: Vault, digest: str) -> None:
        self.places, self.keys, self.vault, self.digest = places, keys, vault, digest
        self.me = Machine(places)
        self.seen: tuple[int, ...] | None = ()
        self.trouble: AvaultError | None = None
        self.unsaved = Unsaved(places, keys)
        self.written = ""  # the hash of what this process last wrote, or meant to
        self.rollback = ""  # what was accepted, although the pin speaks against it
        self.writing = False
        # whether the last write was amid a rebase or the like, whose end may undo it
        self.amid_git = False

    @property
    def machine(self) -> str:
        """This machine's name in generations."""
        return self.me.name

    @property
    def warning(self) -> str:
        """What should be known about the pin."""
        return self.me.warning

    @staticmethod
    def create(places: Places, keys: Keys, vault: Vault) -> Store:
        """Write the first avault.enc of an empty vault; raises AvaultError."""
        store = Store(places, keys, vault, "")
        store.replace(vault.copy(), "")
        return store

    @staticmethod
    def read(places: Places, keys: Keys, content: dict[str, Any]) -> Store:
        """Open avault.enc.

        Raises Tampered if it is not that of `content`, which is unlock.json's or nsec.enc's.
        """
        data = read_vault(places)
        vault = open_vault(data, keys)
        if not is_of(vault, content):
            raise Tampered(
                "avault.enc belongs to another vault or another operator",
                "take it from git history or from a backup",
            )
        return Store(places, keys, vault, sha256(data).hex())

    @staticmethod
    def load(
        places: Places, keys: Keys, content: dict[str, Any], accept_rollback: bool = False
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
        store.unsaved.forget()
        vault = store.vault
        if refusal:
            store.me.rename()  # so that what is missing comes back by a merge
            draft = vault.copy()
            draft.sources = [store.digest]
            store.replace(draft, store.digest)
        elif not pin or pin["hash"] != store.digest:
            store.pin()
        store.rollback = refusal or ""
        if not pin:
            store.me.warning = (
                "no pin.json: whether this is an older copy of the vault could not be seen"
            )
        return store

    @staticmethod
    def read_kept(
        places: Places, keys: Keys, content: dict[str, Any], pin: dict[str, Any] | None
    ) -> Store | None:
        """The vault of unsaved.enc; None where there is none that is ours and as new as the pin."""
        vault = Unsaved(places, keys).read(content)
        if not vault:
            return None
        store = Store(places, keys, vault, vault.sources[0])
        store.unsaved.digest = store.digest
        return None if pin and store.compare(pin) else store

    def keep(self) -> None:
        """Write what is served to unsaved.enc; raises AvaultError."""
        self.unsaved.keep(self.vault, self.digest)

    def is_safe(self) -> bool:
        """Whether what is served is on the disk, in one file or the other."""
        return not self.trouble or self.unsaved.digest == self.digest

    def put_back(self) -> bool:
        """Write what is served over an avault.enc that cannot be used, which stays as damaged.enc.

        Whether it was needed.

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
        self.unsaved.forget()
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
            if self.unsaved.digest and self.seen:
                self.unsaved.forget()
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
            raise Tampered(
                "avault.enc was replaced by an older one",
                "git pull, or avault restore --unsaved; "
                "to take the older one, lock, then: avault unlock --accept-rollback",
            )
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
            self.me.keep_up(draft)
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
        """Write a vault as this machine's next generation, over the file with that hash ("": none).

        Raises FileChanged if another file is there, and AvaultError.
        """
        self.me.count(draft)
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
        """Two copies merged, as the bytes of a new avault.enc for git to put in place.

        Raises Tampered.

        A copy that has all of the other is the merge. Else the merge is counted as git's.
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
        merged = one.merge(other)
        merged.sources = sorted([sha256(ours).hex(), sha256(theirs).hex()])
        self.me.count_offer(merged)
        return seal_vault(merged, self.keys), merged

    def absorb(self, draft: Vault, theirs: bytes) -> None:
        """Merge another copy into a draft of the next generation; raises Tampered."""
        other = self.open_copy(theirs)
        if other.generation.get(self.machine, 0) > draft.generation.get(self.machine, 0):
            raise Tampered(
                "that copy has writes of this machine that this one never made: "
                "is one a clone of the other?"
            )
        merged = draft.merge(other)
        draft.groups, draft.generation = merged.groups, merged.generation
        draft.sources = sorted({*draft.sources, sha256(theirs).hex()})

    def pin(self) -> None:
        """Remember the generation that is served; nothing older is accepted again."""
        self.me.pin(self.vault, self.digest)


def attempt_change(change: Callable[[Vault], None], draft: Vault) -> AvaultError | None:
    """Apply one change; the error that refused it."""
    try:
        change(draft)
    except AvaultError as error:
        return error
    return None


# -------------------------------------------------------- signer/pairing ----
# What a machine remembers of its signer, and the URIs by which the two meet (NIP-46).


DEFAULT_RELAYS = ["wss://relay.primal.net", "wss://theforest.nostr1.com", "wss://nos.lol"]
# 16 x 16 pixels, a padlock; its length is a multiple of three, so that no = stands in the pairing
# URI
PICTURE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAMElEQVR42kXIsQEAEAxFwffDHvbfgljDFgqp"
    "ROnKU0I07aUTBgb0YqDhmtTrfxKDB2RODHZTp1uOAAAAAElFTkSuQmCC"
)

UNPROVEN = "pairing-unproven.json"  # in the state directory: what `avault pair` goes on with


class Pairing:
    """What a machine remembers of its signer: pairing.json in the state directory."""

    __slots__ = ("agent", "by_itself", "keys", "operator", "relays", "signer", "token")

    def __init__(
        self, keys: Keys, signer: str, agent: str, operator: str, relays: list[str]
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
            keys = read_keys(content["client_key"])
            signer, agent, operator = (
                parse_npub(content[name]) for name in ("signer", "agent", "operator")
            )
            pairing = Pairing(
                keys, signer, agent, operator, [check_relay(url) for url in content["relays"]]
            )
        except (Usage, ValueError):
            raise Tampered(f"{path} is damaged", "pair anew with: avault pair --replace") from None
        pairing.by_itself = content["approves_by_itself"]
        return pairing

    @staticmethod
    def begun(places: Places, agent: str, operator: str, bunker: str | None) -> Pairing | None:
        """A pairing whose signer is connected, but has not opened an envelope of this vault yet.

        None if there is none.

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
        """Write pairing.json.

        Only for one by which the phone has opened an envelope of this vault: see `Contact.keep`.
        """
        content = {
            "client_key": self.keys.secret_key().to_hex(),
            "signer": self.signer,
            "agent": to_npub(self.agent),
            "operator": to_npub(self.operator),
            "relays": self.relays,
            "approves_by_itself": self.by_itself,
        }
        write_file(places.own(name), encode_file("pairing", content))

    def is_same(self, other: Pairing) -> bool:
        """Whether another asks the same signer in the same way, for the same agent and operator."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("agent", "keys", "operator", "relays", "signer")
        )


def forget_begun(places: Places) -> None:
    """Remove what an interrupted pairing has left."""
    if os.path.lexists(path := places.own(UNPROVEN)):
        os.unlink(path)


def parse_bunker(uri: str) -> tuple[str, list[str], str]:
    """The signer's public key (hex), relays and secret of a bunker:// URI (NIP-46).

    Raises Usage.
    """
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
    """A public key (hex) as signer apps cut it.

    8 and 8 hex digits (Amber), or the ends of its npub (nsec.app, Signet).
    """
    npub = to_npub(public)
    return f"{shorten_hex(public)} or {npub[:16]}…{npub[-4:]}"


class PairingCode:
    """Who answers our pairing code: the first who echoes its secret is the signer.

    A second one ends the pairing: both have seen the code, and nobody can tell which of them is
    the operator's.
    """

    def __init__(self) -> None:
        self.secret: str | None = None
        self.greeted: asyncio.Future[str] | None = None  # by whom
        self.rival: AvaultError | None = None  # a second one has echoed it
        self.alarmed = asyncio.Event()

    def is_echo(self, result: object) -> bool:
        """Whether a result is the secret of our code."""
        return (
            bool(self.secret)
            and isinstance(result, str)
            and secrets.compare_digest(result.encode(), str(self.secret).encode())
        )

    def take(self, author: str, signer: str | None, is_old_form: bool) -> str | None:
        """Take an echo of the secret: who the signer is, as far as it is known."""
        if self.greeted and not self.greeted.done():
            if is_old_form:
                self.greeted.set_exception(old_form())
                return signer
            self.greeted.set_result(author)
            return author
        if signer and author != signer and not self.rival:
            self.rival = Denied(
                "ALARM: two signers answered this pairing code, so somebody else has seen it; "
                "the pairing is ended",
                "delete the connection in the app, and pair with a new code that nobody else sees",
            )
            self.alarmed.set()
        return signer

    async def unless_alarmed(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` gives.

        Raises Denied as soon as a second signer has answered the pairing code.
        """
        task, alarm = asyncio.ensure_future(work), asyncio.ensure_future(self.alarmed.wait())
        try:
            await asyncio.wait([task, alarm], return_when=asyncio.FIRST_COMPLETED)
            if self.rival:
                raise self.rival
            return task.result()
        finally:
            task.cancel()
            alarm.cancel()


def old_form() -> AvaultError:
    """Why an answer of the signer cannot be read."""
    return AvaultError(
        "the signer answers in an old form (NIP-04), which avault does not read",
        "update the app, or pair with another: avault pair --replace",
    )


# --------------------------------------------------------- signer/relays ----
# The relay client: connections to relays, what they are sent, and what they send to us.


RPC_KIND = 24_133
RELAY_QUOTES = "'\""  # which the library puts around what a relay says


class Relays:
    """Relays that are connected under one key: `await open()`, and `await close()` at the end.

    `hear` is given each event that they send, `changed` is called when `shown`, which is what
    `status` shows of them, says something new.
    """

    def __init__(
        self,
        keys: Keys,
        urls: list[str],
        hear: Callable[[Event], None],
        changed: Callable[[], None],
    ) -> None:
        self.keys, self.hear, self.changed = keys, hear, changed
        self.shown: dict[str, dict[str, Any]] = {
            url: {"url": url, "connected": False, "said": None} for url in urls
        }
        self.ready = asyncio.Event()  # one has confirmed our subscription
        self.clients: list[nostr_sdk.Client] = []
        self.pool: dict[str, nostr_sdk.Relay] = {}
        self.network = network()
        self.tasks: set[asyncio.Task[None]] = set()

    def is_any_connected(self) -> bool:
        """Whether one is there to take what we send."""
        return any(relay["connected"] for relay in self.shown.values())

    async def open(self) -> None:
        """Connect and subscribe in the background.

        Relays that are down are tried again every 5 s.
        """
        from datetime import timedelta

        options = (
            nostr_sdk.RelayOptions()
            .retry_interval(timedelta(seconds=5))
            .adjust_retry_interval(False)
        )
        # for NIP-42: relays that want to know who asks
        nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        # a client for each: the library drops what it cannot hand on, and one may flood us
        for url in self.shown:
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
        """Ask a relay for our events.

        Neither `since` nor `limit`, as a wrong clock or a gap must not hide an answer.
        """
        await asyncio.sleep(after)
        mine = nostr_sdk.Filter().kind(nostr_sdk.Kind(RPC_KIND)).pubkey(self.keys.public_key())
        await client.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="avault")

    async def close(self) -> None:
        """Disconnect."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*(client.shutdown() for client in self.clients))

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

    async def wait_ready(self, timeout: float) -> None:
        """Wait until a relay has our subscription; raises Unavailable."""
        try:
            await asyncio.wait_for(self.ready.wait(), timeout)
        except TimeoutError:
            raise Unavailable(
                f"no relay answers: {', '.join(self.shown)}",
                "check the network, or choose others: --relay",
            ) from None
        self.look()

    def look(self) -> list[str]:
        """Bring `connected` up to date; the relays that are connected anew."""
        anew = []
        for url, relay in self.pool.items():
            connected = relay.status() == nostr_sdk.RelayStatus.CONNECTED
            if connected != self.shown[url]["connected"]:
                self.shown[url]["connected"] = connected
                anew += [url] if connected else []
                self.changed()
        return anew

    def move(self) -> bool:
        """Connect anew where the machine is in another network, or has slept: whether it is so.

        A dead connection is noticed late.
        """
        if (here := network()) == self.network:
            return False
        self.network = here
        for relay in self.pool.values():
            relay.disconnect()
            relay.connect()
        return True

    async def send(self, url: str, event: Event) -> str:
        """Send an event to one relay: what it says, "accepted" if it took it, or why not."""
        from datetime import timedelta

        try:
            await self.pool[url].send_event(event, ok_timeout=timedelta(seconds=5))
        except nostr_sdk.NostrSdkError as error:
            text = printable(str(error).strip(RELAY_QUOTES))
            # it has the event already (NIP-01)
            return "accepted" if text.startswith("duplicate:") else text
        return "accepted"


def network() -> tuple[object, ...]:
    """What is another when the machine has moved to another network, or slept.

    Its addresses towards the world.
    """
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


def compose_event(keys: Keys, peer: str, text: str) -> Event:
    """An event of NIP-46 with a text for a public key (hex), encrypted."""
    public = nostr_sdk.PublicKey.parse(peer)
    version = nostr_sdk.Nip44Version.V2
    content = nostr_sdk.nip44_encrypt(keys.secret_key(), public, text, version)
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), content)
    return builder.tags([nostr_sdk.Tag.public_key(public)]).finalize(keys)


def is_to(keys: Keys, event: Event) -> bool:
    """Whether an event is signed as it says, and for us."""
    me = ["p", public_hex(keys)]
    return event.verify() and me in [tag.to_vec()[:2] for tag in event.tags()]


def read_event(keys: Keys, event: Event) -> tuple[Any, bool]:
    """What an event to us says, as JSON; and whether it is encrypted in the old form (NIP-04).

    Raises ValueError, and NostrSdkError for what is not between these keys.
    """
    is_old_form = "?iv=" in event.content()
    decrypt = nostr_sdk.nip04_decrypt if is_old_form else nostr_sdk.nip44_decrypt
    return json.loads(decrypt(keys.secret_key(), event.author(), event.content())), is_old_form


def is_clock_unsynchronised() -> bool:
    """Whether the kernel says that nothing keeps its clock right (adjtimex(2), TIME_ERROR).

    Linux only.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)) == 5)


async def probe_relays(urls: list[str], seconds: float) -> list[tuple[str | None, float]]:
    """What `probe` says of each relay, all at once, within so many seconds."""
    nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())  # for NIP-42
    return await asyncio.gather(*(probe(url, seconds) for url in urls))


async def probe(url: str, seconds: float) -> tuple[str | None, float]:
    """Send a message of the kind that NIP-46 uses, to ourselves, and wait until it is back.

    It is sent under a key of the moment. What is wrong with the relay, or None; and the seconds
    that the message took.
    """
    from datetime import timedelta

    keys = make_keys()
    address, limit = nostr_sdk.RelayUrl.parse(url), timedelta(seconds=seconds)
    client = nostr_sdk.ClientBuilder().authenticator(nostr_sdk.SignerAuthenticator(keys)).build()
    stage = "does not answer"
    try:
        async with asyncio.timeout(seconds):
            await client.add_relay(address)
            relay = await client.relay(address)
            stream = client.notifications()
            await relay.try_connect(timeout=limit)
            stage = "takes no subscription"
            mine = nostr_sdk.Filter().kind(nostr_sdk.Kind(RPC_KIND)).pubkey(keys.public_key())
            await client.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="avault")
            await heard(stream, lambda message: bool(message.is_END_OF_STORED_EVENTS()))
            stage = "takes no message"
            event = compose_event(keys, public_hex(keys), secrets.token_hex(300))
            sent = time.monotonic()
            await relay.send_event(event, ok_timeout=limit)
            stage = "does not deliver what it takes"
            await heard(
                stream,
                lambda message: bool(message.is_EVENT_MSG() and message.event.id() == event.id()),
            )
            return None, time.monotonic() - sent
    except TimeoutError:
        return stage, 0.0
    except (AvaultError, nostr_sdk.NostrSdkError) as error:
        return f"{stage}: {printable(str(error).strip(RELAY_QUOTES))}", 0.0
    finally:
        await client.shutdown()


async def heard(stream: Any, wanted: Callable[[Any], bool]) -> None:
    """Wait for a message of the relay.

    Raises AvaultError when it closes the subscription, but not to ask who we are.
    """
    while notification := await stream.next():
        message = notification.message.as_enum() if notification.is_MESSAGE() else None
        if message and wanted(message):
            return
        if message and message.is_CLOSED() and not message.message.startswith("auth-required:"):
            raise AvaultError(message.message)


# --------------------------------------------------------- signer/bunker ----
# A NIP-46 remote signer ("bunker"), and the operator's key that it works with.


# log2 of scrypt's N (NIP-49): 100 MB for a third of a second; the library opens at most 18
NCRYPTSEC_ROUNDS = 16


class Pairings:
    """What a bunker keeps in bunker.json, in `directory`, so that it survives a restart.

    Its key, its one-time secret, the clients that it knows, and the relays where they ask.
    """

    def __init__(self, directory: str, relays: list[str]) -> None:
        self.path = os.path.join(directory, "bunker.json")
        make_private_directory(directory)
        kept = (
            decode_file("bunker", read_file(self.path), self.path)
            if os.path.lexists(self.path)
            else {}
        )
        self.keys = nostr_sdk.Keys.parse(kept["key"]) if kept else nostr_sdk.Keys.generate()
        self.secret = str(kept.get("secret") or secrets.token_hex(16))
        self.clients: dict[str, str] = kept.get("clients", {})  # public key: the name it gave
        self.relays = list(dict.fromkeys([*relays, *kept.get("relays", [])]))
        self.save()

    def save(self) -> None:
        """Write bunker.json."""
        content = {
            "key": self.keys.secret_key().to_hex(),
            "secret": self.secret,
            "clients": self.clients,
            "relays": self.relays,
        }
        write_file(self.path, encode_file("bunker", content))

    def uri(self) -> str:
        """The bunker:// URI; its secret pairs one client."""
        from urllib.parse import quote

        relays = "&".join(f"relay={quote(url, safe='')}" for url in self.relays)
        return f"bunker://{public_hex(self.keys)}?{relays}&secret={self.secret}"

    def learn(self, uri: str) -> tuple[str, str]:
        """Take a nostrconnect:// URI's client and relays; its key, and the secret. Raises Usage."""
        from urllib.parse import parse_qs, urlsplit

        parts = urlsplit(uri.strip())
        query = parse_qs(parts.query)
        if parts.scheme != "nostrconnect" or not query.get("secret") or not query.get("relay"):
            raise Usage("not a nostrconnect:// URI", "it is the line that avault pair prints")
        client = parse_npub(parts.netloc)
        self.relays = list(dict.fromkeys([*self.relays, *map(check_relay, query["relay"])]))
        self.add(client, query.get("name", ["an agent"])[0])
        return client, query["secret"][0]

    def spend(self, secret: str) -> bool:
        """Use the one-time secret up; whether it was that."""
        if not secrets.compare_digest(secret.encode(), self.secret.encode()):
            return False
        self.secret = secrets.token_hex(16)
        return True

    def add(self, client: str, name: str) -> None:
        """Know a client from now on."""
        self.clients[client] = printable(name, 64)
        self.save()


class Bunker:
    """A NIP-46 remote signer that asks `approve(client, sentence)` for each decrypt."""

    REMEMBER = 600.0  # seconds that an answer is kept, for a client that asks again
    SILENCE = 10.0  # seconds until a relay that does not answer is spoken of
    LOGIN = 5.0  # seconds that the library needs at most to log in (NIP-42) and to subscribe again

    def __init__(
        self,
        user: nostr_sdk.Keys,
        pairings: Pairings,
        approve: Callable[[str, str], Awaitable[bool]],
        say: Callable[[str], None],
    ) -> None:
        self.user, self.pairings, self.approve, self.say = user, pairings, approve, say
        # of a client's request; None while it is worked on
        self.answers: dict[tuple[str, str], dict[str, Any] | None] = {}
        self.asking = asyncio.Lock()
        self.tasks: set[asyncio.Task[None]] = set()
        self.listening: set[str] = set()  # relays that have confirmed our subscription
        self.is_ready = False

    async def run(self, uri: str | None, ready: Callable[[], None]) -> None:
        """Serve until cancelled; first answer a nostrconnect:// URI, if any. Raises Usage."""
        pairings = self.pairings
        client, secret = pairings.learn(uri) if uri else ("", "")
        if not pairings.relays:  # neither named nor known from an earlier time
            pairings.relays = list(DEFAULT_RELAYS)
            pairings.save()
        # for NIP-42: relays that want to know who reads
        nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        self.pool = (
            nostr_sdk.ClientBuilder()
            .authenticator(nostr_sdk.SignerAuthenticator(pairings.keys))
            .build()
        )
        for url in pairings.relays:
            await self.pool.add_relay(nostr_sdk.RelayUrl.parse(url))
        stream = self.pool.notifications()
        await self.pool.connect()
        await self.subscribe()
        self.spawn(self.complain_of_silence())
        while notification := await stream.next():
            if notification.is_NEW_EVENT():
                self.spawn(self.serve(notification.event))
            elif notification.is_MESSAGE():
                message = notification.message.as_enum()
                url = str(notification.relay_url).rstrip("/")
                if message.is_CLOSED():
                    self.listening.discard(url)
                    self.spawn(self.look_after(url, message.message))
                elif message.is_END_OF_STORED_EVENTS():
                    is_first = not self.listening
                    self.listening.add(url)
                    if is_first and not self.is_ready:
                        self.is_ready = True
                        ready()
                        if uri:
                            await self.reply(client, {"id": secrets.token_hex(8), "result": secret})
                            self.say(f"connected to {pairings.clients[client]}")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, and keep it until it is done."""
        self.tasks.add(task := asyncio.get_running_loop().create_task(work))
        task.add_done_callback(self.tasks.discard)

    async def subscribe(self) -> None:
        """Ask the relays for the requests to us, of the last minute and from now on."""
        since = nostr_sdk.Timestamp.from_secs(int(time.time()) - 60)
        mine = (
            nostr_sdk.Filter()
            .kind(nostr_sdk.Kind(RPC_KIND))
            .pubkey(self.pairings.keys.public_key())
            .since(since)
        )
        await self.pool.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="bunker")

    async def complain_of_silence(self) -> None:
        """Say so once where no relay has taken our subscription."""
        await asyncio.sleep(self.SILENCE)
        if not self.listening:
            self.say(f"no relay lets us listen: {', '.join(self.pairings.relays)}; trying again")

    async def look_after(self, url: str, reason: str) -> None:
        """Say that a relay has closed our subscription, unless to have us log in; ask again."""
        await asyncio.sleep(0 if not reason.startswith("auth-required:") else self.LOGIN)
        if url not in self.listening:
            self.say(f"{url} does not let us listen: {printable(reason)}")
            await asyncio.sleep(self.SILENCE)
            await self.subscribe()

    async def reply(self, client: str, message: dict[str, Any]) -> None:
        """Send a message to a client over every relay; one acceptance is enough."""
        peer = nostr_sdk.PublicKey.parse(client)
        content = nostr_sdk.nip44_encrypt(
            self.pairings.keys.secret_key(), peer, json.dumps(message), nostr_sdk.Nip44Version.V2
        )
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), content).tags(
            [nostr_sdk.Tag.public_key(peer)]
        )
        event = builder.finalize(self.pairings.keys)
        for attempt in range(5):
            relays = await self.pool.relays()
            outcomes = await asyncio.gather(
                *(relay.send_event(event) for relay in relays.values()), return_exceptions=True
            )
            refusals = {
                str(url).rstrip("/"): printable(str(outcome).strip("'\""))
                for url, outcome in zip(relays, outcomes, strict=True)
                if isinstance(outcome, BaseException)
            }
            for url, text in refusals.items():
                if text not in ("timeout", "relay not connected"):
                    self.say(f"{url} refuses the answer: {text}")
            if len(refusals) < len(relays):
                return
            await asyncio.sleep(0.2 * 2**attempt)
        self.say(
            "no relay took the answer: "
            + ", ".join(f"{url} ({text})" for url, text in refusals.items())
        )

    async def serve(self, event: nostr_sdk.Event) -> None:
        """Answer one request; each request id is worked on once, however often it is sent."""
        client = event.author().to_hex()
        try:
            message = json.loads(
                nostr_sdk.nip44_decrypt(
                    self.pairings.keys.secret_key(), event.author(), event.content()
                )
            )
            request, method = str(message["id"]), str(message["method"])
            params = [str(each) for each in message.get("params", [])]
        except (ValueError, TypeError, KeyError, AttributeError, nostr_sdk.NostrSdkError):
            return  # not a request to us
        if client not in self.pairings.clients and method != "connect":
            await self.reply(client, {"id": request, "result": "", "error": "no permission"})
            return
        if (client, request) not in self.answers:
            self.answers[client, request] = None
            self.answers[client, request] = {
                "id": request,
                **await self.answer(client, method, params),
            }
            asyncio.get_running_loop().call_later(
                self.REMEMBER, self.answers.pop, (client, request)
            )
        answer = self.answers[client, request]
        if answer:
            await self.reply(client, answer)

    async def answer(self, client: str, method: str, params: list[str]) -> dict[str, str]:
        """The result or error of a request."""
        if method == "connect":
            return self.connect(client, params)
        if method == "get_public_key":
            return {"result": public_hex(self.user)}
        if method == "ping":
            return {"result": "pong"}
        if method != "nip44_decrypt" or len(params) != 2:
            return {"result": "", "error": f"unsupported: {printable(method, 40)}"}
        try:
            text = nostr_sdk.nip44_decrypt(
                self.user.secret_key(), nostr_sdk.PublicKey.parse(params[0]), params[1]
            )
        except nostr_sdk.NostrSdkError:
            return {"result": "", "error": "cannot decrypt that"}
        async with self.asking:
            approved = await self.approve(self.pairings.clients[client], read_sentence(text))
        return {"result": text} if approved else {"result": "", "error": "user rejected"}

    def connect(self, client: str, params: list[str]) -> dict[str, str]:
        """Pair a client that has the secret; a known one is paired already."""
        if client not in self.pairings.clients:
            if not self.pairings.spend(params[1] if len(params) > 1 else ""):
                return {"result": "", "error": "invalid secret"}
            try:
                name = json.loads(params[3])["name"]
            except (IndexError, ValueError, TypeError, KeyError):
                name = "an agent"
            self.pairings.add(client, name)
            self.say(f"connected to {self.pairings.clients[client]}")
        return {"result": "ack"}


def read_sentence(text: str) -> str:
    """What the operator is shown of a text to decrypt: an envelope's sentence, not its content."""
    try:
        sentence = json.loads(text)["content"]
    except (ValueError, TypeError, KeyError, RecursionError):
        sentence = None
    return (
        printable(sentence)
        if isinstance(sentence, str)
        else f"a text of {len(text)} characters, which is not shown"
    )


def make_operator(passphrase_file: str | None) -> tuple[str, str]:
    """A new operator's key, as an nsec or, with a passphrase, as an ncryptsec; and its npub."""
    keys = nostr_sdk.Keys.generate()
    text, npub = keys.secret_key().to_bech32(), to_npub(public_hex(keys))
    if passphrase_file:
        text = nostr_sdk.EncryptedSecretKey(
            keys.secret_key(),
            read_passphrase(passphrase_file),
            NCRYPTSEC_ROUNDS,
            nostr_sdk.KeySecurity.UNKNOWN,
        ).to_bech32()
    return text, npub


def read_passphrase(path: str) -> str:
    """The passphrase in a file, without the end of its line."""
    return read_file(os.path.expanduser(path)).decode(errors="replace").removesuffix("\n")


def read_operator(path: str, passphrase_file: str | None) -> nostr_sdk.Keys:
    """The key in a file, as nsec, hex or ncryptsec (NIP-49); raises Usage."""
    text = read_file(os.path.expanduser(path)).decode(errors="replace").strip()
    if not text.startswith("ncryptsec1"):
        return parse_keys(text)
    if passphrase_file:
        passphrase = read_passphrase(passphrase_file)
    else:
        from getpass import getpass

        passphrase = getpass("passphrase: ")
    try:
        sealed = nostr_sdk.EncryptedSecretKey.from_bech32(text)
        return nostr_sdk.Keys.parse(sealed.decrypt(passphrase).to_hex())
    except nostr_sdk.NostrSdkError as error:
        if "log_n" in str(error):
            raise Usage(
                "that ncryptsec asks for more memory than the library allows (log_n above 18)",
                "encrypt it anew with log_n 18",
            ) from None
        raise Usage("the passphrase does not open that ncryptsec") from None


# ------------------------------------------------------- signer/question ----
# A question to the signer: when it goes out again, and what an answer that refuses it means.


# seconds into an asking; signers know an event id that they have seen
SAME_EVENT_AGAIN = (15.0, 30.0, 45.0)
# seconds; a new event with the same request id, as relays and signers drop old events
FRESH_EVENT_EVERY = 60.0
# seconds for which it is that often; a phone that wakes later is asked by whoever wakes it
FRESH_EVENT_AT_FIRST = 600.0
FRESH_EVENT_LATER = 300.0
NOBODY_ASKED = 2.5  # seconds; no person reads a sentence and taps faster
QUICK_IN_A_ROW = 3  # approvals within that time, after which the drill is advised
# seconds; none that gives up by itself is known to do so sooner (nsec.app: 60 s, Signet: 65 s)
SIGNER_WAITS = 55.0
# nobody was asked
NOT_A_REFUSAL = ("no permission", "not paired", "unknown client", "unsupported", "unrecognized")
NOT_PAIRED = (
    "no permission",
    "not paired",
    "invalid secret",
    "secret not in use",
    "no secret",
    "already connected",
    "unknown client",
)
# said of a refusal and of a stranger alike
UNCLEAR = ("not authorized", "unauthorized", "not authorised", "unauthorised")
# of the signer's own time, not of a person
GAVE_UP = ("timeout", "timed out", "time out", "expired")


# events of other keys that are looked at for one request: one of them may tell of a page to open
STRANGERS = 100


def plan_requests(patient: bool) -> Iterator[tuple[float, bool]]:
    """When a question goes out again, and whether as a fresh event; without end.

    In seconds since it was first asked.
    """
    for seconds in SAME_EVENT_AGAIN if patient else (3.0, 6.0, 10.0, *SAME_EVENT_AGAIN):
        yield seconds, False
    seconds = FRESH_EVENT_EVERY
    while True:
        yield seconds, True
        seconds += FRESH_EVENT_EVERY if seconds < FRESH_EVENT_AT_FIRST else FRESH_EVENT_LATER


def is_own_timeout(text: str, seconds: float) -> bool:
    """Whether a signer's refusal, so many seconds after the question, is its own giving up.

    Then it is nobody's decision.
    """
    text = text.lower()
    if any(words in text for words in GAVE_UP):
        return True
    return seconds >= SIGNER_WAITS and any(words in text for words in UNCLEAR)


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
        self.is_urged = False  # somebody is there who waits for it: it goes out at once
        self.strangers = 0  # events of other keys that were looked at for it
        self.asked_at = time.monotonic()
        # the id, and when a relay first took the request of that id
        self.accepted_id, self.accepted_at = "", 0.0

    def renew(self) -> None:
        """Take another id, as a signer that has answered one ignores it from then on.

        What answers an old one still counts.
        """
        self.id = secrets.token_hex(16)
        self.ids.add(self.id)

    def note_accepted(self, sent: str) -> None:
        """A relay has taken the request of that id."""
        if sent != self.accepted_id:
            self.accepted_id, self.accepted_at = sent, time.monotonic()

    def age(self) -> float:
        """Seconds from the first relay's acceptance, or from the first try."""
        return time.monotonic() - (self.accepted_at or self.asked_at)

    def is_looked_at(self) -> bool:
        """Whether one more event of another key is looked at: it may tell of a page to open."""
        self.strangers += 1
        return self.strangers <= STRANGERS

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
    """An event on its way to the relays.

    Whose request, when it was made, what each relay said, and whether it has left us.
    """

    def __init__(self, event: Event, request: str, made: float) -> None:
        self.event, self.request, self.made = event, request, made
        self.said: dict[str, str] = {}
        self.is_sent = False


# -------------------------------------------------------- signer/remarks ----
# What the operator should know of the signer while it is asked.


class Remarks:
    """What `status` shows of the signer: what it said last, and what is odd about it.

    `error` is what it refused with, `notice` what it did, `auth_url` a page that it wants to be
    opened, `clock` how far its clock is from ours.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self.notice: str | None = None
        self.auth_url: str | None = None
        self.clock: str | None = None

    def clear(self) -> None:
        """Forget what was about an earlier question; the clocks differ as before."""
        self.error = self.notice = self.auth_url = None

    def note_page(self, url: object, author: str | None) -> bool:
        """Keep a page that is to be opened: whether it is one. We never open it.

        The signer wants it, or another key, the `author`, that the signer has told.
        """
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            return False
        page = printable(url, 500)
        if not author:
            self.auth_url = page
        elif not self.auth_url:
            self.notice = (
                f"another key than the signer's, {shorten_key(author)}, wants a page opened: "
                f"{page} (Signet does so from its admin key; if yours is no Signet, do not open it)"
            )
        return True

    def check_clock(self, created_at: int) -> bool:
        """Notice that the signer's clock and ours differ: whether it is so.

        Relays and signers drop what is too old or too new.
        """
        skew = int(created_at - time.time())
        if abs(skew) > 60:
            self.clock = f"this machine's clock and the signer's differ by {abs(skew)} s"
        return abs(skew) > 60


# --------------------------------------------------------- signer/remote ----
# The NIP-46 client ("Nostr Remote Signing"): asks the signer, and reads what it answers.
#
# What comes from a relay is dropped unless it is the answer that we wait for.


JUST_ASKED = 1.0  # seconds; who asks so soon after another shares the event
STALE_EVENT = 10.0  # seconds; a relay that comes back after them gets a fresh event
OLD_ANSWER = 600.0  # seconds after which an answer to an earlier question counts for that one alone


class RemoteSigner:
    """A NIP-46 client: `await open()`, then `greet` or `request`, then `await close()`.

    `signer` is the remote signer's public key (hex); None until `greet` or a
    bunker URI has told it. `changed` is called when `describe()` would say
    something new.
    """

    def __init__(
        self, keys: Keys, relays: list[str], signer: str | None, changed: Callable[[], None]
    ) -> None:
        self.signer, self.changed = signer, changed
        self.relays = Relays(keys, relays, self.hear, changed)
        self.code = PairingCode()
        self.remarks = Remarks()
        self.pending: Request | None = None
        self.since, self.requests = time.time(), 0
        # somebody waits at a terminal, who is to hear of a refusal that nobody can have given
        self.is_attended = True
        self.is_resting = False  # it listens for an answer, and sends nothing
        # the answer was given long ago, to an earlier question: who held it back chose the time
        self.is_old = False
        # seconds from the first relay's acceptance to the answer
        self.answered_in: float | None = None

    @property
    def me(self) -> str:
        """Our public key (hex), which the signer knows us by."""
        return public_hex(self.relays.keys)

    async def open(self) -> None:
        """Connect to the relays, in the background."""
        await self.relays.open()

    async def close(self) -> None:
        """Disconnect."""
        await self.relays.close()

    def describe(self) -> dict[str, Any]:
        """What is being waited for, as `status` shows it."""
        return {
            "since": render_time(self.since),
            "requests": self.requests,
            "next": self.next_time(),
            "client_key": self.me,
            "error": self.remarks.error,
            "notice": self.remarks.notice,
            "auth_url": self.remarks.auth_url,
        }

    def next_time(self) -> str | None:
        """When the question goes out again; None while no relay is there to take it."""
        if not self.pending or not self.relays.is_any_connected():
            return None
        return render_time(time.time() + max(self.pending.due - time.monotonic(), 0.0))

    def ask_again(self) -> None:
        """Have the question go out at once, as somebody is there who waits for it."""
        if self.pending:
            self.pending.is_urged = True

    def hear(self, event: Event) -> None:
        """Handle one event: author, signature, p-tag and id must be right, else nothing happens."""
        author = event.author().to_hex()
        if event.kind().as_u16() != RPC_KIND:
            return
        is_stranger = self.signer and author != self.signer and not self.code.secret
        if is_stranger and not (self.pending and self.pending.is_looked_at()):
            return
        if not is_to(self.relays.keys, event):
            return
        message, is_old_form = read_event(self.relays.keys, event)
        result, error = message.get("result"), message.get("error")
        if self.code.is_echo(result):
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
                self.show_page(error, author)
            return
        if is_old_form:
            request.answer.set_exception(old_form())
            return
        if self.remarks.check_clock(made):
            self.changed()
        if result == "auth_url":
            self.show_page(error)
        elif error:
            self.refuse(
                request,
                error if isinstance(error, str) else json.dumps(error),
                message["id"] == request.id,
            )
        elif isinstance(result, str) and not error:
            try:
                request.answer.set_result(request.accept(result))
                self.answered_in = request.age()
            except Denied as refused:  # an answer that can only be wrong
                request.answer.set_exception(refused)
            except AvaultError as refused:
                # not the answer to our question: say so, and wait for the right one
                self.remarks.error = refused.message
                self.changed()

    def note_echo(self, author: str, is_old_form: bool) -> None:
        """The secret of our pairing code came back: from the signer, or from a second one."""
        self.signer = self.code.take(author, self.signer, is_old_form)
        if self.code.rival and self.pending and not self.pending.answer.done():
            self.pending.answer.set_exception(self.code.rival)

    def show_page(self, url: object, author: str | None = None) -> None:
        """Show the page that the signer, or an `author` that it has told, wants to be opened."""
        if self.remarks.note_page(url, author):
            self.changed()

    def refuse(self, request: Request, text: str, is_current: bool) -> None:
        """End the request as refused, unless the signer only gave up.

        An authorization error leaves 5 s for another signer.
        """
        is_stranger = any(words in text.lower() for words in NOT_PAIRED)
        is_unclear = any(words in text.lower() for words in (*UNCLEAR, *GAVE_UP))
        if is_unclear and not is_current:
            return  # it gave up, and says so again
        said = self.remarks.error = printable(text)
        seconds = self.answered_in = request.age()
        if request.patient and is_own_timeout(text, seconds):
            self.renew(
                request,
                f"the signer gave up by itself after {seconds:.0f} s ({said}): "
                "nobody refused, it is asked anew",
            )
            return
        if request.patient and not self.is_attended and not is_stranger and seconds < NOBODY_ASKED:
            self.renew(
                request,
                f"the signer refused at once ({said}), which nobody can: it may remember a "
                "refusal, so delete that in the app's permissions for this connection; "
                "it is asked anew",
            )
            return
        if is_stranger or request.method == "connect":
            hint = "approve it there, or pair again with: avault pair --replace"
        else:
            hint = "ask again with: avault unlock"
        refused = Denied(f"the signer refused: {said}", hint)
        if not is_stranger and not is_unclear:
            request.answer.set_exception(refused)
        elif request.refusal is None:
            self.changed()

            def end() -> None:
                if not request.answer.done():
                    request.answer.set_exception(refused)

            request.refusal = asyncio.get_running_loop().call_later(5.0, end)

    def renew(self, request: Request, notice: str) -> None:
        """Ask under another id, and say why."""
        self.remarks.notice = notice
        request.renew()
        self.changed()

    async def greet(self, secret: str) -> str:
        """Wait for the signer that scanned our URI: who echoes its `secret`."""
        greeted = asyncio.get_running_loop().create_future()
        self.code.secret, self.code.greeted = secret, greeted
        while not greeted.done():
            self.relays.look()
            await asyncio.wait([greeted], timeout=1.0)
        return str(greeted.result())

    def rest(self) -> None:
        """Send nothing any more, and go on listening for the answer."""
        self.is_resting = True

    def wake(self, anew: bool, at_once: bool) -> None:
        """Go on asking: after a rest at once.

        `anew` it is under another id, as a signer may have done with the one before.
        """
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
        if self.code.rival:
            raise self.code.rival
        request = self.pending = Request(method, params, accept, patient)
        request.is_told_by_content = is_told_by_content
        self.answered_in = None
        self.remarks.clear()
        sending = self.compose(request)
        busy: set[str] = set()  # relays that have not said yet what they think of an event
        try:
            while not request.answer.done():
                if self.relays.move():
                    self.ask_again()
                anew = self.relays.look()
                if not self.is_resting:
                    sending = self.attend(request, sending, anew)
                for url, shown in self.relays.shown.items():
                    is_free = shown["connected"] and url not in sending.said and url not in busy
                    if is_free and not self.is_resting:
                        busy.add(url)
                        work = self.publish(request, url, sending, busy)
                        spawn(self.relays.tasks, work)
                quick = time.monotonic() - request.asked_at < 5 and not sending.said
                await asyncio.wait([request.answer], timeout=0.02 if quick else 1.0)
            return request.answer.result()
        finally:
            self.pending = None
            if request.refusal:
                request.refusal.cancel()

    def attend(self, request: Request, sending: Sending, anew: list[str]) -> Sending:
        """What is to be sent at this moment.

        The event of before, the same once more, or a fresh one.
        """
        now = time.monotonic()
        age = now - sending.made
        for url in anew:
            sending.said.pop(url, None)  # who listens there may have missed it
        if (request.is_urged and age > JUST_ASKED) or (anew and age > STALE_EVENT):
            request.is_urged = False
            request.begin_plan()
            return self.compose(request)
        request.is_urged = False
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
        event = compose_event(self.relays.keys, str(self.signer), request.body())
        return Sending(event, request.id, time.monotonic())

    async def publish(self, request: Request, url: str, sending: Sending, busy: set[str]) -> None:
        """Send an event to one relay and note what it says.

        Silence or a lost connection is tried again.
        """
        try:
            text = await self.relays.send(url, sending.event)
        finally:
            busy.discard(url)
        if text not in ("timeout", "relay not connected"):
            sending.said[url] = text
        if text == "accepted":
            request.note_accepted(sending.request)
        if text != "relay not connected" and not sending.is_sent:
            sending.is_sent = True
            self.requests += 1
        self.relays.shown[url]["said"] = sending.said.get(url, "no answer")
        self.changed()


# -------------------------------------------------------- custody/prompt ----
# The person at a terminal, asked by a process that is not of that terminal.


class Prompt:
    """The person at the terminal `path`, as ttyname(3) gives it; or `answers`, a file for scripts.

    What a service is asked may also be among its credentials (CREDENTIALS_DIRECTORY,
    systemd.exec(5)). `close` puts the terminal's echo back, whoever ends us.
    """

    LONGEST = 4096  # bytes of an answer

    def __init__(self, path: str | None, answers: str | None = None) -> None:
        self.path, self.answers = path, answers
        self.fd, self.modes = -1, None  # type: tuple[int, Any]

    def ask(self, question: str, credential: str = "") -> str:
        """One line that the person types, not echoed; raises Denied, Unavailable.

        `credential` names what may lie among a service's credentials instead.
        """
        directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
        given = os.path.join(directory, credential) if directory and credential else ""
        if self.answers or os.path.isfile(given):
            data = read_file(self.answers or given, self.LONGEST)
            return self.check(data.decode(errors="replace").removesuffix("\n"))
        self.tell(f"{question}: ", "")
        silent = [*self.modes[:3], self.modes[3] & ~termios.ECHO, *self.modes[4:]]
        termios.tcsetattr(self.fd, termios.TCSAFLUSH, silent)
        try:
            typed = os.read(self.fd, self.LONGEST)
        finally:
            self.restore()
        write_all(self.fd, b"\n")
        return self.check(typed.decode(errors="replace").removesuffix("\n"))

    def check(self, answer: str) -> str:
        """An answer, if it is one; raises Denied."""
        if not answer:
            raise Denied("nothing was typed")
        return answer

    def tell(self, text: str, end: str = "\n") -> None:
        """Show the person a line; raises Unavailable where there is none."""
        if self.fd < 0:
            self.open()
        write_all(self.fd, f"avault: {text}{end}".encode())

    def open(self) -> None:
        """Open the terminal, which does not become ours; raises Unavailable."""
        if not self.path:
            raise Unavailable("somebody has to answer, and there is no terminal")
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
            if not os.isatty(fd) or os.fstat(fd).st_uid not in (os.getuid(), 0):
                raise OSError("not a terminal of ours")
            self.modes = termios.tcgetattr(fd)
        except (OSError, termios.error):
            raise Unavailable(f"{printable(self.path)} is no terminal that we can use") from None
        self.fd = fd

    def restore(self) -> None:
        """Put the terminal's echo back."""
        if self.fd >= 0:
            termios.tcsetattr(self.fd, termios.TCSANOW, self.modes)

    def close(self) -> None:
        """Leave the terminal as it was."""
        try:
            self.restore()
        except termios.error:
            pass  # it is gone


# ----------------------------------------------------- custody/custodian ----
# The seam of custody: what a custodian is, what its helper is told, and what may come of it.
#
# A custodian keeps an unlock key, which opens one sealed copy of the agent's key and nothing else. It
# never has the agent's key, nor a secret. What it does, it does in a process of its own, the helper
# (`avault.custody.helper`), which ends with its answer.


ACTIONS = ("settle", "probe", "set", "get", "delete")
OUTCOMES: dict[str, type[AvaultError]] = {
    "not_found": NotFound,
    "denied": Denied,
    "unavailable": Unavailable,
}


class Errand:
    """What a custodian's helper is sent for.

    `name` is the custodian's; `settings` are public; `kept` is what `set` gave, if anything.
    `bound` says whose secret it is, as additional data of what is encrypted; `account` and `label`
    name it where it is kept with others, for a program and for a person. `directory` is where the
    one stood who typed it, `limit` the seconds that there are, `prompt` the person, if one is there.
    """

    def __init__(self, request: dict[str, Any], prompt: Prompt) -> None:
        self.name = str(request["name"])
        self.settings: dict[str, str] = dict(request["settings"])
        self.kept: str | None = request.get("kept")
        self.bound, self.account = str(request["bound"]), str(request["account"])
        self.label, self.directory = str(request["label"]), str(request.get("directory") or "/")
        self.limit, self.prompt = float(request["limit"]), prompt

    def path(self, text: str) -> str:
        """A path that a person typed, as an absolute one."""
        return os.path.normpath(os.path.join(self.directory, os.path.expanduser(text)))


def bind(vault: str, agent: str, name: str) -> str:
    """What a wrapped unlock key is bound to: the vault's identity, its agent, the custodian."""
    return f"avault:custody:v1:{vault}:{agent}:{name}"


def read_answer(data: bytes) -> dict[str, Any]:
    """A helper's answer; one that ended without any is an error."""
    try:
        return decode_frame(data)
    except AvaultError:
        return {"outcome": "error", "detail": "its helper ended without an answer"}


def render_answer(outcome: str, said: object) -> bytes:
    """A helper's answer: `value` where it is `ok`, else `detail`."""
    return json.dumps({"outcome": outcome, "value" if outcome == "ok" else "detail": said}).encode()


def raise_outcome(answer: dict[str, Any], message: str = "{}", hint: str | None = None) -> Any:
    """The value of a helper's answer; raises the error that its outcome is."""
    outcome = str(answer.get("outcome"))
    if outcome == "ok":
        return answer.get("value")
    detail = printable(answer.get("detail") or outcome)
    raise OUTCOMES.get(outcome, AvaultError)(message.format(detail), hint or answer.get("hint"))


# ------------------------------------------------------ custody/keychain ----
# The keychain as a custodian: the platform's own, or none.
#
# Whatever is installed or configured for the package keyring is not taken. references/keychain.md
# says what it is worth, and where it works.


# what may go wrong: a reason, and the exceptions, D-Bus names and OSStatus (SecBase.h) that mean it
KEYCHAIN_ERRORS = (
    (NotFound, "the keychain has no entry for this vault", "ItemNotFoundException -25300"),
    (
        Denied,
        "the keychain is locked, and its prompt was dismissed or has no screen",
        "LockedException PromptDismissedException org.freedesktop.Secret.Error.IsLocked"
        " -128 -25293 -25308 -25315",
    ),
    (
        Unavailable,
        "the keychain of this session does not run",
        "SecretServiceNotAvailableException org.freedesktop.DBus.Error.Spawn.ChildExited"
        " -25291 -25294 -25307",
    ),
)


def secret_service(action: str, account: str, label: str, secret: str | None) -> list[str]:
    """What the Secret Service (gnome-keyring, KWallet, KeePassXC) keeps once `action` is done.

    By secretstorage, on which keyring stands: keyring's label tells nobody anything, and its prompt has no end.
    """
    import secretstorage

    try:
        bus = secretstorage.dbus_init()
    except (
        Exception
    ):  # unset, gone, deaf, another user's; none is started, not even for `autolaunch:`
        raise Unavailable("no session bus answers (DBUS_SESSION_BUS_ADDRESS)") from None
    if not secretstorage.check_service_availability(bus):
        raise Unavailable(
            "nothing on the session bus keeps secrets: no gnome-keyring, KWallet or KeePassXC"
        )

    def unlocked(kept: Any) -> Any:
        if kept.is_locked() and (action == "look" or kept.unlock() or kept.is_locked()):
            raise secretstorage.LockedException
        return kept

    def items() -> list[Any]:
        return [unlocked(item) for item in secretstorage.search_items(bus, attributes)]

    attributes = {"service": "avault", "username": account}  # as keyring calls them
    # Only `set` makes a default collection. It is unlocked first: not every service shows what is in a locked one.
    collection = unlocked(
        (secretstorage.get_default_collection if action == "set" else secretstorage.Collection)(bus)
    )
    found = items()
    if not found and action != "set":
        raise secretstorage.ItemNotFoundException
    if action in ("set", "delete"):
        for item in found:
            item.delete()
    if action == "set":
        collection.create_item(label, attributes, str(secret).encode(), replace=True)
    return [] if action == "look" else [item.get_secret().decode() for item in items()]


def macos_keychain(action: str, account: str, label: str, secret: str | None) -> list[str]:
    """What the macOS Keychain keeps once `action` is done; by keyring's bindings, as its class sets no label."""
    from keyring.backends.macOS import api

    entry = {
        "kSecClass": api.k_("kSecClassGenericPassword"),
        "kSecAttrService": "avault",
        "kSecAttrAccount": account,
    }
    if action == "look":  # its value is not asked for, nor is the person
        api.Error.raise_for_status(api.SecItemCopyMatching(api.create_query(**entry), None))
        return []
    status = 0 if action == "get" else api.SecItemDelete(api.create_query(**entry))
    if action == "set":
        status = api.SecItemAdd(
            api.create_query(**entry, kSecAttrLabel=label, kSecValueData=secret), None
        )
    api.Error.raise_for_status(status)
    try:
        return [api.find_generic_password(None, "avault", account)]
    except api.NotFound:
        if action == "delete":
            return []
        raise


class Keychain:
    """The platform's own keychain; an entry of the service avault. A write is read back."""

    needs_person = False
    SETTINGS: dict[str, tuple[str, str | None]] = {}

    def __init__(self, errand: Errand) -> None:
        self.errand = errand

    def settle(self) -> dict[str, str]:
        """Nothing is to be said; but a keychain has to be there."""
        try:
            self.ask("look")
        except (NotFound, Denied):
            pass
        return {}

    def probe(self) -> str:
        """Whether the entry is there, without a prompt."""
        self.ask("look")
        return "it is there"

    def set(self, secret: str) -> None:
        """Keep the secret in an entry, and take out what was there before."""
        if self.ask("set", secret) != [secret]:
            raise AvaultError("the keychain did not keep what was written")

    def get(self) -> str:
        """The entry's secret."""
        return self.ask("get")[0]

    def delete(self) -> None:
        """Take the entry out."""
        if self.ask("delete"):
            raise AvaultError("the keychain still has what was deleted")

    def ask(self, action: str, secret: str | None = None) -> list[str]:
        """What the keychain keeps once `action` is done; raises what its error means."""
        ask = macos_keychain if sys.platform == "darwin" else secret_service
        try:
            return ask(action, self.errand.account, self.errand.label, secret)
        except AvaultError:
            raise
        except ImportError:
            install = f"{shlex.quote(sys.executable)} -m pip install 'keyring>=25,<26'"
            raise Unavailable(f"the package keyring is not installed; {install}") from None
        except Exception as error:  # its text comes from elsewhere, and may carry what it was about
            given = getattr(error, "name", None) or type(error).__name__
            names = {str(given), *map(str, error.args[:1])}
            for kind, reason, meant in KEYCHAIN_ERRORS:
                if names & set(meant.split()):
                    raise kind(reason) from None
            raise AvaultError(f"the keychain failed: {printable(given)}") from None


# --------------------------------------------------------- custody/kinds ----
# The kinds of custodians: those of the tool itself, and those that need another package.


KINDS: dict[str, type[Custodian]] = {"keychain": Keychain}
# their rooms are avault_extras/custody_KIND.py, with a class Custodian
EXTRA_KINDS = ("aws-kms", "openbao", "pkcs11", "fido2")


def find_kind(kind: str) -> type[Custodian]:
    """The class of a kind; raises Usage, and Unavailable where its package is not installed."""
    if kind in KINDS:
        return KINDS[kind]
    if kind not in EXTRA_KINDS:
        known = ", ".join((*KINDS, *EXTRA_KINDS))
        raise Usage(f"there is no custodian of the kind {printable(kind)}", f"one of: {known}")
    found: type[Custodian] = load_extra(f"custody_{kind.replace('-', '_')}", kind).Custodian
    return found


# -------------------------------------------------------- custody/helper ----
# The process that does a custodian's errand: `avault.py custodian ACTION KIND`.
#
# An unlock key passes through it, between custodian and keyholder, and opens nothing by itself.
# Stdin is a socket: through it comes one frame, the request (see `Errand`); for `set`, whoever has
# the secret is met there (see `introduce_helper`). The answer goes to stdout: {"outcome", "value" or
# "detail"}.


def read_errand(sock: socket.socket) -> dict[str, Any]:
    """The one frame that says what is to be done; raises AvaultError."""
    read = bytearray()
    while len(read) < 4 or len(read) < 4 + int.from_bytes(read[:4], "big"):
        wanted = 4 + (int.from_bytes(read[:4], "big") if len(read) >= 4 else 0) - len(read)
        if wanted > 1 << 20 or not (piece := sock.recv(wanted)):
            raise AvaultError("no request came")
        read += piece
    return decode_frame(read[4:])


def take_secret(door: int) -> str:
    """The secret of `set`, over a socket that is made now that we are hardened; "" for none."""
    with introduce_helper(door) as own:
        read = bytearray()
        while piece := own.recv(4096):
            read += piece
    return read.decode()


def do_errand(action: str, kind: str, errand: Errand) -> Any:
    """The value of an errand that succeeds; raises what went wrong."""
    custodian = find_kind(kind)(errand)
    if action == "set":
        secret = take_secret(0)
        if not secret:
            raise AvaultError("nothing came that could be kept")
        return custodian.set(secret)
    return {name: getattr(custodian, name) for name in ACTIONS}[action]()


def answer_errand(action: str, kind: str, errand: Errand) -> bytes:
    """The answer to an errand, within its limit; one that takes longer is `denied`."""
    answer = render_answer("denied", f"no answer in {errand.limit:g} s")

    def work() -> None:
        nonlocal answer
        try:
            answer = render_answer("ok", do_errand(action, kind, errand))
        except AvaultError as error:
            answer = render_answer(error.code, error.message)
        except Exception as error:  # its text comes from elsewhere, and may carry what it was about
            answer = render_answer("error", f"it failed: {type(error).__name__}")

    # A thread, and no signal: a library may wait where Python does not see it.
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(errand.limit)
    return answer


def main_custodian(argv: list[str]) -> NoReturn:
    """Do one errand, and end by _exit, whoever still waits."""
    prompt = None
    try:
        harden("avault-custody", die_with_parent=True)
        action, kind = argv
        with socket.socket(fileno=os.dup(0)) as sock:
            request = read_errand(sock)
        prompt = Prompt(request.get("terminal"), request.get("answers"))
        signal.signal(signal.SIGTERM, lambda *_: (prompt.close(), os._exit(0)))
        write_all(1, answer_errand(action, kind, Errand(request, prompt)))
    except BaseException as error:
        write_all(1, render_answer("error", f"its helper failed: {type(error).__name__}"))
    finally:
        if prompt:
            prompt.close()
        os._exit(0)


# ----------------------------------------------------- custody/obtaining ----
# The ways to get the agent's key, as the keyholder has them.
#
# Each is a class with `async def obtain(content)`, where `content` is what `read_unlock` gives, and
# with `proves`: whether it shows that the operator's phone opens this vault.


class GivenKey:
    """The agent's key from NOSTR_NSEC, for tests and for machines without a phone."""

    proves = False

    def __init__(self, nsec: str) -> None:
        self.keys = parse_keys(nsec)

    async def obtain(self, content: dict[str, Any]) -> Keys:
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

    async def obtain(self, content: dict[str, Any]) -> Keys:
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


class KeptKey:
    """The agent's key by an unlock key of its own, from what a custodian's helper answered."""

    proves = False

    def __init__(self, custodian: str, kept: dict[str, Any], answer: bytes) -> None:
        self.custodian, self.kept, self.answer = custodian, kept, answer

    async def obtain(self, content: dict[str, Any]) -> Keys:
        """The key, if the custodian is this vault's and had what opens it.

        Raises what its outcome means (see `raise_outcome`), and Tampered.
        """
        kept = self.kept
        pinned = [kept[name] == content[name] for name in ("vault", "name", "agent", "operator")]
        if not all(pinned):
            raise Tampered(
                f"the custodian {self.custodian} is of another vault",
                f"avault custody remove {self.custodian}",
            )
        unlock = raise_outcome(read_answer(self.answer))
        return open_nsec(kept, json.dumps({"avault": unlock}), self.custodian)


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


# ------------------------------------------------------- daemon/autolock ----
# When an open vault locks by itself.


class AutoLock:
    """The limits of an open vault: seconds `after` it was opened, and that it may be `idle`.

    None is no limit. `since` is when it was opened, by the clock that people read; a clock that
    nobody can set tells the rest.
    """

    def __init__(self, limits: Limits) -> None:
        self.after, self.idle = limits
        self.start()

    def start(self) -> None:
        """Count from now."""
        self.since = time.time()
        self.opened = self.used = uptime()

    def time_left(self) -> float:
        """Seconds until the first of the limits; infinite without one."""
        ends = [self.opened + self.after] if self.after else []
        ends += [self.used + self.idle] if self.idle else []
        return min(ends) - uptime() if ends else float("inf")

    def explain(self) -> str:
        """Which limit it was, and how long."""
        if self.after and self.opened + self.after <= uptime():
            return f"it locked by itself after {render_duration(self.after)}"
        return f"it locked by itself after {render_duration(self.idle or 0)} without a use"

    def change(self, message: Message) -> None:
        """Take other limits; one that is not named stays as it is, and `for` counts from now."""
        if "for" in message:
            self.after = round(uptime() - self.opened) + message["for"]
        self.after = message.get("lock_after", self.after)
        self.idle = message.get("lock_idle", self.idle)


# -------------------------------------------------------- daemon/callers ----
# Who is at the other end of a connection.


def describe_caller(sock: socket.socket) -> dict[str, Any]:
    """The process at the other end of a connection, as far as the system tells.

    Its pid, uid, executable, name and parent.
    """
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
    """The path of a process's executable, where the system tells.

    Of a long one its end, where the name is.
    """
    try:
        path = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    return path if len(path) <= 500 else "…" + path[-499:]


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


# ------------------------------------------------------- daemon/reporter ----
# What the keyholder tells the supervisor: no secret, ever.


class Reporter:
    """Tells the supervisor how things are, what was written, and what failed.

    `describe` makes what `status` shows. Each of the `warnings` has a name, under which it ends.
    """

    def __init__(self, control: Control, describe: Callable[[], dict[str, Any]]) -> None:
        self.control, self.describe = control, describe
        self.warnings: dict[str, str] = {}
        self.reported = uptime()

    def warn_of_a_change(self, name: str) -> None:
        """Remember that a file of this machine was changed while the vault was open."""
        why = "was changed while the vault was open, and was written anew"
        self.warnings[name] = f"{name} {why}"

    def report(self) -> None:
        """Tell what `status` shows."""
        self.reported = uptime()
        self.control.send({"report": self.describe()})

    def wrote(self) -> None:
        """Tell that git has something to record."""
        self.control.send({"wrote": True})

    def fail(self, error: AvaultError) -> None:
        """Tell why something failed."""
        self.control.send({"failed": error.to_dict()["error"]})


# -------------------------------------------------------- daemon/contact ----
# The operator's signer, as the keyholder reaches it: the pairing, and a connection.


class Contact:
    """This machine's pairing, and the connection to its signer while there is one.

    `pairing` is the one by which the vault is being opened, or was; `begun` is one whose signer is
    connected, and has not opened an envelope yet; `relays` is what they said when the signer was
    last asked.
    """

    def __init__(self, places: Places, reporter: Reporter) -> None:
        self.places, self.reporter = places, reporter
        self.pairing: Pairing | None = None
        self.begun: Pairing | None = None
        self.signer: RemoteSigner | None = None
        self.relays: list[dict[str, Any]] | None = None

    def connect(
        self, pairing: Pairing, signer: str | None, session: Session | None = None
    ) -> Connected:
        """A connection to the signer, shown in `status` while it lasts.

        Its pages are shown to the `session`.
        """

        def changed() -> None:
            self.reporter.report()
            if session and remote.remarks.auth_url:
                session.send({"progress": "page", "url": remote.remarks.auth_url})
            if session and remote.remarks.notice:
                session.send({"progress": "notice", "text": remote.remarks.notice})

        remote = RemoteSigner(pairing.keys, pairing.relays, signer, changed)
        remote.code.secret = pairing.token
        return Connected(self, remote)

    def keep(self, pairing: Pairing) -> None:
        """Write a pairing by which the phone has just opened an envelope of this vault.

        Until then the one before stays.
        """
        self.pairing = pairing
        try:
            pairing.save(self.places)
            forget_begun(self.places)
            self.reporter.warnings.pop("pairing", None)
        except AvaultError as error:
            self.reporter.warnings["pairing"] = (
                f"the pairing could not be written, and ends with this daemon: {error.message}"
            )

    def restore(self) -> None:
        """Write pairing.json anew where it is not the pairing that opened the vault; and say so."""
        if not self.pairing:
            return
        try:
            found = Pairing.load(self.places)
        except AvaultError:
            found = None
        if not found or not found.is_same(self.pairing):
            self.keep(self.pairing)
            self.reporter.warn_of_a_change("pairing.json")

    def find(self, store: Store | None) -> Pairing | None:
        """This machine's pairing, for the open vault; None where there is none.

        Raises Tampered where pairing.json is for another agent or operator, or is not the one by
        which the vault was opened.
        """
        found = Pairing.load(self.places)
        if found and self.pairing and not found.is_same(self.pairing):
            hint = "avault status, which puts back the one that did; then try again"
            raise Tampered("pairing.json is not the pairing that opened this vault", hint)
        if found and store:
            pinned = store.vault.agent, store.vault.operator
            if (found.agent, found.operator) != pinned:
                raise Tampered(
                    "pairing.json is for another agent or operator than the open vault",
                    "avault pair --replace",
                )
        return self.pairing or found


class Connected:
    """A signer's connection for the length of a `with`."""

    def __init__(self, contact: Contact, signer: RemoteSigner) -> None:
        self.contact, self.signer = contact, signer

    async def __aenter__(self) -> RemoteSigner:
        await self.signer.open()
        self.contact.signer = self.signer
        self.contact.reporter.report()
        return self.signer

    async def __aexit__(self, *_: object) -> None:
        contact = self.contact
        contact.signer = None
        if self.signer.remarks.clock:
            contact.reporter.warnings["clock"] = self.signer.remarks.clock
        contact.relays = [
            {**relay, "connected": None} for relay in self.signer.relays.shown.values()
        ]
        await self.signer.close()
        contact.reporter.report()


# --------------------------------------------------------- daemon/ledger ----
# A file of signed lines, of which none can be changed or taken away unnoticed.
#
# A line's mac shows that we wrote it; `n` and `after`, the mac before, that none is missing.


class Ledger:
    """A file of signed lines, and the older ones beside it, PATH.1 to PATH.<older>.

    Each has some `limit` bytes. `starts` are the numbers of the first lines of its files, the
    oldest first; `number` and `mac` are of the last line; `size` is that of our lines in the newest
    file, whatever else others have put there; `lost` is the number of the first line after the
    bounds of the ledger were taken away, or 0.
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
        """What is to be remembered, so that a part of the ledger cannot pass for the whole."""
        return {
            "starts": list(self.starts),
            "size": self.size,
            "number": self.number,
            "mac": self.mac,
            "lost": self.lost,
        }

    def open(self) -> int:
        """A descriptor to append with, kept open.

        A process that has no other left can still say what it releases.
        """
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
        """Write the next line.

        Raises AvaultError, and then it is as if nothing had been written.
        """
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
        """Whether it is time for a new file.

        That is by our own lines: else who adds others would have ours go.
        """
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
        """The number of lines and of files, and what is wrong.

        That is a line that is not ours, or one that is missing.
        """
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


# ------------------------------------------------------------ daemon/log ----
# The access log: who got what, and when.
#
# A line of JSON before each release, and one for what was refused, in a file of its own.


def summarize(request: dict[str, Any], most: int, width: int) -> dict[str, Any]:
    """What a line says of a request.

    At most so many names, none wider, and how many there were besides.
    """
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


class AccessLog:
    """The two ledgers of a vault: access.log for what was released, refused.log for what was not.

    Who asks for nonsense all day fills only the second, and that slowly: beyond a burst one line a
    minute, which counts the others. log.json keeps the bounds of both, signed.
    """

    BURST = 30.0  # refusals that are written as they come, when there were none before
    FILES = (("access.log", 4 << 20, 4), ("refused.log", 1 << 20, 1))  # name, bytes, older ones

    def __init__(self, directory: str, keys: Keys, is_new: bool) -> None:
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
        """The bounds of both ledgers; none where log.json is gone or not ours.

        Only that of a new vault may be gone.
        """
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
        """Note what is about to be released, or was refused.

        Raises AvaultError, and then nothing may be released.
        """
        if outcome == "ok":
            self.append(self.releases, summarize(request, 100, 200), caller, outcome)
            return
        self.untold = request, caller, outcome
        self.skipped += 1
        self.settle()

    def settle(self, at_once: bool = False) -> None:
        """Write the last refusal, if there is room, with how many before it were only counted.

        Raises AvaultError.
        """
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
        """Whether every line is as it was written, and none is missing since each ledger begins."""
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


# -------------------------------------------------------- daemon/ratchet ----
# The ratchet: after each unlock this machine's envelope is another one.
#
# NIP-46 has no forward secrecy, and phones keep histories: what the phone answered last time is to
# open nothing that is on the disk today.


class Ratchet:
    """unlock.json of the open vault: `content` is what was written there last.

    `proven` says when the phone has last shown that it opens this vault, `quick` how many approvals
    in a row came faster than a person reads.
    """

    def __init__(self, places: Places, host: str, reporter: Reporter) -> None:
        self.places, self.host, self.reporter = places, host, reporter
        self.content: dict[str, Any] = {}
        self.proven: str | None = None
        self.quick = 0
        self.turning = asyncio.Lock()  # unlock.json is written by one at a time

    def prove(self) -> None:
        """Note that the phone has just opened an envelope of this vault."""
        self.proven = render_time(time.time())

    def note_quickness(self, seconds: float | None, content: dict[str, Any]) -> None:
        """Remark on an approval that came faster than a person reads, after those in `content`.

        What the app does is known from the drill alone.
        """
        is_quick = seconds is not None and seconds < NOBODY_ASKED
        self.quick = content.get("quick", 0) + 1 if is_quick else 0
        warnings = self.reporter.warnings
        warnings.pop("quick", None)
        if self.quick >= QUICK_IN_A_ROW:
            warnings["quick"] = (
                f"{self.quick} approvals in a row came within {NOBODY_ASKED} s:"
                " see whether the app asks: avault drill"
            )
        elif self.quick:
            warnings["quick"] = (
                f"approved within {seconds:.1f} s; if that was not you, see whether the app asks:"
                " avault drill"
            )

    def forget_quickness(self) -> None:
        """The drill has told what the app does."""
        self.quick = 0
        self.reporter.warnings.pop("quick", None)

    async def turn(self, keys: Keys, content: dict[str, Any], also_recovery: bool) -> None:
        """Replace the opened envelope by a fresh one, with a fresh sealed copy.

        They are for whom `content` names, which is of the open vault or of what has just been
        opened: never what the disk says by now.
        """
        async with self.turning:
            await self.write(keys, content, also_recovery)

    async def write(self, keys: Keys, content: dict[str, Any], also_recovery: bool) -> None:
        """`turn`, for who holds `turning`."""
        identity, name = content["vault"], content["name"]
        operator = parse_npub(content["operator"])

        def write() -> dict[str, Any]:
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
            self.content = await asyncio.to_thread(write)
            if also_recovery:
                self.reporter.wrote()
            self.reporter.warnings.pop("ratchet", None)
        except AvaultError as error:
            self.reporter.warnings["ratchet"] = (
                "the phone's last answer still opens unlock.json, as no fresh one could be written:"
                f" {error.message}"
            )

    async def restore(self, keys: Keys) -> None:
        """Write unlock.json anew where it is not what was written last; and say so."""
        async with self.turning:
            is_turned = "ratchet" not in self.reporter.warnings
            own = self.places.own("unlock.json")
            if not is_turned or not has_bytes(own, encode_file("unlock", self.content)):
                await self.write(keys, self.content, also_recovery=False)
                if is_turned:
                    self.reporter.warn_of_a_change("unlock.json")


# -------------------------------------------------------- daemon/writing ----
# How an open vault is written: one batch at a time, and so that what is served is on the disk.


class Writer:
    """Writes an open vault. `task` does it while changes wait in the `queue`."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.queue: list[tuple[Callable[[Vault], None], asyncio.Future[AvaultError | None]]] = []
        self.task: asyncio.Task[None] | None = None

    async def change(self, store: Store, function: Callable[[Vault], None]) -> None:
        """Have a change written, with those that wait meanwhile; raises what refused it."""
        done: asyncio.Future[AvaultError | None] = asyncio.get_running_loop().create_future()
        self.queue.append((function, done))
        self.task = self.task or asyncio.get_running_loop().create_task(self.write_queue(store))
        if refused := await done:
            raise refused

    async def write_queue(self, store: Store) -> None:
        """Write all changes that wait, until none does."""
        while self.queue:
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
            self.reporter.report()
            if not all(results):
                self.reporter.wrote()
        self.task = None

    async def finish(self) -> None:
        """Wait until nothing is being written."""
        while self.task:
            await self.task

    async def save(self, store: Store, is_last: bool = False) -> bool:
        """See to it that what is served is on the disk, and say whether it is.

        In avault.enc, or in unsaved.enc while that cannot be used.
        """
        if self.task:
            return False
        warnings = self.reporter.warnings
        before = store.trouble, store.unsaved.digest, warnings.get("unsaved")
        if is_last:
            store.notice()  # a file that covers what was written is merged while it can be
        else:
            store.refresh()
        try:
            if not store.is_safe():
                await asyncio.to_thread(store.keep)
            warnings.pop("unsaved", None)
        except AvaultError as error:
            warnings["unsaved"] = f"what is served is nowhere on the disk: {error.message}"
        if (store.trouble, store.unsaved.digest, warnings.get("unsaved")) != before:
            self.reporter.report()
        return store.is_safe()

    async def put_back(self, store: Store) -> bool:
        """Write what is served over an avault.enc that cannot be used; whether it was needed.

        Raises AvaultError.
        """
        store.writing = True
        try:
            return await asyncio.to_thread(store.put_back)
        finally:
            store.writing = False
            self.reporter.report()
            self.reporter.wrote()


# -------------------------------------------------------- daemon/holding ----
# What the keyholder holds: an open vault, and this machine's own files of it.


class Holding:
    """The vault once it is open, and how it is opened with a key that a custodian obtains.

    `store` and `log` are None while it is locked.
    """

    def __init__(self, places: Places, reporter: Reporter, limits: Limits) -> None:
        self.places, self.reporter = places, reporter
        self.host = place_name()
        self.contact = Contact(places, reporter)
        self.ratchet = Ratchet(places, self.host, reporter)
        self.recovery = Recovery(places, self.host)
        self.autolock = AutoLock(limits)
        self.writer = Writer(reporter)
        self.store: Store | None = None
        self.log: AccessLog | None = None
        self.serving = asyncio.Lock()  # one key at a time

    # -- opening it

    async def open(self, custodian: Custodian, accept_rollback: bool = False) -> None:
        """Obtain the key and serve the vault."""
        await self.serve(custodian, *await self.obtain(custodian), accept_rollback)

    async def obtain(self, custodian: Custodian) -> tuple[Keys, dict[str, Any], bool]:
        """The agent's key, the content that it was obtained by, and whether that is this machine's.

        What was read before the phone was asked counts to the end: meanwhile others may write to
        the disk, and ask too. Raises AvaultError.
        """
        content, own = read_unlock(self.places)
        keys = await custodian.obtain(content)
        # The envelope binds agent and operator: before anything is sealed for an operator, it must
        # be the one.
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
        custodian: Custodian,
        keys: Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
        is_late: bool = False,
    ) -> None:
        """Serve the vault with its key, if nobody does yet.

        One whose key `is_late` is not opened any more: raises Locked. Whatever the vault says, the
        answer must open nothing tomorrow.
        """
        async with self.serving:
            if self.store:
                await self.take_answer(self.store, custodian, keys, content)
            elif is_late:
                await self.use_up(keys, content, own)
                raise Locked(
                    "the phone approved when nobody waited any more: nothing was opened",
                    "ask again with: avault unlock",
                )
            else:
                await self.load(custodian, keys, content, own, accept_rollback)

    async def use_up(self, keys: Keys, content: dict[str, Any], own: bool) -> None:
        """Turn the ratchet by an answer that opens nothing, unless the vault is open meanwhile."""
        if not self.store:
            self.ratchet.prove()
            await self.ratchet.turn(keys, content, also_recovery=not own)

    async def take_answer(
        self, store: Store, custodian: Custodian, keys: Keys, content: dict[str, Any]
    ) -> None:
        """Turn the ratchet of a vault that is open already, by an answer that is about it.

        Raises Tampered for another.
        """
        pinned = store.vault.agent, store.vault.operator
        if (public_hex(keys), parse_npub(content["operator"])) != pinned:
            raise Tampered("the answer opens another vault than the one that is open")
        ratchet = self.ratchet
        if custodian.proves:
            ratchet.prove()
        if isinstance(custodian, Phone):
            ratchet.note_quickness(custodian.signer.answered_in, ratchet.content)
        await ratchet.turn(store.keys, ratchet.content, also_recovery=False)

    async def load(
        self,
        custodian: Custodian,
        keys: Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
    ) -> None:
        """Load the vault, and turn the ratchet also if it cannot be."""
        self.ratchet.proven = content.get("proven")
        if custodian.proves:
            self.ratchet.prove()
        custody = type(custodian).__name__
        if isinstance(custodian, Phone):
            self.ratchet.note_quickness(custodian.signer.answered_in, content)
            custody += f", asked as {shorten_hex(custodian.signer.me)}"
        loading = asyncio.to_thread(Store.load, self.places, keys, content, accept_rollback)
        try:
            self.begin(await loading, content, custody, is_new=not own)
        finally:
            is_lost = not own or not os.path.lexists(self.places.file("nsec.enc"))
            await self.ratchet.turn(keys, content, also_recovery=is_lost)
            if isinstance(custodian, Phone):
                self.contact.keep(custodian.pairing)
        if not own:
            self.reporter.warnings["recovery"] = (
                "the phone opened nsec.enc, which git keeps: who recorded its answer and gets this"
                " machine's pairing.json has the key; against that: avault pair --replace"
                " (from the next unlock on, this machine has its own envelope)"
            )
        await self.verify_recovery()
        self.note_hints()
        self.reporter.report()

    def begin(self, store: Store, content: dict[str, Any], custody: str, is_new: bool) -> None:
        """Serve a vault from now on, opened by this custody.

        Only one that `is_new` on this machine may be without bounds of an earlier log. Raises
        AvaultError if the access log cannot be written.
        """
        log = AccessLog(self.places.state, store.keys, is_new)
        custody += ", rollback accepted" if store.rollback else ""
        log.write(
            {"op": "unlock", "for": custody},
            {"pid": os.getpid(), "uid": os.getuid(), "exe": None, "name": None, "parent": None},
        )
        log.save()
        self.store, self.ratchet.content, self.log = store, content, log
        self.autolock.start()
        self.reporter.report()

    # -- while it is open

    def time_left(self) -> float:
        """Seconds until it locks by itself; a vault that nobody has proven yet does not."""
        is_busy = not self.store or self.writer.task or not self.store.is_safe()
        if is_busy or not self.ratchet.proven:
            return float("inf")
        return self.autolock.time_left()

    async def save(self, is_last: bool = False) -> bool:
        """See to it that what is served is on the disk, and say whether it is."""
        return not self.store or await self.writer.save(self.store, is_last)

    async def save_beside(self) -> None:
        """`save`, beside the request that has noticed a change of the file."""
        await self.save()

    async def keep_log(self, at_once: bool = False) -> None:
        """Write what the access log has only counted, and remember where it ends."""
        try:
            if self.log:
                self.log.settle(at_once)
                if not self.log.is_saved():
                    await asyncio.to_thread(self.log.save)
            self.reporter.warnings.pop("log", None)
        except AvaultError as error:
            self.reporter.warnings["log"] = error.message

    async def look(self) -> None:
        """Hold the disk against what the open vault knows: for `status`, `lock` and `stop`."""
        if store := self.store:
            before = store.trouble, store.digest
            await self.save()
            if (store.trouble, store.digest) != before:
                self.reporter.wrote()
            await self.verify_recovery()
            await self.restore_own_files(store)
            self.reporter.report()

    async def restore_own_files(self, store: Store) -> None:
        """This machine's own files, as the open vault knows them.

        Where the disk has others, it is said, and mended.
        """
        await self.ratchet.restore(store.keys)
        self.contact.restore()
        pin = encode_file("pin", {"generation": store.vault.generation, "hash": store.digest})
        is_settled = not store.trouble and not store.writing
        if is_settled and not has_bytes(self.places.own("pin.json"), pin):
            if not store.warning:  # else it could not be written before
                self.reporter.warn_of_a_change("pin.json")
            store.pin()

    async def verify_recovery(self) -> None:
        """Look at nsec.enc if it has changed, and have git told if it was made anew."""
        store = self.store
        if store and self.recovery.is_changed():
            was_made = await asyncio.to_thread(self.recovery.verify, store.keys, store.vault)
            self.reporter.report()
            if was_made:
                self.reporter.wrote()

    def note_hints(self) -> None:
        """Report where nip46.json differs from what the vault pins; it is never believed."""
        try:
            hints = read_hints(self.places.file("nip46.json"))
            content = self.ratchet.content
            mine = [content["agent"], content["operator"], content["name"]]
            if [hints["agent_npub"], hints["signer_npub"], hints["name"]] != mine:
                self.reporter.warnings["hints"] = (
                    "nip46.json names another agent, operator or name than the vault does;"
                    " it is not believed"
                )
        except AvaultError as error:
            self.reporter.warnings["hints"] = error.message


# ------------------------------------------------------- daemon/keychain ----
# Giving a keychain an unlock key of its own, if the operator agrees.


async def fill_keychain(holding: Holding, fd: int, pid: int, caller: dict[str, Any]) -> None:
    """If the phone agrees, seal the agent's key once more.

    What opens that goes to the keychain's process `pid` alone, through the socket `fd`.
    """
    reporter, helper = holding.reporter, None
    with socket.socket(fileno=fd) as door:
        try:
            pairing, store = holding.contact.find(holding.store), holding.store
            if not pairing or not store or not holding.log:
                raise Denied(
                    "only a paired, open vault can be given to a keychain",
                    "pair it with: avault pair",
                )
            helper = await meet(door, pid)
            holding.log.write({"op": "keychain", "for": "enable"}, caller, "ok")
            vault, token = store.vault, secrets.token_hex(32)
            sentence = (
                f"avault: let a keychain open {vault.name} on {holding.host} WITHOUT you, always."
                " Approve only if you want that."
            )
            title = f"a keychain for {vault.name}"
            envelope = make_envelope(store.keys, vault.operator, title, sentence, token)
            connected = holding.contact.connect(pairing, pairing.signer)
            async with asyncio.timeout(300), connected as signer:
                await signer.request("nip44_decrypt", [vault.agent, envelope], accept_token(token))
            if not is_hardened(pid):
                raise Unavailable(
                    "the keychain's process has ended, or is traced",
                    "try again: avault keychain enable",
                )
            unlock, sealed = seal_keys(store.keys, vault.identity, vault.operator, vault.name)
            # for the disk, once the keychain has what opens it
            reporter.control.send({"sealed": sealed})
            helper.sendall(unlock.encode())
        except AvaultError as error:
            reporter.fail(error)
        except TimeoutError:
            reporter.fail(TimedOut("nobody approved in time"))
        except OSError:
            reporter.fail(Unavailable("the keychain's process has ended"))
        finally:
            if helper:
                helper.close()


# ------------------------------------------------------ daemon/unlocking ----
# How the keyholder comes by the key: at once, by asking the phone, or by listening to it.


class Unlocking:
    """The keyholder's part of the question to the operator: `task` has it, while there is one.

    The phone is asked one thing at a time: while we are `talking` about a pairing, the question for
    the key waits, and we `resume` it afterwards. Without a key or a way to one, the process has
    `ended`.
    """

    def __init__(self, holding: Holding, reporter: Reporter, ended: asyncio.Event) -> None:
        self.holding, self.reporter, self.ended = holding, reporter, ended
        self.task: asyncio.Task[None] | None = None
        # what the disk says of a vault that is locked: to be shown, and for nothing else
        self.shown: dict[str, Any] = {}
        # somebody waits for the key: ask for it; else listen for what comes late
        self.is_asked = False
        self.is_attended = True  # somebody waits for the key, and not only `daemon start`
        self.accept_rollback = False  # what they wish
        self.opens_until = 0.0  # uptime until which a late answer opens the vault
        self.is_out = False  # the phone may have the question
        self.talking = self.resume = False

    # -- what the supervisor wants

    def ask(self, message: Message, fd: int | None) -> None:
        """Obtain the key: begin with it, or go on with the question that the phone may have."""
        others = self.is_asked and self.is_attended
        self.is_asked, self.accept_rollback = True, bool(message.get("accept_rollback"))
        self.is_attended = others or not message.get("unattended")
        if not self.talking and not self.task and not self.holding.store:
            self.begin(fd, bool(message.get("keychain")))
            return
        self.resume = self.talking
        signer = self.holding.contact.signer
        if signer and self.task:
            signer.is_attended = self.is_attended
            signer.wake(bool(message.get("anew")), bool(message.get("at_once")))
            self.reporter.report()
        if fd is not None:
            os.close(fd)

    def ask_again(self) -> None:
        """Have the question go out at once, if there is one."""
        if signer := self.holding.contact.signer:
            signer.ask_again()

    def rest(self, opens_for: float) -> None:
        """Nobody waits any more: ask no more, and listen, if the phone can have the question.

        For so many seconds a late answer still opens the vault. Then, and always, it turns the
        ratchet.
        """
        self.is_asked, self.accept_rollback, self.opens_until = False, False, uptime() + opens_for
        self.note_question()
        signer = self.holding.contact.signer
        if self.talking:
            self.resume = self.is_out
        elif self.is_out and signer and self.task:
            signer.rest()
            self.reporter.report()
        elif not self.holding.store:
            self.ended.set()

    def note_question(self) -> None:
        """Note whether the phone may have the question for the key."""
        signer = self.holding.contact.signer
        self.is_out = self.is_out or bool(self.task and signer and signer.requests)

    def is_waiting(self) -> bool:
        """Whether the phone is asked, for the key or in a talk, and not only listened to."""
        is_wanted = self.is_asked or self.talking or not self.task
        return bool(self.holding.contact.signer and is_wanted)

    # -- what talks want

    def begin_talk(self) -> None:
        """From now on, one talk is under way."""
        self.talking = True
        self.reporter.report()

    def end_talk(self) -> None:
        """It is over: go on with the question that it had stopped."""
        self.talking = False
        self.reporter.report()
        if self.resume and not self.holding.store and not self.task:
            self.begin()
        self.resume = False

    def pause(self) -> None:
        """Stop asking for the key until the talk is over."""
        self.note_question()
        if self.task:
            self.task.cancel()
            self.task, self.resume = None, True

    async def open(self, custodian: Custodian, accept_rollback: bool = False) -> None:
        """Obtain the key in another way than by the question, and serve the vault."""
        await self.holding.open(custodian, accept_rollback)
        if self.task and self.task is not asyncio.current_task():
            self.task.cancel()  # it waits for a key that is here

    # -- the way to the key

    def begin(self, fd: int | None = None, by_keychain: bool = False) -> None:
        """Begin to obtain the key; or only to listen for it, where nobody waits."""
        self.task = asyncio.get_running_loop().create_task(self.unlock(fd, by_keychain))

    async def unlock(self, fd: int | None, by_keychain: bool) -> None:
        """Obtain the key by what comes through a pipe, or by the phone; and open the vault."""
        try:
            self.shown, _ = read_unlock(self.holding.places)
            if fd is None or not await self.open_by_pipe(fd, by_keychain):
                await self.open_by_phone()
        except Exception as error:
            if not self.holding.store:
                self.reporter.fail(complain(error))
                self.ended.set()
        finally:
            if self.task is asyncio.current_task():
                self.task = None

    async def open_by_pipe(self, fd: int, by_keychain: bool) -> bool:
        """Open the vault by NOSTR_NSEC, or by what the keychain answered; False if that did not."""
        with open(fd, "rb") as pipe:
            given = await asyncio.to_thread(pipe.read)
        if not by_keychain:
            await self.open(GivenKey(given.decode(errors="replace")), self.accept_rollback)
            return True
        warnings = self.reporter.warnings
        try:
            warnings["keychain"] = "this machine's keychain opens the vault: nobody was asked"
            await self.open(Keychain(self.holding.places, given), self.accept_rollback)
            return True
        except Unavailable as error:
            warnings["keychain"] = (
                f"the keychain did not open the vault, so the phone is asked: {error.message}"
            )
            return False

    async def open_by_phone(self) -> None:
        """Ask the phone, or listen for its answer, and open the vault."""
        holding, contact = self.holding, self.holding.contact
        pairing = contact.pairing = Pairing.load(holding.places)
        if not pairing:
            raise Locked("this machine is not paired with a signer", "pair it with: avault pair")
        async with contact.connect(pairing, pairing.signer) as signer:
            signer.is_attended = self.is_attended
            if is_clock_unsynchronised():
                self.reporter.warnings["ntp"] = (
                    "nothing keeps this machine's clock right (NTP): if no request arrives,"
                    " look there"
                )
            signer.is_resting = not self.is_asked
            phone = Phone(pairing, signer)
            keys, content, own = await holding.obtain(phone)
            while signer.is_old and self.is_asked and not holding.store:
                async with holding.serving:
                    await holding.use_up(keys, content, own)
                keys, content, own = await holding.obtain(phone)
            is_late = signer.is_old or (not self.is_asked and uptime() >= self.opens_until)
            await holding.serve(phone, keys, content, own, self.accept_rollback, is_late)


# ------------------------------------------------------ daemon/keyholder ----
# The process that holds the agent's key and the secrets.
#
# It starts no program, and locking is its exit: Python cannot wipe a string, the kernel can.


class Keyholder:
    """The keyholder process: obtains the key, serves the vault, exits to lock it.

    `talks` and `requests` are the tables of what clients may ask.
    """

    def __init__(
        self,
        places: Places,
        control: socket.socket,
        talks: dict[str, Talk],
        requests: dict[str, Serve],
        limits: Limits,
    ) -> None:
        self.places, self.talks, self.requests = places, talks, requests
        self.ended = asyncio.Event()
        self.control = Control(control, self.receive, self.ended.set)
        self.reporter = Reporter(self.control, self.describe)
        self.holding = Holding(places, self.reporter, limits)
        self.unlocking = Unlocking(self.holding, self.reporter, self.ended)
        self.sessions: dict[Session, None] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    # -- the supervisor's side

    async def run(self) -> None:
        """Serve until the supervisor says so or is gone, or until it is time to lock.

        By itself it locks only when what is served is on the disk.
        """
        holding = self.holding
        while not self.ended.is_set() and (
            (left := holding.time_left()) > 0 or not await holding.save(is_last=True)
        ):
            try:  # the loop's clock stands still while the machine sleeps: look every now and then
                async with asyncio.timeout(min(max(left, 0.1), 5.0)):
                    await self.ended.wait()
            except TimeoutError:
                if holding.store and holding.store.trouble:
                    await holding.save()
                await holding.verify_recovery()
                await holding.keep_log()
        if not self.ended.is_set():
            why = holding.autolock.explain()
            self.reporter.fail(Locked(why, "ask the phone with: avault unlock"))
        await holding.writer.finish()
        await holding.save(is_last=True)
        await holding.keep_log(at_once=True)
        while self.control.queue:
            await asyncio.sleep(0.01)

    def receive(self, message: Message, fd: int | None) -> None:
        """A message from the supervisor."""
        if message["do"] == "connection" and fd is not None:
            spawn(self.tasks, self.take_over(fd, message["frame"]))
        elif message["do"] == "unlock":
            self.unlocking.ask(message, fd)
        elif message["do"] == "keychain" and fd is not None:
            filling = fill_keychain(self.holding, fd, message["helper"], message["caller"])
            spawn(self.tasks, filling)
        elif message["do"] == "ask":
            self.unlocking.ask_again()
        elif message["do"] == "look":
            spawn(self.tasks, self.look())
        elif message["do"] == "rest":
            self.unlocking.rest(message["opens_for"])
        elif message["do"] == "limit":
            self.holding.autolock.change(message)
            self.reporter.report()
        elif message["do"] == "lock":
            self.ended.set()

    async def look(self) -> None:
        """Hold the disk against what the open vault knows, and say so when it is done."""
        try:
            await self.holding.look()
        finally:
            if not self.ended.is_set():
                self.control.send({"looked": True})

    async def take_over(self, fd: int, frame: dict[str, Any]) -> None:
        """Serve a connection from now on."""
        sock = socket.socket(fileno=fd)
        if len(self.sessions) >= room():
            idle = next((each for each in self.sessions if not each.task or each.awaited), None)
            if not idle:
                sock.close()
                return
            del self.sessions[idle]
            idle.transport.abort()

        def make() -> Any:  # a protocol, though not derived from asyncio's
            return Session(frame, self.answer, self.settle, self.sessions)

        await asyncio.get_running_loop().connect_accepted_socket(make, sock)

    def settle(self) -> None:
        """A session's work is done: end, where there is no vault and no task to get one."""
        converse = any(session.task and session.is_conversation for session in self.sessions)
        unlocking = self.unlocking
        if not (self.holding.store or unlocking.task or unlocking.talking or converse):
            self.ended.set()

    # -- what status shows

    def describe(self) -> Message:
        """What `status` shows of an open vault, or of the way to one; no secret."""
        store, contact, ratchet = self.holding.store, self.holding.contact, self.holding.ratchet
        signer, is_waiting = contact.signer, self.unlocking.is_waiting()
        shown, left = ratchet.content or self.unlocking.shown, self.holding.time_left()
        digests = {}
        if store:
            digests = {"avault.enc": store.digest, "nsec.enc": self.holding.recovery.digest}
        return {
            "state": "unlocked" if store else "waiting" if is_waiting else "locked",
            "listening": bool(signer and not store and not is_waiting),
            "since": render_time(self.holding.autolock.since),
            "until": None if left == float("inf") else render_time(time.time() + max(left, 0)),
            "agent_npub": shown.get("agent"),
            "signer_npub": shown.get("operator"),
            "name": shown.get("name"),
            "code": request_code(shown["sealed"]) if shown and not store else None,
            "groups": len(store.vault.groups) if store else None,
            "secrets": store.vault.count() if store else None,
            "proven": bool(ratchet.proven if store else shown.get("proven")),
            "signer_approves_by_itself": contact.pairing.by_itself if contact.pairing else None,
            "relays": list(signer.relays.shown.values()) if signer else contact.relays,
            "waiting": signer.describe() if signer and is_waiting else None,
            "warnings": list(self.collect_warnings().values()),
            "talking": self.unlocking.talking,
            "unsaved": "unsaved" in self.reporter.warnings,
            "verified": digests,
        }

    def collect_warnings(self) -> dict[str, str]:
        """All that the operator should know, by what it is about."""
        store, contact, recovery = self.holding.store, self.holding.contact, self.holding.recovery
        warnings = dict(self.reporter.warnings)
        if store and store.trouble:
            warnings["file"] = (
                f"{store.trouble.message}; what was loaded before is served, nothing is written;"
                " to write it back: avault restore --unsaved"
            )
        if store and store.warning:
            warnings["pin"] = store.warning
        if recovery.warning:
            warnings["nsec"] = recovery.warning
        if store or not contact.signer:
            warnings.pop("ntp", None)  # of use only while an answer does not come
        if contact.signer and contact.signer.remarks.clock:
            warnings["clock"] = contact.signer.remarks.clock
        if store and store.rollback:
            warnings["rollback"] = (
                f"ROLLED BACK, as --accept-rollback was given: {store.rollback};"
                " what was written since is missing"
            )
        if contact.pairing and contact.pairing.by_itself:
            warnings["signer"] = (
                "the signer approves by itself, as the drill showed: change its setting, then:"
                " avault drill"
            )
        return warnings

    # -- requests

    def answer(self, session: Session, request: Message) -> Answer:
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
            self.reporter.report()
            # perhaps by us: what a git pull has brought is merged
            self.reporter.wrote()
            spawn(self.tasks, self.holding.save_beside())
        return self.requests[op](self, session, request)

    def open_store(self) -> Store:
        """The store of an open vault; raises Locked.

        Also when it is about to lock, or was to and `run` has slept through it.
        """
        store = self.holding.store
        if not store or self.ended.is_set() or self.holding.time_left() <= 0:
            raise Locked("the vault is locked", "ask the phone with: avault unlock")
        return store

    def release(self, session: Session, request: Message, outcome: str = "ok") -> None:
        """Note in the access log what is about to be released or changed.

        Raises AvaultError if that cannot be.
        """
        session.caller = session.caller or describe_caller(
            session.transport.get_extra_info("socket")
        )
        if self.holding.log:
            self.holding.log.write(request, session.caller, outcome)
        autolock = self.holding.autolock
        autolock.used = uptime()
        if autolock.idle and autolock.used - self.reporter.reported >= 1:
            self.reporter.report()

    async def change(self, function: Callable[[Vault], None]) -> Message:
        """Have a change written, with those that wait meanwhile; raises what refused it."""
        # it may have been locked while the value was awaited
        await self.holding.writer.change(self.open_store(), function)
        return {"ok": True}

    async def put_back(self) -> bool:
        """Write what is served over an avault.enc that cannot be used; whether it was needed.

        Raises AvaultError.
        """
        await self.holding.writer.finish()
        return await self.holding.writer.put_back(self.open_store())

    async def converse(self, session: Session, request: Message) -> Message:
        """A request that talks with the operator; one at a time, with an end."""
        if request["op"] == "open":  # it asks nobody: any number at once
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame()
            return await self.talks["open"](self, session, request, private)
        if self.unlocking.talking:
            raise Usage(
                "another pairing is under way", "let it end first, or stop it with: avault lock"
            )
        self.unlocking.begin_talk()
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
            self.unlocking.end_talk()


# -------------------------------------------------------- daemon/changes ----
# What changes an open vault. It stands in the access log before it happens.


async def write(
    keyholder: Keyholder,
    session: Session,
    request: Message,
    change: Callable[[Vault], None],
    only_try: bool = False,
) -> Message:
    """Note a change in the access log and make it, or note why it is refused.

    One that fails when it is written, as on a full disk, is noted twice: first as what is to
    happen.
    """
    try:
        change(keyholder.open_store().vault.copy())
        keyholder.release(session, request)
        return {"ok": True} if only_try else await keyholder.change(change)
    except AvaultError as error:
        keyholder.release(session, request, error.code)
        raise


async def serve_set(keyholder: Keyholder, session: Session, request: Message) -> Message:
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


async def serve_delete(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Take a key away, or a group."""
    group, key = check_group(request.get("group")), request.get("key")
    return await write(
        keyholder,
        session,
        request,
        lambda vault: vault.remove(group, None if key is None else check_key(key)),
    )


async def serve_move(keyholder: Keyholder, session: Session, request: Message) -> Message:
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


async def serve_import(keyholder: Keyholder, session: Session, request: Message) -> Message:
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


def read_copy(keyholder: Keyholder, name: object) -> bytes:
    """The bytes of a copy of avault.enc that a client has put into the state directory.

    Raises Usage, NotFound.
    """
    stem = str(name).removesuffix(".enc")
    if (
        not isinstance(name, str)
        or stem == name
        or not stem
        or set(stem) - LETTERS - DIGITS - {"-"}
    ):
        raise Usage("a copy is named by letters, digits and -, and ends in .enc")
    return read_file(keyholder.places.own(name), VAULT_LIMIT)


async def serve_merge(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Merge two copies of the vault, for git; or one into the vault that is served: a write."""
    store, theirs = keyholder.open_store(), read_copy(keyholder, request.get("theirs"))
    if request.get("ours") is None:
        if not store.vault.is_after(store.open_copy(theirs).generation):
            await write(keyholder, session, request, lambda vault: store.absorb(vault, theirs))
        return {"ok": True, "conflicts": conflicts(store.vault)}
    # not beside another: each takes a count
    data, merged = store.offer(read_copy(keyholder, request["ours"]), theirs)
    return {"ok": True, "merged": data.decode(), "conflicts": conflicts(merged)}


async def serve_restore(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Set a key, or those of a group, to what they were in a copy of the vault.

    Or, for `unsaved`, write back what is served.
    """
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


# ---------------------------------------------------------- daemon/child ----
# The keyholder's process, as its parent has it: started, spoken to, ended.


class Child:
    """One keyholder at a time. `control` is the stream to it, None when there is none.

    `receive` is given its messages, `lost` its exit code. It inherits `lock_fd`, the vault's lock.
    """

    LOCK_TIME = 5.0  # seconds that a keyholder has to exit
    LOOK_TIME = 1.0  # seconds that it has to look at the disk

    def __init__(
        self,
        places: Places,
        lock_fd: int,
        limits: Limits,
        receive: Callable[[Message], None],
        lost: Callable[[int], None],
    ) -> None:
        self.places, self.lock_fd, self.limits = places, lock_fd, limits
        self.receive, self.lost = receive, lost
        self.process: asyncio.subprocess.Process | None = None
        self.control: Control | None = None
        self.farewell: asyncio.Future[None] | None = None
        # who waits for the keyholder to have looked at the disk
        self.lookers: list[asyncio.Future[None]] = []

    async def leave(self) -> None:
        """Wait until one that is on its way out is gone."""
        if self.process and not self.control:
            await self.process.wait()

    async def start(self) -> None:
        """Start one."""
        ours, theirs = socket.socketpair()
        self.control = Control(ours, self.hear, self.say_farewell)
        with theirs:
            fd, limits = theirs.fileno(), json.dumps(self.limits)
            self.process = await asyncio.create_subprocess_exec(
                *own_command("keyholder", str(fd), self.places.dir, limits),
                pass_fds=(fd, self.lock_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=clean_environment(),
                # the terminal's Ctrl-C is for the supervisor, which may refuse it
                start_new_session=True,
            )

    def hear(self, message: Message, fd: int | None) -> None:
        """A message from the keyholder, which sends no descriptor."""
        if "looked" not in message:
            self.receive(message)
        elif self.lookers:
            self.lookers.pop(0).cancel()

    def say_farewell(self) -> None:
        """The control stream ended."""
        self.control = None
        while self.lookers:
            self.lookers.pop().cancel()
        self.farewell = asyncio.ensure_future(self.bury())

    async def bury(self) -> None:
        """Tell that it is gone, once it is."""
        self.lost(await self.process.wait() if self.process else 0)

    async def look(self) -> None:
        """Have it look at the disk; a busy one is not waited for long."""
        if self.control:
            looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.lookers.append(looked)
            self.control.send({"do": "look"})
            await asyncio.wait([looked], timeout=self.LOOK_TIME)

    async def end(self) -> None:
        """Have it finish a write that is under way, and exit; one that does not is killed."""
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

    def pid(self) -> int | None:
        """The keyholder's process id, while it lives."""
        return self.process.pid if self.process and self.process.returncode is None else None


# ------------------------------------------------------- daemon/programs ----
# The programs that the supervisor runs: each prints a JSON object.


def start_program(
    command: list[str], stdin: int | None = None, variables: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a clean environment, with these variables besides.

    What it prints is for `hear_program`. It outlives us, which asyncio's own subprocesses do not:
    git is not to be killed because the daemon stops.
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


# --------------------------------------------------------- daemon/helper ----
# What comes before a keychain is asked: its process, and whose vault it is about.


def open_keychain(command: list[str]) -> int:
    """Ask the keychain for the unlock key, by this command.

    Returns the end of the socket that its answer comes through, for the keyholder. Not a pipe: its
    reading end could be had from outside, through /proc/PID/fd, before the process is hardened.
    """
    answer, end = socket.socketpair()
    quiet = subprocess.DEVNULL
    with end:
        subprocess.Popen(
            command,
            stdin=quiet,
            stdout=end.fileno(),
            stderr=quiet,
            cwd="/",
            env=clean_environment(),
        )
    return answer.detach()


def refuse_other_pairing(places: Places, report: dict[str, Any]) -> None:
    """Raise Denied, Tampered where no pairing is for the open vault of a keyholder's report.

    The keyholder looks more closely before it asks.
    """
    path = places.own("pairing.json")
    if not os.path.lexists(path):
        raise Denied(
            "only a paired, open vault can be given to a keychain", "pair it with: avault pair"
        )
    found = decode_file("pairing", read_file(path), path)
    if (found["agent"], found["operator"]) != (report["agent_npub"], report["signer_npub"]):
        hint = "avault status, which puts back the one that opened it; then try again"
        raise Tampered("pairing.json is for another agent or operator than the open vault", hint)


# --------------------------------------------------------- daemon/keeper ----
# The vault's state as the supervisor sees it, and the question to the operator.


class Guard:
    """The vault's state, seen from the supervisor, and the question that the keyholder may ask.

    `state` is unlocked, waiting or locked; `report` is what the keyholder last said of itself.
    `say` is told what happens.
    """

    def __init__(
        self,
        places: Places,
        lock_fd: int,
        say: Callable[[str], None],
        wrote: Callable[[], None],
        limits: Limits,
    ) -> None:
        self.places, self.say, self.wrote = places, say, wrote
        self.child = Child(places, lock_fd, limits, self.receive, self.lost)
        self.state = "locked"
        self.report: dict[str, Any] = {}
        # why the vault is locked, if it was not for being asked to
        self.failure: AvaultError | None = None
        # what a keychain's unlock key opens, until the keychain has that
        self.sealed: dict[str, Any] | None = None
        self.changed = asyncio.Event()  # replaced at every change of state
        self.question = Question(places)
        self.staying: asyncio.Task[None] | None = None  # the daemon's own wait for the answer

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
        await self.child.leave()
        if not self.child.control:
            self.report, self.failure = {}, None
            await self.child.start()

    def receive(self, message: Message) -> None:
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
        elif "sealed" in message:
            self.sealed = message["sealed"]
        elif "failed" in message:
            self.failure = AvaultError.from_dict({"error": message["failed"]})

    def lost(self, code: int) -> None:
        """The keyholder is gone: locked, with the reason."""
        if code and not self.failure:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.failure = AvaultError(f"the keyholder ended by {how}")
        if self.failure:
            self.say(self.failure.message)
            if self.failure.code == Denied.code:
                self.question.close(refused=True)
        self.turn("locked")

    async def look(self) -> None:
        """Have the keyholder look at the disk, before its state is told or ended."""
        if self.state == "unlocked":
            await self.child.look()

    async def ask(self, caller: Caller, nsec: int | None = None) -> None:
        """Ask for the key until the vault is open: one question, shared by all who wait.

        Raises TimedOut, and what ended it.
        """
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
                if self.child.control and keychain:
                    nsec = open_keychain(self.keychain_command("get"))
                if self.child.control:
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
                    self.child.control.send({"do": "unlock", **wish}, nsec)
                    if keychain and nsec is not None:
                        os.close(nsec)
                while self.state != "unlocked":
                    if not self.child.control:
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
        """Where a caller wants that, wait for the answer as long as it may come.

        Also when the caller is gone.
        """
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
        if self.child.control:
            self.child.control.send(
                {"do": "rest", "opens_for": max(self.question.wanted_until - uptime(), 0.0)}
            )
        if self.state == "waiting" and not self.report.get("talking"):
            self.turn("locked")

    async def lock(self) -> None:
        """Lock; a keyholder whose phone has a question stays, without a secret, and listens."""
        if self.state == "unlocked" or self.report.get("talking"):
            await self.child.end()
        else:
            self.question.give_up()
            self.rest()
            self.turn(self.state)

    def ask_again(self) -> None:
        """Have the phone's question go out at once, if there is one."""
        if self.state == "waiting" and self.child.control:
            self.child.control.send({"do": "ask"})

    def keychain_command(self, action: str) -> list[str]:
        """The process that asks the platform's keychain."""
        name = self.report.get("name") or os.path.basename(os.path.dirname(self.places.dir))
        label = f"avault: unlock key of {name} ({self.places.dir})"
        return own_command("keychain", action, f"{self.places.id}:unlock-key", label)

    async def fill_keychain(self, caller: dict[str, Any]) -> dict[str, Any]:
        """Have the keyholder ask the phone and make an unlock key, and the keychain keep it.

        What the keychain's process said.
        """
        if self.state != "unlocked" or not self.child.control:
            raise self.locked()
        if not self.report.get("proven"):
            raise Denied(
                "nobody has shown yet that the phone opens this vault", self.pairing_hint()
            )
        refuse_other_pairing(self.places, self.report)
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
            self.child.control.send(
                {"do": "keychain", "caller": caller, "helper": process.pid}, door.fileno()
            )
        answer = await hear_program(process)
        if self.failure:
            raise self.failure
        if answer.get("outcome") == "ok" and self.sealed:
            write_file(self.places.own("keychain.json"), encode_file("keychain", self.sealed))
        return answer

    def refuse_to_lose(self, request: dict[str, Any]) -> None:
        """Refuse to end a keyholder that alone has a vault's key, or its content; raises Denied."""
        if self.state == "unlocked" and self.report.get("unsaved") and not request.get("force"):
            hint = (
                "put the file back (git checkout), or write what is served:"
                " avault restore --unsaved; or insist with --force"
            )
            raise Denied(
                "avault.enc on the disk is not what is served: to lock now may lose it", hint
            )
        if self.state == "unlocked" and not self.report.get("proven") and not request.get("force"):
            hint = f"{self.pairing_hint()}, or insist with --force"
            raise Denied(
                "nobody has shown yet that the phone opens this vault: to lock it now may lose it",
                hint,
            )


# --------------------------------------------------------- daemon/status ----
# What `status` says.


def describe_status(places: Places, guard: Guard, git: Message | None) -> Message:
    """Everything that is known of a vault and its daemon, without a secret.

    `git` is what `avault git record` said last.
    """
    fields = describe_disk(places, guard.state == "unlocked")
    if guard.child.control:
        known = {name: value for name, value in guard.report.items() if value is not None}
        fields |= {name: value for name, value in known.items() if name in fields}
    if problem := fields.pop("problem"):
        fields["warnings"] = [*fields["warnings"], problem]
    if guard.state != "unlocked" and os.path.lexists(places.own("unsaved.enc")):
        kept = (
            "avault.enc could not be used when the vault locked; what was served is kept:"
            " the next unlock serves it"
        )
        fields["warnings"] = [*fields["warnings"], kept]
    pause, failure = guard.question.pauses.end(), guard.failure
    is_failed = failure and guard.state == "locked"
    return {
        "ok": True,
        **fields,
        "state": guard.current_state(),
        "asks_again": None if pause is None else render_time(pause),
        "hint": next_step(guard, fields),
        "error": failure.to_dict()["error"] if failure and is_failed else None,
        "dir": places.dir,
        "vault_id": places.id,
        "socket": places.socket,
        "pid": os.getpid(),
        "keyholder_pid": guard.child.pid(),
        "locks_after": guard.child.limits[0],
        "locks_idle": guard.child.limits[1],
        "git": git,
        "keychain": os.path.lexists(places.own("keychain.json")),
        "version": __version__,
    }


def describe_disk(places: Places, is_open: bool) -> dict[str, Any]:
    """What the vault's files say, for what the keyholder does not; an open vault knows more."""
    public: dict[str, Any] = {}
    pairing: dict[str, Any] = {}
    relays: list[Any] | None = None
    problem = ""
    try:
        public, own = read_unlock(places)
        path = places.own("pairing.json")
        if os.path.lexists(path):
            pairing = decode_file("pairing", read_file(path), path)
            urls = pairing["relays"]
            relays = [{"url": url, "connected": None, "said": None} for url in urls]
        if own and not is_open:
            check_recovery(places)
    except AvaultError as error:
        pairing, problem = {}, error.message
    unknown = ("groups", "secrets", "since", "until", "waiting", "listening")
    return {
        **dict.fromkeys(unknown),
        "agent_npub": public.get("agent"),
        "signer_npub": public.get("operator"),
        "name": public.get("name"),
        "code": request_code(public["sealed"]) if public and not is_open else None,
        "proven": bool(public.get("proven")) if public else None,
        "relays": relays,
        "warnings": [],
        "signer_approves_by_itself": pairing.get("approves_by_itself"),
        "problem": problem,
    }


def next_step(guard: Guard, fields: dict[str, Any]) -> str | None:
    """What the operator might type next."""
    if guard.state != "unlocked":
        return guard.locked().hint
    return guard.pairing_hint() if fields["proven"] is False else None


# ------------------------------------------------------- daemon/listener ----
# The daemon's socket, and its path in the file system.


class Listener:
    """The socket that clients connect to; `take` is given each connection."""

    def __init__(
        self, places: Places, say: Callable[[str], None], take: Callable[[socket.socket], None]
    ) -> None:
        self.places, self.say, self.take = places, say, take
        self.bound: tuple[int, int] | None = None  # what the path named when we bound it

    def open(self) -> None:
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
        """Bind again when the path is gone, as when a logout removes /run/user.

        In the state directory if need be.
        """
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
                self.open()
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
            self.take(sock)
            await asyncio.sleep(0)  # one at a time, so that none is taken without room for it

    def close(self) -> None:
        """Take the path away, if it is still ours, and what leads to it."""
        for path in (self.places.socket, self.places.pid_file, self.places.own("socket")):
            if os.path.lexists(path) and (path != self.places.socket or self.is_bound()):
                os.unlink(path)


# ------------------------------------------------------- daemon/recorder ----
# Having git told of what was written.


class Recorder:
    """Runs `avault git record`, one at a time. `said` is what it said last.

    `verified` gives the hashes of the files that the keyholder vouches for.
    """

    def __init__(self, places: Places, verified: Callable[[], dict[str, Any]]) -> None:
        self.places, self.verified = places, verified
        self.said: dict[str, Any] | None = None
        self.is_recording = self.is_due = False
        self.tasks: set[asyncio.Task[None]] = set()

    def record(self) -> None:
        """Have git told of what was written; nobody waits for it."""
        self.is_due = True
        if not self.is_recording:
            self.is_recording = True
            spawn(self.tasks, self.run())

    async def run(self) -> None:
        """Run it, once more if something was written meanwhile."""
        try:
            while self.is_due:
                self.is_due = False
                if find_git(os.path.realpath(self.places.dir)):
                    # hashes; git outlives us, and a lock
                    verified = json.dumps(self.verified())
                    words = ("git", "record", "--dir", self.places.dir, "--verified", verified)
                    self.said = await run_program(own_command(*words))
        finally:
            self.is_recording = False


# ----------------------------------------------------- daemon/supervisor ----
# The process that owns the socket. It never holds a secret.
#
# It reads the first frame of a connection, which carries none, and hands the connection on.


class Supervisor:
    """The daemon: socket, state, and a keyholder when somebody asks to unlock.

    `answers` is the table of what it answers itself.
    """

    def __init__(
        self,
        places: Places,
        options: dict[str, Any],
        answers: dict[str, Respond],
        say: Callable[[str], None],
    ) -> None:
        self.places, self.options, self.answers, self.say = places, options, answers, say
        limits = options["lock_after"], options["lock_idle"]
        self.recorder = Recorder(places, lambda: self.guard.report.get("verified", {}))
        wrote = self.recorder.record
        self.guard = Guard(places, lock_directory(places.dir), say, wrote, limits)
        clean_directory(places.dir)
        clean_directory(places.state)
        self.stopping = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        # who has not been answered or handed on, the oldest first
        self.clients: list[socket.socket] = []
        self.listener = Listener(places, say, lambda sock: spawn(self.tasks, self.serve(sock)))
        self.warned = False

    # -- the socket

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen until stopped.

        Ask the phone at once if `ask` is set, or open with NOSTR_NSEC from the pipe `nsec`.
        """
        import signal

        options = self.options
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report_quietly)
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.stopping.set)
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        self.listener.open()
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
        spawn(self.tasks, self.listener.stay_reachable())
        await self.stopping.wait()
        await self.guard.child.end()
        self.listener.close()
        # who sees our connections end may start another daemon at once
        os.close(self.guard.child.lock_fd)
        self.say("stopped")

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
        """Exactly the first frame, and no byte of what follows; None for a client that left.

        Raises Usage.
        """
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
        """The answer to a first frame; None if the keyholder has the connection now.

        Raises AvaultError.
        """
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
            return await self.answers[op](self, sock, request)
        else:
            raise Usage(f"no such request: {printable(op)}", "see references/protocol.md")
        if not self.guard.child.control:
            raise self.guard.locked()
        self.guard.child.control.send({"do": "connection", "frame": request}, sock.fileno())
        return None

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

    async def first_unlock(self, caller: Caller, nsec: int | None = None) -> None:
        """What `daemon start` asks for: with no `timeout`, for ever."""
        try:
            await self.guard.ask(caller, nsec)
        except AvaultError as error:
            if not isinstance(error, Locked):
                self.guard.failure = self.guard.failure or error
            self.say(error.message)


# ----------------------------------------------------------- daemon/door ----
# What the supervisor itself answers, locked or not: status, unlock, lock and the like.


async def while_connected(
    sock: socket.socket, work: Coroutine[Any, Any, None], caller: Caller | None = None
) -> None:
    """Do something for a client, for as long as it stays.

    A `caller` that leaves without a word has died.
    """
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


async def answer_unlock(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Ask the phone, and answer when the vault is open; or, to `detach`, at once."""
    wish = bool(request.get("accept_rollback")), bool(request.get("person"))
    caller = Caller(read_limit(request), *wish, stay=read_limit(request, "stay"))
    if request.get("detach"):
        caller.is_attended = caller.timeout is not None
        spawn(supervisor.tasks, supervisor.first_unlock(caller))
        await asyncio.sleep(0)
        return await answer_wait(supervisor, sock, {"settled": True})
    telling = asyncio.get_running_loop().create_task(tell(supervisor, sock))
    try:
        await while_connected(sock, supervisor.guard.ask(caller), caller)
    finally:
        telling.cancel()
    if seconds := read_limit(request, "for"):
        await change_limits(supervisor, {"for": seconds})
    return await answer_status(supervisor, sock, request)


async def tell(supervisor: Supervisor, sock: socket.socket) -> None:
    """Send what is being waited for, whenever it changes."""
    while True:
        if supervisor.guard.state == "waiting":
            progress = {"progress": "waiting"} | {
                name: supervisor.guard.report[name] for name in ("waiting", "relays", "code")
            }
            await asyncio.get_running_loop().sock_sendall(sock, encode_frame(progress))
        await supervisor.guard.changed.wait()


async def answer_wait(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Answer when the vault is open, or when it is clear what is waited for (`settled`).

    Asks nobody.
    """

    async def wait() -> None:
        while supervisor.guard.state != "unlocked":
            if request.get("settled") and (
                supervisor.guard.state == "waiting" or not supervisor.guard.question.callers
            ):
                return
            await supervisor.guard.changed.wait()

    try:
        if supervisor.guard.state != "unlocked":  # else even `timeout` 0 is enough
            async with asyncio.timeout(read_limit(request)):
                await while_connected(sock, wait())
    except TimeoutError:
        raise TimedOut("the vault did not open in time", "see: avault status") from None
    return await answer_status(supervisor, sock, request)


async def answer_lock(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Lock the vault."""
    await supervisor.guard.look()
    supervisor.guard.refuse_to_lose(request)
    supervisor.guard.failure = None
    await supervisor.guard.lock()
    return await answer_status(supervisor, sock, request)


async def answer_limit(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Change when the vault locks by itself, from now on; a limit of 0 is none."""
    given = {name: read_limit(request, name) for name in ("lock_after", "lock_idle")}
    changed = {name: seconds or None for name, seconds in given.items() if seconds is not None}
    supervisor.options |= changed
    supervisor.guard.child.limits = (
        supervisor.options["lock_after"],
        supervisor.options["lock_idle"],
    )
    if seconds := read_limit(request, "for"):
        changed["for"] = seconds
    await change_limits(supervisor, changed)
    return await answer_status(supervisor, sock, request)


async def change_limits(supervisor: Supervisor, limits: dict[str, Any]) -> None:
    """Tell the keyholder of an open vault, and wait until it says what that means."""
    if supervisor.guard.state == "unlocked" and supervisor.guard.child.control:
        changed = supervisor.guard.changed
        supervisor.guard.child.control.send({"do": "limit", **limits})
        await changed.wait()


async def answer_stop(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """End the daemon, once it has answered."""
    await supervisor.guard.look()
    supervisor.guard.refuse_to_lose(request)
    await supervisor.guard.child.end()
    return {"ok": True}


async def answer_record(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Look at the repository again, as a command of git's has changed it."""
    supervisor.recorder.record()
    return {"ok": True}


async def answer_keychain(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """Keep an unlock key of its own in the platform's keychain, take it away, or look for it."""
    action, path = request.get("action"), supervisor.places.own("keychain.json")
    if action == "enable":
        answer = await supervisor.guard.fill_keychain(describe_caller(sock))
    else:
        answer = await run_program(
            supervisor.guard.keychain_command("delete" if action == "disable" else "look")
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


async def answer_status(supervisor: Supervisor, sock: socket.socket, request: Message) -> Message:
    """What is known, without a secret; or with the format `short` the state, as a line."""
    if request.get("format") == "short":
        return {"ok": True, "output": f"{supervisor.guard.current_state()}\n"}
    await supervisor.guard.look()
    return describe_status(supervisor.places, supervisor.guard, supervisor.recorder.said)


ANSWERS: dict[str, Respond] = {
    "status": answer_status,
    "unlock": answer_unlock,
    "lock": answer_lock,
    "limit": answer_limit,
    "wait": answer_wait,
    "stop": answer_stop,
    "keychain": answer_keychain,
    "record": answer_record,
}


# -------------------------------------------------------- daemon/pairing ----
# Pairing with a signer, and the proof that the phone behind it opens this vault.


def accept_connect(secret: str) -> Callable[[str], None]:
    """What counts as a result of `connect` to a bunker: "ack", or its secret (NIP-46)."""

    def accept(result: str) -> None:
        if result != "ack" and not (
            secret and secrets.compare_digest(result.encode(), secret.encode())
        ):
            raise Denied("the signer answered `connect` with something else")

    return accept


def choose_relays(keyholder: Keyholder, session: Session) -> list[str]:
    """The relays of this machine's pairing, or for a first one those of nip46.json.

    Where these differ, it is said.
    """
    try:
        known = keyholder.holding.contact.pairing or Pairing.load(keyholder.places)
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
    pairing = Pairing(make_keys(), signer_key or "", agent, "", relays)
    keyholder.unlocking.pause()
    session.send({"progress": "connecting", "relays": len(relays)})
    async with keyholder.holding.contact.connect(pairing, signer_key, session) as signer:
        await signer.relays.wait_ready(15.0)
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
            said = await signer.code.unless_alarmed(
                session.frame(operator=to_npub(pairing.operator))
            )
            if said.get("confirmed") is not True:
                raise Denied(
                    "the operator was not confirmed, and nothing was made",
                    "pair again, with the right account: avault init",
                )
    if operator and pairing.operator != operator:
        found, wanted = to_npub(pairing.operator), to_npub(operator)
        other = f"the signer answers for {found}, but the operator is {wanted}"
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
    holding, store = keyholder.holding, keyholder.holding.store
    # an envelope for this once, which is on no disk: until the phone has opened it, all stays as it
    # was
    if store:
        content = seal_nsec(
            store.keys, store.vault.identity, store.vault.operator, store.vault.name, holding.host
        )
    sentence = f"unlock {content['name']}, code {request_code(content['sealed'])}"
    session.send({"progress": "approve", "sentence": sentence})
    async with holding.contact.connect(pairing, pairing.signer, session) as signer:
        phone = Phone(pairing, signer)
        if not store:
            await keyholder.unlocking.open(phone, accept_rollback)
        else:
            await phone.obtain(content)
            ratchet = holding.ratchet
            ratchet.note_quickness(signer.answered_in, ratchet.content)
            ratchet.prove()
            await ratchet.turn(store.keys, ratchet.content, also_recovery=False)
            holding.contact.keep(pairing)
    session.send({"progress": "proven", "seconds": signer.answered_in})
    keyholder.reporter.report()


# ------------------------------------------------------- daemon/requests ----
# What a client may ask of an open vault.
#
# What gives a value out stands in the access log before it happens; what changes one, also.


def released(answer: Callable[[Vault, Message], Message]) -> Serve:
    """A request that gives values out: its answer is made, noted in the access log, and sent."""

    def serve(keyholder: Keyholder, session: Session, request: Message) -> Answer:
        try:
            found = answer(keyholder.open_store().vault, request)
        except AvaultError as error:
            keyholder.release(session, request, error.code)
            raise
        keyholder.release(session, request)
        return found

    return serve


def answer_get(vault: Vault, request: Message) -> Message:
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


def answer_export(vault: Vault, request: Message) -> Message:
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


def answer_reveal(vault: Vault, request: Message) -> Message:
    """Secrets by their names, with what is in conflict with them."""
    groups, only = check_names(request, "groups"), check_names(request, "only")
    rows = [
        {
            "group": group,
            "key": key,
            "value": found[0].value,
            "conflicts": [secret.value for secret in found[1:]],
        }
        for group, key, found in choose_keys(vault, groups, only)
    ]
    return {"ok": True, "secrets": rows}


def serve_has(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """Whether a group or key is there."""
    groups = keyholder.open_store().vault.groups
    group, key = check_group(request.get("group")), request.get("key")
    return {
        "ok": True,
        "has": group in groups and (key is None or check_key(key) in groups[group].keys),
    }


def serve_list(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """What there is; names, never values."""
    vault, form, wanted = (
        keyholder.open_store().vault,
        request.get("format"),
        check_names(request, "groups"),
    )
    rows = choose_keys(vault, wanted, [])
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


def serve_verify_log(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """Whether the access log is what was written to it."""
    return {"ok": True, **(keyholder.holding.log.verify() if keyholder.holding.log else {})}


async def serve_verify(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The hashes of the vault's files that this daemon vouches for.

    Or, for a copy of nsec.enc, whether that opens.
    """
    store = keyholder.open_store()
    if (name := request.get("file")) is not None:
        verify_recovery(read_copy(keyholder, name), store.keys, store.vault)
        return {"ok": True}
    await keyholder.holding.verify_recovery()
    return {
        "ok": True,
        "verified": {"avault.enc": store.digest, "nsec.enc": keyholder.holding.recovery.digest},
    }


async def serve_provide(keyholder: Keyholder, session: Session, request: Message) -> Message:
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


def serve_inspect(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """What is in a copy of the vault, of any generation: names and times, never values."""
    vault = keyholder.open_store().open_copy(read_copy(keyholder, request.get("file")))
    groups = describe_vault(vault)
    for group in groups:
        for key in group["keys"]:
            found = vault.groups[group["name"]].keys[key["name"]]
            key["version"] = ",".join(f"{secret.machine}.{secret.count}" for secret in found)
    return {"ok": True, "groups": groups, "generation": vault.generation}


REQUESTS: dict[str, Serve] = {
    "get": released(answer_get),
    "export": released(answer_export),
    "reveal": released(answer_reveal),
    "provide": serve_provide,
    "has": serve_has,
    "list": serve_list,
    "verify": serve_verify,
    "verify_log": serve_verify_log,
    "inspect": serve_inspect,
    "set": serve_set,
    "delete": serve_delete,
    "move": serve_move,
    "import": serve_import,
    "merge": serve_merge,
    "restore": serve_restore,
}


# ---------------------------------------------------------- daemon/talks ----
# The keyholder's talks with operator and signer: init, pair, recover, drill.


async def talk_init(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Make the agent's key and the vault's files; pair first unless the operator is given."""
    places, holding = keyholder.places, keyholder.holding
    if holding.store:
        raise Denied(
            "a vault is open, whose key may be nowhere else", "avault lock, then: avault init"
        )
    refuse_to_overwrite(places)
    name, host = check_name(str(request.get("name"))), holding.host
    relays = [check_relay(url) for url in request.get("relays") or []] or DEFAULT_RELAYS
    keys = parse_keys(private["nsec"]) if private.get("nsec") else make_keys()
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
    holding.begin(store, content, "init", is_new=True)
    await holding.verify_recovery()
    keyholder.reporter.wrote()
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
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Pair this machine and prove the vault; `recover` does it where the vault was never open.

    An open vault knows its names, and its machine's relays: what the disk says about them counts
    only for a closed one.
    """
    places, holding, contact = keyholder.places, keyholder.holding, keyholder.holding.contact
    content, own = (holding.ratchet.content, True) if holding.store else read_unlock(places)
    is_paired = bool(contact.pairing) or os.path.lexists(places.own("pairing.json"))
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
        and holding.store
        and contact.pairing
        and not (contact.begun and pairing.is_same(contact.begun))
    ):
        pairing = None  # what opened the vault is known, and what was begun since: this is neither
    if is_paired and not pairing and not request.get("replace"):
        raise Usage(
            "this machine is paired already",
            "ask the phone with: avault unlock, or pair anew: avault pair --replace",
        )
    if pairing:
        keyholder.unlocking.pause()
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
    contact.begun = pairing
    await prove(keyholder, session, pairing, content, bool(request.get("accept_rollback")))
    hints = encode_hints(agent, operator, pairing.relays, content["name"])
    if not has_bytes(path := places.file("nip46.json"), hints):
        write_file(path, hints)
        keyholder.reporter.wrote()
        holding.note_hints()
        keyholder.reporter.report()
    return {
        "ok": True,
        "agent_npub": content["agent"],
        "signer_npub": content["operator"],
        "relays": pairing.relays,
    }


async def talk_open(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Open the vault with NOSTR_NSEC."""
    if not keyholder.holding.store:
        await keyholder.unlocking.open(
            GivenKey(str(private.get("nsec"))), bool(request.get("accept_rollback"))
        )
    return {"ok": True}


async def talk_drill(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Ask for something that the operator is to reject: an app that approves by itself cannot."""
    contact, ratchet = keyholder.holding.contact, keyholder.holding.ratchet
    store = keyholder.holding.store
    pairing = contact.find(store)
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
    async with contact.connect(pairing, pairing.signer, session) as signer:
        try:
            await signer.request("nip44_decrypt", [vault.agent, envelope], accept_token(token))
            refused = False
        except Denied as error:
            if any(words in error.message.lower() for words in NOT_A_REFUSAL):
                raise
            refused = True
    pairing.by_itself = not refused
    contact.keep(pairing)
    ratchet.forget_quickness()
    await ratchet.turn(store.keys, ratchet.content, also_recovery=False)
    keyholder.reporter.report()
    return {"ok": True, "refused": refused, "seconds": signer.answered_in}


TALKS: dict[str, Talk] = {
    "init": talk_init,
    "open": talk_open,
    "pair": talk_pair,
    "recover": talk_pair,
    "drill": talk_drill,
}


# ---------------------------------------------------------- daemon/start ----
# From a command to a daemon, and the beginning and end of its two processes.


def main_supervisor(argv: list[str]) -> NoReturn:
    """The supervisor process: `avault.py supervisor OPTIONS`.

    The options are a JSON object of what `start_daemon` wants.
    """
    try:
        options = json.loads(argv[0])
        options["dir"], options["background"], options["ready"]
    except (IndexError, ValueError, TypeError, KeyError):
        sys.exit(
            "avault: error: the supervisor is not started by hand\n"
            "avault: hint: avault daemon start"
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
        await Supervisor(places, options, ANSWERS, say).run(lambda: ready({"ok": True}))

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


async def hold(places: Places, fd: int, limits: Limits) -> None:
    """The keyholder's life; its control stream is the file descriptor `fd`."""
    asyncio.get_running_loop().set_exception_handler(report_quietly)
    await Keyholder(places, socket.socket(fileno=fd), TALKS, REQUESTS, limits).run()


def main_keyholder(argv: list[str]) -> NoReturn:
    """The keyholder process: `avault.py keyholder FD DIR LIMITS`.

    It ends by _exit: what it knew goes with it.
    """
    code = 0
    try:
        harden("avault-keys", die_with_parent=True)
        asyncio.run(hold(Places(argv[1]), int(argv[0]), json.loads(argv[2])))
    except BaseException as error:
        code = 70  # EX_SOFTWARE; no traceback: its text may carry what it was about
        write_all(2, f"avault: error: the keyholder failed: {type(error).__name__}\n".encode())
    finally:
        os._exit(code)


def start_daemon(places: Places, background: bool, **wanted: Any) -> None:
    """Start the supervisor: in the background, and return when it listens; or become it.

    Either way it is a fresh process with a clean environment. NOSTR_NSEC goes into a socket that
    only a keyholder will read, and that /proc/PID/fd does not open. `wanted` is what is not as in
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
        "dir": places.dir,
        "socket": places.socket,
        "pid_file": places.pid_file,
        "background": background,
        "ready": None,
        "ask": False,
        "nsec": nsec,
        **dict.fromkeys(("timeout", "lock_after", "lock_idle", "notify")),
        "accept_rollback": False,
        **wanted,
    }
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


# ----------------------------------------------------- terminal/commands ----
# The table of commands, from which click is told when one is run.


COMMANDS: dict[str, tuple[Callable[..., int], tuple[Callable[[], click.Parameter], ...], bool]] = {}


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


def option(*names: str, **settings: Any) -> Callable[[], click.Parameter]:
    """An option, to be made when click is there."""
    return lambda: click.Option(names, **settings)


def argument(name: str, **settings: Any) -> Callable[[], click.Parameter]:
    """An argument, to be made when click is there."""
    return lambda: click.Argument([name], **settings)


# --------------------------------------------------------- terminal/help ----
# The page of help.


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


# --------------------------------------------------------- terminal/talk ----
# What is said to a person, on stderr, and what is given out, on stdout.


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


def confirm(question: str) -> bool:
    """Ask on a terminal; without one the answer is no."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_person() -> bool:
    """Whether somebody types this at a terminal: a matter of manners, which secures nothing."""
    return sys.stdin.isatty() and sys.stderr.isatty()


# ----------------------------------------------------------- terminal/qr ----
# A QR code: in a terminal that is large enough, and as a picture.


def qr_lines(text: str) -> list[str]:
    """The lines of a QR code, light on dark, in half blocks.

    A pairing URI goes without its picture, which would make the code too big.
    """
    import qrcode

    code = qrcode.QRCode(border=2, error_correction=qrcode.constants.ERROR_CORRECT_L)
    code.add_data(text.partition("&image=")[0])
    shown = io.StringIO()
    code.print_ascii(out=shown, invert=True)
    return shown.getvalue().rstrip("\n").split("\n")


def show_qr(text: str) -> None:
    """Show a QR code, now or as soon as the terminal is large enough for it."""
    code = qr_lines(text)
    rows, columns = len(code) + 1, len(code[0])

    def fit(*_: object) -> None:
        size = os.get_terminal_size(2)
        # 0: nobody knows
        if not size.columns or (size.columns >= columns and size.lines >= rows):
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            # not by sys.stderr, in whose midst a signal may come
            write_all(2, "\n".join([*code, ""]).encode())

    signal.signal(signal.SIGWINCH, fit)
    fit()
    if signal.getsignal(signal.SIGWINCH) == fit:
        size = os.get_terminal_size(2)
        say(
            f"the QR code needs {columns} columns and {rows} lines, and here are "
            f"{size.columns} and {size.lines}"
        )
        say(
            "hint: make the window larger, or its letters smaller (Ctrl and -); or paste the "
            "line; or --qr FILE.png"
        )


def save_qr(text: str, path: str) -> None:
    """A QR code as a PNG file (0600); raises AvaultError."""
    import qrcode

    picture = io.BytesIO()
    qrcode.make(text).save(picture, "PNG")
    write_file(os.path.abspath(os.path.expanduser(path)), picture.getvalue())


# ----------------------------------------------------- terminal/terminal ----
# What every command is given: the vault's places, and the way to its daemon.


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


# ------------------------------------------------------ terminal/waiting ----
# Waiting for the operator, and for a daemon.


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


# -------------------------------------------------------- terminal/words ----
# What people type: durations, and names of secrets.


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


# --------------------------------------------------------- git/committed ----
# What of the vault may be committed.


VAULT, RECOVERY, HINTS, ATTRIBUTES = "avault.enc", "nsec.enc", "nip46.json", ".gitattributes"
NAMES = (VAULT, RECOVERY, HINTS, ATTRIBUTES)
# tells nothing; with what a commit touches, it tells which commits are ours
MESSAGE = "avault: update the vault"
MERGE_MESSAGE = "avault: merge"
NOBODY = {"name": "avault", "email": "avault@localhost"}  # who commits where git knows no user
LOCK_PATIENCE = 5.0  # seconds to wait for another git's index.lock

OPERATIONS = {
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
    "sequencer": "a cherry-pick or revert",
}

# neither loses what is confirmed: an open vault writes it again
UNDER_WAY_HINT = "finish or abort it; see: git status"


class NoRepository(NotFound):
    """The vault is in no work tree of git's."""


class Refused(AvaultError):
    """The repository is in a state in which we leave it alone."""


class Conflict(AvaultError):
    """Git left a conflict in our files that needs a person, or the vault open."""


class Verified:
    """Which bytes of our files may be committed: those that the daemon serves, or has verified.

    `given` are the hashes that it knew when it asked for the commit. For others it is asked; a vault that is locked has the
    pin, which is the hash of what was served last.
    """

    def __init__(self, places: Places, given: dict[str, str] | None = None) -> None:
        self.places, self.hashes = places, [given or {}]
        self.is_asked = False

    def check(self, name: str, data: bytes) -> None:
        """Raise Tampered for bytes that nobody vouches for; a file that opens nothing is not looked at."""
        if name not in (VAULT, RECOVERY):
            return
        if not self.knows(name, data) and not self.is_asked:
            self.is_asked = True
            self.hashes.append(self.ask())
        if not self.knows(name, data):
            if "pin" in self.hashes[-1]:
                raise Locked(
                    f"nobody has verified {name} on the disk, so it is not committed",
                    "avault unlock",
                )
            if name == RECOVERY:
                raise Tampered(
                    f"{name} on the disk does not open the vault, so it is not committed",
                    "see: avault status",
                )
            raise Tampered(
                f"{name} on the disk is not what is served, so it is not committed",
                "see: avault status",
            )

    def knows(self, name: str, data: bytes) -> bool:
        """Whether these bytes were vouched for."""
        return any(found.get(name) == sha256(data).hex() for found in self.hashes)

    def ask(self) -> dict[str, str]:
        """The hashes that the daemon knows now; of a locked vault the one of its pin, and `pin`."""
        try:
            return dict(ask_daemon(self.places, "verify")["verified"])
        except (Locked, Unavailable):
            with contextlib.suppress(AvaultError):
                if pin := read_pin(self.places):
                    return {
                        VAULT: pin["hash"],
                        RECOVERY: read_verified(self.places),
                        "pin": pin["hash"],
                    }
            return {"pin": ""}


def quote_pattern(path: str) -> bytes:
    """A path from the top as gitattributes(5) reads it: no wildcards, and quoted where it must be."""
    plain = os.fsencode("/" + re.sub(r"([*?\[\\])", r"\\\1", path))
    if not re.search(rb'[\x00-\x20"\x7f]', plain):
        return plain
    return (
        b'"' + re.sub(rb'[\x00-\x1f"\\\x7f]', lambda found: b"\\%03o" % ord(found[0]), plain) + b'"'
    )


# --------------------------------------------------------------- git/run ----
# How avault runs git: every git that it starts is started here.
#
# A repository's own configuration names programs: to watch files, to sign, to convert and to
# compare them, to reach a remote. Nobody has to have agreed to them: a work tree may come out of an
# archive. So git runs here without hooks, pagers, editors and prompts, and reaches no remote unless
# it is told to fetch or to push: in a partial clone any command fetches what it lacks, by a program
# that the configuration names (gitremote-helpers(7), partial clone in git's documentation).


LIMIT = 60.0  # seconds for one run of git that nobody watches

# Git is to ask nobody, to run nothing that a repository names, to look nowhere else, and to say it in English.
ALWAYS = {
    "LC_ALL": "C",
    "GIT_EDITOR": ":",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",  # what is looked at is what is pushed
    "GIT_OPTIONAL_LOCKS": "0",
}
GIT_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS_REQUIRE": "never"}
REMOTE = {"fetch", "push"}  # the commands that may reach another repository
# what all others are given; git 2.44 knows the second
OFFLINE = {"GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1"}
GIT_SETTINGS = (
    "core.fsmonitor=false",
    "core.pager=cat",
    "commit.gpgSign=false",
    "push.gpgSign=false",
    "push.followTags=false",
    "push.recurseSubmodules=no",
    "fetch.recurseSubmodules=no",
    "submodule.recurse=false",
    "merge.autoStash=false",
    "merge.verifySignatures=false",
    "protocol.ext.allow=never",
    "i18n.commitEncoding=UTF-8",
    "i18n.logOutputEncoding=UTF-8",
)
# where the user's own settings are
OWN = frozenset({"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"})
NO_HOOKS = "core.hooksPath=/dev/null"
# how the user gets in, when the user watches
KEPT = frozenset({"GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS"})


def start_git(
    directory: str,
    words: tuple[str, ...],
    settings: tuple[str, ...] = (NO_HOOKS,),
    keep: Collection[str] = (),
    **more: Any,
) -> subprocess.Popen[bytes]:
    """Start git in a directory; raises Unavailable where there is none.

    Of the environment's GIT_ variables those stay that say where the user's own settings are, and those to `keep`.
    `more` is for Popen; `env` in it adds variables.
    """
    kept = OWN.union(keep)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in kept
    }
    environment |= ALWAYS | more.pop("env", {})
    if next(word for word in words if not word.startswith("-")) not in REMOTE:
        environment |= OFFLINE
    # By variables and not by -c, which takes `filter.a=b.clean=` for `filter.a` (git-config(1), git 2.31 and newer).
    environment |= {"GIT_CONFIG_COUNT": str(len(GIT_SETTINGS) + len(settings))}
    for number, setting in enumerate((*GIT_SETTINGS, *settings)):
        name, _, value = (
            setting.rpartition("=") if setting.startswith("filter.") else setting.partition("=")
        )
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    try:
        return subprocess.Popen(["git", *words], cwd=directory, env=environment, **pipes)
    except FileNotFoundError:
        if not os.path.isdir(directory):
            raise Unavailable(
                f"there is no directory {printable(directory)}", "see: avault status"
            ) from None
        raise Unavailable(
            "git is not installed", "install git, or go on without: the vault does not need it"
        ) from None


def run_git(
    directory: str,
    *words: str,
    data: bytes = b"",
    index: str | None = None,
    settings: tuple[str, ...] = (NO_HOOKS,),
    **more: Any,
) -> subprocess.CompletedProcess[bytes]:
    """Run git in a directory, with nobody to watch it; raises Unavailable where there is no git, TimedOut.

    It has a minute; then it and all that it has started is ended.
    """
    environment = GIT_QUIET | ({"GIT_INDEX_FILE": index} if index else {})
    process = start_git(directory, words, settings, env=environment, start_new_session=True, **more)
    try:
        output, errors = process.communicate(data, LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # git takes its locks with it
        try:
            process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise TimedOut(
            f"git {words[0]} did not end within {LIMIT:.0f} s", "try it by hand, to see why"
        ) from None
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def watch_git(
    directory: str, *words: str, settings: tuple[str, ...] = (NO_HOOKS,)
) -> subprocess.CompletedProcess[bytes]:
    """Run git with the user watching: what it says goes to stderr, and it may ask on a terminal for a password.

    It asks at the terminal itself (/dev/tty), not on stderr, which may carry what a remote says.
    """
    quiet = {
        name: value
        for name, value in GIT_QUIET.items()
        if name not in KEPT or name not in os.environ
    }
    environment = {} if sys.stdin.isatty() else quiet
    process = start_git(directory, words, settings, KEPT, env=environment, stdin=None)
    echo = threading.Thread(target=tell_git, args=(process.stderr,))
    echo.start()
    output = typing.cast("IO[bytes]", process.stdout).read()
    process.wait()
    echo.join()
    return subprocess.CompletedProcess(words, process.returncode, output, b"")


def tell_git(stream: IO[bytes]) -> None:
    """Show what git says, line by line and escaped; without its hints, which know nothing of ours."""
    with stream:
        for line in stream:
            text = line.decode(errors="backslashreplace").rstrip().expandtabs()
            if not text.startswith("hint: "):
                print(
                    "\n".join(printable(each, 1000) for each in text.split("\r")),
                    file=sys.stderr,
                    flush=True,
                )


def reason(errors: bytes) -> str:
    """What git says on stderr that it could not do, in a line, without a password that a URL may carry."""
    lines = [line for line in os.fsdecode(errors).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("warning: ", "hint: ", "To "))] or [
        "it does not say why"
    ]
    text = re.sub("^(fatal|error): ", "", re.sub(r"://[^\s'\"]*@", "://", lines[0]))
    return printable(text.rstrip("."))


# -------------------------------------------------------- git/repository ----
# The vault's git repository: what git knows of our files, and which state it is in.
#
# Git itself refuses a repository of somebody else's (safe.directory).


class Head(Fields, frozen=True, order=True):
    """The branch that is checked out, and its commit; None before the first."""

    branch: str
    commit: str | None


class IndexEntry(Fields, frozen=True, order=True):
    """A line of the index.

    `tag` as in `git ls-files -v`, the object, and the stage, 0 for a path without a conflict.
    """

    tag: str
    object: str
    stage: int


class Repository:
    """The work tree that a vault directory is in.

    `top`, `git_dir`, and the `paths` of our files from the top.

    Raises NoRepository, and Refused for one that git itself will not touch.
    """

    def __init__(self, directory: str) -> None:
        self.directory = os.path.realpath(directory)
        try:
            found = run_git(
                self.directory,
                "rev-parse",
                "--is-inside-work-tree",
                "--show-cdup",
                "--absolute-git-dir",
            )
        except Unavailable as error:
            raise NoRepository(error.message, error.hint) from None
        if b"dubious ownership" in found.stderr:
            raise Refused(
                "the repository belongs to another user, and git does not trust it",
                "if you do: git config --global --add safe.directory "
                + shlex.quote(self.directory),
            )
        if found.returncode and b"not a git repository" not in found.stderr:
            raise AvaultError(f"git: {reason(found.stderr)}", "see: git status")
        if not found.stdout.startswith(b"true\n"):
            around = shlex.quote(os.path.dirname(self.directory))
            raise NoRepository(
                f"{directory} is in no git repository's work tree",
                f"to have its history kept: git -C {around} init; then: avault sync",
            )
        _, up, git_dir = os.fsdecode(found.stdout).split("\n", 2)
        self.top = os.path.realpath(os.path.join(self.directory, up))
        self.git_dir = git_dir.removesuffix("\n")
        # Whoever can push could make the vault's directory look like a bare repository, whose
        # settings name programs.
        if os.path.realpath(self.git_dir) != os.path.realpath(find_git(self.directory) or ""):
            raise Refused(
                f"git would take {printable(self.git_dir)} for a repository of its own, "
                "and its settings with it",
                "who put HEAD and config there? Take them out of it",
            )
        self.paths = {
            name: os.path.relpath(os.path.join(self.directory, name), self.top) for name in NAMES
        }

    def run(
        self,
        *words: str,
        data: bytes = b"",
        index: str | None = None,
        settings: tuple[str, ...] = (),
    ) -> bytes:
        """What git prints; raises AvaultError with what it says."""
        done = run_git(self.top, *words, data=data, index=index, settings=(NO_HOOKS, *settings))
        if done.returncode:
            raise AvaultError(f"git {words[0]}: {reason(done.stderr)}", "see: git status")
        return done.stdout

    def line(self, *words: str) -> str | None:
        """The one line that git prints; None if it says no, or nothing."""
        done = run_git(self.top, *words)
        return os.fsdecode(done.stdout).removesuffix("\n") or None if not done.returncode else None

    @once
    def scoped_settings(self) -> list[tuple[str, str, str]]:
        """What git is set to.

        Scope, name and value, the last that is said of a name being the one that counts.
        """
        words = os.fsdecode(self.run("config", "-z", "--show-scope", "--list")).split("\0")[:-1]
        pairs = (
            (scope, entry.partition("\n"))
            for scope, entry in zip(words[::2], words[1::2], strict=True)
        )
        return [
            (scope, name, value if mark else "true")
            for scope, (name, mark, value) in pairs
            if scope != "command"
        ]

    @once
    def settings(self) -> dict[str, str]:
        """What git is set to, here and for the user."""
        return {name: value for _, name, value in self.scoped_settings}

    def forget_settings(self) -> None:
        """Look at the settings again when they are next asked for, as they are others now."""
        for name in ("scoped_settings", "settings"):
            self.__dict__.pop(name, None)

    def is_on(self, name: str, default: str = "true") -> bool:
        """Whether a setting is true; raises AvaultError for neither true nor false."""
        value = self.settings.get(name, default).lower()
        if value in ("true", "yes", "on", "1"):
            return True
        if value in ("false", "no", "off", "0", ""):
            return False
        raise AvaultError(f"git config {name} is neither true nor false", f"git config {name} true")

    def resolve(self, *names: str) -> list[str | None]:
        """The objects that these names are of, None for those that are of none."""
        told = self.run(
            "cat-file",
            "--batch-check=%(objectname)",
            data=os.fsencode("".join(name + "\n" for name in names)),
        )
        lines = os.fsdecode(told).splitlines()
        return [
            None if line == f"{name} missing" else line
            for name, line in zip(names, lines, strict=True)
        ]

    def head(self) -> Head:
        """What is checked out.

        Raises Refused for a commit that is on no branch, where the next one would be lost.
        """
        branch = self.line("symbolic-ref", "-q", "HEAD")
        if not branch:
            raise Refused("no branch is checked out (detached HEAD)", "git switch BRANCH")
        return Head(branch, *self.resolve(branch))

    def operation(self) -> str | None:
        """What git is in the middle of.

        A merge, a rebase and the like (gitrepository-layout(5)).
        """
        refs = [name for name in OPERATIONS if name.isupper()]
        found = [name for name, commit in zip(refs, self.resolve(*refs), strict=True) if commit]
        found += [
            name
            for name in OPERATIONS
            if name not in refs and os.path.lexists(os.path.join(self.git_dir, name))
        ]
        return OPERATIONS[found[0]] if found else None

    @once
    def ignored(self) -> set[str]:
        """Those of our files that the repository ignores and does not have."""
        # a path that begins with : would be something else
        asked = {"./" + path: path for path in self.paths.values()}
        words = ("--no-literal-pathspecs", "check-ignore", "-z", "--stdin")
        done = run_git(self.top, *words, data=os.fsencode("\0".join(asked) + "\0"))
        if done.returncode > 1:
            raise AvaultError(f"git check-ignore: {reason(done.stderr)}", "see: git status")
        return {asked[name] for name in os.fsdecode(done.stdout).split("\0")[:-1]}

    def index(self) -> dict[str, list[IndexEntry]]:
        """What the index has of our files."""
        entries: dict[str, list[IndexEntry]] = {}
        listed = self.run("ls-files", "-z", "-s", "-v", "--", *self.paths.values())
        for line in os.fsdecode(listed).split("\0")[:-1]:
            place, _, path = line.partition("\t")
            tag, _, name, stage = place.split(" ")
            entries.setdefault(path, []).append(IndexEntry(tag, name, int(stage)))
        return entries

    def tree(self, commit: str | None) -> dict[str, str]:
        """The objects of our files in a commit."""
        if not commit:
            return {}
        listed = os.fsdecode(
            self.run("ls-tree", "-z", "--full-tree", commit, "--", *self.paths.values())
        )
        lines = [line.partition("\t") for line in listed.split("\0")[:-1]]
        return {path: place.split(" ")[2] for place, _, path in lines}

    def is_file(self, commit: str, path: str) -> bool:
        """Whether a path is a file in a commit, and no link, directory or submodule."""
        return self.run("ls-tree", "-z", "--full-tree", commit, "--", path).startswith(b"100")

    def blob(self, name: str) -> bytes:
        """The content of an object; raises AvaultError."""
        return self.run("cat-file", "blob", name)

    def files(self, keep: bool = True) -> dict[str, str]:
        """Our files as they are on the disk, by path, each an object's name.

        Git has that object now if it is to `keep` it.

        No filter touches them. A .gitattributes that says more than ours is the user's to commit.
        """
        names = [
            name
            for name in NAMES
            if os.path.lexists(path := os.path.join(self.directory, name)) and is_regular(path)
        ]
        if (
            ATTRIBUTES in names
            and read_file(os.path.join(self.directory, ATTRIBUTES)) != GITATTRIBUTES
        ):
            names.remove(ATTRIBUTES)
        names = [name for name in names if self.paths[name] not in self.ignored]
        if not names:
            return {}
        paths = [self.paths[name] for name in names]
        objects = (
            self.run("hash-object", *(["-w"] if keep else []), "--no-filters", "--", *paths)
            .decode()
            .split()
        )
        return dict(zip(paths, objects, strict=True))

    def stage(self, paths: Iterable[str]) -> None:
        """Put files of ours into the index, before the branch has them.

        A commit of the user's must not take them back.

        Waits a little for another git's lock, and never removes it; raises Refused. Whoever writes
        an index compares files that have just been changed, whosesoever they are, and runs their
        filters: here they have none, and git looks again.
        """
        filters = [
            name
            for name in self.settings
            if re.fullmatch(r"filter\..*\.(clean|process|required)", name, re.DOTALL)
        ]
        settings = (NO_HOOKS, *(f"{name}=" for name in filters))
        data = os.fsencode("".join(path + "\0" for path in paths))
        end = time.monotonic() + LOCK_PATIENCE
        while (
            done := run_git(
                self.top, "update-index", "--add", "-z", "--stdin", data=data, settings=settings
            )
        ).returncode:
            if b"index.lock': File exists" not in done.stderr:
                raise AvaultError(f"git update-index: {reason(done.stderr)}", "see: git status")
            if time.monotonic() > end:
                lock = os.path.join(self.git_dir, "index.lock")
                raise Refused(
                    "another git holds the repository (index.lock)",
                    f"if none is running: rm {shlex.quote(lock)}",
                )
            time.sleep(0.1)


def is_regular(path: str) -> bool:
    """Whether a path is a file, and no link."""
    return stat.S_ISREG(os.lstat(path).st_mode)


# -------------------------------------------------------- git/committing ----
# How a commit of the vault is made.
#
# Our files, and no others, are committed. A commit is made with git's plumbing, of which no hook,
# filter, signing program that the repository names, editor or pager runs, and beside the index, so
# that what the user has staged stays staged.


def commit_files(repository: Repository, verified: Verified) -> str | None:
    """Commit our files, and no others, as they are on the disk: the commit, or None if it has them.

    Raises Refused where the repository is to be left alone, Tampered and Locked for what is not
    `verified`, and AvaultError.
    """
    for _ in range(3):
        if operation := repository.operation():
            raise Refused(f"{operation} is under way", UNDER_WAY_HINT)
        head, files = repository.head(), repository.files()
        refuse_marked(repository.index())
        files = dict(files.items() - repository.tree(head.commit).items())
        for name in NAMES:
            if repository.paths[name] in files:  # as git has it now, whatever becomes of the file
                verified.check(name, repository.blob(files[repository.paths[name]]))
        if not files:
            return None
        commit = make_commit(repository, head, files)
        repository.stage(files)
        moved = run_git(
            repository.top,
            "update-ref",
            "-m",
            MESSAGE,
            head.branch,
            commit,
            head.commit or "0" * len(commit),
        )
        if not moved.returncode:
            return commit
    raise Refused(f"the branch could not be moved: {reason(moved.stderr)}", "see: git status")


def refuse_marked(index: dict[str, list[IndexEntry]]) -> None:
    """Raise Refused where our files are in conflict, or git was told not to look at them."""
    for path, entries in index.items():
        if any(entry.stage for entry in entries):
            raise Refused(f"{path} is in conflict", "see: git status")
        if entries[0].tag.islower() or entries[0].tag == "S":
            mark = "skip-worktree" if entries[0].tag in "Ss" else "assume-unchanged"
            raise Refused(
                f"{path} is marked {mark}", f"git update-index --no-{mark} {shlex.quote(path)}"
            )


def make_commit(repository: Repository, head: Head, files: dict[str, str]) -> str:
    """A commit of these files on top of the head, that no branch has yet.

    Made in an index of its own.
    """
    with tempfile.TemporaryDirectory(prefix="avault-") as place:
        index, alone = os.path.join(place, "index"), ("core.splitIndex=false",)
        if head.commit:
            repository.run("read-tree", head.commit, index=index, settings=alone)
        lines = "".join(f"100644 {name}\t{path}\0" for path, name in files.items())
        repository.run(
            "update-index",
            "-z",
            "--index-info",
            data=os.fsencode(lines),
            index=index,
            settings=alone,
        )
        tree = (
            repository.run("write-tree", "--missing-ok", index=index, settings=alone)
            .decode()
            .strip()
        )
    changed = (
        ("diff-tree", "-r", "-z", "--no-renames", "--name-only", head.commit, tree)
        if head.commit
        else ()
    )
    names = repository.run(
        *(changed or ("ls-tree", "-r", "-z", "--full-tree", "--name-only", tree))
    )
    if others := files.keys() ^ set(os.fsdecode(names).split("\0")[:-1]):
        raise Refused(
            f"a commit of the vault would change {printable(min(others))}", "see: git status"
        )
    parents = ("-p", head.commit) if head.commit else ()
    words = (
        "commit-tree",
        *(["-S"] if is_signing(repository) else []),
        tree,
        *parents,
        "-m",
        MESSAGE,
    )
    done = run_git(repository.top, *words, settings=(NO_HOOKS, *commit_settings(repository)))
    if done.returncode and is_signing(repository):
        raise AvaultError(
            f"the commit could not be signed: {reason(done.stderr)}",
            "is the key at hand? Then: avault sync. "
            "To leave ours unsigned: git config avault.sign false",
        )
    if done.returncode:
        raise AvaultError(f"git commit-tree: {reason(done.stderr)}", "see: git status")
    return done.stdout.decode().strip()


def is_signing(repository: Repository) -> bool:
    """Whether our commits are signed.

    As git config avault.sign says, else as commit.gpgSign does.
    """
    return repository.is_on(
        "avault.sign" if "avault.sign" in repository.settings else "commit.gpgsign", default="false"
    )


def commit_settings(repository: Repository) -> tuple[str, ...]:
    """Settings for a commit: a name where git knows none of the user, and what signs, if wanted.

    What signs is the user's choice, in the user's or the system's configuration: a repository
    names no program.
    """
    settings = tuple(
        f"user.{name}={value}"
        for name, value in NOBODY.items()
        if not repository.settings.get(f"user.{name}")
    )
    if not is_signing(repository):
        return settings
    own = {
        name: value
        for scope, name, value in repository.scoped_settings
        if scope in ("system", "global")
    }
    gpg = own.get("gpg.openpgp.program") or own.get("gpg.program") or "gpg"
    programs = {
        "gpg.program": gpg,
        "gpg.openpgp.program": gpg,
        "gpg.x509.program": own.get("gpg.x509.program", "gpgsm"),
        "gpg.ssh.program": own.get("gpg.ssh.program", "ssh-keygen"),
        "gpg.ssh.defaultKeyCommand": own.get("gpg.ssh.defaultkeycommand", "false"),
    }
    return (
        *settings,
        "commit.gpgSign=true",
        *(f"{name}={value}" for name, value in programs.items()),
    )


# ------------------------------------------------------------ git/copies ----
# Asking the keyholder about copies of the vault.


@context
def copies(places: Places, *contents: bytes) -> Iterator[list[str]]:
    """Ciphertexts as files in the state directory, where the keyholder reads them, for the length of a `with`.

    Raises NoDaemon where there was never one, and AvaultError.
    """
    paths = [places.own(f"copy-{secrets.token_hex(8)}.enc") for _ in contents]
    try:
        for path, content in zip(paths, contents, strict=True):
            write_copy(places, path, content)
        yield [os.path.basename(path) for path in paths]
    finally:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def write_copy(places: Places, path: str, content: bytes) -> None:
    """Write a file that is not there yet (0600); raises NoDaemon where its directory is not, and AvaultError."""
    try:
        with open(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
        ) as file:
            file.write(content)
    except FileNotFoundError:
        raise explain_absence(places) from None
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}", "see: df, ls -ld") from None


def remove_old_copies(places: Places) -> None:
    """Remove copies that a killed command has left behind."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(places.state):
            if (
                re.fullmatch(r"copy-[0-9a-f]{16}\.enc", entry.name)
                and time.time() - entry.stat().st_mtime > 3600
            ):
                os.unlink(entry.path)


class Described(Fields, frozen=True, order=True):
    """What is in a copy of the vault: the groups, the generation, and the version of each GROUP/KEY."""

    groups: list[dict[str, Any]]
    generation: dict[str, int]
    versions: dict[str, str]
    conflicts: list[str]


def inspect(places: Places, data: bytes) -> Described:
    """Names, times and versions in a copy of the vault; raises Tampered, Locked, Unavailable."""
    with copies(places, data) as [name]:
        answer = ask_daemon(places, "inspect", file=name)
    keys = [
        (f"{group['name']}/{key['name']}", key)
        for group in answer["groups"]
        for key in group["keys"]
    ]
    return Described(
        answer["groups"],
        answer["generation"],
        {name: key["version"] for name, key in keys},
        [name for name, key in keys if key["conflict"]],
    )


def has_all(vault: Described, other: Described) -> bool:
    """Whether a copy of the vault has everything that another has."""
    return all(
        vault.generation.get(machine, 0) >= count for machine, count in other.generation.items()
    )


# ------------------------------------------------------------ git/driver ----
# git's merge driver and diff filter, which avault is: what git is told, and whether it was.


def expected_settings() -> dict[str, str]:
    """What .git/config is to say: how avault.enc is merged and compared, whatever $PATH is."""
    merge, diff = (shlex.join(own_command("git", word, "--")) for word in ("merge", "diff"))
    return {
        "merge.avault.name": "avault: by key, through the daemon",
        "merge.avault.driver": merge.replace("%", "%%") + " %O %A %B %P",
        "merge.avault.recursive": "binary",
        "diff.avault.textconv": diff,
        "diff.avault.cachetextconv": "false",
    }


def is_set_up(repository: Repository) -> bool:
    """Whether git merges and compares our files as we want it to, and filters them by nothing."""
    expected = expected_settings()
    if not all(
        is_same_command(repository.settings.get(name, ""), value)
        for name, value in expected.items()
    ):
        return False
    raw = {
        "text": "unset",
        "filter": "unset",
        "ident": "unset",
        "working-tree-encoding": "unspecified",
    }
    rules = {
        (path, name, value) for path in repository.paths.values() for name, value in raw.items()
    }
    rules |= {(repository.paths[name], "merge", "avault") for name in (VAULT, RECOVERY, HINTS)}
    rules |= {(repository.paths[VAULT], "diff", "avault")}
    asked = repository.run(
        "check-attr", "-z", *raw, "merge", "diff", "--", *repository.paths.values()
    )
    words = os.fsdecode(asked).split("\0")[:-1]
    return rules <= set(zip(words[::3], words[1::3], words[2::3], strict=True))


def set_up(repository: Repository) -> None:
    """Tell git how our files are merged and compared.

    Other lines of its files stay. Raises AvaultError.

    The settings come first: for a driver that it does not know, git merges line by line.
    """
    for name, value in expected_settings().items():
        repository.run("config", "--local", "--replace-all", name, value)
    repository.forget_settings()
    path = os.path.realpath(
        os.path.join(
            repository.top,
            repository.line("rev-parse", "--git-path", "info/attributes") or "",
        )
    )
    # `-working-tree-encoding` would be an error (gitattributes(5)).
    rules = {
        name: quote_pattern(repository.paths[name])
        + b" -text -filter -ident !working-tree-encoding"
        for name in NAMES
    }
    kinds = {
        VAULT: b" merge=avault diff=avault",
        RECOVERY: b" merge=avault",
        HINTS: b" merge=avault",
        ATTRIBUTES: b"",
    }
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o644
        before = read_file(path).splitlines() if os.path.exists(path) else []
        lines = [line for line in before if not line.startswith(tuple(rules.values()))]
        # the last line that fits is the one that counts
        lines += [rules[name] + kinds[name] for name in NAMES]
        write_file(path, b"".join(line + b"\n" for line in lines))
        os.chmod(path, mode)
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}", "whose file is it?") from None
    if not is_set_up(repository):
        raise AvaultError(
            "git merges the vault by other rules than avault's",
            f"look into {path} and .git/config",
        )


def is_same_command(text: str, expected: str) -> bool:
    """Whether a setting is what is expected, by any name of an interpreter that is there."""
    try:
        found, wanted = shlex.split(text), shlex.split(expected)
    except ValueError:
        return False
    return found == wanted or (
        found[1:] == wanted[1:] != [] and os.path.isabs(found[0]) and os.access(found[0], os.X_OK)
    )


# ----------------------------------------------------------- git/history ----
# avault history, restore: looking back.


CHANGE_SIGNS = {"added": "+", "changed": "~", "deleted": "-", "conflicts": "!"}


class Change(Fields, frozen=True, order=True):
    """A commit that changed the vault: the keys that it changed, of each of KINDS, or why that cannot be told."""

    commit: str
    time: str
    author: str
    is_merge: bool
    keys: dict[str, list[str]]
    problem: str | None

    def about(self, group: str, key: str | None) -> Change | None:
        """What of it is about one group, or one key of it; None if nothing is."""

        def is_meant(name: str) -> bool:
            return name == f"{group}/{key}" if key else name.startswith(group + "/")

        keys = {
            kind: [name for name in names if is_meant(name)] for kind, names in self.keys.items()
        }
        return dataclasses.replace(self, keys=keys) if any(keys.values()) else None

    def render(self) -> str:
        """It, for a person."""
        lines = [
            f"{self.commit[:12]}  {self.time}  {printable(self.author)}"
            + ("  (merge)" if self.is_merge else "")
        ]
        lines += [
            f"  {CHANGE_SIGNS[kind]} {name}" for kind, names in self.keys.items() for name in names
        ]
        lines += [f"    {self.problem}"] if self.problem else []
        return "".join(line + "\n" for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """It, as --json prints it."""
        about = {
            "commit": self.commit,
            "time": self.time,
            "author": self.author,
            "merge": self.is_merge,
        }
        return {**about, **self.keys, "problem": self.problem}


class History:
    """The commits of a repository that changed its vault, read through the keyholder, the latest first."""

    def __init__(self, repository: Repository, places: Places) -> None:
        self.repository, self.places = repository, places
        self.known: dict[str, Described | AvaultError] = {}  # by commit

    def changes(self) -> Iterator[Change]:
        """Each commit with what it changed; raises Locked, Unavailable, NotFound where there is no commit."""
        if not self.repository.line("rev-parse", "-q", "--verify", "HEAD^{commit}"):
            raise NotFound("the repository has no commit yet", "the first is made by: avault sync")
        path = self.repository.paths[VAULT]
        listed = self.repository.run(
            "rev-list", "--parents", "--format=%ct %an", "HEAD", "--", path
        )
        lines = iter(listed.decode("utf-8", "replace").split("\n")[:-1])
        for line in lines:
            _, commit, *parents = line.split(" ")
            seconds, _, author = next(lines).partition(" ")
            yield Change(
                commit,
                render_time(int(seconds)),
                author,
                len(parents) > 1,
                *self.compare(commit, parents),
            )

    def compare(self, commit: str, parents: list[str]) -> tuple[dict[str, list[str]], str | None]:
        """What a commit did that none of its parents had, of each of KINDS; or the problem."""
        keys: dict[str, list[str]] = {kind: [] for kind in CHANGE_SIGNS}
        vault = self.describe(commit)
        if isinstance(vault, AvaultError):
            return keys, vault.message
        before = [
            found
            for parent in parents
            if not isinstance(found := self.describe(parent), AvaultError)
        ]
        if len(before) < len(parents):
            return keys, "what was before does not open, so what changed is unknown"
        for name in sorted({name for found in (vault, *before) for name in found.versions}):
            old, new = [found.versions.get(name) for found in before], vault.versions.get(name)
            if new and not any(old):
                keys["added"].append(name)
            elif new and new not in old:
                keys["changed"].append(name)
            elif not new and all(old):
                keys["deleted"].append(name)
            if name in vault.conflicts and not any(name in found.conflicts for found in before):
                keys["conflicts"].append(name)
        return keys, None

    def describe(self, commit: str) -> Described | AvaultError:
        """What is in the vault of a commit, or why it does not open."""
        if commit not in self.known:
            found = self.repository.tree(commit).get(self.repository.paths[VAULT])
            try:
                self.known[commit] = (
                    inspect(self.places, self.repository.blob(found))
                    if found
                    else Described([], {}, {}, [])
                )
            except (Locked, Unavailable):
                raise
            except AvaultError as error:
                self.known[commit] = error
        return self.known[commit]


def need_directory(places: Places) -> None:
    """Raise NotFound where no vault can be; what git has checked out may be without one."""
    if not os.path.isdir(places.dir):
        need_vault(places)


@command("history", argument("group", required=False), option("-n", "--limit", type=int))
def cmd_history(terminal: Terminal, group: str | None, limit: int | None) -> int:
    """usage: avault history [GROUP[/KEY]] [-n N] [--json]

    What changed in the vault, by commit, the latest first: + added, ~ changed,
    - deleted, ! set on two machines. Names and times, never values; the vault
    has to be open. A version that does not open is named, and does not stop it.

      avault history openai
    """
    need_directory(terminal.places)
    about = split_name(group, None) if group is not None else None
    shown: list[Change] = []
    for change in History(Repository(terminal.places.dir), terminal.places).changes():
        if limit is not None and len(shown) >= limit:
            break
        part = change.about(*about) if about else change
        if part:
            shown.append(part)
            if not terminal.want_json:
                put(part.render())
    if group and not shown:
        raise NotFound(f"no commit changed {group}", "see: avault history")
    if terminal.want_json:
        put(
            json.dumps(
                {"commits": [change.to_dict() for change in shown]}, indent=2, ensure_ascii=False
            )
            + "\n"
        )
    return 0


def restore_unsaved(terminal: Terminal) -> int:
    """Have what is served written over an avault.enc that cannot be used."""
    if not terminal.ask("restore", unsaved=True)["needed"]:
        say("avault.enc is whole: there is nothing to write back")
    else:
        say(
            f"{terminal.places.file('avault.enc')} is what is served; what was there is {terminal.places.own('damaged.enc')}"
        )
    return 0


@command(
    "restore", argument("commit", required=False), argument("group", required=False), option("--key"),
    option("--unsaved", is_flag=True),
)  # fmt: skip
def cmd_restore(
    terminal: Terminal, commit: str | None, group: str | None, key: str | None, unsaved: bool
) -> int:
    """usage: avault restore COMMIT GROUP [--key KEY] [--json]
           avault restore --unsaved

    Sets a key, or all keys of a group, to what they were in a commit. That is a
    new write: what is there now stays in git's history, and keys that the group
    has got since stay. GROUP/KEY is short for GROUP --key KEY.
    --unsaved is for an avault.enc that is damaged, gone or too old while the vault
    is open: writes what is served in its place. What was there stays in the state
    directory, as damaged.enc.

      avault history openai
      avault restore 3f2a91c openai/API_KEY
    """
    if unsaved:
        if commit is not None:
            raise Usage(
                "--unsaved is about the whole vault, as it is served", "avault restore --unsaved"
            )
        return restore_unsaved(terminal)
    if commit is None:
        raise Usage(
            "COMMIT and GROUP are missing", "see: avault history, then: avault restore COMMIT GROUP"
        )
    if group is None:
        if re.fullmatch("[0-9a-f]{4,64}|HEAD.*", commit):
            raise Usage("GROUP is missing", f"avault restore {commit} GROUP, or GROUP/KEY")
        meant, _ = split_name(commit, key)
        raise Usage(
            f"COMMIT is missing: as of when is {printable(commit)} to be restored?",
            f"avault history {meant}",
        )
    need_directory(terminal.places)
    group, key = split_name(group, key)
    repository = Repository(terminal.places.dir)
    found = repository.line(
        "rev-parse", "-q", "--verify", "--end-of-options", f"{commit}^{{commit}}"
    )
    name = repository.tree(found).get(repository.paths[VAULT])
    if not found or not name:
        what = "has no vault" if found else "is no commit"
        raise NotFound(f"{printable(commit)} {what}", "see: avault history")
    with copies(terminal.places, repository.blob(name)) as [file]:
        try:
            restored = terminal.ask("restore", file=file, group=group, key=key)["restored"]
        except NotFound as error:
            raise NotFound(
                f"{error.message} in {found[:12]}", f"see: avault history {group}"
            ) from None
        except Tampered as error:
            raise Tampered(
                f"the vault of {found[:12]} does not open: {error.message}",
                "choose another: avault history",
            ) from None
    if terminal.want_json:
        put(json.dumps({"commit": found, "restored": restored}, indent=2) + "\n")
    else:
        say(f"restored {', '.join(restored)} as of {found[:12]}")
    return 0


# ---------------------------------------------------------- git/settling ----
# Both sides of a conflict, merged.


def merge_public(name: str, ours: bytes, theirs: bytes) -> None:
    """Merge nsec.enc or nip46.json, which needs no key.

    Ours stays, if both sides are for the same agent and operator.

    Each machine that recovers or pairs anew writes its own, and the operator's phone opens either.
    Raises Conflict.
    """
    fields = {
        RECOVERY: ("vault", "agent", "operator", "name"),
        HINTS: ("agent_npub", "signer_npub", "name"),
    }
    kinds = {RECOVERY: "nsec", HINTS: "hints"}
    if name not in kinds:
        raise Usage(f"not a file of the vault: {printable(name)}")
    one, other = (decode_file(kinds[name], data, name) for data in (ours, theirs))
    if differing := [field for field in fields[name] if one[field] != other[field]]:
        raise Conflict(
            f"{name} is another on both sides: {', '.join(differing)}",
            f"choose one: git checkout --ours or --theirs {name}",
        )


def settle_vault(places: Places, ours: bytes, theirs: bytes) -> None:
    """Merge both sides of a conflict into the vault that is served.

    Raises Conflict while it is locked or keys collide.
    """
    try:
        for side in (ours, theirs):
            served = inspect(places, read_file(places.file(VAULT), VAULT_LIMIT))
            if not has_all(served, inspect(places, side)):
                with copies(places, side) as [name]:
                    ask_daemon(places, "merge", theirs=name)
        conflicts = inspect(places, read_file(places.file(VAULT), VAULT_LIMIT)).conflicts
    except (Locked, Unavailable) as error:
        raise Conflict(
            f"avault.enc is in conflict, and {error.message}",
            "the next unlock merges it: avault unlock",
        ) from None
    if conflicts:
        many = "a key was" if len(conflicts) == 1 else f"{len(conflicts)} keys were"
        raise Conflict(
            f"{many} set on two machines; both values are in the vault",
            "see: avault list; settle with: avault set",
        )


def settle(repository: Repository, places: Places) -> bool:
    """Resolve conflicts that git has left in our files: True if there were some. Raises Conflict.

    Both sides of avault.enc are merged into the vault that is served, which is in the work tree.
    """
    index = repository.index()
    stages = {
        name: {entry.stage: entry.object for entry in index.get(repository.paths[name], [])}
        for name in NAMES[:3]
    }
    stages = {name: found for name, found in stages.items() if found.keys() - {0}}
    for name, found in stages.items():
        path = repository.paths[name]
        if 2 not in found or 3 not in found:
            raise Conflict(
                f"{path} was deleted on one side", "keep it: git add; or let it go: git rm"
            )
        ours, theirs = repository.blob(found[2]), repository.blob(found[3])
        if name == VAULT:
            settle_vault(places, ours, theirs)
        else:
            merge_public(name, ours, theirs)
        resolved = repository.files().get(path)
        if name != VAULT and resolved not in found.values():
            raise Conflict(
                f"{path} is of neither side", f"when it is right: git add {shlex.quote(path)}"
            )
        repository.stage([path])
    return bool(stages)


# ------------------------------------------------------------- git/merge ----
# avault git merge, git diff: two machines' work on the vault, by key.
#
# Git merges avault.enc through the keyholder, and compares its names instead of its bytes. It is
# told to in .git/config and .git/info/attributes, which no clone gets: there the .gitattributes that
# we commit makes it a conflict.


@command("git merge", argument("base"), argument("ours"), argument("theirs"), argument("path"))
def cmd_merge(terminal: Terminal, base: str, ours: str, theirs: str, path: str) -> int:
    """usage: avault git merge %O %A %B %P

    The merge driver, as git calls it (gitattributes(5)): merges the other side's
    vault into OURS, by key, through the daemon. No base is needed: each secret
    says which machine wrote it when. Exit code 1, and the names: a key was set on
    both sides, and both values are in the vault. Any other: nothing was changed.
    """
    directory, name = os.path.split(os.path.abspath(path))
    mine, others = read_file(ours, VAULT_LIMIT), read_file(theirs, VAULT_LIMIT)
    if name != VAULT:
        merge_public(name, mine, others)
        return 0
    places = Places(directory)
    try:
        with copies(places, mine, others) as [one, other]:
            answer = ask_daemon(places, "merge", ours=one, theirs=other)
        known = (
            {*inspect(places, mine).conflicts, *inspect(places, others).conflicts}
            if answer["conflicts"]
            else set()
        )
    except AvaultError as error:
        say(f"{path} is left in conflict, with both sides in git, as it could not be merged")
        if isinstance(error, (Locked, Unavailable)):
            error.hint = after_failure(places, mine)
        raise
    with open(ours, "wb") as file:
        file.write(answer["merged"].encode())
    conflicts = [each for each in answer["conflicts"] if each not in known]
    tell_conflicts(conflicts, Repository(directory).operation() if conflicts else None)
    return 1 if conflicts else 0


def tell_conflicts(names: list[str], operation: str | None = None) -> None:
    """Name the keys that were set on two machines, and how each is settled.

    In the middle of a rebase the daemon leaves the work tree alone, and serves what it had.
    """
    for name in names:
        say(f"conflict: two machines set {name}; the vault has both values")
    if names and operation:
        say(
            f"hint: git add avault.enc, and go on; then look: avault get {names[0]} --json; settle it: avault set {names[0]}"
        )
    elif names:
        say(
            f"hint: look: avault get {names[0]} --json; settle it: avault set {names[0]}; then: avault sync"
        )


def after_failure(places: Places, ours: bytes) -> str:
    """What brings the merge about that just failed as the vault was locked.

    In a merge the work tree has what this machine has seen last, so that the next unlock can merge the other side into
    it. In a rebase it has the other side, without our last writes, which does not open here.
    """
    with contextlib.suppress(AvaultError):
        pin = read_pin(places)
        if pin and pin["hash"] == sha256(ours).hex():
            return "avault unlock, which merges it"
    return "abort what you began (git rebase --abort), then avault unlock, then begin again"


@command("git diff", argument("file"))
def cmd_diff(terminal: Terminal, file: str) -> int:
    """usage: avault git diff FILE

    The diff filter, as git calls it (textconv in gitattributes(5)): a line for
    each key of a copy of the vault, with its times. Names, never values.
    """
    data = read_file(file, VAULT_LIMIT)
    problem = AvaultError("in no repository")
    for places in vaults_here():
        try:
            put("".join(line + "\n" for line in render_copy(inspect(places, data))))
            return 0
        except AvaultError as error:
            problem = error
    put(f"# avault: {printable(problem.message)}\nsha256 {sha256(data).hex()}\n")
    return 0


def vaults_here() -> list[Places]:
    """The vaults in the work tree that git has made the current directory."""
    listed = run_git(
        ".", "--no-literal-pathspecs", "ls-files", "-z", "--", f":(glob)**/{VAULT}"
    ).stdout
    return [
        Places(os.path.dirname(os.path.abspath(path)))
        for path in os.fsdecode(listed).split("\0")[:-1]
    ]


def render_copy(vault: Described) -> list[str]:
    """Lines that tell one state of the vault from another, each by itself; two writes in one second are two too."""
    lines = []
    for group in vault.groups:
        if group["note"]:
            lines.append(f"{group['name']}  # {printable(group['note'])}")
        for key in group["keys"]:
            mark = "  conflict: two machines set it" if key["conflict"] else ""
            write = sha256(key["version"].encode())[:4].hex()
            lines.append(
                f"{group['name']}/{key['name']}  created {key['created']}  updated {key['updated']}  write {write}{mark}"
            )
    return lines


# -------------------------------------------------------- git/publishing ----
# Where the vault's branch is published, and the push of what is ours.
#
# A push goes the way of the user's own `git push`: remotes, ssh and credential helpers are the
# repository's settings.


class Upstream(Fields, frozen=True, order=True):
    """Where a branch is published.

    Git's own copy of it here, its name for people, the remote, and its name there.
    """

    ref: str
    name: str
    remote: str
    branch: str


def find_upstream(repository: Repository, branch: str) -> Upstream:
    """Where a branch is published; raises Refused if nowhere."""
    fields = (
        "%(upstream)%00%(upstream:short)%00%(upstream:remotename)%00%(upstream:remoteref)"
        "%00%(push:remotename)"
    )
    short = branch.removeprefix("refs/heads/")
    found = repository.run("for-each-ref", f"--format={fields}", branch).decode().strip("\n")
    if not found:
        raise Refused(f"the branch {short} has no commit yet", "avault sync")
    ref, name, remote, there, push = found.split("\0")
    if not ref or not there or remote == ".":
        remotes = repository.run("remote").decode().split()
        likely = "origin" if "origin" in remotes else shlex.quote(remotes[0]) if remotes else None
        hint = (
            f"git push -u {likely} {shlex.quote(short)}" if likely else "git remote add origin URL"
        )
        raise Refused(f"the branch {short} has no upstream", hint)
    if push and push != remote:
        raise Refused(f"the branch {short} is pushed elsewhere than it is pulled from", "git push")
    return Upstream(ref, name, remote, there)


def is_fetched(repository: Repository, upstream: Upstream) -> bool:
    """Whether there is an upstream's branch here.

    Not before the first fetch, and not as long as its remote is empty.
    """
    return bool(repository.line("rev-parse", "-q", "--verify", f"{upstream.ref}^{{commit}}"))


def new_commits(repository: Repository, upstream: Upstream, commit: str) -> list[str]:
    """The commits that a push of `commit` would publish."""
    without = [f"^{upstream.ref}"] if is_fetched(repository, upstream) else []
    return repository.run("rev-list", commit, *without, "--").decode().split()


def are_ours(repository: Repository, commits: list[str]) -> bool:
    """Whether commits are ours, all of them.

    With our message, of one parent, touching nothing but our files.
    """
    # git drops a line without an end
    names = "".join(commit + "\n" for commit in commits).encode()
    stream = repository.run("cat-file", "--batch", data=names)
    for _ in commits:
        header, _, stream = stream.partition(b"\n")
        size = int(header.split()[2])
        head, _, message = stream[:size].partition(b"\n\n")
        if message != MESSAGE.encode() + b"\n" or head.count(b"\nparent ") > 1:
            return False
        stream = stream[size + 1 :]
    touched = repository.run(
        "diff-tree",
        "--stdin",
        "-r",
        "-z",
        "--root",
        "--no-renames",
        "--no-commit-id",
        "--name-only",
        data=names,
    )
    return set(os.fsdecode(touched).split("\0")) <= {*repository.paths.values(), ""}


def push_commits(repository: Repository) -> dict[str, str | None]:
    """Push the branch if all that would be published is ours.

    What became of it: push, push_reason, hint.
    """
    if not repository.is_on("avault.push"):
        return {"push": "off", "push_reason": "git config avault.push is false"}
    try:
        head = repository.head()
        upstream = find_upstream(repository, head.branch)
        if not is_fetched(repository, upstream):
            raise Refused(f"{upstream.name} was never fetched", "avault sync")
    except Refused as error:
        return {
            "push": "none",
            "push_reason": error.message,
            "hint": error.hint if repository.run("remote") else None,
        }
    commits = new_commits(repository, upstream, head.commit) if head.commit else []
    if not commits or not head.commit:
        return {"push": "clean"}
    if not are_ours(repository, commits):
        why = f"commits that are not avault's would be published with it to {upstream.name}"
        return {"push": "refused", "push_reason": why, "hint": "avault sync"}
    ssh = (
        ()
        if "core.sshcommand" in repository.settings
        else ("core.sshCommand=ssh -o BatchMode=yes",)
    )
    words = push_words(upstream, head.commit)
    try:
        done = run_git(repository.top, *words, settings=(NO_HOOKS, *ssh))
    except TimedOut as error:
        return {"push": "failed", "push_reason": error.message, "hint": "avault sync"}
    if not done.returncode:
        return {"push": "pushed"}
    if is_behind(done.stdout):
        return {
            "push": "rejected",
            "push_reason": f"{upstream.name} has commits that are not here",
            "hint": "avault sync",
        }
    refused = re.search(rb"^!\t[^\t]*\t(.*)", done.stdout, re.MULTILINE)
    why = printable(refused[1].decode(errors="replace")) if refused else reason(done.stderr)
    return {"push": "failed", "push_reason": why, "hint": "avault sync"}


def push_words(upstream: Upstream, commit: str) -> tuple[str, ...]:
    """The push of this very commit, whatever the branch has become meanwhile."""
    return ("push", "--porcelain", "--", upstream.remote, f"{commit}:{upstream.branch}")


def is_behind(output: bytes) -> bool:
    """Whether a push was rejected because the other side has more."""
    return b"[rejected]" in output


# ------------------------------------------------------------ git/record ----
# avault git record: what happens by itself after every write.


def record(places: Places, given: dict[str, str] | None = None) -> dict[str, Any]:
    """Commit and push what was written, and merge what git could not while the vault was locked: what became of it.

    `state` is committed, clean, merged (only the merge's own commit is missing), conflict, ignored, off, no_repository,
    refused or failed; `push` is pushed, clean, none, off, refused, rejected or failed.
    """
    told: dict[str, Any] = dict.fromkeys(
        ("repository", "state", "reason", "commit", "push", "push_reason", "hint")
    )
    try:
        repository = Repository(places.dir)
        told["repository"] = repository.top
        # objects for those who read the others
        os.umask(0o777 & ~stat.S_IMODE(os.stat(repository.git_dir).st_mode) & 0o077)
        if repository.paths[VAULT] in repository.ignored:
            return told | {"state": "ignored", "reason": "the repository ignores avault.enc"}
        told |= set_up_quietly(repository)
        settled = settle(repository, places)
        operation = repository.operation()
        if operation and (
            settled or (operation == "a merge" and not repository.run("ls-files", "-z", "-u"))
        ):
            hint = "avault sync" if operation == "a merge" else "git status says how to go on"
            return told | {
                "state": "merged",
                "reason": f"{operation} is under way; the vault is merged in it",
                "hint": hint,
            }
        if not repository.is_on("avault.commit"):
            return told | {"state": "off", "reason": "git config avault.commit is false"}
        commit = commit_files(repository, Verified(places, given))
        told |= {"state": "committed" if commit else "clean", "commit": commit and commit[:12]}
        told |= push_commits(repository)
        if commit:
            with contextlib.suppress(TimedOut):
                # as `git commit` does
                run_git(repository.top, "maintenance", "run", "--auto", "--quiet")
    except NoRepository as error:
        told |= {"state": "no_repository", "reason": error.message}
    except AvaultError as error:
        state = {
            Refused: "refused",
            Conflict: "conflict",
            Tampered: "refused",
            Locked: "refused",
        }.get(type(error), "failed")
        told |= {"state": state, "reason": error.message, "hint": error.hint}
    return told


def set_up_quietly(repository: Repository) -> dict[str, str | None]:
    """Set up the merge driver where it is not; why it cannot be must not keep anything from being committed."""
    try:
        if not is_set_up(repository):
            set_up(repository)
    except AvaultError as error:
        return {"reason": f"no merge driver: {error.message}", "hint": error.hint}
    return {}


@command("git record", option("--verified", default="{}"))
def cmd_record(terminal: Terminal, verified: str) -> int:
    """usage: avault git record [--verified HASHES]

    Commits and pushes the vault's files, and says in JSON what became of it.
    The daemon runs this after every write; `avault status` shows what it said.

    Only avault.enc, nsec.enc, nip46.json and .gitattributes are committed, with a
    constant message; what else is staged stays so. Pushed is only what is ours.
    avault.enc and nsec.enc are committed only as the daemon has verified them: by
    the HASHES that it gives (a JSON object of file and SHA-256), or when asked.
    To switch it off: git config avault.commit false; git config avault.push false
    """
    os.nice(10)  # nobody waits for it
    remove_old_copies(terminal.places)
    try:
        given = {str(name): str(value) for name, value in json.loads(verified).items()}
    except (ValueError, AttributeError):
        raise Usage("--verified takes a JSON object", "see: avault git record --help") from None
    told = record(terminal.places, given)
    put(json.dumps(told) + "\n")
    return AvaultError.exit_code if told["state"] == "failed" else 0


def examine_repository(directory: str) -> dict[str, Any]:
    """What `doctor` says about git: facts, and a list of problems, each with what is wrong and what mends it.

    `repository` is None where there is none; then, and where it ignores the vault, nothing is wrong. Changes nothing.
    """
    names = "repository ignored branch operation committed commit push upstream unpublished merge_driver"
    facts: dict[str, Any] = dict.fromkeys(names.split())
    problems: list[AvaultError] = []
    try:
        repository = Repository(directory)
        facts["repository"] = repository.top
        facts["ignored"] = repository.paths[VAULT] in repository.ignored
        facts["commit"], facts["push"] = (
            repository.is_on("avault.commit"),
            repository.is_on("avault.push"),
        )
        if not facts["ignored"]:
            examine_commits(repository, facts, problems)
    except NoRepository:
        pass
    except AvaultError as error:
        problems.append(error)
    return {
        **facts,
        "problems": [{"problem": error.message, "hint": error.hint} for error in problems],
    }


def examine_commits(
    repository: Repository, facts: dict[str, Any], problems: list[AvaultError]
) -> None:
    """What `examine` says of a repository that keeps the vault; raises what keeps it from keeping it."""
    facts["merge_driver"] = is_set_up(repository)
    if not facts["merge_driver"]:
        problems.append(AvaultError("git does not merge the vault by key", "avault doctor --fix"))
    if operation := repository.operation():
        facts["operation"] = operation
        raise Refused(f"{operation} is under way, so nothing is committed", UNDER_WAY_HINT)
    head = repository.head()
    facts["branch"] = head.branch.removeprefix("refs/heads/")
    refuse_marked(repository.index())
    facts["committed"] = (
        repository.files(keep=False).items() <= repository.tree(head.commit).items()
    )
    if facts["commit"] and not facts["committed"]:
        problems.append(AvaultError("what is on the disk is not committed", "avault sync"))
    if facts["push"] and repository.run("remote"):
        upstream = find_upstream(repository, head.branch)
        facts["upstream"] = upstream.name
        facts["unpublished"] = (
            len(new_commits(repository, upstream, head.commit)) if head.commit else 0
        )
        if facts["unpublished"]:
            problems.append(
                AvaultError(
                    f"{facts['unpublished']} commit(s) are not published to {upstream.name}",
                    "avault sync",
                )
            )


# -------------------------------------------------------------- git/sync ----
# avault sync: fetch, merge and push.


@command("sync")
def cmd_sync(terminal: Terminal) -> int:
    """usage: avault sync [--json]

    Brings the vault's repository level with its upstream: commits the vault,
    fetches, merges and pushes. Commits that are not avault's are pushed with it,
    past your pre-push hook. What two machines have set is merged by key; needs
    the vault open if both have. Where both set the same key it stops and names
    it: settle it (avault set) and sync again. Your own changes stay as they are;
    if they are in the way of the merge, git says so and nothing is merged.

      avault sync
    """
    need_vault(terminal.places)
    repository = Repository(terminal.places.dir)
    if repository.paths[VAULT] in repository.ignored:
        raise Refused("the repository ignores avault.enc", "see: git check-ignore -v avault.enc")
    operation = repository.operation()
    if operation and operation != "a merge":
        raise Refused(f"{operation} is under way", UNDER_WAY_HINT)
    if not is_set_up(repository):
        set_up(repository)
    told: dict[str, Any] = {
        "repository": repository.top,
        "upstream": None,
        "commit": None,
        "merged": 0,
        "pushed": 0,
    }
    settle(repository, terminal.places)
    conclude_merge(repository)
    if repository.is_on("avault.commit"):
        commit = commit_files(repository, Verified(terminal.places))
        told["commit"] = commit and commit[:12]
    if repository.run("remote"):
        upstream = find_upstream(repository, repository.head().branch)
        told["upstream"] = upstream.name
        exchange_commits(repository, upstream, terminal.places, told)
    told["conflicts"] = served_conflicts(terminal)
    with contextlib.suppress(AvaultError):
        terminal.ask("record")  # so that `status` says how it is now
    tell_conflicts(told["conflicts"])
    if terminal.want_json:
        put(json.dumps(told, indent=2) + "\n")
    elif told["upstream"]:
        done = [f"{word} {told[word]} commit(s)" for word in ("merged", "pushed") if told[word]]
        say(f"{' and '.join(done) or 'nothing to do'}: level with {printable(told['upstream'])}")
    else:
        say(
            f"{'committed' if told['commit'] else 'nothing to do'}: there is no remote to be level with"
        )
    return 0


def exchange_commits(
    repository: Repository, upstream: Upstream, places: Places, told: dict[str, Any]
) -> None:
    """Fetch, merge and push until both sides have the same, and count it; raises Unavailable, and what merging raises."""
    for _ in range(3):
        if watch_git(
            repository.top, "fetch", "--no-recurse-submodules", "--", upstream.remote
        ).returncode:
            raise Unavailable(
                f"cannot fetch from {upstream.remote}",
                "git says why above; the vault itself is written",
            )
        if is_fetched(repository, upstream):  # an empty remote has nothing to merge
            told["merged"] += merge_upstream(repository, upstream, places)
        pushed = publish(repository, upstream)
        if pushed is not None:
            told["pushed"] = pushed
            return
    raise Unavailable(
        f"{upstream.name} changes faster than it can be merged", "try again: avault sync"
    )


def conclude_merge(repository: Repository) -> None:
    """Commit a merge of the upstream in which nothing is in conflict any more; raises Refused for anything else."""
    other = repository.line("rev-parse", "-q", "--verify", "MERGE_HEAD")
    if not other:
        return
    upstream = find_upstream(repository, repository.head().branch)
    is_upstreams = not run_git(
        repository.top, "merge-base", "--is-ancestor", other, upstream.ref
    ).returncode
    unmerged = repository.run("ls-files", "-z", "-u")
    if not is_upstreams or unmerged:
        raise Refused("a merge is under way", UNDER_WAY_HINT)
    words = ("commit", "-q", "--no-edit", "--no-verify")
    done = watch_git(repository.top, *words, settings=(NO_HOOKS, *commit_settings(repository)))
    if done.returncode:
        raise AvaultError("the merge could not be committed", "see: git status")


def merge_upstream(repository: Repository, upstream: Upstream, places: Places) -> int:
    """Merge what was fetched: how many commits there were. Raises Locked, Conflict and AvaultError."""
    count = int(repository.run("rev-list", "--count", f"HEAD..{upstream.ref}", "--"))
    if not count:
        return 0
    base = repository.line("merge-base", "HEAD", upstream.ref)
    vault = repository.paths[VAULT]
    before, ours, theirs = (
        repository.tree(commit).get(vault) for commit in (base, "HEAD", upstream.ref)
    )
    if len({before, ours, theirs}) == 3 and ask_daemon(places, "status")["state"] != "unlocked":
        raise Locked(
            "both sides have written to the vault, which is locked",
            "avault unlock, then avault sync",
        )
    if before and ours and not repository.is_file(upstream.ref, vault):
        raise Tampered(
            f"{upstream.name} has no avault.enc any more, and yours would go with it",
            f"nothing was merged. To keep yours: git merge -s ours {shlex.quote(upstream.name)}; then: avault sync",
        )
    if theirs and theirs != ours:
        verify_incoming(repository, upstream, places, repository.blob(theirs))
    words = (
        "merge",
        "-q",
        "--no-edit",
        "--no-stat",
        "--ff",
        "--no-verify",
        "-m",
        MERGE_MESSAGE,
        upstream.ref,
    )
    done = watch_git(repository.top, *words, settings=(NO_HOOKS, *commit_settings(repository)))
    if done.returncode:
        unmerged = os.fsdecode(
            repository.run("diff", "-z", "--name-only", "--diff-filter=U")
        ).split("\0")[:-1]
        if others := [path for path in unmerged if path not in repository.paths.values()]:
            named = printable(", ".join(others))
            raise Conflict(
                f"conflicts in file(s) of yours: {named}",
                "resolve them, git add, git commit, then: avault sync",
            )
        if not unmerged:
            for line in os.fsdecode(done.stdout).splitlines():
                say(printable(line, 1000))
            raise AvaultError(
                f"git could not merge {upstream.name}", "git says why above; nothing was changed"
            )
        settle(repository, places)
        conclude_merge(repository)
    return count


def verify_incoming(
    repository: Repository, upstream: Upstream, places: Places, data: bytes
) -> None:
    """Open the vault of the other side before it takes the place of one that works; raises Tampered and Locked.

    What this machine has opened before works. Without that there is nothing to lose, and nothing to open the other with.
    """
    try:
        inspect(places, data)
    except (Locked, Unavailable):
        pin = read_pin(places)
        path = places.file(VAULT)
        if (
            pin
            and os.path.lexists(path)
            and pin["hash"] == sha256(read_file(path, VAULT_LIMIT)).hex()
        ):
            raise Locked(
                "what the other side has written is to be verified, and the vault is locked",
                "avault unlock, then avault sync",
            ) from None
    except Tampered as error:
        raise Tampered(
            f"the avault.enc of {upstream.name} does not open: {error.message}",
            f"nothing was merged. To keep yours: git merge -s ours {shlex.quote(upstream.name)}; then: avault sync",
        ) from None


def publish(repository: Repository, upstream: Upstream) -> int | None:
    """Push the branch: how many commits that were; None if the other side has more again. Raises Unavailable."""
    head = repository.head()
    commits = new_commits(repository, upstream, head.commit) if head.commit else []
    if not commits or not head.commit:
        return 0
    settings = (NO_HOOKS,) if are_ours(repository, commits) else ()
    done = watch_git(repository.top, *push_words(upstream, head.commit), settings=settings)
    if is_behind(done.stdout):
        return None
    if done.returncode:
        raise Unavailable(
            f"cannot push to {upstream.name}",
            "git says why above; what was merged is committed here",
        )
    return len(commits)


def served_conflicts(terminal: Terminal) -> list[str]:
    """The keys that two machines set, once the daemon has looked at what was merged; none while it is locked."""
    try:
        groups = terminal.ask("list")["groups"]
    except (Locked, Unavailable):
        return []
    return [
        f"{group['name']}/{key['name']}"
        for group in groups
        for key in group["keys"]
        if key["conflict"]
    ]


# --------------------------------------------------------- intake/dotenv ----
# The one reader of .env files: `import`, `audit` and `run --env-file` read a file alike.
#
# There is no standard. Where python-dotenv and npm's dotenv agree, that is what a line says. Where
# they differ, it is python-dotenv's reading, but that backticks are quotes as to npm's dotenv, and
# that \$ and \` in double quotes are what sh, docker compose and `avault export` mean by them; the
# remark of such a line says so. references/dotenv.md shows who reads what how.


NAME = r"[A-Za-z_][A-Za-z0-9_]*"


class Assignment(Fields, frozen=True):
    """One variable that a file sets, and the lines where it does.

    `value` is None where it cannot be known without running something. `problem` says why this assignment alone does
    not decide what the variable is. `remark` says what else reads the file differently. What cannot be read at all
    has no name.
    """

    line: int
    last: int
    name: str
    value: str | None = field(repr=False)
    problem: str = ""
    remark: str = ""
    exported: bool = True


class Lines:
    """Tells the line, from 1, of a position in a text."""

    def __init__(self, text: str) -> None:
        self.ends = [match.start() for match in re.finditer("\n", text)]

    def at(self, position: int) -> int:
        """The line of the character at `position`; the end of a line belongs to it."""
        return bisect.bisect_left(self.ends, position) + 1


def is_dos(text: str) -> bool:
    """Whether every line of a text ends as in Windows."""
    return "\r\n" in text and not re.search(r"(?<!\r)\n", text)


START = regex(r"[ \t]*(?:export[ \t]+)?([^=\s#'\"]+)[ \t]*=([ \t]*)")
QUOTED = regex(r"""(?s)'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)"|`([^`]*)`""")
REST = regex(r"[ \t]*(?:#[^\n]*?)?(\r?(?:\n|\Z))")
BARE_NAME = regex(rf"\s*({NAME})\s*")
PUBLIC_NAME = regex(r"[A-Z]+[0-9]*([_.-][A-Z0-9]+)*|[a-z]+[0-9]?([_.-][a-z]+[0-9]?)+")
C_ESCAPES = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
DOTENV_ESCAPES = {**C_ESCAPES, **{c: c for c in "\\'\"$`"}}

REFERS = "it refers to another variable"
NO_VALUE = "it is a name without a value"
NO_KEY = "it is not a key name"
# problems of a line that is left where it is; any other is an error
LEFT = frozenset((REFERS, NO_VALUE, NO_KEY))
BACKTICKS = "backticks are quotes to npm's dotenv, and to others not"
SINGLE_ESCAPES = r"\\ and \' are escapes to python-dotenv in single quotes, and to others not"
DOUBLE_ESCAPES = (
    r"in double quotes npm's dotenv knows no escape but \n and \r, python-dotenv neither \$ nor \`"
)
CARRIAGE_RETURN = (
    "a carriage return stays in it, which python-dotenv and npm's dotenv take for the end of a line"
)
QUOTED_REFERENCE = "python-dotenv puts another variable's value for ${NAME} in single quotes and backticks too, and others do not"
DOLLAR = "a $ begins a variable to docker compose and others, and not to python-dotenv"
HASH = "a # ends the value to npm's dotenv, and to others not"
ODD_SPACE = "the odd white space around it belongs to the value for some, and for others not"
NOT_FOR_SHELLS = (
    "quotes and backslashes belong to the value, but not to a shell that reads this line"
)
TWO_EXPORTS = "a shell that reads this line exports more than one variable"


def parse_dotenv(text: str) -> list[Assignment]:
    """The variables of a .env file, in order; a line that is none has a problem, and no name that may be a secret."""
    text = text.removeprefix("\ufeff")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # as old as that
    lines, at, found = Lines(text), 0, []
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        if re.fullmatch(rf"\s*(?:#.*|export[ \t]+{NAME}\s*)?", line):
            at = end + 1
            continue
        name = START.match(text, at, end)
        if name:
            made, at = read_assignment(text, name, end, lines)
        else:
            made, at = read_bare(line, lines.at(at)), end + 1
        found.append(made)
    return found


def read_bare(line: str, number: int) -> Assignment:
    """A line that assigns nothing. A word alone is a name to docker, and may be a piece of a secret: few are repeated."""
    word = BARE_NAME.fullmatch(line)
    if not word:
        return Assignment(number, number, "", None, "not KEY=value")
    is_public = word[1].isupper() and PUBLIC_NAME.fullmatch(word[1])
    return Assignment(number, number, word[1] if is_public else "", None, NO_VALUE)


def read_assignment(
    text: str, name: re.Match[str], end: int, lines: Lines
) -> tuple[Assignment, int]:
    """The assignment whose name was found, and where the next line begins. `end` is the end of this one."""
    line, start = lines.at(name.start()), name.end()

    def made(value: str | None, last: int, problem: str = "", remark: str = "") -> Assignment:
        return Assignment(
            line, lines.at(last), name[1], None if problem else value, problem, remark
        )

    if not re.fullmatch(NAME, name[1]):
        is_public = PUBLIC_NAME.fullmatch(name[1]) and len(name[1]) <= 64
        return Assignment(line, line, name[1] if is_public else "", None, NO_KEY), end + 1
    quoted = QUOTED.match(text, start)
    rest = REST.match(text, quoted.end()) if quoted else None
    if quoted and rest:
        is_windows = rest[1] == "\r\n" or (rest[1] != "\n" and is_dos(text))
        return made(*read_quoted(quoted, is_windows)), rest.end()
    if quoted and text[start] != "`":
        end = text.find("\n", quoted.end())
        return made(
            None, quoted.end(), "text after the closing quote"
        ), end + 1 if end >= 0 else len(text)
    if text[start : start + 1] in ("'", '"') and start < end:
        return made(None, end, "the quote is not closed"), end + 1
    return made(*read_plain(text, name, end)), end + 1


def read_quoted(quoted: re.Match[str], is_windows: bool) -> tuple[str, int, str, str]:
    """The value in quotes, its last position, a problem and a remark.

    A line end in it is the file's where the assignment's own line ends in the same way, and the value's where it does not.
    """
    single, double, back = (
        piece and piece.replace("\r\n", "\n") if is_windows else piece for piece in quoted.groups()
    )
    problem = remark = ""
    if single is not None:
        value = re.sub(r"\\([\\'])", r"\1", single)
        remark = SINGLE_ESCAPES if value != single else ""
    elif double is not None:
        value = re.sub(
            r"\\(.)",
            lambda escape: DOTENV_ESCAPES.get(escape[1], escape[0]),
            double,
            flags=re.DOTALL,
        )
        problem, remark = read_references(re.sub(r"\\.", "", double, flags=re.DOTALL))
        if any(
            escape in DOTENV_ESCAPES.keys() - set("nr") for escape in re.findall(r"\\(.)", double)
        ):
            remark = DOUBLE_ESCAPES
    else:
        value, remark = back, BACKTICKS
    if double is None and read_references(value)[0]:
        remark = QUOTED_REFERENCE
    if any("\r" in piece for piece in (single, double, back) if piece):
        remark = CARRIAGE_RETURN
    return value, quoted.end() - 1, problem, remark


def read_plain(text: str, name: re.Match[str], end: int) -> tuple[str, int, str, str]:
    """The value without quotes, to the end of the line or of what is before a comment; as above."""
    start = name.end()
    value = (
        ""
        if name[2] and text[start : start + 1] == "#"
        else re.sub(r"\s+#.*", "", text[start:end]).rstrip()
    )
    if re.fullmatch(r"-----BEGIN [A-Z0-9 ]+-----", value):
        return value, end, "a value of several lines needs quotes", ""
    problem, remark = read_references(value)
    if value[:1] == "`":
        remark = BACKTICKS
    if "#" in value:
        remark = HASH
    bare = text[start:end].strip(" \t\r")
    if bare != bare.strip():
        remark = ODD_SPACE
    if not remark and re.search(r"[\\'\"]", value):
        remark = NOT_FOR_SHELLS
    if "export" in name[0][: name.start(1) - name.start()] and re.search(rf"\s{NAME}=", value):
        remark = TWO_EXPORTS
    if "\r" in value:
        remark = CARRIAGE_RETURN
    return value, end, problem, remark


def read_references(text: str) -> tuple[str, str]:
    """The problem of a value that refers to other variables, and the remark about one that does so to some readers.

    Only the program that reads the file knows which value ${NAME} has: such a line is left.
    """
    if re.search(r"\$\{[^}]*\}", text):
        return REFERS, ""
    return "", DOLLAR if "$" in text else ""


FOREIGN = {  # how it begins: what it is, and how to get at the value
    "encrypted:": ("dotenvx has encrypted it", "dotenvx get | avault import - --format json"),
    "ENC[": ("sops has encrypted it", "sops decrypt --output-type json FILE | avault import -"),
    "op://": ("it is a reference to 1Password", "op inject -i FILE | avault import -"),
    "{{ op://": ("it is a reference to 1Password", "op inject -i FILE | avault import -"),
    "pass://": (
        "it is a reference to Proton Pass",
        "put the value there, or: avault set GROUP/KEY",
    ),
    "ref+": ("it is a reference of vals", "vals eval -f FILE -o json | avault import -"),
    "vault:secret/": (
        "it is a reference to HashiCorp Vault",
        "put the value there, or: avault set GROUP/KEY",
    ),
    "$ANSIBLE_VAULT;": (
        "Ansible has encrypted it",
        "ansible-vault decrypt --output - FILE | avault import -",
    ),
    "avault://": ("it is a reference to a vault", "avault run --env-file FILE"),
}
BEFORE = "it stands there before; the last one counts"
EMPTY = "it is empty"


def foreign(value: str) -> tuple[str, str] | None:
    """What another tool made of a value, and how to get at the value; None for a value."""
    return next((said for start, said in FOREIGN.items() if value.startswith(start)), None)


def check_kept(value: str, place: str) -> str:
    """`value` if the vault can keep it and it is one; raises Usage that says where it stands."""
    if said := foreign(value):
        raise Usage(f"{place}: {said[0]}", said[1])
    try:
        return check_value(value)
    except Usage as error:
        raise Usage(f"{place}: {error.message}", error.hint) from None


def check_line(each: Assignment, takes_references: bool) -> None:
    """Raises Usage if a line can neither be taken nor left."""
    place = f"line {each.line}"
    if each.value is None:
        raise Usage(f"{place}: {each.problem}", "mend the line, or take it out; nothing is done")
    try:
        check_key(each.name)
    except Usage as error:
        raise Usage(f"{place}: not a key name", error.hint) from None
    if each.value and not (takes_references and each.value.startswith("avault://")):
        check_kept(each.value, f"{place}, {each.name}")


def read_dotenv(
    text: str, takes_references: bool = False
) -> tuple[dict[str, str], list[Assignment]]:
    """The variables of a .env file, empty ones too, and the lines about which there is something to say, without values.

    avault:// is another vault's unless `takes_references`. Raises Usage that names all the bad lines, never what they say.
    """
    variables: dict[str, str] = {}
    told: list[Assignment] = []
    bad: list[Usage] = []
    for each in parse_dotenv(text):
        if each.problem in LEFT:
            told.append(dataclasses.replace(each, value=None))
            continue
        try:
            check_line(each, takes_references)
        except Usage as error:
            bad.append(error)
            continue
        if variables.pop(each.name, None) is not None:
            told.append(dataclasses.replace(each, value=None, problem="", remark=BEFORE))
        variables[each.name] = each.value or ""
        if each.remark or not each.value:
            told.append(dataclasses.replace(each, value=None, problem="" if each.value else EMPTY))
    if bad:
        more = f"; and {len(bad) - 20:,} more" if len(bad) > 20 else ""
        hint = bad[0].hint if len(bad) == 1 else "mend the lines, or take them out; nothing is done"
        raise Usage("; ".join(error.message for error in bad[:20]) + more, hint)
    return variables, told


def tell_of_lines(told: list[Assignment], file: str = "") -> None:
    """Say what was left in a file, and warn of what others read differently."""
    for each in told:
        words = [file, f"line {each.line}" if each.line else "", each.name]
        place = ", ".join(word for word in words if word)
        if each.remark:
            warn(f"{place}: {each.remark}")
        else:
            say(f"left {place}: {each.problem}")


# ---------------------------------------------------- intake/shell_words ----
# The words of a shell's command, and what each becomes: quotes, escapes, expansions.


NEEDS_THE_SHELL = "it needs the shell"
DIFFERS = "shells read it differently"
NOT_TEXT = "it is not UTF-8 text"
SHELL_ESCAPED = regex(r"(?s)\\(.)")
SHELL_SINGLE = regex(r"'([^']*)'")
SHELL_BACKTICKS = regex(r"(?s)`(?:\\.|[^`\\])*`")
SHELL_PLAIN = regex(r"[^ \t\n;&|<>()\\'\"$`]+")
SHELL_DOUBLE = regex(r'[^"\\$`]+')
# after them a $ is a $, in every shell, quoted or not
LITERAL_DOLLAR = frozenset(" \t\n%,./:;&|<>)")
ANSI = regex(r"(?s)'((?:\\.|[^'\\])*)'")
ANSI_ESCAPE = regex(
    rb"""\\(?:([abefnrtvE\\'"?!])|([0-3]?[0-7]{1,2})|x([0-9A-Fa-f]{1,2})"""
    rb"""|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|C-([^\\]))"""
)
ANSI_LETTERS = dict(zip(b"abefnrtvE\\'\"?!", b"\a\b\x1b\f\n\r\t\v\x1b\\'\"?!", strict=True))


class Unclear(Exception):
    """A quote or a bracket without its end, or one about which shells differ; where it stands."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Word:
    """A word of a command: where it is, and its text without quotes.

    `problem` is why that is not all that it says, if so. `bare` is the same text with a " for
    whatever is quoted: there a shell looks for characters that mean something.
    """

    __slots__ = ("bare", "end", "problem", "start", "text")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.text = self.bare = self.problem = ""

    def add(self, text: str, quoted: bool = True) -> None:
        """Take a piece."""
        self.text += text
        self.bare += '"' if quoted else text

    def doubt(self, problem: str) -> None:
        """Note a problem, if it is the first."""
        self.problem = self.problem or problem

    def finish(self, end: int, is_zsh: bool) -> Word:
        """The word, with the problems that only the whole of it shows."""
        self.end = end
        value = self.bare.partition("=")[2]
        try:
            # of bytes that came one by one
            self.text = self.text.encode("utf-8", "surrogateescape").decode()
        except UnicodeDecodeError:
            self.doubt(NOT_TEXT)
        if value.startswith("~") or ":~" in value:
            self.doubt(NEEDS_THE_SHELL)
        if re.search(r"(^|:)=." if is_zsh else r"\{.*(,|\.\.).*\}", value, re.DOTALL):
            self.doubt(NEEDS_THE_SHELL if is_zsh else DIFFERS)  # zsh's =command; bash's braces
        return self


class WordReader:
    """Reads the words of a shell script, each from where it is in it (`at`).

    The commands of a substitution are no words: `read_group` reads them, from its parenthesis to
    the one that closes it.
    """

    def __init__(self, source: str, is_zsh: bool, read_group: Callable[[], None]) -> None:
        self.source, self.is_zsh, self.read_group = source, is_zsh, read_group
        self.is_dos = is_dos(source)
        self.at = 0

    def peek(self, count: int = 1) -> str:
        """The next characters."""
        return self.source[self.at : self.at + count]

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """What stands here, if the pattern fits; raises Unclear."""
        found = pattern.match(self.source, self.at)
        if not found:
            raise Unclear(self.at)
        self.at = found.end()
        return found

    def read_word(self) -> Word:
        """The word that begins here."""
        word = Word(self.at)
        while (c := self.peek()) and c not in " \t\n;&|<>()":
            self.read_piece(word)
        if self.is_dos and word.bare[-1:] == "\r":
            word.doubt("a carriage return belongs to it")
        return word.finish(self.at, self.is_zsh)

    def read_piece(self, word: Word) -> None:
        """A part of a word: quoted, expanded by the shell, or plain."""
        c = self.peek()
        if c == "\\":
            escaped = self.take(SHELL_ESCAPED)[1]
            if escaped != "\n":
                word.add(escaped)
        elif c == "'":
            word.add(self.take(SHELL_SINGLE)[1])
        elif c == '"':
            self.read_double(word)
        elif c == "$":
            self.read_dollar(word)
        elif c == "`":
            self.take(SHELL_BACKTICKS)
            word.doubt(NEEDS_THE_SHELL)
        else:
            word.add(self.take(SHELL_PLAIN)[0], quoted=False)

    def read_double(self, word: Word) -> None:
        """What is in double quotes."""
        opened = self.at
        self.at += 1
        word.add("")
        while (c := self.peek()) != '"':
            if not c:
                raise Unclear(opened)
            if c == "\\":
                escaped = self.take(SHELL_ESCAPED)[1]
                word.add("" if escaped == "\n" else escaped if escaped in '$`"\\' else c + escaped)
            elif c == "$":
                self.read_dollar(word, quoted=True)
            elif c == "`":
                self.read_piece(word)
            else:
                word.add(self.take(SHELL_DOUBLE)[0])
        self.at += 1

    def read_dollar(self, word: Word, quoted: bool = False) -> None:
        """A dollar: an expansion, which is skipped, or $'…', or itself."""
        following = self.peek(2)[1:]
        self.at += 1
        if following == "'" and not quoted:
            self.read_ansi(word)
        elif following in LITERAL_DOLLAR or following in (("'", '"') if quoted else ("",)):
            word.add("$")
        elif following == '"':
            word.doubt(DIFFERS)  # bash translates it
        else:
            word.doubt(NEEDS_THE_SHELL)
            if following == "(" and self.peek(2) != "((":
                self.read_group()
            elif following in ("(", "[", "{"):
                self.skip_brackets(following, {"(": ")", "[": "]", "{": "}"}[following], quoted)
            elif re.match(r"[\w@*#?$!-]", following):
                self.at += 1

    def read_ansi(self, word: Word) -> None:
        """$'…', as bash, zsh and newer shells read it; with the escapes that they read alike."""

        def decode(match: re.Match[bytes]) -> bytes:
            letter, octal, hexadecimal, short, long, control = match.groups()
            if letter and (letter != b"!" or self.is_zsh):
                return bytes([ANSI_LETTERS[letter[0]]])
            if control:  # as zsh prints control characters
                return b"\x7f" if control == b"?" else bytes([control[0] & 0x1F])
            code = int(octal, 8) if octal else int(hexadecimal or short or long or "0", 16)
            if not code:
                raise ValueError
            return bytes([code]) if octal or hexadecimal else chr(code).encode()

        raw = self.take(ANSI)[1].encode("utf-8", "surrogateescape")
        try:
            if b"\\" in ANSI_ESCAPE.sub(b"", raw):
                raise ValueError
            word.add(ANSI_ESCAPE.sub(decode, raw).decode("utf-8", "surrogateescape"))
        except (ValueError, OverflowError):
            word.doubt(DIFFERS)

    def skip_brackets(self, opening: str, closing: str, quoted: bool) -> None:
        """From an opening bracket to the one that closes it."""
        opened, depth = self.at, 0
        while c := self.peek():
            if c == "'" and quoted:
                raise Unclear(opened)  # in "${…}" it is a quote to some shells
            if c in "'\"\\`" or self.peek(2) in ("${", "$(", "$'"):
                self.read_piece(Word(self.at))
                continue
            self.at += 1
            depth += (c == opening and not (c == "{" and depth)) - (c == closing)
            if not depth:
                return
        raise Unclear(opened)


# ---------------------------------------------------------- intake/lines ----
# fish, systemd's units, pam_env: files of which a line sets a variable.


FISH_ESCAPES = {**C_ESCAPES, "e": "\x1b", "\n": ""}
FISH_ESCAPE = regex(
    r"(?s)\\(?:[xX]([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|([0-7]{1,3})|c(.)|(.))"
)
FISH_WORD = regex(
    r"""(?s)(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\\.|[^ \t\n'"\\;&|<>#()]|(?<=[^ \t\n])#)+"""
)


def unescape(text: str) -> str:
    """What the backslashes of fish and of systemd stand for."""

    def decode(match: re.Match[str]) -> str:
        byte, short, long, octal, control, letter = match.groups()
        if control or letter:
            return chr(ord(control) & 0x1F) if control else FISH_ESCAPES.get(letter, letter)
        code = int(octal, 8) if octal else int(byte or short or long, 16)
        if (byte or octal) and code > 127:  # one byte of a character's several
            return bytes([code & 255]).decode("utf-8", "surrogateescape")
        return "" if code > 0x10FFFF or 0xD800 <= code < 0xE000 else chr(code)

    return (
        FISH_ESCAPE.sub(decode, text)
        .encode("utf-8", "surrogateescape")
        .decode("utf-8", "surrogateescape")
    )


def read_fish_word(word: str) -> str | None:
    """A word of fish without its quotes; None where it needs the shell."""
    text = ""
    for piece in re.findall(
        r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:\\.|[^'"\\])+""", word, re.DOTALL
    ):
        if piece[0] == "'":
            text += re.sub(r"\\([\\'])", r"\1", piece[1:-1])
        elif "$" in re.sub(r"\\.", "", piece):
            return None
        elif piece[0] == '"':
            text += re.sub(r'\\(\n|[\\"$])', lambda escape: escape[1].strip("\n"), piece[1:-1])
        else:
            text += unescape(piece)
    return text


def parse_fish(text: str) -> list[Assignment]:
    """The variables that a fish script sets, wherever: `set -gx NAME value`, `export NAME=value`."""
    lines, found = Lines(text), []
    for match in re.finditer(
        r"(?:^|[;\n]|\b(?:and|or|begin|then)\b)[ \t]*(set|export)[ \t]+", text
    ):
        words, at = [], match.end()
        while word := FISH_WORD.match(text, at):
            words.append(word[0])
            at = re.compile(r"(?:[ \t]|\\\n)*").match(text, word.end()).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "(":
            words.append("$")
        options = list(itertools.takewhile(lambda word: word[0] == "-", words))
        name, *rest = words[len(options) :] or [""]
        if match[1] == "export":
            name, _, value = name.partition("=")
            rest = [value]
        values = [read_fish_word(word) for word in rest]
        exported = match[1] == "export" or any(
            re.match(r"-\w*x|--export", word) for word in options
        )
        if re.fullmatch(NAME, name) and values:
            known = None if None in values else " ".join(value or "" for value in values)
            line = lines.at(match.start(1))
            problem = NEEDS_THE_SHELL if known is None else ""
            found.append(
                Assignment(line, lines.at(at - 1), name, known, problem, exported=exported)
            )
    return found


def parse_fish_variables(text: str) -> list[Assignment]:
    """The universal variables that fish keeps in fish_variables."""
    return [
        Assignment(number, number, match[1], unescape(match[2]).replace("\x1e", " "))
        for number, line in enumerate(text.split("\n"), 1)
        if (match := re.fullmatch(rf"SETUVAR (?:--\w+ )*({NAME}):(.*)", line))
    ]


def parse_unit(text: str) -> list[Assignment]:
    """The variables in a systemd unit's Environment= lines, quoted as systemd.syntax(7) says."""
    lines, found = Lines(text), []
    for match in re.finditer(r"(?m)^[ \t]*Environment[ \t]*=((?:\\\n|[^\n])*)", text):
        for word in re.finditer(
            r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|[^ \t\r\n"'\\])+""", match[1], re.DOTALL
        ):
            plain = "".join(
                unescape(piece[1:-1] if piece[0] in "\"'" else piece)
                for piece in re.findall(
                    r"""(?s)"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?:\\.|[^"'\\])+""", word[0]
                )
            ).replace("%%", "%")
            name, equals, value = plain.partition("=")
            if equals and re.fullmatch(NAME, name):
                begin = match.start(1) + word.start()
                found.append(
                    Assignment(
                        lines.at(begin), lines.at(match.start(1) + word.end() - 1), name, value
                    )
                )
    return found


def parse_pam(text: str) -> list[Assignment]:
    """The variables of ~/.pam_environment: `NAME DEFAULT=value`, or `NAME=value` (pam_env.conf(5))."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(rf"\s*({NAME})\s+(?:DEFAULT|OVERRIDE)=(?:\"([^\"]*)\"|(\S*))", line)
        if match:
            value = match[2] or match[3] or ""
            known = None if "${" in value else value
            found.append(
                Assignment(
                    number, number, match[1], known, NEEDS_THE_SHELL if known is None else ""
                )
            )
    return found or parse_dotenv(text)


# ---------------------------------------------------------- intake/looks ----
# What looks like a secret.
#
# A variable with one of these words in its name, a token that shows by its beginning what it is, and
# what seems to come from a random number generator.


SECRET_WORDS = frozenset(
    """
    KEY KEYS APIKEY TOKEN TOKENS SECRET SECRETS PASSWORD PASSWD PASS PASSPHRASE PWD PW PASSCODE PIN CREDENTIAL CREDENTIALS AUTH
    PRIVATE PRIVKEY NSEC MNEMONIC SEED PAT DSN COOKIE BEARER JWT WEBHOOK SIGNATURE SALT
    """.split()
)
OPEN_WORDS = frozenset(
    "PUBKEY FILE PATH DIR SOCK SOCKET NAME HOST PORT ID TTL LENGTH SIZE TYPE MODE".split()
)
TOKEN_FORMS = regex(
    r"""(?x)(?<![A-Za-z0-9])(?:
    sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,} | [sr]k_(?:live|test)_[A-Za-z0-9]{16,} | whsec_[A-Za-z0-9]{24,} |
    gh[pousr]_[A-Za-z0-9]{30,} | github_pat_[A-Za-z0-9_]{30,} | glpat-[A-Za-z0-9_-]{20,} |
    xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[A-Za-z0-9-]{20,} | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[A-Za-z0-9_-]{35} |
    ya29\.[A-Za-z0-9_-]{20,} | nsec1[02-9ac-hj-np-z]{58} | ncryptsec1[02-9ac-hj-np-z]{50,} | AGE-SECRET-KEY-1[A-Z0-9]{50,} |
    npm_[A-Za-z0-9]{36} | hf_[A-Za-z0-9]{30,} | gsk_[A-Za-z0-9]{40,} | pypi-[A-Za-z0-9_-]{50,} | dop_v1_[a-f0-9]{64} |
    SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,} | shp(?:at|ss|ca|pa)_[a-fA-F0-9]{32} | r8_[A-Za-z0-9]{30,} |
    pplx-[A-Za-z0-9]{32,} | xai-[A-Za-z0-9]{40,} | tvly-[A-Za-z0-9-]{20,} | lin_api_[A-Za-z0-9]{30,} | ntn_[A-Za-z0-9]{40,} |
    eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,} | [0-9]{8,10}:[A-Za-z0-9_-]{35} |
    -----BEGIN\ (?:[A-Z]+\ )*PRIVATE\ KEY----- | [a-z][a-z0-9+.-]*://[^\s/:@"'$]*:[^\s/@"'$]+@
    )""",
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
    if TOKEN_FORMS.search(value) or is_random(value):
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


# ---------------------------------------------- intake/shell_assignments ----
# What a shell's command sets and exports, where it does nothing else.


CONDITIONAL = "it depends on the commands around it"


class Statement(Fields):
    """A command that sets or exports variables, and does nothing else."""

    first: int
    last: int
    sets: list[Assignment] = field(default_factory=list)
    # the name, and whether it surely runs
    exports: list[tuple[str, bool]] = field(default_factory=list)

    def names(self) -> set[str]:
        """The variables."""
        return {each.name for each in self.sets} | {name for name, _ in self.exports}


def take_assignments(words: list[Word], statement: Statement, lines: Lines, surely: bool) -> bool:
    """Fill a statement from a command's words, if that is what they are."""
    name = words[0].text
    if re.match(NAME + r"(\[.*\])?\+?=", words[0].bare, re.DOTALL):
        if not all(re.match(NAME + r"(\[.*\])?\+?=", word.bare, re.DOTALL) for word in words):
            return False  # of that one command
        exported, problem = False, ""
    elif name in ("export", "declare", "typeset", "readonly"):
        options = list(itertools.takewhile(lambda word: re.match("[-+].", word.bare), words[1:]))
        words = words[1 + len(options) :]
        letters = "".join(word.text[1:] for word in options if word.text != "--")
        exported = name == "export" or "x" in letters
        known = "" if name == "export" else "xgr"
        problem = (
            "it has options"
            if set(letters) - set(known) or any(word.text[0] == "+" for word in options)
            else ""
        )
        if not words:
            return False
    else:
        return False
    problem = problem or ("" if surely else CONDITIONAL)
    for word in words:
        take_assignment(word, statement, lines, problem, exported)
    return True


def take_assignment(
    word: Word, statement: Statement, lines: Lines, problem: str, exported: bool
) -> None:
    """One word: NAME=value, or the NAME of an export."""
    name, equals, value = word.text.partition("=")
    adds = re.fullmatch(f"({NAME})" + r"(\[.*\]|\+)", name, re.DOTALL)
    if adds:
        name, problem = adds[1], problem or "it adds to what is there"
    elif not re.fullmatch(NAME, name):
        name, problem = "", problem or word.problem or "it names no variable"
    if equals or problem:
        known = None if word.problem or adds or not name else value
        first, last = lines.at(word.start), lines.at(word.end - 1)
        statement.sets.append(
            Assignment(first, last, name, known, problem or word.problem, exported=exported)
        )
    if exported and name:
        statement.exports.append((name, not problem))


# ---------------------------------------------------------- intake/shell ----
# ~/.profile and its like, for sh, bash and zsh: read, never run.
#
# Its commands are read here, their words by intake/shell_words, and what they set by
# intake/shell_assignments.
#
# The grammar: POSIX.1-2017, volume 3, chapter 2; with what bash(1) and zshmisc(1) add. What a word
# becomes was tried in dash, bash, zsh and busybox; only what comes out of all of them alike, or is
# unknown to the older, is taken. Everything else is left in place and named, by file, line and
# variable.


SCRIPT = 16 << 20  # bytes of a file that is looked at


def to_text(data: bytes, path: str) -> str:
    """A file's bytes as text that can become the same bytes again; raises Usage."""
    if b"\0" in data:
        raise Usage(f"{path} is not a text file")
    return data.decode("utf-8", "surrogateescape")


OPERATOR = regex(r"<<<|<<-?|&>>|&>|>>|[<>]&|<>|>\||&&|\|\||\|&|;;&|;;|;&|;\||[;&|<>()\n]")
REDIRECTIONS = frozenset("<<< << <<- &> &>> >> <& >& <> >| < >".split())
OPENERS = {
    "if": "fi", "while": "done", "until": "done", "for": "done", "select": "done", "case": "esac",
    "{": "}", "foreach": "end",
}  # fmt: skip
CLOSERS = frozenset(OPENERS.values())
HEADS = frozenset("for select case foreach function".split())  # words follow that are no command
JOINERS = frozenset("then elif else do ! time".split())  # a command follows
GROUP = "()"  # an open parenthesis in the stack; among a command's words, a closed pair


class Script:
    """A shell script, read and not run.

    `statements` are the commands that only set variables, `busy` the lines on which anything
    else stands, `words` what other commands are given by name. A command surely runs when it
    stands at the top: in no if, loop, function, pipeline, after no && and after no exit. When
    the reading loses its way (a quote without an end, a parenthesis too many) nothing is sure
    any more.
    """

    def __init__(self, text: str, is_zsh: bool = False) -> None:
        self.source = text
        self.reader = WordReader(text, is_zsh, self.read_group)
        self.lines = Lines(text)
        self.stack: list[str] = []  # what has to close
        self.documents: list[tuple[str, bool]] = []  # here-documents that begin after this line
        self.statements: list[Statement] = []
        self.words: set[str] = set()
        self.busy: set[int] = set()
        # how many statements stand before the line that is being read, which shells run as a whole
        self.complete = 0
        self.lost = False
        self.unclear = 0  # the line of a quote without an end
        try:
            self.read_commands()
        except (Unclear, RecursionError) as error:
            position = error.position if isinstance(error, Unclear) else self.reader.at
            self.unclear = self.lines.at(position)
            self.busy |= set(range(self.unclear, len(self.lines.ends) + 2))

    def read_group(self) -> None:
        """From a parenthesis to the one that closes it.

        That is a substitution, a subshell, an array or a pattern.
        """
        opened = self.reader.at
        documents, self.documents = self.documents, []
        self.reader.at += 1
        self.stack.append(GROUP)
        depth = len(self.stack)
        self.read_commands()
        if len(self.stack) >= depth:
            raise Unclear(opened)
        self.documents = documents

    def read_commands(self) -> None:
        """Commands, to the end of the text or of the group that they are in."""
        depth = len(self.stack)
        words: list[Word] = []
        begin: int | None = None  # of the command, where an && or a | joins it to the one before
        listed = len(self.statements)  # where the list begins that && and || make
        plain = sure = True
        while True:
            self.skip_blanks()
            start = self.reader.at
            found = OPERATOR.match(self.source, start)
            operator = found[0] if found else ""
            if operator == "(":
                plain = self.read_parenthesis(words) and plain
            elif operator in REDIRECTIONS:
                self.reader.at += len(operator)
                self.read_redirection(operator)
                plain = False
            elif not operator and self.reader.peek():
                word = self.reader.read_word()
                if self.is_reserved(word, words):
                    words, plain = self.read_reserved(word, words), True
                else:
                    words.append(word)
            elif operator == "\n" and len(words) == 2 and words[1].bare == GROUP:
                self.reader.at += 1  # `name ()`: its body follows
            else:
                self.reader.at += len(operator)
                if words or operator != "\n":
                    done = self.end_command(
                        words, begin, start, plain and operator not in ("|", "|&"), sure
                    )
                    sure = sure and done if operator == "&&" else operator not in ("||", "|", "|&")
                    begin = start if operator in ("&&", "||", "|", "|&") else None
                    if operator == "&" and not self.stack:
                        self.doubt(self.statements[listed:])
                    listed = len(self.statements) if begin is None and not self.stack else listed
                words, plain = [], True
                if operator == "\n":
                    self.skip_documents()
                    self.complete = (
                        self.complete if self.stack or begin is not None else len(self.statements)
                    )
                elif operator == ")" and self.stack[-1:] != ["esac"]:
                    self.close(GROUP)
                    if len(self.stack) < depth:
                        return
                elif not operator:
                    if self.stack:
                        self.doubt(self.statements[self.complete :])
                    return

    def skip_blanks(self) -> None:
        """Blanks, continued lines, and a comment."""
        found = re.compile(r"(?:[ \t]|\\\n)*(?:#[^\n]*)?").match(self.source, self.reader.at)
        self.reader.at = found.end() if found else self.reader.at

    def read_parenthesis(self, words: list[Word]) -> bool:
        """Take what stands in parentheses as a word; whether it gives the word before an array."""
        group = Word(self.reader.at)
        if self.reader.peek(2) == "((" and (not words or words[0].bare == "for"):
            self.reader.skip_brackets("(", ")", False)
        else:
            self.read_group()
        if words and words[-1].end == group.start and words[-1].bare[-1:] == "=":
            words[-1].end = self.reader.at
            words[-1].doubt("it is an array")
            return True
        group.text = group.bare = GROUP
        group.end = self.reader.at
        words.append(group)
        return False

    def read_redirection(self, operator: str) -> None:
        """The word after a redirection; a here-document begins after the line."""
        self.skip_blanks()
        is_word = not OPERATOR.match(self.source, self.reader.at)
        word = self.reader.read_word() if is_word else Word(self.reader.at)
        if operator in ("<<", "<<-"):
            self.documents.append((word.text, operator == "<<-"))

    def skip_documents(self) -> None:
        """The here-documents that begin after this line."""
        for delimiter, is_indented in self.documents:
            while self.reader.at < len(self.source):
                end = self.source.find("\n", self.reader.at)
                end = len(self.source) if end < 0 else end
                line = self.source[self.reader.at : end]
                self.busy.add(self.lines.at(self.reader.at))
                self.reader.at = min(end + 1, len(self.source))
                if (line.lstrip("\t") if is_indented else line) == delimiter:
                    break
        self.documents = []

    def is_reserved(self, word: Word, words: list[Word]) -> bool:
        """Whether a word is one of the grammar's, and stands where it means something."""
        if word.bare == "}" and self.reader.is_zsh:
            return True
        is_after_closer = len(words) == 1 and words[0].bare in CLOSERS
        is_body = bool(words) and (
            words[-1].bare == GROUP or (words[0].bare == "function" and word.bare == "{")
        )
        if words and not is_after_closer and not is_body:
            return False
        if word.bare in ("foreach", "end") and not self.reader.is_zsh:
            return False
        return (
            word.bare in JOINERS
            or word.bare in HEADS
            or word.bare in OPENERS
            or word.bare in CLOSERS
        )

    def read_reserved(self, word: Word, words: list[Word]) -> list[Word]:
        """Deal with a word of the grammar; the words of the command that is begun then."""
        self.end_command(words, None, max(word.start - 1, 0), False, False)
        self.busy.add(self.lines.at(word.start))
        if word.bare in OPENERS:
            self.stack.append(OPENERS[word.bare])
        elif word.bare in CLOSERS:
            self.close(word.bare)
        return [word] if word.bare in CLOSERS or word.bare in HEADS else []

    def close(self, closer: str) -> None:
        """The end of what has to close next; if it is another's, nothing is sure any more."""
        if self.stack[-1:] == [closer]:
            self.stack.pop()
        else:
            self.lost = True
            self.doubt(self.statements[self.complete :])

    def end_command(
        self, words: list[Word], begin: int | None, end: int, plain: bool, sure: bool
    ) -> bool:
        """Note what a command sets; whether it surely ran and surely succeeded."""
        if not words:
            return False
        first = words[0].start if begin is None else begin
        statement = Statement(self.lines.at(first), self.lines.at(end))
        surely = plain and sure and not self.stack and not self.lost
        if take_assignments(words, statement, self.lines, surely):
            self.statements.append(statement)
            return surely and not any(each.problem for each in statement.sets)
        self.busy |= set(range(statement.first, statement.last + 1))
        self.words |= {word.text.partition("=")[0] for word in words}
        if surely and words[0].text in ("return", "exit", "exec", "logout"):
            self.lost = True  # nothing of what follows is run
        return False

    def doubt(self, statements: list[Statement]) -> None:
        """Take back that these surely run here: the rest of their line says otherwise."""
        for each in statements:
            each.sets = [
                dataclasses.replace(one, problem=one.problem or CONDITIONAL) for one in each.sets
            ]
            each.exports = [(name, False) for name, _ in each.exports]


def parse_shell(text: str, is_zsh: bool = False) -> list[Assignment]:
    """The variables that a shell script sets, in order; nothing is run.

    Those with an empty `problem` surely have that value when the script has come to that line.
    `exported` says whether the script exports a variable of that name anywhere.
    """
    return assignments_of(Script(text, is_zsh))


def assignments_of(script: Script) -> list[Assignment]:
    """What a script sets, and after all the place where its reading lost its way."""
    exported = {name for statement in script.statements for name, _ in statement.exports}
    found = [
        dataclasses.replace(
            each,
            exported=each.exported or each.name in exported,
            problem=each.problem or (CONDITIONAL if script.unclear else ""),
        )
        for statement in script.statements
        for each in statement.sets
    ]
    if script.unclear:
        problem = "the quote or bracket that opens here has no clear end"
        found.append(Assignment(script.unclear, script.unclear, "", None, problem))
    return found


# ---------------------------------------------------------- intake/audit ----
# avault audit: what still stands in clear.


# bytes of a value that is looked for in all of a text: what is shorter stands everywhere by chance
SHORTEST_IN_CLEAR = 8


class Held:
    """What the vault holds: names by value, and values by what a variable for them may be called."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.names: dict[str, list[str]] = {}
        self.keys: dict[str, list[str]] = {}
        for row in rows:
            place = f"{row['group']}/{row['key']}"
            for value in (row["value"], *row["conflicts"]):
                self.names.setdefault(value, []).append(place)
            for name in {row["key"], as_name(row["group"], row["key"])}:
                self.keys.setdefault(name, []).append(place)
        self.long = sorted(
            (value for value in self.names if len(value.encode()) >= SHORTEST_IN_CLEAR),
            key=len,
            reverse=True,
        )


class Exposure(Fields, frozen=True, order=True):
    """Something that stands in clear: where, which variable, and what the vault knows of it."""

    file: str
    line: int
    variable: str | None
    state: str  # "missing", "differs" or "same"
    secrets: tuple[str, ...] = ()

    def __str__(self) -> str:
        known = {
            "missing": "not in the vault",
            "differs": "differs from ",
            "same": "in the vault too: ",
        }[self.state]
        return f"{printable(self.file, 4096)}:{self.line}  {self.variable or '(in the text)'}  {known}{', '.join(self.secrets)}"


def judge(each: Assignment, file: str, held: Held) -> Exposure | None:
    """What is to be said of a variable; None where it is no secret, or its value is not in the file."""
    if not each.value:
        return None
    if places := held.names.get(each.value):
        return Exposure(file, each.line, each.name, "same", tuple(places))
    if (places := held.keys.get(each.name)) and not foreign(each.value):
        return Exposure(file, each.line, each.name, "differs", tuple(places))
    return (
        Exposure(file, each.line, each.name, "missing")
        if is_secret(each.name, each.value)
        else None
    )


def look_into(
    file: str, text: str, parse: Callable[[str], list[Assignment]], held: Held
) -> list[Exposure]:
    """What stands in clear in a file: its variables, then whatever else its text holds, comments included."""
    found, lines, seen = [], Lines(text), set()
    for each in parse(text):
        if finding := judge(each, file, held):
            found.append(finding)
            seen |= set(range(each.line, each.last + 1))
    for value in held.long:
        for match in re.finditer(re.escape(value), text):
            if (line := lines.at(match.start())) not in seen:
                found.append(Exposure(file, line, None, "same", tuple(held.names[value])))
                seen |= set(range(line, lines.at(match.end() - 1) + 1))
    for match in TOKEN_FORMS.finditer(text):
        if (line := lines.at(match.start())) not in seen and len(set(match[0])) > 7:
            found.append(Exposure(file, line, None, "missing"))
            seen.add(line)
    return sorted(found)


def parser_of(path: str, text: str) -> Callable[[str], list[Assignment]]:
    """How a file of that name and look is read."""
    name = os.path.basename(path)
    if name == "fish_variables":
        return parse_fish_variables
    if name.endswith(".fish"):
        return parse_fish
    if name == ".pam_environment":
        return parse_pam
    if re.search(r"(?m)^\[(Unit|Service|Install)\]", text):
        return parse_unit
    if re.match(r"\.env(\.|$)", name) or name.endswith((".env", ".conf")):
        return parse_dotenv
    return lambda text: parse_shell(text, is_zsh=".z" in name)


def usual_files(places: Places) -> Iterator[str]:
    """Where secrets usually stand in clear, whether the files are there or not."""
    home, config = (
        os.path.expanduser("~"),
        os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"),
    )
    names = ".profile .bash_profile .bash_login .bashrc .bash_aliases .zshenv .zprofile .zshrc .zlogin .pam_environment"
    for directory in dict.fromkeys((home, os.environ.get("ZDOTDIR") or home)):
        yield from (os.path.join(directory, name) for name in names.split())
    for pattern in (
        "environment.d/*.conf", "fish/config.fish", "fish/conf.d/*.fish", "fish/fish_variables", "systemd/user/*.service",
        "systemd/user/*.service.d/*.conf",
    ):  # fmt: skip
        yield from sorted(glob.glob(os.path.join(glob.escape(config), pattern)))
    for directory in (
        os.getcwd(),
        os.path.dirname(places.dir),
        home,
        os.path.join(home, ".openclaw"),
    ):
        for pattern in (".env", ".env.*", ".envrc"):
            found = sorted(glob.glob(os.path.join(glob.escape(directory), pattern)))
            yield from (
                path
                for path in found
                if not path.endswith((".example", ".sample", ".template", ".dist"))
            )


def environment_files(text: str) -> Iterator[str]:
    """The files that a unit's EnvironmentFile= lines name; %h is the home directory, other % are not known here."""
    for match in re.finditer(r"(?m)^[ \t]*EnvironmentFile[ \t]*=[ \t]*-?(\S+)", text):
        pattern = (
            match[1]
            .strip("\"'")
            .replace("%h", glob.escape(os.path.expanduser("~")))
            .replace("%%", "%")
        )
        if os.path.isabs(pattern):
            yield from sorted(glob.glob(pattern))


class Audit:
    """The files that were looked at, by their real paths, and what was found in them."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.files: list[str] = []
        self.seen: set[str] = set()
        self.findings: list[Exposure] = []

    def look(
        self, path: str, is_named: bool, parse: Callable[[str], list[Assignment]] | None = None
    ) -> None:
        """Look into a file, and into those that it names if it is a unit. One that was not named may be missing."""
        real = os.path.realpath(path)
        if real in self.seen or (not is_named and not os.path.isfile(real)):
            return
        self.seen.add(real)
        try:
            text = to_text(read_file(real, SCRIPT, only_regular=False), path)
        except AvaultError as error:
            if is_named:
                raise
            warn(printable(error.message))
            return
        self.files.append(path)
        parse = parse or parser_of(path, text)
        self.findings += look_into(path, text, parse, self.held)
        if parse is parse_unit:
            for each in environment_files(text):
                self.look(each, False, parse_dotenv)


@command("audit", option("--file", "files", multiple=True))
def cmd_audit(terminal: Terminal, files: tuple[str, ...]) -> int:
    """usage: avault audit [--file F]… [--json]

    Looks for secrets that stand in clear where they usually do: the files that
    sh, bash, zsh and fish begin with, ~/.config/environment.d, ~/.pam_environment,
    .env files here, in the workspace and at home, the units in
    ~/.config/systemd/user and the files that they name. With --file: there only.

    A line for each: file, line, variable, and whether the vault has it too, has
    another value, or has it not. Never a value. What the vault does not have is
    judged by its name (API_KEY, …_TOKEN, …) and by its value (sk-…, ghp_…, long and
    random). Exit code 1: something is found; 0: nothing; 3: the vault is locked.

      avault audit
      avault audit --file ~/project/.env --json
      avault migrate --remove      takes what ~/.profile exports
    """
    harden("avault audit")
    audit = Audit(Held(terminal.ask("reveal", groups=[], only=[], **{"for": "audit"})["secrets"]))
    for file in files:
        audit.look(os.path.abspath(os.path.expanduser(file)), is_named=True)
    for file in () if files else usual_files(terminal.places):
        audit.look(file, is_named=False)
    states = collections.Counter(finding.state for finding in audit.findings)
    if terminal.want_json:
        rows = [{**vars(finding), "secrets": list(finding.secrets)} for finding in audit.findings]
        put(
            json.dumps({"findings": rows, "files": audit.files, "clean": not rows}, indent=2) + "\n"
        )
    else:
        put("".join(f"{finding}\n" for finding in audit.findings))
    many = "1 file" if len(audit.files) == 1 else f"{len(audit.files):,} files"
    if not audit.findings:
        say(f"nothing found in {many}")
        return 0
    missing, differs, same = (states[state] for state in ("missing", "differs", "same"))
    say(
        f"in clear in {many}: {missing} not in the vault, {differs} with another value, {same} in both"
    )
    say(
        "hint: avault migrate --remove takes them out of ~/.profile, avault import FILE takes a .env file in; then: rm FILE"
    )
    return 1


# --------------------------------------------------------- intake/logins ----
# What other programs and password managers keep, as secrets: a login becomes a group.
#
# Each reader takes a text and gives entries, the names and values of one login, and the lines that
# it leaves. What cannot be read is refused by its line, never by what it says; so is what is
# encrypted.


ImportedSecrets = dict[tuple[str, str], str]  # the value of a group's key
SETTING = "it is a setting, not a secret"
NOTHING = "it has no value"
BINARY = "it is binary"


class Login(Fields):
    """A login: what the file calls it, '' for the one that has no name of its own, and its values by key."""

    name: str
    values: dict[str, str] = field(repr=False)


class FileSecrets(Fields):
    """What a file has: entries, lines that are left, and the problems of those that cannot be read."""

    entries: list[Login] = field(default_factory=list)
    left: list[Assignment] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def add(self, name: str, values: dict[str, str], line: int = 0) -> None:
        """Take an entry's values, but those that are empty; one that has none is left."""
        values = {key: value for key, value in values.items() if value}
        if values:
            self.entries.append(Login(name, values))
        else:
            self.leave(line, name, NOTHING)

    def leave(self, line: int, name: str, problem: str) -> None:
        """Leave something, by its name."""
        self.left.append(Assignment(line, line, name if name.isprintable() else "", None, problem))


def as_group(name: str) -> str:
    """A group's name, of what a file calls something."""
    return re.sub("[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:60] or "unnamed"


def as_key(name: str) -> str:
    """A key's name, of what a file calls something: as it is where it can be."""
    if name and not set(name) - KEY_CHARACTERS and not name[0].isdigit():
        return name[:128]
    key = re.sub("[^A-Z0-9]+", "_", name.upper()).strip("_")[:100] or "VALUE"
    return f"_{key}" if key[0].isdigit() else key


def place(found: FileSecrets, group: str | None, base: str | None) -> ImportedSecrets:
    """Secrets by group and key; raises Usage that names all that cannot be kept.

    A group for each entry: its name; or, with a `group` or a `base` for the format, that alone for the only entry and for
    the one without a name, and GROUP-NAME for others. Two of one name are told apart by a number.
    """
    first, bad = group or base, list(found.bad)
    secrets: ImportedSecrets = {}
    groups: dict[str, dict[str, str]] = {}
    for entry in found.entries:
        is_only = group is not None and len(found.entries) == 1
        name = (
            first
            if first and (is_only or not entry.name)
            else as_group(f"{first}-{entry.name}" if base else entry.name)
        )
        if group and not base and not is_only:
            name = f"{group}-{name}"[:64]
        elif group and base and name != first:
            name = f"{group}-{as_group(entry.name)}"[:64]
        number, wanted = 1, name
        while wanted in groups and groups[wanted] != entry.values:
            number += 1
            wanted = f"{name[:60]}-{number}"
        groups[wanted] = entry.values
        for key, value in entry.values.items():
            try:
                secrets[wanted, key] = check_kept(value, f"{wanted}/{key}")
            except Usage as error:
                bad.append(error.message)
    if bad:
        more = f"; and {len(bad) - 20:,} more" if len(bad) > 20 else ""
        raise Usage("; ".join(bad[:20]) + more, "mend the file, or take these out; nothing is done")
    return secrets


# ---------------------------------------------------------- intake/files ----
# AWS credentials, netrc, pgpass, npmrc.


def text_lines(text: str) -> list[str]:
    """The lines of a text, whatever ends them."""
    return re.split("\r\n|\n|\r", text)


def settings(text: str, comments: str) -> Iterator[tuple[int, str, str | None, str]]:
    """The lines of an INI file: number, section, name (None for a line that is none), value."""
    section = ""
    for number, line in enumerate(text_lines(text), 1):
        if not line.strip() or line.lstrip()[0] in comments:
            continue
        if header := re.fullmatch(r"\s*\[\s*([^\]]+?)\s*\]\s*", line):
            section = header[1]
            continue
        name, equals, value = line.partition("=")
        yield number, section, name.strip() if equals and name.strip() else None, value.strip()


def read_aws(text: str) -> FileSecrets:
    """~/.aws/credentials: a group for each profile, with the names that the AWS tools take from the environment."""
    found, profiles = FileSecrets(), dict[str, dict[str, str]]()
    for number, section, name, value in settings(text, "#;"):
        profile = section.removeprefix("profile ").strip()
        if name is None or not section:
            found.bad.append(f"line {number}: not a setting of a profile")
        elif not name.lower().startswith("aws_"):
            found.leave(number, name if re.fullmatch("[a-z_]+", name) else "", SETTING)
        else:
            profiles.setdefault(profile, {})[as_key(name.upper())] = value
    for profile, values in profiles.items():
        found.add("" if profile == "default" else profile, values)
    return found


def read_netrc(text: str) -> FileSecrets:
    """~/.netrc, as netrc(5) and curl read it: a group for each machine."""
    found = FileSecrets()
    text = re.sub(r"(?ms)^[ \t]*macdef\b.*?(\n[ \t]*\n|\Z)", "\n", text)
    text = re.sub(r"(?m)^[ \t]*#.*", "", text)
    words = [
        re.sub(r"\\(.)", r"\1", quoted) if plain == "" else plain
        for quoted, plain in re.findall(r'"((?:\\.|[^"\\])*)"|(\S+)', text)
    ]
    machine, values, has_begun = "", dict[str, str](), False
    rest = iter(words)
    for word in rest:
        if word in ("machine", "default"):
            if has_begun:
                found.add(machine, values)
            machine, values, has_begun = (
                next(rest, "") if word == "machine" else "default",
                {},
                True,
            )
        elif has_begun and word in ("login", "user", "password", "account"):
            values["LOGIN" if word == "user" else word.upper()] = next(rest, "")
        else:
            found.bad.append(
                "a word that is no netrc"
                + (f", after machine {machine}" if as_group(machine) == machine else "")
            )
            break
    if has_begun:
        found.add(machine, values)
    return found


def read_pgpass(text: str) -> FileSecrets:
    r"""~/.pgpass: host:port:database:user:password, with \: and \\ (libpq-pgpass); a group for each, with libpq's names."""
    found = FileSecrets()
    for number, line in enumerate(text_lines(text), 1):
        if not line.strip() or line[0] == "#":
            continue
        fields = [
            re.sub(r"\\(.)", r"\1", each) for each in re.findall(r"((?:\\.|[^:\\])*)(?::|\Z)", line)
        ]
        if len(fields) < 5 or any(fields[5:]):
            found.bad.append(f"line {number}: not host:port:database:user:password")
            continue
        names = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD")
        values = {
            name: value
            for name, value in zip(names, fields, strict=False)
            if value != "*" or name == "PGPASSWORD"
        }
        name = "-".join(values[each] for each in ("PGHOST", "PGDATABASE") if values.get(each))
        found.add(name or "postgres", values, number)
    return found


NPM = {
    "_authToken": "NPM_TOKEN",
    "_auth": "NPM_AUTH",
    "_password": "NPM_PASSWORD",
    "username": "NPM_USERNAME",
}


def read_npmrc(text: str) -> FileSecrets:
    """~/.npmrc: a group for each registry, with what npm logs in with; its other settings stay."""
    found, registries = FileSecrets(), dict[str, dict[str, str]]()
    for number, _, name, value in settings(text, "#;"):
        registry, _, last = (name or "").rpartition(":")
        if name is None or last not in NPM:
            is_plain = name is not None and re.fullmatch("[A-Za-z@:_-]+", name)
            found.leave(number, str(name) if is_plain else "", SETTING)
        elif re.search(r"\$\{[^}]*\}", value):
            found.leave(number, last, REFERS)
        else:
            quoted = value[:1] == value[-1:] == '"' and len(value) > 1
            registries.setdefault(registry.strip("/") or "npm", {})[NPM[last]] = (
                value[1:-1] if quoted else value
            )
    for registry, values in registries.items():
        found.add(registry, values)
    return found


# ----------------------------------------------------- intake/kubernetes ----
# A Kubernetes Secret, as kubectl prints it.


YAML_KEY = regex(
    r"""("(?:\\.|[^"\\])*"|'(?:''|[^'])*'|[A-Za-z0-9_./][^\s:#]*)[ \t]*:(?:[ \t]+(.*)|)"""
)


class Manifest:
    """The YAML that kubectl and people write for a Secret: mappings, lists, scalars of one line, blocks. Else Usage."""

    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self.lines, self.at = lines, 0

    def refuse(self) -> Usage:
        """The error for a line that is more than this."""
        number = self.lines[min(self.at, len(self.lines) - 1)][0]
        return Usage(
            f"line {number}: more YAML than avault reads",
            "kubectl get secret NAME -o json | avault import -",
        )

    def peek(self) -> tuple[int, str] | None:
        """The indent and the content of the next line that has one."""
        while self.at < len(self.lines):
            line = self.lines[self.at][1]
            content = line.lstrip(" ")
            if content.strip() and content[0] != "#":
                return len(line) - len(content), content.rstrip()
            self.at += 1
        return None

    def read(self) -> Any:
        """The whole document."""
        line = self.peek()
        found = self.node(line[0]) if line else None
        if self.peek():
            raise self.refuse()
        return found

    def node(self, indent: int) -> Any:
        """The list or mapping that begins at this line."""
        line = self.peek()
        return self.list(indent) if line and re.match(r"-( |$)", line[1]) else self.mapping(indent)

    def list(self, indent: int) -> list[Any]:
        """The items of a list."""
        found = []
        while (line := self.peek()) and line[0] == indent and re.match(r"-( |$)", line[1]):
            content = line[1][1:].lstrip(" ")
            inner = indent + len(line[1]) - len(content)
            if YAML_KEY.fullmatch(content):
                self.lines[self.at] = (self.lines[self.at][0], " " * inner + content)
                found.append(self.mapping(inner))
            else:
                self.at += 1
                found.append(self.value(content, indent))
        return found

    def mapping(self, indent: int) -> dict[str, Any]:
        """The values of a mapping."""
        found: dict[str, Any] = {}
        while (line := self.peek()) and line[0] == indent:
            match = YAML_KEY.fullmatch(line[1])
            if not match:
                raise self.refuse()
            key = str(self.scalar(match[1]))
            if key in found:
                raise self.refuse()
            self.at += 1
            found[key] = self.value(match[2] or "", indent)
        return found

    def value(self, text: str, indent: int) -> Any:
        """What stands after a name, or in the lines below it."""
        if not text or text[0] == "#":
            line = self.peek()
            is_list = line is not None and line[0] == indent and re.match(r"-( |$)", line[1])
            return self.node(line[0]) if line and (line[0] > indent or is_list) else None
        return self.block(text, indent) if text[0] in "|>" else self.scalar(text)

    def scalar(self, text: str) -> Any:
        """A scalar of one line, as text; but null, {} and []."""
        if quoted := re.fullmatch(r"""("(?:\\.|[^"\\])*")(?:[ \t]+#.*)?""", text):
            try:
                return json.loads(quoted[1])
            except ValueError:
                raise self.refuse() from None
        if quoted := re.fullmatch(r"""'((?:''|[^'])*)'(?:[ \t]+#.*)?""", text):
            return quoted[1].replace("''", "'")
        plain = re.sub(r"[ \t]+#.*", "", text)
        if plain in ("{}", "[]", "null", "~"):
            return {"{}": {}, "[]": []}.get(plain)
        if re.match(r"[&*!%@`{\[\]},'\"|>]|[-?:] ", plain) or re.search(r":( |$)", plain):
            raise self.refuse()
        return plain

    def block(self, header: str, indent: int) -> str:
        """The lines of a literal block."""
        match = re.fullmatch(r"\|([-+]?)(?:[ \t]+#.*)?", header)
        first = self.peek()
        if not match or not first or first[0] <= indent:
            raise self.refuse()
        rows: list[str] = []
        for _, line in self.lines[self.at :]:
            if line.strip() and not line.startswith(" " * first[0]):
                break
            rows.append(line[first[0] :])
        self.at += len(rows)
        text = "\n".join(rows)
        return (
            text + "\n"
            if match[1] == "+"
            else text.rstrip("\n") + ("" if match[1] == "-" else "\n")
        )


def load_manifests(text: str) -> list[Any]:
    """The documents of a manifest, JSON or YAML; raises Usage."""
    if text.lstrip()[:1] == "{":
        try:
            return [json.loads(text)]
        except (ValueError, RecursionError):
            raise Usage(
                "it is no JSON", "kubectl get secret NAME -o json | avault import -"
            ) from None
    documents: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if re.match(r"(---|\.\.\.)(\s|$)", line):
            documents.append([])
        else:
            documents[-1].append((number, line))
    return [made for lines in documents if lines and (made := Manifest(lines).read()) is not None]


def read_kubernetes(text: str) -> FileSecrets:
    """Secrets of Kubernetes: a group for each, called as the Secret is. A key such as tls.crt becomes TLS_CRT."""
    found = FileSecrets()
    for document in load_manifests(text):
        items = (
            document.get("items")
            if isinstance(document, dict) and str(document.get("kind")).endswith("List")
            else [document]
        )
        for item in items or []:
            read_secret(item, found)
    return found


def read_secret(item: Any, found: FileSecrets) -> None:
    """Take the values of one manifest, if it is a Secret."""
    kind = item.get("kind") if isinstance(item, dict) else None
    about = item.get("metadata") if isinstance(item, dict) else None
    name = (
        about["name"]
        if isinstance(about, dict) and isinstance(about.get("name"), str)
        else "secret"
    )
    if kind == "SealedSecret":
        raise Usage(
            "a SealedSecret is encrypted for its cluster",
            "kubectl get secret NAME -o json | avault import -",
        )
    if kind != "Secret":
        found.leave(0, name if re.fullmatch("[a-z0-9.-]+", name) else "", "it is not a Secret")
        return
    values: dict[str, str] = {}
    for part in ("data", "stringData"):
        given_values = item.get(part) or {}
        if not isinstance(given_values, dict):
            found.bad.append(f"{part} is no mapping")
            continue
        for key, given in given_values.items():
            try:
                value = (
                    base64.b64decode(str(given or ""), validate=True).decode()
                    if part == "data"
                    else str(given or "")
                )
            except (binascii.Error, UnicodeDecodeError) as error:
                if isinstance(error, UnicodeDecodeError):
                    found.leave(0, f"{name}/{as_key(key)}", BINARY)
                else:
                    found.bad.append(f"{name}/{as_key(key)}: not base64")
                continue
            if as_key(key) in values and part == "data":
                found.bad.append(f"{name}/{as_key(key)}: two keys of that name")
            values[as_key(key)] = value
    found.add(name, values)


# ------------------------------------------------------- intake/managers ----
# The CSV of 1Password, Bitwarden, KeePass and browsers; Bitwarden's JSON; what is encrypted.


COLUMNS = {  # what a column becomes: what those who write CSV call it
    "title": ("title", "name", "account", "item name"),
    "url": ("url", "login_uri", "website", "web site", "urls"),
    "USERNAME": ("username", "login_username", "login name", "user name", "login"),
    "PASSWORD": ("password", "login_password"),
    "TOTP": ("totp", "otpauth", "login_totp", "otp", "one-time password"),
    "NOTES": ("notes", "note", "comments", "extra"),
    "fields": ("fields",),
}


def find_columns(header: Iterable[str]) -> dict[str, int]:
    """Where each of COLUMNS is in a header; {} for one that no password manager wrote."""
    names = [name.strip().lower() for name in header]
    found = {
        kind: next((names.index(each) for each in known if each in names), -1)
        for kind, known in COLUMNS.items()
    }
    is_known = found["PASSWORD"] >= 0 and (found["title"] >= 0 or found["url"] >= 0)
    return {kind: index for kind, index in found.items() if index >= 0} if is_known else {}


def read_csv(text: str) -> FileSecrets:
    """The CSV of a password manager or a browser: a group for each row; user name, password, seed, notes and custom fields."""
    csv.field_size_limit(1 << 20)
    found, rows = FileSecrets(), csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: dict[str, int] = {}
    try:
        columns = find_columns(next(rows, []))
        if not columns:
            raise Usage(
                "the first line names no column password",
                "export it as CSV with a header, or as KEY=value lines",
            )
        for row in rows:
            cells = {kind: row[index] for kind, index in columns.items() if index < len(row)}
            if not any(cells.values()):
                continue
            values = {key: cells.get(key, "") for key in ("USERNAME", "PASSWORD", "TOTP", "NOTES")}
            for line in cells.get("fields", "").splitlines():
                name, _, value = line.partition(": ")
                values.setdefault(as_key(name.strip()), value)
            host = re.sub(r"^[a-z]+://|[/:?#].*", "", cells.get("url", ""))
            found.add(cells.get("title") or host, values, rows.line_num)
    except csv.Error:
        found.bad.append(f"line {rows.line_num}: not CSV")
    return found


def find_items(content: Any) -> list[dict[str, Any]]:
    """The items of Bitwarden's JSON; none in another."""
    items = content.get("items") if isinstance(content, dict) else content
    is_theirs = isinstance(items, list) and all(
        isinstance(each, dict) and {"name", "type"} <= each.keys() for each in items
    )
    return items if isinstance(items, list) and is_theirs else []


def read_bitwarden(text: str) -> FileSecrets:
    """Bitwarden's JSON, an export or what `bw list items` prints: a group for each item."""
    try:
        found, items = FileSecrets(), find_items(json.loads(text))
    except (ValueError, RecursionError):
        raise Usage("it is no JSON", "bw export --format json --raw | avault import -") from None
    for number, item in enumerate(items, 1):
        parts = [
            part
            for name in ("login", "card", "identity", "sshKey")
            if isinstance(part := item.get(name), dict)
        ]
        values = {
            as_key(re.sub("(?<=[a-z])(?=[A-Z])", "_", name).upper()): value
            for part in parts
            for name, value in part.items()
            if isinstance(value, str) and not name.endswith("Date")
        }
        values["NOTES"] = str(item.get("notes") or "")
        for each in item.get("fields") or []:
            if isinstance(each, dict) and isinstance(each.get("value"), str):
                values.setdefault(as_key(str(each.get("name"))), each["value"])
        found.add(str(item.get("name") or f"item-{number}"), values)
    return found


# how it begins, what it is, what makes it readable
ENCRYPTED: tuple[tuple[bytes, str, str], ...] = (
    (
        b"\x03\xd9\xa2\x9a",
        "a KeePass database is encrypted",
        "keepassxc-cli export --format csv FILE | avault import -",
    ),
    (b"PK\x03\x04", "a zip archive, such as 1Password's .1pux, is not read", "export it as CSV"),
    (b"age-encryption.org/", "age has encrypted it", "age --decrypt FILE | avault import -"),
    (
        b"-----BEGIN AGE ENCRYPTED FILE-----",
        "age has encrypted it",
        "age --decrypt FILE | avault import -",
    ),
    (
        b"-----BEGIN PGP MESSAGE-----",
        "GnuPG has encrypted it",
        "gpg --decrypt FILE | avault import -",
    ),
    (b"Salted__", "openssl has encrypted it", "openssl enc -d … | avault import -"),
    (b"$ANSIBLE_VAULT;", *FOREIGN["$ANSIBLE_VAULT;"]),
)


def refuse_encrypted(data: bytes) -> None:
    """Raises Usage for an export or a file that nobody can read as it is."""
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    for beginning, said, hint in ENCRYPTED:
        if start.startswith(beginning):
            raise Usage(said, hint)
    if start[:1] != b"{" and not re.search(rb"(?m)^sops:", data):
        return
    if re.search(rb'"(encrypted|passwordProtected)"\s*:\s*true', data):
        raise Usage(
            "it is an encrypted export, as Bitwarden makes them",
            "bw export --format json --raw | avault import -",
        )
    if re.search(rb'"encryptedPassword"\s*:', data):
        raise Usage("Firefox has encrypted it", "export the passwords as CSV, in about:logins")
    if re.search(rb"(?m)^sops:", data):
        raise Usage(*FOREIGN["ENC["])


# ------------------------------------------------------ intake/importers ----
# Which of the forms that avault reads a file is.


FORM_READERS: dict[str, Callable[[str], FileSecrets]] = {
    "aws": read_aws, "netrc": read_netrc, "pgpass": read_pgpass, "npmrc": read_npmrc, "k8s": read_kubernetes, "csv": read_csv,
    "bitwarden": read_bitwarden,
}  # fmt: skip
IMPORT_FORMS = ("dotenv", "json", *FORM_READERS)
OF_NAMES = {"netrc": "netrc", "pgpass": "pgpass", "npmrc": "npmrc", "csv": "csv", "env": "dotenv"}


def form_of(file: str, text: str) -> str:
    """Which of FORMS a file is, by its name and by what is in it; raises Usage for what is known, and not read."""
    start = text.lstrip("\ufeff \t\r\n")
    name = os.path.basename(file).lower().lstrip("._").removesuffix(".conf")
    if start[:1] == "{" or re.match(r"\[\s*([\[{\"\]0-9]|\Z)", start):
        return form_of_json(start)
    if known := OF_NAMES.get(name) or OF_NAMES.get(name.rpartition(".")[2]):
        return known
    if re.search(
        r"(?m)^kind:[ \t]*[\"']?(Secret|SealedSecret|List|SecretList)[\"']?[ \t]*\r?$", text
    ):
        return "k8s"
    if re.match(r"(?:[#;].*\n\s*)*\[[^\]\n]+\][ \t]*\r?(\n|\Z)", start):
        if re.search(r"(?mi)^\s*aws_(access_key_id|secret_access_key|session_token)\s*=", text):
            return "aws"
        raise Usage(
            "it is an INI file, of a kind that avault does not know",
            "write KEY=value lines, or: avault set GROUP/KEY",
        )
    if re.match(
        r"(?:#.*\n\s*)*(machine[ \t]+\S+|default)\s+(login|password|account|user)\s", start
    ):
        return "netrc"
    if re.search(r"(?m)^[ \t]*//[^\s=]+:_(authToken|auth|password)[ \t]*=", text):
        return "npmrc"
    header = start.partition("\n")[0].rstrip("\r")
    if "," in header and "=" not in header and find_columns(next(csv.reader([header]), [])):
        return "csv"
    is_yaml = re.match(
        r"(?:(?:#.*|---[ \t]*)\r?\n\s*)*[\"']?[A-Za-z_][\w.-]*[\"']?:(?:[ \t]|\r?\n|\Z)", start
    )
    if name.endswith((".yaml", ".yml")) or (is_yaml and "=" not in start.partition(":")[0]):
        raise Usage(
            "it is YAML, and no Secret of Kubernetes",
            "as JSON it can be read: yq -o json FILE | avault import -",
        )
    return "dotenv"


def form_of_json(text: str) -> str:
    """Which of FORMS a JSON text is."""
    if not re.search(r'"(items|login|kind)"\s*:', text):
        return "json"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return "json"  # which says what is wrong
    if isinstance(content, dict) and str(content.get("kind")) in (
        "Secret",
        "SealedSecret",
        "List",
        "SecretList",
    ):
        return "k8s"
    return "bitwarden" if find_items(content) else "json"


# ----------------------------------------------------- intake/json_files ----
# What `avault export`, `avault get` and other tools print as JSON.


def refuse_json(problem: str) -> Usage:
    """The error for a JSON text that is not of one of the forms."""
    return Usage(
        f"in the JSON {problem}",
        'as in {"API_KEY": "…"} or {"openai": {"API_KEY": "…"}}; jq makes it so',
    )


def load_json(text: str) -> dict[str, Any]:
    """The object that a JSON text is; numbers as the text that they are written as. Raises Usage."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise refuse_json("a name stands twice")
        return dict(pairs)

    def constant(_: str) -> str:
        raise refuse_json("stands NaN or Infinity")

    try:
        content = json.loads(
            text, object_pairs_hook=unique, parse_int=str, parse_float=str, parse_constant=constant
        )
    except json.JSONDecodeError as error:
        raise Usage(
            f"line {error.lineno} is not JSON", "for KEY=value lines: --format dotenv"
        ) from None
    except RecursionError:
        raise refuse_json("too many brackets stand in each other") from None
    if not isinstance(content, dict):
        raise refuse_json("is a list or a value, not an object of names and values")
    if isinstance(content.get("sops"), dict) and "mac" in content["sops"]:
        raise Usage("sops has encrypted it", FOREIGN["ENC["][1])
    return content


def groups_of(
    content: dict[str, Any], group: str | None
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The keys of each group in a JSON object, and the groups' notes; raises Usage.

    It is {KEY: value}, for `group`; or {GROUP: {KEY: value}}; or what `avault get --json` prints.
    """
    named, values = content.get("group"), content.get("values")
    if isinstance(named, str) and content.keys() - {"conflicts"} == {"group", "key", "value"}:
        return {group or named: {str(content["key"]): content["value"]}}, {}
    if (
        isinstance(named, str)
        and isinstance(values, dict)
        and content.keys() == {"group", "note", "values"}
    ):
        return {group or named: values}, {group or named: content["note"]} if content[
            "note"
        ] else {}
    if not content or not all(isinstance(each, dict) for each in content.values()):
        return {group or "env": content}, {}
    if group:
        raise Usage("the JSON names its groups", "leave --group out")
    return content, {}


def parse_json(text: str, group: str | None) -> tuple[ImportedSecrets, dict[str, str], list[str]]:
    """The secrets of a JSON text, the notes of their groups, and the names of those that are empty; raises Usage.

    A number is the text that it is written as, true and false are these words, null is empty.
    """
    groups, notes = groups_of(load_json(text), group)
    found: ImportedSecrets = {}
    empty = []
    for name in groups:
        check_group(name)
        for number, (key, given) in enumerate(groups[name].items(), 1):
            try:
                check_key(key)
            except Usage as error:
                raise Usage(
                    f"in the JSON name {number} of group {name} is not a key name", error.hint
                ) from None
            value = str(given).lower() if isinstance(given, bool) else given or ""
            if not isinstance(value, str) or isinstance(given, (dict, list)):
                raise refuse_json(f"{name}/{key} is a list or an object, not a value")
            if value:
                found[name, key] = check_kept(value, f"{name}/{key}")
            else:
                empty.append(f"{name}/{key}")
    return found, notes, empty


# -------------------------------------------------------- intake/keeping ----
# Asking the daemon to keep many secrets.


BATCH_BYTES = 3 << 20  # of JSON; a frame of the protocol has at most 4 MiB
# secrets in one request: each is one write of the vault, and a step of the progress
BATCH_COUNT = 1000


class Stored(Fields):
    """What became of secrets, by GROUP/KEY: new to the vault, there already, or there with another value."""

    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def batches(found: ImportedSecrets) -> Iterator[list[list[str]]]:
    """Secrets as they fit into one request."""
    batch: list[list[str]] = []
    size = 0
    for (group, key), value in found.items():
        row = [group, key, value]
        length = len(json.dumps(row)) + 2
        if batch and (size + length > BATCH_BYTES or len(batch) == BATCH_COUNT):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


def compare(terminal: Terminal, found: ImportedSecrets) -> Stored:
    """What the vault has of these secrets; nothing is written."""
    stored = Stored()
    for batch in batches(found):
        answer = terminal.ask("import", value={"secrets": batch}, dry_run=True)
        stored.new += answer["new"]
        stored.same += answer["same"]
        stored.differs += answer["replaced"]
    return stored


def store(
    terminal: Terminal,
    found: ImportedSecrets,
    stored: Stored,
    notes: dict[str, str],
    replacing: bool,
) -> None:
    """Write what `compare` found to be new, and what differs if it may be replaced; the rest is there already."""
    wanted = {*stored.new, *(stored.differs if replacing else ())}
    todo = {name: value for name, value in found.items() if "/".join(name) in wanted}
    done, drawn = 0, sys.stderr.isatty() and len(todo) > BATCH_COUNT
    for batch in batches(todo):
        of_these = {group: notes[group] for group, _, _ in batch if group in notes}
        try:
            terminal.ask("import", value={"secrets": batch, "notes": of_these}, replace=replacing)
        except AvaultError as error:
            if not done:
                raise
            message = f"{error.message}; {done:,} of {len(todo):,} are imported"
            raise type(error)(
                message, "the same command again goes on where this one ended"
            ) from None
        done += len(batch)
        if drawn:
            end = "\n" if done == len(todo) else ""
            print(
                f"\r\x1b[Kavault: imported {done:,} of {len(todo):,}",
                end=end,
                file=sys.stderr,
                flush=True,
            )
    if replacing:
        stored.replaced, stored.differs = stored.differs, []


def some(names: Iterable[str], limit: int = 10) -> str:
    """Names for a sentence; not more than a person reads."""
    listed = list(names)
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def show_stored(stored: Stored) -> None:
    """A line for each key: what became of it, and its name."""
    for kind in ("new", "same", "differs", "replaced"):
        put("".join(f"{kind:<8}  {name}\n" for name in getattr(stored, kind)))


def tell_of_twins(terminal: Terminal, found: ImportedSecrets) -> None:
    """Warn of keys that other groups have too: a variable can have one value."""
    groups: dict[str, set[str]] = {}
    for group in terminal.ask("list")["groups"]:
        for key in group["keys"]:
            groups.setdefault(key["name"], set()).add(group["name"])
    twins = sorted({key for _, key in found if len(groups.get(key, ())) > 1})
    if twins:
        warn(
            f"in more than one group: {some(twins)}",
            "choose with --group, or tell them apart with --prefix, in export and run",
        )


# ------------------------------------------------------ intake/importing ----
# avault import.
#
# A value is in no message, no error and no argument list.


LARGEST = 256 << 20  # bytes of a file to import


def read_input(file: str) -> str:
    """What is in a file, or comes from stdin; raises NotFound, Usage, AvaultError.

    The file is opened before this process is hardened: /dev/fd/63, which `<(…)` gives, is closed to it afterwards.
    """
    if file == "-" and sys.stdin.isatty():
        say("reading from the terminal, to the end of input (Ctrl-D)")
    try:
        fd = 0 if file == "-" else os.open(os.path.expanduser(file), os.O_RDONLY | os.O_CLOEXEC)
        harden("avault import")
        with open(fd, "rb", closefd=fd != 0) as opened:
            data = opened.read(LARGEST + 1)
    except FileNotFoundError:
        raise NotFound(f"no file {printable(file)}") from None
    except OSError as error:
        raise AvaultError(f"cannot read {printable(file)}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise Usage(f"{printable(file)} is too large; the limit is {LARGEST:,} bytes")
    refuse_encrypted(data)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Usage(f"{'what came' if file == '-' else printable(file)} is not UTF-8 text")
    return text


def take(
    text: str, form: str, group: str | None
) -> tuple[ImportedSecrets, dict[str, str], list[Assignment]]:
    """The secrets of a text of that form, the notes of their groups, and what there is to say about lines; raises Usage."""
    if form == "json":
        found, notes, empty = parse_json(text.removeprefix("\ufeff"), group)
        return found, notes, [Assignment(0, 0, name, None, EMPTY) for name in empty]
    if form == "dotenv":
        variables, told = read_dotenv(text)
        return (
            {(group or "env", name): value for name, value in variables.items() if value},
            {},
            told,
        )
    read = FORM_READERS[form](text.removeprefix("\ufeff"))
    return place(read, group, "aws" if form == "aws" else None), {}, read.left


@command(
    "import",
    argument("file"),
    option("--format", "form"),
    option("--group"),
    option("--dry-run", is_flag=True),
    option("--replace", is_flag=True),
)
def cmd_import(
    terminal: Terminal, file: str, form: str | None, group: str | None, dry_run: bool, replace: bool
) -> int:
    """usage: avault import FILE [--format F] [--group G] [--dry-run] [--replace]

    Takes secrets from a file, or from stdin (-), into the vault: KEY=value lines
    as in .env, or JSON, {"KEY": "value"} or {"GROUP": {"KEY": "value"}}, into the
    group G, or `env`. Also AWS credentials, .netrc, .pgpass, .npmrc, a Secret of
    Kubernetes, and what password managers and browsers export: CSV, and JSON of
    Bitwarden; a group for each login, G-NAME with G. Which it is shows; --format
    insists: dotenv, json, aws, netrc, pgpass, npmrc, k8s, csv or bitwarden.
    Prints what is new, the same, or replaced.

    All of it or nothing: all bad lines are named, never what they say, and what
    the vault has with another value is refused without --replace. --dry-run
    writes nothing and shows all. A line that refers to ${ANOTHER} variable, is
    empty, or has no key name is left and named. Where readers of .env files
    differ, python-dotenv's reading counts, and a warning says so. The file
    stays; delete it when you are done.

      avault import .env --group web --dry-run
      avault import ~/.aws/credentials
      sops decrypt --output-type json secrets.yaml | avault import -
      kubectl get secret web -o json | avault import -
    """
    if form not in (None, *IMPORT_FORMS):
        raise Usage(f"no format {printable(form)!r}", f"one of: {', '.join(IMPORT_FORMS)}")
    if group is not None:
        check_group(group)
    text = read_input(file)
    found, notes, told = take(text, form or form_of(file, text), group)
    stored = compare(terminal, found)
    if stored.differs and not replace and not dry_run:
        raise Denied(
            f"in the vault with another value: {some(stored.differs)}",
            "keep both with --group NAME, or replace them with --replace; --dry-run shows all",
        )
    if not dry_run:
        store(terminal, found, stored, notes, replace)
    elif replace:
        stored.replaced, stored.differs = stored.differs, []
    tell_of_lines(told)
    if terminal.want_json:
        left = [
            {"line": each.line or None, "name": each.name or None, "reason": each.problem}
            for each in told
            if each.problem
        ]
        remarks = [
            {"line": each.line, "name": each.name, "remark": each.remark}
            for each in told
            if each.remark
        ]
        put(
            json.dumps(
                {**vars(stored), "left": left, "remarks": remarks, "dry_run": dry_run}, indent=2
            )
            + "\n"
        )
    else:
        show_stored(stored)
    risky = sorted({key for _, key in found if is_dangerous(key)})
    if risky:
        warn(
            f"export and run refuse {some(risky)}",
            f"let them with --allow {risky[0]}, or: avault delete GROUP --key {risky[0]}",
        )
    tell_stored(dry_run, found, stored, "--replace replaces what differs, --group NAME keeps both")
    if not dry_run:
        tell_of_twins(terminal, found)
    return 0


def tell_stored(dry_run: bool, found: ImportedSecrets, stored: Stored, otherwise: str) -> None:
    """Say what was done, or would be."""
    groups = some(sorted({group for group, _ in found}))
    if not found:
        say("there is nothing to import")
    elif dry_run and stored.differs:
        say(
            f"nothing was written; {len(stored.differs):,} in the vault with another value: {otherwise}"
        )
    elif dry_run:
        say("nothing was written")
    else:
        count = len(stored.new) + len(stored.replaced)
        there = f"; {len(stored.same):,} were there already" if stored.same else ""
        say(f"imported {count:,} of {len(found):,} into {groups}{there}")


# -------------------------------------------------------- intake/migrate ----
# avault migrate: takes the secrets out of ~/.profile.


OF_THE_SESSION = frozenset("LANG LANGUAGE TZ TERM COLORTERM DISPLAY WAYLAND_DISPLAY".split())


def take_shell(script: Script) -> tuple[dict[str, str], list[Assignment]]:
    """The exported variables that a script surely leaves, and those that are left to it, each with the reason.

    As in the shell the last assignment counts. Where one of a variable's assignments may or may not happen, or
    another command is given its name, nobody knows without running it.
    """
    by_name: dict[str, list[Assignment]] = {}
    for each in assignments_of(script):
        by_name.setdefault(each.name, []).append(each)
    surely = {
        name for statement in script.statements for name, is_sure in statement.exports if is_sure
    }
    taken: dict[str, str] = {}
    left = list(by_name.pop("", []))
    for name, found in by_name.items():
        last = found[-1]
        doubtful = next((each for each in found if each.problem == CONDITIONAL), None)
        if not any(each.exported for each in found):
            if not is_secret(name, last.value or ""):
                continue
            reason, where = "it is not exported", last
        elif is_dangerous(name) or name in OF_THE_SESSION or name.startswith("LC_"):
            reason, where = "it changes what other programs do", last
        elif doubtful or name in script.words:
            reason, where = (
                doubtful.problem if doubtful else "another command is given its name",
                doubtful or last,
            )
        elif last.problem or last.value is None:
            reason, where = last.problem, last
        elif name not in surely:
            reason, where = CONDITIONAL, last
        elif not last.value:
            reason, where = "it is empty", last
        else:
            try:
                taken[check_key(name)] = check_value(last.value)
                continue
            except Usage as error:
                reason, where = error.message, last
        left.append(dataclasses.replace(where, value=None, problem=reason))
    return taken, sorted(left, key=lambda each: each.line)


def removable(script: Script, taken: dict[str, str]) -> tuple[set[int], list[Assignment]]:
    """The lines to take out once the vault has the variables in `taken`, and the assignments that stay, with reasons.

    A line goes if all that stands on it is in the vault then, and a variable goes from all its lines or from none:
    it stays where an earlier, other value would count again, and where the rest of the file uses it.
    """
    assignments = [each for each in assignments_of(script) if each.name in taken]
    reasons = {
        each.name: "it has had another value before"
        for each in assignments
        if each.value != taken[each.name]
    }
    source = script.source.split("\n")
    while True:
        going = [
            each for each in script.statements if each.names() <= taken.keys() - reasons.keys()
        ]
        busy = script.busy | statement_lines(
            each for each in script.statements if each not in going
        )
        while crowded := [each for each in going if busy & statement_lines([each])]:
            # they stay, and so does what shares another of their lines
            busy |= statement_lines(crowded)
            going = [each for each in going if each not in crowded]
        lines = statement_lines(going)
        rest = "\n".join(text for number, text in enumerate(source, 1) if number not in lines)
        used = set(re.findall(rf"\$\{{?[^\w\s{{}}$'\"]?({NAME})", rest))
        staying = {name for each in script.statements if each not in going for name in each.names()}
        more = dict.fromkeys(staying, "something else stands on its line") | dict.fromkeys(
            used, "the rest of the file uses it"
        )
        more = {name: more[name] for name in taken if name in more and name not in reasons}
        if not more:
            break
        reasons |= more
    kept = [
        dataclasses.replace(each, value=None, problem=reasons[each.name])
        for each in assignments
        if each.name in reasons
    ]
    return lines, kept


def statement_lines(statements: Iterable[Statement]) -> set[int]:
    """The lines on which statements stand."""
    return {line for each in statements for line in range(each.first, each.last + 1)}


def without_lines(data: bytes, lines: set[int]) -> bytes:
    """A file's bytes without some of its lines."""
    return b"".join(
        line
        for number, line in enumerate(re.findall(rb"[^\n]*\n|[^\n]+", data), 1)
        if number not in lines
    )


def attributes(fd: int) -> list[str]:
    """The names of a file's extended attributes: access lists, SELinux's label. None where the system has none."""
    try:
        return os.listxattr(fd) if sys.platform == "linux" else []
    except OSError:
        return []


def replace_file(path: str, before: bytes, after: bytes) -> None:
    """Put other bytes into a person's file: atomically, with its mode and owner, only if it is as it was.

    `path` is no symlink (the target of one is what its owner edits). Raises AvaultError; the file is as it was then.
    """
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    unchanged = "nothing was taken out; the file is as it was"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
                raise AvaultError(f"{path} has another name too, a hard link", unchanged)
            new = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            with open(new, "wb", buffering=0):
                os.fchown(new, info.st_uid, info.st_gid)
                os.fchmod(new, stat.S_IMODE(info.st_mode))
                for name in attributes(fd):
                    os.setxattr(new, name, os.getxattr(fd, name))
                write_all(new, after)
                os.fsync(new)
            now = os.stat(path, follow_symlinks=False)
            if file.read() != before or (now.st_dev, now.st_ino) != (info.st_dev, info.st_ino):
                raise AvaultError(f"{path} changed meanwhile", unchanged)
            os.rename(temporary, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}", unchanged) from None
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # renamed, or never made


@command(
    "migrate",
    option("--file"),
    option("--group", default="profile"),
    option("--dry-run", is_flag=True),
    option("--remove", is_flag=True),
)
def cmd_migrate(
    terminal: Terminal, file: str | None, group: str, dry_run: bool, remove: bool
) -> int:
    """usage: avault migrate [--file F] [--group G] [--dry-run] [--remove]

    Takes the variables that ~/.profile (or F) exports into the vault, group
    `profile` or G, without running anything: export KEY=value in all its
    spellings, and KEY=value with an export of KEY elsewhere. The last value
    counts. A line that needs the shell ($(…), $X, ~), or that an if, a loop or
    another command decides about, is left and named; so are PATH and others that
    change what programs do. Nothing in the vault is replaced.

    --remove takes the lines out afterwards, once the vault was asked whether it
    holds them all: only lines on which nothing else stands, and only if the file
    is as it was read. --dry-run shows all of this and does nothing.

      avault migrate --dry-run --remove
      avault migrate --file ~/.zshrc --group shell
    """
    check_group(group)
    shown = os.path.expanduser(file or "~/.profile")
    place = printable(shown, 4096)
    harden("avault migrate")
    # dotfiles are often symlinks into a repository: what they lead to is edited
    path = os.path.realpath(shown)
    try:
        data = read_file(path, SCRIPT, only_regular=False)
    except NotFound:
        raise NotFound(f"no file {place}", "name another with --file") from None
    script = Script(to_text(data, place), is_zsh=".z" in os.path.basename(shown))
    taken, left = take_shell(script)
    found = {(group, name): value for name, value in taken.items()}
    stored = compare(terminal, found)
    if stored.differs and not dry_run:
        raise Denied(
            f"in the vault with another value: {some(stored.differs)}",
            f"keep both with --group NAME, or take one away first: avault delete {stored.differs[0]}",
        )
    lines, kept = removable(script, taken) if remove and not stored.differs else (set(), [])
    if lines and not dry_run and not terminal.ask("status")["proven"]:
        raise Denied(
            "nobody has shown yet that the phone opens this vault: nothing is taken out",
            "avault pair, then once more",
        )
    if not dry_run:
        store(terminal, found, stored, {}, False)
        if lines:
            if len(compare(terminal, found).same) < len(found):
                raise AvaultError(
                    "the vault does not hold all that was imported",
                    "nothing was taken out; see: avault list",
                )
            replace_file(path, data, without_lines(data, lines))
    for each in left:
        say(f"left {place}:{each.line}{' ' + each.name if each.name else ''}: {each.problem}")
    for each in kept:
        say(f"stays in {place}:{each.line} {each.name}: {each.problem}")
    if terminal.want_json:
        answer = {
            "file": shown,
            **vars(stored),
            "left": [
                {"line": each.line, "name": each.name or None, "reason": each.problem}
                for each in left
            ],
            "removed": sorted(lines),
            "kept": [
                {"line": each.line, "name": each.name, "reason": each.problem} for each in kept
            ],
            "dry_run": dry_run,
        }
        put(json.dumps(answer, indent=2) + "\n")
    else:
        show_stored(stored)
    tell_stored(
        dry_run,
        found,
        stored,
        f"--group NAME, or avault delete {stored.differs[0]}" if stored.differs else "",
    )
    if lines:
        many = f"{len(lines):,} line{'s' if len(lines) > 1 else ''}"
        say(f"{'would take' if dry_run else 'took'} {many} out of {path}")
        if not dry_run and (repository := repository_of(path)):
            warn(
                f"the values may stand in the history of {repository}",
                "a secret that was pushed is to be revoked where it was issued",
            )
    elif found and not remove and not dry_run:
        say(
            "hint: take them out of the file with: avault migrate --remove"
            + (f" --file {file}" if file else "")
        )
    if found and not dry_run:
        tell_of_twins(terminal, found)
    return 0


def repository_of(path: str) -> str | None:
    """The git repository that a file is in."""
    while (path := os.path.dirname(path)) != os.path.dirname(path):
        if os.path.lexists(os.path.join(path, ".git")):
            return path
    return None


# --------------------------------------------------------- running/forms ----
# All forms of a value that avault knows: what `run` and `mcp` mask is what `scan` finds.
#
# A value leaves a program as it is, or encoded, quoted, coloured, or broken into lines. What quoting,
# colours and line breaks add is noise: it is taken away from the text before it is searched, and from
# the forms too. What an encoding makes of a value is a string of its own. So what remains is to find
# some thousand strings in a text, fast.


# bytes of a value, or of a part of it, that is looked for; shorter ones are all over any text by
# chance
SHORTEST = 8
LONG = 8 << 10  # bytes of a value of which only the usual encodings are looked for
MANY = 200  # secrets beyond which it is only the usual encodings of each
MOST_PARTS = 64  # of one value
NOISE = (
    # what line breaks, indentation, quoting in any language, and UTF-16 put between the bytes of a
    # value
    b" \t\r\n\v\f\0\\'\""
)

BLANK = " \t\r\n\v\f"  # and not what else Unicode calls so: that is part of a value
ARMOUR = regex(r"-----(BEGIN|END) [^-]*-----")  # RFC 7468: says only that here begins or ends a key
# without its scheme, which would be quadratic
URL = regex(r"(?<=[A-Za-z0-9+.-])://([^\s/?#@]*(?:@[^\s/?#@]+)*)@")
PAIR = regex(r"([^\s:/@]+):(?!//)(\S+)")
SIMPLE = regex("[A-Za-z0-9_.-]+")  # nobody quotes or escapes that
WORD = regex(r"[a-z_.-]+")
COMMON = {
    "postgres",
    "postgresql",
    "username",
    "password",
    "anonymous",
    "administrator",
    "x-access-token",
    "x-token-auth",
}
SECRET = regex(r"(?i)pass|pwd|secret|token|key|auth|cred|priv|pin\b")


def solid(data: bytes) -> bytes:
    """`data` less its noise."""
    return data.translate(None, NOISE)


def forms_of(value: str, rare: bool = True) -> dict[bytes, str]:
    """The strings by which a value can be recognized in a text less its noise, each with its kind; none for a short value.

    The kind is `plain`, `line` or `part` of a value that has several, or the name of an encoding.
    """
    found: dict[bytes, str] = {}
    text = value.strip(BLANK)  # a newline at the end gets lost on the way
    if is_short(text):
        return {}
    for form, kind in encodings(text, rare):
        found.setdefault(form, kind)
    for part in parts_of(text):
        for form, kind in encodings(part, rare):
            found.setdefault(form, "part" if kind == "plain" else kind)
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > 1:
        for line in lines:
            if not ARMOUR.fullmatch(line):
                found.setdefault(solid(line.encode()), "line")
    return {form: kind for form, kind in found.items() if len(form) >= SHORTEST}


def is_short(value: str) -> bool:
    """Whether a value is too short to be looked for."""
    return len(value.strip(BLANK).encode()) < SHORTEST


def exact_forms_of(value: str) -> dict[bytes, str]:
    """The strings to be found in a text with its noise, for a value that consists of little else (`"" "" "a"`)."""
    text = value.strip(BLANK)
    if is_short(text) or len(solid(text.encode())) >= SHORTEST:
        return {}
    spelled = [
        ("plain", [text]),
        ("json", in_json(text)),
        ("escaped", in_programs(text)),
        ("html", in_html(text)),
    ]
    return {form.encode(): kind for kind, forms in reversed(spelled) for form in forms}


def parts_of(text: str) -> list[str]:
    """What is secret by itself in a structured value.

    Strings inside JSON; user and password of URLs, as they stand there and decoded; of user:password both.
    """
    found: list[str] = []
    if text[:1] in ("{", "["):
        try:
            found += strings_in(json.loads(text), False)
        except (ValueError, RecursionError):
            pass
    for url in URL.finditer(text):
        user, _, password = url[1].partition(":")
        found += (
            each
            for name in (user, password)
            for each in (name, urllib.parse.unquote(name))
            if name not in COMMON
        )
    if pair := PAIR.fullmatch(text):
        found += (each for each in pair.groups() if each not in COMMON)
    kept = [
        part
        for part in dict.fromkeys(map(str.strip, found))
        if part != text and len(part.encode()) >= SHORTEST
    ]
    return kept[:MOST_PARTS]


def strings_in(tree: object, is_named: bool) -> Iterator[str]:
    """The strings in JSON that may be secret: what a key's name says, and what is more than a word or an address."""
    if isinstance(tree, dict):
        for name, item in tree.items():
            yield from strings_in(item, bool(SECRET.search(name)))
    elif isinstance(tree, list):
        for item in tree:
            yield from strings_in(item, is_named)
    elif isinstance(tree, str):
        if "://" in tree:
            yield from parts_of(tree)
        elif is_named or not WORD.fullmatch(tree):
            yield tree


def encodings(text: str, rare: bool) -> Iterator[tuple[bytes, str]]:
    """What encodings make of a text, less its noise, each with its kind; the rare ones if they are wanted."""
    raw = text.encode()
    yield solid(raw), "plain"
    if not SIMPLE.fullmatch(text):
        for kind, spell in (
            ("json", in_json),
            ("escaped", in_programs),
            ("url", in_urls),
            ("html", in_html),
        ):
            yield from ((solid(each.encode()), kind) for each in spell(text))
        yield (
            solid(re.sub(rb"[^!-<>-~\s]", lambda found: b"=%02X" % found[0][0], raw)),
            "quoted-printable",
        )
        for width in ("utf-16-le", "utf-16-be"):  # of ASCII they add noise alone
            yield solid(text.encode(width)), "utf-16"
    for kind, encode in (("hex", in_hex), ("base64", in_base64)):
        yield from ((each, kind) for each in encode(raw))
    if rare and len(raw) <= LONG:
        for kind, encode in (
            ("hex", in_hex_apart),
            ("base64", in_base64_twice),
            ("base32", in_base32),
        ):
            yield from ((each, kind) for each in encode(raw))
        numbers = str([*raw])[1:-1].replace(" ", "")
        yield from ((numbers.encode(), "decimal"), (numbers.replace(",", "").encode(), "decimal"))
        yield f"&#{str([*map(ord, text)])[1:-1].replace(', ', ';&#')};".encode(), "html"
        for digits in (raw.hex(" "), raw.hex(" ").upper()):
            yield f"&#x{digits.replace(' ', ';&#x')};".encode(), "html"


def in_json(text: str) -> Iterator[str]:
    """As JSON has it; as Go escapes it; with the digits of an escape in either case."""
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for each in (escaped, re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", escaped)):
            yield each
            yield re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda found: found[0].upper(), each)


def in_programs(text: str) -> Iterator[str]:
    r"""As Python's repr has it, of text and of bytes, and shells in $'…': control characters by letters or in octal."""
    raw = text.encode()
    for shown in (repr(text)[1:-1], ascii(text)[1:-1], repr(raw)[2:-1]):
        yield shown
        yield re.sub(r"(?<=\\x)[0-9a-f]{2}", lambda found: found[0].upper(), shown)
    letters = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 27: "E"}
    # from where on there is octal: bash in a locale of UTF-8, and in one of ASCII
    for last in ("\x1f", "~"):
        yield "".join(
            letters[ord(c)]
            if ord(c) in letters
            else "".join(f"{b:03o}" for b in c.encode())
            if c < " " or c > "~" >= last
            else c
            for c in text
        )


def in_urls(text: str) -> Iterator[str]:
    """Percent-encoded, as Python, encodeURIComponent, encodeURI and HTML forms do it, in either case; and once more."""
    once = [
        urllib.parse.quote(text, safe=safe)
        for safe in ("", "/", "*", "!~*'()", "!*'()", "!~*'();,/?:@&=+$#")
    ]
    once += [each.replace("%20", "+") for each in once]
    once += [each.replace("~", "%7E") for each in once]
    for each in dict.fromkeys(once):
        for quoted in (each, re.sub("%..", lambda found: found[0].lower(), each)):
            yield quoted
            yield quoted.replace("%", "%25")


def in_html(text: str) -> Iterator[str]:
    """With the entities of HTML and XML, by name or number."""
    named = html.escape(text, quote=False)
    for double in ("&quot;", "&#34;", '"'):
        for single in ("&#x27;", "&#39;", "&apos;", "'"):
            yield named.replace('"', double).replace("'", single)
    yield re.sub("[^ -~]", lambda found: f"&#{ord(found[0])};", named)


def cut_encoding(encoded: bytes, before: int, length: int, bits: int) -> bytes:
    """Of an encoding of some bits to a letter, the letters that only `length` bytes after the first `before` decide."""
    return encoded[-(-before * 8 // bits) : (before + length) * 8 // bits]


def in_hex(raw: bytes) -> Iterator[bytes]:
    """Digits in either case; what breaks them into groups or lines is noise."""
    yield raw.hex().encode()
    yield raw.hex().upper().encode()


def in_hex_apart(raw: bytes) -> Iterator[bytes]:
    r"""Bytes apart: 73:65, 73-65, 0x73,0x65, \x73\x65, %73%65."""
    for digits in (raw.hex(" "), raw.hex(" ").upper()):
        for before, between in (("", ":"), ("", "-"), ("0x", ",0x"), ("x", "x"), ("%", "%")):
            yield (before + digits.replace(" ", between)).encode()


def in_base64(raw: bytes) -> Iterator[bytes]:
    """As base64 and base64url, alone or within more, also in a URL."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for alone in (encode(raw), encode(raw + b"\n")):  # as `echo` pipes it
            yield from (alone, alone.rstrip(b"="))
        for before in range(3):  # bytes that stand before the value in its first three
            letters = cut_encoding(encode(bytes(before) + raw), before, len(raw), 6)
            yield letters
            yield letters.replace(b"+", b"%2B").replace(b"/", b"%2F")


def in_base64_twice(raw: bytes) -> Iterator[bytes]:
    """The letters of base64 in base64; alone with all of its end, and as it is printed, in lines of 76."""
    inner = [
        cut_encoding(base64.b64encode(bytes(before) + raw), before, len(raw), 6)
        for before in range(3)
    ]
    for each in (
        base64.b64encode(raw),
        base64.encodebytes(raw),
        base64.encodebytes(raw + b"\n"),
        *inner,
    ):
        for before in range(3):
            yield cut_encoding(base64.b64encode(bytes(before) + each), before, len(each), 6)


def in_base32(raw: bytes) -> Iterator[bytes]:
    """As base32, alone or within more."""
    for before in range(5):
        yield cut_encoding(base64.b32encode(bytes(before) + raw), before, len(raw), 5)


# ------------------------------------------------------- running/strings ----
# The search for many strings at once.


# see Strings
STEPS: list[tuple[Literal["Q", "I"], int, int]] = [("Q", 8, 16), ("Q", 8, 8), ("I", 4, 4)]


class Strings:
    """Byte strings to look for, none shorter than SHORTEST.

    The search looks at few places. A string that is long enough covers some place whose offset is a multiple of `step`,
    with a word of 8 or 4 bytes after it, wherever it begins; that word is one of the first `step` in the string. So
    the words at those places are looked up in a set, at C's speed, in one pass for any number of strings; only a string
    of which a word was seen is searched for.
    """

    def __init__(self, strings: Iterable[bytes]) -> None:
        self.sorted = sorted(strings)
        shortest = min(map(len, self.sorted))
        self.type, self.size, self.step = next(
            each for each in STEPS if each[1] + each[2] - 1 <= shortest
        )
        # of so many bytes in a row, some word is looked at
        self.covered = self.size + self.step - 1
        self.words: dict[int, bytes] = {}
        self.others: dict[int, list[bytes]] = {}  # more strings with the same word
        for start in range(self.step):
            joined = b"".join([string[start : start + self.size] for string in self.sorted])
            for word, string in zip(memoryview(joined).cast(self.type), self.sorted, strict=True):
                if self.words.setdefault(word, string) is not string:
                    self.others.setdefault(word, []).append(string)

    def suspects(self, text: bytes) -> set[bytes]:
        """The strings that may be in `text`, whole or with their first `covered` bytes or more."""
        words = memoryview(text)[: len(text) // self.size * self.size].cast(self.type)[
            :: self.step // self.size
        ]
        seen = self.words.keys() & words
        return {
            string for word in seen for string in (self.words[word], *self.others.get(word, ()))
        }

    def beginning(self, text: bytes, suspects: set[bytes]) -> int:
        """Where the longest end of `text` begins that is the beginning of a string, but not all of it; else its length."""
        longest = len(text)
        for string in suspects:
            start = text.find(string[: self.covered], max(0, len(text) - len(string) + 1))
            while 0 <= start < longest:
                if string.startswith(text[start:]):
                    longest = start
                start = text.find(string[: self.covered], start + 1)
        for start in range(max(0, len(text) - self.covered + 1), longest):
            end = text[start:]
            place = bisect.bisect_left(self.sorted, end)
            if place < len(self.sorted) and self.sorted[place].startswith(end):
                return start
        return longest


def occurrences(string: bytes, text: bytes) -> Iterator[tuple[int, int]]:
    """Where a string is in a text: starts and ends, those that overlap by a repetition in the string as one.

    Of one that repeats itself (abababab) there may be one at every other byte. So a repetition is followed to its end by
    comparing the text with itself, in pieces that double. What overlaps otherwise does so by less than half: that is
    linear in the text for any string.
    """
    start = text.find(string)
    while start >= 0:
        end = start + len(string)
        last = start
        near = text.find(string, start + 1, end + len(string) - 1)
        if 0 <= near < end and near - start <= len(string) // 2:
            period, piece = near - start, 1 << 6
            while piece:
                if text[end : end + piece] == text[
                    end - period : end - period + piece
                ] and end + piece <= len(text):
                    end, piece = end + piece, piece * 2
                else:
                    piece //= 2
            last = end - len(string) - (end - len(string) - start) % period
            end = last + len(string)
            near = text.find(string, last + 1)
        elif near < 0:
            near = text.find(string, end)
        yield start, end
        start = near


# --------------------------------------------------------- running/views ----
# A text less its noise, and where in the text each byte of it stands.
#
# The noise is taken away at C's speed. Where a byte of what remains stood is asked only for what was
# found, which is seldom.


BLOCK = 1024
IS_TEXT = bytes(byte not in NOISE for byte in range(256))
# ECMA-48; of the last one not all may be there
COLOURS = regex(rb"\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|\Z)|[ -/]*(?:[0-Z\\^-~]|\Z))")
SOFT = regex(rb"=\r?(?:\n|\Z)")  # quoted-printable: the line goes on


class View:
    """The bytes of some stretches of `data`, less the noise: `text`. From `open` on it may mean something else with more data."""

    def __init__(self, data: bytes, stretches: list[tuple[int, int]]) -> None:
        self.data, self.stretches, self.open = data, stretches, len(data)
        whole = (
            data
            if stretches == [(0, len(data))]
            else b"".join(data[start:end] for start, end in stretches)
        )
        self.text = solid(whole)
        # of the data: how much of the text is before, start, end
        self.blocks: list[tuple[int, int, int]] = []
        # the places of the text's bytes in the block that was asked for last
        self.here: tuple[int, list[int]] = -1, []

    def place(self, index: int) -> int:
        """Where in the data a byte of the text stands."""
        if not self.blocks:
            count = 0
            for first, last in self.stretches:
                for start in range(first, last, BLOCK):
                    end = min(start + BLOCK, last)
                    self.blocks.append((count, start, end))
                    count += len(solid(self.data[start:end]))
        number = bisect.bisect_right(self.blocks, (index, len(self.data))) - 1
        before, start, end = self.blocks[number]
        if self.here[0] != number:
            self.here = (
                number,
                list(
                    itertools.compress(range(start, end), self.data[start:end].translate(IS_TEXT))
                ),
            )
        return self.here[1][index - before]

    def end(self, index: int) -> int:
        """Where in the data a string ends whose last byte this is."""
        return self.place(index) + 1

    def beginning(self, index: int) -> int:
        """From where on the data is wanted when more of it comes, if a string may begin at that byte."""
        return self.place(index) if index < len(self.text) else len(self.data)


class Exact(View):
    """The data as it is."""

    def __init__(self, data: bytes) -> None:
        self.data, self.text, self.open = data, data, len(data)

    def place(self, index: int) -> int:
        return index


ROW = regex(rb"(?m)^[0-9a-fA-F]{6,16}(:?)[ \t]+(\S[^\n]*)(\n?)")
OPEN_ROW = regex(rb"[0-9a-fA-F]{1,16}:?|[0-9a-fA-F]{6,16}:?[ \t][^\n]*")
# how the numbers of a row are written
DUMP_NUMBERS: list[tuple[re.Pattern[bytes], Callable[[bytes], bytes]]] = [
    (regex(rb"[0-9a-fA-F]{2}"), lambda word: bytes([int(word, 16)])),
    (regex(rb"[0-7]{3}"), lambda word: bytes([int(word, 8) & 255])),
    (regex(rb"[0-9a-fA-F]{4}"), lambda word: int(word, 16).to_bytes(2, "little")),
    (regex(rb"[0-7]{6}"), lambda word: (int(word, 8) & 65535).to_bytes(2, "little")),
    (
        regex(rb"[^ ]|\\.|[0-7]{3}"),
        lambda word: bytes([int(word, 8) & 255]) if len(word) == 3 else word[-1:],
    ),
]


def open_row(data: bytes) -> int:
    """Where the last line begins, if it may become a row of a dump; else the length."""
    start = data.rfind(b"\n") + 1
    return start if OPEN_ROW.fullmatch(data, start) else len(data)


class Dump(View):
    """What a dump in rows shows, as xxd, hexdump and od print it: an offset, numbers, and often the text beside them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.places: list[int] = []
        self.ends: list[int] = []  # of the rows: the text beside the numbers belongs to them
        self.rows: list[int] = []  # where they begin
        self.open = open_row(data)
        text = bytearray()
        for row in ROW.finditer(data):
            for place, byte in self.read(row):
                if byte not in NOISE:
                    text.append(byte)
                    self.places.append(place)
                    self.ends.append(row.end(2))
                    self.rows.append(row.start())
        self.text = bytes(text)

    def read(self, row: re.Match[bytes]) -> list[tuple[int, int]]:
        """The bytes of a row, and where each stands."""
        shown = row[2].split(b"  ")[0] if row[1] else re.split(rb"  [|>]", row[2])[0]
        words = [(row.start(2) + word.start(), word[0]) for word in re.finditer(rb"\S+", shown)]
        if row[1]:  # xxd, in groups of any size
            words = [
                (at + n, word[n : n + 2]) for at, word in words for n in range(0, len(word), 2)
            ]
        if words and not row[3] and row.end() == len(self.data):
            words.pop()  # of the last one not all may be there
        for pattern, read in DUMP_NUMBERS:
            if all(pattern.fullmatch(word) for _, word in words):
                return [(at, byte) for at, word in words for byte in read(word)]
        return []

    def place(self, index: int) -> int:
        return self.places[index]

    def end(self, index: int) -> int:
        return self.ends[index]

    def beginning(self, index: int) -> int:
        return self.rows[index] if index < len(self.text) else self.open


def without(data: bytes, pattern: re.Pattern[bytes]) -> View:
    """A view of the data less what the pattern finds."""
    stretches, start = [], 0
    for found in pattern.finditer(data):
        stretches.append((start, found.start()))
        start = found.end()
    return View(data, [*stretches, (start, len(data))])


def views_of(data: bytes) -> Iterator[View]:
    """The data less its noise; and where there are colours, soft line breaks or rows of a dump, less those."""
    yield View(data, [(0, len(data))])
    if b"\x1b" in data:
        yield without(data, COLOURS)
    if b"=\n" in data or b"=\r\n" in data or data.endswith((b"=", b"=\r")):
        yield without(data, SOFT)
    if b"\n000" in data or data.startswith(b"000"):
        yield Dump(data)


# ------------------------------------------------------- running/looking ----
# All forms of all values, in all views of a text.


# values by place, GROUP/KEY: one, or more where two machines set it and nobody has settled that
Secrets = dict[str, list[str]]


class Form(Fields, frozen=True, order=True):
    """What a string says when it is found: a value of which place, in which form."""

    place: str
    kind: str


def meanings_of(secrets: Secrets) -> dict[bytes, list[Form]]:
    """All strings by which these secrets can be recognized, less their noise, and what each says."""
    meanings: dict[bytes, list[Form]] = {}
    for place in sorted(secrets):
        for value in secrets[place]:
            for string, kind in forms_of(value, len(secrets) <= MANY).items():
                meanings.setdefault(string, []).append(Form(place, kind))
    return meanings


def exact_of(secrets: Secrets) -> dict[bytes, list[Form]]:
    """The same for those that are to be found with their noise."""
    meanings: dict[bytes, list[Form]] = {}
    for place in sorted(secrets):
        for value in secrets[place]:
            for string, kind in exact_forms_of(value).items():
                meanings.setdefault(string, []).append(Form(place, kind))
    return meanings


def untold(places: Places, purpose: str, names: list[str]) -> list[str]:
    """Of the names of short values those that were not yet told for that purpose; they are noted in the state directory."""
    path = places.own("told")
    try:
        told = read_file(path).decode().splitlines()
    except (AvaultError, OSError, UnicodeDecodeError):
        told = []
    new = [name for name in names if f"{purpose} {name}" not in told]
    if new:
        with contextlib.suppress(OSError, AvaultError):  # then they are told again
            write_file(
                path,
                "".join(
                    f"{line}\n" for line in [*told, *(f"{purpose} {name}" for name in new)]
                ).encode(),
            )
    return new


class Search:
    """The search for strings in all views of some data, and for some in the data as it is."""

    def __init__(self, strings: Iterable[bytes], exact: Iterable[bytes]) -> None:
        solid_ones, exact_ones = list(strings), list(exact)
        self.strings = Strings(solid_ones) if solid_ones else None
        self.exact = Strings(exact_ones) if exact_ones else None
        self.longest = max(map(len, solid_ones + exact_ones), default=0)

    def views(self, data: bytes) -> Iterator[tuple[View, Strings]]:
        """The views in which to look, each with the strings to look for."""
        if self.strings:
            for view in views_of(data):
                yield view, self.strings
        if self.exact:
            yield Exact(data), self.exact


# ------------------------------------------------------- running/secrets ----
# Which secrets a command gets, and under which names: the vault's choice, dotenv files, references.
#
# A secret is named by its place, GROUP/KEY. It has one value, or more where two machines set it and
# nobody has settled that: the first one counts.


REFERENCE = regex(rb"avault://(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z_][A-Za-z0-9_]{0,127}))?")


def reveal(
    terminal: Terminal, purpose: str, groups: Iterable[str] = (), only: Iterable[str] = ()
) -> Secrets:
    """Secrets from the daemon, for the `purpose` that the access log is told; raises what it answers."""
    rows = terminal.ask("reveal", groups=list(groups), only=list(only), **{"for": purpose})[
        "secrets"
    ]
    return {f"{row['group']}/{row['key']}": [row["value"], *row["conflicts"]] for row in rows}


def reveal_for_masks(terminal: Terminal, given: Secrets) -> Secrets:
    """All secrets of the vault, for masks: a command can ask the daemon for those too that were not given to it."""
    secrets = reveal(terminal, "mask")
    for place, values in given.items():  # somebody may have changed one meanwhile
        secrets[place] = list(dict.fromkeys([*values, *secrets.get(place, [])]))
    return secrets


def find_references(data: bytes, where: str) -> set[str]:
    """The places that avault://GROUP/KEY in `data` name; raises Usage for one that names none."""
    places = set()
    for found in REFERENCE.finditer(data):
        if not found[1]:
            line = data.count(b"\n", 0, found.start()) + 1
            where = f"{where}, line {line}" if b"\n" in data else where
            raise Usage(
                f"{where}: a reference without group and key", "as in avault://openai/API_KEY"
            )
        places.add(found[1].decode())
    return places


def resolve(data: bytes, secrets: Secrets) -> bytes:
    """`data` with values for its references. A value is not looked into."""
    return REFERENCE.sub(lambda found: secrets[found[1].decode()][0].encode(), data)


def read_env_file(path: str) -> dict[str, str]:
    """The variables of a dotenv file; says what is left of it, and what others read differently. Raises NotFound, Usage."""
    return parse_env_file(
        read_file(os.path.expanduser(path), MAX_FRAME, only_regular=False), printable(path)
    )


def parse_env_file(data: bytes, name: str) -> dict[str, str]:
    """The variables in the bytes of a dotenv file, whose `name` is for people. Raises Usage."""
    try:
        text = data.decode()
        if "\0" in text:
            raise Usage(f"{name} is not text", "a dotenv file has lines like NAME=value")
        variables, told = read_dotenv(text, takes_references=True)
    except UnicodeDecodeError:
        raise Usage(
            f"{name} is not text in UTF-8", "a dotenv file has lines like NAME=value"
        ) from None
    except Usage as error:
        raise Usage(f"{name}, {error.message}", error.hint) from None
    tell_of_lines([each for each in told if each.problem != EMPTY], name)
    return variables


def read_project_file() -> dict[str, str] | None:
    """The variables of avault.env in the current directory, each with its reference; None if there is no such file.

    It comes with a project, so it may be a stranger's: it chooses among the secrets, and has nothing of its own to give.
    Raises Usage, and Denied where somebody else than the user could write it.
    """
    path = PROJECT_FILE
    if not os.path.lexists(path):  # a link that leads nowhere is no wish for all secrets
        return None
    try:
        with open(
            os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0
        ) as file:
            # of what is read: in a directory of others a name is soon that of another file
            info = os.fstat(file.fileno())
            if (
                not stat.S_ISREG(info.st_mode)
                or info.st_uid not in (0, os.getuid())
                or info.st_mode & stat.S_IWOTH
            ):
                raise Denied(
                    f"{path} is no file of yours, or others can write it", f"without it: {WITHOUT}"
                )
            data = file.read(MAX_VALUE + 1)
    except OSError as error:
        raise AvaultError(
            f"cannot read {path}: {error.strerror}", f"without it: {WITHOUT}"
        ) from None
    if len(data) > MAX_VALUE:
        raise Usage(
            f"{path} is too large; the limit is {MAX_VALUE:,} bytes", f"without it: {WITHOUT}"
        )
    variables = parse_env_file(data, path)
    for name, value in variables.items():
        if not (found := REFERENCE.fullmatch(value.encode())) or not found[1]:
            hint = f"as in {name}=avault://GROUP/KEY; a file with values is for: avault run --env-file {path}"
            raise Usage(f"{path}: {name} is no reference to a secret", hint)
    return variables


WITHOUT = "avault run --all"


class Injection:
    """What a command is given: `variables`, `files` (both by variable), and all `secrets` that are in them."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.secrets: Secrets = {}
        self.places: dict[str, str] = {}  # by variable, for what the vault has named

    def take(
        self,
        terminal: Terminal,
        groups: list[str],
        only: list[str],
        named: list[str],
        prefix: bool,
        allow: list[str],
    ) -> None:
        """Add secrets of the vault, as `avault export` names them; raises what the daemon answers."""
        choice = {"groups": groups, "only": only, "as": named, "prefix": prefix, "allow": allow}
        answer = terminal.ask("export", **choice, **{"for": "run"})
        self.places, self.variables = answer["names"], answer["variables"]
        self.secrets = {place: [self.variables[name]] for name, place in self.places.items()}

    def set(self, terminal: Terminal, variables: dict[str, str], allow: list[str]) -> None:
        """Add variables of a dotenv file, with values for their references; raises Usage, NotFound, Denied."""
        refuse_dangerous(variables, allow)
        wanted = {
            place
            for name, value in variables.items()
            for place in find_references(value.encode(), name)
        }
        if missing := sorted(wanted - self.secrets.keys()):
            self.secrets |= reveal(terminal, "run", only=missing)
        for name, value in variables.items():
            self.places.pop(name, None)
            self.variables[name] = resolve(value.encode(), self.secrets).decode()

    def move_to_file(self, terminal: Terminal, word: str, prefix: bool, allow: list[str]) -> None:
        """Give a variable, KEY or GROUP/KEY as a file, under its name and _FILE; raises NotFound, Usage, Denied."""
        names = [
            name
            for name, place in self.places.items()
            if word in (name, place, place.partition("/")[2])
        ]
        if word in self.variables:
            names = [word]
        elif not names:
            found = reveal(terminal, "run", only=[word])
            self.secrets |= found
            for place, values in found.items():
                group, _, key = place.partition("/")
                name = as_name(group, key) if prefix else key
                names.append(name)
                self.places[name], self.variables[name] = place, values[0]
            if len(found) > 1:
                raise Usage(
                    f"{word} is in more than one group: {', '.join(found)}",
                    f"name one: --as-file {min(found)}",
                )
        for name in names:
            if f"{name}_FILE" in self.variables:
                raise Usage(
                    f"{name}_FILE is a variable already", "choose others with --only or --group"
                )
            refuse_dangerous([f"{name}_FILE"], allow)
            self.files[f"{name}_FILE"] = self.variables.pop(name)

    def environment(self) -> dict[bytes, bytes]:
        """The environment of the command: what is there, and over it what was chosen. Makes the files."""
        given = {name: value.encode() for name, value in self.variables.items()}
        given |= {name: make_file(value).encode() for name, value in self.files.items()}
        return {**os.environb, **{name.encode(): value for name, value in given.items()}}


def refuse_dangerous(names: Iterable[str], allow: list[str]) -> None:
    """Refuse variables that change what programs do, as `avault export` does; raises Denied."""
    if refused := sorted(name for name in names if is_dangerous(name) and name not in allow):
        raise Denied(
            f"{', '.join(refused)} would change what other programs do",
            "if you mean it: " + " ".join(f"--allow {name}" for name in refused),
        )


def make_file(value: str) -> str:
    """Put a value into memory that has a path, and no name on any disk (memfd_create(2)); raises Unavailable.

    It cannot be changed, only its owner may read it (ssh refuses keys of others), and it ends with this process, which
    stays as long as the command, or becomes it. The path names this process and not /proc/self: many programs close
    descriptors that they do not know, in themselves or in what they start, and must find it all the same.
    """
    hint = "use a variable, or: avault inject -o FILE"
    if not hasattr(os, "memfd_create"):
        raise Unavailable("--as-file needs Linux", hint)
    # not close-on-exec: with --no-mask the command inherits it
    fd = os.memfd_create("avault", os.MFD_ALLOW_SEALING)
    write_all(fd, value.encode())
    os.fchmod(fd, 0o400)
    fcntl.fcntl(
        fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL,
    )
    path = f"/proc/{os.getpid()}/fd/{fd}"
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return path
    raise Unavailable("--as-file needs /proc, which is not here", hint)


# ----------------------------------------------------- running/templates ----
# What a template is written in, and where in it a reference stands.
#
# A value is put where its reference stands, so that whoever reads the file gets that very value and
# nothing else of the file changes its meaning. What a template is written in tell its name, the
# output's name, its first bytes, or --for. Where nothing tells it, or where a place can hold no such
# value, a value that could break the file is refused.


TEMPLATE_FORMS = ("json", "yaml", "toml", "dotenv", "shell", "xml", "text")
ENDINGS = {
    "json": "json", "jsonc": "json", "yaml": "yaml", "yml": "yaml", "toml": "toml", "env": "dotenv", "sh": "shell",
    "bash": "shell", "zsh": "shell", "envrc": "shell", "profile": "shell", "bashrc": "shell", "zshrc": "shell", "xml": "xml",
    "plist": "xml", "svg": "xml", "xhtml": "xml", "txt": "text", "md": "text", "pem": "text", "key": "text", "crt": "text",
}  # fmt: skip
OF_TEMPLATES = frozenset("tmpl tpl template in j2 jinja example sample dist".split())
TEMPLATE_REFERENCE = regex(
    "avault://([A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z_][A-Za-z0-9_]{0,127})"
)


def form_of_name(path: str | None) -> str | None:
    """What a file of that name is written in: config.json, config.json.tmpl, .env.production; None where it does not tell."""
    parts = os.path.basename(path or "").split(".")
    while len(parts) > 1 and parts[-1] in OF_TEMPLATES:
        parts.pop()
    if parts[0] == "" and parts[1:2] == ["env"]:
        return "dotenv"
    return ENDINGS.get(parts[-1].lower()) if len(parts) > 1 else None


def form_of_text(text: str) -> str | None:
    """What a text is written in, if it shows: JSON is what JSON parses."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(TEMPLATE_REFERENCE.sub("0", text))
            return "json"
        except (ValueError, RecursionError):
            return None
    if re.match(r"\s*<[?!A-Za-z]", text):
        return "xml"
    return "shell" if re.match(r"#!.*\b(ba|da|z|k)?sh\b", text) else None


class Place(Fields, frozen=True):
    """A piece of a text in which the same rules hold: what it is, and where it begins and ends.

    `indent` is that of a YAML block; `is_flow` tells whether a YAML scalar is in brackets.
    """

    kind: str
    start: int
    end: int
    indent: int = 0
    is_flow: bool = False


DOUBLE_QUOTED = r'"(?:\\.|[^"\\])*"'
TEMPLATE_TOKENS = {
    "json": rf"""(?P<string>{DOUBLE_QUOTED}?) | (?P<comment>(?<!:)//[^\n]*|/\*.*?\*/)""",
    "toml": r"""(?P<string>\"{3}(?:\\.|[^\\])*?\"{3}|"(?:\\.|[^"\\\n])*"?)
        | (?P<lines>'{3}.*?'{3}) | (?P<literal>'[^'\n]*'?) | (?P<comment>\#[^\n]*)""",
    "dotenv": rf"""(?m:(?P<comment>^[ \t]*\#[^\n]*)
        | ^[ \t]*(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*[ \t]*=[ \t]*
        (?:(?P<single>'(?:\\.|[^'\\])*') | (?P<double>{DOUBLE_QUOTED}) | (?P<other>`[^`]*`)
        | (?P<plain>[^\n]*?)(?=[ \t]+\#|[ \t\r]*$)))""",
    "shell": rf"""(?P<document>(?<!<)<<-?[ \t]*['"\\]?(?P<end>\w+)['"]?[^\n]*\n.*?^\t*(?P=end)$)
        | (?P<single>'[^']*') | (?P<double>{DOUBLE_QUOTED}) | (?P<other>\$'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`) | \\.
        | (?P<comment>(?:^|(?<=[\s;&|(]))\#[^\n]*)""",
    "xml": r"""(?P<comment><!--.*?-->) | (?P<cdata><!\[CDATA\[.*?\]\]>) | (?P<other><[?!].*?>)
        | (?P<tag></?[A-Za-z_:](?:"[^"]*"|'[^']*'|[^<>"'])*>)""",
}


def find_tokens(form: str, text: str) -> Iterator[Place]:
    """The places of a text in a form whose tokens an expression tells."""
    flags = re.DOTALL | re.VERBOSE | (re.MULTILINE if form == "shell" else 0)
    for found in re.compile(TEMPLATE_TOKENS[form], flags).finditer(text):
        kind = next(
            (
                name
                for name, piece in found.groupdict().items()
                if piece is not None and name != "end"
            ),
            None,
        )
        if kind == "tag":
            yield Place("other", *found.span())
            for value in re.finditer(r"""=\s*("[^"]*"|'[^']*')""", found[0]):
                yield Place(
                    "attribute", found.start() + value.start(1), found.start() + value.end(1)
                )
        elif kind:
            yield Place(kind, *found.span(kind))


YAML_DOUBLE = regex(r'(?s)"(?:\\.|[^"\\])*"?')
YAML_SINGLE = regex(r"'(?:''|[^'])*'?")
YAML_PROPERTY = regex(r"[&*!][^\s,\[\]{}]*")
YAML_BLOCK = regex(r"[|>][-+0-9]*[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z)")
YAML_PLAIN = regex(r"(?:[^\n:#]|:(?=[^ \t\r\n])|(?<![ \t])#)+")
YAML_FLOW = regex(r"(?:[^\n:#,\[\]{}]|:(?=[^ \t\r\n,\[\]{}])|(?<![ \t])#)+")


def find_yaml(text: str) -> Iterator[Place]:
    """The scalars and comments of a YAML text (YAML 1.2, chapters 6 to 8)."""
    at = flow = 0
    while at < len(text):
        c, following = text[at], text[at + 1 : at + 2]
        found: re.Match[str] | None = None
        if c == "#" and (at == 0 or text[at - 1] in " \t\n"):
            found, kind = re.compile("[^\n]*").match(text, at), "comment"
        elif c == '"':
            found, kind = YAML_DOUBLE.match(text, at), "double"
        elif c == "'":
            found, kind = YAML_SINGLE.match(text, at), "single"
        elif c in "&*!":
            found, kind = YAML_PROPERTY.match(text, at), "other"
        elif c in "|>" and not flow and (header := YAML_BLOCK.match(text, at)):
            block = read_block(text, at, header.end())
            yield block
            at = block.end
            continue
        elif (
            c in "[{]}"
            or c in " \t\r\n"
            or (c in "-?:" and (not following or following in " \t\r\n"))
            or (c == "," and flow)
        ):
            flow = max(flow + (c in "[{") - (c in "]}"), 0)
        elif c != ":" or text[at - 1 : at] not in ('"', "'"):
            found, kind = (YAML_FLOW if flow else YAML_PLAIN).match(text, at), "plain"
        if found:
            end = at + len(found[0].rstrip()) if kind == "plain" else found.end()
            yield Place(kind, at, end, is_flow=flow > 0)
            at = max(end, at + 1)
        else:
            at += 1


def read_block(text: str, header: int, start: int) -> Place:
    """The block scalar whose header stands there: its lines have an indent that is more than the header's line has."""
    line = text.rfind("\n", 0, header) + 1
    outer = len(text[line:header]) - len(text[line:header].lstrip(" "))
    first = re.compile(r"(?:[ \t\r]*\n)*( *)[^ \n]").match(text, start)
    indent = len(first[1]) if first else 0
    if indent <= outer:
        return Place("other", header, start)
    end = re.compile(rf"(?m)^ {{0,{indent - 1}}}[^ \n\r]").search(text, start)
    return Place(
        "literal" if text[header] == "|" else "folded",
        start,
        end.start() if end else len(text),
        indent,
    )


# ------------------------------------------------------- running/writing ----
# A value, as it must stand in a place of a template.


class Breaks(Exception):
    """Why a value cannot stand in a place."""


CONTROL = regex(r"[\x00-\x08\x0b-\x1f\x7f]")
YAML_UNPRINTABLE = regex("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufdd0-\ufdef\ufffe\uffff]")
YAML_WORDS = frozenset("null yes no on off y n".split())
SURE = regex(r"-?(0|[1-9][0-9]{0,17})|true|false")  # mean the same to all, as a string or not
BREAKERS = regex(r"""[\s'"`\\$#;&<>\x00-\x1f\x7f]""")


def refuse_characters(value: str, pattern: str, what: str) -> str:
    """`value`, if it has nothing of a pattern; raises Breaks."""
    if re.search(pattern, value):
        raise Breaks(f"it has {what}")
    return value


def one_line(value: str) -> str:
    """`value`, if it is one line of text."""
    return refuse_characters(
        value, r"[\x00-\x1f\x7f\x85\u2028\u2029]", "line ends or control characters"
    )


def quote_json(value: str) -> str:
    """The inside of a JSON string; of a TOML string too."""
    return json.dumps(value, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")


def quote_yaml(value: str) -> str:
    """The inside of a double-quoted YAML scalar."""
    quoted = (
        value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    )
    return YAML_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def write_json(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in JSON: in a string, or as JSON of its own."""
    if place:
        return (
            quote_json(value)
            if place.kind == "string"
            else one_line(refuse_characters(value, r"\*/", "the end of a comment"))
        )
    try:
        json.loads(value, parse_constant=lambda _: int("not JSON"))
        return value
    except (ValueError, RecursionError):
        raise Breaks("it is not JSON, and stands outside of quotes") from None


def write_toml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in TOML: in a string of one of four kinds, or as a value of its own."""
    if place is None:
        if text[:start].rstrip(" \t")[-1:] not in ("=", "[", ",", "\n") or text[end:].lstrip(
            " \t\r"
        )[:1] not in (
            "",
            "\n",
            ",",
            "]",
            "#",
            "}",
        ):
            raise Breaks("it stands in a longer word without quotes")
        return value if SURE.fullmatch(value) else f'"{quote_json(value)}"'
    if place.kind == "string":
        return quote_json(value)
    if place.kind == "comment":
        return one_line(value)
    refuse_characters(
        value, r"'|\A\n", "a single quote or begins with a line end, and stands in single quotes"
    )
    return (
        refuse_characters(value, r"[\x00-\x08\x0b-\x1f\x7f]", "control characters")
        if place.kind == "lines"
        else one_line(value)
    )


def write_yaml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in YAML: in a scalar of one of five kinds, or as one."""
    kind = place.kind if place else "other"
    if place is None or kind == "other":
        return refuse_characters(
            value, r"[^A-Za-z0-9_./@+-]", "characters that mean something there"
        )
    if kind == "double":
        return quote_yaml(value)
    if kind == "single":
        return one_line(value).replace("'", "''")
    if kind == "comment":
        return one_line(value)
    if kind in ("literal", "folded"):
        return write_block(text, start, end, place, value)
    is_whole = text[place.start : place.end] == text[start:end]
    if SURE.fullmatch(value) or (
        re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./@+-]*", value) and value.lower() not in YAML_WORDS
    ):
        return value
    if is_whole:
        return f'"{quote_yaml(value)}"'
    one_line(
        refuse_characters(value, r"\s", "white space, and stands in a longer word without quotes")
    )
    if place.is_flow:
        refuse_characters(
            value, r"[,\[\]{}]", "brackets or commas, and stands in brackets without quotes"
        )
    is_first = start == place.start and not re.match("[A-Za-z0-9_./]", value)
    if is_first or value[-1] == ":" or (value[0] == "#" and text[start - 1] in " \t"):
        raise Breaks("it begins or ends with a character that means something there")
    return value


def write_block(text: str, start: int, end: int, place: Place, value: str) -> str:
    """A value in the lines of a YAML block: they get the indent of the line that the reference is on."""
    refuse_characters(
        value, "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]", "control characters"
    )
    if value[0] in " \t\n":
        raise Breaks("it begins with white space")
    if place.kind == "folded":
        return one_line(value)
    line = text.rfind("\n", 0, start) + 1
    before = text[line:start]
    indent = before if not before.strip(" ") else " " * place.indent
    is_alone = indent is before and text[end : end + 1] in ("", "\n", "\r")
    return (value.removesuffix("\n") if is_alone else value).replace("\n", "\n" + indent)


def write_dotenv(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in a .env file: in quotes, or as a value of its own, as `avault export` writes it."""
    refuse_characters(value, "\r", "a carriage return")
    kind = place.kind if place else "other"
    if kind == "double":
        return re.sub(r'([\\"$`])', r"\\\1", value)
    if kind == "single":
        return refuse_characters(
            value, r"'|\\\\|\\$|\\\Z", "quotes or backslashes, and stands in single quotes"
        )
    if kind == "comment":
        return one_line(value)
    if place and kind == "plain" and text[place.start : place.end] == text[start:end]:
        return quote_dotenv("K", value)[2:-1]
    return refuse_characters(
        value,
        f"[^{re.escape(''.join(sorted(PLAIN)))}]",
        "characters that need quotes around the whole",
    )


def write_shell(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in a shell script: in quotes, or as a word or a part of one."""
    kind = place.kind if place else "bare"
    if re.search(r'"[^"\n]*(?:\$\(|`)', text[text.rfind("\n", 0, start) + 1 : start]):
        kind = "other"  # quotes in a command in quotes
    if kind == "double":
        return re.sub(r'([\\"$`])', r"\\\1", value)
    if kind == "single":
        return value.replace("'", "'\\''")
    if kind == "bare":
        return shlex.quote(value)
    if kind == "comment":
        return one_line(value)
    return refuse_characters(
        value,
        f"[^{re.escape(''.join(sorted(PLAIN)))}]",
        "characters that mean something to a shell there",
    )


def write_xml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in XML: in text, in an attribute, in CDATA, in a comment."""
    refuse_characters(value, "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "control characters")
    kind = place.kind if place else "text"
    if kind == "cdata":
        return refuse_characters(
            value, r"\]\]|\]\Z|\r", "the end of a CDATA section, or a carriage return"
        )
    if kind == "comment":
        return refuse_characters(value, r"-(-|\Z)", "the end of a comment")
    if kind == "other":
        return refuse_characters(value, "[^A-Za-z0-9_.-]", "characters that mean something there")
    value = (
        value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    )
    if kind == "attribute":
        for character, written in (
            ('"', "&quot;"),
            ("'", "&apos;"),
            ("\n", "&#10;"),
            ("\t", "&#9;"),
        ):
            value = value.replace(character, written)
    return value


WRITERS: dict[str, Callable[[str, int, int, Place | None, str], str]] = {
    "json": write_json, "yaml": write_yaml, "toml": write_toml, "dotenv": write_dotenv, "shell": write_shell, "xml": write_xml,
}  # fmt: skip


# -------------------------------------------------------- running/inject ----
# avault inject: values into a template, written as the form around them wants it.


def fill(template: bytes, form: str | None, secrets: Secrets, where: str) -> bytes:
    """A template with values for its references, written as its form wants it; raises Usage for one that would break it."""
    text = template.decode("utf-8", "surrogateescape")
    form = form or form_of_text(text)
    if form == "text" or (form is None and TEMPLATE_REFERENCE.fullmatch(text.strip())):
        return resolve(template, secrets)
    places = list(find_yaml(text) if form == "yaml" else find_tokens(form, text) if form else ())
    starts = [place.start for place in places]
    writer = WRITERS.get(form or "")

    def write(found: re.Match[str]) -> str:
        value = secrets[found[1]][0]
        index = bisect.bisect_right(starts, found.start()) - 1
        while (
            index > 0 and places[index].kind == "attribute" and places[index].end <= found.start()
        ):
            index -= 1  # to the tag that it is in
        place = places[index] if index >= 0 and found.start() < places[index].end else None
        try:
            if writer:
                return writer(text, *found.span(), place, value)
            if BREAKERS.search(value):
                raise Breaks("it has characters that may mean something there")
            return value
        except Breaks as reason:
            line = text.count("\n", 0, found.start()) + 1
            hint = (
                "--for text puts it there as it is"
                if writer
                else "say what the template is: --for json, yaml, toml, dotenv, shell, xml, text"
            )
            raise Usage(
                f"{where}, line {line}: {found[1]} would break it: {reason}", hint
            ) from None

    return TEMPLATE_REFERENCE.sub(write, text).encode("utf-8", "surrogateescape")


@command(
    "inject",
    option("-i", "--input", "source"),
    option("-o", "--output", "target"),
    option("--for", "form"),
)
def cmd_inject(terminal: Terminal, source: str | None, target: str | None, form: str | None) -> int:
    """usage: avault inject [-i TEMPLATE] [-o FILE] [--for json|yaml|toml|dotenv|shell|xml|text]

    Replaces avault://GROUP/KEY in a template by its value, written as it must be
    where it stands: escaped in a JSON string, indented in a YAML block, quoted
    for a shell. What the template is tells its name (config.json.tmpl), else
    FILE's, else its first bytes, else --for. Where nothing tells it, or where no
    writing helps, a value that could break the file is refused; --for text puts
    values there as they are. The rest stays as it is, byte for byte.

    From stdin to stdout if not told otherwise. FILE is written whole or not at
    all, for its owner alone (0600), and never through a symlink. If a reference
    is to what is not there, nothing is written.

      avault inject -i config.tmpl.json -o config.json
      echo 'machine api.example.com password avault://api/TOKEN' | avault inject -o ~/.netrc
    """
    if form not in (None, *TEMPLATE_FORMS):
        raise Usage(f"no form {printable(form)!r}", f"one of: {', '.join(TEMPLATE_FORMS)}")
    path = None if target is None else os.path.abspath(os.path.expanduser(target))
    if path is not None:
        refuse_target(path, source)
    template, where = read_template(source)
    places = sorted(find_references(template, where))
    secrets = reveal(terminal, "inject", only=places) if places else {}
    data = fill(template, form or form_of_name(source) or form_of_name(path), secrets, where)
    if path is None:
        put_bytes(data)
        return 0
    write_file(path, data)
    if terminal.want_json:
        put(json.dumps({"file": path, "references": places}, indent=2, ensure_ascii=False) + "\n")
    elif sys.stderr.isatty():
        say(f"wrote {printable(path)}, with {len(places)} secrets")
    return 0


def refuse_target(path: str, source: str | None) -> None:
    """Refuse to write over the template, through a symlink, or in place of what is no file; raises Denied, NotFound."""
    if not os.path.isdir(os.path.dirname(path)):
        raise NotFound(
            f"no directory {printable(os.path.dirname(path))}",
            f"mkdir -p {shlex.quote(printable(os.path.dirname(path)))}",
        )
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return  # not there; or writing will say what is wrong
    if stat.S_ISLNK(kind):
        raise Denied(
            f"{printable(path)} is a symlink",
            f"name the file itself: {printable(os.path.realpath(path))}",
        )
    if not stat.S_ISREG(kind):
        raise Denied(
            f"{printable(path)} is not a regular file", "without -o the output goes to stdout"
        )
    template = os.path.expanduser(source or "-")
    if os.path.exists(template) and os.path.samefile(template, path):
        raise Denied(
            f"{printable(path)} is the template",
            "give the output another name; a template may go into git, its output may not",
        )


def read_template(source: str | None) -> tuple[bytes, str]:
    """The template, and what to call it; raises NotFound, AvaultError."""
    path: int | str = 0 if source in (None, "-") else os.path.expanduser(str(source))
    name = "stdin" if path == 0 else printable(source)
    try:
        with open(path, "rb", closefd=path != 0) as file:
            return file.read(), name
    except FileNotFoundError:
        raise NotFound(f"no file {name}") from None
    except OSError as error:
        raise AvaultError(f"cannot read {name}: {error.strerror}") from None


def put_bytes(data: bytes) -> None:
    """Write data that may be no text to stdout; raises AvaultError."""
    try:
        write_all(1, data)
    except BrokenPipeError:
        sys.exit(141)  # as `put` does
    except OSError as error:
        raise AvaultError(f"cannot write the output: {error.strerror}") from None


# ------------------------------------------------------- running/process ----
# What a command's process starts with: signals, core files, and its place.


GRACE = 2.0  # seconds that a command has to end when we were killed
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


def passed_signals() -> list[int]:
    """Those that go on to the command.

    Not what cannot be caught, what only a fault of ours sends, and what our own writing does.
    """
    ours = {
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL,
        signal.SIGPIPE, signal.SIGXFSZ,
    }  # fmt: skip
    return sorted(signal.valid_signals() - ours)


def typed_signals() -> set[int]:
    """Those that keys send to all of the terminal's foreground."""
    return {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP}


def terminal_signals() -> set[int]:
    """Those that the kernel sends to all of a process group in the background."""
    return {signal.SIGTTIN, signal.SIGTTOU}


class CannotRun(AvaultError):
    """The command could not be started: 127 where it is not there, else 126, as a shell has it."""

    def __init__(self, command: list[str], number: int) -> None:
        hint = {
            errno.ENOENT: "is it installed, and in PATH?",
            errno.EACCES: f"make it executable: chmod +x {printable(command[0])}",
            errno.ENOEXEC: "a script begins with a line like #!/bin/sh, and that program has to be there",
            errno.E2BIG: "too much for an environment; choose with --only, or give the largest with --as-file KEY",
        }.get(number)
        super().__init__(f"cannot run {printable(command[0])}: {os.strerror(number)}", hint)
        self.exit_code = 127 if number == errno.ENOENT else 126


def become_command(command: list[str], environment: dict[bytes, bytes]) -> NoReturn:
    """Execute the command in our place; raises CannotRun."""
    # which Python ignores, and what is ignored is inherited
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    raise CannotRun(command, execute(command, environment))


_cores: tuple[int, int] | None = None  # the limit that we were started with, once it is another


def forbid_cores() -> None:
    """Leave no core file if we crash: we have all the values.

    The limit is 1 byte and not 0: that alone also keeps the kernel from handing a core to a program (core(5): piped).
    """
    global _cores
    _cores = _cores or resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if _cores[1] else 0, _cores[1]))


def allow_cores() -> None:
    """As we were started, for the command: its cores are its own affair."""
    if _cores:
        resource.setrlimit(resource.RLIMIT_CORE, _cores)


def wake_up(number: int, frame: object) -> None:
    """Handle a signal by nothing but its number in the pipe of signal.set_wakeup_fd."""


# -------------------------------------------------------- running/keeper ----
# The command's parent, so that somebody is there when we are killed (SIGKILL).
#
# A process of its own: the command then ends, and all that it started. It also takes the exit
# statuses of what the command's children leave behind, as the first process of a container must.


# orders: go on, with the keys or without; smaller ones are signals
FOREGROUND, BACKGROUND = 128, 129
STARTED, FAILED, STOPPED, EXITED, KILLED = range(5)  # reports, each with a number
REPORT_SIZE = 2  # bytes: which, and its number


def prctl(option: int, value: int) -> None:
    """Ask something of Linux's kernel about this process (prctl(2)); others have nothing like it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """The processes below one, as /proc knows them; none where there is no /proc."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
    except OSError:  # it has ended
        pass
    return found


class Keeper:
    """The command's parent, at the orders of a Job."""

    def __init__(
        self, orders: socket.socket, command: list[str], environment: dict[bytes, bytes]
    ) -> None:
        self.orders, self.command, self.environment = orders, command, environment
        self.pid: int | None = None  # of the command, while it runs

    def lead(self, stdout: int, stderr: int, foreground: bool) -> NoReturn:
        """Start the command; serve until nobody gives orders any more, and then see that it ends."""
        try:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            self.prepare(stdout)
            woken, wake = os.pipe()
            os.set_blocking(wake, False)
            signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
            for number in (*passed_signals(), signal.SIGCHLD):
                if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self.action(number))
            if self.start(stdout, stderr, foreground):
                self.close(stdout, stderr)
                self.serve(woken)
                if self.pid is not None:
                    self.end_all(woken)
        finally:
            os._exit(0)

    def prepare(self, terminal: int) -> None:
        """What is to be done before the command is started."""

    def action(self, number: int) -> Callable[..., None] | signal.Handlers:
        """What a signal does here: nothing, as it was for all of our process group. A command starts without that."""
        return wake_up

    def close(self, stdout: int, stderr: int) -> None:
        """Close what only the command writes to, and what is ours only by inheritance."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        for fd in {stdout, stderr, null} - {0, 1, 2}:
            os.close(fd)

    def start(self, stdout: int, stderr: int, foreground: bool) -> bool:
        """Start the command; whether it could be."""
        keeper, (heard, told) = os.getpid(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(stdout, 1)
                os.dup2(stderr, 2)
                self.enter(foreground)
                allow_cores()
                # which Python ignores, and what is ignored is inherited
                for number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == keeper:
                    os.write(told, bytes([execute(self.command, self.environment)]))
            finally:
                os._exit(127)
        os.close(told)
        with open(heard, "rb") as pipe:
            problem = pipe.read()
        if problem:
            os.waitpid(pid, 0)
            self.report(FAILED, problem[0])
            return False
        self.pid = pid
        self.report(STARTED, 0)
        return True

    def enter(self, foreground: bool) -> None:
        """What the command's process does first."""

    def report(self, kind: int, number: int) -> None:
        """Tell what happened."""
        with contextlib.suppress(OSError):  # nobody is there; `serve` will see it
            self.orders.send(bytes((kind, number)))

    def serve(self, woken: int) -> None:
        """Obey, and report, until the other side is gone."""
        while True:
            orders_end = self.orders.fileno()
            readable, _, _ = select.select([orders_end, woken], [], [])
            if woken in readable:
                os.read(woken, 4096)
                self.look()
            if orders_end in readable:
                orders = self.orders.recv(64)
                for order in orders:
                    self.obey(order)
                if not orders:
                    return

    def look(self) -> None:
        """Report whether the command has stopped or ended; take the exit statuses of others."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
                if not pid:
                    return
                if pid == self.pid and os.WIFSTOPPED(status):
                    self.report(STOPPED, os.WSTOPSIG(status))
                elif pid == self.pid:
                    self.pid, code = None, os.waitstatus_to_exitcode(status)
                    self.leave(code)
        except ChildProcessError:
            return

    def leave(self, code: int) -> None:
        """The command has ended."""
        self.report(KILLED if code < 0 else EXITED, abs(code))

    def obey(self, order: int) -> None:
        """Pass a signal on to the command."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, order)

    def end_all(self, woken: int) -> None:
        """We alone are left: end the command and what it started, with a word first."""
        for number in (self.farewell(), signal.SIGCONT):
            self.tell_all(number)
        end = time.monotonic() + GRACE
        while self.pid is not None and time.monotonic() < end:
            if select.select([woken], [], [], end - time.monotonic())[0]:
                os.read(woken, 4096)
            self.look()
        # what one leaves behind is ours then
        while self.tell_all(signal.SIGKILL) and time.monotonic() < end + GRACE:
            time.sleep(0.02)
            self.look()

    def farewell(self) -> int:
        """The signal that tells the command to end."""
        return signal.SIGTERM

    def tell_all(self, number: int) -> bool:
        """A signal for the command and all below us; whether there was one."""
        found = {*descendants(os.getpid()), *([] if self.pid is None else [self.pid])}
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return bool(found)


# --------------------------------------------------------- running/masks ----
# Masks for the values in a stream, also where a read ends in the middle of one.
#
# Masking is best effort: it finds the values and their usual encodings (running/forms). A program
# that means to tell a secret can.


SILENCE = 0.02  # seconds of silence after which a held beginning is let out
SETTLED = 0.05  # seconds of silence after which a terminal has passed on what was written to it
TILE = 128  # bytes of the pieces in which a long form is looked for
MOST_TILES = 64
# a string is held while it is at most so many times as long as its form, and so many bytes:
# colours, blanks
STRETCH = 32, 4096
LEAST_WORD = 4  # bytes of a short value that is masked where it stands alone

Span = tuple[int, int, bytes]  # start, end and mask


def tiles(form: bytes) -> list[bytes]:
    """The pieces of a form: a long one is masked also where only a part of it comes, and little of it is ever held."""
    if len(form) <= 2 * TILE:
        return [form]
    size = max(TILE, -(-len(form) // MOST_TILES))
    return [form[start : start + size] for start in range(0, len(form) - size, size)] + [
        form[-size:]
    ]


class Patterns:
    """Strings to look for, and the mask for each: `masks`; of a stream less its noise, and for `exact` as it is.

    `followers` get no mask of their own directly behind one of the same secret. `words` are short values, masked where they
    stand alone.
    """

    def __init__(
        self,
        masks: dict[bytes, bytes],
        exact: Iterable[bytes] = (),
        followers: Iterable[bytes] = (),
        words: dict[bytes, bytes] | None = None,
    ) -> None:
        self.masks, self.followers, self.words = masks, set(followers), words or {}
        exact = set(exact)
        self.search = Search(masks.keys() - exact, exact)
        alone = b"|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        self.alone = (
            re.compile(rb"(?<![0-9A-Za-z_])(?:" + alone + rb")(?![0-9A-Za-z_])")
            if self.words
            else None
        )

    @classmethod
    def of(cls, secrets: Secrets, with_short: bool = False) -> Patterns | None:
        """All forms of these secrets' values, and short values too if they are wanted; None if there is nothing to look for."""
        masks: dict[bytes, bytes] = {}
        followers: set[bytes] = set()
        for form, meanings in meanings_of(secrets).items():
            first, *others = tiles(form)
            for piece in (first, *others):
                masks.setdefault(piece, mask_of(meanings[0].place))
            followers.update(others)
        exact = {
            string: mask_of(meanings[0].place) for string, meanings in exact_of(secrets).items()
        }
        short = [
            (value.strip().encode(), place)
            for place in sorted(secrets, reverse=True)
            for value in secrets[place]
        ]
        words = {
            value: mask_of(place) for value, place in short if LEAST_WORD <= len(value) < SHORTEST
        }
        words = words if with_short else {}
        return (
            cls(exact | masks, exact.keys() - masks.keys(), followers, words)
            if masks or exact or words
            else None
        )

    def look(self, data: bytes) -> tuple[list[Span], int, int]:
        """What is in `data`: where strings are, the longest first of those that begin together; where the longest end
        begins that may be the beginning of one, and how many bytes of it are there."""
        spans: list[Span] = []
        beginning, size = open_row(data), 0
        for view, strings in self.search.views(data):
            suspects = strings.suspects(view.text)
            for first, end, mask in self.joined(view.text, suspects):
                spans.append((view.place(first), view.end(end - 1), mask))
                if spans[-1][1] > view.open:
                    beginning = min(beginning, view.beginning(first))
            index = strings.beginning(view.text, suspects)
            beginning = min(beginning, view.beginning(index))
            size = max(size, len(view.text) - index)
        beginning = max(beginning, len(data) - STRETCH[0] * self.search.longest - STRETCH[1])
        if self.alone:
            spans += (
                (found.start(), found.end(), self.words[found[0]])
                for found in self.alone.finditer(data)
            )
            beginning = min(beginning, self.word_beginning(data))
        return sorted(spans, key=lambda span: (span[0], -span[1])), beginning, size

    def joined(self, text: bytes, suspects: set[bytes]) -> list[Span]:
        """Where strings are in a text; what follows the same secret's string directly is one with it."""
        found = [
            (start, -end, string) for string in suspects for start, end in occurrences(string, text)
        ]
        spans: list[Span] = []
        for start, minus_end, string in sorted(found):
            mask = self.masks[string]
            if (
                spans
                and string in self.followers
                and spans[-1][2] == mask
                and spans[-1][0] < start <= spans[-1][1]
            ):
                spans[-1] = spans[-1][0], max(spans[-1][1], -minus_end), mask
            else:
                spans.append((start, -minus_end, mask))
        return spans

    def word_beginning(self, data: bytes) -> int:
        """Where a short value begins that the next byte may make a longer word, or complete."""
        for start in range(max(0, len(data) - SHORTEST + 1), len(data)):
            alone = start == 0 or not re.match(rb"[0-9A-Za-z_]", data[start - 1 :])
            if alone and any(word.startswith(data[start:]) for word in self.words):
                return start
        return len(data)


def mask_of(place: str) -> bytes:
    """What stands for a secret."""
    return f"<avault:{place}>".encode()


class Mask:
    """One stream on its way through: no byte of a string that was found comes out.

    Where the stream stops within a string, its beginning is held until the rest comes. After a silence (`pause`) up to
    seven bytes of it are let out, so that a prompt or an echo appears that happens to end like that; more are held until
    the next byte decides, or the end. What was let out still counts: the rest of that string is masked.
    """

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self.held = b""  # the longest beginning of a string with which the stream ends
        self.size = 0  # bytes of that string which it has
        self.done = 0  # so many bytes of it are out, or masked
        self.last: bytes | None = None  # the mask that reaches exactly to there

    def feed(self, data: bytes) -> bytes:
        """What can be shown after more of the stream."""
        data = self.held + data
        found, beginning, self.size = self.patterns.look(data)
        return self.show(data, found, beginning, beginning)

    def pause(self) -> bytes:
        """What can be shown when nothing came for a while."""
        found, _, _ = self.patterns.look(self.held)
        end = 0 if self.size >= SHORTEST else len(self.held)
        for start, stop, _ in found:  # a string that is the beginning of another one
            end = max(end, stop) if start <= end else end
        return self.show(self.held, found, end, 0)

    def end(self) -> bytes:
        """The rest."""
        found, _, _ = self.patterns.look(self.held)
        return self.show(self.held, found, len(self.held), len(self.held))

    def show(self, data: bytes, found: list[Span], end: int, keep: int) -> bytes:
        """`data` from where we are up to `end`, masked; it is kept from `keep` on.

        A mask stands for each string, whatever it overlaps; only one that overlaps itself (aaaaaaaaa) gets no second.
        """
        shown, position = [], self.done
        for start, stop, mask in found:
            if start >= end:
                break
            if start > position:
                shown.append(data[position:start])
            if stop > position:
                if start >= position or mask != self.last:
                    shown.append(mask)
                position, self.last = stop, mask
        if position < end:
            shown.append(data[position:end])
            position, self.last = end, None
        self.held, self.done = data[keep:], position - keep
        return b"".join(shown)


# -------------------------------------------------------- running/output ----
# What a command writes: read where it comes out, masked, and written to where it belongs.


PIPE_SIZE = 1 << 20  # bytes; Linux gives so much to anybody, and each read then brings more


class Output:
    """What the command writes: read from `source`, masked, written to `sink`."""

    def __init__(self, source: int, sink: int, patterns: Patterns) -> None:
        self.source: int | None = source
        os.set_blocking(source, False)
        self.sink = sink
        self.mask = Mask(patterns)
        self.pending = memoryview(b"")  # masked, not yet written
        self.quiet: float | None = SILENCE  # None: nobody waits for a prompt
        self.due: float | None = None  # when the silence has been long enough
        self.count = 0  # bytes read
        # \r\n becomes \n: the terminal behind will make the same of it again
        self.undoes_crlf = False
        kind = os.fstat(sink).st_mode
        # A write that a full pipe would block is not begun: the other output, and the keys,
        # would wait too.
        self.piece = select.PIPE_BUF if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else PIPE_SIZE

    def read(self) -> None:
        """Take what has come, a pipe's content at most. The end of the stream closes the source."""
        data, piece = bytearray(), b"?"
        try:
            while piece and self.source is not None and len(data) < PIPE_SIZE:
                data += (piece := os.read(self.source, 1 << 16))  # of a terminal, 4 KiB at most
        except BlockingIOError:  # that is all
            pass
        except OSError:  # EIO: the last holder of a terminal has closed it
            piece = b""
        self.count += len(data)
        shown = self.mask.feed(bytes(data))
        if not piece:
            shown += self.mask.end()
            self.close()
        self.pending = memoryview(shown.replace(b"\r\n", b"\n") if self.undoes_crlf else shown)
        self.due = time.monotonic() + self.quiet if self.mask.held and self.quiet else None

    def pause(self) -> None:
        """Let out what is held and short."""
        self.pending, self.due = memoryview(self.mask.pause()), None

    def write(self) -> None:
        """Write some of what is pending.

        Where nobody reads any more, we read no more: the command finds that out in its turn.
        """
        try:
            self.pending = self.pending[os.write(self.sink, self.pending[: self.piece]) :]
        except BlockingIOError:  # somebody has made it so, and has filled it
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                say(f"cannot write the output: {error.strerror}")
            self.pending = memoryview(b"")
            self.close()

    def close(self) -> None:
        """Read no more."""
        if self.source is not None:
            os.close(self.source)
        self.source, self.due = None, None


# ----------------------------------------------------- running/terminals ----
# Terminals: the one that a command gets, and the one that we are in.


def open_screen() -> tuple[int, int]:
    """A terminal of our own: our end, and the command's; raises Unavailable."""
    try:
        return os.openpty()
    except OSError as error:
        raise Unavailable(
            f"no terminal for the command: {error.strerror}", "without one: avault run … | cat"
        ) from None


def copy_size(terminal: int, other: int) -> bool:
    """Give a terminal the size of another one; whether it has changed."""
    try:
        size, there = (
            fcntl.ioctl(each, termios.TIOCGWINSZ, bytes(8)) for each in (terminal, other)
        )
        fcntl.ioctl(other, termios.TIOCSWINSZ, size)
    except OSError:
        return False
    return size != there


def is_foreground(terminal: int) -> bool:
    """Whether keys on the terminal are for us.

    One that is not our session's has no jobs, and is for anybody.
    """
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True


def open_terminal() -> int | None:
    """Our session's terminal, if there is one."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None


def is_typed(number: int) -> bool:
    """Whether that signal came from the keys of our terminal, and so to all of our process group.

    Python does not tell who sent a signal. In the foreground of a terminal, SIGINT, SIGQUIT and
    SIGTSTP are keys.
    """
    return number in typed_signals() and is_at_terminal(foreground=True)


def is_in_background() -> bool:
    """Whether we have a terminal that others are in the foreground of."""
    return is_at_terminal(foreground=False)


def is_at_terminal(foreground: bool) -> bool:
    """Whether our session has a terminal, and we are in its foreground, or are not."""
    terminal = open_terminal()
    if terminal is None:
        return False
    try:
        return is_foreground(terminal) == foreground
    finally:
        os.close(terminal)


# ----------------------------------------------------------- running/job ----
# A command on pipes: its output, its signals, its end.
#
# The command is our child, in our process group. Where an output is a terminal, it gets one that is
# only for output, so that it still looks like one; keys, Ctrl-C and Ctrl-Z go from the real terminal
# to the command.


class Job:
    """A command whose output is masked; `run` gives its exit code."""

    def __init__(
        self, command: list[str], environment: dict[bytes, bytes], patterns: Patterns
    ) -> None:
        self.command, self.environment, self.patterns = command, environment, patterns
        self.outputs: list[Output] = []
        # terminals of ours, each with the one whose size it has
        self.screens: list[tuple[int, int]] = []
        self.ends: list[int] = []  # what the command writes to, and we close when it is started
        self.code: int | None = None
        self.orders, self.keeper_end = socket.socketpair()
        self.woken, wake = os.pipe()
        for end in (self.woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> int:
        """Start the command, pass on what it writes and what we are told, until it ends.

        Raises CannotRun.
        """
        self.start(*self.open_outputs())
        for end in self.ends:
            os.close(end)
        try:
            while self.code is None:
                self.turn(None)
            for number in passed_signals():  # from here on they are for us
                if signal.getsignal(number) == self.forward:
                    signal.signal(number, signal.SIG_DFL)
            self.drain()
        finally:
            self.let_go()
        self.leave_behind()
        return self.code

    # -- starting

    def open_outputs(self) -> tuple[int, int]:
        """What the command is to have as stdout and stderr.

        That is one for both where ours are the same, so that order is kept.
        """
        stdout = self.open_output(1)
        one, other = os.fstat(1), os.fstat(2)
        same = (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
        return stdout, stdout if same else self.open_output(2)

    def open_output(self, sink: int) -> int:
        """A pipe, or a terminal that is only for output; it comes out masked at `sink`."""
        if os.isatty(sink):
            source, end = open_screen()
            tty.setraw(end)  # the real one turns \n into \r\n
            copy_size(sink, source)
            self.screens.append((source, sink))
        else:
            source, end = os.pipe()
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                with contextlib.suppress(OSError):  # beyond what this user may have
                    fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.outputs.append(Output(source, sink, self.patterns))
        self.ends.append(end)
        return end

    def start(self, stdout: int, stderr: int) -> None:
        """Start the keeper, which starts the command; raises CannotRun."""
        self.catch(signal.SIGCHLD, action=reap)
        self.catch(*passed_signals(), action=self.forward)
        self.catch(signal.SIGWINCH, action=wake_up)
        self.start_keeper(
            Keeper(self.keeper_end, self.command, self.environment), stdout, stderr, True
        )

    def start_keeper(self, keeper: Keeper, stdout: int, stderr: int, foreground: bool) -> None:
        """Fork the process that starts the command, and hear whether it could; raises CannotRun."""
        if os.fork() == 0:
            self.orders.close()
            os.close(self.woken)
            for output in self.outputs:
                output.close()
            keeper.lead(stdout, stderr, foreground)
        self.keeper_end.close()
        kind, number = self.hear_report()
        if kind == FAILED:
            raise CannotRun(self.command, number)

    def catch(self, *numbers: int, action: Callable[..., None]) -> None:
        """Handle signals, but not those that who started us has had ignored (nohup)."""
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, action)

    # -- signals; a handler acts at once, as we may be in the middle of a long write

    def forward(self, number: int, frame: object) -> None:
        """Pass a signal on, unless the command has it already."""
        if number in terminal_signals() and is_in_background():
            self.stop(number)
        elif not is_typed(number):
            self.order(number)

    def order(self, number: int) -> None:
        """Tell the keeper: a signal for the command, or to let it go on."""
        with contextlib.suppress(OSError):  # it has ended
            self.orders.send(bytes([number]))

    def hear_report(self) -> tuple[int, int]:
        """What the keeper reports next; raises AvaultError when somebody has killed it."""
        try:
            kind, number = self.orders.recv(REPORT_SIZE)
        except (OSError, ValueError):
            raise AvaultError(
                "the process that keeps the command was killed", "the command was ended"
            ) from None
        return kind, number

    def hear(self) -> None:
        """Do what a report asks for."""
        kind, number = self.hear_report()
        if kind == STOPPED:
            self.stop(number)
        else:
            self.code = number if kind == EXITED else 128 + number

    def stop(self, number: int) -> None:
        """Stop, as the command has, for who started us to see; not if nobody could continue us."""
        if number != signal.SIGSTOP:
            handler = signal.getsignal(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            signal.signal(number, handler)

    def wake(self) -> None:
        """See what woke us: the size of the terminal."""
        if signal.SIGWINCH in os.read(self.woken, 4096):
            self.resize()
            self.order(signal.SIGWINCH)  # it may have looked before we had changed the size

    def resize(self) -> bool:
        """Give our terminals the sizes of those that they stand for; whether one has changed."""
        changed = [copy_size(terminal, screen) for screen, terminal in self.screens]
        return any(changed)

    # -- passing on

    def readers(self) -> dict[int, Callable[[], object]]:
        """What to read, and how; reports last, as `stop` takes its time.

        What is not yet written holds up only its own source.
        """
        open_outputs = [
            output for output in self.outputs if output.source is not None and not output.pending
        ]
        readers: dict[int, Callable[[], object]] = {self.woken: self.wake}
        readers |= {
            output.source: output.read for output in open_outputs if output.source is not None
        }
        return readers if self.code is not None else {**readers, self.orders.fileno(): self.hear}

    def writers(self) -> dict[int, Callable[[], object]]:
        """What to write, and how."""
        return {output.sink: output.write for output in self.outputs if output.pending}

    def turn(self, timeout: float | None) -> bool:
        """Wait, for so long at most, and pass on what there is; whether there was something."""
        readers, writers = self.readers(), self.writers()
        now = time.monotonic()
        waits = [
            max(0, output.due - now)
            for output in self.outputs
            if output.due is not None and not output.pending
        ]
        limits = [*waits, *([] if timeout is None else [timeout])]
        readable, writable, _ = select.select(
            list(readers), list(writers), [], min(limits, default=None)
        )
        for action in [*(writers[fd] for fd in writable), *(readers[fd] for fd in readable)]:
            action()
        now = time.monotonic()
        for output in self.outputs:
            if output.due is not None and not output.pending and now >= output.due:
                output.pause()
        return bool(writable or set(readable) - {self.woken, self.orders.fileno()})

    def drain(self) -> None:
        """Pass on what the command has written: to the end, a silence, or what a pipe holds."""
        ends = [output.count + PIPE_SIZE for output in self.outputs]
        while any(
            output.pending or (output.source is not None and output.count < end)
            for output, end in zip(self.outputs, ends, strict=True)
        ):
            if not self.turn(SETTLED) and not any(output.pending for output in self.outputs):
                return

    # -- the end

    def let_go(self) -> None:
        """Give back what we had: the keeper, and of the terminal."""
        self.orders.close()

    def leave_behind(self) -> None:
        """Stay, as a process that nobody waits for, where what the command left may still write."""
        if all(output.source is None for output in self.outputs) or os.fork():
            return
        try:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            for fd in {0, 1, 2} - {
                output.sink for output in self.outputs if output.source is not None
            }:
                os.close(fd)
            while any(output.pending or output.source is not None for output in self.outputs):
                self.turn(None)
        finally:
            os._exit(0)


def reap(number: int, frame: object) -> None:
    """Take the exit statuses of the keeper and, as process 1, of all whose parent has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# -------------------------------------------------- running/terminal_job ----
# A command on a terminal of its own: keys, size, job control.
#
# Our stdout is a terminal: the command gets one of its own, a whole one, and we are between the two.
# As in any terminal emulator there is a session, and a leader of it: a fork of ours that starts the
# command as a job, sees it stop and go on, and tells us. (Without a parent in its session the command
# could not be stopped: POSIX drops Ctrl-Z for orphaned process groups.)
#
#     terminal -- avault run --- pseudoterminal
#                    |              |
#                    '-- leader -- the command, in a process group of its own


class TerminalJob(Job):
    """A command on a terminal of its own."""

    def __init__(
        self, command: list[str], environment: dict[bytes, bytes], patterns: Patterns
    ) -> None:
        super().__init__(command, environment, patterns)
        self.terminal = 0 if os.isatty(0) else open_terminal()  # where keys come from
        self.saved: list[Any] | None = None  # its modes, while its keys are ours
        self.keys = b""  # typed, not yet passed on
        self.wanted = os.isatty(0)  # whether the command is to have the keys, not only the screen
        self.was_continued = False

    # -- starting

    def open_outputs(self) -> tuple[int, int]:
        """One terminal for all that is a terminal of ours; stderr may be something else."""
        self.screen, end = open_screen()
        termios.tcsetattr(end, termios.TCSANOW, termios.tcgetattr(1))
        self.modes = termios.tcgetattr(end)
        self.screens.append((self.screen, 1))
        self.resize()
        self.outputs.append(Output(self.screen, 1, self.patterns))
        ends_lines = termios.OPOST | termios.ONLCR  # it turns \n into \r\n
        self.outputs[0].undoes_crlf = self.makes_crlf = self.modes[1] & ends_lines == ends_lines
        self.ends.append(end)
        same = os.isatty(2) and os.fstat(1).st_rdev == os.fstat(2).st_rdev
        return end, end if same else self.open_output(2)

    def start(self, stdout: int, stderr: int) -> None:
        """Start the leader, which starts the command; raises CannotRun."""
        self.catch(signal.SIGCHLD, action=reap)
        self.catch(
            *(number for number in passed_signals() if number not in terminal_signals()),
            action=self.forward,
        )
        self.catch(signal.SIGWINCH, action=wake_up)
        self.catch(signal.SIGCONT, action=self.note_continued)
        foreground = self.terminal is None or is_foreground(self.terminal)
        self.start_keeper(
            Leader(self.keeper_end, self.command, self.environment), stdout, stderr, foreground
        )
        if foreground and self.wanted:
            self.take_keys()

    # -- signals and jobs

    def forward(self, number: int, frame: object) -> None:
        """Pass a signal on; no key has sent it to the command, which is in another session."""
        self.order(number)

    def note_continued(self, number: int, frame: object) -> None:
        """SIGCONT: we are back, in the foreground or not."""
        self.was_continued = True

    def wake(self) -> None:
        """See what woke us: the size of the terminal, `fg` or `bg`."""
        woken = os.read(self.woken, 4096)
        if signal.SIGWINCH in woken and not self.resize():  # else the kernel tells the command
            self.order(signal.SIGWINCH)
        if signal.SIGCONT in woken:
            self.go_on()

    def stop(self, number: int) -> None:
        """The command has stopped: so does our process group, as the terminal would have had it."""
        wants_keys = number in (signal.SIGTTIN, signal.SIGTTOU)
        if (
            wants_keys
            and self.terminal is not None
            and self.saved is None
            and is_foreground(self.terminal)
        ):
            self.wanted = True
            self.go_on()
            return
        self.drain()
        self.let_go()
        self.was_continued = False
        handler = signal.getsignal(number)
        if number != signal.SIGSTOP:
            signal.signal(number, signal.SIG_DFL)
        os.killpg(0, number)
        if number != signal.SIGSTOP:
            signal.signal(number, handler)
        if wants_keys and not self.was_continued:
            # we cannot be stopped, as no shell is there to continue us: it will never get keys
            self.order(signal.SIGHUP)
        self.go_on()

    def go_on(self) -> None:
        """Let the command go on, with the keys if they are ours now."""
        if self.terminal is not None and not is_foreground(self.terminal):
            self.saved = None  # the shell has it, and its modes
            self.outputs[0].undoes_crlf = self.makes_crlf
            self.order(BACKGROUND)
            return
        if self.wanted:
            self.take_keys()
        self.resize()
        self.order(FOREGROUND)

    # -- keys

    def take_keys(self) -> None:
        """Every key goes to the command's terminal, which knows what Ctrl-C means there."""
        if self.terminal is None:
            return
        while self.outputs[0].pending:
            self.outputs[0].write()  # its line ends are for the modes that the terminal still has
        if self.saved is None:
            self.saved = termios.tcgetattr(self.terminal)
            # they are ours: a shell has others while it is at its prompt
            if termios.tcgetattr(self.screen) == self.modes:
                termios.tcsetattr(self.screen, termios.TCSANOW, self.saved)
                self.modes = termios.tcgetattr(self.screen)
        tty.setraw(self.terminal, termios.TCSADRAIN)
        self.outputs[0].undoes_crlf = False

    def let_go(self) -> None:
        """Give the keys back.

        The leader is given up with the terminal, as what the command leaves behind keeps both.
        """
        if self.terminal is not None and self.saved is not None:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(self.terminal, termios.TCSADRAIN, self.saved)
        self.saved = None
        self.outputs[0].undoes_crlf = self.makes_crlf

    def read_keys(self) -> None:
        """Take what was typed. The end: the terminal is gone."""
        try:
            self.keys = os.read(self.terminal, 4096) if self.terminal is not None else b""
        except OSError:
            self.keys = b""
        if not self.keys:
            self.terminal = self.saved = None
            self.order(signal.SIGHUP)

    def pass_keys(self) -> None:
        """Type them on the command's terminal."""
        with contextlib.suppress(BlockingIOError):
            self.keys = self.keys[os.write(self.screen, self.keys) :]

    # -- passing on

    def readers(self) -> dict[int, Callable[[], object]]:
        """Keys too, as long as the command runs."""
        readers = super().readers()
        if (
            self.code is None
            and self.terminal is not None
            and self.saved is not None
            and not self.keys
        ):
            readers = {self.terminal: self.read_keys, **readers}
        return readers

    def writers(self) -> dict[int, Callable[[], object]]:
        """Keys too."""
        return super().writers() | (
            {self.screen: self.pass_keys} if self.keys and self.code is None else {}
        )

    def turn(self, timeout: float | None) -> bool:
        """As above; but where stdin is no terminal, the keys may be for others, until wanted.

        As in `fzf | avault run …`. That they are wanted shows when the command changes the modes of
        its terminal, as what asks for a password does, or a pager.
        """
        watching = self.terminal is not None and not self.wanted and self.code is None
        went = super().turn(0.1 if watching and timeout is None else timeout)
        is_open = self.outputs[0].source is not None
        if watching and is_open and self.terminal is not None and is_foreground(self.terminal):
            changed = termios.tcgetattr(self.screen)[3] ^ self.modes[3]
            if changed & (termios.ICANON | termios.ECHO):
                self.wanted = True
                self.take_keys()
        return went


class Leader(Keeper):
    """The leader of the command's session."""

    def farewell(self) -> int:
        return signal.SIGHUP

    def prepare(self, terminal: int) -> None:
        """Begin a session on the terminal."""
        self.terminal = terminal
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        # or we could not say whose the terminal is
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])

    def action(self, number: int) -> Callable[..., None] | signal.Handlers:
        """Keys are the command's affair; another signal is for us alone, in our process group.

        But SIGHUP, by which the kernel tells us that the terminal is gone, is not our end: the
        command, which would be killed with us, is to have its time (`end_all`).
        """
        survived = {signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT}
        return wake_up if number in survived | typed_signals() else signal.SIG_DFL

    def close(self, stdout: int, stderr: int) -> None:
        """Close what only the command writes to."""
        if stderr != self.terminal:
            os.close(stderr)

    def enter(self, foreground: bool) -> None:
        """Begin a process group of its own on the terminal."""
        if os.isatty(0):
            os.dup2(self.terminal, 0)
        os.setpgid(0, 0)
        if foreground:
            os.tcsetpgrp(self.terminal, os.getpid())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])

    def leave(self, code: int) -> None:
        """The command has ended: what it leaves behind stays in our session, and keeps us."""
        # the kernel's SIGHUP at our end is for us, not for what stays behind
        self.give_terminal(os.getpgrp())
        super().leave(code)
        os.close(self.terminal)  # the other side may then end, and that is the end of us

    def obey(self, order: int) -> None:
        """Pass a signal on to the command and its process group, or let it go on."""
        if self.pid is None:
            return
        if order in (FOREGROUND, BACKGROUND):
            self.give_terminal(self.pid if order == FOREGROUND else os.getpgrp())
            order = signal.SIGCONT
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, order)

    def give_terminal(self, group: int) -> None:
        """Put a process group into the foreground; a terminal that is gone has none."""
        with contextlib.suppress(OSError):
            os.tcsetpgrp(self.terminal, group)


# ----------------------------------------------------------- running/run ----
# avault run: secrets for one command, without holding them.


def optional_duration(name: str) -> click.Option:
    """--wait [D]: a next word that is no duration is not its value, but begins the command."""

    class OptionalDuration(click.Option):
        """An option that gives back a word that is not for it."""

        def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
            super().add_to_parser(parser, ctx)
            entry = parser._long_opt[self.opts[0]]
            process = entry.process

            def process_duration(value: Any, state: Any) -> None:
                if isinstance(value, str) and not re.fullmatch(r"(\d+[smhd]?)?", value):
                    state.rargs.insert(0, value)
                    value = ""
                process(value, state)

            entry.process = process_duration

    return OptionalDuration([name], is_flag=False, flag_value="")


@command(
    "run",
    option("--group", "groups", multiple=True),
    option("--only", multiple=True),
    option("--as", "named", multiple=True),
    option("--all", "everything", is_flag=True),
    option("--env-file"),
    option("--prefix", is_flag=True),
    lambda: optional_duration("--wait"),
    option("--no-mask", is_flag=True),
    option("--allow", multiple=True),
    option("--as-file", "files", multiple=True),
    lambda: click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    interspersed=False,
)
def cmd_run(
    terminal: Terminal,
    groups: tuple[str, ...],
    only: tuple[str, ...],
    named: tuple[str, ...],
    everything: bool,
    env_file: str | None,
    prefix: bool,
    wait: str | None,
    no_mask: bool,
    allow: tuple[str, ...],
    files: tuple[str, ...],
    words: tuple[str, ...],
) -> int:
    """usage: avault run [--group G]… [--only KEY,…] [--as NAME=GROUP/KEY]… [--env-file F]
                  [--all] [--prefix] [--wait [D]] [--no-mask] [--allow NAME]…
                  [--as-file KEY]… [--] CMD…

    Runs a command with secrets in its environment, over what is there: those
    that --group, --only (KEY or GROUP/KEY), --as and --env-file choose. That file
    has lines NAME=value; avault://GROUP/KEY in a value is replaced. Without any
    of these: what avault.env in this directory names, by lines like
    OPENAI_API_KEY=avault://openai/API_KEY; and without that file, or with --all,
    all secrets, each by its key. --prefix tells groups apart (DATABASE_PASSWORD).
    PATH, LD_*, BASH_ENV and their like are refused without --allow NAME, in
    files too.
    --wait waits until the vault is open (at most D: 90, 90s, 5m, 8h); it asks nobody.

    What the command prints is masked, <avault:openai/API_KEY> in place of the
    value, for all secrets of the vault, also in base64, hex, URL, JSON form and
    more; on a terminal it has one of its own. That is best effort: it keeps a
    value out of a log or a chat, not from a command that means to tell it.
    Values under 8 bytes are not masked. If avault is killed, the command ends.
    --no-mask executes the command in avault's place: nothing is in between.

    --as-file KEY puts the path of a file in memory into KEY_FILE, and KEY not
    into the environment. It can be read as long as the command runs (Linux).

    Exit code: the command's; 128 + n if signal n ended it; 126 it cannot be
    executed, 127 it is not there.

      avault run -- my-agent --port 80
      avault run --as OPENAI_API_KEY=openai/API_KEY --wait 5m -- python3 agent.py
      avault run --env-file .env -- docker compose up
      avault run --as-file tls/CERT -- sh -c 'openssl x509 -in "$CERT_FILE" -subject'
    """
    if not words:
        raise Usage("no command is named", "avault run -- my-agent")
    timeout = parse_duration(wait or None)
    names = [name for each in only for name in each.split(",")]
    if everything and (groups or names or named):
        raise Usage("--all excludes --group, --only and --as", "leave it out")
    variables = None if env_file is None else read_env_file(env_file)
    if not (groups or names or named or everything) and variables is None:
        variables = read_project_file()
        if variables is not None:
            given = (
                f"{name}={value.removeprefix('avault://')}" for name, value in variables.items()
            )
            say(f"{PROJECT_FILE} gives {', '.join(given) or 'nothing'}")
    if wait is not None:
        wait_open(terminal, timeout)
    forbid_cores()
    injection = Injection()
    if groups or names or named or everything or variables is None:
        injection.take(terminal, list(groups), names, list(named), prefix, list(allow))
    if variables is not None:
        injection.set(terminal, variables, list(allow))
    for word in files:
        injection.move_to_file(terminal, word, prefix, list(allow))
    environment = injection.environment()
    patterns = None if no_mask else Patterns.of(reveal_for_masks(terminal, injection.secrets))
    if not no_mask:
        warn_of_short(terminal, injection.secrets)
    if patterns is None:
        allow_cores()
        become_command(list(words), environment)
    return (TerminalJob if os.isatty(1) else Job)(list(words), environment, patterns).run()


def warn_of_short(terminal: Terminal, secrets: Secrets) -> None:
    """Name the secrets that no mask can stand for, once each."""
    short = sorted(place for place, values in secrets.items() if any(map(is_short, values)))
    if new := untold(terminal.places, "run", short):
        warn(f"too short to be masked (under {SHORTEST} bytes): {', '.join(new)}")


# -------------------------------------------------------- running/runner ----
# A command whose secrets the process that wants its output never has: for `avault mcp`.
#
# It has its own session, so that it can be ended with all that it started. Its outputs are pipes to
# the server; a third one is for what kept it from starting the command, as exit codes are the
# command's.


def main_runner(argv: list[str]) -> NoReturn:
    """The runner: its arguments are the request, as JSON, and the descriptor of the third pipe."""
    request, told = json.loads(argv[0]), int(argv[1])
    os.set_inheritable(told, False)  # the command does not inherit it
    try:
        code = run_masked(request)
    except Exception as error:
        write_all(told, json.dumps(complain(error).to_dict()).encode())
        code = 1
    sys.exit(code)


def run_masked(request: dict[str, Any]) -> int:
    """Run a command with its secrets; its exit code. Raises what keeps it from starting.

    Masked is every value of the vault, chosen or not: the command can ask the daemon for the others. One that is too
    short to be masked everywhere is not given, and masked where it stands alone.
    """

    class QuietJob(Job):
        """A command that nobody watches, and that writes nothing any more when it has ended, whatever it left running."""

        def open_output(self, sink: int) -> int:
            end = super().open_output(sink)
            self.outputs[-1].quiet = None
            return end

        def leave_behind(self) -> None:
            for output in self.outputs:
                output.pending = memoryview(output.mask.end())
                while output.pending:
                    output.write()

    terminal, injection = Terminal(request["dir"], False), Injection()
    named = [each for each in request["secrets"] if "=" in each]
    injection.take(
        terminal,
        [],
        [each for each in request["secrets"] if each not in named],
        named,
        request["prefix"],
        [],
    )
    found = injection.secrets.items()
    if short := [place for place, values in found if any(map(is_short, values))]:
        limit = f"under {SHORTEST} bytes"
        raise Denied(
            f"too short to be masked ({limit}): {', '.join(sorted(short))}",
            "avault run, in a terminal",
        )
    patterns = Patterns.of(reveal_for_masks(terminal, injection.secrets), with_short=True)
    if not patterns:
        raise Usage("no secret is named", "avault_list has the names")
    return QuietJob(request["command"], injection.environment(), patterns).run()


# -------------------------------------------------------- running/search ----
# Looking for the vault's own values in files.
#
# Files are read in parts, as there may be more of them than memory. The values are in this process
# alone: in no file, and on no command line.


BATCH = 8 << 20  # bytes that are searched at once
STDIN = "-"
PATH_WIDTH = 4096  # characters of a path that are shown
INDEX = {  # where a hook's git has the index and the objects of the commit that is being made
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
}  # fmt: skip


class Needles:
    """All forms of all values. `left_out` names what is too short to be looked for."""

    def __init__(self, answer: list[dict[str, Any]]) -> None:
        secrets = {
            f"{each['group']}/{each['key']}": [each["value"], *each["conflicts"]] for each in answer
        }
        self.left_out = sorted(
            place for place, values in secrets.items() if any(map(is_short, values))
        )
        solid, exact = meanings_of(secrets), exact_of(secrets)
        self.meanings = {
            string: solid.get(string, []) + exact.get(string, []) for string in solid | exact
        }
        self.search = Search(solid, exact)
        # bytes in which any form fits, and what breaks it into lines
        self.overlap = 2 * self.search.longest + 4096


class Part(Fields, frozen=True, order=True):
    """Some or all bytes of a file, and the number of the line that they begin in."""

    path: str
    line: int
    data: bytes


class Hit(Fields, frozen=True, order=True):
    """A value in a file, by its GROUP/KEY. Sorts as it is to be printed."""

    path: str
    line: int
    name: str
    kind: str

    def __str__(self) -> str:
        about = {"plain": "", "line": " (a line of it)"}.get(self.kind, f" ({self.kind})")
        return f"{printable(self.path, PATH_WIDTH)}:{self.line}: {self.name}{about}"

    def to_dict(self) -> dict[str, Any]:
        """It, as --json prints it."""
        group, _, key = self.name.partition("/")
        return {"path": self.path, "line": self.line, "group": group, "key": key, "form": self.kind}


def search(part: Part, needles: Needles) -> set[Hit]:
    """The values in a part of a file; of several forms of one value at one place, the one that has the others in it."""
    places: set[tuple[str, int, int, str]] = set()
    for view, strings in needles.search.views(part.data):
        for string in strings.suspects(view.text):
            for start, end in occurrences(string, view.text):
                span = view.place(start), -view.end(end - 1)
                places.update((form.place, *span, form.kind) for form in needles.meanings[string])
    kept: list[tuple[int, Form]] = []
    name, reached = "", 0
    for place, start, minus_end, kind in sorted(
        places, key=lambda each: (*each[:3], each[3] != "plain", each[3])
    ):
        if place != name or -minus_end > reached:
            kept.append((start, Form(place, kind)))
            name, reached = place, -minus_end
    found: set[Hit] = set()
    line, counted = part.line, 0
    for start, form in sorted(kept):
        line += part.data.count(b"\n", counted, start)
        counted = start
        found.add(Hit(part.path, line, form.place, form.kind))
    return found


def search_all(parts: Iterable[Part], needles: Needles, progress: Progress) -> list[Hit]:
    """Search parts of files as they come."""
    found: set[Hit] = set()
    for part in parts:
        progress.add(part)
        found |= search(part, needles)
    progress.end()
    return sorted(found)


def without_neighbours(found: Iterable[Hit]) -> list[Hit]:
    """Of the lines of one value, one below the other, the first."""
    kept = []
    last: dict[tuple[str, str], int] = {}
    for each in found:
        if each.kind != "line" or last.get((each.path, each.name)) != each.line - 1:
            kept.append(each)
        if each.kind == "line":
            last[each.path, each.name] = each.line
    return kept


class Progress:
    """How much was read; on a terminal a line of it, drawn in place once it takes more than a second."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.bytes = 0
        self.next = time.monotonic() + 1 if sys.stderr.isatty() else float("inf")
        self.is_drawn = False

    def add(self, part: Part) -> None:
        """A part of a file was read."""
        self.files.add(part.path)
        self.bytes += len(part.data)
        if time.monotonic() > self.next:
            self.next += 0.2
            self.is_drawn = True
            print(
                f"\r\x1b[Kavault: {len(self.files):,} files, {self.bytes / 1e6:,.0f} MB",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def end(self) -> None:
        """Take the line away."""
        if self.is_drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------- running/scan ----
# avault scan: the vault's own values where they should not be.


class Blob:
    """The object that `git cat-file --batch` prints next, to be read like a file; raises AvaultError if there is none."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        try:
            self.left = int(stream.readline().split(b" ")[2])
        except IndexError:
            raise AvaultError("git does not have all that is staged", "see: git fsck") from None

    def read(self, limit: int) -> bytes:
        """At most so many bytes; none at the end."""
        data = self.stream.read(min(limit, self.left))
        self.left -= len(data)
        return data


def cut_file(path: str, file: Blob | IO[bytes], overlap: int) -> Iterator[Part]:
    """A file in parts that can be held, which overlap by so many bytes."""
    line, data = 1, file.read(BATCH)
    while True:
        yield Part(path, line, data)
        more = file.read(BATCH)
        if not more:
            return
        kept = max(0, len(data) - overlap)
        line += data.count(b"\n", 0, kept)
        data = data[kept:] + more


def is_stream(path: str) -> bool:
    """Whether a path is a pipe or a device, as <(…) and /dev/stdin are: read to its end, and once."""
    try:
        kind = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind) and not stat.S_ISSOCK(kind)


class Tree:
    """Files as they lie on the disk; links are not followed. `unread` names what could not be read."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = paths
        self.unread: list[str] = []

    def read(self, overlap: int) -> Iterator[Part]:
        """What is in the files, in parts; raises NotFound for a path that is not there.

        - is stdin. A pipe that is named is read, one that lies in a directory is not: nobody may ever write to it.
        """
        for path in self.paths:
            if path == STDIN or is_stream(path):
                with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as stream:
                    yield from cut_file(path, stream, overlap)
                continue
            named = os.path.realpath(path) if os.path.islink(path) else path
            if not os.path.exists(named):
                raise NotFound(f"no file {printable(path, PATH_WIDTH)}", "see: avault scan --help")
            for each in self.files(named):
                try:
                    with open(
                        os.open(each, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK),
                        "rb",
                        buffering=0,
                    ) as file:
                        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                            yield from cut_file(each, file, overlap)
                except OSError as error:
                    # gone; a link; a socket
                    if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                        self.skip(each, error)

    def skip(self, path: str, error: OSError) -> None:
        """Say what cannot be read, and remember it."""
        warn(f"cannot read {printable(path, PATH_WIDTH)}: {error.strerror}")
        self.unread.append(path)

    def files(self, path: str) -> Iterator[str]:
        """The files of a path: itself, or what git knows there and would add, or all below it.

        A repository within the repository is looked into.
        """
        if os.path.islink(path) or not os.path.isdir(path):
            yield path
            return
        for name in known_to_git(path) or self.walk(path):
            yield from self.files(name if path == "." else os.path.join(path, name))

    def walk(self, directory: str) -> Iterator[str]:
        """All files below a directory, but git's own."""
        for top, inner, names in os.walk(
            directory, onerror=lambda error: self.skip(error.filename, error)
        ):
            inner[:] = sorted(name for name in inner if name != ".git")
            for name in sorted(names):
                if name != ".git":
                    yield os.path.relpath(os.path.join(top, name), directory)


def known_to_git(directory: str) -> list[str]:
    """The files below a directory that git tracks or would add; none outside of a repository, or where git ignores it."""
    try:
        listed = git(
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", directory=directory
        )
    except AvaultError:
        return []
    names = (os.fsdecode(name).rstrip("/") for name in listed.split(b"\0"))
    # a submodule that is not filled contains itself
    return [name for name in dict.fromkeys(names) if name not in ("", ".")]


def git(
    *words: str, directory: str | None = None, settings: tuple[str, ...] = (NO_HOOKS,)
) -> bytes:
    """What git prints; raises AvaultError with what it complains of.

    In a directory that is named the environment's GIT_DIR and the like are not meant. Without one they are: a hook is
    given another index by `git commit FILE`.
    """
    keep = INDEX if directory is None else ()
    try:
        process = start_git(
            directory or ".", words, settings, keep, env=GIT_QUIET, stdin=subprocess.DEVNULL
        )
    except Unavailable as error:
        raise Unavailable(error.message, "without it: avault scan PATH…") from None
    output, errors = process.communicate()
    if process.returncode:
        raise AvaultError(f"git: {reason(errors)}", "in a directory without git: avault scan PATH…")
    return output


def read_staged(paths: Iterable[str], overlap: int) -> Iterator[Part]:
    """What the next commit would change: the index's own content, whatever the working tree holds; raises AvaultError."""
    git("rev-parse", "--git-dir")  # outside of a repository `git diff` compares files
    words = (
        "diff",
        "--cached",
        "--raw",
        "-z",
        "--no-abbrev",
        "--no-renames",
        "--no-ext-diff",
        "--no-relative",
    )
    fields = git(*words, "--diff-filter=d", "--", *paths).split(b"\0")
    blobs = []
    for about, name in zip(fields[0::2], fields[1::2], strict=False):
        _, mode, _, blob, _ = about.split(b" ")
        # not a submodule's commit, nor a path that is not merged yet
        if mode != b"160000" and blob.strip(b"0"):
            blobs.append((os.fsdecode(name), blob))
    with start_git(
        ".", ("cat-file", "--batch"), keep=INDEX, env=GIT_QUIET, stderr=subprocess.DEVNULL
    ) as process:
        names, objects = typing.cast("tuple[IO[bytes], IO[bytes]]", (process.stdin, process.stdout))
        for path, blob in blobs:
            names.write(blob + b"\n")
            names.flush()
            yield from cut_file(path, Blob(objects), overlap)
            objects.read(1)  # the newline after each object


HOOKS = {
    "pre-commit": """\
#!/bin/sh
# avault: no commit carries a value of the vault
{command} scan --staged || {{
    echo 'avault: nothing was committed; to commit without looking: git commit --no-verify' >&2
    exit 1
}}
""",
    "commit-msg": """\
#!/bin/sh
# avault: no message of a commit carries a value of the vault; what `git commit -v` shows below the scissors is no part of it
sed '/^.* -\\{{8,\\}} >8 -\\{{8,\\}}$/,$d' "$1" | {command} scan - || {{
    echo 'avault: nothing was committed; the message is kept in' "$1" >&2
    exit 1
}}
""",
}
# the line for somebody's own hook
IN_OTHERS = {"pre-commit": "scan --staged || exit 1", "commit-msg": 'scan "$1" || exit 1'}


def install_hooks(terminal: Terminal, directory: str) -> int:
    """Make the hooks that look at each commit and its message; raises AvaultError where there is another."""
    top = os.fsdecode(git("rev-parse", "--show-toplevel", directory=directory).removesuffix(b"\n"))
    place = os.fsdecode(
        git("rev-parse", "--git-path", "hooks", directory=top, settings=()).removesuffix(b"\n")
    )
    typed = os.path.abspath(sys.argv[0])
    words = (
        [typed]
        if os.path.basename(typed).startswith("avault") and os.access(typed, os.X_OK)
        else own_command()
    )
    line = shlex.join([*words, "--dir", terminal.places.dir])
    # knows core.hooksPath, and a worktree's repository
    paths = {name: os.path.join(top, place, name) for name in HOOKS}
    texts = {name: text.format(command=line) for name, text in HOOKS.items()}
    others = []
    try:
        for name, path in paths.items():
            there = read_file(path).decode(errors="replace") if os.path.lexists(path) else ""
            if not there or there.split("\n")[:2] == texts[name].split("\n")[:2]:
                install_hook(path, texts[name])
            elif f"{line} {IN_OTHERS[name]}" not in there:
                others.append((path, f"{line} {IN_OTHERS[name]}"))
    except OSError as error:
        raise AvaultError(
            f"cannot make the hooks in {place}: {error.strerror}", "see: git config core.hooksPath"
        ) from None
    for path, missing in others:
        raise AvaultError(f"there is another hook: {path}", f"add this line to it: {missing}")
    say(
        "they stop every commit while the vault is locked; to commit all the same: git commit --no-verify"
    )
    if terminal.want_json:
        put(json.dumps({"hooks": list(paths.values())}, indent=2) + "\n")
    return 0


def install_hook(path: str, hook: str) -> None:
    """Make one hook, unless it is there; raises OSError."""
    if os.path.lexists(path) and read_file(path) == hook.encode() and os.access(path, os.X_OK):
        say(f"the hook is there: {path}")
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_file(path, hook.encode())
    os.chmod(path, 0o700)
    say(f"made the hook {path}")


@command(
    "scan",
    argument("paths", nargs=-1),
    option("--staged", is_flag=True),
    option("--install-hook", "hook", is_flag=True),
)
def cmd_scan(terminal: Terminal, paths: tuple[str, ...], staged: bool, hook: bool) -> int:
    """usage: avault scan [--staged] [PATH | -]…
           avault scan --install-hook [DIR]

    Looks for the vault's values in files: as they are, quoted, broken into
    lines, in UTF-16, and in base64, hex, URL, JSON, HTML form and more. Prints
    where, and which; never a value. Exit code 1: found one, or a file could not
    be read; 0: found none; 3: the vault is locked. PATH is a file, a directory
    (this one, if none is named), or - for stdin. Of a git repository it is what
    git tracks or would add; elsewhere every file. Values under 8 bytes are not
    looked for, and nothing is unpacked.
    --staged looks into what the next commit would change.
    --install-hook has git do that before each commit, and look at its message
    too, and stop one that carries a value. While the vault is locked it stops
    all: git commit --no-verify

      avault scan
      git diff main | avault scan -
      avault scan --install-hook ~/clawd
    """
    if hook:
        if staged or len(paths) > 1:
            raise Usage("--install-hook takes one directory", "avault scan --install-hook ~/clawd")
        return install_hooks(terminal, paths[0] if paths else ".")
    harden("avault scan")
    needles = Needles(terminal.ask("reveal", groups=[], only=[], **{"for": "scan"})["secrets"])
    if short := untold(terminal.places, "scan", needles.left_out):
        say(f"not looked for, as they are under {SHORTEST} bytes: {', '.join(short)}")
    tree, progress = Tree(paths or (".",)), Progress()
    parts = read_staged(paths, needles.overlap) if staged else tree.read(needles.overlap)
    found = without_neighbours(search_all(parts, needles, progress))
    if terminal.want_json:
        places = [each.to_dict() for each in found]
        put(
            json.dumps(
                {"found": places, "left_out": needles.left_out, "unread": tree.unread}, indent=2
            )
            + "\n"
        )
    else:
        put("".join(f"{each}\n" for each in found))
    files = "1 file" if len(progress.files) == 1 else f"{len(progress.files):,} files"
    if found:
        say(f"values of the vault stand in {len({each.path for each in found}):,} of {files}")
    elif sys.stderr.isatty() and not staged:
        say(f"no value of the vault is in {files}")
    return 1 if found or tree.unread else 0


# ------------------------------------------------------ service/accounts ----
# The accounts that a service may run as, and whether theirs runs without a login.


def as_account(user: str) -> dict[str, Any]:
    """What makes `subprocess` run something as an account: nothing if that is us.

    So root runs no user's git.
    """
    if user == account_name():
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def home_of(user: str) -> str:
    """The home of an account, as systemd sets it."""
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return os.path.expanduser("~")


def account_name() -> str:
    """The account that we run as, whatever the environment says: its name, or else its number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def is_lingering(user: str) -> bool:
    """Whether the user's manager runs without a login (loginctl(1), enable-linger)."""
    return os.path.exists(f"/var/lib/systemd/linger/{user}")


def linger(user: str) -> bool:
    """Have the user's manager run from boot on, and start it; whether it does."""
    if not is_lingering(user):
        enable = ["loginctl", "--no-ask-password", "enable-linger", user]
        try:
            subprocess.run(
                enable, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return is_lingering(user)


# ---------------------------------------------------------- service/unit ----
# The unit of avault's service, for the user's manager of systemd or the system's: text and file.
#
# A unit of avault's own for each vault. What confines it, and what is left out because it would break
# something, is said where it stands below; references/service.md says it to the operator.
# Directives: systemd.exec(5), systemd.service(5), systemd.resource-control(5).


# What a user's manager can do, too: nothing that needs a namespace or a capability. Without
# privileges systemd makes namespaces in a user namespace of the service's own, or fails with
# 218/CAPABILITIES (ProtectClock=, ProtectKernelModules=, PrivateDevices=, …). In such a namespace
# root's files are nobody's, so that ssh refuses its own configuration and git cannot push; and the
# kernel no longer tells who the callers are, so that the access log cannot.
# Not here either: RestrictSUIDSGID=, as git cannot write to a shared repository under it.
HARDENING = """\
NoNewPrivileges=yes
LimitCORE=0
MemorySwapMax=0
UMask=0077
KeyringMode=private
LockPersonality=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
# the two more: the daemon asks the kernel whether the clock is right
SystemCallFilter=@system-service adjtimex clock_adjtime
SystemCallErrorNumber=EPERM
"""

# What the system's manager can do as well. Not here: PrivateUsers=, see above; ProtectClock=, which
# hides whether the clock is right; ProtectHome=, as the vault is in a home.
SYSTEM_ONLY = """\
ProtectSystem=strict
ProtectProc=invisible
ProcSubset=pid
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
PrivateDevices=yes
PrivateIPC=yes
RemoveIPC=yes
"""

# 0: another daemon serves the vault; 2, 4, 5, 8: usage, no vault, denied, tampered. A second try
# changes none of these.
HOPELESS = "0 2 4 5 8"

UNIT = """\
# Written by `avault service install`, which writes it again; put changes of your own beside it: \
{edit}
[Unit]
Description=avault, the secrets in {description}
{unit}# a daemon that keeps dying must not keep asking the phone
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={exec}
{service}# whatever the manager's environment holds: this service asks the phone
UnsetEnvironment=NOSTR_NSEC
Restart=on-failure
RestartSec=10
RestartPreventExitStatus={hopeless}
# a commit that is under way is left to end; the process with the secrets ends with this one
KillMode=process
TimeoutStartSec=60
TimeoutStopSec=20

{sandbox}
[Install]
WantedBy={target}

[X-Avault]
Vault={id}
Options={options}
"""

UNIT_PLAIN = LETTERS | DIGITS | set("_./:@+=,-")


def quote(word: str) -> str:
    """A word of a unit file that systemd reads back as it is.

    See "Quoting" in systemd.syntax(7), and "Specifiers" in systemd.unit(5). Raises AvaultError for
    what no unit file can hold everywhere: control characters, and bytes that are no UTF-8.
    """
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in word):
        raise AvaultError(
            f"systemd takes no control characters: {printable(word)!r}",
            "choose another path with --dir",
        )
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if word and set(word) <= UNIT_PLAIN else f'"{escaped}"'


def quote_command(words: list[str]) -> str:
    """A command line for ExecStart= (systemd.service(5), "Command lines"); raises AvaultError.

    systemd replaces variables in all words, but looks for the program under the first one as it
    stands.
    """
    if set(words[0]) & set("\"'\\$"):
        raise AvaultError(
            f"systemd starts no program with such a path: {printable(words[0])}",
            "install avault elsewhere",
        )
    return " ".join(quote(word.replace("$", "$$")) for word in words)


class Service(Unit):
    """The service of one vault: its unit's text, written and removed.

    `user` is the account that it runs as.
    """

    def __init__(self, places: Places, system: bool, user: str) -> None:
        super().__init__(places, system)
        self.places, self.user = places, user
        self.target = "multi-user.target" if system else "default.target"

    def text(self, options: list[str]) -> str:
        """The unit, for a daemon with these options of `daemon start`; raises AvaultError."""
        # for a person to read: the interpreter that has the packages, and this file
        # -P: what lies beside it is not imported
        file = os.path.realpath(__file__)
        start = [sys.executable, "-P", file, "daemon", "start", "--dir", self.places.dir, *options]
        return UNIT.format(
            edit=f"{self.systemctl} edit {self.name}",
            description=printable(self.places.dir, 4096).replace("%", "%%").replace("\\", "\\\\"),
            unit=self.mounts(),
            exec=quote_command(start),
            service=self.account() + self.environment(),
            hopeless=HOPELESS,
            sandbox=self.sandbox("--notify" in options),
            target=self.target,
            id=self.places.id,
            options=json.dumps(options),
        )

    def mounts(self) -> str:
        """What has to be mounted before the system's manager starts the service.

        The user's manager starts it after the login.
        """
        if not self.system:
            return ""
        return f"RequiresMountsFor={quote(self.places.dir)} {quote(self.places.state)}\n"

    def account(self) -> str:
        """Whom the system's manager runs it as, and where it listens.

        Not in /run/user, which is not there while nobody is logged in.
        """
        if not self.system:
            return ""
        directory = f"RuntimeDirectory=avault/{self.places.id}\nRuntimeDirectoryMode=0700\n"
        return f"User={self.user}\n{directory}"

    def environment(self) -> str:
        """The variables that decide where state and socket are: as here, not as the manager's."""
        names = [] if self.system else ["AVAULT_SOCKET", "AVAULT_PID"]
        variables = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
        if self.system:
            variables.append(f"AVAULT_SOCKET=/run/avault/{self.places.id}/avault.sock")
        if os.path.dirname(state_home()) != os.path.join(home_of(self.user), ".local/state"):
            variables.append(f"XDG_STATE_HOME={os.path.dirname(state_home())}")
        return "".join(f"Environment={quote(each)}\n" for each in variables)

    def sandbox(self, notifies: bool) -> str:
        """What the service may not do."""
        lines = HARDENING
        # the operator's command may be JavaScript, which is compiled while it runs
        if not notifies:
            lines += "MemoryDenyWriteExecute=yes\n"
        if not self.system:
            return lines
        lines += SYSTEM_ONLY
        # root needs this one to see who its callers are
        lines += "CapabilityBoundingSet=" + ("CAP_SYS_PTRACE" if self.user == "root" else "") + "\n"
        writable = [
            self.places.dir,
            self.places.state,
            *find_repository(self.places.dir, self.user),
        ]
        needed = [*writable, sys.prefix, sys.base_prefix, os.path.realpath(__file__)]
        # a /tmp of its own would hide them
        if any(path.startswith(("/tmp/", "/var/tmp/")) for path in needed):  # noqa: S108
            writable.append("/tmp")  # noqa: S108  for git
        else:
            lines += "PrivateTmp=yes\n"
        return lines + f"ReadWritePaths={' '.join(quote(path) for path in writable)}\n"

    def installed_options(self) -> list[str] | None:
        """The options that the installed unit was written with; None if there is none of ours.

        Raises AvaultError.
        """
        try:
            lines = read_file(self.path).decode(errors="replace").splitlines()
        except NotFound:
            return None
        if f"Vault={self.places.id}" not in lines:
            raise AvaultError(f"{self.path} is not avault's", "move it away")
        try:
            found = json.loads(
                next(line for line in lines if line.startswith("Options=")).removeprefix("Options=")
            )
        except (StopIteration, ValueError):
            return []
        return [str(word) for word in found] if isinstance(found, list) else []

    def is_current(self) -> bool:
        """Whether the installed unit is what `install` would write now with the same options.

        Raises AvaultError.
        """
        options = self.installed_options()
        return options is not None and read_file(self.path) == self.text(options).encode()

    def is_enabled(self) -> bool:
        """Whether it is started at boot, or at login: seen in the files that systemctl makes."""
        return os.path.lexists(os.path.join(self.directory, self.target + ".wants", self.name))

    def write(self, text: str) -> bool:
        """Write the unit; whether that changed anything. Raises AvaultError."""
        self.installed_options()
        if os.path.lexists(self.path) and read_file(self.path) == text.encode():
            return False
        try:
            os.makedirs(self.directory, exist_ok=True)
            write_file(self.path, text.encode())
            # systemd shows it to everybody anyway, and warns of a unit that looks secret
            os.chmod(self.path, 0o644)
        except OSError as error:
            raise AvaultError(f"cannot write {self.path}: {error.strerror}") from None
        return True

    def remove(self) -> None:
        """Remove the unit and what enables it; raises AvaultError."""
        for path in (os.path.join(self.directory, self.target + ".wants", self.name), self.path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise AvaultError(f"cannot remove {path}: {error.strerror}") from None


def find_repository(directory: str, user: str) -> list[str]:
    """The directories that a commit writes to: those of the repository that one is in."""
    words = ("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir")
    try:
        answer = run_git(directory, *words, **as_account(user))
    except (AvaultError, OSError):
        return []
    if answer.returncode:
        return []
    found = dict.fromkeys(os.fsdecode(answer.stdout).splitlines())
    return [path for path in found if os.path.commonpath([path, directory]) != directory]


# ---------------------------------------------------------- service/root ----
# What root may run to change the system's units: nothing that others than root can write.


def need_root(service: Service, verb: str, options: list[str]) -> None:
    """Raise Denied for a change of the system's units without root, or by files of others.

    The hint does it with root's own programs: root is never to run what the agent can change.
    """
    if not service.system:
        return
    me = os.path.abspath(sys.argv[0])
    install = [me, "service", "install", "--system", "--user", service.user]
    printed = shlex.join([*install, "--dir", service.places.dir, *options, "--print"])
    path, name = shlex.quote(service.path), shlex.quote(service.name)
    hint = {
        "install": f"{printed} | sudo tee {path} >/dev/null && sudo systemctl enable --now {name}",
        "uninstall": f"sudo systemctl disable --now {name}; sudo rm -f {path}; "
        "sudo systemctl daemon-reload",
    }[verb]
    if os.getuid() != 0:
        raise Denied("the system's units belong to root", hint)
    if theirs := find_writable(own_files()):
        raise Denied(
            f"root does not run what others can change: {theirs}", f"as {service.user}: {hint}"
        )


def find_writable(paths: Iterable[str]) -> str | None:
    """The first of these paths, or of those above them, that others than root can change."""
    good: set[str] = set()
    for path in paths:
        for named in (os.path.abspath(path), os.path.realpath(path)):
            place = named
            while place not in good:
                if not is_roots_alone(place):
                    return place
                good.add(place)
                place = os.path.dirname(place)
    return None


def own_files() -> Iterator[str]:
    """What runs where avault runs: its files, Python, packages, and where those are looked for."""
    yield from (os.path.abspath(sys.argv[0]), sys.executable, sys.prefix, *sys.path)
    here = os.path.dirname(__file__)
    tops = [os.path.join(here, name) for name in os.listdir(here) if name.startswith("avault")]
    specs = map(importlib.util.find_spec, ("nostr_sdk", "click", "qrcode", "PIL"))
    tops += [os.path.dirname(spec.origin) for spec in specs if spec and spec.origin]
    for top in tops:
        yield top
        for place, _, files in os.walk(top):
            yield from (place, *(os.path.join(place, name) for name in files))


def is_roots_alone(path: str) -> bool:
    """Whether only root can change a file, or what a directory's names stand for.

    For what is not there, its directory decides.
    """
    try:
        info = os.lstat(path)
    except OSError:
        return True
    is_shared = (
        info.st_mode & 0o022 and not stat.S_ISLNK(info.st_mode) and not info.st_mode & stat.S_ISVTX
    )
    return info.st_uid == 0 and not is_shared


# --------------------------------------------------------- service/state ----
# What there is of a service: on the disk, at the manager, at its socket.


def look_at_service(service: Service) -> dict[str, Any]:
    """What the disk says of a service, and what systemd says: None where it does not run."""
    installed = service.installed_options() is not None
    found: dict[str, Any] = {
        "scope": "system" if service.system else "user",
        "name": service.name,
        "path": service.path,
        "installed": installed,
        "current": installed and service.is_current(),
        "enabled": service.is_enabled(),
        "systemd": is_booted(),
        "active": None,
        "pid": None,
        "lingering": None if service.system else is_lingering(service.user),
    }
    if not found["systemd"]:
        return found
    try:
        shown = service.show()
    except NoManager:
        return {**found, "systemd": False}
    return {
        **found,
        "active": shown.get("ActiveState"),
        "pid": int(shown.get("MainPID") or 0) or None,
    }


def reach_manager(service: Service) -> None:
    """Return when the manager answers; start a user's that does not run, as after `su`.

    Raises NoManager.
    """
    end = time.monotonic() + 10
    while True:
        try:
            service.ask("show-environment")
            return
        except NoManager:
            if service.system or not linger(service.user) or time.monotonic() > end:
                raise
        time.sleep(0.1)


def is_listening(paths: Iterable[str]) -> bool:
    """Whether a daemon listens at one of these places, also one that does not talk to us (root)."""
    import socket

    for path in paths:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(path)
            except OSError:
                continue
            return True
    return False


# ------------------------------------------------------ service/commands ----
# avault service install, uninstall, status.


SCOPE = (option("--system", is_flag=True), option("--user"))


def choose_service(terminal: Terminal, system: bool, user: str | None) -> Service:
    """The service that the options mean; raises Usage.

    The system's manager can run it as another account: then its home says where everything is.
    """
    me = account_name()
    if not system:
        if user is not None and user != me:
            raise Usage(
                "--user is for the system's manager",
                f"as {printable(user)}: avault service install, or: --system --user",
            )
        return Service(terminal.places, False, me)
    account = user or (os.environ.get("SUDO_USER") if os.getuid() == 0 else None) or me
    if account == me:
        return Service(terminal.places, True, account)
    try:
        pwd.getpwnam(account)
    except KeyError:
        raise Usage(f"no such user: {printable(account)}") from None
    is_usual = terminal.places.dir == usual_directory()
    # from here on, we look for things where that account has them
    os.environ["HOME"] = home_of(account)
    return Service(Places(None if is_usual else terminal.places.dir), True, account)


@command(
    "service install",
    *SCOPE,
    option("--lock-after"),
    option("--lock-idle"),
    option("--notify"),
    option("--print", "--dry-run", "show", is_flag=True),
)
def cmd_service_install(
    terminal: Terminal,
    system: bool,
    user: str | None,
    lock_after: str | None,
    lock_idle: str | None,
    notify: str | None,
    show: bool,
) -> int:
    """usage: avault service install [--system [--user NAME]] [--lock-after D] [--lock-idle D]
                              [--notify CMD] [--print]

    Writes a systemd unit for this vault, enables it and starts it: from now on
    the daemon runs from boot, confined, and asks the phone. A unit of the user's
    own manager, for which lingering is turned on if that is allowed; with
    --system one of the system's, which runs as NAME (default: you, or who called
    sudo). That one is root's: the hint has the command. Root itself installs it
    only where nobody else can change avault, its Python or its packages.
    --lock-after, --lock-idle and --notify are those of `daemon start`. --print
    (or --dry-run) only prints the unit.

    A second time it changes what has changed, and nothing else. A daemon that
    runs is never stopped for it: what it holds would be gone.

      avault service install --lock-idle 8h
      avault service install --system
    """
    for duration in (lock_after, lock_idle):
        parse_duration(duration)
    given = (("--lock-after", lock_after), ("--lock-idle", lock_idle), ("--notify", notify))
    options = [word for name, value in given if value is not None for word in (name, value)]
    service = choose_service(terminal, system, user)
    check_servable(service)
    text = service.text(options)
    if show:
        put(
            json.dumps({"ok": True, "path": service.path, "unit": text}, indent=2) + "\n"
            if terminal.want_json
            else text
        )
        return 0
    if not is_booted():
        raise NoManager("systemd does not run this machine", OTHER_WAYS)
    need_root(service, "install", options)
    if os.environ.get("NOSTR_NSEC"):
        warn(
            "the service does not take the key from NOSTR_NSEC: it asks the phone",
            "see: references/service.md",
        )
    changed = install(service, text)
    if terminal.want_json:
        put(
            json.dumps({"ok": True, "changed": changed, **look_at_service(service)}, indent=2)
            + "\n"
        )
    return 0


def check_servable(service: Service) -> None:
    """Raise what would keep the daemon from ever starting there: NotFound, Usage, Locked."""
    places = service.places
    need_vault(places)
    if os.stat(places.dir).st_uid != as_account(service.user).get("user", os.getuid()):
        raise Usage(
            f"{places.dir} does not belong to {service.user}",
            "name its owner with: --system --user NAME",
        )
    if service.system and not os.path.isdir(places.state):
        raise Locked(
            f"{service.user} has never opened this vault here: there is no {places.state}",
            "avault recover",
        )
    probe = subprocess.run(
        own_command("--version"),
        check=False,
        capture_output=True,
        cwd="/",
        **as_account(service.user),
    )
    if probe.returncode:
        raise Usage(
            f"{service.user} cannot run {sys.executable} with avault",
            "install avault where everybody can read it",
        )


def install(service: Service, text: str) -> bool:
    """Write, enable and start a service; whether its unit has changed."""
    reach_manager(service)  # before anything is written
    changed = service.write(text)
    if changed:
        service.ask("daemon-reload")
    if not service.is_enabled():
        service.ask("enable", service.name)
    say(f"wrote {service.path}" if changed else f"{service.path} is as it should be")
    if not service.system and not linger(service.user):
        warn(
            "lingering is off: the service starts at your login, and ends with it",
            f"sudo loginctl enable-linger {service.user}",
        )
    active = look_at_service(service)["active"]
    if active in ("active", "activating"):
        if changed:
            say(
                "the daemon that runs has the old settings; new ones, and the phone is asked again:"
            )
            say(f"hint: {service.systemctl} restart {service.name}")
    elif is_listening(service.places.sockets()):
        say("a daemon runs already, and goes on; the service takes over at the next boot, or with:")
        say(f"hint: avault daemon stop && {service.systemctl} start {service.name}")
    else:
        if active == "failed":
            service.ask("reset-failed", service.name)
        service.ask("start", service.name)
        say("the service runs, and asks the phone; see: avault status")
    return changed


@command("service uninstall", *SCOPE, option("--force", is_flag=True))
def cmd_service_uninstall(terminal: Terminal, system: bool, user: str | None, force: bool) -> int:
    """usage: avault service uninstall [--system [--user NAME]] [--force]

    Stops the service, and removes its unit. The secrets leave memory with it;
    the vault stays as it is. Where nobody has shown yet that the phone opens
    this vault, it refuses without --force. Lingering is left as it is.
    """
    service = choose_service(terminal, system, user)
    need_root(service, "uninstall", ["--force"] if force else [])
    removed = service.installed_options() is not None
    if removed:
        uninstall(service, force)
        say(f"removed {service.path}")
    else:
        say("no service is installed")
    if terminal.want_json:
        put(
            json.dumps({"ok": True, "removed": removed, **look_at_service(service)}, indent=2)
            + "\n"
        )
    return 0


def uninstall(service: Service, force: bool) -> None:
    """Stop and remove a service; raises Denied where that may lose the vault's key."""
    running = look_at_service(service)["active"] in ("active", "activating")
    if running and not force and not is_proven(service.places):
        raise Denied(
            "nobody has shown yet that the phone opens this vault: if its daemon ends, the key "
            "is lost",
            "avault pair, or if you mean it: --force",
        )
    if running:
        service.ask("stop", service.name)
    service.remove()
    try:
        service.ask("daemon-reload")
    except NoManager:
        return  # it will not have heard of it


def is_proven(places: Places) -> bool:
    """Whether the phone has opened this vault here; a damaged unlock.json says no."""
    try:
        return bool(read_unlock(places)[0].get("proven"))
    except AvaultError:
        return False


@command("service status", *SCOPE)
def cmd_service_status(terminal: Terminal, system: bool, user: str | None) -> int:
    """usage: avault service status [--system [--user NAME]] [--json]

    Whether a service is installed, enabled and active; without --system: the
    user's, else the system's. Exit code 0: active; 4: not installed; 6:
    installed, but not active, or systemd does not run here and cannot say.
    """
    service = choose_service(terminal, system, user)
    if not system and service.installed_options() is None:
        other = Service(service.places, True, service.user)
        service = other if os.path.lexists(other.path) else service
    found = look_at_service(service)
    put(
        json.dumps({"ok": True, **found}, indent=2) + "\n"
        if terminal.want_json
        else render_service(found, service)
    )
    if not found["installed"]:
        return NotFound.exit_code
    return 0 if found["active"] == "active" else Unavailable.exit_code


def render_service(found: dict[str, Any], service: Service) -> str:
    """A service's state for a person."""
    whose = "of the system, as" if service.system else "of"
    lines = [f"Service: {found['name']}, {whose} {service.user}"]
    if not found["installed"]:
        return f"{lines[0]}\nInstalled: no\nNext: avault service install\n"
    lines.append(f"Installed: {found['path']}")
    if not found["current"]:
        lines.append(
            "Outdated: avault would write it differently now; again: avault service install"
        )
    at = "at boot" if service.system or found["lingering"] else "at login, as lingering is off"
    lines.append(f"Enabled: {at if found['enabled'] else 'no'}")
    if found["systemd"]:
        lines.append(
            f"Active: {found['active']}" + (f" (PID {found['pid']})" if found["pid"] else "")
        )
    else:
        lines.append("Active: unknown, as systemd does not run here, or not for this user")
    return "".join(line + "\n" for line in lines)


# ------------------------------------------------------ openclaw/program ----
# OpenClaw's command line, which is asked for what it knows best: paths, findings, hooks.
#
# It answers for where things are and what they mean. It takes seconds, as all of OpenClaw starts.


class OpenClaw:
    """The `openclaw` on the PATH."""

    def __init__(self) -> None:
        self.path = shutil.which("openclaw")
        if not self.path:
            raise Unavailable("there is no openclaw on the PATH", "npm install -g openclaw")
        self._config: dict[str, Any] | None = None
        self._config_path = ""

    def run(self, *words: str, codes: tuple[int, ...] = (0,), stdin: str = "") -> str:
        """What a command prints; raises AvaultError with the end of what it complains about."""
        done = subprocess.run(
            [str(self.path), *words], check=False, input=stdin, capture_output=True, text=True
        )
        if done.returncode not in codes:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [
                f"exit code {done.returncode}"
            ]
            said = " ".join(line.strip() for line in lines if line.strip())
            raise AvaultError(
                f"openclaw {' '.join(words[:2])} failed: {printable(said, 400)}",
                "openclaw doctor may say more",
            )
        return done.stdout

    def ask(self, *words: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """The JSON object that a command prints, whatever else it says before."""
        output = self.run(*words, "--json", codes=codes)
        try:
            return dict(json.loads(output[output.index("{") :]))
        except ValueError:
            raise AvaultError(
                f"openclaw {' '.join(words[:2])} printed no JSON", "avault knows OpenClaw 2026.9.6"
            ) from None

    @property
    def config_path(self) -> str:
        """Where openclaw.json is, by OpenClaw's own rules."""
        if not self._config_path:
            self._config_path = os.path.expanduser(
                self.run("config", "file").strip().splitlines()[-1]
            )
        return self._config_path

    @property
    def config(self) -> dict[str, Any]:
        """openclaw.json as it stands there: JSON5, without what it includes or inherits."""
        if self._config is None:
            text = (
                read_file(self.config_path, 16 << 20).decode("utf-8-sig", "replace")
                if os.path.exists(self.config_path)
                else "{}"
            )
            self._config = read_json5(text)
        return self._config

    def forget(self) -> None:
        """Read openclaw.json anew when it is wanted next."""
        self._config = None

    def value(self, *segments: str) -> Any:
        """What stands in openclaw.json under these keys; None for nothing."""
        return reach(self.config, list(segments))


JSON5_TOKEN = regex(
    r"""(?sx)(?P<space>(?:\s|//[^\n\r\u2028\u2029]*|/\*.*?\*/)+) | (?P<mark>[][{},:]) |
        (?P<string>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*') | (?P<word>[^][\s{},:"'/]+)""",
)
JSON5_ESCAPE = regex(r"(?s)\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(\r\n|.))")
JSON5_ESCAPED = {
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "0": "\0",
} | dict.fromkeys("\n\r\u2028\u2029", "")


def read_json5(text: str) -> dict[str, Any]:
    """The object that a JSON5 text (spec.json5.org) holds; raises AvaultError.

    Numbers that JSON does not have come as None, as nobody here needs them.
    """

    def unescape(found: re.Match[str]) -> str:
        if found[1] or found[2]:
            return chr(int(found[1] or found[2], 16))
        return "" if found[3] == "\r\n" else JSON5_ESCAPED.get(found[3], found[3])

    words: list[str] = []
    raw, position = "", 0
    while position < len(text):
        token = JSON5_TOKEN.match(text, position)
        if not token:
            raise refuse_config()
        position = token.end()
        if token["mark"]:
            if token[0] in "]}" and words and words[-1] == ",":
                words.pop()
            if token[0] == ":" and words and words[-1][0] != '"':
                words[-1] = json.dumps(raw)
            words.append(token[0])
        elif token["string"]:
            exact = (
                JSON5_ESCAPE.sub(unescape, token[0][1:-1])
                .encode("utf-16", "surrogatepass")
                .decode("utf-16", "replace")
            )
            words.append(json.dumps(exact))
        elif token["word"]:
            raw = token[0]
            words.append(
                raw
                if re.fullmatch(r"true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", raw)
                else "null"
            )
    try:
        content = json.loads("".join(words))
    except (ValueError, RecursionError):
        raise refuse_config() from None
    if not isinstance(content, dict):
        raise refuse_config()
    return content


def refuse_config() -> AvaultError:
    """openclaw.json is not what it should be; nothing of it is repeated."""
    return AvaultError(
        "openclaw.json cannot be read", "see what OpenClaw says: openclaw config validate"
    )


def parse_path(path: str) -> list[str]:
    """The keys of a path as OpenClaw writes it: `models.providers.openai.headers["x-api-key"]`."""
    parts = re.findall(r'\[("(?:[^"\\]|\\.)*"|\d+)\]|([^.\[]+)', path)
    return [plain or str(json.loads(quoted)) for quoted, plain in parts]


def reach(content: Any, segments: list[str]) -> Any:
    """What `content` has under these keys; None for nothing."""
    for segment in segments:
        if isinstance(content, list) and segment.isdigit() and int(segment) < len(content):
            content = content[int(segment)]
        elif isinstance(content, dict):
            content = content.get(segment)
        else:
            return None
    return content


# ------------------------------------------------------- openclaw/stores ----
# OpenClaw's SQLite stores, in which auth profiles are kept.


# Where an SQLite store of OpenClaw's has auth profiles: table, column, time, row. First the one
# that all agents share.
STORES = (
    ("config_machine_state", "value_json", "updated_at_ms", "state_key = 'authProfiles.store'"),
    ("auth_profile_store", "store_json", "updated_at", "store_key = 'primary'"),
)


def open_sqlite(file: str, mode: str = "ro") -> contextlib.closing[sqlite3.Connection]:
    """A connection to a database that is there; without a transaction until one is begun."""
    quoted = file.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return contextlib.closing(
        sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, isolation_level=None, timeout=30)
    )


def read_store(db: sqlite3.Connection) -> tuple[dict[str, Any], int]:
    """What a store has, {"profiles": …}, and which of STORES it is."""
    for number, (table, column, _, row) in enumerate(STORES):
        with contextlib.suppress(sqlite3.Error, ValueError, TypeError, KeyError):
            select = f"SELECT {column} FROM {table} WHERE {row}"  # noqa: S608
            if found := db.execute(select).fetchone():
                content = dict(json.loads(found[0]))
                return {**content, "profiles": dict(content["profiles"])}, number
    return {"profiles": {}}, 1


def change_store(file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the auth profiles in a database, in one transaction; raises AvaultError."""
    with open_sqlite(file, "rw") as db:
        try:
            db.execute("BEGIN IMMEDIATE")
            store, number = read_store(db)
            change(store)
            table, column, changed, row = STORES[number]
            update = f"UPDATE {table} SET {column} = ?, {changed} = ? WHERE {row}"  # noqa: S608
            db.execute(
                update,
                (
                    json.dumps(store, separators=(",", ":"), ensure_ascii=False),
                    int(time.time() * 1000),
                ),
            )
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise AvaultError(
                f"{file} cannot be changed: {error}", "stop the gateway, and try again"
            ) from None


# ----------------------------------------------------- openclaw/findings ----
# What OpenClaw's audit finds in clear, sorted: what can become a reference, and what cannot.


GATEWAY = (
    "the gateway's own: with it in a locked vault the gateway would not start at all. "
    "OpenClaw's own store takes it out of the file: openclaw secrets store set "
    "OPENCLAW_GATEWAY_TOKEN"
)
KEY = regex("[A-Za-z_][A-Za-z0-9_]{0,127}")
# of names that users choose
MAPS = {"providers", "accounts", "personas", "headers", "routes", "mcpServers", "env"}
SCAFFOLD = {
    "models", "providers", "skills", "channels", "plugins", "agents", "entries", "accounts",
    "personas", "config",
}  # fmt: skip


class Target(Fields):
    """A credential in clear that may become a reference."""

    path: str  # as OpenClaw writes it
    value: str = field(repr=False)
    plan: dict[str, Any]  # its entry in the plan, without the reference
    name: tuple[str, str]  # group and key in the vault
    spare: tuple[str, str]  # another name, for when that one is taken


class Variable(Fields):
    """A secret in clear where OpenClaw takes no reference.

    `server` is the one that gets it, or "" for all.
    """

    segments: list[str]
    value: str = field(repr=False)
    # group and key in the vault; the key is the variable, as `avault run` names it so
    name: tuple[str, str]
    spare: tuple[str, str]
    server: str = ""

    @property
    def path(self) -> str:
        """As OpenClaw writes it."""
        return ".".join(self.segments)

    @property
    def reason(self) -> str:
        """What can be done about it."""
        if self.server:
            return (
                "OpenClaw takes no reference here; with --variables this server runs under "
                "avault run, which gives it the value"
            )
        return (
            "OpenClaw takes no reference here, and all that it runs sees it; "
            "--variables takes it out: "
            f"what needs it then runs as avault run --only {'/'.join(self.name)} -- COMMAND"
        )


class Findings(Fields):
    """What `openclaw secrets audit` has found: what can be moved, and why the rest stays."""

    targets: list[Target] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)  # providers of which a key stays in an auth profile
    variables: list[Variable] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)  # OpenClaw's SQLite files
    # those that OpenClaw scrubs, as they are without the key
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)


def target_type(segments: list[str]) -> str:
    """The type of a plan's target: its path, with * for each name that a user chose."""
    found: list[str] = []
    for index, segment in enumerate(segments):
        before = segments[index - 1] if index else ""
        chosen = before in MAPS or (before == "entries" and segments[0] != "plugins")
        found.append("*" if chosen else segment)
    return ".".join(found)


def snake(words: list[str]) -> str:
    """A key name for these words: `apiKey` gives API_KEY."""
    text = "_".join(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", word) for word in words)
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").upper() or "VALUE"
    return (name if not name[0].isdigit() else f"_{name}")[:128]


def names_for(segments: list[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    """Where a credential goes in the vault, and a spare place.

    models.providers.openai.apiKey goes to openai/API_KEY.
    """
    words = [word for word in segments[:-1] if word not in SCAFFOLD] + segments[-1:]
    spare = ("openclaw", snake(segments))
    if len(words) < 2:
        return spare, spare
    group = re.sub(r"[^A-Za-z0-9._-]", "-", words[0]).lstrip("._-")[:64]
    return (group or "openclaw", snake(words[1:])), spare


def find_variables(config: dict[str, Any]) -> list[Variable]:
    """The secrets among the variables that openclaw.json sets."""
    places: list[tuple[list[str], str]] = [(["env"], ""), (["env", "vars"], "")]
    servers = reach(config, ["mcp", "servers"])
    places += [
        (["mcp", "servers", name, "env"], name)
        for name in (servers if isinstance(servers, dict) else ())
    ]
    found = []
    for segments, server in places:
        variables = reach(config, segments)
        for key, value in variables.items() if isinstance(variables, dict) else ():
            if (
                isinstance(value, str)
                and KEY.fullmatch(key)
                and "${" not in value
                and is_secret(key, value)
            ):
                group = re.sub(r"[^A-Za-z0-9._-]", "-", server).lstrip("._-")[:55] or "openclaw"
                found.append(
                    Variable(
                        [*segments, key], value, (group, key), (f"{group}-openclaw", key), server
                    )
                )
    return found


def look_at_openclaw(openclaw: OpenClaw) -> Findings:
    """What OpenClaw's audit calls plaintext, sorted into what can be moved and what not.

    Runs no provider.
    """
    found = Findings()
    audit = openclaw.ask("secrets", "audit", codes=(0, 1, 2))
    findings = [each for each in audit["findings"] if each["code"] == "PLAINTEXT_FOUND"]
    profiles = [each for each in findings if str(each["file"]).endswith(".sqlite")]
    names = {str(each["profileId"]) for each in profiles}
    for each in findings:
        path, file = str(each["jsonPath"]), str(each["file"])
        if each in profiles:
            add_profile(openclaw, found, file, str(each["profileId"]), path.rpartition(".")[2])
        elif path.startswith("gateway.auth."):
            found.left[path] = GATEWAY
        elif path.startswith("$env."):
            found.left[f"{file}: {path[5:]}"] = (
                "a variable; what uses it can run under avault run, or takes a reference"
            )
        elif os.path.realpath(file) != os.path.realpath(openclaw.config_path):
            found.left[f"{file}: {path}"] = (
                "a file that OpenClaw generates; it does so anew when the gateway restarts"
            )
        else:
            segments = parse_path(path)
            value = reach(openclaw.config, segments)
            # no key, but the name of the profile that has it; OpenClaw's audit does not know
            if isinstance(value, str) and value in names:
                continue
            if isinstance(value, str) and "${" not in value:
                plan = {"type": target_type(segments), "path": path, "pathSegments": segments}
                found.targets.append(Target(path, value, plan, *names_for(segments)))
            else:
                found.left[path] = (
                    "it does not stand in openclaw.json itself, but in a file that this includes"
                )
    found.variables = find_variables(openclaw.config)
    found.stores = [str(file) for file in audit["filesScanned"] if str(file).endswith(".sqlite")]
    return found


def add_profile(openclaw: OpenClaw, found: Findings, file: str, profile: str, kind: str) -> None:
    """Sort an auth profile's key in.

    An agent's own store takes references. The store that all agents share takes none from a plan;
    there the key moves to the provider's entry in openclaw.json, and OpenClaw scrubs the profile.
    That is the same only where the provider has no other key.
    """
    with open_sqlite(file) as db:
        store, number = read_store(db)
    profiles, shared = store["profiles"], number == 0
    path, entry = f"profiles.{profile}.{kind}", profiles.get(profile)
    value = reach(entry, [kind])
    if not isinstance(value, str):
        found.left[path] = "it cannot be read"
        return
    provider = str(reach(entry, ["provider"]) or "")
    names = names_for(["models", "providers", provider, "apiKey" if kind == "key" else kind])
    if not shared:
        agent = os.path.basename(os.path.dirname(os.path.dirname(file)))
        form = f"auth-profiles.{'api_key.key' if kind == 'key' else 'token.token'}"
        plan = {
            "type": form,
            "path": path,
            "pathSegments": ["profiles", profile, kind],
            "agentId": agent,
        }
        found.targets.append(Target(path, value, plan, *names))
        return
    segments = ["models", "providers", provider, "apiKey"]
    there = openclaw.value(*segments)
    keys = {
        reach(each, ["key"]) or reach(each, ["token"])
        for each in profiles.values()
        if reach(each, ["provider"]) == provider
    }
    if kind != "key" or keys != {value} or there not in (None, value, profile):
        found.kept.add(provider)
        found.left[path] = (
            f"it is one of several keys for {provider}, or a token, in the store that all agents "
            "share, where OpenClaw takes no references; remove what is not needed: "
            "openclaw models auth logout"
        )
    elif there != value and not any(
        target.plan.get("pathSegments") == segments for target in found.targets
    ):
        plan = {
            "type": "models.providers.*.apiKey",
            "path": ".".join(segments),
            "pathSegments": segments,
        }
        found.targets.append(Target(path, value, plan, *names))
        rest = {name: each for name, each in dict(entry or {}).items() if name != kind}
        found.profiles[profile] = {
            "file": file,
            "entry": rest,
            "kind": kind,
            "was": profile if there == profile else None,
        }


# --------------------------------------------------------- openclaw/plan ----
# From credentials in clear to references.
#
# `openclaw secrets audit` finds what stands in clear, `openclaw secrets apply` replaces it. Between
# them avault takes the values into the vault, reads them back, and writes the plan, in which there
# are names only.


PROVIDER = "avault"  # its name in `secrets.providers`


def settle_names(terminal: Terminal, targets: Sequence[Target | Variable]) -> dict[str, list[str]]:
    """Give each target a name that no other value has, here or in the vault.

    Returns what an import of them would do. Raises Denied where both names of a target are taken.
    """
    taken: dict[tuple[str, str], str] = {}
    for target in targets:
        if taken.setdefault(target.name, target.value) != target.value:
            target.name = target.spare
            taken[target.name] = target.value
    answer = import_targets(terminal, targets, dry_run=True)
    for target in targets:
        if "/".join(target.name) in answer["replaced"]:
            target.name = target.spare
    answer = import_targets(terminal, targets, dry_run=True)
    if answer["replaced"]:
        raise Denied(
            f"in the vault with another value: {', '.join(answer['replaced'])}",
            "rename or delete what is there: avault delete",
        )
    return answer


def import_targets(
    terminal: Terminal, targets: Sequence[Target | Variable], dry_run: bool
) -> dict[str, list[str]]:
    """Put the values into the vault; nothing there is replaced."""
    rows = {target.name: target.value for target in targets}
    secrets = [[group, key, check_value(value)] for (group, key), value in rows.items()]
    if not secrets:
        return {"new": [], "same": [], "replaced": []}
    return terminal.ask(
        "import", value={"secrets": secrets, "notes": {}}, replace=False, dry_run=dry_run
    )


def verify(terminal: Terminal, targets: Sequence[Target | Variable]) -> None:
    """Read back what was imported; raises AvaultError."""
    names = sorted({"/".join(target.name) for target in targets})
    rows = (
        terminal.ask("reveal", groups=[], only=names, **{"for": "openclaw"})["secrets"]
        if names
        else []
    )
    kept = {(row["group"], row["key"]): row["value"] for row in rows}
    if wrong := [target.path for target in targets if kept.get(target.name) != target.value]:
        raise AvaultError(
            f"not as it was in the vault: {', '.join(wrong)}", "nothing was replaced; try again"
        )


def make_plan(found: Findings, provider: dict[str, Any]) -> dict[str, Any]:
    """The plan for `openclaw secrets apply`.

    That takes the keys of each provider in the plan out of the auth profiles, unless it is told
    not to.
    """
    refs = [
        {"source": "exec", "provider": PROVIDER, "id": "/".join(target.name)}
        for target in found.targets
    ]
    moved = {
        target.plan["pathSegments"][2]
        for target in found.targets
        if target.plan["type"] == "models.providers.*.apiKey"
    }
    return {
        "version": 1,
        "protocolVersion": 1,
        "providerUpserts": {PROVIDER: provider},
        "targets": [
            {**target.plan, "ref": ref} for target, ref in zip(found.targets, refs, strict=True)
        ],
        "options": {
            "scrubEnv": True,
            "scrubAuthProfilesForProviderTargets": not moved & found.kept,
        },
    }


def apply_plan(openclaw: OpenClaw, places: Places, plan: dict[str, Any], values: list[str]) -> None:
    """Run `openclaw secrets apply`; raises AvaultError."""
    path = places.own("openclaw-plan.json")
    make_private_directory(places.state)
    write_file(path, json.dumps(plan, indent=2).encode())
    try:
        with all_or_nothing(openclaw, values):
            openclaw.run("secrets", "apply", "--from", path, "--allow-exec", "--json")
    finally:
        os.unlink(path)


@context
def all_or_nothing(openclaw: OpenClaw, values: list[str]) -> Iterator[None]:
    """Let OpenClaw change openclaw.json; where that fails, the file is as it was.

    Raises AvaultError.
    """
    config = openclaw.config_path
    before = read_file(config, 16 << 20) if os.path.exists(config) else None
    try:
        yield
    except BaseException as error:
        if before is not None and read_file(config, 16 << 20) != before:
            write_file(config, before)
        if isinstance(error, AvaultError):
            fail(error, values)
        raise
    finally:
        openclaw.forget()


def fail(error: AvaultError, values: list[str]) -> NoReturn:
    """Raise the error, and say that nothing was changed.

    What OpenClaw said is repeated only where no part of a value can be in it.
    """
    parts = [
        value[start : start + 6] for value in values for start in range(max(1, len(value) - 5))
    ]
    said, _, more = error.message.partition(" failed: ")
    message = f"{said} failed" if any(part in more for part in parts) else error.message
    raise AvaultError(
        f"{message}; openclaw.json is as it was, and the vault has the values", error.hint
    ) from None


def old_copies(config: str, values: list[str]) -> list[str]:
    """The copies of openclaw.json that OpenClaw keeps beside it, where one of the values is."""
    directory, name = os.path.split(config)
    found = []
    for each in sorted(os.listdir(directory)):
        path = os.path.join(directory, each)
        if each.startswith(name + ".") and os.path.isfile(path) and not os.path.islink(path):
            text = read_file(path, 16 << 20).decode("utf-8", "replace")
            if any(value in text or json.dumps(value)[1:-1] in text for value in values):
                found.append(path)
    return found


# ------------------------------------------------------ openclaw/command ----
# The file that OpenClaw may execute as a provider.
#
# Its rules: absolute, regular, no symlink, ours (root's does not count), and writable by nobody else.
# Ours: it names its interpreter, as a gateway's PATH leads anywhere.


LAUNCHER = """\
#!/bin/sh
# Written by `avault openclaw install`, so that OpenClaw finds a file that is yours. `avault openclaw uninstall` removes it.
exec {python} -P {program} "$@"
"""


def refusal(path: str) -> str | None:
    """Why OpenClaw would refuse to execute this file as a provider; None if it would not."""
    if not os.path.isabs(path):
        return "the path is not absolute"
    try:
        info = os.lstat(path)
    except OSError as error:
        return str(error.strerror)
    if stat.S_ISLNK(info.st_mode):
        return "it is a symlink"
    if not stat.S_ISREG(info.st_mode):
        return "it is not a regular file"
    if info.st_uid != os.geteuid():
        return "it belongs to another user"
    if info.st_mode & 0o022:
        return "others can write to it"
    return None if os.access(path, os.X_OK) else "it is not executable"


def launcher_path() -> str:
    """$XDG_DATA_HOME/avault/avault, or ~/.local/share/avault/avault."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return os.path.join(
        base if os.path.isabs(base) else os.path.expanduser("~/.local/share"), "avault", "avault"
    )


def own_script() -> str | None:
    """The script that runs us, if OpenClaw can use it as it is; not one that looks for its interpreter on the PATH."""
    path = os.path.realpath(sys.argv[0])
    if os.path.basename(path) not in ("avault", "avault.py") or refusal(path):
        return None
    with open(path, "rb") as script:
        interpreter = script.readline(256).removeprefix(b"#!").split()
    return (
        path
        if interpreter and interpreter[0].startswith(b"/") and interpreter[0] != b"/usr/bin/env"
        else None
    )


def launcher_text() -> bytes:
    """The launcher for this interpreter and this avault.py."""
    program = shlex.quote(os.path.realpath(__file__))
    return LAUNCHER.format(python=shlex.quote(sys.executable), program=program).encode()


def find_command(writing: bool) -> str:
    """The path that OpenClaw is to execute: our script, else the launcher, which is written if need be.

    Raises AvaultError where OpenClaw would refuse it.
    """
    if path := own_script():
        return path
    path = os.path.realpath(launcher_path())
    if writing and not is_launcher(path):
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        write_file(path, launcher_text())
        os.chmod(path, 0o755)  # noqa: S103  a program
    if (why := refusal(path)) and (writing or os.path.lexists(path)):
        raise AvaultError(
            f"OpenClaw will not execute {path}: {why}",
            f"mend that, or remove it: rm {shlex.quote(path)}",
        )
    return path


def is_launcher(path: str) -> bool:
    """Whether the launcher is there as it should be."""
    try:
        return (
            not os.path.islink(path)
            and read_file(path) == launcher_text()
            and os.access(path, os.X_OK)
        )
    except AvaultError:
        return False


def name_vault(places: Places) -> list[str]:
    """The options with which avault finds this vault from a gateway, whose environment is another."""
    usual = (
        usual_directory
        if not (os.environ.get("AVAULT_DIR") or os.environ.get("WORKSPACE"))
        else None
    )
    return [] if usual and places.dir == usual() else ["--dir", places.dir]


def fixed_environment() -> dict[str, str]:
    """What of our environment leads to this vault's daemon, and is not a gateway's by itself."""
    return {
        name: os.environ[name]
        for name in ("XDG_STATE_HOME", "AVAULT_SOCKET")
        if os.environ.get(name)
    }


def describe_provider(places: Places, program: str) -> dict[str, Any]:
    """The entry of `secrets.providers` in openclaw.json."""
    found: dict[str, Any] = {
        "source": "exec",
        "command": program,
        "args": [*name_vault(places), "openclaw-provider"],
        "passEnv": ["HOME", "PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"],
        "timeoutMs": 120_000,  # OpenClaw's maximum
        "noOutputTimeoutMs": 120_000,
        "maxOutputBytes": 20 << 20,
        "jsonOnly": True,
    }
    if fixed := fixed_environment():
        found["env"] = fixed
    return found


# ---------------------------------------------------- openclaw/variables ----
# From variables in clear to what runs under `avault run`.
#
# In two places OpenClaw takes strings only: `env`, for all that the gateway runs, and the variables
# of a server of the Model Context Protocol. A server can run under `avault run`; what an agent's
# command needs, it gets the same way.


class Reference(Fields):
    """A reference into the vault: the file and the keys under which it stands, and the secret's name."""

    file: str
    segments: list[str]
    id: str

    def __str__(self) -> str:
        return ".".join(self.segments)

    def server(self) -> str | None:
        """The server of the Model Context Protocol whose variable it is, if it is one's."""
        return (
            self.segments[2]
            if self.segments[:2] == ["mcp", "servers"] and self.segments[3:4] == ["env"]
            else None
        )


class Moved:
    """What a plan took out of OpenClaw's settings, so that --undo can put it back: names and settings, never a value.

    `variables` are the paths of variables and their names in the vault, `servers` the commands that now run under
    avault run, `profiles` the auth profiles that OpenClaw scrubbed.
    """

    def __init__(self, places: Places) -> None:
        self.path = places.own("openclaw-moved.json")
        try:
            content = dict(json.loads(read_file(self.path)))
        except (NotFound, ValueError, TypeError):
            content = {}
        self.variables: list[dict[str, Any]] = list(content.get("variables") or [])
        self.servers: dict[str, Any] = dict(content.get("servers") or {})
        self.profiles: dict[str, Any] = dict(content.get("profiles") or {})

    def profiles_of(self, found: list[Reference]) -> dict[str, dict[str, Any]]:
        """The scrubbed profiles whose keys are among these references, which stand in the providers' own settings now."""
        ids = {
            each.id
            for each in found
            if each.segments[:2] == ["models", "providers"] and each.segments[3:] == ["apiKey"]
        }
        return {name: profile for name, profile in self.profiles.items() if profile["id"] in ids}

    def forget(self, found: list[Reference]) -> None:
        """Strike out what was put back."""
        for name in self.profiles_of(found):
            del self.profiles[name]
        paths = [each.segments for each in found]
        self.variables = [each for each in self.variables if each["path"] not in paths]
        left = {each["path"][2] for each in self.variables if each["path"][0] == "mcp"}
        self.servers = {name: was for name, was in self.servers.items() if name in left}
        self.save()

    def save(self) -> None:
        """Write it down, or remove it where nothing is left to put back."""
        content = {"variables": self.variables, "servers": self.servers, "profiles": self.profiles}
        if any(content.values()):
            write_file(self.path, json.dumps(content, indent=2).encode())
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


def put_at(patch: dict[str, Any], segments: list[str], value: object) -> None:
    """Set one thing in a patch for `openclaw config patch`; None takes it away."""
    for segment in segments[:-1]:
        patch = patch.setdefault(segment, {})
    patch[segments[-1]] = value


def wrap_server(
    places: Places, program: str, server: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    """What changes in a server's settings so that it runs under `avault run`, with these secrets."""
    chosen = [word for name in names for word in ("--only", name)]
    words = [
        *name_vault(places),
        "run",
        *chosen,
        "--",
        str(server["command"]),
        *(server.get("args") or []),
    ]
    return {"command": program, "args": words, "env": dict(fixed_environment())}


def move_variables(openclaw: OpenClaw, places: Places, program: str, found: list[Variable]) -> None:
    """Take variables out of openclaw.json, whose values the vault has; raises AvaultError."""
    moved = Moved(places)
    patch: dict[str, Any] = {}
    for name in dict.fromkeys(each.server for each in found if each.server):
        server = openclaw.value("mcp", "servers", name)
        names = ["/".join(each.name) for each in found if each.server == name]
        was = {key: reach(server, ["env", key]) for key in fixed_environment()}
        moved.servers[name] = {"command": server["command"], "args": server.get("args"), "env": was}
        patch.setdefault("mcp", {}).setdefault("servers", {})[name] = wrap_server(
            places, program, server, names
        )
    for each in found:
        put_at(patch, each.segments, None)
        moved.variables.append({"path": each.segments, "id": "/".join(each.name)})
    moved.save()
    with all_or_nothing(openclaw, [each.value for each in found]):
        openclaw.run("config", "patch", "--stdin", stdin=json.dumps(patch))


def is_wrapped(places: Places, server: object) -> bool:
    """Whether a server of openclaw.json still runs as `wrap_server` made it."""
    words = reach(server, ["args"])
    return (
        isinstance(words, list)
        and "run" in words
        and words[: words.index("run")] == name_vault(places)
        and "--" in words
    )


def tell_moved(moved: list[str], left: dict[str, str], otherwise: str) -> None:
    """Say what was moved and what was not."""
    for line in moved or ([otherwise] if otherwise else []):
        say(line)
    for path, reason in left.items():
        say(f"left {printable(path)}: {reason}")


# --------------------------------------------------------- openclaw/undo ----
# From references back to credentials in clear.
#
# The stores of auth profiles come first, each in one transaction; openclaw.json is last, in one write
# of OpenClaw's own, which takes the provider out too. Whatever ends that halfway, a reference that is
# left still has its provider.


def find_own_references(
    content: Any, file: str, default: object, segments: tuple[str, ...] = ()
) -> Iterator[Reference]:
    """The references to our provider in there; `default` is the provider of those that name none."""
    if isinstance(content, dict):
        if (
            content.get("source") == "exec"
            and content.get("provider", default) == PROVIDER
            and "id" in content
        ):
            yield Reference(file, list(segments), str(content["id"]))
            return
        content = content.items()
    elif isinstance(content, list):
        content = ((str(index), each) for index, each in enumerate(content))
    else:
        return
    for name, each in content:
        yield from find_own_references(each, file, default, (*segments, name))


def is_in_list(content: Any, segments: list[str]) -> bool:
    """Whether the way to a reference leads through a list, which a patch can only replace as a whole."""
    return any(
        isinstance(reach(content, segments[:length]), list) for length in range(len(segments))
    )


def look_back(
    openclaw: OpenClaw, places: Places, moved: Moved
) -> tuple[list[Reference], dict[str, str]]:
    """All that can become values again, references into the vault and moved variables; and what stays, with the reason."""
    default = openclaw.value("secrets", "defaults", "exec")
    here = list(find_own_references(openclaw.config, openclaw.config_path, default))
    found = [each for each in here if not is_in_list(openclaw.config, each.segments)]
    left = {
        str(each): "it stands in a list, where avault puts none: write it by hand"
        for each in here
        if each not in found
    }
    if "$include" in json.dumps(openclaw.config):
        left["secrets.providers." + PROVIDER] = (
            "openclaw.json includes other files, which may have references to it"
        )
    for file in openclaw.ask("secrets", "audit", codes=(0, 1, 2))["filesScanned"]:
        if str(file).endswith(".sqlite"):
            with open_sqlite(file) as db:
                profiles = read_store(db)[0]["profiles"]
            found += find_own_references(profiles, file, default, ("profiles",))
    for each in moved.variables:
        variable = Reference(openclaw.config_path, list(each["path"]), str(each["id"]))
        server = variable.server()
        if openclaw.value(*variable.segments) is not None:
            left[str(variable)] = "it was set anew since"
        elif server and not is_wrapped(places, openclaw.value("mcp", "servers", server)):
            left[str(variable)] = "its server does not run under avault run any more"
        else:
            found.append(variable)
    return found, left


def write_profiles(file: str, found: list[Reference], values: dict[str, str]) -> None:
    """Put values into a store of auth profiles, in place of `keyRef` or `tokenRef`; raises AvaultError."""

    def change(store: dict[str, Any]) -> None:
        for each in found:
            profile = reach(store, each.segments[:-1])
            if isinstance(profile, dict) and profile.pop(each.segments[-1], None):
                profile[each.segments[-1].removesuffix("Ref")] = values[each.id]

    change_store(file, change)


def put_profile(file: str, name: str, profile: dict[str, Any]) -> None:
    """Put an auth profile back into a store; raises AvaultError."""
    change_store(file, lambda store: store["profiles"].update({name: profile}))


def make_patch(
    openclaw: OpenClaw,
    found: list[Reference],
    values: dict[str, str],
    with_provider: bool,
    moved: Moved,
) -> dict[str, Any]:
    """The patch for `openclaw config patch`: values for references, servers as they ran before, and null for what goes."""
    patch: dict[str, Any] = {}
    for name in dict.fromkeys(each.server() for each in found):
        if name in moved.servers:
            put_at(patch, ["mcp", "servers", name], dict(moved.servers[name]))
    for each in found:
        put_at(patch, each.segments, values[each.id])
    for name, profile in moved.profiles_of(found).items():
        provider = str(profile["entry"]["provider"])
        put_at(patch, ["models", "providers", provider, "apiKey"], profile["was"])
        put_at(patch, ["auth", "profiles", name], profile["setting"])
        if profile["order"] is not None:
            put_at(patch, ["auth", "order", provider], profile["order"])
    secrets = openclaw.value("secrets")
    if with_provider and isinstance(secrets, dict):
        gone: dict[str, Any] = {}
        for name, key in (("providers", PROVIDER), ("defaults", "exec")):
            part = secrets.get(name)
            if (
                isinstance(part, dict)
                and key in part
                and (name == "providers" or part[key] == PROVIDER)
            ):
                gone[name] = None if len(part) == 1 else {key: None}
        if gone:
            patch["secrets"] = (
                None if gone == dict.fromkeys(secrets) else {**patch.get("secrets", {}), **gone}
            )
    return patch


def undo_plan(terminal: Terminal, dry_run: bool, yes: bool) -> int:
    """`avault openclaw plan --undo`."""
    terminal.ask("list")  # a locked vault says so now
    openclaw = OpenClaw()
    moved = Moved(terminal.places)
    found, left = look_back(openclaw, terminal.places, moved)
    has_provider = openclaw.value("secrets", "providers", PROVIDER) is not None
    files = sorted({each.file for each in found})
    lines = [f"{each.id} -> {each}" for each in found]
    apply = not dry_run and bool(found or (has_provider and not left))
    if apply:
        warn(
            f"{len(found)} values will stand IN CLEAR on the disk again, in: {', '.join(files) or 'no file'}"
        )
        if not yes and not confirm("avault: take OpenClaw's references into the vault back?"):
            raise Denied(
                "nothing was changed",
                "avault openclaw plan --undo --yes; to look first: --undo --dry-run",
            )
        put_back(terminal, openclaw, found, with_provider=not left, moved=moved)
    gone = apply and has_provider and not left
    if terminal.want_json:
        restored = [{"file": each.file, "path": str(each), "id": each.id} for each in found]
        reasons = [{"path": path, "reason": reason} for path, reason in left.items()]
        put(
            json.dumps(
                {
                    "ok": True,
                    "restored": restored,
                    "left": reasons,
                    "applied": apply,
                    "provider": gone,
                },
                indent=2,
            )
            + "\n"
        )
    elif dry_run:
        put("".join(f"{line}\n" for line in lines))
    tell_moved(lines if apply else [], left, "" if found or gone else "nothing to do")
    if gone:
        say(
            "openclaw.json has no avault any more; the vault still has the secrets. The hook goes by: avault openclaw uninstall"
        )
    return 0


def put_back(
    terminal: Terminal,
    openclaw: OpenClaw,
    found: list[Reference],
    with_provider: bool,
    moved: Moved,
) -> None:
    """Write the vault's values where the references stand; raises NotFound, before any write, for what the vault has not."""
    names = sorted({each.id for each in found})
    rows = (
        terminal.ask("reveal", groups=[], only=names, **{"for": "openclaw"})["secrets"]
        if names
        else []
    )
    values = {f"{row['group']}/{row['key']}": str(row["value"]) for row in rows}
    if missing := [name for name in names if name not in values]:
        raise NotFound(
            f"not in the vault: {', '.join(missing)}",
            "nothing was changed; see: avault list --names",
        )
    config = openclaw.config_path
    for file in sorted({each.file for each in found} - {config}):
        write_profiles(file, [each for each in found if each.file == file], values)
    for name, profile in moved.profiles_of(found).items():
        put_profile(
            profile["file"], name, {**profile["entry"], profile["kind"]: values[profile["id"]]}
        )
    if patch := make_patch(
        openclaw, [each for each in found if each.file == config], values, with_provider, moved
    ):
        with all_or_nothing(openclaw, list(values.values())):
            openclaw.run("config", "patch", "--stdin", stdin=json.dumps(patch))
    moved.forget(found)


# -------------------------------------------------------- openclaw/chats ----
# avault openclaw chats, which finds where the operator can be told that the phone waits.


def find_chats(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The operator's chats, by channel and target, that work without the vault: no reference into it stands in the channel."""
    owners = reach(config, ["commands", "ownerAllowFrom"])
    default = reach(config, ["secrets", "defaults", "exec"])
    found = []
    for owner in owners if isinstance(owners, list) else ():
        channel, _, target = str(owner).partition(":")
        settings = reach(config, ["channels", channel])
        if (
            target
            and isinstance(settings, dict)
            and not any(find_own_references(settings, "", default))
        ):
            found.append((channel, target))
    return found


@command("openclaw chats", option("--config"))
def cmd_chats(terminal: Terminal, config: str | None) -> int:
    """usage: avault openclaw chats [--config FILE] [--json]

    Where the operator can be told that the phone waits: those of OpenClaw's
    commands.ownerAllowFrom whose channel has no token in the vault, a line each.
    The hook avault-unlock uses the first that works. FILE is openclaw.json; without
    it OpenClaw is asked where that is.
    """
    content = (
        read_json5(read_file(config, 16 << 20).decode("utf-8-sig", "replace"))
        if config
        else OpenClaw().config
    )
    chats = find_chats(content)
    if terminal.want_json:
        put(
            json.dumps(
                {
                    "ok": True,
                    "chats": [{"channel": channel, "target": target} for channel, target in chats],
                }
            )
            + "\n"
        )
    else:
        put("".join(f"{channel} {target}\n" for channel, target in chats))
    return 0


# --------------------------------------------------- openclaw/hook_files ----
# The files of OpenClaw's hook: what lies in hooks/avault-unlock/, which the generator puts here.


HOOK_FILES: dict[str, str] = {
    "HOOK.md": r'''---
name: avault-unlock
description: "Opens the avault vault with the operator's phone when the gateway starts, then reloads the secrets"
metadata:
  openclaw:
    emoji: "🔐"
    events:
      - gateway:startup
    os:
      - linux
      - darwin
---

# avault-unlock

OpenClaw resolves its secrets before the first hook runs. Where the vault was locked at that moment, the gateway is up, but
what needs a secret is cold. This hook then asks for the vault and, once it is open, has OpenClaw resolve the secrets again.

1. `avault openclaw unlock` starts the daemon or finds it, and asks the operator's phone: one request at a time, shared
   with everybody else who asks, and with growing pauses after refusals, so that a gateway that keeps restarting does not
   keep the phone ringing.
   The operator is told in the first chat of `commands.ownerAllowFrom` whose channel works without the vault.
2. `openclaw secrets reload` follows.

It does not hold up the gateway, sets no environment variable, and reads no secret: values go from the daemon to OpenClaw's own
exec provider. What it waits for stands in the gateway's log, in lines that begin with `[avault-unlock]`, and the main session
is told by a system event, so that the agent can say why something does not work yet.

`avault openclaw install` puts this folder into place, writes beside it which command avault is (`avault.json`), and enables the
hook; `avault openclaw uninstall` undoes that. Without `avault.json` it runs the `avault` that is on the `PATH`.

If it says that the vault stays locked: `avault unlock`, and approve on the phone. The hook waits for that without asking anybody,
and then has the secrets reloaded.
''',
    "handler.ts": r'''// Opens the vault at gateway:startup, then has OpenClaw resolve its secrets again. See HOOK.md.
//
// Nothing here sees a value: `avault openclaw unlock` prints none, and the reload goes through OpenClaw's own provider.
// The gateway imports this file as it is, so only TypeScript that can be erased: no enums, no namespaces.

import { execFile, spawn } from "node:child_process";
import { readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

type HookEvent = { type: string; action: string };
type Avault = { command: string[]; env: Record<string, string>; config?: string };

const PATIENCE = "15m"; // the operator may be in the shower
const CLOSED = "what needs a secret stays cold; open it with: avault unlock";
const WHY: Record<number, string> = { 5: "the operator refused", 7: "nobody approved in time", 127: "there is no avault command" };

const log = (text: string) => console.log(`[avault-unlock] ${text}`);

// Returns at once: the gateway does not wait, and must not when it shuts down.
export default async function handler(event: HookEvent): Promise<void> {
  if (event.type !== "gateway" || event.action !== "startup") return;
  openVault().catch((error) => log(`failed: ${error?.code ?? error?.name}; ${CLOSED}`));
}

async function openVault(): Promise<void> {
  const code = await run("openclaw", "unlock", "--timeout", PATIENCE);
  if (code !== 0) {
    await tell(`the vault stays locked, as ${WHY[code] ?? `avault ended with exit code ${code}`}; ${CLOSED}`);
    if (await run("wait") !== 0) return; // asks nobody; the operator may open the vault at any time
  }
  try {
    const command = [process.argv[1], "secrets", "reload", "--json"];
    const { stdout } = await promisify(execFile)(process.execPath, command, { timeout: 300_000 });
    const cold = JSON.parse(stdout).warningCount ?? 0;
    await tell(cold ? `the vault is open; secrets reloaded, ${cold} still cold: openclaw secrets audit --allow-exec`
                    : "the vault is open; secrets reloaded");
  } catch (error) {
    const reason = (error as { code?: unknown }).code ?? (error as Error).name;
    await tell(`the vault is open, but the secrets were not reloaded (${reason}): openclaw secrets reload`);
  }
}

// Runs avault, and passes on what it says. The exit code.
function run(...words: string[]): Promise<number> {
  const { command, env } = findCommand();
  const [program, ...given] = command;
  const child = spawn(program, [...given, ...words], { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...env } });
  child.unref(); // a gateway that ends does not wait for a phone
  process.once("exit", () => child.kill()); // nor does it leave one behind who waits
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    const lines = (said + piece).split("\n");
    said = lines.pop() ?? "";
    for (const line of lines) {
      log(line.replace(/^avault: /, ""));
      if (line.startsWith("avault: asking")) {
        void tell("waits for the operator's approval on the phone; secrets fail until then");
        void tellOperator(line);
      }
    }
  });
  return new Promise((resolve) => {
    child.on("error", () => resolve(127));
    child.on("close", (code) => resolve(code ?? 1));
  });
}

// The command that `avault openclaw install` wrote down, else the one on the PATH.
function findCommand(): Avault {
  try {
    return JSON.parse(readFileSync(join(import.meta.dirname, "avault.json"), "utf8"));
  } catch {
    return { command: ["avault"], env: {} };
  }
}

// Says it in the log, and to the agent: the next turn of the main session begins with it.
async function tell(text: string): Promise<void> {
  log(text);
  try {
    const entry = createRequire(realpathSync(process.argv[1])).resolve("openclaw/plugin-sdk/system-event-runtime");
    const events = await import(pathToFileURL(entry).href);
    const sessionKey = events.resolveMainSessionKeyFromConfig();
    events.enqueueSystemEvent(`avault: ${text}`, { sessionKey, contextKey: "avault", replace: true });
  } catch (error) {
    log(`not told to the agent: ${(error as Error).name}`);
  }
}

// Says it to the operator, in the first chat that works without the vault; avault knows which those are.
async function tellOperator(text: string): Promise<void> {
  const execute = promisify(execFile);
  const { command, env, config } = findCommand();
  const [program, ...words] = [...command, "openclaw", "chats", "--json", ...(config ? ["--config", config] : [])];
  try {
    const { stdout } = await execute(program, words, { timeout: 60_000, env: { ...process.env, ...env } });
    for (const { channel, target } of JSON.parse(stdout).chats) {
      const message = ["message", "send", "--channel", channel, "--target", target, "--message", text];
      try {
        await execute(process.execPath, [process.argv[1], ...message], { timeout: 120_000 });
        log(`the operator was told in ${channel}`);
        return;
      } catch (error) {
        log(`not told in ${channel} (${(error as { code?: unknown }).code ?? (error as Error).name})`);
      }
    }
  } catch (error) {
    log(`the operator was not told in a chat (${(error as { code?: unknown }).code ?? (error as Error).name})`);
  }
}
''',
}


# --------------------------------------------------------- openclaw/hook ----
# avault openclaw install, uninstall and status.


HOOK = "avault-unlock"
ENTRY = ("hooks", "internal", "entries", HOOK)


class Hook:
    """The hook in OpenClaw's own directory of hooks, which takes no symlinks."""

    def __init__(self, openclaw: OpenClaw) -> None:
        self.openclaw = openclaw
        self.directory = os.path.join(str(openclaw.ask("hooks", "list")["managedHooksDir"]), HOOK)

    def wanted(self, places: Places, program: str) -> dict[str, bytes]:
        """The files of the hook and what is in them. avault.json says which command avault is."""
        files = {name: text.encode() for name, text in HOOK_FILES.items()}
        words = {
            "command": [program, *name_vault(places)],
            "env": fixed_environment(),
            "config": self.openclaw.config_path,
        }
        return files | {
            "avault.json": json.dumps({**words, "first": self.first()}).encode() + b"\n"
        }

    def first(self) -> list[str]:
        """The topmost setting that enabling the hook creates, so that disabling can take it away again."""
        try:
            return list(json.loads(read_file(os.path.join(self.directory, "avault.json")))["first"])
        except (AvaultError, ValueError, TypeError, KeyError):
            missing = (
                length
                for length in range(1, len(ENTRY))
                if self.openclaw.value(*ENTRY[:length]) is None
            )
            return list(ENTRY[: next(missing, len(ENTRY))])

    def is_there(self, wanted: dict[str, bytes]) -> bool:
        """Whether all the files are there as they should be."""
        try:
            return not os.path.islink(self.directory) and all(
                read_file(os.path.join(self.directory, name)) == data
                for name, data in wanted.items()
            )
        except AvaultError:
            return False

    def is_enabled(self) -> bool:
        """Whether openclaw.json names it."""
        entry = self.openclaw.value(*ENTRY)
        return isinstance(entry, dict) and entry.get("enabled", True) is True

    def write(self, wanted: dict[str, bytes]) -> None:
        """Put the files into place."""
        if os.path.islink(self.directory):
            os.unlink(self.directory)
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        for name, data in wanted.items():
            write_file(os.path.join(self.directory, name), data)

    def enable(self) -> None:
        """Have OpenClaw load it."""
        internal = self.openclaw.value("hooks", "internal")
        if isinstance(internal, dict) and internal.get("enabled") and not internal.get("entries"):
            warn(
                "until now OpenClaw loaded every hook that it found; from now on those under hooks.internal.entries",
                "openclaw hooks list, and openclaw hooks enable for each that you want",
            )
        self.openclaw.run("hooks", "enable", HOOK)
        self.openclaw.forget()

    def disable(self) -> None:
        """Take the settings away that enabling has made; others stay."""
        first = self.first()
        self.openclaw.run("config", "unset", ".".join(ENTRY))
        self.openclaw.forget()
        left = self.openclaw.value(*first)
        if len(first) < len(ENTRY) and left in (
            {},
            {"enabled": True, "entries": {}},
            {"internal": {"enabled": True, "entries": {}}},
        ):
            self.openclaw.run("config", "unset", ".".join(first))
            self.openclaw.forget()


@command("openclaw install")
def cmd_install(terminal: Terminal) -> int:
    """usage: avault openclaw install

    Copies the hook avault-unlock into OpenClaw's directory of hooks and enables
    it: when the gateway starts with a locked vault, the hook asks the phone and
    then reloads the secrets. Checks that OpenClaw will execute avault, and writes
    a launcher of your own where it would not. Twice changes nothing.

    Then: avault openclaw plan --apply, and avault service install, as a daemon
    that the gateway starts ends with it.
    """
    openclaw = OpenClaw()
    hook = Hook(openclaw)
    program = find_command(writing=True)
    wanted = hook.wanted(terminal.places, program)
    changed = []
    if not hook.is_there(wanted):
        hook.write(wanted)
        changed.append(f"wrote {hook.directory}")
    if not hook.is_enabled():
        hook.enable()
        changed.append(
            f"enabled the hook {HOOK}; restart the gateway to load it: openclaw gateway restart"
        )
    if terminal.want_json:
        put(
            json.dumps(
                {"ok": True, "changed": bool(changed), "hook": hook.directory, "command": program},
                indent=2,
            )
            + "\n"
        )
    for line in changed or ["the hook is installed and enabled; nothing to do"]:
        say(line)
    return 0


@command("openclaw uninstall")
def cmd_uninstall(terminal: Terminal) -> int:
    """usage: avault openclaw uninstall

    Removes what avault openclaw install has made: the hook, its settings, and the
    launcher unless openclaw.json still names it as a secret provider. References
    to secrets stay as they are.
    """
    openclaw = OpenClaw()
    hook = Hook(openclaw)
    changed = []
    if openclaw.value(*ENTRY) is not None:
        hook.disable()
        changed.append(f"disabled the hook {HOOK}")
    if os.path.lexists(hook.directory):
        if os.path.islink(hook.directory):
            os.unlink(hook.directory)
        else:
            shutil.rmtree(hook.directory)
        changed.append(f"removed {hook.directory}")
    launcher = os.path.realpath(launcher_path())
    if os.path.lexists(launcher) and LAUNCHER.splitlines()[1].encode() in read_file(launcher):
        if launcher in provider_commands(openclaw):
            say(
                f"kept {launcher}: openclaw.json names it as a secret provider, and the gateway would not start without it"
            )
        else:
            os.unlink(launcher)
            changed.append(f"removed {launcher}")
    if terminal.want_json:
        put(json.dumps({"ok": True, "changed": bool(changed)}, indent=2) + "\n")
    for line in changed or ["nothing is installed; nothing to do"]:
        say(line)
    return 0


def provider_commands(openclaw: OpenClaw) -> set[str]:
    """The commands of the secret providers in openclaw.json."""
    providers = openclaw.value("secrets", "providers")
    return {
        str(reach(each, ["command"]))
        for each in (providers.values() if isinstance(providers, dict) else ())
    }


@command("openclaw status")
def cmd_openclaw_status(terminal: Terminal) -> int:
    """usage: avault openclaw status [--json]

    Whether the hook is installed and enabled, whether OpenClaw may execute avault,
    whether openclaw.json has the provider, and how often the phone was asked in
    vain. Exit code 0: all is as it should be; 1: something is not.
    """
    openclaw = OpenClaw()
    hook = Hook(openclaw)
    program = find_command(writing=False)
    entry = openclaw.value("secrets", "providers", PROVIDER)
    named = str(reach(entry, ["command"]) or program)
    vain = Pauses(terminal.places).read()
    there = hook.is_there(hook.wanted(terminal.places, program))
    found = {
        "config": openclaw.config_path,
        "hook": "installed"
        if there
        else "differs"
        if os.path.lexists(hook.directory)
        else "absent",
        "enabled": hook.is_enabled(),
        "command": named,
        "problem": refusal(named),
        "provider": "absent"
        if entry is None
        else "current"
        if entry == describe_provider(terminal.places, program)
        else "differs",
        "attempts": vain["in_vain"],
        "asked": render_time(vain["last"]) if vain["in_vain"] else None,
    }
    right = there and found["enabled"] and not found["problem"] and found["provider"] == "current"
    if terminal.want_json:
        put(json.dumps({"ok": True, **found}, indent=2) + "\n")
    else:
        put(render_openclaw_status(found))
    if not right:
        say("hint: avault openclaw install, then avault openclaw plan --apply")
    return 0 if right else 1


def render_openclaw_status(found: dict[str, Any]) -> str:
    """Status for a person."""
    lines = [
        f"Configuration: {found['config']}",
        f"Hook: {found['hook']}, {'enabled' if found['enabled'] else 'not enabled'}",
        f"Provider: {found['provider']}",
        f"Command: {found['command']}"
        + (f": OpenClaw refuses it: {found['problem']}" if found["problem"] else ""),
    ]
    if found["attempts"]:
        lines.append(f"Asked in vain: {found['attempts']} time(s), last {found['asked']}")
    return "".join(line + "\n" for line in lines)


# ------------------------------------------------------ openclaw/remains ----
# What a plan leaves behind: in SQLite's free pages, and in settings that nothing uses any more.
#
# SQLite leaves what was overwritten in the pages that it keeps for later. And an auth profile whose
# key is gone still has settings in openclaw.json, which OpenClaw's doctor then calls incomplete.


def holds(file: str, values: list[str]) -> bool:
    """Whether a database, or its journal, has one of these values somewhere in its bytes."""
    for path in (file, f"{file}-wal", f"{file}-journal"):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as opened:
            data = opened.read()
            if any(
                form.encode() in data
                for value in values
                for form in (value, json.dumps(value)[1:-1])
            ):
                return True
    return False


def clean_store(file: str) -> None:
    """Write a database anew, without what was deleted (VACUUM, sqlite.org/lang_vacuum.html); raises AvaultError."""
    try:
        with open_sqlite(file, "rw") as db:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise AvaultError(
            f"{file} cannot be written anew: {error}", "stop the gateway, and try again"
        ) from None


def tidy_profiles(openclaw: OpenClaw, places: Places, found: Findings) -> None:
    """Take the settings of auth profiles that OpenClaw has scrubbed out of openclaw.json, and remember them for --undo."""
    moved = Moved(places)
    patch: dict[str, Any] = {}
    ids = {target.plan["path"]: "/".join(target.name) for target in found.targets}
    for name, profile in found.profiles.items():
        with open_sqlite(profile["file"]) as db:
            if reach(read_store(db)[0], ["profiles", name, profile["kind"]]) is not None:
                continue
        change_store(profile["file"], lambda store, name=name: store["profiles"].pop(name, None))  # type: ignore[misc]
        provider = str(profile["entry"]["provider"])
        order = openclaw.value("auth", "order", provider)
        setting = openclaw.value("auth", "profiles", name)
        moved.profiles[name] = {
            **profile, "id": ids[f"models.providers.{provider}.apiKey"], "setting": setting, "order": order,
        }  # fmt: skip
        if setting is not None:
            put_at(patch, ["auth", "profiles", name], None)
        if isinstance(order, list) and name in order:
            put_at(
                patch, ["auth", "order", provider], [each for each in order if each != name] or None
            )
    moved.save()
    if patch:
        with all_or_nothing(openclaw, []):
            openclaw.run("config", "patch", "--stdin", stdin=json.dumps(patch))


def clean_stores(files: list[str], values: list[str]) -> None:
    """Take values that a plan has moved out of the free pages of these databases too; warn of those that stay."""
    for file in files:
        if not values or not holds(file, values):
            continue
        try:
            clean_store(file)
        except AvaultError as error:
            warn(
                f"values that were moved still stand in clear in {file}: {error.message}",
                error.hint,
            )
            continue
        if holds(file, values):
            hint = "openclaw secrets audit names what is still stored; the rest goes with its next write"
            warn(f"values that were moved still stand in clear in {file}", hint)
        else:
            say(f"wrote {file} anew: the values that were moved stood in its free pages")


# ----------------------------------------------------- openclaw/planning ----
# avault openclaw plan.


def refuse_unproven(terminal: Terminal, dry_run: bool) -> None:
    """Raise Denied where nobody has shown that the phone opens the vault: what is in clear may be the only copy then."""
    if terminal.ask("status")["proven"]:
        return
    refusal, hint = (
        "nobody has shown yet that the phone opens this vault: nothing is replaced",
        "avault pair, then once more",
    )
    if not dry_run:
        raise Denied(refusal, hint)
    warn(refusal, hint)


def finish(openclaw: OpenClaw, values: list[str]) -> None:
    """After a plan was applied: what still stands in clear elsewhere, and what OpenClaw itself says now."""
    if copies := old_copies(openclaw.config_path, values):
        warn(
            "OpenClaw's old copies of openclaw.json hold the values in clear",
            f"rm {shlex.join(copies)}",
        )
    report = openclaw.ask("secrets", "audit", "--check", "--allow-exec", codes=(0, 1, 2))
    if report["status"] == "clean":
        say("openclaw secrets audit: clean")
        return
    for each in report["findings"]:
        warn(
            f"openclaw secrets audit: {each['code']} {printable(each['jsonPath'])} in {printable(each['file'])}"
        )


@command(
    "openclaw plan",
    option("--apply", is_flag=True),
    option("--undo", is_flag=True),
    option("--dry-run", is_flag=True),
    option("--variables", is_flag=True),
    option("--yes", is_flag=True),
)
def cmd_plan(
    terminal: Terminal, apply: bool, undo: bool, dry_run: bool, variables: bool, yes: bool
) -> int:
    """usage: avault openclaw plan [--apply | --dry-run] [--variables] [--json]
       or: avault openclaw plan --undo [--yes | --dry-run] [--json]

    Moves what stands in clear in OpenClaw's openclaw.json and auth profiles into
    the vault. It asks OpenClaw what it finds (openclaw secrets audit), puts the
    values into the vault, reads them back, and prints a plan, names only, for

      openclaw secrets apply --from plan.json --allow-exec

    --apply runs that, and OpenClaw's audit afterwards. --dry-run says what would
    be moved where, and changes nothing. What is in the vault is never replaced.
    The gateway's own token is left where it is: with a locked vault the gateway
    would not start.

    --variables, with --apply, moves what stands in clear in env and in the env of
    MCP servers too, where OpenClaw takes no references: such a server then runs
    under avault run; what else needs a variable, you run so.

    --undo is the way back: in openclaw.json and the auth profiles each reference
    into the vault becomes the value again, IN CLEAR ON THE DISK, and the provider
    goes. It asks first; --yes does not. The secrets stay in the vault.

      avault openclaw plan --dry-run
      avault openclaw plan --apply
      avault openclaw plan --undo
    """
    if undo and not apply:
        return undo_plan(terminal, dry_run, yes)
    if apply and undo:
        raise Usage(
            "--apply and --undo exclude each other", "avault openclaw plan --undo --dry-run"
        )
    if apply and dry_run:
        raise Usage("--apply and --dry-run exclude each other", "avault openclaw plan --dry-run")
    if variables and not apply and not dry_run:
        raise Usage(
            "--variables changes openclaw.json itself, which a plan cannot",
            "avault openclaw plan --apply --variables",
        )
    terminal.ask("list")  # a locked vault says so now, and not after OpenClaw has taken its time
    refuse_unproven(terminal, dry_run)
    openclaw = OpenClaw()
    found = look_at_openclaw(openclaw)
    moving = found.variables if variables else []
    taken: list[Target | Variable] = [*found.targets, *moving]
    answer = settle_names(terminal, taken)
    found.left |= {} if variables else {each.path: each.reason for each in found.variables}
    program = find_command(writing=not dry_run)
    provider = describe_provider(terminal.places, program)
    plan = make_plan(found, provider)
    values = [each.value for each in taken]
    idle = not found.targets and openclaw.value("secrets", "providers", PROVIDER) == provider
    result = {
        "ok": True,
        "targets": [{"path": each.path, "id": "/".join(each.name)} for each in taken],
        "left": [{"path": path, "reason": reason} for path, reason in found.left.items()],
        "new": answer["new"],
        "same": answer["same"],
        "applied": False,
        "plan": plan,
    }
    lines = [f"{each.path} -> {'/'.join(each.name)}" for each in taken]
    if not dry_run and taken:
        import_targets(terminal, taken, dry_run=False)
        verify(terminal, taken)
    if apply and not idle:
        apply_plan(openclaw, terminal.places, plan, values)
        tidy_profiles(openclaw, terminal.places, found)
    if apply and moving:
        move_variables(openclaw, terminal.places, program, moving)
    result["applied"] = apply and (not idle or bool(moving))
    if terminal.want_json:
        put(json.dumps(result, indent=2) + "\n")
    elif dry_run:
        put("".join(f"{line}\n" for line in lines))
    elif not apply:
        put(json.dumps(plan, indent=2) + "\n")
    tell_moved(
        lines if apply else [],
        found.left,
        "nothing to do" if apply and not result["applied"] else "",
    )
    if result["applied"]:
        clean_stores(found.stores, values)
        finish(openclaw, values)
    return 0


# ----------------------------------------------------- openclaw/provider ----
# avault openclaw-provider where the fast part had no answer: asks the phone, with restraint.
#
# OpenClaw runs the provider at each start, reload and audit, gives it two minutes, and kills it when
# it restarts. So the question stays with the daemon, which asks the phone once for all, and pauses
# after what was in vain. What OpenClaw does and demands was measured on version 2026.9.6;
# references/openclaw.md has it in short.


PROVIDER_WAIT = 100.0  # seconds; OpenClaw waits 120 at most


def ask_phone(terminal: Terminal, timeout: float) -> None:
    """Have the operator open the vault, and wait so long; the daemon goes on asking without us, for ten minutes in all.

    Starts the daemon if none runs. Raises Denied, TimedOut, and what else keeps the vault locked.
    """
    terminal.need_daemon()
    with Waiting() as waiting:
        ask_daemon(
            terminal.places, "unlock", timeout=max(timeout, 0), stay=TOGETHER, progress=waiting
        )


def seconds_until(when: str) -> float:
    """Seconds from now to a time of the protocol (RFC 3339)."""
    return max(datetime.datetime.fromisoformat(when).timestamp() - time.time(), 0.0)


def read_request() -> str:
    """OpenClaw's request from stdin; raises Usage for anything else."""
    data = read_stdin()
    try:
        asked = json.loads(data)
        version, ids = asked["protocolVersion"], asked["ids"]
    except (ValueError, TypeError, KeyError, RecursionError):
        version, ids = None, None
    if version != 1 or not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise Usage(
            "not a request of OpenClaw's exec secret provider, version 1",
            "see references/openclaw.md",
        )
    return data.decode()


@command("openclaw-provider", option("--wait"), option("--no-prompt", is_flag=True))
def cmd_provider(terminal: Terminal, wait: str | None, no_prompt: bool) -> int:
    """usage: avault openclaw-provider [--wait S] [--no-prompt]

    OpenClaw's exec secret provider, protocol version 1: a request on stdin, the
    answer on stdout. Ids are GROUP/KEY. OpenClaw runs it; by hand it looks so:

      echo '{"protocolVersion":1,"provider":"avault","ids":["openai/API_KEY"]}' |
          avault openclaw-provider --no-prompt

    Where the vault is locked it asks the phone and waits up to S (100) seconds. If
    it stays locked, the exit code says why (3 locked, 5 refused, 7 nobody answered),
    so that OpenClaw names it once, and not for each secret. The daemon goes on
    asking, for ten minutes in all, one question for all who wait. Then it pauses,
    and after a refusal, as for every program: meanwhile the exit code comes at once.
    --no-prompt never asks, and starts no daemon.
    """
    seconds = parse_duration(wait)
    deadline = time.monotonic() + (PROVIDER_WAIT if seconds is None else seconds)
    request = read_request()
    try:
        answer = terminal.ask("provide", value={"value": request})
    except (Locked, NoDaemon):
        if no_prompt or seconds == 0:
            raise
        ask_phone(terminal, deadline - time.monotonic())
        answer = terminal.ask("provide", value={"value": request})
    put(answer["output"])
    return 0


@command("openclaw unlock", option("--timeout"))
def cmd_openclaw_unlock(terminal: Terminal, timeout: str | None) -> int:
    """usage: avault openclaw unlock [--timeout D]

    What OpenClaw's hook avault-unlock runs: avault unlock, but where nobody had
    answered it waits for the end of the pause, and asks again. A refusal ends it,
    and so does a pause after a refusal.

      avault openclaw unlock --timeout 15m
    """
    seconds = parse_duration(timeout)
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    said = ""
    while True:
        try:
            ask_phone(terminal, min(deadline - time.monotonic(), 10**6))
            break
        except TimedOut as error:
            left = deadline - time.monotonic()
            pause = terminal.ask("status")["asks_again"]
            if left <= 0 or not pause:
                raise
            if pause != said:
                say(f"{error.message}; it is asked again at {pause}")
            said = pause
            with contextlib.suppress(TimedOut):
                ask_daemon(terminal.places, "wait", timeout=min(left, seconds_until(pause)))
    say("the vault is open")
    return 0


# -------------------------------------------------------- doctor/patient ----
# avault doctor: what a check is given, and what it finds.
#
# It looks at what has to be right for the vault to open, and names the command that mends what is
# not. It works in every state (no vault, no daemon, locked, waiting, open, damaged files), asks
# nothing of the phone, and changes nothing without --fix. Each check is a function that yields what
# it finds; the table in doctor/command has their order.


DAEMON_PATIENCE = 5.0  # seconds that the daemon has for an answer
RELAY_TIME = 10.0  # seconds that the relays have, all at once
KEYCHAIN_PATIENCE = 30.0  # seconds that the keychain has, which may be slow to start
AUDIT_TIME = 60.0  # seconds for looking into the files where secrets usually stand


class Finding(Fields):
    """What a check found: `ok`, `warn` (it works, but should be known), `bad` (it does not, or will not), or `off`.

    `hint` is the command that mends it. `fix` mends it where that can do no
    harm, and returns what it did.
    """

    state: str
    text: str
    hint: str | None = None
    fix: Callable[[], str] | None = None
    more: dict[str, Any] = field(default_factory=dict)  # for --json


def bad(error: AvaultError, fix: Callable[[], str] | None = None) -> Finding:
    """What an error says, as a finding."""
    return Finding("bad", error.message, error.hint, fix)


class Patient:
    """The vault that is examined: its `places`, and what the daemon says of it.

    `status` is None where it says nothing, and `silence` why.
    """

    def __init__(self, places: Places, offline: bool) -> None:
        self.places, self.offline = places, offline
        self.status: dict[str, Any] | None = None
        self.silence: AvaultError | None = None
        try:
            self.status = self.ask("status")
        except AvaultError as error:
            self.silence = error

    def ask(self, op: str, patience: float = DAEMON_PATIENCE, **fields: Any) -> dict[str, Any]:
        """A request to the daemon, which does not have for ever; raises AvaultError."""
        connection = Connection(self.places)
        try:
            connection.fast.socket.settimeout(patience)
            return connection.request(op, **fields)
        finally:
            connection.close()

    def is_open(self) -> bool:
        """Whether the vault is unlocked."""
        return bool(self.status and self.status["state"] == "unlocked")

    def has(self, name: str) -> bool:
        """Whether there is a file of that name in the state directory."""
        return os.path.lexists(self.places.own(name))

    def has_vault(self) -> bool:
        """Whether there is anything of a vault in the directory."""
        return has_vault(self.places)

    def sealed(self) -> dict[str, Any]:
        """What names vault, agent and operator: unlock.json, else nsec.enc, whichever can be read. Raises AvaultError."""
        try:
            return read_sealed("unlock", self.places.own("unlock.json"))
        except AvaultError:
            return read_sealed("nsec", self.places.file("nsec.enc"))


# --------------------------------------------------------- doctor/around ----
# Checks of what is around the vault: git, files with secrets in clear.


def check_keychain(patient: Patient) -> Iterator[Finding]:
    """Whether this machine's keychain opens the vault, and whether it did."""
    if not patient.has("keychain.json"):
        yield Finding("off", "the phone opens this vault, and no keychain")
        return
    text = "this machine's keychain opens the vault, without the phone"
    try:
        answer = patient.ask("keychain", KEYCHAIN_PATIENCE, action="status")
    except AvaultError:
        answer = {}
    if answer.get("outcome") in ("not_found", "denied", "unavailable", "error"):
        text = f"the keychain is to open this vault, and does not: {printable(answer.get('detail') or answer['outcome'])}"
        yield Finding("bad", text, "avault keychain status")
    else:
        yield Finding("warn", text, "if that is not meant: avault keychain disable")


def check_git(patient: Patient) -> Iterator[Finding]:
    """Whether what is written is committed and published; see git/record."""
    directory = patient.places.dir
    if not patient.has_vault():
        yield Finding("off", "no vault")
        return
    facts = examine_repository(directory)
    said = (patient.status or {}).get("git") or {}
    for each in facts["problems"]:
        if facts["merge_driver"] is False and each["hint"] == "avault doctor --fix":

            def mend() -> str:
                set_up(Repository(directory))
                return "had git merge the vault by key"

            yield Finding("bad", each["problem"], each["hint"], mend)
        else:
            yield Finding("bad", each["problem"], each["hint"])
    known = {each["problem"] for each in facts["problems"]}
    if said.get("state") in ("failed", "refused", "conflict") and said.get("reason") not in known:
        yield Finding(
            "bad",
            f"the last commit failed: {printable(said.get('reason'))}",
            said.get("hint") or "avault sync",
        )
    elif said.get("push") in ("failed", "refused", "rejected"):
        yield Finding(
            "bad",
            f"the last push failed: {printable(said.get('push_reason'))}",
            said.get("hint") or "avault sync",
        )
    if not facts["repository"]:
        yield Finding("off", "the vault is in no git repository: its history is not kept")
    elif facts["ignored"]:
        yield Finding("off", f"{facts['repository']} ignores the vault: its history is not kept")
    else:
        published = (
            f", published to {facts['upstream']}" if facts["upstream"] else ", published nowhere"
        )
        yield Finding("ok", f"committed in {facts['repository']}{published}")


def check_service(patient: Patient) -> Iterator[Finding]:
    """Whether the daemon comes back after a reboot, by a service of avault's own."""
    services = [Service(patient.places, system, account_name()) for system in (False, True)]
    installed = [service for service in services if os.path.lexists(service.path)]
    if not installed:
        hint = "avault service install" if is_booted() and patient.has_vault() else None
        yield Finding(
            "off", "no service is installed: after a reboot, somebody has to start the daemon", hint
        )
        return
    if len(installed) > 1:
        yield Finding(
            "bad",
            "a service of the user's and one of the system's start the same daemon",
            "avault service uninstall",
        )
    for service in installed:
        found, again = (
            look_at_service(service),
            f"avault service install{' --system' if service.system else ''}",
        )
        if not found["current"]:
            yield Finding("warn", f"{service.path} is not as avault would write it now", again)
        if not found["enabled"]:
            yield Finding("bad", f"{service.name} is not enabled: it does not start at boot", again)
        if found["active"] in ("failed", "inactive") and not patient.status:
            reset = f"{service.command('reset-failed')} && " if found["active"] == "failed" else ""
            yield Finding(
                "bad", f"{service.name} is {found['active']}", reset + service.command("start")
            )
        yield Finding(
            "ok",
            f"{service.path}{', ' + found['active'] if found['active'] else '; systemd does not run here to ask'}",
        )


def check_lingering(patient: Patient) -> Iterator[Finding]:
    """Whether a logout is the end of the daemon (loginctl(1))."""
    user = account_name()
    is_service = os.path.lexists(Service(patient.places, False, user).path)
    is_session = bool(patient.status) and patient.places.socket.startswith("/run/user/")
    if not is_booted() or not (is_service or is_session):
        yield Finding("off", "no logout of yours ends the daemon")
    elif is_lingering(user):
        yield Finding("ok", "lingering is on: the daemon outlives your logout")
    else:
        text = "lingering is off: the daemon ends when you log out" + (
            ", and starts when you log in" if is_service else ""
        )
        yield Finding("bad", text, f"sudo loginctl enable-linger {user}")


def check_plaintext(patient: Patient) -> Iterator[Finding]:
    """Secrets in clear, where they usually stand: by their values while the vault is open, else by what they look like."""
    hint = "see where: avault audit; take them in: avault migrate --remove"
    if patient.is_open():
        # a process of its own: no value comes in here
        words = own_command("audit", "--json", "--dir", patient.places.dir)
        done = subprocess.run(
            words, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=AUDIT_TIME
        )
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise AvaultError.from_dict(answer)
        found, files = [row["file"] for row in answer["findings"]], answer["files"]
    else:
        audit = Audit(Held([]))
        for file in usual_files(patient.places):
            audit.look(file, is_named=False)
        found, files = [finding.file for finding in audit.findings], audit.files
    judged = "" if patient.is_open() else ", judged by what they look like"
    if found:
        where = ", ".join(dict.fromkeys(map(printable, found)))
        yield Finding(
            "warn" if judged else "bad", f"{len(found)} secret(s) in clear in {where}{judged}", hint
        )
    else:
        yield Finding("ok", f"no secret in clear in {len(files)} usual file(s){judged}")


def check_swap(patient: Patient) -> Iterator[Finding]:
    """Whether what the keyholder knows may be written to a disk as it is."""
    plain = [area for area in swap_areas() if not is_sealed_off(area)]
    pid = (patient.status or {}).get("keyholder_pid")
    if not plain:
        yield Finding(
            "ok" if sys.platform == "linux" else "off",
            "no swap that is not encrypted, or not looked at",
        )
    elif pid and never_swaps(pid):
        yield Finding("ok", "swap is on, but not for the daemon")
    else:
        text = f"swap is not encrypted: {', '.join(plain)}; secrets may be written there"
        yield Finding(
            "warn", text, "avault service install, whose daemon is not swapped; or encrypt the swap"
        )


def swap_areas(swaps: str = "/proc/swaps") -> list[str]:
    """The devices and files that are swapped to (proc(5))."""
    try:
        with open(swaps, encoding="utf-8", errors="surrogateescape") as file:
            return [
                line.split()[0].encode().decode("unicode_escape") for line in file.readlines()[1:]
            ]
    except OSError:
        return []


def is_sealed_off(area: str, sysfs: str = "/sys") -> bool:
    """Whether a swap area is memory (zram), or lies on dm-crypt, itself or the disk of its file."""
    try:
        info = os.stat(area)
    except OSError:
        return False
    device = info.st_rdev if stat.S_ISBLK(info.st_mode) else info.st_dev
    return is_encrypted(f"{sysfs}/dev/block/{os.major(device)}:{os.minor(device)}")


def is_encrypted(device: str) -> bool:
    """Whether a block device in sysfs is zram or dm-crypt, or made of such ones alone (LVM, RAID)."""
    if os.path.basename(os.path.realpath(device)).startswith("zram"):
        return True
    try:
        if read_file(os.path.join(device, "dm/uuid")).startswith(b"CRYPT-"):
            return True
    except AvaultError:
        pass
    below = os.path.join(device, "slaves")
    parts = os.listdir(below) if os.path.isdir(below) else []
    return bool(parts) and all(is_encrypted(os.path.join(below, part)) for part in parts)


def never_swaps(pid: int) -> bool:
    """Whether the memory of a process stays in memory: MemorySwapMax=0 of the unit that it is in."""
    try:
        group = read_file(f"/proc/{pid}/cgroup").decode().rpartition("0::")[2].strip()
        return read_file(f"/sys/fs/cgroup{group}/memory.swap.max").strip() == b"0"
    except AvaultError:
        return False


# --------------------------------------------------------- doctor/daemon ----
# Checks of the daemon: its version, its service, the keychain.


def check_socket(patient: Patient) -> Iterator[Finding]:
    """Where the daemon listens, or is going to."""
    path = patient.places.socket
    directory, limit = os.path.dirname(path), 107 if sys.platform == "linux" else 103
    if patient.status:
        used = patient.status["socket"]
        yield Finding(
            "ok",
            used if used == path else f"{used}, found by what the daemon recorded; usual is {path}",
        )
    elif len(os.fsencode(path)) > limit:
        yield Finding(
            "bad",
            f"the socket's path is longer than {limit} bytes: {path}",
            "choose a shorter one with AVAULT_SOCKET",
        )
    elif directory != patient.places.state and not is_ours(directory):
        text = f"{directory} is not a directory that only we can write to"
        yield Finding("bad", text, "choose another place with AVAULT_SOCKET")
    elif os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        yield Finding(
            "bad", f"{path} is there, and is no socket", f"rm {shlex.quote(path)}, or AVAULT_SOCKET"
        )
    else:
        yield Finding("ok", f"{path}, where nobody listens now")


def is_ours(directory: str) -> bool:
    """Whether only we can write to a directory, as the daemon wants it."""
    try:
        info = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and not info.st_mode & 0o022 and info.st_uid == os.getuid()


def check_daemon(patient: Patient) -> Iterator[Finding]:
    """Whether a daemon runs, of this version, and what troubles it."""
    status, silence = patient.status, patient.silence
    if silence and not isinstance(silence, NoDaemon):
        yield Finding("bad", f"the daemon gives no answer: {silence.message}", silence.hint)
        return
    if not status:
        is_new = not patient.has("unlock.json") and not patient.has("pairing.json")
        absence = explain_absence(patient.places)
        hint = ("avault recover" if is_new else absence.command) if patient.has_vault() else None
        text = "no daemon is running" + (f": {absence.reason}" if absence.reason else "")
        yield Finding("bad" if patient.has_vault() else "off", text, hint)
        return
    if status["version"] != __version__:
        text = f"the daemon is avault {status['version']}, and this is {__version__}"
        unit, shown = find_unit(patient.places) or (None, {})
        is_its_own = shown.get("MainPID") == str(status["pid"])
        yield Finding(
            "bad",
            text,
            unit.command("restart")
            if unit and is_its_own
            else "avault daemon stop && avault daemon start -b",
        )
    if status["error"]:
        yield Finding(
            "bad",
            f"locked: {status['error']['message']}",
            status["error"]["hint"] or status["hint"],
        )
    for text in status["warnings"]:
        yield Finding("warn", printable(text, 300))
    said = {
        "unlocked": f"open, {status['secrets']} secret(s)",
        "waiting": "waits for the operator's approval on the phone",
        "locked": "locked; the phone is asked by: avault unlock",
        "unpaired": "locked, and not paired",
    }
    yield Finding(
        "ok",
        f"avault {status['version']} (PID {status['pid']}), {said.get(status['state'], status['state'])}",
    )


def check_python(patient: Patient) -> Iterator[Finding]:
    """The interpreter, the one that the daemon was started with, and nostr-sdk in the version that avault was made for."""
    wanted = read_file(__file__).partition(b'"nostr-sdk==')[2].partition(b'"')[0].decode()
    found = importlib.metadata.version("nostr-sdk")
    if found != wanted:
        yield Finding(
            "bad",
            f"nostr-sdk is {found}, and avault needs {wanted}",
            f"{sys.executable} -m pip install nostr-sdk=={wanted}",
        )
    if patient.has("python"):
        recorded = read_file(patient.places.own("python")).decode(errors="replace")
        if not (os.path.isfile(recorded) and os.access(recorded, os.X_OK)):
            yield Finding(
                "bad",
                f"{printable(recorded)}, which the daemon ran with, is gone",
                "avault daemon start -b",
            )
    yield Finding("ok", f"Python {sys.version.split()[0]}, nostr-sdk {found}")


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Whether somebody keeps the clock right: relays and signers drop what seems too old or too new."""
    if is_clock_unsynchronised():
        yield Finding(
            "warn",
            "nothing keeps this machine's clock right: relays and phones drop what is off",
            "timedatectl set-ntp true",
        )
    elif sys.platform == "linux":
        yield Finding("ok", "the clock is kept right")
    else:
        yield Finding("off", "this system does not tell whether the clock is kept right")


# ---------------------------------------------------------- doctor/phone ----
# Checks of the way to the phone: relays, pairing, clocks.


def check_pairing(patient: Patient) -> Iterator[Finding]:
    """Whether this machine has a signer, for this vault."""
    if not patient.has("pairing.json"):
        if not patient.has_vault():
            yield Finding("off", "no vault to pair for")
        else:
            known = patient.has("unlock.json")
            yield Finding(
                "bad",
                "this machine is not paired with a signer",
                "avault pair" if known else "avault recover",
            )
        return
    try:
        pairing = Pairing.load(patient.places)
        content = patient.sealed()
    except AvaultError as error:
        yield bad(error)
        return
    if pairing and (pairing.agent, pairing.operator) != (
        parse_npub(content["agent"]),
        parse_npub(content["operator"]),
    ):
        text = "this machine is paired for another agent or operator than the vault's"
        yield Finding(
            "bad", text, "put the right directory back; if it is right now: avault pair --replace"
        )
    else:
        yield Finding("ok", f"paired with the signer of {content['operator']}")


def check_drill(patient: Patient) -> Iterator[Finding]:
    """Whether the signer asks a person, as the drill found."""
    pairing = load_pairing(patient)
    if not pairing:
        yield Finding("off", "not paired")
    elif pairing.by_itself:
        text = "the signer approves by itself: whoever has this disk opens the vault"
        yield Finding(
            "bad", text, "have the app ask every time (references/signers.md), then: avault drill"
        )
    elif pairing.by_itself is None:
        yield Finding("warn", "nobody has tried whether the signer asks every time", "avault drill")
    else:
        yield Finding("ok", "the signer asks before it opens anything")


def load_pairing(patient: Patient) -> Pairing | None:
    """The pairing; None where there is none that can be read."""
    try:
        return Pairing.load(patient.places)
    except AvaultError:
        return None


def check_proof(patient: Patient) -> Iterator[Finding]:
    """Whether the phone has opened this vault here."""
    try:
        proven = read_sealed("unlock", patient.places.own("unlock.json"))["proven"]
    except AvaultError:
        yield Finding("off", "this machine has no copy of its own of the vault's key")
        return
    if proven:
        yield Finding("ok", f"the phone opened this vault at {printable(proven, 40)}")
    else:
        text = "nobody has shown yet that the phone opens this vault: if it does not, the key ends with the daemon"
        yield Finding(
            "bad", text, "avault pair --replace" if patient.has("pairing.json") else "avault pair"
        )


def check_relays(patient: Patient) -> Iterator[Finding]:
    """Each relay: whether it takes a message as the phone gets them, and delivers it."""
    urls: list[str] = []
    if pairing := load_pairing(patient):
        urls = pairing.relays
    else:
        try:
            urls = list(read_hints(patient.places.file("nip46.json"))["relays"])
        except AvaultError:
            pass
    if not urls or patient.offline:
        yield Finding("off", "not looked at, as --offline says" if urls else "no relay is known")
        return
    outcomes = asyncio.run(probe_relays(urls, RELAY_TIME))
    works = any(problem is None for problem, _ in outcomes)
    for url, (problem, seconds) in zip(urls, outcomes, strict=True):
        more = {"url": url, "ms": round(seconds * 1000) if problem is None else None}
        if problem is None:
            yield Finding(
                "ok", f"{url} takes a message and gives it back in {more['ms']} ms", more=more
            )
        else:
            state, hint = (
                ("warn", None)
                if works
                else (
                    "bad",
                    "check the network, or choose others: avault pair --replace --relay URL",
                )
            )
            yield Finding(state, f"{url} {problem}", hint, more=more)


# ---------------------------------------------------- doctor/directories ----
# Whose a directory is, who may enter it, and what file system it is on.


def check_private(directory: str) -> Iterator[Finding]:
    """A directory that should be ours alone."""
    try:
        info = os.stat(directory)
    except OSError as error:
        yield Finding("bad", f"cannot look at {directory}: {error.strerror}")
        return
    if info.st_uid != os.getuid():
        is_home = os.path.realpath(directory).startswith(
            os.path.realpath(os.path.expanduser("~")) + os.sep
        )
        give_back = (
            f"sudo chown -R {os.getuid()} {shlex.quote(directory)}"
            if os.getuid() and is_home
            else None
        )
        yield Finding("bad", f"{directory} belongs to another user", give_back)
    elif mode := stat.S_IMODE(info.st_mode) & 0o077:
        text = f"others can enter {directory} ({stat.S_IMODE(info.st_mode):04o})"
        yield Finding(
            "bad",
            text,
            f"chmod 700 {shlex.quote(directory)}",
            functools.partial(make_private, directory, mode),
        )


def make_private(path: str, mode: int) -> str:
    """Take the rights of others away from a file or directory."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~mode)
    return f"made {path} private"


NETWORKED = {
    "9p", "afs", "ceph", "cifs", "drvfs", "fuse.glusterfs", "fuse.rclone", "fuse.sshfs", "nfs",
    "nfs4", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs",
}  # fmt: skip


def filesystem_of(path: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the file system that a path is on; None where nobody says.

    See proc_pid_mountinfo(5).
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split(" ") for line in file]
    except OSError:
        return None
    real, longest = os.path.realpath(path), ""
    kind = None
    for line in lines:
        point = line[4].encode().decode("unicode_escape") if "\\" in line[4] else line[4]
        if len(point) >= len(longest) and (real + "/").startswith(point.rstrip("/") + "/"):
            longest, kind = point, line[line.index("-", 6) + 1]
    return kind


# ---------------------------------------------------------- doctor/state ----
# Checks of the state directory: this machine's own part, and what other copies left of theirs.


JSON_KINDS = ("unlock", "pairing", "pin", "machine", "offered", "keychain", "recovery", "log")
STATE_KINDS = {f"{kind}.json": kind for kind in JSON_KINDS if kind in FIELDS}


def check_state(patient: Patient) -> Iterator[Finding]:
    """The state directory: this machine's own part, which is in no repository."""
    places = patient.places
    if not os.path.isdir(places.state):
        if patient.has_vault():
            yield Finding(
                "bad",
                f"this machine has never opened this vault: there is no {places.state}",
                "avault recover",
            )
        else:
            yield Finding("off", "no vault, no state")
        return
    yield from check_private(places.state)
    for name in sorted(os.listdir(places.state)):
        yield from check_own_file(places.own(name))
    try:
        ours, theirs = (
            read_sealed(*each)
            for each in (("unlock", places.own("unlock.json")), ("nsec", places.file("nsec.enc")))
        )
        if any(ours[name] != theirs[name] for name in ("vault", "agent", "operator")):
            yield Finding(
                "bad",
                f"{places.state} is of another vault than {places.dir}",
                "put the right directory back; if it is right now: avault forget, then avault "
                "recover",
            )
    except AvaultError:
        pass  # said already
    if filesystem_of(places.state) in ("tmpfs", "ramfs"):
        yield Finding(
            "warn",
            f"{places.state} is in memory: a reboot removes the pairing",
            "set XDG_STATE_HOME to a place on a disk",
        )
    yield Finding("ok", f"{places.state} is whole and private")


def check_own_file(path: str) -> Iterator[Finding]:
    """A file of the state directory: private, and whole.

    One that is gone meanwhile was somebody's temporary file.
    """
    name = os.path.basename(path)
    try:
        mode = os.lstat(path).st_mode
        if (open_to := stat.S_IMODE(mode) & 0o077) and not stat.S_ISLNK(mode):
            yield Finding(
                "bad",
                f"others may read {path}",
                f"chmod go= {shlex.quote(path)}",
                functools.partial(make_private, path, open_to),
            )
        if name in STATE_KINDS:
            decode_file(STATE_KINDS[name], read_file(path), path)
    except (FileNotFoundError, NotFound):
        return
    except AvaultError as error:
        yield bad(error)


def check_leftovers(patient: Patient) -> Iterator[Finding]:
    """Temporary files that a killed write left behind; while a daemon runs, they may be its own."""
    places = patient.places
    found = [
        os.path.join(directory, name)
        for directory in (places.dir, places.state)
        if os.path.isdir(directory)
        for name in sorted(os.listdir(directory))
        if name.endswith(".tmp") and name[:-21] in {f".{each}" for each in OUR_FILES}
    ]

    def clean() -> str:
        fd = lock_directory(places.dir)
        try:
            for directory in (places.dir, places.state):
                if os.path.isdir(directory):
                    clean_directory(directory)
        finally:
            os.close(fd)
        return "removed what killed writes left behind"

    if found and isinstance(patient.silence, NoDaemon):
        yield Finding("warn", f"a killed write left {found[0]}", f"rm {shlex.join(found)}", clean)
    else:
        yield Finding("ok", "no write left anything behind")


def check_orphans(patient: Patient) -> Iterator[Finding]:
    """State of this vault under another name, as of a directory that was moved or restored."""
    places, home = patient.places, state_home()
    try:
        identity = read_sealed("nsec", places.file("nsec.enc"))["vault"]
    except AvaultError:
        identity = None
    is_new = not patient.has("unlock.json") and not patient.has("pairing.json")
    for name in sorted(os.listdir(home)) if identity and os.path.isdir(home) else []:
        other = os.path.join(home, name)
        if name == places.id or not is_state_of(other, identity) or is_in_use(other):
            continue
        if is_new:
            text = f"{other} is this vault's state, from where the directory was before"
            yield Finding(
                "bad",
                text,
                "avault doctor --fix",
                functools.partial(take_over, other, places.state),
            )
            is_new = False
        else:
            text = f"{other} is of another copy of this vault"
            yield Finding("warn", text, f"if that copy is no more: rm -r {shlex.quote(other)}")
    yield Finding(
        "ok" if identity else "off",
        "no state of this vault under another name" if identity else "no vault to compare with",
    )


def is_state_of(directory: str, identity: str) -> bool:
    """Whether a state directory is that of a vault."""
    try:
        return bool(
            read_sealed("unlock", os.path.join(directory, "unlock.json"))["vault"] == identity
        )
    except AvaultError:
        return False


def is_in_use(directory: str) -> bool:
    """Whether a state directory is of a vault in a usual place, or of a daemon that runs."""
    usual = map(os.path.expanduser, ("~/clawd/.avault", "~/.openclaw/workspace/.avault"))
    if os.path.basename(directory) in {vault_id(path) for path in usual if os.path.isdir(path)}:
        return True
    try:
        return is_listening([os.fsdecode(read_file(os.path.join(directory, "socket")))])
    except AvaultError:
        return False


def take_over(other: str, own: str) -> str:
    """Make another state directory ours.

    It is renamed; where ours was begun already, moved file by file, unlock.json last.
    """
    if not os.path.isdir(own):
        os.rename(other, own)
    else:
        for name in sorted(os.listdir(other), key=lambda name: name == "unlock.json"):
            os.replace(os.path.join(other, name), os.path.join(own, name))
        os.rmdir(other)
    sync_directory(os.path.dirname(own))
    return f"took {other} over as {own}"


# ---------------------------------------------------------- doctor/vault ----
# Checks of the vault directory: private, and its files whole and of one vault.


def check_vault_directory(patient: Patient) -> Iterator[Finding]:
    """The vault directory: private, and its files whole and of one vault."""
    places = patient.places
    if not patient.has_vault():
        yield Finding("bad", f"no vault in {places.dir}", "avault init, or name one with --dir")
        return
    yield from check_private(places.dir)
    identities = {}
    for name, read in NAME_READERS.items():
        try:
            identities[name] = read(places.file(name))
        except AvaultError as error:
            fix = (
                functools.partial(write_hints, patient)
                if name == "nip46.json" and can_write_hints(patient)
                else None
            )
            yield Finding(
                "bad",
                error.message,
                "avault doctor --fix" if fix else bring_back(places, name),
                fix,
            )
    try:
        check_payloads(places.file("avault.enc"), read_vault(places))
    except AvaultError as error:
        yield Finding(
            "bad",
            error.message,
            error.hint if error.hint == "avault sync" else bring_back(places, "avault.enc"),
        )
    # an open vault has looked itself
    if "nsec.enc" in identities and patient.has("unlock.json") and not patient.is_open():
        try:
            check_recovery(places)
        except AvaultError as error:
            yield Finding("warn", error.message, error.hint)
    if len(set(identities.values())) > 1:
        yield Finding("bad", f"{' and '.join(identities)} are of different vaults", FROM_BACKUP)
    yield from check_attributes(places)
    kind = filesystem_of(places.dir)
    if kind in NETWORKED:
        yield Finding(
            "warn",
            f"the vault is on {kind}, where other machines may write it, and where permissions "
            "may not hold",
            "keep it on a disk of this machine, and share it by git",
        )
    yield Finding("ok", f"{places.dir} is whole and private")


FROM_BACKUP = "take it from git history or from a backup"
LOOKS_BACK = 50  # commits of a file


def bring_back(places: Places, name: str) -> str:
    """The command that puts git's latest whole version of a file back; else where to look."""
    path = places.file(name)
    try:
        repository = Repository(places.dir)
        inside = repository.paths[name]
        for commit in (
            repository.run("rev-list", "-n", str(LOOKS_BACK), "HEAD", "--", inside).decode().split()
        ):
            found = repository.tree(commit).get(inside)
            if found and is_whole(name, path, repository.blob(found)):
                top, file = shlex.quote(repository.top), shlex.quote(inside)
                return f"git -C {top} checkout {commit[:12]} -- {file}"
    except AvaultError:
        pass
    return FROM_BACKUP


def is_whole(name: str, path: str, data: bytes) -> bool:
    """Whether these bytes can be that file of the vault."""
    try:
        if name == "avault.enc":
            check_payloads(path, data)
        else:
            decode_file({"nsec.enc": "nsec", "nip46.json": "hints"}[name], data, path)
    except AvaultError:
        return False
    return True


def can_write_hints(patient: Patient) -> bool:
    """Whether this machine knows what stands in nip46.json."""
    try:
        patient.sealed()
    except AvaultError:
        return False
    return load_pairing(patient) is not None and not os.path.islink(
        patient.places.file("nip46.json")
    )


def write_hints(patient: Patient) -> str:
    """Write nip46.json from what this machine knows; raises AvaultError."""
    content, pairing, path = (
        patient.sealed(),
        load_pairing(patient),
        patient.places.file("nip46.json"),
    )
    relays = pairing.relays if pairing else []
    write_file(
        path,
        encode_hints(
            parse_npub(content["agent"]), parse_npub(content["operator"]), relays, content["name"]
        ),
    )
    return f"wrote {path}"


def read_recovery_names(path: str) -> tuple[str, str]:
    """Agent and operator as nsec.enc names them; raises AvaultError."""
    content = read_sealed("nsec", path)
    return content["agent"], content["operator"]


def read_hinted_names(path: str) -> tuple[str, str]:
    """Agent and operator as nip46.json names them; raises AvaultError."""
    content = read_hints(path)
    return content["agent_npub"], content["signer_npub"]


NAME_READERS = {"nsec.enc": read_recovery_names, "nip46.json": read_hinted_names}


def check_payloads(path: str, data: bytes) -> None:
    """Raise Tampered unless avault.enc is made of NIP-44 v2 payloads, one a line.

    More cannot be told without the key.
    """
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            payload = binascii.a2b_base64(line, strict_mode=True)
        except binascii.Error:
            payload = b""
        if len(payload) < 99 or payload[0] != 2 or not data.endswith(b"\n"):
            what = (
                "holds a merge conflict of git's"
                if line.startswith((b"<<<<<<<", b"=======", b">>>>>>>"))
                else "is damaged"
            )
            hint = "avault sync" if "conflict" in what else FROM_BACKUP
            raise Tampered(f"{path} {what}, in line {number}", hint)


def check_attributes(places: Places) -> Iterator[Finding]:
    """.gitattributes, which keeps git from mixing two versions of a file line by line."""
    path = places.file(".gitattributes")
    try:
        wanted = complete_attributes(path)
        lines = read_file(path).splitlines() if os.path.lexists(path) else []
    except AvaultError as error:
        yield bad(error)
        return

    def add() -> str:
        write_file(path, wanted)
        return f"completed {path}"

    if [line for line in wanted.splitlines() if line not in lines and not line.startswith(b"#")]:
        yield Finding(
            "bad", f"{path} does not keep git from mixing ciphertexts", "avault doctor --fix", add
        )


# -------------------------------------------------------- doctor/command ----
# avault doctor: the table of checks, and the command.


CHECKS: dict[str, Callable[[Patient], Iterator[Finding]]] = {
    "vault": check_vault_directory,
    "state": check_state,
    "leftovers": check_leftovers,
    "orphans": check_orphans,
    "socket": check_socket,
    "daemon": check_daemon,
    "python": check_python,
    "clock": check_clock,
    "pairing": check_pairing,
    "drill": check_drill,
    "proven": check_proof,
    "relay": check_relays,
    "keychain": check_keychain,
    "git": check_git,
    "service": check_service,
    "lingering": check_lingering,
    "plaintext": check_plaintext,
    "swap": check_swap,
}


def run_check(check: Callable[[Patient], Iterator[Finding]], patient: Patient) -> list[Finding]:
    """What a check finds: that all is well, or its troubles without that. A check that fails is a trouble."""
    found: list[Finding] = []
    try:
        found += check(patient)
    except AvaultError as error:
        found.append(bad(error))
    except Exception as error:
        found.append(Finding("bad", f"this could not be looked at: {type(error).__name__}"))
    return [each for each in found if each.state in ("bad", "warn") or each.more] or found


def render_finding(name: str, finding: Finding) -> str:
    """A finding for a person."""
    line = f"{finding.state:<4} {name}: {printable(finding.text, 1000)}\n"
    return line + (
        f"     hint: {printable(call.complete(finding.hint), 1000)}\n" if finding.hint else ""
    )


@command(
    "doctor",
    argument("check", nargs=-1),
    option("--fix", is_flag=True),
    option("--offline", is_flag=True),
)
def cmd_doctor(terminal: Terminal, check: tuple[str, ...], fix: bool, offline: bool) -> int:
    """usage: avault doctor [--fix] [--offline] [--json] [CHECK]…

    Looks at everything that has to be right: files and permissions, the daemon,
    the clock, pairing and drill, each relay (a message to ourselves, there and
    back), keychain, git, service, secrets left in clear, swap. A line for each:
    ok; warn, it works but should be known; bad, it does not work or will not;
    off, not there. With the command that mends it. CHECK chooses, by the names
    in front of the lines.

    The phone is not asked, and nothing is changed. --fix does what can do no
    harm: permissions, leftovers of killed writes, the state of a vault that was
    moved, nip46.json, .gitattributes and git's merge driver. --offline leaves the relays
    alone.
    Exit code 0: nothing is bad; 1: something is.

      avault doctor
      avault doctor --fix
      avault doctor relay git
    """
    if unknown := sorted(set(check) - set(CHECKS)):
        raise Usage(f"no check is called {printable(unknown[0])}", f"one of: {', '.join(CHECKS)}")
    refuse_elses(terminal.places)
    patient = Patient(terminal.places, offline)
    rows, fixed = [], []
    for name in [name for name in CHECKS if name in check or not check]:
        findings = run_check(CHECKS[name], patient)
        mended = [
            done for finding in findings if fix and finding.fix and (done := mend(finding.fix))
        ]
        if mended:
            for done in mended:
                say(f"fixed: {done}")
            findings = run_check(CHECKS[name], patient)
        fixed += mended
        for finding in findings:
            hint = call.complete(finding.hint) if finding.hint else None
            rows.append(
                {
                    "name": name,
                    "state": finding.state,
                    "text": finding.text,
                    "hint": hint,
                    **finding.more,
                }
            )
            if not terminal.want_json:
                put(render_finding(name, finding))
    count = sum(row["state"] == "bad" for row in rows)
    if terminal.want_json:
        put(
            json.dumps({"ok": True, "healthy": not count, "checks": rows, "fixed": fixed}, indent=2)
            + "\n"
        )
    elif count:
        say(f"{count} thing(s) to mend")
    sys.stdout.flush()
    # the library's callbacks can crash an interpreter that ends in the usual way
    os._exit(1 if count else 0)


def mend(fix: Callable[[], str]) -> str | None:
    """Do what a finding offers; what it did, or None and why not on stderr."""
    try:
        return fix()
    except (AvaultError, OSError) as error:
        say(
            f"could not be fixed: {error.message if isinstance(error, AvaultError) else error.strerror}"
        )
        return None


# ------------------------------------------------------ completion/words ----
# Commands as they are typed, for whatever shell: their options, arguments, and what follows those.
#
# From the table of commands; and what follows an option from the usage line that people read:
# `--key KEY` is followed by a key, `--file F` by a file.


class Parameter(Fields, frozen=True, order=True):
    """An option, or an argument, which has no names.

    `takes` is what the usage line calls its value; nothing for a flag.
    """

    names: tuple[str, ...]
    takes: str
    is_optional: bool = False  # the value of the option
    repeats: bool = False


class Words(Fields, frozen=True, order=True):
    """A command as it is typed: its name, what it does, its options and its arguments."""

    name: str
    about: str
    options: list[Parameter]
    arguments: list[Parameter]


def common_options() -> list[Parameter]:
    """The options of every command."""
    return [
        Parameter(("--dir",), "DIR"),
        Parameter(("--json",), ""),
        Parameter(("--help", "-h"), ""),
    ]


def all_words() -> list[Words]:
    """Every command that people type."""
    # those are for git to call
    return [describe_command(name) for name in sorted(COMMANDS) if not name.startswith("git ")]


def describe_command(name: str) -> Words:
    """A command.

    What an option takes stands in one of the forms of its usage, and the arguments in the first.
    """
    function, makers, interspersed = COMMANDS[name]
    usage, _, prose = (function.__doc__ or "").partition("\n\n")
    forms = [
        [
            word.rstrip("…")
            for word in re.findall(r"[^\s\[\]]+", form)
            if word not in ("|", "--", "…")
        ]
        for form in usage.split(f"avault {name}")[1:]
    ]
    options, arguments = [], []
    for parameter in (make() for make in makers):
        names = tuple(parameter.opts)
        if not isinstance(parameter, click.Option):
            arguments.append(parameter)
        elif parameter.is_flag:
            options.append(Parameter(names, ""))
        else:
            found = next(
                (
                    (form, place)
                    for form in forms
                    for place, word in enumerate(form)
                    if word in names
                ),
                None,
            )
            takes = found[0].pop(found[1] + 1) if found else "VALUE"
            is_optional = any(f"{each} [" in usage for each in names)
            options.append(
                Parameter(
                    names, "KEY" if "--allow" in names else takes, is_optional, parameter.multiple
                )
            )
    has_key = any("--key" in each.names for each in options)
    named = (
        [word for form in forms[:1] for word in form if not word.startswith("-")]
        if interspersed
        else ["COMMAND"]
    )
    taken = [
        Parameter(
            (), "GROUP/KEY" if word == "GROUP" and has_key else word, repeats=each.nargs == -1
        )
        for each, word in zip(arguments, named, strict=False)
    ]
    return Words(
        name,
        re.split(r"[.:;](?:\s|$)", " ".join(prose.split()))[0],
        [*options, *common_options()],
        taken,
    )


def choices(takes: str) -> list[str]:
    """The words that a usage line spells out, as in `sh|fish`."""
    return takes.split("|") if re.fullmatch(r"[a-z0-9-]+(\|[a-z0-9-]+)+", takes) else []


def takes_name(takes: str) -> bool:
    """Whether it is a name in the vault."""
    return takes in ("GROUP/KEY", "GROUP", "G", "KEY", "KEY,")


def is_file(takes: str) -> bool:
    """Whether it is a file."""
    return takes in ("F", "FILE", "PATH", "TEMPLATE") or takes.startswith("FILE.")


def tree(commands: list[Words]) -> dict[str, list[str]]:
    """What may follow `avault`, and what each first word that needs a second one."""
    found: dict[str, list[str]] = {"": []}
    for each in commands:
        first, _, second = each.name.partition(" ")
        if first not in found[""]:
            found[""].append(first)
        if second:
            found.setdefault(first, []).append(second)
    return found


# ------------------------------------------------------- completion/bash ----
# The completion script for bash, 3.2 (macOS) or later.


BASH = r"""# Completion of avault for bash; made by: avault completion bash

_avault_about() {  # sets `commands`, `options` and `arguments` to what may follow the command $1
    commands='' options='' arguments=''
    case $1 in
@table
    esac
}

_avault_match() {  # offers those words that begin with the one that is typed
    local each
    for each in "$@"; do
        [[ $each != "$word"* ]] || COMPREPLY+=("$each")
    done
}

_avault_offer() {  # completes what a usage line calls $1
    local IFS=$'\n' each last='' head=${word%"${word##*,}"}
    local -a names=() found=()
    case $1 in
    GROUP/KEY | GROUP | G | KEY | KEY,)
        names=($(command avault ${directory:+"--dir=$directory"} list --names 2>/dev/null))
        for each in "${names[@]}"; do
            case $1 in
            G*) [[ ${each%%/*} == "$last" ]] || found+=("${each%%/*}") ;;
            # keys of the groups that were typed, or of all
            KEY) [[ $given && " $given " != *" ${each%%/*} "* ]] || found+=("${each#*/}") ;;
            KEY,) found+=("$head${each#*/}" "$head$each") ;;
            esac
            [[ $1 != GROUP/KEY ]] || found+=("$each")
            last=${each%%/*}
        done
        ;;
    F | FILE* | PATH | TEMPLATE)
        compopt -o default 2>/dev/null || found=($(compgen -f -- "$word"))
        ;;
    DIR) compopt -o dirnames 2>/dev/null || found=($(compgen -d -- "$word")) ;;
    *'|'*) found=(${1//|/$IFS}) ;;
    esac
    _avault_match "${found[@]}"
}

_avault_command() {  # completes the command line of another program, which begins with word $1
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        COMPREPLY=($(compgen -c -- "$word"))
    else
        compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$word"))
    fi
}

_avault() {
    local word=${COMP_WORDS[COMP_CWORD]} command='' directory='' given='' takes='' option='' index
    local commands options arguments each
    COMPREPLY=()
    [[ $word == = ]] && word=''
    _avault_about ''
    for ((index = 1; index < COMP_CWORD; index++)); do
        each=${COMP_WORDS[index]}
        if [[ $each == = ]]; then  # bash has cut --key=NAME into three words; it means --key NAME
            continue
        elif [[ $takes && ($takes != +* || $each != -*) ]]; then
            [[ $option == --dir ]] && directory=$each
            takes=''
        elif [[ $each == -- && $arguments == COMMAND ]]; then
            _avault_command $((index + 1))
            return
        elif [[ $each == -* ]]; then
            option=$each takes=''
            [[ $options == *" $each:"* ]] && takes=${options#*" $each:"} takes=${takes%% *}
        elif [[ $commands ]]; then
            command+=${command:+ }$each
            _avault_about "$command"
        elif [[ $arguments == COMMAND ]]; then
            _avault_command "$index"
            return
        else
            given+=" $each"
            if [[ $arguments != *... || $arguments == *' '* ]]; then
                arguments=${arguments#"${arguments%% *}"} arguments=${arguments# }
            fi
        fi
    done
    if [[ $takes && ($takes != +* || $word != -*) ]]; then
        _avault_offer "${takes#+}"
    elif [[ $word == -* ]]; then
        each=($options)
        _avault_match "${each[@]%%:*}"
    elif [[ $commands ]]; then
        _avault_match $commands
    elif [[ $arguments == COMMAND ]]; then
        _avault_command "$COMP_CWORD"
    else
        arguments=${arguments%% *}
        _avault_offer "${arguments%...}"
    fi
}

complete -F _avault avault
"""


def bash(commands: list[Words]) -> str:
    """The script for bash, 3.2 (macOS) or later."""

    def case(
        name: str, inner: list[str], options: list[Parameter], arguments: list[Parameter]
    ) -> str:
        spelled = [
            f"{each}:{'+' if option.is_optional else ''}{option.takes}" if option.takes else each
            for option in options
            for each in option.names
        ]
        taken = " ".join(
            each.takes + ("..." if each.repeats and each.takes != "COMMAND" else "")
            for each in arguments
        )
        sets = [
            ("commands", " ".join(inner)),
            ("options", " " + " ".join(spelled) if spelled else ""),
            ("arguments", taken),
        ]
        assigned = " ".join(f"{what}={shlex.quote(words)}" for what, words in sets if words)
        return f"    {shlex.quote(name)}) {assigned} ;;"

    lines = [
        case(
            name,
            inner,
            [*common_options(), Parameter(("--version",), "")] if not name else common_options(),
            [],
        )
        for name, inner in tree(commands).items()
    ]
    lines += [case(each.name, [], each.options, each.arguments) for each in commands]
    return BASH.replace("@table", "\n".join(lines))


# ------------------------------------------------------- completion/fish ----
# The completion script for fish, 3.0 or later.


FISH = r"""# Completion of avault for fish; made by: avault completion fish

function __avault_words --description 'the command and its arguments so far, without options'
    set -l is_value no
    for word in (commandline -opc)[2..]
        if test $is_value = yes
            set is_value no
        else if contains -- $word @options
            set is_value yes
        else if not string match -q -- '-*' $word
            echo -- $word
        end
    end
end

# __avault_is COUNT|any|some COMMAND…
function __avault_is --description 'whether this is the command, and has so many arguments'
    set -l words (__avault_words)
    set -l count (math (count $argv) - 1)
    if test $count -gt 0; and test "$words[1..$count]" != "$argv[2..]"
        return 1
    end
    set -l arguments (math (count $words) - $count)
    switch $argv[1]
        case any
            return 0
        case some
            test $arguments -gt 0
        case '*'
            test $arguments = $argv[1]
    end
end

function __avault_names --description 'GROUP/KEY, a line each; none while the vault is locked'
    set -l words (commandline -opc)
    set -l place (string replace -rf -- '^--dir=' '' $words)
    if set -l at (contains -i -- --dir $words)
        set place $words[(math $at + 1)]
    end
    command avault (string replace -r -- '^' '--dir=' $place) list --names 2>/dev/null
end

function __avault_offer --description 'completes what a usage line calls so'
    set -l names (__avault_names)
    set -l keys (string replace -r '.*/' '' -- $names)
    switch $argv[1]
        case GROUP/KEY
            string replace -r '/.*' '' -- $names
            printf '%s\n' $names
        case GROUP G
            string replace -r '/.*' '' -- $names
        case KEY
            set -l given (__avault_words)[2..]
            if set -q given[1] # the keys of the groups that were typed, or of all
                set keys
                for group in $given
                    set -l escaped (string escape --style=regex -- $group)
                    set -a keys (string replace -rf -- '^'$escaped'/' '' $names)
                end
            end
            printf '%s\n' $keys
        case KEY,
            set -l typed (string replace -r '^--[a-z-]+=' '' -- (commandline -ct))
            set -l head (string replace -r '[^,]*$' '' -- "$typed")
            printf '%s\n' "$head"$keys "$head"$names
    end
end

complete -c avault -f
@lines
"""


def fish(commands: list[Words]) -> str:
    """The script for fish, 3.0 or later: to be sourced, or in ~/.config/fish/completions."""
    foreign = [
        each.name
        for each in commands
        if any(argument.takes == "COMMAND" for argument in each.arguments)
    ]
    condition = "; and ".join(f"not __avault_is some {name}" for name in foreign)
    takers = {
        name
        for each in commands
        for taker in each.options
        if taker.takes and not taker.is_optional
        for name in taker.names
    }
    lines = [
        fish_option(condition, each) for each in (*common_options(), Parameter(("--version",), ""))
    ]
    abouts = {each.name: each.about for each in commands}
    for first, inner in tree(commands).items():
        for word in inner:
            name = f"{first} {word}".strip()
            about = f" -d {fish_quote(abouts[name])}" if name in abouts else ""
            lines.append(
                f"complete -c avault -n {fish_quote(f'__avault_is 0 {first}'.strip())} -a "
                f"{word}{about}"
            )
    for each in commands:
        condition = f"__avault_is {0 if each.name in foreign else 'any'} {each.name}"
        lines += [
            fish_option(condition, option)
            for option in each.options
            if option not in common_options()
        ]
        for number, taken in enumerate(each.arguments):
            place = "any" if taken.repeats else number
            if action := fish_action(taken.takes):
                lines.append(
                    "complete -c avault -n "
                    f"{fish_quote(f'__avault_is {place} {each.name}')}{action}"
                )
    return FISH.replace("@lines", "\n".join(lines)).replace("@options", " ".join(sorted(takers)))


def fish_option(condition: str, option: Parameter) -> str:
    """The line for an option."""
    names = "".join(
        f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.names
    )
    needs = (
        " -r" if is_file(option.takes) else " -x" if option.takes and not option.is_optional else ""
    )
    when = f" -n {fish_quote(condition)}" if condition else ""
    return f"complete -c avault{when}{names}{needs}{fish_action(option.takes)}"


def fish_action(takes: str) -> str:
    """How `complete` completes what a usage line calls so."""
    if takes_name(takes):
        return f" -a '(__avault_offer {takes})'"
    if takes == "DIR":
        return " -a '(__fish_complete_directories)'"
    if is_file(takes):
        return " -F"
    if takes == "COMMAND":
        # what begins with -- before that - is its own
        return " -a '(__fish_complete_subcommand --fcs-skip=2 - @options)'"
    return f" -a '{' '.join(choices(takes))}'" if choices(takes) else ""


def fish_quote(text: str) -> str:
    """A word in single quotes, as fish reads them."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# -------------------------------------------------------- completion/zsh ----
# The completion script for zsh.


ZSH = r"""#compdef avault
# Completion of avault for zsh; made by: avault completion zsh

_avault_names() {  # completes what a usage line calls $1
    local each
    local -a names found expl place
    directory=${opt_args[--dir]:-$directory}
    [[ -n $directory ]] && place=(--dir=${(Q)directory})
    names=(${(f)"$(command avault $place list --names 2>/dev/null)"})
    case $1 in
    GROUP/KEY) found=(${(u)names%%/*} $names) ;;
    G*) found=(${(u)names%%/*}) ;;
    KEY)
        for each in $names; do  # of the groups that were typed, or of all
            [[ -z "$line" || -n ${line[(re)${each%%/*}]} ]] && found+=(${each#*/})
        done
        ;;
    KEY,) found=(${(u)names#*/} $names); compset -P '*,' ;;
    esac
    _wanted names expl "${(L)1%,}" compadd -a found
}

_avault() {
    local context state line directory name
    local -A opt_args
    local -a subcommands
    _arguments -C -A '-*' '--dir=:DIR:_files -/' --json '(- *)'{--help,-h} '(- *)--version' \
        '1: :->command' '*:: :->words' && return
    directory=$opt_args[--dir]
    if [[ $state == command ]]; then
        subcommands=(
@commands
        )
        _describe -t commands 'avault command' subcommands
        return
    fi
    name=$words[1]
    case $name in
@groups
    esac
    case $name in
@cases
    esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _avault "$@"
else
    compdef _avault avault
fi
"""


def zsh(commands: list[Words]) -> str:
    """The script for zsh: to be sourced, or as _avault in a directory of $fpath."""
    groups = []
    abouts = {each.name: f"{each.name.rpartition(' ')[2]}:{each.about}" for each in commands}
    for first, inner in list(tree(commands).items())[1:]:
        listed = " ".join(shlex.quote(abouts[f"{first} {second}"]) for second in inner)
        abouts[first] = f"{first}:{', '.join(inner)}"
        groups += [
            f"    {first})",
            "        if ((CURRENT == 2)); then",
            f"            subcommands=({listed})",
            f"            _describe -t commands 'avault {first} command' subcommands",
            "            return",
            "        fi",
            "        shift words",
            "        ((CURRENT--))",
            f'        name="{first} $words[1]"',
            "        ;;",
        ]
    cases = []
    for each in commands:
        specs = [shlex.quote(spec) for option in each.options for spec in zsh_option(option)]
        specs += [shlex.quote(spec) for spec in zsh_arguments(each.arguments)]
        cases.append(f"    {shlex.quote(each.name)}) _arguments -S {' '.join(specs)} ;;")
    first_words = [f"            {shlex.quote(abouts[first])}" for first in tree(commands)[""]]
    return (
        ZSH.replace("@commands", "\n".join(first_words))
        .replace("@groups", "\n".join(groups))
        .replace("@cases", "\n".join(cases))
    )


def zsh_option(option: Parameter) -> Iterator[str]:
    """An option as _arguments takes it."""
    for name in option.names:
        if not option.takes:
            yield f"({' '.join(option.names)}){name}" if len(option.names) > 1 else name
        else:
            equals = "=" if name.startswith("--") else "+"
            colons = "::" if option.is_optional else ":"
            repeated = "*" if option.repeats else ""
            value = f"{option.takes}:{zsh_action(option.takes)}"
            yield f"{repeated}{name}{equals}{colons}{value}"


def zsh_arguments(arguments: list[Parameter]) -> Iterator[str]:
    """Arguments as _arguments takes them."""
    for number, each in enumerate(arguments, 1):
        if each.takes == "COMMAND":
            yield "(-)1: :_command_names -e"
            yield "*:: :_normal"
        else:
            yield f"{'*' if each.repeats else number}:{each.takes}:{zsh_action(each.takes)}"


def zsh_action(takes: str) -> str:
    """What _arguments does to complete what a usage line calls so."""
    if takes_name(takes):
        return f" _avault_names {takes}"
    if takes == "DIR":
        return "_files -/"
    if is_file(takes):
        return "_files"
    return f"({' '.join(choices(takes))})" if choices(takes) else " "


# ---------------------------------------------------------- cli/ceremony ----
# The talk with the operator while a signer is paired: what is said, shown and asked.


SIGNER_SETTINGS = """\
  Amber     Connections, this one, Permissions: "Manually approve each permission"
  nsec.app  Clear all permissions; untick "Remember my decision" every time
  Primal    trust level Low
  Clave     client details: NIP-44 Decrypt off
  others    no standing permission for nip44_decrypt
"""


def read_bunker(uri: str | None) -> str | None:
    """The bunker:// URI of --bunker, a line of stdin for `-`; raises Usage."""
    if uri == "-":
        if sys.stdin.isatty():
            say("paste the bunker:// URI, then Enter")
        uri = sys.stdin.buffer.readline(8192).decode(errors="replace").strip()
    elif uri is not None:
        warn(
            "the bunker:// URI holds a secret, which stands in the process list now",
            "better: --bunker -",
        )
    if uri is not None:
        parse_bunker(uri)
    return uri


class Ceremony:
    """The talk with the operator while a signer is paired."""

    def __init__(self, terminal: Terminal, qr: str | None, number: str = "2. ") -> None:
        self.terminal, self.qr, self.number = terminal, qr, number
        self.pages: set[str] = set()  # and notices, which were shown

    def request(self, op: str, private: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A pairing request, with what it says and asks on the way."""

        def reply(ready: dict[str, Any]) -> dict[str, Any]:
            if "operator" not in ready:
                return private
            say(f"the signer answers for {ready['operator']}")
            return {"confirmed": confirm("avault: is that you, the operator?")}

        is_private = any(private.values())
        return ask_daemon(
            self.terminal.places,
            op,
            progress=self.progress,
            value=reply,
            private=is_private,
            **fields,
        )

    def progress(self, step: dict[str, Any]) -> None:
        """Tell the operator what happened, and what to do."""
        kind = step["progress"]
        if kind == "wrote":
            put(f"wrote {step['path']}\n")
        elif kind == "uri":
            self.show_uri(step["uri"])
        elif kind == "page" and step["url"] not in self.pages:
            self.pages.add(step["url"])
            say(f"open this page to approve: {step['url']}")
        elif kind == "relays":
            say(f"by this machine's own relays: {', '.join(step['relays'])}")
            warn(
                f"nip46.json names others: {', '.join(step['hinted'])}",
                "if those are meant, name each with --relay",
            )
        elif kind == "connecting":
            say(f"connecting to {step['relays']} relay{'' if step['relays'] == 1 else 's'}")
        elif kind == "resumed":
            say(
                "the signer was connected before: going on from there; to pair anew: avault pair "
                "--replace"
            )
            say(f"the app may show who asks as {shorten_key(step['client_key'])}")
        elif kind == "connected":
            say("the signer is connected")
            say(f"the app may show who asks as {shorten_key(step['client_key'])}")
        elif kind == "notice" and step["text"] not in self.pages:
            self.pages.add(step["text"])
            say(step["text"])
        elif kind == "approve":
            say(f"1. APPROVE the request on the phone: {step['sentence']}")
        elif kind == "proven":
            say("the phone opens this vault")
        elif kind == "reject":
            say(
                f"{self.number}a drill: REJECT the next request on the phone, without "
                "remembering it"
            )

    def show_uri(self, uri: str) -> None:
        """The pairing URI as a QR code, as a picture, and as a line."""
        if self.qr:
            save_qr(uri, self.qr)
            say(f"the QR code is in {self.qr}")
        say(
            "scan this in the signer app (Amber, Primal, …) or paste the line; let it ask for "
            "every request"
        )
        say('Amber: choose "Manually approve each permission". Primal: trust level Low')
        put(uri + "\n")
        if sys.stderr.isatty():
            show_qr(uri)

    def drill(self, is_alone: bool = False) -> int:
        """Have the operator reject a request; repeat while somebody is there to change a setting.

        A pairing that it ends has worked, whatever it shows; alone, what it shows is its exit code.
        """
        while True:
            answer = self.request("drill", {}, timeout=600)
            seconds = answer["seconds"]
            if answer["refused"]:
                say("the drill passed: nothing is opened without you")
                if seconds < NOBODY_ASKED:
                    warn(
                        f"it was refused within {seconds:.1f} s; if that was not you, the app "
                        "remembers a refusal"
                    )
                return 0
            warn(
                f"the request to reject was approved after {seconds:.1f} s: if that was not you, "
                "the signer approves by itself"
            )
            sys.stderr.write(SIGNER_SETTINGS)
            if not sys.stdin.isatty() or not confirm(
                "avault: change the setting, then try the drill again?"
            ):
                if is_alone:
                    raise AvaultError(
                        "the drill did not pass: the signer approves by itself",
                        "change the setting, then: avault drill",
                    )
                say("paired, but the drill did not pass; try it again with: avault drill")
                return 0


# -------------------------------------------------------- cli/completion ----
# avault completion: what a shell needs to complete avault's commands, options and names.
#
# Commands and options stand in the script (completion/). Names are asked for while somebody types, by
# `avault list --names`; a locked vault has none, and says nothing.
#
# Not click's own completion (click.shell_completion). At each Tab it starts the program with click,
# which takes four times as long as `list --names`, for options too. It needs bash 4.4, and macOS
# has 3.2. And what follows `avault run --` it cannot hand to the completion of that command.


@command("completion", argument("shell"))
def cmd_completion(terminal: Terminal, shell: str) -> int:
    """usage: avault completion bash|zsh|fish

    Prints what the shell needs to complete commands, options and the names of
    groups and keys. Names come from the daemon; while the vault is locked there
    are none.

      source <(avault completion bash)        in ~/.bashrc
      source <(avault completion zsh)         in ~/.zshrc, after compinit
      avault completion fish > ~/.config/fish/completions/avault.fish
    """
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    if shell not in shells:
        raise Usage(
            f"no completion for {printable(shell)!r}", "one of: avault completion bash, zsh, fish"
        )
    script = shells[shell](all_words())
    put(
        json.dumps({"shell": shell, "script": script}, indent=2) + "\n"
        if terminal.want_json
        else script
    )
    return 0


# ------------------------------------------------------------ cli/daemon ----
# avault daemon start, daemon stop, unlock, lock, version.


@command(
    "daemon start",
    option("--background", "-b", is_flag=True),
    option("--timeout"),
    option("--accept-rollback", is_flag=True),
    option("--lock-after"),
    option("--lock-idle"),
    option("--notify"),
)
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
            "the key comes from NOSTR_NSEC: whoever reads this environment opens the vault "
            "without the phone"
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
    """Say so where the end of the session is the end of the daemon: no lingering (loginctl(1))."""
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
    """Keep systemd from starting a daemon again that has ended; whether it was about to.

    Raises Unavailable.
    """
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


@command(
    "unlock",
    option("--timeout"),
    option("--for", "how_long"),
    option("--again", is_flag=True),
    option("--accept-rollback", is_flag=True),
)
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
            f"the vault opens with NOSTR_NSEC: {store.vault.count()} secret(s); no daemon runs, "
            "and none was started"
        )
        return 0
    need_vault(terminal.places)
    terminal.need_daemon()
    if nsec:
        warn(
            "the key comes from NOSTR_NSEC: whoever reads this environment opens the vault "
            "without the phone"
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


# -------------------------------------------------------------- cli/demo ----
# avault demo: the whole story in a minute, in a temporary directory, with a phone in the terminal.


@command("demo", option("--yes", is_flag=True))
def cmd_demo(terminal: Terminal, yes: bool) -> int:
    """usage: avault demo [--yes]

    The whole story in a minute, in a temporary directory: a relay, a phone in
    this terminal that asks you, a vault, the drill, locking, unlocking, a
    refusal. --yes plays the operator. Nothing leaves this machine.
    """
    return run_demo(yes)


async def start_relay() -> tuple[nostr_sdk.LocalRelay, str]:
    """A relay on the loopback, which lives as long as it is held, and its URL."""
    relay = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").build()
    await relay.run()
    return relay, str(await relay.url())


def read_line(process: subprocess.Popen[bytes]) -> str:
    """The next line that a process prints."""
    return process.stdout.readline().decode().strip() if process.stdout else ""


class Demo:
    """The demo's actors: a relay, and a phone and avault, each a process of its own."""

    def __init__(self, home: str, yes: bool) -> None:
        self.home = home
        self.asked = threading.Event()  # avault has said what it asks the phone for
        # that are typed on the phone; without them a person does
        self.answers = ["y", "n", "y", "n"] if yes else []
        self.environment = {
            **clean_environment(),
            "HOME": home,
            "XDG_STATE_HOME": f"{home}/state",
            "AVAULT_DIR": f"{home}/clawd/.avault",
        }
        self.environment["AVAULT_SOCKET"] = f"{home}/avault.sock"
        self.environment.pop("AVAULT_PID", None)
        self.phone: subprocess.Popen[bytes] | None = None
        self.relay, self.url = asyncio.run(start_relay())

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
        """Start this program with other arguments, in the demo's environment."""
        return subprocess.Popen(own_command(*arguments), env=self.environment, **settings)

    def begin(self, *arguments: str, asks: str, **settings: Any) -> subprocess.Popen[bytes]:
        """Start a command, and copy what it says; `asks` is in the lines after which the phone may show its question."""
        process = self.start(
            *arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **settings
        )

        def copy() -> None:
            with contextlib.suppress(OSError):  # the terminal is closed
                for line in process.stderr or ():
                    write_all(2, line)
                    if re.search(asks.encode(), line):
                        self.asked.set()

        self.copying = threading.Thread(target=copy, daemon=True)
        self.copying.start()
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a command, and for the last of what it says; its exit code."""
        code = process.wait()
        self.copying.join()
        return code

    def unlock(self) -> int:
        """Run `avault unlock`; its exit code."""
        put("$ avault unlock\n")
        return self.finish(self.begin("unlock", asks="may show who asks"))

    def tell(self, title: str, *lines: str) -> None:
        """Say what comes."""
        put(f"\n== {title}\n" + "".join(f"   {line}\n" for line in lines))

    def run(self, *arguments: str, given: str | None = None, shown: str | None = None) -> int:
        """Run a command and show it as one would type it; its exit code."""
        put(f"$ {shown or 'avault ' + ' '.join(arguments)}\n")
        return subprocess.run(
            own_command(*arguments), check=False, env=self.environment, input=(given or "").encode()
        ).returncode

    def start_phone(self, uri: str) -> None:
        """The operator's phone: a bunker that asks in this terminal, or that --yes answers."""
        words = (
            "signer",
            "--nsec-file",
            f"{self.home}/phone/nsec",
            "--state",
            f"{self.home}/phone",
            uri,
        )
        self.phone = self.start(
            *words, stdin=subprocess.PIPE if self.answers else None, stdout=subprocess.PIPE
        )
        threading.Thread(target=self.show_phone, args=(self.phone,), daemon=True).start()

    def show_phone(self, phone: subprocess.Popen[bytes]) -> None:
        """Copy what the phone prints, and type what --yes answers. A question stays back until avault has said that it asks."""
        if not phone.stdout:
            return
        with contextlib.suppress(OSError):  # the terminal is closed, or the phone has ended
            while piece := os.read(phone.stdout.fileno(), 4096):
                if b" asks: " in piece and self.asked.wait(5):
                    self.asked.clear()
                write_all(1, piece)
                if self.answers and phone.stdin and piece.endswith(b"[y/n] "):
                    # a person reads first; and an answer that comes sooner is warned of
                    time.sleep(NOBODY_ASKED)
                    answer = self.answers.pop(0).encode() + b"\n"
                    write_all(1, answer)
                    phone.stdin.write(answer)
                    phone.stdin.flush()

    def close(self) -> None:
        """End everything."""
        subprocess.run(
            own_command("daemon", "stop", "--force"),
            check=False,
            env=self.environment,
            stderr=subprocess.DEVNULL,
        )
        if self.phone:
            self.phone.kill()
            self.phone.wait()


def run_demo(yes: bool) -> int:
    """The whole story in a temporary directory; its exit code."""
    if not yes and not sys.stdin.isatty():
        raise Usage(
            "the demo asks you, and there is no terminal", "avault demo --yes plays the operator"
        )
    home = tempfile.mkdtemp(prefix="avault-demo-")
    os.makedirs(f"{home}/clawd")
    os.makedirs(f"{home}/phone", mode=0o700)
    write_file(f"{home}/phone/nsec", nostr_sdk.Keys.generate().secret_key().to_bech32().encode())
    told = {number: signal.signal(number, leave_demo) for number in (signal.SIGHUP, signal.SIGTERM)}
    demo = None
    try:
        demo = Demo(home, yes)
        return tell_story(demo)
    finally:
        for number in told:
            signal.signal(number, signal.SIG_IGN)  # until all is gone
        if demo:
            demo.close()
        shutil.rmtree(home)
        with contextlib.suppress(AvaultError, SystemExit):  # a terminal that is closed
            put(f"\nEverything was in {home}, and is gone.\n")


def leave_demo(number: int, frame: object) -> NoReturn:
    """Told to end, as when the terminal is closed."""
    sys.exit(128 + number)


def tell_story(demo: Demo) -> int:
    """The steps of the demo; 0 if each ended as it should."""
    places = demo.environment["AVAULT_DIR"]
    demo.tell(
        "1. A vault, and a phone to open it",
        f"Relay: {demo.url}, for this demo only.",
        f"Phone: a NIP-46 bunker in a process of its own; its key is in {demo.home}/phone.",
        "It asks in this terminal. First approve (y), then, in the drill, reject (n).",
    )
    put("$ avault init --yes --relay " + demo.url + "\n")
    words = ("init", "--yes", "--relay", demo.url, "--name", "clawd@demo")
    init = demo.begin(*words, asks="APPROVE the request|REJECT the next", stdout=subprocess.PIPE)
    uri = read_line(init)
    if not uri.startswith("nostrconnect://"):
        raise AvaultError(
            "the demo could not pair", "try once more; if it stays so, please report it"
        )
    put(uri[:72] + "…\n(the demo's own phone scans it: there is nothing to scan for you)\n")
    demo.start_phone(uri)
    if demo.finish(init):
        raise Denied(
            "the demo's vault was not opened", "answer y to the first question, n to the drill"
        )
    put(init.stdout.read().decode() if init.stdout else "")
    demo.tell(
        "2. Secrets go in",
        "The operator's key is in the phone. The agent's key was made here: it is in the memory of one process, the",
        "keyholder, as the secrets will be; on the disk it is sealed, and what unseals it is in an envelope for the phone.",
    )
    demo.run(
        "set",
        "openai/API_KEY",
        given="sk-demo-1234567890\n",
        shown="echo sk-demo-… | avault set openai/API_KEY",
    )
    demo.run("set", "database/PASSWORD", "--generate", "24")
    demo.run("list")
    demo.tell("3. Lock: the keyholder exits, and the kernel takes its memory")
    demo.run("lock")
    demo.run("get", "openai/API_KEY")
    files = [os.path.join(top, name) for top, _, names in os.walk(demo.home) for name in names]
    found = any(b"sk-demo-1234567890" in read_file(path) for path in files if os.path.isfile(path))
    demo.tell(
        "What somebody with this disk has now",
        f"{places}: avault.enc and nsec.enc (ciphertext), nip46.json (public names).",
        f"{demo.environment['XDG_STATE_HOME']}: the client key of the pairing, and an envelope for the phone.",
        f"The secret in clear in any of these files: {'YES' if found else 'no'}.",
        "None of it opens the vault: the phone must, and the operator must say so.",
    )
    demo.tell("4. Unlock: the phone is asked", "Approve it (y).")
    if demo.unlock():
        raise Denied("the demo's vault was not opened", "answer y")
    demo.tell("5. A shell that has the secrets")
    script = 'vars=$(avault export --shell) && eval "$vars" && echo "the shell has an API_KEY of ${#API_KEY} characters"'
    put(f"$ {script}\n")
    function = "avault() { " + " ".join(f"'{word}'" for word in own_command()) + ' "$@"; }; '
    code = subprocess.run(
        ["sh", "-c", function + script], check=False, env=demo.environment
    ).returncode
    demo.tell("6. A refusal", "The vault is locked again. This time reject the request (n).")
    demo.run("lock")
    refused = demo.unlock()
    put(f"exit code {refused}\n")
    demo.run("status")
    worked = code == 0 and refused == Denied.exit_code and not found
    demo.tell(
        "Done" if worked else "Something went otherwise than planned", "Your own: avault init"
    )
    return 0 if worked else 1


# -------------------------------------------------------------- cli/edit ----
# avault edit: a secret in the operator's editor, by way of a file that is only in memory.


IN_MEMORY = (0x01021994, 0x858458F6)  # TMPFS_MAGIC and RAMFS_MAGIC of statfs(2)
# vim keeps nothing of what it shows
VIM_SETTINGS = "set noswapfile nobackup nowritebackup noundofile viminfo= history=0"


@command("edit", argument("group"), argument("word", required=False), option("--key"))
def cmd_edit(terminal: Terminal, group: str, word: str | None, key: str | None) -> int:
    """usage: avault edit GROUP [KEY | --key KEY]

    Opens a secret in $VISUAL or $EDITOR, and keeps what was saved; one that is
    not there yet begins empty. One newline at the end is taken off, unless it
    was there. The file lies in memory (tmpfs), for this user alone, and goes
    with the editor; where there is no such place, nothing is opened. What your
    editor itself keeps elsewhere (a clipboard, plugins) is its own affair.

      avault edit google/SERVICE_ACCOUNT
    """
    group, key = split_name(group, key, word)
    if key is None:
        raise Usage("no key is named", f"avault edit {group}/API_KEY")
    if not sys.stdin.isatty():
        raise Usage("an editor needs a terminal", f"without one: avault set {group}/{key}")
    harden("avault edit")
    editor = find_editor()
    before = current_value(terminal, group, key)
    with file_in_memory(f"{key}.txt", (before or "").encode()) as path:
        run_editor(editor, path)
        edited = read_file(path, MAX_VALUE + 1).removesuffix(
            b"" if before and before.endswith("\n") else b"\n"
        )
    try:
        value = edited.decode()
    except UnicodeDecodeError:
        raise Usage("the value is binary", "keep it as text, in base64") from None
    if value == (before or ""):
        say(f"unchanged: {group}/{key}")
        return 0
    if current_value(terminal, group, key) != before:
        raise Denied(
            f"{group}/{key} was changed by somebody else meanwhile",
            f"look, and begin again: avault edit {group}/{key}",
        )
    terminal.ask("set", group=group, key=key, note=None, value={"value": check_value(value)})
    say(f"kept {group}/{key}")
    return 0


def current_value(terminal: Terminal, group: str, key: str) -> str | None:
    """The value as the vault has it; None for none."""
    try:
        return str(terminal.ask("get", group=group, key=key)["value"])
    except NotFound:
        terminal.ask("list")  # no vault is another matter
        return None


def find_editor() -> list[str]:
    """The editor's command line; raises Usage."""
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    words = words or next(([name] for name in ("nano", "vim", "vi") if shutil.which(name)), [])
    program = shutil.which(words[0]) if words else None
    if not program:
        raise Usage(
            f"no editor {printable(words[0])}" if words else "no editor is named",
            "EDITOR=nano avault edit …",
        )
    is_vim = os.path.basename(os.path.realpath(program)).startswith(("vim", "nvim"))
    return [*words, "-n", "-i", "NONE", "--cmd", VIM_SETTINGS] if is_vim else words


def run_editor(editor: list[str], path: str) -> None:
    """Run the editor until it ends; raises AvaultError where it failed."""
    environment = {**os.environ, "TMPDIR": os.path.dirname(path)}
    try:
        code = subprocess.run([*editor, path], check=False, env=environment).returncode
    except OSError as error:
        raise AvaultError(
            f"cannot run {printable(editor[0])}: {error.strerror}", "EDITOR=nano avault edit …"
        ) from None
    if code:
        raise AvaultError("the editor failed: nothing was written", None)


@context
def file_in_memory(name: str, content: bytes) -> Iterator[str]:
    """A file in a directory of ours, in memory; both are gone at the end, also when we are told to end."""
    places = ("/dev/shm", os.environ.get("XDG_RUNTIME_DIR", ""))  # noqa: S108
    place = next(filter(is_in_memory, places), None)
    if not place:
        raise Unavailable(
            "there is no place that is only in memory here", "avault set writes no file"
        )
    directory = tempfile.mkdtemp(prefix="avault-", dir=place)  # 0700
    told = {
        number: signal.signal(number, leave_editor) for number in (signal.SIGHUP, signal.SIGTERM)
    }
    told[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the editor's
    try:
        path = os.path.join(directory, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, content)
        finally:
            os.close(fd)
        yield path
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        for number, handler in told.items():
            signal.signal(number, handler)


def leave_editor(number: int, frame: object) -> None:
    """Told to end."""
    raise SystemExit(128 + number)


def is_in_memory(directory: str) -> bool:
    """Whether a directory that we can write to is on a file system without a disk (statfs(2))."""
    if (
        sys.platform != "linux"
        or not os.path.isabs(directory)
        or not os.access(directory, os.W_OK | os.X_OK)
    ):
        return False
    answer = (ctypes.c_long * 32)()  # struct statfs, which begins with the type
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(directory), answer):
        return False
    return answer[0] & 0xFFFFFFFF in IN_MEMORY


# ---------------------------------------------------------- cli/keychain ----
# avault keychain: opening the vault without the phone.
#
# The commands ask the daemon; no key passes through them.


SERVICE = "avault"
MEANING = """\
the keychain of your login session is to open this vault, so that a reboot needs no phone. Whoever has
that session, or this disk and the session's password, then opens the vault without you"""


def account(places: Places) -> str:
    """The account under which the keychain has a vault's unlock key."""
    return f"{places.id}:unlock-key"


def describe_keychain(places: Places, **fields: Any) -> dict[str, Any]:
    """What the commands print with --json."""
    return {"ok": True, "enabled": False, "service": SERVICE, "account": account(places), **fields}


def removal(places: Places) -> str:
    """The command that takes the entry out by hand."""
    if sys.platform == "darwin":
        return f"security delete-generic-password -s {SERVICE} -a {account(places)}"
    return f"secret-tool clear service {SERVICE} username {account(places)}"


def raise_answer(answer: dict[str, Any], message: str, hint: str) -> None:
    """Raise the error that the keychain's outcome is; `ok` is none."""
    kinds = {"ok": None, "not_found": NotFound, "denied": Denied, "unavailable": Unavailable}
    if kind := kinds.get(answer["outcome"], AvaultError):
        raise kind(message.format(answer.get("detail") or answer["outcome"]), hint)


def show_object(terminal: Terminal, fields: dict[str, Any]) -> None:
    """Print the object, where JSON is wanted."""
    if terminal.want_json:
        put(json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


@command("keychain enable", option("--yes", is_flag=True))
def cmd_keychain_enable(terminal: Terminal, yes: bool) -> int:
    """usage: avault keychain enable [--yes]

    Lets this machine open the vault without the phone: a key made for that goes
    into the keychain of your login session (macOS Keychain, gnome-keyring,
    KWallet, KeePassXC), under the service avault. Whoever has that session, or
    this disk and the session's password, then opens the vault without you.

    The vault must be open, and the phone must have opened it here before. It
    asks first (--yes does not), then the phone has to agree. Where there is no
    keychain, nothing is changed.
    """
    if not terminal.is_running():
        need_vault(terminal.places)
    if not yes and not confirm(f"avault: {MEANING}. Enable it?"):
        raise Denied("not confirmed; the phone stays the only way", "avault keychain enable --yes")
    say("asking the phone whether it agrees, then the keychain; it may ask you on the screen")
    answer = terminal.ask("keychain", action="enable")
    raise_answer(
        answer,
        "not enabled: {}",
        "the phone opens the vault as before; see: avault keychain status",
    )
    say("enabled: the keychain opens this vault from now on, and the phone when it does not")
    show_object(terminal, describe_keychain(terminal.places, enabled=True))
    return 0


@command("keychain disable")
def cmd_keychain_disable(terminal: Terminal) -> int:
    """usage: avault keychain disable

    Deletes the key in the keychain, and the sealed copy of the vault's key that
    only it opens. From now on the phone is asked. Works while the vault is
    locked, too.
    """
    terminal.need_daemon()
    answer = terminal.ask("keychain", action="disable")
    if answer["outcome"] != "not_found":
        raise_answer(
            answer,
            "the phone is asked from now on, but the keychain still has its entry, which opens nothing any more: {}",
            f"try again when it is unlocked, or: {removal(terminal.places)}",
        )
    say("disabled: the phone is asked")
    show_object(terminal, describe_keychain(terminal.places))
    return 0


@command("keychain status")
def cmd_keychain_status(terminal: Terminal) -> int:
    """usage: avault keychain status [--json]

    Whether the keychain may open this vault, and whether it has what it needs
    for that; it is asked without a prompt. Works while the vault is locked;
    without a daemon the keychain is not asked.
    """
    places = terminal.places
    try:
        answer = ask_daemon(places, "keychain", action="status")
    except NoDaemon:
        need_vault(places)
        answer = {"enabled": os.path.lexists(places.own("keychain.json"))}
    fields = describe_keychain(
        places,
        enabled=answer["enabled"],
        outcome=answer.get("outcome"),
        detail=answer.get("detail"),
    )
    if terminal.want_json:
        show_object(terminal, fields)
        return 0
    opens = (
        "opens this vault without the phone"
        if fields["enabled"]
        else "off; the phone opens this vault"
    )
    said = "it is there" if fields["outcome"] == "ok" else fields["detail"]
    put(
        f"Keychain: {opens}\nEntry: service {SERVICE}, account {fields['account']}{f'; {said}' if said else ''}\n"
    )
    return 0


# ------------------------------------------------------------ cli/forget ----
# avault forget: leaving nothing of a vault on a machine but the vault.


@command("forget", option("--yes", is_flag=True), option("--force", is_flag=True))
def cmd_forget(terminal: Terminal, yes: bool, force: bool) -> int:
    """usage: avault forget [--yes] [--force]

    Removes from this machine all that belongs to the vault, but never the vault
    itself: ends the daemon, deletes the keychain's entry and the state directory
    (pairing, unlock.json, the access log). It asks first; --yes does not. It
    prints what it removed, and says what is left and how to remove that.

    Where the daemon alone could still open the vault, or nsec.enc is damaged, it
    refuses; --force does not. To use the vault here again: avault recover.
    """
    places = terminal.places
    if not force:
        keep_way_back(places)
    if not yes and not confirm(
        f"avault: {places.state} is to go: pairing, access log, and what opens {places.dir}. Forget it?"
    ):
        raise Denied("not confirmed; nothing was removed", "avault forget --yes")
    lock = end_daemon(places, force)
    removed: list[str] = []
    left: list[dict[str, str]] = []
    try:
        if os.path.lexists(places.own("keychain.json")):
            forget_entry(places, removed, left)
        forget_files(places, removed)
    finally:
        if lock is not None:
            os.close(lock)
    left += find_settings(places)
    if terminal.want_json:
        show_object(terminal, {"ok": True, "removed": removed, "left": left})
        return 0
    put("".join(f"removed: {what}\n" for what in removed))
    for each in left:
        warn(f"left: {each['what']}", each["remove"])
    say(
        "the phone still lists this machine; delete its connection there"
        if removed
        else "nothing of this vault was here"
    )
    return 0


def keep_way_back(places: Places) -> None:
    """Refuse to forget what may be the only way into the vault; raises Denied."""
    if not os.path.lexists(places.file("avault.enc")) or not os.path.lexists(
        places.own("unlock.json")
    ):
        return
    try:
        with contextlib.suppress(AvaultError):
            ask_daemon(places, "status")  # an open vault looks at nsec.enc, and mends it
        check_recovery(places)
        recovery = read_sealed("nsec", places.file("nsec.enc"))
        mine = read_sealed("unlock", places.own("unlock.json"))
        if any(recovery[name] != mine[name] for name in ("vault", "agent", "operator")):
            raise Tampered("nsec.enc is another vault's")
    except AvaultError as error:
        raise Denied(
            f"{error.message}: what this machine keeps may be the only way into the vault",
            "avault unlock, which mends nsec.enc; or put it back, from git or from a backup; or insist with --force",
        ) from None


def end_daemon(places: Places, force: bool) -> int | None:
    """Stop the daemon, and keep the vault's lock so that none starts meanwhile; None where there is no directory.

    Raises Denied where that may lose a key, and Unavailable for a daemon that cannot be reached.
    """
    try:
        ask_daemon(places, "stop", force=force)
        patience = 10.0  # seconds: it has answered, and is about to exit
    except Unavailable as error:  # none, or another vault's, which is not in the way
        patience = 10.0 if isinstance(error, Interrupted) else 0.0
    end = time.monotonic() + patience
    while True:
        try:
            return lock_directory(places.dir)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Unavailable:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def forget_entry(places: Places, removed: list[str], left: list[dict[str, str]]) -> None:
    """Delete the keychain's entry, from this session: the daemon is gone."""
    words = own_command("keychain", "delete", account(places), places.dir)
    done = subprocess.run(
        words, check=False, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True
    )
    answer = json.loads(done.stdout)
    entry = f"the keychain's entry {SERVICE}, {account(places)}"
    if answer["outcome"] == "ok":
        removed.append(entry)
    elif answer["outcome"] != "not_found":
        left.append(
            {
                "what": f"{entry}, which opens nothing any more: {answer['detail']}",
                "remove": removal(places),
            }
        )


def forget_files(places: Places, removed: list[str]) -> None:
    """Remove what the daemon left behind, and the state directory; raises AvaultError."""
    usual, *recorded = places.sockets()
    files = [usual, places.pid_file] if is_abandoned(usual) else []
    files += [path for path in recorded if path != usual and is_abandoned(path)]
    try:
        for path in files:
            if os.path.lexists(path):
                os.unlink(path)
                removed.append(path)
        if os.path.isdir(places.state):
            shutil.rmtree(places.state)
            removed.append(places.state)
    except OSError as error:
        raise AvaultError(
            f"cannot remove {error.filename}: {error.strerror}",
            "mend that, and: avault forget --yes",
        ) from None


def is_abandoned(path: str) -> bool:
    """Whether a path is not there, or a socket at which nobody listens; it may be that of another vault."""
    if not os.path.lexists(path):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return stat.S_ISSOCK(os.lstat(path).st_mode)
        except OSError:
            return False
    return False


def find_settings(places: Places) -> list[dict[str, str]]:
    """What others keep for the vault: git's merge driver in its repository, and its services."""

    found = []
    try:
        driver = run_git(places.dir, "config", "--local", "--get-regexp", r"^merge\.avault\.")
        attributes = run_git(
            places.dir, "rev-parse", "--path-format=absolute", "--git-path", "info/attributes"
        )
    except AvaultError:
        pass  # no git, no driver
    else:
        # in this order: by a driver that it does not know, git would merge line by line
        if driver.stdout:
            lines = printable(os.fsdecode(attributes.stdout).strip(), 4096)
            config = f"git -C {shlex.quote(places.dir)} config --remove-section merge.avault"
            remove = f"take the lines with merge=avault out of {lines}, then: {config}"
            found.append(
                {"what": f"git's merge driver, in the repository of {places.dir}", "remove": remove}
            )
    for system in (False, True):
        unit = Service(places, system, "").path
        if os.path.lexists(unit):
            found.append(
                {
                    "what": f"the service {unit}",
                    "remove": "avault service uninstall" + (" --system" if system else ""),
                }
            )
    return found


# --------------------------------------------------------------- cli/log ----
# avault log: who got what, and when; and what was refused.
#
# The access log is read from the state directory, so that it can be read while the vault is locked.
# Whether it is whole only the keyholder can tell, which has the key: `--verify` asks it. Until then
# nothing in these files is trusted.


POLL = 0.25  # seconds between two looks at the log
LINE_WIDTH = 100_000  # characters of a line that are shown


class Reader:
    """Reads a file after its older ones (access.log.4 to .1), and goes on where it stopped, also if they were renamed."""

    def __init__(self, path: str, older: int) -> None:
        self.paths = [path, *(f"{path}.{age}" for age in range(1, older + 1))]  # the newest first
        self.place = 0  # among the releases, of the line that was read last
        # open for as long as it is the newest, so that its inode stays its own
        self.file: IO[bytes] | None = None
        self.half = b""  # a line without its end

    def lines(self) -> Iterator[bytes]:
        """The lines that are new since the last call; raises AvaultError."""
        try:
            if self.file:
                yield from self.rest(self.file)
                try:
                    if identity(self.file) == os.lstat(self.paths[0]).st_ino:
                        return
                except FileNotFoundError:
                    return  # renamed; the next line makes another
            for file in self.newer():
                if self.file:
                    # what was written between the last look and the renaming
                    yield from self.rest(self.file)
                    yield from self.end()
                    self.file.close()
                self.file = file
                yield from self.rest(file)
        except OSError as error:
            raise AvaultError(
                f"cannot read {error.filename or self.paths[0]}: {error.strerror}",
                "whose file is it?",
            ) from None

    def rest(self, file: IO[bytes]) -> Iterator[bytes]:
        """The whole lines from where the last call stopped."""
        *lines, self.half = (self.half + file.read()).split(b"\n")
        yield from lines

    def end(self) -> Iterator[bytes]:
        """What is left: a line without its end, if there is one."""
        if self.half:
            yield self.half
        self.half = b""

    def newer(self) -> list[IO[bytes]]:
        """The files after the one that was read last, opened, the oldest first.

        They are opened from the newest to the oldest, as that is how they are renamed: one may be met twice, none missed.
        """
        last = identity(self.file) if self.file else None
        found: dict[int, IO[bytes]] = {}
        for path in self.paths:
            try:
                file = open(  # noqa: SIM115
                    os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
                )
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Tampered(f"{path} is not a regular file", "move it away")
            if identity(file) == last:
                break
            found.setdefault(identity(file), file)
        return list(reversed(found.values()))


def in_order(readers: list[Reader], are_ended: bool) -> list[bytes]:
    """The lines that are new in both files: a refusal after the release that it follows."""
    found = []
    for reader in readers:
        for line in [*reader.lines(), *(reader.end() if are_ended else ())]:
            reader.place = max(reader.place, place_of(line))
            found.append((reader.place, line))
    # releases first, where the places are the same
    return [line for _, line in sorted(found, key=lambda each: each[0])]


def place_of(line: bytes) -> int:
    """The number of a release, or of the release that a refusal follows; 0 for what is no line of the log."""
    try:
        entry = json.loads(line)
        place = entry.get("follows", entry["n"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0
    return place if isinstance(place, int) else 0


def identity(file: IO[bytes]) -> int:
    """What stays the same when a file is renamed."""
    return os.fstat(file.fileno()).st_ino


def render_line(line: bytes) -> str:
    """A line of the log for a person. What is not one is shown as it is; nothing in it can drive a terminal."""
    text = line.decode(errors="backslashreplace")
    try:
        entry = json.loads(text)
        about = f"{entry['op']} for {entry['for']}" if entry["for"] else entry["op"]
        words = [entry["time"], about, names(entry), callers(entry)]
        besides = f", and {entry['skipped']:,} more before it" if entry.get("skipped") else ""
        text = " ".join(word for word in words if word) + f": {entry['outcome']}{besides}"
    except (ValueError, TypeError, KeyError, RecursionError):
        text = f"not a line of the log: {text}"
    return printable(text, LINE_WIDTH)


def names(entry: dict[str, Any]) -> str:
    """The secrets that a line is about, as GROUP/KEY; "everything" where none is named."""
    group, keys = entry["group"], entry["keys"]
    besides = f" and {entry['more']:,} more" if entry["more"] else ""
    if keys:
        return (
            ", ".join(key if "/" in key or not group else f"{group}/{key}" for key in keys)
            + besides
        )
    return str(group or ("everything" if entry["op"] in ("export", "reveal") else "")) + besides


def callers(entry: dict[str, Any]) -> str:
    """Who asked: the program and what started it; or that alone, where the program is avault itself."""
    if entry["parent"] and str(entry["name"]).startswith("avault"):
        return f"by {program(entry['parent'])}"
    return f"by {program(entry)}" + (f" in {program(entry['parent'])}" if entry["parent"] else "")


def program(process: dict[str, Any]) -> str:
    """A process, by the name of its executable and its pid."""
    return f"{os.path.basename(process['exe'] or '?')} ({process['pid']})"


@command("log", option("--follow", "-f", is_flag=True), option("--verify", is_flag=True))
def cmd_log(terminal: Terminal, follow: bool, verify: bool) -> int:
    """usage: avault log [-f] [--verify]

    Prints the access log, the newest line last: when, what for, which secrets,
    the program and what started it (that alone, where the program is avault),
    and the outcome. It is written before a secret is released. It can be read
    while the vault is locked. What was refused is kept apart (refused.log), and
    of very many only their number.
    -f goes on with what is added, until Ctrl-C.
    --verify has the keyholder check every line: that it wrote it, and that none
    is missing, from where the log begins: the oldest lines go when there are
    more than 20 MB. Exit code 8: it did not, or one is. The vault has to be open.
    --json prints the lines as they stand in the files.

      avault log -f
      avault log --json | jq -r 'select(.group == "openai") | .exe' | sort | uniq -c
    """
    if verify:
        if follow:
            raise Usage("--verify and -f exclude each other")
        return verify_log(terminal)
    readers = [Reader(terminal.places.own(name), older) for name, _, older in AccessLog.FILES]
    show = (
        (lambda line: printable(line.decode(errors="backslashreplace"), LINE_WIDTH))
        if terminal.want_json
        else render_line
    )
    lines = in_order(readers, are_ended=not follow)
    if not lines and not readers[0].file:
        need_vault(terminal.places)
        say("nothing has been released yet")
    call.farewell = ""
    while True:
        put("".join(show(line) + "\n" for line in lines))
        if not follow:
            return 0
        time.sleep(POLL)
        lines = in_order(readers, are_ended=False)


def verify_log(terminal: Terminal) -> int:
    """Say whether the log is whole; raises Tampered, with what is wrong."""
    answer = terminal.ask("verify_log")
    if not answer["intact"]:
        raise Tampered(
            f"the access log was changed: {printable(answer['problem'])}",
            f"keep a copy: {terminal.places.state}/*.log*",
        )
    if terminal.want_json:
        names = ("intact", "lines", "begins", "refused", "files")
        put(json.dumps({name: answer[name] for name in names}, indent=2) + "\n")
    else:
        begins = (
            f"; it begins at {answer['begins']:,}, what was before has rotated away"
            if answer["begins"] > 1
            else ""
        )
        put(f"the access log is whole: {answer['lines']:,} lines{begins}\n")
    return 0


# --------------------------------------------------------------- cli/mcp ----
# avault mcp: the command of avault_extras/mcp.py, a Model Context Protocol server.


@command("mcp", option("--no-run", is_flag=True))
def cmd_mcp(terminal: Terminal, no_run: bool) -> int:
    """usage: avault mcp [--no-run]

    A Model Context Protocol server on stdin and stdout, for agents: they see the
    names of secrets and the vault's state, can have the phone asked, and run
    commands with secrets that they choose, whose output is masked. No tool
    returns a value. --no-run leaves the commands out.

    Needs the MCP SDK: pip install 'mcp>=2,<3'. In a client's configuration:

      {"mcpServers": {"avault": {"command": "avault", "args": ["mcp"]}}}
    """
    load_extra("mcp").serve(terminal, with_run=not no_run)
    return 0


# -------------------------------------------------------------- cli/pair ----
# avault init, pair, drill, recover: by which a vault, a machine and the operator's phone meet.
#
# The talk with the operator is cli/ceremony's, and the work itself the keyholder's (daemon/talks).


PAIRING = (
    option("--bunker"),
    option("--relay", "relays", multiple=True),
    option("--qr"),
    option("--timeout", default="10m"),
    option("--no-drill", is_flag=True),
)


@command("init", option("--signer-npub"), option("--name"), option("--yes", is_flag=True), *PAIRING)
def cmd_init(
    terminal: Terminal,
    signer_npub: str | None,
    name: str | None,
    yes: bool,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault init [--signer-npub NPUB | --yes] [--bunker URI|-] [--relay URL]…
                   [--name NAME] [--qr FILE.png] [--timeout D] [--no-drill]

    Makes the agent's key and the vault's files, and starts the daemon, open.
    It pairs with the phone first (see: avault pair --help), and takes the
    operator from there: it shows the npub and asks whether it is yours, as
    whoever sees the code first could answer it. --yes does not ask. With
    --signer-npub it does not pair: do that later, and before the first restart.
    NAME is what the phone shows. NOSTR_NSEC, if it is set, becomes the agent's
    key. Nothing that exists is overwritten.

      avault init
      avault init --signer-npub npub1… --name clawd@db1
    """
    places = terminal.places
    refuse_to_overwrite(places)
    if terminal.is_running():
        raise Unavailable(
            f"a daemon is running for {places.dir}, where no vault is",
            "if it is open, save first: avault export; then: avault daemon stop --force",
        )
    host = socket.gethostname().split(".")[0]
    usual = f"{os.path.basename(os.path.dirname(places.dir))}@{host}"
    name = check_name(
        name or "".join(c if c in NAME_CHARACTERS else "-" for c in usual)[:64].strip()
    )
    for url in relays:
        check_relay(url)
    confirmed = yes or signer_npub is not None
    if not confirmed and not bunker and not sys.stdin.isatty():
        raise Usage(
            "nobody is here to say whether the operator is the right one",
            "in a terminal: avault init; in a script: --signer-npub NPUB, and then avault pair; "
            "or --yes",
        )
    new = [path for path in (places.dir, places.state) for path in missing(path)]
    call.farewell = "stopped; nothing was made"
    talk = Ceremony(terminal, qr)
    try:
        make_private_directory(places.dir)
        start_daemon(places, background=True)
        fields = {
            "name": name,
            "relays": list(relays),
            "signer_npub": signer_npub,
            "timeout": parse_duration(timeout),
        }
        fields["confirm"] = not confirmed and sys.stdin.isatty()
        private = {"nsec": os.environ.get("NOSTR_NSEC"), "bunker": read_bunker(bunker)}
        answer = talk.request("init", private, **fields)
    except BaseException as error:
        if os.path.lexists(places.file("avault.enc")):
            made = "the vault is made and open, but nobody has shown yet that the phone opens it"
            call.farewell = f"stopped; {made}: avault pair"
            if isinstance(error, AvaultError):
                say(made)
                say(f"operator: {read_sealed('nsec', places.file('nsec.enc'))['operator']}")
                error.hint = "if that operator is you, before the daemon ends: avault pair"
        else:
            if terminal.is_running():
                end("stop", terminal, force=True)
            remove_made(new)
        raise
    say("the vault is open; keep a secret with: avault set GROUP --key KEY")
    say(f"agent: {answer['agent_npub']}")
    say(f"operator: {answer['signer_npub']}")
    if not answer["paired"]:
        warn(
            "nobody has shown yet that the phone opens this vault: if the daemon ends now, its "
            "key is lost",
            "pair it now: avault pair",
        )
    elif not no_drill:
        talk.drill()
    return 0


@command("pair", option("--replace", is_flag=True), *PAIRING)
def cmd_pair(
    terminal: Terminal,
    replace: bool,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault pair [--bunker URI|-] [--relay URL]… [--replace] [--qr FILE.png]
                   [--timeout D] [--no-drill]

    Pairs this machine with the operator's signer app. Shows a QR code on a
    terminal, and prints the nostrconnect:// URI on stdout: scan or paste it in
    Amber, nsec.app, Primal or any NIP-46 signer. Or takes a bunker:// URI that
    the signer shows (- reads it from stdin, as it holds a secret).

    Then the phone opens this vault once, to prove that it can, and the drill
    follows: you reject a request. An app that approves by itself cannot.

      avault pair
      avault pair --bunker -
      avault pair --replace --relay wss://relay.example.com
    """
    terminal.need_daemon()
    call.farewell = "stopped; this machine is paired as it was before"
    talk = Ceremony(terminal, qr)
    fields = {"relays": list(relays), "replace": replace, "timeout": parse_duration(timeout)}
    talk.request("pair", {"bunker": read_bunker(bunker)}, **fields)
    return 0 if no_drill else talk.drill()


@command("drill")
def cmd_drill(terminal: Terminal) -> int:
    """usage: avault drill

    Asks the phone for something that you reject: an app that approves by itself
    cannot. It opens nothing. Pairing ends with it; do it again when the app was
    changed, or when an approval came faster than you can tap.
    """
    return Ceremony(terminal, None, number="").drill(is_alone=True)


@command("recover", option("--agent"), option("--signer-npub"), *PAIRING)
def cmd_recover(
    terminal: Terminal,
    agent: str | None,
    signer_npub: str | None,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault recover [--agent NPUB --signer-npub NPUB] [--bunker URI|-] [--relay URL]…
                      [--qr FILE.png] [--timeout D] [--no-drill]

    Opens a copy of a vault directory on a machine that never had it: pairs, has
    the phone open nsec.enc, and writes what this machine needs from then on.
    Compare the two npubs with what you know: this machine has nothing to
    compare them with.

      git clone … ~/clawd && avault recover
    """
    places = terminal.places
    path = places.file("nsec.enc")
    if not is_file_there(path):
        raise NotFound(
            f"no vault in {places.dir}", "copy or clone one there, or name another with --dir"
        )
    content = read_sealed("nsec", path)
    if os.path.lexists(places.own("unlock.json")):
        raise AvaultError(
            "this machine knows the vault already",
            "open it with: avault unlock, or pair anew with: avault pair --replace",
        )
    say(f"agent:    {content['agent']}")
    say(f"operator: {content['operator']}")
    say(
        "this machine has never opened this vault: no pin exists yet that would show an older "
        "copy, or another one"
    )
    if (agent is None) != (signer_npub is None):
        raise Usage("--agent and --signer-npub go together")
    if agent is None and not confirm("avault: are these your agent and your operator?"):
        raise Denied(
            "not confirmed", "compare, then: avault recover --agent NPUB --signer-npub NPUB"
        )
    if signer_npub is not None and agent is not None:
        wanted = (to_npub(parse_npub(agent)), to_npub(parse_npub(signer_npub)))
        if wanted != (content["agent"], content["operator"]):
            raise Denied(
                "the vault is of another agent or operator",
                "nothing was asked; is this the right copy?",
            )
    terminal.need_daemon()
    talk = Ceremony(terminal, qr)
    fields = {
        "relays": list(relays),
        "agent": content["agent"],
        "operator": content["operator"],
        "timeout": parse_duration(timeout),
    }
    talk.request("recover", {"bunker": read_bunker(bunker)}, **fields)
    return 0 if no_drill else talk.drill()


def missing(path: str) -> list[str]:
    """The directories that are to be made for a path, the innermost first."""
    found = []
    while not os.path.lexists(path):
        found.append(path)
        path = os.path.dirname(path)
    return found


def remove_made(directories: list[str]) -> None:
    """Remove directories that were made for nothing, unless more is in them than a daemon notes."""
    for directory in directories:
        for name in ("python", "socket"):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))
        with contextlib.suppress(OSError):
            os.rmdir(directory)


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


# ------------------------------------------------------------ cli/signer ----
# avault signer: the other side of NIP-46, a phone in a terminal.
#
# For an operator without a phone, for tests, and for the demo. It keeps the operator's key in memory,
# and asks for each decrypt. Run it on another machine than the agent's, or it protects nothing.


@command(
    "signer",
    argument("uri", required=False),
    option("--new", "is_new", is_flag=True),
    option("--nsec-file"),
    option("--relay", "relays", multiple=True),
    option("--state"),
    option("--yes", is_flag=True),
    option("--passphrase-file"),
)
def cmd_signer(
    terminal: Terminal,
    uri: str | None,
    is_new: bool,
    nsec_file: str | None,
    relays: tuple[str, ...],
    state: str | None,
    yes: bool,
    passphrase_file: str | None,
) -> int:
    """usage: avault signer --nsec-file F [--relay URL]… [--state DIR] [--yes]
                     [--passphrase-file F] [URI]
       avault signer --new [--nsec-file F] [--passphrase-file F]

    A NIP-46 bunker in a terminal: the phone, for an operator without one. It
    prints its bunker:// URI, or answers a nostrconnect:// URI, and asks for each
    decrypt. F holds an nsec or an ncryptsec (NIP-49). --state keeps its pairings
    (default: in the state directory). --yes approves everything: for tests.
    Run it on another machine than the agent's, or it protects nothing.

    --new makes an operator's key, writes it to F, or to stdout, and ends; with
    --passphrase-file it is an ncryptsec. Nothing that exists is overwritten.

      avault signer --new --nsec-file operator.nsec
      avault signer --nsec-file operator.nsec 'nostrconnect://…'
    """
    if is_new:
        return write_operator(nsec_file, passphrase_file)
    if not nsec_file:
        raise Usage(
            "no operator's key is named",
            "avault signer --nsec-file FILE; make one with: avault signer --new --nsec-file FILE",
        )
    harden("avault-phone")
    keys = read_operator(nsec_file, passphrase_file)
    state = (
        os.path.abspath(os.path.expanduser(state))
        if state
        else os.path.join(state_home(), f"signer-{public_hex(keys)[:16]}")
    )
    chosen = [check_relay(url) for url in relays]

    async def approve(client: str, sentence: str) -> bool:
        put(f"{client} asks: {sentence}\n")
        if yes:
            put("approved, as --yes says\n")
            return True
        if sys.stdin.isatty():
            import termios

            # what was typed before the question is no answer to it
            termios.tcflush(0, termios.TCIFLUSH)
        words = {"y": True, "yes": True, "n": False, "no": False}
        answer = ""
        while answer not in words:
            put("approve? [y/n] ")
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                put("\nnobody is here to say; that is not answered\n")
                os._exit(1)
            answer = line.strip().lower()
        approved = words[answer]
        put(("approved" if approved else "rejected") + "\n")
        return approved

    async def run() -> None:
        pairings = Pairings(state, chosen)
        bunker = Bunker(keys, pairings, approve, lambda text: put(text + "\n"))
        operator = to_npub(public_hex(keys))
        await bunker.run(uri, lambda: put(f"operator: {operator}\n{pairings.uri()}\n"))

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        os._exit(130)  # a thread may still wait for a line
    return 0


def write_operator(path: str | None, passphrase_file: str | None) -> int:
    """Make an operator's key, in a file (0600) or on stdout; raises Usage where the file exists."""
    if path and os.path.lexists(path := os.path.abspath(os.path.expanduser(path))):
        raise Usage(
            f"{path} is there already, and is not overwritten", "name another file, or use that one"
        )
    harden("avault-phone")
    text, npub = make_operator(passphrase_file)
    if path:
        write_file(path, f"{text}\n".encode())
        say(
            f"wrote {path}; whoever has it opens every vault that is made for it: "
            "keep a copy off line"
        )
    else:
        put(f"{text}\n")
    say(f"operator: {npub}")
    return 0


# ------------------------------------------------------------ cli/status ----
# avault status: what the daemon does, and what it waits for.


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
    """The daemon's status, or what stands for it where none runs.

    The hint is for this very vault.
    """
    try:
        status = ask_daemon(places, "status", **fields)
    except NoDaemon:
        refuse_elses(places)
        status = describe_stopped(places)
    status["hint"] = call.complete(status["hint"]) if status["hint"] else None
    return status


def describe_stopped(places: Places) -> dict[str, Any]:
    """The status where no daemon runs, as far as the files tell.

    Raises AvaultError where we may not look at them.
    """
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
    "pid", "keyholder_pid", "listening", "asks_again", "agent_npub", "signer_npub", "name",
    "code", "groups", "secrets",
    "proven", "since", "relays", "waiting", "signer_approves_by_itself", "hint", "error",
    "warnings", "version",
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
    """click's commands: those that `words` begin with; all where they name none."""
    chosen = {name for name in COMMANDS if name.partition(" ")[0] in words} or set(COMMANDS)

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
            there = list(self.commands)
            if context.parent is None:
                there = list(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS))
            raise no_command(words, there, context.command_path)

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
    for name in (each for each in COMMANDS if each in chosen):
        function, parameters, interspersed = COMMANDS[name]
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
    """What the room `fast` left: one of our own processes, or a command by way of click."""
    argv = sys.argv[1:]
    if argv[:1] == ["custodian"]:
        main_custodian(argv[1:])
    if argv[:1] == ["runner"]:
        main_runner(argv[1:])
    if argv[:1] == ["keyholder"]:
        main_keyholder(argv[1:])
    if argv[:1] == ["supervisor"]:
        main_supervisor(argv[1:])
    sys.exit(run_command(argv))


if __name__ == "__main__":
    main()
