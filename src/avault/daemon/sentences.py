"""The sentences by which the operator agrees to a change of the ways into the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import printable

if TYPE_CHECKING:
    from avault.protocol import Message


# of a custodian's settings, what says where it is
WHERE = (
    "endpoint", "address", "path", "module", "key", "wrap", "unwrap", "operator", "of",
)  # fmt: skip
FIRST = "first operator"  # as the one is called who has no other name


def rank_place(setting: str) -> tuple[bool, int]:
    """The order in which places are named: the custodian's own first."""
    member, _, name = setting.rpartition(".")
    return bool(member), WHERE.index(name)


def says_where(settings: dict[str, str], setting: str) -> bool:
    """Whether a setting says where a custodian is; a `key` does only for KMS, in its region."""
    member, dot, name = setting.rpartition(".")
    return name in WHERE and (name != "key" or f"{member}{dot}region" in settings)


def describe_custodian(message: Message, width: int = 200) -> str:
    """A custodian as the operator is told of it: its name, its kind, and where it is.

    Of a quorum, where each member is.
    """
    custodian, kind, settings = message["custodian"], message["kind"], message["settings"]
    who = kind if custodian == kind else f"{custodian} ({kind})"
    named = [each for each in settings if settings[each] and says_where(settings, each)]
    place = ", ".join(settings[each] for each in sorted(named, key=rank_place))
    return printable(f"{who} at {place}" if place else who, width + len(who))


def describe_way(message: Message, host: str) -> str:
    """Where a custodian opens the vault, and whether somebody is asked."""
    # whether a program asks somebody is its own word
    is_sure = message["asks"] and message["kind"] not in ("command", "program")
    how = "WITHOUT your phone" if is_sure else "WITHOUT anybody, always"
    return f"on {'EVERY machine' if message['shared'] else host} {how}"


def describe_openers(
    operators: dict[str, str], custodians: list[Message], host: str, asked: str = ""
) -> str:
    """Who opens the vault after a rotation besides who is `asked` (an npub); "" for nobody.

    Operators are npubs by their names, the first one's being "".
    """
    named = [f"{name or FIRST} ({npub[:19]}…)" for name, npub in operators.items() if npub != asked]
    named += [f"{describe_custodian(each, 300)} {describe_way(each, host)}" for each in custodians]
    return "; ".join(named)


def describe_retiring(name: str, message: Message) -> tuple[str, str]:
    """The title and the sentence by which one that is shared is taken away, for all machines."""
    said = f"avault: {describe_custodian(message)} opens {name} NO MORE, on EVERY machine"
    return f"{name} without {message['custodian']}", said


def describe_entrusting(name: str, host: str, message: Message) -> tuple[str, str]:
    """The title and the sentence by which a custodian is agreed to."""
    custodian, kind = message["custodian"], message["kind"]
    who = kind if custodian == kind else f"{custodian} ({kind})"
    said = f"avault: let {describe_custodian(message)} open {name} {describe_way(message, host)}"
    return f"{who} for {name}", said
