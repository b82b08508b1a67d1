# SPDX-License-Identifier: Apache-2.0
"""How the training loop runs: batches, optimizer, schedule, logging, evaluation, checkpoints, hardware.

The keys and defaults are those of ``transformers.Seq2SeqTrainingArguments``, declared here so that reading a
configuration needs neither torch nor transformers; a test holds both lists together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .field import arg
from .ranges import AT_LEAST_0, AT_LEAST_1, BELOW_1, SEED, SHARE, Range

SchedulerName = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
]  # fmt: skip

OptimizerName = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor", "adamw_anyprecision",
    "adamw_torch_4bit", "adamw_torch_8bit", "ademamix", "sgd", "adagrad", "adamw_bnb_8bit", "adamw_8bit",
    "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit",
    "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit", "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "lomo", "adalomo", "grokadamw",
    "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd", "apollo_adamw", "apollo_adamw_layerwise",
    "stable_adamw", "prodigy", "soap", "lion",
]  # fmt: skip

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", "lite"]

LogLevel = Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]

# What a run chooses by stage, method, model size and data where the user is silent; the defaults below are those of
# transformers and hold where nothing is known (stage ppo has no usual number of epochs).
CHOSEN = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "logging_steps")


@dataclass(frozen=True)
class TrainingArguments:
    """The training loop."""

    # What to do, and where the results go.
    output_dir: str | None = arg(None, "Results folder; unset = saves/<model>/<finetuning_type>/<stage>.")
    overwrite_output_dir: bool = arg(False, "Start anew in an output_dir that already holds weights.")
    do_train: bool = arg(False, "Train; switched on when none of do_train, do_eval, do_predict is given.")
    do_eval: bool = arg(False, "Evaluate after training (or alone).")
    do_predict: bool = arg(False, "Write predictions for the evaluation sets.")
    resume_from_checkpoint: str | None = arg(
        None, "Checkpoint folder to continue from; unset = the last in output_dir."
    )
    resume_changed: bool = arg(False, "Go on from a checkpoint that was made with other settings, with the new ones.")
    on_nonfinite: Literal["stop", "skip", "continue"] = arg(
        "stop", "At a NaN or infinite loss or gradient: stop the run, skip that step, or go on."
    )

    # Length and batches.
    num_train_epochs: float = arg(
        3.0, "Passes over the training data; more when they are few.", within=Range(least=0, most=1_000_000)
    )
    max_steps: int = arg(
        -1,
        "Optimizer steps; they win over num_train_epochs. -1 = epochs count.",
        within=Range(least=1, also=(-1,)),
    )
    per_device_train_batch_size: int = arg(
        8, "Rows per device and micro-batch in training; less when they are few.", within=AT_LEAST_1
    )
    per_device_eval_batch_size: int = arg(8, "Rows per device in evaluation.", within=AT_LEAST_1)
    gradient_accumulation_steps: int = arg(1, "Micro-batches summed into one optimizer step.", within=AT_LEAST_1)
    auto_find_batch_size: bool = arg(False, "Halve the batch and start again when memory runs out.")
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "batch_rebalance"] = arg(
        "random", "Order of training rows: shuffled, as stored, alike lengths together, or balanced batches."
    )
    length_column_name: str = arg("length", "Column with ready-made lengths for sampling by length.")

    # Optimizer and schedule.
    learning_rate: float = arg(5e-5, "Peak learning rate; by stage, method and model size.", within=AT_LEAST_0)
    lr_scheduler_type: SchedulerName = arg("linear", "Shape of the learning-rate curve.")
    lr_scheduler_kwargs: dict | str | None = arg(None, "Extra settings of the schedule (mapping or JSON).")
    warmup_steps: float = arg(
        0, "Warm-up steps; a value below 1 is a share of all steps.", within=Range(least=0, share=True)
    )
    optim: OptimizerName = arg("adamw_torch_fused", "Optimizer.")
    optim_args: str | None = arg(None, "Extra optimizer settings, name=value separated by commas.")
    optim_target_modules: str | list[str] | None = arg(None, "Modules that a low-rank optimizer projects.")
    weight_decay: float = arg(0.0, "Decay of weights; biases and norms are left out.", within=AT_LEAST_0)
    adam_beta1: float = arg(0.9, "Decay of Adam's first moment.", within=BELOW_1)
    adam_beta2: float = arg(0.999, "Decay of Adam's second moment.", within=BELOW_1)
    adam_epsilon: float = arg(1e-8, "Adam's guard against division by zero.", within=AT_LEAST_0)
    max_grad_norm: float = arg(1.0, "Clip the gradient norm at this; 0 = never.", within=AT_LEAST_0)
    label_smoothing_factor: float = arg(0.0, "Share of probability spread over all labels.", within=SHARE)
    neftune_noise_alpha: float | None = arg(
        None, "NEFTune: size of the noise added to input embeddings.", within=AT_LEAST_0
    )
    average_tokens_across_devices: bool = arg(True, "Weigh the loss by the trained tokens of all devices.")

    # Precision, speed, memory.
    bf16: bool | None = arg(None, "bfloat16 arithmetic; unset = when the device has it.")
    fp16: bool | None = arg(None, "float16 arithmetic with loss scaling; unset = no.")
    bf16_full_eval: bool = arg(False, "Evaluate wholly in bfloat16.")
    fp16_full_eval: bool = arg(False, "Evaluate wholly in float16.")
    tf32: bool | None = arg(None, "TF32 matrix products on Ampere and newer; unset = torch's choice.")
    activation_checkpointing: bool | None = arg(None, "Recompute activations; unset = only when they would not fit.")
    activation_checkpointing_kwargs: dict | str | None = arg(None, "Settings of activation checkpointing.")
    gradient_checkpointing: bool | None = arg(None, "Older name of activation_checkpointing.")
    gradient_checkpointing_kwargs: dict | str | None = arg(None, "Older name of activation_checkpointing_kwargs.")
    torch_compile: bool = arg(False, "Compile the model with torch.compile.")
    torch_compile_backend: str | None = arg(None, "Backend of torch.compile; setting it turns compiling on.")
    torch_compile_mode: CompileMode | None = arg(None, "Mode of torch.compile; setting it turns compiling on.")
    use_liger_kernel: bool = arg(False, "Fused Liger kernels (same as enable_liger_kernel).")
    liger_kernel_config: dict | None = arg(None, "Which Liger kernels to apply, name: true or false.")
    use_cache: bool = arg(False, "Keep the key/value cache in the training forward pass.")
    torch_empty_cache_steps: int | None = arg(
        None, "Free the device's cached memory every so many steps.", within=AT_LEAST_1
    )
    use_cpu: bool = arg(False, "Train on the CPU even when there is an accelerator.")

    # Logging.
    logging_strategy: Literal["no", "steps", "epoch"] = arg("steps", "When to log.")
    logging_steps: float = arg(
        500,
        "Steps between logs; below 1 a share of all steps; less for a short run.",
        within=Range(above=0, share=True, hint="logging_strategy: no logs nothing"),
    )
    logging_first_step: bool = arg(False, "Log the first step too.")
    logging_nan_inf_filter: bool = arg(True, "Leave NaN and infinite losses out of the logged mean.")
    log_on_each_node: bool = arg(True, "Each node's first process logs, not only the first node's.")
    log_level: LogLevel = arg("passive", "Log level of the main process.")
    log_level_replica: LogLevel = arg("warning", "Log level of the other processes.")
    disable_tqdm: bool | None = arg(None, "Hide progress bars; unset = shown in terminals.")
    include_num_input_tokens_seen: Literal["no", "all", "non_padding"] | bool = arg(
        "no", "Count input tokens: all, without padding, or not."
    )
    report_to: str | list[str] | None = arg(
        "none", "Experiment trackers: tensorboard, wandb, mlflow, swanlab, trackio."
    )
    run_name: str | None = arg(None, "Name of this run in the trackers.")
    project: str = arg("huggingface", "Project name in Trackio.")
    trackio_space_id: str | None = arg(None, "Hub Space that shows Trackio live.")
    trackio_bucket_id: str | None = arg(None, "Hub bucket behind that Space.")
    trackio_static_space_id: str | Literal[False] | None = arg(None, "Read-only Trackio Space; false = none.")
    skip_memory_metrics: bool = arg(True, "Leave memory figures out of the metrics.")
    debug: str | list[str] = arg("", "Debug features: underflow_overflow, tpu_metrics_debug.")

    # Evaluation.
    eval_strategy: Literal["no", "steps", "epoch"] = arg("no", "When to evaluate during training.")
    eval_steps: float | None = arg(
        None,
        "Steps between evaluations; unset = logging_steps.",
        within=Range(above=0, share=True, hint="eval_strategy: no evaluates never"),
    )
    eval_delay: float = arg(0, "Epochs or steps before the first evaluation.", within=AT_LEAST_0)
    eval_on_start: bool = arg(False, "Evaluate once before the first step.")
    eval_accumulation_steps: int | None = arg(
        None, "Move predictions to the CPU every so many steps.", within=AT_LEAST_1
    )
    eval_do_concat_batches: bool = arg(True, "Join predictions over batches; false = a list of batches.")
    eval_use_gather_object: bool = arg(False, "Gather nested objects from all processes.")
    batch_eval_metrics: bool = arg(False, "Compute metrics batch by batch to save memory.")
    prediction_loss_only: bool = arg(False, "Return only the loss from evaluation.")
    include_for_metrics: list[str] = arg([], "Further inputs for the metrics: inputs, loss.")
    load_best_model_at_end: bool = arg(False, "Load the best checkpoint when training ends.")
    metric_for_best_model: str | None = arg(None, "Metric that decides which is best; unset = loss.")
    greater_is_better: bool | None = arg(None, "Whether a higher metric is better; unset = by its name.")
    predict_with_generate: bool = arg(False, "Generate answers in evaluation and score them (BLEU, ROUGE).")
    generation_max_length: int | None = arg(None, "Length cap of answers generated in evaluation.", within=AT_LEAST_1)
    generation_num_beams: int | None = arg(None, "Beams of answers generated in evaluation.", within=AT_LEAST_1)
    generation_config: str | None = arg(None, "Folder, file or hub id of a generation config.")
    sortish_sampler: bool = arg(False, "Roughly sort evaluation rows by length.")

    # Checkpoints and the hub.
    save_strategy: Literal["no", "steps", "epoch", "best"] = arg("steps", "When to save a checkpoint.")
    save_steps: float = arg(
        500,
        "Steps between checkpoints; a value below 1 is a share of all steps.",
        within=Range(above=0, share=True, hint="save_strategy: no saves no checkpoint"),
    )
    save_total_limit: int | None = arg(
        None,
        "Checkpoints to keep; older ones are deleted. Unset or -1 = all.",
        within=Range(least=1, also=(-1,), hint="save_strategy: no saves no checkpoint"),
    )
    save_only_model: bool = arg(False, "Save weights without optimizer state: such a checkpoint cannot be resumed.")
    async_save: bool = arg(False, "Write checkpoints beside training; the next step does not wait for the disk.")
    save_on_each_node: bool = arg(False, "Every node saves, for nodes that share no disk.")
    enable_jit_checkpoint: bool = arg(False, "Save at once when the process is asked to end (SIGTERM).")
    restore_callback_states_from_checkpoint: bool = arg(False, "Resume the callbacks' state too.")
    ignore_data_skip: bool = arg(False, "On resume, start the data from the beginning.")
    push_to_hub: bool = arg(False, "Push every saved model to the hub.")
    hub_model_id: str | None = arg(None, "Hub repository to push to.")
    hub_token: str | None = arg(None, "Hub token for pushing.")
    hub_private_repo: bool | None = arg(None, "Make the repository private; unset = the owner's default.")
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = arg(
        "every_save", "What to push, when."
    )
    hub_always_push: bool = arg(False, "Push even while the last push is still going.")
    hub_revision: str | None = arg(None, "Branch, tag or commit to push to.")

    # Seeds and data loading.
    seed: int = arg(42, "Seed of weights, dropout and order.", within=SEED)
    data_seed: int | None = arg(None, "Seed of the data order alone; unset = seed.", within=SEED)
    full_determinism: bool = arg(False, "Only deterministic kernels; slower.")
    dataloader_num_workers: int = arg(
        0, "Processes that load data; 0 = in the main one.", within=Range(least=0, most=1024)
    )
    dataloader_prefetch_factor: int | None = arg(
        None, "Batches each loading process prepares ahead.", within=AT_LEAST_1
    )
    dataloader_persistent_workers: bool = arg(False, "Keep loading processes between epochs.")
    dataloader_pin_memory: bool = arg(True, "Put batches in pinned host memory.")
    dataloader_drop_last: bool = arg(False, "Drop the last batch when it is not full.")
    dataloader_in_order: bool = arg(True, "Take batches in the order they were asked for.")
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = arg(
        None, "Start method of loading processes: fork, spawn, forkserver."
    )
    remove_unused_columns: bool = arg(True, "Drop columns that the model's forward does not take.")
    label_names: list[str] | None = arg(None, "Columns that hold labels.")

    # Several devices.
    local_rank: int = arg(-1, "Set by older launchers; not to be given by hand.", within=Range(least=-1))
    ddp_backend: Literal["nccl", "mpi", "xccl", "gloo", "hccl", "cncl", "mccl"] | None = arg(
        None, "Communication backend; unset = by device."
    )
    ddp_timeout: int = arg(1800, "Seconds a collective may take.", within=AT_LEAST_1)
    ddp_find_unused_parameters: bool | None = arg(None, "DDP looks for weights without gradient.")
    ddp_bucket_cap_mb: int | None = arg(None, "DDP bucket size in MB.", within=AT_LEAST_1)
    context_parallel_size: int = arg(
        1, "Processes that share each row, a part of its tokens each (Ulysses), for long rows.", within=AT_LEAST_1
    )
    tensor_parallel_size: int = arg(
        1, "Processes that share each layer, a part of its weights each, and compute the same rows.", within=AT_LEAST_1
    )
    expert_parallel_size: int = arg(
        1, "Processes that share the experts of each layer; each computes rows of its own.", within=AT_LEAST_1
    )
    ddp_broadcast_buffers: bool | None = arg(None, "DDP sends buffers from the first process.")
    ddp_static_graph: bool | None = arg(None, "DDP may assume the same graph in each step.")
    fsdp: str | bool | list[str] | None = arg(
        None, "Fully sharded data parallelism: true, or options of older releases."
    )
    fsdp_config: dict | str | None = arg(None, "FSDP settings (mapping or JSON file).")
    deepspeed: dict | str | None = arg(None, "DeepSpeed settings (mapping or JSON file).")
    accelerator_config: dict | str | None = arg(None, "Settings of Accelerate (mapping or JSON file).")
    parallelism_config: dict | None = arg(None, "Sizes of the parallel dimensions, as Accelerate names them.")
