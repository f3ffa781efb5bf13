"""Exports: adapters in the formats of other programs."""
