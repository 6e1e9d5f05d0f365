"""The one request behind all that signs, for keys that pay: decode, rule, reserve, ask, sign, log.

What is reserved is on the disk before the phone is asked. A caller that leaves gets nothing signed;
one that says `confirm` is asked, once the phone has agreed, whether anybody waits still.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING

from avault.daemon.agreeing import SENTENCE
from avault.daemon.gate import Passage
from avault.daemon.phone_share import share_phone
from avault.daemon.restraint import describe_who, who_asks
from avault.daemon.signing import admit_key, check_base64, choose_to_sign, note_failure
from avault.daemon.spending import Cost, reserve, spent_today
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, Locked, TimedOut, Usage
from avault.keys.entrusting import ask_operator
from avault.keys.keyholder import Keyholder
from avault.protocol import refuse_unknown
from avault.signing.evm_uses import LONGEST_EVM, decode_evm
from avault.signing.evm_words import describe_evm, render_units
from avault.ssh_wire import decode_base64, encode_base64
from avault.vault.pay_rules import is_for_solana
from avault.vault.spent import identify_account
from avault.vault.wallet_rules import WalletRule, name_chain

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Message


WAY_FOR_WALLETS = "wallet"
WALLET_FIELDS = frozenset({"as", "payload", "public", "group", "key", "confirm"})
# seconds that a caller has to say that it waits still: it may have to ask a node, behind others
CONFIRM_TIME = 120.0


def read_wallet_rules(sets: list[frozenset[str]]) -> list[list[WalletRule]]:
    """The rules of each guard: what is to be signed needs one that fits of every guard."""
    mine = [[each for each in sorted(members) if not is_for_solana(each)] for members in sets]
    return [[WalletRule(each) for each in members] for members in mine]


class Verdict:
    """What rules let of a use: the `costs`, and whether the phone is `asked`; raises Denied.

    `rules` are those that name assets, for words.
    """

    def __init__(self, use: dict[str, Any], sets: list[frozenset[str]], public: bytes) -> None:
        found = read_wallet_rules(sets)
        self.rules = [each for rules in found for each in rules if each.is_asset]
        self.use, self.public, self.asks = use, public, False
        self.costs: list[Cost] = []
        self.sums: dict[WalletRule, int] = {}
        self.moved: dict[WalletRule, int] = {}  # what all of the use moves of a rule's asset
        if not found:
            raise Denied("no rule lets it sign anything")
        for rules in found:
            self.weigh(rules)

    def weigh(self, rules: list[WalletRule]) -> None:
        """Hold the use against the rules of one guard."""
        use, does = self.use, self.use["does"]
        if does in ("message", "sign-in"):
            if not any(each.about() == (None, "messages") for each in rules):
                raise Denied("no rule lets it sign messages")
            self.asks = True
            return
        if does == "typed":
            self.weigh_typed([each for each in rules if each.about() == (use["chain"], "typed")])
        if does == "call":
            self.weigh_call([each for each in rules if each.about() == (use["chain"], "calls")])
        for token, to, amount in use["moves"]:
            same = [each for each in rules if each.about() == (use["chain"], "asset", token)]
            if not same:
                where = name_chain(use["chain"])
                raise Denied(f"no rule lets it spend that token on {where}")
            for each in same:
                self.weigh_move(each, to, amount)
        if use["fee"]:
            coins = [each for each in rules if each.about() == (use["chain"], "asset", b"")]
            if not coins:
                raise Denied(f"no rule lets it pay a fee on {name_chain(use['chain'])}")
            for each in coins:
                if use["fee"] > each.fee:
                    raise Denied(
                        f"a fee of up to {render_units(use['fee'], each.decimals)} {each.symbol}"
                        f" is more than the rule's {render_units(each.fee, each.decimals)}"
                    )
                self.add(each, use["fee"])

    def weigh_call(self, rules: list[WalletRule]) -> None:
        """Hold a call that is not understood against what rules say of calls."""
        if not rules:
            raise Denied(f"no rule lets it make calls on {name_chain(self.use['chain'])}")
        for each in rules:
            if each.calls and (self.use["to"], self.use["selector"]) not in each.calls:
                raise Denied("no rule lets it make that call")
            self.asks = self.asks or each.asks
        tokens = {(each.chain, each.token) for each in self.rules}
        if (self.use["chain"], self.use["to"]) in tokens:
            raise Denied("it makes no unknown calls of a token that a rule names")

    def weigh_typed(self, rules: list[WalletRule]) -> None:
        """Hold typed data that is not understood against what rules say of such: it is asked for.

        What names no chain is let by none: it would be good on each.
        """
        if not rules:
            chain = self.use["chain"]
            where = f"on {name_chain(chain)}" if chain else "that is for any chain"
            raise Denied(f"no rule lets it sign typed data {where}")
        if any(each.contracts and self.use["to"] not in each.contracts for each in rules):
            raise Denied("no rule lets it sign typed data for that contract")
        if self.use["to"] in {each.token for each in self.rules}:
            raise Denied("typed data for a token that a rule names is signed only as a payment")
        self.asks = True

    def weigh_move(self, rule: WalletRule, to: bytes, amount: int) -> None:
        """Hold what is moved, or allowed, against a rule; an allowance counts as if it were paid.

        To take one away is free.
        """
        is_allowance = self.use["does"] == "approve"
        if is_allowance and not amount:
            return
        if is_allowance and "approve" not in rule.found:
            raise Denied(f"no rule lets it let others take {rule.symbol}")
        if rule.to is not None and to not in rule.to:
            raise Denied(f"no rule lets it pay that address {rule.symbol}")
        moved = self.moved[rule] = self.moved.get(rule, 0) + amount
        if moved > rule.tx:
            raise Denied(
                f"{render_units(moved, rule.decimals)} {rule.symbol} is more than the"
                f" {render_units(rule.tx, rule.decimals)} that may be spent at once"
            )
        self.asks = self.asks or rule.asks or is_allowance
        self.add(rule, amount)

    def add(self, rule: WalletRule, amount: int) -> None:
        """Count an amount of a rule's asset: once, however many rules are about it."""
        self.sums[rule] = self.sums.get(rule, 0) + amount
        account, known = self.account_of(rule), [each.account for each in self.costs]
        same = [each for each in self.sums if self.account_of(each) == account]
        total, least = max(self.sums[each] for each in same), min(same, key=lambda each: each.day)
        at = known.index(account) if account in known else len(known)
        self.costs[at : at + 1] = [Cost(account, total, least.day, least.symbol, least.decimals)]

    def account_of(self, rule: WalletRule) -> str:
        """The account of a rule's asset."""
        return account_of(self.public, rule)

    def terms(self) -> tuple[bool, list[tuple[str, int, int | None]]]:
        """What it comes to, to be compared."""
        costs = [(each.account, each.amount, each.most) for each in self.costs]
        return self.asks, costs

    def say_spent(self, keyholder: Keyholder) -> str:
        """What of the day's limit is spent besides this, which is reserved, in words."""
        said = []
        for cost in self.costs[:1]:
            spent = spent_today(keyholder, cost.account) - cost.amount
            if cost.most is not None:
                most = render_units(cost.most, cost.decimals)
                said.append(f", {render_units(spent, cost.decimals)} of {most} spent today")
        return "".join(said)


def account_of(public: bytes, rule: WalletRule) -> str:
    """The account of a key's asset: the same under every name, and on every machine."""
    return identify_account("evm", public.hex(), str(rule.chain), rule.token.hex())


async def sign_payment(
    keyholder: Keyholder, session: Session, request: Message, chain: type[Payment]
) -> Message:
    """The answer to a request to sign by a key that pays, with its line in the access log."""
    noted: Message = {"op": "sign", "for": str(request.get("as"))}
    with note_failure(keyholder, session, noted):
        refuse_unknown(request, WALLET_FIELDS)
        payload = check_base64(request.get("payload"), "payload", chain.LONGEST)
        name, public = await choose_to_sign(keyholder, session, request, WAY_FOR_WALLETS, noted)
        said = {"as": request["as"], "payload": payload, "public": public}
        payment = chain(keyholder, session, name, said, noted)
        answer = await payment.make(bool(request.get("confirm")))
    return {"ok": True, **answer, "public": public, "name": name, "said": noted["signed"]}


async def sign_for_wallet(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The answer to a request to sign for Ethereum and chains like it."""
    return await sign_payment(keyholder, session, request, Payment)


class Payment:
    """One use of a key that pays, until it is signed or refused.

    `said` is what the process that signs is told, `noted` the line of the access log.
    """

    LONGEST = LONGEST_EVM  # bytes of a payload

    def __init__(
        self, keyholder: Keyholder, session: Session, name: str, said: Message, noted: Message
    ) -> None:
        self.keyholder, self.session, self.name = keyholder, session, name
        self.said, self.noted = said, noted

    def admit(self, reserved: Passage | None = None) -> tuple[Passage, Verdict]:
        """What the rules, as they are now, let of it; raises AvaultError."""
        if self.session.grant:
            self.session.grant.check_request("sign")
        use, public = decode_evm(self.said), str(self.said["public"])
        rules, passage = admit_key(self.keyholder, self.name, public, WAY_FOR_WALLETS, reserved)
        named = [
            rule
            for each in read_wallet_rules(rules.named["wallet"])
            for rule in each
            if rule.is_asset
        ]
        self.noted["signed"] = describe_evm(use, self.name, named)
        try:
            return passage, Verdict(use, rules.named["wallet"], decode_base64(public, 20))
        except Denied as error:
            why = f"{error.message}; that was to {self.noted['signed']}"
            raise Denied(why, f"see what it may: avault guard {self.name}") from None

    def admit_again(self, reserved: Passage, before: Verdict) -> None:
        """Raise what has come in between: a guard that lets less, or asks for more."""
        _, verdict = self.admit(reserved)
        if verdict.terms() != before.terms():
            raise Denied("the guard has changed meanwhile", "ask again")

    async def make(self, confirms: bool) -> Message:
        """Reserve, ask, and have it signed; what is not signed is given back."""
        keyholder = self.keyholder
        passage, verdict = self.admit()
        if self.session.grant:
            self.session.grant.use("sign")
        reservation = await reserve(keyholder, verdict.costs)
        try:
            if passage.is_counted:
                await keyholder.change(passage.count(keyholder.open_store().machine))
            if verdict.asks:
                await self.ask(verdict)
            if confirms:
                await self.confirm()
            self.admit_again(passage, verdict)
            group, _, key = self.name.partition("/")
            value = passage.vault.groups[group].keys[key][0].value
            answer = await keyholder.signing.use("sign", value, **self.said)
            self.admit_again(passage, verdict)
            keyholder.release(self.session, self.noted)
            reservation.settle()
        except BaseException:
            with contextlib.suppress(AvaultError, asyncio.CancelledError):
                await asyncio.shield(reservation.release())
            raise
        return {"signature": str(answer["signature"]), "asked": verdict.asks}

    async def confirm(self) -> None:
        """Have the caller say that it waits still, and what only it knows by then.

        Raises Denied, Usage.
        """
        try:
            async with asyncio.timeout(CONFIRM_TIME):
                told = await self.session.frame(approved=True)
        except TimeoutError:
            told = {}
        if told.get("go") is not True:
            raise Denied("nobody waits for it any more", "ask again")
        self.complete(told)

    def complete(self, told: Message) -> None:
        """Put the nonce into a transaction, if it was said; raises Usage."""
        if told.get("nonce") is None:
            return
        if self.said["as"] != "evm-tx":
            raise Usage("only a transaction has a nonce")
        fields = json.loads(decode_base64(self.said["payload"], LONGEST_EVM))
        fields["nonce"] = told["nonce"]
        payload = encode_base64(json.dumps(fields).encode())
        self.said["payload"] = check_base64(payload, "payload", LONGEST_EVM)

    async def ask(self, verdict: Verdict) -> None:
        """Have the operator agree: one at a time for each key; raises Denied, TimedOut, Locked.

        After a question in vain the phone is left alone, ever longer. Raises Unavailable where too
        many have it asked.
        """
        keyholder, caller = self.keyholder, self.session.caller or {}
        if not caller:
            caller = keyholder.identify(self.session)
        who, askings = who_asks(caller), keyholder.askings
        askings.restraint.check(who, [self.name])
        async with askings.alone(who, [self.name]):
            askings.restraint.check(who, [self.name])
            with share_phone(keyholder, self.session):
                try:
                    await self.ask_phone(verdict, caller)
                finally:
                    askings.questions.pop(self, None)
                    keyholder.reporter.report()
            askings.restraint.forgive(who, [self.name])

    async def ask_phone(self, verdict: Verdict, caller: dict[str, Any]) -> None:
        """Have the phone asked now, as all can see; raises Denied, TimedOut, Locked."""
        keyholder, holding = self.keyholder, self.keyholder.holding
        said, who = f"{self.noted['signed']}{verdict.say_spent(keyholder)}", describe_who(caller)
        sentence = f"avault: {said}; {who} on {holding.host}"
        if len(sentence) > SENTENCE:
            raise Denied("that is more than a phone shows", "pay in several transactions")
        store = holding.store
        if not store or not holding.contact.find(store):
            raise Locked("the phone cannot be asked", "pair it with: avault pair")

        def tell(code: str) -> None:
            self.session.send({"progress": "asking", "code": code})
            keyholder.askings.show(self, [self.name], who, code)
            keyholder.reporter.report()

        begun = time.monotonic()
        try:
            await ask_operator(holding, store, {}, f"a use of {self.name}", sentence, tell)
        except BaseException as error:  # also where the caller has left
            keyholder.askings.restraint.note(who_asks(caller), [self.name])
            if not isinstance(error, TimeoutError):
                raise
            waited = time.monotonic() - begun
            raise TimedOut(
                f"nobody approved in {waited:.0f} s", "is the signer app open?"
            ) from None
