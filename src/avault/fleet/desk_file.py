"""What a desk remembers: how it reaches its operator's phone, and the keys of its groups, sealed.

desk.json, in the directory of states. Each key of a group is in an envelope that only the phone
opens; beside it stand the machines that it may open, and the public half of each one's own key.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.errors import NotFound, Tampered, Unavailable, Usage, printable
from avault.keys.nostr import parse_npub, read_keys, to_npub
from avault.places import state_home
from avault.process import take_lock
from avault.vault.files import make_private_directory, read_file, write_file
from avault.vault.own_files import check_name, check_relay, decode_file, encode_file

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys


MOST_TOGETHER = 20  # machines that one approval opens
PAIR_DESK, PAIR_ANEW = "avault fleet enroll", "avault fleet pair"


class DeskFile:
    """desk.json: the NIP-46 client `keys`, the `signer` and the `operator` (hex), and `groups`.

    Of a group a list, the latest key first: {"peer", "envelope", "hosts"}, and of the hosts that
    may be on it, by label, {"agent", "salt", "key"}. `label` is the desk's own name on phones.
    """

    def __init__(
        self, keys: Keys, signer: str, operator: str, relays: list[str], label: str
    ) -> None:
        self.keys, self.signer, self.operator = keys, signer, operator
        self.relays, self.label = relays, label
        self.groups: dict[str, list[dict[str, Any]]] = {}

    @staticmethod
    def path() -> str:
        """Where it lies."""
        return os.path.join(state_home(), "desk", "desk.json")

    @staticmethod
    def load() -> DeskFile | None:
        """This user's desk; None where there is none. Raises Tampered."""
        path = DeskFile.path()
        if not os.path.lexists(path):
            return None
        content = decode_file("desk", read_file(path), path)
        try:
            signer, operator = parse_npub(content["signer"]), parse_npub(content["operator"])
            relays = [check_relay(url) for url in content["relays"]]
            keys, label = read_keys(content["client_key"]), check_name(content["label"])
            desk = DeskFile(keys, signer, operator, relays, label)
            desk.groups = {
                name: [*map(read_group_key, each)] for name, each in content["groups"].items()
            }
        except (Usage, ValueError, TypeError, KeyError, AttributeError):
            raise Tampered(f"{path} is damaged", f"move it away, then: {PAIR_DESK}") from None
        return desk

    @staticmethod
    def need() -> DeskFile:
        """This user's desk; raises NotFound, Tampered."""
        if desk := DeskFile.load():
            return desk
        raise NotFound("no machine has let this desk open it", PAIR_DESK)

    def save(self) -> None:
        """Write it; keys that may open nothing any more are forgotten."""
        self.groups = {
            name: kept
            for name, each in self.groups.items()
            if (kept := [one for one in each if one["hosts"]])
        }
        content = {
            "client_key": self.keys.secret_key().to_hex(),
            "signer": to_npub(self.signer), "operator": to_npub(self.operator),
            "relays": self.relays, "label": self.label, "groups": self.groups,
        }  # fmt: skip
        make_private_directory(os.path.dirname(DeskFile.path()))
        write_file(DeskFile.path(), encode_file("desk", content))

    def keys_of(self, group: str) -> list[dict[str, Any]]:
        """The keys of a group, the latest first; raises NotFound."""
        if not (found := self.groups.get(group)):
            known = ", ".join(sorted(self.groups)) or "none"
            raise NotFound(f"there is no group {printable(group)}; there are: {known}", PAIR_DESK)
        return found

    def members(self, group: str) -> set[str]:
        """The labels of the hosts of a group."""
        return {label for key in self.groups.get(group, []) for label in key["hosts"]}

    def agents(self) -> dict[str, str]:
        """The agents' public keys (hex) of all hosts, by label."""
        return {
            label: each["agent"]
            for keys in self.groups.values()
            for key in reversed(keys)
            for label, each in key["hosts"].items()
        }

    def is_let_in(self, group: str, label: str, agent: str, key: object) -> bool:
        """Whether a host says of itself that a key (hex) of its group opens this agent (hex)."""
        known = [each["hosts"].get(label, {}) for each in self.groups.get(group, [])]
        return any((mine.get("agent"), mine.get("key")) == (agent, key) for mine in known)

    def group_of(self, label: str) -> str | None:
        """The group that a host is in."""
        return next((name for name in self.groups if label in self.members(name)), None)

    def laggards(self) -> dict[str, str]:
        """Hosts that an older key of their group may open: the label, and the group."""
        return {
            label: name
            for name, keys in self.groups.items()
            for key in keys[1:]
            for label in key["hosts"]
        }

    def forget(self, label: str, but: dict[str, Any] | None = None) -> None:
        """Note that none of the keys opens a host, or none `but` one."""
        for keys in self.groups.values():
            for key in keys:
                if key is not but:
                    key["hosts"].pop(label, None)


class DeskLock:
    """No other command writes the desk's file, for the length of a `with`.

    Each has it from its beginning to its end: what it writes is all groups, as it has read them.
    """

    def __enter__(self) -> None:
        """Raises Unavailable where another command is under way."""
        directory = os.path.dirname(DeskFile.path())
        make_private_directory(directory)
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        if not take_lock(self.fd):
            os.close(self.fd)
            said = "another fleet command is under way at this desk"
            raise Unavailable(said, "let it end, then the same again")

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def read_group_key(found: Any) -> dict[str, Any]:
    """A key of a group, as the file has it; raises Usage, TypeError, KeyError."""
    hosts = {
        str(label): {
            "agent": parse_npub(each["agent"]),
            "salt": bytes.fromhex(each["salt"]).hex(),
            "key": parse_npub(each["key"]),
        }
        for label, each in found["hosts"].items()
    }
    return {"peer": parse_npub(found["peer"]), "envelope": str(found["envelope"]), "hosts": hosts}
