"""`palace try --team`: what workspaces are for, on a scratch palace.

Two agents run in two directories with the very same entry.  One decrees, the other obeys, and
neither can do the other's part; a pasted token is nowhere; and a killed broker changes nothing.
"""

import os
from typing import Any

import attrs

from palace.commands.agent import Agent
from palace.commands.try_out import Steps, await_engine, kill_broker, owner_text, stop
from palace.commands.workspaces import Wish, add_workspace, audit_text, tree_text
from palace.kernel.kernel import Kernel
from palace.kernel.odd_files import open_regular
from palace.protocol.errors import Forbidden, PalaceError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths, python_command

RULE = "Every change gets a test that was red before it. Releases are pushed with"
QUESTION = "what has to be there before I change something?"
PRIVATE = "I still don't know why the cache is cold after midnight."


def tell_team_story(paths: Paths, environ: dict[str, str]) -> None:
    """Let two workspaces share a palace; raises PalaceError where that goes wrong."""
    environment, steps = ShimEnvironment(environ), Steps()
    project = f"{os.path.dirname(paths.root)}/project"
    os.makedirs(f"{project}/app")
    agents: list[Agent] = []
    try:
        await_engine(paths, environment, steps)
        add_workspace(paths, environment, "lead", Wish(cwd=project))
        add_workspace(paths, environment, "coder", Wish(parent="lead", cwd=f"{project}/app"))
        tree = tree_text(paths, environment).replace(f"{project}", "project")
        steps.done("two workspaces are registered:")
        steps.show(tree)
        argv = [*python_command(), "shim", f"--palace={paths.root}"]
        agents += [
            Agent(os.path.basename(directory), argv, environ, cwd=directory)
            for directory in (project, f"{project}/app")
        ]
        _Team(paths, environment, steps, agents[0], agents[1]).play()
    finally:
        codes = [agent.close() for agent in agents]
        steps.done(f"both agents left (exit codes {codes})")
        stop(paths, environment, steps)


@attrs.frozen
class _Team:
    """The story's two agents, started with the same words in two directories."""

    paths: Paths
    environment: ShimEnvironment
    steps: Steps
    lead: Agent
    coder: Agent
    # The shape of a token of GitHub's, and nobody's.
    secret: str = attrs.field(init=False, factory=lambda: f"ghp_{Kernel().token(18)}")

    def play(self) -> None:
        self._tell_who_they_are()
        self._decree()
        self._keep_to_oneself()
        kill_broker(self.paths, self.steps)
        found = self._search(self.coder, QUESTION) or [{"content": ""}]
        _check(RULE in str(found[0]["content"]), "The rule is lost.")
        self.steps.done("the coder, in the same session, found the rule again")
        self.steps.done(owner_text(self.paths, "owned now by"))
        self._account_for_it()

    def _tell_who_they_are(self) -> None:
        for agent, name in ((self.lead, "lead"), (self.coder, "coder")):
            told = agent.tool("palace_list_writable_namespaces")
            _check(told["workspace"] == name, f"An agent is {told['workspace']!r}, not {name}.")
            may = ", ".join(one["name"] for one in told["namespaces"])
            self.steps.done(f"the same `palace shim`, started elsewhere, is {name}: writes {may}")

    def _decree(self) -> None:
        decreed = {"content": f"{RULE} {self.secret}.", "namespace": "org:lead"}
        told = self.lead.tool("palace_commit_memory", **decreed)
        _check(told["redacted"], "A secret was not found.")
        self.steps.done("the lead decreed a rule, and pasted a token into it")
        hits = self._search(self.coder, QUESTION)
        _check(len(hits) == 1, f"The coder found {len(hits)} memories.")
        content = str(hits[0]["content"])
        _check(
            self.secret not in content and content.startswith("[MEMORY id="), "It is not marked."
        )
        self.steps.done("the coder found it, marked as somebody else's words, without the token:")
        self.steps.show(content)
        try:
            self.coder.tool("palace_commit_memory", content="No tests today.", namespace="org:lead")
        except Forbidden as refused:
            self.steps.done("the coder can't decree:")
            self.steps.show(refused.message)
        else:
            raise PalaceError("The coder could decree. Please report this.")

    def _keep_to_oneself(self) -> None:
        self.coder.tool("palace_commit_memory", content=PRIVATE)
        _check(len(self._search(self.coder, PRIVATE)) > 0, "The coder's own memory is lost.")
        hits = self._search(self.lead, PRIVATE)
        _check(all(PRIVATE not in str(one["content"]) for one in hits), "The lead read it.")
        self.steps.done("the coder kept something to itself; the lead's search doesn't find it")

    def _account_for_it(self) -> None:
        rows = audit_text(self.paths, self.environment, as_json=False).splitlines()
        _check(len(rows) == 1, f"The decree was audited {len(rows)} times.")
        self.steps.done("the decree was audited once, by its digest:")
        self.steps.show(rows[0])
        held = list(files_with(os.path.dirname(self.paths.root), self.secret.encode()))
        _check(not held, f"The token is in {held}.")
        self.steps.done("the token is in no file of the palace: journal, stores and logs were read")

    def _search(self, agent: Agent, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = agent.tool("palace_search_memory", query=query)["memories"]
        return found


def files_with(directory: str, needle: bytes) -> list[str]:
    """Return the files beneath a directory whose bytes hold something."""
    paths = [f"{where}/{name}" for where, _, names in os.walk(directory) for name in names]
    found = []
    for path in filter(os.path.isfile, paths):
        with open_regular(path) as file:
            if needle in file.read():
                found.append(path)
    return found


def _check(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise PalaceError(f"{otherwise} Please report this.")
