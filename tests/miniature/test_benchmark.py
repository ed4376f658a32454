"""The benchmark: an encoder that knows all finds all, one that knows nothing is at chance, and pools are distinct."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lco_embedding.evaluation import Estimate
from lco_embedding.miniature.benchmark import Pool, evaluate, make_pool, word_accuracy
from lco_embedding.miniature.world import KINDS, SPOKEN_WORDS, Kind, Scene, split_of
from lco_embedding.miniature.world.captions import TEMPLATES, text_of
from lco_embedding.miniature.world.scenes import DOMAINS, LOOKS

COUNT = 60

PLACES = {pair: place for place, pair in enumerate((name, value) for name in DOMAINS for value in DOMAINS[name])}


def key_of(each: Any) -> Any:
    """Return what identifies an input: a text itself, else the bytes of the medium."""
    if isinstance(each, str):
        return each
    array: NDArray[Any] = each["array"] if isinstance(each, dict) else each
    return array.tobytes()


def attributes_of(scene: Scene) -> NDArray[np.float64]:
    """Return a vector with a one for each attribute value of a scene."""
    vector = np.zeros(len(PLACES))
    for pair in scene.attributes:
        if pair[0] not in LOOKS:
            vector[PLACES[pair]] = 1
    return vector


class Oracle:
    """Embeds the attributes of the scenes of some pools, of which it has been told."""

    def __init__(self, *pools: Pool) -> None:
        self.known: dict[Any, NDArray[np.float64]] = {}
        for pool in pools:
            for texts in (pool.media, pool.captions, pool.paraphrases):
                for scene, each in zip(pool.scenes, texts, strict=True):
                    self.known[key_of(each)] = attributes_of(scene)

    def encode(self, inputs: list[Any], /) -> NDArray[np.float64]:
        return np.stack([self.known[key_of(each)] for each in inputs])


class Scripted:
    """Embeds each input by a function."""

    def __init__(self, embed: Callable[[Any], NDArray[np.float64]]) -> None:
        self.embed = embed

    def encode(self, inputs: list[Any], /) -> NDArray[np.float64]:
        return np.stack([self.embed(each) for each in inputs])


class Random(Scripted):
    """Embeds each input as noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        super().__init__(lambda each: rng.standard_normal(16))


# --- pools ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_follows_from_its_arguments(kind: Kind) -> None:
    pool, again, other = (make_pool(kind, "test", 20, seed) for seed in (3, 3, 4))
    assert pool.captions == again.captions != other.captions
    assert pool.paraphrases == again.paraphrases
    assert [key_of(each) for each in pool.media] == [key_of(each) for each in again.media]
    assert pool.scenes != other.scenes


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_holds_distinct_scenes_of_its_split(kind: Kind) -> None:
    pool = make_pool(kind, "test", 300)
    assert {split_of(scene) for scene in pool.scenes} == {"test"}
    assert len({tuple(attributes_of(scene)) for scene in pool.scenes}) == 300
    assert len({key_of(each) for each in pool.media}) == 300
    # No caption fits two scenes, and no scene is searched by the very text that is to be found.
    assert len({*pool.captions, *pool.paraphrases}) == 600


def test_sounds_and_clips_state_their_rates() -> None:
    assert make_pool("sound", count=1).media[0]["sampling_rate"] == 16_000
    assert make_pool("clip", count=1).media[0]["video_metadata"] == {"fps": 2}
    assert make_pool("image", count=1).media[0].shape == (84, 84, 3)


def test_dev_and_test_share_nothing() -> None:
    dev, test = (make_pool("image", split, 100) for split in ("dev", "test"))
    assert not set(dev.scenes) & set(test.scenes)
    assert not set(dev.captions) & set(test.captions)


def test_pools_that_can_not_be() -> None:
    with pytest.raises(ValueError, match="there is no test split of smell; expected train, dev, test of image, sound"):
        make_pool("smell")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no final split of image"):
        make_pool("image", "final")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of 5000 distinct scenes of kind sound"):
        make_pool("sound", count=5000)


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_an_oracle_finds_everything() -> None:
    oracle = Oracle(*(make_pool(kind, "dev", COUNT, 1) for kind in ("image", "sound", "clip")))
    results = evaluate(oracle, "dev", COUNT, seed=1)
    assert list(results) == [
        *(name for kind in ("image", "sound", "clip") for name in (f"text to {kind}", f"{kind} to text")),
        "text to text",
        "mean",
    ]
    for result in results.values():
        assert set(result.figures().values()) == {1.0}
        assert result.documents == COUNT
    assert results["text to image"].queries == COUNT
    assert results["mean"].queries == 6 * COUNT
    assert results["text to text"].queries == 3 * COUNT


def test_an_encoder_that_hears_nothing_fails_on_sounds_alone() -> None:
    oracle = Oracle(*(make_pool(kind, "test", COUNT) for kind in ("image", "sound")))
    deaf = Scripted(lambda each: oracle.known[key_of(each)] * (not isinstance(each, dict)))
    results = evaluate(deaf, count=COUNT, kinds=("image", "sound"))
    assert results["text to image"].ndcg[10].value == results["text to text"].ndcg[10].value == 1
    assert results["text to sound"].ndcg[10].value == results["sound to text"].ndcg[10].value == 0
    assert results["mean"].ndcg[10].value == 0.5


def test_a_random_encoder_is_at_chance() -> None:
    results = evaluate(Random(), count=300, seed=2)
    chance = sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / 300
    assert chance == pytest.approx(4.54 / 300, rel=1e-3)
    assert results["mean"].ndcg[10].value == pytest.approx(chance, rel=0.35)
    assert results["mean"].recall[10].value == pytest.approx(10 / 300, rel=0.35)
    assert all(result.ndcg[10].value < 3 * chance for result in results.values())


def test_a_constant_encoder_finds_nothing() -> None:
    constant = Scripted(lambda each: np.ones(8))
    for result in evaluate(constant, count=20).values():
        assert set(result.recall.values()) == {Estimate(0, 0, 0)}
    assert word_accuracy(constant).value == 0


def test_no_kinds_are_an_error() -> None:
    with pytest.raises(ValueError, match="there are no kinds to search"):
        evaluate(Random(), kinds=())


# --- words ----------------------------------------------------------------------------------------------------------


class Listener:
    """Knows the order in which the benchmark asks: texts by template and word, sounds by rendering and word."""

    def __init__(self, confused: int = 0) -> None:
        self.confused = confused
        self.calls: list[list[Any]] = []

    def encode(self, inputs: list[Any], /) -> NDArray[np.float64]:
        self.calls.append(inputs)
        words = np.arange(len(inputs)) % len(SPOKEN_WORDS)
        if isinstance(inputs[0], dict):
            words[words < self.confused] = len(SPOKEN_WORDS) - 1
        embeddings: NDArray[np.float64] = np.eye(len(SPOKEN_WORDS))[words]
        return embeddings


def test_word_accuracy_counts_the_words_that_are_told_apart() -> None:
    listener = Listener()
    assert word_accuracy(listener, "test", renderings=7).value == 1
    assert word_accuracy(Listener(confused=5), "test", renderings=7).value == 0.75
    texts, sounds = listener.calls
    assert len(texts) == len(SPOKEN_WORDS) * len(TEMPLATES["word"]["test"])
    for text, word in zip(texts, SPOKEN_WORDS * len(TEMPLATES["word"]["test"]), strict=True):
        assert word in text.split()
    assert len({key_of(each) for each in sounds}) == len(sounds) == 7 * len(SPOKEN_WORDS)
    assert all(each["sampling_rate"] == 16_000 for each in sounds)


def test_words_are_spoken_anew_for_each_seed() -> None:
    first, again, other = Listener(), Listener(), Listener()
    for listener, seed in ((first, 0), (again, 0), (other, 1)):
        word_accuracy(listener, seed=seed, renderings=1)
    sounds = [[key_of(each) for each in listener.calls[1]] for listener in (first, again, other)]
    assert sounds[0] == sounds[1] != sounds[2]
    assert text_of(Scene.of("sound", word="seven")) == "seven"


def test_random_words_are_at_chance() -> None:
    accuracy = word_accuracy(Random(), "dev", renderings=15)
    assert accuracy.value == pytest.approx(0.05, abs=0.04)
    assert accuracy.low < accuracy.high < 0.12


def test_word_accuracy_refuses_what_can_not_be() -> None:
    with pytest.raises(ValueError, match="got 'final' and 10"):
        word_accuracy(Random(), "final")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 rendering or more; got 'test' and 0"):
        word_accuracy(Random(), renderings=0)
