"""How large the real data sets are, for what a plan estimates without them.

Items are those that a split has by its publisher. Characters are means over the items of the prompt
in the Alpaca wording and of the response, counted in the files of the LLM-Adapters collection
(arXiv:2304.01933), GSM8K, XNLI, MGSM and ConvAI2; where a file was not at hand they are assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CHARACTERS_A_TOKEN = 4  # of English text, by a vocabulary of some ten thousand entries and more


@dataclass(frozen=True)
class Extent:
    """Size of a split."""

    items: int
    prompt: int = 450  # characters
    response: int = 30  # characters
    is_counted: bool = False  # whether the characters were counted, and not assumed

    @property
    def prompt_tokens(self) -> float:
        """Tokens of a prompt, on average."""
        return self.prompt / CHARACTERS_A_TOKEN

    @property
    def tokens(self) -> float:
        """Tokens of a prompt and its response, on average."""
        return (self.prompt + self.response) / CHARACTERS_A_TOKEN


def _counted(items: int, prompt: int, response: int) -> Extent:
    return Extent(items, prompt, response, is_counted=True)


EXTENTS: Mapping[str, Mapping[str, Extent]] = {
    "boolq": {"train": _counted(9_427, 279, 26), "test": _counted(3_270, 278, 26)},
    "piqa": {"train": Extent(16_113), "test": Extent(1_838)},
    "siqa": {"train": Extent(33_410), "test": Extent(1_954)},
    "hellaswag": {"train": Extent(39_905), "test": Extent(10_042)},
    "winogrande": {"train": Extent(63_238), "test": Extent(1_267)},
    "arc_easy": {"train": _counted(2_251, 481, 29), "test": _counted(2_376, 483, 29)},
    "arc_challenge": {"train": _counted(1_119, 518, 29), "test": _counted(1_172, 527, 29)},
    "openbookqa": {"train": _counted(4_957, 397, 29), "test": _counted(500, 401, 29)},
    "commonsense_170k": {"train": Extent(170_420)},
    "gsm8k": {"train": _counted(7_473, 374, 248), "test": _counted(1_319, 380, 252)},
    "metamath": {"train": Extent(395_000, 420, 700)},
    "xnli_en": {"train": _counted(2_490, 512, 32), "test": _counted(5_010, 519, 32)},
    "xnli_de": {"test": _counted(5_010, 540, 32)},
    "xnli_fr": {"test": _counted(5_010, 544, 32)},
    "xnli_zh": {"test": _counted(5_010, 410, 32)},
    "mgsm_en": {"test": _counted(250, 381, 7)},
    "mgsm_de": {"test": _counted(250, 411, 7)},
    "mgsm_fr": {"test": _counted(250, 406, 7)},
    "mgsm_zh": {"test": _counted(250, 225, 7)},
    "mgsm_sw": {"test": _counted(250, 405, 7)},
    "convai2": {"train": Extent(131_438, 849, 51), "test": _counted(7_801, 849, 51)},
}
