"""Where the cells of a sweep run."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from capacity import fitting
from capacity.models import Frozen, ModelError
from capacity.store import Claims, Store
from capacity.sweep import progress as progresses
from capacity.sweep import rows, shards
from capacity.sweep.experiment import Cell

_LOOK_SECONDS = 0.5  # between two looks at what another process measures
_LEAST = 8  # cells to claim at once; fewer run no faster


def check(frozen: Frozen, cells: Sequence[Cell]) -> None:
    """Raise ModelError if a model that was loaded is not the one that the cells' keys were made with."""
    for cell in cells:
        for name in ("revision", "tokenizer_digest"):
            expected, loaded = getattr(cell, name), getattr(frozen, name)
            if expected and loaded != expected:
                raise ModelError(
                    f"{frozen.name!r} changed while it was in use: its {name} was {expected} when the cells were made, "
                    f"and is {loaded} now that it is loaded; leave its files alone and run again"
                )


def local(
    cells: Sequence[Cell],
    kept: Store,
    *,
    compile: bool | str = False,
    progress: bool = True,
    n_processors: int | None = None,
    ended: Callable[[int, int | None], object] = lambda n, token_steps: None,
) -> int:
    """Measure cells in this process, one model after another, into a store; return how many were measured here.

    Other processes may do the same at the same time: each claims some cells, measures them, and claims more. What
    another has claimed is waited for, and taken over where it dies. A cell's rows are on disk before its claim ends.

    compile: see fitting.run; progress: show cells done and an estimate of the time left, on standard error;
    n_processors: at most, None: all; ended: gets the number of cells that ended,
    whoever measured them, and the token-steps that they took here.
    """
    left = {cell.key: cell for cell in sorted(cells, key=rows.kind)}
    most = sum(shards.token_steps(cell.experiment) for cell in cells)
    n_measured = 0
    with (
        Claims(kept.path) as claims,
        contextlib.ExitStack() as ending,
        progresses.Progress(len(cells), most_token_steps=most, show=progress) as bar,
    ):
        ending.callback(kept.flush)  # before the claims end, however this does
        while left:
            for members in _by_model(left.values()):
                mine = claims.take([cell.key for cell in members], 1)  # nothing is loaded for what others measure
                if not mine:
                    continue
                bar.set_description(members[0].experiment.model)
                frozen = members[0].experiment.load()
                check(frozen, members)
                ending.enter_context(fitting.threads(frozen, most=n_processors))
                while mine:
                    keys = [cell.key for cell in members if cell.key in left]
                    share = _share(frozen, len(keys), claims.n_others())
                    mine += claims.take([key for key in keys if key not in mine], share - 1)
                    new = kept.missing(mine)  # not what another ended before the claim was made
                    for made in rows.run(frozen, [left[key] for key in new], compile=compile, stepped=bar.advance):
                        kept.append(made)
                        token_steps = sum(row["token_steps"] for row in made)
                        bar.update(token_steps=token_steps)
                        ended(1, token_steps)
                    kept.flush()
                    claims.release(mine)
                    n_measured += len(new)
                    bar.update(len(mine) - len(new))
                    ended(len(mine) - len(new), None)
                    left = {key: cell for key, cell in left.items() if key not in mine}
                    mine = claims.take([key for key in keys if key in left], 1)
            missing = kept.missing(left)
            if missing and len(missing) == len(left):
                bar.set_description("another process measures the rest")
                time.sleep(_LOOK_SECONDS)
            bar.update(len(left) - len(missing))
            ended(len(left) - len(missing), None)
            left = {key: left[key] for key in missing}
    return n_measured


def _by_model(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells by the weights that they need in memory."""
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.experiment.loaded].append(cell)
    return list(groups.values())


def _share(frozen: Frozen, n_left: int, n_others: int) -> int:
    """Return how many of a model's cells to claim at once.

    Alone two full batches, so that slots are filled again (one took a fifth longer than all at once); beside others a
    batch at most, and fewer near the end.
    """
    batch = fitting.shape_of(frozen, 1, n_mem=1).slots
    return 2 * batch if n_others == 0 else min(batch, max(_LEAST, n_left // (2 * (1 + n_others))))
