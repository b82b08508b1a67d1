# SPDX-License-Identifier: Apache-2.0
"""What the user asks of the data: sets, template, lengths, masks, packing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .field import arg, require, split_list

if TYPE_CHECKING:
    from .args import InferArgs, TrainArgs


@dataclass(frozen=True)
class DataArguments:
    """The data: which sets, how they become tokens, which tokens are trained."""

    # Sets.
    dataset: str | None = arg(None, "Training sets: names of dataset_info.json or plain paths, comma list.", comma=True)
    eval_dataset: str | None = arg(None, "Evaluation sets, comma list; not together with val_size.", comma=True)
    dataset_dir: str | dict = arg(
        "data", "Folder of dataset_info.json; or ONLINE, REMOTE:<repo>, or a mapping of dataset entries."
    )
    media_dir: str | None = arg(None, "Folder of relative image, video and audio paths; unset = dataset_dir.")
    max_samples: int | None = arg(None, "Use at most this many rows of each set.")
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = arg(
        "concat", "How sets are mixed: joined, or interleaved until the first / the last / each is used up."
    )
    interleave_probs: str | None = arg(None, "Share of each set when interleaving, comma list.", comma=True)
    deduplicate: bool = arg(False, "Leave out training rows whose tokens equal those of an earlier row.")
    val_size: float = arg(0.0, "Rows held out for evaluation: a share below 1 or a count.")
    eval_on_each_dataset: bool = arg(False, "Report metrics of each evaluation set apart.")
    channel_loss: bool | None = arg(
        None, "Log the loss of each training set apart; unset = where there are several (stages pt, sft)."
    )
    streaming: bool = arg(False, "Encode the training rows while training instead of all before.")
    buffer_size: int = arg(16384, "Streaming: rows that are shuffled among each other.")

    # Template.
    template: str | None = arg(None, "Chat template: a name, a .jinja or .yaml file; unset = the tokenizer's own.")
    tool_format: str | None = arg(None, "Tool-call dialect, instead of the template's.")
    default_system: str | None = arg(None, "System text of rows without one, instead of the template's.")
    enable_thinking: bool | Literal["auto"] | None = arg(
        True,
        "Reasoning templates: true trains a missing thought as an empty one, null puts it in the prompt, false also "
        "strips thoughts, auto looks at the data.",
    )
    preserve_thinking: bool = arg(False, "Keep the thoughts of earlier turns.")

    # Length, masks, packing.
    cutoff_len: int = arg(2048, "Most tokens of one sample.")
    overlong: Literal["truncate", "drop", "error", "split"] = arg(
        "truncate", "A sample beyond cutoff_len is cut, left out, an error, or split at turns."
    )
    train_on_prompt: bool = arg(False, "Train prompt tokens too (stage sft).")
    mask_history: bool = arg(False, "Train the last answer only (stage sft).")
    packing: bool | None = arg(None, "Join short samples up to cutoff_len; unset = on for stage pt.")
    neat_packing: bool = arg(False, "Packing whose samples cannot see each other (stage sft); turns packing on.")
    padding_free: bool | None = arg(None, "Batches without padding; unset = where the attention isolates samples.")

    # Preprocessing.
    preprocessing_batch_size: int = arg(1000, "Rows tokenized at once.")
    preprocessing_num_workers: int | None = arg(None, "Processes that tokenize; unset = one.")
    overwrite_cache: bool = arg(False, "Tokenize again even when a cached result fits.")
    tokenized_path: str | None = arg(None, "Folder of tokenized data: loaded when it exists, else written.")
    data_shared_file_system: bool = arg(False, "Nodes share a disk: only the very first process tokenizes.")
    ignore_pad_token_for_loss: bool = arg(True, "Known from older files; padding is never trained.")
    eval_num_beams: int | None = arg(None, "Beams of answers generated in evaluation.")

    # Preview and check-data.
    report_format: Literal["text", "json"] = arg("text", "check-data prints a report, or one JSON object.")
    preview_format: Literal["text", "json"] = arg("text", "preview prints coloured text, or one JSON object a row.")
    messages: str | None = arg(
        None, "preview: JSON file of one conversation to write out (messages; or an object of messages and tools)."
    )
    preview_samples: int = arg(3, "Rows that preview shows.")


def check(args: TrainArgs | InferArgs) -> None:
    """Rules of the data that hold for every command."""
    data = args.data
    require(data.cutoff_len >= 2, f"cutoff_len: expected 2 or more, got {data.cutoff_len}")
    require(not (data.train_on_prompt and data.mask_history), "mask_history: cannot be combined with train_on_prompt")
    require(data.preview_samples >= 1, f"preview_samples: expected 1 or more, got {data.preview_samples}")
    require(
        data.max_samples is None or data.max_samples >= 1, f"max_samples: expected 1 or more, got {data.max_samples}"
    )


def check_training(args: TrainArgs) -> None:
    """Rules of the data that hold for training."""
    data, stage = args.data, args.finetuning.stage
    for key in ("train_on_prompt", "mask_history", "neat_packing"):
        require(not (getattr(data, key) and stage != "sft"), f"{key}: only for stage sft, not {stage}")
    require(not (data.neat_packing and data.packing is False), "neat_packing: cannot be combined with packing: false")
    _check_sets(args)
    _check_mix(data)
    require(not data.channel_loss or stage in ("pt", "sft"), f"channel_loss: only for stages pt and sft, not {stage}")
    if data.streaming:
        _check_streaming(args)


def _check_streaming(args: TrainArgs) -> None:
    """What needs all rows at once cannot be had from a stream."""
    training = args.training
    refused = {
        "tokenized_path": args.data.tokenized_path,
        "deduplicate": args.data.deduplicate,
        "dataloader_drop_last": training.dataloader_drop_last,
        "cache_ref_log_probs": args.rlhf.cache_ref_log_probs,
        "train_sampling_strategy: group_by_length": training.train_sampling_strategy == "group_by_length",
    }
    for key, value in refused.items():
        require(not value, f"{key}: needs all rows encoded, so not with streaming")
    require(args.data.buffer_size >= 1, f"buffer_size: expected 1 or more, got {args.data.buffer_size}")


def _check_sets(args: TrainArgs) -> None:
    data, training = args.data, args.training
    require(data.val_size >= 0, f"val_size: expected 0 or more, got {data.val_size}")
    if data.val_size > 0:
        require(bool(data.dataset), "val_size: needs dataset")
        require(not data.eval_dataset, "val_size: cannot be combined with eval_dataset")
        require(
            data.val_size < 1 or data.val_size == int(data.val_size),
            f"val_size: expected a share below 1 or a whole number of rows, got {data.val_size}",
        )
    if training.do_train:
        require(bool(data.dataset or data.tokenized_path), "dataset: missing, training needs at least one set")
    evaluates = training.do_eval or training.do_predict or training.eval_strategy != "no"
    if evaluates and not data.tokenized_path:
        key = "do_eval" if training.do_eval else "do_predict" if training.do_predict else "eval_strategy"
        require(bool(data.eval_dataset) or data.val_size > 0, f"{key}: needs eval_dataset or val_size")
    folder = data.dataset_dir
    if isinstance(folder, str) and folder != "ONLINE" and not folder.startswith("REMOTE:"):
        path = Path(folder).expanduser()
        require(not path.exists() or path.is_dir(), f"dataset_dir: {folder} is not a folder")


def _check_mix(data: DataArguments) -> None:
    if data.interleave_probs is None:
        return
    require(data.mix_strategy != "concat", "interleave_probs: needs a mix_strategy that interleaves, not concat")
    shares = split_list(data.interleave_probs)
    for share in shares:
        require(_is_share(share), f"interleave_probs: expected numbers above 0, got {share!r}")
    for key in ("dataset", "eval_dataset"):
        sets = split_list(getattr(data, key))
        require(
            not sets or len(sets) == len(shares),
            f"interleave_probs: {len(shares)} numbers for {len(sets)} sets of {key}",
        )


def _is_share(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
