"""Typed configs: sparse TOML plus `section.key=value` overrides -> one frozen, hashed `Config`.

Defaults are the vetted setting, so a file says only what differs. Tables that belong to a plug-in
(`[env]` beyond its id, `[credit]`) are kept as they are and validated by that plug-in.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from agentrl import bundle
from agentrl.errors import ConfigError

__all__ = ["OPERATIONAL", "Config", "load_config", "parse_overrides", "parse_settings", "run_config"]

Model = TypeVar("Model", bound=BaseModel)


OPERATIONAL = (
    "run.name",
    "run.dir",
    "env.url",
    "store.url",
    "policy.slots",
    "policy.threads",
    "rollout.concurrency",
    "train.steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
)
"""Keys that change no episode and no update; a resumed run may differ in these alone."""


class Section(BaseModel):
    """One table of the file; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSection(Section):
    """Who this run is and where it writes."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0)
    dir: Path = Path("runs")


class EnvSection(BaseModel):
    """The environment's id; every other key is a setting of that environment.

    With `url` it plays in the service there, which must be set alike; the episodes are the same.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    id: str
    url: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that belong to the plug-in."""
        return dict(self.model_extra or {})


class PolicySection(Section):
    """Which weights play, and on what."""

    checkpoint: Path = Path("models/base")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    slots: PositiveInt = 64
    max_context_tokens: PositiveInt = 2048
    threads: PositiveInt | None = None


class RolloutSection(Section):
    """How episodes are played."""

    tasks_per_batch: PositiveInt = 8
    group_size: PositiveInt = 8
    max_turns: PositiveInt = 50
    max_reply_tokens: PositiveInt = 32
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    episode_timeout_s: PositiveFloat = 600.0
    step_timeout_s: PositiveFloat = 60.0
    concurrency: PositiveInt = 64


class LossSection(Section):
    """The policy loss and what is added to it. `options` go to the named loss."""

    name: str = "ppo"
    options: dict[str, Any] = Field(default_factory=dict)
    aggregation: Literal[
        "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "turn-mean"
    ] = "token-mean"
    kl_kind: Literal["k1", "abs", "k2", "k3"] = "k3"
    kl_coef: float = Field(default=0.0, ge=0)
    entropy_coef: float = 0.0


class TrainSection(Section):
    """The reinforcement-learning loop."""

    steps: int = Field(default=0, ge=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: PositiveFloat = 1e-4
    lr_schedule: Literal["constant", "linear"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: PositiveFloat = 1.0
    epochs: PositiveInt = 1
    minibatches: PositiveInt = 1
    microbatch_tokens: PositiveInt = 8192
    autocast: bool = True
    old_logprobs: Literal["sampler", "recompute"] = "sampler"
    checkpoint_every: PositiveInt = 5
    keep_checkpoints: PositiveInt = 2


class EvalSection(Section):
    """How held-out tasks are played; the same before and after training."""

    split: str = "valid_unseen"
    tasks: PositiveInt = 200
    samples: PositiveInt = 1
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=1234, ge=0)


class ModelSection(Section):
    """Shape of a new model (the base recipe); ignored when a checkpoint is given."""

    hidden: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    kv_heads: PositiveInt = 2
    head_dim: PositiveInt = 32
    ffn: PositiveInt = 384
    max_position: PositiveInt = 4096
    rope_theta: PositiveFloat = 1_000_000.0
    vocab_size: PositiveInt = 1024


class CloneSection(Section):
    """Behaviour cloning from the environment's scripted expert: of a new model, or on from `start`.

    A share `slip_rate` of the expert's moves are mistakes, so that it shows how to recover from one. The loss
    is on the expert's other moves, on the mistakes with `slip_weight` (a learner of both plays as badly as
    what it saw, and has something to unlearn), and on what the environment says with `observation_weight`.
    """

    start: Path | None = None
    episodes: PositiveInt
    tokenizer_episodes: PositiveInt = 2000
    slip_rate: float = Field(default=0.1, ge=0, lt=1)
    token_budget: PositiveInt = 20_000_000
    batch_tokens: PositiveInt = 4096
    lr: PositiveFloat = 0.02
    adamw_lr: PositiveFloat = 3e-3
    observation_weight: float = Field(default=0.03, ge=0)
    slip_weight: float = Field(default=0.0, ge=0)
    copy_warmup_steps: int = Field(default=20, ge=0)
    workers: PositiveInt = 2
    out: Path = Path("models/base")


class StoreSection(Section):
    """Where trajectories go (default: `<run.dir>/agentrl.db`)."""

    url: str | None = None


class Config(Section):
    """Everything that a run depends on."""

    run: RunSection = RunSection()
    env: EnvSection
    policy: PolicySection = PolicySection()
    rollout: RolloutSection = RolloutSection()
    credit: dict[str, Any] = Field(default_factory=lambda: {"preset": "gigpo"})
    loss: LossSection = LossSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
    model: ModelSection = ModelSection()
    clone: CloneSection | None = None
    store: StoreSection = StoreSection()

    @property
    def store_url(self) -> str:
        """URL of the trajectory store."""
        return self.store.url or f"sqlite:///{self.run.dir / 'agentrl.db'}"

    def to_json(self) -> dict[str, Any]:
        """Return the resolved config as plain JSON."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """Digest (16 hex digits) of everything that can change an episode.

        Where a run writes, how long it goes on and how many workers it uses are left out.
        """
        resolved = self.to_json()
        for key in OPERATIONAL:
            section, _, name = key.partition(".")
            del resolved[section][name]
        canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file (a shipped one is found by its name), apply overrides, validate.

    Raises:
        ConfigError: the user's mistake, naming the file, the key, what was got and what was expected.
    """
    file = Path(path)
    try:
        file = bundle.find(path)
        with file.open("rb") as stream:
            data = tomllib.load(stream)
    except FileNotFoundError:
        raise ConfigError("config.not_found", f"there is no config file {str(path)!r}") from None
    except OSError as error:
        raise ConfigError("config.unreadable", f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config.syntax", f"{file} is not valid TOML: {error}") from None
    parse_overrides(overrides, data)
    return parse_settings(Config, data, where=str(file))


def run_config(runs_dir: Path, run_id: str, overrides: Sequence[str] = ()) -> Config:
    """Return the resolved config of a run, with overrides; it writes where it was found.

    Raises:
        ConfigError: there is no such run, its config cannot be read, or an override is wrong.
    """
    file = runs_dir / run_id / "config.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        data["run"]["dir"] = str(runs_dir)
    except FileNotFoundError:
        known = sorted(path.parent.name for path in runs_dir.glob("*/config.json"))
        raise ConfigError(
            "run.unknown", f"there is no run {run_id!r} in {runs_dir}; runs: {', '.join(known) or 'none'}"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError("run.unreadable", f"cannot read {file}: {error}") from None
    return parse_settings(Config, parse_overrides(overrides, data), where=str(file))


def parse_overrides(overrides: Sequence[str], into: dict[str, Any] | None = None) -> dict[str, Any]:
    """Apply `section.key=value` overrides (values in TOML; a bare word is a string) and return the table.

    Raises:
        ConfigError: an override is not of that form (the user's mistake).
    """
    data = {} if into is None else into
    for override in overrides:
        _apply(data, override)
    return data


def parse_settings(model: type[Model], data: Mapping[str, Any], *, where: str) -> Model:
    """Validate a table against its model; every problem in one readable line each."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = "; ".join(_problem(model, item) for item in error.errors())
        raise ConfigError("config.invalid", f"{where}: {problems}", {"where": where}) from None


def _problem(model: type[BaseModel], item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(file)"
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}; known: {', '.join(_known(model, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"missing key {key}"
    return f"{key}: {item['msg'][:1].lower()}{item['msg'][1:]}, got {item['input']!r}"


def _known(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        options = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return sorted(model.model_fields)


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError("config.override", f"an override is written section.key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = data
    for part in parts[:-1]:
        inner: Any = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError("config.override", f"{override!r}: {part} is a value, not a section")
        table = cast("dict[str, Any]", inner)
    table[parts[-1]] = value
