"""Files read and written whole, and records read without holding the whole file."""
