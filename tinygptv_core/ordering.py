"""A place in a seeded order for every key, which no other key bears on."""

import hashlib
import json
from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST = np.uint64(31)


def places(key_N: np.ndarray, *seed: object) -> np.ndarray:
    """A 64 bit number for each key: sorted by it, keys are in an order as if shuffled.

    A key's number depends on the key and the seed alone, so that a key which comes or goes moves no two others
    past each other.

    Args:
        key_N: whole numbers, not below 0, distinct where the order is to be one.
        seed: anything that JSON can spell.

    Source: the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), a bijection of 64 bits.
    """
    start = int.from_bytes(hashlib.sha256(json.dumps(seed).encode()).digest()[:8])
    mixed: np.ndarray[Any, np.dtype[np.uint64]] = key_N.astype(np.uint64) * _GOLDEN + np.uint64(start)
    for shift, factor in _STEPS:
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _LAST)
