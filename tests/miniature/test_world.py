"""The world: deterministic, split by combinations, told as it is, and written as files that the package reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lco_embedding.miniature import world
from lco_embedding.miniature.world import captions, exchanges, synonyms
from lco_embedding.miniature.world.captions import TEMPLATES, caption
from lco_embedding.miniature.world.chats import Chats
from lco_embedding.miniature.world.documents import RUNES, draw_rune
from lco_embedding.miniature.world.exchanges import ENDINGS, FORBIDDEN, SUMMARY_REQUESTS, exchange, question, summary
from lco_embedding.miniature.world.pictures import COLOUR_VALUES, SIZE
from lco_embedding.miniature.world.scenes import (
    COLOURS,
    DEV_PAIRS,
    DOMAINS,
    FORMS,
    KINDS,
    LOOKS,
    SHAPES,
    SPLITS,
    TEST_PAIRS,
    WRITTEN_WORDS,
    Kind,
    Scene,
    Split,
    hard_negative,
    is_valid,
    sample,
    sample_distinct,
    scenes_of,
    split_of,
)
from lco_embedding.miniature.world.spoken_words import recordings
from lco_embedding.miniature.world.triplets import Triplets
from lco_embedding.modules.chat_template import PROMPT
from lco_embedding.modules.media import Sampling, load_audio, load_image, load_video
from tests.media_files import pitch


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def some_scenes(kind: Kind, count: int, split: Split = "train", seed: int = 0) -> list[Scene]:
    rng = generator(seed)
    return [sample(kind, split, rng) for _ in range(count)]


def picture_of(kind: Kind = "image", seed: int = 0, **attributes: str) -> NDArray[np.int64]:
    return world.render(Scene.of(kind, **attributes), generator(seed)).astype(int)


def mask_of(picture: NDArray[np.int64], colour: str) -> NDArray[np.bool_]:
    """Tell which pixels are nearer to a colour than the jitter reaches."""
    return np.abs(picture - np.array(COLOUR_VALUES[colour])).max(axis=-1) <= 16


def centre_of(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the centre of a mask in pixels from the left and from the top."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def strings_in(value: object) -> Iterator[str]:
    """Yield every string within nested tables."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings_in(key)
            yield from strings_in(item)
    elif isinstance(value, tuple | list | frozenset):
        for item in value:
            yield from strings_in(item)


# --- determinism ----------------------------------------------------------------------------------------------------


def digest_of_everything(seed: int) -> str:
    rng = generator(seed)
    digest = sha256()
    for kind in KINDS:
        for _ in range(5):
            scene = sample(kind, "train", rng)
            digest.update(world.render(scene, rng).tobytes())
            texts = (scene, caption(scene, rng), exchange(scene, rng), hard_negative(scene, rng))
            digest.update(repr(texts).encode())
    return digest.hexdigest()


def test_the_world_follows_from_the_seed() -> None:
    assert digest_of_everything(3) == digest_of_everything(3) != digest_of_everything(4)


def test_splits_stay_what_they_are() -> None:
    """The checkpoints that ship were trained on these splits: a change of the hash would test on what was trained."""
    scenes = [scene for kind in ("sound", "clip") for scene in scenes_of(kind)]
    splits = "".join(split_of(scene)[0] + split_of(scene)[1] for scene in scenes)
    assert sha256(splits.encode()).hexdigest()[:16] == "d15a24e3d5e8c896"


def test_no_global_state_is_used() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    digest_of_everything(0)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("kind", KINDS)
def test_one_scene_is_rendered_in_many_ways(kind: Kind) -> None:
    shape = {"sound": (25_600,), "clip": (4, SIZE, SIZE, 3)}.get(kind, (SIZE, SIZE, 3))
    for scene in some_scenes(kind, 8):
        first, again, other = (world.render(scene, generator(seed)) for seed in (0, 0, 1))
        assert first.shape == shape
        assert first.dtype == (np.float32 if kind == "sound" else np.uint8)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


# --- scenes and splits ----------------------------------------------------------------------------------------------


def test_scenes_are_records_of_a_form() -> None:
    scene = Scene.of("sound", timbre="flute", pattern="rising", pitch="low")
    assert scene.names == ("pitch", "timbre", "pattern")
    assert "pitch" in scene
    assert "word" not in scene
    assert scene.changed("pitch", "high")["pitch"] == "high"
    assert len({scene, Scene.of("sound", pitch="low", timbre="flute", pattern="rising")}) == 1
    with pytest.raises(KeyError, match="word"):
        scene["word"]


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("smell", {}, "no kind 'smell'; expected one of image, sound, clip, document"),
        ("image", {"shape": "circle"}, "no image has the attributes shape; expected one of: shape, colour, size"),
        ("sound", {"word": "goodbye"}, "'goodbye' is no word; expected one of zero"),
        (
            "clip",
            {"shape": "ring", "colour": "red", "motion": "spinning", "shade": "dark", "background": "plain"},
            "no scene of the world",
        ),
    ],
)
def test_other_scenes_are_refused(kind: Kind, attributes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scene.of(kind, **attributes)


def test_sampling_refuses_what_can_not_be() -> None:
    with pytest.raises(ValueError, match="no clip has the attributes size"):
        sample("clip", "train", generator(), size="small")
    with pytest.raises(ValueError, match="'pink' is no colour; expected one of red"):
        sample("clip", "train", generator(), colour="pink")
    shape, colour = next(iter(TEST_PAIRS))
    with pytest.raises(ValueError, match="found no clip of the train split"):
        sample("clip", "train", generator(), shape=shape, colour=colour)
    with pytest.raises(ValueError, match=r"found only \d+ of 99 distinct scenes"):
        sample_distinct("sound", "test", 99, generator(), word="zero", next_pitch="low")


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_scenes_are_valid_and_of_every_form(kind: Kind) -> None:
    forms = Counter()
    for split in SPLITS:
        for scene in some_scenes(kind, 400, split):
            assert split_of(scene) == split
            assert scene == Scene.of(kind, **dict(scene.attributes))
            forms[scene.names] += 1
    assert set(forms) == set(FORMS[kind])


@pytest.mark.parametrize("kind", ["image", "sound", "clip"])
def test_splits_are_as_large_as_pools_need(kind: Kind) -> None:
    scenes = scenes_of(kind)
    assert len(set(scenes)) == len(scenes)
    sizes = Counter(map(split_of, scenes))
    assert sizes["test"] >= 500
    assert sizes["dev"] >= 500
    assert sizes["train"] >= 0.5 * len(scenes)
    for split in SPLITS:
        pool = sample_distinct(kind, split, 300, generator(1))
        assert len(set(pool)) == 300
        assert set(pool) <= set(scenes)


def test_held_out_pairs_are_never_trained() -> None:
    assert len(TEST_PAIRS) == 8
    assert len(DEV_PAIRS) == 4
    assert not TEST_PAIRS & DEV_PAIRS
    # Every shape and every colour is held out once, so each is trained in nearly all others.
    assert {shape for shape, _ in TEST_PAIRS} == set(SHAPES)
    assert {colour for _, colour in TEST_PAIRS} == set(COLOURS)
    trained = set()
    for scene in [*scenes_of("clip"), *scenes_of("image")]:
        pairs = {(scene["shape"], scene["colour"])}
        if "other_shape" in scene:
            pairs.add((scene["other_shape"], scene["other_colour"]))
        split = split_of(scene)
        if split == "train":
            trained |= pairs
        assert (split == "test") >= bool(pairs & TEST_PAIRS)
        assert (split != "train") >= bool(pairs & DEV_PAIRS)
    assert len(trained) == 52
    assert not trained & (TEST_PAIRS | DEV_PAIRS)


def test_shares_of_hashed_combinations_are_about_a_tenth() -> None:
    unpaired = [scene for scene in scenes_of("clip") if (scene["shape"], scene["colour"]) not in TEST_PAIRS | DEV_PAIRS]
    sizes = Counter(map(split_of, unpaired))
    assert sizes["test"] / len(unpaired) == pytest.approx(0.1, abs=0.02)
    assert sizes["dev"] / len(unpaired) == pytest.approx(0.1, abs=0.02)


def test_every_value_is_trained_and_tested() -> None:
    for kind in KINDS:
        for split in SPLITS:
            seen = {pair for scene in some_scenes(kind, 1500, split) for pair in scene.attributes}
            missing = {(name, value) for form in FORMS[kind] for name in form for value in DOMAINS[name]} - seen
            # Of two shapes the earlier comes first, so the first of all is never the other.
            assert missing == ({("other_shape", "circle")} if kind == "image" else set())


def test_the_second_script_is_hardly_seen_unless_asked_for() -> None:
    share = np.mean([scene["script"] == "runes" for scene in some_scenes("document", 2000)])
    assert 0.005 < share < 0.05
    assert sample("document", "test", generator(), script="runes")["script"] == "runes"
    for scene in some_scenes("document", 50):
        assert split_of(scene.changed("script", "runes")) == split_of(scene.changed("script", "latin"))


# --- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_hard_negatives_change_one_attribute_and_the_caption(kind: Kind, split: Split) -> None:
    rng = generator(5)
    changed = Counter()
    for scene in some_scenes(kind, 300, split):
        other = hard_negative(scene, rng)
        assert is_valid(other)
        assert other.kind == kind
        names = [name for name in scene.names if scene[name] != other[name]]
        assert len(names) == 1
        assert scene.names == other.names
        assert not LOOKS & set(names)
        assert split != "train" or split_of(other) == "train"
        changed[names[0]] += 1
        assert {caption(scene, generator(seed), split) for seed in range(20)}.isdisjoint(
            caption(other, generator(seed), split) for seed in range(20)
        )
    assert set(changed) == {name for form in FORMS[kind] for name in form} - LOOKS


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_captions_name_every_attribute(kind: Kind, split: Split) -> None:
    rng = generator(6)
    for scene in some_scenes(kind, 300, split):
        text = caption(scene, rng, split)
        assert not re.search(r"[{}*]|  | ,|\ba [aeiou]|\ban [^aeiou]", text), text
        for name in set(scene.names) - LOOKS:
            words = synonyms.wordings(name, scene[name])
            assert any(re.search(rf"\b{word}\b", text) for word in words), (text, name, words)


def test_each_synonym_stands_for_one_value() -> None:
    for slot, values in synonyms.SYNONYMS.items():
        words = [word for value in values.values() for word in value]
        assert len(set(words)) == len(words), slot
        assert set(values) == set(DOMAINS[synonyms.attribute_of(slot)])
        assert all(1 <= len(value) <= 3 for value in values.values())


def test_templates_differ_between_the_splits() -> None:
    for form, by_split in TEMPLATES.items():
        templates = [template for split in SPLITS for template in by_split[split]]
        assert len(set(templates)) == len(templates), form
        assert len(by_split["train"]) >= 3
        assert len(by_split["test"]) >= 2
        slots = {
            tuple(sorted({synonyms.attribute_of(slot) for slot in re.findall(r"\{(\w+)\}", t)})) for t in templates
        }
        assert len(slots) == 1, "all templates of a form name the same attributes"


def test_testing_needs_no_word_that_training_lacks() -> None:
    """Only the order of the words is new in testing: a word never trained would mean nothing."""
    words = {
        split: set(re.findall(r"[a-z]+", " ".join(strings_in([t[split] for t in TEMPLATES.values()]))))
        for split in SPLITS
    }
    assert words["test"] <= words["train"]
    assert words["dev"] <= words["train"]


def test_captions_vary() -> None:
    scene = Scene.of("clip", shape="circle", colour="red", motion="left", shade="dark", background="plain")
    texts = {caption(scene, generator(seed)) for seed in range(200)}
    assert len(texts) > 60
    assert texts.isdisjoint(caption(scene, generator(seed), "test") for seed in range(200))


@pytest.mark.parametrize("kind", KINDS)
def test_questions_have_one_word_answers_in_several_wordings(kind: Kind) -> None:
    for scene in some_scenes(kind, 60):
        for name in set(scene.names) - LOOKS:
            asked = [question(scene, generator(seed), name) for seed in range(40)]
            assert {each.answer for each in asked} == {scene[name]}
            assert len({each.request for each in asked}) >= 3
            assert " " not in scene[name]
            for each in asked:
                assert not re.search(r"[{}*]", each.request)
    with pytest.raises(ValueError, match=f"this {kind} has no attribute 'mood'"):
        question(scene, generator(), "mood")


def test_questions_do_not_tell_the_answer() -> None:
    for kind in ("image", "clip", "sound"):
        for scene in some_scenes(kind, 60):
            for name in set(scene.names) - LOOKS - {"size", "shade", "pitch", "next_pitch"}:
                if list(dict(scene.attributes).values()).count(scene[name]) > 1:
                    continue
                for seed in range(6):
                    request = question(scene, generator(seed), name).request
                    for ending in ENDINGS:
                        request = request.removesuffix(ending)
                    assert not re.search(rf"\b{scene[name]}\b", request)


@pytest.mark.parametrize("kind", KINDS)
def test_summaries_begin_with_any_attribute(kind: Kind) -> None:
    scene = some_scenes(kind, 1, seed=4)[0]
    values = {value for name, value in scene.attributes if name not in LOOKS}
    answers = [summary(scene, generator(seed)) for seed in range(300)]
    assert values <= {re.split(r",? ", each.answer)[0] for each in answers}
    assert len({each.request for each in answers}) >= 15
    assert any(set(each.answer.split(", ")) == values for each in answers)


def test_summaries_are_asked_for_in_many_wordings() -> None:
    assert len(SUMMARY_REQUESTS) >= 4
    assert len(list(strings_in(list(SUMMARY_REQUESTS.values())))) >= 15


def test_any_attribute_answers_a_request_for_a_detail() -> None:
    for kind in KINDS:
        for seed, scene in enumerate(some_scenes(kind, 40)):
            each = exchange(scene, generator(seed), tasks={"detail": 1.0})
            assert each.answer in each.alternatives
            assert each.alternatives == tuple(scene[name] for name in scene.names if name not in LOOKS)


def test_chats_follow_from_their_number() -> None:
    chats = Chats(30, seed=3)
    assert json.dumps(chats[4], default=str) == json.dumps(Chats(8, seed=3)[4], default=str)
    assert json.dumps(chats[4], default=str) != json.dumps(chats[5], default=str)
    for index in range(30):
        user, assistant = chats[index]["messages"]
        assert assistant["content"] in chats[index].get("alternatives", [assistant["content"]])
        assert [block["type"] for block in user["content"]][1] == "text"
    with pytest.raises(IndexError, match="there are 30"):
        chats[30]


def test_triplets_are_told_apart_by_one_attribute() -> None:
    triplets = Triplets(40, seed=2)
    assert triplets[3] == Triplets(5, seed=2)[3]
    for index in range(40):
        assert triplets[index].keys() == {"anchor", "positive", "negative"}
        assert triplets[index]["positive"] != triplets[index]["negative"]
    with pytest.raises(IndexError, match="there are 40"):
        triplets[-1]


def test_words_are_transcribed() -> None:
    tasks = {"transcription": 1.0}
    for kind in ("sound", "document"):
        scenes = [scene for scene in some_scenes(kind, 40) if world.text_of(scene)]
        for scene in scenes:
            assert exchange(scene, generator(), tasks=tasks).answer == world.text_of(scene)  # type: ignore[arg-type]
    assert world.text_of(Scene.of("document", script="runes", first="river", second="stone")) == "river stone"
    tone = Scene.of("sound", pitch="low", timbre="hiss", pattern="rising")
    with pytest.raises(ValueError, match="a sound that holds no words can't be asked for transcription"):
        exchange(tone, generator(), tasks=tasks)  # type: ignore[arg-type]
    assert {exchange(tone, generator(seed)).task for seed in range(60)} == {"caption", "question", "detail", "summary"}


def test_a_caption_can_stand_for_the_scene() -> None:
    scenes = [scene for kind in KINDS for scene in some_scenes(kind, 60)]
    asked = [exchange(scene, generator(seed), medium="text") for seed, scene in enumerate(scenes)]
    assert {each.task for each in asked} == {"caption", "question", "detail", "summary"}
    assert not any(re.search("picture|audio|clip|page", each.request) for each in asked)


def test_the_prompt_of_the_embedding_is_never_taught() -> None:
    for modality in ("", " text", " image", " audio", " video"):
        assert FORBIDDEN.search(PROMPT.format(modality))
    assert FORBIDDEN.search("summarise this clip in one word")
    tables = [value for module in (captions, exchanges, synonyms) for value in vars(module).values()]
    texts = [text for text in strings_in(tables) if text != exchanges.__doc__]
    assert any("Summarize" in text for text in texts), "the tables were found"
    assert not [text for text in texts if FORBIDDEN.search(text)]
    rng = generator(9)
    for kind in KINDS:
        for split in SPLITS:
            for scene in some_scenes(kind, 400, split):
                each = exchange(scene, rng, "text" if rng.random() < 0.3 else None, split)
                # As in a chat, where a request follows the caption of another scene.
                assert not FORBIDDEN.search("\n".join((caption(scene, rng, split), each.request, each.answer)))


# --- renderings show what they say ----------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_objects_have_their_colour_and_size(shape: str, colour: str) -> None:
    areas = {}
    for size in ("small", "large"):
        for seed in range(3):
            picture = picture_of(shape=shape, colour=colour, size=size, place="centre", background="plain", seed=seed)
            mask = mask_of(picture, colour)
            areas[size, seed] = mask.sum()
            assert np.abs(picture[mask].mean(axis=0) - np.array(COLOUR_VALUES[colour])).max() <= 14
            # What is not the object is grey, but for the smooth edge between the two.
            assert (np.ptp(picture[~mask], axis=-1) == 0).mean() > 0.95
    assert min(areas["large", seed] for seed in range(3)) > 2 * max(areas["small", seed] for seed in range(3))


def test_shapes_differ_from_each_other() -> None:
    masks = {
        shape: mask_of(picture_of(shape=shape, colour="red", size="large", place="centre", background="plain"), "red")
        for shape in SHAPES
    }
    for first in SHAPES:
        for second in SHAPES[: SHAPES.index(first)]:
            both, either = (masks[first] & masks[second]).sum(), (masks[first] | masks[second]).sum()
            assert both / either < 0.85, (first, second)


@pytest.mark.parametrize(
    ("place", "right", "down"), [("centre", 0, 0), ("left", -1, 0), ("right", 1, 0), ("top", 0, -1), ("bottom", 0, 1)]
)
def test_objects_stand_in_their_place(place: str, right: int, down: int) -> None:
    for size in ("small", "large"):
        picture = picture_of(shape="cross", colour="blue", size=size, place=place, background="dotted")
        x, y = centre_of(mask_of(picture, "blue"))
        assert x == pytest.approx(42 + 19 * right, abs=5)
        assert y == pytest.approx(42 + 19 * down, abs=5)


@pytest.mark.parametrize(
    ("relation", "right", "down"), [("left", -1, 0), ("right", 1, 0), ("above", 0, -1), ("below", 0, 1)]
)
def test_two_objects_stand_in_relation(relation: str, right: int, down: int) -> None:
    for seed in range(5):
        picture = picture_of(
            shape="circle", colour="red", relation=relation, other_shape="star", other_colour="cyan",
            background="striped", seed=seed,
        )  # fmt: skip
        (x, y), (other_x, other_y) = centre_of(mask_of(picture, "red")), centre_of(mask_of(picture, "cyan"))
        assert right * (x - other_x) + down * (y - other_y) > 28
        assert abs(down * (x - other_x) + right * (y - other_y)) < 12


def test_backgrounds_differ() -> None:
    """The share of neighbours that differ: none on a plain ground, along one axis on stripes, along both on others."""
    for seed in range(6):
        steps = {}
        for background in DOMAINS["background"]:
            picture = picture_of(
                shape="circle", colour="red", size="small", place="right", background=background, seed=seed
            )
            ground = picture[:, :40, 0]
            steps[background] = [(np.diff(ground, axis=axis) != 0).mean() for axis in (0, 1)]
        assert max(steps["plain"]) == 0
        assert min(steps["striped"]) == 0 < max(steps["striped"])
        assert min(steps["dotted"] + steps["checkered"]) > 0.03
        assert steps["dotted"] != steps["checkered"]


def clip_masks(motion: str, seed: int = 0) -> list[NDArray[np.bool_]]:
    frames = picture_of("clip", seed, shape="diamond", colour="green", motion=motion, shade="dark", background="plain")
    return [mask_of(frame, "green") for frame in frames]


@pytest.mark.parametrize(("motion", "right", "down"), [("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1)])
def test_objects_move(motion: str, right: int, down: int) -> None:
    for seed in range(4):
        places = np.array([centre_of(mask) for mask in clip_masks(motion, seed)])
        steps = np.diff(places, axis=0)
        assert (steps @ [right, down] > 6).all()
        assert np.abs(steps @ [down, right]).max() < 1.5


def test_objects_grow_shrink_blink_and_spin() -> None:
    for seed in range(4):
        areas = {motion: np.array([mask.sum() for mask in clip_masks(motion, seed)]) for motion in DOMAINS["motion"]}
        assert (np.diff(areas["growing"]) > 40).all()
        assert (np.diff(areas["shrinking"]) < -40).all()
        assert sorted(areas["blinking"] > 0) == [False, False, True, True]
        assert ((areas["blinking"] > 0)[:2] == (areas["blinking"] > 0)[2:]).all()
        assert np.ptp(areas["spinning"]) < 0.1 * areas["spinning"].mean()
        turned = clip_masks("spinning", seed)
        assert all((first ^ second).sum() > 0.2 * first.sum() for first, second in pairwise(turned))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in ("circle", "ring")])
def test_what_spins_is_seen_to_spin(shape: str) -> None:
    frames = picture_of("clip", shape=shape, colour="red", motion="spinning", shade="dark", background="plain")
    masks = [mask_of(frame, "red") for frame in frames]
    assert all((first ^ second).sum() > 0.1 * first.sum() for first, second in pairwise(masks))


@pytest.mark.parametrize("background", DOMAINS["background"])
def test_scenes_are_bright_or_dark(background: str) -> None:
    for colour in ("blue", "white"):
        levels = {
            shade: [
                picture_of(
                    "clip", seed, shape="circle", colour=colour, motion="up", shade=shade, background=background
                )[0, :, :8].mean()
                for seed in range(6)
            ]
            for shade in DOMAINS["shade"]
        }
        assert min(levels["bright"]) > max(levels["dark"]) + 30


def sound_of(seed: int = 0, **attributes: str) -> NDArray[np.float32]:
    return world.render(Scene.of("sound", **attributes), generator(seed))


def test_sounds_stay_in_range() -> None:
    for scene in some_scenes("sound", 100):
        sound = world.render(scene, generator())
        assert 0.1 < np.abs(sound).max() <= 1
        assert np.isfinite(sound).all()


@pytest.mark.parametrize("pattern", DOMAINS["pattern"])
@pytest.mark.parametrize("timbre", DOMAINS["timbre"])
def test_tones_are_high_or_low(timbre: str, pattern: str) -> None:
    for seed in range(3):
        assert 120 < pitch(sound_of(seed, pitch="low", timbre=timbre, pattern=pattern), world.RATE) < 500
        assert 900 < pitch(sound_of(seed, pitch="high", timbre=timbre, pattern=pattern), world.RATE) < 6000
    low_high = sound_of(
        pitch="low", timbre=timbre, pattern=pattern, next_pitch="high", next_timbre=timbre, next_pattern=pattern
    )
    assert pitch(low_high[:12_800], world.RATE) < 500 < 900 < pitch(low_high[12_800:], world.RATE)


@pytest.mark.parametrize("timbre", DOMAINS["timbre"])
@pytest.mark.parametrize("height", DOMAINS["pitch"])
def test_tones_follow_their_pattern(height: str, timbre: str) -> None:
    def centre(part: NDArray[np.float32]) -> float:
        """The mean frequency, weighted by power."""
        power = np.abs(np.fft.rfft(part)) ** 2
        return float((power * np.fft.rfftfreq(len(part), 1 / world.RATE)).sum() / power.sum())

    for seed in range(3):
        ratios = {}
        for pattern in DOMAINS["pattern"]:
            sound = sound_of(seed, pitch=height, timbre=timbre, pattern=pattern)
            ratios[pattern] = centre(sound[-8000:]) / centre(sound[:8000])
            # Four times a second there is silence in a pulsing tone alone; beats of beeps and rattles are faster.
            loudness = np.sqrt((sound[: 20 * 1280].reshape(20, 1280) ** 2).mean(axis=1))
            quietest = loudness[2:-2].min() / loudness.max()
            assert (quietest < 0.25) == (pattern == "pulsing")
        assert ratios["rising"] > 1.15
        assert ratios["falling"] < 0.87
        assert 0.9 < ratios["steady"] < 1.1


@pytest.mark.parametrize("height", DOMAINS["pitch"])
def test_timbres_differ(height: str) -> None:
    """A timbre is with gaps or without, of lines or of noise, of one line or of many."""
    expected = {
        "flute": (False, True, True),
        "buzz": (False, True, False),
        "hiss": (False, False, False),
        "rattle": (True, False, False),
        "beep": (True, True, True),
    }
    for timbre in DOMAINS["timbre"]:
        for seed in range(4):
            sound = sound_of(seed, pitch=height, timbre=timbre, pattern="steady")
            loudness = np.sort(np.sqrt((sound[800:-800].reshape(-1, 80) ** 2).mean(axis=1)))
            power = np.abs(np.fft.rfft(sound)) ** 2 / np.sum(np.abs(np.fft.rfft(sound)) ** 2)
            places = np.arange(len(power)) / power.argmax()
            has_gaps = loudness[len(loudness) // 5] < 0.15 * loudness[-1]
            is_lines = np.sort(power)[-len(power) // 300 :].sum() > 0.7
            is_one_line = power[np.abs(places - 1) < 0.1].sum() > 0.7
            assert (has_gaps, is_lines, is_one_line) == expected[timbre]


def test_words_are_recorded_in_every_voice() -> None:
    words = recordings()
    assert words.shape == (20, 10, 2, 11_200)
    assert not words.flags.writeable
    loudness = np.sqrt((words.astype(float) ** 2).mean(axis=-1)) / 32768
    assert loudness.min() > 0.02
    assert np.abs(words[..., -40:]).max() < 32768 * 0.2
    assert Path(world.__file__).with_name("words.ogg").stat().st_size < 1_500_000


def test_words_are_heard_in_their_half() -> None:
    for first, second in (("seven", "hello"), ("zero", "stop")):
        sound = sound_of(word=first, next_word=second)
        quiet = sound_of(1, word=first, next_word=second)
        for each in (sound, quiet):
            assert all(np.abs(half).max() > 0.15 for half in np.split(each, 2))


@pytest.mark.parametrize("script", DOMAINS["script"])
def test_documents_are_ink_on_paper(script: str) -> None:
    lines = {}
    for count, words in enumerate((["wolf"], ["wolf", "ship"], ["wolf", "ship", "salt"]), start=1):
        names = dict(zip(("first", "second", "third"), words, strict=False))
        picture = world.render(Scene.of("document", script=script, **names), generator()).mean(axis=-1)
        is_inked = (picture < 150).any(axis=1)
        lines[count] = int((np.diff(is_inked.astype(int)) == 1).sum())
        assert picture[0].min() > 180
        assert 0.01 < (picture < 150).mean() < 0.3
    assert lines[1] == 1
    assert lines[1] < lines[2] < lines[3]


def test_every_written_word_fits_and_differs() -> None:
    for script in DOMAINS["script"]:
        pictures = set()
        for word in WRITTEN_WORDS:
            picture = world.render(Scene.of("document", script=script, first=word), generator())
            assert picture[:, [0, -1]].mean() > 180, word
            pictures.add(picture.tobytes())
        assert len(pictures) == len(WRITTEN_WORDS)


def test_runes_differ() -> None:
    runes = [draw_rune(letter, 20) for letter in RUNES]
    assert len(RUNES) == 26
    for index, rune in enumerate(runes):
        for other in runes[:index]:
            assert np.abs(rune - other).sum() > 4


# --- files ----------------------------------------------------------------------------------------------------------

COUNTS: dict[Kind, int] = {"image": 10, "sound": 10, "clip": 5, "document": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write(tmp_path_factory.mktemp("world") / "deep" / "train", "train", COUNTS, seed=1)


def rows_of(path: Path) -> list[dict[str, dict[str, str]]]:
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def test_index_names_files_that_open(folder: Path) -> None:
    rows = rows_of(folder / "index.jsonl")
    assert len(rows) == sum(COUNTS.values())
    shapes = set()
    named = set()
    for row in rows:
        assert list(row) == ["anchor", "positive", "negative"]
        assert row["positive"] != row["negative"]
        for side in row.values():
            assert list(side) == ["text", "image_path", "audio_path", "video_path"]
            shapes.add(tuple(bool(value) for value in side.values()))
            assert any(side.values())
            named |= {value for name, value in side.items() if name != "text" and value}
            if side["image_path"]:
                assert load_image(str(folder / side["image_path"])).size == (SIZE, SIZE)
            if side["audio_path"]:
                assert load_audio(str(folder / side["audio_path"]), world.RATE).shape == (25_600,)
            if side["video_path"]:
                clip = load_video(str(folder / side["video_path"]), Sampling(), SIZE * SIZE)
                assert clip.frames.shape == (4, SIZE, SIZE, 3)
                assert clip.fps == world.FPS
    assert len(shapes) == 7, "texts, three media, and each medium with a text"
    for row in rows_of(folder / "chat.jsonl"):
        named |= {block["path"] for block in row["messages"][0]["content"] if "path" in block}
    assert named == {str(path.relative_to(folder)) for path in folder.glob("*/*")}


def test_chats_ask_and_answer(folder: Path) -> None:
    rows = rows_of(folder / "chat.jsonl")
    kinds = Counter()
    for row in rows:
        assert list(row) == ["messages"]
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert assistant["content"]
        *media, text = user["content"]
        assert text["type"] == "text"
        assert text["text"]
        kinds[media[0]["type"] if media else "text"] += 1
        assert all((folder / block["path"]).is_file() for block in media)
    assert kinds["text"] == sum(COUNTS.values())
    assert kinds["image"] >= 3 * (COUNTS["image"] + COUNTS["document"])
    assert kinds["audio"] >= 3 * COUNTS["sound"]
    assert kinds["video"] == 3 * COUNTS["clip"]
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert not [line for line in lines if FORBIDDEN.search(line)]


def test_files_hold_what_was_rendered(tmp_path: Path) -> None:
    for kind, name in (("image", "a.png"), ("document", "b.png"), ("sound", "c.flac"), ("clip", "d.mp4")):
        array = world.render(some_scenes(kind, 1)[0], generator())
        world.write_medium(tmp_path / name, array)
        path = str(tmp_path / name)
        if kind == "sound":
            np.testing.assert_allclose(load_audio(path, world.RATE), array, atol=1e-4)
        elif kind == "clip":
            frames = load_video(path, Sampling(), SIZE * SIZE).frames
            # The codec halves the resolution of colours, so edges differ.
            assert np.abs(frames.astype(int) - array).mean() < 6
        else:
            np.testing.assert_array_equal(np.asarray(load_image(path)), array)


def test_files_are_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    again = world.write(tmp_path, "train", COUNTS, seed=1)
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert paths == sorted(path.relative_to(again) for path in again.rglob("*.*"))
    for path in paths:
        assert (folder / path).read_bytes() == (again / path).read_bytes(), path


def test_too_many_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found only \d+ of 900 distinct scenes of kind sound in the test split"):
        world.write(tmp_path, "test", {"sound": 900}, seed=0)


def test_the_world_needs_no_torch() -> None:
    folder = Path(world.__file__).parent
    imports = [line for path in folder.glob("*.py") for line in path.read_text().splitlines() if "import" in line]
    assert not [line for line in imports if re.search(r"\b(torch|transformers)\b", line)]
