"""Rows of models that are not on this machine, found by their columns: a key is made of a model's files and tokens."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from capacity import models
from capacity.models import ModelError
from capacity.sweep.experiment import Experiment

# What a row says of its experiment; the settings of its recipe are not in it.
_SAME = (
    "model", "source", "text_index", "text_seed", "n_mem", "scored_from", "recipe", "search", "budget", "seed", "dtype",
)  # fmt: skip
_MORE = ("key", "revision", "tokenizer_digest", "bos", "attention", "device", "length", "limit", "curve_right")
COLUMNS = (*_SAME, *_MORE)


def absent(experiments: Iterable[Experiment]) -> dict[str, ModelError]:
    """Return the models that can't be had here, each with what says so."""
    errors = {}
    for name in dict.fromkeys(experiment.model for experiment in experiments):
        try:
            models.locate(name)
        except ModelError as error:
            errors[name] = error
    return errors


def keys(
    experiments: Sequence[Experiment], rows: pl.DataFrame, revisions: Mapping[str, str] | None = None
) -> dict[Experiment, str]:
    """Return the key of each experiment that has rows, by model, text, seed and settings; the first where several do.

    rows: COLUMNS of store.SCHEMA; revisions: by model. A packaged model's is known, one that is not has to be the same
    in all rows found; so has the policy that `auto` stands for, where the model is not one that names its own. A device
    or attention of None takes any.

    Raises ModelError where rows of two revisions, tokenizers or, under `auto`, policies fit.
    """
    names = {experiment.model for experiment in experiments}
    cells = rows.filter(pl.col("model").is_in(sorted(names))).unique("key").sort("key")
    by_settings: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in cells.iter_rows(named=True):
        length = row["length"] if row["limit"] is None else row["limit"]
        by_settings[*(row[name] for name in _SAME), length, row["curve_right"] is not None].append(row)
    first_keys, seen = {}, defaultdict(set)
    for experiment in experiments:
        values = {name: getattr(experiment, name) for name in _SAME} | (
            {"budget": None} if experiment.search == "fixed" else {}
        )
        fits = [
            row
            for row in by_settings[*values.values(), experiment.length, experiment.trace]
            if _fits(row, experiment, (revisions or {}).get(experiment.model))
        ]
        for name in ("revision", "tokenizer_digest", *(["bos"] if experiment.bos == "auto" else [])):
            seen[experiment.model, name].update(row[name] for row in fits)
        if fits:
            first_keys[experiment] = fits[0]["key"]
    for (model, name), values in seen.items():
        if len(values) > 1:
            remedy = "name the policy" if name == "bos" else "name a store with the rows of one"
            raise ModelError(
                f"{model!r} is not on this machine, and its rows have {len(values)} of {name} "
                f"({', '.join(sorted(values))}): which are meant can't be told without it; {remedy}"
            )
    return first_keys


def _fits(row: dict[str, Any], experiment: Experiment, revision: str | None) -> bool:
    """Return whether a row of the same settings can be of the experiment."""
    packaged = models.PACKAGED.get(experiment.model)
    revision = packaged.sha256[:16] if packaged else revision
    bos = packaged.bos if packaged and experiment.bos == "auto" else experiment.bos
    return (
        (row["bos"] == bos if bos not in ("auto", None) else row["bos"] != "after_mem")
        and experiment.attention in (None, row["attention"])
        and experiment.device in (None, row["device"])
        and revision in (None, row["revision"])
    )
