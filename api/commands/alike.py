"""What `liverseg dataset check` says: which scans may show one person, and what was told of them."""

import textwrap
from collections.abc import Sequence
from typing import Any

import click

from api.commands import show

Json = dict[str, Any]


def print_similarity(dataset: Json) -> None:
    """Pairs of scans that may show one person, what was told of them, and what to do."""
    found = dataset["similarity"]
    if found["pairs"]:
        show.print_sheet(pairs_sheet(found["pairs"]))
        click.echo()
    for note in similarity_notes(dataset):
        click.echo(textwrap.fill(note, show.NOTE_WIDTH))


def pairs_sheet(pairs: list[Json]) -> show.Sheet:
    rows = [
        [
            " and ".join(map(str, pair["scans"])),
            f"{pair['score']:.3f}",
            " and ".join(map(str, pair["slices"])),
            " and ".join(map(show.clean, dict.fromkeys(pair["subjects"]))),
            " and ".join(dict.fromkeys(pair["parts"])),
        ]
        for pair in pairs
    ]
    return show.Sheet(["Scans", "Score", "Best slices", "Told to be", "Parts"], rows, frozenset({"Score"}))


def similarity_notes(dataset: Json) -> list[str]:
    """What the check says in words: the margin, whether the subjects agree, and the split."""
    found = dataset["similarity"]
    pairs = found["pairs"]
    margin = f"; the next one scores {found['next']['score']:.3f}" if found["next"] else ""
    count = f"{len(pairs)} of {found['compared']} pairs of scans score above {found['threshold']}{margin}."
    hint = f" They may show one person: look at /datasets/{dataset['name']} before you believe it." if pairs else ""
    notes = [count + hint]
    apart = [_scans(pair["scans"]) for pair in pairs if not pair["same_subject"]]
    source = "assumed to be one a scan" if dataset["subjects_assumed"] else "told at import"
    if apart:
        notes.append(f"The subjects ({source}) say that these are different people: {', '.join(apart)}.")
    if found["unconfirmed"]:
        named = ", ".join(map(_scans, found["unconfirmed"]))
        notes.append(f"The subjects ({source}) say that these are one person, but they do not look alike: {named}.")
    if not apart and not found["unconfirmed"]:
        notes.append(f"The subjects ({source}) agree with this.")
    across = [_scans(pair["scans"]) for pair in pairs if pair["across"]]
    if across:
        notes.append(
            f"WARNING: on both sides of the split: {', '.join(across)}. Scores there say little about new people."
        )
    return notes


def _scans(pair: Sequence[int]) -> str:
    return f"{pair[0]} with {pair[1]}"
