import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from llm_api.report import Progress
from llm_operator.errors import Unavailable
from llm_operator.feed import Feed
from llm_operator.happenings import MAX_OBJECTS, MAX_REASONS, Happenings
from llm_operator.observed import ProgressReport
from llm_operator.reports import MAX_PODS
from llm_operator.resync import Resync
from llm_operator.store import FINE_TUNE, ObjectId, ResourceKey
from llm_operator.workqueue import WorkQueue

KEY = ResourceKey(FINE_TUNE, "team", "bot")
POD = ObjectId("Pod", "team", "bot-1-x")


def make(kind: str, name: str, version: int = 1, **parts: Any) -> dict[str, Any]:
    metadata = {
        "namespace": "team",
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "labels": {"llmoperator.dev/fine-tune": "bot"},
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **parts}


def warning(
    reason: str = "FailedMount", message: str = "no secret", pod: str = POD.name, **parts: Any
) -> dict[str, Any]:
    about = {"kind": "Pod", "namespace": "team", "name": pod}
    times = {"lastTimestamp": "2026-03-01T12:00:00Z"}
    event = {"kind": "Event", "metadata": {"name": "e"}, "involvedObject": about, "reason": reason, "message": message}
    return {**event, **times, **parts}


def report(step: int = 1, phase: str = "Training", pod: str = POD.name) -> ProgressReport:
    return ProgressReport(pod, Progress(phase=phase, step=step), datetime.now(UTC))


class Fed:
    """A feed with its queue."""

    def __init__(self) -> None:
        self.queue: WorkQueue[ResourceKey] = WorkQueue()
        self.feed = Feed(self.queue, report_pause_seconds=0.05)

    def drain(self) -> list[ResourceKey]:
        """What waits now; each is taken and done with."""
        keys = []
        while len(self.queue) > 0:
            keys.append(asyncio.run(self.queue.get()))
            self.queue.done(keys[-1])
        return keys


@pytest.fixture
def fed() -> Fed:
    return Fed()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_change_has_its_resource_looked_at_again(fed: Fed) -> None:
    fed.feed.take({"type": "ADDED", "object": make("Job", "bot-1")})
    assert fed.drain() == [KEY]
    fed.feed.take({"type": "DELETED", "object": make("Job", "bot-1", version=2)})
    assert fed.drain() == [KEY]
    assert fed.feed.store.belongings(KEY, "Job") == []


def test_a_warning_about_a_known_pod_has_its_resource_looked_at_again_once(fed: Fed) -> None:
    fed.feed.keep(make("Pod", POD.name))
    fed.drain()
    for _ in range(3):
        fed.feed.take_warning({"type": "ADDED", "object": warning()})
    assert fed.drain() == [KEY]
    assert [event.message for event in fed.feed.happenings.about(POD)] == ["no secret"]


def test_a_warning_that_comes_before_its_pod_is_known_is_found_when_the_pod_comes(fed: Fed) -> None:
    fed.feed.take_warning({"type": "ADDED", "object": warning()})
    assert fed.drain() == []
    fed.feed.keep(make("Pod", POD.name))
    assert fed.drain() == [KEY]
    assert len(fed.feed.happenings.about(POD)) == 1


def test_a_warning_that_became_old_is_no_news(fed: Fed) -> None:
    fed.feed.keep(make("Pod", POD.name))
    fed.drain()
    fed.feed.take_warning({"type": "DELETED", "object": warning()})
    assert fed.drain() == []


def test_what_was_said_about_a_pod_goes_with_it(fed: Fed) -> None:
    fed.feed.keep(make("Pod", POD.name))
    fed.feed.take_warning({"type": "ADDED", "object": warning()})
    fed.feed.lose(POD, f"uid-{POD.name}")
    assert fed.feed.happenings.about(POD) == []


def test_a_new_phase_is_looked_at_at_once_and_a_step_after_a_pause() -> None:
    async def scenario() -> None:
        fed = Fed()
        fed.feed.keep(make("Pod", POD.name))
        fed.queue.done(await fed.queue.get())
        fed.feed.take_report("team", report(phase="Training", step=1))
        await asyncio.sleep(0.01)
        fed.queue.done(await fed.queue.get())
        for step in range(2, 50):
            fed.feed.take_report("team", report(step=step))
        await asyncio.sleep(0.01)
        assert len(fed.queue) == 0
        await asyncio.sleep(0.08)
        assert len(fed.queue) == 1, "many steps are one look"

    run(scenario())


def test_a_run_is_not_shown_as_running_once_its_pod_has_ended() -> None:
    async def scenario() -> None:
        fed = Fed()
        fed.feed.keep(make("Pod", POD.name))
        fed.feed.take_report("team", report(step=7))
        assert len(fed.feed.reports.running()) == 1
        fed.feed.keep(make("Pod", POD.name, version=2, status={"phase": "Succeeded"}))
        assert fed.feed.reports.running() == []
        last = fed.feed.reports.get(("team", POD.name))
        assert last is not None
        assert last.progress.step == 7
        fed.feed.lose(POD, f"uid-{POD.name}")
        assert len(fed.feed.reports) == 0

    run(scenario())


def test_reports_are_bounded_by_those_that_came_last() -> None:
    async def scenario() -> None:
        fed = Fed()
        for number in range(MAX_PODS + 5):
            fed.feed.take_report("team", report(pod=f"pod-{number}"))
        assert len(fed.feed.reports) == MAX_PODS
        assert fed.feed.reports.get(("team", "pod-0")) is None
        assert fed.feed.reports.get(("team", f"pod-{MAX_PODS + 4}")) is not None

    run(scenario())


def test_warnings_are_bounded_by_object_and_by_reason() -> None:
    happenings = Happenings()
    for number in range(MAX_OBJECTS + 5):
        happenings.put(warning(pod=f"pod-{number}"))
    assert len(happenings) == MAX_OBJECTS
    for number in range(MAX_REASONS + 5):
        happenings.put(warning(reason=f"R{number}"))
    assert len(happenings.about(POD)) == MAX_REASONS


@pytest.mark.parametrize(
    ("times", "seen"),
    [
        ({"lastTimestamp": "2026-03-01T12:00:00Z"}, "12:00"),
        ({"lastTimestamp": None, "eventTime": "2026-03-01T13:00:00.000001Z"}, "13:00"),
        ({"lastTimestamp": "2026-03-01T12:00:00Z", "series": {"lastObservedTime": "2026-03-01T14:00:00Z"}}, "14:00"),
        (
            {"lastTimestamp": None, "metadata": {"name": "e", "creationTimestamp": "2026-03-01T15:00:00Z"}},
            "15:00",
        ),
    ],
)
def test_the_time_of_a_warning_is_read_wherever_its_recorder_wrote_it(times: Mapping[str, Any], seen: str) -> None:
    happenings = Happenings()
    happenings.put(warning(**times))
    assert happenings.about(POD)[0].last_seen_at.strftime("%H:%M") == seen


def test_warnings_about_other_kinds_are_not_kept() -> None:
    happenings = Happenings()
    about = {"kind": "Node", "name": "n"}
    assert happenings.put(warning(involvedObject=about)) is None
    assert len(happenings) == 0


class Listing:
    """What the cluster holds, by kind; a kind that is None can't be asked for."""

    def __init__(self, **names: list[str] | None) -> None:
        self.names = names

    async def list_metadata(
        self, api_version: str, kind: str, namespace: str | None, label_selector: str | None
    ) -> AsyncIterator[Mapping[str, Any]]:
        names = self.names.get(kind, [])
        if names is None:
            raise Unavailable("no answer")
        for name in names:
            yield {"namespace": "team", "name": name, "uid": f"uid-{name}"}


def test_what_went_while_no_watch_was_open_is_found_by_the_slow_round(fed: Fed) -> None:
    async def scenario() -> None:
        fed.feed.keep(make("Job", "there"))
        fed.feed.keep(make("Job", "gone"))
        fed.feed.keep(make("Pod", POD.name))
        await Resync(Listing(Job=["there"], Pod=None), fed.feed, fed.queue, [None], 10).round()
        assert [job["metadata"]["name"] for job in fed.feed.store.belongings(KEY, "Job")] == ["there"]
        assert len(fed.feed.store.belongings(KEY, "Pod")) == 1, "not to be asked is not to be gone"

    run(scenario())


def test_what_went_in_a_gap_of_the_watches_is_found_soon_after_it() -> None:
    async def scenario() -> None:
        fed, gap = Fed(), asyncio.Event()
        fed.feed.keep(make("Job", "gone"))
        resync = Resync(Listing(), fed.feed, fed.queue, [None], seconds=1000, gap_seconds=0.01)
        following = asyncio.create_task(resync.follow(gap))
        await asyncio.sleep(0.05)
        assert len(fed.feed.store.belongings(KEY, "Job")) == 1
        gap.set()
        await asyncio.sleep(0.05)
        assert fed.feed.store.belongings(KEY, "Job") == []
        assert not gap.is_set()
        following.cancel()

    run(scenario())


def test_the_slow_round_has_every_resource_looked_at_in_its_time() -> None:
    async def scenario() -> None:
        fed = Fed()
        names = [f"bot-{number}" for number in range(20)]
        for name in names:
            fed.feed.keep(make(FINE_TUNE, name))
        for _ in names:
            fed.queue.done(await fed.queue.get())
        await Resync(Listing(LLMFineTune=names), fed.feed, fed.queue, [None], 0.1).round()
        await asyncio.sleep(0.1)
        assert len(fed.queue) == 20

    run(scenario())


def test_what_kueue_says_of_a_workload_is_about_the_job_that_it_stands_for() -> None:
    happenings = Happenings()
    about = {"kind": "Workload", "namespace": "team", "name": "job-bot-1-0a1b2", "apiVersion": "kueue.x-k8s.io/v1beta2"}
    job = ObjectId("Job", "team", "bot-1")
    assert happenings.put(warning("Pending", "no quota", involvedObject=about)) == job
    assert [(event.kind, event.name, event.message) for event in happenings.about(job)] == [
        ("Job", "bot-1", "no quota")
    ]
    for other in ({"apiVersion": "scheduling.k8s.io/v1alpha1"}, {"name": "pod-bot-1-0a1b2"}):
        assert happenings.put(warning("Pending", involvedObject={**about, **other})) is None
