"""A desk and its operator's phone meet (avault fleet pair): by a code on the screen or a bunker URI, and the drill. No ssh."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
from harness import Machine, Screen
from peers import misdeeds

import avault

pytestmark = pytest.mark.slow
REFUSED = misdeeds.REFUSALS["amber, clave"]
HONEST: list[dict[str, Any]] = [{"honest": True}]


@pytest.fixture(scope="module")
def phone(relay: Any) -> Iterator[peers.Rogue]:
    with peers.rogue([relay.url]) as phone:
        yield phone


@pytest.fixture
def desk(place: Any, phone: peers.Rogue) -> Iterator[Machine]:
    """A machine without a vault; its phone refuses what it is asked."""
    phone.behave("nip44_decrypt", REFUSED)
    with Machine(place.top / "desk") as machine:
        yield machine
    shutil.rmtree(path_of(machine).parent, ignore_errors=True)


def path_of(desk: Machine) -> Path:
    return Path(desk.env["XDG_STATE_HOME"]) / "avault" / "desk" / "desk.json"


def give_group(desk: Machine) -> dict[str, Any]:
    """The desk may open a machine; what it remembers of that."""
    content = json.loads(path_of(desk).read_text())
    for name in ("type", "version", "checksum"):
        del content[name]
    public = avault.public_hex(avault.make_keys())
    host = {"agent": public, "salt": "ab" * 32, "key": public}
    content["groups"] = {"web": [{"peer": public, "envelope": "x", "hosts": {"web1": host}}]}
    path_of(desk).write_bytes(avault.encode_file("desk", content))
    return dict(json.loads(path_of(desk).read_text())["groups"])


def test_a_code_on_the_screen_is_scanned(desk: Machine, phone: peers.Rogue, relay: Any) -> None:
    words = ("fleet", "pair", "--relay", relay.url, "--label", "laptop", "--qr", str(desk.top / "code.png"))
    with Screen(desk, "avault", *words, lines=60, columns=140) as screen:
        uri = screen.expect(r"(nostrconnect://[^\s]+)")[1].decode()
        screen.expect("▄|▀|█")
        assert "name=desk%20laptop" in uri and "nip44" not in uri, "no leave to decrypt is asked for"
        phone.nostrconnect(uri)
        screen.expect(f"operator: {avault.to_npub(phone.user)}")
        screen.expect(r"is that you, the operator\? \[y/N\] ")
        screen.type("y\n")
        screen.expect("REJECT the next request")
        screen.expect("the drill passed: no machine is opened without you")
        screen.expect("it opens nothing yet: avault fleet enroll")
        screen.wait()
    assert (desk.top / "code.png").read_bytes().startswith(b"\x89PNG") and path_of(desk).stat().st_mode & 0o77 == 0
    # who is not confirmed is no operator
    before = path_of(desk).read_bytes()
    with Screen(desk, "avault", *words, lines=60, columns=140) as screen:
        phone.nostrconnect(screen.expect(r"(nostrconnect://[^\s]+)")[1].decode())
        screen.expect(r"\[y/N\] ")
        screen.type("\n")
        screen.expect("the operator was not confirmed; nothing was changed")
        screen.wait(5)
    assert path_of(desk).read_bytes() == before


def test_paired_anew_it_opens_what_it_did(desk: Machine, phone: peers.Rogue, rogue: peers.Rogue) -> None:
    """As when the connection was deleted in the app: the same operator's phone opens the keys, and no other's."""
    desk("fleet", "pair", "--bunker", "-", "--label", "laptop", input=phone.uri)
    groups, first = give_group(desk), path_of(desk).read_bytes()
    done = desk("fleet", "pair", "--bunker", "-", input=phone.uri)
    assert "it opens web as before" in done.stderr
    found = json.loads(path_of(desk).read_text())
    assert found["groups"] == groups and found["label"] == "laptop"
    assert found["client_key"] != json.loads(first)["client_key"]
    second = path_of(desk).read_bytes()
    other = desk("fleet", "pair", "--bunker", "-", "--no-drill", input=rogue.uri, code=5)
    assert f"another operator than {avault.to_npub(phone.user)}" in other.stderr
    assert "hint: choose that account in the signer, then: avault fleet pair" in other.stderr
    assert path_of(desk).read_bytes() == second
    assert "leave out --bunker" in desk("fleet", "pair", "--bunker", "-", "--qr", "x.png", code=2).stderr


@pytest.mark.parametrize(
    ("steps", "says"),
    [(HONEST, "would open all machines by itself"), (misdeeds.NOT_PAIRED["amber"], "nobody refused: no permission")],
)
def test_what_is_nobodys_refusal_pairs_no_desk(desk: Machine, phone: peers.Rogue, steps: Any, says: str) -> None:
    phone.behave("nip44_decrypt", steps)
    done = desk("fleet", "pair", "--bunker", "-", "--json", input=phone.uri, code=5)
    assert says in done.json["error"]["message"] and "avault fleet pair" in done.json["error"]["hint"]
    assert not path_of(desk).exists()


def test_a_setting_is_changed_and_the_drill_repeated(desk: Machine, phone: peers.Rogue, relay: Any) -> None:
    phone.behave("nip44_decrypt", HONEST)
    with Screen(desk, "avault", "fleet", "pair", "--relay", relay.url, lines=60, columns=140) as screen:
        phone.nostrconnect(screen.expect(r"(nostrconnect://[^\s]+)")[1].decode())
        screen.expect(r"the operator\? \[y/N\] ")
        screen.type("y\n")
        screen.expect(r"Manually approve each permission.*change the setting, then try it again\? \[y/N\] ")
        phone.behave("nip44_decrypt", REFUSED)
        screen.type("y\n")
        screen.expect("the drill passed")
        screen.wait()
