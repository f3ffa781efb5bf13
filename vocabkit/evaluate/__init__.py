"""How good visual tokens are: caption loss of an LLM, retention, rivals and answers."""
