"""Tables and text as Markdown."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; every cell is shown as it is."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(plain, line))} |" for line in lines)


def plain(cell: str) -> str:
    """Text that Markdown shows as it is; our own backticks stay."""
    text = " ".join(cell.split())
    for mark in ("\\", "*", "](", "<", "|"):
        text = text.replace(mark, f"\\{mark}")
    return text
