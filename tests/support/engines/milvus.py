"""milvus-lite, the real one, from a wheel: 470 MB, so that no gate has to install it."""

import importlib.util

from tests.support.machines.needs import want

PART = "milvus-lite"


def has_milvus() -> bool:
    """Tell whether milvus-lite and its client are installed."""
    return all(map(importlib.util.find_spec, ("milvus_lite", "pymilvus")))


def need_milvus() -> None:
    """Go on only where they are."""
    if not has_milvus():
        want(PART, "pip install --editable '.[engine,dev,milvus]'")
