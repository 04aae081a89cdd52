"""Shims and brokers of different versions on one palace."""

from pathlib import Path
from typing import Any

from palace.settings.installation import command_for
from tests.support.faults import versions
from tests.support.processes.brokers import is_alive, make_palace, wait_gone
from tests.support.processes.clients import Client, Site, wait_until

CUSTOM = str(Path(versions.__path__[0]))
OLD, BOTH, NEW = "1-1/0.1.0", "1-2/0.2.0", "2-2/0.3.0"


def of(version: str) -> dict[str, Any]:
    """Return what makes a process one of this version, and the brokers that it starts."""
    return {"PYTHONPATH": CUSTOM, "TEST_VERSIONS": version}


def failure(client: Client) -> str:
    return str(client.call("mempalace_get_aaak_spec")["error"]["message"])


def works(client: Client) -> bool:
    reply = client.call("mempalace_get_aaak_spec")
    assert "result" in reply, reply
    return True


def served_by(site: Site) -> tuple[int, str]:
    record = site.record()
    return record["pid"], record["version"]


def test_a_younger_broker_understands_an_older_shim(site: Site) -> None:
    with site.shim(**of(BOTH)) as young:
        assert works(young)
        with site.shim(**of(OLD)) as old:
            assert works(old)
        assert served_by(site)[1] == "0.2.0"


def test_a_younger_shim_speaks_as_an_older_broker_does(site: Site) -> None:
    with site.shim(**of(OLD)) as old:
        assert works(old)
        before = served_by(site)
        with site.shim(**of(BOTH)) as young:
            assert works(young)
            assert young.tool("kg_add", subject="a", predicate="is", object="b")["success"]
        assert served_by(site) == before


def test_a_younger_one_without_a_common_protocol_replaces_the_broker_and_nothing_is_lost(
    site: Site,
) -> None:
    with site.shim(**of(OLD)) as old:
        assert old.tool("kg_add", subject="a", predicate="is", object="old")["success"]
        before, _ = served_by(site)
        with site.shim(**of(NEW)) as young:
            assert young.tool("kg_add", subject="a", predicate="is", object="new")["success"]
            after, version = served_by(site)
            wait_gone(before)
            facts = young.tool("kg_query", entity="a")["facts"]
            text = failure(old)

            assert version == "0.3.0"
            assert {fact["object"] for fact in facts} == {"old", "new"}
            assert f"upgrade the client: {command_for()}" in text
            assert served_by(site)[0] == after


def test_an_older_one_does_not_take_the_palace_back(site: Site) -> None:
    with site.shim(**of(NEW)) as young:
        assert works(young)
        pid, _ = served_by(site)
    assert site.run("stop", **of(NEW)).returncode == 0
    wait_gone(pid)

    with site.shim(**of(OLD)) as old:
        text = failure(old)
    served = site.run("serve", **of(OLD))

    assert str(site.palace / "protocol") in text
    assert served.returncode == 76
    (site.palace / "protocol").unlink()
    with site.shim(**of(OLD)) as old:
        assert works(old)


def test_two_versions_at_once_do_not_take_turns(site: Site) -> None:
    make_palace(site)
    with site.shim(**of(OLD)) as old:
        assert works(old)
        with site.shim(**of(NEW)) as young:
            assert works(young)
            pid, _ = served_by(site)
            for _ in range(5):
                assert "upgrade the client" in failure(old)
                assert works(young)
            assert served_by(site)[0] == pid
            assert is_alive(pid)
    wait_until(lambda: int((site.palace / "epoch").read_text()) == 2, what="two owners in all")
