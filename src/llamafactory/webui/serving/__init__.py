# SPDX-License-Identifier: Apache-2.0
"""What stands between the page and a browser."""
