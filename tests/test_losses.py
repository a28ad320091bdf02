"""Losses by hand and against autograd in float64."""

import math

import pytest
import torch
from torch import Tensor

from capacity.fitting.losses import (
    GRADIENTS,
    LOSSES,
    best_other,
    cross_entropy,
    hinge,
    hinge_gradient,
    squared_hinge,
    squared_hinge_gradient,
    wrong_tokens,
    wrong_tokens_gradient,
)

MARGIN = 0.5


@pytest.fixture
def head() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states (3, 5, 8), weight (11, 8), bias (11,) and targets (3, 5) of a linear head, float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(11, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 11, (3, 5), generator=generator)
    targets[0, 0] = (hidden @ weight.T + bias)[0, 0].argmax()  # one that is right
    return hidden, weight, bias, targets


def test_every_loss_has_a_gradient() -> None:
    assert LOSSES.keys() == GRADIENTS.keys() == {"cross_entropy", "wrong_tokens", "hinge", "squared_hinge"}


@pytest.mark.parametrize("margin", [0.0, MARGIN, 100.0])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_autograd(name: str, margin: float, head: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets = head
    leaf = hidden.clone().requires_grad_()
    logits = torch.nn.functional.linear(leaf, weight, bias)
    (expected,) = torch.autograd.grad(LOSSES[name](logits, targets, margin).sum(), leaf)
    found = GRADIENTS[name](logits.detach(), targets, margin, weight)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str, head: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets = head
    found = GRADIENTS[name](hidden @ weight.T + bias, targets, MARGIN, weight)
    for axis in range(hidden.shape[-1]):
        step = torch.zeros(hidden.shape[-1], dtype=torch.float64)
        step[axis] = 1e-6
        above, below = (LOSSES[name]((hidden + way * step) @ weight.T + bias, targets, MARGIN) for way in (1, -1))
        torch.testing.assert_close(found[..., axis].double(), (above - below) / 2e-6, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_leading_dimensions_are_of_any_number(name: str, head: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets = head
    logits = hidden @ weight.T + bias
    loss = LOSSES[name](logits, targets, MARGIN)
    slope = GRADIENTS[name](logits, targets, MARGIN, weight)
    assert loss.shape == (3, 5)
    assert slope.shape == (3, 5, 8)
    for shape in ((15,), (1, 3, 5), (5, 3)):
        apart = logits.reshape(*shape, 11), targets.reshape(shape), MARGIN
        torch.testing.assert_close(LOSSES[name](*apart), loss.reshape(shape))
        torch.testing.assert_close(GRADIENTS[name](*apart, weight), slope.reshape(*shape, 8))
    alone = logits[1, 2], targets[1, 2], MARGIN
    torch.testing.assert_close(LOSSES[name](*alone), loss[1, 2])
    torch.testing.assert_close(GRADIENTS[name](*alone, weight), slope[1, 2])


@pytest.mark.parametrize("name", LOSSES)
def test_the_head_may_have_fewer_bits_than_the_logits(name: str, head: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets = head
    coarse = weight.bfloat16()
    logits = (hidden @ coarse.double().T + bias).float()
    found = GRADIENTS[name](logits, targets, MARGIN, coarse)
    expected = GRADIENTS[name](logits.double(), targets, MARGIN, coarse.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=0.02, atol=0.05)


def test_logits_are_left_as_they_are(head: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets = head
    logits = torch.nn.functional.linear(hidden, weight, bias)
    before = logits.clone()
    for name in LOSSES:
        LOSSES[name](logits, targets, MARGIN)
        GRADIENTS[name](logits, targets, MARGIN, weight)
    assert torch.equal(logits, before)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, math.log(3.0)]]])
    found = cross_entropy(logits, torch.tensor([[0, 1]]))
    torch.testing.assert_close(found, torch.tensor([[math.log(4), math.log(4 / 3)]]))


def test_cross_entropy_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([[[1e4, -1e4], [1e4, -1e4]]])
    assert cross_entropy(logits, torch.tensor([[0, 1]])).tolist() == [[0.0, 2e4]]


def test_wrong_tokens_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]] * 2)
    targets, weight = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(wrong_tokens(logits, targets), torch.tensor([math.log(4.0), 0.0]))
    slope = wrong_tokens_gradient(logits, targets, 0.0, weight)
    torch.testing.assert_close(slope, torch.tensor([[0.25 - 1, 0.75], [0.0, 0.0]]))  # softmax is 1/4, 3/4


@pytest.mark.parametrize(
    ("target", "margin", "expected"),
    [
        (0, 0.25, 0.0),  # right by 0.5, which is enough
        (0, 1.0, 0.5),  # right, but not by enough
        (1, 0.25, 0.75),  # wrong by 0.5
        (2, 0.0, 2.0),
    ],
)
def test_hinge_by_hand(target: int, margin: float, expected: float) -> None:
    logits = torch.tensor([[[2.0, 1.5, 0.0]]])
    assert hinge(logits, torch.tensor([[target]]), margin).item() == expected


def test_hinge_gradient_by_hand() -> None:
    logits = torch.tensor([[[2.0, 1.5, 0.0]] * 3])
    weight = torch.tensor([[1.0, 0.0], [0.0, 10.0], [7.0, 7.0]])
    found = hinge_gradient(logits, torch.tensor([[0, 1, 2]]), 0.25, weight)
    assert found.tolist() == [[[0.0, 0.0], [1.0, -10.0], [-6.0, -7.0]]]


def test_squared_hinge_by_hand() -> None:
    logits, weight = torch.tensor([[2.0, 1.5, 0.0]] * 3), torch.tensor([[1.0, 0.0], [0.0, 10.0], [7.0, 7.0]])
    targets = torch.tensor([0, 1, 2])  # right by 0.5, wrong by 0.5, wrong by 2
    assert squared_hinge(logits, targets, 0.25).tolist() == [0.0, 0.75**2 / 2, 2.25**2 / 2]
    assert squared_hinge(logits, targets, 1.0).tolist() == [0.5**2 / 2, 1.5**2 / 2, 3.0**2 / 2]
    slope = squared_hinge_gradient(logits, targets, 0.25, weight)
    assert slope.tolist() == [[0.0, 0.0], [0.75, -7.5], [2.25 * -6, 2.25 * -7]]


def test_the_best_other_is_never_the_target() -> None:
    values, ids = best_other(torch.tensor([[[3.0, 2.0, 1.0]] * 2]), torch.tensor([[0, 1]]))
    assert values.tolist() == [[2.0, 3.0]]
    assert ids.tolist() == [[1, 0]]


def test_a_tie_is_not_yet_right() -> None:
    logits, weight = torch.tensor([[[1.0, 1.0, 0.0]]]), torch.eye(3)
    for target, other in ((0, 1), (1, 0)):
        targets = torch.tensor([[target]])
        assert hinge(logits, targets, MARGIN).item() == MARGIN
        slope = hinge_gradient(logits, targets, MARGIN, weight)
        assert torch.equal(slope[0, 0], weight[other] - weight[target])


def test_a_tie_of_others_gives_one_of_them() -> None:
    logits, weight = torch.tensor([[[0.0, 2.0, 2.0]]]), torch.eye(3)
    slope = hinge_gradient(logits, torch.tensor([[0]]), MARGIN, weight)[0, 0]
    assert slope.tolist() in ([-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0])


def test_at_the_margin_itself_nothing_is_left_to_do() -> None:
    logits, targets, weight = torch.tensor([[[1.5, 1.0]]]), torch.tensor([[0]]), torch.eye(2)
    assert hinge(logits, targets, 0.5).item() == 0.0
    assert not hinge_gradient(logits, targets, 0.5, weight).any()
    above = 0.5 + 2**-20
    assert hinge(logits, targets, above).item() == 2**-20
    assert hinge_gradient(logits, targets, above, weight).tolist() == [[[-1.0, 1.0]]]
