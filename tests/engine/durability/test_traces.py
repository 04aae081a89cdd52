"""What a text leaves in files is found in every spelling in which stores and journals have it."""

import base64
import json
import os
import sqlite3
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.engine.durability.traces import (
    CHUNK,
    PIECES_MAX,
    Traces,
    bounded,
    files_below,
    is_held,
    pieces_of,
)
from palace.kernel.kernel import Kernel

TEXT = (
    "The Gate of Élan's Überhaus opens with sk-live_9f8e7d6c5b4a, said Ann's uncle.\n\n"
    'He "never ever told\tanybody else about it" before\\after Tuesday.'
)


def traces_of(text: str) -> Traces:
    return Traces(tuple(bounded(pieces_of(text))))


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.upper().encode(),
        TEXT.lower().encode(),
        json.dumps({"a": TEXT}).encode(),
        json.dumps({"a": TEXT}, ensure_ascii=False).encode(),
        json.dumps([json.dumps({"a": TEXT})]).encode(),
    ],
    ids=["as it is", "upper", "lower", "escaped", "JSON", "JSON in JSON"],
)
def test_every_piece_is_found_in_each_spelling(data: bytes) -> None:
    traces = traces_of(TEXT)
    assert len(traces.pieces) > 5
    assert traces.held_by(data) == set(traces.pieces)


def test_an_entitys_id_is_recognized() -> None:
    ident = "Élan's Überhaus Opens With".lower().replace(" ", "_").replace("'", "")
    assert traces_of("Élan's Überhaus Opens With").in_bytes(ident.encode())


@pytest.mark.parametrize("text", ["", "a b", "Alice", "on Friday", "2026-01-31", "the the"])
def test_what_is_everywhere_is_no_piece(text: str) -> None:
    assert not traces_of(text)


def test_other_words_are_not_taken_for_it() -> None:
    assert (
        traces_of(TEXT).held_by(b"The gate of the house opens with sk-live_other, said Ann")
        == set()
    )


def test_a_vector_is_found_as_the_journal_and_as_chroma_have_it() -> None:
    raw = struct.pack("<6f", 3.0, 4.0, 0, 0, 0, 0)
    traces = Traces((), (base64.b64encode(raw).decode(),))
    assert traces.in_bytes(b"x" + raw)
    assert traces.in_bytes(b"xyz" + struct.pack("<6f", 0.6, 0.8, 0, 0, 0, 0))
    assert traces.in_bytes(json.dumps({"vector": base64.b64encode(raw).decode()}).encode())
    assert not traces.in_bytes(struct.pack("<6f", 4.0, 3.0, 0, 0, 0, 0))


def test_a_long_text_is_looked_for_at_regular_distances() -> None:
    words = " ".join(f"word{n}and{n * n}" for n in range(5000))
    traces = traces_of(words)
    assert len(traces.pieces) <= PIECES_MAX
    half = words[len(words) // 2 :]
    assert traces.in_bytes(half.encode())


@settings(max_examples=60, deadline=None)
@given(before=st.binary(max_size=40), after=st.binary(max_size=40), text=st.text(max_size=200))
def test_a_text_is_found_wherever_it_stands(before: bytes, after: bytes, text: str) -> None:
    traces = traces_of(text)
    data = before + text.encode("utf-8", "surrogatepass") + after
    assert traces.held_by(data) >= set(traces.pieces)


def test_a_piece_that_lies_on_the_border_of_two_parts_of_a_file_is_found(tmp_path: Path) -> None:
    path, word = tmp_path / "file", b"sk-live_9f8e7d6c5b4a"
    for shift in (0, 1, len(word) - 1, len(word)):
        path.write_bytes(bytes(CHUNK - shift) + word)
        assert is_held(str(path), traces_of(word.decode()))
    path.write_bytes(bytes(CHUNK) + word[:-1])
    assert not is_held(str(path), traces_of(word.decode()))


def test_pages_that_sqlite_has_freed_are_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("CREATE TABLE t (text)")
        connection.execute("INSERT INTO t VALUES (?)", [TEXT])
        connection.commit()
        connection.execute("DELETE FROM t")
    connection.close()
    assert is_held(str(path), traces_of(TEXT))


def test_links_and_odd_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    (tmp_path / "link").symlink_to("in")
    os.mkfifo(tmp_path / "fifo")
    assert list(files_below(str(tmp_path), Kernel())) == [f"{tmp_path}/in/file"]
