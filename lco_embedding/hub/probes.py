"""The probe set: one input of each kind, made up the same everywhere, and what a fresh process makes of it.

This file is also run as a script by `verification`, in a process of its own that has only stock libraries:

    python probes.py FOLDER OUTPUT {"loader": "stock", "kinds": ["text"], "device": "cpu", "settings": {...}}

It imports nothing of this package, so that what it loads shows that the checkpoint needs none of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SAMPLING_RATE = 16_000
SECONDS = 1.5

FRAMES = 8
FRAMES_A_SECOND = 2.0
"""Of the clip: what stock Sentence Transformers states to Qwen2.5-Omni for every video, so that here it is true."""


def probes(kinds: list[str]) -> dict[str, Any]:
    """Return the probes of a model by name.

    Args:
        kinds: What the model takes, of "text", "image", "audio" and "video".
    """
    rows, columns = np.mgrid[0:96, 0:128]
    image = np.stack([2 * columns, 2 * rows, (rows - 48) ** 2 + (columns - 64) ** 2 < 900], axis=-1) % 256
    image[..., 2] *= 255
    image = image.astype(np.uint8)
    times = np.arange(int(SECONDS * SAMPLING_RATE)) / SAMPLING_RATE
    wave = (0.4 * np.sin(2 * np.pi * (300 + 200 * times) * times)).astype(np.float32)
    audio = {"array": wave, "sampling_rate": SAMPLING_RATE}
    frames = np.stack([np.roll(image[:56, :84], 9 * number, axis=1) for number in range(FRAMES)])
    metadata = {"fps": FRAMES_A_SECOND, "total_num_frames": FRAMES, "duration": FRAMES / FRAMES_A_SECOND}
    video = {"array": frames, "video_metadata": metadata}
    found: dict[str, Any] = {"text": "A red circle to the left of a blue square: 7 parts, naïve café, 图像."}
    found |= {kind: value for kind, value in {"image": image, "audio": audio, "video": video}.items() if kind in kinds}
    if "image" in kinds:
        found["mixture"] = {"image": image, "text": "What is to be seen here?"}
    return found


def chats(kinds: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return one chat of each kind, and one that mixes kinds, as a chat template takes them."""
    found = {kind: [{"type": kind, **({"text": "."} if kind == "text" else {})}] for kind in kinds}
    if "image" in kinds:
        found["mixture"] = [{"type": "image"}, {"type": "text", "text": "."}]
    return {name: [{"role": "user", "content": content}] for name, content in found.items()}


def embed(model: Any, kinds: list[str]) -> Any:
    """Embed the probes, each for itself, so that padding plays no part; of shape (probes, dimension)."""
    return np.stack([np.asarray(model.encode(probe, show_progress_bar=False)) for probe in probes(kinds).values()])


def render(model: Any, kinds: list[str]) -> dict[str, str]:
    """Render a chat of each kind, and one that mixes kinds, by the chat template and the settings of a model."""
    kwargs = {k: v for k, v in model[0].processing_kwargs.get("chat_template", {}).items() if k != "restore_suffix"}
    template = model[0].processor.apply_chat_template
    return {name: template(chat, tokenize=False, **kwargs) for name, chat in chats(kinds).items()}


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise OSError("a checkpoint is verified without a network")


def main(folder: str, output: str, job: str) -> None:
    """Load a checkpoint, embed the probes and render the chats, and write that to a folder."""
    import socket

    socket.socket.connect = _refuse  # type: ignore[method-assign]
    options = json.loads(job)
    kinds = options["kinds"]
    if options["loader"] == "stock":
        from sentence_transformers import SentenceTransformer as Model
    else:
        from lco_embedding import LCOEmbedding as Model
    model = Model(folder, device=options["device"], model_kwargs={"dtype": options["dtype"]}, local_files_only=True)
    if options["loader"] == "stock" and any(name.startswith("lco_embedding") for name in sys.modules):
        raise RuntimeError("the checkpoint brought lco_embedding in")
    Path(output, "rendered.json").write_text(json.dumps(render(model, kinds)), encoding="utf8")
    np.save(Path(output, "embeddings.npy"), embed(model, kinds), allow_pickle=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
