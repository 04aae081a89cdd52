"""Situations, what the doctor says of each, and its remedy, which is tried and works.

To add one: write what brings it about, and name it in SITUATIONS with its finding's code, its
level, words of its remedy, and what somebody does who follows that.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from palace.doctor.examine import examine_palace
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.doctor.mending import fixes_of, mend
from palace.protocol.errors import ConfigError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.stock_config import server_directory
from tests.support.machines.needs import need_root

DEAD_PID = 1 << 22  # above any that the kernel gives out


@attrs.define(kw_only=True)
class Place:
    """A home with a palace in it, and the environment that the doctor is asked from."""

    home: Path
    environ: dict[str, str]
    found_by: str = "--palace"

    @property
    def palace(self) -> Path:
        return self.home / "palace"

    @property
    def config(self) -> Path:
        return self.home / ".mempalace" / "config.json"

    def configure(self, **settings: object) -> None:
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(json.dumps(settings))

    def findings(self) -> list[Finding]:
        paths = Paths(str(self.palace), found_by=self.found_by)
        return examine_palace(paths, ShimEnvironment(self.environ))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "palace").mkdir(mode=0o700)
    return Place(home=tmp_path, environ={"HOME": str(tmp_path), "PATH": os.environ["PATH"]})


@attrs.frozen(kw_only=True)
class Situation:
    """`heal` does what `remedy` says; None: the doctor's own --fix does it."""

    arrange: Callable[[Place], None]
    code: str
    level: str
    text: str
    remedy: str
    heal: Callable[[Place], None] | None


def other_user_may_write(place: Place) -> None:
    place.palace.chmod(0o777)


def proxied(place: Place) -> None:
    place.environ["http_proxy"] = "http://proxy.example:3128"
    place.environ["no_proxy"] = "intranet.example"


def excepted(place: Place) -> None:
    place.environ["no_proxy"] = "intranet.example,127.0.0.1,localhost,::1"


def routed_by_setting(place: Place) -> None:
    place.configure(write_routing={"hooks": "require"})


def hooks_daemon(place: Place) -> None:
    place.configure(hooks={"daemon": True})


def unconfigured(place: Place) -> None:
    place.configure()


def routed_by_variable(place: Place) -> None:
    place.environ["MEMPALACE_WRITE_ROUTING"] = "prefer"


def not_routed(place: Place) -> None:
    place.environ["MEMPALACE_WRITE_ROUTING"] = "direct"


def exact_backend(place: Place) -> None:
    place.configure(backend="sqlite_exact")


def exact_backend_over_chroma(place: Place) -> None:
    exact_backend(place)
    (place.palace / "chroma.sqlite3").write_bytes(b"SQLite format 3\0")


def chroma_named(place: Place) -> None:
    place.configure(backend="chroma")


def broken_config(place: Place) -> None:
    place.configure()
    place.config.write_text('{"backend": ')


def unmeant_path(place: Place) -> None:
    (place.palace / "palace.toml").write_text('graph = "${HOME}/graph.sqlite3"\n')


def no_settings(place: Place) -> None:
    (place.palace / "palace.toml").unlink()


def another_by_default(place: Place) -> None:
    place.found_by = "MEMPALACE_PATH"
    other = place.home / ".mempalace" / "palace"
    other.mkdir(parents=True)
    (other / "chroma.sqlite3").write_bytes(b"SQLite format 3\0")


def one_for_both(place: Place) -> None:
    place.environ["MEMPALACE_PALACE_PATH"] = str(place.palace)


def dead_server(place: Place) -> None:
    directory = Path(server_directory(str(place.home), str(place.palace)))
    directory.mkdir(parents=True)
    told = {"pid": DEAD_PID, "port": 9, "server": "palace"}
    (directory / "serverinfo.json").write_text(json.dumps(told))


def failed_start(place: Place) -> None:
    begun = 'time=2026-01-01T00:00:00Z level=info logger=palace.serve pid=1 text="palace: epoch 1"'
    text = "palace serve: Stock holds it. End it."
    failed = f'time=2026-01-02T00:00:00Z level=error logger=palace.serve pid=2 text="{text}"'
    (place.palace / "broker.log").write_text(f"{begun}\n{failed}\n")


def started_since(place: Place) -> None:
    with (place.palace / "broker.log").open("a") as log:
        log.write('time=2026-01-03T00:00:00Z level=info text="palace: epoch 2 of /p"\n')


def blocked_home(place: Place) -> None:
    (place.home / ".mempalace").touch()


def moved_away(place: Place) -> None:
    (place.home / ".mempalace").rename(place.home / ".mempalace.old")


SITUATIONS = {
    "no locks can be had in the home": Situation(
        arrange=blocked_home,
        code="closed_home",
        level=ERROR,
        text=".mempalace/locks can't hold the locks",
        remedy="mv ",
        heal=moved_away,
    ),
    "others may write": Situation(
        arrange=other_user_may_write,
        code="unsafe_palace",
        level=ERROR,
        text="mode 0777",
        remedy="chmod go-w",
        heal=None,
    ),
    "a proxy hides loopback": Situation(
        arrange=proxied,
        code="proxy",
        level=WARNING,
        text="http_proxy=http://proxy.example:3128 is set, and no_proxy excepts 127.0.0.1 not",
        remedy="export no_proxy=127.0.0.1,localhost",
        heal=excepted,
    ),
    "hooks write through the daemon, by a setting": Situation(
        arrange=routed_by_setting,
        code="write_routing",
        level=WARNING,
        text="write_routing.hooks in",
        remedy="Let them write directly",
        heal=unconfigured,
    ),
    "hooks write through the daemon, by the old switch": Situation(
        arrange=hooks_daemon,
        code="write_routing",
        level=WARNING,
        text="hooks.daemon in",
        remedy="daemon stop",
        heal=unconfigured,
    ),
    "hooks write through the daemon, by a variable": Situation(
        arrange=routed_by_variable,
        code="write_routing",
        level=WARNING,
        text="MEMPALACE_WRITE_ROUTING is 'prefer'",
        remedy="set it to direct",
        heal=not_routed,
    ),
    "another backend": Situation(
        arrange=exact_backend,
        code="no_journal",
        level=WARNING,
        text="in the backend sqlite_exact",
        remedy="palace stop --hold",
        heal=unconfigured,
    ),
    "another backend than what is there": Situation(
        arrange=exact_backend_over_chroma,
        code="backend_mismatch",
        level=ERROR,
        text="says that the backend is sqlite_exact",
        remedy='"backend": "chroma"',
        heal=chroma_named,
    ),
    "stock's settings are broken": Situation(
        arrange=broken_config,
        code="settings",
        level=ERROR,
        text=".mempalace/config.json can't be understood: it is not JSON",
        remedy="if nothing in it is needed",
        heal=unconfigured,
    ),
    "a path that nobody meant": Situation(
        arrange=unmeant_path,
        code="settings",
        level=ERROR,
        text="${HOME} was not expanded",
        remedy="Write the path out in full",
        heal=no_settings,
    ),
    "stock would use another palace": Situation(
        arrange=another_by_default,
        code="other_palace",
        level=WARNING,
        text="MEMPALACE_PATH names",
        remedy="MEMPALACE_PALACE_PATH=",
        heal=one_for_both,
    ),
    "a killed broker is still published": Situation(
        arrange=dead_server,
        code="dead_server",
        level=WARNING,
        text=f"pid {DEAD_PID}",
        remedy="rm ",
        heal=None,
    ),
    "the last start failed": Situation(
        arrange=failed_start,
        code="last_start",
        level=WARNING,
        text="gave up at 2026-01-02T00:00:00Z: palace serve: Stock holds it. End it.",
        remedy="palace logs",
        heal=started_since,
    ),
}


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
