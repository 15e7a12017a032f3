"""What a completion is worth, and the processes that judge it."""

from typing import Annotated

from pydantic import Field

from srpo_core.settings.section import MayChange, PositiveInt, Section


class RewardSettings(Section):
    """What a completion is worth: the weighted sum of its parts."""

    accuracy: Annotated[float, Field(gt=0)] = 1.0
    """Weight of a right answer."""
    format: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the form <think>…</think><answer>…</answer>, exactly once and nothing outside."""
    code_in_math: Annotated[float, Field(ge=0)] = 0.1
    """Taken off a math completion that holds code. SRPO penalises it; the definition and the value are ours."""
    mixed_language: Annotated[float, Field(ge=0)] = 0.1
    """Taken off a completion in another script than its question's. SRPO penalises it; definition and value: ours."""
    overlong: Annotated[float, Field(ge=0)] = 0.0
    """Taken off a completion of the full length, and linearly less off one that ends within `overlong_buffer` of it."""
    overlong_buffer: PositiveInt = 4096
    """Tokens before `rollout.max_new_tokens` in which `overlong` sets in."""
    check_thought: bool = True
    """In the lab, an answer counts as right only if every link of its running thought is right too: long chains
    are guessed right without it 3 to 9 % of the time."""


class VerifierSettings(Section):
    """The processes that judge answers, and their limits. The lab needs none of them."""

    workers: Annotated[int, Field(ge=0), MayChange.ALIKE] = 0
    """Processes of each kind at a time; 0 is one for each core that the run may use."""
    math_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Wall-clock seconds of one comparison; a longer one is stopped and is not correct."""
    math_memory_mib: Annotated[int, Field(ge=256)] = 1024
    """Address space of a process that compares math answers, in MiB."""
    code_wall_seconds: Annotated[float, Field(gt=0)] = 20.0
    """Wall-clock seconds that a program has for all of its tests together; well above its CPU seconds, since a busy
    machine is not its fault."""
    code_cpu_seconds: Annotated[float, Field(gt=0)] = 8.0
    """CPU seconds that it has for them."""
    code_memory_mib: Annotated[int, Field(ge=128)] = 512
    """Address space of a program, in MiB; the interpreter takes about 60 of them."""
    code_output_kib: PositiveInt = 8192
    """What a program may print, in KiB; also the largest value that it may return."""
    code_processes: PositiveInt = 8
    """Threads that a program may have, the main one included. New processes are never allowed."""
    unsafe_no_isolation: bool = False
    """Run programs even where nothing isolates them from this machine. They can do all that this user can."""
