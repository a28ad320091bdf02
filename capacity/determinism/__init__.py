"""Does a vector decode the same under other arithmetic, which ones don't, and where do the errors of fits sit?"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy import optimize, stats
from torch import Tensor

from capacity import geometry, metrics
from capacity.decoding import check_rows, scored_together, together
from capacity.metrics import Interval
from capacity.models import Frozen, freeze

__all__ = [
    "LEAST_OUTCOMES", "ROUNDINGS", "Condition", "again", "auc", "auc_within", "conditions", "errors", "freely",
    "in_every_way", "last_exact", "last_failed", "least_margins", "longest", "margins", "moved", "q8_0", "rounded",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows

LEAST_OUTCOMES = 5  # texts that break and that don't, each; fewer say nothing about a predictor
Values = Sequence[float | int] | pl.Series
PLACE = ("model", "source", "text_id", "scored_from", "length")  # columns that name a fit


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How vectors are decoded."""

    frozen: Frozen
    cache: bool = True  # keys and values are carried on; else all is read again for every token
    at_once: int = 1  # texts in a batch
    threads: int = 1  # of a processor


def conditions(frozen: Frozen, half: Frozen) -> dict[str, Condition]:
    """Return the ways to decode, by name; the first is the reference, the second the same once more, as control.

    frozen, half: the model in float32, and loaded in bfloat16.
    """
    return {
        "reference": Condition(frozen=frozen),
        "the same again": Condition(frozen=frozen),
        "no cache": Condition(frozen=frozen, cache=False),
        "batch of 8": Condition(frozen=frozen, at_once=8),
        "batch of 8, no cache": Condition(frozen=frozen, at_once=8, cache=False),
        "2 threads": Condition(frozen=frozen, threads=2),
        "bfloat16": Condition(frozen=half),
        "bfloat16, batch of 8": Condition(frozen=half, at_once=8),
        **{f"weights rounded to {how}": Condition(frozen=rounded(frozen, how)) for how in ROUNDINGS},
    }


def q8_0(weight: Float[Tensor, "*rows columns"]) -> Float[Tensor, "*rows columns"]:
    """Return a matrix as Q8_0 keeps it: blocks of 32 of a row, whole numbers to 127 times a float16 scale.

    The columns have to be a multiple of 32. Source: quantize_row_q8_0_ref of ggml-quants.c in llama.cpp.
    """
    blocks = weight.float().unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    whole = torch.sign(blocks) * torch.floor((blocks * inverse).abs() + 0.5)  # halves go away from zero
    return (whole * scale.half().float()).flatten(-2).to(weight.dtype)


ROUNDINGS = {"bfloat16": lambda weight: weight.bfloat16().to(weight.dtype), "Q8_0": q8_0}


def rounded(frozen: Frozen, how: str) -> Frozen:
    """Return the model with its matrices rounded by a name of ROUNDINGS; their arithmetic stays what it is.

    What has one axis (norms, biases), or columns that are no multiple of 32, stays as it is, as in a GGUF file.
    """
    model = deepcopy(frozen.model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.shape[-1] % 32 == 0:
                weight.copy_(ROUNDINGS[how](weight))
    return freeze(model, frozen.tokenizer, name=frozen.name, revision=frozen.revision, bos=frozen.bos, quantisation=how)


def moved(frozen: Frozen, other: Frozen) -> float:
    """Return how far the weights of a copy are from a model's: root mean square of the change over that of the weights.

    0 where rounding changed nothing: a model whose weights were kept in that form.
    """
    if other.model is frozen.model:
        return 0.0
    pairs = list(zip(frozen.model.parameters(), other.model.parameters(), strict=True))
    off = sum(float((own.double() - copy.double()).square().sum()) for own, copy in pairs)
    return (off / sum(float(own.double().square().sum()) for own, _ in pairs)) ** 0.5


def longest(rows: pl.DataFrame) -> pl.DataFrame:
    """Return of each cell the fit of most tokens that decoded whole when it was measured; cells without are left out.

    rows: of the store. One row a key, in order of key.
    """
    return _last(rows.filter(pl.col("decoded_tokens") == pl.col("length")).sort("key", "length"))


def last_exact(rows: pl.DataFrame) -> pl.DataFrame:
    """Return of each cell its last fit that is exact teacher-forced, whether it decodes or not; see `longest`."""
    return _last(rows.filter(metrics.exact()).sort("key", "length"))


def last_failed(rows: pl.DataFrame) -> pl.DataFrame:
    """Return of each cell its last fit that ended with a wrong token, if there is one; one row a key, in its order."""
    return _last(rows.filter(pl.col("status").is_in(["stalled", "budget"]), ~metrics.exact()).sort("key", "probe"))


def _last(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("key", maintain_order=True).last().select(rows.columns)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def again(rows: pl.DataFrame, ids: Mapping[str, Sequence[int]], how: Mapping[str, Condition]) -> pl.DataFrame:
    """Return what vectors decode to: model ... length, condition, decoded_tokens, unchanged, decoded (token ids).

    decoded_tokens: right before the first wrong one; unchanged: token for token as under the first condition.

    Args:
        rows: of one model, with their vectors, at most one a text, source and `scored_from`.
        ids: tokens of each row's text, by its key.
        how: from `conditions`.
    """
    texts, mem, given = _of(rows, ids)
    lengths, first, tables = [len(text) for text in texts], None, []
    for name, condition in how.items():
        check_rows(condition.frozen, rows)
        with _threads(condition.threads):
            decoded = together(
                condition.frozen, mem, lengths, given=given, cache=condition.cache, at_once=condition.at_once
            )
        first = first or decoded
        tables.append(rows.select(PLACE).with_columns(
            condition=pl.lit(name),
            decoded_tokens=pl.Series([_leading(*pair) for pair in zip(decoded, texts, strict=True)]),
            unchanged=pl.Series([own == other for own, other in zip(decoded, first, strict=True)]),
            decoded=pl.Series(decoded, dtype=pl.List(pl.Int64)),
        ))  # fmt: skip
    return pl.concat(tables)


def in_every_way(frozen: Frozen, half: Frozen, rows: pl.DataFrame, ids: Mapping[str, Sequence[int]]) -> pl.DataFrame:
    """Return what vectors decode to in all `conditions`: the columns of `again`, moved, margin.

    moved: of the weights under the condition (see `moved`); margin: the vector's least, as in `least_margins`.
    frozen, half: as for `conditions`; rows, ids: as for `again`.
    """
    ways = conditions(frozen, half)
    distances = [{"condition": name, "moved": moved(frozen, way.frozen)} for name, way in ways.items()]
    margin = least_margins(frozen, rows, ids)["margin"]
    decoded = again(rows, ids, ways).join(pl.DataFrame(distances), on="condition", maintain_order="left")
    return decoded.join(rows.select(PLACE).with_columns(margin), on=list(PLACE), maintain_order="left")


def freely(frozen: Frozen, rows: pl.DataFrame, ids: Mapping[str, Sequence[int]], *, at_once: int = 1) -> pl.DataFrame:
    """Return scored tokens right by three counts: model ... length, n_scored, forced, leading, in_place.

    forced: teacher-forced, each after the text's own tokens. leading: before the first wrong one, decoded freely.
    in_place: decoded freely, the right token at the right position, also after a wrong one.

    rows, ids: as for `again`; several fits a text are allowed. at_once: vectors decoded in a batch.
    """
    check_rows(frozen, rows)
    texts, mem, given = _of(rows, ids)
    lengths = [len(text) for text in texts]
    decoded = together(frozen, mem, lengths, given=given, at_once=at_once)
    counts = []
    for text, own, score, begin in zip(
        texts, decoded, scored_together(frozen, mem, texts), rows["scored_from"], strict=True
    ):
        counts.append({
            "n_scored": len(text) - begin, "forced": int(score.correct[0, begin:].sum()),
            "leading": _leading(own, text) - begin,
            "in_place": sum(a == b for a, b in zip(own[begin:], text[begin:], strict=True)),
        })  # fmt: skip
    return pl.concat([rows.select(PLACE), pl.DataFrame(counts)], how="horizontal")


def margins(frozen: Frozen, rows: pl.DataFrame, ids: Mapping[str, Sequence[int]]) -> list[Float[np.ndarray, " tokens"]]:
    """Return by how much each scored token's logit is above the best other one, teacher-forced, one text at a time.

    Best minus second where the token is right, below 0 where it is wrong; in logits. rows, ids: as for `freely`.
    """
    check_rows(frozen, rows)
    texts, mem, _ = _of(rows, ids)
    text_margins = []
    for text, own, begin in zip(texts, mem, rows["scored_from"], strict=True):
        tokens = torch.tensor([text], device=frozen.device)
        with torch.no_grad():
            logits = frozen.logits(frozen.inputs(own.unsqueeze(0), frozen.embed(tokens[:, :-1])))[0].float()
        logits = logits[frozen.predicting(len(own)) :]  # (tokens, vocab)
        target = logits.gather(-1, tokens.T)
        best = logits.scatter(-1, tokens.T, -torch.inf).amax(-1, keepdim=True)
        text_margins.append((target - best)[begin:, 0].cpu().numpy())
    return text_margins


def least_margins(frozen: Frozen, rows: pl.DataFrame, ids: Mapping[str, Sequence[int]]) -> pl.DataFrame:
    """Return the least of the margins of each fit: model ... length, margin; see `margins`."""
    least = [float(own.min()) for own in margins(frozen, rows, ids)]
    return rows.select(PLACE).with_columns(margin=pl.Series(least, dtype=pl.Float64))


def auc(broken: Values, kept: Values) -> Interval:
    """Return the chance that of two texts the one that breaks has the lower value, ties counted half.

    1: the value tells all of them apart; 0.5: nothing. The interval is Newcombe's fifth, which does not shrink to
    nothing at 1; it, and the answer, are None where an outcome occurs fewer than LEAST_OUTCOMES times.

    >>> auc([0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.7, 0.8, 0.9, 1.0]).value
    1.0

    Source: Mann and Whitney 1947; Newcombe 2006, Statistics in Medicine 25, 559-573, method 5.
    """
    m, n = len(broken), len(kept)
    if not m or not n:
        return Interval(float("nan"), None, None, m + n, True)
    value = _below(broken, kept)
    if min(m, n) < LEAST_OUTCOMES:
        return Interval(value, None, None, m + n, True)
    reach, half = float(stats.norm.ppf(0.975)) ** 2, (m + n) / 2 - 1

    def off(at: float) -> float:
        spread = at * (1 - at) * (1 + half * (1 - at) / (2 - at) + half * at / (1 + at)) / (m * n)
        return (value - at) ** 2 - reach * spread

    near = 1e-9  # off its value itself, where a value of 0 or 1 has a root that is no end
    low = optimize.root_scalar(off, bracket=(0, value - near)).root if value > 0 else 0.0
    high = optimize.root_scalar(off, bracket=(value + near, 1)).root if value < 1 else 1.0
    return Interval(value, float(low), float(high), m + n, False)


def _below(values: Values, other: Values) -> float:
    """Return the chance that one of `values` is below one of `other`, ties counted half."""
    return float(stats.mannwhitneyu(other, values).statistic / (len(values) * len(other)))


def errors(
    frozen: Frozen, rows: pl.DataFrame, ids: Mapping[str, Sequence[int]], counts: Mapping[int, int]
) -> pl.DataFrame:
    """Return the scored tokens of fits, teacher-forced: model ... length, position, wrong, surprisal_bits, frequency.

    position: from 1. surprisal_bits: without [mem]; null for t1, which nothing predicts. frequency: the token's count
    in `counts`, of other texts. rows, ids: as for `freely`.
    """
    check_rows(frozen, rows)
    texts, mem, _ = _of(rows, ids)
    scores = scored_together(frozen, mem, texts), scored_together(frozen, None, texts)
    token_rows = []
    for row, text, own, alone in zip(rows.select(PLACE).iter_rows(named=True), texts, *scores, strict=True):
        for place in range(row["scored_from"], len(text)):
            token_rows.append(row | {
                "position": place + 1, "wrong": not own.correct[0, place],
                "surprisal_bits": float(alone.bits[0, place]) if place else None,
                "frequency": counts.get(text[place], 0),
            })  # fmt: skip
    return pl.DataFrame(token_rows, schema_overrides={"surprisal_bits": pl.Float64}, infer_schema_length=None)


def auc_within(tokens: pl.DataFrame, by: str) -> pl.DataFrame:
    """Return for each fit the chance that a wrong token has more of `by` than a right one: model ... length, value.

    0.5 where errors don't care. Fits whose tokens are all right or all wrong say nothing and are left out; so are
    tokens of which `by` is null. tokens: from `errors`.
    """
    fits = []
    for group, part in tokens.drop_nulls(by).group_by(PLACE, maintain_order=True):
        wrong, right = (part.filter(wrong=which)[by].to_list() for which in (True, False))
        if wrong and right:
            fits.append(dict(zip(PLACE, group, strict=True)) | {"value": _below(right, wrong)})
    kinds: dict[str, Any] = {name: tokens.schema[name] for name in PLACE}
    return pl.DataFrame(fits, schema=kinds | {"value": pl.Float64})


def _of(
    rows: pl.DataFrame, ids: Mapping[str, Sequence[int]]
) -> tuple[list[list[int]], Float[Tensor, "texts n_mem dim"], list[list[int]]]:
    """Return the texts of rows, their vectors and the tokens that they are given."""
    mem = torch.from_numpy(geometry.vectors(rows))
    texts = [list(ids[key][:length]) for key, length in rows.select("key", "length").iter_rows()]
    begun = rows["scored_from"].unique().to_list()
    if len(begun) > 1:
        raise ValueError("some rows have t1 given and some predicted; give those of one scored_from")
    return texts, mem, [text[: begun[0]] for text in texts]


def _leading(decoded: Sequence[int], text: Sequence[int]) -> int:
    return next((place for place, pair in enumerate(zip(decoded, text, strict=True)) if pair[0] != pair[1]), len(text))
