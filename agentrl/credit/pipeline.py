"""Credit assignment: select -> rewards -> estimators -> shapers, for each channel, then their sum.

No stage sees a model, and nothing here knows a method by name. Loss terms pass through to the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from agentrl import registry
from agentrl.credit.batch import Batch
from agentrl.credit.options import check_options
from agentrl.credit.result import ChannelCredit, CreditResult
from agentrl.credit.segments import BoolArray, FloatArray, group_sums
from agentrl.credit.spec import Channel, LossTerm, Stage, parse_spec, to_spec, to_toml
from agentrl.credit.stages import Estimate, Memory, Scores, Selection, Shaped, Spec
from agentrl.credit.traits import check_needs, traits_of
from agentrl.errors import ConfigError
from agentrl.types import Episode

__all__ = ["Pipeline", "build"]


def build(config: Mapping[str, Any], *, loss_terms: Sequence[Mapping[str, Any]] = ()) -> Pipeline:
    """Return the pipeline of a `[credit]` table (and of the config's `[[loss.term]]` tables).

    Either `preset = "gigpo"` with that preset's options, or the pipeline spelled out as `channel` tables.

    Raises:
        ConfigError: a key or option that does not exist, is missing or has a wrong type.
        UnknownPlugin: an id that names no method; the message lists those that exist.
    """
    if "preset" in config:
        preset_id = config["preset"]
        if not isinstance(preset_id, str):
            raise ConfigError("config.invalid", f"[credit]: preset is a name in quotes, got {preset_id!r}")
        preset = registry.load("credit.preset", preset_id)
        options = {name: value for name, value in config.items() if name != "preset" and value is not None}
        spec: Spec = preset(**check_options(preset, options, where=f'[credit] preset = "{preset_id}"'))
    elif "channel" in config:
        spec = config
    else:
        raise ConfigError(
            "config.invalid",
            '[credit] needs preset = "..." or the pipeline spelled out as [[credit.channel]]; '
            f"the presets are {', '.join(registry.names('credit.preset'))}",
        )
    return Pipeline(*parse_spec({**spec, "loss_term": [*spec.get("loss_term", ()), *loss_terms]}))


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A checked pipeline: a pure function of the episodes and the memory."""

    select: tuple[Stage, ...]
    channels: tuple[Channel, ...]
    loss_terms: tuple[LossTerm, ...] = ()

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """What the methods need from every episode, {method: (key, ...)}; empty ones left out."""
        stages = chain(self.select, *((*c.rewards, *c.estimators, *c.shapers) for c in self.channels))
        needs = {stage.id: traits_of(stage.function).needs for stage in stages}
        return {method: keys for method, keys in needs.items() if keys}

    @property
    def spec(self) -> dict[str, Any]:
        """The pipeline spelled out, every default included; `build` reads it back."""
        return to_spec(self.select, self.channels, self.loss_terms)

    def explain(self) -> str:
        """Return the spelled-out pipeline as TOML; a config holding it gives the same numbers."""
        return to_toml(self.spec)

    def run(self, episodes: Sequence[Episode], memory: Memory | None = None) -> CreditResult:
        """Credit one batch of episodes.

        An episode that failed (`error`) is not credited and its group is credited as if it had never been
        played. `memory` is what the previous batch's result holds; it is not changed.
        """
        return self.run_batch(Batch(tuple(episodes)), memory)

    def run_batch(self, everything: Batch, memory: Memory | None = None) -> CreditResult:
        """Credit one batch whose columns may have been read already; as `run`."""
        keep_E = np.array([episode.error is None for episode in everything.episodes], dtype=np.bool_)
        run = _Run(memory or {}, failed=int(np.count_nonzero(~keep_E)))
        batch = everything if keep_E.all() else everything.take(keep_E)
        for method, keys in self.needs.items():
            check_needs(method, keys, batch.episodes)
        for stage in self.select:
            kept_E = run.select(stage, batch)
            keep_E[np.flatnonzero(keep_E)[~kept_E]] = False
            batch = batch.take(kept_E)

        several = len(self.channels) > 1
        shaped_C = [run.channel(c, batch, f"{c.name}/" if several else "") for c in self.channels]
        terms: dict[str, FloatArray] = {}
        for channel, shaped in zip(self.channels, shaped_C, strict=True):
            for name, term_N in shaped.terms.items():
                qualified = f"{channel.name}/{name}" if several else name
                terms[qualified] = term_N if channel.weight == 1.0 else channel.weight * term_N
        advantage_N = sum(terms.values(), np.zeros(batch.size_N))
        credited_N = np.logical_or.reduce([shaped.credited_N for shaped in shaped_C])
        run.describe(batch, advantage_N, credited_N)

        place = _Placement(everything, keep_E)
        return CreditResult(
            episodes=everything.episodes,
            offsets_E1=everything.offsets_E1,
            advantage_N=place(advantage_N),
            credited_N=place(credited_N),
            terms={name: place(term_N) for name, term_N in terms.items()},
            channels=tuple(
                ChannelCredit(
                    channel.name,
                    channel.weight,
                    place(shaped.total_N()),
                    place(shaped.credited_N),
                    None if shaped.token_T is None else place.tokens(shaped.token_T),
                )
                for channel, shaped in zip(self.channels, shaped_C, strict=True)
            ),
            memory=run.memory,
            metrics={f"credit/{name}": value for name, value in run.metrics.items()},
            token_offsets_N1=None
            if all(shaped.token_T is None for shaped in shaped_C)
            else everything.token_offsets_N1,
        )

    def run_batches(self, episodes: Sequence[Episode], memory: Memory | None = None) -> list[CreditResult]:
        """Credit each batch (`Episode.batch`) by itself, in order, memory carried from one to the next."""
        batches: dict[int, list[Episode]] = {}
        for episode in episodes:
            batches.setdefault(episode.batch, []).append(episode)
        results: list[CreditResult] = []
        for _, batch in sorted(batches.items()):
            results.append(self.run(batch, results[-1].memory if results else memory))
        return results


class _Run:
    """Calls the methods of one run and collects the memory and the metrics that they return."""

    def __init__(self, memory: Memory, failed: int) -> None:
        self.memory: dict[str, Any] = dict(memory)
        self.metrics: dict[str, float] = {"dropped_episodes": float(failed)}

    def select(self, stage: Stage, batch: Batch) -> BoolArray:
        if not len(batch):
            return np.zeros(0, dtype=np.bool_)
        return self._call(stage, "", batch).keep_E

    def channel(self, channel: Channel, batch: Batch, prefix: str) -> Shaped:
        credited_N = np.ones(batch.size_N, dtype=np.bool_)
        if not batch.size_N:
            return Shaped({stage.name: np.zeros(0) for stage in channel.estimators}, credited_N)
        scores = {stage.name: (stage.weight, self._call(stage, prefix, batch)) for stage in channel.rewards}
        terms: dict[str, FloatArray] = {}
        token_T: FloatArray | None = None
        for stage in channel.estimators:
            read = Scores.total(batch, [scores[name] for name in stage.of or scores])
            estimate: Estimate = self._call(stage, prefix, read, batch)
            terms[stage.name] = estimate.turn_N if stage.weight == 1.0 else stage.weight * estimate.turn_N
            if estimate.token_T is not None:
                weighted_T = stage.weight * estimate.token_T
                token_T = weighted_T if token_T is None else token_T + weighted_T
        everything = Scores.total(batch, list(scores.values()))
        shaped = Shaped(terms, credited_N, token_T)
        for stage in channel.shapers:
            shaped = self._call(stage, prefix, shaped, everything, batch)
        if shaped.credited_N.all():
            return shaped
        silent = {name: np.where(shaped.credited_N, term_N, 0.0) for name, term_N in shaped.terms.items()}
        return replace(shaped, terms=silent)

    def describe(self, batch: Batch, advantage_N: FloatArray, credited_N: BoolArray) -> None:
        """Add what every method's users ask first: what was credited, and was there any signal."""
        self.metrics |= {
            "episodes": float(len(batch)),
            "turns": float(np.count_nonzero(credited_N)),
        }
        if not batch.size_N:
            return
        groups = int(batch.group_E.max()) + 1
        size_G = np.bincount(batch.group_E, minlength=groups)
        moved_G = group_sums(batch.group_N, advantage_N != 0, groups) > 0
        credited = advantage_N[credited_N]
        self.metrics |= {
            "groups": float(groups),
            "zero_advantage_group_share": float(np.mean(~moved_G)),
            "advantage/mean": float(credited.mean()) if len(credited) else 0.0,
            "advantage/std": float(credited.std()) if len(credited) else 0.0,
            "advantage/max_abs": float(np.abs(credited).max()) if len(credited) else 0.0,
        }
        for size, number in zip(*np.unique(size_G, return_counts=True), strict=True):
            self.metrics[f"group_size/{size}"] = float(number)

    def _call(self, stage: Stage, prefix: str, *given: Any) -> Any:
        name = prefix + stage.name
        options = dict(stage.options)
        if stage.stateful:
            options["memory"] = self.memory.get(name, {})
        result: Selection | Scores | Estimate | Shaped = stage.function(*given, **options)
        if result.memory is not None:
            self.memory[name] = result.memory
        self.metrics |= {f"{name}/{metric}": value for metric, value in result.metrics.items()}
        return result


class _Placement:
    """Puts columns of the credited episodes back among all that were given."""

    def __init__(self, everything: Batch, keep_E: BoolArray) -> None:
        self.everything = everything
        self.keep_N: BoolArray | None = None if keep_E.all() else keep_E[everything.episode_N]

    def __call__(self, column_N: Any) -> Any:
        return self._place(column_N, self.keep_N)

    def tokens(self, column_T: FloatArray) -> FloatArray:
        keep_N = self.keep_N
        return self._place(column_T, None if keep_N is None else np.repeat(keep_N, self.everything.tokens_N))

    def _place(self, column: Any, keep: BoolArray | None) -> Any:
        if keep is None:
            return column
        placed = np.zeros(len(keep), dtype=column.dtype)
        placed[keep] = column
        return placed
