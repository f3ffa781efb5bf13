"""The envelope of vocabkit's Arrow files, and Arrow arrays from and to bytes."""
