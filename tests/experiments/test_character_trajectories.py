"""Five letters, every third point of them, and of those 70 % dropped."""

import torch

from isocline.experiments.character_trajectories import Data, drop


def test_dropping_keeps_order_ends_and_the_points_that_are_left():
    lengths = torch.tensor([20, 7])
    ts = torch.where(torch.arange(20) < lengths[:, None], torch.arange(20.0), torch.nan)
    x = ts.t().unsqueeze(2).expand(20, 2, 3)
    few = drop(Data(x, ts, torch.zeros(2), torch.zeros(2)), 70, seed=3)
    left = (~few.ts.isnan()).sum(1)
    assert left.tolist() == [6, 3]  # 20 − ⌊14⌋, 7 − ⌊4.9⌋
    for i in range(2):
        kept = few.ts[i, : left[i]]
        assert (kept.diff() > 0).all() and kept.max() < lengths[i]
        assert torch.equal(few.x[: left[i], i], kept[:, None].expand(-1, 3))
        assert few.ts[i, left[i] :].isnan().all() and few.x[left[i] :, i].isnan().all()


def test_a_neural_cde_tells_letters_apart_from_a_tenth_of_their_points(quick):
    # 15 series of five letters: guessing gets 7 of them right with a probability of 2 %.
    assert quick("character-trajectories")["ours"]["neural CDE, 70 % dropped: accuracy"] > 45
