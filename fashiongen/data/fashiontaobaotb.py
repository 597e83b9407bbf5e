"""FashionTaobaoTB (GeCo, from Alibaba's POG): 89,951 pairs with md5 ids; its training list is not public."""

from typing import ClassVar

from fashiongen.data.pairs import TopBottomData


class FashionTaobaoTB(TopBottomData):
    """Reads `files/{train_no_dup_1vs9,valid_no_dup_1vs9,test_disj}.csv` and `img/<md5>.jpg` (the authors' downloader writes `.png`).

    A test top may have several positives (977 do), and a few listed negatives are positives of the same top (21 test rows).
    """

    layout: ClassVar[str] = "fashion_taobao_tb"
    lists: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": ("train_no_dup_1vs9.csv",),
        "val": ("valid_no_dup_1vs9.csv",),
        "test": ("test_disj.csv",),
    }
