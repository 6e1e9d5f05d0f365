"""Part of the release, not of avault: what is published for a version, and SHA256SUMS over it.

    python scripts/release.py [DIRECTORY]       default: dist/

avault.py, what it needs, wheel, source and skill archive; SHA256SUMS names these, and every file that the wheel installs, so that
an installation can be compared with it. The same sources give the same bytes: order, times and modes are fixed, nothing
is compressed, as compressors differ; and setuptools is the one below, as it puts its version into the wheel.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import skill_zip

SETUPTOOLS = "setuptools==80.9.0"
PLAIN = ("avault.py", "references/requirements.txt")  # published as they are


def source() -> list[str]:
    """What avault.py is made from, as paths below the repository's root."""
    return sorted(path.relative_to(skill_zip.ROOT).as_posix() for path in (skill_zip.ROOT / "src" / "avault").rglob("*.py"))


def source_tree(top: Path) -> Path:
    """A copy of what is released, below `top`: whatever else lies in the checkout has no part in it."""
    tree = top / f"avault_nostr-{skill_zip.version()}"
    for name in [*skill_zip.files(), *source()]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(skill_zip.ROOT / name, tree / name)
    return tree


def build_wheel(tree: Path, target: Path) -> Path:
    """Write the wheel, made by pip and setuptools, and put in order; raises CalledProcessError, OSError."""
    made, constraint = tree.parent / "made", tree.parent / "constraint.txt"
    constraint.write_text(SETUPTOOLS + "\n")
    pinned = {"PIP_CONSTRAINT": str(constraint), "PIP_BUILD_CONSTRAINT": str(constraint), "PYTHONHASHSEED": "0"}
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "-w", str(made), str(tree)]
    subprocess.run(pip, check=True, env={**os.environ, **pinned})
    (found,) = made.glob("avault_nostr-*.whl")
    with zipfile.ZipFile(found) as raw, zipfile.ZipFile(target / found.name, "w", zipfile.ZIP_STORED) as wheel:
        for name in raw.namelist():
            entry = zipfile.ZipInfo(name, skill_zip.TIME)
            entry.create_system = 3  # Unix
            entry.external_attr = (0o100755 if ".data/scripts/" in name else 0o100644) << 16
            wheel.writestr(entry, raw.read(name))
    return target / found.name


def build_sdist(tree: Path, metadata: bytes, target: Path) -> Path:
    """Write the source archive; raises OSError.

    The skill's files, which are all that pip needs, what avault.py is made from, and PKG-INFO.
    """
    path = target / f"{tree.name}.tar.gz"
    contents = {name: (tree / name).read_bytes() for name in [*skill_zip.files(), *source()]} | {"PKG-INFO": metadata}
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", 0, file, 0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(contents):
            entry = tarfile.TarInfo(f"{tree.name}/{name}")  # of root, from 1970
            entry.mode = 0o755 if name in skill_zip.PROGRAMS else 0o644
            entry.size = len(contents[name])
            archive.addfile(entry, io.BytesIO(contents[name]))
    return path


def sums(directory: Path, published: list[Path], wheel: Path) -> str:
    """SHA256SUMS, as sha256sum writes and reads it: what is published, then what the wheel puts into site-packages."""
    found = {path.relative_to(directory).as_posix(): path.read_bytes() for path in published}
    with zipfile.ZipFile(wheel) as archive:
        installed = [
            name for name in archive.namelist() if ".dist-info/" not in name and ".data/" not in name
        ]  # not its metadata
        found |= {name: archive.read(name) for name in installed if name not in found}
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in found.items())


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else skill_zip.ROOT / "dist"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="avault-release-") as place:
        tree = source_tree(Path(place))
        wheel = build_wheel(tree, target)
        with zipfile.ZipFile(wheel) as archive:
            metadata = archive.read(f"{tree.name}.dist-info/METADATA")
        sdist = build_sdist(tree, metadata, target)
    skill = target / f"avault-skill-{skill_zip.version()}.zip"
    skill_zip.build(skill)
    plain = [shutil.copyfile(skill_zip.ROOT / path, target / Path(path).name) for path in PLAIN]
    (target / "SHA256SUMS").write_text(sums(target, [*plain, wheel, sdist, skill], wheel), encoding="utf-8")
    print(target / "SHA256SUMS")


if __name__ == "__main__":
    main()
