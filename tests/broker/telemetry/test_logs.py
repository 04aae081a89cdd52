"""The broker's log: one form, bounded files, and no text that could quote a memory."""

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from palace.broker.telemetry.logs import (
    REPEATS_MAX,
    REPEATS_S,
    TEXT_CHARS_MAX,
    BoundedHandler,
    LineFormatter,
    Repeats,
)
from palace.commands import logs
from palace.kernel.kernel import Kernel
from palace.kernel.logline import log_line
from palace.protocol.errors import ConfigError, JournalFailed
from palace.settings.paths import Paths
from tests.support.brokers.loglines import fields_of

NONCE = "nonce-of-a-memory"

WRITER = """
import logging, sys
from palace.broker.telemetry import log_file, logs
from palace.kernel.kernel import Kernel
from palace.kernel.logline import log_line

path, first, count, bytes_max = sys.argv[1], *map(int, sys.argv[2:])
log_file.open_log(path, bytes_max)
logs.set_up_logging("debug", Kernel(), path=path)
logging.getLogger().handlers[0]._bytes_max = bytes_max
for number in range(first, first + count):
    logging.getLogger("palace.test").info("number %d", number)
print("nonce-of-a-memory")
print("nonce-of-a-memory", file=sys.stderr)
"""


def write(path: Path, first: int, count: int, bytes_max: int) -> None:
    argv = [sys.executable, "-c", WRITER, str(path), str(first), str(count), str(bytes_max)]
    subprocess.run(argv, check=True)


def formatted(name: str, text: str, *args: object, error: BaseException | None = None) -> str:
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.ERROR, "place.py", 7, text, args, exc_info)
    return LineFormatter(42).format(record)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_a_line_has_its_fields_in_order_and_can_be_read_back() -> None:
    line = formatted("palace.test", 'it "broke"\nat %s', "a=b")

    fields = fields_of(line)
    assert "\n" not in line
    assert list(fields) == ["time", "level", "logger", "pid", "text"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields["time"])
    assert (fields["level"], fields["logger"], fields["pid"]) == ("error", "palace.test", "42")
    assert fields["text"] == 'it "broke"\nat a=b'


@pytest.mark.parametrize(
    "value", ["plain", "a b", 'q"', "a=b", "back\\slash", "ü", "\x1b[31m", "\n"]
)
def test_every_value_can_be_read_back_and_moves_no_cursor(value: str) -> None:
    line = log_line({"a": value, "b": "x"})

    assert fields_of(line) == {"a": value, "b": "x"}
    assert line.isprintable()


@pytest.mark.parametrize("error", [ValueError(NONCE), KeyError(NONCE), UnicodeError(NONCE)])
def test_an_exception_is_told_by_kind_and_place_and_not_by_what_it_quotes(
    error: Exception,
) -> None:
    caught = raised(error)
    lines = [
        formatted("palace.test", "it failed", error=caught),
        formatted("palace.test", "it failed: %s", caught),
        formatted("palace.test", "%r failed", caught),
    ]

    assert not [line for line in lines if NONCE in line]
    assert all(type(error).__name__ in line for line in lines)
    assert all("test_logs.py" in line for line in lines)


def test_our_own_and_the_kernels_errors_are_told_with_their_texts() -> None:
    ours = formatted("palace.test", "no: %s", raised(JournalFailed("Free some space.")))
    kernels = formatted("palace.test", "no", error=raised(OSError(28, "No space left on device")))

    assert "Free some space." in ours
    assert "No space left on device" in kernels


def test_what_others_log_is_told_by_its_template() -> None:
    with_arguments = formatted("mempalace_mcp", "search for %s took %d ms", NONCE, 7)
    without = formatted("chromadb.x", f"search for {NONCE} failed")

    assert fields_of(with_arguments)["text"] == "search for %s took %d ms"
    assert NONCE not in without
    assert "(place:7)" in without


def test_files_are_bounded_and_lose_only_what_is_oldest(tmp_path: Path) -> None:
    path = tmp_path / "broker.log"

    write(path, 0, 500, 8192)

    assert {entry.name for entry in tmp_path.iterdir()} == {"broker.log", "broker.log.1"}
    texts = [(tmp_path / name).read_text() for name in ("broker.log.1", "broker.log")]
    assert all(len(text) <= 8192 + 200 for text in texts)
    lines = [fields_of(line)["text"] for text in texts for line in text.splitlines()]
    numbers = [int(text.split()[1]) for text in lines if text.startswith("number ")]
    assert numbers == list(range(numbers[0], 500))


def test_what_is_printed_is_counted_and_not_quoted(tmp_path: Path) -> None:
    write(tmp_path / "broker.log", 0, 1, 8192)

    text = (tmp_path / "broker.log").read_text()
    assert f"{len(NONCE)} characters to stdout" in text
    assert f"{len(NONCE)} characters to stderr" in text
    assert NONCE not in text


# palace logs


def stamped(minute: int, text: str) -> str:
    return log_line({"time": f"2026-01-01T00:{minute:02d}:00.000Z", "text": text}) + "\n"


def shown(root: Path, capsys: pytest.CaptureFixture[str], *, since: str = "", last: int = 0) -> str:
    assert logs.print_logs(Paths(str(root)), since=since, last=last, follow=False) == 0
    return capsys.readouterr().out


def test_both_files_are_shown_from_a_time_on_with_the_lines_that_belong_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broker.log.1").write_text(stamped(1, "one") + "Fatal: at one\n")
    (tmp_path / "broker.log").write_text(
        stamped(2, "two") + "Fatal: at two\n" + stamped(3, "three")
    )

    everything = shown(tmp_path, capsys)
    assert [word for word in ("one", "two", "three") if word in everything] == [
        *("one", "two", "three"),
    ]
    later = shown(tmp_path, capsys, since="2026-01-01T00:02")
    assert "one" not in later
    assert later.count("\n") == 3
    assert shown(tmp_path, capsys, last=1) == stamped(3, "three")
    assert shown(tmp_path, capsys, since="2026-01-01T00:59") == ""


def test_a_span_is_counted_from_now_and_nonsense_is_refused() -> None:
    now = datetime(2026, 1, 2, 0, 0, 0, tzinfo=UTC)

    assert logs.since_text("90s", now) == "2026-01-01T23:58:30"
    assert logs.since_text("2h", now) == "2026-01-01T22:00:00"
    assert logs.since_text("2026-01-01T12:00+02:00") == "2026-01-01T10:00:00"
    with pytest.raises(ConfigError, match="neither a span"):
        logs.since_text("yesterday")


def test_a_palace_without_a_log_is_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert logs.print_logs(Paths(str(tmp_path)), since="", last=0, follow=False) == 66
    assert "no broker has run" in capsys.readouterr().err


def test_following_misses_nothing_across_rotations(tmp_path: Path) -> None:
    path = tmp_path / "broker.log"
    argv = [sys.executable, "-P", "-m", "palace", "logs", "-f", "--palace", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        given_up = threading.Timer(30, following.kill)  # where a line is missing, none ever comes
        given_up.start()
        numbers: list[int] = []
        for first in range(0, 80, 20):
            size = path.stat().st_size if path.exists() else 0
            write(path, first, 20, size + 1100)  # begun again once, in the middle
            while not numbers or numbers[-1] < first + 19:
                text = fields_of(following.stdout.readline())["text"]
                if text.startswith("number "):
                    numbers.append(int(text.split()[1]))
        given_up.cancel()
        following.kill()

    assert numbers == list(range(80))
    assert (tmp_path / "broker.log.1").exists()


class Unspeakable:
    """What can't be turned into text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@contextmanager
def handling(path: Path) -> Iterator[BoundedHandler]:
    """Let standard error be a file while the block lasts, and yield a handler that writes there."""
    saved = os.dup(2)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(fd, 2)
    os.close(fd)
    handler = BoundedHandler(Kernel(), "")
    handler.setFormatter(LineFormatter(1))
    try:
        yield handler
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def record(
    text: str, *args: object, line: int = 1, level: int = logging.ERROR
) -> logging.LogRecord:
    return logging.LogRecord("palace.http", level, "http.py", line, text, args, None)


def test_a_line_that_cannot_be_made_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with handling(path) as handler:
        for number, broken in enumerate((("%d", "x"), ("%s", Unspeakable()), ("%s %s", 1))):
            handler.emit(record(str(broken[0]), *broken[1:], line=number))
        handler.emit(record("lone \ud83d and \x1b[2J", line=9))

    text = path.read_bytes().decode()
    assert "lone" in text
    assert text.replace("\n", "").isprintable()


def test_strangers_do_not_roll_the_log_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with handling(path) as handler:
        for _ in range(5000):
            handler.emit(record("Error in ASGI Framework"))
        handler.emit(record("something else", line=2))
        handler.emit(record("told each time", line=1, level=logging.INFO))

    lines = path.read_text().splitlines()
    assert len(lines) == REPEATS_MAX + 2
    assert "something else" in lines[-2]


def test_what_was_left_out_is_counted_once_the_time_is_over() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    told = [repeats.left_out(record("x")) for _ in range(REPEATS_MAX + 7)]
    now[0] = REPEATS_S

    assert told == [0] * REPEATS_MAX + [None] * 7
    assert repeats.left_out(record("x")) == 7
    assert repeats.left_out(record("x")) == 0


def test_every_value_of_a_line_is_bounded() -> None:
    line = LineFormatter(1).format(record("%s", "x" * 100_000))

    assert len(line) < 2 * TEXT_CHARS_MAX
