"""Typed data (EIP-712): hashed strictly, and understood where it moves money.

A field that its type does not name is refused, and so is one that is missing: nothing is signed
that was not hashed, or not shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import printable
from avault.late import regex
from avault.signing.evm_transactions import UINT256, read_hex
from avault.vault.evm_address import keccak256, parse_address
from avault.vault.wallet_rules import HIGHEST_CHAIN

if TYPE_CHECKING:
    from typing import Any


MOST_HASHED = 400  # structs, texts, addresses and lists of one
MOST_HASHED_BYTES = 1 << 16  # of all of it, as nobody else is served meanwhile
DEEPEST = 12  # structs and lists in each other
LONGEST_NUMBER = 80
TYPE_NAME = regex(r"[A-Za-z_$][A-Za-z0-9_$]{0,63}")
ARRAY = regex(r"(.+)\[([0-9]{0,4})\]")
DOMAIN = "EIP712Domain"
DOMAIN_FIELDS = (  # in the order of EIP-712
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
    ("salt", "bytes32"),
)
PERMIT2 = "000000000022d473030f116ddee9f6b43ac78ba3"  # on every chain the same
AUTHORIZED = (
    "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
PERMIT = "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
PERMIT_OF_DAI = "Permit(address holder,address spender,uint256 nonce,uint256 expiry,bool allowed)"
CALL_FIELDS = frozenset({"functionsignature", "functiondata", "calldata", "data", "call"})
TRANSFERS = ("TransferWithAuthorization", "ReceiveWithAuthorization")  # ERC-3009
TAKEN = "TokenPermissions(address token,uint256 amount)"
ALLOWED = "PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)"
PERMITS = {  # of Permit2, each to the letter, and where it says what is permitted
    f"PermitSingle(PermitDetails details,address spender,uint256 sigDeadline){ALLOWED}": "details",
    f"PermitBatch(PermitDetails[] details,address spender,uint256 sigDeadline){ALLOWED}": "details",
    "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)"
    + TAKEN: "permitted",
    "PermitBatchTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,"
    f"uint256 deadline){TAKEN}": "permitted",
}


class TypedData:
    """Typed data as JSON-RPC has it: its `digest`, which is signed, and what it says.

    `domain` and `message` are as they were given. Raises ValueError.
    """

    def __init__(self, given: object) -> None:
        if not isinstance(given, dict) or {*given} != {"types", "primaryType", "domain", "message"}:
            raise ValueError("typed data has types, primaryType, domain and message")
        self.hashed = self.hashed_bytes = 0
        self.type_hashes: dict[str, bytes] = {}
        self.primary, self.domain, self.message = (
            given["primaryType"],
            given["domain"],
            given["message"],
        )
        if not isinstance(self.domain, dict) or not isinstance(self.message, dict):
            raise ValueError("domain and message have fields")
        self.types = read_types(given["types"], self.domain)
        if not isinstance(self.primary, str) or self.primary not in self.types:
            raise ValueError("primaryType is one of types")
        if self.primary == DOMAIN:
            raise ValueError("a domain alone says nothing")
        self.chain = self.read_chain()
        contract = self.domain.get("verifyingContract")
        self.contract = None if contract is None else parse_address(contract)
        parts = [self.hash_struct(DOMAIN, self.domain, 0)]
        parts.append(self.hash_struct(self.primary, self.message, 0))
        self.digest = keccak256(b"\x19\x01" + b"".join(parts))

    def read_chain(self) -> int | None:
        """The chain that it is for; None where it does not say so."""
        if self.domain.get("chainId") is None:
            return None
        chain = read_integer(self.domain["chainId"])
        if not 0 < chain < HIGHEST_CHAIN:
            raise ValueError("no such chain")
        return chain

    def count(self, depth: int) -> None:
        """One more is hashed; raises ValueError for too many, or too deep."""
        self.hashed += 1
        if self.hashed > MOST_HASHED or depth > DEEPEST:
            raise ValueError("typed data with too much in it")

    def hash(self, data: bytes) -> bytes:
        """A digest; raises ValueError where all of them are of too much."""
        self.hashed_bytes += len(data)
        if self.hashed_bytes > MOST_HASHED_BYTES:
            raise ValueError("typed data with too much in it")
        return keccak256(data)

    def hash_struct(self, name: str, value: object, depth: int) -> bytes:
        """The hash of a struct, whose fields are those of its type and no others."""
        self.count(depth)
        fields = self.types[name]
        if not isinstance(value, dict) or {*value} != {each for each, _ in fields}:
            raise ValueError(f"{printable(name, 40)} has other fields than its type")
        words = [self.encode(kind, value[each], depth + 1) for each, kind in fields]
        if name not in self.type_hashes:
            self.type_hashes[name] = self.hash(self.name_type(name).encode())
        return self.hash(self.type_hashes[name] + b"".join(words))

    def name_type(self, name: str) -> str:
        """A type as it is hashed, with those that it refers to in order."""
        found, todo = {name}, [name]
        while todo:
            for _, kind in self.types[todo.pop()]:
                base = kind.partition("[")[0]
                if base in self.types and base not in found:
                    found.add(base)
                    todo.append(base)
        names = [name, *sorted(found - {name})]
        return "".join(
            f"{each}({','.join(f'{kind} {field}' for field, kind in self.types[each])})"
            for each in names
        )

    def encode(self, kind: str, value: object, depth: int) -> bytes:
        """A value in 32 bytes, by its type; raises ValueError."""
        if found := ARRAY.fullmatch(kind):
            self.count(depth)
            if not isinstance(value, list) or (found[2] and int(found[2]) != len(value)):
                raise ValueError("not a list, or not of that length")
            return self.hash(b"".join(self.encode(found[1], each, depth + 1) for each in value))
        if kind in self.types:
            return self.hash_struct(kind, value, depth)
        if kind == "string":
            self.count(depth)
            if not isinstance(value, str):
                raise ValueError("not a text")
            return self.hash(value.encode())
        if kind == "bytes":
            self.count(depth)
            return self.hash(read_hex(value, "bytes"))
        if kind == "address":
            self.count(depth)  # for its checksum
        return encode_atom(kind, value)


def read_types(given: object, domain: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The types that are named, each with its fields; raises ValueError."""
    if not isinstance(given, dict) or len(given) > 64:
        raise ValueError("types are lists of fields, by name")
    types: dict[str, list[tuple[str, str]]] = {}
    for name, fields in given.items():
        if not isinstance(fields, list) or len(fields) > 64 or not TYPE_NAME.fullmatch(name):
            raise ValueError("a type is a list of fields")
        types[name] = [read_field(each) for each in fields]
        if len({each for each, _ in types[name]}) < len(fields):
            raise ValueError("a field that is there twice")
    if any(map(is_atom, types)):
        raise ValueError("a type with the name of another")
    own = [(name, kind) for name, kind in DOMAIN_FIELDS if name in domain]
    if any(each not in DOMAIN_FIELDS for each in types.setdefault(DOMAIN, own)):
        raise ValueError("a domain has other fields than those of EIP-712")
    for each in types.values():
        for _, kind in each:
            base = kind.partition("[")[0]
            if base not in types and not is_atom(base):
                raise ValueError(f"no such type: {printable(base, 40)}")
    return types


def read_field(given: object) -> tuple[str, str]:
    """The name and the type of a field; raises ValueError."""
    if not isinstance(given, dict) or {*given} != {"name", "type"}:
        raise ValueError("a field has a name and a type")
    name, kind = given["name"], given["type"]
    if not isinstance(name, str) or not isinstance(kind, str) or len(kind) > 100:
        raise ValueError("a field has a name and a type")
    base, bracket, rest = kind.partition("[")
    if not TYPE_NAME.fullmatch(name) or not TYPE_NAME.fullmatch(base):
        raise ValueError("a field has a name and a type")
    if bracket and "".join(f"[{each}]" for each in rest[:-1].split("][")) != bracket + rest:
        raise ValueError("not a list")
    return name, kind


def is_atom(kind: str) -> bool:
    """Whether it is a type that is not made of others."""
    if kind in ("address", "bool", "string", "bytes"):
        return True
    for head, step, most in (("uint", 8, 256), ("int", 8, 256), ("bytes", 1, 32)):
        size = kind.removeprefix(head)
        if size != kind and size.isascii() and size.isdigit() and size == str(int(size)):
            return 0 < int(size) <= most and int(size) % step == 0
    return False


def encode_atom(kind: str, value: object) -> bytes:
    """A value of a type that is not made of others, in 32 bytes; raises ValueError."""
    if kind == "address":
        return parse_address(value).rjust(32, b"\0")
    if kind == "bool":
        if type(value) is not bool:
            raise ValueError("neither true nor false")
        return bytes([0] * 31 + [value])
    if kind.startswith("bytes"):
        found = read_hex(value, "bytes")
        if len(found) != int(kind[5:]):
            raise ValueError("bytes of another length than their type")
        return found.ljust(32, b"\0")
    number, bits = read_integer(value), int(kind.lstrip("uint"))
    least, most = (0, 1 << bits) if kind[0] == "u" else (-(1 << bits - 1), 1 << bits - 1)
    if not least <= number < most:
        raise ValueError("a number that its type has no room for")
    return (number % UINT256).to_bytes(32, "big")


def read_integer(value: object) -> int:
    """A whole number: of JSON, or as a text of decimal or of hex digits; raises ValueError."""
    if type(value) is int:
        return value
    if isinstance(value, str) and 0 < len(value) <= LONGEST_NUMBER and value.isascii():
        digits = value.removeprefix("-")
        if digits.isdigit():
            return int(value)
        if value[:2] == "0x" and value[2:].isalnum():
            return int(value, 0)
    raise ValueError("not a whole number")


def understand_typed(data: TypedData, own: bytes) -> dict[str, Any]:
    """What typed data of an account does: see `describe_transaction`; `does` may be typed.

    What is named as what moves money is, and has not its types to the letter, raises ValueError.
    """
    about = {"chain": data.chain, "fee": 0, "value": 0, "to": data.contract}
    is_permit2 = data.contract is not None and data.contract.hex() == PERMIT2
    if not is_permit2 and data.primary not in TRANSFERS and not data.primary.startswith("Permit"):
        refuse_calls(data)
        return {**about, "does": "typed", "moves": []}
    if not data.chain or not data.contract:
        raise ValueError("it moves money, on no chain or of no token that it names")
    said, form = data.message, data.name_type(data.primary)
    if is_permit2 and form in PERMITS:
        return {**about, "does": "approve", "moves": read_permit2(said, PERMITS[form])}
    if is_permit2 or form not in (PERMIT, PERMIT_OF_DAI, *(f"{e}{AUTHORIZED}" for e in TRANSFERS)):
        raise ValueError("it has the name of what moves money, and another form")
    if data.primary in TRANSFERS:
        need_own(said["from"], own)
        move = (data.contract, parse_address(said["to"]), read_integer(said["value"]))
        return {**about, "does": "pay", "moves": [move]}
    is_dai = form == PERMIT_OF_DAI
    need_own(said["holder" if is_dai else "owner"], own)
    value = (UINT256 - 1) * said["allowed"] if is_dai else read_integer(said["value"])
    move = (data.contract, parse_address(said["spender"]), value)
    return {**about, "does": "approve", "moves": [move]}


def refuse_calls(data: TypedData) -> None:
    """Raise ValueError for a field that is the data of a call, by its type and its name."""
    for fields in data.types.values():
        for name, kind in fields:
            is_bytes = kind.partition("[")[0] == "bytes"
            if is_bytes and name.replace("_", "").lower().rstrip("s") in CALL_FIELDS:
                raise ValueError("a call inside typed data, which nobody has decoded")


def read_permit2(said: dict[str, Any], name: str) -> list[tuple[bytes, bytes, int]]:
    """What is allowed by Uniswap's Permit2, by one permit or by several; raises ValueError."""
    parts = said[name] if isinstance(said[name], list) else [said[name]]
    if not parts:
        raise ValueError("a permit of nothing")
    spender = parse_address(said["spender"])
    return [(parse_address(each["token"]), spender, read_integer(each["amount"])) for each in parts]


def need_own(address: object, own: bytes) -> None:
    """Raise ValueError for an account that is not this key's."""
    if parse_address(address) != own:
        raise ValueError("it is about another account's money")
