"""scikit-learn's StandardScaler with statistics that keep every digit, and that merge.

Means, variances and passes over data are fastbn's. What an estimator is, which input it takes and
how a message reads is scikit-learn's.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils import assert_all_finite, check_array, check_consistent_length
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "fastbn.adapters.sklearn needs scikit-learn 1.6 or newer: pip install 'fastbn[sklearn]'"
    ) from error

import fastbn

from ._records import STATS, pack, stats_of, unpack

__all__ = ["StandardScaler"]

_EPS = np.finfo(np.float64).eps
_DTYPES = (np.float64, np.float32, np.float16)
_LARGE = 1 << 22  # values
_COPIED = 1 << 23  # values, 64 MB, of columns that have NaN and are copied at once


# What a scaler has seen are records, one a column: columns that have NaN have counts of their own.


def _merged(records: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The records of all rows: columns of equal counts are merged at once."""
    counts = np.stack([part[name] for part in (records, others) for name in ("count", "count_low")])
    result, remaining = np.empty_like(records), np.ones(records.size, bool)
    while remaining.any():
        first = counts[:, remaining.argmax(), None]
        equal = remaining & (counts == first).all(axis=0)
        result[equal] = pack(unpack(records[equal]) + unpack(others[equal]))
        remaining &= ~equal
    return result


def _is_dask(X) -> bool:
    """Whether X is a Dask array; nobody has one who has not imported Dask."""
    dask = sys.modules.get("dask.array")
    return dask is not None and isinstance(X, dask.Array)


def _seen(X: Any, weights: Any) -> np.ndarray:
    """The records of an array of two axes; NaN is left out."""
    whole = _stats_of_dask(X, weights) if _is_dask(X) else stats_of(X, (1,), weights)
    if not whole.count:
        raise ValueError("sample_weight should contain a weight above 0, got zeros")
    records, bad = pack(whole), np.flatnonzero(~np.isfinite(whole.mean))
    if bad.size and _is_dask(X):
        records[bad] = _of_dask_without_nan(X[:, bad], weights)
    elif bad.size:
        step = max(1, _COPIED // len(X))
        for some in np.split(bad, range(step, len(bad), step)):
            records[some] = _of_array_without_nan(X[:, some].astype(np.float64), weights)
    infinite = bad[~np.isfinite(records["mean"][bad])]
    if infinite.size:
        raise ValueError(f"Input X contains infinity in columns {infinite.tolist()}")
    return records


def _stats_of_dask(X: Any, weights: Any) -> fastbn.Stats:
    """Statistics of a Dask array's columns."""
    from .dask import batch_stats

    return batch_stats(X.astype(np.float64), weights=weights).compute()


def _of_dask_without_nan(X: Any, weights: Any) -> np.ndarray:
    """The records of columns that have NaN; each of its three or four passes reads them once."""
    import dask
    import dask.array as da

    missing = da.isnan(X)
    rows = 1.0 if weights is None else da.asarray(weights)[:, None]
    sums = ((where * rows).sum(axis=0) for where in (missing, ~missing))
    k, n = dask.compute(*sums)
    return _without_nan(k, n, lambda fill: _stats_of_dask(da.where(missing, fill, X), weights))


def _of_array_without_nan(x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The records of columns that have NaN, which is overwritten."""
    missing = np.isnan(x)
    if weights is None:
        k = missing.sum(axis=0)
        n = len(x) - k
    else:
        k, n = (weights @ where.astype(np.float64) for where in (missing, ~missing))

    def filled(fill):
        np.copyto(x, fill, where=missing)
        return fastbn.batch_stats(x, weights=weights)

    return _without_nan(k, n, filled)


def _without_nan(k: np.ndarray, n: np.ndarray, filled: Callable) -> np.ndarray:
    """The records of columns of which k rows are NaN and n are not, from statistics with a fill.

    Of W rows, k of which have a fill c, the mean is c + d for some d. That of the others, n, is
    c + d W / n, and their sum of squared deviations is less by d^2 k W / n. Their mean is the next
    fill, until that is less than rounding.
    """
    fill, records = np.zeros(n.size), np.zeros(n.size, STATS)
    with np.errstate(all="ignore"):
        for _ in range(3):
            stats = filled(fill)
            d = (stats.mean - fill) + pack(stats)["mean_low"]
            step, more = d * (stats.count / n), d * d * (k * (stats.count / n))
            mean = fill + step
            records["mean"], records["mean_low"] = mean, step - (mean - fill)
            if ((more <= _EPS * stats.m2) | (n == 0)).all():
                break
            fill = mean
    records["count"], records["m2"] = n, stats.m2
    records[n == 0] = 0.0
    return records


class StandardScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """scikit-learn's `sklearn.preprocessing.StandardScaler`, exact and fast, for dense data.

    ``(X - mean_) / scale_``, column by column. Arguments, attributes and methods are those of
    scikit-learn's; `merge` joins scalers that were fitted on parts of the data.

    Parameters
    ----------
    copy : bool, default True
        False lets `transform` and `inverse_transform` write into arrays of floats.
    with_mean : bool, default True
        Whether to subtract the mean.
    with_std : bool, default True
        Whether to divide by the standard deviation.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,), or None
        float64. None if neither the mean nor the deviation is asked for.
    var_ : ndarray of shape (n_features,), or None
        float64, the population variance. None without `with_std`.
    scale_ : ndarray of shape (n_features,), or None
        The root of `var_`; 1 where a column is constant to rounding, by scikit-learn's rule:
        ``var <= n eps var + (n mean eps)^2``. None without `with_std`.
    n_samples_seen_ : int, float, or ndarray of shape (n_features,)
        Rows, or their total weight; an array where columns differ, because they have NaN.
    n_features_in_, feature_names_in_
        As of every estimator.

    Notes
    -----
    NaN is left out when fitting, and stays in what is transformed. Infinity and sparse input are
    errors. float32 and float16 are summed in float64, and transformed as what they are.

    The variance of float64 columns is right to 1e-13 at means of 1e8 deviations, in one `fit` or in
    10,000 calls of `partial_fit`: see `fastbn.Stats` (Chan, Golub & LeVeque 1983). `var_` of a
    constant column is 0.

    `fit`, `partial_fit` and `transform` take Dask arrays, too, whose chunks are read one by one;
    `transform` and `inverse_transform` return such ones, lazily.

    Examples
    --------
    Features from 0 to 1 beside features from 1 to 100:

    >>> import numpy as np
    >>> from fastbn.adapters.sklearn import StandardScaler
    >>> X = np.array([[0.0, 1.0], [0.5, 50.5], [1.0, 100.0]])
    >>> scaler = StandardScaler().fit(X)
    >>> scaler.mean_
    array([ 0.5, 50.5])
    >>> scaler.transform(X).round(3)
    array([[-1.225, -1.225],
           [ 0.   ,  0.   ],
           [ 1.225,  1.225]])
    >>> parts = [StandardScaler().fit(X[:2]), StandardScaler().fit(X[2:])]
    >>> bool(np.all(parts[0].merge(parts[1]).var_ == scaler.var_))
    True
    """

    def __init__(self, *, copy=True, with_mean=True, with_std=True):
        self.copy = copy
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(self, X, y=None, sample_weight=None):
        """Take means and variances of columns, and forget those of before.

        Parameters
        ----------
        X : array_like or dask.array.Array of shape (n_samples, n_features)
            Real numbers; NaN is left out.
        y : None
            Not used.
        sample_weight : float or array_like of shape (n_samples,), optional
            How often each row counts, at least 0; need not be whole.

        Returns
        -------
        StandardScaler
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, shape or range; what was fitted stays.
        """
        return self._fit(X, sample_weight, first=True)

    def partial_fit(self, X, y=None, sample_weight=None):
        """Take more rows into means and variances; arguments as of `fit`.

        The result is that of one `fit` of all rows, whatever their parts and order.
        """
        return self._fit(X, sample_weight, first=not hasattr(self, "n_samples_seen_"))

    def _fit(self, X, sample_weight, first: bool):
        for name in ("copy", "with_mean", "with_std"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} should be True or False, got {getattr(self, name)!r}")
        before = dict(self.__dict__)
        try:
            X = self._validated(X, reset=first)
            weights = None if sample_weight is None else _checked_weights(sample_weight, X)
            seen = _seen(X, weights)
        except Exception:
            self.__dict__.clear()
            self.__dict__.update(before)  # the number of features and their names
            raise
        real = weights is not None
        if not first:
            seen, real = _merged(self._seen, seen), real or self.n_samples_seen_.dtype.kind == "f"
        return self._keep(seen, real)

    def _validated(self, X, reset: bool):
        """What scikit-learn makes of an input; of a Dask array, what it thinks of its shape."""
        given = {"dtype": _DTYPES, "ensure_all_finite": False, "reset": reset}
        if not _is_dask(X):
            return validate_data(self, X, **given)
        validate_data(self, np.zeros((int(X.shape[0] != 0), *X.shape[1:]), X.dtype), **given)
        return X

    def _keep(self, seen: np.ndarray, real: bool):
        """Set the attributes; counts are real numbers where there were weights."""
        self._seen = seen
        count, mean, m2 = (seen[name].copy() for name in ("count", "mean", "m2"))
        self.n_samples_seen_ = count if np.ptp(count) else count[0]
        if not real:
            self.n_samples_seen_ = self.n_samples_seen_.astype(np.int64)
        self.mean_ = self.var_ = self.scale_ = None
        if self.with_mean or self.with_std:
            self.mean_ = np.where(count > 0, mean, np.nan)
        if self.with_std:
            with np.errstate(all="ignore"):
                self.var_ = var = m2 / count
                constant = var <= count * _EPS * var + (count * mean * _EPS) ** 2
            self.scale_ = np.where(constant, 1.0, np.sqrt(var))
        return self

    def merge(self, *others):
        """Join what other scalers have seen, as if this one had been fitted on all of the data.

        Parameters
        ----------
        *others : StandardScaler
            Fitted, on the same features. Their arguments may differ.

        Returns
        -------
        StandardScaler
            Itself; it need not have been fitted.

        Raises
        ------
        TypeError, ValueError
            If one is no such scaler, is not fitted, or has other features; nothing is changed.
        """
        fitted = [self] if hasattr(self, "n_samples_seen_") else []
        for other in others:
            if not isinstance(other, StandardScaler):
                kind = f"{type(other).__module__}.{type(other).__name__}"
                raise TypeError(f"others should be StandardScalers of fastbn, got {kind}")
            check_is_fitted(other)
            fitted.append(other)
        if not fitted:
            raise ValueError("others should contain a fitted scaler, got none")
        features = [_features(scaler) for scaler in fitted]
        for each in features[1:]:
            if each != features[0]:
                raise ValueError(
                    f"others should all have the same features, got {features[0]} and {each}"
                )
        self.n_features_in_ = fitted[0].n_features_in_
        if hasattr(fitted[0], "feature_names_in_"):
            self.feature_names_in_ = fitted[0].feature_names_in_
        seen = fitted[0]._seen
        for other in fitted[1:]:
            seen = _merged(seen, other._seen)
        return self._keep(seen, any(each.n_samples_seen_.dtype.kind == "f" for each in fitted))

    def transform(self, X, copy=None):
        """Center and scale.

        Parameters
        ----------
        X : array_like or dask.array.Array of shape (n_samples, n_features)
            Real numbers, or NaN.
        copy : bool, optional
            In place of the argument of the scaler.

        Returns
        -------
        ndarray or dask.array.Array of shape (n_samples, n_features)
            Of X's dtype; float64 for integers. Of a Dask array a lazy one, with its chunks.

        Raises
        ------
        TypeError, ValueError
            If `X` is of the wrong kind or shape or contains infinity (of a Dask array the latter
            is not looked for), or the scaler is not fitted; nothing is changed.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        mean = self.mean_ if self.with_mean else np.zeros(X.shape[1])
        with np.errstate(all="ignore"):
            weight = 1.0 / self.scale_ if self.with_std else None
        return self._normalize(X, copy, mean, weight, None)

    def inverse_transform(self, X, copy=None):
        """Undo `transform`; arguments, result and errors as there."""
        check_is_fitted(self)
        weight = self.scale_ if self.with_std else None
        bias = self.mean_ if self.with_mean else None
        if not _is_dask(X):  # names are those of what was transformed, if there are any
            X = check_array(X, dtype=_DTYPES, ensure_all_finite=False, input_name="X")
        # Attributes set by hand do without the number of features.
        features = getattr(self, "n_features_in_", X.shape[-1])
        if X.ndim != 2 or X.shape[1] != features:
            raise ValueError(f"X should have shape (n_samples, {features}), got {X.shape}")
        return self._normalize(X, copy, np.zeros(features), weight, bias)

    def _normalize(self, X, copy, mean, weight, bias):
        """(X - mean) * weight + bias."""
        stats = mean, np.ones_like(mean)
        if _is_dask(X):
            from .dask import batch_norm

            return batch_norm(X, weight, bias, eps=0.0, stats=stats)
        # Large arrays are looked at on all cores first.
        if X.size < _LARGE or not np.isfinite(fastbn.batch_stats(X).mean).all():
            assert_all_finite(X, allow_nan=True, input_name="X")
        copy = self.copy if copy is None else copy
        out = None if copy or not X.flags.writeable else X
        return fastbn.normalize(X, stats, weight, bias, eps=0.0, out=out)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _features(scaler: StandardScaler) -> list:
    """The features that a scaler has seen: names where there are, else their number."""
    names = getattr(scaler, "feature_names_in_", None)
    return [scaler.n_features_in_] if names is None else names.tolist()


def _checked_weights(sample_weight, X) -> Any:
    """One weight a row, float64; of a Dask array as they come, for its adapter to check."""
    if _is_dask(X):
        if np.isscalar(sample_weight):
            return np.full(1, sample_weight)  # which is repeated
        if np.ndim(sample_weight) != 1:
            shape = np.shape(sample_weight)
            raise ValueError(f"sample_weight should have one axis, got shape {shape}")
        return sample_weight
    if np.isscalar(sample_weight):
        sample_weight = np.full(len(X), sample_weight)
    weights = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weights.ndim != 1:
        raise ValueError(f"sample_weight should have one axis, got shape {weights.shape}")
    check_consistent_length(X, weights)
    return weights
