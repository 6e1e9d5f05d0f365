"""Part of the build, not of avault: installs avault_fast.py, the top of avault.py, and scripts/avault_*.py as modules.

Python loads a file as a whole, and the whole of avault.py takes a sixth of the time of `avault get`; what answers that is its
top (see amalgamate.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))  # setuptools has neither it nor the checkout there

from amalgamate import fast_part


class Build(build_py):
    """Copies avault.py, and beside it its top and the commands of scripts/, each a module of its own."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            top = fast_part(Path("avault.py").read_text(encoding="utf-8"))
            Path(self.build_lib, "avault_fast.py").write_text(top, encoding="utf-8")
            for module in Path("scripts").glob("avault_*.py"):
                self.copy_file(str(module), str(Path(self.build_lib, module.name)))
            for file in Path("hooks").glob("*/*"):
                beside = Path(self.build_lib, "avault_hooks", file.parent.name)
                self.mkpath(str(beside))
                self.copy_file(str(file), str(beside / file.name))
