"""The command line: `capacity cram`, `decode`, `check`, `list`, `sweep`, `run`, `report`; the work is elsewhere."""

import signal
from typing import Annotated

import typer

from capacity import __version__, commands

app = typer.Typer(
    help="How many tokens an optimised input vector of a frozen language model holds.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # [mem] is a word, no markup
)
app.command("list")(commands.list_names)
app.command()(commands.cram)
app.command()(commands.decode)
app.command()(commands.check)
app.command("sweep")(commands.sweep_grid)
app.command()(commands.merge)
app.command()(commands.run)
app.command()(commands.report)
app.command()(commands.compact)


def _version(asked: bool) -> None:
    if asked:
        commands.say(f"capacity {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted, 143 terminated."""
    signal.signal(signal.SIGTERM, commands.terminate)
    app()


if __name__ == "__main__":
    main()
