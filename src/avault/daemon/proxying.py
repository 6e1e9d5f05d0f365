"""Sessions of the proxy: what a command gets placeholders of, and each use of a secret by them.

The proxy's process has rules to know what to ask for; what it gets, is decided here for each
request, by the guards as they are then.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from avault.daemon.gate import Passage, check, take_out
from avault.daemon.grant import ASK_MAKER, hide_names
from avault.daemon.proxy_asks import describe_proxied, read_asked, read_wanted
from avault.daemon.proxy_consent import ProxyConsent
from avault.daemon.refreshing import renew_token
from avault.daemon.wire import Session
from avault.daemon.wishing import SHOWN_PATH
from avault.errors import AvaultError, Denied, Unavailable, Usage, complain, printable
from avault.keys.keyholder import Keyholder
from avault.vault.choosing import check_names, choose
from avault.vault.guards import Guards
from avault.vault.placeholders import make_placeholder
from avault.vault.proxy_rules import find_proxy_fault
from avault.vault.records import Vault
from avault.vault.rule_members import (
    EXAMPLES,
    RENEWAL,
    find_hosts_fault,
    is_host,
    part_host,
)
from avault.vault.rules import MOST, is_place, join_rules
from avault.vault.secret import is_sealed

if TYPE_CHECKING:
    from avault.daemon.proxy_asks import Wanted
    from avault.protocol import Message
    from avault.vault.proxy_rules import Hosts


PROXY_CHOICE = frozenset(
    {"groups", "only", "as", "prefix", "allow", "also", "everything", "hosts", "egress", "ask"}
)
EGRESS = ("rules", "open")
MOST_REACHED = 100  # hosts that are remembered of one session
SHORTEST_PROXIED = 8  # bytes of a value: a shorter one cannot be told from other text
CONTROLS = "[\x00-\x1f\x7f]"


def find_form_fault(name: str, value: str) -> AvaultError | None:
    """Why no header carries a value, or it could not be found in an answer; None where it can."""
    if re.search(CONTROLS, value):
        said = f"{name} has line ends or control characters, so no header carries it"
        return Denied(said, f"set it anew, without them: avault set {name}")
    if len(value.encode()) < SHORTEST_PROXIED:
        said = f"{name} is too short for the proxy (under {SHORTEST_PROXIED} bytes)"
        return Denied(said, "it could not be told from other text in an answer")
    return None


def read_given_hosts(vault: Vault, request: Message) -> dict[str, frozenset[str]]:
    """Hosts by GROUP/KEY, of what is given as GROUP/KEY=HOST; raises Usage, NotFound."""
    found: dict[str, set[str]] = {}
    for each in check_names(request, "hosts"):
        place, _, host = each.partition("=")
        if not is_place(place) or "/" not in place or not is_host(host):
            raise Usage("not GROUP/KEY=HOST", f"HOST {EXAMPLES['hosts']}")
        vault.secrets(*place.split("/"))
        found.setdefault(place, set()).add(host)
    if any(len(hosts) > MOST for hosts in found.values()):
        raise Usage(f"more than {MOST} hosts for one key")
    if fault := next(filter(None, map(find_hosts_fault, found.values())), None):
        raise Usage(fault)
    return {place: frozenset(hosts) for place, hosts in found.items()}


class ProxiedUses:
    """What one command may use: by name a placeholder, and what it was given besides the guards.

    `session` is whose it is: through a grant, no more than that has. Which hosts, and whether all
    are let through, only the vault's owner says (`is_owner`).
    """

    def __init__(
        self, keyholder: Keyholder, session: Session, request: Message, is_owner: bool = True
    ) -> None:
        self.keyholder, self.session = keyholder, session
        if session.grant:
            session.grant.check_way("proxy")
        if not is_owner and (request.get("hosts") or request.get("egress") == "open"):
            raise Denied(
                "through a grant, nobody says to which hosts",
                "whoever made the grant does: avault guard, or avault proxy start",
            )
        if not is_owner and request.get("ask"):  # its holder would have the phone ring
            raise Denied("through a grant, nobody says that the phone is asked", ASK_MAKER)
        self.consent = ProxyConsent(keyholder, bool(request.get("ask")))
        self.count, self.reached = 0, set[str]()  # requests that got a value, and to which hosts
        self.egress = str(request.get("egress") or EGRESS[0])
        if self.egress not in EGRESS:
            raise Usage("no such egress", f"one of: {', '.join(EGRESS)}")
        guards = keyholder.gate.look(keyholder.open_store().vault)
        vault = keyholder.see(session)
        self.given = read_given_hosts(vault, request)
        self.placeholders: dict[str, str] = {}
        self.variables: dict[str, str] = {}  # places, by variable
        self.rest: list[str] = []  # places that were asked for, and go to no host
        names = self.choose(vault, guards, request)
        names = {each: name for each, name in names.items() if not renews(guards, name)}
        for place in [*names.values(), *check_names(request, "also"), *self.given]:
            vault.secrets(*place.split("/", 1))
            self.offer(vault, guards, place)
        self.variables = {name: each for name, each in names.items() if each in self.placeholders}
        self.others = {name: each for name, each in names.items() if each in self.rest}

    def choose(self, vault: Vault, guards: Guards, request: Message) -> dict[str, str]:
        """Places by variable: those that are named; or where none is, all that go to a host."""
        groups, only, named, allow = (
            check_names(request, field) for field in ("groups", "only", "as", "allow")
        )
        is_named = bool(groups or only or named)
        if not is_named and not request.get("everything"):
            if request.get("also") is not None:  # a file names them
                return {}
            all_keys = [(group, key) for group, each in vault.groups.items() for key in each.keys]
            vault = take_out(
                vault, [each for each in all_keys if self.is_meant(vault, guards, each)]
            )
        chosen = choose(vault, groups, only, bool(request.get("prefix")), allow, named)
        return {name: "/".join(place) for name, place in chosen.items()}

    def is_meant(self, vault: Vault, guards: Guards, place: tuple[str, str]) -> bool:
        """Whether a key that nobody named is given a placeholder: some use of it may fit."""
        name = "/".join(place)
        return bool(self.hosts(guards, name)) and self.find_fault(vault, guards, name) is None

    def hosts(self, guards: Guards, name: str) -> Hosts:
        """The sets of hosts that a key may go to: of its guards, and of what was given.

        What a guard keeps from who asks, as `only proxy` does, goes nowhere that who asks names.
        """
        rules = guards.rules_of(guards.of(name))
        sets = rules.sets("proxy", "hosts")
        if renews(guards, name) or not all(sets):
            return []
        return sets + ([self.given[name]] if name in self.given else [])

    def find_fault(
        self, vault: Vault, guards: Guards, name: str, is_counted: bool = False
    ) -> AvaultError | None:
        """Why a key does not go by the proxy at all; None where it may.

        That no use is left, is none for one that `is_counted` already.
        """
        group, _, key = name.partition("/")
        rules, found = guards.rules_of(guards.of(name)), vault.secrets(group, key)
        if not is_sealed(found[0].value) and (fault := find_form_fault(name, found[0].value)):
            return fault
        now = time.time()
        if is_counted:
            others = join_rules([rules])
            others.times = None
            if others.lets("proxy", now):
                return None
        try:
            check(guards, name, "proxy", now)
        except Denied as error:
            return error
        return None

    def offer(self, vault: Vault, guards: Guards, name: str) -> None:
        """Make a placeholder for a key that was asked for, if it goes to a host; raises Denied."""
        if name in self.placeholders or name in self.rest:
            return
        if not self.hosts(guards, name):
            ways = guards.rules_of(guards.of(name)).ways()
            if ways is not None and ways <= {"proxy"}:
                places = guards.naming_none(name, "proxy", "hosts") or [name]
                raise Denied(
                    f"{name} is for the proxy, and no host is named by its guard",
                    " && ".join(f"avault guard {place} --host HOST" for place in places),
                )
            self.rest.append(name)
            return
        if fault := self.find_fault(vault, guards, name):
            raise fault
        group, _, key = name.partition("/")
        value = vault.secrets(group, key)[0].value
        self.placeholders[name] = make_placeholder("" if is_sealed(value) else value)

    def to_broker(self, tcp: bool) -> Message:
        """What the proxy's process is told: no value."""
        guards = self.keyholder.gate.look(self.keyholder.open_store().vault)
        told = [
            {
                "name": name,
                "placeholder": placeholder,
                "hosts": [sorted(each) for each in self.hosts(guards, name)],
            }
            for name, placeholder in self.placeholders.items()
        ]
        uids = sorted(self.session.grant.uids) if self.session.grant else [os.getuid()]
        return {"secrets": told, "egress": self.egress, "tcp": tcp, "uids": uids}

    async def use(self, message: Message) -> Message:
        """The answer to what the proxy asks: values for one request, or why not. It is logged.

        Whatever one request wants is one use: of each secret in it, and of the grant.
        """
        noted: Message = {"op": "proxy"}
        try:
            wanted, asked = read_wanted(message), read_asked(message)
            if not wanted.keys() <= self.placeholders.keys():
                raise Denied("that is no secret of this session")
            noted |= describe_proxied(wanted, asked)
            passage, grant = self.admit(wanted, asked), self.session.grant
            await self.consent.obtain(self.session, wanted, noted)
            if grant:
                grant.use("proxy")
            if grant or self.consent.asks:  # what has changed while the phone was asked
                passage = self.admit(wanted, asked)
            refused = check_names(message, "refused")
            renewed = [await self.renew(name, name in refused) for name in wanted]
            if any(renewed):
                passage = self.admit(wanted, asked)
            if passage.asked:
                end = await self.consent.open(
                    self.session, noted, lambda is_counted: self.admit(wanted, asked, is_counted)
                )
                found: Message = {"ok": True, "end": end}
            else:
                if passage.is_counted:
                    await self.keyholder.change(passage.count(self.keyholder.open_store().machine))
                    passage = self.admit(wanted, asked, is_counted=True)
                self.keyholder.release(self.session, noted)
                values = {each: passage.vault.secrets(*each.split("/"))[0].value for each in wanted}
                found = {"ok": True, "values": values}
            self.count += 1
            if len(self.reached) < MOST_REACHED:
                self.reached.add(str(noted["host"]))
            return found
        except Exception as error:
            known = complain(error)
            cause = error.__cause__  # what a grant is not told
            why = cause.message if isinstance(cause, AvaultError) else known.message
            try:
                self.keyholder.release(self.session, {**noted, "why": why}, known.code)
            except AvaultError:
                pass  # nothing is released
            return hide_names(known).to_dict() if self.session.grant else known.to_dict()

    async def renew(self, name: str, is_refused: bool) -> bool:
        """Have a token renewed that is due; whether the vault has another one.

        Raises AvaultError. What renews it, and where, a grant is not told: it may not have that.
        """
        try:
            return await renew_token(self.keyholder, self.session, name, is_refused)
        except AvaultError as error:
            if not self.session.grant:
                raise
            raise Unavailable(f"{name} has expired, and there is no new one", ASK_MAKER) from error

    def admit(self, wanted: Wanted, asked: Message, is_counted: bool = False) -> Passage:
        """What of the vault one request may have; raises Denied, NotFound, Locked.

        One whose use `is_counted` may have none left.
        """
        store = self.keyholder.open_store()
        if not is_counted:
            store.refresh()
        vault, guards = self.keyholder.see(self.session), self.keyholder.gate.look(store.vault)
        places = {name: (name.partition("/")[0], name.partition("/")[2]) for name in wanted}
        found = {name: vault.secrets(*place) for name, place in places.items()}
        if self.session.grant:
            self.session.grant.check_way("proxy")
        passage = Passage(take_out(vault, [*places.values()]), "proxy")
        for name, where in wanted.items():
            rules = guards.rules_of(guards.of(name))
            if fault := self.find_fault(vault, guards, name, is_counted):
                raise fault
            said = find_proxy_fault(
                asked["host"],
                asked["port"],
                asked["method"],
                asked["path"],
                self.hosts(guards, name),
                rules.named["methods"],
                rules.named["paths"],
                where,
            )
            if said:
                raise Denied(f"{name} may not {said}", f"see what it may: avault guard {name}")
            passage.is_counted = passage.is_counted or rules.times is not None
            if rules.ask is not None or any(is_sealed(each.value) for each in found[name]):
                passage.asked[name] = rules.ask or 0
                passage.thawed += [name] if rules.ask is None else []
                if not rules.ask and len(asked["path"]) > SHOWN_PATH:
                    # what is agreed to is this request, and nobody agrees to what is not shown
                    said = f"{name} may not go to a path of more than {SHOWN_PATH} characters"
                    raise Denied(
                        f"{said}, as the phone is asked for each use, and shows no longer one",
                        f"agree to the host, for a time: avault guard {name} --ask 15m",
                    )
        return passage

    def note_refused(self, told: Message) -> None:
        """Have in the log what the proxy did not let out by itself; it holds no value."""
        fields: Message = {
            each: printable(told[each], 200) for each in ("host", "method", "why") if each in told
        }
        try:
            self.keyholder.release(self.session, {"op": "proxy", **fields}, str(told.get("code")))
        except AvaultError:
            pass  # nothing was released


def renews(guards: Guards, name: str) -> bool:
    """Whether a guard has a secret renew tokens alone: no command sends it anywhere."""
    sets = guards.rules_of(guards.of(name)).named["hosts"]
    return any(one and all(part_host(each)[0] == RENEWAL for each in one) for one in sets)
