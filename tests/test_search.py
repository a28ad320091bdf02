"""The longest prefix that fits: every probe is kept, and what is claimed decodes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from capacity import search
from capacity.decoding import decoded_tokens
from capacity.engine import Recipe
from capacity.fitting import RECIPES
from capacity.models import Frozen, ModelError
from capacity.search import Found, exact_length

FAST = dataclasses.replace(RECIPES["default"], steps=60)
STILL = Recipe(loss="hinge", margin=0.05, lr=0.0, patience=3)  # never moves


def random_ids(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 300, (length,), generator=generator).tolist() for length in lengths]


def check(found: Found, frozen: Frozen, ids: Sequence[int], *, n_mem: int, budget: int, scored_from: int) -> None:
    """Check all that holds of any search."""
    lengths = [probe.length for probe in found.probes]
    assert lengths[0] == 1 + scored_from
    assert lengths == sorted(set(lengths))
    assert lengths[-1] <= len(ids)
    assert all(probe.status == "solved" for probe in found.probes[:-1])
    assert found.token_steps == sum(probe.token_steps for probe in found.probes)
    assert all(probe.token_steps == probe.length * probe.steps for probe in found.probes)
    # The step that reaches the budget is finished, and a length that begins just then has one of its own.
    assert found.token_steps < budget + 2 * lengths[-1]
    for probe in found.probes:
        assert probe.n_scored == probe.length - scored_from
        assert (probe.n_correct == probe.n_scored) == (probe.status == "solved")
        stored = torch.from_numpy(np.frombuffer(probe.mem.numpy().tobytes(), dtype=np.float32).copy())
        decoded = decoded_tokens(
            frozen, stored.reshape(n_mem, frozen.dim), ids[: probe.length], scored_from=scored_from
        )
        assert (decoded == probe.length) == (probe.status == "solved")
    solved = [probe for probe in found.probes if probe.status == "solved"]
    if solved:
        assert found.length == solved[-1].length
        assert found.mem is not None
        assert torch.equal(found.mem, solved[-1].mem)
    else:
        assert (found.length, found.mem) == (0, None)
    assert found.censored == (found.probes[-1].status in ("solved", "budget"))


def same(one: Found, other: Found) -> bool:
    def facts(found: Found) -> list[dict]:
        return [{k: v for k, v in vars(probe).items() if k not in ("mem", "seconds")} for probe in found.probes]

    return facts(one) == facts(other) and all(
        torch.equal(a.mem, b.mem) for a, b in zip(one.probes, other.probes, strict=True)
    )


@pytest.mark.parametrize("scored_from", [0, 1])
def test_every_probe_is_kept_and_company_changes_nothing(scored_from: int, tiny: Frozen) -> None:
    ids = random_ids(6, 2, 9, seed=1)
    options = {"n_mem": 4, "budget": 110, "scored_from": scored_from}
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


def test_a_text_that_fits_whole_is_censored(tiny: Frozen) -> None:
    (text,) = random_ids(2)
    (found,) = exact_length(tiny, [text], RECIPES["default"], n_mem=4)
    assert (found.length, found.censored) == (2, True)
    assert found.probes[-1].status == "solved"


def test_a_budget_that_ends_is_censored(tiny: Frozen) -> None:
    (text,) = random_ids(6)
    (found,) = exact_length(tiny, [text], RECIPES["default"], n_mem=4, budget=30)
    assert found.probes[-1].status == "budget"
    assert found.censored
    assert 30 <= found.token_steps < 30 + found.probes[-1].length
    assert found.length < 6


def test_a_length_that_fails_is_not_censored(tiny: Frozen) -> None:
    (text,) = random_ids(6)
    (found,) = exact_length(tiny, [text], STILL)
    assert (found.length, found.mem, found.censored) == (0, None, False)
    assert [(probe.length, probe.status, probe.steps) for probe in found.probes] == [(1, "stalled", 3)]


def test_a_failure_after_success_keeps_the_last_exact_vector(tiny: Frozen) -> None:
    (text,) = random_ids(6)
    recipe = dataclasses.replace(RECIPES["default"], patience=15)
    (found,) = exact_length(tiny, [text], recipe, n_mem=2)
    assert (found.length, found.censored) == (1, False)
    assert [probe.status for probe in found.probes] == ["solved", "stalled"]
    check(found, tiny, text, n_mem=2, budget=search.BUDGET, scored_from=0)


def test_nothing_to_score(tiny: Frozen) -> None:
    (found,) = exact_length(tiny, [[7]], FAST, scored_from=1)
    assert (found.length, found.censored, found.token_steps) == (1, True, 0)


def test_the_seed_counts(tiny: Frozen) -> None:
    ids = random_ids(3)
    one, other, again = (exact_length(tiny, ids, FAST, n_mem=2, seed=seed, budget=15)[0] for seed in (0, 1, 0))
    assert same(one, again)
    assert not torch.equal(one.probes[-1].mem, other.probes[-1].mem)


@pytest.mark.parametrize(
    ("length", "right", "expected"), [(3, 3, 4), (3, 5, 6), (3, 9, 9), (8, 8, 9), (9, 9, None), (3, 2, 4)]
)
def test_growth_by_one_past_what_is_right(length: int, right: int, expected: int | None, tiny: Frozen) -> None:
    (text,) = random_ids(9)
    (task,) = search.tasks(tiny, [text], n_mem=1, seed=0, budget=1, scored_from=0)
    task.length = length
    assert search.grow(task, right) == expected


def test_vectors_are_doubled_until_the_text_fits(tiny: Frozen) -> None:
    (text,) = random_ids(5)
    found = list(search.doubling(tiny, text, FAST, budget=50))
    assert [n_mem for n_mem, _ in found] == [1, 2, 4]
    assert [one.length == 5 for _, one in found] == [False, False, True]
    for n_mem, one in found:
        check(one, tiny, text, n_mem=n_mem, budget=50 * n_mem, scored_from=0)
    (short,) = random_ids(3, seed=7)
    assert [(n_mem, one.length) for n_mem, one in search.doubling(tiny, short, FAST, budget=200)] == [(1, 3)]


def test_doubling_ends_before_it_stops_being_worth_it(tiny: Frozen) -> None:
    assert [n_mem for n_mem, _ in search.doubling(tiny, random_ids(5)[0], STILL)] == [1, 2, 4]
    assert [n_mem for n_mem, _ in search.doubling(tiny, random_ids(4)[0], STILL)] == [1, 2]
    assert [n_mem for n_mem, _ in search.doubling(tiny, random_ids(60)[0], STILL)] == [1, 2, 4]  # of 64 positions
    assert [n_mem for n_mem, _ in search.doubling(tiny, [7], FAST, scored_from=1)] == [1]


def test_wrong_input_is_refused(tiny: Frozen) -> None:
    with pytest.raises(ValueError, match="budget is 0 token-steps; at least 1 is needed"):
        exact_length(tiny, [[1, 2]], FAST, budget=0)
    with pytest.raises(ValueError, match="scored_from is 2"):
        exact_length(tiny, [[1, 2]], FAST, scored_from=2)
    with pytest.raises(ValueError, match="0 to 299 are allowed"):
        exact_length(tiny, [[1, 300]], FAST)
    with pytest.raises(ModelError, match="the text is empty"):
        exact_length(tiny, [[]], FAST)
    with pytest.raises(ModelError, match="past the context"):
        exact_length(tiny, [[1] * 64], FAST)
