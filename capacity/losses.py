"""What a fit descends: losses by name, and their gradients with respect to the hidden states, by hand.

A loss is a function (logits (batch, tokens, vocab), targets (batch, tokens), margin) -> (batch, tokens), through which
autograd goes where the head is not linear. Where it is, GRADIENTS gives d loss / d hidden without a pass backward
through the vocabulary.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Logits = Float[Tensor, "batch tokens vocab"]
Targets = Int[Tensor, "batch tokens"]
PerToken = Float[Tensor, "batch tokens"]


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


def hinge(logits: Logits, targets: Targets, margin: float) -> PerToken:
    """Return relu(margin - (target's logit - best other logit)): zero once the argmax is right by `margin`."""
    return torch.relu(margin - (target_logit(logits, targets) - best_other(logits, targets)[0]))


LOSSES: dict[str, Callable[..., PerToken]] = {"cross_entropy": cross_entropy, "hinge": hinge}


def cross_entropy_gradient(
    logits: Logits, targets: Targets, margin: float, weight: Float[Tensor, "vocab width"]
) -> Float[Tensor, "batch tokens width"]:
    """Return d cross_entropy / d hidden = (softmax - onehot) W."""
    slope = torch.softmax(logits, -1)
    slope.scatter_add_(-1, targets.unsqueeze(-1), slope.new_full((1, 1, 1), -1.0).expand(*targets.shape, 1))
    return slope @ weight


def hinge_gradient(
    logits: Logits, targets: Targets, margin: float, weight: Float[Tensor, "vocab width"]
) -> Float[Tensor, "batch tokens width"]:
    """Return d hinge / d hidden = W[best other] - W[target] where the margin is not reached, else zero."""
    value, other = best_other(logits, targets)
    active: Bool[Tensor, "batch tokens"] = target_logit(logits, targets) - value < margin
    return (weight[other] - weight[targets]) * active.unsqueeze(-1)


GRADIENTS: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy_gradient,
    "hinge": hinge_gradient,
}
