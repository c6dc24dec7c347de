"""Retrieval heads on encoded features: aggregators, pooling, GARE's gap module, exact scoring."""
