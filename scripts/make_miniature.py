"""Make the miniature that ships in the package: its generative base, the checkpoints on the way, the embedding model.

    python scripts/make_miniature.py --work build/miniature                 # everything, about an hour on 2 cores
    python scripts/make_miniature.py --work build/miniature --only pretrain # or: embed, ship

All seeds are fixed. `--work` keeps the runs in full precision, with their optimizers, and an interrupted run goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from lco_embedding import LCOEmbedding
from lco_embedding.miniature import CHECKPOINTS, STAGES, architecture, world
from lco_embedding.miniature.activation import activate
from lco_embedding.miniature.world.chats import Chats
from lco_embedding.training.arguments import read_recipe
from lco_embedding.training.generative import GenerativeArguments, pretrain
from lco_embedding.training.record import NAME

HOME = Path(__file__).parents[1]

STEPS = 3200
KEPT_STEPS = (200, 400, 800, 1600)
"""Steps of pretraining at which the checkpoints for the scaling law are kept, besides the last."""

EMBEDDING_STEPS = 200
"""Steps of the contrastive training of the model that ships."""

TEMPLATE_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"


def corpus(count: int = 20_000) -> list[str]:
    """Return the texts that the tokenizer learns from: what is said in the world, and the chat template's own words."""
    rng = np.random.default_rng(0)
    texts = []
    for index in range(count):
        scene = world.sample(world.KINDS[index % len(world.KINDS)], "train", rng)
        medium = None if rng.random() < 0.8 else "text"
        asked = world.exchange(scene, rng, medium=medium)
        texts += [world.caption(scene, rng), asked.request, asked.answer]
    return texts + [TEMPLATE_WORDS] * 1000


class KeepCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Keeps generative checkpoints of some steps."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.folder, self.steps = folder, steps

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Save the weights."""
        if state.global_step in self.steps:
            model.save_pretrained(self.folder / f"step-{state.global_step:04}")


def pretrain_base(work: Path, steps: int, seed: int) -> None:
    """Pretrain the base from random weights."""
    start = work / "random"
    if not start.exists():
        architecture.build(start, corpus(), seed=seed)
    arguments = GenerativeArguments(
        **{
            **read_recipe("miniature", GenerativeArguments),
            "model": str(start),
            "output_dir": str(work / "base"),
            "max_steps": steps,
            "seed": seed,
            "save_steps": 400,
            "save_total_limit": 1,
            "eval_strategy": "steps",
            "eval_steps": 200,
            "resume_from_checkpoint": "last",
            "disable_tqdm": True,
        }
    )
    batch = arguments.per_device_train_batch_size
    # Unseen scenes in seen wordings: what the towers have learned, not how well phrases are guessed.
    held_out = {
        f"{kind}_{task}": Chats(128, 1, "dev", shares={kind: 1.0}, tasks={task: 1.0}, wordings="train")
        for kind in ("image", "sound", "clip")
        for task in ("question", "caption")
    } | {"document": Chats(128, 1, "dev", shares={"document": 1.0}, tasks={"transcription": 1.0}, wordings="train")}
    pretrain(
        arguments,
        Chats(steps * batch, seed=seed),
        held_out,
        callbacks=[KeepCheckpoints(work, tuple(step for step in KEPT_STEPS if step < steps))],
    )


def embed(work: Path, seed: int) -> None:
    """Train the embedding model from the base, on text alone."""
    activate(work / "base", work / "embedding", seed=seed, max_steps=EMBEDDING_STEPS)


def ship(work: Path) -> None:
    """Put the checkpoints into the package, in bfloat16, with cards of their records."""
    shutil.rmtree(STAGES, ignore_errors=True)
    for source, target in (
        (work / "base", CHECKPOINTS["base"]),
        *((work / f"step-{step:04}", STAGES / f"step-{step:04}") for step in KEPT_STEPS),
    ):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in (work / "base").iterdir():
            if file.suffix in (".json", ".jinja") and file.name != NAME:
                shutil.copy(file, target)
        weights = load_file(source / "model.safetensors")
        halved = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
        save_file(halved, target / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((target / "config.json").read_text(encoding="utf8"))
        (target / "config.json").write_text(json.dumps(_halved(config), indent=2) + "\n", encoding="utf8")
    shutil.copy(work / "base" / NAME, CHECKPOINTS["base"])
    model = LCOEmbedding(work / "embedding", device="cpu", model_kwargs={"dtype": torch.bfloat16})
    shutil.rmtree(CHECKPOINTS["embedding"], ignore_errors=True)
    model.save_pretrained(CHECKPOINTS["embedding"], create_model_card=False)
    shutil.copy(work / "embedding" / NAME, CHECKPOINTS["embedding"])
    for folder in (*CHECKPOINTS.values(), *sorted(STAGES.iterdir())):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder.relative_to(HOME)}: {size / 1e6:.1f} MB")


def _halved(config: Any) -> Any:
    """Return a configuration whose dtypes are bfloat16."""
    if isinstance(config, dict):
        return {key: "bfloat16" if key == "dtype" else _halved(value) for key, value in config.items()}
    return config


def main() -> None:
    """Make the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/miniature"))
    parser.add_argument("--only", choices=("pretrain", "embed", "ship"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.only in (None, "pretrain"):
        pretrain_base(arguments.work, arguments.steps, arguments.seed)
    if arguments.only in (None, "embed"):
        embed(arguments.work, arguments.seed)
    if arguments.only in (None, "ship"):
        ship(arguments.work)


if __name__ == "__main__":
    main()
