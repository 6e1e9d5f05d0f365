"""avault_openclaw: OpenClaw's secret provider when the vault is not open, and what sets OpenClaw up to use it.

    provider   `avault openclaw-provider` where the fast door had no answer: asks the phone, with restraint
    OpenClaw   its command line, which is asked for what it knows best: paths, findings, hooks
    command    the file that OpenClaw may execute as a provider
    hook       `avault openclaw install`, `uninstall` and `status`
    plan       from credentials in clear to references
    variables  and from variables in clear to what runs under `avault run`
    remains    what a plan leaves behind: in SQLite's free pages, and in settings that nothing uses any more
    undo       and back
    planning   `avault openclaw plan`
    chats      where the operator can be told that the phone waits

What OpenClaw does and demands was measured on version 2026.9.6; references/openclaw.md has it in short.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from avault_import import is_secret

import avault
from avault import (
    AvaultError,
    Denied,
    Fields,
    Locked,
    NoDaemon,
    NotFound,
    Places,
    Terminal,
    TimedOut,
    Unavailable,
    Usage,
    Waiting,
    ask_daemon,
    check_value,
    command,
    confirm,
    context,
    field,
    make_private_directory,
    option,
    parse_duration,
    printable,
    put,
    read_file,
    read_stdin,
    regex,
    say,
    warn,
    write_file,
)

# -------------------------------------------------------------- provider ----
# OpenClaw runs the provider at each start, reload and audit, gives it two minutes, and kills it when it restarts. So the
# question stays with the daemon, which asks the phone once for all, and pauses after what was in vain.

WAIT = 100.0  # seconds; OpenClaw waits 120 at most


def ask_phone(terminal: Terminal, timeout: float) -> None:
    """Have the operator open the vault, and wait so long; the daemon goes on asking without us, for ten minutes in all.

    Starts the daemon if none runs. Raises Denied, TimedOut, and what else keeps the vault locked.
    """
    terminal.need_daemon()
    with Waiting() as waiting:
        ask_daemon(terminal.places, "unlock", timeout=max(timeout, 0), stay=avault.TOGETHER, progress=waiting)


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
        raise Usage("not a request of OpenClaw's exec secret provider, version 1", "see references/openclaw.md")
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
    deadline = time.monotonic() + (WAIT if seconds is None else seconds)
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
def cmd_unlock(terminal: Terminal, timeout: str | None) -> int:
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


# -------------------------------------------------------------- OpenClaw ----
# Its own command line answers for where things are and what they mean. It takes seconds, as all of OpenClaw starts.


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
        done = subprocess.run([str(self.path), *words], check=False, input=stdin, capture_output=True, text=True)
        if done.returncode not in codes:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit code {done.returncode}"]
            said = " ".join(line.strip() for line in lines if line.strip())
            raise AvaultError(f"openclaw {' '.join(words[:2])} failed: {printable(said, 400)}", "openclaw doctor may say more")
        return done.stdout

    def ask(self, *words: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """The JSON object that a command prints, whatever else it says before."""
        output = self.run(*words, "--json", codes=codes)
        try:
            return dict(json.loads(output[output.index("{") :]))
        except ValueError:
            raise AvaultError(f"openclaw {' '.join(words[:2])} printed no JSON", "avault knows OpenClaw 2026.9.6") from None

    @property
    def config_path(self) -> str:
        """Where openclaw.json is, by OpenClaw's own rules."""
        if not self._config_path:
            self._config_path = os.path.expanduser(self.run("config", "file").strip().splitlines()[-1])
        return self._config_path

    @property
    def config(self) -> dict[str, Any]:
        """openclaw.json as it stands there: JSON5, without what it includes or inherits."""
        if self._config is None:
            text = (
                read_file(self.config_path, 16 << 20).decode("utf-8-sig", "replace") if os.path.exists(self.config_path) else "{}"
            )
            self._config = read_json5(text)
        return self._config

    def forget(self) -> None:
        """Read openclaw.json anew when it is wanted next."""
        self._config = None

    def value(self, *segments: str) -> Any:
        """What stands in openclaw.json under these keys; None for nothing."""
        return reach(self.config, list(segments))


TOKEN = regex(
    r"""(?sx)(?P<space>(?:\s|//[^\n\r\u2028\u2029]*|/\*.*?\*/)+) | (?P<mark>[][{},:]) |
        (?P<string>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*') | (?P<word>[^][\s{},:"'/]+)""",
)
ESCAPE = regex(r"(?s)\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(\r\n|.))")
ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"} | dict.fromkeys("\n\r\u2028\u2029", "")


def read_json5(text: str) -> dict[str, Any]:
    """The object that a JSON5 text (spec.json5.org) holds; raises AvaultError.

    Numbers that JSON does not have come as None, as nobody here needs them.
    """

    def unescape(found: re.Match[str]) -> str:
        if found[1] or found[2]:
            return chr(int(found[1] or found[2], 16))
        return "" if found[3] == "\r\n" else ESCAPED.get(found[3], found[3])

    words: list[str] = []
    raw, position = "", 0
    while position < len(text):
        token = TOKEN.match(text, position)
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
            exact = ESCAPE.sub(unescape, token[0][1:-1]).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            words.append(json.dumps(exact))
        elif token["word"]:
            raw = token[0]
            words.append(raw if re.fullmatch(r"true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", raw) else "null")
    try:
        content = json.loads("".join(words))
    except (ValueError, RecursionError):
        raise refuse_config() from None
    if not isinstance(content, dict):
        raise refuse_config()
    return content


def refuse_config() -> AvaultError:
    """openclaw.json is not what it should be; nothing of it is repeated."""
    return AvaultError("openclaw.json cannot be read", "see what OpenClaw says: openclaw config validate")


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


# --------------------------------------------------------------- command ----
# The file that OpenClaw executes. Its rules: absolute, regular, no symlink, ours (root's does not count), and writable by
# nobody else. Ours: it names its interpreter, as a gateway's PATH leads anywhere.

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
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/share"), "avault", "avault")


def own_script() -> str | None:
    """The script that runs us, if OpenClaw can use it as it is; not one that looks for its interpreter on the PATH."""
    path = os.path.realpath(sys.argv[0])
    if os.path.basename(path) not in ("avault", "avault.py") or refusal(path):
        return None
    with open(path, "rb") as script:
        interpreter = script.readline(256).removeprefix(b"#!").split()
    return path if interpreter and interpreter[0].startswith(b"/") and interpreter[0] != b"/usr/bin/env" else None


def launcher_text() -> bytes:
    """The launcher for this interpreter and this avault.py."""
    program = shlex.quote(os.path.realpath(avault.__file__))
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
        raise AvaultError(f"OpenClaw will not execute {path}: {why}", f"mend that, or remove it: rm {shlex.quote(path)}")
    return path


def is_launcher(path: str) -> bool:
    """Whether the launcher is there as it should be."""
    try:
        return not os.path.islink(path) and read_file(path) == launcher_text() and os.access(path, os.X_OK)
    except AvaultError:
        return False


def name_vault(places: Places) -> list[str]:
    """The options with which avault finds this vault from a gateway, whose environment is another."""
    usual = avault.usual_directory if not (os.environ.get("AVAULT_DIR") or os.environ.get("WORKSPACE")) else None
    return [] if usual and places.dir == usual() else ["--dir", places.dir]


def fixed_environment() -> dict[str, str]:
    """What of our environment leads to this vault's daemon, and is not a gateway's by itself."""
    return {name: os.environ[name] for name in ("XDG_STATE_HOME", "AVAULT_SOCKET") if os.environ.get(name)}


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


# ------------------------------------------------------------------ hook ----

HOOK = "avault-unlock"
FILES = ("HOOK.md", "handler.ts")
ENTRY = ("hooks", "internal", "entries", HOOK)


def hook_source() -> str:
    """The directory that has the hook: installed beside this module, else the checkout's; raises Unavailable."""
    here = os.path.dirname(os.path.realpath(__file__))
    for path in (os.path.join(here, "avault_hooks", HOOK), os.path.join(os.path.dirname(here), "hooks", HOOK)):
        if all(os.path.isfile(os.path.join(path, name)) for name in FILES):
            return path
    raise Unavailable(f"the hook {HOOK} is not here", "keep hooks/ beside scripts/, or: pip install .")


class Hook:
    """The hook in OpenClaw's own directory of hooks, which takes no symlinks."""

    def __init__(self, openclaw: OpenClaw) -> None:
        self.openclaw = openclaw
        self.directory = os.path.join(str(openclaw.ask("hooks", "list")["managedHooksDir"]), HOOK)

    def wanted(self, places: Places, program: str) -> dict[str, bytes]:
        """The files of the hook and what is in them. avault.json says which command avault is."""
        source = hook_source()
        files = {name: read_file(os.path.join(source, name)) for name in FILES}
        words = {"command": [program, *name_vault(places)], "env": fixed_environment(), "config": self.openclaw.config_path}
        return files | {"avault.json": json.dumps({**words, "first": self.first()}).encode() + b"\n"}

    def first(self) -> list[str]:
        """The topmost setting that enabling the hook creates, so that disabling can take it away again."""
        try:
            return list(json.loads(read_file(os.path.join(self.directory, "avault.json")))["first"])
        except (AvaultError, ValueError, TypeError, KeyError):
            missing = (length for length in range(1, len(ENTRY)) if self.openclaw.value(*ENTRY[:length]) is None)
            return list(ENTRY[: next(missing, len(ENTRY))])

    def is_there(self, wanted: dict[str, bytes]) -> bool:
        """Whether all the files are there as they should be."""
        try:
            return not os.path.islink(self.directory) and all(
                read_file(os.path.join(self.directory, name)) == data for name, data in wanted.items()
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
        changed.append(f"enabled the hook {HOOK}; restart the gateway to load it: openclaw gateway restart")
    if terminal.want_json:
        put(json.dumps({"ok": True, "changed": bool(changed), "hook": hook.directory, "command": program}, indent=2) + "\n")
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
            say(f"kept {launcher}: openclaw.json names it as a secret provider, and the gateway would not start without it")
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
    return {str(reach(each, ["command"])) for each in (providers.values() if isinstance(providers, dict) else ())}


@command("openclaw status")
def cmd_status(terminal: Terminal) -> int:
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
    vain = avault.Pauses(terminal.places).read()
    there = hook.is_there(hook.wanted(terminal.places, program))
    found = {
        "config": openclaw.config_path,
        "hook": "installed" if there else "differs" if os.path.lexists(hook.directory) else "absent",
        "enabled": hook.is_enabled(),
        "command": named,
        "problem": refusal(named),
        "provider": "absent"
        if entry is None
        else "current"
        if entry == describe_provider(terminal.places, program)
        else "differs",
        "attempts": vain["in_vain"],
        "asked": avault.render_time(vain["last"]) if vain["in_vain"] else None,
    }
    right = there and found["enabled"] and not found["problem"] and found["provider"] == "current"
    if terminal.want_json:
        put(json.dumps({"ok": True, **found}, indent=2) + "\n")
    else:
        put(render_status(found))
    if not right:
        say("hint: avault openclaw install, then avault openclaw plan --apply")
    return 0 if right else 1


def render_status(found: dict[str, Any]) -> str:
    """Status for a person."""
    lines = [
        f"Configuration: {found['config']}",
        f"Hook: {found['hook']}, {'enabled' if found['enabled'] else 'not enabled'}",
        f"Provider: {found['provider']}",
        f"Command: {found['command']}" + (f": OpenClaw refuses it: {found['problem']}" if found["problem"] else ""),
    ]
    if found["attempts"]:
        lines.append(f"Asked in vain: {found['attempts']} time(s), last {found['asked']}")
    return "".join(line + "\n" for line in lines)


# ------------------------------------------------------------------ plan ----
# `openclaw secrets audit` finds what stands in clear, `openclaw secrets apply` replaces it. Between them avault takes the
# values into the vault, reads them back, and writes the plan, in which there are names only.

PROVIDER = "avault"  # its name in `secrets.providers`
GATEWAY = (
    "the gateway's own: with it in a locked vault the gateway would not start at all. "
    "OpenClaw's own store takes it out of the file: openclaw secrets store set OPENCLAW_GATEWAY_TOKEN"
)
KEY = regex("[A-Za-z_][A-Za-z0-9_]{0,127}")
MAPS = {"providers", "accounts", "personas", "headers", "routes", "mcpServers", "env"}  # of names that users choose
SCAFFOLD = {"models", "providers", "skills", "channels", "plugins", "agents", "entries", "accounts", "personas", "config"}


class Target(Fields):
    """A credential in clear that may become a reference."""

    path: str  # as OpenClaw writes it
    value: str = field(repr=False)
    plan: dict[str, Any]  # its entry in the plan, without the reference
    name: tuple[str, str]  # group and key in the vault
    spare: tuple[str, str]  # another name, for when that one is taken


class Variable(Fields):
    """A secret in clear where OpenClaw takes no reference; `server` is the one that gets it, or "" for all."""

    segments: list[str]
    value: str = field(repr=False)
    name: tuple[str, str]  # group and key in the vault; the key is the variable, as `avault run` names it so
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
                "OpenClaw takes no reference here; with --variables this server runs under avault run, which gives it the value"
            )
        return (
            f"OpenClaw takes no reference here, and all that it runs sees it; --variables takes it out: "
            f"what needs it then runs as avault run --only {'/'.join(self.name)} -- COMMAND"
        )


class Findings(Fields):
    """What `openclaw secrets audit` has found: what can be moved, and what stays with the reason."""

    targets: list[Target] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)  # providers of which a key stays in an auth profile
    variables: list[Variable] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)  # OpenClaw's SQLite files
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)  # those that OpenClaw scrubs, as they are without the key


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
    """Where a credential goes in the vault: openai/API_KEY for models.providers.openai.apiKey; and a spare place."""
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
    places += [(["mcp", "servers", name, "env"], name) for name in (servers if isinstance(servers, dict) else ())]
    found = []
    for segments, server in places:
        variables = reach(config, segments)
        for key, value in variables.items() if isinstance(variables, dict) else ():
            if isinstance(value, str) and KEY.fullmatch(key) and "${" not in value and is_secret(key, value):
                group = re.sub(r"[^A-Za-z0-9._-]", "-", server).lstrip("._-")[:55] or "openclaw"
                found.append(Variable([*segments, key], value, (group, key), (f"{group}-openclaw", key), server))
    return found


def look(openclaw: OpenClaw) -> Findings:
    """What OpenClaw's audit calls plaintext, sorted into what can be moved and what not. Runs no provider."""
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
            found.left[f"{file}: {path[5:]}"] = "a variable; what uses it can run under avault run, or takes a reference"
        elif os.path.realpath(file) != os.path.realpath(openclaw.config_path):
            found.left[f"{file}: {path}"] = "a file that OpenClaw generates; it does so anew when the gateway restarts"
        else:
            segments = parse_path(path)
            value = reach(openclaw.config, segments)
            if (
                isinstance(value, str) and value in names
            ):  # no key, but the name of the profile that has it; OpenClaw's audit does not know
                continue
            if isinstance(value, str) and "${" not in value:
                plan = {"type": target_type(segments), "path": path, "pathSegments": segments}
                found.targets.append(Target(path, value, plan, *names_for(segments)))
            else:
                found.left[path] = "it does not stand in openclaw.json itself, but in a file that this includes"
    found.variables = find_variables(openclaw.config)
    found.stores = [str(file) for file in audit["filesScanned"] if str(file).endswith(".sqlite")]
    return found


# Where an SQLite store of OpenClaw's has auth profiles: table, column, time, row. First the one that all agents share.
STORES = (
    ("config_machine_state", "value_json", "updated_at_ms", "state_key = 'authProfiles.store'"),
    ("auth_profile_store", "store_json", "updated_at", "store_key = 'primary'"),
)


def open_sqlite(file: str, mode: str = "ro") -> contextlib.closing[sqlite3.Connection]:
    """A connection to a database that is there; without a transaction until one is begun."""
    quoted = file.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return contextlib.closing(sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, isolation_level=None, timeout=30))


def read_store(db: sqlite3.Connection) -> tuple[dict[str, Any], int]:
    """What a store has, {"profiles": …}, and which of STORES it is."""
    for number, (table, column, _, row) in enumerate(STORES):
        with contextlib.suppress(sqlite3.Error, ValueError, TypeError, KeyError):
            if found := db.execute(f"SELECT {column} FROM {table} WHERE {row}").fetchone():  # noqa: S608
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
            db.execute(update, (json.dumps(store, separators=(",", ":"), ensure_ascii=False), int(time.time() * 1000)))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise AvaultError(f"{file} cannot be changed: {error}", "stop the gateway, and try again") from None


def add_profile(openclaw: OpenClaw, found: Findings, file: str, profile: str, kind: str) -> None:
    """Sort an auth profile's key in.

    An agent's own store takes references. The store that all agents share takes none from a plan; there the key moves to
    the provider's entry in openclaw.json, and OpenClaw scrubs the profile. That is the same only where the provider has
    no other key.
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
        plan = {"type": form, "path": path, "pathSegments": ["profiles", profile, kind], "agentId": agent}
        found.targets.append(Target(path, value, plan, *names))
        return
    segments = ["models", "providers", provider, "apiKey"]
    there = openclaw.value(*segments)
    keys = {reach(each, ["key"]) or reach(each, ["token"]) for each in profiles.values() if reach(each, ["provider"]) == provider}
    if kind != "key" or keys != {value} or there not in (None, value, profile):
        found.kept.add(provider)
        found.left[path] = (
            f"it is one of several keys for {provider}, or a token, in the store that all agents share, "
            "where OpenClaw takes no references; remove what is not needed: openclaw models auth logout"
        )
    elif there != value and not any(target.plan.get("pathSegments") == segments for target in found.targets):
        plan = {"type": "models.providers.*.apiKey", "path": ".".join(segments), "pathSegments": segments}
        found.targets.append(Target(path, value, plan, *names))
        rest = {name: each for name, each in dict(entry or {}).items() if name != kind}
        found.profiles[profile] = {"file": file, "entry": rest, "kind": kind, "was": profile if there == profile else None}


def settle_names(terminal: Terminal, targets: Sequence[Target | Variable]) -> dict[str, list[str]]:
    """Give each target a name that no other value has, here or in the vault; what an import of them would do.

    Raises Denied where both names of a target are taken.
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
            f"in the vault with another value: {', '.join(answer['replaced'])}", "rename or delete what is there: avault delete"
        )
    return answer


def import_targets(terminal: Terminal, targets: Sequence[Target | Variable], dry_run: bool) -> dict[str, list[str]]:
    """Put the values into the vault; nothing there is replaced."""
    rows = {target.name: target.value for target in targets}
    secrets = [[group, key, check_value(value)] for (group, key), value in rows.items()]
    if not secrets:
        return {"new": [], "same": [], "replaced": []}
    return terminal.ask("import", value={"secrets": secrets, "notes": {}}, replace=False, dry_run=dry_run)


def verify(terminal: Terminal, targets: Sequence[Target | Variable]) -> None:
    """Read back what was imported; raises AvaultError."""
    names = sorted({"/".join(target.name) for target in targets})
    rows = terminal.ask("reveal", groups=[], only=names, **{"for": "openclaw"})["secrets"] if names else []
    kept = {(row["group"], row["key"]): row["value"] for row in rows}
    if wrong := [target.path for target in targets if kept.get(target.name) != target.value]:
        raise AvaultError(f"not as it was in the vault: {', '.join(wrong)}", "nothing was replaced; try again")


def make_plan(found: Findings, provider: dict[str, Any]) -> dict[str, Any]:
    """The plan for `openclaw secrets apply`.

    That takes the keys of each provider in the plan out of the auth profiles, unless it is told not to.
    """
    refs = [{"source": "exec", "provider": PROVIDER, "id": "/".join(target.name)} for target in found.targets]
    moved = {target.plan["pathSegments"][2] for target in found.targets if target.plan["type"] == "models.providers.*.apiKey"}
    return {
        "version": 1,
        "protocolVersion": 1,
        "providerUpserts": {PROVIDER: provider},
        "targets": [{**target.plan, "ref": ref} for target, ref in zip(found.targets, refs, strict=True)],
        "options": {"scrubEnv": True, "scrubAuthProfilesForProviderTargets": not moved & found.kept},
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
    """Let OpenClaw change openclaw.json. Where that fails, the file is as it was; raises AvaultError."""
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
    """Say that nothing was changed; in OpenClaw's own words only where no part of a value can be in them."""
    parts = [value[start : start + 6] for value in values for start in range(max(1, len(value) - 5))]
    said, _, more = error.message.partition(" failed: ")
    message = f"{said} failed" if any(part in more for part in parts) else error.message
    raise AvaultError(f"{message}; openclaw.json is as it was, and the vault has the values", error.hint) from None


def old_copies(config: str, values: list[str]) -> list[str]:
    """The copies of openclaw.json that OpenClaw keeps beside it, where they hold one of these values."""
    directory, name = os.path.split(config)
    found = []
    for each in sorted(os.listdir(directory)):
        path = os.path.join(directory, each)
        if each.startswith(name + ".") and os.path.isfile(path) and not os.path.islink(path):
            text = read_file(path, 16 << 20).decode("utf-8", "replace")
            if any(value in text or json.dumps(value)[1:-1] in text for value in values):
                found.append(path)
    return found


# ------------------------------------------------------------- variables ----
# In two places OpenClaw takes strings only: `env`, for all that the gateway runs, and the variables of a server of the
# Model Context Protocol. A server can run under `avault run`; what an agent's command needs, it gets the same way.


class Reference(Fields):
    """A reference into the vault: the file and the keys under which it stands, and the secret's name."""

    file: str
    segments: list[str]
    id: str

    def __str__(self) -> str:
        return ".".join(self.segments)

    def server(self) -> str | None:
        """The server of the Model Context Protocol whose variable it is, if it is one's."""
        return self.segments[2] if self.segments[:2] == ["mcp", "servers"] and self.segments[3:4] == ["env"] else None


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
        ids = {each.id for each in found if each.segments[:2] == ["models", "providers"] and each.segments[3:] == ["apiKey"]}
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


def wrap_server(places: Places, program: str, server: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """What changes in a server's settings so that it runs under `avault run`, with these secrets."""
    chosen = [word for name in names for word in ("--only", name)]
    words = [*name_vault(places), "run", *chosen, "--", str(server["command"]), *(server.get("args") or [])]
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
        patch.setdefault("mcp", {}).setdefault("servers", {})[name] = wrap_server(places, program, server, names)
    for each in found:
        put_at(patch, each.segments, None)
        moved.variables.append({"path": each.segments, "id": "/".join(each.name)})
    moved.save()
    with all_or_nothing(openclaw, [each.value for each in found]):
        openclaw.run("config", "patch", "--stdin", stdin=json.dumps(patch))


def is_wrapped(places: Places, server: object) -> bool:
    """Whether a server of openclaw.json still runs as `wrap_server` made it."""
    words = reach(server, ["args"])
    return isinstance(words, list) and "run" in words and words[: words.index("run")] == name_vault(places) and "--" in words


# --------------------------------------------------------------- remains ----
# SQLite leaves what was overwritten in the pages that it keeps for later. And an auth profile whose key is gone still has
# settings in openclaw.json, which OpenClaw's doctor then calls incomplete.


def holds(file: str, values: list[str]) -> bool:
    """Whether a database, or its journal, has one of these values somewhere in its bytes."""
    for path in (file, f"{file}-wal", f"{file}-journal"):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as opened:
            data = opened.read()
            if any(form.encode() in data for value in values for form in (value, json.dumps(value)[1:-1])):
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
        raise AvaultError(f"{file} cannot be written anew: {error}", "stop the gateway, and try again") from None


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
            put_at(patch, ["auth", "order", provider], [each for each in order if each != name] or None)
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
            warn(f"values that were moved still stand in clear in {file}: {error.message}", error.hint)
            continue
        if holds(file, values):
            hint = "openclaw secrets audit names what is still stored; the rest goes with its next write"
            warn(f"values that were moved still stand in clear in {file}", hint)
        else:
            say(f"wrote {file} anew: the values that were moved stood in its free pages")


# ------------------------------------------------------------------ undo ----
# The stores of auth profiles come first, each in one transaction; openclaw.json is last, in one write of OpenClaw's own,
# which takes the provider out too. Whatever ends that halfway, a reference that is left still has its provider.


def find_references(content: Any, file: str, default: object, segments: tuple[str, ...] = ()) -> Iterator[Reference]:
    """The references to our provider in there; `default` is the provider of those that name none."""
    if isinstance(content, dict):
        if content.get("source") == "exec" and content.get("provider", default) == PROVIDER and "id" in content:
            yield Reference(file, list(segments), str(content["id"]))
            return
        content = content.items()
    elif isinstance(content, list):
        content = ((str(index), each) for index, each in enumerate(content))
    else:
        return
    for name, each in content:
        yield from find_references(each, file, default, (*segments, name))


def is_in_list(content: Any, segments: list[str]) -> bool:
    """Whether the way to a reference leads through a list, which a patch can only replace as a whole."""
    return any(isinstance(reach(content, segments[:length]), list) for length in range(len(segments)))


def look_back(openclaw: OpenClaw, places: Places, moved: Moved) -> tuple[list[Reference], dict[str, str]]:
    """All that can become values again, references into the vault and moved variables; and what stays, with the reason."""
    default = openclaw.value("secrets", "defaults", "exec")
    here = list(find_references(openclaw.config, openclaw.config_path, default))
    found = [each for each in here if not is_in_list(openclaw.config, each.segments)]
    left = {str(each): "it stands in a list, where avault puts none: write it by hand" for each in here if each not in found}
    if "$include" in json.dumps(openclaw.config):
        left["secrets.providers." + PROVIDER] = "openclaw.json includes other files, which may have references to it"
    for file in openclaw.ask("secrets", "audit", codes=(0, 1, 2))["filesScanned"]:
        if str(file).endswith(".sqlite"):
            with open_sqlite(file) as db:
                profiles = read_store(db)[0]["profiles"]
            found += find_references(profiles, file, default, ("profiles",))
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
    openclaw: OpenClaw, found: list[Reference], values: dict[str, str], with_provider: bool, moved: Moved
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
            if isinstance(part, dict) and key in part and (name == "providers" or part[key] == PROVIDER):
                gone[name] = None if len(part) == 1 else {key: None}
        if gone:
            patch["secrets"] = None if gone == dict.fromkeys(secrets) else {**patch.get("secrets", {}), **gone}
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
        warn(f"{len(found)} values will stand IN CLEAR on the disk again, in: {', '.join(files) or 'no file'}")
        if not yes and not confirm("avault: take OpenClaw's references into the vault back?"):
            raise Denied("nothing was changed", "avault openclaw plan --undo --yes; to look first: --undo --dry-run")
        put_back(terminal, openclaw, found, with_provider=not left, moved=moved)
    gone = apply and has_provider and not left
    if terminal.want_json:
        restored = [{"file": each.file, "path": str(each), "id": each.id} for each in found]
        reasons = [{"path": path, "reason": reason} for path, reason in left.items()]
        put(json.dumps({"ok": True, "restored": restored, "left": reasons, "applied": apply, "provider": gone}, indent=2) + "\n")
    elif dry_run:
        put("".join(f"{line}\n" for line in lines))
    tell(lines if apply else [], left, "" if found or gone else "nothing to do")
    if gone:
        say("openclaw.json has no avault any more; the vault still has the secrets. The hook goes by: avault openclaw uninstall")
    return 0


def put_back(terminal: Terminal, openclaw: OpenClaw, found: list[Reference], with_provider: bool, moved: Moved) -> None:
    """Write the vault's values where the references stand; raises NotFound, before any write, for what the vault has not."""
    names = sorted({each.id for each in found})
    rows = terminal.ask("reveal", groups=[], only=names, **{"for": "openclaw"})["secrets"] if names else []
    values = {f"{row['group']}/{row['key']}": str(row["value"]) for row in rows}
    if missing := [name for name in names if name not in values]:
        raise NotFound(f"not in the vault: {', '.join(missing)}", "nothing was changed; see: avault list --names")
    config = openclaw.config_path
    for file in sorted({each.file for each in found} - {config}):
        write_profiles(file, [each for each in found if each.file == file], values)
    for name, profile in moved.profiles_of(found).items():
        put_profile(profile["file"], name, {**profile["entry"], profile["kind"]: values[profile["id"]]})
    if patch := make_patch(openclaw, [each for each in found if each.file == config], values, with_provider, moved):
        with all_or_nothing(openclaw, list(values.values())):
            openclaw.run("config", "patch", "--stdin", stdin=json.dumps(patch))
    moved.forget(found)


# -------------------------------------------------------------- planning ----


def refuse_unproven(terminal: Terminal, dry_run: bool) -> None:
    """Raise Denied where nobody has shown that the phone opens the vault: what is in clear may be the only copy then."""
    if terminal.ask("status")["proven"]:
        return
    refusal, hint = "nobody has shown yet that the phone opens this vault: nothing is replaced", "avault pair, then once more"
    if not dry_run:
        raise Denied(refusal, hint)
    warn(refusal, hint)


def tell(moved: list[str], left: dict[str, str], otherwise: str) -> None:
    """Say what was moved and what was not."""
    for line in moved or ([otherwise] if otherwise else []):
        say(line)
    for path, reason in left.items():
        say(f"left {printable(path)}: {reason}")


def finish(openclaw: OpenClaw, values: list[str]) -> None:
    """After a plan was applied: what still stands in clear elsewhere, and what OpenClaw itself says now."""
    if copies := old_copies(openclaw.config_path, values):
        warn("OpenClaw's old copies of openclaw.json hold the values in clear", f"rm {shlex.join(copies)}")
    report = openclaw.ask("secrets", "audit", "--check", "--allow-exec", codes=(0, 1, 2))
    if report["status"] == "clean":
        say("openclaw secrets audit: clean")
        return
    for each in report["findings"]:
        warn(f"openclaw secrets audit: {each['code']} {printable(each['jsonPath'])} in {printable(each['file'])}")


@command(
    "openclaw plan",
    option("--apply", is_flag=True),
    option("--undo", is_flag=True),
    option("--dry-run", is_flag=True),
    option("--variables", is_flag=True),
    option("--yes", is_flag=True),
)
def cmd_plan(terminal: Terminal, apply: bool, undo: bool, dry_run: bool, variables: bool, yes: bool) -> int:
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
        raise Usage("--apply and --undo exclude each other", "avault openclaw plan --undo --dry-run")
    if apply and dry_run:
        raise Usage("--apply and --dry-run exclude each other", "avault openclaw plan --dry-run")
    if variables and not apply and not dry_run:
        raise Usage("--variables changes openclaw.json itself, which a plan cannot", "avault openclaw plan --apply --variables")
    terminal.ask("list")  # a locked vault says so now, and not after OpenClaw has taken its time
    refuse_unproven(terminal, dry_run)
    openclaw = OpenClaw()
    found = look(openclaw)
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
    tell(lines if apply else [], found.left, "nothing to do" if apply and not result["applied"] else "")
    if result["applied"]:
        clean_stores(found.stores, values)
        finish(openclaw, values)
    return 0


# ----------------------------------------------------------------- chats ----


def find_chats(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The operator's chats, by channel and target, that work without the vault: no reference into it stands in the channel."""
    owners = reach(config, ["commands", "ownerAllowFrom"])
    default = reach(config, ["secrets", "defaults", "exec"])
    found = []
    for owner in owners if isinstance(owners, list) else ():
        channel, _, target = str(owner).partition(":")
        settings = reach(config, ["channels", channel])
        if target and isinstance(settings, dict) and not any(find_references(settings, "", default)):
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
    content = read_json5(read_file(config, 16 << 20).decode("utf-8-sig", "replace")) if config else OpenClaw().config
    chats = find_chats(content)
    if terminal.want_json:
        put(json.dumps({"ok": True, "chats": [{"channel": channel, "target": target} for channel, target in chats]}) + "\n")
    else:
        put("".join(f"{channel} {target}\n" for channel, target in chats))
    return 0
