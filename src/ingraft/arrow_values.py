"""Values of Arrow tables in Python's types, which have no room for every date, span of time and time zone."""

from __future__ import annotations

# What pyarrow raises for such a value, besides errors of its own: ValueError and OverflowError for dates beyond
# Python's, KeyError for a time zone that nobody knows, TypeError for keys of maps that are no keys, and
# NotImplementedError for types that have no counterpart at all.
NO_COUNTERPART = (ValueError, OverflowError, KeyError, TypeError, NotImplementedError)
