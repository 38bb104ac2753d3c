"""Generating in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gatera.tasks.beginnings import beginning_of
from gatera.tasks.decoding import Decoding, generate, left_padded

EOS, PAD = 1, 2


class Tokenizer:
    """Ids as text, which is all that decoding asks for."""

    eos_token_id = EOS
    pad_token_id = PAD

    def batch_decode(self, rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(str(i) for i in row if i not in (EOS, PAD)) for row in rows]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=20,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.6,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).double().eval()


PROMPTS = [[3], [4, 5, 6, 7], [8, 9], [10, 11, 12], [5, 5], [7, 3, 8, 4, 6]]


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == EOS:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def texts_of(batches):
    return {place: text for batch in batches for place, text in batch.items()}


def test_greedy_batches_equal_one_prompt_at_a_time_without_cache(model: Any) -> None:
    found = texts_of(generate(model, Tokenizer(), PROMPTS, Decoding(7, batch_size=4)))
    for place, prompt in enumerate(PROMPTS):
        expected = [str(i) for i in greedy(model, prompt, 7) if i != PAD]
        assert found[place].split() == expected
    assert len({len(text.split()) for text in found.values()}) > 1  # some end before others


def test_the_longest_prompts_come_first(model: Any) -> None:
    places = list(texts_of(generate(model, Tokenizer(), PROMPTS, Decoding(1))))
    assert places == [5, 1, 3, 2, 4, 0]


def test_beams_do_not_depend_on_the_batch_and_are_at_least_as_likely(model: Any) -> None:
    batched = texts_of(generate(model, Tokenizer(), PROMPTS, Decoding(5, beams=3, batch_size=6)))
    single = texts_of(generate(model, Tokenizer(), PROMPTS, Decoding(5, beams=3, batch_size=1)))
    plain = texts_of(generate(model, Tokenizer(), PROMPTS, Decoding(5, batch_size=6)))
    assert batched == single
    assert batched != plain


def test_left_padding() -> None:
    ids, mask = left_padded([[5], [6, 7, 8]], PAD)
    assert ids.tolist() == [[PAD, PAD, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_a_batch_that_is_known_whole_is_not_generated_again(model):
    decoding = Decoding(5, batch_size=2)
    batches = list(generate(model, Tokenizer(), PROMPTS, decoding))
    first, *others = batches
    rest = list(generate(model, Tokenizer(), PROMPTS, decoding, known=first))
    assert rest == others
    half = dict(list(first.items())[:1])
    assert list(generate(model, Tokenizer(), PROMPTS, decoding, known=half)) == batches


COMMON = [(7 * n) % 10 + 3 for n in range(20)]
BEGUN = [[*COMMON, *prompt] for prompt in PROMPTS]


@pytest.fixture
def tokens_read(model: Any) -> Iterator[list[int]]:
    """How many tokens each pass of the model had, padding included."""
    seen: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel())
    )
    yield seen
    hook.remove()


def test_what_all_prompts_begin_with_is_read_once(model: Any, tokens_read: list[int]) -> None:
    decoding = Decoding(7, batch_size=4)
    found = texts_of(generate(model, Tokenizer(), BEGUN, decoding, begins_once=True))
    assert tokens_read[0] == 20
    assert tokens_read[1] == 4 * 5  # the longest of the first batch has five tokens of its own
    apart = sum(tokens_read)
    tokens_read.clear()
    whole = texts_of(generate(model, Tokenizer(), BEGUN, decoding))
    assert sum(tokens_read) - apart == 20 * len(BEGUN) - 20
    assert found == whole
    for place, prompt in enumerate(BEGUN):
        assert found[place].split() == [str(i) for i in greedy(model, prompt, 7) if i != PAD]


def test_beams_go_on_from_a_common_beginning(model: Any) -> None:
    decoding = Decoding(5, beams=3, batch_size=4)
    found = texts_of(generate(model, Tokenizer(), BEGUN, decoding, begins_once=True))
    assert found == texts_of(generate(model, Tokenizer(), BEGUN, decoding))
    assert found != texts_of(generate(model, Tokenizer(), BEGUN, Decoding(5, batch_size=4)))


def test_the_rest_of_a_generation_is_that_of_the_whole(model: Any) -> None:
    decoding = Decoding(5, batch_size=2)
    batches = list(generate(model, Tokenizer(), BEGUN, decoding, begins_once=True))
    rest = generate(model, Tokenizer(), BEGUN, decoding, known=batches[0], begins_once=True)
    assert list(rest) == batches[1:]


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        ([[*COMMON, 3], [*COMMON, 4, 5]], 20),
        ([[*COMMON, 3], [*COMMON, 3]], 20),  # each keeps a token of its own
        ([COMMON, [*COMMON, 3]], 19),
        ([[*COMMON[:15], 3], [*COMMON[:15], 4]], None),  # too short to be worth it
        ([[*COMMON, 3]], None),
        ([], None),
    ],
)
def test_a_common_beginning_leaves_each_a_token(
    model: Any, sequences: list[list[int]], length: int | None
) -> None:
    found = beginning_of(model, sequences)
    assert (None if found is None else len(found.tokens)) == length


def test_of_shorter_prompts_more_are_answered_at_once(model: Any) -> None:
    prompts = [[3] * length for length in (20, 18, 12, 12, 7, 7, *[2] * 40)]
    sizes = [
        len(batch) for batch in generate(model, Tokenizer(), prompts, Decoding(2, batch_size=2))
    ]
    # A batch may have 2 x (20 + 2) tokens, and at most four times as many prompts as the first.
    assert sizes == [2, 3, 4, 8, 8, 8, 8, 5]
    assert sum(sizes) == len(prompts)


def test_padding_stands_behind_what_all_begin_with() -> None:
    ids, mask = left_padded([[3, 4, 5], [3, 4, 6, 7]], PAD, begun=[3, 4])
    assert ids.tolist() == [[3, 4, PAD, 5], [3, 4, 6, 7]]
    assert mask.tolist() == [[1, 1, 0, 1], [1, 1, 1, 1]]
