"""What an image becomes in words."""
