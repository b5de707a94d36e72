"""The series of the demo are those that its models learnt from, and what is known of them."""

import numpy as np

from fastlstm.demo.series import sunspots, weekly_changes


def test_sunspots_are_those_of_the_demos_record(demo_models):
    years, numbers = sunspots()
    with np.load(demo_models / "sunspots.npz") as record:
        held_out = np.isin(years, record["years"])
        np.testing.assert_array_equal(years[held_out], record["years"])
        np.testing.assert_array_equal(numbers[held_out], record["truth"].astype(np.float32))
        first = np.flatnonzero(held_out)[0]
        np.testing.assert_allclose(numbers[first - 12 : first], 100 * record["in_0"][0, :, 0] ** 2, atol=1e-4)


def test_sunspots_have_a_year_each_and_cycles_of_eleven_years():
    years, numbers = sunspots()
    np.testing.assert_array_equal(years, np.arange(1700, 2009))
    assert years[numbers.argmax()] == 1957
    spectrum = np.abs(np.fft.rfft(numbers - numbers.mean()))
    assert len(numbers) / spectrum.argmax() == np.clip(len(numbers) / spectrum.argmax(), 10.5, 11.5)


def test_weekly_changes_are_the_record_without_its_overlaps(demo_models):
    changes = weekly_changes()
    with np.load(demo_models / "co2_season.npz") as record:
        windows = np.lib.stride_tricks.sliding_window_view(changes, 26)
        np.testing.assert_array_equal(windows, record["in_weekly_change"][:, :, 0])
