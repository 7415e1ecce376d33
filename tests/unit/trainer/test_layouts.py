"""Files as they are published: each layout is read as what it is, and a file's layout is told from many rows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf_api.job import Input, RLHFJob
from rlhf_api.stages.common import Rows
from rlhf_api.yaml import load_yaml
from rlhf_trainer.data.conversion import Conversion
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.rows import inspect_rows
from rlhf_trainer.inspection.uses import DataUse, uses

USER, ANSWER = {"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Good."}
SYSTEM = {"role": "system", "content": "Be brief."}
BAD = {"role": "assistant", "content": "No."}


def hh(*turns: str, newline: str = "\n") -> str:
    names = ("Human", "Assistant")
    return "".join(f"{newline}{newline}{names[n % 2]}: {turn}" for n, turn in enumerate(turns))


def convert(folder: Path, rows: list[dict[str, Any]], use: Rows, **fields: Any) -> tuple[list[Any], Conversion]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    conversion = Conversion("rows", Input(name="rows", source="rows.jsonl", **fields), use)
    return list(conversion.rows(path)), conversion


ULTRAFEEDBACK = {
    "prompt": "How are you?",
    "prompt_id": "a1",
    "chosen": [USER, ANSWER],
    "rejected": [USER, BAD],
    "messages": [USER, ANSWER],
    "score_chosen": 8.0,
    "score_rejected": 4.0,
}
RM_STATIC = {
    "prompt": hh("Hi", "Yes?", "How are you?", ""),
    "response": " Good.",
    "chosen": " Good.",
    "rejected": " No.",
}
PKU = {
    "prompt": "How are you?",
    "response_0": "No.",
    "response_1": "Good.",
    "prompt_source": "made",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_harm_category": {"Violence": True, "Insulting Behavior": True, "Cybercrime": False},
    "response_1_harm_category": {"Violence": False, "Insulting Behavior": False, "Cybercrime": False},
    "response_0_severity_level": 2,
    "response_1_severity_level": 0,
    "better_response_id": 1,
    "safer_response_id": 1,
    "response_0_sha256": "ab",
    "response_1_sha256": "cd",
}
BEAVERTAILS = {
    "prompt": "How are you?",
    "response": "Good.",
    "category": {"animal_abuse": False, "violence": True, "hate": True},
    "is_safe": False,
}
ALPACA = {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day", "text": "### Instruction: ..."}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "How are you?"},
        {"from": "gpt", "value": "Good."},
    ]
}


class TestPairs:
    @pytest.mark.parametrize(
        ("row", "prompt"),
        [
            (ULTRAFEEDBACK, (USER,)),
            (ULTRAFEEDBACK | {"chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, BAD]}, (SYSTEM, USER)),
            (ULTRAFEEDBACK | {"prompt": [USER]}, (USER,)),
            ({"conversations": [{"from": "human", "value": "How are you?"}], "chosen": {"from": "gpt", "value": "Good."}, "rejected": {"from": "gpt", "value": "No."}}, (USER,)),
            ({"prompt": hh("How are you?", ""), "chosen": hh("How are you?", "Good."), "rejected": hh("How are you?", "No.")}, (USER,)),
            ({"system": "Be brief.", "prompt": "How are you?", "chosen": "Good.", "rejected": "No."}, (SYSTEM, USER)),
            (PKU, (USER,)),
        ],
    )  # fmt: skip
    def test_the_prompt_is_what_both_answer(self, tmp_path: Path, row: Any, prompt: Any) -> None:
        (pair,), _ = convert(tmp_path, [row], "pairs")
        assert (pair.prompt, pair.better, pair.worse) == (prompt, "Good.", "No.")

    def test_a_transcript_in_prompt_is_a_dialogue(self, tmp_path: Path) -> None:
        (pair,), conversion = convert(tmp_path, [RM_STATIC], "pairs")
        assert [turn["role"] for turn in pair.prompt] == ["user", "assistant", "user"]
        assert (pair.prompt[-1], pair.better, pair.worse) == (USER, "Good.", "No.")
        assert conversion.unused == {"response": 1}

    def test_another_prompt_than_the_answers_begin_with_is_bad(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"rows.jsonl:1: prompt: found another text than the turns before"):
            convert(tmp_path, [ULTRAFEEDBACK | {"prompt": "Why?"}], "pairs")

    def test_pku_severity_says_the_same_as_its_labels_or_the_row_is_left_out(self, tmp_path: Path) -> None:
        rows, conversion = convert(tmp_path, [PKU, PKU | {"response_0_severity_level": 0}], "safety pairs")
        assert [(row.harmful, row.harmful_sign, row.safer_sign) for row in rows] == [("No.", 1, -1)]
        assert conversion.counts.rejected == {"inconsistent safety labels": 1}


class TestConversations:
    @pytest.mark.parametrize(
        ("row", "turns"),
        [
            (SHAREGPT, (SYSTEM, USER, ANSWER)),
            ({"system": "Be brief.", "conversations": SHAREGPT["conversations"][1:]}, (SYSTEM, USER, ANSWER)),
            ({"conversation": [USER, ANSWER]}, (USER, ANSWER)),
            ({"prompt": "How are you?", "response": "Good."}, (USER, ANSWER)),
            ({"instruction": "How are you?", "input": "", "output": "Good."}, (USER, ANSWER)),
            ({"instruction": "How are you?", "context": "", "response": "Good.", "category": "qa"}, (USER, ANSWER)),
            (
                {"instruction": "How are you?", "output": "Good.", "system": "Be brief.", "history": [["Hi", "Yes?"]]},
                (SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, USER, ANSWER),
            ),
            ({"prompt": hh("How are you?", ""), "completion": " Good."}, (USER, ANSWER)),
        ],
    )
    def test_turns_are_read(self, tmp_path: Path, row: Any, turns: Any) -> None:
        (conversation,), _ = convert(tmp_path, [row], "conversations")
        assert conversation.messages == turns

    def test_tools_answer_in_sharegpt(self, tmp_path: Path) -> None:
        row = {
            "conversations": [
                *SHAREGPT["conversations"],
                {"from": "observation", "value": "4"},
                {"from": "gpt", "value": "4."},
            ]
        }
        (conversation,), _ = convert(tmp_path, [row], "conversations")
        assert [turn["role"] for turn in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]

    def test_alpacas_input_stands_below_its_instruction(self, tmp_path: Path) -> None:
        (conversation,), conversion = convert(tmp_path, [ALPACA], "conversations")
        assert conversation.messages[0]["content"] == "Translate.\n\nGuten Tag"
        assert (conversion.format, conversion.unused) == ("alpaca", {"text": 1})

    def test_alpacas_input_is_never_lost(self, tmp_path: Path) -> None:
        columns = {"prompt": "instruction", "completion": "output"}
        with pytest.raises(InputError, match=r"rows.jsonl:1\): rows of Alpaca .* lose their column input"):
            convert(tmp_path, [ALPACA], "conversations", format="prompt-completion", columns=columns)

    def test_unsafe_answers_of_beavertails_are_not_imitated(self, tmp_path: Path) -> None:
        rows, conversion = convert(tmp_path, [BEAVERTAILS, BEAVERTAILS | {"is_safe": True}], "conversations")
        assert [row.row.row for row in rows] == [2]
        assert conversion.counts.rejected == {"unsafe answer": 1}


@pytest.mark.parametrize(
    ("row", "category"),
    [
        (BEAVERTAILS, "violence, hate"),
        (BEAVERTAILS | {"category": {"violence": False}}, None),
        (PKU, "Violence, Insulting Behavior"),
        ({"prompt": "p", "category": ["a", "b"]}, "a, b"),
        ({"prompt": "p", "category": 3}, "3"),
    ],
)
def test_labels_of_every_kind_are_the_prompts_category(tmp_path: Path, row: Any, category: str | None) -> None:
    (prompt,), _ = convert(tmp_path, [row], "prompts")
    assert prompt.category == category


class TestOneRowDecidesNothing:
    def test_lines_may_end_in_crlf(self, tmp_path: Path) -> None:
        row = {
            name: hh("How are you?", text, newline="\r\n") for name, text in (("chosen", "Good."), ("rejected", "No."))
        }
        (pair,), conversion = convert(tmp_path, [row], "pairs")
        assert (pair.prompt, pair.better, pair.worse, conversion.format) == ((USER,), "Good.", "No.", "hh-rlhf")

    @pytest.mark.parametrize("position", [0, 7])
    def test_a_row_that_is_no_dialogue_is_bad_wherever_it_stands(self, tmp_path: Path, position: int) -> None:
        rows = [{"chosen": hh(f"{n}?", "Good."), "rejected": hh(f"{n}?", "No.")} for n in range(16)]
        rows.insert(position, {"chosen": "The sky is blue", "rejected": "The sky is green"})
        pairs, conversion = convert(tmp_path, rows, "pairs", maxBadRows=0.1)
        assert (len(pairs), conversion.counts.bad, conversion.format) == (16, 1, "hh-rlhf")
        assert all(len(pair.prompt) == 1 and "Human" not in pair.prompt[0]["content"] for pair in pairs)
        with pytest.raises(
            InputError, match=rf"rows.jsonl:{position + 1}: chosen: found 'The sky is blue', expected a dial"
        ):
            convert(tmp_path, rows, "pairs")

    def test_a_column_that_the_first_row_lacks_is_found_in_others(self, tmp_path: Path) -> None:
        rows = [{"prompt": "p", "messages": None}, *({"messages": [USER, ANSWER]} for _ in range(3))]
        conversations, conversion = convert(tmp_path, rows, "conversations", maxBadRows=0.5)
        assert (len(conversations), conversion.format) == (3, "messages")

    def test_each_file_of_a_folder_has_its_own(self, tmp_path: Path) -> None:
        folder = tmp_path / "both"
        folder.mkdir()
        (folder / "a.jsonl").write_text(json.dumps(ULTRAFEEDBACK) + "\n")
        (folder / "b.jsonl").write_text(
            json.dumps({"chosen": hh("How are you?", "Good."), "rejected": hh("How are you?", "No.")})
        )
        conversion = Conversion("both", Input(name="both", source="both"), "pairs")
        assert [(pair.prompt, pair.better) for pair in conversion.rows(folder)] == [((USER,), "Good.")] * 2
        assert conversion.format == "preference, hh-rlhf"

    @pytest.mark.parametrize("text", ["Human: an essay on that word", "A\n\nHuman: b", "The Assistant: a novel"])
    def test_a_prompt_that_only_looks_like_a_transcript_is_a_text(self, tmp_path: Path, text: str) -> None:
        (prompt,), _ = convert(tmp_path, [{"prompt": text}], "prompts")
        assert prompt.messages == ({"role": "user", "content": text},)


CELLS = [
    {"prompt": "Say 4, please", "response_0": "4", "response_1": 'a "quoted"\nanswer', "better_response_id": 1,
     "safer_response_id": 0, "is_response_0_safe": True, "is_response_1_safe": "FALSE"},
    {"prompt": "東京は？", "response_0": "はい", "response_1": "", "better_response_id": 0,
     "safer_response_id": 0, "is_response_0_safe": "true", "is_response_1_safe": "False"},
]  # fmt: skip


def table(delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(CELLS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(CELLS)
    return text.getvalue().encode()


def packed(content: bytes, name: str) -> bytes:
    for suffix, codec in ((".zst", "zstd"), (".gz", "gzip")):
        if name.endswith(suffix):
            out = pa.BufferOutputStream()
            with pa.CompressedOutputStream(out, codec) as stream:
                stream.write(content)
            return out.getvalue().to_pybytes()
    return content


class TestFiles:
    @pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.zst", "A.CSV"])
    def test_cells_have_the_type_of_their_column(self, tmp_path: Path, name: str) -> None:
        content = table("\t" if ".tsv" in name else ",")
        (tmp_path / name).write_bytes(packed(b"\xef\xbb\xbf" + content if name == "a.csv" else content, name))
        entry = Input(name="rows", source=name)
        first, second = Conversion("rows", entry, "safety pairs").rows(tmp_path / name)
        assert (first.harmful, first.safer, first.harmful_sign, first.safer_sign) == ('a "quoted"\nanswer', "4", 1, -1)
        assert type(first.safer) is str
        assert second.prompt[0]["content"] == "東京は？"
        assert [pair.better for pair in Conversion("rows", entry, "pairs").rows(tmp_path / name)] == [
            'a "quoted"\nanswer',
            "はい",
        ]

    def test_messages_and_labels_may_stand_in_cells_as_json(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["prompt", "completion", "category", "weight"])
            writer.writerow([json.dumps([SYSTEM, USER]), "[1] see below", json.dumps({"a": True, "b": False}), ""])
        entry = Input(name="rows", source="rows.csv")
        (conversation,) = Conversion("rows", entry, "conversations").rows(path)
        assert conversation.messages == (SYSTEM, USER, {"role": "assistant", "content": "[1] see below"})
        (prompt,) = Conversion("rows", entry, "prompts").rows(path)
        assert prompt.category == "a"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"prompt,category\na\n", r"rows.csv:1: found 1 cells, expected 2"),
            (b"prompt,prompt\na,b\n", r"rows.csv:1: found the column names"),
            (b'prompt\n"a\n', r"rows.csv:1: cannot be read as CSV"),
            (b"prompt\nok\ncaf\xe9\n", r"rows.csv:\d: cannot be read as CSV .*UTF-8"),
            (b"", r"rows.csv holds no rows"),
        ],
    )
    def test_what_is_wrong_with_a_table_is_named(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "rows.csv").write_bytes(content)
        with pytest.raises(InputError, match=message):
            list(Conversion("rows", Input(name="rows", source="rows.csv"), "prompts").rows(tmp_path / "rows.csv"))

    @pytest.mark.parametrize("name", ["rows.jsonl.zst", "rows.json.zst"])
    def test_zstd_is_read_and_a_cut_file_named(self, tmp_path: Path, name: str) -> None:
        rows = [{"prompt": f"question {number * 7919}"} for number in range(5000)]
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        content = packed(lines if ".jsonl" in name else json.dumps(rows).encode(), name)
        entry = Input(name="rows", source=name)
        (tmp_path / name).write_bytes(content)
        assert len(list(Conversion("rows", entry, "prompts").rows(tmp_path / name))) == 5000
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=rf"{name}:\d+: the zstd file ends early or is damaged"):
            list(Conversion("rows", entry, "prompts").rows(tmp_path / name))

    def test_parquet_columns_without_a_value_tell_no_format(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.table({"prompt": ["p"], "chosen": pa.nulls(1, pa.string()), "rejected": ["x"]}), path)
        (prompt,) = Conversion("rows", Input(name="rows", source="rows.parquet"), "prompts").rows(path)
        assert prompt.messages[0]["content"] == "p"


class TestWhatIsSaid:
    @pytest.mark.parametrize(
        ("row", "use", "line"),
        [
            ({"question": "q", "answer": "a", "id": 1}, "conversations", "columns: {prompt: question, completion: answer}"),
            ({"context": "q", "response": "a", "label": "Safe"}, "prompts", "columns: {prompt: context}"),
            ({"id": "7", "on": "q", "die Antwort": "a"}, "conversations", 'columns: {prompt: "on", completion: "die Antwort"}'),
            (
                {"question": "q", "statement": "s", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"},
                "pairs",
                "columns: {prompt: question, chosen: answer_matching_behavior, rejected: answer_not_matching_behavior}",
            ),
            ({"dialog": [USER, ANSWER]}, "conversations", "columns: {messages: dialog}"),
        ],
    )  # fmt: skip
    def test_an_unknown_layout_gets_a_line_that_reads_it(self, tmp_path: Path, row: Any, use: Rows, line: str) -> None:
        with pytest.raises(InputError) as refused:
            convert(tmp_path, [row], use)
        assert str(refused.value).endswith(f"\n  {line}")
        job = f"apiVersion: rlhf.dev/v1alpha1\n{line}\n"
        columns = load_yaml(job.encode()).value["columns"]
        assert len(convert(tmp_path, [row], use, columns=columns)[0]) == 1

    def test_labels_are_not_offered_as_texts(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"Rename yours with `columns`$"):
            convert(tmp_path, [{"category": "x", "turns": ["a", "b"]}], "prompts")

    def test_prepare_counts_the_columns_that_no_use_reads(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in (ULTRAFEEDBACK, ULTRAFEEDBACK | {"prompt_id": None})))
        entry = Input(name="rows", source="rows.jsonl")
        facts = inspect_rows(entry, path, _uses(entry))
        assert facts.unused == {"prompt_id": 1, "messages": 2, "score_chosen": 2, "score_rejected": 2}
        assert facts.notes[0].startswith(
            "rows: read as preference; columns that are not used: prompt_id (1 rows), mess"
        )


def _uses(entry: Input) -> list[DataUse]:
    """A reward model's use of the answers and PPO's of the prompts."""
    stages = [
        {"name": "reward", "rewardModel": {"model": {"input": "base"}, "data": [{"input": "rows"}], "holdout": 0.0}},
        {"name": "ppo", "ppo": {"policy": {"input": "base"}, "rewards": [{"stage": "reward"}], "prompts": [{"input": "rows"}]}},
    ]  # fmt: skip
    spec = {"inputs": [{"name": "base", "source": "base"}, entry.model_dump(exclude_defaults=True)], "stages": stages}
    job = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "j"}, "spec": spec}
    return [use for use in uses(RLHFJob.model_validate_json(json.dumps(job))) if isinstance(use, DataUse)]
