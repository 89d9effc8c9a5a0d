"""Prometheus metrics of a service, summed over its workers."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["Metrics"]

STEP_BUCKETS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60)


class Metrics:
    """The counters of one worker. Where PROMETHEUS_MULTIPROC_DIR is set, `text` shows all workers' sum."""

    def __init__(self, service: str) -> None:
        self._registry = CollectorRegistry()
        labels = {"service": service}

        def gauge(name: str, says: str) -> Gauge:
            made = Gauge(name, says, list(labels), registry=self._registry, multiprocess_mode="livesum")
            return made.labels(**labels)

        def counter(name: str, says: str) -> Counter:
            return Counter(name, says, list(labels), registry=self._registry).labels(**labels)

        self.sessions = gauge("agentrl_sessions", "Live sessions")
        self.waiting = gauge("agentrl_waiting", "Callers waiting for a session")
        self.opened = counter("agentrl_sessions_opened_total", "Sessions begun")
        self.refused = counter("agentrl_sessions_refused_total", "Callers refused a session")
        self.resets = counter("agentrl_resets_total", "Episodes begun")
        self.steps = counter("agentrl_steps_total", "Steps taken")
        self.ended = Counter(
            "agentrl_sessions_ended_total", "Sessions ended, by reason", ["reason"], registry=self._registry
        )
        self.errors = Counter(
            "agentrl_errors_total", "Requests answered with an error", ["code"], registry=self._registry
        )
        self.seconds = Histogram(
            "agentrl_step_seconds",
            "Time from a step's arrival to its answer",
            list(labels),
            registry=self._registry,
            buckets=STEP_BUCKETS_S,
        ).labels(**labels)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)
        return generate_latest(everyone)
