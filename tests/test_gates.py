"""Rules that what was built later can break without any test of its own turning red.

Each is a search of the syntax tree, or of what the tree's tables say, with changes of the very code
that it must find, and such as look alike, which it must not.  Rules about decoded data are in
test_hostile_data.py, about rooms in test_imports.py, about tests that can't fail in
test_assertions.py, with slips of their own.
"""

import ast
from collections.abc import Callable

import attrs
import pytest

from tests.support.gates.searches import (
    ATTACKS,
    JOURNAL,
    Sources,
    asks_at_will,
    dead_modules,
    ends_untold,
    found_in,
    half_made_tools,
    reaches_a_store,
    read_sources,
    says_a_secret,
    says_no_why,
    shows_a_content,
    starts_a_program,
    unknown_settings,
    uses_a_shell,
)

BROKER = "palace/broker/broker.py"
CONSULTED = "palace/memory/consulted.py"
DECIDING = "palace/engine/durability/candidate_agents.py"
ENDED = "palace/engine/hosting/delegations.py"
JOURNALLED = "palace/engine/stores/journalled.py"
LIFE = "palace/broker/life.py"
LISTING = "palace/broker/candidate_catalogue.py"
OWN = "palace/engine/durability/own_tools.py"
RUN = "palace/provider/run.py"
SERVE = "palace/broker/serve.py"
SPAWN = "palace/client/spawn.py"
TABLE = "palace/protocol/tools.py"
TOKENS = "palace/commands/tokens.py"
WATCHDOG = "palace/broker/watchdog.py"
WIRE = "palace/plugin/wire.py"


@attrs.frozen
class Change:
    """One place of the code changed; an empty `old` adds to its end, or a file."""

    path: str
    old: str
    new: str

    def of(self, sources: Sources) -> dict[str, str]:
        text = sources.get(self.path, "")
        assert text.count(self.old) == 1 or not self.old, f"{self.path} has no one {self.old!r}"
        changed = text.replace(self.old, self.new) if self.old else text + self.new
        if self.path.endswith(".py"):
            ast.parse(changed)
        return {**sources, self.path: changed}


def more(*lines: str) -> Change:
    """Return the change that adds a function."""
    return Change(LIFE, "", "\n\ndef more(given):\n    " + "\n    ".join(lines) + "\n")


@attrs.frozen
class Gate:
    """`breaks` are changes that it must find, `fits` such that it must not."""

    search: Callable[[Sources], list[str]]
    breaks: tuple[Change, ...]
    fits: tuple[Change, ...]


NEAREST = "    for one in gate.find("
SHOWN = '"text": gate.text_of(memory)'
NO_INPUT = "        stdin=subprocess.DEVNULL,"
CLIENT = "            follow_redirects=False,\n            trust_env=False,\n"
TIMEOUT = "timeout=httpx.Timeout(self.total_s, connect=min(CONNECT_S, self.total_s))"
BODY = "        body=verdict.detail,\n"
REFUSED = "or remove it: no token was made."
LOGGED = "            limit_s,\n        )\n"
REPORTED = '    argv.append(f"--report-fd={REPORT_FD}")'
LISTED = '    "palace_forget_memory": _MUTATION,\n'

GATES = {
    "memories are reached by the gate alone": Gate(
        found_in(
            reaches_a_store,
            r"palace\.memory",
            {
                "memory/gate.py": 10,
                "memory/both.py": 3,  # the copy of what is forgotten elsewhere
                "memory/held.py": 8,  # holds a store for each of its calls
                "memory/moving.py": 4,  # the owner's, who moves all of them
                "engine/durability/own_tools.py": 1,  # whether a namespace is empty
                "engine/durability/opening.py": 1,  # a path of that name
            },
        ),
        breaks=(
            Change(CONSULTED, NEAREST, "    for one in gate.store.find("),
            Change(CONSULTED, NEAREST, f"    gate.store.idents('team:a')\n{NEAREST}"),
            Change(CONSULTED, NEAREST, f"    store = gate.store\n{NEAREST}"),
        ),
        fits=(
            Change(CONSULTED, NEAREST, f"    # not gate.store.find(wanted)\n{NEAREST}"),
            Change(CONSULTED, NEAREST, f'    "gate.store.".find(query)\n{NEAREST}'),
        ),
    ),
    "memories are shown as the gate shows them": Gate(
        found_in(
            shows_a_content,
            r"\.content\b",
            {
                "memory/gate.py": 3,  # `text_of` itself; a digest
                "memory/confined.py": 1,  # it is stored again
                "memory/consulted.py": 1,  # its beginning, which `text_of` marks
                "engine/hosting/memories.py": 3,  # stores it
                "plugin/elsewhere.py": 1,  # sends it to the server that is to hold it
            },
        ),
        breaks=(
            Change(CONSULTED, SHOWN, '"text": memory.content'),
            Change(CONSULTED, SHOWN, f'{SHOWN}, "also": memory.content[:9]'),
        ),
        fits=(
            Change(CONSULTED, SHOWN, '"text": gate.text_of(cut(memory, memory.content[:9]))'),
            Change(CONSULTED, SHOWN, f'{SHOWN}, "also": "memory.content"'),
        ),
    ),
    "programs are started in known places": Gate(
        found_in(
            starts_a_program,
            r"subprocess|\bos\b|\bpty\b|process",
            {
                "kernel/kernel.py": 3,  # brokers and canaries; leaving a parent
                "kernel/darwin.py": 1,  # ps, lsof
                "provider/run.py": 1,  # whoever brings memory
                "client/feeds/ssh.py": 1,
                "client/guest/ssh.py": 4,
                "commands/service.py": 1,  # systemctl, launchctl
                "engine/embedding/wheel.py": 1,  # pip
                # palace itself
                "broker/reading.py": 1,
                "commands/agent.py": 1,
                "engine/durability/examiner.py": 1,
                "engine/hosting/succession.py": 1,
            },
        ),
        breaks=(
            more("from os import posix_spawn as start", "start('/bin/true', [], {})"),
            more("import subprocess as s", "s.run(['true'])"),
        ),
        fits=(
            more("'''As os.system() does.'''", "given.process.run('subprocess.run()')"),
            Change(RUN, "import subprocess\n", "import subprocess as subprocess\n"),
        ),
    ),
    "no program is started by a shell": Gate(
        found_in(uses_a_shell, "shell|system|popen|getoutput", {}),
        breaks=(
            Change(RUN, NO_INPUT, f"{NO_INPUT}\n        shell=True,"),
            more("from os import system", "system('true')"),
        ),
        fits=(Change(RUN, NO_INPUT, f"{NO_INPUT}  # and no shell=True"),),
    ),
    "servers are asked on our terms": Gate(
        found_in(asks_at_will, "httpx|requests|urlopen|verify", {}),
        breaks=(
            Change(WIRE, CLIENT, CLIENT.replace("follow_redirects=False,\n", "\n")),
            Change(WIRE, CLIENT, CLIENT.replace("trust_env=False", "trust_env=True")),
            Change(WIRE, TIMEOUT, "timeout=None"),
            more("from httpx import get", "get('http://x')"),
            more("from urllib.request import urlopen", "urlopen('http://x')"),
            more("given.verify('a secret')"),
        ),
        fits=(
            Change(WIRE, TIMEOUT, "timeout=self.total_s"),
            more("given.get('httpx.get()', verify=True)"),
        ),
    ),
    "what failed says why": Gate(
        found_in(says_no_why, "FAILED|STUCK", {}),
        breaks=(
            Change(ENDED, BODY, ""),
            Change(ENDED, BODY, '        body="",\n'),
            Change(RUN, "tails.text or ended", '""'),
            Change(LIFE, "state=FAILED, problem=canary.problem", "state=FAILED"),
        ),
        fits=(
            Change(ENDED, BODY, '        body=f"late: {verdict.detail}",\n'),
            Change(LIFE, "self.canary.state == FAILED", "self.canary.state in (FAILED,)"),
        ),
    ),
    "a broker's canary knows why it ends": Gate(
        found_in(
            ends_untold,
            r"exit\b|abort|raise_signal",
            {
                # No brokers, or none that has served.
                "__main__.py": 1,
                "canary/watch.py": 1,
                "engine/hosting/reader.py": 1,
                "kernel/kernel.py": 1,  # who has started it
                "ownership/lookout.py": 1,  # a command
                "shim/of_command.py": 1,
                "shim/unnamed.py": 1,
            },
        ),
        breaks=(
            Change(SERVE, "    life.left()\n", ""),
            Change(
                SERVE, "    life.left()\n    os._exit(code)", "    os._exit(code)\n    life.left()"
            ),
            Change(WATCHDOG, "        self.claim(WATCHDOG)\n", "        # self.claim(WATCHDOG)\n"),
            Change(BROKER, '        self.state.services.life.left("displaced")\n', ""),
            more("import sys", "sys.exit(1)"),
        ),
        fits=(
            Change(SERVE, "    life.left()\n", '    life.left("told")\n    given = "sys.exit()"\n'),
        ),
    ),
    "no secret is said": Gate(
        found_in(says_a_secret, "token|secret|proof|password|bearer", {}),
        breaks=(
            Change(TOKENS, REFUSED, "or remove it: no token {token} was made."),
            Change(TOKENS, REFUSED, "or remove it: not {made.token[:8]}."),
            Change(WATCHDOG, LOGGED, LOGGED.replace("limit_s,", "limit_s, self.token,")),
            Change(SPAWN, REPORTED, '    argv += [f"--token={token}"]'),
        ),
        fits=(
            Change(TOKENS, REFUSED, "or remove it: {token_file} has no token."),
            Change(WATCHDOG, LOGGED, LOGGED.replace("limit_s,", "0.0 if self.token else limit_s,")),
            Change(SPAWN, REPORTED, '    argv += [f"--token-file={token_file}"]'),
        ),
    ),
    "a tool of palace's own is one everywhere": Gate(
        half_made_tools,
        breaks=(
            Change(TABLE, LISTED, LISTED + LISTED.replace("forget", "pin")),
            Change(OWN, '    "palace_forget_memory": Gate.forget,\n', ""),
            Change(TABLE, '    "palace_forget_memory": "mempalace_delete_drawer",\n', ""),
            Change(JOURNALLED, '    "palace_forget_memory": (_DRAWERS, _AUDIT),\n', ""),
            Change(TABLE, LISTED, LISTED.replace("_MUTATION", "_QUERY")),
            Change(JOURNAL, "| `palace_heartbeat` |", "| `palace_beat` |"),
            Change(ATTACKS, '"name": "palace_commit_memory"', '"name": "palace_commit_it"'),
            Change(JOURNAL, "| `palace_accept_candidate` |", "| `palace_take_candidate` |"),
            Change(LISTING, '        "palace_dismiss_candidate",\n', '        "palace_drop",\n'),
            Change(DECIDING, '"palace_search_candidates"', '"palace_find_candidates"'),
        ),
        fits=(
            Change(TABLE, LISTED, LISTED + "    # no palace_pin_memory\n"),
            Change(JOURNALLED, "(_DRAWERS, _AUDIT),", "(_AUDIT, _DRAWERS),"),
        ),
    ),
    "a variable is a documented one": Gate(
        unknown_settings,
        breaks=(more("given.get('PALACE_NO_CANARY')"),),
        fits=(more("'''There is no $PALACE_NO_CANARY.'''", "given.get('PALACE_NO_SPAWN')"),),
    ),
    "what is built is reached by the command": Gate(
        dead_modules,
        breaks=(
            Change("palace/memory/pins.py", "", "PINS = 1\n"),
            Change("palace/memory/pins.py", "", "import palace.memory.pins\n"),
        ),
        fits=(
            Change(
                "palace/memory/gate.py", "", "\n\ndef late():\n    import palace.memory.expiry\n"
            ),
        ),
    ),
}


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_sources()


@pytest.mark.parametrize("name", GATES)
def test_the_tree_keeps_the_rule(name: str, sources: Sources) -> None:
    assert GATES[name].search(sources) == []


@pytest.mark.parametrize("name", GATES)
def test_each_rule_finds_what_breaks_it(name: str, sources: Sources) -> None:
    for change in GATES[name].breaks:
        assert GATES[name].search(change.of(sources)), change


@pytest.mark.parametrize("name", GATES)
def test_no_rule_finds_what_only_looks_like_it(name: str, sources: Sources) -> None:
    for change in GATES[name].fits:
        assert GATES[name].search(change.of(sources)) == [], change
