"""Stage 1 (the adapter alone, on captions) and stage 2 (instruction tuning), on accelerate."""
