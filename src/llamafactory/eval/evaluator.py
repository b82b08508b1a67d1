# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli eval``: benchmarks of a model, its adapter applied, as a table, a JSON file and a picture."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..extras.files import write_json
from ..extras.plotting import plot_bars
from ..hparams import InferArgs, get_infer_args, split_list
from ..hparams.next_command import next_command, words_of
from .harness import find_tasks, run_tasks

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from ..data.template.base import Template
    from .questions import Benchmark

RESULTS, PICTURE = "results.json", "results.png"
_OURS = Path(__file__).parent / "benchmarks"  # they come with the package, so that they are found from any folder


@dataclass(frozen=True)
class LocalTask:
    """A multiple-choice benchmark in ``task_dir``."""

    name: str  # as the user wrote it, such as mmlu_test
    benchmark: Benchmark
    split: str


def run_eval(args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Run the benchmarks of a configuration; see :class:`Evaluator`."""
    Evaluator(args).eval()


class Evaluator:
    """Runs the benchmarks that ``task`` names, in a comma list, and writes what came out to ``save_dir``.

    ``NAME_SPLIT`` (such as ``mmlu_test``) is the folder ``NAME`` of ``task_dir``; any other name is a task of lm-eval.

    Args:
        args: Parsed arguments, or what ``get_infer_args`` takes (``None``: the command line).
    """

    def __init__(self, args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
        self.args = args if isinstance(args, InferArgs) else get_infer_args(args)

    def eval(self) -> None:
        """Load the model once, run everything on it, print it and write it down.

        Raises:
            ConfigError: A task is unknown or broken, or ``save_dir`` is there already.
        """
        args = self.args
        names = _task_names(args)
        folder = _free_folder(args.evaluation.save_dir)
        local = [task for name in names if (task := _find_local(name, Path(args.evaluation.task_dir).expanduser()))]
        others = [name for name in names if name not in {task.name for task in local}]
        for task in local:
            task.benchmark.check(task.split, args.evaluation.n_shot)
        manager = find_tasks(others, args.evaluation.task_dir) if others else None
        results = _evaluate(args, local, others, manager)
        for name, rows in tables(results).items():
            _show(name, rows)
        if folder is not None:
            _write(results, folder, ", ".join(names))
        else:
            print("\nsave_dir=saves/eval keeps these figures in a file", flush=True)
        print(f"\nNext:\n  {_next(args)}", flush=True)


def _next(args: InferArgs) -> str:
    """What to type after an evaluation: the same configuration talks."""
    return next_command("chat", sys.argv[2:] if sys.argv[1:2] == ["eval"] else words_of(args))


def _task_names(args: InferArgs) -> list[str]:
    names = split_list(args.evaluation.task)
    if not names:
        raise ConfigError("task: missing; give a folder of task_dir with its split (mmlu_test) or a task of lm-eval")
    return names


def _free_folder(save_dir: str | None) -> Path | None:
    if save_dir is None:
        return None
    folder = Path(save_dir).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"save_dir: {folder} is there already; choose another folder or remove it")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"save_dir: {folder} cannot be made: {there} is a file, or cannot be written")
    return folder


def _find_local(name: str, root: Path) -> LocalTask | None:
    from .questions import Benchmark

    stem, _, split = name.rpartition("_")
    folder = root / stem if (root / stem).is_dir() else _OURS / stem
    if not stem or not folder.is_dir():
        return None
    if not (folder / "mapping.json").is_file():
        raise ConfigError(f"task: {folder / 'mapping.json'} does not exist; it names the subjects")
    return LocalTask(name, Benchmark(folder), split)


def _evaluate(
    args: InferArgs, local: list[LocalTask], others: list[str], manager: TaskManager | None
) -> dict[str, Any]:
    """Load the model once and run everything on it."""
    from ..model import load_model, load_tokenizer  # not above: what is misspelt is refused before torch is there

    tokenizer = load_tokenizer(args.model)
    template = _template(args, tokenizer)
    model = load_model(tokenizer, args, trainable=False).eval()
    results: dict[str, Any] = {"model": args.model.model_name_or_path, "adapter": args.model.adapter_name_or_path}
    for task in local:
        results[task.name] = _multiple_choice(model, tokenizer, template, task, args)
    if manager is not None:
        if template is not None:
            tokenizer.chat_template = template.jinja()
        results["lm-eval"] = run_tasks(model, tokenizer, others, manager, args, chat=template is not None)
    return results


def _template(args: InferArgs, tokenizer: Any) -> Template | None:
    """The template the user named; none named means questions as plain text, as for a base model."""
    if args.data.template is None:
        return None
    from ..data.template.thinking import resolve_thinking
    from ..data.template_loader import get_template

    return get_template(tokenizer, resolve_thinking(args.data))


def _multiple_choice(
    model: Any, tokenizer: Any, template: Template | None, task: LocalTask, args: InferArgs
) -> dict[str, Any]:
    from ..model.rope import context_length
    from .multiple_choice import PromptBuilder, score

    evaluation = args.evaluation
    context = context_length(model.config) or 1 << 30
    builder = PromptBuilder(template, tokenizer, evaluation.lang, context - 1)
    right = score(
        model,
        builder,
        task.benchmark,
        task.split,
        evaluation.n_shot,
        evaluation.seed,
        evaluation.batch_size,
        tokenizer.pad_token_id,
    )
    by_category: dict[str, list[bool]] = {}
    for subject in task.benchmark.subjects:
        by_category.setdefault(subject.category, []).extend(right[subject.id])
    everything = [value for values in right.values() for value in values]
    return {
        "average": _percent(everything),
        "questions": len(everything),
        "n_shot": evaluation.n_shot,
        "categories": {name: _percent(values) for name, values in by_category.items()},
        "subjects": {name: _percent(values) for name, values in right.items()},
    }


def _percent(values: list[bool]) -> float:
    return round(100 * sum(values) / max(len(values), 1), 2)


def tables(results: dict[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """Return what is shown of ``results.json``: (label, percent) by task."""
    shown: dict[str, list[tuple[str, float]]] = {}
    for name, found in results.items():
        if name == "lm-eval":
            for task, metrics in {**found["results"], **found.get("groups", {})}.items():
                shown[task] = [
                    (metric.removesuffix(",none"), round(100 * value, 2))
                    for metric, value in metrics.items()
                    if isinstance(value, float) and "stderr" not in metric
                ]
        elif isinstance(found, dict):
            shown[name] = [*found["subjects"].items(), *found["categories"].items(), ("average", found["average"])]
    return shown


def _show(name: str, rows: list[tuple[str, float]]) -> None:
    width = max((len(label) for label, _ in rows), default=0)
    print(f"\n{name}")
    for label, value in rows:
        print(f"  {label:<{width}}  {value:6.2f}")


def _write(results: dict[str, Any], folder: Path, title: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULTS, results)
    bars = {f"{name} {label}".strip(): value for name, rows in tables(results).items() for label, value in rows}
    plot_bars(folder / PICTURE, bars, "percent", title)
    print(f"\nwritten: {folder / RESULTS}, {folder / PICTURE}", flush=True)
