"""vocabkit's Arrow files: metadata, checksum and checks; and conversion of Arrow arrays to and from NumPy."""
