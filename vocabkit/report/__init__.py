"""Results as terminal text, JSON and self-contained HTML pages."""
