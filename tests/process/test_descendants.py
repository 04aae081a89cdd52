"""A host that ends what it has started: the broker that others use is no part of that."""

import os
import signal

import pytest

from tests.support.processes.brokers import (
    children_of,
    is_alive,
    make_palace,
    parent_of,
    state_of,
    status_of,
)
from tests.support.processes.clients import PALACE, Client, Site, wait_until

pytestmark = pytest.mark.process


def descendants_of(pid: int) -> list[int]:
    found = []
    for child in children_of(pid):
        found += [child, *descendants_of(child)]
    return found


def test_a_broker_is_no_descendant_of_the_shim_that_started_it(site: Site) -> None:
    make_palace(site)
    with site.shim() as first, site.shim() as second:
        first.tool("kg_add", subject="a", predicate="is", object="b")
        second.tool("kg_query", entity="a")
        broker = status_of(site)["pid"]
        shim = first.process.pid

        # What it was started through has been reaped, not left as a zombie for the session's life.
        wait_until(lambda: not children_of(shim), what="the shim has no child")
        assert parent_of(broker) not in (shim, os.getpid())
        assert os.getsid(broker) == os.getpgid(broker) == broker

        for pid in [*descendants_of(shim), shim]:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: state_of(shim) in ("", "Z"), what="the first shim is gone")

        assert second.tool("kg_query", entity="a")["count"] == 1
        assert is_alive(broker)
        assert status_of(site)["pid"] == broker


def test_a_process_group_that_is_killed_takes_no_broker_with_it(site: Site) -> None:
    make_palace(site)
    with site.shim() as second:
        first = Client([*PALACE, "shim"], site.environ(), process_group=0)
        first.tool("kg_add", subject="a", predicate="is", object="b")
        broker = status_of(site)["pid"]

        os.killpg(first.process.pid, signal.SIGKILL)
        first.close()

        assert second.tool("kg_query", entity="a")["count"] == 1
        assert status_of(site)["pid"] == broker
