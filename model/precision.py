"""Where bf16 pays: GPUs that compute in it, and processors that multiply it faster than float32.

Having the instructions is not enough. Intel's AVX-512 multiplies bf16 at the rate of float32 or below it (Sapphire
Rapids without its matrix unit: 78 against 150 GFLOP/s of one core, texts encoded 1.6 times slower); its matrix unit
(AMX) and AMD's AVX-512 (Zen 4 on: 190 against 78) are what pays. By a rule, not by a stop-watch: the same machine must
decide alike in every run, for the same seed to make the same artifact.
"""

from functools import cache
from pathlib import Path

import torch


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _processor_computes_in_bf16()


def learns_in_bf16(device: torch.device) -> bool:
    """Return whether whole training steps compute in bf16 on a device; on processors, single products alone do."""
    return device.type == "cuda" and computes_in_bf16(device)


@cache
def _processor_computes_in_bf16() -> bool:
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:  # not Linux: float32 is always right
        return False
    return bf16_pays(described)


def bf16_pays(described: str) -> bool:
    """Return whether bf16 pays on a processor, as /proc/cpuinfo describes it."""
    words = set(described.split())
    return "amx_bf16" in words or ("avx512_bf16" in words and "AuthenticAMD" in words)
