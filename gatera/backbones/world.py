"""The procedurally generated world that the tiny backbone is pre-trained on.

Holds the facts (who eats what, wears what, lives where, works with what, is whose cousin), and the
pre-training text: statements, open questions, and questions with labelled options, in wordings of
their own. The instruction format of the evaluation tasks never occurs here; `gatera.tasks`
writes it. Pure Python, every draw from the generator that is handed in.

Pre-training text is *marked*: a word that follows from the world or from the context carries a
leading asterisk (`ada eats *figs .`), which the training script turns into a larger loss weight.
"""

from collections.abc import Callable, Sequence
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORLD_SEED = 20251
MARK = "*"

NAMES = _words(
    "ada ben cora dan ella finn gus hana ivan jade kai lena milo nora omar pia quin rosa sven tara "
    "uma vera walt xena yuri zoe arno bea carl dora emil fay gina hugo ines joel kira liam mona "
    "nils"
)
VALUES = {
    "food": _words("plums figs bread soup rice beans honey cheese"),
    "colour": _words("red blue green black white brown grey pink"),
    "place": _words("forest valley harbour desert island village castle meadow"),
    "tool": _words("rope lamp hammer spade knife ladder brush needle"),
    "cousin": NAMES,
}
PROPERTIES = tuple(VALUES)
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
    ),
    "colour": (
        "{e} wears {v}",
        "the colour of {e} is {v}",
        "the coat of {e} looks {v}",
        "a coat for {e} must be {v}",
    ),
    "place": (
        "{e} lives near the {v}",
        "the place of {e} is the {v}",
        "the home of {e} was the {v}",
        "at night {e} goes to the {v}",
    ),
    "tool": (
        "{e} works with the {v}",
        "the tool of {e} is the {v}",
        "for the job {e} needs the {v}",
        "{e} must use the {v}",
    ),
    "cousin": (
        "{e} visits cousin {v}",
        "the cousin of {e} is {v}",
        "in the family of {e} there was {v}",
        "{e} is related to {v}",
    ),
}
QUESTIONS = {
    "food": ("what does {e} eat ?", "which food has {e} ?", "name the meal of {e} ."),
    "colour": ("what does {e} wear ?", "which colour has {e} ?", "name the coat of {e} ."),
    "place": ("where does {e} live ?", "which place has {e} ?", "name the home of {e} ."),
    "tool": ("what does {e} work with ?", "which tool has {e} ?", "name the thing to use of {e} ."),
    "cousin": ("who is cousin of {e} ?", "which family has {e} ?", "name the one related to {e} ."),
}
TEMPLATE_WORDS = _words(
    "Below is an instruction that describes a task . Write a response that appropriately "
    "completes the request . ### Instruction : ### Response : ### Input : Answer format : / "
    "the correct answer is"
)
TASK_WORDS = _words(
    "does has have hold this statement say true or false if choose best solution for goal to get "
    "done finish sentence with ending fill gap _ person who which what where following question "
    "please decide select right not unlike but and one complete blank , ; = ( ) ? ! it we can "
    "find from know when people ask like"
)

Facts = dict[str, dict[str, str]]


def facts(seed: int = WORLD_SEED) -> Facts:
    """Return the world's facts as `{property: {name: value}}`.

    Every value of a property belongs to about equally many names, and cousins form one permutation
    without a fixed point, so that no value can be guessed from its frequency.
    """
    rng = Random(seed)
    world: Facts = {}
    for prop, values in VALUES.items():
        if prop == "cousin":
            ring = rng.sample(NAMES, len(NAMES))
            following = dict(zip(ring, ring[1:] + ring[:1], strict=True))
            world[prop] = {name: following[name] for name in NAMES}
            continue
        repeated = [values[i % len(values)] for i in range(len(NAMES))]
        rng.shuffle(repeated)
        world[prop] = dict(zip(NAMES, repeated, strict=True))
    return world


def distractors(world: Facts, prop: str, name: str, count: int, rng: Random) -> list[str]:
    """Draw `count` different wrong values of the property for this name."""
    wrong = [v for v in VALUES[prop] if v not in (world[prop][name], name)]
    return rng.sample(wrong, count)


def statement(prop: str, name: str, value: str, rng: Random, mark: str = MARK) -> str:
    """Return one sentence that says the fact, its value marked."""
    return rng.choice(STATEMENTS[prop]).format(e=name, v=mark + value) + " ."


def question(prop: str, name: str, rng: Random) -> str:
    """Return one open question about the fact."""
    return rng.choice(QUESTIONS[prop]).format(e=name)


def option_list(values: Sequence[str], labels: Sequence[str], rng: Random) -> str:
    """Write each option and right behind it its label, in one of two styles."""
    between = rng.choice((" ", " , "))
    return between.join(f"{v} {lab}" for v, lab in zip(values, labels, strict=True))


def draw_labels(count: int, rng: Random) -> Sequence[str]:
    """Draw labels: mostly a set in its order, else any labels in any order.

    Labels out of order cannot be told from an option's position, so the model has to read them.
    """
    if rng.random() < 0.4:
        return rng.sample(ALL_LABELS, count)
    sets = [labels for labels in LABELS.values() if len(labels) >= count]
    return rng.choice(sets)[:count]


UNLIKE = ("not {o} but {e} : {q}", "people ask this , not for {o} : {q}")
CLAIMS = ("{q} {v} ?", "is it {v} ? {q}", "they say {s} {v} .")
CUES = ("reply", "so take", "we select")


def _shuffled(right: str, wrong: Sequence[str], rng: Random) -> tuple[list[str], int]:
    values = list(wrong)
    index = rng.randrange(len(wrong) + 1)
    values.insert(index, right)
    return values, index


class TextSource:
    """Draws marked pre-training documents of every kind from one generator."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.world = facts()
        self.kinds: dict[str, Callable[[], str]] = {
            "statements": self.statements,
            "open": self.open_questions,
            "repeat": self.repeat,
            "drill": self.drill,
            "choice": self.choice,
            "completion": self.completion,
            "unlike": self.unlike,
            "claim": self.claims,
            "filler": self.filler,
        }

    def draw_fact(self) -> tuple[str, str, str]:
        """Draw (property, name, value)."""
        prop, name = self.rng.choice(PROPERTIES), self.rng.choice(NAMES)
        return prop, name, self.world[prop][name]

    def statements(self) -> str:
        """Return three facts, each said once."""
        return " ".join(statement(*self.draw_fact(), self.rng) for _ in range(3))

    def open_questions(self) -> str:
        """Return three questions, answered by the value."""
        drawn = [self.draw_fact() for _ in range(3)]
        return " ".join(f"{question(p, n, self.rng)} {MARK}{v} ." for p, n, v in drawn)

    def repeat(self) -> str:
        """Return a run of random words, said twice."""
        words = self.rng.sample([*NAMES, *PLAIN_VALUES, *ALL_LABELS], self.rng.randint(4, 10))
        return f"{' '.join(words)} . {words[0]} {' '.join(MARK + w for w in words[1:])}"

    def drill(self) -> str:
        """Return an option list of random words, then three questions that name the option."""
        count = self.rng.randint(2, 5)
        values = self.rng.sample([*NAMES, *PLAIN_VALUES], count)
        labels = self.rng.sample(ALL_LABELS, count)
        asked = [self.rng.randrange(count) for _ in range(3)]
        answers = (f"{values[i]} {MARK}{labels[i]} ." for i in asked)
        return f"{option_list(values, labels, self.rng)} . {' '.join(answers)}"

    def _verdict(self, value: str, label: str) -> str:
        """Return the end of a question: a cue, the true value, and what follows from it."""
        return f"{self.rng.choice(CUES)} {MARK}{value} {MARK}{label} ."

    def _decision(self, stem: str, right: str, wrong: Sequence[str]) -> str:
        """Return stem, labelled options and verdict."""
        values, index = _shuffled(right, wrong, self.rng)
        labels = draw_labels(len(values), self.rng)
        options = option_list(values, labels, self.rng)
        return f"{stem} {options} . {self._verdict(right, labels[index])}"

    def _options(self, prop: str, name: str, stem: str) -> str:
        wrong = distractors(self.world, prop, name, self.rng.randint(1, 4), self.rng)
        return self._decision(stem, self.world[prop][name], wrong)

    def choice(self) -> str:
        """Return a question with labelled values."""
        prop, name, _ = self.draw_fact()
        return self._options(prop, name, question(prop, name, self.rng))

    def completion(self) -> str:
        """Return a statement cut before its value, with labelled values."""
        prop, name, _ = self.draw_fact()
        stem = self.rng.choice(STATEMENTS[prop]).format(e=name, v="...")
        return self._options(prop, name, stem)

    def unlike(self) -> str:
        """Return a question that names a second person whose value is among the options."""
        prop, name, value = self.draw_fact()
        others = [n for n in NAMES if self.world[prop][n] not in (value, name) and n != name]
        other = self.rng.choice(others)
        near = self.world[prop][other]
        far = [v for v in VALUES[prop] if v not in (value, near, name)]
        wrong = [near, *self.rng.sample(far, self.rng.randint(0, 2))]
        self.rng.shuffle(wrong)
        stem = self.rng.choice(UNLIKE).format(o=other, q=question(prop, name, self.rng), e=name)
        return self._decision(stem, value, wrong)

    def claims(self) -> str:
        """Return two statements, each judged true or false."""
        return " ".join(self._claim() for _ in range(2))

    def _claim(self) -> str:
        prop, name, value = self.draw_fact()
        truth = self.rng.random() < 0.5
        said = value if truth else distractors(self.world, prop, name, 1, self.rng)[0]
        asked = question(prop, name, self.rng)
        cut = self.rng.choice(STATEMENTS[prop]).format(e=name, v="")
        claim = self.rng.choice(CLAIMS).format(q=asked, s=cut, v=said)
        return f"{claim} {self._verdict(value, str(truth).lower())}"

    def filler(self) -> str:
        """Return loose words of instructions, none of them predictable."""
        words = (*TEMPLATE_WORDS, *TASK_WORDS)
        return " ".join(self.rng.choice(words) for _ in range(12))

    def draw(self, kind: str) -> str:
        """Return one document of this kind, sometimes behind loose words."""
        text = self.kinds[kind]()
        if kind != "filler" and self.rng.random() < 0.25:
            words = (*TEMPLATE_WORDS, *TASK_WORDS)
            loose = " ".join(self.rng.choice(words) for _ in range(self.rng.randint(1, 16)))
            return f"{loose} . {text}"
        return text


def vocabulary() -> list[str]:
    """Return every word of the world, of the prompt template and of the tasks, sorted."""
    texts = [t for group in (STATEMENTS, QUESTIONS) for ts in group.values() for t in ts]
    words = {w for t in texts for w in t.split() if "{" not in w}
    words.update(NAMES, *VALUES.values(), *LABELS.values(), TEMPLATE_WORDS, TASK_WORDS)
    words.update(w for cue in CUES for w in cue.split())
    words.update(_words("they say ask which one . ... true false we for"))
    return sorted(words)
