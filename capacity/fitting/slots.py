"""The shapes that batches run at: padded lengths, and how many texts at once."""

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from capacity.fitting.memory import Shape, predicted_by_device
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import State, step
from capacity.models import WIDE, Frozen, is_exhausted, total_bytes

POSITIONS = {"cpu": 512, "cuda": 16384}  # of a batch; more is hardly faster
# On a processor the products of a WIDE model are at 85% of their rate with so few positions.
FEW = 128
SLOTS = {"cpu": 64, "cuda": 256}  # texts of a batch, at most
SHARE = 0.7  # of a device's memory that a batch may take, weights included


def bucket_of(length: int, *, most: int | None = None, few: bool = False) -> int:
    """Return the padded length that `length` tokens run at: 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160 and so on.

    Two an octave, four above 64, eight above 1024, and 1568, the paper's longest: few shapes to compile and to wait for
    each other, at most a third of padding from 6 tokens on, a fifth above 64, a ninth above 1024.

    most: the longest that the model's context has room for, where it has a limit; few: two an octave throughout, at
    most a third of padding, where every one is a graph that takes a minute to compile.
    """
    octave = 1 << (length - 1).bit_length()
    unit = octave // (4 if few or octave <= 64 else 8 if octave <= 1024 else 16)
    bucket = 1568 if 1536 < length <= 1568 else max(8, -(-length // max(1, unit)) * unit)
    return bucket if most is None else min(bucket, most)


def shape_of(frozen: Frozen, length: int, *, n_mem: int, compile: bool | str = False) -> Shape:
    """Return the shape that texts of a length run at: the same whenever it is asked on one machine.

    As many texts at once as the least power of two that fills POSITIONS, from 8 to SLOTS, halved until the prediction
    fits into SHARE of each device's memory. On a processor a WIDE model's fill FEW: whether fewer texts would give the
    same bits is tried beside a full batch, which takes long for such a model.

    compile: whether the step will be compiled: on a GPU there are fewer lengths then.
    """
    kind = frozen.device.type if frozen.device.type in SLOTS else "cpu"
    few = compile is True and kind == "cuda"
    padded = bucket_of(length, few=few)
    positions = FEW if kind == "cpu" and frozen.dim >= WIDE else POSITIONS[kind]
    slots = min(SLOTS[kind], max(8, 1 << (-(-positions // padded) - 1).bit_length()))
    shape = Shape(n_mem, bucket_of(length, most=frozen.room(n_mem), few=few), slots)
    while shape.slots > 1 and any(
        taken > SHARE * total_bytes(device) for device, taken in predicted_by_device(frozen, shape).items()
    ):
        shape = replace(shape, slots=shape.slots // 2)
    return shape


class _Trials:
    """What smaller batches of one shape were seen to give."""

    def __init__(self) -> None:
        self.whole: list[Tensor] = []  # what a full batch gives; none where it does not give the same bits twice
        self.alike: dict[int, bool] = {}  # by number of slots


_TRIALS: WeakKeyDictionary[Frozen, dict[tuple, _Trials]] = WeakKeyDictionary()


def narrowed(frozen: Frozen, recipe: Recipe, n_tasks: int, shape: Shape, *, compile: bool | str) -> Shape:
    """Return the shape with the fewest slots, two numbers an octave, that hold the tasks and give the same bits.

    A matrix product may add in another order at another size. Whether it does on this machine is tried, once for each
    number of slots, by a step of random texts both ways; what differs in one bit is not taken. Compiled, every number
    would be a graph of its own: it stays as it is.
    """
    if compile:
        return shape
    key = recipe.loss, shape, torch.get_num_threads()
    trials = _TRIALS.setdefault(frozen, {}).setdefault(key, _Trials())
    octaves = range(shape.slots.bit_length())
    sizes = sorted({size << octave for size in (2, 3) for octave in octaves} | {1})
    for slots in (size for size in sizes if n_tasks <= size < shape.slots):
        if slots not in trials.alike:
            try:
                trials.alike[slots] = _alike(frozen, recipe, shape, slots, trials)
            except (RuntimeError, MemoryError) as error:
                if not is_exhausted(error):
                    raise
                trials.alike[slots] = False  # no room for the trial is none for all slots: the batch finds out
        if trials.alike[slots]:
            return replace(shape, slots=slots)
    return shape


def _alike(frozen: Frozen, recipe: Recipe, shape: Shape, slots: int, trials: _Trials) -> bool:
    """Return whether so many of all slots, the last of them, give the same bits by themselves.

    None do, where the device does not give the same bits twice, as a GPU whose attention adds up in the order of
    arrival.
    """
    if not trials.alike:
        trials.whole = _moved(frozen, recipe, shape, slice(None))
        if frozen.device.type != "cpu" and not all(
            map(torch.equal, trials.whole, _moved(frozen, recipe, shape, slice(None)))
        ):
            trials.whole = []
    if not trials.whole:
        return False
    part = slice(shape.slots - slots, shape.slots)
    return all(
        torch.equal(own, every[part])
        for own, every in zip(_moved(frozen, recipe, shape, part), trials.whole, strict=True)
    )


def _moved(frozen: Frozen, recipe: Recipe, shape: Shape, part: slice) -> list[Tensor]:
    """Return what a step makes of a part of a full batch of random texts: state, what is right, finite, and bits."""
    n_mem, bucket, slots = shape.n_mem, shape.bucket, shape.slots
    generator = torch.Generator().manual_seed(0)
    mem, first, second = (
        torch.randn(slots, n_mem, frozen.dim, generator=generator) * frozen.embedding_std for _ in range(3)
    )
    targets = torch.randint(0, frozen.vocab_size, (slots, bucket), generator=generator)
    weights, updates = torch.full((slots, bucket), 1 / bucket), torch.arange(slots).float()
    *state, aims, weight = (
        tensor[part].to(frozen.device) for tensor in (mem, first, second * second, updates, targets, weights)
    )
    move = step(frozen, recipe, n_mem=n_mem, follow_bits=True)
    moved, right, finite, bits = move(State(*state), frozen.embed(aims[:, :-1]), aims, weight)
    assert bits is not None
    return [moved.mem, moved.first, moved.second, right, finite, bits]
