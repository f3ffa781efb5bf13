"""Captioned pictures: LLaVA's JSON, Hugging Face data sets, and scenes drawn offline."""
