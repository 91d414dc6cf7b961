"""The cubic spiral, a tenth of it."""

from PIL import Image


def test_the_whole_path_comes_near_the_true_one(quick):
    record = quick("cubic-spiral")
    # The untrained field stays at (2, 0), a mean absolute error of 1.
    assert record["ours"]["mean absolute error of the whole path"] < 0.5
    with Image.open(record["folder"] / "pictures" / "cubic-spiral-quick-training.gif") as gif:
        assert gif.n_frames == 6
