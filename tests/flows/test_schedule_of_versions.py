"""Which policy version samples a step: one within the bound that is there in time, whatever the speeds."""

from hypothesis import given
from hypothesis import strategies as st

from flows.plan import EpochPlan

PLANS = st.builds(
    lambda steps, first: EpochPlan(stage=1, epoch=0, first_version=first, steps=steps),
    st.integers(1, 30),
    st.integers(0, 1000),
)
BOUNDS = st.integers(0, 8)


@given(PLANS, BOUNDS)
def test_every_step_is_as_stale_as_allowed_but_for_the_epochs_first(plan: EpochPlan, bound: int) -> None:
    for step in range(plan.steps):
        learned_from_at = plan.first_version + step
        assert learned_from_at - plan.sampled_by(step, bound) == min(step, bound)


@given(PLANS, st.integers(1, 8))
def test_a_step_needs_no_version_that_is_made_from_the_step_before(plan: EpochPlan, bound: int) -> None:
    for step in range(1, plan.steps):
        made_of_the_step_before = plan.first_version + step
        assert plan.sampled_by(step, bound) < made_of_the_step_before


@given(PLANS, BOUNDS, st.data())
def test_at_any_speeds_neither_side_waits_for_ever_nor_for_a_version_that_was_pruned(
    plan: EpochPlan, bound: int, data: st.DataObject
) -> None:
    """The two sides take turns as they like; each moves only when what it waits for is there."""
    sampled, learned, keep_policies = 0, 0, bound + 1  # the fewest that settings may ask for
    while learned < plan.steps:
        newest = plan.first_version + learned
        needed = plan.sampled_by(sampled, bound)
        can_sample = sampled < plan.steps and needed <= newest
        can_learn = learned < sampled
        assert can_sample or can_learn
        if sampled < plan.steps:
            assert needed > newest - keep_policies or needed == plan.first_version
        if can_sample and (not can_learn or data.draw(st.booleans())):
            sampled += 1
        else:
            learned += 1
