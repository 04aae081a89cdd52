"""What mempalace's and chromadb's imports do at each start, and nothing in a broker uses.

They take a third of a start's processor time.  While mempalace is imported,

* exporters of traces, validators of settings that chromadb itself writes, readers of YAML, an HTTP
  client and numpy's texts for `help()` have stand-ins, which import the real ones if somebody does
  use them (`palace/kernel/left_out.py`);
* chromadb's methods are not compared with those that they override, which its release has passed:
  that disassembles a class for each of its methods;
* the files that mempalace reads, compiles and runs itself come compiled out of Python's own cache,
  which is what an import of them would do.

What one of these expects and doesn't find it leaves alone, and a release that can't be imported so
is imported as it is: a broker starts more slowly then.
"""

import __future__

import builtins
import importlib
import logging
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from importlib.machinery import SourceFileLoader
from operator import or_
from types import CodeType, FunctionType, ModuleType
from typing import Any

from palace.engine.patches import ABSENT, Patch, Patches, always
from palace.kernel.left_out import Deferred, left_out

NAME = "light_imports"
COMMAND_LINE = "httpx._main"  # with colours for terminals; httpx does without it by itself
SCHEMAS = "chromadb.utils.embedding_functions.schemas"
# What a source begins with `from __future__`, and passes on to what it compiles.
FUTURE = reduce(
    or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
FRAGMENTS = "_exec_fragment"  # the function by which mempalace runs parts of a module

logger = logging.getLogger("palace.engine")


def deferred() -> tuple[ModuleType, ...]:
    """Return new stand-ins."""
    return (
        Deferred("opentelemetry.trace"),
        Deferred("opentelemetry.sdk.resources", SERVICE_NAME="service.name"),
        Deferred("opentelemetry.sdk.trace"),
        Deferred("opentelemetry.sdk.trace.export"),
        Deferred("opentelemetry.exporter.otlp.proto.grpc.trace_exporter"),
        Deferred(f"{SCHEMAS}.schema_utils"),  # which needs jsonschema; all its users call it
        Deferred(f"{SCHEMAS}.registry"),
        Deferred("httpx"),
        Deferred("yaml"),
        # numpy imports these for what they add to its documentation, and nothing else.
        ModuleType("numpy._core._add_newdocs"),
        ModuleType("numpy._core._add_newdocs_scalars"),
    )


def import_server(off: Collection[str]) -> ModuleType:
    """Import stock's server, and what of chromadb its clients are made of; `off` as in settings.

    A release that can't be imported so is imported as it is.
    """
    if NAME not in off:
        try:
            with _lightly():
                return _server()
        except (ImportError, TypeError, AttributeError, ValueError):
            # What a stand-in can cause: it was asked for a class to make another from, say.
            logger.warning("mempalace is imported once more, with all it asks for", exc_info=True)
    return _server()


def _server() -> ModuleType:
    server = importlib.import_module("mempalace.mcp_server")
    with suppress(ImportError):  # who needs it says so
        importlib.import_module("chromadb.api.rust")
    return server


@contextmanager
def _lightly() -> Iterator[None]:
    patches = Patches()
    patches.apply(patches_of_imports())
    try:
        with left_out(*deferred(), absent=(COMMAND_LINE,)):
            yield
    finally:
        patches.undo()


def patches_of_imports() -> Iterator[Patch]:
    """Yield the patches of what an import does; they are undone once mempalace is imported."""
    yield Patch(
        name=NAME,
        why="mempalace's files are compiled already",
        owner=builtins,
        attribute="compile",
        replace=_compiling,
    )
    try:
        checks = importlib.import_module("overrides.overrides")
    except ImportError:
        return
    if _is_check(getattr(checks, "_overrides", ABSENT)):
        yield Patch(
            name=NAME,
            why="chromadb's release has passed its checks",
            owner=checks,
            attribute="_overrides",
            replace=always(_unchecked),
        )


def _is_check(found: object) -> bool:
    return isinstance(found, FunctionType) and found.__code__.co_varnames[:3] == (
        *("method", "check_signature", "check_at_runtime"),
    )


def _unchecked(method: Any, _signature: bool, _at_runtime: bool) -> Any:
    method.__override__ = True  # which classes of chromadb ask for
    return method


def _compiling(stock: Callable[..., Any]) -> Callable[..., Any]:
    def compile(  # noqa: A001
        source: Any,
        filename: Any,
        mode: str,
        flags: int = 0,
        dont_inherit: bool = False,
        *more: Any,
        **named: Any,
    ) -> Any:
        asking = sys._getframe(1).f_code  # noqa: SLF001
        if not dont_inherit:
            flags |= asking.co_flags & FUTURE
        if asking.co_name == FRAGMENTS and mode == "exec" and not (flags or more or named):
            code = _from_cache(filename)
            if code is not None:
                return code
        return stock(source, filename, mode, flags, True, *more, **named)

    return compile


def _from_cache(filename: object) -> CodeType | None:
    """Return what an import of a file would run; None where the file should be compiled anew."""
    try:
        return SourceFileLoader(FRAGMENTS, str(filename)).get_code(FRAGMENTS)
    except (OSError, ImportError, SyntaxError, ValueError):
        return None
