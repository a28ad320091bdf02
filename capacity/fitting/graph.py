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
_APART = 1e-2  # of the gradients' size, by which a recorded step may be off: attention adds up in any order


def check(compile: bool | str) -> None:
    """Raise ValueError for what is no way to run a step."""
    if compile not in (False, True, CAPTURE):
        raise ValueError(f"compile is {str(compile)[:80]!r}; True, False and {CAPTURE!r} are allowed")


def compiled(
    frozen: Frozen, recipe: Recipe, *, n_mem: int, follow_bits: bool, like: Inputs, how: bool | str = True
) -> Step:
    """Return the step for the shapes of `like`, forward, backward and update in one graph, made once a process.

    how: True compiles it, and on CUDA the graph is replayed (mode `reduce-overhead`); CAPTURE records the step's own
    kernels there, which takes seconds and saves what launching them costs, and is the step as it is elsewhere.

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
                    known[name] = _captured(plain, like, _record) if on_gpu else None
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


def _captured(plain: Step, like: Inputs, record: Callable[[Callable[[], Moved]], tuple[Callable[[], None], Moved]]):
    """Return the step as a record that is replayed on copies of what it is given; checked against the step itself.

    record: calls what it is given and returns what replays it, into the same tensors.
    """
    state, *rest = like
    fixed = [tensor.clone() for tensor in (*state, *rest)]  # the record reads these, and no others
    replay, found = record(lambda: plain(State(*fixed[:4]), *fixed[4:]))

    def move(state: State, context: Tensor, targets: Tensor, weights: Tensor) -> Moved:
        with torch.no_grad():
            for place, tensor in zip(fixed, (*state, context, targets, weights), strict=True):
                place.copy_(tensor)
            replay()
            return tree_map_only(Tensor, torch.clone, found)  # the next replay writes over these

    mem = torch.randn_like(state.mem) * state.mem.std().clamp(min=1e-3)  # not what it was recorded with
    given = (State(mem, *state[1:]), *rest)
    one, other = move(*given), plain(*given)
    off = (one.state.first - other.state.first).norm()  # AdamW's own move is of one size, whatever the gradient's
    if not torch.equal(one.finite, other.finite) or not off <= _APART * other.state.first.norm():
        raise RuntimeError("the recorded step gives other numbers than the step")
    return move


@cache
def _pool():
    """Return the memory that all records share: one is replayed at a time, and what it found is copied."""
    return torch.cuda.graph_pool_handle()


def _record(call: Callable[[], Moved]) -> tuple[Callable[[], None], Moved]:
    """Record what is done on the GPU as a CUDA graph, once it was done on a side stream, as CUDA asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool()):
        found = call()
    return graph.replay, found


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
