"""Diversity, repetition and self-BLEU, against values worked out by hand and a brute-force BLEU."""

import math
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.evaluation.text import distinct, duplicates, is_character, repetition, self_bleu, words


def test_words_are_lower_case_and_punctuation_stands_alone():
    assert words("Don't PANIC, ok?") == ["don", "'", "t", "panic", ",", "ok", "?"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我喜欢iPhone手机，好。", ["我", "喜", "欢", "iphone", "手", "机", "，", "好", "。"]),
        ("第12章", ["第", "12", "章"]),
        ("今日はコーヒー", ["今", "日", "は", "コ", "ー", "ヒ", "ー"]),
        ("ﾊﾟﾝ", ["ﾊﾟ", "ﾝ"]),
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),
        ("สวัสดี ทำ ๒๕๖๙", ["ส", "วั", "ส", "ดี", "ทำ", "๒๕๖๙"]),
        ("ສະບາຍດີ", ["ສ", "ະ", "ບ", "າ", "ຍ", "ດີ"]),
        ("ខ្ញុំ", ["ខ្", "ញុំ"]),
        ("မြန်", ["မြ", "န်"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("می\u200cخواهم مُحَمَّد", ["می\u200cخواهم", "مُحَمَّد"]),
        ("cafe\u0301 _one_ a\u200bb", ["caf\u00e9", "_", "one", "_", "a", "b"]),
    ],
)
def test_characters_of_scripts_without_spaces_are_words_and_marks_stay_with_their_base(text, expected):
    assert words(text) == expected


def test_which_words_are_characters():
    assert [is_character(word) for word in words("好 ดี か good 12 ๒ 한국 。")] == [True] * 3 + [False] * 5


@pytest.mark.parametrize("text", ["我喜欢你" * 4, "สวัสดี" * 4, "ありがと" * 4])
def test_repetition_is_seen_without_spaces(text):
    once = repetition(text[: len(text) // 4])
    assert repetition(text) > 0.6 and once == 0


def test_chinese_answers_that_share_most_characters_are_alike():
    similar = ["请把火炉关掉然后打开窗户", "请把火炉关掉然后打开门", "请把火炉关掉然后离开"]
    assert self_bleu(similar) > 0.6 > 0.1 > self_bleu(["请把火炉关掉", "今天天气很好", "我们去吃晚饭"])
    assert distinct(["好好好好"], 1) == 1 / 4


@given(st.text())
def test_no_character_is_lost_but_space_between_words(text):
    joined = "".join(words(text))
    assert not any(letter.isspace() for letter in joined)
    normalised = unicodedata.normalize("NFC", text.casefold())
    assert joined == "".join(letter for letter in normalised if not letter.isspace() and letter != "\u200b")


def test_distinct_counts_over_all_texts():
    texts = ["a b a", "a b c"]
    assert distinct(texts, 1) == 3 / 6
    assert distinct(texts, 2) == 3 / 4  # ab, ba, ab, bc
    assert math.isnan(distinct(["", " "], 1))


def test_repetition_is_the_share_of_said_four_grams():
    assert repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)
    assert repetition("a b c") == 0 and repetition("") == 0
    assert repetition("no no no no no no no no no") == pytest.approx(1 - 1 / 6)


def test_duplicates_are_marked_on_both_sides():
    assert duplicates(["yes", "no", " yes\n", "caf\u00e9", "cafe\u0301"]) == [True, False, True, True, True]


def test_self_bleu_of_copies_is_one_and_of_strangers_near_zero():
    assert self_bleu(["the cat sat on the mat"] * 3) == pytest.approx(1)
    assert self_bleu(["a b c d e f", "g h i j k l"]) < 0.03
    assert math.isnan(self_bleu(["alone", ""]))


def brute_self_bleu(texts):
    """Each text against all others, counts clipped reference by reference."""
    tokens = [text_words for text_words in map(words, texts) if text_words]
    total = 0.0
    for index, text in enumerate(tokens):
        others = tokens[:index] + tokens[index + 1 :]
        logs = []
        for order in range(1, min(4, len(text)) + 1):
            grams = Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1))
            best = Counter()
            for reference in others:
                best |= Counter(tuple(reference[i : i + order]) for i in range(len(reference) - order + 1))
            matched = sum(min(count, best[gram]) for gram, count in grams.items())
            logs.append(math.log((matched or 0.1) / sum(grams.values())))
        closest = min((len(reference) for reference in others), key=lambda size: (abs(size - len(text)), size))
        penalty = 1 if len(text) >= closest else math.exp(1 - closest / len(text))
        total += penalty * math.exp(sum(logs) / len(logs))
    return total / len(tokens)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), min_size=2, max_size=6))
def test_self_bleu_is_the_brute_force_one(texts):
    if sum(bool(text) for text in texts) >= 2:
        assert self_bleu(texts) == pytest.approx(brute_self_bleu(texts), rel=1e-12)
