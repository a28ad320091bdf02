"""One step: AdamW's, whatever the head's chunks."""

import pytest
import torch
from inputs import SLOTS, TOKENS, inputs, same, tensors
from torch import Tensor

from capacity.fitting import memory
from capacity.fitting.losses import LOSSES
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import step
from capacity.models import Frozen

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_is_that_of_autograd_and_adamw(loss: str, frozen: Frozen) -> None:
    recipe = Recipe(loss=loss, margin=0.05, lr=0.03, betas=(0.8, 0.95), weight_decay=2.0, eps=1e-3)
    state, context, targets, weights = inputs(frozen, n_mem=2)
    own = step(frozen, recipe, n_mem=2, follow_bits=True)
    plain = state.mem.clone().requires_grad_()
    optimizer = torch.optim.AdamW([plain], lr=0.03, betas=(0.8, 0.95), weight_decay=2.0, eps=1e-3)
    for _ in range(5):
        moved = own(state, context, targets, weights)
        logits = frozen.model(inputs_embeds=torch.cat([plain, context], dim=1)).logits[:, 1:]
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        torch.testing.assert_close(moved.bits, nats, atol=2e-4, rtol=0)
        assert torch.equal(moved.right, logits.argmax(-1) == targets)
        assert moved.finite.all()
        optimizer.zero_grad()
        (LOSSES[loss](logits, targets, 0.05) * weights).sum().backward()
        optimizer.step()
        state = moved.state
        torch.testing.assert_close(state.mem, plain.detach(), atol=2e-5, rtol=0)
    assert state.updates.tolist() == [5.0] * SLOTS


def test_a_step_is_a_pure_function(tiny: Frozen) -> None:
    given = inputs(tiny)
    before = [tensor.clone() for tensor in (*given[0], *given[1:])]
    own = step(tiny, HINGE, n_mem=1, follow_bits=False)
    one, other = own(*given), own(*given)
    assert same(one, other)
    assert one.bits is None
    assert all(torch.equal(a, b) for a, b in zip(before, (*given[0], *given[1:]), strict=True))
    assert not torch.equal(one.state.mem, given[0].mem)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_what_has_no_weight_moves_nothing(kind: str, loaded: dict[str, Frozen]) -> None:
    frozen = loaded[kind]
    state, context, targets, weights = inputs(frozen)
    own = step(frozen, HINGE, n_mem=1, follow_bits=False)
    moved = own(state, context, targets, weights)
    others, ahead = targets.clone(), context.clone()
    others[1, 4:] = 7
    ahead[1, 4:] = 3.0  # what stands behind what counts
    again = own(state, ahead, others, weights)
    assert all(torch.equal(a, b) for a, b in zip(moved.state, again.state, strict=True))
    assert torch.equal(moved.right[:, :4], again.right[:, :4])


@pytest.mark.parametrize("per_chunk", [1, 4, 5])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("loss", LOSSES)
def test_chunks_of_the_head_change_nothing(
    loss: str, kind: str, per_chunk: int, loaded: dict[str, Frozen], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, recipe = loaded[kind], Recipe(loss=loss, margin=0.05, lr=0.1)
    given = inputs(frozen)
    own = step(frozen, recipe, n_mem=1, follow_bits=True)
    whole = own(*given)
    monkeypatch.setitem(memory.CHUNK, "cpu", per_chunk * frozen.vocab_size + 1)
    seen, head = [], Frozen.head

    def watched(self: Frozen, hidden: Tensor) -> Tensor:
        seen.append(len(hidden))
        return head(self, hidden)

    monkeypatch.setattr(Frozen, "head", watched)
    parts = own(*given)
    n = SLOTS * TOKENS
    assert seen == [min(per_chunk, n - at) for at in range(0, n, per_chunk)]
    assert torch.equal(whole.right, parts.right)
    assert whole.state.first.abs().max() > 1e-3  # a tenth of the gradient
    torch.testing.assert_close(whole.state.first, parts.state.first, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(whole.bits, parts.bits, atol=1e-5, rtol=0)


def test_what_is_not_finite_stays_where_it_is(tiny: Frozen) -> None:
    given = inputs(tiny)
    own = step(tiny, HINGE, n_mem=1, follow_bits=True)
    healthy = own(*given)
    given[0].mem[1, 0, 5] = float("nan")
    moved = own(*given)
    assert moved.finite.tolist() == [True, False, True]
    for slot in (0, 2):
        assert all(torch.equal(a[slot], b[slot]) for a, b in zip(tensors(moved), tensors(healthy), strict=True))
