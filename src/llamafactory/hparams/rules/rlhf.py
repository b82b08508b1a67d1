# SPDX-License-Identifier: Apache-2.0
"""Rules of the preference and RL stages and of distillation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ... import plugins
from ...extras.logging import get_logger
from ..coercion import coerce
from ..field import require, split_list
from ..ranges import ANY
from ..rlhf_args import RLHFArguments
from ..sharding import sharding_of
from .model import check_bits

if TYPE_CHECKING:
    from ..args import TrainArgs


logger = get_logger(__name__)
_END = 0.01  # of gkd_beta
_SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot")


def check_training(args: TrainArgs) -> None:
    """Rules between stage and preference keys."""
    rlhf, stage, training = args.rlhf, args.finetuning.stage, args.training
    require(
        rlhf.dpo_label_smoothing == 0 or rlhf.pref_loss in _SMOOTHED,
        f"dpo_label_smoothing: only with pref_loss {', '.join(_SMOOTHED)}, not {rlhf.pref_loss}",
    )
    if stage == "dpo":
        require(
            rlhf.dpo_label_smoothing > 0 or rlhf.pref_loss != "exo_pair",
            "pref_loss: exo_pair needs dpo_label_smoothing above 0, for example 0.001",
        )
    if stage in ("dpo", "kto"):
        require(
            not (rlhf.cache_ref_log_probs and args.data.streaming),
            "cache_ref_log_probs: streamed rows are not seen before training; leave it out or set it to false",
        )
    _check_quantization(args)
    if stage in ("rm", "dpo", "kto"):
        require(not training.predict_with_generate, f"predict_with_generate: not in stage {stage}")
    if stage in ("rm", "ppo"):
        require(not training.load_best_model_at_end, f"load_best_model_at_end: not in stage {stage}")
    if stage in ("ppo", "grpo"):
        _check_rl(args)
    if stage == "gkd":
        _check_distillation(args)


def _check_quantization(args: TrainArgs) -> None:
    """Bits of the models beside the trained one; each must be a model of its own."""
    rlhf = args.rlhf
    if rlhf.ref_model_quantization_bit is not None:
        check_bits("ref_model_quantization_bit", rlhf.ref_model_quantization_bit, args.quantization)
        require(
            bool(rlhf.ref_model or rlhf.ref_model_adapters),
            "ref_model_quantization_bit: needs ref_model; without it the reference is the trained model itself",
        )
    if rlhf.reward_model_quantization_bit is not None:
        check_bits("reward_model_quantization_bit", rlhf.reward_model_quantization_bit, args.quantization)
        require(
            rlhf.reward_model_type == "full",
            f"reward_model_quantization_bit: needs reward_model_type full, which is a model of its own, not "
            f"{rlhf.reward_model_type}",
        )


def _check_models(rlhf: RLHFArguments) -> None:
    """Folders that are not there are said before anything is loaded; of a hub id nobody can tell so early."""
    adapter = rlhf.reward_model_type == "lora"
    model = rlhf.reward_model
    if model and rlhf.reward_model_type == "api":
        require(
            model.startswith(("http://", "https://")), f"reward_model: expected http://… or https://…, got {model!r}"
        )
    elif model:
        _check_place("reward_model", model, "adapter_config.json" if adapter else "config.json")
    for name in split_list(rlhf.reward_model_adapters):
        _check_place("reward_model_adapters", name, "adapter_config.json")


def _check_weights(rlhf: RLHFArguments) -> None:
    given, names = split_list(rlhf.reward_weights), split_list(rlhf.reward_funcs)
    names += ["reward_model"] if rlhf.reward_model else []
    for weight in given:
        coerced = coerce("reward_weights", weight, float)
        require(coerced in ANY, ANY.refusal("reward_weights", coerced, weight))
    require(
        len(given) in (0, len(names)),
        f"reward_weights: {len(given)} given for {len(names)} rewards ({', '.join(names)})",
    )


def _check_place(key: str, name: str, file: str) -> None:
    folder = Path(name).expanduser()
    if folder.is_dir():
        require((folder / file).is_file(), f"{key}: {name} has no {file}")
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    require(folder.exists() or not is_path, f"{key}: {name} does not exist")


def _check_rl(args: TrainArgs) -> None:
    """Rules of the stages that reward the model's own answers."""
    rlhf, stage, training = args.rlhf, args.finetuning.stage, args.training
    require(training.do_train, f"stage: {stage} needs do_train: true")
    require(
        bool(rlhf.reward_model or rlhf.reward_funcs or rlhf.rollout_environment),
        f"reward_model: missing, stage {stage} needs it or reward_funcs",
    )
    _check_models(rlhf)
    _check_weights(rlhf)
    require(
        not rlhf.reward_model or rlhf.reward_model_type != "lora" or args.finetuning.finetuning_type == "lora",
        "reward_model_type: lora needs finetuning_type lora",
    )
    _check_rollouts(args)
    require(not training.predict_with_generate, f"predict_with_generate: not in stage {stage}; do_eval rewards answers")
    if stage == "grpo":
        high = rlhf.epsilon if rlhf.epsilon_high is None else rlhf.epsilon_high
        require(rlhf.delta is None or rlhf.delta > 1 + high, f"delta: expected above {1 + high}, got {rlhf.delta}")


def _check_rollouts(args: TrainArgs) -> None:
    """Rules of answers that are drawn while training."""
    rlhf, stage, generating = args.rlhf, args.finetuning.stage, args.generating
    engines = plugins.names("rollouts")
    require(
        rlhf.rollout_engine in engines,
        f"rollout_engine: expected one of {', '.join(engines)}, got {rlhf.rollout_engine!r}",
    )
    require(generating.do_sample and generating.temperature > 0, f"do_sample: stage {stage} needs draws at random")
    for key, plain in (("num_beams", 1), ("repetition_penalty", 1.0)):
        value = getattr(generating, key)
        require(value == plain, f"{key}: {value} is not possible in stage {stage}, whose answers are drawn as they are")
    require(
        generating.max_new_tokens > 0,
        f"max_new_tokens: stage {stage} needs it, max_length does not bound answers",
    )


def _check_distillation(args: TrainArgs) -> None:
    """Rules of stage gkd."""
    rlhf, data, training = args.rlhf, args.data, args.training
    table = rlhf.teacher_model or {}
    require(
        bool(rlhf.teacher_model_name_or_path or table),
        "teacher_model_name_or_path: missing, stage gkd needs a teacher (or teacher_model, one for each data set)",
    )
    sets = [*split_list(data.dataset), *split_list(data.eval_dataset)]
    for name, model in table.items():
        require(name in sets, f"teacher_model: {name} is no set of dataset or eval_dataset ({', '.join(sets)})")
        require(isinstance(model, str) and model != "", f"teacher_model: {name}: expected a model, got {model!r}")
    bare = [name for name in sets if name not in table]
    require(
        not bare or bool(rlhf.teacher_model_name_or_path),
        f"teacher_model: no teacher for {bare[0] if bare else ''}; name it, or give teacher_model_name_or_path",
    )
    several = len({rlhf.teacher_model_name_or_path or "", *table.values()} - {""}) > 1
    evaluates = bool(data.val_size) or (bool(data.eval_dataset) and not data.eval_on_each_dataset)
    require(
        not (several and evaluates and not rlhf.teacher_model_name_or_path),
        "teacher_model: which teacher judges evaluation rows is not known; give eval_dataset and "
        "eval_on_each_dataset, or teacher_model_name_or_path",
    )
    require(not (several and rlhf.teacher_model_adapters), "teacher_model_adapters: several teachers cannot share them")
    sharded = sharding_of(args) is not None or bool(training.deepspeed)
    require(
        not (several and sharded), "teacher_model: several teachers cannot be sharded; train without fsdp, deepspeed"
    )
    if rlhf.teacher_model_quantization_bit is not None:
        check_bits("teacher_model_quantization_bit", rlhf.teacher_model_quantization_bit, args.quantization)
    smoothed = training.label_smoothing_factor
    require(not smoothed, f"label_smoothing_factor: {smoothed} is for cross-entropy, not for stage gkd")
    if 0 < rlhf.gkd_beta < _END or 1 - _END < rlhf.gkd_beta < 1:
        end, kind = ("0", "forward") if rlhf.gkd_beta < 0.5 else ("1", "reverse")
        logger.warning_once(
            f"gkd_beta: {rlhf.gkd_beta} makes a Jensen-Shannon divergence that is about that close to 0, not the "
            f"{kind} KL; for that give {end}"
        )
    if rlhf.gkd_lambda > 0:
        require(not data.packing, "gkd_lambda: the student answers rows one by one; set packing: false")
        require(not data.streaming, "gkd_lambda: not with streaming; the student's answers need the rows at hand")
        _check_rollouts(args)
