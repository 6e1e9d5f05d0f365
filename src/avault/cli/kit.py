"""The recovery kit of a vault without a phone, as a sheet to print."""

from __future__ import annotations

import os

from avault.errors import AvaultError, Usage
from avault.plain import write_all
from avault.terminal.sheet import cut_text, render_sheet
from avault.vault.work_tree import find_git


def check_sheet(path: str, vault: str) -> str:
    """Where a sheet may be written, as an absolute path; raises Usage.

    Nothing is there yet, and it is neither beside the ciphertext that it opens nor in a work tree
    of git, which is published.
    """
    whole = os.path.abspath(os.path.expanduser(path))
    place = os.path.realpath(os.path.dirname(whole))
    if os.path.lexists(whole):
        raise Usage(f"{whole} is there already", "name a file that is not: --kit FILE.html")
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        raise Usage(f"no file can be written into {place}", "name another place: --kit FILE.html")
    if os.path.commonpath((place, os.path.realpath(vault))) == os.path.realpath(vault):
        raise Usage("the kit opens what lies there: it belongs elsewhere", "--kit FILE.html")
    if find_git(place):
        raise Usage(f"git could publish what is in {place}", "name another place: --kit FILE.html")
    return whole


def render_kit(kit: dict[str, str]) -> bytes:
    """The sheet: whose it is, the operator's key as a QR code and in pieces, and how it is used."""
    facts = {"Vault": kit["name"], "Operator": kit["operator"]}
    what = (
        "This is the operator's own key. With a copy of the vault's directory it opens the vault on"
        " any machine, also when the custodian that opens it each day is gone. It is kept nowhere"
        " else."
    )
    how = (
        "To use it, on a machine with a copy of the vault:"
        " `avault recover --operator-key - --with passphrase`, and type the pieces in their order,"
        " without spaces between them. The directory is named by `--dir`, if it is not the usual"
        " one; instead of `passphrase`, name the custodian that is to open it from then on."
    )
    beware = (
        "Whoever has this sheet and a copy of the vault's directory has the vault. Keep it where"
        " neither the vault nor a backup of it is, and do not photograph it."
    )
    title, key = f"Recovery kit of {kit['name']}", kit["nsec"]
    return render_sheet(title, facts, key, cut_text(key), [what, how, beware])


def write_kit(path: str, kit: dict[str, str]) -> None:
    """Write the sheet where nothing is (0600), and nowhere else before; raises AvaultError."""
    page = render_kit(kit)
    try:
        fd = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            write_all(fd, page)
            os.fsync(fd)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}") from None
