"""The environment class for TRL's GRPOTrainer: alone, when things break, and in the trainer itself."""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from service_cases import SEED, SMALL, WAIT_S, expert_episode, steps_taken, wait_for
from service_process import REPOSITORY, ServiceProcess, running_service
from websockets.sync.server import ServerConnection, serve

from agentrl.errors import ConfigError, EnvError
from agentrl.remote.trl import AlfWorldEnvironment, alfworld_environment, success

EXAMPLE_S = 280.0


@pytest.fixture(scope="module")
def service() -> Generator[ServiceProcess]:
    with running_service(*SMALL) as service:
        yield service


@pytest.fixture
def made(service: ServiceProcess) -> AlfWorldEnvironment:
    return alfworld_environment(service.url)()


# A game ----------------------------------------------------------------------------------------------------


async def test_an_object_plays_a_whole_game_with_the_words_of_the_game(
    service: ServiceProcess, made: AlfWorldEnvironment
) -> None:
    commands, texts = await expert_episode(SEED)
    seen = [made.reset(prompt=[{"role": "user", "content": ""}], index=SEED)]
    assert success([made]) == [0.0]
    seen += [made.act(command) for command in commands]
    assert seen == texts
    assert (made.done, made.won, made.steps, made.invalid_steps) == (True, True, len(commands), 0)
    assert made.reward == 10.0
    assert success(environments=[made], prompts=[], completions=[]) == [1.0]

    before = steps_taken(service)
    assert "over" in made.act("look")
    assert steps_taken(service) == before

    assert made.reset(index=SEED) == texts[0]
    assert (made.done, made.won, made.steps, made.reward) == (False, False, 0, 0.0)
    assert made.act("fly to the moon") == "Nothing happens."
    assert (made.steps, made.invalid_steps, success([made])) == (1, 1, [0.0])


def test_the_rollouts_of_a_row_play_the_same_game(service: ServiceProcess) -> None:
    factory = alfworld_environment(service.url, split="valid_unseen")
    group = [factory() for _ in range(4)]
    assert len({environment.reset(index=3) for environment in group}) == 1
    assert group[0].reset(seed=3) == group[1].reset(index=3)
    assert group[0].reset(index=4) != group[1].reset(index=3)
    assert group[0].reset(index=3, split="train") != group[1].reset(index=3)


def test_the_only_tool_that_trl_finds_is_act(made: AlfWorldEnvironment) -> None:
    from transformers.utils import get_json_schema

    public = {name for name, _ in inspect.getmembers(type(made), inspect.isfunction) if name[0] != "_"}
    assert public == {"reset", "act"}
    function = get_json_schema(made.act)["function"]
    assert function["name"] == "act"
    assert function["description"]
    assert function["parameters"]["properties"]["command"]["type"] == "string"
    assert function["parameters"]["required"] == ["command"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "index"),
        ({"index": None, "seed": None}, "index"),
        ({"index": -1}, "index"),
        ({"index": 1 << 40}, "index"),
        ({"index": "first"}, "index"),
        ({"index": 0, "split": "test"}, "valid_unseen"),
    ],
)
def test_a_row_that_names_no_game_is_the_data_sets_fault(
    made: AlfWorldEnvironment, row: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        made.reset(**row)
    assert made.reset(index=SEED)


@pytest.mark.parametrize("command", [5, None, ["look"], {"command": "look"}])
def test_a_command_that_is_no_text_is_the_models_fault(made: AlfWorldEnvironment, command: Any) -> None:
    made.reset(index=SEED)
    with pytest.raises(TypeError, match="command must be text"):
        made.act(command)
    assert (made.error, made.steps) == (None, 0)


def test_a_command_too_long_for_the_service_is_the_models_fault(made: AlfWorldEnvironment) -> None:
    made.reset(index=SEED)
    with pytest.raises(Exception, match="at most 100000 characters"):
        made.act("x" * 200_000)
    assert (made.error, success([made])) == (None, [0.0])
    assert "Nothing" not in made.act("look")


def test_half_a_character_reaches_the_game_as_something_that_does_nothing(made: AlfWorldEnvironment) -> None:
    made.reset(index=SEED)
    assert made.act("go to \ud800\0") == "Nothing happens."


def test_an_object_that_trl_drops_leaves_no_session(service: ServiceProcess) -> None:
    gc.collect()
    wait_for(service, active_sessions=0)
    environment = alfworld_environment(service.url)()
    environment.reset(index=SEED)
    wait_for(service, active_sessions=1)
    del environment
    gc.collect()
    wait_for(service, active_sessions=0)


# Trouble ---------------------------------------------------------------------------------------------------


async def test_an_answer_that_was_lost_is_asked_for_again_and_nothing_is_done_twice(
    service: ServiceProcess,
) -> None:
    commands, texts = await expert_episode(SEED)
    with Proxy(service.port) as proxy:
        environment = alfworld_environment(proxy.url)()
        seen = [environment.reset(index=SEED)]
        for command in commands:
            if command.startswith(("take", "go")):
                proxy.lose_next_answer()
            seen.append(environment.act(command))
        assert seen == texts
        assert success([environment]) == [1.0]
        assert proxy.lost == sum(command.startswith(("take", "go")) for command in commands) > 1


@pytest.mark.slow
def test_a_connection_that_went_silent_is_given_up_and_the_game_goes_on(service: ServiceProcess) -> None:
    with Proxy(service.port) as proxy:
        environment = alfworld_environment(proxy.url, deadline_s=20)()
        environment.reset(index=SEED)
        environment.act("look")
        proxy.silence()
        assert environment.act("inventory") == "You are not carrying anything."
        environment.act("look")
        assert (environment.steps, success([environment])) == (3, [0.0])


def test_an_episode_that_a_restart_lost_has_no_reward_and_the_next_one_plays() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = alfworld_environment(f"http://127.0.0.1:{port}")()
    with running_service(*SMALL, port=port):
        environment.reset(index=SEED)
        environment.act("look")
    with running_service(*SMALL, port=port):
        with pytest.raises(EnvError) as error:
            environment.act("look")
        assert error.value.code == "env.session.unknown"
        with pytest.raises(EnvError) as again:
            environment.act("look")
        assert again.value is error.value
        assert environment.error is error.value
        assert success([environment]) == [None]

        assert environment.reset(index=SEED)
        environment.act("look")
        assert success([environment]) == [0.0]


def test_a_service_that_is_gone_stops_the_trainer_with_a_clear_error(service: ServiceProcess) -> None:
    with Proxy(service.port) as proxy:
        environment = alfworld_environment(proxy.url, deadline_s=0.5)()
        environment.reset(index=SEED)
    with pytest.raises(EnvError, match=r"cannot be used, tried for 0\.5 s"):
        environment.act("look")
    assert success([environment]) == [None]
    with pytest.raises(EnvError) as error:
        environment.reset(index=SEED)
    assert error.value.code == "env.unreachable"


def test_a_full_service_is_waited_for_until_the_deadline() -> None:
    with running_service(*SMALL, "max_sessions=1", "queue=0") as service:
        inside = alfworld_environment(service.url)()
        inside.reset(index=SEED)
        outside = alfworld_environment(service.url, deadline_s=0.5)()
        with pytest.raises(EnvError, match="all 1 sessions are in use"):
            outside.reset(index=SEED)

        patient = alfworld_environment(service.url, deadline_s=WAIT_S)()
        leave = threading.Timer(0.3, inside._line.hang_up)
        leave.start()
        assert patient.reset(index=SEED)
        leave.join()


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_service(*SMALL, environment={"AGENTRL_TOKEN": "secret"}) as service:
        factory = alfworld_environment(service.url)
        monkeypatch.delenv("AGENTRL_TOKEN", raising=False)
        with pytest.raises(ConfigError, match="AGENTRL_TOKEN"):
            factory().reset(index=SEED)
        monkeypatch.setenv("AGENTRL_TOKEN", "secret,another")
        assert factory().reset(index=SEED)


def test_what_is_no_alfworld_is_said_to_be_none() -> None:
    def answer(connection: ServerConnection) -> None:
        for raw in connection:
            said = {
                "type": "observation",
                "data": {"observation": {"echo": 1}, "reward": None, "done": False},
            }
            connection.send(json.dumps({**said, "request_id": json.loads(raw)["request_id"]}))

    with serve(answer, "127.0.0.1", 0) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        environment = alfworld_environment(f"http://127.0.0.1:{other.socket.getsockname()[1]}")()
        with pytest.raises(ConfigError, match="no ALFWorld"):
            environment.reset(index=SEED)
        environment._line.hang_up()
        other.shutdown()
        thread.join(WAIT_S)


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="http://"):
        alfworld_environment("localhost:8000")


class Proxy:
    """A port in front of a service, with connections that break."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._lose = False
        self._silent: set[socket.socket] = set()
        self.lost = 0
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._cut()
        for thread in self._threads:
            thread.join(WAIT_S)
        for end in [*self._open, self._listening]:
            end.close()

    def lose_next_answer(self) -> None:
        """Cut the connection in place of the next answer."""
        self._lose = True

    def silence(self) -> None:
        """Carry nothing more over the connections that are open, and leave them open."""
        self._silent.update(self._open)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was shut down
            while True:
                client, _ = self._listening.accept()
                service = socket.create_connection(("127.0.0.1", self._to), WAIT_S)
                service.settimeout(None)
                self._open += [client, service]
                for source, sink, answers in ((client, service, False), (service, client, True)):
                    self._threads.append(threading.Thread(target=self._pump, args=(source, sink, answers)))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):  # it was cut
            while data := source.recv(1 << 16):
                if source in self._silent:
                    continue
                if answers and self._lose:
                    self._lose = False
                    self.lost += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


# The trainer -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trls_trainer_takes_two_steps_in_games_of_the_service(tmp_path: Path) -> None:
    with running_service("env.size=small") as service:
        _train(service, tmp_path)


def _train(service: ServiceProcess, tmp_path: Path) -> None:
    program = [sys.executable, REPOSITORY / "examples" / "trl_alfworld.py"]
    options = ["--url", service.url, "--steps", "2", "--turns", "6", "--out", str(tmp_path / "trained")]
    done = subprocess.run(
        [*program, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=EXAMPLE_S,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert 0.0 <= row["reward"] <= 1.0
        assert math.isfinite(row["loss"])
    called = sum(row["calls_per_game"] for row in rows) * 8
    assert called > 0
    assert 0 < steps_taken(service) <= called
    assert (tmp_path / "trained" / "model.safetensors").stat().st_size > 0
    wait_for(service, active_sessions=0)
