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
# # 02 · Is the limit bits, and how many of them are about the text?
#
# The bits that one vector takes out of a text (the paper's information gain); how many of them a vector takes out that
# was fitted to *other* texts of the same kind; what is left, which is about this text; and, where the source's entropy
# is known, the bits that a vector must hold whatever the model says.
#
# *Claim:* what limits a vector is the uncertainty it has to remove: past the limit it takes out one number of bits C,
# the same for natural and for random text (Kuratov et al. 2025, Fig. 3 and Fig. 6).

# %% tags=["parameters"]
models: list[str] = ["llama-64", "llama-128", "llama-192", "neox-128", "llama-128-bos"]  # names or folders
sources: list[str] = ["embedded", "random_words", "random_tokens"]  # of the texts, natural first
n_texts: int = 16  # texts of each source
lengths: list[int] = [3, 6, 12, 24]  # tokens, the grid of fixed lengths; 2 at least
recipe: str = "progressive"  # one that descends the cross-entropy: progressive or paper
scored_from: int = 1  # 1: the first token is given, as in the paper; 0: it is predicted, too
n_other: int = 80  # other texts of each source, a fifth of which stop the fit of the shared vector
n_starts: int = 3  # random vectors that the fit of a shared one begins at, besides embeddings
alphabets: list[int] = [2, 4, 16, 64]  # tokens that further texts are drawn from; all of them besides
budget: int = 4000  # token-steps a text, of the search for these texts' exact lengths
longest: int = 80  # tokens, its most; half as many where texts are drawn from all tokens
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # none, before_mem, or auto: as the tokenizer begins a text
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
import math

import numpy as np
import polars as pl
from IPython.display import Markdown

from capacity import baselines, charts, gains, metrics, published, sweep, verdicts

charts.enable()

# %% [markdown]
# ## Measure or load
#
# Every text is fitted at every length of the grid, from its own random start. The loss is the paper's, the mean
# cross-entropy; the recipe `progressive` has ten times the learning rate of the paper's own, `paper`, and a fifth of
# its steps. Bits are those of positions 2..N; with [mem] the least over the steps of the fit, as in the paper.
#
# *The null:* for each model and source one vector, fitted to the mean cross-entropy of other texts of that source, and
# kept where it was best on further ones, the best of several starts. It knows what kind of text comes, and how unsure
# to be, but not which text.

# %%
grid = {"source": sources, "length": lengths, "search": "fixed", "recipe": recipe, "scored_from": scored_from}
fixed = sweep.grid(bos=bos, model=models, n_texts=n_texts, **grid)
few = {"model": models, "n_texts": n_texts, "bos": bos, "source": [f"random_tokens:{k}" for k in alphabets]}
shorter = lengths[:-1] or lengths  # none of the longest comes back
fixed += sweep.grid(**few | grid | {"source": few["source"], "length": shorter}) if alphabets else []
drawn = {"search": "grow", "budget": budget}
searches = sweep.grid(**few | drawn, length=longest) if alphabets else []
searches += sweep.grid(**few | drawn | {"source": "random_tokens"}, length=longest // 2)
done = sweep.measure(fixed + searches, store or None, missing=missing)
every = sweep.with_source_bits(done.rows, done.cells).sort("d_model", "model", maintain_order=True)
at_lengths, held = every.filter(search="fixed"), every.filter(search="grow")
rows = metrics.finished(at_lengths.filter(pl.col("source").is_in(sources)))

# %%
nulls = baselines.nulls(rows, done.cells, store or None, n_other=n_other, n_starts=n_starts, missing=missing)
both = gains.beside(rows, nulls)

# %% [markdown]
# ## Gain by length
#
# If uncertainty is the limit, the gain rises with the length until the text holds C bits, and then stays. Dashed: what
# is left of it beside the shared vector. Shaded: 95% intervals over texts.

# %%
by = ["model", "source"]
parts = gains.by_kind(rows, nulls, by=[*by, "length"])
charts.gain_by_length(parts.filter(pl.col("kind").is_in(["published gain", "text-specific gain"])))

# %% [markdown]
# The paper's means of one length by itself (PG-19, the fits whose accuracy is at most 0.9): flat for some models, still
# rising for others. No intervals are published, nor how many fits each is a mean of.

# %%
theirs_by_length = published.load("kuratov2025", "gain by length").select(
    "model", length=pl.col("metric").str.extract(r"_(\d+)$").cast(pl.Int64), value=pl.col("value") / math.log(2)
)
charts.published_gain_by_length(theirs_by_length)

# %% [markdown]
# ## What is left beside a vector of other texts
#
# At the longest length. *Published gain*: bits without [mem] − bits with. *Shared vector's*: the same of the one vector
# for all texts of the source. *Text-specific gain*: their difference, text by text. *Certified*: the source's own bits
# − bits with the vector kept, where they are known (Barber and Agakov); below 0 the model still charges more than the
# source spent.

# %%
longest_rows = both.filter(length=max(lengths))
beside = parts.filter(length=max(lengths)).drop("length")
charts.gains_beside(beside)

# %%
charged = longest_rows.group_by(by, maintain_order=True).agg(
    (pl.col("source_bits_low") - pl.col("source_first_bits")).mean().alias("source's bits"),
    pl.col("bits_without").mean().alias("bits without"), metrics.exact().sum().alias("n exact"), pl.len().alias("n"),
)  # fmt: skip
wide = beside.pivot("kind", index=by, values="value")
wide = wide.rename(lambda name: name.removeprefix("text-").removesuffix(" gain").removesuffix(" vector's"))
charged.join(wide, on=by).drop("n").with_columns(pl.selectors.float().round(1))

# %% [markdown]
# Is the shared vector a weak null? Beside it what costs no fit, at the longest length: bits saved by the embedding of
# BOS, by the mean of all embeddings, by another text's own vector, and by no vector at all (`none`). *Best*: of the
# five that which saves most in the mean, chosen after looking; *specific*: what is left beside it.

# %%
free = gains.saved_by(rows.filter(length=max(lengths)), nulls, by=by)
most_saved = free.sort("value").group_by(by, maintain_order=True).last().select(*by, best="null")
beside_best = gains.beside(rows.filter(length=max(lengths)), nulls, null="best")
specific = metrics.mean(beside_best, pl.col("null_bits") - gains.bits_with(beside_best), by)
table = free.pivot("null", index=by, values="value").join(most_saved, on=by)
table.join(specific.select(*by, specific="value"), on=by).with_columns(pl.selectors.float().round(1))

# %%
fitted = free.filter(null="shared").select(*by, shared="value")
rivals = free.filter(pl.col("null") != "shared").group_by(by).agg(pl.col("value").max())
weak = fitted.join(rivals, on=by).filter(pl.col("value") > pl.col("shared")).sort(by)
Markdown(
    f"The shared vector saves most of all in {fitted.height - weak.height} of {fitted.height} cases"
    + "".join(f"; `{r['model']}`, {r['source']}: another saves {r['value'] - r['shared']:.1f} bits more"
              for r in weak.iter_rows(named=True)) + "."
)  # fmt: skip

# %% [markdown]
# ## One C for all sources?
#
# C of a source over C of natural text, of the same model, at the longest length: of the published gain, of what is left
# beside the shared vector, and beside the best of the five. The texts are others, so that the quotient's interval is
# Fieller's for two samples; `apart` is the difference in bits (Welch); n, the texts of the smaller sample. Where what
# natural text leaves is not above 0, there is nothing to be a multiple of, and no quotient.

# %%
each = {
    "published gain": (longest_rows, pl.col("bits_without")),
    "text-specific gain": (longest_rows, pl.col("null_bits")),
    "gain beside the best null": (beside_best, pl.col("null_bits")),
}
taken = pl.concat(
    table.select(*by, "text_id", kind=pl.lit(kind), bits=without - gains.bits_with(table))
    for kind, (table, without) in each.items()
)
quotients = gains.over_first(taken, "bits", sources[0], by=["kind", "model"])
quotients.drop("degenerate").with_columns(pl.selectors.float().round(2))

# %% [markdown]
# Between models, on the same texts: the text-specific gain of a model less that of the first, bits, text by text.

# %%
own = longest_rows.select(*by, "text_id", "text_digest", gain=pl.col("null_bits") - gains.bits_with(longest_rows))
first = own.filter(model=models[0]).select("source", "text_id", "text_digest", first="gain")
others = own.filter(pl.col("model") != models[0]).join(first, on=["source", "text_id", "text_digest"])
between = metrics.mean(others, pl.col("gain") - pl.col("first"), by) if others.height else others
between.with_columns(pl.selectors.float().round(1))

# %% [markdown]
# ## Bits that no model stands between
#
# Texts of tokens drawn evenly from K, in the longest prefix that a vector gives back, decoded freely from its stored
# bytes: E[L] · log2 K bits, less log2 of the number of possible lengths, for L was chosen after looking. Which
# alphabet lets a vector hold most? Searches that ended with their budget make it a floor (`n_censored`).

# %%
k = (2 ** pl.col("source_token_bits").first()).round().cast(pl.Int64).alias("alphabet")
facts = held.group_by(by).agg(k, pl.col("d_model").first())
alphabet = gains.certified_lengths(held, by=by).join(facts, on=by).sort("model", "alphabet") if held.height else facts
charts.certified_by_alphabet(alphabet) if held.height else Markdown("No texts of few tokens are there.")

# %% [markdown]
# Beside Eq. 1's bits, and the published gain at the longest fixed length that all alphabets have.

# %%
grown = metrics.bounds(metrics.exact_length(held, by=by)).select(*by, exact_length="tokens") if held.height else None
even = at_lengths.filter(pl.col("source").str.contains(r"^random_tokens(:|$)"))
gained = metrics.finished(even.filter(length=max(shorter)))
gain = gains.information_gain(gained, by=by, least=True) if gained.height else facts.select(*by, value=pl.lit(None))
grown if grown is None else alphabet.join(grown, on=by).join(gain.select(*by, gain="value"), on=by, how="left").select(
    "model", "alphabet", "exact_length", certified="value", low="low", high="high", n="n", n_censored="n_censored",
    gain="gain", eq1_bits=16 * pl.col("d_model"),
).sort("model", "alphabet").with_columns(pl.selectors.float().round(1))  # fmt: skip

# %% [markdown]
# The same at fixed lengths, which nobody chose after looking: (N − the tokens given) · log2 K + log2 of the share of
# drawn texts that were decoded, which any of them may miss. Null where none was.

# %%
drawn_alike = gains.certified_at(even, by=by).join(even.group_by(by).agg(k), on=by) if even.height else even
drawn_alike.filter(pl.col("length") <= max(shorter)).select(
    "model", "alphabet", "length", "value", "low", "high", "n_decoded", "n"
).sort("model", "alphabet", "length").with_columns(pl.selectors.float().round(1)) if even.height else Markdown("")

# %% [markdown]
# ## Ours and the paper's
#
# The published gain against width, as the paper averages it: the fits that failed (accuracy at most 0.99), all lengths
# together, each times N / (N − 1). Ours with 95% intervals over texts, the paper's Table 1 (nats turned into bits) with
# one standard deviation over its rows. Black ticks: 16 bits a dimension.

# %%
theirs = published.table_1("information_gain").with_columns(series=pl.lit("Kuratov et al. 2025 (± sd)"))
sizes = ["model", "d_model", "vocab_size"]
ours = gains.as_published(rows, by=by).filter(unit="bits").join(rows.select(sizes).unique(), on="model")
ours = ours.with_columns(series=pl.lit("here (95% interval)"))
limit = gains.capacities(pl.concat([theirs.select(sizes), ours.select(sizes)], how="vertical_relaxed"))
columns = ["model", "source", "d_model", "value", "low", "high", "series"]
charts.capacity_by_width(
    ours.select(columns), theirs.select(columns), limit.filter(unit="bits"), title="published gain of one vector (bits)"
)

# %%
share = beside.pivot("kind", index=by, values="value").with_columns(
    share=pl.col("shared vector's") / pl.col("published gain")
)
shares = [
    f"{100 * part['share'].min():.0f} to {100 * part['share'].max():.0f}% on {source}"
    for (source,), part in share.group_by("source", maintain_order=True)
]
spans = quotients.group_by("kind", maintain_order=True).agg(
    low=pl.col("value").drop_nans().min(), high=pl.col("value").drop_nans().max()
).drop_nulls()  # fmt: skip
told = ", ".join(f"{low:.2f} to {high:.2f} of the {kind}" for kind, low, high in spans.iter_rows()) or "not measured"
spread = theirs.pivot("source", index="model", values="value").select(pl.col("random") / pl.col("pg19"))["random"]

# %%
most = [
    f"Of {alphabet.height} models and alphabets exact lengths certify most in `{r['model']}`, of texts of "
    f"{r['alphabet']} tokens: {r['value']:.0f} bits ({metrics.between(r['low'], r['high'], digits=0)}, as if named "
    f"before); Eq. 1 has {16 * r['d_model']}."
    for r in (alphabet.sort("value")[-1:].to_dicts() if held.height else [])
]

# %%
fewest = gained.filter(source=f"random_tokens:{min(alphabets)}") if alphabets else gained.clear()
most += [
    f" Texts of {max(shorter)} tokens drawn from {min(alphabets)} hold {spent:.0f} bits behind the first one; the "
    f"published gain of their vectors is {published_gain.min():.0f} to {published_gain.max():.0f}."
    for spent, published_gain in [(
        (fewest["source_bits_low"] - fewest["source_first_bits"]).mean(),
        gain.filter(source=f"random_tokens:{min(alphabets)}")["value"],
    )]
] if fewest.height else []  # fmt: skip

# %%


def rise(part: pl.DataFrame) -> dict:
    half = np.interp(part["length"].max() / 2, part["length"], part["value"])
    return {"rise": part["value"][-1] / half - 1}


ends = metrics.summarise(theirs_by_length.sort("length"), ["model"], rise).sort("rise")

# %%
Markdown(
    f"**Reading.** At {max(lengths)} tokens a vector of other texts takes out, of what a text's own does: "
    f"{'; '.join(shares)}. C over that of {sources[0]} text: {told}. "
    "In the paper the quotient of random words and PG-19 lies "
    f"between {spread.min():.2f} and {spread.max():.2f}, above 1 for {(spread > 1).sum()} of {len(spread)} models; its "
    f"gains by length change over the last doubling of the length by {100 * ends['rise'].min():+.0f}% "
    f"({ends['model'][0]}) to {100 * ends['rise'].max():+.0f}% ({ends['model'][-1]}). " + "".join(most)
)

# %%
verdicts.within(
    f"one C for all sources: what a vector takes out that is about the text is, of each source, that of {sources[0]} "
    "text to a quarter",
    {f"{r['model']}, {r['source']}": metrics.Interval(r["value"], r["low"], r["high"], r["n"], r["degenerate"])
     for r in quotients.filter(kind="text-specific gain").iter_rows(named=True)},
    low=0.8, high=1.25, paper=True, least=16,
    change="more texts, and lengths further past the limit",
) if len(sources) > 1 else verdicts.measured(f"Shared vectors take {'; '.join(shares)} of the gain")  # fmt: skip

# %% [markdown]
# ## Limits
#
# The null is what an optimiser found from a few starts, at the longest length: a better shared vector may exist, above
# all for shorter texts, so a text-specific gain is a ceiling. Its texts are windows of other passages where a source
# has few, which begin in the middle of a sentence. Own vectors, too, are what was found within their steps; those of
# texts that fit stop when every argmax is right, not at 0 bits. Without [mem] the first positions have no context,
# which any vector may stand in for. Certified bits of exact lengths are floors of what a vector can hold, and say
# nothing of natural text. The paper's rows are not published: what of its gains is about the text cannot be worked
# out from its means. Tokens of different models are not the same bytes.

# %%
print(f"{done}, {rows.select(metrics.exact().sum()).item()} of {rows.height} at fixed lengths exact; recipe {recipe}")
