"""One episode: what is recorded, why it ends, and that whatever fails is recorded and not raised."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes import byte_renderer
from guess import GuessEnv, HashPolicy, Settings, guess_player

from agentrl.errors import AlignmentError, EnvError, PolicyError, StoreError
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import EpisodeSpec, Player, play
from agentrl.types import Episode, StopReason, Task

TASK = Task("five", "guess", "odd", "train", 0, {"answer": 5})


def spec(name: str = "e", seed: int = 7, task: Task = TASK) -> EpisodeSpec:
    return EpisodeSpec(name, "g", task, seed, batch=2, config_hash="c0ffee", metadata={"who": "test"})


def scripted(replies: list[str], player: Player | None = None) -> Player:
    renderer = byte_renderer()
    return replace(player or guess_player(), policy=ScriptedPolicy(renderer, replies), renderer=renderer)


async def played(replies: list[str], player: Player | None = None) -> Episode:
    return await play(scripted(replies, player), spec())


def contexts(episode: Episode) -> list[tuple[int, ...]]:
    """What the model must have seen before each turn, by the record alone."""
    seen: list[tuple[int, ...]] = []
    context: tuple[int, ...] = ()
    for turn in episode.turns:
        assert turn.prompt_ids is not None
        assert turn.token_ids is not None
        context = turn.prompt_ids if turn.fresh_context else context + turn.prompt_ids
        seen.append(context)
        context += turn.token_ids
    return seen


async def test_a_won_episode_is_recorded_in_full() -> None:
    player = scripted(["guess 8", "what?", "guess 2", "guess 5"])
    episode = await play(player, spec())
    assert episode.stop_reason is StopReason.TERMINATED
    assert (episode.correct, episode.error, episode.truncated) == (True, None, False)
    assert [t.reward for t in episode.turns] == [0.0, 0.0, 0.0, 1.0]
    assert [t.action_valid for t in episode.turns] == [True, False, True, True]
    assert [t.reply for t in episode.turns] == ["guess 8", "what?", "guess 2", "guess 5"]
    assert [t.state_key for t in episode.turns] == [
        {"low": 1, "high": 9},
        {"low": 1, "high": 7},
        {"low": 1, "high": 7},
        {"low": 3, "high": 7},
    ]
    assert episode.turns[0].observation == "You guess numbers.\n\nA number from 1 to 9."
    assert [t.observation for t in episode.turns[1:]] == ["Lower.", "That is no guess.", "Higher."]
    assert [t.fresh_context for t in episode.turns] == [True, False, False, False]
    assert episode.metadata == {"task_kind": "odd", "who": "test", "turns": 4}
    assert episode.ret == 1.0


async def test_a_tool_call_in_a_reply_is_located() -> None:
    call = '<tool_call>\n{"name": "guess", "arguments": {}}\n</tool_call>'
    episode = await played([f"so {call}", "guess 5"], guess_player(reply_tokens=100))
    assert [t.tool_call_at for t in episode.turns] == [3, None]


@pytest.mark.parametrize("fresh_every", [0, 1, 3])
@pytest.mark.parametrize("seed", range(6))
async def test_invariant_1_concatenated_spans_are_what_the_policy_saw(seed: int, fresh_every: int) -> None:
    policy = HashPolicy()
    player = guess_player(GuessEnv(Settings(fresh_every=fresh_every)), policy, turns=9)
    episode = await play(player, spec(seed=seed))
    assert contexts(episode) == policy.seen["e"]


@pytest.mark.parametrize("seed", range(10))
async def test_invariant_2_every_sampled_token_has_one_logprob_and_entropy(seed: int) -> None:
    episode = await play(guess_player(), spec(seed=seed))
    for turn in episode.turns:
        assert turn.token_ids is not None
        assert turn.sampled is not None
        assert turn.logprobs is not None
        assert turn.entropies is not None
        assert len(turn.sampled) == len(turn.token_ids) == turn.num_tokens
        assert len(turn.logprobs) == len(turn.entropies) == sum(turn.sampled)


async def test_a_reply_cut_by_its_length_is_closed_in_the_next_prompt() -> None:
    player = scripted(["guess 1 or maybe 2", "guess 5"], guess_player(reply_tokens=8))
    (end, *_) = player.renderer.stop_ids
    cut, whole = (await play(player, spec())).turns
    assert cut.reply == "guess 1 "
    assert cut.token_ids is not None
    assert end not in cut.token_ids
    assert cut.sampled == (1,) * 8
    assert whole.prompt_ids is not None
    assert whole.prompt_ids[0] == end
    assert whole.token_ids is not None
    assert whole.token_ids[-1] == end


async def test_a_reply_that_ended_is_not_closed_twice() -> None:
    player = scripted(["guess 1", "guess 5"])
    (end, *_) = player.renderer.stop_ids
    first, second = (await play(player, spec())).turns
    assert first.token_ids is not None
    assert first.token_ids[-1] == end
    assert second.prompt_ids is not None
    assert player.renderer.decode(second.prompt_ids).startswith("\n<|im_start|>user")


async def test_invariant_4_an_episode_says_where_it_came_from() -> None:
    episode = await play(guess_player(policy=HashPolicy(version=17)), spec())
    assert (episode.env, episode.env_version) == ("guess", "1")
    assert (episode.episode_id, episode.group_id, episode.task_id) == ("e", "g", "five")
    assert (episode.seed, episode.batch, episode.config_hash) == (7, 2, "c0ffee")
    assert {turn.policy_version for turn in episode.turns} == {17}
    assert episode.policy_versions == (17,)


async def test_invariant_7_the_model_sees_neither_the_answer_nor_the_reward() -> None:
    secret = Task("t", "guess", "k", "train", 0, {"answer": 5, "solution": "XYZZY"})
    twin = Task("other", "guess", "q", "valid", 1, {"answer": 5, "solution": "PLUGH"})
    policy = HashPolicy()
    first = await play(guess_player(policy=policy), spec("a", task=secret))
    await play(guess_player(policy=policy), spec("b", task=twin))
    assert first.turns
    assert policy.seen["a"] == policy.seen["b"]  # nothing of the task but its observations comes through
    assert all("XYZZY" not in policy.renderer.decode(context) for context in policy.seen["a"])


async def test_the_turn_limit_ends_an_episode() -> None:
    episode = await played(["guess 1"] * 9, guess_player(turns=3))
    assert episode.stop_reason is StopReason.MAX_TURNS
    assert (len(episode.turns), episode.truncated, episode.error) == (3, True, None)
    assert episode.correct is False


async def test_a_full_context_ends_an_episode_before_the_reply_that_might_not_fit() -> None:
    player = scripted(["guess 1"] * 99, guess_player(turns=99, reply_tokens=10, context_tokens=200))
    episode = await play(player, spec())
    assert episode.stop_reason is StopReason.MAX_TOKENS
    last = episode.turns[-1]
    assert last.token_ids is not None
    used = len(contexts(episode)[-1]) + len(last.token_ids)
    assert used <= 200
    lower = len(player.renderer.append_ids((), closed=True))
    assert used + lower + 10 + len("Higher.") > 200 - 20


async def test_a_fresh_context_does_not_count_what_was_dropped() -> None:
    env = GuessEnv(Settings(fresh_every=1))
    episode = await played(["guess 1"] * 30, guess_player(env, turns=30, context_tokens=200, reply_tokens=10))
    assert (episode.stop_reason, len(episode.turns)) == (StopReason.MAX_TURNS, 30)


async def test_a_first_observation_that_does_not_fit_gives_an_episode_without_turns() -> None:
    episode = await play(guess_player(context_tokens=20), spec())
    assert (episode.stop_reason, episode.turns, episode.error) == (StopReason.MAX_TOKENS, (), None)


async def test_seconds_that_are_used_up_end_an_episode() -> None:
    episode = await play(guess_player(episode_timeout_s=-1.0), spec())
    assert (episode.stop_reason, episode.turns, episode.error) == (StopReason.TIMEOUT, (), None)


async def test_a_policy_that_hangs_ends_an_episode_by_its_seconds() -> None:
    def late(request: object) -> bool:
        return len(policy.seen["e"]) > 1

    policy = HashPolicy(hang=late)
    env = GuessEnv(Settings())
    episode = await play(guess_player(env, policy, episode_timeout_s=0.1), spec(seed=2))
    assert (episode.stop_reason, len(episode.turns)) == (StopReason.TIMEOUT, 1)
    assert (policy.ended, env.sessions[0].closed, policy.playing) == (["e"], 1, 0)


@pytest.mark.parametrize(
    ("where", "code", "turns"),
    [("open", "env.session", 0), ("start", "env.start", 0), ("step", "env.step", 0)],
)
async def test_a_failing_environment_is_recorded(where: str, code: str, turns: int) -> None:
    env, policy = GuessEnv(Settings()), HashPolicy()
    setattr(env.faults, where, lambda place: RuntimeError("the door is stuck"))
    episode = await play(guess_player(env, policy), spec())
    assert episode.stop_reason is StopReason.ERROR
    assert episode.error is not None
    assert episode.error["code"] == code
    assert "RuntimeError: the door is stuck" in episode.error["message"]
    assert len(episode.turns) == turns
    assert all(session.closed == 1 for session in env.sessions)
    assert policy.ended == ["e"]


@pytest.mark.parametrize("fresh_every", [0, 1])
async def test_an_observation_that_is_not_unicode_fails_its_own_episode_only(fresh_every: int) -> None:
    env = GuessEnv(Settings(fresh_every=fresh_every))
    env.words = {"Higher.": "Higher\ud800"}
    episode = await played(["guess 1"] * 5, guess_player(env))
    assert episode.error is not None
    assert episode.error["code"] == "env.observation"
    assert len(episode.turns) == 1


async def test_turns_before_a_failure_are_kept() -> None:
    env = GuessEnv(Settings())
    env.faults.step = lambda place: EnvError("env.gone", "gone") if env.sessions[0].turn == 2 else None
    episode = await played(["guess 1"] * 5, guess_player(env))
    assert episode.error == {"code": "env.gone", "message": "gone", "detail": {}}
    assert [turn.reply for turn in episode.turns] == ["guess 1", "guess 1"]


async def test_a_step_that_takes_too_long_is_an_error() -> None:
    env = GuessEnv(Settings())
    env.faults.hang_in_step = lambda place: True
    episode = await play(guess_player(env, step_timeout_s=0.05), spec())
    assert episode.error is not None
    assert episode.error["code"] == "env.step_timeout"
    assert episode.error["detail"] == {"episode_id": "e", "task_id": "five"}
    assert env.sessions[0].closed == 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [(PolicyError("policy.full", "no slot"), "policy.full"), (ValueError("nan"), "policy.sample")],
)
async def test_a_failing_policy_is_recorded(fault: Exception, code: str) -> None:
    env, policy = GuessEnv(Settings()), HashPolicy(fault=lambda request: fault)
    episode = await play(guess_player(env, policy), spec())
    assert episode.stop_reason is StopReason.ERROR
    assert episode.error is not None
    assert episode.error["code"] == code
    assert env.sessions[0].closed == 1


@pytest.mark.parametrize("error", [StoreError("store.full", "full"), AlignmentError("a.b", "wrong")])
async def test_what_concerns_every_episode_is_raised_and_still_cleaned_up(error: Exception) -> None:
    env, policy = GuessEnv(Settings()), HashPolicy(fault=lambda request: error)
    with pytest.raises(type(error)):
        await play(guess_player(env, policy), spec())
    assert (env.sessions[0].closed, policy.ended) == (1, ["e"])


async def test_a_failing_close_is_recorded_and_the_episode_stays_valid() -> None:
    env = GuessEnv(Settings())
    env.faults.close = lambda place: OSError("socket")
    episode = await played(["guess 5"], guess_player(env))
    assert (episode.stop_reason, episode.error, episode.correct) == (StopReason.TERMINATED, None, True)
    assert episode.metadata["close_error"]["code"] == "env.close"


async def test_a_close_that_hangs_is_given_up_and_recorded() -> None:
    env = GuessEnv(Settings())
    env.faults.close_takes_s = lambda place: 3600.0
    episode = await played(["guess 5"], guess_player(env, step_timeout_s=0.05))
    assert episode.metadata["close_error"]["code"] == "env.close_timeout"


async def test_a_policy_that_cannot_end_a_session_does_not_leak_the_environment() -> None:
    env, policy = GuessEnv(Settings()), HashPolicy(end_fault=RuntimeError("engine gone"))
    episode = await play(guess_player(env, policy), spec())
    assert episode.error is None
    assert episode.metadata["end_session_error"]["code"] == "policy.end_session"
    assert env.sessions[0].closed == 1


async def test_a_cancelled_episode_cleans_up_before_it_goes() -> None:
    env, policy = GuessEnv(Settings()), HashPolicy(hang=lambda request: True)
    env.faults.close_takes_s = lambda place: 0.05
    playing = asyncio.create_task(play(guess_player(env, policy), spec()))
    await policy.until_playing(1)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert (env.sessions[0].closed, env.sessions[0].interrupted, policy.ended) == (1, False, ["e"])
