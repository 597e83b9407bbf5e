import torch
from torchvision.transforms.functional import resize

from fashiongen.nn.crop import bounding_boxes, crop_and_resize


def test_boxes_enclose_the_masks():
    mask = torch.zeros(3, 1, 20, 30, dtype=torch.bool)
    mask[0, 0, 4:9, 7:21] = True
    mask[1, 0, 19, 29] = True
    assert bounding_boxes(mask).tolist() == [[7, 4, 21, 9], [29, 19, 30, 20], [0, 0, 30, 20]]


def test_a_crop_of_its_own_size_is_the_image():
    image = torch.rand(2, 3, 16, 12)
    boxes = torch.tensor([[2.0, 4.0, 10.0, 14.0]]).repeat(2, 1)
    torch.testing.assert_close(crop_and_resize(image, boxes, (10, 8)), image[:, :, 4:14, 2:10])


def test_shrinking_averages():
    image = torch.rand(1, 3, 64, 64)
    shrunk = crop_and_resize(image, torch.tensor([[0.0, 0.0, 64.0, 64.0]]), (8, 8))
    torch.testing.assert_close(shrunk, torch.nn.functional.avg_pool2d(image, 8), atol=0.05, rtol=0)
    assert abs(shrunk.mean() - resize(image, [8, 8]).mean()) < 0.01
