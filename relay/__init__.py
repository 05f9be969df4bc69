"""itscope-relay: accepts each ITscope webhook once and delivers it to every system that wants it."""

__version__ = "0.1.0"
