"""How good visual tokens are: caption loss of an LLM under what is shown to it, retention, and answers."""
