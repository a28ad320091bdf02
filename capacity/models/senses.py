"""Which parts of a model are for other senses than text."""

import re
from collections.abc import Iterable

# Of a module's name: it reads what is no text, and a text's logits never pass through it.
_OTHER_SENSES = re.compile(r"(^|[._])(vision|visual|image|audio|speech|video|multi_?modal|mm)(_|\.|$)")


def parts(names: Iterable[str]) -> tuple[str, ...]:
    """Return the modules for other senses than text that the weights `names` belong to, each once.

    >>> parts(["model.vision_tower.a.weight", "model.vision_tower.b.weight", "model.layers.0.mlp.weight"])
    ('model.vision_tower',)
    """
    modules = []
    for name in names:
        if match := _OTHER_SENSES.search(name):
            begin = match.start(2)
            modules.append(name[:begin] + name[begin:].partition(".")[0])
    return tuple(dict.fromkeys(modules))
