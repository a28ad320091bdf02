"""Which rows a mean may have: finished ones, alike in all that is not told apart."""

from collections.abc import Sequence

import polars as pl

CONDITIONS = ("model", "source", "n_mem", "recipe", "scored_from")  # what rows are told apart by, unless said
# What has to be the same in rows that are pooled: a mean over two of them would be of neither.
ALIKE = (
    *CONDITIONS, "revision", "quantisation", "tokenizer_digest", "bos", "dtype", "attention", "search", "budget",
    "limit", "text_seed", "init",
)  # fmt: skip
UNFINISHED = ("diverged", "oom")  # fits without a result: they are counted, but no mean has them


class NothingFound(ValueError):
    """Rows that a number or a page needs are not there: it ends where it says so, and is no failure."""


def not_empty(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows as they are; raises NothingFound if there are none."""
    check_columns(rows)
    if rows.is_empty():
        raise NothingFound(
            "there are no rows to summarise; check what the frame was filtered by, or measure more (in this "
            "package missing='measure', with a larger budget or shorter texts)"
        )
    return rows


def check_columns(
    rows: pl.DataFrame, *names: str, by: Sequence[str] = (), takes: Sequence[str] = ("by", "text_id")
) -> None:
    """Raise ValueError for columns that a frame lacks, saying which it has; for what is no frame, or no list `by`.

    takes: the arguments by which the names of such columns may be given instead; none where they are fixed.
    """
    if not isinstance(rows, pl.DataFrame):
        raise ValueError(f"{str(rows)[:80]!r} is no frame of polars; give rows as one (polars.from_pandas makes it)")
    if not isinstance(by, list | tuple) or not all(isinstance(name, str) for name in by) or len({*by}) < len(by):
        example = by if isinstance(by, str) else "model"
        raise ValueError(f"by is {str(by)[:80]!r}; give a list of columns, each once, as [{example!r}]")
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"{str(wrong[0])[:80]!r} names no column; give the name of one of the frame's as text")
    if missing := [name for name in dict.fromkeys((*by, *names)) if name not in rows.columns]:
        named = [f"{name}={'[...]' if name in ('by', 'order') else '...'}" for name in takes
                 if name != "by" or {*by} & {*missing}]  # fmt: skip
        own = f"Give the names of yours ({', '.join(named)}), or rename them" if named else "Rename yours, or add them"
        raise ValueError(
            f"the frame has no column {', '.join(missing)}; it has {', '.join(rows.columns)[:400] or 'none'}. {own}"
        )


def check_numbers(rows: pl.DataFrame, *names: str, counts: bool = False, whole: bool = False) -> None:
    """Raise ValueError for columns that hold no numbers; true and false count as 1 and 0, what is null is left alone.

    counts: they have to be finite and from 0 on, as numbers of tokens are. whole: and whole numbers, none of them null.
    """
    for name in names:
        column = rows[name]
        if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
            raise ValueError(
                f"the column {name} is of type {column.dtype}, not of numbers; cast it, as with "
                f"pl.col({name!r}).cast(pl.{'Int64' if counts else 'Float64'})"
            )
        count = column.cast(pl.Float64)
        right = count.is_finite() & (count >= 0)
        if whole:
            right = (right & (count % 1 == 0)).fill_null(value=False)
        if (counts or whole) and len(wrong := column.filter(~right)):
            allowed = f"{'whole ' if whole else ''}numbers from 0 on are allowed"
            raise ValueError(f"{name} is {wrong[0]} in some rows; {allowed}, leave these rows out")


def check_decoded(rows: pl.DataFrame, decoded: str, length: str) -> None:
    """Raise ValueError where no whole number of tokens is said to be decoded, or more than the text has."""
    check_numbers(rows, length, decoded, counts=True)
    wrong = rows.filter((pl.col(decoded) > pl.col(length)) | (pl.col(decoded).cast(pl.Float64) % 1 > 0))
    if wrong.height:
        raise ValueError(
            f"{decoded} is {wrong[decoded][0]} where {length} is {wrong[length][0]}; whole numbers from 0 to that "
            "are allowed: check which columns these are"
        )


def finished(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of fits with a result: not those that diverged or ran out of memory."""
    check_columns(rows)
    unfinished = pl.col("status").is_in(UNFINISHED).fill_null(value=False)  # a null was not recorded
    return rows.filter(~unfinished) if "status" in rows.columns else rows


def pooled(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Return the rows that a mean by these columns may have: finished ones, alike in all that is not told apart.

    Fits that diverged or ran out of memory are left out. Of ALIKE those columns count that `rows` has; a null, which
    was not recorded, is a value of its own.

    Raises ValueError where rows of one group differ in a column of ALIKE, naming it and its values, and where a cell
    (text, seed, length, probe) is there under two keys.
    """
    check_columns(rows, by=by)
    rows = finished(rows)
    names = [name for name in ALIKE if name in rows.columns and name not in by]
    if "search" in rows.columns and "search" not in by and rows["search"].n_unique() > 1:
        names = ["search"]  # what else differs follows from it
    several = pl.col(names).n_unique()
    groups = (rows.group_by(by).agg(several) if by else rows.select(several)) if names and rows.height else None
    if groups is not None and (differ := [name for name in names if groups[name].max() > 1]):  # pyright: ignore
        values = "; ".join(f"{name} {rows[name].unique().sort().to_list()[:4]}" for name in differ)
        raise ValueError(
            f"rows to be pooled differ in {', '.join(differ)} ({values}); filter them to one value, or add these "
            f"columns to by"
        )
    place = [*by, "text_id", "seed", "length", "probe"]
    if "key" in rows.columns and {*place} <= {*rows.columns}:
        twice = rows.group_by(*dict.fromkeys(place)).agg(pl.col("key").n_unique()).filter(pl.col("key") > 1)
        if n := twice.height:
            raise ValueError(
                f"{n} {'fit is' if n == 1 else 'fits are'} there twice, alike in all settings that are told apart, the "
                f"first is {twice.drop('key').row(0, named=True)}; they differ in what `by` and ALIKE do not name (a "
                "trace, a device): filter the rows to one of them"
            )
    return rows
