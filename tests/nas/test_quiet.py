import optuna
import pytest

from naslab.nas.quiet import optuna_warns_only


@pytest.fixture(autouse=True)
def chosen_verbosity():
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)


@pytest.mark.parametrize("chosen", [optuna.logging.DEBUG, optuna.logging.INFO, optuna.logging.ERROR])
def test_optunas_notices_are_held_back_and_the_programs_choice_comes_back(chosen, capsys):
    optuna.logging.set_verbosity(chosen)
    with optuna_warns_only():
        optuna.create_study()
    with pytest.raises(ZeroDivisionError), optuna_warns_only():
        raise ZeroDivisionError
    assert "new study" not in capsys.readouterr().err
    assert optuna.logging.get_verbosity() == chosen
