"""get, has, list, export, set and run over the socket, with built-in modules only.

Without click, json or socket: the keyholder renders the answer, and this copies bytes, or says
what was refused: a request is made once. Whatever is unusual (an option that is not in the table,
no daemon) is left to the commands of cli/.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from avault.places import NoPlace, Places, own_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


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
