"""Part of the build, not of avault: installs avault_fast.py, the top of avault.py, beside it.

Python loads a file as a whole, and the whole of avault.py takes longer than `avault get`; what answers that is its top (see
amalgamate.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))  # setuptools has neither it nor the checkout there

from amalgamate import fast_part


class Build(build_py):
    """Copies avault.py and avault_extras/, and cuts avault_fast.py."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            top = fast_part(Path("avault.py").read_text(encoding="utf-8"))
            Path(self.build_lib, "avault_fast.py").write_text(top, encoding="utf-8")
