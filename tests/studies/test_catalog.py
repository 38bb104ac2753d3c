import pytest

from gatera.errors import InputError
from gatera.studies import catalog

STUDY = """from gatera.studies import Study, Variant
STUDY = Study(title="Mine", variants=(Variant("a"),), reference="a")
"""


def test_the_shipped_studies_load_and_are_listed():
    entries = {entry.name: entry for entry in catalog.entries()}
    assert {"ablation_table5", "coverage_table4", "rank_figure3"} <= entries.keys()
    for name, entry in entries.items():
        loaded = catalog.load(name)
        assert loaded.study.title == entry.title
        assert loaded.study.reproduces == entry.reproduces


def test_listing_executes_no_study_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.py").write_text(STUDY + "raise SystemExit('executed')\n")
    (tmp_path / "studies" / "broken.py").write_text("STUDY = (\n")
    listed = {entry.name: entry.title for entry in catalog.entries()}
    assert listed["mine"] == "Mine"
    assert "broken" not in listed


def test_a_study_of_ones_own_is_loaded_by_its_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(STUDY)
    loaded = catalog.load(str(path))
    assert (loaded.name, loaded.study.title) == ("mine", "Mine")
    assert len(loaded.sha256) == 64


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean ablation_table5"):
        catalog.load("ablation_table")


def test_a_syntax_error_names_file_and_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\nSTUDY = (\n")
    with pytest.raises(InputError, match=r"mine\.py, line 2: .*not valid Python"):
        catalog.load(str(path))


def test_an_error_in_the_file_names_file_and_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n\ny = x / 0\n")
    with pytest.raises(InputError, match=r"mine\.py, line 3: ZeroDivisionError"):
        catalog.load(str(path))


def test_a_file_without_a_study_says_what_to_write(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    with pytest.raises(InputError, match=r"states no study; write STUDY = Study"):
        catalog.load(str(path))


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="no study file"):
        catalog.load(str(tmp_path / "none.py"))


def test_a_file_name_that_is_no_study_name_is_refused(tmp_path):
    path = tmp_path / "My-Study.py"
    path.write_text(STUDY)
    with pytest.raises(InputError, match="study name 'My-Study' is not lower_snake_case"):
        catalog.load(str(path))
