"""The command line of vocabkit."""
