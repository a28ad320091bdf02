"""Many texts at once: company, order and queue change nothing; what memory does not hold runs in smaller batches."""

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs import random_ids, task_of

from capacity import fitting, models
from capacity.fitting import engine, slots
from capacity.fitting.engine import run
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.search import bracket, grow, stop
from capacity.fitting.slots import bucket_of, shape_of
from capacity.fitting.tasks import Advance, Task
from capacity.models import Frozen

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1)
FITS = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=12)


def of_all(task: Task) -> list[dict]:
    """Return what is known of each of a task's probes, apart from the vector and the time it took."""
    return [{k: v for k, v in vars(probe).items() if k not in ("mem", "seconds")} for probe in task.probes]


def same(one: Task, other: Task) -> bool:
    return of_all(one) == of_all(other) and all(
        torch.equal(a.mem, b.mem) for a, b in zip(one.probes, other.probes, strict=True)
    )


def alone(frozen: Frozen, make: Callable[[], list[Task]], recipe: Recipe, advance: Advance) -> dict[int, Task]:
    """Return each task by its tag, run without company."""
    return {task.tag: next(run(frozen, [task], recipe, advance)) for task in make()}


def test_more_texts_than_slots(tiny: Frozen) -> None:
    ids = random_ids(*range(57, 63), *range(57, 63))
    assert len(ids) > shape_of(tiny, 63, n_mem=1).slots

    def make() -> list[Task]:
        return [task_of(tiny, row, budget=60 * (1 + tag % 3), tag=tag) for tag, row in enumerate(ids)]

    ended = list(run(tiny, make(), HINGE, stop))
    assert [task.tag for task in ended] != sorted(task.tag for task in ended)
    expected = alone(tiny, make, HINGE, stop)
    assert len(ended) == len(expected) == 12
    assert all(same(task, expected[task.tag]) for task in ended)


@pytest.mark.slow
@pytest.mark.parametrize(("advance", "bos"), [(grow, "none"), (bracket, "none"), (bracket, "before_mem")])
def test_searches_in_any_order_and_alone(
    advance: Advance, bos: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(slots.SLOTS, "cpu", 32)
    frozen = models.load(str(folders["llama"]), device="cpu", bos=bos)
    ids = random_ids(*[9, 3, 14, 6, 1] * 7)  # more than run at once
    assert len(ids) > shape_of(frozen, 8, n_mem=2).slots

    def make() -> list[Task]:
        return [
            task_of(frozen, row, n_mem=2, length=1, budget=5 + tag, tag=tag, trace=tag % 2 == 0)
            for tag, row in enumerate(ids)
        ]

    recipe = dataclasses.replace(HINGE, steps=8)
    ended = {task.tag: task for task in run(frozen, make(), recipe, advance)}
    assert {probe.status for task in ended.values() for probe in task.probes} == {"solved", "stalled", "budget"}
    assert max(len(task.probes) for task in ended.values()) >= 3
    backwards = {task.tag: task for task in run(frozen, make()[::-1], recipe, advance)}
    assert len(ended) == len(backwards) == len(ids)
    assert all(same(ended[tag], backwards[tag]) for tag in ended)
    for task in make()[::9]:
        assert same(next(run(frozen, [task], recipe, advance)), ended[task.tag])


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["squared_hinge", "cross_entropy"])
def test_many_steps_are_the_same_bits_alone_and_in_company(loss: str, tiny: Frozen) -> None:
    """Also at the 31st, at which torch's powers of 0.9 differ between few and many of them."""
    recipe = Recipe(loss=loss, margin=50.0, lr=0.3, steps=60, patience=60)  # a margin that nothing reaches
    ids = random_ids(*[7] * 40)

    def vectors(some: list[list[int]]) -> list[torch.Tensor]:
        tasks = [task_of(tiny, row, tag=tag) for tag, row in enumerate(some)]
        done = sorted(run(tiny, tasks, recipe, stop), key=lambda task: task.tag)
        assert {task.probes[-1].steps for task in done} == {60}
        return [task.mem for task in done]

    together = vectors(ids)
    for some in (slice(0, 1), slice(5, 8), slice(20, 30)):
        for one, other in zip(vectors(ids[some]), together[some], strict=True):
            assert torch.equal(one, other)


def test_bos_before_the_vectors_changes_what_is_found(tiny: Frozen) -> None:
    ids = random_ids(5)
    begun = dataclasses.replace(tiny, bos="before_mem")
    found, without = (fitting.fit(frozen, ids, FITS, trace=True).curve[0] for frozen in (begun, tiny))
    mem, table = fitting.start(tiny, ids[0], n_mem=1, seed=0), tiny.model.get_input_embeddings()
    bos, text = table(torch.tensor([tiny.tokenizer.bos_token_id])), table(torch.tensor(ids[0]))
    logits = tiny.model(inputs_embeds=torch.cat([bos, mem, text])[None]).logits[0, 1:-1]
    nats = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[0]), reduction="sum")
    assert found.bits[0] * math.log(2) == pytest.approx(nats.item(), abs=1e-3)
    assert without.bits[0] != pytest.approx(found.bits[0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("smaller", [False, True])
def test_a_half_empty_bucket_waits_for_a_fuller_one_where_no_smaller_batch_does(
    smaller: bool, tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrowed(frozen: Frozen, recipe: Recipe, n_tasks: int, shape: Shape, compile: bool) -> Shape:
        return dataclasses.replace(shape, slots=min(n_tasks, shape.slots)) if smaller else shape

    monkeypatch.setattr(engine, "narrowed", narrowed)
    recipe = Recipe(loss="cross_entropy", lr=0.1, steps=6)
    ids = random_ids(*[57] * 8, *[5] * 6)

    def make() -> list[Task]:
        return [task_of(tiny, row, budget=57 if tag < 4 else None, tag=tag, trace=True) for tag, row in enumerate(ids)]

    ended = list(run(tiny, make(), recipe, stop))
    tags = [task.tag for task in ended]
    short, first, rest = [8, 9, 10, 11, 12, 13], [0, 1, 2, 3], [4, 5, 6, 7]
    # Put aside after the first step, and gone on with; or the shortest first, and all to the end.
    order = [short, first, rest] if smaller else [first, short, rest]
    assert [sorted(tags[at:end]) for at, end in itertools.pairwise(np.cumsum([0, *map(len, order)]))] == order
    if not smaller:  # which may not give the same bits
        expected = alone(tiny, make, recipe, stop)
        assert all(same(task, expected[task.tag]) for task in ended)
    assert {task.tag: task.probes[0].steps for task in ended} == dict.fromkeys(short + rest, 6) | dict.fromkeys(
        first, 1
    )


@pytest.mark.slow
def test_other_numbers_of_vectors_and_growth_in_one_run(loaded: dict[str, Frozen]) -> None:
    frozen = loaded["neox"]
    ids = random_ids(4, 4, 3, 12)

    def make() -> list[Task]:
        return [
            task_of(frozen, row, n_mem=n_mem, length=1, budget=40, tag=tag)
            for tag, (row, n_mem) in enumerate(zip(ids, (1, 4, 2, 4), strict=True))
        ]

    recipe = dataclasses.replace(HINGE, steps=25)
    ended = list(run(frozen, make(), recipe, grow))
    assert {probe.status for task in ended for probe in task.probes} == {"solved", "budget"}
    expected = alone(frozen, make, recipe, grow)
    assert len(ended) == len(expected)
    assert all(same(task, expected[task.tag]) for task in ended)
    assert all(probe.mem.shape[0] == task.mem.shape[0] for task in ended for probe in task.probes)


@pytest.mark.parametrize(("n_mem", "length"), [(1, 63), (4, 60), (30, 34)])
def test_padding_ends_where_the_context_does(n_mem: int, length: int, frozen: Frozen) -> None:
    (found,) = run(frozen, [task_of(frozen, *random_ids(length), n_mem=n_mem)], FITS, stop)
    assert n_mem + length == frozen.context
    assert n_mem + bucket_of(length) - 1 >= frozen.context
    assert [(probe.length, probe.status, probe.steps) for probe in found.probes] == [(length, "stalled", 12)]


@pytest.mark.parametrize("place", [0, 5])
def test_what_is_not_finite_touches_no_neighbour(place: int, tiny: Frozen) -> None:
    ids = random_ids(4, 6, 5, 7, 3, 8)

    def make(broken: int | None) -> list[Task]:
        starts = [fitting.start(tiny, row, n_mem=2, seed=0) for row in ids]
        if broken is not None:
            starts[broken][1, 3] = float("nan")
        return [task_of(tiny, row, n_mem=2, init=starts[tag], tag=tag, trace=True) for tag, row in enumerate(ids)]

    healthy = {task.tag: task for task in run(tiny, make(None), FITS, stop)}
    found = {task.tag: task for task in run(tiny, make(place), FITS, stop)}
    assert [(probe.status, probe.steps, probe.n_correct) for probe in found[place].probes] == [("diverged", 0, 0)]
    assert all(same(found[tag], healthy[tag]) for tag in range(6) if tag != place)


def test_who_left_for_a_shorter_length_goes_on_where_the_next_has_no_room(
    tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = engine.Batch.step

    def short(self: engine.Batch, advance: Advance) -> list[Task]:
        if self.tasks[0] is not None and self.tasks[0].tag == 1:
            raise MemoryError
        return step(self, advance)

    monkeypatch.setattr(engine, "shape_of", lambda frozen, length, n_mem, compile: Shape(n_mem, 8, 1))
    monkeypatch.setattr(engine.Batch, "step", short)
    tasks = [task_of(tiny, row, tag=tag) for tag, row in enumerate(random_ids(6, 6))]
    recipe = dataclasses.replace(HINGE, steps=1)
    ended = {task.tag: task for task in run(tiny, tasks, recipe, lambda task, right: 5 if task.length == 6 else None)}
    assert [(probe.length, probe.status) for probe in ended[0].probes] == [(6, "stalled"), (5, "stalled")]
    assert [probe.status for probe in ended[1].probes] == ["oom"]


def test_no_task_is_lost_where_telling_of_a_step_runs_out_of_memory(tiny: Frozen) -> None:
    told = []

    def fail(token_steps: int) -> None:
        told.append(token_steps)
        if len(told) == 4:
            raise MemoryError

    recipe = dataclasses.replace(HINGE, steps=3)
    tasks = [task_of(tiny, row, tag=tag) for tag, row in enumerate(random_ids(6, 6, 6, 5))]
    assert sorted(task.tag for task in run(tiny, tasks, recipe, stop, stepped=fail)) == [0, 1, 2, 3]
    assert len(told) >= 4


def test_nothing_to_do(tiny: Frozen) -> None:
    assert list(run(tiny, [], HINGE, stop)) == []


# Runs of a wide model with all memory, and with a part of what a batch is predicted to take. Its argument: the parts.
IN_A_CHILD = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from capacity import fitting, models
from capacity.fitting import batch, engine, memory, search, slots
from capacity.fitting.recipes import Recipe

torch.set_num_threads(1)
torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=2**13, num_hidden_layers=1,
                     num_attention_heads=2, max_position_embeddings=128)
frozen = models.freeze(LlamaForCausalLM(config), None, name="wide", revision="")
made, begin = [], batch.Batch.__init__

def watched(self, frozen, recipe, shape, **options):
    made.append((shape.bucket, shape.slots))
    begin(self, frozen, recipe, shape, **options)

batch.Batch.__init__ = watched
generator = torch.Generator().manual_seed(0)
ids = [torch.randint(0, 64, (length,), generator=generator).tolist() for length in [60] * 8 + [5] * 4]
recipe = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=1)

def ended(part):
    made.clear()
    tasks = [fitting.task(frozen, row, n_mem=1, seed=0, length=len(row), scored_from=0, tag=tag, trace=True)
             for tag, row in enumerate(ids)]
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    if part is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        room = part * memory.predicted_bytes(frozen, memory.Shape(1, 64, 8))
        resource.setrlimit(resource.RLIMIT_AS, (int(taken + room), unlimited[1]))
    try:
        found = sorted(engine.run(frozen, tasks, recipe, search.stop), key=lambda task: task.tag)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
    return {
        "made": list(made),
        "probes": [[(p.length, p.status, p.steps, p.n_correct, p.n_scored, p.mem.isfinite().all().item(),
                     len(p.curve.right)) for p in task.probes] for task in found],
        "bits": [task.probes[-1].curve.bits for task in found],
    }

print(json.dumps([ended(None if part == "all" else float(part)) for part in sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def limited() -> list[dict]:
    """Return what came out with all memory, with half of what a batch is predicted to take, and with a 20th of it."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no limit on a process's memory that holds")
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", IN_A_CHILD, "all", "0.5", "0.05"]
    gives_back = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # at once what is freed, so that what is left is what was set
    done = subprocess.run(command, env=os.environ | gives_back, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_the_same_comes_out(limited: list[dict]) -> None:
    whole, half, _ = limited
    assert [bucket for bucket, _ in whole["made"]] == [8, 64]
    assert whole["made"][1] == [64, 8]
    slots = [slots for bucket, slots in half["made"] if bucket == 64]
    assert slots in ([8, 4], [8, 4, 2], [8, 4, 2, 1])
    assert half["probes"] == whole["probes"]
    assert {status for ((_, status, *_),) in whole["probes"]} == {"stalled"}
    for one, other in zip(half["bits"], whole["bits"], strict=True):
        assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.slow
def test_a_text_that_does_not_fit_alone_ends_and_the_others_go_on(limited: list[dict]) -> None:
    whole, _, little = limited
    assert [slots for bucket, slots in little["made"] if bucket == 64] == [8, 4, 2, 1]
    assert little["probes"][:8] == [[[60, "oom", 0, 0, 60, True, 0]]] * 8
    assert little["probes"][8:] == whole["probes"][8:]
