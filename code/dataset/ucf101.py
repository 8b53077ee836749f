"""UCF-101: human actions, the picture and how it moves (optical flow)."""

import dataset


class Dataset(dataset.Dataset):
    """visual/<id>/frame_00001.jpg ..., flow/<id>/ likewise, ids such as v_Archery_g01_c02."""

    name = "ucf101"
    modalities = {"visual": "frames", "flow": "frames"}
    defaults = dict(frames_per_clip=3)
