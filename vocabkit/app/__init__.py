"""A page to talk to: a picture, the words that its patches become, and answers of LLMs as they are written."""
