# SPDX-License-Identifier: Apache-2.0
"""A model that also speaks (Qwen2.5-Omni): its thinker answers about images and sound as transformers' own does."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from media_models import QWEN, TEXT, picture, tone
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from llamafactory.chat.chat_model import ChatModel
from llamafactory.data.messages import Message, Part
from llamafactory.hparams import get_infer_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.tuner import export_model, run_exp

NAMED = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a checkpoint of the whole model: the thinker's weights under their prefix, no talker (it is not read)."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder = tmp_path_factory.mktemp("omni")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_special_tokens({"extra_special_tokens": list(NAMED.values())}, replace_extra_special_tokens=False)
    for name, token in NAMED.items():
        setattr(tokenizer, name, token)
        tokenizer.init_kwargs[name] = token
    image, sound = "<|vision_bos|><|IMAGE|><|vision_eos|>", "<|audio_bos|><|AUDIO|><|audio_eos|>"
    jinja = QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", image)
    tokenizer.chat_template = jinja.replace("Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n", sound)
    tokenizer.save_pretrained(folder)

    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in NAMED.items()}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    tower = {"hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    ears = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    config: Any = Qwen2_5OmniThinkerConfig(
        text_config=TEXT | ends | {"vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config=tower | {"depth": 2, "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
        audio_config=ears | {"num_mel_bins": 16, "output_dim": 32, "n_window": 20},
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
    )
    for kind in ("image", "audio", "video"):
        setattr(config, f"{kind}_token_id", ids[f"{kind}_token"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5OmniThinkerForConditionalGeneration(config).float()
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights = {f"thinker.{name.removeprefix('thinker.')}": value for name, value in weights.items()}
    weights |= {"talker.head.weight": torch.arange(6.0), "token2wav.bias": torch.arange(3.0)}  # never read
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    thinker = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": thinker}
    (folder / "config.json").write_text(json.dumps(whole | {"dtype": "float32"}))

    files = WhisperFeatureExtractor(feature_size=16).to_dict() | Qwen2VLImageProcessorPil().to_dict()
    files |= {"image_processor_type": "Qwen2VLImageProcessor", "feature_extractor_type": "WhisperFeatureExtractor"}
    files["processor_class"] = "Qwen2_5OmniProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(files))
    return folder


def test_its_thinker_answers(folder: Path) -> None:
    keys = {"model_name_or_path": str(folder), "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 12}
    chat = ChatModel(get_infer_args(keys))
    engine: Any = chat.engine
    assert set(engine.media) >= {"image", "audio"}
    net = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    image, sound = picture(3, (84, 84)), tone(300)
    parts = {"image": Part("image", image), "audio": Part("audio", {"array": sound, "sampling_rate": 16000})}
    told = {"image": {"type": "image", "image": image}, "audio": {"type": "audio", "audio": sound}}
    answers = set()
    for kinds in (["image"], ["audio"], ["audio", "image"], []):
        content = [*(told[kind] for kind in kinds), {"type": "text", "text": "What?"}]
        inputs = engine.encoder.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            out = net.generate(**inputs, do_sample=False, max_new_tokens=12, eos_token_id=engine.tokenizer.eos_token_id)
        expected = engine.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        question = [Message("user", (*(parts[kind] for kind in kinds), Part("text", "What?")))]
        assert chat.chat(question)[0].text == expected
        answers.add(expected)
    assert len(answers) == 4
    engine.close()


def test_what_was_trained_of_its_thinker_is_put_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scripts/qwen_omni_merge.py, with the answers of PEFT's own model, and of the part that was trained whole."""
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    weights = load_file(whole / "model.safetensors")
    save_file(weights | {"talker.head.weight": torch.ones(3, 2)}, whole / "model.safetensors", {"format": "pt"})
    torch.save({"voice": torch.ones(1)}, whole / "spk_dict.pt")
    thinker = Qwen2_5OmniThinkerForConditionalGeneration
    ids = torch.tensor([[5, 17, 80, 3, 44]])
    tuned = get_peft_model(
        thinker.from_pretrained(folder, dtype=torch.float32),
        LoraConfig(r=2, target_modules=r".*model\.layers.*\.(q_proj|up_proj)", init_lora_weights=False),
    ).eval()
    tuned.save_pretrained(tmp_path / "adapter")
    script = Path(__file__).parents[2] / "scripts" / "qwen_omni_merge.py"

    def run(*words: str) -> torch.Tensor:
        monkeypatch.setattr(sys, "argv", [str(script), *words, "--model_path", str(whole)])
        runpy.run_path(str(script), run_name="__main__")
        written = Path(words[words.index("--save_path") + 1])
        assert torch.equal(load_file(written / "model.safetensors")["talker.head.weight"], torch.ones(3, 2))
        assert (written / "spk_dict.pt").is_file() and (written / "preprocessor_config.json").is_file()
        with torch.no_grad():
            return thinker.from_pretrained(written, dtype=torch.float32).eval()(input_ids=ids).logits

    with torch.no_grad():
        wanted, plain = tuned(input_ids=ids).logits, thinker.from_pretrained(folder)(input_ids=ids).logits
    assert (wanted - plain).abs().max() > 1e-2
    merged = run("merge_lora", "--lora_path", str(tmp_path / "adapter"), "--save_path", str(tmp_path / "a"))
    torch.testing.assert_close(merged, wanted, atol=1e-4, rtol=1e-4)
    tuned.merge_and_unload().save_pretrained(tmp_path / "thinker")
    saved = run("save_full", "--thinker_path", str(tmp_path / "thinker"), "--save_path", str(tmp_path / "b"))
    torch.testing.assert_close(saved, wanted, atol=1e-4, rtol=1e-4)


def test_its_thinker_is_trained_and_exported_with_the_voice_as_it_was(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    picture(3, (84, 84)).save(tmp_path / "a.png")
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A round thing."}]
    (tmp_path / "rows.json").write_text(json.dumps([{"messages": turns, "images": ["a.png"]}] * 4))
    entry = {"file_name": "rows.json", "formatting": "openai", "columns": {"messages": "messages", "images": "images"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    base = {"model_name_or_path": str(folder), "template": "qwen2_omni"}
    run = {"dataset": "rows", "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run"), "max_steps": 2}
    run |= {"learning_rate": 1e-2, "bf16": False, "save_strategy": "no"}
    run_exp(base | run)
    adapted = base | {"adapter_name_or_path": str(tmp_path / "run")}
    export_model(adapted | {"export_dir": str(tmp_path / "export")})

    files = sorted((tmp_path / "export").glob("*.safetensors"))
    found = {name: weight for file in files for name, weight in load_file(file).items()}
    index = json.loads((tmp_path / "export" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == found.keys()
    before = load_file(folder / "model.safetensors")
    assert found.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], found[name])}
    assert changed and all(name.startswith("thinker.model.") for name in changed)
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni" and config["architectures"] == ["Qwen2_5OmniModel"]

    net = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(net, tmp_path / "run").eval()
    args = get_infer_args({"model_name_or_path": str(tmp_path / "export"), "infer_dtype": "float32"})
    again: Any = load_model(load_tokenizer(args.model), args, trainable=False)
    ids = torch.tensor([[5, 40, 80, 7]])
    torch.testing.assert_close(again(ids).logits, tuned(ids).logits, rtol=0, atol=1e-4)
