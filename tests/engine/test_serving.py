"""`understudy engine serve`: a folder of adapters behind an OpenAI-compatible endpoint."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from bound import asks, bound_adapter, learner
from understudy.cli import main
from understudy.engine.folder import adapters_in
from understudy.engine.serving import read_keys
from understudy.models.adapters import save_adapter
from understudy.models.lora import LoraConfig, adapter_tensors
from understudy.recipes.learner import Learner


@pytest.fixture(scope="module")
def fresh() -> Learner:
    return learner()


@pytest.fixture
def folder(tmp_path: Path, fresh: Learner) -> Path:
    """Adapters as they may lie in a folder."""
    made = tmp_path / "adapters"
    for name in ("plain", "twice@1", "twice@10", "twice"):
        bound_adapter(made / name, fresh)
    (made / "run").mkdir()
    (made / "run" / "run.json").write_text("{}")
    bound_adapter(made / "run" / "adapter", fresh)
    (made / "unfinished").mkdir()
    (made / "unfinished" / "run.json").write_text("{}")
    (made / "notes.txt").write_text("mine")
    return made


async def test_a_folder_is_served_to_the_official_client(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = str(tmp_path / "engine.keys")
    assert main(["engine", "key", keys, "--name", "gateway"]) == 0
    assert main(["engine", "key", keys]) == 0
    key = capsys.readouterr().out.split()[0]
    arguments = ["engine", "serve", "tiny", "--adapters", str(folder), "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "understudy.cli", *arguments, "--threads", "1", "--device", "cpu",
        "--keys", keys, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    url = json.loads(await process.stdout.readline())["url"]
    assert url.startswith("http://127.0.0.1:")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        models: Any = {m.id: m async for m in client.models.list()}
        assert set(models) == {"tiny", "plain", "plain@1", "run", "run@1", "twice", "twice@1",
                               "twice@10", "twice@11"}  # fmt: skip
        assert models["twice@11"].root == str(folder / "twice")
        assert models["run@1"].root == str(folder / "run" / "adapter")
        for name in ("tiny", "run", "twice@1"):
            raw = await client.chat.completions.with_raw_response.create(
                model=name, messages=asks("Other."), max_tokens=2
            )
            assert raw.parse().choices[0].message.role == "assistant"
            assert ("x-understudy-prompt" in raw.headers) == (name != "tiny")
        with pytest.raises(openai.NotFoundError, match="no model 'twice@2'"):
            await client.chat.completions.create(model="twice@2", messages=asks())
        for told in ("x", "us-wrong"):
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key=told).models.list()
    process.terminate()
    _, said = await process.communicate()
    assert process.returncode == 0
    lines = said.decode()
    assert f'OpenAI(base_url="{url}/v1", api_key="YOUR-KEY")' in lines
    assert "unfinished: a run without an adapter" in lines
    assert "notes.txt: no folder" in lines
    assert key not in lines


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which serving ends, its exit code being 1."""
    capsys.readouterr()
    command = ["engine", "serve", "tiny", "--device", "cpu", "--threads", "1", "--port", "0"]
    assert main([*command, *arguments]) == 1
    lines = [
        line for line in capsys.readouterr().err.splitlines()
        if line.strip() and not line.startswith(("left out", "Loading weights"))
    ]  # fmt: skip
    assert len(lines) == 1, lines
    return lines[0]


def test_what_cannot_be_served_is_said_in_one_line(
    tmp_path: Path, fresh: Learner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no folder" in refused(capsys, "--adapters", str(tmp_path / "none"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no adapter (it is empty)" in refused(capsys, "--adapters", str(empty))
    (empty / "run").mkdir()
    assert "run: no adapter" in refused(capsys, "--adapters", str(empty))

    damaged = tmp_path / "damaged"
    path = bound_adapter(damaged / "a", fresh)
    file = path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    said = refused(capsys, "--adapters", str(damaged))
    assert f"the adapter in {path} is corrupt" in said

    foreign = tmp_path / "foreign"
    tensors = adapter_tensors(fresh.base.model)
    save_adapter(foreign / "a", tensors, LoraConfig(rank=2), "models/another")
    said = refused(capsys, "--adapters", str(foreign))
    assert f"the adapter in {foreign / 'a'} is of the base models/another, not tiny" in said

    narrow = {k: v[:, :-1] if ".lora_A." in k else v for k, v in tensors.items()}
    shutil.rmtree(foreign)
    save_adapter(foreign / "a", narrow, LoraConfig(rank=2), "tiny")
    assert str(foreign / "a") in refused(capsys, "--adapters", str(foreign))
    shutil.rmtree(foreign)
    bound_adapter(foreign / "tiny", fresh)
    assert "has the base's name" in refused(capsys, "--adapters", str(foreign))
    assert "open to others: serve it with --keys" in refused(capsys, "--host", "0.0.0.0")
    (tmp_path / "keys").write_text("abc\n")
    assert "cannot be read" in refused(capsys, "--keys", str(tmp_path / "keys"))
    (tmp_path / "keys").write_text("\n")
    assert "holds no keys" in refused(capsys, "--keys", str(tmp_path / "keys"))


def test_two_folders_are_never_one_version(tmp_path: Path, fresh: Learner) -> None:
    for name in ("a@1", "a@01"):
        bound_adapter(tmp_path / name, fresh)
    with pytest.raises(ValueError, match="are one version: remove one"):
        adapters_in(tmp_path)


def test_a_keys_name_is_one_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "k"
    assert main(["engine", "key", str(file), "--name", "two words"]) == 1
    assert "is not one word" in capsys.readouterr().err
    assert not file.exists()
    for _ in range(2):
        assert main(["engine", "key", str(file)]) == 0
    assert len(read_keys(file)) == 2
    shown = capsys.readouterr().out.split()
    assert len(set(shown)) == 2
    assert not any(key in file.read_text() for key in shown)
