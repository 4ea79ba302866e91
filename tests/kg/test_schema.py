"""The schema's declaration, and that the documentation says the same."""

from pathlib import Path

import pytest

from kg import schema
from kg.errors import DataError
from kg.recipes import load_recipes
from kg.tables import InteractionType

PAGE = Path(__file__).parents[2] / "docs" / "graph.md"


def test_the_page_has_exactly_the_declared_schema() -> None:
    assert f"\n\n{schema.tables_markdown()}\n" in PAGE.read_text(encoding="utf-8")


def test_the_page_lists_exactly_the_recipes() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    listed = [
        line for line in lines[lines.index("| recipe | what it answers | parameters |") + 2 :] if line[:3] == "| `"
    ]
    expected = [
        f"| `{each.name}` | {each.title}. {each.answers} | {f'`{each.usage}`' if each.usage else ''} |"
        for each in load_recipes()
    ]
    assert listed == expected


def test_every_interaction_type_has_a_relationship_with_unique_events() -> None:
    assert set(schema.RELATIONSHIP_OF) == set(InteractionType)
    assert all(each.unique == "event_id" for each in schema.INTERACTIONS)


def test_every_node_has_a_constraint_on_its_key() -> None:
    text = "\n".join(schema.constraints())
    for node in schema.NODES:
        assert f"FOR (n:{node.label}) REQUIRE ({', '.join(f'n.{name}' for name in node.key)}) IS UNIQUE" in text


@pytest.mark.parametrize("name", ["ALSO_BOUGHT", "A", "X9_Y"])
def test_a_relation_name_passes_unchanged(name: str) -> None:
    assert schema.relation_name(name) == name


@pytest.mark.parametrize("name", ["", "a", "A B", "A`", "9A", "Ä", "A\n", "A" * 129, "VIEWED", "SEARCHED"])
def test_what_is_no_relation_name_is_refused(name: str) -> None:
    with pytest.raises(DataError):
        schema.relation_name(name)


def test_a_vector_index_takes_whole_numbers_only() -> None:
    assert "`vector.dimensions`: 64" in schema.vector_index(64)
    with pytest.raises(ValueError, match="invalid literal"):
        schema.vector_index("64}} //")  # type: ignore[arg-type]  # what a careless caller may pass
