"""The spiral experiment learns, and leaves pictures that can be looked at."""

import torch
from PIL import Image

from isocline.experiments import spiral


def test_the_data_are_a_tight_solve_with_the_stated_noise():
    data = spiral.make_data(seed=3, noise=0.02)
    assert data.seen.shape == (200, 2)
    assert 0.018 < float((data.seen - data.true).std()) < 0.022
    assert torch.equal(data.seen, spiral.make_data(seed=3, noise=0.02).seen)


def test_a_short_training_learns_and_is_drawn(tmp_path):
    told = []
    result = spiral.train(seed=0, iterations=120, frames=6, tell=lambda i, loss: told.append(loss))
    assert len(told) == 121 and sum(told[-10:]) < 0.3 * sum(told[:10])
    assert result.frames[0].iteration == 0 and result.frames[-1].iteration == 120
    spiral.animate(result, tmp_path / "s.gif")
    spiral.picture(result, tmp_path / "s.png")
    with Image.open(tmp_path / "s.gif") as gif:
        assert gif.n_frames >= 5 and gif.size == (480, 480)
        gif.seek(gif.n_frames - 1)
        assert len(gif.convert("RGB").getcolors(1 << 20)) > 16
    assert Image.open(tmp_path / "s.png").size == (640, 640)


def test_it_is_an_experiment(quick):
    record = quick("spiral")
    # A circle around either centre is two wide: an error below a quarter follows every turn of the right one.
    assert record["ours"]["two centres: RMS distance of the whole path"] < 0.5
