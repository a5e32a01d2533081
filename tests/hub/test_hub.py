"""``load`` and ``available_models`` with small checkpoints in every kind of file, and the usage in OpenAI's README."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import pytest
import torch
from peers import peer_module
from torch import Tensor, nn

from clipfast import models
from clipfast.common import download
from clipfast.hub import pretrained as hub
from clipfast.images.preprocess import Preprocess
from clipfast.inference.zero_shot import ZeroShotClassifier
from clipfast.text.tokenizer import tokenize

CONFIG = models.ClipConfig(32, models.VisionConfig(32, 8, 64, 2, 1), models.TextConfig(77, 49408, 64, 1, 1))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TEXTS = tokenize(["a diagram", "a dog", "a cat"])


@pytest.fixture(scope="module")
def model() -> models.CLIP:
    torch.manual_seed(0)
    model = models.create_model(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def rounded(model: models.CLIP) -> models.CLIP:
    """The model that the original's loader makes of float32 weights on the CPU: rounded to half precision."""
    again = models.create_model(CONFIG)
    again.load_state_dict(model.state_dict())
    models.convert_weights(again)
    return again.float().eval()


class Traced(nn.Module):
    """The interface of OpenAI's archives: three methods, and the sizes as buffers."""

    def __init__(self, model: models.CLIP) -> None:
        super().__init__()
        for name, part in {**dict(model.named_children()), **dict(model.named_parameters(recurse=False))}.items():
            setattr(self, name, part)
        for name, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))
        self.whole = [model]  # in a list, so that its parameters are not registered twice

    def encode_image(self, images: Tensor) -> Tensor:
        return self.visual(images)

    def encode_text(self, texts: Tensor) -> Tensor:
        x = self.token_embedding(texts) + self.positional_embedding
        x = self.ln_final(self.transformer(x)[torch.arange(len(x)), texts.argmax(-1)])
        return x @ self.text_projection

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        image, text = self.encode_image(images), self.encode_text(texts)
        image, text = image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)
        logits = self.logit_scale.exp() * image @ text.t()
        return logits, logits.t()


@pytest.fixture(scope="module")
def files(model: models.CLIP, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = {kind: folder / name for kind, name in (("plain", "plain.pt"), ("archive", "jit.pt"), ("wrapped", "wrapped.pt"))}
    torch.save(model.state_dict(), paths["plain"])
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, paths["wrapped"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = {"forward": (IMAGES[:2], TEXTS[:2]), "encode_image": IMAGES[:2], "encode_text": TEXTS[:2]}
        torch.jit.trace_module(Traced(model), inputs).save(str(paths["archive"]))
    return paths


def same(model: models.CLIP, other: models.CLIP) -> bool:
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("kind", ["plain", "archive", "wrapped"])
def test_every_kind_of_file_gives_the_model(files, rounded, kind: str) -> None:
    loaded, preprocess = hub.load(str(files[kind]), device="cpu")
    assert same(loaded, rounded)
    assert not loaded.training
    assert not any(module.training for module in loaded.modules())
    assert preprocess == Preprocess.openai(32)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert torch.equal(loaded.encode_image(IMAGES), rounded.encode_image(IMAGES))


def test_weights_and_features_equal_openais(files, model) -> None:
    """OpenAI's ``build_model`` and ``load`` on the CPU give the same bits of weights, and the same features up to rounding."""
    theirs = peer_module("clip", "model.py", "openai-clip").build_model(dict(model.state_dict())).float()
    mine, _ = hub.load(files["archive"], "cpu")
    state = theirs.state_dict()
    assert state.keys() == mine.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in mine.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(mine.encode_image(IMAGES), theirs.encode_image(IMAGES), rtol=1e-5, atol=1e-5)
        for logits, expected in zip(mine(IMAGES, TEXTS), theirs(IMAGES, TEXTS), strict=True):
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_safetensors(model, rounded, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert same(hub.load(tmp_path / "model.safetensors", "cpu")[0], rounded)


def test_rounding_to_half_precision_can_be_chosen(files, model, rounded) -> None:
    assert same(hub.load(files["plain"], "cpu", dtype=torch.float32)[0], model)
    assert not same(model, rounded)
    half = hub.load(files["plain"], "cpu", dtype=torch.float16)[0]
    assert half.dtype == torch.float16
    assert half.visual.ln_pre.weight.dtype == half.token_embedding.weight.dtype == torch.float32
    assert same(half.float(), rounded)


def test_another_device_keeps_half_precision(files) -> None:
    """As the original on a GPU, for which the meta device stands."""
    loaded, _ = hub.load(files["plain"], torch.device("meta"))
    assert loaded.dtype == torch.float16
    assert loaded.logit_scale.device.type == "meta"


def test_a_model_that_the_file_does_not_tell(tmp_path: Path) -> None:
    siglip = models.create_model("SigLIP-tiny").eval()
    models.save_checkpoint(siglip, tmp_path / "siglip.pt")
    with pytest.raises(ValueError, match="; create the model by its name"):
        hub.load(tmp_path / "siglip.pt", "cpu")
    for given in ("SigLIP-tiny", siglip.config):
        loaded, preprocess = hub.load(tmp_path / "siglip.pt", "cpu", model=given)
        assert same(loaded, siglip)  # not rounded, as the original has no such model
        assert preprocess == Preprocess.siglip(32)


def test_unknown_names_and_files() -> None:
    names = hub.available_models()
    message = f"Model ViT-B/64 not found; available models = {names}"
    with pytest.raises(RuntimeError) as found:
        hub.load("ViT-B/64", "cpu")
    assert str(found.value) == message
    assert names == ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"]
    assert set(names) <= set(models.list_models())
    with pytest.raises(ValueError, match=r"must be a state dict saved by torch, .*; got a file that cannot be read"):
        hub.load(__file__, "cpu")


def test_names_are_downloaded_by_their_hash(files, rounded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(hub, "download", lambda *arguments: asked.append(arguments) or files["archive"])
    assert same(hub.load("ViT-L/14@336px", "cpu", download_root=tmp_path)[0], rounded)
    hub.load("ViT-L/14@336px", "cpu")
    sha256 = "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
    url = f"https://openaipublic.azureedge.net/clip/models/{sha256}/ViT-L-14-336px.pt"
    assert asked == [(url, sha256, tmp_path), (url, sha256, download.cache_folder())]


def test_the_first_four_arguments_are_the_originals() -> None:
    assert list(inspect.signature(hub.load).parameters)[:4] == ["name", "device", "jit", "download_root"]
    assert list(inspect.signature(tokenize).parameters) == ["texts", "context_length", "truncate"]


def test_openais_usage(files, rounded, tmp_path: Path) -> None:
    """The example in its README, with another import, and with local files instead of the download and the picture."""
    pytest.importorskip("PIL.Image").new("RGB", (60, 40), (200, 30, 90)).save(tmp_path / "CLIP.png")
    checkpoint, picture = str(files["archive"]), str(tmp_path / "CLIP.png")

    from PIL import Image

    import clipfast as clip

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, preprocess = clip.load(checkpoint, device=device)
    image = preprocess(Image.open(picture)).unsqueeze(0).to(device)
    text = clip.tokenize(["a diagram", "a dog", "a cat"]).to(device)
    with torch.no_grad():
        image_features = model.encode_image(image)
        text_features = model.encode_text(text)
        logits_per_image, _logits_per_text = model(image, text)
        probs = logits_per_image.softmax(dim=-1).cpu().numpy()

    assert image_features.shape == (1, 32)
    assert text_features.shape == (3, 32)
    assert probs.shape == (1, 3)
    assert probs.sum() == pytest.approx(1, abs=1e-3)
    assert (model.visual.input_resolution, model.context_length, model.vocab_size) == (32, 77, 49408)
    assert model.logit_scale.exp().item() == pytest.approx(rounded.logit_scale.exp().item())
    assert clip.available_models() == hub.available_models()


def test_jit_returns_the_archives_code(files, model) -> None:
    loaded, preprocess = hub.load(files["archive"], "cpu", jit=True)
    assert isinstance(loaded, torch.jit.ScriptModule)
    assert preprocess == Preprocess.openai(32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(IMAGES), model.encode_image(IMAGES))
        torch.testing.assert_close(loaded(IMAGES, TEXTS[:2])[0], model(IMAGES, TEXTS[:2])[0])
    classifier = ZeroShotClassifier(loaded, ["cat", "dog"])
    torch.testing.assert_close(classifier.logits(IMAGES), ZeroShotClassifier(model, ["cat", "dog"]).logits(IMAGES))
    with pytest.raises(ValueError, match=r"model and dtype must be None with jit=True.*; got None and torch.float32"):
        hub.load(files["archive"], "cpu", jit=True, dtype=torch.float32)


def test_jit_of_a_state_dict_warns_and_loads_it(files, rounded) -> None:
    with pytest.warns(UserWarning, match="is not a JIT archive. Loading as a state dict instead"):
        loaded, _ = hub.load(files["plain"], "cpu", jit=True)
    assert same(loaded, rounded)
