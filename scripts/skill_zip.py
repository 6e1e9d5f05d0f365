"""Part of the release, not of avault: the skill as one archive, for registries and for people without git.

    python scripts/skill_zip.py [FILE]          default: dist/avault-skill-VERSION.zip

It has one folder, avault/, to be unpacked where an agent's skills are. The same sources give the same bytes: the order is
sorted, the time is fixed, the modes are those below, and nothing is compressed, as compressors differ.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKILL = (  # what SKILL.md names, what that needs to run, and what `pip install .` needs
    "SKILL.md",
    "LICENSE",
    "README.md",
    "MANIFEST.in",
    "pyproject.toml",
    "avault.py",
    "scripts/avault",
    "scripts/amalgamate.py",
    "scripts/build.py",
    "src/avault_extras/*.py",
    "hooks/avault-unlock/HOOK.md",
    "hooks/avault-unlock/handler.ts",
    "references/*.md",
    "references/demo.svg",
    "references/requirements.txt",
)
PROGRAMS = {"avault.py", "scripts/avault"}  # may be executed
TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip can tell


def version() -> str:
    """avault's version, without importing avault."""
    found = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "avault.py").read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError("avault.py has no __version__")
    return found[1]


def files() -> list[str]:
    """The skill's files, sorted, as paths below the repository's root; raises FileNotFoundError where a pattern finds none."""
    names: set[str] = set()
    for pattern in SKILL:
        found = [path for path in ROOT.glob(pattern) if path.is_file()]
        if not found:
            raise FileNotFoundError(f"no {pattern} in {ROOT}")
        names.update(path.relative_to(ROOT).as_posix() for path in found)
    return sorted(names)


def build(target: Path) -> None:
    """Write the archive; raises OSError."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in files():
            entry = zipfile.ZipInfo(f"avault/{name}", TIME)
            entry.create_system = 3  # Unix, wherever it is built
            entry.external_attr = (0o100755 if name in PROGRAMS else 0o100644) << 16
            archive.writestr(entry, (ROOT / name).read_bytes())


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / f"avault-skill-{version()}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    build(target)
    print(target)


if __name__ == "__main__":
    main()
