"""Models trained alike at several widths and depths, more than once each: listed as data, trained, measured."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import polars as pl
from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerFast

from capacity import models, pretraining
from capacity.ladder.comparison import AXES, HELD, MEASURES, along, by_rate, held, measure, trends
from capacity.ladder.facts import CURVES, FACTS, curve_table, curves, facts, table, write
from capacity.ladder.laws import beyond, constant, drawn, foretold, law_table, lines, means, missed, verdict
from capacity.ladder.plan import Ladder, Rung, Training, read

__all__ = [
    "AXES", "CURVES", "FACTS", "HELD", "MEASURES", "Ladder", "Rung", "Training", "along", "beyond", "by_rate",
    "constant", "curve_table", "curves", "drawn", "facts", "foretold", "held", "law_table", "lines", "means", "measure",
    "missed", "read", "table", "train", "trends", "verdict", "write",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


def train(
    ladder: Ladder,
    *,
    corpus: Path | str,
    held_out: Path | str,
    tokens: int | None = None,
    out: Path | None = None,
    compile: bool = False,
) -> pl.DataFrame:
    """Train all that is not trained yet, and return the facts of what is there.

    Processes that are given the same folder share the work; one that is killed loses at most the last half minute.

    Args:
        ladder: from `read`.
        corpus: of the texts, as `pretraining.books` takes it.
        held_out: the same, never trained on.
        tokens: seen by each model, in place of the ladder's own.
        out: folder of a folder a model; None: models.trained(), where a model is found by its name.
        compile: see pretraining.train.

    Raises ValueError where a model there was trained by another schedule.
    """
    out = out or models.trained()
    todo = [training for training in ladder.trainings(tokens) if not _done(training, out)]
    if not todo:
        return facts(ladder, out)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(models.locate(ladder.vocabulary))
    unseen = pretraining.books(held_out)
    seen, unseen_tokens = (
        pretraining.stream(documents, tokenizer) for documents in (pretraining.books(corpus), unseen)
    )
    bytes_per_token = sum(len(book.encode()) for book in unseen) / len(unseen_tokens)
    for training in todo:
        with _claimed(out, training) as mine:
            if mine and not _done(training, out):
                pretraining.make(
                    training.name, training.shape, tokenizer, seen, unseen_tokens, training.schedule,
                    bytes_per_token=bytes_per_token, out=out, compile=compile, checkpoints=training.checkpoints,
                    resumable=True,
                )  # fmt: skip
    return facts(ladder, out)


def _done(training: Training, out: Path) -> bool:
    path = out / training.name / "training.json"
    if not path.is_file():
        return False
    was = json.loads(path.read_text(encoding="utf-8"))
    for kind, wanted in (("schedule", {"schedule": asdict(training.schedule)}), ("shape", training.shape)):
        trained = {name: was.get(name) for name in wanted}
        if trained != json.loads(json.dumps(wanted)):
            raise ValueError(
                f"{path.parent} was trained by another {kind} ({trained}); name another folder, or remove it"
            )
    if lacking := [name for name in training.checkpoints if not (out / name / "training.json").is_file()]:
        raise ValueError(
            f"{path.parent} was trained, but its checkpoints {', '.join(lacking)} are not there; remove it to have them"
        )
    return True


@contextmanager
def _claimed(out: Path, training: Training) -> Iterator[bool]:
    """Claim a training; False where another process is at it. The claim of one that dies is free."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / f".{training.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
