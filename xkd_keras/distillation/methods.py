"""The methods of co-training by name: who teaches, and lambda at each step.

Every method minimises, for each peer i, with logits z_i, labels y and temperature T,

    L_i = CE(y, z_i) + r_i(t) lambda(t) T^2 KL(softmax(z_T,i / T) || softmax(z_i / T))

and is a choice of the teacher z_T,i (a name in `teachers`) and of lambda(t) (from `schedules`). A
function here takes a Course and returns both. r_i is 1, but where `adapt` is above 0 it is how far
those who teach have learned (`mastery`). `_OWN` has what else a method sets: `xkd` compares
features too (`similar`).
"""

import dataclasses

from xkd_keras.distillation import schedules


@dataclasses.dataclass(frozen=True)
class Course:
    """What the flags say about lambda, counted in steps.

    Attributes:
        distill_weight_max: The largest lambda.
        total: Steps of the whole training.
        start: Steps before the first period or the ramp.
        period: Steps of one period of `mcod`; it need not be whole.
        window: Steps of a period that distil.
        growth: A key of `schedules.GROWTHS`.
    """

    distill_weight_max: float
    total: int
    start: int = 0
    period: float = 1
    window: float = 1
    growth: str = "linear"


def solo(course: Course):
    """Each network alone, on the same batches: lambda = 0. What all others are compared to."""
    return "mean", schedules.Constant(0.0)


def mcod(course: Course):
    """Discontinuous distillation with progressively enhanced constraints, after the paper.

    z_T = sum_j w_j z_j; lambda(t) is 0 outside windows, and grows from window to window
    (`schedules.Windows`). Gao et al., Entropy 2019, 21(4), 357, of which we know the abstract: it
    has the ensemble as the teacher, discontinuity and growth. The formula of lambda is ours.
    """
    names = ("distill_weight_max", "total", "period", "window", "start", "growth")
    return "mean", schedules.Windows(*(getattr(course, name) for name in names))


def xkd(course: Course):
    """The others teach, each heard as far as it has learned: this project's method.

    z_T,i = sum_(j != i) w_j m_j z_j / sum_(j != i) w_j m_j and r_i = sum_(j != i) w_j m_j /
    sum_(j != i) w_j, with shares w_j and the mastery m_j = exp(-CE_j) of `mastery`; beside it
    the term of `similar`, by features. Where networks do not learn their images by heart, a weak
    one hardly disturbs a strong one; where they do, all are taught.
    """
    return "leave_one_out", schedules.Constant(course.distill_weight_max)


def ensemble(course: Course):
    """The same teacher all the time: lambda(t) = lambda_max."""
    return "mean", schedules.Constant(course.distill_weight_max)


def ramp(course: Course):
    """The same teacher, growing from step to step without windows (`schedules.Ramp`)."""
    steps = course.total - course.start
    return "mean", schedules.Ramp(course.distill_weight_max, steps, course.start, course.growth)


def dml(course: Course):
    """Deep Mutual Learning: the mean over the other peers j of KL(p_j || p_i), constant lambda.

    Zhang et al., CVPR 2018; there lambda = 1 and T = 1, and within a step each network is updated
    before the next one is taught. Here all are taught by what all said before the step.
    """
    return "pairwise", schedules.Constant(course.distill_weight_max)


def kdcl(course: Course):
    """Knowledge Distillation via Collaborative Learning: a teacher computed with the labels.

    The teachers `best`, `linear` and `min_logit` (the default) are its naive, linear and min-logit
    targets, with constant lambda. Guo et al., CVPR 2020; there T = 2, and each network sees another
    view of an image. Here all see the same.
    """
    return "min_logit", schedules.Constant(course.distill_weight_max)


def one(course: Course):
    """A learned gate mixes the peers' logits; its weight ramps up as exp(-5 (1 - t / t_0)^2).

    Lan et al., NeurIPS 2018; there T = 3 and, in the authors' code, t_0 is epoch 80 of 300. What is
    reported as the ensemble is the plain mean here, as for every method, not the gate's.
    """
    return "gate", schedules.Ramp(
        course.distill_weight_max, round(course.total * 80 / 300), 0, "sigmoid"
    )


def kd(course: Course):
    """Traditional distillation: a teacher trained before and frozen, with constant lambda.

    Hinton, Vinyals and Dean, 2015, section 2. The teacher is one peer or the ensemble of an earlier
    run. There the labels weigh much less than the teacher; here, by default, as much (lambda = 1).
    """
    return "frozen", schedules.Constant(course.distill_weight_max)


METHODS = {each.__name__: each for each in (xkd, mcod, solo, ensemble, ramp, dml, kdcl, one, kd)}
# What a method sets beside teacher and schedule, where nothing else is given.
_OWN = {"xkd": {"adapt": 1.0, "similarity": 1.5625}}


def own(method: str, name: str, given: float | None) -> float:
    """Return an option of a Cohort: what was given, else the method's own, else 0."""
    return _OWN.get(method, {}).get(name, 0.0) if given is None else given
