"""GRID with one speaker: no test of unheard ones, so every seed has a random split of its own."""

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
    flags="--random_split --encoder cnn --schedule cosine --no-tensorboard",
    validation="--val_fraction 0.2",
    rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    arms=(
        "joint --modalities audio",
        "joint --modalities visual",
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
