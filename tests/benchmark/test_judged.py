"""Judged folders are shown apart from the suite's own runs, and kept predictions among them."""

import json

from bench_folder import write_test

from fashiongen.benchmark.arrange import read

VALUES = {"ssim": 0.5}
FOREIGN, KEPT = {"kind": "judged folder", "sha256": "ab" * 32}, {"kind": "kept predictions", "sha256": "cd" * 32}


def test_judged_folders_have_boards_of_their_own(tmp_path):
    write_test(tmp_path, "recipes/tiny/igr.yaml", VALUES)
    write_test(tmp_path, "recipes/tiny/white.yaml", VALUES, source=KEPT)
    for name in ("theirs", "others"):
        write_test(tmp_path, f"{name}.yaml", {"ssim": 0.9}, seed=None, node=name, source=FOREIGN)
    own, judged = read(tmp_path).boards
    assert (own.label, [row.name for row in own.rows]) == ("vtoff on viton_hd", ["igr", "white"])
    assert (judged.label, [row.name for row in judged.rows]) == ("vtoff on viton_hd, judged folders", ["others", "theirs"])
    assert own.conditions == judged.conditions and own.rows[0].cells["ssim"].rank == "best"


def test_what_judge_wrote_belongs_to_no_plan_and_what_a_suite_wrote_does(tmp_path):
    write_test(tmp_path, "recipes/tiny/igr.yaml", VALUES, node="planned", key="k")
    write_test(tmp_path, "recipes/tiny/white.yaml", VALUES, node="dropped", key="k", source=KEPT)
    write_test(tmp_path, "theirs.yaml", VALUES, node="theirs", source=FOREIGN)
    (tmp_path / "suite.json").write_text(json.dumps({"suite": "s", "nodes": [{"id": "planned", "kind": "test", "key": "k"}]}))
    assert {node.id: node.status for node in read(tmp_path).nodes} == {"planned": "ok", "dropped": "unplanned", "theirs": "ok"}
