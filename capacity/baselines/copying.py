"""What a model gives back of a text that it has just read: real vectors, one a token, in the place of trained ones."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from capacity import models, provenance, store, texts
from capacity.baselines.reading import read_first
from capacity.models import Frozen, ModelError
from capacity.sweep import MissingCells
from capacity.texts import Text

_FACTS = pl.Schema({
    "model": pl.String, "revision": pl.String, "bos": pl.String, "dtype": pl.String, "source": pl.String,
    "text_index": pl.Int64, "text_id": pl.String, "length": pl.Int64,
    "instruction": pl.String,  # between a text and its copy; in the words of the model's chat template where it has one
})  # fmt: skip
_SCORES = pl.Schema({
    "n_context": pl.Int64, "scored_from": pl.Int64, "n_scored": pl.Int64, "correct_without": pl.Int64,
    "correct_with": pl.Int64, "bits_without": pl.Float64, "bits_with": pl.Float64, "first_bits_with": pl.Float64,
    "first_correct": pl.Boolean, "decoded_tokens": pl.Int64,
})  # fmt: skip
SCHEMA = pl.Schema({**_FACTS, **_SCORES, "versions": pl.String})


def asked(tokenizer, ids: Sequence[int], instruction: str) -> list[int]:
    """Return the tokens that ask for a copy: the text and the instruction, as a turn of a chat where models have one.

    The text's own tokens stand in it as they are.
    """
    after = texts.encode(tokenizer, instruction) if instruction else []
    if not getattr(tokenizer, "chat_template", None):
        return [*ids, *after]
    turn = [{"role": "user", "content": "\0"}]
    head, tail = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True).split("\0")
    return [*texts.encode(tokenizer, head), *ids, *after, *texts.encode(tokenizer, tail)]


def copies(frozen: Frozen, sample: Sequence[Text], *, instruction: str = "") -> list[dict[str, Any]]:
    """Return the rows of `read_first` for each text after itself and an instruction to repeat it; see `asked`."""
    contexts = [asked(frozen.tokenizer, text.ids, instruction) for text in sample]
    begun = frozen.n_before and contexts and contexts[0][0] == frozen.tokenizer.bos_token_id  # by the template, too
    return read_first(frozen, sample, [context[1:] for context in contexts] if begun else contexts)


def repeated(
    names: Sequence[str], sources: Sequence[str], lengths: Sequence[int], folder: Path | str | None = None, *,
    n_texts: int, instruction: str = "", bos: str = "auto", missing: str = "measure", travelling: bool = True,
) -> pl.DataFrame:  # fmt: skip
    """Return the rows of `copies` for models, sources and lengths: SCHEMA, a row a text.

    What is measured is kept as a table in the folder `copies` of the store, or beside the rows that travel. Of a model
    that is not on this machine there is what was kept.

    Args:
        names: of models.
        sources: of the texts.
        lengths: tokens.
        folder: of the store; None takes store.default_path().
        n_texts: texts of each source.
        instruction: between a text and its copy.
        bos: policy, see models.load.
        missing: `measure` what is not there, `skip` it, or `refuse` to go on.
        travelling: take the tables that travel with the project for there, too.

    Raises ModelError, TextError and ValueError as `models.load`, `texts.sample` and `copies`; MissingCells if `missing`
    is `refuse` and some are.
    """
    place, every = store.places("copies", folder, travelling=travelling)
    kept = store.read_tables(every, SCHEMA).filter(pl.col("text_index") < n_texts)
    parts = [pl.DataFrame(schema=SCHEMA)]
    for name in names:
        frozen = None
        facts = _facts(name, bos)
        for source, length in ((source, length) for source in sources for length in lengths):
            wanted = facts | {"source": source, "length": length, "instruction": instruction}
            rows = kept.filter(**wanted).unique(["revision", "text_index"], keep="first", maintain_order=True)
            if rows.height < n_texts and missing == "refuse":
                raise MissingCells(f"{name} has no copies of {source} of {length} tokens; take missing='measure'")
            if rows.height < n_texts and missing == "measure" and "revision" in facts:
                frozen = frozen or models.load(name, bos=facts["bos"])
                rows = pl.DataFrame(list(_rows(frozen, wanted, n_texts)), SCHEMA)
                store.write(place, rows)
            parts.append(rows)
    return pl.concat(parts)


def _facts(name: str, bos: str) -> dict[str, str]:
    """Return what tells a model's rows apart: its name alone where it is not on this machine."""
    try:
        folder = models.locate(name)
    except ModelError:
        if name not in models.PACKAGED:
            raise
        return {"model": name}
    tokenizer = models.describe(name, folder)[1]
    policy = models.bos_policy(tokenizer, folder) if bos == "auto" else bos
    return {"model": name, "revision": models.digest(folder), "bos": policy, "dtype": "float32"}


def _rows(frozen: Frozen, wanted: dict[str, Any], n_texts: int) -> Iterator[dict[str, Any]]:
    sample = texts.sample(wanted["source"], frozen.tokenizer, n_texts=n_texts, length=wanted["length"])
    for index, row in enumerate(copies(frozen, sample, instruction=wanted["instruction"])):
        scores = {name: row.get(name) for name in _SCORES}
        said = {"text_index": index, "text_id": row["text_id"], "versions": json.dumps(provenance.versions())}
        yield wanted | said | scores
