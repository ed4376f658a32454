"""How large a reproduction is."""

from __future__ import annotations

from dataclasses import dataclass

from lco_embedding.miniature.world.scenes import Kind

MEDIA: tuple[Kind, ...] = ("image", "sound", "clip")
"""What is searched; documents are for the fifth claim."""


@dataclass(frozen=True)
class Settings:
    """The size of a reproduction.

    Args:
        seeds: Seeds of the contrastive training of the base, of its rivals and of the documents.
        stage_seeds: Seeds for each stage of pretraining in the scaling law.
        steps: Steps of contrastive training.
        rows: Triplets or pairs in a step.
        count: Scenes of each kind that are searched.
        chats: Chats of each kind on which generation is measured.
        document_steps: Steps of continual pretraining on documents.
        document_rows: Chats in a step of it.
        document_rate: Its peak learning rate.
        rates: Learning rates of the rivals of LoRA; of several, that is taken which does best on the development
            split with seed 0.
    """

    seeds: int = 3
    stage_seeds: int = 2
    steps: int = 100
    rows: int = 64
    count: int = 300
    chats: int = 192
    document_steps: int = 1200
    document_rows: int = 48
    document_rate: float = 1.5e-3
    full_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    projection_rates: tuple[float, ...] = (1e-3, 1e-2)
    clip_rates: tuple[float, ...] = (3e-4, 1e-3)


FULL = Settings()
QUICK = Settings(
    seeds=1,
    stage_seeds=1,
    steps=20,
    rows=32,
    count=100,
    chats=48,
    document_steps=60,
    document_rows=32,
    full_rates=(3e-4,),
    projection_rates=(1e-2,),
    clip_rates=(3e-4,),
)
