"""Which models are to be trained alike: a ladder of rungs as a file lists them, and the trainings of each."""

import math
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from capacity import pretraining, resources


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

    Raises ValueError for a key that is missing or unknown, checkpoints that are no shares, or two rungs that are alike.
    """
    path = resources.data() / "ladder.toml" if path is None else Path(path)
    contents = tomllib.loads(path.read_text(encoding="utf-8"))
    rungs = tuple(_of(Rung, rung, path) for rung in contents.pop("rungs", []))
    schedule = {name: _tuple(value) for name, value in contents.pop("schedule", {}).items()}
    ladder = _of(Ladder, contents | {"rungs": rungs, "schedule": schedule}, path)
    if wrong := [share for rung in rungs for share in rung.checkpoints if not 0 < share < 1]:
        raise ValueError(f"{path}: checkpoints at {wrong} of the tokens; give shares above 0 and below 1")
    if wrong := [rung for rung in rungs if not rung.seeds or not rung.rate > 0]:
        raise ValueError(f"{path}: {wrong[0]} has no seed, or a rate that is not above 0; give both")
    names = [training.name for training in ladder.trainings()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: {', '.join(twice)} are listed twice; list each width, depth, rate and seed once")
    return ladder


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
