"""A report on disk: JSON for machines, one self-contained HTML page, Markdown with its plots beside it, and the block
of a documentation page that holds the tables.
"""

import base64
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kg.errors import ConfigError
from kg.whole_files import write_whole
from model.compare.plots import Plot, few_events, label_of, plots_of
from model.compare.tables import Document, Sheet, goal_sheet, place, sheets, tuning_sheet
from model.errors import ModelError

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1040px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.6rem;border-bottom:1px solid #d9dee3}h3{font-size:1.02rem}
table{border-collapse:collapse;font-size:13px;margin:.6rem 0}td,th{padding:.22rem .6rem;text-align:right}
td:first-child,th:first-child{text-align:left}th{border-bottom:1.5px solid #1f2933;white-space:nowrap}
tr:nth-child(even) td{background:#f5f7f9}tr.strong td{font-weight:600;color:#c1272d}
.words td{text-align:left}p.note{color:#5b6770;font-size:13px}img{max-width:100%;display:block}
figure{margin:1rem 0}figcaption{color:#5b6770;font-size:13px}nav a{margin-right:1rem}div.wide{overflow-x:auto}
"""


def write_report(document: Document, folder: Path, docs: Path | None = None) -> dict[str, str]:
    """Write a report, and return where its parts are: `json`, `html`, `markdown` (and `docs`).

    Raises:
        ConfigError: the documentation page has no block for this comparison.
        ModelError: there is a documentation page, and no table to put there; the report itself is written.
    """
    drawn = [_plots(document, table) for table in document["tables"]]
    files = {"report.json": json.dumps(document, indent=1, ensure_ascii=False)}
    for index, plots in enumerate(drawn):
        files |= {f"plots/{_file(index, number, plot)}": plot.drawing for number, plot in enumerate(plots)}
    files["report.md"] = markdown(document, drawn)
    files["report.html"] = page(document, drawn)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for old in (folder / "plots").glob("*.svg"):
        if f"plots/{old.name}" not in files:
            old.unlink()
    for name, text in files.items():
        write_whole(folder / name, text.encode())
    written = {
        kind: str(folder / f"report.{end}") for kind, end in (("json", "json"), ("html", "html"), ("markdown", "md"))
    }
    if docs is not None:
        rewrite_block(docs, document)
        written["docs"] = str(docs)
    return written


def markdown(document: Document, drawn: Sequence[Sequence[Plot]]) -> str:
    """Return the report as Markdown; its plots are files beside it."""
    parts = [f"# {document['title']}", *_sentences(document)]
    goals = goal_sheet(document)
    if goals is not None:
        parts += ["## Goals", _markdown_table(goals)]
    for index, ((table, groups), plots) in enumerate(zip(sheets(document), drawn, strict=True)):
        parts.append(f"## {place(table)}")
        for row, sheet in enumerate(groups):
            parts += [sheet.sentence] if not row else [f"### {sheet.heading}"]
            parts.append(_markdown_table(sheet))
        parts += [f"![{plot.caption}](plots/{_file(index, number, plot)})" for number, plot in enumerate(plots)]
    tuning = tuning_sheet(document)
    parts += ["## Tuning", tuning.sentence, _markdown_table(tuning)]
    return "\n\n".join(parts) + "\n"


def page(document: Document, drawn: Sequence[Sequence[Plot]]) -> str:
    """Return the report as one HTML page that needs nothing else."""
    body = [f"<h1>{html.escape(document['title'])}</h1>"]
    body += [f"<p>{html.escape(sentence)}</p>" for sentence in _sentences(document)]
    links = [f'<a href="#t{index}">{html.escape(place(table))}</a>' for index, table in enumerate(document["tables"])]
    body.append(f"<nav>{' '.join(links)}</nav>")
    goals = goal_sheet(document)
    if goals is not None:
        body += ["<h2>Goals</h2>", _html_table(goals, words=True)]
    for index, ((table, groups), plots) in enumerate(zip(sheets(document), drawn, strict=True)):
        body.append(f'<h2 id="t{index}">{html.escape(place(table))}</h2>')
        for row, sheet in enumerate(groups):
            body.append(f"<p>{sheet.sentence}</p>" if not row else f"<h3>{html.escape(sheet.heading)}</h3>")
            body.append(_html_table(sheet))
        body += [_figure(plot) for plot in plots]
    tuning = tuning_sheet(document)
    body += ["<h2>Tuning</h2>", f"<p>{tuning.sentence}</p>", _html_table(tuning, words=True)]
    body.append(f'<p class="note">Cells: {html.escape(", ".join(document["cells"]))}</p>')
    head = f'<meta charset="utf-8"><title>{html.escape(document["title"])}</title><style>{_STYLE}</style>'
    inner = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{inner}\n</body></html>\n'


def rewrite_block(docs: Path, document: Document) -> None:
    """Put the tables of a report into its block of a documentation page, whose ends are comments with its name.

    Raises:
        ConfigError: there is no such page, or it has no such block.
        ModelError: the report has no table; the page stays as it is.
    """
    name = document["name"]
    begin, end = f"<!-- report: {name} -->", f"<!-- end of report: {name} -->"
    text = docs.read_text(encoding="utf-8") if docs.is_file() else ""
    before, *inside = text.split(begin)
    if not inside or end not in text:
        raise ConfigError(f"{docs} has no block for {name}", f"Put the lines {begin} and {end} where it is to stand.")
    if text.count(begin) > 1 or text.count(end) > 1 or end in before:
        raise ConfigError(
            f"{docs} has more than one block for {name}, or ends it before it begins",
            f"Leave one line {begin} and, after it, one line {end}.",
        )
    if not document["tables"]:
        reasons = "; ".join(dict.fromkeys(part["why"] for part in document["skipped"])) or "nothing was asked for"
        raise ModelError(
            f"{docs} keeps its tables of {name}, for this report has none: {reasons}",
            "Bring the data (--data names another folder), or leave out --report-only or --only.",
        )
    parts = list(_sentences(document))
    goals = goal_sheet(document)
    if goals is not None:
        parts += [_markdown_table(goals)]
    for _, groups in sheets(document):
        for sheet in groups:
            parts += [f"**{sheet.heading}.** {sheet.sentence}", _markdown_table(sheet)]
    tried = [f"{part['model']} {part['tried'] + part['tried_before']}" for part in document["tuning"]]
    parts.append(f"Configurations tried on validation: {', '.join(dict.fromkeys(tried))}.")
    after = inside[0].split(end)[1]
    rewritten = f"{before}{begin}\n\n" + "\n\n".join(parts) + f"\n\n{end}{after}"
    write_whole(docs, rewritten.encode())


def _plots(document: Document, table: dict[str, Any]) -> list[Plot]:
    metric, reference = document["metric"], document["reference"]
    siblings = [
        other
        for other in document["tables"]
        if (other["data"], other["protocol"]) == (table["data"], table["protocol"])
    ]
    plots = plots_of(table, metric, reference, first=table is siblings[0])
    if table is siblings[0]:
        drawing = few_events(siblings, metric, reference)
        if drawing is not None:
            plots.append(Plot("events", f"{label_of(metric)} by how much of a cold user's history is given.", drawing))
    return plots


def _sentences(document: Document) -> list[str]:
    """Return what has to be known to read the tables."""
    seeds = len(document["seeds"])
    told = [
        f"Made {document['created_at']} on {document['machine']}, "
        f"{', '.join(f'{name} {version}' for name, version in document['packages'].items())}; "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}, every candidate ranked."
    ]
    if document["stage"] == "test":
        touched = document.get("test", {})
        others = touched.get("reports_of_other_cells_before", 0)
        told.append(
            "Test data, touched for this report; what this run chose it chose on validation data. "
            + (
                "This folder's ledger knows of no other configuration that was reported on these test data before."
                if not others
                else f"Reports of other cells that have looked at these test data before, from this folder: {others}."
            )
        )
    else:
        told.append(
            "Validation data: what was chosen was chosen on these, so the figures flatter. Test data: untouched."
        )
    told.append(
        f"{document['comparisons']} paired comparisons with the reference in all ({document['resamples']:,} bootstrap "
        "draws of users, the same for both); p-values are corrected by Holm's method within each question's models. "
        "Baselines are tuned on validation data; over how many configurations stands with the configurations tried."
    )
    if document["skipped"]:
        left_out = "; ".join(f"{part['what']} ({part['why']})" for part in document["skipped"])
        told.append(f"Not in this report: {left_out}.")
    return told


def _markdown_table(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rows = [
        [f"**{row[0]}**", *row[1:]] if number in sheet.strong else list(row) for number, row in enumerate(sheet.rows)
    ]
    return "\n".join([line(sheet.columns), line(["---"] * len(sheet.columns)), *map(line, rows)])


def _html_table(sheet: Sheet, *, words: bool = False) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in sheet.columns)
    rows = [
        ('<tr class="strong">' if number in sheet.strong else "<tr>")
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(sheet.rows)
    ]
    kind = ' class="words"' if words else ""
    return f'<div class="wide"><table{kind}><tr>{head}</tr>\n' + "\n".join(rows) + "\n</table></div>"


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.drawing.encode()).decode()
    caption = html.escape(plot.caption)
    image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _file(table: int, number: int, plot: Plot) -> str:
    return f"{table:02}-{number:02}-{re.sub(r'[^a-z0-9]+', '-', plot.name.lower())}.svg"
