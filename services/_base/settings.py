"""What every service lets its operator set. Defaults are for one machine; limits count for each worker."""

from __future__ import annotations

import os

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from agentrl.remote.wire import MAX_BODY_BYTES

__all__ = ["TOKEN_VARIABLE", "McpServerSettings", "ServiceSettings"]

TOKEN_VARIABLE = "AGENTRL_TOKEN"
"""Environment variable with the bearer tokens, separated by commas; each is a client of its own."""


class McpServerSettings(BaseModel):
    """An MCP server whose tools a service offers beside its own, each as `<name>__<tool>`.

    It runs at `url`, or every worker starts one with `command` and talks to it over its standard input and
    output. Secrets stay out of settings: `token_variable` names the environment variable with the bearer
    token for `url`, `pass_environment` those that the process of `command` gets beside PATH and HOME.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")
    url: str | None = Field(default=None, pattern=r"^https?://")
    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    token_variable: str | None = None
    pass_environment: tuple[str, ...] = ()
    timeout_s: PositiveFloat = 30.0
    start_timeout_s: PositiveFloat = 20.0

    @model_validator(mode="after")
    def _reachable(self) -> McpServerSettings:
        if (self.url is None) == (self.command is None):
            raise ValueError(f"the MCP server {self.name} needs either a url or a command")
        wanted = (*self.pass_environment, *([] if self.token_variable is None else [self.token_variable]))
        for variable in wanted:
            if variable not in os.environ:
                raise ValueError(f"the MCP server {self.name} needs the environment variable {variable}")
        return self


class ServiceSettings(BaseModel):
    """Limits and times of a service.

    `max_sessions` live at once; further callers wait in a queue of `queue` places for `queue_timeout_s`. A
    session that is not used for `idle_timeout_s` is ended. One whose connection broke can be attached again
    for `resume_s`; broken is also one whose client does not answer a ping, sent every `ping_s`, for as long,
    or does not read its answers for `send_timeout_s`. A step may take `step_timeout_s`. On SIGTERM nothing
    new is begun, and what lives has `drain_s` to end. Bodies and frames are read up to `max_body_bytes`. The
    answers to a session's last `remembered_requests` requests are kept, for a client that asks again. The
    tools of `mcp_servers` are offered to MCP clients beside the environment's own; calling one is no step of
    the episode.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_sessions: PositiveInt = 1024
    queue: int = Field(default=1024, ge=0)
    queue_timeout_s: PositiveFloat = 30.0
    idle_timeout_s: PositiveFloat = 600.0
    resume_s: PositiveFloat = 60.0
    step_timeout_s: PositiveFloat = 60.0
    send_timeout_s: PositiveFloat = 60.0
    ping_s: PositiveFloat = 20.0
    drain_s: float = Field(default=30.0, ge=0)
    max_body_bytes: PositiveInt = MAX_BODY_BYTES
    remembered_requests: PositiveInt = 64
    mcp_servers: tuple[McpServerSettings, ...] = ()

    @field_validator("mcp_servers")
    @classmethod
    def _told_apart(cls, servers: tuple[McpServerSettings, ...]) -> tuple[McpServerSettings, ...]:
        names = [server.name for server in servers]
        if len(set(names)) != len(names):
            raise ValueError(f"two MCP servers have the same name: {', '.join(sorted(names))}")
        return servers
