"""Properties of the rounds in which a step is sampled."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.dynamic_sampling import StepRounds, is_informative
from srpo_core.seeds import derive_seed

EPOCH = [f"{n:016x}" for n in range(60)]
KEY = (17, "refill", 1, 0, 0)
worlds = st.floats(0, 1)  # the share of the epoch's prompts that are informative


def teaches_in(world: float) -> Callable[[str], bool]:
    return lambda prompt: derive_seed("world", prompt) / 2**63 < world


def rounds_of(needed: int, max_rounds: int, planned: int, key: tuple[int | str, ...] = KEY) -> StepRounds:
    return StepRounds(EPOCH[:planned], EPOCH, needed=needed, max_rounds=max_rounds, seed_key=key)


def fill(rounds: StepRounds, teaches: Callable[[str], bool], shard: int = 7) -> tuple[list[list[str]], dict[str, bool]]:
    """Every round's prompts, and what is used, when rounds are recorded shard by shard."""
    drawn, used = [], {}
    while prompts := rounds.next_round():
        drawn.append(prompts)
        for first in range(0, len(prompts), shard):
            informative = {prompt: teaches(prompt) for prompt in prompts[first : first + shard]}
            used |= rounds.used(informative)
            rounds.record(informative)
    return drawn, used


@given(worlds, st.integers(1, 20), st.integers(1, 6), st.integers(1, 20))
def test_rounds_end_full_or_spent_or_without_prompts_and_never_sample_one_twice(
    world: float, needed: int, max_rounds: int, planned: int
) -> None:
    rounds = rounds_of(needed, max_rounds, planned)
    drawn, used = fill(rounds, teaches_in(world))
    sampled = [prompt for prompts in drawn for prompt in prompts]
    assert drawn[0] == EPOCH[:planned]
    assert len(set(sampled)) == len(sampled) == rounds.groups
    assert set(sampled) <= set(EPOCH)
    assert all(len(prompts) <= needed for prompts in drawn[1:])
    assert len(drawn) == rounds.rounds <= max_rounds
    assert sum(used.values()) == rounds.used_groups == needed - rounds.missing
    assert rounds.missing == 0 or len(drawn) == max_rounds or set(sampled) == set(EPOCH)


@given(worlds, st.integers(1, 20), st.integers(1, 6), st.integers(1, 20))
def test_what_is_used_is_the_first_informative_groups(world: float, needed: int, max_rounds: int, planned: int) -> None:
    teaches = teaches_in(world)
    drawn, used = fill(rounds_of(needed, max_rounds, planned), teaches)
    informative = [prompt for prompts in drawn for prompt in prompts if teaches(prompt)]
    assert [prompt for prompt, is_used in used.items() if is_used] == informative[:needed]


@given(worlds, st.integers(1, 20), st.integers(1, 6), st.integers(1, 9))
def test_rounds_do_not_depend_on_the_shards_nor_on_how_the_epoch_was_listed(
    world: float, needed: int, max_rounds: int, shard: int
) -> None:
    one = rounds_of(needed, max_rounds, 20)
    other = StepRounds(EPOCH[:20], reversed(EPOCH), needed=needed, max_rounds=max_rounds, seed_key=KEY)
    assert fill(one, teaches_in(world)) == fill(other, teaches_in(world), shard)


def test_without_dynamic_sampling_there_is_one_round_and_all_of_it_is_used() -> None:
    drawn, used = fill(rounds_of(20, 0, 12), teaches_in(0.2))
    assert drawn == [EPOCH[:12]]
    assert list(used.values()) == [True] * 12


def test_all_easy_ends_after_the_last_round_with_nothing_used() -> None:
    rounds = rounds_of(8, 4, 8)
    drawn, used = fill(rounds, lambda _: False)
    assert [len(prompts) for prompts in drawn] == [8, 8, 8, 8]
    assert not any(used.values())
    assert rounds.missing == 8


def test_a_refill_is_as_large_as_the_share_of_informative_groups_asks_for() -> None:
    rounds = rounds_of(12, 9, 12)
    first = rounds.next_round()
    rounds.record({prompt: place < 8 for place, prompt in enumerate(first)})
    assert len(rounds.next_round()) == 6  # 4 are missing, and 8 of 12 were informative


@pytest.mark.parametrize("key", [(18, "refill", 1, 0, 0), (17, "refill", 2, 0, 0), (17, "refill", 1, 0, 1)])
def test_every_step_draws_its_own_prompts(key: tuple[int | str, ...]) -> None:
    one, other = fill(rounds_of(9, 3, 9), teaches_in(0))[0], fill(rounds_of(9, 3, 9, key), teaches_in(0))[0]
    assert one[1] != other[1]
    assert one[1] != one[2]


def test_a_groups_accuracies_differ_only_beyond_the_tolerance_and_ungraded_rollouts_leave() -> None:
    assert is_informative([0.0, 1.0, None])
    assert is_informative([0.0, 2e-6])
    assert not is_informative([0.1 + 0.2, 0.3])
    assert not is_informative([1.0, None, 1.0])
    assert not is_informative([None, None])
    assert not is_informative([])
