"""What the command line does: its commands, and how each begins and ends."""

from capacity.commands.exits import say, terminate
from capacity.commands.pages import list_names, report, run
from capacity.commands.rows import compact, merge, sweep_grid
from capacity.commands.vectors import check, cram, decode

__all__ = [
    "check", "compact", "cram", "decode", "list_names", "merge", "report", "run", "say", "sweep_grid", "terminate",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows
