"""Tables as CSV for a spreadsheet: a row is one line, and no cell is computed. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula (owasp.org/www-community/attacks/CSV_Injection)."""


def sheet_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Header and rows; a cell that a spreadsheet would compute begins with an apostrophe.

    A line break in a cell becomes a blank: Python 3.11 writes a lone carriage return unquoted, which ends the row for whoever reads it.
    Blanks stay, since a command that is shown must be the command.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_safe(" ".join(cell.splitlines())) for cell in row])
    return out.getvalue()


def plain(cell: str) -> str:
    """The cell without the apostrophe that `sheet_of` gave it."""
    return cell[1:].strip() if cell.startswith("'") and cell[1:].lstrip(" ").startswith(FORMULA) else cell


def _safe(cell: str) -> str:
    return f"'{cell}" if cell.lstrip(" ").startswith(FORMULA) else cell
