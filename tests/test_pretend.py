"""A GPU's part played by a processor: tensors that say `cuda:0`, refuse to mix, and count what is copied."""

import copy
import dataclasses
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from capacity import decoding, fitting, models
from capacity.fitting import graph, memory, slots
from capacity.fitting.batch import Batch
from capacity.fitting.losses import LOSSES
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.search import stop
from capacity.fitting.step import State, step
from capacity.models import Frozen

pytestmark = pytest.mark.slow
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
aten = torch.ops.aten


class Pretend(torch.Tensor):
    """A tensor that says it lies on `place`; its values are held on the processor."""

    @staticmethod
    def __new__(cls, held: Tensor, place: torch.device) -> "Pretend":
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device="meta", requires_grad=False,
        )  # fmt: skip

    def __init__(self, held: Tensor, place: torch.device):
        self.held, self.place = held, place

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:
        return self.place

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = {leaf.place for leaf in leaves if isinstance(leaf, Pretend)}
        others = [leaf for leaf in leaves if not isinstance(leaf, Pretend) and leaf.ndim]
        if func is aten.copy_.default and (others or len(places) > 1):
            SEEN.copies += 1
        elif others and func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default):
            SEEN.copies += 1  # places and values on the processor are copied there
        elif others or len(places) > 1:
            raise RuntimeError(f"{func}: tensors on {sorted(map(str, places))} and on the processor")
        if func in (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default):
            SEEN.waits += 1
        if func is aten.histc.default:  # of whole numbers on a GPU alone
            args = (Pretend(args[0].held.float(), args[0].place), *args[1:])
        if func is aten.where.self:  # the zero that its pass backward makes where no tensor says it is
            args = tuple(x.new_zeros((), device=CPU) if x.device.type == "meta" else x for x in args)
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs) | ({"device": CPU} if "device" in kwargs else {}))
        (place,) = places

        def lay(value):
            if isinstance(value, Tensor):
                SEEN.hold(value, place)
                SEEN.doubles += value.dtype == torch.float64
                return Pretend(value, place)
            return value

        return return_and_correct_aliasing(func, args, kwargs, tree_map(lay, out))


def _held(value):
    return value.held if isinstance(value, Pretend) else value


def attended(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Return attention by its formula; torch's own makes its causal mask where no tensor says it is."""
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for one in (key, value))
    weights = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        later = Pretend(torch.ones(query.shape[2], key.shape[2]).triu(1).bool(), query.device)
        weights = weights.masked_fill(later, float("-inf"))
    if attn_mask is not None:
        weights = (
            weights.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype is torch.bool else weights + attn_mask
        )
    return torch.softmax(weights, -1) @ value


class Seen(TorchFunctionMode):
    """What is asked for on `cuda` lies there; counted are copies, waits, float64 and the masks of attention."""

    def __init__(self):
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.copies = self.blocking = self.waits = self.doubles = 0
        self.attended: list[tuple[bool, bool]] = []  # (has a mask, is causal)
        self.shared = 0  # calls in which heads share keys and values
        self.held: dict[torch.device, int] = {}  # bytes that operations made and that are alive, by place
        self.most: dict[torch.device, int] = {}  # the most there were
        self.alive: set[int] = set()

    def hold(self, value: Tensor, place: torch.device) -> None:
        storage = value.untyped_storage()
        if storage._cdata in self.alive:
            return
        self.alive.add(storage._cdata)
        self.held[place] = self.held.get(place, 0) + storage.nbytes()
        self.most[place] = max(self.most.get(place, 0), self.held[place])
        weakref.finalize(storage, self._let_go, self.alive, storage._cdata, self.held, place, storage.nbytes())

    @staticmethod
    def _let_go(alive: set[int], which: int, held: dict[torch.device, int], place: torch.device, size: int) -> None:
        alive.discard(which)
        held[place] -= size

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.attended.append((kwargs.get("attn_mask") is not None, bool(kwargs.get("is_causal"))))
            self.shared += bool(kwargs.get("enable_gqa"))
            if isinstance(args[0], Pretend):
                return attended(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func in (torch.Tensor.cpu, torch.Tensor.to):
            return self._to(func, *args, **kwargs)
        if func is torch.Tensor.tolist and isinstance(args[0], Pretend):
            self.copies += 1
            return args[0].held.tolist()
        if func is torch.Tensor.numpy and isinstance(args[0], Pretend):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.__setitem__ and isinstance(args[0], Pretend) and isinstance(args[2], int | float):
            return args[0][args[1]].fill_(args[2])
        if func is torch.where and isinstance(args[0], Pretend):  # torch puts a bare number where no tensor says it is
            like = next((x for x in args[1:] if isinstance(x, Tensor)), None)
            dtype = torch.float32 if like is None else like.dtype
            args = tuple(
                Pretend(torch.tensor(x, dtype=dtype), args[0].place) if isinstance(x, int | float) else x for x in args
            )
        place = kwargs.get("device")
        if place is not None and torch.device(place).type == "cuda":
            out = func(*args, **kwargs | {"device": CPU})
            return Pretend(out, torch.device(place)) if not isinstance(out, Pretend) else out
        return func(*args, **kwargs)

    def _to(self, func, tensor: Tensor, *args, **kwargs) -> Tensor:
        if func is torch.Tensor.cpu:
            args, kwargs = (CPU,), {}
        wanted = [*args, *kwargs.values()]
        places = [torch.device(x) for x in wanted if isinstance(x, torch.device | str)]
        places += [x.device for x in wanted if isinstance(x, Tensor)]
        dtypes = [x for x in wanted if isinstance(x, torch.dtype)] + [x.dtype for x in wanted if isinstance(x, Tensor)]
        if dtypes and dtypes[0] != tensor.dtype:
            tensor = tensor.to(dtypes[0])
        if not places or places[0] == tensor.device:
            return tensor
        self.copies += 1
        self.blocking += not kwargs.get("non_blocking")
        held = tensor.detach().held if isinstance(tensor, Pretend) else tensor.detach()
        return held.clone() if places[0] == CPU else Pretend(held.clone(), places[0])


SEEN = Seen()


def laid(like: Frozen, *, bos: str = "none", places: Callable[[str], torch.device] = lambda name: CUDA) -> Frozen:
    """Return the model with its weights where `places` says by their names; to be called while SEEN is on."""
    model, memo = copy.deepcopy(like.model), {}
    for path, module in model.named_modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = memo.setdefault(id(tensor), _laid(tensor, places(f"{path}.{name}")))
    return models.freeze(model, like.tokenizer, name=like.name, revision=like.revision, bos=bos)


def _laid(tensor: Tensor, place: torch.device) -> Tensor:
    there = Pretend(tensor.detach().clone(), place)
    return torch.nn.Parameter(there, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else there


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Frozen]]:
    """Return what lays a model on the pretend device."""
    monkeypatch.setattr(slots, "total_bytes", lambda device: 2**34)
    monkeypatch.setitem(slots.POSITIONS, "cuda", 64)
    monkeypatch.setitem(slots.SLOTS, "cuda", 8)

    def lay(like: Frozen, **options) -> Frozen:
        frozen = laid(like, **options)
        memory._GROWTH[frozen] = memory._growth(like)  # storages of the pretend device have no addresses
        return frozen

    SEEN.forget()
    with SEEN, torch.autograd.set_multithreading_enabled(False):
        yield lay


def random_ids(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 300, (length,), generator=generator).tolist() for length in lengths]


def test_the_pretend_device_refuses_a_mixture_and_counts(gpu) -> None:
    there = torch.arange(3.0, device=CUDA)
    with pytest.raises(RuntimeError, match="on the processor"):
        there + torch.arange(3.0)
    with pytest.raises(RuntimeError, match="on the processor"):
        there + torch.zeros(3, device="cuda:1")
    assert (there.device, (there * 2).cpu().tolist(), SEEN.copies, SEEN.waits) == (CUDA, [0.0, 2.0, 4.0], 1, 0)
    assert bool((there > -1).all())
    assert (SEEN.waits, SEEN.doubles) == (1, 0)
    assert there.double().cpu().tolist() == [0.0, 1.0, 2.0]
    assert SEEN.doubles > 0


def test_a_search_finds_on_it_what_it_finds_on_the_processor(gpu, frozen: Frozen) -> None:
    bos = "before_mem" if frozen.vocab_size > 300 else "none"  # one of the families
    (ids,) = random_ids(5)
    recipe = Recipe(loss="squared_hinge", margin=0.05, lr=0.3, steps=4)
    there, here = gpu(frozen, bos=bos), dataclasses.replace(frozen, bos=bos)
    found, expected = (fitting.exact_length(one, [ids], recipe, n_mem=2, budget=12)[0] for one in (there, here))

    def ends(one: fitting.Longest) -> list[tuple]:
        return [(probe.length, probe.status, probe.steps, probe.n_correct) for probe in one.probes]

    assert (found.length, ends(found)) == (expected.length, ends(expected))
    mem = expected.probes[-1].mem
    torch.testing.assert_close(found.probes[-1].mem, mem, atol=1e-3, rtol=0)
    back = decoding.free_running(here, mem, 4)
    assert decoding.free_running(there, mem, 4) == back
    assert decoding.teacher_forced(there, mem.unsqueeze(0), torch.tensor([back])).exact().tolist() == [True]
    assert SEEN.doubles == 0


@pytest.mark.parametrize(
    ("kind", "loss"),
    [*(("llama", loss) for loss in LOSSES), *((kind, "cross_entropy") for kind in ("neox", "opt", "grouped", "gemma"))],
)
def test_a_step_copies_twice_and_never_waits(kind: str, loss: str, gpu, loaded: dict[str, Frozen]) -> None:
    there = gpu(loaded[kind])
    recipe = Recipe(loss=loss, margin=50.0, lr=0.1)
    batch = Batch(there, recipe, Shape(1, 8, 4))
    for slot, ids in enumerate(random_ids(7, 5, 8)):
        batch.put(slot, fitting.task(there, ids, n_mem=1, seed=0, length=len(ids), scored_from=0))
    batch.step(stop)
    for _ in range(3):
        SEEN.forget()
        assert batch.step(stop) == []
        assert SEEN.copies == (2 if loss == "cross_entropy" else 1)
        assert (SEEN.waits, SEEN.doubles) == (0, 0)


def test_texts_go_in_and_out_together_in_few_copies(gpu, tiny: Frozen) -> None:
    there = gpu(tiny)
    batch = Batch(there, Recipe(loss="hinge", lr=0.1), Shape(1, 8, 4))
    queue = [fitting.task(there, ids, n_mem=1, seed=0, length=3, scored_from=0) for ids in random_ids(*[3] * 6)]
    tasks = list(queue)
    SEEN.forget()
    batch.fill(queue)
    assert (SEEN.copies, SEEN.blocking, SEEN.waits) == (2, 0, 0)
    assert (queue, batch.tasks) == (tasks[:2], tasks[:1:-1])
    assert batch.targets[1, :3].tolist() == tasks[4].ids
    SEEN.forget()
    assert batch.take_all() == tasks[:1:-1]
    assert (SEEN.copies, SEEN.blocking, SEEN.waits) == (2, 1, 0)  # which slots, and what is in them
    assert all(torch.equal(task.mem, task.best_mem) and len(task.mem.unique()) > 1 for task in tasks[2:])


@pytest.mark.parametrize("kind", ["llama", "neox", "opt", "grouped"])
def test_attention_is_causal_without_a_mask_while_traced(
    kind: str, loaded: dict[str, Frozen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda traced, **options: traced)
    SEEN.forget()
    with SEEN:
        fitting.fit(loaded[kind], [[1, 2, 3]], Recipe(loss="hinge", lr=0.1, steps=1), compile=True)
    assert set(SEEN.attended) == {(False, True)}


EXHAUSTED = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.95 GB, other allocations: 1.2 MB)"),
    RuntimeError("Invalid buffer size: 20.00 GiB"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 2 bytes."),
]


@pytest.mark.parametrize("error", EXHAUSTED, ids=lambda error: str(error)[:40])
def test_every_text_of_memory_running_out_halves_the_batch(
    error: Exception, tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it comes while a graph is recorded, whose own error then says less."""
    made, mover = [], Batch._mover

    def limited(self: Batch):
        made.append(self.shape.slots)
        if self.shape.slots > 2:
            try:
                raise error
            except Exception as ran_out:
                if len(made) == 1:
                    raise RuntimeError(
                        "CUDA error: operation failed due to a previous error during capture"
                    ) from ran_out
                raise
        return mover(self)

    monkeypatch.setattr(Batch, "_mover", limited)
    monkeypatch.setitem(slots.SLOTS, "cpu", 8)
    ids = random_ids(3, 3, 3, 3, 3, 3, 3, 3)
    found = fitting.fit(tiny, ids, Recipe(loss="hinge", lr=0.0, steps=1))
    assert made[:3] == [8, 4, 2]
    assert found.steps == [1] * 8


def test_what_failed_otherwise_is_no_lack_of_memory() -> None:
    for text in ("CUDA error: device-side assert triggered", "out of resource: shared memory", "mat1 and mat2 shapes"):
        assert not models.is_exhausted(RuntimeError(text))
    assert not models.is_exhausted(ValueError("the text of a song called out of memory"))


def test_memory_that_runs_out_as_a_step_is_compiled_is_not_uncompiled_for_good(
    tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compile(traced, **options):
        def failing(*tensors):
            calls.append(len(tensors[0]))
            if calls[-1] > 4:
                raise RuntimeError("CUDA error: out of memory")
            return traced(*tensors)

        return failing

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(graph, "_COMPILED", type(graph._COMPILED)())
    monkeypatch.setitem(slots.SLOTS, "cpu", 8)
    fitting.fit(tiny, [[1, 2, 3]] * 8, Recipe(loss="hinge", lr=0.0, steps=1), compile=True)
    assert calls[0] == 8
    assert set(calls[1:]) == {4}
    assert len(calls) >= 4


def test_a_graph_is_recorded_before_it_is_counted_as_compiled(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call compiles, the second records, the third replays: a recording that fails, fails here."""
    calls = []

    def compile(traced, **options):
        def recording(*tensors):
            calls.append(options["mode"])
            if len(calls) == 2:
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
            return traced(*tensors)

        return recording

    monkeypatch.setattr(torch, "compile", compile)
    mem = torch.zeros(2, 1, tiny.dim)
    like = (
        State(mem, mem, mem, torch.zeros(2)), tiny.embed(torch.zeros(2, 3, dtype=torch.long)),
        torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4),
    )  # fmt: skip
    move = step(tiny, Recipe(loss="hinge", lr=0.1), n_mem=1, follow_bits=False)
    with pytest.raises(RuntimeError, match="capturing"):
        graph._compile(move, like, replay=True)
    assert calls == ["reduce-overhead"] * 2
    calls.clear()
    calls.append("")
    calls.append("")
    graph._compile(move, like, replay=True)
    assert len(calls) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_are_repeated_where_no_fast_kernel_shares_them(dtype: torch.dtype, gpu, loaded: dict[str, Frozen]) -> None:
    here = loaded["grouped"]
    there = gpu(dataclasses.replace(here, model=copy.deepcopy(here.model).to(dtype)))
    SEEN.forget()
    embeds = there.embed(torch.tensor([[1, 2, 3]]))
    found = there.hidden(embeds)
    assert (len(SEEN.attended), SEEN.shared) == (2, 0 if dtype == torch.float32 else 2)  # layers
    if dtype == torch.float32:
        torch.testing.assert_close(found.cpu(), here.hidden(here.embed(torch.tensor([[1, 2, 3]]))), atol=1e-5, rtol=0)


def test_ended_texts_are_decoded_in_one_batch(gpu, tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    there, passes, carried = gpu(tiny), [], Frozen.carried

    def counted(self: Frozen, embeds: Tensor, state: dict | None = None) -> tuple:
        passes.append(len(embeds))
        return carried(self, embeds, state)

    monkeypatch.setattr(Frozen, "carried", counted)
    ids = random_ids(2, 2, 2, 2)
    recipe = Recipe(loss="squared_hinge", margin=0.05, lr=0.3, steps=60)
    found = fitting.exact_length(there, ids, recipe, n_mem=2, budget=400)
    assert sum(one.length for one in found) >= 4
    assert max(passes) > 1
    assert len(passes) < sum(one.length for one in found)


def test_a_device_that_gives_other_bits_each_time_claims_no_smaller_batch(
    gpu, tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, made, calls = gpu(tiny), slots.step, []

    def drifting(*args, **options):
        move = made(*args, **options)

        def moved(*given):
            calls.append(len(given[1]))
            found = move(*given)
            return found._replace(state=found.state._replace(mem=found.state.mem + len(calls) * 1e-3))

        return moved

    recipe, shape = Recipe(loss="hinge", margin=0.05, lr=0.1), Shape(1, 8, 8)
    assert slots.narrowed(there, recipe, 2, shape, compile=False).slots < 8
    monkeypatch.setattr(slots, "step", drifting)
    monkeypatch.setattr(slots, "_TRIALS", type(slots._TRIALS)())
    assert [slots.narrowed(there, recipe, n, shape, compile=False).slots for n in (2, 1, 4)] == [8, 8, 8]
    assert calls == [8, 8]  # the whole batch twice, once for all


def test_the_warning_about_float32_is_no_reason_to_run_uncompiled(
    tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile(traced, **options):
        warnings.warn(
            "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled.", stacklevel=2
        )
        return traced

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(graph, "_COMPILED", type(graph._COMPILED)())
    fitting.fit(tiny, [[1, 2, 3]], Recipe(loss="hinge", lr=0.0, steps=1), compile=True)
    ((move,),) = (known.values() for known in graph._COMPILED.values())
    assert move is not None


def test_compiled_steps_have_fewer_lengths_on_it_alone(gpu, tiny: Frozen) -> None:
    there = gpu(tiny)
    there.model.config.max_position_embeddings = here = 256
    assert [slots.shape_of(there, 100, n_mem=1, compile=compile).bucket for compile in (False, True)] == [112, 128]
    assert slots.shape_of(tiny, 60, n_mem=1, compile=True) == slots.shape_of(tiny, 60, n_mem=1)
    assert there.context == here


def test_a_recording_that_fails_leaves_the_step_as_it_is(gpu, tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(graph, "_compile", failing)
    there, recipe = gpu(tiny), Recipe(loss="hinge", lr=0.1, steps=2)
    with pytest.warns(UserWarning, match="runs uncompiled: RuntimeError: CUDA error: operation failed") as caught:
        found = fitting.fit(there, [[1, 2, 3]], recipe, compile=True)
    assert len(caught) == 1
    assert torch.equal(found.mem, fitting.fit(there, [[1, 2, 3]], recipe).mem)


class Moving(torch.autograd.Function):
    """A copy to another place, and its gradient's way back."""

    @staticmethod
    def forward(ctx, tensor: Pretend, place: torch.device) -> Tensor:
        ctx.place = tensor.place
        return Pretend(tensor.held.clone(), place)

    @staticmethod
    def backward(ctx, *slopes: Pretend) -> tuple[Tensor, None]:
        return Pretend(slopes[0].held.clone(), ctx.place), None


def moved_to(place: torch.device) -> Callable:
    """Return a hook that moves what a module is given, as accelerate's does."""

    def move(value):
        return Moving.apply(value, place) if isinstance(value, Pretend) and value.place != place else value

    return lambda module, args, options: tree_map(move, (args, options))


@pytest.mark.parametrize("n_there", [0, 2, 3])  # layers on the second device, of six
def test_memory_of_two_devices_is_what_is_predicted_of_each(
    n_there: int, gpu, tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flash(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)[0]

    monkeypatch.setattr(sys.modules[__name__], "attended", flash)  # keeps no weights of attention
    config, second, bucket, slots = copy.deepcopy(tiny.model.config), torch.device("cuda:1"), 32, 16
    config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.head_dim = 6, 64, 256, 16
    with torch.random.fork_rng():
        like = models.freeze(type(tiny.model)(config), tiny.tokenizer, name="spread", revision="0" * 16)
    for number, layer in enumerate(like.model.model.layers):
        place = second if number >= 6 - n_there else CUDA
        layer.register_forward_pre_hook(moved_to(place), with_kwargs=True)
    like.model.model.norm.register_forward_pre_hook(moved_to(CUDA), with_kwargs=True)
    late = tuple(f"model.layers.{number}." for number in range(6 - n_there, 6))
    there = gpu(like, places=lambda name: second if name.startswith(late) else CUDA)
    recipe = Recipe(loss="cross_entropy", lr=0.1)
    state = State(*(torch.zeros(slots, 1, 64, device=CUDA) for _ in range(3)), torch.zeros(slots, device=CUDA))
    targets = torch.zeros(slots, bucket, dtype=torch.long, device=CUDA)
    given = state, there.embed(targets[:, :-1]), targets, torch.ones(slots, bucket, device=CUDA)
    move = step(there, recipe, n_mem=1, follow_bits=True)
    SEEN.forget()
    move(*given)
    taken = dict(SEEN.most)
    taken[CUDA] += sum(tensor.nbytes for tensor in (*state, *given[1:]))
    for tensor in there.model.parameters():
        taken[tensor.device] = taken.get(tensor.device, 0) + tensor.nbytes
    predicted = memory.predicted_by_device(there, Shape(1, bucket, slots))
    assert set(predicted) == set(taken) == ({CUDA, second} if n_there else {CUDA})
    assert all(0.8 <= taken[place] / predicted[place] <= 1.1 for place in taken)
