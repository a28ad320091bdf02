import doctest
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from capacity import fitting, metrics, models, sweep
from capacity.fitting.recipes import Recipe
from capacity.store import Store
from capacity.store.schema import SCHEMA
from capacity.sweep import MissingCells, experiment, rows
from capacity.sweep.experiment import Experiment

QUICK = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=25, patience=20)
# A sweep that says when three cells are done, and then waits for a signal. Arguments: store, model, seconds to flush.
IN_A_CHILD = """
import functools, signal, sys, time
from capacity import fitting, sweep
from capacity.sweep import rows
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has its children ignore it
from capacity.fitting.recipes import Recipe
fitting.RECIPES["quick"] = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=25, patience=20)
sweep.store.Store = functools.partial(sweep.store.Store, flush_seconds=float(sys.argv[3]))
whole = rows.run
def run(frozen, cells, **options):
    for number, made in enumerate(whole(frozen, cells, **options)):
        if number == 3:
            print("under way", flush=True)
            while True:  # short sleeps: a signal that another thread got is seen, too
                time.sleep(0.05)
        yield made
rows.run = run
same = {"source": "random_tokens", "recipe": "quick", "length": 6, "budget": 300, "device": "cpu"}
sweep.run(sweep.grid(model=sys.argv[2], n_texts=8, **same), sys.argv[1], progress=False)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(fitting.RECIPES, "quick", QUICK)


def grid(folder, n_texts=2, **settings):
    same = {"source": "random_tokens", "recipe": "quick", "length": 6, "budget": 300, "device": "cpu"}
    return sweep.grid(model=str(folder), n_texts=n_texts, **same | settings)


def run(experiments, store, **options):
    return sweep.run(experiments, store, progress=False, **options)


def same(one, other):
    assert_frame_equal(one.drop("seconds"), other.drop("seconds"), check_exact=True)
    return True


@pytest.fixture
def loads(monkeypatch):
    """The names of the models loaded so far."""
    found, load = [], models.load

    def counted(name, **options):
        found.append(name)
        return load(name, **options)

    monkeypatch.setattr(models, "load", counted)
    return found


def test_a_grid_is_the_product_of_its_lists():
    found = sweep.grid(model="llama-64", length=[8, 16], seed=(0, 1, 2), n_mem=2, n_texts=3)
    told_apart = {(one.length, one.seed, one.text_index) for one in found}
    assert told_apart == {(length, seed, text) for length in (8, 16) for seed in range(3) for text in range(3)}
    assert len(found) == 18
    assert {(one.model, one.n_mem, one.recipe) for one in found} == {("llama-64", 2, "default")}


def test_a_grid_holds_every_experiment_once():
    found = sweep.grid(model=["llama-64", "llama-64"], length=[8, 8, 16], n_texts=1)
    assert found == [Experiment(model="llama-64", length=length) for length in (8, 16)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lenght": 8}, r"unknown settings \['lenght'\]; known are n_texts, attention, .*length"),
        ({"text_index": 1}, r"unknown settings \['text_index'\]"),
        ({"n_texts": 0}, "n_texts is 0; give a whole number from 1 on"),
        ({"length": [8, 0]}, "length is 0; at least 1"),
        ({"recipe": ["default", "fast"]}, "unknown recipe 'fast'"),
        ({"source": "wikipedia"}, "unknown source 'wikipedia'"),
    ],
)
def test_a_grid_refuses_settings_unknown_or_not_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        sweep.grid(model="llama-64", **settings)


def test_cells_come_in_the_order_of_their_experiments(folders):
    wanted = grid(folders["llama"], length=[6, 4], text_seed=[1, 0], source=["random_words", "random_tokens"])[::-1]
    cells = sweep.cells(wanted)
    assert [cell.experiment for cell in cells] == wanted
    assert all(len(cell.text.ids) == cell.experiment.length for cell in cells)
    assert len({cell.key for cell in cells}) == len(cells) == 16


def test_cells_need_no_weights(folders, monkeypatch):
    monkeypatch.setattr(models, "load", None)
    assert len(sweep.cells(grid(folders["llama"], n_texts=3))) == 3


def test_a_text_is_the_same_under_every_condition(folders):
    cells = sweep.cells(grid(folders["llama"], n_mem=[1, 2], scored_from=[0, 1], seed=[0, 1]))
    assert len({(cell.experiment.text_index, cell.text.ids) for cell in cells}) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nobody/nothing"}, "no model 'nobody/nothing'"),
        ({"source": "embedded", "length": 9999}, "past the context"),
        ({"source": "file:short.txt", "length": 20}, "has only 0"),
    ],
)
def test_cells_refuse_models_and_texts_that_cannot_be_had(folders, monkeypatch, tmp_path, changes, message):
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("no")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wanted = [replace(grid(folders["llama"])[0], **changes)]
    with pytest.raises(ValueError, match=message):
        sweep.cells(wanted)


@pytest.mark.slow
def test_what_was_measured_is_loaded_without_the_model(folders, tmp_path, monkeypatch):
    wanted = grid(folders["llama"], n_texts=3, scored_from=[0, 1])
    first = run(wanted, tmp_path)
    assert first.schema == pl.Schema(SCHEMA)
    assert first["key"].n_unique() == 6

    def refuse(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(models, "load", refuse)
    files = sorted(tmp_path.rglob("*.parquet"))
    assert run(wanted, tmp_path).equals(first)
    assert run(wanted, tmp_path, missing="refuse").equals(first)
    assert sorted(tmp_path.rglob("*.parquet")) == files


@pytest.mark.slow
def test_a_part_is_loaded_and_the_rest_is_measured(folders, tmp_path, monkeypatch):
    wanted = grid(folders["llama"], n_texts=4)
    part = run(wanted[1:3], tmp_path)
    whole, measured = rows.run, []

    def watched(frozen, cells, **options):
        measured.extend(cell.experiment for cell in cells)
        return whole(frozen, cells, **options)

    monkeypatch.setattr(rows, "run", watched)
    found = run(wanted, tmp_path)
    assert measured == [wanted[0], wanted[3]]
    assert found.join(part, on="key", how="semi").equals(part)  # their time, too
    assert found["key"].n_unique() == 4


def test_a_model_is_loaded_once_for_all_its_cells(folders, tmp_path, loads):
    wanted = grid(folders["llama"], scored_from=[0, 1], n_mem=[1, 2]) + grid(folders["neox"])
    run(wanted[::2] + wanted[1::2], tmp_path)
    assert sorted(loads) == sorted([str(folders["llama"]), str(folders["neox"])])


@pytest.mark.slow
def test_settings_of_the_model_are_loaded_apart(folders, tmp_path, monkeypatch):
    asked, load = [], models.load

    def watched(name, **options):
        asked.append(options)
        return load(name, **options)

    monkeypatch.setattr(models, "load", watched)
    settings = {"bos": ["none", "before_mem"], "dtype": ["float32", "bfloat16"], "seed": [0, 1]}
    wanted = grid(folders["llama"], n_texts=1, attention="eager", **settings)  # eager: see test_fitting, half precision
    found = run(wanted, tmp_path)
    same = {"attention": "eager", "device": "cpu"}
    assert asked == [
        same | {"bos": bos, "dtype": dtype} for bos in ("none", "before_mem") for dtype in ("float32", "bfloat16")
    ]
    kept = found.select("key", "bos", "dtype", "seed", "device").unique()
    assert sorted(kept.drop("key").rows()) == sorted((one.bos, one.dtype, one.seed, one.device) for one in wanted)


def test_bos_after_the_vectors_is_the_first_token_of_the_length(folders, tokenizer):
    same = {"scored_from": 1, "n_texts": 3}
    plain, begun = (
        sweep.cells(grid(folders["llama"], bos=bos, length=length, **same))
        for bos, length in (("none", 5), ("after_mem", 6))
    )
    for one, other in zip(plain, begun, strict=True):
        assert other.text.ids == (tokenizer.bos_token_id, *one.text.ids)
        assert (one.text.id, one.text.index) == (other.text.id, other.text.index)
        assert one.text.digest != other.text.digest
    before = sweep.cells(grid(folders["llama"], bos="before_mem", length=5, **same))
    assert [cell.text for cell in before] == [cell.text for cell in plain]
    assert {cell.key for cell in before}.isdisjoint(cell.key for cell in plain)


def test_bos_takes_its_place_in_the_context(folders):
    fits = {"n_texts": 1, "n_mem": 4, "scored_from": 1}
    for bos, length in (("none", 60), ("after_mem", 60), ("before_mem", 59)):
        (cell,) = sweep.cells(grid(folders["llama"], bos=bos, length=length, **fits))
        assert len(cell.text.ids) == length
        with pytest.raises(models.ModelError, match="past the context"):
            sweep.cells(grid(folders["llama"], bos=bos, length=length + 1, **fits))


def test_a_tokenizer_without_bos_has_no_policy_for_it(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["llama"], folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings.pop("bos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(models.ModelError, match="has no BOS token; use bos='none'"):
        sweep.cells(grid(folder, bos="after_mem", scored_from=1))


@pytest.mark.parametrize("how", ["fixed", "grow", "bracket"])
def test_every_search_is_kept_and_found_again(how, folders, tmp_path):
    wanted = grid(folders["llama"], search=how, n_mem=2)
    found = run(wanted, tmp_path)
    assert set(found["search"]) == {how}
    assert run(wanted, tmp_path, missing="refuse").equals(found)
    others = [other for other in ("fixed", "grow", "bracket") if other != how]
    with pytest.raises(MissingCells, match=r"^4 of 4"):
        run(grid(folders["llama"], search=others, n_mem=2), tmp_path, missing="refuse")


@pytest.mark.slow
def test_compiled_or_not_is_no_part_of_a_cell(folders, tmp_path, monkeypatch):
    graphs = []
    monkeypatch.setattr(models.torch, "compile", lambda graph, **_: graphs.append(graph) or graph)  # as it was traced
    wanted = grid(folders["llama"], search="fixed", length=4)
    found = run(wanted, tmp_path / "compiled", compile=True)
    assert len(graphs) == 1  # of one shape
    other = run(wanted, tmp_path / "plain")
    told = ("key", "status", "steps", "correct_with", "first_correct", "decoded_tokens")
    assert found.select(told).equals(other.select(told))
    assert len(graphs) == 1


@pytest.mark.slow
def test_order_and_company_change_no_row(folders, tmp_path):
    wanted = grid(folders["llama"], n_mem=[1, 2]) + grid(folders["neox"], n_texts=1)
    together = run(wanted, tmp_path / "together")
    assert same(run(wanted[::-1], tmp_path / "backwards"), together)
    for one in wanted:
        run([one], tmp_path / "apart")
    assert same(run(wanted, tmp_path / "apart", missing="refuse"), together)


def test_repeated_experiments_are_one_cell(folders, tmp_path):
    wanted = grid(folders["llama"])
    found = run(wanted + wanted, tmp_path)
    assert found["key"].n_unique() == 2
    assert not found.select("key", "probe").is_duplicated().any()


@pytest.mark.slow
def test_rows_of_other_cells_stay_out(folders, tmp_path):
    run(grid(folders["llama"], seed=[0, 1]), tmp_path)
    assert set(run(grid(folders["llama"], seed=1), tmp_path)["seed"]) == {1}


def test_no_experiments_give_no_rows(tmp_path):
    for missing in sweep.MISSING:
        found = run([], tmp_path, missing=missing)
        assert (found.height, found.schema) == (0, pl.Schema(SCHEMA))


def test_what_is_missing_is_refused_by_name_and_nothing_written(folders, tmp_path):
    wanted = grid(folders["llama"], n_texts=3)
    with pytest.raises(MissingCells, match=r"^3 of 3 cells are not in .*/kept or ") as caught:
        run(wanted, tmp_path / "kept", missing="refuse")
    assert f"the first is {wanted[0]}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    run(wanted[:1], tmp_path / "kept")
    with pytest.raises(MissingCells, match=r"^2 of 3 cells") as caught:
        run(wanted, tmp_path / "kept", missing="refuse")
    assert f"the first is {wanted[1]}" in str(caught.value)


def test_refusing_finds_the_rows_that_travel_with_the_project(folders, tmp_path, monkeypatch):
    wanted = grid(folders["llama"], n_texts=2)
    travelling = run(wanted[:1], tmp_path / "travelling")
    own = run(wanted[1:], tmp_path / "own")
    monkeypatch.setattr(sweep, "measured", lambda: tmp_path / "travelling")
    found = run(wanted, tmp_path / "own", missing="refuse")
    assert found.equals(pl.concat([travelling, own]).sort("key", "probe"))


@pytest.mark.slow
def test_what_neither_the_store_nor_the_travelling_rows_have_is_measured(folders, tmp_path, monkeypatch):
    wanted = grid(folders["llama"], n_texts=2)
    travelling = run(wanted[:1], tmp_path / "travelling")
    monkeypatch.setattr(sweep, "measured", lambda: tmp_path / "travelling")
    (key,) = travelling["key"].unique()
    skipped = sweep.measure(wanted, tmp_path / "own", missing="skip", progress=False)
    assert (skipped.n_new, skipped.n_there, skipped.n_missing) == (0, 1, 1)
    assert skipped.rows.equals(travelling)
    assert str(skipped) == f"0 of 2 cells measured now, 1 were there, 1 are missing; {travelling.height} fits"
    assert not (tmp_path / "own").exists()
    found = sweep.measure(wanted, tmp_path / "own", progress=False)
    assert (found.n_new, found.n_there, found.n_missing) == (1, 1, 0)
    assert found.rows["key"].n_unique() == 2
    assert found.rows.filter(key=key).equals(travelling)
    assert Store(tmp_path / "own").missing([key]) == [key]
    again = sweep.measure(wanted, tmp_path / "own", travelling=False, progress=False)
    assert (again.n_new, again.n_there, again.n_missing) == (1, 1, 0)
    assert Store(tmp_path / "own").missing([key]) == []


@pytest.fixture
def gone(folders, tmp_path, offline):
    """Experiments of every kind on a model that is on this machine no more, and their rows; a folder, too."""
    folder = tmp_path / "model"
    shutil.copytree(folders["llama"], folder)
    wanted = grid(folder, n_texts=3, seed=[0, 1], bos="auto", device=None) + grid(folder, scored_from=1, bos="none")
    wanted += grid(folder, search="fixed", length=[3, 4], trace=True) + grid(folder, n_mem=2, budget=200, text_seed=1)
    rows = run(wanted, tmp_path / "kept")
    folder.rename(tmp_path / "elsewhere")
    return wanted, rows, folder


@pytest.mark.slow
@pytest.mark.parametrize("missing", sweep.MISSING)
def test_rows_of_a_model_that_is_gone_are_found_by_their_columns(gone, tmp_path, missing):
    wanted, rows, _ = gone
    found = sweep.measure(wanted, tmp_path / "kept", missing=missing, progress=False)
    assert found.rows.equals(rows)
    assert (found.n_new, found.n_there, found.n_missing) == (0, 14, 0)
    for one in wanted:  # each its own cell
        (kept,) = run([one], tmp_path / "kept", missing=missing).partition_by("key")
        assert kept.row(0, named=True)["seed"] == one.seed
        assert (kept["text_index"][0], kept["n_mem"][0]) == (one.text_index, one.n_mem)
    mixed = sweep.measure([*wanted, *grid("llama-64", n_texts=1)], tmp_path / "kept", missing="skip", progress=False)
    assert mixed.rows.equals(rows)
    assert (mixed.n_there, mixed.n_missing) == (14, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2}, {"length": 5}, {"budget": 299}, {"n_mem": 3}, {"text_seed": 2}, {"text_index": 3}, {"trace": True},
        {"recipe": "paper"}, {"search": "bracket"}, {"bos": "before_mem"}, {"dtype": "bfloat16"}, {"device": "cuda"},
        {"attention": "eager"}, {"source": "random_words"}, {"scored_from": 1, "seed": 1},
    ],
)  # fmt: skip
def test_other_settings_of_a_model_that_is_gone_are_missing(gone, tmp_path, change):
    one, store = replace(gone[0][0], **change), tmp_path / "kept"
    found = sweep.measure([one], store, missing="skip", progress=False)
    assert (len(found.rows), found.n_missing) == (0, 1)
    with pytest.raises(MissingCells, match=r"^1 of 1 cells"):
        run([one], store, missing="refuse")
    with pytest.raises(models.ModelError, match="no model"):
        run([one], store)


@pytest.mark.slow
def test_what_cannot_be_told_without_the_model_is_refused(gone, tmp_path):
    wanted, rows, folder = gone
    with pytest.raises(models.ModelError, match="no model 'nobody/nothing'"):  # a slip of the pen is no missing row
        run(grid("nobody/nothing"), tmp_path / "kept", missing="skip")
    shutil.copytree(tmp_path / "elsewhere", folder)
    run(grid(folder, n_texts=1, bos="before_mem", device=None), tmp_path / "kept")
    shutil.rmtree(folder)
    with pytest.raises(models.ModelError, match=r"2 of bos \(before_mem, none\).*name the policy"):
        run(wanted, tmp_path / "kept", missing="skip")
    named = [replace(one, bos="none") for one in wanted]
    assert run(named, tmp_path / "kept", missing="skip").equals(rows)
    with Store(tmp_path / "kept") as kept:
        other = rows.filter(key=rows["key"][0]).with_columns(key=pl.lit("other"), revision=pl.lit("f" * 16))
        kept.append(other.to_dicts())
    with pytest.raises(models.ModelError, match=r"2 of revision \(.*ffffffffffffffff"):
        run(named, tmp_path / "kept", missing="skip")


@pytest.mark.slow
def test_a_packaged_model_is_known_by_its_digest_and_names_its_policy(gone, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPACITY_HOME", str(tmp_path / "home"))
    wanted, rows, _ = gone
    name = "smollm2-135m"
    packaged = models.PACKAGED[name]
    of_it = rows.filter(pl.col("n_mem") == 1, search="grow", scored_from=0).with_columns(model=pl.lit(name))
    with Store(tmp_path / "kept") as kept:
        for number, (revision, bos) in enumerate(
            [(packaged.sha256[:16], "none"), (packaged.sha256[:16], "before_mem"), ("f" * 16, "none")]
        ):
            changed = of_it.with_columns(pl.col("key") + str(number), revision=pl.lit(revision), bos=pl.lit(bos))
            kept.append(changed.to_dicts())
    asked = [replace(one, model=name) for one in wanted[:6]]
    monkeypatch.setitem(models.PACKAGED, name, replace(packaged, bos=None))
    with pytest.raises(models.ModelError, match="2 of bos"):
        run(asked, tmp_path / "kept", missing="skip")
    monkeypatch.setitem(models.PACKAGED, name, replace(packaged, bos="before_mem"))
    found = run(asked, tmp_path / "kept", missing="skip")
    assert set(found["bos"]) == {"before_mem"}
    assert found["key"].n_unique() == 6
    assert len(run(asked, tmp_path / "empty", missing="skip")) == 0  # nothing is known of it, and it is no slip


def test_refuses_an_unknown_word_for_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="missing is 'cloud'; known are measure, skip, refuse"):
        run([], tmp_path, missing="cloud")


def test_the_default_store_is_named_by_the_environment(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPACITY_STORE", str(tmp_path / "named"))
    found = run(grid(folders["llama"], n_texts=1), None)
    with Store(tmp_path / "named") as kept:
        assert kept.read().equals(found)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
def test_a_changed_byte_of_the_weights_is_another_cell(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["llama"], folder)
    before = run(grid(folder, n_texts=1), tmp_path / "kept")
    flip(folder / "model.safetensors", -1)
    with pytest.raises(MissingCells, match=r"^1 of 1"):
        run(grid(folder, n_texts=1), tmp_path / "kept", missing="refuse")
    after = run(grid(folder, n_texts=1), tmp_path / "kept")
    assert {*before["key"]}.isdisjoint(after["key"])
    assert {*before["revision"]}.isdisjoint(after["revision"])
    with Store(tmp_path / "kept") as kept:
        assert kept.keys() == {*before["key"], *after["key"]}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_setting_of_the_model_is_another_cell(folders, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(folders["llama"], folder)
    (before,) = sweep.cells(grid(folder, n_texts=1))
    (folder / name).write_text((folder / name).read_text() + "\n")
    (after,) = sweep.cells(grid(folder, n_texts=1))
    assert before.text == after.text
    assert before.key != after.key


def test_a_changed_recipe_or_seed_is_another_cell(folders, tmp_path, monkeypatch):
    run(grid(folders["llama"], n_texts=1), tmp_path)
    run(grid(folders["llama"], n_texts=1), tmp_path, missing="refuse")
    with pytest.raises(MissingCells):
        run(grid(folders["llama"], n_texts=1, seed=1), tmp_path, missing="refuse")
    monkeypatch.setitem(fitting.RECIPES, "quick", replace(QUICK, patience=21))
    with pytest.raises(MissingCells):
        run(grid(folders["llama"], n_texts=1), tmp_path, missing="refuse")


@pytest.mark.slow
def test_an_error_on_the_way_keeps_what_was_finished(folders, tmp_path, monkeypatch):
    wanted, whole = grid(folders["llama"], n_texts=4), rows.run

    def broken(frozen, cells, **options):
        for number, made in enumerate(whole(frozen, cells, **options)):
            if number == 2:
                raise MemoryError
            yield made

    monkeypatch.setattr(rows, "run", broken)
    with pytest.raises(MemoryError):
        run(wanted, tmp_path / "broken")
    monkeypatch.setattr(rows, "run", whole)
    with Store(tmp_path / "broken") as kept:
        assert len(kept.keys()) == 2
    assert same(run(wanted, tmp_path / "broken"), run(wanted, tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "flush_seconds"), [(signal.SIGKILL, 0.0), (signal.SIGINT, 60.0), (signal.SIGTERM, 60.0)]
)
def test_after_a_signal_the_same_command_goes_on(folders, tmp_path, number, flush_seconds):
    kept = tmp_path / "kept"
    command = [sys.executable, "-c", IN_A_CHILD, str(kept), str(folders["llama"]), str(flush_seconds)]
    with subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        watchdog = threading.Timer(120, child.kill)
        watchdog.start()
        assert child.stdout.readline() == "under way\n"
        child.send_signal(number)
        assert child.wait() == (143 if number == signal.SIGTERM else -number)
        watchdog.cancel()
    files = {path.name: path.read_bytes() for path in kept.glob("*.parquet")}
    with Store(kept) as store:
        finished = store.read()
    assert finished["key"].n_unique() == 3
    wanted = grid(folders["llama"], n_texts=8)
    found = run(wanted, kept)
    assert same(found, run(wanted, tmp_path / "undisturbed"))
    assert found.join(finished, on="key", how="semi").equals(finished)
    assert not found.select("key", "probe").is_duplicated().any()
    assert files.items() <= {path.name: path.read_bytes() for path in kept.glob("*.parquet")}.items()


def test_progress_goes_to_standard_error(folders, tmp_path, capfd):
    sweep.run(grid(folders["llama"]), tmp_path)
    shown = capfd.readouterr()
    assert shown == ("", "")  # no terminal: a line a minute
    sweep.run(grid(folders["llama"]), tmp_path)  # nothing to do: nothing to show
    assert capfd.readouterr() == ("", "")


def test_measured_rows_lie_in_the_data_folder():
    assert sweep.measured() == Path(__file__).parent.parent / "data" / "measured" / "rows"


def test_examples_in_the_documentation():
    assert doctest.testmod(experiment) == (0, 1)


def test_a_length_past_the_context_is_refused_before_any_model_is_loaded(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load", None)
    experiments = sweep.grid(model=[str(folders["llama"])], source="random_tokens", length=[4, 64], n_texts=1)
    with pytest.raises(models.ModelError, match=r"64 tokens and 1 .* past the context"):
        sweep.run(experiments, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["teacher_forced", "decoded_back"])
def test_a_text_too_large_to_be_scored_or_decoded_ends_and_the_others_go_on(folders, tmp_path, monkeypatch, name):
    wanted = grid(folders["llama"], n_texts=3)
    undisturbed = run(wanted, tmp_path / "undisturbed")
    large, whole, seen = sweep.cells(wanted)[1], getattr(rows, name), []

    def limited(frozen, *arguments, **options):
        ids = arguments[1].flatten().tolist() if name == "teacher_forced" else list(arguments[1])
        if ids == list(large.text.ids)[: len(ids)] and (name == "teacher_forced" or arguments[0]):
            seen.append(len(ids))
            raise RuntimeError("CUDA error: out of memory")
        return whole(frozen, *arguments, **options)

    monkeypatch.setattr(rows, name, limited)
    found = run(wanted, tmp_path / "kept")
    assert seen
    assert same(found.filter(pl.col("key") != large.key), undisturbed.filter(pl.col("key") != large.key))
    ended = found.filter(key=large.key)
    assert set(ended["status"]) == {"oom"}
    assert ended.filter(pl.col("length") > 1)["bits_with"].is_nan().all()
    assert ended["decoded_tokens"].null_count() == ended.height
    assert ended["mem"].to_list() == undisturbed.filter(key=large.key)["mem"].to_list()
    assert metrics.exact_length(found, by=["model"])["n"].item() == 2  # in no mean


TOGETHER = """
import sys, time
from capacity import fitting, sweep
from capacity.fitting.recipes import Recipe
from capacity.sweep import engines
fitting.RECIPES["quick"] = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=25, patience=20)
check = engines.check
def wait(*arguments):  # until the others are there, too
    print("loaded", flush=True)
    sys.stdin.readline()
    check(*arguments)
engines.check = wait
same = {"source": "random_tokens", "recipe": "quick", "length": 6, "budget": 300, "device": "cpu"}
done = sweep.measure(sweep.grid(model=sys.argv[2], n_texts=40, **same), sys.argv[1], progress=False)
print(done.n_new, done.n_there, done.n_missing, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_share_the_work_and_an_heir_finishes_it(folders, tmp_path, killed):
    command = [sys.executable, "-c", TOGETHER, str(tmp_path / "kept"), str(folders["llama"])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes) for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "loaded\n"
    if killed:  # with a cell claimed and none measured
        children[0].kill()
        children.pop(0).communicate()
    for child in children:
        child.stdin.write("go\n" * 99)
        child.stdin.flush()
    counts = [[int(n) for n in child.communicate(timeout=120)[0].splitlines()[-1].split()] for child in children]
    assert [sum(one) for one in counts] == [40] * len(children)
    assert sum(n_new for n_new, *_ in counts) == 40  # none twice
    assert all(n_new > 0 for n_new, *_ in counts)
    wanted = grid(folders["llama"], n_texts=40)
    found = pl.concat([pl.read_parquet(shard) for shard in (tmp_path / "kept").glob("*.parquet")])
    assert not found.select("key", "probe").is_duplicated().any()
    assert same(run(wanted, tmp_path / "kept", missing="refuse"), run(wanted, tmp_path / "alone"))


def test_rows_say_what_their_source_spent_and_old_ones_are_told(folders, tokenizer, tmp_path):
    wanted = grid(folders["llama"], source=["random_tokens:4", "random_tokens", "embedded"], length=3, search="fixed")
    rows = run(wanted, tmp_path)
    ordinary = len(set(tokenizer.get_vocab().values()) - {*tokenizer.all_special_ids})
    bits = {"random_tokens:4": 6.0, "random_tokens": 3 * math.log2(ordinary), "embedded": None}
    assert [*rows["source_bits_low"]] == [*rows["source_bits_high"]] == [
        bits[source] and pytest.approx(bits[source]) for source in rows["source"]
    ]  # fmt: skip
    old = rows.with_columns(source_bits_low=pl.lit(None, pl.Float64), source_bits_high=pl.lit(None, pl.Float64))
    told = sweep.with_source_bits(old, sweep.cells(wanted))
    added = ("source_first_bits", "source_token_bits")
    assert told.drop(added).equals(rows)
    assert sweep.with_source_bits(told, sweep.cells(wanted)).equals(told)  # told twice
    first = {source: value and value / 3 for source, value in bits.items()}
    away = sweep.with_source_bits(rows, [])  # their models are elsewhere
    assert away.drop(added).equals(rows)
    for found in (told, away):
        for name in added:
            assert found[name].to_list() == [
                first[source] and pytest.approx(first[source]) for source in rows["source"]
            ]  # fmt: skip
    with pytest.raises(ValueError, match="the frame has no column bos"):
        sweep.with_source_bits(rows.drop("bos"), [])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["random_tokens:4", "random_words"])
def test_a_bos_of_the_texts_own_was_not_drawn(folders, source, tmp_path):
    wanted = grid(folders["llama"], source=source, length=5, search="fixed", bos="after_mem", n_texts=2, scored_from=1)
    rows = run(wanted, tmp_path)
    for cells in (sweep.cells(wanted), []):
        told = sweep.with_source_bits(rows, cells)
        if source == "random_tokens:4":
            assert told["source_bits_low"].to_list() == [8.0, 8.0]
            assert told["source_token_bits"].to_list() == [2.0, 2.0]
        if cells or source == "random_tokens:4":
            assert told["source_first_bits"].to_list() == [0.0, 0.0]
