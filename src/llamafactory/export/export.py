# SPDX-License-Identifier: Apache-2.0
"""Export: one folder that stock transformers, vLLM and Ollama load, proven before it gets its name.

base + adapter → merged in float32, rounded once → a staging folder beside ``export_dir`` → reloaded and compared with
base + adapter → renamed. A proof that fails leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import torch
from transformers import AutoConfig, GenerationConfig

from ..data.pairs import separate_pairs
from ..data.template.thinking import resolve_thinking
from ..data.template_loader import get_template
from ..extras.device import probe
from ..extras.errors import ConfigError
from ..extras.files import make_writable, publish_folder, write_atomic, write_json
from ..extras.hub import pushing, require_hub
from ..extras.locks import staging_folder
from ..extras.logging import get_logger
from ..extras.manifest import NAME as MANIFEST
from ..extras.manifest import write_manifest
from ..hparams import InferArgs, get_infer_args, split_list, to_dict
from ..hparams.coercion import as_written
from ..model import load_model, load_tokenizer, resolve_model_path
from ..model.adapter_config import require_merging
from ..model.adapters import load_adapter
from ..model.config import read_config, takes_media
from ..model.generation_config import make_savable, sampling_advice
from ..model.heads import REWARD, VECTORS, head_for
from ..model.loftq import restore_base
from ..model.merging import hold_biases, merge
from ..model.older_readers import add_older_names
from ..model.paths import resolve_adapter_path
from ..model.processor import copy_processor
from ..model.quantizers.choice import stored_method
from ..model.quantizers.layers import dequantize, is_quantized, quantized_layers
from ..model.quantizers.record import require_same_base, trained_for, trained_over
from ..model.tokenizer import hub_options
from ..model.tokenizer_file import replaced_by
from ..model.value_head import drop_bias
from ..model.vectors import vector_settings, write_settings
from .cross_encoder import write_cross_encoder
from .gguf.writer import check_config, check_types, write_gguf
from .model_card import model_card
from .next_steps import next_commands
from .ollama import context_length, modelfile
from .proof import ExportFailure, Proof, prove, prove_template
from .quantization.calibration import read_calibration
from .quantization.quantizer import QuantizationReport, check_packages, quantize_folder
from .readers import Verdict, as_json, verdicts, words
from .voice import add_voice

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data.template.base import Template
    from ..hparams.model_args import QuantizationArguments
    from ..model.heads import Head

logger = get_logger(__name__)

GIGABYTE = 10**9


def run_export(args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Write the merged model to ``export_dir`` and prove it.

    Args:
        args: Parsed arguments, or what ``get_infer_args`` takes (``None``: the command line).

    Raises:
        ConfigError: A key cannot be used, or ``export_dir`` is taken.
        ExportFailure: The written model is not base + adapter; nothing appears under ``export_dir``.
    """
    args = args if isinstance(args, InferArgs) else get_infer_args(args)
    final = _free_folder(args.export.export_dir)
    if args.export.export_hub_model_id:
        require_hub("export_hub_model_id", args.export.export_hub_model_id, args.model.hf_hub_token)
    for name in split_list(args.model.adapter_name_or_path):
        folder = resolve_adapter_path(name, args.model)
        require_merging(folder)
        require_same_base(folder, _quantization(args))
    kinds = check_types(split_list(args.export.export_gguf))
    if args.export.export_legacy_format:
        logger.warning("export_legacy_format: .bin files are not written any more; the export is safetensors")
    config = read_config(args.model)
    if kinds:
        for note in check_config(config).notes:
            logger.warning("export_gguf: %s", note)
    _note_qat(args)
    tokenizer = load_tokenizer(args.model)
    if args.finetuning.stage == "reranker":
        separate_pairs(tokenizer)
    template = get_template(tokenizer, resolve_thinking(args.data))
    head = head_for(args)
    calibration = None
    if args.export.export_quantization_bit is not None:
        _check_quantizable(config, head)
        check_packages(args)
        calibration = read_calibration(args, tokenizer, template)
    with staging_folder(final, "export_dir") as staging:
        dtype = _write_model(args, tokenizer, template, staging, head)
        _write_tokenizer(tokenizer, template, staging)
        logger.info("Proving the export: reload, every tensor, logits, chat template")
        proof = prove(
            lambda: _load(args, tokenizer, head), staging, template, dtype, args.model.trust_remote_code, head
        )
        add_voice(args.model, staging)
        for kind in kinds:
            logger.info("Writing %s", _gguf_name(final, kind))
            write_gguf(staging, staging / _gguf_name(final, kind), kind)
        if head is None and (kinds or calibration is None):  # Ollama reads no quantized safetensors
            weights = f"./{_gguf_name(final, kinds[0])}" if kinds else "."
            text = modelfile(
                template, context_length(config), weights, _end_ids(GenerationConfig.from_pretrained(staging))
            )
            write_atomic(staging / "Modelfile", text)
        if head == REWARD:
            write_cross_encoder(staging)
        elif head == VECTORS:
            write_settings(staging, vector_settings(args), config.get_text_config().hidden_size)
        figures = {"export_proof": dataclasses.asdict(proof)}
        quantization = None
        if calibration is not None:
            # After the GGUF files, which are made of the full weights.
            quantization = quantize_folder(staging, args, tokenizer, calibration)
            figures["quantization"] = dataclasses.asdict(quantization)
        readers = _write_readers(args, staging, final.name, template)
        write_manifest(staging, to_dict(args), None, extra=figures)
        publish_folder(staging, final)
    _print_summary(args, final, template, dtype, proof, head, quantization)
    _print_rows("Runs in:", [(f"{one.reader} {one.version or ''}".strip(), words(one)) for one in readers])
    print("\n" + next_commands(final, args.finetuning.stage), flush=True)
    if args.export.export_hub_model_id:
        _push(final, args)


def write_merged(args: InferArgs, folder: Path) -> None:
    """Write base and adapters as one model, for an engine that takes no such adapter; it is not proven as an export is.

    Args:
        args: Name the base and what is merged into it.
        folder: Where it goes.
    """
    tokenizer = load_tokenizer(args.model)
    template = get_template(tokenizer, resolve_thinking(args.data))
    _write_model(args, tokenizer, template, folder, head=None)
    _write_tokenizer(tokenizer, template, folder)


def _note_qat(args: InferArgs) -> None:
    """Say how a model that was trained with ``qat`` keeps what it learned, where that is not asked for."""
    adapters = [resolve_adapter_path(name, args.model) for name in split_list(args.model.adapter_name_or_path)]
    for folder in adapters or [resolve_model_path(str(args.model.model_name_or_path), args.model)]:
        wanted = trained_for(folder)
        if wanted and any(getattr(args.export, key) != value for key, value in wanted.items()):
            keys = " ".join(f"{key}={as_written(value)}" for key, value in wanted.items())
            logger.warning("export: trained with qat, only these keys write the model that was trained: %s", keys)


def _check_quantizable(config: Any, head: Head | None) -> None:
    if head is not None:
        raise ConfigError("export_quantization_bit: reward models cannot be quantized")
    if takes_media(config):
        raise ConfigError("export_quantization_bit: models that take images, videos or sound cannot be quantized yet")


def _free_folder(export_dir: str | None) -> Path:
    """Return the folder to make, or refuse one that holds something."""
    if not export_dir:
        raise ConfigError("export_dir: missing; name the folder to write the merged model to")
    final = Path(os.path.realpath(Path(export_dir).expanduser()))  # of a link: what it points at can be renamed to
    if final.exists() and not final.is_dir():
        raise ConfigError(f"export_dir: {final} is a file")
    if final.is_dir() and any(final.iterdir()):
        raise ConfigError(f"export_dir: {final} is not empty; choose another folder or remove it")
    make_writable(final.parent, "export_dir")
    return final


def _load(args: InferArgs, tokenizer: PreTrainedTokenizerBase, head: Head | None) -> PreTrainedModel | PeftModel:
    """Load the base in its own type with the last adapter beside it; adapters before it are merged in order."""
    adapters = split_list(args.model.adapter_name_or_path)
    on_cpu = args.export.export_device == "cpu"
    stored = _stored_dtype(args)
    # Merging several adapters rounds only at the very end; a CPU widens float16 because it hardly computes in it.
    # Layers that an adapter holds whole (a score layer) take the base's type: a float32 export needs a float32 one.
    wide = (
        len(adapters) > 1
        or args.model.infer_dtype == "float32"
        or (stored == "float16" and (on_cpu or probe().type == "cpu"))
    )
    dtype: Any = "float32" if wide else stored
    base_args = dataclasses.replace(
        args,
        model=dataclasses.replace(args.model, infer_dtype=dtype),
        quantization=_quantization(args),
        # The embedding gets its adapters' rows, the adapters themselves are put on below.
        finetuning=dataclasses.replace(args.finetuning, finetuning_type="full"),
    )
    model = load_model(tokenizer, base_args, trainable=False, head=head, use_cpu=on_cpu)
    if is_quantized(model):
        for name in adapters:
            restore_base(model, resolve_adapter_path(name, args.model), args)
        _make_dense(model, getattr(torch, dtype), args)
    if head is not None:
        drop_bias(model)
    for number, name in enumerate(adapters, start=1):
        model = load_adapter(model, resolve_adapter_path(name, args.model), trainable=False)
        if number < len(adapters):
            model = merge(model, torch.float32)
    return model.eval()


def _quantization(args: InferArgs) -> QuantizationArguments:
    """Weights are whole for the merge, unless the rounded ones are asked for."""
    bits = args.quantization.quantization_bit if args.export.export_dequantized else None
    return dataclasses.replace(args.quantization, quantization_bit=bits)


def _make_dense(model: PreTrainedModel, dtype: torch.dtype, args: InferArgs) -> None:
    if not any(quantized_layers(model)):
        raise ConfigError(
            f"model_name_or_path: '{args.model.model_name_or_path}' is quantized in a way that cannot be undone here; "
            "name the model with its full weights"
        )
    dequantize(model, dtype)


def _base_row(args: InferArgs) -> str:
    """What the adapter was merged into."""
    name = args.model.model_name_or_path
    if stored := stored_method(read_config(args.model)):
        return f"{name}, whose weights were quantized by {stored} and are dequantized here"
    folder = resolve_adapter_path(split_list(args.model.adapter_name_or_path)[-1], args.model)
    bits = args.quantization.quantization_bit
    over = trained_over(folder) or (f"{bits} bits ({args.quantization.quantization_method})" if bits else None)
    if args.export.export_dequantized:
        return f"{name} in {over}, dequantized"
    whole = f"the full weights of {name}"
    return f"{whole}; trained over {over}, which export_dequantized: true takes instead" if over else whole


def _stored_dtype(args: InferArgs) -> str:
    """Return the type the base's weights are stored in."""
    path = resolve_model_path(str(args.model.model_name_or_path), args.model)
    config = AutoConfig.from_pretrained(path, **hub_options(args.model))
    dtype = config.dtype or config.get_text_config().dtype or torch.float32
    return str(dtype).removeprefix("torch.")


def _write_model(
    args: InferArgs, tokenizer: PreTrainedTokenizerBase, template: Template, folder: Path, head: Head | None
) -> torch.dtype:
    """Merge, cast and save; the model is gone from memory afterwards."""
    wanted = args.model.infer_dtype
    dtype = getattr(torch, _stored_dtype(args) if wanted == "auto" else wanted)
    model = merge(_load(args, tokenizer, head), dtype)
    hold_biases(model)
    if head is None:
        model.generation_config = _generation_config(model.generation_config, tokenizer, template)
    model.config.use_cache = True
    model.save_pretrained(folder, max_shard_size=max(1, int(args.export.export_size * GIGABYTE)))
    copy_processor(model, args.model, folder)
    del model
    gc.collect()
    return dtype


def _generation_config(
    base: GenerationConfig, tokenizer: PreTrainedTokenizerBase, template: Template
) -> GenerationConfig:
    """The base's advice on sampling, with the tokens at which the trained template ends."""
    values = base.to_diff_dict()
    for name in ("transformers_version", "_from_model_config"):
        values.pop(name, None)
    values.update(
        eos_token_id=list(dict.fromkeys([*template.stop_token_ids, *_end_ids(base)])),
        pad_token_id=tokenizer.pad_token_id,
    )
    config = GenerationConfig(**values)
    make_savable(config)
    return config


def _end_ids(config: GenerationConfig) -> list[int]:
    ends = config.eos_token_id
    return [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None]


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, template: Template, folder: Path) -> None:
    """Save the tokenizer with a chat template that renders what was trained."""
    try:
        keep = tokenizer.chat_template is not None
        if keep:
            prove_template(tokenizer, template)
    except (ExportFailure, jinja2.TemplateError, TypeError) as error:
        keep = False
        logger.info("The tokenizer's own chat template is replaced by %s: %s", template.name, error)
    if not keep:
        tokenizer.chat_template = template.jinja()
    tokenizer.save_pretrained(folder)
    add_older_names(folder)
    if other := replaced_by(tokenizer, str(folder)):
        logger.warning(
            "export: beside this config.json transformers 5 replaces the tokenizer by %s, which gives other tokens; "
            "here it is read right. Elsewhere: PreTrainedTokenizerFast.from_pretrained, or a folder that holds the "
            "tokenizer files alone (vllm: --tokenizer, sglang: --tokenizer-path)",
            other,
        )


def _write_readers(args: InferArgs, folder: Path, title: str, template: Template) -> list[Verdict]:
    """Say in the folder which other programs compute the same from it."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=args.model.trust_remote_code)
    found = verdicts(config, template.tokenizer)
    write_json(folder / "compatibility.json", as_json(config, found))
    write_atomic(folder / "README.md", model_card(args, title, template.name, found))
    return found


def _gguf_name(final: Path, kind: str) -> str:
    return f"{final.name}-{kind.upper()}.gguf"


def _print_summary(
    args: InferArgs,
    final: Path,
    template: Template,
    dtype: torch.dtype,
    proof: Proof,
    head: Head | None,
    quantization: QuantizationReport | None,
) -> None:
    weights = sorted(final.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in weights)
    tensors = f"{proof.tensors} equal the base's"
    if args.model.adapter_name_or_path:
        tensors = f"{proof.tensors} equal base + adapter, {proof.changed} of them changed by it"
    rows = [
        ("folder", str(final)),
        *([("merged into", _base_row(args))] if args.model.adapter_name_or_path else []),
        ("weights", f"{size / GIGABYTE:.3g} GB in {len(weights)} file{'s' * (len(weights) != 1)}, {dtype}"),
        ("tensors", tensors),
        ("rounding", f"worst weight at {proof.worst_rounding:.2f} of one rounding of its type"),
        (
            "logits" if head is None else "scores",
            f"differ by {proof.logits:.1e} of the largest (allowed {proof.tolerance:.1e})",
        ),
        ("template", f"{template.name}: equal ids in {proof.conversations} conversations"),
    ]
    if head is None:
        rows.append(("sampling", sampling_advice(GenerationConfig.from_pretrained(final))))
    rows += [("gguf", f"{file.name}, {file.stat().st_size / GIGABYTE:.3g} GB") for file in sorted(final.glob("*.gguf"))]
    if proof.effect:
        lost = min(1.0, proof.logits / proof.effect)
        rows.append(
            ("adapter", f"moves the logits by {proof.effect:.1e}; rounding to {dtype} disturbs {lost:.1%} of it")
        )
    if quantization is not None:
        rows += quantization.rows()
    if proof.unproven:
        rows.append(("by logits only", f"{len(proof.unproven)} layers, such as {proof.unproven[0]}"))
    _print_rows("", rows)


def _print_rows(head: str, rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    print(*[f"\n{head}"] * bool(head), *(f"  {name:<{width}}  {value}" for name, value in rows), sep="\n")


def _push(final: Path, args: InferArgs) -> None:
    from huggingface_hub import HfApi

    repo = str(args.export.export_hub_model_id)
    api = HfApi(token=args.model.hf_hub_token)
    with pushing("export_hub_model_id", final):
        api.create_repo(repo, exist_ok=True)
        # The manifest names folders of this machine: it stays here.
        api.upload_folder(repo_id=repo, folder_path=str(final), ignore_patterns=[MANIFEST])
    print(f"  pushed to {repo}", flush=True)
