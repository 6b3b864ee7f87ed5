"""The texts that the nano language model learns from: scenes in words, and questions about what it has read.

There are no pictures here, no image slots and none of the task words of the later stages; what the model brings to
stage 1 is a language and the habit of answering from what stands before the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tinygptv_core.scenes.scene import GRID, PLACES, Scene, Thing, draw_scene
from tinygptv_core.scenes.texts import (
    GROUP_WEIGHTS,
    article,
    box_text,
    caption,
    described,
    detailed_caption,
    grounded_caption,
    question,
    referred,
    short_caption,
)
from tinygptv_core.stages import PHI_QUESTION

# Of so many documents: a scene in words and no more; questions about the scene; boxes.
DESCRIPTIONS, QUESTIONS, BOXES = 5, 5, 2
QUESTIONS_PER_SCENE = 6
LEADS = ("", "", "Read this: ", "A picture in words: ", "Notes: ", "This is what there is: ")
ASKS = (
    "",
    "",
    "Question: ",
    "Give a short answer: ",
    "Based on the text, answer this with a word or two: ",
    "Respond to this question about it: ",
)
BOX_ASKS = (
    "where exactly is the {}?",
    "give the box of the {}",
    "give me the location of the {} as a box",
    "find the {}",
)
BOX_NAMES = ("what is at {}?", "name the shape in {}", "which shape is in the box {}?")
# A text about a scene without another before it: there is nothing in it to be read, only to be worded.
ALONE = 0.1
SHUFFLED = 0.25
ENDINGS = ("", " ", ". ", "\n", "\n")
SEPARATORS = (", ", "; ", ". ")
ORDERS = (
    ("size", "colour", "shape", "place"),
    ("place", "size", "colour", "shape"),
    ("colour", "shape", "place", "size"),
    ("shape", "colour", "size", "place"),
)
MAX_STRAY_WORDS = 4


@dataclass(frozen=True)
class Passage:
    """A piece of a document; `learned` pieces are targets of the loss."""

    text: str
    learned: bool


def document(random: Random, words: Sequence[str]) -> list[Passage]:
    """One document about one training scene. `words` are what stray words before it are drawn from."""
    scene = draw_scene(random, "train")
    stray = _stray(random, words)
    kind = random.choices((_description, _questions, _boxes), (DESCRIPTIONS, QUESTIONS, BOXES))[0]
    return [*stray, *kind(random, scene)]


def _stray(random: Random, words: Sequence[str]) -> list[Passage]:
    """Words that mean nothing here, in front of a quarter of the documents: what matters may begin late."""
    count = random.choice((0, 0, 0, random.randint(1, MAX_STRAY_WORDS)))
    return [Passage(" ".join(random.choices(words, k=count)) + " ", False)] if count else []


def _description(random: Random, scene: Scene) -> list[Passage]:
    """A text about the scene, mostly after another text about it, so that it says again what it has read."""
    text = random.choice(
        (caption(random, scene), detailed_caption(scene), short_caption(scene), grounded_caption(scene))
    )
    words = random.choice((_notes, _notes, _notes_with_boxes))(random, scene)
    before = [] if random.random() < ALONE else [Passage(f"{words}{random.choice(ENDINGS)}", False)]
    return [*before, Passage(f"{text}\n", True)]


def _questions(random: Random, scene: Scene) -> list[Passage]:
    asked = [question(random, scene, GROUP_WEIGHTS) for _ in range(QUESTIONS_PER_SCENE)]
    return _exchange(random, _in_words(random, scene), [(q.text, q.answer) for q in asked])


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
    context = f"{random.choice(LEADS)}{about} "
    for asked, answer in pairs:
        passages += [
            Passage(f"{before}{context}{random.choice(ASKS)}{asked}{after}", False),
            Passage(f"{answer}\n", True),
        ]
        context = ""
    return passages


def _in_words(random: Random, scene: Scene) -> str:
    wording = random.choice((_notes, _notes, _notes, _sentences, _full_caption))
    return wording(random, scene)


def _sentences(random: Random, scene: Scene) -> str:
    return detailed_caption(scene)


def _full_caption(random: Random, scene: Scene) -> str:
    parts = [f"{article(described(thing))} in the {thing.place}" for thing in scene.things]
    return f"{', '.join(parts)}, on {article(scene.background)} background."


def _notes(random: Random, scene: Scene) -> str:
    return _noted(random, scene, [_note(random, thing) for thing in scene.things])


def _notes_with_boxes(random: Random, scene: Scene) -> str:
    return _noted(random, scene, [f"{_note(random, thing)} {box_text(thing)}" for thing in scene.things])


def _note(random: Random, thing: Thing) -> str:
    """What is known about a thing, in one of several orders: the words alone must tell."""
    order = random.choice(ORDERS)
    return " ".join(getattr(thing, attribute) for attribute in order)


def _noted(random: Random, scene: Scene, notes: list[str]) -> str:
    """The notes in any order, the background among them, and sometimes which cells are empty."""
    filled = {thing.cell for thing in scene.things}
    empty = [f"{PLACES[cell]} empty" for cell in range(GRID * GRID) if cell not in filled]
    mentioned = random.sample(empty, random.choice((0, 0, len(empty))))
    notes = [*notes, *mentioned, f"{scene.background} background"]
    if random.random() < SHUFFLED:
        random.shuffle(notes)
    return random.choice(SEPARATORS).join(notes)
