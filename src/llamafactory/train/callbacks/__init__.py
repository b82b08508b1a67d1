# SPDX-License-Identifier: Apache-2.0
"""What happens around the training loop."""
