"""Imports that chromadb makes at its start, and that nothing in a broker uses.

They are an exporter of traces over gRPC, which chromadb makes only where its settings name a
collector, and the command line of httpx, with its terminal colours: a sixth of the time that
mempalace's import takes, and 17 MB.  While mempalace is imported, the first has a stand-in, which
imports the real one if it is ever called; httpx does without its command line by itself.
"""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

from palace.engine.patches import ABSENT, Patch, always

NAME = "light_imports"
EXPORTER = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
COMMAND_LINE = "httpx._main"


class Deferred(ModuleType):
    """Stands for a module that is imported when something of it is called."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import system asks for what a module need not have
            raise AttributeError(name)

        def imported_at_last(*given: object, **named: object) -> object:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)(*given, **named)

        return imported_at_last


def patches() -> Iterator[Patch]:
    """Yield the patches of the table of modules; they are undone once mempalace is imported."""
    for module, stand_in in ((EXPORTER, Deferred(EXPORTER)), (COMMAND_LINE, None)):
        if module not in sys.modules:
            yield Patch(
                name=NAME,
                why="nothing in a broker uses it",
                owner=sys.modules,
                attribute=module,
                replace=always(stand_in),
                expected=lambda found: found is ABSENT,
            )
