# SPDX-License-Identifier: Apache-2.0
"""Rules of sets, template, lengths, masks and packing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...extras.surrogates import refuse_lone_in_text
from ..data_args import DataArguments
from ..field import require, split_list
from ..ranges import POSITIVE

if TYPE_CHECKING:
    from ..args import InferArgs, TrainArgs

ON_ANSWERS = ("sft", "gkd")  # stages that train the answers of conversations
OF_ANSWERS = ("train_on_prompt", "mask_history", "neat_packing")  # keys that these alone take


def check(args: TrainArgs | InferArgs) -> None:
    """Rules of the data that hold for every command."""
    data = args.data
    refuse_lone_in_text(data.default_system or "", "default_system")
    require(not (data.train_on_prompt and data.mask_history), "mask_history: cannot be combined with train_on_prompt")


def check_training(args: TrainArgs) -> None:
    """Rules of the data that hold for training."""
    data, stage = args.data, args.finetuning.stage
    for key in OF_ANSWERS:
        require(not getattr(data, key) or stage in ON_ANSWERS, f"{key}: only for stage sft or gkd, not {stage}")
    require(
        data.thoughts != "split" or stage in ON_ANSWERS,
        f"thoughts: split is only for stage sft or gkd, not {stage}; choices: mask, train",
    )
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


def _check_sets(args: TrainArgs) -> None:
    data, training = args.data, args.training
    if data.val_size > 0:
        require(bool(data.dataset), "val_size: needs dataset")
        require(not data.eval_dataset, "val_size: cannot be combined with eval_dataset")
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
        return float(text) in POSITIVE
    except ValueError:
        return False
