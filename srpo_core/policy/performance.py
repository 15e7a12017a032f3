"""How fast an update was and what memory it took, named as verl names it."""

import resource
import sys

import torch

# Dense bfloat16 products with float32 sums, operations a second, from NVIDIA's data sheets. First match wins.
_PEAKS = {
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835.5e12,
    "H100": 989.4e12,
    "H800": 989.4e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
_GB = 1024**3  # as verl counts
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage tells bytes there, KiB on Linux


def performance_metrics(
    *, tokens: int, operations: float, skipped: float, seconds: float, device: str
) -> dict[str, float]:
    """`tokens` of prompts and completions that an update learned from in `seconds`, by so many `operations`.

    Operations are the model's, forward and backward, of the tokens that went through it; `skipped` are those of the
    rollouts that did not have to, and `perf/skipped_seconds` what they would have taken at the same rate. `perf/mfu`
    is the share of what the device can do in bfloat16, and is told of the devices whose peak is known. Memory: the most
    that was held, by tensors on a GPU and by this process on the host, in GiB.
    """
    values = {
        "perf/total_num_tokens": float(tokens),
        "perf/time_per_step": seconds,
        "perf/throughput": tokens / seconds,
        "perf/model_tflops": operations / seconds / 1e12,
        "perf/cpu_memory_used_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / _GB,
    }
    if device == "cuda":
        values["perf/max_memory_allocated_gb"] = torch.cuda.max_memory_allocated() / _GB
        values["perf/max_memory_reserved_gb"] = torch.cuda.max_memory_reserved() / _GB
        if (peak := peak_operations(torch.cuda.get_device_name())) is not None:
            values["perf/mfu"] = operations / seconds / peak
    if operations:
        values["perf/skipped_seconds"] = seconds * skipped / operations
    return values


def peak_operations(device_name: str) -> float | None:
    """Operations a second that the named device can do in bfloat16; None: not known here."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)
