"""Which embedder a palace uses, before mempalace could be asked."""

from collections.abc import Mapping

from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json
from palace.settings.stock_config import config_file, read_stock_config

SIDECAR = "mempalace_embedder.json"  # mempalace 3.11: backends/_sidecar.py
MINILM = "minilm"
VARIABLE = "MEMPALACE_EMBEDDING_MODEL"
_SERVER_VARIABLE = "MEMPALACE_EMBEDDING_API_URL"
# Stock reads a name that it doesn't know as MiniLM, unless it begins as one of these does.
_OTHERS = ("embeddinggemma", "openai")


def configured_embedder(config_dir: str, environ: Mapping[str, str]) -> str:
    """Return the embedder's name as stock finds it: the variable, then config.json, then MiniLM.

    Raises ConfigError for a config.json that can't be understood.
    """
    named: object = environ.get(VARIABLE)
    if not named:
        named = read_stock_config(config_dir).get("embedding_model")
    return _as_stock_reads(str(named or ""))


def _as_stock_reads(text: str) -> str:
    name = text.strip().lower()
    return name if name.startswith(_OTHERS) else MINILM


def embedding_server(config_dir: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the address of an embedder that is a server, "" if none is set, and what says so.

    Raises ConfigError for a config.json that can't be understood.
    """
    if given := environ.get(_SERVER_VARIABLE):
        return given, _SERVER_VARIABLE
    named = read_stock_config(config_dir).get("embedding_api_url")
    return str(named or "").strip(), config_file(config_dir)


def recorded_embedder(root: str, kernel: Kernel) -> str:
    """Return the name of the embedder that made a palace's vectors, "" where that isn't known."""
    return next(iter(recorded_embedders(root, kernel).values()), "")


def recorded_embedders(root: str, kernel: Kernel) -> dict[str, str]:
    """Return the name of the embedder of each collection for which one is recorded."""
    found = {}
    for collection, identity in _read_object(f"{root}/{SIDECAR}", kernel).items():
        name = identity.get("model_name") if isinstance(identity, dict) else None
        if isinstance(name, str) and name:
            found[collection] = _as_stock_reads(name.partition(":")[0])
    return found


def _read_object(path: str, kernel: Kernel) -> dict[str, object]:
    """Return a file's JSON object, empty where there is none that can be read."""
    try:
        found = decode_json(kernel.read_hint(path) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
