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
# Width, depth, training: models trained alike but for one of these, each more than once (the ladder); the published
# models; the models measured here. Three laws were named beforehand.
#
# *Claim:* one vector holds a constant number of bits a dimension, bits = a · d_model. Beside it stand bits =
# a · d_model^b and bits = a · parameters^b. Larger models hold more (Kuratov et al. 2025, Table 1), and the first
# layers of a model alone hold much (Tarasov et al. 2026, slides).

# %% tags=["parameters"]
models: list[str] = ["llama-64", "llama-128", "llama-192"]  # one family, one training each but for the width
pretrained: list[str] = ["smollm2-135m", "gemma3-270m"]  # foretold by the ladder's laws; not measured here
source: str = "embedded"  # of the texts
n_texts: int = 16  # texts
budget: int = 4000  # token-steps a text of the search for the exact length
longest: int = 40  # tokens, the most a search tries
seeds: list[int] = [0, 1]  # of the searches for the limit, each from its own start
fresh: list[int] = [100, 101]  # seeds of the fits at one token more, others than those
limit_budget: int = 16000  # token-steps of a search for the limit
fixed: int = 24  # tokens that the gain is measured of, more than any model of the ladder holds
gain_recipe: str = "progressive"  # one that descends the cross-entropy
n_other: int = 80  # other texts, to which the shared vector is fitted, and which stop its fit
ladder_facts: str = ""  # CSV of the ladder's models (ladder.write); empty: the one that travels
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
import math
from functools import partial

import polars as pl
from IPython.display import Markdown

from capacity import baselines, charts, fitting, gains, ladder, metrics, published, scaling, sweep

charts.enable()

# %% [markdown]
# ## Measure or load
#
# The exact length of natural texts, all tokens predicted, by one search at the same budget for every model, and of
# tokens drawn evenly, whose bits are known whatever the model. Rows of models of the ladder that are not on this
# machine are loaded, and none are measured.

# %%
search = {"n_texts": n_texts, "length": longest, "search": "grow"}
done = sweep.measure(sweep.grid(model=models, source=source, budget=budget, **search), store or None, missing=missing)
table = ladder.table(ladder_facts or None)
kept = partial(ladder.measure, table, store or None, missing=missing)
trained = kept(source=[source, "random_tokens"], budget=budget, **search)

# %% [markdown]
# A fixed budget may starve the larger models; so, of the ladder, the longest of several searches with more, and whether
# it is the text's limit (`09_exact_length`). And what a vector saves of a text that is longer than it holds, less what
# one saves that was fitted to other texts (`02_information_gain`).

# %%
searched = kept(source=source, fresh=fresh, seed=seeds, budget=limit_budget, **search)
ends = metrics.limits(searched.rows, by=["model"], steps=fitting.recipe("default").steps)
fits = kept(source=source, n_texts=n_texts, length=fixed, search="fixed", recipe=gain_recipe, scored_from=1)
nulls = baselines.nulls(metrics.finished(fits.rows), fits.cells, store or None, n_other=n_other, missing=missing)
gain = gains.text_specific_gain(metrics.finished(fits.rows), nulls, by=["model"]) if nulls.height else None
held = ladder.held(table, trained.rows, ends=ends, gain=gain)

# %% [markdown]
# ## The ladder: models trained alike
#
# Llama-like models with a constant first token (`data/ladder.toml`), up to three trainings of a shape: weights and
# order of the data are drawn anew for each. What counts is a rung, however many trainings and texts its number is a
# mean of.

# %%
held.group_by("width", "depth", "rate", "tokens", "held_out").agg(
    pl.len().alias("n"), pl.col("held_out_nats", *ladder.MEASURES, "certified", "limits").mean(),
    pl.col("n_censored").sum(),
).drop("held_out").sort("width", "depth", "rate", "tokens").with_columns(pl.selectors.float().round(2))  # fmt: skip

# %% [markdown]
# Means over *n* trainings. `bits`: the mean exact length of random tokens times log2 of the vocabulary; `certified`:
# these less the bits that the length may tell (`02_information_gain`), a constant, so that it has no exponent.
# `limits`: share of the texts whose `longest` is their limit. `n_censored`: of the searches at the one budget, how many
# ended with it or with the text.

# %% [markdown]
# How they learned, the first training of each shape:

# %%
first = ladder.curve_table(ladder_facts or None).filter(pl.col("model").str.contains(r"-d\d+-s0$"))
charts.training_curves(first.with_columns(pl.col("model").str.replace(r"^.*:(.*)-s0$", "$1"))) if first.height else None

# %% [markdown]
# ### Along width, depth and tokens

# %%
trends = ladder.trends(held)
pl.DataFrame([
    {"along": axis, "of": name, "b": trend.exponent, "low": trend.low, "high": trend.high, "n": trend.n,
     "over": "trainings" if trend.over_trainings else "rung means",
     "ends": math.exp(trend.rise), "seeds": math.exp(trend.seeds)}
    for axis, by_measure in trends.items() for name, trend in by_measure.items()
], nan_to_null=True).with_columns(pl.selectors.float().round(2))  # fmt: skip

# %% [markdown]
# What is measured goes as the axis to the power of *b*, with 95% t intervals. Over rung means, one number a width or
# depth, since what all trainings of a rung share is seen once, the width that laws are to foretell below among them;
# along tokens a training is at all of them, and the interval is over the trainings' own exponents. *Ends*: the last
# mean over the first; *seeds*: by what factor trainings of one rung differ (one standard deviation). A trend is told
# only where the interval leaves out 0 and the ends differ by more than seeds do.

# %%
none = Markdown("Models trained alike were not measured: *cannot tell*.")
drawn = {axis: partial(charts.trends, **ladder.drawn(held, axis, by_measure)) for axis, by_measure in trends.items()}
drawn["width"](across="width of the [mem] vector (d_model)") if "width" in drawn else none

# %%
drawn["depth"](across="layers") if "depth" in drawn else none

# %%
drawn["tokens"](across="tokens trained on") if "tokens" in drawn else none

# %% [markdown]
# Another learning rate is another training; if it moves what is held as much as the width does, one rate is not the
# same training at all widths. Means at half, once and twice the rate, one training each but at once; then the exponents
# between the two widths at each rate.

# %%
rates = ladder.along(held, "rate").group_by("width", "rate").agg(
    pl.len().alias("trainings"), pl.col("held_out_nats", *ladder.MEASURES).mean()
)  # fmt: skip
rates.sort("width", "rate").with_columns(pl.selectors.float().round(2))

# %%
at_rates = ladder.by_rate(held)
at_rates.with_columns(pl.selectors.float().round(2))

# %%
ladder.verdict("width", trends.get("width", {}), at_rates)

# %%
ladder.verdict("depth", trends.get("depth", {}))

# %%
ladder.verdict("tokens", trends.get("tokens", {}))

# %% [markdown]
# ## The ladder: three laws, and what they foretell
#
# Fitted to rung means of all widths and depths; in laws of the width the depths of a width count as one. *Left out*:
# root mean square error of the logarithm of a rung that the law has not seen (0.1 is about 10%). Below, what each law
# foretells of the width that was held out and of pretrained models, and how many standard errors it misses by.

# %%
main = pl.concat(ladder.along(held, axis) for axis in ("width", "depth")).unique("model", maintain_order=True)
means = {y: ladder.means(main, y) for y in ladder.MEASURES}
laws_here = {
    y: scaling.named(rungs["width"], rungs["parameters"], rungs[y], by_width=True)
    for y, rungs in means.items() if rungs["width"].n_unique() > 1
}  # fmt: skip
ladder.law_table(laws_here).with_columns(pl.selectors.float().round(2))

# %%
real = sweep.measure(sweep.grid(**sweep.PRETRAINED | {"model": pretrained}), store or None, missing="skip").rows
size = {"width": "d_model", "parameters": "n_parameters"}
alike = real.filter(pl.col("budget") >= budget)  # of a smaller one nothing is known at this cost
reached = metrics.exact_length_by_cost(alike, cost="token_steps", at=[budget], by=["model", *size.values()]) \
    if alike.height else pl.DataFrame()  # fmt: skip
beyond = ladder.beyond(held, reached.rename({"value": "tokens_held"} | {v: k for k, v in size.items()}, strict=False))
foretold = ladder.foretold(laws_here, beyond)
foretold.with_columns(pl.selectors.float().round(2))

# %%
n_widths = main["width"].n_unique()
Markdown(
    f"**Reading.** Of laws over rungs of {n_widths} widths, {ladder.missed(foretold)}." if foretold.height
    else "Nothing was foretold."
)  # fmt: skip

# %%
ladder.constant(trends.get("width", {}), foretold.filter(~pl.col("rung").is_in(pretrained)))

# %% [markdown]
# ## Published models: width
#
# Information gain, in bits, and decoding capacity of one vector on PG-19 (Kuratov et al., Table 1), and the exact
# length of whole models by progressive cramming, teacher-forced (Tarasov et al., project page and slides). Laws are
# lines of least squares in logarithms; a rung is a model, so the intervals are over models, however many texts stand
# behind each.

# %%
rungs = published.by_width()
kinds = rungs["measure"].unique(maintain_order=True)
by_kind = {name: rungs.filter(measure=name) for name in kinds}
fitted = {name: scaling.named(own["d_model"], own["billions"], own["value"]) for name, own in by_kind.items()}
listed = rungs.pivot("measure", index=["model", "d_model", "vocab_size", "billions"], values="value")
listed.sort("d_model", "model").with_columns(pl.col(kinds).round(0))

# %%
lines = [
    ladder.lines({n: law.law for n, law in laws.items() if law.of_width}, sorted(set(by_kind[name]["d_model"])))
    .with_columns(of=pl.lit(name)) for name, laws in fitted.items()
]  # fmt: skip
points = rungs.select(x="d_model", y="value", rung="model", series="family", of="measure")
charts.trends(points, pl.concat(lines), across="width of the [mem] vector (d_model)")

# %%
ladder.law_table(fitted).with_columns(pl.selectors.float().round(2))

# %% [markdown]
# *b* with its 95% t interval; *spread*: residual standard deviation of ln y; *left out*: root mean square error of
# ln y of a width that the law has not seen, all its rungs left out (0.1 is about 10%). The law with *b* = 1 has no
# interval.

# %% [markdown]
# ## Published models: depth
#
# Tokens held by the first layers of a model alone, the head on top (progressive cramming, the follow-up's slides).

# %%
depth = published.by_depth()
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
# Mean exact length, all tokens predicted, 95% intervals over texts, each model at its own budget: the small ones as
# above, pretrained ones as in `12_real_models`. One training a width: what another seed of the training would give, no
# interval here knows; the ladder above does.

# %%
sizes = ["model", "d_model", "n_parameters", "vocab_size", "budget"]
every = metrics.finished(pl.concat([done.rows, real], how="diagonal"))
here = metrics.exact_length(every, by=sizes).sort("d_model") if every.height else None
here if here is None else here.select(*sizes, pl.col("value", "low", "high").round(2), "n", "n_censored")

# %%
alike_here = pl.DataFrame({"d_model": [], "value": []}) if here is None else here.filter(
    pl.col("model").is_in(models), pl.col("value") > 0, budget=budget
)  # fmt: skip
own = scaling.fit(alike_here["d_model"], alike_here["value"]) if alike_here["d_model"].n_unique() > 2 else None
gain_laws = fitted["gain (bits)"]
power, line = gain_laws["a · d_model^b"].law, gain_laws["a · d_model"].law
wrong = {name: math.exp(named.left_out) for name, named in gain_laws.items()}
best = min(wrong, key=lambda name: wrong[name])
grows = deeper.filter(pl.col("low") > 0).height
told = f"{own.exponent:.2f} ({own.low:.2f} to {own.high:.2f}) over {own.n} models of one training each" if own else ""
here_too = f" Here tokens go as d_model^{told}." if own else ""

# %%
Markdown(
    f"**Reading.** Over {power.n} published models bits grow as d_model^{power.exponent:.2f} ({power.low:.2f} to "
    f"{power.high:.2f}); as a constant they are {line.scale:.2f} bits a dimension, of Eq. 1's 16, and a width left "
    f"out is foretold to a factor of {wrong['a · d_model']:.2f}. Least wrong is {best} ({wrong[best]:.2f}). Tokens "
    f"held grow with the layers kept by an exponent above 0 in {grows} of {deeper.height} models.{here_too}"
)

# %% [markdown]
# ## Limits
#
# Published models differ in width, depth, data, tokenizer and family at once: an exponent over them is no law of
# width. Information gain counts what a vector tells of the kind of text, too. Models cut to their first layers were
# not trained that way. The ladder is small models trained briefly; a checkpoint is a model in the middle of a cosine,
# not one whose training ended there. Rungs are few, so their intervals are wide; that all models hold the same texts,
# no interval knows. The longest of several searches is the limit only of the texts of `limits`, a share. A rung with
# a training that holds nothing has no place in a law. Pretrained models have other vocabularies, 12 of the 16 texts,
# and BOS before [mem]. Along tokens there is one shape, width 128 of depth 4.

# %%
print(done, trained, searched, fits, sep="\n")
