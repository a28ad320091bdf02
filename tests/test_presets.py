import doctest
import json
import re
import shutil

import polars as pl
import pytest

from capacity import fitting, published, texts
from capacity.models import BOS
from capacity.models.checkpoints import ModelError
from capacity.sweep import presets
from capacity.sweep.experiment import SEARCHES
from capacity.texts import sources

SMALL = """
title = "Some table"
where = "notes"
[grid]
source = "random_tokens"
n_texts = 2
length = [8, 16]
recipe = "paper"
search = "fixed"
scored_from = 1
[[runs]]
model = "some/model"
where = "a.sh"
n_mem = 1
[[runs]]
model = "some/model"
where = "a.sh"
n_mem = 2
length = 32
[[runs]]
model = "other/model"
where = "b.sh"
bos = "after_mem"
"""
SCRIPTS = {  # models of the paper's run scripts, and of its second version
    *(f"EleutherAI/pythia-{size}" for size in ("160m", "410m", "1.4b", "2.8b", "6.9b")),
    "facebook/opt-350m", "facebook/opt-1.3b", "allenai/OLMo-1B-0724-hf", "princeton-nlp/Sheared-LLaMA-1.3B",
    "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B", "meta-llama/Meta-Llama-3.1-8B",
    *(f"state-spaces/mamba-{size}-hf" for size in ("130m", "370m", "790m", "1.4b")),
}  # fmt: skip


def small(text=SMALL):
    return presets.parse(text, name="x/y")


def merged(preset):
    """The settings of every run of a preset, with its model."""
    return [{"model": run.model} | presets._over(preset.grid, run.settings) for run in preset.runs]


def as_list(value):
    return value if isinstance(value, list) else [value]


# What is published


def test_there_is_a_preset_for_every_run_script():
    assert presets.names() == [
        "kuratov2025/fanfics", "kuratov2025/fig4", "kuratov2025/random", "kuratov2025/table1", "tarasov2026/progressive"
    ]  # fmt: skip
    assert {run.model for run in presets.load("kuratov2025/table1").runs} == SCRIPTS


@pytest.mark.parametrize("name", presets.names())
def test_what_a_preset_names_is_known(name):
    for settings in merged(presets.load(name)):
        fitting.recipe(settings["recipe"])
        assert settings["source"] in sources.SOURCES
        assert settings["search"] in SEARCHES
        assert settings.get("bos", "none") in BOS
        assert settings.get("bos") != "after_mem" or settings["scored_from"] == 1
        lengths = as_list(settings.get("length", settings.get("longest")))
        assert lengths == sorted(set(lengths))
        assert settings["n_texts"] == (100 if name.endswith("random") else 50)


@pytest.mark.parametrize(
    ("name", "item", "source"),
    [
        ("table1", "Table 1", "pg19"), ("fanfics", "Table 1", "fanfics"), ("random", "Table 1", "random"),
        ("fig4", "Fig. 4", "pg19"),
    ],
)  # fmt: skip
def test_every_published_capacity_is_a_length_that_its_preset_tries(name, item, source):
    runs = merged(presets.load(f"kuratov2025/{name}"))
    found = published.load("kuratov2025", item).filter(metric="decoding_capacity", source=source)
    assert len(found) >= 6
    for model, n_mem, capacity in found.select("model", "n_mem", "value").iter_rows():
        own = [run for run in runs if run["model"] == model and n_mem in as_list(run["n_mem"])]
        assert own, (model, n_mem)
        if source == "random":
            assert 2 <= capacity <= own[0]["longest"]
        else:
            assert capacity in {length for run in own for length in as_list(run["length"])}


def test_the_budget_of_growth_is_the_papers_steps_at_the_mean_length():
    preset = presets.load("tarasov2026/progressive")
    exact = published.load("tarasov2026", "project page").filter(metric="exact_length_teacher_forced")
    budgets = {run.model: run.settings["budget"] for run in preset.runs}
    assert budgets == {model: 10_000 * length / 2 for model, length in exact.select("model", "value").iter_rows()}
    assert preset.grid["budget"] == 10_000 * preset.grid["length"] / 2


# Grids


def test_runs_of_a_model_are_laid_over_the_grid():
    found = presets.experiments(small())
    told = [(one.model, one.n_mem, one.length, one.text_index, one.bos) for one in found]
    assert told == [
        *(("some/model", 1, length, text, "none") for length in (8, 16) for text in (0, 1)),
        *(("some/model", 2, 32, text, "none") for text in (0, 1)),
        *(("other/model", 1, length, text, "after_mem") for length in (8, 16) for text in (0, 1)),
    ]
    assert {(one.recipe, one.search, one.scored_from) for one in found} == {("paper", "fixed", 1)}


def test_a_model_of_its_own_runs_the_grid_and_a_revision_its_models_runs():
    found = presets.experiments(small(), models=["mine", "some/model@v1"])
    assert {(one.model, one.n_mem, one.length) for one in found} == {
        ("mine", 1, 8), ("mine", 1, 16), ("some/model@v1", 1, 8), ("some/model@v1", 1, 16), ("some/model@v1", 2, 32)
    }  # fmt: skip


def test_given_settings_take_the_place_of_the_presets_and_a_cell_is_there_once():
    found = presets.experiments(small(), models=["some/model"], given={"length": [8], "n_mem": 3, "n_texts": 1})
    assert [(one.n_mem, one.length, one.text_index) for one in found] == [(3, 8, 0)]


def test_each_text_has_the_length_that_the_paper_draws():
    text = SMALL.replace("length = [8, 16]", "longest = 40").replace("n_texts = 2", "n_texts = 30")
    found = presets.experiments(small(text), models=["mine"], given={"text_seed": 3})
    assert [one.length for one in found] == texts.drawn_lengths(30, longest=40, seed=3)
    assert [one.text_index for one in found] == list(range(30))
    at_once = presets.experiments(small(text), models=["mine"], given={"length": 9, "n_texts": 2})
    assert [one.length for one in at_once] == [9, 9]
    other = presets.experiments(small(text), models=["some/model"])
    assert {one.length for one in other if one.n_mem == 2} == {32}  # a run's length puts the grid's longest aside


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"modle": "x"}, r"unknown setting 'modle'; known are attention, bos, budget"),
        ({"model": "x"}, r"unknown setting 'model'.*--model"),
        ({"text_index": 3}, r"unknown setting 'text_index'"),
        ({"n_texts": "many"}, r"n_texts is 'many'; int is needed"),
        ({"n_texts": [1, 2]}, r"n_texts is \[1, 2\]; int is needed"),
        ({"length": [8, "9"]}, r"length is \[8, '9'\]; int, or a list of such is needed"),
        ({"length": True}, r"length is True"),
        ({"length": []}, r"empty list"),
        ({"trace": 1}, r"trace is 1; bool"),
        ({"length": 8, "longest": 9}, r"give one of them"),
        ({"recipe": "magic"}, r"unknown recipe 'magic'; known are paper"),
        ({"source": "nowhere"}, r"unknown source 'nowhere'"),
        ({"bos": "after"}, r"unknown bos 'after'"),
        ({"scored_from": 0, "bos": "after_mem"}, r"needs scored_from=1"),
    ],
)
def test_a_wrong_setting_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        presets.experiments(small(), models=["mine"], given=given)


def test_a_preset_without_runs_needs_a_model():
    bare = small(SMALL.partition("[[runs]]")[0])
    with pytest.raises(ValueError, match="names no model"):
        presets.experiments(bare)
    assert len(presets.experiments(bare, models=["mine"])) == 4


# Files


@pytest.mark.parametrize("name", ["", "table1", "kuratov2025/../kuratov2025/table1", "kuratov2025/table2\0", "x" * 999])
def test_an_unknown_name_is_refused_with_those_known(name):
    with pytest.raises(ValueError, match=r"unknown preset .*; known are kuratov2025/fanfics, ") as caught:
        presets.load(name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title =", "titel =", r"preset x/y: unknown keys \['titel'\]; known are title, where, grid"),
        ('title = "Some table"', "", r"title is None; a str is needed"),
        ("[grid]", "[grind]", r"unknown keys \['grind'\]"),
        ("n_texts = 2", "n_text = 2", r"preset x/y, grid: unknown setting 'n_text'; known are attention"),
        ("n_mem = 2", "n_men = 2", r"preset x/y, run 2: unknown keys \['n_men'\]; known are model, where, source"),
        ("n_mem = 2", 'n_mem = "2"', r"preset x/y, run 2: n_mem is '2'; int"),
        ('where = "b.sh"', "", r"preset x/y, run 3: where is None"),
        ("[[runs]]", "[runs", r"preset x/y: .*; write it in TOML"),
    ],
)
def test_a_wrong_file_is_refused(old, new, says):
    assert old in SMALL
    with pytest.raises(ValueError, match=says):
        small(SMALL.replace(old, new))


def test_runs_that_are_no_list_are_refused():
    with pytest.raises(ValueError, match=r"runs is no list of tables"):
        small(SMALL.partition("[[runs]]")[0] + '[runs]\nmodel = "x"\n')


# Contexts


def test_a_grid_of_ones_own_is_named_by_its_file_and_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_bytes(b"\xef\xbb\xbf" + b'model = "llama-64"\nlength = 4\n')
    assert presets.read(path).grid == {"length": 4}
    path.write_text('model = "llama-64"\nlenght = 4\n')
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: unknown setting 'lenght'; known are "):
        presets.read(path)


def test_what_has_no_room_is_left_out_and_a_search_is_cut(folders):
    model = str(folders["llama"])  # a context of 64
    text = SMALL.partition("[[runs]]")[0]
    given = {"length": [4, 8, 62, 63, 64], "n_mem": [1, 2, 8], "n_texts": 1}
    every = presets.experiments(small(text), models=[model], given=given)
    kept, left_out = presets.within_context(every)
    assert {(one.n_mem, one.length) for one in kept} == {
        (1, 4),
        (1, 8),
        (1, 62),
        (1, 63),
        (2, 4),
        (2, 8),
        (2, 62),
        (8, 8),
    }
    assert len(kept) + len(left_out) == 15
    kept, _ = presets.within_context(
        presets.experiments(small(text), models=[model], given=given | {"bos": "before_mem"})
    )
    assert max(one.length for one in kept if one.n_mem == 1) == 62
    searched = presets.experiments(
        small(text), models=[model], given=given | {"search": "grow", "length": [8, 63, 999]}
    )
    kept, left_out = presets.within_context(searched)
    assert [(one.n_mem, one.length) for one in kept] == [(1, 8), (2, 8), (8, 8), (1, 63), (2, 62), (8, 56)]
    assert left_out == []
    with pytest.raises(ValueError, match="give shorter lengths"):
        presets.within_context(presets.experiments(small(text), models=[model], given={"length": 64}))
    with pytest.raises(ModelError, match="no model 'no/such/folder'"):
        presets.within_context(presets.experiments(small(text), models=["no/such/folder"]))


def test_a_model_without_a_limit_gets_every_length(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "endless")
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    config |= {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    bare = small(SMALL.partition("[[runs]]")[0])
    kept, left_out = presets.within_context(presets.experiments(bare, models=[str(folder)], given={"length": 99_999}))
    assert [one.length for one in kept] == [99_999, 99_999]
    assert left_out == []


def test_the_papers_texts_make_the_papers_cells(lay_dataset, folders):
    rows = pl.DataFrame({"text": ["The ferry left the harbour. It rained. Nobody waited there. The rain began."] * 60})
    lay_dataset("yurakuratov/pg19_valid_1k_chunks", {"a.csv": rows.write_csv().encode()})
    preset = presets.load("kuratov2025/table1")
    found = presets.experiments(preset, models=[str(folders["llama"])])
    assert len(found) == len(preset.grid["length"]) * 50
    kept, left_out = presets.within_context(found)
    assert {one.length for one in kept} == {8, 16, 32}
    assert {one.source for one in left_out} == {"pg19"}


def test_examples_in_the_docstrings_hold():
    done = doctest.testmod(presets)
    assert done.attempted == 2
    assert done.failed == 0
