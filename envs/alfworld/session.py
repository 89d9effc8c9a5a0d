"""One ALFWorld episode as the platform sees it: replies in, observations and rewards out."""

from __future__ import annotations

import asyncio

from agentrl.errors import EnvError
from agentrl.types import Message, Observation, Step, Task
from envs.alfworld.engine import Outcome, Play
from envs.alfworld.games import CachedGames
from envs.alfworld.settings import Settings
from envs.alfworld.style import instructions, other_wording, read_reply
from envs.alfworld.wording import intro

__all__ = ["Session"]

NOT_RUN = "Error: one command at a time; this call was not run."


class Session:
    """One episode, for one caller at a time."""

    __slots__ = ("_games", "_kind", "_play", "_settings", "_used")

    def __init__(self, settings: Settings, games: CachedGames) -> None:
        self._settings = settings
        self._games = games
        self._play: Play | None = None
        self._kind = ""
        self._used = False

    async def start(self, task: Task) -> Observation:
        """Pose the task; a game that is not at hand is read in another thread.

        Raises:
            EnvError: the session was used before, or the game cannot be read.
        """
        if self._used:
            raise EnvError(
                "env.session_used",
                f"cannot start task {task.task_id}: this session was used; open a new one for each episode",
                {"task_id": task.task_id},
            )
        self._used = True
        game = self._games.cached(task)
        if game is None:
            game = await asyncio.to_thread(self._games.load, task)
        self._play = Play(game)
        self._kind = task.kind
        messages: tuple[Message, ...] = ()
        if self._settings.instructions:
            style, think = self._settings.style, self._settings.think
            messages = (Message("system", instructions(style, think=think, place=game.dialect.place)),)
        return self._observe(self._play, intro(game), before=messages)

    async def step(self, reply: Message) -> Step:
        """Apply the command in a reply.

        Raises:
            EnvError: the session was not started, or its episode is over.
        """
        play = self._play
        if play is None:
            state = "is over" if self._used else "was not started"
            raise EnvError("env.no_episode", f"cannot take a step: the episode {state}; open a new session")
        read = read_reply(reply, self._settings.style, think=self._settings.think)
        outcome = self._apply(play, read.command)
        text = read.problem or outcome.observation
        shown = None
        if outcome.won:
            self._play = None
        else:
            unanswered = tuple(
                Message("tool", NOT_RUN, tool_call_id=call.call_id) for call in reply.tool_calls[1:]
            )
            after = unanswered if read.call_id is not None else ()
            shown = self._observe(play, text, call_id=read.call_id, after=after)
        return Step(
            observation=shown,
            reward=self._settings.success_reward if outcome.won else 0.0,
            terminated=outcome.won,
            action_valid=outcome.valid and read.well_formed,
            tool_calls=len(reply.tool_calls) if self._settings.style == "tool_call" else 0,
            correct=outcome.won,
            format_ok=read.well_formed,
            info={"won": True, "final_observation": text} if outcome.won else {"won": False},
        )

    async def close(self) -> None:
        """Let go of the episode."""
        self._play = None

    def _apply(self, play: Play, command: str) -> Outcome:
        outcome = play.step(command)
        if outcome.valid or not self._settings.accept_aliases:
            return outcome
        return play.step(other_wording(command))

    def _observe(
        self,
        play: Play,
        text: str,
        *,
        before: tuple[Message, ...] = (),
        call_id: str | None = None,
        after: tuple[Message, ...] = (),
    ) -> Observation:
        commands = play.admissible()
        shown = text
        if self._settings.list_admissible:
            # `help` serves no task, so it would only tempt.
            listed = ", ".join(f"'{command}'" for command in commands if command != "help")
            shown = f"{text}\nAdmissible commands: [{listed}]"
        answer = Message("user" if call_id is None else "tool", shown, tool_call_id=call_id)
        key = play.state.digest() if self._settings.anchor == "state" else text
        info = {
            "text": text,
            "admissible_commands": commands,
            "won": play.won,
            "task_type": self._kind,
            "grammar": play.game.dialect.grammar,
        }
        return Observation((*before, answer, *after), key, info=info)
