"""Results as terminal text, JSON and one-file HTML."""
