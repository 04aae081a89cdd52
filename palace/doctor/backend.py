"""Which backend keeps the drawers, and whether its changes are journalled."""

from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, WARNING, Finding
from palace.settings.stock_config import (
    COPY_INSTEAD,
    backend_mismatch,
    backend_of,
    no_journal_text,
)


def check_backend(found: Diagnostics) -> Iterator[Finding]:
    """Yield what another backend means, and one that doesn't go with what is there."""
    if found.config is None or found.foreign is not None:
        return
    root = found.paths.root
    named = backend_of(root, found.config.config_dir, found.environ)
    if not named.is_journalled:
        yield Finding(
            level=WARNING,
            code="no_journal",
            text=f"{no_journal_text(root, named)} Nothing can be repeated or rebuilt from it.",
            remedy=COPY_INSTEAD,
        )
    if mismatch := backend_mismatch(root, found.config.config_dir, found.environ):
        text, remedy = mismatch
        yield Finding(level=ERROR, code="backend_mismatch", text=text, remedy=remedy)
