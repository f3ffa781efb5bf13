"""Captioned pictures: LLaVA's JSON, Hugging Face datasets, and scenes drawn offline."""
