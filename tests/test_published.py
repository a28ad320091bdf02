import doctest

import polars as pl
import pytest

from capacity import published, resources, theory

UNITS = {"layers", "billions", "dimensions", "nats", "ratio", "steps", "tokens", "tokens/byte"}
COUNTS = {
    ("kuratov2025", "Table 1"): 102,  # 14 models x 2 sources x 3 metrics, 6 x 3 for fanfics
    ("kuratov2025", "Eq. 1, Fig. 5"): 56,  # 14 x 4
    ("kuratov2025", "Fig. 5"): 28,  # 14 x 2
    ("kuratov2025", "Fig. 4"): 33,  # 13 capacities, 10 x 2 gains
    ("kuratov2025", "models list"): 10,
    ("kuratov2025", "bits per byte"): 9,
    ("kuratov2025", "context-length ablation, length 64"): 5,
    ("kuratov2025", "context-length ablation, length 128"): 5,
    ("kuratov2025", "context-length ablation, length 512"): 5,
    ("kuratov2025", "context-length ablation, length 1568"): 5,
    ("tarasov2026", "project page"): 8,
    ("kuratov2025", "gain by length"): 56,  # 9 models, 3 to 9 lengths
    ("tarasov2026", "reconstruction table"): 6,
    ("tarasov2026", "depth and size table"): 23,  # 5 models x 5 depths, two of them not published
    ("tarasov2026", "MMLU table"): 20,  # 4 models x 5
    ("tarasov2026", "quickstart"): 4,
    ("tarasov2026", "model configs"): 28,  # 7 models x 4
}
FACTS = {  # width, vocabulary, Eq. 1 in whole tokens, as the paper lists them
    "EleutherAI/pythia-160m": (768, 50304, 787),
    "EleutherAI/pythia-410m": (1024, 50304, 1049),
    "EleutherAI/pythia-1.4b": (2048, 50304, 2098),
    "EleutherAI/pythia-2.8b": (2560, 50304, 2623),
    "facebook/opt-1.3b": (2048, 50272, 2098),
    "allenai/OLMo-1B-0724-hf": (2048, 50304, 2098),
    "princeton-nlp/Sheared-LLaMA-1.3B": (2048, 32000, 2190),
    "meta-llama/Llama-3.2-1B": (2048, 128256, 1931),
    "meta-llama/Llama-3.2-3B": (3072, 128256, 2897),
    "meta-llama/Meta-Llama-3.1-8B": (4096, 128256, 3862),
    "state-spaces/mamba-130m-hf": (768, 50280, 787),
    "state-spaces/mamba-370m-hf": (1024, 50280, 1049),
    "state-spaces/mamba-790m-hf": (1536, 50280, 1574),
    "state-spaces/mamba-1.4b-hf": (2048, 50280, 2098),
}


@pytest.fixture(scope="module")
def utilisation() -> list[dict]:
    """Table 1's gain over Eq. 1 beside the published ratio, one row a model and source."""
    gains = published.wide(published.load("kuratov2025", "Table 1"))
    ratios = published.wide(published.load("kuratov2025", "Fig. 5"))
    facts = published.wide(published.load("kuratov2025", "Eq. 1, Fig. 5")).drop("source")
    rows = ratios.join(gains, on=["model", "source", "n_mem"]).join(facts, on=["model", "n_mem"]).to_dicts()
    for row in rows:
        row["equation_1"] = theory.token_capacity(row["d_model"], row["vocab_size"])
        row["ours"] = row["token_gain"] / row["equation_1"]
    return rows


def test_nothing_is_lost():
    rows = published.load()
    assert rows.schema == published.SCHEMA
    assert {(paper, item): n for paper, item, n in rows.group_by("paper", "item").len().iter_rows()} == COUNTS


def test_each_number_has_one_key_a_unit_and_a_place():
    rows = published.load()
    assert not rows.select(published.KEY).is_duplicated().any()
    assert set(rows["unit"]) == UNITS
    assert rows.group_by("metric").agg(pl.col("unit").n_unique())["unit"].max() == 1
    assert rows["value"].is_finite().all()
    assert rows["where"].str.contains("/").all()  # a file of the paper's repository


def test_papers_hold_their_own_rows_and_notes():
    for paper in published.papers():
        assert set(published.load(paper)["paper"]) == {paper}
        assert (resources.papers() / paper / "notes.md").is_file()


def test_parts_make_the_whole():
    parts = [published.load(paper, item) for paper, item in COUNTS]
    whole = published.load()
    assert pl.concat(parts).sort(published.KEY).equals(whole.sort(published.KEY))


def test_equation_1_for_each_of_the_models():
    facts = published.wide(published.load("kuratov2025", "Eq. 1, Fig. 5"))
    listed = {row["model"]: (row["d_model"], row["vocab_size"], row["token_capacity"]) for row in facts.to_dicts()}
    assert listed == FACTS
    assert {model: round(theory.token_capacity(d, v)) for model, (d, v, _) in listed.items()} == {
        model: tokens for model, (_, _, tokens) in FACTS.items()
    }


def test_utilisation_to_three_decimals(utilisation):
    assert len(utilisation) == 28
    for row in utilisation:
        assert round(row["ours"], 3) == round(row["utilisation"], 3), row


def test_utilisation_to_the_last_digit_of_the_gain_but_for_one(utilisation):
    off = [row for row in utilisation if abs(row["ours"] - row["utilisation"]) * row["equation_1"] > 0.0501]
    assert [(row["model"], row["source"]) for row in off] == [("EleutherAI/pythia-2.8b", "random")]
    assert off[0]["utilisation"] * off[0]["equation_1"] == pytest.approx(134.3, abs=0.001)  # Table 1 has 134.5


def test_figure_4_begins_where_table_1_ends():
    table = published.wide(published.load("kuratov2025", "Table 1"))
    figure = published.wide(published.load("kuratov2025", "Fig. 4"))
    both = figure.join(table, on=["model", "source", "n_mem"], suffix="_table")
    assert sorted(both["model"]) == ["EleutherAI/pythia-160m", "meta-llama/Llama-3.2-1B"]
    for metric in (
        "decoding_capacity",
        "information_gain",
        "information_gain_sd",
        "token_gain",
        "token_gain_sd",
    ):
        assert both[metric].round(1).to_list() == both[f"{metric}_table"].to_list()


def test_a_vector_cannot_gain_more_than_there_is():
    alone = published.load("kuratov2025", "models list").filter(model="meta-llama/Llama-3.2-1B")["value"].item()
    ablation = published.load("kuratov2025", "context-length ablation, length 512")
    assert (ablation["value"] < alone).all()
    assert ablation.filter(n_mem=1)["value"].item() > ablation.filter(n_mem=0)["value"].max()


def test_the_gain_by_length_is_near_table_1s_of_the_same_models():
    lengths = published.load("kuratov2025", "gain by length")
    means = lengths.group_by("model").agg(pl.col("value").mean())
    table = published.load("kuratov2025", "Table 1").filter(metric="information_gain", source="pg19")
    both = means.join(table, on="model", suffix="_table")
    assert both.height == 9
    assert (both["value"] / both["value_table"]).is_between(0.75, 1.1).all()


def test_all_layers_are_the_model_of_the_project_page():
    whole = published.load("tarasov2026", "project page").filter(metric="exact_length_teacher_forced")
    depth = pl.col("metric").str.extract(r"_first_(\d+)_layers$").cast(pl.Int64)
    table = published.load("tarasov2026", "depth and size table").with_columns(depth.alias("layers"))
    assert table["layers"].null_count() == 0
    both = table.filter(pl.col("layers") > 8).join(whole, on="model", suffix="_page")
    assert sorted(both["model"]) == ["HuggingFaceTB/SmolLM2-1.7B", "meta-llama/Llama-3.1-8B"]
    assert (both["value"] == both["value_page"]).all()


def test_configs_of_the_follow_up_are_those_of_the_paper_and_of_its_own_table():
    configs = published.wide(published.load("tarasov2026", "model configs"))
    theirs = published.wide(published.load("kuratov2025", "Eq. 1, Fig. 5"))
    llama = pl.col("model").replace("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B")
    both = configs.join(theirs.with_columns(llama), on="model", suffix="_paper")
    assert both.height == 2
    for fact in ("d_model", "vocab_size", "n_parameters"):
        assert (both[fact] == both[f"{fact}_paper"]).all()
    depth = pl.col("metric").str.extract(r"_first_(\d+)_layers$").cast(pl.Float64)
    whole = published.load("tarasov2026", "depth and size table").filter(depth > 8)
    known = whole.with_columns(depth.alias("layers")).join(configs, on="model")
    assert (known["layers"] == known["n_layers"]).sum() == known.height == 4


def test_models_by_width_are_those_of_both_papers():
    by_width = published.by_width()
    assert dict(by_width.group_by("measure").len().iter_rows()) == {
        "gain (bits)": 14, "decoding capacity (tokens)": 14, "exact length (tokens)": 6
    }  # fmt: skip
    assert by_width.null_count().sum_horizontal().item() == 0
    own = by_width.filter(model="EleutherAI/pythia-1.4b").select("family", "d_model", "billions", "measure", "value")
    assert own.filter(measure="exact length (tokens)").row(0) == ("pythia", 2048, 1.4, "exact length (tokens)", 430)
    assert own.filter(measure="decoding capacity (tokens)")["value"].item() == 160
    table = published.table_1("information_gain").filter(source="pg19", n_mem=1).sort("d_model", "model")
    assert by_width.filter(measure="gain (bits)")["value"].to_list() == table["value"].to_list()


def test_table_1_by_width_worked_by_hand():
    gain = (
        published.table_1("information_gain").filter(model="EleutherAI/pythia-160m", source="pg19").row(0, named=True)
    )
    assert gain["value"] == pytest.approx(396.4 / 0.6931472)
    assert (gain["low"] + gain["high"]) / 2 == pytest.approx(gain["value"])
    assert (gain["d_model"], gain["vocab_size"], gain["n_mem"]) == (768, 50304, 1)
    tokens = published.table_1("decoding_capacity")
    assert tokens.height == 34
    assert tokens["low"].null_count() == 34
    assert tokens["d_model"].is_sorted()
    with pytest.raises(ValueError, match="'gain' of Table 1; choose one of"):
        published.table_1("gain")


def test_wide_keeps_the_numbers():
    rows = published.load("kuratov2025", "Table 1")
    table = published.wide(rows)
    assert table.shape == (34, 8)
    assert table.row(by_predicate=pl.col("model").str.contains("3.1-8B") & (pl.col("source") == "pg19")) == (
        "meta-llama/Meta-Llama-3.1-8B", "pg19", 1, 1568, 4865.7, 1094.1, 546.6, 127.6,
    )  # fmt: skip
    long = table.unpivot(index=["model", "source", "n_mem"], variable_name="metric").drop_nulls("value")
    assert long.height == rows["value"].count() + rows["sd"].count()
    assert long["value"].sum() == pytest.approx(rows["value"].sum() + rows["sd"].sum())


def test_wide_leaves_empty_what_was_not_published():
    figure = published.wide(published.load("kuratov2025", "Fig. 4"))
    bare = figure.filter(pl.col("token_gain").is_null())
    assert bare["n_mem"].to_list() == [32, 64, 128]
    assert bare["decoding_capacity"].to_list() == [2016, 1792, 1792]


def test_wide_refuses_two_numbers_in_one_cell():
    with pytest.raises(ValueError, match=r"numbers share their.*'Fig\. 4'.*one item"):
        published.wide(published.load("kuratov2025"))


def test_unknown_names_are_refused_with_those_allowed():
    with pytest.raises(ValueError, match=r"'kuratov'.*\['kuratov2025', 'tarasov2026'\]"):
        published.load("kuratov")
    with pytest.raises(ValueError, match=r"'Table 1' in tarasov2026.*\['model configs', 'depth and size table', 'MMLU"):
        published.load("tarasov2026", "Table 1")
    with pytest.raises(ValueError, match="'table1' in kuratov2025, tarasov2026"):
        published.load(item="table1")


def test_files_that_are_not_tables_of_numbers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "papers", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="no published numbers"):
        published.load()
    (tmp_path / "new2030").mkdir()
    header = published.SCHEMA.names()
    for columns in (header[:-1], [*header, "note"], header[::-1]):
        (tmp_path / "new2030" / "t.csv").write_text(",".join(columns) + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"t\.csv has the columns"):
            published.load()


def test_examples_in_the_documentation():
    failed, tried = doctest.testmod(published)
    assert (failed, tried) == (0, 4)
