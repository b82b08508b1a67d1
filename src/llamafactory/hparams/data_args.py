# SPDX-License-Identifier: Apache-2.0
"""What the user asks of the data: sets, template, lengths, masks, packing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .field import arg
from .ranges import AT_LEAST_1, Range


@dataclass(frozen=True)
class DataArguments:
    """The data: which sets, how they become tokens, which tokens are trained."""

    # Sets.
    dataset: str | None = arg(None, "Training sets: names of dataset_info.json or plain paths, comma list.", comma=True)
    eval_dataset: str | None = arg(None, "Evaluation sets, comma list; not together with val_size.", comma=True)
    dataset_dir: str | dict = arg(
        "data", "Folder of dataset_info.json; or ONLINE, REMOTE:<repo>, or a mapping of dataset entries."
    )
    columns: str | dict | None = arg(
        None, "Columns of sets given as files: prompt=Frage,response=Antwort, or a mapping; unset = by their names."
    )
    media_dir: str | None = arg(None, "Folder of relative image, video and audio paths; unset = dataset_dir.")
    max_samples: int | None = arg(None, "Use at most this many rows of each set.", within=AT_LEAST_1)
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = arg(
        "concat", "How sets are mixed: joined, or interleaved until the first / the last / each is used up."
    )
    interleave_probs: str | None = arg(None, "Share of each set when interleaving, comma list.", comma=True)
    deduplicate: bool = arg(False, "Leave out training rows whose tokens equal those of an earlier row.")
    val_size: float = arg(
        0.0, "Rows held out for evaluation: a share below 1 or a count.", within=Range(least=0, share=True)
    )
    eval_on_each_dataset: bool = arg(False, "Report metrics of each evaluation set apart.")
    channel_loss: bool | None = arg(
        None, "Log the loss of each training set apart; unset = where there are several (stages pt, sft)."
    )
    streaming: bool = arg(False, "Encode the training rows while training instead of all before.")
    buffer_size: int = arg(16384, "Streaming: rows that are shuffled among each other.", within=AT_LEAST_1)

    # Template.
    template: str | None = arg(None, "Chat template: a name, a .jinja or .yaml file; unset = the tokenizer's own.")
    tool_format: str | None = arg(None, "Tool-call dialect, instead of the template's.")
    default_system: str | None = arg(None, "System text of rows without one, instead of the template's.")
    enable_thinking: bool | Literal["auto", "default"] | None = arg(
        "default",
        "Reasoning templates: true trains a missing thought as an empty one and switches thinking on in families "
        "that wait to be asked, null puts it in the prompt, false also strips thoughts, auto looks at the data; "
        "unset = true without the asking.",
    )
    preserve_thinking: bool = arg(False, "Keep the thoughts of earlier turns.")
    thoughts: Literal["mask", "split", "train"] = arg(
        "mask",
        "Earlier answers that the text of a whole conversation shows otherwise than when they were asked for (without "
        "their thought): not trained, trained in a row of their own each (stage sft), or trained as they stand.",
    )

    # Length, masks, packing.
    cutoff_len: int = arg(2048, "Most tokens of one sample.", within=Range(least=2))
    overlong: Literal["truncate", "drop", "error", "split", "keep_start", "keep_end"] = arg(
        "truncate",
        "A sample beyond cutoff_len is cut with sense, left out, an error, split at turns, or only its first or last "
        "tokens are kept.",
    )
    train_on_prompt: bool = arg(False, "Train prompt tokens too (stage sft).")
    mask_history: bool = arg(False, "Train the last answer only (stage sft).")
    train_on_turn_break: bool = arg(False, "Train the line break that the template writes after an answer's end mark.")
    parse_special_tokens: bool = arg(
        False, "Special tokens that the text of a row spells are those tokens, as in other tools; else they are text."
    )
    packing: bool | None = arg(None, "Join short samples up to cutoff_len; unset = on for stage pt.")
    neat_packing: bool = arg(False, "Packing whose samples cannot see each other (stage sft); turns packing on.")
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = arg(
        None, "Stage classification: what the labels of rows are, as in transformers; unset = one class a row."
    )
    query_prompt: str | None = arg(None, "Stage embedding: text before each query, such as 'query: '.")
    document_prompt: str | None = arg(None, "Stage embedding: text before each document.")
    padding_free: bool | None = arg(None, "Batches without padding; unset = where the attention isolates samples.")

    # Preprocessing.
    preprocessing_batch_size: int = arg(1000, "Rows tokenized at once.", within=AT_LEAST_1)
    preprocessing_num_workers: int | None = arg(
        None, "Processes that tokenize; unset = one.", within=Range(least=1, most=1024)
    )
    overwrite_cache: bool = arg(False, "Tokenize again even when a cached result fits.")
    tokenized_path: str | None = arg(None, "Folder of tokenized data: loaded when it exists, else written.")
    data_shared_file_system: bool = arg(False, "Nodes share a disk: only the very first process tokenizes.")
    ignore_pad_token_for_loss: bool = arg(True, "Known from older files; padding is never trained.")
    eval_num_beams: int | None = arg(None, "Beams of answers generated in evaluation.", within=AT_LEAST_1)

    # Preview and check-data.
    report_format: Literal["text", "json"] = arg("text", "check-data and plan print a report, or one JSON object.")
    preview_format: Literal["text", "json"] = arg("text", "preview prints coloured text, or one JSON object a row.")
    messages: str | None = arg(
        None, "preview: JSON file of one conversation to write out (messages; or an object of messages and tools)."
    )
    preview_samples: int = arg(3, "Rows that preview shows.", within=AT_LEAST_1)
