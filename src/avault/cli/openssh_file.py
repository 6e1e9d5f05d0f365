"""A key's file in OpenSSH's own form, with a passphrase: OpenSSH opens it, in memory alone.

What encrypts it (bcrypt_pbkdf) would be a package more in the process that has keys.
"""

from __future__ import annotations

import os
import subprocess

from avault.errors import Denied, Unavailable, Usage
from avault.plain import write_all
from avault.process import clean_environment
from avault.running.terminals import open_terminal
from avault.vault.openssh_key import read_armor

ASKING = ("SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY")


def has_passphrase(text: str) -> bool:
    """Whether a file is a private key in OpenSSH's form that is encrypted (PROTOCOL.key)."""
    try:
        return read_armor(text).text() != "none"
    except ValueError:
        return False


def open_key_file(text: str) -> str:
    """The key in a file, without its passphrase, for which ssh-keygen asks; others as they are.

    Where no memory can be had that has a path (memfd_create(2)), as it is, too. Raises Denied,
    Unavailable, Usage.
    """
    if not has_passphrase(text) or not hasattr(os, "memfd_create"):
        return text
    check_asking()
    fd = os.memfd_create("avault", os.MFD_CLOEXEC)
    with open(fd, "r+b", buffering=0) as copy:
        os.fchmod(fd, 0o600)  # ssh-keygen takes no file of others'
        write_all(fd, text.encode())
        words = ["ssh-keygen", "-q", "-p", "-N", "", "-f", f"/proc/self/fd/{fd}"]
        try:
            done = subprocess.run(
                words,
                env={
                    **clean_environment(),
                    **{each: os.environ[each] for each in ASKING if each in os.environ},
                },
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:
            raise Unavailable(
                "this key needs ssh-keygen, which is not installed",
                "install OpenSSH's client, or take the passphrase off a copy elsewhere",
            ) from None
        if done.returncode:
            if "passphrase" in done.stderr:
                raise Denied("the passphrase is wrong", "try again")
            raise Usage("that is no private key", "as ssh-keygen or openssl writes one")
        copy.seek(0)
        return copy.read().decode(errors="replace")


def check_asking() -> None:
    """Raise Usage where ssh-keygen can ask nobody."""
    if not os.environ.get("SSH_ASKPASS"):
        need_terminal(
            "the key has a passphrase, and there is no terminal to ask for it",
            "run it in a terminal, or set SSH_ASKPASS, and SSH_ASKPASS_REQUIRE=force",
        )


def need_terminal(said: str, hint: str) -> None:
    """Raise Usage, with that, where there is no terminal to ask at."""
    terminal = open_terminal()
    if terminal is None:
        raise Usage(said, hint)
    os.close(terminal)
