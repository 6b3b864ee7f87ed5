"""The texts that the nano language model learns from: scenes in words, and questions about what it has read.

There are no pictures here, no image slots and none of the task words of the later stages; what the model brings to
stage 1 is a language and the habit of answering from what stands before the question.
"""

from dataclasses import dataclass
from random import Random

from tinygptv_core.scenes.scene import Scene, Thing, draw_scene
from tinygptv_core.scenes.texts import (
    GROUP_WEIGHTS,
    article,
    box_text,
    caption,
    described,
    detailed_caption,
    grounded_caption,
    question,
    reference,
    referred,
    short_caption,
)
from tinygptv_core.stage import PHI_QUESTION

# Of so many documents: a scene in other words; lists of what belongs together; questions; boxes.
DESCRIPTIONS, LISTS, QUESTIONS, BOXES = 2, 4, 5, 3
QUESTIONS_PER_SCENE = 6
ASKS = ("", "", "Question: ")
BOX_ASKS = (
    "where exactly is the {}?",
    "give the box of the {}",
    "give me the location of the {} as a box",
    "find the {}",
)
BOX_NAMES = ("what is at {}?", "name the shape in {}", "which shape is in the box {}?")
# A text about a scene without another before it: there is nothing in it to be read, only to be worded.
ALONE = 0.1
SHUFFLED = 0.5
# One document in ten may be about a scene of one thing: about several there is more to learn.
SINGLE = 0.1
LISTED_BY = ("shape", "colour", "place")


@dataclass(frozen=True)
class Passage:
    """A piece of a document; `learned` pieces are targets of the loss."""

    text: str
    learned: bool


def document(random: Random) -> list[Passage]:
    """One document about one training scene.

    Its notes are few and regular. What is hard is which words belong together, and a small model learns that from
    texts that are alike, while with many wordings it was still guessing when the steps were spent (docs/log.md).
    """
    kinds = (_description, _lists, _questions, _boxes)
    return random.choices(kinds, (DESCRIPTIONS, LISTS, QUESTIONS, BOXES))[0](random, _scene(random))


def _scene(random: Random) -> Scene:
    while True:
        scene = draw_scene(random, "train")
        if len(scene.things) > 1 or random.random() < SINGLE:
            return scene


def _description(random: Random, scene: Scene) -> list[Passage]:
    """A text about the scene, mostly after another text about it, so that it says again what it has read."""
    text = random.choice(
        (caption(random, scene), detailed_caption(scene), short_caption(scene), grounded_caption(scene))
    )
    words = random.choice((_notes, _notes, _notes_with_boxes))(random, scene)
    before = [] if random.random() < ALONE else [Passage(f"{words}\n", False)]
    return [*before, Passage(f"{text}\n", True)]


def _lists(random: Random, scene: Scene) -> list[Passage]:
    """The notes, then each thing by its shape, by its colour and by its place, with the rest of what it is.

    Nearly every word to be learned is one to be looked up: the most practice that a text of that length can give.
    """
    passages = [Passage(f"{_notes(random, scene)}\n", False)]
    for key in random.sample(LISTED_BY, len(LISTED_BY)):
        for thing in random.sample(scene.things, len(scene.things)):
            if phrase := reference(random, scene, thing, (key,)):
                rest = " ".join(getattr(thing, name) for name in ("size", "colour", "shape", "place") if name != key)
                passages += [Passage(f"{phrase}:", False), Passage(f"{rest}\n", True)]
    return passages


def _questions(random: Random, scene: Scene) -> list[Passage]:
    asked = [question(random, scene, GROUP_WEIGHTS) for _ in range(QUESTIONS_PER_SCENE)]
    words = random.choice((_notes, _notes, _full_caption))(random, scene)
    return _exchange(random, words, [(q.text, q.answer) for q in asked])


def _boxes(random: Random, scene: Scene) -> list[Passage]:
    """Where things are, in numbers; half of the time the text does not hold them and they follow from the place."""
    pairs: list[tuple[str, str]] = []
    for _ in range(QUESTIONS_PER_SCENE):
        if found := referred(random, scene):
            thing, phrase = found
            pairs.append((random.choice(BOX_ASKS).format(phrase), box_text(thing)))
        named = random.choice(scene.things)
        pairs.append((random.choice(BOX_NAMES).format(box_text(named)), described(named)))
    random.shuffle(pairs)
    words = random.choice((_notes, _notes_with_boxes))(random, scene)
    return _exchange(random, words, pairs[:QUESTIONS_PER_SCENE])


def _exchange(random: Random, about: str, pairs: list[tuple[str, str]]) -> list[Passage]:
    """The scene and the first question in one request, then the other questions; answers are learned.

    An answer follows at once, without a space, as answers do in every later stage.
    """
    before, after = PHI_QUESTION.split("{}")
    passages: list[Passage] = []
    context = f"{about}. "
    for asked, answer in pairs:
        passages += [
            Passage(f"{before}{context}{random.choice(ASKS)}{asked}{after}", False),
            Passage(f"{answer}\n", True),
        ]
        context = ""
    return passages


def _full_caption(random: Random, scene: Scene) -> str:
    parts = [f"{article(described(thing))} in the {thing.place}" for thing in scene.things]
    return f"{', '.join(parts)}, on {article(scene.background)} background"


def _notes(random: Random, scene: Scene) -> str:
    return _noted(random, scene, [_note(thing) for thing in scene.things])


def _notes_with_boxes(random: Random, scene: Scene) -> str:
    return _noted(random, scene, [f"{_note(thing)} {box_text(thing)}" for thing in scene.things])


def _note(thing: Thing) -> str:
    return f"{described(thing)} {thing.place}"


def _noted(random: Random, scene: Scene, notes: list[str]) -> str:
    """The notes, with the background, half of the time in any order."""
    notes = [*notes, f"{scene.background} background"]
    if random.random() < SHUFFLED:
        random.shuffle(notes)
    return ", ".join(notes)
