"""Cells to rows: each fitted, then scored and decoded alone from its stored bytes."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import polars as pl
import torch

from capacity import fitting, metrics, models, provenance, texts
from capacity.decoding import AT_ONCE, Ended, Score, all_decoded_back, counts, decoded_back, teacher_forced
from capacity.fitting import Probe, Task
from capacity.models import Frozen, is_exhausted
from capacity.store import NULLABLE, SCHEMA, VERSION
from capacity.sweep.experiment import Cell


def kind(cell: Cell) -> tuple[str, str]:
    """Return recipe and search: cells alike in both run side by side."""
    return cell.experiment.recipe, cell.experiment.search


def run(
    frozen: Frozen,
    cells: Iterable[Cell],
    *,
    compile: bool | str = False,
    stepped: Callable[[int], object] = lambda token_steps: None,
) -> Iterator[list[dict]]:
    """Yield the rows of each cell as it ends: one a probe, as they ended; cells run side by side.

    What is stored is scored again, alone, from its bytes; the exact vectors of a cell are decoded free-running,
    from the last back to one that decodes whole; on a GPU those of several cells side by side.

    frozen: the model of all cells; compile, stepped: see fitting.run. Raises ValueError for a text that doesn't fit
    into its context.
    """
    by_kind = sorted(cells, key=kind)
    for (name, how), group in groupby(by_kind, key=kind):
        begun = [_task(frozen, cell) for cell in group]
        advance = fitting.SEARCHES.get(how, fitting.stop)
        ended = fitting.run(frozen, begun, fitting.recipe(name), advance, compile=compile, stepped=stepped)
        for together in _gathered(ended, AT_ONCE.get(frozen.device.type, 1)):
            backs = _decoded(frozen, together)
            for task, back in zip(together, backs, strict=True):
                yield rows(frozen, task.tag, task.probes, back)


_WAIT_SECONDS = 5.0  # that an ended cell may wait for others before it is decoded; a kill loses no more


def _gathered(tasks: Iterable[Task], most: int) -> Iterator[list[Task]]:
    """Yield tasks as they end, `most` at a time, or those that ended until one has waited for long."""
    group: list[Task] = []
    since = 0.0
    for task in tasks:
        since = since if group else time.monotonic()
        group.append(task)
        if len(group) >= most or time.monotonic() - since > _WAIT_SECONDS:
            yield group
            group = []
    if group:
        yield group


def _exact(probes: Sequence[Probe]) -> dict[int, tuple[int, torch.Tensor]]:
    """Return length and vector of the probes that were solved, by their number."""
    return {number: (probe.length, probe.mem) for number, probe in enumerate(probes) if probe.status == "solved"}


def _decoded(frozen: Frozen, tasks: Sequence[Task]) -> Sequence[list[int | None] | None]:
    """Return what the exact vectors of several tasks decode to, side by side; None: each is to be alone."""
    if len(tasks) > 1:
        try:
            own = [Ended(task.ids, list(_exact(task.probes).values()), task.scored_from) for task in tasks]
            return all_decoded_back(frozen, own)
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
    return [None] * len(tasks)


def _task(frozen: Frozen, cell: Cell) -> Task:
    experiment = cell.experiment
    searched = experiment.search in fitting.SEARCHES
    return fitting.task(
        frozen, cell.text.ids, n_mem=experiment.n_mem, seed=experiment.seed, scored_from=experiment.scored_from,
        length=min(experiment.length, fitting.first_length(experiment.scored_from)) if searched else experiment.length,
        budget=experiment.budget if searched else None, tag=cell, trace=experiment.trace,
    )  # fmt: skip


def rows(frozen: Frozen, cell: Cell, probes: Sequence[Probe], back: list[int | None] | None = None) -> list[dict]:
    """Return a cell's rows, one a probe (columns: store.SCHEMA), each scored alone from its stored vector.

    back: what the exact vectors decode to (decoding.decoded_back), where that is known already.

    Where memory runs out in scoring or decoding one text, all of them have status `oom`, and no bits.
    """
    try:
        return _rows(frozen, cell, probes, back)
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
    return _rows(frozen, cell, [replace(probe, status="oom") for probe in probes], None, scored=False)


def _rows(
    frozen: Frozen, cell: Cell, probes: Sequence[Probe], back: list[int | None] | None, *, scored: bool = True
) -> list[dict]:
    experiment, ids = cell.experiment, torch.tensor([cell.text.ids])
    nothing = Score(np.full(ids.shape, -1), np.zeros(ids.shape, dtype=bool), np.full(ids.shape, np.nan))
    without = teacher_forced(frozen, None, ids) if scored else nothing
    exact = _exact(probes)
    if back is None:
        back = decoded_back(frozen, list(exact.values()), cell.text.ids, scored_from=experiment.scored_from)
    decoded = dict(zip(exact, back, strict=True))  # none of the others
    searched = experiment.search in fitting.SEARCHES
    spent = [known_bits(frozen.tokenizer, cell, probe.length) for probe in probes]
    cell_rows = []
    for number, probe in enumerate(probes):
        stored = probe.mem.numpy().tobytes()
        mem = torch.from_numpy(np.frombuffer(stored, dtype=np.float32).reshape(probe.mem.shape).copy())
        score = teacher_forced(frozen, mem.unsqueeze(0), ids[:, : probe.length]) if scored else nothing
        cell_rows.append(
            dict.fromkeys(NULLABLE)
            | {name: fact for name, fact in frozen.facts().items() if name in SCHEMA}
            | counts(score, without, probe.length)
            | {
                "key": cell.key, "schema": VERSION, "source": experiment.source, "text_index": experiment.text_index,
                "text_id": cell.text.id, "text_digest": cell.text.digest, "n_mem": experiment.n_mem,
                "length": probe.length, "scored_from": experiment.scored_from, "recipe": experiment.recipe,
                "search": experiment.search, "budget": experiment.budget if searched else None,
                "limit": experiment.length if searched else None, "text_seed": experiment.text_seed, "probe": number,
                "source_bits_low": spent[number], "source_bits_high": spent[number],
                "seed": experiment.seed, "init": "embedding_std",
                "steps": probe.steps, "token_steps": probe.token_steps, "status": probe.status,
                "n_scored": probe.n_scored, "bits_with_min": probe.bits_min, "decoded_tokens": decoded.get(number),
                "seconds": probe.seconds, "device": frozen.device.type,
                "threads": torch.get_num_threads() if frozen.device.type == "cpu" else None,
                "versions": json.dumps(provenance.versions()),
                "mem": mem.flatten().numpy(),
                "curve_right": None if probe.curve is None else probe.curve.right,
                "curve_bits": None if probe.curve is None else np.array(probe.curve.bits, dtype=np.float32),
            }
        )  # fmt: skip
    return cell_rows


def known_bits(tokenizer, cell: Cell, length: int) -> float | None:
    """Return the bits that its source spent on the first tokens of a cell's text; None where they are not known.

    A BOS that is the text's own first token (`after_mem`) was not drawn.
    """
    experiment = cell.experiment
    lead = int(experiment.bos == "after_mem")
    return texts.source_bits(experiment.source, tokenizer, cell.text.ids[lead:length], seed=experiment.text_seed)


def with_source_bits(rows: pl.DataFrame, cells: Sequence[Cell]) -> pl.DataFrame:
    """Return rows with the bits that their source spent on them, where it is known, also in rows of before it was kept.

    `source_bits_low` and `source_bits_high` are filled where they are null. Added are `source_first_bits`, of the
    text's first token (0 for a BOS that is its own: it was not drawn), and, where tokens are drawn evenly,
    `source_token_bits`, of each that was drawn. ValueError for a column that is missing or holds no numbers.
    """
    bits = ("source_bits_low", "source_bits_high")
    metrics.check_columns(rows, "key", "length", "source", "bos", *bits, takes=())
    metrics.check_numbers(rows, "length", *bits)
    names = {cell.experiment.model for cell in cells}
    tokenizers = {name: models.describe(name, models.locate(name))[1] for name in names}
    known = {cell.key: cell for cell in cells}
    wanted = [(key, length) for key, length in rows.select("key", "length").unique().iter_rows() if key in known]
    numbers = dict.fromkeys(["spent", "source_first_bits"], pl.Float64)
    spent = pl.DataFrame(
        [
            (key, length, *(known_bits(tokenizers[known[key].experiment.model], known[key], n) for n in (length, 1)))
            for key, length in wanted
        ],
        schema={"key": pl.String, "length": rows.schema["length"]} | numbers,
        orient="row",
    )
    rows = rows.drop("source_first_bits", "source_token_bits", strict=False)  # of an earlier call
    joined = rows.join(spent, on=["key", "length"], how="left", maintain_order="left")
    led = pl.col("bos").eq_missing("after_mem")
    even = pl.col("source").str.contains(r"^random_tokens(:|$)")
    joined = joined.with_columns(pl.coalesce(name, "spent").alias(name) for name in bits).drop("spent")
    joined = joined.with_columns(
        source_token_bits=pl.when(even, pl.col("length") > led).then(
            pl.col("source_bits_low") / (pl.col("length") - led)
        )
    )
    of_first = pl.when(led).then(0.0 * pl.col("source_bits_low")).otherwise("source_token_bits")
    return joined.with_columns(pl.coalesce("source_first_bits", of_first))  # of models that are not here, as well
