"""UTD-MHAD: a subject of the training split is held out, the test subjects are never seen."""

from trials import OF_ALL, Trial

TRIAL = Trial(
    flags="--schedule cosine --no-tensorboard",
    validation="--val_speakers s7",
    arms=(
        "joint --modalities inertial",
        "joint --modalities skeleton",
        *OF_ALL,
    ),
)
