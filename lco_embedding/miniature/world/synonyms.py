"""How each attribute value is put into words.

A slot of a caption is an attribute, or an attribute and how it is put: `motion_verb`, `relation_inverse`. The first
word of a value is the value itself wherever the value can stand in a sentence. No word stands for two values of one
attribute, so that captions of different scenes differ.
"""

from __future__ import annotations

from collections.abc import Mapping

from lco_embedding.miniature.world.scenes import DOMAINS

Wordings = Mapping[str, tuple[str, ...]]

_SHAPE: Wordings = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "diamond": ("diamond", "rhombus"),
    "crescent": ("crescent", "moon"),
}
_COLOUR: Wordings = {
    "red": ("red", "scarlet"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "orange": ("orange", "amber"),
    "white": ("white", "snowy"),
    "cyan": ("cyan", "turquoise", "teal"),
}
_PITCH: Wordings = {"low": ("low", "deep"), "high": ("high", "shrill")}
_TIMBRE: Wordings = {
    "flute": ("flute", "whistle"),
    "buzz": ("buzz", "drone"),
    "hiss": ("hiss", "noise"),
    "rattle": ("rattle", "clatter"),
    "beep": ("beep", "bleep"),
}
_PATTERN: Wordings = {
    "rising": ("rising", "climbing"),
    "falling": ("falling", "sinking"),
    "steady": ("steady", "constant"),
    "pulsing": ("pulsing", "throbbing"),
}
_PATTERN_VERB: Wordings = {
    "rising": ("rises", "climbs", "goes up"),
    "falling": ("falls", "sinks", "goes down"),
    "steady": ("stays steady", "holds"),
    "pulsing": ("pulses", "throbs"),
}

_WORDS: dict[str, Wordings] = {
    name: {word: (word,) for word in DOMAINS[name]} for name in ("word", "next_word", "first", "second", "third")
}

SYNONYMS: Mapping[str, Wordings] = {
    "shape": _SHAPE,
    "colour": _COLOUR,
    "other_shape": _SHAPE,
    "other_colour": _COLOUR,
    "size": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "place": {
        "centre": ("in the centre", "in the middle"),
        "left": ("on the left", "at the left side"),
        "right": ("on the right", "at the right side"),
        "top": ("at the top", "near the top"),
        "bottom": ("at the bottom", "near the bottom"),
    },
    "background": {
        "plain": ("plain", "empty", "blank"),
        "striped": ("striped", "lined"),
        "dotted": ("dotted", "spotted"),
        "checkered": ("checkered", "tiled"),
    },
    "relation": {
        "left": ("to the left of", "left of"),
        "right": ("to the right of", "right of"),
        "above": ("above", "over"),
        "below": ("below", "under", "beneath"),
    },
    "relation_inverse": {
        "left": ("to the right of", "right of"),
        "right": ("to the left of", "left of"),
        "above": ("below", "under", "beneath"),
        "below": ("above", "over"),
    },
    "motion": {
        "left": ("moving left", "going to the left"),
        "right": ("moving right", "going to the right"),
        "up": ("moving up", "going upwards"),
        "down": ("moving down", "going downwards"),
        "growing": ("growing", "getting bigger"),
        "shrinking": ("shrinking", "getting smaller"),
        "blinking": ("blinking", "flashing"),
        "spinning": ("spinning", "turning"),
    },
    "motion_verb": {
        "left": ("moves left", "goes to the left"),
        "right": ("moves right", "goes to the right"),
        "up": ("moves up", "goes upwards"),
        "down": ("moves down", "goes downwards"),
        "growing": ("grows", "gets bigger"),
        "shrinking": ("shrinks", "gets smaller"),
        "blinking": ("blinks", "flashes"),
        "spinning": ("spins", "turns"),
    },
    "shade": {"bright": ("bright", "sunny"), "dark": ("dark", "dim")},
    "pitch": _PITCH,
    "timbre": _TIMBRE,
    "pattern": _PATTERN,
    "pattern_verb": _PATTERN_VERB,
    "next_pitch": _PITCH,
    "next_timbre": _TIMBRE,
    "next_pattern": _PATTERN,
    "next_pattern_verb": _PATTERN_VERB,
    **_WORDS,
}
"""For each slot of a caption and each value of its attribute, the words for it."""

NOUNS = {
    "shape": "shape",
    "colour": "colour",
    "size": "size",
    "place": "place",
    "background": "background",
    "relation": "place of the first object",
    "other_shape": "shape of the second object",
    "other_colour": "colour of the second object",
    "motion": "motion",
    "shade": "light",
    "pitch": "pitch",
    "timbre": "sound",
    "pattern": "pattern",
    "word": "word",
    "next_pitch": "pitch at the end",
    "next_timbre": "sound at the end",
    "next_pattern": "pattern at the end",
    "next_word": "word at the end",
    "first": "first word",
    "second": "second word",
    "third": "third word",
}
"""What each attribute is called."""


def attribute_of(slot: str) -> str:
    """Return the attribute that a slot of a caption names."""
    return slot.removesuffix("_verb").removesuffix("_inverse")


def wordings(name: str, value: str) -> tuple[str, ...]:
    """Return every way in which a caption can name a value of an attribute."""
    return tuple(word for slot in SYNONYMS if attribute_of(slot) == name for word in SYNONYMS[slot][value])
