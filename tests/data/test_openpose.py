"""OpenPose's key points."""

import json

import pytest

from fashiongen.data.openpose import read_openpose
from fashiongen.errors import UserError


def test_key_points_are_scaled_with_the_image(tmp_path):
    path = tmp_path / "pose.json"
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": [10, 20, 0.5, 0, 0, 0]}, {"pose_keypoints_2d": [1] * 6}]}))
    assert read_openpose(path, 2, (100, 50), (50, 50)).tolist() == [[10, 10, 0.5], [0, 0, 0]]
    path.write_text(json.dumps({"people": []}))
    assert read_openpose(path, 2, (100, 50), (50, 50)).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("content", ["", "{}", '{"people": [{}]}', '{"people": [{"pose_keypoints_2d": [1, 2]}]}', "[1]", '{"people": 3}'])
def test_a_damaged_pose_is_named(tmp_path, content):
    (tmp_path / "pose.json").write_text(content)
    with pytest.raises(UserError, match=r"pose\.json: not an OpenPose file"):
        read_openpose(tmp_path / "pose.json", 2, (4, 4), (4, 4))
