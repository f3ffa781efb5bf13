"""The shared vocabulary: align, verify, rank, overlap, explain, import and audit."""
