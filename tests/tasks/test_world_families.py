"""The families of the embedded world: splits, truth, balance, words."""

from collections import Counter

import pytest

from gatera.backbones import tiny as tiny_backbone
from gatera.backbones import world
from gatera.errors import InputError
from gatera.tasks import extract_answer, world_families, world_items
from gatera.tasks.held_out import held_out_sentences
from gatera.tasks.prompts import render_prompt

SPLITS = tuple(world_families.SIZES)
WORLD = world.facts()


def options(instruction: str) -> dict[str, str]:
    """Read `{label: option}` from an item's text."""
    listed = instruction.split("\n\n")[1]
    return {pair.split()[1]: pair.split()[0] for pair in listed.split(", ")}


def property_of(stem: str) -> str:
    """Tell from the words of a question which property it asks for."""
    words = {"meal": "food", "coat": "colour", "home": "place", "tool": "tool", "work": "tool"}
    words |= {"related": "cousin", "cousin": "cousin"}
    found = {prop for word, prop in words.items() if word in stem.split("done. ")[-1].split()}
    assert len(found) == 1, stem
    return found.pop()


def test_facts_are_balanced_and_cousins_form_one_permutation():
    for prop, values in world.VALUES.items():
        assert set(Counter(WORLD[prop].values()).values()) == {40 // len(values)}
    assert all(name != cousin for name, cousin in WORLD["cousin"].items())


def test_every_fact_belongs_to_exactly_one_split():
    for prop in world.PROPERTIES:
        names = [name for split in SPLITS for name in world_items.fact_names(split)[prop]]
        assert sorted(names) == sorted(world.NAMES)


@pytest.mark.parametrize("task", world_families.FAMILIES)
def test_splits_are_complete_and_share_no_item(task):
    seen = set()
    for split in SPLITS:
        items = world_families.load(task, split)
        assert len(items) == world_families.SIZES[split]
        texts = {item.instruction for item in items}
        assert len(texts) == len(items)
        assert not texts & seen
        seen |= texts


@pytest.mark.parametrize("split", SPLITS)
def test_names_asked_about_belong_to_the_split(split):
    for task in ("world_easy", "world_hard", "world_place", "world_kin", "world_use"):
        for item in world_families.load(task, split):
            stem = item.instruction.split("\n\n")[0]
            allowed = world_items.fact_names(split)[property_of(stem)]
            asked = {w for w in stem.replace(",", "").split() if w in world.NAMES}
            assert asked
            assert asked <= set(allowed)


@pytest.mark.parametrize("task", ["world_easy", "world_hard", "world_place", "world_kin"])
def test_exactly_the_answer_is_true_of_the_person_asked_about(task):
    for item in world_families.load(task, "test"):
        stem = item.instruction.split("\n\n")[0]
        name = [w for w in stem.split() if w in world.NAMES][-1]
        value = WORLD[property_of(stem)][name]
        right = [label for label, option in options(item.instruction).items() if option == value]
        assert right == [item.answer]


def test_statements_are_judged_as_the_world_has_it():
    for item in world_families.load("world_truth", "test"):
        stem = item.instruction.split("\n\n")[0].split(": ")[1]
        prop = property_of(stem)
        name = next(w for w in stem.split() if w in world.NAMES)
        said = [w for w in stem.split() if w in world.VALUES[prop] and w != name][-1]
        assert item.answer == str(WORLD[prop][name] == said).lower()


def test_a_gap_takes_the_value_of_the_person_meant():
    for item in world_families.load("world_blank", "test"):
        stem = item.instruction.split("\n\n")[0]
        other, name = (w for w in stem.split() if w in world.NAMES)
        values = WORLD[property_of(stem)]
        offered = options(item.instruction)
        assert offered.pop(item.answer) == values[name]
        assert list(offered.values()) == [values[other]]


def test_hard_questions_offer_the_other_persons_value():
    for item in world_families.load("world_hard", "test"):
        stem = item.instruction.split("\n\n")[0]
        other = stem.split()[1].removesuffix(",")
        assert WORLD[property_of(stem)][other] in options(item.instruction).values()


@pytest.mark.parametrize("task", [t for t in world_families.FAMILIES if t != "world_place"])
@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_balanced(task, split):
    counts = Counter(item.answer for item in world_families.load(task, split))
    assert set(counts) == set(world_families.FAMILIES[task].keywords)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_outputs_name_the_option_and_then_its_label():
    for task in world_families.FAMILIES:
        for item in world_families.load(task, "validation"):
            offered = item.instruction.rsplit("Answer format: ", 1)[1].split("/")
            assert item.answer in offered
            assert set(offered) <= set(world_families.FAMILIES[task].keywords)
            assert extract_answer(task, item.output) == item.answer
            if task != "world_truth":
                option = options(item.instruction)[item.answer]
                assert item.output == f"the correct answer is {option} {item.answer}"


def test_no_prompt_holds_an_unknown_word():
    _, tokenizer = tiny_backbone.load("float32")
    for task in world_families.FAMILIES:
        for split in SPLITS:
            for item in world_families.load(task, split):
                text = render_prompt("alpaca", item) + item.output
                ids = tokenizer(text)["input_ids"]
                assert tokenizer.unk_token_id not in ids, text
                assert len(ids) <= 80


def test_loading_twice_gives_the_same_items_and_fingerprints_differ():
    assert world_families.load("world_use", "test") == world_families.load("world_use", "test")
    prints = {
        world_families.fingerprint(task, split)
        for task in world_families.FAMILIES
        for split in SPLITS
    }
    assert len(prints) == len(world_families.FAMILIES) * len(SPLITS)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match=r"world_moon.*world_truth, world_use"):
        world_families.load("world_moon", "test")
    with pytest.raises(InputError, match="'dev' of world_use; known: train, validation, test"):
        world_families.load("world_use", "dev")


def test_held_out_sentences_state_true_facts_in_known_words():
    sentences = held_out_sentences(count=30)
    assert len(set(sentences)) == 30
    assert sentences == held_out_sentences(count=30)
    known = set(world.vocabulary())
    true = {
        wording.format(e=name, v=value)
        for prop, values in WORLD.items()
        for name, value in values.items()
        for wording in world.STATEMENTS[prop]
    }
    for text in sentences:
        assert set(text.split()) <= known
        assert {part.strip() for part in text.split(" .") if part} <= true
