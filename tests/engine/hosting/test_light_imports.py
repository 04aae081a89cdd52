"""What a broker leaves out of mempalace's import is there for whoever uses it after all."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine

PROGRAM = """
import os, sys
answers = open(os.dup(1), "w")  # stock takes standard output away
from palace.engine.hosting import adjustments

with adjustments.importing({off!r}):
    import mempalace.mcp_server
import chromadb.telemetry.opentelemetry as traces

loaded = [name for name in ("grpc", "rich", "click") if name in sys.modules]
print(*loaded, file=answers)
exporter = traces.OTLPSpanExporter(endpoint="http://127.0.0.1:9", insecure=True)
print(type(exporter).__module__, type(exporter).__name__, file=answers)
exporter.shutdown()
import httpx._main
print(callable(httpx._main.main), file=answers)
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
print(isinstance(exporter, OTLPSpanExporter), file=answers)
"""
EXPORTER = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter OTLPSpanExporter"


def run(off: tuple[str, ...]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(off=off)], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_what_nobody_uses_is_not_imported_and_still_works() -> None:
    assert run(()) == ["", EXPORTER, "True", "True"]


def test_it_can_be_switched_off() -> None:
    assert run(("light_imports",)) == ["grpc rich click", EXPORTER, "True", "True"]
