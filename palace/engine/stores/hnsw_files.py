"""One index on disk, as chromadb's HNSW library writes it: read, and checked without opening it.

Chroma takes these files for what they are.  One that is cut short is opened with less in it, and a
link that points nowhere ends the process in native code, so they are checked before it sees them.

    header.bin           100 bytes: counts and the layout of what follows
    data_level0.bin      a row for each element: links, vector, label
    link_lists.bin       for each element a length, and so many bytes of links on upper levels
    length.bin           four bytes for each element
    index_metadata.pickle  which record has which label

Nothing is here before the first flush; until then the records wait in Chroma's queue.
"""

import os
import pickle
import struct
from typing import TYPE_CHECKING, Any, cast

import attrs

from palace.kernel.odd_files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.uint8]  # the elements of data_level0.bin, a row each

METADATA = "index_metadata.pickle"
DEEP_BYTES = 64 << 20  # a larger index is checked element by element only where no call waits
_HEADER = struct.Struct("=iQQQQQQiIQQQdQ")
_KNOWN_VERSION = 1
_LENGTH = struct.Struct("<I")
_DELETED = 1  # in the third byte of an element
_UNIT_SHARE = 0.9  # of the vectors have the length 1: then all of them must (cosine)
_UNIT_TOLERANCE = 1e-3


class IndexDamaged(Exception):
    """An index isn't whole; the text says what is wrong with which file."""


@attrs.frozen
class Header:
    """`header.bin`; sizes and offsets in bytes."""

    version: int
    level0_offset: int
    elements_max: int
    elements: int
    element_bytes: int
    label_offset: int
    vector_offset: int
    level_max: int
    entry_point: int
    links_max: int
    links_max_level0: int
    links_wanted: int
    level_factor: float
    construction_effort: int


class _Labels(pickle.Unpickler):
    """Reads what Chroma pickles, plain dicts, and makes nothing else of it."""

    def find_class(self, _module: str, _name: str) -> type:
        return _Attributes


class _Attributes(dict[str, object]):
    """Stands for the class that older versions of Chroma pickled."""

    def __init__(self, *_given: object) -> None:
        super().__init__()

    def __setstate__(self, state: dict[str, object]) -> None:
        self.update(state)


def labels_of(directory: str) -> dict[str, int] | None:
    """Return which label each record has, None before the first flush; raises IndexDamaged."""
    path = f"{directory}/{METADATA}"
    try:
        with open_regular(path) as file:
            found = _Labels(file).load()
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever bytes make a pickle raise
        raise IndexDamaged(f"{path} can't be read: {type(error).__name__}") from None
    labels = found.get("id_to_label") if isinstance(found, dict) else None
    if not isinstance(labels, dict):
        raise IndexDamaged(f"{path} names no records")
    return cast("dict[str, int]", labels)


def check_files(directory: str, labels: dict[str, int], *, deep: bool) -> None:
    """Raise IndexDamaged where the files can't hold these records.

    Every element is looked at if `deep` or if the index is small.
    """
    header = _header(directory)
    if header is None:
        return
    data = f"{directory}/data_level0.bin"
    if header.elements < len(labels):
        raise IndexDamaged(
            f"{directory}/header.bin speaks of {header.elements} elements, where {len(labels)} "
            "records have one"
        )
    _check_layout(directory, header)
    _check_size(data, header.elements * header.element_bytes)
    _check_size(f"{directory}/length.bin", header.elements * 4)
    if header.elements and (deep or header.elements * header.element_bytes <= DEEP_BYTES):
        _check_elements(data, header, set(labels.values()))
        _check_upper_levels(f"{directory}/link_lists.bin", header)


def vectors_of(directory: str, labels: dict[str, int]) -> "Iterator[tuple[str, npt.NDArray[Any]]]":
    """Yield records with the vectors that these files, which are whole, hold for them."""
    header = _header(directory)
    if header is None or not header.elements:
        return
    rows = _elements(f"{directory}/data_level0.bin", header)
    own = _column(rows, header.label_offset, header.element_bytes, "<u8")[:, 0].tolist()
    places = {label: place for place, label in enumerate(own) if not rows[place, 2] & _DELETED}
    for record, label in labels.items():
        if label in places:
            place = places[label]
            part = rows[place : place + 1]
            yield record, _column(part, header.vector_offset, header.label_offset, "<f4")[0]


def _header(directory: str) -> Header | None:
    """Return the header, None if it is of another version; raises IndexDamaged."""
    path = f"{directory}/header.bin"
    try:
        with open_regular(path) as file:
            data = file.read(_HEADER.size)
    except FileNotFoundError:
        raise IndexDamaged(f"{path} is gone") from None
    except OSError as error:
        raise IndexDamaged(f"{path} can't be read: {error.strerror}") from None
    if len(data) < _HEADER.size:
        raise IndexDamaged(f"{path} is cut short")
    header = Header(*_HEADER.unpack(data))
    if header.version == 0:
        raise IndexDamaged(f"{path} was overwritten")
    return header if header.version == _KNOWN_VERSION else None


def _check_layout(directory: str, header: Header) -> None:
    vector_bytes = header.label_offset - header.vector_offset
    fits = (
        header.elements <= header.elements_max
        and header.vector_offset == 4 + 4 * header.links_max_level0
        and header.element_bytes == header.label_offset + 8
        and vector_bytes > 0
        and vector_bytes % 4 == 0
        and (not header.elements or header.entry_point < header.elements)
    )
    if not fits:
        raise IndexDamaged(f"{directory}/header.bin contradicts itself")


def _check_size(path: str, size_min: int) -> None:
    try:
        size = os.path.getsize(path)
    except FileNotFoundError:
        raise IndexDamaged(f"{path} is gone") from None
    if size < size_min:
        raise IndexDamaged(f"{path} has {size} bytes, and should have {size_min} at least")


def _check_elements(path: str, header: Header, labels: set[int]) -> None:
    import numpy as np

    rows = _elements(path, header)
    counts = _column(rows, 0, 2, "<u2")[:, 0]
    links = _column(rows, 4, header.vector_offset, "<u4")
    used = np.arange(header.links_max_level0)[None, :] < counts[:, None]
    if counts.max() > header.links_max_level0 or (links[used] >= header.elements).any():
        raise IndexDamaged(f"{path} links to elements that it doesn't hold")
    if len(counts) > 1 and not counts.all():
        raise IndexDamaged(f"{path} has elements that lead nowhere")
    live = _column(rows, header.label_offset, header.element_bytes, "<u8")[:, 0]
    live = live[rows[:, 2] & _DELETED == 0]
    if not labels <= set(live.tolist()):
        raise IndexDamaged(f"{path} lacks elements of records")
    _check_vectors(path, _column(rows, header.vector_offset, header.label_offset, "<f4"))


def _elements(path: str, header: Header) -> "Rows":
    import numpy as np

    size = header.elements * header.element_bytes
    with open_regular(path) as file:
        rows: Rows = np.memmap(file, np.uint8, "r")[:size]
    return rows.reshape(header.elements, header.element_bytes)


def _column(rows: "Rows", start: int, end: int, kind: str) -> "npt.NDArray[Any]":
    found: npt.NDArray[Any] = rows[:, start:end].copy().view(kind)
    return found


def _check_vectors(path: str, vectors: "npt.NDArray[Any]") -> None:
    import numpy as np

    with np.errstate(all="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
        # A text without a meaning may have no direction either.
        are_unit = (np.abs(squares - 1.0) < _UNIT_TOLERANCE) | (squares == 0.0)
    if not np.isfinite(squares).all():
        raise IndexDamaged(f"{path} holds vectors that are no numbers")
    if not are_unit.all() and are_unit.mean() >= _UNIT_SHARE:
        raise IndexDamaged(f"{path} holds {int((~are_unit).sum())} vectors that were changed")


def _check_upper_levels(path: str, header: Header) -> None:
    """Walk through the lists of all elements, which must end where the file does."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except FileNotFoundError:
        raise IndexDamaged(f"{path} is gone") from None
    except OSError as error:
        raise IndexDamaged(f"{path} can't be read: {error.strerror}") from None
    level_bytes = 4 + 4 * header.links_max
    place = 0
    try:
        for _ in range(header.elements):
            (size,) = _LENGTH.unpack_from(data, place)
            place += _LENGTH.size
            for start in range(place, place + size, level_bytes):
                _check_level(data, start, header)
            if size % level_bytes or size > level_bytes * header.level_max:
                raise IndexDamaged(f"{path} was overwritten")
            place += size
    except struct.error:
        raise IndexDamaged(f"{path} is cut short") from None
    except ValueError:
        raise IndexDamaged(f"{path} links to elements that it doesn't hold") from None
    if place > len(data):
        raise IndexDamaged(f"{path} is cut short")


def _check_level(data: bytes, start: int, header: Header) -> None:
    (count,) = struct.unpack_from("<H", data, start)
    if count > header.links_max:
        raise ValueError
    links = struct.unpack_from(f"<{count}I", data, start + 4)
    if links and max(links) >= header.elements:
        raise ValueError
