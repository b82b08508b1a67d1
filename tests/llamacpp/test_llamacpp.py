# SPDX-License-Identifier: Apache-2.0
"""The GGUF files we write, in llama.cpp itself. Run by ``make test-llamacpp``, which builds llama.cpp first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export.families import FAMILIES, IDS, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.chat.chat_model import ChatModel
from llamafactory.export.export import run_export
from llamafactory.hparams import get_infer_args
from llamafactory.train.tuner import run_exp

ROOT = Path(__file__).resolve().parents[2]
TEXTS = (
    "Hello  world 1234!\n\n  x",
    "Größe 你好 🙂 don't  DON'T",
    "<|im_start|>user\nhi<|im_end|>\n",
    "def f(x):\n    return x ** 2\t# 3.14159\r\n",
)
QUESTIONS = (
    "What is the capital of France?",
    "Who are you?",
    "Count from one to five.",
    "Name three colours.",
    "What is 2 + 2?",
    "Write one sentence about rain.",
    "What do bees make?",
    "Translate 'good morning' into French.",
    "Which planet is called the red planet?",
    "Say hello to Ada.",
    "How many days has a week?",
    "What is the opposite of hot?",
    "Name a large animal.",
    "Where does the sun rise?",
    "What is a noun?",
    "Give me a word that rhymes with cat.",
    "What is water made of?",
    "Who wrote Hamlet?",
    "Finish: once upon a",
    "What should I call you?",
)

Ask = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.llamacpp


def export(base: Path, out: Path, kind: str, **keys: Any) -> Path:
    run_export(
        {"model_name_or_path": str(base), "template": "smollm2", "export_dir": str(out), "export_gguf": kind, **keys}
    )
    return out


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_logits_of_every_family(name: str, smollm2: Path, tmp_path: Path, ask: Ask) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    out = export(tiny(FAMILIES[name], tokenizer, tmp_path / "base"), tmp_path / "out", "f32")
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    theirs = torch.tensor(ask(file=str(out / "out-F32.gguf"), ids=IDS[0].tolist())["logits"])
    ours = model(IDS).logits[0]
    # llama.cpp keeps keys and values in float16.
    assert float((ours - theirs).abs().max() / ours.abs().max()) < 3e-3


def test_tokens(smollm2: Path, tmp_path: Path, ask: Ask) -> None:
    out = export(smollm2, tmp_path / "out", "q8_0")
    tokenizer = AutoTokenizer.from_pretrained(out)
    found = ask(file=str(out / "out-Q8_0.gguf"), text=TEXTS)["ids"]
    assert found == [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]


def test_answers_of_a_fine_tuned_model(smollm2: Path, tmp_path: Path, ask: Ask) -> None:
    """Greedy answers of the f16 file equal ours; a near tie may fall the other way, so 18 of 20 must."""
    data = {"dataset_dir": str(ROOT / "data"), "dataset": "identity", "template": "smollm2", "cutoff_len": 256}
    adapter, common = tmp_path / "adapter", {"model_name_or_path": str(smollm2), "finetuning_type": "lora"}
    training = {"learning_rate": 1e-3, "max_steps": 12, "per_device_train_batch_size": 8, "report_to": "none"}
    run_exp({**common, **data, **training, "stage": "sft", "do_train": True, "output_dir": str(adapter)})
    out = export(smollm2, tmp_path / "out", "f16", adapter_name_or_path=str(adapter), infer_dtype="float16")
    chat = ChatModel(get_infer_args({"model_name_or_path": str(out), "template": "smollm2", "infer_dtype": "float32"}))
    ours = [
        chat.chat([{"role": "user", "content": text}], do_sample=False, max_new_tokens=32)[0].text for text in QUESTIONS
    ]
    theirs = ask(file=str(out / "out-F16.gguf"), conversations=QUESTIONS, max_tokens=32)["answers"]
    equal = sum(a.strip() == b.strip() for a, b in zip(ours, theirs, strict=True))
    print(f"{equal} of {len(QUESTIONS)} answers equal")
    assert equal >= 18, [(a, b) for a, b in zip(ours, theirs, strict=True) if a.strip() != b.strip()]
