"""Where the solutions of a text lie: angles between them, principal components, norms."""

from collections.abc import Mapping, Sequence
from itertools import combinations, groupby, pairwise

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from capacity.metrics import NothingFound
from capacity.models import Frozen

__all__ = ["by_text", "cosines", "n_components", "norms", "pairs", "spectrum", "token_embeddings", "vectors"]
__dir__ = __all__.copy  # what completion shows


def vectors(rows: pl.DataFrame) -> Float[np.ndarray, "solutions n_mem dim"]:
    """Return the [mem] vectors of rows (columns: rows.SCHEMA), one solution a row, float32.

    Raises NothingFound for no rows, ValueError for rows without their vectors, or rows of several shapes.
    """
    if rows.is_empty():
        raise NothingFound("there are no rows; where no fit was solved, take shorter texts or more seeds")
    shapes = rows.select("n_mem", "d_model").unique()
    if shapes.height != 1:
        raise ValueError(
            f"the rows have {shapes.height} shapes (n_mem, d_model); one is needed, filter by model and n_mem"
        )
    if missing := rows["mem"].null_count():
        raise ValueError(f"{missing} of {rows.height} rows hold no [mem]; measure them again, or leave them out")
    return np.stack([mem.to_numpy() for mem in rows["mem"]]).reshape(rows.height, *shapes.row(0))


def cosines(mem: Float[np.ndarray, "solutions n_mem dim"], texts: Sequence[str]) -> pl.DataFrame:
    """Return the cosine similarity of every pair of solutions: text, other, within (of one text), cosine.

    Several vectors count as one, end to end. `texts` names each solution's text. Pairs come in the order (0, 1),
    (0, 2), ..., (1, 2), ... Raises ValueError for a vector of zeros or with NaN, which has no direction.

    Source: Kuratov et al. 2025, Fig. 7.
    """
    flat = mem.reshape(len(mem), -1).astype(float)
    size = np.linalg.norm(flat, axis=1, keepdims=True)
    if not (np.isfinite(size) & (size > 0)).all():
        raise ValueError("a vector is zero, or not finite, and has no direction; leave it out")
    first, second = np.triu_indices(len(flat), k=1)
    names = np.asarray(texts)
    unit = flat / size
    return pl.DataFrame({
        "text": names[first], "other": names[second], "within": names[first] == names[second],
        "cosine": (unit @ unit.T)[first, second].clip(-1, 1),
    })  # fmt: skip


def by_text(rows: pl.DataFrame, *, above: float) -> pl.DataFrame:
    """Return the mean cosine of each text's solutions: part, within, text, cosine, above, least, most.

    above: the share of pairs above that cosine; least, most: the cosines of single pairs.
    within: with its other solutions, else with those of the other texts of the part. A pair of two texts counts for
    both.

    Args:
        rows: of the store, with a column `part`: only solutions of one part are compared.
        above: a cosine.

    Raises as `vectors` and `cosines`.
    """
    parts = []
    for (part,), own in rows.group_by("part", maintain_order=True):
        pairs = cosines(vectors(own), own["text_id"].to_list()).with_columns(part=pl.lit(part, pl.String))
        turned = pairs.filter(~pl.col("within")).rename({"text": "other", "other": "text"}).select(pairs.columns)
        parts.append(pl.concat([pairs, turned]))
    each = pl.concat(parts).group_by("part", "within", "text")
    means = each.agg(pl.col("cosine").mean(), above=(pl.col("cosine") > above).mean(), least=pl.col("cosine").min(),
                     most=pl.col("cosine").max())  # fmt: skip
    return means.sort("part", "within", "text")


def pairs(texts: Sequence[str], *, chained: bool = False) -> list[tuple[int, int]]:
    """Return the places of every two solutions of one text, text by text; chained: of neighbours only.

    A chain is enough to ask whether a text's solutions are connected. Raises ValueError where no text has two.

    >>> pairs(["a", "b", "a", "a"])
    [(0, 2), (0, 3), (2, 3)]
    >>> pairs(["a", "b", "a", "a"], chained=True)
    [(0, 2), (2, 3)]
    """
    order = sorted(range(len(texts)), key=lambda place: texts[place])
    members = [list(places) for _, places in groupby(order, key=lambda place: texts[place])]
    joined = [pair for places in members for pair in (pairwise(places) if chained else combinations(places, 2))]
    if not joined:
        raise ValueError(f"none of {len(members)} texts has two solutions; take shorter texts or more seeds")
    return joined


def spectrum(points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " components"]:
    """Return the share of variance along each principal component, largest first; they sum to 1.

    As many as there are dimensions, or points less one if those are fewer. Raises ValueError for points that do not
    differ.
    """
    centred = points.astype(float) - points.astype(float).mean(0)
    variance = np.linalg.svd(centred, compute_uv=False)[: len(points) - 1] ** 2
    if not variance.sum():
        raise ValueError(f"{len(points)} points do not differ and have no variance; give at least two that do")
    return variance / variance.sum()


def n_components(shares: Float[np.ndarray, " components"], share: float) -> int:
    """Return the fewest components whose variance is at least `share` of the whole, 0 < share <= 1.

    >>> n_components(np.array([0.75, 0.25]), 0.9)
    2
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; above 0 and at most 1 is allowed")
    return min(len(shares), 1 + int(np.searchsorted(np.cumsum(shares), share - 1e-12)))


def token_embeddings(frozen: Frozen) -> Float[np.ndarray, "vocab dim"]:
    """Return the input vectors of all token ids, as the model makes them."""
    return frozen.embed(torch.arange(frozen.vocab_size).unsqueeze(0))[0].float().cpu().numpy()


def norms(series: Mapping[str, Float[np.ndarray, "vectors dim"]]) -> pl.DataFrame:
    """Return the Euclidean norms of named sets of vectors: series, n, and the quantiles least, low, median, high, most.

    low and high are the 5th and the 95th percentile.
    """
    at = {"least": 0.0, "low": 0.05, "median": 0.5, "high": 0.95, "most": 1.0}
    rows = []
    for name, points in series.items():
        quantiles = np.quantile(np.linalg.norm(points.astype(float), axis=1), list(at.values()))
        rows.append({"series": name, "n": len(points)} | dict(zip(at, quantiles.tolist(), strict=True)))
    return pl.DataFrame(rows)
