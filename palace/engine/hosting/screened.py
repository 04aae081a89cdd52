"""A query's rows as they may be shown: memories of namespaces marked, and none that is over."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from palace.engine.stock import Metadata, QueryResult

# Returns a record's text as it may be shown, None where it may not: by its id, text and metadata.
Screen = Callable[[str, str, Metadata], str | None]
T = TypeVar("T")


def screened(found: QueryResult, screen: Screen) -> QueryResult:
    """Return a query's result with the texts that a screen lets through."""
    if not found.documents or not found.metadatas:
        return found  # without their texts, which is what is shown
    texts = [
        [screen(ident, text or "", entry or {}) for ident, text, entry in zip(*rows, strict=True)]
        for rows in zip(found.ids, found.documents, found.metadatas, strict=True)
    ]

    def kept(lists: Sequence[Sequence[T]]) -> list[list[T]]:
        return [
            [one for one, text in zip(row, shown, strict=True) if text is not None]
            for row, shown in zip(lists, texts, strict=True)
        ]

    return dataclasses.replace(
        found,
        ids=kept(found.ids),
        documents=kept(texts),
        metadatas=kept(found.metadatas),
        distances=kept(found.distances) if found.distances else found.distances,
    )
