# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli infer``: every row of a data set answered into a JSONL file.

Each answer is on disk as soon as it is made. A run that was stopped, even by ``kill -9``, goes on with the rows that
are missing; at the end the file is put into the order of the data.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from ..data.formats.media import with_markers
from ..data.processor.prompt import split_completion
from ..data.sources.dataset_info import check_columns, find_media_datasets
from ..data.sources.reading import open_set, to_samples
from ..extras.errors import ConfigError, writing
from ..extras.files import parse_json, read_json, write_atomic, write_json
from ..extras.logging import get_logger
from ..extras.text_metrics import mean_of, text_scores
from ..hparams import InferArgs, get_infer_args, split_list

if TYPE_CHECKING:
    from ..data.messages import Sample
    from .chat_model import ChatModel

logger = get_logger(__name__)

Row = dict[str, Any]


def run_infer(args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Answer ``eval_dataset`` (or ``dataset``) into ``save_name`` and print the mean BLEU and ROUGE.

    A line holds ``prompt``, ``predict``, ``label`` (the row's last answer, "" when it has none), ``finish_reason``,
    ``source`` and ``row`` (its number in its set, from 1).

    Args:
        args: Parsed arguments, or what ``get_infer_args`` takes (``None``: the command line).

    Raises:
        ConfigError: The configuration, the model or a row cannot be used, or the file was made with other settings.
    """
    args = args if isinstance(args, InferArgs) else get_infer_args(args)
    path = Path(args.infer.save_name).expanduser()
    if args.infer.matrix_save_name:
        _check_scores(Path(args.infer.matrix_save_name).expanduser())
    samples = list(_samples(args))
    done = _resume(path, _settings(args))
    missing = [(key, sample) for key, sample in samples if key not in done]
    if done:
        rest = "; going on with the rest" if missing else ""
        logger.info("%s holds %d of %d answers%s", path, len(samples) - len(missing), len(samples), rest)
    if missing:
        from .chat_model import ChatModel

        _generate_all(ChatModel(args), missing, path, args)
    rows = _read_rows(path)
    order = {key: number for number, (key, _) in enumerate(samples)}
    rows = sorted((row for row in rows if _key(row) in order), key=lambda row: order[_key(row)])
    write_atomic(path, "".join(_line(row) for row in rows))
    _report(rows, path, args)


def _samples(args: InferArgs) -> Iterator[tuple[tuple[str, int], Sample]]:
    """Yield each row with its key: the set's name and the row's number in it."""
    names = split_list(args.data.eval_dataset) or split_list(args.data.dataset)
    if not names:
        raise ConfigError("dataset: missing; give dataset or eval_dataset")
    sets = find_media_datasets(names, args.data.dataset_dir, args.data.media_dir, args.data.columns)
    check_columns(args.data.columns, sets)
    for attr in sets:
        settled, rows = open_set(attr, args.data.max_samples, args.evaluation.seed)
        for number, sample in enumerate(to_samples(rows, settled), start=1):
            yield (attr.name, number), sample


def _settings(args: InferArgs) -> Row:
    """What answers depend on."""
    model = {key: getattr(args.model, key) for key in ("model_name_or_path", "adapter_name_or_path", "infer_dtype")}
    data = {
        key: getattr(args.data, key)
        for key in (
            *("dataset", "eval_dataset", "dataset_dir", "columns", "media_dir"),
            *("template", "enable_thinking", "max_samples"),
        )
    }
    generating = asdict(args.generating)
    del generating["legacy_text_scores"]  # how answers are judged changes none of them
    settings = {**model, **data, **asdict(args.media), **generating, "seed": args.evaluation.seed}
    return json.loads(json.dumps(settings, default=str))


def _resume(path: Path, settings: Row) -> set[tuple[str, int]]:
    """Return the rows that are answered already; a line cut off by a kill is removed.

    Raises:
        ConfigError: The file is not ours, or was made with other settings.
    """
    if path.is_dir():
        raise ConfigError(f"save_name: {path} is a folder; name a file")
    notes = path.with_name(f".{path.name}.settings.json")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(notes, settings)
        return set()
    if not notes.exists():
        raise ConfigError(
            f"save_name: {path} is there already, and not by a run of infer (no {notes.name}); choose another name"
        )
    before = read_json(notes, dict, "save_name", f"remove it and {path.name}, or choose another save_name")
    for key, value in settings.items():
        if before.get(key) != value:
            raise ConfigError(
                f"{key}: {value!r}, but the answers in {path} were made with {before.get(key)!r}; give that, choose "
                "another save_name, or remove the file"
            )
    rows = _read_rows(path)
    write_atomic(path, "".join(_line(row) for row in rows))
    return {_key(row) for row in rows}


def _check_scores(path: Path) -> None:
    """Only figures of an earlier run are written over."""
    if path.exists():
        cure = "it would be written over; choose another name"
        found = read_json(path, object, "matrix_save_name", cure)
        if not (
            isinstance(found, dict) and "rows" in found and all(isinstance(x, int | float) for x in found.values())
        ):
            raise ConfigError(f"matrix_save_name: {path} holds no figures of infer; {cure}")


def _read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"save_name: {path} cannot be read: {error.strerror}") from None
    # What stands behind the last line end is incomplete.
    return [_read_row(line, f"{path} line {number}") for number, line in enumerate(lines[:-1], start=1) if line]


def _read_row(line: bytes, place: str) -> Row:
    """One answer; a damaged one is not thrown away: it may be worth something to who made it."""
    cure = "; mend or remove the line, or choose another save_name"
    try:
        row = parse_json(line.decode("utf-8"), f"save_name: {place}", cure)
    except UnicodeDecodeError:
        raise ConfigError(f"save_name: {place} is not UTF-8 text{cure}") from None
    if not isinstance(row, dict) or not {"prompt", "predict", "label", "source", "row"} <= set(row):
        raise ConfigError(f"save_name: {place} is no answer of infer{cure}")
    return row


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _key(row: Row) -> tuple[str, int]:
    return row["source"], row["row"]


def _generate_all(model: ChatModel, missing: list[tuple[tuple[str, int], Sample]], path: Path, args: InferArgs) -> None:
    """Ask for many rows at once and append each answer when it is there."""
    waiting = iter(missing)
    with (
        writing(path),
        path.open("a", encoding="utf-8") as file,
        tqdm(total=len(missing), desc="answers", unit="row") as bar,
    ):

        async def worker() -> None:
            for key, sample in waiting:
                row = await _generate(model, key, sample, args.evaluation.seed)
                _append(file, row)
                bar.update()

        async def workers() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(args.infer.infer_concurrency, len(missing))):
                    group.create_task(worker())

        try:
            asyncio.run(workers())
        except ExceptionGroup as group:
            mistakes, others = group.split(ConfigError)
            if mistakes is None or others is not None:
                raise
            raise mistakes.exceptions[0] from None


def _append(file: TextIO, row: Row) -> None:
    file.write(_line(row))
    file.flush()
    os.fsync(file.fileno())


async def _generate(model: ChatModel, key: tuple[str, int], sample: Sample, seed: int) -> Row:
    prompt, label = split_completion(sample)
    try:
        # A seed of its own for each row: a run that was stopped gives the answers of one that was not.
        (response,) = await model.achat(prompt, tools=list(sample.tools), seed=seed + key[1])
    except ConfigError as error:
        origin = sample.origin
        place = f"{origin.file}, row {origin.row}" if origin is not None else f"{key[0]}, row {key[1]}"
        raise ConfigError(f"{place}: {error}") from None
    text = model.engine.template.render(with_markers(prompt), list(sample.tools), add_generation_prompt=True)
    return {
        "prompt": text,
        "predict": response.text,
        "label": label,
        "finish_reason": response.finish_reason,
        "source": key[0],
        "row": key[1],
    }


def _report(rows: list[Row], path: Path, args: InferArgs) -> None:
    print(f"{len(rows)} answers in {path}")
    legacy = args.generating.legacy_text_scores
    judged = [text_scores(row["predict"], row["label"], legacy) for row in rows if row["label"]]
    if judged:
        scores = mean_of(judged)
        print("\n".join(f"  {name:<11} {value:.2f}" for name, value in scores.items()))
        if args.infer.matrix_save_name:
            write_json(Path(args.infer.matrix_save_name).expanduser(), {"rows": len(judged), **scores})
    print(f"\nNext:\n  {shlex.join(['head', '-n', '1', str(path)])}", flush=True)
