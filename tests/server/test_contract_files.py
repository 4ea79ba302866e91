"""The contract's files: stubs agree with the .proto files, buf has no complaint, the client needs the base install."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kg import tables
from server import contract, contract_selection, products
from server.config import ServeSettings
from server.services import rules
from server.traffic import MOST_SHARES

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")

SERVE = ServeSettings()
NAMES = (contract_selection.MAX_NAMES, contract_selection.MAX_NAME_BYTES)
LIMITS = {
    "common Context seed_product_ids": [contract.MAX_CONTEXT],
    "common Context events": [contract.MAX_CONTEXT],
    "common Context query": [contract_selection.MAX_QUERY_BYTES],
    "common Context categories": NAMES,
    "common ContextEvent at": [contract.AHEAD_MS // 1000],
    "common Filter categories": NAMES,
    "common Filter brands": NAMES,
    "common Filter attributes": [contract_selection.MAX_ATTRIBUTES],
    "common AttributeFilter key": [contract_selection.MAX_NAME_BYTES],
    "common AttributeFilter values": NAMES,
    "event_service Event at": [contract.AHEAD_MS // 1000],
    "event_service WriteEventsRequest events": [contract.MAX_EVENTS],
    "ranking_service RecommendRequest k": [SERVE.max_results],
    "ranking_service RecommendRequest exclude_product_ids": [SERVE.max_candidates],
    "ranking_service RecommendRequest allowed_product_ids": [SERVE.max_candidates],
    "ranking_service RankRequest product_ids": [SERVE.max_candidates],
    "ranking_service SimilarProductsRequest k": [SERVE.max_results],
    "ranking_service SimilarProductsRequest exclude_product_ids": [SERVE.max_candidates],
    "ranking_service SimilarProductsRequest allowed_product_ids": [SERVE.max_candidates],
    "ranking_service SearchRequest query": [contract_selection.MAX_QUERY_BYTES],
    "ranking_service SearchRequest k": [SERVE.max_results],
    "ranking_service SearchRequest exclude_product_ids": [SERVE.max_candidates],
    "ranking_service SearchRequest allowed_product_ids": [SERVE.max_candidates],
    "ranking_service ExplainRequest max_reasons": [contract.MOST_REASONS],
    "catalog_service Product title": [products._TITLE_BYTES],
    "catalog_service Product description": [products._DESCRIPTION_BYTES],
    "catalog_service Product brand": [tables.MAX_ID_BYTES],
    "catalog_service Product category": [tables.MAX_LEVELS, tables.MAX_ID_BYTES, tables.MAX_PATH_BYTES],
    "catalog_service Product price": [int(products._LARGEST_PRICE)],
    "catalog_service Product attributes": [products._ATTRIBUTES, tables.MAX_ID_BYTES, tables.MAX_VALUE_BYTES],
    "catalog_service UpsertProductsRequest products": [products.MAX_PRODUCTS],
    "catalog_service DeleteProductsRequest product_ids": [products.MAX_PRODUCTS],
    "catalog_service UpsertFactsRequest facts": [products.MAX_FACTS],
    "catalog_service DeleteFactsRequest facts": [products.MAX_FACTS],
    "catalog_service ListProductsRequest page_size": [products.MAX_PAGE, products.DEFAULT_PAGE],
    "rule_service Rule strength": [int(rules.LARGEST_STRENGTH)],
    "rule_service Rule position": [SERVE.max_results],
    "model_service Traffic shares": [MOST_SHARES],
}
"""The numbers that are enforced, by the file, message and field whose comment tells them."""


def comment(field: str) -> str:
    """Return the comment above a field, `file message field`."""
    file, message, name = field.split()
    text = (ROOT / "proto" / "kgrank" / "v1" / f"{file}.proto").read_text()
    lines = text.partition(f"\nmessage {message} {{\n")[2].partition("\n}\n")[0].splitlines()
    place = next(place for place, line in enumerate(lines) if re.search(rf" {name} = \d+;$", line))
    above = next(before for before in range(place - 1, -2, -1) if before < 0 or "//" not in lines[before])
    return " ".join(line.strip(" /") for line in lines[above + 1 : place])


@pytest.mark.parametrize("field", LIMITS)
def test_a_comment_tells_the_limits_that_are_enforced(field: str) -> None:
    told = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\b", comment(field))}
    assert set(LIMITS[field]) <= told, comment(field)


def test_the_committed_stubs_are_what_the_proto_files_give(tmp_path: Path) -> None:
    # protoc keeps a registry of files: a process of its own starts with none.
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'proto')!r}); import generate, pathlib; "
    script += f"generate.generate(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", script], check=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*"))
    committed = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*_pb2*.py*"))
    assert made == [path for path in committed if "__pycache__" not in path.parts]
    for path in made:
        assert (tmp_path / path).read_text() == (ROOT / "proto" / path).read_text(), f"{path}: run make proto"


@pytest.mark.skipif(not BUF.is_file(), reason="buf (buf-bin) is not installed")
def test_buf_has_no_complaint() -> None:
    for command in (("lint",), ("format", "--diff", "--exit-code")):
        done = subprocess.run([str(BUF), *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_client_needs_the_base_install_only() -> None:
    script = (
        "import sys, kgrank.client\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'neo4j', 'pyarrow', 'kg', 'model', 'server', 'structlog'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT / "proto"
    )
    assert done.stdout.strip() == "[]"
