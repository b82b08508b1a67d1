# SPDX-License-Identifier: Apache-2.0
"""Whether a run may pack: asked of the model's configuration, before any row is prepared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...model.loader import may_pack_media, will_isolate

if TYPE_CHECKING:
    from ...data.processor import Processor
    from ...hparams import TrainArgs

logger = get_logger(__name__)


def settle_packing(processor: Processor, args: TrainArgs) -> TrainArgs:
    """Turn packing off where it is only a default and the model would let packed sequences see each other.

    Raises:
        ConfigError: Packing was asked for, and the model's attention cannot keep sequences apart.
    """
    data = args.data
    asked = bool(data.packing or data.neat_packing)
    if not asked and (data.packing is False or not processor.packs):
        return args
    if data.padding_free is False:
        why = "padding_free is false"
    elif not will_isolate(args.model):
        why = "this model's attention cannot keep sequences apart"
    elif not asked and not (can := may_pack_media(args.model)).works:  # what rows hold is not known yet
        why = f"{can.reason}; packing: true packs data of text alone"
    else:
        return args
    if asked:
        raise ConfigError(f"packing: packed rows need isolating attention, but {why}; set packing: false")
    logger.info_rank0("packing: off for this run, one sequence a row: %s", why)
    return replace(args, data=replace(data, packing=False))
