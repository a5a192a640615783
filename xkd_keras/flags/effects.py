"""Flags of how peers teach each other, and to which methods each of them makes a difference."""

from collections.abc import Iterator, Mapping

from xkd_keras.flags import fields
from xkd_keras.flags.fields import Fields

_OF_WINDOWS = ("distill_period", "distill_duty", "distill_start", "distill_growth")
# Who listens to the flags of windows.
_USES = {"mcod": _OF_WINDOWS, "ramp": ("distill_start", "distill_growth")}
TEACHING = ("teacher", "teacher_peer", "distill_term", "temperature", "distill_weight_max")
TEACHING += (*_OF_WINDOWS, "distill_adapt", "distill_similarity", "exits")
# In what the methods of a study may differ. A search has none of `mix`, as it leaves solo out.
COMPARED = (*TEACHING, "mix")


def is_frozen(method: str, teacher: str) -> bool:
    """Whether a finished run teaches, which learns no more."""
    return teacher == "frozen" or (method, teacher) == ("kd", "auto")


def unused(method: str, teacher: str = Fields.teacher) -> set[str]:
    """Return the flags that make no difference to a method with a teacher."""
    own = {*TEACHING} - {"exits"} if method == "solo" else set()
    own |= {"distill_adapt" if is_frozen(method, teacher) else "teacher_peer"}
    return ({*_OF_WINDOWS} - {*_USES.get(method, ())}) | own


def users(name: str) -> str:
    """Return the methods that listen to a flag, where others have no use for it."""
    users = "teachers that learn" if name == "distill_adapt" else "teaching"
    return " and ".join(method for method, used in _USES.items() if name in used) or users


def without(config: Fields, own: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each flag that was given and makes no difference to this method.

    Args:
        config: Of a run.
        own: What the method itself sets, by the name of the flag: nobody gave that.
    """
    for name in sorted(unused(config.method, config.teacher)):
        flag = fields.field(name)
        if getattr(config, name) not in (flag.default, flag.metadata["usual"], own.get(name)):
            frozen = name == "distill_adapt" and config.teacher == "frozen"
            what = "--teacher=frozen" if frozen else f"--method={config.method}"
            yield f"--{name} has no effect on {what}; it applies to {users(name)}"
