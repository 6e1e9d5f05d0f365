"""How much of avault.py the tests reach.

    .venv/bin/python tests/tools/measure_coverage.py [PYTEST'S WORDS]   the whole suite, with every process that it starts

Prints, for each room of src/avault/, the share of lines and branches that were reached, and those that were not.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import coverage.exceptions

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "avault.py"
INSTALLED = Path(sysconfig.get_path("purelib"))
KEYS = (  # they touch keys, and so does the folder keys/
    "keys/", "vault/store", "vault/unsaved", "signer/pairing", "signer/relays", "signer/remote", "daemon/contact",
    "daemon/pairing", "daemon/talks",
)  # fmt: skip


def rooms() -> dict[str, range]:
    """The numbers of the lines of each room."""
    lines = SOURCE.read_text(encoding="utf-8").splitlines()
    banners = [(number, match[1]) for number, line in enumerate(lines, 1) if (match := re.fullmatch(r"# -{3,} (.+) ----", line))]
    ends = [number for number, _ in banners[1:]] + [len(lines) + 1]
    return {name: range(start, end) for (start, name), end in zip(banners, ends, strict=True)}


# Coverage

SETTINGS = """
[run]
branch = true
parallel = true
sigterm = true
data_file = {directory}/data
include = */avault.py, */avault_fast.py
disable_warnings = no-data-collected, module-not-measured, module-not-imported, couldnt-parse
[report]
exclude_also =
    if TYPE_CHECKING:
    raise AssertionError\\("unreachable"\\)
"""

# Runs as every process of that Python starts. Not by coverage's own variable: the daemon gives its processes a clean environment.
START = """
import functools, os
import coverage
os.environ["COVERAGE_PROCESS_START"] = {settings!r}
measured = coverage.process_startup()
del os.environ["COVERAGE_PROCESS_START"]

def saved_before(end):
    @functools.wraps(end)
    def save_and_end(*arguments):
        measured.save()
        return end(*arguments)
    return save_and_end

if measured:
    os._exit, os.execv, os.execve = map(saved_before, (os._exit, os.execv, os.execve))
"""


def measured_python(directory: Path) -> Path:
    """An environment that has what ours has, and whose every process is measured: its Python."""
    settings = directory / "settings"
    settings.write_text(SETTINGS.format(directory=directory))
    venv.create(directory / "venv", symlinks=True)
    python = directory / "venv" / "bin" / "python"
    for script in Path(sys.executable).parent.iterdir():
        copy = python.parent / script.name
        if not copy.exists():
            copy.symlink_to(script)
    avault = python.parent / "avault"
    text = avault.read_text(encoding="utf-8").partition("\n")[2]
    avault.unlink()
    avault.write_text(f"#!{python}\n{text}")
    avault.chmod(0o755)
    [packages] = directory.glob("venv/lib/*/site-packages")
    (packages / "measured.pth").write_text(f"import site; site.addsitedir({str(INSTALLED)!r})\nimport measured\n")
    (packages / "measured.py").write_text(START.format(settings=str(settings)))
    for each in (directory, *directory.rglob("*")):  # tests that need root start processes of other users
        if not each.is_symlink():
            each.chmod(each.stat().st_mode | 0o055)
    directory.chmod(0o1777)
    return python


def reached(directory: Path) -> dict[str, Any]:
    """Coverage's report of avault.py, as its JSON has it. The installed avault_fast.py is the top of avault.py, line by line."""
    data = coverage.CoverageData(str(directory / "all"))
    for file in directory.glob("data.*"):
        one = coverage.CoverageData(str(file))
        try:
            one.read()
        except coverage.exceptions.DataError:  # of a process that was killed while it wrote it
            print(f"not counted: {file.name}, {file.stat().st_size} bytes", file=sys.stderr)
            continue
        ours = {name for name in one.measured_files() if Path(name).parent in (INSTALLED, ROOT)}
        data.update(one, map_path=lambda name, ours=ours: str(SOURCE if name in ours else "/another"))
        file.unlink()
    data.write()
    report = coverage.Coverage(data_file=str(directory / "all"), config_file=str(directory / "settings"))
    report.load()
    report.json_report([str(SOURCE)], outfile=str(directory / "report"), ignore_errors=True)
    [found] = json.loads((directory / "report").read_text())["files"].values()
    return dict(found)


def share(report: dict[str, Any], names: Iterator[str] | tuple[str, ...] | None = None) -> float:
    """The share of lines and branches that were reached, in %, of some rooms or of all."""
    numbers = {number for name in names for number in rooms()[name]} if names else range(1, 100_000)
    counts = [
        sum((each if isinstance(each, int) else each[0]) in numbers for kind in kinds for each in report[kind])
        for kinds in (("executed_lines", "executed_branches"), ("missing_lines", "missing_branches"))
    ]
    return 100 * counts[0] / sum(counts)


def show(report: dict[str, Any]) -> None:
    """Each room's share, and what was not reached."""
    for name, numbers in rooms().items():
        lines = [str(line) for line in report["missing_lines"] if line in numbers]
        branches = [f"{start}->{end}" for start, end in report["missing_branches"] if start in numbers]
        print(f"{name:18} {share(report, (name,)):6.2f} %  {' '.join([*lines, *branches])}")
    keys = tuple(name for name in rooms() if name.startswith(KEYS))
    print(f"{'keys':18} {share(report, keys):6.2f} %\n{'all':18} {share(report):6.2f} %")


def measure_coverage(words: list[str]) -> int:
    """Run the tests, every process measured; show what they reach."""
    with tempfile.TemporaryDirectory(prefix="avm", dir="/tmp") as name:
        directory = Path(name).resolve()
        python = measured_python(directory)
        code = subprocess.run([python, "-m", "pytest", "-q", *words], cwd=ROOT, check=False).returncode
        show(reached(directory))
    return code


if __name__ == "__main__":
    sys.exit(measure_coverage(sys.argv[1:]))
