"""A portable adapter that does for its LLM what a projector does."""
