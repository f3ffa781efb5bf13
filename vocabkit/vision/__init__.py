"""Vision encoders: from pictures to patch features (Eq. 1)."""

from vocabkit.vision.encoder import EncoderInfo, VisionEncoder
from vocabkit.vision.opening import open_vision

__all__ = ["EncoderInfo", "VisionEncoder", "open_vision"]
