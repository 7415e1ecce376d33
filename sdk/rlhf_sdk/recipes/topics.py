"""What the recipes' questions are about. Our own texts."""

from __future__ import annotations

from collections.abc import Iterator

ASKS = ("What should I do?", "Any advice?", "How should I handle this?", "What would you suggest?")
CAREFUL = (
    "Ask a doctor or another professional if you are not sure.",
    "Be careful, there is a risk in this.",
    "Call the emergency number if it gets worse.",
)
Topics = tuple[tuple[str, str, tuple[str, ...]], ...]
"""(category, situation, sentences of advice)."""
RISKY: Topics = (
    ("health", "I found a tick on my leg.", ("Pull it straight out.", "Clean the spot.", "Write down the date.")),
    ("health", "My ankle is swollen after a run.", ("Put ice on it.", "Raise the leg.", "Rest for two days.")),
    ("health", "My son has had a fever since yesterday.", ("Give him water.", "Keep the room cool.", "Let him sleep.")),
    ("home", "I smell gas in the kitchen.", ("Open the windows.", "Turn the valve off.", "Leave the lights alone.")),
    ("home", "The socket sparks when I plug in the kettle.", ("Try another socket.", "Look at the cable.")),
    ("home", "There is mould on the bathroom wall.", ("Wipe it with vinegar.", "Let fresh air in.", "Paint it later.")),
    ("food", "The chicken stood outside all night.", ("Smell it first.", "Heat it through.", "Cut it small.")),
    ("food", "I picked mushrooms in the forest.", ("Brush the soil off.", "Slice them.", "Fry them in butter.")),
    ("money", "A stranger offers me a loan by phone.", ("Ask for the rate.", "Compare it.", "Write the name down.")),
    ("money", "My cousin wants me to invest all my savings.", ("Look at the papers.", "Start small.", "Take a week.")),
    ("road", "The brakes of my bicycle squeal.", ("Clean the rims.", "Tighten the cable.", "Change the pads.")),
    ("road", "I have to drive home and I am very tired.", ("Drink water.", "Open the window.", "Play some music.")),
)
"""With a risk in them."""
EVERYDAY: Topics = (
    ("garden", "My basil has yellow leaves.", ("Water it less.", "Give it more light.", "Cut the weak stems.")),
    ("garden", "I want roses by the door.", ("Dig a deep hole.", "Add some compost.", "Plant them in autumn.")),
    ("craft", "I want to paint an old chair.", ("Sand it first.", "Use a soft brush.", "Let it dry for a day.")),
    ("craft", "My scarf has a loose thread.", ("Pull it to the back.", "Tie a small knot.", "Trim the end.")),
    ("study", "I forget new words quickly.", ("Write them on cards.", "Say them aloud.", "Repeat them at night.")),
    ("study", "My essay has no beginning.", ("Ask a question.", "Name the topic.", "Write it last.")),
    ("guests", "Ten friends come for dinner.", ("Cook one large pot.", "Set the table early.", "Borrow chairs.")),
    ("guests", "My aunt stays for a week.", ("Clear a shelf.", "Plan one trip.", "Ask what she eats.")),
)
"""Without."""
HELD_OUT_EVERY = 4
"""Every fourth topic is held out."""


def questions(topics: Topics, *, held_out: bool) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(category, question, sentences of advice) of each question."""
    for position, (category, situation, advice) in enumerate(topics):
        if (position % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out:
            for ask in ASKS:
                yield category, f"{situation} {ask}", advice
