"""How an error is told: what went wrong, a hint that is for the same vault, and an exit code."""

from __future__ import annotations

from avault.places import own_name
from avault.plain import to_json, write_all

EXIT_CODES = {
    "usage": 2,
    "locked": 3,
    "not_found": 4,
    "denied": 5,
    "unavailable": 6,
    "timed_out": 7,
    "tampered": 8,
}


def say_error(code: str, message: str, hint: str | None, want_json: bool) -> int:
    """Tell a person of an error, and on stdout whoever reads JSON; its exit code."""
    hint = call.complete(hint) if hint else None
    if want_json:
        parts = ",\n".join(
            f'    "{name}": {to_json(text)}'
            for name, text in (("code", code), ("message", message), ("hint", hint))
        )
        try:
            write_all(1, f'{{\n  "ok": false,\n  "error": {{\n{parts}\n  }}\n}}\n'.encode())
        except OSError:
            pass  # the exit code and stderr say it too
    told = f"avault: error: {message}\n" + (f"avault: hint: {hint}\n" if hint else "")
    write_all(2, told.encode("utf-8", "backslashreplace"))
    return EXIT_CODES.get(code, 1)


VAULT_COMMANDS = frozenset(  # first words of the commands that are about a vault
    """
    audit bunker custody daemon delete desk doctor drill edit export forget get git grant grants
    guard has history import init inject key keychain list lock log machine mcp message migrate
    mv openclaw openclaw-provider operator pair proxy recover replica restore revoke rotate run scan
    service set sign ssh status sync unguard unlock wait wallet
    """.split()
)


class Call:
    """How avault was called: what a hint repeats, so that its commands are for the same vault.

    `directory` is --dir as it was given, `name` the command, `options` those that have a value.
    """

    # secrets, and what a hint says itself
    UNSAID = frozenset(("--bunker", "--dir", "--key", "--value"))

    def __init__(self) -> None:
        self.directory: str | None = None
        self.farewell = "stopped"  # what is said at Ctrl-C; nothing where that is the usual end
        self.name = ""
        self.options: dict[str, str] = {}

    def complete(self, hint: str) -> str:
        """A hint whose commands get the --dir that was given, and the same command its options."""
        done, *rest = hint.split("avault ")
        for piece in rest:
            is_word = done[-1:].isalnum() or done[-1:] in ("_", "-", ".", "/")
            done += "avault " + piece if is_word else self.amend(piece, is_fed=done.endswith("| "))
        return done

    def amend(self, piece: str, is_fed: bool) -> str:
        """What follows `avault` in a hint, up to the next one, with what belongs there.

        One that a pipe feeds has its options.
        """
        length = next((place for place, letter in enumerate(piece) if letter in ",;)"), len(piece))
        clause, rest = piece[:length], piece[length:]
        first = clause.split(" ")[0]
        if first not in VAULT_COMMANDS:
            return "avault " + piece
        after = clause.removeprefix(self.name)
        if (
            self.name
            and not is_fed
            and after != clause
            and not (after[:1].isalnum() or after[:1] == "-")
        ):
            given = [
                f" {name} {value}"
                for name, value in self.options.items()
                if f" {name}" not in clause
            ]
            clause = self.name + "".join(given) + after
        return ("avault " if " --dir" in clause else own_name(self.directory) + " ") + clause + rest


call = Call()
