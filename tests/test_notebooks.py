import json
import math
from pathlib import Path

import nbformat
import polars as pl
import pytest
import torch

from capacity import metrics, models, parameters, report, resources, store, texts

SMALLEST = next(iter(models.EMBEDDED))
NOTEBOOKS = sorted(resources.notebooks().glob("*.py"))
SETTINGS = {
    "00_one_vector": {"model": SMALLEST, "length": 8, "budget": 200},
    "01_decoding_capacity": {
        "models": [SMALLEST], "kept_models": [], "paper_models": [], "n_texts": 2, "lengths": [1, 16],
        "budget": 100, "longest": 8, "sources": ["embedded", "random_tokens"],
    },
    "90_pretrain": {
        "corpus": "TEXTS", "held_out": "TEXTS", "tokens": 40_000, "vocab_size": 300, "rungs": ["llama-64"],
    },
    "91_prepare_texts": {"model": SMALLEST, "n_texts": 3, "length": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Every notebook, executed with small parameters: name -> (notebook, folder)."""
    folder = tmp_path_factory.mktemp("notebooks")
    corpus = folder / "texts.parquet"
    passages = [path.read_text() for path in sorted((resources.data() / "texts").glob("*.txt"))]
    pl.DataFrame({"text": passages}).write_parquet(corpus)
    found = {}
    for source in NOTEBOOKS:
        given = {k: str(corpus) if v == "TEXTS" else v for k, v in SETTINGS[source.stem].items()}
        given |= {k: str(folder / k) for k in ("store", "out") if k in parameters.parameters(source)}
        path = report.execute(source, given, out=folder / "pages")
        found[source.stem] = nbformat.read(path, as_version=4), folder
    return found


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
        assert all(one.comment for one in parameters.parameters(path).values())
        blocks = [block for block in text.split("\n# %%") if "\ndef " in block]
        assert not blocks, f"{path.name} defines a function: it belongs in the package, with a test"


def test_one_vector_shows_what_the_store_holds(executed):
    notebook, folder = executed["00_one_vector"]
    rows = store.Store(folder / "store").read().filter(search="grow", length=pl.col("length"))
    rows = rows.filter(pl.col("curve_bits").is_not_null())
    curve, strip, _ = charts_of(notebook)
    steps = [row for row in values(curve) if "n_right" in row]
    assert len(steps) == sum(len(bits) for bits in rows["curve_bits"])
    best = rows.filter(pl.col("decoded_tokens").is_not_null()).row(-1, named=True)
    tokens = sorted(values(strip), key=lambda row: row["position"])
    assert [row["position"] for row in tokens if row["decoded"]] == list(range(1, best["decoded_tokens"] + 1))
    frozen = models.load(SMALLEST)
    passage = resources.data() / "texts" / f"{best['text_id']}.txt"
    beginning = frozen.tokenizer(passage.read_text())["input_ids"][: len(tokens)]
    assert [row["token"] for row in tokens] == [frozen.tokenizer.decode([i]) for i in beginning]
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
    assert {row["value"] for row in published} >= {80.0, 787.0}
    capacity = metrics.decoding_capacity(rows.filter(search="fixed"))
    assert set(capacity["censored"]) <= {"no", "below"}  # length 16 fails: the grid brackets the limit from above


def test_pretraining_runs_for_a_few_steps_on_the_embedded_texts(executed):
    _, folder = executed["90_pretrain"]
    record = json.loads((folder / "out" / "llama-64" / "training.json").read_text())
    assert record["tokens_seen"] == 40_960
    assert record["width"] == 64
    assert 3.0 < record["held_out_nats_per_token"] < 5.8


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
        assert row["n_bytes"] == len(frozen.tokenizer.decode(list(ids)).encode())
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
    given = SETTINGS["00_one_vector"] | {"store": str(folder / "store"), "engine": "none"}
    again = report.execute(source, given, out=tmp_path)
    assert charts_of(nbformat.read(again, as_version=4))[1] == charts_of(executed["00_one_vector"][0])[1]
    assert Path(again).stat().st_size > 0
