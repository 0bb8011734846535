import sys

from dedn_hf.results import provenance


def test_the_command_has_relative_paths_and_no_token(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    token = "hf_" + "a" * 34
    arguments = ["--data_dir", f"{tmp_path}/data", f"--hub_token={token}", "--lr", "1"]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py"), *arguments])
    command = provenance()["command"]
    assert token not in command and str(tmp_path) not in command
    assert command.startswith("python train.py --data_dir data ") and command.endswith("--lr 1")
