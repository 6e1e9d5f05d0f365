"""A custodian of ours, `avault-custodian-box`, which keeps its key in a file, and also does what a good one never would.

box = Box(machine.top)
machine("custody", "add", "program", f"path={box.path}", "--name", "box", "--yes")
box.mode("hangs")
"""

from __future__ import annotations

import sys
from pathlib import Path

BOX = """\
#!{python} -IS
import json, os, sys, time
place = {place!r}
mode = open(place + "/mode").read()
request = json.load(sys.stdin)
action, file = sys.argv[1], place + "/" + request["account"].partition(":")[2]
def end(outcome, said):
    print(json.dumps({{"outcome": outcome, "value" if outcome == "ok" else "detail": said}}), flush=True)
    sys.exit()
if action == "settle":
    end("ok", request["settings"])
if mode in ("denied", "not_found", "unavailable", "error"):
    end(mode, "the box says " + mode)
if mode == "garbage":
    print("garbage"); sys.exit()
if mode == "dies":
    os.kill(os.getpid(), 9)
if mode == "hangs":
    time.sleep(999)
if action == "set":
    open(file, "w").write(request["secret"]); end("ok", None)
if action == "delete":
    os.unlink(file); end("ok", None)
if action == "get":
    end("ok", "01" * 32 if mode == "lies" else open(file).read())
end("ok", "the box is there" if os.path.exists(file) else "the box is empty")
"""


class Box:
    """The stand-in: `mode` says what it does; `path` is the program."""

    def __init__(self, top: Path) -> None:
        self.place = top / "box"
        self.place.mkdir(mode=0o700)
        self.path = self.place / "avault-custodian-box"
        self.path.write_text(BOX.format(python=sys.executable, place=str(self.place)))
        self.path.chmod(0o700)
        self.mode("ok")

    def mode(self, mode: str) -> None:
        (self.place / "mode").write_text(mode)

    def kept(self, name: str = "box") -> str:
        return (self.place / name).read_text()
