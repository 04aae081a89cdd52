"""What commands print: nothing that others chose controls a terminal or ends the command."""

import io
import os
import sys
import threading

import pytest

from palace.kernel import output

ESCAPES = "\x1b]0;OWNED\x07\x1b[31m\r\x9b2J\u202e\u2028\x00\x7f"


def shown(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    output.say(text)
    return capsys.readouterr().out.removesuffix("\n")


def test_control_characters_are_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(f"a{ESCAPES}b", capsys)

    assert text.isprintable()
    assert text.startswith(r"a\x1b]0;OWNED\x07\x1b[31m\r\x9b2J\u202e\u2028\x00\x7f")


def test_lines_and_tabs_of_our_own_stay_and_those_of_others_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert shown("one\n\ttwo\u00e9", capsys) == "one\n\ttwo\u00e9"
    assert output.one_line("one\n  FORGED 1\ttwo") == r"one\n  FORGED 1\ttwo"


def test_what_others_say_is_bounded() -> None:
    assert len(output.one_line("x" * 1_000_000)) < output.LINE_MAX + 10
    assert len(output.one_line("\x1b" * 1_000_000, 100)) < 1000


@pytest.mark.parametrize("text", ["\ud83d", "a\udcffb", "\U000e0001", "\x1b\ud800"])
def test_what_cannot_be_encoded_is_written_out(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert shown(text, capsys).isascii()


def test_a_terminal_of_another_encoding_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.say("caf\u00e9", flush=True)

    assert raw.getvalue() == b"caf\\xe9\n"


class Closed(io.StringIO):
    tries = 0

    def write(self, _text: str) -> int:
        self.tries += 1
        raise BrokenPipeError

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [Closed(), None])
def test_complaints_and_progress_fail_nobody(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    output.complain("x")
    output.redraw("x")

    if isinstance(stream, Closed):
        assert stream.tries >= 2


def test_progress_and_screens_control_the_terminal_by_themselves_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.redraw(f"{ESCAPES}\nx", width=4)
    line = capsys.readouterr().err
    assert line[0] == "\r"
    assert line[1:].isprintable()

    drawn = output.picture(f"a{ESCAPES}\nb", 200, 5)
    for own in ("\x1b[H", "\x1b[K", "\x1b[J"):
        drawn = drawn.replace(own, "")
    assert "\x1b" not in drawn


def test_what_has_no_room_at_once_is_left_out_and_nobody_waits_for_it() -> None:
    read, write = os.pipe()
    try:
        output.write_at_once(write, b"first\n")
        assert os.read(read, 100) == b"first\n"
        writing = threading.Thread(target=output.write_at_once, args=(write, b"x" * (1 << 20)))
        writing.start()
        writing.join(5)
        waited = writing.is_alive()
        taken = 0
        while writing.is_alive() or not taken:  # one that waits has to be helped out
            taken += len(os.read(read, 1 << 20))
        assert not waited
        assert 0 < taken < 1 << 20
        output.write_at_once(write, b"again\n")
        assert os.read(read, 1 << 20).endswith(b"again\n")
    finally:
        os.close(read)
    output.write_at_once(write, b"nobody reads it\n")
    os.close(write)
    output.write_at_once(write, b"it is closed\n")
