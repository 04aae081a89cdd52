r"""What a text leaves in files: pieces of it by which it is found again, and the search for them.

A piece is a word that looks like a key, a number plate, an address (letters and digits, or very
long), or some words in a row.  Pieces hold nothing that JSON escapes but letters that are no ASCII,
and lie within one line, so that they stand in a file as they stand in the text: as UTF-8, or with
`\uXXXX` for such letters, in whatever case, and with the underscores of mempalace's ids of
entities.  Vectors are looked for as the journal and as Chroma write them.

What is found proves that a text is there; where nothing is found it isn't, but for compressed or
encrypted files, and for databases that cut a text in the middle of each of its pieces.
"""

import base64
import json
import os
import re
import string
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from palace.kernel.kernel import Kernel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.uint64]

WORDS = 5  # of a piece
PIECE_MIN = 12  # characters of some words in a row
KEY_MIN = 10  # characters of a word that has letters and digits
LONG_MIN = 20  # characters of a word of any kind
LONG_PART = 24
PIECES_MAX = 300  # of all texts together; what is longer is looked for at regular distances
VECTORS_MAX = 100
CHUNK = 4 << 20
_HEAD = 8
_HASH_BITS = 20
_FACTOR = 0x9E3779B97F4A7C15
_LOWER = {ord(upper): upper.lower() for upper in string.ascii_uppercase}

_ESCAPED = re.compile(r'[\x00-\x1f\x7f"\\]+')
_WORD = re.compile(r"\S+")
_ATOM = re.compile(r"[^\s/=:,;()\[\]{}<>'`|]+")
_EDGE = ".,;:!?()[]{}<>'`*_-"


def pieces_of(text: str) -> dict[str, bool]:
    """Return a text's pieces, folded; those that look like a key are marked."""
    found: dict[str, bool] = {}
    for line in _ESCAPED.split(_folded(text)):
        for atom in _ATOM.findall(line):
            word = atom.strip(_EDGE)
            if _is_key(word):
                found[word] = True
        for piece in _rows(line):
            found.setdefault(piece, False)
    return found


def _is_key(word: str) -> bool:
    if len(word) < KEY_MIN:
        return False
    has_both = any(map(str.isdigit, word)) and any(map(str.isalpha, word))
    return has_both or len(word) >= LONG_MIN


def _rows(line: str) -> Iterator[str]:
    """Yield words in a row, each word once; the last row overlaps the one before it."""
    words = [match.span() for match in _WORD.finditer(line)]
    starts = list(range(0, max(1, len(words) - WORDS + 1), WORDS))
    starts.append(max(0, len(words) - WORDS))
    for start in dict.fromkeys(starts):
        row = words[start : start + WORDS]
        if not row:
            continue
        piece = line[row[0][0] : row[-1][1]].strip(_EDGE + " ")
        if len(row) == 1 and len(piece) < LONG_MIN:
            continue
        if len(piece) > 4 * LONG_PART:  # of a writing without blanks, or no writing
            yield from (piece[at : at + LONG_PART] for at in range(0, len(piece), LONG_PART))
        elif len(piece) >= PIECE_MIN:
            yield piece


def bounded(pieces: dict[str, bool]) -> list[str]:
    """Return so many pieces as can be looked for: those like a key, and others evenly."""
    keys = [piece for piece, is_key in pieces.items() if is_key]
    rows = [piece for piece, is_key in pieces.items() if not is_key]
    found: list[str] = []
    for part, most in ((keys, PIECES_MAX // 2), (rows, PIECES_MAX // 2)):
        step = max(1, -(-len(part) // most))
        found += part[::step]
    return found


class _Finder:
    """Finds any of some byte strings, as fast for a thousand as for one.

    At each offset eight bytes are hashed; where a string begins with bytes of that hash, it is
    compared.  Shorter strings are left out.
    """

    def __init__(self, forms: Iterable[bytes]) -> None:
        import numpy as np

        self._by_head: dict[bytes, list[bytes]] = {}
        for form in forms:
            if len(form) >= _HEAD:
                self._by_head.setdefault(form[:_HEAD], []).append(form)
        self.longest = max((len(f) for fs in self._by_head.values() for f in fs), default=0)
        heads = np.frombuffer(b"".join(self._by_head), dtype="<u8")
        self._table = np.zeros(1 << _HASH_BITS, dtype=bool)
        self._table[_hashes(heads)] = True

    def found(self, data: bytes) -> Iterator[bytes]:
        """Yield each string that is found, as often as it is."""
        import numpy as np

        for offset in range(min(_HEAD, len(data) - _HEAD + 1) if self.longest else 0):
            count = (len(data) - offset) // _HEAD
            words = np.frombuffer(data, dtype="<u8", offset=offset, count=count)
            for at in np.flatnonzero(self._table[_hashes(words)]).tolist():
                start = offset + at * _HEAD
                for form in self._by_head.get(data[start : start + _HEAD], ()):
                    if data.startswith(form, start):
                        yield form


def _hashes(words: "Words") -> "Words":
    import numpy as np

    hashed: Words = (words * np.uint64(_FACTOR)) >> np.uint64(64 - _HASH_BITS)
    return hashed


@attrs.define(eq=False)
class Traces:
    """What is looked for: pieces of texts, and vectors as the journal has them."""

    pieces: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    _of_form: dict[bytes, str] = attrs.field(init=False)  # form -> piece
    _folded: _Finder = attrs.field(init=False)
    _exact: _Finder = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._of_form = {form: piece for piece in self.pieces for form in _spellings(piece)}
        self._of_form |= {packed.encode(): packed for packed in self.vectors}
        self._folded = _Finder(form for piece in self.pieces for form in _spellings(piece))
        self._exact = _Finder(form for packed in self.vectors for form in _forms(packed))

    def __bool__(self) -> bool:
        return bool(self.pieces or self.vectors)

    @property
    def longest(self) -> int:
        """Return how many bytes the longest of them takes."""
        return max(self._folded.longest, self._exact.longest)

    def in_bytes(self, data: bytes) -> bool:
        """Tell whether any of them is in a file's bytes, or in JSON."""
        return any(True for _ in self._found(data))

    def held_by(self, data: bytes) -> set[str]:
        """Return the pieces and vectors that are in JSON of the journal's."""
        return {self._of_form[form] for form in self._found(data) if form in self._of_form}

    def _found(self, data: bytes) -> Iterator[bytes]:
        yield from self._exact.found(data)
        yield from self._folded.found(data.lower())

    def without(self, others: Container[str]) -> "Traces":
        """Return those that are none of the others."""
        return Traces(
            tuple(piece for piece in self.pieces if piece not in others),
            tuple(packed for packed in self.vectors if packed not in others),
        )


def _folded(text: str) -> str:
    """Return a text in lower case as far as it is ASCII: so are a file's bytes compared."""
    return text.translate(_LOWER)


def _spellings(piece: str) -> tuple[bytes, ...]:
    texts = {piece, piece.lower(), piece.upper()}
    texts |= {text.replace(" ", "_").replace("'", "") for text in texts}
    forms: dict[bytes, None] = {}
    for text in sorted(map(_folded, texts)):
        forms[text.encode("utf-8", "surrogatepass")] = None
        escaped = _folded(json.dumps(text)[1:-1])
        forms[escaped.encode()] = None
        forms[escaped.replace("\\", "\\\\").encode()] = None  # JSON in JSON
    return tuple(forms)


def _forms(packed: str) -> Iterator[bytes]:
    """Yield a vector in base64, as numbers, and as numbers that are divided by its length."""
    import numpy as np

    yield packed.encode()
    try:
        vector = np.frombuffer(base64.b64decode(packed), dtype="<f4")
    except ValueError:  # it is none, whoever wrote it
        return
    yield vector.tobytes()
    length = np.linalg.norm(vector.astype("<f8"))
    if length > 0:
        yield (vector / length).astype("<f4").tobytes()


def files_below(path: str, kernel: Kernel) -> Iterator[str]:
    """Yield the regular files at or below a path, over no link."""
    if kernel.is_link(path):
        return
    if not os.path.isdir(path):
        if os.path.isfile(path):
            yield path
        return
    for name in sorted(kernel.list_directory(path)):
        yield from files_below(f"{path}/{name}", kernel)


def is_held(path: str, traces: Traces) -> bool:
    """Tell whether a file holds any of the traces; raises OSError where it can't be read."""
    keep = max(0, traces.longest - 1)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags)
    try:
        rest = b""
        while data := os.read(fd, CHUNK):
            if traces.in_bytes(rest + data):
                return True
            rest = (rest + data)[-keep:] if keep else b""
    finally:
        os.close(fd)
    return False
