"""The operator's key and the vault directory are enough, without avault: peers/recover.mjs follows references/format.md."""

import json
import re
import subprocess
from pathlib import Path

import nostr_sdk
import pytest
from harness import SOURCE, Machine
from peers import node, node_modules

import avault

pytestmark = pytest.mark.usefixtures("forks")

FORMAT = SOURCE.parent / "references" / "format.md"


def recover(directory: Path, operator: nostr_sdk.Keys) -> subprocess.CompletedProcess[str]:
    script = node_modules().parent / "recover.mjs"
    return subprocess.run(
        [*node(), script, directory], input=operator.secret_key().to_hex(), capture_output=True, text=True, check=False
    )


def test_the_operators_key_is_enough(machine: Machine, canary):
    """A vault of several parts, and the copy that the first unlock wrote."""
    agent = nostr_sdk.Keys.generate()
    nsec = canary.watch(agent.secret_key().to_bech32())
    machine.init_unproven(NOSTR_NSEC=nsec)
    held = {"openai": {"API_KEY": canary.value}, "odd": {"ODD": canary.odd, "LONG": canary.long}}
    for group, keys in held.items():
        for key, value in keys.items():
            machine("set", f"{group}/{key}", "--note", f"about {group} é", input=value + "\n")
    assert len((machine.vault / "avault.enc").read_bytes().splitlines()) > 1
    for _ in range(2):  # as `init` wrote it, and as a second machine writes it anew
        done = recover(machine.vault, machine.operator)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["nsec"] == nsec
        assert found["groups"] == {group: {"note": f"about {group} é", "values": keys} for group, keys in held.items()}
        for group, keys in held.items():
            assert machine("get", group, "--json", secret=True).json["values"] == keys
        (machine.own / "unlock.json").unlink()
        machine("daemon", "stop", "--force")
        machine("daemon", "start", "-b", NOSTR_NSEC=nsec)


def test_another_key_is_not(machine: Machine):
    machine.init_unproven()
    done = recover(machine.vault, nostr_sdk.Keys.generate())
    assert done.returncode != 0 and done.stdout == ""


# The document


def fields(title: str) -> list[str]:
    """The field names in the tables of a section, in order."""
    section = re.split(r"(?m)^## ", FORMAT.read_text())
    [text] = [part for part in section if part.startswith(title + "\n")]
    cells = re.findall(r"(?m)^\| (`.*?) \|", text)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize("name", ["XChaCha", "Poly1305"])
def test_the_document_does_not_name_what_is_not_used(name):
    assert name not in FORMAT.read_text()


def test_the_document_lists_the_fields_that_there_are(machine: Machine):
    machine.init_unproven()
    first, last = fields("Conventions")[:2], fields("Conventions")[2:]
    sealed = json.loads((machine.vault / "nsec.enc").read_bytes())
    inner = ["type", "version", "vault", "name", "operator", "nsec"]
    brought = ("rotated", "guards")  # by a rotation, and by a guard
    tabled = [name for name in fields("nsec.enc") if name not in brought]
    assert len(tabled) + len(brought) == len(fields("nsec.enc"))
    assert tabled == [*[key for key in sealed if key not in (*first, *last)], *inner]
    assert list(sealed) == [*first, *tabled[: -len(inner)], *last]
    assert [*first, *fields("nip46.json"), *last] == list(json.loads((machine.vault / "nip46.json").read_bytes()))
    agent, operator = nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate()
    envelope = avault.make_envelope(agent, avault.public_hex(operator), "a", "c", "00" * 32)
    assert fields("The envelope") == list(json.loads(avault.decrypt(operator, avault.public_hex(agent), envelope)))
    vault = avault.Vault("00" * 16, "a", "o", "n")
    vault.put("g", "K", "v", 1, "m")
    vault.state("operator/alice", "v", 1, "m")
    header, _, body = avault.split_vault(vault)[0].partition("\n")
    content = json.loads(body)
    place, agent = "g/K", avault.public_hex(agent)
    lock = avault.make_lock(("00" * 16, "n"), place, [agent], avault.make_secret(place))
    locked = ["place", "to", "envelopes", "opens", "sealed"]
    assert lock.keys() == {*locked}
    assert fields("avault.enc") == [*json.loads(header), *content, *locked, *content["groups"]["g"]]
    state = re.split(r"(?m)^## ", FORMAT.read_text())
    [text] = [part for part in state if part.startswith("The state directory\n")]
    for name in ("unlock", "pin", "machine"):
        content = json.loads((machine.own / f"{name}.json").read_bytes())
        [paragraph] = re.findall(rf"(?s)\*\*{name}\.json\*\*.*?(?:\n\n|$)", text)
        for field in content.keys() - sealed.keys():
            assert f"`{field}`" in paragraph, field
