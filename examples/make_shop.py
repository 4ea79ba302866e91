"""Make the small made-up coffee shop in `examples/shop`: canonical tables as CSV, small enough to read.

Its users follow habits a model can learn: each has a taste (a category and a brand), buys what goes together, and buys
beans and filters again. Run it to write the same files again: python examples/make_shop.py
"""

import csv
import json
import random
from pathlib import Path

FOLDER = Path(__file__).parent / "shop"
START_MS = 1_735_689_600_000  # 2025-01-01
DAY_MS = 86_400_000
USERS = 80

BRANDS = ("Northwind", "Alder & Co", "Brightwell", "Kestrel")
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float]] = {
    "beans": (("Coffee", "Beans"), ("Espresso Beans 1 kg", "Filter Beans 500 g", "Decaf Beans 500 g"), 14.0),
    "capsules": (("Coffee", "Capsules"), ("Lungo Capsules 40", "Ristretto Capsules 40"), 16.0),
    "tea": (("Tea", "Loose Leaf"), ("Green Tea 100 g", "Earl Grey 100 g", "Rooibos 100 g"), 8.0),
    "machines": (("Kitchen", "Machines"), ("Espresso Machine", "Capsule Machine", "Electric Kettle"), 120.0),
    "filters": (("Kitchen", "Filters"), ("Paper Filters 100", "Steel Filter"), 6.0),
    "cups": (("Kitchen", "Cups"), ("Espresso Cups Set of 4", "Travel Mug"), 18.0),
}
TOGETHER = {
    "Espresso Beans 1 kg": "Espresso Machine",
    "Filter Beans 500 g": "Paper Filters 100",
    "Lungo Capsules 40": "Capsule Machine",
    "Ristretto Capsules 40": "Capsule Machine",
    "Green Tea 100 g": "Electric Kettle",
    "Earl Grey 100 g": "Electric Kettle",
    "Espresso Machine": "Espresso Cups Set of 4",
}
TASTES = (
    ("Espresso Beans 1 kg", "Espresso Machine", "Espresso Cups Set of 4"),
    ("Filter Beans 500 g", "Paper Filters 100", "Travel Mug"),
    ("Lungo Capsules 40", "Ristretto Capsules 40", "Capsule Machine"),
    ("Green Tea 100 g", "Earl Grey 100 g", "Electric Kettle"),
)


def products() -> list[dict[str, object]]:
    """Return every product of every brand."""
    rows: list[dict[str, object]] = []
    for kind, (category, names, price) in KINDS.items():
        for name in names:
            for number, brand in enumerate(BRANDS):
                roast = ("light", "medium", "dark", "medium")[number]
                attributes = {"roast": roast} if kind in {"beans", "capsules"} else {}
                rows.append(
                    {
                        "product_id": f"{kind}-{len(rows) + 1:03d}",
                        "title": f"{brand} {name}",
                        "description": f"{name} by {brand}, for every day.",
                        "brand": brand,
                        "category": "|".join(category),
                        "price": round(price * (0.85 + 0.15 * number), 2),
                        "attributes": json.dumps(attributes),
                    }
                )
    return rows


def facts(by_title: dict[str, str]) -> list[dict[str, str]]:
    """Return what goes with what, within each brand, and where each brand is from."""
    rows = []
    for name, other in TOGETHER.items():
        rows += [
            {
                "head": by_title[f"{brand} {name}"],
                "relation": "BOUGHT_TOGETHER",
                "tail": by_title[f"{brand} {other}"],
                "head_kind": "product",
                "tail_kind": "product",
            }
            for brand in BRANDS
        ]
    for brand, country in zip(BRANDS, ("Norway", "Germany", "England", "Norway"), strict=True):
        rows.append(
            {"head": brand, "relation": "MADE_IN", "tail": country, "head_kind": "brand", "tail_kind": "country"}
        )
    return rows


def interactions(by_title: dict[str, str], rng: random.Random) -> list[dict[str, object]]:
    """Return what every user viewed, put into the cart and bought."""
    rows: list[dict[str, object]] = []
    everything = list(by_title.values())
    for user in range(1, USERS + 1):
        brand = BRANDS[user % len(BRANDS)]
        taste = [by_title[f"{brand} {name}"] for name in TASTES[(user // len(BRANDS)) % len(TASTES)]]
        at_ms = START_MS + rng.randrange(60) * DAY_MS
        for _ in range(rng.randint(3, 9)):
            at_ms += rng.randint(5, 40) * DAY_MS + rng.randrange(DAY_MS)
            product = rng.choice(taste) if rng.random() < 0.8 else rng.choice(everything)
            path = ("view", "add_to_cart", "purchase") if rng.random() < 0.7 else ("view",)
            for step, kind in enumerate(path):
                value = rng.choice((1, 1, 2)) if kind == "purchase" else ""
                row = {"user_id": f"user-{user:03d}", "product_id": product, "type": kind}
                rows.append(row | {"at_ms": at_ms + step * 60_000, "value": value})
    return sorted(rows, key=lambda row: int(str(row["at_ms"])))


def users(rng: random.Random) -> list[dict[str, str]]:
    """Return who they are."""
    return [
        {"user_id": f"user-{user:03d}", "attributes": json.dumps({"age": rng.choice(("18-34", "35-54", "55+"))})}
        for user in range(1, USERS + 1)
    ]


def write(name: str, rows: list[dict[str, object]] | list[dict[str, str]]) -> None:
    """Write one table."""
    with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Write the four tables."""
    rng = random.Random(7)
    FOLDER.mkdir(exist_ok=True)
    catalogue = products()
    by_title = {str(row["title"]): str(row["product_id"]) for row in catalogue}
    write("products", catalogue)
    write("facts", facts(by_title))
    write("interactions", interactions(by_title, rng))
    write("users", users(rng))


if __name__ == "__main__":
    main()
