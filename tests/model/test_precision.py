"""On which processors bf16 is taken: measured ones, as they describe themselves."""

import pytest
import torch

from model.config import TextConfig
from model.precision import bf16_pays, computes_in_bf16, learns_in_bf16
from model.text import load_encoder


@pytest.mark.parametrize(
    ("described", "pays"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile", True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512_bf16 avx512_fp16", False),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2", False),
        ("", False),
    ],
    ids=["Zen 4", "Sapphire Rapids", "Sapphire Rapids, matrix unit hidden", "Zen 3", "unknown"],
)
def test_bf16_is_taken_where_it_is_faster(described: str, pays: bool) -> None:
    assert bf16_pays(described) == pays


def test_a_gpu_that_only_emulates_bf16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_a_turing_gpu(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", of_a_turing_gpu)
    assert not computes_in_bf16(torch.device("cuda"))
    assert not learns_in_bf16(torch.device("cuda"))
    assert not learns_in_bf16(torch.device("cpu")), "single products alone, wherever it pays"


def test_an_encoder_that_is_loaded_in_half_changes_no_default_of_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.dtype] = []
    monkeypatch.setattr(torch, "set_default_dtype", made.append)
    _, encoder = load_encoder(TextConfig(), torch.bfloat16)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
    assert torch.bfloat16 not in made
