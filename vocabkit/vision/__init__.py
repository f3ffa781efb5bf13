"""Vision encoders: from pictures to patch features (Eq. 1), cached in files."""
