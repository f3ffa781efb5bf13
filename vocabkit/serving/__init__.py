"""Adapters in other programs. Importing this lets transformers load what `vocabkit export --as hf` writes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from vocabkit.serving.efficientnet_lite import (
    VocabkitEfficientNet,
    VocabkitEfficientNetConfig,
    VocabkitEfficientNetImageProcessor,
)
from vocabkit.serving.llava import (
    VocabkitLlavaConfig,
    VocabkitLlavaForConditionalGeneration,
    VocabkitLlavaModel,
    VocabkitLlavaProcessor,
)
from vocabkit.serving.pictures import prompt_embeds, words

AutoConfig.register(VocabkitLlavaConfig.model_type, VocabkitLlavaConfig)
AutoConfig.register(VocabkitEfficientNetConfig.model_type, VocabkitEfficientNetConfig)
AutoModel.register(VocabkitLlavaConfig, VocabkitLlavaModel)
AutoModel.register(VocabkitEfficientNetConfig, VocabkitEfficientNet)
AutoModelForImageTextToText.register(VocabkitLlavaConfig, VocabkitLlavaForConditionalGeneration)
AutoProcessor.register(VocabkitLlavaConfig, VocabkitLlavaProcessor)
AutoImageProcessor.register(
    VocabkitEfficientNetConfig, image_processor_classes={"pil": VocabkitEfficientNetImageProcessor}
)

__all__ = [
    "VocabkitLlavaConfig",
    "VocabkitLlavaForConditionalGeneration",
    "VocabkitLlavaProcessor",
    "prompt_embeds",
    "words",
]


def register_with_vllm() -> None:
    """The plugin of vLLM, entry point `vllm.general_plugins`: it calls this in each of its processes."""
    from vllm import ModelRegistry

    name = VocabkitLlavaForConditionalGeneration.__name__
    ModelRegistry.register_model(name, f"vocabkit.serving.vllm:{name}")
