"""Pictures with conversations about them: read from the formats of LLaVA and Hugging Face, or drawn offline."""

from vocabkit.data.hf_datasets import read_dataset
from vocabkit.data.llava import is_llava, read_llava
from vocabkit.data.pictures import BrokenImage, load_image
from vocabkit.data.samples import PLACEHOLDER, Picture, Sample, Turn
from vocabkit.data.sources import Columns, pictures_of, samples_of

__all__ = [
    "PLACEHOLDER",
    "BrokenImage",
    "Columns",
    "Picture",
    "Sample",
    "Turn",
    "is_llava",
    "load_image",
    "pictures_of",
    "read_dataset",
    "read_llava",
    "samples_of",
]
