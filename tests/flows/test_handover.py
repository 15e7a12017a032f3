"""What is handed over in memory is what is published, and nothing that follows from it is published before it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pipeline_process import UndisturbedRun
from safetensors.torch import load_file
from taken_back import take_back

from bench.chaos.moments import published
from flows.evaluate import evaluate_policy
from flows.plan import read_plan
from flows.rollout import EpochSampling
from flows.rows import GradedRollout
from flows.runs import Run, open_run
from flows.sampler import Sampler
from flows.together import present_handover, run_together, stage_begins, tell_company, wait_until
from flows.update import EpochUpdates
from srpo_core.policy.checkpoints import MODEL_FILE

STAGE, EPOCH = 2, 1  # the last: the version before its last is still there


@pytest.fixture
def whole(undisturbed: UndisturbedRun) -> Run:
    """A run that nothing interrupted. Leave it as it is."""
    return open_run(undisturbed.store, undisturbed.name)


@pytest.fixture
def taken_back(whole: Run, tmp_path: Path) -> tuple[Run, int, int]:
    """A run without its last step of an epoch and the version that follows from it, which are numbered."""
    return take_back(whole, tmp_path, STAGE, EPOCH)


def test_a_version_that_was_learned_from_memory_is_published_after_its_rollouts_are_committed(
    whole: Run, taken_back: tuple[Run, int, int]
) -> None:
    run, step, version = taken_back
    shards = write_shards_of(whole, run, step)
    learned_first: list[bool] = []

    def rollout() -> None:
        stage_begins()
        present_handover().offer_rollouts(step, whole.history.read_step(STAGE, EPOCH, step))
        tell_company()
        wait_until(lambda: present_handover().offers(version))
        learned_first.append(not is_anything_published(run, step, version))
        run.history.commit_step(STAGE, EPOCH, step, shards)
        tell_company()

    run_together(rollout, stage(lambda: EpochUpdates(run, STAGE, EPOCH).update_step(step)))
    assert learned_first == [True]
    assert is_anything_published(run, step, version)
    assert (run.policy(version) / MODEL_FILE).read_bytes() == (whole.policy(version) / MODEL_FILE).read_bytes()


def test_a_step_whose_commit_fails_leaves_no_version(whole: Run, taken_back: tuple[Run, int, int]) -> None:
    run, step, version = taken_back

    def rollout() -> None:
        stage_begins()
        present_handover().offer_rollouts(step, whole.history.read_step(STAGE, EPOCH, step))
        tell_company()
        wait_until(lambda: present_handover().offers(version))
        raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"):
        run_together(rollout, stage(lambda: EpochUpdates(run, STAGE, EPOCH).update_step(step)))
    assert not is_anything_published(run, step, version)
    assert list((run.directory / "_tmp").iterdir()) == []


def test_rollouts_are_handed_over_as_the_history_gives_them(taken_back: tuple[Run, int, int]) -> None:
    run, step, _ = taken_back
    offered = sampled(run, step)
    assert offered is not None
    committed = run.history.read_step(STAGE, EPOCH, step)
    assert offered.to_pylist() == committed.select(offered.column_names).to_pylist()
    assert set(committed.column_names) - set(offered.column_names) == {"run", "stage", "epoch", "step"}


def test_rollouts_of_which_an_earlier_attempt_published_some_are_read_from_the_history(
    whole: Run, taken_back: tuple[Run, int, int]
) -> None:
    run, step, _ = taken_back
    assert write_shards_of(whole, run, step, most=1) == 1
    assert sampled(run, step) is None
    assert run.history.is_committed(STAGE, EPOCH, step)


def test_what_is_sampled_from_a_version_that_is_never_published_is_not_published(
    whole: Run, taken_back: tuple[Run, int, int]
) -> None:
    run, step, version = taken_back
    unpublish(run, version - 1)
    for path in run.directory.glob(f"tables/evaluation*/*/stage={STAGE}/epoch={EPOCH + 1}/*"):
        path.unlink()

    def steps(sampler: Sampler) -> None:
        EpochSampling(run, STAGE, EPOCH, sampler).sample_step(step)

    def evaluation(sampler: Sampler) -> None:
        evaluate_policy.fn(run, sampler, read_plan(run, STAGE, EPOCH), EPOCH + 1, version)

    for work, offered in ((steps, version - 1), (evaluation, version)):
        before = set(published(run.directory))
        sample_from_memory(run, work, offered, whole.policy(offered))
        assert set(published(run.directory)) == before


class TellingSampler(Sampler):
    """Tells once it has sampled."""

    sampled: bool = False

    def sample(self, *arguments: Any, **options: Any) -> list[GradedRollout]:
        """As it does, then tell."""
        rollouts = super().sample(*arguments, **options)
        self.sampled = True
        tell_company()
        return rollouts


def sample_from_memory(run: Run, work: Callable[[Sampler], object], version: int, policy: Path) -> None:
    """Do work that samples from weights in memory, whose update fails once it has sampled."""
    with TellingSampler(run.settings, run.directory) as sampler:
        sampler.load(policy)  # an engine that has loaded nothing takes no weights

        def update() -> None:
            stage_begins()
            present_handover().offer(version, load_file(policy / MODEL_FILE))
            tell_company()
            wait_until(lambda: sampler.sampled)
            raise OSError("on purpose")

        def sampling() -> None:
            wait_until(lambda: present_handover().offers(version))
            work(sampler)

        with pytest.raises(OSError, match="on purpose"):
            run_together(update, stage(sampling))


def unpublish(run: Run, version: int) -> None:
    """Forget that a version is published."""
    (row,) = run.directory.glob(f"tables/policies/*/*/*/version-{version:06d}.parquet")
    row.unlink()


def sampled(run: Run, step: int) -> pa.Table | None:
    """Sample the step in a company of its own; gives what it hands over."""
    offered: list[pa.Table | None] = []

    def rollout() -> None:
        stage_begins()
        with Sampler(run.settings, run.directory) as sampler:
            EpochSampling(run, STAGE, EPOCH, sampler).sample_step(step)
        offered.append(present_handover().rollouts(step))

    run_together(rollout)
    return offered[0]


def write_shards_of(source: Run, run: Run, step: int, most: int = 1000) -> int:
    """Publish the first shards that `source` has of a step; gives how many there are."""
    columns = run.history.read_shard(STAGE, EPOCH, 0, 0, ["prompt_id"]).num_rows  # whole shards
    rows = source.history.read_step(STAGE, EPOCH, step)
    parts = [rows.slice(first, columns) for first in range(0, rows.num_rows, columns)][:most]
    for shard, part in enumerate(parts):
        assert run.history.write_shard(STAGE, EPOCH, step, shard, part)
    return len(parts)


def is_anything_published(run: Run, step: int, version: int) -> bool:
    history = run.history
    return (
        run.policy(version).is_dir()
        or history.has("metrics", stage=STAGE, epoch=EPOCH, name=f"update-{step:06d}")
        or history.has("policies", stage=STAGE, epoch=EPOCH, name=f"version-{version:06d}")
    )


def stage(work: Callable[[], object]) -> Callable[[], None]:
    def begun() -> None:
        stage_begins()
        work()

    return begun
