"""With torchcodec installed: the decoder objects that `datasets` yields, and stock Sentence Transformers on files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from lco_embedding import LCOEmbedding

decoders = pytest.importorskip("torchcodec.decoders", exc_type=ImportError)

CLIPS = ["red_circle_moves_right.mp4", "green_star_blinks.webm"]
SOUNDS = ["voice_seven.wav", "low_flute.mp3", "high_beeps.ogg"]


@pytest.mark.parametrize("name", CLIPS)
def test_video_decoder_equals_its_file(shared_model: LCOEmbedding, samples: Path, name: str) -> None:
    path = samples / "clips" / name
    decoder = decoders.VideoDecoder(str(path))
    assert float(shared_model.encode(decoder) @ shared_model.encode(path)) > 0.9999
    assert float(shared_model.encode({"video": decoder}) @ shared_model.encode(path)) > 0.9999


@pytest.mark.parametrize("name", SOUNDS)
def test_audio_decoder_equals_its_file(shared_model: LCOEmbedding, samples: Path, name: str) -> None:
    path = samples / "sounds" / name
    assert float(shared_model.encode(decoders.AudioDecoder(str(path))) @ shared_model.encode(path)) > 0.9999


def test_columns_of_datasets(shared_model: LCOEmbedding, samples: Path) -> None:
    from datasets import Audio, Dataset, Image, Video

    paths: dict[str, str] = {
        "audio": str(samples / "sounds" / "voice_seven.wav"),
        "video": str(samples / "clips" / "red_circle_moves_right.mp4"),
        "image": str(samples / "images" / "red_circle.png"),
    }
    rows = Dataset.from_dict({key: [path] for key, path in paths.items()})
    for key, feature in (("audio", Audio()), ("video", Video()), ("image", Image())):
        rows = rows.cast_column(key, feature)
    for key, path in paths.items():
        got = shared_model.encode(rows[key])
        assert got.shape == (1, 128)
        assert float(got[0] @ shared_model.encode(path)) > 0.9999
    mixture = shared_model.encode(rows[0])
    assert float(mixture @ shared_model.encode(paths)) > 0.9999


def test_stock_on_the_saved_checkpoint_gives_the_same_for_files(
    shared_model: LCOEmbedding, samples: Path, tmp_path: Path
) -> None:
    shared_model.save_pretrained(tmp_path, create_model_card=False)
    stock = SentenceTransformer(str(tmp_path), device="cpu")
    inputs: list[Any] = [str(samples / "images" / "red_circle.png"), str(samples / "sounds" / "voice_seven.wav")]
    # Stock takes the bare path of a .webm for a text, so the kind is named.
    inputs += [{"video": str(samples / "clips" / name)} for name in CLIPS]
    cosines = (stock.encode(inputs) * shared_model.encode(inputs)).sum(axis=1)
    np.testing.assert_array_less(0.9999, cosines)


@pytest.mark.parametrize("task", ["MockAny2AnyRetrievalT2ATask", "MockAudioReranking"])
def test_sounds_agree_with_the_wrapper_of_mteb(shared_model: LCOEmbedding, tmp_path: Path, task: str) -> None:
    """At 16 kHz; it resamples others by torchaudio, and can't hand the rate of frames to a checkpoint that samples."""
    pytest.importorskip("torchaudio", exc_type=ImportError)
    mteb = pytest.importorskip("mteb")
    from mteb.mocks import mock_tasks
    from mteb.models import SentenceTransformerEncoderWrapper

    from lco_embedding.evaluation import MtebEncoder
    from tests.evaluation.test_mteb_encoder import judge

    shared_model.save_pretrained(tmp_path, create_model_card=False)
    stock = SentenceTransformerEncoderWrapper(SentenceTransformer(str(tmp_path), device="cpu"))
    kinds = ["text", "image", "audio", "video"]
    stock.mteb_model_meta = stock.mteb_model_meta.model_copy(update={"modalities": kinds})
    ours, score = judge(MtebEncoder(shared_model), task)
    theirs, expected = judge(stock, task)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    assert score == expected
    with pytest.raises(ValueError, match="no video metadata"):
        mteb.evaluate(stock, mock_tasks.MockVideoRetrievalT2V(), cache=None, show_progress_bar=False)
