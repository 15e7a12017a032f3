"""Rollouts as large as a real run's, made up: token ids, log-probabilities, texts and lengths of realistic statistics.

Tokens come in phrases of four, drawn by Zipf's law from a fixed book; a phrase's tokens were drawn by Zipf's law from a
vocabulary of 150,000 ids in no order, and each has a piece of text. So they compress as real text does: 1.7 bytes a
token id and 1.2 bytes of text a token, in the history's encoding. The problems and solutions of GSM8K, split into
words, digits and signs, take 1.8 and 1.2, those of MATH 1.7 and 1.0; 3 characters a token here and there.
Log-probabilities are those of a sure policy: half above -0.03 nats, one in a hundred below -3. Lengths spread as 1 : 4.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.tables import SHARDS

VOCABULARY = 150_000
PHRASES, PHRASE = 2**18, 4  # phrases in the book, tokens in a phrase


class Synthetic:
    """A source of rollouts; without a seed no two sources give the same."""

    def __init__(self, seed: int | None = None) -> None:
        """Make the vocabulary and the book of phrases, which are always the same."""
        fixed = np.random.default_rng(0)
        self._order = fixed.permutation(VOCABULARY).astype(np.int32)
        self._book = _zipf(fixed, VOCABULARY, 1.2, PHRASES * PHRASE).reshape(PHRASES, PHRASE)
        letters = fixed.choice(np.frombuffer(b" etaoinshrdlu0123456789+-=\\{}", np.uint8), (VOCABULARY, 10)).tobytes()
        lengths = 1 + np.log2(np.arange(1, VOCABULARY + 1)).astype(int) // 2  # frequent pieces are short
        self._pieces = np.array([letters[10 * i : 10 * i + n].decode() for i, n in enumerate(lengths)], dtype=object)
        self._random = np.random.default_rng(seed)

    def shard(self, first_group: int, groups: int, size: int, tokens: int) -> pa.Table:
        """`groups` whole groups of `size` rollouts of `tokens` tokens in the mean; the key columns are left out.

        Columns that no bench cares about hold zeros, empty texts, or null where null is allowed.
        """
        count = groups * size
        lengths = np.maximum(1, tokens * self._random.uniform(0.4, 1.6, count)).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        phrases = _zipf(self._random, PHRASES, 1.0, -(-offsets[-1] // PHRASE))
        ranks = self._book[phrases].ravel()[: offsets[-1]]
        logprobs = -np.exp(self._random.normal(-3.5, 2, offsets[-1])).astype(np.float32)
        text = self._pieces[ranks]
        problems = [f"Problem {first_group + group}: " + "find x. " * 40 for group in range(groups)]
        prompts = np.tile(self._order[:100], count)
        given = narrow_columns(self._random, first_group, groups, size) | {
            "completion_tokens": lengths,
            "prompt_tokens": np.full(count, 100),
            "prompt": np.repeat(problems, size),
            "completion": ["".join(text[offsets[i] : offsets[i + 1]]) for i in range(count)],
            "prompt_token_ids": _lists(np.arange(count + 1) * 100, prompts, "prompt_token_ids"),
            "token_ids": _lists(offsets, self._order[ranks], "token_ids"),
            "logprobs": _lists(offsets, logprobs, "logprobs"),
        }
        return filled(SHARDS.schema, given, count, without=SHARDS.key)


def narrow_columns(
    random: np.random.Generator, first_group: int, groups: int, size: int
) -> dict[str, npt.NDArray[np.generic]]:
    """Grades and places of whole groups; each group has a pass rate of its own, so that all kinds of groups come."""
    count = groups * size
    rates = np.repeat(random.beta(0.5, 0.5, groups), size)
    accuracy = (random.random(count) < rates).astype(np.float64)
    form = (random.random(count) < 0.95).astype(np.float64)
    return {
        "position": np.arange(count) + first_group * size,
        "prompt_id": np.repeat([f"{first_group + group:016x}" for group in range(groups)], size),
        "domain": np.repeat("math", count),
        "difficulty": np.repeat(random.integers(1, 9, groups), size),
        "sample": np.tile(np.arange(size), groups),
        "seed": random.integers(0, 2**63 - 1, count),
        "finish_reason": np.repeat("stop", count),
        "verdict": np.where(accuracy == 1, "correct", "wrong_answer"),
        "accuracy": accuracy,
        "format": form,
        "reward": accuracy + 0.1 * form,
        "used": np.ones(count, bool),
    }


def filled(
    schema: pa.Schema, given: dict[str, npt.NDArray[np.generic]], count: int, *, without: tuple[str, ...] = ()
) -> pa.Table:
    """A table of `count` rows with the columns of `schema`: `given` ones, and nothing or zero for the rest."""
    arrays = {}
    for field in schema:
        if field.name in given:
            arrays[field.name] = pa.array(given[field.name], field.type)
        elif field.name not in without:
            empty = None if field.nullable else "" if pa.types.is_string(field.type) else 0
            arrays[field.name] = pa.repeat(pa.scalar(empty).cast(field.type), count)
    return pa.table(arrays)


def _zipf(random: np.random.Generator, ranks: int, exponent: float, count: int) -> npt.NDArray[np.int64]:
    """`count` ranks, from 0, by Zipf's law with this exponent."""
    chances = np.cumsum(1 / np.arange(1, ranks + 1) ** exponent)
    return np.searchsorted(chances, random.random(count) * chances[-1])


def _lists(offsets: npt.NDArray[np.int64], values: npt.NDArray[np.generic], column: str) -> pa.ListArray:
    return pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(values), type=SHARDS.schema.field(column).type)
