"""`make gpu` rehearsed on a processor, with small shapes: all but the device is what will run."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import gpu
import polars as pl
import pytest
import torch
from transformers import LlamaConfig

from capacity import benchmark, models
from capacity.fitting import graph, slots

pytestmark = pytest.mark.slow

SMALL = partial(
    LlamaConfig, vocab_size=600, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
)
TESTS = """import pytest

@pytest.mark.cuda
def test_one():
    assert {}

def test_of_another_kind():
    assert False
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpu.Plan:
    monkeypatch.setitem(benchmark.SHAPES, "small", SMALL)
    monkeypatch.setitem(slots.SLOTS, "cpu", 2)
    monkeypatch.setattr(torch, "compile", lambda traced, **options: traced)  # minutes
    monkeypatch.setattr(graph, "_COMPILED", type(graph._COMPILED)())
    gpu.loaded.cache_clear()
    tests = tmp_path / "test_some.py"
    tests.write_text(TESTS.format(True))
    return gpu.Plan(
        device="cpu", shapes=["small"], lengths=[2, 9], launched=[2, 9], tests=str(tests), real=["llama-64"], repeats=1,
        seconds=0.0, n_texts=2, longest=4, budget=12,
    )  # fmt: skip


def test_all_parts_are_measured_once(plan: gpu.Plan, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with torch.random.fork_rng():
        assert gpu.measure(tmp_path / "out", plan, gpu.here) == 0
    made = {path.stem: pl.read_csv(path) for path in (tmp_path / "out").glob("*.csv")}
    assert set(made) == {
        "suite", *(f"arithmetic-llama-64-{dtype}" for dtype in models.DTYPES),
        *(f"{kind}-small-{dtype}-{n}" for kind, dtype in [("rates", "bfloat16"), ("rates", "float32"),
                                                           ("captured", "bfloat16"), ("compiled", "bfloat16")]
          for n in (2, 9)),
    }  # fmt: skip
    for table in made.values():
        assert {"machine", "versions", "date", "device"} <= set(table.columns)
        assert json.loads(table["versions"][0])["torch"] == torch.__version__
        assert set(table["device"]) == {"cpu"}
    assert made["suite"].select("test", "outcome").rows() == [("test_one", "passed")]
    rates = made["rates-small-bfloat16-9"]
    assert rates.select("recipe", "method", "length").rows() == [
        ("paper", "plain", 9), ("paper", "engine", 9), ("default", "engine", 9)
    ]  # fmt: skip
    assert rates["predicted_bytes"].null_count() == 1  # of the plain procedure
    assert rates.drop_nulls("slots").select("slots", "bucket").unique().rows() == [(2, 12)]
    assert (rates["rate"] > 0).all()
    assert made["compiled-small-bfloat16-2"]["method"].to_list() == ["plain", "engine", "compiled"]
    assert made["compiled-small-bfloat16-2"]["fell_back"].to_list() == [None, False, False]
    assert made["captured-small-bfloat16-2"]["fell_back"].to_list() == [None, False, True]  # no GPU to record on
    assert (made["captured-small-bfloat16-2"]["made_seconds"].drop_nulls() > 0).all()
    for dtype in models.DTYPES:
        assert made[f"arithmetic-llama-64-{dtype}"].select("dtype", "n").rows() == [(dtype, 2)]
    summary = (tmp_path / "out" / "summary.md").read_text().splitlines()
    assert sum(line.startswith("| random:small, bfloat16, paper | 9 |") for line in summary) == 8
    assert sum(line.startswith("| llama-64 | bfloat16 |") for line in summary) == 1
    assert "12 parts are in" in capsys.readouterr().out


def test_what_was_cut_goes_on_and_what_fails_stops_no_other(plan: gpu.Plan, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", []

    def run(folder: Path, plan: gpu.Plan, parts: list, seconds: float) -> bool:
        asked.append([gpu.path_of(folder, part).stem for part in parts])
        assert 0 < seconds <= 600
        for part in parts[:1]:  # the second of several is cut
            if part[0] != "arithmetic":
                gpu.files.write(gpu.path_of(folder, part), b"recipe,dtype\n")
        return False

    searches = [f"arithmetic-llama-64-{dtype}" for dtype in models.DTYPES]

    def no_summary(*_: object) -> str:
        return ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "told", no_summary)
        assert gpu.measure(out, plan, run) == 5
        first, asked = asked, []
        assert gpu.measure(out, plan, run) == 3
        assert first == [
            ["suite"], ["rates-small-bfloat16-2", "rates-small-bfloat16-9"],
            ["captured-small-bfloat16-2"], ["captured-small-bfloat16-9"], searches,
            ["compiled-small-bfloat16-2"], ["compiled-small-bfloat16-9"],
            ["rates-small-float32-2", "rates-small-float32-9"],
        ]  # fmt: skip
        assert asked == [["rates-small-bfloat16-9"], searches, ["rates-small-float32-9"]]
        asked.clear()
        assert gpu.measure(out, dataclasses.replace(plan, minutes=0.0), run) == 3
        assert asked == []


def test_a_suite_that_fails_is_not_kept(plan: gpu.Plan, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Path(plan.tests).write_text(TESTS.format(False))
    assert not gpu.here(tmp_path, plan, [("suite",)], 0.0)
    assert "test_one" in capsys.readouterr().err
    assert pl.read_csv(tmp_path / "suite.failed.csv")["outcome"].to_list() == ["failure"]
    assert not (tmp_path / "suite.csv").exists()


def test_parts_run_in_a_process_of_their_own(plan: gpu.Plan, tmp_path: Path) -> None:
    assert not gpu.apart(tmp_path, plan, [("suite",), ("rates", "no-such-shape", "float32", "2")], 120.0)
    assert pl.read_csv(tmp_path / "suite.csv")["outcome"].to_list() == ["passed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert gpu.main([str(tmp_path / "out")]) == 1
    assert "sees no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
