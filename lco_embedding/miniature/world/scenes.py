"""Scenes: what can be seen, heard and read in the miniature's world, and which of it is kept for testing.

    rng = np.random.default_rng(0)
    scene = sample("image", "train", rng)
    scene["colour"], split_of(scene)

A scene is a kind and a value for each attribute of one of the kind's forms. How it is rendered (positions, voices,
shades) is no part of it: that varies with the random generator given to `render`.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import Literal, get_args

import numpy as np

Kind = Literal["image", "sound", "clip", "document"]
Split = Literal["train", "dev", "test"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SPLITS: tuple[Split, ...] = get_args(Split)

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "crescent")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "cyan")
TIMBRES = ("flute", "buzz", "hiss", "rattle", "beep")

SPOKEN_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("hello", "yes", "no", "stop", "house", "water", "music", "garden", "monkey", "paper"),
)
"""Words of which there are recordings, in their order."""

WRITTEN_WORDS = (
    *SPOKEN_WORDS,
    *("apple", "river", "stone", "bread", "tiger", "cloud", "honey", "lemon", "forest", "silver"),
    *("winter", "summer", "bridge", "candle", "doctor", "window", "rabbit", "pepper", "island", "dragon"),
    *("butter", "castle", "market", "pencil", "rocket", "salt", "wolf", "ship"),
)
"""Words of which documents are made."""

DOMAINS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": ("small", "large"),
    "place": ("centre", "left", "right", "top", "bottom"),
    "background": ("plain", "striped", "dotted", "checkered"),
    "relation": ("left", "right", "above", "below"),
    "other_shape": SHAPES,
    "other_colour": COLOURS,
    "motion": ("left", "right", "up", "down", "growing", "shrinking", "blinking", "spinning"),
    "shade": ("bright", "dark"),
    "pitch": ("low", "high"),
    "timbre": TIMBRES,
    "pattern": ("rising", "falling", "steady", "pulsing"),
    "word": SPOKEN_WORDS,
    "next_pitch": ("low", "high"),
    "next_timbre": TIMBRES,
    "next_pattern": ("rising", "falling", "steady", "pulsing"),
    "next_word": SPOKEN_WORDS,
    "script": ("latin", "runes"),
    "first": WRITTEN_WORDS,
    "second": WRITTEN_WORDS,
    "third": WRITTEN_WORDS,
}
"""The values of each attribute. Of two objects, `relation` is where the first is, seen from the other."""

TONE = ("pitch", "timbre", "pattern")
NEXT_TONE = ("next_pitch", "next_timbre", "next_pattern")

FORMS: dict[Kind, dict[tuple[str, ...], float]] = {
    "image": {
        ("shape", "colour", "size", "place", "background"): 0.5,
        ("shape", "colour", "relation", "other_shape", "other_colour", "background"): 0.5,
    },
    "clip": {("shape", "colour", "motion", "shade", "background"): 1.0},
    "sound": {
        TONE: 0.06,
        ("word",): 0.06,
        (*TONE, *NEXT_TONE): 0.28,
        (*TONE, "next_word"): 0.2,
        ("word", *NEXT_TONE): 0.2,
        ("word", "next_word"): 0.2,
    },
    "document": {
        ("script", "first"): 0.2,
        ("script", "first", "second"): 0.4,
        ("script", "first", "second", "third"): 0.4,
    },
}
"""The attributes of each form that a scene of a kind can have, and the share of scenes that have it."""

RUNIC_SHARE = 0.02
"""Share of documents in the invented script, where none is asked for: pretraining hardly sees it."""

LOOKS = frozenset({"script"})
"""Attributes of how a scene looks rather than of what it says: captions don't name them, negatives keep them."""

HELD_SHARES: dict[Kind, float] = {"image": 0.1, "clip": 0.1, "sound": 0.15, "document": 0.1}
"""Share of the combinations of attributes that is held out for testing, and as much for development. Sounds have the
fewest combinations, so more of theirs are held out: pools of several hundred must come from them."""

MAX_MISSES = 2000
"""Draws in a row that bring nothing new, after which a pool counts as exhausted."""

# Each shape and each colour is in one pair held out for testing, and is otherwise seen in all other colours and shapes.
TEST_PAIRS = frozenset((SHAPES[index], COLOURS[(3 * index + 4) % 8]) for index in range(8))
DEV_PAIRS = frozenset((SHAPES[index], COLOURS[(3 * index + 6) % 8]) for index in range(0, 8, 2))
"""Pairs of shape and colour of which training sees none."""


@dataclass(frozen=True)
class Scene:
    """What is to be seen, heard or read.

    Args:
        kind: The medium.
        attributes: Names and values, in the order of one of the kind's `FORMS`.
    """

    kind: Kind
    attributes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, kind: Kind, **attributes: str) -> Scene:
        """Make a scene of attributes given in any order.

        Raises:
            ValueError: The attributes are none of the kind's `FORMS`, a value is not in its domain, or the
                combination is none of the world's ([`is_valid`]).
        """
        if kind not in FORMS:
            raise ValueError(f"there is no kind {kind!r}; expected one of {', '.join(KINDS)}")
        form = next((form for form in FORMS[kind] if set(form) == set(attributes)), None)
        if form is None:
            forms = "; ".join(", ".join(form) for form in FORMS[kind])
            raise ValueError(f"no {kind} has the attributes {', '.join(attributes)}; expected one of: {forms}")
        for name, value in attributes.items():
            if value not in DOMAINS[name]:
                raise ValueError(f"{value!r} is no {name}; expected one of {', '.join(DOMAINS[name])}")
        scene = cls(kind, tuple((name, attributes[name]) for name in form))
        if not is_valid(scene):
            raise ValueError(f"{attributes} is no scene of the world; is_valid tells why")
        return scene

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return tuple(name for name, _ in self.attributes)

    def __getitem__(self, name: str) -> str:
        for key, value in self.attributes:
            if key == name:
                return value
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self.attributes)

    def changed(self, name: str, value: str) -> Scene:
        """Return the scene with another value for one attribute."""
        return Scene(self.kind, tuple((key, value if key == name else old) for key, old in self.attributes))


def is_valid(scene: Scene) -> bool:
    """Tell whether a combination of values is a scene of the world.

    Two objects differ in shape, and the shape that is earlier in `SHAPES` comes first: "a circle left of a square" and
    "a square right of a circle" are one scene, not two. What looks the same from all sides can't be seen to spin.
    """
    if "other_shape" in scene:
        return SHAPES.index(scene["shape"]) < SHAPES.index(scene["other_shape"])
    return not ("motion" in scene and scene["motion"] == "spinning" and scene["shape"] in ("circle", "ring"))


def split_of(scene: Scene) -> Split:
    """Return the split that a scene belongs to; it follows from what the scene says alone, whatever it looks like."""
    pairs = {
        (scene[shape], scene[colour])
        for shape, colour in (("shape", "colour"), ("other_shape", "other_colour"))
        if shape in scene
    }
    if pairs & TEST_PAIRS:
        return "test"
    if pairs & DEV_PAIRS:
        return "dev"
    text = "|".join((scene.kind, *(f"{name}={value}" for name, value in scene.attributes if name not in LOOKS)))
    place = int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") / 2**32
    share = HELD_SHARES[scene.kind]
    if place < 2 * share:
        return "test" if place < share else "dev"
    return "train"


def sample(kind: Kind, split: Split, rng: np.random.Generator, **fixed: str) -> Scene:
    """Draw a scene.

    Args:
        kind: The medium.
        split: The split that it must belong to.
        rng: Source of randomness.
        fixed: Values that the scene must have; only forms that have these attributes are drawn.

    Raises:
        ValueError: The kind has no form with these attributes, or no scene of the split was found with these values.
    """
    forms = {form: share for form, share in FORMS[kind].items() if set(fixed) <= set(form)}
    if not forms:
        raise ValueError(f"no {kind} has the attributes {', '.join(fixed)}")
    for name, value in fixed.items():
        if value not in DOMAINS[name]:
            raise ValueError(f"{value!r} is no {name}; expected one of {', '.join(DOMAINS[name])}")
    names, bounds = tuple(forms), np.cumsum(tuple(forms.values()))
    for _ in range(10_000):
        form = names[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]
        draws = rng.integers(0, [len(DOMAINS[name]) for name in form]).tolist()
        values = {name: DOMAINS[name][draw] for name, draw in zip(form, draws, strict=True)}
        if "script" in values:
            values["script"] = "runes" if rng.random() < RUNIC_SHARE else "latin"
        scene = Scene(kind, tuple((values | fixed).items()))
        if is_valid(scene) and split_of(scene) == split:
            return scene
    raise ValueError(f"found no {kind} of the {split} split with {fixed}")


def sample_distinct(kind: Kind, split: Split, count: int, rng: np.random.Generator, **fixed: str) -> list[Scene]:
    """Draw `count` scenes of which no two say the same, as [`sample`] does: a pool to search in.

    Raises:
        ValueError: There are too few such scenes.
    """
    scenes: dict[tuple[tuple[str, str], ...], Scene] = {}
    misses = 0
    while len(scenes) < count:
        scene = sample(kind, split, rng, **fixed)
        says = tuple(pair for pair in scene.attributes if pair[0] not in LOOKS)
        misses = misses + 1 if says in scenes else 0
        scenes.setdefault(says, scene)
        if misses == MAX_MISSES:
            raise ValueError(f"found only {len(scenes)} of {count} distinct scenes of kind {kind} in the {split} split")
    return list(scenes.values())


def scenes_of(kind: Kind, **fixed: str) -> list[Scene]:
    """List every scene of a kind that has the given values; of documents there are some 200,000."""
    scenes = []
    for form in FORMS[kind]:
        if set(fixed) <= set(form):
            domains = [(fixed[name],) if name in fixed else DOMAINS[name] for name in form]
            scenes += [Scene(kind, tuple(zip(form, values, strict=True))) for values in product(*domains)]
    return [scene for scene in scenes if is_valid(scene)]


def hard_negative(scene: Scene, rng: np.random.Generator) -> Scene:
    """Change one attribute of a scene, the attribute drawn first and then its new value.

    What is changed from a training scene is a training scene; of the others, any.
    """
    is_trained = split_of(scene) == "train"
    names = [name for name in scene.names if name not in LOOKS]
    for index in rng.permutation(len(names)).tolist():
        name = names[index]
        others = [scene.changed(name, value) for value in DOMAINS[name] if value != scene[name]]
        others = [other for other in others if is_valid(other) and not (is_trained and split_of(other) != "train")]
        if others:
            return others[int(rng.integers(len(others)))]
    raise ValueError(f"no single change of {scene} is a scene of its split")
