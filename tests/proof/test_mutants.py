"""What the tests of records, seal, store and wire are worth: faults put into avault.py that they must notice.

The sampled run is a command, as it takes its time: tests/tools/measure_mutants.py 300
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import figures
import pytest

pytestmark = [pytest.mark.proof]
TESTS = Path(__file__).resolve().parent.parent


@pytest.mark.long
def test_dangerous_faults_are_noticed() -> None:
    """Each would lose or leak a secret, or take what must be refused; see the table in measure_mutants.py."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, TESTS / "tools" / "measure_mutants.py", "dangerous"]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"^mutants: (\d+), killed: (\d+),", done.stdout, re.MULTILINE)
    assert counted and counted[1] == counted[2], done.stdout
    figures.at_least("dangerous faults put into avault.py that the tests notice", int(counted[2]))
