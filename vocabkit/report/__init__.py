"""Reports for people: the same dataclasses as Rich tables for the terminal and as JSON for machines."""
