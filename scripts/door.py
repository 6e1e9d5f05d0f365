"""Part of the build, not of avault: installs scripts/avault_*.py as modules, and cuts avault_door.py out of avault.py.

The door is the first regions, which answer the daily commands. Python loads a file as a whole, and the whole takes a
sixth of the time of `avault get`.
"""

from pathlib import Path

from setuptools.command.build_py import build_py

END = "# ---------------------------------------------------------------- errors ----"


class BuildDoor(build_py):
    """Copies avault.py, and beside it its top and the commands of scripts/, each a module of its own."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            top, found, _ = Path("avault.py").read_text(encoding="utf-8").partition(END)
            if not found:
                raise ValueError(f"avault.py has no line {END}")
            Path(self.build_lib, "avault_door.py").write_text(top, encoding="utf-8")
            for module in Path("scripts").glob("avault_*.py"):
                self.copy_file(str(module), str(Path(self.build_lib, module.name)))
            for file in Path("hooks").glob("*/*"):
                beside = Path(self.build_lib, "avault_hooks", file.parent.name)
                self.mkpath(str(beside))
                self.copy_file(str(file), str(beside / file.name))
