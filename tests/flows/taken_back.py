"""A run without its last step of an epoch, as if that had not been made yet."""

import shutil
from pathlib import Path

from flows.runs import Run, open_run


def take_back(whole: Run, store: Path, stage: int, epoch: int) -> tuple[Run, int, int]:
    """A copy in `store` of a run, without the epoch's last step and the version that follows from it; their numbers."""
    shutil.copytree(whole.directory, store / whole.name)
    run = open_run(store, whole.name)
    made = run.history.read("policies", stage=stage, epoch=epoch)
    step, version = max(made["step"].to_pylist()), max(made["version"].to_pylist())
    shutil.rmtree(run.policy(version))
    forgotten = [
        f"data/*/stage={stage}/epoch={epoch}/step={step}/*",
        f"index/*/stage={stage}/epoch={epoch}/step-{step:06d}.parquet",
        f"tables/policies/*/*/*/version-{version:06d}.parquet",
        f"tables/metrics/*/stage={stage}/epoch={epoch}/update-{step:06d}.parquet",
    ]
    for path in [path for pattern in forgotten for path in run.directory.glob(pattern)]:
        path.unlink()
    return run, step, version
