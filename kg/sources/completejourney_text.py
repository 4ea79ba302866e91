"""Readable names for Complete Journey's abbreviations: FRZN JCE CONC/DRNKS is Frozen juice concentrate/drinks.

People read these names in recommendations, and a language model knows `frozen`, not `frzn`. The words below are those
that stand for most purchases; what is not among them stays as it is.
"""

import re

_WORDS = {
    "apptzrs": "appetizers",
    "bev": "beverages",
    "bg": "bags",
    "bkd": "baked",
    "bn": "beans",
    "brd": "bread",
    "breakfst": "breakfast",
    "brkfst": "breakfast",
    "btl": "bottle",
    "btr": "butter",
    "carb": "carbonated",
    "catfd": "cat food",
    "chick": "chicken",
    "chix": "chicken",
    "choc": "chocolate",
    "chococlate": "chocolate",
    "cleang": "cleaning",
    "cndles": "candles",
    "conc": "concentrate",
    "crbntd": "carbonated",
    "crmd": "creamed",
    "crystl": "crystal",
    "decor": "decoration",
    "dnr": "dinner",
    "dnrs": "dinners",
    "dogfd": "dog food",
    "drnk": "drink",
    "drnking": "drinking",
    "drnkng": "drinking",
    "drnks": "drinks",
    "drsng": "dressing",
    "dsh": "dishes",
    "excl": "excluding",
    "fd": "food",
    "fem": "feminine",
    "flvr": "flavor",
    "flvrd": "flavored",
    "frz": "frozen",
    "frzn": "frozen",
    "gds": "goods",
    "gm": "general merchandise",
    "hygn": "hygiene",
    "incl": "including",
    "iqf": "individually frozen",
    "jce": "juice",
    "lss": "less",
    "misc": "miscellaneous",
    "mixs": "mixes",
    "mlt": "multi",
    "mneral": "mineral",
    "mnr": "mineral",
    "mnrl": "mineral",
    "mult": "multi",
    "mx": "mix",
    "mxs": "mixes",
    "ndairy": "non-dairy",
    "oj": "orange juice",
    "pckgd": "packaged",
    "pk": "pack",
    "pkg": "package",
    "pkld": "pickled",
    "plstc": "plastic",
    "pnch": "punch",
    "pnt": "peanut",
    "pnut": "peanut",
    "prem": "premium",
    "prep": "prepared",
    "presrv": "preserves",
    "pwdr": "powder",
    "refrgratd": "refrigerated",
    "refrig": "refrigerated",
    "rts": "ready to serve",
    "sald": "salad",
    "sandwic": "sandwiches",
    "saus": "sausage",
    "sft": "soft",
    "sgl": "single",
    "sherbts": "sherbets",
    "sld": "salad",
    "sndwch": "sandwich",
    "sngl": "single",
    "spec": "specialty",
    "specilaty": "specialty",
    "sply": "supplies",
    "sprd": "spread",
    "srv": "serve",
    "sup": "super",
    "suppplies": "supplies",
    "sv": "serve",
    "sw": "sweet",
    "sweetners": "sweeteners",
    "thn": "than",
    "tiss": "tissue",
    "trsh": "trash",
    "veg": "vegetables",
    "vend": "vending",
    "wate": "water",
    "whl": "whole",
    "whlsm": "wholesome",
    "wt": "weight",
    "wtr": "water",
}

_WORD = re.compile(r"[a-z]+")
_CUT_OFF = re.compile(r"\s*\([^)]*$")
_STOP = re.compile(r"(?<=[a-z])\.+(?=\s|[a-z]|$)")
_JOINED = re.compile(r"(?<=\w)([:,;&])(?=\w)|(?<=\w)&\s*(?=\w)")
_SEPARATORS = {":": ": ", ",": ", ", ";": "; "}


def readable(name: str | None) -> str:
    """Return a name in words; empty if there is none. A bracket that the till's 30 letters cut off is left out."""
    text = _CUT_OFF.sub("", (name or "").lower())
    text = _STOP.sub(" ", text)
    text = _WORD.sub(lambda word: _WORDS.get(word[0], word[0]), text)
    text = _JOINED.sub(lambda found: _SEPARATORS.get(found[0], " & "), text)
    text = " ".join(text.replace(" >", " over").replace("<=", "up to ").split()).rstrip(" -/&:")
    return text[:1].upper() + text[1:]
