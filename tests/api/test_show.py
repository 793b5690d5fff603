from api.commands import show


def test_wide_characters_keep_columns_aligned():
    sheet = show.Sheet(["Name", "N"], [["肝臓", "1"], ["ab", "20"]], frozenset({"N"}))
    assert show.plain(sheet) == "Name   N\n肝臓   1\nab    20"


def test_control_characters_of_others_do_not_reach_the_terminal():
    assert show.clean("a\x1b[31mb\nc\x07") == "a [31mb c "
    assert show.clean_lines("a\x1b\nb") == "a \nb"


def run(**changed):
    values = {
        "id": 3,
        "name": "Shuffled",
        "state": "running",
        "epochs_total": 6,
        "progress": None,
        "reused_from": None,
    }
    return values | changed


def test_standing_in_words():
    progress = {
        "phase": "training",
        "epoch": 2,
        "step": 5,
        "steps": 10,
        "images_per_second": 41.4,
        "seconds_left": 80,
    }
    assert show.standing(run(progress=progress)) == "epoch 2 of 6, 41 images/s, 1:20 left"
    assert (
        show.standing(run(progress=progress | {"images_per_second": 0.72})) == "epoch 2 of 6, 0.7 images/s, 1:20 left"
    )
    assert show.standing(run(progress={"phase": "training", "epoch": 1, "step": 1, "steps": 9})) == "epoch 1 of 6"
    assert show.standing(run(progress={"phase": "loading"})) == "running: loading"
    assert show.standing(run(state="stopping", progress=progress)) == "stopping: training"
    assert show.standing(run(state="queued", waits="2 runs ahead in pool default")) == "2 runs ahead in pool default"
    assert show.standing(run(state="succeeded", reused_from=1)) == "succeeded: result of run 1"
    times = {"started_at": "2024-01-01T00:00:00Z", "finished_at": "2024-01-01T01:06:40.4+00:00"}
    assert show.standing(run(state="succeeded", best_epoch=4, **times)) == "succeeded after 1:06:40, best epoch 4"
    assert show.standing(run(state="failed", reason="loss-not-finite")) == "failed: loss-not-finite"


def test_complaint_says_why():
    failed = run(state="failed", reason="loss-not-finite", message="the loss is NaN;\nlower the learning rate")
    assert show.complaint(failed) == (
        "run 3 Shuffled failed: loss-not-finite: the loss is NaN;\nlower the learning rate"
    )


def test_settings_as_people_write_them():
    values = [True, False, None, [], [0, 1], 0.0005, 32, "adam"]
    assert [show.setting(value) for value in values] == ["yes", "no", "none", "none", "0, 1", "0.0005", "32", "adam"]
    paths = ["training.learning_rate", "dataset.exclude.scans", "dataset.split.train", "data.image_size"]
    assert [show.label(path) for path in paths] == ["Learning rate", "Without scans", "Split train", "Image size"]
