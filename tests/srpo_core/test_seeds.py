"""Properties of the derived seeds: what a number is for decides it, nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from srpo_core.seeds import derive_seed, generator

SEED, INTEGERS = (
    8285652064228807137,
    [945, 170, 861, 403, 857],
)  # written down once; a change would part old runs from their numbers
keys = st.lists(st.integers() | st.text(alphabet=st.characters(exclude_characters="\0")), min_size=1, max_size=6)


@given(keys)
def test_a_seed_fits_63_bits(key: list[int | str]) -> None:
    assert 0 <= derive_seed(*key) < 2**63


@given(keys, keys)
def test_different_keys_give_different_seeds(one: list[int | str], other: list[int | str]) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


def test_a_key_is_its_parts_in_their_order_and_types() -> None:
    alike: list[tuple[int | str, ...]] = [("a", "b"), ("b", "a"), ("ab",), ("a", "", "b"), (1, 23), (12, 3), ("1", 23)]
    assert len({derive_seed(*key) for key in alike}) == len(alike)


def test_seeds_and_numbers_are_the_same_in_every_process_and_on_every_platform() -> None:
    assert derive_seed(17, "rollout", 1, 0, 3, "00112233aabbccdd", 5) == SEED
    assert generator(SEED).integers(0, 1000, 5).tolist() == INTEGERS


@given(st.integers(0, 2**63 - 1))
def test_a_generator_begins_again_where_it_began(seed: int) -> None:
    assert generator(seed).random(3).tolist() == generator(seed).random(3).tolist()


def test_neighbouring_seeds_give_unrelated_numbers() -> None:
    firsts = [generator(seed).random() for seed in range(2000)]
    nexts = firsts[1:]
    mean = sum(firsts) / len(firsts)
    covariance = sum((a - mean) * (b - mean) for a, b in zip(firsts, nexts, strict=False)) / len(nexts)
    assert abs(mean - 0.5) < 5 * (1 / 12 / len(firsts)) ** 0.5
    assert abs(covariance) < 5 / 12 / len(firsts) ** 0.5
