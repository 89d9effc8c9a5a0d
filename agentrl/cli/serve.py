"""`agentrl serve`: run services, each on a port of its own."""

from __future__ import annotations

import importlib
from typing import Any

import click

from agentrl import registry
from agentrl.config import parse_overrides
from agentrl.errors import ConfigError

__all__ = ["command"]


@click.command("serve")
@click.argument("names", nargs=-1, required=True, metavar="NAME... [KEY=VALUE]...")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Of the first service; the others have the next ones. 0: any free ones.",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes of each."
)
@click.option("--no-token", is_flag=True, help="Serve other machines without a token.")
@click.option("--json-logs/--text-logs", default=True, show_default=True)
def command(
    names: tuple[str, ...], host: str, port: int, workers: int, no_token: bool, json_logs: bool
) -> None:
    """Run the services NAME (or `all`) until Ctrl-C or SIGTERM.

    Settings follow the names: `agentrl serve alfworld env.size=small idle_timeout_s=60`; with several
    services, `alfworld.env.size=small`. Clients send the token of the environment variable AGENTRL_TOKEN
    (several, separated by commas: clients that cannot touch each other's sessions).
    """
    wanted = [name for name in names if "=" not in name]
    existing = registry.names("service")
    if not wanted:
        raise ConfigError("serve.nothing", f"which service? those that exist: {', '.join(existing)}")
    try:
        # The library imports none of its siblings: they are found, as every plug-in is.
        planning = importlib.import_module("services._base.plan")
        running = importlib.import_module("services._base.workers")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("services", "agentrl"):
            raise
        raise ConfigError(
            "serve.not_installed", f"services need {error.name}: pip install 'agentrl[serve]'"
        ) from error
    plans = planning.plan_services(
        existing if wanted == ["all"] else wanted,
        parse_overrides([name for name in names if "=" in name]),
        host=host,
        port=port,
        workers=workers,
        without_token=no_token,
        json_logs=json_logs,
    )
    importlib.import_module("services._base.logs").configure_logs(json_logs)
    running.serve(plans, ready=_say)


def _say(plan: Any, port: int) -> None:
    where = f"http://[{plan.host}]:{port}" if ":" in plan.host else f"http://{plan.host}:{port}"
    click.echo(f"{plan.name}: {where} (workers: {plan.workers}; play it: {where}/play)")
