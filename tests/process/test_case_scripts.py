"""Case scripts: small inputs that went wrong once; each exits with 0 where all is right.

They are shell and Python scripts in directories beside the checkout, and no part of it:
$PALACE_CASES names the directory, which is otherwise looked for as `../shared/cases`.  A script
gets the program (PALACE_BIN) and a home with the model (MODEL_HOME); 1 means wrong, any other code
that it could not be tried here.  The deep profile runs them all.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.faults.killing import is_deep
from tests.support.machines.needs import CASES, want

pytestmark = [
    pytest.mark.process,
    pytest.mark.engine,
    pytest.mark.skipif(not is_deep(), reason="takes minutes: PALACE_TEST_PROFILE=deep"),
]

ROOM = Path(os.environ.get("PALACE_CASES") or Path(__file__).parents[3] / "shared" / "cases")
RUNNERS = {".sh": "bash", ".py": sys.executable}
LIMIT_S = 400
# What is known to go wrong still, and why; one that goes right has to be taken out.
_OLDER = "speaks to modules of an older palace: it can't be tried, and says 1 all the same"
_REFUSED = "its own trick is refused by now, on which it ends with a traceback"
KNOWN = {
    "world/50-two-palaces-one-graph.sh": "two palaces in one parent directory share its lists",
    "security/03-evil-backup-writes-any-file.py": _OLDER,
    "security/04-journal-record-reads-and-makes-files.py": _OLDER,
    "security/07-guest-reads-hosts-files.py": "a guest that hides its place is taken for local",
    "security/08-links-lead-out-of-path-map.py": "links lead out of a mapped directory",
    "security/10-parent-of-palace-is-not-looked-at.py": _REFUSED,
    "security/11-socket-in-strangers-directory.py": _REFUSED,
    "security/13-escapes-reach-the-terminal.py": _OLDER,
    "security/14-purge-leaves-facts-and-quotes.py": "a purge takes the record, not what quotes it",
    "security/18-parents-lose-their-mode.py": "stock closes the parent directory",
    "security/20-strangers-h2-frames-slow-everybody.py": "frames of strangers cost everybody",
    "security/21-strangers-shut-http.py": "silent connections fill the HTTP port",
    "security/22-strangers-lock-guests-out.py": "wrong tokens count for a whole address",
    "security/23-record-overrides-a-private-token.py": _OLDER,
    "security/27-one-checkpoint-holds-the-writer.py": "one call may take the writer for long",
    "security/28-unread-replies-eat-memory.py": "unread replies are bounded by session only",
    "security/30-one-client-takes-all-polls.py": "polls are bounded for all together only",
    "security/32-squatted-port-collects-the-token.py": "stock sends its token to any listener",
    "security/34-one-long-line-stops-the-loop.py": "a long line is parsed in the loop",
    "security/37-core-holds-token-and-memories.py": "cores are not switched off",
    "security/38-readable-token-is-taken.py": "a token that others may read is kept",
}


def scripts() -> list[Path]:
    """Return the scripts: those with a number in front of their name."""
    found = [*ROOM.glob("*/*.sh"), *ROOM.glob("*/*.py")]
    return sorted(path for path in found if path.name[:1].isdigit())


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def parameters() -> list[object]:
    if not scripts():
        return [pytest.param(None, id="none")]
    return [
        pytest.param(
            path,
            id=named(path),
            marks=[pytest.mark.xfail(strict=True, reason=KNOWN[named(path)])]
            if named(path) in KNOWN
            else [],
        )
        for path in scripts()
    ]


@pytest.mark.parametrize("script", parameters())
def test_a_case_script_exits_with_0(script: Path | None, model_home: Path, tmp_path: Path) -> None:
    if script is None:
        want(CASES, f"no scripts in {ROOM}")
    assert script is not None
    environ = {
        "PALACE_BIN": str(Path(sys.executable).parent / "palace"),
        "MODEL_HOME": str(model_home),
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
    }
    said = tmp_path / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [RUNNERS[script.suffix], str(script)],
            env=environ,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # so that it tidies up
            code = process.wait(60)
    words = said.read_text(errors="replace")[-2000:]
    if code not in (0, 1, -signal.SIGTERM):
        want(CASES, f"{named(script)} could not be tried here ({code}): {words.strip()[-200:]}")
    assert code == 0, words
