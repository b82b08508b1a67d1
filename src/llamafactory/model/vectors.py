# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts: states of a bare model that are pooled, and the files by which sentence-transformers does the same.

Every folder pins what sentence-transformers would else guess: text alone (a decoder's chat template would make each
text a message of a user), the pooling, unit length, and the prompts of training, which stand in the text itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..extras.errors import ConfigError
from ..extras.files import read_json, write_json
from .config import read_config
from .families.family import is_encoder
from .paths import resolve_adapter_path, resolve_model_path
from .tokenizer import adapter_names
from .whole import require_finite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..hparams import InferArgs

Pooling = Literal["last", "mean", "cls"]
_THEIRS: dict[Pooling, str] = {"last": "lasttoken", "mean": "mean", "cls": "cls"}
_OLD_FLAGS: dict[str, Pooling] = {
    "pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls",
}  # fmt: skip
_ROWS = 16


@dataclass(frozen=True)
class VectorSettings:
    """How texts become vectors.

    Attributes:
        pooling: ``last`` or ``mean`` or the first (``cls``) of a text's states.
        query: Prompt of queries.
        document: Prompt of documents.
    """

    pooling: Pooling
    query: str = ""
    document: str = ""

    def prompt(self, kind: str) -> str:
        """The prompt of a ``query``, a ``document`` or of any other text."""
        return {"query": self.query, "document": self.document}.get(kind, "")


def vector_settings(args: InferArgs, trains: bool = False) -> VectorSettings:
    """Settle how texts become vectors: by the keys, else as the adapter or the model was saved, else by its kind.

    Args:
        args: The whole resolved configuration.
        trains: Prompts are those of the keys alone, for only they are in the training data.

    Raises:
        ConfigError: The folder pools in a way that is not known here.
    """
    folders = [resolve_model_path(str(args.model.model_name_or_path), args.model)]
    folders += [resolve_adapter_path(name, args.model) for name in adapter_names(args.model)]
    stored = next((found for folder in reversed(folders) if (found := read_settings(Path(folder)))), None)
    if stored is None:
        stored = VectorSettings("mean" if is_encoder(read_config(args.model)) else "last")
    query, document = args.data.query_prompt, args.data.document_prompt
    return VectorSettings(
        args.finetuning.pooling or stored.pooling,
        (query or "") if trains else stored.query if query is None else query,
        (document or "") if trains else stored.document if document is None else document,
    )


def read_settings(folder: Path) -> VectorSettings | None:
    """Read a folder of sentence-transformers; None = it is none."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return None
    config = read_json(file, dict)
    modes = [ours for ours, theirs in _THEIRS.items() if config.get("pooling_mode") == theirs]
    modes += [ours for flag, ours in _OLD_FLAGS.items() if config.get(flag)]
    if len(modes) != 1:
        raise ConfigError(f"pooling: {file} pools in a way that is not known here; give pooling: last, mean or cls")
    file = folder / "config_sentence_transformers.json"
    prompts = (read_json(file, dict).get("prompts") or {}) if file.is_file() else {}
    document = prompts.get("document") or prompts.get("passage") or ""
    return VectorSettings(modes[0], prompts.get("query") or "", document)


def write_settings(folder: Path, settings: VectorSettings, width: int) -> None:
    """Write what sentence-transformers 5 and later read beside weights or an adapter."""
    prefix = "sentence_transformers.sentence_transformer.modules"
    modules = [
        ("", "sentence_transformers.base.modules.transformer.Transformer"),
        ("1_Pooling", f"{prefix}.pooling.Pooling"),
        ("2_Normalize", f"{prefix}.normalize.Normalize"),
    ]
    listed = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(modules)]
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    files: dict[str, Any] = {
        "modules.json": listed,
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": text},
            "module_output_name": "token_embeddings",
        },
        "1_Pooling/config.json": {
            "embedding_dimension": width, "pooling_mode": _THEIRS[settings.pooling], "include_prompt": True,
        },
        "2_Normalize/config.json": {},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": settings.query, "document": settings.document},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, content)


def pool(hidden: Tensor, inputs: dict[str, Any], pooling: Pooling) -> Tensor:
    """Return [S, d] fp32 the vector of each sequence, of any length.

    Args:
        hidden: [B, L, d] states of a padded batch, or [1, T, d] with ``cu_seqlens``.
        inputs: ``attention_mask`` [B, L] or ``cu_seqlens`` [S + 1]; none = no row is padded.
        pooling: Which states.
    """
    flat, width = hidden.flatten(0, 1), hidden.shape[1]
    if "cu_seqlens" in inputs:
        bounds = inputs["cu_seqlens"].long()
        starts, lengths = bounds[:-1], bounds.diff()
        place = torch.arange(len(flat), device=flat.device)
        owner, inside = torch.bucketize(place, bounds[1:], right=True), None
    else:
        mask = inputs.get("attention_mask")
        mask = torch.ones(hidden.shape[:2], device=flat.device, dtype=torch.long) if mask is None else mask
        lengths = mask.sum(1)
        starts = torch.arange(len(mask), device=flat.device) * width + mask.long().argmax(1)
        owner, inside = torch.arange(len(mask), device=flat.device).repeat_interleave(width), mask.flatten()
    if pooling != "mean":
        return flat.index_select(0, starts if pooling == "cls" else starts + lengths - 1).float()
    states = flat.float() if inside is None else flat.float() * inside[:, None]
    sums = torch.zeros(len(starts), flat.shape[1], device=flat.device, dtype=torch.float32).index_add(0, owner, states)
    return sums / lengths[:, None].float()


@torch.inference_mode()
def encode_texts(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pooling: Pooling, limit: int | None = None
) -> Tensor:
    """Return [N, d] fp32 vectors of unit length on the CPU, of texts with their prompts.

    Args:
        model: The bare model, in evaluation.
        tokenizer: Its own.
        texts: None of them empty.
        pooling: Which states make the vector.
        limit: Most tokens of a text; what is beyond is cut off.

    Raises:
        ModelFault: A vector is no number.
    """
    ids = [tokenizer(text, truncation=limit is not None, max_length=limit)["input_ids"] for text in texts]
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))  # rows of like length share a batch
    vectors: list[Tensor] = [torch.empty(0)] * len(ids)
    for start in range(0, len(order), _ROWS):
        places = order[start : start + _ROWS]
        rows = {"input_ids": [ids[place] for place in places]}
        batch = tokenizer.pad(rows, return_tensors="pt", padding_side="right").to(model.device)
        found = pool(model(**batch, return_dict=True).last_hidden_state, batch, pooling)
        require_finite(found, "hidden states")
        for place, vector in zip(places, torch.nn.functional.normalize(found, dim=-1).cpu(), strict=True):
            vectors[place] = vector
    return torch.stack(vectors)
