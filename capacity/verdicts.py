"""What rows say of a claim: holds, does not hold or cannot tell, the number that decides, what would change it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import Any

from capacity.metrics import Interval

__all__ = ["MIMETYPE", "OUTCOMES", "Verdict", "judge", "measured", "nothing", "within"]
__dir__ = __all__.copy  # what completion shows

MIMETYPE = "application/vnd.capacity.verdict+json"  # holds a verdict in an output; the report's index reads it
OUTCOMES = ("holds", "does not hold", "cannot tell", "replicated", "not replicated", "measured")
_NOTHING = "nothing that could be compared is there"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a notebook's question ends; shown as a paragraph, and beside its link on the report's index."""

    outcome: str  # of OUTCOMES
    claim: str  # what was judged; "" where nothing was
    number: str  # what decides, with its interval and unit
    change: str = ""  # what would change the outcome
    headline: str = ""  # a number with its interval that may stand above all others

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome is {self.outcome!r}; choose one of {', '.join(OUTCOMES)}")

    @property
    def text(self) -> str:
        """Return it as a paragraph of markdown."""
        if self.outcome == "measured":
            return f"**Measured.** {self.number}."
        change = f" It would change with {self.change}." if self.change else ""
        return f"**Verdict: {self.outcome}.** *{self.claim}*: {self.number}.{change}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {MIMETYPE: asdict(self), "text/markdown": self.text, "text/plain": self.text}


def measured(sentence: str, *, headline: str = "") -> Verdict:
    """Return what was measured where no claim is judged, a sentence without its full stop."""
    return Verdict(outcome="measured", claim="", number=sentence, headline=headline)


def nothing(why: str) -> Verdict:
    """Return what a page ends with where the rows that it needs are not there, as NothingFound says."""
    return Verdict(outcome="cannot tell", claim="nothing was found", number=why.rstrip("."))


def judge(
    claim: str,
    intervals: Mapping[str, Interval],
    *,
    above: float = 0.0,
    unit: str,
    change: str,
    paper: bool = False,
    floor: bool = False,
    headline: str = "",
) -> Verdict:
    """Return the verdict of a claim that each of some numbers lies above a bound.

    It holds where every interval lies above the bound, does not hold where one lies below it, and cannot be told
    otherwise: an interval that spans the bound, or one of a single text, decides nothing.

    Args:
        claim: in words.
        intervals: the numbers by name, with their intervals.
        above: the bound, in `unit`.
        unit: of the numbers, as it stands behind one; "" for a quotient.
        change: what would change the outcome.
        paper: the claim is a paper's, which is replicated or not.
        floor: the numbers are lower bounds (searches ended with their budget), so that none decides from below.
        headline: as in `Verdict`.

    No number decides nothing: that cannot be told.
    """
    if not intervals:
        return Verdict(outcome="cannot tell", claim=claim, number=_NOTHING, change=change, headline=headline)
    over = [
        interval.low is not None and interval.low > above and not interval.degenerate for interval in intervals.values()
    ]
    beneath = [
        interval.high is not None and interval.high < above and not interval.degenerate
        for interval in intervals.values()
    ]
    under = [is_below and not floor for is_below in beneath]
    yes, no = ("replicated", "not replicated") if paper else ("holds", "does not hold")
    outcome = yes if all(over) else no if any(under) else "cannot tell"
    unit = f" {unit}" if unit else ""
    if len(intervals) == 1:
        ((name, interval),) = intervals.items()
        bounded = "no interval" if interval.low is None else f"{interval.low:.2f} to {interval.high:.2f}"
        known = "not measured" if not _measured(interval) else f"{interval.value:.2f}{unit} ({bounded})"
        number = f"{name} {known}, the bound is {above:g}"
    else:
        values = [interval.value for interval in intervals.values() if _measured(interval)] or [nan]
        below = sum(beneath)
        number = (
            f"of {len(intervals)} intervals {sum(over)} lie above {above:g}{unit}, {below} below, "
            f"{len(intervals) - sum(over) - below} on both sides; the numbers "
            f"go from {min(values):.2f} to {max(values):.2f}"
        )
    return Verdict(outcome=outcome, claim=claim, number=number, change=change, headline=headline)


def within(
    claim: str,
    intervals: Mapping[str, Interval],
    *,
    low: float,
    high: float,
    change: str,
    unit: str = "",
    paper: bool = False,
    least: int = 0,
) -> Verdict:
    """Return the verdict of a claim that each of some numbers lies in a range.

    It holds where every interval lies within it, does not hold where one lies outside whole, and cannot be told
    otherwise; a number without an interval, or of fewer than `least` texts, decides nothing. Arguments as of `judge`.

    No number decides nothing: that cannot be told.
    """
    if not intervals:
        return Verdict(outcome="cannot tell", claim=claim, number=_NOTHING, change=change)
    bounded = {
        name: (interval.low, interval.high)
        for name, interval in intervals.items()
        if not interval.degenerate and interval.n >= least and interval.low is not None and interval.high is not None
    }
    inside = [name for name, (start, end) in bounded.items() if low <= start and end <= high]
    outside = [name for name, (start, end) in bounded.items() if end < low or start > high]
    yes, no = ("replicated", "not replicated") if paper else ("holds", "does not hold")
    outcome = yes if len(inside) == len(intervals) else no if outside else "cannot tell"
    values = [interval.value for interval in intervals.values() if _measured(interval)]
    untold = len(intervals) - len(bounded)
    few = f", {untold} have no interval{f' of {least} texts' if least else ''}" if untold else ""
    number = (
        f"of {len(intervals)} intervals {len(inside)} lie within {low:g} to {high:g}{f' {unit}' if unit else ''}, "
        f"{len(outside)} outside, {len(bounded) - len(inside) - len(outside)} across an end{few}"
    )
    if values:
        number += f"; the numbers go from {min(values):.2f} to {max(values):.2f}"
    else:
        number = f"{', '.join(intervals)} not measured"
    return Verdict(outcome=outcome, claim=claim, number=number, change=change)


def _measured(interval: Interval) -> bool:
    return interval.value is not None and not isnan(interval.value)
