"""The demo at its default size, and all members of both ensembles: results of small models."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli._demo_timing import cpu_minutes
from qmri_lake.core.processor import instruction_set
from qmri_lake.errors import InputError
from qmri_lake.lake.balanced_split import read_split
from qmri_lake.segmentation.evaluation.scores import score_exams
from qmri_lake.segmentation.models.network import find_networks
from qmri_lake.segmentation.training.ensemble import held_out_exams, train_ensemble
from qmri_lake.store.status import read_status
from tests.conftest import Judge
from tests.segmentation.networks import needs_bfloat16

pytestmark = [pytest.mark.accept, pytest.mark.timeout(3600)]

KIND = {"bones": "bone", "cartilage": "cartilage"}
MOST_MINUTES = 30 if instruction_set() in ("AMX", "AVX-512") else 40
"""CPU-minutes of the demo. Convolutions take longer without AVX-512."""
REQUIRED = {
    "femur": 0.95,
    "tibia": 0.95,
    "patella": 0.88,
    "femoral": 0.80,
    "tibial": 0.80,
    "patellar": 0.70,
    "meniscus": 0.70,
}


@dataclass(frozen=True)
class Demo:
    """A completed demo."""

    folder: Path
    printed: str

    @property
    def lake(self) -> ql.Lake:
        return ql.open_lake(str(self.folder / "oai.lake"))

    def scores(self, task: str, variant: str = "") -> pd.DataFrame:
        """DSC and MPTS of the test exams of an ensemble."""
        lake = self.lake
        test = lake.cohort().of_exams(held_out_exams(self.folder / "models" / task)[1], "unseen")
        return score_exams(lake, test, KIND[task], variant=variant)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    return Demo(folder / "d", _run(folder))


def _run(folder: Path) -> str:
    command = [sys.executable, "-c", "from qmri_lake.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*command, "demo", "d"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _mean(scores: pd.DataFrame, tissue: str) -> float:
    return float(scores.loc[scores["tissue"] == tissue, "dsc"].mean())


def test_demo__the_whole_chain_in_half_an_hour(demo: Demo, judge: Judge) -> None:
    minutes = float(re.search(r"^CPU +([0-9.]+) minutes", demo.printed, re.M)[1])
    parts = re.findall(r"^ +([0-9.]+)  [0-9]+\. (.+)$", demo.printed, re.M)
    lake = demo.lake
    delivered, true = (lake.cohort(f"made_from == '{k}'") for k in ("delivered", "truth"))
    mapped = [len(kind.require("sphere/map")) for kind in (delivered, true)]
    models = {
        task: len(list((demo.folder / "models" / task).glob("*/*/card.json")))
        for task in ("oa", "pain")
    }
    searched = list((demo.folder / "models" / "search").glob("*/*/*/card.json"))
    judge(
        "demo / the whole chain, without installation",
        required="at most 30 CPU-minutes, 40 without AVX-512: 40 exams from DICOM to maps, 400 by "
        "true masks, 36 classifiers, 8 of the search",
        measured=f"{minutes} CPU-minutes with {instruction_set()}: "
        + ", ".join(f"{title} {part}" for part, title in parts)
        + f"; maps of {mapped[0]} exams from DICOM and {mapped[1]} by true masks, "
        f"{models['oa']} classifiers of OA and {models['pain']} of pain, {len(searched)} searched",
        passed=minutes <= MOST_MINUTES
        and mapped[0] >= 40
        and mapped[1] >= 400
        and models == {"oa": 18, "pain": 18}
        and len(searched) == 8,
    )
    assert sum(float(part) for part, _ in parts) == pytest.approx(minutes, abs=1.0)


def test_demo__classifiers_are_evaluated_by_kind(demo: Demo, judge: Judge) -> None:
    for kind in ("delivered", "truth"):
        for task in ("oa", "pain"):
            test = read_split(demo.lake, demo.folder / "models" / task / "split.json").test
            test = test.where(f"made_from == '{kind}'")
            told = re.search(
                rf"^made_from == '{kind}': .*?^({task}: .*?)$", demo.printed, re.M | re.S
            )[1]
            try:
                results = ql.diagnosis.evaluate(test, task).results
            except InputError:
                assert "no AUC" in told
                measured = told
            else:
                rows = results[(results["metric"] == "auc") & (results["predictor"] == "ptf")]
                rows = rows.dropna(subset="mean")
                measured = f"{told}: " + ", ".join(
                    f"{row.strategy} {row.mean:.2f} ({row.low:.2f}-{row.high:.2f})"
                    for row in rows.itertuples()
                )
                for row in rows.itertuples():
                    assert f"{row.mean:.2f}" in demo.printed
            judge(
                f"demo / test AUC of {task}, ptf, made_from == '{kind}'",
                required="printed separately for both kinds of exams",
                measured=measured,
                passed=bool(told),
            )


def test_demo__maps_of_true_knees_come_from_step_sphere(demo: Demo, judge: Judge) -> None:
    lake = demo.lake
    runs = lake.runs()
    true = lake.cohort("made_from == 'truth'")
    status = {step: read_status(lake.root, step, len(lake)) for step in ("sphere", "ingest_truth")}
    of_maps = runs.loc[np.unique(status["sphere"].run[true.rows])]["step"].tolist()
    images = len(true.require("dess/image"))
    marked = np.flatnonzero(status["ingest_truth"].usable).tolist()
    judge(
        "demo / knees made from truth",
        required="maps computed by step sphere; exams marked; no images",
        measured=f"{len(true)} exams; maps by {', '.join(sorted(set(of_maps)))}; {images} with an "
        f"image; marked: {'all' if marked == true.rows.tolist() else len(marked)}",
        passed=set(of_maps) == {"sphere"} and not images and marked == true.rows.tolist(),
    )


def test_demo__figure_s4_states_the_size_of_the_search(demo: Demo, judge: Judge) -> None:
    title = "8 of 612" in (demo.folder / "paper" / "figures" / "figure_s4.svg").read_text()
    judge(
        "demo / Figure S4",
        required='its title says "8 of 612"',
        measured="it does" if title else "it does not",
        passed=title and "8 of the 612 models" in demo.printed,
    )


def test_demo__rerun_trains_and_computes_nothing(demo: Demo, judge: Judge) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.folder.rglob("card.json")}
    printed = _run(demo.folder.parent)
    after = {path: path.stat().st_mtime_ns for path in demo.folder.rglob("card.json")}
    steps = re.findall(r"^(\w+): (.*) \([0-9.]+ s\)", printed, re.M)
    again = [name for name, told in steps if " done" in told.replace("already done", "")]
    judge(
        "demo / run a second time",
        required="no model is trained again, no exam is computed again",
        measured=f"{len(before)} models, "
        + ("untouched" if before == after else "trained again")
        + f"; computed again: {', '.join(again) or 'nothing'} of {len(steps)} runs",
        passed=before == after and not again and len(steps) > 8,
    )


def test_demo__from_nothing_to_a_report(demo: Demo, judge: Judge) -> None:
    training = float(re.search(r"trained in ([0-9.]+) CPU-minutes", demo.printed)[1])
    page = (demo.folder / "report.html").read_text()
    judge(
        "demo / report, without installation",
        required="a report with Table S1 and Figure S2",
        measured=f"{len(page) / 2**20:.1f} MiB of report, {page.count('<img')} pictures",
        passed=page.count("<img") >= 8 and "MPTS" in page,
    )
    judge(
        "demo / training of two bone and two cartilage networks",
        required="at most 8 CPU-minutes",
        measured=f"{training} CPU-minutes",
        passed=training <= 8,
    )


@pytest.mark.parametrize("task", ["bones", "cartilage"])
def test_demo__overlap_on_held_out_patients(demo: Demo, task: str, judge: Judge) -> None:
    scores = demo.scores(task)
    missed = []
    for tissue in scores["tissue"].unique():
        found = _mean(scores, tissue)
        try:
            judge(
                f"demo / DSC of {tissue}, unseen patients, 64 x 144 x 144",
                required=f"at least {REQUIRED[tissue]:.2f}",
                measured=f"{found:.3f} ({scores['exam'].nunique()} exams)",
                passed=found >= REQUIRED[tissue],
            )
        except AssertionError as error:
            missed.append(str(error))
    assert not missed, "; ".join(missed)


@pytest.mark.parametrize("task", ["bones", "cartilage"])
def test_demo__ensemble_is_as_good_as_its_best_member(demo: Demo, task: str, judge: Judge) -> None:
    lake, kind = demo.lake, KIND[task]
    folder = demo.folder / "models" / task
    test = lake.cohort().of_exams(held_out_exams(folder)[1], "unseen")
    together = demo.scores(task)["dsc"].mean()
    alone = {}
    for network in find_networks(folder):
        variant = network.name.replace("-", "_")
        lake.run(f"segment_{task}", test, models=network.folder, variant=variant)
        alone[network.name] = score_exams(lake, test, kind, variant=variant)["dsc"].mean()
    best = max(alone.values())
    judge(
        f"ensemble / mean DSC of {task}",
        required="at least its best member's - 0.005",
        measured=f"{together:.4f}; "
        + ", ".join(f"{name} {value:.4f}" for name, value in alone.items()),
        passed=together >= best - 0.005,
    )


@needs_bfloat16
@pytest.mark.parametrize("task", ["bones", "cartilage"])
def test_demo__bfloat16_is_as_good_as_float32(demo: Demo, task: str, judge: Judge) -> None:
    lake, folder = demo.lake, demo.folder / "models" / task
    test = lake.cohort().of_exams(held_out_exams(folder)[1], "unseen")
    together = demo.scores(task)["dsc"].mean()
    lake.run(f"segment_{task}", test, models=str(folder), dtype="bfloat16", variant="bf16")
    half = score_exams(lake, test, KIND[task], variant="bf16")["dsc"].mean()
    judge(
        f"ensemble / mean DSC of {task} in bfloat16",
        required="printed; within 0.01 of float32",
        measured=f"{half:.4f}, float32 {together:.4f}",
        passed=abs(half - together) <= 0.01,
    )


def test_demo__maps_and_t2_use_predicted_masks(demo: Demo, judge: Judge) -> None:
    lake = demo.lake
    runs = lake.runs()
    runs = runs[~runs["step"].str.contains("__")]  # those of the tests above
    steps = runs["step"].tolist()
    order = [steps.index(s) for s in ("segment_bones", "segment_cartilage", "register", "t2")]
    models = runs.iloc[order[1]]["parameters"]["models"]
    judge(
        "demo / lineage of T2",
        required="segmented by networks, registered, fitted; no mask imported but as a reference",
        measured=f"{' -> '.join(steps)}; cartilage by {', '.join(models)}",
        passed=order == sorted(order) and all("@" in name for name in models),
    )
    t2 = lake.cohort().require("msme/t2")
    assert len(t2) >= 8


@pytest.mark.parametrize("task", ["bones", "cartilage"])
def test_all_members__small(demo: Demo, task: str, judge: Judge) -> None:
    """The two networks of the demo and all others: five losses, three 2D and three 3D."""
    folder = demo.folder / "models" / task
    before = cpu_minutes()
    networks = train_ensemble(demo.lake, task, preset="small", out=folder, resume=True)
    minutes = cpu_minutes() - before
    lake, missed = demo.lake, []
    test = lake.cohort().of_exams(held_out_exams(folder)[1], "unseen")
    for network in networks:
        variant = "member_" + network.name.replace("-", "_")
        lake.run(f"segment_{task}", test, models=network.folder, variant=variant)
        scores = score_exams(lake, test, KIND[task], variant=variant)
        found = {tissue: _mean(scores, tissue) for tissue in scores["tissue"].unique()}
        least = 0.9 if task == "bones" else 0.0
        try:
            judge(
                f"members / {network.name}, {network.recipe.loss}",
                required="femur DSC at least 0.90" if task == "bones" else "printed",
                measured=", ".join(f"{tissue} {value:.3f}" for tissue, value in found.items()),
                passed=next(iter(found.values())) >= least,
            )
        except AssertionError as error:
            missed.append(str(error))
    lake.run(f"segment_{task}", test, models=str(folder), variant="all")
    scores = score_exams(lake, test, KIND[task], variant="all")
    judge(
        f"members / all {len(networks)} of {task} together",
        required="printed",
        measured=", ".join(f"{t} {_mean(scores, t):.3f}" for t in scores["tissue"].unique())
        + f"; those that the demo had not trained took {minutes:.1f} CPU-minutes",
        passed=len(networks) == {"bones": 5, "cartilage": 6}[task],
    )
    assert not missed, "; ".join(missed)
