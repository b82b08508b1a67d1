# SPDX-License-Identifier: Apache-2.0
"""Until media are decoded by the project: objects pass as they are."""

from __future__ import annotations

import importlib.util
import sys
import types

if importlib.util.find_spec("llamafactory.data.media.decode") is None:
    decode = types.ModuleType("llamafactory.data.media.decode")
    decode.read_image = decode.read_video = decode.read_audio = lambda value, limits: value
    sys.modules["llamafactory.data.media.decode"] = decode
