"""The same step traced into a graph, or why not."""

import copy
import gc
import os
import shutil
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from inputs import close, inputs
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten
from transformers import LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from capacity import fitting, models
from capacity.fitting import graph
from capacity.fitting.graph import compiled
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import step
from capacity.models import Frozen

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1)


def as_traced(graph: torch.nn.Module, **_) -> torch.nn.Module:
    """Return the graph as it was traced, in place of torch.compile, which takes minutes."""
    return graph


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loss"), [("llama", "hinge"), ("neox", "cross_entropy"), ("gemma", "wrong_tokens")])
def test_a_traced_step_is_the_step(
    kind: str, loss: str, loaded: dict[str, Frozen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", as_traced)
    frozen, recipe = loaded[kind], Recipe(loss=loss, margin=0.05, lr=0.1)
    given = inputs(frozen, n_mem=2)
    graph = compiled(frozen, recipe, n_mem=2, follow_bits=True, like=given)
    plain = step(frozen, recipe, n_mem=2, follow_bits=True)
    for seed in range(2):  # the second time other values than it was traced with
        given = inputs(frozen, n_mem=2, seed=seed)
        close(graph(*given), plain(*given), atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # in torch itself
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler for torch.compile")
def test_a_compiled_step_is_the_step(tiny: Frozen) -> None:
    config = copy.deepcopy(tiny.model.config)
    config.num_hidden_layers = 1  # half the time
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frozen = models.freeze(LlamaForCausalLM(config), tiny.tokenizer, name="one layer", revision="0" * 16)
    given = inputs(frozen)
    graph = compiled(frozen, HINGE, n_mem=1, follow_bits=True, like=given)
    plain = step(frozen, HINGE, n_mem=1, follow_bits=True)
    assert graph is compiled(frozen, HINGE, n_mem=1, follow_bits=True, like=given)  # not a second time
    for seed in range(3):
        given = inputs(frozen, seed=seed)
        close(graph(*given), plain(*given), atol=1e-5)


@pytest.mark.slow
def test_a_step_is_compiled_once_for_a_shape(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def watched(graph: torch.nn.Module, **options) -> torch.nn.Module:
        made.append(options)
        return as_traced(graph)

    monkeypatch.setattr(torch, "compile", watched)
    monkeypatch.setattr(graph, "_COMPILED", weakref.WeakKeyDictionary())
    options = {"n_mem": 1, "compile": True, "seed": 3}
    recipe = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=3)
    first = fitting.fit(tiny, [[1, 2, 3], [4, 5, 6, 7]], recipe, **options)
    assert made == [{"dynamic": False, "mode": None}]
    again = fitting.fit(tiny, [[1, 2, 3], [4, 5, 6, 7]], recipe, **options)
    fitting.fit(tiny, [[8, 2]], recipe, **options)
    assert len(made) == 1
    assert torch.equal(first.mem, again.mem)
    fitting.fit(tiny, [[8] * 9], recipe, **options)  # of the next bucket
    assert len(made) == 2


@pytest.mark.slow
@pytest.mark.parametrize("compile", [True, False])
def test_what_is_kept_of_bos_comes_from_no_trace(
    compile: bool, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", as_traced)
    frozen = models.load(str(folders["llama"]), device="cpu", bos="before_mem")
    recipe = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=3)
    one, other = (fitting.fit(frozen, [[1, 2, 3]], recipe, compile=how) for how in (compile, not compile))
    torch.testing.assert_close(one.mem, other.mem, atol=1e-6, rtol=0)


class Looking(PreTrainedModel):
    """A model that can't be traced: what it does depends on the values it is given."""

    config_class = PreTrainedConfig

    def __init__(self, width: int):
        super().__init__(PreTrainedConfig(hidden_size=width, num_hidden_layers=1, tie_word_embeddings=False))
        self.table = torch.nn.Embedding(300, width)
        self.mix = torch.nn.Linear(width, width)
        self.requires_grad_(False)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.table

    def forward(self, inputs_embeds: Tensor, use_cache: bool = False) -> SimpleNamespace:
        mixed = torch.tanh(self.mix(inputs_embeds).cumsum(1))
        return SimpleNamespace(last_hidden_state=mixed if inputs_embeds.sum() > 0 else -mixed)


def looking(like: Frozen) -> Frozen:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Looking(8)
    return Frozen(model, like.tokenizer, name="looking", revision="0" * 16, weight=model.table.weight, bias=None)


def test_a_model_that_cannot_be_traced_runs_as_it_is(tiny: Frozen) -> None:
    frozen = looking(tiny)
    ids, recipe = [[1, 2, 3], [4, 5, 6, 7]], Recipe(loss="hinge", margin=0.05, lr=0.1, steps=5)
    with pytest.warns(UserWarning, match="^looking runs uncompiled: [A-Za-z]+: .") as caught:
        found = fitting.fit(frozen, ids, recipe, compile=True)
    assert len(caught) == 1  # not at every step
    plain = fitting.fit(frozen, ids, recipe)
    assert torch.equal(found.mem, plain.mem)
    assert (found.status, found.steps, found.n_correct) == (plain.status, plain.steps, plain.n_correct)


@pytest.mark.slow
def test_a_model_is_given_up_after_use_traced_or_not(
    tiny: Frozen, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", as_traced)
    recipe = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=1)
    traced, untraced = models.load(str(folders["llama"]), device="cpu"), looking(tiny)
    fitting.fit(traced, [[1, 2, 3]], recipe, compile=True)
    with pytest.warns(UserWarning, match="looking runs uncompiled"):
        fitting.fit(untraced, [[1, 2, 3]], recipe, compile=True)
    kept = [weakref.ref(frozen.model) for frozen in (traced, untraced)]
    del traced, untraced
    gc.collect()
    assert [one() for one in kept] == [None, None]


def recorded(call, spoil=lambda tensor: tensor):
    """Record on the processor: what was traced reads the tensors that it was traced with, and writes over its own."""
    traced = make_fx(call)()
    found = call()
    mine, _ = tree_flatten(found)

    def replay() -> None:
        for place, tensor in zip(mine, tree_flatten(traced())[0], strict=True):
            if place is not None:
                place.copy_(spoil(tensor))

    return replay, found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loss"), [("llama", "hinge"), ("neox", "cross_entropy"), ("gemma", "wrong_tokens")])
def test_a_recorded_step_is_the_step(kind: str, loss: str, loaded: dict[str, Frozen]) -> None:
    frozen, recipe = loaded[kind], Recipe(loss=loss, margin=0.05, lr=0.1)
    plain = step(frozen, recipe, n_mem=2, follow_bits=True)
    moved = graph._captured(plain, inputs(frozen, n_mem=2), recorded)
    first = moved(*inputs(frozen, n_mem=2, seed=1))
    kept = first.state.mem.clone()
    close(first, plain(*inputs(frozen, n_mem=2, seed=1)), atol=1e-6)
    close(moved(*inputs(frozen, n_mem=2, seed=2)), plain(*inputs(frozen, n_mem=2, seed=2)), atol=1e-6)
    assert torch.equal(first.state.mem, kept)  # a replay leaves what was found before alone


@pytest.mark.slow
def test_a_record_of_other_numbers_is_not_taken(tiny: Frozen) -> None:
    plain = step(tiny, HINGE, n_mem=1, follow_bits=True)
    for spoil in (torch.zeros_like, lambda tensor: tensor * 1.5 if tensor.is_floating_point() else tensor):
        with pytest.raises(RuntimeError, match="the recorded step gives other numbers"):
            graph._captured(plain, inputs(tiny), partial(recorded, spoil=spoil))


@pytest.mark.slow
@pytest.mark.parametrize("place", range(7))
def test_a_record_that_does_not_read_one_of_its_inputs_is_not_taken(place: int, tiny: Frozen) -> None:
    plain, like = step(tiny, HINGE, n_mem=1, follow_bits=True), inputs(tiny)
    old, recording = [tensor.clone() for tensor in (*like[0], *like[1:])], []

    def stale(state, *rest):
        flat = [*state, *rest]
        if recording:
            flat[place] = old[place]
        return plain(type(state)(*flat[:4]), *flat[4:])

    def record(call):
        recording.append(True)
        replay, found = recorded(call)
        recording.clear()
        return replay, found

    with pytest.raises(RuntimeError, match="the recorded step gives other numbers"):
        graph._captured(stale, like, record)


@pytest.mark.slow
def test_a_record_may_be_off_as_a_step_itself_is(tiny: Frozen) -> None:
    """Where attention adds up in any order, two steps of the same differ, in bfloat16 by a hundredth."""
    plain, random = step(tiny, HINGE, n_mem=1, follow_bits=True), torch.Generator().manual_seed(0)

    def noisy(state, *rest):
        moved = plain(state, *rest)
        noise = 0.02 * torch.randn(moved.state.first.shape, generator=random)
        return moved._replace(state=moved.state._replace(first=moved.state.first * (1 + noise)))

    before = torch.get_rng_state()
    graph._captured(noisy, inputs(tiny), recorded)
    assert torch.equal(torch.get_rng_state(), before)  # whoever draws goes on as before


class OnGpu(Frozen):
    """A model that claims to lie on a GPU."""

    name, device = "there", torch.device("cuda")

    def __init__(self):
        pass

    def inputs(self, mem, context):
        return context

    @property
    def model(self):
        return SimpleNamespace(parameters=lambda: [SimpleNamespace(device=self.device)])


class OnTwo(OnGpu):
    """A model that claims to lie on two GPUs."""

    @property
    def model(self):
        return SimpleNamespace(parameters=lambda: [SimpleNamespace(device=torch.device(f"cuda:{n}")) for n in (0, 1)])


def test_what_cannot_be_recorded_runs_as_it_is(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where recording fails it is said once; out of memory is not taken for that."""
    frozen, plain = OnGpu(), step(tiny, HINGE, n_mem=1, follow_bits=True)
    options = {"n_mem": 1, "follow_bits": True, "like": inputs(tiny), "how": "capture"}

    def fails(error: Exception):
        def record(call, device, pool):
            raise error

        monkeypatch.setattr(graph, "_record", record)
        monkeypatch.setattr(graph, "_COMPILED", weakref.WeakKeyDictionary())
        monkeypatch.setattr(graph, "step", lambda *args, **options: plain)

    fails(RuntimeError("operation not permitted when stream is capturing\nmore"))
    with pytest.warns(UserWarning, match="^there runs unrecorded: RuntimeError: operation not permitted") as caught:
        assert [compiled(frozen, HINGE, **options) for _ in range(2)] == [plain] * 2
    assert len(caught) == 1
    fails(RuntimeError("CUDA error: out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        compiled(frozen, HINGE, **options)
    with pytest.warns(UserWarning, match="runs unrecorded: RuntimeError: the model lies on several devices"):
        assert compiled(OnTwo(), HINGE, **options) is plain


@pytest.mark.slow
def test_records_of_a_model_share_their_memory(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as one is there: a pool that nothing uses any more is no pool to record into."""
    pools, plain = [], step(tiny, HINGE, n_mem=1, follow_bits=True)
    monkeypatch.setattr(graph, "_COMPILED", weakref.WeakKeyDictionary())
    monkeypatch.setattr(graph, "step", lambda *args, **options: plain)

    def record(call, device, pool):
        pools.append(pool)
        replay, found = recorded(call)
        replay.pool = pool or (0, len(pools))
        return replay, found

    monkeypatch.setattr(graph, "_record", record)
    one, other = OnGpu(), OnGpu()
    for frozen in (one, one, other):
        options = {"n_mem": 1, "follow_bits": len(pools) == 1, "like": inputs(tiny), "how": "capture"}
        assert compiled(frozen, HINGE, **options) is not plain
    assert pools == [None, (0, 1), None]


def test_a_way_to_run_a_step_is_one_of_three(tiny: Frozen) -> None:
    recipe = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=3)
    one, other = (fitting.fit(tiny, [[1, 2, 3]], recipe, compile=how) for how in (False, "capture"))
    assert torch.equal(one.mem, other.mem)  # there is nothing to record on a processor
    with pytest.raises(ValueError, match="compile is 'captured'; True, False and 'capture' are allowed"):
        fitting.fit(tiny, [[1, 2, 3]], recipe, compile="captured")
