"""Frames in, `alt.Chart` out: one function a figure, ours and published as layers; `enable` shows them offline.

Every figure raises ValueError for what is no frame, for columns that are missing, and for values that are no numbers,
or not above 0 on a log axis; null is left out.
"""

from capacity.charts.crammed import there_and_back
from capacity.charts.display import enable, svg
from capacity.charts.gains import (
    certified_by_alphabet,
    gain_by_length,
    gains_beside,
    published_gain_by_length,
    share_by_vectors,
    tokens_by_vectors,
    utilisation_by_model,
)
from capacity.charts.geometry import accuracy_along_paths, cosines_by_text, norms_by_series, variance_by_component
from capacity.charts.lengths import (
    accuracy_by_length,
    capacity_by_width,
    exact_length_by_cost,
    exact_length_by_model,
    lengths_by_text,
    rates_by_length,
    shares_above,
    training_curves,
)
from capacity.charts.robustness import numbers_along, numbers_by_kind
from capacity.charts.scaling import held_by_depth, laws, trends
from capacity.charts.texts import (
    bits_needed,
    byte_ledger,
    bytes_per_token,
    fit_curve,
    prefix_share,
    texts_by_source,
    token_strip,
)

__all__ = [
    "accuracy_along_paths",
    "accuracy_by_length",
    "bits_needed",
    "byte_ledger",
    "bytes_per_token",
    "capacity_by_width",
    "certified_by_alphabet",
    "cosines_by_text",
    "enable",
    "exact_length_by_cost",
    "exact_length_by_model",
    "fit_curve",
    "gain_by_length",
    "gains_beside",
    "held_by_depth",
    "laws",
    "lengths_by_text",
    "norms_by_series",
    "numbers_along",
    "numbers_by_kind",
    "prefix_share",
    "published_gain_by_length",
    "rates_by_length",
    "share_by_vectors",
    "shares_above",
    "svg",
    "texts_by_source",
    "there_and_back",
    "token_strip",
    "tokens_by_vectors",
    "training_curves",
    "trends",
    "utilisation_by_model",
    "variance_by_component",
]
__dir__ = __all__.copy  # what completion shows
