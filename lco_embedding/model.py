"""`LCOEmbedding`, the package's main class: load, encode, save and publish an omnimodal embedding model."""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import cast_adapter_dtype
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from sentence_transformers.util.decorators import deprecated_kwargs
from torch import Tensor, nn
from transformers import logging as transformers_logging

from lco_embedding.checkpoints.builtin import checkpoint_of
from lco_embedding.checkpoints.downloads import hinted, refuse_pickles
from lco_embedding.checkpoints.record import HUB_ID
from lco_embedding.encoding import MAX_ROWS, EncodeOptions, Encoding, OutputOptions, encode_items
from lco_embedding.model_cards import LCOModelCardData, save_card
from lco_embedding.model_cards.card import README, is_generated
from lco_embedding.modules.adapters import attach_adapter, commit_of, find_adapter
from lco_embedding.modules.inputs import InputError, Item, Problem
from lco_embedding.modules.last_token_pooling import LastTokenPooling
from lco_embedding.modules.media import AudioDecoder, Stream, VideoDecoder
from lco_embedding.modules.omni_transformer import OmniTransformer
from lco_embedding.modules.processing_settings import ProcessingKwargs

logger = transformers_logging.get_logger(__name__)

OnError = Literal["raise", "nan"] | Callable[[Problem], object]

# What a saved checkpoint names for our modules, so that it loads anywhere without this package.
PLAIN_TYPES: dict[type[nn.Module], type[nn.Module]] = {OmniTransformer: Transformer, LastTokenPooling: Pooling}

REQUIREMENTS = {"sentence-transformers": ">=6.2", "transformers": ">=5.23"}
"""What a saved checkpoint asks for, which Sentence Transformers checks when it loads one: its chats need the first, its
classes the second."""

RUN_OPTIONS = ("max_batch_tokens", "num_workers", "reuse_prefix")
"""Arguments of `encode` that say how it runs, beside those of Sentence Transformers."""

BATCH_SIZE_POSITION = 2
"""Where `batch_size` stands among the arguments of `SentenceTransformer.encode` after the inputs."""


class LCOEmbedding(SentenceTransformer):  # type: ignore[misc]
    """A `SentenceTransformer` that embeds text, images, audio, video and mixtures of them in one space.

    It loads LCO checkpoints, raw backbones (which get the LCO prompts, last-token pooling and normalisation) and
    PEFT adapters of either, from a folder or the Hugging Face Hub.

    Args:
        model_name_or_path: Folder or Hub id.
        processing_kwargs: Settings such as `{"image": {"max_pixels": 500_000}, "video": {"fps": 1.0}}`, over those
            of the checkpoint and saved with it; `OmniTransformer` lists them.
        **kwargs: As in `SentenceTransformer`: `device`, `model_kwargs` (dtype, attention, device map, quantisation),
            `revision`, `token`, `truncate_dim`, `modules`, ...

    Raises:
        ValueError: The architecture is not supported, or the checkpoint pools another way.

    Example:
        >>> from lco_embedding import LCOEmbedding
        >>> model = LCOEmbedding.miniature()
        >>> embeddings = model.encode(["a red circle", {"image": "circle.png", "text": "what is this?"}, "bell.wav"])
        >>> model.similarity(embeddings, embeddings)
    """

    default_huggingface_organization = None
    model_card_data_class = LCOModelCardData
    _model_card_text: str | None

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        processing_kwargs: ProcessingKwargs | None = None,
        **kwargs: Any,
    ) -> None:
        if model_name_or_path is None and not kwargs.get("modules"):
            raise ValueError("name a folder, a Hub id or modules; LCOEmbedding.miniature() is the model that ships")
        name = os.fspath(model_name_or_path) if model_name_or_path is not None else None
        if name is not None and not os.path.exists(name) and not HUB_ID.fullmatch(name) and os.sep in name:
            raise FileNotFoundError(f"there is no folder {name}, and no repository of the Hub can have this name")
        with hinted(name, kwargs.get("revision")):
            super().__init__(name, **kwargs)
        if not isinstance(self[0], OmniTransformer):
            raise ValueError(
                f"the first module must be an OmniTransformer, got {type(self[0]).__name__}; "
                "other models work as sentence_transformers.SentenceTransformer(modules=[...])"
            )
        if processing_kwargs:
            self.omni.processing_kwargs = self.omni.reader(processing_kwargs).settings

    @classmethod
    def miniature(cls, **kwargs: Any) -> LCOEmbedding:
        """Load the miniature that ships in the package: the real architecture at a small size, offline.

        Args:
            **kwargs: As in `LCOEmbedding`; the weights, stored in bfloat16, are widened to float32 unless told.
        """
        kwargs["model_kwargs"] = {"dtype": torch.float32, **(kwargs.get("model_kwargs") or {})}
        return cls(checkpoint_of("miniature"), local_files_only=True, **kwargs)

    @property
    def omni(self) -> OmniTransformer:
        """The module that turns inputs into hidden states."""
        module: OmniTransformer = self[0]
        return module

    # --- loading and saving -----------------------------------------------------------------------------------------

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type[nn.Module]:
        for ours, plain in PLAIN_TYPES.items():
            if class_ref == f"{ours.__module__}.{ours.__name__}":
                return ours
            if class_ref.startswith("sentence_transformers.") and class_ref.endswith(f".{plain.__name__}"):
                return ours
        found: type[nn.Module] = super()._load_module_class_from_ref(class_ref, *args, **kwargs)
        return found

    def _load_modules(
        self,
        model_name_or_path: str,
        token: bool | str | None,
        cache_folder: str | None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> Any:
        revision = commit_of(
            model_name_or_path,
            revision,
            token=token,
            cache_dir=cache_folder,
            local_files_only=local_files_only,
        )
        hub = {"token": token, "cache_folder": cache_folder, "revision": revision, "local_files_only": local_files_only}
        refuse_pickles(model_name_or_path, **hub)
        return super()._load_modules(model_name_or_path, **hub, trust_remote_code=trust_remote_code, **kwargs)

    def _load_default_modules(
        self,
        model_name_or_path: str,
        token: bool | str | None,
        cache_folder: str | None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        local_files_only: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Make an embedding model of what has no `modules.json`: a raw backbone, or an adapter with its base."""
        hub: dict[str, Any] = {
            "token": token,
            "cache_dir": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        if (adapter := find_adapter(model_name_or_path, hub)) is not None:
            return self._load_adapter(
                model_name_or_path,
                adapter,
                hub,
                token=token,
                cache_folder=cache_folder,
                trust_remote_code=trust_remote_code,
                local_files_only=local_files_only,
                model_kwargs=model_kwargs,
                processor_kwargs=processor_kwargs,
                config_kwargs=config_kwargs,
            )
        transformer = OmniTransformer.of_backbone(
            model_name_or_path,
            **hub,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            backend=self.backend,
        )
        transformer.add_prompts()
        if not local_files_only:
            self.model_card_data.set_base_model(model_name_or_path, revision=revision)
        return [transformer, LastTokenPooling(transformer.get_embedding_dimension()), Normalize()], {}

    def _load_adapter(
        self, model_name_or_path: str, adapter: PeftConfig, hub: dict[str, Any], **load_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Load the modules of the base of an adapter, and put the adapter on them."""
        modules, module_kwargs = self._load_modules(
            adapter.base_model_name_or_path, revision=adapter.revision, **load_kwargs
        )
        first = next(iter(modules.values())) if isinstance(modules, OrderedDict) else modules[0]
        attach_adapter(first.model, model_name_or_path, adapter, first.backbone, hub)
        # What was read is the card of the base.
        self._model_card_text = None
        return modules, module_kwargs

    def add_adapter(self, adapter_config: PeftConfig, adapter_name: str = "default") -> None:
        """Add a new adapter to train, in float32 as in PEFT: in the bfloat16 of most checkpoints it would hardly move.

        Args:
            adapter_config: Such as `LoraConfig(target_modules=model.omni.backbone.lora_targets)`.
            adapter_name: How it is called among several.
        """
        super().add_adapter(adapter_config, adapter_name)
        cast_adapter_dtype(self.omni.model, adapter_name)

    def save(
        self,
        path: str | os.PathLike[str],
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
        custom_modules: bool = False,
    ) -> None:
        """Save the model as a plain Sentence Transformers checkpoint that loads without this package.

        Args:
            path: Folder to write.
            model_name: Id of the repository that it goes to, for its card.
            create_model_card: Write a model card; sections that a person wrote into that of the folder are kept.
            train_datasets: Has no effect, as in `SentenceTransformer.save`.
            safe_serialization: Must be True: only safetensors are written.
            custom_modules: Name our module types in `modules.json` instead, so that
                `SentenceTransformer(path, trust_remote_code=True)` yields them where this package is installed.
        """
        folder = Path(path)
        super().save(str(folder), create_model_card=False, safe_serialization=safe_serialization)
        listing = folder / "modules.json"
        entries = json.loads(listing.read_text(encoding="utf8"))
        for entry, module in zip(entries, self, strict=True):
            plain = PLAIN_TYPES.get(type(module))
            if plain is None:
                continue
            if not custom_modules:
                entry["type"] = f"{plain.__module__}.{plain.__name__}"
            if entry["path"]:
                # Serving engines look for the pooling in "1_Pooling".
                renamed = f"{entry['idx']}_{plain.__name__}"
                shutil.rmtree(folder / renamed, ignore_errors=True)
                (folder / entry["path"]).rename(folder / renamed)
                entry["path"] = renamed
        listing.write_text(json.dumps(entries, indent=2), encoding="utf8")
        config = folder / "config_sentence_transformers.json"
        stated = {**json.loads(config.read_text(encoding="utf8")), "requirements": REQUIREMENTS}
        config.write_text(json.dumps(stated, indent=2, sort_keys=True), encoding="utf8")
        if create_model_card:
            self._create_model_card(str(folder), model_name)

    def _create_model_card(self, path: str, model_name: str | None = None, train_datasets: Any = None) -> None:
        """Write the model card: what is known from loading and training, and from the files of the folder."""
        if model_name and not Path(model_name).exists():
            self.model_card_data.set_model_id(model_name)
        self.model_card_data.save_dir = path
        earlier = self._model_card_text
        if "generated_from_trainer" in self.model_card_data.tags:
            earlier = None
        elif earlier and not is_generated(earlier) and not Path(path, README).exists():
            # As Sentence Transformers does: the card of a model that was not trained is still right.
            Path(path, README).write_text(earlier, encoding="utf8")
            return
        save_card(path, self.model_card_data, earlier)

    def save_pretrained(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model; the same as `save`."""
        self.save(path, *args, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        token: str | None = None,
        private: bool | None = None,
        safe_serialization: bool = True,
        commit_message: str | None = None,
        local_model_path: str | None = None,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        train_datasets: list[str] | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tag: str | None = None,
        adapter_only: bool = False,
    ) -> str:
        """Save the model, verify what was saved, and send it to the Hub.

        Before anything is sent, the checkpoint is loaded in a fresh process by stock Sentence Transformers, whose
        embeddings must equal those of this model; `lco_embedding.hub.verification` lists the other checks.

        Args:
            repo_id: Where it goes; the repository is made if there is none.
            token: That of the login unless given.
            private: Make the repository private, if it is made.
            safe_serialization: Must be True: only safetensors are sent.
            commit_message: Of the commit.
            local_model_path: A folder that this model was saved to, which is sent instead of saving it again.
            exist_ok: The repository may exist.
            replace_model_card: Write the card of the repository anew; else what a person wrote there is kept.
            train_datasets: Has no effect, as in `SentenceTransformer.push_to_hub`.
            revision: Branch to commit to, made if it is not there.
            create_pr: Open a pull request instead of committing.
            tag: Of the commit.
            adapter_only: Send the adapter alone, of a model that has one.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            VerificationError: The checkpoint is not fit to be published; it lists every reason, and nothing was sent.
            ValueError: Options exclude each other.
            OSError: What the Hub answered, or that it did not.
        """
        from lco_embedding.hub.publication import Destination, publish_model

        if not safe_serialization:
            raise ValueError("safe_serialization=False would send pickled weights; only safetensors are published")
        to = Destination(repo_id, private, revision, create_pr, tag, exist_ok, token)
        return publish_model(self, to, adapter_only, replace_model_card, local_model_path, commit_message)

    # --- encoding ---------------------------------------------------------------------------------------------------

    @deprecated_kwargs(sentences="inputs")  # type: ignore[untyped-decorator]
    def encode(
        self,
        inputs: Any,
        *args: Any,
        on_error: OnError = "raise",
        load_audio_from_video: bool | None = None,
        processing_kwargs: ProcessingKwargs | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed one input, or a list of inputs of any kinds in any order.

        Args:
            inputs: Text, media and mixtures; `lco_embedding.modules.inputs.parse_input` lists the forms.
            *args: As in `SentenceTransformer.encode`.
            on_error: What to do with inputs that can't be embedded: `"raise"` an [`InputError`] (types, paths and
                headers of all inputs are checked before anything is computed, and every bad one is listed; what only
                decoding shows is raised when met), or return `"nan"` rows for them, with one warning; a function
                instead of `"nan"` is called with each [`Problem`] (not from worker processes).
            load_audio_from_video: Whether the sound track of videos is heard with them; the checkpoint's setting
                unless given.
            processing_kwargs: Settings for this call; `OmniTransformer` lists them.
            **kwargs: As in `SentenceTransformer.encode`: `prompt`, `convert_to_tensor`, `truncate_dim`,
                `normalize_embeddings`, `precision`, `device`, `pool`, `show_progress_bar`, ...; and how it runs:
                `max_batch_tokens` of a batch, padding included (found from the device and its free memory),
                `batch_size` (an upper bound of its rows, 1024), `num_workers` (threads that decode ahead of the model;
                none beside a model on the CPU), `reuse_prefix` (whether what begins every chat is computed once, True).

        Returns:
            Embeddings of shape (inputs, dimension), or (dimension,) for a single input.

        Raises:
            InputError: Some inputs can't be embedded, and `on_error` is `"raise"`.
            FloatingPointError: The model gave a hidden state that is not finite for some inputs.
            MemoryError: A single input does not fit into the memory; a batch that does not is halved.
        """
        if on_error not in ("raise", "nan") and not callable(on_error):
            raise ValueError(f"on_error must be 'raise', 'nan' or a function, got {on_error!r}")
        if on_error != "raise" and kwargs.get("precision", "float32") not in (None, "float32"):
            raise ValueError("quantised embeddings can't hold NaN rows; encode in float32 and quantise the good rows")
        if callable(on_error) and (kwargs.get("pool") or isinstance(kwargs.get("device"), list)):
            raise ValueError("on_error can't be a function with worker processes; use 'nan'")
        _check_prompt(kwargs.get("prompt") or (args[1] if len(args) > 1 else None))
        if load_audio_from_video is not None:
            if "audio" not in self.omni.backbone.kinds:
                raise ValueError(f"load_audio_from_video: {self.omni.backbone.model_type} does not hear audio")
            processing_kwargs = {**(processing_kwargs or {})}
            video = {**processing_kwargs.get("video", {}), "load_audio_from_video": load_audio_from_video}
            processing_kwargs["video"] = video
        if type(inputs).__name__ == "DataFrame":
            raise TypeError('a data frame is no list of inputs; pass inputs.to_dict("records") or one of its columns')
        singular = self.is_singular_input(inputs)
        values = [inputs] if singular else inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
        items, problems = self.omni.parse(values, self.omni.reader(processing_kwargs))
        if problems and on_error == "raise":
            raise InputError(problems)
        slots: list[Item | Problem] = sorted([*items, *problems], key=lambda slot: slot.index)
        if not slots and kwargs.get("output_value", "sentence_embedding") == "sentence_embedding":
            empty = torch.empty(0, kwargs.get("truncate_dim") or self.truncate_dim or self.get_embedding_dimension())
            return empty if kwargs.get("convert_to_tensor") else empty.numpy()
        if len(args) <= BATCH_SIZE_POSITION:
            kwargs.setdefault("batch_size", MAX_ROWS)
        embeddings = super().encode(slots, *args, processing_kwargs=processing_kwargs, on_error=on_error, **kwargs)
        return embeddings[0] if singular else embeddings

    def is_singular_input(self, inputs: Any) -> bool:
        """Tell whether `inputs` is one input rather than a batch; any series or iterator of inputs is a batch."""
        known = (
            list,
            tuple,
            str,
            bytes,
            bytearray,
            memoryview,
            Mapping,
            np.ndarray,
            Tensor,
            AudioDecoder,
            VideoDecoder,
            Stream,
        )
        singular: bool = super().is_singular_input(inputs)
        return singular and (not isinstance(inputs, Iterable) or isinstance(inputs, known))

    def get_model_kwargs(self) -> list[str]:
        """Return the arguments of `encode` beyond those of `SentenceTransformer`."""
        return [*super().get_model_kwargs(), "on_error", *RUN_OPTIONS]

    @torch.inference_mode()
    def _inference(
        self,
        inputs: list[Any],
        *,
        prompt: str | None,
        batch_size: int,
        show_progress_bar: bool,
        output_value: str | None,
        save_to_cpu: bool,
        normalize_embeddings: bool,
        truncate_dim: int | None,
        device: str | torch.device | None = None,
        on_error: OnError = "raise",
        processing_kwargs: ProcessingKwargs | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed sorted inputs on one device; what `encode` of `SentenceTransformer` calls, here and in each worker."""
        target = torch.device(self._resolve_inference_device(device))
        self.eval()
        run_options = {key: kwargs.pop(key) for key in RUN_OPTIONS if key in kwargs}
        if output_value != "sentence_embedding":
            run_options["reuse_prefix"] = False  # the states of all tokens are asked for
        options = EncodeOptions(prompt, task, batch_size, **run_options)
        reader = self.omni.reader(processing_kwargs)
        encoding = Encoding(self.omni, reader, lambda features: self(features, **kwargs), target, options)
        results, found = encode_items(
            encoding,
            [slot for slot in inputs if isinstance(slot, Item)],
            OutputOptions(output_value, truncate_dim, normalize_embeddings, save_to_cpu),
            raise_errors=on_error == "raise",
            show_progress_bar=show_progress_bar,
        )
        problems = [*(slot for slot in inputs if isinstance(slot, Problem)), *found]
        if callable(on_error):
            for problem in problems:
                on_error(problem)
        elif problems:
            listed = "\n".join(f"- {problem}" for problem in sorted(problems, key=lambda problem: problem.index))
            logger.warning(f"{len(problems)} input(s) could not be embedded; their rows are NaN:\n{listed}")
        if output_value != "sentence_embedding":
            return [results.get(slot.index) for slot in inputs]
        like = next(iter(results.values()), None)
        if like is None:
            size = truncate_dim or self.get_embedding_dimension()
            like = torch.empty(size, device="cpu" if save_to_cpu else target)
        missing = torch.full_like(like, float("nan"))
        return torch.stack([results.get(slot.index, missing) for slot in inputs])


def _check_prompt(prompt: Any) -> None:
    """Check that a prompt is text that can be tokenized.

    Raises:
        ValueError: It is not.
    """
    if prompt is None:
        return
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be a string, got {prompt!r}")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"prompt is not valid Unicode ({error.reason})") from error
