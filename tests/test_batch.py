"""The slots of a bucket: their steps are AdamW's, a fit goes on to its next length as it is asked, or ends."""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from inputs import random_ids, task_of
from torch import Tensor

from capacity import fitting
from capacity.decoding import decoded_tokens, free_running, teacher_forced
from capacity.fitting.batch import Batch
from capacity.fitting.engine import run
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.search import grow, stop
from capacity.fitting.slots import bucket_of
from capacity.fitting.tasks import Advance, Task
from capacity.models import Frozen

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1)
STILL = Recipe(loss="hinge", margin=0.05, lr=0.0, patience=3)  # never moves


def random_mem(frozen: Frozen, n_mem: int, seed: int = 1) -> Tensor:
    return torch.randn(n_mem, frozen.dim, generator=torch.Generator().manual_seed(seed)) * frozen.embedding_std


def batch_of(frozen: Frozen, recipe: Recipe, *, n_mem: int = 1, bucket: int = 8, slots: int = 4) -> Batch:
    return Batch(frozen, recipe, Shape(n_mem, bucket, slots))


def lengths_in_turn(*lengths: int) -> Advance:
    """Ask for these lengths, whatever came out, and then for no more."""
    left = list(lengths)
    return lambda task, right: left.pop(0) if left else None


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
    batch = batch_of(tiny, recipe, n_mem=2)
    plain: dict[int, Plain] = {}
    for step in range(6):  # later on, what differs in the last bit has grown
        if step in (0, 3):  # the second text comes later: its moments and their correction are its own
            slot = len(plain)
            batch.put(slot, task_of(tiny, ids[slot], n_mem=2))
            plain[slot] = Plain(tiny, ids[slot], batch.state.mem[slot], recipe)
        assert batch.step(stop) == []
        for slot, one in plain.items():
            one.step(len(one.ids))
            torch.testing.assert_close(batch.state.mem[slot], one.mem.detach(), atol=1e-5, rtol=0)


def test_slots_are_taken_and_free_again(tiny: Frozen) -> None:
    batch = batch_of(tiny, STILL)
    tasks = [task_of(tiny, ids) for ids in random_ids(3, 4)]
    assert (batch.free, batch.under_way) == ([0, 1, 2, 3], 0)
    batch.put(2, tasks[0])
    batch.put(0, tasks[1])
    assert (batch.free, batch.under_way) == ([1, 3], 2)
    assert [batch.step(stop) for _ in range(4)] == [[], [], [], [tasks[1], tasks[0]]]  # patience is 3
    assert (batch.free, batch.under_way) == ([0, 1, 2, 3], 0)


def test_a_task_put_aside_goes_on_as_if_it_had_not_been(tiny: Frozen) -> None:
    recipe = Recipe(loss="cross_entropy", lr=0.05, steps=9)

    def ended(*stops: int) -> Task:
        task = task_of(tiny, *random_ids(5), n_mem=2, trace=True)
        batch = batch_of(tiny, recipe, n_mem=2)
        batch.put(0, task)
        for step in range(10):
            if step in stops:
                assert batch.take(0) is task
                batch = batch_of(tiny, recipe, n_mem=2)
                batch.put(3, task_of(tiny, *random_ids(7), n_mem=2))
                batch.put(0, task)
            left = batch.step(stop)
        assert left[:1] == [task]
        return task

    one, other = ended(), ended(1, 6)
    assert one.updates == other.updates == one.probes[0].steps == 9
    assert torch.equal(one.probes[0].mem, other.probes[0].mem)
    assert torch.equal(one.mem, other.mem)
    assert torch.equal(one.second_moment, other.second_moment)
    assert one.probes[0].curve == other.probes[0].curve
    assert one.probes[0].bits_min == other.probes[0].bits_min
    assert other.probes[0].seconds > 0


def test_seconds_are_those_of_steps_shared_evenly_and_not_of_compiling(
    tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a text that leaves in the step: those that stay do not pay for it. By a clock that the calls move on."""
    now, mover = [0.0], Batch._mover

    def compiling(self: Batch):
        now[0] += 100.0
        move = mover(self)

        def timed():
            now[0] += 6.0
            return move()

        return timed

    monkeypatch.setattr(Batch, "_mover", compiling)
    monkeypatch.setattr("capacity.fitting.batch.time", SimpleNamespace(perf_counter=lambda: now[0]))
    batch = batch_of(tiny, dataclasses.replace(STILL, steps=1))
    tasks = [task_of(tiny, *random_ids(size)) for size in (4, 5)]
    left = []
    for slot, task in enumerate(tasks):
        batch.put(slot, task)
        left.append(batch.step(stop))
    assert left == [[], tasks[:1]]
    assert batch.step(stop) == tasks[1:]
    assert [task.probes[0].seconds for task in tasks] == [6.0 + 3.0, 3.0 + 6.0]


def test_it_is_asked_where_a_fit_was_solved_or_stalled(tiny: Frozen) -> None:
    asked = []

    def watched(task: Task, right: int) -> None:
        asked.append((task.tag, task.probes[-1].status))

    mem = random_mem(tiny, 1)
    broken = torch.full_like(mem, float("nan"))
    ids = free_running(tiny, mem, 4)
    other = [(token + 1) % 300 for token in ids]
    tasks = [
        task_of(tiny, ids, init=mem, tag="a"),
        task_of(tiny, other, init=mem, tag="b"),
        task_of(tiny, other, init=mem, tag="c", budget=4),
        task_of(tiny, ids, init=broken, tag="d"),
        task_of(tiny, other, init=mem, tag="e"),
    ]
    ended = {task.tag: task.probes[-1] for task in run(tiny, tasks, STILL, watched)}
    assert sorted(asked) == [("a", "solved"), ("b", "stalled"), ("e", "stalled")]
    assert {tag: (probe.status, probe.steps) for tag, probe in ended.items()} == {
        "a": ("solved", 0), "b": ("stalled", 3), "c": ("budget", 1), "d": ("diverged", 0), "e": ("stalled", 3),
    }  # fmt: skip


def test_steps_at_a_length_are_limited_and_it_is_asked_then(tiny: Frozen) -> None:
    (task,) = run(
        tiny,
        [task_of(tiny, *random_ids(6))],
        Recipe(loss="hinge", margin=0.05, lr=0.1, steps=5),
        lengths_in_turn(4, 7, 3),
    )
    assert [(probe.length, probe.status, probe.steps) for probe in task.probes] == [
        (6, "stalled", 5), (4, "stalled", 5), (7, "stalled", 5), (3, "stalled", 5),
    ]  # fmt: skip
    assert task.token_steps == 5 * (6 + 4 + 7 + 3)


def plain_growth(one: Plain, *, length: int, steps: int) -> list[tuple[int, int, Tensor]]:
    """Return length, number of steps and vector of each prefix that came out exact, until the whole text is."""
    since, exact = 0, []
    for _ in range(steps):
        bucket, before = bucket_of(length), length
        leading = min(one.leading(), bucket)  # it looks no further than its bucket
        if leading >= length:
            exact.append((length, since, one.mem.detach().clone()))
            if leading > length:
                exact.append((leading, 0, one.mem.detach().clone()))
            if leading == len(one.ids):
                return exact
            length, since = leading + 1, 0
        if length <= bucket:  # in the bucket, the step is made that was on its way
            one.step(before)
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
    mem = random_mem(tiny, 4, seed=6)
    ids = free_running(tiny, mem, 7)  # few steps from where it fits: after many, rounding would part the two
    start = mem + 0.2 * random_mem(tiny, 4, seed=16)
    assert len(check_growth(tiny, ids, start, length=1, steps=24)) >= 4


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
    # It looks no further than its bucket, which is of 8 tokens and then of 12.
    assert [(probe.length, probe.status, probe.steps, probe.n_correct) for probe in task.probes] == [
        (length, "solved", 0, length) for length in (1, 8, 9, 12)
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


@pytest.mark.parametrize("longer", [7, 11])  # in the same bucket, and in the next
def test_a_longer_length_after_a_failure_goes_on_as_it_is(longer: int, tiny: Frozen) -> None:
    (ids,) = random_ids(12, seed=1)
    start = fitting.start(tiny, ids[:6], n_mem=2, seed=0)
    task = task_of(tiny, ids, n_mem=2, length=6, init=start, trace=True, budget=22 * 6 + 1)
    (task,) = run(tiny, [task], dataclasses.replace(HINGE, lr=0.5, steps=22), lengths_in_turn(longer))
    first, second = task.probes
    assert [(probe.length, probe.status) for probe in task.probes] == [(6, "stalled"), (longer, "budget")]
    assert first.curve.right[-1] < first.n_correct  # the best vector was not the last
    assert second.n_correct < first.n_correct
    for probe in task.probes:
        assert probe.n_correct == max(probe.curve.right)
        score = teacher_forced(tiny, probe.mem.unsqueeze(0), torch.tensor([ids[: probe.length]]))
        assert int(score.correct.sum()) == probe.n_correct


def test_a_shorter_length_begins_at_the_last_exact_vector(tiny: Frozen) -> None:
    mem = random_mem(tiny, 2, seed=3)
    ids = free_running(tiny, mem, 3) + random_ids(8)[0]
    recipe = dataclasses.replace(HINGE, steps=6)
    task = task_of(tiny, ids, n_mem=2, length=3, init=mem, trace=True)
    (task,) = run(tiny, [task], recipe, lengths_in_turn(9, 6))
    assert [(probe.length, probe.status) for probe in task.probes] == [(3, "solved"), (9, "stalled"), (6, "stalled")]
    anew = fitting.fit(tiny, [ids[:6]], recipe, n_mem=2, init=mem.unsqueeze(0), trace=True)
    last = task.probes[-1]
    assert (last.steps, last.n_correct, last.curve.right) == (anew.steps[0], anew.n_correct[0], anew.curve[0].right)
    assert last.curve.bits == pytest.approx(anew.curve[0].bits, abs=1e-4)
    torch.testing.assert_close(last.mem, anew.mem[0], atol=1e-5, rtol=0)


def test_probes_of_a_growth_stand_for_themselves(tiny: Frozen) -> None:
    (ids,) = random_ids(6)
    recipe = Recipe(loss="cross_entropy", lr=0.1, steps=40)
    task = task_of(tiny, ids, n_mem=4, length=2, scored_from=1, budget=200, trace=True)
    (task,) = run(tiny, [task], recipe, grow)
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
    (task,) = run(tiny, [task_of(tiny, *random_ids(5), budget=budget)], HINGE, stop)
    assert [(probe.status, probe.steps) for probe in task.probes] == [("budget", steps)]


def test_a_budget_spent_as_a_length_is_solved_ends_it(tiny: Frozen) -> None:
    (ids,) = random_ids(6)
    whole = task_of(tiny, ids, n_mem=4, length=1, budget=120)
    (whole,) = run(tiny, [whole], HINGE, grow)
    at = next(i for i, probe in enumerate(whole.probes[1:], 1) if probe.status == "solved" and probe.steps > 1)
    spent = sum(probe.token_steps for probe in whole.probes[: at + 1])
    (task,) = run(tiny, [task_of(tiny, ids, n_mem=4, length=1, budget=spent)], HINGE, grow)
    assert [(probe.length, probe.status, probe.steps) for probe in task.probes] == [
        (probe.length, probe.status, probe.steps) for probe in whole.probes[: at + 1]
    ]
    assert task.token_steps == spent
    assert torch.equal(task.probes[-1].mem, whole.probes[at].mem)
