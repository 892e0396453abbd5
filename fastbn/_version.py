"""The version, for the package and for `config_info`."""

__version__ = "0.1.0"
