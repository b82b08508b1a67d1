# SPDX-License-Identifier: Apache-2.0
"""LoRA and its relatives (rsLoRA, DoRA, PiSSA) through PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...hparams.field import arg, require, split_list
from ...hparams.ranges import AT_LEAST_0, AT_LEAST_1, BELOW_1, POSITIVE, Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

    from ...hparams import Dtypes, InferArgs, TrainArgs


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
    create_new_adapter: bool = arg(False, "Merge the loaded adapters and start a fresh one.")


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

    return put_adapters(model, args, dtypes, trainable, lambda base: _config(base, args.tuner, new_rows))


def save_final(model: PeftModel, folder: str, args: TrainArgs) -> None:
    """At the end of training, replace the saved PiSSA adapter by an ordinary LoRA if ``pissa_convert`` asks for it."""
    if args.tuner.pissa_convert:
        from ..adapters import save_converted

        save_converted(model, folder)


def _config(model: PreTrainedModel, tuner: Arguments, new_rows: Sequence[int]) -> LoraConfig:
    from peft import LoraConfig

    from ..lora_targets import find_targets, require_known
    from ..towers import outside_language

    additional = split_list(tuner.additional_target)
    modules = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name}
    require_known("additional_target", additional, modules)
    init: bool | str = True
    if tuner.pissa_init:
        init = "pissa" if tuner.pissa_iter == -1 else f"pissa_niter_{tuner.pissa_iter}"
    embeddings = _embedding_names(model)
    rows = {name: list(new_rows) for name in embeddings if new_rows and name not in additional}
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    plain = not (tuner.lora_dropout or tuner.use_dora or tuner.pissa_init)
    targets = find_targets(model, split_list(tuner.lora_target), with_experts=plain)
    if rows:
        _check_rows(model, tuner, [*rows], targets.modules, additional if tied else [])
    return LoraConfig(
        task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",  # the former trains and saves the score too
        r=tuner.lora_rank,
        lora_alpha=tuner.lora_alpha or 2 * tuner.lora_rank,
        lora_dropout=tuner.lora_dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        exclude_modules=outside_language(model),
        modules_to_save=additional or None,
        use_rslora=tuner.use_rslora,
        use_dora=tuner.use_dora,
        init_lora_weights=init,
        trainable_token_indices=rows or None,
        ensure_weight_tying=tied and not set(embeddings).isdisjoint(additional),
    )


def _check_rows(
    model: PreTrainedModel, tuner: Arguments, rows: list[str], targets: list[str], beside_tied: list[str]
) -> None:
    """Refuse what PEFT cannot put around an embedding (or head) whose rows of new tokens are trained."""
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
