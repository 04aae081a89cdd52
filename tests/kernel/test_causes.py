"""What is said of what the kernel refused: its file, its word for it, and what helps."""

import errno
import os

import pytest

from palace.kernel.causes import cause_text, remedy_for


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, f"uid {os.geteuid()}"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOENT, "not mounted"),
    ],
)
def test_each_cause_has_a_remedy_of_its_own(number: int, words: str) -> None:
    text = cause_text(OSError(number, os.strerror(number), "/p/x"))

    assert text.startswith(f"/p/x: {os.strerror(number)}. ")
    assert words in text
    assert ("space" in text) == (number == errno.ENOSPC), "space is named where it is the cause"


def test_where_nobody_knows_what_helps_nothing_is_advised() -> None:
    assert cause_text(OSError(errno.EXDEV, "Invalid cross-device link")) == (
        "Invalid cross-device link."
    )
    assert remedy_for(OSError("no number")) == ""
