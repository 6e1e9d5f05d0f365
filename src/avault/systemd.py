"""What systemd says of the service that avault installs.

Asked where no daemon listens: whether systemd is about to start it, and how it is started.
"""

from __future__ import annotations

import os
import subprocess

from avault.errors import AvaultError, Unavailable, printable
from avault.places import Places

OTHER_WAYS = "launchd, OpenRC, cron and the like: references/service.md"


class NoManager(Unavailable):
    """systemd, or the manager of this user, is not running."""


class NoDaemon(Unavailable):
    """Nobody listens.

    `command` is what helps, `reason` what systemd knows of it, and `state` that of the status:
    stopped, or starting by itself.
    """

    def __init__(
        self,
        places: Places,
        command: str = "avault daemon start -b",
        how: str = "start it with",
        reason: str = "",
    ) -> None:
        super().__init__(
            f"no daemon is running for {places.dir}" + (f": {reason}" if reason else ""),
            f"{how}: {command}",
        )
        self.command, self.reason, self.state = command, reason, "stopped"


class Unit:
    """A vault's unit of systemd: `name` and `path`, in the user's manager or in the system's."""

    def __init__(self, places: Places, system: bool) -> None:
        self.system = system
        self.path = places.unit(system)
        self.directory, self.name = os.path.split(self.path)
        self.systemctl = "systemctl" if system else "systemctl --user"

    def command(self, verb: str) -> str:
        """What a person types to have systemd do this with the unit."""
        sudo = "sudo " if self.system and os.getuid() != 0 else ""
        return f"{sudo}{self.systemctl} {verb} {self.name}"

    def ask(self, *words: str) -> str:
        """What systemctl(1) prints.

        Raises NoManager, and AvaultError with what it complains about.
        """
        environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
        if not self.system:
            environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        try:
            done = subprocess.run(
                [*self.systemctl.split(), "--no-ask-password", *words],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                timeout=120,
            )
        except OSError:
            raise NoManager("there is no systemd here", OTHER_WAYS) from None
        except subprocess.TimeoutExpired:
            raise AvaultError(
                f"systemd does not answer: {self.systemctl} {' '.join(words)}"
            ) from None
        if done.returncode and (
            "Failed to connect to" in done.stderr or "not been booted with systemd" in done.stderr
        ):
            hint = (
                OTHER_WAYS
                if self.system
                else "log in (ssh, not su), or: sudo loginctl enable-linger"
            )
            raise NoManager(
                "systemd does not answer" if self.system else "this user's systemd does not answer",
                hint,
            )
        if done.returncode:
            complaint = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            look = f"journalctl {'' if self.system else '--user '}-u {self.name}"
            raise AvaultError(
                f"systemctl {words[0]} failed: {printable(complaint[0])}", f"see why: {look}"
            )
        return done.stdout

    def show(self) -> dict[str, str]:
        """Its ActiveState, SubState, Result and MainPID; raises NoManager and AvaultError."""
        lines = self.ask(
            "show", "--property=ActiveState,SubState,Result,MainPID", self.name
        ).splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}


def is_booted() -> bool:
    """Whether systemd is this machine's init (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def find_unit(places: Places) -> tuple[Unit, dict[str, str]] | None:
    """The installed unit of a vault, and what its manager says of it.

    None where there is none, or nobody to say it.
    """
    unit = next(
        (unit for unit in (Unit(places, False), Unit(places, True)) if os.path.lexists(unit.path)),
        None,
    )
    if not unit or not is_booted():
        return None
    try:
        return unit, unit.show()
    except AvaultError:
        return None


def explain_absence(places: Places) -> NoDaemon:
    """Why no daemon listens, and what starts one.

    That is systemd where it has a service of this vault, so that two do not compete.
    """
    found = find_unit(places)
    if not found:
        return NoDaemon(places)
    unit, shown = found
    active, result = shown.get("ActiveState"), shown.get("Result")
    if active == "activating":
        is_pausing = shown.get("SubState", "").startswith("auto-restart")
        absence = (
            NoDaemon(
                places,
                unit.command("restart"),
                "at once with",
                f"it ended ({result}), and systemd starts it again after a pause",
            )
            if is_pausing
            else NoDaemon(places, "avault status", "look again", "systemd is just starting it")
        )
        absence.state = "starting"
        return absence
    if active == "failed":
        anew = f"{unit.command('reset-failed')} && {unit.command('start')}"
        return NoDaemon(places, anew, reason=f"its service has failed ({result})")
    if active == "active":
        return NoDaemon(
            places,
            unit.command("restart"),
            "start it anew with",
            "its service is active, and listens elsewhere",
        )
    return NoDaemon(places, unit.command("start"))


def hasten_service(places: Places) -> bool:
    """Have systemd start now what it would start again after a pause, and return when that listens.

    Gives whether there is such.

    A daemon that we started ourselves meanwhile would have the vault's lock, but neither the
    service's settings nor anybody who starts it again. Raises NoDaemon where systemd does not start
    it for us.
    """
    found = find_unit(places)
    if not found or not found[1].get("SubState", "").startswith("auto-restart"):
        return False
    try:
        found[0].ask("restart", found[0].name)  # a `start` would wait for the end of the pause, too
    except AvaultError:
        raise explain_absence(places) from None
    return True
