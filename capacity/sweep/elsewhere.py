"""Rows of models that are not on this machine, found by their columns: a key is made of a model's files and tokens."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
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
    found = {}
    for name in dict.fromkeys(one.model for one in experiments):
        try:
            models.locate(name)
        except ModelError as error:
            found[name] = error
    return found


def keys(experiments: Sequence[Experiment], rows: pl.DataFrame) -> dict[Experiment, str]:
    """Return the key of each experiment that has rows, by model, text, seed and settings; the first where several do.

    rows: COLUMNS of store.SCHEMA. A packaged model's revision is known, another's has to be the same in all rows found;
    so has the policy that `auto` stands for, where the model is not one that names its own. A device or attention of
    None takes any.

    Raises ModelError where rows of two revisions, tokenizers or, under `auto`, policies fit.
    """
    names = {one.model for one in experiments}
    cells = rows.filter(pl.col("model").is_in(sorted(names))).unique("key").sort("key")
    by_settings: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in cells.iter_rows(named=True):
        length = row["length"] if row["limit"] is None else row["limit"]
        by_settings[*(row[name] for name in _SAME), length, row["curve_right"] is not None].append(row)
    found, seen = {}, defaultdict(set)
    for one in experiments:
        values = {name: getattr(one, name) for name in _SAME} | ({"budget": None} if one.search == "fixed" else {})
        fits = [row for row in by_settings[*values.values(), one.length, one.trace] if _fits(row, one)]
        for name in ("revision", "tokenizer_digest", *(["bos"] if one.bos == "auto" else [])):
            seen[one.model, name].update(row[name] for row in fits)
        if fits:
            found[one] = fits[0]["key"]
    for (model, name), values in seen.items():
        if len(values) > 1:
            remedy = "name the policy" if name == "bos" else "name a store with the rows of one"
            raise ModelError(
                f"{model!r} is not on this machine, and its rows have {len(values)} of {name} "
                f"({', '.join(sorted(values))}): which are meant can't be told without it; {remedy}"
            )
    return found


def _fits(row: dict[str, Any], one: Experiment) -> bool:
    """Return whether a row of the same settings can be of the experiment."""
    packaged = models.PACKAGED.get(one.model)
    bos = packaged.bos if packaged and one.bos == "auto" else one.bos
    return (
        (row["bos"] == bos if bos not in ("auto", None) else row["bos"] != "after_mem")
        and one.attention in (None, row["attention"])
        and one.device in (None, row["device"])
        and (packaged is None or row["revision"] == packaged.sha256[:16])
    )
