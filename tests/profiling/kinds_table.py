"""The table of measured kinds in ``profiles/README.md``. Write it anew, after a change of the kinds:

python -m tests.profiling.kinds_table
"""

from __future__ import annotations

from pathlib import Path

from planner.profiling.tables import KINDS, Column

__all__ = ["BEGIN", "END", "README", "documented", "kinds_table"]

README = Path(__file__).resolve().parents[2] / "profiles" / "README.md"
BEGIN = "<!-- kinds of measured tables: python -m tests.profiling.kinds_table -->\n"
END = "<!-- end of kinds -->\n"


def _column(column: Column) -> str:
    default = f", else {column.default if column.default != '' else 'empty'}" if column.optional else ""
    return f"`{column.name}` ({column.meaning}{default})"


def kinds_table() -> str:
    """Markdown: one line a kind."""
    lines = ["| kind | what | settings | results |", "|---|---|---|---|"]
    for kind in KINDS.values():
        settings, results = ("; ".join(_column(c) for c in part) for part in (kind.settings, kind.results))
        lines.append(f"| `{kind.name}` | {kind.title} | {settings} | {results} |")
    return "\n".join(lines).replace("^", "\\^") + "\n"


def documented() -> str:
    """The table as the README has it."""
    return README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(text.replace(documented(), kinds_table()), encoding="utf-8")
