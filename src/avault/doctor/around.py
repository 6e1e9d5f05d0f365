"""Checks of what is around the vault: git, files with secrets in clear."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.doctor.patient import AUDIT_TIME, CUSTODY_PATIENCE, Finding, Patient
from avault.errors import AvaultError, printable
from avault.git.driver import set_up
from avault.git.record import examine_repository
from avault.git.repository import Repository
from avault.intake.audit import Audit, Held, usual_files
from avault.process import own_command
from avault.replica.sending import describe_relays
from avault.service.accounts import account_name, is_lingering
from avault.service.state import look_at_service
from avault.service.unit import Service
from avault.systemd import is_booted
from avault.vault.files import read_file
from avault.vault.names import PHONE

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_custody(patient: Patient) -> Iterator[Finding]:
    """Whether each custodian that may open the vault is there, and which of them ask nobody."""
    try:
        order = Custodians(patient.places).order()
    except AvaultError as error:
        yield Finding("bad", error.message, error.hint)
        return
    if order == [PHONE]:
        yield Finding("off", "the phone opens this vault, and no custodian")
        return
    try:
        answer = patient.ask("custody", CUSTODY_PATIENCE, action="list")
    except AvaultError:
        answer = {}
    for each in answer.get("custodians") or [{"name": name} for name in order]:
        name = printable(each["name"])
        if each.get("outcome") not in (None, "ok"):
            said = printable(each.get("said") or each["outcome"])
            text = f"{name} is to open this vault, and does not: {said}"
            yield Finding("bad", text, f"avault custody test {name}")
        elif each.get("asks") is False:
            text = f"{name} opens the vault without a person"
            yield Finding("warn", text, f"if that is not meant: avault custody remove {name}")
        elif name != PHONE:
            yield Finding("ok", f"{name} opens the vault, and asks a person")
    for each in answer.get("offered", []):
        if each["name"] in order and not each["why"]:
            name = printable(each["name"])
            text = (
                f"another machine has put another {name} in the place of the one that is used here"
            )
            yield Finding("warn", text, f"avault custody take {name}")


def check_git(patient: Patient) -> Iterator[Finding]:
    """Whether what is written is committed and published; see git/record."""
    directory = patient.places.dir
    if not patient.has_vault():
        yield Finding("off", "no vault")
        return
    facts = examine_repository(directory)
    said = (patient.status or {}).get("git") or {}
    for each in facts["problems"]:
        if facts["merge_driver"] is False and each["hint"] == "avault doctor --fix":

            def mend() -> str:
                set_up(Repository(directory))
                return "had git merge the vault by key"

            yield Finding("bad", each["problem"], each["hint"], mend)
        else:
            yield Finding("bad", each["problem"], each["hint"])
    known = {each["problem"] for each in facts["problems"]}
    if said.get("state") in ("failed", "refused", "conflict") and said.get("reason") not in known:
        yield Finding(
            "bad",
            f"the last commit failed: {printable(said.get('reason'))}",
            said.get("hint") or "avault sync",
        )
    elif said.get("push") in ("failed", "refused", "rejected"):
        yield Finding(
            "bad",
            f"the last push failed: {printable(said.get('push_reason'))}",
            said.get("hint") or "avault sync",
        )
    if not facts["repository"]:
        yield Finding("off", "the vault is in no git repository: its history is not kept")
    elif facts["ignored"]:
        yield Finding("off", f"{facts['repository']} ignores the vault: its history is not kept")
    else:
        published = (
            f", published to {facts['upstream']}" if facts["upstream"] else ", published nowhere"
        )
        yield Finding("ok", f"committed in {facts['repository']}{published}")


def check_replica(patient: Patient) -> Iterator[Finding]:
    """Whether the relays that are to keep the vault do, as they were last found."""
    told = describe_relays(patient.places)
    rows, said = told["relays"], (patient.status or {}).get("replica") or {}
    if not rows:
        yield Finding("off", "no relay keeps the vault")
        return
    for row in rows:
        if row["said"]:
            text = f"{row['url']} does not keep the vault: {printable(row['said'])}"
            yield Finding("bad", text, "avault replica push")
    for problem in [said.get("problem"), *(said.get("problems") or [])]:
        if problem:
            yield Finding("bad", printable(problem), "avault replica push")
    kept = [row for row in rows if row["kept"]]
    if not any(row["said"] for row in rows):
        yield Finding("ok", f"{len(kept)} of {len(rows)} relays keep the vault as it is")


def check_service(patient: Patient) -> Iterator[Finding]:
    """Whether the daemon comes back after a reboot, by a service of avault's own."""
    services = [Service(patient.places, system, account_name()) for system in (False, True)]
    installed = [service for service in services if os.path.lexists(service.path)]
    if not installed:
        hint = "avault service install" if is_booted() and patient.has_vault() else None
        yield Finding(
            "off", "no service is installed: after a reboot, somebody has to start the daemon", hint
        )
        return
    if len(installed) > 1:
        yield Finding(
            "bad",
            "a service of the user's and one of the system's start the same daemon",
            "avault service uninstall",
        )
    for service in installed:
        found, again = (
            look_at_service(service),
            f"avault service install{' --system' if service.system else ''}",
        )
        if not found["current"]:
            yield Finding("warn", f"{service.path} is not as avault would write it now", again)
        if not found["enabled"]:
            yield Finding("bad", f"{service.name} is not enabled: it does not start at boot", again)
        if found["active"] in ("failed", "inactive") and not patient.status:
            reset = f"{service.command('reset-failed')} && " if found["active"] == "failed" else ""
            yield Finding(
                "bad", f"{service.name} is {found['active']}", reset + service.command("start")
            )
        yield Finding(
            "ok",
            service.path
            + (f", {found['active']}" if found["active"] else "; systemd does not run here to ask"),
        )


def check_lingering(patient: Patient) -> Iterator[Finding]:
    """Whether a logout is the end of the daemon (loginctl(1))."""
    user = account_name()
    is_service = os.path.lexists(Service(patient.places, False, user).path)
    is_session = bool(patient.status) and patient.places.socket.startswith("/run/user/")
    if not is_booted() or not (is_service or is_session):
        yield Finding("off", "no logout of yours ends the daemon")
    elif is_lingering(user):
        yield Finding("ok", "lingering is on: the daemon outlives your logout")
    else:
        text = "lingering is off: the daemon ends when you log out" + (
            ", and starts when you log in" if is_service else ""
        )
        yield Finding("bad", text, f"sudo loginctl enable-linger {user}")


def check_plaintext(patient: Patient) -> Iterator[Finding]:
    """Secrets in clear, where they usually stand.

    They are known by their values while the vault is open, else by what they look like.
    """
    hint = "see where: avault audit; take them in: avault migrate --remove"
    if patient.is_open():
        # a process of its own: no value comes in here
        words = own_command("audit", "--json", "--dir", patient.places.dir)
        done = subprocess.run(
            words, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=AUDIT_TIME
        )
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise AvaultError.from_dict(answer)
        found, files = [row["file"] for row in answer["findings"]], answer["files"]
    else:
        audit = Audit(Held([]))
        for file in usual_files(patient.places):
            audit.look(file)
        found, files = [finding.file for finding in audit.findings], audit.files
    judged = "" if patient.is_open() else ", judged by what they look like"
    if found:
        where = ", ".join(dict.fromkeys(map(printable, found)))
        yield Finding(
            "warn" if judged else "bad", f"{len(found)} secret(s) in clear in {where}{judged}", hint
        )
    else:
        yield Finding("ok", f"no secret in clear in {len(files)} usual file(s){judged}")


def check_swap(patient: Patient) -> Iterator[Finding]:
    """Whether what the keyholder knows may be written to a disk as it is."""
    plain = [area for area in swap_areas() if not is_sealed_off(area)]
    pid = (patient.status or {}).get("keyholder_pid")
    if not plain:
        yield Finding(
            "ok" if sys.platform == "linux" else "off",
            "no swap that is not encrypted, or not looked at",
        )
    elif pid and never_swaps(pid):
        yield Finding("ok", "swap is on, but not for the daemon")
    else:
        text = f"swap is not encrypted: {', '.join(plain)}; secrets may be written there"
        yield Finding(
            "warn", text, "avault service install, whose daemon is not swapped; or encrypt the swap"
        )


def swap_areas(swaps: str = "/proc/swaps") -> list[str]:
    """The devices and files that are swapped to (proc(5))."""
    try:
        with open(swaps, encoding="utf-8", errors="surrogateescape") as file:
            return [
                line.split()[0].encode().decode("unicode_escape") for line in file.readlines()[1:]
            ]
    except OSError:
        return []


def is_sealed_off(area: str, sysfs: str = "/sys") -> bool:
    """Whether a swap area is memory (zram), or lies on dm-crypt, itself or the disk of its file."""
    try:
        info = os.stat(area)
    except OSError:
        return False
    device = info.st_rdev if stat.S_ISBLK(info.st_mode) else info.st_dev
    return is_encrypted(f"{sysfs}/dev/block/{os.major(device)}:{os.minor(device)}")


def is_encrypted(device: str) -> bool:
    """Whether a block device in sysfs is zram or dm-crypt, or made of such alone (LVM, RAID)."""
    if os.path.basename(os.path.realpath(device)).startswith("zram"):
        return True
    try:
        if read_file(os.path.join(device, "dm/uuid")).startswith(b"CRYPT-"):
            return True
    except AvaultError:
        pass
    below = os.path.join(device, "slaves")
    parts = os.listdir(below) if os.path.isdir(below) else []
    return bool(parts) and all(is_encrypted(os.path.join(below, part)) for part in parts)


def never_swaps(pid: int) -> bool:
    """Whether the memory of a process stays in memory: its unit has MemorySwapMax=0."""
    try:
        group = read_file(f"/proc/{pid}/cgroup").decode().rpartition("0::")[2].strip()
        return read_file(f"/sys/fs/cgroup{group}/memory.swap.max").strip() == b"0"
    except AvaultError:
        return False
