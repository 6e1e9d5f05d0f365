"""What a command in a sandbox must neither see nor change: the vault, and what runs outside later.

Later, and unasked: avault itself and the ways to start it, its Python, git's settings.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
from typing import TYPE_CHECKING

from avault.daily import PROJECT_FILE
from avault.places import state_home, unit_directory, usual_directories, usual_directory
from avault.vault.files import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avault.places import Places

BY_ITSELF = (  # a variable, what it is below the home if it is not set, and what starts from there
    (
        "XDG_CONFIG_HOME",
        ".config",
        ("autostart", "environment.d", "fish", "git", "systemd", "user-tmpfiles.d"),
    ),
    ("XDG_DATA_HOME", ".local/share", ("bash-completion", "dbus-1", "fish", "systemd")),
)
IMPORTED = ("avault", "avault_extras", "click", "keyring", "nostr_sdk", "PIL", "qrcode")


def hidden_directories(places: Places) -> set[str]:
    """The directories of which a sandbox shows nothing: of this vault, and what all vaults share.

    The vault, the state of all vaults, and where sockets of a session are.
    """
    found = {places.dir, usual_directory(), state_home(), f"/run/user/{os.getuid()}"}
    found |= {os.environ.get("XDG_RUNTIME_DIR") or places.dir}
    return {os.path.realpath(each) for each in found}


def program_directory() -> str:
    """Where avault.py is, which Python looks into first when that is run as a script."""
    return os.path.dirname(os.path.realpath(__file__))


def is_imported(path: str, top: str) -> bool:
    """Whether Python may import what is at a path in `top`, or the path is `top` itself."""
    first = os.path.relpath(path, top).partition(os.sep)[0]
    return first in {".", "__pycache__", *IMPORTED, *sys.stdlib_module_names}


def home_ways() -> set[str]:
    """What starts by itself, or in place of avault, of this user's: a path each, there or not.

    Units (systemd.unit(5)) and what else a session starts or reads, programs and packages, settings
    of git (git-config(1)): where the XDG Base Directory Specification has them, and where the
    caller's variables do.
    """
    home = os.path.realpath(os.path.expanduser("~"))
    found = {os.path.join(home, ".local/bin"), os.path.abspath(site.getusersitepackages())}
    for variable, usual, names in BY_ITSELF:
        tops = {os.path.join(home, usual), os.environ.get(variable) or os.path.join(home, usual)}
        found |= {os.path.abspath(os.path.join(top, name)) for top in tops for name in names}
    return found | {os.path.realpath(each) for each in found}


def git_places(places: Places) -> Iterator[str]:
    """Each .git around the vault, and the directories that one names as a file.

    All of them: an inner one that is empty is none to git (gitrepository-layout(5)).
    """
    way = os.path.dirname(os.path.realpath(places.dir))
    while True:
        found = os.path.join(way, ".git")
        if os.path.lexists(found):
            yield found
        if os.path.isfile(found):
            named = os.fsdecode(read_file(os.path.realpath(found)))
            found = os.path.join(way, named.removeprefix("gitdir: ").rstrip("\n"))
            yield found
        common = os.path.join(found, "commondir")
        if os.path.isfile(common):  # of a worktree of its own
            yield os.path.join(found, os.fsdecode(read_file(common)).rstrip("\n"))
        if way == (way := os.path.dirname(way)):
            return


def empty_places(places: Places) -> Iterator[str]:
    """Where nothing is, and what the command would put there would be used outside, if there is.

    A git around the vault, the file that chooses the secrets of the next run here, and a vault
    where one is looked for first.
    """
    way = os.path.realpath(places.dir)
    while os.path.isdir(places.dir) and way != os.path.dirname(way):
        way = os.path.dirname(way)
        yield os.path.join(way, ".git")
    yield os.path.join(os.getcwd(), PROJECT_FILE)
    yield from map(os.path.realpath, usual_directories())


def protected_names(places: Places) -> set[str]:
    """The paths, as they are used, of what the command must not change; what is there.

    The file in this directory chooses the secrets of the next run. A repository's settings name
    programs, and say whether avault pushes.
    """
    found = {PROJECT_FILE, program_directory(), sys.prefix, sys.base_prefix, sys.executable}
    found |= {os.path.dirname(os.path.realpath(sys.executable)), __file__, *git_places(places)}
    launchers = (sys.argv[0], shutil.which("avault") or "", "~/.local/bin/avault")
    settings = ("~/.gitconfig", unit_directory(system=False))
    more = (*launchers, *settings, os.environ.get("GIT_CONFIG_GLOBAL", ""))
    found |= {os.path.expanduser(each) for each in more if each} | home_ways()
    # as they are: `..` after a link is not what it seems
    return {os.path.join(os.getcwd(), each) for each in found if os.path.lexists(each)}


def is_empty_directory(path: str) -> bool:
    """Whether it is a directory, and no link to one, with nothing in it."""
    return os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path)


def links_on_way(path: str) -> set[str]:
    """All links that an absolute path leads over, at its end too."""
    found: set[str] = set()
    rest = [path]
    while rest:
        way = rest.pop()
        while way != os.path.dirname(way):
            if os.path.islink(way) and way not in found:
                found.add(way)
                rest.append(os.path.join(os.path.dirname(way), os.readlink(way)))
            way = os.path.dirname(way)
    return found
