"""What a broker's environment is made of: this list, and what the settings fix.

A broker serves all sessions, so the one that happens to start it must not decide for the others.
What says where things are and how the network is reached is inherited.  What would change answers
or stored vectors is fixed in the settings (`environment`), the user's and palace.toml's, when the
palace is adopted.  All else is dropped.  docs/operating.md shows both lists, and a test compares
them.

Standard library only, and light: a shim that starts a broker loads this.
"""

import os

from palace.settings.process import QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Names, or beginnings of names with a star, and why a broker needs them.
INHERITED: "dict[str, tuple[str, ...]]" = {
    "the engine runs git and pip": ("PATH",),
    "where the model, mempalace's locks and settings are; whose process it is": (
        *("HOME", "USER", "LOGNAME"),
    ),
    "the encoding of file names, and dates in diaries": ("LANG", "LC_*", "TZ"),
    "where socket, state and settings are; shims look there, too": (
        *("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"),
        "XDG_DATA_HOME",
    ),
    "where temporary files are, only if /tmp can't be written": ("TMPDIR",),
    "which palace it is": (
        *("MEMPALACE_PATH", "MEMPALACE_PALACE_PATH", "MEMPALACE_PALACE", "MEMPAL_PALACE_PATH"),
        "MEMPALACE_CONFIG_DIR",
    ),
    "palace's own": ("PALACE_IDLE_S", "PALACE_TRACE", "PALACE_NO_DOWNLOAD"),
    "how the network is reached, loopback excepted: the model is fetched, an embedder asked": (
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    ),
    "which certificates are trusted there": (
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        "NIX_SSL_CERT_FILE",
    ),
    "from which package index the model is fetched": ("PIP_*",),
    "secrets, which must not be copied into a file": (
        *("MEMPALACE_EMBEDDING_API_KEY", "MEMPALACE_QDRANT_API_KEY", "MEMPALACE_PGVECTOR_DSN"),
        *("MEMPALACE_MILVUS_TOKEN", "HF_TOKEN", "MEMPALACE_MCP_HTTP_TOKEN"),
    ),
    "without it some interpreters don't start": (
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "NIX_LD", "NIX_LD_LIBRARY_PATH"),
    ),
    "only as the directory of palace itself, where it is installed nowhere else": ("PYTHONPATH",),
}
EMBEDDERS = (
    *("MEMPALACE_EMBEDDING_MODEL", "MEMPALACE_EMBEDDING_API_URL"),
    *("MEMPALACE_EMBEDDING_API_MODEL", "MEMPALACE_EMBEDDINGGEMMA2_DIMENSION"),
    *("MEMPALACE_EMBEDDINGGEMMA2_MODALITIES", "MEMPALACE_EMBEDDINGGEMMA2_REVISION"),
)
# What the settings fix at adoption, and why it must not change with the session.
FIXED: "dict[str, tuple[str, ...]]" = {
    "vectors of one embedder can't be searched with another's": EMBEDDERS,
    "how embedding uses the machine": (
        *("MEMPALACE_EMBEDDING_DEVICE", "MEMPALACE_EMBEDDING_THREADS"),
        *("MEMPALACE_EMBEDDINGGEMMA_BATCH_SIZE", "MEMPALACE_EMBEDDINGGEMMA2_BATCH_SIZE"),
    ),
    "where the models of other embedders are": (
        *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
    ),
    "where memories are stored": (
        *("MEMPALACE_BACKEND", "MEMPALACE_QDRANT_URL", "MEMPALACE_QDRANT_NAMESPACE"),
        *("MEMPALACE_QDRANT_TIMEOUT", "MEMPALACE_PGVECTOR_NAMESPACE"),
        *("MEMPALACE_PGVECTOR_SHARED_NAMESPACE", "MEMPALACE_MILVUS_URI"),
        *("MEMPALACE_MILVUS_NAMESPACE", "MEMPALACE_MILVUS_DB_NAME"),
        "MEMPALACE_MILVUS_CONSISTENCY_LEVEL",
    ),
    "what is made of a text": (
        *("MEMPALACE_LANG", "MEMPAL_LANG", "MEMPALACE_ENTITY_LANGUAGES"),
        "MEMPAL_ENTITY_LANGUAGES",
        *("MEMPALACE_MAX_CHUNKS_PER_FILE", "MEMPALACE_TOPIC_TUNNEL_MIN_COUNT"),
        "MEMPALACE_KG_HALLWAY_MIN_COUNT",
    ),
    "in which order memories are found": (
        *("MEMPALACE_HYBRID_VECTOR_WEIGHT", "MEMPALACE_HYBRID_BM25_WEIGHT"),
    ),
    "how the mesh is run": (
        *("MEMPALACE_SYNC_INTERVAL", "MEMPALACE_SYNC_HTTP_TIMEOUT", "MEMPALACE_TRANSPORT"),
        *("MEMPALACE_MCP_EXTRA_ALLOWED_HOSTS", "MEMPALACE_SSE_MAX_CLIENTS"),
    ),
    "how the store is kept": ("MEMPALACE_MAX_BACKUPS", "MEMPALACE_STARTUP_INTEGRITY_MAX_MB"),
}
# Decided before settings are read, so that these can't say otherwise.
SETTLED = ("HOME", "XDG_*", "MEMPALACE_PATH", "MEMPALACE_PALACE*", "MEMPAL_PALACE_PATH", "PALACE_*")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def matches(name: str, patterns: "tuple[str, ...]") -> bool:
    """Tell whether a name is one of these, or begins as one with a star does."""
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in patterns
    )


def inherited(
    environ: "Mapping[str, str]",
    temporary: str = "/tmp",  # noqa: S108 - where libraries look
) -> "dict[str, str]":
    """Return what a broker takes over of an environment."""
    patterns = tuple(pattern for names in INHERITED.values() for pattern in names)
    kept = {name: value for name, value in environ.items() if matches(name, patterns)}
    if os.access(temporary, os.W_OK):  # a session's own may go with it
        kept.pop("TMPDIR", None)
    if any(kept.get(name) for name in _PROXIES):
        given = kept.get("no_proxy") or kept.get("NO_PROXY") or ""
        hosts = [host.strip() for host in given.split(",") if host.strip()]
        hosts += [host for host in LOOPBACK if host not in hosts]
        kept["no_proxy"] = kept["NO_PROXY"] = ",".join(hosts)
    return kept


def broker_environment(
    environ: "Mapping[str, str]", fixed: "Mapping[str, str]"
) -> "dict[str, str]":
    """Return the environment that a broker works in; `fixed` is that of the settings."""
    return inherited(environ) | QUIET | dict(fixed)


def to_be_fixed(environ: "Mapping[str, str]") -> "dict[str, str]":
    """Return what an environment says of the things that settings fix."""
    names = [name for group in FIXED.values() for name in group]
    return {name: environ[name] for name in names if environ.get(name)}
