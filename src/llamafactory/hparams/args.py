# SPDX-License-Identifier: Apache-2.0
"""The two results of reading a configuration: what a training run and what an inference command asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..extras.secrets import mask_values
from .backend_args import Fp8Arguments, MegatronBridgeArguments, ProfilerArguments, QatArguments, RayArguments
from .data_args import DataArguments
from .evaluation_args import EvaluationArguments
from .finetuning_args import FinetuningArguments, SwanLabArguments
from .generating_args import GeneratingArguments
from .inference_args import (
    BatchInferenceArguments,
    ExportArguments,
    KTransformersArguments,
    ProcessorArguments,
    SGLangArguments,
    VllmArguments,
)
from .model_args import ModelArguments, QuantizationArguments
from .optimizer_args import ApolloArguments, BAdamArguments, GaloreArguments
from .plan_args import PlanArguments
from .rlhf_args import RLHFArguments
from .training_args import TrainingArguments

# Attribute of TrainArgs / InferArgs -> section. Every flat key belongs to one or more of these, or to a tuner.
SHARED_SECTIONS: dict[str, type] = {
    "model": ModelArguments,
    "quantization": QuantizationArguments,
    "data": DataArguments,
    "finetuning": FinetuningArguments,
    "generating": GeneratingArguments,
    "export": ExportArguments,
    "infer": BatchInferenceArguments,
    "evaluation": EvaluationArguments,
    "media": ProcessorArguments,
    "vllm": VllmArguments,
    "sglang": SGLangArguments,
    "kt": KTransformersArguments,
    "rlhf": RLHFArguments,
}
TRAINING_SECTIONS: dict[str, type] = {
    "training": TrainingArguments,
    "ray": RayArguments,
    "profiler": ProfilerArguments,
    "fp8": Fp8Arguments,
    "qat": QatArguments,
    "swanlab": SwanLabArguments,
    "galore": GaloreArguments,
    "apollo": ApolloArguments,
    "badam": BAdamArguments,
    "megatron": MegatronBridgeArguments,
    "plan": PlanArguments,
}


@dataclass(frozen=True, kw_only=True)
class InferArgs:
    """Sections that chat, the servers and export read.

    Attributes:
        tuner: ``Arguments`` of the tuner that ``finetuning_type`` names.
        keys: The flat keys the user wrote, older names replaced.
    """

    model: ModelArguments
    quantization: QuantizationArguments
    data: DataArguments
    finetuning: FinetuningArguments
    generating: GeneratingArguments
    export: ExportArguments
    infer: BatchInferenceArguments
    evaluation: EvaluationArguments
    media: ProcessorArguments
    vllm: VllmArguments
    sglang: SGLangArguments
    kt: KTransformersArguments
    rlhf: RLHFArguments
    tuner: Any
    keys: dict[str, Any]

    def __iter__(self) -> Iterator[Any]:
        """Give the sections in the order in which older scripts unpack them."""
        return iter((self.model, self.data, self.finetuning, self.generating))


@dataclass(frozen=True, kw_only=True)
class TrainArgs(InferArgs):
    """Everything a training run reads: the shared sections and those of the training loop."""

    training: TrainingArguments
    ray: RayArguments
    profiler: ProfilerArguments
    fp8: Fp8Arguments
    qat: QatArguments
    swanlab: SwanLabArguments
    galore: GaloreArguments
    apollo: ApolloArguments
    badam: BAdamArguments
    megatron: MegatronBridgeArguments
    plan: PlanArguments

    def __iter__(self) -> Iterator[Any]:
        """Give the sections in the order in which older scripts unpack them."""
        return iter((self.model, self.data, self.training, self.finetuning, self.generating))


def to_dict(args: InferArgs) -> dict[str, Any]:
    """Return the resolved configuration as ``{section: {key: value}}``, with tokens, passwords and secrets masked."""
    sections = {name: asdict(section) for name, section in vars(args).items() if name != "keys" and section is not None}
    masked: dict[str, Any] = mask_values(sections)
    return masked
