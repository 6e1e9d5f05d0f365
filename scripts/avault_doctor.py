"""avault doctor: looks at what has to be right for the vault to open, and names the command that mends what is not.

It works in every state (no vault, no daemon, locked, waiting, open, damaged files), asks nothing of the phone, and
changes nothing without --fix. Each check is a function that yields what it finds; the table at the end has their order.
"""

from __future__ import annotations

import asyncio
import binascii
import importlib.metadata
import json
import os
import secrets
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import avault_git
import nostr_sdk
from avault_import import Audit, Held, usual_files
from avault_service import Service, is_lingering, is_listening, look_at, own_name

import avault
from avault import (
    FIELDS,
    OUR_FILES,
    RPC_KIND,
    AvaultError,
    Connection,
    Fields,
    NoDaemon,
    NotFound,
    Pairing,
    Places,
    Tampered,
    Terminal,
    Usage,
    argument,
    call,
    check_recovery,
    clean_directory,
    command,
    complete_attributes,
    decode_file,
    encode_hints,
    encrypt,
    explain_absence,
    field,
    find_unit,
    is_booted,
    is_clock_unsynchronised,
    lock_directory,
    option,
    own_command,
    parse_npub,
    printable,
    public_hex,
    put,
    read_file,
    read_hints,
    read_sealed,
    read_vault,
    say,
    state_home,
    vault_id,
    write_file,
)

PATIENCE = 5.0  # seconds that the daemon has for an answer
RELAY_TIME = 10.0  # seconds that the relays have, all at once
KEYCHAIN_TIME = 30.0  # seconds that the keychain has, which may be slow to start
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

    def ask(self, op: str, patience: float = PATIENCE, **fields: Any) -> dict[str, Any]:
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
        return avault.has_vault(self.places)

    def sealed(self) -> dict[str, Any]:
        """What names vault, agent and operator: unlock.json, else nsec.enc, whichever can be read. Raises AvaultError."""
        try:
            return read_sealed("unlock", self.places.own("unlock.json"))
        except AvaultError:
            return read_sealed("nsec", self.places.file("nsec.enc"))


# Files


def check_vault(patient: Patient) -> Iterator[Finding]:
    """The vault directory: private, and its files whole and of one vault."""
    places = patient.places
    if not patient.has_vault():
        yield Finding("bad", f"no vault in {places.dir}", "avault init, or name one with --dir")
        return
    yield from check_private(places.dir)
    identities = {}
    for name, read in READERS.items():
        try:
            identities[name] = read(places.file(name))
        except AvaultError as error:
            fix = partial(write_hints, patient) if name == "nip46.json" and can_write_hints(patient) else None
            yield Finding("bad", error.message, "avault doctor --fix" if fix else bring_back(places, name), fix)
    try:
        check_payloads(places.file("avault.enc"), read_vault(places))
    except AvaultError as error:
        yield Finding("bad", error.message, error.hint if error.hint == "avault sync" else bring_back(places, "avault.enc"))
    if "nsec.enc" in identities and patient.has("unlock.json") and not patient.is_open():  # an open vault has looked itself
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
            f"the vault is on {kind}, where other machines may write it, and where permissions may not hold",
            "keep it on a disk of this machine, and share it by git",
        )
    yield Finding("ok", f"{places.dir} is whole and private")


FROM_BACKUP = "take it from git history or from a backup"
LOOKS_BACK = 50  # commits of a file


def bring_back(places: Places, name: str) -> str:
    """The command that puts the latest whole version of a file back that git has; else where to look."""
    path = places.file(name)
    try:
        repository = avault_git.Repository(places.dir)
        inside = repository.paths[name]
        for commit in repository.run("rev-list", "-n", str(LOOKS_BACK), "HEAD", "--", inside).decode().split():
            found = repository.tree(commit).get(inside)
            if found and is_whole(name, path, repository.blob(found)):
                return f"git -C {shlex.quote(repository.top)} checkout {commit[:12]} -- {shlex.quote(inside)}"
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
    return load_pairing(patient) is not None and not os.path.islink(patient.places.file("nip46.json"))


def write_hints(patient: Patient) -> str:
    """Write nip46.json from what this machine knows; raises AvaultError."""
    content, pairing, path = patient.sealed(), load_pairing(patient), patient.places.file("nip46.json")
    relays = pairing.relays if pairing else []
    write_file(path, encode_hints(parse_npub(content["agent"]), parse_npub(content["operator"]), relays, content["name"]))
    return f"wrote {path}"


def read_recovery_names(path: str) -> tuple[str, str]:
    """Agent and operator as nsec.enc names them; raises AvaultError."""
    content = read_sealed("nsec", path)
    return content["agent"], content["operator"]


def read_hinted_names(path: str) -> tuple[str, str]:
    """Agent and operator as nip46.json names them; raises AvaultError."""
    content = read_hints(path)
    return content["agent_npub"], content["signer_npub"]


READERS = {"nsec.enc": read_recovery_names, "nip46.json": read_hinted_names}


def check_private(directory: str) -> Iterator[Finding]:
    """A directory that should be ours alone."""
    try:
        info = os.stat(directory)
    except OSError as error:
        yield Finding("bad", f"cannot look at {directory}: {error.strerror}")
        return
    if info.st_uid != os.getuid():
        is_home = os.path.realpath(directory).startswith(os.path.realpath(os.path.expanduser("~")) + os.sep)
        give_back = f"sudo chown -R {os.getuid()} {shlex.quote(directory)}" if os.getuid() and is_home else None
        yield Finding("bad", f"{directory} belongs to another user", give_back)
    elif mode := stat.S_IMODE(info.st_mode) & 0o077:
        text = f"others can enter {directory} ({stat.S_IMODE(info.st_mode):04o})"
        yield Finding("bad", text, f"chmod 700 {shlex.quote(directory)}", partial(make_private, directory, mode))


def make_private(path: str, mode: int) -> str:
    """Take the rights of others away from a file or directory."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~mode)
    return f"made {path} private"


def check_payloads(path: str, data: bytes) -> None:
    """Raise Tampered unless avault.enc is made of NIP-44 v2 payloads, one a line: what can be told without the key."""
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            payload = binascii.a2b_base64(line, strict_mode=True)
        except binascii.Error:
            payload = b""
        if len(payload) < 99 or payload[0] != 2 or not data.endswith(b"\n"):
            what = "holds a merge conflict of git's" if line.startswith((b"<<<<<<<", b"=======", b">>>>>>>")) else "is damaged"
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
        yield Finding("bad", f"{path} does not keep git from mixing ciphertexts", "avault doctor --fix", add)


JSON_KINDS = ("unlock", "pairing", "pin", "machine", "offered", "keychain", "recovery", "log")
KINDS = {f"{kind}.json": kind for kind in JSON_KINDS if kind in FIELDS}


def check_state(patient: Patient) -> Iterator[Finding]:
    """The state directory: this machine's own part, which is in no repository."""
    places = patient.places
    if not os.path.isdir(places.state):
        if patient.has_vault():
            yield Finding("bad", f"this machine has never opened this vault: there is no {places.state}", "avault recover")
        else:
            yield Finding("off", "no vault, no state")
        return
    yield from check_private(places.state)
    for name in sorted(os.listdir(places.state)):
        yield from check_own_file(places.own(name))
    try:
        ours, theirs = (read_sealed(*each) for each in (("unlock", places.own("unlock.json")), ("nsec", places.file("nsec.enc"))))
        if any(ours[name] != theirs[name] for name in ("vault", "agent", "operator")):
            yield Finding(
                "bad",
                f"{places.state} is of another vault than {places.dir}",
                "put the right directory back; if it is right now: avault forget, then avault recover",
            )
    except AvaultError:
        pass  # said already
    if filesystem_of(places.state) in ("tmpfs", "ramfs"):
        yield Finding(
            "warn", f"{places.state} is in memory: a reboot removes the pairing", "set XDG_STATE_HOME to a place on a disk"
        )
    yield Finding("ok", f"{places.state} is whole and private")


def check_own_file(path: str) -> Iterator[Finding]:
    """A file of the state directory: private, and whole. One that is gone meanwhile was somebody's temporary file."""
    name = os.path.basename(path)
    try:
        mode = os.lstat(path).st_mode
        if (open_to := stat.S_IMODE(mode) & 0o077) and not stat.S_ISLNK(mode):
            yield Finding(
                "bad", f"others may read {path}", f"chmod go= {shlex.quote(path)}", partial(make_private, path, open_to)
            )
        if name in KINDS:
            decode_file(KINDS[name], read_file(path), path)
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
    """State of this vault under another name: a directory that was moved or restored has a new id."""
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
            yield Finding("bad", text, "avault doctor --fix", partial(take_over, other, places.state))
            is_new = False
        else:
            text = f"{other} is of another copy of this vault"
            yield Finding("warn", text, f"if that copy is no more: rm -r {shlex.quote(other)}")
    yield Finding(
        "ok" if identity else "off", "no state of this vault under another name" if identity else "no vault to compare with"
    )


def is_state_of(directory: str, identity: str) -> bool:
    """Whether a state directory is that of a vault."""
    try:
        return bool(read_sealed("unlock", os.path.join(directory, "unlock.json"))["vault"] == identity)
    except AvaultError:
        return False


def is_in_use(directory: str) -> bool:
    """Whether a state directory is that of a vault in one of the usual places, or of a daemon that runs."""
    usual = map(os.path.expanduser, ("~/clawd/.avault", "~/.openclaw/workspace/.avault"))
    if os.path.basename(directory) in {vault_id(path) for path in usual if os.path.isdir(path)}:
        return True
    try:
        return is_listening([os.fsdecode(read_file(os.path.join(directory, "socket")))])
    except AvaultError:
        return False


def take_over(other: str, own: str) -> str:
    """Make another state directory ours: renamed, or where ours was begun already, file by file, unlock.json last."""
    if not os.path.isdir(own):
        os.rename(other, own)
    else:
        for name in sorted(os.listdir(other), key=lambda name: name == "unlock.json"):
            os.replace(os.path.join(other, name), os.path.join(own, name))
        os.rmdir(other)
    avault.sync_directory(os.path.dirname(own))
    return f"took {other} over as {own}"


NETWORKED = {
    "9p", "afs", "ceph", "cifs", "drvfs", "fuse.glusterfs", "fuse.rclone", "fuse.sshfs", "nfs", "nfs4", "prl_fs", "smb3", "smbfs",
    "vboxsf", "virtiofs",
}  # fmt: skip


def filesystem_of(path: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the file system that a path is on (proc_pid_mountinfo(5)); None where nobody says."""
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


# The daemon


def check_socket(patient: Patient) -> Iterator[Finding]:
    """Where the daemon listens, or is going to."""
    path = patient.places.socket
    directory, limit = os.path.dirname(path), 107 if sys.platform == "linux" else 103
    if patient.status:
        used = patient.status["socket"]
        yield Finding("ok", used if used == path else f"{used}, found by what the daemon recorded; usual is {path}")
    elif len(os.fsencode(path)) > limit:
        yield Finding("bad", f"the socket's path is longer than {limit} bytes: {path}", "choose a shorter one with AVAULT_SOCKET")
    elif directory != patient.places.state and not is_ours(directory):
        text = f"{directory} is not a directory that only we can write to"
        yield Finding("bad", text, "choose another place with AVAULT_SOCKET")
    elif os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        yield Finding("bad", f"{path} is there, and is no socket", f"rm {shlex.quote(path)}, or AVAULT_SOCKET")
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
    if status["version"] != avault.__version__:
        text = f"the daemon is avault {status['version']}, and this is {avault.__version__}"
        unit, shown = find_unit(patient.places) or (None, {})
        is_its_own = shown.get("MainPID") == str(status["pid"])
        yield Finding(
            "bad", text, unit.command("restart") if unit and is_its_own else "avault daemon stop && avault daemon start -b"
        )
    if status["error"]:
        yield Finding("bad", f"locked: {status['error']['message']}", status["error"]["hint"] or status["hint"])
    for text in status["warnings"]:
        yield Finding("warn", printable(text, 300))
    said = {
        "unlocked": f"open, {status['secrets']} secret(s)",
        "waiting": "waits for the operator's approval on the phone",
        "locked": "locked; the phone is asked by: avault unlock",
        "unpaired": "locked, and not paired",
    }
    yield Finding("ok", f"avault {status['version']} (PID {status['pid']}), {said.get(status['state'], status['state'])}")


def check_python(patient: Patient) -> Iterator[Finding]:
    """The interpreter, the one that the daemon was started with, and nostr-sdk in the version that avault was made for."""
    wanted = read_file(avault.__file__).partition(b'"nostr-sdk==')[2].partition(b'"')[0].decode()
    found = importlib.metadata.version("nostr-sdk")
    if found != wanted:
        yield Finding(
            "bad", f"nostr-sdk is {found}, and avault needs {wanted}", f"{sys.executable} -m pip install nostr-sdk=={wanted}"
        )
    if patient.has("python"):
        recorded = read_file(patient.places.own("python")).decode(errors="replace")
        if not (os.path.isfile(recorded) and os.access(recorded, os.X_OK)):
            yield Finding("bad", f"{printable(recorded)}, which the daemon ran with, is gone", "avault daemon start -b")
    yield Finding("ok", f"Python {sys.version.split()[0]}, nostr-sdk {found}")


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Whether somebody keeps the clock right: relays and signers drop what seems too old or too new."""
    if is_clock_unsynchronised():
        yield Finding(
            "warn", "nothing keeps this machine's clock right: relays and phones drop what is off", "timedatectl set-ntp true"
        )
    elif sys.platform == "linux":
        yield Finding("ok", "the clock is kept right")
    else:
        yield Finding("off", "this system does not tell whether the clock is kept right")


# The phone


def check_pairing(patient: Patient) -> Iterator[Finding]:
    """Whether this machine has a signer, for this vault."""
    if not patient.has("pairing.json"):
        if not patient.has_vault():
            yield Finding("off", "no vault to pair for")
        else:
            known = patient.has("unlock.json")
            yield Finding("bad", "this machine is not paired with a signer", "avault pair" if known else "avault recover")
        return
    try:
        pairing = Pairing.load(patient.places)
        content = patient.sealed()
    except AvaultError as error:
        yield bad(error)
        return
    if pairing and (pairing.agent, pairing.operator) != (parse_npub(content["agent"]), parse_npub(content["operator"])):
        text = "this machine is paired for another agent or operator than the vault's"
        yield Finding("bad", text, "put the right directory back; if it is right now: avault pair --replace")
    else:
        yield Finding("ok", f"paired with the signer of {content['operator']}")


def check_drill(patient: Patient) -> Iterator[Finding]:
    """Whether the signer asks a person, as the drill found."""
    pairing = load_pairing(patient)
    if not pairing:
        yield Finding("off", "not paired")
    elif pairing.by_itself:
        text = "the signer approves by itself: whoever has this disk opens the vault"
        yield Finding("bad", text, "have the app ask every time (references/signers.md), then: avault drill")
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
        yield Finding("bad", text, "avault pair --replace" if patient.has("pairing.json") else "avault pair")


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
    outcomes = asyncio.run(probe_all(urls))
    works = any(problem is None for problem, _ in outcomes)
    for url, (problem, seconds) in zip(urls, outcomes, strict=True):
        more = {"url": url, "ms": round(seconds * 1000) if problem is None else None}
        if problem is None:
            yield Finding("ok", f"{url} takes a message and gives it back in {more['ms']} ms", more=more)
        else:
            state, hint = (
                ("warn", None) if works else ("bad", "check the network, or choose others: avault pair --replace --relay URL")
            )
            yield Finding(state, f"{url} {problem}", hint, more=more)


async def probe_all(urls: list[str]) -> list[tuple[str | None, float]]:
    """For each relay what is wrong with it, or None, and the seconds that a message took; all at once, within RELAY_TIME."""
    nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())  # for NIP-42
    return await asyncio.gather(*(probe(url) for url in urls))


async def probe(url: str) -> tuple[str | None, float]:
    """Send a message of the kind that NIP-46 uses, to ourselves, under a key of the moment; and wait until it is back."""
    keys = nostr_sdk.Keys.generate()
    address, limit = nostr_sdk.RelayUrl.parse(url), timedelta(seconds=RELAY_TIME)
    client = nostr_sdk.ClientBuilder().authenticator(nostr_sdk.SignerAuthenticator(keys)).build()
    stage = "does not answer"
    try:
        async with asyncio.timeout(RELAY_TIME):
            await client.add_relay(address)
            relay = await client.relay(address)
            stream = client.notifications()
            await relay.try_connect(timeout=limit)
            stage = "takes no subscription"
            mine = nostr_sdk.Filter().kind(nostr_sdk.Kind(RPC_KIND)).pubkey(keys.public_key())
            await client.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="avault")
            await heard(stream, lambda message: bool(message.is_END_OF_STORED_EVENTS()))
            stage = "takes no message"
            text = encrypt(keys, public_hex(keys), secrets.token_hex(300))
            builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), text)
            event = builder.tags([nostr_sdk.Tag.public_key(keys.public_key())]).finalize(keys)
            sent = time.monotonic()
            await relay.send_event(event, ok_timeout=limit)
            stage = "does not deliver what it takes"
            await heard(stream, lambda message: bool(message.is_EVENT_MSG() and message.event.id() == event.id()))
            return None, time.monotonic() - sent
    except TimeoutError:
        return stage, 0.0
    except (AvaultError, nostr_sdk.NostrSdkError) as error:
        return f"{stage}: {printable(str(error).strip(QUOTES))}", 0.0
    finally:
        await client.shutdown()


async def heard(stream: Any, wanted: Callable[[Any], bool]) -> None:
    """Wait for a message of the relay; raises AvaultError when it closes the subscription, but not to ask who we are."""
    while notification := await stream.next():
        message = notification.message.as_enum() if notification.is_MESSAGE() else None
        if message and wanted(message):
            return
        if message and message.is_CLOSED() and not message.message.startswith("auth-required:"):
            raise AvaultError(message.message)


QUOTES = "'\""  # which the library puts around what a relay says


# Around the vault


def check_keychain(patient: Patient) -> Iterator[Finding]:
    """Whether this machine's keychain opens the vault, and whether it did."""
    if not patient.has("keychain.json"):
        yield Finding("off", "the phone opens this vault, and no keychain")
        return
    text = "this machine's keychain opens the vault, without the phone"
    try:
        answer = patient.ask("keychain", KEYCHAIN_TIME, action="status")
    except AvaultError:
        answer = {}
    if answer.get("outcome") in ("not_found", "denied", "unavailable", "error"):
        text = f"the keychain is to open this vault, and does not: {printable(answer.get('detail') or answer['outcome'])}"
        yield Finding("bad", text, "avault keychain status")
    else:
        yield Finding("warn", text, "if that is not meant: avault keychain disable")


def check_git(patient: Patient) -> Iterator[Finding]:
    """Whether what is written is committed and published; see avault_git.py."""
    directory = patient.places.dir
    if not patient.has_vault():
        yield Finding("off", "no vault")
        return
    facts = avault_git.examine(directory)
    said = (patient.status or {}).get("git") or {}
    for each in facts["problems"]:
        if facts["merge_driver"] is False and each["hint"] == "avault doctor --fix":

            def mend() -> str:
                avault_git.set_up(directory)
                return "had git merge the vault by key"

            yield Finding("bad", each["problem"], each["hint"], mend)
        else:
            yield Finding("bad", each["problem"], each["hint"])
    known = {each["problem"] for each in facts["problems"]}
    if said.get("state") in ("failed", "refused", "conflict") and said.get("reason") not in known:
        yield Finding("bad", f"the last commit failed: {printable(said.get('reason'))}", said.get("hint") or "avault sync")
    elif said.get("push") in ("failed", "refused", "rejected"):
        yield Finding("bad", f"the last push failed: {printable(said.get('push_reason'))}", said.get("hint") or "avault sync")
    if not facts["repository"]:
        yield Finding("off", "the vault is in no git repository: its history is not kept")
    elif facts["ignored"]:
        yield Finding("off", f"{facts['repository']} ignores the vault: its history is not kept")
    else:
        published = f", published to {facts['upstream']}" if facts["upstream"] else ", published nowhere"
        yield Finding("ok", f"committed in {facts['repository']}{published}")


def check_service(patient: Patient) -> Iterator[Finding]:
    """Whether the daemon comes back after a reboot, by a service of avault's own."""
    services = [Service(patient.places, system, own_name()) for system in (False, True)]
    installed = [service for service in services if os.path.lexists(service.path)]
    if not installed:
        hint = "avault service install" if is_booted() and patient.has_vault() else None
        yield Finding("off", "no service is installed: after a reboot, somebody has to start the daemon", hint)
        return
    if len(installed) > 1:
        yield Finding("bad", "a service of the user's and one of the system's start the same daemon", "avault service uninstall")
    for service in installed:
        found, again = look_at(service), f"avault service install{' --system' if service.system else ''}"
        if not found["current"]:
            yield Finding("warn", f"{service.path} is not as avault would write it now", again)
        if not found["enabled"]:
            yield Finding("bad", f"{service.name} is not enabled: it does not start at boot", again)
        if found["active"] in ("failed", "inactive") and not patient.status:
            reset = f"{service.command('reset-failed')} && " if found["active"] == "failed" else ""
            yield Finding("bad", f"{service.name} is {found['active']}", reset + service.command("start"))
        yield Finding(
            "ok", f"{service.path}{', ' + found['active'] if found['active'] else '; systemd does not run here to ask'}"
        )


def check_lingering(patient: Patient) -> Iterator[Finding]:
    """Whether a logout is the end of the daemon (loginctl(1))."""
    user = own_name()
    is_service = os.path.lexists(Service(patient.places, False, user).path)
    is_session = bool(patient.status) and patient.places.socket.startswith("/run/user/")
    if not is_booted() or not (is_service or is_session):
        yield Finding("off", "no logout of yours ends the daemon")
    elif is_lingering(user):
        yield Finding("ok", "lingering is on: the daemon outlives your logout")
    else:
        text = "lingering is off: the daemon ends when you log out" + (", and starts when you log in" if is_service else "")
        yield Finding("bad", text, f"sudo loginctl enable-linger {user}")


def check_plaintext(patient: Patient) -> Iterator[Finding]:
    """Secrets in clear, where they usually stand: by their values while the vault is open, else by what they look like."""
    hint = "see where: avault audit; take them in: avault migrate --remove"
    if patient.is_open():
        words = own_command("audit", "--json", "--dir", patient.places.dir)  # a process of its own: no value comes in here
        done = subprocess.run(words, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=AUDIT_TIME)
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
        yield Finding("warn" if judged else "bad", f"{len(found)} secret(s) in clear in {where}{judged}", hint)
    else:
        yield Finding("ok", f"no secret in clear in {len(files)} usual file(s){judged}")


def check_swap(patient: Patient) -> Iterator[Finding]:
    """Whether what the keyholder knows may be written to a disk as it is."""
    plain = [area for area in swap_areas() if not is_sealed_off(area)]
    pid = (patient.status or {}).get("keyholder_pid")
    if not plain:
        yield Finding("ok" if sys.platform == "linux" else "off", "no swap that is not encrypted, or not looked at")
    elif pid and never_swaps(pid):
        yield Finding("ok", "swap is on, but not for the daemon")
    else:
        text = f"swap is not encrypted: {', '.join(plain)}; secrets may be written there"
        yield Finding("warn", text, "avault service install, whose daemon is not swapped; or encrypt the swap")


def swap_areas(swaps: str = "/proc/swaps") -> list[str]:
    """The devices and files that are swapped to (proc(5))."""
    try:
        with open(swaps, encoding="utf-8", errors="surrogateescape") as file:
            return [line.split()[0].encode().decode("unicode_escape") for line in file.readlines()[1:]]
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


# The command

CHECKS: dict[str, Callable[[Patient], Iterator[Finding]]] = {
    "vault": check_vault,
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


def examine(check: Callable[[Patient], Iterator[Finding]], patient: Patient) -> list[Finding]:
    """What a check finds: that all is well, or its troubles without that. A check that fails is a trouble."""
    found: list[Finding] = []
    try:
        found += check(patient)
    except AvaultError as error:
        found.append(bad(error))
    except Exception as error:
        found.append(Finding("bad", f"this could not be looked at: {type(error).__name__}"))
    return [each for each in found if each.state in ("bad", "warn") or each.more] or found


def render(name: str, finding: Finding) -> str:
    """A finding for a person."""
    line = f"{finding.state:<4} {name}: {printable(finding.text, 1000)}\n"
    return line + (f"     hint: {printable(call.complete(finding.hint), 1000)}\n" if finding.hint else "")


@command("doctor", argument("check", nargs=-1), option("--fix", is_flag=True), option("--offline", is_flag=True))
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
    avault.refuse_elses(terminal.places)
    patient = Patient(terminal.places, offline)
    rows, fixed = [], []
    for name in [name for name in CHECKS if name in check or not check]:
        findings = examine(CHECKS[name], patient)
        mended = [done for finding in findings if fix and finding.fix and (done := mend(finding.fix))]
        if mended:
            for done in mended:
                say(f"fixed: {done}")
            findings = examine(CHECKS[name], patient)
        fixed += mended
        for finding in findings:
            hint = call.complete(finding.hint) if finding.hint else None
            rows.append({"name": name, "state": finding.state, "text": finding.text, "hint": hint, **finding.more})
            if not terminal.want_json:
                put(render(name, finding))
    count = sum(row["state"] == "bad" for row in rows)
    if terminal.want_json:
        put(json.dumps({"ok": True, "healthy": not count, "checks": rows, "fixed": fixed}, indent=2) + "\n")
    elif count:
        say(f"{count} thing(s) to mend")
    sys.stdout.flush()
    os._exit(1 if count else 0)  # the library's callbacks can crash an interpreter that ends in the usual way


def mend(fix: Callable[[], str]) -> str | None:
    """Do what a finding offers; what it did, or None and why not on stderr."""
    try:
        return fix()
    except (AvaultError, OSError) as error:
        say(f"could not be fixed: {error.message if isinstance(error, AvaultError) else error.strerror}")
        return None
