"""The ladder as a file, trained by processes that are killed, measured, and the facts that travel."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import polars as pl
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from capacity import ladder, models, pretraining, resources

MINI = """
tokens = 20_000
warmup = 0.2
vocabulary = "llama-64"
[schedule]
begin = true
lengths = [128, 512]
weights = [0.8, 0.2]
"""
RUNG = """
[[rungs]]
width = {width}
depth = 1
heads = 1
inner = 32
seeds = {seeds}
"""


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """A ladder of widths 16, 24, 32, and where its models lie."""
    monkeypatch.setenv("CAPACITY_HOME", str(tmp_path / "home"))
    path = tmp_path / "mini.toml"
    rungs = [RUNG.format(width=width, seeds=[0, 1] if width == 16 else [0]) for width in (16, 24, 32)]
    path.write_text(MINI + "".join(rungs) + "checkpoints = [0.5]\nrate = 0.5\n")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.parquet"
    passages = [file.read_text() for file in sorted((resources.data() / "texts").glob("*.txt"))]
    pl.DataFrame({"text": passages}).write_parquet(path)
    return str(path)


def steps_in(state):
    return len(load_file(state)["losses"]) if state.is_file() else 0


def test_the_project_s_ladder_is_trained_seed_by_seed():
    own = ladder.read()
    trainings = own.trainings()
    seeds = [one.seed for one in trainings]
    assert seeds == sorted(seeds)
    main = {(one.rung.width, one.rung.depth, one.seed) for one in trainings if one.rung.rate == 1}
    assert main == {
        (width, depth, seed) for width, depth in [(32, 4), (64, 4), (128, 4), (64, 1), (64, 2), (64, 8), (192, 4)]
        for seed in range(2 if width == 192 else 3)
    }  # fmt: skip
    assert {(one.rung.width, one.rung.rate) for one in trainings if one.rung.rate != 1} == {
        (32, 0.5), (32, 2.0), (128, 0.5), (128, 2.0)
    }  # fmt: skip
    assert all(one.schedule.seed == one.schedule.order_seed == one.seed for one in trainings)
    assert all(one.schedule.tokens == 5_000_000 and one.schedule.begin for one in trainings)
    assert {one.schedule.peak / one.rung.rate for one in trainings} == {pretraining.Schedule(tokens=1).peak}
    (wide,) = [one for one in trainings if one.name == "w128-d4-s1"]
    assert wide.checkpoints == {"w128-d4-s1-at0.2": 1_000_000, "w128-d4-s1-at0.4": 2_000_000}
    for one in own.trainings(1_000_000):
        assert one.schedule.tokens == 1_000_000
        assert 0.06 <= one.schedule.warmup / one.schedule.steps < 0.062


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("wide = 3", "unknown wide; known are checkpoints, depth"),
        ("[[rungs]]\nwidth = 3", "missing"),
        (RUNG.format(width=16, seeds=[0]) * 2, "w16-d1-s0 are listed twice"),
    ],
)
def test_a_wrong_ladder_is_refused(line, message, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(MINI + RUNG.format(width=8, seeds=[0]) + line)
    with pytest.raises(ValueError, match=message):
        ladder.read(path)


def test_a_killed_training_goes_on_with_the_same_bits(mini, corpus, tmp_path):
    only = replace(ladder.read(mini), rungs=ladder.read(mini).rungs[-1:])
    code = f"""
from capacity import ladder, pretraining
import time
real = pretraining.train
def train(*given, watch, **options):
    def slowly(step, loss, model):
        watch(step, loss, model)
        time.sleep(0.3)
    return real(*given, watch=slowly, keep_seconds=0.0, **options)
pretraining.train = train
one = ladder.read({str(mini)!r})
ladder.train(ladder.replace(one, rungs=one.rungs[-1:]), corpus={corpus!r}, held_out={corpus!r})
"""
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    state = models.trained() / ".w32-d1-lr0.5-s0.safetensors"
    checkpoint = models.trained() / "w32-d1-lr0.5-s0-at0.5" / "training.json"
    waited = time.monotonic()
    while (n_made := steps_in(state)) < 7 and time.monotonic() - waited < 60:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 7 <= n_made < 10
    assert not (models.trained() / "w32-d1-lr0.5-s0").exists()
    saved = checkpoint.stat().st_mtime_ns
    made = ladder.train(only, corpus=corpus, held_out=corpus)
    assert checkpoint.stat().st_mtime_ns == saved  # of steps that were made before
    assert not state.exists()
    whole = ladder.train(only, corpus=corpus, held_out=corpus, out=tmp_path / "whole")
    assert made.equals(whole)
    assert whole["tokens"].to_list() == [10_240, 20_480]
    for name in whole["model"].str.strip_prefix(models.TRAINED):
        one, other = (load_file(place / name / "model.safetensors") for place in (models.trained(), tmp_path / "whole"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_is_done_once_and_by_one_process(mini, corpus):
    two = replace(ladder.read(mini), rungs=ladder.read(mini).rungs[:1])
    models.trained().mkdir(parents=True)
    with FileLock(models.trained() / ".w16-d1-s1.lock"):  # another process is at it
        assert ladder.train(two, corpus=corpus, held_out=corpus)["seed"].to_list() == [0]
    record = models.trained() / "w16-d1-s0" / "training.json"
    was = record.stat().st_mtime_ns
    found = ladder.train(two, corpus=corpus, held_out=corpus)
    assert found["seed"].to_list() == [0, 1]
    assert found["held_out_nats"].n_unique() == 2  # seeds differ
    assert record.stat().st_mtime_ns == was
    with pytest.raises(ValueError, match="was trained by another schedule"):
        ladder.train(two, corpus=corpus, held_out=corpus, tokens=30_000)


@pytest.mark.slow
def test_the_facts_travel_and_rows_of_models_elsewhere_are_found(mini, corpus, tmp_path, monkeypatch):
    made = ladder.read(mini)
    made = replace(made, rungs=(replace(made.rungs[0], seeds=(0,)), made.rungs[1]))
    found = ladder.train(made, corpus=corpus, held_out=corpus)
    found.write_csv(tmp_path / "ladder.csv")
    assert ladder.table(tmp_path / "ladder.csv").equals(found)
    assert found["width"].to_list() == [16, 24]
    record = json.loads((models.trained() / "w24-d1-s0" / "training.json").read_text())
    assert found["held_out_nats"][1] == record["held_out_nats_per_token"]
    settings = {"n_texts": 2, "length": 8, "search": "grow", "budget": 60}
    monkeypatch.setenv("CAPACITY_MEASURED", str(tmp_path / "measured" / "rows"))
    done = ladder.measure(found["model"], tmp_path / "store", **settings)
    assert (done.n_new, done.n_there, done.n_missing) == (4, 0, 0)
    assert set(done.rows["model"]) == set(found["model"]) == {"ladder:w16-d1-s0", "ladder:w24-d1-s0"}
    shutil.rmtree(models.trained() / "w16-d1-s0")
    again = ladder.measure(found["model"], tmp_path / "store", **settings)
    assert again.rows.equals(done.rows)
    assert (again.n_new, again.n_there, again.n_missing) == (0, 4, 0)
    lacking = ladder.measure(["ladder:w99-d1-s0"], tmp_path / "store", **settings)
    assert (lacking.n_missing, lacking.rows.height) == (2, 0)
    with pytest.raises(models.ModelError, match="is not in"):
        models.load("ladder:w16-d1-s0")
    with pytest.raises(models.ModelError, match="is not in"):
        models.locate("ladder:../w24-d1-s0")
    assert ladder.table().height == 0
