"""What small models are trained on: documents, a byte-level BPE tokenizer, one stream of tokens."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, END_ID = "<|endoftext|>", 0
CONTEXT = 512  # tokens


def books(path: Path | str, *, column: str = "text") -> list[str]:
    """Return the documents of a Parquet file's `column`, or a text file as one document."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no corpus at {path}; give a Parquet file with a column {column!r}, or a text file")
    if path.suffix == ".parquet":
        return pl.read_parquet(path, columns=[column])[column].to_list()
    return [path.read_text(encoding="utf-8")]


def train_tokenizer(documents: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of `vocab_size` tokens, `<|endoftext|>` (END_ID) the only special one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )  # fmt: skip


def stream(documents: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Return all documents as one array of token ids (n_tokens,), uint16, each followed by `<|endoftext|>`."""
    end = tokenizer.convert_tokens_to_ids(END)
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(list(documents), add_special_tokens=False)
    return np.concatenate([np.array([*document.ids, end], dtype=np.uint16) for document in encoded])


def frequent_words(documents: Iterable[str], n: int) -> list[str]:
    """Return the `n` most frequent words, lower-cased, most frequent first (ties in alphabetical order)."""
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(re.findall(r"[a-z]+(?:'[a-z]+)?", document.lower()))
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]]
