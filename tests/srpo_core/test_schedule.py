"""Properties of an epoch's schedule."""

from hypothesis import given
from hypothesis import strategies as st

from srpo_core.schedule import schedule_epoch

prompt_ids = st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), unique=True, max_size=60)
IDS = [f"{n:016x}" for n in range(40)]


def schedule(ids: list[str], per_step: int = 8, *, seed: int = 17, stage: int = 1, epoch: int = 0) -> list[list[str]]:
    return schedule_epoch(ids, prompts_per_step=per_step, run_seed=seed, stage=stage, epoch=epoch)


@given(prompt_ids, st.integers(1, 20))
def test_every_prompt_is_met_exactly_once(ids: list[str], per_step: int) -> None:
    assert sorted(prompt for step in schedule(ids, per_step) for prompt in step) == sorted(ids)


@given(prompt_ids, st.integers(1, 20))
def test_steps_are_as_few_as_allowed_and_differ_by_one_prompt_at_most(ids: list[str], per_step: int) -> None:
    sizes = [len(step) for step in schedule(ids, per_step)]
    assert len(sizes) == -(-len(ids) // per_step)
    assert all(1 <= size <= per_step for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1


@given(prompt_ids, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_how_the_prompts_were_listed(ids: list[str], random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert schedule(shuffled) == schedule(ids)


def test_no_prompts_make_no_steps() -> None:
    assert schedule([]) == []


def test_seed_stage_and_epoch_have_orders_of_their_own() -> None:
    orders = [schedule(IDS), schedule(IDS, seed=18), schedule(IDS, stage=2), schedule(IDS, epoch=1)]
    assert all(a != b for n, a in enumerate(orders) for b in orders[:n])


def test_prompts_are_shuffled_over_the_epochs() -> None:
    first_steps = [schedule(IDS, 8, epoch=epoch)[0] for epoch in range(200)]
    visits = [sum(prompt in step for step in first_steps) for prompt in IDS]
    assert min(visits) > 0  # each is expected 40 times
    assert max(visits) < 80


def test_steps_hold_plain_strings() -> None:
    assert {type(prompt) for step in schedule(IDS) for prompt in step} == {str}
