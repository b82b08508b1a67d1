# SPDX-License-Identifier: Apache-2.0
"""Tasks of EleutherAI's lm-evaluation-harness, by name, on the model that is loaded here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..extras.hub import look_for_hub
from ..extras.packages import require, require_installed

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from ..hparams import InferArgs

_NAMES = re.compile(r"^(?:task|group|tag)[ \t]*:\s*(?:-[ \t]*)?[\"']?([^\s\"'#\[]+)", re.MULTILINE)


def find_tasks(names: list[str], task_dir: str) -> TaskManager:
    """Look tasks up by name, before a model is loaded for them.

    Args:
        names: Tasks or groups.
        task_dir: May hold task files (YAML) of the user's own.

    Raises:
        ConfigError: The package is missing, or a task is unknown.
    """
    folder = Path(task_dir).expanduser()
    require_installed("lm_eval", "task", "lm-eval")
    _refuse_unwritten(names, folder)
    require("lm_eval", "task", "lm-eval")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder) if folder.is_dir() else None)
    known = {*manager.all_tasks}
    _refuse([name for name in names if name not in known], known, folder)
    look_for_hub()  # where tasks have their rows
    return manager


def _refuse_unwritten(names: list[str], folder: Path) -> None:
    """Refuse a name that no task file spells in a second; importing lm-eval and reading its YAML takes ten."""
    missing, known = names, set[str]()
    for text in _task_files(folder):
        missing = [name for name in missing if name not in text]
        if not missing:
            return
        known.update(_NAMES.findall(text))
    _refuse(missing, known, folder)


def _task_files(folder: Path) -> Iterator[str]:
    places = find_spec("lm_eval")
    ours = [Path(place, "tasks") for place in (places and places.submodule_search_locations) or ()]
    for root in (*ours, folder):
        for path in root.rglob("*yaml*"):  # what others include is called `_default_yaml`
            if path.is_file():
                yield path.read_text("utf-8", "replace")


def _refuse(missing: list[str], known: Iterable[str], folder: Path) -> None:
    for name in missing:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists those of lm-eval"
        raise ConfigError(f"task: {name!r} is neither a folder of {folder} nor a task of lm-eval; {hint}")


def run_tasks(
    model: Any, tokenizer: Any, names: list[str], manager: TaskManager, args: InferArgs, *, chat: bool
) -> dict[str, Any]:
    """Run tasks and return the library's own results (``results``, ``n-shot``, ``versions``, ``configs``).

    Args:
        model: A causal language model.
        tokenizer: The model's, with the chat template to ask with.
        names: Tasks or groups.
        manager: From :func:`find_tasks`.
        args: ``evaluation`` is read; ``n_shot`` only where the user gave it, for each task has its own.
        chat: Ask through the chat template.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    evaluation = args.evaluation
    found = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=evaluation.batch_size),
        tasks=names,
        task_manager=manager,
        num_fewshot=evaluation.n_shot if "n_shot" in args.keys else None,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        random_seed=evaluation.seed,
        numpy_random_seed=evaluation.seed,
        torch_random_seed=evaluation.seed,
        fewshot_random_seed=evaluation.seed,
        limit=args.data.max_samples,
        log_samples=False,
        bootstrap_iters=1000,
    )
    kept = ("results", "groups", "n-shot", "versions", "higher_is_better", "n-samples")
    return {key: found[key] for key in kept if key in found}
