"""What prepare says of the texts of rows: measures, and prompts that evaluate although training reads them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fakes.policies import DATA, public
from rlhf_api.job import RLHFJob
from rlhf_api.load import parse_job
from rlhf_trainer.data.rows import Completion, Conversation, Message, Pair, Prompt, Where
from rlhf_trainer.inspection import overlap, quality
from rlhf_trainer.inspection.overlap import Evaluated, Twins
from rlhf_trainer.inspection.probes import Probes, probe
from rlhf_trainer.inspection.quality import Quality
from rlhf_trainer.inspection.texts import TextSample, answers, prompts

ROW = Where("rows.jsonl", 1)
FIRE = "How do I light a fire in the rain without any matches?"
NEARLY = "how do i light a fire in the rain without any matches"
RIVER = "What is the longest river that flows through three countries?"


def turn(role: str, content: str, **fields: Any) -> Message:
    return Message(role=role, content=content, **fields)


USER, ANSWER = turn("user", "Hi"), turn("assistant", "Hello.")


def job(stages: list[dict[str, Any]], **inputs: dict[str, Any]) -> RLHFJob:
    entries = [{"name": name, "source": name, **fields} for name, fields in inputs.items()]
    spec = {"inputs": [{"name": "base", "source": "base"}, *entries], "stages": stages}
    return parse_job({"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "test"}, "spec": spec})


def sft(*data: dict[str, Any]) -> dict[str, Any]:
    return {"name": "sft", "sft": {"model": {"input": "base"}, "data": list(data)}}


def judge(*refs: dict[str, Any]) -> dict[str, Any]:
    evaluate = {
        "candidates": [{"stage": "sft"}],
        "baseline": {"input": "base"},
        "prompts": list(refs),
        "rewards": [{"function": "gold:score"}],
    }
    return {"name": "judge", "evaluate": evaluate}


def probed(folder: Path, parsed: RLHFJob, measure: bool = False, **rows: list[dict[str, Any]]) -> Probes:
    for name, listed in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    return probe(parsed, {name: folder / f"{name}.jsonl" for name in rows}, measure=measure)


def prompt_rows(*contents: str) -> list[dict[str, Any]]:
    return [{"prompt": content} for content in contents]


def chat_rows(*contents: str) -> list[dict[str, Any]]:
    return [{"prompt": content, "completion": "yes"} for content in contents]


class TestTexts:
    def test_a_dialogue_has_a_prompt_before_each_answer_that_is_learned(self) -> None:
        turns = (turn("system", "Be kind."), USER, ANSWER, turn("user", "Why?"), turn("assistant", "So."))
        dialogue = Conversation(turns, ROW)
        assert prompts(dialogue) == ["Hi", "Hi\nHello.\nWhy?"]
        assert answers(dialogue) == ["Hello.", "So."]
        assert prompts(Conversation(turns, ROW, prompt_turns=4)) == ["Hi\nHello.\nWhy?"]
        unlearned = Conversation((USER, turn("assistant", "No.", learned=False)), ROW)
        assert prompts(unlearned) == answers(unlearned) == []

    def test_each_kind_of_row_has_its_prompt_and_answers(self) -> None:
        pair = Pair((USER,), "a", "b", ROW)
        assert (prompts(pair), answers(pair)) == (["Hi"], ["a", "b"])
        completion = Completion((USER,), "a", "comply", ROW)
        assert (prompts(completion), answers(completion)) == (["Hi"], ["a"])
        prompt = Prompt((USER,), None, ROW)
        assert (prompts(prompt), answers(prompt)) == (["Hi"], [])

    def test_a_sample_is_the_same_in_every_order(self) -> None:
        samples = []
        for step in (1, -1):
            sample = TextSample(10)
            for number in range(200)[::step]:
                sample.add(str(number % 100))
            samples.append(sample.texts)
            assert (len(sample), sample.different, sample.repeated) == (200, 100, 1.0)
        assert samples[0] == samples[1] and len(set(samples[0])) == 10

    def test_a_sample_of_few_texts_is_all_of_them(self) -> None:
        sample = TextSample(10)
        for text in ("a", "b", "b", "\ud800"):
            sample.add(text)
        assert sorted(sample.texts) == ["a", "b", "\ud800"] and sample.repeated == 0.5
        assert TextSample(10).repeated is None and TextSample(10).texts == []


class TestQuality:
    def test_rows_are_measured(self) -> None:
        measured = Quality()
        for prompt, better, worse in (("Hi", "a b c d", "a b c d"), ("hi ", "x " * 20, "y"), ("Why?", "", "z")):
            measured.add(Pair((turn("user", prompt),), better, worse, ROW))
        values = measured.as_dict()
        assert (values["rows"], values["answers"], values["sampled"]) == (3, 6, 5)
        assert values["repeatedPrompts"] == pytest.approx(2 / 3)
        assert values["repeatedAnswers"] == pytest.approx(2 / 6)
        assert values["answerLength"] == {"mean": pytest.approx((7 + 7 + 40 + 1 + 0 + 1) / 6), "median": 4.0}
        assert values["repetitive"] == 1 / 5
        assert values["distinct2"] == pytest.approx(4 / 22)

    def test_prompts_have_no_answers_to_measure(self) -> None:
        measured = Quality()
        measured.add(Prompt((USER,), None, ROW))
        values = measured.as_dict()
        assert values["rows"] == 1 and values["promptLength"] == {"mean": 2, "median": 2}
        for name in ("answerLength", "repeatedAnswers", "distinct2", "repetitive"):
            assert values[name] is None

    def test_nothing_is_measured_as_nothing(self) -> None:
        values = Quality().as_dict()
        assert values["rows"] == 0 and values["repeatedPrompts"] is None and values["promptLength"] is None

    def test_words_are_of_a_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quality, "SAMPLE", 5)
        measured = Quality()
        for number in range(50):
            measured.add(Completion((USER,), f"answer {number}", "comply", ROW))
        assert measured.as_dict()["sampled"] == 5 and measured.as_dict()["answers"] == 50


class TestProbe:
    def test_twins_are_counted_by_the_stage_that_reads_them(self, tmp_path: Path) -> None:
        reward = {"rewardModel": {"model": {"stage": "sft"}, "data": [{"input": "pairs"}]}}
        stages = [sft({"input": "chat"}), {"name": "reward", **reward}, judge({"input": "heldout"})]
        pairs = [{"prompt": RIVER, "chosen": "yes", "rejected": "no"}]
        evidence = probed(
            tmp_path,
            job(stages, chat={}, pairs={}, heldout={}),
            chat=chat_rows(FIRE.upper(), RIVER, "Something else that nobody evaluates."),
            pairs=pairs,
            heldout=prompt_rows(NEARLY, RIVER, "Why is the sky blue in the morning?", "", RIVER),
        )
        (twins,) = evidence.twins["heldout"]
        assert (twins["different"], twins["compared"], twins["exact"], twins["near"]) == (3, 3, 1, 1)
        assert twins["stages"] == {"sft": 2, "reward": 1}
        near, exact = twins["examples"]
        assert near["twin"] == FIRE.lower() and near["likeness"] == pytest.approx(0.98, abs=0.01)
        assert (near["stages"], exact["stages"]) == (["sft"], ["sft", "reward"])
        assert twins["text"].startswith(
            "2 of 3 different prompts of judge (input heldout) are, or nearly are, prompts that sft (2) and reward (1) read: "
            "1 the same but for case and spacing, 1 with a likeness of at least 0.8"
        )
        assert evidence.quality == {}

    def test_that_there_are_none_is_said(self, tmp_path: Path) -> None:
        stages = [sft({"input": "chat"}), judge({"input": "heldout"})]
        parsed = job(stages, chat={}, heldout={})
        (twins,) = probed(tmp_path, parsed, chat=chat_rows(FIRE), heldout=prompt_rows(RIVER)).twins["heldout"]
        assert (twins["exact"], twins["near"], twins["examples"], twins["stages"]) == (0, 0, [], {"sft": 0})
        assert twins["text"] == (
            "None of 1 different prompts of judge (input heldout) is, or nearly is, a prompt that sft read."
        )

    def test_rows_that_only_judge_a_scorer_are_evaluated_too(self, tmp_path: Path) -> None:
        reward = {"model": {"input": "base"}, "data": [{"input": "pairs"}], "test": [{"input": "fresh"}]}
        parsed = job([{"name": "reward", "rewardModel": reward}], pairs={}, fresh={})
        pair = {"prompt": FIRE, "chosen": "yes", "rejected": "no"}
        (twins,) = probed(tmp_path, parsed, pairs=[pair], fresh=[pair, pair | {"prompt": RIVER}]).twins["fresh"]
        assert (twins["where"], twins["exact"]) == ("stage reward, rewardModel.test[0]", 1)

    def test_splits_and_limits_are_those_that_the_stages_get(self, tmp_path: Path) -> None:
        rows = chat_rows(*(f"{number} {RIVER[number:]}{'abcdefgh'[number] * 40}" for number in range(8)))
        train, heldout = {"input": "chat", "split": "train"}, {"input": "chat", "split": "heldout"}
        apart = job([sft(train), judge(heldout)], chat={"heldout": 0.5})
        (twins,) = probed(tmp_path, apart, chat=rows).twins["chat"]
        assert twins["exact"] == 0 and 0 < twins["compared"] < 8
        first = job([sft({"input": "chat", "limit": 3}), judge({"input": "chat"})], chat={})
        (twins,) = probed(tmp_path, first, chat=rows).twins["chat"]
        assert (twins["exact"], twins["compared"]) == (3, 8)

    def test_rows_that_are_not_there_are_not_compared(self, tmp_path: Path) -> None:
        parsed = job([sft({"input": "chat"}), judge({"input": "heldout"})], chat={}, heldout={})
        assert probed(tmp_path, parsed, heldout=prompt_rows(FIRE)).twins == {}
        assert probed(tmp_path, job([sft({"input": "chat"})], chat={}), chat=chat_rows(FIRE)).twins == {}

    def test_the_rows_of_each_use_are_measured_once(self, tmp_path: Path) -> None:
        again = sft({"input": "chat"}) | {"name": "again"}
        parsed = job([sft({"input": "chat"}), again, judge({"input": "heldout"})], chat={}, heldout={})
        measured = probed(tmp_path, parsed, True, chat=chat_rows(FIRE, RIVER), heldout=prompt_rows(RIVER)).quality
        (chat,), (heldout,) = measured["chat"], measured["heldout"]
        assert chat["uses"] == ["stage sft, sft.data[0]", "stage again, sft.data[0]"]
        assert (chat["rows"], chat["answers"], heldout["rows"], heldout["answers"]) == (2, 2, 1, 0)

    def test_of_many_prompts_a_sample_is_compared_and_said_to_be_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overlap, "COMPARED", 5)
        evaluated = Evaluated("heldout", "stage judge, evaluate.prompts[0]")
        listed = [f"{number} {RIVER} {number}" for number in range(20)]
        for prompt in listed:
            evaluated.add(prompt)
        twins = Twins([evaluated])
        twins.look_up(["sft"], iter(listed))
        (entry,) = twins.overlaps()
        assert (entry["different"], entry["compared"], entry["exact"]) == (20, 5, 5)
        assert "5 of 5 different prompts of judge (input heldout), a sample of 20, are" in entry["text"]

    def test_counts_do_not_depend_on_order_or_portions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = random.Random(0)
        listed = ["".join(rng.choices("abcdefgh ", k=60)) for _ in range(10)]
        entries = []
        for order, most in ((1, 2048), (-1, 3)):
            monkeypatch.setattr(overlap, "TEXTS", most)
            evaluated = Evaluated("heldout", "stage judge, evaluate.prompts[0]")
            for prompt in listed[:8][::order]:
                evaluated.add(prompt)
            twins = Twins([evaluated])
            twins.look_up(["sft"], iter([*listed[5:], *(f"{prompt}!" for prompt in listed[:3])][::order]))
            entries.append(twins.overlaps())
        assert entries[0] == entries[1] and (entries[0][0]["exact"], entries[0][0]["near"]) == (3, 3)

    def test_a_text_that_is_evaluated_may_be_the_twin_of_another(self) -> None:
        evaluated = Evaluated("heldout", "stage judge, evaluate.prompts[0]")
        for prompt in (FIRE, NEARLY):
            evaluated.add(prompt)
        twins = Twins([evaluated])
        twins.look_up(["sft"], iter([FIRE]))
        (entry,) = twins.overlaps()
        assert (entry["exact"], entry["near"]) == (1, 1)

    def test_very_long_and_unicode_prompts_are_compared(self) -> None:
        evaluated = Evaluated("heldout", "stage judge, evaluate.prompts[0]")
        long = " ".join(str(number * number) for number in range(20_000))
        chinese = "请告诉我如何在下雨的时候不用火柴点燃篝火"
        for prompt in (long, chinese, "🔥" * 300):
            evaluated.add(prompt)
        twins = Twins([evaluated])
        twins.look_up(["sft"], iter([long + " and more", chinese + "。", "no", ""]))
        (entry,) = twins.overlaps()
        assert (entry["compared"], entry["exact"], entry["near"]) == (3, 0, 2)
        assert max(len(example["prompt"]) for example in entry["examples"]) <= overlap.SHOWN + 2


@public
class TestPublicData:
    def probe(self, training: str, evaluated: str, columns: dict[str, str]) -> dict[str, Any]:
        stages = [sft({"input": "chat"}), judge({"input": "heldout"})]
        parsed = job(stages, chat={"columns": columns}, heldout={"columns": columns})
        inputs = {"chat": DATA / training, "heldout": DATA / evaluated}
        (twins,) = probe(parsed, inputs, measure=False).twins["heldout"]
        return twins

    def test_two_fifths_of_the_contexts_of_diasafetys_test_are_in_its_training_rows(self) -> None:
        columns = {"prompt": "context", "completion": "response"}
        twins = self.probe("diasafety_train.jsonl.gz", "diasafety_test_a.jsonl.gz", columns)
        assert (twins["compared"], twins["exact"], twins["near"]) == (532, 202, 13)

    def test_xstest_and_hh_have_nearly_nothing_in_common(self) -> None:
        twins = self.probe("hh_harmless_1500.jsonl.gz", "xstest_prompts.jsonl.gz", {})
        assert (twins["compared"], twins["exact"] + twins["near"]) == (450, 1)
