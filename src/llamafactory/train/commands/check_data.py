# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli check-data``: every row looked at before a run, as a report for eyes and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data.checking import DataCheck, check_data
from ...data.loader import resolve_stage, sets_for
from ...data.prepare.report import unread_line
from ...data.prepare.shards import Encoder
from ...data.preview import show_lengths
from ...data.sources.dataset_info import check_columns
from ...data.template.thinking import resolve_thinking
from ...extras.errors import ConfigError
from ...extras.files import write_json
from ...extras.plotting import plot_histograms
from ...hparams import get_train_args, split_list
from ...hparams.next_command import next_command
from .preprocess import stage_processor, tokenizer_and_template

NAME = "check_data"


def run_check_data(args: Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Check the data of a training configuration; only the tokenizer is loaded.

    The report goes to stdout (``report_format: text`` or ``json``), and as ``check_data.json`` and ``check_data.png``
    into ``output_dir``.

    Args:
        args: As for training.

    Raises:
        ConfigError: Some row is broken; the report was given before.
    """
    train_args = get_train_args(args)
    processor = stage_processor(train_args.finetuning.stage)
    data = resolve_thinking(resolve_stage(processor, train_args))
    tokenizer, template = tokenizer_and_template(replace(train_args, data=data))
    names = {"train": split_list(data.dataset), "eval": split_list(data.eval_dataset)}
    sets = [(part, attr) for part, some in names.items() for attr in sets_for(template, some, data)]
    if not sets:
        raise ConfigError("dataset: missing; give dataset or eval_dataset")
    check_columns(data.columns, [attr for _, attr in sets])
    found = check_data(sets, Encoder(processor, template, tokenizer, data))
    if found.bad == 1 and all(check.rows <= 1 for check in found.sets) and data.report_format == "text":
        raise ConfigError(_first_problem(found))  # an empty file: tables of nothing hide the line
    folder = Path(str(train_args.training.output_dir))
    write_json(folder / f"{NAME}.json", found.to_dict())
    histograms = {source.name: (source.steps, source.histogram) for source in found.report.sources}
    plot_histograms(folder / f"{NAME}.png", histograms, data.cutoff_len, "tokens of a sample")
    if data.report_format == "json":
        print(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        _show(found, folder)
    if found.bad:
        raise ConfigError(f"check-data: {found.bad:,} broken rows; the first: {_first_problem(found)}")
    if data.report_format != "json" and args is None:
        print(f"\nnext: {next_command('preview', sys.argv[2:])}", flush=True)


def _show(found: DataCheck, folder: Path) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 120  # a log file has no width of its own
    console.print(found.report.table())
    for note in found.report.notes():
        console.print(note, soft_wrap=True, highlight=False)
    for source in found.report.sources:
        if source.unread:
            line = unread_line(source.name, source.unread)
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(found.table())
    show_lengths(found.report, console)
    for check in found.sets:
        for line in check.places():
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        for problem in check.problems:
            console.print(problem, style="red", soft_wrap=True, highlight=False, markup=False)
        if check.bad > len(check.problems):
            console.print(f"… and {check.bad - len(check.problems):,} more in {check.name}")
    console.print(f"\n{folder / NAME}.json, {folder / NAME}.png", soft_wrap=True, highlight=False)


def _first_problem(found: DataCheck) -> str:
    return next(problem for check in found.sets for problem in check.problems)
