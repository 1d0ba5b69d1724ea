"""Tables as docs/results.md writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown.

    >>> print(table(("exit", "accuracy"), [(0, "92.2 %")]))
    | exit | accuracy |
    |---|---|
    | 0 | 92.2 % |
    """
    lines = [headings, *([str(cell) for cell in row] for row in rows)]
    first, *others = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([first, "|" + "---|" * len(headings), *others])


def verdict(holds: bool | None) -> str:
    """Whether a bar was reached, in words; None: it was not measured."""
    return {True: "reached", False: "**not reached**", None: "not measured"}[holds]
