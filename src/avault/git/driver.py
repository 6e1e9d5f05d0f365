"""git's merge driver and diff filter, which avault is: what git is told, and whether it was."""

from __future__ import annotations

import os
import re
import shlex
import stat

from avault.errors import AvaultError
from avault.git.committed import ATTRIBUTES, HINTS, NAMES, RECOVERY, VAULT, quote_pattern
from avault.git.repository import Repository
from avault.process import own_command
from avault.vault.files import read_file, write_file

CUSTODIANS = "custody-*.json"


def expected_settings() -> dict[str, str]:
    """What .git/config is to say: how avault.enc is merged and compared, whatever $PATH is."""
    merge, diff = (shlex.join(own_command("git", word, "--")) for word in ("merge", "diff"))
    return {
        "merge.avault.name": "avault: by key, through the daemon",
        "merge.avault.driver": merge.replace("%", "%%") + " %O %A %B %P",
        "merge.avault.recursive": "binary",
        "diff.avault.textconv": diff,
        "diff.avault.cachetextconv": "false",
    }


def is_set_up(repository: Repository) -> bool:
    """Whether git merges and compares our files as we want it to, and filters them by nothing."""
    expected = expected_settings()
    if not all(
        is_same_command(repository.settings.get(name, ""), value)
        for name, value in expected.items()
    ):
        return False
    raw = {
        "text": "unset",
        "filter": "unset",
        "ident": "unset",
        "working-tree-encoding": "unspecified",
    }
    rules = {
        (path, name, value) for path in repository.paths.values() for name, value in raw.items()
    }
    sample = repository.path_of("custody-0.json")  # whether there is one or not
    rules |= {(sample, name, value) for name, value in raw.items()}
    merged = [path for name, path in repository.paths.items() if name != ATTRIBUTES]
    rules |= {(path, "merge", "avault") for path in (*merged, sample)}
    rules |= {(repository.paths[VAULT], "diff", "avault")}
    asked = repository.run(
        "check-attr", "-z", *raw, "merge", "diff", "--", *repository.paths.values(), sample
    )
    words = os.fsdecode(asked).split("\0")[:-1]
    return rules <= set(zip(words[::3], words[1::3], words[2::3], strict=True))


def set_up(repository: Repository) -> None:
    """Tell git how our files are merged and compared.

    Other lines of its files stay. Raises AvaultError.

    The settings come first: for a driver that it does not know, git merges line by line.
    """
    for name, value in expected_settings().items():
        repository.run("config", "--local", "--replace-all", name, value)
    repository.forget_settings()
    path = os.path.realpath(
        os.path.join(
            repository.top,
            repository.line("rev-parse", "--git-path", "info/attributes") or "",
        )
    )
    # `-working-tree-encoding` would be an error (gitattributes(5)).
    patterns = {name: quote_pattern(repository.paths[name]) for name in NAMES}
    begin = quote_pattern(repository.path_of("custody-"))
    patterns[CUSTODIANS] = re.sub(rb'("?)\Z', rb"*.json\1", begin, count=1)
    raw = b" -text -filter -ident !working-tree-encoding"
    rules = {name: pattern + raw for name, pattern in patterns.items()}
    kinds = {
        VAULT: b" merge=avault diff=avault",
        RECOVERY: b" merge=avault",
        HINTS: b" merge=avault",
        CUSTODIANS: b" merge=avault",
        ATTRIBUTES: b"",
    }
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o644
        before = read_file(path).splitlines() if os.path.exists(path) else []
        lines = [line for line in before if not line.startswith(tuple(rules.values()))]
        # the last line that fits is the one that counts
        lines += [rules[name] + kinds[name] for name in rules]
        write_file(path, b"".join(line + b"\n" for line in lines))
        os.chmod(path, mode)
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}", "whose file is it?") from None
    if not is_set_up(repository):
        raise AvaultError(
            "git merges the vault by other rules than avault's",
            f"look into {path} and .git/config",
        )


def is_same_command(text: str, expected: str) -> bool:
    """Whether a setting is what is expected, by any name of an interpreter that is there."""
    try:
        found, wanted = shlex.split(text), shlex.split(expected)
    except ValueError:
        return False
    return found == wanted or (
        found[1:] == wanted[1:] != [] and os.path.isabs(found[0]) and os.access(found[0], os.X_OK)
    )
