"""The report of a study: `write` makes its page, `table` its summary as text, `warnings` doubts."""

from xkd_keras.study.report.document import table, write
from xkd_keras.study.report.reach import warnings

__all__ = ["table", "warnings", "write"]
