"""The published contract: a valid document, the models that are it, and texts to be judged."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from pydantic import BaseModel

from palace.memory import contract
from palace.protocol.decoding import decode_json_exact
from palace.protocol.errors import InvalidMemory
from tests.contract.reading import FOLDER, cases, document, golden, inlined
from tests.support.brokers import flat_plugin
from tests.support.machines.npm import npm_packages

MODELS: dict[str, type[BaseModel]] = {model.__name__: model for model in contract.MODELS}
CASES = cases()
IDS = [f"{schema} {number}" for number, (schema, _, _) in enumerate(CASES)]
READER = Path(__file__).with_name("reader.mjs")
AJV = ("ajv@8.17.1",)
REDOCLY = ("@redocly/openapi-core@1.34.5",)


def test_the_document_is_openapi() -> None:
    found = document()
    validate(found)
    operations = {
        one["operationId"]
        for path in found["paths"].values()
        for one in path.values()
        if isinstance(one, dict)
    }

    assert len(operations) == 7


@pytest.mark.process
def test_redocly_has_nothing_to_complain_of(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    packages = npm_packages(pytestconfig, "redocly", *REDOCLY) / "node_modules"
    ours = (FOLDER / "memory-plugin-v1.yaml").read_text()
    broken = tmp_path / "broken.yaml"
    broken.write_text(ours.replace("#/components/schemas/Memory'", "#/components/schemas/Nobody'"))
    run = subprocess.run(
        [
            *("node", str(Path(__file__).with_name("lint.mjs")), str(packages)),
            *(str(FOLDER / "memory-plugin-v1.yaml"), str(broken)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    complaints = json.loads(run.stdout)
    assert complaints[0] == []
    assert "no-unresolved-refs" in complaints[1], "it would have said so"


def test_the_models_are_the_documents_components_both_ways() -> None:
    schemas = document()["components"]["schemas"]
    said = {name: inlined(schema, schemas) for name, schema in schemas.items()}
    ours: dict[str, Any] = {}
    for name, model in MODELS.items():
        found = model.model_json_schema()
        ours[name] = inlined(found, found.get("$defs", {}))
    ours |= {name: inlined(adapter.json_schema(), {}) for name, adapter in contract.NAMES.items()}

    assert ours == said
    assert document()["info"]["version"] == contract.VERSION
    defaults = schemas["SearchRequest"]["properties"]["limit"]
    assert (defaults["default"], defaults["maximum"]) == (contract.LIMIT, contract.LIMIT_MAX)


@pytest.mark.parametrize(("schema", "text", "valid"), CASES, ids=IDS)
def test_a_golden_text_is_judged_as_it_says(schema: str, text: str, *, valid: bool) -> None:
    def judged() -> BaseModel:
        try:
            value = decode_json_exact(text.encode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise InvalidMemory(str(error)) from None
        return contract.read(MODELS[schema], value)

    if valid:
        told = judged().model_dump(exclude_unset=True)
        wanted = json.loads(text)
        extras = set(wanted) - set(told)
        assert told == {name: wanted[name] for name in told}
        assert not extras or MODELS[schema].model_config["extra"] == "ignore"
    else:
        with pytest.raises(InvalidMemory):
            judged()


def test_json_schema_takes_what_is_valid_and_each_object_has_both_kinds() -> None:
    """What it can't say (README.md of the folder), readers must see to themselves."""
    schemas = document()["components"]["schemas"]
    found = golden()
    for one in found["valid"]:
        Draft202012Validator(inlined(schemas[one["schema"]], schemas)).validate(
            json.loads(one["text"])
        )
    for kind in ("valid", "invalid"):
        assert {one["schema"] for one in found[kind]} == set(MODELS)


def test_node_reads_the_same_texts(pytestconfig: pytest.Config) -> None:
    home = npm_packages(pytestconfig, "contract", *AJV)
    schemas = document()["components"]["schemas"]
    given = {
        "schemas": {name: inlined(schema, schemas) for name, schema in schemas.items()},
        "cases": golden(),
    }
    run = subprocess.run(
        ["node", str(READER), str(home / "node_modules")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = json.loads(run.stdout or "{}")

    assert run.returncode == 0, run.stderr
    assert told == {"read": len(CASES), "wrong": []}


def test_an_error_names_the_place_and_repeats_no_value() -> None:
    secret = "ghp_" + "a1B2c3D4e5F6" * 3
    body = {"content": "x", "kind": "fact", "source": "agent"}
    for more in ({secret: 1}, {"kind": secret}, {"pin": secret}, {"expires_at": secret}):
        with pytest.raises(InvalidMemory) as told:
            contract.read(contract.MemoryWrite, body | more)
        assert secret not in told.value.message
    with pytest.raises(InvalidMemory, match="expires_at is wrong: it must be RFC3339"):
        contract.read(contract.MemoryWrite, body | {"expires_at": "tomorrow"})


# Of those golden texts that are bodies of requests: where they are sent.
SENT_TO = {
    "MemoryWrite": ("POST", "/v1/namespaces/team:a/memories"),
    "NamespaceUpsert": ("PUT", "/v1/namespaces/team:a"),
    "NamespacePatch": ("PATCH", "/v1/namespaces/team:a"),
    "SearchRequest": ("POST", "/v1/search"),
    "ForgetRequest": ("DELETE", "/v1/memories/kept"),
}


def test_a_plugin_of_fifty_lines_reads_the_same_texts() -> None:
    flat_plugin.NS["team:a"] = {"name": "team:a"}
    wrong, read = [], 0
    for schema, text, valid in CASES:
        if schema not in SENT_TO:
            continue
        read += 1
        try:
            status, _ = flat_plugin.answer(*SENT_TO[schema], text.encode("utf-8", "surrogatepass"))
        except (ValueError, IndexError, OverflowError, RecursionError):
            status = 400  # as its server says
        if (status == 400) is valid:
            wrong.append((schema, text, status))
    flat_plugin.NS.clear()
    flat_plugin.MEM.clear()

    assert wrong == []
    assert read > 60
