"""What to do about the rows that break a rule: one remedy for each."""

from collections.abc import Mapping

from kg.tables import MAX_ID_BYTES, InteractionType

_NUMBER = "Write a plain number, such as 12.5: no unit, no currency, no separator of thousands."
_UNREADABLE = {
    "at_ms": "Write times as ISO 8601, such as 2025-01-31 or 2025-01-31T18:00:00Z, or as whole numbers.",
    "value": _NUMBER,
    "price": _NUMBER,
    "position": "Write a whole number.",
    "available": "Write true or false.",
    "category": "Write a path as Coffee|Beans, or as a JSON list of names.",
    "attributes": 'Write a JSON object, such as {"colour": "red"}.',
}
"""Of the rule `type`, by field."""

_REMEDIES: Mapping[str, str] = {
    "columns": "Give each line as many values as the header, and quote those that hold the delimiter.",
    "json": "Write one JSON object a line.",
    "type": "Write a text; of numbers, ids are whole ones.",
    "encoding": "Save the file as UTF-8.",
    "id_empty": "Give every row its id.",
    "id_too_long": f"Shorten ids to {MAX_ID_BYTES} bytes, in every file alike.",
    "id_control_character": "Take control characters, such as tabs and line ends, out of ids, in every file alike.",
    "time_missing": "Give every row its time.",
    "time_negative": "Give times from 1970 on.",
    "time_unit": "Give all times in one unit, or as ISO 8601.",
    "time_future": "Give no time that is more than a day ahead of this machine's clock.",
    "type_unknown": f"A type is one of {', '.join(InteractionType)}, in small letters.",
    "value_not_finite": "Leave the value empty where it is infinite.",
    "quantity_not_positive": "Leave out what was returned, or its quantity empty.",
    "position_negative": "Count positions from 0.",
    "price_out_of_range": "Give a price from 0 to a thousand million, or none.",
    "name_malformed": "Name relations in ASCII letters and digits, as ALSO_BOUGHT; kinds in lower case, as coupon.",
    "relation_reserved": "Give what users do as interactions, or name the relation otherwise.",
    "outside_catalogue": "Add the missing products, or keep such rows with --outside {table}=bare, or leave them out "
    "with --outside {table}=drop.",
    "duplicate": "Give each thing once.",
}


def remedy_of(table: str, rule: str, field: str) -> str:
    """Return what to do about rows of a table that break a rule in a field."""
    if rule == "type" and field in _UNREADABLE:
        return _UNREADABLE[field]
    return _REMEDIES[rule].format(table=table)
