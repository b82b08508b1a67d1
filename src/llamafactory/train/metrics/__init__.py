# SPDX-License-Identifier: Apache-2.0
"""What a run reports: means over items, losses by data set, speed."""
