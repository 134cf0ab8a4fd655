"""How like real radiographs are the phantoms? Arrays in: statistics of unlabelled images, and distances of two.

Nothing here sees a grade. Compare images of one size: the real ones scaled down first, by PIL's bicubic filter.
"""

from __future__ import annotations

import numpy as np

from kneeclip.errors import KneeError

COLUMNS = {"medial": 0.76, "lateral": 0.24}  # where the joint space is measured, on a right knee
BANDS = 20


def statistics(images: np.ndarray, sides: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What can be measured of a set of radiographs without knowing their grades.

    Parameters
    ----------
    images : (N, S, S) uint8
        Square radiographs, of right knees unless `sides` says otherwise.
    sides : (N,) of "L" and "R", optional
        Left knees are mirrored first, so that medial is medial.

    Returns
    -------
    dict of arrays
        ``histogram`` (256,): share of the pixels at each grey level; ``brightness`` and ``spread`` (N,): mean and
        standard deviation of each image, in grey levels; ``frequency`` and ``spectrum`` (20,): cycles an image and
        the mean log power there, in dB; ``joint_line`` (N,): height of the joint, as a share of the image;
        ``gap_medial`` and ``gap_lateral`` (N,): full width of the joint space at half its depth, in pixels, nan
        where no valley is found; ``mean_image`` (S, S): mean of the images, each first scaled to mean 0 and
        variance 1.

    Raises
    ------
    KneeError
        For anything but a stack of square uint8 images.

    Notes
    -----
    Notebook: 01. The full width at half maximum is the usual measure of a blurred slit; the columns are ours.
    """
    images = np.asarray(images)
    if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1] != images.shape[2] or not len(images):
        raise KneeError(
            "the images are no stack of square grey ones", f"{images.dtype} {images.shape}", "give (N, S, S) uint8"
        )
    if sides is not None:
        images = np.where((np.asarray(sides) == "L")[:, None, None], images[:, :, ::-1], images)
    flat = images.reshape(len(images), -1)
    brightness, spread = flat.mean(1), flat.std(1)
    frequency, spectrum = _spectrum(images)
    found = {}
    lines = []
    for name, at in COLUMNS.items():
        found[f"gap_{name}"], middle = joint_gap(images, at)
        lines.append(middle)
    scaled = np.zeros(images.shape[1:])
    for start in range(0, len(images), 256):  # floats of all images at once would fill a small laptop
        part = slice(start, start + 256)
        centred = images[part] - brightness[part, None, None]
        scaled += (centred / np.maximum(spread[part], 1.0)[:, None, None]).sum(0)
    return {
        "histogram": np.bincount(flat.ravel(), minlength=256) / flat.size,
        "brightness": brightness,
        "spread": spread,
        "frequency": frequency,
        "spectrum": spectrum,
        "joint_line": np.mean(lines, 0) / images.shape[1],
        **found,
        "mean_image": scaled / len(images),
    }


def joint_gap(images: np.ndarray, column: float) -> tuple[np.ndarray, np.ndarray]:
    """Width and height of the joint space in one strip of columns.

    Parameters
    ----------
    images : (N, S, S) uint8
    column : float
        Middle of the strip, as a share of the width; the strip is 4 % of the width broad.

    Returns
    -------
    width, middle : (N,) float
        In pixels; nan where the profile has no valley at least 2 grey levels deep.

    Notes
    -----
    Notebook: 01. The valley is the darkest row between .48 and .70 of the height; each flank's half level lies
    between the valley and the brightest row within .09 of the height on that side.
    """
    size = images.shape[1]
    half = max(1, round(0.02 * size))
    centre = round(column * size)
    profile = images[:, :, centre - half : centre + half + 1].mean(2)
    lo, hi, reach = round(0.48 * size), round(0.70 * size), round(0.09 * size)
    valley = profile[:, lo:hi].argmin(1) + lo
    width, middle = np.full(len(images), np.nan), np.full(len(images), np.nan)
    for i, v in enumerate(valley):
        p = profile[i]
        edges = []
        for step in (-1, 1):
            flank = p[v : v + step * (reach + 1) : step]
            top = int(flank.argmax())
            level = (flank[0] + flank[top]) / 2
            if flank[top] - flank[0] < 2:
                break
            k = int(np.argmax(flank >= level))  # the first row at or above the half level
            edges.append(v + step * (k - (flank[k] - level) / (flank[k] - flank[k - 1])))
        if len(edges) == 2:
            width[i], middle[i] = edges[1] - edges[0], (edges[0] + edges[1]) / 2
    return width, middle


def distances(real: dict, phantom: dict) -> dict[str, float]:
    """How far two sets of `statistics` lie apart.

    Parameters
    ----------
    real, phantom : dict
        From `statistics`, of images of one size.

    Returns
    -------
    dict of float
        ``histogram_w1``: Wasserstein-1 distance of the grey levels, in grey levels; ``brightness_w1`` and
        ``spread_w1``: the same for the images' means and standard deviations; ``spectrum_db``: root mean square
        difference of the log spectra, in dB; ``joint_line_mean`` and ``joint_line_sd``: phantom minus real, as a
        share of the height; ``gap_medial_q25`` to ``gap_lateral_q75``: phantom minus real quartile, in pixels;
        ``mean_image_r``: correlation of the mean images (1 is best); ``mean_image_rmse``: in standard deviations.

    Notes
    -----
    Notebook: 01.
    """
    if real["mean_image"].shape != phantom["mean_image"].shape:
        shapes = [str(real["mean_image"].shape), str(phantom["mean_image"].shape)]
        raise KneeError("the two sets of images differ in size", shapes, "scale the larger ones down first")
    out = {"histogram_w1": float(np.abs(np.cumsum(real["histogram"] - phantom["histogram"])).sum())}
    for name in ("brightness", "spread"):
        # not scipy's wasserstein_distance: the stored figures leave out the outermost half per cent of the films
        q = np.linspace(0.005, 0.995, 199)
        out[f"{name}_w1"] = float(np.abs(np.quantile(real[name], q) - np.quantile(phantom[name], q)).mean())
    out["spectrum_db"] = float(np.sqrt(np.mean((real["spectrum"] - phantom["spectrum"]) ** 2)))
    for name, f in (("mean", np.nanmean), ("sd", np.nanstd)):
        out[f"joint_line_{name}"] = float(f(phantom["joint_line"]) - f(real["joint_line"]))
    for side in COLUMNS:
        for q in (25, 50, 75):
            r, p = (np.nanpercentile(s[f"gap_{side}"], q) for s in (real, phantom))
            out[f"gap_{side}_q{q}"] = float(p - r)
    a, b = real["mean_image"].ravel(), phantom["mean_image"].ravel()
    out["mean_image_r"] = float(np.corrcoef(a, b)[0, 1])
    out["mean_image_rmse"] = float(np.sqrt(np.mean((a - b) ** 2)))
    return out


def compare(real: np.ndarray, phantom: np.ndarray, *, real_sides=None, phantom_sides=None) -> dict:
    """Statistics of real and phantom images and their distances.

    Parameters
    ----------
    real, phantom : (N, S, S) and (M, S, S) uint8
    real_sides, phantom_sides : (N,) and (M,) of "L" and "R", optional
        Without them every knee is taken for a right one.

    Returns
    -------
    dict
        ``real`` and ``phantom``: as `statistics` gives them; ``distances``: as `distances` gives them.

    Notes
    -----
    Notebook: 01.
    """
    r, p = statistics(real, real_sides), statistics(phantom, phantom_sides)
    return {"real": r, "phantom": p, "distances": distances(r, p)}


def _spectrum(images):
    """Mean log power (dB) in rings of equal width in log frequency."""
    size = images.shape[1]
    window = np.hanning(size)[:, None] * np.hanning(size)
    f = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(*np.meshgrid(f, f[: size // 2 + 1], indexing="ij"))
    edges = np.geomspace(1.5, size / 2, BANDS + 1)
    ring = np.digitize(radius, edges) - 1
    inside = (ring >= 0) & (ring < BANDS)
    count = np.bincount(ring[inside], minlength=BANDS)
    total = np.zeros(BANDS)
    for image in images:
        x = (image - image.mean()) * window
        power = np.abs(np.fft.rfft2(x)) ** 2 / size**2
        mean = np.bincount(ring[inside], weights=power[inside], minlength=BANDS) / np.maximum(count, 1)
        total += 10 * np.log10(mean + 1e-3)
    ok = count > 0
    return np.sqrt(edges[1:] * edges[:-1])[ok], (total / len(images))[ok]
