"""Every random number of a study comes from here: stable seeds from (study seed, role, index).

`hash()` differs between processes and the global generators are shared, so neither is ever used.
"""

import hashlib

import numpy as np


def stable_hash(text: str) -> int:
    """A 64-bit integer that is the same for the same text on every machine and in every process.

    >>> stable_hash("focal")
    3283275727807887805
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def seed_sequence(study_seed: int, role: str, *index: int | str) -> np.random.SeedSequence:
    """The seed sequence of one role in a study, such as ("split", run seed).

    Roles and indices given as text enter by their stable hash; integers must not be negative.

    >>> a = seed_sequence(0, "split", 3)
    >>> b = seed_sequence(0, "split", 3)
    >>> bool((a.generate_state(4) == b.generate_state(4)).all())
    True
    """
    entropy = [study_seed, stable_hash(role)]
    entropy += [stable_hash(part) if isinstance(part, str) else part for part in index]
    return np.random.SeedSequence(entropy)


def generator(study_seed: int, role: str, *index: int | str) -> np.random.Generator:
    """A NumPy generator for one role; see `seed_sequence`."""
    return np.random.default_rng(seed_sequence(study_seed, role, *index))


def seed_integer(study_seed: int, role: str, *index: int | str) -> int:
    """A 32-bit seed for libraries that take an integer; see `seed_sequence`."""
    return int(seed_sequence(study_seed, role, *index).generate_state(1, np.uint32)[0])
