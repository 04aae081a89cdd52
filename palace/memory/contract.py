"""The memory plugin contract's objects, as models: `contract/memory-plugin-v1.yaml` in Python.

Requests may hold nothing that isn't named there; responses of other servers may.  What a request
leaves out is told by `model_fields_set`: nothing in it may be null.  A test compares these models
with the document, both ways.

Imported by nobody but whoever serves or uses the contract, since pydantic takes long to import.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from palace.memory.expiry import parse_expires_at
from palace.protocol.errors import InvalidMemory

VERSION = "1.0.0"
LIMIT, LIMIT_MAX = 20, 100
NAMES_MAX = 64
_INSTANT = (
    r"^(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-"
    r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|"
    r"02-(0[1-9]|[12][0-9]))[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]+)?([Zz]|[+\-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_SEEN = (
    r"^[^\u0000]*[^\s\u0000-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5"
    r"\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffd][^\u0000]*$"
)


def _checked_instant(text: str) -> str:
    """Say what the pattern can't: not every February has 29 days, and there is no year 10000."""
    try:
        parse_expires_at(text)
    except InvalidMemory:
        raise ValueError("it must be RFC3339 and name a moment of the years 1 to 9999") from None
    return text


NamespaceName = Annotated[str, Field(max_length=256, pattern=r"^[a-z]+:[A-Za-z0-9_:.\-]+$")]
MemoryId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9\-]{0,99}$")]
NewMemoryId = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
]
Instant = Annotated[str, Field(max_length=64, pattern=_INSTANT), AfterValidator(_checked_instant)]
Text = Annotated[str, Field(max_length=100_000, pattern=_SEEN)]
Query = Annotated[str, Field(max_length=10_000, pattern=r"^[^\u0000]*$")]
NamespaceKind = Literal["workspace", "team", "org", "custom"]
MemoryKind = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9\-]{0,38}[a-z0-9])?$")]
MemorySource = Literal["agent", "runtime", "user"]
Vector = Annotated[list[float], Field(min_length=1, max_length=8192)]
Capability = Literal["embedding", "fts", "ttl", "pin", "propagation"]
Json = dict[str, Any]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Response(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class HealthResponse(_Response):
    status: Literal["ok", "degraded"]
    version: str
    capabilities: list[Capability]


class Namespace(_Response):
    name: NamespaceName
    kind: NamespaceKind
    expires_at: Instant = ""
    metadata: Json = {}
    created_at: Instant


class NamespaceUpsert(_Request):
    kind: NamespaceKind
    expires_at: Instant = ""
    metadata: Json = {}


class NamespacePatch(_Request):
    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    expires_at: Instant = ""
    metadata: Json = {}


class MemoryWrite(_Request):
    id: NewMemoryId = ""
    content: Text
    kind: MemoryKind
    source: MemorySource
    expires_at: Instant = ""
    pin: bool = False
    propagation: Json = {}
    embedding: Vector = []


class MemoryWriteResponse(_Response):
    id: MemoryId
    namespace: NamespaceName


class Memory(_Response):
    id: MemoryId
    namespace: NamespaceName
    content: str
    kind: MemoryKind
    source: MemorySource
    expires_at: Instant = ""
    pin: bool = False
    propagation: Json = {}
    created_at: Instant
    score: float = 0.0


class SearchRequest(_Request):
    namespaces: Annotated[list[NamespaceName], Field(min_length=1, max_length=NAMES_MAX)]
    query: Query = ""
    kinds: Annotated[list[MemoryKind], Field(max_length=NAMES_MAX)] = []
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT
    embedding: Vector = []


class SearchResponse(_Response):
    memories: list[Memory]


class ForgetRequest(_Request):
    requested_by_namespace: NamespaceName


class Error(_Response):
    code: Literal["bad_request", "not_found", "forbidden", "internal", "unavailable"]
    message: str
    details: Json = {}


MODELS: tuple[type[BaseModel], ...] = (
    *(HealthResponse, Namespace, NamespaceUpsert, NamespacePatch, MemoryWrite),
    *(MemoryWriteResponse, Memory, SearchRequest, SearchResponse, ForgetRequest, Error),
)
NAMES: "dict[str, TypeAdapter[Any]]" = {
    "NamespaceName": TypeAdapter(NamespaceName),
    "MemoryId": TypeAdapter(MemoryId),
    "NewMemoryId": TypeAdapter(NewMemoryId),
    "Instant": TypeAdapter(Instant),
    "Text": TypeAdapter(Text),
    "Query": TypeAdapter(Query),
    "NamespaceKind": TypeAdapter(NamespaceKind),
    "MemoryKind": TypeAdapter(MemoryKind),
    "MemorySource": TypeAdapter(MemorySource),
    "Vector": TypeAdapter(Vector),
}

_FORMS = {
    "expires_at": "it must be RFC3339, like 2027-01-31T18:00:00Z",
    "content": "it must be a text of at most 100000 characters that holds more than blanks, and no "
    "NUL",
    "id": "it must be a UUID in lower case",
}

M = TypeVar("M", bound=BaseModel)


def read(model: type[M], value: object) -> M:
    """Return a decoded JSON value as a model; raises InvalidMemory, which repeats no value."""
    try:
        found = model.model_validate(value)
    except ValidationError as error:
        raise InvalidMemory(_why(error)) from None
    if model is NamespacePatch and not found.model_fields_set:
        raise InvalidMemory("a patch must name expires_at, metadata, or both")
    return found


def checked(name: str, value: object) -> str:
    """Return a name of a path, as one of `NAMES`; raises InvalidMemory."""
    try:
        text: str = NAMES[name].validate_python(value, strict=True)
    except ValidationError as error:
        raise InvalidMemory(_why(error, name)) from None
    return text


def _why(error: ValidationError, name: str = "the body") -> str:
    """Say what is wrong, and where.

    A name that a client made up may hold what it shouldn't, and is passed over.
    """
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where, kind = first["loc"], first["type"]
    if kind == "extra_forbidden":
        return f"{_place(where[:-1], name)} holds a name that the contract doesn't know"
    said = "it must have another form"  # a pattern is no sentence
    if kind != "string_pattern_mismatch":
        said = first["msg"].removeprefix("Value error, ")[:200]
    return f"{_place(where, name)} is wrong: {_FORMS.get(str(where[-1]) if where else '', said)}"


def _place(where: tuple[int | str, ...], name: str) -> str:
    return ".".join(map(str, where))[:100] or name
