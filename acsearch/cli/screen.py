"""The one way to the terminal. Names, titles and errors come from files, storages and servers: all of them are text.

No markup is read and nothing steers the terminal, whoever prints what. Styles are given as rich's `Text`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from acsearch.tables.names import columns, shortened
from trainers.errors import printable

_SHORTEST = 16  # columns of a name that gives way to numbers


def text(content: str, style: str = "") -> Text:
    """A text in a style; `Text` itself would drop some control characters without a word."""
    return Text(printable(content), style)


bold, dim, yellow, red = (partial(text, style=style) for style in ("bold", "dim", "yellow", "red"))


class Screen(Console):
    """A console that shows text as text: no markup, no emoji codes, and control characters as their escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for one in super().render(renderable, options):
            yield one if one.control else one._replace(text=printable(one.text))

    def say(self, *parts: str | Text) -> None:
        """Print a line of text, parts of it in a style."""
        self.print(Text.assemble(*(text(one) if isinstance(one, str) else one for one in parts)))

    def show_table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        names: Collection[int] = (0,),
        left: Collection[int] = (0,),
        strong: Collection[int] = (),
    ) -> None:
        """Print a table: whole, but for names that would not leave room for the numbers on a terminal.

        Args:
            header: titles of the columns.
            rows: the cells.
            names: columns of names, which are shortened in their middle.
            left: columns that are aligned on the left.
            strong: rows in bold.
        """
        cells = [[printable(cell).replace("\n", " ") for cell in row] for row in (header, *rows)]
        widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
        if self.is_terminal:
            limit = _limit([widths[place] for place in names], self.width - sum(widths) - 2 * (len(widths) - 1))
            widths = [min(width, limit) if place in names else width for place, width in enumerate(widths)]
        for number, row in enumerate(cells, -1):
            line = "  ".join(
                _cell(one, width, place in left) for place, (one, width) in enumerate(zip(row, widths, strict=True))
            )
            self.print(bold(line.rstrip()) if number == -1 or number in strong else line.rstrip())


def _limit(widths: Sequence[int], room: int) -> int:
    """The most columns for each name, so that names of these widths take `room` columns more than now, or fewer."""
    limit = max(widths)
    while limit > _SHORTEST and sum(max(width - limit, 0) for width in widths) < -room:
        limit -= 1
    return limit


def _cell(text: str, width: int, left: bool) -> str:
    text = shortened(text, width)
    space = " " * (width - columns(text))
    return text + space if left else space + text
