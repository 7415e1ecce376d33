"""Scorers: where the score sits, padding, what transformers makes of the product, and how members become one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_policy, tiny_scorer, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.collate import pad
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.classifiers import head_of, trunk_of
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.save import save_scorer
from rlhf_trainer.models.scorer import Rule, ScorerModel, last, load_scorer, new_scorer

LENGTHS = (9, 4, 1, 6)


def batch(side: str, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows that end with EOS (2), PAD is 0."""
    generator = torch.Generator().manual_seed(5)
    rows = [[*torch.randint(3, 50, (n - 1,), generator=generator).tolist(), 2] for n in LENGTHS]
    padded = pad([Encoded(row, [1] * len(row)) for row in rows], 0, side, length)  # type: ignore[arg-type]
    return padded.input_ids, padded.attention_mask


def fresh_scorer(base: Path, rule: Rule, seeds: tuple[int, ...]) -> ScorerModel:
    return new_scorer(base, "float32", rule=rule, seeds=seeds, pad_token_id=0).eval()


def saved(folder: Path, scorer: ScorerModel) -> Path:
    states = [{name: value.clone() for name, value in model.state_dict().items()} for model in scorer.models]
    save_scorer(folder, states, list(scorer.models), scorer.rule, tiny_tokenizer())
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_policy(tmp_path_factory.mktemp("base"))


@torch.no_grad()
def test_the_score_is_the_head_on_the_state_of_the_rows_last_token(base: Path) -> None:
    scorer = fresh_scorer(base, Rule(), (1,))
    ids, mask = batch("right")
    scores = scorer.scores(ids, mask)
    for row, length in enumerate(LENGTHS):
        alone = trunk_of(scorer.models[0])(input_ids=ids[row : row + 1, :length]).last_hidden_state
        expected = head_of(scorer.models[0])(alone)[0, length - 1, 0]
        assert ids[row, length - 1] == 2
        assert scores[0, row].item() == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_padding_left_right_and_beyond_gives_the_same_scores(base: Path) -> None:
    scorer = fresh_scorer(base, Rule(members=3), (1, 2, 3))
    right = scorer.scores(*batch("right"))
    for padded in (
        scorer.scores(*batch("left")),
        scorer.scores(*batch("left", 20)),
        scorer.scores(*batch("right", 20)),
    ):
        torch.testing.assert_close(padded, right, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("members", [1, 3])
def test_transformers_loads_the_product_and_gives_the_same_scores(
    base: Path, tmp_path: Path, side: str, members: int
) -> None:
    scorer = fresh_scorer(base, Rule(members=members), tuple(range(members)))
    folder = saved(tmp_path / "out", scorer)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert theirs.config.num_labels == members
    assert theirs.config.pad_token_id == load_tokenizer(folder).pad_token_id
    ids, mask = batch(side)
    ours = load_scorer(folder, "float32").scores(ids, mask)
    torch.testing.assert_close(theirs(input_ids=ids, attention_mask=mask).logits.T, ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, scorer.scores(ids, mask), rtol=0, atol=0)


@torch.no_grad()
def test_separate_trunks_are_a_folder_a_member(base: Path, tmp_path: Path) -> None:
    rule = Rule(kind="cost", trunk="separate", members=2, combine="deviation", k=0.5)
    scorer = fresh_scorer(base, rule, (1, 2))
    folder = saved(tmp_path / "out", scorer)
    assert sorted(path.name for path in (folder / "members").iterdir()) == ["0", "1"]
    again = load_scorer(folder, "float32", kind="cost")
    assert again.rule == rule
    torch.testing.assert_close(again.scores(*batch("left")), scorer.scores(*batch("left")))
    alone = AutoModelForSequenceClassification.from_pretrained(folder / "members" / "1").eval()
    ids, mask = batch("right")
    logits = alone(input_ids=ids, attention_mask=mask).logits[:, 0]
    torch.testing.assert_close(again.scores(ids, mask)[1], logits, rtol=1e-5, atol=1e-5)


def test_heads_differ_between_members_and_follow_their_seeds(base: Path) -> None:
    first, again, reseeded = (fresh_scorer(base, Rule(members=2), seeds) for seeds in ((1, 2), (1, 2), (3, 2)))
    heads = [head_of(scorer.models[0]).weight for scorer in (first, again, reseeded)]
    assert torch.equal(heads[0], heads[1])  # type: ignore[arg-type]
    assert not torch.equal(heads[0][0], heads[0][1])  # type: ignore[index]
    assert not torch.equal(heads[0][0], heads[2][0])  # type: ignore[index]
    assert torch.equal(heads[0][1], heads[2][1])  # type: ignore[index]


def test_a_head_that_fits_is_kept_and_one_that_does_not_is_new(tmp_path: Path) -> None:
    folder = tiny_scorer(tmp_path / "scorer", labels=2)
    before = AutoModelForSequenceClassification.from_pretrained(folder).score.weight
    kept_head = head_of(fresh_scorer(folder, Rule(members=2), (1, 2)).models[0]).weight
    assert torch.equal(kept_head, before)  # type: ignore[arg-type]
    fresh = head_of(fresh_scorer(folder, Rule(members=1), (1,)).models[0]).weight
    assert tuple(fresh.shape) == (1, before.shape[1])  # type: ignore[union-attr]


def test_a_language_model_is_not_taken_for_a_scorer_with_a_random_head(base: Path) -> None:
    with pytest.raises(InputError, match=r"LlamaForCausalLM in config\.json; a reward or cost model is a sequence"):
        load_scorer(base, "float32")


def test_a_scorer_of_someone_elses_has_one_label_and_no_rule(tmp_path: Path) -> None:
    scorer = load_scorer(tiny_scorer(tmp_path / "scorer"), "float32", kind="cost")
    assert scorer.rule == Rule(kind="cost", combine="mean")


@pytest.mark.parametrize("labels", [2, 3])
def test_a_classifier_of_several_labels_is_no_score(tmp_path: Path, labels: int) -> None:
    with pytest.raises(InputError, match=f"a classifier of {labels} labels; expected one label"):
        load_scorer(tiny_scorer(tmp_path / "scorer", labels=labels), "float32")


@torch.no_grad()
def test_the_heads_shape_tells_the_labels_where_the_configuration_does_not(tmp_path: Path) -> None:
    folder = tiny_scorer(tmp_path / "scorer")
    expected = load_scorer(folder, "float32").scores(*batch("left"))
    config = json.loads((folder / "config.json").read_text())
    for name in ("id2label", "label2id", "num_labels"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(load_scorer(folder, "float32").scores(*batch("left")), expected)
    before = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).score.weight
    assert torch.equal(head_of(fresh_scorer(folder, Rule(), (1,)).models[0]).weight, before)  # type: ignore[arg-type]


def test_a_cost_model_is_not_used_as_a_reward(base: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "out", fresh_scorer(base, Rule(kind="cost"), (1,)))
    with pytest.raises(InputError, match="kind cost; found 1 heads, used as reward"):
        load_scorer(folder, "float32", kind="reward")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "9"}, "version 9"),
        ({"members": 3}, "says 3 members"),
        ({"std": [0.0], "mean": [1.0]}, "above 0"),
        ({"mean": [1.0, 2.0], "std": [1.0, 1.0]}, "does not fit"),
        ({"surprise": 1}, "surprise"),
        ({"mean": json.loads("[" * 100 + "]" * 100)}, "nested more than 64 deep"),
    ],
)
def test_an_ensemble_file_that_does_not_fit_is_refused(
    base: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    folder = saved(tmp_path / "out", fresh_scorer(base, Rule(), (1,)))
    file = folder / "ensemble.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match=words):
        load_scorer(folder, "float32")


def test_the_mask_decides_where_a_row_ends_not_its_ids() -> None:
    hidden = torch.arange(12.0).reshape(2, 6, 1)
    mask = torch.tensor([[0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    assert last(hidden, mask).flatten().tolist() == [3.0, 11.0]


tables = st.integers(1, 4).flatmap(
    lambda members: st.lists(
        st.lists(st.floats(-50, 50, width=32), min_size=members, max_size=members), min_size=1, max_size=6
    )
)


@given(
    tables, st.sampled_from(["mean", "conservative", "deviation"]), st.sampled_from(["reward", "cost"]), st.floats(0, 3)
)
def test_members_become_one_as_the_rule_says(table: list[list[float]], combine: str, kind: str, k: float) -> None:
    scores = np.array(table, dtype=np.float32).T  # [members, B]
    members = len(scores)
    means, stds = tuple(range(members)), tuple(0.5 + i for i in range(members))
    rule = Rule(kind, "shared", members, combine, k, tuple(map(float, means)), stds)  # type: ignore[arg-type]
    got, spread = rule.combined(torch.from_numpy(scores))
    used = scores if kind == "cost" else (scores - np.array(means)[:, None]) / np.array(stds)[:, None]
    sign = 1 if kind == "cost" else -1
    worst = used.max(0) if kind == "cost" else used.min(0)
    expected = {"mean": used.mean(0), "conservative": worst, "deviation": used.mean(0) + sign * k * used.std(0)}[
        combine
    ]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(spread.numpy(), used.std(0), rtol=1e-4, atol=1e-3)


@given(tables)
def test_a_cost_is_never_shifted_so_that_its_sign_keeps_its_meaning(table: list[list[float]]) -> None:
    scores = torch.tensor(table).T
    rule = Rule("cost", "shared", len(scores), "conservative", 1.0, (5.0,) * len(scores), (2.0,) * len(scores))
    assert torch.equal(rule.combined(scores)[0], scores.amax(0))


def test_a_conservative_ensemble_is_never_kinder_than_its_mean() -> None:
    scores = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    for kind, sign in (("reward", -1.0), ("cost", 1.0)):
        mean = Rule(kind, members=2, combine="mean").combined(scores)[0]  # type: ignore[arg-type]
        for combine in ("conservative", "deviation"):
            careful = Rule(kind, members=2, combine=combine).combined(scores)[0]  # type: ignore[arg-type]
            assert (sign * (careful - mean) >= 0).all()
