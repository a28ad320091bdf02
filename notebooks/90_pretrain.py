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
# # 90 · How were the embedded models made?
#
# Small causal language models of two families, trained on public-domain books with one tokenizer and one order of
# blocks; within a family only the width differs, but for `llama-128-bos`, which was trained another way.

# %% tags=["parameters"]
corpus: str = "corpus/books_train.parquet"  # Parquet with a column `text`, or a text file
held_out: str = "corpus/books_heldout.parquet"  # the same, never trained on
tokenizer: str = ""  # folder of a tokenizer to reuse; empty trains a new one
rungs: list[str] = ["llama-64", "llama-128", "llama-192", "neox-128", "llama-128-bos"]  # names in pretraining.RUNGS
ladder_file: str = ""  # TOML of models trained alike (data/ladder.toml), in place of rungs; goes on where it was killed
tokens: int = 0  # seen by each model; 0: 10 million, or what the ladder says
vocab_size: int = 512  # tokens
threads: int = 1  # of the processor
device: str = "cpu"  # or "cuda"
compile: bool = False  # train through torch.compile; minutes of compiling, then faster
out: str = "build/models"  # folder that receives one folder a model

# %%
from pathlib import Path

import polars as pl
import torch
from transformers import PreTrainedTokenizerFast

from capacity import charts, ladder, models, pretraining, verdicts

charts.enable()
torch.set_num_threads(threads)
plan = ladder.read(ladder_file) if ladder_file else None
tokenizer = str(models.locate(plan.vocabulary)) if plan else tokenizer

# %% [markdown]
# ## Texts and tokens

# %%
books = pretraining.books(corpus)
unseen = pretraining.books(held_out)
tok = (
    PreTrainedTokenizerFast.from_pretrained(tokenizer)
    if tokenizer
    else pretraining.train_tokenizer(books, vocab_size=vocab_size)
)
train_tokens = pretraining.stream(books, tok)
unseen_tokens = pretraining.stream(unseen, tok)
bytes_per_token = sum(len(b.encode()) for b in unseen) / len(unseen_tokens)
print(f"{len(train_tokens):,} training tokens, {len(unseen_tokens):,} held out, {bytes_per_token:.3f} bytes a token")

# %%
words = pretraining.frequent_words(books, 20_000)  # data/words.txt, of which random texts are drawn
print(f"{len(words):,} words, most frequent first: {', '.join(words[:8])} …")

# %% [markdown]
# ## Training
#
# AdamW, a cosine to 5% of the peak, sequences of 32 to 512 tokens mixed; a rung of `pretraining.SCHEDULES` departs from
# that where its entry says so (`llama-128-bos`: every sequence begins with `<|endoftext|>` and has 128 or 512 tokens).
# A ladder has a schedule of its own, and processes that are given the same folder share its trainings; of each shape
# the first is drawn.

# %%
if plan:
    ladder.train(plan, corpus=corpus, held_out=held_out, tokens=tokens or None, out=Path(out), compile=compile)
    first = [own.name for own in plan.trainings() if own.rung.rate == 1 and own.seed == own.rung.seeds[0]]
    curves = ladder.curves(plan, Path(out)).filter(pl.col("model").is_in([models.TRAINED + name for name in first]))
else:
    schedule = pretraining.Schedule(tokens=tokens or 10_000_000)
    curves = pl.concat([
        pretraining.rung(name, tok, train_tokens, unseen_tokens, schedule,
                         bytes_per_token=bytes_per_token, out=Path(out), device=device, compile=compile)
        for name in rungs
    ])  # fmt: skip

# %%
records = pretraining.records(Path(out))
records

# %%
charts.training_curves(curves)

# %%
losses = records.sort("held_out_nats_per_token").select("model", "held_out_nats_per_token").rows()
verdicts.measured("Held-out loss, nats a token: " + ", ".join(f"`{name}` {nats:.2f}" for name, nats in losses))

# %% [markdown]
# ## Limits
#
# The loss is over blocks of 512 tokens of books by authors not in the training file. A model this small, seen this
# little text, is a fixture for measuring, not a model of English.
