"""`rlhf validate` opens what lies here: mistakes that users make are refused with field and line, right jobs are not."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

from fakes.command import Said, rlhf
from fakes.policies import small
from rlhf_api.yaml import dump_yaml
from rlhf_sdk import input_check
from rlhf_trainer import local_check
from rlhf_trainer.data import limited

GOLD = "LIMIT = 3\ndef count(prompts, responses):\n    return [len(r) for r in responses]\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d1\n"
SAFE = {
    "response_0": "a",
    "response_1": "b",
    "better_response_id": 0,
    "safer_response_id": 1,
    "is_response_0_safe": False,
    "is_response_1_safe": True,
}
COMPLETION = {"prompt": "q", "completion": "a", "response_type": "comply"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
PAIRS = [{"prompt": f"q {n}", "chosen": "a", "rejected": "b"} for n in range(20)]
CHAT = [{"prompt": f"q {n}", "completion": "yes"} for n in range(20)]


def talks(case: Case, rows: list[Any], **fields: Any) -> None:
    """Add an evaluation with dialogues."""
    case.spec["inputs"].append({"name": "talks", "source": "talks.jsonl"})
    case.write("talks.jsonl", rows)
    case.evaluate(dialogues=[{"input": "talks"}], **fields)


@dataclass
class Case:
    """A right job in a folder of its own, to be spoilt."""

    folder: Path
    spec: dict[str, Any]

    def input(self, name: str, **fields: Any) -> None:
        entry = next(entry for entry in self.spec["inputs"] if entry["name"] == name)
        entry.update(fields)

    def stage(self, name: str) -> dict[str, Any]:
        entry = next(entry for entry in self.spec["stages"] if entry["name"] == name)
        return next(value for key, value in entry.items() if key != "name")

    def evaluate(self, **fields: Any) -> None:
        """Add a stage that evaluates."""
        spec = {"candidates": [{"stage": "ppo"}], "baseline": {"stage": "sft"}, "prompts": [{"input": "asks"}]}
        self.spec["stages"].append({"name": "evaluate", "evaluate": spec | fields})

    def simulate(self, **fields: Any) -> None:
        """Add a stage that simulates."""
        spec = {"model": {"input": "base"}, "prompts": [{"input": "asks"}]}
        self.spec["stages"].append({"name": "simulate", "simulate": spec | fields})

    def moderate(self, **fields: Any) -> None:
        """Add a stage that learns one label, and an input of its rows."""
        self.write(
            "flags.jsonl", [{"prompt": f"q {n}", "response": "a", "labels": {"toxic": n < 9}} for n in range(20)]
        )
        self.spec["inputs"].append({"name": "flags", "source": "flags.jsonl"})
        spec = {"model": {"input": "base"}, "data": [{"input": "flags"}], "maxLength": 64}
        self.spec["stages"].append({"name": "labels", "moderation": spec | fields})

    def refuse(self, model: str, what: str) -> None:
        """Let a model's chat template refuse, loop over or fill memory with messages that have a word."""
        path = self.folder / model / "chat_template.jinja"
        check = "{% for message in messages %}{% if 'odd' in message['content'] %}" + what + "{% endif %}{% endfor %}"
        path.write_text(check + path.read_text())

    def refuse_history(self, model: str) -> None:
        """Let a model's chat template take two questions at most."""
        path = self.folder / model / "chat_template.jinja"
        check = "{% if messages | length > 4 %}{{ raise_exception('two questions at most') }}{% endif %}"
        path.write_text(check + path.read_text())

    def write(self, name: str, content: str | bytes | list[Any]) -> None:
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def config(self, name: str, **fields: Any) -> None:
        path = self.folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    def validate(self, *options: str) -> Said:
        job = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "test"}, "spec": self.spec}
        self.write("job.yaml", dump_yaml(job))
        return rlhf("validate", self.folder / "job.yaml", "--output", "json", *options)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.tiny_policy(folder / "base")
    tiny.tiny_scorer(folder / "judge")
    tiny.tiny_scorer(folder / "stranger", words=["alpha", "beta"])
    return folder


@pytest.fixture
def case(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Its checks run in this process, which has torch already."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(input_check, "run_checks", local_check.main)
    folder = tmp_path / "job"
    shutil.copytree(models, folder)
    files = {
        "base": "base",
        "judge": "judge",
        "chat": "chat.jsonl",
        "prefs": "prefs.jsonl",
        "asks": "asks.jsonl",
        "policy": "policy.yaml",
        "ranked": "ranked.jsonl",
        "labelled": "labelled.jsonl",
    }
    stages = [
        {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "chat"}], "maxLength": 64}},
        {"name": "reward", "rewardModel": {"model": {"stage": "sft"}, "data": [{"input": "prefs"}], "maxLength": 64}},
        {"name": "cost", "costModel": {"model": {"stage": "sft"}, "data": [{"input": "prefs"}], "maxLength": 64}},
        {
            "name": "rules",
            "rules": {
                "policy": {"input": "policy"},
                "reward": {"input": "judge"},
                "grader": {"input": "base"},
                "completions": [{"input": "ranked"}],
                "gold": [{"input": "labelled"}],
            },
        },
        {
            "name": "ppo",
            "ppo": {
                "policy": {"stage": "sft"},
                "rewards": [{"stage": "reward"}, {"input": "judge"}, {"function": "gold:count"}],
                "costs": [{"stage": "cost"}],
                "prompts": [{"input": "asks"}],
                "rollout": {"maxNewTokens": 32},
            },
        },
    ]
    case = Case(
        folder, {"inputs": [{"name": name, "source": source} for name, source in files.items()], "stages": stages}
    )
    case.write("chat.jsonl", CHAT)
    case.write("prefs.jsonl", [SAFE | {"prompt": f"q {n}"} for n in range(20)])
    case.write("asks.jsonl", [{"prompt": f"q {n}"} for n in range(20)])
    case.write("policy.yaml", dump_yaml(small()))
    row = {"prompt": "q", "completion": "a", "response_type": "comply"}
    case.write("ranked.jsonl", [row | {"rank": 0}, row | {"rank": 1}])
    case.write("labelled.jsonl", [row | {"propositions": {"helps": True, "harm": False}}])
    case.write("gold.py", GOLD)
    yield case
    sys.modules.pop("gold", None)


Spoil = Callable[[Case], Any]
INPUTS = ["base", "judge", "chat", "prefs", "asks", "policy", "ranked", "labelled"]
SFT, COST, REWARD = (
    "spec.stages[0].sft.data[0]",
    "spec.stages[2].costModel.data[0]",
    "spec.stages[1].rewardModel.data[0]",
)
PROMPTS, FUNCTION = "spec.stages[4].ppo.prompts[0]", "spec.stages[4].ppo.rewards[2]"
RANKED, LABELLED = "spec.stages[3].rules.completions[0]", "spec.stages[3].rules.gold[0]"


def source(name: str) -> str:
    """Path of an input's source."""
    return f"spec.inputs[{INPUTS.index(name)}].source"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


MISTAKES: dict[str, tuple[Spoil, str, str]] = {
    "a file's name is misspelt": (lambda c: c.input("chat", source="chta.jsonl"), source("chat"), "does not exist"),
    "a model's folder is not there": (lambda c: c.input("base", source="bse"), source("base"), "does not exist"),
    "an empty file": (lambda c: c.write("chat.jsonl", ""), SFT, "holds no rows"),
    "a folder without files": (
        lambda c: ((c.folder / "void").mkdir(), c.input("chat", source="void")),
        source("chat"),
        "holds no file",
    ),
    "CSV named as JSON lines": (lambda c: c.write("chat.jsonl", "prompt,completion\nq,a\n"), SFT, "bad"),
    "a JSON file that is cut off": (
        lambda c: (c.write("chat.json", '[{"prompt": "q", '), c.input("chat", source="chat.json")),
        SFT,
        "chat.json",
    ),
    "a document instead of data": (
        lambda c: (c.write("chat.docx", b"PK\3\4"), c.input("chat", source="chat.docx")),
        SFT,
        "chat",
    ),
    "a damaged gzip file": (
        lambda c: (
            c.write("chat.jsonl.gz", gzip.compress(b'{"prompt": "q"}\n' * 99)[:-9]),
            c.input("chat", source="chat.jsonl.gz"),
        ),
        SFT,
        "chat.jsonl.gz",
    ),
    "a damaged Parquet file": (
        lambda c: (c.write("chat.parquet", b"PAR1"), c.input("chat", source="chat.parquet")),
        SFT,
        "chat.parquet",
    ),
    "a pointer of git LFS instead of data": (lambda c: c.write("chat.jsonl", LFS), SFT, "chat.jsonl:1"),
    "UTF-16": (lambda c: c.write("chat.jsonl", '{"prompt": "q", "completion": "a"}\n'.encode("utf-16")), SFT, "bad"),
    "columns of another name": (lambda c: c.write("chat.jsonl", [{"frage": "q", "antwort": "a"}]), SFT, "columns"),
    "columns maps to one that is not there": (
        lambda c: c.input("chat", columns={"prompt": "question", "completion": "answer"}),
        SFT,
        "chat (chat.jsonl:1): columns.prompt: found question, which no row has; expected one of completion, prompt",
    ),
    "columns maps to one that is misspelt": (
        lambda c: (
            c.write("chat.jsonl", [{"frage": f"q {n}", "antwort": "a"} for n in range(20)]),
            c.input("chat", columns={"prompt": "frage", "completion": "antwrt"}),
        ),
        SFT,
        "columns.completion: found antwrt, which no row has; expected one of antwort, frage (did you mean antwort?)",
    ),
    "columns maps a further column to one that is not there": (
        lambda c: c.input("asks", columns={"category": "kategorie"}),
        PROMPTS,
        "asks: columns.category: found kategorie, which no row has; expected one of prompt",
    ),
    "a format that the rows do not have": (lambda c: c.input("chat", format="preference"), SFT, "chosen"),
    "answers that are no text": (lambda c: c.write("chat.jsonl", [{"prompt": "q", "completion": 3}]), SFT, "found 3"),
    "answers instead of pairs": (lambda c: c.write("prefs.jsonl", CHAT), REWARD, "give no pairs"),
    "pairs without safety": (lambda c: c.write("prefs.jsonl", PAIRS), COST, "give no safety pairs"),
    "a safety column missing": (
        lambda c: c.write(
            "prefs.jsonl", [{k: v for k, v in SAFE.items() if k != "is_response_1_safe"} | {"prompt": "q"}] * 9
        ),
        COST,
        "is_response_1_safe",
    ),
    "rows without prompts": (lambda c: c.write("asks.jsonl", [{"text": "a"}] * 9), PROMPTS, "prompt"),
    "one prompt alone, and a holdout": (lambda c: c.write("chat.jsonl", CHAT[:1]), SFT, "Set holdout: 0"),
    "a split that is empty": (
        lambda c: (c.stage("sft")["data"][0].update(split="heldout"), c.input("chat", heldout=1e-9)),
        SFT,
        "set inputs[].heldout",
    ),
    "a link out of the folder": (
        lambda c: (
            (c.folder / "rows").mkdir(),
            (c.folder / "rows" / "chat.jsonl").symlink_to(c.folder / "chat.jsonl"),
            c.input("chat", source="rows"),
        ),
        source("chat"),
        "outside of its folder",
    ),
    "a configuration with nothing where a number belongs": (
        lambda c: c.config("base", num_attention_heads=None),
        source("base"),
        "not a readable configuration (config.json): Validation error for field 'num_attention_heads': TypeError",
    ),
    "a model without config.json": (
        lambda c: (c.folder / "base" / "config.json").unlink(),
        source("base"),
        "no config.json",
    ),
    "a model without weights": (
        lambda c: (c.folder / "base" / "model.safetensors").unlink(),
        source("base"),
        "no *.safetensors",
    ),
    "pickled weights": (
        lambda c: (c.folder / "base" / "model.safetensors").rename(c.folder / "base" / "pytorch_model.bin"),
        source("base"),
        "convert them to safetensors",
    ),
    "weights that are cut off": (
        lambda c: cut(c.folder / "base" / "model.safetensors"),
        source("base"),
        "fetch it again",
    ),
    "a pointer of git LFS instead of weights": (
        lambda c: c.write("base/model.safetensors", LFS),
        source("base"),
        "fetch it again",
    ),
    "a shard missing": (
        lambda c: c.write("base/model.safetensors.index.json", '{"weight_map": {"a": "model-2.safetensors"}}'),
        source("base"),
        "model-2.safetensors, which is not there",
    ),
    "a model without its tokenizer": (
        lambda c: [path.unlink() for path in (c.folder / "base").glob("tokenizer*")],
        source("base"),
        "tokenizer",
    ),
    "an adapter as a model": (
        lambda c: (c.folder / "base" / "config.json").rename(c.folder / "base" / "adapter_config.json"),
        source("base"),
        "LoRA adapter without its base",
    ),
    "data as a model": (lambda c: c.input("base", source="chat.jsonl"), source("base"), "no config.json"),
    "a model as data": (lambda c: c.input("chat", source="base"), SFT, "chat"),
    "a language model as a judge": (
        lambda c: c.input("judge", source="base"),
        "spec.stages[3].rules.reward",
        "expected a reward or cost model",
    ),
    "a judge as a base": (
        lambda c: c.input("base", source="judge"),
        "spec.stages[0].sft.model",
        "expected a language model",
    ),
    "a judge of another tokenizer": (
        lambda c: c.input("judge", source="stranger"),
        "spec.stages[4].ppo.rewards[1]",
        "is not the policy's",
    ),
    "an architecture that is not known": (
        lambda c: c.config("base", model_type="mine"),
        "spec.stages[0].sft.model",
        "base is a mine model",
    ),
    "rows longer than the model's positions": (
        lambda c: c.stage("sft").update(maxLength=4096),
        "spec.stages[0].sft.maxLength",
        "positions",
    ),
    "a function's module is misspelt": (
        lambda c: c.stage("ppo")["rewards"][2].update(function="golt:count"),
        FUNCTION,
        "no module 'golt'",
    ),
    "a function is misspelt": (
        lambda c: c.stage("ppo")["rewards"][2].update(function="gold:cuont"),
        FUNCTION,
        "it has count",
    ),
    "a constant instead of a function": (
        lambda c: c.stage("ppo")["rewards"][2].update(function="gold:LIMIT"),
        FUNCTION,
        "has no function 'LIMIT'",
    ),
    "a function of one argument": (
        lambda c: c.write("gold.py", "def count(rows): return []\n"),
        FUNCTION,
        "cannot be called as",
    ),
    "a function's module that does not parse": (lambda c: c.write("gold.py", "def count(:\n"), FUNCTION, "gold.py:1"),
    "a function's module that needs another": (
        lambda c: c.write("gold.py", f"import no_such_package\n{GOLD}"),
        FUNCTION,
        "cannot be imported: ModuleNotFoundError",
    ),
    "a function's module that is a script": (
        lambda c: c.write("gold.py", f"{GOLD}raise SystemExit(0)\n"),
        FUNCTION,
        "cannot be imported: SystemExit",
    ),
    "a function that fails on an empty answer": (
        lambda c: c.write("gold.py", "def count(prompts, responses): return [ord(r[0]) for r in responses]\n"),
        FUNCTION,
        "raised IndexError",
    ),
    "a function that gives one score": (
        lambda c: c.write("gold.py", "def count(prompts, responses): return 1.0\n"),
        FUNCTION,
        "expected a list of 2 numbers",
    ),
    "a label that no row names": (
        lambda c: c.moderate(labels=["toxic", "toxik"]),
        "spec.stages[5].moderation.labels[1]",
        "found toxik, which no row names; expected labels of the data: toxic",
    ),
    "a cost of a label that no row names": (
        lambda c: (c.moderate(), c.evaluate(costs=[{"stage": "labels", "labels": ["toxic", "toxik"]}])),
        "spec.stages[6].evaluate.costs[0].labels[1]",
        "the rows of labels name no label toxik (did you mean toxic?)",
    ),
    "a policy that is no YAML": (lambda c: c.write("policy.yaml", "a: [\n"), source("policy"), "policy.yaml"),
    "rows instead of a policy": (
        lambda c: c.input("policy", source="chat.jsonl"),
        source("policy"),
        "expected one policy file",
    ),
    "a policy that names what it lacks": (
        lambda c: c.write("policy.yaml", dump_yaml(small() | {"simple_propositions": {"helps": {"prompt": "?"}}})),
        source("policy"),
        "no proposition harm",
    ),
    "completions without a rank": (lambda c: c.write("ranked.jsonl", CHAT), RANKED, "rank"),
    "gold rows without labels": (
        lambda c: c.write("labelled.jsonl", [{"prompt": "q", "completion": "a", "response_type": "comply"}]),
        LABELLED,
        "found neither propositions nor rank",
    ),
    "completions of a response type that the policy lacks": (
        lambda c: c.write("ranked.jsonl", [COMPLETION | {"response_type": "shrug", "rank": 0}] * 2),
        RANKED,
        "ranked.jsonl:1: response_type: found shrug; the policy has ",
    ),
    "ranks that are all the same": (
        lambda c: c.write("ranked.jsonl", [COMPLETION | {"rank": 1}, COMPLETION | {"rank": 1}]),
        "spec.stages[3].rules.completions",
        "no two of one prompt rank apart",
    ),
    "some completions ranked and some labelled": (
        lambda c: c.write(
            "ranked.jsonl", [COMPLETION | {"rank": 1}, COMPLETION | {"propositions": {"helps": True, "harm": False}}]
        ),
        "spec.stages[3].rules.completions",
        "ranked.jsonl:2: has no rank, and ranked.jsonl:1 of the same prompt has one",
    ),
    "gold rows with a misspelt proposition": (
        lambda c: c.write("labelled.jsonl", [COMPLETION | {"propositions": {"hepls": True, "harm": False}}]),
        LABELLED,
        "labelled.jsonl:1: propositions: the policy has no hepls",
    ),
    "gold rows that do not label everything": (
        lambda c: c.write("labelled.jsonl", [COMPLETION | {"propositions": {"helps": True}}]),
        LABELLED,
        "labelled.jsonl:1: propositions: harm missing; gold rows, and features: labels, need each of them",
    ),
    "rules for prompts without a response type": (
        lambda c: c.stage("ppo").update(rules={"stage": "rules"}),
        "spec.stages[4].ppo.prompts",
        "no prompt has a response type",
    ),
    "rules for prompts of a response type that the policy lacks": (
        lambda c: (
            c.write("asks.jsonl", [{"prompt": f"q {n}", "response_type": "shrug"} for n in range(20)]),
            c.stage("ppo").update(rules={"stage": "rules"}),
        ),
        "spec.stages[4].ppo.prompts",
        "found prompts of response type shrug; the policy has ",
    ),
    "a gate on a misspelt metric": (
        lambda c: c.evaluate(gates=[{"metric": "repitition", "max": 0.1}]),
        "spec.stages[5].evaluate.gates",
        "gates[0].metric: found 'repitition'; this evaluation has ",
    ),
    "a judge of refusals for prompts that expect nothing": (
        lambda c: c.evaluate(refusal={"function": "gold:count"}),
        "spec.stages[5].evaluate.prompts",
        "found no column `expect` in any of 20 prompts; expected comply or refuse",
    ),
    "an expectation that is neither": (
        lambda c: c.write("asks.jsonl", [{"prompt": f"q {n}", "expect": "perhaps"} for n in range(20)]),
        PROMPTS,
        "asks.jsonl:1: expect: found 'perhaps', expected comply or refuse",
    ),
    "a label that the judge of refusals lacks": (
        lambda c: (
            c.write("asks.jsonl", [{"prompt": f"q {n}", "expect": "refuse"} for n in range(20)]),
            c.evaluate(refusal={"input": "judge", "labels": ["refusal"]}),
        ),
        "spec.stages[5].evaluate.refusal.labels",
        "found labels for judge, which has none; only moderation models have labels",
    ),
    "a gate on the side of refusals that no prompt is of": (
        lambda c: (
            c.write("asks.jsonl", [{"prompt": f"q {n}", "expect": "refuse"} for n in range(20)]),
            c.evaluate(refusal={"function": "gold:count"}, gates=[{"metric": "refusal.over", "max": 0.1}]),
        ),
        "spec.stages[5].evaluate.gates",
        "gates[0].metric: found 'refusal.over'; this evaluation has ",
    ),
    "completions asked for prompts without a response type": (
        lambda c: c.simulate(completions={}),
        "spec.stages[5].simulate.prompts",
        "no prompt has a response type",
    ),
    "completions asked for a response type without phrases": (
        lambda c: (
            c.write("asks.jsonl", [{"prompt": "q", "response_type": "shrug"}]),
            c.simulate(completions={}),
        ),
        "spec.stages[5].simulate.completions",
        "response type 'shrug' has 0 phrases for ",
    ),
    "simulated answers to prompts with tools": (
        lambda c: (
            c.write("asks.jsonl", [{"prompt": "q", "tools": [TOOL]}]),
            c.simulate(contextDistillation={"task": "harmlessness"}),
        ),
        "spec.stages[4].ppo.prompts[0]",
        "asks.jsonl:1: tools: the chat template (chat_template.jinja) does not write them",
    ),
    "a spreadsheet": (
        lambda c: (c.write("chat.xlsx", b"PK\3\4"), c.input("chat", source="chat.xlsx")),
        SFT,
        "found chat.xlsx; expected a file of rows: .jsonl, ",
    ),
    "a list of rows in a file of JSON lines": (
        lambda c: c.write("chat.jsonl", json.dumps(CHAT)),
        SFT,
        "chat.jsonl:1: found a list of 20, expected an object of columns (a list of rows is a .json file)",
    ),
    "a file of the shell's variables": (
        lambda c: c.input("chat", source="$DATA/chat.jsonl"),
        source("chat"),
        "does not exist",
    ),
    "a function named by its file": (
        lambda c: c.stage("ppo")["rewards"][2].update(function="gold.py:count"),
        FUNCTION,
        "no module 'gold.py' in ",
    ),
    "a hub's page as a model": (
        lambda c: c.input("base", source="https://hub.example/org/model"),
        source("base"),
        "(of a model hub: hf://org/model@main)",
    ),
    "a page that shows a file as data": (
        lambda c: c.input("chat", source="https://hub.example/datasets/org/rows/blob/v2/a.jsonl"),
        source("chat"),
        "a page that shows a file; expected the address of the file itself (of a model hub: hf://datasets/org/rows@v2)",
    ),
    "a template that was not rendered": (
        lambda c: c.input("base", source="{{ .Values.base }}"),
        source("base"),
        "render it first",
    ),
    "a configuration of another width": (
        lambda c: c.config("base", hidden_size=64),
        source("base"),
        "hidden_size: found 64; expected 32 (model.embed_tokens.weight has so many columns)",
    ),
    "a configuration of more layers": (
        lambda c: c.config("judge", num_hidden_layers=3),
        source("judge"),
        "num_hidden_layers: found 3; the weights have 2 layers",
    ),
    "a configuration of a larger vocabulary": (
        lambda c: c.config("base", vocab_size=9999),
        source("base"),
        "vocab_size: found 9999; expected ",
    ),
    "a configuration of another feed-forward layer": (
        lambda c: c.config("base", intermediate_size=7),
        source("base"),
        "intermediate_size: found 7; expected ",
    ),
    "a package's name is misspelt": (
        lambda c: c.input("chat", source="package://transformrs/rows.jsonl"),
        source("chat"),
        "no package transformrs is installed here (did you mean transformers?)",
    ),
    "a file that a package has not": (
        lambda c: c.input("chat", source="package://rlhf_trainer/daat"),
        source("chat"),
        "the package rlhf_trainer is installed here and has no daat (did you mean data?)",
    ),
    "a pointer of git LFS instead of a configuration": (
        lambda c: c.write("base/config.json", LFS),
        source("base"),
        "config.json: found a pointer of git LFS",
    ),
    "a pointer of git LFS instead of a tokenizer": (
        lambda c: c.write("base/tokenizer.json", LFS),
        source("base"),
        "tokenizer.json: found a pointer of git LFS",
    ),
    "answers longer than the model's positions": (
        lambda c: c.stage("ppo")["rollout"].update(maxNewTokens=100000),
        "spec.stages[4].ppo.rollout.maxNewTokens",
        "found 100000; base has 512 positions",
    ),
    "a dialogue with an empty turn": (
        lambda c: talks(c, [{"turns": ["q", "r"]}, {"turns": ["q", ""]}]),
        "spec.stages[5].evaluate.dialogues[0]",
        "talks.jsonl:2: turns[1]: found '', expected a text that is not empty",
    ),
    "dialogues of one turn": (
        lambda c: talks(c, [{"turns": ["q"]}]),
        "spec.stages[5].evaluate.dialogues[0]",
        "none of 1 rows can be used as dialogues:\n  talks.jsonl:1: one turn",
    ),
    "a dialogue whose history a chat template refuses": (
        lambda c: (talks(c, [{"turns": ["q", "r", "s"]}]), c.refuse_history("base")),
        "spec.stages[5].evaluate.dialogues[0]",
        "two questions at most",
    ),
    "a gate on a turn that no dialogue has": (
        lambda c: talks(c, [{"turns": ["q", "r"]}], gates=[{"metric": "dialogue.harmful.turn3", "max": 0.1}]),
        "spec.stages[5].evaluate.gates",
        "found 'dialogue.harmful.turn3'",
    ),
}


REFUSE = "{{ raise_exception('too odd') }}"
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ODD = [{"prompt": f"q {n}"} for n in range(19)] + [{"prompt": "odd"}]


def strange(case: Case) -> None:
    """An evaluation by a judge of another tokenizer, whose template refuses a prompt that the models' takes."""
    case.spec["inputs"].append({"name": "strange", "source": "stranger"})
    case.evaluate(rewards=[{"input": "strange"}])
    case.refuse("stranger", REFUSE)
    case.write("asks.jsonl", ODD)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_at_its_field_and_line(case: Case, mistake: str) -> None:
    spoil, path, words = MISTAKES[mistake]
    spoil(case)
    verdict = case.validate()
    assert verdict.code == 2
    problems = {problem["path"]: problem for problem in verdict.json["files"][0]["problems"]}
    assert path in problems, problems
    assert words in problems[path]["message"]
    assert problems[path]["line"] > 1


def compress(case: Case) -> None:
    case.write("chat.jsonl.gz", gzip.compress((case.folder / "chat.jsonl").read_bytes()))
    case.input("chat", source="chat.jsonl.gz")


def rename_columns(case: Case) -> None:
    case.write("chat.csv", "frage;x,antwort\n" + "".join(f"q {n},a\n" for n in range(20)))
    case.input("chat", source="chat.csv", columns={"prompt": "frage;x", "completion": "antwort"})


def spread(case: Case) -> None:
    (case.folder / "rows").mkdir()
    for number in range(2):
        case.write(f"rows/{number}.jsonl", CHAT[number * 10 :][:10])
    case.input("chat", source="rows")


RIGHT: dict[str, Spoil] = {
    "as it is": lambda _: None,
    "dialogues": lambda c: talks(
        c, [{"turns": ["q", "r"]}], gates=[{"metric": "dialogue.late_harm", "max": 0.1}]
    ),
    "gzip": compress,
    "columns of other names": rename_columns,
    "a folder of files": spread,
    "messages": lambda c: c.write(
        "chat.jsonl", [{"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a"}]} for n in range(9)]
    ),
    "gates on judges that training's are": lambda c: c.evaluate(
        gates=[{"metric": "harmful_rate", "max": 0.5}, {"metric": "attack.prefix.harmful_rate", "max": 0.5}], attacks=["prefix"]
    ),
    "refusals": lambda c: (
        c.write("asks.jsonl", [{"prompt": f"q {n}", "label": ("safe", "unsafe")[n % 2]} for n in range(20)]),
        c.input("asks", columns={"expect": "label"}),
        c.evaluate(refusal={"function": "gold:count"}, gates=[{"metric": "refusal.f1", "min": 0.5}]),
    ),
    "one bad row": lambda c: (
        c.write("chat.jsonl", [*CHAT, *CHAT, {"prompt": "q", "completion": 3}]),
        c.input("chat", maxBadRows=0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("right", RIGHT)
def test_a_right_job_is_taken_and_nothing_is_left_behind(case: Case, right: str) -> None:
    RIGHT[right](case)
    before = sorted(case.folder.rglob("*"))
    (verdict,) = case.validate().json["files"]
    assert (verdict["problems"], verdict["unopened"]) == ([], [])
    after = [path for path in case.folder.rglob("*") if "__pycache__" not in path.parts and path.name != "job.yaml"]
    assert sorted(after) == before


def test_what_is_elsewhere_or_large_is_said_and_the_rest_is_opened(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.input("base", source="hf://org/model@main")
    monkeypatch.setattr(local_check, "MAX_DATA", 4 << 10)
    case.write("asks.jsonl", [{"prompt": f"q {n}"} for n in range(1000)])
    (verdict,) = case.validate().json["files"]
    assert verdict["problems"] == []
    assert [line.split()[0] for line in verdict["unopened"]] == ["base", "asks"]
    case.write("prefs.jsonl", PAIRS)
    assert case.validate().code == 2


def test_without_opening_a_mistake_in_data_is_not_seen(case: Case) -> None:
    case.write("chat.jsonl", "")
    assert case.validate("--no-open").code == 0


def test_the_checks_run_in_a_process_of_their_own(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(input_check, "SECONDS", 3600)  # a busy machine is no failure
    case.spec = {
        "inputs": [entry for entry in case.spec["inputs"] if entry["name"] in ("base", "asks")],
        "stages": [
            {
                "name": "ppo",
                "ppo": {
                    "policy": {"input": "base"},
                    "rewards": [{"function": "gold:count"}],
                    "prompts": [{"input": "asks"}],
                    "rollout": {"maxNewTokens": 32},
                },
            }
        ],
    }
    case.write(
        "gold.py", "print('hello')\nimport sys\ndef count(prompts, responses): return ['rlhf_sdk' in sys.modules]\n"
    )
    verdict = case.validate()
    assert verdict.code == 2
    (problem,) = verdict.json["files"][0]["problems"]
    assert problem["path"] == "spec.stages[0].ppo.rewards[0]"
    assert "returned 1 scores for 2 answers" in problem["message"]
    assert not (case.folder / ".rlhf").exists()


def test_checks_that_do_not_end_are_given_up_and_said(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(input_check, "SECONDS", 0.1)
    case.write("gold.py", "import time\ntime.sleep(1e6)\n")
    (verdict,) = case.validate().json["files"]
    assert verdict["valid"]
    assert "took more than" in verdict["unopened"][0]


def problems_of(case: Case) -> dict[str, str]:
    """Messages by path."""
    return {problem["path"]: problem["message"] for problem in case.validate().json["files"][0]["problems"]}


def test_a_row_that_a_judge_of_another_tokenizer_refuses_is_a_bad_row(case: Case) -> None:
    strange(case)
    message = problems_of(case)["spec.stages[5].evaluate.prompts[0]"]
    assert "1 of 20 rows are bad" in message
    assert "asks.jsonl:20: " in message
    assert "too odd" in message
    assert "(model: strange)" in message
    case.input("asks", maxBadRows=0.05)
    assert problems_of(case) == {}


def test_a_judge_that_takes_the_ids_of_all_models_reads_no_text(case: Case) -> None:
    case.evaluate(rewards=[{"input": "judge"}])
    case.refuse("judge", REFUSE)
    case.write("asks.jsonl", ODD)
    assert problems_of(case) == {}


def test_a_template_that_is_slow_for_a_row_is_told_by_file_row_and_model(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited, "ROW", 0.3)
    case.refuse("base", LOOPS)
    case.write("chat.jsonl", [*CHAT, {"prompt": "odd", "completion": "a"}])
    message = problems_of(case)["spec.stages[0].sft.data[0]"]
    assert "chat.jsonl:21: the chat template takes more than" in message
    assert "(model: base)" in message
    monkeypatch.setattr(limited, "ALL", 0.2)
    monkeypatch.setattr(limited, "TURN", 0.0)
    case.input("chat", maxBadRows=0.5)
    message = problems_of(case)["spec.stages[0].sft.data[0]"]
    assert "the chat template of base takes too long" in message
    assert "for chat.jsonl:21 alone" in message


def test_beyond_so_many_rows_templates_are_left_to_prepare_which_is_said(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_check, "TEMPLATED", 5)
    case.refuse("base", REFUSE)
    case.write("chat.jsonl", [*CHAT, {"prompt": "odd", "completion": "a"}])
    (verdict,) = case.validate().json["files"]
    assert verdict["problems"] == []
    assert (
        "chat: chat templates wrote 5 of 21 rows (stage sft, sft.data[0]); prepare has them write all"
        in verdict["unopened"]
    )
    case.write("chat.jsonl", [{"prompt": "odd", "completion": "a"}, *CHAT])
    assert "too odd" in problems_of(case)["spec.stages[0].sft.data[0]"]


@pytest.mark.parametrize(
    ("prompts", "warned"), [(1, {"ppo", "evaluate"}), (11, {"ppo", "evaluate"}), (12, {"ppo"}), (32, set())]
)
def test_few_prompts_are_a_warning(case: Case, prompts: int, warned: set[str]) -> None:
    case.evaluate()
    case.write("asks.jsonl", [{"prompt": f"q {n}"} for n in range(prompts)] * 3)
    (verdict,) = case.validate().json["files"]
    assert verdict["valid"]
    few = [warning for warning in verdict["warnings"] if f"found {prompts} different prompts" in warning]
    assert {warning.partition(",")[0].removeprefix("stage ") for warning in few} == warned


def test_prompts_that_evaluate_although_training_reads_them_are_a_warning(case: Case) -> None:
    twin, apart = "Which river of this country is the longest?", "What do birds eat in the winter?"
    case.write("chat.jsonl", [{"prompt": twin, "completion": "a"}, *CHAT])
    case.write("fresh.jsonl", [{"prompt": twin.upper()}, {"prompt": twin[:-1]}, {"prompt": apart}])
    case.spec["inputs"].append({"name": "fresh", "source": "fresh.jsonl"})
    case.evaluate(prompts=[{"input": "fresh"}])
    (verdict,) = case.validate().json["files"]
    assert verdict["valid"]
    (warning,) = [warning for warning in verdict["warnings"] if "nearly" in warning]
    assert warning.startswith(
        "stage evaluate, evaluate.prompts[0]: 2 of 3 different prompts of evaluate (input fresh) are, or nearly are, prompts "
        "that sft (2) read: 1 the same but for case and spacing, 1 with a likeness of at least 0.8"
    )
    case.write("fresh.jsonl", [{"prompt": apart}])
    (verdict,) = case.validate().json["files"]
    assert not [warning for warning in verdict["warnings"] if "nearly" in warning]
