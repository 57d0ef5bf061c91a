"""The fan-out schedule on made-up metrics."""

import json

from memberwise.graph.schedule import AdaptiveFanOut, FanOutSchedule


def test_it_grows_only_when_the_metric_stalls() -> None:
    settings = AdaptiveFanOut(start=2, stride=20, tolerance=0.01, decay=1.0)
    schedule = FanOutSchedule(settings, 50)
    seen = []
    for metric in (0.5, 0.6, 0.605, 0.7, 0.7, 0.6, 0.9):
        schedule.observe(metric)
        seen.append(schedule.now)
    assert seen == [2, 2, 22, 22, 42, 50, 50]
    assert schedule.at_cap


def test_the_tolerance_shrinks() -> None:
    schedule = FanOutSchedule(AdaptiveFanOut(start=1, stride=1, tolerance=0.1, decay=0.1), 9)
    schedule.observe(0.5)  # tolerance is 0.01 from here on
    assert not schedule.observe(0.52)
    assert schedule.observe(0.52)


def test_without_a_schedule_it_is_the_cap() -> None:
    schedule = FanOutSchedule(None, 30)
    assert not schedule.observe(0.1)
    assert schedule.now == 30


def test_it_goes_on_where_it_stood() -> None:
    a = FanOutSchedule(AdaptiveFanOut(), 100)
    a.observe(0.5)
    b = FanOutSchedule(AdaptiveFanOut(), 100)
    b.load(json.loads(json.dumps(a.state())))
    assert [a.observe(0.5), a.observe(0.4), a.now] == [b.observe(0.5), b.observe(0.4), b.now]
