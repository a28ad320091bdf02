"""A step of every family on the pretend device: few copies, no waits, the processor's numbers."""

from collections.abc import Callable

import pytest
import test_families
import test_pretend
import torch
from inputs import random_ids
from test_families import FAMILIES
from test_pretend import CUDA, SEEN

from capacity import fitting
from capacity.fitting import slots
from capacity.fitting.batch import Batch
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.search import stop
from capacity.models import Frozen

pytestmark = pytest.mark.slow
WINDOWS = {"Gemma-3"}  # whose layers with a sliding window have a mask
gpu, loaded_of = test_pretend.gpu, test_families.loaded_of  # fixtures


def batch_of(frozen: Frozen, recipe: Recipe) -> Batch:
    batch = Batch(frozen, recipe, Shape(2, 8, 4))
    batch.fill([fitting.task(frozen, ids, n_mem=2, seed=0, length=len(ids), scored_from=0) for ids in random_ids(7, 5)])
    return batch


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_search_runs_there_as_here_with_two_copies_a_step(
    family: str, gpu: Callable[..., Frozen], loaded_of: Callable[[str], Frozen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))  # an H100's, asked for by experts
    recipe, here = Recipe(loss="cross_entropy", lr=0.1), loaded_of(family)
    laid = gpu(here)
    there, expected = batch_of(laid, recipe), batch_of(here, recipe)
    assert there.state.mem.device == CUDA
    for _ in range(2):
        SEEN.forget()
        assert there.step(stop) == []
        assert expected.step(stop) == []
    assert SEEN.copies == 2  # which are right, their bits
    assert (SEEN.waits, SEEN.doubles) == (0, 0)
    assert set(SEEN.attended) <= ({(False, True), (True, False)} if family in WINDOWS else {(False, True)})
    torch.testing.assert_close(there.state.mem.cpu(), expected.state.mem, atol=1e-3, rtol=0)
    for kind in ("cuda", "cpu"):
        monkeypatch.setitem(slots.SLOTS, kind, 1)  # no trial of smaller batches
    found, other = (fitting.exact_length(one, [[5, 7, 9]], recipe, n_mem=2, budget=3)[0] for one in (laid, here))
    assert found.length == other.length
    assert [(p.length, p.status, p.steps) for p in found.probes] == [
        (p.length, p.status, p.steps) for p in other.probes
    ]
    assert SEEN.doubles == 0
