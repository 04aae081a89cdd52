"""What situations have in common: a place, how it is brought about, and how it is put right."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import attrs

from palace.doctor.examine import examine_palace
from palace.doctor.finding import Finding
from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

KERNEL = Kernel()


@attrs.define(kw_only=True)
class Place:
    """A home with a palace in it, and the environment that the doctor is asked from.

    What a situation has begun and not ended goes on `after`.
    """

    home: Path
    environ: dict[str, str]
    found_by: str = "--palace"
    after: ExitStack = attrs.field(factory=ExitStack)

    @property
    def palace(self) -> Path:
        return self.home / "palace"

    @property
    def paths(self) -> Paths:
        return Paths(str(self.palace), found_by=self.found_by)

    @property
    def config(self) -> Path:
        return self.home / ".mempalace" / "config.json"

    def configure(self, **settings: object) -> None:
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(json.dumps(settings))

    def findings(self) -> list[Finding]:
        return examine_palace(self.paths, ShimEnvironment(self.environ))

    def start(self, argv: list[str], **environ: str) -> "subprocess.Popen[bytes]":
        """Start a process, which says a line when it is ready; `after` ends it at the latest."""
        environ = dict(os.environ) | self.environ | environ
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environ)
        self.after.callback(process.wait)
        self.after.callback(process.kill)
        assert process.stdout is not None
        self.after.callback(process.stdout.close)
        process.stdout.readline()
        return process


@attrs.frozen(kw_only=True)
class Situation:
    """`heal` does what `remedy` says; None: the doctor's own --fix does it."""

    arrange: Callable[[Place], None]
    code: str
    level: str
    text: str
    remedy: str
    heal: Callable[[Place], None] | None
