# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Is the limit of one vector tokens or bits?
#
# Bits of a text before and after one vector is put in front of it, every text and length a point; the plateau C that
# the vector takes out once the text no longer fits; and the same from the paper's Table 1.
#
# *Claim:* what limits a vector is the uncertainty it has to remove, not the length of the text: past the limit, bits
# after = bits before − C, with one C for natural and for random text (Kuratov et al. 2025, Fig. 3 and Fig. 6).

# %% tags=["parameters"]
models: list[str] = ["llama-64", "llama-128", "llama-192", "neox-128", "llama-128-bos"]  # names or folders
sources: list[str] = ["embedded", "random_words", "random_tokens"]  # of the texts, natural first
n_texts: int = 6  # texts of each source
lengths: list[int] = [3, 6, 12, 24]  # tokens, the grid of fixed lengths; 2 at least
recipe: str = "progressive"  # one that descends the cross-entropy: progressive or paper
scored_from: int = 1  # 1: the first token is given, as in the paper; 0: it is predicted, too
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # none, before_mem, or auto: as the tokenizer begins a text
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%

import polars as pl
from IPython.display import Markdown

from capacity import charts, gains, metrics, published, sweep, verdicts

charts.enable()

# %% [markdown]
# ## Measure or load
#
# Every text is fitted at every length of the grid, from its own random start. The loss is the paper's, the mean
# cross-entropy; the recipe `progressive` has ten times the learning rate of the paper's own, `paper`, and a fifth of
# its steps. Bits are those of positions 2..N, the least over the steps of the fit, as in the paper.

# %%
grid = {"source": sources, "length": lengths, "search": "fixed", "recipe": recipe, "scored_from": scored_from}
here = sweep.grid(bos=bos, model=models, n_texts=n_texts, **grid)
done = sweep.measure(here, store or None, missing=missing)
rows = done.rows
rows = metrics.finished(rows).sort("d_model", "model", maintain_order=True)

# %% [markdown]
# ## Bits before and after
#
# A circle is a text that came out exact at its length, a cross one that did not. On the dashed line nothing is gained.
# The lines are y = max(x − C, 0), C being the mean over texts of each text's own plateau: least squares over all its
# lengths.

# %%
by = ["model", "source"]
own = gains.plateau(rows, by=by)
points = rows.select(
    "model", "source", "text_id", "length", pl.col("bits_without").alias("before"),
    gains.bits_with(rows).alias("after"), metrics.exact(),
)  # fmt: skip
charts.bits_after(points, own)

# %% [markdown]
# ## Gain by length
#
# If uncertainty is the limit, the gain rises with the length until the text holds C bits, and then stays. Shaded: 95%
# bootstrap intervals over texts.

# %%
least = rows["bits_with_min"].null_count() == 0
by_length = gains.information_gain(rows, by=[*by, "length"], least=least)
charts.gain_by_length(by_length)

# %% [markdown]
# ## The paper's averaging and ours
#
# *As published*: the mean over the fits that failed (accuracy at most 0.99), all lengths together, each times
# N / (N − 1), as the paper's notebooks have it. *Failed*: the same without that factor. *Own plateau*: C of each text
# by itself, then the mean over texts; `n_solved` texts fitted at every length, for them it is a floor. Failed fits near
# the limit had fewer bits than C to give, which pulls the paper's mean down; the factor pushes it up. *Slope*: of bits
# after on bits before, through the failed fits; 1 is a plateau, below 1 the gain goes on growing.

# %%
as_published = gains.as_published(rows, by=by).filter(unit="bits")
failed = gains.information_gain(rows.filter(~metrics.exact()), by=by, least=least)
slopes = gains.slope(rows, by=by)
table = (
    own.select(*by, "low", "high", "n", "n_solved", own_plateau="value")
    .join(as_published.select(*by, as_published="value"), on=by, how="left")
    .join(failed.select(*by, failed="value"), on=by, how="left")
    .join(slopes.select(*by, slope="value", slope_low="low", slope_high="high"), on=by, how="left")
    .sort(by)
)
order = [*by, "as_published", "failed", "own_plateau", "low", "high", "n", "n_solved"]
table.select(*order, pl.selectors.starts_with("slope")).with_columns(pl.selectors.float().round(2))

# %% [markdown]
# ## Ours and the paper's
#
# Bits that one vector takes out, against its width. Ours: own plateaus with 95% intervals of the mean. The paper's:
# Table 1, nats turned into bits, bars of one standard deviation over its rows. Black ticks: 16 bits a dimension.

# %%
theirs = published.table_1("information_gain").with_columns(series=pl.lit("Kuratov et al. 2025 (± sd)"))
sizes = ["model", "d_model", "vocab_size"]
ours = own.join(rows.select(sizes).unique(), on="model").with_columns(series=pl.lit("here (95% interval)"))
limit = gains.capacities(pl.concat([theirs.select(sizes), ours.select(sizes)], how="vertical_relaxed"))
drawn = ["model", "source", "d_model", "value", "low", "high", "series"]
charts.capacity_by_width(
    ours.select(drawn), theirs.select(drawn), limit.filter(unit="bits"), title="bits one vector takes out (C)"
)

# %%
natural, last = sources[0], sorted(lengths)[-2:]
texts = rows.with_columns((pl.col("bits_without") - gains.bits_with(rows)).alias("gain"))
shorter, longer = (texts.filter(length=n).select(*by, "text_id", "gain") for n in (last[0], last[-1]))
both = longer.join(shorter, on=[*by, "text_id"], suffix="_shorter")
grown = (pl.col("gain") - pl.col("gain_shorter")).mean()  # over models: a text counts once
more = metrics.mean(both.group_by("source", "text_id").agg(grown), pl.col("gain"), ["source"])
more.with_columns(pl.selectors.float().round(1))

# %%
ratios = table.join(
    table.filter(source=natural).select("model", pl.col("own_plateau").alias("natural")), on="model"
).filter(pl.col("source") != natural)
spread = theirs.pivot("source", index="model", values="value").select(pl.col("random") / pl.col("pg19"))
theirs_range = [spread["random"].min(), spread["random"].max(), spread["random"].median()]
spans = {
    name: "; ".join(
        f"{part['x'].min():.2f} to {part['x'].max():.2f} on {source}"
        for (source,), part in frame.drop_nulls("x").group_by("source", maintain_order=True)
    ) or "none"
    for name, frame in {"bits": table.with_columns(x="own_plateau"), "slopes": table.with_columns(x="slope"),
                        "ratios": ratios.with_columns(x=pl.col("own_plateau") / pl.col("natural"))}.items()
}  # fmt: skip

# %%
rises = [f"{r['value']:+.1f} ({r['low']:+.1f} to {r['high']:+.1f}) on {r['source']}" for r in more.to_dicts()]
Markdown(
    f"**Reading.** Over {table['model'].n_unique()} models one vector takes out, in bits: {spans['bits']}. Slopes past "
    f"the limit: {spans['slopes']}. From {last[0]} to {last[-1]} tokens the gain of a text changes, in bits, by "
    f"{', '.join(rises)} (texts resampled, each with all its models), from a mean of "
    f"{both['gain_shorter'].mean():.1f}. C against that of {natural} text of the same model: {spans['ratios']}. In the "
    "paper the quotient of random words and PG-19 lies between "
    + "{:.2f} and {:.2f}, median {:.2f}".format(*theirs_range)
    + f", above 1 for {(spread['random'] > 1).sum()} of {spread.height} models."
)

# %%
verdicts.judge(
    "past the limit a vector takes out one number of bits, whatever the length: the slope is 1 (at least 0.9)",
    {
        f"{r['model']}, {r['source']}": metrics.Interval(r["value"], r["low"], r["high"], r["n"], r["degenerate"])
        for r in slopes.to_dicts()
    },
    above=0.9, unit="", paper=True,
    change="texts much longer than the limit, whose tokens' entropy is known, so that being less sure is not counted",
)  # fmt: skip

# %% [markdown]
# ## Limits
#
# C is what an optimiser found within its steps, not what a vector could hold. A gain is not all memory of a text:
# where the model alone is too sure of itself, as on random tokens, a vector gains at every further position by making
# it less sure, and without [mem] the first positions have no context at all; so with a slope below 1 C depends on the
# lengths of the grid. Rows of a text that fit are exact, not at zero bits: a fit stops when every argmax is right.
# The paper's rows are not published, only their means; its bars are standard deviations over rows, ours intervals of
# a mean over texts. `llama-128-bos` reads the texts without [mem] without the first token of its training sequences,
# which alone would save it 1 to 5 bits; its C is the larger by up to as much. Tokens of different models are not the
# same bytes.

# %%
print(f"{done}, {rows.select(metrics.exact().sum()).item()} of them exact; recipe {recipe}")
