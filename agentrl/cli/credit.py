"""`agentrl credit`: credit stored episodes again, under any settings; no model needed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from agentrl import bundle
from agentrl.errors import ConfigError
from agentrl.store import DEFAULT_URL, URL_VARIABLE

if TYPE_CHECKING:
    from agentrl.credit import CreditResult, Pipeline
    from agentrl.credit.compare import Comparison
    from agentrl.types import Episode

__all__ = ["command"]


@click.command("credit")
@click.option("--config", required=True, metavar="FILE", help="TOML with a [credit] table.")
@click.option("--episodes", "episodes_file", metavar="FILE", help="Episode records, one JSON object a line.")
@click.option("--store", default=DEFAULT_URL, envvar=URL_VARIABLE, show_default=True, metavar="URL")
@click.option("--run", metavar="RUN", help="Credit the stored episodes of this run.")
@click.option("--out", metavar="FILE", help="Write one line per episode ('-': standard output).")
@click.option("--save", is_flag=True, help="With --run: keep the result in the store as a new credit run.")
@click.option(
    "--diff", metavar="CREDIT", help="Compare with a stored credit run, or a file that --out wrote."
)
@click.option("--explain", is_flag=True, help="Print the pipeline that the config stands for, and stop.")
@click.option("--memory-in", metavar="FILE", help="Per-task memory to start from.")
@click.option("--memory-out", metavar="FILE", help="Write the per-task memory at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    config: str,
    episodes_file: str | None,
    store: str,
    run: str | None,
    out: str | None,
    save: bool,
    diff: str | None,
    explain: bool,
    memory_in: str | None,
    memory_out: str | None,
    as_json: bool,
) -> None:
    """Recompute the credit of every turn.

    Batches are credited in order, with per-task memory carried from one to the next.
    """
    pipeline = _pipeline(config)
    if explain:
        click.echo(json.dumps(pipeline.spec) if as_json else pipeline.explain().rstrip())
        return
    _check_usage(episodes_file, run, save)
    episodes, run_id = _episodes(episodes_file, store, run)
    results = pipeline.run_batches(episodes, _read_memory(memory_in))
    summary: dict[str, Any] = {
        "episodes": len(episodes),
        "turns": sum(int(result.credited_N.sum()) for result in results),
        "dropped_episodes": int(sum(result.metrics["credit/dropped_episodes"] for result in results)),
        "batches": [{"batch": r.episodes[0].batch, "metrics": dict(r.metrics)} for r in results],
    }
    if out is not None:
        _write(out, (json.dumps(record) for record in _in_order(episodes, results)))
        summary["out"] = out
    if memory_out is not None:
        memory = results[-1].memory if results else _read_memory(memory_in)
        _write(memory_out, [json.dumps(memory, indent=1, sort_keys=True)])
        summary["memory_out"] = memory_out
    if save:
        summary["credit_run_id"] = _save(store, str(run_id), pipeline, results)
    comparison = None if diff is None else _compare(results, diff, store)
    summary["diff"] = None if comparison is None else comparison.to_json()
    if as_json:
        click.echo(json.dumps(summary), err=out == "-")
    elif out != "-":
        _print(summary, results, comparison)


def _pipeline(path: str) -> Pipeline:
    from agentrl.credit import build

    file = bundle.find(path)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("config.unreadable", f"cannot read the config {path!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config.syntax", f"{path} is not valid TOML: {error}") from None
    credit = data.get("credit")
    if not isinstance(credit, dict):
        raise ConfigError("config.invalid", f'{path} has no [credit] table; the shortest is preset = "gigpo"')
    loss = data.get("loss")
    terms: Any = cast("dict[str, Any]", loss).get("term", []) if isinstance(loss, dict) else []
    if not isinstance(terms, list) or not all(isinstance(term, dict) for term in cast("list[Any]", terms)):
        raise ConfigError("config.invalid", f"{path}: loss terms are written [[loss.term]]")
    try:
        return build(cast("dict[str, Any]", credit), loss_terms=cast("list[dict[str, Any]]", terms))
    except ConfigError as error:
        raise ConfigError(error.code, f"{path}: {error.message}", error.detail) from None


def _check_usage(episodes_file: str | None, run: str | None, save: bool) -> None:
    if (episodes_file is None) == (run is None):
        raise ConfigError(
            "credit.usage", "say which episodes: either --episodes FILE or --run RUN [--store URL]"
        )
    if save and run is None:
        raise ConfigError("credit.usage", "--save keeps the credit of stored episodes; it needs --run")


def _episodes(file: str | None, url: str, run: str | None) -> tuple[list[Episode], str | None]:
    if file is not None:
        from agentrl.store.record import read_jsonl

        return list(read_jsonl(file)), None
    from agentrl.store.db import Store

    with Store.open(url, create=False) as store:
        run_id = store.find_run(str(run)).run_id
        return list(store.episodes(run_id)), run_id


def _read_memory(path: str | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        memory = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("credit.memory", f"cannot read the memory {path!r}: {error}") from None
    if not isinstance(memory, dict):
        raise ConfigError("credit.memory", f"{path}: a memory is a JSON object, got {type(memory).__name__}")
    return cast("dict[str, Any]", memory)


def _in_order(episodes: Sequence[Episode], results: Sequence[CreditResult]) -> list[Mapping[str, Any]]:
    """Return the records in the order in which the episodes came, whatever their batches."""
    by_batch = sorted(range(len(episodes)), key=lambda i: episodes[i].batch)
    records = chain.from_iterable(result.records() for result in results)
    return [record for _, record in sorted(zip(by_batch, records, strict=True), key=lambda pair: pair[0])]


def _write(path: str, lines: Iterator[str] | Sequence[str]) -> None:
    if path == "-":
        for line in lines:
            click.echo(line)
        return
    from agentrl.store.files import replacing

    with replacing(Path(path)) as draft, draft.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def _save(url: str, run_id: str, pipeline: Pipeline, results: Sequence[CreditResult]) -> str:
    from agentrl.store.db import Store
    from agentrl.store.entries import EpisodeCredit

    credits = [
        EpisodeCredit(
            record["episode_id"],
            tuple(turn["advantage"] for turn in record["turns"]),
            tuple(turn["terms"] for turn in record["turns"]),
            {name: tuple(values) for name, values in record["channels"].items()},
        )
        for result in results
        for record in result.records()
    ]
    with Store.open(url, create=False) as store:
        return store.add_credit_run(run_id, pipeline.spec, credits)


def _compare(results: Sequence[CreditResult], other: str, url: str) -> Comparison:
    from agentrl.credit.compare import compare

    mine = {
        episode.episode_id: advantages
        for result in results
        for episode, advantages in zip(result.episodes, result.advantages(), strict=True)
    }
    return compare(mine, _credit_file(other) if Path(other).is_file() else _credit_run(other, url))


def _credit_run(credit_run_id: str, url: str) -> dict[str, Sequence[float | None]]:
    from agentrl.store.db import Store

    with Store.open(url, create=False) as store:
        return {credit.episode_id: credit.advantages for credit in store.credit(credit_run_id)}


def _credit_file(path: str) -> dict[str, Sequence[float | None]]:
    credits: dict[str, Sequence[float | None]] = {}
    try:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            credits[record["episode_id"]] = [turn["advantage"] for turn in record["turns"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "credit.diff",
            f"{path} is no file that `agentrl credit --out` wrote: {type(error).__name__}: {error}",
        ) from None
    return credits


def _print(
    summary: Mapping[str, Any], results: Sequence[CreditResult], comparison: Comparison | None
) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"credited {summary['turns']:,} turns of {summary['episodes']:,} episodes "
        f"in {len(results)} batches; {summary['dropped_episodes']} failed episodes left out"
    )
    table = Table(title="advantage by term")
    for column in ("term", "mean |A|", "max |A|", "turns moved"):
        table.add_column(column, justify="left" if column == "term" else "right")
    names = list(results[0].terms) if results else []
    columns = {name: np.concatenate([r.terms[name][r.credited_N] for r in results]) for name in names}
    columns["total"] = np.concatenate([r.advantage_N[r.credited_N] for r in results] or [np.zeros(0)])
    for name, values in columns.items():
        if len(values):
            size = np.abs(values)
            table.add_row(name, f"{size.mean():.4f}", f"{size.max():.4f}", f"{np.mean(size > 0):.1%}")
    console.print(table)
    for key in ("out", "memory_out", "credit_run_id"):
        if key in summary:
            console.print(f"{key.replace('_', ' ')}: {summary[key]}")
    if comparison is not None:
        correlation = "undefined" if comparison.correlation is None else f"{comparison.correlation:.4f}"
        console.print(
            f"against the other credit: {comparison.turns:,} turns in both, {comparison.equal:,} equal, "
            f"{comparison.sign_changes:,} change sign, max |dA| {comparison.max_abs_difference:.4g}, "
            f"correlation {correlation}; "
            f"only here {comparison.only_first:,}, only there {comparison.only_second:,}"
        )
