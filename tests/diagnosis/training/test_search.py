"""The search: its space, a declared part of it, what resumes, and Figure S4."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qmri_lake.cli import main
from qmri_lake.diagnosis.training.search import (
    COLUMNS,
    SearchResult,
    best_of_each_start,
    read_search,
    search,
    search_size,
    search_space,
)
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.lake import Lake
from qmri_lake.published import SEARCH_MODELS
from qmri_lake.report import figure_s4
from tests.conftest import Judge


def models_of(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    """Rows of strategy, bone, start, validation AUC, validation loss."""
    found = pd.DataFrame(
        rows, columns=["strategy", "bone", "start", "validation_auc", "validation_loss"]
    )
    rest = {"depth": 18, "learning_rate": 1e-3, "frozen": "none", "best_epoch": 1, "error": ""}
    return found.assign(**rest)[list(COLUMNS)]


@pytest.mark.parametrize("preset", ["paper", "small"])
def test_search_space__is_34_a_model_and_612_in_all(preset: str) -> None:
    space = search_space(preset)
    assert Counter(one.start for one in space.values()) == {"imagenet": 24, "random": 6, "oa": 4}
    assert search_size(preset) == len(space) * 18 == SEARCH_MODELS == 612
    assert len(set(space.values())) == len(space)
    assert all(one.frozen == "none" for one in space.values() if one.start == "random")
    assert {one.task for one in space.values()} == {"pain"}
    from_oa = [one for one in space.values() if one.start == "oa"]
    expected = (50, 1e-5) if preset == "paper" else (18, 1e-4)
    assert {(one.depth, one.learning_rate) for one in from_oa} == {expected}


@pytest.mark.accept
def test_search__a_part_is_searched_and_extended_later(
    case_control_lake: Lake,
    oa_models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    judge: Judge,
) -> None:
    out = tmp_path / "search"
    part = {
        "oa": oa_models,
        "preset": "small",
        "strategies": "thickness",
        "bones": "femur",
        "starts": ["oa", "random"],
        "depths": [18],
        "learning_rates": [1e-4],
        "epochs": 1,
        "frozen": ["none"],
    }
    found = search(case_control_lake, out=out, **part)
    assert found.coverage == "2 of 612"
    assert found.models["start"].tolist() == ["random", "oa"]
    assert found.models["validation_auc"].between(0, 1).all()
    again = read_search(out)
    key = ["strategy", "bone", "start"]
    pd.testing.assert_frame_equal(
        again.models.sort_values(key, ignore_index=True),
        found.models.sort_values(key, ignore_index=True),
    )
    folder = out / "thickness" / "femur"
    assert {path.name for path in folder.iterdir()} == {
        "oa-18-0.0001-none",
        "random-18-0.0001-none",
    }
    weights = [folder / f"{start}-18-0.0001-none" / "model.pth" for start in ("random", "oa")]
    trained = [path.stat().st_mtime_ns for path in weights]
    with pytest.raises(RunError, match=r"contains a training.json \(expected an empty folder"):
        search(case_control_lake, out=out, **part)
    figure = tmp_path / "s4.png"
    command = [
        "train",
        "search",
        "--lake",
        case_control_lake.url,
        "--out",
        str(out),
        "--oa",
        str(oa_models),
        "--preset",
        "small",
        "--strategy",
        "thickness",
        "--bone",
        "femur",
        "--depth",
        "18",
        "--learning-rate",
        "0.0001",
        "--start",
        "oa",
        "--start",
        "random",
        "--frozen",
        "none",
        "--frozen",
        "all",
        "--epochs",
        "1",
        "--resume",
        "--figure",
        str(figure),
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "on the validation exams; 3 of 612 models:" in printed
    assert figure.stat().st_size > 10_000
    same = [path.stat().st_mtime_ns for path in weights] == trained
    judge(
        "search / a part of it, then more with --resume",
        required="finished models untouched",
        measured=f"2 of 3 models {'untouched' if same else 'trained again'}",
        passed=same,
    )


def test_search__a_model_that_fails_is_a_row(
    case_control_lake: Lake, oa_models: Path, tmp_path: Path
) -> None:
    found = search(
        case_control_lake,
        out=tmp_path / "a",
        oa=oa_models,
        preset="small",
        strategies="t2",
        bones="femur",
        starts="oa",
        frozen="all",
        epochs=1,
    )
    (row,) = found.models.to_dict("records")
    assert "no card.json" in row["error"]
    assert np.isnan(row["validation_auc"])
    assert found.trained == 0
    with pytest.raises(InputError, match="no model with a validation AUC"):
        figure_s4(found)


def test_search__refuses(case_control_lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recipe in this part of the search"):
        search(case_control_lake, out=tmp_path / "a", starts="random", frozen="all")
    with pytest.raises(RunError, match="no models of OA"):
        search(case_control_lake, out=tmp_path / "a", starts="oa")
    with pytest.raises(NotFoundError, match=r"no start 'imagnet'.*Did you mean 'imagenet'"):
        search(case_control_lake, out=tmp_path / "a", starts=["imagnet"])
    assert not (tmp_path / "a").exists()
    with pytest.raises(NotFoundError, match=r"no card.json.*Run the search first"):
        read_search(tmp_path)


def test_best_of_each_start__by_auc_then_loss() -> None:
    models = models_of(
        [
            ("t2", "femur", "oa", 0.7, 0.5),
            ("t2", "femur", "oa", 0.8, 0.6),
            ("t2", "femur", "oa", 0.8, 0.4),
            ("t2", "femur", "random", np.nan, np.nan),
            ("t2", "tibia", "oa", 0.6, 0.3),
        ]
    )
    best = best_of_each_start(models)
    assert best[["bone", "validation_auc", "validation_loss"]].to_numpy().tolist() == [
        ["femur", 0.8, 0.4],
        ["tibia", 0.6, 0.3],
    ]


def test_figure_s4__marks_each_start_and_states_the_number() -> None:
    models = models_of([("t2", "femur", "oa", 0.7, 0.5), ("all", "tibia", "random", 0.45, 0.6)])
    figure = figure_s4(SearchResult(models), title="40 knees")
    assert "2 of 612 models trained" in figure.get_suptitle()
    values = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert sorted(values) == ["0.450", "0.700", *["not searched"] * 16]
    low, high = figure.axes[0].get_xlim()
    assert low < 0.45 < 0.7 < high
