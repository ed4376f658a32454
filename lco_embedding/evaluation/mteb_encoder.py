"""An encoder for mteb of any `LCOEmbedding`: every modality and mixture of them, each item as `encode` embeds it.

    import mteb
    from lco_embedding.evaluation.mteb_encoder import MtebEncoder

    mteb.evaluate(MtebEncoder(LCOEmbedding.miniature()), mteb.get_tasks(tasks=["STS13VisualSTS"]))

mteb wraps a bare `SentenceTransformer` by itself, `LCOEmbedding` included. That wrapper takes the model for one of text
alone, hands over every frame of a video without their rate, and reads sound and video through torchaudio and
torchcodec. Here media are read by the model itself, from the bytes that the data set holds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Audio, Dataset, Image, Video
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.types import PromptType
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lco_embedding.evaluation.model_meta import describe_checkpoint, describe_model
from lco_embedding.model import LCOEmbedding
from lco_embedding.modules.inputs import Problem

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

ORDER = ("image", "audio", "video", "text")
"""The modalities of an item in the order in which the model reads them: LCO-Emb was trained with images before text."""

BATCHES_AT_ONCE = 8
"""Batches whose items are held in memory together, still encoded, so that those of like length can be batched."""

LISTED = 20
"""Problems that an error lists."""


class MtebEncoder(AbsEncoder):  # type: ignore[misc]
    """An encoder as mteb's `EncoderProtocol` describes it.

    Args:
        model: An `LCOEmbedding`, or the folder or Hub id of one.
        revision: Of a Hub model, the branch, tag or commit. For an `LCOEmbedding`, the revision under which its
            results are filed; a hash of its weights and settings unless given, as it may have been trained since it
            was loaded.
        device: Where a model that is named is loaded.
        name: Under which the results are filed, "organization/model"; the Hub id, or "local/" and the folder's name,
            unless given.
        **kwargs: As in `LCOEmbedding`, for a model that is named: `processing_kwargs`, `model_kwargs`, ...

    Attributes:
        model: The model.
        mteb_model_meta: What mteb files with the results.

    Raises:
        TypeError: A model that is loaded already comes with arguments for loading.
    """

    def __init__(
        self,
        model: LCOEmbedding | str | os.PathLike[str],
        revision: str | None = None,
        *,
        device: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(model, LCOEmbedding):
            if kwargs or device:
                given = ", ".join([*kwargs, *(["device"] if device else [])])
                raise TypeError(f"the model is loaded already, so that {given} would have no effect")
            self.model = model
            self.mteb_model_meta = describe_model(model, name, revision)
        else:
            source = os.fspath(model)
            self.model = LCOEmbedding(source, revision=revision, device=device, **kwargs)
            self.mteb_model_meta = describe_checkpoint(self.model, source, type(self), name, revision, kwargs)
        # An empty prompt is none; mteb looks a prompt up by task, type of task, and query or document.
        self.model_prompts = {key: prompt for key, prompt in self.model.prompts.items() if prompt} or None

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> NDArray[Any]:
        """Embed the items of a task.

        Each item is a dict of its modalities, so that it gets the prompt that fits what it holds, whatever else is in
        its batch.

        Args:
            inputs: mteb's loader of the items; its data set is read, media undecoded.
            task_metadata: Of the task.
            hf_split: The split.
            hf_subset: The subset.
            prompt_type: Whether the items are queries or documents, where a task has both.
            **kwargs: `batch_size`, `show_progress_bar`, `precision`, and others that `LCOEmbedding.encode` takes.

        Returns:
            Embeddings of shape (items, dimension).

        Raises:
            ValueError: Some items can't be embedded; it names the task and each item.
        """
        rows = undecoded(inputs.dataset)
        batch_size = kwargs.pop("batch_size", None) or inputs.batch_size or 32
        precision = kwargs.pop("precision", None) or "float32"
        embed = {PromptType.query: self.model.encode_query, PromptType.document: self.model.encode_document}.get(
            prompt_type, self.model.encode
        )
        prompt = get_prompt(self.model_prompts, task_metadata, prompt_type)
        parts: list[NDArray[np.float32]] = []
        progress = tqdm(total=len(rows), desc="Embedding", disable=not kwargs.pop("show_progress_bar", True))
        loader = DataLoader(
            rows, batch_size=BATCHES_AT_ONCE * batch_size, collate_fn=_as_they_are, num_workers=inputs.num_workers
        )
        start = 0
        with progress:
            for chunk in loader:
                values = [input_of_row(row) for row in chunk]
                problems: list[Problem] = []
                options = {"batch_size": batch_size, "show_progress_bar": False, "on_error": problems.append}
                parts.append(embed(values, prompt=prompt, **options, **kwargs))
                if problems:
                    where = f"{task_metadata.name} ({hf_split}, {hf_subset})"
                    raise ValueError(_listed(problems, where, chunk, start, prompt_type))
                progress.update(len(chunk))
                start += len(chunk)
        embeddings = np.concatenate(parts)
        return embeddings if precision == "float32" else quantize_embeddings(embeddings, precision)


def undecoded(rows: Dataset) -> Dataset:
    """Return a data set whose images, sounds and videos are the bytes or paths that it holds, not decoded."""
    for name, feature in rows.features.items():
        if isinstance(feature, Image | Audio | Video) and feature.decode:
            rows = rows.cast_column(name, type(feature)(decode=False))
    return rows


def input_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of mteb as an input of `encode`.

    Args:
        row: It may have `text`, `image`, `audio` and `video`, each None where absent, and other columns.

    Returns:
        A dict of the modalities that it has, in `ORDER`.
    """
    return {kind: row[kind] for kind in ORDER if row.get(kind) is not None}


def _as_they_are(rows: list[Any]) -> list[Any]:
    return rows


def _listed(
    problems: Sequence[Problem],
    where: str,
    rows: Sequence[Mapping[str, Any]],
    start: int,
    prompt_type: PromptType | None,
) -> str:
    """Return an error that names items by the task, their place in its data and their id."""
    what = prompt_type.value if prompt_type else "item"
    lines = []
    for problem in sorted(problems, key=lambda problem: problem.index)[:LISTED]:
        name = rows[problem.index].get("id")
        shown = f" (id {name!r})" if name is not None else ""
        lines.append(f"- {what} {start + problem.index}{shown}, {problem.source}: {problem.reason}")
    more = f"\nand {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return f"{where}: {len(problems)} item(s) can't be embedded:\n" + "\n".join(lines) + more
