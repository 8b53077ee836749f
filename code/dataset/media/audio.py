"""Sound files to time-frequency pictures."""

import wave
from pathlib import Path

import av
import librosa
import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from dataset.media.video import COMPLETE, announced_seconds, decoded, opened
from utils.errors import BadInput

SILENCE = 1e-4  # peak amplitude, full scale = 1, below which a recording counts as silent
WINDOW_SECONDS = 0.025  # of the filter bank


class Silent(BadInput):
    """There is nothing to hear in a recording."""

    sound: tuple[np.ndarray, int]  # what it holds all the same, and its rate in Hz


def read_waveform(path: Path) -> tuple[np.ndarray, int]:
    """Mono samples in [-1, 1], shape (N,), at the file's own rate, and that rate in Hz.

    Raises BadInput where the file is unreadable, cut short, empty, silent or shorter than 25 ms.
    """
    try:
        samples, sample_rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise BadInput(f"{path}: unreadable sound ({error})") from error
    promised = promised_samples(path)
    if len(samples) < promised:
        raise BadInput(f"{path}: truncated, {len(samples)} of {promised} samples")
    return audible(path, samples.mean(1), sample_rate_hz), sample_rate_hz


def read_sound_track(path: Path) -> tuple[np.ndarray, int]:
    """The sound of a video: mono samples in [-1, 1], (N,), at its own rate, and that rate in Hz.

    As a 16-bit WAV of the track would hold it. Raises BadInput where the file is unreadable, has no
    sound, or is cut short or silent.
    """
    with opened(path) as container:
        if not container.streams.audio:
            raise BadInput(f"{path}: has no sound")
        stream = container.streams.audio[0]
        promised = announced_seconds(container, stream)
        to_mono = av.AudioResampler(format="s16", layout="mono", rate=stream.rate)
        pieces = []
        for frame in (*decoded(container, stream), None):  # None: what the resampler still holds
            pieces += [piece.to_ndarray()[0] for piece in to_mono.resample(frame)]
        sample_rate_hz = stream.rate
    samples = np.concatenate([np.zeros(0, np.int16), *pieces]).astype(np.float32) / 2**15
    if len(samples) < COMPLETE * promised * sample_rate_hz:
        seconds = len(samples) / sample_rate_hz
        raise BadInput(f"{path}: truncated sound, {seconds:.1f} of {promised:.1f} s")
    return audible(path, samples, sample_rate_hz), sample_rate_hz


def audible(path: Path, samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """The samples. Raises BadInput where there is nothing to hear in them."""
    if len(samples) == 0 or np.abs(samples).max() < SILENCE:
        silence = Silent(f"{path}: silent")
        silence.sound = samples, sample_rate_hz
        raise silence
    if len(samples) < WINDOW_SECONDS * sample_rate_hz:
        raise BadInput(f"{path}: too short, {len(samples)} samples at {sample_rate_hz} Hz")
    return samples


def promised_samples(path: Path) -> int:
    """Samples that the header of a PCM WAV announces; 0 for other kinds of file.

    libsndfile silently shortens its own count to what is there, so it cannot tell a cut file.
    """
    try:
        with wave.open(str(path)) as file:
            frames = file.getnframes()
    except (wave.Error, EOFError):
        return 0
    return frames if frames < 2**30 else 0  # streamed files announce the largest number there is


def filter_bank(waveform: np.ndarray, sample_rate_hz: int, mel_bins=128, frames=1024) -> Tensor:
    """Kaldi log filter bank, (frames, mel_bins), roughly in [-1, 1].

    Waveform minus its mean; 25 ms Hanning window, 10 ms shift, no dither; cut or zero-padded to
    `frames`; (x + 4.503877) / (2 * 5.141276).
    Source: the Kinetics-Sounds script of OGM-GE, which MMPareto's authors name as theirs.
    """
    bank = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(waveform - waveform.mean())[None],
        htk_compat=True,
        sample_frequency=sample_rate_hz,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=mel_bins,
        dither=0.0,
        frame_shift=10,
    )[:frames]
    bank = torch.nn.functional.pad(bank, (0, 0, 0, frames - len(bank)))
    return (bank + 4.503877) / (2 * 5.141276)


def ogm_spectrogram(waveform: np.ndarray, sample_rate_hz: int) -> Tensor:
    """log(|STFT| + 1e-7), (257, 188): the CREMA-D sound of OGM-GE.

    22,050 Hz, cut to 3 s or repeated to fill them, clipped to [-1, 1]; window 512, hop 353 samples.
    """
    rate_hz, seconds = 22050, 3
    samples = librosa.resample(waveform, orig_sr=sample_rate_hz, target_sr=rate_hz)
    samples = np.resize(samples, rate_hz * seconds).clip(-1, 1)
    stft = librosa.stft(samples, n_fft=512, hop_length=353)
    return torch.from_numpy(np.log(np.abs(stft) + 1e-7))
