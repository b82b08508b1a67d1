# SPDX-License-Identifier: Apache-2.0
"""What a run writes into its folder: checkpoints on the way, and the finished model with its card."""
