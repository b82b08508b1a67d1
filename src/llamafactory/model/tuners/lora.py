# SPDX-License-Identifier: Apache-2.0
"""LoRA and its relatives (rsLoRA, DoRA; PiSSA, OLoRA, EVA, CorDA, LoRA-GA, LoftQ) through PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...extras.packages import require_installed
from ...hparams.field import arg, require, split_list
from ...hparams.ranges import AT_LEAST_0, AT_LEAST_1, BELOW_1, POSITIVE, Range
from ..heads import score_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel, TrainerCallback

    from ...hparams import Dtypes, InferArgs, TrainArgs


# Fields of LoraConfig that have keys of their own, or need more of the training loop than there is.
_OWN = {
    "r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_rslora": "use_rslora",
    "use_dora": "use_dora", "init_lora_weights": "lora_init", "target_parameters": "lora_target",
    "trainable_token_indices": "add_tokens", "loftq_config": "lora_init",
    **dict.fromkeys((
        "velora_config", "monteclora_config", "kasa_config", "arrow_config", "megatron_config", "megatron_core",
        "alora_invocation_tokens", "layer_replication", "runtime_config", "use_bdlora", "use_qalora",
        "qalora_group_size", "lora_bias", "ensure_weight_tying", "fan_in_fan_out",
    ), "finetuning_type"),
}  # fmt: skip
# Starts that look at data -> the field with their options.
_CONFIG_OF = {"eva": "eva_config", "corda": "corda_config", "lora_ga": "lora_ga_config"}


# Starts that take what they begin with out of the frozen weights.
_TAKING_OUT = ("olora", "corda", "lora_ga")


@dataclass(frozen=True)
class Arguments:
    """Keys of ``finetuning_type: lora``."""

    additional_target: str | None = arg(None, "Extra fully trained modules saved with the adapter.", comma=True)
    lora_alpha: int | None = arg(None, "Scale; None = 2 x rank.", within=AT_LEAST_1)
    lora_dropout: float = arg(0.0, "Adapter dropout.", within=BELOW_1)
    lora_rank: int = arg(8, "Adapter rank.", within=AT_LEAST_1)
    lora_target: str = arg("all", "Modules to adapt; all = every linear layer.", comma=True)
    loraplus_lr_ratio: float | None = arg(None, "LoRA+: lr(B)/lr(A).", within=POSITIVE)
    loraplus_lr_embedding: float = arg(1e-06, "LoRA+: lr of embedding adapters.", within=AT_LEAST_0)
    use_rslora: bool = arg(False, "Rank-stabilised scaling.")
    use_dora: bool = arg(False, "Weight-decomposed LoRA.")
    pissa_init: bool = arg(False, "Initialise from principal singular vectors.")
    pissa_iter: int = arg(16, "Fast-SVD iterations, -1 = exact SVD.", within=Range(least=1, also=(-1,)))
    pissa_convert: bool = arg(False, "Write PiSSA result back as ordinary LoRA.")
    lora_init: Literal["default", "gaussian", "orthogonal", "olora", "eva", "corda", "lora_ga", "loftq"] = arg(
        "default", "What a fresh adapter begins with; PiSSA has keys of its own."
    )
    loftq_iter: int = arg(1, "LoftQ: how often weights are rounded anew around the adapter.", within=AT_LEAST_1)
    create_new_adapter: bool = arg(False, "Merge the loaded adapters and start a fresh one.")
    peft_config: dict | None = arg(None, "Fields of PEFT's LoraConfig that have no key of their own.")


def check(args: TrainArgs | InferArgs) -> None:
    """Keys that exclude each other."""
    tuner: Arguments = args.tuner
    require(bool(split_list(tuner.lora_target)), "lora_target: empty; give module names or all")
    require(not (tuner.pissa_init and tuner.use_dora), "pissa_init: cannot be combined with use_dora")
    require(tuner.pissa_init or not tuner.pissa_convert, "pissa_convert: needs pissa_init")
    continued = bool(args.model.adapter_name_or_path) and not tuner.create_new_adapter
    require(
        not (tuner.pissa_init and continued), "pissa_init: an adapter is continued, so set create_new_adapter: true"
    )
    if tuner.lora_init != "default":
        _check_start(args, continued)
    if tuner.peft_config:
        from ..peft_fields import check_given

        check_given("lora", tuner.peft_config, _OWN)
        wanted = _CONFIG_OF.get(tuner.lora_init)
        for name in set(_CONFIG_OF.values()) & set(tuner.peft_config):
            require(name == wanted, f"peft_config: {name}: lora_init: {tuner.lora_init} does not read it")
            _check_start_options(name, tuner.peft_config[name] or {})
            _check_moving_ranks(args, (tuner.peft_config[name] or {}).get("rho", 1))


def _check_moving_ranks(args: TrainArgs | InferArgs, rho: float) -> None:
    """EVA changes which weights there are after the optimizer was made."""
    from ...hparams.derive import chosen_optimizer

    if rho != 1 and hasattr(args, "training"):
        own = chosen_optimizer(args)  # type: ignore[arg-type]
        require(
            own in (None, "loraplus"),
            f"peft_config: eva_config: rho: {rho} gives layers other ranks, which the optimizer {own} is not told of; "
            "use 1.0, or an optim of transformers",
        )


def _check_start(args: TrainArgs | InferArgs, continued: bool) -> None:
    tuner, init = args.tuner, args.tuner.lora_init
    require(not tuner.pissa_init, f"lora_init: {init} beside pissa_init: choose one start")
    require(not continued, f"lora_init: {init}: an adapter is continued, so set create_new_adapter: true")
    require(
        not tuner.use_dora, f"lora_init: {init} cannot be combined with use_dora, whose lengths are those of the base"
    )
    require(
        init != "orthogonal" or tuner.lora_rank % 2 == 0,
        f"lora_init: orthogonal needs an even lora_rank, not {tuner.lora_rank}",
    )
    if init == "corda":
        require_installed("attr", "lora_init: corda", "attrs")
        require(
            not (tuner.peft_config or {}).get("rank_pattern"),
            "peft_config: rank_pattern: lora_init: corda begins every layer with lora_rank; leave it out",
        )
    if init in _CONFIG_OF:
        stage = args.finetuning.stage
        require(stage in ("pt", "sft"), f"lora_init: {init} looks at the batches of stage pt or sft, not of {stage}")
        require(
            not args.data.streaming,
            f"lora_init: {init} looks at batches before the first step, which a stream has once",
        )
    if init == "loftq":
        bits = args.quantization.quantization_bit
        require(bits is not None, "lora_init: loftq begins with what quantization_bit loses; set it")
        require(not tuner.peft_config, "lora_init: loftq: not with peft_config; loftq_iter has a key of its own")
    require(
        init not in _TAKING_OUT or args.quantization.quantization_bit is None,
        f"lora_init: {init} changes the frozen weights, which are quantized; use eva, or leave quantization_bit out",
    )


def _check_start_options(field: str, options: dict[str, Any]) -> None:
    from typing import get_type_hints

    from ...extras.field_types import check_fields
    from ..lora_start import CONFIGS

    known = get_type_hints(dict(CONFIGS.values())[field])
    for name in options:
        require(name in known, f"peft_config: {field} has no field {name}; it has {', '.join(sorted(known))}")
        require(not name.endswith("_file"), f"peft_config: {field}: {name}: such files are not read here; leave it out")
    check_fields(options, known, f"peft_config: {field}")
    rho = options.get("rho", 1.0)
    require(
        rho >= 1, f"peft_config: eva_config: rho: {rho}, expected 1 (ranks stay) or more (they move between layers)"
    )


def create(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    *,
    trainable: bool = True,
    new_rows: Sequence[int] = (),
) -> nn.Module:
    """Put LoRA adapters on the model; see :func:`~llamafactory.model.adapters.put_adapters`."""
    from ..adapters import put_adapters

    def fresh(base: PreTrainedModel) -> LoraConfig:
        config = _config(base, args.tuner, new_rows)
        _require_own_weight(base, args.tuner, config)
        if args.finetuning.use_llama_pro:
            _keep_to_inserted(base, config)
        return config

    tuned = put_adapters(model, args, dtypes, trainable, fresh)
    if trainable and args.tuner.lora_init == "loftq":
        from ..loftq import begin

        begin(tuned, args, args.tuner.loftq_iter)
    return tuned


def _require_own_weight(model: PreTrainedModel, tuner: Arguments, config: LoraConfig) -> None:
    """What a start takes out of a weight would be missing wherever else this weight is used."""
    from peft.tuners.tuners_utils import check_target_module_exists

    from ..quantizers.layers import is_quantized

    head = model.get_output_embeddings()
    takes_out = tuner.pissa_init or tuner.lora_init in _TAKING_OUT
    key = "pissa_init" if tuner.pissa_init else f"lora_init: {tuner.lora_init}"
    require(
        not (takes_out and is_quantized(model)),
        f"{key}: takes a part out of the weights, which this checkpoint holds in few bits; use lora_init: eva",
    )
    if takes_out and head is not None and head.weight is model.get_input_embeddings().weight:
        for name, module in model.named_modules():
            require(
                module is not head or not check_target_module_exists(config, name),
                f"{key}: takes a part out of the weight of {name}, which is also that of the embedding; leave {name} "
                "out of lora_target",
            )


def _keep_to_inserted(model: PreTrainedModel, config: LoraConfig) -> None:
    """LLaMA-Pro: only the inserted blocks get an adapter."""
    from ..block_expansion import expanded_blocks

    require(
        not config.target_parameters and isinstance(config.target_modules, set),
        "use_llama_pro: names the blocks itself; leave experts and expressions out of lora_target and peft_config",
    )
    config.layers_to_transform = expanded_blocks(model.config, 0, model.config.get_text_config().num_hidden_layers)


def save_final(model: PeftModel, folder: str, args: TrainArgs) -> None:
    """At the end of training, replace an adapter that began as a part of the weights by an ordinary LoRA.

    PiSSA's is replaced where ``pissa_convert`` asks for it, for PEFT finds its start again; the others' always.
    """
    if args.tuner.lora_init == "loftq":
        from ..loftq import save_base

        save_base(model, Path(folder))
    if args.tuner.pissa_convert or args.tuner.lora_init in _TAKING_OUT:
        from ..lora_start import save_converted

        save_converted(model, folder)


def callbacks(model: Any, args: TrainArgs) -> list[TrainerCallback]:
    """What begins an adapter by the batches of its run, or keeps what was taken out of its base."""
    if args.tuner.lora_init == "loftq":
        from ..loftq import LoftqBase

        return [LoftqBase(model, args)]
    if args.tuner.lora_init not in _CONFIG_OF:
        return []
    from ..lora_start import LoraStart

    return [LoraStart(model, args.tuner.lora_init)]


def _config(model: PreTrainedModel, tuner: Arguments, new_rows: Sequence[int]) -> LoraConfig:
    from peft import LoraConfig

    from ..lora_targets import excluded, find_targets, require_known
    from ..peft_places import require_targets

    additional = split_list(tuner.additional_target)
    modules = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name}
    require_known("additional_target", additional, modules)
    init: bool | str = True
    if tuner.pissa_init:
        init = "pissa" if tuner.pissa_iter == -1 else f"pissa_niter_{tuner.pissa_iter}"
    if tuner.lora_init in ("gaussian", "orthogonal", "olora", "eva"):
        init = tuner.lora_init
    embeddings = _embedding_names(model)
    rows = {name: list(new_rows) for name in embeddings if new_rows and name not in additional}
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    plain = not (tuner.lora_dropout or tuner.use_dora or tuner.pissa_init or tuner.lora_init != "default")
    targets = find_targets(model, split_list(tuner.lora_target), with_experts=plain)
    if rows:
        _check_rows(model, tuner, [*rows], targets.modules, additional if tied else [])
    given = tuner.peft_config or {}
    if given.get("target_modules"):
        require_targets(model, given["target_modules"])
    fields = {
        "target_modules": targets.modules,
        "target_parameters": None if given.get("target_modules") else targets.parameters or None,
        "exclude_modules": excluded(model, split_list(tuner.lora_target)),
        **given,
        **_options_of_start(tuner),
    }
    return LoraConfig(
        task_type=_task(model),
        r=tuner.lora_rank,
        lora_alpha=tuner.lora_alpha or 2 * tuner.lora_rank,
        lora_dropout=tuner.lora_dropout,
        modules_to_save=additional or None,
        use_rslora=tuner.use_rslora,
        use_dora=tuner.use_dora,
        init_lora_weights=init,
        trainable_token_indices=rows or None,
        ensure_weight_tying=tied and not set(embeddings).isdisjoint(additional),
        **fields,
    )


def _task(model: PreTrainedModel) -> str:
    """What the model is for; with the second PEFT trains and saves the score too."""
    if model.get_output_embeddings() is not None:
        return "CAUSAL_LM"
    return "FEATURE_EXTRACTION" if score_layer(model) is None else "SEQ_CLS"


def _options_of_start(tuner: Arguments) -> dict[str, Any]:
    """The object in which PEFT takes the options of EVA, CorDA and LoRA-GA."""
    if tuner.lora_init not in _CONFIG_OF:
        return {}
    from ..lora_start import CONFIGS

    field, make = CONFIGS[tuner.lora_init]
    given = (tuner.peft_config or {}).get(field) or {}
    return {field: make(**({"rho": 1.0} if tuner.lora_init == "eva" else {}) | given)}


def _check_rows(
    model: PreTrainedModel, tuner: Arguments, rows: list[str], targets: list[str], beside_tied: list[str]
) -> None:
    """Refuse what PEFT cannot put around an embedding (or head) whose rows of new tokens are trained."""
    require(
        tuner.lora_init != "eva",
        f"lora_init: eva: PEFT takes the rows of the added tokens in {rows[0]} for a layer; choose another start",
    )
    twice = [name for name in rows if any(target.rsplit(".", 1)[-1] == name for target in targets)]
    require(
        not twice,
        f"lora_target: {', '.join(twice)} trains the rows of the added tokens whole, so it takes no LoRA; "
        "name it in additional_target instead",
    )
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")
    require(
        head not in beside_tied,
        f"additional_target: {head} is tied to {rows[0]}, whose rows of added tokens are trained; name both",
    )
    require(
        not (tuner.use_dora and head in targets),
        f"use_dora: {head} holds rows of added tokens; leave it out of lora_target, or name it in additional_target",
    )


def _embedding_names(model: PreTrainedModel) -> list[str]:
    """Module names of the input embedding and, where it has weights of its own, the output head."""
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    own = [inputs] if head is None or head.weight is inputs.weight else [inputs, head]
    return [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if any(module is one for one in own)]
