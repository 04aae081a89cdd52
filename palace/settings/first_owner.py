"""What a palace's first owner fixes of its environment, for all owners that follow."""

from collections.abc import Mapping

from palace.kernel.kernel import Kernel
from palace.settings.embedder import recorded_embedder
from palace.settings.inherited import to_be_fixed
from palace.settings.stock_config import backend_of


def to_fix(
    root: str, config_dir: str, environ: Mapping[str, str], kernel: Kernel
) -> Mapping[str, str]:
    """Return what an environment is about to fix for the palace at `root`.

    An embedder that is not the one which made the palace's vectors is no part of it.  A backend
    that nothing but its file tells is: the file may be lost.
    """
    wanted = to_be_fixed(environ)
    backend = backend_of(root, config_dir, wanted)
    if backend.is_given_vectors and backend.said_by.startswith(f"{root}/"):
        wanted["MEMPALACE_BACKEND"] = backend.name
    made_by = recorded_embedder(root, kernel)
    named = wanted.get("MEMPALACE_EMBEDDING_MODEL", "").strip().lower()
    if made_by and named and made_by != named:
        return {k: v for k, v in wanted.items() if not k.startswith("MEMPALACE_EMBEDDING")}
    return wanted
