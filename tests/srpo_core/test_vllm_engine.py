"""The engine against servers that fail: nothing is lost, nothing stale is taken, and every end is told."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from vllm_peers import Peer
from vllm_policies import nudge, tiny_model, write_version

from srpo_core.policy.model import load_model
from srpo_core.rollout.engine import Completion, PromptGroup, Sampling
from srpo_core.rollout.errors import EngineError, EngineUnavailableError, StaleWeightsError
from srpo_core.rollout.served import served_copy
from srpo_core.rollout.vllm import VllmEngine

SAMPLING = Sampling(temperature=0.7, max_new_tokens=6)
GROUPS = [PromptGroup([5, 6, 7 + place], [10 * place, 10 * place + 1]) for place in range(6)]
BUSY = (503, {"error": {"message": "overloaded"}})


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three versions of one tied policy, each a small update of the one before."""
    root = tmp_path_factory.mktemp("policy")
    model = tiny_model(0)
    made = []
    for version in range(3):
        made.append(write_version(root / f"version-{version}", model, version))
        nudge(model, 0.003, seed=version)
    return made


@pytest.fixture
def peer(versions: list[Path], tmp_path: Path) -> Iterator[Callable[[], Peer]]:
    """Makes peers that were started from version 0."""
    made: list[Peer] = []

    def make() -> Peer:
        made.append(Peer(served_copy(versions[0], tmp_path / "start")))
        return made[-1]

    yield make
    for one in made:
        with suppress(OSError):
            one.kill()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., VllmEngine]]:
    made: list[VllmEngine] = []

    def make(*peers: Peer, **settings: float) -> VllmEngine:
        made.append(VllmEngine([one.url for one in peers], served=tmp_path / "served", **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def same(left: list[list[Completion]], right: list[list[Completion]]) -> bool:
    flat = [[c for group in groups for c in group] for groups in (left, right)]
    return all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(*flat, strict=True))


@torch.no_grad()
def test_completions_are_what_the_policy_draws(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    one = engine(peer())
    one.load(versions[1])
    model = load_model(versions[1])
    for group, completions in zip(GROUPS, one.generate(GROUPS, SAMPLING), strict=True):
        for completion in completions:
            ids = [*group.prompt_token_ids, *completion.token_ids.tolist()]
            logits = model(input_ids=torch.tensor([ids])).logits[0, len(group.prompt_token_ids) - 1 : -1] / 0.7
            logits[:, [0, 1]] = -torch.inf
            expected = logits.log_softmax(-1)[torch.arange(len(completion.token_ids)), completion.token_ids]
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)
            assert completion.token_ids.dtype == np.int32
            assert completion.logprobs.dtype == np.float32
            assert (completion.finish_reason == "stop") == (completion.token_ids[-1] == 2)
            assert len(completion.token_ids) == 6 or completion.finish_reason == "stop"


def test_the_same_seeds_ask_for_the_same_completions_and_others_for_others(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    one = engine(peer())
    one.load(versions[0])
    first = one.generate(GROUPS, SAMPLING)
    assert same(first, one.generate(GROUPS, SAMPLING))
    assert same(first[2:3], one.generate(GROUPS[2:3], SAMPLING))
    others = [PromptGroup(group.prompt_token_ids, [seed + 1000 for seed in group.seeds]) for group in GROUPS]
    assert not same(first, one.generate(others, SAMPLING))


def test_whoever_listens_hears_of_every_completion_once(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    one = engine(peer())
    one.load(versions[0])
    heard: list[int] = []
    one.generate(GROUPS, SAMPLING, heard.append)
    assert sorted(heard) == sorted(len(group.seeds) for group in GROUPS)


def test_requests_are_spread_and_bounded(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    peers = [peer(), peer()]
    one = engine(*peers, requests_per_server=2)
    one.load(versions[0])
    together = threading.Barrier(4)
    for each in peers:
        each.most_at_once = 0
        each.on_generate = lambda count: None if together.wait(timeout=60) < 4 else BUSY
    one.generate(GROUPS * 2, SAMPLING)
    assert [each.generations for each in peers] == [6, 6]
    assert [each.most_at_once for each in peers] == [2, 2]


def test_a_dead_servers_requests_are_answered_by_another(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    healthy, dying = peer(), peer()
    one = engine(healthy, dying)
    one.load(versions[1])
    expected = one.generate(GROUPS, SAMPLING)
    dying.on_generate = lambda count: dying.kill()  # type: ignore[func-returns-value]
    assert same(expected, one.generate(GROUPS, SAMPLING))
    assert dying.generations > 0


def test_a_server_that_comes_back_is_given_the_version_and_used_again(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    healthy, dying = peer(), peer()
    one = engine(healthy, dying, requests_per_server=1)
    one.load(versions[1])
    expected = one.generate(GROUPS, SAMPLING)
    dying.kill()
    assert same(expected, one.generate(GROUPS, SAMPLING))
    dying.start()
    used_again = threading.Event()
    dying.on_generate = lambda count: used_again.set()  # type: ignore[func-returns-value]
    healthy.on_generate = lambda count: None if used_again.wait(timeout=60) else BUSY
    assert same(expected, one.generate(GROUPS, SAMPLING))
    assert used_again.is_set()
    assert dying.label == healthy.label != "default"


def test_an_overloaded_server_is_asked_again(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    only = peer()
    one = engine(only)
    one.load(versions[0])
    only.on_generate = lambda count: BUSY if count == 1 else None
    assert len(one.generate(GROUPS[:1], SAMPLING)[0]) == 2
    assert only.generations == 2


def test_a_refusal_is_told_and_never_asked_again(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    only = peer()
    one = engine(only)
    one.load(versions[0])
    only.on_generate = lambda count: (400, {"error": {"message": "too many samples"}})
    with pytest.raises(EngineError, match="too many samples"):
        one.generate(GROUPS[:1], SAMPLING)
    assert only.generations == 1


def test_a_request_that_no_server_survives_is_given_up(versions, peer, engine, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("srpo_core.rollout.vllm_pool.FIRST_PAUSE_SECONDS", 0.001)
    only = peer()
    one = engine(only)
    one.load(versions[0])
    only.on_generate = lambda count: BUSY
    with pytest.raises(EngineError, match=r"6 attempts.*overloaded"):
        one.generate(GROUPS[:1], SAMPLING)


def test_without_any_server_the_patience_ends(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    only = peer()
    one = engine(only, patience_seconds=0.2)
    one.load(versions[0])
    only.kill()
    with pytest.raises(EngineUnavailableError, match=only.url):
        one.generate(GROUPS, SAMPLING)
    with pytest.raises(EngineUnavailableError, match=only.url):
        one.load(versions[1])
    only.start()
    one.load(versions[1])
    assert len(one.generate(GROUPS, SAMPLING)) == len(GROUPS)


def test_nothing_is_taken_from_a_server_that_was_restarted_with_its_old_weights(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    only = peer()
    one = engine(only)
    one.load(versions[2])
    expected = one.generate(GROUPS, SAMPLING)
    only.kill()
    only.start()
    assert same(expected, one.generate(GROUPS, SAMPLING))


def test_an_older_version_is_caught(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    healthy, stale = peer(), peer()
    stale.ignores_reloads = True
    one = engine(healthy, stale)
    one.load(versions[0])
    with pytest.raises(
        StaleWeightsError, match=rf"{stale.url} does not serve version-1.*up to 0\.\d+, more than 0.001"
    ):
        one.load(versions[1])


def test_a_head_that_stays_behind_is_caught(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    stale = peer()
    stale.keeps_head = True
    one = engine(stale)
    with pytest.raises(StaleWeightsError, match="version-1"):
        one.load(versions[1])


def test_a_stale_server_is_caught_where_rounding_is_coarser_than_the_update(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    stale = peer()
    one = engine(stale, tolerance=10.0)
    one.load(versions[1])
    stale.keeps_head = True
    with pytest.raises(StaleWeightsError, match="missed"):
        one.load(versions[2])
    stale.keeps_head, stale.ignores_reloads = False, True
    with pytest.raises(StaleWeightsError, match="the version before"):
        one.load(versions[0])


def test_sleep_frees_and_the_next_request_wakes(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    only = peer()
    one = engine(only)
    one.load(versions[1])
    expected = one.generate(GROUPS, SAMPLING)
    one.sleep()
    assert only.asleep
    assert same(expected, one.generate(GROUPS, SAMPLING))
    assert not only.asleep


def test_what_cannot_be_sampled_is_refused_before_it_is_asked(versions, peer, engine) -> None:  # type: ignore[no-untyped-def]
    only = peer()
    one = engine(only)
    with pytest.raises(RuntimeError, match="load a policy"):
        one.generate(GROUPS, SAMPLING)
    one.load(versions[0])
    with pytest.raises(EngineError, match=r"rollout\.temperature"):
        one.generate(GROUPS, Sampling(temperature=3.0, max_new_tokens=4))
    with pytest.raises(EngineError, match="--max-model-len 257"):
        one.generate(GROUPS, Sampling(temperature=1.0, max_new_tokens=254))
    assert only.generations == 0
