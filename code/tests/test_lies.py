"""Data that lies: values that are no data, sounds of several rates, answers that are none."""

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import evaluate
from analysis import probes
from dataset._cache import open_cache
from dataset._loader import SampleDataset, build_loaders
from dataset._samples import Sample
from dataset.folder import Dataset
from dataset.media.audio import read_sound_track, read_waveform
from dataset.modalities import Modality, array, image, spectrogram, waveform
from dataset.prepare import derive
from dataset.prepare._preparation import save_tensor
from dataset.prepare.cgmnist import read_npy
from models import metrics
from training import options
from utils.errors import BadInput

RATE_HZ = 16000
SOUND = 0.4 * np.sin(np.arange(9000) * 0.1)


# Values that are no data


def write_values(path, values):
    """Somebody's float sound, array or spectrogram of 16 x 500 numbers."""
    if path.suffix == ".wav":
        soundfile.write(path, values.ravel(), RATE_HZ, subtype="DOUBLE")
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        torch.save(torch.from_numpy(values), path)


READERS = {".wav": waveform, ".npy": array, ".pt": spectrogram}


@pytest.mark.parametrize("suffix", READERS)
def test_values_that_are_no_data_are_refused_by_name(suffix, tmp_path):
    good = np.random.default_rng(0).normal(0, 0.1, (16, 500))
    reader = READERS[suffix].Modality(tmp_path, False)
    write_values(tmp_path / f"a{suffix}", good)
    assert reader.pack("a").isfinite().all()
    for value in (np.nan, np.inf, -np.inf, 1e30, -1e12, 1e300):
        for where in (0, 4321, -1):
            bad = good.copy()
            bad.flat[where] = value
            write_values(tmp_path / f"a{suffix}", bad)
            with pytest.raises(BadInput, match=rf"/a{suffix}: "):
                reader.pack("a")
    if suffix != ".wav":
        write_values(tmp_path / f"a{suffix}", good + 1j)
        with pytest.raises(BadInput, match=rf"/a{suffix}: complex numbers; save their magnitude"):
            reader.pack("a")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_values_that_are_no_sound_are_refused_in_a_video_too(value, tmp_path):
    """Converted to 16 bits they would be ordinary numbers."""
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE_HZ, layout="mono")
        sound = np.float32(SOUND)[None]
        sound[0, 5000] = value
        frame = av.AudioFrame.from_ndarray(sound, format="flt", layout="mono")
        frame.rate, frame.pts = RATE_HZ, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(BadInput, match="a.mov: samples reach"):
        read_sound_track(tmp_path / "a.mov")


def test_a_tensor_is_the_one_that_was_stored(tmp_path):
    """torch.load takes a changed byte, and fills up from memory what is not there."""
    torch.save(torch.ones(16, 500), tmp_path / "a.pt")
    reader, content = spectrogram.Modality(tmp_path, False), (tmp_path / "a.pt").read_bytes()
    assert torch.equal(reader.pack("a"), torch.ones(1, 16, 500))
    first = content.index(torch.ones(9).numpy().tobytes())
    (tmp_path / "a.pt").write_bytes(content[: first + 400] + b"\x12" + content[first + 401 :])
    with pytest.raises(BadInput, match="a.pt: unreadable"):
        reader.pack("a")


class Careless(Modality):
    """Somebody's reader that looks at nothing."""

    suffixes, packed_as = (".x",), "x"

    def pack(self, sample_id):
        return torch.tensor([[[0.0, float(self.path(sample_id).read_text())]]])


def test_every_readers_items_pass_the_check_with_and_without_the_cache(tmp_path):
    for name, value in (("a", 1.0), ("b", float("nan"))):
        (tmp_path / f"{name}.x").write_text(str(value))
    reader = Careless(tmp_path, False)
    data = SampleDataset([Sample("a", 0), Sample("b", 0)], {"x": reader}, 0)
    assert data[0, 0][0]["x"].tolist() == [[[0, 1]]]
    with pytest.raises(BadInput, match="/b.x: holds the value nan; values must be finite"):
        data[0, 1]
    with pytest.raises(BadInput, match="/b.x: holds the value nan"):
        open_cache(reader, ["a", "b"], tmp_path / "cache", 0)
    with pytest.raises(BadInput, match="/c.pt: holds the value inf"):
        save_tensor(torch.tensor([np.inf]), tmp_path / "c.pt")


@pytest.mark.parametrize("offset, loud", [(0, 0), (0.5, 0), (-0.9, 3e-5), (0.5, 0.01), (0, 3000)])
def test_silence_is_silence_whatever_its_offset_and_full_scale_is_1(offset, loud, tmp_path):
    soundfile.write(tmp_path / "a.wav", offset + loud * SOUND, RATE_HZ, subtype="FLOAT")
    fault = {0.01: None, 3000: "a.wav: samples reach .*; scale them"}.get(loud, "a.wav: silent")
    if fault:
        with pytest.raises(BadInput, match=fault):
            read_waveform(tmp_path / "a.wav")
    else:
        assert len(read_waveform(tmp_path / "a.wav")[0]) == len(SOUND)


def test_pictures_in_0_to_1_are_refused_where_0_to_255_is_meant(tmp_path, capsys):
    levels = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 3))
    cases = [levels, np.uint8(levels), 1.0 * levels, levels / 255, np.float32(levels / 255)]
    cases += [
        levels > 99,
        np.uint8(levels > 99),
        levels + 0.5,
        levels - 1.0,
        np.where(levels > 9, levels, np.nan),
    ]
    for number, pictures in enumerate([*cases, levels + 0j]):
        parts = {f"{part}_image": pictures for part in ("train", "test")}
        labels = {f"{part}_label": np.arange(12) % 10 for part in ("train", "test")}
        np.save(tmp_path / "x.npy", parts | labels, allow_pickle=True)
        if number < 3:
            assert np.array_equal(read_npy(tmp_path / "x.npy")["train"][0], levels)
        else:
            with pytest.raises(BadInput, match="x.npy: train_image must hold whole numbers"):
                read_npy(tmp_path / "x.npy")
    grey = np.float32(levels[0, ..., 0] / 255)
    for pixels in (Image.fromarray(grey), Image.fromarray(np.uint8(grey > 0.5))):
        pixels.save(tmp_path / "a.png", "TIFF")
        with pytest.raises(BadInput, match="a.png: .*0 to 255"):
            image.Modality(tmp_path, False, 28).pack("a")

    Image.fromarray(np.uint8(grey > 0.5)).save(tmp_path / "a.png")  # among others: a dark picture
    for number in range(20):
        Image.fromarray(np.uint8(255 * grey)).save(tmp_path / f"{number}.png")
    assert image.Modality(tmp_path, False, 28).pack("a").max() == 1
    assert "a.png: its values are 0 and 1, of 255: black" in capsys.readouterr().out
    for number in range(3):
        Image.fromarray(np.uint8(grey > 0.5)).save(tmp_path / f"{number}.png")
    with pytest.raises(BadInput, match="0.png: .*0 to 255"):
        image.Modality(tmp_path, False, 28).pack("0")
    Image.fromarray(grey).save(tmp_path / "a.png", "TIFF")
    with pytest.raises(BadInput, match="a.png: of mode F; save it with 8 bits"):
        derive.read(tmp_path / "a.png")


# Sounds of several rates


def peak_band(bank):
    return bank[0, 20:50].mean(0).argmax()


def test_sound_of_several_rates_is_refused_or_resampled(own_data):
    tone = {rate: 0.3 * np.sin(2000 * np.pi * np.arange(rate) / rate) for rate in (8000, 44100)}
    soundfile.write(own_data / "sound" / "train1.wav", tone[8000], 8000)
    soundfile.write(own_data / "sound" / "train2.wav", tone[44100], 44100)
    flags = vars(options.parse(["--dataset", "folder", "--data_root", str(own_data)]))
    flags |= {"modalities": ["sound"], "device": "cpu", "num_workers": 0}
    counts = (
        "10 at 16000 Hz, 1 at 8000 Hz, 1 at 44100 Hz .such as train2.wav, train1.wav.; resample"
    )
    for cache in ("on", "off"):
        with pytest.raises(BadInput, match=f"/sound: sound of several sample rates, {counts}"):
            build_loaders(Dataset(own_data), flags | {"cache": cache})
        build_loaders(Dataset(own_data), flags | {"cache": cache, "sample_rate": 16000})
    folder = own_data / "sound"
    plain = waveform.Modality(folder, False)
    low, high = plain.pack("train1"), plain.pack("train2")
    assert peak_band(low) - peak_band(high) > 20  # the lie
    low, high = (
        waveform.Modality(folder, False, sample_rate=16000).pack(f"train{i}") for i in (1, 2)
    )
    assert peak_band(low) == peak_band(high)
    mel = 1127 * np.log(1 + np.array([20, 1000, 8000]) / 700)
    assert abs(peak_band(low) - 128 * (mel[1] - mel[0]) / (mel[2] - mel[0])) < 3


# Answers


def test_what_is_not_finite_is_no_class():
    inf, nan = np.inf, np.nan
    logits = torch.tensor(
        [[1, 0, 0], [nan, 0, 0], [nan] * 3, [inf, 0, 0], [-inf] * 3, [0, -inf, 0.5]]
    )
    target = torch.tensor([0, 0, 0, 0, 0, 2])
    assert metrics.answers(logits).tolist() == [0, -1, -1, -1, -1, 2]
    scores = metrics.score({"audio": logits}, target)
    assert scores["accuracy/audio"] == pytest.approx(2 / 6)
    assert scores["macro_f1/audio"] == pytest.approx((2 / 6 + 1) / 2)
    assert metrics.score({"audio": logits[:0]}, target[:0]) == {}
    accuracies = evaluate.per_class({"audio": logits}, target)
    assert "a      5   20.00" in evaluate.table_of_classes(accuracies, target, ["a", "b", "c"])
    counts = evaluate.confusion({"audio": logits}, target, ["a", "b", "c"])
    assert counts["audio"][0] == [1, 0, 0]
    with pytest.raises(BadInput, match="not finite"):
        probes.calibration_error(logits, target)
    with pytest.raises(BadInput, match="features are not finite"):
        probes.linear_probe((logits, target), (logits, target))


def test_a_model_without_answers_says_so(capsys):
    batch = {"audio": torch.tensor([[1.0, 0], [np.nan, 0]])}, torch.tensor([0, 0])

    class Echo(torch.nn.Module):
        def forward(self, inputs):
            return inputs, inputs

    logits, _, target = metrics.predict(Echo(), [batch])
    assert "audio gives no finite logits for 1 of 2 samples" in capsys.readouterr().out
    assert metrics.score(logits, target)["accuracy/audio"] == 0.5
