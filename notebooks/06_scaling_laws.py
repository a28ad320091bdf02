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
# # 06 · What does the capacity of one vector grow with?
#
# Width, size, depth: what the published models hold, and what the embedded ones do, against three laws named
# beforehand.
#
# *Claim:* one vector holds a constant number of bits a dimension, bits = a · d_model. Beside it stand bits =
# a · d_model^b and bits = a · parameters^b. Larger models hold more (Kuratov et al. 2025, Table 1), and the first
# layers of a model alone hold much (Tarasov et al. 2026, slides).

# %% tags=["parameters"]
models: list[str] = ["llama-64", "llama-128", "llama-192"]  # one family, one training each but for the width
source: str = "embedded"  # of the texts
n_texts: int = 16  # texts
budget: int = 4000  # token-steps a text of the search for the exact length
longest: int = 40  # tokens, the most the search tries
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
import math

import polars as pl
from IPython.display import Markdown

from capacity import charts, metrics, published, scaling, sweep, verdicts

charts.enable()

# %% [markdown]
# ## Measure or load

# %%
grid = sweep.grid(model=models, source=source, n_texts=n_texts, length=longest, search="grow", budget=budget)
done = sweep.measure(grid, store or None, missing=missing)

# %% [markdown]
# ## Published models: bits by width
#
# Information gain of one vector on PG-19 (Table 1), turned into bits, a number a model. Laws are lines of least squares
# in logarithms; a rung is a model, so the intervals are over models, however many texts stand behind each.

# %%
table1 = published.wide(published.load("kuratov2025", "Table 1")).filter(n_mem=1, source="pg19")
facts = published.wide(published.load("kuratov2025", "Eq. 1, Fig. 5")).select("model", "d_model", "n_parameters")
rungs = table1.join(facts, on="model").with_columns(bits=pl.col("information_gain") / math.log(2)).drop_nulls("bits")
rungs = rungs.with_columns(family=pl.col("model").str.extract(r"/([A-Za-z]+)")).sort("d_model", "model")
laws = {
    "a · d_model": scaling.fit(rungs["d_model"], rungs["bits"], exponent=1),
    "a · d_model^b": scaling.fit(rungs["d_model"], rungs["bits"]),
    "a · parameters^b": scaling.fit(rungs["n_parameters"], rungs["bits"]),
}

# %%
by_width = {name: law for name, law in laws.items() if "d_model" in name}
widths = sorted(set(rungs["d_model"]))
charts.laws(
    rungs.select(x="d_model", y="bits", rung="model", series="family"),
    pl.DataFrame([{"x": d, "y": law.predict(d), "law": name} for name, law in by_width.items() for d in widths]),
    across="width of the [mem] vector (d_model)", up="information gain (bits)",
)  # fmt: skip

# %%
left_out = {
    "a · d_model": scaling.leave_one_out(rungs["d_model"], rungs["bits"], exponent=1),
    "a · d_model^b": scaling.leave_one_out(rungs["d_model"], rungs["bits"]),
    "a · parameters^b": scaling.leave_one_out(rungs["n_parameters"], rungs["bits"]),
}
pl.DataFrame([
    {"law": name, "b": law.exponent, "low": law.low, "high": law.high, "rungs": law.n, "spread (ln)": law.spread,
     "left out (ln)": left_out[name]}
    for name, law in laws.items()
]).with_columns(pl.selectors.float().round(2))  # fmt: skip

# %% [markdown]
# *b* with its 95% t interval; *spread*: residual standard deviation of ln bits; *left out*: root mean square error of
# ln bits of a width that the law has not seen (0.1 is about 10%).

# %% [markdown]
# ## Published models: depth
#
# Tokens held by the first layers of a model alone, the head on top (progressive cramming, the follow-up's slides).

# %%
layers = pl.col("metric").str.extract(r"first_(\d+)_layers").cast(pl.Int64)
depth = published.load("tarasov2026", "depth and size table").select("model", "value", layers=layers)
depth = depth.with_columns(whole=pl.col("layers") > 8)  # 1, 2, 4 and 8 layers were kept, else all
charts.held_by_depth(depth)

# %%
by_depth = {name: scaling.fit(part["layers"], part["value"]) for (name,), part in depth.group_by("model")}
deeper = pl.DataFrame([
    {"model": name, "b": law.exponent, "low": law.low, "high": law.high, "depths": law.n}
    for name, law in by_depth.items()
]).sort("b", descending=True)  # fmt: skip
deeper.with_columns(pl.selectors.float().round(2))

# %% [markdown]
# ## Models measured here: width
#
# Mean exact length, all tokens predicted, 95% intervals over texts. One training a width: what another seed of the
# training would give, no interval here knows.

# %%
sizes = done.rows.select("model", "d_model").unique()
here = metrics.exact_length(done.rows, by=["model"]).join(sizes, on="model").sort("d_model")
here.select("model", "d_model", pl.col("value", "low", "high").round(2), "n", "n_censored")

# %%
own = scaling.fit(here["d_model"], here["value"]) if here.height > 1 else None
power, line = laws["a · d_model^b"], laws["a · d_model"]
best = min(left_out, key=lambda name: left_out[name])
grows = deeper.filter(pl.col("low") > 0).height
wrong = {name: f"{math.exp(error):.2f}" for name, error in left_out.items()}
Markdown(
    f"**Reading.** Over {power.n} published models bits grow as d_model^{power.exponent:.2f} ({power.low:.2f} to "
    f"{power.high:.2f}); as a constant they are {line.scale:.2f} bits a dimension, of Eq. 1's 16, and a width left "
    f"out is foretold to a factor of {wrong['a · d_model']}. Least wrong is {best} ({wrong[best]}). Tokens held grow "
    f"with the layers kept by an exponent above 0 in {grows} of {deeper.height} models. "
    + (f"Here tokens grow as d_model^{own.exponent:.2f} over {own.n} widths of one training each." if own else "")
)

# %%
deep = "holds" if grows == deeper.height else "cannot tell"
Markdown(
    f"With depth capacity grows, for the first layers of one model: *{deep}* ({grows} of {deeper.height} intervals "
    "above 0); for models trained at each depth: *cannot tell*. With width, training alike: *cannot tell*, several "
    "trainings of each width would. With more training: *cannot tell*, no published model is measured at two of its "
    "checkpoints."
)

# %%
verdicts.Verdict(
    outcome="cannot tell" if power.low <= 1 <= power.high else "does not hold",
    claim="bits a dimension are constant",
    number=f"bits grow as d_model to the power of {power.exponent:.2f} ({power.low:.2f} to {power.high:.2f}) over "
    f"{power.n} published models",
    change="models of one family, trained alike at several widths, each more than once",
    headline=f"{line.scale:.2f} bits a dimension, over {line.n} published models",
)

# %% [markdown]
# ## Limits
#
# Published models differ in width, depth, data, tokenizer and family at once: an exponent over them is no law of width.
# Information gain counts what a vector tells of the kind of text, too. The embedded models are three trainings. Models
# cut to their first layers were not trained that way.

# %%
print(done)
