"""lmms-eval's own command line in this process, where the torchvision guard and our models are in place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from evals.plugin import manifest
from trainers.errors import EvaluationError


class _Stop(BaseException):
    """An error that passes lmms-eval's `except Exception`, which prints a traceback and exits with success."""


def lmms_eval(arguments: Sequence[str]) -> None:
    """Run `lmms-eval ARGUMENTS`.

    Raises:
        EvaluationError: the evaluation fails.
        SystemExit: as lmms-eval does.
    """
    import lmms_eval.__main__ as program
    from lmms_eval.cli import dispatch
    from lmms_eval.models import MODEL_REGISTRY_V2

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)  # for a checkout that is not installed

    def single(args: Any) -> Any:
        try:
            return evaluate(args)
        except Exception as error:
            raise _Stop from error

    evaluate, program.cli_evaluate_single = program.cli_evaluate_single, single
    argv, sys.argv = sys.argv, ["lmms-eval", *arguments]
    try:
        dispatch.main()
    except _Stop as stop:
        raise EvaluationError(f"lmms-eval: {' '.join(str(stop.__cause__).split())}") from stop.__cause__
    finally:
        sys.argv, program.cli_evaluate_single = argv, evaluate
