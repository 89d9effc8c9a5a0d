"""The embedded engine as a `Policy`: an asyncio front, one compute thread behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from agentrl.errors import ConfigError, PolicyError
from agentrl.policy.base import Completion, SampleRequest, SamplingParams
from agentrl.policy.local.engine import Engine
from agentrl.policy.local.jobs import Job, SampleJob, ScoreJob
from agentrl.policy.local.weights import Weights, read_checkpoint, read_module

__all__ = ["LocalPolicy"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LocalPolicy:
    """Play with a Qwen3 model in this process, on the CPU or a GPU.

    Up to `slots` sessions keep their keys and values from turn to turn; further ones wait, or take the slot
    of the session that has idled longest (which is then computed again at its next turn, to the same bits).
    Requests join and leave between any two tokens. Weights are copied: training goes on undisturbed, and
    `refresh` takes the new ones.
    """

    def __init__(
        self,
        model: torch.nn.Module | str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 64,
        max_context_tokens: int = 2048,
        version: int = 0,
    ) -> None:
        """Load a checkpoint folder, or follow a live Hugging Face module.

        Args:
            device: "cpu", "cuda", or "auto" (CUDA where there is one).
            dtype: "float32", "bfloat16", or "auto" (float32 on the CPU, bfloat16 on CUDA).
            max_context_tokens: prompt plus reply; cut down to what the model was built for.

        Raises:
            CheckpointError: there is no readable Qwen3 model.
            ConfigError: there is no such device or dtype.
        """
        self._module = model if isinstance(model, torch.nn.Module) else None
        if isinstance(model, torch.nn.Module):
            self._where = "the module given"
            arch, source = read_module(model), _tensors(model)
        else:
            self._where = str(model)
            arch, source = read_checkpoint(model)
        chosen_device, chosen_dtype = _placement(device, dtype)
        weights = Weights.allocate(arch, device=chosen_device, dtype=chosen_dtype)
        weights.fill(source, where=self._where)
        self._vocab = arch.vocab
        self._max_tokens = min(max_context_tokens, arch.max_position)
        self._engine = Engine(weights, slots=slots, max_tokens=self._max_tokens, version=version)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agentrl-policy")
        self._waiting: deque[tuple[Job, asyncio.Future[None]]] = deque()
        self._running: list[tuple[Job, asyncio.Future[None]]] = []
        self._interrupted = threading.Event()
        self._driver: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def version(self) -> int:
        """Version of the weights that the next request will meet."""
        return self._engine.version

    @property
    def max_context_tokens(self) -> int:
        """Largest prompt plus reply that fits, in tokens."""
        return self._max_tokens

    @property
    def batch_invariant(self) -> bool:
        """Whether this machine's kernels were found to give the same bits in any batch."""
        return self._engine.batch_invariant

    async def sample(self, request: SampleRequest) -> Completion:
        """Sample one reply, a function of (weights, context, seed, params) alone.

        Raises:
            PolicyError: the request makes no sense or does not fit, or the engine failed.
        """
        _check_params(request.params)
        self._check_tokens(request.context_ids, request.params.max_tokens, f"session {request.session}")
        job = SampleJob(request)
        await self._play(job)
        return job.completion

    async def score(self, context_ids: Sequence[int], target_ids: Sequence[int]) -> tuple[float, ...]:
        """Return log p(target_j | context, target_<j), natural logs: the numbers that sampling would give.

        Raises:
            PolicyError: the tokens do not fit, or the engine failed.
        """
        if not target_ids:
            return ()
        self._check_tokens(context_ids, len(target_ids), "a sequence to be scored")
        self._check_tokens(target_ids, 0, "a target to be scored")
        job = ScoreJob(context_ids, target_ids)
        await self._play(job)
        return job.logprobs

    async def end_session(self, session: str) -> None:
        """Free a session's slot; idempotent, unknown sessions are ignored."""
        self._engine.slots.end(session)

    def refresh(self, version: int, source: Mapping[str, Tensor] | None = None) -> None:
        """Take new weights (those of the live module unless `source` is given), between two tokens.

        Replies that are half sampled start again: one reply never mixes two versions.

        Raises:
            CheckpointError: the weights do not fit; the old ones and their version stay.
            ConfigError: there is no module to read from and no source was given.
        """
        if source is None:
            if self._module is None:
                raise ConfigError(
                    "policy.no_module",
                    f"the policy was loaded from {self._where}: give refresh() the new weights",
                )
            source = _tensors(self._module)
        self._interrupted.set()
        self._engine.refresh(source, version=version, where=self._where)

    async def close(self) -> None:
        """Stop the engine; requests in flight fail with PolicyError; idempotent."""
        self._closed = True
        self._interrupted.set()
        if self._driver is not None and not self._driver.done():
            await asyncio.wait([self._driver])
        self._thread.shutdown(wait=False)

    async def _play(self, job: Job) -> None:
        if self._closed:
            raise PolicyError("policy.closed", "the policy was asked to play after close()")
        finished = asyncio.get_running_loop().create_future()
        self._waiting.append((job, finished))
        self._interrupted.set()
        if self._driver is None or self._driver.done():
            # The driver lives only while there is work, so the policy is bound to no event loop.
            self._driver = asyncio.create_task(self._drive(), name="agentrl-policy")
        try:
            await finished
        finally:
            job.cancelled = not job.done
            self._interrupted.set()

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        step: asyncio.Future[None] | None = None
        try:
            while self._waiting or self._running:
                self._interrupted.clear()
                if self._closed:
                    self._fail(
                        PolicyError("policy.closed", "the policy was closed while the request was in flight")
                    )
                    return
                self._admit()
                if not self._running:
                    continue
                jobs = [job for job, _ in self._running]
                step = loop.run_in_executor(self._thread, self._engine.run, jobs, self._interrupted)
                try:
                    await asyncio.shield(step)
                except Exception as error:
                    self._fail_running(error)
                self._settle()
        except asyncio.CancelledError:
            # The loop is going away; the thread must not touch slots that are about to be freed.
            self._interrupted.set()
            if step is not None:
                with contextlib.suppress(Exception):
                    await asyncio.wait([step])
            self._fail(
                PolicyError("policy.cancelled", "the event loop ended while the request was in flight")
            )
            raise

    def _admit(self) -> None:
        while self._waiting:
            job, finished = self._waiting[0]
            if not job.cancelled:
                job.slot = self._engine.slots.acquire(job.session, job.ids)
                if job.slot is None:
                    return
                self._running.append((job, finished))
            self._waiting.popleft()

    def _settle(self) -> None:
        still: list[tuple[Job, asyncio.Future[None]]] = []
        for job, finished in self._running:
            if not (job.done or job.cancelled):
                still.append((job, finished))
                continue
            self._release(job)
            if not finished.done():
                if job.error is None:
                    finished.set_result(None)
                else:
                    finished.set_exception(job.error)
        self._running = still

    def _fail_running(self, error: Exception) -> None:
        cause = f"{type(error).__name__}: {error}"
        for job, _ in self._running:
            job.error = PolicyError(
                "policy.step",
                f"a step of the engine failed while sampling for session {job.session}: {cause}",
                {"session": job.session, "cause": cause},
            )
            job.error.__cause__ = error

    def _fail(self, error: PolicyError) -> None:
        for job, finished in (*self._running, *self._waiting):
            self._release(job)
            if not finished.done():
                finished.set_exception(error)
        self._running.clear()
        self._waiting.clear()

    def _release(self, job: Job) -> None:
        if job.slot is None:
            return
        if job.error is not None:
            # What a failed step left in the cache is unknown.
            job.slot.ids = []
        self._engine.slots.release(job.slot)
        job.slot = None

    def _check_tokens(self, ids: Sequence[int], more: int, what: str) -> None:
        if not ids:
            raise PolicyError("policy.empty_context", f"{what} has no tokens to go on from")
        if len(ids) + more > self._max_tokens:
            raise PolicyError(
                "policy.context_too_long",
                f"{what} needs {len(ids)} tokens and {more} more, the engine holds {self._max_tokens}: "
                "raise policy.max_context_tokens or lower rollout.max_reply_tokens",
                {"context_tokens": len(ids), "more_tokens": more, "max_context_tokens": self._max_tokens},
            )
        if min(ids) < 0 or max(ids) >= self._vocab:
            wrong = next(i for i in ids if not 0 <= i < self._vocab)
            raise PolicyError(
                "policy.token_id",
                f"{what} has token id {wrong}, the model's vocabulary has {self._vocab}: "
                "tokenizer and model do not belong together",
                {"token_id": wrong, "vocab_size": self._vocab},
            )


def _check_params(params: SamplingParams) -> None:
    if params.max_tokens < 1 or not params.temperature >= 0 or not 0 < params.top_p <= 1:
        raise PolicyError(
            "policy.params",
            "sampling needs max_tokens >= 1, temperature >= 0 and 0 < top_p <= 1, got "
            f"{params.max_tokens}, {params.temperature} and {params.top_p}",
        )


def _tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())


def _placement(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            "policy.device", f"device {device!r} was asked for, but torch sees no CUDA device here"
        )
    if dtype == "auto":
        dtype = "bfloat16" if name.startswith("cuda") else "float32"
    if dtype not in DTYPES:
        raise ConfigError("policy.dtype", f"dtype must be auto, {' or '.join(DTYPES)}, got {dtype!r}")
    try:
        return torch.device(name), DTYPES[dtype]
    except RuntimeError:
        raise ConfigError(
            "policy.device", f"there is no device {device!r}; write auto, cpu or cuda"
        ) from None
