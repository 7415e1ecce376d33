"""Judges that could not be read are refused before any is loaded."""

import subprocess
import sys

import pytest

from rlhf_api.job import RLHFJob
from rlhf_trainer.data.chat import FALLBACK_TEMPLATE
from rlhf_trainer.evaluation.labels import check_labels
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.uses import ModelUse, uses


class Letters:
    """A tokenizer of a token a character, but for some texts."""

    chat_template = FALLBACK_TEMPLATE

    def __init__(self, split=""):
        self.split = split

    def __call__(self, text, **_):
        ids = []
        for letter in text:
            ids += [ord(letter)] * (2 if letter in self.split else 1)
        return {"input_ids": ids}


def test_labels_are_single_tokens_by_one_of_two_beginnings():
    check_labels(Letters(), "pairs")
    check_labels(Letters(), "scale")
    with pytest.raises(InputError, match=r"labels A and B .*expected one each"):
        check_labels(Letters("A"), "pairs")
    with pytest.raises(InputError, match="labels 1 to 8"):
        check_labels(Letters("7"), "scale")
    check_labels(Letters("7"), "pairs")


def test_a_guard_has_a_template_of_its_own():
    with pytest.raises(InputError, match="no chat template"):
        check_labels(Letters(), "guard")


def test_a_job_s_judges_are_models_whose_labels_are_read():
    models = [("kind", "pairs"), ("shield", "guard")]
    judges = [{"name": name, "asks": asks, "model": {"input": name}} for name, asks in models]
    job = RLHFJob.model_validate(
        {
            "apiVersion": "rlhf.dev/v1alpha1",
            "kind": "RLHFJob",
            "metadata": {"name": "a"},
            "spec": {
                "inputs": [{"name": name, "source": f"{name}/"} for name in ("base", "new", "kind", "shield", "asks")],
                "stages": [
                    {
                        "name": "check",
                        "evaluate": {
                            "candidates": [{"input": "new"}],
                            "baseline": {"input": "base"},
                            "prompts": [{"input": "asks"}],
                            "judges": judges,
                        },
                    }
                ],
            },
        }
    )
    labels = {use.input: use.labels for use in uses(job) if isinstance(use, ModelUse)}
    assert labels == {"new": None, "base": None, "kind": "pairs", "shield": "guard"}


def test_prepare_learns_of_labels_without_torch():
    code = "import sys, rlhf_trainer.evaluation.labels; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
