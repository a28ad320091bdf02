"""The step compiled into one graph, forward, backward and update; or recorded as it is, for a GPU to replay."""

import warnings
from collections.abc import Callable
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map_only

from capacity.files import first_line
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import Moved, State, Step, step
from capacity.models import Frozen, is_exhausted

CAPTURE = "capture"  # in place of `compile=True`
Inputs = tuple[State, Tensor, Tensor, Tensor]
_COMPILED: WeakKeyDictionary[Frozen, dict[tuple, Step | None]] = WeakKeyDictionary()  # None: it can't be
# Of what a step moves, by which a recorded one may be off, or so many times as the step itself is off when it is done
# again: on a GPU attention adds up in any order, in bfloat16 a hundredth and more.
_APART, _TIMES = 0.1, 4.0


def check(compile: bool | str) -> None:
    """Raise ValueError for what is no way to run a step."""
    if compile not in (False, True, CAPTURE):
        raise ValueError(f"compile is {str(compile)[:80]!r}; True, False and {CAPTURE!r} are allowed")


def compiled(
    frozen: Frozen, recipe: Recipe, *, n_mem: int, follow_bits: bool, like: Inputs, how: bool | str = True
) -> Step:
    """Return the step for the shapes of `like`, forward, backward and update in one graph, made once a process.

    how: True compiles it, and on CUDA the graph is replayed (mode `reduce-overhead`); CAPTURE records the step's own
    kernels there, which saves what launching them one by one costs, and is the step as it is elsewhere.

    Where the model can't be traced or recorded, there is no compiler, or the record gives other numbers, the step as it
    is comes back, with a warning that says why.
    """
    known = _COMPILED.setdefault(frozen, {})
    name = (how, recipe, n_mem, follow_bits, *like[1].shape)
    plain = step(frozen, recipe, n_mem=n_mem, follow_bits=follow_bits)
    if name not in known:
        frozen.inputs(like[0].mem, like[1])  # what it keeps of BOS must not come from the tracing
        on_gpu = frozen.device.type == "cuda"
        try:
            with warnings.catch_warnings():  # float32 is meant
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
                if how == CAPTURE:
                    known[name] = _captured(plain, like, _recorder(frozen, known)) if on_gpu else None
                else:
                    known[name] = _compile(plain, like, on_gpu)
        except Exception as error:  # whatever tracing and compilers raise: the fit itself can go on
            if is_exhausted(error):  # in smaller batches it may be compiled, too
                raise
            reason = f"{type(error).__name__}: {first_line(error)}"
            done = "unrecorded" if how == CAPTURE else "uncompiled"
            warnings.warn(f"{frozen.name} runs {done}: {reason}", stacklevel=2)
            known[name] = None
    return known[name] or plain


Record = Callable[[Callable[[], Moved]], tuple[Callable[[], None], Moved]]  # (a step) -> what replays it, what it finds


def _captured(plain: Step, like: Inputs, record: Record) -> Step:
    """Return the step as a record that is replayed on copies of what it is given; tried against the step itself.

    record: calls what it is given and returns what replays it, into the same tensors.
    """
    given = _others(plain, like)
    expected, again = plain(*given), plain(*given)  # before the record, which keeps its memory
    state, *rest = like
    fixed = [tensor.clone() for tensor in (*state, *rest)]  # the record reads these, and no others
    replay, outputs = record(lambda: plain(State(*fixed[:4]), *fixed[4:]))

    def move(state: State, context: Tensor, targets: Tensor, weights: Tensor) -> Moved:
        with torch.no_grad():
            for place, tensor in zip(fixed, (*state, context, targets, weights), strict=True):
                place.copy_(tensor)
            replay()
            return tree_map_only(Tensor, torch.clone, outputs)  # the next replay writes over these

    move.pool = getattr(replay, "pool", None)  # pyright: ignore[reportFunctionMemberAccess]: of the records to come
    made = move(*given)
    if not torch.equal(made.finite, expected.finite):
        raise RuntimeError("the recorded step gives other numbers than the step")
    for recorded, plain_move, again_move in zip(
        *(_moves(moved, given[0], expected.finite) for moved in (made, expected, again)), strict=True
    ):
        apart, allowed = (recorded - plain_move).norm(), _TIMES * (plain_move - again_move).norm()
        if not apart <= max(_APART * plain_move.norm(), allowed):
            raise RuntimeError("the recorded step gives other numbers than the step")
    return move


def _others(plain: Step, like: Inputs) -> Inputs:
    """Return inputs that differ from these in every tensor, each of a size that tells in what the step finds."""
    state, context, targets, weights = like
    noise = torch.randn(state.mem.shape, generator=torch.Generator().manual_seed(0)).to(state.mem)
    mem, updates = noise * state.mem.std().clamp(min=1e-3), state.updates + 7
    rest = context.roll(1, 1), targets.roll(1, 1), weights.roll(1, 1) / 2
    blank = torch.zeros_like(mem)
    share = plain(State(mem, blank, blank, updates), *rest).state.first  # of the gradient
    return State(mem, share.roll(1, -1), 10 * share.roll(1, -1) ** 2, updates), *rest


def _moves(moved: Moved, before: State, finite: Tensor) -> list[Tensor]:
    """Return what a step found and moved of the slots that are finite."""
    state = moved.state
    every = [state.mem - before.mem, state.first, state.second, state.updates]
    return [part[finite].float() for part in (*every, *([] if moved.bits is None else [moved.bits]))]


def _recorder(frozen: Frozen, known: dict[tuple, Step | None]) -> Record:
    """Return what records on a model's GPU; all records of a model share one pool of memory, while any is there.

    One is replayed at a time, and what it finds is copied. A model on several devices is refused: what lies on the
    others would not be in the pool.
    """
    if {parameter.device for parameter in frozen.model.parameters()} != {frozen.device}:
        raise RuntimeError("the model lies on several devices")
    pool = next((made.pool for made in known.values() if getattr(made, "pool", None)), None)  # pyright: ignore

    def record(call: Callable[[], Moved]) -> tuple[Callable[[], None], Moved]:
        return _record(call, frozen.device, pool)

    return record


@cache
def _side(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _record(
    call: Callable[[], Moved], device: torch.device, pool: tuple[int, int] | None
) -> tuple[Callable[[], None], Moved]:
    """Record what is done on a GPU as a CUDA graph, after it was done on the same side stream, as CUDA asks for."""
    with torch.cuda.device(device):
        before, side, graph = torch.cuda.current_stream(), _side(device), torch.cuda.CUDAGraph()
        try:
            side.wait_stream(before)
            with torch.cuda.stream(side):
                for _ in range(2):
                    call()
            before.wait_stream(side)
            with torch.cuda.graph(graph, pool=pool, stream=side):  # pyright: ignore[reportArgumentType]
                outputs = call()
        finally:
            torch.cuda.set_stream(before)  # also where capturing failed

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    replay.pool = graph.pool()  # pyright: ignore[reportFunctionMemberAccess]
    return replay, outputs


def _compile(plain: Step, like: Inputs, replay: bool) -> Step:
    state, *rest = like
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # without it, transformers looks at values while it is traced
    with fake:
        traced = make_fx(lambda *flat: plain(State(*flat[:4]), *flat[4:]))(
            *(fake.from_tensor(tensor) for tensor in (*state, *rest))
        )
    run = torch.compile(traced, dynamic=False, mode="reduce-overhead" if replay else None)

    def move(state: State, context: Tensor, targets: Tensor, weights: Tensor) -> Moved:
        with torch.no_grad():
            out = run(*state, context, targets, weights)
            if replay:  # the next replay writes over these
                out = tree_map_only(Tensor, torch.clone, out)
            return Moved(State(*out[0]), *out[1:])

    for _ in range(3 if replay else 1):  # compiles, records the graph, replays it
        move(*like)
    return move
