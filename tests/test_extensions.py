"""What a file declares is used by name, refused in words, and part of the keys of what it made."""

import json
import os
import subprocess
import sys

import pytest
import torch
from inputs import random_ids

from capacity import extensions, fitting, resources, sweep, texts
from capacity.fitting import losses
from capacity.sweep import presets

EXAMPLE = resources.data() / "examples" / "own.py"
COPY = """
def mine(logits, targets, margin):
    return logits.logsumexp(-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)

LOSSES = {"mine": mine}
RECIPES = {"mine": {"loss": "mine", "lr": 0.1, "steps": 20}}
SOURCES = {"words": lambda: ["the ferry left the harbour", "the rain began before noon"]}
"""


@pytest.fixture(autouse=True)
def nothing_else_in_use(monkeypatch):
    monkeypatch.setattr(extensions, "_used", {})
    monkeypatch.setenv(extensions.VARIABLE, "")


def put(path, text):
    path.write_text(text)
    return path


def test_a_loss_of_ones_own_is_the_packages_loss_where_they_say_the_same(tmp_path, tiny):
    extensions.use(put(tmp_path / "own.py", COPY))
    ids = random_ids(4, 5)
    ours = fitting.Recipe(loss="cross_entropy", lr=0.1, steps=20)
    assert torch.allclose(
        fitting.fit(tiny, ids, "mine").mem, fitting.fit(tiny, ids, ours).mem, atol=1e-4
    )  # one gradient is autograd's, the other by hand
    logits, targets, weight = torch.randn(6, 9), torch.arange(6), torch.randn(9, 4)
    found = losses.GRADIENTS["mine"](logits, targets, 0.0, weight)
    assert torch.allclose(found, losses.cross_entropy_gradient(logits, targets, 0.0, weight), atol=1e-5)


def test_the_digest_of_the_file_is_part_of_the_keys_of_what_it_made(tmp_path):
    path = put(tmp_path / "own.py", COPY)

    def keys(**settings):
        return [cell.key for cell in sweep.cells(sweep.grid(model="llama-64", length=4, n_texts=1, **settings))]

    before = keys()
    extensions.use(path)
    assert keys() == before
    made = {name: keys(**{kind: name})[0] for kind, name in [("recipe", "mine"), ("source", "words")]}
    shuffled = keys(source="shuffled:words")
    extensions.use(put(path, COPY + "# changed\n"))
    assert keys() == before
    again = {name: keys(**{kind: name})[0] for kind, name in [("recipe", "mine"), ("source", "words")]}
    assert all(made[name] != again[name] for name in made)
    assert shuffled != keys(source="shuffled:words")


def test_texts_of_ones_own_are_a_source_like_any_other(tmp_path, tokenizer):
    extensions.use(put(tmp_path / "own.py", COPY))
    found = texts.sample("words", tokenizer, n_texts=2, length=3, seed=1)
    assert {tokenizer.decode(text.ids)[:5] for text in found} <= {"the f", "the r"}
    assert len({text.id for text in found}) == 2
    with pytest.raises(texts.TextError, match=r"known are embedded, .*words, file:PATH"):
        texts.check("word")


def test_the_example_and_a_toml_file_make_cells():
    extensions.use(EXAMPLE, EXAMPLE.with_suffix(".toml"))
    assert {"own/patient", "own/quick"} < set(presets.names())
    found = presets.experiments(presets.load("own/quick"), models=["llama-64"])
    assert {one.recipe for one in found} == {"soft", "default"}
    assert len({cell.key for cell in sweep.cells(found)}) == 4
    assert fitting.recipe("patient") == fitting.Recipe(loss="cross_entropy", lr=0.05, steps=3000, patience=1000)


@pytest.mark.slow
def test_processes_that_are_started_use_the_same_files(tmp_path):
    extensions.use(put(tmp_path / "own.py", COPY))
    code = "import json; from capacity import fitting; print(json.dumps(fitting.recipe('mine').lr))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert json.loads(done.stdout) == 0.1


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "", "no Python or TOML file"),
        ("a.py", "1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("a.py", "x = 1", "nothing is declared; allowed are RECIPES, LOSSES, SOURCES, PRESETS"),
        ("a.py", "RECIPES = 1", "recipes can't be declared"),
        ("a.py", "SOURCES = {'x': 1}", "source 'x' is 1; give a function"),
        ("a.py", "SOURCES = {'a:b': list}", "'a:b' is no name"),
        ("a.toml", "[losses.x]", r"losses can't be declared; allowed are \[recipes.NAME\], \[presets.NAME\]"),
        ("a.toml", "[recipes", "fails: TOMLDecodeError"),
    ],
)
def test_a_wrong_file_is_refused(name, text, says, tmp_path):
    with pytest.raises(extensions.ExtensionError, match=says):
        extensions.use(put(tmp_path / name, text))
    assert extensions.own("recipes", ()) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "RECIPES = {'x': {'loss': 'hinge', 'rate': 1}}",
            "recipe 'x' is .*; give a dict of loss, margin, lr",
        ),
        ("RECIPES = {'x': {'loss': 'hinge', 'lr': '1'}}", "recipe 'x': lr is '1'; .*float.* is needed"),
        ("RECIPES = {'x': {'loss': 'nothing', 'lr': 1}}", "unknown loss 'nothing'; known are cross_entropy"),
        ("RECIPES = {'paper': {'loss': 'hinge', 'lr': 1}}", "'paper' is one of the package's recipes; choose another"),
    ],
)
def test_a_wrong_recipe_is_refused_when_it_is_asked_for(text, says, tmp_path):
    extensions.use(put(tmp_path / "a.py", text))
    with pytest.raises(ValueError, match=says):
        fitting.recipe("x")


def test_one_name_is_one_thing(tmp_path):
    extensions.use(put(tmp_path / "a.py", COPY))
    with pytest.raises(extensions.ExtensionError, match=r"a\.py and .*b\.py both declare 'mine'; rename one"):
        extensions.use(put(tmp_path / "b.py", COPY))
    extensions.use(put(tmp_path / "c.py", "SOURCES = {'one': lambda: 'a text'}"))
    with pytest.raises(texts.TextError, match="it is to return a list of texts"):
        texts.check("one")
