# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Pro: blocks that are inserted without effect, and are all that is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.block_expansion import FIELD, expand_folder, expanded_blocks

from .conftest import Keys
from .running import train, weights_of

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
SCRIPT = Path(__file__).parents[2] / "scripts" / "llama_pro.py"


@pytest.fixture(scope="module")
def base(make_tiny_model: Any) -> Path:
    return make_tiny_model("qwen3", num_hidden_layers=4)


@pytest.fixture(scope="module")
def expanded(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pro") / "expanded"
    assert expand_folder(str(base), str(folder), 2) == [2, 5]
    return folder


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=IDS).logits


def test_an_expanded_model_is_its_base_and_says_where_it_grew(base: Path, expanded: Path) -> None:
    """LLaMA-Factory's rule: the last block of each of N parts of the expanded model."""
    assert torch.equal(logits(expanded), logits(base))
    config = AutoModelForCausalLM.from_pretrained(expanded).config
    assert config.num_hidden_layers == 6 and getattr(config, FIELD) == [2, 5] and len(config.layer_types) == 6
    setattr(config, FIELD, None)
    stride = 6 // 2
    assert expanded_blocks(config, 2, 6) == list(range(stride - 1, 6 + stride - 1, stride)) == [2, 5]


def test_only_the_inserted_blocks_are_trained(base: Path, expanded: Path, keys: Keys) -> None:
    run = train(keys(
        model_name_or_path=str(expanded), finetuning_type="freeze", use_llama_pro=True, freeze_trainable_layers=2,
        max_steps=2, learning_rate=1e-2,
    ))  # fmt: skip
    before, after = weights_of(expanded), weights_of(run)
    changed = {name.split(".")[2] for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert changed == {"2", "5"}


def test_lora_keeps_to_the_inserted_blocks(expanded: Path, keys: Keys) -> None:
    args = get_train_args(keys(model_name_or_path=str(expanded), use_llama_pro=True))
    model = load_model(load_tokenizer(args.model), args)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(names) == 2 * 7 * 2 and all(".layers.2." in name or ".layers.5." in name for name in names)


def test_what_cannot_be_expanded_is_one_line(base: Path, expanded: Path, keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^num_expand: 3 does not divide the 4 blocks of the model$"):
        expand_folder(str(base), str(tmp_path / "new"), 3)
    with pytest.raises(ConfigError, match=r"^output_dir: .* is there already"):
        expand_folder(str(base), str(expanded), 2)
    assert not (tmp_path / "new").exists()
    args = get_train_args(keys(model_name_or_path=str(base), use_llama_pro=True))
    with pytest.raises(ConfigError, match=r"^use_llama_pro: config.json has no expanded_blocks"):
        load_model(load_tokenizer(args.model), args)
    with pytest.raises(ConfigError, match=r"^use_llama_pro: only with finetuning_type freeze or lora, not full"):
        get_train_args(keys(use_llama_pro=True, finetuning_type="full"))


@pytest.mark.slow
def test_the_script(base: Path, tmp_path: Path) -> None:
    words = ["--model_name_or_path", str(base), "--output_dir", str(tmp_path / "new"), "--num_expand", "4"]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Inserted blocks: 1, 3, 5, 7" in done.stdout, done.stderr[-500:]
    again = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert again.returncode == 1 and again.stderr.strip().splitlines()[-1].startswith("error: output_dir: ")
