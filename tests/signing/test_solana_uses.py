"""What is signed for Solana: held against solders, whose bytes are what wallets and validators read."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import avault

pytest.importorskip("solders", reason="needs solders (extra `test-wallet`)")
from solders import compute_budget as budget
from solders import system_program as system
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageAddressTableLookup, MessageHeader, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey

KEY, OTHER = Keypair.from_seed(bytes(range(32))), Keypair.from_seed(bytes(range(1, 33)))
US, BOB = KEY.pubkey(), OTHER.pubkey()
MINT = Pubkey.from_bytes(bytes([7] * 32))
PROGRAMS = {each: Pubkey.from_string(each) for each in avault.SPL_PROGRAMS}
MEMO = Pubkey.from_string(avault.MEMO)
ASSOCIATED = Pubkey.from_string(avault.ASSOCIATED)


def account_of(owner: Pubkey, program: str = avault.SPL) -> Pubkey:
    seeds = [bytes(owner), bytes(PROGRAMS[program]), bytes(MINT)]
    return Pubkey.find_program_address(seeds, ASSOCIATED)[0]


def pay(amount: int = 7, source: Pubkey = US, to: Pubkey = BOB) -> Instruction:
    return system.transfer(system.TransferParams(from_pubkey=source, to_pubkey=to, lamports=amount))


def pay_token(
    amount: int = 7, decimals: int = 6, program: str = avault.SPL, to: Pubkey | None = None, who: Pubkey = US, **more: Any
) -> Instruction:
    accounts = [
        AccountMeta(account_of(US, program), False, True),
        AccountMeta(MINT, False, False),
        AccountMeta(to or account_of(BOB, program), False, True),
        AccountMeta(who, True, False),
        *more.get("accounts", ()),
    ]
    return Instruction(PROGRAMS[program], struct.pack("<BQB", 12, amount, decimals), accounts)


def make_account(
    owner: Pubkey = BOB, program: str = avault.SPL, payer: Pubkey = US, content: bytes = b"\1", account: Pubkey | None = None
) -> Instruction:
    accounts = [
        AccountMeta(payer, True, True),
        AccountMeta(account or account_of(owner, program), False, True),
        AccountMeta(owner, False, False),
        AccountMeta(MINT, False, False),
        AccountMeta(system.ID, False, False),
        AccountMeta(PROGRAMS[program], False, False),
    ]
    return Instruction(ASSOCIATED, content, accounts)


def memo(text: str = "for Bob", *who: Pubkey) -> Instruction:
    return Instruction(MEMO, text.encode(), [AccountMeta(each, True, False) for each in who])


def message(*instructions: Instruction, payer: Pubkey = US, form: type = Message) -> bytes:
    if form is Message:
        return bytes(Message.new_with_blockhash([*instructions], payer, Hash.default()))
    made = MessageV0.try_compile(payer, [*instructions], [], Hash.default())
    return to_bytes_versioned(made)


def decode(content: bytes, what: str = "sol-tx", key: Pubkey = US) -> dict[str, Any]:
    return avault.decode_solana(
        {"as": what, "payload": avault.encode_base64(content), "public": avault.encode_base64(bytes(key))}
    )


FORMS = pytest.mark.parametrize("form", [Message, MessageV0], ids=["legacy", "v0"])


@FORMS
def test_a_payment_in_sol(form: type) -> None:
    use = decode(message(pay(1_500_000_000), memo("for Bob", US), form=form))
    assert use["pays"] == [{"what": "sol", "amount": 1_500_000_000, "to": str(BOB)}]
    assert (use["memos"], use["payer"], use["fee"]) == (["for Bob"], str(US), 5_000)


@FORMS
@pytest.mark.parametrize("program", avault.SPL_PROGRAMS)
def test_a_payment_in_tokens_to_an_account_that_is_made(form: type, program: str) -> None:
    use = decode(message(make_account(program=program), pay_token(program=program), form=form))
    rent, token = use["pays"]
    assert rent["what"] == "rent" and rent["amount"] >= 2_039_280 and rent["owner"] == str(BOB)
    assert token["to"] == str(account_of(BOB, program)) and token["owner"] == str(BOB)
    assert (token["amount"], token["decimals"], token["mint"], token["program"]) == (7, 6, str(MINT), program)


def test_whose_an_account_is_that_is_there_stands_in_no_transaction() -> None:
    [token] = decode(message(pay_token()))["pays"]
    assert token["owner"] is None
    assert token["to"] == avault.find_token_account(str(BOB), str(MINT), avault.SPL)


@pytest.mark.parametrize(
    ("instructions", "fee"),
    [
        ([], 5_000),
        ([budget.set_compute_unit_limit(100_000), budget.set_compute_unit_price(1)], 5_001),
        ([budget.set_compute_unit_price(10**6)], 5_000 + 206_000),
        ([budget.set_compute_unit_limit(2**32 - 1), budget.set_compute_unit_price(10**9)], 5_000 + 1_400_000_000),
        ([budget.set_compute_unit_price(2**64 - 1)], 5_000 + -(-206_000 * (2**64 - 1) // 10**6)),
        ([budget.request_heap_frame(64 * 1024), budget.set_loaded_accounts_data_size_limit(9)], 5_000),
    ],
)
def test_a_fee_is_the_most_that_it_may_become(instructions: list[Instruction], fee: int) -> None:
    assert decode(message(*instructions, pay()))["fee"] == fee


def test_where_another_pays_the_fee_it_costs_nothing() -> None:
    """As it is with x402: the rent of the account is the other's, too."""
    use = decode(message(make_account(payer=BOB), pay_token(), payer=BOB))
    assert (use["fee"], use["payer"], [each["what"] for each in use["pays"]]) == (0, str(BOB), ["token"])


def spl(*content: int, program: str = avault.SPL) -> Instruction:
    accounts = [AccountMeta(account_of(US), False, True), AccountMeta(BOB, False, False), AccountMeta(US, True, False)]
    return Instruction(PROGRAMS[program], bytes(content), accounts)


DANGERS = {
    "an unchecked transfer": (spl(3, *bytes(8)), "does not say of which token"),
    "an allowance": (spl(4, *b"\xff" * 8), "Approve"),
    "a checked allowance": (spl(13, *b"\xff" * 8, 6), "ApproveChecked"),
    "a checked allowance of Token-2022": (spl(13, *b"\xff" * 8, 6, program=avault.SPL_EXTENDED), "ApproveChecked"),
    "another owner": (spl(6, 2, 1, *bytes(BOB)), "SetAuthority"),
    "the end of an account": (spl(9), "CloseAccount"),
    "tokens burnt": (spl(8, *bytes(8)), "Burn"),
    "tokens burnt, checked": (spl(15, *bytes(8), 6), "BurnChecked"),
    "an extension of Token-2022": (spl(26, 1, *bytes(17), program=avault.SPL_EXTENDED), "not known"),
    "another program as owner": (system.assign(system.AssignParams(pubkey=US, owner=BOB)), "Assign"),
    "a durable nonce": (
        system.advance_nonce_account(system.AdvanceNonceAccountParams(nonce_pubkey=BOB, authorized_pubkey=US)),
        "durable nonce",
    ),
    "money from a nonce account": (
        system.withdraw_nonce_account(
            system.WithdrawNonceAccountParams(nonce_pubkey=BOB, authorized_pubkey=US, to_pubkey=BOB, lamports=1)
        ),
        "nonce account",
    ),
    "another authority of a nonce": (
        system.authorize_nonce_account(
            system.AuthorizeNonceAccountParams(nonce_pubkey=BOB, authorized_pubkey=US, new_authority=BOB)
        ),
        "AuthorizeNonceAccount",
    ),
    "another program": (Instruction(MINT, b"", [AccountMeta(US, True, True)]), "the program"),
    "the upgradeable loader": (
        Instruction(Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111"), b"", [AccountMeta(US, True, True)]),
        "the program",
    ),
    "stake": (
        Instruction(Pubkey.from_string("Stake11111111111111111111111111111111111111"), b"", [AccountMeta(US, True, True)]),
        "the program",
    ),
    "a recovered nested account": (make_account(content=b"\2"), "not known"),
    "an account of another's, said to be Bob's": (make_account(account=account_of(US)), "another owner's"),
    "an account with a word more": (make_account(content=b"\1\0"), "not known"),
    "a transfer with a byte more": (
        Instruction(system.ID, pay().data + b"\0", [AccountMeta(US, True, True), AccountMeta(BOB, False, True)]),
        "not known",
    ),
    "a transfer with a byte less": (
        Instruction(system.ID, pay().data[:-1], [AccountMeta(US, True, True), AccountMeta(BOB, False, True)]),
        "not known",
    ),
    "a transfer with an account more": (
        Instruction(system.ID, pay().data, [AccountMeta(US, True, True), *[AccountMeta(BOB, False, True)] * 2]),
        "not known",
    ),
    "a token transfer with accounts of a hook": (pay_token(accounts=[AccountMeta(BOB, False, True)]), "not known"),
    "a transfer of a token program with fee": (spl(26, 1, program=avault.SPL_EXTENDED), "not known"),
    "a price twice": (budget.set_compute_unit_price(1), "no validator takes"),
    "an old request for units": (Instruction(Pubkey.from_string(avault.COMPUTE_BUDGET), bytes(9), []), "no validator takes"),
    "a memo that is no text": (Instruction(MEMO, b"\xff", []), "not understood"),
}


@FORMS
@pytest.mark.parametrize("danger", DANGERS)
def test_what_is_dangerous_or_not_known_is_refused_beside_a_good_payment(danger: str, form: type) -> None:
    instruction, says = DANGERS[danger]
    for order in ([pay(), instruction], [instruction, pay()]):
        more = [budget.set_compute_unit_price(2)] if danger == "a price twice" else []
        with pytest.raises((avault.Usage, avault.Denied), match=says):
            decode(message(*more, *order, form=form))


@FORMS
def test_what_others_sign_with_us_is_refused(form: type) -> None:
    for instructions, payer, says in (
        ([pay(), pay(source=BOB, to=US)], US, "others sign"),
        ([pay(source=BOB, to=US)], BOB, "not this key's"),
        ([pay(), pay(source=BOB, to=US)], BOB, "somebody else's account"),
        ([pay_token(), pay_token(who=BOB)], BOB, "somebody else's account"),
        ([memo("x", US)], US, "pays nothing"),
        ([make_account(payer=US)], BOB, "another than the payer"),
    ):
        with pytest.raises((avault.Usage, avault.Denied), match=says):
            decode(message(*instructions, payer=payer, form=form))


def test_an_address_of_a_lookup_table_is_refused() -> None:
    for table in (MessageAddressTableLookup(MINT, b"\0", b""), MessageAddressTableLookup(MINT, b"", b"\0")):
        header = MessageHeader(1, 0, 1)
        made = MessageV0(
            header,
            [US, BOB, system.ID],
            Hash.default(),
            MessageV0.try_compile(US, [pay()], [], Hash.default()).instructions,
            [table],
        )
        with pytest.raises(avault.Usage, match="lookup table"):
            decode(to_bytes_versioned(made))


GOOD = [
    message(pay(), form=Message),
    message(budget.set_compute_unit_price(7), make_account(), pay_token(), memo("x" * 200, US), form=MessageV0),
]


@pytest.mark.parametrize("content", GOOD, ids=["legacy", "v0"])
def test_a_byte_more_or_less_is_no_message(content: bytes) -> None:
    for wrong in (content + b"\0", content[:-1], content[1:], b"\x81" + content[1:], b"\x01" + bytes(64) + content, b""):
        with pytest.raises((avault.Usage, avault.Denied)):
            decode(wrong)


@pytest.mark.parametrize("number", [0x80, 0x3FFF, 0x4000, 0xFFFF])
def test_a_count_has_one_form(number: int) -> None:
    def count(content: str) -> int:
        return avault.MessageReader(bytes.fromhex(content)).count()

    shortest = {0x80: "8001", 0x3FFF: "ff7f", 0x4000: "808001", 0xFFFF: "ffff03"}[number]
    assert count(shortest) == number
    for wrong in ("8000", "808000", "ffff04", "ffffff", "80808001", "80"):
        with pytest.raises(ValueError):
            count(wrong)


@given(st.sampled_from(GOOD), st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_changed_message_is_refused_or_what_solders_reads(content: bytes, at: int, put: bytes) -> None:
    """What we take, solders takes, and both read the same: the accounts, the blockhash, the instructions."""
    at %= len(content)
    changed = content[:at] + put + content[at + len(put) :]
    try:
        found = avault.SolanaMessage(changed)
    except ValueError:
        return
    judge: Any = MessageV0.from_bytes(changed[1:]) if changed[0] & 0x80 else Message.from_bytes(changed)
    assert [str(each) for each in judge.account_keys] == found.accounts
    assert changed[found.blockhash_at :][:32] == bytes(judge.recent_blockhash)
    assert len(found.signers) == judge.header.num_required_signatures
    keys = judge.account_keys
    assert [(each.program, each.accounts, each.content) for each in found.instructions] == [
        (str(keys[each.program_id_index]), [str(keys[n]) for n in each.accounts], each.data) for each in judge.instructions
    ]


@given(st.binary(max_size=200) | st.binary(max_size=80).map(GOOD[0][:69].__add__))
def test_any_bytes_are_a_payment_or_are_refused(content: bytes) -> None:
    for what in ("sol-tx", "sol-text"):
        try:
            use = decode(content, what)
        except (avault.Usage, avault.Denied):
            continue
        assert use["as"] == what
        with pytest.raises(ValueError):
            avault.SolanaMessage(content if what == "sol-text" else b"\x20" + content)


@given(st.text(max_size=1000))
def test_a_text_is_no_message(text: str) -> None:
    try:
        use = decode(text.encode(), "sol-text")
    except avault.Usage:
        return
    assert use["text"] == text
    for read in (Message.from_bytes, MessageV0.from_bytes):
        try:
            made = read(text.encode())
        except Exception:
            continue
        assert bytes(made) != text.encode() or made.header.num_required_signatures >= 0x20


@pytest.mark.parametrize("content", [*GOOD, b"", b"\x01abc", b"\x80abc", b"\xffsolana offchain", b"a\0b", "a\u202eb".encode()])
def test_what_could_be_a_transaction_is_no_text(content: bytes) -> None:
    with pytest.raises(avault.Usage):
        decode(content, "sol-text")


@settings(max_examples=40)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.sampled_from(avault.SPL_PROGRAMS))
def test_the_account_of_an_owner_is_the_one_of_solders(owner: bytes, mint: bytes, program: str) -> None:
    found = avault.find_token_account(avault.encode_base58(owner), avault.encode_base58(mint), program)
    seeds = [owner, bytes(PROGRAMS[program]), mint]
    assert found == str(Pubkey.find_program_address(seeds, ASSOCIATED)[0])
    assert avault.is_on_curve(mint) == Pubkey.from_bytes(mint).is_on_curve()


def test_a_blockhash_is_put_in_and_nothing_else_is_changed() -> None:
    for content in GOOD:
        fresh = Hash.new_unique()
        made = avault.put_blockhash(content, bytes(fresh))
        judge: Any = MessageV0.from_bytes(made[1:]) if made[0] & 0x80 else Message.from_bytes(made)
        assert judge.recent_blockhash == fresh
        at = avault.SolanaMessage(content).blockhash_at
        assert made[:at] + made[at + 32 :] == content[:at] + content[at + 32 :]
        for wrong in (b"", bytes(31), bytes(33)):
            with pytest.raises(ValueError):
                avault.put_blockhash(content, wrong)
