# SPDX-License-Identifier: Apache-2.0
"""Optimizers as classes of torch: their state is plain tensors and numbers, so that a checkpoint holds all of it."""
