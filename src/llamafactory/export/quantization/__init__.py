# SPDX-License-Identifier: Apache-2.0
"""Quantized exports: calibrated weights of 4 or 8 bits in the compressed-tensors format."""
