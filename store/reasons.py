"""Why a run or an attempt ended, in one word, and what a person can do about it."""

ADVICE = {
    "loss-not-finite": "Lower training.learning_rate, or choose another loss.",
    "device-out-of-memory": "Lower training.batch_size, data.image_size or model.filters; trying again is no use.",
    "bad-input": "Mend the data or the weights that the message names, and submit again.",
    "host-out-of-memory": "The host's memory ran out: lower training.batch_size, data.image_size or model.filters, "
    "or give the worker fewer slots.",
    "killed": "Something outside sent it SIGKILL; where nobody did, look for the kernel's out-of-memory killer.",
    "signal": "Its process crashed inside a library; its log, or its worker's, says where. Another version or "
    "device may help.",
    "exception": "Its process raised an error that it does not know; its log, or its worker's, has the trace.",
    "stalled": "No step for a whole progress deadline though the process lived: a hung device or file system. "
    "LIVERSEG_STALL_S says how long to wait.",
    "worker-error": "The worker itself failed, not the training; its log has the trace.",
    "lost": "No heartbeat for a whole lease: the worker, its host or its network is gone.",
    "disk-full": "Free space where LIVERSEG_HOME lies, then resume the run; its last good checkpoint is kept.",
    "crashed-too-often": "See its attempts. When the cause is mended, requeue it: it goes on from its checkpoint.",
    "crashes-at-the-same-step": "Two attempts died at the same step, so a third would too. When the cause is mended, "
    "requeue it.",
}
"""Reason -> advice."""
