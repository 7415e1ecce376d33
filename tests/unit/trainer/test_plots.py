"""Plots: positions, ticks and numbers worked out by hand; text that cannot leave its element."""

import math
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.reporting import graph, panels, plots
from rlhf_trainer.reporting.axes import Scale, decades, number, percent, points, seconds, shorten, ticks

HOSTILE = "<script>alert(1)</script>\"'&\x00"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (-0.3, 0.65, [-0.5, 0, 0.5, 1]),
        (1, 80, [0, 50, 100]),
        (3, 3, [1, 2, 3, 4, 5]),
        (0, 0, [-1, 0, 1]),
    ],
)
def test_ticks_are_round_and_span_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_always_span_the_range_evenly(low, width):
    marks = ticks(low, low + width)
    tolerance = (abs(low) + width) * 1e-6
    assert marks[0] <= low + tolerance and marks[-1] >= low + width - tolerance
    assert 2 <= len(marks) <= 8
    gaps = {round((b - a) / (marks[1] - marks[0]), 3) for a, b in pairwise(marks)}
    assert gaps == {1.0}


def test_decades():
    assert decades(0.02, 3) == [0.01, 0.1, 1, 10]
    assert decades(1, 1) == [1, 10]


def test_a_scale_is_linear_or_by_logarithm():
    assert Scale(0, 10, 100, 0)(2.5) == 75
    assert Scale(0.01, 100, 0, 400, log=True)(1) == 200


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567.0, "1\u202f234\u202f567"),
        (-0.28125, "\u22120.281"),
        (15.46, "15.5"),
        (100.0, "100"),
        (0.00005, "5e-5"),
        (2.5e9, "2.5e9"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_numbers_for_people(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8437, "84"), (0.0, "0"), (1.0, "100"), (0.004, "0.4"), (0.996, "99.6"), (0.95, "95"), (0.0151, "2")],
)
def test_percentages_have_a_decimal_only_next_to_nothing_and_all(value, text):
    assert percent(value) == text + "\u202f%"


def test_points_and_durations():
    assert [points(value) for value in (-0.484, 0.047, 0.0, -0.0001)] == ["\u221248", "4.7", "0", "0"]
    assert [seconds(value) for value in (0.5, 59, 185, 7800)] == ["0.5 s", "59 s", "3 min 05 s", "2 h 10 min"]


def test_long_series_are_binned_with_their_extremes():
    shortened = shorten([(step, float(step % 2)) for step in range(1000)], most=100)
    assert len(shortened.means) == 100 and shortened.size == 10
    assert set(shortened.means) == {0.5} and set(shortened.lows) == {0.0} and set(shortened.highs) == {1.0}


def test_what_is_not_a_number_is_a_gap():
    shortened = shorten([(1, 1.0), (2, None), (3, math.nan), (4, 2.0)])
    assert shortened.means == [1.0, None, None, 2.0]
    svg = str(
        plots.curves(
            plots.Plot("Loss", "", [plots.Series("loss", [(1, 1.0), (2, 2.0), (3, None), (4, 1.0), (5, 3.0)])])
        )
    )
    assert svg.count("<polyline") == 2


def parse(svg):
    """As a browser would, with entities resolved; fails on markup that is not well-formed."""
    return ElementTree.fromstring(str(svg))


def test_curves_draw_every_point_where_it_belongs():
    plot = plots.Plot("Cost", "", [plots.Series("harm", [(0, 0.0), (10, 1.0)])], limits={"limit 0.5": 0.5})
    root = parse(plots.curves(plot))
    line = root.find("{*}polyline") if root.find("{*}polyline") is not None else root.find("polyline")
    (x1, y1), (x2, y2) = (tuple(map(float, pair.split(","))) for pair in line.get("points").split())
    assert (x1, x2) == (plots.LEFT, plots.WIDTH - plots.RIGHT)
    assert (y1, y2) == (plots.HEIGHT - plots.BOTTOM, plots.TOP)
    limit = next(element for element in root.iter("line") if element.get("class") == "limit")
    assert float(limit.get("y1")) == pytest.approx((y1 + y2) / 2)
    assert root.get("aria-label") == "Cost: harm from 0 to 1"


def test_a_wide_positive_series_is_drawn_by_logarithm_where_asked():
    series = [plots.Series("lambda", [(step, 10.0**step) for step in range(-3, 2)])]
    root = parse(plots.curves(plots.Plot("λ", "", series, log=True)))
    heights = [float(pair.split(",")[1]) for pair in root.find("polyline").get("points").split()]
    gaps = {round(a - b, 1) for a, b in pairwise(heights)}
    assert len(gaps) == 1


def test_series_differ_by_more_than_colour():
    two = plots.Plot("EV", "", [plots.Series("a", [(1, 1.0), (2, 2.0)]), plots.Series("b", [(1, 2.0), (2, 1.0)])])
    svg = str(plots.curves(two))
    assert 'class="line s0"' in svg and 'class="line s1"' in svg
    css = Path(plots.__file__).with_name("templates").joinpath("report.css").read_text()
    assert "stroke-dasharray" in css.split(".s1 {")[1].split("}")[0]


def test_nothing_measured_is_said():
    assert "Nothing was measured" in plots.curves(plots.Plot("KL", "", [plots.Series("kl", [(1, None)])]))
    assert "Nothing was measured" in plots.bars([], named="time")


def test_text_in_plots_is_escaped():
    hostile = HOSTILE.replace("\x00", "")
    plot = plots.Plot(hostile, hostile, [plots.Series(hostile, [(1, 1.0)])], limits={hostile: 0.5})
    group = [
        (
            hostile,
            [plots.Interval(hostile, "before", 0.5, 0.4, 0.6), plots.Interval(hostile, "after", None, None, None)],
        )
    ]
    stage = {"name": hostile, "type": hostile, "state": hostile, "needs": [], "inputs": [hostile]}
    for svg in (
        plots.curves(plot),
        plots.shares(group, named=hostile),
        plots.bars([(hostile, 1.0)], named=hostile),
        graph.draw([stage]),
    ):
        assert "<script" not in str(svg)
        parse(svg)


def test_arrows_that_others_imply_are_left_out():
    needs = {
        "sft": [],
        "reward": ["sft"],
        "cost": ["sft"],
        "ppo": ["sft", "reward", "cost"],
        "evaluate": ["ppo", "sft"],
    }
    assert graph.direct(needs) == {
        "sft": [],
        "reward": ["sft"],
        "cost": ["sft"],
        "ppo": ["reward", "cost"],
        "evaluate": ["ppo"],
    }
    assert graph.depths(needs) == {"sft": 0, "reward": 1, "cost": 1, "ppo": 2, "evaluate": 3}


def test_panels_follow_the_stage_and_the_rest_stays_findable():
    rows = [
        {
            "step": 1,
            "reward": 1.0,
            "reward.a": 1.0,
            "cost.x": 0.5,
            "cost.y": 0.1,
            "lambda.x": 1.0,
            "kl": 0.0,
            "odd": 3.0,
        },
        {
            "step": 2,
            "reward": 2.0,
            "reward.a": 2.0,
            "cost.x": None,
            "cost.y": 0.2,
            "lambda.x": 2.0,
            "kl": 0.1,
            "odd": 4.0,
        },
    ]
    main, rest = panels.plots("ppo", rows, {"cost": {"cost.x": 0.0, "cost.y": 0.3}})
    assert [plot.title for plot in main] == ["Reward", "Cost against its limit", "Multiplier λ", "KL to the reference"]
    cost = main[1]
    assert [series.label for series in cost.series] == ["x", "y"]
    assert cost.limits == {"x limit 0": 0.0, "y limit 0.3": 0.3}
    assert cost.series[0].points == [(1.0, 0.5), (2.0, None)]
    assert [plot.title for plot in rest] == ["odd"]
