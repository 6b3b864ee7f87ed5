"""Which hashes are near to each other, against the way that compares each with each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.screening.near import NONE, near_earlier, near_others, near_pairs

ROOTS = (0, 2**64 - 1, 0x0123456789ABCDEF)


@st.composite
def hashes(draw):
    """Hashes around a few roots, so that many are near to each other."""
    flips = st.lists(st.integers(0, 63), max_size=8)
    drawn = draw(st.lists(st.tuples(st.sampled_from(ROOTS), flips), max_size=25))
    return [root ^ sum(1 << bit for bit in set(bits)) for root, bits in drawn]


def bits_apart(one, other):
    return (one ^ other).bit_count()


def array(values):
    return np.array(values, dtype=np.uint64)


@settings(max_examples=150, deadline=None)
@given(hashes(), hashes(), st.integers(0, 10))
def test_every_near_pair_is_found_once(left, right, bits):
    pieces = [np.stack(pair) for pair in near_pairs(array(left), array(right), bits)]
    found = [(i, j) for piece in pieces for i, j in piece.T.tolist()]
    wanted = [(i, j) for i, x in enumerate(left) for j, y in enumerate(right) if bits_apart(x, y) <= bits]
    assert sorted(found) == wanted


@settings(max_examples=150, deadline=None)
@given(hashes(), hashes(), st.integers(0, 10))
def test_of_others_the_first_that_is_near_is_named(own, others, bits):
    wanted = [next((i for i, x in enumerate(others) if bits_apart(x, y) <= bits), NONE) for y in own]
    assert near_others(array(own), array(others), bits).tolist() == wanted


@settings(max_examples=150, deadline=None)
@given(hashes(), st.integers(0, 10), st.integers(0, 25))
def test_a_hash_goes_exactly_when_one_that_stays_stands_before_it_and_is_near(values, bits, num_settled):
    staying, wanted = [], []
    for place, value in enumerate(values):
        holder = next((i for i in staying if bits_apart(values[i], value) <= bits), NONE)
        wanted.append(NONE if place < num_settled else holder)
        staying += [place] if wanted[-1] == NONE else []
    assert near_earlier(array(values), num_settled, bits).tolist() == wanted


def test_what_is_near_only_to_one_that_goes_stays():
    """0, 0b11 and 0b1111 at two bits: the second goes because of the first, so the third has nobody to go for."""
    assert near_earlier(array([0, 0b11, 0b1111]), 0, 2).tolist() == [NONE, 0, NONE]


@pytest.mark.parametrize(("bits", "found"), [(3, 0), (4, 1)])
def test_as_many_bits_as_are_allowed_are_near_and_one_more_is_not(bits, found):
    assert (near_others(array([0b1111 << 30]), array([0]), bits) != NONE).sum() == found
