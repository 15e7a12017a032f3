"""Random numbers that depend on what they are for, never on how often a process was started."""

import hashlib

import numpy as np


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key such as (run seed, "rollout", stage, epoch, step, prompt id, sample).

    Raises TypeError for parts that are neither int nor str: numpy's integers print alike and would seed otherwise.
    """
    for part in key:
        if type(part) not in (int, str):
            raise TypeError(f"a seed's key has int and str parts only, not {part!r} of type {type(part).__name__}")
    text = "\0".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") >> 1


def generator(seed: int) -> np.random.Generator:
    """A counter-based stream of its own for `seed`; its numbers are the same on every platform."""
    return np.random.Generator(np.random.Philox(key=seed))
