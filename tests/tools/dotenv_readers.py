"""Who reads what of a .env file, and how: the readers themselves, and the table of references/dotenv.md.

    python tests/tools/dotenv_readers.py --write      writes the table; test_dotenv.py holds each column to its reader

docker's is its own command, which is asked to make a container while we play the daemon. systemd's is its library, and,
where there is none, the state machine of its env-file.c.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import itertools
import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "references" / "dotenv.md"
LINES = (
    "A=b", " A = b ", "export A=b", "export A=1 B=2", "A", "A=", "A=b c", "A='b c'", 'A="b c"', "A=`b c`",
    "A=b # c", "A=b#c", "A='b' # c", "A=#b", "A=it's", "A=C:\\new", "A='b\\nc'", 'A="b\\nc"', "A='it\\'s'", 'A="b\\"c"',
    'A="it\'s\\$5"', "A='$5'", "B=1\nA=x$B", "B=1\nA=x${B}", "B=1\nA='x${B}'", 'A="b\nc"', "A='b", "A=1\nA=2", "A=b\r\n",
    "A='b\r\nc'\r\n", "A='b\r\nc'\n",
)  # fmt: skip
NOT_SET, REFUSED = "not set", "refused"


# The readers: of a text's A, or why there is none


def read_avault(text: str) -> str:
    """What `avault import` and `avault run --env-file` read."""
    import avault

    try:
        variables, told = avault.read_dotenv(text)
    except avault.Usage:
        return REFUSED
    if "A" not in variables:
        return "left"
    return shown(variables.get("A")) + (", with a warning" if any(each.remark for each in told) else "")


def read_python_dotenv(text: str) -> str:
    """What load_dotenv() of python-dotenv reads."""
    import dotenv

    with tempfile.NamedTemporaryFile("w", newline="") as file:
        file.write(text)
        file.flush()
        return shown(dotenv.dotenv_values(file.name).get("A"))


def read_npm_dotenv(text: str) -> str:
    """What npm's dotenv reads; raises FileNotFoundError where it is not installed."""
    from peers import node, node_modules

    module = node_modules() / "dotenv" / "lib" / "main.js"
    if not module.exists():
        raise FileNotFoundError("no npm dotenv")
    script = "const [m, t] = process.argv.slice(1); console.log(JSON.stringify(require(m).parse(t).A ?? null))"
    done = subprocess.run([*node(), "-e", script, str(module), text], capture_output=True, check=True)
    return shown(json.loads(done.stdout))


def read_sh(text: str) -> str:
    """What a shell has after `set -a; . FILE`."""
    with tempfile.NamedTemporaryFile("w", newline="") as file:
        file.write(text)
        file.flush()
        script = f'set -a; . {file.name} >&2; [ -z "${{A+x}}" ] || printf "%s." "$A"'
        done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": "/nowhere"}, capture_output=True, check=False)
    if not done.stdout and re.search(b"[Ss]yntax error|nterminated", done.stderr):
        return REFUSED
    return shown(done.stdout.decode()[:-1]) if done.stdout else NOT_SET


def read_systemd(text: str) -> str:
    """What EnvironmentFile= gives a service."""
    with tempfile.TemporaryDirectory() as directory:
        found = real_systemd(text, Path(directory))
    return shown((systemd(text) if found is None else found).get("A"))


def read_docker(text: str) -> str:
    """What `docker run --env-file` gives a container, where A is of_us in the environment; raises FileNotFoundError."""
    with docker() as read, tempfile.NamedTemporaryFile("w", newline="") as file:
        file.write(text)
        file.flush()
        found = read(Path(file.name), A="of_us")
    if found is None:
        return REFUSED
    return shown(next((entry[2:] for entry in reversed(found) if entry.startswith("A=")), None))


READERS: dict[str, Callable[[str], str]] = {
    "avault": read_avault,
    "python-dotenv": read_python_dotenv,
    "npm's dotenv": read_npm_dotenv,
    "docker": read_docker,
    "sh": read_sh,
    "systemd": read_systemd,
}


def systemd(text: str) -> dict[str, str]:
    """How systemd reads an EnvironmentFile= (parse_env_file_internal in its env-file.c), as a state machine."""
    found: dict[str, str] = {}
    state, key, value, keep = "before", "", "", 0
    for c in text + "\n":
        newline = c in "\n\r"
        match state:
            case "before":
                if c in "#;":
                    state = "comment"
                elif c not in " \t\n\r":
                    state, key = "key", c
            case "key":
                if newline:
                    state = "before"
                elif c == "=":
                    state, value, keep = "start", "", 0
                else:
                    key += c
            case "comment":
                if newline:
                    state = "before"
            case "start" | "value" if newline:
                found[key.rstrip()] = value[:keep]
                state = "before"
            case "start" if c == "'":
                state = "single"
            case "start" if c == '"':
                state = "double"
            case "start" | "value":
                if c == "\\":
                    state = "escape"
                elif state == "value" or c not in " \t":
                    state, value = "value", value + c
                    keep = keep if c in " \t" else len(value)
            case "escape":
                state = "value"
                value += "" if newline else c
                keep = len(value)
            case "single":
                state, value = ("start", value) if c == "'" else (state, value + c)
                keep = len(value)
            case "double":
                if c == "\\":
                    state = "double escape"
                else:
                    state, value = ("start", value) if c == '"' else (state, value + c)
                keep = len(value)
            case "double escape":
                state = "double"
                value += c if c in '"\\`$' else "" if c == "\n" else "\\" + c
                keep = len(value)
    return found


def real_systemd(text: str, directory: Path) -> dict[str, str] | None:
    """What systemd's own library makes of it; None where there is none."""
    libraries = [path for top in ("/usr/lib", "/lib") for path in Path(top).glob("*/systemd/libsystemd-shared-*.so")]
    libraries += Path("/usr/lib/systemd").glob("libsystemd-shared-*.so") if Path("/usr/lib/systemd").exists() else []
    if not libraries:
        return None
    try:
        load = ctypes.CDLL(str(libraries[0])).load_env_file
    except (OSError, AttributeError):
        return None
    (directory / "env").write_bytes(text.encode())
    result = ctypes.POINTER(ctypes.c_char_p)()
    code = load(None, str(directory / "env").encode(), ctypes.byref(result))
    assert code >= 0, os.strerror(-code)
    entries = itertools.takewhile(lambda entry: entry is not None, (result[index] for index in itertools.count()))
    return dict(entry.decode().split("=", 1) for entry in entries) if result else {}


@contextlib.contextmanager
def docker() -> Iterator[Callable[..., list[str] | None]]:
    """A function that gives what docker's command reads from an --env-file, None where it refuses it.

    The command asks us to make a container, and we are no daemon. Raises FileNotFoundError where there is none.
    """
    command = shutil.which("docker")
    if not command:
        raise FileNotFoundError("no docker command")
    asked: list[list[str]] = []

    class Daemon(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["Env"] or [])
            self.answer(400)

        def answer(self, code: int) -> None:
            self.send_response(code)
            self.send_header("Api-Version", "1.41")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return ""

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with tempfile.TemporaryDirectory() as directory, Server(f"{directory}/s", Daemon) as server:

        def read(path: Path, **variables: str) -> list[str] | None:
            asked.clear()
            env = {"PATH": os.environ["PATH"], "HOME": directory, "DOCKER_HOST": f"unix://{directory}/s", **variables}
            subprocess.run([command, "run", "--env-file", path, "image"], env=env, capture_output=True, timeout=60, check=False)
            return asked[0] if asked else None

        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield read
        finally:
            server.shutdown()
            thread.join()


# The table


def shown(text: str | None) -> str:
    """A text as a cell: line ends as arrows, in as many backticks as it needs."""
    if text is None:
        return NOT_SET
    if not text:
        return "empty"
    plain = text.replace("\r", "␍").replace("\n", "⏎")
    mark, space = ("``", " ") if "`" in plain else ("`", "")
    return f"{mark}{space}{plain}{space}{mark}"


def table() -> str:
    """The table as references/dotenv.md has it."""
    rows = [["line", *READERS]]
    rows.append(["---"] * len(rows[0]))
    rows += [[shown(line), *(read(line) for read in READERS.values())] for line in LINES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def columns() -> dict[str, list[str]]:
    """The columns of the table that the document has."""
    rows = [row.strip("| \n").split(" | ") for row in re.findall(r"(?m)^\|.*$", DOCUMENT.read_text(encoding="utf-8"))]
    return {head: [row[index] for row in rows[2:]] for index, head in enumerate(rows[0])}


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    opening, closing = "<!-- readers -->\n", "<!-- /readers -->\n"
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(opening)
    DOCUMENT.write_text(before + opening + table() + closing + rest.partition(closing)[2], encoding="utf-8")
