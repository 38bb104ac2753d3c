"""Counts of a plan's parameters and operations, by a short child process that may load torch."""

from __future__ import annotations

import json
import subprocess
import sys

from gatera.errors import InputError
from gatera.studies.planning.plan import Plan
from gatera.trial import Json, plain


def describe_variants(plan: Plan) -> dict[str, dict[str, Json]]:
    """Return what `gatera.training.parameter_counts` says of each variant.

    Raises:
        InputError: a backbone or an adapter cannot be built, such as a target module that the
            model does not have.
    """
    configs = {name: plain(plan.trials_of(name)[0].located_config) for name in plan.changes}
    request = json.dumps({"configs": list(configs.values())})
    command = [sys.executable, "-m", "gatera.training.parameter_counts"]
    answer = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    try:
        # Libraries may print before the answer, which is the last line.
        counted = json.loads(answer.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the parameters could not be counted: {last}") from None
    if isinstance(counted, dict):
        raise InputError(f"study {plan.study}: {counted['error']}")
    return dict(zip(configs, counted, strict=True))
