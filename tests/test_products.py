"""Products through copies: plain ones but for rounding, whatever the rows; and plain where copies would not do."""

import copy
import dataclasses
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from inputs import close, inputs, random_ids
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from capacity import fitting
from capacity.fitting.memory import Shape, predicted_bytes
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import step
from capacity.models import Frozen, products

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1)
_linear = torch.nn.functional.linear


def own(frozen: Frozen) -> Frozen:
    """The same model with products of its own."""
    return dataclasses.replace(frozen)


@pytest.fixture
def wide(frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> Frozen:
    """A model of each family whose products go through copies; its own are plain."""
    assert not frozen.products.n_bytes
    monkeypatch.setattr(products, "WIDE", 1)
    model = own(frozen)
    assert model.products.n_bytes
    return model


@pytest.fixture
def copied(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> Frozen:
    """One such model."""
    assert not tiny.products.n_bytes
    monkeypatch.setattr(products, "WIDE", 1)
    return own(tiny)


def test_a_step_is_the_plain_one_but_for_rounding(wide: Frozen, frozen: Frozen) -> None:
    given = inputs(frozen)
    plain, through = (step(model, HINGE, n_mem=1, follow_bits=True)(*given) for model in (frozen, wide))
    # AdamW's first move is the sign of the gradient: the moment before it is what rounding may change a little.
    size = plain.state.first.abs().max().item()
    torch.testing.assert_close(through.state.first, plain.state.first, atol=1e-4 * size, rtol=0)
    close(through._replace(state=plain.state), plain, atol=1e-4)


def test_a_fit_solves_and_is_the_same_alone_and_in_company(copied: Frozen) -> None:
    texts = random_ids(3, 5, 4)
    together = fitting.exact_length(copied, texts, HINGE, budget=2000)
    for ids, longest in zip(texts, together, strict=True):
        (alone,) = fitting.exact_length(copied, [ids], HINGE, budget=2000)
        assert [(p.length, p.steps, p.status) for p in alone.probes] == [
            (p.length, p.steps, p.status) for p in longest.probes
        ]
        assert torch.equal(alone.probes[-1].mem, longest.probes[-1].mem)
    assert "solved" in {longest.probes[-1].status for longest in together}


def logits(frozen: Frozen) -> Tensor:
    with torch.no_grad():
        return frozen.logits(frozen.embed(torch.arange(6)[None]))


def test_a_weight_that_was_changed_is_multiplied_as_it_is_now(copied: Frozen) -> None:
    layer = next(m for m in copied.model.modules() if type(m) is torch.nn.Linear)
    before, kept = logits(copied), layer.weight
    try:
        with torch.no_grad():
            layer.weight.mul_(2)
        doubled = logits(copied)
        layer.weight.data = layer.weight.data / 2  # elsewhere
        torch.testing.assert_close(logits(copied), before, atol=1e-5, rtol=1e-4)
        layer.weight = torch.nn.Parameter(layer.weight * 2, requires_grad=False)  # another in its place
        torch.testing.assert_close(logits(copied), doubled, atol=1e-5, rtol=1e-4)
        assert (doubled - before).abs().max() > 1e-3
    finally:
        layer.weight = kept
    torch.testing.assert_close(logits(copied), before, atol=0, rtol=0)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_may_be_copied_and_written_once_it_has_copies(
    again: Callable[[Frozen], Frozen], copied: Frozen
) -> None:
    before, other = logits(copied), again(copied)
    torch.testing.assert_close(logits(other), before, atol=0, rtol=0)
    with torch.no_grad():
        next(m for m in other.model.modules() if type(m) is torch.nn.Linear).weight.mul_(2)
    assert (logits(other) - before).abs().max() > 1e-3
    torch.testing.assert_close(logits(copied), before, atol=0, rtol=0)
    assert other.products.n_bytes == copied.products.n_bytes


def test_gradients_of_gradients_are_those_of_plain_products(copied: Frozen, tiny: Frozen) -> None:
    weight = tiny.weight
    assert weight is not None
    found = []
    for model in (tiny, copied):
        rows = torch.linspace(-1, 1, 3 * weight.shape[1]).view(3, -1).requires_grad_()
        (slope,) = torch.autograd.grad(model.products.linear(rows, weight).pow(3).sum(), rows, create_graph=True)
        found.append(torch.autograd.grad(slope.pow(2).sum(), rows)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4 * found[0].abs().max().item())
    assert found[0].abs().max() > 0


def test_traced_products_are_plain(copied: Frozen) -> None:
    weight = copied.weight
    assert weight is not None
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert copied.products.linear(torch.empty(3, weight.shape[1]), weight).shape == (3, len(weight))


def test_copies_count_as_memory(copied: Frozen, tiny: Frozen) -> None:
    shape = Shape(1, 8, 4)
    layers = [m.weight for m in tiny.model.modules() if type(m) is torch.nn.Linear and m.weight is not tiny.weight]
    assert tiny.weight is not None
    expected = 2 * sum(weight.nbytes for weight in layers) + tiny.weight.nbytes
    assert copied.products.n_bytes == expected
    assert predicted_bytes(copied, shape) == predicted_bytes(tiny, shape) + expected


def unlike(frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WIDE", frozen.dim + 1)


def cramped(frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sum(tensor.nbytes for tensor in frozen.model.parameters())
    monkeypatch.setattr(products, "total_bytes", lambda device: int(weights / products.SHARE) + 1)


def wrong(frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_multiplied", lambda rows, copy: rows.new_zeros(len(rows), copy.shape[0]))


def unknown(frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_multiplied", missing)


def missing(*_: Tensor) -> Tensor:
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


@pytest.mark.parametrize("why", [unlike, cramped, wrong, unknown])
def test_products_are_plain_where_copies_would_not_do(
    why: Callable[[Frozen, pytest.MonkeyPatch], None], tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not tiny.products.n_bytes
    monkeypatch.setattr(products, "WIDE", 1)
    why(tiny, monkeypatch)
    model = own(tiny)
    assert not model.products.n_bytes
    with model.products.taken():
        assert torch.nn.functional.linear is _linear
    torch.testing.assert_close(logits(model), logits(tiny), atol=0, rtol=0)


def test_memory_that_runs_out_over_copies_leaves_products_plain(
    copied: Frozen, tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert copied.products.n_bytes

    def full(copies: products._Copies) -> Tensor:
        raise RuntimeError("could not create a memory object: out of memory")

    monkeypatch.setattr(products._Copies, "ahead", full)
    torch.testing.assert_close(logits(copied), logits(tiny), atol=0, rtol=0)
    assert not copied.products.n_bytes


def test_threads_side_by_side_take_their_own_products(copied: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    both, taken = threading.Barrier(2, timeout=60), {"first": [], "second": []}

    def multiply(name: str, frozen: Frozen) -> None:
        for _ in range(20):
            with frozen.products.taken():
                both.wait()
                taken[name].append(torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).item())
                if name == "first":
                    both.wait()  # the second is outside by then
                    taken[name].append(torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).item())
            if name == "second":
                assert torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)) == 1
                both.wait()

    threads = []
    for sign, name in ((-1.0, "first"), (-2.0, "second")):
        model = own(copied)
        monkeypatch.setattr(model.products, "linear", lambda *given, sign=sign: torch.tensor(sign))
        threads.append(threading.Thread(target=multiply, args=(name, model)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert taken == {"first": [-1.0] * 40, "second": [-2.0] * 20}
    assert torch.nn.functional.linear is _linear


def test_torch_is_given_its_words_as_it_knows_them(copied: Frozen) -> None:
    rows, weight = torch.randn(5, 3), torch.randn(4, 3)
    with copied.products.taken():
        assert torch.equal(torch.nn.functional.linear(input=rows, weight=weight), _linear(rows, weight))
        assert torch.equal(
            torch.nn.functional.linear(rows, weight, bias=weight[:, 0]), _linear(rows, weight, weight[:, 0])
        )


def test_torch_has_its_own_products_outside_and_after_an_error(copied: Frozen) -> None:
    with pytest.raises(RuntimeError):
        copied.hidden(torch.zeros(1, 3, copied.dim + 1))
    assert torch.nn.functional.linear is _linear
    with copied.products.taken():
        assert torch.nn.functional.linear is not _linear
