# SPDX-License-Identifier: Apache-2.0
"""Parts of a model that were said to be frozen: looked at before and after the training."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ...extras.logging import get_logger
from ...model.towers import fingerprint, still_tensors

logger = get_logger(__name__)


class FrozenCallback(TrainerCallback):
    """Compares weights and buffers of frozen parts bit by bit, and says so.

    Raises:
        RuntimeError: One has changed, which is a fault of this program or of a library.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._before = _fingerprints(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        after = _fingerprints(model)
        for part, before in self._before.items():
            changed = sorted(name for name, figures in before.items() if after[part].get(name) != figures)
            if changed:
                raise RuntimeError(f"{part}: said to be frozen, but {len(changed)} tensors changed: {changed[:3]}")
            logger.info_rank0("%s: frozen, all %d tensors are bit-identical to the start", part, len(before))


def _fingerprints(model: Any) -> dict[Any, dict[str, tuple[int, int]]]:
    parts = still_tensors(model)
    return {part: {name: fingerprint(one) for name, one in tensors.items()} for part, tensors in parts.items()}
