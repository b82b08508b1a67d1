# SPDX-License-Identifier: Apache-2.0
"""What the buttons and clocks of the page do."""
