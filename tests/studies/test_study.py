import pytest

from gatera.errors import InputError
from gatera.studies import Study, Variant


def test_a_variant_name_that_could_leave_its_folder_is_refused():
    for name in ("../up", "Upper", "a/b", "", "1st", "a" * 65):
        with pytest.raises(InputError, match="is not lower_snake_case"):
            Variant(name)


def test_a_study_without_its_reference_is_refused():
    with pytest.raises(InputError, match="reference 'b' is not among the variants a"):
        Study((Variant("a"),), reference="b")


def test_two_variants_of_one_name_are_refused():
    with pytest.raises(InputError, match="stand twice: a"):
        Study((Variant("a"), Variant("a")), reference="a")


def test_the_frozen_row_cannot_be_redefined():
    with pytest.raises(InputError, match="kept for the untrained backbone"):
        Study((Variant("frozen"),), reference="frozen")


def test_repeated_seeds_are_refused():
    with pytest.raises(InputError, match="must be distinct"):
        Study((Variant("a"),), reference="a", seeds=(0, 0))


@pytest.mark.parametrize("seed", [-1, 1.0, True, "0"])
def test_a_seed_that_is_no_whole_number_from_0_on_is_refused(seed):
    with pytest.raises(InputError, match=rf"hold {seed!r}; give whole numbers from 0 on"):
        Study((Variant("a"),), reference="a", seeds=(2, seed))


def test_an_unknown_variant_lists_those_there_are():
    study = Study((Variant("a"), Variant("b")), reference="a")
    assert study.variant("b") == Variant("b")
    with pytest.raises(InputError, match="no variant 'c' in this study; it has frozen, a, b"):
        study.variant("c")


def test_an_endpoint_that_nothing_measures_is_refused():
    with pytest.raises(InputError, match="endpoint 'bleu' is not known; known: accuracy"):
        Study((Variant("a"),), reference="a", endpoint="bleu")
