"""`acsearch score C` and `acsearch score C_compat`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


def test_command(spair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from acsearch.cli.main import main

    registry = spair / "encoders.yaml"
    registry.write_text(
        "static:\n  {adapter: noise, licence: none, native_size: 64, patch: 8, width: 16, mean: [0.5, 0.5, 0.5],"
        " std: [0.5, 0.5, 0.5]}\n"
    )

    def run(score: str, encoder: str, *options: str) -> tuple[int, str, str]:
        given = ["acsearch", "score", score, "--encoder", encoder, "--pairs", str(spair), "--registry", str(registry)]
        monkeypatch.setattr(sys, "argv", [*given, *options])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    code, out, _ = run("C", "static@64+static@96", "--decode", "soft", "--json")
    read = json.loads(out)
    assert code == 0
    assert (read["definition"], read["version"], read["unit"]) == ("C", 1, "percent")
    assert read["representation"] == "static@64+static@96"
    assert read["value"] == read["overall"]["per_image"]
    assert read["grid"] == [8, 8]
    assert set(read["by_category"]) == {"cat", "sofabed"}
    assert read["seconds"] > 0
    code, out, _ = run("C_compat", "static@64")
    assert code == 0
    assert "position code" in out
    for given, message in {
        ("C", "statik@64"): "no encoder 'statik' in the registry; did you mean 'static'?",
        ("C", "static@64", "--decode", "hard"): "--decode 'hard': choose argmax or soft",
        ("C", "static@64", "--device", "abacus"): "--device 'abacus'",
        ("C", "static@64", "--split", "trn"): "no pair of the split 'trn'",
    }.items():
        code, _, err = run(*given)
        assert code == 1
        assert err.startswith("error: ")
        assert message in err
        assert len(err.splitlines()) == 1
