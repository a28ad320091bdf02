"""How far a fit is, on a terminal, while it works."""

import sys
import time

from tqdm import tqdm

_SECONDS = 0.5  # between two looks


class Watching:
    """One line that is written over: tokens that come back, steps, rate, and the time that the budget leaves.

    Nothing is shown where standard error is no terminal.
    """

    def __init__(self, n_tokens: int, budget: int):
        """Take the tokens of the text, and the token-steps that a vector may have."""
        self._n_tokens, self._budget, self._n_mem = n_tokens, budget, 0
        self._line = tqdm(
            bar_format="{desc}", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False, mininterval=0
        )

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def stepped(self, n_mem: int, token_steps: int, held: int) -> None:
        """Take in a step; what it leaves is said twice a second."""
        now = time.monotonic()
        if n_mem != self._n_mem:
            self._n_mem, self._steps, self._spent, self._begun, self._said = n_mem, 0, 0, now, now
        self._steps += 1
        self._spent += token_steps
        if now - self._said > _SECONDS:
            self._said, rate = now, self._spent / (now - self._begun)
            self._line.set_description_str(self.told(held, rate))

    def told(self, held: int, rate: float) -> str:
        """Return the line for so many tokens that come back, at so many token-steps a second."""
        left = max(0.0, self._budget * self._n_mem - self._spent) / rate
        return (
            f"{self._n_mem} [mem]: {held} of {self._n_tokens} tokens so far · {self._steps} steps · "
            f"{rate:,.0f} token-steps a second · at most {left:.0f} s more"
        )

    def clear(self) -> None:
        """Take the line away, before another is printed."""
        self._line.clear()
