# SPDX-License-Identifier: Apache-2.0
"""Processors of models that take images: found, made of what is installed, or missed in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from media_models import build
from transformers import AutoImageProcessor

from llamafactory.extras.errors import ConfigError
from llamafactory.model import load_model, load_processor, load_tokenizer


@pytest.fixture(scope="module")
def source(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llava", tmp_path_factory.mktemp("llava"), tiny_llama)


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "model"))


def test_it_is_made_around_the_tokenizer_in_use(folder: Path, infer_args: Any) -> None:
    args = infer_args(folder, add_tokens="<new>")
    tokenizer = load_tokenizer(args.model)
    processor: Any = load_processor(args.model, tokenizer)
    assert processor.tokenizer is tokenizer and "<new>" in tokenizer.get_vocab()
    assert (processor.patch_size, processor.num_additional_image_tokens) == (14, 1)
    assert processor.chat_template == tokenizer.chat_template
    assert processor.image_processor.to_dict() == AutoImageProcessor.from_pretrained(folder).to_dict()


def test_a_chat_template_that_comes_with_the_processor_is_the_tokenizers_too(folder: Path, infer_args: Any) -> None:
    """As older checkpoints have it."""
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    args = infer_args(folder)
    tokenizer = load_tokenizer(args.model)
    assert tokenizer.chat_template is None
    load_processor(args.model, tokenizer)
    assert tokenizer.chat_template == template


def test_models_without_one(folder: Path, tiny_llama: Path, infer_args: Any, caplog: pytest.LogCaptureFixture) -> None:
    args = infer_args(tiny_llama)
    assert load_processor(args.model, load_tokenizer(args.model)) is None
    (folder / "processor_config.json").unlink()
    args = infer_args(folder)
    assert load_processor(args.model, load_tokenizer(args.model)) is None
    assert "holds no processor_config.json or preprocessor_config.json: text only" in caplog.text


def test_what_is_said(folder: Path, infer_args: Any) -> None:
    args = infer_args(folder)
    tokenizer = load_tokenizer(args.model)
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"image_processor": settings["image_processor"] | {"size": "large"}}))
    with pytest.raises(ConfigError, match=r"model_name_or_path: the processor in '.*'"):
        load_processor(args.model, tokenizer)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"processor_config\.json is not JSON"):
        load_processor(args.model, tokenizer)


def test_all_of_a_model_is_loaded(folder: Path, infer_args: Any) -> None:
    args = infer_args(folder)
    model = load_model(load_tokenizer(args.model), args, trainable=False)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert any("vision_tower" in name for name, _ in model.named_parameters())
