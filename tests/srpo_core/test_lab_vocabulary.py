"""Properties of the lab's tokenizer: text and ids say the same, both ways."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.problems.lab import base_policy_dir
from srpo_core.problems.lab.vocabulary import BOS, EOS, PAD, VOCABULARY, make_tokenizer
from srpo_core.problems.lab.world import DOMAINS, draw_chain, problem_of, solution
from srpo_core.problems.problem import Domain

TOKENIZER = make_tokenizer()


def encode(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return ids


@given(st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=40))
def test_any_ids_survive_their_text(ids: list[int]) -> None:
    assert encode(TOKENIZER.decode(ids)) == ids


@given(st.sampled_from(DOMAINS), st.integers(1, 8), st.integers())
def test_any_text_of_the_lab_survives_its_ids(domain: Domain, n: int, seed: int) -> None:
    problem = problem_of(draw_chain(domain, n, random.Random(seed)))
    for text in (problem.question, solution(problem), problem.question + solution(problem)):
        ids = encode(text)
        assert TOKENIZER.decode(ids) == text
        assert TOKENIZER.unk_token_id not in ids


def test_every_number_word_and_tag_is_one_token() -> None:
    assert all(len(encode(token)) == 1 for token in VOCABULARY)


def test_prompt_begins_with_bos_and_decodes_without_it() -> None:
    ids = TOKENIZER("has 6 gets 1")["input_ids"]
    assert ids[0] == TOKENIZER.bos_token_id
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "has 6 gets 1"


@pytest.mark.parametrize("text", ["30", "hello", "1.5", "(x)"])
def test_text_outside_the_vocabulary_becomes_unknown(text: str) -> None:
    assert TOKENIZER.unk_token_id in encode(text)


def test_special_tokens_are_the_tokenizers_own() -> None:
    assert (TOKENIZER.pad_token, TOKENIZER.bos_token, TOKENIZER.eos_token) == (PAD, BOS, EOS)


def test_packaged_tokenizer_is_this_one() -> None:
    from transformers import AutoTokenizer

    packaged: Any = AutoTokenizer.from_pretrained(base_policy_dir(), local_files_only=True)
    assert packaged.get_vocab() == TOKENIZER.get_vocab()
    text = "f 2*x+5 add 3<think>+3=2,8</think><answer>2*x+8</answer>"
    assert packaged(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert packaged.decode(packaged(text)["input_ids"], skip_special_tokens=True) == text
