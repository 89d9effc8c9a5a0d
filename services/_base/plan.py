"""From a command line to the services to run: names, settings, ports, and whether that is safe."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from agentrl import registry
from agentrl.config import parse_settings
from agentrl.errors import ConfigError
from services._base.guard import tokens_from_environment
from services._base.workers import ServicePlan

__all__ = ["plan_services"]


def plan_services(
    names: Sequence[str],
    given: Mapping[str, Any],
    *,
    host: str,
    port: int,
    workers: int,
    without_token: bool,
    json_logs: bool,
) -> list[ServicePlan]:
    """Return what to run: the first service on `port`, the others on the next ones (0: any free ones).

    Args:
        given: settings by service name; where there is one service, its settings themselves.

    Raises:
        UnknownPlugin: no such service. ConfigError: a setting is wrong, or other machines could reach a
            service that asks for no token. All are the user's.
    """
    apps = {name: registry.load("service", name) for name in names}
    if not _is_loopback(host) and not tokens_from_environment() and not without_token:
        raise ConfigError(
            "serve.no_token",
            f"{host} can be reached from other machines: set AGENTRL_TOKEN to a secret, or say --no-token",
        )
    settings = _settings(apps, given)
    return [
        ServicePlan(name, settings[name], host, port + place if port else 0, workers, json_logs)
        for place, name in enumerate(apps)
    ]


def _settings(apps: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return each service's settings, validated by the model that its `create_app` takes."""
    if len(apps) == 1:
        (name,) = apps
        given = {name: {**{key: value for key, value in given.items() if key != name}, **given.get(name, {})}}
    strangers = sorted(set(given) - set(apps))
    if strangers:
        raise ConfigError(
            "serve.setting",
            f"{strangers[0]!r} is no service that is being served: write SERVICE.key=value, with one of "
            f"{', '.join(apps)}",
        )
    out: dict[str, Any] = {}
    for name, create_app in apps.items():
        annotation = get_type_hints(create_app)["settings"]
        alternatives = (*getattr(annotation, "__args__", ()), annotation)
        model = next(part for part in alternatives if hasattr(part, "model_fields"))
        out[name] = parse_settings(model, given.get(name, {}), where=f"settings of {name}")
    return out


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
