"""Show a licence report (format in `mr_bundler.papers.licences`) to people."""

from __future__ import annotations

from mr_core.decode import Decoder, parse_json
from mr_core.errors import UnsupportedError, printable

FORMAT = 1
UNKNOWN = "UNKNOWN"
"""Stands for a licence that nobody named."""
_MOST_BYTES = 64 << 20
_TABLES = ("distributions", "interpreter", "libraries")


def show_licences(content: bytes) -> str:
    """Return the report as a table for a terminal, the unknown ones first.

    Raises:
        InvalidInputError: when it is not a licence report.
        UnsupportedError: when it was written for a newer format.
    """
    read = Decoder(parse_json(content, "licence report", limit=_MOST_BYTES), "licence report")
    if read.integer("format", least=1) > FORMAT:
        raise UnsupportedError(
            f"Cannot read licence report: its format is newer than {FORMAT}",
            hint="upgrade this tool: `uv tool upgrade mr-backends`",
        )
    rows = [(_row(item), item.text("in", "")) for key in _TABLES for item in read.tables(key, required=True)]
    unknown = read.texts("unknown", required=True)
    title = f"{read.text('backend')} {read.text('version')} for {read.text('target')}"
    counts = read.table("counts", required=True)
    numbers = {key: counts.integer(key) for key in counts.value}
    read.finish()
    lines = [_shown(title), ""]
    lines += [f"{count:>5}  {_shown(licence)}" for licence, count in sorted(numbers.items(), key=_by_count)]
    lines += ["", f"{'NAME':<36} {'VERSION':<20} {'LICENCE':<44} SOURCE"]
    ordered = sorted(rows, key=lambda row: (row[0][2] != UNKNOWN or bool(row[1]), row[1], row[0]))
    for (name, version, licence, source), inside in ordered:
        if inside:
            continue  # the distribution answers for it
        lines.append(f"{name:<36} {version:<20} {licence:<44} {source}".rstrip())
    vendored = [f"{name} in {_shown(inside)}" for (name, *_), inside in ordered if inside]
    if vendored:
        lines += ["", f"libraries inside of wheels: {', '.join(vendored)}"]
    if unknown:
        lines += ["", f"unknown: {', '.join(map(_shown, unknown))}"]
    return "\n".join(lines)


def _row(item: Decoder) -> tuple[str, str, str, str]:
    licence = item.text("licence") or UNKNOWN
    source = item.text("source", "") or item.text("stated", "")
    if licence == UNKNOWN and item.text("stated", ""):
        source = f"says: {item.text('stated', '')}"
    return _shown(item.text("name")), _shown(item.text("version", "")), _shown(licence), _shown(source)


def _by_count(pair: tuple[str, int]) -> tuple[int, str]:
    return -pair[1], pair[0]


def _shown(text: str) -> str:
    return printable(text, most=120)
