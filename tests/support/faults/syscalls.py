"""Brokers that die, or meet an error, at the n-th system call that touches their palace."""

import itertools
import os
import signal
import subprocess
from pathlib import Path

from tests.support.faults.signals import BROKER, DIRECT, victims_of
from tests.support.loads.light import ClientHistory, problems_of, storm_site
from tests.support.processes.brokers import code_of, text_of, wait_gone
from tests.support.processes.clients import end_brokers
from tests.support.processes.sites import start_shim

SOURCE = Path(__file__).with_name("syscalls.c")
KILLED = 0  # in the place of an errno
NOWHERE = 0  # in the place of a number: the calls are only counted


def build(directory: Path) -> Path:
    """Compile what is preloaded."""
    library = directory / "steps.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run(["cc", *options, "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Stage:
    """A light palace, one client, and brokers of whom one can be marked; close it."""

    def __init__(self, root: Path, library: Path) -> None:
        self.site = storm_site(root)
        self._armed, self._log = root / "armed", root / "steps"
        self.site.extra |= {
            "LD_PRELOAD": str(library),
            "STEPSROOT": str(self.site.palace),
            "STEPSARMED": str(self._armed),
            "STEPSLOG": str(self._log),
        }
        self._nonces = (f"n0x{number}z" for number in itertools.count())
        self.told = ClientHistory(0)
        self.refusals: list[str] = []
        self._words = (root / "shim.log").open("wb")
        self.client = start_shim(
            self.site.environ(), f"--palace={self.site.palace}", stderr=self._words
        )

    def live(self, number: int, failure: int = KILLED) -> list[str]:
        """Let an owner come, serve a change and leave, with something at its n-th step.

        Returns the steps that it took.  Whoever dies, the change must be made: where it is the
        owner on its way out, the next life shows what it left.  With an error the change may be
        refused; the next one must be made.
        """
        self._log.write_text("")
        self._armed.write_text(f"{number} {failure}")
        self._change(may_fail=failure != KILLED)
        self.leave()
        steps = self._log.read_text().splitlines()
        self._armed.unlink(missing_ok=True)
        if failure != KILLED:
            self._change(may_fail=False)
            self.leave()
        return steps

    def leave(self) -> None:
        """Tell owners to leave; not all of them get to their end."""
        found = victims_of(self.site.palace)
        for pid in found[BROKER] + found[DIRECT]:
            os.kill(pid, signal.SIGTERM)
            wait_gone(pid)

    def _change(self, *, may_fail: bool) -> None:
        nonce = next(self._nonces)
        reply = self.client.call("mempalace_add_drawer", who=self.told.who, nonce=nonce, parts=2)
        if "error" in reply and may_fail:
            self.told.refused[nonce] = code_of(reply)
            self.refusals.append(reply["error"]["message"])
            return
        assert "result" in reply, (nonce, reply)
        answer = text_of(reply)
        if may_fail and not answer["success"]:
            self.told.torn.add(nonce)
            self.refusals.append(answer["error"])
            return
        assert answer["success"], (nonce, answer)
        self.told.drawers.add(nonce)

    def close(self) -> None:
        self.client.close()
        self._words.close()
        end_brokers(self.site.palace)

    def problems(self) -> list[str]:
        """Return what is wrong once everybody has left."""
        asked = self.client.call("mempalace_get_drawer", who=self.told.who, nonce="")
        found = []
        if text_of(asked)["count"] < len(self.told.drawers):
            found.append(f"{asked} of {len(self.told.drawers)}")
        self.leave()
        return found + problems_of(self.site, [self.told])
