"""What a GPU is to show: the processor's results to rounding, no waiting, fast attention, memory as predicted.

Where there is no GPU, what a processor can do of it is rehearsed there. `make gpu` runs these first.
"""

import dataclasses
import gc
import warnings
from collections.abc import Iterator

import pytest
import torch
from inputs import random_ids
from torch.nn.attention import SDPBackend, sdpa_kernel

from capacity import benchmark, decoding, fitting, models
from capacity.fitting import graph, memory, slots, step
from capacity.fitting.batch import Batch
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.search import stop
from capacity.models import Frozen

pytestmark = [pytest.mark.slow, pytest.mark.cuda]
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda:0" if GPU else "cpu")
on_gpu = pytest.mark.skipif(not GPU, reason="no GPU")
HINGE = Recipe(loss="squared_hinge", margin=0.05, lr=0.3, steps=60)


@pytest.fixture(autouse=True)
def emptied() -> Iterator[None]:
    yield
    if GPU:
        torch.cuda.empty_cache()


@pytest.fixture
def there(frozen: Frozen) -> Frozen:
    """Return each of the tiny models on the device."""
    return models.load(frozen.name, device=str(DEVICE))


def filled(frozen: Frozen, recipe: Recipe, shape: Shape, **options: bool | str) -> Batch:
    batch = Batch(frozen, recipe, shape, **options)
    size = min(shape.bucket, 7)
    batch.fill([
        fitting.task(frozen, ids, n_mem=shape.n_mem, seed=0, length=size, scored_from=0)
        for ids in random_ids(*[size] * shape.slots)
    ])  # fmt: skip
    return batch


def test_a_step_is_the_processors(there: Frozen, frozen: Frozen) -> None:
    recipe = Recipe(loss="cross_entropy", lr=0.1)
    one, other = (filled(model, recipe, Shape(2, 8, 4)) for model in (there, frozen))
    for _ in range(3):
        assert one.step(stop) == other.step(stop) == []
    assert one.state.mem.device == DEVICE
    torch.testing.assert_close(one.state.mem.cpu(), other.state.mem, atol=1e-2, rtol=0)


def test_what_is_found_decodes_side_by_side_and_alone(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    there = models.load(tiny.name, device=str(DEVICE))
    monkeypatch.setitem(decoding.AT_ONCE, DEVICE.type, 4)
    ids = random_ids(3, 3, 3, 3, 3)
    found = fitting.exact_length(there, ids, HINGE, n_mem=2, budget=300)
    assert sum(one.length for one in found) >= 5
    for one, row in zip(found, ids, strict=True):
        if one.mem is not None:
            assert decoding.decoded_tokens(there, one.mem, row[: one.length]) == one.length


def test_a_batch_halves_until_it_fits(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the allocator itself refuses; on the processor what it would say is said."""
    there, made, mover = models.load(tiny.name, device=str(DEVICE)), [], Batch._mover

    def limited(self: Batch):
        made.append(self.shape.slots)
        if self.shape.slots > 2:
            if GPU:
                torch.empty(2**45, device=DEVICE)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 32.00 TiB.")
        return mover(self)

    monkeypatch.setattr(Batch, "_mover", limited)
    monkeypatch.setitem(slots.SLOTS, DEVICE.type, 8)
    found = fitting.fit(there, random_ids(*[3] * 8), Recipe(loss="hinge", lr=0.0, steps=1))
    assert made[:3] == [8, 4, 2]
    assert found.steps == [1] * 8


def test_deterministic_algorithms_give_the_same_bits_again_and_in_company(tiny: Frozen) -> None:
    there, before = models.load(tiny.name, device=str(DEVICE)), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        ids = random_ids(5, 5, 5, 5)
        one, again, alone = (fitting.fit(there, some, HINGE) for some in (ids, ids, ids[:1]))
    except RuntimeError as error:  # cuBLAS wants to be told before it is first used
        if "CUBLAS_WORKSPACE_CONFIG" not in str(error):
            raise
        pytest.skip("run with CUBLAS_WORKSPACE_CONFIG=:4096:8")
    finally:
        torch.use_deterministic_algorithms(before)
    assert torch.equal(one.mem, again.mem)
    assert torch.equal(one.mem[0], alone.mem[0])


@on_gpu
def test_a_step_never_waits(there: Frozen) -> None:
    batch = filled(there, HINGE, Shape(1, 8, 4))
    batch.step(stop)
    move = step.step(there, HINGE, n_mem=1, follow_bits=False)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        move(batch.state, batch.context, batch.targets, batch.weights)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@on_gpu
@pytest.mark.parametrize(
    ("dtype", "kernel"), [("bfloat16", SDPBackend.FLASH_ATTENTION), ("float32", SDPBackend.EFFICIENT_ATTENTION)]
)
def test_attention_is_a_fast_kernels(dtype: str, kernel: SDPBackend, loaded: dict[str, Frozen]) -> None:
    there = models.load(loaded["grouped"].name, device=str(DEVICE), dtype=dtype)
    batch = filled(there, HINGE, Shape(1, 8, 4))
    with sdpa_kernel(kernel):  # raises where it can't be
        batch.step(stop)


@on_gpu
@pytest.mark.parametrize("how", [True, "capture"])
def test_a_compiled_or_recorded_step_is_replayed_and_is_the_step(how: bool | str, tiny: Frozen) -> None:
    there = models.load(tiny.name, device=str(DEVICE))
    one, other = (filled(there, HINGE, Shape(1, 8, 4), compile=compile) for compile in (False, how))
    for _ in range(3):
        assert one.step(stop) == other.step(stop) == []
    torch.testing.assert_close(one.state.mem, other.state.mem, atol=1e-2, rtol=0)
    assert all(move is not None for known in graph._COMPILED.values() for move in known.values())


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_records_of_several_shapes_and_models_are_the_steps(dtype: str, kind: str, loaded: dict[str, Frozen]) -> None:
    """Of two lengths in turn, with bits, and of a second model once the first is gone."""
    recipe = Recipe(loss="cross_entropy", lr=0.1)
    for _ in range(2):
        there = models.load(loaded[kind].name, device=str(DEVICE), dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for bucket in (8, 12, 8):
                one, other = (filled(there, recipe, Shape(1, bucket, 4), compile=how) for how in (False, "capture"))
                for _ in range(3):
                    assert one.step(stop) == other.step(stop) == []
                torch.testing.assert_close(one.state.mem, other.state.mem, atol=5e-2, rtol=0)
        del there, one, other
        gc.collect()


@on_gpu
@pytest.mark.parametrize("length", [64, 512])
@pytest.mark.parametrize("shape", ["pythia-160m", "llama-3.2-1b"])
def test_memory_is_what_is_predicted(shape: str, length: int) -> None:
    there = benchmark.load(f"random:{shape}", device=str(DEVICE), dtype="bfloat16")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(DEVICE)
    one = benchmark.bench(there, fitting.recipe("paper"), length=length)
    one.step()
    taken = memory.peak_bytes(DEVICE) / memory.predicted_bytes(there, one.batch.shape)
    assert 0.8 <= taken <= 1.1


@on_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_model_spread_over_gpus_is_the_model(tiny: Frozen) -> None:
    spread = models.load(tiny.name, device="auto")
    ids = torch.tensor(random_ids(5, 5))
    torch.testing.assert_close(spread.logits(spread.embed(ids)).cpu(), tiny.logits(tiny.embed(ids)), atol=1e-3, rtol=0)
    assert set(memory.predicted_by_device(spread, Shape(1, 8, 4))) <= {torch.device(f"cuda:{n}") for n in range(8)}
    assert fitting.fit(dataclasses.replace(spread), ids, HINGE).mem.shape == (2, 1, tiny.dim)
