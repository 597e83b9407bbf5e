"""Small hand-made folders in DiFashion's layout, to be spoilt."""

import numpy as np
from PIL import Image

CATEGORIES = {0: "skirt", 1: "women's shoe", 2: "bag"}
CATEGORY_OF = {number: (number - 1) % 3 for number in range(1, 19)}
TRAIN = [(0, 10, [1, 2, 3]), (0, 11, [4, 5, 6]), (1, 12, [7, 8, 9])]
TESTED = [(0, 20, [10, 11, 12], 1), (1, 21, [13, 14, 15], 0)]
HISTORY = {0: {0: [1, 4, 1, 7], 1: [2], 2: [3, 6]}, 1: {0: [7, 4], 2: [9]}}


def save(path, value):
    """Save a value in a 0-d object array, as the authors do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.empty((), dtype=object)
    array[()] = value
    np.save(path, array, allow_pickle=True)


def flat(rows):
    """The lists of rows (user, outfit, items)."""
    return {
        "uids": [row[0] for row in rows],
        "oids": [row[1] for row in rows],
        "outfits": [row[2] for row in rows],
        "category": [[CATEGORY_OF.get(item, 0) for item in row[2]] for row in rows],
    }


def write_lists(root, train=TRAIN, tested=TESTED):
    """Write the lists of three splits; validation and test are the same."""
    save(root / "train.npy", flat(train))
    save(root / "id_cate_dict.npy", CATEGORIES)
    save(root / "map" / "iid_cate_dict.npy", CATEGORY_OF)
    save(root / "map" / "cate_iid_dict.npy", {kind: [item for item, of in CATEGORY_OF.items() if of == kind] for kind in CATEGORIES})
    truth = flat(tested)
    given = [[0 if slot == row[3] else item for slot, item in enumerate(row[2])] for row in tested]
    for name in ("train", "valid", "test"):
        save(root / f"{name}_history.npy", HISTORY)
    for name in ("valid", "test"):
        save(root / f"fitb_{name}.npy", {**truth, "outfits": given})
        save(root / f"{name}_grd_dict.npy", truth)
        candidates = {row[0]: {row[1]: [row[2][row[3]], np.int64(16), np.int64(18)]} for row in tested}
        save(root / f"fitb_{name}_retrieval_candidates.npy", candidates)
    return root


def color_of(item):
    """The colour of an item's image."""
    return (12 * item, 255 - 12 * item, 40)


def draw(path, item, size=(8, 8)):
    """Write the image of an item, in one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color_of(item)).save(path)


def write_images(root):
    """Write all images at `<category>/<item>.png`."""
    for item, kind in CATEGORY_OF.items():
        draw(root / CATEGORIES[kind] / f"{item}.png", item)
    return root
