"""What every test gets: a home of its own, an empty environment, and canaries (see canary.py). Daemons: harness.py."""

import contextlib
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import amalgamate
import pytest
from canary import Book, Canary, new_mark, search
from hypothesis import HealthCheck, settings
from order import begin_with_long

# Tests take from those of another folder what is of one subject, and no two have one name.
sys.path += [str(path) for path in Path(__file__).parent.iterdir() if path.is_dir() and str(path) not in sys.path]

# How long an example takes is no finding: the machine may be busy.
settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# What the developer's session may know and a test must not: real vaults, real keychains, real keys, taste.
CLEARED = (
    "AVAULT_",
    "COLUMNS",
    "DBUS_",
    "DISPLAY",
    "FORCE_COLOR",
    "GIT_",
    "GNUPG",
    "GPG_",
    "LINES",
    "NOSTR_NSEC",
    "NO_COLOR",
    "OPENCLAW_",
    "PASSWORD_STORE_",
    "PYTHON_KEYRING_",
    "SSH_",
    "WAYLAND_DISPLAY",
    "WORKSPACE",
    "XDG_",
)

SKIPPED = ".pytest_cache/v/avault/skipped"  # where a run keeps the names of what it skipped
SLOW = "slow or proof"  # the marks of what README's command leaves out
MARK = pytest.StashKey[str]()
LEFT_OUT = pytest.StashKey[int]()
RUN = pytest.StashKey[Path]()  # the run's directory: short, because a Unix socket's path has at most 103 bytes (macOS)


def renew_avault() -> None:
    """Write avault.py anew where its source is newer. What is tested is what is installed: raises UsageError for another."""
    if max(path.stat().st_mtime for path in amalgamate.SOURCE.rglob("*.py")) > amalgamate.TARGET.stat().st_mtime:
        try:
            text = amalgamate.render(amalgamate.SOURCE)
        except amalgamate.Refused as error:
            raise pytest.UsageError(str(error)) from None
        if text != amalgamate.TARGET.read_text(encoding="utf-8"):
            amalgamate.TARGET.write_text(text, encoding="utf-8")
        amalgamate.TARGET.touch()  # the next run need not look
    installed = Path(sysconfig.get_path("purelib"), "avault.py")
    if installed.exists() and installed.read_bytes() != amalgamate.TARGET.read_bytes():
        raise pytest.UsageError("the installed avault is not this one: pip install .")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skipped-in", type=Path, help="of what is quick, only what another checkout's last run skipped")


def pytest_configure(config: pytest.Config) -> None:
    """One mark and one directory for the run: the controller makes them, and its workers are told."""
    told = getattr(config, "workerinput", None)
    if not told:
        renew_avault()
    config.stash[MARK] = told["canary_mark"] if told else new_mark()
    config.stash[RUN] = Path(told["canary_run"] if told else tempfile.mkdtemp(prefix="avt", dir="/tmp")).resolve()
    if not told:
        config.pluginmanager.register(Search(config))
    config.stash[LEFT_OUT] = 0
    if config.args_source == pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr:
        config.option.markexpr = f"not ({SLOW})"  # what a newcomer runs; whoever names a file or a mark gets what was named


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["canary_mark"] = node.config.stash[MARK]
    node.workerinput["canary_run"] = str(node.config.stash[RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error: object) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)  # the same in each: all collect all


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        items[0].config.stash[LEFT_OUT] += len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.option.markexpr == f"not ({SLOW})" and config.stash[LEFT_OUT]:
        terminalreporter.write_line(
            f"left out: {config.stash[LEFT_OUT]} slow tests and proofs; run them with: pytest -q -m '{SLOW}'"
        )


def is_slow(item: pytest.Item) -> bool:
    """Whether README's command leaves it out."""
    return bool(item.get_closest_marker("slow") or item.get_closest_marker("proof"))


@pytest.hookimpl(trylast=True)  # when it is known which are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if checkout := config.option.skipped_in:
        skipped = json.loads((checkout / SKIPPED).read_text(encoding="utf-8"))
        items[:] = [item for item in items if is_slow(item) or item.nodeid.startswith(tuple(skipped))]  # or a file as a whole
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        items[:] = begin_with_long(items, workers)


# The environment


class Place:
    """A test's own directories."""

    def __init__(self, top: Path):
        self.top = top
        self.home, self.state, self.runtime, self.tmp = (top / x for x in ("home", "state", "run", "tmp"))
        for directory in (self.home, self.state, self.runtime, self.tmp):
            directory.mkdir(mode=0o700)


@pytest.fixture(scope="session")
def book(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Book:
    book = Book(pytestconfig.stash[RUN])
    book.write(root=str(pytestconfig.stash[RUN]))
    book.write(root=os.path.realpath(tmp_path_factory.getbasetemp()))
    return book


@pytest.fixture(autouse=True)
def place(request: pytest.FixtureRequest, book: Book, monkeypatch: pytest.MonkeyPatch) -> Place:
    """HOME and the like, new and empty for each test, and nothing of the caller's that could lead a test elsewhere."""
    for name in list(os.environ):
        if name.startswith(CLEARED):
            monkeypatch.delenv(name)
    place = Place(Path(tempfile.mkdtemp(prefix="", dir=request.config.stash[RUN])))
    monkeypatch.setenv("HOME", str(place.home))
    monkeypatch.setenv("XDG_STATE_HOME", str(place.state))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place.runtime))
    monkeypatch.setenv("TMPDIR", str(place.tmp))
    book.write(test=request.node.nodeid, directory=str(place.top))
    monkeypatch.setattr("tempfile.tempdir", None)  # else it remembers
    monkeypatch.setattr("canary.transcript", place.top / "transcript")
    monkeypatch.setattr("figures.book", book)
    if library := sys.modules.get("nostr_sdk"):
        library.uniffi_set_event_loop(None)  # of a test before, in the same process
    return place


# Canaries


@pytest.fixture
def canary(pytestconfig: pytest.Config, book: Book, place: Place, tmp_path: Path) -> Canary:
    return Canary(pytestconfig.stash[MARK], book, [place.top, tmp_path])


@pytest.fixture
def allow(book: Book) -> Callable[[Path], Path]:
    """Names a file, or a directory, that is to hold a value because the test itself put it there."""

    def allow(path: Path) -> Path:
        book.write(allow=os.path.realpath(path))
        return path

    return allow


class Search:
    """The end of the run, in the process that speaks for it: the controller under xdist."""

    def __init__(self, config: pytest.Config):
        self.mark, self.run = config.stash[MARK], config.stash[RUN]
        self.output: list[tuple[str, str]] = []
        self.figures: dict[str, float] = {}
        self.skipped: list[str] = []
        self.cache = getattr(config, "cache", None)  # a run may be told to have none
        self.keep = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.keep |= report.failed and "CI" not in os.environ
        self.output += [(report.nodeid, text) for _, text in report.sections]
        self.skipped += [report.nodeid] if report.skipped else []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.skipped += [report.nodeid] if report.skipped else []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        book = Book(self.run).read()
        self.figures = {x["figure"]: x["value"] for x in book if "figure" in x}
        directories = {x["test"]: x["directory"] for x in book if "test" in x}
        for test, text in self.output:
            with Path(directories.get(test, self.run), "captured").open("ab") as file:
                file.write(text.encode("utf-8", "surrogatepass"))
        leaks = search(self.mark, book)
        if not leaks:
            return
        text = "\n".join(["A canary got out:", *leaks])
        report = pytest.TestReport("canary search", ("", None, ""), {}, "failed", text, "teardown")
        session.config.hook.pytest_runtest_logreport(report=report)
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        for name, value in sorted(self.figures.items()):
            terminalreporter.write_line(f"figure: {name}: {value:,}")
        if self.keep:
            terminalreporter.write_line(f"The tests' directories are kept in {self.run}")

    def pytest_unconfigure(self) -> None:
        if self.cache:
            self.cache.set("avault/skipped", sorted(self.skipped))
        if not self.keep:
            shutil.rmtree(self.run, ignore_errors=True)


@pytest.fixture
def machine(place: Place):
    """A computer without a vault; its daemon ends with the test."""
    from harness import Machine

    with Machine(place.top) as machine:
        yield machine


@pytest.fixture
def forks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are forked, and start no Python (forked.py): for tests that are not about processes."""
    monkeypatch.setattr("harness.Machine.may_fork", not request.node.get_closest_marker("starts"))


@pytest.fixture(scope="session")
def shelf():
    from harness import Shelf

    shelf = Shelf()
    yield shelf
    shelf.end()


@pytest.fixture
def lend(shelf, place: Place):
    """`lend(prepare, …)`: a machine on which that function was called, by this test or by one that left it as it was."""
    with contextlib.ExitStack() as stack:
        yield lambda prepare, *given: stack.enter_context(shelf.lend(place.top, prepare, *given))


# Services of HTTPS with an authority of their own, for what the proxy sends


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    from api_server import Api

    api = Api(tmp_path_factory.mktemp("api"))
    yield api
    api.close()


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    from service_api import Services

    services = Services(tmp_path_factory.mktemp("services"))
    yield services
    services.close()


# Signers, on a relay of the module: one that says what it is told to say, and a correct one


@pytest.fixture(scope="module")
def relay():
    import peers

    with peers.local_relay() as relay:
        yield relay


@pytest.fixture
def rogue(relay):
    import peers

    with peers.rogue([relay.url]) as rogue:
        yield rogue


@pytest.fixture
def phone(relay):
    """A signer of others' making; what it answers, the test says."""
    import peers

    with peers.ndk([relay.url]) as phone:
        yield phone


@pytest.fixture
def proven(machine, rogue):
    """A machine whose phone has shown that it opens the vault; no daemon runs."""
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=rogue.uri)
    machine("daemon", "stop")
    return machine
