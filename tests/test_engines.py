"""Where cells run: a model that changed since their keys were made is refused before anything is fitted."""

from dataclasses import replace

import pytest

from capacity import models, sweep
from capacity.models import Frozen
from capacity.sweep import engines


@pytest.fixture
def cells(folders):
    return sweep.cells(sweep.grid(model=str(folders["llama"]), source="random_tokens", length=4, n_texts=2))


def test_the_model_that_keys_were_made_with_is_taken(cells, tiny: Frozen):
    engines.check(tiny, cells)
    engines.check(tiny, [])
    engines.check(tiny, [replace(cells[0], revision="", tokenizer_digest="")])  # not known of it


@pytest.mark.parametrize("name", ["revision", "tokenizer_digest"])
def test_another_model_is_refused_with_both_digests(name, cells, tiny: Frozen):
    changed = replace(cells[1], **{name: "0" * 16})
    with pytest.raises(models.ModelError, match=f"its {name} was {'0' * 16} .* and is {getattr(tiny, name)} now"):
        engines.check(tiny, [cells[0], changed])
