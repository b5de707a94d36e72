"""The walker: one call into compiled code that runs the steps of a program, alone or as a team.

What its words are is in kernels/layout.py. Steps up to `first` can be left out: those that give states their start.

Kernels raise nothing. One that finds an input it must refuse, such as an id out of range, sets the program's word REFUSED and goes on
with what is harmless; the step GATE, before which all workers wait, and those after it do not run then. What changes a state comes after it.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic

from fastlstm.kernels.floating_point_mode import flush_denormals, restore_mode
from fastlstm.kernels.jit import entry, inline
from fastlstm.kernels.layout import (
    ALONE,
    ARGS,
    DONE,
    FIRST,
    GATE,
    JOB,
    KERNEL,
    OWNER,
    PROGRAM,
    REFUSED,
    SHARED,
    SLEEPING,
    STEP,
    WAITS,
    WORKER,
    WORKERS,
)
from fastlstm.kernels.simd import words
from fastlstm.kernels.team import (
    atomic_add,
    atomic_load,
    atomic_store,
    give_way,
    pause,
    sleep_while,
    wait_for_all,
    wake,
)

NO_JOB = 0  # a program that ends `serve`
SPINS = 10_000  # pauses before a worker without a job sleeps: some 0.1 ms


@intrinsic
def call_kernel(typingctx, kernel, team, args):
    """Call the kernel at this address."""
    nothing = types.NumberClass(types.float32)  # what kernels are compiled for is no run-time argument
    kinds = (nothing, nothing, types.intp, types.intp)

    def codegen(context, builder, sig, args):
        function = context.call_conv.get_function_type(types.none, kinds)
        absent = context.get_constant_null(nothing)
        address = builder.inttoptr(args[0], function.as_pointer())
        context.call_conv.call_function(builder, address, types.none, kinds, [absent, absent, *args[1:]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@inline
def run_steps(program, first, team):
    """Return whether an input was refused."""
    mode = flush_denormals()
    table = words(program)
    worker, workers = words(team)[WORKER], words(team)[WORKERS]
    gate = table[GATE]
    for step in range(first + 1, table[0] + 1):
        at = step * STEP
        if table[at + WAITS] != 0:
            wait_for_all(team)
        if step == gate and table[REFUSED] != 0:
            break
        owner = table[at + OWNER]
        if owner == SHARED:
            call_kernel(table[at + KERNEL], team, table[at + ARGS])
        elif owner % workers == worker:
            call_kernel(table[at + KERNEL], words(team)[ALONE], table[at + ARGS])
    restore_mode(mode)
    return table[REFUSED]


@entry
def walk(program, first, team):
    """Run the program at this address but for its first steps, as the worker whose words are at `team`.

    Return whether it refused an input.
    """
    return run_steps(program, first, team)


@entry
def lead(program, first, control, team):
    """Run a program as worker 0 of a team whose other workers are in `serve`; return when all are done,
    and whether they refused an input."""
    control = words(control)
    others = words(team)[WORKERS] - 1
    control[PROGRAM], control[FIRST] = program, first
    atomic_store(control, DONE, 0)
    atomic_add(control, JOB, 1)
    if atomic_load(control, SLEEPING) > 0:
        wake(control, JOB)
    refused = run_steps(program, first, team)
    spins = 0
    while atomic_load(control, DONE) < others:
        pause()
        spins += 1
        if spins > SPINS:
            give_way()
    return refused


@entry
def dismiss(control):
    """End every `serve` of a team."""
    control = words(control)
    control[PROGRAM] = NO_JOB
    atomic_add(control, JOB, 1)
    wake(control, JOB)


@entry
def serve(control, team):
    """Be a worker of a team: wait for a job, do this worker's part, tell that it is done; NO_JOB ends it."""
    control = words(control)
    done = np.int64(0)
    while True:
        spins = 0
        while atomic_load(control, JOB) == done:
            pause()
            spins += 1
            if spins > SPINS:
                atomic_add(control, SLEEPING, 1)
                sleep_while(control, JOB, done)
                atomic_add(control, SLEEPING, -1)
        done = atomic_load(control, JOB)
        if control[PROGRAM] == NO_JOB:
            return
        run_steps(control[PROGRAM], control[FIRST], team)
        atomic_add(control, DONE, 1)
