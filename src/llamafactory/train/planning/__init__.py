# SPDX-License-Identifier: Apache-2.0
"""What a run will need, found without its weights: a step is computed on tensors that have shapes and no values."""
