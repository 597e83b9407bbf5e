"""FashionVC (Song et al., 2017) in GeCo's copy: 17,140 training, 500 validation and 1,000 test pairs."""

from typing import ClassVar

from fashiongen.data.pairs import TopBottomData


class FashionVC(TopBottomData):
    """Reads `files/{traindata_unique,devdata_tops,testdata_tops}.csv` and `img/<id>.jpg`.

    One positive per test top; 60 tops and 327 bottoms of the public test list also occur in training.
    """

    layout: ClassVar[str] = "fashionvc"
    lists: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": ("traindata_unique.csv",),
        "val": ("devdata_tops.csv",),
        "test": ("testdata_tops.csv",),
    }
