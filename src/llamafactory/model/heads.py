# SPDX-License-Identifier: Apache-2.0
"""What stands on a decoder or an encoder in the place of the language-model head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..extras.errors import ConfigError
from ..extras.files import read_json
from .config import takes_media
from .paths import resolve_adapter_path, resolve_model_path
from .tokenizer import adapter_names

if TYPE_CHECKING:
    from torch import nn

    from ..hparams import InferArgs

Problem = Literal["regression", "single_label_classification", "multi_label_classification"]
_UNNAMED = "LABEL_"


@dataclass(frozen=True)
class Head:
    """Sequence classification of transformers, with what its ``config.json`` says of the scores; or nothing at all.

    Attributes:
        kind: ``scores``, or ``vectors``: the bare model, whose states are pooled.
        labels: Names of the scores in order; none = one score without a name.
        problem_type: As transformers calls it; the score of ``regression`` is meant as it is.
    """

    kind: Literal["scores", "vectors"] = "scores"
    labels: tuple[str, ...] = ()
    problem_type: Problem = "regression"

    def auto_class(self) -> Any:
        """The ``Auto...`` class that loads a model with it."""
        from transformers import AutoModel, AutoModelForSequenceClassification

        return AutoModelForSequenceClassification if self.kind == "scores" else AutoModel

    def configure(self, config: Any) -> None:
        """Write it into a model's configuration, for who loads the model elsewhere.

        Raises:
            ConfigError: transformers has no such model of this family.
        """
        if type(config) not in self.auto_class()._model_mapping:
            raise ConfigError(f"stage: transformers has no classification head for {config.model_type} models")
        if self.kind == "vectors":
            if takes_media(config):
                raise ConfigError(f"stage: embedding is of models of text, not of {config.model_type}")
            return
        config.num_labels = max(1, len(self.labels))
        if self.labels:
            config.id2label = dict(enumerate(self.labels))
            config.label2id = {name: number for number, name in enumerate(self.labels)}
        config.problem_type = self.problem_type
        if len(self.labels) < 2:
            # The score is meant as it is; without this, cross-encoders give its sigmoid.
            config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}


REWARD = Head()
VECTORS = Head("vectors")


def head_for(args: InferArgs) -> Head | None:
    """Return the head of a model that was trained in the stage of ``args``; None = it writes text.

    Raises:
        ConfigError: The stage has one, and neither the adapter nor the model says which.
    """
    stage = args.finetuning.stage
    if stage == "classification":
        found = stored_head(args)
        if found is None:
            raise ConfigError(f"model_name_or_path: '{args.model.model_name_or_path}' is no classifier")
        return found
    return {"rm": REWARD, "reranker": REWARD, "embedding": VECTORS}.get(stage)


def stored_head(args: InferArgs) -> Head | None:
    """Return the head that the last adapter, or else the model, was saved with; None = it has none."""
    folders = [resolve_adapter_path(name, args.model) for name in adapter_names(args.model)]
    folders.insert(0, resolve_model_path(str(args.model.model_name_or_path), args.model))
    for folder in reversed(folders):
        file = Path(folder) / "config.json"
        config = read_json(file, dict) if file.is_file() else {}
        if any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
            return _head_of(config)
    return None


def _head_of(config: dict[str, Any]) -> Head:
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    labels = tuple(names[number] for number in sorted(names)) or (f"{_UNNAMED}0", f"{_UNNAMED}1")
    usual: Problem = "regression" if len(labels) == 1 else "single_label_classification"
    return Head("scores", labels, config.get("problem_type") or usual)


def is_named(head: Head) -> bool:
    """Whether the scores have names of their own, not those that transformers gives."""
    return any(not name.startswith(_UNNAMED) for name in head.labels)


def score_layer(model: Any) -> nn.Module | None:
    """The layer of a sequence classification model that scores; None = it is another kind of model."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return None
    return next((getattr(model, name) for name in SCORE_NAMES if hasattr(model, name)), None)


SCORE_NAMES = ("score", "classifier")


def save_head(model: Any, folder: Path) -> None:
    """Write beside an adapter what its scores mean: ``config.json`` of the classifier that it is an adapter of."""
    if score_layer(model) is None:
        return
    before, model.config.architectures = model.config.architectures, [type(model).__name__]
    model.config.save_pretrained(folder)
    model.config.architectures = before


def require_head(model: Any, task: str | None, folder: str) -> None:
    """Refuse an adapter of a model with another head.

    Args:
        model: What it shall be put on.
        task: What PEFT calls the kind of its model.
        folder: Of the adapter.

    Raises:
        ConfigError: The stage is another one.
    """
    if task == "SEQ_CLS" and score_layer(model) is None:
        what = "is a reward model; add stage: rm (a classifier: its own stage)"
    elif task == "FEATURE_EXTRACTION" and model.get_output_embeddings() is not None:
        what = "is of an embedding model; add stage: embedding"
    else:
        return
    raise ConfigError(f"adapter_name_or_path: '{folder}' {what}")
