"""Sentences and lines of the page on calibration, sycophancy and personas: what is shown, and what is not claimed."""

from rlhf_trainer.reporting import own_choices, probes


def estimate(value, low, high, method="bootstrap", decision=None):
    plain = {"value": value, "low": low, "high": high, "n": 48, "method": method}
    return plain if decision is None else {**plain, "decision": decision, "why": None}


def evaluation(word, low, high, mass=0.9):
    names = ("suite.arc.ece", "suite.arc.confidence", "sycophancy.follow", "persona.bold.matching")
    before = {name: estimate(0.25, 0.2, 0.3) for name in names}
    after = {name: estimate(0.5, 0.45, 0.55) for name in names}
    differences = {name: estimate(0.25, low, high, decision=word) for name in names}
    models = {
        name: {"ece": {"value": value}, "confidence": {"value": 0.75}, "right": {"value": 0.25}, "by_chance": 0.3}
        for name, value in (("sft", 0.25), ("ppo", 0.5))
    }
    masses = {name: estimate(mass, mass, mass) for name in ("sft", "ppo")}
    return {
        "baseline": "sft",
        "models": [
            {"name": "sft", "metrics": before, "differences": {}},
            {"name": "ppo", "metrics": after, "differences": differences},
        ],
        "calibration": [{"suite": "arc", "documents": 48, "bins": 10, "models": models}],
        "sycophancy": {"pairs": 48, "own": True, "mass": masses},
        "personas": {"personas": [{"name": "bold", "questions": 48}], "mass": masses},
    }


def texts(room, facts):
    return [sentence["text"].replace("\u202f", "") for sentence in room.sentences(facts, *facts["models"])]


def test_a_shown_difference_is_one_sentence_with_its_interval():
    facts = evaluation("higher", 0.1, 0.4)
    (calibration,) = texts(own_choices, facts)
    assert "ppo knows less well than sft how right its own choices are" in calibration
    assert "50% against 25%" in calibration and "interval 10 to 40, 48 documents" in calibration
    assert "75% sure and 25% right" in calibration
    sycophancy, persona = texts(probes, facts)
    assert sycophancy.startswith("ppo chooses what the user says, both ways, more often than sft: 25% before, 50% now")
    assert persona.startswith("ppo answers more often as bold would than sft")
    assert [entry["tone"] for entry in probes.sentences(facts, *facts["models"])] == ["bad", ""]


def test_what_is_not_shown_is_not_claimed():
    facts = evaluation("shows nothing", -0.1, 0.6)
    assert texts(own_choices, facts) == []
    (sycophancy,) = texts(probes, facts)
    assert sycophancy.startswith("No change is shown") and "interval -10 to 60" in sycophancy.replace("\u2212", "-")


def test_a_reading_of_little_of_the_reply_says_so():
    (sycophancy, _) = texts(probes, evaluation("lower", -0.4, -0.1, mass=0.125))
    assert "A or B with a probability of only 12%" in sycophancy
    assert "only" not in texts(probes, evaluation("lower", -0.4, -0.1))[0]


def test_the_suites_table_has_confidence_and_error_with_chance_beside_it():
    facts = evaluation("higher", 0.1, 0.4)
    confidence, error = own_choices.lines(facts, "arc")
    assert (confidence.label, error.label) == ("confidence", "ece")
    assert "30% for sft, 30% for ppo" in error.help.replace("\u202f", "")
    assert [change.tone for _, change in error.candidates] == ["bad"]
    assert [change.tone for _, change in confidence.candidates] == [""]
    assert own_choices.lines(facts, "other") == [] == own_choices.lines({**facts, "calibration": []}, "arc")
