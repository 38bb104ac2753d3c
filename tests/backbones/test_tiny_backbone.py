"""The embedded backbone: its files, its tokenizer, what it knows and what it cannot do yet."""

import hashlib
import json
import random
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from gatera.backbones import pretrain, tiny, world, world_text
from gatera.tasks import world_families as families
from gatera.tasks.answers import first_keyword
from gatera.tasks.decoding import Decoding, generate
from gatera.tasks.prompts import render_prompt


@pytest.fixture(scope="module")
def backbone():
    torch.set_num_threads(1)
    model, tokenizer = tiny.load("float32")
    return model.eval(), tokenizer


def test_shipped_files_are_small_and_say_how_they_were_made():
    assert sum(path.stat().st_size for path in tiny.WEIGHTS.iterdir()) <= 4_000_000
    with safe_open(tiny.WEIGHTS / "model.safetensors", "pt") as weights:
        metadata = weights.metadata()
        keys = list(weights.keys())
        assert {weights.get_tensor(key).dtype for key in keys} == {torch.bfloat16}
    assert metadata["script"] == "gatera.backbones.pretrain"
    assert metadata["seed"] == "0"
    assert json.loads(metadata["schedule"]) == vars(pretrain.Schedule())


def test_identity_hashes_the_shipped_files():
    config, weights, words = (
        (tiny.WEIGHTS / name).read_bytes()
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    )
    assert tiny.identity() == {
        "weights_sha256": hashlib.sha256(config + weights).hexdigest(),
        "tokenizer_sha256": hashlib.sha256(words).hexdigest(),
    }


def test_importing_the_loader_imports_no_torch():
    code = "import sys, gatera.backbones.tiny as t; t.identity(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_come_in_the_type_asked_for(dtype):
    model, _ = tiny.load(dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert 5e5 < sum(p.numel() for p in model.parameters()) < 2e6


def test_decoding_joins_whole_words_with_spaces(backbone):
    _, tokenizer = backbone
    text = "the correct answer is answer2"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == 6
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_the_shipped_tokenizer_is_the_one_the_script_makes(backbone):
    assert backbone[1].get_vocab() == pretrain.make_tokenizer().get_vocab()


def test_every_pretraining_word_is_known(backbone):
    words = set(backbone[1].get_vocab())
    source = world_text.TextSource(random.Random(3))
    for kind in source.kinds:
        for _ in range(50):
            assert {w.removeprefix(world_text.MARK) for w in source.draw(kind).split()} <= words


def test_the_second_language_has_words_of_its_own_and_keeps_names_and_labels():
    said = "the food of ada is *figs . which tool has {e} ? answer2 a"
    assert world.in_second_language(said) == (
        "theo foodo ofo ada iso *figso . whicho toolo haso {e} ? answer2 a"
    )
    known = set(world.vocabulary())
    words = {word for word in known if world.in_second_language(word) != word}
    assert {world.in_second_language(word) for word in words} <= known - words


def test_sums_and_doings_follow_from_what_they_say():
    source = world_text.TextSource(random.Random(5))
    for _ in range(50):
        for said in source.sums().removesuffix(" .").split(" . "):
            step, result = said.replace("*", "").split(" : ")[-1].split(" = ")
            a, sign, b = step.split()
            assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
            assert said.endswith(f"*{result}")
            assert {a, b} <= set(said.split(" : ")[0].split())
        before, after = source.doings().removesuffix(" .").split(" . so ")
        assert sorted(before.split(" , ")) == sorted(after.replace("*", "").split(" , "))


def test_a_loosely_worded_question_names_the_person_and_hints_at_the_property():
    rng = random.Random(1)
    for prop, hints in world.HINTS.items():
        for _ in range(100):
            words = world_text.question(prop, "ada", rng).split()
            assert words.count("ada") == 1
            assert set(words) & {*hints, "thing", "family", "use", "person"}
        others = {word for other in world.HINTS if other != prop for word in world.HINTS[other]}
        assert not set(hints) & others


def test_text_is_drawn_from_the_generator_alone():
    drawn = [world_text.TextSource(random.Random(7)).draw("unlike") for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert world.facts() == world.facts()


def test_a_batch_weighs_marked_words_and_pads_the_rest(backbone):
    ids = backbone[1].get_vocab()
    batches = pretrain.Batches(world_text.TextSource(random.Random(0)), ids, width=40)
    encoded, weights = batches.encode("ada eats *figs .")
    assert encoded == [ids[w] for w in ("<bos>", "ada", "eats", "figs", ".", "<eos>")]
    assert [w == 1.0 for w in weights] == [False, False, False, True, False, False]
    tokens, row_weights = batches.draw(3, {"open": 1.0})
    assert tokens.shape == row_weights.shape == (3, 40)
    assert torch.equal(row_weights == 0.0, tokens == ids["<pad>"])


def test_the_backbone_answers_questions_in_its_own_wordings(backbone):
    model, tokenizer = backbone
    found = pretrain.accuracies(model, tokenizer.get_vocab(), pretrain.MEASURED, rows=16)
    assert min(found[kind] for kind in ("statements", "choice", "completion", "claim")) > 0.9
    assert min(found.values()) > 0.7


def test_the_backbone_knows_best_who_is_spoken_of_most(backbone):
    model, tokenizer = backbone
    ids, facts = tokenizer.get_vocab(), world.facts()

    def known(names):
        hits = []
        for prop in world.PROPERTIES:
            for name in names:
                asked = world.QUESTIONS[prop][0].format(e=name).split()
                prompt = torch.tensor([[ids["<bos>"], *(ids[word] for word in asked)]])
                with torch.no_grad():
                    guess = model(input_ids=prompt).logits[0, -1].argmax()
                hits.append(int(guess) == ids[facts[prop][name]])
        return sum(hits) / len(hits)

    assert known(world.NAMES[:20]) > 0.95
    assert known(world.NAMES[-20:]) < 0.6


@pytest.mark.parametrize("template", ["plain", "alpaca"])
def test_the_frozen_backbone_stays_at_or_below_chance_in_the_task_format(backbone, template):
    model, tokenizer = backbone
    for task, family in families.FAMILIES.items():
        keywords = family.keywords
        if not keywords:
            continue  # free text
        items = families.load(task, "validation")
        prompts = [tokenizer(render_prompt(template, item))["input_ids"] for item in items]
        batches = generate(model, tokenizer, prompts, Decoding(max_new_tokens=16))
        texts = {place: text for batch in batches for place, text in batch.items()}
        hits = [first_keyword(texts[i], keywords) == item.answer for i, item in enumerate(items)]
        chance = 1 / len(keywords)
        spread = (chance * (1 - chance) / len(items)) ** 0.5
        assert sum(hits) / len(items) <= chance + 2 * spread, task
