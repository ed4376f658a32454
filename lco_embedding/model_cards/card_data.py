"""The data of a model card: that of Sentence Transformers, and what the files of a checkpoint say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData

from lco_embedding.checkpoints import record as records
from lco_embedding.checkpoints.info import Checkpoint

YAML = (
    *("language", "license", "license_name", "license_link", "library_name", "pipeline_tag", "tags", "datasets"),
    *("base_model", "base_model_relation", "co2_eq_emissions"),
)
"""The metadata of a card, in order."""

TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "dense", "lco-emb")


@dataclass
class LCOModelCardData(SentenceTransformerModelCardData):  # type: ignore[misc]
    """The data of the card of an LCO model.

    What a person knows is passed; the rest is read from the checkpoint when the card is written, and nothing is asked
    of the network.

    Args:
        license_name: Of a license that the Hub does not know (then `license` is "other").
        license_link: Where that license is.
        base: Id of the model that it was made of; follows from the checkpoint unless given.
        base_model_relation: What the model is to its base: finetune, adapter, merge or quantized; follows from the
            checkpoint unless given.
        **kwargs: As in `SentenceTransformerModelCardData`: `license`, `language`, `model_name`, `model_id`, ...

    Example:
        >>> model = LCOEmbedding("out", model_card_data=LCOModelCardData(license="apache-2.0", language="en"))
        >>> model.push_to_hub("me/model")
    """

    license_name: str | None = None
    license_link: str | None = None
    base: str | None = None
    base_model_relation: str | None = None
    tags: list[str] = field(default_factory=lambda: list(TAGS))
    generate_widget_examples: bool = False

    base_model: str | list[str] | None = field(default=None, init=False)
    datasets: list[str] = field(default_factory=list, init=False, repr=False)
    checkpoint: Checkpoint | None = field(default=None, init=False, repr=False)
    pipeline_tag: str = field(default="feature-extraction", init=False)
    template_path: Path = field(default=Path(__file__).parent / "template.md", init=False, repr=False)

    def set_base_model(self, model_id: str, revision: str | None = None) -> bool:
        """Note the Hub model that was loaded; folders and what is not on the Hub say nothing."""
        if Path(model_id).exists() or not records.HUB_ID.fullmatch(model_id):
            return False
        self.base_model, self.base_model_revision = model_id, revision
        return True

    def try_to_set_base_model(self) -> None:
        """Do nothing: the base is known from loading or from the record, or it is not asked for."""

    def run_usage_snippet(self) -> None:
        """Do nothing: the usage of each modality is in the template, and nothing need be computed."""

    def generate_usage_snippet(self) -> str:
        """Return nothing, for the same reason."""
        return ""

    def get_model_specific_metadata(self) -> dict[str, Any]:
        """Return what the architecture and the checkpoint tell."""
        checkpoint = self.checkpoint
        if checkpoint is None:
            return {}
        line = records.runs(checkpoint.record)
        return {
            "checkpoint": checkpoint,
            "kinds": checkpoint.kinds,
            "runs": line,
            "versions": line[0].get("versions") if line else None,
            "from_nothing": records.is_from_nothing(checkpoint.record),
            "prompts": checkpoint.prompts,
            "text_limit": checkpoint.processing.get("text", {}).get("max_length"),
            "shown_id": self.model_id or checkpoint.name,
        }

    def get_default_model_name(self) -> str:
        """Return the name of the repository or folder."""
        if self.model_id:
            return str(self.model_id).split("/")[-1]
        return self.checkpoint.name if self.checkpoint is not None else "LCO embedding model"

    def describe(self, checkpoint: Checkpoint) -> None:
        """Take over what a checkpoint says where nothing was given."""
        self.checkpoint = checkpoint
        if self.base is not None:
            self.base_model = self.base
        elif found := records.bases(checkpoint.record):
            self.base_model = found[0] if len(found) == 1 else found
        elif checkpoint.adapter is not None:
            name = checkpoint.adapter.get("base_model_name_or_path") or ""
            if records.HUB_ID.fullmatch(name) and not Path(name).exists():
                self.base_model = name
        self.datasets = list(dict.fromkeys([*self.datasets, *records.data_sets(checkpoint.record)]))
        self.add_tags([*checkpoint.kinds, *(["multimodal"] if len(checkpoint.kinds) > 1 else [])])
        if checkpoint.layout == "adapter":
            self.add_tags(["peft", "lora"])

    def relation(self) -> str | None:
        """Return what the model is to its base, None if it has none."""
        if self.base_model_relation or not self.base_model:
            return self.base_model_relation
        if self.checkpoint is not None and self.checkpoint.layout == "adapter":
            return "adapter"
        line = records.runs(self.checkpoint.record) if self.checkpoint is not None else []
        return "merge" if line and "sources" in line[0] else "finetune"

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the card, in order, without what is not known."""
        known = {name: getattr(self, name, None) for name in YAML} | {"base_model_relation": self.relation()}
        return {name: known[name] for name in YAML if known[name] not in (None, [], "")}

    def to_yaml(self, line_break: str | None = None) -> str:
        """Return the metadata as YAML."""
        self._cached_dict = None
        return str(yaml_dump(self.metadata(), sort_keys=False, line_break=line_break)).strip()
