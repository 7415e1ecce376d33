"""The stages as a graph, drawn downwards so that it fits a phone: rows by depth, arrows without those others imply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y = 150, 58, 18, 34
_STATES = {"done": "done", "failed": "failed", "stopped": "stopped", "blocked": "blocked"}


def depths(needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Longest way from a stage without needs. `needs` is in an order in which each comes after all it needs."""
    levels: dict[str, int] = {}
    for name, before in needs.items():
        levels[name] = 1 + max((levels[need] for need in before if need in levels), default=-1)
    return levels


def direct(needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Of what each stage needs, that which nothing else it needs needs in turn: the arrows worth drawing."""
    above: dict[str, set[str]] = {}
    for name, before in needs.items():
        above[name] = set(before).union(*(above.get(need, set()) for need in before))
    return {
        name: [need for need in before if need in needs and not any(need in above.get(two, ()) for two in before)]
        for name, before in needs.items()
    }


def draw(stages: Sequence[Mapping[str, object]]) -> Markup:
    """SVG of stages: each has `name`, `type`, `state`, `needs` (names), `inputs` (names)."""
    needs = {str(stage["name"]): [str(name) for name in _list(stage["needs"])] for stage in stages}
    level = depths(needs)
    rows: list[list[Mapping[str, object]]] = [[] for _ in range(max(level.values(), default=0) + 1)]
    for stage in stages:
        rows[level[str(stage["name"])]].append(stage)
    wide = max((len(row) for row in rows), default=1)
    width = wide * NODE_WIDTH + (wide - 1) * GAP_X + 4
    height = len(rows) * NODE_HEIGHT + (len(rows) - 1) * GAP_Y + 4
    places = _places(rows, width)
    edges = [_edge(places[need], places[name]) for name, before in direct(needs).items() for need in before]
    nodes = [_node(stage, *places[str(stage["name"])]) for stage in stages]
    description = "; ".join(f"{name} takes {', '.join(before)}" if before else name for name, before in needs.items())
    return Markup(
        '<svg class="graph" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{told}">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="arrow" d="M0 0 L8 4 L0 8 Z"/></marker></defs>{edges}{nodes}</svg>'
    ).format(
        w=width,
        h=height,
        told=f"Stages: {description}",
        edges=Markup("").join(edges),
        nodes=Markup("").join(nodes),
    )


def _places(rows: list[list[Mapping[str, object]]], width: int) -> dict[str, tuple[float, float]]:
    places: dict[str, tuple[float, float]] = {}
    for depth, row in enumerate(rows):
        used = len(row) * NODE_WIDTH + (len(row) - 1) * GAP_X
        for index, stage in enumerate(row):
            x = (width - used) / 2 + index * (NODE_WIDTH + GAP_X)
            places[str(stage["name"])] = (x, 2 + depth * (NODE_HEIGHT + GAP_Y))
    return places


def _edge(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    x1, y1 = start[0] + NODE_WIDTH / 2, start[1] + NODE_HEIGHT
    x2, y2 = end[0] + NODE_WIDTH / 2, end[1] - 1
    middle = (y1 + y2) / 2
    bend = Markup("M{} {} C{} {} {} {} {} {}").format(x1, y1, x1, middle, x2, middle, x2, y2)
    return Markup('<path class="edge" marker-end="url(#arrow)" d="{}"/>').format(bend)


def _node(stage: Mapping[str, object], x: float, y: float) -> Markup:
    state = _STATES.get(str(stage["state"]), "blocked")
    name, inputs = str(stage["name"]), ", ".join(str(input_name) for input_name in _list(stage["inputs"]))
    below = str(stage["type"]) + ("" if state == "done" else f" · {state}")
    return Markup(
        '<g class="node {state}"><title>{full}</title>'
        '<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8"/>'
        '<text class="name" x="{c}" y="{y1}">{name}</text><text class="type" x="{c}" y="{y2}">{below}</text>'
        '<text class="takes" x="{c}" y="{y3}">{inputs}</text></g>'
    ).format(
        state=state,
        full=f"{name}: {below}" + (f"; takes {inputs}" if inputs else ""),
        x=x,
        y=y,
        w=NODE_WIDTH,
        h=NODE_HEIGHT,
        c=x + NODE_WIDTH / 2,
        y1=y + 21,
        y2=y + 36,
        y3=y + 50,
        name=escape(_short(name, 20)),
        below=below,
        inputs=_short(inputs, 26),
    )


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
