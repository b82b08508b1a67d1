# SPDX-License-Identifier: Apache-2.0
"""The proof of an export: what stock transformers loads from the folder is the base with its adapter.

The expected weights are written here from the equations of the papers, not by the code that merged them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from ..data.messages import Message, Sample, ToolCall
from ..data.template.jinja_sandbox import limited
from ..extras.errors import ConfigError
from ..model.config import language_class
from ..model.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data.template.base import Template
    from ..model.heads import Head

# Largest difference of logits, relative to the largest logit. Both sides compute in float32: what is left is the
# rounding of the weights to the exported type. A half type also loses the part of an adapter that is smaller than its
# rounding step, so there up to half of what the adapter does may be missing; how much is missing is reported.
LOGIT_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
LOST_SHARE = {torch.float32: 0.0, torch.float16: 0.5, torch.bfloat16: 0.5}

_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
# (messages, tools, the conversation ends with the prompt of an answer)
PROBES: list[tuple[list[Message], list[dict], bool]] = [
    ([Message.of("user", "Who are you?")], [], True),
    ([Message.of("system", "Be brief."), Message.of("user", "  Größe? 你好 🙂\n")], [], True),
    (
        [Message.of("user", "1 + 1?"), Message.of("assistant", "2"), Message.of("user", "And\n\n2 + 2?")],
        [],
        True,
    ),
    ([Message.of("user", "1 + 1?"), Message.of("assistant", "It is 2.")], [], False),
    (
        [
            Message.of("system", "Be brief."),
            Message.of("user", "Hello"),
            Message.of("assistant", "Hi!", reasoning="A greeting."),
            Message.of("user", "Bye"),
            Message.of("assistant", "See you."),
        ],
        [],
        False,
    ),
    ([Message.of("user", "Is it warm in Bonn?")], [_TOOL], True),
    (
        [
            Message.of("user", "Is it warm in Bonn?"),
            Message("assistant", (), tool_calls=(ToolCall("get_weather", {"city": "Bonn"}),)),
            Message.of("tool", '{"celsius": 21}', name="get_weather"),
        ],
        [_TOOL],
        True,
    ),
]


class ExportFailure(ConfigError):
    """The exported folder is not what it should be; nothing is published."""


@dataclass(frozen=True)
class Proof:
    """Figures of a proof that held."""

    tensors: int  # compared with their equation
    changed: int  # of these, different from the base
    unproven: tuple[str, ...]  # layers of adapters without an equation here: proven by the logits only
    worst_rounding: float  # largest distance of a weight from its equation, in units of half a rounding step
    logits: float  # largest difference to base + adapter, relative to the largest logit
    tolerance: float
    effect: float  # what the adapter changes, in the same measure
    conversations: int  # probe conversations with equal ids


def prove(
    load_reference: Callable[[], Any],
    folder: Path,
    template: Template,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    head: Head | None = None,
) -> Proof:
    """Load the folder with plain transformers and compare everything with base + adapter.

    At most two models in their stored types, or one in float32, are in memory.

    Args:
        load_reference: Loads the base with the adapter beside it, not merged.
        folder: The export.
        template: What the model was trained with.
        dtype: Type of the exported weights.
        trust_remote_code: The model brings its own code.
        head: As ``load_model`` knows it; of a reward model the scores are compared where else the logits are.

    Raises:
        ExportFailure: A tensor, a logit or a token id differs; the message names it.
    """
    from transformers import AutoConfig

    remote = {"trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(folder, **remote)
    auto = language_class(config) if head is None else head.auto_class()
    conversations = prove_template(open_tokenizer(str(folder), **remote), template)
    reference = load_reference()
    placement = getattr(reference, "hf_device_map", None) or {"": reference.device}
    exported = auto.from_pretrained(folder, dtype="auto", device_map=placement, **remote)
    if exported.dtype != dtype:
        raise ExportFailure(f"export: config.json says dtype {exported.dtype}, the weights were written as {dtype}")
    tensors, changed, unproven, worst = _compare_weights(reference, exported)
    del exported
    ours = probe_logits(reference, template)
    effect = 0.0
    if isinstance(reference, PeftModel) and head is None:  # below a reward adapter the score layer is a random one
        with reference.disable_adapter():
            effect = _distance(ours, probe_logits(reference, template))
    del reference
    exported = auto.from_pretrained(folder, dtype=torch.float32, device_map=placement, **remote)
    difference = _distance(ours, probe_logits(exported, template))
    tolerance = max(LOGIT_TOLERANCE[dtype], LOST_SHARE[dtype] * effect)
    if not difference <= tolerance:
        raise ExportFailure(
            f"export: logits differ from base + adapter by {difference:.2g} of the largest (allowed {tolerance:.2g})"
        )
    return Proof(tensors, changed, tuple(unproven), worst, difference, tolerance, effect, conversations)


def _distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(ours, theirs, strict=True))


def prove_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> int:
    """Compare ``tokenizer.apply_chat_template`` with the template over the probes; return how many were compared.

    A conversation that the template refuses (tools where it knows none) must not be rendered in training either, and is
    left out.

    Raises:
        ExportFailure: The ids of a probe differ.
    """
    compared = 0
    for number, (messages, tools, prompt) in enumerate(PROBES):
        try:
            ours = _encode(template, messages, tools, prompt)
        except ConfigError:
            continue
        with limited(tokenizer.get_chat_template()):
            theirs = tokenizer.apply_chat_template(
                [message.to_openai() for message in messages],
                tools=tools or None,
                add_generation_prompt=prompt,
                tokenize=True,
                return_dict=False,
            )
        at = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        if ours != theirs:
            raise ExportFailure(
                f"export: chat template: probe conversation {number} differs at token {at}: trained on "
                f"{tokenizer.decode(ours[at : at + 8])!r}, the exported template gives "
                f"{tokenizer.decode(theirs[at : at + 8])!r}"
            )
        compared += 1
    return compared


def _encode(template: Template, messages: Sequence[Message], tools: Sequence[dict], prompt: bool) -> list[int]:
    if prompt:
        return template.encode_prompt(messages, tools=tools)
    # Untrained, or a border of tokens would stand before each answer, which no reader of a whole text makes.
    history = tuple(replace(message, weight=0.0) for message in messages)
    (segments,) = template.encode_batch([Sample(history, tuple(tools))])
    return [token for segment in segments for token in segment.ids]


@torch.no_grad()
def _compare_weights(reference: nn.Module, exported: nn.Module) -> tuple[int, int, list[str], float]:
    """Return tensors compared, how many of them changed, layers left to the logits, and the worst rounding."""
    base = reference.get_base_model() if isinstance(reference, PeftModel) else reference
    unproven = [name for name, layer in base.named_modules() if _is_unknown(layer)]
    state = exported.state_dict()
    tensors = changed = 0
    worst = 0.0
    for name, expected, before in expected_weights(base):
        found = state.get(name)
        if found is None or found.shape != expected.shape:
            raise ExportFailure(f"export: {name} is {_shape(found)} in the export, expected {_shape(expected)}")
        found = found.to(expected.device)
        if not torch.isfinite(found).all():
            raise ExportFailure(f"export: {name} does not fit into {found.dtype}: it holds infinite values")
        steps = _rounding(found, expected)
        if steps > 1.0:
            raise ExportFailure(
                f"export: {name} is not base + adapter: it is {steps:.3g} times half a rounding step of "
                f"{found.dtype} away"
            )
        tensors += 1
        worst = max(worst, steps)
        changed += before is not None and not torch.equal(found, before.to(found.dtype))
    if isinstance(reference, PeftModel) and not changed and not unproven:
        raise ExportFailure("export: the adapter changes nothing: every weight equals the base's; was it trained?")
    return tensors, changed, unproven, worst


def expected_weights(module: nn.Module, name: str = "") -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield ``(name, weight, before)`` of the plain model that a model with an adapter stands for.

    Args:
        module: The base with PEFT layers in it.
        name: Its name in the plain model.

    Yields:
        The tensor's name, its value in float32 where an adapter acts (else as it is), and the base's value where an
        adapter acts (else ``None``).
    """
    if isinstance(module, ModulesToSaveWrapper):
        originals = dict(module.original_module.named_parameters())
        for key, tensor in module.modules_to_save[module.active_adapters[0]].named_parameters():
            yield f"{name}.{key}", tensor, originals[key]
        return
    if isinstance(module, TrainableTokensWrapper | TrainableTokensLayer):
        layer = module.token_adapter if isinstance(module, TrainableTokensWrapper) else module
        yield f"{name}.weight", _with_rows(layer), layer.get_base_layer().weight
        return
    if _is_unknown(module):
        return
    if isinstance(module, LoraLayer):
        yield from _adapted(module, name)
        return
    for key, tensor in _tensors(module):
        yield f"{name}.{key}".lstrip("."), tensor, None
    for key, child in module.named_children():
        yield from expected_weights(child, f"{name}.{key}".lstrip("."))


def _adapted(layer: LoraLayer, name: str) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """The same of what LoRA layers stand around: one layer, or fused experts with one of them for each parameter."""
    around = {getattr(layer, "parameter_name", "weight"): layer}
    while isinstance(layer.base_layer, LoraLayer):
        layer = layer.base_layer
        around[getattr(layer, "parameter_name", "weight")] = layer
    own = layer.base_layer
    if isinstance(own, TrainableTokensWrapper):
        own = own.token_adapter.get_base_layer()
    tensors = dict(_tensors(own))
    for key, tensor in tensors.items():
        if key in around:
            yield f"{name}.{key}", _with_lora(around[key]), tensor
        elif key != "bias":
            yield f"{name}.{key}", tensor, None
    bias = _with_bias(layer, tensors.get("bias"))
    if bias is not None:
        yield f"{name}.bias", bias, tensors.get("bias")
    for key, child in own.named_children():
        yield from expected_weights(child, f"{name}.{key}")


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    found = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [(key, tensor) for key, tensor in found if key not in module._non_persistent_buffers_set]


def _with_rows(layer: Any) -> Tensor:
    """An embedding whose rows of new tokens are trained ones."""
    rows: Tensor = layer.get_base_layer().weight.float().clone()
    for adapter in layer.active_adapters:
        rows[layer.token_indices[adapter]] = layer.trainable_tokens_delta[adapter].float()
    return rows


def _with_bias(layer: Any, bias: Tensor | None) -> Tensor | None:
    """``b + s b'``; the base may have none."""
    value = None if bias is None else bias.float()
    for adapter in layer.active_adapters:
        if layer.lora_bias.get(adapter):
            added = layer.scaling[adapter] * layer.lora_B[adapter].bias.float()
            value = added if value is None else value + added
    return value


def _with_lora(layer: Any) -> Tensor:
    """``W + s B A`` (LoRA, arXiv:2106.09685), ``m (W + s B A) / |W + s B A|`` (DoRA, arXiv:2402.09353), in float32."""
    base = layer.base_layer
    if isinstance(base, TrainableTokensWrapper):
        value = _with_rows(base.token_adapter)
    else:
        value = getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight")).float()
    for adapter in layer.active_adapters:
        scale = layer.scaling.get(adapter)
        if isinstance(layer, ParamWrapper):
            if adapter in layer.lora_A:
                value = value + scale * _of_experts(layer, adapter)
        elif adapter in layer.lora_embedding_A:
            delta = layer.lora_embedding_B[adapter].float() @ layer.lora_embedding_A[adapter].float()
            value = value + scale * delta.T
            if layer.use_dora[adapter]:  # here each column has a magnitude, over all of the vocabulary
                value = value * (layer.lora_magnitude_vector[adapter].weight.float() / value.norm(dim=0))
        elif adapter in getattr(layer, "lora_E", {}):  # AdaLoRA: B diag(E) A over the number of its ranks
            delta = layer.lora_B[adapter].float() @ (layer.lora_A[adapter] * layer.lora_E[adapter]).float()
            delta = delta * (scale / (layer.ranknum[adapter].float() + 1e-5))
            value = value + (delta.T if layer.fan_in_fan_out else delta)
        elif adapter in layer.lora_A:
            delta = scale * (layer.lora_B[adapter].weight.float() @ layer.lora_A[adapter].weight.float())
            value = value + (delta.T if layer.fan_in_fan_out else delta)
            if layer.use_dora[adapter]:
                rows = 0 if layer.fan_in_fan_out else 1
                magnitude = layer.lora_magnitude_vector[adapter].weight.float()
                value = value * (magnitude / value.norm(dim=rows)).unsqueeze(rows)
    return value


def _of_experts(layer: ParamWrapper, adapter: str) -> Tensor:
    """``B_e A_e`` of each expert; row ``e r + j`` of what is stored of A is row j of A_e, column ``j E + e`` of B."""
    experts, down, up = layer.num_experts, layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
    if experts == 1:
        return up @ down
    rank = len(down) // experts
    deltas = torch.stack([up[:, e::experts] @ down[e * rank : (e + 1) * rank] for e in range(experts)])
    return deltas.transpose(1, 2) if getattr(layer.get_base_layer(), "is_transposed", False) else deltas


def _is_unknown(module: nn.Module) -> bool:
    """An adapter layer whose equation is not written here."""
    if isinstance(module, ParamWrapper):
        return bool(module.lora_variant)
    if isinstance(module, LoraLayer):
        base = module.get_base_layer()
        plain = isinstance(base, nn.Embedding) or (base.weight.ndim == 2 and hasattr(module, "fan_in_fan_out"))
        variants = [v for a, v in module.lora_variant.items() if not (module.use_dora.get(a) and base.weight.ndim == 2)]
        return not plain or bool(variants)
    return isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer)


def _rounding(found: Tensor, expected: Tensor) -> float:
    """Largest distance of a stored weight from its value, in units of what one rounding may do."""
    expected = expected.float()
    # Half a unit in the last place of the stored type, and what two orders of a float32 sum may differ by.
    half_step = expected.abs() * (torch.finfo(found.dtype).eps / 2)
    slack = 4e-7 * expected.abs() + 4e-7 * expected.abs().max() + torch.finfo(found.dtype).tiny
    return float(((found.float() - expected).abs() / (half_step + slack)).max()) if found.numel() else 0.0


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))


@torch.inference_mode()
def probe_logits(model: PreTrainedModel | PeftModel, template: Template) -> list[Tensor]:
    """Return logits ``[tokens, vocabulary]`` of the first probes, computed in float32; widens the model in place.

    Of a reward model they are one tensor with the scores of these probes, of a model without any head its states.
    """
    model.eval().float()
    logits = []
    for messages, tools, prompt in PROBES[:3]:
        ids = torch.tensor([_encode(template, messages, tools, prompt)], device=model.device)
        found = model(input_ids=ids, use_cache=False, return_dict=True)
        logits.append((found.logits if "logits" in found else found.last_hidden_state)[0].cpu())
    is_reward = logits[0].ndim == 1
    return [torch.cat(logits)] if is_reward else logits
