"""Where bf16 pays: GPUs that compute in it, and processors with instructions for it."""

from functools import cache
from pathlib import Path

import torch

_FLAGS = ("avx512_bf16", "amx_bf16")


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return _processor_has_bf16()


@cache
def _processor_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:  # not Linux: float32 is always right
        return False
    return any(flag in flags for flag in _FLAGS)
