"""Is a text's longest exact length its limit, its search's, or its own end? And a median where some texts end first."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import stats

from capacity.metrics.intervals import LEAST, Interval, Values, as_numbers, truths
from capacity.metrics.pooling import ALIKE, NothingFound, check_columns, check_decoded, finished, pooled

KINDS = ("limit", "search-limited", "ended")
_FREE = ("search", "recipe", "budget", "limit", "init")  # what fits of one text may differ in: the longest counts


def limits(
    rows: pl.DataFrame, *, by: Sequence[str] = ("model", "source"), fits: int = 2, steps: int | None = None
) -> pl.DataFrame:
    """Return each text's longest exact length with its kind: *by, text_id, tokens, kind, and the counts behind it.

    `limit`: at least two searches, and at least `fits` fresh fits (`search="fixed"`) at exactly one token more that
    stalled, where of those at the longest length itself, if there are any, one was solved: else a stall tells nothing.
    `ended`: the longest is all that was there to try. `search-limited` otherwise: a lower bound. A fresh fit that holds
    more makes the text longer, so that fits that disagree leave it search-limited.

    Counts: n_searches; n_beyond, n_stalled: fresh fits at one token more, and those that stalled; n_at, n_held: fresh
    fits at the longest length itself, and those that were solved: the control, since a fresh fit may be weaker than
    a search.

    Args:
        rows: of searches and of fits at one length, alike in all but search, recipe, budget and seed.
        by: columns that tell texts apart.
        fits: that have to stall.
        steps: the recipe's most; a fit that took them all ended with them, and did not stall. None: any counts.

    Raises ValueError for no fits, a column that is missing, a decoded length that can't be one, and as `pooled`.
    """
    if fits < 1:
        raise ValueError(f"fits is {fits}; a limit needs one that stalled at least")
    names = ("text_id", "key", "search", "limit", "length", "status", "steps", "decoded_tokens")
    check_columns(rows, *names, by=by, takes=("by",))
    check_decoded(rows, "decoded_tokens", "length")
    pooled(rows.drop([*(name for name in _FREE if name in ALIKE), "key"], strict=False), by)
    text = [*by, "text_id"]
    longest = pl.col("decoded_tokens").max().fill_null(0).over(text)
    searched = pl.col("search") != "fixed"
    beyond = ~searched & (pl.col("length") == pl.col("tokens") + 1)
    at = ~searched & (pl.col("length") == pl.col("tokens"))
    solved = pl.col("status") == "solved"
    stalled = (pl.col("status") == "stalled") & (pl.lit(steps is None) | (pl.col("steps") < (steps or 0)))
    counted = (
        finished(rows)
        .with_columns(longest.alias("tokens"))
        .group_by(text, maintain_order=True)
        .agg(
            pl.col("tokens").first(),
            pl.col("limit").max().alias("end"),
            pl.col("key").filter(searched).n_unique().alias("n_searches"),
            pl.col("key").filter(beyond).n_unique().alias("n_beyond"),
            pl.col("key").filter(beyond & stalled).n_unique().alias("n_stalled"),
            pl.col("key").filter(at).n_unique().alias("n_at"),
            pl.col("key").filter(at & solved).n_unique().alias("n_held"),
            (beyond & solved).any().alias("disagree"),
        )
    )
    kind = (
        pl.when(pl.col("tokens") >= pl.col("end")).then(pl.lit("ended"))
        .when(
            pl.col("n_searches") >= 2, pl.col("n_stalled") >= fits, ~pl.col("disagree"),
            (pl.col("n_at") == 0) | (pl.col("n_held") > 0),
        ).then(pl.lit("limit"))
        .otherwise(pl.lit("search-limited"))
    )  # fmt: skip
    counts = ("n_searches", "n_beyond", "n_stalled", "n_at", "n_held")
    return counted.select(*text, "tokens", kind.alias("kind"), *counts).sort(text)


def limit_counts(ends: pl.DataFrame, *, by: Sequence[str] = ("model",), fits: int = 2) -> pl.DataFrame:
    """Return how many texts have reached their limit: *by, texts, tried, limits, bounds, tokens, ... held_afresh.

    tried: with at least `fits` fresh fits at one token more than the longest; bounds: search-limited; tokens, and
    tokens_of_limits: mean longest lengths, of all and of those with a limit; held_afresh: mean share of fresh fits at
    the longest length itself that were solved. ends: from `limits`. Raises ValueError for a column that is missing.
    """
    check_columns(ends, "tokens", "kind", "n_beyond", "n_at", "n_held", by=by, takes=("by",))
    known = pl.col("kind") == "limit"
    return ends.group_by(by).agg(
        texts=pl.len(), tried=(pl.col("n_beyond") >= fits).sum(), limits=known.sum(),
        bounds=(pl.col("kind") == "search-limited").sum(), tokens=pl.col("tokens").mean(),
        tokens_of_limits=pl.col("tokens").filter(known).mean(),
        held_afresh=pl.when(pl.col("n_at") > 0).then(pl.col("n_held") / pl.col("n_at")).mean(),
    ).sort(by)  # fmt: skip


def survival(tokens: Values, ended: Sequence[bool] | pl.Series) -> pl.DataFrame:
    """Return the share of texts whose limit is above each length, by Kaplan and Meier: tokens, share, low, high.

    tokens: one length a text; ended: whether the text ended there before its limit. That a text ends must have nothing
    to do with its limit: what a budget ended doesn't belong here. low and high: 95%, by log-log. A text of N tokens
    that is held whole has a limit of N or more: it was watched up to N - 1, and is none of those that may fail at N.

    Of four texts the second ended at 3: two are left of which one fails at 4.

    >>> survival([2, 3, 4, 5], [False, True, False, False]).select("tokens", "share").rows()
    [(2.0, 0.75), (3.0, 0.75), (4.0, 0.375), (5.0, 0.0)]

    Raises NothingFound for no text, ValueError for lengths that are no whole numbers from 0, or not as many flags.
    Source: Kaplan and Meier 1958.
    """
    data, cut = as_numbers(tokens), truths(ended)
    if len(data) != len(cut) or not (np.isfinite(data) & (data >= 0) & (data % 1 == 0)).all():
        raise ValueError(
            f"{len(data)} lengths with {len(cut)} flags; give each text a whole number of tokens and a flag"
        )
    if not len(data):
        raise NothingFound("no texts with a limit or an end; search with a larger budget, and twice")
    curve = stats.ecdf(stats.CensoredData.right_censored(np.where(cut, data - 0.5, data), cut)).sf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)  # at shares 0 and 1
        ends = curve.confidence_interval(method="log-log")
    share = curve.probabilities
    low, high = (np.where(np.isnan(end.probabilities), share, end.probabilities) for end in (ends.low, ends.high))
    shares = {"tokens": np.ceil(curve.quantiles), "share": share, "low": low, "high": high}
    return pl.DataFrame(shares).unique("tokens", keep="last", maintain_order=True)


def median_limit(tokens: Values, ended: Sequence[bool] | pl.Series) -> Interval:
    """Return the median limit of texts of which some ended before theirs: where `survival` falls to a half.

    Infinite where it does not fall so far; the interval's end is None where its bound doesn't, or for fewer than LEAST
    texts. Raises NothingFound as `survival`.

    >>> median_limit([2, 3, 4, 5], [False, True, False, False]).value, median_limit([2, 3], [False, True]).value
    (4.0, 2.0)

    Source: Brookmeyer and Crowley 1982, for the interval.
    """
    curve = survival(tokens, ended)
    value, low, high = (
        curve.filter(pl.col(name) <= 0.5 + 1e-12)["tokens"].first() for name in ("share", "low", "high")
    )
    few = len(tokens) < LEAST
    value = math.inf if value is None else float(value)  # pyright: ignore
    low, high = (None if few or end is None else float(end) for end in (low, high))  # pyright: ignore
    return Interval(value, low, high, len(tokens), low is None or high is None)
