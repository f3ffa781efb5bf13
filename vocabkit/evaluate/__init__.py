"""How good visual tokens are: caption loss of an LLM, retention, baselines and answers."""
