"""Whether the tests notice when avault.py is wrong: small faults are put in, one at a time, and the tests must fail.

    .venv/bin/python tests/tools/measure_mutants.py             300 of them, drawn from the rooms of records, seal, store and
                                                                wire, the same ones as long as these do not change
    .venv/bin/python tests/tools/measure_mutants.py 50 seal     50 of one of these
    .venv/bin/python tests/tools/measure_mutants.py dangerous   those below that would lose or leak a secret; takes seconds

Why not mutmut: tried once, it wrote all mutants into one module of 11 MB, and a Hypothesis test failed before the first of
them was put in. Here all is loaded and the tests are collected once; each mutant is a class or function that is compiled
again in a child.

What survives is shown. SURVIVORS names what is known to, with the reason why no test can or need kill it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

import hypothesis
import pytest
from measure_coverage import SOURCE, rooms

import avault

TESTS = Path(__file__).resolve().parents[1]
FILES = {  # the tests of a subject, those first that fail first
    "records": ("vault/test_records.py", "vault/test_store_alone.py", "vault/test_seal.py"),
    "seal": ("vault/test_store_alone.py", "vault/test_seal.py", "vault/test_nip44_vectors.py"),
    "store": ("vault/test_store_alone.py", "vault/test_seal.py"),
    "wire": ("daemon/test_wire_alone.py", "daemon/test_wire.py"),
}
ROOMS = {  # of src/avault/
    "records": ("vault/records",),
    "seal": ("keys/seal", "keys/nostr"),
    "store": ("vault/store", "vault/machine", "vault/unsaved", "vault/presence", "vault/work_tree"),
    "wire": ("protocol", "tasks", "client", "daemon/wire"),
}
SLOWER = 5  # how many times as long as without a fault the tests may take, until a mutant that does not end is killed
LONGEST = 120.0  # seconds that all tests take without a fault
MEMORY = 4 << 30  # bytes that one may take

# What would lose or leak a secret, or take what must be refused: the code, what is put in its place, and who notices.
DANGEROUS = [
    (
        "if place not in (None, where):",
        "if not where:",
        "daemon/test_proxy_keyholder.py::test_where_it_may_be_is_said_with_the_host",
    ),
    (
        "return fits_host(name, int(number or HTTPS), wide, place)",
        "return fits_host(name, int(number or HTTPS), wide)",
        "vault/test_guards.py::test_a_place_in_requests_is_no_other",
    ),
    ("if size > self.limit:", "if size < 0:", "daemon/test_wire_alone.py::test_the_longest_frame_and_one_byte_more"),
    (" and split_vault(vault) == parts", "", "vault/test_seal.py::test_parts_of_other_vaults_generations_and_agents"),
    (" and vault.agent == agent", "", "vault/test_seal.py::test_the_agent_named_inside_must_be_the_one_that_opens_it"),
    ("if pinned == named and", "if pinned and", "vault/test_seal.py::test_a_forged_field_is_refused[unlock.json]"),
    (
        ' and sealed.get("custodian") == custodian',
        "",
        "signer/test_signer_alone.py::test_a_custodian_opens_its_own_vault_only[vault]",
    ),
    ("return all(one.get(machine", "return any(one.get(machine", "vault/test_store_alone.py::test_what_may_follow_the_pin"),
    (" in dots[1] or not theirs.knows(*dot)", " in dots[1]", "vault/test_records.py::test_what_the_other_never_saw_stays"),
    ("Group(dict(group.keys), group.note)", "Group(group.keys, group.note)", "vault/test_records.py::test_a_copy_is_its_own"),
    ("        if check:\n", "        if not check:\n", "vault/test_seal.py::test_a_failing_check_leaves_the_old_file"),
    ("os.fsync(fd)\n            file", "file", "vault/test_seal.py::test_a_failing_disk_leaves_the_old_file"),
    (
        "os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600\n",
        "os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644\n",
        "vault/test_seal.py::test_a_write_is_whole_private_and_checked",
    ),
    ("if not is_at(path):", "if False:", "vault/test_store_alone.py::test_a_vault_is_made_over_no_other"),
    ("if os.path.lexists(new) and not is_at(new):", "if False:", "vault/test_seal.py::test_what_comes_at_the_last_moment_stays"),
    (
        "refusal = store.compare(pin) if pin else None",
        "refusal = None",
        "vault/test_store_alone.py::test_a_rollback_is_accepted_under_a_new_name",
    ),
    (
        "        if not found.is_of(ours):",
        "        if found is None:",
        "vault/test_store_alone.py::test_what_cannot_be_taken_is_trouble",
    ),
    (
        "elif rules.lets(way, now) and is_meant:",
        "elif is_meant:",
        "daemon/test_gate.py::test_what_is_named_and_guarded_refuses_the_whole_and_says_what_to_do",
    ),
    (
        'not (asks or way == "reveal" or rules.times is not None)',
        "not (asks or rules.times is not None)",
        "daemon/test_gate.py::test_what_is_only_looked_for_is_no_use[mask]",
    ),
    (
        'await keyholder.openers.keep_own(store, told["turned"])',
        "pass",
        "daemon/test_asked.py::test_two_approvals_release_it_and_turn_the_lock",
    ),
    (
        '        await remote.request("nip44_decrypt", params, accept_token(token))\n        self',
        "        self",
        "daemon/test_asked.py::test_two_approvals_release_it_and_turn_the_lock",
    ),
    (
        "if self.is_asked and self.is_in_vain and not self.is_noted:",
        "if False:",
        "daemon/test_asked_attacks.py::test_who_has_the_process_killed_that_asks_pauses",
    ),
    (
        "note_had(vault, name, there.value, now, machine)",
        "pass",
        "daemon/test_asked_attacks.py::test_an_older_value_comes_back_under_another_name_and_is_asked_for[deleted]",
    ),
    (
        "if found.is_stale(vault):",
        "if False:",
        "daemon/test_asked_attacks.py::test_a_value_that_is_set_ends_what_has_the_one_before",
    ),
    (
        "(-count_open(lock, operators), len(",
        "(len(",
        "vault/test_locks.py::test_of_two_locks_the_one_for_more_operators_counts",
    ),
    (
        "if not is_better and vault.fact(",
        "if vault.fact(",
        "vault/test_locks.py::test_a_lock_for_fewer_operators_takes_the_place_of_none_for_more",
    ),
    (
        " and not lacks_guards(found, ours)",
        "",
        "vault/test_guards.py::test_a_later_copy_that_lost_guards_does_not_take_ours",
    ),
    ("[-1] if flags & socket.MSG_CTRUNC else fds", "fds", "daemon/test_wire.py::test_descriptor_that_cannot_be_taken"),
    (
        "if (sent_value and op not in SESSIONS) or op in WRITES_AT_ONCE:",
        "if False:",
        "daemon/test_wire_alone.py::test_a_write_without_an_answer",
    ),
    ('{type(error).__name__}",\n', '{error}",\n', "daemon/test_wire_alone.py::test_an_error_is_an_answer_and_says_nothing"),
    (
        " and state not in self.served",
        "",
        "replica/test_replica_keyholder.py::test_no_word_of_a_caller_stops_what_is_written",
    ),
    (
        "return bool(self.served) and count >",
        "return False and count >",
        "replica/test_replica_keyholder.py::test_a_disk_from_a_backup_is_noticed_without_what_was_noted_of_relays",
    ),
    (
        "is_known = live.id in self.seen",
        "is_known = True",
        "replica/test_replica_alone.py::test_a_lost_state_puts_nothing_away_that_was_not_read",
    ),
    (
        'if use["through"] and not lets_forward(servers):\n        return "sign',
        'if False:\n        return "sign',
        "fronts/test_ssh_agent.py::test_through_a_forwarded_agent_no_file_is_signed[last0]",
    ),
    (
        "if self.is_doubtful:",
        "if False:",
        "fronts/test_ssh_agent.py::test_a_bind_that_is_refused_ends_what_the_connection_can[too long]",
    ),
    (
        "if not {secret.value for secret in there} <= had:",
        "if False:",
        "signing/test_signing.py::test_nor_by_any_other_request",
    ),
    (
        "session != binds[-1].session or ",
        "",
        "signing/test_signing.py::test_refused[another session than the proven one]",
    ),
    (
        "same = wish.errand() if seconds else wish.exact()",
        "same = wish.errand()",
        "signing/test_asked_keys.py::test_files_share_a_question_only_where_they_are_the_same",
    ),
    (
        "if session in keyholder.signing.fronts and isinstance(claims, dict):",
        "if isinstance(claims, dict):",
        "signing/test_asked_keys.py::test_a_time_is_for_no_other_program",
    ),
    (
        "process.returncode is None and since > self.since",
        "process.returncode is None",
        "signing/test_asked_keys.py::test_the_front_end_is_known_by_what_the_kernel_says",
    ),
]

NO_DIFFERENCE = {  # code that does the same, and why
    "check_group: set(name) <= GROUP_CHARACTERS => set(name) < GROUP_CHARACTERS": "a name is shorter than all that it may hold",
    "read_sealed: set(content['name']) <= NAME_CHARACTERS => set(content['name']) < NAME_CHARACTERS": "as above",
    "ask_daemon: raise AssertionError('unreachable') => pass": "nobody comes there",
    "maximum: 0 => 1": "counts begin with 1",
    "open_vault: '' => 'x'": "what load_json fills",
    "open_vault: raise ValueError('not the parts of one vault') => pass": "refused further down, after more work",
    "Store.create: '' => 'x'": "the digest of no file yet, which `replace` sets",
    "Store.write: continue => pass": "the file is looked at again before it is replaced",
    "Store.write: self.file.state = () => pass": "a file that was changed looks changed",
    "Control.send: 0 => 1": "a closed socket's number is -1, and 0 is stdin's",
    "Control.close: 0 => 1": "as above",
    "Control.readable: 16 => 17": "how much is read at once",
    "Control.readable: 0 => 1": "of the two: no flag of a stream that has ended",
    "split_vault: room < PART_LIMIT // 2 => room <= PART_LIMIT // 2": "a header of exactly half a part",
}
WORDS = {  # what a person reads; the tests look for its beginning
    "Store.compare: 'avault.enc is older than what this machine has seen'",
    "Store.compare: 'avault.enc is not what this machine has seen, though of the same generation'",
    'Store.compare: "another machine writes under this one\'s name: is one a clone of the other?"',
    "Store.load: 'no pin.json: whether this is an older copy of the vault could not be seen'",
    'Store.write: "the vault\'s file keeps changing"',
}
SURVIVORS = NO_DIFFERENCE | {f"{each} => {each.partition(': ')[2][:-1]}x{each[-1]}": "words" for each in WORDS}


@dataclass
class Mutant:
    """A class or function with a fault; what the fault is, the same as long as the code is; and the tests to try.

    The code has the fault already, or gets it when it is entered: then it is told where, as `places` does, and which.
    """

    name: str
    code: ast.stmt
    tests: tuple[str, ...]
    put: tuple[ast.AST, str, int | None, ast.AST] | None = None
    lines: range = range(0)  # of the function or class around the fault

    def enter(self) -> None:
        """Take the place of the right one, in this process, which is to end with it; also of what is made of it."""
        if self.put:
            node, field, index, fault = self.put
            if index is None:
                setattr(node, field, fault)
            else:
                getattr(node, field)[index] = fault
        before = getattr(avault, self.code.name)
        module = ast.fix_missing_locations(ast.Module([self.code], []))
        exec(compile(module, str(SOURCE), "exec"), avault.__dict__)  # with this file's import from __future__, as there
        for each in before.__subclasses__() if isinstance(before, type) else ():
            each.__bases__ = tuple(getattr(avault, self.code.name) if base is before else base for base in each.__bases__)


# Making mutants

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def faults(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node, with a fault in it."""
    match node:
        case ast.Compare(left, [operator], comparators):
            for other in COMPARISONS[type(operator)]:
                yield ast.Compare(left, [other()], comparators)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values)
            yield from (ast.BoolOp(operator, values[:index] + values[index + 1 :]) for index in range(len(values)))
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.BinOp(left, operator, right) if type(operator) in ARITHMETIC:
            yield ast.BinOp(left, ARITHMETIC[type(operator)](), right)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(str(value)):
            yield ast.Constant(value + "x")
        case ast.If(test, body, orelse) | ast.IfExp(test, body, orelse):
            yield type(node)(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(value) if value and not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.Assign() | ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Continue():
            yield ast.Pass()


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where a fault may be put: the node above, its field, and the index in that. Not in what people read, nor in types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body[0].read = True  # type: ignore[attr-defined]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__slots__", "hint"):
            node.read = True  # type: ignore[attr-defined]
        for typed in filter(None, (getattr(node, "annotation", None), getattr(node, "returns", None))):
            typed.read = True
        for child in ast.iter_child_nodes(node):
            if isinstance(node, ast.Raise | ast.JoinedStr | ast.AnnAssign) or getattr(node, "read", False):
                child.read = True  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if field != "decorator_list":
                for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                    if isinstance(child, ast.AST) and not getattr(child, "read", False):
                        yield node, field, index


def mutants(subject: str) -> Iterator[Mutant]:
    """Every fault that there can be in the classes and functions of a subject's rooms."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    ours = [numbers for room, numbers in rooms().items() if room in ROOMS[subject]]
    for top in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if not any(top.lineno in numbers for numbers in ours) or not isinstance(top, functions | ast.ClassDef):
            continue
        around: dict[int, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}  # the functions that a node stands in
        for each in ast.walk(top):
            if isinstance(each, functions):
                for inside in ast.walk(each):
                    around.setdefault(id(inside), []).append(each)
        for node, field, index in places(top):
            old = getattr(node, field) if index is None else getattr(node, field)[index]
            inside_of = around.get(id(old), [])
            where = ".".join(dict.fromkeys([top.name, *(each.name for each in inside_of)]))
            whole = inside_of[0] if inside_of else top
            lines = range(min([whole, *whole.decorator_list], key=lambda each: each.lineno).lineno, (whole.end_lineno or 0) + 1)
            for fault in faults(old):
                yield Mutant(f"{where}: {shown(old)} => {shown(fault)}", top, FILES[subject], (node, field, index, fault), lines)


def shown(node: ast.AST) -> str:
    """The code of a node, in a line."""
    return " ".join(ast.unparse(node).split())[:110]


def dangerous() -> Iterator[Mutant]:
    """The mutants of the table above."""
    text = SOURCE.read_text(encoding="utf-8")
    tops = ast.parse(text).body
    for old, new, test in DANGEROUS:
        assert text.count(old) == 1, f"in avault.py {text.count(old)} times: {old}"
        line = text[: text.index(old)].count("\n") + 1
        [top] = [each for each in tops if each.lineno <= line <= (each.end_lineno or 0)]
        [code] = ast.parse((ast.get_source_segment(text, top) or "").replace(old, new)).body
        yield Mutant(f"{old.strip()} => {new.strip()}", code, (test,))


# Running the tests against them


@dataclass
class Seen:
    """What a test did while there was no fault: the lines that the functions of avault.py begin at which it ran, and its time."""

    starts: list[int]
    seconds: float


class Trial:
    """A pytest plugin that runs the tests once for each mutant, each time in a child, until one fails.

    First those that run the function with the fault; what survives these, and is not known to, has to survive all others too.
    """

    def __init__(self, mutants: list[Mutant]) -> None:
        self.mutants = mutants
        self.survivors: list[str] = []
        self.seen: dict[str, Seen] = {}  # by the test's name

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the tests that ask the installed command: it is not the mutant."""
        items[:] = [each for each in items if not {"machine", "two"} & set(each.fixturenames)]  # type: ignore[attr-defined]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from conftest import RUN  # pytest has loaded it anew

        def named(names: tuple[str, ...]) -> list[pytest.Item]:
            return [each for name in names for each in session.items if each.nodeid.rpartition("tests/")[2].startswith(name)]

        tests = {mutant.tests: named(mutant.tests) for mutant in self.mutants}
        assert all(tests.values()), "a test is gone"
        every = dict.fromkeys(each for chosen in tests.values() for each in chosen)
        self.look(list(every))
        left = []
        for number, mutant in enumerate(self.mutants, 1):
            near = self.near(mutant, tests[mutant.tests])
            if not near or self.is_survived(mutant, near):
                left.append(mutant)
                print(f"of {len(near)} tests none notices: {mutant.name}", file=sys.stderr, flush=True)
            if not number % 50:
                print(f"{number} of {len(self.mutants)} tried", file=sys.stderr, flush=True)
            for directory in session.config.stash[RUN].iterdir():
                shutil.rmtree(directory, ignore_errors=True)
        for mutant in left:
            near = self.near(mutant, tests[mutant.tests])
            others = [each for each in tests[mutant.tests] if each not in near]
            if mutant.name in SURVIVORS or not others or self.is_survived(mutant, others):
                self.survivors.append(mutant.name)
                print(f"survives: {mutant.name}", f"({SURVIVORS[mutant.name]})" if mutant.name in SURVIVORS else "", flush=True)
        assert self.is_survived(None, list(every)), "a test fails without a mutant by now: so it did with some"
        return True

    def look(self, items: list[pytest.Item]) -> None:
        """See what each test does, and in what time, while there is no fault."""
        with tempfile.TemporaryFile("w+") as notes:
            assert self.is_survived(None, items, notes), "a test fails without a mutant"
            notes.seek(0)
            self.seen = {name: Seen(*found) for name, found in json.load(notes).items()}

    def near(self, mutant: Mutant, items: list[pytest.Item]) -> list[pytest.Item]:
        """The tests that run the function with the fault, in each file the quickest first."""
        if not mutant.put:  # it stands beside it who notices
            return items
        files = list(dict.fromkeys(each.path for each in items))
        near = [each for each in items if any(start in mutant.lines for start in self.seen[each.nodeid].starts)]
        return sorted(near, key=lambda each: (files.index(each.path), self.seen[each.nodeid].seconds))

    def is_survived(self, mutant: Mutant | None, items: list[pytest.Item], notes: IO[str] | None = None) -> bool:
        """Whether no test fails, and all end, with this mutant in place; what each did is written down as JSON."""
        alive, held = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setsid()
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                if mutant:
                    mutant.enter()
                is_traced = any(each.put for each in self.mutants)
                code = run_tests(items, notes, is_traced)
            finally:
                os._exit(code)
        os.close(held)
        took = sum(self.seen[each.nodeid].seconds for each in items) if self.seen else LONGEST
        if not select.select([alive], [], [], 10 + SLOWER * took)[0]:  # readable when the child is gone, and what it started
            os.killpg(child, signal.SIGKILL)
        os.close(alive)
        return os.waitpid(child, 0)[1] == 0


def run_tests(items: list[pytest.Item], notes: IO[str] | None, is_traced: bool) -> int:
    """Run tests until one fails: 0 if none does. What each did is written down, by its name; which lines, if `is_traced`."""
    session = items[0].session
    seen: dict[str, tuple[list[int], float]] = {}
    for item, after in zip(items, [*items[1:], None], strict=True):
        starts: set[int] = set()

        def note(frame: FrameType, event: str, _: object, starts: set[int] = starts) -> None:
            if frame.f_code.co_filename == avault.__file__:
                starts.add(frame.f_code.co_firstlineno)

        begun = time.monotonic()
        if notes and is_traced:
            threading.settrace(note)
            sys.settrace(note)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        seen[item.nodeid] = (sorted(starts), time.monotonic() - begun)
        if session.testsfailed:
            return 1
    if notes:
        json.dump(seen, notes)
        notes.flush()
    return 0


def try_out(mutants: list[Mutant]) -> list[str]:
    """Run the tests against mutants: the names of those that survive."""
    hypothesis.settings.register_profile("quick", max_examples=40, deadline=None, database=None)
    hypothesis.settings.load_profile("quick")
    files = {str(TESTS / name.partition("::")[0]) for mutant in mutants for name in mutant.tests}
    with tempfile.TemporaryDirectory(prefix="avm", dir="/tmp") as directory:
        trial = Trial(mutants)
        words = ["-q", "-n", "0", "-p", "no:cacheprovider", "--basetemp", directory + "/tests", *sorted(files)]
        code = pytest.main(words, plugins=[trial])
        assert code == 0, f"pytest ended with {code}"
    return trial.survivors


def main(words: list[str]) -> int:
    """Try those that the command line says; 1 if one survives that is not known to."""
    if words == ["dangerous"]:
        chosen = list(dangerous())
    else:
        count, *names = words or ["300"]
        every = [mutant for name in names or FILES for mutant in mutants(name)]
        chosen = sorted(every, key=lambda mutant: hashlib.sha256(mutant.name.encode()).digest())[: int(count)]
    survivors = try_out(chosen)
    print(f"mutants: {len(chosen)}, killed: {len(chosen) - len(survivors)}, known: {len(SURVIVORS.keys() & set(survivors))}")
    return int(not set(survivors) <= SURVIVORS.keys())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
