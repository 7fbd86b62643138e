"""A world's things as realistic staging data."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.places import ready_folder


class Format(StrEnum):
    jsonl = "jsonl"
    sqlite = "sqlite"
    both = "both"


def export(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    out: Annotated[Path, typer.Argument(help="The new folder that the data are written to.")],
    format_: Annotated[
        Format, typer.Option("--format", help="JSON lines, one SQLite file, or both.")
    ] = Format.both,
    scrub: Annotated[
        bool, typer.Option(help="Replace e-mail addresses and numbers of phones and cards.")
    ] = False,
    scrub_field: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="--scrub, and this field's texts too; repeatable."),
    ] = None,
    scrub_key: Annotated[
        str | None,
        typer.Option(help="Equal keys make equal replacements in every export; else at random."),
    ] = None,
) -> None:
    """Write a world's things as staging data, a table for each kind.

    OUT gets TYPE.jsonl, staging.db with ids as primary keys and the references between things as
    foreign keys, and manifest.json: what there is, which version of a thing was taken, what was
    left out and why.

    --scrub keeps formats and replaces equal values equally, ids among them. It cannot know names,
    addresses and other texts of people: name their fields with --scrub-field, and read the result.

    Example: understudy world export build/world build/staging --scrub
    """
    from understudy.world.data.scrub import Scrub
    from understudy.world.model import World
    from understudy.world.serving.export import FORMATS
    from understudy.world.serving.export import export as run

    if scrub_key is not None and not (scrub or scrub_field):
        raise typer.BadParameter("--scrub-key says how to replace: add --scrub")
    replacing = None
    if scrub or scrub_field:
        key = scrub_key.encode() if scrub_key else None
        replacing = Scrub(key, scrub_field or ())
    ready_folder(out)
    formats = FORMATS if format_ is Format.both else (format_.value,)
    manifest = run(World.load(world), out, formats, replacing)
    for one in manifest["types"]:
        print(f"{one['things']:8} things: {one['name']}, each by its {one['key']}")
    for one in manifest["references"]:
        if not one["constraint"]:
            lost = f"{one['dangling']} of {one['values']} ids are of nothing that is remembered"
            print(f"         {one['from']} is no foreign key to {one['to']}: {lost}")
    print(f"staging data in {out}; {out / 'manifest.json'} says what was left out and why")
