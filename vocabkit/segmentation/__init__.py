"""How a tokenizer cuts text into its tokens, rebuilt for the library `tokenizers` from any source."""

from vocabkit.segmentation.rules import Rules, load_rules
from vocabkit.segmentation.segmenter import Segmenter
from vocabkit.segmentation.tokenizer import encode_batch, load_tokenizer

__all__ = ["Rules", "Segmenter", "encode_batch", "load_rules", "load_tokenizer"]
