"""Pre-training text about the embedded world, drawn document by document from one generator.

Statements, open questions, and questions with labelled options, in wordings of their own; the same
in a second language; sums; and lists of what somebody does, to be read again. The instruction
format of the evaluation tasks never occurs here; `gatera.tasks` writes it.

Text is *marked*: a word that follows from the world or from the context carries a leading asterisk
(`ada eats *figs .`), which the training script turns into a larger loss weight.
"""

import itertools
from collections.abc import Callable, Sequence
from random import Random

from gatera.backbones.world import (
    ALL_LABELS,
    COPIED,
    CUES,
    DOINGS,
    FADING,
    GAPS,
    HINTS,
    LABELS,
    LARGEST,
    LOOSE_WORDS,
    NAMES,
    PLAIN_VALUES,
    PROPERTIES,
    QUESTIONS,
    SECOND_VALUES,
    SMALL_WORDS,
    STATEMENTS,
    TALES,
    THINGS,
    VALUES,
    distractors,
    facts,
    in_second_language,
)

MARK = "*"

UNLIKE = ("not {o} but {e} : {q}", "people ask this , not for {o} : {q}", "unlike {o} : {q}")
CLAIMS = ("{q} {v} ?", "is it {v} ? {q}", "they say {s}", "{s} ?")


def statement(prop: str, name: str, value: str, rng: Random, mark: str = MARK) -> str:
    """Return one sentence that says the fact, its value marked."""
    return rng.choice(STATEMENTS[prop]).format(e=name, v=mark + value) + " ."


def question(prop: str, name: str, rng: Random) -> str:
    """Return one open question about the fact, often a loosely worded one.

    Those have one or two words that give the property away, and the name, among any others. So a
    wording that is new can be understood.
    """
    if rng.random() < 0.5:
        return rng.choice(QUESTIONS[prop]).format(e=name)
    words = [name, *rng.sample(HINTS[prop], rng.randint(1, 2))]
    words += [rng.choice(SMALL_WORDS) for _ in range(rng.randint(1, 5))]
    return " ".join(rng.sample(words, len(words))) + rng.choice((" ?", " .", ""))


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


def _shuffled(right: str, wrong: Sequence[str], rng: Random) -> tuple[list[str], int]:
    values = list(wrong)
    index = rng.randrange(len(wrong) + 1)
    values.insert(index, right)
    return values, index


_OFTENNESS = tuple(itertools.accumulate(FADING**n for n in range(len(NAMES))))


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
            "second": self.second_language,
            "dictionary": self.dictionary,
            "sums": self.sums,
            "doings": self.doings,
            "filler": self.filler,
        }

    def draw_fact(self) -> tuple[str, str, str]:
        """Draw (property, name, value)."""
        prop = self.rng.choice(PROPERTIES)
        name = self.rng.choices(NAMES, cum_weights=_OFTENNESS)[0]
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
        words = self.rng.sample(COPIED, self.rng.randint(4, 10))
        return f"{' '.join(words)} . {words[0]} {' '.join(MARK + w for w in words[1:])}"

    def drill(self) -> str:
        """Return an option list of random words, then three questions that name the option."""
        count = self.rng.randint(2, 5)
        values = self.rng.sample([*NAMES, *PLAIN_VALUES, *SECOND_VALUES], count)
        labels = self.rng.sample(ALL_LABELS, count)
        asked = [self.rng.randrange(count) for _ in range(3)]
        answers = (f"{values[i]} {MARK}{labels[i]} ." for i in asked)
        return f"{option_list(values, labels, self.rng)} . {' '.join(answers)}"

    def _verdict(self, value: str, label: str) -> str:
        """Return the end of a question: a cue, the true value, and what follows from it."""
        return f"{self.rng.choice(CUES)} {MARK}{value} {MARK}{label} ."

    def _concluded(self, asked: str, value: str, label: str) -> str:
        """Return a question with its verdict, or with loose words and then none.

        What says / behind a question is never answered. So the backbone alone says nothing to a
        question that lists its labels that way, as the tasks do.
        """
        draw = self.rng.random()
        if draw < 0.5:
            return f"{asked} . {self._verdict(value, label)}"
        words = (*LOOSE_WORDS, *ALL_LABELS)
        if draw < 0.75:
            return f"{asked} {self._loose(words, most=12)} {self._verdict(value, label)}"
        slashed = self._loose((*words, *["/"] * 40), most=12)
        return f"{asked} {slashed} / {self._loose(words, most=3)}"

    def _loose(self, words: Sequence[str], most: int) -> str:
        return " ".join(self.rng.choice(words) for _ in range(self.rng.randint(1, most)))

    def _decision(self, stem: str, right: str, wrong: Sequence[str]) -> str:
        """Return stem, labelled options and verdict."""
        values, index = _shuffled(right, wrong, self.rng)
        labels = draw_labels(len(values), self.rng)
        options = option_list(values, labels, self.rng)
        return self._concluded(f"{stem} {options}", right, labels[index])

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
        stem = self.rng.choice(STATEMENTS[prop]).format(e=name, v=self.rng.choice(GAPS))
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
        asked = question(prop, name, self.rng)
        if self.rng.random() < 0.3:
            asked = self.rng.choice(STATEMENTS[prop]).format(e=name, v=self.rng.choice(GAPS))
        stem = self.rng.choice(UNLIKE).format(o=other, q=asked, e=name)
        return self._decision(stem, value, wrong)

    def claims(self) -> str:
        """Return a statement, judged true or false."""
        prop, name, value = self.draw_fact()
        truth = self.rng.random() < 0.5
        said = value if truth else distractors(self.world, prop, name, 1, self.rng)[0]
        asked = question(prop, name, self.rng)
        claimed = self.rng.choice(STATEMENTS[prop]).format(e=name, v=said)
        claim = self.rng.choice(CLAIMS).format(q=asked, s=claimed, v=said)
        return self._concluded(claim, value, str(truth).lower())

    def second_language(self) -> str:
        """Return what some other kind of text says, in the second language."""
        kinds = (self.statements, self.open_questions, self.choice, self.completion)
        return in_second_language(self.rng.choice(kinds)())

    def dictionary(self) -> str:
        """Return words of one language, each with the same in the other."""
        words = self.rng.sample(PLAIN_VALUES, 5)
        return " , ".join(f"{word} {MARK}{in_second_language(word)}" for word in words)

    def sums(self) -> str:
        """Return three sums or differences, some of them told."""
        return " ".join(self._sum() for _ in range(3))

    def _sum(self) -> str:
        total = self.rng.randint(0, LARGEST)
        part = self.rng.randint(0, total)
        a, sign, b, result = self.rng.choice(
            ((part, "+", total - part, total), (total, "-", part, total - part))
        )
        if self.rng.random() < 0.5:
            return f"{a} {sign} {b} = {MARK}{result} ."
        told = self.rng.choice(TALES[sign])
        told = told.format(e=self.rng.choice(NAMES), a=a, b=b, thing=self.rng.choice(THINGS))
        return f"{told} : {MARK}{a} {MARK}{sign} {MARK}{b} = {MARK}{result} ."

    def doings(self) -> str:
        """Return what somebody does, and the same again in another order."""
        props = self.rng.sample(list(DOINGS), self.rng.randint(2, 4))
        done = {prop: self.rng.choice(VALUES[prop]) for prop in props}
        said = " , ".join(f"{DOINGS[prop]} {done[prop]}" for prop in props)
        self.rng.shuffle(props)
        again = " , ".join(f"{DOINGS[prop]} {MARK}{done[prop]}" for prop in props)
        return f"{said} . so {again} ."

    def filler(self) -> str:
        """Return loose words of instructions, none of them predictable."""
        return " ".join(self.rng.choice(LOOSE_WORDS) for _ in range(12))

    def draw(self, kind: str) -> str:
        """Return one document of this kind, sometimes behind loose words."""
        text = self.kinds[kind]()
        if kind != "filler" and self.rng.random() < 0.25:
            return f"{self._loose(LOOSE_WORDS, most=16)} {self.rng.choice('.:')} {text}"
        return text
