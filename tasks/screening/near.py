"""Which 64-bit hashes differ in few bits, found among millions without comparing each with each.

Of two hashes that differ in at most d bits, cut into d + 2 blocks, two blocks at least are equal in both. So for
every two blocks the hashes are sorted by these, and only those equal there are compared.
Multi-index hashing: Norouzi et al., 2012, arXiv:1307.2982; two blocks at once as in Manku et al., WWW 2007.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

# Shape letters of this file: N hashes, M other hashes.
Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
NONE = -1


def near_pairs(left_M: Hashes, right_N: Hashes, bits: int) -> Iterator[tuple[Places, Places]]:
    """Places (i, j) where `left[i]` and `right[j]` differ in at most `bits` bits; every pair once, in pieces."""
    masks = _masks(bits)
    for number, mask in enumerate(masks):
        order_M, order_N = np.argsort(left_M & mask, kind="stable"), np.argsort(right_N & mask, kind="stable")
        sorted_M, sorted_N = left_M[order_M], right_N[order_N]
        at = np.searchsorted(sorted_M & mask, sorted_N & mask, side="left")
        end = np.searchsorted(sorted_M & mask, sorted_N & mask, side="right")
        who = np.arange(len(right_N))
        while True:
            alive = at < end
            at, end, who = at[alive], end[alive], who[alive]
            if not len(at):
                break
            differ = sorted_M[at] ^ sorted_N[who]
            near = np.flatnonzero(np.bitwise_count(differ) <= bits)
            # Two that are equal in more than two blocks are met again: the first two blocks count.
            near = near[((differ[near, None] & masks[:number]) != 0).all(axis=1)]
            if len(near):
                yield order_M[at[near]], order_N[who[near]]
            at = at + 1


def _masks(bits: int) -> Hashes:
    edges = np.linspace(0, 64, bits + 3).round().astype(int)
    blocks = [(1 << int(end)) - (1 << int(start)) for start, end in pairwise(edges)]
    return np.array([one | other for one, other in combinations(blocks, 2)], dtype=np.uint64)


def near_others(hashes_N: Hashes, others_M: Hashes, bits: int) -> Places:
    """For each hash the place of the first of the others that differs in at most `bits` bits, or NONE."""
    distinct, number_N = np.unique(hashes_N, return_inverse=True)
    others, first_place = np.unique(others_M, return_index=True)
    found = np.full(len(distinct), len(others_M))
    for i, j in near_pairs(others, distinct, bits):
        np.minimum.at(found, j, first_place[i])
    return np.where(found < len(others_M), found, NONE)[number_N]


def near_earlier(hashes_N: Hashes, num_settled: int, bits: int) -> Places:
    """For each hash the place of the first that stays, stands before it and differs in at most `bits` bits, or NONE.

    A hash stays if there is none. So one that is near only to such as do not stay, stays itself.

    Args:
        num_settled: so many at the beginning stay, whatever they are near to.
    """
    _, first, number_N = np.unique(hashes_N, return_index=True, return_inverse=True)
    first.sort()  # distinct hashes in their order, each by the place where it first stands
    distinct = hashes_N[first]
    rank_of = np.empty(len(first), dtype=np.int64)
    rank_of[number_N[first]] = np.arange(len(first))
    rank_N = rank_of[number_N]
    pairs = [np.stack([i, j])[:, i < j].astype(np.int32) for i, j in near_pairs(distinct, distinct, bits)]
    every_pair = np.concatenate([np.empty((2, 0), dtype=np.int32), *pairs], axis=1)
    holder = _settle(every_pair, len(distinct), int((first < num_settled).sum()))
    stays_in = np.where(holder[rank_N] == NONE, first[rank_N], first[holder[rank_N]])
    places = np.arange(len(hashes_N))
    return np.where((places < num_settled) | (stays_in == places), NONE, stays_in)


def _settle(pairs: NDArray[np.int32], num_hashes: int, num_settled: int) -> Places:
    """Of each hash that is near to an earlier one that stays the first such, from all pairs of (earlier, later)."""
    holder = [NONE] * num_hashes
    earlier, later = pairs[:, np.lexsort(pairs)].tolist()  # by the later; when it is looked at, all before are settled
    for i, j in zip(earlier, later, strict=True):
        if holder[j] == NONE and (holder[i] == NONE or i < num_settled):
            holder[j] = i
    return np.array(holder, dtype=np.int64)
