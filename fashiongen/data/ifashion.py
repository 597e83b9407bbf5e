"""iFashion (Chen et al., KDD 2019) in DiFashion's copy: 2,547 validation and 2,207 test outfits, four items each, 344,186 items."""

from typing import ClassVar

from fashiongen.data.outfits import OutfitData


class IFashion(OutfitData):
    """Reads the lists of `datasets/ifashion` and images at `<category>/<original id>.png`.

    The authors' repository lacks the training outfits and histories, and its `map/iid_cate_dict.npy` is empty.
    """

    layout: ClassVar[str] = "ifashion"
