"""Paper as a custodian: the unlock key in shares, each on a sheet to print; a person types them in.

Nothing of it is kept by us. What lies in the vault's own file says how many sheets there are, how
many are needed, and which set they are.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, ClassVar

import avault
from avault import AvaultError, Errand, NotFound, Usage, printable

if TYPE_CHECKING:
    from shamir_mnemonic import Share

    from avault_extras import shares
else:
    shares = avault.load_extra("shares", "shares")


class Custodian:
    """Sheets of paper, of which some are enough; each is a share of the unlock key (SLIP-39)."""

    needs_person = True
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "need": ("how many sheets open the vault", "2"),
        "of": ("how many sheets there are", "3"),
        "sheets": ("a directory for the sheets until they are printed; new, or empty", None),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand

    def settle(self) -> dict[str, str]:
        """How many sheets, of how many, and where they are written; raises Usage."""
        settings = {name: usual or "" for name, (_, usual) in self.SETTINGS.items()}
        settings |= self.errand.settings
        if unknown := settings.keys() - self.SETTINGS.keys():
            names = f"these are: {', '.join(self.SETTINGS)}"
            raise Usage(f"paper has no setting {printable(min(unknown))}", names)
        need, of = (read_count(settings[name]) for name in ("need", "of"))
        shares.check_counts(need, of)
        if not settings["sheets"]:
            raise Usage("where are the sheets to be written?", "a new directory, as in: sheets=kit")
        path = self.errand.path(settings["sheets"])
        refuse_full(path)
        return {"need": str(need), "of": str(of), "sheets": path}

    def probe(self) -> str:
        """How many sheets are needed, and whether they still lie on the disk."""
        kept = self.read_kept()
        paths = [self.sheet_path(number) for number in range(1, kept["of"] + 1)]
        told = f"{kept['need']} of {kept['of']} sheets are needed, and somebody who types them"
        if any(map(os.path.lexists, paths)):
            told += f"; there are sheets in {self.errand.settings['sheets']}: print and delete them"
        return told

    def set(self, secret: str) -> str:
        """Write the sheets; gives which set they are, and how many are needed."""
        directory = self.errand.settings["sheets"]
        need, of = (int(self.errand.settings[name]) for name in ("need", "of"))
        texts = shares.split(secret, need, of)
        self.errand.prompt.tell(
            f"the sheets are written into {directory} now. PRINT THEM, THEN DELETE THEM: until then"
            " whoever reads that directory can open the vault"
        )
        make_directory(directory)
        kept = {"need": need, "of": of, "set": shares.read_share(texts[0]).identifier}
        written = []
        try:
            for number, text in enumerate(texts, 1):
                written.append(self.sheet_path(number))
                avault.write_file(written[-1], self.render(number, text, kept))
        except BaseException:
            for path in filter(os.path.lexists, written):
                os.unlink(path)
            raise
        return json.dumps(kept)

    def get(self) -> str:
        """The secret, from the sheets that are needed, as a person types or scans them."""
        kept, prompt = self.read_kept(), self.errand.prompt
        if prompt.answers:
            lines = [line for line in prompt.ask("").splitlines() if line.strip()]
            secret = shares.combine(lines)  # and says which line is wrong
            for line in lines:
                self.check_set(kept, shares.read_share(line))
            return secret
        prompt.tell(
            f"{kept['need']} of {kept['of']} sheets are needed, {name_set(kept['set'])}. Type the"
            " words in their order, as many at a time as you like, or scan the code. Four letters"
            " of a word are enough; what you type is not shown; an empty line gives up"
        )
        found: dict[int, str] = {}
        while len(found) < kept["need"]:
            try:
                text = self.ask_words(len(found) + 1, kept["need"])
                share = shares.read_share(text)
                self.check_set(kept, share)
                if share.index in found:
                    raise Usage(f"this is sheet {share.index + 1}, which you have typed already")
            except (Usage, avault.Tampered) as error:
                prompt.tell(f"{error.message}; type a sheet again")
                continue
            found[share.index] = text
            prompt.tell(f"that is sheet {share.index + 1}")
        return shares.combine(found.values())

    def ask_words(self, which: int, need: int) -> str:
        """The words of one sheet; a line with one that is not in the list is asked for again."""
        words: list[str] = []
        while len(words) < shares.LENGTH:
            question = f"sheet {which} of {need}, from word {len(words) + 1} on"
            try:
                words += shares.complete_words(self.errand.prompt.ask(question), len(words))
            except Usage as error:
                self.errand.prompt.tell(f"{error.message}; type from word {len(words) + 1} again")
        return " ".join(words)

    def delete(self) -> None:
        """Say that the sheets are the person's, if one is there."""
        try:
            self.errand.prompt.tell(
                "the sheets are yours: destroy them. With an old backup of this machine they would"
                " still open the vault"
            )
        except AvaultError:
            pass  # nobody is there, and nothing is to be done

    def read_kept(self) -> dict[str, int]:
        """What `set` gave; raises NotFound, and AvaultError where it is damaged."""
        if not self.errand.kept:
            raise NotFound("it has no sheets")
        try:
            kept: dict[str, int] = json.loads(self.errand.kept)
            shares.check_counts(kept["need"], kept["of"])
            if isinstance(kept["set"], int):
                return kept
        except (ValueError, TypeError, KeyError, RecursionError, Usage):
            pass
        raise AvaultError("what is kept about its sheets is damaged")

    def check_set(self, kept: dict[str, int], share: Share) -> None:
        """Raise Tampered for a share that is not of this set."""
        if (share.identifier, share.member_threshold) != (kept["set"], kept["need"]):
            raise avault.Tampered(
                f"this sheet is of {name_set(share.identifier)}, and not of {name_set(kept['set'])}"
            )

    def sheet_path(self, number: int) -> str:
        """The file of a sheet."""
        name = f"share-{number}-of-{self.errand.settings['of']}.html"
        return os.path.join(self.errand.settings["sheets"], name)

    def render(self, number: int, text: str, kept: dict[str, int]) -> bytes:
        """The sheet of one share."""
        need, of, name = kept["need"], kept["of"], self.errand.name
        labelled = re.fullmatch(r"avault: unlock key of (.+?) \((.*)\)", self.errand.names.label)
        vault, directory = labelled.groups() if labelled else (self.errand.names.label, "")
        facts = {
            "Vault": vault,
            "Belongs to": f"{avault.place_name()}, {directory}".removesuffix(", "),
            "Agent": self.errand.bound.split(":")[-2],
            "Custodian": name,
            "Sheet": f"{number} of {of}, {name_set(kept['set'])}",
            "Needed": "this one alone" if of == 1 else f"any {need} of the {of} sheets",
            "Made": avault.render_time(time.time())[:10],
        }
        use = (
            f"To open the vault, type on that machine: `avault unlock --with {name}`. It asks for"
            " the words in their order; the first four letters of each are enough. A scanner that"
            " types what it reads may read the code instead."
        )
        need_file = f" open it together with the file custody-{name}.json, which lies there."
        keep = "Keep it where nobody else comes, take no picture of it, and type it nowhere else."
        if need > 1:
            opens = f"{need} sheets{need_file} Fewer open nothing."
            keep += " Keep no two of the sheets in one place."
        else:
            opens = f"Whoever has it can{need_file}"
        lines = [use, opens, keep]
        title = f"Share {number} of {of} for {vault}"
        return avault.render_sheet(title, facts, text, text.split(), lines)


def name_set(identifier: int) -> str:
    """A set of shares, as sheet and terminal both name it."""
    return f"set {identifier:04x}"


def read_count(text: str) -> int:
    """A number that a person typed; raises Usage."""
    if re.fullmatch("[0-9]{1,2}", text):
        return int(text)
    raise Usage(f"not a number of sheets: {printable(text)}", "as in: need=2 of=3")


def refuse_full(path: str) -> None:
    """Raise Usage where a path is neither free nor an empty directory of ours."""
    try:
        if os.path.lexists(path) and (os.stat(path).st_uid != os.getuid() or os.listdir(path)):
            raise Usage(f"{path} is not empty, or not ours", "name a new directory for the sheets")
    except OSError as error:
        raise Usage(f"{path} cannot be a directory for sheets: {error.strerror}") from None


def make_directory(path: str) -> None:
    """Make a directory that nobody else can read (0700), or take an empty one of ours."""
    refuse_full(path)
    avault.make_private_directory(path)
