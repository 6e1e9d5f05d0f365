"""get, has, list, export, set and run over the socket, with built-in modules only.

Without click, json or socket: the keyholder renders the answer, and this copies bytes, or says
what was refused: a request is made once. Whatever is unusual (an option that is not in the table,
no daemon) is left to the commands of cli/.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from avault.daily import fast_request, parse_fast
from avault.execute import become
from avault.hints import call, say_error
from avault.places import NoPlace, Places, own_name
from avault.plain import (
    ASK_FOR_GRANT,
    MAX_VALUE,
    FastConnection,
    explain_grant,
    from_json,
    read_stdin,
    to_json,
    write_all,
)

if TYPE_CHECKING:
    from typing import Any


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
        answer = receive_answer(connection) or None
        if answer == '{"ok": true, "ready": true}':
            answer = ""
            connection.send(to_json({"value": fast_value() if value is None else value}))
            answer = receive_answer(connection)
    except OSError:
        pass
    finally:
        connection.socket.close()
    return answer


def receive_answer(connection: FastConnection) -> str:
    """The next frame that is an answer; that the phone is asked meanwhile is said."""
    while (answer := connection.receive())[:14] == '{"progress": "':
        kind, rest = from_json(answer, 14)
        told = from_json(rest, rest.index(': "') + 3)[0] if ': "' in rest else ""
        said = {
            "asking": "asking the phone, code",
            "page": "the signer wants to be opened at",
            "warning": "warning:",
        }
        if kind in said:
            write_all(2, f"avault: {said[kind]} {told}\n".encode())
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
    if not answer and places.is_grant() and request["op"] != "provide":
        return say_error(
            "unavailable", explain_grant(places.socket), ASK_FOR_GRANT, "--json" in found
        )
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
            if "command" in found and rest[:14] == ', "warning": "':
                write_all(2, f"avault: warning: {from_json(rest, 14)[0]}\n".encode())
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
