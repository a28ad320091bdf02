"""What a row is: its columns with their types and meanings, and the check that makes rows a frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

_TEXT, _INT, _LONG, _REAL = pl.String(), pl.Int32(), pl.Int64(), pl.Float64()

_ROW: dict[str, tuple[pl.DataType, str]] = {
    "key": (_TEXT, "hash of the experiment, the text, the model's revision and the protocol: names the cell"),
    "schema": (_INT, "version of these columns when the row was measured; null: not recorded"),
    "model": (_TEXT, "name of the model"),
    "revision": (_TEXT, "digest of the model's files"),
    "quantisation": (_TEXT, "how the weights in the files were rounded; null: they were not"),
    "architecture": (_TEXT, "class of the model"),
    "n_parameters": (_LONG, "parameters of the model, tied ones once"),
    "d_model": (_INT, "width of a [mem] vector, numbers"),
    "vocab_size": (_INT, "rows of the embedding, padding included"),
    "tokenizer_digest": (_TEXT, "digest of the tokenizer"),
    "bos": (_TEXT, "policy for the beginning-of-sequence token: none, before_mem or after_mem"),
    "attention": (_TEXT, "implementation of attention"),
    "dtype": (_TEXT, "number type of the model's weights, and of the steps"),
    "source": (_TEXT, "name of the source of texts"),
    "text_index": (_INT, "place of the text in its seeded sample, from 0"),
    "text_id": (_TEXT, "name of the text in its source"),
    "text_digest": (_TEXT, "digest of the text's tokens"),
    "n_mem": (_INT, "[mem] vectors"),
    "length": (_INT, "length N of the text, tokens"),
    "scored_from": (_INT, "0: all N positions are scored; 1: positions 2..N, the first token given"),
    "recipe": (_TEXT, "name of the optimisation settings"),
    "search": (_TEXT, "name of the search over lengths"),
    "budget": (_LONG, "token-steps that the search may spend; null: no search, or not recorded"),
    "limit": (_INT, "most tokens that the search may try; null: no search, or not recorded"),
    "text_seed": (_LONG, "seed of the sample of texts; null: not recorded"),
    "source_bits_low": (_REAL, "least bits that the text's source can have spent on it; null: not known"),
    "source_bits_high": (_REAL, "most bits that the text's source can have spent on it; null: not known"),
    "probe": (_INT, "place of the fit in its cell, from 0"),
    "seed": (_LONG, "seed of the fit"),
    "init": (_TEXT, "how the first [mem] vector was made"),
    "steps": (_INT, "optimisation steps"),
    "token_steps": (_LONG, "tokens times forward-backward passes"),
    "status": (_TEXT, "why the fit ended: solved, stalled, budget, diverged, oom"),
    "n_scored": (_INT, "scored positions"),
    "correct_without": (_INT, "positions 2..N predicted right without [mem]"),
    "correct_with": (_INT, "positions 2..N predicted right with [mem]"),
    "bits_without": (_REAL, "bits of positions 2..N without [mem], summed"),
    "bits_with": (_REAL, "bits of positions 2..N with [mem], summed"),
    "bits_with_min": (_REAL, "least bits of positions 2..N with [mem] over the steps; null: not followed"),
    "first_bits_with": (_REAL, "bits of the first token with [mem]; null: not predicted"),
    "first_correct": (pl.Boolean(), "whether the first token is predicted right; null: not predicted"),
    "decoded_tokens": (_INT, "tokens right before the first wrong one, decoding freely; null: not decoded"),
    "seconds": (_REAL, "wall-clock time of the fit, seconds"),
    "device": (_TEXT, "device the fit ran on"),
    "threads": (_INT, "threads that the fit ran on; null: not on a processor, or not recorded"),
    "versions": (_TEXT, "versions of the libraries, JSON"),
    "mem": (pl.List(pl.Float32()), "the scored [mem] vectors, flat, n_mem * d_model numbers; null: not kept"),
    "curve_right": (pl.List(_INT), "scored positions right at every step; null: not traced"),
    "curve_bits": (pl.List(pl.Float32()), "bits of the scored positions at every step; null: not traced"),
}
SCHEMA: dict[str, pl.DataType] = {name: dtype for name, (dtype, _) in _ROW.items()}
COLUMNS: dict[str, str] = {name: description for name, (_, description) in _ROW.items()}
VERSION = 2  # of the columns: 1 had none of budget, limit, text_seed, threads, quantisation and source_bits_*
NULLABLE = frozenset({
    "schema", "quantisation", "budget", "limit", "text_seed", "source_bits_low", "source_bits_high", "threads",
    "bits_with_min", "first_bits_with", "first_correct", "decoded_tokens", "mem", "curve_right", "curve_bits",
})  # fmt: skip
STATUSES = ("solved", "stalled", "budget", "diverged", "oom")


def to_frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Return the rows as a frame in `SCHEMA`, in the order given.

    `rows`: one dict a row with exactly the columns of `SCHEMA`, scalars of Python or NumPy; `mem` is flat,
    (n_mem * d_model,), and exact in float32. Raises ValueError for a column unknown or missing, a status not
    in `STATUSES`, a value of another type, a None outside `NULLABLE`, a key and probe given twice.
    """
    for row in rows:
        unknown, missing = sorted(row.keys() - SCHEMA.keys()), sorted(SCHEMA.keys() - row.keys())
        if unknown or missing:
            raise ValueError(f"unknown columns {unknown}, missing columns {missing}; see capacity.store.COLUMNS")
        if row["status"] not in STATUSES:
            raise ValueError(f"status {row['status']!r} is not one of {', '.join(STATUSES)}")
    frame = pl.DataFrame([_series(name, [row[name] for row in rows]) for name in SCHEMA])
    if frame.select("key", "probe").is_duplicated().any():
        raise ValueError("two rows have the same key and probe; number the probes of a cell 0, 1, 2 ...")
    return frame


def _series(name: str, values: list[Any]) -> pl.Series:
    if name not in NULLABLE and any(value is None for value in values):
        raise ValueError(f"column {name!r} is None; only {', '.join(sorted(NULLABLE))} may be")
    kinds: dict[Any, type] = {pl.List(_INT): np.int32, pl.List(pl.Float32()): np.float32}
    kind = kinds.get(SCHEMA[name])
    try:
        flat = [_scalar(value) if kind is None else _vector(value, kind) for value in values]
        return pl.Series(name, flat, dtype=SCHEMA[name], strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"column {name!r} takes one {SCHEMA[name]} a row: {str(error).splitlines()[0]}") from error


def _scalar(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{value!r} is a {type(value).__name__}; give a scalar of Python or NumPy")


def _vector(value: Any, kind: type) -> pl.Series | None:
    if value is None:
        return None
    given = np.asarray(value, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows differs, and is refused
        kept = given.astype(kind)
    if given.ndim != 1 or not np.array_equal(kept, given, equal_nan=True):
        raise ValueError(f"got shape {given.shape}; give it flat, and as {kind.__name__} numbers")
    return pl.Series(kept)
