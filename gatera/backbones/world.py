"""The procedurally generated world that the tiny backbone is pre-trained on.

Holds its words, its facts (who eats what, wears what, lives where, works with what, is whose
cousin) and its second language. What is written about them for pre-training is `world_text`'s, and
what is asked in evaluation `gatera.tasks`'. Pure Python; every draw is from the generator that is
handed in.

People are spoken of unequally often, so that the backbone knows some facts better than others, and
no adapter can find out what it does not know.
"""

import itertools
import re
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORLD_SEED = 20251

NAMES = _words(
    "ada ben cora dan ella finn gus hana ivan jade kai lena milo nora omar pia quin rosa sven "
    "tara uma vera walt xena yuri zoe arno bea carl dora emil fay gina hugo ines joel kira "
    "liam mona nils abel alma amos anya axel beth bram caleb celia clio dario dena devi edda "
    "egon elsa enzo esme evan fenn flora fritz gail gerd greta hals heidi hilda igor ilse inga "
    "irma isak ivy jana jens joan jonas juno kent klara klaus kurt lars leif lina lola luca "
    "magda mara marc mateo mina nadia nell nico noel odin olga otto paul petra ralf rene rhea "
    "rolf ruth samir selma silas sonya stig tess theo tilda ulla ursa vito wanda yara"
)
VALUES = {
    "food": _words("plums figs bread soup rice beans honey cheese"),
    "colour": _words("red blue green black white brown grey pink"),
    "place": _words("forest valley harbour desert island village castle meadow"),
    "tool": _words("rope lamp hammer spade knife ladder brush needle"),
    "cousin": NAMES,
}
PROPERTIES = tuple(VALUES)
BLOCK = 8  # values of a property, cousins aside
FADING = 0.95  # how often a name is spoken of, to how often the one before it is
PLAIN_VALUES = tuple(v for prop in PROPERTIES[:-1] for v in VALUES[prop])
LABELS = {
    "answer": tuple(f"answer{n}" for n in range(1, 6)),
    "solution": ("solution1", "solution2"),
    "ending": tuple(f"ending{n}" for n in range(1, 5)),
    "option": ("option1", "option2"),
    "letter": tuple("abcde"),
    "item": tuple(f"item{n}" for n in range(1, 6)),
}

ALL_LABELS = tuple(label for labels in LABELS.values() for label in labels)

STATEMENTS = {
    "food": (
        "{e} eats {v}",
        "the food of {e} is {v}",
        "at noon {e} likes {v}",
        "the meal for {e} was {v}",
        "{e} must have {v} at noon",
    ),
    "colour": (
        "{e} wears {v}",
        "the colour of {e} is {v}",
        "the coat of {e} looks {v}",
        "a coat for {e} must be {v}",
        "{e} has a {v} coat",
    ),
    "place": (
        "{e} lives near the {v}",
        "the place of {e} is the {v}",
        "the home of {e} was the {v}",
        "at night {e} goes to the {v}",
        "{e} has the {v} for a home",
    ),
    "tool": (
        "{e} works with the {v}",
        "the tool of {e} is the {v}",
        "for the job {e} needs the {v}",
        "{e} must use the {v}",
        "{e} takes the {v} to do the job",
    ),
    "cousin": (
        "{e} visits cousin {v}",
        "the cousin of {e} is {v}",
        "in the family of {e} there was {v}",
        "{e} is related to {v}",
        "{e} has {v} in the family",
    ),
}
QUESTIONS = {
    "food": (
        "what does {e} eat ?",
        "which food has {e} ?",
        "name the meal of {e} .",
        "{e} likes which meal ?",
        "which food is it for {e} ?",
    ),
    "colour": (
        "what does {e} wear ?",
        "which colour has {e} ?",
        "name the coat of {e} .",
        "{e} wears which coat ?",
        "which colour is it for {e} ?",
    ),
    "place": (
        "where does {e} live ?",
        "which place has {e} ?",
        "name the home of {e} .",
        "{e} is near which place ?",
        "which home is it for {e} ?",
    ),
    "tool": (
        "what does {e} work with ?",
        "which tool has {e} ?",
        "name the thing to use of {e} .",
        "{e} must use which tool ?",
        "which tool is it for {e} ?",
    ),
    "cousin": (
        "who is cousin of {e} ?",
        "which family has {e} ?",
        "name the one related to {e} .",
        "{e} is related to who ?",
        "which person is it for {e} ?",
    ),
}
HINTS = {  # words that give away what a loosely worded question asks for
    "food": _words("food meal eat eats likes noon"),
    "colour": _words("colour coat wear wears looks"),
    "place": _words("place home live lives near night"),
    "tool": _words("tool work works use job thing"),
    "cousin": _words("cousin family related visits"),
}
TEMPLATE_WORDS = _words(
    "Below is an instruction that describes a task . Write a response that appropriately "
    "completes the request . ### Instruction : ### Response : ### Input : Answer format : "
    "the correct answer is"
)
TASK_WORDS = _words(
    "does has have hold this statement say true or false if choose best solution for goal to get "
    "done finish sentence with ending fill gap _ person who which what where following question "
    "please decide select right not unlike but and one complete blank , ; = ( ) ? ! it we can "
    "find from know when people ask like"
)

LARGEST = 20  # number; sums and their parts lie between 0 and this
NUMBERS = tuple(str(n) for n in range(LARGEST + 1))
SIGNS = _words("+ - = ####")
THINGS = _words("coins shells stones")
TALES = {
    "+": ("{e} had {a} {thing} , then {b} came", "to {a} {thing} of {e} we put {b}"),
    "-": ("{e} had {a} {thing} , then {b} went", "from {a} {thing} of {e} we take {b}"),
}
DOINGS = {"food": "eat", "colour": "wear", "place": "live near the", "tool": "work with the"}
SPOKEN_WORDS = _words(
    "your persona partner i you my me your hello well yes and for eat wear live near work with the "
    "meal coat home job tell about good to get done reply as it is , in ."
)
STORY_WORDS = _words("has gets gives away more how many")
SMALL_WORDS = _words(
    "does has have which what who where the a of is it for this to do can must get answer question "
    "find : , and not with"
)
LOOSE_WORDS = (*TEMPLATE_WORDS, *TASK_WORDS, *SPOKEN_WORDS, *STORY_WORDS)

Facts = dict[str, dict[str, str]]


def facts(seed: int = WORLD_SEED) -> Facts:
    """Return the world's facts as `{property: {name: value}}`.

    Of eight names that are spoken of about equally often, each has another value of a property, and
    cousins form one permutation without a fixed point, so that no value can be guessed from its
    frequency.
    """
    rng = Random(seed)
    world: Facts = {}
    for prop, values in VALUES.items():
        if prop == "cousin":
            ring = rng.sample(NAMES, len(NAMES))
            following = dict(zip(ring, ring[1:] + ring[:1], strict=True))
            world[prop] = {name: following[name] for name in NAMES}
            continue
        blocks = [rng.sample(values, BLOCK) for _ in range(0, len(NAMES), BLOCK)]
        world[prop] = dict(zip(NAMES, itertools.chain(*blocks), strict=True))
    return world


def distractors(world: Facts, prop: str, name: str, count: int, rng: Random) -> list[str]:
    """Draw `count` different wrong values of the property for this name."""
    wrong = [v for v in VALUES[prop] if v not in (world[prop][name], name)]
    return rng.sample(wrong, count)


def in_second_language(text: str) -> str:
    """Return the text in the second language: its grammar is the same, its words end in o.

    Words without a translation stay: names, labels, numbers, and what frames questions and answers.
    """
    return re.sub(r"\w+", lambda found: found[0] + "o" * (found[0] in _TRANSLATED), text)


_WORDINGS = [
    text for group in (STATEMENTS, QUESTIONS) for texts in group.values() for text in texts
]
_TRANSLATED = {
    *_words("answer this"),
    *PLAIN_VALUES,
    *(word for text in _WORDINGS for word in re.findall(r"\b(?<!{)\w+", text)),
}.difference(ALL_LABELS)


SECOND_VALUES = tuple(in_second_language(v) for v in PLAIN_VALUES)
COPIED = sorted(
    {*NAMES, *PLAIN_VALUES, *SECOND_VALUES, *ALL_LABELS, *NUMBERS, *SIGNS, *SPOKEN_WORDS}
)
GAPS = ("...", "_")
CUES = ("reply", "so take", "we select", "it is", "that is", "decide for", "know that", "yes ,")


def vocabulary() -> list[str]:
    """Return every word of the world, of the prompt template and of the tasks, sorted."""
    texts = [*_WORDINGS, *CUES, *GAPS, *DOINGS.values(), *TALES["+"], *TALES["-"]]
    texts += ["they say ask which one . true false so /"]
    words = {w for t in texts for w in t.split() if "{" not in w}
    words.update(COPIED, LOOSE_WORDS, SMALL_WORDS, THINGS, *VALUES.values(), *HINTS.values())
    words.update(in_second_language(word) for word in _TRANSLATED)
    return sorted(words)
