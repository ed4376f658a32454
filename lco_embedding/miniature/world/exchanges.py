"""Exchanges: requests about a scene with their answers, as generative pretraining needs them.

    exchange(scene, rng)        # Exchange(task="question", request="What colour is the object?", answer="red")

The tasks are those that a real backbone has been taught: captions, questions, summaries in many wordings,
transcription. The prompt that the embedding uses ("Summarize the above ... in one word:") is never among them, or
nothing would be left for contrastive training to bring out; [`FORBIDDEN`] tells it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from lco_embedding.miniature.world.captions import caption, choose, fill, halves_of, text_of
from lco_embedding.miniature.world.scenes import LOOKS, Scene, Split

Task = Literal["caption", "question", "detail", "summary", "transcription"]
Medium = Literal["image", "sound", "clip", "document", "text"]

FORBIDDEN = re.compile(r"summari[sz]\w* +the +above|summari[sz].*\bone\s+word", re.IGNORECASE | re.DOTALL)
"""Matches the wordings of the embedding prompt, of which no text of the world holds any."""

NOUNS: dict[Medium, tuple[str, ...]] = {
    "image": ("picture", "image"),
    "sound": ("sound", "audio"),
    "clip": ("clip", "video"),
    "document": ("page", "note", "image"),
    "text": ("text", "sentence"),
}
"""What a medium is called in requests."""

CAPTION_REQUESTS = (
    "Describe the {medium}.",
    "Describe this {medium} in a sentence.",
    "Write a caption for the {medium}.",
    "What is in this {medium}?",
)
PARAPHRASE_REQUESTS = ("Say the same in other words.", "Rephrase the {medium}.", "Write this {medium} anew.")

SUMMARY_REQUESTS: dict[str, tuple[str, ...]] = {
    "keywords": (
        "Give keywords for the {medium}.",
        "List the key words of this {medium}.",
        "Which words stand for the {medium}?",
        "Keywords:",
    ),
    "tags": ("Tag this {medium}.", "List tags for the {medium}.", "Tags of the above:"),
    "title": (
        "Give the {medium} a title.",
        "What is a good title for this {medium}?",
        "Write a short headline for the {medium}.",
        "Title of the {medium}:",
    ),
    "topic": (
        "What is this {medium} about?",
        "What is the topic of the {medium}?",
        "Summarize this {medium}.",
        "Sum up the {medium} in a few words.",
        "In short, what does the {medium} hold?",
    ),
}
"""Requests for a summary, by the form of the answer."""

DETAIL_REQUESTS = (
    "Name one detail of the {medium}.",
    "Say one thing about this {medium}.",
    "A word about the above:",
    "What do you notice in the {medium}?",
)
"""Requests that any of the scene's attributes answers."""

TITLES: dict[str, tuple[str, ...]] = {
    "object": ("{size} {colour} {shape}", "{colour} {shape} {place}"),
    "pair": ("{colour} {shape} and {other_colour} {other_shape}", "{shape} {relation} {other_shape}"),
    "clip": ("{colour} {shape} {motion}", "{shape} {motion}"),
    "tone": ("{pitch} {timbre}", "{pattern} {timbre}"),
    "word": ("{word}", "spoken word {word}"),
}
"""Titles of pictures and clips, and of the parts of a sound; of documents, it is the text."""

OBJECT_QUESTIONS = {
    "colour": ("What colour is the {shape}?", "What colour is the object?", "Which colour do you see?"),
    "shape": ("What shape is the object?", "Which shape is it?", "Which shape is {colour}?"),
    "size": ("How big is the {shape}?", "What size is the object?", "Is the {shape} small or large?"),
    "place": ("Where is the {shape}?", "In which place is the object?", "Where do you see the {colour} object?"),
    "motion": ("What does the {shape} do?", "How does the object move?", "Which motion do you see?"),
    "shade": ("Is the scene bright or dark?", "How light is the scene?", "How is the light?"),
}
BACKGROUND_QUESTIONS = ("What is the background like?", "Which background is there?", "How is the background?")
PAIR_QUESTIONS = {
    "colour": ("What colour is the {shape}?", "Which colour is the {shape}?"),
    "other_colour": ("What colour is the {other_shape}?", "Which colour is the {other_shape}?"),
    "shape": ("Which shape is {relation} the {other_shape}?", "What is {relation} the {other_shape}?"),
    "other_shape": ("Which shape is {relation_inverse} the {shape}?", "What is {relation_inverse} the {shape}?"),
    "relation": (
        "Where is the {shape}, seen from the {other_shape}?",
        "How is the {shape} placed to the {other_shape}?",
    ),
}
SOUND_QUESTIONS = {
    "pitch": ("Is the {part} high or low?", "How high is the {part}?", "What is the pitch of the {part}?"),
    "timbre": ("What makes the {part}?", "What kind of sound is the {part}?", "What do you hear as the {part}?"),
    "pattern": ("How does the {part} go on?", "What does the {part} do?", "Which pattern has the {part}?"),
    "word": ("Which word is the {part}?", "What is said in the {part}?", "Which word do you hear as the {part}?"),
}
WRITTEN_QUESTIONS = ("What is the {ordinal} word?", "Which word comes {ordinal}?", "Read the {ordinal} word.")
ENDINGS = ("", "", " Answer in one word.", " One word, please.")
"""How a question may end."""

TRANSCRIPTION_REQUESTS = {
    "sound": ("What is said?", "Write down what is spoken.", "Transcribe the {medium}.", "Which words do you hear?"),
    "document": ("Read the {medium}.", "What is written here?", "Transcribe the {medium}.", "Copy the text."),
}

TASKS: Mapping[Task, float] = MappingProxyType(
    {"caption": 0.25, "question": 0.15, "detail": 0.35, "summary": 0.15, "transcription": 0.1}
)
"""Share of each task; what a scene can't be asked for is shared among the others."""


@dataclass(frozen=True)
class Exchange:
    """A request and its answer, the task that they belong to, and all right answers where there are several."""

    task: Task
    request: str
    answer: str
    alternatives: tuple[str, ...] = ()


def exchange(
    scene: Scene,
    rng: np.random.Generator,
    medium: Medium | None = None,
    split: Split = "train",
    tasks: Mapping[Task, float] = TASKS,
) -> Exchange:
    """Draw a request about a scene, with its answer.

    Args:
        scene: What is asked about.
        rng: Source of randomness.
        medium: What the scene is shown as: its own kind, unless a caption stands for it ("text").
        split: Whose caption templates the answers use.
        tasks: Weight of each task to draw from.

    Raises:
        ValueError: The scene can be asked for none of the tasks.
    """
    shown: Medium = medium or scene.kind
    has_words = shown != "text" and bool(text_of(scene))
    weights = {task: weight for task, weight in tasks.items() if has_words or task != "transcription"}
    if not weights:
        raise ValueError(f"a {shown} that holds no words can't be asked for {', '.join(tasks)}; expected another task")
    bounds = np.cumsum(tuple(weights.values()))
    task = tuple(weights)[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]
    if task == "caption":
        requests = PARAPHRASE_REQUESTS if shown == "text" else CAPTION_REQUESTS
        return Exchange(task, _request(requests, shown, rng), caption(scene, rng, split))
    if task == "question":
        return question(scene, rng)
    if task == "summary":
        return summary(scene, rng, shown)
    if task == "detail":
        values = tuple(value for name, value in scene.attributes if name not in LOOKS)
        return Exchange(task, _request(DETAIL_REQUESTS, shown, rng), choose(values, rng), values)
    return Exchange(task, _request(TRANSCRIPTION_REQUESTS[scene.kind], shown, rng), text_of(scene))


def question(scene: Scene, rng: np.random.Generator, attribute: str | None = None) -> Exchange:
    """Ask for an attribute of a scene; the answer is one word.

    Args:
        scene: What is asked about.
        rng: Draws the wording, and the attribute where none is given.
        attribute: What to ask for.
    """
    names = tuple(name for name in scene.names if name not in LOOKS)
    name = attribute or choose(names, rng)
    if name not in names:
        raise ValueError(f"this {scene.kind} has no attribute {name!r} to ask for; expected one of {', '.join(names)}")
    text = fill(choose(question_wordings(scene, name), rng), scene, rng)
    return Exchange("question", text + choose(ENDINGS, rng), scene[name])


def question_wordings(scene: Scene, name: str) -> tuple[str, ...]:
    """Return the wordings, with slots for other attributes, in which an attribute of a scene is asked for."""
    if scene.kind == "document":
        return tuple(text.format(ordinal=name) for text in WRITTEN_QUESTIONS)
    if scene.kind == "sound":
        part = "sound" if len(halves_of(scene)) == 1 else "last sound" if name.startswith("next_") else "first sound"
        return tuple(text.format(part=part) for text in SOUND_QUESTIONS[name.removeprefix("next_")])
    if name == "background":
        return BACKGROUND_QUESTIONS
    return (PAIR_QUESTIONS if "relation" in scene else OBJECT_QUESTIONS)[name]


def summary(scene: Scene, rng: np.random.Generator, medium: Medium | None = None) -> Exchange:
    """Ask for keywords, tags, a title or the topic of a scene.

    Args:
        scene: What is asked about.
        rng: Source of randomness.
        medium: What the scene is called in the request; its kind if None.
    """
    form = choose(tuple(SUMMARY_REQUESTS), rng)
    request = _request(SUMMARY_REQUESTS[form], medium or scene.kind, rng)
    if form in ("title", "topic"):
        return Exchange("summary", request, title(scene, rng))
    # In any order, so that the first word of the answer may be any: a state that answers holds them all.
    values = [value for name, value in scene.attributes if name not in LOOKS]
    values = [values[index] for index in rng.permutation(len(values)).tolist()]
    return Exchange("summary", request, (", " if form == "keywords" else " ").join(values))


def title(scene: Scene, rng: np.random.Generator) -> str:
    """Write a short title of a scene, which names some of its attributes."""
    if scene.kind == "document":
        return text_of(scene)
    if scene.kind == "sound":
        halves = halves_of(scene)
        parts = [
            fill(choose(TITLES["word" if half + "word" in scene else "tone"], rng), scene, rng, half) for half in halves
        ]
        return " and ".join(parts[index] for index in rng.permutation(len(parts)).tolist())
    form = "clip" if scene.kind == "clip" else "pair" if "relation" in scene else "object"
    return fill(choose(TITLES[form], rng), scene, rng)


def _request(texts: tuple[str, ...], medium: Medium, rng: np.random.Generator) -> str:
    text = choose(texts, rng)
    return text.format(medium=choose(NOUNS[medium], rng)) if "{" in text else text
