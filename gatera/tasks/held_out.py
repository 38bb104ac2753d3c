"""Texts about the embedded world that neither pre-training nor adaptation saw."""

from random import Random

from gatera.backbones import world_text


def held_out_sentences(count: int = 200) -> list[str]:
    """Return texts of the world that pre-training did not see, for a study of kept knowledge.

    Each states three facts in the wordings of pre-training. The facts were seen, their combination
    was not: they come from a generator of their own, out of some 5e8 combinations.
    """
    source = world_text.TextSource(Random("held out"))
    return [source.statements().replace(world_text.MARK, "") for _ in range(count)]
