"""How far a fit is, on a terminal alone."""

import io
import sys

import pytest

from capacity import fitting, models
from capacity.commands import watching


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_says_what_is_held_the_rate_and_the_time_left(monkeypatch):
    clock = iter([0.0, 2.0, 2.1, 10.0])
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    with watching.Watching(40, 500) as line:
        for held in (0, 3, 4):
            line.stepped(2, 100, held)
        assert shown.getvalue().count("[mem]") == 1  # the third came too soon after the second
    assert "2 [mem]: 3 of 40 tokens so far · 2 steps · 100 token-steps a second · at most 8 s more" in shown.getvalue()


def test_nothing_is_shown_without_a_terminal(monkeypatch):
    monkeypatch.setattr(watching, "_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    with watching.Watching(40, 500) as line:
        for held in (3, 4):
            line.stepped(1, 100, held)
    assert shown.getvalue() == ""


@pytest.mark.slow
@pytest.mark.parametrize("n_mem", [None, 2])
def test_a_fit_tells_its_steps_and_what_is_right_by_then(n_mem):
    frozen, seen = models.load("llama-64", device="cpu"), []
    found = fitting.cram("He said that", frozen, n_mem=n_mem, budget=300, stepped=lambda *told: seen.append(told))
    assert sum(token_steps for number, token_steps, _ in seen if number == found.n_mem) >= found.longest.token_steps
    held = [tokens for number, _, tokens in seen if number == found.n_mem]
    assert held == sorted(held)
    assert held[0] == 0
    assert held[-1] > 0
    assert held[-1] == max(probe.length for probe in found.longest.probes if probe.status == "solved")
