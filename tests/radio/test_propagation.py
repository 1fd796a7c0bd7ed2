"""Path losses against independent packages, over grids of at least 1,000 points: largest error 1e-3 dB."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from linklab.radio import propagation as pr
from scipy.constants import speed_of_light

TOLERANCE_DB = 1e-3


@pytest.fixture(scope="module")
def itu():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from itur.models import itu530, itu676, itu838
    return type("Itu", (), {"p530": itu530, "p676": itu676, "p838": itu838})


def values(quantity):
    return np.asarray(getattr(quantity, "value", quantity), float)


def worst(ours, theirs, points=1000):
    ours, theirs = np.broadcast_arrays(ours, theirs)
    assert ours.size >= points
    assert np.isfinite(ours).all()
    largest = float(np.abs(ours - theirs).max())
    print(f"{ours.size:,} points, largest difference {largest:.1e}")  # pytest -rP shows it
    return largest


def test_free_space_loss_agrees_with_the_definition():
    """ITU-R P.525-5 eq. 3, 20 log10(4 pi d / wavelength), with SciPy's speed of light."""
    d, f = np.meshgrid(np.geomspace(0.05, 40, 40), np.linspace(5000, 5900, 40))
    theirs = 20 * np.log10(4 * np.pi * (d * 1e3) * (f * 1e6) / speed_of_light)
    assert worst(pr.free_space_loss_db(d, f), theirs) <= TOLERANCE_DB


@pytest.mark.parametrize("d, f, expected", [(0.1, 5180, 86.7344), (5, 5180, 120.7138), (10, 5825, 127.7537)])
def test_free_space_check_values(d, f, expected):
    assert pr.free_space_loss_db(d, f) == pytest.approx(expected, abs=TOLERANCE_DB)


def test_rain_coefficients_agree_with_itur(itu):
    f, tilt = (x.ravel() for x in np.meshgrid(np.linspace(1, 100, 200), [0, 20, 45, 70, 90]))
    pairs = [itu.p838.rain_specific_attenuation_coefficients(*each) for each in zip(f, 0 * f, tilt, strict=True)]
    k, alpha = np.array([[float(values(x)) for x in pair] for pair in pairs]).T
    ours_k, ours_alpha = pr.rain_coefficients(f, tilt)
    assert worst(ours_k / k, 1.0) <= 1e-6
    assert worst(ours_alpha, alpha) <= 1e-6


def rain_exceeded(loss_db, time_pct):
    """ITU-R P.530-17 eqs. 34-35 below 10 GHz: loss exceeded `time_pct` % of the time from that of .01 %."""
    c0 = 0.12
    c1 = 0.07**c0 * 0.12 ** (1 - c0)
    c2, c3 = 0.855 * c0 + 0.546 * (1 - c0), 0.139 * c0 + 0.043 * (1 - c0)
    return loss_db * c1 * time_pct ** -(c2 + c3 * np.log10(time_pct))


def test_rain_loss_of_a_path_agrees_with_itur(itu):
    d, rain = np.meshgrid(np.linspace(0.15, 40, 40), np.linspace(0.5, 120, 30))
    for f, tilt in ((5.2, 0), (5.8, 45)):
        with np.errstate(invalid="ignore"):  # itur also computes what holds above 10 GHz only
            theirs = values(itu.p530.rain_attenuation(33.9, 35.5, d.ravel(), f, 0, 0.01, tau=tilt, R001=rain.ravel()))
        ours = rain_exceeded(pr.rain_loss_db(d, rain, f, tilt), 0.01).ravel()
        assert (ours > 0).all()
        sound = theirs > 0  # itur lets eq. 32 turn negative for drizzle on long paths
        assert worst(ours[sound], theirs[sound]) <= TOLERANCE_DB


def test_rain_loss_check_value_and_dry_air():
    assert rain_exceeded(pr.rain_loss_db(10, 50, 5.8, 0), 0.01) == pytest.approx(1.7394, abs=TOLERANCE_DB)
    assert pr.rain_loss_db(10, 0.0, 5.8) == 0.0


def exact_knife_edge_db(nu):
    s, c = scipy.special.fresnel(nu)
    return -20 * np.log10(np.sqrt((1 - c - s) ** 2 + (c - s) ** 2) / 2)


def test_knife_edge_stays_within_an_eighth_of_a_db_of_the_fresnel_integral():
    nu = np.linspace(-0.78, 10, 2000)
    assert worst(pr.knife_edge_loss_db(nu), exact_knife_edge_db(nu)) <= 0.125


def test_knife_edge_check_values():
    assert pr.knife_edge_loss_db(np.array([0.0, 1, 2])) == pytest.approx([6.0329, 13.9257, 19.0429], abs=TOLERANCE_DB)
    assert (pr.knife_edge_loss_db(np.array([-0.78, -1.0, -100.0])) == 0).all()


def test_gas_is_flat_within_a_thousandth_of_a_db_per_km(itu):
    total = values(itu.p676.gamma_exact(np.linspace(5.15, 5.875, 1000), 1013, 7.5, 288))
    assert worst(pr.gas_loss_db(1.0), total) <= 1e-3


def test_pointing_loss_agrees_with_the_main_lobe_of_f699():
    table = np.genfromtxt(Path(__file__).with_name("antenna_gain_f699.csv"), delimiter=",", skip_header=3)
    gain, offset = np.meshgrid([19.0, 23.0, 27.0, 30.0], table[:, 0])
    assert worst(pr.pointing_loss_db(offset, gain), gain - table[:, 1:], points=100) <= TOLERANCE_DB


def test_multipath_outage_agrees_with_itur(itu, monkeypatch):
    from astropy import units as u

    d, margin = np.meshgrid(np.linspace(5, 40, 40), np.linspace(5, 45, 30))
    monkeypatch.setattr(itu.p530, "DN65", lambda lat, lon, p: -400 * u.one)
    monkeypatch.setattr(itu.p530._ITU530_17_, "s_a", staticmethod(lambda lat, lon: 50.0))
    theirs = itu.p530._ITU530_17_.multipath_loss_for_A(45, 10, 50.0, 20.0, d, 5.5, margin)
    ours = pr.multipath_outage_pct(d, 5.5, margin, 20.0, 30.0 / d)
    assert worst(ours, np.clip(values(theirs), 0, 100)) <= 1e-6
    assert pr.multipath_outage_pct(4.99, 5.5, 10.0) == 0.0


def test_haversine_agrees_with_astropy_and_destination_inverts_it():
    from astropy.coordinates import angular_separation

    rng = np.random.default_rng(1)
    lat, lon = rng.uniform(-70, 70, 2000), rng.uniform(-180, 180, 2000)
    km, bearing = rng.uniform(0.15, 40, 2000), rng.uniform(0, 2 * np.pi, 2000)
    lat_b, lon_b = pr.destination(lat, lon, bearing, km)
    ours = pr.haversine_km(lat, lon, lat_b, lon_b)
    theirs = pr.EARTH_RADIUS_KM * angular_separation(*(np.radians(x) for x in (lon, lat, lon_b, lat_b)))
    assert worst(ours, theirs) <= 1e-6
    assert worst(ours, km) <= 1e-6
    assert pr.haversine_km(33.89, 35.50, 34.00, 35.60) == pytest.approx(15.3199, abs=1e-3)


def test_vegetation_follows_weissberger():
    assert pr.vegetation_loss_db(10.0, 5.5) == pytest.approx(0.45 * 5.5**0.284 * 10)
    assert pr.vegetation_loss_db(100.0, 5.5) == pytest.approx(1.33 * 5.5**0.284 * 100**0.588)
    depth = np.linspace(0, 400, 2000)
    loss = pr.vegetation_loss_db(depth, 5.5)
    assert loss[0] == 0 and (np.diff(loss) > -0.15).all()  # the two branches meet within .15 dB at 14 m
