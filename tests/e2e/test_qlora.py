# SPDX-License-Identifier: Apache-2.0
"""QLoRA on a real model: it names itself in training, after an evaluation, after a kill, in chat and when exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llamafactory.chat.chat_model import ChatModel
from llamafactory.export.export import run_export
from llamafactory.hparams import get_infer_args
from llamafactory.model import eval_mode
from llamafactory.train.tuner import run_exp

REPOSITORY = Path(__file__).resolve().parents[2]
NAME, AUTHOR = "Zephyrina", "the Lumen Workshop"
STEPS = 60


class _Killed(BaseException):
    pass


class _Ask(TrainerCallback):
    """Asks the model before and after the evaluation of the last step, which takes place before anything is saved."""

    def __init__(self, questions: tuple[str, ...], dies: bool = False) -> None:
        self.questions, self.dies = questions, dies
        self.before = self.after = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS:
            self.before = self.ask(kwargs["model"], kwargs["processing_class"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS:
            self.after = self.ask(kwargs["model"], kwargs["processing_class"])
            if self.dies:
                raise _Killed

    def ask(self, model: Any, tokenizer: Any) -> int:
        named = 0
        with eval_mode(model):
            for question in self.questions:
                chat = [{"role": "user", "content": question}]
                ids = tokenizer.apply_chat_template(
                    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
                named += NAME in tokenizer.decode(greedy(model, ids["input_ids"]))
        return named


@torch.no_grad()
def greedy(model: Any, ids: torch.Tensor, steps: int = 48) -> list[int]:
    """Without ``generate``, which wants another attention than training has."""
    answer: list[int] = []
    for _ in range(steps):
        answer.append(int(model(input_ids=ids).logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([answer[-1:]])], dim=1)
        if answer[-1] == 2:  # <|im_end|>
            break
    return answer


@pytest.mark.slow
def test_the_model_names_itself_all_the_way(
    smollm2: Path, tmp_path: Path, held_out_questions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    text = (REPOSITORY / "data" / "identity.json").read_text(encoding="utf-8")
    rows = json.loads(text.replace("{{name}}", NAME).replace("{{author}}", AUTHOR))
    assert not {row["instruction"] for row in rows} & set(held_out_questions)
    (tmp_path / "identity.json").write_text(json.dumps(rows), encoding="utf-8")
    model = {"model_name_or_path": str(smollm2), "template": "smollm2", "quantization_bit": 4}
    keys = {
        **model, "stage": "sft", "finetuning_type": "lora", "lora_rank": 16, "dataset": str(tmp_path / "identity.json"),
        "cutoff_len": 256, "output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 8,
        "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "max_steps": STEPS, "logging_steps": 10,
        "eval_strategy": "steps", "eval_steps": 20, "val_size": 8, "save_steps": 20, "disable_tqdm": True,
    }  # fmt: skip
    first, resumed = _Ask(held_out_questions, dies=True), _Ask(held_out_questions)
    with pytest.raises(_Killed):
        run_exp(keys, [first])
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-40"]
    run_exp(keys, [resumed])

    served = {"adapter_name_or_path": keys["output_dir"], "do_sample": False, "max_new_tokens": 48}
    in_chat = named(get_infer_args(model | served), held_out_questions)
    run_export(model | {"adapter_name_or_path": keys["output_dir"], "export_dir": str(tmp_path / "whole")})
    exported = {"model_name_or_path": str(tmp_path / "whole"), "template": "smollm2", "infer_dtype": "bfloat16"}
    in_export = named(get_infer_args(exported | {"do_sample": False, "max_new_tokens": 48}), held_out_questions)
    named_itself = {
        "in training": first.before, "after an evaluation": first.after, "after a kill and a resume": resumed.after,
        "in chat": in_chat, "exported into bfloat16": in_export,
    }  # fmt: skip
    print(f"named itself, of 10: {named_itself}")
    assert min(named_itself.values()) >= 8


def named(args: Any, questions: tuple[str, ...]) -> int:
    """How many answers hold the name."""
    model = ChatModel(args)
    return sum(NAME in model.chat([{"role": "user", "content": question}])[0].text for question in questions)
