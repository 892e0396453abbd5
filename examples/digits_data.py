"""scikit-learn's 1,797 scanned digits of 8 x 8 pixels, and ways to spoil them."""

import numpy as np
from sklearn.datasets import load_digits

TRAINING_SCANS = 1500


def load_pixels():
    """((x, labels) for training, (x, labels) for testing); pixels from 0 (paper) to 1 (ink)."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, labels = (pixels[order] / 16).astype(np.float32), labels[order]
    parts = slice(TRAINING_SCANS), slice(TRAINING_SCANS, None)
    return tuple((x[part], labels[part]) for part in parts)


def load_scans():
    """As `load_pixels`, less the mean of each pixel in training."""
    (x, labels), (test, test_labels) = load_pixels()
    mean = x.mean(axis=0)
    return (x - mean, labels), (test - mean, test_labels)


def noise(x, deviation):
    """Normal noise on every pixel, the same at each call."""
    drawn = np.random.default_rng(3).standard_normal(x.shape, dtype=np.float32)
    return np.clip(x + np.float32(deviation) * drawn, 0, 1)


def contrast(x, kept):
    """What is left of each pixel's distance from mid-grey."""
    return np.float32(0.5) + np.float32(kept) * (x - np.float32(0.5))


def inversion(x, share):
    """A blend of the scan with its negative."""
    return np.float32(1 - share) * x + np.float32(share) * (1 - x)


def shifted_frame(x, pixels):
    """The digit moved to the right; paper comes in from the left."""
    moved = np.zeros_like(x).reshape(-1, 8, 8)
    moved[:, :, pixels:] = x.reshape(-1, 8, 8)[:, :, :-pixels]
    return moved.reshape(x.shape)


# kind: (what does it, strengths from mild to strong, what they are, how one reads)
CORRUPTIONS = {
    "noise": (noise, (0.2, 0.4, 0.6), "deviation of the noise", "{:g}"),
    "contrast": (contrast, (0.5, 0.25, 0.1), "contrast that is left", "{:.0%}"),
    "inversion": (inversion, (0.2, 0.4, 1.0), "share of the negative", "{:.0%}"),
    "shifted frame": (shifted_frame, (1, 2, 3), "pixels to the right", "{:g} px"),
}
