"""Loading and saving: the part of a checkpoint that embeds, out of any layout and into the one that all can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import safe_open
from sentence_transformers.base.modules import Transformer
from sentence_transformers.base.modules.transformer import set_temporary_class_attrs
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from lco_embedding.modules.adapters import attach_adapter, commit_of, find_adapter
from lco_embedding.modules.backbones import Backbone, embedding_config, find_backbone

if TYPE_CHECKING:
    from typing_extensions import Self

HEADS = ("lm_head.weight", "thinker.lm_head.weight", "language_model.lm_head.weight")
"""Names of the language head in the checkpoints of the backbones."""

DECODER_PREFIX = r"^(thinker\.)?(model\.language_model\.|language_model\.model\.|model\.)"
"""What stands before the names of the decoder's weights in the checkpoints of the backbones."""

HUB = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
"""The arguments that say where on the Hub a file is and how it is fetched."""

logger = transformers_logging.get_logger(__name__)


LAST_HIDDEN_STATE = ("last_hidden_state", ["last_hidden_state"], ["hidden_states", -1])
"""How `sentence_bert_config.json` names the last hidden state; transformers puts it, after the final norm, last among
the hidden states of all layers."""


def _check_output(source: str, modality_config: Mapping[Any, Any] | None) -> None:
    """Check that a checkpoint embeds chats, by the last hidden state.

    Raises:
        ValueError: It embeds plain text, by another method or another output of the model.
    """
    if modality_config is None:
        return
    chat = modality_config.get("message")
    if chat is None:
        raise ValueError(
            f"the sentence_bert_config.json of {source} has no 'message' in its modality_config, so Sentence "
            "Transformers gives texts to the model without a chat template; load it with "
            "sentence_transformers.SentenceTransformer"
        )
    output = chat["method_output_name"]
    if chat["method"] != "forward" or (list(output) if isinstance(output, tuple) else output) not in LAST_HIDDEN_STATE:
        raise ValueError(
            f"{source} embeds by the output {output!r} of {chat['method']!r}; supported is the last hidden state of "
            "'forward'. Load it with sentence_transformers.SentenceTransformer"
        )


def _check_config(source: str, config: PretrainedConfig) -> None:
    """Check that a checkpoint is of a class of transformers, with causal attention.

    Raises:
        ValueError: It brings its own code, or its attention is bidirectional.
    """
    text = config.get_text_config()
    if type(config) not in MODEL_MAPPING:
        raise ValueError(
            f"{source} brings its own model code ({type(config).__name__}), which is not supported; load it with "
            "sentence_transformers.SentenceTransformer(..., trust_remote_code=True)"
        )
    if any(getattr(part, "is_causal", True) is False for part in (config, text)) or getattr(
        text, "use_bidirectional_attention", None
    ):
        raise ValueError(
            f"the attention of {source} is bidirectional; supported is causal attention, in which the last token "
            "sees all others. Load it with sentence_transformers.SentenceTransformer"
        )


class BackboneTransformer(Transformer):  # type: ignore[misc]
    """A `Transformer` that loads raw backbones, adapters and decoders alone, and saves in the generation layout.

    Args:
        model_name_or_path: Folder or Hub id of a checkpoint.
        **kwargs: As in `OmniTransformer`.

    Raises:
        ValueError: The architecture is not supported.
    """

    def __init__(
        self, model_name_or_path: str, *, modality_config: Mapping[Any, Any] | None = None, **kwargs: Any
    ) -> None:
        _check_output(model_name_or_path, modality_config)
        # Whatever class and output a checkpoint names, the last hidden state of the part that embeds is the same.
        for name in ("transformer_task", "module_output_name"):
            kwargs.pop(name, None)
        # Set past nn.Module, which is not initialised before `super` loads the model.
        self.__dict__["unloaded_parameters"] = 0
        self.__dict__["_source"] = (model_name_or_path, kwargs.get("model_kwargs") or {})
        super().__init__(model_name_or_path, **kwargs)
        self.backbone: Backbone = find_backbone(self.config)
        if self.unloaded_parameters:
            self.backbone = replace(self.backbone, kinds=("text",))
        self.checkpoint_dtype: torch.dtype = self.model.dtype
        """Dtype of the weights as they were loaded, in which a trained model is written."""
        # A part of a larger model does not know where it came from, which an adapter on it has to tell.
        self.model.name_or_path = self.model.name_or_path or self._source[0]

    @classmethod
    def of_backbone(
        cls,
        model_name_or_path: str,
        *,
        token: bool | str | None = None,
        cache_dir: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a generative checkpoint or an adapter of one, with the settings of media that it may have beside it.

        Args:
            model_name_or_path: Folder or Hub id.
            token: For private repositories.
            cache_dir: Where downloads are kept.
            revision: Branch, tag or commit.
            local_files_only: Download nothing.
            trust_remote_code: Allow code of the repository.
            **kwargs: As in `OmniTransformer`.
        """
        revision = commit_of(
            model_name_or_path, revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        hub = {"token": token, "revision": revision, "local_files_only": local_files_only}
        config = cls.load_config(model_name_or_path, cache_folder=cache_dir, **hub)
        shared = {**hub, "cache_dir": cache_dir, "trust_remote_code": trust_remote_code}
        at_adapter = {**hub, "cache_dir": cache_dir}
        is_bare = "processing_kwargs" not in config
        if is_bare and (adapter := find_adapter(model_name_or_path, at_adapter)) is not None:
            # Nothing lies beside the adapter, not even a processor: all but it comes from its base.
            at_base = {**shared, "revision": adapter.revision}
            model = cls.of_backbone(adapter.base_model_name_or_path, **at_base, **kwargs)
            attach_adapter(model.model, model_name_or_path, adapter, model.backbone, at_adapter)
            return model
        for name in ("model_kwargs", "processor_kwargs", "config_kwargs"):
            kwargs[name] = {**shared, **(kwargs.get(name) or {})}
        return cls(model_name_or_path, processing_kwargs=config.get("processing_kwargs"), **kwargs)

    def _load_config(
        self, model_name_or_path: str, backend: str, config_kwargs: dict[str, Any]
    ) -> tuple[PretrainedConfig, bool]:
        hub = {key: value for key, value in config_kwargs.items() if key in HUB}
        adapter = find_adapter(model_name_or_path, hub)
        if adapter is None:
            config, is_peft_model = super()._load_config(model_name_or_path, backend, config_kwargs)
            config = embedding_config(config)
            _check_config(model_name_or_path, config)
            return config, is_peft_model
        # The model is its base, at one revision, and the adapter is put on it when it is loaded.
        elsewhere = {"revision": adapter.revision, "subfolder": ""}
        base = adapter.base_model_name_or_path
        config, _ = super()._load_config(base, backend, {**config_kwargs, **elsewhere})
        self.__dict__["_source"] = (base, {**self._source[1], **elsewhere})
        self.__dict__["_adapter"] = (model_name_or_path, adapter, hub)
        return embedding_config(config), False

    def _load_model(
        self,
        model_name_or_path: str,
        transformer_task: Any,
        config: PretrainedConfig,
        backend: str,
        is_peft_model: bool,
        **model_kwargs: Any,
    ) -> PreTrainedModel:
        # Weights in pickles are never read, and no others looked for.
        model_kwargs["use_safetensors"] = True
        if (adapter := self.__dict__.pop("_adapter", None)) is not None:
            base, given = self._source
            at = {key: given[key] for key in ("revision", "subfolder")}
            model = self._load_model(base, transformer_task, config, backend, False, **{**model_kwargs, **at})
            name, adapter_config, hub = adapter
            attach_adapter(model, name, adapter_config, find_backbone(config), hub)
            return model
        # The language head is left in its file by design, so its absence is not to be reported at every load.
        model_class = MODEL_MAPPING[type(config)]
        if not model_kwargs.pop("load_towers", True):
            return self._load_decoder(model_class, model_name_or_path, config, **model_kwargs)
        ignored = [*(model_class._keys_to_ignore_on_load_unexpected or []), r"lm_head\.weight$"]
        with set_temporary_class_attrs(model_class, _keys_to_ignore_on_load_unexpected=ignored):
            return super()._load_model(
                model_name_or_path, transformer_task, config, backend, is_peft_model, **model_kwargs
            )

    def _load_decoder(
        self, model_class: type[PreTrainedModel], model_name_or_path: str, config: PretrainedConfig, **kwargs: Any
    ) -> PreTrainedModel:
        """Load a model without its towers, of which nothing is read."""
        backbone = find_backbone(config)
        with torch.device("meta"):
            model = model_class(config)
        decoder_class = type(model.get_submodule(backbone.decoder))
        with set_temporary_class_attrs(decoder_class, _keys_to_ignore_on_load_unexpected=[""]):
            decoder, report = decoder_class.from_pretrained(
                model_name_or_path,
                config=config.get_text_config(),
                key_mapping={DECODER_PREFIX: ""},
                output_loading_info=True,
                **kwargs,
            )
        if report["missing_keys"]:
            raise ValueError(f"{model_name_or_path} has no weights for {sorted(report['missing_keys'])[:3]}, ...")
        model.set_submodule(backbone.decoder, decoder)
        for name, parameter in list(model.named_parameters()):
            if parameter.is_meta:
                self.unloaded_parameters += parameter.numel()
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, None)
        for tower in backbone.towers:
            model.set_submodule(tower, nn.Identity())
        return model

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write model, processor and settings in the generation layout, which any loader of the family reads.

        The language head is copied from the checkpoint that the model came from, if that has one and can be read.
        A model with an adapter is saved as Sentence Transformers saves it: the adapter alone.

        Raises:
            ValueError: `safe_serialization` is False: only safetensors are written.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write pickled weights; only safetensors are written")
        if getattr(self.model, "_hf_peft_config_loaded", False):
            self._pin_base()
            super().save(output_path, *args, **kwargs)
            return
        whole = self.generation_model()
        state = {
            key: value for key, value in whole.state_dict().items() if key != "lm_head.weight" or not value.is_meta
        }
        if any(value.is_meta for value in state.values()):
            raise ValueError("weights that are offloaded can't be saved; load the model without offloading first")
        whole.save_pretrained(output_path, state_dict=state)
        for stale in ("adapter_config.json", "adapter_model.safetensors"):
            Path(output_path, stale).unlink(missing_ok=True)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    def _pin_base(self) -> None:
        """Make the adapter name the commit of its base, if that came from the Hub."""
        name, model_kwargs = self._source
        commit = model_kwargs.get("revision")
        for config in self.model.peft_config.values():
            if commit is not None and config.base_model_name_or_path == name:
                config.revision = commit

    def generation_model(self) -> PreTrainedModel:
        """Return the model with its language head, as the generation class of the backbone, sharing its weights.

        The head is read from the checkpoint that the model came from; it is on the meta device if that has none.
        """
        if self.unloaded_parameters:
            raise ValueError("the towers are not loaded, so the model can't be saved whole; merge its adapter instead")
        generation_class = getattr(transformers, self.backbone.generation_class)
        with torch.device("meta"):
            whole: PreTrainedModel = generation_class(self.config)
        whole.model = self.model
        if not self.config.tie_word_embeddings and (head := self._read_head()) is not None:
            whole.lm_head.weight = nn.Parameter(head.to(self.model.device, self.model.dtype), requires_grad=False)
        whole.tie_weights()
        return whole

    def _read_head(self) -> Tensor | None:
        """Read the language head from the checkpoint the model was loaded from; None if there is none."""
        try:
            for path in self._weight_files():
                with safe_open(path, framework="pt") as tensors:
                    for key in HEADS:
                        if key in tensors.keys():  # noqa: SIM118 - a file handle, not a dict
                            head: Tensor = tensors.get_tensor(key)
                            return head
        except OSError as error:
            # What was trained must not be lost because its base has moved; embeddings need no head.
            logger.warning(f"Saving without a language head: {self._source[0]} can't be read any more ({error}).")
        return None

    def _weight_files(self) -> list[str]:
        """Return the files of the source that may hold the language head."""
        name, model_kwargs = self._source
        hub = {key: value for key, value in model_kwargs.items() if key in HUB and value is not None}
        index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **hub)
        if index is None:
            single = cached_file(name, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **hub)
            return [] if single is None else [single]
        weight_map: dict[str, str] = json.loads(Path(index).read_text(encoding="utf8"))["weight_map"]
        return [cached_file(name, shard, **hub) for key, shard in weight_map.items() if key in HEADS]
