"""Find a plug-in: (kind, id) -> the one object that a file exports.

The rule for every kind: the file's name is the id, and its `__all__` names exactly one object. There is
no list to edit. Third parties use `"their_pkg.module:Thing"` as the id, or an entry point in the group
`agentrl.<kind>`.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Any

from agentrl.errors import ConfigError, UnknownPlugin

__all__ = ["KINDS", "load", "names"]

KINDS = {
    "env": "envs",
    "tool": "tools",
    "sandbox": "sandboxes",
    "service": "services",
    "loss": "agentrl.loss.policies",
    "credit.select": "agentrl.credit.select",
    "credit.reward": "agentrl.credit.rewards",
    "credit.estimator": "agentrl.credit.estimators",
    "credit.shaper": "agentrl.credit.shapers",
    "credit.preset": "agentrl.credit.presets",
}
"""Kind of plug-in -> the package whose files are its ids."""


def names(kind: str) -> list[str]:
    """Return every id of a kind, sorted: our files and installed entry points."""
    package_name = _package(kind)
    found = {point.name for point in entry_points(group=f"agentrl.{kind}")}
    try:
        package = importlib.import_module(package_name)
    except ModuleNotFoundError as error:
        if error.name != package_name:
            raise
        return sorted(found)
    found |= {info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")}
    return sorted(found)


def load(kind: str, plugin_id: str) -> Any:
    """Return the object that the plug-in exports.

    Raises:
        UnknownPlugin: no such id (the user's typo: the message lists what exists), or the file exists
            and its own import failed (the plug-in author's: the message says what could not be imported).
    """
    if ":" in plugin_id:
        module_name, _, attribute = plugin_id.partition(":")
        if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
            raise UnknownPlugin(
                "plugin.unknown",
                f"{kind} {plugin_id!r}: a third party's id is written 'package.module:Name'",
                {"kind": kind, "id": plugin_id},
            )
        return _attribute(kind, module_name, attribute)
    for point in entry_points(group=f"agentrl.{kind}", name=plugin_id):
        return _attribute(kind, point.module, point.attr)
    if not plugin_id.isidentifier() or plugin_id.startswith("_") or plugin_id not in names(kind):
        existing = names(kind)
        raise UnknownPlugin(
            "plugin.unknown",
            f"there is no {kind} {plugin_id!r}; those that exist: {', '.join(existing) or 'none'} "
            "(a third party's is written 'package.module:Name')",
            {"kind": kind, "id": plugin_id, "existing": existing},
        )
    module_name = f"{_package(kind)}.{plugin_id}"
    module = _import(kind, module_name)
    exported: list[str] = list(getattr(module, "__all__", []))
    if len(exported) != 1:
        raise UnknownPlugin(
            "plugin.exports",
            f"{module_name} must export exactly one object in __all__, it exports {exported}",
            {"kind": kind, "id": plugin_id, "exported": exported},
        )
    return _attribute(kind, module_name, exported[0])


def _package(kind: str) -> str:
    if kind not in KINDS:
        raise ConfigError(
            "plugin.kind", f"there is no plug-in kind {kind!r}; the kinds are {', '.join(KINDS)}"
        )
    return KINDS[kind]


def _attribute(kind: str, module_name: str, attribute: str) -> Any:
    module = _import(kind, module_name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UnknownPlugin(
            "plugin.unknown",
            f"{kind} plug-in {module_name}:{attribute}: the module has no {attribute!r}",
            {"kind": kind, "id": f"{module_name}:{attribute}"},
        ) from None


def _import(kind: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # a plug-in's module may do anything when it is imported
        absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        cause = error if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        problem = "there is no such module" if absent else f"its own import failed: {cause}"
        raise UnknownPlugin(
            "plugin.import",
            f"cannot load {kind} plug-in {module_name}: {problem}",
            {"kind": kind, "module": module_name},
        ) from error
