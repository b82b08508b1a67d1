# SPDX-License-Identifier: Apache-2.0
"""Training on text of models that also take images or sound: nothing of them is lost, what sees and hears stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from media_models import FAMILIES, build, picture, tone
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from llamafactory.chat.chat_model import ChatModel
from llamafactory.data.messages import Message, Part
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.model import is_isolating, load_model, load_tokenizer
from llamafactory.train.tuner import export_model, run_exp

ROWS = [
    {"instruction": "Who are you?", "output": "I am a small model about rivers."},
    {"instruction": "Count the stars, please", "output": "0 1 2 3 4 5 6 7 8 9 and so on"},
    {"instruction": "Tell a story", "output": "The quick brown fox jumps over the lazy dog while it rains."},
    {"instruction": "Hi", "output": "Hello, thanks"},
]


@pytest.fixture(scope="module")
def folder_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda family: build(family, tmp_path_factory.mktemp(family), tiny_llama))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "dataset_info.json").write_text('{"rows": {"file_name": "rows.json"}}')
    return folder


def train(folder: Path, data: Path, out: Path, **keys: Any) -> list[float]:
    base = {
        "model_name_or_path": str(folder),
        "stage": "sft",
        "do_train": True,
        "dataset": "rows",
        "dataset_dir": str(data),
        "output_dir": str(out),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "bf16": False,
        "report_to": "none",
    }
    run_exp(base | keys)
    lines = (out / "trainer_log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_of_text_stay_apart(family: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """In the order and with the keywords of a padding-free batch, against each sequence alone."""
    args = get_train_args(
        {"model_name_or_path": str(folder_of(family)), "dataset": "none", "output_dir": str(tmp_path), "bf16": False}
    )
    model: Any = load_model(load_tokenizer(args.model), args).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(3, 256, (length,), generator=generator) for length in (9, 4, 14)]
    alone = torch.cat([model(input_ids=part[None]).logits[0] for part in parts])
    if is_isolating(model):
        bounds = [0, 9, 13, 27]
        packed = model(
            input_ids=torch.cat(parts)[None],
            position_ids=torch.cat([torch.arange(len(part)) for part in parts])[None],
            cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
            max_seqlen=14,
        ).logits[0]
    else:
        rows = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(part) for part in parts], batch_first=True)
        packed = model(input_ids=rows, attention_mask=mask).logits[mask.bool()]
    assert is_isolating(model) == (family != "qwen2_audio")
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "qwen2_audio"])
def test_full_training_keeps_all_weights(
    family: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    folder = folder_of(family)
    losses = train(folder, data, tmp_path / "out", finetuning_type="full")
    assert losses[-1] < losses[0] - 0.1
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    senses = {name for name in before if any(part in name for part in ("visual", "vision", "audio", "projector"))}
    assert changed and senses and not changed & senses
    # and the folder answers about media: its processor came along
    chat = ChatModel(get_infer_args({"model_name_or_path": str(tmp_path / "out"), "infer_dtype": "float32"}))
    assert ("audio" if family == "qwen2_audio" else "image") in chat.engine.media
    chat.engine.close()


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_audio"])
def test_an_adapter_is_trained_merged_exported_and_served(
    family: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    folder, out, export = folder_of(family), tmp_path / "out", tmp_path / "export"
    losses = train(folder, data, out, finetuning_type="lora")
    assert losses[-1] < losses[0] - 0.1
    names = set(load_file(out / "adapter_model.safetensors"))
    assert names and all("language_model" in name for name in names)

    base = {"model_name_or_path": str(folder), "adapter_name_or_path": str(out)}
    export_model({**base, "export_dir": str(export)})
    net = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(net, out).eval()
    merged = AutoModelForMultimodalLM.from_pretrained(export, dtype=torch.float32).eval()
    ids = torch.tensor([[5, 40, 80, 7]])
    torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, rtol=0, atol=1e-4)

    greedy = {"infer_dtype": "float32", "do_sample": False, "max_new_tokens": 8}
    medium = {"array": tone(300), "sampling_rate": 16000} if family == "qwen2_audio" else picture(3)
    part = Part("audio" if family == "qwen2_audio" else "image", medium)
    question = [Message("user", (part, Part("text", "What is it?")))]
    answers = []
    for keys in (base, {"model_name_or_path": str(export)}, {"model_name_or_path": str(folder)}):
        chat = ChatModel(get_infer_args(keys | greedy))
        answers.append(chat.chat(question)[0].text)
        chat.engine.close()
    assert answers[0] == answers[1] != answers[2]


def test_what_cannot_be_exported_is_said(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    base = {"model_name_or_path": str(folder_of("llava")), "export_dir": str(tmp_path / "out")}
    quantized = {"export_quantization_bit": 4, "export_quantization_dataset": "rows"}
    with pytest.raises(ConfigError, match="export_quantization_bit: models that take images, videos or sound"):
        export_model(base | quantized)
    with pytest.raises(ConfigError, match="export_gguf: model type 'llava' cannot be written"):
        export_model(base | {"export_gguf": "f16"})
    assert not (tmp_path / "out").exists()


def test_a_language_model_with_a_head_of_its_own_is_trained_in_place(
    tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, Llama4Config, Llama4ForConditionalGeneration

    text = {"hidden_size": 32, "intermediate_size": 32, "intermediate_size_mlp": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2}
    eyes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    eyes |= {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "image_size": 28}
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    config = Llama4Config(text_config=text | {"vocab_size": len(tokenizer)}, vision_config=eyes)
    Llama4ForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    losses = train(tmp_path / "model", data, tmp_path / "out", template="chatml", finetuning_type="full")
    assert losses[-1] < losses[0] - 0.1
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "out"))
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and all(name.startswith("language_model.") for name in changed)
