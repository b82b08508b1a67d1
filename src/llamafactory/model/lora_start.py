# SPDX-License-Identifier: Apache-2.0
"""LoRA that begins where the data says: EVA, CorDA and LoRA-GA look at the run's own batches before its first step.

PEFT computes what they begin with. CorDA and LoRA-GA take that out of the frozen weights, which no file but the
checkpoint's ``lora_start.safetensors`` remembers; a finished adapter is written as a plain LoRA of the untouched base.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.tuners.lora.layer import Linear
from peft.tuners.lora.loraga import preprocess_loraga
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from ..extras.errors import ConfigError, first_line, in_one_line
from ..extras.files import write_atomic
from ..extras.logging import get_logger, is_rank0
from .eva_ranks import give_to_optimizer, moves_ranks, take_ranks, trained_by_name
from .modes import eval_mode

logger = get_logger(__name__)

FROM_DATA = ("eva", "corda", "lora_ga")
_FILE = "lora_start.safetensors"
_COVARIANCE_BATCHES = 64  # CorDA: about 256 rows are enough, by its authors
_GRADIENT_BATCHES = 8  # LoRA-GA
_PASSES = 20  # EVA: over its batches, until the directions have settled
_FACTOR = re.compile(r"\.lora_(?:embedding_)?([AB])(\.weight)?$")  # of a layer of a LoRA


class LoraStart(TrainerCallback):
    """Begins a LoRA by the batches of its run."""

    def __init__(self, model: Any, kind: str) -> None:
        self._model, self._kind = model, kind
        self._resumed = False

    def before_weights(self, folder: Path) -> None:
        """Let a model that is resumed have the shapes of its checkpoint."""
        if moves_ranks(self._model):
            take_ranks(self._model, folder)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        train_dataloader: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Compute the start of a run that is not resumed.

        Raises:
            ConfigError: PEFT cannot make one of these batches, or several processes would each make their own.
        """
        if self._resumed:
            return
        if args.world_size > 1:
            raise ConfigError(f"lora_init: {self._kind} looks at the batches of one process; train in one")
        logger.info_rank0("LoRA begins by %s: looking at the first batches of the run", self._kind)
        before = trained_by_name(self._model)
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(args.seed)
            try:
                _BEGIN[self._kind](self._model, lambda: (_on(batch, self._model) for batch in train_dataloader))
            except (ValueError, RuntimeError) as error:
                raise ConfigError(f"lora_init: {self._kind}: {first_line(error)}") from error
        if moves_ranks(self._model):
            give_to_optimizer(optimizer, before, self._model)
        if self._kind != "eva":
            remember_start(self._model)
            self._mark()

    def _mark(self) -> None:
        """Let no checkpoint's adapter pass for one of the untouched base."""
        self._model.peft_config["default"].init_lora_weights = self._kind

    def save_progress(self, folder: Path) -> None:
        """Write what the adapter began with."""
        if is_rank0() and self._kind != "eva":
            save_file(self._model.start, folder / _FILE)

    def load_progress(self, folder: Path) -> None:
        """Take the start of a checkpoint out of the frozen weights once more."""
        self._resumed = True
        if self._kind == "eva":
            return
        with in_one_line(f"resume_from_checkpoint: {folder / _FILE} cannot be read"):
            self._model.start = load_file(folder / _FILE)
        self._mark()
        for name, layer in _layers(self._model):
            part = f"{name}.lora_{{}}.weight"
            _take_out(layer, self._model.start[part.format("A")], self._model.start[part.format("B")])


def remember_start(model: Any) -> None:
    """Keep what a fresh adapter begins with, by the names that its file has."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    model.start = {name: value.detach().cpu().clone() for name, value in state.items()}


def save_converted(model: PeftModel, folder: str) -> None:
    """Write an adapter that began as a part of the weights (PiSSA and its like) as an ordinary LoRA of the base.

    It trains ``W + s (B A - B0 A0)``, where ``s B0 A0`` was taken out of ``W`` at the start. That difference is one
    LoRA of twice the rank: ``A' = [A; A0]``, ``B' = s [B, -B0]`` with scale 1.

    Args:
        model: With such an adapter; ``model.start`` is what it began with.
        folder: Gets ``adapter_config.json`` and ``adapter_model.safetensors``.
    """
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = copy.deepcopy(model.peft_config["default"])
    converted = {}
    for name, value in state.items():
        value, start = value.detach().to("cpu", torch.float32, copy=True), model.start[name].float()
        if factor := _FACTOR.search(name):
            scale = model.get_submodule(name[: factor.start()]).scaling["default"]
            value = torch.cat([value, start]) if factor[1] == "A" else torch.cat([scale * value, -scale * start], dim=1)
        converted[name] = value.contiguous()
    config.r = config.lora_alpha = 2 * config.r
    config.rank_pattern = config.alpha_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.use_rslora, config.init_lora_weights, config.inference_mode = False, True, True
    write_atomic(Path(folder) / "adapter_model.safetensors", save(converted, metadata={"format": "pt"}))
    config.save_pretrained(folder)


def _layers(model: Any) -> Iterator[tuple[str, Linear]]:
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, Linear))


def _take_out(layer: Linear, a: Tensor, b: Tensor) -> None:
    """``W - s B A``, rounded to the type of the weights, in the order in which PEFT computes it."""
    weight = layer.get_base_layer().weight
    a, b = a.to(weight.device).float(), b.to(weight.device).float()
    weight.data = (weight.data.float() - layer.scaling["default"] * (b @ a)).to(weight.dtype)


def _on(batch: dict[str, Any], model: Any) -> dict[str, Any]:
    return {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in batch.items()}


Batches = Callable[[], Iterable[dict[str, Any]]]


def _loss(model: Any, batch: dict[str, Any]) -> Tensor:
    scores = model(**batch, score=True)
    loss: Tensor = -(scores.log_probs * scores.weights).sum() / scores.weights.sum().clamp(min=1)
    return loss


def _by_activations(model: Any, batches: Batches) -> None:
    """EVA: A is made of the directions in which a layer's inputs vary; B is 0."""
    config = model.peft_config["default"]
    least = round(max([config.r, *config.rank_pattern.values()]) * config.eva_config.rho)
    some = [batch for batch in islice(batches(), _COVARIANCE_BATCHES) if (batch["labels"] != -100).sum() >= least]
    if not some:
        raise ValueError(
            f"none of the first {_COVARIANCE_BATCHES} batches has {least} trained tokens, as many as it looks for "
            "directions; take larger batches, packing: true or a smaller lora_rank"
        )
    left = iter(range(_PASSES * len(some)))

    def forward(model: Any, batch: dict[str, Any]) -> None:
        if next(left, None) is None:
            raise ValueError(f"its directions have not settled in {_PASSES} passes over {len(some)} batches")
        model(**batch, score=True)

    with eval_mode(model):
        initialize_lora_eva_weights(
            model,
            some,
            forward_fn=forward,
            prepare_model_inputs_fn=lambda batch, config: batch["labels"] != -100,
            prepare_layer_inputs_fn=lambda inputs, trained, name: _rows(inputs, trained),
            show_progress_bar=False,
        )


def _rows(inputs: Any, trained: Tensor) -> Tensor:
    """What a layer reads of trained tokens, ``[N, d]``; the head is given no others."""
    rows: Tensor = inputs[0] if isinstance(inputs, tuple | list) else inputs
    return rows[trained] if rows.shape[:-1] == trained.shape else rows.flatten(0, -2)


def _by_covariance(model: Any, batches: Batches) -> None:
    """CorDA: the part of W that matters least (kpm) or most (ipm) to the covariance of a layer's inputs."""
    from peft.tuners.lora.corda import preprocess_corda  # it imports attr, which PEFT does not require

    def run() -> None:
        with eval_mode(model), model.disable_adapter():
            for batch in islice(batches(), _COVARIANCE_BATCHES):
                if "attention_mask" in batch:
                    raise ValueError("it needs batches without padding, which this model's attention does not allow")
                model(**batch, score=True)

    config, layers = model.peft_config["default"], [layer for _, layer in _layers(model)]
    options = config.corda_config or CordaConfig()
    preprocess_corda(_bare(layers), LoraConfig(r=config.r, target_modules=".*", corda_config=options), run)
    for layer in layers:
        layer.corda_init("default", "corda")


def _by_gradient(model: Any, batches: Batches) -> None:
    """LoRA-GA: A and B span the first directions of the full gradient."""

    def run() -> None:
        with model.disable_adapter():
            for batch in islice(batches(), _GRADIENT_BATCHES):
                _loss(model, batch).backward()

    config, layers = model.peft_config["default"], [layer for _, layer in _layers(model)]
    options = config.lora_ga_config or LoraGAConfig()
    was_training = model.training
    # PEFT's class lets lora_ga_config stand beside another start, and would warn of this one.
    preprocess_loraga(_bare(layers), LoraConfig(r=config.r, target_modules=".*", lora_ga_config=options), run)
    model.train(was_training)
    for layer in layers:
        layer.lora_ga_init("default", options)
        for factor in (layer.lora_A["default"], layer.lora_B["default"]):  # PEFT rounds them to the type of the base
            factor.weight.data = factor.weight.data.float()


def _bare(layers: list[Linear]) -> nn.Module:
    """The frozen layers alone, as a model whose every module is one of PEFT's targets."""
    return nn.ModuleList(layer.get_base_layer() for layer in layers)


_BEGIN: dict[str, Callable[[Any, Batches], None]] = {
    "eva": _by_activations,
    "corda": _by_covariance,
    "lora_ga": _by_gradient,
}
CONFIGS: dict[str, tuple[str, Callable[..., Any]]] = {
    "eva": ("eva_config", EvaConfig),
    "corda": ("corda_config", CordaConfig),
    "lora_ga": ("lora_ga_config", LoraGAConfig),
}
