"""The accounts that a service may run as, and whether theirs runs without a login."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def as_account(user: str) -> dict[str, Any]:
    """What makes `subprocess` run something as an account: nothing if that is us.

    So root runs no user's git.
    """
    if user == account_name():
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def home_of(user: str) -> str:
    """The home of an account, as systemd sets it."""
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return os.path.expanduser("~")


def account_name() -> str:
    """The account that we run as, whatever the environment says: its name, or else its number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def is_lingering(user: str) -> bool:
    """Whether the user's manager runs without a login (loginctl(1), enable-linger)."""
    return os.path.exists(f"/var/lib/systemd/linger/{user}")


def linger(user: str) -> bool:
    """Have the user's manager run from boot on, and start it; whether it does."""
    if not is_lingering(user):
        enable = ["loginctl", "--no-ask-password", "enable-linger", user]
        try:
            subprocess.run(
                enable, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return is_lingering(user)
