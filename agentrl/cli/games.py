"""`agentrl games`: write generated ALFWorld games in the layout of the real data."""

from __future__ import annotations

import importlib
import json
from itertools import count, islice
from pathlib import Path

import click

from agentrl.errors import ConfigError

__all__ = ["command"]


@click.command("games")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--split", type=click.Choice(["train", "valid_seen", "valid_unseen"]), default="train")
@click.option("--size", type=click.Choice(["small", "medium", "full"]), default="full")
@click.option("--grammar", type=click.Choice(["new", "old"]), default="new", help="How putting is worded.")
@click.option("--games", "number", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the first game."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(
    directory: Path, split: str, size: str, grammar: str, number: int, seed: int, as_json: bool
) -> None:
    """Write games to DIRECTORY/json_2.1.1/SPLIT; games that are already there are kept.

    Play them with env.data=DIRECTORY, or with the alfworld package itself.
    """
    generator = importlib.import_module("envs.alfworld.generator")
    exporter = importlib.import_module("envs.alfworld.export")
    games = (
        generator.generate(game_seed, split=split, size=size, grammar=grammar)
        for game_seed in islice(count(seed), number)
    )
    try:
        exported = exporter.export(directory, games, split)
    except OSError as error:
        raise ConfigError(
            "games.unwritable",
            f"cannot write games to {directory}: {error.strerror}; those that were written are complete",
            {"path": str(directory)},
        ) from error
    if as_json:
        click.echo(json.dumps({"written": exported.written, "skipped": exported.skipped}))
    else:
        click.echo(f"wrote {exported.written} games to {directory}, {exported.skipped} were there already")
