"""A stand-in for mempalace 3.12, which no index that can be reached has: 3.11 with its changes.

What is known of 3.12 is made of the installed package's own text: hallways in hallways.sqlite3,
imported from the JSON file, which is kept as `.imported-*`; times with an offset, beside old ones
without; normalization version 3, so that the next mine reads everything again.  (Python 3.10 and
native parts that may be absent ask nothing of palace, which needs 3.11 and has no use for them.)

It shows what palace makes of these changes, not that it works with 3.12: that has to be tried with
the real one before the range that palace supports is extended.  How the tables look, and that the
functions of mempalace.hallways keep their names, is assumed.
"""

import importlib.util
import re
import shutil
from pathlib import Path

from tests.support.faults.upgrades import install_other_version, private_metadata, upgraded_path

VERSION = "3.12.0"
HALLWAYS = Path(__file__).with_name("hallways.py.txt")
IN_RANGE = """
from palace.engine import versions
versions.SUPPORTED = "3.12"
"""


def stand_in(directory: Path) -> str:
    """Make the package below a new directory; return the PYTHONPATH with which it is found first.

    Processes that have this path take it for a version of their range, as its successor will be.
    """
    spec = importlib.util.find_spec("mempalace")
    assert spec is not None
    assert spec.origin is not None
    installed, copy = Path(spec.origin).parent, directory / "mempalace"
    shutil.copytree(installed, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*.py"):
        text = path.read_text()
        changed = re.sub(
            r"datetime\.now\(\)\.isoformat", "datetime.now().astimezone().isoformat", text
        )
        if changed != text:
            path.write_text(changed)
    _replace(
        copy / "palace" / "__init__.py", "\nNORMALIZE_VERSION = 2\n", "\nNORMALIZE_VERSION = 3\n"
    )
    # It would take itself from the path that tests find it by.
    _replace(copy / "__init__.py", "\n_strip_leaked_pythonpath_from_sys_path()\n", "\n")
    _replace(copy / "version.py", '"3.11.0"', f'"{VERSION}"')
    with (copy / "hallways.py").open("a") as file:
        file.write(HALLWAYS.read_text())
    install_other_version(private_metadata(directory), VERSION)
    found = upgraded_path(directory)
    with (directory / "sitecustomize.py").open("a") as file:
        file.write(IN_RANGE)
    return found


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has another {old!r}: fit the stand-in"
    path.write_text(text.replace(old, new))


def imported(place: Path) -> list[Path]:
    """Return the files of hallways that were imported."""
    return sorted(place.glob("hallways.json.imported-*"))
