"""Which room may import what (docs/design.md has the table)."""

import ast
import subprocess
import sys
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "palace"

# room -> (rooms of ours it may import, third parties it may import); a room may import itself.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "kernel": (set(), set()),
    "protocol": (set(), {"attrs", "idna"}),
    "memory": ({"protocol"}, {"attrs", "pydantic"}),
    "plugin": ({"kernel", "memory", "protocol"}, {"attrs", "httpx", "pydantic", "trio"}),
    "canary": ({"kernel", "protocol"}, set()),
    "settings": ({"kernel", "protocol"}, {"attrs"}),
    "ownership": ({"kernel", "protocol", "settings"}, {"attrs"}),
    "client": ({"kernel", "ownership", "protocol", "settings"}, {"wsproto"}),
    "shim": ({"client", "kernel", "protocol", "settings"}, set()),
    "transport": ({"kernel", "protocol"}, {"attrs", "h11", "hypercorn", "trio", "trio_websocket"}),
    "journal": ({"kernel", "protocol"}, {"attrs"}),
    "engine": (
        {"journal", "kernel", "memory", "ownership", "plugin", "protocol", "settings"},
        {
            *("attrs", "mempalace", "chromadb", "numpy", "onnx", "psycopg"),
            *("pymilvus", "milvus_lite", "pyarrow"),
        },
    ),
    "broker": (
        {
            *("canary", "engine", "journal", "kernel", "ownership", "protocol", "settings"),
            "transport",
        },
        {"attrs", "cryptography", "outcome", "trio"},
    ),
    "mcp_hosts": ({"kernel", "protocol", "settings"}, {"attrs", "yaml"}),
    "provider": ({"kernel", "mcp_hosts", "memory", "protocol", "settings"}, {"attrs"}),
    "doctor": (
        {
            *("canary", "client", "engine", "journal", "kernel", "mcp_hosts", "ownership"),
            *("protocol", "provider", "settings"),
        },
        {"attrs"},
    ),
    "commands": (
        {
            *("canary", "client", "doctor", "engine", "journal", "kernel", "mcp_hosts"),
            *("ownership", "protocol", "provider", "settings", "shim"),
        },
        {"attrs", "tomlkit"},
    ),
    "cli": (
        {
            *("broker", "commands", "doctor", "kernel", "mcp_hosts", "protocol", "settings"),
            *("provider", "shim"),
        },
        {"typer"},
    ),
}
ONLY_IN = {
    "mempalace": {
        *("engine/hosting/adjustments.py", "engine/hosting/batched_writer.py"),
        *("engine/hosting/query_prefetch.py", "engine/hosting/lookup_cache.py"),
        "engine/hosting/by_ids.py",
        *("engine/hosting/chroma_rows.py", "engine/embedding/anew.py"),
        *("engine/stores/palace_stores.py", "engine/stores/exact.py"),
        *("engine/stores/exact_rows.py", "engine/stores/exact_seam.py"),
        *("engine/stores/pgvector_tables.py", "engine/stores/pgvector_seam.py"),
        *("engine/stores/milvus_open.py", "engine/stores/milvus_seam.py"),
        "engine/stores/milvus_rows.py",
    },
    # Where milvus-lite keeps them: nobody else has to have these installed.
    "milvus_lite": {"engine/stores/milvus_open.py"},
    "pymilvus": {"engine/stores/milvus_rows.py"},
    "pyarrow": {"engine/stores/milvus_files.py"},
    # Where the palace's drawers are on a server: nobody else has to have it installed.
    "psycopg": {
        *("engine/stores/pgvector_fence.py", "engine/stores/pgvector_session.py"),
        *("engine/stores/pgvector_pooler.py", "engine/stores/pgvector_tables.py"),
    },
    "chromadb": {
        *("engine/embedding/archive.py", "engine/embedding/inference.py"),
        *("engine/stores/chroma.py", "engine/stores/chroma_seam.py"),
        *("engine/hosting/index_persistence.py", "engine/hosting/query_prefetch.py"),
        "engine/hosting/lookup_cache.py",
    },
    "h11": {"transport/http.py", "transport/fetch.py"},
    "hypercorn": {"transport/http.py"},
    "tomlkit": {"commands/config.py"},
    "yaml": {"mcp_hosts/yamltext.py"},  # where it is installed, for hosts that keep YAML
    "typer": {
        *("cli/app.py", "cli/options.py", "cli/running.py", "cli/journal.py"),
        *("cli/examining.py", "cli/federation.py", "cli/places.py", "cli/agents.py"),
        *("cli/settings.py", "cli/workspaces.py", "cli/tokens.py", "cli/namespaces.py"),
        "cli/shares.py",
        *("cli/memories.py", "cli/provider.py"),
    },
    "trio_websocket": {"transport/websocket.py"},
    "wsproto": {"client/guest/wss.py"},
    "cryptography": {"broker/certificate.py"},
    "pydantic": {"memory/contract.py", "plugin/client.py"},
    # Where a server holds namespaces elsewhere: no other palace imports it.
    "httpx": {"plugin/wire.py"},
    "idna": {"protocol/plugin_address.py"},
}
# What may lie at the top of the package, outside of every room.
LOOSE = {"__init__.py", "__main__.py"}
PURE_NEVER = {
    *("trio", "os", "pathlib", "socket", "_socket", "ssl", "subprocess", "threading", "time"),
    *("random", "secrets", "uuid", "logging", "select", "asyncio"),
}
LIGHT_PROTOCOL = ("wire", "ledger", "election", "errors")
SHIM_NEVER = {
    *("trio", "typer", "asyncio", "argparse", "attr", "attrs", "chromadb", "mempalace", "numpy"),
    *("re", "enum", "dataclasses", "typing", "json", "socket", "logging", "subprocess", "pathlib"),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path, *, types: bool = True) -> set[str]:
    """Return the dotted names that a module imports; with `types`, those for type checking, too."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in guarded and not types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        assert not isinstance(node, ast.ImportFrom) or not node.level, "imports are absolute"
    return names


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def module_of(path: Path) -> str:
    parts = ("palace", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def test_every_module_lies_in_a_room_that_the_table_names() -> None:
    rooms = {room_of(path) for path in modules()} - {""}

    assert {relative(path) for path in modules() if not room_of(path)} == LOOSE
    assert rooms == set(ALLOWED)


def test_every_room_says_what_it_is() -> None:
    for room in ALLOWED:
        said = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
        assert said is not None, room
        assert said.endswith("."), room


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    if not room:
        return
    ours, third = ALLOWED[room]
    for name in imports_of(path):
        top, _, inner = name.partition(".")
        if top in ONLY_IN:
            assert relative(path) in ONLY_IN[top], f"{relative(path)} imports {name}"
        if top == "palace":
            other = inner.partition(".")[0]
            assert other in {*ours, room, "", "__version__"}, f"{relative(path)} imports {name}"
        else:
            assert top in third or top in sys.stdlib_module_names, (
                f"{relative(path)} imports {name}"
            )
        if room == "protocol":
            assert top not in PURE_NEVER, f"{relative(path)} imports {name}"


def test_each_exception_to_the_third_parties_is_still_needed() -> None:
    for top, files in ONLY_IN.items():
        for name in files:
            found = {entry.partition(".")[0] for entry in imports_of(PACKAGE / name)}
            assert top in found, f"{name} imports no {top}"


def graph_of(name: Callable[[str], str]) -> dict[str, set[str]]:
    """Return who imports whom, between what `name` makes of modules; late and type-only count."""
    known = {module_of(path) for path in modules()}
    graph: dict[str, set[str]] = {}
    for path in modules():
        source, found = name(module_of(path)), imports_of(path) & known
        for entry in found - {module_of(path)}:
            # `from a.b import c` names a.b, too, which is imported only where c is no module
            if not any(other.startswith(f"{entry}.") for other in found):
                graph.setdefault(source, set()).add(name(entry))
    return {source: targets - {source} for source, targets in graph.items()}


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return one circle of a graph, [] where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def engine_floor(module: str) -> str:
    """Return the floor of the engine that a module lies on, and the room of every other."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[1:2] == ["engine"] else 2])


CIRCLES: dict[str, Callable[[str], str]] = {
    "modules": lambda module: module,
    "floors of the engine": engine_floor,
    "rooms": lambda module: ".".join(module.split(".")[:2]),
}


@pytest.mark.parametrize("level", CIRCLES)
def test_imports_run_in_no_circle(level: str) -> None:
    assert circle_in(graph_of(CIRCLES[level])) == []


def test_a_circle_would_be_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})


@pytest.mark.parametrize("name", LIGHT_PROTOCOL)
def test_the_shims_machines_import_nothing_but_our_errors(name: str) -> None:
    found = imports_of(PACKAGE / "protocol" / f"{name}.py", types=False)

    assert all(entry.startswith("palace.protocol.errors") for entry in found)


def test_the_shims_path_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import palace.shim.relay, palace.kernel.linux; "
        "print(' '.join(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}

    assert "palace" in loaded
    assert not loaded & SHIM_NEVER


def test_a_probe_is_answered_without_what_is_slow_to_import(tmp_path: Path) -> None:
    """Each of these takes some milliseconds; a client that probes waits for them."""
    asked = (
        b'{"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": '
        b'{"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}}\n'
    )
    environ = {"HOME": str(tmp_path), "MEMPALACE_PATH": str(tmp_path / "p"), "PALACE_NO_SPAWN": "1"}
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = ['shim']; "
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-X", "importtime", "-c"),
            f"{code}from palace.__main__ import main; main()",
        ],
        input=asked,
        env=environ,
        capture_output=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}

    assert b"supportedVersions" in done.stdout
    assert "palace.protocol.modern" in loaded
    slow = {"uuid", "platform", "hashlib", "contextlib", "typing", "dataclasses", "socket"}
    assert not loaded & (slow | {"attr", "urllib.parse", "logging", "subprocess"})


def test_a_loser_of_the_election_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-c"),
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import palace.broker.serve; "
            "print(' '.join(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}

    assert not loaded & {"trio", "attr", "attrs", "chromadb", "mempalace", "numpy", "typer"}


def test_a_doctor_loads_nothing_that_hosts_an_engine() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import palace.doctor.examine; "
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()

    assert "palace.doctor.software" in loaded
    assert not [name for name in loaded if name.startswith("palace.engine.hosting.")]
    assert not {"trio", "chromadb", "mempalace", "numpy"} & set(loaded)
