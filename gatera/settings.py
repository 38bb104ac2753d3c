"""Every setting once: its name, type, bounds, meaning, and its default at each scale. No torch.

A section of a configuration is a dataclass here, a setting one of its fields. From these come what
`--set` takes and refuses, the resolved configuration of a trial, its keys, the objects that
training receives, the fields of `GateraConfig`, and what `settings` lists.

A field's own default is its neutral value: what stands at it is left out of keys, so that a field
that is added later makes no stored result old. So the defaults of fields never change; those of the
scales may.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from gatera.declaring import (
    Count,
    Names,
    Natural,
    NonNegative,
    OwnClass,
    Positive,
    Real,
    Setting,
    Share,
    fields_of,
    setting,
)
from gatera.errors import InputError

SCALES = ("tiny", "small", "paper")
Dtype = Literal["float32", "bfloat16"]
Quantization = Literal["none", "8bit", "4bit"]
KEEPS = ("all", "best", "none")  # which adapters stay in a store

_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
BENCHMARKS = (
    "boolq",
    "piqa",
    "siqa",
    "hellaswag",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "openbookqa",
)
_SMALL = ("boolq", "arc_easy", "arc_challenge", "openbookqa")
_WORLD = (
    "world_truth",
    "world_use",
    "world_kin",
    "world_ending",
    "world_blank",
    "world_easy",
    "world_hard",
    "world_place",
)


@dataclass
class BackboneSettings:
    """Which frozen model is adapted."""

    name: str = setting(
        "tiny",
        "The frozen model: tiny, smollm2, llama-2-7b, llama-3-8b or hub:<id>.",
        small="smollm2",
        paper="llama-3-8b",
    )
    quantization: Quantization = setting(
        "none",
        "In how many bits the frozen weights are held: 'none' (as train.dtype says), '8bit' "
        "(LLM.int8) or '4bit' (NF4), both by bitsandbytes; products are computed in train.dtype.",
    )


@dataclass
class GateraFields:
    """The fields of `GateraConfig`."""

    r: Count = setting(32, "Rank of the factors A and B.")
    gate: Literal["token", "static", "none", "mlp", "attention", "channel"] | OwnClass = setting(
        "token",
        "The gate g: 'token' (σ(w·x + b), one value a token), 'static' (σ(b), one learned value a "
        "layer), 'none' (always 1), 'mlp' (a hidden layer), 'attention' (over the tokens before), "
        "'channel' (one value a token and output channel), or a class of one's own, "
        "'path/to/file.py:ClassName'.",
    )
    delta: Literal["hira", "lora", "dora", "mora", "hilora"] | OwnClass = setting(
        "hira",
        "The update Δ: 'hira' ((W0 ⊙ BA) x, multiplicative), 'lora' (alpha/r · BA x, additive), "
        "'dora' (directional, with a magnitude), 'mora' (additive, one square matrix), 'hilora' "
        "(hira and lora together, each of rank r), or a class of one's own, "
        "'path/to/file.py:ClassName'.",
    )
    gate_sharing: Literal["module", "block", "model"] = setting(
        "module",
        "Who has a gate of its own: each 'module', each transformer 'block' (the gate reads the "
        "block's input, and acts on all adapted layers in it), or the 'model' (as 'block', with "
        "one set of gate weights for all blocks).",
    )
    alpha: Real | None = setting(
        None,
        "Scale of an additive update, which is multiplied by alpha/r; None means r, a factor of 1 "
        "(of sqrt(r) with use_rslora). Multiplicative updates have no scale and ignore it.",
    )
    use_rslora: bool = setting(
        False, "Whether an additive update is scaled by alpha/sqrt(r) in place of alpha/r."
    )
    dropout: Share = setting(0.0, "Dropout on the input of the update, never of the gate.")
    target_modules: Names | str | None = setting(
        None,
        "Names of the modules to adapt, a regular expression, or 'all-linear'; None means PEFT's "
        "choice for the architecture.",
        tiny=_TARGETS,
        small=_TARGETS,
        paper=_TARGETS,
    )
    exclude_modules: Names | str | None = setting(
        None, "Names, or a regular expression, of modules to leave out; None leaves out none."
    )
    rank_pattern: dict[str, Count] = setting(
        {}, "Ranks that differ from r, by module name or regular expression."
    )
    alpha_pattern: dict[str, Real] = setting(
        {}, "Values that differ from alpha, by module name or regular expression."
    )
    layers_to_transform: list[Natural] | Natural | None = setting(
        None, "Indices of the layers to adapt, from 0; None means all."
    )
    layers_pattern: Names | str | None = setting(
        None, "Name of the list of layers that layers_to_transform indexes; None: PEFT's guess."
    )
    fan_in_fan_out: bool = setting(
        False,
        "Whether layers of an unknown type store their weight as (in, out). The types nn.Linear "
        "and transformers' Conv1D are told apart without it.",
    )
    bias: Literal["none", "all", "gatera_only"] = setting(
        "none",
        "Biases of the base model to train: 'none', 'all' or 'gatera_only' (those of the adapted "
        "layers).",
    )
    modules_to_save: Names | None = setting(
        None, "Other modules to train and save in full, such as a new head; None: none."
    )
    init_weights: bool = setting(
        True,
        "True: B starts at zero, so that a fresh adapter changes nothing. False: B is random, for "
        "tests.",
    )
    gate_bias: Real = setting(0.0, "Initial bias b of the gate; 0 opens it half.")
    gate_init_std: NonNegative = setting(0.02, "Standard deviation of the initial gate weights w.")
    gate_temperature: Positive = setting(
        1.0, "Divisor of the gate's logit: below 1 sharpens the gate, above 1 softens."
    )
    gate_hidden: Count = setting(
        16,
        "Width of the hidden layer of the gates 'mlp' and 'channel', and of the head of "
        "'attention'; the others have none.",
    )
    gate_threshold: Share = setting(
        0.0,
        "In evaluation a gate below this value is closed, and its update is skipped; 0 closes "
        "none. From 0 up to, but not including, 1.",
    )
    gate_threshold_in_training: bool = setting(
        False,
        "Whether gates below gate_threshold are closed in training, and in its validation, too. "
        "The loss of the task then gives a closed token's update and gate no gradient; the "
        "entropy still moves the gate.",
    )
    mora_type: Literal["rotate", "share"] = setting(
        "rotate", "How delta='mora' folds the input into its groups: 'rotate' or 'share'."
    )


@dataclass
class AdapterSettings(GateraFields):
    """What is trained."""

    method: Literal["gatera", "frozen"] = setting(
        "gatera", "'gatera' trains an adapter, 'frozen' scores the backbone as it is."
    )


@dataclass
class TrainSettings:
    """How an adapter is trained, and validated meanwhile."""

    learning_rate: NonNegative = setting(
        1e-3, "The highest of the schedule.", tiny=1e-2, small=4e-3
    )
    gate_learning_rate_factor: NonNegative = setting(
        1.0, "The gates learn at learning_rate times this; 0 leaves them as they began."
    )
    entropy_weight: NonNegative = setting(
        0.01,  # the paper states none
        "λ: nats of gate entropy are added to the loss with this factor.",
    )
    batch_size: Count = setting(32, "Items that an optimizer step sees.", tiny=8, small=16)
    accumulation: Count = setting(
        1,
        "Forward passes that such a batch is split into, to save memory.",
        in_key=False,
        small=4,  # a vocabulary of 49,152 words makes logits large
    )
    max_steps: Count | None = setting(
        None, "Optimizer steps; None: given by epochs.", tiny=80, small=400
    )
    epochs: Count | None = setting(
        None, "Passes over the training items; None: given by max_steps.", paper=3
    )
    warmup_steps: Natural | None = setting(
        None, "Steps over which the rate rises; None: 10 % of the steps, at most 100."
    )
    schedule: Literal["linear", "cosine", "constant"] = setting(
        "linear", "How the rate falls after the warm-up: to 0, or not at all."
    )
    weight_decay: NonNegative = setting(0.0, "AdamW's, on all that is trained.")
    gradient_clip: NonNegative | None = setting(
        1.0, "Norm that gradients are cut down to; None: never."
    )
    loss_mask: Literal["answer", "all"] = setting(
        "answer", "'answer': loss on response tokens; 'all': on the prompt too."
    )
    dtype: Dtype = setting(
        "bfloat16", "Type of the frozen weights; adapters are float32.", tiny="float32"
    )
    max_tokens: Annotated[int, Ge(8)] = setting(
        512, "Of prompt and response; what exceeds is cut from the prompt's front.", tiny=128
    )
    checkpoint_every: Count = setting(
        80, "Optimizer steps between checkpoints.", in_key=False, tiny=40
    )
    gradient_checkpointing: bool = setting(
        False,
        "Whether activations are computed again in the backward pass, to save memory.",
        in_key=False,
        paper=True,
    )
    order_seed: Natural | None = setting(
        None, "Seed of the order of the training items; None: the trial's seed."
    )
    init_seed: Natural | None = setting(
        None, "Seed of the adapter's initial values; None: the trial's seed."
    )
    dropout_seed: Natural | None = setting(None, "Seed of dropout; None: the trial's seed.")
    validation_every: Count = setting(
        80, "Optimizer steps between validations; the best one's weights are kept.", tiny=40
    )
    validation_items: Count = setting(
        120, "Held-out items of the training tasks that validation answers."
    )
    validation_method: Literal["generate", "choice"] = setting(
        "generate",
        "How validation answers: as eval.method says.",
        tiny="choice",
        small="choice",
        paper="choice",
    )
    average_last: Count | None = setting(
        None,
        "The trained weights are the mean of those at the last so many validations; None: those "
        "that validation found best.",
    )
    knowledge: str | None = setting(
        None,
        "Text for the loss on held-out pre-training text at each validation, named as "
        "eval.knowledge; None: not measured.",
    )
    validation_max_new_tokens: Count = setting(
        16, "Tokens that an answer to a validation item may have.", tiny=12, paper=32
    )
    validation_batch_size: Count = setting(
        64,
        "Validation items that are answered at once.",
        in_key=False,
        tiny=128,
        small=16,
        paper=16,
    )

    def __post_init__(self) -> None:
        if self.max_steps is None and self.epochs is None:
            raise InputError("train.max_steps and train.epochs are both null; give one of them.")
        if self.batch_size % self.accumulation:
            raise InputError(
                f"train.batch_size={self.batch_size} cannot be split into "
                f"train.accumulation={self.accumulation} equal parts; give a divisor."
            )


@dataclass
class EvalSettings:
    """How test items are answered."""

    limit: Count | None = setting(
        None, "Items of each test set, the first by content hash; None: all."
    )
    beams: Count = setting(1, "Beams of the search for an answer; 1: greedy.", paper=4)
    max_new_tokens: Count = setting(16, "Tokens that an answer may have.", tiny=12, paper=32)
    method: Literal["generate", "choice"] = setting(
        "generate",
        "'generate': the answer is read out of the text that is generated. 'choice': the answer to "
        "an item with options is the one of highest log-likelihood; other items are as before.",
    )
    batch_size: Count = setting(
        64, "Items that are answered at once.", in_key=False, tiny=128, small=16, paper=16
    )
    knowledge: str | None = setting(
        None,
        "Text for the loss on held-out pre-training text: 'world' (the embedded one), 'wikitext', "
        "a file's path, or 'auto', the one there is; None: not measured.",
        tiny="auto",
        small="auto",
        paper="auto",
    )


@dataclass
class DataSettings:
    """What is trained on and scored."""

    template: str = setting("alpaca", "Wording of the prompt: alpaca or plain.", tiny="plain")
    tasks: Names = setting(
        [],
        "The tasks that are scored; --tasks sets it.",
        tiny=_WORLD,
        small=_SMALL,
        paper=BENCHMARKS,
    )
    train_tasks: Names = setting(
        [],
        "The tasks that are trained on.",
        tiny=_WORLD,
        small=_SMALL,
        paper=("commonsense_170k",),
    )


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """How long a study's tuning phase searches for each row's own settings; all rows alike."""

    trials: Count = setting(1, "Points that each row tries.")
    seeds: Count = setting(
        1, "Tuning trials of each point, of as many seeds; their mean on validation items counts."
    )
    steps: Count | None = setting(
        None, "Optimizer steps of a tuning trial; None: those of the seeds."
    )
    validate_every: Count | None = setting(
        None, "Steps between its validations; None: four times in a trial of `steps`."
    )
    round_size: Count = setting(4, "Proposals made at a time; those of the first round are random.")
    pruner: Literal["median", "hyperband"] | None = setting(
        "median", "What ends hopeless trials early; None: every trial runs to its end."
    )
    seed: Natural = setting(0, "Seed of the proposals.")


SECTIONS: Mapping[str, type[Any]] = {
    "backbone": BackboneSettings,
    "adapter": AdapterSettings,
    "train": TrainSettings,
    "eval": EvalSettings,
    "data": DataSettings,
}
TUNING = "tuning"


@functools.cache
def declared() -> dict[str, Setting]:
    """Return every setting of a configuration and of the tuning phase, by name."""
    found: dict[str, Setting] = {}
    for section, cls in (*SECTIONS.items(), (TUNING, TuningSettings)):
        for each in fields_of(cls):
            found[f"{section}.{each.name}"] = dataclasses.replace(
                each, name=f"{section}.{each.name}"
            )
    return found
