# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 20 · How is a recipe, a loss, a source or a preset of one's own measured?
#
# In a file of one's own, Python or TOML, that is named and never copied into the package: `capacity sweep --preset
# own/quick --model llama-64 --with own.py`, `capacity cram ... --with own.py --recipe soft`, `capacity run NOTEBOOK
# --with own.py`, or in Python as here.
#
# *Claim:* what is declared in a file is measured like the package's own, and its rows are found again as long as the
# file is the same.

# %% tags=["parameters"]
own: str = ""  # Python or TOML file; empty: data/examples/own.py
preset: str = "own/quick"  # of that file, or any other
models: list[str] = ["llama-64"]  # names, folders or hub names
store: str = ""  # folder of the rows; empty: CAPACITY_STORE or build/store
missing: str = "measure"  # cells that are not there: measure them, skip them, or refuse to go on

# %%
from pathlib import Path

import polars as pl
from IPython.display import Markdown

from capacity import extensions, metrics, resources, sweep, verdicts
from capacity.sweep import presets

# %% [markdown]
# ## The file

# %%
path = Path(own or resources.data() / "examples" / "own.py")
extensions.use(path)
Markdown(f"```\n{path.read_text(encoding='utf-8')}\n```")

# %% [markdown]
# ## Measure or load
#
# The digest of the file is part of the key of each cell that uses its recipe, loss or source: after a change of the
# file they are measured anew, all others are found again.

# %%
wanted, _ = presets.within_context(presets.experiments(presets.load(preset), models=models))
done = sweep.measure(wanted, store or None, missing=missing)
rows = done.rows

# %% [markdown]
# ## Exact length
#
# `metrics` takes any frame: here the rows of a sweep, read as those of any other source.

# %%
by = ["model", "source", "recipe", "n_mem", "scored_from"]
held = metrics.exact_length(rows, by=by).sort("model", "recipe")
metrics.bounds(held).select("model", "source", "recipe", "tokens", "low", "high", "n", "n_censored").with_columns(
    pl.col("low", "high").round(2)
)

# %%
told = [
    f"{value:.2f} with `{recipe}` on `{model}`"
    for model, recipe, value in held.select("model", "recipe", "value").rows()
]
sentence = f"mean exact lengths of {held['n'].min()} texts, tokens: {', '.join(told)}"
verdicts.measured(sentence)

# %% [markdown]
# ## Limits
#
# A Python file is run: use those you trust. A loss of one's own goes through autograd from the logits on, which costs
# more than the package's gradients by hand, and was not compiled. A source of one's own is to return the same texts
# whenever it is asked. Two texts are an example, no measurement.

# %%
print(done)
