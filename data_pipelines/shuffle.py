"""The order of examples: permutations and draws that are pure functions of 64-bit keys.

Why not Grain's own shuffle: it answers for one index at a time (4,096 draws take 0.10 s, here
0.002 s), it repeats its pattern every 2**32 indices, and a source of pairs draws the pair of a
batch before the rows within it. ``benchmarks/input_pipeline.py`` measures the whole.
"""

import numpy as np

ROUNDS = 6


def mix(numbers: np.ndarray | int) -> np.ndarray:
    """Scramble 64-bit numbers, one to one: the finalizer of SplitMix64 (Steele et al. 2014)."""
    x = np.atleast_1d(np.asarray(numbers, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(places: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """Map places of ``range(count)`` one to one onto itself, in an order that each key decides.

    A Feistel network over the even number of bits that hold ``count``; what falls outside the range
    goes through it again until it is within (cycle walking: Black and Rogaway 2002). No list of
    the order is kept.

    Args:
        places: int64 [n].
        count: how many places there are.
        keys: uint64 [n].
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    places, astray = places.astype(np.uint64), np.arange(len(places))
    while len(astray):
        left, right = places[astray] >> half, places[astray] & mask
        for number in range(ROUNDS):
            scrambled = mix(mix(right + np.uint64(number << 32)) + keys[astray])
            left, right = right, left ^ (scrambled & mask)
        places[astray] = left << half | right
        astray = astray[places[astray] >= count]
    return places.astype(np.int64)
