"""Does a vector decode the same under other arithmetic, which ones don't, and where do the errors of fits sit?"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from capacity import geometry, metrics
from capacity.decoding import check_rows, scored_together, together
from capacity.determinism.areas import LEAST_OUTCOMES, PLACE, auc, auc_within
from capacity.determinism.rounding import ROUNDINGS, moved, q8_0, rounded
from capacity.models import Frozen

__all__ = [
    "LEAST_OUTCOMES", "ROUNDINGS", "Condition", "again", "auc", "auc_within", "conditions", "errors", "freely",
    "in_every_way", "last_exact", "last_failed", "least_margins", "longest", "margins", "moved", "q8_0", "rounded",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


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
