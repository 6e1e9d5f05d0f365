"""How our processes start their Python: without what anything of this user may have put into its packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import avault


@pytest.mark.parametrize("is_begun_without", [True, False])
@pytest.mark.parametrize(
    ("found", "is_left_out"), [(None, True), ("usercustomize.py", True), ("nostr_sdk", False), ("mitmproxy", False)]
)
def test_packages_of_this_user_are_taken_only_if_the_daemon_began_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str | None, is_left_out: bool, is_begun_without: bool
) -> None:
    """A daemon that began without them does not take them because something comes to lie there."""
    monkeypatch.setattr(avault.site, "getusersitepackages", lambda: str(tmp_path))
    monkeypatch.setattr(avault.sys, "flags", SimpleNamespace(no_user_site=int(is_begun_without)))
    if found:
        (tmp_path / found).mkdir()
    command = avault.own_command("opener")
    flags = command[1 : command.index("-c")]
    assert ("-s" in flags) == (is_left_out or is_begun_without) and "-P" in flags


def test_of_another_account_its_own_packages_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whom root installs a service, which may have avault's packages there."""
    place = os.path.join(os.path.expanduser("~"), ".local/lib/packages")
    monkeypatch.setattr(avault.site, "getusersitepackages", lambda: place)
    monkeypatch.setattr(avault.sys, "flags", SimpleNamespace(no_user_site=0))
    (tmp_path / ".local/lib/packages/click").mkdir(parents=True)
    assert avault.python_flags(str(tmp_path)) == ["-P"] and avault.python_flags(str(tmp_path / "other")) == ["-s", "-P"]


def test_a_usercustomize_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = sys._base_executable  # an environment of its own has no packages of a user
    env = {"PYTHONUSERBASE": str(tmp_path), "PATH": os.environ["PATH"]}
    asked = [python, "-c", "import site; print(site.getusersitepackages())"]
    place = Path(subprocess.run(asked, check=True, env=env, capture_output=True, text=True).stdout.strip())
    place.mkdir(parents=True)
    (place / "usercustomize.py").write_text("print('run')")
    monkeypatch.setattr(avault.site, "getusersitepackages", lambda: str(place))
    for flags, said in (([], "run\n"), (avault.python_flags(), "")):
        done = subprocess.run([python, *flags, "-c", "pass"], check=True, env=env, capture_output=True, text=True)
        assert done.stdout == said
