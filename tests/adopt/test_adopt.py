"""A projector becomes a portable adapter: what it says, what the adapter learns of it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import error_of, vocabkit_here
from results import curve, same_bits, weights
from safetensors.torch import load_file, save_file
from small_models import llm as small_llm
from small_world import World
from tokenizers import Tokenizer, models
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from two_processes import TORCHRUN, assert_same_training, run
from vision_models import clip, registers, siglip

from vocabkit.adapter.config import MLPConfig
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.adopt import captions
from vocabkit.adopt.adopt import AdoptOptions, adopt
from vocabkit.adopt.captions import words_prompt
from vocabkit.adopt.teacher import open_teacher
from vocabkit.data.llava import read_llava
from vocabkit.errors import VocabkitError, VocabkitWarning
from vocabkit.evaluate.validate import FileOptions, validate_files
from vocabkit.llm.load import load_llm, quiet_transformers
from vocabkit.shared.align_words import align_words
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.published import export_mm_projector
from vocabkit.transfer.transfer import transfer
from vocabkit.vision.features import cache_files, open_features

QUICK = ("word_steps=30", "word_batch=12", "word_learning_rate=0.02", "hidden_width=16", "learning_rate=0.03")


def options(world: World, *settings: str, **changes: Any) -> AdoptOptions:
    """A quick adoption for LLM two, of captions as the projector was trained on."""
    given = {"targets": (world.two,), "template": "plain", "max_new_tokens": 12, "batch": 4} | changes
    return AdoptOptions(**given, settings=(*QUICK, "batch=12", "steps=30", *settings))


@pytest.fixture(scope="module")
def pictures(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of the small world, without their captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for file in world.data.parent.glob("*.png"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def adopted(world: World, llava: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adoption of the Llava."""
    out = tmp_path_factory.mktemp("adopted") / "out"
    adopt(str(llava), str(pictures), out, options(world))
    return out


# ---- the result --------------------------------------------------------------------------------------------------


def test_adapter_has_a_softmax_head_over_what_the_captions_say(world: World, adopted: Path) -> None:
    adapter = load_adapter(adopted / "adapter")
    assert isinstance(adapter, LangBridgeAdapter)
    assert adapter.config.head == "softmax"
    assert adapter.shared.names == ["llava", "two"]
    said = b"".join(sample.turns[0].answer.encode() for sample in read_llava(adopted / "captions.jsonl"))
    assert {bytes([byte]) for byte in said} <= set(adapter.shared)


def test_adapter_comes_closer_to_its_teacher(adopted: Path) -> None:
    distances = curve(adopted)
    assert distances[-1] < 0.95 * distances[0]


def test_adapter_makes_the_llm_say_what_the_projector_does(world: World, llava: Path, adopted: Path) -> None:
    """On captions that neither saw: those of the world."""
    both = {"adopted": str(adopted / "adapter"), "mlp": str(adopted / "teacher")}
    found = validate_files([str(world.data)], str(llava), both, FileOptions(features=world.features))["data"].validation
    assert found.of_mlp["adopted"].value > 0.2
    assert found.gain["adopted"].value > 0


def test_adapter_moves_to_the_other_llm(world: World, adopted: Path) -> None:
    moved, _ = transfer(adopted / "adapter", world.two)
    assert moved.llm == "two"
    assert len(moved.embeddings) == len(open_shared(adopted / "shared.arrow"))


def test_captions_are_the_teachers_own_and_need_none(adopted: Path, pictures: Path) -> None:
    samples = list(read_llava(adopted / "captions.jsonl"))
    assert [sample.images[0].key for sample in samples] == sorted(file.name for file in pictures.iterdir())
    by_colour: dict[int, set[str]] = {}
    for sample in samples:
        by_colour.setdefault(int(Path(sample.images[0].key).stem) % 4, set()).add(sample.turns[0].answer)
    assert [len(answers) for answers in by_colour.values()] == [1, 1, 1, 1]  # one caption for each colour
    assert len(set.union(*by_colour.values())) > 1


def test_every_question_is_asked_of_every_picture(world: World, projector: Path, tmp_path: Path) -> None:
    questions = ("Image: <image>\nThis is", "<image> What?")
    chosen = options(
        world, "steps=1", "word_steps=0", template="completion", questions=questions, llm=world.one,
        features=world.features,
    )  # fmt: skip
    found = adopt(str(projector), None, tmp_path / "out", chosen)
    samples = list(read_llava(tmp_path / "out" / "captions.jsonl"))
    assert [sample.turns[0].question for sample in samples] == [*questions] * 12
    assert found.trained.samples == 24


def test_rows_may_be_words(world: World, llava: Path, pictures: Path, tmp_path: Path) -> None:
    """Of captions in the file already, so the teacher is not asked."""
    adopt(str(llava), str(pictures), tmp_path / "out", options(world, "steps=1", "word_steps=1", words=True))
    assert open_shared(tmp_path / "out" / "shared.arrow").of_words


def test_prompt_shows_answers_after_their_rarer_words(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    said = [
        "a red cup on a mat",
        "A blue owl on a mat.",
        "A blue jug on a mat.",
        "A red fox on a mat.",
        *["A rug on a mat."] * 20,
    ]
    lines = []
    for picture, answer in enumerate(said):
        for number, text in enumerate((answer, "Something else.")):
            turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
            lines.append(json.dumps({"id": f"{picture}.png#{number}", "image": "x.png", "conversations": turns}))
    file.write_text("\n".join(lines) + "\n")
    shared = align_words([resolve(name).vocabulary for name in ("smollm2", "qwen2")], [file])
    expected = ["Words: blue owl", "Caption: A blue owl on a mat.", "Words: fox red", "Caption: A red fox on a mat."]
    found = words_prompt(file, shared)
    assert found == "\n".join([*expected, "Words: <image>", "Caption:"]), "whole answers, no word twice"
    file.write_text(lines[-2] + "\n")
    assert words_prompt(file, shared) is None


def test_captions_are_written_in_the_precision_of_the_training(
    world: World, projector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(
        "vocabkit.adopt.adopt.load_llm", lambda source, dtype: loaded.append(dtype) or load_llm(source, dtype)
    )
    chosen = options(world, "steps=1", "precision=bfloat16", llm=world.one, features=world.features)
    assert adopt(str(projector), None, tmp_path / "out", chosen).trained.steps == 31
    assert loaded == [torch.bfloat16]


def test_command_says_what_came_of_it(world: World, projector: Path, tmp_path: Path) -> None:
    words = [tmp_path, "adopt", str(projector), "--llm", world.one, "--features", world.features, "--for", world.two]
    words += ["--template", "plain", "--max-new-tokens", "12", "--batch", "4", "--out", tmp_path / "out"]
    words += [word for setting in (*QUICK, "steps=1") for word in ("--set", setting)]
    found = json.loads(vocabkit_here(*words, "--json").stdout)
    assert found["trained"]["samples"] == 12
    assert found["covered"] == 1
    assert "31 steps on 12 of its answers" in vocabkit_here(*words).stdout


# ---- what may be adopted -----------------------------------------------------------------------------------------


def test_llava_folder_has_all_that_is_needed(world: World, llava: Path, projector: Path) -> None:
    """Also the vision model, which is recognised as that of the training."""
    found = open_teacher(str(llava))
    own, config = load_adapter(projector), found.projector.config
    assert found.llm == str(llava)
    assert config.vision_fingerprint == own.config.vision_fingerprint
    assert (config.vision_layer, config.vision_keep_cls, config.vision_aspect_ratio) == (-2, False, "square")
    features = open_features(world.features)["0.png"].float()
    torch.testing.assert_close(found.projector(features), own(features))


def test_mm_projector_needs_llm_and_vision(world: World, projector: Path, tmp_path: Path) -> None:
    own = load_adapter(projector)
    assert isinstance(own, MLPProjector)
    export_mm_projector(own, tmp_path / "mm_projector.bin")
    with pytest.raises(VocabkitError, match="without its LLM: give `llm`"):
        open_teacher(str(tmp_path / "mm_projector.bin"))
    found = open_teacher(str(tmp_path / "mm_projector.bin"), world.one, str(world.vision))
    assert found.projector.config.vision_model == str(world.vision)
    assert found.projector.config.llm == "one"
    with pytest.raises(VocabkitError, match="have width 32, but the projector gives visual tokens of width 24"):
        open_teacher(str(tmp_path / "mm_projector.bin"), world.two)


def test_folder_of_lora_weights_may_hold_the_projector_alone(world: World, projector: Path, tmp_path: Path) -> None:
    own = load_adapter(projector)
    assert isinstance(own, MLPProjector)
    export_mm_projector(own, tmp_path / "mm_projector.bin")
    (tmp_path / "mm_projector.bin").rename(tmp_path / "non_lora_trainables.bin")
    with pytest.raises(VocabkitError, match="without its LLM: give `llm`"):
        open_teacher(str(tmp_path))
    assert open_teacher(str(tmp_path), world.one).projector.config.llm == "one"


def test_what_config_leaves_out_is_as_in_transformers(llava: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava, tmp_path / "llava"))
    content = json.loads((folder / "config.json").read_text())
    for name in ("vision_feature_layer", "vision_feature_select_strategy"):
        del content[name]
    (folder / "config.json").write_text(json.dumps(content))
    found = open_teacher(str(folder)).projector.config
    assert (found.vision_model, found.vision_layer, found.vision_keep_cls) == (str(folder), -2, False)
    edit(folder / "config.json", vision_feature_layer=[-1])
    assert open_teacher(str(folder)).projector.config.vision_layer == -1


def test_projector_without_biases_has_zeros(world: World, llava: Path, tmp_path: Path) -> None:
    with quiet_transformers():
        model = LlavaForConditionalGeneration.from_pretrained(llava)
        theirs, model.config.multimodal_projector_bias = model.model.multi_modal_projector, False
        theirs.linear_1.bias = theirs.linear_2.bias = None
        folder = Path(shutil.copytree(llava, tmp_path / "llava", ignore=shutil.ignore_patterns("*.safetensors*")))
        model.save_pretrained(folder)
    features = open_features(world.features)["0.png"].float()
    torch.testing.assert_close(open_teacher(str(folder)).projector(features), theirs(features))


def test_llavas_own_layout_is_read(world: World, projector: Path, tmp_path: Path) -> None:
    folder = own_layout(world, projector, tmp_path / "own")
    found = open_teacher(str(folder))
    config = found.projector.config
    assert (config.vision_model, config.vision_layer, config.vision_keep_cls) == (str(world.vision), -2, False)
    assert config.vision_aspect_ratio == "pad"
    chosen = options(world, "steps=1", "word_steps=0")
    assert adopt(str(folder), str(world.data), tmp_path / "out", chosen).llm == "own"


def own_layout(world: World, projector: Path, folder: Path, **changes: Any) -> Path:
    """A checkpoint in LLaVA's own layout: the LLM's config and tensors, and a projector among them."""
    one = Path(world.one.partition("=")[2])
    shutil.copytree(one, folder)
    layers = load_file(projector / "model.safetensors")
    tensors = {
        f"model.mm_projector.{number}.{part}": layers[f"linear_{number // 2 + 1}.{part}"]
        for number in (0, 2)
        for part in ("weight", "bias")
    }
    save_file(load_file(one / "model.safetensors") | tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((one / "config.json").read_text())
    config |= {"model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu", "mm_vision_tower": str(world.vision)}
    config |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "image_aspect_ratio": "pad"}
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_llava_next_sees_the_whole_picture(world: World, llava: Path, tmp_path: Path) -> None:
    """Its base tile, a square of the size of a tile, whatever the picture's shape."""
    folder = Path(shutil.copytree(llava, tmp_path / "next"))
    edit(folder / "config.json", model_type="llava_next", image_grid_pinpoints=[[28, 56]])
    for name in ("preprocessor_config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text())
        inner = content.get("image_processor", content)
        inner |= {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": [[28, 56]]}
        (folder / name).write_text(json.dumps(content))
    found = open_teacher(str(folder)).projector.config
    assert found.vision_aspect_ratio == "square"
    assert adopt(str(folder), str(world.data), tmp_path / "out", options(world, "steps=1", "word_steps=0"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ---- resumption --------------------------------------------------------------------------------------------------


class Stopped(Exception):  # noqa: N818 - not an error
    """Stop as a power failure would."""


def test_stopped_captioning_goes_on_to_the_same_bytes(world: World, projector: Path, tmp_path: Path) -> None:
    chosen = options(world, "steps=1", "word_steps=0", llm=world.one, features=world.features)
    batches = []

    def stop(what: str, done: int, total: int | None) -> None:
        batches.extend([done] if what.startswith("captions") else [])
        if done == 8 and what.startswith("captions"):
            raise Stopped

    with pytest.raises(Stopped):
        adopt(str(projector), None, tmp_path / "out", chosen, progress=stop)
    file = tmp_path / "out" / "captions.jsonl"
    with file.open("a") as torn:
        torn.write('{"id": "6.png#0", "ima')
    adopt(str(projector), None, tmp_path / "out", chosen, progress=stop)
    assert batches == [4, 8, 12]
    adopt(str(projector), None, tmp_path / "whole", chosen)
    assert file.read_bytes() == (tmp_path / "whole" / "captions.jsonl").read_bytes()


def test_stopped_training_ends_with_the_same_bits(
    world: World, llava: Path, pictures: Path, adopted: Path, tmp_path: Path
) -> None:
    def stop(step: Any) -> None:
        if step.step == 42:
            raise Stopped

    chosen = options(world, "checkpoint_every=20")
    with pytest.raises(Stopped):
        adopt(str(llava), str(pictures), tmp_path / "out", chosen, on_step=stop)
    adopt(str(llava), str(pictures), tmp_path / "out", chosen)
    assert same_bits(weights(tmp_path / "out"), weights(adopted))


@pytest.mark.robust
def test_two_processes_adopt_what_one_does(world: World, projector: Path, tmp_path: Path) -> None:
    words = ["adopt", projector, "--llm", world.one, "--features", world.features, "--for", world.two]
    words += ["--template", "plain", "--max-new-tokens", "12", "--batch", "4"]
    words += [word for setting in (*QUICK, "word_steps=3", "steps=3") for word in ("--set", setting)]
    run(TORCHRUN, "MULTI_CPU", *map(str, words), "--out", tmp_path / "two")
    vocabkit_here(tmp_path, *words, "--out", tmp_path / "one")
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_more_pictures_may_come_before_the_end(world: World, projector: Path, tmp_path: Path) -> None:
    chosen = options(world, "steps=1", "word_steps=0", llm=world.one, features=world.features)
    records = json.loads(world.data.read_text())
    data = tmp_path / "some.json"

    def stop(what: str, done: int, total: int | None) -> None:
        if what.startswith("captions"):
            raise Stopped

    data.write_text(json.dumps(records[4:]))
    with pytest.raises(Stopped):
        adopt(str(projector), str(data), tmp_path / "out", chosen, progress=stop)
    data.write_text(json.dumps(records))
    adopt(str(projector), str(data), tmp_path / "out", chosen)
    said = [sample.images[0].key for sample in read_llava(tmp_path / "out" / "captions.jsonl")]
    assert said[:4] == ["10.png", "11.png", "4.png", "5.png"]
    assert sorted(said) == sorted(record["image"] for record in records)


@pytest.mark.parametrize("source", ["folder", "file"])
def test_pictures_of_an_earlier_run_are_not_among_the_new_ones(
    world: World, llava: Path, pictures: Path, tmp_path: Path, source: str
) -> None:
    chosen = options(world, "steps=1", "word_steps=0", images=pictures)

    def given(name: str, keys: list[str]) -> str:
        if source == "file":
            (tmp_path / name).write_text(json.dumps([{"id": key, "image": key} for key in keys]))
        else:
            (tmp_path / name).mkdir()
            for key in keys:
                shutil.copy(pictures / key, tmp_path / name)
        return str(tmp_path / name)

    def stop(what: str, done: int, total: int | None) -> None:
        if what.startswith("loading"):
            raise Stopped

    every = sorted(file.name for file in pictures.iterdir())
    with pytest.raises(Stopped):
        adopt(str(llava), given("one.json", every[:8]), tmp_path / "out", chosen, progress=stop)
    adopt(str(llava), given("two.json", every[4:]), tmp_path / "out", chosen)
    said = [sample.images[0].key for sample in read_llava(tmp_path / "out" / "captions.jsonl")]
    assert sorted(set(said)) == every[4:]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_new_tokens": 5}, "given with another `max_new_tokens`"),
        ({"batch": 3, "settings": (*QUICK, "precision=bfloat16")}, "given with another `batch` and `precision`"),
        ({"template": "completion", "questions": ("<image> Is",)}, "given with another `template` and `question`"),
    ],
)
def test_captions_asked_otherwise_are_left_alone(
    world: World, llava: Path, pictures: Path, adopted: Path, changes: dict[str, Any], problem: str
) -> None:
    before = (adopted / "captions.jsonl").read_bytes()
    chosen = dataclasses.replace(options(world), **changes)
    with pytest.raises(
        VocabkitError, match=f"captions.jsonl: answers that were {problem}; set it as before, or choose"
    ):
        adopt(str(llava), str(pictures), adopted, chosen)
    assert (adopted / "captions.jsonl").read_bytes() == before


def test_other_pictures_leave_a_finished_adoption_as_it_is(
    world: World, llava: Path, pictures: Path, tmp_path: Path
) -> None:
    chosen = options(world, "steps=1", "word_steps=0")
    some, out = tmp_path / "some", tmp_path / "out"
    some.mkdir()
    for name in ("0.png", "1.png", "2.png", "3.png"):
        shutil.copy(pictures / name, some)
    adopt(str(llava), str(some), out, chosen)
    files = [file for file in sorted(out.rglob("*")) if file.is_file() and file.parent.name != "features"]
    before = {file: file.read_bytes() for file in files}
    shutil.copy(pictures / "4.png", some)
    with pytest.raises(VocabkitError, match="out: was adopted from 4 answers, and these pictures need 5; choose"):
        adopt(str(llava), str(some), out, chosen)
    for name in ("3.png", "4.png"):
        (some / name).unlink()
    with pytest.raises(VocabkitError, match=r"captions.jsonl: answers about other pictures; choose another folder"):
        adopt(str(llava), str(some), out, chosen)
    shutil.copy(pictures / "3.png", some)
    adopt(str(llava), str(some), out, chosen)
    assert {file: file.read_bytes() for file in files} == before


def test_teacher_is_the_same_wherever_it_lies(
    world: World, llava: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        if what.startswith("comparing"):
            raise Stopped

    chosen = options(world, "steps=1", "word_steps=0")
    shutil.copytree(llava, tmp_path / "old" / "llava")
    with pytest.raises(Stopped):
        adopt(str(tmp_path / "old" / "llava"), str(pictures), tmp_path / "out", chosen, progress=stop)
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    asked: list[str] = []
    adopt("llava", str(pictures), tmp_path / "out", chosen, progress=lambda what, *_: asked.append(what))
    assert "captions of the teacher" not in asked, "they are there"


def test_captions_of_an_llm_tuned_since_are_left_alone(
    world: World, projector: Path, adopted: Path, tmp_path: Path
) -> None:
    """Its embeddings are those that the projector was trained with; its layers are others."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(world.one.partition("=")[2], tmp_path / "one"))
    chosen = options(world, "steps=1", "word_steps=0", llm=f"one={folder}", features=world.features)
    adopt(str(projector), None, tmp_path / "out", chosen)
    before = (tmp_path / "out" / "captions.jsonl").read_bytes()
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "mlp" in name)
    save_file({**tensors, name: tensors[name] * 1.01}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(VocabkitError, match="answers of another teacher: another projector or LLM; choose another"):
        adopt(str(projector), None, tmp_path / "out", chosen)
    assert (tmp_path / "out" / "captions.jsonl").read_bytes() == before


def test_folder_of_another_adoption_is_left_alone(world: World, llava: Path, pictures: Path, adopted: Path) -> None:
    before = (adopted / "shared.arrow").read_bytes()
    with pytest.raises(VocabkitError, match=r"shared\.arrow: of another adoption"):
        adopt(str(llava), str(pictures), adopted, options(world, top=3))
    assert (adopted / "shared.arrow").read_bytes() == before


@pytest.mark.parametrize("content", ['{"my": "own"}', '{"my": "own"}\n', "my own\n", "\xff\xfe"])
def test_other_captions_are_never_replaced(world: World, projector: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text(content, "latin-1")
    chosen = options(world, llm=world.one, features=world.features)
    with pytest.raises(VocabkitError, match=r"captions\.jsonl: holds something other than a teacher's answers"):
        adopt(str(projector), None, tmp_path, chosen)
    assert file.read_text("latin-1") == content


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_type": "blip-2"}, "its model type 'blip-2' has a Q-Former; only LLaVA's MLP of two layers"),
        ({"model_type": "idefics2"}, "its model type 'idefics2' has a perceiver resampler"),
        ({"model_type": "qwen2_vl"}, "its model type 'qwen2_vl' has a projector that merges patches"),
        ({"model_type": "llava_mpt"}, r"its model type is 'llava_mpt', not one that is read \(llava, .*give such"),
        ({"model_type": ""}, "its model type is missing, not one that is read"),
        ({"mm_projector_type": "ldp"}, "its projector is 'ldp'; only LLaVA's MLP of two layers with a GELU"),
        ({"mm_projector_type": "linear"}, "its projector is 'linear'; only"),
        ({"projector_hidden_act": "relu"}, "its projector is 'relu'; only"),
        ({"mm_use_im_start_end": True}, r"<im_start> and <im_end> around pictures \(mm_use_im_start_end\)"),
        ({"mm_vision_select_feature": "cls"}, "its mm_vision_select_feature is 'cls', but LLaVA has patch and"),
        ({"mm_resampler_type": "perceiver"}, "its projector stands behind the resampler 'perceiver', not alone"),
        ({"unfreeze_mm_vision_tower": True}, "its vision model was trained with the projector"),
        ({"mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter"}, r"trained with the projector \(mm_tunable_parts\)"),
        ({"architectures": ["LlavaGemmaForCausalLM"]}, "its architecture is 'LlavaGemmaForCausalLM'"),
        ({"quantization_config": {"quant_method": "awq"}}, r"its weights are quantised \('awq'\)"),
        ({"model_type": "vocabkit_llava"}, "an export of vocabkit, which has a head .*; `vocabkit transfer` moves"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type 'spatial', which vocabkit does not compute"),
    ],
)  # fmt: skip
def test_other_projectors_are_refused_by_name(
    world: World, projector: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    folder = own_layout(world, projector, tmp_path / "own", **changes)
    with pytest.raises(VocabkitError, match=problem):
        open_teacher(str(folder))


@pytest.mark.parametrize("kind", ["llava_phi3", "llama", ""])
def test_config_beside_an_mm_projector_may_be_of_any_llm(
    world: World, projector: Path, tmp_path: Path, kind: str
) -> None:
    """The LLM is given; the config says what the projector is shown."""
    own = own_layout(world, projector, tmp_path / "own", model_type=kind, mm_vision_select_layer=-1)
    file = tmp_path / "mm_projector.bin"
    torch.save(load_file(own / "model.safetensors"), file)
    config = json.loads((own / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    for model in (file, own):
        found = open_teacher(str(model), world.one).projector.config
        assert (found.vision_model, found.vision_layer, found.vision_aspect_ratio) == (str(world.vision), -1, "pad")
    edit(tmp_path / "config.json", mm_tunable_parts="mm_vision_tower,mm_mlp_adapter,mm_language_model")
    with pytest.raises(VocabkitError, match=r"mm_projector\.bin: its vision model was trained with the projector"):
        open_teacher(str(file), world.one)
    assert open_teacher(str(file), world.one, str(world.vision)).projector.config.vision_model == str(world.vision)
    edit(tmp_path / "config.json", model_type="aya_vision", text_config={}, vision_config={})
    with pytest.raises(VocabkitError, match="its model type is 'aya_vision', not one that is read"):
        open_teacher(str(file), world.one, str(world.vision))


def test_llm_without_a_projector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="its model type is 'llama', not one that is read"):
        open_teacher(str(small_llm(tmp_path / "llm")))


@pytest.mark.parametrize(("family", "field"), [("cohere", "logit_scale"), ("gemma2", "final_logit_softcapping")])
def test_llm_that_changes_its_logits_outside_of_llava_only_is_refused(
    world: World, llava: Path, tmp_path: Path, family: str, field: str
) -> None:
    folder = Path(shutil.copytree(llava, tmp_path / "llava"))
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder / "config.json", text_config=text | {"model_type": family})
    with pytest.raises(VocabkitError, match=rf"its LLM, a {family}, changes its logits \({field}\), but not inside a"):
        open_teacher(str(folder))
    assert open_teacher(str(folder), world.one).llm == world.one


def test_healthy_files_of_another_kind_are_not_called_truncated(tmp_path: Path) -> None:
    for name, problem in (
        ("llm.gguf", "a GGUF, of which no projector is read; give"),
        ("a.png", "not a file of torch.save"),
    ):
        (tmp_path / name).write_bytes(b"GGUF" + bytes(50))
        with pytest.raises(VocabkitError, match=f"{name}: {problem}"):
            open_teacher(str(tmp_path / name))


def test_adapter_with_a_head_is_moved_instead(adopted: Path) -> None:
    with pytest.raises(VocabkitError, match="has a head over a shared vocabulary already; `vocabkit transfer` moves"):
        open_teacher(str(adopted / "adapter"))


@pytest.mark.parametrize("layer", [[-2, -1], "-2"])
def test_features_of_anything_but_one_layer_are_refused(llava: Path, tmp_path: Path, layer: Any) -> None:
    folder = Path(shutil.copytree(llava, tmp_path / "layers"))
    edit(folder / "config.json", vision_feature_layer=layer)
    with pytest.raises(VocabkitError, match=rf"its vision_feature_layer is '{re.escape(str(layer))}', not one number"):
        open_teacher(str(folder))


@pytest.mark.parametrize(("build", "before"), [(siglip, "none"), (registers, "5")])
def test_llava_that_drops_other_tokens_than_those_before_the_patches_is_refused(
    llava: Path, tmp_path: Path, build: Callable[[Path], Path], before: str
) -> None:
    """Llava drops the first token, whatever it is: a patch of SigLIP, and no register."""
    folder, vision = Path(shutil.copytree(llava, tmp_path / "llava")), str(build(tmp_path / "vision"))
    with pytest.raises(VocabkitError, match=rf"leaves out the first token of its vision model .*has {before} before"):
        open_teacher(str(folder), vision=vision)
    edit(folder / "config.json", vision_feature_select_strategy="full")
    assert open_teacher(str(folder), vision=vision).projector.config.vision_keep_cls


def test_vision_model_of_another_width_is_refused(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"llava: its projector takes features of width 32, but .*narrow gives 16"):
        open_teacher(str(llava), vision=str(clip(tmp_path / "narrow", hidden_size=16)))


def test_vision_model_of_another_width_than_the_projectors_is_refused(
    world: World, projector: Path, tmp_path: Path
) -> None:
    own, narrow = own_layout(world, projector, tmp_path / "own"), clip(tmp_path / "narrow", hidden_size=16)
    with pytest.raises(VocabkitError, match=r"narrow: gives features of width 16, but the projector takes 32"):
        adopt(str(own), str(world.data), tmp_path / "out", options(world, vision=str(narrow)))


def test_first_tile_is_made_of_llava_next_alone(world: World, projector: Path, llava: Path, tmp_path: Path) -> None:
    """The picture squeezed into a square; the image processor of a CLIP crops."""
    tiles = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}
    own, following = own_layout(world, projector, tmp_path / "own", **tiles), tmp_path / "next"
    shutil.copytree(llava, following)
    edit(following / "config.json", model_type="llava_next", image_grid_pinpoints=[[28, 56]])
    for folder, vision in ((own, None), (following, str(world.vision))):
        with pytest.raises(VocabkitError, match=r"its first tile .* is the picture squeezed into a square, .* to pad"):
            open_teacher(str(folder), vision=vision)
        found = open_teacher(str(folder), vision=vision, image_aspect_ratio="pad")
        assert found.projector.config.vision_aspect_ratio == "pad"


def test_projector_without_a_vision_model_wants_one(world: World, projector: Path, tmp_path: Path) -> None:
    folder = own_layout(world, projector, tmp_path / "own", mm_vision_tower=None)
    with pytest.raises(VocabkitError, match="own: does not say which vision model it was trained with: give `vision`"):
        adopt(str(folder), str(world.data), tmp_path / "out", options(world))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"model.mm_projector.weight": torch.ones(24, 32)}, "its projector is one linear layer, as in the first LLaVA"),
        ({"0.weight": torch.ones(24, 32)}, r"no mm_projector layers in it \(it has '0.weight'\); give"),
        (
            {"multi_modal_projector.linear_1.weight": torch.ones(24, 32)},
            r"lacks multi_modal_projector\.linear_1\.bias, multi_modal_projector\.linear_2\.weight",
        ),
    ],
)  # fmt: skip
def test_incomplete_projectors_are_refused_in_their_own_words(
    tmp_path: Path, tensors: dict[str, torch.Tensor], problem: str
) -> None:
    torch.save(tensors, tmp_path / "mm_projector.bin")
    with pytest.raises(VocabkitError, match=problem):
        open_teacher(str(tmp_path / "mm_projector.bin"))


def test_teacher_that_sees_nothing_is_told(world: World, tmp_path: Path) -> None:
    own = open_features(world.features)
    config = MLPConfig(own.width, 8, 24, "one", vision_fingerprint=own.encoder["fingerprint"])
    blind = MLPProjector(config)
    torch.nn.init.zeros_(blind.linear_2.weight)
    blind.save(tmp_path / "blind")
    chosen = options(world, llm=world.one, features=world.features)
    with pytest.raises(VocabkitError, match=r"gains 0\.00 nats per token from its own picture, less than"):
        adopt(str(tmp_path / "blind"), None, tmp_path / "out", chosen)


def test_noise_is_not_taken_for_a_picture(
    world: World, projector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a chat; without one, a good teacher may gain as little."""
    folder = Path(shutil.copytree(world.one.partition("=")[2], tmp_path / "one"))
    (folder / "chat_template.jinja").write_text("{% for turn in messages %}{{ turn.content }}{% endfor %}")
    monkeypatch.setattr("vocabkit.adopt.adopt.gain_of_picture", lambda file, asked, pictures: 0.2)
    chosen = options(world, "steps=1", "word_steps=0", llm=f"one={folder}", features=world.features)
    with pytest.raises(VocabkitError, match=r"gains 0\.20 nats per token from its own picture, less than 0\.25"):
        adopt(str(projector), None, tmp_path / "chat", dataclasses.replace(chosen, template="chat"))
    assert adopt(str(projector), None, tmp_path / "plain", chosen).gain_of_picture == 0.2


def test_pictures_whose_keys_lead_out_of_their_folder_are_told(world: World, projector: Path, tmp_path: Path) -> None:
    files = [str(file) for file in sorted(world.data.parent.glob("*.png"))]
    cache_files(files, str(world.vision), tmp_path / "features")
    chosen = options(world, llm=world.one, features=tmp_path / "features")
    with pytest.raises(VocabkitError, match=r"features: the key '.*\.png' leads out of its folder"):
        adopt(str(projector), None, tmp_path / "out", chosen)


def test_shared_vocabulary_that_covers_too_little_is_told(world: World, projector: Path, tmp_path: Path) -> None:
    few = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=few, unk_token="?").save_pretrained(tmp_path / "few")
    chosen = options(world, targets=(f"few={tmp_path / 'few'}",), llm=world.one, features=world.features)
    with pytest.raises(VocabkitError, match=r"one, few share \d+% of the tokens in the teacher's captions, too few"):
        adopt(str(projector), None, tmp_path / "out", chosen)
    assert not (tmp_path / "out" / "state.pt").exists()


def test_top_that_covers_too_little_is_told(world: World, projector: Path, tmp_path: Path) -> None:
    chosen = options(world, llm=world.one, features=world.features, top=1)
    with pytest.raises(VocabkitError, match=r"the 1 most frequent rows are \d+% of the tokens .* give a larger `top`"):
        adopt(str(projector), None, tmp_path / "out", chosen)


def test_one_picture_is_too_few(world: World, llava: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "alike").mkdir()
    for name in ("0.png", "1.png"):
        shutil.copy(pictures / "0.png", tmp_path / "alike" / name)
    for number, source in enumerate((pictures / "0.png", tmp_path / "alike")):
        with pytest.raises(VocabkitError, match="of one picture only, or copies of it"):
            adopt(str(llava), str(source), tmp_path / str(number), options(world))


def test_alike_neighbours_are_not_compared(world: World, projector: Path, tmp_path: Path) -> None:
    """Pictures in the order of their colours, as in folders of classes."""
    records = json.loads(world.data.read_text())
    ordered = sorted(records, key=lambda record: int(record["image"].partition(".")[0]) % 4)
    ordered = [record for record in ordered for _ in range(2)]
    for number, record in enumerate(ordered):
        shutil.copy(world.data.parent / record["image"], tmp_path / f"{number:02}.png")
    chosen = options(world, "steps=1", "word_steps=0", llm=world.one, vision=str(world.vision))
    found = adopt(str(projector), str(tmp_path), tmp_path / "out", chosen)
    assert found.gain_of_picture is not None
    assert found.gain_of_picture > 0.2


def test_broken_pictures_are_told_and_counted(world: World, llava: Path, pictures: Path, tmp_path: Path) -> None:
    some = Path(shutil.copytree(pictures, tmp_path / "some"))
    (some / "empty.png").touch()
    with pytest.warns(VocabkitWarning, match=r"1 of 13 pictures left out; the first: .*empty\.png"):
        found = adopt(str(llava), str(some), tmp_path / "out", options(world, "steps=1", "word_steps=0"))
    assert found.left_out == 1


def test_pictures_without_features_are_told_and_counted(world: World, projector: Path, tmp_path: Path) -> None:
    records = json.loads(world.data.read_text())
    records.append(records[0] | {"image": "new.png"})
    (tmp_path / "more.json").write_text(json.dumps(records))
    chosen = options(world, "steps=1", "word_steps=0", llm=world.one, features=world.features)
    with pytest.warns(VocabkitWarning, match=r"1 of 13 pictures left out: .* has no features of them"):
        found = adopt(str(projector), str(tmp_path / "more.json"), tmp_path / "out", chosen)
    assert found.left_out == 1


def test_images_are_named_one_by_one_or_by_a_pattern(world: World, llava: Path, pictures: Path, tmp_path: Path) -> None:
    adopt(str(llava), str(pictures / "[0-4].png"), tmp_path / "out", options(world, "steps=1", "word_steps=0"))
    samples = list(read_llava(tmp_path / "out" / "captions.jsonl"))
    assert [sample.images[0].key for sample in samples] == [f"{number}.png" for number in range(5)]


def test_pictures_need_no_conversations(world: World, llava: Path, tmp_path: Path) -> None:
    images = [{"image": record["image"]} for record in json.loads(world.data.read_text())]
    (tmp_path / "images.json").write_text(json.dumps(images))
    chosen = options(world, "steps=1", "word_steps=0", images=world.data.parent)
    assert adopt(str(llava), str(tmp_path / "images.json"), tmp_path / "out", chosen).trained.samples == 12


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"targets": ()}, "say which other LLMs the adapter is for, with `targets`"),
        ({"template": "completion"}, "also say what to ask, with `question`"),
        ({"template": "chat", "questions": ("What?",)}, "needs <image> exactly once"),
        ({"features": None}, "give `pictures`, or `features`"),
        ({"targets": ("TWO", "TWO")}, "two given twice; give each tokenizer a name of its own"),
        ({"targets": ("ONE",)}, "one given twice"),
        ({"settings": ("template=plain",)}, "`settings` template: an adoption sets this field itself; give `template`"),
        ({"settings": ("llm=other",)}, "`settings` llm: an adoption sets this field itself; give `llm` instead"),
        ({"settings": ("data=[]",)}, "data: an adoption sets this field itself from the projector and its captions"),
        ({"settings": ("teacher=none",)}, "`settings` teacher: an adoption sets this field itself"),
        ({"settings": ("tracker=nosuch",)}, "tracker 'nosuch' is not installed"),
        ({"settings": ("start_from_labels=names.txt",)}, "start_from_labels: an adoption sets this field itself"),
        ({"settings": ("train_llm=lora",)}, "train_llm: an adoption sets this field itself"),
        (
            {"settings": ("batch=4", "micro_batch=3")},
            "batch of 4 can't be divided into micro-batches of 3 on 1 process$",
        ),
    ],
)
def test_options_that_do_not_go_together(
    world: World, projector: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    if "targets" in changes:
        changes = {"targets": tuple({"ONE": world.one, "TWO": world.two}[name] for name in changes["targets"])}
    chosen = dataclasses.replace(options(world, llm=world.one, features=world.features), **changes)
    with pytest.raises(VocabkitError, match=problem):
        adopt(str(projector), None, tmp_path / "out", chosen)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["teacher", "shared.arrow", "adapter", "state.pt"])
def test_results_of_something_else_are_left_alone(world: World, projector: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    chosen = options(world, llm=world.one, features=world.features)
    with pytest.raises(VocabkitError, match=f"holds {name}, but of no adoption; choose another `out`"):
        adopt(str(projector), None, tmp_path, chosen)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_output_is_never_an_input(world: World, llava: Path, projector: Path, pictures: Path) -> None:
    one, files = Path(world.one.partition("=")[2]), sorted(pictures.iterdir())
    given = [(str(llava), pictures, llava), (str(projector), pictures, one), (str(llava), pictures, pictures)]
    for model, source, out in given:
        with pytest.raises(VocabkitError, match="is an input; choose another `out`"):
            adopt(model, str(source), out, options(world, llm=world.one))
    assert sorted(pictures.iterdir()) == files


def test_command_names_its_options(world: World, projector: Path, tmp_path: Path) -> None:
    words = [
        tmp_path,
        "adopt",
        str(projector),
        "--for",
        world.two,
        "--out",
        tmp_path / "out",
        "--features",
        world.features,
    ]
    assert "give --llm" in error_of(vocabkit_here(*words))
    assert captions.QUESTIONS["chat"]


def test_pictures_choose_among_features(world: World, projector: Path, tmp_path: Path) -> None:
    records = json.loads(world.data.read_text())
    (tmp_path / "some.json").write_text(json.dumps(records[:8]))
    chosen = options(world, "steps=1", "word_steps=0", llm=world.one, features=world.features)
    adopt(str(projector), str(tmp_path / "some.json"), tmp_path / "out", chosen)
    samples = list(read_llava(tmp_path / "out" / "captions.jsonl"))
    assert [sample.images[0].key for sample in samples] == [f"{number}.png" for number in range(8)]
