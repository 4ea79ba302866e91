"""The committed comparisons: each can be read, every setting it names is one, and the docs have a block for it."""

from pathlib import Path

import pytest

from model.compare.config import read_comparison
from model.compare.variants import variants

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "configs" / "compare").glob("*.toml"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_variant_of_a_committed_comparison_can_be_made(file: Path) -> None:
    config = read_comparison(file)
    for data in config.data:
        for protocol in config.protocols:
            made = list(variants(config, file.parent, data, protocol, ("HAS_BRAND",), lambda variant: variant))
            assert len({variant.name for variant in made}) == len(made)
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    if file.stem != "quick":
        assert f"<!-- report: {file.stem} -->" in page
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert file.stem in makefile
