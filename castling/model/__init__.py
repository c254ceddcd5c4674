"""The vision transformer whose every layer is a choice, and the switch that castles it.

Importing it registers `castling_vit` with timm: timm.create_model("castling_vit", config="best/").
"""

from castling.model import timm_entry


__all__ = ["timm_entry"]
