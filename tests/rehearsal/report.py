"""The table that a rehearsal ends with: what was looked at, whether it held, and the figures."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

LONGEST_DETAIL = 600  # characters of a failure: enough of a log to see its cause


@dataclass
class Row:
    """One thing that has to hold."""

    what: str
    held: bool = False
    detail: str = ""

    def __str__(self) -> str:
        return f"{'held' if self.held else 'FAILED':<7}{self.what}{': ' if self.detail else ''}{self.detail}"


@dataclass
class Report:
    """The rows so far; each is printed as it is known."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def row(self, what: str) -> Iterator[Row]:
        """Hold if the block ends without an exception; whatever it raises is the row's detail, and goes no further."""
        row = Row(what)
        try:
            yield row
            row.held = True
        except Exception as error:  # noqa: BLE001  # one row that fails must not keep the others from being looked at
            row.detail = _describe(error)
        self.rows.append(row)
        print(row, flush=True)

    def note(self, text: str) -> None:
        """Add a line that is good to know and judges nothing."""
        self.notes.append(text)
        print(f"note   {text}", flush=True)

    @property
    def all_held(self) -> bool:
        return bool(self.rows) and all(row.held for row in self.rows)

    def table(self) -> str:
        """Return the whole table: what, held, detail; then the notes."""
        width = max(len(row.what) for row in self.rows)
        lines = [f"{'what':<{width}}  held  detail", f"{'-' * width}  ----  {'-' * 40}"]
        for row in self.rows:
            first, *more = row.detail.splitlines() or [""]
            lines.append(f"{row.what:<{width}}  {'yes' if row.held else 'NO':<4}  {first}".rstrip())
            lines += [f"{'':<{width}}        {line}" for line in more]
        held = sum(row.held for row in self.rows)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), f"{held} of {len(self.rows)} held"])


def _describe(error: Exception) -> str:
    """Return what went wrong and where: the failed assertion itself, if it says nothing more."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    said = str(error) or (where.line or "")
    return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {said}"[:LONGEST_DETAIL]
