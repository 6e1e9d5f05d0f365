r"""What `export` prints gives the same bytes back: in every shell that is claimed, and in each reader of its other formats.

Where the readers of dotenv files differ, for what `export` prints (a value that has none of these comes back everywhere):

    in the value                 sh, systemd  python-dotenv               npm dotenv
    ---------------------------  -----------  --------------------------  ---------------------------------------
    ${NAME}                      as it is     replaced by NAME's value,   as it is
                                              unless interpolate=False
    ' or \, and also $ or `      as it is     \ is left before $ and `    \ is left before " $ ` and \,
    ' and "                      as it is     as it is                    and \n and \r become control characters
    \                            as it is     as it is                    doubled
    CR                           as it is     LF                          CR LF becomes LF, or all goes wrong
"""

# ruff: noqa: E501

import base64
import itertools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import dotenv_readers
import pytest
from dotenv_readers import real_systemd, systemd
from harness import Machine, wait_until
from peers import node, node_modules

import avault

pytestmark = pytest.mark.usefixtures("forks")

NASTY = [
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \t\n\r\x0b\x0c\x01\x1b\x7f",
    "a b", "  a  b  ", "\n\n", "a\n", "a\n\n\n", "\na", "a\nb", "a\r\nb\r\n", "\t", " ",
    "$HOME", "${HOME}", "$(id)", "`id`", "$((1+1))", "$'a'", '$"a"', "$$", "$?", "\\$HOME", "\\\\", "\\", "a\\", "a\\\nb", "\\n", "\\\\n",
    "\\101", "\\0101", "\\x41", "\\c", "%s", "%d%%", "%", "%n", "-n", "-e", "--", "-", "-v x", "-en",
    "*", "?", "[a-z]*", "f*", "{a,b}", "~", "~root", "a:~", "=ls", "a=~", "!!", "!$", "^a^b", "#a", "a #b", "@(f*)", "!(x)", "+(a)", "(a)", "<a>", "f<->",
    "'", "''", "'\\''", "\"", "\"\"", "'\"'\"'", "a'b\"c", "'; touch pwned; '", "\"; touch pwned; \"", "$(touch pwned)", "`touch pwned`",
    "x", "x)", "ax", "xx", "x'", "x\\", ")", "x')\"", "}", "%x}", "EOF", ";", "&", "&&", "|", "a;b", "a&b",
    "é", "ü\n", "🦄", "\u0301", "\u200b", "\u2028", "\u2029", "\x85", "\xa0", "\ufeffa", "\uf600", "\uf6ff", "\ufdd0", "\uffff", "\U0010ffff", "日本語",
    "a" * 100_000, "'" * 5000, "é" * 10_000,
    "-----BEGIN KEY-----\nabc+/=\n-----END KEY-----\n", "postgres://u:p%40ss@h:5432/db?a=b&c=d#e", '{"a": "b\\n", "c": [1]}', "p@ss w0rd!$#`\"'\\",
]  # fmt: skip


def generated(count: int) -> list[str]:
    choose = random.Random(count)
    alphabet = [*"ab0_ \t\n\r\\'\"$`!*?[]{}()<>|&;#~%=+-@^,.:/x", *"é🦄\u2028\x01\x7f\xa0"]
    return ["".join(choose.choices(alphabet, k=choose.randrange(1, 14))) for _ in range(count)]


FULL = bool(os.environ.get("AVAULT_TEST_FULL"))
VALUES = {f"V{number}": value for number, value in enumerate([*NASTY, *generated(5000 if FULL else 800)])}
SMALL = {name: value for name, value in VALUES.items() if len(value) < 1000}

SHELLS = {
    "sh": ["sh"],
    "dash": ["dash"],
    "bash": ["bash"],
    "bash, posix": ["bash", "--posix"],
    "bash, nullglob failglob extglob": ["bash", "-O", "nullglob", "-O", "failglob", "-O", "extglob", "-O", "dotglob"],
    "bash, globstar nocaseglob": ["bash", "-O", "globstar", "-O", "nocaseglob", "-O", "extglob"],
    "zsh": ["zsh", "-f"],
    "zsh, extended": [
        "zsh",
        "-f",
        "-o",
        "extendedglob",
        "-o",
        "nullglob",
        "-o",
        "globdots",
        "-o",
        "rcquotes",
        "-o",
        "magicequalsubst",
    ],
    "zsh, as sh": ["zsh", "--emulate", "sh", "-f"],
    "zsh, splitting and globbing": ["zsh", "-f", "-o", "shwordsplit", "-o", "globsubst"],
    "busybox": ["busybox", "sh"],
}


def shell(name: str) -> list[str]:
    argv = SHELLS[name]
    return [shutil.which(argv[0]) or pytest.skip(f"no {argv[0]}"), *argv[1:]]


@pytest.fixture
def globs(tmp_path: Path) -> Path:
    """A directory with files that many a pattern would match."""
    directory = tmp_path / "globs"
    directory.mkdir()
    for name in ("f", "file", "export", ".dot", "V0='a';", 'x)";', "'101x')\";", "a b", "*", "\\", 'V1="$(printf', "-n"):
        (directory / name).touch()
    return directory


def dumped(
    argv: list[str], script: str, names: Iterable[str], cwd: Path, environ: dict[str, str] | None = None
) -> dict[str, bytes]:
    """The variables that a script leaves in a shell. Not by `env`, as one program's environment has no room for all."""
    dump = "".join(f'printf "%s\\0" "${name}"\n' for name in names)
    (cwd.parent / "script").write_text(script + dump)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **(environ or {})}
    done = subprocess.run([*argv, cwd.parent / "script"], cwd=cwd, env=env, capture_output=True, check=False)
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stderr[:1000])
    assert not (cwd / "pwned").exists()
    return dict(zip(names, done.stdout.split(b"\0"), strict=False))


def compare(found: dict[str, bytes], values: dict[str, str] = VALUES) -> None:
    wrong = {name: (value, found.get(name)) for name, value in values.items() if found.get(name) != value.encode()}
    assert not wrong, list(wrong.items())[:5]


# Shells


def batches(values: dict[str, str], directory: Path, size: int = 100) -> str:
    """Writes statements to files, some to each (bash takes quadratic time for an eval of many); their names."""
    directory.mkdir()
    for number, batch in enumerate(chunks(values, size)):
        (directory / f"{number:05}").write_text(avault.render_export("sh", dict(batch)))
    return " ".join(f"../statements/{path.name}" for path in sorted(directory.iterdir()))


def chunks(values: dict[str, str], size: int) -> Iterable[list[tuple[str, str]]]:
    items = list(values.items())
    return (items[start : start + size] for start in range(0, len(items), size))


@pytest.mark.parametrize(
    ("form", "flags", "locale"),
    [
        ('eval "$(cat $file)"', "", "C.UTF-8"),
        ("eval $(cat $file)", "set -eu\n", "C"),
        pytest.param('eval "$(cat $file)"', "set -eu\n", "C", marks=pytest.mark.slow),
        pytest.param("eval $(cat $file)", "", "C.UTF-8", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] if "," in each else []) for each in SHELLS])
def test_shells(name, form, flags, locale, globs):
    files = batches(VALUES, globs.parent / "statements")
    script = f"{flags}for file in {files}; do {form}; done\n"
    compare(dumped(shell(name), script, VALUES, globs, {"LC_ALL": locale}))


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.slow
def test_what_programs_see(name, globs):
    """One by one, as with --only; and exported, so that a program gets it."""
    few = {key: SMALL[key] for key in list(SMALL)[:300]}
    files = batches(few, globs.parent / "statements", 1)
    (globs.parent / "script").write_text(f"for file in {files}; do eval $(cat $file); done\nenv -0\n")
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*shell(name), globs.parent / "script"], cwd=globs, env=env, capture_output=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr[:1000]
    compare({key.decode(): value for key, _, value in (entry.partition(b"=") for entry in done.stdout.split(b"\0"))}, few)


@pytest.mark.parametrize("name", SHELLS)
def test_a_value_that_is_there_already_is_replaced(name, globs):
    (globs.parent / "statements").write_text(avault.render_export("sh", {"A": "a b", "B": "plain"}))
    script = "set -eu\nA=old B=old\nexport A\neval $(cat ../statements)\n"
    compare(dumped(shell(name), script, ["A", "B"], globs, {"A": "older"}), {"A": "a b", "B": "plain"})


def test_fish(globs):
    argv = [shutil.which("fish") or pytest.skip("no fish"), "--no-config"]
    values = {**VALUES, "SOME_PATH": "a:b c:", "A_MANPATH": ":"}
    (globs.parent / "statements").write_text(avault.render_export("fish", values))
    names = list(values)
    script = "cat ../statements | source\nfor name in " + " ".join(names) + "; printf '%s\\0' \"$$name\"; end\n"
    (globs.parent / "script").write_text(script)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(globs)}
    done = subprocess.run([*argv, globs.parent / "script"], cwd=globs, env=env, capture_output=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr[:1000]
    assert not (globs / "pwned").exists()
    compare(dict(zip(names, done.stdout.split(b"\0"), strict=False)), values)


def test_statements_are_one_line_of_plain_text_each():
    for name, value in VALUES.items():
        line = avault.quote_sh(name, value)
        assert line.endswith(";\n") and line.count("\n") == 1 and line.isascii()
        assert not set(line[:-1]) & set("\t*?[]~|<#^") and "  " not in line


# Names

SPECIAL = {  # what a shell knows by itself, besides what it lists
    "_", "ARGC", "BASHPID", "COLUMNS", "DIRSTACK", "EPOCHREALTIME", "EPOCHSECONDS", "ERRNO", "FUNCNAME", "FUNCNEST", "GROUPS", "HISTCMD",
    "HISTSIZE", "HOSTNAME", "HOSTTYPE", "LINES", "MACHTYPE", "OSTYPE", "PIPESTATUS", "POSIXLY_CORRECT", "SHLVL", "SRANDOM", "TMOUT",
    "TTYIDLE", "USERNAME", "CMD_DURATION", "hostname", "fish_pid", "FISH_VERSION", "status_generation", "umask", "fish_killring",
}  # fmt: skip
LISTS = {
    "bash": "compgen -v",
    "zsh": "zmodload zsh/parameter zsh/mapfile zsh/terminfo zsh/system zsh/datetime 2>/dev/null; print -l ${(k)parameters}",
    "fish": "set --names",
}


@pytest.mark.parametrize("name", ["dash", "bash", "zsh", "busybox", "fish"])
def test_a_name_that_a_shell_would_not_keep_is_refused(name, tmp_path):
    """Exit 0 and another value than the vault's, or an aborted script, would both be worse than the refusal."""
    argv = [
        shutil.which(name) or pytest.skip(f"no {name}"),
        *{"busybox": ["sh"], "zsh": ["-f"], "fish": ["--no-config"]}.get(name, []),
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    listed = (
        subprocess.run([*argv, "-c", LISTS[name]], env=env, capture_output=True, text=True, check=False).stdout.split()
        if name in LISTS
        else []
    )
    names = sorted(word for word in {*listed, *SPECIAL, *avault.DANGEROUS} if word.isidentifier() and word.isascii())
    form = "fish" if name == "fish" else "sh"
    lost = []
    for word in names:
        if avault.is_dangerous(word):
            continue
        statement = avault.render_export(form, {word: "a value"})
        script = (
            statement + f"env -0 | {{ grep -z '^{word}=' || true; }}"
            if name != "fish"
            else statement + f"env -0 | string split0 | string match '{word}=*'"
        )
        done = subprocess.run([*argv, "-c", script], env=env, capture_output=True, text=True, check=False)
        if done.stdout.strip("\0\n") != f"{word}=a value":
            lost.append(word)
    assert lost == []


# systemd


def is_text_to_systemd(value: str) -> bool:
    """utf8_is_valid in systemd's utf8.c: a file with one of these is refused as a whole."""
    return not any(0xFDD0 <= ord(c) <= 0xFDEF or ord(c) & 0xFFFE == 0xFFFE for c in value)


def test_systemd(tmp_path):
    accepted, refused = {}, []
    for name, value in VALUES.items():
        try:
            avault.quote_systemd(name, value)
            accepted[name] = value
        except avault.AvaultError:
            refused.append(value)
    assert not [value for value in accepted.values() if not is_text_to_systemd(value)]
    for value in refused:
        assert not is_text_to_systemd(value) or any((c < " " and c not in "\t\n") or c == "\x7f" for c in value)
    text = avault.render_export("systemd", accepted)
    assert systemd(text) == accepted
    assert real_systemd(text, tmp_path) in (None, accepted)


# dotenv


@pytest.mark.parametrize("name", SHELLS)
def test_dotenv_in_shells(name, globs):
    (globs.parent / "statements").write_text(avault.render_export("dotenv", VALUES))
    compare(dumped(shell(name), "set -a\n. ../statements\n", VALUES, globs))


def differ(read: Callable[[Path], dict[str, str | None]], path: Path) -> set[str]:
    """The values that a reader gives back changed. One file for each: what it misreads may swallow what follows."""
    wrong = set()
    for name, value in SMALL.items():
        path.write_bytes(avault.render_export("dotenv", {name: value, "NEXT": "next"}).encode())
        if read(path) != {name: value, "NEXT": "next"}:
            wrong.add(value)
    return wrong


def test_python_dotenv(tmp_path):
    dotenv = pytest.importorskip("dotenv")
    plain = differ(lambda path: dict(dotenv.dotenv_values(path, interpolate=False)), tmp_path / "env")
    assert not [value for value in plain if "\r" not in value and not (set(value) & set("'\\") and set(value) & set("$`"))]
    both = differ(lambda path: dict(dotenv.dotenv_values(path)), tmp_path / "env")
    assert not [value for value in both - plain if "${" not in value]
    assert both == warned("python-dotenv")


def warned(reader: str) -> set[str]:
    """The values of which `export` says that this reader reads them otherwise."""
    return {value for value in SMALL.values() if f"{reader} reads V" in (avault.find_misread({"V": value}) or "")}


def test_npm_dotenv(tmp_path):
    module = node_modules() / "dotenv" / "lib" / "main.js"
    if not module.exists():
        pytest.skip("no npm dotenv")
    texts = {name: avault.render_export("dotenv", {name: value, "NEXT": "next"}) for name, value in SMALL.items()}
    (tmp_path / "texts").write_text(json.dumps(texts))
    script = """const [m, f] = process.argv.slice(1), t = JSON.parse(require("fs").readFileSync(f)), d = require(m)
        console.log(JSON.stringify(Object.fromEntries(Object.entries(t).map(([k, v]) => [k, d.parse(v)]))))"""
    done = subprocess.run([*node(), "-e", script, module, tmp_path / "texts"], capture_output=True, check=True)
    found = json.loads(done.stdout)
    wrong = [value for name, value in SMALL.items() if found[name] != {name: value, "NEXT": "next"}]
    assert not [value for value in wrong if not set(value) & set("\r\\") and not ("'" in value and set(value) & set('"$`'))]
    assert found["V0"], "nothing was read"
    assert set(wrong) == warned("npm's dotenv")


def test_json():
    assert json.loads(avault.render_export("json", VALUES)) == VALUES


# Docker, GitHub, Kubernetes


@pytest.fixture
def docker() -> Iterator[Callable[..., list[str] | None]]:
    """What docker's own command reads from an --env-file."""
    try:
        with dotenv_readers.docker() as read:
            yield read
    except FileNotFoundError as error:
        pytest.skip(str(error))


def carried_by_docker() -> dict[str, str]:
    """The values that `--format docker` takes."""
    taken = {}
    for name, value in VALUES.items():
        try:
            avault.quote_docker(name, value)
            taken[name] = value
        except avault.AvaultError:
            assert set(value) & {"\r", "\n"} or len(value.encode()) > 60_000
    return taken


def test_docker(docker, tmp_path):
    taken = carried_by_docker()
    assert len(taken) > len(VALUES) / 2
    (tmp_path / "env").write_text(avault.render_export("docker", taken))
    assert docker(tmp_path / "env") == [f"{name}={value}" for name, value in taken.items()]


def test_docker_would_lose_what_is_refused(docker, tmp_path):
    for value in ("a\nb", "a\r", "x" * 65_535):
        with pytest.raises(avault.AvaultError, match="docker reads a variable from one line of less than 64 KiB: K"):
            avault.quote_docker("K", value)
        (tmp_path / "env").write_bytes(f"K={value}\n".encode())
        assert docker(tmp_path / "env") != [f"K={value}"]
    longest = "x" * (65_535 - len("K=\n"))
    (tmp_path / "env").write_text(avault.quote_docker("K", longest))
    assert docker(tmp_path / "env") == [f"K={longest}"]


def github(text: str) -> dict[str, str]:
    """How a runner reads $GITHUB_ENV (SetEnvFileCommand, EnvFileKeyValuePairs in actions/runner's FileCommandManager.cs)."""
    found, lines = {}, iter(text.split("\n")[:-1])
    for line in lines:
        if not line:
            continue
        equals, here = line.find("="), line.find("<<")
        if equals >= 0 and (here < 0 or equals < here):
            found[line[:equals]] = line[equals + 1 :]
        else:
            name, end = line.split("<<", 1)
            found[name] = "\n".join(itertools.takewhile(lambda each, end=end: each != end, lines))
    return found


def test_github():
    assert github(avault.render_export("github", VALUES)) == VALUES


def test_kubernetes():
    yaml = pytest.importorskip("yaml")
    for group, name in (("web", "web"), ("Web_App.1", "web-app-1"), ("a-", "a"), (None, "avault")):
        made = yaml.safe_load(avault.render_export("k8s", VALUES, group))
        assert (made["apiVersion"], made["kind"], made["metadata"], made["type"]) == ("v1", "Secret", {"name": name}, "Opaque")
        assert {key: base64.b64decode(value).decode() for key, value in made["data"].items()} == VALUES
    assert yaml.safe_load(avault.render_export("k8s", {}))["data"] == {}


# What is chosen


def vault_of(**groups: dict[str, str]) -> avault.Vault:
    vault = avault.Vault("00" * 16, "a", "o", "test")
    for group, keys in groups.items():
        for key, value in keys.items():
            vault.put(group.replace("__", "-"), key, value, 1, "m")
    return vault


TWO = vault_of(openai={"API_KEY": "o"}, groq={"API_KEY": "g", "ORG": "x"})


def chosen(vault, groups, only, prefix, allow):
    """What `export` gives for these choices: variables and values."""
    request = {"groups": groups, "only": only, "prefix": prefix, "allow": allow}
    answer = avault.answer_export(vault, request)
    assert list(answer["names"]) == list(answer["variables"])
    return answer["variables"]


def test_choosing():
    one = vault_of(openai={"API_KEY": "o"}, db={"PASSWORD": "p", "USER_": "u"})
    assert chosen(one, [], [], False, []) == {"API_KEY": "o", "PASSWORD": "p", "USER_": "u"}
    assert chosen(one, ["db"], [], False, []) == {"PASSWORD": "p", "USER_": "u"}
    assert chosen(one, ["db", "db"], ["PASSWORD"], False, []) == {"PASSWORD": "p"}
    assert chosen(TWO, [], ["groq/API_KEY"], False, []) == {"API_KEY": "g"}
    assert chosen(TWO, [], [], True, []) == {"OPENAI_API_KEY": "o", "GROQ_API_KEY": "g", "GROQ_ORG": "x"}
    assert chosen(vault_of(my__db={"pass_word": "p"}), [], [], True, []) == {"MY_DB_PASS_WORD": "p"}
    for groups, only in ((["none"], []), ([], ["NONE"]), (["openai"], ["ORG"]), ([], ["openai/ORG"]), ([], [""])):
        with pytest.raises(avault.NotFound):
            chosen(TWO, groups, only, False, [])


def test_two_groups_with_one_key():
    with pytest.raises(avault.Usage, match=r"(?=.*groq/API_KEY)(?=.*openai/API_KEY)") as refused:
        chosen(TWO, [], [], False, [])
    assert "--group" in str(refused.value.hint) and "--prefix" in str(refused.value.hint)
    with pytest.raises(avault.Usage, match="A_B_C"):
        chosen(vault_of(a={"B_C": "1"}, a__b={"C": "2"}), [], [], True, [])


def test_a_prefix_that_gives_no_name():
    with pytest.raises(avault.Usage):
        chosen(vault_of(**{"1password": {"TOKEN": "x"}}), [], [], True, [])


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "LD_X", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "ENV", "IFS", "PYTHONPATH", "PERL5OPT", "NODE_OPTIONS",
                                  "GIT_SSH_COMMAND", "PROMPT_COMMAND", "PS4", "PS1", "PS0", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "LESSOPEN", "http_proxy",
                                  "HTTPS_PROXY", "ALL_PROXY", "OPENSSL_CONF", "NODE_TLS_REJECT_UNAUTHORIZED", "DOTNET_STARTUP_HOOKS", "_"])  # fmt: skip
def test_dangerous_names(name):
    vault = vault_of(g={name: "x", "SAFE": "y"})
    with pytest.raises(avault.Denied, match=name) as refused:
        chosen(vault, [], [], False, [])
    assert f"--allow {name}" in str(refused.value.hint)
    assert chosen(vault, [], ["SAFE"], False, []) == {"SAFE": "y"}
    assert chosen(vault, [], [], False, [name]) == {name: "x", "SAFE": "y"}


CLASSES = """
    loader   LD_AUDIT DYLD_LIBRARY_PATH MALLOC_CONF GCONV_PATH LOCPATH GI_TYPELIB_PATH APP_LIBRARY_PATH JEMALLOC_PRELOAD
    shells   ENV ZDOTDIR CONFIG_SHELL INPUTRC FCEDIT fish_function_path HISTFILE
    python   PYTHONHOME PYTHONSTARTUP PIP_INDEX_URL PIP_CONFIG_FILE UV_INDEX_URL UV_PYTHON CONDA_EXE PYTEST_ADDOPTS IPYTHONDIR
    node     NODE_OPTIONS NODE_PATH NODE_TLS_REJECT_UNAUTHORIZED npm_config_script_shell NPM_CONFIG_REGISTRY Npm_Config_Prefix
             YARN_RC_FILENAME COREPACK_NPM_REGISTRY DENO_CERT DENO_DIR BUN_OPTIONS BUN_INSTALL ELECTRON_RUN_AS_NODE
    others   PERL5DB PERLLIB RUBYOPT RUBYLIB GEM_PATH BUNDLE_GEMFILE PHPRC PHP_INI_SCAN_DIR LUA_PATH LUA_CPATH_5_4 LUA_INIT
             R_PROFILE_USER R_LIBS R_ENVIRON JULIA_LOAD_PATH ERL_FLAGS TCLLIBPATH OCAMLRUNPARAM
    jvm      MAVEN_OPTS GRADLE_OPTS SBT_OPTS JAVA_OPTS JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS IBM_JAVA_OPTIONS
             MAVEN_ARGS ANT_ARGS CLASSPATH JAVA_HOME GRADLE_USER_HOME
    dotnet   DOTNET_STARTUP_HOOKS CORECLR_PROFILER_PATH COR_PROFILER NUGET_PACKAGES COMPlus_ReadyToRun
    builds   CARGO_HOME CARGO_BUILD_RUSTC RUSTC_WRAPPER RUSTC RUSTFLAGS GOFLAGS GOPROXY GOENV GOTOOLCHAIN CGO_LDFLAGS CC MAKEFLAGS
             CMAKE_TOOLCHAIN_FILE CCACHE_PREFIX PKG_CONFIG_PATH NIX_PATH HOST_CFLAGS
    desktop  GTK_MODULES GTK3_MODULES GTK_PATH GDK_PIXBUF_MODULE_FILE GIO_EXTRA_MODULES QT_PLUGIN_PATH QML2_IMPORT_PATH
             GST_PLUGIN_PATH VK_LAYER_PATH LIBGL_DRIVERS_PATH DISPLAY
    tls      OPENSSL_ENGINES OPENSSL_CONF OPENSSL_MODULES SSLKEYLOGFILE SSL_CERT_DIR NIX_SSL_CERT_FILE AWS_CA_BUNDLE CURL_HOME
             HTTPLIB2_CA_CERTS
    pagers   GH_PAGER SYSTEMD_PAGER DELTA_PAGER LESS LESSOPEN LESSEDIT MANROFFOPT PSQL_PAGER
    editors  KUBE_EDITOR PSQL_EDITOR VISUAL EMACSLOADPATH VIMINIT BROWSER GH_BROWSER CHROME_BIN PUPPETEER_EXECUTABLE_PATH
    remotes  GIT_SSH_COMMAND GIT_ASKPASS GIT_EXEC_PATH SSH_ASKPASS SSH_AUTH_SOCK SVN_SSH RSYNC_RSH HGRCPATH GH_HOST
             RESTIC_PASSWORD_COMMAND
    settings KUBECONFIG DOCKER_HOST AWS_CONFIG_FILE AWS_ENDPOINT_URL_S3 TF_CLI_CONFIG_FILE ANSIBLE_VAULT_PASSWORD_FILE HELM_PLUGINS
             XDG_CONFIG_HOME GNUPGHOME CLOUDSDK_PYTHON PGSERVICEFILE
    more     HADOOP_CLASSPATH SPARK_CONF_DIR CONTAINERS_CONF SOFTHSM2_CONF BOTO_CONFIG SASL_PATH LDAPRC MAILCAPS MUTTRC SCREENRC
             OCL_ICD_VENDORS OPENCL_VENDOR_PATH CUDA_INJECTION64_PATH __EGL_VENDOR_LIBRARY_FILENAMES __GLX_VENDOR_LIBRARY_NAME
             PIPEWIRE_MODULE_DIR SPA_PLUGIN_DIR GNUPLOT_DRIVER_DIR GBM_BACKENDS_PATH OMPI_MCA_component_path FONTCONFIG_FILE
             NODE_COMPILE_CACHE VIRTUAL_ENV FLASK_APP UWSGI_INI DJANGO_SETTINGS_MODULE PSModulePath GHC_PACKAGE_PATH OPAMROOT
             SOPS_AGE_KEY_CMD LEIN_JAVA_CMD BORG_PASSCOMMAND BORG_REMOTE_PATH KUBECTL_EXTERNAL_DIFF NNN_OPENER SQLPATH PGOPTIONS
    proxies  http_proxy HTTPS_PROXY ALL_PROXY no_proxy Ftp_Proxy npm_config_proxy
""".split("\n")


def test_every_class_of_dangerous_names():
    names = [name for line in CLASSES for name in line[13:].split()]
    assert len(names) > 130
    assert not [name for name in names if not avault.is_dangerous(name)]


SECRETS = """
    API_KEY TOKEN SECRET PASSWORD OPENAI_API_KEY ANTHROPIC_API_KEY GOOGLE_API_KEY GOOGLE_APPLICATION_CREDENTIALS GROQ_API_KEY
    PERPLEXITY_API_KEY REPLICATE_API_TOKEN HF_TOKEN GITHUB_TOKEN GH_TOKEN GITLAB_TOKEN GIT_TOKEN GIT_PASSWORD NPM_TOKEN
    NODE_AUTH_TOKEN YARN_NPM_AUTH_TOKEN BUN_AUTH_TOKEN DENO_DEPLOY_TOKEN CARGO_REGISTRY_TOKEN UV_PUBLISH_TOKEN PIP_TOKEN
    NUGET_API_KEY RUBYGEMS_API_KEY GEM_HOST_API_KEY MAVEN_PASSWORD JAVA_KEYSTORE_PASSWORD SSH_PRIVATE_KEY SSH_DEPLOY_KEY
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AZURE_CLIENT_SECRET DOCKER_PASSWORD DOCKER_USERNAME
    KUBE_TOKEN VAULT_TOKEN VAULT_ADDR ANSIBLE_VAULT_PASSWORD PGPASSWORD PGUSER PGHOST DATABASE_URL REDIS_URL MYSQL_PASSWORD
    STRIPE_SECRET_KEY SLACK_WEBHOOK_URL DISCORD_WEBHOOK TELEGRAM_BOT_TOKEN TWILIO_AUTH_TOKEN SENDGRID_API_KEY SMTP_HOST
    NODE_ENV RAILS_MASTER_KEY SECRET_KEY_BASE DJANGO_SECRET_KEY FEATURE_FLAGS DEPLOY_HOOK PATHS MY_PATH ENVIRONMENT PORT DEBUG
    GOOGLE_CLIENT_ID GOCARDLESS_TOKEN GODADDY_API_KEY RENDER_API_KEY RSA_KEY LUNO_KEY VK_ID JULES_API_KEY OPENAI_BASE_URL
    CURL_PASSWORD OPENCLAW_GATEWAY_TOKEN JUPYTER_TOKEN FIREBASE_CONFIG QUICKNODE_URL UVICORN_PORT PIPEDRIVE_API_KEY
    BORG_PASSPHRASE SOPS_AGE_KEY RESTIC_PASSWORD HADOOP_USER_NAME DJANGO_DEBUG VIRTUAL_HOST PGDATABASE MERGE_TOKEN
""".split()


def test_names_that_are_secrets():
    """What ordinary vaults hold is not refused; nor a credential, whatever stands before it."""
    assert len(SECRETS) > 80
    assert not [name for name in SECRETS if avault.is_dangerous(name)]


def test_a_prefix_does_not_hide_a_dangerous_name():
    with pytest.raises(avault.Denied):
        chosen(vault_of(ld={"PRELOAD": "x"}), [], [], True, [])


# The command


@pytest.fixture
def opened(lend: Callable[..., Machine]) -> Machine:
    return lend(Machine.init_unproven)


def test_the_command(opened, canary):
    opened("set", "a/ODD", input=canary.odd + "\n\n")
    opened("set", "b/PLAIN", input=canary.value)
    script = 'eval "$(avault export --shell)"; printf "%s\\0%s" "$ODD" "$PLAIN"'
    env = {**opened.env, "PATH": f"{Path(opened.command[0]).parent}:{os.environ['PATH']}"}
    for text in (script, script.replace('"$(avault export --shell)"', "$(avault export --shell)")):
        done = subprocess.run(["sh", "-euc", text], env=env, cwd=opened.top, capture_output=True, text=True, check=False)
        assert done.stdout == f"{canary.odd}\n\0{canary.value}" and not done.stderr
    assert opened("export", "--format", "json", secret=True).json == {"ODD": canary.odd + "\n", "PLAIN": canary.value}
    assert opened("export", "--only", "PLAIN", secret=True).stdout == avault.quote_dotenv("PLAIN", canary.value)
    assert opened("export", "--group", "b", "--prefix", secret=True).stdout == avault.quote_dotenv("B_PLAIN", canary.value)
    assert "ODD" in opened("export", "--shell", "fish", "--group=a", secret=True).stdout
    assert opened("export", "--only", "ODD,PLAIN", "--format", "systemd", secret=True).stdout.count("PLAIN") == 1


@pytest.mark.parametrize(("words", "code"), [
    (["--group", "none"], 4), (["--only", "NONE"], 4), (["--shell", "csh"], 2), (["--format", "xml"], 2), (["--shell", "--format", "json"], 2),
    ([], 2), (["--prefix"], 5), (["extra"], 2), (["--wait", "soon"], 2),
])  # fmt: skip
def test_refusals_print_nothing_on_stdout(opened, canary, words, code):
    for name in ("x/K", "y/K", "ld/PRELOAD"):
        opened("set", name, input=canary.value)
    done = opened("export", "--shell", *words, code=code) if "--format" not in words else opened("export", *words, code=code)
    assert done.stdout == "" and done.stderr.startswith("avault: error: ")


def test_locked_prints_nothing_and_waits_on_request(opened, canary):
    nsec = canary.watch(avault.nostr_sdk.Keys.generate().secret_key().to_bech32())
    opened("daemon", "stop", "--force")
    own = opened.own
    shutil.rmtree(opened.vault)
    shutil.rmtree(own)  # else init takes what is there for the last copy of a key
    opened.init_unproven(NOSTR_NSEC=nsec)
    opened("set", "g/K", input=canary.value)
    opened("lock", "--force")
    for words in ([], ["--shell"], ["--format", "json"], ["--shell", "fish"]):
        assert opened("export", *words, code=3).stdout == ""
    done = opened("export", "--shell", "--wait", "1", code=7)
    assert done.stdout == "" and "avault: hint: " in done.stderr
    waiting = subprocess.Popen([*opened.command, "export", "--wait"], env=opened.env, cwd=opened.top, stdout=subprocess.PIPE)
    opened("unlock", NOSTR_NSEC=nsec)
    assert waiting.communicate(timeout=120)[0].decode() == avault.quote_dotenv("K", canary.value)
    opened("daemon", "stop", "--force")
    assert opened("export", code=6).stdout == ""
    waiting = subprocess.Popen(
        [*opened.command, "export", "--wait", "100"], env=opened.env, cwd=opened.top, stdout=subprocess.PIPE
    )
    opened("daemon", "start", "-b", NOSTR_NSEC=nsec)
    wait_until(lambda: waiting.poll() is not None)
    assert waiting.communicate()[0].decode() == avault.quote_dotenv("K", canary.value)


def test_what_others_would_read_otherwise_is_said(opened, canary):
    """By the fast way and by the long one, on stderr; and only where there is something to say."""
    opened("set", "g/K", input=f"{canary.value}it's$5")
    opened("set", "g/PLAIN", input=canary.value)
    said = "avault: warning: sh and systemd read this as it is meant; python-dotenv reads K otherwise, and npm's dotenv reads K otherwise\n"
    for words in ([], ["--format", "dotenv"], ["--wait"]):
        done = opened("export", *words, secret=True)
        assert done.stdout == avault.render_export("dotenv", {"K": f"{canary.value}it's$5", "PLAIN": canary.value})
        assert done.stderr == said
    for words in (
        ["--only", "PLAIN"],
        ["--format", "systemd"],
        ["--format", "json"],
        ["--shell"],
        ["--format", "docker"],
        ["--format", "k8s"],
    ):
        assert opened("export", *words, secret=True).stderr == ""
    assert opened("export", "--format", "docker", secret=True).stdout == f"K={canary.value}it's$5\nPLAIN={canary.value}\n"
    assert 'name: "g"' in opened("export", "--format", "k8s", secret=True).stdout
    done = opened("export", "--format", "github", secret=True)
    assert github(done.stdout) == {"K": f"{canary.value}it's$5", "PLAIN": canary.value}
    assert done.stderr == "avault: warning: GitHub does not mask in its logs what comes to a job in this way; avault run does\n"
    opened("set", "g/CERT", input="one\ntwo")
    done = opened("export", "--format", "docker", code=1)
    assert done.stdout == "" and "error: docker reads a variable from one line of less than 64 KiB: CERT\n" in done.stderr


def test_the_form_that_fails_closed(opened, canary):
    opened("set", "g/K", input=canary.value)
    opened("lock", "--force")
    env = {**opened.env, "PATH": f"{Path(opened.command[0]).parent}:{os.environ['PATH']}"}
    script = 'vars=$(avault export --shell) && eval "$vars" && echo went on'
    done = subprocess.run(["sh", "-c", script], env=env, cwd=opened.top, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and done.stdout == ""
