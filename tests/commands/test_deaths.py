"""`palace deaths`: what is recorded, as people and programs read it, and nothing of ours."""

import json
from pathlib import Path

import pytest

from palace.canary.recording import record_death
from palace.canary.records import Owner, open_directory
from palace.commands.deaths import clear_deaths, print_deaths
from palace.kernel.kernel import Kernel
from palace.protocol.deaths import CAUSES, MEANINGS
from palace.settings.paths import Paths

KERNEL = Kernel()


def record(root: Path, *causes: str) -> None:
    directory = open_directory(str(root), KERNEL, make=True)
    for epoch, cause in enumerate(causes, 3):
        known = {"server_pid": "77", "cause": cause, "claimed": "crashed \x1b[2JValueError"}
        assert record_death(directory, Owner(epoch, f"{epoch:032x}"), known, KERNEL)
    directory.close()


def test_each_death_is_told_in_words_and_by_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, *CAUSES)

    assert print_deaths(Paths(str(tmp_path)), as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(CAUSES)
    for epoch, cause in enumerate(CAUSES, 3):
        line, file = lines[2 * (epoch - 3) :][:2]
        assert f"epoch {epoch}, pid 77: {MEANINGS[cause]} ({cause})" in line
        assert Path(file.strip()).is_file()


def test_programs_get_an_object_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, "oom", "swept")

    assert print_deaths(Paths(str(tmp_path)), as_json=True) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["epoch"], first["cause"], second["epoch"]) == (3, "oom", 4)
    assert first["claimed"] == "crashed \x1b[2JValueError"
    assert not {"ev", "number"} & first.keys()


def test_a_record_that_cannot_be_read_is_told_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, "oom")
    (tmp_path / "deaths" / f"4-{4:032x}.txt").write_bytes(b"\xff\x00\n" * 9)
    (tmp_path / "deaths" / f"5-{5:032x}.txt").write_text("time=\x1b[2J cause=\x1b[2J\n")

    print_deaths(Paths(str(tmp_path)), as_json=False)
    said = capsys.readouterr().out
    assert said.count("its record can't be read") == 2
    assert "\x1b" not in said


def test_clearing_leaves_the_marks_of_those_who_live(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = Paths(str(tmp_path))
    assert clear_deaths(paths) == 0
    print_deaths(paths, as_json=False)
    assert "has died" in capsys.readouterr().out
    record(tmp_path, "oom", "oom")
    mark = tmp_path / "deaths" / f"9-{9:032x}.armed"
    mark.touch()

    assert clear_deaths(paths) == 2
    assert list((tmp_path / "deaths").iterdir()) == [mark]
    assert not print_deaths(paths, as_json=True)
    assert capsys.readouterr().out == ""
