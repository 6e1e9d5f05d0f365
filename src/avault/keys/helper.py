"""The process that does a custodian's errand: `avault.py custodian ACTION KIND`.

An unlock key passes through it, between custodian and keyholder, and opens nothing by itself.
Stdin is a socket: through it comes one frame, the request (see `Errand`); for `set`, whoever has
the secret is met there (see `introduce_helper`). The answer goes to stdout: {"outcome", "value" or
"detail"}.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from avault.custody.kinds import asks_person, find_kind
from avault.custody.prompt import Prompt
from avault.errors import AvaultError, Unavailable
from avault.keys.custodian import Errand, render_answer
from avault.keys.hardening import harden, introduce_helper
from avault.plain import write_all
from avault.protocol import Frames, decode_frame

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from avault.keys.nostr import KeyText


def read_errand(sock: socket.socket) -> dict[str, Any]:
    """The one frame that says what is to be done; raises AvaultError."""
    frames = Frames(1 << 20)
    while (frame := frames.next()) is None:
        if not (piece := sock.recv(1 << 16)):
            raise AvaultError("no request came")
        frames.feed(piece)
    return decode_frame(frame)


def heed(errand: Errand) -> None:
    """Hear from who has sent us whether anybody waits: a byte, 1 or 0."""
    while told := os.read(0, 1):
        errand.is_waited_for = told == b"1"


def take_secret(door: int) -> KeyText:
    """The secret of `set`, over a socket that is made now that we are hardened; "" for none."""
    with introduce_helper(door) as own:
        read = bytearray()
        while piece := own.recv(4096):
            read += piece
    return read.decode()


def do_errand(action: str, kind: str, errand: Errand, secret: KeyText) -> Any:
    """The value of an errand that succeeds; raises what went wrong."""
    custodian = find_kind(kind)(errand)
    if action == "settle":
        settings = custodian.settle()
        return {"settings": settings, "asks": asks_person(kind, settings)}
    if action == "set":
        if not secret:
            raise AvaultError("nothing came that could be kept")
        return custodian.set(secret)
    came = {"probe": custodian.probe, "get": custodian.get, "delete": custodian.delete}[action]()
    if errand.agrees and errand.prompt.purpose and asks_person(kind, errand.settings):
        said = f"the {kind} showed nobody what it is asked for: it agrees to nothing but an unlock"
        raise Unavailable(said, "with the recovery kit: avault recover --operator-key -")
    return came


def answer_errand(action: str, kind: str, errand: Errand, secret: KeyText = "") -> bytes:
    """The answer to an errand, within its limit; one that takes longer is `denied`."""
    answer = render_answer("denied", f"the {kind} did not answer in {errand.limit:g} s")

    def work() -> None:
        nonlocal answer
        try:
            said = do_errand(action, kind, errand, secret)
            answer = render_answer("ok", said, is_old=errand.is_old)
        except AvaultError as error:
            answer = render_answer(error.code, error.message, error.hint)
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
        prompt = Prompt(request.get("terminal"), request.get("answers"), request.get("purpose"))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the terminal is left well
        secret = take_secret(0) if action == "set" else ""  # once the operator agrees
        errand = Errand(request, prompt)
        if action == "get":
            threading.Thread(target=heed, args=(errand,), daemon=True).start()
        write_all(1, answer_errand(action, kind, errand, secret))
    except BaseException as error:
        write_all(1, render_answer("error", f"its helper failed: {type(error).__name__}"))
    finally:
        if prompt:
            prompt.close()
        os._exit(0)
