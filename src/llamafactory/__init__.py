# SPDX-License-Identifier: Apache-2.0
"""Fine-tune, evaluate, export and serve large language models from one YAML file."""

__version__ = "1.0.0.dev0"
