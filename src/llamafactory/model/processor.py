# SPDX-License-Identifier: Apache-2.0
"""The processor of a model that takes images, videos or sound: what turns them into tensors and placeholder tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import first_line, in_one_line
from ..extras.files import read_json, write_atomic
from ..extras.logging import get_logger
from .config import read_config, takes_media
from .folders import CURE
from .paths import resolve_model_path
from .tokenizer import hub_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.processing_utils import ProcessorMixin

    from ..hparams.model_args import ModelArguments

logger = get_logger(__name__)

_OWN_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# Where a checkpoint may name its processor's class, first to last; the last is there for models of text as well.
_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_TAKES = {
    "image_processor": "images",
    "video_processor": "videos",
    "feature_extractor": "sound",
    "audio_processor": "sound",
}


def load_processor(args: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin | None:
    """Load the processor of a model that takes media, around the tokenizer that is in use.

    A part whose package is not installed (video processors need torchvision) is ``None`` in the processor; what else
    the model takes works without it.

    Args:
        args: ``model_name_or_path`` and its neighbours.
        tokenizer: From :func:`load_tokenizer`; the processor keeps this very object. It gets the chat template that
            comes with the processor if it has none.

    Returns:
        ``None`` for a model of text, and for a checkpoint that comes without the files of its processor.

    Raises:
        ConfigError: The files of the processor cannot be used.
    """
    path = resolve_model_path(str(args.model_name_or_path), args)
    config = read_config(args)
    if not takes_media(config):
        return None
    files = [_read(path, name, args) for name in _FILES]
    if not (files[0] or files[1]):
        logger.warning_rank0(
            "%s models take media, but '%s' holds no processor_config.json or preprocessor_config.json: text only",
            config.model_type,
            path,
        )
        return None
    named = next((name for file in files if (name := file.get("processor_class"))), None)
    with in_one_line(f"model_name_or_path: the processor in '{path}' ({', '.join(_OWN_FILES[:2])})"):
        try:
            return _build(_processor_class(named, config), path, args, tokenizer)
        except ImportError as error:
            logger.warning_rank0("Only text is taken, no media: %s", _reason(error))
            return None


def copy_processor(model: Any, args: ModelArguments, folder: Path) -> None:
    """Put the files of the base model's processor beside weights of the same model; nothing for models of text.

    Args:
        model: The model whose weights were written.
        args: Where its base came from.
        folder: Where the weights are.
    """
    if not takes_media(model.config):
        return
    try:
        path = resolve_model_path(str(args.model_name_or_path), args)
        files = {name: _find(path, name, args) for name in _OWN_FILES}
        for name, file in files.items():
            if file is not None:
                write_atomic(folder / name, Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # the weights are written: they are worth more than these files
        logger.warning_rank0("The files of the processor are not beside the weights in %s: %s", folder, error)


def _find(path: str, name: str, args: ModelArguments) -> str | None:
    """Where a file of the checkpoint lies."""
    from transformers.utils import cached_file

    options = {key: value for key, value in hub_options(args).items() if key != "trust_remote_code"}
    found: str | None = cached_file(
        path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **options,
    )
    return found


def _read(path: str, name: str, args: ModelArguments) -> dict[str, Any]:
    """Content of a file of the checkpoint, ``{}`` when it has none of this name."""
    file = _find(path, name, args)
    if file is None:
        return {}
    content: dict[str, Any] = read_json(file, dict, "model_name_or_path", CURE)
    return content


def _processor_class(name: str | None, config: Any) -> type[ProcessorMixin]:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

    found = processor_class_from_name(name) if name else None
    found = found or PROCESSOR_MAPPING.get(type(config), None)
    if found is None:
        raise ValueError(f"transformers knows no processor {name or f'of {config.model_type} models'}")
    return found


def _build(
    processor_class: type[ProcessorMixin], path: str, args: ModelArguments, tokenizer: PreTrainedTokenizerBase
) -> ProcessorMixin:
    """Make the processor of its parts: ``AutoProcessor`` refuses them all when one of them cannot be loaded."""

    class Partial(processor_class):
        """The same class, which does not mind a part that is not there."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    options = hub_options(args)
    settings, _ = processor_class.get_processor_dict(path, **options)
    parts = [
        tokenizer if name == "tokenizer" else _part(name, path, options) for name in processor_class.get_attributes()
    ]
    # Some checkpoints keep the chat template with the processor, others with the tokenizer: here both have it.
    settings.setdefault("chat_template", tokenizer.chat_template)
    tokenizer.chat_template = tokenizer.chat_template or settings["chat_template"]
    processor: Any = Partial.from_args_and_dict(parts, settings)
    processor.__class__ = processor_class
    return processor


def _part(name: str, path: str, options: dict[str, Any]) -> Any:
    """One part of a processor; ``None`` when its package is not installed."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoVideoProcessor
    from transformers.utils import is_torchvision_available

    loaders = {
        "image_processor": AutoImageProcessor,
        "video_processor": AutoVideoProcessor,
        "feature_extractor": AutoFeatureExtractor,
        "audio_processor": AutoFeatureExtractor,
    }
    if name not in loaders:
        raise ValueError(f"its part {name} is of a kind that is not supported")
    if name == "video_processor" and not is_torchvision_available():
        logger.info_rank0("No videos are taken: transformers needs torchvision for them")
        return None
    try:
        return loaders[name].from_pretrained(path, **options)
    except ImportError as error:
        logger.info_rank0("No %s are taken: %s", _TAKES[name], _reason(error))
        return None


def _reason(error: Exception) -> str:
    return first_line(error).partition(" but it was not found")[0]
