"""A palace of another backend: what needs a journal of today's memories refuses it by name."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from palace.commands.backup import make_backup
from palace.commands.maintenance import compact_journal, rebuild_palace
from palace.commands.purge import purge_memories
from palace.doctor.examine import examine_palace
from palace.journal.journal import Journal
from palace.journal.record import PUT, Draft, Stamp
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

Act = Callable[[Paths, ShimEnvironment], object]
ACTS: dict[str, Act] = {
    "backup": lambda paths, env: make_backup(paths, env.all, f"{paths.root}-backups"),
    "rebuild": lambda paths, env: rebuild_palace(paths, env, stop=False, allow_gaps=False),
    "purge": lambda paths, env: purge_memories(paths, env, ["a"], stop=False),
    "compact": lambda paths, env: compact_journal(paths, env, stop=False),
    "drift": lambda paths, env: examine_palace(paths, env, drift=True),
}


@pytest.fixture
def palace(tmp_path: Path) -> Path:
    """A palace with a journal of Chroma's time."""
    (tmp_path / ".mempalace").mkdir()
    root = tmp_path / "palace"
    root.mkdir(mode=0o700)
    (root / "palace_id").write_text("0" * 32 + "\n")
    journal = Journal.open(f"{root}/journal", Kernel(), Stamp(epoch=1, writer="w"))
    journal.append([Draft(action=PUT, kind="drawer", id="a", payload={"document": "old"})])
    journal.close()
    return root


def named_in_config(palace: Path, _environ: dict[str, str]) -> None:
    (palace.parent / ".mempalace" / "config.json").write_text('{"backend": "qdrant"}')


def named_by_variable(_palace: Path, environ: dict[str, str]) -> None:
    environ["MEMPALACE_BACKEND"] = " Qdrant"


def found_by_its_file(palace: Path, _environ: dict[str, str]) -> None:
    (palace / "qdrant_backend.json").write_text("{}")


@pytest.mark.parametrize("said", [named_in_config, named_by_variable, found_by_its_file])
@pytest.mark.parametrize("act", ACTS)
def test_it_is_refused_with_the_backends_name_and_nothing_is_changed(
    palace: Path, act: str, said: Callable[[Path, dict[str, str]], None]
) -> None:
    environ = {"HOME": str(palace.parent), "PATH": os.environ["PATH"]}
    said(palace, environ)
    before = sorted(palace.rglob("*"))

    with pytest.raises(ConfigError, match="in the backend qdrant") as refused:
        ACTS[act](Paths(str(palace)), ShimEnvironment(environ))

    assert "Nothing was changed" in refused.value.message
    assert "palace stop --hold" in refused.value.message
    assert sorted(palace.rglob("*")) == before
    assert json.dumps(refused.value.error_object())
