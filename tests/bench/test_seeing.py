"""Questions about images: batched is single, features are made once, beginnings are shared, on every architecture."""

import pytest
import torch
from tinyeyes import CONFIGS, eyes_of, picture, tiny

from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Question
from tunestudy.config.data import DataSettings
from tunestudy.data.example import Example
from tunestudy.data.images import ImageBytes, decode
from tunestudy.data.pictured import with_images
from tunestudy.data.tokenize import Tokenize
from tunestudy.models.vision.features import FeatureCache, encoded, given

CPU = torch.device("cpu")
SIZES = ((28, 28), (56, 28), (20, 100), (40, 64))
OPTIONS = ("a", "b", "ca", "cb", "dog 7")


@pytest.fixture(scope="module", params=list(CONFIGS))
def seen(request, tmp_path_factory):
    """A model, its eyes, and questions: rotations about one image, others about it, two images, none."""
    folder = tmp_path_factory.mktemp("images")
    loaded = tiny(request.param)
    loaded.model.eval()
    eyes = eyes_of(loaded, folder)
    tokenize = Tokenize(loaded.tokenizer, DataSettings(), eyes)

    def question(text, *numbers):
        images = tuple(ImageBytes(data=picture(n, SIZES[n % 4])) for n in numbers)
        return Question(*map(tuple, tokenize.prompt(with_images(Example(prompt=text, completion="x"), images))))

    questions = [
        question(f"<image>which is it of these? {a} {b} {c}", n) for n in (1, 2) for a, b, c in turns("cat dog egg")
    ]
    questions += [question("<image>how many?", 1), question("<image>" * 2 + "are they the same?", 3, 2)]
    questions += [question("no image at all"), question("what<image> is in the middle of this", 0)]
    questions += [question("no image, which is it of these? a b"), question("no image, which is it of these? b a")]
    return loaded, eyes, questions


def turns(text):
    words = text.split()
    return [words[i:] + words[:i] for i in range(3)]


def scorer_of(seen, **options):
    return Scorer(seen[0].model, seen[0].tokenizer, device=CPU, eyes=seen[1], **options)


def stock(seen, question, more=()):
    """Arguments of the stock model for one question and what follows it: ids, pixels, types of tokens."""
    loaded, eyes = seen[:2]
    ids = torch.tensor([[*question.ids, *more]])
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    images = [decode(eyes.places.read(fact)) for fact in question.images]
    found = loaded.processor(images=images, return_tensors="pt") if images else {}
    arguments |= {name: found[name] for name in ("pixel_values", "image_grid_thw") if name in found}
    types = (ids == loaded.model.config.image_token_id).long()
    kind = loaded.model.config.model_type
    if kind != "internvl":
        arguments["token_type_ids" if kind == "gemma3" else "mm_token_type_ids"] = types
    return arguments


def stock_sum(seen, question, option):
    answer = tuple(seen[0].tokenizer(option, add_special_tokens=False).input_ids)
    with torch.no_grad():
        log_probs = seen[0].model(**stock(seen, question, answer), use_cache=False).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(question.ids) - 1 + i, token]) for i, token in enumerate(answer))


@pytest.mark.parametrize("batch", [{}, {"batch_tokens": 150}, {"batch_size": 1}])
def test_letters_and_words_score_as_in_the_stock_model_alone(seen, batch):
    asked = [(question, OPTIONS) for question in seen[2]]
    told = scorer_of(seen, **batch).option_log_probabilities(asked)
    for (question, options), values in zip(asked, told, strict=True):
        expected = [stock_sum(seen, question, option) for option in options]
        assert values == pytest.approx(expected, abs=1e-5)
        assert values.index(max(values)) == expected.index(max(expected))


def test_letters_alone_share_the_beginnings_of_rotations(seen):
    letters = [(question, ("a", "b", "c")) for question in seen[2]]
    told = scorer_of(seen).option_log_probabilities(letters)
    for (question, options), values in zip(letters, told, strict=True):
        single = scorer_of(seen).option_log_probabilities([(question, options)])[0]
        assert values == pytest.approx(single, abs=1e-5)
        assert values == pytest.approx([stock_sum(seen, question, option) for option in options], abs=1e-5)


@pytest.mark.parametrize("batch", [{}, {"batch_size": 3}])
def test_batched_text_is_what_stock_generate_writes_for_each_question_alone(seen, batch):
    loaded, _, questions = seen
    told = scorer_of(seen, **batch).generate(questions, max_new_tokens=8)
    expected = []
    for question in questions:
        arguments = stock(seen, question)
        out = loaded.model.generate(
            **arguments, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=loaded.tokenizer.eos_token_id
        )
        expected.append(loaded.tokenizer.decode(out[0, len(question.ids) :], skip_special_tokens=True))
    assert told == expected
    assert len(set(told)) > 3


def test_every_image_goes_through_the_tower_once(seen):
    loaded, eyes, questions = seen
    decoded, passed = [], []
    tower = getattr(loaded.model.model, "vision_tower", None) or loaded.model.model.visual
    handle = tower.register_forward_hook(lambda *_: passed.append(1))
    watching = Watching(eyes, decoded)
    try:
        scorer = Scorer(loaded.model, loaded.tokenizer, device=CPU, eyes=watching)
        scorer.option_log_probabilities([(question, OPTIONS) for question in questions])
        scorer.generate(questions, max_new_tokens=3)
        scorer.option_log_probabilities([(question, "ab") for question in questions])
    finally:
        handle.remove()
    assert sorted(decoded) == sorted({image.sha256 for question in questions for image in question.images})
    assert 0 < len(passed) <= len(decoded)


class Watching:
    """Eyes that write down what they decode."""

    def __init__(self, eyes, decoded):
        self.vision, self._eyes, self._decoded = eyes.vision, eyes, decoded

    def pixels(self, facts, *, filled):
        self._decoded += [fact.sha256 for fact in facts]
        return self._eyes.pixels(facts, filled=filled)


def test_features_in_one_pass_are_those_of_each_image_alone(seen):
    loaded, eyes, questions = seen
    facts = list({image.sha256: image for question in questions for image in question.images}.values())
    with torch.no_grad():
        together = FeatureCache(loaded.model, eyes, CPU, max_bytes=1 << 20, tokens_per_pass=10_000).of(facts)
        for fact, features in zip(facts, together, strict=True):
            count = eyes.vision.num_tokens((fact.width, fact.height))
            [alone] = encoded(loaded.model, eyes.pixels([fact], filled=False), [count])
            [cached] = FeatureCache(loaded.model, eyes, CPU, max_bytes=1 << 20, tokens_per_pass=1).of([fact])
            for one, two, three in zip(
                (alone.tokens, *alone.deep),
                (features.tokens, *features.deep),
                (cached.tokens, *cached.deep),
                strict=True,
            ):
                assert len(one) == count
                assert torch.equal(one, three)
                assert float((one - two).abs().max()) <= 1e-6 * float(one.abs().max())


def test_the_cache_keeps_no_more_bytes_than_allowed_and_the_latest(seen):
    loaded, eyes, questions = seen
    facts = list({image.sha256: image for question in questions for image in question.images}.values())
    decoded = []
    with torch.no_grad():
        sizes = [
            one.num_bytes
            for one in FeatureCache(loaded.model, eyes, CPU, max_bytes=1 << 20, tokens_per_pass=1).of(facts)
        ]
        cache = FeatureCache(
            loaded.model, Watching(eyes, decoded), CPU, max_bytes=sizes[-1] + sizes[-2], tokens_per_pass=1
        )
        for fact in facts:
            cache.of([fact])
            assert cache.num_bytes <= sizes[-1] + sizes[-2]
        cache.of(facts[-1:])
        assert decoded == [fact.sha256 for fact in facts]
        cache.of(facts[:1])
    assert decoded[-1] == facts[0].sha256
    assert len(decoded) == len(facts) + 1


def test_given_features_leave_the_model_as_it_was(seen):
    loaded, eyes, questions = seen
    fact = questions[0].images[0]
    with torch.no_grad():
        [features] = FeatureCache(loaded.model, eyes, CPU, max_bytes=1, tokens_per_pass=1).of([fact])
        with pytest.raises(RuntimeError, match="inside"), given(loaded.model, [features]):
            raise RuntimeError("inside")
    assert "get_image_features" not in vars(loaded.model.model)


def test_rotations_compute_their_beginning_once(seen):
    """Tokens that reach the decoder: the beginning, then what differs."""
    loaded, _, questions = seen
    rotations = questions[:3]
    fed = []
    handle = loaded.model.register_forward_pre_hook(
        lambda _module, _arguments, options: fed.append(options["input_ids"].numel()), with_kwargs=True
    )
    try:
        scorer_of(seen).option_log_probabilities([(question, ("a", "b", "c")) for question in rotations])
    finally:
        handle.remove()
    length = len(rotations[0].ids)
    assert fed[1] == 3 * (length - fed[0])
    assert fed[0] > rotations[0].ids.index(loaded.model.config.image_token_id) + 4


def test_adapters_and_components_are_in_the_features(tmp_path):
    """A PEFT wrapper around an InternVL with components: what it says is what its own forward pass says."""
    from peft import LoraConfig, get_peft_model

    from tunestudy.config.components import VisionComponents
    from tunestudy.models.components.install import install
    from tunestudy.models.loaded import LoadedModel

    loaded = tiny("internvl")
    settings = {"rope2d": {}, "c_abstractor": {"num_queries": 9, "depth": 1, "hidden_size": 16}}
    install(loaded.model, VisionComponents.model_validate(settings), seed=3)
    wrapped = get_peft_model(loaded.model, LoraConfig(target_modules=["q_proj", "fc1"], init_lora_weights=False))
    wrapped.eval()
    loaded = LoadedModel(wrapped, loaded.tokenizer, {}, processor=loaded.processor)
    eyes = eyes_of(loaded, tmp_path)
    tokenize = Tokenize(loaded.tokenizer, DataSettings(), eyes)
    image = (ImageBytes(data=picture(1, (56, 28))),)
    asked = [with_images(Example(prompt=f"<image>{text}", completion="x"), image) for text in ("a b?", "b a?")]
    questions = [Question(*map(tuple, tokenize.prompt(one))) for one in asked]
    told = scorer_of((loaded, eyes)).option_log_probabilities([(question, OPTIONS) for question in questions])
    for question, values in zip(questions, told, strict=True):
        assert values == pytest.approx([stock_sum((loaded, eyes), question, one) for one in OPTIONS], abs=1e-5)


def test_a_model_with_a_world_part_sees_its_images_anew(tmp_path):
    """Its scores are those of one question at a time, whatever the batch."""
    from world_lab import world_settings

    from tunestudy.models.components.world import install_world

    loaded = tiny("internvl")
    install_world(loaded.model, loaded.tokenizer, world_settings(num_world_steps=1), seed=1)
    loaded.model.eval()
    eyes = eyes_of(loaded, tmp_path)
    tokenize = Tokenize(loaded.tokenizer, DataSettings(), eyes)
    asked = [
        with_images(Example(prompt=f"<image>{text}", completion="x"), (ImageBytes(data=picture(n)),))
        for text in ("which is it, a or b?", "which is it, b or a?")
        for n in (1, 2)
    ]
    questions = [Question(*map(tuple, tokenize.prompt(one))) for one in asked]
    pairs = [(question, OPTIONS) for question in questions]
    together = scorer_of((loaded, eyes)).option_log_probabilities(pairs)
    for pair, values in zip(pairs, together, strict=True):
        assert scorer_of((loaded, eyes), batch_size=1).option_log_probabilities([pair])[0] == pytest.approx(
            values, abs=1e-5
        )
    said = scorer_of((loaded, eyes)).generate(questions, max_new_tokens=4)
    assert said == [scorer_of((loaded, eyes)).generate([question], max_new_tokens=4)[0] for question in questions]
