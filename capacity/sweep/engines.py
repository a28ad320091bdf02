"""Where the cells of a sweep run."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from tqdm import tqdm

from capacity import models
from capacity.sweep import rows
from capacity.sweep.experiment import LOADED, Cell

Keep = Callable[[list[dict]], None]  # takes the rows of a cell that has ended


def local(cells: Sequence[Cell], keep: Keep, *, compile: bool = False, progress: bool = True) -> None:
    """Measure cells in this process, one model after another; `keep` gets the rows of each as it ends.

    compile: see fitting.run; progress: show cells done and an estimate of the time left, on standard error.
    """
    by_model: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_model[cell.experiment.loaded].append(cell)
    with tqdm(total=len(cells), unit="cell", disable=not (progress and cells), smoothing=0.1) as bar:
        for settings, members in by_model.items():
            bar.set_description(settings[0])
            frozen = models.load(settings[0], **dict(zip(LOADED, settings[1:], strict=True)))
            for made in rows.run(frozen, members, compile=compile):
                keep(made)
                bar.update()
