"""Tokenizer files read into vocabularies: bytes, kinds and roles of token ids, and how text is cut."""
