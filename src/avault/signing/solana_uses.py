"""What is to be signed for Solana, decoded strictly and whole: payments, and nothing else.

A transaction is understood only if each of its instructions is. What could move more than it says
is refused with its name: a program that is not known here moves all that our signature is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Denied, Usage
from avault.signing.solana_accounts import (
    ASSOCIATED,
    COMPUTE_BUDGET,
    MEMO,
    MEMO_OLD,
    SPL,
    SPL_PROGRAMS,
    SYSTEM_PROGRAM,
    find_token_account,
)
from avault.signing.solana_messages import SolanaMessage, is_solana_message
from avault.ssh_wire import decode_base64
from avault.vault.solana_text import encode_base58

if TYPE_CHECKING:
    from typing import Any

    from avault.signing.solana_messages import Instruction


SOLANA_USES = ("sol-tx", "sol-text")
LONGEST_SOLANA = 1_232  # bytes of a message, or a text
SIGNATURE_FEE = 5_000  # lamports, for each signature
UNIT_LIMIT, MOST_UNITS = 200_000, 1_400_000  # compute units: for an instruction, and for all
BUILTIN_LIMIT = 3_000
MICRO = 1_000_000  # the price of a unit is in millionths of a lamport
RENT = 2_039_280  # lamports for a token account of 165 bytes
RENT_EXTENDED = 3_674_880  # for one of at most 400 bytes, as Token-2022 makes them

SPL_DANGERS = {  # by the first byte of an instruction of a token program
    3: "a transfer that does not say of which token (Transfer; take TransferChecked)",
    4: "an allowance (Approve): somebody else takes tokens at any time",
    5: "the end of an allowance (Revoke)",
    6: "another owner for an account (SetAuthority)",
    7: "new tokens (MintTo)",
    8: "tokens burnt (Burn)",
    9: "the end of an account (CloseAccount)",
    10: "an account frozen (FreezeAccount)",
    13: "an allowance (ApproveChecked): somebody else takes tokens at any time",
    14: "new tokens (MintToChecked)",
    15: "tokens burnt (BurnChecked)",
    17: "wrapped SOL (SyncNative)",
}
SYSTEM_DANGERS = {
    0: "a new account (CreateAccount)",
    1: "another program as our account's owner (Assign)",
    3: "a new account (CreateAccountWithSeed)",
    4: "a durable nonce (AdvanceNonceAccount): the transaction would be good at any time",
    5: "money from a nonce account (WithdrawNonceAccount)",
    6: "a nonce account (InitializeNonceAccount)",
    7: "another authority of a nonce account (AuthorizeNonceAccount)",
    8: "space for an account (Allocate)",
    9: "space for an account (AllocateWithSeed)",
    10: "another program as an account's owner (AssignWithSeed)",
    11: "a transfer from an account with a seed (TransferWithSeed)",
}


class NotUnderstood(ValueError):
    """An instruction that is known for what it does, and not signed."""


def decode_solana(request: dict[str, Any]) -> dict[str, Any]:
    """What a request wants signed; raises Usage, and Denied for what is known to be dangerous.

    It has `as`, `payload` (base64 of a transaction's message, or of a text) and `public` (the key's
    32 bytes, in base64). Of a transaction, what is given has `pays`: a list of objects with `what`
    (`sol`, `token`, `rent`), `amount` (in the smallest unit), `to` (an address; of a token the
    account, with `owner` where the transaction proves it), and of a token `mint`, `decimals`,
    `program`. `fee` is in lamports, the most that it may become; `payer` who pays it. `memos` are
    texts.
    """
    try:
        public = decode_base64(request.get("public"), 32)
        content = decode_base64(request.get("payload"), LONGEST_SOLANA)
        if len(public) != 32:
            raise ValueError("no key for Solana")
        if request.get("as") == "sol-text":
            return decode_text(content)
        if request.get("as") == "sol-tx":
            return decode_payments(SolanaMessage(content), encode_base58(public))
    except NotUnderstood as error:
        raise Denied(f"not signed: {error}", "payments in SOL and tokens are signed") from None
    except ValueError as error:
        raise Usage(f"not understood, so not signed: {error}") from None
    raise Usage(f"as is one of: {', '.join(SOLANA_USES)}", "what is not understood stays so")


def decode_text(content: bytes) -> dict[str, Any]:
    """A text that is to be signed; raises ValueError for what could be a transaction."""
    if not content or is_solana_message(content):
        raise ValueError("no text: it could be a transaction")
    text = content.decode()
    if not all(each.isprintable() or each in "\n\t" for each in text):
        raise ValueError("no text that can be shown")
    return {"as": "sol-text", "text": text}


def decode_payments(message: SolanaMessage, public: str) -> dict[str, Any]:
    """What a message pays, signed by this key; raises ValueError, NotUnderstood."""
    if public not in message.signers:
        raise ValueError("it is not this key's to sign")
    payer = message.signers[0]
    if len(message.signers) > 2 or (len(message.signers) == 2 and payer == public):
        raise NotUnderstood("a transaction that others sign, too, for more than its fee")
    use: dict[str, Any] = {"as": "sol-tx", "pays": [], "memos": [], "payer": payer}
    budget: dict[int, int] = {}
    for each in message.instructions:
        if each.program == COMPUTE_BUDGET:
            read_budget(each, budget)
        elif each.program in (MEMO, MEMO_OLD):
            use["memos"].append(read_memo(each, message))
        elif each.program == SYSTEM_PROGRAM:
            use["pays"].append(read_system(each, public))
        elif each.program in SPL_PROGRAMS:
            use["pays"].append(read_token(each, public))
        elif each.program == ASSOCIATED:
            use["pays"].append(read_associated(each, message.signers))
        else:
            raise NotUnderstood(f"the program {each.program} can do all that this signature is for")
    name_owners(use["pays"])
    use["fee"] = sum_fee(message, budget) if payer == public else 0
    use["pays"] = [each for each in use["pays"] if not (each["what"] == "rent" and payer != public)]
    if not use["pays"]:
        raise ValueError("it pays nothing")
    return use


def read_budget(instruction: Instruction, budget: dict[int, int]) -> None:
    """Note what a transaction may use, by the kind of instruction; raises ValueError."""
    sizes = {1: 4, 2: 4, 3: 8, 4: 4}
    kind = instruction.content[0] if instruction.content else 0
    if len(instruction.content) - 1 != sizes.get(kind) or kind in budget or instruction.accounts:
        raise ValueError("a compute budget that no validator takes")
    budget[kind] = int.from_bytes(instruction.content[1:], "little")


def sum_fee(message: SolanaMessage, budget: dict[int, int]) -> int:
    """The most that a transaction may cost, in lamports.

    Where it does not say how many units it may use, it is what validators take for that at most.
    """
    others = [each for each in message.instructions if each.program != COMPUTE_BUDGET]
    default = UNIT_LIMIT * len(others) + BUILTIN_LIMIT * len(message.instructions)
    units = min(budget.get(2, default), MOST_UNITS)
    priority = -(-units * budget.get(3, 0) // MICRO)
    return SIGNATURE_FEE * len(message.signers) + int(priority)


def read_memo(instruction: Instruction, message: SolanaMessage) -> str:
    """The text of a memo, which is public; raises ValueError."""
    if not {*instruction.accounts} <= {*message.signers}:
        raise ValueError("a memo by somebody who does not sign")
    return instruction.content.decode()


def read_system(instruction: Instruction, public: str) -> dict[str, Any]:
    """A payment in SOL; raises ValueError, NotUnderstood."""
    content = instruction.content
    kind = int.from_bytes(content[:4], "little")
    if len(content) >= 4 and kind in SYSTEM_DANGERS:
        raise NotUnderstood(SYSTEM_DANGERS[kind])
    if kind != 2 or len(content) != 12 or len(instruction.accounts) != 2:
        raise ValueError("an instruction of the system program that is not known")
    source, to = instruction.accounts
    if source != public:
        raise NotUnderstood("a payment from somebody else's account")
    amount = int.from_bytes(content[4:], "little")
    return {"what": "sol", "amount": amount, "to": to}


def read_token(instruction: Instruction, public: str) -> dict[str, Any]:
    """A payment in tokens (TransferChecked); raises ValueError, NotUnderstood."""
    content = instruction.content
    kind = content[0] if content else -1
    if kind in SPL_DANGERS:
        raise NotUnderstood(SPL_DANGERS[kind])
    if kind != 12 or len(content) != 10 or len(instruction.accounts) != 4:
        raise ValueError("an instruction of a token program that is not known")
    _, mint, to, authority = instruction.accounts
    if authority != public:
        raise NotUnderstood("a payment from somebody else's account")
    return {
        "what": "token",
        "amount": int.from_bytes(content[1:9], "little"),
        "to": to,
        "owner": None,
        "mint": mint,
        "decimals": content[9],
        "program": instruction.program,
    }


def read_associated(instruction: Instruction, signers: list[str]) -> dict[str, Any]:
    """A token account made for an owner, whose rent is paid; raises ValueError."""
    if instruction.content not in (b"", b"\0", b"\1") or len(instruction.accounts) != 6:
        raise ValueError("an instruction of the associated token program that is not known")
    payer, account, owner, mint, system, program = instruction.accounts
    if system != SYSTEM_PROGRAM or program not in SPL_PROGRAMS or payer not in signers:
        raise ValueError("an associated account that no validator makes")
    if payer != signers[0]:
        raise NotUnderstood("rent that another than the payer of the fee pays")
    if account != find_token_account(owner, mint, program):
        raise ValueError("an associated account that is another owner's")
    return {
        "what": "rent",
        "amount": RENT if program == SPL else RENT_EXTENDED,
        "to": account,
        "owner": owner,
        "mint": mint,
    }


def name_owners(pays: list[dict[str, Any]]) -> None:
    """Whose a token account is, where the same transaction makes it."""
    owners = {each["to"]: each["owner"] for each in pays if each["what"] == "rent"}
    for each in pays:
        if each["what"] == "token":
            each["owner"] = owners.get(each["to"])
