"""avault demo: the whole story in a minute, in a temporary directory, with a phone of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, Usage
from avault.keys.nostr import make_keys
from avault.plain import write_all
from avault.process import clean_environment, own_command
from avault.signer.question import NOBODY_ASKED
from avault.signer.relays import start_relay
from avault.terminal.commands import command, option
from avault.terminal.talk import put
from avault.terminal.terminal import Terminal
from avault.vault.files import read_file, write_file

if TYPE_CHECKING:
    from typing import Any, NoReturn


@command("demo", option("--yes", is_flag=True))
def cmd_demo(terminal: Terminal, yes: bool) -> int:
    """usage: avault demo [--yes]

    The whole story in a minute, in a temporary directory: a relay, a phone in
    this terminal that asks you, a vault, the drill, locking, unlocking, a
    refusal. --yes plays the operator. Nothing leaves this machine.
    """
    return run_demo(yes)


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
        """Start a command, and copy what it says.

        `asks` is in the lines after which the phone may show its question.
        """
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
        """Copy what the phone prints, and type what --yes answers.

        A question stays back until avault has said that it asks.
        """
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
    write_file(f"{home}/phone/nsec", make_keys().secret_key().to_bech32().encode())
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
        "The operator's key is in the phone. The agent's key was made here: it is in the memory of "
        "one process, the",
        "keyholder, as the secrets will be; on the disk it is sealed, and what unseals it is in an "
        "envelope for the phone.",
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
        f"{demo.environment['XDG_STATE_HOME']}: "
        "the client key of the pairing, and an envelope for the phone.",
        f"The secret in clear in any of these files: {'YES' if found else 'no'}.",
        "None of it opens the vault: the phone must, and the operator must say so.",
    )
    demo.tell("4. Unlock: the phone is asked", "Approve it (y).")
    if demo.unlock():
        raise Denied("the demo's vault was not opened", "answer y")
    demo.tell("5. A shell that has the secrets")
    script = (
        'vars=$(avault export --shell) && eval "$vars" && '
        'echo "the shell has an API_KEY of ${#API_KEY} characters"'
    )
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
