"""Which backend keeps the drawers: only Chroma's changes are journalled."""

import os
from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, WARNING, Finding
from palace.settings.stock_config import CHROMA, COPY_INSTEAD, backend_of, no_journal_text


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
    there = backend_of(root, os.devnull, {})  # by the files alone
    exact = {"sqlite_exact", "rust_exact"}  # one format
    if (
        there.said_by != "default"
        and there.name != named.name
        and {there.name, named.name} != exact
    ):
        if there.name == CHROMA and not os.path.getsize(there.said_by):
            return
        yield Finding(
            level=ERROR,
            code="backend_mismatch",
            text=f"{named.said_by} says that the backend is {named.name}, and {there.said_by} is "
            f"{there.name}'s: mempalace opens no palace that holds another backend's files.",
            remedy=f'Name the backend that is there ("backend": "{there.name}" in '
            f"{found.config.config_dir}/config.json), or give the other one a directory of its own "
            "(--palace).",
        )
