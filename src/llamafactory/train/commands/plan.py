# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli plan``: what a run will need and whether it fits, found in seconds and without its weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...hparams import get_train_args
from ...hparams.coercion import as_written
from ...hparams.next_command import next_command
from ...model import load_tokenizer
from ..planning.devices import GIB, Planned, find_device
from ..planning.needs import Alternative, Needs, find_needs, nearest_that_fit

if TYPE_CHECKING:
    from ...hparams import TrainArgs


def run_plan(args: Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Print what each process of a training configuration needs on ``device``, and the nearest that fit if it does not.

    Args:
        args: As for training, with ``device`` and ``report_format``.

    Raises:
        ConfigError: The configuration is broken, or the device is not known.
    """
    words = sys.argv[2:] if args is None else args
    train_args = get_train_args(words)
    held = _held_on_cpu(train_args)
    planned = find_device(train_args.plan.device, train_args.training.use_cpu)
    needs = find_needs(train_args, planned)
    del held
    others = [] if needs.fits else nearest_that_fit(train_args, planned)
    if train_args.data.report_format == "json":
        print(json.dumps(as_json(planned, needs, others)))
        return
    _show(train_args, planned, needs, others)
    if not isinstance(words, Mapping) and needs.fits:
        print(f"\nnext: {next_command('train', words)}", flush=True)


def _held_on_cpu(args: TrainArgs) -> Any:
    """Return what a run on a CPU has in memory beside tensors, so that it is there when this process is looked at."""
    if args.plan.device not in (None, "cpu"):
        return None
    with suppress(ConfigError):  # a folder with nothing but a configuration can be planned too
        return load_tokenizer(args.model)


def as_json(planned: Planned, needs: Needs, others: list[Alternative]) -> dict[str, Any]:
    """Return a plan for programs; sizes in bytes, of one process."""
    return {
        "device": planned.name,
        "processes": planned.count,
        **_of(needs),
        "available_bytes": needs.available,
        "parts": needs.parts,
        "trained_parameters": needs.parameters,
        "alternatives": [{"change": other.change, **_of(other.needs)} for other in others],
    }


def _of(needs: Needs) -> dict[str, Any]:
    return {
        "fits": needs.fits,
        "peak_bytes": needs.peak,
        "activation_checkpointing": needs.checkpointing,
        "tokens_per_second_at_most": needs.tokens_per_second,
    }


def _show(args: TrainArgs, planned: Planned, needs: Needs, others: list[Alternative]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    each = f", each of {planned.count} processes" if planned.count > 1 else ""
    table = Table(title=f"{args.model.model_name_or_path} on {planned.name}{each}")
    for heading, side in (("part", "left"), ("GiB", "right"), ("share", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for name, size in needs.parts.items():
        table.add_row(name, f"{size / GIB:.2f}", f"{size / needs.peak:.0%}")
    table.add_section()
    table.add_row("at the fullest moment", f"{needs.peak / GIB:.2f}", f"of {needs.available / GIB:.2f} GiB")
    console.print(table)
    training = args.training
    console.print(
        f"{training.per_device_train_batch_size} x {args.data.cutoff_len} tokens at once, activation checkpointing "
        f"{'on' if needs.checkpointing else 'off'}; {needs.parameters:,} trained parameters" + _speed(needs),
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    console.print("(rows are not read: check-data shows how long yours are; train may take smaller batches of few)")
    console.print("it fits" if needs.fits else "it does not fit", style="green" if needs.fits else "red")
    for other in others:
        keys = " ".join(f"{key}={as_written(value)}" for key, value in other.change.items())
        console.print(
            f"  with {keys}: {other.needs.peak / GIB:.2f} GiB{_speed(other.needs)}", soft_wrap=True, highlight=False
        )
    if not needs.fits and not others:
        console.print("  nothing that plan tries makes it fit; take a smaller model or a larger device", soft_wrap=True)


def _speed(needs: Needs) -> str:
    most = needs.tokens_per_second
    return f"; at most {most:,.0f} tokens/s" if most else ""
