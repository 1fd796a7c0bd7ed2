"""Path losses of an outdoor 5 GHz link: free space, gas, rain, obstacles, trees, pointing, multipath.

Everything takes numbers or arrays that broadcast. Distances km (or m where named), frequencies as named, losses dB.
"""

from __future__ import annotations

import numpy as np

from linklab.radio.arrays import Numbers

C_M_S = 299_792_458.0
EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG
GAS_DB_KM = 0.009  # ITU-R P.676: oxygen and water vapour at 5-6 GHz, sea level; flat within .001 dB/km


def haversine_km(lat_a: Numbers, lon_a: Numbers, lat_b: Numbers, lon_b: Numbers) -> Numbers:
    """Great-circle distance in km between points in degrees: (33.89, 35.50) -> (34.00, 35.60) is 15.3199 km."""
    lat_a, lon_a, lat_b, lon_b = (np.radians(x) for x in (lat_a, lon_a, lat_b, lon_b))
    h = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(h))


def destination(
    lat: Numbers, lon: Numbers, bearing_rad: Numbers, distance_km: Numbers
) -> tuple[np.ndarray, np.ndarray]:
    """Point in degrees reached from (lat, lon) along a great circle; the inverse of `haversine_km`."""
    lat, lon, arc = np.radians(lat), np.radians(lon), distance_km / EARTH_RADIUS_KM
    lat_b = np.arcsin(np.sin(lat) * np.cos(arc) + np.cos(lat) * np.sin(arc) * np.cos(bearing_rad))
    east = np.sin(bearing_rad) * np.sin(arc) * np.cos(lat)
    lon_b = lon + np.arctan2(east, np.cos(arc) - np.sin(lat) * np.sin(lat_b))
    return np.degrees(lat_b), np.degrees(lon_b)


def free_space_loss_db(distance_km: Numbers, frequency_mhz: Numbers) -> Numbers:
    """Free-space basic transmission loss in dB, ITU-R P.525-4 eq. 3: 5 km at 5180 MHz -> 120.7138."""
    return 20 * np.log10(4e9 * np.pi / C_M_S * distance_km * frequency_mhz)


def gas_loss_db(distance_km: Numbers) -> Numbers:
    """Gaseous attenuation in dB, ITU-R P.676 near sea level, valid at 5-6 GHz."""
    return GAS_DB_KM * distance_km


# ITU-R P.838-3 tables 1-4: rows a, b, c of the Gaussian terms, then slope m and constant c0.
_KH = ((-5.33980, -0.35351, -0.23789, -0.94158), (-0.10008, 1.26970, 0.86036, 0.64552),
       (1.13098, 0.45400, 0.15354, 0.16817), -0.18961, 0.71147)  # fmt: skip
_KV = ((-3.80595, -3.44965, -0.39902, 0.50167), (0.56934, -0.22911, 0.73042, 1.07319),
       (0.81061, 0.51059, 0.11899, 0.27195), -0.16398, 0.63297)  # fmt: skip
_AH = ((-0.14318, 0.29591, 0.32177, -5.37610, 16.1721), (1.82442, 0.77564, 0.63773, -0.96230, -3.29980),
       (-0.55187, 0.19822, 0.13164, 1.47828, 3.43990), 0.67849, -1.95537)  # fmt: skip
_AV = ((-0.07771, 0.56727, -0.20238, -48.2991, 48.5833), (2.33840, 0.95545, 1.14520, 0.791669, 0.791459),
       (-0.76284, 0.54039, 0.26809, 0.116226, 0.116479), -0.053739, 0.83433)  # fmt: skip


def _p838_fit(lg_f: Numbers, table: tuple) -> np.ndarray:
    a, b, c, slope, constant = table
    lg_f = np.asarray(lg_f, float)[..., None]
    return (np.array(a) * np.exp(-(((lg_f - b) / np.array(c)) ** 2))).sum(-1) + slope * lg_f[..., 0] + constant


def rain_coefficients(frequency_ghz: Numbers, tilt_deg: float = 45.0) -> tuple[np.ndarray, np.ndarray]:
    """k and alpha of gamma = k R^alpha of a level path, ITU-R P.838-3 eqs. 2-5, 1-1000 GHz.

    `tilt_deg`: 0 horizontal, 90 vertical, 45 both at once (dual-polarised links). 5.2 GHz, 0 -> 2.72362e-4, 1.681530
    """
    lg_f = np.log10(frequency_ghz)
    k_h, k_v = 10 ** _p838_fit(lg_f, _KH), 10 ** _p838_fit(lg_f, _KV)
    a_h, a_v = _p838_fit(lg_f, _AH), _p838_fit(lg_f, _AV)
    mix = np.cos(2 * np.radians(tilt_deg))
    k = (k_h + k_v + (k_h - k_v) * mix) / 2
    return k, (k_h * a_h + k_v * a_v + (k_h * a_h - k_v * a_v) * mix) / (2 * k)


def rain_loss_db(
    distance_km: Numbers,
    rain_mm_h: Numbers,
    frequency_ghz: Numbers,
    tilt_deg: float = 45.0,
    coefficients: tuple[Numbers, Numbers] | None = None,
) -> Numbers:
    """Attenuation in dB of rain over a whole path, ITU-R P.530-17 eqs. 32-33: gamma d r, r at most 2.5.

    Defined for the rain rate exceeded .01 % of the time, 1-100 GHz, paths to 60 km; used here with the present rate.
    Drizzle on long paths makes eq. 32 negative; then r = 2.5 too.
    `coefficients`: (k, alpha) if the caller has already computed them.
    """
    k, alpha = rain_coefficients(frequency_ghz, tilt_deg) if coefficients is None else coefficients
    rain = np.asarray(rain_mm_h, float)
    inverse_r = 0.477 * np.power(distance_km, 0.633) * np.power(rain, 0.073 * alpha) * np.power(frequency_ghz, 0.123)
    inverse_r = inverse_r - 10.579 * (1 - np.exp(-0.024 * distance_km))
    return k * np.power(rain, alpha) * distance_km / np.maximum(inverse_r, 1 / 2.5)


def knife_edge_loss_db(nu: Numbers) -> np.ndarray:
    """Single knife-edge diffraction loss in dB, ITU-R P.526-15 eq. 31; 0 up to nu = -.78.

    Within .13 dB of the Fresnel integral from there on.
    """
    v = np.maximum(nu, -0.78) - 0.1
    return np.where(np.asarray(nu) > -0.78, 6.9 + 20 * np.log10(np.sqrt(v * v + 1) + v), 0.0)


def vegetation_loss_db(depth_m: Numbers, frequency_ghz: Numbers) -> np.ndarray:
    """Loss in dB through `depth_m` of trees in leaf, Weissberger's modified exponential decay, .23-95 GHz, 0-400 m."""
    near = 0.45 * np.power(frequency_ghz, 0.284) * depth_m
    far = 1.33 * np.power(frequency_ghz, 0.284) * np.power(depth_m, 0.588)
    return np.where(np.asarray(depth_m) <= 14.0, near, far)


def pointing_loss_db(offset_deg: Numbers, antenna_gain_dbi: Numbers) -> np.ndarray:
    """Loss in dB of an antenna `offset_deg` off its axis, main lobe of ITU-R F.1245: 20 lg(D/lambda) = G - 7.7."""
    return 2.5e-3 * 10 ** ((antenna_gain_dbi - 7.7) / 10) * np.square(offset_deg)


def multipath_outage_pct(
    distance_km: Numbers,
    frequency_ghz: Numbers,
    fade_margin_db: Numbers,
    lower_antenna_m: Numbers = 20.0,
    inclination_mrad: Numbers = 0.0,
) -> np.ndarray:
    """Share in % of the worst month with a fade deeper than the margin, ITU-R P.530-17 eqs. 7-8; 0 below 5 km.

    Refractivity gradient dN1 = -400 N-units/km and terrain roughness s_a = 50 m: a temperate, inland default.
    """
    geoclimatic = 10 ** (-4.4 - 0.0027 * -400.0) * (10 + 50.0) ** -0.46
    share = geoclimatic * np.power(distance_km, 3.4) * (1 + np.abs(inclination_mrad)) ** -1.03
    share = share * np.power(frequency_ghz, 0.8) * 10 ** (-0.00076 * lower_antenna_m - np.asarray(fade_margin_db) / 10)
    return np.where(np.asarray(distance_km) < 5.0, 0.0, np.clip(share, 0.0, 100.0))
