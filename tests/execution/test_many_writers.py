"""Writers of one lake on an object store, in any order, each of which may die at any request.

A state machine draws operations of three writers. Each may die at a request to the store, before or
after the store has carried it out; lose a response, which its client repeats; or wait at a request
while another writer does a whole operation. After each operation, the lake is compared with what
the runs that it names give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import qmri_lake as ql
from qmri_lake.errors import NotALakeError, QmriLakeError, RunError, UnknownRefError
from qmri_lake.execution.events import Committed, RunStarted
from qmri_lake.lake import Lake, open_lake
from qmri_lake.store.runs import canonical, read_runs
from qmri_lake.store.snapshot import open_snapshot
from qmri_lake.store.status import State, read_input_runs, read_status
from tests.conftest import Judge
from tests.execution.writers_world import KEYS, PRODUCTS, STEPS, Fault, Run, World, new_world

SEQUENCES = 100
"""Sequences of the acceptance test, each of which takes about ten CPU-seconds."""
WORLD: World

FAULTS = st.one_of(
    st.just(Fault("none", 0)),
    st.builds(
        Fault,
        st.sampled_from(["dies before a request", "dies after a request", "loses a response"]),
        st.integers(1, 45),
    ),
)
RUNS_AND_DELIVERIES = (
    st.tuples(st.just("ingest"), st.tuples(st.sampled_from(KEYS), st.sampled_from([0, 1]))),
    st.tuples(st.just("amplify"), st.sampled_from([1.0, 2.0, 3.0, -1.0])),
    st.tuples(st.just("shift"), st.sampled_from([0.0, 5.0])),
)
OTHERS = (
    st.tuples(st.just("derive"), st.none()),
    st.tuples(st.just("tag"), st.none()),
    st.tuples(st.just("refresh"), st.none()),
    st.tuples(st.just("prune"), st.none()),
    st.tuples(st.just("forget"), st.sampled_from(KEYS)),
)
# Each operation is one line here, and a method `do_NAME` of the machine.
OPERATIONS = st.one_of(*RUNS_AND_DELIVERIES, *RUNS_AND_DELIVERIES, *OTHERS)
WRITERS = st.integers(0, 2)


class Writers(RuleBasedStateMachine):
    """Three writers of one lake, a model of what their runs give, and the comparison of both."""

    def __init__(self) -> None:
        super().__init__()
        self.world = WORLD
        self.world.store.objects = dict(self.world.seed)
        self.lakes = [self.open() for _ in range(3)]
        self.reader = self.open()
        self.runs = {number: Run("ingest", 0.0) for number in read_runs(self.reader.root)}
        self.promised: list[str] = []
        self.exams: list[str] = []
        self.ran: dict[str, dict[str, int]] = {step: {} for step in STEPS}
        self.forgotten: set[str] = set()
        """Exams whose removal was begun since the last comparison."""
        self.began: datetime | None = None
        """Start of the operation inside which another one takes place."""
        self.expired = False
        """Whether commits were removed since the last comparison."""
        self.tags: dict[str, dict[str, np.ndarray]] = {}
        self.studies = 0
        self.errors: list[BaseException] = []
        self.world.counts["sequences"] += 1

    def open(self) -> Lake:
        return open_lake(f"s3://{self.world.new_name()}/x")

    # -- rules -------------------------------------------------------------------------------------

    @rule(writer=WRITERS, operation=OPERATIONS, fault=FAULTS)
    def act(self, writer: int, operation: tuple[str, Any], fault: Fault) -> None:
        self.perform(writer, operation, fault)

    @rule(
        operation=OPERATIONS,
        fault=FAULTS,
        other=OPERATIONS,
        others=FAULTS,
        at=st.integers(1, 45),
    )
    def act_while_another_acts(
        self,
        operation: tuple[str, Any],
        fault: Fault,
        other: tuple[str, Any],
        others: Fault,
        at: int,
    ) -> None:
        def interrupt() -> None:
            self.world.counts["interleaved"] += 1
            try:
                self.perform(1, other, others)
            except BaseException as error:  # this is a thread of the server
                self.errors.append(error)

        self.began = datetime.now(UTC)
        self.perform(0, operation, fault, (at, interrupt))
        self.began = None
        if self.errors:
            raise self.errors.pop()

    # -- operations --------------------------------------------------------------------------------

    def perform(
        self,
        writer: int,
        operation: tuple[str, Any],
        fault: Fault,
        pause: tuple[int, Callable[[], None]] | None = None,
    ) -> None:
        lake, counts = self.lakes[writer], self.world.counts
        client = self.world.store.client(lake.url.split("/")[2])
        if fault.kind.startswith("dies"):
            client.dies_at = client.requests + fault.at
            client.response_only = fault.kind == "dies after a request"
        elif fault.kind == "loses a response":
            client.loses = {client.requests + fault.at}
        if pause is not None:
            client.pauses = {client.requests + pause[0]: pause[1]}
        kind, argument = operation
        counts[kind] += 1
        try:
            getattr(self, f"do_{kind}")(lake, argument)
        except Exception as error:
            if isinstance(error, AssertionError) or not (
                client.is_dead or self.is_refused(kind, error)
            ):
                raise
        if fault.kind == "loses a response" and client.requests >= max(client.loses):
            counts["lost responses"] += 1
        client.loses, client.pauses = set(), {}
        if client.is_dead:
            counts["deaths"] += 1
            self.lakes[writer] = self.open()
        else:
            client.dies_at = None

    def is_refused(self, kind: str, error: Exception) -> bool:
        """Whether an operation ends with this error, since another one removed what it needs."""
        if self.began is None or not self.expired or not isinstance(error, QmriLakeError):
            return False
        self.world.counts["refused"] += 1
        return True

    def listener(self, value: float) -> Callable[[object], None]:
        def listen(event: object) -> None:
            if isinstance(event, RunStarted):
                assert event.run not in self.runs, f"run number {event.run} was used twice"
                self.runs[event.run] = Run(event.step, value)
            if isinstance(event, Committed):
                self.promised.append(event.snapshot)

        return listen

    def do_ingest(self, lake: Lake, delivery: tuple[str, int]) -> None:
        key, version = delivery
        ql.ingest(
            self.world.folder / f"{key}-{version}",
            lake,
            replace=[key] if key in set(lake.exams["exam"]) else [],
            listeners=[self.listener(version)],
        )

    def do_amplify(self, lake: Lake, gain: float) -> None:
        lake.run(self.world.amplified, gain=gain, commit_every=1, listeners=[self.listener(gain)])

    def do_shift(self, lake: Lake, offset: float) -> None:
        lake.run(self.world.shifted, offset=offset, listeners=[self.listener(offset)])

    def do_derive(self, lake: Lake, _: None) -> None:
        client = lake.url.split("/")[2]
        url = f"s3://{client}/study-{self.studies}"
        known = set(lake.variables())
        lake.refresh()
        try:
            study = lake.derive(url, None, [path for path in PRODUCTS if path in known])
        except (NotALakeError, RunError, UnknownRefError) as error:
            # After a death, a derivation can resume only from its own snapshot and exams, and only
            # if its lake was complete.
            if self.world.store.client(client).is_dead or not any(
                text in str(error)
                for text in ("derived", "begun", "no tag, branch or", "was interrupted")
            ):
                raise
            self.studies += 1
            return
        self.studies += 1
        self.world.counts["complete derivations"] += 1
        origin = study.origin
        assert origin is not None
        assert origin.finished
        source = open_snapshot(lake.url, origin.snapshot)
        for path in study.variables():
            np.testing.assert_array_equal(study.root[path][:], source.root[path][:])

    def do_tag(self, lake: Lake, _: None) -> None:
        name = f"tag-{len(self.tags)}-{self.world.new_name()}"
        values = self.values(lake)
        lake.tag(name)
        self.tags[name] = values

    def do_refresh(self, lake: Lake, _: None) -> None:
        lake.refresh()
        self.values(lake)

    def do_prune(self, lake: Lake, _: None) -> None:
        self.remove_commits()
        # Commits and objects of an operation that has not ended are too young to be removed.
        age = timedelta(0) if self.began is None else datetime.now(UTC) - self.began
        lake.prune(older_than=age)

    def do_forget(self, lake: Lake, key: str) -> None:
        if key not in set(lake.refresh().exams["exam"]):
            return
        self.remove_commits()
        self.forgotten.add(key)
        for name in [name for name, values in self.tags.items() if key in values["exam"]]:
            del self.tags[name]
        lake.forget(int(key[:7]), delete_tags=True)
        self.world.counts["complete removals"] += 1

    def remove_commits(self) -> None:
        self.promised.clear()
        self.expired = True

    # -- comparison --------------------------------------------------------------------------------

    @staticmethod
    def values(lake: Any) -> dict[str, np.ndarray]:
        known = lake.variables()
        found = {path: lake.root[path][:] for path in PRODUCTS if path in known}
        return {**found, "exam": lake.root["exam"][:]}

    @invariant()
    def lake_has_what_its_runs_give(self) -> None:
        if self.expired:
            for lake in self.lakes:
                lake.refresh()
        root = self.reader.refresh().root
        exams, records = root["exam"][:].tolist(), read_runs(root)
        assert {*self.exams} - self.forgotten <= {*exams}, "a committed exam has disappeared"
        if not self.forgotten:
            assert exams[: len(self.exams)] == self.exams, "exams have moved"
        assert len(set(exams)) == len(exams)
        self.exams = exams
        for number, run in self.runs.items():
            assert records[number]["step"] == run.step
            name = {"amplified": "gain", "shifted": "offset"}.get(run.step)
            given = {} if name is None else {name: run.value}
            assert canonical(records[number]["parameters"]) == canonical(given)
        values = self.values(self.reader)
        status = {step: read_status(root, step, len(exams)) for step in STEPS}
        for step in STEPS:
            ran = dict(zip(exams, status[step].run.tolist(), strict=True))
            for key, run in self.ran[step].items():
                is_lost = run >= 0 and key not in self.forgotten and ran[key] < 0
                assert not is_lost, f"a committed state of {step} has disappeared"
            self.ran[step] = ran
        self.forgotten, self.expired = set(), False
        read = {
            step: read_input_runs(root, step, before, len(exams))
            for step, before in (("amplified", "ingest_dess"), ("shifted", "amplified"))
        }
        for row, key in enumerate(exams):
            self.check_exam(key, row, status, read, values)
        for name in list(self.tags)[-1:]:
            self.check_tag(name)

    def run_of(self, step: str, status: Any, row: int) -> Run | None:
        if status[step].run[row] < 0:
            assert status[step].state[row] == State.PENDING
            return None
        run = self.runs[int(status[step].run[row])]
        assert run.step == step.partition("_")[0]
        return run

    def check_exam(self, key: str, row: int, status: Any, read: Any, values: Any) -> None:
        """Compare the values of one exam with the runs that its status names."""
        images, nothing = self.world.images, np.float32(np.nan)
        if (ingest := self.run_of("ingest_dess", status, row)) is not None:
            assert status["ingest_dess"].state[row] == State.DONE
            np.testing.assert_array_equal(values["dess/image"][row], images[key, int(ingest.value)])
        first = self.run_of("amplified", status, row)
        if "dess/amplified" in values:
            found, gain = values["dess/amplified"][row], values["dess/gain"][row]
            if first is None or first.value < 0:
                assert np.isnan(found).all()
                assert np.isnan(gain)
                wanted = State.PENDING if first is None else State.FAILED
            else:
                version = int(self.runs[int(read["amplified"][row])].value)
                np.testing.assert_array_equal(found, images[key, version] * first.value)
                np.testing.assert_equal(gain, nothing if first.value == 1 else first.value)
                wanted = State.DONE
            assert status["amplified"].state[row] == wanted
        if (second := self.run_of("shifted", status, row)) is None:
            return
        assert status["shifted"].state[row] == State.DONE
        before = int(read["shifted"][row])
        gain = self.runs[before].value
        largest = [images[key, version].max() * gain + second.value for version in (0, 1)]
        assert values["dess/shifted"][row] in largest
        if before == status["amplified"].run[row]:
            assert values["dess/shifted"][row] == values["dess/amplified"][row].max() + second.value

    def check_tag(self, name: str) -> None:
        tagged = self.values(open_lake(self.reader.url, ref=name))
        assert tagged.keys() == self.tags[name].keys()
        for path, wanted in self.tags[name].items():
            np.testing.assert_array_equal(tagged[path], wanted)

    def teardown(self) -> None:
        """Run both steps undisturbed: every exam then has what its image gives."""
        if not hasattr(self, "errors") or self.errors:
            return
        for name in self.tags:
            self.check_tag(name)
        assert set(self.promised) <= set(self.reader.refresh().history()["snapshot"])
        lake = self.open()
        lake.run(self.world.amplified, gain=2.0)
        lake.run(self.world.shifted, offset=5.0)
        status = read_status(lake.root, "ingest_dess", len(lake))
        for row, key in enumerate(lake.exams["exam"]):
            if status.usable[row]:
                version = int(self.runs[int(status.run[row])].value)
                image = self.world.images[key, version]
                np.testing.assert_array_equal(lake.root["dess/amplified"][row], 2 * image)
                assert lake.root["dess/shifted"][row] == 2 * image.max() + 5


def run_machine(world: World, sequences: int, steps: int) -> Counter[str]:
    """Run sequences of up to `steps` operations, the same ones each time."""
    global WORLD
    WORLD = world
    run_state_machine_as_test(
        Writers,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return world.counts


@pytest.mark.slow
def test_writers__die_and_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_world(tmp_path, monkeypatch) as world:
        counts = run_machine(world, 3, 10)
    assert counts["sequences"] == 3
    assert counts["deaths"] >= 2
    assert counts["interleaved"] >= 2


@pytest.mark.accept
def test_writers__die_and_overlap_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Judge
) -> None:
    with new_world(tmp_path, monkeypatch) as world:
        counts = run_machine(world, SEQUENCES, 30)
    kinds = ("ingest", "amplify", "shift", "derive", "tag", "prune", "forget", "refresh")
    operations = sum(counts[kind] for kind in kinds)
    judge(
        "three writers on an object store / any order, deaths at any request",
        required=f"{SEQUENCES} sequences without a lost or wrongly attributed exam",
        measured=f"{counts['sequences']} sequences, {operations:,} operations ("
        + ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds)
        + f"), {counts['interleaved']:,} inside another one, {counts['deaths']:,} deaths, "
        f"{counts['lost responses']:,} lost responses, {counts['complete derivations']:,} complete "
        f"derivations, {counts['complete removals']:,} complete removals, {counts['refused']:,} "
        "operations refused since another one removed what they needed; 0 violations",
        passed=counts["sequences"] >= SEQUENCES and counts["deaths"] >= SEQUENCES,
    )
