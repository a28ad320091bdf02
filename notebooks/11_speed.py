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
# # 11 · How fast is this, against the plain procedure and the machine's limit?
#
# Token-steps a second of the engine beside the published procedure, written plainly (one text at a time); the share of
# the machine's matrix-product peak; exact length against token-steps and against seconds, by recipe; and what length,
# width, vectors and texts cost.
#
# *Claim:* the same mathematics, many texts at once, is an order of magnitude faster, and a loss that asks for nothing
# but the argmax reaches the published recipe's exact length with a fraction of its token-steps.

# %% tags=["parameters"]
model: str = "llama-128"  # name, folder, or random:SHAPE for random weights of a published shape
dtype: str = "float32"  # of the weights
lengths: list[int] = [4, 8, 16, 32, 64]  # tokens
compiled_lengths: list[int] = [8]  # tokens; each takes up to a minute of compiling first
n_mem: list[int] = [1, 2, 4]  # vectors, at cost_length
other_models: list[str] = ["llama-64", "llama-192", "neox-128"]  # at cost_length
busy: list[int] = [1, 4, 8, 16]  # texts, fewer than run at once, at cost_length
cost_length: int = 8  # tokens
repeats: int = 3  # turns, each method once in every turn
seconds: float = 0.4  # of each measurement, at least
search_models: list[str] = ["llama-128", "llama-128-bos"]  # whose exact lengths are searched for
search_n_mem: list[int] = [1, 2]  # vectors of the searches
recipes: list[str] = ["paper", "progressive", "default"]  # of the searches; paper and default among them
n_texts: int = 16  # texts of the searches
longest: int = 40  # tokens a vector, the most the searches try
budget: int = 3000  # token-steps a text and vector of the searches
shapes: list[str] = ["random:smollm2-135m", "random:gemma3-270m"]  # of pretrained models, or names
shape_texts: list[int] = [1, 8, 16]  # texts, with these; on a processor 8 of such a model run at once, more wait
shape_lengths: list[int] = [16, 64]  # tokens, with these
shape_searched: int = 8  # texts of a search with these
driven: list[int] = [1, 16, 64]  # texts of searches whose rate is measured
driven_budget: int = 1000  # token-steps a text of these
speed: str = ""  # folder of this machine's rates, measured where not there; empty: those that travel with the project
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # of the searches: none, before_mem, or auto, as the tokenizer begins a text
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
from collections.abc import Callable

import polars as pl
from IPython.display import Markdown

from capacity import benchmark, charts, fitting, metrics, resources, sweep, verdicts
from capacity.models import Frozen

charts.enable()

# %% [markdown]
# ## Measure or load: rates
#
# In turns: the peak of a square matrix product, the plain procedure, the engine, the engine compiled; medians and
# ranges over the turns, ratios within a turn. Random tokens, recipe `paper`, every slot busy. Rates that travel with
# the project are shown unless this machine's are asked for: `-p speed=build/speed`, which takes minutes.

# %%
paper, folder = fitting.recipe("paper"), benchmark.folder(speed, model, dtype=dtype)
timing = {"repeats": repeats, "seconds": seconds}
frozen = benchmark.load(model, dtype=dtype)
plain_and_engine = benchmark.kept(
    folder / "rates.csv", lambda: benchmark.rates(frozen, paper, lengths=lengths, **timing)
)
compiled = benchmark.kept(
    folder / "compiled.csv",
    lambda: benchmark.rates(frozen, paper, lengths=compiled_lengths, methods=["plain", "engine", "compiled"], **timing),
) if compiled_lengths else plain_and_engine.clear()  # fmt: skip
rates = pl.concat([
    benchmark.medians(plain_and_engine), benchmark.medians(compiled).filter(method="compiled")
]).sort("length", "rate", descending=[False, True])  # fmt: skip
whole = pl.col("rate", "low", "high").round(0).cast(pl.Int64)
rates.with_columns(whole, pl.col("ratio").round(1), pl.col("share").round(3))

# %%
charts.rates_by_length(rates)

# %% [markdown]
# ## What costs how much
#
# The engine at one length: wider and other models, more vectors, fewer texts than run at once (in a smaller batch,
# where that was seen to give the same bits).

# %%
at = {"lengths": [cost_length], "methods": ["engine"]} | timing
costs = benchmark.kept(
    folder / "costs.csv",
    lambda: pl.concat([
        *(benchmark.rates(frozen, paper, n_mem=n, **at) for n in n_mem),
        *(benchmark.rates(frozen, paper, texts=n, **at) for n in busy),
        *(benchmark.rates(benchmark.load(name, dtype=dtype), paper, **at) for name in other_models),
    ]),
)  # fmt: skip
benchmark.medians(costs).drop("ratio").with_columns(whole, pl.col("share").round(3)).sort("rate", descending=True)

# %% [markdown]
# ## At the shapes of pretrained models
#
# Random weights, so that nothing is fetched; recipe `default`, as many threads as a fit of such a model takes. *Share*:
# of the matrix product's peak. Below, a whole search by growth, with all that it does besides steps: *bare* is the rate
# of full batches at the lengths that it tried, *share* their quotient.


# %%
def of_shape(name: str, kind: str, measure: Callable[[Frozen], pl.DataFrame]) -> pl.DataFrame:
    place = benchmark.folder(speed, name, dtype=dtype, kinds=[kind]) / f"{kind}.csv"
    return benchmark.kept(place, lambda: measure(benchmark.load(name, dtype=dtype)))


# %%
default = fitting.recipe("default")
pretrained = [
    of_shape(name, "shapes", lambda model: pl.concat(
        benchmark.rates(model, default, lengths=shape_lengths, texts=n, methods=["engine"], **timing)
        for n in shape_texts
    )) for name in shapes
]  # fmt: skip
kinds = ["model", "length", "texts", "rate", "low", "high", "share"]
benchmark.medians(pl.concat(pretrained)).select(kinds).with_columns(
    pl.col("rate", "low", "high").round(1), pl.col("share").round(2)
).sort(kinds[:3]) if shapes else Markdown("No shapes were asked for.")  # fmt: skip

# %%
words = sweep.cells(sweep.grid(
    model=search_models[0], n_texts=shape_searched, length=longest, source="random_words", search="grow"
))  # fmt: skip
searched = [
    of_shape(name, "searches", lambda model: pl.DataFrame([
        benchmark.growth_rate(model, [list(cell.text.ids) for cell in words], default, budget=driven_budget)
    ])).select(model=pl.lit(name), texts="texts", rate="rate", bare="bare", share="share") for name in shapes
]  # fmt: skip
pl.concat(searched).with_columns(pl.col("rate", "bare", "share").round(2)) if shapes else Markdown("")

# %% [markdown]
# ## Exact length against token-steps and seconds
#
# Growth from one token on, the same texts and the same budget for every recipe; lengths as they decode, free-running,
# alone, from the stored bytes. `scored_from` 0: all tokens are predicted from the vectors, 1: the first is given.
# `gain`: `default`'s mean exact length over the recipe's, with its 95% interval over texts. Most searches end with
# their budget (`n_censored` of `n`), so that these are lengths and ratios of this budget.

# %%
searches = [e for n in search_n_mem for e in sweep.grid(
    model=search_models, n_texts=n_texts, length=n * longest, search="grow", n_mem=n, budget=n * budget, bos=bos,
    recipe=recipes, scored_from=[0, 1],
)]  # fmt: skip
done = sweep.measure(searches, store or None, missing=missing)
rows = metrics.not_empty(done.rows)
by = ["model", "n_mem", "scored_from"]
each = metrics.exact_lengths(rows, by=[*by, "recipe"])
ours = each.filter(recipe="default").select(*by, "text_id", "seed", default="exact_length")
paired = each.join(ours, on=[*by, "text_id", "seed"]).filter(pl.col("exact_length").sum().over(*by, "recipe") > 0)
gains = metrics.ratio(paired, "default", "exact_length", by=[*by, "recipe"]).select(
    *by, "recipe", gain="value", gain_low="low", gain_high="high"
)
decoded = metrics.exact_length(rows, by=[*by, "recipe"]).join(gains, on=[*by, "recipe"], how="left").sort(*by, "value")
decoded.drop("degenerate").with_columns(pl.selectors.float().round(2))

# %% [markdown]
# What it costs to get there, on the first of these models, with the fewest vectors and all tokens predicted: an exact
# prefix counts from when its fit ended.

# %%
narrow = rows.filter(model=search_models[0], n_mem=min(search_n_mem), scored_from=0)
most = min(search_n_mem) * budget
at = [most * share for share in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)]
spent = narrow.group_by("key").agg(pl.col("seconds").sum())["seconds"]
reached = metrics.exact_length_by_cost(narrow, cost="token_steps", at=at, by=["recipe"])
in_time = metrics.exact_length_by_cost(
    narrow, cost="seconds", at=[1.001 * spent.max() * s / most for s in at], by=["recipe"]
)
charts.exact_length_by_cost(reached, title="token-steps a text") | charts.exact_length_by_cost(
    in_time, title="seconds a text, its share of the batch's"
)

# %%
texts = [list(cell.text.ids) for cell in sweep.cells(
    sweep.grid(model=search_models[0], n_texts=max(driven), length=longest, source="random_words", search="grow")
)]  # fmt: skip
driver = benchmark.kept(
    folder / "driver.csv",
    lambda: pl.DataFrame([
        benchmark.growth_rate(
            benchmark.load(search_models[0]), texts[:n], fitting.recipe("default"), budget=driven_budget
        )
        for n in driven
    ]),
)  # fmt: skip
whole = pl.col("rate", "bare").round(0).cast(pl.Int64)
driver.select("texts", "rate", "bare", "share").with_columns(whole, pl.col("share").round(2))

# %%
totals = narrow.group_by("recipe", "text_id").agg(
    pl.col("token_steps", "seconds").sum(), pl.col("decoded_tokens").max().fill_null(0)
)
held = totals.filter(pl.col("decoded_tokens").sum().over("recipe") > 0)
costs_a_token = pl.concat(
    metrics.ratio(held, cost, "decoded_tokens", by=["recipe"]).with_columns(cost=pl.lit(cost))
    for cost in ("token_steps", "seconds")
).sort("cost", "value")
costs_a_token.drop("degenerate").with_columns(pl.selectors.float().round(3))

# %%
near = plain_and_engine.filter(pl.col("length") == min(lengths, key=lambda n: abs(n - cost_length)))
pace = {row["method"]: row["rate"] for row in benchmark.medians(near).iter_rows(named=True)}
cost = {(row["recipe"], row["cost"]): row["value"] for row in costs_a_token.iter_rows(named=True)}
steps, in_seconds = (  # inf where not a token came back
    cost.get(("paper", name), float("inf")) / cost.get(("default", name), float("inf"))
    for name in ("token_steps", "seconds")
)
factors = (
    f"`paper` spends {steps:.1f} times `default`'s token-steps a token that comes back, {in_seconds:.1f} times its "
    f"seconds by the clock of the searches themselves; at equal recipes the engine does "
    f"{pace['engine'] / pace['plain']:.1f} times the plain procedure's token-steps a second in full batches"
)

# %%
best = rates.sort("share").row(-1, named=True)
gained = {name: decoded.filter(recipe=name)["gain"].drop_nulls() for name in recipes if name != "default"}
spans = [f"{gain.min():.2f} to {gain.max():.2f} times `{name}`'s" for name, gain in gained.items() if len(gain)]
times = [
    f"{row['ratio']:.1f} times the plain procedure's token-steps at length {row['length']} ({row['method']})"
    for row in rates.filter(pl.col("method") != "plain").iter_rows(named=True)
]

# %%
Markdown(
    f"**Reading.** On {plain_and_engine['machine'][0]} (measured {plain_and_engine['date'][0]}) the engine does "
    f"{', '.join(times)}. The largest share of the matrix-product peak is {100 * best['share']:.0f}% "
    f"({best['method']}, length {best['length']}). Exact lengths at {budget} token-steps a text and vector: `default` "
    f"reaches {' and '.join(spans)}, by model, number of vectors and `scored_from` (the table's `gain`). On "
    f"{search_models[0]}, {factors}: factors that are not to be multiplied, for searches by growth of "
    f"{', '.join(map(str, driver['texts']))} texts run at "
    f"{', '.join(f'{100 * share:.0f}%' for share in driver['share'])} of the rate of full batches at the same lengths, "
    "which a few texts can't fill."
)

# %%
verdicts.measured(factors)

# %% [markdown]
# ## Limits
#
# Two rates of one run may be compared, two runs of a busy machine may not. Peaks are those of one large product in the
# same number type. `progressive` has a constant rate here, the warm-up and cosine of Tarasov et al. are left out. No
# rates of a machine with a GPU were measured yet: `make gpu` does it; `data/measured/speed/` is their place.

# %%
kept = sorted((resources.data() / "measured" / "speed").glob("*/rates.csv"))
print(
    f"{len(rates)} settings of {model}; {done}; "
    f"{len(kept)} folders of rates travel along; peak memory {fitting.peak_bytes(frozen.device) / 1e9:.2f} GB"
)
