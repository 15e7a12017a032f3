"""A real writer process: says ready, waits for a line, writes steps that differ from attempt to attempt, commits them.

usage: writer_process.py DIRECTORY STEPS PROMPTS TOKENS [URL]
Prints "step shard published committed" lines as it goes. Nothing is seeded: a retried sampler draws other tokens.
"""

import secrets
import sys
from pathlib import Path

from history_samples import shard_rows

from storage.history import RunHistory
from storage.stores import open_store


def main() -> None:
    directory, (steps, prompts, tokens) = Path(sys.argv[1]), map(int, sys.argv[2:5])
    store = open_store(sys.argv[5], directory / "_tmp") if sys.argv[5:] else None
    history = RunHistory(directory, "r1", store)
    names = [[f"{shard}-{i}" for i in range(prompts)] for shard in range(2)]
    print("ready", flush=True)
    sys.stdin.readline()
    for step in range(steps):
        if history.is_committed(1, 0, step):
            continue
        for shard in range(2):
            seed = secrets.randbits(60)
            groups = [[0.0, 1.0]] * prompts
            rows = shard_rows(names[shard], groups, position=shard * prompts * 2, tokens=tokens, seed=seed)
            published = history.write_shard(1, 0, step, shard, rows)
            print("shard", step, shard, published, rows["token_ids"][0].as_py()[0], flush=True)
        print("step", step, history.commit_step(1, 0, step, 2), flush=True)


if __name__ == "__main__":
    main()
