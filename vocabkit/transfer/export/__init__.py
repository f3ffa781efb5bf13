"""Projectors in the formats of other programs: Llava checkpoints, mmproj, mm_projector.bin."""
