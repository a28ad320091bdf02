"""What the benchmark counts and compares; how fast a machine is, no test can say."""

import csv
import dataclasses
import json
import math
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from capacity import benchmark, fitting, models, provenance
from capacity.fitting import graph, slots, step
from capacity.fitting.recipes import RECIPES, Recipe
from capacity.models import Frozen, ModelError

pytestmark = pytest.mark.slow

PAPER = RECIPES["paper"]
FAST = Recipe(loss="hinge", margin=0.05, lr=0.3)
IDS = [17, 250, 3, 99, 3, 140]
CPU = torch.device("cpu")
SLOTS = 4


@pytest.fixture(autouse=True)
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch be small, so that its steps are quick."""
    monkeypatch.setitem(slots.SLOTS, "cpu", SLOTS)


# The plain procedure


@pytest.mark.parametrize(
    ("kind", "n_mem", "scored_from"), [("llama", 1, 0), ("llama", 2, 1), ("neox", 1, 1), ("gemma", 1, 0)]
)
def test_the_plain_procedure_is_the_engines_paper_fit(
    kind: str, n_mem: int, scored_from: int, loaded: dict[str, Frozen]
) -> None:
    steps, options = 12, {"n_mem": n_mem, "scored_from": scored_from, "seed": 5}
    recipe = dataclasses.replace(PAPER, steps=steps)
    (curve,) = fitting.fit(loaded[kind], [IDS], recipe, trace=True, **options).curve
    assert curve is not None
    found = benchmark.plain(loaded[kind], IDS, PAPER, steps=steps + 1, **options)
    assert found[0] - found[-1] > 0.1  # it moves, downwards
    nats = [bits * math.log(2) / (len(IDS) - scored_from) for bits in curve.bits]
    assert found == pytest.approx(nats, abs=1e-4)


def test_the_plain_procedure_ends_with_all_tokens_right_if_asked_to(tiny: Frozen) -> None:
    recipe = dataclasses.replace(PAPER, lr=0.1)
    found = fitting.fit(tiny, [IDS[:1]], recipe)
    assert found.status == ["solved"]
    (updates,) = found.steps
    assert updates > 1
    ending = benchmark.plain(tiny, IDS[:1], recipe, steps=200, stop=True)
    assert len(ending) == updates + 1  # the last is only scored
    on = benchmark.plain(tiny, IDS[:1], recipe, steps=updates + 3)
    assert on[: updates + 1] == ending
    assert len(on) == updates + 3


# Models


@pytest.mark.parametrize(
    ("shape", "n_parameters"),
    [
        ("pythia-160m", 162_322_944),
        ("pythia-1.4b", 1_414_647_808),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.1-8b", 8_030_261_248),
        ("smollm2-135m", 134_515_008),
        ("gemma3-270m", 268_098_176),
    ],
)
def test_a_shape_has_the_published_number_of_parameters(shape: str, n_parameters: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(benchmark.SHAPES[shape]())
    assert model.num_parameters() == n_parameters


def test_a_random_model_of_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(
        LlamaConfig, vocab_size=600, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    monkeypatch.setitem(benchmark.SHAPES, "small", small)
    with torch.random.fork_rng():
        one, again = (benchmark.load("random:small", device="cpu", dtype="bfloat16") for _ in range(2))
    facts = one.facts()
    assert (facts["model"], facts["revision"], facts["dtype"]) == ("random:small", "random", "bfloat16")
    assert (facts["architecture"], facts["vocab_size"], one.dim) == ("LlamaForCausalLM", 600, 16)
    assert not one.model.training
    pairs = list(zip(one.model.parameters(), again.model.parameters(), strict=True))
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in pairs)
    assert one.model.get_input_embeddings().weight.std() > 0
    assert benchmark.plain(one, [1, 2], PAPER, steps=1)[0] == pytest.approx(math.log(600), rel=0.1)


def test_any_other_name_is_that_of_a_model(folders: dict[str, Path]) -> None:
    name = str(folders["llama"])
    assert benchmark.load(name, device="cpu").facts() == models.load(name, device="cpu").facts()
    with pytest.raises(ModelError, match="no-such-model"):
        benchmark.load("no-such-model")


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("random:pythia", "float32", "unknown shape 'pythia'; known are pythia-160m, .*llama-3.1-8b"),
        ("random:", "float32", "unknown shape ''; known are"),
        ("random:llama-3.1-8b", "int8", "unknown dtype 'int8'; known are float32, bfloat16, float16"),
    ],
)
def test_an_unknown_random_model_is_refused_before_it_is_made(name: str, dtype: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        benchmark.load(name, device="cpu", dtype=dtype)


def test_a_model_is_timed_on_the_threads_of_its_fits(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, before = [], torch.get_num_threads()
    monkeypatch.setenv("CAPACITY_THREADS", str(before + 1))
    monkeypatch.setattr(benchmark, "timed", lambda *a, **k: seen.append(torch.get_num_threads()) or (1, 1.0))
    benchmark.rates(tiny, PAPER, lengths=[2], methods=["engine"], repeats=1)
    benchmark.growth_rate(tiny, [[1, 2]], PAPER, budget=4)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


# What is counted


@pytest.mark.parametrize("kind", ["llama", "neox", "grouped"])
@pytest.mark.parametrize(
    ("length", "n_mem", "loss"), [(8, 1, "cross_entropy"), (48, 1, "squared_hinge"), (8, 4, "cross_entropy")]
)
def test_flop_of_a_token_step_are_those_that_are_counted(
    kind: str, length: int, n_mem: int, loss: str, folders: dict[str, Path]
) -> None:
    frozen = models.load(str(folders[kind]), device="cpu", attention="eager")  # whose products are counted
    recipe = dataclasses.replace(PAPER, loss=loss, margin=50.0)
    one = benchmark.bench(frozen, recipe, length=length, n_mem=n_mem)
    with FlopCounterMode(display=False) as counter:
        token_steps = one.step()
    positions = length + n_mem - 1
    ahead = 6 * 2 * 32 * positions**2  # half of the scores, in 2 layers of width 32: eager attention makes all of them
    vectors = sum(weight.numel() for weight in frozen.model.parameters() if weight.ndim == 1)  # they don't multiply
    each = benchmark.flop_per_token_step(frozen, length, n_mem=n_mem, loss=loss)
    expected = each * length + ahead - 4 * vectors * positions
    assert counter.get_total_flops() / token_steps == pytest.approx(expected / length, rel=1e-9)


def test_the_peak_is_what_was_multiplied_by_the_time_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = 0.25

    def once(work: Callable[[], int], device: torch.device, *, seconds: float) -> tuple[int, float]:
        return work(), spent

    monkeypatch.setattr(benchmark, "timed", once)
    with FlopCounterMode(display=False) as counter:
        found = benchmark.peak_flops(CPU, torch.float32)
    assert counter.get_total_flops() == 2 * found * spent  # once to warm up, once for the clock


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_work_is_repeated_for_a_while_and_at_least_twice(seconds: float) -> None:
    calls = []
    done, spent = benchmark.timed(lambda: calls.append(1) or 7, CPU, seconds=seconds)
    assert done == 7 * len(calls)
    assert spent >= seconds
    assert len(calls) == 2 if seconds == 0 else len(calls) >= 2


@pytest.mark.parametrize(("length", "texts"), [(1, None), (1, 2), (9, 3)])
def test_slots_are_busy_again_at_once(length: int, texts: int | None, tiny: Frozen) -> None:
    one = benchmark.bench(tiny, FAST, length=length, texts=texts)
    batch = one.batch
    assert one.tasks == (texts or SLOTS) <= len(batch.tasks) <= SLOTS
    n_steps = 40
    for _ in range(n_steps):
        assert one.step() == one.tasks * length
        assert batch.under_way == one.tasks
    tasks = [task for task in batch.tasks if task is not None]
    assert all(len(task.ids) == task.length == length for task in tasks)
    # Every fit is scored once more than it is moved; the last ones go on.
    scored = sum(probe.steps + 1 for task in tasks for probe in task.probes) + sum(task.steps for task in tasks)
    assert scored == n_steps * one.tasks
    if length == 1:
        assert max(len(task.probes) for task in tasks) > 2
        assert {probe.status for task in tasks for probe in task.probes} == {"solved"}
        again = [task for task in tasks if len(task.probes) > 1]
        afresh = fitting.fit(tiny, [task.ids for task in again], FAST, seed=0)
        assert max(afresh.steps) > 0
        for task, steps, mem in zip(again, afresh.steps, afresh.mem, strict=True):
            assert {probe.steps for probe in task.probes[1:]} == {steps}
            assert all(torch.equal(probe.mem, mem) for probe in task.probes[1:])


# Rates


def peaks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the peak be another one each time, and return those that were given out."""
    given: list[float] = []

    def peak_flops(device: torch.device, dtype: torch.dtype, *, seconds: float) -> float:
        given.append(1e9 * (1 + len(given)))
        return given[-1]

    monkeypatch.setattr(benchmark, "peak_flops", peak_flops)
    return given


def test_rates(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    given = peaks(monkeypatch)
    found = benchmark.rates(tiny, PAPER, lengths=[2, 9], n_mem=2, repeats=2, seconds=0.0)
    assert found.columns == ["model", "length", "n_mem", "texts", "method", "repeat", "rate", "share", "peak"]
    order = [(length, repeat, method) for length in (2, 9) for repeat in (0, 1) for method in ("plain", "engine")]
    assert found.select("length", "repeat", "method").rows() == order
    assert found["peak"].to_list() == [peak for peak in given for _ in range(2)]
    assert set(found["model"]) == {tiny.name}
    assert set(found["n_mem"]) == {2}
    for row in found.iter_rows(named=True):
        assert row["texts"] == (1 if row["method"] == "plain" else SLOTS)
        cost = benchmark.flop_per_token_step(tiny, row["length"], n_mem=2)
        assert row["share"] == pytest.approx(row["rate"] * cost / row["peak"])
        assert row["rate"] > 0


def test_rates_count_all_that_was_done(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks(monkeypatch)
    calls = []
    handle = tiny.model.register_forward_pre_hook(lambda *_: calls.append("plain"))
    below = tiny.model.base_model.register_forward_pre_hook(lambda *_: calls.append("any"))

    def once(work: Callable[[], int], device: torch.device, *, seconds: float) -> tuple[int, float]:
        calls.clear()
        return work(), 1 / max(1, calls.count("plain"))  # a second for each call of the model, upside down

    monkeypatch.setattr(benchmark, "timed", once)
    try:
        found = benchmark.rates(tiny, PAPER, lengths=[3], texts=2, repeats=1)
    finally:
        handle.remove()
        below.remove()
    plain, engine = found["rate"]
    assert plain == pytest.approx(3 * 5**2)  # five calls of the model, five steps of three tokens
    assert engine == 2 * 3
    assert found["texts"].to_list() == [1, 2]


def test_a_compiled_rate_is_one_of_compiled_steps(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks(monkeypatch)
    made = []

    def compiled(frozen: Frozen, recipe: Recipe, *, like: tuple, how: bool | str, **options) -> step.Step:
        made.append(like[1].shape)
        return step.step(frozen, recipe, **options)

    monkeypatch.setattr(graph, "compiled", compiled)
    options = {"lengths": [2], "texts": 1, "repeats": 1, "seconds": 0.0}
    benchmark.rates(tiny, PAPER, methods=["engine"], **options)
    assert made == []
    for method in ("compiled", "captured"):
        made.clear()
        found = benchmark.rates(tiny, PAPER, methods=[method], **options)
        assert made == [(SLOTS, 7, 32)] * 3  # one call first, then two for the clock
        assert found["method"].to_list() == [method]


def test_unknown_methods_are_refused(tiny: Frozen) -> None:
    with pytest.raises(
        ValueError, match=r"unknown methods \['fast', 'lazy'\]; known are plain, engine, captured, compiled"
    ):
        benchmark.rates(tiny, PAPER, lengths=[2], methods=["lazy", "engine", "fast"])


def test_medians_by_hand() -> None:
    rates = {"plain": [10.0, 20.0, 16.0], "engine": [50.0, 60.0, 160.0]}
    table = pl.DataFrame([
        {"model": "m", "length": 4, "n_mem": 1, "texts": 1 if method == "plain" else 8, "method": method,
         "repeat": repeat, "rate": rate, "share": rate / 1000, "peak": 1e9}
        for repeat in range(3) for method in rates for rate in [rates[method][repeat]]
    ] + [
        {"model": "other", "length": 4, "n_mem": 1, "texts": 8, "method": "engine", "repeat": 0, "rate": 7.0,
         "share": 0.5, "peak": 1e9},
    ])  # fmt: skip
    found = benchmark.medians(table)
    expected = pl.DataFrame({
        "model": ["m", "m", "other"], "length": [4] * 3, "n_mem": [1] * 3, "texts": [1, 8, 8],
        "method": ["plain", "engine", "engine"], "low": [10.0, 50.0, 7.0], "high": [20.0, 160.0, 7.0],
        "rate": [16.0, 60.0, 7.0], "ratio": [1.0, 5.0, None],  # 5, 3 and 10 times, turn by turn; not 60 / 16
        "share": [0.016, 0.06, 0.5],
    })  # fmt: skip
    assert_frame_equal(found, expected)
    assert benchmark.medians(table.clear()).schema == found.schema


def test_the_share_of_a_search_is_a_quotient(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, budget = [IDS[:4], [7, 7, 8]], 60

    def slow(work: Callable[[], int], device: torch.device, *, seconds: float) -> tuple[int, float]:
        done = work()
        return done, done * done / SLOTS  # seconds a token-step: the length

    monkeypatch.setattr(benchmark, "timed", slow)
    found = benchmark.growth_rate(tiny, ids, FAST, budget=budget)
    assert found.keys() == {"texts", "rate", "bare", "share"}
    assert found["texts"] == 2
    assert found["share"] == pytest.approx(found["rate"] / found["bare"])
    probes = [probe for one in fitting.exact_length(tiny, ids, FAST, budget=budget) for probe in one.probes]
    assert len({probe.length for probe in probes}) > 2
    token_steps = [probe.length * probe.steps for probe in probes]
    seconds = sum(n * probe.length for n, probe in zip(token_steps, probes, strict=True))
    assert found["bare"] == pytest.approx(sum(token_steps) / seconds)
    assert found["rate"] > 0


# What is kept


TABLE = pl.DataFrame({"method": ["plain", "engine"], "rate": [1 / 3, 2e7], "ratio": [None, 1.5], "length": [4, 8]})


def test_a_table_is_measured_once(tmp_path: Path) -> None:
    calls, path = [], tmp_path / "some" / "folder" / "rates.csv"

    def measure() -> pl.DataFrame:
        calls.append(1)
        return TABLE

    first = benchmark.kept(path, measure)
    again = benchmark.kept(str(path), measure)
    assert len(calls) == 1
    assert_frame_equal(first, again)
    assert_frame_equal(first.select(TABLE.columns), TABLE, check_exact=True)
    assert [file.name for file in path.parent.iterdir()] == ["rates.csv"]
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*TABLE.columns, "machine", "versions", "date"]
    for row in rows:
        assert row["machine"] == provenance.machine()
        assert json.loads(row["versions"]) == provenance.versions()
        assert row["date"][:2] == "20"
        assert len(row["date"]) == 10


def test_what_is_there_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("rate\n12.5\n")

    def measure() -> pl.DataFrame:
        pytest.fail("measured again")

    assert benchmark.kept(path, measure).rows() == [(12.5,)]
    assert path.read_text() == "rate\n12.5\n"


@pytest.mark.parametrize("left", [0, 3, 30, 100, -1], ids=["empty", "header", "header or row", "row", "line end"])
def test_a_table_that_was_cut_is_set_aside_and_measured_again(left: int, tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    whole = benchmark.kept(path, lambda: TABLE)
    data = path.read_bytes()
    path.write_bytes(data[:left])
    with pytest.warns(UserWarning, match=r"rates.csv was cut short or is empty: it is .*rates.csv.damaged now"):
        assert_frame_equal(benchmark.kept(path, lambda: TABLE), whole)
    assert path.read_bytes() == data
    assert (tmp_path / "rates.csv.damaged").read_bytes() == data[:left]


def test_a_measurement_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rates.csv"

    def measure() -> pl.DataFrame:
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        benchmark.kept(path, measure)
    assert list(tmp_path.rglob("*.csv*")) == []
    assert benchmark.kept(path, lambda: TABLE)["rate"].to_list() == TABLE["rate"].to_list()


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    path, large = tmp_path / "rates.csv", pl.DataFrame({"rate": range(50_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            benchmark.kept(path, lambda: large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    assert benchmark.kept(path, lambda: large)["rate"].sum() == large["rate"].sum()
