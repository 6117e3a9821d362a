"""The error function against that of the standard library."""

import math

import numpy as np
import pytest

from core.support.erf import erf


@pytest.mark.parametrize("scale", [1e-300, 1e-8, 1e-2, 1, 3, 10])
def test_it_is_that_of_the_standard_library(scale):
    x = scale * np.random.default_rng(0).standard_normal((100, 100))
    expected = np.vectorize(math.erf)(x)
    np.testing.assert_allclose(erf(x), expected, rtol=1e-15, atol=0)


def test_at_the_points_of_the_table_between_them_and_at_its_ends():
    for x in (*np.arange(-6.5, 6.5, 1 / 256), np.nextafter(6, 7), np.nextafter(-6, -7)):
        assert erf(x) == pytest.approx(math.erf(x), rel=0, abs=3e-16)


def test_what_is_no_number_stays_so_and_infinity_is_one():
    np.testing.assert_equal(erf(np.array([np.nan, np.inf, -np.inf, 0.0])), [np.nan, 1, -1, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(dtype):
    assert erf(np.ones((2, 3), dtype)).dtype == dtype
