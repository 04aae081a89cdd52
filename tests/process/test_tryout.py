"""`palace try`, as the README promises it."""

import os
import re
from pathlib import Path

import pytest

from tests.support.processes.clients import Site, brokers_of

pytestmark = pytest.mark.process


def test_the_main_job_runs_tells_its_steps_and_leaves_nothing(site: Site) -> None:
    done = site.run("try", timeout_s=300)

    assert done.returncode == 0, done.stdout + done.stderr
    scratch = re.search(r"a scratch palace: (\S+)/palace", done.stdout)
    assert scratch is not None
    for step in ("elected one broker", "SIGKILL", "in the same session, found again", "epoch 2"):
        assert step in done.stdout
    assert len(re.findall(r"^ +\d+ ms  ", done.stdout, re.MULTILINE)) == 11
    assert not os.path.exists(scratch.group(1))
    assert brokers_of(Path(scratch.group(1))) == []


def test_a_team_decrees_and_keeps_to_itself_and_leaves_nothing(site: Site) -> None:
    done = site.run("try", "--team", timeout_s=300)

    assert done.returncode == 0, done.stdout + done.stderr
    scratch = re.search(r"a scratch palace: (\S+)/palace", done.stdout)
    assert scratch is not None
    told = done.stdout
    assert re.search(r"scope=ORG ns=org:lead\]: Every change .* \[REDACTED:github-token\]", told)
    assert "the workspace coder may not write org:lead" in told
    assert "in the same session, found the rule again" in told
    assert re.search(r"commit  org:lead  mem-\w+  by lead  \d+ bytes  sha256 \w{64}", told)
    assert "the token is in no file" in told
    assert not os.path.exists(scratch.group(1))
    assert brokers_of(Path(scratch.group(1))) == []
