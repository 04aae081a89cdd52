"""Requests that Schemathesis makes of the document: what it allows, and what it doesn't.

Each answer must be one of the document's; what is right must be taken, what is wrong refused; what
was removed is gone, and methods that it doesn't name are refused as such.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.conftest import ON, flat, serving
from tests.contract.reading import document
from tests.contract.test_doors import owners_token
from tests.support.brokers.http import serverinfo_of
from tests.support.faults.killing import is_deep, is_full
from tests.support.processes.brokers import Serving, make_palace, make_site
from tests.support.processes.clients import wait_until

pytestmark = pytest.mark.process

EXAMPLES = 1000 if is_full() else 300 if is_deep() else 8


@pytest.fixture(params=["palace", "flat", *(["the real engine"] if is_deep() else [])])
def served(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield a server's URL, and the token that it wants."""
    if request.param == "flat":
        with flat() as address:
            yield f"http://{address}", ""
        return
    with ExitStack() as stack:
        if request.param == "palace":
            site = stack.enter_context(serving(short_dir))
        else:
            site = make_site(short_dir, request.getfixturevalue("model_home"))
            make_palace(site, ON)
            stack.enter_context(Serving(site))
        wait_until(lambda: serverinfo_of(site.home).exists(), what="stock is told")
        port = json.loads(serverinfo_of(site.home).read_text())["port"]
        yield f"http://127.0.0.1:{port}", owners_token(site)


def test_whatever_is_asked_is_answered_as_the_document_says(
    served: tuple[str, str], tmp_path: Path
) -> None:
    url, token = served
    assert complaints(url, token, tmp_path) == ""


def complaints(url: str, token: str, tmp: Path, names: Sequence[str] = ()) -> str:
    """Return what Schemathesis says against a server, "" for nothing.

    `names` are the namespaces that are asked for, any where there are none.
    """
    (tmp / "document.yaml").write_text(yaml.safe_dump(asked_for(names)))
    argv = [
        *(sys.executable, "-m", "schemathesis.cli", "run", "document.yaml"),
        *(f"--url={url}", f"--max-examples={EXAMPLES}", "--checks=all", "--no-color", "--seed=1"),
        *("--phases=examples,coverage,fuzzing,stateful", "--generation-database=none"),
        *((f"--header=Authorization: Bearer {token}",) if token else ()),
        "--exclude-checks=ignored_auth",  # it wants a header, which http.sock doesn't
    ]
    run = subprocess.run(argv, cwd=tmp, capture_output=True, text=True, timeout=9000, check=False)
    return run.stdout[-6000:] + run.stderr[-2000:] if run.returncode else ""


def asked_for(names: Sequence[str]) -> Any:
    """Return the document with what Schemathesis can make requests of."""
    asked = document()
    schemas = asked["components"]["schemas"]
    # It can't make texts of a pattern and of so many characters, and sends none of the object's.
    del schemas["Text"]["maxLength"]
    # Nor does it know in which years there is a 29th of February.
    instant = schemas["Instant"]
    instant["pattern"] = instant["pattern"].replace("02-(0[1-9]|[12][0-9])", "02-(0[1-9]|1[0-9])")
    if names:
        schemas["NamespaceName"]["enum"] = list(names)
    return asked
