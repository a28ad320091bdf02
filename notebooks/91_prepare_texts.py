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
# # 91 · What does one model see in each source of texts?
#
# All sources side by side: a sample, how many tokens a byte of text takes, how many bits the model needs for it, and
# how long the texts are.
#
# *Claim:* what limits one vector is the cross-entropy to be removed, not the number of tokens (Kuratov et al. 2025,
# Fig. 3); so sources have to be told apart by bits a token before their token counts are compared.

# %% tags=["parameters"]
model: str = "llama-128"  # embedded name, folder or hub name
sources: list[str] = ["embedded", "shuffled:embedded", "random_words", "random_tokens"]  # pg19, hub:OWNER/NAME#COLUMN …
n_texts: int = 16  # texts of each source
length: int = 128  # tokens of each text
seed: int = 0  # of the samples
shown: int = 90  # characters of the sample

# %%
from dataclasses import asdict

import polars as pl
from IPython.display import Markdown

from capacity import charts, coding, metrics, models, published, texts, verdicts

pl.Config.set_fmt_str_lengths(shown + 10)
charts.enable()

# %% [markdown]
# ## Sample
#
# A source, a seed and a tokenizer give the same tokens on every machine. Texts that are too short are left out, none is
# padded; too few is an error.

# %%
frozen = models.load(model)
samples = {s: texts.sample(s, frozen.tokenizer, n_texts=n_texts, length=length, seed=seed) for s in sources}
pl.DataFrame([
    {"source": s, "id": sampled[0].id, "digest": sampled[0].digest,
     "begins": frozen.tokenizer.decode(sampled[0].ids)[:shown]}
    for s, sampled in samples.items()
])  # fmt: skip

# %% [markdown]
# ## Density under the model
#
# Bits are surprisals of tokens 2 to N, summed, over N − 1: nothing predicts the first. Bits a byte are bits a token
# times tokens a byte. Means over texts; *low* and *high* are the 95% interval of bits a token.

# %%
rows = pl.DataFrame([row for sampled in samples.values() for row in coding.densities(frozen, sampled)])
parts = {s: rows.filter(source=s) for s in sources}
intervals = {s: asdict(metrics.interval(part["bits_per_token"])) for s, part in parts.items()}
table = pl.DataFrame([
    {
        "source": s, "tokens a byte": part["tokens_per_byte"].mean(),
        "bits a token": intervals[s]["value"], "low": intervals[s]["low"], "high": intervals[s]["high"],
        "bits a byte": part["bits_per_byte"].mean(), "texts": part.height,
    }
    for s, part in parts.items()
])  # fmt: skip
table.with_columns(pl.selectors.float().round(3))

# %%
charts.texts_by_source(rows, "bits_per_token", title="bits a token under the model (a tick a text, a dot their median)")

# %% [markdown]
# ## How long the texts are
#
# Whole texts, before they are cut. Random texts are as long as asked for, so they have no line.

# %%
whole = {s: texts.whole_lengths(s, frozen.tokenizer, n_texts=n_texts, seed=seed) for s in sources}
lengths = pl.DataFrame(
    [{"source": s, "n_tokens": n} for s, sampled in whole.items() for n in sampled],
    schema={"source": pl.String, "n_tokens": pl.Int64},
)
charts.texts_by_source(lengths, "n_tokens", title="tokens of a whole text (log scale)", log=True)

# %% [markdown]
# ## The paper's models
#
# Tokens a byte on PG-19, where published. Bits and nats of models with different tokenizers compare over the same bytes
# only.

# %%
theirs = published.load("kuratov2025", "bits per byte").select("model", "source", "metric", "value", "unit")
theirs

# %%
ranked = table.sort("bits a token")
least, most = ranked.row(0, named=True), ranked.row(-1, named=True)
spread = [metrics.between(density["low"], density["high"], digits=2) for density in (least, most)]
short = {s: lengths[0] for s, lengths in whole.items() if lengths}
Markdown(
    f"**Reading.** For `{model}`, *{least['source']}* is the least surprising source, {least['bits a token']:.2f} bits "
    f"a token ({spread[0]}), *{most['source']}* the most, {most['bits a token']:.2f}: "
    f"the same {length} tokens hold {most['bits a token'] / least['bits a token']:.1f} times the bits. A byte takes "
    f"{table['tokens a byte'].min():.2f} to {table['tokens a byte'].max():.2f} tokens here, and "
    f"{theirs['value'].min():.2f} to {theirs['value'].max():.2f} of PG-19 with the tokenizers of the paper's models. "
    f"The shortest whole text has {min(short.values(), default=length)} tokens."
)

# %%
verdicts.measured(
    f"{least['source']} {least['bits a token']:.2f} bits a token ({spread[0]}), "
    f"{most['source']} {most['bits a token']:.2f} ({spread[1]}), `{model}`"
)

# %% [markdown]
# ## Limits
#
# The hub's sources (`pg19`, `pg19_books`, `fanfics`, `hub:…`) are left out by default: they need a network, or a cache,
# once. Random tokens need not be text: what they decode to may hold replacement characters of three bytes each. A short
# text is dearer a token than a long one, since the model has read less of it.
