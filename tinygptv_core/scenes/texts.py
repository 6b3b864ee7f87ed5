"""What can be said and asked about a scene. Everything here follows from the scene alone.

No training text names a colour and a shape together that `UNSEEN` holds, not even to say that it is not there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from tinygptv_core.boxes import spelled
from tinygptv_core.scenes.scene import COLOURS, GRID, RADII_PIXELS, SHAPES, SIDE_PIXELS, UNSEEN, Scene, Thing

COUNTS = ("zero", "one", "two", "three", "four")
# Of ten questions about a scene, so many are of this type; those with many possible answers are asked more.
GROUP_WEIGHTS: Mapping[str, float] = {
    "colour": 2.2,
    "shape": 2.0,
    "where": 2.0,
    "count": 1.3,
    "exists": 1.0,
    "size": 0.8,
    "background": 0.7,
}
# A caption of pre-training may have 32 tokens, its end among them.
MAX_CAPTION_WORDS = 27


@dataclass(frozen=True, kw_only=True)
class SceneQuestion:
    """A question with its one short answer; `group` is its type."""

    group: str
    text: str
    answer: str


def article(words: str) -> str:
    """`words` after "a" or "an"."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def described(thing: Thing) -> str:
    """Size, colour and shape: "large red circle"."""
    return f"{thing.size} {thing.colour} {thing.shape}"


def box_text(thing: Thing) -> str:
    """Its box as the model spells it."""
    return spelled(thing.corners, SIDE_PIXELS, SIDE_PIXELS)


def listed(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


# Captions


def _caption_in_full(scene: Scene) -> str:
    parts = [f"{article(described(thing))} in the {thing.place}" for thing in scene.things]
    return f"{listed(parts)} on {article(scene.background)} background"


def _caption_with_places(scene: Scene) -> str:
    parts = [f"{described(thing)} {thing.place}" for thing in scene.things]
    return f"{', '.join(parts)}, {scene.background} background"


def _caption_places_first(scene: Scene) -> str:
    parts = [f"{thing.place} {described(thing)}" for thing in scene.things]
    return f"{scene.background} background, {', '.join(parts)}"


def _caption_of_kinds(scene: Scene) -> str:
    parts = [article(f"{thing.colour} {thing.shape}") for thing in scene.things]
    return f"a picture of {listed(parts)} on {scene.background}"


CAPTIONS: tuple[Callable[[Scene], str], ...] = (
    _caption_in_full,
    _caption_with_places,
    _caption_places_first,
    _caption_of_kinds,
)


def caption(random: Random, scene: Scene) -> str:
    """One line about the scene, in one of four wordings, of at most `MAX_CAPTION_WORDS` words and commas."""
    fitting = [text for text in (wording(scene) for wording in CAPTIONS) if _words(text) <= MAX_CAPTION_WORDS]
    return random.choice(fitting)


def _words(text: str) -> int:
    return len(text.replace(",", " ,").split())


def short_caption(scene: Scene) -> str:
    """The things and the background, always worded alike: what `[caption]` asks for."""
    return f"{listed([article(described(thing)) for thing in scene.things])} on {article(scene.background)} background"


def detailed_caption(scene: Scene) -> str:
    """Several sentences: how many there are, where each is, and how the first lies to the others."""
    count = len(scene.things)
    number = "There is one shape" if count == 1 else f"There are {COUNTS[count]} shapes"
    sentences = [f"{number} on {article(scene.background)} background."]
    sentences += [f"In the {thing.place} there is {article(described(thing))}." for thing in scene.things]
    first, *others = scene.things
    sentences += [f"The {first.shape} is {_relation(first, other)} the {other.shape}." for other in others[:1]]
    return " ".join(sentences)


def _relation(first: Thing, second: Thing) -> str:
    """How `first` lies to `second`, which comes later in reading order."""
    if first.cell // GRID != second.cell // GRID:
        return "above"
    return "left of"


def grounded_caption(scene: Scene) -> str:
    """Every thing as a phrase with its box: "<p>large red circle</p> {<2><3><30><31>}, ..."."""
    return ", ".join(f"<p>{described(thing)}</p> {box_text(thing)}" for thing in scene.things)


# Questions


def reference(random: Random, scene: Scene, thing: Thing, using: tuple[str, ...]) -> str | None:
    """Words that mean this thing and no other of the scene, using only the attributes named; None: there are none.

    Size is used only to tell apart what the others leave open, as people do.
    """
    ways = [way for way in REFERENCES if set(way) <= set(using)]
    random.shuffle(ways)
    for way in ways:
        if sum(all(getattr(other, a) == getattr(thing, a) for a in way) for other in scene.things) == 1:
            return _phrase(thing, way)
    return None


REFERENCES = (("shape",), ("colour",), ("colour", "shape"), ("size", "shape"), ("place",), ("size", "colour", "shape"))


def _phrase(thing: Thing, way: tuple[str, ...]) -> str:
    if way == ("place",):
        return f"shape in the {thing.place}"
    words = [getattr(thing, attribute) for attribute in way]
    return " ".join(words if way[-1] == "shape" else [*words, "shape"])


def _about(random: Random, scene: Scene, things: tuple[Thing, ...], using: tuple[str, ...]) -> tuple[Thing, str] | None:
    for thing in random.sample(things, len(things)):
        if phrase := reference(random, scene, thing, using):
            return thing, phrase
    return None


def _colour(random: Random, scene: Scene, things: tuple[Thing, ...]) -> tuple[str, str] | None:
    if not (found := _about(random, scene, things, ("shape", "size", "place"))):
        return None
    thing, phrase = found
    return random.choice(("what colour is the {}?", "which colour does the {} have?")).format(phrase), thing.colour


def _shape(random: Random, scene: Scene, things: tuple[Thing, ...]) -> tuple[str, str] | None:
    if not (found := _about(random, scene, things, ("colour", "place"))):
        return None
    thing, phrase = found
    if phrase.startswith("shape"):
        phrase = phrase.removeprefix("shape ")
        return random.choice(("what shape is {}?", "which shape is {}?")).format(phrase), thing.shape
    return random.choice(("what is the {}?", "what kind of shape is the {}?")).format(phrase), thing.shape


def _size(random: Random, scene: Scene, things: tuple[Thing, ...]) -> tuple[str, str] | None:
    if not (found := _about(random, scene, things, ("colour", "shape", "place"))):
        return None
    thing, phrase = found
    return random.choice(("is the {} small or large?", "what size is the {}?")).format(phrase), thing.size


def _where(random: Random, scene: Scene, things: tuple[Thing, ...]) -> tuple[str, str] | None:
    if not (found := _about(random, scene, things, ("colour", "shape"))):
        return None
    thing, phrase = found
    return random.choice(("where is the {}?", "in which place is the {}?")).format(phrase), thing.place


def _count(random: Random, scene: Scene, things: tuple[Thing, ...]) -> tuple[str, str]:
    if random.random() < 0.6:
        return random.choice(("how many shapes are there?", "what is the number of shapes?")), COUNTS[len(scene.things)]
    size = random.choice(list(RADII_PIXELS))
    return f"how many {size} shapes are there?", COUNTS[sum(thing.size == size for thing in scene.things)]


def _exists(random: Random, scene: Scene, things: tuple[Thing, ...]) -> tuple[str, str]:
    there = {(thing.colour, thing.shape) for thing in scene.things}
    unseen = things[0].unseen
    if random.random() < 0.5:
        thing = random.choice(things)
        colour, shape, answer = thing.colour, thing.shape, "yes"
    else:
        absent = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in there and ((c, s) in UNSEEN) == unseen]
        # Half of them differ from something in the scene by one word only.
        near = [(c, s) for c, s in absent if any((c == oc) != (s == os) for oc, os in there)]
        (colour, shape), answer = random.choice(near if near and random.random() < 0.5 else absent), "no"
    pattern = random.choice(("is there {}?", "can you see {}?"))
    return pattern.format(article(f"{colour} {shape}")), answer


def _background(random: Random, scene: Scene, things: tuple[Thing, ...]) -> tuple[str, str]:
    pattern = random.choice(("what colour is the background?", "which colour does the background have?"))
    return pattern, scene.background


ASKING: Mapping[str, Callable[[Random, Scene, tuple[Thing, ...]], tuple[str, str] | None]] = {
    "colour": _colour,
    "shape": _shape,
    "where": _where,
    "count": _count,
    "exists": _exists,
    "size": _size,
    "background": _background,
}


def question(random: Random, scene: Scene, groups: Mapping[str, float]) -> SceneQuestion:
    """A question about a scene, of a type drawn by weight from those of `groups` that can be asked of it.

    About a scene with an unseen thing, the question is about that thing.
    """
    things = tuple(thing for thing in scene.things if thing.unseen) or scene.things
    remaining = dict(groups)
    while True:
        group = random.choices(list(remaining), list(remaining.values()))[0]
        if asked := ASKING[group](random, scene, things):
            return SceneQuestion(group=group, text=asked[0], answer=asked[1])
        del remaining[group]


def referred(random: Random, scene: Scene) -> tuple[Thing, str] | None:
    """A thing and words that mean it alone; an unseen thing if there is one. None: nothing can be told apart."""
    things = tuple(thing for thing in scene.things if thing.unseen) or scene.things
    return _about(random, scene, things, ("size", "colour", "shape"))


def dialogue(random: Random, scene: Scene) -> tuple[SceneQuestion, ...]:
    """Two or three questions about one scene, none twice."""
    wanted = random.randint(2, 3)
    asked: dict[str, SceneQuestion] = {}
    while len(asked) < wanted:
        new = question(random, scene, GROUP_WEIGHTS)
        asked[new.text] = new
    return tuple(asked.values())


# Text without a picture


def text_question(random: Random, scene: Scene) -> SceneQuestion:
    """Reading: the scene in words, then a question about it."""
    asked = question(random, scene, GROUP_WEIGHTS)
    return SceneQuestion(group=asked.group, text=f"{_caption_in_full(scene)}. {asked.text}", answer=asked.answer)
