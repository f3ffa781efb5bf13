"""Visual tokens, their largest coefficients and captions of many pictures."""
