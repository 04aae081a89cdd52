"""The shapes of chromadb's objects, as far as the stores use them, and of its collections."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypedDict
from uuid import UUID

from palace.journal.record import Json, JsonObject


class CollectionPayload(TypedDict):
    """A collection as the journal keeps it: what Chroma needs to create it again."""

    configuration: Json
    metadata: JsonObject | None
    schema: Json


class CollectionModel(Protocol):
    """chromadb's `Collection` model."""

    id: UUID
    name: str
    dimension: int | None
    configuration_json: Json
    metadata: JsonObject | None
    serialized_schema: Json


class GetResult(TypedDict):
    """What chromadb's `_get` returns; a member that wasn't included is None."""

    ids: list[str]
    documents: Sequence[str | None]
    metadatas: Sequence[Mapping[str, Json] | None]
    embeddings: Sequence["Vector"]
    uris: Sequence[str | None] | None


class QueryResult(TypedDict):
    """What chromadb's `_query` returns for each vector, the nearest first."""

    ids: list[list[str]]
    distances: list[list[float]]


class Vector(Protocol):
    """A sequence of numbers, often numpy's."""

    def __len__(self) -> int: ...


class Bindings(Protocol):
    """chromadb's native half, which an API that was closed no longer has."""

    create_collection: Callable[..., object]


class ChromaApi(Protocol):
    """chromadb's `RustBindingsAPI`: the lowest Python that a request goes through."""

    bindings: Bindings

    def get_collection(self, name: str) -> CollectionModel: ...
    def get_collection_by_id(self, collection_id: UUID) -> CollectionModel: ...
    def _get(self, collection_id: UUID, **query: object) -> GetResult: ...
    def _query(
        self, collection_id: UUID, query_embeddings: Sequence[Vector], **query: object
    ) -> QueryResult: ...
    def _count(self, collection_id: UUID) -> int: ...


class ChromaClient(Protocol):
    """chromadb's client."""

    _server: ChromaApi

    def close(self) -> None: ...
