"""vocabkit."""
