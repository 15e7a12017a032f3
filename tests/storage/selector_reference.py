"""Every selector's rule in plain Python, slow and obvious, and made-up histories for both to decide about."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from history_samples import decision
from hypothesis import strategies as st

from storage.selectors import Sources
from storage.tables import TABLES, conform

SETTINGS: dict[str, Any] = {
    "group_size": 4, "readmit_after": 3, "sure_rollouts": 12, "explore": 0.5, "explore_step": 0.05, "target_easy": 0.3,
    "target_hard": 0.3, "target_pass_rate": 0.5, "decay": 0.5, "keep_share": 0.5, "weight_easy": 0.1,
    "weight_mixed": 0.9, "weight_hard": 0.5, "solved_pass_rate": 0.75,
}  # fmt: skip
Found = tuple[int, int]  # graded rollouts, correct ones


@dataclass
class Past:
    """A run so far: per epoch its (stage, epoch) and what the visited prompts showed; and the candidates of the last.

    `sampled` says of each candidate whether the last epoch was to sample it; one that it was not was dropped as easy.
    """

    epochs: list[tuple[tuple[int, int], dict[str, Found]]]
    sampled: dict[str, bool]
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))
    seed: int = 7
    prompts_per_step: int = 2

    @property
    def parameters(self) -> dict[str, Any]:
        """What the rules are given."""
        stage, epoch = self.epochs[-1][0]
        own = {"stage": stage, "epoch": epoch, "seed": self.seed, "prompts_per_step": self.prompts_per_step}
        return self.settings | own

    def tables(self) -> dict[str, pa.Table]:
        """As the history holds them."""
        visits = TABLES["visits"].empty()
        for (stage, epoch), shown in self.epochs:
            rows = [
                {"prompt_id": prompt, "rollouts": graded + 1, "graded": graded, "correct": correct}
                | {"mean_reward": None, "mean_tokens": 3.0}
                for prompt, (graded, correct) in shown.items()
            ]
            key: dict[str, str | int] = {"run": "r1", "stage": stage, "epoch": epoch}
            visits = pa.concat_tables([visits, conform(TABLES["visits"], rows, key)])
        dropped = {"bucket": "easy", "graded": 4, "correct": 4, "pass_rate": 1.0}
        decisions = [decision(p, keep=s) | ({} if s else dropped) for p, s in self.sampled.items()]
        candidates = conform(TABLES["decisions"], decisions, {"run": "r1", "stage": stage, "epoch": epoch})
        now = pa.compute.and_(pa.compute.equal(visits["stage"], stage), pa.compute.equal(visits["epoch"], epoch))
        return {"candidates": candidates, "visits": visits, "epoch_visits": visits.filter(now)}

    def sources(self) -> Sources:
        """For `storage.selectors.decide`."""
        return {name: (lambda table=table: table) for name, table in self.tables().items()}

    def visits(self, prompt: str) -> list[tuple[int, int, int]]:
        """(age, graded, correct) of its visits, newest first."""
        found = [(age, *shown[prompt]) for age, (_, shown) in enumerate(reversed(self.epochs)) if prompt in shown]
        return found

    def bucket(self, prompt: str) -> str:
        """What its last visit showed."""
        visits = self.visits(prompt)
        return bucket(visits[0][1:]) if visits else "unvisited"


def bucket(found: tuple[int, int]) -> str:
    graded, correct = found
    if not graded:
        return "ungraded"
    return "easy" if correct == graded else "mixed" if correct else "hard"


def uniform(seed: int, key: str) -> float:
    return int(hashlib.md5(f"{seed} {key}".encode()).hexdigest()[:13], 16) / 2**52


def gamma(shape: float, seed: int, key: str) -> float:
    """Marsaglia and Tsang's method; the tries are numbered."""
    d = shape - 1 / 3
    for attempt in range(8):
        digest = hashlib.md5(f"{seed} {key} {attempt}".encode()).hexdigest()
        first, second, third = ((int(digest[i : i + 10], 16) + 0.5) / 2**40 for i in (0, 10, 20))
        normal = math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
        cube = (1 + normal / math.sqrt(9 * d)) ** 3
        if cube > 0 and math.log(third) < normal**2 / 2 + d - d * cube + d * math.log(cube):
            return d * cube
    raise AssertionError("eight rejections")


def beta(a: float, b: float, seed: int, key: str) -> float:
    x, y = gamma(a, seed, f"{key} a"), gamma(b, seed, f"{key} b")
    return 1 / (1 + y / x)


# Each gives, by prompt: kept or not (or a probability), and whether it is dropped for ever.
Answer = dict[str, tuple[bool | float, bool]]


def history(past: Past) -> Answer:
    newest = past.epochs[-1][1]
    answer: Answer = {}
    for prompt, sampled in past.sampled.items():
        easy = not sampled or (prompt in newest and bucket(newest[prompt]) == "easy")
        answer[prompt] = (not easy, easy)
    return answer


def history_readmit(past: Past) -> Answer:
    answer: Answer = {}
    for prompt in past.sampled:
        visits = past.visits(prompt)
        keep = True
        if visits and bucket(visits[0][1:]) == "easy":
            evidence = 0
            for _, graded, correct in visits:
                if correct < graded:
                    break
                evidence += graded
            share = min(1, evidence / past.settings["sure_rollouts"])
            keep = visits[0][0] >= max(1, math.ceil(past.settings["readmit_after"] * share))
        answer[prompt] = (keep, False)
    return answer


def uniform_rule(past: Past) -> Answer:
    return dict.fromkeys(past.sampled, (True, False))


def zero_variance(past: Past) -> Answer:
    return {
        prompt: (
            past.bucket(prompt) not in ("easy", "hard") or past.visits(prompt)[0][0] >= past.settings["readmit_after"],
            False,
        )
        for prompt in past.sampled
    }


def greso(past: Past) -> Answer:
    p = {"easy": past.settings["explore"], "hard": past.settings["explore"]}
    for _, shown in past.epochs:
        graded = [found for found in shown.values() if found[0]]
        if not graded:
            continue
        for side, before in p.items():
            reached = sum(bucket(found) == side for found in graded) / len(graded) >= past.settings[f"target_{side}"]
            after = before - past.settings["explore_step"] if reached else before + past.settings["explore_step"]
            p[side] = max(0.05, min(0.95, after))
    answer: Answer = {}
    for prompt in past.sampled:
        weight, side = 1.0, past.bucket(prompt)
        if side in p:
            in_a_row = 0
            for _, graded, correct in past.visits(prompt):
                if graded and bucket((graded, correct)) != side:
                    break
                in_a_row += bool(graded)
            weight = max(p[side] ** in_a_row, 0.01)
        answer[prompt] = (weight, False)
    return answer


def posterior(past: Past, prompt: str) -> tuple[float, float]:
    """The Beta distribution's two parameters."""
    a = b = 1.0
    for age, graded, correct in past.visits(prompt):
        a += correct * past.settings["decay"] ** age
        b += (graded - correct) * past.settings["decay"] ** age
    return a, b


def thompson(past: Past) -> Answer:
    draws = {prompt: beta(*posterior(past, prompt), past.seed, f"{prompt} pass rate") for prompt in past.sampled}
    nearest = sorted(draws, key=lambda p: (abs(draws[p] - past.settings["target_pass_rate"]), p))
    kept = nearest[: math.ceil(past.settings["keep_share"] * len(nearest))]
    return {prompt: (prompt in kept, False) for prompt in past.sampled}


def pools(past: Past) -> Answer:
    weights = {side: past.settings[f"weight_{side}"] for side in ("easy", "mixed", "hard")}
    return {prompt: (float(weights.get(past.bucket(prompt), 1)), False) for prompt in past.sampled}


def pass_rate(past: Past) -> Answer:
    answer: Answer = {}
    for prompt in past.sampled:
        rates = [correct / graded for _, graded, correct in past.visits(prompt) if graded]
        solved = any(rate >= past.settings["solved_pass_rate"] for rate in rates)
        answer[prompt] = (not solved, solved)
    return answer


RULES: dict[str, Callable[[Past], Answer]] = {
    "history": history, "history_readmit": history_readmit, "uniform": uniform_rule, "zero_variance": zero_variance,
    "greso": greso, "thompson": thompson, "pools": pools, "pass_rate": pass_rate,
}  # fmt: skip


def decided(past: Past, answer: Answer, figures: dict[str, Found]) -> dict[str, bool]:
    """What stays after draws and the floor; `figures` are those that the rule's rows tell."""
    keep = {p: k if isinstance(k, bool) else uniform(past.seed, f"{p} keep") < k for p, (k, for_ever) in answer.items()}
    may_return = [p for p in keep if not keep[p] and not answer[p][1]]
    may_return.sort(key=lambda p: ((figures[p][1] + 1) / (figures[p][0] + 2), uniform(past.seed, f"{p} floor"), p))
    lacking = min(past.prompts_per_step, len(keep)) - sum(keep.values())
    return keep | dict.fromkeys(may_return[: max(0, lacking)], True)


FOUND = st.sampled_from([(0, 0), (4, 0), (4, 1), (4, 3), (4, 4), (4, 4), (3, 3), (2, 0)])


@st.composite
def pasts(draw: st.DrawFn) -> Past:
    """Up to seven epochs over two stages in which any prompt shows anything."""
    prompts = [f"p{i}" for i in range(draw(st.integers(1, 12)))]
    first = draw(st.integers(0, 5))
    second = draw(st.integers(0 if first else 1, 3))
    keys = [(1, epoch) for epoch in range(first)] + [(2, epoch) for epoch in range(second)]
    shown = st.dictionaries(st.sampled_from(prompts), FOUND, min_size=1)  # an epoch that was trained visited some
    epochs = [(key, draw(shown)) for key in keys]
    sampled = {p: p in epochs[-1][1] or draw(st.booleans()) for p in prompts}
    settings = SETTINGS | {
        "readmit_after": draw(st.integers(1, 4)),
        "sure_rollouts": draw(st.sampled_from([1, 5, 12])),
        "decay": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "keep_share": draw(st.sampled_from([0.01, 0.5, 1.0])),
        "weight_easy": draw(st.sampled_from([0.0, 0.3, 1.0])),
    }
    return Past(epochs, sampled, settings, draw(st.integers(0, 2**62)), draw(st.integers(1, 8)))
