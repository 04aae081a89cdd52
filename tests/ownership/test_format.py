"""Which palace has served a directory last: what is written is read, a younger one obeyed."""

from pathlib import Path

import pytest

from palace import __version__
from palace.kernel.kernel import Kernel
from palace.ownership.format import (
    NEWEST,
    PLAIN,
    WITH_REGISTER,
    Served,
    decode_served,
    keep_format,
    need_register,
    read_format,
)
from palace.protocol import wire
from palace.protocol.errors import LockFailed, VersionMismatch
from palace.settings.paths import Paths

KERNEL = Kernel()


@pytest.fixture
def palace(tmp_path: Path) -> Paths:
    return Paths(str(tmp_path))


def said(served: Served) -> tuple[int, int, str]:
    return served.protocol, served.format, served.by


def test_what_is_written_is_read() -> None:
    served = decode_served(Served(wire.VERSION, WITH_REGISTER).encode())

    assert said(served) == (wire.VERSION, WITH_REGISTER, __version__)
    assert not served.is_too_new


def test_a_file_of_a_version_that_wrote_a_protocol_alone_is_read() -> None:
    assert said(decode_served(b"1\n")) == (1, PLAIN, "")
    assert decode_served(b"1 \xff\n").by == "\ufffd"


@pytest.mark.parametrize("data", [b"", b" \n", b"x", b"-1", b"1.0", b"9" * 5000])
def test_a_file_that_says_nothing_is_named_with_its_remedy(palace: Paths, data: bytes) -> None:
    Path(palace.protocol).write_bytes(data)

    for ask in (read_format, keep_format, need_register):
        with pytest.raises(LockFailed, match="remove it if no newer palace") as caught:
            ask(palace, KERNEL)
        assert palace.protocol in str(caught.value)
    assert Path(palace.protocol).read_bytes() == data


def test_a_new_palace_is_noted_once(palace: Paths) -> None:
    assert said(read_format(palace, KERNEL)) == (0, PLAIN, "")
    keep_format(palace, KERNEL)
    assert said(read_format(palace, KERNEL)) == (wire.VERSION, PLAIN, __version__)
    before = Path(palace.protocol).stat().st_ino
    keep_format(palace, KERNEL)
    assert Path(palace.protocol).stat().st_ino == before


def test_older_versions_are_kept_away_once_there_is_a_register(palace: Paths) -> None:
    keep_format(palace, KERNEL)
    need_register(palace, KERNEL)
    assert said(read_format(palace, KERNEL)) == (wire.VERSION, WITH_REGISTER, __version__)
    before = Path(palace.protocol).stat().st_ino
    need_register(palace, KERNEL)
    keep_format(palace, KERNEL)
    assert Path(palace.protocol).stat().st_ino == before


@pytest.mark.parametrize("younger", [(wire.VERSION + 1, PLAIN), (wire.VERSION, NEWEST + 1)])
def test_a_younger_palace_is_obeyed(palace: Paths, younger: tuple[int, int]) -> None:
    protocol, number = younger
    Path(palace.protocol).write_bytes(Served(protocol, number).encode())
    before = Path(palace.protocol).read_bytes()

    with pytest.raises(VersionMismatch, match="younger palace") as caught:
        keep_format(palace, KERNEL)

    what = f"protocol {protocol}" if protocol > wire.VERSION else f"format {number}"
    assert what in str(caught.value)
    assert palace.protocol in str(caught.value)
    assert Path(palace.protocol).read_bytes() == before


def test_a_register_takes_no_younger_protocol_back(palace: Paths) -> None:
    Path(palace.protocol).write_bytes(Served(wire.VERSION + 1, PLAIN).encode())

    need_register(palace, KERNEL)

    assert read_format(palace, KERNEL).protocol == wire.VERSION + 1
