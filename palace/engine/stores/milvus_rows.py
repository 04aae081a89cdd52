"""What milvus makes of a record: as mempalace hands it over, and as it is read again."""

from typing import Any, cast

from palace.engine.stores.drawers import RecordPayload, payload, vector_of
from palace.journal.record import JsonObject
from palace.protocol.decoding import decode_json


def record_of_row(row: JsonObject) -> RecordPayload:
    """Return the record that milvus makes of a row: its JSON has no NaN, and no infinity.

    Raises what pymilvus raises for metadata that are no JSON of its kind.
    """
    from pymilvus.client.entity_helper import convert_to_json

    metadata = decode_json(convert_to_json(row["metadata"]))
    return payload(row["document"], metadata or None, row["vector"], None)


def kept_record(ident: str, record: RecordPayload) -> RecordPayload:
    """Return a record as milvus keeps it; raises ValueError where it can't."""
    from pymilvus.exceptions import MilvusException

    try:
        rows, _ = _maker()._prepare_rows(  # noqa: SLF001
            ids=[ident],
            documents=[record["document"]],
            metadatas=[record["metadata"] or {}],
            embeddings=[vector_of(record)],
        )
        return record_of_row(cast("JsonObject", rows[0]))
    except UnicodeEncodeError:
        raise ValueError("milvus has no such id") from None
    except (MilvusException, TypeError):
        raise ValueError("its metadata are no JSON that milvus keeps") from None


def _maker() -> Any:
    """Return a collection of mempalace's that is asked for nothing but rows."""
    from mempalace.backends.milvus import MilvusCollection

    return MilvusCollection(
        backend=None,
        client=None,
        config=None,
        palace=None,
        collection_name="",
        remote_collection="",
    )
