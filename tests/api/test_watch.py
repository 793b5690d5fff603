from api.commands.watch import Lines, fraction


def run(state="running", **progress):
    return {
        "id": 3,
        "name": "Shuffled",
        "state": state,
        "epochs_total": 4,
        "progress": progress or None,
        "reused_from": None,
        "started_at": None,
    }


def test_fraction_counts_steps():
    assert fraction(run("queued")) == 0
    assert fraction(run(phase="loading")) == 0
    assert fraction(run(phase="training", epoch=2, step=5, steps=10)) == 1.5 / 4
    assert fraction(run(phase="training", epoch=4, step=10, steps=10)) == 1
    assert fraction(run("succeeded")) == 1


def test_a_line_for_each_change_of_state_and_none_for_each_step(capsys):
    lines = Lines()
    for step in range(5):
        lines.update(run(phase="training", epoch=1, step=step, steps=5, images_per_second=40, seconds_left=9))
    lines.update(run("failed"))
    lines.update(run("failed"))
    told = capsys.readouterr().err.splitlines()
    assert told == ["run 3 Shuffled: epoch 1 of 4, 40 images/s, 0:09 left", "run 3 Shuffled: failed"]
