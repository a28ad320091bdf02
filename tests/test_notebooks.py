import ast
import csv
import itertools
import json
import math
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import polars as pl
import pytest
import torch

from capacity import baselines, metrics, models, report, resources, store, sweep, texts
from capacity.report import parameters

pytestmark = pytest.mark.slow

SMALLEST = next(iter(models.EMBEDDED))
NOTEBOOKS = sorted(resources.notebooks().glob("*.py"))
SETTINGS = {
    "00_one_vector": {"model": SMALLEST, "length": 8, "budget": 200},
    "01_decoding_capacity": {
        "models": [SMALLEST], "paper_models": [], "n_texts": 2, "lengths": [1, 16],
        "budget": 100, "longest": 8, "sources": ["embedded", "random_tokens"], "pretrained": [],
    },
    "02_information_gain": {
        "models": [SMALLEST], "n_texts": 2, "lengths": [3, 8], "sources": ["embedded", "random_tokens"],
        "n_other": 10, "alphabets": [2], "budget": 100, "longest": 8, "store": "gains",
    },
    "03_many_vectors": {
        "models": [SMALLEST], "n_texts": 2, "n_mem": [1, 2], "per_vector": [1, 3], "recipe": "default",
        "scored_from": 0, "budget": 200, "longest": 4, "pretrained": SMALLEST, "pretrained_budget": 20,
        "n_pretrained": 2, "pretrained_missing": "measure", "store": "vectors",
    },
    "04_theory_and_utilisation": {  # with the rows of 02
        "models": [SMALLEST], "n_texts": 2, "lengths": [3, 8], "sources": ["embedded", "random_tokens"],
        "n_other": 10, "store": "gains",
    },
    "05_geometry": {
        "model": SMALLEST, "n_texts": 3, "n_starts": 3, "length": 2, "points": 5, "steps": 20, "shares": [0.5, 0.9],
        "pretrained": "",
    },
    "06_scaling_laws": {"models": [SMALLEST], "n_texts": 2, "budget": 100, "longest": 8},
    "09_exact_length": {
        "models": [SMALLEST], "n_texts": 2, "searches": ["grow", "leap"], "budget": 120, "longest": 14,
        "recipes": ["default", "paper"], "recipe_budget": 100, "impatience": [30], "pretrained": SMALLEST,
        "pretrained_budgets": [60], "pretrained_searches": ["grow"], "pretrained_longest": 2,
        "pretrained_missing": "measure", "store": "limits",
    },
    "07_free_running": {
        "models": [SMALLEST], "sources": ["embedded", "random_tokens"], "n_texts": 2, "longest": 8, "budget": 100,
        "given_budget": 60, "given_lengths": [3], "fixed_length": 6, "pretrained": [], "n_others": 2,
        "store": "decoded",
    },
    "08_precision": {
        "models": [SMALLEST], "sources": ["embedded"], "alphabets": [2], "n_texts": 2, "longest": 8, "budget": 100,
        "bits": [16, 8, 4, 2], "noises": [0.001, 0.5], "draws": 2, "pretrained": [], "store": "rounded",
    },
    "10_baselines": {
        "models": [SMALLEST], "prefix_models": [SMALLEST], "n_texts": 2, "sources": ["embedded", "random_tokens"],
        "budget": 200, "longest": 8, "prefixes": [8, 24, 64], "before": 24, "continuation": 2, "copied": [4, 12],
        "store": "baselines",
    },
    "11_speed": {
        "model": SMALLEST, "lengths": [2, 4], "compiled_lengths": [], "n_mem": [2], "other_models": [], "busy": [1],
        "cost_length": 4, "repeats": 1, "seconds": 0.01, "search_models": [SMALLEST], "search_n_mem": [1, 2],
        "recipes": ["paper", "default"], "n_texts": 2, "longest": 3, "budget": 40, "driven": [1, 2],
        "driven_budget": 40, "store": "searches", "shapes": [SMALLEST], "shape_texts": [1, 2], "shape_lengths": [2],
        "shape_searched": 2,
    },
    "12_real_models": {
        "model": SMALLEST, "n_texts": 2, "budget": 60, "longest": 6, "bos": ["none"], "recipes": ["default", "paper"],
        "others": [], "gain_lengths": [3, 6], "gain_recipe": "progressive:30", "n_other": 10, "missing": "measure",
        "store": "real", "recipe_budget": 80, "n_further": 3, "n_words": 3,
        "chosen": [2, 4], "n_chosen": 3, "chosen_recipes": ["paper:40"],
    },
    "20_your_own": {"models": [SMALLEST]},
    "90_pretrain": {
        "corpus": "TEXTS", "held_out": "TEXTS", "tokens": 40_000, "vocab_size": 300, "rungs": ["llama-64"],
    },
    "91_prepare_texts": {"model": SMALLEST, "n_texts": 3, "length": 16},
}  # fmt: skip


class Executed(dict):
    """Notebooks executed with small parameters when first asked for: name -> (notebook, folder)."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.corpus = folder, folder / "texts.parquet"
        passages = [path.read_text() for path in sorted((resources.data() / "texts").glob("*.txt"))]
        pl.DataFrame({"text": passages}).write_parquet(self.corpus)

    def __missing__(self, name):
        if name == "04_theory_and_utilisation":
            self["02_information_gain"]  # whose rows it reads
        source = resources.notebooks() / f"{name}.py"
        given = {k: str(self.corpus) if v == "TEXTS" else v for k, v in SETTINGS[name].items()}
        known = parameters.declared(source)
        given |= {k: str(self.folder / given.get(k, k)) for k in ("store", "out", "speed") if k in known}
        path = report.execute(source, given, out=self.folder / "pages")
        self[name] = nbformat.read(path, as_version=4), self.folder
        return self[name]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPACITY_MEASURED", str(folder / "nothing"))  # all rows into the folder's own store
        yield Executed(folder)


def outputs(notebook, mimetype):
    return [
        output["data"][mimetype]
        for cell in notebook.cells if cell.cell_type == "code"
        for output in cell.outputs if mimetype in output.get("data", {})
    ]  # fmt: skip


def charts_of(notebook):
    return [json.loads(json.dumps(spec)) for spec in outputs(notebook, "application/vnd.capacity.vegalite+json")]


def values(spec):
    return [row for rows in spec["datasets"].values() for row in rows]


def test_every_notebook_has_the_shape_and_small_settings_here():
    assert {path.stem for path in NOTEBOOKS} == SETTINGS.keys()
    for path in NOTEBOOKS:
        text = path.read_text()
        assert f"# # {path.stem[:2]} · " in text
        assert "# ## Limits" in text
        assert all(one.comment for one in parameters.declared(path).values())
        ends = [block for block in text.split("\n# %%") if "verdicts." in block or "ladder.verdict" in block]
        assert ends, f"{path.name} ends in no verdict and no measured sentence"
        assert "Next:" not in text  # the pages link those beside them


def code_cells(text):
    """The code cells of a py:percent text, without the parameters."""
    blocks = [block.partition("\n") for block in text.split("\n# %%")[1:]]
    return [body.strip() for head, _, body in blocks if "markdown" not in head and "parameters" not in head]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_functions_belong_in_the_package(path):
    for cell in code_cells(path.read_text()):
        assert cell.strip().count("\n") < 15, f"a cell of {path.name} has more than 15 lines:\n{cell}"
        functions = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.FunctionDef)]
        long = [node.name for node in functions if node.end_lineno - node.lineno + 1 > 3]
        assert not long, f"{path.name} defines {long}: it belongs in the package, with a test"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_name_only_notebooks_that_exist(path):
    named = set(re.findall(r"`(\d\d_\w+)`", path.read_text()))
    assert named <= {other.stem for other in NOTEBOOKS}


def test_the_one_vector_shown_is_that_of_a_median_text():
    given = {name: value.default for name, value in parameters.declared(NOTEBOOKS[0]).items()}
    same = {name: given[name] for name in ("source", "length", "budget")}
    same["model"] = given["model"] or "llama-128-bos"  # where nothing was fetched
    rows = sweep.measure(sweep.grid(**same, search="grow", n_texts=16), missing="refuse").rows
    longest = rows.group_by("text_index").agg(pl.col("decoded_tokens").max().fill_null(0))
    ranked = longest["decoded_tokens"].sort().to_list()
    assert len(ranked) == 16
    assert longest.filter(text_index=given["text_index"])["decoded_tokens"].item() in ranked[7:9]


def test_no_difference_is_seen_between_natural_text_and_random_words():
    names = list(models.EMBEDDED)
    grid = sweep.grid(
        model=names, source=["embedded", "random_words"], search="grow", length=40, budget=4000, n_texts=16
    )
    rows = sweep.measure(grid, missing="refuse").rows
    longest = rows.group_by("model", "source", "text_index").agg(pl.col("decoded_tokens").max().fill_null(0))
    for name in names:  # Welch's interval, by its formula, where the page has a bootstrap
        part = [longest.filter(model=name, source=source)["decoded_tokens"].to_numpy() for source in
                ("embedded", "random_words")]  # fmt: skip
        difference = part[0].mean() - part[1].mean()
        error = math.sqrt(sum(sample.var(ddof=1) / len(sample) for sample in part))
        assert abs(difference) < 2.04 * error
        found = metrics.difference(*part)
        assert found.value == pytest.approx(difference)
        assert found.low < 0 < found.high
        assert found.high - found.low == pytest.approx(2 * 2.04 * error, rel=0.2)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_cell_is_executed_in_order(name, executed):
    notebook, _ = executed[name]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_one_vector_shows_what_the_store_holds(executed):
    notebook, folder = executed["00_one_vector"]
    rows = store.Store(folder / "store").read().filter(search="grow", length=pl.col("length"))
    rows = rows.filter(pl.col("curve_bits").is_not_null())
    first, curve, strip, _ = charts_of(notebook)
    steps = [row for row in values(curve) if "n_right" in row]
    assert len(steps) == sum(len(bits) for bits in rows["curve_bits"])
    best = rows.filter(pl.col("decoded_tokens").is_not_null()).row(-1, named=True)
    tokens = sorted(values(strip), key=lambda row: row["position"])
    assert [row["position"] for row in tokens if row["decoded"]] == list(range(1, best["decoded_tokens"] + 1))
    frozen = models.load(SMALLEST)
    passage = resources.data() / "texts" / f"{best['text_id']}.txt"
    beginning = frozen.tokenizer(passage.read_text())["input_ids"][: len(tokens)]
    assert [row["token"] for row in tokens] == [frozen.tokenizer.decode([i]) for i in beginning]
    words = [row["words"] for row in values(first) if "words" in row]
    held = frozen.tokenizer.decode(beginning[: best["decoded_tokens"]])
    assert words.count(held) == 2
    assert f"{best['decoded_tokens']} tokens, {len(held.encode())} bytes" in words
    reading = " ".join(outputs(notebook, "text/markdown"))
    assert f"**{best['decoded_tokens']} tokens came back**" in reading
    assert f"{4 * best['d_model']:,} bytes in float32" in reading


def test_decoding_capacity_agrees_with_a_plain_count(executed):
    notebook, folder = executed["01_decoding_capacity"]
    rows = store.Store(folder / "store").read().filter(pl.col("curve_bits").is_null())
    accuracy, exact, against = charts_of(notebook)
    for row in values(accuracy):
        part = rows.filter(search="fixed", source=row["source"], length=row["length"])
        right = [c + f for c, f in part.select("correct_with", "first_correct").iter_rows()]
        assert row["value"] == pytest.approx(sum(r / row["length"] for r in right) / 2)
        assert row["n"] == 2
    for row in values(exact):
        part = rows.filter(search="grow", source=row["source"])
        longest = part.group_by("text_index").agg(pl.col("decoded_tokens").max())["decoded_tokens"]
        assert row["value"] == pytest.approx(longest.fill_null(0).mean())
    published = [row for row in values(against) if row.get("model") == "EleutherAI/pythia-160m"]
    assert {round(row["value"]) for row in published} >= {80, 787}
    capacity = metrics.decoding_capacity(rows.filter(pl.col("length").is_in([1, 16]), search="fixed"))
    assert set(capacity["censored"]) <= {"no", "below"}  # length 16 fails: the grid brackets the limit from above


def test_information_gain_agrees_with_plain_loops(executed):
    notebook, folder = executed["02_information_gain"]
    every = store.Store(folder / "gains").read()
    few = every.filter(source="random_tokens:2", search="fixed")
    assert few["length"].to_list() == [3, 3]  # the longest of the grid is left to the others
    rows = every.filter(pl.col("source") != "random_tokens:2", search="fixed").to_dicts()
    assert len(rows) == 2 * 2 * 2
    table = baselines.load([folder / "gains" / "shared"]).filter(null="shared")
    null = dict(table.select("text_digest", "null_bits").iter_rows())
    by_length, _, beside, certified, widths = charts_of(notebook)

    def mean(found, source, length):
        found = [found(row) for row in rows if (row["source"], row["length"]) == (source, length)]
        assert len(found) == 2
        return sum(found) / 2

    def gained(row):
        return row["bits_without"] - row["bits_with_min"]

    def specific(row):
        return null[row["text_digest"]] - row["bits_with_min"]

    for kind, value in (("published gain", gained), ("text-specific gain", specific)):
        drawn = {(row["source"], row["length"]): row["value"] for row in values(by_length) if row["kind"] == kind}
        assert drawn == {
            (s, n): pytest.approx(mean(value, s, n)) for s in ("embedded", "random_tokens") for n in (3, 8)
        }
    drawn = {(row["source"], row["kind"]): row["value"] for row in values(beside)}
    for source in ("embedded", "random_tokens"):
        own, left = mean(gained, source, 8), mean(specific, source, 8)
        assert drawn[source, "published gain"] == pytest.approx(own)
        assert drawn[source, "shared vector's"] == pytest.approx(own - left)
        assert drawn[source, "text-specific gain"] == pytest.approx(left)
    ordinary = len(models.load(SMALLEST).tokenizer) - 1  # all but <|endoftext|>
    charged = mean(lambda row: row["bits_with"], "random_tokens", 8)
    assert drawn["random_tokens", "certified"] == pytest.approx(7 * math.log2(ordinary) - charged)
    assert ("embedded", "certified") not in drawn
    html = " ".join(outputs(notebook, "text/html"))
    for value in (gained, specific):
        assert str(round(mean(value, "random_tokens", 8) / mean(value, "embedded", 8), 2)) in html
    assert "Verdict: cannot tell." in " ".join(outputs(notebook, "text/markdown"))  # of two texts
    saved = (few["bits_without"] - few["bits_with_min"]).mean()
    assert f"<td>{saved:.1f}</td>" in html

    held = {row["alphabet"]: row["value"] for row in values(certified)}
    for source, size, longest in (("random_tokens:2", 2, 8), ("random_tokens", ordinary, 4)):
        grown = every.filter(search="grow", source=source).group_by("text_id")
        lengths = grown.agg(pl.col("decoded_tokens").max().fill_null(0))["decoded_tokens"].to_list()
        assert len(lengths) == 2
        assert held[size] == pytest.approx(sum(lengths) / 2 * math.log2(size) - math.log2(longest + 1))
    for source in ("embedded", "random_tokens"):
        failed = [row for row in rows if row["source"] == source and row["correct_with"] < row["n_scored"]]
        each = [gained(row) * row["length"] / (row["length"] - 1) for row in failed]
        (mine,) = [row for row in values(widths) if row["model"] == SMALLEST and row.get("source") == source]
        assert mine["value"] == pytest.approx(sum(each) / len(each))
    pythia = {row["value"] for row in values(widths) if row["model"] == "EleutherAI/pythia-160m" and row.get("source")}
    assert sorted(pythia) == pytest.approx(sorted(nats / math.log(2) for nats in (396.4, 378.1, 500.8)))


def test_many_vectors_agree_with_plain_loops_and_the_published_table(executed):
    notebook, folder = executed["03_many_vectors"]
    rows = store.Store(folder / "vectors").read().to_dicts()
    tokens, shares = charts_of(notebook)
    drawn = {(row["series"], row["n_mem"]): row["value"] for row in values(tokens) if "low" in row}
    back = {}
    for n in (1, 2):
        grown = [row for row in rows if (row["search"], row["n_mem"]) == ("grow", n)]
        longest = {row["text_id"]: 0 for row in grown}
        bits = dict.fromkeys(longest, 0.0)
        for row in grown:
            longest[row["text_id"]] = max(longest[row["text_id"]], row["decoded_tokens"] or 0)
            if row["decoded_tokens"] == row["length"]:
                bits[row["text_id"]] = max(bits[row["text_id"]], row["bits_without"])
        assert drawn.get((f"{SMALLEST}, exact length, here", n), 0) == pytest.approx(sum(longest.values()) / 2)
        back[n] = sum(bits.values()) / 2 / n
        passed = [0]
        for length in (n, 3 * n):
            fits = [row for row in rows if (row["search"], row["n_mem"], row["length"]) == ("fixed", n, length)]
            assert len(fits) == 2
            right = sum(row["correct_with"] + row["first_correct"] for row in fits)
            passed += [length] * (right >= 0.99 * 2 * length)
        assert drawn.get((f"{SMALLEST}, decoding capacity, here", n), 0) == max(passed)
    mine = [row["share"] for row in values(shares) if row["series"] == f"{SMALLEST}, given back, here"]
    assert back[2] / back[1] == pytest.approx(next(share for share in mine if share != 1))
    figure = {}
    with (resources.papers() / "kuratov2025" / "figure4.csv").open() as file:
        for row in csv.DictReader(file):
            figure[row["model"], int(row["n_mem"]), row["metric"]] = float(row["value"])
    for model in ("EleutherAI/pythia-160m", "meta-llama/Llama-3.2-1B"):
        assert drawn[f"{model}, decoding capacity, Kuratov et al. 2025", 4] == figure[model, 4, "decoding_capacity"]
        (share,) = [
            row["share"] for row in values(shares)
            if row["n_mem"] == 16 and row["series"] == f"{model}, gain, Kuratov et al. 2025"
        ]  # fmt: skip
        gain = "information_gain"
        assert share == pytest.approx(figure[model, 16, gain] / 16 / figure[model, 1, gain])
    reading = " ".join(outputs(notebook, "text/markdown"))
    two = [row for row in rows if (row["search"], row["n_mem"], row["budget"]) == ("grow", 2, 800)]
    reached = {}
    for spent in (404, 808):
        each = [[row for row in two if row["text_id"] == text] for text in {row["text_id"] for row in two}]
        reached[spent] = sum(longest_exact(own, cost="token_steps", spent=spent) for own in each)
    assert f"{SMALLEST} {reached[808] / reached[404]:.2f} (no interval), the bound is 1.1" in reading
    assert "81% (EleutherAI/pythia-160m, n = 16)" in reading
    assert "62% (meta-llama/Llama-3.2-1B, n = 16)" in reading


def test_utilisation_is_the_published_one_and_ours_a_plain_quotient(executed):
    notebook, folder = executed["04_theory_and_utilisation"]
    in_tokens, in_bits = charts_of(notebook)
    listed = {}
    with (resources.papers() / "kuratov2025" / "figure5.csv").open() as file:
        for row in csv.DictReader(file):
            listed[row["model"], {"pg19": "natural", "random": "random words"}[row["source"]]] = float(row["value"])
    assert len(listed) == 28
    shown = {(row["model"], row["kind"]): row for row in values(in_tokens)}
    for key, ratio in listed.items():
        assert round(shown[key]["share"], 3) == round(ratio, 3), key
    every = [row for row in values(in_bits) if "text-specific" not in row["series"]]
    bits = {(row["model"], row["kind"]): row for row in every}
    llama = bits["meta-llama/Meta-Llama-3.1-8B", "natural"]
    assert (llama["gain"], llama["capacity"]) == (pytest.approx(4865.7 / math.log(2)), 65536)
    rows = store.Store(folder / "gains").read().filter(search="fixed").to_dicts()
    table = baselines.load([folder / "gains" / "shared"]).filter(null="shared")
    null = dict(table.select("text_digest", "null_bits").iter_rows())
    specific = {row["kind"]: row["gain"] for row in values(in_bits) if "text-specific" in row["series"]}
    for source, kind in (("embedded", "natural"), ("random_tokens", "random tokens")):
        failed = [row for row in rows if row["source"] == source and row["correct_with"] < row["n_scored"]]
        gained = [row["correct_with"] - row["correct_without"] for row in failed]
        saved = [row["bits_without"] - row["bits_with_min"] for row in failed]
        about = [null[row["text_digest"]] - row["bits_with_min"] for row in failed]
        assert specific[kind] == pytest.approx(sum(about) / len(about))
        eq1 = 64 * 16 / math.log2(512)
        assert shown[SMALLEST, kind]["share"] == pytest.approx(sum(gained) / len(gained) / eq1)
        assert bits[SMALLEST, kind]["share"] == pytest.approx(sum(saved) / len(saved) / (64 * 16))
    assert len(shown) == len(bits) == 30


def test_utilisation_draws_all_that_is_published_without_any_row(tmp_path):
    source = resources.notebooks() / "04_theory_and_utilisation.py"
    given = {"store": str(tmp_path / "none"), "models": [SMALLEST], "n_texts": 1, "lengths": [5]}
    notebook = nbformat.read(report.execute(source, given, out=tmp_path), as_version=4)
    for chart in charts_of(notebook):
        assert len({(row["model"], row["kind"]) for row in values(chart)}) == 28
        assert sum("mamba" in model for model in {row["model"] for row in values(chart)}) == 4
    assert "No rows of models measured here were there." in " ".join(outputs(notebook, "text/markdown"))
    assert not (tmp_path / "none").exists()


def test_geometry_agrees_with_plain_loops_over_the_stored_vectors(executed):
    notebook, folder = executed["05_geometry"]
    rows = store.Store(folder / "store").read().filter(search="fixed", length=2, status="solved")
    rows = rows.filter(pl.len().over("text_id") > 1).sort("text_index", "seed")
    vectors, names = np.array(rows["mem"].to_list()), rows["text_id"].to_list()
    dots, accuracies, variance, sizes = charts_of(notebook)
    reading = " ".join(outputs(notebook, "text/markdown"))

    alike, of_text = {True: [], False: []}, {}
    for (one, a), (other, b) in itertools.combinations(zip(names, vectors, strict=True), 2):
        alike[one == other].append(a @ b / np.sqrt((a @ a) * (b @ b)))
    drawn = {(row["within"], row["text"]): row["cosine"] for row in values(dots) if "text" in row}
    assert len(drawn) == 2 * len(set(names))
    for (one, a), (other, b) in itertools.combinations(zip(names, vectors, strict=True), 2):
        value = a @ b / np.sqrt((a @ a) * (b @ b))
        for text in {one, other}:
            of_text.setdefault((one == other, text), []).append(value)
    assert drawn == {key: pytest.approx(np.mean(found)) for key, found in of_text.items()}
    for cosines in alike.values():
        assert f"{min(cosines):.2f} to {max(cosines):.2f} in all" in reading
    spread = []
    for _, own in rows.group_by("text_id"):
        gain = (own["bits_without"] - own["bits_with"]).to_numpy()
        spread += [100 * gain.std(ddof=1) / gain.mean()] if gain.mean() > 0 else []
    assert f"the numbers go from {np.mean(spread):.2f}" in reading

    frozen = models.load(SMALLEST, device="cpu")
    text = {t.id: t.ids for t in texts.sample("embedded", frozen.tokenizer, n_texts=3, length=2)}
    middles = {}
    for row in values(accuracies):
        if row["path"] == "line" and row["statistic"] == "pair":
            first, last = (torch.tensor(vectors[int(place)]).float() for place in row["pair"].split("-"))
            assert row["text"] == "2 tokens"
            ids = text[names[int(row["pair"].split("-")[0])]]
            mem = first + (last - first) * row["at"]
            embeds = torch.cat([mem[None, None], frozen.embed(torch.tensor([ids[:1]]))], 1)
            with torch.no_grad():
                right = frozen.model(inputs_embeds=embeds).logits[0].argmax(-1) == torch.tensor(ids)
            assert row["accuracy"] == right.float().mean()
            if row["at"] == 0.5:
                middles[row["pair"]] = row["accuracy"]
    assert len(middles) == len(alike[True])
    assert f"In the middle of the lines {100 * sum(middles.values()) / len(middles):.0f}% of the tokens" in reading
    ends = [row for row in values(accuracies) if row["at"] in (0, 1)]
    assert {row["accuracy"] for row in ends} == {1.0}
    worst = {}
    for row in values(accuracies):
        if row["path"] == "fitted curve" and row["statistic"] == "pair":
            worst[row["pair"]] = min(row["accuracy"], worst.get(row["pair"], 1.0))
    assert len(worst) == len(names) - len(set(names))
    by_text = {}
    for pair, least in worst.items():
        by_text.setdefault(names[int(pair.split("-")[0])], []).append(least == 1)
    share = sum(sum(held) / len(held) for held in by_text.values()) / len(by_text)
    assert f"of the fitted curves {100 * share:.0f}% at all 5 places" in reading

    own = np.linalg.eigvalsh(np.cov(vectors.T))[::-1].cumsum()
    found = [row["cumulative"] for row in values(variance) if row.get("series") == "[mem]"]
    assert found == pytest.approx((own / own[-1])[: len(names) - 1])
    needed = sum(value < 0.5 for value in found) + 1
    assert f"50% of the variance of {len(names)} [mem] vectors take {needed} components" in reading
    norms = {row["series"]: row for row in values(sizes)}
    assert norms["[mem]"]["median"] == pytest.approx(np.median(np.sqrt((vectors**2).sum(1))))
    embedded = frozen.embed(torch.arange(frozen.vocab_size)[None])[0].norm(dim=1)
    assert norms["token embeddings, all"]["most"] == pytest.approx(embedded.max().item())


def test_a_limit_is_what_plain_loops_over_the_stored_fits_say(executed):
    notebook, folder = executed["09_exact_length"]
    rows = [row for row in store.Store(folder / "limits").read().to_dicts() if row["limit"] in (14, None)]
    by_text, by_cost, by_recipe, *_ = charts_of(notebook)
    kinds, tried = {}, 0
    for text in {row["text_id"] for row in rows}:
        own = [row for row in rows if row["text_id"] == text]
        held = max(row["decoded_tokens"] or 0 for row in own)
        fresh = [row for row in own if row["search"] == "fixed" and row["length"] == held + 1]
        assert held == 14 or {row["seed"] for row in fresh} == {100, 101}
        stalled = [row for row in fresh if row["status"] == "stalled" and row["steps"] < 1000]
        itself = [row["status"] for row in own if row["search"] == "fixed" and row["length"] == held]
        kind = "limit" if len(stalled) == 2 and "solved" in itself else "search-limited: at least"
        tried += len(fresh) == 2
        kinds[text] = held, "the text ends" if held == 14 else kind
    assert len(kinds) == 2
    assert {row["text_id"]: (row["tokens"], row["kind"]) for row in values(by_text)} == kinds
    reading = " ".join(outputs(notebook, "text/markdown"))
    limits = sum(kind == "limit" for _, kind in kinds.values())
    mean = sum(held for held, _ in kinds.values()) / 2
    told = f"2 texts were searched and {tried} fitted afresh, of which {limits} have reached their limit"
    more = sum(
        max(row["decoded_tokens"] or 0 for row in rows if row["text_id"] == text and row["search"] != "fixed") < held
        for text, (held, _) in kinds.items()
    )
    told += f"; {more} texts are held longer by a fit from a fresh start than by any search" if more else ""
    assert f"{told}; the longest are {mean:.1f} tokens" in reading

    last, best = {}, {}
    for search in ("grow", "leap"):
        reached = []
        for text, seed in itertools.product(kinds, (0, 1)):
            own = [row for row in rows if (row["text_id"], row["seed"], row["search"]) == (text, seed, search)]
            own = [row for row in own if (row["budget"], row["recipe"]) == (120, "default")]
            reached.append(tuple(longest_exact(own, cost="token_steps", spent=spent) for spent in (60, 120, 121.2)))
            best[text] = tuple(map(max, zip(best.get(text, (0, 0, 0)), reached[-1], strict=True)))
        drawn = [row for row in values(by_cost) if row["search"] == search and row["spent"] == pytest.approx(121.2)]
        assert drawn[0]["value"] == pytest.approx(sum(whole for *_, whole in reached) / 4)
        last[search] = sum(twice for _, twice, _ in reached) / sum(once for once, *_ in reached)
    html = " ".join(outputs(notebook, "text/html"))
    assert all(f"<td>{round(value, 3)}</td>" in html for value in last.values())
    together = sum(whole for *_, whole in best.values()) / sum(once for once, *_ in best.values())
    assert f"the numbers go from {together:.2f} to {together:.2f}" in reading

    shares = {row["recipe"]: row["value"] for row in values(by_recipe) if row["spent"] == 101}
    for recipe in ("default", "paper"):
        found = 0.0
        for text, (held, _) in kinds.items():
            own = [row for row in rows if (row["text_id"], row["budget"], row["recipe"]) == (text, 100, recipe)]
            found += longest_exact(own, cost="token_steps", spent=101) / held / 2
        assert shares[recipe] == pytest.approx(found)


def log2_after(frozen, ids):
    """Log2 probabilities at each position of token ids, (len(ids), vocab), by the model as it is."""
    with torch.no_grad():
        logits = frozen.model(input_ids=torch.tensor([list(ids)])).logits[0].double()
    return torch.log_softmax(logits, -1) / math.log(2)


def longest_decoded(folder):
    """The model's vectors that decode to most tokens, one a search, with the text's tokens of so many."""
    rows = store.read([folder]).filter(pl.col("decoded_tokens") == pl.col("length"), search="grow", budget=100)
    frozen = models.load(SMALLEST, device="cpu")
    for (source, index), part in rows.group_by("source", "text_index"):
        row = part.sort("length").row(-1, named=True)
        sample = texts.sample(source, frozen.tokenizer, n_texts=index + 1, length=row["length"])
        yield torch.tensor(row["mem"]).reshape(1, -1), sample[index].ids


@torch.no_grad()
def plainly(model, mem, n_tokens):
    inputs, found = mem.to(model.dtype), []
    while len(found) < n_tokens:
        found.append(model(inputs_embeds=inputs.unsqueeze(0), use_cache=False).logits[0, -1].argmax().item())
        inputs = torch.cat([inputs, model.get_input_embeddings().weight[found[-1:]]])
    return tuple(found)


def test_what_decodes_again_is_what_a_plain_loop_decodes(executed):
    notebook, folder = executed["07_free_running"]
    (shares,) = [{row["condition"]: row for row in values(chart)} for chart in charts_of(notebook)
                 if {"moved", "n"} <= values(chart)[0].keys()]  # fmt: skip
    held = list(longest_decoded(folder / "decoded"))
    for how, dtype in (("no cache", "float32"), ("bfloat16", "bfloat16")):
        model = models.load(SMALLEST, device="cpu", dtype=dtype).model
        same = [plainly(model, mem, len(ids)) == ids for mem, ids in held]
        assert (shares[how]["value"], shares[how]["n"]) == (pytest.approx(np.mean(same)), len(held))
    assert shares["the same again"]["value"] == 1
    assert shares["weights rounded to bfloat16"]["moved"] == 0  # the embedded models are kept so


def test_what_rounding_keeps_is_what_a_plain_loop_decodes(executed):
    notebook, folder = executed["08_precision"]
    (shares,) = [{(row["bits"], row["scale"]): row for row in values(chart)} for chart in charts_of(notebook)
                 if "scale" in values(chart)[0]]  # fmt: skip
    model, held = models.load(SMALLEST, device="cpu").model, list(longest_decoded(folder / "rounded"))
    for bits in (16, 8, 4, 2):
        right = []
        for mem, ids in held:
            step = mem.abs().max() / (2 ** (bits - 1) - 1)
            right.append(plainly(model, (mem / step).round() * step, len(ids)) == ids)
        own = shares[bits, "a scale a vector"]
        assert (own["value"], own["n"]) == (pytest.approx(np.mean(right)), len(held))


def test_a_real_prefix_saves_what_a_plain_loop_says(executed):
    notebook, folder = executed["10_baselines"]
    frozen, fitted = models.load(SMALLEST), store.Store(folder / "baselines").read().filter(recipe="progressive")
    by_vector = sum(row["bits_without"] - row["bits_with_min"] for row in fitted.iter_rows(named=True))
    share, *_ = charts_of(notebook)
    ours = {row["n_context"]: row["share"] for row in values(share) if row["model"] == SMALLEST}
    assert ours.keys() == {8, 24}
    for size, found in ours.items():
        saved = 0.0
        for text in texts.sample("embedded", frozen.tokenizer, n_texts=2, length=26):
            last = text.ids[-1]
            saved += float(log2_after(frozen, text.ids[24 - size : 25])[-1, last])
            saved -= float(log2_after(frozen, text.ids[24:25])[-1, last])
        assert found == pytest.approx(saved / by_vector, rel=1e-4)
    paper = [row for row in values(share) if row["model"] == "meta-llama/Meta-Llama-3.1-8B"]
    assert max(row["share"] for row in paper) == pytest.approx(181 / 3607)
    said = " ".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "left out, since only 24 tokens fit before the continuation: [64]" in said


def test_a_copy_is_as_right_as_a_plain_loop_says(executed):
    notebook, _ = executed["10_baselines"]
    frozen, given = models.load(SMALLEST), parameters.declared(resources.notebooks() / "10_baselines.py")
    order = frozen.tokenizer(given["instruction"].default)["input_ids"]
    _, accuracy, *_ = charts_of(notebook)
    assert len(values(accuracy)) == 2 * 2 * 2  # sources, lengths, with and without
    for row in values(accuracy):
        right = 0
        for text in texts.sample(row["source"], frozen.tokenizer, n_texts=2, length=row["length"]):
            before = [*text.ids, *order] if row["recipe"] == "a copy" else []
            best = log2_after(frozen, [*before, *text.ids]).argmax(-1).tolist()
            right += sum(best[at - 1] == token for at, token in enumerate(text.ids, start=len(before)) if at)
        assert row["value"] == pytest.approx(right / (2 * row["length"]))


def test_bytes_and_margins_are_those_of_the_texts_that_vectors_hold(executed):
    notebook, folder = executed["10_baselines"]
    frozen = models.load(SMALLEST)
    rows = store.Store(folder / "baselines").read().filter(pl.col("decoded_tokens") > 0, search="grow")
    held = {}  # the texts themselves, not what vectors decode to
    for source in rows["source"].unique():
        sample = {text.id: text.ids for text in texts.sample(source, frozen.tokenizer, n_texts=2, length=8)}
        part = rows.filter(source=source)
        held[source] = [sample[name][:n] for name, n in part.select("text_id", "decoded_tokens").iter_rows()]
    assert max(map(len, held["embedded"])) > 1
    _, _, size, needed = charts_of(notebook)
    ours = {row["what"]: row["value"] for row in values(size) if row["model"] == SMALLEST}
    n_tokens = sum(map(len, held["embedded"]))
    n_bytes = sum(len(texts.token_bytes(frozen.tokenizer, ids)) for ids in held["embedded"])
    assert ours["text, UTF-8"] == pytest.approx(n_bytes / n_tokens)
    assert ours["[mem], 16 bits a number"] == pytest.approx(2 * frozen.dim * len(held["embedded"]) / n_tokens)
    short = bits = 0.0
    for ids in held["embedded"]:
        for logs, target in zip(log2_after(frozen, ids)[:-1], ids[1:], strict=True):
            bits -= float(logs[target])
            short += float(logs.max() - logs[target])
    scored = sum(len(ids) - 1 for ids in held["embedded"])
    found = {row["kind"]: row["value"] for row in values(needed) if row["source"] == "embedded"}
    assert found["cross-entropy without [mem]"] == pytest.approx(bits / scored, rel=1e-4)
    assert found["shortfall of the margin"] == pytest.approx(short / scored, rel=1e-4)
    gained = rows.filter(pl.col("decoded_tokens") > 1, source="embedded")
    assert found["saved by [mem]"] == pytest.approx((gained["bits_without"] - gained["bits_with"]).sum() / scored)
    reading = " ".join(outputs(notebook, "text/markdown"))
    assert "takes one vector for 1,568 tokens; at 16 bits a number that vector has 1.2 times the bytes" in reading
    assert f"{rows.height} of {rows.height} texts came back from the range coder" in reading


def longest_exact(rows, *, cost, spent):
    """The longest exact probe that one search had reached when it had spent so much."""
    reached = total = 0
    for row in sorted(rows, key=lambda row: row["probe"]):
        total += row[cost]
        right = row["correct_with"] + (row["first_correct"] and not row["scored_from"])
        if total <= spent and right == row["length"] - row["scored_from"]:
            reached = max(reached, row["length"])
    return reached


def test_speed_agrees_with_the_files_and_rows_it_kept(executed):
    notebook, folder = executed["11_speed"]
    settings = SETTINGS["11_speed"]
    (place,) = (folder / "speed").iterdir()
    kept = {file.stem: list(csv.DictReader(file.read_text().splitlines())) for file in sorted(place.glob("*"))}
    counts = {"costs": 2, "driver": 2, "rates": 4, "searches": 1, "shapes": 2}
    assert {name: len(rows) for name, rows in kept.items()} == counts
    drawn, against = charts_of(notebook)
    reading = " ".join(outputs(notebook, "text/markdown"))

    rate = {(row["method"], int(row["length"])): float(row["rate"]) for row in kept["rates"]}
    assert {(row["method"], row["length"]): row["rate"] for row in values(drawn)} == rate
    for row in values(drawn):
        assert row["ratio"] == pytest.approx(row["rate"] / rate["plain", row["length"]])
    for length in (2, 4):
        ratio = rate["engine", length] / rate["plain", length]
        assert f"{ratio:.1f} times the plain procedure's token-steps at length {length} (engine)" in reading
    best = max(kept["rates"], key=lambda row: float(row["share"]))
    assert f"{100 * float(best['share']):.0f}% ({best['method']}, length {best['length']})" in reading
    assert [(row["n_mem"], row["texts"]) for row in kept["costs"]] == [("2", best["texts"]), ("1", "1")]
    assert [int(row["texts"]) for row in kept["driver"]] == settings["driven"]
    shares = [f"{100 * float(row['rate']) / float(row['bare']):.0f}%" for row in kept["driver"]]
    assert f"growth of 1, 2 texts run at {', '.join(shares)} of the rate of full batches" in reading

    search = {"model": SMALLEST, "n_texts": 2, "search": "grow", "recipe": settings["recipes"], "scored_from": [0, 1]}
    grid = [e for n in (1, 2) for e in sweep.grid(**search, n_mem=n, length=3 * n, budget=40 * n)]
    every = {}
    for cell in sweep.cells(grid):
        rows = store.Store(folder / "searches").read(keys=[cell.key]).to_dicts()
        what = cell.experiment
        every.setdefault((what.recipe, what.n_mem, what.scored_from), []).append(rows)
    held = {k: sum(max(row["decoded_tokens"] or 0 for row in rows) for rows in texts) for k, texts in every.items()}
    gains = [
        held["default", n, s] / held["paper", n, s] for n in (1, 2) for s in (0, 1) if held["paper", n, s]
    ]  # fmt: skip
    assert f"`default` reaches {min(gains):.2f} to {max(gains):.2f} times `paper`'s" in reading
    found = {recipe: texts for (recipe, n, s), texts in every.items() if (n, s) == (1, 0)}
    steps, seconds = against["datasets"].values()
    if steps[0]["spent"] != 2:
        steps, seconds = seconds, steps
    assert {row["spent"] for row in steps} == {2, 4, 8, 16, 28, 40}
    assert len(steps) == len(seconds) == 12
    for row in steps:
        each = [longest_exact(rows, cost="token_steps", spent=row["spent"]) for rows in found[row["recipe"]]]
        assert row["value"] == sum(each) / 2
    assert max(row["value"] for row in steps) >= 1
    for row in seconds:  # the last is what the longest search took, up to rounding
        less, more = (
            sum(longest_exact(rows, cost="seconds", spent=row["spent"] * near) for rows in found[row["recipe"]]) / 2
            for near in (1 - 1e-6, 1 + 1e-6)
        )
        assert less <= row["value"] <= more


def test_what_is_declared_in_a_file_is_measured_like_the_packages_own(executed):
    notebook, folder = executed["20_your_own"]
    (said,) = [text for text in outputs(notebook, "text/markdown") if "mean exact lengths" in text]
    rows = store.read([folder / "store"])
    for recipe in ("soft", "default"):
        own = rows.filter(recipe=recipe, source="counting", model=SMALLEST)
        held = [part["decoded_tokens"].max() or 0 for _, part in own.group_by("text_id")]
        assert len(held) == 2
        assert f"{sum(held) / 2:.2f} with `{recipe}` on `{SMALLEST}`" in said
    assert "LOSSES = {" in " ".join(outputs(notebook, "text/markdown"))


def test_pretraining_runs_for_a_few_steps_on_the_embedded_texts(executed):
    _, folder = executed["90_pretrain"]
    record = json.loads((folder / "out" / "llama-64" / "training.json").read_text())
    assert record["tokens_seen"] == 40_960
    assert record["width"] == 64
    assert 3.0 < record["held_out_nats_per_token"] < 5.8


LIKELY = ("00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12")  # pages of rows


@pytest.mark.parametrize("case", ["none", "short of a text", "budget of 1"])
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS if path.stem[:2] in LIKELY])
def test_a_page_without_its_rows_runs_and_says_so(name, case, executed, in_process, tmp_path):
    given = SETTINGS[name] | {"missing": "skip", "store": str(tmp_path / "store"), "speed": str(tmp_path / "speed")}
    if case == "short of a text":
        given |= {"store": str(executed.folder / SETTINGS[name].get("store", "store")), "n_texts": 4, "text_index": 9}
        executed[name]
    source = resources.notebooks() / f"{name}.py"
    known = parameters.declared(source)
    if case == "budget of 1":  # of the searches: fits at fixed lengths are there
        given |= {"missing": "measure"} | {name: 1 for name in known if name.endswith("budget")}
        given |= {name: 3 for name in known if name.endswith("longest")}
        executed[name]
        there = executed.folder / SETTINGS[name].get("store", "store")
        shutil.copytree(there, given["store"]) if there.exists() else None
    if case == "budget of 1" and "budget" not in known:
        pytest.skip("nothing is searched here")
    shown = in_process(source, {key: value for key, value in given.items() if key in known})
    assert "Verdict:" in shown or "**Measured.**" in shown
    if case == "none":
        published = {  # what stands on published numbers
            "04_theory_and_utilisation": "No rows of models measured here",
            "06_scaling_laws": "Models trained alike were not measured",
        }.get(name)
        assert (published or "nothing was found") in shown
        assert published or "cannot tell" in shown


@pytest.mark.parametrize("name", ["07_free_running", "08_precision"])
def test_a_pretrained_model_is_looked_at_once(name, executed, in_process, monkeypatch):
    for protocol in (sweep.PRETRAINED, sweep.DRAWN):
        for setting, value in {"budget": 100, "length": 8, "bos": "auto"}.items():
            monkeypatch.setitem(protocol, setting, value)
    folder = executed[name][1] / SETTINGS[name]["store"]
    for protocol in (sweep.PRETRAINED, sweep.DRAWN):
        sweep.measure(sweep.grid(**protocol | {"model": SMALLEST, "n_texts": 2}), folder)
    given = SETTINGS[name] | {"store": str(folder), "pretrained": [SMALLEST], "n_pretrained": 2}
    source = resources.notebooks() / f"{name}.py"
    shown = in_process(source, given)
    assert "Nothing is kept" not in shown
    assert {*sweep.pretrained([SMALLEST], folder, n_texts=2).rows["source"]} == {"embedded", "random_tokens"}
    assert shown.count("of a pretrained model") + shown.count("for a pretrained model") == 1  # the verdict on it
    tables = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    assert {path.parent.name for path in tables} == ({"decoded_again"} if name[:2] == "07" else {"disturbed", "packed"})
    assert in_process(source, given) == shown
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")} == tables
    for path in tables:
        path.unlink()
    assert "Nothing is kept" in in_process(source, given | {"missing": "refuse"})  # and nothing is decoded either
    assert not list(folder.glob("*/*.parquet"))


def test_the_angles_of_a_pretrained_model_are_those_of_its_stored_vectors(executed, in_process, monkeypatch, tmp_path):
    for setting, value in {"budget": 100, "length": 8, "bos": "auto"}.items():
        monkeypatch.setitem(sweep.PRETRAINED, setting, value)
    executed["05_geometry"]
    shutil.copytree(executed.folder / "store", tmp_path / "store")
    given = SETTINGS["05_geometry"] | {
        "store": str(tmp_path / "store"), "pretrained": SMALLEST, "n_pretrained": 2, "pretrained_starts": 2,
        "pretrained_missing": "measure",
    }  # fmt: skip
    shown = in_process(resources.notebooks() / "05_geometry.py", given)
    said = shown.partition("solutions of one text of a pretrained model")[2].partition("Verdict")[0]
    searched = sweep.grid(**sweep.PRETRAINED | {"model": SMALLEST, "n_texts": 2})
    held = sweep.run(searched, tmp_path / "store", missing="refuse")
    means = []
    for share in (0.5, 1.0):
        fits = sweep.one_length(searched, held, share=share, seeds=[0, 1])
        rows = sweep.run(fits, tmp_path / "store", missing="refuse").filter(status="solved")
        unit = {
            name: [np.array(mem) / np.linalg.norm(mem) for mem in part["mem"]]
            for (name,), part in rows.group_by("text_id") if part.height == 2
        }  # fmt: skip
        if len(unit) == 2:
            within = [first @ second for first, second in unit.values()]
            between = np.mean([first @ second for first, second in itertools.product(*unit.values())])
            means.append(np.mean(within) - between)
    assert means
    assert f"from {min(means):.2f} to {max(means):.2f}" in said if len(means) > 1 else f"{means[0]:.2f}" in said


def test_the_density_of_each_source_agrees_with_a_plain_count(executed):
    notebook, _ = executed["91_prepare_texts"]
    density, lengths = charts_of(notebook)
    frozen = models.load(SMALLEST, device="cpu")
    by_source = {}
    for row in values(density):
        sample = texts.sample(row["source"], frozen.tokenizer, n_texts=3, length=16)
        (ids,) = [text.ids for text in sample if text.id == row["text_id"]]
        with torch.no_grad():
            logits = frozen.model(input_ids=torch.tensor([ids])).logits[0, :-1]
        nats = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))
        assert row["bits_per_token"] == pytest.approx(nats.item() / math.log(2), rel=1e-4)
        assert row["n_bytes"] == len(texts.token_bytes(frozen.tokenizer, ids))
        by_source.setdefault(row["source"], []).append(row["bits_per_token"])
    assert by_source.keys() == {"embedded", "shuffled:embedded", "random_words", "random_tokens"}
    assert {len(found) for found in by_source.values()} == {3}
    means = {source: sum(found) / 3 for source, found in by_source.items()}
    assert f"{min(means.values()):.2f} bits a token" in " ".join(outputs(notebook, "text/markdown"))
    assert {row["source"] for row in values(lengths)} == {"embedded", "shuffled:embedded"}
    assert min(row["n_tokens"] for row in values(lengths)) > 500


def test_a_second_report_needs_no_fit(executed, tmp_path, monkeypatch):
    _, folder = executed["00_one_vector"]
    source = resources.notebooks() / "00_one_vector.py"
    given = SETTINGS["00_one_vector"] | {"store": str(folder / "store"), "missing": "refuse"}
    again = report.execute(source, given, out=tmp_path)
    assert charts_of(nbformat.read(again, as_version=4))[2] == charts_of(executed["00_one_vector"][0])[2]
    assert Path(again).stat().st_size > 0
