"""What is handed over in place of what is asked for: one sentence, whatever it is."""

import subprocess
import sys

import pytest

from capacity import models

COUNTS = [0, -1, 1.5, float("nan"), "2", [1], None, True]
SCRIPT = """
from capacity import fitting, models, sweep, texts
frozen, nan = models.load("llama-64", device="cpu"), float("nan")
def said(function, *given, **named):
    try:
        function(*given, **named)
    except ValueError as error:
        print(error)
for what in (None, "llama-64", 3, object()):
    said(fitting.fit, what, [[1, 2]])
    said(fitting.exact_length, what, [[1, 2]], "default")
    said(fitting.cram, "words", what)
for n in COUNTS:
    said(fitting.fit, frozen, [[1, 2]], n_mem=n)
    said(fitting.cram, "words", frozen, budget=n)
    said(fitting.cram, "words", frozen, n_mem=0 if n is None else n)
    said(sweep.grid, model="llama-64", n_texts=n)
    said(sweep.measure, [], jobs=0 if n is None else n)
    said(texts.sample, "embedded", frozen.tokenizer, n_texts=n, length=4)
for name in (None, 3, ["embedded"], b"embedded"):
    said(models.load, name)
    said(texts.sample, name, frozen.tokenizer, n_texts=1, length=4)
"""


@pytest.mark.slow
def test_what_is_no_model_and_what_is_no_number_is_refused():
    """In a process of its own: annotations are checked in this one."""
    script = SCRIPT.replace("COUNTS", str(COUNTS).replace("nan", "float('nan')"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert (done.returncode, len(said)) == (0, 12 + 6 * len(COUNTS) + 8), done.stderr
    assert all(line.endswith("is no model; give what models.load returns") for line in said[:12])
    assert all(line.endswith("; give a whole number from 1 on") for line in said[12:-8])
    assert {line.split()[0] for line in said[12:-8]} == {"n_mem", "budget", "n_texts", "jobs"}
    assert all("names no model; give a name" in line or "names no source; give one name" in line for line in said[-8:])


def test_a_model_may_be_a_path():
    assert models.load(models.EMBEDDED["llama-64"], device="cpu").revision == models.load("llama-64").revision
