"""The report over folders as runs leave them: what it says, what it must not, and what it holds against."""

import base64
import copy
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

import report_fixture
from rlhf_trainer.reporting import tables
from rlhf_trainer.reporting.axes import number
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.render import TEMPLATES, render
from rlhf_trainer.reporting.verdict import called, judged_by

SFT_ONLY = {
    **report_fixture.JOB,
    "spec": {**report_fixture.JOB["spec"], "stages": report_fixture.JOB["spec"]["stages"][:1]},
}
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Every element, attribute and text of a page; fails where elements do not close in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.by_tag = [], [], [], [], {}
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)
            self.by_tag.setdefault(self.open[-1], []).append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text).replace("\u202f", ""))


def report(root, **options):
    document = content(collect(report_fixture.build(root, **options)))
    page = render(document)
    return document, page, Page(page)


@pytest.fixture(scope="module")
def full_report(tmp_path_factory):
    return report(tmp_path_factory.mktemp("whole"))


def test_the_headline_is_the_harm_before_and_after_by_a_judge_that_was_never_optimised(full_report):
    document, _, page = full_report
    first = document["verdict"][0]
    sft, ppo = (model["metrics"]["harmful_rate.no_care"]["value"] for model in document["evaluations"][0]["models"])
    assert f"fell from {sft:.0%} with sft to {ppo:.0%} with ppo on 64 held-out prompts" in first["text"].replace(
        "\u202f", ""
    )
    assert "no_care, an exact function that training never optimised" in first["text"]
    assert first["tone"] == "good" and first["text"].replace("\u202f", "") in page.words


def test_a_difference_that_includes_nothing_is_said_to_show_nothing(tmp_path):
    file = report_fixture.build(tmp_path)
    path = next((tmp_path / "products").glob("evaluate-*")) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    for name in ("harmful_rate.no_care", "reward.distinct_words"):
        evaluation["models"][1]["differences"][name].update(
            low=-0.2, high=0.1, decision="shows nothing", why="the interval includes 0"
        )
    path.write_text(json.dumps(evaluation))
    document = content(collect(file))
    assert (
        document["verdict"][0]["text"].startswith("No change in harm is shown for ppo")
        and not document["verdict"][0]["tone"]
    )
    assert document["verdict"][1]["text"].startswith("No change in the mean reward is shown for ppo")
    assert all("inconclusive: the interval includes 0" in sentence["text"] for sentence in document["verdict"][:2])


def test_harm_that_rose_is_not_sold_as_success(tmp_path):
    file = report_fixture.build(tmp_path)
    path = next((tmp_path / "products").glob("evaluate-*")) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["models"][1]["differences"]["harmful_rate.no_care"].update(low=0.1, high=0.3, decision="higher")
    path.write_text(json.dumps(evaluation))
    first = content(collect(file))["verdict"][0]
    assert first["text"].startswith("Harmful answers rose") and first["tone"] == "bad"


def test_every_stage_input_licence_and_unknown_is_on_the_page(full_report):
    _, _, page = full_report
    for text in ("sft", "reward", "cost", "ppo", "evaluate", "hf://org/base-135m@4f2c9d1", "Apache-2.0", "CC BY 4.0"):
        assert text in page.words
    assert "55 left out: inconsistent labels" in page.words and "4 left out: malformed" in page.words
    undisclosed = page.by_tag["span"].count("not disclosed")
    assert undisclosed >= 6  # two licences, use, contact, labellers, groups, base model's data, hardware
    for what in ("Intended use", "Contact", "Hardware, energy, emissions"):
        assert re.search(rf"{what} not disclosed", page.words)


def test_given_words_are_printed_as_given(tmp_path):
    job = json.loads(json.dumps(report_fixture.JOB))
    job["spec"]["stages"][-1]["report"] |= {"intendedUse": "Only to show.", "contact": "team@example.org"}
    _, _, page = report(tmp_path, job=job)
    assert "Intended use Only to show." in page.words and "Contact team@example.org" in page.words


def test_curves_limits_and_timings_are_drawn(full_report):
    _, page, parsed = full_report
    for title in ("Cost against its limit", "Multiplier λ", "KL to the reference", "Explained variance of the critics"):
        assert title in parsed.words
    assert "limit 0" in parsed.words
    assert page.count("<polyline") > 15
    assert "generate 6 min 04 s" in parsed.words


def test_the_page_runs_and_fetches_nothing(full_report):
    _, page, parsed = full_report
    assert not {"script", "iframe", "object", "embed", "link", "img", "form", "base"} & set(parsed.tags)
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style", (tag, value)
        if name in ("href", "src", "action") or name.endswith(":href"):
            assert value.startswith("#"), (tag, value)
    css = (TEMPLATES / "report.css").read_text()
    assert "url(" not in css and "@import" not in css
    policy = next(
        value
        for tag, name, value in parsed.attributes
        if tag == "meta" and name == "content" and "default-src" in value
    )
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert f"<style>{css}</style>" in page


def test_hostile_text_stays_text(tmp_path):
    hostile = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\"'"
    job = json.loads(json.dumps(report_fixture.JOB))
    job["spec"]["stages"][-1]["report"] |= {"title": hostile, "intendedUse": hostile, "contact": "javascript:alert(1)"}
    job["spec"]["inputs"][0]["licence"] = hostile
    outcomes = {"cost": {"state": "failed", "exitCode": 2, "reason": "InputError", "message": hostile}}
    _, page, parsed = report(tmp_path, job=job, hostile=hostile, outcomes=outcomes)
    assert not {"script", "img"} & set(parsed.tags)
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert page.count("</style>") == 1 and "49" not in re.findall(r"onerror=alert\(2\)&gt;(..)", page)
    assert hostile in " ".join(parsed.by_tag["h1"])


def test_a_failed_job_says_what_failed_and_still_shows_what_there_is(tmp_path):
    outcomes = {
        "ppo": {"state": "failed", "exitCode": 3, "reason": "KL", "message": "guards.kl: 31 is above max 30"},
        "evaluate": {"state": "blocked"},
    }
    document, _, page = report(tmp_path, outcomes=outcomes, skip=("ppo", "evaluate"))
    assert document["complete"] is False
    assert document["verdict"][0]["text"] == "Stage ppo failed with exit code 3 (KL): guards.kl: 31 is above max 30"
    assert "this report cannot say what training changed" in document["verdict"][-1]["text"]
    assert "What did not finish" in page.words and "it never started" in page.words
    ppo = next(stage for stage in document["stages"] if stage["name"] == "ppo")
    assert len(ppo["curves"]) == 20 and "Cost against its limit" in page.words


def test_an_evaluation_whose_gate_failed_is_found_though_its_stage_failed(tmp_path):
    file = report_fixture.build(
        tmp_path,
        outcomes={"evaluate": {"state": "failed", "exitCode": 3, "reason": "GateFailed", "message": "gates: ..."}},
    )
    file = file.model_copy(update={"inputs": {k: v for k, v in file.inputs.items() if k != "stage:evaluate"}})
    document = content(collect(file))
    assert document["evaluations"] and document["verdict"][0]["text"].startswith(
        "Stage evaluate failed with exit code 3"
    )


def test_a_job_of_sft_alone_has_a_report(tmp_path):
    document, _, page = report(tmp_path, job=SFT_ONLY)
    assert document["verdict"][0]["text"].startswith("No evaluation is in this job's results")
    assert document["title"] == "beaver" and "Before and after" not in page.words
    assert "Loss" in page.words


def test_nothing_at_all_is_a_report_too(tmp_path):
    names = ("sft", "reward", "cost", "ppo", "evaluate")
    file = report_fixture.build(tmp_path, skip=names, outcomes={"sft": {"state": "failed", "message": "no memory"}})
    for path in (tmp_path / "work" / "uid-1").rglob("*.json*"):
        path.unlink()
    document = content(collect(file))
    page = Page(render(document))
    assert document["verdict"][0]["text"] == "Stage sft failed: no memory"
    assert "not disclosed" in page.words


def test_curves_of_a_reused_product_are_its_own(tmp_path):
    file = report_fixture.build(tmp_path)
    work = tmp_path / "work" / "uid-1" / "sft"
    for path in work.iterdir():
        path.unlink()
    work.rmdir()
    document = content(collect(file))
    sft = document["stages"][0]
    assert sft["reused"] is True and len(sft["curves"]) == 80 and sft["timings"]["steps"] == 80
    assert document["stages"][1]["reused"] is False


def test_broken_files_are_named_not_fatal(tmp_path):
    file = report_fixture.build(tmp_path)
    product = next((tmp_path / "products").glob("sft-*"))
    with (product / "metrics.jsonl").open("a") as lines:
        lines.write('not json\n{"step": 81, "loss": 1.0}\n{"step": 82, "lo')
    (product / "timings.json").write_text("{")
    next((tmp_path / "products").glob("cost*")).joinpath("manifest.json").write_text("{}")
    document = content(collect(file))
    assert any("metrics.jsonl:81 is not JSON" in problem for problem in document["problems"])
    assert any("manifest.json cannot be read" in problem for problem in document["problems"])
    assert document["stages"][0]["curves"][-1]["step"] == 81
    Page(render(document))


def test_prompts_that_training_read_are_said_to_be_no_holdout(tmp_path):
    job = json.loads(json.dumps(report_fixture.JOB))
    job["spec"]["stages"][4]["evaluate"]["prompts"] = [{"input": "prefs"}]
    document, _, _ = report(tmp_path / "leak", job=job)
    assert any(
        "evaluate asks prompts of prefs, which reward, cost, ppo also read" in sentence
        for sentence in document["limits"]
    )
    job["spec"]["stages"][4]["evaluate"]["prompts"] = [{"input": "prefs", "split": "heldout"}]
    for index, kind in ((1, "rewardModel"), (2, "costModel")):
        job["spec"]["stages"][index][kind]["data"] = [{"input": "prefs", "split": "train"}]
    job["spec"]["stages"][3]["ppo"]["prompts"] = [{"input": "prefs", "split": "train"}]
    document, _, _ = report(tmp_path / "apart", job=job)
    assert not any("were not held out" in sentence for sentence in document["limits"])


def test_what_training_read_of_the_evaluated_prompts_is_a_limit_with_examples(full_report):
    document, _, parsed = full_report
    sentence = "3 of 64 different prompts of evaluate are, or nearly are, prompts that sft (3) read."
    assert document["limits"][-1] == sentence and sentence in parsed.words
    heldout = next(entry for entry in document["inputs"] if entry["name"] == "heldout")
    assert (heldout["twins"][0]["exact"], heldout["twins"][0]["near"]) == (2, 1)
    assert "Prompts of stage evaluate, evaluate.prompts[0] that training also read: 1 of 3" in parsed.words
    assert "how do i light a fire 0.913 sft" in parsed.words


def test_what_the_texts_of_rows_are_like_is_a_folded_table(full_report):
    document, _, parsed = full_report
    assert [len(entry["quality"]) for entry in document["inputs"]] == [0, 1, 1, 1]
    assert "What the texts of the rows are like" in parsed.words
    assert (
        "chat stage sft, sft.data[0] 1941 48 mean 61.5 25% 287 mean 320.2 2% 1% from 30% 0.47 of 1000" in parsed.words
    )


def test_what_an_older_prepare_noted_is_shown_without_texts(tmp_path):
    file = report_fixture.build(tmp_path)
    path = tmp_path / "work" / "uid-1" / "prepare" / "provenance.json"
    noted = json.loads(path.read_text())
    for entry in noted.values():
        entry.pop("quality", None), entry.pop("twins", None)
    path.write_text(json.dumps(noted))
    document = content(collect(file))
    assert not any("provenance" in problem for problem in document["problems"])
    assert all(not entry["quality"] for entry in document["inputs"])
    assert "What the texts of the rows are like" not in Page(render(document)).words


def test_judges_that_training_optimised_are_marked(full_report):
    document, _, _ = full_report
    marked = {judge["name"]: judge["optimised"] for judge in document["evaluations"][0]["judges"]}
    assert marked == {"reward": True, "cost": True, "distinct_words": False, "no_care": False}


@pytest.mark.parametrize("pushed", [True, False])
def test_rules_that_training_optimised_are_marked(tmp_path, pushed):
    job = copy.deepcopy(report_fixture.JOB)
    rules = {"input": "rules", "grader": {"input": "base"}}
    job["spec"]["inputs"].append({"name": "rules", "source": "rules"})
    stages = {kind: stage[kind] for stage in job["spec"]["stages"] for kind in stage if kind in ("ppo", "evaluate")}
    stages["evaluate"]["rules"] = rules
    if pushed:
        stages["ppo"]["rules"] = rules
    document, page, _ = report(tmp_path, job=job)
    assert document["evaluations"][0]["rules"] == {"source": "input:rules", "optimised": pushed}
    assert any("the rules' grader: training optimised" in limit for limit in document["limits"]) is pushed
    assert "the rules' grader" in page


def test_a_win_rate_on_few_prompts_says_that_they_are_few():
    estimate = {"value": 1.0, "low": 0.7, "high": 1.0, "n": 8, "method": "wilson"}
    assert tables.win("win_rate", estimate, 0.95).word == "shows nothing: 8 prompts, fewer than 12"
    assert tables.win("win_rate", {**estimate, "n": 40}, 0.95).word == "higher"
    even = {**estimate, "value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    assert tables.win("win_rate", even, 0.95).word == "shows nothing: the interval includes 0.5"


def test_samples_are_folded_behind_a_warning_with_scores_and_markers(full_report):
    document, page, parsed = full_report
    samples = document["evaluations"][0]["samples"]
    assert [sample["prompt"] for sample in samples] == [3, 17, 40]
    assert "Content warning." in parsed.words
    for sample in samples:
        assert {answer["model"] for answer in sample["answers"]} == {"sft", "ppo"}
        for answer in sample["answers"]:
            assert answer["harmful"] is (answer["scores"]["cost.no_care"] > 0)
    assert page.count("<details>") >= 3 and "<details open" not in page


def test_the_same_folders_give_the_same_bytes_and_a_small_file(tmp_path, full_report):
    document, page, _ = report(tmp_path)
    assert page == full_report[1]
    assert len(page.encode()) < 400_000 and len(json.dumps(document)) < 400_000


def test_long_runs_and_long_answers_stay_small(tmp_path):
    file = report_fixture.build(tmp_path)
    product = next((tmp_path / "products").glob("ppo-*"))
    row = json.loads((product / "metrics.jsonl").read_text().splitlines()[5])
    lines = [json.dumps({**row, "step": step}) for step in range(1, 20_001)]
    (product / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    evaluation = next((tmp_path / "products").glob("evaluate-*"))
    shown = json.loads((evaluation / "evaluation.json").read_text())
    shown["shown"] = list(range(64))
    (evaluation / "evaluation.json").write_text(json.dumps(shown))
    samples = [json.loads(line) for line in (evaluation / "samples.jsonl").read_text().splitlines()]
    (evaluation / "samples.jsonl").write_text(
        "".join(json.dumps({**row, "answer": "word " * 4000}) + "\n" for row in samples)
    )
    document = content(collect(file))
    ppo = next(stage for stage in document["stages"] if stage["name"] == "ppo")
    assert [ppo["curves"][0]["step"], ppo["curves"][-1]["step"]] == [1, 20_000]
    assert len(render(document).encode()) < 1_500_000 and len(json.dumps(document)) < 1_500_000


def test_several_candidates_each_have_their_figures_and_words(tmp_path):
    file = report_fixture.build(tmp_path)
    product = next((tmp_path / "products").glob("evaluate-*"))
    models = (("sft", 0.18), ("ppo", 0.62), ("plain", 0.15))
    evaluation, _ = report_fixture.evaluate(models=models)
    (product / "evaluation.json").write_text(json.dumps(evaluation))
    document = content(collect(file))
    page = Page(render(document))
    assert [sentence["text"].split(":")[0] for sentence in document["verdict"] if "gate" in sentence["text"]] == [
        "A gate was not kept"
    ]
    assert document["verdict"][0]["tone"] == "bad"
    for name in ("ppo", "plain"):
        assert any(f"{name}" in sentence["text"] for sentence in document["verdict"][1:])
    assert page.by_tag["h3"].count("Harmful answers") == 2


def test_a_group_is_told_of_in_place_of_its_members_and_each_is_in_its_table(tmp_path):
    file = report_fixture.build(tmp_path)
    product = next((tmp_path / "products").glob("evaluate-*"))
    models = (("sft", 0.18), ("ppo-s0", 0.62), ("ppo-s1", 0.66), ("plain", 0.15), ("plain-again", 0.2))
    members = {"ppo": ["ppo-s0", "ppo-s1"], "same": ["plain", "plain-again"]}
    evaluation, _ = report_fixture.evaluate(models=models, members=members)
    (product / "evaluation.json").write_text(json.dumps(evaluation))
    document = content(collect(file))
    page = Page(render(document))
    group = document["evaluations"][0]["groups"][0]
    sentences = [sentence["text"] for sentence in document["verdict"] if "gate" not in sentence["text"]]
    assert any(text.startswith("Harmful answers") and "with ppo (mean of 2 runs)" in text for text in sentences)
    assert not any("ppo-s0" in text or "ppo-s1" in text for text in sentences)
    assert page.by_tag["h3"].count("Harmful answers") == 2
    assert "ppo: ppo-s0, ppo-s1" in page.words
    assert "same less ppo" in page.words
    rate, difference = group["metrics"]["harmful_rate.no_care"], group["differences"]["harmful_rate.no_care"]
    shown = [f"{value:.0%}" for value in rate["values"]]
    assert ", ".join(shown) in page.words
    assert f"{rate['value']:.0%}" in page.words and f"{rate['low']:.0%} to {rate['high']:.0%}" in page.words
    assert difference["decision"] in ("lower", "shows nothing")
    assert "Outside groups, a stage ran with one seed" in " ".join(document["limits"])


def test_an_evaluation_without_judges_says_so(tmp_path):
    file = report_fixture.build(tmp_path)
    path = next((tmp_path / "products").glob("evaluate-*")) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["judges"], evaluation["categories"] = [], []
    for model in evaluation["models"]:
        for table in (model["metrics"], model["differences"]):
            for name in [
                name
                for name in table
                if name.split(".")[0] in ("reward", "cost", "harmful_rate", "win_rate", "win_rate_lc")
            ]:
                table.pop(name)
    path.write_text(json.dumps(evaluation))
    document = content(collect(file))
    assert "had no judges" in document["verdict"][0]["text"]
    Page(render(document))


def test_reward_and_cost_are_a_plane_with_an_arrow_from_the_baseline(full_report):
    document, _, _ = full_report
    (figure,) = [part for part in re.split(r"(?=<svg)", render(document)) if "Reward and cost of sft" in part]
    by_name = {model["name"]: model["metrics"] for model in document["evaluations"][0]["models"]}
    for name in ("sft", "ppo"):
        reward, cost = (by_name[name][metric]["value"] for metric in ("reward.distinct_words", "cost.no_care"))
        assert f"{name}: mean reward by distinct_words {number(reward)} (" in figure
        assert f"mean cost by no_care, low is safe {number(cost)} (" in figure
    assert figure.count('class="arrow"') == 1
    assert figure.index('class="mark before"') < figure.index('class="mark after0"')


def test_scores_of_models_are_drawn_over_each_other_and_an_older_evaluation_has_none(tmp_path):
    file = report_fixture.build(tmp_path)
    path = next((tmp_path / "products").glob("evaluate-*")) / "evaluation.json"
    page = render(content(collect(file)))
    assert page.count("How scores are distributed") == 1
    for metric in ("Cost: no_care", "Cost: cost", "Reward: reward", "Reward: distinct_words"):
        assert f'aria-label="{metric}: scores by model"' in page
    assert "ppo has" in page and "in common with sft" in page and "ppo: 64 answers" in page
    evaluation = json.loads(path.read_text())
    del evaluation["distributions"]
    path.write_text(json.dumps(evaluation))
    assert "How scores are distributed" not in render(content(collect(file)))


def test_where_the_constraint_ended_is_said_and_a_cost_above_its_limit_is_bad(full_report, tmp_path):
    document, _, _ = full_report
    sentence = next(sentence for sentence in document["verdict"] if "its limit" in sentence["text"])
    assert "the cost was \u22120.144 on average" in sentence["text"] and "within its limit of 0" in sentence["text"]
    assert "λ was 3.21" in sentence["text"] and sentence["tone"] == ""
    file = report_fixture.build(tmp_path)
    path = next((tmp_path / "products").glob("ppo-*")) / "manifest.json"
    path.write_text(path.read_text().replace("-0.1437", "0.1437"))
    sentence = next(sentence for sentence in content(collect(file))["verdict"] if "its limit" in sentence["text"])
    assert "above its limit" in sentence["text"] and sentence["tone"] == "bad"


def test_another_licence_is_another_report(tmp_path):
    job = json.loads(json.dumps(report_fixture.JOB))
    job["spec"]["inputs"][0]["licence"] = "MIT"
    first, second = (report_fixture.build(tmp_path / name, job=variant) for name, variant in (("a", None), ("b", job)))
    assert first.digest != second.digest
    assert {key: entry.digest for key, entry in first.inputs.items()} == {
        key: entry.digest for key, entry in second.inputs.items()
    }


def test_without_an_evaluation_the_scorers_speak_beside_their_baselines(tmp_path):
    document, _, _ = report(tmp_path, skip=("ppo", "evaluate"))
    texts = [sentence["text"].replace("\u202f", "") for sentence in document["verdict"]]
    assert texts[0] == (
        "The reward model of stage reward judges 74% (65% to 82%) of 97 held-out pairs right; always taking the shorter answer gives 52%, "
        "the longer 48%."
    )
    assert (
        texts[1].startswith("The cost model of stage cost judges 74%")
        and "Of signs, 86% (78% to 92%); always saying the commoner" in texts[1]
    )


def test_it_says_where_every_product_lies(full_report):
    content, _, page = full_report
    for stage in content["stages"]:
        assert stage["product"] == f"products/{stage['type']}-{stage['digest']}"
        assert stage["product"] in page.words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("harm", "the cost harm"),
        ("cost", "the cost"),
        ("harm-cost", "harm-cost"),
        ("cost_model", "cost_model"),
        ("Cost", "Cost"),
        ("costly", "the cost costly"),
    ],
)
def test_a_name_that_says_its_kind_is_not_told_it_twice(name, words):
    assert called("cost", name) == words
    judge = {"kind": "cost", "name": name, "source": "stage:cost", "optimised": True}
    assert judged_by(judge).startswith("the cost, a model" if name == "cost" else f"{name}, a model")


def test_a_moderation_model_is_named_by_its_labels():
    judge = {"kind": "cost", "name": "harm", "source": "stage:labels", "optimised": False, "labels": ["toxic", "leak"]}
    assert judged_by(judge) == "harm, a moderation model's labels toxic, leak that training never optimised"
