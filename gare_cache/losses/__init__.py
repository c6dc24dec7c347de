"""Training losses on pair scores: contrastive losses and GARE's terms on the increment."""
