"""`agentrl check`: run the conformance suite on a plug-in."""

from __future__ import annotations

import asyncio
import json
import sys

import click

from agentrl import registry
from agentrl.check import Finding, check_env, check_tool
from agentrl.config import parse_overrides, parse_settings
from agentrl.errors import ConfigError

__all__ = ["command"]


@click.group("check")
def command() -> None:
    """Check that an environment or tool keeps its protocol; exit 1 when it does not."""


@command.command("env")
@click.argument("env_id", metavar="ID")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--split", "splits", multiple=True, default=("train", "valid_unseen"), show_default=True)
@click.option("--tasks", "tasks", type=click.IntRange(1, 1000), default=3, help="Tasks per split.")
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON.")
def env(env_id: str, settings: tuple[str, ...], splits: tuple[str, ...], tasks: int, as_json: bool) -> None:
    """Check the environment ID with its default settings or those given."""
    plugin = registry.load("env", env_id)
    if not hasattr(plugin, "Settings"):
        raise ConfigError(
            "check.not_an_env", f"env {env_id!r} is a {type(plugin).__name__}, not an environment class"
        )
    parsed = parse_settings(plugin.Settings, parse_overrides(settings), where=f"settings of {env_id}")
    _finish(asyncio.run(check_env(lambda: plugin(parsed), splits, tasks)), as_json)


@command.command("tool")
@click.argument("tool_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON.")
def tool(tool_id: str, as_json: bool) -> None:
    """Check the tool ID."""
    _finish(asyncio.run(check_tool(registry.load("tool", tool_id))), as_json)


def _finish(findings: list[Finding], as_json: bool) -> None:
    failed = [finding for finding in findings if not finding.passed]
    if as_json:
        rows = [{"name": f.name, "passed": f.passed, "seen": f.seen} for f in findings]
        click.echo(json.dumps({"passed": not failed, "findings": rows}))
    else:
        for finding in findings:
            mark = click.style("ok  ", fg="green") if finding.passed else click.style("FAIL", fg="red")
            click.echo(f"{mark} {finding.name}" + (f"\n     {finding.seen}" if not finding.passed else ""))
        click.echo(f"{len(findings) - len(failed)} of {len(findings)} checks passed")
    sys.exit(1 if failed else 0)
