"""OpenEnv's side: its server and an empty typed environment. Run by an interpreter that has OpenEnv."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import socket
import sys
from typing import Any

__all__: list[str] = []


def main() -> None:
    """Serve on a free port of 127.0.0.1, and print the address.

    The environment is written as OpenEnv's own examples are, with an `Action`, an `Observation` and a
    synchronous `step`. uvicorn runs with its defaults, as in `uvicorn server.app:app`; with the argument
    `uncompressed` without the compression of messages that those include.
    """
    import uvicorn
    from openenv.core.env_server import Action, Environment, Observation, State, create_app

    class EchoAction(Action):
        message: str

    class EchoObservation(Observation):
        message: str = ""

    class EchoEnvironment(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self._state = State(episode_id="echo", step_count=0)

        def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> EchoObservation:
            self._state = State(episode_id=episode_id or "echo", step_count=0)
            return EchoObservation()

        def step(self, action: EchoAction, timeout_s: float | None = None, **_: Any) -> EchoObservation:
            self._state.step_count += 1
            return EchoObservation(message=action.message)

        @property
        def state(self) -> State:
            return self._state

    app = create_app(EchoEnvironment, EchoAction, EchoObservation, env_name="echo", max_concurrent_envs=64)
    listening = socket.create_server(("127.0.0.1", 0))
    options: dict[str, Any] = {"ws_per_message_deflate": False} if "uncompressed" in sys.argv[1:] else {}
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", **options)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
