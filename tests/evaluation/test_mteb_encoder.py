"""mteb's encoder of any `LCOEmbedding`: agrees with mteb's own where that is right, and with `encode` everywhere."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, Image, Video, concatenate_datasets
from numpy.typing import NDArray
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

from lco_embedding import LCOEmbedding
from tests.conftest import noise, tone
from tests.media_files import counting_frames, sine, write_image, write_video

mteb = pytest.importorskip("mteb", reason="mteb takes Python 3.11 or later")

from mteb.mocks import mock_tasks  # noqa: E402
from mteb.mocks.mock_tasks import classification, clustering, pair_classification, reranking, retrieval  # noqa: E402
from mteb.models import EncoderProtocol, SentenceTransformerEncoderWrapper  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from lco_embedding.evaluation.mteb_encoder import MtebEncoder  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of scikit-learn and scipy, on data of two samples

METADATA = mock_tasks.MockRetrievalTask.metadata


class Recorder:
    """An encoder that keeps what it embedded."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.mteb_model_meta = encoder, encoder.mteb_model_meta
        self.calls: list[NDArray[Any]] = []

    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        self.calls.append(np.asarray(self.encoder.encode(inputs, **kwargs)))
        return self.calls[-1]

    def similarity(self, left: Any, right: Any) -> Any:
        return self.encoder.similarity(left, right)

    def similarity_pairwise(self, left: Any, right: Any) -> Any:
        return self.encoder.similarity_pairwise(left, right)


def judge(encoder: Any, task: str, batch_size: int = 4) -> tuple[list[NDArray[Any]], float]:
    """Run a mock task; return what was embedded, and the score."""
    recorder = Recorder(encoder)
    options = {"batch_size": batch_size, "show_progress_bar": False}
    found = mteb.evaluate(
        recorder, getattr(mock_tasks, task)(), cache=None, encode_kwargs=options, show_progress_bar=False
    )
    return recorder.calls, found.task_results[0].get_score()


def embed(encoder: MtebEncoder, rows: Dataset, prompt_type: PromptType | None = None, **kwargs: Any) -> NDArray[Any]:
    """Embed a data set as a task does."""
    options = {"batch_size": 2, "show_progress_bar": False, **kwargs}
    return encoder.encode(
        DataLoader(rows, batch_size=2),
        task_metadata=METADATA,
        hf_split="test",
        hf_subset="default",
        prompt_type=prompt_type,
        **options,
    )


@pytest.fixture(scope="module")
def encoder(shared_model: LCOEmbedding) -> MtebEncoder:
    return MtebEncoder(shared_model)


@pytest.fixture(scope="module")
def stock(shared_model: LCOEmbedding, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformerEncoderWrapper:
    """mteb's wrapper of what stock Sentence Transformers loads from the saved checkpoint."""
    folder = tmp_path_factory.mktemp("stock")
    shared_model.save_pretrained(folder, create_model_card=False)
    wrapper = SentenceTransformerEncoderWrapper(SentenceTransformer(str(folder), device="cpu"))
    meta = wrapper.mteb_model_meta
    assert meta.modalities == ["text"], "mteb finds the modalities by itself: say so in the documentation"
    wrapper.mteb_model_meta = meta.model_copy(update={"modalities": ["text", "image", "audio", "video"]})
    return wrapper


@pytest.fixture
def sounds_as_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the mock tasks hold their sounds as WAV files, which `datasets` would make of arrays by torchcodec."""

    def create(rng: np.random.Generator, n: int = 2, duration_s: float = 1.0, sampling_rate: int = 16_000) -> list[Any]:
        samples = [rng.uniform(-1, 1, int(duration_s * sampling_rate)) for _ in range(n)]
        return [{"bytes": wav(each, sampling_rate), "path": None} for each in samples]

    for module in (classification, clustering, pair_classification, reranking, retrieval):
        monkeypatch.setattr(module, "create_mock_audio", create)


def wav(samples: NDArray[Any], rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


# --- mock tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        "MockRetrievalTask",
        "MockInstructionReranking",
        "MockRetrievalDialogTask",
        "MockMultilingualSTSTask",
        "MockClassificationTask",
        "MockSummarizationTask",
        "MockAny2AnyRetrievalI2TTask",
        "MockImageClassificationTask",
        "MockZeroShotClassificationTask",
        "MockImageTextPairClassificationTask",
        "MockMultiChoiceTask",
    ],
)
def test_text_and_images_agree_with_the_wrapper_of_mteb(encoder: MtebEncoder, stock: Any, task: str) -> None:
    ours, score = judge(encoder, task)
    theirs, expected = judge(stock, task)
    assert len(ours) == len(theirs) > 0
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    assert score == pytest.approx(expected)


@pytest.mark.parametrize(
    "task",
    [
        "MockAny2AnyRetrievalA2TTask",
        "MockAudioReranking",
        "MockAudioPairClassification",
        "MockVideoRetrievalT2V",
        "MockVideoClusteringTask",
        "MockVideoAudioTextRetrievalVAT2T",
    ],
)
@pytest.mark.usefixtures("sounds_as_files")
def test_sound_and_video_run_without_other_decoders(encoder: MtebEncoder, task: str) -> None:
    calls, score = judge(encoder, task)
    assert all(np.isfinite(each).all() and len(np.unique(each, axis=0)) > 1 for each in calls)
    assert 0 <= score <= 1


def test_a_better_model_scores_better(encoder: MtebEncoder, samples: Path) -> None:
    sounds = sorted((samples / "sounds").iterdir())
    rows = Dataset.from_dict({"audio": [str(path) for path in sounds]}).cast_column("audio", Audio())
    miniature = MtebEncoder(LCOEmbedding.miniature(device="cpu"), name="lco-embedding/miniature")
    captions = [
        "fast high beeps",
        "a falling high hiss, then a rising low drone",
        "a low flute",
        "someone saying hello",
        "someone saying seven",
    ]
    texts = Dataset.from_dict({"text": captions})
    found = miniature.similarity(embed(miniature, rows), embed(miniature, texts)).argmax(1)
    chance = encoder.similarity(embed(encoder, rows), embed(encoder, texts)).argmax(1)
    right = [int((np.asarray(each) == np.arange(len(sounds))).sum()) for each in (found, chance)]
    assert right[0] > right[1]


# --- items ----------------------------------------------------------------------------------------------------------


def test_each_item_gets_its_own_prompt_whatever_is_in_its_batch(
    encoder: MtebEncoder, shared_model: LCOEmbedding, tmp_path: Path
) -> None:
    image = str(write_image(tmp_path / "a.png", noise(56, 84, 3)))
    sound = {"bytes": wav(tone(), 16_000), "path": None}
    rows = Dataset.from_dict(
        {
            "text": ["a red circle", None, "a blue square", None],
            "image": [None, image, image, None],
            "audio": [None, None, None, sound],
        }
    )
    rows = rows.cast_column("image", Image()).cast_column("audio", Audio())
    alone: list[Any] = [
        "a red circle",
        {"image": image},
        {"image": image, "text": "a blue square"},
        {"array": tone(), "sampling_rate": 16_000},
    ]
    expected = np.stack([shared_model.encode(each) for each in alone])
    np.testing.assert_allclose(embed(encoder, rows, batch_size=4), expected, atol=1e-5)
    # That the prompts matter: without theirs, the embeddings are others.
    chats = [[{"role": "user", "content": "a red circle"}, {"role": "assistant", "content": "."}]]
    assert np.abs(shared_model.encode(chats)[0] - expected[0]).max() > 1e-3


def test_media_come_before_text_whatever_the_order_of_columns(
    encoder: MtebEncoder, shared_model: LCOEmbedding, tmp_path: Path
) -> None:
    image = str(write_image(tmp_path / "a.png", noise(56, 84, 3)))
    for columns in ({"text": ["what is this?"], "image": [image]}, {"image": [image], "text": ["what is this?"]}):
        rows = Dataset.from_dict(columns).cast_column("image", Image())
        expected = shared_model.encode([{"image": image, "text": "what is this?"}])
        np.testing.assert_allclose(embed(encoder, rows), expected, atol=1e-6)
    other = shared_model.encode([{"text": "what is this?", "image": image}])
    assert np.abs(other - expected).max() > 1e-3


def test_the_frame_rate_is_handed_over(encoder: MtebEncoder, shared_model: LCOEmbedding, tmp_path: Path) -> None:
    frames = counting_frames(8, (64, 56))
    paths = [write_video(tmp_path / f"{fps}.mp4", frames, fps=fps) for fps in (2, 8)]
    rows = Dataset.from_dict({"video": [path.read_bytes() for path in paths]}).cast_column("video", Video())
    got = embed(encoder, rows)
    np.testing.assert_allclose(got, shared_model.encode([*paths]), atol=1e-6)
    # The same eight frames, of four seconds and of one: of which four are taken, each counted as a second at half
    # the rate. An encoder that hands over the frames alone gives both the same.
    assert np.abs(got[0] - got[1]).max() > 1e-3


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_the_sampling_rate_is_handed_over(
    encoder: MtebEncoder, shared_model: LCOEmbedding, tmp_path: Path, rate: int
) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(wav(sine(440, 1.0, rate), rate))
    held = {"bytes": [{"bytes": path.read_bytes(), "path": None}], "path": [str(path)]}
    expected = shared_model.encode([path])
    for values in held.values():
        rows = Dataset.from_dict({"audio": values}).cast_column("audio", Audio())
        np.testing.assert_allclose(embed(encoder, rows), expected, atol=1e-6)
    arrays = Dataset.from_dict({"audio": [{"array": sine(440, 1.0, rate), "sampling_rate": rate}]})
    np.testing.assert_allclose(embed(encoder, arrays), expected, atol=1e-5)
    at_16_khz = shared_model.encode([{"array": sine(440, 1.0, rate), "sampling_rate": 16_000}])
    assert np.abs(at_16_khz - expected).max() > 1e-3


def test_an_empty_text_is_embedded_as_one(encoder: MtebEncoder, shared_model: LCOEmbedding) -> None:
    texts = ["", "a red circle", "  \n"]
    np.testing.assert_allclose(
        embed(encoder, Dataset.from_dict({"text": texts})), shared_model.encode(texts), atol=1e-6
    )


def test_items_keep_their_order_over_many_batches(encoder: MtebEncoder, shared_model: LCOEmbedding) -> None:
    texts = [" ".join(["circle"] * (1 + 7 * index % 11)) + f" {index}" for index in range(40)]
    got = embed(encoder, Dataset.from_dict({"text": texts}), batch_size=2)
    np.testing.assert_allclose(got, shared_model.encode(texts), atol=1e-5)


def test_a_text_that_looks_like_a_path_is_a_text(encoder: MtebEncoder, shared_model: LCOEmbedding) -> None:
    got = embed(encoder, Dataset.from_dict({"text": ["missing.png"]}))
    np.testing.assert_allclose(got, shared_model.encode([{"text": "missing.png"}]), atol=1e-6)


def test_prompts_of_the_checkpoint_go_by_task_and_side(model: LCOEmbedding) -> None:
    model.prompts = {"query": "Find it. ", "document": "", "MockRetrievalTask-document": "A page. "}
    encoder = MtebEncoder(model)
    rows = Dataset.from_dict({"text": ["a red circle"]})
    for prompt_type, prompt in ((PromptType.query, "Find it. "), (PromptType.document, "A page. "), (None, "")):
        expected = model.encode(["a red circle"], prompt=prompt)
        np.testing.assert_allclose(embed(encoder, rows, prompt_type), expected, atol=1e-6)
    assert np.abs(embed(encoder, rows, PromptType.query) - embed(encoder, rows)).max() > 1e-3


def test_quantised_embeddings(encoder: MtebEncoder) -> None:
    rows = Dataset.from_dict({"text": ["a", "b", "c"]})
    assert embed(encoder, rows, precision="binary").dtype == np.int8
    assert embed(encoder, rows, precision="float32").dtype == np.float32


# --- errors ---------------------------------------------------------------------------------------------------------


def test_a_bad_item_is_named_by_task_place_and_id(encoder: MtebEncoder, tmp_path: Path) -> None:
    good = write_image(tmp_path / "a.png", noise(28, 28, 3)).read_bytes()
    rows = Dataset.from_dict(
        {"id": [f"page-{index}" for index in range(20)], "image": [{"bytes": good, "path": None}] * 20}
    )
    broken = Dataset.from_dict({"id": ["page-20"], "image": [{"bytes": b"no picture", "path": None}]})
    rows = concatenate_datasets([rows, broken]).cast_column("image", Image())
    with pytest.raises(ValueError, match="1 item") as caught:
        embed(encoder, rows, PromptType.document)
    message = str(caught.value)
    assert message.startswith(f"{METADATA.name} (test, default): 1 item(s) can't be embedded:")
    assert "- document 20 (id 'page-20'), image" in message
    assert "not a readable image" in message


def test_a_failing_task_leaves_the_others(encoder: MtebEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def images(rng: np.random.Generator, n: int = 2) -> list[Any]:
        return [{"bytes": b"", "path": "gone.png"}] * n

    monkeypatch.setattr(classification, "create_mock_images", images)
    tasks = [mock_tasks.MockImageClassificationTask(), mock_tasks.MockSTSTask()]
    found = mteb.evaluate(encoder, tasks, cache=None, raise_error=False, show_progress_bar=False)
    assert [result.task_name for result in found.task_results] == [tasks[1].metadata.name]
    assert "gone.png" in found.exceptions[0].exception


def test_a_loaded_model_takes_no_arguments_for_loading(shared_model: LCOEmbedding) -> None:
    with pytest.raises(TypeError, match="processing_kwargs, device would have no effect"):
        MtebEncoder(shared_model, processing_kwargs={}, device="cpu")


# --- metadata -------------------------------------------------------------------------------------------------------


def test_metadata_of_a_model(encoder: MtebEncoder, shared_model: LCOEmbedding, thinker: Path) -> None:
    assert isinstance(encoder, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert meta.modalities == ["audio", "image", "text", "video"]
    assert meta.name == f"local/{thinker.name}"
    assert meta.embed_dim == 128
    assert meta.n_parameters == sum(parameter.numel() for parameter in shared_model.parameters())
    assert 0 < meta.n_embedding_parameters < meta.n_parameters
    assert meta.max_tokens == shared_model.omni.max_text_tokens
    assert str(meta.similarity_fn_name.value) == "cosine"
    assert meta.use_instructions
    assert meta.training_datasets is None
    meta.to_dict()  # as mteb files it


def test_modalities_are_those_of_the_backbone(checkpoints: Callable[[str], Path]) -> None:
    encoder = MtebEncoder(checkpoints("qwen2_5_vl"), device="cpu")
    assert encoder.mteb_model_meta.modalities == ["image", "text", "video"]
    with pytest.raises(ValueError, match="none overlap"):
        judge(encoder, "MockAudioClassification")


def test_what_the_training_record_tells(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    shared_model.save_pretrained(folder, create_model_card=False)
    record = {
        "base": "Qwen/Qwen2.5-Omni-3B",
        "data": ["nli.jsonl", "org/pairs:train"],
        "before": {"base": "step-1", "data": ["ocr.jsonl"], "before": None},
    }
    (folder / "training_record.json").write_text(json.dumps(record))
    meta = MtebEncoder(folder, device="cpu").mteb_model_meta
    assert meta.training_datasets == {"nli", "org/pairs", "ocr"}
    assert meta.adapted_from == "Qwen/Qwen2.5-Omni-3B"
    assert meta.name == "local/tuned"


def test_the_revision_follows_weights_and_settings(model: LCOEmbedding, shared_model: LCOEmbedding) -> None:
    revision = MtebEncoder(model).mteb_model_meta.revision
    assert revision == MtebEncoder(shared_model).mteb_model_meta.revision
    settings = model.omni.processing_kwargs
    model.omni.processing_kwargs = model.omni.reader({"video": {"fps": 1.0}}).settings
    changed = MtebEncoder(model).mteb_model_meta.revision
    model.omni.processing_kwargs = settings
    assert MtebEncoder(model).mteb_model_meta.revision == revision
    next(model.parameters()).data.view(-1)[0] += 1e-3
    assert len({revision, changed, MtebEncoder(model).mteb_model_meta.revision}) == 3
    assert MtebEncoder(model, revision="mine").mteb_model_meta.revision == "mine"


def test_an_adapter_is_filed_under_its_own_name(thinker: Path, tmp_path: Path) -> None:
    model = LCOEmbedding(thinker, device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=model.omni.backbone.lora_targets))
    model.save_pretrained(tmp_path / "adapter", create_model_card=False)
    assert MtebEncoder(tmp_path / "adapter", device="cpu").mteb_model_meta.name == "local/adapter"


def test_a_model_of_the_hub_is_filed_by_its_commit(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    commit = "0123456789" * 4
    home = tmp_path / "models--someone--tiny"
    shared_model.save_pretrained(home / "snapshots" / commit, create_model_card=False)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    options = {"cache_folder": str(tmp_path), "local_files_only": True}
    plain = MtebEncoder("someone/tiny", device="cpu", **options)
    meta = plain.mteb_model_meta
    assert (meta.name, meta.revision, meta.experiment_kwargs) == ("someone/tiny", commit, None)
    assert meta.reference == "https://huggingface.co/someone/tiny"
    changed = MtebEncoder("someone/tiny", device="cpu", processing_kwargs={"video": {"fps": 1.0}}, **options)
    assert changed.mteb_model_meta.revision == commit
    assert changed.mteb_model_meta.experiment_name not in (None, meta.experiment_name)
    # As mteb loads a model by its metadata, where its own extras for media are installed.
    assert meta.loader is not None
    again = meta.loader(meta.name, revision=meta.revision, device="cpu", **options)
    rows = Dataset.from_dict({"text": ["a red circle"]})
    np.testing.assert_allclose(embed(again, rows), embed(plain, rows), atol=1e-6)


def test_mteb_knows_more_of_published_models() -> None:
    from lco_embedding.evaluation.model_meta import _known

    known = _known("LCO-Embedding/LCO-Embedding-Omni-3B")
    assert known["license"]
    assert known["release_date"]
    assert known["loader"] is None


def test_a_second_run_computes_nothing(encoder: MtebEncoder, tmp_path: Path) -> None:
    cache = mteb.ResultCache(tmp_path)
    tasks = [mock_tasks.MockSTSTask(), mock_tasks.MockRetrievalTask()]
    first, second = Recorder(encoder), Recorder(encoder)
    one = mteb.evaluate(first, tasks, cache=cache, show_progress_bar=False)
    assert first.calls
    two = mteb.evaluate(second, tasks, cache=cache, show_progress_bar=False)
    assert not second.calls
    for left, right in zip(one.task_results, two.task_results, strict=True):
        assert left.get_score() == pytest.approx(right.get_score())
    meta = encoder.mteb_model_meta
    folder = tmp_path / "results" / meta.name.replace("/", "__") / meta.revision
    assert {f"{task.metadata.name}.json" for task in tasks} <= {path.name for path in folder.iterdir()}
    shutil.rmtree(tmp_path / "results")
    mteb.evaluate(second, tasks, cache=cache, show_progress_bar=False)
    assert second.calls
