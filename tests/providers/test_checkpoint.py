"""Local checkpoints: tiny ones of real classes with random weights, loaded from a folder, that answer freely and by likelihood."""

import json
from functools import partial

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ViTConfig,
)

from fashiongen.errors import UserError
from fashiongen.preference import preference_text, read_caption
from fashiongen.providers import Blank, LocalModel, ModelAugmentation, ModelCaptions, ModelImageJudge, ModelJudge, Question
from fashiongen.providers.prompts import SCORES
from fashiongen.wardrobe import ATTRIBUTES

RED = preference_text({"Color": "red", "Material": "cotton", "Design features": "solid", "Clothing Fashion Style": "casual"})
VOCABULARY = {name: values[:3] for name, values in ATTRIBUTES.items()}
OUTFIT = Blank(id="u1/o1", category="skirt", given=(RED,))
TEMPLATE = (
    "{% for message in messages %}<user>{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}<answer>"
)
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}


def tokenizer(**options) -> PreTrainedTokenizerFast:
    """One token per byte, and special ones."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>", **options)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("language")
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), max_position_embeddings=2048, eos_token_id=words.eos_token_id, initializer_range=1.0, **SMALL
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("vision")
    words = tokenizer(extra_special_tokens={"image_token": "<image>"})
    text = LlamaConfig(vocab_size=len(words), max_position_embeddings=2048, eos_token_id=words.eos_token_id, initializer_range=1.0, **SMALL)
    eye = CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8)
    image_token = words.convert_tokens_to_ids("<image>")
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=eye, text_config=text, image_token_index=image_token, vision_feature_layer=-1)
    ).save_pretrained(folder)
    pixels = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        pixels, words, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE, num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


def plain_log_likelihood(model, words, prompt: str, answer: str) -> float:
    """Log p(answer | prompt), one token at a time, alone and without padding."""
    given, total = words(prompt)["input_ids"], 0.0
    for token in words(answer)["input_ids"]:
        total += model(torch.tensor([given])).logits[0, -1].log_softmax(dim=0)[token].item()
        given.append(token)
    return total


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 4])
def test_choices_are_made_by_the_likelihood_of_the_whole_text(language, batch_size):
    local = LocalModel(str(language), batch_size=batch_size)
    assert not local.sees_images
    model, words = LlamaForCausalLM.from_pretrained(language), tokenizer()
    prompts = ["x", "10 7 1", "zebra ZEBRA", "{{}}"]
    found = dict(local.answers([Question(p, p, choices={"score": SCORES}) for p in prompts], 0))
    for index, prompt in enumerate(prompts):
        expected = {s: plain_log_likelihood(model, words, f"{prompt}\n", f'{{"score": "{s}"') for s in SCORES}
        common = plain_log_likelihood(model, words, f"{prompt}\n", '{"score": "')
        scores = local.log_likelihoods(Question(prompt, prompt), [f'{{"score": "{s}"' for s in SCORES])
        assert scores == pytest.approx([value - common for value in expected.values()], abs=1e-3)
        assert json.loads(found[index]) == {"score": max(expected, key=expected.get)}
    assert len(set(found.values())) > 1


@torch.no_grad()
def test_each_value_depends_on_those_before(language):
    choices = {"Color": ["red", "blue", "beige"], "Material": ["cotton", "lace"]}
    model, words, prompt = LlamaForCausalLM.from_pretrained(language), tokenizer(), "x"
    ((_, answer),) = LocalModel(str(language)).answers([Question("a", prompt, choices=choices)], 0)
    color = max(choices["Color"], key=lambda value: plain_log_likelihood(model, words, "x\n", f'{{"Color": "{value}"'))
    start = f'{{"Color": "{color}", "Material": '
    material = max(choices["Material"], key=lambda value: plain_log_likelihood(model, words, "x\n", f'{start}"{value}"'))
    assert json.loads(answer) == {"Color": color, "Material": material}


@torch.no_grad()
def test_free_answers_are_the_likeliest_tokens_without_the_question(language):
    questions = [Question("a", "short"), Question("b", "a longer question")]
    one, both = (dict(LocalModel(str(language), max_new_tokens=8, batch_size=size).answers(questions, 0)) for size in (1, 2))
    assert one == both and one[0] != one[1]
    model, words = LlamaForCausalLM.from_pretrained(language), tokenizer()
    given = words("a longer question\n")["input_ids"]
    for _ in range(8):
        given.append(int(model(torch.tensor([given])).logits[0, -1].argmax()))
    assert one[1] == words.decode(given[len("a longer question\n") :], skip_special_tokens=True)


def test_further_attempts_differ_and_are_keyed(language):
    local = LocalModel(str(language), max_new_tokens=8, batch_size=2, retry_temperature=2.0)
    questions = [Question("a", "x"), Question("b", "x")]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, again = (dict(local.answers(questions, attempt)) for attempt in (1, 2, 1))
    assert first == again != second and first[0] != first[1]
    assert dict(local.answers(questions[1:], 1))[0] == first[1]  # whatever else is asked
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws change


def test_a_small_model_judges_although_it_cannot_write_json(language, tmp_path):
    captions, blanks = [RED, RED.replace("red", "blue")], [OUTFIT, OUTFIT]
    scores = ModelJudge(LocalModel(str(language))).judge(captions, blanks)
    assert all(score in range(1, 11) for score in scores)
    free = LocalModel(str(language), constrained=False, max_new_tokens=8)
    with pytest.raises(
        UserError, match=r"^judgement of u1/o1.*2 answers of .* have not one integer from 1 to 10, the last being"
    ) as caught:
        ModelJudge(free, attempts=2).judge(captions, blanks)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"augmentation of u1/o1: .*have not 5 different captions"):
        ModelAugmentation(free, attempts=1).augment([OUTFIT])
    assert LocalModel(str(language)).identity != free.identity


def test_a_vision_language_model_describes_and_judges(vision):
    local = LocalModel(str(vision), batch_size=8)
    assert local.sees_images
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 20, 16), generator=generator, dtype=torch.uint8) for _ in range(2)]
    captions = ModelCaptions(local, vocabulary=VOCABULARY).describe(["a", "b"], images)
    for caption in captions:
        assert all(value in VOCABULARY[name] for name, value in read_caption(caption).items()) and len(read_caption(caption)) == 4
    assert ModelCaptions(LocalModel(str(vision)), vocabulary=VOCABULARY).describe(["b"], images[1:]) == captions[1:]
    seen = [Question("a", "x", partial(images.__getitem__, index)) for index in range(2)]
    scores = [local.log_likelihoods(question, ['{"score": "1"', '{"score": "10"']) for question in seen]
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)  # it looks
    assert all(score in range(1, 11) for score in ModelImageJudge(local).judge_images(["a", "b"], images, ["skirt", "bag"]))
    with pytest.raises(UserError, match=r"caption of a: 1 answers of .*have not the four attributes"):
        ModelCaptions(LocalModel(str(vision), max_new_tokens=4), attempts=1).describe(["a"], images[:1])


def test_what_cannot_be_used_is_told_in_one_line(language, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        LocalModel(str(tmp_path / "absent"))
    ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(UserError, match="a vit is no language model"):
        LocalModel(str(tmp_path / "vit"))
    code = tmp_path / "code"
    code.mkdir()
    ran = tmp_path / "ran"
    (code / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))
    (code / "mine.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import PretrainedConfig\nclass Mine(PretrainedConfig): pass\n"
    )
    with pytest.raises(UserError, match="cannot load a AutoConfig") as caught:
        LocalModel(str(code))
    assert not ran.exists() and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"dtype: 'float' is unknown|dtype: 'floaty' is unknown"):
        LocalModel(str(language), dtype="floaty")
    with pytest.raises(UserError, match=r"long: the question and its answer take 3513 tokens, .* reads 2048"):
        list(LocalModel(str(language)).answers([Question("long", "x" * 3000)], 0))
    with pytest.raises(UserError, match="sees no images"):
        ModelCaptions(LocalModel(str(language))).describe(["a"], [torch.zeros(3, 4, 4, dtype=torch.uint8)])
