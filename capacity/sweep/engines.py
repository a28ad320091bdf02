"""Where the cells of a sweep run."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from capacity.models import Frozen, ModelError
from capacity.sweep import progress as progresses
from capacity.sweep import rows
from capacity.sweep.experiment import Cell

Keep = Callable[[list[dict]], None]  # takes the rows of a cell that has ended


def check(frozen: Frozen, cells: Sequence[Cell]) -> None:
    """Raise ModelError if a model that was loaded is not the one that the cells' keys were made with."""
    for cell in cells:
        for name in ("revision", "tokenizer_digest"):
            expected, found = getattr(cell, name), getattr(frozen, name)
            if expected and found != expected:
                raise ModelError(
                    f"{frozen.name!r} changed while it was in use: its {name} was {expected} when the cells were made, "
                    f"and is {found} now that it is loaded; leave its files alone and run again"
                )


def local(cells: Sequence[Cell], keep: Keep, *, compile: bool = False, progress: bool = True) -> None:
    """Measure cells in this process, one model after another; `keep` gets the rows of each as it ends.

    compile: see fitting.run; progress: show cells done and an estimate of the time left, on standard error.
    """
    by_model: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_model[cell.experiment.loaded].append(cell)
    with progresses.bar(len(cells), show=progress) as bar:
        for members in by_model.values():
            bar.set_description(members[0].experiment.model)
            frozen = members[0].experiment.load()
            check(frozen, members)
            for made in rows.run(frozen, members, compile=compile):
                keep(made)
                bar.update()
