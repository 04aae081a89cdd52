"""The shapes of mempalace's and chromadb's objects, as far as palace uses them.

Both packages are loaded late and are opaque to the type checker; these protocols say what palace
relies on, so that a use of anything else is an error before it runs.  At run time nothing here is
checked: what a patch needs is checked where it is applied (palace/engine/patches.py).
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypedDict
from uuid import UUID

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]  # one text's, 384 numbers
    Vectors = npt.NDArray[np.float32]  # a row for each text
    Tokens = npt.NDArray[np.int64]  # a row for each text

# JSON is what it is: the values of these are checked where they are used.
JsonObject = dict[str, Any]
Metadata = Mapping[str, Any]  # of a record in Chroma
Arguments = Mapping[str, Any]  # of a method of stock's, by name
ToolEntry = MutableMapping[str, Any]  # what mempalace keeps of a tool: its handler, its schema


# chromadb


class RawCollection(Protocol):
    """chromadb's `Collection`."""

    id: UUID
    name: str
    configuration_json: JsonObject | None

    def _embed(
        self,
        input: Sequence[str],  # noqa: A002
        *,
        is_query: bool = False,
    ) -> "Sequence[Vector]": ...


class ChromaApi(Protocol):
    """chromadb's `RustBindingsAPI`, on which palace keeps a note of its own (palace_usual)."""

    palace_usual: dict[UUID, int]

    def list_collections(self) -> Sequence[RawCollection]: ...
    def _count(self, collection_id: UUID) -> int: ...
    def _modify(self, collection_id: UUID, *, new_configuration: object) -> None: ...


class Encoding(Protocol):
    """What the tokenizer makes of one text."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def attention_mask(self) -> Sequence[int]: ...


class Tokenizer(Protocol):
    def no_padding(self) -> None: ...
    def encode_batch(self, texts: Sequence[str]) -> Sequence[Encoding]: ...


class Session(Protocol):
    """onnxruntime's `InferenceSession`."""

    def run(
        self, names: None, inputs: "Mapping[str, npt.NDArray[np.int64]]"
    ) -> "list[Vectors]": ...


class MiniLM(Protocol):
    """chromadb's `ONNXMiniLM_L6_V2`."""

    ort: ModuleType
    DOWNLOAD_PATH: str
    EXTRACTED_FOLDER_NAME: str
    _preferred_providers: Sequence[str] | None

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def model(self) -> Session: ...
    def max_tokens(self) -> int: ...
    def _normalize(self, vectors: "Vectors") -> "Vectors": ...


# mempalace


class GetResult(Protocol):
    """A dataclass: what `ChromaCollection.get` returns."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def metadatas(self) -> Sequence[Metadata]: ...


class QueryResult(Protocol):
    """A dataclass: what `ChromaCollection.query` returns, for each text that was asked for."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def ids(self) -> Sequence[Sequence[str]]: ...
    @property
    def documents(self) -> Sequence[Sequence[str | None]]: ...
    @property
    def metadatas(self) -> Sequence[Sequence[Metadata]]: ...
    @property
    def distances(self) -> Sequence[Sequence[float]]: ...


class DrawerRecord(TypedDict):
    """What mempalace makes of the rows of one drawer."""

    ids: Sequence[str]
    content: str
    metadata: Metadata


class LexicalHit(Protocol):
    id: str
    metadata: Metadata


class LexicalResult(Protocol):
    hits: Sequence[LexicalHit]


class Collection(Protocol):
    """mempalace's `ChromaCollection`."""

    _collection: RawCollection

    def _sanitize_documents_for_chromadb(self, documents: Sequence[str]) -> Sequence[str]: ...
    def get(
        self,
        *,
        ids: Sequence[str] = ...,
        where: JsonObject | None = ...,
        where_document: JsonObject | None = ...,
        include: Sequence[str],
        limit: int | None = ...,
    ) -> GetResult: ...
    def lexical_search(
        self, *, query: str, n_results: int, where: JsonObject | None
    ) -> LexicalResult: ...
    def delete(self, *, ids: Sequence[str]) -> None: ...
    def upsert(
        self, *, ids: Sequence[str], documents: Sequence[str], metadatas: Sequence[Metadata]
    ) -> None: ...
    def query(
        self,
        *,
        query_texts: Sequence[str],
        n_results: int,
        where: JsonObject | None,
        include: Sequence[str],
    ) -> QueryResult: ...


class RequestLock(AbstractContextManager[object], Protocol):
    """The readers-writer lock around mempalace's handlers; entering it takes it for writing."""

    def acquire_write(self) -> None: ...
    def release_write(self) -> None: ...
    def yield_write(self) -> bool: ...
    def read_lock(self) -> AbstractContextManager[object]: ...


class SearchConfig(Protocol):
    search_config_fingerprint: str
    chunk_size: int  # characters
    backend: str
    palace_path: str
    collection_name: str


class ChromaClient(Protocol):
    _server: Any  # chromadb's RustBindingsAPI; palace/engine/stores/chroma.py says what of it


class Logstream(Protocol):
    """mempalace's log of events and artifacts."""

    replica_id: str

    def _conn(self) -> sqlite3.Connection: ...
    def append_event(self, **fields: object) -> JsonObject: ...
    def ack_event(self, event_id: str, **fields: object) -> JsonObject: ...
    def version_vector(self) -> dict[str, int]: ...
    def list_ops(
        self, origin: object, after_seq: object = 0, limit: object = 500
    ) -> list[JsonObject]: ...
    def list_events(self, **filters: object) -> list[JsonObject]: ...
    def latest_event_id(self) -> str | None: ...
    def get_artifact(self, artifact_id: object) -> JsonObject | None: ...
    def has_artifact(self, artifact_id: object) -> bool: ...
    def apply_remote_artifact(self, artifact: JsonObject) -> bool: ...
    def apply_remote_event(self, event: JsonObject) -> bool: ...


class Server(Protocol):
    """The module `mempalace.mcp_server`, which holds every function of its server."""

    TOOLS: dict[str, ToolEntry]
    SUPPORTED_PROTOCOL_VERSIONS: Sequence[str]
    _READ_ONLY_REFUSED_TOOLS: Iterable[str]
    _HTTP_LOCK_FREE_TOOLS: Iterable[str]
    _config: SearchConfig
    _sqlite_integrity_errors: Sequence[str]

    def _startup_preflight(self) -> None: ...
    def _is_chroma_backend(self) -> bool: ...
    def _http_dispatch(self, request: JsonObject) -> JsonObject | None: ...
    def _acquire_mcp_writer_lock(self) -> tuple[bool, str]: ...
    def _release_mcp_writer_lock(self) -> None: ...
    def _get_collection(self, *, create: bool = False) -> Collection | None: ...
    def _get_client(self) -> ChromaClient: ...
    def _collection_error_or_no_palace(self) -> JsonObject: ...
    def _tool_catalog_entry(self, name: str, tool: ToolEntry) -> JsonObject: ...
    def _call_logstream(self, op: Callable[[Logstream], Any]) -> Any: ...
    def _node_profile(self) -> JsonObject: ...
    def _known_profiles_snapshot(self) -> JsonObject: ...
    def _mesh_peers_payload(self) -> JsonObject: ...
    def _record_peer_sync(self, stats: JsonObject) -> None: ...
    def _publish_mesh_state(self, palace_path: str) -> None: ...


Method = Callable[..., Any]  # a method of stock's, whose arguments only pass through ours
