"""A text under way: what it starts from, what it forgets, and when it has ended."""

import torch

from capacity.fitting.tasks import Curve, Probe, Task


def probe(length: int, status: str) -> Probe:
    return Probe(
        length=length, status=status, steps=1, token_steps=length, n_correct=0, n_scored=length, bits_min=None,
        seconds=0.0, curve=None, mem=torch.zeros(2, 3),
    )  # fmt: skip


def test_a_task_has_a_vector_of_its_own() -> None:
    given = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    task = Task(ids=[1, 2], length=2, mem=given)
    with torch.no_grad():
        given.zero_()
    assert torch.equal(task.mem, torch.ones(2, 3))
    assert (task.mem.dtype, task.mem.requires_grad) == (torch.float32, False)
    assert not task.first_moment.any()
    assert not task.second_moment.any()
    task.first_moment += 1
    assert not task.second_moment.any()


def moved() -> Task:
    """Return a traced task that has been moved seven times, twice at this length, and has a best vector."""
    task = Task(ids=[1, 2], length=2, mem=torch.ones(2, 3), trace=True)
    task.first_moment += 1
    task.second_moment += 2
    task.updates, task.steps, task.stale, task.best, task.best_mem = 7, 2, 1, 1, torch.full((2, 3), 5.0)
    task.bits_min, task.seconds, task.curve = 3.0, 4.0, Curve([0, 1, 0], [3.0, 3.0, 3.0])
    task.token_steps = 9
    return task


def test_a_new_length_keeps_vector_and_moments() -> None:
    task = moved()
    task.restart()
    assert (task.updates, task.token_steps) == (7, 9)
    assert (task.first_moment == 1).all()
    assert (task.second_moment == 2).all()
    assert (task.mem == 1).all()
    assert (task.steps, task.stale, task.best, task.bits_min, task.seconds) == (0, 0, -1, float("inf"), 0.0)
    assert task.best_mem is task.mem
    assert task.curve == Curve([], [])


def test_another_vector_begins_with_moments_of_zero() -> None:
    task = moved()
    task.begin(torch.full((2, 3), 8.0))
    assert (task.mem == 8).all()
    assert task.updates == 0
    assert not task.first_moment.any()
    assert not task.second_moment.any()
    assert task.token_steps == 9


def test_a_curve_is_kept_where_it_is_asked_for() -> None:
    assert Task(ids=[1], length=1, mem=torch.ones(2, 3)).curve is None
    assert Task(ids=[1], length=1, mem=torch.ones(2, 3), trace=True).curve == Curve([], [])


def test_a_task_is_under_way_until_its_length_has_ended() -> None:
    task = Task(ids=[1, 2, 3], length=1, mem=torch.ones(2, 3))
    assert task.under_way
    task.probes.append(probe(1, "solved"))
    assert not task.under_way
    task.length = 3
    assert task.under_way
    task.probes.append(probe(3, "stalled"))
    assert not task.under_way
    task.length = 2  # after a failure, a shorter one
    assert task.under_way


def test_exact_probes_come_in_their_order() -> None:
    task = Task(ids=[1, 2, 3], length=1, mem=torch.ones(2, 3))
    assert task.exact() == []
    task.probes += [probe(1, "solved"), probe(3, "stalled"), probe(2, "solved"), probe(3, "oom")]
    assert [one.length for one in task.exact()] == [1, 2]
