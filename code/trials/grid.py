"""GRID with one speaker: no test of unheard ones, so every seed has a random split of its own."""

from trials import OF_ALL, Trial

TRIAL = Trial(
    flags="--random_split --encoder cnn --schedule cosine --no-tensorboard",
    validation="--val_fraction 0.2",
    arms=(
        "joint --modalities audio",
        "joint --modalities visual",
        *OF_ALL,
    ),
)
