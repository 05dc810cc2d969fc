"""A live session shows the newest image that it could make, never older than it says, and none after a loss."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from factories.live import CHANGED, HEAD, LIFTED, NO_HEAD, Clock, HeldRunner, NumberedEngine, number_in, picture
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from USMRISynthesisLib.live import session as live
from USMRISynthesisLib.live.session import LiveSession, Settings
from USMRISynthesisLib.live.shown import FROZEN_AFTER_S, State


class Bench:
    """A session with its clock, engine and runner."""

    def __init__(self, held: bool = False, **choices: object) -> None:
        self.clock, self.engine, self.runner = Clock(), NumberedEngine(), HeldRunner(held)
        self.session = LiveSession(self.engine, Settings(mark=False, **choices), clock=self.clock, runner=self.runner)

    def show(self, number: int, kind: int = HEAD, after: float = 0.05, **size: object) -> None:
        self.clock.now += after
        self.session.offer(picture(number, kind, **size))
        self.session.step()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_picture_becomes_an_image_that_says_its_age_rate_and_confidence(bench: Bench) -> None:
    for number in range(1, 9):
        bench.show(number, after=0.1)
    bench.clock.now += 0.03
    view = bench.session.shown()
    assert view.state is State.LIVE and number_in(view.mr) == 8 and view.number == 8
    assert view.age_s == pytest.approx(0.03) and view.confidence == 0.9
    assert view.rate == pytest.approx(7 / 0.73)
    np.testing.assert_array_equal(view.ultrasound, picture(8).array)
    assert view.line == "live  age 0.03 s  10/s  confidence 0.90"
    assert bench.engine.searches == [1]  # found once, then followed


def test_only_the_newest_picture_is_worked_on_and_one_waits_at_most(bench: Bench) -> None:
    bench.show(1)
    for number in (2, 3, 4):
        bench.session.offer(picture(number))
        assert bench.session.waiting == 1
    bench.session.step()
    assert bench.engine.drawn == [1, 4] and bench.session.dropped == 2 and bench.session.waiting == 0
    assert not bench.session.step()


def test_the_age_counts_from_the_picture_and_not_from_the_image(bench: Bench) -> None:
    bench.show(1)
    bench.session.offer(picture(2))
    bench.clock.now += 0.4  # it waits
    bench.engine.during = lambda: setattr(bench.clock, "now", bench.clock.now + 0.3)  # it is worked on
    bench.session.step()
    assert bench.session.shown().age_s == pytest.approx(0.7)


def test_while_the_head_is_searched_for_nothing_is_shown() -> None:
    bench = Bench(held=True)
    assert bench.session.shown().state is State.WAITING
    bench.show(1)
    bench.show(2)
    view = bench.session.shown()
    assert view.state is State.SEARCHING and view.mr is None and view.reason
    bench.runner.release()
    bench.session.step()  # no new picture has come: the last one is drawn
    assert number_in(bench.session.shown().mr) == 2 and bench.engine.searches == [1]


def test_without_a_brain_the_view_is_blank_with_the_reason_and_tries_again(bench: Bench) -> None:
    bench.show(1, NO_HEAD)
    view = bench.session.shown()
    assert view.state is State.BLANK and view.mr is None and view.age_s is None
    assert view.reason == "Picture 1 shows no brain. Move the probe."
    bench.show(2, HEAD, after=0.1)  # too soon for another search
    assert bench.engine.searches == [1]
    bench.show(3, HEAD, after=0.3)
    assert number_in(bench.session.shown().mr) == 3


def test_a_lifted_probe_blanks_the_view_at_once(bench: Bench) -> None:
    bench.show(1)
    bench.show(2, LIFTED)
    view = bench.session.shown()
    assert (view.state, view.mr, view.reason) == (State.BLANK, None, live.LIFTED)
    bench.show(3)
    assert number_in(bench.session.shown().mr) == 3 and bench.engine.searches == [1, 3]


def test_another_picture_blanks_the_view_until_the_head_is_found_in_it() -> None:
    bench = Bench()
    bench.show(1)
    bench.runner.held = True
    bench.show(2, CHANGED)
    view = bench.session.shown()
    assert (view.state, view.mr, view.reason) == (State.SEARCHING, None, live.CHANGED)
    bench.show(3)
    assert bench.session.shown().mr is None
    bench.runner.release()
    bench.session.step()
    assert bench.session.shown().reason == "Picture 2 shows no brain. Move the probe."


def test_a_head_that_is_lost_in_a_later_search_is_no_longer_shown() -> None:
    bench = Bench()
    bench.show(1)
    bench.runner.held = True
    bench.show(2, NO_HEAD)  # a little unlike: searched for beside, and shown meanwhile
    assert number_in(bench.session.shown().mr) == 2
    bench.runner.release()
    bench.session.step()
    assert bench.session.shown().mr is None and "no brain" in bench.session.shown().reason


def test_the_head_is_found_anew_every_so_often(bench: Bench) -> None:
    for number in range(1, 80):
        bench.show(number, after=0.1)
    assert bench.engine.searches == [1, 32, 63]
    assert bench.engine.drawn == list(range(1, 80))


def test_a_frozen_picture_stays_and_grows_old(bench: Bench) -> None:
    bench.show(1)
    for _ in range(20):
        bench.clock.now += 0.1
        assert not bench.session.offer(picture(1))
        bench.session.step()
    view = bench.session.shown()
    assert view.state is State.FROZEN and view.reason == "The picture is frozen." and number_in(view.mr) == 1
    assert view.age_s == pytest.approx(2.0) and view.rate == 0 and bench.engine.drawn == [1]
    assert view.line == "frozen  age 2.00 s  0/s  confidence 0.90  The picture is frozen."
    bench.show(2)
    assert bench.session.shown().state is State.LIVE


def test_a_source_that_sends_nothing_is_told_from_a_frozen_one(bench: Bench) -> None:
    bench.show(1)
    bench.clock.now += FROZEN_AFTER_S + 0.1
    assert bench.session.shown().reason == "No new picture comes."


@pytest.mark.parametrize("change", [{"shape": (9, 8)}, {"spacing": 0.5}])
def test_another_size_or_spacing_starts_anew(bench: Bench, change: dict[str, object]) -> None:
    bench.show(1)
    bench.session.offer(picture(2, **change))
    view = bench.session.shown()
    assert (view.state, view.mr, view.reason) == (State.SEARCHING, None, live.RESIZED)
    bench.session.step()
    assert number_in(bench.session.shown().mr) == 2 and bench.engine.searches == [1, 2]


def test_a_picture_of_another_size_in_the_middle_of_a_frame_discards_that_frame(bench: Bench) -> None:
    bench.show(1)
    bench.engine.during = lambda: bench.session.offer(picture(3, shape=(9, 8)))
    bench.show(2)
    assert bench.session.shown().mr is None
    bench.session.step()
    assert number_in(bench.session.shown().mr) == 3


def test_stop_in_the_middle_of_a_frame_shows_nothing(bench: Bench) -> None:
    bench.show(1)
    bench.engine.during = bench.session.stop
    bench.show(2)
    assert bench.session.shown().state is State.STOPPED and bench.session.shown().mr is None
    assert not bench.session.offer(picture(3))
    bench.session.start()
    bench.show(4)
    assert number_in(bench.session.shown().mr) == 4


def test_a_search_from_before_a_stop_is_not_taken_over() -> None:
    bench = Bench(held=True)
    bench.show(1)
    bench.session.stop()
    bench.session.start()
    bench.runner.release()
    assert not bench.session.step()
    assert bench.session.shown().state is State.WAITING


def test_a_source_that_is_gone_blanks_the_view_until_it_is_back(bench: Bench) -> None:
    bench.show(1)
    bench.session.lose_source("The source is gone.")
    assert (bench.session.shown().mr, bench.session.shown().reason) == (None, "The source is gone.")
    bench.show(1)  # the same picture as before
    assert number_in(bench.session.shown().mr) == 1


def test_the_median_is_as_old_as_its_oldest_picture() -> None:
    bench = Bench(median=3)
    for number in (10, 50, 20):
        bench.show(number, after=0.1)
    view = bench.session.shown()
    assert number_in(view.mr) == 20  # of 10, 50 and 20
    assert view.age_s == pytest.approx(0.2)
    bench.show(60, LIFTED)
    bench.show(70)
    assert number_in(bench.session.shown().mr) == 70  # nothing from before the loss


def test_a_median_holds_nothing_from_before_a_stop_in_mid_frame() -> None:
    bench = Bench(median=3)
    bench.show(10)

    def restart() -> None:
        bench.session.stop()
        bench.session.start()

    bench.engine.during = restart
    bench.show(90)
    bench.show(50)
    assert number_in(bench.session.shown().mr) == 50


def test_an_unexpected_fault_of_the_search_is_not_hidden(bench: Bench) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    bench.engine.find = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        bench.show(1)


def test_close_leaves_no_thread() -> None:
    session = LiveSession(NumberedEngine())
    session.offer(picture(1))
    session.step()
    session.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("head search")]


class RandomStream(RuleBasedStateMachine):
    """Whatever comes in whatever order: nothing older than stated, nothing from before a loss, one picture waits."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(held=True)
        self.session = self.bench.session
        self.arrived: dict[int, float] = {}
        self.number = 0
        self.oldest_allowed = 0
        self.kind = HEAD
        self.size = (6, 8)
        self.stopped = False

    def _picture(self, kind: int, shape: tuple[int, int]) -> None:
        if shape != self.size:
            self.size, self.oldest_allowed = shape, self.number + 1
        self.number += 1
        self.kind = kind
        self.arrived[self.number] = self.bench.clock.now
        self.session.offer(picture(self.number, kind, shape))

    @rule(kind=strategies.sampled_from([HEAD, HEAD, HEAD, NO_HEAD, LIFTED, CHANGED]))
    def new_picture(self, kind: int) -> None:
        self._picture(kind, self.size)

    @rule(shape=strategies.sampled_from([(6, 8), (7, 9)]))
    def maybe_other_size(self, shape: tuple[int, int]) -> None:
        self._picture(HEAD, shape)

    @precondition(lambda self: self.number > 0)
    @rule()
    def same_picture(self) -> None:
        self.arrived.setdefault(self.number, self.bench.clock.now)
        if self.session.offer(picture(self.number, self.kind, self.size)):  # after a stop or a loss it is a new one
            self.arrived[self.number] = self.bench.clock.now
            self.oldest_allowed = min(self.oldest_allowed, self.number)

    @rule(seconds=strategies.sampled_from([0.01, 0.2, 0.6, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.clock.now += seconds

    @rule()
    def step(self) -> None:
        before = len(self.bench.engine.drawn)
        newest, waiting = self.number, self.session.waiting
        self.session.step()
        if waiting and self.kind in (LIFTED, CHANGED) and not self.stopped:
            self.oldest_allowed = newest
        assert len(self.bench.engine.drawn) - before <= 1

    @rule()
    def search_ends(self) -> None:
        self.bench.runner.release()

    @rule()
    def source_gone(self) -> None:
        self.session.lose_source("The source is gone.")
        self.oldest_allowed = self.number + 1

    @rule(in_mid_frame=strategies.booleans())
    def stop(self, in_mid_frame: bool) -> None:
        if in_mid_frame:
            self.bench.engine.during = self.session.stop
            self.session.step()
            self.bench.engine.during = None
        self.session.stop()
        self.stopped, self.oldest_allowed = True, self.number + 1

    @rule()
    def start(self) -> None:
        self.session.start()
        self.stopped, self.oldest_allowed = False, self.number + 1

    @invariant()
    def the_view_is_true(self) -> None:
        view = self.session.shown()
        assert self.session.waiting <= 1
        if view.mr is None:
            assert view.state not in (State.LIVE, State.FROZEN)
            assert view.reason or view.state is State.STOPPED
            assert view.taken_at is view.age_s is view.confidence is None
            return
        shown = number_in(view.mr)
        assert not self.stopped and view.state in (State.LIVE, State.FROZEN)
        assert shown >= self.oldest_allowed
        assert view.age_s == pytest.approx(self.bench.clock.now - self.arrived[shown])
        assert int(view.ultrasound[0, 0, 0]) == shown


TestRandomStream = RandomStream.TestCase
TestRandomStream.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
