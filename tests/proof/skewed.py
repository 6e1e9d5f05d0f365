"""avault as it runs on a machine whose clocks a test sets: a copy of avault.py with one class more, in all its processes.

    clocks = Clocks(tmp_path)                 # machine = Machine(place.top, command=clocks.command)
    clocks.set(wall=-86400)                   # somebody sets the clock back by a day
    clocks.set(asleep=3600)                   # the machine slept an hour: CLOCK_BOOTTIME and the wall clock went on

Only CLOCK_MONOTONIC, by which event loops wait, stands still in a sleep. The library's own clock is not touched.
"""

import json
from pathlib import Path

from harness import imported_avault

SOURCE = Path(__file__).resolve().parents[2] / "avault.py"
CLOCKS = """
class Clocks:
    def __getattr__(self, name):
        import time as real
        return getattr(real, name)

    def shift(self):
        with open(CLOCKS_FILE) as file:
            return json.load(file)

    def time(self):
        import time as real
        return real.time() + sum(self.shift().values())

    def clock_gettime(self, clock):
        import time as real
        return real.clock_gettime(clock) + (self.shift()["asleep"] if clock != real.CLOCK_REALTIME else 0)


time = Clocks()
"""


class Clocks:
    """The clocks of one machine."""

    def __init__(self, directory: Path) -> None:
        self.file, copy = directory / "clocks", directory / "avault.py"
        self.shifts = {"wall": 0.0, "asleep": 0.0}
        self.set()
        body, mark, end = SOURCE.read_text().rpartition('\nif __name__ == "__main__":')
        assert mark
        copy.write_text(f"{body}\nCLOCKS_FILE = {str(self.file)!r}\n{CLOCKS}\n{mark}{end}")
        self.command = imported_avault(directory)

    def set(self, **shifts: float) -> None:
        """Set the wall clock off by `wall` seconds, or let the machine have slept for `asleep` seconds."""
        self.shifts.update(shifts)
        new = self.file.with_name("clocks.new")
        new.write_text(json.dumps(self.shifts))
        new.replace(self.file)
