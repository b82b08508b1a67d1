# SPDX-License-Identifier: Apache-2.0
"""What the user asks of the data: sets, template, lengths, masks, packing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .field import arg


@dataclass(frozen=True)
class DataArguments:
    """TODO"""

    template: str | None = arg(None, "Chat template name; None = derive one from the tokenizer jinja (parse_template).")
    dataset: str | None = arg(None, "Training set names, comma list (split to list).")
    eval_dataset: str | None = arg(None, "Evaluation set names, comma list; excludes val_size.")
    dataset_dir: str = arg("data", "Folder holding dataset_info.json; also accepts 'ONLINE', 'REMOTE:<repo>' or a dict of entries.")
    media_dir: str | None = arg(None, "Root for relative image/video/audio paths; falls back to dataset_dir.")
    cutoff_len: int = arg(2048, "Max tokens per sample (reduced by 1 internally when packing).")
    train_on_prompt: bool = arg(False, "Put loss on prompt tokens too (SFT only).")
    mask_history: bool = arg(False, "Loss on the final turn only (SFT only; excludes train_on_prompt).")
    streaming: bool = arg(False, "Iterate the data without downloading all; needs max_steps.")
    buffer_size: int = arg(16384, "Shuffle buffer length in streaming mode.")
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = arg("concat", "How several sets are merged: joined, or interleaved until first/last exhausted, or each used once.")
    interleave_probs: str | None = arg(None, "Sampling weight per set when interleaving (comma list, one per set).")
    overwrite_cache: bool = arg(False, "Ignore the datasets-library cache.")
    preprocessing_batch_size: int = arg(1000, "Rows per map() batch (also the packing window).")
    preprocessing_num_workers: int | None = arg(None, "Map() process count.")
    max_samples: int | None = arg(None, "Cap rows per set (not with streaming).")
    eval_num_beams: int | None = arg(None, "Beam count for generation-based evaluation.")
    ignore_pad_token_for_loss: bool = arg(True, "Use -100 instead of pad id in padded labels.")
    val_size: float = arg(0.0, "Hold-out size: fraction or row count (int required when streaming).")
    eval_on_each_dataset: bool = arg(False, "Report metrics for each eval set separately.")
    packing: bool | None = arg(None, "Join short samples up to cutoff_len; defaults to on for pt.")
    neat_packing: bool = arg(False, "Packing with block-diagonal attention between samples (SFT only; turns packing on).")
    tool_format: str | None = arg(None, "Override the tool-call dialect of the template.")
    default_system: str | None = arg(None, "Replace the template default system text.")
    enable_thinking: bool | None = arg(True, "Reasoning templates: False strips thoughts; a missing thought becomes an empty one, in the response with loss if True, in the prompt without loss if False/None.")
    preserve_thinking: bool = arg(False, "Keep thoughts of earlier turns instead of dropping them.")
    tokenized_path: str | None = arg(None, "Save tokenized data here, or load it when it exists.")
    data_shared_file_system: bool = arg(False, "Only the global first rank preprocesses (shared disk) instead of first rank per node.")
