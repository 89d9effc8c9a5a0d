"""The `agentrl` command: one file per sub-command, imported only when that one runs."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from typing import NoReturn

import click

from agentrl import __version__, bundle
from agentrl.errors import AgentRLError, ConfigError

__all__ = ["main"]

SUMMARIES = {
    "bench": "Measure speed: credit, services, store, rollout, train.",
    "check": "Check that an environment or tool keeps its protocol.",
    "credit": "Recompute credit on stored episodes; no model needed.",
    "doctor": "Say what this machine can run and what is missing.",
    "eval": "Play held-out tasks; success with intervals and pass@k.",
    "export": "Write a run's episodes to JSONL or parquet.",
    "games": "Write generated ALFWorld games in the real data layout.",
    "import": "Read episodes from JSONL or parquet into the store.",
    "rollout": "Play and store episodes without updating the policy.",
    "serve": "Serve environments and tools over HTTP and WebSocket.",
    "runs": "List the runs in a store.",
    "train": "Train a policy as a config says; --resume continues.",
}
"""Help lines, kept here so that `agentrl --help` imports no sub-command."""


class LazyGroup(click.Group):
    """Sub-commands are the files of this package; a file's name (without a trailing _) is the command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        files = (info.name.rstrip("_") for info in pkgutil.iter_modules(__path__))
        return sorted(name for name in files if name in SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        try:
            module = importlib.import_module(f"{__name__}.{cmd_name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{cmd_name}":
                raise
            module = importlib.import_module(f"{__name__}.{cmd_name}_")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentrl")
def agentrl() -> None:
    """Train language-model agents that use tools over many turns."""


def main() -> None:
    """Run the command line: exit 0 ok, 1 a check failed, 2 bad input with one clear line."""
    # Two OpenMP threads that spin while they wait are up to ten times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    bundle.activate()
    try:
        status = agentrl(prog_name="agentrl", standalone_mode=False)
    except AgentRLError as error:
        _refuse(error)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "agentrl"
        _refuse(ConfigError("cli.usage", f"{error.format_message()} (see {where} --help)"))
    except click.Abort:
        click.echo("agentrl: stopped", err=True)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(error: AgentRLError) -> NoReturn:
    """Say in one line what was wrong with the input, and as JSON where that was asked for."""
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": error.to_json()}, default=str))
    click.echo(f"agentrl: {' '.join(str(error).split())}", err=True)
    sys.exit(2)
