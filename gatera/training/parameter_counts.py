"""Counting a configuration's parameters and operations, for those who do without torch.

    python -m gatera.training.parameter_counts < request.json

The request is {"configs": [configuration, ...]}; the answer, on stdout, is a JSON list of
{"trainable_parameters", "all_parameters", "trainable_percent", "computation"}, counted on the meta
device without weights; the last has the fields of `computation.Computation`. Where a configuration
cannot be used, the answer is {"error": message} and the exit status 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gatera import backbones
from gatera.training.adapting import attach, count_parameters
from gatera.training.computation import of_model
from gatera.trial import FROZEN


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of one resolved configuration.

    Raises:
        InputError: the backbone is unknown, or the adapter does not fit it.
    """
    model = backbones.architecture(config["backbone"]["name"]).requires_grad_(False)
    if config["adapter"]["method"] != FROZEN:
        model = attach(model, config["adapter"])
    counted = count_parameters(model)
    return {
        "trainable_parameters": counted["trainable"],
        "all_parameters": counted["all"],
        "trainable_percent": 100 * counted["trainable"] / counted["all"],
        "computation": asdict(of_model(model, config)),
    }


def main() -> int:
    """Answer the request on stdin; return the exit status."""
    configs = json.load(sys.stdin)["configs"]
    try:
        answer: Any = [describe(config) for config in configs]
    except ValueError as error:  # PEFT refuses with plain ValueErrors
        answer = {"error": str(error)}
    print(json.dumps(answer))
    return 2 if isinstance(answer, dict) else 0


if __name__ == "__main__":
    sys.exit(main())
