"""GeCo: complementary item generation (CIGM) and the compatibility model that ranks with it (GECo)."""

from fashiongen.methods.geco.cigm import CIGM
from fashiongen.methods.geco.geco import GECo

__all__ = ["CIGM", "GECo"]
