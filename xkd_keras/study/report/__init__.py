"""The report of a study: `write` makes its page, `table` its summary as text."""

from xkd_keras.study.report.document import table, write

__all__ = ["table", "write"]
