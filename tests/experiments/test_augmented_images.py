"""Digits by an ODE on pixels: the two models, barely trained."""


def test_both_models_have_the_parameters_of_the_source_and_are_solved_adaptively(quick):
    rows = {row["what"]: row for row in quick("augmented-images")["rows"]}
    for model in ("NODE", "ANODE"):
        count = rows[f"{model}: parameters"]
        assert count["ours"] == count["published"]
        # The rule for the first step takes two evaluations, a step of dopri5 six more.
        assert rows[f"{model}: evaluations by dopri5 at 1e-3"]["ours"] >= 8
