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
# # 04 · How much of Eq. 1 is used?
#
# A vector of d_model numbers of 16 bits could spell out any d_model · 16 / log2 V tokens of a vocabulary of V (Eq. 1).
# The gains of all published models, Mamba included, and of the embedded ones where they were measured, against that
# limit: in tokens, as in the paper, and in bits.
#
# *Claim:* models use a small and very different part of the theoretical capacity, more of it for natural than for
# random text (Kuratov et al. 2025, Eq. 1 and Fig. 5).

# %% tags=["parameters"]
models: list[str] = ["llama-64", "llama-128", "llama-192", "neox-128", "llama-128-bos"]  # shown where rows are there
sources: list[str] = ["embedded", "random_words"]  # of the texts
n_texts: int = 16  # texts of each source
lengths: list[int] = [3, 6, 12, 24]  # tokens, the grid of fixed lengths
recipe: str = "progressive"  # one that descends the cross-entropy: progressive or paper
scored_from: int = 1  # 1: the first token is given, as in the paper; 0: it is predicted, too
n_other: int = 80  # other texts of each source that the shared vectors of 02 were fitted to and stopped by
n_starts: int = 3  # random vectors at least that they were fitted from
bits: float = 16.0  # bits a dimension
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # none, before_mem, or auto: as the tokenizer begins a text
missing: str = "skip"  # cells that are not there (02_information_gain measures them): skip, measure or refuse

# %%

import polars as pl
from IPython.display import Markdown

from capacity import baselines, charts, gains, metrics, published, sweep, verdicts

charts.enable()

# %% [markdown]
# ## Measure or load
#
# The published points need no rows. Of the embedded models those rows are taken that are in the store or travel with
# the project; without any, the charts show the published models alone.

# %%
grid = {"source": sources, "length": lengths, "search": "fixed", "recipe": recipe, "scored_from": scored_from}
experiments = sweep.grid(bos=bos, model=models, n_texts=n_texts, **grid)
done = sweep.measure(experiments, store or None, missing=missing)
rows = done.rows
failed = metrics.finished(rows).filter(~metrics.exact())
nulls = baselines.nulls(failed, done.cells, store or None, n_other=n_other, n_starts=n_starts, missing=missing)

# %% [markdown]
# ## Gains and capacities
#
# Gains are means over the fits that failed, as the paper takes them; its own are too large by N / (N − 1), ours are
# not. Spreads are one standard deviation over rows for the paper, 95% intervals of the mean over texts for
# ours. *Text-specific*: what a text's own vector takes out beyond one fitted to other texts of its source
# (`02_information_gain`), in bits, of the same fits. Nats are turned into bits.

# %%
kinds = {"pg19": "natural", "embedded": "natural", "random": "random words", "random_words": "random words",
         "random_tokens": "random tokens"}  # fmt: skip
sizes = ["model", "d_model", "vocab_size"]
theirs = pl.concat(
    published.table_1(metric).filter(pl.col("source") != "fanfics").with_columns(
        unit=pl.lit(unit), series=pl.lit("Kuratov et al. 2025 (± sd)")
    )
    for unit, metric in {"tokens": "token_gain", "bits": "information_gain"}.items()
)  # fmt: skip
here = rows.select(sizes).unique() if failed.height else theirs.select(sizes).clear()
facts = pl.concat([theirs.select(sizes).unique(), here], how="vertical_relaxed").sort("d_model", "model")
limits = gains.capacities(facts, bits=bits).rename({"value": "capacity"})

# %%
columns, by, ours = ["model", "source", "unit", "series", "value", "low", "high"], ["model", "source"], []
if failed.height:
    gained = {"tokens": gains.token_gain(failed, by=by), "bits": gains.information_gain(failed, by=by, least=True)}
    ours = [
        table.with_columns(unit=pl.lit(unit), series=pl.lit("here (95% interval)")).select(columns)
        for unit, table in gained.items()
    ]
if nulls.height:
    specific = gains.text_specific_gain(failed, nulls, by=by).with_columns(unit=pl.lit("bits"))
    ours.append(specific.with_columns(series=pl.lit("here, text-specific (95% interval)")).select(columns))

# %%
used = pl.concat([theirs.select(columns), *ours], how="vertical_relaxed").join(limits, on=["model", "unit"])
used = used.with_columns(
    (pl.col(end) / pl.col("capacity")).alias(name)
    for end, name in {"value": "share", "low": "share_low", "high": "share_high"}.items()
).rename({"value": "gain"}).with_columns(pl.col("source").replace(kinds).alias("kind"))  # fmt: skip
order = list(dict.fromkeys([*here.sort("d_model", "model")["model"], *facts["model"]]))

# %% [markdown]
# ## In tokens, as the paper counts
#
# Above: Eq. 1 (black ticks) and token gain; below: their quotient.

# %%
charts.utilisation_by_model(used.filter(unit="tokens"), order=order, unit="tokens")

# %% [markdown]
# ## In bits
#
# The honest count: a token that the model half knows costs fewer than log2 V bits. Capacity: bits a dimension times
# d_model; gain: bits of positions 2..N that the vector takes away.

# %%
charts.utilisation_by_model(used.filter(unit="bits"), order=order, unit="bits")

# %% [markdown]
# ## Table
#
# *listed* is the paper's own ratio (Fig. 5), beside Table 1's gain over Eq. 1.

# %%
ratios = published.load("kuratov2025", "Fig. 5").select(
    "model", pl.col("source").replace(kinds).alias("kind"), pl.col("value").alias("listed")
)
shares = used.pivot("unit", index=["model", "d_model", "kind", "series"], values=["share", "gain"]).join(
    ratios, on=["model", "kind"], how="left", maintain_order="left"
)

# %%
names = {"here (95% interval)": "here", "here, text-specific (95% interval)": "text-specific",
         "Kuratov et al. 2025 (± sd)": "paper's"}  # fmt: skip
table = shares.select(
    pl.col("model").str.split("/").list.last(), "kind", pl.col("series").replace(names).alias("gain"),
    pl.col("gain_tokens").round(1).alias("tokens"), pl.col("gain_bits").round(1).alias("bits"),
    pl.col("share_tokens").round(4).alias("of Eq. 1 (tokens)"), pl.col("listed").round(4),
    pl.col("share_bits").round(4).alias("(bits)"),
    (pl.col("gain_bits") / pl.col("d_model")).round(3).alias("bits a dim."),
)  # fmt: skip
places = {name.split("/")[-1]: place for place, name in enumerate(order)}
table.sort(pl.col("model").replace_strict(places), "kind", "gain")

# %%
paper = shares.drop_nulls("listed")
off = paper.with_columns((pl.col("share_tokens") - pl.col("listed")).abs().alias("off")).sort("off").row(-1, named=True)
low, high = paper.sort("share_tokens").row(0, named=True), paper.sort("share_tokens").row(-1, named=True)
natural, random = (paper.filter(kind=kind).sort("model") for kind in ("natural", "random words"))
here = shares.filter(pl.col("listed").is_null())
mine = [
    f"`{r['model']}`, {r['kind']}, {100 * r['share_tokens']:.1f}% in tokens and {100 * r['share_bits']:.1f}% in bits"
    for r in here.drop_nulls("share_tokens").iter_rows(named=True)
]
about = here.filter(pl.col("share_tokens").is_null())
specific = (
    f"What is about the text, in bits: {100 * about['share_bits'].min():.1f}% to "
    f"{100 * about['share_bits'].max():.1f}%. "
    if about.height else ""
)  # fmt: skip

# %%
more = {unit: (natural[f"share_{unit}"] > random[f"share_{unit}"]).sum() for unit in ("tokens", "bits")}
Markdown(
    f"**Reading.** In tokens the {paper['model'].n_unique()} published models use from "
    f"{100 * low['share_tokens']:.1f}% ({low['model']}, {low['kind']}) to {100 * high['share_tokens']:.1f}% "
    f"({high['model']}, {high['kind']}) of Eq. 1; natural text uses more than random words in {more['tokens']} of "
    f"{natural.height} models. In bits they use {100 * paper['share_bits'].min():.1f}% to "
    f"{100 * paper['share_bits'].max():.1f}%, and natural text uses more than random words in {more['bits']} of "
    f"{natural.height}. "
    + (f"Here: {'; '.join(mine)}. {specific}" if mine else "No rows of models measured here were there. ")
    + f"Table 1's gains over Eq. 1 are the listed ratios to {off['off']:.1e}; {off['model']}, {off['kind']}, is "
    "furthest off."
)

# %%
texts = failed.with_columns(gain=pl.col("correct_with") - pl.col("correct_without"))
means = {k: p.group_by("text_id").agg(pl.col("gain").mean())["gain"] for k, p in texts.group_by("model", "source")}
pairs = [model for model in models if {(model, source) for source in (sources[0], sources[-1])} <= means.keys()]
verdicts.judge(
    f"a vector gains more tokens of {sources[0]} text than of {sources[-1]}, on every model",
    {model: metrics.difference(means[model, sources[0]], means[model, sources[-1]]) for model in pairs},
    unit="tokens", paper=True, change=f"texts: {n_texts} a source were fitted",
) if pairs else verdicts.measured(
    f"In the paper natural text uses more of Eq. 1 than random words in {more['tokens']} of {natural.height} models"
)  # fmt: skip

# %% [markdown]
# ## Limits
#
# The 16 bits a dimension are assumed: the vectors are float32, and how many of their bits matter is not asked here.
# Eq. 1 takes every token to be as likely as any other. What was optimised is a floor of what could be used. The
# embedded models have widths of 64 to 192 and a vocabulary of 512, and their texts are short, so a gain is less of a
# plateau there (`02_information_gain`, which says what is not memory in `llama-128-bos`'s gain).

# %%
print(f"{paper.height} published ratios; {len(models)} models here: {done}")
