# SPDX-License-Identifier: Apache-2.0
"""One model over many processes, each of which holds a part of every weight (torch's ``fully_shard``)."""
