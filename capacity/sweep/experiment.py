"""What is measured: an experiment names one cell, and a grid is a product of settings."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from typing import Any, get_args, get_type_hints

from capacity import extensions, fitting, models, texts
from capacity.files import list_hint, whole_number
from capacity.fitting import BUDGET
from capacity.models import BOS, DTYPES
from capacity.texts import Text

PROTOCOL = 1  # part of every key: raised when the meaning of a row changes
LOADED = ("dtype", "attention", "device", "bos")  # settings of models.load
SEARCHES = ("fixed", *fitting.SEARCHES)


@cache
def _kinds() -> dict[str, Any]:
    return get_type_hints(Experiment)


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
    recipe: str = "default"  # as fitting.recipe takes it
    search: str = "grow"  # `fixed`: one fit at `length`; else a key of fitting.SEARCHES
    budget: int = BUDGET  # token-steps of a search
    seed: int = 0  # of the start
    bos: str = "none"  # one of models.BOS (`after_mem`: t1, given and counted, as the paper's Llama), or auto
    dtype: str = "float32"  # of the weights
    attention: str | None = None  # implementation of transformers; None: the model's own choice
    device: str | None = None  # cpu, cuda or mps; None: the best of the machine
    trace: bool = False  # keep right tokens and bits at every step

    def check(self) -> None:
        """Raise ValueError for the first setting of another type or not allowed, saying what is; nothing is fetched."""
        for name, kind in _kinds().items():
            value, kinds = getattr(self, name), get_args(kind) or (kind,)
            if type(value) not in kinds:
                words = {int: "a whole number", bool: "True or False", str: "text", type(None): "None"}
                allowed = " or ".join(words[kind] for kind in kinds)
                raise ValueError(f"{name} is {value!r}, a {type(value).__name__}; give {allowed}{list_hint(value)}")
            if list_hint(value):
                raise ValueError(f"{name} is {value!r}, one text{list_hint(value)}")
        fitting.recipe(self.recipe)
        texts.check_name(self.source)
        for name, value, allowed in [
            ("search", self.search, SEARCHES),
            ("scored_from", self.scored_from, (0, 1)),
            ("dtype", self.dtype, tuple(DTYPES)),
            ("bos", self.bos, ("auto", *BOS)),
        ]:
            if value not in allowed:
                raise ValueError(f"unknown {name} {value!r}; known are {', '.join(map(str, allowed))}")
        for name, least, most in [
            ("n_mem", 1, 2**31 - 1), ("length", 1 + self.scored_from, 2**31 - 1), ("budget", 1, 2**63 - 1),
            ("text_index", 0, 2**31 - 1), ("text_seed", 0, 2**63 - 1), ("seed", 0, 2**63 - 1),
        ]:  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {least} is needed")
            if getattr(self, name) > most:  # the row's column holds no more
                raise ValueError(f"{name} is {getattr(self, name)}; at most {most} is allowed")
        if self.bos == "after_mem" and not self.scored_from:
            raise ValueError("bos='after_mem' makes BOS the given first token; it needs scored_from=1")

    @property
    def loaded(self) -> tuple:
        """The model's name and its settings LOADED: cells that share them share the weights in memory."""
        return self.model, *(getattr(self, name) for name in LOADED)

    def load(self) -> models.Frozen:
        """Return the model, loaded as the experiment says; raises ModelError as models.load."""
        return models.load(self.model, **{name: getattr(self, name) for name in LOADED})

    def key(self, text: Text, *, revision: str, tokenizer_digest: str) -> str:
        """Return 32 hex digits that change with anything that may change the cell's rows."""
        settings = _told_apart(self, _KEYED) | {
            "recipe": [self.recipe, _told_apart(fitting.recipe(self.recipe), _KEYED_OF_RECIPE)]
        }
        if self.search == "fixed":
            del settings["budget"]
        parts = [PROTOCOL, settings, text.digest, revision, tokenizer_digest]
        parts += extensions.digest({
            "recipes": [fitting.base(self.recipe)], "losses": [fitting.recipe(self.recipe).loss],
            "sources": [texts.base(self.source)],
        })  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


# Fields of the first rows' keys; a later one is left out at its default, which means what was done before.
_KEYED = frozenset({
    "model", "source", "text_index", "text_seed", "n_mem", "length", "scored_from", "recipe", "search", "budget",
    "seed", "bos", "dtype", "attention", "device", "trace",
})  # fmt: skip
_KEYED_OF_RECIPE = frozenset({
    "loss", "lr", "betas", "eps", "weight_decay", "margin", "steps", "patience", "relative",
})  # fmt: skip


def _told_apart(settings: Any, keyed: frozenset[str]) -> dict[str, Any]:
    values = {field.name: (getattr(settings, field.name), field.default) for field in fields(settings)}
    return {name: value for name, (value, default) in values.items() if name in keyed or value != default}


@dataclass(frozen=True)
class Cell:
    """An experiment with its text and key, and what they were made with."""

    experiment: Experiment  # bos is resolved
    text: Text
    key: str
    revision: str = ""  # digest of the model's files
    tokenizer_digest: str = ""


# The searches of 12_real_models, which every page shows of a pretrained model: settings of `grid`, beside `model`.
PRETRAINED = {"n_texts": 12, "length": 128, "budget": 8000, "bos": "before_mem"}
DRAWN = PRETRAINED | {"source": "random_tokens", "length": 64, "search": "leap"}  # texts of known entropy


def grid(*, n_texts: int = 8, **settings: Any) -> list[Experiment]:
    """Return the product of all settings, each a value or a list of values of a field of Experiment.

    n_texts: texts of each source, the first of its seeded sample.

    Raises ValueError for an unknown field or a setting that is not allowed.

    >>> [e.length for e in grid(model="llama-64", length=[8, 16], n_texts=1)]
    [8, 16]
    """
    known = {field.name for field in fields(Experiment)} - {"text_index"}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(f"unknown settings {unknown}; known are n_texts, {', '.join(sorted(known))}")
    n_texts = whole_number("n_texts", n_texts, least=1)
    if "model" not in settings:
        raise ValueError("a grid needs a model; give model=, a name or a list of names")
    lists = [value if isinstance(value, list | tuple) else [value] for value in settings.values()]
    experiments = [
        Experiment(**dict(zip(settings, values, strict=True)), text_index=index)
        for values in product(*lists)
        for index in range(n_texts)
    ]
    for experiment in experiments:
        experiment.check()
    return list(dict.fromkeys(experiments))


def cells(experiments: Iterable[Experiment]) -> list[Cell]:
    """Return the experiments with their texts and keys, in the same order; no weights are loaded.

    Raises ValueError (ModelError, TextError) for an unknown model or source, or texts too short or too few.
    """
    experiments = list(experiments)
    known: dict[str, tuple] = {}
    for experiment in experiments:
        if experiment.model not in known:
            folder = models.locate(experiment.model)
            config, tokenizer = models.describe(experiment.model, folder)
            facts = models.context_of(config), models.digest(folder), models.tokenizer_digest(tokenizer)
            known[experiment.model] = tokenizer, models.bos_policy(tokenizer, folder), *facts
    experiments = [
        replace(experiment, bos=known[experiment.model][1]) if experiment.bos == "auto" else experiment
        for experiment in experiments
    ]
    groups: dict[tuple, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        experiment.check()
        sampled = experiment.model, experiment.source, experiment.length, experiment.text_seed, experiment.bos
        groups[sampled].append(experiment)
    made: dict[Experiment, Cell] = {}
    for (name, source, length, seed, bos), members in groups.items():
        tokenizer, _, context, revision, digest = known[name]
        n_mem, n_before = max(experiment.n_mem for experiment in members), int(bos == "before_mem")
        models.check_length(length, n_mem, context=context, name=name, n_before=n_before)
        n_texts = 1 + max(experiment.text_index for experiment in members)
        lead = (models.bos_id(tokenizer, name=name),) if bos == "after_mem" else ()  # t1, one of the length
        sample = texts.sample(source, tokenizer, n_texts=n_texts, length=length - len(lead), seed=seed)
        for experiment in members:
            text = sample[experiment.text_index]
            text = replace(text, ids=(*lead, *text.ids))
            key = experiment.key(text, revision=revision, tokenizer_digest=digest)
            made[experiment] = Cell(experiment, text, key, revision, digest)
    return [made[experiment] for experiment in experiments]
