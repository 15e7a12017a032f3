"""Stages at work at the same time: news wakes who waits, weights stand still while they are copied."""

import threading
from collections.abc import Callable

import pytest
import torch

from flows import together
from flows.handover import Handover
from flows.together import StageStoppedError, present_handover, run_together, tell_company, wait_until


@pytest.fixture(autouse=True)
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not woken waits longer than any test may take."""
    monkeypatch.setattr(together, "POLL_IN_COMPANY_SECONDS", 1e6)


def test_news_wakes_a_stage_that_waits_without_a_poll() -> None:
    said: list[str] = []

    def one() -> None:
        said.append("first")
        tell_company()
        wait_until(lambda: "second" in said)

    def other() -> None:
        wait_until(lambda: "first" in said)
        said.append("second")
        tell_company()

    run_together(one, other)
    assert said == ["first", "second"]


def test_a_stage_that_fails_wakes_the_one_that_waits_for_it() -> None:
    ended: list[str] = []

    def waiting() -> None:
        try:
            wait_until(lambda: False)
        except StageStoppedError:
            ended.append("waiting")
            raise

    def failing() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        run_together(waiting, failing)
    assert ended == ["waiting"]


def test_stages_of_one_company_hand_weights_over_and_nobody_else_does() -> None:
    taken: list[float] = []

    def update() -> None:
        present_handover().offer(3, {"w": torch.ones(1)})
        tell_company()

    def rollout() -> None:
        wait_until(lambda: present_handover().offers(3))
        with present_handover().weights(3) as weights:
            taken.extend([] if weights is None else weights["w"].tolist())

    run_together(rollout, update)
    assert taken == [1.0]
    assert not present_handover().offers(3)


def test_weights_of_another_version_and_withdrawn_ones_are_not_given() -> None:
    handover = Handover()
    handover.offer(3, {})
    with handover.weights(2) as weights:
        assert weights is None
    handover.withdraw()
    with handover.weights(3) as weights:
        assert weights is None


def test_weights_are_not_withdrawn_while_they_are_copied() -> None:
    handover, order = Handover(), []
    handover.offer(1, {})
    with handover.weights(1):
        started = threading.Event()
        withdrawing = threading.Thread(target=_in_turn(started.set, handover.withdraw, lambda: order.append("gone")))
        withdrawing.start()
        started.wait()
        order.append("copied")
    withdrawing.join()
    assert order == ["copied", "gone"]


def _in_turn(*calls: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run
