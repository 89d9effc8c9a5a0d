"""`agentrl doctor`: what this machine can run, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from agentrl import __version__, bundle, registry
from agentrl.errors import AgentRLError

__all__ = ["command"]

MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `state` is ok, missing (an optional part) or broken (the platform cannot work)."""

    name: str
    state: str
    seen: str


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON.")
def command(as_json: bool) -> None:
    """Say what this machine can run; exit 1 when something that is needed is broken."""
    findings = [
        Finding("agentrl", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        _cores(),
        _disk(),
        _package("torch", "pip install 'agentrl[train]'"),
        _package("transformers", "pip install 'agentrl[train]'"),
        _device(),
        _package("psycopg", "pip install 'agentrl[postgres]' (only for a PostgreSQL store)"),
        _package("pyarrow", "pip install 'agentrl[parquet]' (only for parquet files)"),
        *(_plugins(kind) for kind in ("env", "tool", "credit.preset", "loss")),
        _base_model(),
        _alfworld_data(),
    ]
    broken = any(finding.state == "broken" for finding in findings)
    if as_json:
        rows = [{"name": f.name, "state": f.state, "seen": f.seen} for f in findings]
        click.echo(json.dumps({"ok": not broken, "findings": rows}))
    else:
        colours = {"ok": "green", "missing": "yellow", "broken": "red"}
        for finding in findings:
            click.echo(
                f"{click.style(finding.state.ljust(8), fg=colours[finding.state])}"
                f"{finding.name.ljust(16)}{finding.seen}"
            )
    sys.exit(1 if broken else 0)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cores", "ok", f"{cores} usable")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    state = "ok" if free > MIN_FREE_BYTES else "broken"
    return Finding("disk", state, f"{free / (1 << 30):.1f} GiB free here (a run needs about 1)")


def _package(name: str, remedy: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, "missing", remedy)
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "ok", "version unknown")


def _device() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", "missing", "needs torch")
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", "missing", "no CUDA device: the embedded engine uses the CPU")
    return Finding("gpu", "ok", torch.cuda.get_device_name(0))


def _plugins(kind: str) -> Finding:
    broken: list[str] = []
    found = registry.names(kind)
    for name in found:
        try:
            registry.load(kind, name)
        except AgentRLError as error:
            broken.append(str(error))
    return Finding(kind, "broken" if broken else "ok", "; ".join(broken) or ", ".join(found))


def _base_model() -> Finding:
    folder = bundle.find("models/base")
    if not (folder / "model.safetensors").exists():
        return Finding("base model", "missing", "make base  (or reinstall agentrl)")
    return Finding("base model", "ok", str(folder))


def _alfworld_data() -> Finding:
    root = os.environ.get("ALFWORLD_DATA")
    if root is None:
        return Finding("ALFWORLD_DATA", "missing", "not set: games are generated")
    if not (Path(root) / "json_2.1.1").is_dir():
        return Finding("ALFWORLD_DATA", "missing", f"{root} has no json_2.1.1 folder")
    return Finding("ALFWORLD_DATA", "ok", root)
