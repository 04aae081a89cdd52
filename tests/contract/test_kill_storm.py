"""Writers over HTTP whose broker is killed again and again: what was answered is there, once."""

import http.client
import json
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

import attrs
import pytest

from tests.contract.conftest import ON
from tests.support.calls.contract import ContractClient
from tests.support.engines.light.engine import STORE
from tests.support.faults.killing import is_deep
from tests.support.loads.light import fail_at_points, storm_site
from tests.support.processes.brokers import Serving, settle
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = pytest.mark.process

LARGE = 150  # memories: more than go in two parts
WRITERS, KILLS = 4, 60 if is_deep() else 8
LOST = (OSError, http.client.HTTPException)


@attrs.define(eq=False)
class Writer:
    """Commits to a namespace of its own, each text under an id of its own, until it is told."""

    address: str
    number: int
    over: threading.Event
    answered: dict[str, str] = attrs.field(factory=dict)  # texts by their ids
    again: int = 0  # requests that were sent more than once
    without_id: Counter[str] = attrs.field(factory=Counter)
    problem: str = ""

    @property
    def name(self) -> str:
        return f"custom:w{self.number}"

    def run(self) -> None:
        chosen = random.Random(self.number)
        while not self.over.is_set():
            ident = str(UUID(int=chosen.getrandbits(128), version=4))
            text = f"writer {self.number}, text {len(self.answered)}"
            if not self._until_answered(ident, text):
                return
            self.answered[ident] = text
            time.sleep(0.01)

    def _until_answered(self, ident: str, text: str) -> bool:
        for attempt in range(10_000):
            self.again += attempt == 1
            try:
                with ContractClient(self.address) as client:
                    told = client.commit(self.name, text, id=ident)
                    if told.status == 404 and client.put(self.name).status == 200:
                        continue
            except LOST:
                time.sleep(0.02)
                continue
            if told.status == 201:
                return True
            if told.status != 503:
                self.problem = f"{told.status}: {told.body}"
                return False
            time.sleep(0.02)
        self.problem = "never answered"
        return False


def kill_again_and_again(site: Site, writers: list[Writer]) -> None:
    chosen = random.Random(1)
    for _ in range(KILLS):
        with Serving(site) as broker:
            wait_until((site.palace / "http.sock").exists, what="it serves")
            before = sum(len(writer.answered) for writer in writers)
            wait_until(
                lambda before=before: (
                    sum(len(writer.answered) for writer in writers) > before + 8
                    or any(writer.problem for writer in writers)
                ),
                what="the writers get on",
            )
            time.sleep(chosen.uniform(0, 0.2))
            broker.end(signal.SIGKILL)


def stored(site: Site) -> dict[str, str]:
    """Return the memories in the store's file, by id: read line by line, past every broker."""
    found: dict[str, str] = {}
    for line in (site.palace / STORE).read_text().splitlines():
        _, _, kind, ident, payload = json.loads(line)
        if kind == "memory":
            found.pop(ident, None)
            if payload is not None:
                found[ident] = payload["content"]
    return found


def test_every_201_is_there_once_and_a_request_that_was_cut_is_repeated(short_dir: Path) -> None:
    site = storm_site(short_dir)
    settle(site, ON)
    over = threading.Event()
    writers = [Writer(str(site.palace / "http.sock"), number, over) for number in range(WRITERS)]
    threads = [threading.Thread(target=writer.run) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        kill_again_and_again(site, writers)
        with Serving(site) as broker:
            wait_until((site.palace / "http.sock").exists, what="it serves")
            over.set()
            for thread in threads:
                thread.join(60)
            assert [writer.problem for writer in writers] == [""] * WRITERS
            broker.end()
    finally:
        over.set()

    answered = {f"mem-{ident}": text for one in writers for ident, text in one.answered.items()}
    found = stored(site)
    assert {ident: found.get(ident) for ident in answered} == answered
    assert Counter(found.values()) == Counter(answered.values()), "none is there twice"
    assert sum(writer.again for writer in writers) >= 1, "requests were cut and sent again"
    assert len(answered) > KILLS * 8


@pytest.mark.parametrize("point", ["apply", "applied", "outcome", "reply"])
def test_a_namespace_that_is_deleted_is_emptied_whoever_dies(short_dir: Path, point: str) -> None:
    """It is gone at once; its memories go in parts, and a broker dies in one of them."""
    site = storm_site(short_dir)
    failpoints = fail_at_points(site)
    settle(site, ON)
    with Serving(site):
        wait_until((site.palace / "http.sock").exists, what="it serves")
        assert site.run("workspace", "add", "x").returncode == 0
        with ContractClient(str(site.palace / "http.sock")) as client:
            for name, many in (("team:large", LARGE), ("team:other", 1)):
                client.put(name)
                for number in range(many):
                    assert client.commit(name, f"{name} {number}").status == 201
            assert client.drop("team:large").status == 204
            assert client.found("team:large", "team:other") == ["team:other 0"]
        failpoints.arm((point, 3))  # the workspace's end and a part come before
        done = site.run("workspace", "remove", "x", "--purge", timeout_s=120)
        assert done.returncode == 0, done.stderr
        assert failpoints.left() == "", "it has died there"
        assert list(stored(site).values()) == ["team:other 0"]
    end_brokers(short_dir)
