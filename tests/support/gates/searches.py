"""What breaks a rule: searches of the syntax tree; names are resolved, texts don't count."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent.parent.parent
JOURNAL = "docs/reference/journal.md"
TABLES = ("docs/reference/tools.md", "docs/reference/settings.md", "contract/tools-own.json")
TOOLS = "palace/protocol/tools.py"
CHANGES = ("_FILING", "_LARGE_FILING", "_MUTATION")  # of palace's own tools
ATTACKS = "tests/memory/test_gate.py"  # rights, names, lengths: of each tool that the gate answers
TASK_ATTACKS = "tests/engine/hosting/test_delegating.py"  # and of each that speaks of tasks
CANDIDATE_ATTACKS = "tests/engine/hosting/test_candidates.py"  # and of each about candidates
Sources = Mapping[str, str]
Parents = dict[ast.AST, ast.AST]


def read_sources() -> dict[str, str]:
    paths = [*sorted((ROOT / "palace").rglob("*.py")), *(ROOT / name for name in TABLES)]
    paths.append(ROOT / JOURNAL)
    paths += [ROOT / ATTACKS, ROOT / TASK_ATTACKS, ROOT / CANDIDATE_ATTACKS]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


@attrs.frozen(eq=False)
class Module:
    """A module's tree, the names that its imports stand for, and what each node is inside of."""

    path: str
    tree: ast.Module
    names: dict[str, str]
    parents: Parents

    def dotted(self, node: ast.AST) -> str:
        """Return what an expression refers to: `subprocess.run`, however that was imported."""
        first, dot, rest = ast.unparse(node).partition(".")
        return self.names.get(first, first) + dot + rest

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield self.dotted(node.func), node

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node


@cache
def module(path: str, text: str) -> Module:
    tree = ast.parse(text)
    names, parents = {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname or each.name: each.name for each in node.names if each.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        for child in ast.iter_child_nodes(node):
            parents[child] = node
    return Module(path, tree, names, parents)


Finds = Callable[[Module], Iterator[ast.AST]]


def found_in(
    finds: Finds, mentions: str, known: Mapping[str, int], where: str = "palace/"
) -> Callable[[Sources], list[str]]:
    """Return a search for what only `known` files may have, and just so often.

    What doesn't mention the pattern isn't parsed.
    """

    @cache
    def of_file(path: str, text: str) -> tuple[str, ...]:
        if not path.startswith(where) or not path.endswith(".py") or not re.search(mentions, text):
            return ()
        return tuple(f"{path}: {ast.unparse(node)[:90]}" for node in finds(module(path, text)))

    def search(sources: Sources) -> list[str]:
        found = [one for path, text in sources.items() for one in of_file(path, text)]
        counts = Counter(one.partition(":")[0].removeprefix("palace/") for one in found)
        wrong = {name for name in {*counts, *known} if counts[name] != known.get(name, 0)}
        gone = [f"{name}: not as often as it says here" for name in sorted(wrong - set(counts))]
        return [*gone, *(one for one in found if any(f"/{name}:" in one for name in wrong))]

    return search


# Memories are reached by the gate, and shown as the gate shows them.


def methods_of(path: str, name: str) -> frozenset[str]:
    """Return the methods of a module's class."""
    tree = ast.parse((ROOT / path).read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return frozenset(node.name for node in found.body if isinstance(node, ast.FunctionDef))


STORE = methods_of("palace/memory/gate.py", "MemoryStore")
MARKING = {"text_of", "wrap", "redact", "_clean", "checked_content"}


def reaches_a_store(found: Module) -> Iterator[ast.AST]:
    for node in ast.walk(found.tree):
        if not isinstance(node, ast.Attribute | ast.Name) or not isinstance(node.ctx, ast.Load):
            continue
        if (node.attr if isinstance(node, ast.Attribute) else node.id) != "store":
            continue
        above = found.parents[node]
        if isinstance(above, ast.Attribute):
            if above.attr in STORE:
                yield above
        elif isinstance(above, ast.Assign | ast.NamedExpr):  # another name for it
            yield above


def shows_a_content(found: Module) -> Iterator[ast.AST]:
    for node in ast.walk(found.tree):
        if not isinstance(node, ast.Attribute) or node.attr != "content":
            continue
        if not isinstance(node.ctx, ast.Load) or ast.unparse(node.value) == "asked":
            continue
        marked = (
            isinstance(one, ast.Call) and ast.unparse(one.func).rpartition(".")[2] in MARKING
            for one in found.around(node)
        )
        if not any(marked) and not isinstance(found.parents[node], ast.Compare):
            yield node


# Other programs, and other machines.

STARTS = re.compile(
    r"subprocess\.(run|Popen|call|check_call|check_output|getoutput|getstatusoutput)"
    r"|os\.(exec\w+|spawn\w+|posix_spawnp?|fork|forkpty|system|popen|startfile)|pty\.\w+"
    r"|trio\.(run_process|lowlevel\.open_process)|asyncio\.create_subprocess_\w+"
    r"|multiprocessing\.\w+|concurrent\.futures\.ProcessPoolExecutor"
)


def starts_a_program(found: Module) -> Iterator[ast.AST]:
    yield from (call for name, call in found.calls() if STARTS.fullmatch(name))


def uses_a_shell(found: Module) -> Iterator[ast.AST]:
    for name, call in found.calls():
        through = any(keyword.arg == "shell" for keyword in call.keywords)
        if through or name in ("os.system", "os.popen", "subprocess.getoutput"):
            yield call


# What has to be said, and what of it is wrong.
NEEDS = {
    "httpx.AsyncHTTPTransport": (("trust_env", ("True",)),),
    "httpx.AsyncClient": (
        ("trust_env", ("True",)),
        ("follow_redirects", ("True",)),
        ("timeout", ()),
    ),
}
AT_WILL = ("httpx.", "requests.", "urllib.request.urlopen")
SETTLED = {"httpx.Limits", "httpx.Timeout"}


def asks_at_will(found: Module) -> Iterator[ast.AST]:
    """Yield what asks a server by the environment's proxies, follows it elsewhere, or waits."""
    for name, call in found.calls():
        if name in NEEDS:
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            right = (said.get(key, "None") not in ("None", *others) for key, others in NEEDS[name])
            if not all(right):
                yield call
        elif name not in SETTLED and (name.startswith(AT_WILL) or name.endswith(".verify")):
            yield call  # `verify` asks whose it is whether a secret is one


# What ends, and why.

ENDED = re.compile(r"(\w+\.)*(FAILED|STUCK|STUCK_EVENT)")
WHY = {"detail", "text", "body", "problem", "fields", "why", "reason"}


def says_no_why(found: Module) -> Iterator[ast.AST]:
    """Yield calls and tuples that say that something failed or is stuck, and don't say why."""
    for node in ast.walk(found.tree):
        if isinstance(node, ast.Call):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            why = [keyword.value for keyword in node.keywords if keyword.arg in WHY] or node.args[
                1:
            ]
        elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load):
            if not isinstance(found.parents[node], ast.Return | ast.Assign) or len(node.elts) < 2:
                continue
            given, why = node.elts[:1], node.elts[-1:]
            if all(map(is_a_name_in_capitals, node.elts)):  # a list of states
                continue
        else:
            continue
        ended = [one for one in given if ENDED.fullmatch(ast.unparse(one))]
        if ended and not any(map(is_said, (one for one in why if one not in ended))):
            yield node


def is_a_name_in_capitals(node: ast.AST) -> bool:
    return ast.unparse(node).rpartition(".")[2].isupper()


def is_said(node: ast.AST) -> bool:
    return not isinstance(node, ast.Constant) or bool(node.value)


ENDS = {"os._exit", "os.abort", "sys.exit", "signal.raise_signal"}
TELLING = {"left", "claim", "refused"}


def ends_untold(found: Module) -> Iterator[ast.AST]:
    """Yield what ends a broker where its canary has not been told in the lines before it."""
    for name, call in found.calls():
        if name not in ENDS:
            continue
        statement = next(one for one in (call, *found.around(call)) if isinstance(one, ast.stmt))
        block = getattr(found.parents[statement], "body", [])
        before = block[: block.index(statement)] if statement in block else []
        said = [
            one.func.attr
            for line in before
            for one in ast.walk(line)
            if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)
        ]
        if not TELLING & set(said):
            yield call


# Secrets.

SECRET = re.compile(r"(?:\w+_)?(?:token|secret|proof|password)s?|bearer")
SAYS = re.compile(r"(?:\w+\.)*(?:logger\.\w+|say|complain|print|_?note|log_line|warn)")


def says_a_secret(found: Module) -> Iterator[ast.AST]:
    """Yield the names of secrets in lines of logs, texts of errors and arguments of programs."""
    for node in ast.walk(found.tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            said = [node.exc]
        elif isinstance(node, ast.Call) and SAYS.fullmatch(ast.unparse(node.func)):
            said = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, ast.Call) and STARTS.fullmatch(found.dotted(node.func)):
            said = node.args[:1]
        elif isinstance(node, ast.Assign | ast.AugAssign) and "argv" in target_of(node):
            said = [node.value]
        else:
            continue
        yield from (one for part in said for one in shown(found, part) if is_secret(one))


def target_of(node: ast.Assign | ast.AugAssign | ast.AnnAssign) -> str:
    return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def shown(found: Module, part: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(part):
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        above = found.parents[node]
        if isinstance(above, ast.Attribute) or (isinstance(above, ast.Call) and node is above.func):
            continue
        if isinstance(above, ast.IfExp) and node is above.test:
            continue
        yield node


def is_secret(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else ast.unparse(node)
    return SECRET.fullmatch(name) is not None


# What is in one table is in the others.


def keys_of(sources: Sources, path: str, name: str) -> set[str]:
    """Return the keys of a module's dict."""
    return set(items_of(sources, path, name))


def items_of(sources: Sources, path: str, name: str) -> dict[str, str]:
    """Return the items of a module's dict; values as they are written."""
    for node in module(path, sources[path]).tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and target_of(node) == name:
            assert isinstance(node.value, ast.Dict), name
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {
                str(key.value): ast.unparse(value)
                for key, value in pairs
                if isinstance(key, ast.Constant)
            }
    raise AssertionError(f"{path} has no {name}")


def answered_by(sources: Sources, path: str) -> set[str]:
    """Return the tools that a module's class answers: the keys of what its `_answers` returns."""
    for node in ast.walk(module(path, sources[path]).tree):
        if isinstance(node, ast.FunctionDef) and node.name == "_answers":
            given = [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
            assert len(given) == 1
            assert isinstance(given[0], ast.Dict)
            return {str(key.value) for key in given[0].keys if isinstance(key, ast.Constant)}
    raise AssertionError(f"{path} answers nothing")


def half_made_tools(sources: Sources) -> list[str]:
    """Return where a tool of palace's own is missing.

    It is listed with its lane, answered, told of, attacked, and what it journals is listed.
    """
    tables = {name: keys_of(sources, TOOLS, name) for name in ("OWN_TOOLS", "CANDIDATE_TOOLS")}
    known = tables["OWN_TOOLS"] | tables["CANDIDATE_TOOLS"]
    needs = keys_of(sources, TOOLS, "STANDS_FOR")
    answers = "palace/engine/durability/own_tools.py"
    rights, gated = keys_of(sources, answers, "_RIGHTS"), keys_of(sources, answers, "_GATED")
    tasks = keys_of(sources, "palace/engine/hosting/delegating.py", "_ASKED")
    candidates = answered_by(sources, "palace/engine/durability/candidate_agents.py")
    answered = rights ^ gated ^ tasks ^ candidates
    wrong = [f"{name}: {answers} doesn't answer it, or twice" for name in known ^ answered]
    wrong += [
        f"{name}: the table doesn't say what it stands for" for name in (gated | tasks) - needs
    ]
    lanes = items_of(sources, TOOLS, "OWN_TOOLS") | items_of(sources, TOOLS, "CANDIDATE_TOOLS")
    changing = {name for name, of in lanes.items() if of in CHANGES}
    journalled: set[str] = set()
    for name in ("OWN_JOURNALLED", "CANDIDATES_JOURNALLED"):
        journalled |= keys_of(sources, "palace/engine/stores/journalled.py", name)
    wrong += [
        f"{name}: what it leaves in the journal is not listed, or it changes nothing"
        for name in sorted(changing ^ journalled)
    ]
    wrong += [f"{name}: not in {JOURNAL}" for name in journalled if name not in sources[JOURNAL]]
    listing = {"OWN_TOOLS": "own", "CANDIDATE_TOOLS": "candidate"}
    for table, names in tables.items():
        for path in (*TABLES[::2], f"palace/broker/{listing[table]}_catalogue.py"):
            wrong += [f"{name}: not in {path}" for name in names if name not in sources[path]]
    attacks = {
        node.value.removeprefix("palace_")
        for path in (ATTACKS, TASK_ATTACKS, CANDIDATE_ATTACKS)
        for node in ast.walk(module(path, sources[path]).tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    gated |= candidates
    tried = {name for name in gated if name.removeprefix("palace_") in attacks}
    return wrong + [f"{name}: {ATTACKS} never tries it" for name in sorted(gated - tried)]


VARIABLE = re.compile(r"PALACE_[A-Z_]+[A-Z]")
NO_SETTING = {"PALACE_TABLES_MADE_FOR"}


def unknown_settings(sources: Sources) -> list[str]:
    """Return the environment's variables of ours that code reads, and settings.md doesn't have."""
    table, found = sources["docs/reference/settings.md"], []
    for path, text in sources.items():
        if not path.endswith(".py") or not path.startswith("palace/") or "PALACE_" not in text:
            continue
        for node in ast.walk(module(path, text).tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value
                if VARIABLE.fullmatch(name) and name not in NO_SETTING and f"`{name}`" not in table:
                    found.append(f"{path}: {name}")
    return found


# What is started by its name or its file, not imported; and tables that tests and documents read.
PROGRAMS = {"palace.__main__", "palace.canary.watch"}
READ = {"palace.engine.stores.journalled", "palace.protocol.steps"}


@cache
def imports(path: str, text: str) -> frozenset[str]:
    found = set()
    for node in ast.walk(module(path, text).tree):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("palace."):
            found.add(str(node.value))  # of import_module, and of `python -m`
    return frozenset(found)


def dead_modules(sources: Sources) -> list[str]:
    """Return the modules that neither the command nor a program that it starts ever imports."""
    known = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): (path, text)
        for path, text in sources.items()
        if path.startswith("palace/") and path.endswith(".py")
    }
    reached: set[str] = set()
    ahead = {*PROGRAMS, *READ}
    while ahead:
        name = ahead.pop()
        reached.add(name)
        parents = {name.rsplit(".", level)[0] for level in range(1, name.count(".") + 1)}
        ahead |= (({*imports(*known[name]), *parents}) & set(known)) - reached
    return [f"{name}: nothing imports it" for name in sorted(set(known) - reached)]
