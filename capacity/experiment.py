"""What is measured: an experiment names one cell, and `run` turns cells into rows."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np
import torch

from capacity import engine, fitting, provenance, search, texts
from capacity.decoding import Score, decoded_tokens, teacher_forced
from capacity.models import BOS, DTYPES, Frozen
from capacity.rows import SCHEMA
from capacity.search import BUDGET
from capacity.tasks import Probe, Task
from capacity.texts import Text

PROTOCOL = 1  # part of every key: raised when the meaning of a row changes
LOADED = ("dtype", "attention", "device", "bos")  # settings of models.load
SEARCHES = ("fixed", *search.SEARCHES)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One text under one set of conditions."""

    model: str  # embedded name, folder or hub name, OWNER/NAME or OWNER/NAME@REVISION
    source: str = "embedded"  # of the text
    text_index: int = 0  # place in the seeded sample
    text_seed: int = 0  # of the sample
    n_mem: int = 1  # vectors
    length: int = 64  # tokens: of the text (`fixed`), or the most that is tried
    scored_from: int = 0  # 0: all tokens are predicted; 1: t1 is given, as in the paper
    recipe: str = "default"  # a key of fitting.RECIPES
    search: str = "grow"  # `fixed`: one fit at `length`; else a key of search.SEARCHES
    budget: int = BUDGET  # token-steps of a search
    seed: int = 0  # of the start
    bos: str = "none"  # a key of models.BOS; `after_mem`: it is t1, given and counted, as in the paper's Llama runs
    dtype: str = "float32"  # of the weights
    attention: str | None = None  # implementation of transformers; None: the model's own choice
    device: str | None = None  # cpu, cuda or mps; None: the best of the machine
    trace: bool = False  # keep right tokens and bits at every step

    def check(self) -> None:
        """Raise ValueError for the first setting that is not allowed, saying what is."""
        fitting.recipe(self.recipe)
        texts.check(self.source)
        for name, value, allowed in [
            ("search", self.search, SEARCHES),
            ("scored_from", self.scored_from, (0, 1)),
            ("dtype", self.dtype, tuple(DTYPES)),
            ("bos", self.bos, BOS),
        ]:
            if value not in allowed:
                raise ValueError(f"unknown {name} {value!r}; known are {', '.join(map(str, allowed))}")
        for name, least in [("n_mem", 1), ("length", 1 + self.scored_from), ("budget", 1), ("text_index", 0)]:
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {least} is needed")
        if self.bos == "after_mem" and not self.scored_from:
            raise ValueError("bos='after_mem' makes BOS the given first token; it needs scored_from=1")

    @property
    def loaded(self) -> tuple:
        """The model's name and its settings LOADED: cells that share them share the weights in memory."""
        return self.model, *(getattr(self, name) for name in LOADED)

    def key(self, text: Text, *, revision: str, tokenizer_digest: str) -> str:
        """Return 32 hex digits that change with anything that may change the cell's rows."""
        settings = asdict(self) | {"recipe": [self.recipe, asdict(fitting.recipe(self.recipe))]}
        if self.search == "fixed":
            del settings["budget"]
        parts = [PROTOCOL, settings, text.digest, revision, tokenizer_digest]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Cell:
    """An experiment with its text and key."""

    experiment: Experiment
    text: Text
    key: str


def run(frozen: Frozen, cells: Iterable[Cell], *, compile: bool = False) -> Iterator[list[dict]]:
    """Yield the rows of each cell as it ends: one a probe, as they ended; cells run side by side.

    What is stored is scored again, alone, from its bytes; the last exact vector of a cell is decoded free-running.

    frozen: the model of all cells; compile: see engine.run. Raises ValueError for a text that doesn't fit into its
    context.
    """

    def kind(cell: Cell) -> tuple[str, str, int]:
        return cell.experiment.recipe, cell.experiment.search, cell.experiment.scored_from

    for (name, how, scored_from), group in groupby(sorted(cells, key=kind), key=kind):
        begun = [_task(frozen, cell) for cell in group]
        advance = search.SEARCHES.get(how, search.stop)
        options = {"scored_from": scored_from, "compile": compile}
        for task in engine.run(frozen, begun, fitting.recipe(name), advance, **options):
            yield rows(frozen, task.tag, task.probes)


def _task(frozen: Frozen, cell: Cell) -> Task:
    what = cell.experiment
    searched = what.search in search.SEARCHES
    return fitting.task(
        frozen, cell.text.ids, n_mem=what.n_mem, seed=what.seed, scored_from=what.scored_from,
        length=min(what.length, search.first_length(what.scored_from)) if searched else what.length,
        budget=what.budget if searched else None, tag=cell, trace=what.trace,
    )  # fmt: skip


def rows(frozen: Frozen, cell: Cell, probes: Sequence[Probe]) -> list[dict]:
    """Return a cell's rows, one a probe (columns: store.SCHEMA), each scored alone from its stored vector."""
    what, ids = cell.experiment, torch.tensor([cell.text.ids])
    without = teacher_forced(frozen, None, ids)
    exact = [number for number, probe in enumerate(probes) if probe.status == "solved"]
    found = []
    for number, probe in enumerate(probes):
        stored = probe.mem.numpy().tobytes()
        mem = torch.from_numpy(np.frombuffer(stored, dtype=np.float32).reshape(probe.mem.shape).copy())
        score = teacher_forced(frozen, mem.unsqueeze(0), ids[:, : probe.length])
        decoded = None
        if exact and number == exact[-1]:
            decoded = decoded_tokens(frozen, mem, cell.text.ids[: probe.length], scored_from=what.scored_from)
        found.append(
            {name: fact for name, fact in frozen.facts().items() if name in SCHEMA}
            | counts(score, without, probe.length)
            | {
                "key": cell.key, "source": what.source, "text_index": what.text_index,
                "text_id": cell.text.id, "text_digest": cell.text.digest, "n_mem": what.n_mem,
                "length": probe.length, "scored_from": what.scored_from, "recipe": what.recipe,
                "search": what.search, "probe": number, "seed": what.seed, "init": "embedding_std",
                "steps": probe.steps, "token_steps": probe.token_steps, "status": probe.status,
                "n_scored": probe.n_scored, "bits_with_min": probe.bits_min, "decoded_tokens": decoded,
                "seconds": probe.seconds, "device": frozen.device.type, "versions": json.dumps(provenance.versions()),
                "mem": mem.flatten().numpy(),
                "curve_right": None if probe.curve is None else probe.curve.right,
                "curve_bits": None if probe.curve is None else np.array(probe.curve.bits, dtype=np.float32),
            }
        )  # fmt: skip
    return found


def counts(with_mem: Score, without: Score, length: int) -> dict:
    """Return the counts and sums of positions 2..length of one text, and t1's own."""
    rest = slice(1, length)
    return {
        "correct_without": int(without.correct[0, rest].sum()),
        "correct_with": int(with_mem.correct[0, rest].sum()),
        "bits_without": float(without.bits[0, rest].sum()),
        "bits_with": float(with_mem.bits[0, rest].sum()),
        "first_bits_with": float(with_mem.bits[0, 0]),
        "first_correct": bool(with_mem.correct[0, 0]),
    }
