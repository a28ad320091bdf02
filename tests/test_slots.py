"""The shapes that batches run at: padded lengths, and how many texts at once."""

import copy
import dataclasses
import weakref

import pytest
import torch

from capacity.fitting import slots
from capacity.fitting.memory import Shape, predicted_bytes
from capacity.fitting.recipes import Recipe
from capacity.fitting.slots import bucket_of, shape_of
from capacity.fitting.step import Moved, State, step
from capacity.models import Frozen

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1)


@pytest.mark.parametrize(
    ("length", "bucket"),
    [
        (1, 8), (8, 8), (9, 12), (13, 16), (16, 16), (17, 24), (25, 32), (48, 48), (49, 64), (64, 64),
        (65, 80), (96, 96), (97, 112), (128, 128), (129, 160), (1000, 1024),
    ],
)  # fmt: skip
def test_buckets(length: int, bucket: int) -> None:
    assert bucket_of(length) == bucket_of(bucket) == bucket


def test_a_bucket_holds_its_length_with_little_padding() -> None:
    for length in range(1, 5000):
        bucket = bucket_of(length)
        assert length <= bucket <= bucket_of(length + 1)
        if length >= 6:
            assert 3 * (bucket - length) <= bucket
        if length > 64:
            assert 5 * (bucket - length) <= bucket


def test_buckets_are_few() -> None:
    assert len({bucket_of(length) for length in range(1, 1025)}) == 6 + 1 + 4 * 4  # to 48; 64; four octaves of four


def test_compiled_on_a_gpu_they_are_fewer() -> None:
    few = sorted({bucket_of(length, few=True) for length in range(1, 2049)})
    assert few == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 1568, 2048]
    assert all(bucket_of(bucket, few=True) == bucket for bucket in few)


@pytest.mark.parametrize(("length", "most", "bucket"), [(60, 61, 61), (40, 61, 48), (7, 8, 8), (5, 7, 7), (9, 100, 12)])
def test_a_bucket_ends_where_the_context_does(length: int, most: int, bucket: int) -> None:
    assert bucket_of(length, most=most) == bucket


@pytest.mark.parametrize(("bucket", "slots"), [(8, 64), (12, 64), (16, 32), (48, 16), (64, 8), (512, 8)])
def test_slots(bucket: int, slots: int, tiny: Frozen) -> None:
    config = copy.copy(tiny.model.config)
    config.max_position_embeddings = 1024
    model = copy.copy(tiny.model)
    model.config = config
    roomy = dataclasses.replace(tiny, model=model)
    assert shape_of(roomy, bucket, n_mem=1) == Shape(1, bucket, slots)


def test_slots_are_halved_until_they_fit(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    def predicted(slots: int) -> int:
        return predicted_bytes(tiny, Shape(2, 16, slots))

    found = []
    for total in (predicted(16), predicted(9), predicted(8), predicted(5), predicted(1), 0):
        monkeypatch.setattr(slots, "total_bytes", lambda device, total=total: total / slots.SHARE + 1)
        found.append(shape_of(tiny, 16, n_mem=2).slots)
        assert found[-1] == shape_of(tiny, 16, n_mem=2).slots  # the same again
    assert found == [16, 8, 8, 4, 1, 1]


@pytest.mark.parametrize("differs", [(), (1, 2), (4,)])
def test_fewer_slots_are_taken_where_they_give_the_same_bits(
    differs: tuple[int, ...], tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, made = copy.copy(tiny), step

    def rounded_otherwise(*args, **options):
        move = made(*args, **options)

        def moved(state, *others):
            alone = zip(*(tensor.split(1) for tensor in (*state, *others)), strict=True)
            every = [move(State(*part[:4]), *part[4:]) for part in alone]  # whose rounding cannot hang on their number
            states, *facts = zip(*every, strict=True)
            found = Moved(State(*map(torch.cat, zip(*states, strict=True))), *map(torch.cat, facts))
            if len(state.mem) not in differs:
                return found
            first = found.state.first.clone()
            first[-1, 0, 0] = first[-1, 0, 0].nextafter(torch.tensor(1.0))
            return found._replace(state=found.state._replace(first=first))

        return moved

    monkeypatch.setattr(slots, "step", rounded_otherwise)
    monkeypatch.setattr(slots, "_TRIALS", weakref.WeakKeyDictionary())

    def narrowed(tasks: int, *, most: int = 16, compile: bool = False) -> int:
        return slots.narrowed(frozen, HINGE, tasks, Shape(1, 8, most), compile=compile).slots

    for tasks in (1, 2, 3, 4, 5, 8, 9, 16, 20):
        fits = [n for n in (1, 2, 3, 4, 6, 8, 12, 16) if n >= tasks and n not in differs]
        assert narrowed(tasks) == min(fits, default=16)
    assert narrowed(3, compile=True) == 16
    assert narrowed(3, most=12) == 3
    assert narrowed(7, most=12) == 8
