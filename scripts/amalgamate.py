"""Writes avault.py, the whole tool in one file, from the rooms of src/avault/.

    python scripts/amalgamate.py            writes it
    python scripts/amalgamate.py --check    changes nothing; exit code 1 if avault.py is another

A room is a file. The rooms are put in order by their folders, and in a folder by their imports, each under a banner;
imports of our own are dropped, as all names are in one file then. Other modules are imported when they are first used
(`Lazy`): `avault get` must not pay for what it does not need.

It refuses what would not be the same in one file, or would work at import: an import of a room above, a circle of
imports, a name that two rooms define, an import of a part of a module, a call at top level.

One folder, keys/, goes through all storeys: from the cipher that the vault stands on to the process that the daemon is.
Each of its rooms counts as of the highest folder that it stands on, for who imports it.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "avault"
TARGET = ROOT / "avault.py"
FOLDERS = {  # each is one concern; a room imports of its own folder, and of those before it
    "": "what all others stand on: the fast way of a `get`, errors, the protocol, Nostr's keys, how our processes start",
    "vault": "what a vault is, on the disk and in memory: names, secrets, guards, locks, machines, and how they are sealed",
    "signer": "the operator's signer: pairing, relays, questions to it, and one of our own",
    "custody": "ways to come by the key without the phone, each in a process of its own",
    "signing": "keys that sign, in a process of their own: for SSH, Nostr, Ethereum and Solana",
    "daemon": "the two processes, supervisor and keyholder, and what they answer",
    "keys": "the agent's key and the unlock keys, from the envelope to the end of the process; what a person reads first",
    "fronts": "front ends without a key, which ask the daemon: SSH's agent, Nostr's relays, a wallet's RPC, the proxy",
    "terminal": "what all commands do at a terminal: options, help, sheets to print, how time is told",
    "git": "the vault in a repository: recorded, merged, pulled, pushed, and its history",
    "replica": "copies of the vault at relays: laid ready, sent, read, taken in",
    "messages": "private messages between agent and operator: notices, and the one word that is obeyed",
    "intake": "secrets that lie in files: found, read, taken in",
    "running": "`run`, `inject`, `scan`: a command with secrets, its output masked, perhaps in a sandbox",
    "service": "avault as a service of systemd",
    "openclaw": "OpenClaw: its hook, its provider of secrets, and moving to and from them",
    "doctor": "what is wrong here, and how it is put right",
    "fleet": "many machines from one desk, and one approval for them all",
    "completion": "completion for shells",
    "cli": "the commands, a room for each subject",
}
KEYS = "keys"  # its rooms stand each on a storey of its own
FIRST = ("lazy", "places", "fast")  # what answers a daily command: executed before the rest
LAST = "cli/main"  # where the program starts
ENTRANCES = ("fast", LAST)  # they may do so, in an `if` at top level
LOADED = ("os", "sys")  # every interpreter has them
HOOK = "openclaw/hook_files"  # it gets the files of hooks/avault-unlock/
FUTURE = "from __future__ import annotations\n"
WIDTH = 78  # of a banner
PURE = {"bytes", "dict", "frozenset", "len", "map", "range", "set", "sorted", "tuple", "type", "zip"}  # only make a value
METHODS = {"encode", "fromkeys", "join", "keys", "split", "values"}
KEEPERS = {"argument", "command", "context", "field", "once", "option", "regex"}  # they keep what they are given, for later


def place_of(folder: str) -> int:
    """The place of a folder among them: it stands on those before it."""
    return [*FOLDERS].index(folder)


class Refused(Exception):
    """A rule of the house is broken."""


class Room:
    """A file of the source: its name, as `vault/store`, and what it imports and defines."""

    def __init__(self, source: Path, path: Path) -> None:
        self.name = path.relative_to(source).with_suffix("").as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, str(path))
        self.folder = self.name.rpartition("/")[0]
        if self.folder not in FOLDERS:
            raise Refused(f"src/avault/{self.folder}/ has no place among the FOLDERS of scripts/amalgamate.py")
        self.needs: set[str] = set()  # rooms
        self.modules: set[str] = set()  # of others, imported when they are used
        self.typed: set[tuple[str, str]] = set()  # modules and names, for the type checker alone
        self.types: list[str] = []  # the same: statements
        self.body: list[ast.stmt] = []
        for statement in self.tree.body:
            self.sort(statement)

    def refuse(self, node: ast.AST, why: str) -> Refused:
        """An error that says where."""
        return Refused(f"src/avault/{self.name}.py:{getattr(node, 'lineno', 1)}: {why}")

    def sort(self, statement: ast.stmt) -> None:
        """Take one statement of the top level; raises Refused."""
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return  # the docstring
        if isinstance(statement, ast.ImportFrom) and statement.module in ("__future__", "typing"):
            if [each.name for each in statement.names] not in (["annotations"], ["TYPE_CHECKING"]):
                raise self.refuse(statement, "what is of typing belongs under TYPE_CHECKING")
        elif isinstance(statement, ast.ImportFrom):
            if not self.take_own(statement):
                raise self.refuse(statement, "import the whole module, so that it can wait until it is used")
        elif isinstance(statement, ast.Import):
            if any(each.asname for each in statement.names):
                raise self.refuse(statement, "a module has one name in the whole file")
            self.modules |= {each.name for each in statement.names}
        elif is_typing(statement):
            for each in statement.body:
                if isinstance(each, ast.ImportFrom) and not self.take_own(each):
                    self.typed |= {(each.module or "", name.name) for name in each.names}
                elif not isinstance(each, ast.ImportFrom):
                    self.types.append("\n".join(self.text.splitlines()[each.lineno - 1 : each.end_lineno]))
        else:
            self.check(statement)
            self.body.append(statement)

    def take_own(self, statement: ast.ImportFrom) -> bool:
        """Note an import of one of our rooms: whether it is one. Raises Refused for a room above, and for another name."""
        first, _, rest = (statement.module or "").partition(".")
        if first != "avault":
            return False
        name = rest.replace(".", "/")
        folder = name.rpartition("/")[0]
        if folder != KEYS and place_of(self.folder) < place_of(folder):
            raise self.refuse(statement, f"{name} is above {self.name}")
        if any(each.asname or each.name == "*" for each in statement.names):
            raise self.refuse(statement, "what is imported keeps its name")
        if name:
            self.needs.add(name)
        return True

    def check(self, statement: ast.stmt) -> None:
        """Raise Refused for what would work when it is imported."""
        if self.name in ENTRANCES and isinstance(statement, ast.If):
            return
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "not TYPE_CHECKING":
            for each in statement.body:
                self.check(each)
            return
        roots: list[ast.AST]
        if isinstance(statement, ast.ClassDef):
            roots = [*statement.bases, *statement.decorator_list]
            functions = [each for each in statement.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            roots += [each for each in statement.body if each not in functions]
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            roots, functions = [], [statement]
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            roots, functions = [statement.value] if statement.value else [], []
        else:
            raise self.refuse(statement, "nothing happens at top level")
        for function in functions:
            defaults = [each for each in function.args.kw_defaults if each]
            roots += [*function.decorator_list, *function.args.defaults, *defaults]
        for root in roots:
            for node in at_once(root):
                if isinstance(node, ast.Name) and node.id in {each.partition(".")[0] for each in self.modules} - set(LOADED):
                    raise self.refuse(node, f"{node.id} would be imported at once")
                if isinstance(node, ast.Call) and not self.may_call(node.func):
                    raise self.refuse(node, f"{ast.unparse(node.func)} would be called at once")

    def may_call(self, function: ast.expr) -> bool:
        """Whether a call at top level only makes a value."""
        if isinstance(function, ast.Attribute):
            return function.attr in METHODS
        late = {each.name for each in self.body if isinstance(each, ast.ClassDef) and "Fields" in map(ast.unparse, each.bases)}
        return isinstance(function, ast.Name) and function.id in (PURE | KEEPERS | set(self.defines())) - late

    def defines(self) -> Iterator[str]:
        """The names that it adds to the file."""
        inner = [each for statement in self.body if isinstance(statement, ast.If) for each in statement.body]
        for statement in [*self.body, *inner]:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield statement.name
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for target in targets:
                    yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))

    def about(self) -> list[str]:
        """The lines of its docstring."""
        return (ast.get_docstring(self.tree) or "").splitlines()

    def render(self) -> str:
        """Its part of the file: a banner, its docstring as a comment, and what it defines, as it stands there."""
        lines = self.text.splitlines()
        if self.name == HOOK:
            lines = self.text.replace("= {}", f"= {render_hook()}").splitlines()
        start = min([self.body[0].lineno, *(each.lineno for each in getattr(self.body[0], "decorator_list", []))])
        while lines[start - 2].startswith("#"):
            start -= 1
        banner = f"# {f' {self.name} ----'.rjust(WIDTH - 2, '-')}"
        about = [f"# {line}".rstrip() for line in self.about()]
        return "\n".join([banner, *about, "", "", *lines[start - 1 :]]).rstrip("\n") + "\n"


def is_typing(statement: ast.stmt) -> TypeGuard[ast.If]:
    """Whether this is for the type checker alone."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


def render_hook() -> str:
    """The files of hooks/avault-unlock/ as a dictionary, each a text that can be read as it stands."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "hooks" / "avault-unlock").iterdir())}
    shown = [f"    {json.dumps(name)}: r'''{text}''',\n" for name, text in texts.items()]
    found = "{\n" + "".join(shown) + "}"
    if ast.literal_eval(found) != texts:
        raise Refused("a file in hooks/ cannot stand in a raw text")
    return found


def at_once(root: ast.AST) -> Iterator[ast.AST]:
    """What of an expression is evaluated with it: not the body of a lambda, nor an annotation."""
    yield root
    for field, value in ast.iter_fields(root):
        if field == "annotation" or (isinstance(root, ast.Lambda) and field == "body"):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST):
                yield from at_once(each)


def read_rooms(source: Path) -> list[Room]:
    """The rooms, each after those that it needs; raises Refused for a circle, and for a room that is not there."""
    paths = [path for path in source.rglob("*.py") if path.name != "__init__.py"]
    rooms = {room.name: room for room in (Room(source, path) for path in paths)}
    done: dict[str, Room] = {}
    storeys: dict[str, int] = {}  # the place of each room's folder; in keys/ that of the highest below it

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in done:
            return
        if name in way:
            raise Refused(f"a circle: {' -> '.join((*way[way.index(name) :], name))}")
        if name not in rooms:
            raise Refused(f"there is no src/avault/{name}.py, which {way[-1] if way else 'scripts/amalgamate.py'} needs")
        room = rooms[name]
        for needed in sorted(room.needs):
            visit(needed, (*way, name))
        own = max((storeys[each] for each in room.needs), default=0) if room.folder == KEYS else place_of(room.folder)
        if above := sorted(each for each in room.needs if storeys[each] > own):
            raise Refused(f"{above[0]} is above {name}: it stands on {[*FOLDERS][storeys[above[0]]]}/")
        done[name], storeys[name] = room, own

    others = sorted(rooms.keys() - {*FIRST, LAST}, key=lambda name: (place_of(rooms[name].folder), name))
    for name in [*FIRST, *others, LAST]:
        visit(name, ())
    check_names(list(done.values()))
    return list(done.values())


def check_names(rooms: list[Room]) -> None:
    """Raise Refused for a name that two rooms define, or that one defines and another imports as a module."""
    owner = {name: f"the module {name}" for name in whole_and_parts([each for room in rooms for each in room.modules])}
    for room in rooms:
        for name in dict.fromkeys([*room.defines(), *room.modules & {room.name for room in rooms}]):
            if name in owner:
                raise Refused(f"{name} is defined by {owner[name]} and by {room.name}")
            owner[name] = room.name


def render_imports(rooms: list[Room]) -> str:
    """What the rooms import: for the type checker at once, else when it is used."""
    modules = sorted({module for room in rooms for module in room.modules} - set(LOADED))
    typed: dict[str, list[str]] = {}
    for module, name in sorted(set().union(*(room.typed for room in rooms))):
        typed.setdefault(module, []).append(name)
    checked = [f"    import {module}" for module in modules]
    checked += [f"    from {module} import {', '.join(names)}" for module, names in typed.items()]
    checked += ["", *sorted(line for room in rooms for line in room.types)]
    lazy = [f"    {name} = Lazy({', '.join(parts)})" for name, parts in whole_and_parts(modules).items()]
    return "\n".join(["if TYPE_CHECKING:", *checked, "else:", *lazy]) + "\n"


def whole_and_parts(modules: list[str]) -> dict[str, list[str]]:
    """Modules by their first names, quoted: `importlib.util` is a part of `importlib`."""
    found: dict[str, list[str]] = {}
    for module in modules:
        found.setdefault(module.partition(".")[0], []).append(json.dumps(module))
    return found


def head() -> str:
    """The first lines: what `uv run` reads (PEP 723), and that the file is not to be edited."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"""\
#!/usr/bin/env python3
# /// script
# requires-python = {json.dumps(project["requires-python"])}
# dependencies = {json.dumps([*project["dependencies"], *project["optional-dependencies"]["keychain"]])}
# ///
# Generated from src/avault/ by scripts/amalgamate.py: edit the rooms there, not this file.
"""


def render(source: Path) -> str:
    """The text of avault.py; raises Refused."""
    rooms = read_rooms(source)
    wide = max(len(room.name) for room in rooms)
    listed = [f"    {room.name:{wide}}  {room.about()[0].rstrip('.')}" for room in rooms if room.about()]
    top = (source / "__init__.py").read_text(encoding="utf-8").replace("    ROOMS", "\n".join(listed))
    top = top.replace(FUTURE, FUTURE + "\n" + "".join(f"import {name}\n" for name in LOADED))
    first, *others = [room.render() for room in rooms]
    return "\n\n".join([head() + top, first, render_imports(rooms), *others])


def fast_part(text: str) -> str:
    """What of avault.py answers a daily command: its top, with the first `if` where the program may end."""
    entrance = next(each for each in ast.parse(text).body if isinstance(each, ast.If) and not is_typing(each))
    return "".join(text.splitlines(keepends=True)[: entrance.end_lineno])


def main() -> int:
    """Write the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if avault.py is another")
    check = parser.parse_args().check
    try:
        text = render(SOURCE)
    except (Refused, SyntaxError) as error:
        print(f"amalgamate: {error}", file=sys.stderr)
        return 1
    if not check:
        TARGET.write_text(text, encoding="utf-8")
        TARGET.chmod(0o755)
    elif TARGET.read_text(encoding="utf-8") != text:
        print("avault.py is not what src/avault gives: python scripts/amalgamate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
