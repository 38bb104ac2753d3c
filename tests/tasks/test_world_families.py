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
CHOICES = tuple(task for task, family in world_families.FAMILIES.items() if family.keywords)
CHOICES_ABOUT_FACTS = ("world_easy", "world_hard", "world_place", "world_kin", "world_use")
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
        assert set(Counter(WORLD[prop].values()).values()) == {len(world.NAMES) // len(values)}
    assert all(name != cousin for name, cousin in WORLD["cousin"].items())


def test_names_spoken_of_equally_often_have_all_values_of_a_property():
    for start in range(0, len(world.NAMES), 8):
        alike = world.NAMES[start : start + 8]
        for prop in world.PROPERTIES[:-1]:
            assert {WORLD[prop][name] for name in alike} == set(world.VALUES[prop])


def test_every_fact_belongs_to_exactly_one_split():
    for prop in world.PROPERTIES:
        names = [name for split in SPLITS for name in world_items.fact_names(split)[prop]]
        assert sorted(names) == sorted(world.NAMES)


def test_every_sum_belongs_to_exactly_one_split():
    sums = [found for split in SPLITS for found in world_items.sums(split)]
    numbers = range(1, world.LARGEST + 1)
    assert len(sums) == len(set(sums)) == sum(20 - a for a in numbers) + sum(a for a in numbers)
    for a, sign, b, result in sums:
        assert result == (a + b if sign == "+" else a - b)
        assert 0 <= result <= world.LARGEST


def test_every_value_of_a_persona_is_asked_about_in_exactly_one_split():
    for prop in world.DOINGS:
        values = [v for split in SPLITS for v in world_items.persona_values(split)[prop]]
        assert sorted(values) == sorted(world.VALUES[prop])
    for split in SPLITS:
        for item in world_families.load("world_reply", split):
            prop, value = item.cluster.split()
            assert value in world_items.persona_values(split)[prop]


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
    for task in CHOICES_ABOUT_FACTS:
        for item in world_families.load(task, split):
            stem = item.instruction.split("\n\n")[0]
            allowed = world_items.fact_names(split)[property_of(stem)]
            asked = {w for w in stem.replace(",", "").split() if w in world.NAMES}
            assert asked
            assert asked <= set(allowed)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", CHOICES)
def test_items_of_different_splits_are_about_different_facts(task, split):
    for item in world_families.load(task, split):
        prop, name = item.cluster.split(" of ")
        assert name in world_items.fact_names(split)[prop]
        assert name in item.instruction.replace(",", "").split()


@pytest.mark.parametrize("task", CHOICES)
def test_options_are_what_could_be_answered_in_the_order_shown(task):
    for item in world_families.load(task, "test"):
        labels = item.instruction.rsplit("Answer format: ", 1)[1].split("/")
        assert [extract_answer(task, text) for text in item.options] == labels
        assert item.options.count(item.output) == 1
        values = [text.removeprefix("the correct answer is ").split()[0] for text in item.options]
        assert len(set(values)) == len(values)
        if task != "world_truth":
            assert values == list(options(item.instruction).values())


def test_options_of_a_judgement_agree_with_themselves():
    for item in world_families.load("world_truth", "test"):
        yes, no = (text.split()[-2] for text in item.options)
        stem = item.instruction.split("\n\n")[0].split(": ")[1].split()
        prop, name = item.cluster.split(" of ")
        assert yes in stem
        assert no not in stem
        assert WORLD[prop][name] == (yes if item.answer == "true" else no)


def test_the_second_language_asks_about_the_same_facts_in_other_words():
    items = world_families.load("world_second", "test")
    assert {len(item.options) for item in items} == {2, 3, 4}
    first = set(world.vocabulary()) - {*world.NAMES, *world.ALL_LABELS}
    for item in items:
        stem = item.instruction.split("\n\n")[0]
        prop, name = item.cluster.split(" of ")
        value = WORLD[prop][name]
        assert options(item.instruction)[item.answer] == world.in_second_language(value)
        words = stem.replace(":", "").removesuffix(" ?").split()
        own = [word for word in words if word not in (name, "like")]  # "like" is a borrowed word
        assert all(word.endswith("o") and word.removesuffix("o") in first for word in own)


def test_sums_name_a_step_and_then_the_result():
    for item in world_families.load("world_sum", "test"):
        step, result = item.output.split(" #### ")
        a, sign, b = step.split(" = ")[0].split()
        said = [word for word in item.instruction.split() if word.isdigit()]
        assert said == [a, b]
        assert result == step.split(" = ")[1] == item.answer
        assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        assert item.cluster == f"{a} {sign} {b}"
        assert item.options == ()


def test_a_reply_says_what_the_persona_does_of_what_the_partner_asks():
    for item in world_families.load("world_reply", "test"):
        prop, value = item.cluster.split()
        persona, partner = item.instruction.split("\n\n")
        assert f"i {world.DOINGS[prop]} {value}." in persona
        assert partner.removeprefix("partner: ") in world_items.ASKED[prop]
        assert item.output == item.answer
        assert f"{world.DOINGS[prop]} {value}" in item.output
        assert 5 <= len(item.output.replace(",", "").split()) <= 10
        assert item.options == ()


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


@pytest.mark.parametrize("task", [t for t in CHOICES if t not in ("world_place", "world_second")])
@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_balanced(task, split):
    counts = Counter(item.answer for item in world_families.load(task, split))
    assert set(counts) == set(world_families.FAMILIES[task].keywords)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_outputs_name_the_option_and_then_its_label():
    for task in CHOICES:
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
