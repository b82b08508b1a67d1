# SPDX-License-Identifier: Apache-2.0
"""Rollouts by vLLM in the training process, one engine a process; it gets the policy's weights before each rollout.

Run with the CPU build of vLLM 0.32 in one process, never on a GPU or with several processes. What a policy hands over
(:func:`policy_weights`) is tested without vLLM too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....extras.errors import ConfigError
from ....extras.packages import require
from ....model.paths import resolve_model_path
from ....model.vllm_length import vllm_length
from ....model.wrapping import beneath_adapters
from .rollout import Drawn, Request, Sampling, seed_of

if TYPE_CHECKING:
    from torch import nn

    from ....data.template.base import Template
    from ....hparams import TrainArgs


class VllmRollout:
    """Generates with a second copy of the policy's weights.

    Its log-probabilities differ a little from those of training, so with vLLM a policy is always slightly off; the
    losses use the ones of training.
    """

    def __init__(self, model: Any, template: Template, sampling: Sampling, args: TrainArgs) -> None:
        if getattr(args.tuner, "use_dora", False):
            raise ConfigError("rollout_engine: vllm cannot take over DoRA adapters; use huggingface")
        vllm = require("vllm", "rollout_engine: vllm", "vllm")
        self.model, self.template, self.sampling = model, template, sampling
        self._params = vllm.SamplingParams
        for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
            os.environ.setdefault(name, value)  # an engine that is launched from outside asks torchrun's variables
        os.environ.setdefault("MASTER_PORT", "29555")
        given = args.vllm.vllm_config or {}
        self.llm = vllm.LLM(
            **{
                "model": resolve_model_path(str(args.model.model_name_or_path), args.model),
                "trust_remote_code": args.model.trust_remote_code,
                "dtype": "bfloat16"
                if next(model.parameters()).dtype == torch.bfloat16 or args.training.bf16
                else "auto",
                "max_model_len": vllm_length(args),
                "gpu_memory_utilization": args.vllm.vllm_gpu_util,
                "enforce_eager": args.vllm.vllm_enforce_eager,
                "tensor_parallel_size": 1,
                "distributed_executor_backend": "external_launcher",
                **(json.loads(given) if isinstance(given, str) else given),
            }
        )

    def sync(self) -> None:
        """Hand the policy's weights over; what the engine remembers of prompts was made by older ones."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": policy_weights(self.model)})
        self.llm.reset_prefix_cache()

    def generate(self, requests: Sequence[Request], greedy: bool) -> list[Drawn]:
        """Generate all at once; the engine batches by itself."""
        if any(request.media for request in requests):
            raise ConfigError("rollout_engine: vllm is given text alone, and rows have media; use huggingface")
        params = [self._sampling(request, greedy) for request in requests]
        outputs = self.llm.generate(
            [{"prompt_token_ids": request.ids} for request in requests], sampling_params=params, use_tqdm=False
        )
        return [Drawn(list(output.outputs[0].token_ids)) for output in outputs]

    def _sampling(self, request: Request, greedy: bool) -> Any:
        choice: dict[str, Any] = {"temperature": 0.0}
        if not greedy:
            sampling = self.sampling
            choice = {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "seed": seed_of(request.seed, request.drawn) % 2**31,
            }
        return self._params(
            **choice, max_tokens=request.limit, stop_token_ids=self.template.stop_token_ids, detokenize=False
        )


@torch.no_grad()
def policy_weights(model: nn.Module, tied: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of the plain model that a policy amounts to, its adapter added in; the policy is not touched.

    Args:
        model: A language model, or a PeftModel around one with LoRA adapters.
        tied: Weights that layers share once for each of them: an adapter may change one of these alone.
    """
    plain = beneath_adapters(model)
    layers = {
        # layers around fused experts stand one in another, each for one parameter
        f"{name.replace('.base_layer', '')}.{getattr(module, 'parameter_name', 'weight')}": module
        for name, module in plain.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    for name, weight in plain.named_parameters(remove_duplicate=not tied):
        if name.startswith("value_head.") or ".original_module." in name or ".lora_" in name:
            continue
        layer = layers.get(name.replace(".base_layer", "")) if ".base_layer." in name else None
        if layer is not None:
            for adapter in layer.active_adapters:
                if adapter in layer.lora_A or adapter in layer.lora_embedding_A:
                    weight = weight + layer.get_delta_weight(adapter).to(weight.dtype)
        parts = name.replace(".base_layer", "").split(".modules_to_save.")
        # the tail of a module that is trained whole begins with the adapter's name
        yield parts[0] if len(parts) == 1 else f"{parts[0]}.{parts[1].partition('.')[2]}", weight.detach()
