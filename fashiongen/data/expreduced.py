"""ExpReduced (from ExpFashion, Lin et al., 2019) in GeCo's copy: 17,140 training, 500 validation and 1,000 test pairs."""

from typing import ClassVar

from fashiongen.data.pairs import TopBottomData


class ExpReduced(TopBottomData):
    """Reads `files/{traindata_unique_1,devdata_tops_reduced_rs1,testdata_tops_reduced_rs1}.csv` and `img/<id>.jpg`.

    226 tops and 326 bottoms of the public test list also occur in training.
    """

    layout: ClassVar[str] = "exp_reduced"
    lists: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": ("traindata_unique_1.csv", "traindata_unique.csv"),
        "val": ("devdata_tops_reduced_rs1.csv",),
        "test": ("testdata_tops_reduced_rs1.csv",),
    }
