"""Which rooms handle a key, as the code says it: what is annotated, called, read and asked for, by name.

A key is a pair (`Keys`), or a secret key as text (`KeyText`): the agent's, an unlock key, a client's, or one that
signs. A room handles one that

- names one of these types in an annotation, and so takes, gives or keeps one;
- calls what takes or gives one (mypy is strict: whatever does says so in its annotations, and top-level names are
  unique), or a method that gives one wherever it is defined;
- hands on an attribute `keys`, or asks a pair for its `secret_key()`;
- reads or writes a field of that name in what is told or kept (`FIELDS`), the environment's NOSTR_NSEC among them;
- takes a `secret`, among the kinds of custodians, where that is an unlock key; or is an extra's part of such a kind.

What only hands on an object in which a key lies (a store, a pairing), and does not reach into it, is not found.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

TYPES = {"Keys", "KeyText"}
FIELDS = {"nsec", "operator_nsec", "NOSTR_NSEC"}
KINDS = ("custody/", "avault_extras/custody_", "avault_extras/shares")  # of custodians, and what they consist of
PLAIN = {"dict", "len", "list", "set", "sorted", "tuple"}  # of a group's `keys`, which are names

Function = ast.FunctionDef | ast.AsyncFunctionDef


def says(annotation: ast.expr | None) -> bool:
    """Whether an annotation names a type of keys."""
    return annotation is not None and not TYPES.isdisjoint(re.findall(r"\w+", ast.unparse(annotation)))


def takes(function: Function) -> bool:
    arguments = function.args
    return any(says(each.annotation) for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def handles(function: Function) -> bool:
    return takes(function) or says(function.returns)


def takes_secret(function: Function) -> bool:
    """Whether it takes an unlock key, if it is a custodian's; not where all that it does is refuse."""
    refuses = isinstance(function.returns, ast.Name) and function.returns.id == "NoReturn"
    return not refuses and "secret" in [each.arg for each in function.args.args]


class Handlers:
    """What takes or gives a key, by name: functions; classes that are made with one; methods."""

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self.functions: set[str] = set()
        self.methods: set[tuple[str, str]] = set()  # class and name
        gives: dict[str, list[bool]] = {}
        for tree in trees.values():
            functions = [each for each in tree.body if isinstance(each, Function)]
            self.functions |= {each.name for each in functions if handles(each)}
            for each in functions:
                gives.setdefault(each.name, []).append(says(each.returns))
            for owner in (each for each in tree.body if isinstance(each, ast.ClassDef)):
                for method in (each for each in owner.body if isinstance(each, Function)):
                    gives.setdefault(method.name, []).append(says(method.returns))
                    if handles(method):
                        self.methods.add((owner.name, method.name))
        self.made = {owner for owner, name in self.methods if name == "__init__"}
        self.givers = {name for name, all_of in gives.items() if all(all_of)}


def find_signs(room: str, tree: ast.Module, known: Handlers) -> Iterator[str]:
    """What in a room handles a key, as `line: what`."""
    within = {id(child): parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    imported = {each.asname or each.name for node in tree.body if isinstance(node, ast.ImportFrom) for each in node.names}
    for node in ast.walk(tree):
        parent = within.get(id(node))
        if isinstance(node, Function) and handles(node):
            yield f"{node.lineno}: {node.name} takes or gives one"
        elif isinstance(node, ast.AnnAssign) and says(node.annotation):
            yield f"{node.lineno}: {ast.unparse(node.target)} is one"
        elif isinstance(node, Function) and room.startswith(KINDS) and takes_secret(node):
            yield f"{node.lineno}: {node.name} takes an unlock key"
        elif isinstance(node, ast.Name) and node.id in known.functions and node.id in imported:
            yield f"{node.lineno}: {node.id}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known.made:
            yield f"{node.lineno}: a {node.func.id} is made with one"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in known.methods:
            yield f"{node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "avault":
            if node.attr in known.functions | known.made:  # an extra's way to what is ours
                yield f"{node.lineno}: {node.attr}"
        elif isinstance(node, ast.Attribute) and isinstance(parent, ast.Call) and parent.func is node:
            if node.attr in known.givers | {"secret_key"}:
                yield f"{node.lineno}: {node.attr}()"
        elif isinstance(node, ast.Attribute) and node.attr == "keys" and isinstance(parent, ast.Call | ast.keyword):
            if not (isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in PLAIN):
                yield f"{node.lineno}: {ast.unparse(node)} is handed on"
        elif isinstance(node, ast.Constant) and node.value in FIELDS and is_field(node, parent):
            yield f"{node.lineno}: the field {node.value}"


def is_field(node: ast.Constant, parent: ast.AST | None) -> bool:
    """Whether a word is the name of a field that is read or written there."""
    if isinstance(parent, ast.Subscript):
        return parent.slice is node
    if isinstance(parent, ast.Call):
        return isinstance(parent.func, ast.Attribute) and parent.func.attr == "get" and parent.args[0] is node
    if isinstance(parent, ast.Dict):
        value = next((value for key, value in zip(parent.keys, parent.values, strict=True) if key is node), None)
        return value is not None and not isinstance(value, ast.Dict | ast.Set | ast.Constant)
    return False


def parts_of(tree: ast.Module) -> set[str]:
    """The extras that a room imports, as `avault_extras/NAME.py`."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [each.name for node in found if node.module == "avault_extras" for each in node.names]
    names += [node.module.partition(".")[2] for node in found if (node.module or "").startswith("avault_extras.") and node.module]
    return {f"avault_extras/{name}.py" for name in names}


def find_keys(trees: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """The rooms that handle a key, and by what it shows there."""
    known = Handlers(trees)
    found = {name: [*find_signs(name, tree, known)] for name, tree in trees.items()}
    for name in [each for each in trees if found[each] and each.startswith(KINDS)]:
        for part in sorted(parts_of(trees[name])):
            if any(isinstance(node, Function) for node in ast.walk(trees[part])):
                found[part].append(f"a part of {name}")
    return {name: signs for name, signs in sorted(found.items()) if signs}
