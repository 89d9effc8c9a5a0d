"""Train a model with TRL's `GRPOTrainer` in ALFWorld games that an agentrl service plays. A CPU is enough.

In one terminal the service, in another the training (two optimiser steps take a minute or two):

    agentrl serve alfworld env.size=small
    python examples/trl_alfworld.py --url http://127.0.0.1:8000 --steps 2

It needs `pip install 'agentrl[train,serve]' trl==1.16.0`; in a checkout, `make test` has installed both.

What there is to see:

* `alfworld_environment(url)` is all that connects TRL to the service. TRL makes an object of that class for
  each rollout, calls its `reset` with the columns of the data set's row, and offers its public method `act`
  to the model as a tool. Rows name their game by `index`: the rollouts of a group play the same one.
* `success` is the reward function; write your own from what the objects hold (`won`, `steps` and so on).
* The shipped base model (0.86 million parameters) writes its commands as `<action>go to fridge 1</action>`;
  it was never shown a tool's schema. `speak_actions` has TRL read that as calls of `act`. A model that calls
  tools as its chat template says, such as Qwen3, needs nothing of the kind: `--model Qwen/Qwen3-0.6B`.

Each step prints one JSON line: the mean reward (the games won), calls of `act` for each rollout, the loss.
TRL has no word for "the game is over": calls after its end are answered so, until the model stops calling.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # environment_factory is marked as experimental

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from agentrl.remote.trl import alfworld_environment, success

BASE = Path(__file__).resolve().parents[1] / "models" / "base"
PROMPT = "You act in a house to do a task. Call the tool act with one command at a time.\n\n"

# The chat as the base model knows it: no tools are listed, and the game answers as the user's next message.
# There are no calls of other tools, but TRL tries whether a template renders them.
ACTION_CHAT = r"""
{%- for message in messages %}
    {{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {%- if call.function.name == 'act' %}
            {{- '<action>' + (call.function.arguments.command or '') + '</action>' }}
        {%- else %}
            {{- '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}
        {%- endif %}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
ACTION_REPLIES = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<action>",
            "close_pattern": r"</action>\s*",
            "repeats": True,
            "content": "text",
            "transform": {
                "type": "function",
                "function": {"name": "act", "arguments": {"command": "{content}"}},
            },
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


def speak_actions(tokenizer: PreTrainedTokenizerBase) -> None:
    """Have TRL write and read the dialogue in the base model's own words."""
    tokenizer.chat_template = ACTION_CHAT
    tokenizer.response_template = ACTION_REPLIES


class PrintSteps(TrainerCallback):
    """Prints one JSON line for each optimiser step."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Print what was logged."""
        if logs and "reward" in logs:
            row = {
                "step": state.global_step,
                "reward": logs["reward"],
                "calls_per_game": logs["tools/call_frequency"],
                "loss": logs["loss"],
                "seconds": logs.get("step_time"),
            }
            print(json.dumps(row), flush=True)


def main() -> None:
    """Train."""
    show = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=show)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of `agentrl serve alfworld`")
    parser.add_argument("--steps", type=int, default=2, help="optimiser steps")
    parser.add_argument("--games", type=int, default=2, help="different games in each step")
    parser.add_argument("--group", type=int, default=4, help="rollouts of each game")
    parser.add_argument("--turns", type=int, default=12, help="calls that a rollout may make")
    parser.add_argument("--model", default=str(BASE), help="a folder or a name that transformers can load")
    parser.add_argument("--out", help="folder to save the trained model in")
    given = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(given.model, padding_side="left")
    base = Path(given.model).resolve() == BASE
    if base:
        speak_actions(tokenizer)
        torch.set_num_threads(1)  # in so small a model threads only wait for each other
    cpu = base or not torch.cuda.is_available()
    prompt = [{"role": "user", "content": "" if base else PROMPT}]
    games = [{"prompt": prompt, "index": index} for index in range(given.steps * given.games)]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=given.out or folder,
            max_steps=given.steps,
            num_generations=given.group,
            per_device_train_batch_size=given.games * given.group,
            max_completion_length=1024 if base else 4096,  # tokens of a rollout, the game's words included
            max_tool_calling_iterations=given.turns,
            generation_kwargs={"max_new_tokens": 24 if base else 256},  # tokens of one reply
            learning_rate=1e-4 if base else 1e-6,
            beta=0.0,
            seed=0,
            use_cpu=cpu,
            bf16=not cpu,
            dataloader_pin_memory=not cpu,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=given.model,
            processing_class=tokenizer,
            args=config,
            train_dataset=Dataset.from_list(games),
            reward_funcs=success,
            environment_factory=alfworld_environment(given.url),
            callbacks=[PrintSteps()],
        )
        trainer.remove_callback(PrinterCallback)  # it prints all sixty numbers
        trainer.train()
        if given.out:
            trainer.save_model()


if __name__ == "__main__":
    main()
