"""UTD-MHAD: 27 actions, by an inertial sensor at wrist or thigh and by the joints of a skeleton."""

import dataset


class Dataset(dataset.Dataset):
    """inertial/<id>.npy (T, 6), skeleton/<id>.npy (T, 60), T times each; ids such as a1_s1_t1,
    action, subject and trial."""

    name = "utd_mhad"
    modalities = {"inertial": "array", "skeleton": "array"}
    defaults = dict(encoder="conv1d", conv1d_width=32, num_workers=0)
    defaults |= dict(epochs=20, batch_size=32, learning_rate=0.03, schedule="cosine")

    @staticmethod
    def speaker_of(sample: str) -> str:
        return sample.split("_")[1]
