"""How a text begins in a model: the policies for its token of the beginning of a sequence."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from capacity.files import first_line
from capacity.models import packaged
from capacity.models.errors import ModelError

# Policies for the beginning-of-sequence token: it is not there, stands before [mem] in every input, or is the text's
# own first token t1, given to the decoder (the paper's runs of Llama).
BOS = ("none", "before_mem", "after_mem")


def bos_policy(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """Return what `auto` stands for: the policy that the model's own training.json or packaged.PACKAGED names.

    Else `before_mem` where the tokenizer begins a text with BOS, so that the model never read a text without; else
    `none`. Raises ModelError for another policy than those two.
    """
    try:
        own = json.loads((folder / "training.json").read_text(encoding="utf-8")).get("bos")
    except (OSError, ValueError, AttributeError):  # it says nothing of its training
        own = packaged.policy(folder)
    if own is not None:
        if own not in ("none", "before_mem"):
            raise ModelError(f"{folder / 'training.json'} names bos {own!r}; none and before_mem are allowed")
        return own
    begin = tokenizer.bos_token_id
    if begin is None:
        return "none"
    try:
        begun = list(tokenizer("a")["input_ids"])[:1] == [begin]
    except Exception as error:  # the tokenizers library raises no other type
        raise ModelError(f"the tokenizer in {folder} encodes no text ({first_line(error)}); mend its files") from error
    return "before_mem" if begun else "none"


def bos_id(tokenizer: PreTrainedTokenizerBase, *, name: str) -> int:
    """Return the token for the beginning of a sequence; raises ModelError if the tokenizer of `name` has none."""
    token = tokenizer.bos_token_id
    if not isinstance(token, int):
        raise ModelError(f"the tokenizer of {name} has no BOS token; use bos='none'")
    return token
