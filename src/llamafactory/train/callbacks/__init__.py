# SPDX-License-Identifier: Apache-2.0
"""What happens around the training loop."""

from ...extras.lazy import exports

__getattr__ = exports(
    __name__, {"LogCallback": "log", "PissaConvertCallback": "pissa", "ReporterCallback": "reporters"}
)
