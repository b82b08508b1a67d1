# SPDX-License-Identifier: Apache-2.0
"""Responses to rows with media: predictions, and completions that are rewarded, as transformers generates them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from media_models import build
from media_rows import Official
from PIL import Image
from transformers import AutoConfig, AutoModelForSequenceClassification

from llamafactory.data.messages import Message
from llamafactory.data.template_loader import get_template, take_media
from llamafactory.hparams import get_train_args
from llamafactory.train.rl.rewards.completion import Completion
from llamafactory.train.rl.rewards.reward_model import load_reward_model

from .running import curve, log_of, train
from .test_media_runs import media_set, run_keys

SEEN = """
import json

def reward(completions, completion_ids, prompts, images, **columns):
    with open({path!r}, "a") as file:
        for text, prompt, paths in zip(completions, prompts, images):
            parts = [part for turn in prompt if isinstance(turn["content"], list) for part in turn["content"]]
            row = [text, paths, [part["image"] for part in parts if part["type"] == "image"]]
            file.write(json.dumps(row) + "\\n")
    return [sum(ids) % 7 for ids in completion_ids]
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def questions(folder: Path) -> list[list[dict[str, Any]]]:
    """The prompts of a set of :func:`media_set` as OpenAI messages, pictures in front where the row has a marker."""
    found = []
    for row in json.loads((folder / "rows.json").read_text()):
        before, marker, after = row["conversations"][0]["value"].partition("<image>")
        media = [{"type": "image", "image": Image.open(folder / name)} for name in row["media"]]
        text = [{"type": "text", "text": words} for words in (before, after) if words]
        parts = [*text[:1], *media, *text[1:]] if before and marker else [*media, *text]
        found.append([{"role": "user", "content": parts}])
    return found


def generated(official: Official, rows: list[list[dict[str, Any]]], tokens: int) -> list[str]:
    """Greedy answers by transformers' processor and model, each prompt alone."""
    model, answers = official.model().eval(), []
    for row in rows:
        text = official.tokenizer.apply_chat_template(row, tokenize=False, add_generation_prompt=True)
        images = [part["image"] for part in row[0]["content"] if part["type"] == "image"]
        given = {"images": [images]} if images else {}
        inputs = official.processor(text=[text], return_tensors="pt", **given)
        ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        answers.append(official.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


@pytest.mark.parametrize(
    "family", ["qwen2_vl", *(pytest.param(one, marks=pytest.mark.slow) for one in ("gemma3", "llava"))]
)
def test_predictions_are_those_of_transformers(family: str, tiny_llama: Path, tmp_path: Path) -> None:
    """Text and pictures in one batch, filled on the left."""
    official = Official(build(family, tmp_path / "model", tiny_llama))
    keys = run_keys(official.folder, family, tmp_path / "out", **media_set(tmp_path)) | {"dataset": None}
    keys |= {"eval_dataset": "rows", "do_train": False, "do_predict": True, "predict_with_generate": True}
    keys.pop("template", None)  # the tokenizer's own Jinja, as the questions are asked of transformers
    out = train(keys | {"max_new_tokens": 6, "do_sample": False, "per_device_eval_batch_size": 4})
    written = [json.loads(line) for line in (out / "generated_predictions.jsonl").read_text().splitlines()]
    assert [row["predict"] for row in written] == generated(official, questions(tmp_path), 6)
    assert written[0]["label"] == "A round thing."


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_rewards_see_what_the_policy_saw(stage: str, tiny_llama: Path, tmp_path: Path) -> None:
    """Pictures and text in one batch; greedy completions of the evaluation are those of transformers."""
    official = Official(build("qwen2_vl", tmp_path / "model", tiny_llama))
    (tmp_path / "reward.py").write_text(SEEN.format(path=str(tmp_path / "seen")))
    keys = run_keys(official.folder, "qwen2_vl", tmp_path / "out", **media_set(tmp_path), stage=stage, template=None)
    keys |= {"reward_funcs": str(tmp_path / "reward.py:reward"), "max_new_tokens": 4, "finetuning_type": "lora"}
    keys |= {"num_generations": 4, "beta": 0.1, "num_iterations": 2} if stage == "grpo" else {}
    keys |= {"eval_dataset": "rows", "do_train": True, "do_eval": True, "eval_rollouts": "greedy"}
    train(keys | {"learning_rate": 1e-30, "max_steps": 1, "output_dir": str(tmp_path / "unmoved")})
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()][-8:]
    assert [text for text, *_ in seen] == generated(official, questions(tmp_path), 4)
    assert all(columns == parts for _, columns, parts in seen)
    assert [columns for _, columns, _ in seen[:3]] == [[str(tmp_path / "0.png")], [str(tmp_path / "1.png")], []]

    out = train(keys | {"per_device_train_batch_size": 8, "learning_rate": 1e-2})
    found = curve(out)
    assert len(found) == 3 and all(torch.tensor(row).isfinite().all() and row[2] > 0 for row in found)
    kl = [row["kl"] for row in log_of(out) if "kl" in row]  # of the policy that has not moved yet none
    assert kl[0] == pytest.approx(0, abs=1e-6) and (stage == "ppo" or kl[-1] > 1e-4)


@pytest.mark.slow
def test_a_reward_model_sees_the_pictures(tiny_llama: Path, tmp_path: Path) -> None:
    """Scores are those of transformers' class on its processor's tensors, pictures and text in one batch."""
    official = Official(build("gemma3", tmp_path / "policy", tiny_llama))
    config = AutoConfig.from_pretrained(official.folder)
    config.num_labels = 1
    judge = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    torch.nn.init.normal_(judge.score.weight, std=1.0)
    judge.save_pretrained(tmp_path / "judge")
    official.tokenizer.save_pretrained(tmp_path / "judge")
    keys = run_keys(official.folder, "gemma3", tmp_path / "out", **media_set(tmp_path), stage="grpo")
    args = get_train_args(keys | {"reward_model": str(tmp_path / "judge"), "reward_model_type": "full"})
    template = get_template(official.tokenizer, args.data)
    take_media(template, official.processor, args.media)
    completions, rows = [], questions(tmp_path)
    for prompt in rows:
        said = Message.of("assistant", "A round thing.")
        completions.append(Completion(tuple(map(Message.from_openai, prompt)), said, said.text, []))
    found = load_reward_model(args, official.tokenizer, template, None)(completions)
    for prompt, score in zip(rows, found.tolist(), strict=True):
        text = {"role": "assistant", "content": [{"type": "text", "text": "A round thing."}]}
        batch = official.batch([[*prompt, text]])
        del batch["labels"]
        with torch.no_grad():
            assert judge(**batch).logits.item() == pytest.approx(score, rel=1e-4, abs=1e-5)
