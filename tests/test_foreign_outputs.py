"""An output is refused where no file can be written, and where it would take the place of what is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.errors import ReportError
from ckptaudit.foreign_files import NotRegularError
from ckptaudit.foreign_files.outputs import Output, refuse_special, refuse_unwritable, refuse_what_is_read
from ckptaudit.report.badge import write_badge
from ckptaudit.report.html import write_html
from ckptaudit.report.junit import write_junit
from ckptaudit.report.markdown import write_markdown
from ckptaudit.report.parquet import write_parquet
from ckptaudit.report.sarif import write_sarif
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult
from ckptaudit.rollouts.table import SCHEMA as ROLLOUTS
from tests.conftest import package

TOO_LONG = "n" * 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint's folder."""
    path = tmp_path / "model"
    path.mkdir()
    save_file({"a.weight": torch.zeros(2, 2)}, path / "model.safetensors")
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "vocab.txt").write_text("a\nb\n")
    return path


def refused(output: Output, *read: Path) -> str:
    refuse_unwritable([output])
    with pytest.raises(ReportError) as caught:
        refuse_what_is_read([output], read)
    assert str(output.path) in str(caught.value)
    return str(caught.value)


def accepted(output: Output, *read: Path) -> None:
    refuse_unwritable([output])
    refuse_what_is_read([output], read)


class TestWhereNoFileCanBeWritten:
    @pytest.mark.parametrize(
        ("name", "why"),
        [
            (TOO_LONG, "File name too long"),
            (f"missing/{TOO_LONG}/x.json", "File name too long"),
            ("/".join(["n" * 200] * 30), "File name too long"),
            ("file/below", "Not a directory"),
            ("missing", ""),
            ("missing/too/x.json", ""),
            ("file", ""),
            ("n" * 255, ""),
            ("folder", "a directory"),
            ("pipe", "a pipe"),
            ("null", "a device"),
            ("nowhere", ""),
            ("nowhere/x.json", "No such file"),
            ("nul\0", "no path has such characters"),
            ("circle/x.json", "Too many levels of symbolic links"),
            ("/proc/x", "No such file"),
        ],
    )
    @pytest.mark.parametrize("in_place", [False, True])
    def test_the_reason_is_said_and_nothing_is_left(
        self, tmp_path: Path, name: str, why: str, in_place: bool
    ) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "null").symlink_to("/dev/null")
        (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
        (tmp_path / "circle").symlink_to("circle")
        before = sorted(tmp_path.iterdir())
        output = Output(tmp_path / name, in_place=in_place)
        if why and not (in_place and name in ("pipe", "null")):
            with pytest.raises(ReportError, match=rf"no file can be written there \({why}.*name another"):
                refuse_unwritable([output])
        else:
            refuse_unwritable([output])
        assert sorted(tmp_path.iterdir()) == before

    def test_a_folder_may_take_several_files(self, tmp_path: Path) -> None:
        accepted(Output(tmp_path, may_be_folder=True))

    def test_a_link_to_what_the_process_has_open_is_none_to_a_file(self, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w") as file:
            (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{file.fileno()}")
            with pytest.raises(NotRegularError, match="open file"):
                refuse_special(tmp_path / "stdout")

    def test_a_link_to_a_file_is_replaced_as_a_file_is(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to("file")
        accepted(Output(tmp_path / "link"))


class TestTwoOutputs:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("x.out", "./x.out"),
            ("x.out", "folder/../x.out"),
            ("x.out", "linked/x.out"),
            ("there", "hard"),
            ("there", "soft"),
            ("x.out", "x.out/page.html"),
        ],
    )
    def test_cannot_be_one_file(
        self, tmp_path: Path, one: str, other: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("folder").mkdir()
        Path("linked").symlink_to(".")
        Path("there").touch()
        Path("hard").hardlink_to("there")
        Path("soft").symlink_to("there")
        with pytest.raises(ReportError, match=r"--a .* and --b .*: two outputs cannot be one file"):
            refuse_unwritable([Output(Path(one), "--a"), Output(Path(other), "--b")])

    def test_a_file_that_is_opened_in_place_lies_where_its_link_leads(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("x.out")
        with pytest.raises(ReportError, match="cannot be one file"):
            refuse_unwritable([Output(tmp_path / "x.out"), Output(tmp_path / "link", in_place=True)])

    def test_two_names_in_one_folder_are_two_files(self, tmp_path: Path) -> None:
        plots = Output(tmp_path / "plots", may_be_folder=True)
        refuse_unwritable([Output(tmp_path / "a"), Output(tmp_path / "b"), plots, Output(tmp_path / "plots" / "c")])


class TestWhatIsRead:
    @pytest.mark.parametrize("name", ["model.safetensors", "./config.json", "../model/vocab.txt"])
    def test_a_file_of_the_folder(self, folder: Path, name: str) -> None:
        assert "as part of" in refused(Output(folder / name, "--o"), folder)

    @pytest.mark.parametrize("how", ["hard", "soft", "target"])
    def test_under_another_name(self, folder: Path, tmp_path: Path, how: str) -> None:
        other, weights = tmp_path / "other", folder / "model.safetensors"
        if how == "hard":
            other.hardlink_to(weights)
        elif how == "soft":
            other.symlink_to(weights)
        else:  # as in the hub's cache
            weights.rename(other)
            weights.symlink_to(other)
        refused(Output(other), folder)
        refused(Output(other), weights)

    def test_a_file_alone(self, folder: Path) -> None:
        config = folder / "config.json"
        assert "is read here and would be overwritten" in refused(Output(config, "--o"), config)
        accepted(Output(folder / "vocab.txt"), config)

    def test_a_new_file_may_be_written_beside_it(self, folder: Path) -> None:
        accepted(Output(folder / "audit.json"), folder, folder / "config.json")
        accepted(Output(folder, may_be_folder=True), folder)

    def test_a_circle_of_links_is_no_matter(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "circle").symlink_to("circle")
        accepted(Output(tmp_path / "circle"), folder, tmp_path / "circle", tmp_path / ("n" * 300), Path("nul\0"))
        with pytest.raises(ReportError, match="Too many levels"):
            refuse_unwritable([Output(tmp_path / "circle", in_place=True), Output(tmp_path / "x")])

    def test_what_lies_elsewhere_or_is_missing_is_no_matter(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        accepted(Output(tmp_path / "notes.txt"), folder, tmp_path / "gone")

    def test_an_empty_file_has_nothing_to_lose(self, folder: Path) -> None:
        (folder / "audit.json").touch()
        accepted(Output(folder / "audit.json"), folder)


class TestEarlierReports:
    @pytest.mark.parametrize(
        ("name", "write"),
        [
            ("a.json", write_json),
            ("a.html", write_html),
            ("a.xml", write_junit),
            ("a.md", write_markdown),
            ("a.sarif", write_sarif),
            ("a.svg", write_badge),
            ("badge.json", write_badge),
        ],
    )
    def test_may_be_replaced(self, folder: Path, gentle_result: AuditResult, name: str, write: object) -> None:
        assert callable(write)
        write(gentle_result, folder / name)
        accepted(Output(folder / name), folder)
        refused(Output(folder / name), folder / name)

    def test_tables_as_well_but_none_of_rollouts(self, folder: Path, gentle_result: AuditResult) -> None:
        package("pyarrow")
        import pyarrow as pa
        import pyarrow.parquet as pq

        write_parquet(gentle_result, folder / "a.parquet")
        accepted(Output(folder / "a.parquet"), folder)
        pq.write_table(ROLLOUTS.empty_table(), folder / "r.parquet")
        pq.write_table(pa.table({"text": ["ckptaudit/1"]}), folder / "d.parquet")
        refused(Output(folder / "r.parquet"), folder)
        refused(Output(folder / "d.parquet"), folder)

    def test_pictures(self, folder: Path) -> None:
        package("matplotlib")
        from matplotlib.figure import Figure

        for name in ("a.png", "a.svg"):
            Figure().savefig(folder / name)
            accepted(Output(folder / name), folder)

    def test_a_junit_file_that_broke_off(self, folder: Path) -> None:
        (folder / "a.xml").write_text('<?xml version="1.0" encoding="utf-8"?>')
        accepted(Output(folder / "a.xml"), folder)

    def test_what_only_resembles_one_is_kept(self, folder: Path) -> None:
        for name, text in {
            "x.json": json.dumps({"schema": "other/1"}),
            "y.json": json.dumps({"model_type": "llama", "schema": "ckptaudit/1"}),
            "x.svg": "<svg></svg>",
            "x.html": "<!doctype html><title>ckptaudit</title>",
            "README.md": "# A model\n\n## Checkpoint audit\n",
        }.items():
            (folder / name).write_text(text)
            refused(Output(folder / name), folder)
