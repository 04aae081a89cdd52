"""The `palace` command: what must start fast is dispatched before Typer is imported.

However a command ends, it ends here: with its code, after its last output has left.
"""

import sys

from palace.kernel.cores import empty_cores
from palace.protocol.errors import PalaceError
from palace.settings.process import prepare_process


def main() -> None:
    """Run the command line and exit."""
    prepare_process()
    empty_cores()
    arguments = sys.argv[1:]
    code: object = 0
    try:
        try:
            code = run(arguments)
        except SystemExit as ended:
            code = ended.code
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it was not closed before
                stream.flush()  # not at the interpreter's end, which can only complain
    except (PalaceError, OSError) as error:
        from palace.cli.output import end_failed

        code = end_failed(arguments[0] if arguments else "", error) or code
    except ModuleNotFoundError as error:
        code = end_without_engine(arguments[0] if arguments else "", error)
    sys.exit(code)  # type: ignore[arg-type]  # what a SystemExit held


def end_without_engine(command: str, error: ModuleNotFoundError) -> int:
    """Say how the engine is installed; return an exit code, or raise `error` where that is not it.

    Commands that may need the engine import it late, some of them deep in what they do.
    """
    from palace.cli.output import end_failed
    from palace.engine.versions import check_installed

    try:
        check_installed()
    except PalaceError as refusal:
        return end_failed(command, refusal)
    raise error


def run(arguments: "list[str]") -> int:
    """Run a command; return its exit code, or raise SystemExit with it."""
    command = arguments[0] if arguments else ""
    if command == "shim":
        from palace.shim.relay import main as shim

        return shim(arguments[1:])
    if command == "serve" and "--help" not in arguments:
        from palace.broker.serve import main as serve
        from palace.kernel.cores import forbid_cores

        forbid_cores()
        return serve(arguments[1:])
    if command == "ensure":
        from palace.shim.ensure import main as ensure

        return ensure(arguments[1:])
    if command == "dial":
        from palace.shim.dial import main as dial

        return dial(arguments[1:])
    if command == "--version":
        from palace import __version__
        from palace.kernel.output import say

        say(f"palace {__version__}")
        return 0
    from palace.cli.app import app

    app(prog_name="palace")
    return 0


if __name__ == "__main__":
    main()
