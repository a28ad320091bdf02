"""How far a sweep is, also within a cell: a bar on a terminal, elsewhere a line a minute without control characters."""

import sys
import time

from tqdm import tqdm

_SECONDS = 60.0  # between two lines
_REFRESH_SECONDS = 0.5  # of the bar


class Progress:
    """Counts cells that ended, and token-steps of those under way; tells both, and the time left, on standard error."""

    def __init__(self, total: int, *, most_token_steps: int = 0, show: bool = True, seconds: float = _SECONDS):
        """Take the number of cells and the token-steps that they take at most, 0 where that is not known."""
        self._total, self._most, self._done, self._description = total, most_token_steps, 0, ""
        self._spent, self._of_ended, self._n_counted = 0, 0, 0  # token-steps; cells whose token-steps are known
        terminal = sys.stderr.isatty()
        self._every = seconds if not terminal else _REFRESH_SECONDS
        self._show = show and total > 0
        self._bar = None
        if terminal and self._show:
            told = "{desc}: {n_fmt} of {total_fmt} cells |{bar}| {elapsed}{postfix}"
            self._bar = tqdm(total=total, bar_format=told)
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._tell()
            self._bar.close()

    def set_description(self, description: str) -> None:
        """Name what is under way."""
        self._description = description
        if self._bar is not None:
            self._bar.set_description_str(description)

    def advance(self, token_steps: int) -> None:
        """Count token-steps as they are done."""
        self._spent += token_steps
        self._tell_now_and_then()

    def update(self, n: int = 1, token_steps: int | None = None) -> None:
        """Count cells that ended, with the token-steps that they took where they were done here."""
        self._done += n
        if token_steps is not None:
            self._of_ended += token_steps
            self._n_counted += n
        if self._bar is not None:
            self._bar.update(n)
        self._tell_now_and_then()

    def rest(self) -> str:
        """Return the rate so far, and the time left: as the cells that ended took.

        At most, before one has, and where those under way have taken more than that already. Empty where nothing was
        done yet.
        """
        spent = time.monotonic() - self._started
        n_left = self._total - self._done
        if self._spent and spent > 0:
            rate = self._spent / spent
            under_way, known = self._spent - self._of_ended, "about"
            left = n_left * self._of_ended / self._n_counted - under_way if self._n_counted else 0.0
            if n_left and left <= 0:
                left, known = self._most - self._spent, "at most"
            told = f", {rate:,.0f} tokens a second"
            return f"{told}, {known} {max(0.0, left) / rate / 60:.0f} min left" if left > 0 or not n_left else told
        return f", about {spent / self._done * n_left / 60:.0f} min left" if self._done else ""

    def _tell_now_and_then(self) -> None:
        now = time.monotonic()
        if self._show and now - self._said >= self._every:
            self._said = now
            self._tell()

    def _tell(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self.rest().removeprefix(", "))
            return
        minutes = (time.monotonic() - self._started) / 60
        line = f"{self._description}: {self._done} of {self._total} cells, {minutes:.0f} min{self.rest()}"
        print(line, file=sys.stderr, flush=True)
