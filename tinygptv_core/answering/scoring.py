"""How answers are scored: strictly, and as the paper's own evaluations do, whose numbers are only to be compared so."""

import re
from collections.abc import Callable, Sequence

from tinygptv_core.boxes import Box, first_box, overlap, published_overlap

MIN_OVERLAP = 0.5
ARTICLES = ("a", "an", "the")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def plain_words(answer: str) -> str:
    """An answer's words: lower case, English letters and digits alone, no articles.

    >>> plain_words(" The top-left. ")
    'top left'
    """
    words = re.sub(r"[^a-z0-9]+", " ", answer.lower()).split()
    return " ".join(word for word in words if word not in ARTICLES)


def same_words(answer: str, references: Sequence[str]) -> float:
    """1.0 when the answer has the words of one of the references and no others, else 0.0. No words are wrong."""
    found = plain_words(answer)
    return float(found != "" and found in map(plain_words, references))


def vqa_normalized(answer: str) -> str:
    """An answer as the official VQA evaluation compares it: lower case, numbers as digits, no articles, no marks.

    >>> vqa_normalized("The two dogs, playing!")
    '2 dogs playing'

    Source: VQA's public `vqaEval.py`. A mark goes where it stands beside a space, or where the answer has a number
    with a comma; else it becomes a space. That table of contractions puts apostrophes in ("dont" is "don't"); here
    they go from both sides, which finds the same answers equal.
    """
    given = answer.replace("\n", " ").replace("\t", " ").strip()
    text = given
    for mark in PUNCTUATION:
        goes = f"{mark} " in given or f" {mark}" in given or re.search(r"\d,\d", given)
        text = text.replace(mark, "" if goes else " ")
    text = re.sub(r"\.(?!\d)", "", text).lower().replace("'", "")
    digits = {word: str(value) for value, word in enumerate(NUMBERS)} | {"none": "0"}
    return " ".join(digits.get(word, word) for word in text.split() if word not in ARTICLES)


def exact(answer: str, references: Sequence[str]) -> float:
    """1.0 when the answer is one of the references, to the official VQA evaluation, else 0.0. An empty one is wrong."""
    found = vqa_normalized(answer)
    return float(found != "" and found in map(vqa_normalized, references))


def holds(answer: str, references: Sequence[str]) -> float:
    """1.0 when a reference stands anywhere in the answer, else 0.0: "no" is held by "I do not know".

    Source: the public evaluation of TinyGPT-V, for GQA and VSR.
    """
    return float(any(reference.lower() in answer.lower() for reference in references))


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """How far one answer agrees with several people's, in 0..1. An empty answer agrees with nobody.

    For each person left out in turn: a third for every one of the others who gave this very answer, at most 1. The
    mean of these.

    Source: the official `vqaEval.py`, which is the formula of visualqa.org/evaluation.html. Many codebases score
    `min(matches / 3, 1)` instead, which is never lower.
    """
    found = vqa_normalized(answer)
    same = [found != "" and found == vqa_normalized(other) for other in references]
    return sum(min((sum(same) - left_out) / 3, 1.0) for left_out in same) / len(same)


def vizwiz_published(answer: str, references: Sequence[str]) -> float:
    """`min(matches / 3, 1)`, where what is part of the other, either way, matches: an empty answer scores 1.

    Source: the public evaluation of TinyGPT-V, for VizWiz.
    """
    found = answer.lower()
    matches = sum(found in other.lower() or other.lower() in found for other in references)
    return min(matches / 3, 1.0)


def says_yes(answer: str, references: Sequence[str]) -> float:
    """1.0 when there is a "yes" in the answer just if there should be, else 0.0.

    Source: the public evaluation of TinyGPT-V, for Hateful Memes.
    """
    return float(("yes" in answer.lower()) == (references[0] == "yes"))


def box_hit(answer: str, references: Sequence[str]) -> float:
    """1.0 when the answer's first box overlaps one of the references' by more than half, else 0.0."""
    return _hit(answer, references, overlap)


def box_published(answer: str, references: Sequence[str]) -> float:
    """1.0 when the answer's box overlaps the reference's by more than half as the reference code counts it, else 0.0.

    To it both edges belong to a box (`published_overlap`), in hundredths of the picture.
    """
    return _hit(answer.replace(" ", ""), references, published_overlap)


def _hit(answer: str, references: Sequence[str], measure: Callable[[Box, Box], float]) -> float:
    found = first_box(answer)
    wanted = [box for box in map(first_box, references) if box is not None]
    return float(found is not None and any(measure(found, box) > MIN_OVERLAP for box in wanted))
