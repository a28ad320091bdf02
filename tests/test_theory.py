import doctest
import math

import numpy as np
import pytest
from scipy import stats

from capacity import theory


def test_values_worked_by_hand():
    assert theory.bit_capacity(768) == 12288
    assert theory.token_capacity(1024, 2**16) == 1024  # 16 bits a dimension, 16 bits a token
    assert theory.token_capacity(768, 50304) == pytest.approx(12288 / 15.618386, abs=1e-3)  # 2**15.618386 = 50304
    assert theory.entropy_capacity(4096, 3.2) == pytest.approx(20480)


def test_two_tokens_hold_one_bit_each():
    assert theory.token_capacity(48, 2) == theory.bit_capacity(48) == 768


def test_entropy_form_is_equation_1_for_uniform_tokens():
    uniform = stats.entropy(np.full(50304, 1 / 50304), base=2)
    assert theory.entropy_capacity(768, uniform) == pytest.approx(theory.token_capacity(768, 50304))


def test_predictable_tokens_take_less_room():
    likely_first = stats.entropy([0.5, 0.25, 0.125, 0.125], base=2)  # 1.75 bits, uniform has 2
    assert theory.entropy_capacity(7, likely_first) == pytest.approx(64)
    assert theory.token_capacity(7, 4) == 56


@pytest.mark.parametrize(
    "capacity",
    [
        theory.bit_capacity,
        lambda width, **settings: theory.token_capacity(width, 50304, **settings),
        lambda width, **settings: theory.entropy_capacity(width, 3.5, **settings),
    ],
)
def test_linear_in_width_bits_and_vectors(capacity):
    once = capacity(768)
    assert capacity(2304) == capacity(768, bits=48) == capacity(768, n_mem=3) == pytest.approx(3 * once)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, -math.inf])
def test_refuses_what_is_no_size(wrong):
    for call in (theory.bit_capacity, theory.token_capacity, theory.entropy_capacity):
        second = () if call is theory.bit_capacity else (4,)
        with pytest.raises(ValueError, match="d_model is"):
            call(wrong, *second)
        with pytest.raises(ValueError, match="bits is"):
            call(768, *second, bits=wrong)
        with pytest.raises(ValueError, match="n_mem is"):
            call(768, *second, n_mem=wrong)
    with pytest.raises(ValueError, match="vocab_size is"):
        theory.token_capacity(768, wrong)
    with pytest.raises(ValueError, match="bits_per_token is"):
        theory.entropy_capacity(768, wrong)


@pytest.mark.parametrize("few", [1, 1.999])
def test_refuses_a_vocabulary_without_a_choice(few):
    with pytest.raises(ValueError, match=f"vocab_size is {few}.*at least 2"):
        theory.token_capacity(768, few)


def test_examples_in_the_documentation():
    failed, tried = doctest.testmod(theory)
    assert (failed, tried) == (0, 5)
