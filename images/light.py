"""The wheel for whoever only reaches a broker: palace's own, without what only a broker loads.

    python images/light.py PALACE_BROKER_WHEEL DIRECTORY    prints the path of the new wheel

The new wheel is called `palace-shim`, and its files are those of the other one, byte for byte.
Left out are the modules of a broker's rooms that nothing outside of these rooms leads to: that is
found out from the imports, so that a module is never missed by a list that nobody has renewed.
The same wheel makes the same bytes.  Standard library only: an image's build runs this file alone.
"""

import ast
import base64
import csv
import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

FULL, LIGHT = "palace-broker", "palace-shim"
SUMMARY = (
    "Reaches a MemPalace that a broker (palace-broker) owns elsewhere: one memory, one writer."
)
ROOMS = ("palace/broker/", "palace/engine/", "palace/plugin/", "palace/transport/")
BROKERS = ("outcome", "trio", "trio-websocket")  # packages that only a broker imports
TIME = (2020, 2, 2, 0, 0, 0)  # as hatchling has it
_LEVEL = 9


def make_light(wheel: Path, directory: Path) -> Path:
    """Write the wheel without a broker's part into `directory`; return its path."""
    with zipfile.ZipFile(wheel) as source:
        members = {name: source.read(name) for name in source.namelist()}
    [version] = re.findall(rb"^Version: (.*)$", members[_about(members, "METADATA")], re.MULTILINE)
    stem = f"{LIGHT.replace('-', '_')}-{version.decode().strip()}"
    left = left_out({name: data.decode() for name, data in members.items() if is_ours(name)})
    kept = {}
    for name, data in members.items():
        if name not in left and not name.endswith(".dist-info/RECORD"):
            renamed = re.sub(r"^[^/]+\.dist-info/", f"{stem}.dist-info/", name)
            kept[renamed] = of_light(data) if name.endswith(".dist-info/METADATA") else data
    kept[f"{stem}.dist-info/RECORD"] = record(kept, f"{stem}.dist-info/RECORD")
    made = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as target:
        for name, data in kept.items():
            entry = zipfile.ZipInfo(name, TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            target.writestr(entry, data, compresslevel=_LEVEL)
    return made


def _about(members: Mapping[str, bytes], name: str) -> str:
    return next(path for path in members if path.endswith(f".dist-info/{name}"))


def is_ours(name: str) -> bool:
    return name.startswith("palace/") and name.endswith(".py")


def left_out(modules: Mapping[str, str]) -> set[str]:
    """Return the paths of the modules, by path with their text, that only a broker imports.

    Outside of its rooms each import counts, also one that is made late; inside of them those that
    are made whenever the module is loaded: a broker makes the others, and is refused before that.
    """
    paths = {dotted(path): path for path in modules}
    ahead = [path for path in modules if not path.startswith(ROOMS)]
    kept: set[str] = set()
    while ahead:
        path = ahead.pop()
        if path in kept:
            continue
        kept.add(path)
        found = imports(ast.parse(modules[path]), late=not path.startswith(ROOMS))
        for name in {*found, dotted(path)}:
            parts = name.split(".")
            names = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
            ahead += [paths[each] for each in names if each in paths]
    return set(modules) - kept


def dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(node: ast.AST, *, late: bool) -> Iterator[str]:
    """Yield what a module imports, but for types; with `late`, also what its functions do."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (each.name for each in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{each.name}" for each in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(child.orelse, []), late=late)
        elif late or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, late=late)


def of_light(metadata: bytes) -> bytes:
    """Return the metadata under the other name, without what is a broker's: extras, packages."""
    head, blank, text = metadata.decode().partition("\n\n")
    brokers = re.compile(rf"Provides-Extra:|.*extra ==|Requires-Dist: ({'|'.join(BROKERS)})\b[^-]")
    lines = [line for line in head.splitlines() if not brokers.match(line)]
    head = "\n".join(lines)
    for key, value in (("Name", LIGHT), ("Summary", SUMMARY)):
        head = re.sub(rf"^{key}: .*$", f"{key}: {value}", head, count=1, flags=re.MULTILINE)
    return f"{head}{blank}{text}".encode()


def record(files: Mapping[str, bytes], own: str) -> bytes:
    """Return a RECORD: each file's digest and size, and its own name with neither."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.writerow((name, f"sha256={digest}", len(data)))
    lines.writerow((own, "", ""))
    return text.getvalue().encode()


if __name__ == "__main__":
    print(make_light(Path(sys.argv[1]), Path(sys.argv[2])))
