# SPDX-License-Identifier: Apache-2.0
"""Tasks of EleutherAI's lm-evaluation-harness, by name, on the model that is loaded here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..extras.hub import look_for_hub
from ..extras.packages import require

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from ..hparams import InferArgs


def find_tasks(names: list[str], task_dir: str) -> TaskManager:
    """Look tasks up by name, before a model is loaded for them.

    Args:
        names: Tasks or groups.
        task_dir: May hold task files (YAML) of the user's own.

    Raises:
        ConfigError: The package is missing, or a task is unknown.
    """
    require("lm_eval", "task", "lm-eval")
    from lm_eval.tasks import TaskManager

    folder = Path(task_dir).expanduser()
    manager = TaskManager(include_path=str(folder) if folder.is_dir() else None)
    known = {*manager.all_tasks}
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists those of lm-eval"
            raise ConfigError(f"task: {name!r} is neither a folder of {folder} nor a task of lm-eval; {hint}")
    look_for_hub()  # where tasks have their rows
    return manager


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
