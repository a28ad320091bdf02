"""The loop: its steps are AdamW's, growth keeps its state, and company changes nothing."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from capacity import fitting
from capacity.decoding import decoded_tokens, free_running
from capacity.engine import Batch, Recipe, Task, bucket_of, run, slots_of
from capacity.models import Frozen
from capacity.search import grow

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1)


def random_ids(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 300, (length,), generator=generator).tolist() for length in lengths]


def random_mem(frozen: Frozen, n_mem: int, seed: int = 1) -> Tensor:
    return torch.randn(n_mem, frozen.dim, generator=torch.Generator().manual_seed(seed)) * frozen.embedding_std


def task_of(frozen: Frozen, ids: list[int], *, n_mem: int = 1, length: int | None = None, **options) -> Task:
    options = {"seed": 0, "scored_from": 0} | options
    return fitting.task(frozen, ids, n_mem=n_mem, length=length or len(ids), **options)


def stay(task: Task, right: int) -> None:
    """Never ask for more than the first length."""


def of_all(task: Task) -> list[dict]:
    """Return what is known of each of a task's probes, apart from the vector and the time it took."""
    return [{k: v for k, v in vars(probe).items() if k not in ("mem", "seconds")} for probe in task.probes]


def same(one: Task, other: Task) -> bool:
    return of_all(one) == of_all(other) and all(
        torch.equal(a.mem, b.mem) for a, b in zip(one.probes, other.probes, strict=True)
    )


@pytest.mark.parametrize(
    ("length", "bucket"), [(1, 4), (4, 4), (5, 8), (16, 16), (17, 24), (64, 64), (65, 96), (97, 128), (1000, 1024)]
)
def test_buckets(length: int, bucket: int) -> None:
    assert bucket_of(length) == bucket_of(bucket) == bucket


@pytest.mark.parametrize(
    ("bucket", "kind", "slots"),
    [(8, "cpu", 32), (16, "cpu", 16), (32, "cpu", 8), (512, "cpu", 8), (8, "cuda", 256), (128, "cuda", 128)],
)
def test_slots(bucket: int, kind: str, slots: int) -> None:
    assert slots_of(bucket, torch.device(kind)) == slots


def hinge(logits: Tensor, target: Tensor) -> Tensor:
    others = logits.masked_fill(torch.nn.functional.one_hot(target, logits.shape[-1]).bool(), float("-inf"))
    return torch.relu(0.05 - logits.gather(-1, target[:, None])[:, 0] + others.amax(-1))


def logits_of(frozen: Frozen, mem: Tensor, ids: Sequence[int]) -> Tensor:
    """Return the logits (tokens, vocab) that predict `ids`, by the model's own forward pass."""
    text = frozen.model.get_input_embeddings()(torch.tensor(ids))
    return frozen.model(inputs_embeds=torch.cat([mem, text]).unsqueeze(0)).logits[0, len(mem) - 1 : -1]


class Plain:
    """One vector moved by torch.optim.AdamW."""

    def __init__(self, frozen: Frozen, ids: list[int], mem: Tensor, recipe: Recipe):
        self.frozen, self.ids, self.mem = frozen, ids, mem.clone().requires_grad_()
        self.optimizer = torch.optim.AdamW(
            [self.mem], lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, eps=recipe.eps
        )

    def step(self, length: int) -> None:
        self.optimizer.zero_grad()
        target = torch.tensor(self.ids[:length])
        hinge(logits_of(self.frozen, self.mem, self.ids)[:length], target).mean().backward()
        self.optimizer.step()

    @torch.no_grad()
    def leading(self) -> int:
        right = logits_of(self.frozen, self.mem, self.ids).argmax(-1) == torch.tensor(self.ids)
        return int(right.long().cumprod(0).sum())


def test_steps_are_those_of_adamw(tiny: Frozen) -> None:
    recipe = dataclasses.replace(HINGE, lr=0.03, betas=(0.8, 0.95), weight_decay=2.0, eps=1e-3)
    ids = random_ids(8, 7)
    batch = Batch(tiny, recipe, n_mem=2, bucket=8, scored_from=0)
    plain: dict[int, Plain] = {}
    for step in range(12):
        if step in (0, 4):  # the second text comes later: its moments and their correction are its own
            slot = len(plain)
            batch.put(slot, task_of(tiny, ids[slot], n_mem=2))
            plain[slot] = Plain(tiny, ids[slot], batch.mem[slot], recipe)
        assert batch.step(stay) == []
        for slot, one in plain.items():
            one.step(len(one.ids))
            torch.testing.assert_close(batch.mem[slot], one.mem.detach(), atol=1e-5, rtol=0)


def plain_growth(one: Plain, *, length: int, steps: int) -> list[tuple[int, int, Tensor]]:
    """Return length, number of steps and vector of each prefix that came out exact, until the whole text is."""
    since, exact = 0, []
    for _ in range(steps):
        while (leading := min(one.leading(), bucket_of(length))) >= length:  # it looks no further than its bucket
            exact.append((length, since, one.mem.detach().clone()))
            if length == len(one.ids):
                return exact
            length, since = min(len(one.ids), leading + 1), 0
        one.step(length)
        since += 1
    return exact


def check_growth(frozen: Frozen, ids: list[int], start: Tensor, *, length: int, steps: int) -> list[int]:
    """Compare growth with the plain loop; return the lengths that came out exact."""
    exact = plain_growth(Plain(frozen, ids, start, HINGE), length=length, steps=steps)
    budget = sum(length * steps for length, steps, _ in exact)
    task = task_of(frozen, ids, n_mem=len(start), length=length, init=start, budget=budget)
    list(run(frozen, [task], HINGE, grow))
    solved = [probe for probe in task.probes if probe.status == "solved"]
    assert [(probe.length, probe.steps) for probe in solved] == [(length, steps) for length, steps, _ in exact]
    for probe, (_, _, mem) in zip(solved, exact, strict=True):
        torch.testing.assert_close(probe.mem, mem, atol=1e-3, rtol=0)
    return [probe.length for probe in solved]


def test_growth_keeps_vector_and_moments(tiny: Frozen) -> None:
    (ids,) = random_ids(6)
    start = fitting.start(tiny, ids, n_mem=4, seed=0)
    assert len(check_growth(tiny, ids, start, length=1, steps=45)) >= 3


def test_growth_goes_on_in_the_next_bucket(tiny: Frozen) -> None:
    mem = random_mem(tiny, 4, seed=5)
    ids = free_running(tiny, mem, 18)  # it fits, and the start is not far from where
    start = mem + 0.1 * random_mem(tiny, 4, seed=15)
    lengths = check_growth(tiny, ids, start, length=6, steps=30)
    assert len({bucket_of(length) for length in lengths}) >= 2


def test_a_vector_that_holds_the_whole_text_is_not_moved(tiny: Frozen) -> None:
    mem = random_mem(tiny, 2)
    ids = free_running(tiny, mem, 12)
    task = task_of(tiny, ids, n_mem=2, length=1, init=mem)
    list(run(tiny, [task], Recipe(loss="cross_entropy", lr=1.0, steps=20), grow))
    lengths = [1]
    while lengths[-1] < 12:
        lengths.append(min(12, bucket_of(lengths[-1]) + 1))  # it looks no further than its bucket
    assert len(lengths) > 2
    assert [(probe.length, probe.status, probe.steps, probe.n_correct) for probe in task.probes] == [
        (length, "solved", 0, length) for length in lengths
    ]
    assert all(torch.equal(probe.mem, mem) for probe in task.probes)


@pytest.mark.parametrize("length", [3, 8, 9, 12])
def test_how_many_are_right_already(length: int, tiny: Frozen) -> None:
    mem = random_mem(tiny, 2)
    ids = free_running(tiny, mem, 12)
    asked = []
    task = task_of(tiny, ids, n_mem=2, length=length, init=mem)
    list(run(tiny, [task], HINGE, lambda task, right: asked.append((task.length, right))))
    assert asked == [(length, min(12, bucket_of(length)))]


def test_probes_of_a_growth_stand_for_themselves(tiny: Frozen) -> None:
    (ids,) = random_ids(6)
    recipe = Recipe(loss="cross_entropy", lr=0.1, steps=40)
    task = task_of(tiny, ids, n_mem=4, length=2, scored_from=1, budget=200, trace=True)
    (task,) = run(tiny, [task], recipe, grow, scored_from=1)
    assert len(task.probes) >= 3
    for probe in task.probes:
        assert probe.token_steps == probe.length * probe.steps
        assert probe.n_scored == probe.length - 1
        assert len(probe.curve.right) == len(probe.curve.bits) == probe.steps + 1
        assert probe.n_correct == max(probe.curve.right)
        assert probe.bits_min == pytest.approx(min(probe.curve.bits), rel=1e-6)
        if probe.status == "solved":
            assert probe.curve.right[-1] == probe.n_scored
            assert max(probe.curve.right[:-1], default=0) < probe.n_scored
            assert decoded_tokens(tiny, probe.mem, ids[: probe.length], scored_from=1) == probe.length
    assert task.token_steps == sum(probe.token_steps for probe in task.probes)


@pytest.mark.parametrize(("budget", "steps"), [(1, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_a_budget_counts_tokens_times_steps(budget: int, steps: int, tiny: Frozen) -> None:
    (task,) = run(tiny, [task_of(tiny, *random_ids(5), budget=budget)], HINGE, stay)
    assert [(probe.status, probe.steps) for probe in task.probes] == [("budget", steps)]


def alone(frozen: Frozen, make: Callable[[], list[Task]], recipe: Recipe, advance: Callable) -> dict[int, Task]:
    """Return each task by its tag, run without company."""
    return {task.tag: next(run(frozen, [task], recipe, advance)) for task in make()}


def test_more_texts_than_slots(tiny: Frozen) -> None:
    ids = random_ids(*range(57, 63), *range(57, 63))
    assert len(ids) > slots_of(64, torch.device("cpu"))

    def make() -> list[Task]:
        return [task_of(tiny, row, budget=60 * (1 + tag % 3), tag=tag) for tag, row in enumerate(ids)]

    ended = list(run(tiny, make(), HINGE, stay))
    assert [task.tag for task in ended] != sorted(task.tag for task in ended)
    expected = alone(tiny, make, HINGE, stay)
    assert len(ended) == len(expected) == 12
    assert all(same(task, expected[task.tag]) for task in ended)


def test_a_half_empty_bucket_waits_for_a_fuller_one(tiny: Frozen) -> None:
    recipe = Recipe(loss="cross_entropy", lr=0.1, steps=6)
    ids = random_ids(*[57] * 8, *[5] * 6)

    def make() -> list[Task]:
        return [task_of(tiny, row, budget=57 if tag < 4 else None, tag=tag, trace=True) for tag, row in enumerate(ids)]

    ended = list(run(tiny, make(), recipe, stay))
    tags = [task.tag for task in ended]
    assert sorted(tags[:4]) == [0, 1, 2, 3]
    assert sorted(tags[4:10]) == [8, 9, 10, 11, 12, 13]
    assert sorted(tags[10:]) == [4, 5, 6, 7]  # put aside after the first step, and gone on with
    expected = alone(tiny, make, recipe, stay)
    assert all(same(task, expected[task.tag]) for task in ended)
    assert [task.probes[0].steps for task in ended] == [1] * 4 + [6] * 10


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


def test_nothing_to_do(tiny: Frozen) -> None:
    assert list(run(tiny, [], HINGE, stay)) == []
