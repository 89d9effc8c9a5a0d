"""verl-tool's wire: a trajectory id that the trainer chose is a session, an action what the model said."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentrl.errors import AgentRLError, EnvError, RequestError, boundary
from services._base.answers import JSON, next_step
from services._base.desk import Caller, Desk
from services._base.trajectories import Trajectories

__all__ = ["verl_tool_route"]

log = logging.getLogger("agentrl.service")

MAX_TRAJECTORIES = 4096
LATER = ("service.full", "service.draining")


class ObservationRequest(BaseModel):
    """One action for each trajectory, in step."""

    model_config = ConfigDict(extra="ignore")

    trajectory_ids: list[str | int] = Field(max_length=MAX_TRAJECTORIES)
    actions: list[str]
    extra_fields: list[dict[str, Any] | None] | None = None
    finish: list[bool] | None = None
    is_last_step: list[bool] | None = None

    @model_validator(mode="after")
    def _in_step(self) -> ObservationRequest:
        for name in ("actions", "extra_fields", "finish", "is_last_step"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.trajectory_ids):
                raise ValueError(
                    f"{name} has {len(column)} entries for {len(self.trajectory_ids)} trajectory_ids"
                )
        if len({str(name) for name in self.trajectory_ids}) != len(self.trajectory_ids):
            raise ValueError("a trajectory is named twice in one request")
        return self


def verl_tool_route(desk: Desk) -> APIRouter:
    """Return the route."""
    router = APIRouter(default_response_class=JSON)
    trajectories = Trajectories(desk, desk.peers.file("trajectories"))
    desk.trajectories = trajectories.observe

    @router.post("/get_observation", tags=["verl-tool"])
    async def get_observation(request: Request, asked: ObservationRequest) -> JSON:
        """Apply one action for each trajectory; all at once."""
        began = time.perf_counter()
        caller = Caller(request.state.owner, request.state.token)

        async def one(place: int) -> dict[str, Any] | AgentRLError:
            data = {
                "trajectory_id": str(asked.trajectory_ids[place]),
                "action": asked.actions[place],
                "extra": asked.extra_fields[place] if asked.extra_fields else None,
                "finish": bool(asked.finish and asked.finish[place]),
                "last": bool(asked.is_last_step and asked.is_last_step[place]),
            }
            message = {"type": "trajectory", "data": data, "request_id": uuid.uuid4().hex}
            try:
                with boundary(EnvError, "env.failed", "acting in a trajectory"):
                    return await trajectories.observe(caller, message)
            except AgentRLError as error:
                desk.metrics.errors.labels(error.code).inc()
                return error

        answers = await asyncio.gather(*(one(place) for place in range(len(asked.trajectory_ids))))
        refused = [answer for answer in answers if isinstance(answer, RequestError)]
        if answers and len(refused) == len(answers) and all(error.code in LATER for error in refused):
            raise refused[0]  # nothing was done, so that the whole request may be made again
        shown = [_lost(answer) if isinstance(answer, AgentRLError) else answer for answer in answers]
        return JSON(
            {
                "observations": [answer["obs"] for answer in shown],
                "dones": [answer["done"] for answer in shown],
                "valids": [answer["valid"] for answer in shown],
                "processing_time_ms": (time.perf_counter() - began) * 1000,
            }
        )

    return router


def _lost(error: AgentRLError) -> dict[str, Any]:
    """Return the answer for a trajectory that failed: it is over, and no model is shown why."""
    if not isinstance(error, RequestError):
        log.error("trajectory failed", extra={"code": error.code, "error": error.message}, exc_info=error)
    said = {**error.to_json(), "next_step": next_step(error)}
    return {"obs": {"obs": "", "error": said}, "done": True, "valid": False}
