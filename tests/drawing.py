"""What laws draw from.

Hypothesis alone draws short lists, mostly of the simplest elements, and then changes one of them at a
time. That finds edges, and shrinks well; what takes many different elements to go wrong is found by lists
that are drawn whole, from a seed.
"""

import random

from hypothesis import strategies as st


def lists(of, most, picked):
    """Return lists of what ``of`` draws, and longer ones of what ``picked(rng)`` gives."""
    few = st.lists(of, max_size=most // 2)
    many = st.builds(_many, st.just(picked), st.integers(most // 4, most), st.integers(0, 10**9))
    return st.one_of(few, many, many)


def _many(picked, size, seed):
    rng = random.Random(seed)
    return [picked(rng) for _ in range(size)]
