# SPDX-License-Identifier: Apache-2.0
"""Processors of videos need torchvision; without it there is nothing to test there."""

from __future__ import annotations

from .processors import TORCHVISION

collect_ignore = [] if TORCHVISION else ["test_sound_of_videos.py"]
