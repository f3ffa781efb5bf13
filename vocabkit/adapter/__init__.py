"""Adapters (Eq. 2-4): model, config, checkpoint and the mixing of embedding rows."""
