# SPDX-License-Identifier: Apache-2.0
"""Prompts and checkable rewards for the tests of the RL stages, and keys of a quick run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

_WORDS = "who are you what is the name of a river story star number fox rain world please write think answer".split()  # noqa: SIM905

REWARDS = '''
def vowels(completion_ids, **_):
    """Share of tokens below 100: about a quarter of the vocabulary."""
    return [sum(token < 100 for token in ids) / len(ids) for ids in completion_ids]

def wanted(completions, letter):
    """Uses a column of the dataset; no opinion on empty answers."""
    return [text.count(want) / len(text) if text else None for text, want in zip(completions, letter)]
'''


def prompt_set(folder: Path, rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Write 24 prompts of ragged lengths (or the given rows) and rewards; return the keys that name them."""
    draw = random.Random(0)
    made = [
        {
            "instruction": " ".join(draw.choices(_WORDS, k=draw.randint(1, 9))),
            "output": "x",
            "letter": draw.choice("abc"),
        }
        for _ in range(24)
    ]
    (folder / "prompts.json").write_text(json.dumps(made if rows is None else rows))
    (folder / "rewards.py").write_text(REWARDS)
    return {"dataset": str(folder / "prompts.json"), "reward_funcs": f"{folder / 'rewards.py'}:vowels"}


GRPO = {
    "stage": "grpo", "finetuning_type": "full", "max_new_tokens": 6, "num_generations": 4,
    "per_device_train_batch_size": 8, "max_steps": 3, "learning_rate": 3e-3, "optim": "adamw_torch",
    "lr_scheduler_type": "constant",
}  # fmt: skip
PPO = {**GRPO, "stage": "ppo", "ppo_epochs": 2}


def records(run: Path) -> list[dict[str, Any]]:
    """Return the lines of rollouts.jsonl."""
    return [json.loads(line) for line in (run / "rollouts.jsonl").read_text("utf-8").splitlines()]


def make_trainer(given: dict[str, Any]) -> Any:
    """Return the trainer of a run that has not begun."""
    from llamafactory.data.loader import get_dataset
    from llamafactory.data.template_loader import get_template
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.plugins import resolve
    from llamafactory.train.training_arguments import transformers_arguments
    from llamafactory.train.workflow import build_trainer

    args = get_train_args(given)
    stage = resolve("stages", args.finetuning.stage)
    arguments = transformers_arguments(args)
    tokenizer = load_tokenizer(args.model)
    template = get_template(tokenizer, args.data)
    dataset = get_dataset(stage.processor, template, tokenizer, args)
    model = load_model(tokenizer, args, head=stage.head(args, dataset))
    return build_trainer(stage, model, tokenizer, template, dataset, args, arguments, None)
