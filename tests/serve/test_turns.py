"""Whose turn it is: short work is not behind long work, and long work gets its turn too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openglm.serve.turns import LONG, LONG_SHARE, Size, Turns

SHORT_JOB, LONG_JOB = Size(1, 8, 20), Size(16, 16 * 250, 16 * 300)


def turns(sequences: int = 64, held: int = 1_000_000) -> tuple[Turns[str], list[float]]:
    now = [0.0]
    return Turns(sequences, held, clock=lambda: now[0]), now


def test_equals_are_served_as_they_came() -> None:
    queue, _ = turns(sequences=2)
    for name in "abcd":
        queue.add(name, SHORT_JOB)
    assert queue.take() == ["a", "b"]
    assert queue.take() == []
    queue.remove("b")
    assert queue.take() == ["c"]
    assert len(queue) == 1


def test_short_work_passes_long_work() -> None:
    queue, now = turns()
    for number in range(60):
        queue.add(f"long {number}", LONG_JOB)
    assert queue.take() == ["long 0", "long 1", "long 2"]  # three quarters of the room
    now[0] += 1
    queue.add("short", SHORT_JOB)
    assert queue.take() == ["short"]


def test_long_work_is_not_passed_over_for_ever() -> None:
    """Short jobs that fill the server leave the room that a long one waits for."""
    queue, now = turns()
    inside = []
    for number in range(64):
        queue.add(f"short {number}", SHORT_JOB)
    inside += queue.take()
    queue.add("long", LONG_JOB)
    for number in range(64, 1000):
        now[0] += 0.1  # the long one becomes due while short ones keep coming
        queue.add(f"short {number}", SHORT_JOB)
        queue.remove(inside.pop(0))
        taken = queue.take()
        inside += taken
        if "long" in taken:
            break
    else:
        raise AssertionError("the long job never began")
    assert now[0] < 1.5 * LONG_JOB.written / 100 + 10


def test_a_job_larger_than_the_room_runs_alone() -> None:
    queue, _ = turns(held=1000)
    queue.add("huge", Size(1, 600, 5000))
    queue.add("short", SHORT_JOB)
    assert queue.take() == ["short"]
    queue.remove("short")
    assert queue.take() == ["huge"]
    queue.add("another", SHORT_JOB)
    assert queue.take() == []


sizes = st.builds(
    lambda sequences, tokens: Size(sequences, sequences * tokens, sequences * tokens + 30),
    st.integers(1, 16),
    st.integers(1, 256),
)


@given(st.lists(sizes, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_room_is_kept_and_everybody_gets_a_turn(jobs: list[Size], rng: object) -> None:
    queue, now = turns(sequences=40, held=9000)
    for number, size in enumerate(jobs):
        queue.add(str(number), size)
    inside: list[str] = []
    served = []
    for _ in range(1000):
        now[0] += 1
        taken = queue.take()
        inside, served = inside + taken, served + taken
        running = [jobs[int(name)] for name in inside]
        assert len(running) <= 1 or sum(size.sequences for size in running) <= 40
        assert len(running) <= 1 or sum(size.held for size in running) <= 9000
        long = [size for size in running if size.written > LONG]
        assert len(long) <= 1 or sum(size.held for size in long) <= LONG_SHARE * 9000
        if not inside:
            break
        queue.remove(inside.pop(rng.randrange(len(inside))))  # type: ignore[attr-defined]
    assert sorted(served) == sorted(str(number) for number in range(len(jobs)))
    assert len(queue) == 0


def test_what_is_cancelled_while_it_waits_is_forgotten() -> None:
    queue, _ = turns(sequences=1)
    for name in "ab":
        queue.add(name, SHORT_JOB)
    assert queue.take() == ["a"]
    assert queue.remove("b")
    assert not queue.remove("a")
    assert queue.take() == []
