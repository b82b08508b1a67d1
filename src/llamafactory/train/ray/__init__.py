# SPDX-License-Identifier: Apache-2.0
"""Training in workers that Ray Train starts, on this machine or on a cluster."""
