"""Fits at one length for texts that were searched: at what the longest search holds, or a token more."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from capacity.sweep import elsewhere
from capacity.sweep.experiment import Experiment, cells

_TEXT = ("model", "source", "text_index", "text_seed", "n_mem", "scored_from")  # whose text, and what is to hold it


def one_length(
    experiments: Sequence[Experiment], rows: pl.DataFrame, *, seeds: Sequence[int], share: float = 1.0, more: int = 0
) -> list[Experiment]:
    """Return the fits, one a seed, of each text at a share of its longest decoded length in `rows`, and `more` tokens.

    The share is rounded down to whole tokens. A text without rows has no fit, nor has one that would be longer than its
    searches' text, or have nothing to score.

    Raises ValueError where the searches of a text differ in what its model is or reads, and as `check_prefixes`.
    """
    searches: dict[tuple, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        searches[*(getattr(experiment, name) for name in _TEXT)].append(experiment)
    longest = rows.group_by(_TEXT).agg(pl.col("decoded_tokens").max().fill_null(0).alias("held"))
    held = {row[:-1]: row[-1] for row in longest.select(*_TEXT, "held").iter_rows()}
    fits = []
    for text, members in searches.items():
        if len({experiment.loaded for experiment in members}) > 1:
            raise ValueError(f"the searches of text {text} differ in dtype, attention, device or bos; give one of each")
        first, length = members[0], int(share * held[text] + 1e-9) + more if text in held else 0
        if 1 + first.scored_from <= length <= max(experiment.length for experiment in members):
            default = Experiment(model=first.model).budget  # which a single fit does not have
            fits += [replace(first, search="fixed", length=length, budget=default, seed=seed) for seed in seeds]
    check_prefixes(experiments, fits)
    return fits


def check_prefixes(experiments: Sequence[Experiment], fits: Sequence[Experiment]) -> None:
    """Raise ValueError where a fit's text is not how its searches' text begins; models not here are not asked."""
    absent = elsewhere.absent([*experiments, *fits])
    ids: dict[tuple, tuple[int, ...]] = {}
    searches = sorted(
        (experiment for experiment in experiments if experiment.model not in absent),
        key=lambda experiment: experiment.length,
    )
    for cell in cells(searches):  # the longest last
        ids[*(getattr(cell.experiment, name) for name in _TEXT)] = cell.text.ids
    for cell in cells(fit for fit in fits if fit.model not in absent):
        whole = ids[*(getattr(cell.experiment, name) for name in _TEXT)]
        if whole[: len(cell.text.ids)] != cell.text.ids:
            raise ValueError(
                f"source {cell.experiment.source!r} draws other texts where fewer tokens are asked for, so that a fit "
                "can't go on from a search; take one whose texts are cut, as `embedded`"
            )
