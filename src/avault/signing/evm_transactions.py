"""Transactions for Ethereum and chains like it: read from named fields, decoded, encoded.

Of the types of transactions there are two: legacy with a chain's id (EIP-155), and with a fee of
its own for who includes it (EIP-1559). A deployment, access lists, blobs and the authorization of a
whole account (EIP-7702) are none of them. All numbers are of the chain's smallest unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Usage, printable
from avault.vault.evm_address import HEX_DIGITS, keccak256, parse_address
from avault.vault.wallet_rules import (
    APPROVE,
    HIGHEST_CHAIN,
    INCREASE,
    MONEY_SELECTORS,
    TRANSFER,
    TRANSFER_FROM,
)

if TYPE_CHECKING:
    from typing import Any

    Item = bytes | list["Item"]


UINT256 = 1 << 256
# chains on which a transaction costs no more than its own fee says. Those of the OP stack take
# another one for its bytes on Ethereum, in no field of it; so may any that is not known here
WHOLE_FEES = frozenset({1, 56, 100, 137, 31337, 42161, 43114, 11155111})
OF_THE_OP_STACK = frozenset({10, 8453, 84532})  # whose scalars are known: Optimism, Base
DEAREST = 150  # gwei: Ethereum's fees for gas and for blobs, up to which that other fee is counted
BESIDES_DATA = 220  # bytes of a transaction besides its data, with the signature: never more
MOST_GAS, MOST_NONCE = 1 << 40, 1 << 64  # the last by EIP-2681
TX_FIELDS = frozenset(
    {
        "from",
        "to",
        "value",
        "data",
        "input",
        "gas",
        "gasPrice",
        "maxFeePerGas",
        "maxPriorityFeePerGas",
        "nonce",
        "chainId",
        "type",
        "accessList",
    }
)


def encode_rlp(item: Item) -> bytes:
    """RLP of bytes, or of a list of such (Yellow Paper, appendix B)."""
    if isinstance(item, list):
        body = b"".join(map(encode_rlp, item))
        return encode_length(len(body), 0xC0) + body
    return item if len(item) == 1 and item[0] < 0x80 else encode_length(len(item), 0x80) + item


def encode_length(size: int, base: int) -> bytes:
    """The head of an item of RLP."""
    if size < 56:
        return bytes([base + size])
    length = strip_number(size)
    return bytes([base + 55 + len(length)]) + length


def strip_number(number: int) -> bytes:
    """A number in as few bytes as it has, as RLP has it: 0 has none."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def read_quantity(fields: dict[str, Any], name: str, most: int = UINT256) -> int | None:
    """A number of JSON-RPC, as in 0x1f; None where it is not there. Raises ValueError."""
    text = fields.get(name)
    if text is None:
        return None
    is_hex = isinstance(text, str) and text[:2] == "0x" and 2 < len(text) <= 66
    if not is_hex or {*text[2:]} - HEX_DIGITS:
        raise ValueError(f"{name} is a number as in 0x1f")
    number = int(text, 0)
    if number >= most:
        raise ValueError(f"{name} is too large")
    return number


def read_hex(text: object, name: str) -> bytes:
    """Bytes as JSON-RPC writes them: 0x, and two digits for each. Raises ValueError."""
    is_hex = isinstance(text, str) and text[:2] == "0x" and len(text) % 2 == 0
    if not isinstance(text, str) or not is_hex or {*text[2:]} - HEX_DIGITS:
        raise ValueError(f"{name} is bytes as in 0x1f00")
    return bytes.fromhex(text[2:])


class Transaction:
    """One that is to be signed, of the fields of JSON-RPC; raises ValueError, and Usage.

    `nonce` is None until somebody says it.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        if unknown := sorted({*fields} - TX_FIELDS):
            raise ValueError(f"a transaction has no {printable(unknown[0], 40)} here")
        if fields.get("accessList") or fields.get("type") not in (None, "0x0", "0x2"):
            raise ValueError("a transaction of another type than legacy and EIP-1559")
        if fields.get("to") is None:
            raise Usage("a deployment is not signed here", "no rule can say what it does")
        self.to = parse_address(fields["to"])
        data = [read_hex(fields[each], each) for each in ("data", "input") if fields.get(each)]
        if len(data) > 1 and data[0] != data[1]:
            raise ValueError("data and input differ")
        self.data = data[0] if data else b""
        chain = read_quantity(fields, "chainId", HIGHEST_CHAIN)
        gas = read_quantity(fields, "gas", MOST_GAS)
        if not chain or not gas:
            raise ValueError("a transaction has a chainId, and gas")
        self.chain, self.gas = chain, gas
        self.value = read_quantity(fields, "value") or 0
        self.nonce = read_quantity(fields, "nonce", MOST_NONCE)
        price = read_quantity(fields, "gasPrice")
        most = read_quantity(fields, "maxFeePerGas")
        tip = read_quantity(fields, "maxPriorityFeePerGas")
        is_legacy = price is not None
        if is_legacy == (most is not None) or (is_legacy and tip is not None):
            raise ValueError("gasPrice, or maxFeePerGas and maxPriorityFeePerGas")
        if fields.get("type") not in (None, "0x0" if is_legacy else "0x2"):
            raise ValueError("a fee of another type of transaction")
        self.is_legacy = is_legacy
        self.price, self.tip = price or most or 0, tip or 0
        if self.tip > self.price and not is_legacy:
            raise ValueError("maxPriorityFeePerGas is more than maxFeePerGas")

    def fee(self) -> int:
        """The most that it can cost besides its value, where Ethereum costs up to `DEAREST`.

        A byte comes to less than either of Ethereum's prices there (OP stack, Fjord's formula, with
        the scalars of Optimism and Base). The nonce makes no difference: it is known later.
        """
        others = 0 if self.chain in WHOLE_FEES else BESIDES_DATA + len(self.data)
        return self.gas * self.price + others * DEAREST * 10**9

    def items(self) -> list[Item]:
        """Its fields in the order in which they are signed, without the signature."""
        nonce = strip_number(self.nonce or 0)
        gas, price, value = map(strip_number, (self.gas, self.price, self.value))
        if self.is_legacy:
            return [nonce, price, gas, self.to, value, self.data]
        chain, tip = strip_number(self.chain), strip_number(self.tip)
        return [chain, nonce, tip, price, gas, self.to, value, self.data, []]

    def digest(self) -> bytes:
        """What is signed of it."""
        if self.is_legacy:
            items = [*self.items(), strip_number(self.chain), b"", b""]
            return keccak256(encode_rlp(items))
        return keccak256(b"\2" + encode_rlp(self.items()))

    def pack(self, parity: int, r: int, s: int) -> bytes:
        """The whole, with a signature: what a node takes."""
        pair: list[Item] = [strip_number(r), strip_number(s)]
        if self.is_legacy:
            v = strip_number(self.chain * 2 + 35 + parity)  # EIP-155
            return encode_rlp([*self.items(), v, *pair])
        return b"\2" + encode_rlp([*self.items(), strip_number(parity), *pair])


def describe_transaction(tx: Transaction, own: bytes) -> dict[str, Any]:
    """What a transaction of an account does; raises ValueError where that is made unclear.

    `does` is pay, approve or call; `moves` are (token, to whom, amount). The token b"" is the
    chain's own coin.
    """
    about = {"chain": tx.chain, "fee": tx.fee(), "value": tx.value, "to": tx.to}
    selector = tx.data[:4].hex()
    if not tx.data:
        return {**about, "does": "pay", "moves": [(b"", tx.to, tx.value)]}
    is_money = selector in MONEY_SELECTORS and not tx.value
    if found := read_token_call(selector, tx.data[4:], own) if is_money else None:
        does, to, amount = found
        return {**about, "does": does, "moves": [(tx.to, to, amount)]}
    moves = [(b"", tx.to, tx.value)] if tx.value else []
    return {**about, "does": "call", "moves": moves, "selector": selector, "size": len(tx.data)}


def read_token_call(selector: str, words: bytes, own: bytes) -> tuple[str, bytes, int] | None:
    """What a call of a token does (ERC-20), to whom, and how much; None for another's money.

    Raises ValueError for one of another length, and for an address that is none.
    """
    count = 7 if selector not in (TRANSFER, TRANSFER_FROM, APPROVE, INCREASE) else 2
    count += selector == TRANSFER_FROM
    if len(words) != 32 * count:
        raise ValueError("a call that moves tokens is longer, or shorter, than it has to be")
    if count == 7:
        return None  # a permit that somebody else has signed
    parts = [words[at : at + 32] for at in range(0, len(words), 32)]
    if any(any(each[:12]) for each in parts[:-1]):
        raise ValueError("a call that moves tokens has an address that is none")
    amount = int.from_bytes(parts[-1], "big")
    if selector == TRANSFER_FROM and parts[0][12:] != own:
        return None
    does = "approve" if selector in (APPROVE, INCREASE) else "pay"
    return does, parts[-2][12:], amount
