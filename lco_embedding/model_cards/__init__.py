"""Model cards made from what lies in a checkpoint: its files, its training record, its evaluations and plots."""

from __future__ import annotations

from lco_embedding.model_cards.card import card_text, save_card, write_card
from lco_embedding.model_cards.card_data import LCOModelCardData

__all__ = ["LCOModelCardData", "card_text", "save_card", "write_card"]
