"""Checkpoints as they are published: whatever their settings say, they load and equal stock Sentence Transformers.

No file of the Hub is here. The shapes are what public sources tell of each family, and stand on a tiny thinker:

- LCO-Embedding-Omni-3B, -7B and -3B-2605: one prompt an input, image over video over audio over text, in the named
  template `sentence_transformers` (`lco_embedding_models.py` of mteb 2.26, which points to that template). Task and
  output as in e5-omni, whose integration was made by the same author in the same days (deduced).
- e5-omni: `transformer_task` "any-to-any" and the last of all hidden states (its pull request on the Hub, as quoted in
  issue threads of mteb). Its prompts are not known; trained with Tevatron, whose chats end in `<|endoftext|>` (the card
  of Tevatron/OmniEmbed-v0.1).
- AuroLA-Omni: a vocabulary with one more token, `<emb>`, which is embedded (its repository), and so many rows of token
  embeddings (`aurola_omni_models.py` of mteb).
- omni-embed-nemotron-3b: bidirectional attention by its own code, mean pooling (`omni_embed_nemotron_models.py` of
  mteb, and its paper, arXiv 2510.03458).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from lco_embedding import InputError, LCOEmbedding
from lco_embedding.checkpoints.info import Checkpoint
from lco_embedding.hub import probes, verify
from lco_embedding.miniature.architecture import CHAT_TEMPLATE
from lco_embedding.training.contrastive import train
from tests.training.test_contrastive import arguments_for, triplets

KINDS = ["text", "image", "audio", "video"]
HIDDEN_STATES = ["hidden_states", -1]
NAMED = "sentence_transformers"

LCO = CHAT_TEMPLATE.replace(
    "{{- '<|im_end|>\\n' -}}\n",
    "{%- if message['role'] == 'user' -%}{%- set types = message['content'] | map(attribute='type') | list -%}"
    "{{- '\\nSummarize the above ' + ('image' if 'image' in types else 'video' if 'video' in types else 'audio'"
    " if 'audio' in types else 'text') + ' in one word:' -}}{%- endif -%}{{- '<|im_end|>\\n' -}}\n",
)
E5 = CHAT_TEMPLATE + "{{- '<|endoftext|>' -}}"
AUROLA = CHAT_TEMPLATE + "{{- '<emb>' -}}"


def publish(
    raw: Path, folder: Path, template: str, task: str, output: Any, name: str | None = NAMED, generation: bool = True
) -> Path:
    """Write the embedding model of a generative checkpoint with the settings of a published one."""
    LCOEmbedding(raw, device="cpu").save_pretrained(folder, create_model_card=False)
    path = folder / "sentence_bert_config.json"
    settings = json.loads(path.read_text())
    settings["transformer_task"] = task
    settings["processing_kwargs"] = {"chat_template": {"add_generation_prompt": generation}}
    for entry in settings["modality_config"].values():
        entry["method_output_name"] = output
    if name is None:
        (folder / "chat_template.jinja").write_text(template)
    else:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(template)
        settings["processing_kwargs"]["chat_template"]["chat_template"] = name
    path.write_text(json.dumps(settings))
    return folder


def with_one_more_token(raw: Path, folder: Path) -> Path:
    """Write a generative checkpoint whose vocabulary has one more token, `<emb>`."""
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(raw)
    shutil.copytree(raw, folder)
    processor = LCOEmbedding(raw, device="cpu").processor
    processor.tokenizer.add_tokens(["<emb>"], special_tokens=True)
    model.resize_token_embeddings(len(processor.tokenizer))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


FAMILIES: dict[str, Callable[[Path, Path], Path]] = {
    "LCO": lambda raw, folder: publish(raw, folder, LCO, "any-to-any", HIDDEN_STATES),
    "LCO, one template": lambda raw, folder: publish(raw, folder, LCO, "feature-extraction", "last_hidden_state", None),
    "LCO, hidden states": lambda raw, folder: publish(raw, folder, LCO, "feature-extraction", HIDDEN_STATES),
    "e5-omni": lambda raw, folder: publish(raw, folder, E5, "any-to-any", HIDDEN_STATES, None),
    "AuroLA": lambda raw, folder: publish(
        with_one_more_token(raw, folder / "raw"), folder / "out", AUROLA, "any-to-any", HIDDEN_STATES, generation=False
    ),
}


@pytest.fixture(scope="module")
def published(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes the checkpoint of a family, once."""
    written: dict[str, Path] = {}

    def write(family: str) -> Path:
        if family not in written:
            written[family] = FAMILIES[family](thinker, tmp_path_factory.mktemp("published"))
        return written[family]

    return write


def inputs() -> list[Any]:
    """One input of each kind, and mixtures with every medium."""
    found = probes.probes(KINDS)
    mixtures = [{"audio": found["audio"], "text": "a tone"}, {"video": found["video"], "text": "a disc"}]
    return [*found.values(), *mixtures, {"image": found["image"], "audio": found["audio"]}]


def embed(model: Any) -> NDArray[np.float32]:
    """Embed each input for itself, so that padding plays no part."""
    return np.stack([np.asarray(model.encode(value)) for value in inputs()])


@pytest.mark.parametrize("family", FAMILIES)
def test_loads_and_equals_stock_and_again_when_it_was_saved(
    family: str, published: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = published(family)
    model = LCOEmbedding(folder, device="cpu")
    assert type(model.omni.model).__name__ == "Qwen2_5OmniThinkerModel"
    assert model.omni.module_output_name == "token_embeddings"
    stock = embed(SentenceTransformer(str(folder), device="cpu"))
    np.testing.assert_allclose(embed(model), stock, atol=1e-5)
    np.testing.assert_allclose(model.encode(inputs()), stock, atol=1e-5, err_msg="in one batch")
    model.save_pretrained(tmp_path / "saved", create_model_card=False)
    for loader in (LCOEmbedding, SentenceTransformer):
        np.testing.assert_allclose(embed(loader(str(tmp_path / "saved"), device="cpu")), stock, atol=1e-5)


def test_what_is_trained_of_it_can_be_published(published: Callable[[str], Path], tmp_path: Path) -> None:
    folder = published("LCO")
    trained = train(arguments_for(folder, tmp_path / "trained", towers="absent"), triplets())
    before, after = embed(LCOEmbedding(folder, device="cpu")), embed(LCOEmbedding(trained, device="cpu"))
    assert np.abs(before - after).max() > 1e-3, "nothing was learned"
    np.testing.assert_allclose(embed(SentenceTransformer(str(trained), device="cpu")), after, atol=1e-5)
    assert Checkpoint.read(trained).prompts == Checkpoint.read(folder).prompts
    findings = verify(trained)
    assert {finding.check for finding in findings} == {"card"}, findings
    assert all("license" in str(finding) or "base model" in str(finding) for finding in findings)


def test_prompts_are_read_off_the_template_of_the_checkpoint(published: Callable[[str], Path], thinker: Path) -> None:
    end = "<|im_end|>\n<|im_start|>assistant\n"
    lco = {kind: f"\nSummarize the above {kind} in one word:{end}" for kind in KINDS}
    expected = lco | {f"{kind}, text": lco[kind] for kind in KINDS[1:]}
    for family in ("LCO", "LCO, one template"):
        assert Checkpoint.read(published(family)).prompts == expected
    assert set(Checkpoint.read(published("e5-omni")).prompts.values()) == {f"{end}<|endoftext|>"}
    assert set(Checkpoint.read(published("AuroLA")).prompts.values()) == {"<|im_end|>\n<emb>"}
    model = LCOEmbedding(thinker, device="cpu")
    assert "Summarize the above in one word:" in model.processor.apply_chat_template(
        probes.chats(KINDS)["mixture"], tokenize=False
    ), "raw backbones have the neutral prompt for mixtures"


def test_saved_checkpoints_state_what_they_require(published: Callable[[str], Path], tmp_path: Path) -> None:
    LCOEmbedding(published("LCO"), device="cpu").save_pretrained(tmp_path, create_model_card=False)
    path = tmp_path / "config_sentence_transformers.json"
    stated = json.loads(path.read_text())
    assert set(stated["requirements"]) == {"sentence-transformers", "transformers"}
    path.write_text(json.dumps({**stated, "requirements": {"transformers": ">=99"}}))
    with pytest.raises(ImportError, match="transformers>=99"):
        LCOEmbedding(tmp_path, device="cpu")


def test_queries_and_documents_are_cut_where_the_checkpoint_says(
    published: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(published("LCO"), tmp_path / "copy")
    path = tmp_path / "copy" / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "query_length": 3, "document_length": 5}))
    model = LCOEmbedding(tmp_path / "copy", device="cpu")
    text = "x y z u v w a b c d e f"
    for embed_task, length in ((model.encode_query, 3), (model.encode_document, 5)):
        expected = model.encode(text, processing_kwargs={"text": {"max_length": length}})
        np.testing.assert_allclose(embed_task(text), expected, atol=1e-6)
        assert np.abs(embed_task(text) - model.encode(text)).max() > 1e-4


def test_without_settings_it_renders_as_stock_does(published: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(published("LCO, one template"), tmp_path / "copy")
    change(tmp_path / "copy", "sentence_bert_config.json", lambda settings: settings.pop("processing_kwargs"))
    stock = embed(SentenceTransformer(str(tmp_path / "copy"), device="cpu"))
    np.testing.assert_allclose(embed(LCOEmbedding(tmp_path / "copy", device="cpu")), stock, atol=1e-5)


def test_a_medium_that_the_template_leaves_out_is_an_error(published: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(published("LCO, one template"), tmp_path / "copy")
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|AUDIO|>", ""))
    model = LCOEmbedding(tmp_path / "copy", device="cpu")
    values = ["x", probes.probes(KINDS)["audio"]]
    with pytest.raises(InputError, match=r"input 1 .*: the chat template writes 0 placeholders for its 1 media"):
        model.encode(values)
    assert np.isfinite(model.encode(values, on_error="nan")[0]).all()


# --- what does not load -----------------------------------------------------------------------------------------------


def change(folder: Path, name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / name
    settings = json.loads(path.read_text())
    edit(settings)
    path.write_text(json.dumps(settings))


def _message(settings: dict[str, Any], output: Any) -> None:
    settings["modality_config"]["message"]["method_output_name"] = output


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "bidirectional attention (omni-embed-nemotron)": (
        "config.json",
        lambda config: config["text_config"].update(is_causal=False),
        "the attention of .* is bidirectional; supported is causal attention",
    ),
    "mean pooling (omni-embed-nemotron)": (
        "1_Pooling/config.json",
        lambda pooling: pooling.update(pooling_mode="mean"),
        "pools the last token, but this checkpoint asks for 'mean'; load it with sentence_transformers",
    ),
    "another layer": (
        "sentence_bert_config.json",
        lambda settings: _message(settings, ["hidden_states", -2]),
        r"embeds by the output \['hidden_states', -2\]",
    ),
    "logits": ("sentence_bert_config.json", lambda settings: _message(settings, "logits"), "by the output 'logits'"),
    "a template that is missing": (
        "sentence_bert_config.json",
        lambda settings: settings["processing_kwargs"]["chat_template"].update(chat_template="emb"),
        r"asks for the chat template 'emb', which it lacks; it has \['default', 'sentence_transformers'\]",
    ),
    "plain text, without chats": (
        "sentence_bert_config.json",
        lambda settings: settings["modality_config"].pop("message"),
        "has no 'message' in its modality_config",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_embedded_right_is_refused_by_name(
    case: str, published: Callable[[str], Path], tmp_path: Path
) -> None:
    name, edit, message = REFUSED[case]
    shutil.copytree(published("LCO"), tmp_path / "copy")
    change(tmp_path / "copy", name, edit)
    with pytest.raises(ValueError, match=message):
        LCOEmbedding(tmp_path / "copy", device="cpu")


def test_a_tokenizer_without_words_is_refused(published: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(published("LCO"), tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"knows no words; is its tokenizer\.json missing"):
        LCOEmbedding(tmp_path / "copy", device="cpu")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone"):
        LCOEmbedding(tmp_path / "gone", device="cpu")


def test_code_of_the_repository_is_refused_even_where_it_is_trusted(
    published: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(published("LCO"), folder)
    (folder / "theirs.py").write_text(
        "from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerModel\n"
        "class TheirConfig(Qwen2_5OmniThinkerConfig):\n    pass\n"
        "class TheirModel(Qwen2_5OmniThinkerModel):\n    config_class = TheirConfig\n"
    )
    classes = {"AutoConfig": "theirs.TheirConfig", "AutoModel": "theirs.TheirModel"}
    change(folder, "config.json", lambda config: config.update(auto_map=classes))
    with pytest.raises(ValueError, match=r"brings its own model code \(TheirConfig\).*trust_remote_code=True"):
        LCOEmbedding(folder, device="cpu", trust_remote_code=True)
