"""A message of Solana's, read strictly and whole: who signs, which accounts, which instructions.

The form is that of a transaction's message, legacy or of version 0, as validators read it
(https://solana.com/docs/core/transactions). What no validator would take is refused here, too.
"""

from __future__ import annotations

from avault.vault.solana_text import encode_base58

LONGEST_TRANSACTION = 1_232  # bytes: what a packet of Solana's holds
SIGNATURE_BYTES, ADDRESS_BYTES = 64, 32
VERSION_ZERO = 0x80  # the first byte of a message that is not legacy; legacy ones begin lower
MOST_INSTRUCTIONS = 64  # of a transaction, as validators have it


class MessageReader:
    """Takes bytes from the front; raises ValueError where there are not so many."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        found = self.content[self.at : self.at + size]
        if len(found) != size:
            raise ValueError("cut off")
        self.at += size
        return found

    def byte(self) -> int:
        """The next byte, as a number."""
        return self.take(1)[0]

    def count(self) -> int:
        """A compact-u16, in its one form: as short as it can be."""
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 14:
                raise ValueError("a count that is too long")
        if number > 0xFFFF or (shift > 7 and not byte):
            raise ValueError("a count in another form than its own")
        return number

    def string(self) -> bytes:
        """Bytes behind their count."""
        return self.take(self.count())


class Instruction:
    """One: the `program` and the `accounts` (in base58), and the `content` for it."""

    def __init__(self, program: str, accounts: list[str], content: bytes) -> None:
        self.program, self.accounts, self.content = program, accounts, content


class SolanaMessage:
    """One, read: `signers` (the first pays the fee), `accounts`, `instructions`.

    Addresses are in base58.
    `blockhash_at` is where its blockhash stands. Raises ValueError for what is none, and for one
    that takes addresses from lookup tables: whom it pays does not stand in it.
    """

    def __init__(self, content: bytes) -> None:
        reader = MessageReader(content)
        first = reader.byte()
        self.is_legacy = first < VERSION_ZERO
        if not self.is_legacy and first != VERSION_ZERO:
            raise ValueError("a message of a version that is not known")
        signed = first if self.is_legacy else reader.byte()
        read_only_signed, read_only = reader.byte(), reader.byte()
        self.accounts = [encode_base58(reader.take(ADDRESS_BYTES)) for _ in range(reader.count())]
        self.signers = self.accounts[:signed]
        unsigned = len(self.accounts) - signed
        if not read_only_signed < signed or not read_only <= unsigned:
            raise ValueError("a header that does not fit its accounts")
        if len({*self.accounts}) != len(self.accounts):
            raise ValueError("an account that stands twice")
        self.blockhash_at = reader.at
        reader.take(ADDRESS_BYTES)
        count = reader.count()
        if count > MOST_INSTRUCTIONS:
            raise ValueError("more instructions than a transaction has")
        self.instructions = [self.read_instruction(reader) for _ in range(count)]
        if not self.is_legacy and reader.count():
            raise ValueError("it takes addresses from a lookup table, which can be anybody's")
        if reader.at != len(content):
            raise ValueError("more behind its end")
        if 1 + signed * SIGNATURE_BYTES + len(content) > LONGEST_TRANSACTION:
            raise ValueError("longer than a transaction")

    def read_instruction(self, reader: MessageReader) -> Instruction:
        """The next one; raises ValueError."""
        program = reader.byte()
        numbers, content = reader.string(), reader.string()
        if not 0 < program < len(self.accounts) or max(numbers, default=0) >= len(self.accounts):
            raise ValueError("an account that is not there")
        accounts = [self.accounts[each] for each in numbers]
        return Instruction(self.accounts[program], accounts, content)


def put_blockhash(content: bytes, blockhash: bytes) -> bytes:
    """A message with another blockhash (32 bytes), and nothing else changed; raises ValueError."""
    at = SolanaMessage(content).blockhash_at
    if len(blockhash) != ADDRESS_BYTES:
        raise ValueError("a blockhash has 32 bytes")
    return content[:at] + blockhash + content[at + ADDRESS_BYTES :]


def is_solana_message(content: bytes) -> bool:
    """Whether somebody could take bytes for a message of Solana's, as far as its beginning says.

    So a text is signed only where it is none, whatever stands further on.
    """
    return bool(content) and (content[0] < 0x20 or content[0] >= VERSION_ZERO)
