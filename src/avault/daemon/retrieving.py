"""A vault that relays keep, opened on a machine that has nothing of it, or the key before.

The client fetches: this process reads what it is given, and asks the phone once.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.daemon.following import Following, know_before
from avault.daemon.pairing import shake_hands
from avault.daemon.wire import Session
from avault.errors import Denied, Tampered
from avault.keys.keyholder import Keyholder
from avault.keys.nostr import parse_npub, public_hex, to_npub
from avault.keys.obtaining import Phone
from avault.keys.root import describe_return, open_root, replica_keys, seal_root
from avault.keys.seal import open_vault
from avault.signer.pairing import DEFAULT_RELAYS, Pairing
from avault.signer.replica import (
    MOST_HEADS,
    compose_root,
    describe_head,
    join_copy,
    name_event,
    read_head,
    read_root,
)
from avault.vault.files import find_free, write_file
from avault.vault.machines import KIND, read_machine
from avault.vault.own_files import check_relay, complete_attributes, encode_file, encode_hints
from avault.vault.presence import is_of, read_vault, refuse_to_overwrite
from avault.vault.recovery import seal_recovery

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys
    from avault.protocol import Message
    from avault.signer.remote import RemoteSigner
    from avault.vault.records import Vault


async def retrieve(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Pair, have the phone open the root, and make the vault's files of what relays have.

    Whoever answers the pairing code is the operator if the root opens: no other key does that.
    """
    agent = parse_npub(str(request.get("agent")))
    known = know_before(keyholder.places, private.get("farewells"), agent)
    if not known:
        refuse_to_overwrite(keyholder.places, agent)
        return await take_from_relays(keyholder, session, request, private, agent)
    with Following(keyholder.places, lambda: bool(keyholder.holding.store), agent):
        return await take_from_relays(keyholder, session, request, private, agent, known)


async def take_from_relays(
    keyholder: Keyholder,
    session: Session,
    request: Message,
    private: Message,
    agent: str,
    known: dict[str, Any] | None = None,
) -> Message:
    """`retrieve`, once it is clear that nothing is lost.

    What is `known` of the vault under the key before is set aside, and the same phone is asked.
    """
    places, holding = keyholder.places, keyholder.holding
    root, made = read_root(private["root"], agent)
    relays = [check_relay(url) for url in request.get("relays") or []] or DEFAULT_RELAYS
    operator = parse_npub(str(request["operator"])) if request.get("operator") else None
    bunker = private.get("bunker")
    paired = Pairing.load(places) if known and not bunker else None
    if paired:
        keyholder.unlocking.pause()
        pairing = paired.of_agent(agent)
    else:
        pairing = await shake_hands(keyholder, session, relays, "avault", bunker, operator, agent)
    session.send({"progress": "operator", "npub": to_npub(pairing.operator)})
    sentence = describe_return("a vault", root["sealed"])
    session.send({"progress": "approve", "sentence": sentence})
    async with holding.contact.connect(pairing, pairing.signer, session) as signer:
        keys, content = await ask_for_root(signer, root, agent, pairing.operator)
        if known and content["vault"] != known["vault"]:
            raise Tampered("relays lead to another vault than this machine knows", "avault status")
        is_replaced = await replace_root(session, keys, pairing.operator, content, made)
        data, vault = await receive_vault(keyholder, session, keys, content)
        hints = encode_hints(agent, pairing.operator, pairing.relays, content["name"])
        if known:  # what only this machine has is looked for in it
            write_file(find_free(places.own("replaced"), ".enc"), read_vault(places))
        attributes = places.file(".gitattributes")
        for name, written in (  # the vault last: cut off before it, all may be done again
            (attributes, complete_attributes(attributes)),
            (places.file("nip46.json"), hints),
            (
                places.file("nsec.enc"),
                encode_file("nsec", seal_recovery(keys, vault, holding.host)),
            ),
            (places.file("avault.enc"), data),
        ):
            write_file(name, written)
            session.send({"progress": "wrote", "path": name})
        await keyholder.unlocking.opening.serve(Phone(pairing, signer), keys, content, False, False)
    Custodians(places).admit_phone()
    if not is_replaced:
        holding.reporter.warnings["recovery"] = (
            "the phone opened the root that relays keep: until another is in its place, who"
            " recorded the answer and gets this machine's pairing.json has the key; see: avault"
            " replica status"
        )
    session.send({"progress": "proven", "seconds": signer.answered_in})
    keyholder.reporter.report()
    return {"ok": True, "agent_npub": content["agent"], "signer_npub": content["operator"]}


async def ask_for_root(
    signer: RemoteSigner, root: dict[str, str], agent: str, operator: str
) -> tuple[Keys, dict[str, Any]]:
    """What the phone's answer to the root opens; raises Denied."""

    def accept(result: str) -> tuple[Keys, dict[str, Any]]:
        return open_root(root, agent, operator, result)

    try:
        found: tuple[Keys, dict[str, Any]] = await signer.request(
            "nip44_decrypt", [agent, root["envelope"]], accept
        )
    except Denied as refused:
        refused.hint = "is it the operator's own phone? Then begin again: avault recover --help"
        raise
    return found


async def replace_root(
    session: Session, keys: Keys, operator: str, content: dict[str, Any], made: int
) -> bool:
    """Have another root take the opened one's place, whatever comes of the rest; whether it has."""
    sealed = seal_root(keys, content["vault"], operator, content["name"])
    said = await session.frame(root=compose_root(keys, sealed, made))
    return said.get("replaced") is True


async def receive_vault(
    keyholder: Keyholder, session: Session, keys: Keys, content: dict[str, Any]
) -> tuple[bytes, Vault]:
    """The avault.enc that the client has fetched and a person takes; raises Tampered, Denied."""
    replica, heads = replica_keys(keys), []
    where = {"author": public_hex(replica), "topic": name_event(replica, "heads")}
    said = await session.frame(heads=where)
    given = said.get("heads")
    for event in given[:MOST_HEADS] if isinstance(given, list) else []:
        with contextlib.suppress(Tampered):
            heads.append(read_head(replica, event))
    said = await session.frame(copy=[describe_head(head) for head in heads])
    chosen, parts = [head for head in heads if head["id"] == said.get("head")], said.get("parts")
    if not chosen or not isinstance(parts, list):
        raise Tampered("that is none of the heads that relays have")
    data = join_copy(replica, chosen[0], parts)
    vault = open_vault(data, keys)
    if not is_of(vault, content):
        raise Tampered("what relays have is of another vault or operator than their root")
    if vault.generation != chosen[0]["generation"]:
        raise Tampered("what relays have is not what its head says")
    said = await session.frame(found=describe_found(vault))
    if said.get("confirmed") is not True:
        raise Denied("not taken, and nothing was made", "more relays: --relay URL")
    return data, vault


def describe_found(vault: Vault) -> dict[str, Any]:
    """What a person is shown of a vault before it is taken."""
    hosts = {each: read_machine(text)["host"] for each, text in vault.facts_of(KIND).items()}
    return {"name": vault.name, "secrets": vault.count(), "hosts": hosts}
