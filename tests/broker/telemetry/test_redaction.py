"""What of an exception is told: its kind and place, and no text that may quote a memory."""

import pytest

from palace.broker.telemetry.redaction import FRAMES_MAX, origin, redacted
from palace.protocol.errors import Busy, WireError

SECRET = "the secret of the sea"


def raised(error: BaseException, depth: int = 0) -> BaseException:
    def deeper(left: int) -> None:
        if left:
            deeper(left - 1)
        raise error

    with pytest.raises(type(error)) as caught:
        deeper(depth)
    return caught.value


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Busy("Ask again."), "Busy: Ask again."),
        (OSError(28, "No space left on device", f"/{SECRET}"), "OSError: No space left on device"),
    ],
)
def test_our_own_text_and_the_kernels_are_told(error: BaseException, said: str) -> None:
    assert redacted(raised(error)) == said


@pytest.mark.parametrize("error", [ValueError(SECRET), WireError(SECRET), OSError(SECRET)])
def test_of_all_others_only_kind_and_place_are(error: BaseException) -> None:
    said = redacted(raised(error))

    assert SECRET not in said
    assert said.startswith(f"{type(error).__name__} at test_redaction.py:")
    assert said.endswith(" deeper")


def test_the_innermost_frames_come_first_and_only_so_many() -> None:
    places = origin(raised(ValueError(), 20)).removeprefix("at ").split(" < ")

    assert len(places) == FRAMES_MAX
    assert all(place.endswith(" deeper") for place in places)
    last = origin(raised(ValueError(), 1)).split(" < ")
    assert last[0].startswith("at test_redaction.py:")
    assert last[-1].endswith(" raised")


def test_what_was_never_raised_has_no_place() -> None:
    assert origin(ValueError()) == ""
    assert redacted(ValueError(SECRET)) == "ValueError"
