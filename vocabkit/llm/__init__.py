"""The LLM: embedding rows out of weight files, loading, prompts, and adapter + LLM in one module."""
