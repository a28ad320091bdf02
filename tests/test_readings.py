"""What pages say of the rows that travel, made again from the Parquet files with numpy and plain loops."""

import csv
import itertools
import math
import re
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from in_process import outputs, restored

from capacity import models, resources, sweep, texts, verdicts
from capacity.report import parameters

pytestmark = pytest.mark.slow

SPEED = "llama-128-float32"
QUICK = {  # what is measured anew on a page, and what no number below hangs on, kept short
    "05_geometry": {"points": 3, "steps": 1, "model": "llama-128", "n_texts": 5, "length": 4},  # rows that travel
    "03_many_vectors": {},
    "07_free_running": {"models": ["llama-128"], "sources": ["embedded"]},
    "08_precision": {
        "models": ["llama-128"], "sources": ["embedded"], "alphabets": [2], "bits": [16, 10, 9, 8, 7, 6, 5, 4],
        "noises": [0.016], "draws": 1,
    },
    "09_exact_length": {},
    "10_baselines": {"prefixes": [16, 504], "copied": [8]},
    "11_speed": {"shapes": []},
}  # fmt: skip


@pytest.fixture(scope="module")
def travelled():
    """Return the rows that travel, as they lie in their files, by columns alone."""
    return pl.concat(pl.read_parquet(file) for file in (resources.data() / "measured" / "rows").glob("*.parquet"))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Return a function that executes a notebook on the rows that travel, and gives its readings and its verdicts."""
    folder = tmp_path_factory.mktemp("readings")
    shutil.copytree(resources.data() / "measured" / "speed" / SPEED, folder / "speed" / SPEED)

    def execute(name, **more):
        source = resources.notebooks() / f"{name}.py"
        given = {"store": str(folder / "store"), "missing": "refuse", "speed": str(folder / "speed")}
        given |= QUICK[name] | more
        given = {key: value for key, value in given.items() if key in parameters.declared(source)}
        shown = outputs(source, given)
        reading = " ".join(data.get("text/markdown", "") for data in shown)
        return reading, [verdicts.Verdict(**data[verdicts.MIMETYPE]) for data in shown if verdicts.MIMETYPE in data]

    with restored():
        yield execute


def default(name, parameter):
    return parameters.declared(resources.notebooks() / f"{name}.py")[parameter].default


def numbers(text):
    """Return the numbers in a text, in order."""
    return [float(number.replace(",", "")) for number in re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", text)]


def before(words, text):
    """Return the number that stands before some words of a text."""
    return numbers(text.partition(words)[0])[-1]


def test_the_shares_of_05_are_those_of_the_stored_vectors(said, travelled):
    reading, (verdict, *_) = said("05_geometry")
    rows = travelled.filter(
        pl.col("text_index") < 5, pl.col("seed") < 8, model="llama-128", source="embedded", search="fixed",
        recipe="default", length=4,
        status="solved",
    )  # fmt: skip
    vectors = {}
    for text, mem in rows.select("text_id", "mem").iter_rows():
        vectors.setdefault(text, []).append(np.array(mem, dtype=float))
    vectors = {text: own for text, own in vectors.items() if len(own) > 1}

    def cosine(one, other):
        return one @ other / math.sqrt((one @ one) * (other @ other))

    within = {text: [cosine(*pair) for pair in itertools.combinations(own, 2)] for text, own in vectors.items()}
    shares = [sum(value <= 0.8 for value in own) / len(own) for own in within.values()]
    tokens, value, *ends, bound = numbers(verdict.number)
    assert (tokens, bound) == (4, 0.95)
    assert value == pytest.approx(np.mean(shares), abs=0.005)
    if ends:  # over texts, not over their pairs; so few may have no interval
        assert ends[1] - ends[0] > 2 * np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert verdict.outcome == "cannot tell"
    above = [value > 0.8 for own in within.values() for value in own]
    own_means = [np.mean(own) for own in within.values()]
    assert f"within a text are {np.mean(own_means):.2f} in the mean" in reading
    assert f"{100 * np.mean(above):.1f}% of {len(above)} are above 0.8" in reading
    between = {text: [] for text in vectors}  # a pair of two texts counts for both
    for one, other in itertools.combinations(vectors, 2):
        for pair in itertools.product(vectors[one], vectors[other]):
            between[one].append(cosine(*pair))
            between[other].append(cosine(*pair))
    assert f"between texts are {np.mean([np.mean(own) for own in between.values()]):.2f} in the mean" in reading

    frozen, ids = models.load("llama-128", device="cpu"), {}
    for sample in texts.sample("embedded", frozen.tokenizer, n_texts=5, length=4):
        ids[sample.id] = torch.tensor([sample.ids])
    held = []
    for text, own in vectors.items():
        middles = torch.tensor(np.stack([(one + other) / 2 for one, other in itertools.combinations(own, 2)])).float()
        embeds = torch.cat([middles[:, None], frozen.embed(ids[text][:, :-1]).expand(len(middles), -1, -1)], 1)
        with torch.no_grad():
            right = frozen.model(inputs_embeds=embeds).logits.argmax(-1) == ids[text]
        held.append(right.all(1).float().mean().item())  # the ends are solutions, so of 3 places the middle decides
    assert before("% of the lines hold", reading) == pytest.approx(100 * np.mean(held), abs=1.5)


def log2_of_next(frozen, ids):
    """Log2 probabilities of the token after each of ids, (len(ids), vocab), in float64."""
    with torch.no_grad():
        logits = frozen.model(input_ids=torch.tensor([list(ids)])).logits[0].double()
    return (torch.log_softmax(logits, -1) / math.log(2)).numpy()


def test_the_margins_and_the_prefix_of_10_are_those_of_the_stored_rows(said, travelled):
    reading, (verdict,) = said("10_baselines")
    names, sources = default("10_baselines", "models"), default("10_baselines", "sources")
    frozen = {name: models.load(name, device="cpu") for name in names}
    grown = travelled.filter(pl.col("text_index") < 8, search="grow", recipe="default", budget=4000, n_mem=1)
    for source in sources:
        amounts = []  # of each model: cross-entropy, saved, shortfall, bits a token
        for name in names:
            rows = grown.filter(pl.col("decoded_tokens") > 1, model=name, source=source).to_dicts()
            sample = {text.id: text.ids for text in texts.sample(source, frozen[name].tokenizer, n_texts=8, length=40)}
            bits = short = 0.0
            for row in rows:
                ids = sample[row["text_id"]][: row["decoded_tokens"]]
                for logs, target in zip(log2_of_next(frozen[name], ids)[:-1], ids[1:], strict=True):
                    bits -= logs[target]
                    short += logs.max() - logs[target]
            saved = sum(row["bits_without"] - row["bits_with"] for row in rows)
            scored = sum(row["decoded_tokens"] - 1 for row in rows)
            amounts.append([bits / scored, saved / scored, short / scored])
        (margin,) = re.findall(rf"{source}: cross-entropy ([^;\n]*)", reading)
        assert numbers(margin)[:3] == pytest.approx(np.mean(amounts, 0), abs=0.006)

    (name,) = default("10_baselines", "prefix_models")
    whole = texts.sample("embedded", frozen[name].tokenizer, n_texts=8, length=512)
    fitted = travelled.filter(model=name, source="after:504:embedded").sort("text_index")
    by_vector = (fitted["bits_without"] - fitted["bits_with_min"]).to_numpy()
    shares = {}
    for size in (16, 504):
        saved = []
        for text in whole:
            logs = log2_of_next(frozen[name], text.ids[504 - size :]), log2_of_next(frozen[name], text.ids[504:])
            own = range(505, 512)  # positions 2 to 8 of the continuation; what predicts them stands one before
            saved.append(sum(logs[0][at - 505 + size, text.ids[at]] - logs[1][at - 505, text.ids[at]] for at in own))
        shares[size] = sum(saved) / by_vector.sum()
        if size == max(shares, key=lambda size: shares[size]):
            off = np.array(saved) - shares[size] * by_vector  # the spread of a quotient of sums, linearised
            error = off.std(ddof=1) / math.sqrt(len(off)) / by_vector.mean()
    size, share = max(shares.items(), key=lambda item: item[1])
    assert f"the best real prefix here, {size} tokens" in reading
    value, low, high, _ = numbers(verdict.number)
    assert value == pytest.approx(1 - share, abs=0.006)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.4)
    assert low < value < high
    assert verdict.outcome == "replicated"
    held = grown.filter(pl.col("decoded_tokens") > 0, model="llama-128", source="embedded")["decoded_tokens"]
    assert f"`llama-128` takes one for {held.mean():.1f}" in reading


def test_the_factors_of_11_are_those_of_the_stored_rows_and_rates(said, travelled):
    reading, (verdict,) = said("11_speed")
    rows = travelled.filter(model="llama-128", search="grow", n_mem=1, scored_from=0, budget=3000).to_dicts()
    spent = {}
    for row in rows:
        recipe = spent.setdefault(row["recipe"], {"token_steps": 0, "seconds": 0.0, "longest": {}})
        recipe["token_steps"] += row["token_steps"]
        recipe["seconds"] += row["seconds"]
        longest = recipe["longest"]
        longest[row["text_id"]] = max(longest.get(row["text_id"], 0), row["decoded_tokens"] or 0)
    assert {recipe: len(one["longest"]) for recipe, one in spent.items()} == dict.fromkeys(
        ("paper", "progressive", "default"), 16
    )
    a_token = {
        (recipe, cost): one[cost] / sum(one["longest"].values())
        for recipe, one in spent.items() for cost in ("token_steps", "seconds")
    }  # fmt: skip
    steps, seconds, pace = numbers(verdict.number)
    assert steps == round(a_token["paper", "token_steps"] / a_token["default", "token_steps"], 1)
    assert seconds == round(a_token["paper", "seconds"] / a_token["default", "seconds"], 1)
    folder = resources.data() / "measured" / "speed" / SPEED
    rates = {}
    for row in csv.DictReader((folder / "rates.csv").read_text().splitlines()):
        rates.setdefault((row["method"], int(row["length"])), []).append(float(row["rate"]))
    assert pace == round(np.median(rates["engine", 8]) / np.median(rates["plain", 8]), 1)

    gains = []
    every = travelled.filter(pl.col("budget") == 3000 * pl.col("n_mem"), source="embedded", search="grow")
    for name, n_mem, scored_from in itertools.product(("llama-128", "llama-128-bos"), (1, 2), (0, 1)):
        part = every.filter(model=name, n_mem=n_mem, scored_from=scored_from, limit=40 * n_mem)
        held = part.group_by("recipe", "text_id").agg(pl.col("decoded_tokens").max().fill_null(0))
        sums = dict(held.group_by("recipe").agg(pl.col("decoded_tokens").sum()).iter_rows())
        gains.append(sums["default"] / sums["paper"])
    assert f"`default` reaches {min(gains):.2f} to {max(gains):.2f} times `paper`'s" in reading


def longest_of(rows, *, spent=math.inf):
    """Return the longest prefix that was exact by text, of searches each cut where it had spent so much."""
    longest, total = {}, {}
    for row in rows.sort("key", "probe").iter_rows(named=True):
        total[row["key"]] = total.get(row["key"], 0) + row["token_steps"]
        exact = row["first_correct"] and row["correct_with"] == row["length"] - 1
        reached = row["length"] if exact and total[row["key"]] <= spent else 0
        longest[row["text_id"]] = max(longest.get(row["text_id"], 0), reached)
    return longest


def student(values):
    """Return the mean of 16 or 32 values, and the ends of its 95% interval."""
    reach = {16: 2.1314, 32: 2.0395}[len(values)] * np.std(values, ddof=1) / math.sqrt(len(values))
    return [np.mean(values), np.mean(values) - reach, np.mean(values) + reach]


def test_what_each_of_the_vectors_of_03_carries_is_that_of_the_stored_rows(said, travelled):
    reading, (budget, pretrained, paper) = said("03_many_vectors")
    rows = travelled.filter(model="llama-64", search="grow", recipe="default")
    bits, held = {}, {}
    for n in (1, 8):
        own = rows.filter(n_mem=n, budget=8000 * n * n)
        bits[n] = np.array([
            max((r["bits_without"] for r in part.to_dicts() if r["decoded_tokens"] == r["length"]), default=0) / n
            for _, part in own.sort("text_id").group_by("text_id", maintain_order=True)
        ])  # fmt: skip
        held[n] = longest_of(own)
        assert len(bits[n]) == 8
    share = bits[8].mean() / bits[1].mean()
    value, low, high, bound = numbers(paper.number.partition("llama-64")[2])
    assert (value, bound) == (round(share, 2), 0.9)
    off = bits[8] - share * bits[1]
    assert (high - low) / 2 == pytest.approx(2.36 * off.std(ddof=1) / math.sqrt(8) / bits[1].mean(), rel=0.4)
    assert f"exact length {np.mean([*held[8].values()]):.1f} against {np.mean([*held[1].values()]):.1f}" in reading
    cut = longest_of(rows.filter(n_mem=8, budget=512000), spent=1.01 * 64000)
    ratio = sum(held[8].values()) / sum(cut.values())
    assert numbers(budget.number.partition("llama-64")[2])[0] == round(ratio, 2)
    far = travelled.filter(model="smollm2-135m", source="embedded", recipe="default", scored_from=0, bos="before_mem")
    far = far.filter(search="grow")
    alone, both = (longest_of(far.filter(n_mem=n, budget=8000 * n * n)) for n in (1, 2))
    assert len(both) == len(alone) == 12
    share = sum(both.values()) / sum(alone.values()) / 2
    assert numbers(pretrained.number.partition("smollm2-135m")[2])[0] == round(share, 2)


def test_the_cosines_of_05_by_part_of_the_length_are_those_of_the_stored_vectors(said, travelled):
    _, (_, closer, nearer, overlap, *_) = said("05_geometry", model="llama-128-bos", n_texts=16, length=0)
    mine = travelled.filter(model="llama-128-bos", source="embedded", recipe="default", n_mem=1, scored_from=0)
    exact = mine.filter(search="grow", budget=4000).group_by("text_id").agg(pl.col("decoded_tokens").max())
    means, every = {0.5: {}, 1.0: {}}, {0.5: {}, 1.0: {}}
    for (text, longest), part in itertools.product(exact.iter_rows(), means):
        fits = mine.filter(pl.col("seed") < 8, text_id=text, search="fixed", status="solved")
        fits = fits.filter(length=int(part * longest))
        vectors = [np.array(mem) / np.linalg.norm(mem) for mem in fits["mem"]]
        means[part][text] = np.mean([one @ other for one, other in itertools.combinations(vectors, 2)])
        every[part][text] = np.array(vectors)
    more = student([means[1.0][text] - own for text, own in means[0.5].items()])
    assert numbers(closer.number)[:3] == pytest.approx(more, abs=0.0051)
    assert (closer.outcome, nearer.outcome) == ("holds", "holds")
    shares = []
    for own in every.values():
        assert min(map(len, own.values())) > 1
        rest = {text: np.concatenate([mem for other, mem in own.items() if other != text]) for text in own}
        shares.append(np.mean([(mem @ mem.T).min() < (mem @ rest[text].T).max() for text, mem in own.items()]))
    assert numbers(overlap.number)[-2:] == [round(share, 2) for share in sorted(shares)]


def plainly(model, mem, n_tokens):
    """Return what a vector decodes to, the whole read again for every token."""
    inputs, found = mem.to(model.dtype), []
    with torch.no_grad():
        while len(found) < n_tokens:
            found.append(model(inputs_embeds=inputs[None], use_cache=False).logits[0, -1].argmax().item())
            inputs = torch.cat([inputs, model.get_input_embeddings().weight[found[-1:]]])
    return found


def last_decoded(travelled, frozen, source="embedded"):
    """Return row, vector and tokens of the longest prefix of each of 16 texts that llama-128 gave back, as in 01."""
    sample = texts.sample(source, frozen.tokenizer, n_texts=16, length=40 if source == "embedded" else 80)
    ids = {text.id: list(text.ids) for text in sample}
    rows = travelled.filter(pl.col("decoded_tokens") == pl.col("length"), model="llama-128", source=source,
                            search="grow", recipe="default", budget=4000, n_mem=1)  # fmt: skip
    last = rows.sort("length").group_by("text_id").last().to_dicts()
    assert len(last) == 16
    return [(row, torch.tensor(row["mem"])[None], ids[row["text_id"]][: row["length"]]) for row in last]


def test_the_share_of_07_that_stands_q8_0_is_that_of_weights_rounded_by_hand(said, travelled):
    _, (free, *_, far, rounding, _) = said("07_free_running")
    frozen = models.load("llama-128", device="cpu")
    held = last_decoded(travelled, frozen)
    with torch.no_grad():
        for weight in (weight for weight in frozen.model.parameters() if weight.ndim > 1):
            blocks = weight.numpy().reshape(-1, 32)
            most = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
            whole = blocks * (1 / np.where(most, most, 1))  # as in ggml: by division halves fall otherwise
            whole = np.sign(whole) * np.floor(np.abs(whole) + 0.5)
            weight.copy_(torch.from_numpy((whole * most.astype(np.float16)).reshape(weight.shape)))
    share = np.mean([plainly(frozen.model, mem, len(ids)) == ids for _, mem, ids in held])
    assert numbers(rounding.number)[0] == round(share, 2)
    assert numbers(free.number)[:2] == [1.00, round(0.025 ** (1 / 16), 2)]  # Clopper and Pearson's, of 16 texts
    kept = pl.read_parquet(sweep.measured().with_name("decoded_again")).filter(condition="weights rounded to Q8_0")
    shares = kept.group_by("source").agg(pl.col("unchanged").mean())["unchanged"]
    assert kept.group_by("source").len()["len"].to_list() == [12, 12]
    assert f"the numbers go from {shares.min():.2f} to {shares.max():.2f}" in far.number


def test_the_bits_of_08_are_those_of_vectors_rounded_by_hand(said, travelled):
    _, (fewer, holds, far, longer, packed) = said("08_precision")
    frozen = models.load("llama-128", device="cpu")
    least, told = [], []
    every = [last_decoded(travelled, frozen, source) for source in ("embedded", "random_tokens:2")]
    for row, mem, ids in itertools.chain(*every):
        stands = 17  # none
        for bits in QUICK["08_precision"]["bits"]:
            step = mem.abs().max() / (2 ** (bits - 1) - 1)
            if plainly(frozen.model, (mem / step).round() * step, len(ids)) != ids:
                break
            stands = bits
        least.append(stands)
        told.append((row["bits_without"] - row["bits_with"]) / 128)
    mean, _, *ends, _ = numbers(fewer.number.partition("llama-128")[2])
    assert [mean, *ends] == pytest.approx(student(8 - np.array(least)), abs=0.0051)
    assert max(least) < 17
    assert numbers(holds.number)[-1] == pytest.approx(np.mean(told) / np.mean(least), abs=0.0051)
    assert numbers(longer.number.partition("llama-128")[2])[0] > 1.5  # of twofold text the vector takes no more bytes
    assert packed.outcome == "does not hold"
    assert far.outcome == "cannot tell"  # what is kept of a pretrained model is of the page's own settings


def test_the_limits_of_09_are_those_of_the_stored_fits(said, travelled):
    reading, (half, stall, doubling, *_, pretrained) = said("09_exact_length")
    held, limits = [], []
    for name in ("llama-128", "llama-128-bos"):
        mine = travelled.filter(pl.col("text_index") < 8, model=name, source="embedded", n_mem=1, scored_from=0)
        searches = mine.filter(pl.col("seed") < 2, pl.col("search") != "fixed", budget=16000)
        longest = longest_of(searches)
        fresh = mine.filter(pl.col("seed").is_in([100, 101]), search="fixed")
        for text, length in longest.items():
            beyond = fresh.filter(text_id=text, length=length + 1)
            assert beyond["status"].to_list() == ["stalled"] * 2
            assert beyond["steps"].max() < 1000
        lengths = list(longest.values())
        at = [fresh.filter(text_id=text, length=length)["status"].to_list() for text, length in longest.items()]
        held.append(np.mean([status == "solved" for pair in at for status in pair]))
        limits.append(sum("solved" in pair for pair in at))
        told = f"of `{name}` 8 texts were searched and 8 fitted afresh, of which {limits[-1]} have reached their limit"
        assert f"{told}; the longest are {np.mean(lengths):.1f}" in reading
        assert longest_of(searches, spent=8000) == longest
    assert limits == [8, 7]  # one text that leaps alone hold so far
    assert numbers(half.number)[-2:] == [0.88, 1]
    assert half.outcome == "cannot tell"
    assert numbers(stall.number)[-2:] == [round(value, 2) for value in sorted(held)]
    assert numbers(doubling.number)[-2:] == [1, 1]
    theirs = travelled.filter(pl.col("text_index") < 8, model="smollm2-135m", source="embedded", recipe="default",
                              bos="before_mem", budget=64000, seed=0)  # fmt: skip
    gains = [
        sum(longest_of(own, spent=64000).values()) / sum(longest_of(own, spent=32000).values())
        for _, own in theirs.group_by("search")
    ]
    assert numbers(pretrained.number)[-2:] == sorted(round(gain, 2) for gain in gains)
    both = longest_of(theirs)
    afresh = travelled.filter(pl.col("seed").is_in([100, 101]), model="smollm2-135m", search="fixed")
    alone = longest_of(afresh)
    farther = {text for text, length in both.items() if alone.get(text, 0) > length}
    used_up = afresh.filter(
        (pl.col("steps") == 1000) & (pl.col("length") == pl.col("text_id").replace_strict(both) + 1)
    )
    assert (len(farther), used_up["text_id"].n_unique(), used_up.height) == (5, 3, 6)  # which have not stalled
    longest = np.mean([max(length, alone.get(text, 0)) for text, length in both.items()])
    assert (
        "of `smollm2-135m` 8 texts were searched and 3 fitted afresh, of which 0 have reached their limit; 5 texts "
        f"are held longer by a fit from a fresh start than by any search; the longest are {longest:.1f}"
    ) in reading
