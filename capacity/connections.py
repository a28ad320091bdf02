"""Lines and fitted curves between two solutions of a text, and how much of the text stays right along them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from capacity.decoding import teacher_forced
from capacity.fitting import LOSSES, RECIPES, Recipe, rows_of_chunk, shape_of
from capacity.models import Frozen, is_exhausted

__all__ = ["accuracy", "bezier", "by_length", "fit_curves", "length_ratios", "table"]
__dir__ = __all__.copy  # what completion shows

_BATCH = 512  # inputs scored at once, at most
_DRAWS = 8  # points of a curve at which a step looks
_EVERY = 10  # steps between two looks along the whole curve
_RATE = 0.03  # of Adam, in root mean squares of the difference between the ends


def bezier(
    controls: Float[Tensor, "paths controls n_mem dim"], at: Float[Tensor, " points"]
) -> Float[Tensor, "paths points n_mem dim"]:
    """Return the points of Bezier curves at 0 <= `at` <= 1: a line of two control points, a parabola of three.

    The first and the last control point are the ends, returned as they are at 0 and 1.
    """
    degree = controls.shape[1] - 1
    terms = [math.comb(degree, j) * at**j * (1 - at) ** (degree - j) for j in range(degree + 1)]
    return torch.einsum("kj,pjmd->pkmd", torch.stack(terms, dim=1), controls)


def length_ratios(controls: Float[Tensor, "paths controls n_mem dim"]) -> Float[np.ndarray, " paths"]:
    """Return each curve's length over the distance of its ends, at least 1; ends must differ (else ValueError)."""
    points = bezier(controls.cpu().double(), torch.linspace(0, 1, 513, dtype=torch.float64)).flatten(2)
    straight = (points[:, -1] - points[:, 0]).norm(dim=1)
    if not bool(straight.all()):
        raise ValueError("the two ends of a curve are the same; give pairs of different solutions")
    return (points.diff(dim=1).norm(dim=2).sum(1) / straight).numpy()


def accuracy(
    frozen: Frozen,
    controls: Float[Tensor, "paths controls n_mem dim"],
    ids: Int[Tensor, "paths tokens"],
    *,
    points: int = 41,
    scored_from: int = 0,
) -> Float[np.ndarray, "paths points"]:
    """Return the share of scored positions right, teacher-forced, at evenly spaced points of each curve, ends included.

    Args:
        frozen: the model.
        controls: control points of each curve, as `bezier` takes them.
        ids: each curve's text.
        points: at least 2.
        scored_from: 0 to score t1 too, 1 to have it given.

    Source: Kuratov et al. 2025, Fig. 8, for lines.
    """
    if points < 2:
        raise ValueError(f"points is {points}; at least 2, the ends, are needed")
    at, n_tokens = torch.linspace(0, 1, points), ids.shape[1]
    per_batch = min(_BATCH, max(1, rows_of_chunk(frozen) // n_tokens))
    per_step = max(1, per_batch // points)
    shares = []
    for paths, texts in zip(controls.cpu().split(per_step), ids.cpu().split(per_step), strict=True):
        mem = bezier(paths, at).flatten(0, 1)
        batches = zip(mem.split(per_batch), texts.repeat_interleave(points, 0).split(per_batch), strict=True)
        right = np.concatenate([teacher_forced(frozen, some, target).correct for some, target in batches])
        shares.append(right[:, scored_from:].mean(1).reshape(len(paths), points))
    return np.concatenate(shares)


def by_length(
    function: Callable[[Tensor, Tensor], Any],
    controls: Float[Tensor, "paths controls n_mem dim"],
    ids: Sequence[Sequence[int]],
) -> list[Any]:
    """Return what `accuracy` or `fit_curves` gives for each path, where texts are of several lengths.

    function: takes the control points and the token ids of paths whose texts have one length.
    """
    values: dict[int, Any] = {}
    for n_tokens in sorted({len(text) for text in ids}):
        places = [place for place, text in enumerate(ids) if len(text) == n_tokens]
        part = function(controls[torch.tensor(places)], torch.tensor([list(ids[place]) for place in places]))
        values |= dict(zip(places, part, strict=True))
    return [values[place] for place in range(len(ids))]


def table(
    kind: str, pairs: Sequence[tuple[int, int]], texts: Sequence[str], accuracies: Float[np.ndarray, "paths points"]
) -> pl.DataFrame:
    """Return accuracy along paths of one kind, one row a point: text, path, pair, at (0 to 1), accuracy.

    pairs: the ends of each path, from geometry.pairs; texts: the text of each solution; accuracies: by `accuracy`.
    """
    n_paths, n_points = accuracies.shape
    return pl.DataFrame({
        "text": np.repeat([texts[first] for first, _ in pairs], n_points),
        "path": [kind] * accuracies.size,
        "pair": np.repeat([f"{first}-{second}" for first, second in pairs], n_points),
        "at": np.tile(np.linspace(0, 1, n_points), n_paths),
        "accuracy": accuracies.flatten(),
    })  # fmt: skip


def fit_curves(
    frozen: Frozen,
    ends: Float[Tensor, "paths 2 n_mem dim"],
    ids: Int[Tensor, "paths tokens"],
    *,
    recipe: Recipe = RECIPES["default"],
    steps: int = 100,
    points: int = 33,
    scored_from: int = 0,
    seed: int = 0,
) -> Float[Tensor, "paths 3 n_mem dim"]:
    """Return control points of a quadratic Bezier curve between every two ends, its middle one fitted to the text.

    The middle starts halfway, where the curve is the line, and descends the recipe's loss at points of the curve that
    each step draws anew. The one returned is the first exact at all of `points` evenly spaced points, else the one
    with the best worst point. A curve's result does not depend on the others. Where memory runs out, fewer run at once.

    Args:
        frozen: the model.
        ends: two solutions of each text.
        ids: each curve's text.
        recipe: its loss and margin; the optimiser is Adam at a rate in proportion to the distance of the ends.
        steps: at most.
        points: at least 2, where a curve is judged.
        scored_from: 0 to score t1 too, 1 to have it given.
        seed: of the draws.

    Source: the curve is that of Garipov et al. 2018 (loss surfaces of networks), eq. 4, in the space of [mem].
    """
    # Fixed shapes: the last batch is filled up with repeats, so that rounding is the same in any company.
    n_mem, n_tokens = ends.shape[2], ids.shape[1]
    shape = shape_of(frozen, n_tokens, n_mem=n_mem)
    width = max(1, shape.slots * shape.bucket // n_tokens // _DRAWS)
    recipe = recipe.scaled_to(frozen)
    fitted, first = [], 0
    while first < len(ends):
        here = torch.arange(first, first + width).clamp(max=len(ends) - 1)
        part, text = ends[here].float().to(frozen.device), ids[here].to(frozen.device)
        try:
            best = _best(frozen, part, text, recipe, steps=steps, points=points, scored_from=scored_from, seed=seed)
        except (RuntimeError, MemoryError) as error:
            if width == 1 or not is_exhausted(error):
                raise
            width = -(-width // 2)
            continue
        fitted.append(torch.stack([part[:, 0], best, part[:, 1]], 1).cpu())
        first += width
    return torch.cat(fitted)[: len(ends)]


def _best(
    frozen: Frozen, ends: Tensor, ids: Tensor, recipe: Recipe, *, steps: int, points: int, scored_from: int, seed: int
) -> Float[Tensor, "paths n_mem dim"]:
    """Return of each curve the first middle point that is exact all along, else the one with the best worst point."""
    best, worst = torch.zeros_like(ends[:, 0]), np.full(len(ends), -1.0)  # accuracy at the worst point
    for middle in _descend(frozen, ends, ids, recipe, steps=steps, scored_from=scored_from, seed=seed):
        controls = torch.stack([ends[:, 0], middle, ends[:, 1]], 1)
        least = accuracy(frozen, controls, ids, points=points, scored_from=scored_from).min(1)
        better = least > worst
        best[torch.from_numpy(better)] = middle[torch.from_numpy(better)]
        worst = np.maximum(worst, least)
        if (worst == 1).all():
            break
    return best


def _slope(frozen: Frozen, hidden: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """Return d loss / d hidden of the mean loss of each input over a point's share, some inputs' logits at a time."""
    per_chunk = max(1, rows_of_chunk(frozen) // targets.shape[1])
    slopes = []
    for rows, aim in zip(hidden.split(per_chunk), targets.split(per_chunk), strict=True):
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_()
            loss = LOSSES[recipe.loss](frozen.head(leaf).float(), aim, recipe.margin).mean(1).sum() / _DRAWS
        slopes.append(torch.autograd.grad(loss, leaf)[0])
    return torch.cat(slopes)


def _descend(
    frozen: Frozen, ends: Tensor, ids: Tensor, recipe: Recipe, *, steps: int, scored_from: int, seed: int
) -> Iterator[Float[Tensor, "paths n_mem dim"]]:
    """Yield the middle points, halfway first, then every few steps of descent; the recipe's margin is in logits."""
    generator = torch.Generator().manual_seed(seed)
    halfway, unit = ends.mean(1), ends.diff(dim=1).squeeze(1).square().mean((1, 2), keepdim=True).sqrt()
    offset = torch.zeros_like(halfway).requires_grad_()
    optimiser = torch.optim.Adam([offset], lr=_RATE)
    targets = ids[:, scored_from:].repeat_interleave(_DRAWS, 0)
    context = frozen.embed(ids[:, :-1]).repeat_interleave(_DRAWS, 0)
    skipped = frozen.predicting(ends.shape[2]) + scored_from
    yield halfway
    for step in range(1, steps + 1):
        at = (torch.arange(_DRAWS) + torch.rand(1, generator=generator)) / _DRAWS  # the same for all, spread evenly
        with torch.enable_grad():
            controls = torch.stack([ends[:, 0], halfway + unit * offset, ends[:, 1]], 1)
            mem = bezier(controls, at.to(ends.device)).flatten(0, 1)
            hidden = frozen.hidden(frozen.inputs(mem, context))[:, skipped:]
        slope = _slope(frozen, hidden.detach(), targets, recipe)
        (offset.grad,) = torch.autograd.grad(hidden, offset, slope)
        optimiser.step()
        if step % _EVERY == 0 or step == steps:
            yield halfway + unit * offset.detach()
