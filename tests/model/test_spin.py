"""The specs under Spin: what must hold holds in the whole state space, and each mutant is found.

The searches of seconds, and every fourth mutant, run here; `just model-check` runs all of a
profile, and PALACE_SPIN=quick or full does it here.
"""

import ast
import functools
import os
import re
from pathlib import Path

import pytest

from tests.model import spin
from tests.support.machines.needs import need_command

SECONDS = ("lock file replaced", "nobody left", "lock is freed", "answered, direct")
WHOLE = os.environ.get("PALACE_SPIN", "")
PROFILE = spin.PROFILES[WHOLE or "quick"]
SEARCHES = [search for search in PROFILE if WHOLE or search.name in SECONDS]
ROOT = Path(__file__).parent.parent.parent
README = ROOT / "specs" / "README.md"

search_once = functools.cache(spin.run_search)


@pytest.fixture
def _checker() -> None:
    need_command("spin")
    need_command("cc")


@pytest.mark.usefixtures("_checker")
@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_what_must_hold_holds_in_the_whole_state_space(search: spin.Search) -> None:
    found = search_once(search)

    assert found.broken == ""
    assert found.errors == 0
    assert found.complete, found.output
    assert found.states >= search.states_min


@pytest.mark.usefixtures("_checker")
@pytest.mark.skipif(not WHOLE, reason="needs all searches: just model-check, or PALACE_SPIN")
def test_every_action_of_the_specs_was_taken() -> None:
    found = [search_once(search) for search in PROFILE]

    assert spin.unreached(found) == []


@pytest.mark.usefixtures("_checker")
@pytest.mark.parametrize(
    "mutant",
    spin.MUTANTS if WHOLE else spin.MUTANTS[::4],
    ids=lambda mutant: f"{mutant.name}-{mutant.breaks}",
)
def test_broken_protocol_is_found(mutant: spin.Mutant) -> None:
    found = spin.run_mutant(mutant)

    assert found.broken == mutant.breaks
    assert found.depth > 0


def test_scope_does_not_shrink() -> None:
    floor = next(search for search in spin.FULL if search.name == "all together")
    sizes = spin.sizes(floor)

    assert all(sizes[name] >= least for name, least in spin.FLOOR.items())
    assert floor.states_min >= spin.FLOOR_STATES
    assert len(spin.actions()) >= spin.ACTIONS_MIN
    assert len({mutant.name for mutant in spin.MUTANTS}) >= spin.MUTANTS_MIN
    assert len({mutant.name for mutant in spin.QUICK_MUTANTS}) >= spin.QUICK_MIN


def test_every_switch_of_the_specs_has_its_mutant() -> None:
    named = {word for mutant in spin.MUTANTS for word in f"M_{mutant.name.upper()}".split()}
    texts = [path.read_text() for path in spin.SPECS.glob("*.pml")]
    switches = {word for text in texts for word in re.findall(r"\bM_[A-Z_]+\b", text)}

    assert switches == named


def test_readme_maps_every_action_to_code_that_exists() -> None:
    text = README.read_text()
    mapped = set(re.findall(r"`([A-Z]\w*)`", text))
    names = {action.partition(".")[2] for action in spin.actions()}

    assert names - mapped == set()
    for module, name in re.findall(r"`(palace(?:\.[a-z_]+)+)\.(\w+(?:\.\w+)?)`", text):
        assert name in _definitions(module), f"{module}.{name}"
    for path, name in re.findall(r"(tests/\w+/\w+\.py)(?:::(\w+))?", text):
        assert f"def {name}" in (ROOT / path).read_text(), f"{path}::{name}"


def test_readme_lists_every_mutant_and_what_finds_it() -> None:
    text = README.read_text()

    for mutant in spin.MUTANTS:
        name = re.escape(mutant.name.lower().replace(" m_", " + "))
        assert re.search(rf"\| {name} \| [^|]+ \| {mutant.breaks} \| \d+ \|", text), mutant


def _definitions(module: str) -> set[str]:
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name")}
    return found


def test_absent_checker_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert "apt-get install spin gcc" in spin.parts_missing()
    with pytest.raises(spin.SpinMissing, match="apt-get install spin gcc"):
        spin.run_search(spin.QUICK[0])
