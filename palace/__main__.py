"""The `palace` command: what must start fast is dispatched before Typer is imported."""

import sys


def main() -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    if command == "shim":
        from palace.shim.relay import main as shim

        sys.exit(shim(arguments[1:]))
    if command == "serve" and "--help" not in arguments:
        from palace.broker.serve import main as serve

        sys.exit(serve(arguments[1:]))
    if command == "ensure":
        from palace.shim.ensure import main as ensure

        sys.exit(ensure(arguments[1:]))
    if command == "dial":
        from palace.shim.dial import main as dial

        sys.exit(dial(arguments[1:]))
    if command == "--version":
        from palace import __version__

        print(f"palace {__version__}")
        sys.exit(0)
    from palace.cli.app import app

    app(prog_name="palace")


if __name__ == "__main__":
    main()
