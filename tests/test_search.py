"""The longest prefix that fits: every probe is kept, and what is claimed decodes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from inputs import random_ids

from capacity import fitting
from capacity.decoding import decoded_tokens, free_running
from capacity.fitting import Longest, engine, exact_length, search
from capacity.fitting.recipes import Recipe
from capacity.fitting.search import SEARCHES
from capacity.fitting.tasks import Probe, Task
from capacity.models import Frozen, ModelError

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=1000, patience=500)
FAST = dataclasses.replace(HINGE, steps=60)
STILL = Recipe(loss="hinge", margin=0.05, lr=0.0, patience=3)  # never moves


def check(
    found: Longest,
    frozen: Frozen,
    ids: Sequence[int],
    *,
    n_mem: int,
    budget: int,
    scored_from: int,
    search: str = "grow",
) -> None:
    """Check all that holds of any search."""
    lengths = [probe.length for probe in found.probes]
    assert lengths[0] == 1 + scored_from
    assert search == "leap" or len(set(lengths)) == len(lengths)  # a leap that was given up may be tried again
    assert max(lengths) <= len(ids)
    solved = [probe for probe in found.probes if probe.status == "solved"]
    failed = [probe for probe in found.probes if probe.status != "solved"]
    assert [probe.length for probe in solved] == sorted(probe.length for probe in solved)
    assert all(probe.status == "stalled" or search == "leap" for probe in failed[:-1])
    if search == "grow":
        assert lengths == sorted(lengths)
        assert all(probe.status == "solved" for probe in found.probes[:-1])
    assert found.token_steps == sum(probe.token_steps for probe in found.probes)
    assert all(probe.token_steps == probe.length * probe.steps for probe in found.probes)
    assert found.token_steps < budget + lengths[-1]  # the step that reaches the budget is finished
    for probe in found.probes:
        assert probe.n_scored == probe.length - scored_from
        assert (probe.n_correct == probe.n_scored) == (probe.status == "solved")
        stored = torch.from_numpy(np.frombuffer(probe.mem.numpy().tobytes(), dtype=np.float32).copy())
        decoded = decoded_tokens(
            frozen, stored.reshape(n_mem, frozen.dim), ids[: probe.length], scored_from=scored_from
        )
        assert (decoded == probe.length) == (probe.status == "solved")
    if solved:
        assert found.length == solved[-1].length
        assert found.mem is not None
        assert torch.equal(found.mem, solved[-1].mem)
    else:
        assert (found.length, found.mem) == (0, None)
    limit = found.length + 1 if solved else 1 + scored_from
    assert found.censored == (limit not in [probe.length for probe in failed if probe.status == "stalled"])


def same(one: Longest, other: Longest) -> bool:
    def facts(found: Longest) -> list[dict]:
        return [{k: v for k, v in vars(probe).items() if k not in ("mem", "seconds")} for probe in found.probes]

    return facts(one) == facts(other) and all(
        torch.equal(a.mem, b.mem) for a, b in zip(one.probes, other.probes, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "scored_from"), [("grow", 0), ("grow", 1), ("bracket", 0), ("bracket", 1), ("leap", 0)]
)
def test_every_probe_is_kept_and_company_changes_nothing(search: str, scored_from: int, tiny: Frozen) -> None:
    ids = random_ids(6, 2, 9, seed=1)
    options = {"n_mem": 4, "budget": 110, "scored_from": scored_from, "search": search}
    found = exact_length(tiny, ids, FAST, **options)
    assert len(found) == len(ids)
    for text, one in zip(ids, found, strict=True):
        check(one, tiny, text, **options)
    assert max(len(one.probes) for one in found) >= 3
    assert {one.probes[-1].status for one in found} == {"solved", "budget"}
    backwards = exact_length(tiny, ids[::-1], FAST, **options)[::-1]
    for text, one, again in zip(ids, found, backwards, strict=True):
        assert same(one, again)
        assert same(one, exact_length(tiny, [text], FAST, **options)[0])


def test_on_every_architecture(frozen: Frozen) -> None:
    ids = random_ids(4, 4)
    for text, one in zip(ids, exact_length(frozen, torch.tensor(ids), FAST, n_mem=4, budget=30), strict=True):
        check(one, frozen, text, n_mem=4, budget=30, scored_from=0)


@pytest.mark.parametrize("how", SEARCHES)
def test_a_text_that_fits_whole_is_censored(how: str, tiny: Frozen) -> None:
    (text,) = random_ids(2)
    (found,) = exact_length(tiny, [text], HINGE, n_mem=4, search=how)
    assert (found.length, found.censored) == (2, True)
    assert found.probes[-1].status == "solved"


@pytest.mark.parametrize("how", SEARCHES)
def test_a_budget_that_ends_is_censored(how: str, tiny: Frozen) -> None:
    (text,) = random_ids(6)
    (found,) = exact_length(tiny, [text], HINGE, n_mem=4, budget=30, search=how)
    assert found.probes[-1].status == "budget"
    assert found.censored
    assert 30 <= found.token_steps < 30 + found.probes[-1].length
    assert found.length < 6


@pytest.mark.parametrize("how", SEARCHES)
def test_a_length_that_fails_is_not_censored(how: str, tiny: Frozen) -> None:
    (text,) = random_ids(6)
    (found,) = exact_length(tiny, [text], STILL, search=how)
    assert (found.length, found.mem, found.censored) == (0, None, False)
    assert [(probe.length, probe.status, probe.steps) for probe in found.probes] == [(1, "stalled", 3)]


@pytest.mark.parametrize("how", SEARCHES)
def test_a_failure_after_success_keeps_the_last_exact_vector(how: str, tiny: Frozen) -> None:
    (text,) = random_ids(6)
    recipe = dataclasses.replace(HINGE, patience=15)
    (found,) = exact_length(tiny, [text], recipe, n_mem=2, search=how)
    assert (found.length, found.censored) == (1, False)
    assert [probe.status for probe in found.probes] == ["solved", "stalled"]
    check(found, tiny, text, n_mem=2, budget=search.BUDGET, scored_from=0, search=how)


class Held:
    """A vector that holds the first tokens of a text, and a recipe that never moves it: what fits is known."""

    def __init__(self, frozen: Frozen, n_held: int, n_tokens: int):
        generator = torch.Generator().manual_seed(2)
        self.frozen, self.mem = frozen, torch.randn(2, frozen.dim, generator=generator) * frozen.embedding_std
        ids = free_running(frozen, self.mem, n_tokens)
        self.ids = [*ids[:n_held], *((token + 1) % 300 for token in ids[n_held:])]

    def search(self, how: str, recipe: Recipe = STILL) -> Task:
        task = fitting.task(self.frozen, self.ids, n_mem=2, seed=0, length=1, scored_from=0, init=self.mem, trace=True)
        (task,) = engine.run(self.frozen, [task], recipe, SEARCHES[how])
        return task


@pytest.mark.parametrize("how", SEARCHES)
@pytest.mark.parametrize(
    ("n_held", "n_tokens"), [(0, 9), (1, 2), (1, 30), (5, 6), (7, 30), (13, 40), (29, 30), (30, 30)]
)
def test_what_is_held_is_found(n_held: int, n_tokens: int, how: str, tiny: Frozen) -> None:
    held = Held(tiny, n_held, n_tokens)
    task = held.search(how)
    (found,) = fitting.longest(tiny, [task])
    assert found.length == n_held
    assert found.censored == (n_held == n_tokens)
    assert all((probe.length <= n_held) == (probe.status == "solved") for probe in found.probes)
    steps = {"solved": 0, "stalled": 3}
    assert all(probe.steps == steps[probe.status] for probe in found.probes)


def test_growth_fails_once_and_bracketing_in_halves(tiny: Frozen) -> None:
    held = Held(tiny, 13, 60)
    grown, bracketed = (
        [(probe.length, probe.status == "solved") for probe in held.search(how).probes] for how in ("grow", "bracket")
    )
    # All that the vector holds of its bucket is found at once; the buckets are of 8, 12, 16, 24 tokens.
    assert grown == [(1, True), (8, True), (9, True), (12, True), (13, True), (14, False)]
    assert bracketed == [(1, True), (8, True), (16, False), (12, True), (14, False), (13, True)]


@pytest.mark.slow
def test_a_leap_that_is_not_reached_is_given_up_early_and_the_limit_is_not(tiny: Frozen) -> None:
    held = Held(tiny, 13, 60)
    task = held.search("leap", dataclasses.replace(STILL, patience=200))
    lengths = [(probe.length, probe.status, probe.steps) for probe in task.probes]
    assert (16, "budget", 3 * search.LEAP) in lengths  # twice 8
    assert task.exact()[-1].length == 13
    assert lengths[-1] == (14, "stalled", 200)
    assert not search.censored(task)


def test_bracketing_begins_anew_at_the_last_exact_vector(tiny: Frozen) -> None:
    held = Held(tiny, 9, 40)
    recipe = dataclasses.replace(FAST, steps=4, lr=0.3)
    task = held.search("bracket", recipe)
    after = [number for number, probe in enumerate(task.probes[:-1]) if probe.status == "stalled"]
    assert after
    for number in after:
        exact = [probe for probe in task.probes[: number + 1] if probe.status == "solved"][-1]
        following = task.probes[number + 1]
        assert exact.length < following.length < task.probes[number].length
        anew = fitting.fit(
            tiny, [held.ids[: following.length]], recipe, n_mem=2, init=exact.mem.unsqueeze(0), trace=True
        )
        assert (following.steps, following.n_correct) == (anew.steps[0], anew.n_correct[0])
        assert following.curve.bits == pytest.approx(anew.curve[0].bits, abs=1e-3)
        torch.testing.assert_close(following.mem, anew.mem[0], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_growth_and_bracketing_find_the_same_where_nothing_is_scarce(tiny: Frozen) -> None:
    generator = torch.Generator().manual_seed(3)
    mem = torch.randn(3, 2, tiny.dim, generator=generator) * tiny.embedding_std
    ids = [free_running(tiny, one, 12) for one in mem]  # each fits
    recipe = dataclasses.replace(HINGE, steps=300)
    found = {}
    for how in SEARCHES:
        begun = [
            fitting.task(tiny, row, n_mem=2, seed=0, length=1, scored_from=0, init=one + 0.02 * one.roll(1), tag=tag)
            for tag, (row, one) in enumerate(zip(ids, mem, strict=True))
        ]
        ended = sorted(engine.run(tiny, begun, recipe, SEARCHES[how]), key=lambda task: task.tag)
        assert any(probe.steps for task in ended for probe in task.probes)
        found[how] = fitting.longest(tiny, ended)
    assert [one.length for one in found["grow"]] == [one.length for one in found["bracket"]] == [12, 12, 12]


def probe(length: int, status: str) -> Probe:
    return Probe(
        length=length, status=status, steps=1, token_steps=length, n_correct=0, n_scored=length, bits_min=None,
        seconds=0.0, curve=None, mem=torch.zeros(1, 4),
    )  # fmt: skip


def ended(n_tokens: int, *probes: tuple[int, str]) -> Task:
    task = Task(ids=[1] * n_tokens, length=probes[-1][0], mem=torch.zeros(1, 4))
    task.probes = [probe(*one) for one in probes]
    return task


@pytest.mark.parametrize(
    ("n_tokens", "probes", "right", "following"),
    [
        (99, [(1, "solved")], 1, 2),
        (99, [(1, "solved")], 6, 6),  # what is right already is a probe of its own
        (99, [(1, "solved"), (6, "solved")], 6, 12),
        (10, [(1, "solved"), (6, "solved")], 6, 10),  # the text ends
        (10, [(6, "solved"), (10, "solved")], 10, None),
        (99, [(6, "solved"), (12, "stalled")], 3, 9),
        (99, [(6, "solved"), (12, "stalled"), (9, "stalled")], 3, 7),
        (99, [(6, "solved"), (12, "stalled"), (9, "solved")], 9, 10),
        (99, [(6, "solved"), (12, "stalled"), (9, "solved")], 11, 11),
        (99, [(6, "solved"), (8, "stalled"), (7, "stalled")], 3, None),
        (99, [(6, "solved"), (8, "stalled"), (7, "solved")], 7, None),
        (99, [(6, "solved"), (8, "stalled"), (7, "solved")], 9, 9),  # more than what failed before
        (99, [(6, "solved"), (8, "stalled"), (7, "solved"), (9, "solved")], 9, 18),
        (99, [(1, "stalled")], 0, None),
        (99, [(2, "stalled")], 0, None),  # the first where t1 is given
    ],
)
def test_the_length_after(n_tokens: int, probes: list[tuple[int, str]], right: int, following: int | None) -> None:
    assert search.bracket(ended(n_tokens, *probes), right) == following


@pytest.mark.parametrize(
    ("probes", "censored"),
    [
        ([(1, "stalled")], False),
        ([(1, "diverged")], True),
        ([(1, "budget")], True),
        ([(1, "oom")], True),
        ([(1, "solved"), (2, "stalled")], False),
        ([(1, "solved"), (2, "budget")], True),
        ([(1, "solved"), (9, "solved")], True),  # the text ends
        ([(1, "solved"), (4, "stalled"), (2, "budget")], True),  # 2 may fit yet
        ([(1, "solved"), (4, "stalled"), (2, "solved"), (3, "stalled")], False),
        ([(1, "solved"), (4, "stalled"), (2, "solved"), (3, "solved")], False),
        ([(1, "solved"), (4, "stalled"), (2, "solved"), (6, "solved")], True),  # what failed at 4 says nothing of 7
    ],
)
def test_what_is_censored(probes: list[tuple[int, str]], censored: bool) -> None:
    assert search.censored(ended(9, *probes)) == censored


def test_nothing_to_score(tiny: Frozen) -> None:
    (found,) = exact_length(tiny, [[7]], FAST, scored_from=1)
    assert (found.length, found.censored, found.token_steps) == (1, True, 0)


def test_the_seed_counts(tiny: Frozen) -> None:
    ids = random_ids(3)
    one, other, again = (exact_length(tiny, ids, FAST, n_mem=2, seed=seed, budget=15)[0] for seed in (0, 1, 0))
    assert same(one, again)
    assert not torch.equal(one.probes[-1].mem, other.probes[-1].mem)


@pytest.mark.parametrize(
    ("length", "right", "expected"), [(3, 3, 4), (3, 5, 5), (5, 5, 6), (3, 9, 9), (8, 8, 9), (9, 9, None), (3, 2, 4)]
)
def test_growth_by_what_is_right_and_then_by_one(length: int, right: int, expected: int | None) -> None:
    assert search.grow(ended(9, (length, "solved")), right) == expected


def test_growth_ends_where_it_fails() -> None:
    assert search.grow(ended(9, (2, "solved"), (3, "stalled")), 2) is None


@pytest.mark.slow
def test_vectors_are_doubled_until_the_text_fits(tiny: Frozen) -> None:
    (text,) = random_ids(5)
    found = list(fitting.doubling(tiny, text, FAST, budget=80))
    assert [n_mem for n_mem, _ in found] == [1, 2, 4]
    assert [one.length == 5 for _, one in found] == [False, False, True]
    for n_mem, one in found:
        check(one, tiny, text, n_mem=n_mem, budget=80 * n_mem, scored_from=0)
    (short,) = random_ids(3, seed=7)
    assert [(n_mem, one.length) for n_mem, one in fitting.doubling(tiny, short, FAST, budget=200)] == [(1, 3)]


def test_doubling_ends_before_it_stops_being_worth_it(tiny: Frozen) -> None:
    assert [n_mem for n_mem, _ in fitting.doubling(tiny, random_ids(5)[0], STILL)] == [1, 2, 4]
    assert [n_mem for n_mem, _ in fitting.doubling(tiny, random_ids(4)[0], STILL)] == [1, 2]
    assert [n_mem for n_mem, _ in fitting.doubling(tiny, random_ids(60)[0], STILL)] == [1, 2, 4]  # of 64 positions
    assert [n_mem for n_mem, _ in fitting.doubling(tiny, [7], FAST, scored_from=1)] == [1]


def test_wrong_input_is_refused(tiny: Frozen) -> None:
    with pytest.raises(ValueError, match="budget is 0; give a whole number from 1 on"):
        exact_length(tiny, [[1, 2]], FAST, budget=0)
    with pytest.raises(ValueError, match="unknown search 'bisect'; known are grow, bracket"):
        exact_length(tiny, [[1, 2]], FAST, search="bisect")
    with pytest.raises(ValueError, match="scored_from is 2"):
        exact_length(tiny, [[1, 2]], FAST, scored_from=2)
    with pytest.raises(ValueError, match="0 to 299 are allowed"):
        exact_length(tiny, [[1, 300]], FAST)
    with pytest.raises(ModelError, match="the text is empty"):
        exact_length(tiny, [[]], FAST)
    with pytest.raises(ModelError, match="past the context"):
        exact_length(tiny, [[1] * 64], FAST)
