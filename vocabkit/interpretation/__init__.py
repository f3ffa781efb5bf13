"""What an image becomes in words: the vocabulary tokens that its visual tokens stand for, as plain data.

An `Interpretation` holds `images` (`ImageInfo`), and for each image, LLM and checkpoint a `Reading`: of every patch the
nearest tokens and the largest coefficients. `development` (`Development`) sums up each LLM and checkpoint over all
images. `tokens` says what the token ids of an LLM are, `rows` what the rows of a head are. `reading(...)` finds one.

`report.as_json.to_json(interpretation)` is its JSON; `vocabkit.interpretation.run.interpret_files` makes it from files.
"""

from vocabkit.interpretation.results import Development, ImageInfo, Interpretation, Reading, Token

__all__ = ["Development", "ImageInfo", "Interpretation", "Reading", "Token"]
