"""Settings of fair trials: one file per data set, chosen by `trial.py --dataset <file name>`.

A file `trials/X.py` exports a `TRIAL`. Its arms are as sweep.py takes them, `method --flag value`.
"""

from dataclasses import dataclass

CORE = (
    "joint",
    "uniform",
    "uniform --encoder_grad_scale 1.5",
    "mmpareto --rescale encoder",  # the paper's text
    "mmpareto",  # the published code
)
SUMS = (  # of losses, or of gradients, with weights that are given
    "uniform --encoder_grad_scale 2",
    "uniform --encoder_grad_scale 3",
    "uniform --unimodal_weight 2",
    "uniform --unimodal_weight 4",
    "dgl --dgl_alpha 1",  # encoders are fed by unimodal losses alone
)
CONTROLS = ("pareto", "mmpareto --gamma 1", "mmpareto --gamma 2", "random_in_conflict", "rlw")
OF_GRADIENTS = (
    "pcgrad",
    "upgrad",
    "cagrad",
    "imtl_g",
    "aligned_mtl",
    "nash_mtl",
    "gradnorm",
    "metabalance",
    "mgda_ub",
)
OF_MODALITIES = ("dgl", "ogm", "ogm_ge", "agm", "pmr", "g_blending")
# {alone}: the runs of each modality
FINE_TUNED = "joint --init_encoders {alone}"
TAUGHT = ("umt --umt_teachers {alone}", "umt --umt_teachers {alone} --umt_weight 10")


def with_adamw(arms: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{arm} --optimizer adamw" for arm in arms)


OF_ALL = (  # modalities; each alone comes before them
    *CORE,
    FINE_TUNED,
    *SUMS,
    *CONTROLS,
    *OF_GRADIENTS,
    *OF_MODALITIES,
    *TAUGHT,
    *with_adamw(CORE),
)


@dataclass(frozen=True)
class Trial:
    """flags: train.py's, of every run. validation: what is held out while rates are chosen. rates:
    those that every arm tries, by a factor of 2; more are tried where the best one is at an end."""

    flags: str
    validation: str
    arms: tuple[str, ...]
    rates: tuple[float, ...] = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
    tuning_seeds: tuple[int, ...] = (100, 101, 102)
    seeds: tuple[int, ...] = tuple(range(20))
