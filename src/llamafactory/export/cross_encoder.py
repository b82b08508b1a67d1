# SPDX-License-Identifier: Apache-2.0
"""What makes sentence-transformers' ``CrossEncoder`` give a reward model's own number for a rendered conversation."""

from __future__ import annotations

from pathlib import Path

from ..extras.files import write_json

_TEXT = {"method": "forward", "method_output_name": "logits"}
_FILES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    # Text alone: otherwise each text is put into the chat template once more, as one message of a user.
    "sentence_bert_config.json": {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": _TEXT},
        "module_output_name": "scores",
    },
    "config_sentence_transformers.json": {
        "model_type": "CrossEncoder",
        "activation_fn": "torch.nn.modules.linear.Identity",
        "__version__": {"sentence_transformers": "6.2.0"},
    },
}


def write_cross_encoder(folder: Path) -> None:
    """Add the files to the folder of an exported reward model."""
    for name, content in _FILES.items():
        write_json(folder / name, content)
