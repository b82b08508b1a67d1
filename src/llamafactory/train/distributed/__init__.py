# SPDX-License-Identifier: Apache-2.0
"""What a trainer does otherwise when every process holds a part of each weight."""
