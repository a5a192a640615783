"""The report of a study: `write` makes its page, `table` its summary as text, `warnings` doubts."""

from xkd_keras.study.report.document import table, write
from xkd_keras.study.report.reach import ONE_SEED, few_images, warnings

__all__ = ["ONE_SEED", "few_images", "table", "warnings", "write"]
