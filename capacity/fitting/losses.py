"""What a fit descends: losses by name, and their gradients with respect to the hidden states, by hand.

A loss is a function (logits (..., vocab), targets (...), margin) -> (...), through which autograd goes where the head
is not linear. Where it is, GRADIENTS gives d loss / d hidden without a pass backward through the vocabulary.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from capacity import extensions

Logits = Float[Tensor, "*batch vocab"]
Targets = Int[Tensor, "*batch"]
PerToken = Float[Tensor, "*batch"]
Weight = Float[Tensor, "vocab width"]
Slope = Float[Tensor, "*batch width"]


def best_other(logits: Logits, targets: Targets) -> tuple[PerToken, Targets]:
    """Return the largest logit that is not the target's, and its id."""
    best = logits.scatter(-1, targets.unsqueeze(-1), float("-inf")).max(-1)
    return best.values, best.indices


def target_logit(logits: Logits, targets: Targets) -> PerToken:
    """Return the target's logit at each position."""
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def cross_entropy(logits: Logits, targets: Targets, margin: float = 0.0) -> PerToken:
    """Return the surprisal of each target, nats; the published loss. `margin` is not used."""
    return torch.logsumexp(logits, -1) - target_logit(logits, targets)


def wrong_tokens(logits: Logits, targets: Targets, margin: float = 0.0) -> PerToken:
    """Return the surprisal of each target that is not the argmax, nats, else zero. `margin` is not used."""
    return cross_entropy(logits, targets) * (logits.argmax(-1) != targets)


def hinge(logits: Logits, targets: Targets, margin: float) -> PerToken:
    """Return relu(margin - (target's logit - best other logit)): zero once the argmax is right by `margin`."""
    return torch.relu(margin - (target_logit(logits, targets) - best_other(logits, targets)[0]))


def squared_hinge(logits: Logits, targets: Targets, margin: float) -> PerToken:
    """Return half the square of `hinge`: the further a position is from its margin, the more it counts."""
    return hinge(logits, targets, margin).square() / 2


Loss = Callable[..., PerToken]

LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "wrong_tokens": wrong_tokens,
    "hinge": hinge,
    "squared_hinge": squared_hinge,
}


def cross_entropy_gradient(logits: Logits, targets: Targets, margin: float, weight: Weight) -> Slope:
    """Return d cross_entropy / d hidden = (softmax - onehot) W."""
    slope = torch.softmax(logits, -1)
    slope = slope.scatter_add(-1, targets.unsqueeze(-1), torch.full_like(targets.unsqueeze(-1), -1, dtype=slope.dtype))
    return (slope.to(weight.dtype) @ weight).float()


def wrong_tokens_gradient(logits: Logits, targets: Targets, margin: float, weight: Weight) -> Slope:
    """Return d wrong_tokens / d hidden: that of the cross-entropy where the argmax is wrong, else zero."""
    wrong = (logits.argmax(-1) != targets).unsqueeze(-1)
    return cross_entropy_gradient(logits, targets, margin, weight) * wrong


def hinge_gradient(logits: Logits, targets: Targets, margin: float, weight: Weight) -> Slope:
    """Return d hinge / d hidden = W[best other] - W[target] where the margin is not reached, else zero."""
    value, other = best_other(logits, targets)
    active = (target_logit(logits, targets) - value < margin).unsqueeze(-1)
    return (weight[other] - weight[targets]).float() * active


def squared_hinge_gradient(logits: Logits, targets: Targets, margin: float, weight: Weight) -> Slope:
    """Return d squared_hinge / d hidden = hinge * (W[best other] - W[target])."""
    value, other = best_other(logits, targets)
    lack = torch.relu(margin - (target_logit(logits, targets) - value)).unsqueeze(-1)
    return (weight[other] - weight[targets]).float() * lack


GRADIENTS: dict[str, Callable[..., Slope]] = {
    "cross_entropy": cross_entropy_gradient,
    "wrong_tokens": wrong_tokens_gradient,
    "hinge": hinge_gradient,
    "squared_hinge": squared_hinge_gradient,
}
WITHOUT_PRODUCT = frozenset({"hinge", "squared_hinge"})  # whose gradient looks up rows of W, and multiplies nothing
_OURS = frozenset(LOSSES)


def check(name: str) -> None:
    """Raise ValueError if there is no loss of this name; one of a file in use (`extensions`) is there from now on."""
    if name in _OURS:
        return
    own = extensions.own("losses", _OURS)
    if name not in own:
        raise ValueError(f"unknown loss {name!r}; known are {', '.join([*(n for n in LOSSES if n in _OURS), *own])}")
    LOSSES[name], GRADIENTS[name] = own[name], by_autograd(own[name])


def by_autograd(loss: Loss) -> Callable[..., Slope]:
    """Return the gradient of a loss with respect to the hidden states of a linear head, as those of GRADIENTS."""

    def gradient(logits: Logits, targets: Targets, margin: float, weight: Weight) -> Slope:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            (slope,) = torch.autograd.grad(loss(leaf, targets, margin).sum(), leaf)
        return (slope.to(weight.dtype) @ weight).float()

    return gradient
