# SPDX-License-Identifier: Apache-2.0
"""Stage, fine-tuning type and what all stages share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .field import arg
from .ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE


@dataclass(frozen=True)
class FinetuningArguments:
    """The kind of training: stage, tuner, losses and what is reported."""

    stage: str = arg(
        "sft",
        "Training stage: pt, sft, rm, ppo, dpo, kto, grpo, gkd, classification, embedding, reranker.",
    )
    finetuning_type: str = arg(
        "lora", "Which weights are trained: lora, oft, freeze, full, or a method of PEFT (docs/methods.md)."
    )
    pure_bf16: bool = arg(False, "Everything in bfloat16, trained weights too.")
    stochastic_rounding: bool = arg(
        False, "With pure_bf16: round trained weights up or down at random, so that small updates count."
    )
    disable_shuffling: bool = arg(False, "Take the rows in the order they are stored.")
    early_stopping_steps: int | None = arg(
        None, "Stop after this many evaluations without a better metric.", within=AT_LEAST_1
    )
    loss_watchdog_threshold: float | None = arg(
        None, "End the run when the logged loss is above this again and again.", within=POSITIVE
    )
    loss_watchdog_patience: int = arg(3, "How many logs in a row the loss may be above that.", within=AT_LEAST_1)
    generate_samples: int = arg(
        0, "Answer the first so many prompts of each evaluation set at every evaluation; logged as text.",
        within=AT_LEAST_0,
    )  # fmt: skip
    compute_accuracy: bool = arg(False, "Report token accuracy in evaluation.")
    plot_loss: bool = arg(False, "Draw the loss curve as a picture.")
    include_effective_tokens_per_second: bool = arg(False, "Report trained tokens per second.")

    # Losses of stage sft.
    use_dft_loss: bool = arg(False, "DFT loss: cross-entropy weighted by the token's probability.")
    use_asft_loss: bool = arg(False, "ASFT loss: DFT plus a pull to the reference model.")
    asft_alpha: float = arg(0.1, "Weight of ASFT's pull.", within=AT_LEAST_0)
    use_eaft_loss: bool = arg(False, "EAFT loss: cross-entropy weighted by entropy.")
    eaft_alpha: float = arg(1.0, "Exponent of EAFT's entropy.", within=AT_LEAST_0)

    # Stages without a language-model head.
    class_names: str | None = arg(
        None, "Classes in the order of the scores, comma list; unset = those of the training rows, sorted.", comma=True
    )
    pooling: Literal["last", "mean", "cls"] | None = arg(
        None, "Stage embedding: which states make the vector; unset = as the model says, else last of decoders, mean."
    )
    embedding_loss: Literal["infonce", "cosent"] = arg(
        "infonce", "Stage embedding: positives against all other documents of a step, or the order of given scores."
    )
    embedding_temperature: float = arg(0.05, "Stage embedding: cosines are divided by it.", within=POSITIVE)
    embedding_dims: str | None = arg(
        None, "Stage embedding: widths that shall do too (Matryoshka), comma list; the loss is a sum over them.",
        comma=True,
    )  # fmt: skip
    reranker_loss: Literal["pointwise", "listwise"] = arg(
        "pointwise", "Stage reranker: each document for itself, or all of a query against each other."
    )

    # Parts of multimodal models.
    freeze_vision_tower: bool = arg(True, "Leave the encoders of images, videos and sound as they are.")
    freeze_multi_modal_projector: bool = arg(True, "Leave the projector as it is.")
    freeze_language_model: bool = arg(False, "Leave the language model as it is.")
    vision_tower_lr: float | None = arg(
        None, "Learning rate of the encoders of images, videos and sound; unset = learning_rate.", within=AT_LEAST_0
    )
    projector_lr: float | None = arg(None, "Learning rate of the projector; unset = learning_rate.", within=AT_LEAST_0)

    # Other methods and loops.
    use_llama_pro: bool = arg(False, "LLaMA-Pro: train the inserted blocks only.")
    use_adam_mini: bool = arg(False, "Adam-mini optimizer.")
    use_muon: bool = arg(False, "Muon optimizer.")
    use_mca: bool = arg(False, "Train with Megatron-core (mcore_adapter); also by USE_MCA=1.")
    use_megatron_bridge: bool = arg(False, "Train with Megatron Bridge; also by USE_MEGATRON_BRIDGE=1.")
    use_hyper_parallel: bool = arg(False, "Train with HyperParallel.")
    hyper_parallel_args: str | None = arg(None, "JSON file of HyperParallel's strategy.")
    hyper_parallel_cp_size: int = arg(1, "HyperParallel's context-parallel size.", within=AT_LEAST_1)


@dataclass(frozen=True)
class SwanLabArguments:
    """The SwanLab tracker."""

    use_swanlab: bool = arg(False, "Log to SwanLab.")
    swanlab_project: str | None = arg("llamafactory", "Project.")
    swanlab_workspace: str | None = arg(None, "Workspace; unset = the account's own.")
    swanlab_run_name: str | None = arg(None, "Name of the run.")
    swanlab_mode: Literal["cloud", "local"] = arg("cloud", "Send to the cloud or keep locally.")
    swanlab_api_key: str | None = arg(None, "Key to log in with; never written to files.")
    swanlab_logdir: str | None = arg(None, "Folder of local logs.")
    swanlab_lark_webhook_url: str | None = arg(None, "Lark bot that is told when the run ends.")
    swanlab_lark_secret: str | None = arg(None, "Secret of that bot.")
