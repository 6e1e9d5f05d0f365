"""`avault import` of what other programs and password managers keep: read as they read it, or refused, never half of it."""

# ruff: noqa: E501

import base64
import configparser
import json
import netrc
from collections.abc import Callable
from pathlib import Path

import pytest
from canary import Canary
from harness import Machine
from hypothesis import given
from hypothesis import strategies as st
from test_export import SMALL

import avault

pytestmark = pytest.mark.usefixtures("forks")

AWS = "[default]\naws_access_key_id = AKIA1\naws_secret_access_key=s/1+\n\n# it's\n[prod eu]\naws_access_key_id=AKIA2\naws_secret_access_key = s2 = x\naws_session_token=t\nregion = eu\n"
NETRC = 'machine api.example.com login me password s3cr#t\n# machine x\nmachine b\n  login "a b"\n  password "q\\"x" account acc\nmacdef init\n machine y\n\ndefault login anonymous password p\n'
PGPASS = "# c\ndb:5432:*:me:s3cr\\:t\\\\x\ndb.eu:*:app:*:two words\n*:*:*:*:all\n"
NPMRC = "registry=https://registry.example.com\n//registry.example.com/:_authToken=npm_1\n//r2.example.com/npm/:_authToken=${NPM_TOKEN}\n//r2.example.com/npm/:username=u\n_auth = dTpw==\n; c\nalways-auth=true\n"
SECRET = """\
apiVersion: v1
kind: Secret
metadata:
  name: db
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"v1"}

  labels: {}
type: Opaque
data:
  DB_PASSWORD: c2VjcmV0MTIz
  "tls.crt": bGluZQp0d28K  # two lines
  keystore: gIGC
stringData:
  URL: 'it''s: "x" #y'
  CERT: |-
    one
      two

    three
"""
LIST = """\
apiVersion: v1
items:
- apiVersion: v1
  data:
    A: MQ==
  kind: Secret
  metadata:
    name: one
- apiVersion: v1
  kind: ConfigMap
  metadata:
    name: two
kind: List
metadata:
  resourceVersion: ""
"""
ONEPASSWORD = 'Title,Url,Username,Password,OTPAuth,Favorite,Archived,Tags,Notes\n"GitHub","https://x.example","u","p,""1",otpauth://x,false,false,,"two\nlines"\nEmpty,,,,,false,false,,\n'
BITWARDEN = 'folder,favorite,type,name,notes,fields,reprompt,login_uri,login_username,login_password,login_totp\nWork,,login,GitHub,,"PIN: 1234\nOrg name: acme",0,https://x.example,u,p1,\n,,note,Recovery,words,,0,,,,\n'
KEEPASS = '"Group","Title","Username","Password","URL","Notes"\n"Root/API","OpenAI","","sk-example-1","",""\n"Root","OpenAI","me","other","",""\n'
BROWSER = "name,url,username,password,note\n,https://u.example:8443/login,me,pw,\n"
BITWARDEN_JSON = json.dumps({"encrypted": False, "folders": [], "items": [
    {"type": 1, "name": "GitHub", "notes": None, "fields": [{"name": "Org-ID", "value": "7", "type": 0}, {"name": "x", "value": None}], "login": {"username": "u", "password": "p", "totp": None, "uris": []}},
    {"type": 5, "name": "key", "notes": "n", "sshKey": {"privateKey": "k", "keyFingerprint": "f"}},
]})  # fmt: skip


CLAIMS = base64.urlsafe_b64encode(b'{"exp": 1893456000, "iss": "https://auth.openai.com"}').decode().rstrip("=")


@pytest.mark.parametrize(("form", "name", "text", "secrets", "left"), [
    ("aws", "credentials", AWS, {"aws": {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "s/1+"},
     "aws-prod-eu": {"AWS_ACCESS_KEY_ID": "AKIA2", "AWS_SECRET_ACCESS_KEY": "s2 = x", "AWS_SESSION_TOKEN": "t"}}, [(10, "region", avault.SETTING)]),
    ("netrc", ".netrc", NETRC, {"api.example.com": {"LOGIN": "me", "PASSWORD": "s3cr#t"}, "b": {"LOGIN": "a b", "PASSWORD": 'q"x', "ACCOUNT": "acc"},
     "default": {"LOGIN": "anonymous", "PASSWORD": "p"}}, []),
    ("pgpass", ".pgpass", PGPASS, {"db": {"PGHOST": "db", "PGPORT": "5432", "PGUSER": "me", "PGPASSWORD": "s3cr:t\\x"},
     "db.eu-app": {"PGHOST": "db.eu", "PGDATABASE": "app", "PGPASSWORD": "two words"}, "postgres": {"PGPASSWORD": "all"}}, []),
    ("npmrc", ".npmrc", NPMRC, {"registry.example.com": {"NPM_TOKEN": "npm_1"}, "r2.example.com-npm": {"NPM_USERNAME": "u"}, "npm": {"NPM_AUTH": "dTpw=="}},
     [(1, "registry", avault.SETTING), (3, "_authToken", avault.REFERS), (7, "always-auth", avault.SETTING)]),
    ("k8s", "s.yaml", SECRET, {"db": {"DB_PASSWORD": "secret123", "TLS_CRT": "line\ntwo\n", "URL": 'it\'s: "x" #y', "CERT": "one\n  two\n\nthree"}}, [(0, "db/keystore", avault.BINARY)]),
    ("k8s", "-", "---\n" + SECRET + "---\n" + LIST, {"db": {"DB_PASSWORD": "secret123", "TLS_CRT": "line\ntwo\n", "URL": 'it\'s: "x" #y', "CERT": "one\n  two\n\nthree"}, "one": {"A": "1"}},
     [(0, "db/keystore", avault.BINARY), (0, "two", "it is not a Secret")]),
    ("k8s", "-", json.dumps({"kind": "Secret", "metadata": {"name": "j"}, "data": {"A": "MQ=="}}), {"j": {"A": "1"}}, []),
    ("csv", "1password.csv", ONEPASSWORD, {"github": {"USERNAME": "u", "PASSWORD": 'p,"1', "TOTP": "otpauth://x", "NOTES": "two\nlines"}}, [(4, "Empty", avault.NOTHING)]),
    ("csv", "-", BITWARDEN, {"github": {"USERNAME": "u", "PASSWORD": "p1", "PIN": "1234", "ORG_NAME": "acme"}, "recovery": {"NOTES": "words"}}, []),
    ("csv", "-", KEEPASS, {"openai": {"PASSWORD": "sk-example-1"}, "openai-2": {"USERNAME": "me", "PASSWORD": "other"}}, []),
    ("csv", "-", "\ufeff" + BROWSER.replace("\n", "\r\n"), {"u.example": {"USERNAME": "me", "PASSWORD": "pw"}}, []),
    ("bitwarden", "-", BITWARDEN_JSON, {"github": {"USERNAME": "u", "PASSWORD": "p", "ORG_ID": "7"}, "key": {"PRIVATE_KEY": "k", "KEY_FINGERPRINT": "f", "NOTES": "n"}}, []),
    ("bitwarden", "-", json.dumps(json.loads(BITWARDEN_JSON)["items"][:1]), {"github": {"USERNAME": "u", "PASSWORD": "p", "ORG_ID": "7"}}, []),
    ("claude", ".credentials.json", json.dumps({"claudeAiOauth": {"accessToken": "sk-ant-oat01-a", "refreshToken": "sk-ant-ort01-r", "expiresAt": 1893456000123, "scopes": ["user:inference"],
     "subscriptionType": "max"}}), {"claude": {"OAUTH_ACCESS_TOKEN": "sk-ant-oat01-a", "OAUTH_REFRESH_TOKEN": "sk-ant-ort01-r", "OAUTH_EXPIRES": "1893456000", **avault.CLAUDE}}, []),
    ("claude", "-", json.dumps({"claudeAiOauth": {"accessToken": "sk-ant-oat01-a", "refreshToken": None, "expiresAt": None}}), {"claude": {"OAUTH_ACCESS_TOKEN": "sk-ant-oat01-a"}}, []),
    ("claude", "-", json.dumps({"claudeAiOauth": {"accessToken": "sk-ant-oat01-a"}, "mcpOAuth": {"linear|1": {"accessToken": "a", "refreshToken": "r"}}, "organizationUuid": "o"}),
     {"claude": {"OAUTH_ACCESS_TOKEN": "sk-ant-oat01-a"}}, [(0, "mcpOAuth/linear|1", avault.OTHER_LOGIN)]),
    ("codex", "auth.json", json.dumps({"OPENAI_API_KEY": None, "tokens": {"id_token": "a.b.c", "access_token": f"h.{CLAIMS}.s", "refresh_token": "rt_1", "account_id": "acc"}, "last_refresh": "2026-01-01T00:00:00Z"}),
     {"codex": {"OAUTH_ACCESS_TOKEN": f"h.{CLAIMS}.s", "OAUTH_REFRESH_TOKEN": "rt_1", "OAUTH_EXPIRES": "1893456000", "OAUTH_ID_TOKEN": "a.b.c", "OAUTH_ACCOUNT_ID": "acc", **avault.CODEX}}, []),
    ("codex", "-", json.dumps({"OPENAI_API_KEY": "sk-1", "tokens": {"id_token": None, "access_token": "no.token", "refresh_token": "rt_1"}}),
     {"codex": {"OAUTH_ACCESS_TOKEN": "no.token", "OAUTH_REFRESH_TOKEN": "rt_1", **avault.CODEX}, "openai": {"OPENAI_API_KEY": "sk-1"}}, []),
])  # fmt: skip
def test_what_is_taken_and_left(form: str, name: str, text: str, secrets: dict, left: list[tuple]) -> None:
    assert avault.form_of(name, text) == avault.form_of("-", text) or form == "pgpass"
    assert avault.form_of(name, text) == form
    found = avault.FORM_READERS[form](text.removeprefix("\ufeff"))
    made: dict[str, dict[str, str]] = {}
    for (group, key), value in avault.place(found, None, "aws" if form == "aws" else None).items():
        made.setdefault(group, {})[key] = value
    assert made == secrets
    assert [(each.line, each.name, each.problem) for each in found.left] == left


def test_groups_that_are_chosen() -> None:
    """The only entry, or the one without a name, is the group; the others have it before their names."""

    def groups(form: str, text: str, group: str | None, base: str | None = None) -> set[str]:
        return {group for group, _ in avault.place(avault.FORM_READERS[form](text), group, base)}

    assert groups("aws", AWS, "t", "aws") == {"t", "t-prod-eu"}
    assert groups("aws", AWS.partition("\n\n")[2].partition("\n")[2], "t", "aws") == {"t"}
    assert groups("netrc", NETRC, "t") == {"t-api.example.com", "t-b", "t-default"}
    assert groups("netrc", NETRC.partition("\n")[0], "t") == {"t"}
    assert groups("csv", KEEPASS, "t") == {"t-openai", "t-openai-2"}
    assert groups("k8s", SECRET, "t") == {"t"}


@pytest.mark.parametrize(("form", "text", "says"), [
    ("aws", "[default]\nhunter2\nx\n", "line 2: not a setting of a profile; line 3: not a setting of a profile"),
    ("aws", "aws_access_key_id = hunter2\n", "line 1: not a setting of a profile"),
    ("netrc", "machine a login b password c\nhunter2 hunter2\n", "a word that is no netrc, after machine a"),
    ("pgpass", "db:5432:hunter2\nhunter2\n", "line 1: not host:port:database:user:password; line 2: not host"),
    ("csv", "Title,Password\na,hunter2\nb,\"hunter2", "line 3: not CSV"),
    ("csv", "hunter2,x\n", "the first line names no column password"),
    ("k8s", "kind: Secret\ndata: &a\n  A: hunter2\n", "line 3: more YAML than avault reads"),
    ("k8s", "kind: Secret\nmetadata:\n  name: x\ndata:\n  A: hunter2\n  B: c2VjcmV0MTIz\n", "x/A: not base64"),
    ("k8s", "kind: Secret\ndata:\n  A: [hunter2]\n", "more YAML than avault reads"),
    ("k8s", "kind: Secret\ndata:\n  A: MQ==\n  A: MQ==\n", "more YAML than avault reads"),
    ("k8s", "kind: Secret\ndata:\n  a.b: MQ==\n  A_B: MQ==\n", "secret/A_B: two keys of that name"),
    ("k8s", "kind: Secret\ndata: hunter2\n", "data is no mapping"),
    ("k8s", "kind: SealedSecret\nspec:\n  encryptedData:\n    A: hunter2\n", "a SealedSecret is encrypted for its cluster"),
    ("k8s", '{"kind": "Secret"', "it is no JSON"),
    ("bitwarden", "hunter2", "it is no JSON"),
    ("netrc", "machine a password op://hunter2/x\n", "a/PASSWORD: it is a reference to 1Password"),
])  # fmt: skip
def test_what_is_refused(form: str, text: str, says: str) -> None:
    with pytest.raises(avault.Usage) as refused:
        avault.place(avault.FORM_READERS[form](text), None, None)
    assert says in refused.value.message and refused.value.hint
    assert "hunter2" not in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(("data", "says", "hint"), [
    (b'{"encrypted": true, "passwordProtected": true, "data": "2.x|y|z"}', "an encrypted export", "bw export"),
    (b'\xef\xbb\xbf{\n  "encrypted":true,"encKeyValidation_DO_NOT_EDIT":"2."}', "an encrypted export", "bw export"),
    (b"\x03\xd9\xa2\x9a\x67\xfb\x4b\xb5", "KeePass", "keepassxc-cli"), (b"PK\x03\x04\x00", "1pux", "CSV"), (b"age-encryption.org/v1\n", "age", "age --decrypt"),
    (b"-----BEGIN AGE ENCRYPTED FILE-----\n", "age", "age --decrypt"), (b"\n-----BEGIN PGP MESSAGE-----\n", "GnuPG", "gpg --decrypt"),
    (b"$ANSIBLE_VAULT;1.1;AES256\n", "Ansible", "ansible-vault"), (b'{"logins": [{"encryptedPassword": "x"}]}', "Firefox", "CSV"),
    (b"A: ENC[AES256_GCM]\nsops:\n  mac: x\n", "sops", "sops decrypt"), (b"Salted__x", "openssl", "openssl"),
])  # fmt: skip
def test_what_is_encrypted_is_refused_as_such(data: bytes, says: str, hint: str) -> None:
    with pytest.raises(avault.Usage, match=says) as refused:
        avault.refuse_encrypted(data)
    assert hint in str(refused.value.hint)
    avault.refuse_encrypted(b'{"encrypted": false}')
    avault.refuse_encrypted(b"A=PK\n")


@pytest.mark.parametrize(("file", "text", "says"), [
    ("x.yaml", "a:\n  b: 1\n", "it is YAML"), ("-", "API_KEY: x\nURL: y\n", "it is YAML"), ("-", "---\n# c\na: 1\n", "it is YAML"),
    ("x.ini", "[a]\nb=1\n", "an INI file"), ("-", "; c\n[client]\npassword=x\n", "an INI file"),
])  # fmt: skip
def test_what_is_known_and_not_read(file: str, text: str, says: str) -> None:
    with pytest.raises(avault.Usage, match=says) as refused:
        avault.form_of(file, text)
    assert "not JSON" not in f"{refused.value}" and refused.value.hint


@pytest.mark.parametrize(("file", "text", "form"), [
    ("-", "A=1\n", "dotenv"), ("-", "# kind\nA='kind: Secret'\n", "dotenv"), ("x.txt", "URL=a:b\n", "dotenv"), ("-", "", "dotenv"), ("-", '{"A": "1"}', "json"), ("-", "[1]", "json"),
    ("-", '{"login": {"username": "x"}}', "json"), ("-", '{"items": {"A": "1"}}', "json"), ("-", '{"kind": "x"}', "json"), ("-", "A: 1\n=", "dotenv"), ("-", "a b\n", "dotenv"), ("-", "[", "json"),
])  # fmt: skip
def test_the_forms_of_every_day_stay_what_they_are(file: str, text: str, form: str) -> None:
    if text == "A: 1\n=":
        with pytest.raises(avault.Usage, match="it is YAML"):
            avault.form_of(file, text)
    else:
        assert avault.form_of(file, text) == form


WORD = st.text(st.sampled_from("abcXYZ019_./+=:-"), min_size=1, max_size=9)


@given(st.dictionaries(WORD.filter(lambda word: word != "default"), st.tuples(WORD, WORD), min_size=1, max_size=4))
def test_netrc_as_the_standard_library_reads_it(machines: dict) -> None:
    text = "".join(f"machine {name} login {login}\n password {password}\n" for name, (login, password) in machines.items())
    found = avault.read_netrc(text)
    assert not found.bad and {each.name: (each.values["LOGIN"], each.values["PASSWORD"]) for each in found.entries} == machines


def test_readers_of_others_agree(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(NETRC.replace('"a b"', "ab").replace('"q\\"x"', "qx"))
    theirs = netrc.netrc(str(tmp_path / "netrc"))
    ours = {each.name: each.values for each in avault.read_netrc((tmp_path / "netrc").read_text()).entries}
    assert {name: (values["LOGIN"], values.get("ACCOUNT", ""), values["PASSWORD"]) for name, values in ours.items()} == dict(
        theirs.hosts
    )
    parser = configparser.RawConfigParser()
    parser.read_string(AWS)
    for entry in avault.read_aws(AWS).entries:
        section = dict(parser[entry.name or "default"])
        assert entry.values == {name.upper(): value for name, value in section.items() if name != "region"}
    yaml = pytest.importorskip("yaml")
    for text in (SECRET, LIST):
        assert avault.load_manifests(text) == list(yaml.load_all(text, yaml.BaseLoader)) or "labels" in text
    secret = yaml.safe_load(SECRET)
    assert avault.load_manifests(SECRET)[0] == secret


def test_what_export_writes_for_kubernetes_is_read_back() -> None:
    made = avault.read_kubernetes(avault.render_export("k8s", SMALL, "web"))
    assert [(each.name, each.values) for each in made.entries] == [("web", SMALL)] and not made.bad + made.left
    assert base64.b64decode("MQ==") == b"1"


@pytest.fixture
def opened(machine: Machine) -> Machine:
    machine.init_unproven()
    return machine


def test_import_of_what_others_keep(opened: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """By name, by look from a pipe, in UTF-16, and refused as a whole."""
    path = allow(opened.top / "credentials")
    path.write_text(
        f"[default]\naws_access_key_id = {canary.new('id')}\naws_secret_access_key = {canary.new('key')}\nregion=eu\n"
    )
    done = opened("import", str(path), "--group", "t", "--dry-run")
    assert done.stdout == "new       t/AWS_ACCESS_KEY_ID\nnew       t/AWS_SECRET_ACCESS_KEY\n"
    assert "avault: left line 4, region: it is a setting, not a secret\n" in done.stderr
    opened("import", str(path))
    assert opened("get", "aws/AWS_ACCESS_KEY_ID", secret=True).stdout == canary.new("id") + "\n"
    opened("import", "-", input=f"machine h login me password {canary.new('pw')}\n")
    assert opened("get", "h/PASSWORD", secret=True).stdout == canary.new("pw") + "\n"
    opened("import", "-", "--group", "u", input=f"A={canary.new('é')}\r\n".encode("utf-16"))
    assert opened("get", "u/A", secret=True).stdout == canary.new("é") + "\n"
    done = opened("import", "-", "--format", "pgpass", input=f"h:1:d:u:{canary.new('pg')}\n{canary.value}\n", code=2)
    assert "avault: error: line 2: not host:port:database:user:password\n" in done.stderr and done.stdout == ""
    done = opened("import", "-", input='{"encrypted": true, "data": "2.x"}', code=2)
    assert "avault: error: it is an encrypted export, as Bitwarden makes them\navault: hint: bw export" in done.stderr
    assert (
        "one of: dotenv, json, aws, netrc, pgpass, npmrc, k8s, csv, bitwarden, claude, codex"
        in opened("import", "-", "--format", "x", code=2).stderr
    )
    opened("has", "h-d", code=4)
    done = opened("import", "-", "--group", "h", "--dry-run", input="PASSWORD=x\nNEW=y\n")
    assert (
        "nothing was written; 1 in the vault with another value: --replace replaces what differs, --group NAME keeps both\n"
        in done.stderr
    )
