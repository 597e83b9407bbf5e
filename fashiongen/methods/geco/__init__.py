"""GeCo: complementary item generation (CIGM) and the compatibility model that ranks by it (GECo)."""

from fashiongen.methods.geco.module import CIGM, GECo

__all__ = ["CIGM", "GECo"]
