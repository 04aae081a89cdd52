"""`palace share` through real brokers: who comes for a share over TLS, and what its token opens."""

import http.client
import json
import shutil
import ssl
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest

from palace.broker.http.app import FEED as PATH
from tests.contract.test_doors import bearer, owners_token, run
from tests.support.loads.light import storm_site
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import Serving, settle, status_of
from tests.support.processes.clients import Site, end_brokers, wait_until
from tests.support.stores.exporter import export

pytestmark = pytest.mark.process

HOST = "127.0.0.1"


@attrs.frozen
class Shared:
    """A palace that shares wing w, and all, and another one that may pull."""

    site: Site
    here: Site
    address: str
    root: Path

    def token(self, name: str) -> str:
        return (self.root / f"{name}.token").read_text().strip()

    def ask(self, path: str, token: str, method: str = "GET", **more: str) -> tuple[int, str]:
        """Ask over TLS; whoever has the fingerprint need not trust an authority."""
        port = int(self.address.partition("#")[0].rpartition(":")[2])
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(HOST, port, context=context, timeout=30)
        try:
            connection.request(method, path, headers=bearer(token) | more)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    root = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    try:
        for name in ("there", "here"):
            (root / name).mkdir()
        site, here = storm_site(root / "there"), storm_site(root / "here")
        export(site.palace, {"1": "one"}, facts=[("bob", "is", "here")])
        settle(site, f'serve_http = "{HOST}:{free_port()}"')
        with Serving(site):
            said = run(site, "share", "new", "all", "--all", "--out", str(root / "all.token"))
            address = said.split("palace remote add all ")[1].split()[0]
            run(site, "share", "new", "w", "--wing", "w2", "--out", str(root / "w.token"))
            wait_until(lambda: status_of(site)["http"]["tls"], what="it is served over TLS")
            yield Shared(site, here, address, root)
    finally:
        end_brokers(root)
        shutil.rmtree(root)


def pulled(shared: Shared, **environ: Any) -> tuple[int, str, str]:
    done = shared.here.run("pull", "team", **environ)
    return done.returncode, done.stdout, done.stderr


def lines_of(answer: tuple[int, str]) -> list[dict[str, Any]]:
    assert answer[0] == 200, answer
    return [json.loads(line) for line in answer[1].splitlines()]


def test_what_is_shared_is_pulled_until_it_is_revoked(shared: Shared) -> None:
    run(shared.site, "share", "new", "team", "--all", "--out", str(shared.root / "team.token"))
    file = shared.root / "team.token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    add = ("remote", "add", "team", shared.address, "--token-file", str(file))
    file.chmod(0o640)
    assert "others can read it: chmod 600" in shared.here.run(*add).stderr
    file.chmod(0o600)
    assert "is added" in run(shared.here, *add)
    # Whatever the environment says of proxies: nobody is asked but who was named.
    code, said, problem = pulled(shared, HTTPS_PROXY="http://127.0.0.1:9", ALL_PROXY="http://x:1")
    assert (code, problem) == (0, "")
    assert said.startswith("team: ")
    (remote,) = map(json.loads, run(shared.here, "remote", "list", "--json").splitlines())
    assert remote["position"]["seq"] >= 2
    assert shared.token("team") not in json.dumps(remote)
    assert "is shared no more" in run(shared.site, "share", "revoke", "team")
    code, _, problem = pulled(shared)
    assert (code, "refuses the token" in problem) == (88, True)


def test_a_share_tells_its_own_wings_and_no_facts_that_were_not_named(shared: Shared) -> None:
    told = lines_of(shared.ask(PATH, shared.token("all")))
    assert {line.get("kind") for line in told} >= {"drawer", "fact"}
    drawers = [line["content"] for line in told if line.get("kind") == "drawer"]
    assert drawers[0]["text"] == "one"
    others = lines_of(shared.ask(PATH, shared.token("w")))
    assert not [line for line in others if "kind" in line], "not even that there is something"
    last = next(line["read"] for line in told if "read" in line)
    since = urlencode({"since": json.dumps(last)})
    again = lines_of(shared.ask(f"{PATH}?{since}", shared.token("all")))
    assert [list(line) for line in again[1:]] == [["read"], ["end", "damaged", "more"]]


def test_its_token_opens_its_feed_and_nothing_else_opens_that(shared: Shared) -> None:
    owner, plugin = owners_token(shared.site), run(shared.site, "token", "new", "plugin").strip()
    for token in (owner, plugin, "0" * 64, "", "\u00e9"):
        status, text = shared.ask(PATH, token)
        assert (status, "one" in text) == (401, False)
    mine = shared.token("all")
    for path in ("/v1/namespaces", "/mcp", "/sync/ops", "/metrics", f"{PATH}/", f"{PATH}x"):
        assert shared.ask(path, mine)[0] in (401, 404), path
    assert shared.ask(PATH, mine, origin="https://pages.example")[0] == 403
    assert shared.ask(PATH, mine, method="POST")[0] == 405
    for query in ("since=", "since=[]", "since=1&since=2", "until=1", "since=" + "9" * 5000):
        assert shared.ask(f"{PATH}?{query}", mine)[0] == 400, query


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "Say what is shared"),
        (("--all", "--wing", "w"), "Say what is shared"),
        (("--all", "--kind", "diary"), "--kind takes drawer or fact"),
        (("--all",), "Name the new file"),
        (("--all", "--out", "{root}/all.token"), "exists"),
    ],
)
def test_what_can_not_be_shared_is_said(shared: Shared, options: tuple[str, ...], why: str) -> None:
    given = [one.format(root=shared.root) for one in options]
    assert why in shared.site.run("share", "new", "odd", *given).stderr
    assert (
        "shared already"
        in shared.site.run(
            *("share", "new", "all", "--all", "--out", str(shared.root / "x"))
        ).stderr
    )
    assert "no share 'odd'" in shared.site.run("share", "revoke", "odd").stderr
    listed = run(shared.site, "share", "list").splitlines()
    assert [line.split("  ")[0] for line in listed[:-1]] == ["all", "w"]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("https://u:p@h:1", "is at https://HOST"),
        ("https://h:1/path", "is at https://HOST"),
        ("https://h:99999", "is at https://HOST"),
        ("https://h#12", "is at https://HOST"),
        ("http://h:1", "is no directory"),
        ("ssh://-oProxyCommand=x", "is no ssh address"),
    ],
)
def test_what_is_no_address_is_not_added(shared: Shared, address: str, why: str) -> None:
    token = ("--token-file", str(shared.root / "all.token")) if "https" in address else ()
    assert why in shared.here.run("remote", "add", "odd", address, *token).stderr
    assert "has a token, in a file" in shared.here.run("remote", "add", "x", "https://h:1").stderr
