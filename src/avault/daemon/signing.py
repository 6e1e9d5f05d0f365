"""The one request behind all that signs: decode, rule, count, sign, log; or refuse.

Whoever asks, a front end or a program, gets a signature and never a key.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from avault.daemon.asked_keys import sign_asked
from avault.daemon.askers import find_asker
from avault.daemon.gate import Passage, check, take_out
from avault.daemon.grant import Grant
from avault.daemon.key_wishes import Wish
from avault.daemon.wire import Session
from avault.errors import Denied, NotFound, TimedOut, Usage, complain
from avault.keys.keyholder import Keyholder
from avault.late import context
from avault.protocol import refuse_unknown
from avault.signing.ssh_uses import LONGEST_BIND, LONGEST_SSH, MOST_BINDS, decode_use
from avault.signing.ssh_words import describe_use
from avault.ssh_wire import decode_base64, encode_base64
from avault.vault.names import check_group, check_key
from avault.vault.records import Vault
from avault.vault.rules import Rules, join_rules
from avault.vault.secret import is_sealed
from avault.vault.signing_keys import SigningKey, way_of_kind
from avault.vault.ssh_rules import find_ssh_fault, may_offer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from avault.daemon.key_wishes import AdmitUse
    from avault.protocol import Message


WAYS_TO_SIGN = {"ssh": "ssh", "sshsig": "ssh"}  # what is signed, and the way that a guard names
WAY_FOR_NOSTR = "sign"
ASKED_WAYS = ("ssh", WAY_FOR_NOSTR)  # by which a key signs of whose value the phone is asked


@context
def note_failure(keyholder: Keyholder, session: Session, noted: Message) -> Iterator[None]:
    """For the length of a `with`: what keeps from signing has its line in the access log.

    So has a caller that leaves. `noted` is what the line says; it may grow meanwhile.
    """
    try:
        yield
    except asyncio.CancelledError:
        why = noted.get("why", "the caller has left")
        keyholder.release(session, {**noted, "why": why}, TimedOut.code)
        raise
    except Exception as error:
        known = complain(error)
        keyholder.release(session, {**noted, "why": known.message}, known.code)
        raise


async def serve_sign(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Sign what a guard lets be signed: decode, rule, count, sign, log.

    A caller that leaves takes the request along: this task is cancelled with its connection.
    """
    what = str(request.get("as"))
    noted: Message = {"op": "sign", "for": what if what in WAYS_TO_SIGN else "?"}
    with note_failure(keyholder, session, noted):
        said, grant = read_wish(request), session.grant
        way = WAYS_TO_SIGN[said["as"]]
        name, public = await choose_to_sign(keyholder, session, request, way, noted)
        said["public"] = public
        use = await decode(keyholder, said)
        guards = keyholder.gate.look(keyholder.open_store().vault)
        # of each guard as it stands: of those together, "any" is no part any more
        servers = [one for each in guards.of(name) for one in each.rules.named["servers"]]
        sentence = noted["signed"] = describe_use(use, name, servers, request)

        def admit(reserved: Passage | None = None) -> Passage:
            if grant:
                grant.check_request("sign")  # it may have ended meanwhile
            return admit_use(keyholder, name, public, way, use, reserved)

        passage = admit()
        if passage.asked:
            words = describe_use(use, name, servers, {**request, "claims": None})
            asker = find_asker(keyholder, session, request.get("claims"))
            wish = Wish(name, said, use, words, noted, asker, admit)
            answer = await sign_asked(keyholder, session, wish, passage)
        else:
            answer = await sign_at_once(keyholder, name, said, admit, passage, grant)
        keyholder.release(session, noted)
    made = {"signature": str(answer["signature"]), "public": public}
    return {"ok": True, **made, "name": name, "said": sentence}


async def sign_at_once(
    keyholder: Keyholder,
    name: str,
    said: Message,
    admit: AdmitUse,
    passage: Passage,
    grant: Grant | None,
) -> Message:
    """What the process that signs answers, with a key of which nobody is asked; raises AvaultError.

    `passage` is what was just admitted. It is counted, on the disk, before that; and what has
    changed meanwhile counts.
    """
    if grant:
        grant.use("sign")
    if passage.is_counted:
        await keyholder.change(passage.count(keyholder.open_store().machine))
    group, _, key = name.partition("/")
    value = passage.vault.groups[group].keys[key][0].value
    if is_sealed(value):
        raise Denied("the guards have changed meanwhile", "ask again")
    answer = await keyholder.signing.use("sign", value, **said)
    admit(passage)
    return answer


SIGN_FIELDS = frozenset(
    {"as", "payload", "binds", "flags", "public", "group", "key", "claims", "content"}
)


def read_wish(request: Message) -> Message:
    """What a request wants signed, each field of the form and size that it has; raises Usage.

    No more than this goes on to the process that signs.
    """
    refuse_unknown(request, SIGN_FIELDS)
    if str(request.get("as")) not in WAYS_TO_SIGN:
        raise Usage("as is ssh or sshsig", "what is not understood is not signed")
    flags = request.get("flags", 0)
    if type(flags) is not int or not 0 <= flags < 1 << 32:
        raise Usage("flags is a number of 32 bits")
    payload = check_base64(request.get("payload"), "payload", LONGEST_SSH)
    binds = read_told_binds(request)
    return {"as": request["as"], "payload": payload, "binds": binds, "flags": flags}


def read_told_binds(request: Message) -> list[str]:
    """What servers are said to have signed, each in base64; raises Usage."""
    binds = request.get("binds") or []
    if not isinstance(binds, list) or len(binds) > MOST_BINDS:
        raise Usage(f"binds is a list of at most {MOST_BINDS}")
    return [check_base64(each, "binds", LONGEST_BIND) for each in binds]


def check_base64(text: object, name: str, most: int) -> str:
    """A text that is the base64 of at most so many bytes; raises Usage."""
    try:
        return encode_base64(decode_base64(text, most))
    except ValueError as error:
        raise Usage(f"{name} is not understood, so not signed: {error}") from None


async def decode(keyholder: Keyholder, said: Message) -> dict[str, Any]:
    """What is to be signed; raises Usage, Denied. Servers are proven by the process that signs."""
    if said["binds"]:
        return dict((await keyholder.signing.ask(do="decode", **said))["use"])
    return decode_use(said, None)


async def choose_to_sign(
    keyholder: Keyholder, session: Session, request: Message, way: str, noted: Message
) -> tuple[str, str]:
    """The key that is asked for, and its public half: `noted` says which it is from then on.

    Raises Denied where a grant is not for signing; Usage, NotFound.
    """
    if session.grant:
        session.grant.check_way("sign")
    name, public = await choose_signing_key(keyholder, session, request, way)
    group, _, key = name.partition("/")
    noted |= {"group": group, "key": key}
    return name, public


async def choose_signing_key(
    keyholder: Keyholder, session: Session, request: Message, way: str
) -> tuple[str, str]:
    """The name of the key that is asked for, by GROUP and KEY or by its public half, and that.

    Where several say that this public half is theirs, it is one of those of which it is.
    Raises Usage, NotFound.
    """
    vault = keyholder.open_store().vault
    if request.get("public") is not None:
        public = check_base64(request["public"], "public", LONGEST_BIND)
        guards, blob = keyholder.gate.look(vault), decode_base64(public, LONGEST_BIND)
        names = [
            name
            for name in keyholder.signing.keys.find(vault, blob, way, guards)
            if not session.grant or session.grant.share.has(*name.split("/"))
        ]
        first = {name: vault.secrets(*name.split("/"))[0] for name in names}
        values = {name: each.value for name, each in first.items()}
        sealed = [
            name for name in names if is_sealed(values[name])
        ]  # those prove it when they sign
        for name in names:
            if len({*values.values()}) == 1:
                return name, public
            if name not in sealed and await keyholder.signing.owns(values[name], public):
                return name, public
        if sealed:  # who makes another one with this public half has it later
            return min(sealed, key=lambda one: (first[one].updated, one)), public
        raise NotFound("no such key in the vault", "see which there are: avault list")
    group, key = check_group(request.get("group")), check_key(request.get("key"))
    keyholder.see(session).secrets(group, key)  # what is not granted is not there
    return f"{group}/{key}", encode_public(keyholder, f"{group}/{key}")


def encode_public(keyholder: Keyholder, name: str) -> str:
    """The public half of a key that signs, in base64; raises Usage, Denied."""
    vault = keyholder.open_store().vault
    known, (group, _, key) = keyholder.signing.keys.look(vault).get(name), name.partition("/")
    there = vault.groups[group].keys.get(key) if group in vault.groups else None
    if there and not known and is_sealed(there[0].value):
        raise Denied(
            f"{name} is sealed, and is no key that signs, as far as that is known",
            f"if it is one, have its public half kept: avault unguard {name}, use it, guard it",
        )
    if not known:
        raise Usage("that is no key that signs", "see which there are: avault list")
    return encode_base64(known.blob)


def admit_key(
    keyholder: Keyholder, name: str, public: str, way: str, reserved: Passage | None = None
) -> tuple[Rules, Passage]:
    """The key alone of the vault, if it may sign by a way, and its rules; raises Denied, NotFound.

    A key signs only where a guard names the way. One whose use is `reserved` may have none left.
    """
    vault = keyholder.open_store().vault
    guards = keyholder.gate.look(vault)
    group, _, key = name.partition("/")
    is_closed = is_sealed(vault.secrets(group, key)[0].value)
    if encode_public(keyholder, name) != public:
        raise Denied(f"{name} is another key meanwhile", "ask again")
    if way_of_kind(keyholder.signing.keys.look(vault)[name].kind) != way:
        raise Usage(f"{name} is no key that signs this", "see what it is: avault list")
    found = guards.of(name)
    rules = guards.rules_of(found)
    if rules.ways() is None:
        raise Denied(
            f"{name} is guarded by nothing that lets it sign", f"avault guard {name} --only {way}"
        )
    if reserved and reserved.is_counted:
        rules = join_rules([rules])
        rules.times = None
    if not rules.lets(way, time.time()):
        check(guards, name, way, time.time())
    passage = Passage(take_out(vault, [(group, key)]), way, rules.times is not None)
    if is_closed or rules.ask is not None:
        if way not in ASKED_WAYS:
            what = "is sealed" if is_closed else "has a guard that asks for its value"
            raise Denied(
                f"{name} {what}, and a key that pays is asked of by its rules alone",
                f"avault unguard {name}, avault get it once, guard it with rules: ask always",
            )
        passage.asked[name] = rules.ask or 0
        passage.thawed += [name] if rules.ask is None else []
    return rules, passage


def admit_use(
    keyholder: Keyholder,
    name: str,
    public: str,
    way: str,
    use: dict[str, Any],
    reserved: Passage | None = None,
) -> Passage:
    """What of the vault may be used so for SSH: the key alone; raises Denied, NotFound."""
    rules, passage = admit_key(keyholder, name, public, way, reserved)
    if fault := find_ssh_fault(
        use, rules.named["servers"], rules.named["users"], rules.named["namespaces"]
    ):
        raise Denied(f"{name} may not {fault}", f"see what it may: avault guard {name}")
    return passage


async def serve_signing_keys(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The public halves of the keys that may sign by a way; for SSH those that fit the server.

    It is what an agent lists: a server ends the connection after a few keys that are not its.
    """
    refuse_unknown(request, frozenset({"as", "binds"}))
    way, binds = WAYS_TO_SIGN.get(str(request.get("as"))), read_told_binds(request)
    bound: dict[str, Any] = {"server": None, "through": []}
    if not way:
        raise Usage("as is ssh or sshsig")
    if session.grant:
        session.grant.check_way("sign")
    vault = keyholder.open_store().vault
    keys = look_at_keys(keyholder, vault, session.grant)
    if keys and binds:
        bound = await keyholder.signing.ask(do="binds", binds=binds)
        vault = keyholder.open_store().vault
        keys = look_at_keys(keyholder, vault, session.grant)
    guards, now = keyholder.gate.look(vault), time.time()
    fits = {name: guards.rules_of(guards.of(name)) for name in keys}
    may = [
        {"name": name, **keys[name].to_dict()}
        for name, rules in fits.items()
        if way_of_kind(keys[name].kind) == way
        and rules.ways() is not None
        and rules.lets(way, now)
        and may_offer(bound, rules.named["servers"], rules.named["namespaces"])
    ]
    return {"ok": True, "keys": may}


def look_at_keys(keyholder: Keyholder, vault: Vault, grant: Grant | None) -> dict[str, SigningKey]:
    """The keys that sign, by name: through a grant as if there were no others."""
    keys = keyholder.signing.keys.look(vault)
    return {
        name: each for name, each in keys.items() if not grant or grant.share.has(*name.split("/"))
    }
