"""Rules that keep other people's data from being believed: decoders, numbers, paths.

The palace's directory may be lent to a container, a backup may be anybody's, and so may a client.
Each rule is a search of the syntax tree, with the places that it can't judge listed, and with code
that breaks it, which it must find.
"""

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "palace"
SOURCES = sorted(ROOT.rglob("*.py"))

# Who may call json.loads and tomllib.loads, and what they read.
DECODERS = {
    "protocol/decoding.py": 4,
    "protocol/jsonrpc.py": 1,  # `parse`: a client's line; its callers expect RecursionError
    "protocol/oversize.py": 1,  # the id of a line, at most 1 kB
    "mcp_hosts/jsontext.py": 3,  # one scalar at a time; the depth is counted beside it
    "mcp_hosts/tomltext.py": 2,  # names the line, which takes the error itself
    "engine/stores/chroma.py": 1,  # chromadb's own serialized schema
    "engine/stores/pgvector_tables.py": 1,  # what stock has just encoded, with numbers of its own
    "engine/embedding/minilm.py": 1,  # the model's header; its file is known by its SHA-256
    "engine/durability/refusals.py": 1,  # a reply that this process has just encoded
    "kernel/logline.py": 1,  # a value of a log of our own; it expects what that raises
    "engine/hosting/replies.py": 1,  # a reply of the engine in this process
}
# Who may call int(), and on what that can't be thousands of digits.
INTEGERS = {
    "protocol/wire.py": 2,  # `whole_number`, which everybody else calls; a boolean
    "protocol/broker_record.py": 1,  # nine digits
    "engine/stores/chroma.py": 2,  # SQLite's integers
    "engine/stores/rows.py": 2,  # the same
    "engine/stores/health.py": 1,  # a number that SQLite has read
    "engine/stores/hnsw_files.py": 1,  # a sum
    "engine/hosting/adjustments.py": 1,  # stock's own setting, which stock has read
    "kernel/linux.py": 4,  # /proc
    "kernel/darwin.py": 4,  # ps and lsof
    "canary/forensics.py": 3,  # /proc; the count is of at most 20 digits
    "kernel/beneath.py": 1,  # what a system call returns
    "kernel/whose.py": 1,  # digits of /proc
    "settings/checks.py": 1,  # a number that TOML has read
    "broker/reporting/metrics.py": 3,  # booleans
    "broker/telemetry/meter.py": 2,  # the clock
    "broker/telemetry/logs.py": 2,  # the clock, a count
    "broker/http/listener.py": 1,  # a port that was checked
    "broker/guests.py": 1,  # the same
    "broker/serve.py": 3,  # its own arguments, /dev/fd, a boolean
    "mcp_hosts/tomltext.py": 1,  # tomllib's own line number
    "mcp_hosts/yamltext.py": 2,  # a column of the parser's, a place of our own
    "commands/try_out.py": 1,  # a count of a broker of its own
    "commands/progress.py": 1,  # a fraction
    "commands/logs.py": 1,  # its own argument
    "mcp_hosts/files.py": 1,  # of a file's name, which has 255 bytes at most
    "settings/concurrency.py": 1,  # of seven digits
}
# Who may open a file by its name past the kernel's port, which refuses a FIFO and doesn't wait.
OPENERS = {
    "kernel/linux.py": 2,  # /proc
    "kernel/whose.py": 3,  # /proc; a descriptor
    "engine/durability/leftovers.py": 1,  # a descriptor
    "mcp_hosts/files.py": 2,  # descriptors
    "commands/restore.py": 1,  # a file of its own, which it makes in a scratch directory
    "commands/try_out.py": 1,  # palace's own documents
    "settings/catalogue.py": 1,  # a file of the package
    "settings/stock_config.py": 1,  # the user's own, which lies in no palace
}
# What decoded data is called in the code, and what of it may name a file.
DATA = {"ident", "fields", "payload", "change", "draft", "entry", "claim", "header", "found"}
ATTRIBUTES = {"id", "kind", "key", "writer", "payload", "ident"}
# The id of a process, of a session in memory or of an object, never of a record.
NO_DATA = {
    "kernel/linux.py": "pids and descriptors of /proc",
    "kernel/darwin.py": "the same",
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


def decoders(tree: ast.AST) -> int:
    found = calls(tree, "json.loads", "json.load", "tomllib.loads", "tomllib.load", "loads", "load")
    return sum(1 for _ in found)


def openers(tree: ast.AST) -> int:
    return sum(1 for _ in calls(tree, "open", "io.open"))


def integers(tree: ast.AST) -> int:
    return sum(1 for _ in calls(tree, "int"))


def is_data(node: ast.expr) -> bool:
    """Tell whether an expression is made of decoded data, as far as its names say."""
    if isinstance(node, ast.Name):
        return node.id in DATA
    if isinstance(node, ast.Attribute):
        return node.attr in ATTRIBUTES
    if isinstance(node, ast.Subscript):
        return is_data(node.value)
    if isinstance(node, ast.Call):
        return any(map(is_data, node.args))
    return isinstance(node, ast.BinOp) and (is_data(node.left) or is_data(node.right))


def joined_paths(tree: ast.AST) -> list[str]:
    """Return the expressions that join data to a path."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = zip(node.values, node.values[1:], strict=False)
            for before, value in parts:
                ends = isinstance(before, ast.Constant) and str(before.value).endswith("/")
                if ends and isinstance(value, ast.FormattedValue) and is_data(value.value):
                    found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "os.path.join":
            found += [ast.unparse(node) for argument in node.args[1:] if is_data(argument)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and is_data(node.right):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left = node.left
            slash = isinstance(left, ast.BinOp) and ast.unparse(left.right) in ("'/'", "os.sep")
            if slash and is_data(node.right):
                found.append(ast.unparse(node))
    return found


STREAMS = {
    *("sys.stdout.write", "sys.stdout.writelines", "sys.stdout.buffer", "sys.__stdout__"),
    *("sys.stderr.write", "sys.stderr.writelines", "sys.stderr.buffer", "sys.__stderr__"),
}


def prints(tree: ast.AST) -> int:
    """Count calls that print, and methods of the standard streams that are called or replaced."""
    found = sum(1 for _ in calls(tree, "print", "typer.echo", "typer.secho", "pprint", "input"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found += ast.unparse(node) in STREAMS
    found += sum(
        1
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "file"
        and ast.unparse(node.value) in ("sys.stdout", "sys.stderr")
    )
    return found


# Who reads a journal's records, and how many arguments come before the keys.
READERS = {
    "decode": 1,
    "read_at": 2,
    "read_segment": 2,
    "read_since": 3,
    "read_tail": 2,
    "read_from": 3,
    "read_contents": 3,
    "replay": 4,
    "inspect_journal": 2,
    "copy_journal": 4,
    "purge_journal": 3,
}
# Who reads them whoever wrote them, and why nothing comes of it.
KEYLESS = {
    "engine/hosting/reader.py": 1,  # it only says what a copy of the stores lacks
    "journal/copying.py": 1,  # where the last whole line ends
    "journal/reseal.py": 2,  # lines that it has just sealed itself
}


def keyless(tree: ast.AST) -> int:
    """Count the readers of records that are not told whose records count."""
    return sum(
        len(call.args) <= READERS[ast.unparse(call.func)]
        and all(keyword.arg != "keys" for keyword in call.keywords)
        for call in calls(tree, *READERS)
    )


def unguarded(tree: ast.AST) -> int:
    """Count subscripts of what was decoded in the same function, where no KeyError is expected.

    A file of another version, or of somebody else, has no such name in it.
    """
    found = 0
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decoded = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func).rpartition(".")[2] in ("decode_json", "decode_toml")
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        guarded = {
            inner
            for node in ast.walk(function)
            if isinstance(node, ast.Try) and any(map(_takes_key_errors, node.handlers))
            for statement in node.body
            for inner in ast.walk(statement)
        }
        found += sum(
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id in decoded
            and isinstance(node.ctx, ast.Load)
            and node not in guarded
            for node in ast.walk(function)
        )
    return found


def _takes_key_errors(handler: ast.ExceptHandler) -> bool:
    named = ast.unparse(handler.type) if handler.type is not None else "Exception"
    return any(name in named for name in ("KeyError", "LookupError", "Exception"))


# Who takes names of what was decoded for granted, and how many times.
LACKS_NOTHING = {
    "broker/http/contract.py": 3,  # a reply that this process has just encoded
    "engine/stores/candidates.py": 2,  # a row of palace's own, which the journal has put in place
    "engine/stores/register.py": 2,  # the same
    "ownership/book.py": 3,  # its callers expect the errors that it names
    "protocol/broker_record.py": 5,  # each was looked for before
}


def counted(count: Callable[[ast.AST], int]) -> dict[str, int]:
    found = Counter({relative(path): count(ast.parse(path.read_text())) for path in SOURCES})
    return {name: number for name, number in found.items() if number}


def test_nothing_is_printed_past_the_one_writer() -> None:
    assert counted(prints) == {"mcp_hosts/confirm.py": 1}  # `input`, with a question of our own


def test_no_file_is_decoded_past_the_one_decoder() -> None:
    assert counted(decoders) == DECODERS


def test_no_file_is_opened_that_may_be_a_fifo() -> None:
    assert counted(openers) == OPENERS


def test_no_number_is_read_without_a_bound() -> None:
    assert counted(integers) == INTEGERS


def test_every_reader_of_records_knows_whose_count() -> None:
    assert counted(keyless) == KEYLESS


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_path_is_joined_from_data(path: Path) -> None:
    if relative(path) not in NO_DATA:
        assert joined_paths(ast.parse(path.read_text())) == []


def test_what_was_decoded_may_lack_any_name() -> None:
    assert counted(unguarded) == LACKS_NOTHING


@pytest.mark.parametrize(
    ("search", "broken"),
    [
        (decoders, "settings = json.loads(data)"),
        (decoders, "with open(path) as file: return json.load(file)"),
        (decoders, "values = tomllib.loads(data.decode())"),
        (integers, 'upto = int(fields.get("upto", ""))'),
        (integers, "epoch = int(head['epoch'])"),
        (openers, "with open(path, 'rb') as file: pass"),
        (prints, "print(found.id)"),
        (prints, "typer.echo(text)"),
        (prints, "sys.stdout.write(text)"),
        (prints, "write = sys.stderr.write"),
        (prints, "traceback.print_exc(file=sys.stderr)"),
        (unguarded, "def f():\n x = decode_json(y)\n return x['v']"),
        (
            unguarded,
            "def f():\n try:\n  x = decode_json(y)\n except KeyError: pass\n return x['v']",
        ),
        (unguarded, "def f():\n try:\n  x = decode_json(y)\n  x['v']\n except OSError: pass"),
        (keyless, "known = replay(paths.journal, kernel, progress)"),
        (keyless, "tail = read_tail(segments, kernel)"),
        (keyless, "for found in read_from(journal, kernel, since=3): pass"),
        (joined_paths, 'kernel.read_hint(f"{self.root}/{ident}")'),
        (joined_paths, 'kernel.unlink(f"{root}/{change.id}")'),
        (joined_paths, "open(os.path.join(root, record.id))"),
        (joined_paths, "path = Path(root) / payload['name']"),
        (joined_paths, "path = root + '/' + draft.kind"),
        (joined_paths, "path = f'{root}/{str(fields[0])}'"),
    ],
)
def test_each_rule_finds_what_breaks_it(search: Callable[[ast.AST], object], broken: str) -> None:
    assert search(ast.parse(broken))
