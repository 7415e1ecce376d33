"""The simulate stage on tiny models: every method's rows, where they come from, and that a restart loses and repeats none."""

import json

import pytest
from stage_gang import Case, alone
from tiny import tiny_policy

PROMPTS = 70  # two shards
METHODS = {
    "rlcd": {"task": "harmlessness"},
    "rlaif": {},
    "rlcdRescore": {"task": "outlines"},
    "contextDistillation": {"task": "helpfulness"},
    "completions": {},
    "redTeam": {"target": {"stage": "target"}, "costs": [{"function": "simulate_judges:letters"}], "keep": 0.5},
}
JUDGES = """
def letters(prompts, responses):
    return [len(set(text)) - 3.0 for text in responses]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulate")
    tiny_policy(root / "base", seed=1)
    tiny_policy(root / "judge", seed=2)
    tiny_policy(root / "target", seed=3)
    rows = []
    for index in range(PROMPTS):
        turns = [{"role": "user", "content": f"How do I stop fire {index}?"}]
        if index % 3 == 0:
            turns += [{"role": "assistant", "content": "Call for help."}, {"role": "user", "content": "And then?"}]
        kind = ["comply", "Hard Refuse", "Safe Refuse 1"][index % 3]
        rows.append({"prompt": turns, "category": ["home", "work"][index % 2], "response_type": kind})
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "simulate_judges.py").write_text(JUDGES)
    return root


def case(folder, storage, method, **fields):
    spec = {
        "model": {"input": "base"},
        "prompts": [{"input": "prompts"}],
        method: METHODS[method],
        "generation": {"maxNewTokens": 6, "maxPromptTokens": 128},
        **fields,
    }
    inputs = {"input:base": "base", "stage:target": "target", "stage:judge": "judge", "input:prompts": "prompts.jsonl"}
    storage.mkdir()
    (storage / "simulate_judges.py").symlink_to(folder / "simulate_judges.py")
    return Case(
        storage=str(storage),
        type="simulate",
        spec=spec,
        inputs={key: str(folder / name) for key, name in inputs.items()},
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(one):
    return lines(one.product / "rows.jsonl")


def manifest_of(one):
    return json.loads((one.product / "manifest.json").read_text())


@pytest.fixture(scope="module", params=METHODS)
def done(folder, request):
    one = case(folder, folder / f"done-{request.param}", request.param)
    alone(one)
    return request.param, one


def test_every_row_is_kept_set_aside_or_counted(done):
    method, one = done
    counts = manifest_of(one)["counts"]
    a_row = 4 if method == "completions" else 1
    made = PROMPTS
    dropped = sum(count for name, count in counts.items() if name.startswith("rows.rejected."))
    assert counts["rows.made"] == made == counts["rows.kept"] + dropped
    assert counts["rows.written"] + counts["rows.audit"] == counts["rows.kept"] * a_row
    assert len(rows_of(one)) == counts["rows.written"]
    assert len(lines(one.product / "audit.jsonl")) == counts["rows.audit"] == counts["rows.kept"] // 10 * a_row
