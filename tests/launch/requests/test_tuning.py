"""The search of `tune-batch`, held against trying everything on cards that are a formula."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tunestudy.launch.requests.tuning import (
    Candidate,
    Known,
    Space,
    Tried,
    best_of,
    differing,
    divisors,
    few_divisors,
    next_candidate,
    not_needed,
    tried_from,
)

Card = Callable[[Candidate], Tried]


def card(gigabytes: float, *, busy_at: int = 10**6, images: bool = False, decode: float = 0.0) -> Card:
    """1 GB of weights and 1 GB a row, a third of that with checkpointing, which costs 30 % of the speed; speed rises
    until `busy_at` rows. `decode`: seconds of one worker for a step's images, beside 1 s of the step at full speed."""

    def measured(one: Candidate) -> Tried:
        each = 1 / 3 if one.activation_checkpointing else 1.0
        taken = round((1 + each * one.micro_batch) * 1e9)
        common = Tried(candidate=one, fits=taken <= gigabytes * 1e9, peak_bytes=taken, limit_bytes=int(gigabytes * 1e9))
        if not common.fits:
            return common
        rows = min(one.micro_batch, busy_at)
        speed = 1000 * rows / (rows + 2) * (0.7 if one.activation_checkpointing else 1)
        computes = 1000 / speed
        waits = max(0.0, decode / max(one.workers, 1) - (computes if one.workers else 0))
        speed = 1000 / (computes + waits)
        wait_share = waits / (computes + waits)
        rates = [speed * (1 + wiggle) for wiggle in (-0.004, 0, 0.004)]
        return replace(common, tokens_per_s=speed, rates=rates, wait_share=wait_share, images=images, learnt=(2.5, 1.0))

    return measured


def walk(space: Space, of: Card) -> dict[Candidate, Tried]:
    known: dict[Candidate, Tried] = {}
    while (candidate := next_candidate(space, known)) is not None:
        assert candidate not in known, "nothing is tried twice"
        assert space.share % candidate.micro_batch == 0
        known[candidate] = of(candidate)
    return known


def space_of(share: int, now: int = 1, *, checkpointing: bool = False, workers: int = 2, cores: int = 8) -> Space:
    own = Candidate(micro_batch=now, activation_checkpointing=checkpointing, workers=workers)
    return Space(share=share, now=own, cores=cores)


def everything(space: Space, of: Card) -> Known:
    both = (False, True)
    ways = [Candidate(micro_batch=m, activation_checkpointing=c, workers=2) for m in space.ladder for c in both]
    return {way: of(way) for way in ways}


@pytest.mark.parametrize("share", [1, 2, 6, 7, 16, 48, 256])
@pytest.mark.parametrize("gigabytes", [1.2, 2.5, 4.5, 9.7, 40, 400])
@pytest.mark.parametrize("busy_at", [3, 10**6])
def test_finds_what_trying_everything_finds(share: int, gigabytes: float, busy_at: int) -> None:
    of = card(gigabytes, busy_at=busy_at)
    for now in {1, share}:
        for checkpointing in (False, True):
            space = space_of(share, now, checkpointing=checkpointing)
            known = walk(space, of)
            found, best = best_of(known, space), best_of(everything(space, of), space)
            assert (found is None) == (best is None)
            if found is not None and best is not None:
                assert found.speed >= 0.97 * best.speed and found.free >= 0.05
            assert len(known) <= 2 * (2 + len(space.ladder).bit_length()) + 2


def test_a_search_that_was_cut_short_goes_on_where_it_was() -> None:
    space, of = space_of(64, 2), card(20)
    whole = walk(space, of)
    for count in range(len(whole)):
        known = dict(list(whole.items())[:count])
        assert next_candidate(space, known) == list(whole)[count]


def test_checkpointing_is_left_out_where_memory_is_not_the_limit() -> None:
    space = space_of(16, 4)
    known = walk(space, card(100))
    assert not any(one.activation_checkpointing for one in known)
    assert "activation checkpointing" in dict(not_needed(space, known))


def test_checkpointing_wins_where_it_lets_far_more_fit() -> None:
    space, of = space_of(64, 1), card(2.5)  # one row, or with checkpointing four
    best = best_of(walk(space, of), space)
    assert best is not None and best.candidate.activation_checkpointing and best.candidate.micro_batch == 4


def test_what_fits_without_room_to_spare_is_not_chosen() -> None:
    space = space_of(8, 8)
    known = walk(space, card(9.1))  # 8 rows take 9.0
    best = best_of(known, space)
    assert known[space.now].verdict == "too tight, 1 % free"
    assert best is not None and best.candidate.micro_batch == 4


def test_a_forecast_spares_what_cannot_fit() -> None:
    space = space_of(1024, 1)
    known = walk(space, card(100))
    tried = {one.micro_batch for one in known if not one.activation_checkpointing}
    assert max(tried) == 64 and known[space.now].fits
    told = dict(not_needed(space, known))
    assert told["micro-batch 128, 256, 512, 1024 without activation checkpointing"] == "128 would take about 129.0 GB"


def test_what_is_counted_spares_tries_but_never_the_last_resort() -> None:
    space = space_of(256, 256)
    counted = {(rows, on): 1e9 + rows * (1e9 / 3 if on else 1e9) for rows in space.ladder for on in (False, True)}
    of = card(5)
    plain, spared = walk(space, of), walk(replace(space, counted=counted), of)
    assert len(spared) < len(plain) and best_of(spared, space) == best_of(plain, space)
    wrong = dict.fromkeys(counted, 1000000000000.0)
    assert {one.activation_checkpointing for one in walk(replace(space, counted=wrong), of) if one.micro_batch == 1}


def test_nothing_fits_and_one_row_with_checkpointing_was_tried() -> None:
    space = space_of(8, 8)
    known = walk(space, card(1.1))
    assert best_of(known, space) is None
    assert {one.activation_checkpointing for one in known if one.micro_batch == 1} == {True, False}


@pytest.mark.parametrize(("decode", "workers"), [(0.0, 1), (2.5, 2), (5.0, 4), (100.0, 8)])
def test_workers_rise_while_data_are_waited_for(decode: float, workers: int) -> None:
    space = space_of(4, 4, workers=1)
    known = walk(space, card(100, images=True, decode=decode))
    best = best_of(known, space)
    assert best is not None and best.candidate.workers == workers


def test_more_workers_than_cores_are_compared_with_as_many() -> None:
    space = space_of(4, 4, workers=16, cores=4)
    known = walk(space, card(100, images=True))
    assert {one.workers for one in known} == {16, 4}


def test_text_has_no_use_for_workers() -> None:
    space = space_of(4, 4)
    known = walk(space, card(100))
    assert {one.workers for one in known} == {2} and "workers" in dict(not_needed(space, known))


def test_the_studys_own_choice_stays_unless_another_is_faster_beyond_chance() -> None:
    space = space_of(2, 1)
    own = Tried(candidate=space.now, fits=True, peak_bytes=1, limit_bytes=10, tokens_per_s=100, rates=[60, 100, 140])
    other = replace(own, candidate=replace(space.now, micro_batch=2), tokens_per_s=120, rates=[80, 120, 160])
    both = {one.candidate: one for one in (own, other)}
    assert best_of(both, space) is own
    steady = {one.candidate: replace(one, rates=[one.speed * f for f in (0.99, 1, 1.01)]) for one in both.values()}
    best = best_of(steady, space)
    assert best is not None and best.candidate == other.candidate


def test_a_model_that_learns_otherwise_when_cut_otherwise_is_found() -> None:
    space = space_of(4, 1)
    known = walk(space, card(100))
    assert differing(known, space) == []
    odd = replace(space.now, micro_batch=4)
    known[odd] = replace(known[odd], learnt=(2.5, 1.001))
    ((tried, share),) = differing(known, space)
    assert tried.candidate == odd and share == pytest.approx(1e-3, rel=0.01)
    known[odd] = replace(known[odd], precision="bfloat16")
    assert differing(known, space) == []  # rounding of half precision


def test_an_effective_batch_that_hardly_divides_is_told_with_its_neighbours() -> None:
    told = few_divisors(13, 2)
    assert told is not None and "of 24 allows 1, 2, 3, 4, 6, 12" in told and "28 allows" in told
    assert few_divisors(12, 1) is None and few_divisors(3, 1) is None


def test_divisors() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12] and divisors(1) == [1]


def test_tried_reads_what_a_try_left_and_no_more() -> None:
    found = {
        "micro_batch": 2,
        "activation_checkpointing": True,
        "workers": 0,
        "fits": False,
        "why": "x",
        "seconds": [1],
    }
    tried = tried_from(found)
    assert tried.candidate == Candidate(micro_batch=2, activation_checkpointing=True, workers=0)
    assert tried.verdict == "does not fit" and not tried.usable
