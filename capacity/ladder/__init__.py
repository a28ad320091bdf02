"""Models trained alike at several widths and depths, more than once each: listed as data, trained, measured."""

import json
import math
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerFast

from capacity import files, models, pretraining, resources
from capacity.ladder.comparison import (
    AXES,
    CURVES,
    FACTS,
    HELD,
    MEASURES,
    along,
    beyond,
    curve_path,
    curve_table,
    drawn,
    foretold,
    held,
    lines,
    means,
    measure,
    table,
    trends,
    verdict,
)

__all__ = [
    "AXES", "CURVES", "FACTS", "HELD", "MEASURES", "Ladder", "Rung", "Training", "along", "beyond", "curve_table",
    "curves", "drawn", "facts", "foretold", "held", "lines", "means", "measure", "read", "table", "train", "trends",
    "verdict", "write",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One shape and learning rate, trained once a seed."""

    width: int
    depth: int  # layers
    heads: int
    inner: int  # width of the MLP
    seeds: tuple[int, ...]  # each of weights and order
    rate: float = 1.0  # factor of the peak learning rate
    checkpoints: tuple[float, ...] = ()  # shares of the tokens after which the model is kept, too
    held_out: bool = False  # left out of the laws, to be foretold


@dataclass(frozen=True, kw_only=True)
class Training:
    """One model that is to be trained."""

    rung: Rung
    seed: int
    schedule: pretraining.Schedule

    @property
    def name(self) -> str:
        """The name of its folder."""
        rate = "" if self.rung.rate == 1 else f"-lr{self.rung.rate:g}"
        return f"w{self.rung.width}-d{self.rung.depth}{rate}-s{self.seed}"

    @property
    def checkpoints(self) -> dict[str, int]:
        """The folders of its checkpoints, and after how many tokens each is saved."""
        return {f"{self.name}-at{share:g}": round(share * self.schedule.tokens) for share in self.rung.checkpoints}

    @property
    def shape(self) -> dict[str, Any]:
        """Its shape, as those of pretraining.RUNGS."""
        rung = self.rung
        return {
            "family": "llama", "width": rung.width, "layers": rung.depth, "heads": rung.heads, "inner": rung.inner
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """What a file lists."""

    tokens: int  # seen by each model
    warmup: float  # share of the steps
    vocabulary: str  # model whose tokenizer is theirs
    rungs: tuple[Rung, ...]
    schedule: dict[str, Any] = field(default_factory=dict)  # of pretraining.Schedule

    def trainings(self, tokens: int | None = None) -> list[Training]:
        """Return all trainings in their order, by seed, then as listed; tokens: in place of the ladder's own."""
        plan = pretraining.Schedule(tokens=tokens or self.tokens, **self.schedule)
        plan = replace(plan, warmup=math.ceil(self.warmup * plan.steps))
        return [
            Training(
                rung=rung, seed=seed,
                schedule=replace(plan, seed=seed, order_seed=seed, peak=plan.peak * rung.rate),
            )
            for seed in sorted({seed for rung in self.rungs for seed in rung.seeds})
            for rung in self.rungs if seed in rung.seeds
        ]  # fmt: skip


def read(path: Path | str | None = None) -> Ladder:
    """Return the ladder that a TOML file lists; None: the project's own, data/ladder.toml.

    Raises ValueError for a key that is missing or unknown, or two rungs that are the same.
    """
    path = resources.data() / "ladder.toml" if path is None else Path(path)
    contents = tomllib.loads(path.read_text(encoding="utf-8"))
    rungs = tuple(_of(Rung, rung, path) for rung in contents.pop("rungs", []))
    schedule = {name: _tuple(value) for name, value in contents.pop("schedule", {}).items()}
    ladder = _of(Ladder, contents | {"rungs": rungs, "schedule": schedule}, path)
    names = [training.name for training in ladder.trainings()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: {', '.join(twice)} are listed twice; list each width, depth, rate and seed once")
    return ladder


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


def facts(ladder: Ladder, out: Path | None = None) -> pl.DataFrame:
    """Return FACTS of the ladder's models in a folder, checkpoints too; not those of another ladder."""
    out = out or models.trained()
    rows = []
    for training in ladder.trainings():
        for name in (*training.checkpoints, training.name):
            path = out / name / "training.json"
            if path.is_file():
                record = json.loads(path.read_text(encoding="utf-8"))
                planned = pretraining.Schedule(**record["schedule"])
                rows.append({
                    "model": models.TRAINED + name, "width": record["width"], "depth": record["layers"],
                    "heads": record["heads"], "parameters": record["parameters"], "seed": training.seed,
                    "rate": training.rung.rate, "tokens": record["tokens_seen"],
                    "planned": planned.steps * planned.batch, "held_out": training.rung.held_out,
                    "held_out_nats": record["held_out_nats_per_token"],
                })  # fmt: skip
    return pl.DataFrame(rows, schema=FACTS)


def curves(ladder: Ladder, out: Path | None = None, *, points: int = 100) -> pl.DataFrame:
    """Return the training curves of the ladder's models in a folder: model, step, tokens, loss_nats, rounded.

    Losses are means over runs of steps, each with its last step's number, so that about `points` are left of a model.
    """
    out = out or models.trained()
    paths = {training.name: out / training.name / pretraining.CURVE for training in ladder.trainings()}
    parts = []
    for name, path in paths.items():
        if path.is_file():
            own = pl.read_csv(path)
            run = (pl.int_range(pl.len()) * points // pl.len()).alias("run")
            means = own.group_by(run, maintain_order=True).agg(
                pl.col("step", "tokens").last(), pl.col("loss_nats").mean().round(4)
            )
            parts.append(means.select(pl.lit(models.TRAINED + name).alias("model"), pl.exclude("run")))
    return pl.concat(parts) if parts else pl.DataFrame(schema=CURVES)


def write(ladder: Ladder, path: Path | str, out: Path | None = None) -> None:
    """Write the facts of the ladder's models in a folder to a CSV file, and their curves beside it."""
    place = Path(path)
    files.write(place, facts(ladder, out).write_csv().encode())
    files.write(curve_path(place), curves(ladder, out).write_csv().encode())


def _done(training: Training, out: Path) -> bool:
    path = out / training.name / "training.json"
    if not path.is_file():
        return False
    was = json.loads(path.read_text(encoding="utf-8"))["schedule"]
    if was != json.loads(json.dumps(asdict(training.schedule))):
        raise ValueError(f"{path.parent} was trained by another schedule ({was}); name another folder, or remove it")
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


def _of(kind: type, contents: dict[str, Any], path: Path) -> Any:
    names = {member.name for member in fields(kind)}
    if unknown := sorted(contents.keys() - names):
        raise ValueError(f"{path}: unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}")
    try:
        return kind(**{name: _tuple(value) for name, value in contents.items()})
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
