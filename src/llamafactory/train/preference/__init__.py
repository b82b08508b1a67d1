# SPDX-License-Identifier: Apache-2.0
"""What the stages that compare completions share."""
