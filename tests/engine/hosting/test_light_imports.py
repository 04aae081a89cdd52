"""What a broker leaves out of mempalace's import is there for whoever uses it after all."""

import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palace.engine.hosting import light_imports
from palace.engine.patches import Patches

pytestmark = pytest.mark.engine

# Beginnings of modules that none of a broker's imports needs.
LEFT_OUT = (
    *("click", "grpc", "httpx", "jsonschema", "opentelemetry.sdk", "psutil", "rich", "yaml"),
    "numpy._core._add_newdocs",
)
IMPORTING = """
import builtins, importlib, json, os, sys
answers = open(os.dup(1), "w")  # stock takes standard output away
from palace.engine.hosting import light_imports

compile, from_cache, fragments = builtins.compile, light_imports._from_cache, []

def noted(name):
    code = from_cache(name)
    fragments.append(code.co_filename)
    return code

light_imports._from_cache = noted
checks = importlib.import_module("overrides.overrides")
validate, compared = checks._validate_method, []

def noted_check(*given):
    compared.append(given)
    return validate(*given)

checks._validate_method = noted_check
left_out = [module.__name__ for module in light_imports.deferred()]
{more}
assert light_imports.import_server({off!r}).__name__ == "mempalace.mcp_server"
told = dict(
    loaded=sorted(sys.modules),
    standing=[name for name in left_out if name in sys.modules],
    fragments=[os.path.basename(name) for name in fragments],
    compared=len(compared),
    restored=builtins.compile is compile,
)
"""
USING = """
import chromadb.api.client, chromadb.auth.token_authn, chromadb.telemetry.opentelemetry as traces
from chromadb.utils.embedding_functions import schemas, onnx_mini_lm_l6_v2 as minilm

traces.otel_init("a name", "http://127.0.0.1:9", {{}}, traces.OpenTelemetryGranularity.ALL)
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer
told["tracer"] = isinstance(traces.tracer, Tracer)
told["service"] = trace.get_tracer_provider().resource.attributes.get("service.name")
told["exporter"] = trace.get_tracer_provider()._active_span_processor._span_processors[0]
told["exporter"] = type(told["exporter"].span_exporter).__name__
trace.get_tracer_provider().shutdown()

told["yaml"] = chromadb.auth.token_authn.yaml.safe_load("users: [1]")
import httpx, httpx._main
told["error"] = chromadb.api.client.httpx.ConnectError is httpx.ConnectError
told["command line"] = callable(httpx._main.main)
told["schemas"] = "onnx_mini_lm_l6_v2" in schemas.get_available_schemas()
minilm.validate_config_schema({{"preferred_providers": []}}, "onnx_mini_lm_l6_v2")
try:
    minilm.validate_config_schema({{"preferred_providers": 5}}, "onnx_mini_lm_l6_v2")
except Exception as refused:
    told["refused"] = type(refused).__name__

from overrides import override
class Above:
    def method(self, a: int) -> int: ...
try:
    class Below(Above):
        @override
        def method(self) -> str: ...
except TypeError as refused:
    told["checked again"] = True
"""
TELLING = """
print(json.dumps(told), file=answers)
"""


def run(program: str, off: tuple[str, ...] = (), more: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", (program + TELLING).format(off=off, more=more)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def among(loaded: list[str]) -> list[str]:
    return [name for name in LEFT_OUT if name in loaded]


def test_what_nobody_uses_is_not_imported_and_still_works() -> None:
    told = run(IMPORTING + USING)

    assert among(told["loaded"]) == []
    assert told["standing"] == []
    assert {"tools_read.py", "query.py", "collection.py"} <= set(told["fragments"])
    assert told["compared"] == 0
    assert told["restored"]
    assert told["tracer"]
    assert told["service"] == "a name"
    assert told["exporter"] == "OTLPSpanExporter"
    assert told["yaml"] == {"users": [1]}
    assert told["error"]
    assert told["command line"]
    assert told["schemas"]
    assert told["refused"] == "ValidationError"
    assert told["checked again"]


def test_it_can_be_switched_off() -> None:
    told = run(IMPORTING, ("light_imports",))

    assert among(told["loaded"]) == list(LEFT_OUT)
    assert told["fragments"] == []
    assert told["compared"] > 100


def test_a_release_that_needs_at_once_what_has_a_stand_in_is_imported_as_it_is() -> None:
    """Chromadb's settings are a class made from one of pydantic_settings'."""
    told = run(
        IMPORTING,
        more="""
stand_ins = light_imports.deferred
light_imports.deferred = lambda: (*stand_ins(), light_imports.Deferred("pydantic_settings"))
""",
    )

    assert {"mempalace.mcp_server", "chromadb.api.rust", "pydantic_settings"} <= set(told["loaded"])
    assert told["restored"]


def test_a_server_of_the_memory_contract_is_asked_without_a_command_line() -> None:
    program = """
import sys
from palace.engine.durability.plugin import PluginSettings, open_elsewhere
settings = dict(address="https://a.example/", token_file="", certificate="", kinds=frozenset())
open_elsewhere(PluginSettings(**settings, counts=False))
assert "httpx" in sys.modules and "rich" not in sys.modules, "a command line"
assert "httpx._main" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# Files that mempalace compiles itself.


@pytest.fixture
def compile_like(tmp_path: Path) -> Any:
    """Return a function that has a fragment compiled as mempalace does, below `heading`."""
    fragment = tmp_path / "fragment.py"

    def ask(source: str, heading: str = "", function: str = light_imports.FRAGMENTS) -> Any:
        fragment.write_text(source)
        text = f"{heading}\ndef {function}(path):\n"
        text += "    return compile(Path(path).read_text(), path, 'exec')\n"
        named: dict[str, Any] = {"Path": Path}
        exec(compile(text, "a module", "exec", 0, True), named)
        patches = Patches()
        patches.apply(p for p in light_imports.patches_of_imports() if p.owner is builtins)
        try:
            return named[function](str(fragment))
        finally:
            patches.undo()

    return ask


def cached(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("__pycache__/*"))


@pytest.fixture(autouse=True)
def _bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def test_a_fragment_is_compiled_once(compile_like: Any, tmp_path: Path) -> None:
    first = compile_like("a = 1")
    (kept,) = cached(tmp_path)
    stamp = kept.stat().st_mtime_ns

    assert compile_like("a = 1") == first == compile("a = 1", str(tmp_path / "fragment.py"), "exec")
    assert kept.stat().st_mtime_ns == stamp


def test_a_changed_fragment_is_compiled_anew(compile_like: Any) -> None:
    compile_like("a = 1")

    assert compile_like("a = 12").co_consts[0] == 12


def test_what_a_module_imports_from_the_future_holds_for_its_fragments(
    compile_like: Any, tmp_path: Path
) -> None:
    named: dict[str, Any] = {}
    exec(compile_like("def f(a: int): ...", "from __future__ import annotations"), named)

    assert named["f"].__annotations__ == {"a": "int"}
    assert cached(tmp_path) == []


def test_nobody_elses_file_is_taken_from_the_cache(compile_like: Any, tmp_path: Path) -> None:
    compile_like("a = 1", function="read_it")

    assert cached(tmp_path) == []


def test_a_fragment_that_does_not_compile_says_so(compile_like: Any) -> None:
    with pytest.raises(SyntaxError):
        compile_like("a = ")
