# SPDX-License-Identifier: Apache-2.0
"""What an evaluation of each stage reports, so that a metric that is watched is known before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras.text_metrics import NAMES as TEXT_METRICS

if TYPE_CHECKING:
    from .args import TrainArgs

_REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
_PREFERENCE = ("loss", *_REWARDS, "logps/chosen", "logps/rejected", "entropy")
_RANKING = ("ndcg_at_10", "mrr_at_10", "recall_at_10")
_ROLLOUTS = ("reward", "response_length", "finished")  # and reward/<name> of each reward

# Stage -> metrics, the one that is watched first; those of other packages are not known here.
METRICS: dict[str, tuple[str, ...]] = {
    "pt": ("loss",),
    "sft": ("loss",),
    "rm": ("loss", *_REWARDS, "rewards/mean"),
    "dpo": _PREFERENCE,
    "kto": (*_PREFERENCE, "kl"),
    "ppo": _ROLLOUTS,
    "grpo": _ROLLOUTS,
    "gkd": ("loss", "nll"),
    "classification": ("loss", "accuracy", "f1"),
    "embedding": ("loss", *_RANKING),
    "reranker": ("loss", *_RANKING),
}


def metrics_of(args: TrainArgs) -> tuple[str, ...]:
    """Return the names under which an evaluation of this run reports, without ``eval_``; none for an unknown stage."""
    stage, rlhf = args.finetuning.stage, args.rlhf
    if stage == "classification" and args.data.problem_type == "regression":
        return ("loss", "mae", "pearson")
    if stage == "embedding" and args.finetuning.embedding_loss == "cosent":
        return ("loss", "pearson", "spearman")
    further = {
        "accuracy": stage in ("pt", "sft", "gkd") and args.finetuning.compute_accuracy,
        "nll": any(getattr(args.finetuning, key) for key in ("use_dft_loss", "use_asft_loss", "use_eaft_loss")),
        "kl": args.finetuning.use_asft_loss,
        "losses/sft": stage in ("dpo", "kto") and rlhf.pref_ftx,
        "losses/bco": stage == "dpo" and rlhf.pref_bco_weight,
    }
    texts = TEXT_METRICS if args.training.predict_with_generate else ()
    return (*METRICS.get(stage, ()), *(name for name, there in further.items() if there), *texts)


def default_metric(args: TrainArgs) -> str | None:
    """Return the metric that is watched where nobody names one: the first of the stage, if one is watched at all."""
    training = args.training
    waits = (
        training.load_best_model_at_end
        or training.save_strategy == "best"
        or training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        or args.finetuning.early_stopping_steps is not None
    )
    return METRICS.get(args.finetuning.stage, ("loss",))[0] if waits else None


def is_reported(name: str, args: TrainArgs) -> bool:
    """Whether an evaluation of this run may report a metric; with several sets a set's name may stand before it."""
    plain, known = name.removeprefix("eval_"), metrics_of(args)
    if not known or plain in known:
        return True
    rewards = args.finetuning.stage in ("ppo", "grpo") and "reward/" in plain
    return rewards or any(plain.endswith(f"_{metric}") for metric in known)
