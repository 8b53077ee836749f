"""UTD-MHAD: a subject of the training split is held out, the test subjects are never seen."""

from trials import (
    CONTROLS,
    CORE,
    FINE_TUNED,
    OF_GRADIENTS,
    OF_MODALITIES,
    SUMS,
    TAUGHT,
    Trial,
    with_adamw,
)

TRIAL = Trial(
    flags="--schedule cosine --no-tensorboard",
    validation="--val_speakers s7",
    rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    arms=(
        "joint --modalities inertial",
        "joint --modalities skeleton",
        *CORE,
        FINE_TUNED,
        *SUMS,
        *CONTROLS,
        *OF_GRADIENTS,
        *OF_MODALITIES,
        *TAUGHT,
        *with_adamw(CORE),
    ),
)
