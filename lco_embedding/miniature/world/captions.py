"""Captions: sentences that name every attribute of a scene, in word orders that differ between the splits.

    caption(scene, rng)                 # "a tiny red disc on the left on a plain background"
    caption(scene, rng, split="test")   # another word order, made of the same words

A slot such as `{colour}` takes one of the synonyms; `a*` becomes "a" or "an".
"""

from __future__ import annotations

import re

import numpy as np

from lco_embedding.miniature.world.scenes import Scene, Split
from lco_embedding.miniature.world.synonyms import SYNONYMS, attribute_of

TEMPLATES: dict[str, dict[Split, tuple[str, ...]]] = {
    "object": {
        "train": (
            "a* {size} {colour} {shape} {place} on a* {background} background",
            "on a* {background} background there is a* {size} {colour} {shape} {place}",
            "{place} there is a* {colour} {shape}, it is {size} and the background is {background}",
            "a* {shape} that is {size} and {colour}, {place} of a* {background} picture",
        ),
        "dev": (
            "a* {background} background, and {place} of it a* {size} {shape} that is {colour}",
            "there is a* {colour} {shape} of {size} size {place}, on a* {background} background",
        ),
        "test": (
            "a* {background} picture with a* {size} {colour} {shape} {place}",
            "the {shape} {place} is {colour} and {size}, on a* {background} background",
            "a* {colour} and {size} {shape} {place}, the background is {background}",
        ),
    },
    "pair": {
        "train": (
            "a* {colour} {shape} {relation} a* {other_colour} {other_shape} on a* {background} background",
            "on a* {background} background a* {other_colour} {other_shape} is {relation_inverse} a* {colour} {shape}",
            "{relation} the {other_colour} {other_shape} there is a* {colour} {shape}, the background is {background}",
            "a* {shape} that is {colour}, {relation} a* {other_colour} {other_shape}, the background is {background}",
        ),
        "dev": (
            "{relation_inverse} the {colour} {shape} a* {other_colour} {other_shape}, on a* {background} background",
            "a* {background} background with a* {colour} {shape} {relation} a* {other_colour} {other_shape}",
        ),
        "test": (
            "a* {other_colour} {other_shape} {relation_inverse} a* {colour} {shape}, the background is {background}",
            "a* {background} picture, {relation} the {other_colour} {other_shape} is a* {colour} {shape}",
            "the {colour} {shape} is {relation} a* {other_colour} {other_shape}, on a* {background} background",
        ),
    },
    "clip": {
        "train": (
            "a* {colour} {shape} {motion} on a* {shade} {background} background",
            "on a* {background} background in a* {shade} clip a* {colour} {shape} {motion_verb}",
            "the {shade} clip shows a* {colour} {shape}, it {motion_verb} and the background is {background}",
            "in a* {shade} scene there is a* {shape} {motion}, it is {colour} on a* {background} background",
        ),
        "dev": (
            "a* {colour} {shape} that {motion_verb} in a* {shade} scene with a* {background} background",
            "the {background} background is {shade}, on it a* {colour} {shape} {motion_verb}",
        ),
        "test": (
            "a* {shade} scene with a* {background} background, in it a* {colour} {shape} {motion_verb}",
            "the {shape} is {colour} and it {motion_verb}, the background is {shade} and {background}",
            "there is a* {colour} {shape} {motion} in a* {shade} clip on a* {background} background",
        ),
    },
    "tone": {
        "train": (
            "a* {pitch} {timbre} that {pattern_verb}",
            "a* {pattern} {pitch} {timbre}",
            "a* {timbre} that is {pitch} and {pattern}",
        ),
        "dev": ("a* {pitch} and {pattern} {timbre}",),
        "test": ("a* {pattern} {timbre} that is {pitch}", "a* {timbre} that is {pitch} and {pattern_verb}"),
    },
    "word": {
        "train": (
            "a voice saying {word}",
            "the spoken word {word}",
            "someone who says {word}",
            "the word {word} said by a voice",
        ),
        "dev": ("someone saying {word}", "the word {word} spoken by a voice"),
        "test": ("a voice that says {word}", "the word {word} said by someone", "someone saying the word {word}"),
    },
    "join": {
        "train": (
            "{start}, then {end}",
            "first {start} and then {end}",
            "{end} after {start}",
            "before {end} there is {start}",
        ),
        "dev": ("first there is {start}, then there is {end}", "there is {end} after {start}"),
        "test": ("after {start} there is {end}", "{start} before {end}", "{start} and after it {end}"),
    },
    "document": {
        "train": (
            "a page that says {text}",
            "the text {text} on a page",
            "a note with the text {text}",
            "{text}, written on a page",
        ),
        "dev": ("a note that says {text}", "the text {text} on a note"),
        "test": ("a page with the text {text}", "{text}, written on a note", "the page says {text}"),
    },
}
"""Templates of each form by split. Those of testing hold no word that is in none of training."""

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\ba\* (?=([aeiou])?)")


def caption(scene: Scene, rng: np.random.Generator, split: Split = "train") -> str:
    """Write a caption that names every attribute of a scene but its looks.

    Args:
        scene: What to describe.
        rng: Draws the template and the synonyms.
        split: Whose templates to use.
    """
    if scene.kind == "document":
        return choose(TEMPLATES["document"][split], rng).format(text=text_of(scene))
    if scene.kind == "image":
        return fill(choose(TEMPLATES["pair" if "relation" in scene else "object"][split], rng), scene, rng)
    if scene.kind == "clip":
        return fill(choose(TEMPLATES["clip"][split], rng), scene, rng)
    halves = [half_caption(scene, prefix, rng, split) for prefix in halves_of(scene)]
    return (
        halves[0] if len(halves) == 1 else choose(TEMPLATES["join"][split], rng).format(start=halves[0], end=halves[1])
    )


def halves_of(scene: Scene) -> list[str]:
    """Return the prefix of the attributes of each part of a sound: "", and "next_" if there is a second part."""
    return ["", "next_"] if any(name.startswith("next_") for name in scene.names) else [""]


def half_caption(scene: Scene, prefix: str, rng: np.random.Generator, split: Split = "train") -> str:
    """Write a noun phrase for one part of a sound, whose attributes have the prefix."""
    form = "word" if prefix + "word" in scene else "tone"
    return fill(choose(TEMPLATES[form][split], rng), scene, rng, prefix)


def text_of(scene: Scene) -> str:
    """Return what a document says, or the words spoken in a sound ("" if there are none)."""
    said = ("first", "second", "third", "word", "next_word")
    return " ".join(value for name, value in scene.attributes if name in said)


def fill(template: str, scene: Scene, rng: np.random.Generator, prefix: str = "") -> str:
    """Put synonyms into the slots of a template, and the right article for each `a*`.

    Args:
        template: Text with slots.
        scene: Where the values come from.
        rng: Draws the synonyms.
        prefix: Stands before the attribute's name in the scene.
    """

    def word(match: re.Match[str]) -> str:
        slot = prefix + match[1]
        return choose(SYNONYMS[slot][scene[attribute_of(slot)]], rng)

    return with_articles(_SLOT.sub(word, template))


def with_articles(text: str) -> str:
    """Write "a" or "an" for each `a*`; every word of the world is written as it begins to sound."""
    return _ARTICLE.sub(lambda match: "an " if match[1] else "a ", text)


def choose(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """Draw one of some texts."""
    return options[int(rng.integers(len(options)))] if len(options) > 1 else options[0]
