"""ModelNet40: an object of 40 classes seen from the front and from the rear."""

import dataset


class Dataset(dataset.Dataset):
    """front/<id>.png and rear/<id>.png, ids such as airplane_0001."""

    name = "modelnet40"
    modalities = {"front": "image", "rear": "image"}
