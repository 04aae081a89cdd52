"""The original archive of the embedding model, by chromadb's own downloader, which verifies it."""

import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from palace.engine.embedding.model_files import is_complete
from palace.engine.embedding.sources import Progress, Refused, one_line

_PROBE_SECONDS = 5.0


class _Bar:
    """Stands in for the tqdm bar that chromadb's downloader drives, and reports to `progress`."""

    def __init__(self, progress: Progress, total_bytes: int) -> None:
        self._progress = progress
        self._total = max(total_bytes, 1)
        self._done = 0
        self._percent = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let any exception pass."""

    def update(self, size_bytes: int) -> None:
        """Count a chunk; chunks are small, so only a new percentage is worth a report."""
        self._done += size_bytes
        percent = min(100 * self._done // self._total, 100)
        if percent > self._percent:
            self._percent = percent
            self._progress("downloading the original archive", 0.05 + 0.85 * percent / 100)


def fetch_archive(work: Path, progress: Progress) -> Path:
    """Let chromadb download, verify and unpack its archive below `work`."""
    progress("looking for the original archive", 0.0)
    try:
        from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2

        fetcher = ONNXMiniLM_L6_V2()
    except (ImportError, ValueError) as exc:
        raise Refused(f"chromadb can't be used: {one_line(exc)}") from exc
    silence = _probe(fetcher.MODEL_DOWNLOAD_URL)
    if silence is not None:
        raise Refused(silence)
    fetcher.DOWNLOAD_PATH = work / "archive"
    fetcher.tqdm = lambda **bar: _Bar(progress, bar.get("total") or 0)
    try:
        fetcher._download_model_if_not_exists()  # noqa: SLF001 - it has no public name
    except Exception as exc:  # whatever a foreign downloader raises, the next source is tried
        raise Refused(one_line(exc)) from exc
    unpacked = work / "archive" / "onnx"
    if not is_complete(unpacked):
        raise Refused("the archive doesn't hold the expected files")
    return unpacked


def _probe(url: str) -> str | None:
    """Return None when `url` can be fetched, else the reason, after `_PROBE_SECONDS` at most.

    A thread, because the time that name resolution takes can't be limited otherwise. The thread
    holds nothing but its socket and ends by itself.
    """
    outcome: list[str | None] = []
    thread = threading.Thread(target=lambda: outcome.append(_head(url)), daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return outcome[0] if outcome else f"no answer within {_PROBE_SECONDS:.0f} s"


def _head(url: str) -> str | None:
    """Ask for the headers of `url`; return None, or why they couldn't be had."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - chromadb's own constant
    opener = urllib.request.build_opener()  # urlopen() would keep the proxies of its first use
    try:
        with opener.open(request, timeout=_PROBE_SECONDS):
            return None
    except urllib.error.HTTPError as exc:
        exc.close()
        return f"the server answered {exc.code}"
    except urllib.error.URLError as exc:
        # The peer is there; the downloader has a certificate store of its own and may trust it.
        distrusted = isinstance(exc.reason, ssl.SSLCertVerificationError)
        return None if distrusted else one_line(exc.reason)
    except Exception as exc:  # in a thread of its own it would be lost
        return one_line(exc)
