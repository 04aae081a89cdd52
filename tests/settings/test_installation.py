"""The command that changes an installation is that of whoever made it."""

import sys
from pathlib import Path

import pytest

from palace.engine import versions
from palace.protocol.errors import StoreUnavailable
from palace.settings.installation import OURS, WITH_ENGINE, command_for

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
ENGINE = "mempalace==3.11.*"


def made_by(prefix: Path, *names: str) -> str:
    for name in names:
        path = prefix / name
        if name.endswith("pip"):
            path.mkdir(parents=True)
        else:
            path.write_text("")
    return str(prefix)


@pytest.mark.parametrize(
    ("names", "engine", "newest", "whole"),
    [
        (
            ("pipx_metadata.json",),
            f"pipx inject --force palace-broker '{ENGINE}'",
            "pipx upgrade palace-broker",
            "pipx install --force 'palace-broker[engine]'",
        ),
        (
            ("uv-receipt.toml",),
            f"uv tool install --force 'palace-broker[engine]' --with '{ENGINE}'",
            "uv tool upgrade palace-broker",
            "uv tool install --force 'palace-broker[engine]'",
        ),
        (
            (f"lib/{PYTHON}/site-packages/pip",),
            f"PREFIX/bin/python -m pip install '{ENGINE}'",
            "PREFIX/bin/python -m pip install --upgrade palace-broker",
            "PREFIX/bin/python -m pip install 'palace-broker[engine]'",
        ),
        (
            (),
            f"uv pip install --python PREFIX/bin/python '{ENGINE}'",
            "uv pip install --python PREFIX/bin/python --upgrade palace-broker",
            "uv pip install --python PREFIX/bin/python 'palace-broker[engine]'",
        ),
    ],
)
def test_each_kind_has_its_own_command(
    tmp_path: Path, names: tuple[str, ...], engine: str, newest: str, whole: str
) -> None:
    prefix = made_by(tmp_path, *names)
    said = [
        command_for(wanted, prefix=prefix, base_prefix="/usr").replace(prefix, "PREFIX")
        for wanted in (ENGINE, "", WITH_ENGINE)
    ]

    assert said == [engine, newest, whole]


def test_a_system_python_is_named_as_it_runs(tmp_path: Path) -> None:
    prefix = str(tmp_path)

    said = command_for(OURS, prefix=prefix, base_prefix=prefix)
    assert said == f"{sys.executable} -m pip install 'palace-broker'"


def test_an_engine_of_another_line_is_answered_with_this_installations_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", made_by(tmp_path, "pipx_metadata.json"))
    for version, words in (
        ("3.12.0", f"pipx inject --force palace-broker '{ENGINE}'"),
        ("", "pipx install --force 'palace-broker[engine]'"),
    ):
        found = {"mempalace": version, "chromadb": "1.5"}
        monkeypatch.setattr(
            versions, "installed_version", lambda name="mempalace", found=found: found[name]
        )
        with pytest.raises(StoreUnavailable) as refused:
            versions.check_installed()
        assert words in refused.value.message
