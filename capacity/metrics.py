"""Rows in, numbers with intervals over texts out: bootstraps, and Welch's t where two samples differ (scipy)."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl
from scipy import stats

CONDITIONS = ("model", "source", "n_mem", "recipe", "scored_from")  # what rows are told apart by, unless said
# What has to be the same in rows that are pooled: a mean over two of them would be of neither.
ALIKE = (
    *CONDITIONS, "revision", "quantisation", "tokenizer_digest", "bos", "dtype", "attention", "search", "budget",
    "limit", "text_seed", "init",
)  # fmt: skip
UNFINISHED = ("diverged", "oom")  # fits without a result: they are counted, but no mean has them
_SEED, _RESAMPLES = 0, 2000


@dataclass(frozen=True)
class Interval:
    """A number and where 95% of its bootstrap replicates lie."""

    value: float
    low: float | None  # None: not bounded
    high: float | None
    n: int  # texts
    degenerate: bool  # one text, no variation, or not bounded: the interval says nothing about the spread


def interval(
    values: Sequence[float] | np.ndarray | pl.Series,
    *,
    statistic: Callable[..., float] = np.mean,
    method: str = "BCa",
    confidence: float = 0.95,
) -> Interval:
    """Return `statistic` of one value a text, with its bootstrap interval.

    values: (n_texts, ...), resampled along the first axis; statistic: takes such an array, returns a number. With one
    text, or the same value for all, the interval is the value itself and flagged. Raises ValueError for no value.

    >>> interval([2.0, 2.0, 2.0])
    Interval(value=2.0, low=2.0, high=2.0, n=3, degenerate=True)
    """
    data = np.asarray(values, dtype=float)
    if not len(data):
        raise ValueError("no texts to take an interval over; check what the rows were filtered by")
    if not np.isfinite(data).all():
        raise ValueError("a value is not finite; leave out rows that diverged (status) before averaging")
    data = data[np.lexsort(data.reshape(len(data), -1).T)]  # one order, so that the order of rows changes nothing
    value = float(statistic(data))
    if len(data) == 1 or (data == data[0]).all():
        return Interval(value, value, value, len(data), True)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):  # BCa divides by 0, then says so
        warnings.simplefilter("error", stats.DegenerateDataWarning)
        try:
            low, high = _bootstrap(data, statistic, method, confidence)
        except stats.DegenerateDataWarning:  # BCa has no answer where a replicate never differs
            low, high = _bootstrap(data, statistic, "percentile", confidence)
    return Interval(value, float(low), float(high), len(data), bool(low == high))


def _bootstrap(data: np.ndarray, statistic: Callable, method: str, confidence: float) -> tuple[float, float]:
    found = stats.bootstrap(
        (np.arange(len(data)),), lambda chosen: statistic(data[chosen.astype(int)]), vectorized=False,
        n_resamples=_RESAMPLES, confidence_level=confidence, method=method, rng=np.random.default_rng(_SEED),
    )  # fmt: skip
    return found.confidence_interval


def difference(first: Sequence[float] | pl.Series, second: Sequence[float] | pl.Series) -> Interval:
    """Return the mean of one sample of texts less that of another, whose texts are others, with its interval.

    Welch's t interval (scipy.stats.ttest_ind); n: the texts of both. A sample of one text, or no variation in both, is
    flagged.
    """
    values = [float(value) for sample in (first, second) for value in sample]
    if not len(first) or not len(second):
        raise ValueError(f"no texts to compare: {len(first)} in the first sample, {len(second)} in the second")
    samples = [np.sort(np.asarray(sample, dtype=float)) for sample in (first, second)]
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite; leave out rows that diverged (status) before averaging")
    value = float(samples[0].mean() - samples[1].mean())
    if all((sample == sample[0]).all() for sample in samples):
        return Interval(value, value, value, len(values), True)
    if min(map(len, samples)) < 2:
        return Interval(value, value, value, len(values), True)
    low, high = stats.ttest_ind(*samples, equal_var=False).confidence_interval()
    return Interval(value, float(low), float(high), len(values), False)


def n_right() -> pl.Expr:
    """Return the number of scored positions that are right, t1 among them with `scored_from=0`."""
    first = pl.col("first_correct").fill_null(value=False) & (pl.col("scored_from") == 0)
    return (pl.col("correct_with") + first.cast(pl.Int32)).alias("n_right")


def exact() -> pl.Expr:
    """Return whether every scored position's argmax is right, teacher-forced."""
    return (n_right() == pl.col("n_scored")).alias("exact")


def accuracy() -> pl.Expr:
    """Return the share of scored positions that are right, in [0, 1]; a text with none scored counts as 1."""
    scored = pl.col("n_scored")
    return pl.when(scored == 0).then(1.0).otherwise(n_right() / scored).alias("accuracy")


def accuracy_by_length(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the mean accuracy over texts at each length with its interval: *by, length, value, low, high, n."""

    def one(part: pl.DataFrame) -> Interval:
        return interval(part.group_by("text_id").agg(pl.col("accuracy").mean())["accuracy"])

    return summarise(pooled(rows, by).with_columns(accuracy()), [*by, "length"], one)


def check_threshold(threshold: float) -> None:
    """Raise ValueError for a mean accuracy outside (0, 1]; a notebook calls it before it measures."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold!r}; above 0 and at most 1 is allowed")


def decoding_capacity(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS, threshold: float = 0.99) -> pl.DataFrame:
    """Return the largest length with mean accuracy >= threshold (the paper's decoding capacity), tokens.

    Columns: *by, value (0 where no length reaches the threshold), low, high, n, degenerate, censored: `above` where
    the largest length measured still passes, `below` where the smallest doesn't, else `no`. Lengths need not be
    passed in order, as in the paper. Every text must have every length, `rows` being of one fixed-length grid.

    Raises ValueError for a threshold outside (0, 1], or texts that miss a length.

    Source: Kuratov et al. 2025, Table 1.
    """
    check_threshold(threshold)

    def one(part: pl.DataFrame) -> dict:
        table = part.pivot("length", index="text_id", values="accuracy", aggregate_function="mean")
        lengths = np.sort(part["length"].unique().to_numpy())
        values = table.select([str(length) for length in lengths]).to_numpy().astype(float)
        if np.isnan(values).any():
            raise ValueError("some texts miss a length; decoding capacity needs every text at every length")

        def largest(chosen: np.ndarray) -> float:
            passed = lengths[chosen.mean(axis=0) >= threshold - 1e-12]
            return float(passed.max()) if len(passed) else 0.0

        found = interval(values, statistic=largest, method="percentile")
        censored = "above" if found.value == lengths[-1] else "below" if found.value == 0 else "no"
        return asdict(found) | {"censored": censored}

    return summarise(pooled(rows, by).with_columns(accuracy()), by, one)


def exact_lengths(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return each text's exact length: *by, text_id, seed, exact_length (tokens), censored.

    The longest prefix decoded free-running; 0 where none was. Censored: the budget, the text's end, or a fit without
    a result came before a length that fails, so the true one may be larger. A text with no finished fit is left out.
    """
    exact = pl.col("length").filter(pl.col("status") == "solved").max()
    limit = exact.fill_null(pl.col("scored_from").first()) + 1
    failed = (pl.col("status") == "stalled") & (pl.col("length") == limit)
    return (
        pooled(rows, by)
        .group_by([*by, "text_id", "seed"], maintain_order=True)
        .agg(
            pl.col("decoded_tokens").max().fill_null(0).alias("exact_length"),
            (~failed.any()).alias("censored"),
        )
        .sort([*by, "text_id", "seed"])
    )


def exact_length(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the mean exact length over texts, tokens: *by, value, low, high, n, degenerate, n_censored."""

    def one(part: pl.DataFrame) -> dict:
        texts = part.group_by("text_id").agg(pl.col("exact_length").mean(), pl.col("censored").any())
        return asdict(interval(texts["exact_length"])) | {"n_censored": int(texts["censored"].sum())}

    return summarise(exact_lengths(rows, by=by), by, one)


def exact_length_by_cost(
    rows: pl.DataFrame, *, cost: str, at: Sequence[float], by: Sequence[str] = CONDITIONS
) -> pl.DataFrame:
    """Return the mean longest exact prefix that searches had reached: *by, spent, value, low, high, n, degenerate.

    cost: `token_steps` or `seconds` of a search, its probes summed in their order; at: values of it. Exact is
    teacher-forced, alone, from the stored vector. Searches that ended earlier keep what they had.
    """
    each = (
        pooled(rows, by)
        .sort("key", "probe")
        .with_columns(
            pl.col(cost).cum_sum().over("key").alias("spent_then"),
            pl.when(exact()).then("length").otherwise(0).alias("reached"),
        )
    )
    tables = []
    for spent in at:
        reached = pl.col("reached").filter(pl.col("spent_then") <= spent).max().fill_null(0)
        texts = each.group_by([*by, "text_id", "seed"], maintain_order=True).agg(reached.alias("value"))
        tables.append(mean(texts, pl.col("value"), by).with_columns(pl.lit(float(spent)).alias("spent")))
    return pl.concat(tables).sort([*by, "spent"])


def mean(rows: pl.DataFrame, value: pl.Expr, by: Sequence[str]) -> pl.DataFrame:
    """Return the mean of `value` over rows: *by, value, low, high, n, degenerate; texts are resampled as in `ratio`."""
    return ratio(rows.with_columns(value.alias("above"), pl.lit(1).alias("below")), "above", "below", by=by)


def finished(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of fits with a result: not those that diverged or ran out of memory."""
    return rows.filter(~pl.col("status").is_in(UNFINISHED)) if "status" in rows.columns else rows


def pooled(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Return the rows that a mean by these columns may have: finished ones, alike in all that is not told apart.

    Fits that diverged or ran out of memory are left out. Of ALIKE those columns count that `rows` has; a null, which
    was not recorded, is a value of its own.

    Raises ValueError where rows of one group differ in a column of ALIKE, naming it and its values, and where a cell
    (text, seed, length, probe) is there under two keys.
    """
    rows = finished(rows)
    names = [name for name in ALIKE if name in rows.columns and name not in by]
    if "search" in rows.columns and "search" not in by and rows["search"].n_unique() > 1:
        names = ["search"]  # what else differs follows from it
    groups = rows.group_by(by).agg(pl.col(names).n_unique()) if names and rows.height else None
    if groups is not None and (differ := [name for name in names if groups[name].max() > 1]):  # pyright: ignore
        values = "; ".join(f"{name} {rows[name].unique().sort().to_list()[:4]}" for name in differ)
        raise ValueError(
            f"rows to be pooled differ in {', '.join(differ)} ({values}); filter them to one value, or add these "
            f"columns to by"
        )
    place = [*by, "text_id", "seed", "length", "probe"]
    if "key" in rows.columns and {*place} <= {*rows.columns}:
        twice = rows.group_by(*dict.fromkeys(place)).agg(pl.col("key").n_unique()).filter(pl.col("key") > 1)
        if twice.height:
            raise ValueError(
                f"{twice.height} fits are there twice, alike in all settings that are told apart, the first is "
                f"{twice.drop('key').row(0, named=True)}; they differ in what `by` and ALIKE do not name (a trace, "
                "a device): filter the rows to one of them"
            )
    return rows


def ratio(rows: pl.DataFrame, above: str, below: str, *, by: Sequence[str]) -> pl.DataFrame:
    """Return the sum of one column over the sum of another: *by, value, low, high, n, degenerate.

    The interval resamples texts, each with all its rows; a text with 0 in both tells nothing and is left out; fits
    that did not finish are, too, see `pooled`. Where a draw of texts may have `below` sum to 0, or to another sign than
    that of all, the ratio is not bounded: its low and high are null, and it is flagged as degenerate.

    Raises ValueError for no rows, where `below` sums to 0, and as `pooled`.
    """

    def one(part: pl.DataFrame) -> Interval:
        pairs = part.group_by("text_id", maintain_order=True).agg(pl.col(above, below).sum()).select(above, below)
        pairs = pairs.filter((pl.col(above) != 0) | (pl.col(below) != 0))
        if not pairs[below].sum():
            raise ValueError(f"{below} sums to 0 for {part.select(by).row(0, named=True)}; leave these rows out")
        whole, bounded = float(pairs[below].sum()), True

        def quotient(chosen: np.ndarray) -> float:
            nonlocal bounded
            divisor = float(chosen[:, 1].sum())
            bounded &= divisor * whole > 0
            return float(chosen[:, 0].sum() / divisor) if divisor else 0.0  # then it is not bounded

        found = interval(pairs.to_numpy().astype(float), statistic=quotient)
        return found if bounded else replace(found, low=None, high=None, degenerate=True)

    return summarise(pooled(rows, by), by, one)


def summarise(
    rows: pl.DataFrame, by: Sequence[str], summary: Callable[[pl.DataFrame], Interval | dict]
) -> pl.DataFrame:
    """Return one row for each group of `rows`: *by, and the fields of what `summary` returns of the group's rows.

    Raises ValueError for no rows.
    """
    found = []
    for group, part in rows.group_by(list(by), maintain_order=True):
        made = summary(part)
        found.append(dict(zip(by, group, strict=True)) | (made if isinstance(made, dict) else asdict(made)))
    if not found:
        raise ValueError("no rows to summarise; check what they were filtered by")
    made = pl.DataFrame(found, infer_schema_length=None).sort(by)
    return made.with_columns(pl.col(name).cast(pl.Float64) for name in ("low", "high") if name in made.columns)
