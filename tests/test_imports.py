"""Which room may import what (docs/design.md has the table)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "palace"

# room -> (rooms of ours it may import, third parties it may import)
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "protocol": ({"protocol"}, {"attrs"}),
    "host": ({"host"}, set()),
    "transport": ({"transport", "protocol"}, {"attrs", "hypercorn", "trio", "trio_websocket"}),
    "journal": ({"journal", "protocol", "host"}, {"attrs"}),
    "engine": (
        {"engine", "journal", "protocol", "config", "paths", "host"},
        {"attrs", "mempalace", "chromadb", "numpy", "onnx"},
    ),
    "shim": (
        {
            *("shim", "protocol", "host", "env", "paths", "snapshot"),
            *("broker.lock", "broker.ownership"),
        },
        {"wsproto"},
    ),
    "doctor": (
        {
            *("doctor", "hosts", "host", "paths", "env", "config", "control", "journal.inspect"),
            *("broker.lock", "broker.ownership", "engine.durable", "engine.mempalace"),
            *("engine.model", "protocol", "shim.endpoints", "statustext", "upkeep"),
        },
        {"attrs"},
    ),
    "hosts": ({"hosts", "host", "paths", "protocol.errors"}, {"attrs"}),
    "broker": (
        {
            *("broker", "protocol", "transport", "engine", "journal", "config", "env", "paths"),
            *("host", "snapshot"),
        },
        {"attrs", "cryptography", "outcome", "trio"},
    ),
}
ONLY_IN = {
    "mempalace": {
        *("engine/mempalace.py", "engine/adjustments.py", "engine/stores.py"),
        *("engine/together.py", "engine/ahead.py"),
    },
    "chromadb": {
        *("engine/model.py", "engine/chroma.py", "engine/chroma_seam.py", "engine/embedding.py"),
        *("engine/persist.py", "engine/ahead.py", "engine/adjustments.py"),
    },
    "hypercorn": {"transport/http.py"},
    "tomlkit": {"expose.py"},
    "typer": {"cli.py"},
    "trio_websocket": {"transport/websocket.py"},
    "wsproto": {"shim/wss.py"},
    "cryptography": {"broker/certificate.py"},
}
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


def imports_of(path: Path) -> set[str]:
    """Return the dotted names a module imports, those for type checking alone left out."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    relative = str(path.relative_to(PACKAGE))
    for name in imports_of(path):
        top = name.split(".")[0]
        if top in ONLY_IN:
            assert relative in ONLY_IN[top], f"{relative} imports {name}"
        assert not name.startswith("palace.cli") or relative == "__main__.py"
        if room not in ALLOWED:
            continue
        ours, third = ALLOWED[room]
        if top == "palace":
            inner = name.removeprefix("palace").lstrip(".")
            fits = any(inner == entry or inner.startswith(f"{entry}.") for entry in ours)
            assert fits or not inner or inner == "__version__", f"{relative} imports {name}"
        else:
            assert top in third or top in sys.stdlib_module_names, f"{relative} imports {name}"
        if room == "protocol":
            assert top not in PURE_NEVER, f"{relative} imports {name}"


@pytest.mark.parametrize("name", LIGHT_PROTOCOL)
def test_the_shims_machines_import_nothing_but_our_errors(name: str) -> None:
    found = imports_of(PACKAGE / "protocol" / f"{name}.py")

    assert all(entry.startswith("palace.protocol.errors") for entry in found)


def test_the_shims_path_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import palace.shim.relay, palace.host.linux; "
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
