"""Training for so many seconds: the rate rises, falls to zero, and both end when time is up."""

import time

WARM_UP = 0.1  # of the time; ours


def share_of_rate(done, least=min, most=max):
    """The share of the learning rate when a part of the time is over: up to 1, then down to 0.

    Args:
        done: The part, 0 to 1; a tensor with `least` and `most` of Keras's.
    """
    return most(0.0, least(done / WARM_UP, (1 - done) / (1 - WARM_UP)))


class Clock:
    """The time between two moments, by which a training steers.

    Args:
        deadline: When it is to be over, by `time.perf_counter`.
    """

    def __init__(self, deadline):
        self.start, self.deadline = time.perf_counter(), deadline
        self.ends = []  # of the steps

    def share(self):
        """Of the learning rate, now."""
        return share_of_rate((time.perf_counter() - self.start) / (self.deadline - self.start))

    def step_is_over(self):
        """Notes it, and says whether there is no time for another one.

        The first, which compiles, is none to judge by.
        """
        self.ends.append(time.perf_counter())
        usual = (self.ends[-1] - self.ends[0]) / max(1, len(self.ends) - 1)
        return self.ends[-1] + usual > self.deadline

    def figures(self, batch_size):
        """Of the row: `seconds` of training, steps, pairs, and pairs a second."""
        seconds = self.ends[-1] - self.start
        pairs = len(self.ends) * batch_size
        return {
            "training_seconds": round(seconds, 2),
            "steps": len(self.ends),
            "pairs": pairs,
            "pairs_per_second": round(pairs / seconds, 2),
        }


def by_the_step(rate, steps):
    """The learning rate as a schedule of Keras's over so many steps."""
    import keras

    class ByTheStep(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            done = keras.ops.cast(step, "float32") / steps
            return rate * share_of_rate(done, keras.ops.minimum, keras.ops.maximum)

    return ByTheStep()


def fit(trainer, pairs, batch_size, rate, deadline, shuffle=False):
    """`trainer.fit` until the deadline.

    Args:
        rate: The learning rate, which is steered here; None where the optimizer has a schedule, as
            on JAX, where a step has the rate that was set before its epoch.

    Returns:
        The figures of the row.
    """
    import keras

    class ByTheClock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if rate is not None:
                self.model.optimizer.learning_rate = rate * clock.share()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])  # JAX goes on before a step is done
            if clock.step_is_over():
                self.model.stop_training = True

    clock = Clock(deadline)
    trainer.fit(
        pairs,
        batch_size=batch_size,
        epochs=10_000,
        shuffle=shuffle,
        verbose=0,
        callbacks=[ByTheClock()],
    )
    return clock.figures(batch_size)


def rate_of_steps(step, batches):
    """Pairs a second over some batches; the first passes once before, to compile."""
    step(batches[0])
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    return sum(map(len, batches)) / (time.perf_counter() - start)
