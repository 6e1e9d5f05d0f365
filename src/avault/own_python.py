"""How a process of ours starts its Python: without what anything of this user put there."""

from __future__ import annotations

import os
import site
import sys

# what we, and the extras, import of others
PACKAGES = (
    "boto3", "click", "cryptography", "fido2", "keyring", "mcp", "mitmproxy", "nostr_sdk", "PIL",
    "pkcs11", "qrcode", "shamir_mnemonic",
)  # fmt: skip


def python_flags(home: str | None = None) -> list[str]:
    """The interpreter's flags: no directory is looked into besides, and no packages of this user.

    In these a `usercustomize.py`, which anything may write, would run before all else, in a process
    that gets keys (the `site` module). They are left in where packages that we import lie there. A
    daemon that began without them goes on without them, whatever comes to lie there later. Of
    another user it is the `home` that tells where theirs are.
    """
    place, own = site.getusersitepackages(), os.path.expanduser("~") + os.sep
    if home and place.startswith(own):
        place = os.path.join(home, place.removeprefix(own))
    is_left_out = (sys.flags.no_user_site and home in (None, os.path.expanduser("~"))) or not any(
        os.path.lexists(os.path.join(place, each)) for each in PACKAGES
    )
    return ["-s", "-P"] if is_left_out else ["-P"]
