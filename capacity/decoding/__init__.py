"""The truth about a [mem] vector: its teacher-forced score, and what it decodes to when running free."""

from capacity.decoding.running import (
    AT_ONCE,
    Ended,
    all_decoded_back,
    check_rows,
    decoded_back,
    decoded_side_by_side,
    decoded_tokens,
    free_running,
    stream,
    together,
    walk,
)
from capacity.decoding.scores import Score, bos_costs, counts, scored_together, teacher_forced

__all__ = [
    "AT_ONCE", "Ended", "Score", "all_decoded_back", "bos_costs", "check_rows", "counts", "decoded_back",
    "decoded_side_by_side", "decoded_tokens", "free_running", "scored_together", "stream", "teacher_forced",
    "together", "walk",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows
