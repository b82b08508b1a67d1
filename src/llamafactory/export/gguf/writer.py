# SPDX-License-Identifier: Apache-2.0
"""Write an exported folder as one GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.packages import require
from ...model.tokenizer import open_tokenizer
from .architectures import ARCHITECTURES, Architecture, metadata, rope_factors, to_gguf
from .limits import Limits, llama_cpp_limits
from .vocabulary import Vocabulary, vocabulary

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

FLOATS = ("f32", "f16", "bf16")
# What the package gguf can quantize to; llama-quantize of llama.cpp makes the others from an f16 file.
TYPES = (*FLOATS, "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "tq2_0", "tq1_0")


def check_types(kinds: list[str]) -> list[str]:
    """Return the types asked for, in lower case.

    Raises:
        ConfigError: One is unknown, or the package that writes them is missing.
    """
    kinds = [kind.lower() for kind in kinds]
    if kinds:
        require("gguf", "export_gguf")
    for kind in kinds:
        if kind not in TYPES:
            known = ", ".join(TYPES) + _by_llama_quantize(kind)
            raise ConfigError(f"export_gguf: unknown type {kind!r}; known: {known}")
    return kinds


def _by_llama_quantize(kind: str) -> str:
    """How to come by a type that only llama.cpp itself writes."""
    if not re.fullmatch(r"q[2-8]_k(_[sml])?|iq[1-4]_\w+", kind):
        return ""
    return f"; export f16 and run llama.cpp's `llama-quantize FILE-f16.gguf FILE-{kind}.gguf {kind.upper()}`"


def check_config(config: PretrainedConfig) -> Limits:
    """Return what llama.cpp makes of a model.

    Raises:
        ConfigError: No GGUF file of it would be right.
    """
    limits = llama_cpp_limits(config)
    if limits.refusal is not None:
        raise ConfigError(f"export_gguf: {limits.refusal}")
    return limits


def write_gguf(folder: Path, file: Path, kind: str) -> int:
    """Write the model of an exported folder to ``file``.

    One weight at a time is in memory. Vectors stay float32; embedding and output of a type below eight bits are
    written as ``q8_0``, as are rows that do not fill whole blocks as ``f16``.

    Args:
        folder: Weights (safetensors), config, tokenizer, and generation config.
        file: Where to write; it is complete when the call returns.
        kind: One of ``TYPES``.

    Returns:
        How many tensors were written.

    Raises:
        ConfigError: Model or tokenizer cannot be written.
    """
    from gguf import GGUFWriter, LlamaFileType
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    context = check_config(config).context
    assert context is not None
    family = ARCHITECTURES[config.model_type]
    tokenizer = open_tokenizer(str(folder))
    words = vocabulary(tokenizer, config.vocab_size)
    writer = GGUFWriter(file, family.name)
    writer.add_name(file.stem)
    writer.add_file_type(LlamaFileType[_file_type(kind)])
    for key, value in metadata(config, family, context).items():
        _add(writer, f"{family.name}.{key}", value)
    _add_vocabulary(writer, words, tokenizer, folder)
    tensors = list(_plan(folder, config, family, kind))
    for name, shape, stored, _ in tensors:
        _announce(writer, name, shape, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, _, stored, load in tensors:
        writer.write_tensor_data(_pack(load(), stored))
    writer.close()
    return len(tensors)


def _file_type(kind: str) -> str:
    return {"f32": "ALL_F32"}.get(kind, f"MOSTLY_{kind.upper()}")


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_string(key, value)


def _add_vocabulary(writer: GGUFWriter, words: Vocabulary, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.scores is not None:
        writer.add_token_scores(words.scores)
    if words.merges is not None:
        writer.add_token_merges(words.merges)
    if words.space_prefix is not None:
        writer.add_add_space_prefix(words.space_prefix)
    ends = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    # The first end token is where a turn of the trained template ends.
    writer.add_eos_token_id(ends[0] if isinstance(ends, list) else ends)
    for token, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    ):
        if token is not None:
            add(token)
    writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _plan(folder: Path, config: PretrainedConfig, family: Architecture, kind: str) -> Iterator[tuple]:
    """Yield ``(name, shape, stored type, load)`` of every tensor; ``load()`` reads it."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map
    from safetensors import safe_open

    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == family.name)
    assert isinstance(arch, MODEL_ARCH)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    factors = rope_factors(config, family)
    if factors is not None:
        yield "rope_freqs.weight", tuple(factors.shape), "f32", lambda: factors
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for source in weights.keys():  # noqa: SIM118 - not a dict
                name = names.get_name(source, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise ConfigError(f"export_gguf: {source} has no name in llama.cpp's {family.name}")
                shape = tuple(weights.get_slice(source).get_shape())

                def load(source: str = source, file: Path = file) -> Tensor:
                    with safe_open(file, "pt") as again:
                        return to_gguf(source, again.get_tensor(source), config, family)

                yield name, shape, _stored(name, shape, kind), load


def _stored(name: str, shape: tuple[int, ...], kind: str) -> str:
    """Return the type one tensor is written in."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) < 2:
        return "f32"
    if kind not in FLOATS and re.match(r"(token_embd|output)\.weight", name):
        kind = "q8_0"
    block, _ = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
    return kind if shape[-1] % block == 0 else "f16"


def _announce(writer: GGUFWriter, name: str, shape: tuple[int, ...], stored: str) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    kind = GGMLQuantizationType[stored.upper()]
    if stored in ("f32", "f16"):
        dtype = np.dtype(np.float32 if stored == "f32" else np.float16)
        size = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(name, shape, dtype, size, raw_dtype=kind)
        return
    packed = quant_shape_to_byte_shape(shape, kind)
    writer.add_tensor_info(name, packed, np.dtype(np.uint8), int(np.prod(packed)), raw_dtype=kind)


def _pack(tensor: Tensor, stored: str) -> np.ndarray:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return quantize(tensor.float().contiguous().numpy(), GGMLQuantizationType[stored.upper()])
